package node

import (
	"errors"
	"testing"
	"time"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/projection"
)

// TestLookupDoesNotAllocate holds the core of every verify to nothing: no
// garbage however many are asked.
func TestLookupDoesNotAllocate(t *testing.T) {
	keys, err := events.NewClusterKeys(events.NewClusterKey())
	if err != nil {
		t.Fatal(err)
	}
	home := events.NewMemory("eu", 2, events.MemoryConfig{})
	n, err := New(Config{
		Name: "n1", PublicURL: "https://id.example.com", Keys: keys, Home: home, Archive: home,
		Settings: events.NewMemory(events.ConfigRegion, 1, events.MemoryConfig{}),
	})
	if err != nil {
		t.Fatal(err)
	}
	token := events.NewToken(2)
	sid, _ := token.Key()
	now := n.wall()
	e := &events.State{App: "acme", User: "ada", SID: sid, Reason: events.ReasonCreated, CreatedAt: now, ExpiresAt: now + 3_600_000, AbsoluteAt: now + 3_600_000}
	msg, err := keys.Encode("eu", e, []byte(`{}`), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(n.home.take(events.Entry{Seq: 1, Time: time.Now(), Message: msg}), n.home.flush()); err != nil {
		t.Fatal(err)
	}
	n.home.lease.sending(1, n.conf.Clock.Boot())
	n.home.lease.returned(1, 1)
	unknown, _ := events.NewToken(2).Key()
	ctx := t.Context()
	for name, look := range map[string]func() (answer, error){
		"token": func() (answer, error) { key, _ := token.Key(); return n.byToken(key) },
		"sid":   func() (answer, error) { return n.bySID(sid) },
		// A node that is not alone pays nothing for what it knows.
		"resolve token": func() (answer, error) {
			key, _ := token.Key()
			return n.resolveToken(ctx, key, consistency{})
		},
		"resolve sid": func() (answer, error) { return n.resolveSID(ctx, sid, consistency{}) },
		"unknown":     func() (answer, error) { return n.byToken(unknown) },
	} {
		a, err := look()
		if want := map[bool]projection.Verdict{true: projection.Unknown, false: projection.Active}[name == "unknown"]; err != nil || a.verdict != want {
			t.Fatalf("%s: %v, %v", name, a.verdict, err)
		}
		if allocs := testing.AllocsPerRun(1000, func() { _, _ = look() }); allocs != 0 {
			t.Errorf("%s: %v allocations", name, allocs)
		}
	}
}
