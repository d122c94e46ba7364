package events_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/events/eventstest"
)

func TestMemory(t *testing.T) {
	eventstest.Test(t, func(t *testing.T, o eventstest.Options) eventstest.Env {
		m := events.NewMemory("eu", 2, events.MemoryConfig{MaxBytes: o.MaxBytes})
		return eventstest.Env{Log: m, Archive: m, Break: m.BreakAll, Inject: func(msg events.Message) error {
			_, err := m.Inject(msg)
			return err
		}}
	})
}

// plainMessage is a message without seal: Memory looks at none.
func plainMessage(id string) events.Message {
	return events.Message{Subject: "ev.eu.demo.u." + id + ".st", Payload: []byte(id), Seal: "seal of " + id}
}

func anchorMessage(n int) events.Message {
	return events.Message{Subject: fmt.Sprintf("ev.eu.-.n1.i-%d.snap", n), Payload: []byte("{}")}
}

func isAnchor(e events.Entry) bool { return strings.HasSuffix(e.Subject, ".snap") }

func mustAppend(t *testing.T, l events.Log, ms ...events.Message) (seq uint64) {
	t.Helper()
	for _, m := range ms {
		var err error
		if seq, err = l.Append(t.Context(), m, events.Expectation{}); err != nil {
			t.Fatal(err)
		}
	}
	return seq
}

// follower is a Follow inside a synctest bubble, where synctest.Wait makes its
// fields safe to read.
type follower struct {
	cancel context.CancelFunc
	mu     sync.Mutex // guards got, which is read before more is written
	got    []uint64
	caught int
	ended  bool
	err    error
}

func startFollower(t *testing.T, l events.Log, from uint64) *follower {
	ctx, cancel := context.WithCancel(t.Context())
	f := &follower{cancel: cancel}
	var wg sync.WaitGroup
	wg.Go(func() {
		f.err = l.Follow(ctx, events.Follow{
			From:     from,
			Anchor:   isAnchor,
			CaughtUp: func() { f.caught++ },
			Apply: func(e events.Entry) error {
				f.mu.Lock()
				defer f.mu.Unlock()
				f.got = append(f.got, e.Seq)
				return nil
			},
		})
		f.ended = true
	})
	t.Cleanup(func() {
		cancel()
		wg.Wait()
	})
	return f
}

func (f *follower) wants(t *testing.T, seqs string) {
	t.Helper()
	synctest.Wait()
	f.mu.Lock()
	defer f.mu.Unlock()
	if got := strings.Trim(fmt.Sprint(f.got), "[]"); got != seqs {
		t.Errorf("applied %s, want %s", got, seqs)
	}
}

func TestMemoryAppendFaults(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := events.NewMemory("eu", 2, events.MemoryConfig{})
		f := startFollower(t, m, 0)
		refused := errors.New("refused")

		m.SetFaults(events.MemoryFaults{Send: func(context.Context, events.Message) error { return refused }})
		if _, err := m.Append(t.Context(), plainMessage("a"), events.Expectation{}); err != refused {
			t.Errorf("append: %v, want the fault", err)
		}
		f.wants(t, "")

		m.SetFaults(events.MemoryFaults{Ack: func(context.Context, events.Message, uint64) error { return events.ErrUnavailable }})
		if _, err := m.Append(t.Context(), plainMessage("b"), events.Expect(0)); !errors.Is(err, events.ErrUnavailable) {
			t.Errorf("append: %v, want ErrUnavailable", err)
		}
		f.wants(t, "1") // failed but stored
		m.SetFaults(events.MemoryFaults{})
		if seq, err := m.Append(t.Context(), plainMessage("b"), events.Expect(0)); seq != 1 || err != nil {
			t.Errorf("the retry: %d, %v; want the first attempt", seq, err)
		}

		release := make(chan struct{})
		m.SetFaults(events.MemoryFaults{Send: func(ctx context.Context, _ events.Message) error {
			<-release
			return nil
		}})
		var seq uint64
		var wg sync.WaitGroup
		wg.Go(func() { seq, _ = m.Append(t.Context(), plainMessage("c"), events.Expectation{}) })
		f.wants(t, "1") // delayed
		close(release)
		wg.Wait()
		if f.wants(t, "1 2"); seq != 2 {
			t.Errorf("the delayed message was stored as %d", seq)
		}

		m.SetFaults(events.MemoryFaults{Send: func(_ context.Context, msg events.Message) error {
			_, err := m.Inject(msg)
			return err
		}})
		if seq := mustAppend(t, m, plainMessage("d")); seq != 4 {
			t.Errorf("the duplicated message was acknowledged as %d", seq)
		}
		synctest.Wait()
		if last := f.got[len(f.got)-1]; last != 4 {
			t.Errorf("newest applied is %d", last)
		}
	})
}

