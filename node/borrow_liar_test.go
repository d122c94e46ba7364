package node_test

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/revocast/revocast/events"
)

// liar runs a mesh that holds the keys and answers what is asked about
// snapshots, by what is asked.
func (f *fleet) liar(keys *events.ClusterKeys, answer func(op string) string) {
	f.t.Helper()
	link := f.net.Link(keys)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		_ = link.Run(ctx, events.Answers{
			Me:      events.NewIncarnation(),
			Confirm: func(context.Context, events.Question) (c events.Confirmation, ok bool) { return c, false },
			Queries: map[string]func(context.Context, []byte) ([]byte, bool){"snapshot": func(_ context.Context, body []byte) ([]byte, bool) {
				var q struct{ Op string }
				if err := json.Unmarshal(body, &q); err != nil {
					return nil, false
				}
				out := answer(q.Op)
				return []byte(out), out != ""
			}},
		})
	})
	f.t.Cleanup(func() { cancel(); running.Wait() })
	synctest.Wait()
}

// Whatever a peer hands over that is no snapshot of this cluster is refused,
// within a bound, and the next peer is asked.
func TestJoinRefusesWhatIsMangled(t *testing.T) {
	said := func(what map[string]string) func(string) string {
		return func(op string) string { return what[op] }
	}
	const offers = `{"node":"a-liar","created":9000000000000}`
	tests := map[string]func(op string) string{
		"silent when asked":      said(map[string]string{"offer": offers}),
		"no answer":              said(map[string]string{"offer": offers, "open": "}"}),
		"refuses":                said(map[string]string{"offer": offers, "open": `{"refused":"no"}`}),
		"writes for ever":        said(map[string]string{"offer": offers, "open": `{}`}),
		"pieces too short":       said(map[string]string{"offer": offers, "open": `{"size":1000000}`, "read": "{}\nshort"}),
		"not a snapshot":         said(map[string]string{"offer": offers, "open": `{"size":100}`, "read": "{}\n" + strings.Repeat("x", 100)}),
		"stops in the middle":    said(map[string]string{"offer": offers, "open": `{"size":900000}`, "read": `{"refused":"the loan has ended"}`}),
		"longer than it is said": said(map[string]string{"offer": offers, "open": `{"size":100}`, "read": "{}\n" + strings.Repeat("x", 101)}),
	}
	for name, answer := range tests {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			fleetBubble(t, 1, func(t *testing.T, f *fleet) {
				f.lender("n2", dir)
				l := f.live()
				time.Sleep(lendingAfter)
				f.liar(f.keys, answer)
				n, read := f.heard("n3")
				n.begin()
				time.Sleep(90 * time.Second)
				n.knows(l)
				mustJoin(t, n, read)
				if got := n.transfers("given_up"); got != 1 {
					t.Errorf("%v peers were given up", got)
				}
			})
		})
	}
	t.Run("a stranger", func(t *testing.T) {
		dir := t.TempDir()
		fleetBubble(t, 1, func(t *testing.T, f *fleet) {
			f.lender("n2", dir)
			l := f.live()
			time.Sleep(lendingAfter)
			f.liar(meshStrangerKeys(t), tests["not a snapshot"])
			n, read := f.heard("n3")
			n.start()
			n.knows(l)
			mustJoin(t, n, read)
			if got := n.transfers("given_up"); got != 0 {
				t.Errorf("%v strangers were listened to", got)
			}
		})
	})
}

func meshStrangerKeys(t *testing.T) *events.ClusterKeys {
	t.Helper()
	keys, err := events.NewClusterKeys(events.NewClusterKey())
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

// A file that is damaged on the lender's disk is believed by nobody.
func TestJoinRefusesDamage(t *testing.T) {
	dir := t.TempDir()
	fleetBubble(t, 1, func(t *testing.T, f *fleet) {
		f.lender("n2", dir)
		l := f.live()
		time.Sleep(lendingAfter)
		names := files(t, dir)
		path := filepath.Join(dir, names[len(names)-1])
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		b[len(b)/2] ^= 1
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		n, read := f.heard("n3")
		n.start()
		n.knows(l)
		mustRead(t, n, read)
		if got := n.transfers("given_up"); got != 1 {
			t.Errorf("%v peers were given up", got)
		}
	})
}
