package node

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/projection"
)

// slowFold holds up the records of one kind, with readers seeing nothing of
// them, until open is called.
type slowFold struct {
	fold
	kind events.Kind
	gate chan struct{}
	open func() // closes gate
}

func (f *slowFold) ApplyAll(rs []events.Record, effects []projection.Effect) {
	for i := range rs {
		if rs[i].Subject.Kind == f.kind {
			<-f.gate
		}
		f.fold.ApplyAll(rs[i:i+1], effects[i:i+1])
	}
}

// slowNode runs a node whose home stream is slow.
func slowNode(t *testing.T, kind events.Kind) (n *Node, slow *slowFold) {
	t.Helper()
	keys, err := events.NewClusterKeys(events.NewClusterKey())
	if err != nil {
		t.Fatal(err)
	}
	n = memoryNode(t, keys)
	slow = &slowFold{fold: n.home.fold, kind: kind, gate: make(chan struct{})}
	slow.open = sync.OnceFunc(func() { close(slow.gate) })
	n.home.fold = slow
	live(t, n, slow.open)
	return n, slow
}

// runNode runs a node on streams of its own until it is ready.
func runNode(t *testing.T, keys *events.ClusterKeys, changes ...func(*Node)) *Node {
	t.Helper()
	n := memoryNode(t, keys)
	for _, change := range changes {
		change(n)
	}
	live(t, n, func() {})
	<-n.Ready()
	return n
}

// memoryNode returns a node that does not run yet.
func memoryNode(t *testing.T, keys *events.ClusterKeys) *Node {
	t.Helper()
	clock := bubbleClock(time.Now())
	home := events.NewMemory("eu", 2, events.MemoryConfig{Clock: clock})
	n, err := New(Config{
		Name: "n1", PublicURL: "http://localhost", Clock: clock, Keys: keys, Home: home, Archive: home,
		Settings: events.NewMemory(events.ConfigRegion, 1, events.MemoryConfig{Clock: clock}),
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// live runs the node until the test ends; unblock is called before Run is
// waited for.
func live(t *testing.T, n *Node, unblock func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		if err := n.Run(ctx); err != nil {
			t.Errorf("run: %v", err)
		}
	})
	t.Cleanup(func() { cancel(); unblock(); running.Wait() })
}

// bubbleClock counts from a moment on.
type bubbleClock time.Time

func (c bubbleClock) Boot() time.Duration { return time.Since(time.Time(c)) + time.Hour }
func (c bubbleClock) Wall() time.Time     { return time.Now() }

// R12: who waits for an event is woken, and a heartbeat behind it renews the
// lease, only once readers see the event.
func TestNothingBeforeReadersSee(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, slow := slowNode(t, events.KindRevoke)
		<-n.Ready()
		token := events.NewToken(2)
		sid, _ := token.Key()
		now := n.wall()
		state := &events.State{App: "a", User: "u", SID: sid, Reason: events.ReasonCreated, CreatedAt: now, ExpiresAt: now + 1e9, AbsoluteAt: now + 1e9}
		if _, err := n.home.write(t.Context(), state, nil, time.Hour, events.Expectation{}); err != nil {
			t.Fatal(err)
		}
		if a, err := n.bySID(sid); err != nil || a.verdict != projection.Active {
			t.Fatalf("after the create was answered: %v, %v", a.verdict, err)
		}
		m, err := n.conf.Keys.Encode("eu", &events.Revoke{App: "a", User: "u", SID: sid, At: now}, nil, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		seq, err := n.home.log.Append(t.Context(), m, events.Expectation{})
		if err != nil {
			t.Fatal(err)
		}
		woken := make(chan error, 1)
		var waiter sync.WaitGroup
		defer waiter.Wait()
		defer slow.open()
		waiter.Go(func() { woken <- n.home.wait(t.Context(), seq) })
		synctest.Wait()
		end := n.home.lease.deadline.Load()
		time.Sleep(10 * time.Second)
		select {
		case err := <-woken:
			t.Fatalf("a waiter was woken before readers see the event: %v", err)
		default:
		}
		if got := n.home.lease.deadline.Load(); got != end {
			t.Errorf("the lease was renewed by %v from behind an event that readers do not see", time.Duration(got-end))
		}
		slow.open()
		if err := <-woken; err != nil {
			t.Fatal(err)
		}
		if a, err := n.bySID(sid); err != nil || a.verdict != projection.Revoked {
			t.Errorf("after the waiter was woken: %v, %v", a.verdict, err)
		}
	})
}

// A heartbeat renews the lease only after it is applied itself: it is the last
// of what the lease stands for.
func TestBeatIsAppliedBeforeItRenews(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, slow := slowNode(t, events.KindBeat)
		time.Sleep(DefaultLease / 2)
		if n.home.lease.deadline.Load() != 0 {
			t.Error("a heartbeat that is not applied renewed the lease")
		}
		slow.open()
		<-n.Ready()
		if n.home.lease.deadline.Load() == 0 {
			t.Error("no lease although the node is ready")
		}
	})
}