func TestMemoryDeliverFaults(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := events.NewMemory("eu", 2, events.MemoryConfig{})
		faulty, sound := m.Link(), m.Link()
		f, g := startFollower(t, faulty, 0), startFollower(t, sound, 0)
		faulty.SetFaults(events.MemoryFaults{Deliver: func(ctx context.Context, e events.Entry) int {
			switch e.Seq {
			case 2:
				return 2
			case 3:
				return 0
			case 4:
				select {
				case <-time.After(time.Minute):
				case <-ctx.Done():
				}
			}
			return 1
		}})
		for _, id := range []string{"a", "b", "c", "d", "e"} {
			mustAppend(t, m, plainMessage(id))
		}
		f.wants(t, "1 2 2")
		g.wants(t, "1 2 3 4 5")
		time.Sleep(time.Minute) // of the bubble's clock
		f.wants(t, "1 2 2 4 5")
	})
}

func TestMemoryCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := events.NewMemory("eu", 2, events.MemoryConfig{})
		here, there := m.Link(), m.Link()
		f, g := startFollower(t, here, 0), startFollower(t, there, 0)
		mustAppend(t, here, anchorMessage(1), plainMessage("a"))
		f.wants(t, "1 2")
		here.Cut()
		mustAppend(t, there, plainMessage("b"), plainMessage("c"))
		f.wants(t, "1 2")
		g.wants(t, "1 2 3 4")

		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := here.Append(ctx, plainMessage("x"), events.Expectation{}); !errors.Is(err, events.ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("append over a cut link: %v", err)
		}
		if _, err := here.Last(ctx, "ev.eu.demo.u.a.st"); !errors.Is(err, events.ErrUnavailable) {
			t.Errorf("last over a cut link: %v", err)
		}
		if _, err := here.Info(ctx); !errors.Is(err, events.ErrUnavailable) {
			t.Errorf("info over a cut link: %v", err)
		}

		// What waits while the link is cut passes when it heals.
		var wg sync.WaitGroup
		var seq uint64
		wg.Go(func() { seq, _ = here.Append(t.Context(), plainMessage("d"), events.Expectation{}) })
		synctest.Wait()
		here.Heal()
		wg.Wait()
		if seq != 5 {
			t.Errorf("stored as %d, want 5: the message of the ended context was stored", seq)
		}
		f.wants(t, "1 2 3 4 5")
		g.wants(t, "1 2 3 4 5")
		if f.caught != 1 || g.caught != 1 {
			t.Errorf("CaughtUp was called %d and %d times", f.caught, g.caught)
		}
		here.Cut()
		f.cancel()
		synctest.Wait()
		if !f.ended || f.err != nil {
			t.Errorf("the follower of a cut link: ended %v, %v", f.ended, f.err)
		}
	})
}

func TestMemoryTruncate(t *testing.T) {
	for _, c := range []struct {
		name string
		n    int    // entries that vanish of: snap a b snap c d
		then int    // entries appended afterwards
		seen string // what a sound follower sees then
		rewd bool   // the follower must notice
	}{
		{"nothing", 0, 2, "1 2 3 4 5 6 7 8", false},
		{"applied ones", 2, 1, "1 2 3 4 5 6", true},
		{"and used again", 2, 5, "1 2 3 4 5 6", true},
		{"the anchor too", 4, 2, "1 2 3 4 5 6", true},
		{"everything", 6, 4, "1 2 3 4 5 6", true},
		{"not noticed before the next append", 3, 0, "1 2 3 4 5 6", false},
		{"cut, not noticed below the anchor", 4, 1, "1 2 3 4 5 6", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := events.NewMemory("eu", 2, events.MemoryConfig{})
				near, far := m.Link(), m.Link()
				f, cut := startFollower(t, near, 0), startFollower(t, far, 0)
				mustAppend(t, m, anchorMessage(1), plainMessage("a"), plainMessage("b"), anchorMessage(2), plainMessage("c"), plainMessage("d"))
				f.wants(t, "1 2 3 4 5 6")
				far.Cut()
				if c.n == 4 {
					near.Cut() // at its resume, the log has grown again
				}
				m.Truncate(c.n)
				for i := range c.then {
					want := uint64(6 - c.n + i + 1)
					if seq := mustAppend(t, m, plainMessage(fmt.Sprint("new", i))); seq != want {
						t.Errorf("stored as %d, want %d", seq, want)
					}
				}
				far.Heal()
				near.Heal()
				for _, f := range []*follower{f, cut} {
					f.wants(t, c.seen)
					if got := errors.Is(f.err, events.ErrRewound); got != c.rewd || f.ended != c.rewd {
						t.Errorf("follow: ended %v, %v; want rewound %v", f.ended, f.err, c.rewd)
					}
				}
			})
		})
	}
}

func TestMemoryTruncateRestores(t *testing.T) {
	m := events.NewMemory("eu", 2, events.MemoryConfig{})
	a := plainMessage("a")
	changed := a
	changed.Payload = []byte("changed")
	mustAppend(t, m, a, plainMessage("b"), changed)
	before, err := m.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	m.Truncate(1)
	got, err := m.Last(t.Context(), a.Subject)
	if err != nil || got.Seq != 1 || string(got.Payload) != "a" {
		t.Errorf("the replaced entry is not back: %+v, %v", got, err)
	}
	mustAppend(t, m, changed)
	after, err := m.Info(t.Context())
	if err != nil || after != before {
		t.Errorf("info is %+v, was %+v, %v", after, before, err)
	}
}

func TestMemoryRecreate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := events.NewMemory("eu", 2, events.MemoryConfig{})
		old := m.Link()
		f := startFollower(t, old, 0)
		mustAppend(t, old, plainMessage("a"))
		m.Recreate()
		synctest.Wait()
		if !errors.Is(f.err, events.ErrIdentity) {
			t.Errorf("follow of a stream made anew: %v, want ErrIdentity", f.err)
		}
		if _, err := old.Append(t.Context(), plainMessage("b"), events.Expectation{}); !errors.Is(err, events.ErrIdentity) {
			t.Errorf("append to a stream made anew: %v, want ErrIdentity", err)
		}
		if seq := mustAppend(t, m.Link(), plainMessage("b")); seq != 1 {
			t.Errorf("the first sequence of the new stream is %d", seq)
		}
	})
}

func TestMemoryInfoFault(t *testing.T) {
	m := events.NewMemory("eu", 2, events.MemoryConfig{})
	mustAppend(t, m, plainMessage("a"))
	stale, err := m.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	l := m.Link()
	l.SetFaults(events.MemoryFaults{Info: func(events.Info) events.Info { return stale }})
	mustAppend(t, m, plainMessage("b"))
	if got, err := l.Info(t.Context()); err != nil || got != stale {
		t.Errorf("info is %+v, %v", got, err)
	}
	if got, err := m.Info(t.Context()); err != nil || got.LastSeq != 2 {
		t.Errorf("info of another link is %+v, %v", got, err)
	}
}

func TestMemoryRefuses(t *testing.T) {
	m := events.NewMemory("eu", 2, events.MemoryConfig{})
	elsewhere, fraction := plainMessage("a"), plainMessage("a")
	elsewhere.Subject = strings.Replace(elsewhere.Subject, ".eu.", ".us.", 1)
	fraction.TTL = 1500 * time.Millisecond
	for _, msg := range []events.Message{elsewhere, fraction} {
		if _, err := m.Append(t.Context(), msg, events.Expectation{}); err == nil || errors.Is(err, events.ErrUnavailable) {
			t.Errorf("append of %+v: %v", msg, err)
		}
	}
}

// TestMemoryUnsealedRetry: without a seal nothing tells an own earlier attempt
// from another's equal message.
func TestMemoryUnsealedRetry(t *testing.T) {
	m := events.NewMemory("eu", 2, events.MemoryConfig{})
	msg := plainMessage("a")
	msg.Seal = ""
	mustAppend(t, m, msg)
	if _, err := m.Append(t.Context(), msg, events.Expect(0)); err != events.ErrConflict {
		t.Errorf("append: %v, want ErrConflict", err)
	}
}

func TestMemoryBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := events.NewMemory("eu", 2, events.MemoryConfig{MaxBytes: 400})
		a := plainMessage("a")
		a.TTL = time.Minute
		mustAppend(t, m, a, plainMessage("b"), plainMessage("c"))
		full := func(msg events.Message) bool {
			_, err := m.Append(t.Context(), msg, events.Expectation{})
			if err != nil && !errors.Is(err, events.ErrFull) {
				t.Fatal(err)
			}
			return err != nil
		}
		if !full(plainMessage("d")) {
			t.Error("a fourth message fits")
		}
		smaller := plainMessage("b")
		smaller.Payload = nil
		if full(smaller) {
			t.Error("a smaller replacement was refused")
		}
		time.Sleep(time.Minute) // of the bubble's clock
		if full(plainMessage("d")) {
			t.Error("an expired message still takes its space")
		}
		if !full(plainMessage("e")) {
			t.Error("a fifth message fits")
		}
		m.SetMaxBytes(0)
		if full(plainMessage("e")) {
			t.Error("no budget, and full")
		}
	})
}

// TestMemoryNemesis follows by several links while all of them are cut, healed
// and broken at random: each must have applied the same, in order.
func TestMemoryNemesis(t *testing.T) {
	for seed := range uint64(200) {
		synctest.Test(t, func(t *testing.T) {
			defer func() {
				if t.Failed() {
					t.Logf("seed %d", seed)
				}
			}()
			rng := rand.New(rand.NewPCG(seed, 1))
			m := events.NewMemory("eu", 2, events.MemoryConfig{})
			var links []*events.MemoryLink
			var all []*follower
			for range 3 {
				l := m.Link()
				links = append(links, l)
				all = append(all, startFollower(t, l, 0))
			}
			var want []uint64
			for i := range 100 {
				l := links[rng.IntN(len(links))]
				switch rng.IntN(8) {
				case 0:
					l.Cut()
				case 1, 2:
					l.Heal()
				case 3:
					l.Break()
				case 4:
					m.BreakAll()
				case 5:
					want = append(want, mustAppend(t, m, anchorMessage(i)))
				case 6:
					synctest.Wait()
				default:
					want = append(want, mustAppend(t, m, plainMessage(fmt.Sprint(i))))
				}
			}
			for i, f := range all {
				links[i].Heal()
				f.wants(t, strings.Trim(fmt.Sprint(want), "[]"))
				if f.ended || f.caught != 1 {
					t.Errorf("follower %d: ended %v with %v, CaughtUp %d times", i, f.ended, f.err, f.caught)
				}
			}
		})
	}
}
