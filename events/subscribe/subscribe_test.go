package subscribe_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/events/subscribe"
)

// many is how many revocations the tests with faults have; a quarter with -short.
var many = 2000

// patient returns a subscriber that a busy machine does not make tell anything late.
func (s *site) patient(t *testing.T) *subscribe.Subscriber {
	sub := s.subscriber(t)
	sub.Patience = 500 * time.Millisecond
	return sub
}

// TestTold has everything told as it happens, in order and once, with the
// permissions of a tenant; some before it began.
func TestTold(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.revoke(t, 0, 100)
	w := newTold()
	run(t, s.patient(t), w.handle)
	w.await(t, 100)
	s.revoke(t, 100, many-100)
	if late := wantOnce(t, w.await(t, many), many); late != 0 {
		t.Errorf("%d were late", late)
	}
}

// TestLatency prints how long it takes from before a revocation is appended, and
// from when the log stored it, until it is told. Nothing is asserted.
func TestLatency(t *testing.T) {
	s := newSite(t)
	w := newTold()
	run(t, s.subscriber(t), w.handle)
	const n = 300
	var asked []time.Time
	for i := range n {
		asked = append(asked, time.Now())
		s.append(t, s.message(t, app, i))
		w.await(t, i+1)
	}
	all := w.copied()
	w.mu.Lock()
	defer w.mu.Unlock()
	var whole, stored []time.Duration
	for i, r := range all {
		whole = append(whole, w.when[i].Sub(asked[i]))
		stored = append(stored, w.when[i].Sub(r.Time))
	}
	for what, d := range map[string][]time.Duration{"from before the append": whole, "from when it was stored": stored} {
		slices.Sort(d)
		t.Logf("told %s: p50 %v, p99 %v", what, d[n/2], d[n*99/100])
	}
}

// TestResumed stops the subscriber again and again while revocations go on. It
// goes on after its cursor, or by what the durable knows. What was told and lies
// above the cursor is told again.
func TestResumed(t *testing.T) {
	for _, tt := range []struct {
		name, file string
		forget     bool
	}{{"cursor", alone, false}, {"durable", alone, true}, {"linked", linked, false}} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := siteOf(t, tt.file)
			var writing sync.WaitGroup
			defer writing.Wait()
			writing.Go(func() { s.revoke(t, 0, many) })
			seen := map[events.SID]bool{}
			var at subscribe.Cursor
			for runs := 0; len(seen) < many; runs++ {
				sub, w := s.patient(t), newTold()
				if sub.From = at; tt.forget {
					sub.From = subscribe.Cursor{}
				}
				sub.Rewound = func(context.Context) error { t.Error("rewound"); return nil }
				stop := run(t, sub, w.handle)
				w.await(t, min(many/4, many-len(seen)))
				if err := stop(); err != nil {
					t.Fatal(err)
				}
				before := at.Seq
				late := wantSound(t, w.copied())
				again := 0
				for _, r := range w.copied() {
					if r.Position.Seq <= before && !tt.forget {
						t.Errorf("%s was told again, after cursor %d", r.Position, before)
					}
					if seen[r.SID] {
						again++
					}
					seen[r.SID] = true
					if r.Cursor.Seq != 0 {
						at = r.Cursor
					}
				}
				// A server that may have leafnodes serves who is gone for a moment,
				// while what happens is heard live.
				if tt.file == alone && (again > 0 && !tt.forget || late > 0) {
					t.Errorf("run %d: %d told, %d of them again, %d late", runs, len(w.copied()), again, late)
				}
				sub.Conn.Close()
			}
		})
	}
}

// TestLiveLost loses every live message, or each second one.
func TestLiveLost(t *testing.T) {
	for name, every := range map[string]uint64{"all": 1, "half": 2} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			w := newTold()
			sub := s.subscriber(t)
			sub.DropLive(func(seq uint64) bool { return seq%every == 0 })
			run(t, sub, w.handle)
			s.revoke(t, 0, many)
			wantOnce(t, w.await(t, many), many)
		})
	}
}

// TestConsumerStalls has somebody else take what the consumer delivers: what is
// heard live is told all the same, in milliseconds, and what is lost of that as
// well, as soon as the consumer is read again.
func TestConsumerStalls(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	w := newTold()
	sub := s.subscriber(t)
	var mu sync.Mutex
	lost := map[uint64]bool{}
	sub.DropLive(func(seq uint64) bool { mu.Lock(); defer mu.Unlock(); return lost[seq] })
	run(t, sub, w.handle)
	s.revoke(t, 0, 1)
	w.await(t, 1)

	// A pull that waits is served in turn with those of others.
	thief := s.connect(t, "operator", nil)
	in, err := thief.SubscribeSync(thief.NewInbox())
	if err != nil {
		t.Fatal(err)
	}
	next := events.SubscriberConfig{Region: region, App: app}.API("MSG.NEXT")
	for range 64 {
		if err := thief.PublishRequest(next, in.Subject, []byte(`{"batch":1,"expires":60000000000}`)); err != nil {
			t.Fatal(err)
		}
	}
	if err := thief.FlushTimeout(time.Second); err != nil {
		t.Fatal(err)
	}
	for i := 1; i < 100; i++ {
		m := s.message(t, app, i)
		if i%10 == 5 {
			last, err := s.log.Info(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			mu.Lock()
			lost[last.LastSeq+1] = true
			mu.Unlock()
		}
		s.append(t, m)
	}
	late := wantOnce(t, w.await(t, 100), 100)
	stolen, _, err := in.Pending()
	if err != nil || stolen == 0 {
		t.Errorf("the consumer did not stall: %d were taken, %v", stolen, err)
	}
	t.Logf("%d deliveries were taken, %d were told late", stolen, late)
}

// TestAtOnce has nothing wait for the order.
func TestAtOnce(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	w := newTold()
	sub := s.subscriber(t)
	sub.Patience = -1
	run(t, sub, w.handle)
	s.revoke(t, 0, 300)
	wantOnce(t, w.await(t, 300), 300)
}

// TestSlow blocks handle until more was published live than waits for it.
func TestSlow(t *testing.T) {
	n := many
	t.Parallel()
	s := newSite(t)
	w := newTold()
	free := make(chan struct{})
	sub := s.patient(t)
	run(t, sub, func(ctx context.Context, r subscribe.Revocation) error { <-free; return w.handle(ctx, r) })
	s.revoke(t, 0, n)
	close(free)
	if late := wantOnce(t, w.await(t, n), n); late != 0 {
		t.Errorf("%d were late", late)
	}
}

// TestShared has two read one durable.
func TestShared(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	ended := make(chan error, 2)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for range 2 {
		sub := s.subscriber(t)
		sub.OnError = nil
		sub.Hasten(0, time.Second)
		go func() { ended <- sub.Run(ctx, newTold().handle) }()
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for i := 0; ; i++ {
		select {
		case err := <-ended:
			if !errors.Is(err, subscribe.ErrShared) {
				t.Errorf("run: %v", err)
			}
			cancel()
			<-ended
			return
		case <-tick.C:
			s.append(t, s.message(t, app, i))
		}
		if i > 3000 {
			t.Fatal("nobody noticed")
		}
	}
}

// TestHandleFails ends Run, and has the same told again.
func TestHandleFails(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.revoke(t, 0, 10)
	full := errors.New("disk full")
	w := newTold()
	err := s.subscriber(t).Run(t.Context(), func(ctx context.Context, r subscribe.Revocation) error {
		if len(w.copied()) == 4 {
			return full
		}
		return w.handle(ctx, r)
	})
	if !errors.Is(err, full) {
		t.Fatalf("run: %v", err)
	}
	run(t, s.subscriber(t), w.handle)
	wantOnce(t, w.await(t, 10), 10)
}

// TestKilled kills the server with -9 while revocations go on.
func TestKilled(t *testing.T) {
	t.Parallel()
	s := &site{file: alone}
	s.setUp(t, "always")
	kill := s.start(t)
	s.begin(t)
	w := newTold()
	run(t, s.subscriber(t), w.handle)
	var seqs []uint64
	for round := range 2 {
		var writing sync.WaitGroup
		writing.Go(func() { seqs = append(seqs, s.revoke(t, round*many/2, many/2)...) })
		if round == 0 {
			w.await(t, many/4)
			kill()
			kill = s.start(t)
		}
		writing.Wait()
	}
	// A retry whose first attempt was stored has its session revoked twice.
	last := slices.Max(seqs)
	var all []subscribe.Revocation
	for n := len(seqs); !slices.ContainsFunc(all, func(r subscribe.Revocation) bool { return r.Position.Seq >= last && r.Cursor.Seq >= last }); n++ {
		all = w.await(t, n)
	}
	times := map[uint64]int{}
	for _, r := range all {
		times[r.Position.Seq]++
	}
	for _, seq := range seqs {
		if times[seq] != 1 {
			t.Errorf("%d was acknowledged, and told %d times", seq, times[seq])
		}
	}
	for seq, n := range times {
		if n != 1 {
			t.Errorf("%d was told %d times", seq, n)
		}
	}
}

// TestRewound puts the server back to an older copy of its disk while the
// subscriber runs, or while it does not.
func TestRewound(t *testing.T) {
	for name, running := range map[string]bool{"running": true, "stopped": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			w := newTold()
			var rewound int
			sub := s.subscriber(t)
			sub.DropLive(func(uint64) bool { return true }) // it must not depend on them
			sub.Rewound = func(context.Context) error { rewound++; return nil }
			stop := run(t, sub, w.handle)
			s.revoke(t, 0, 20)
			w.await(t, 20)
			s.srv.Close()
			old := t.TempDir()
			if err := os.CopyFS(old, os.DirFS(s.dir)); err != nil {
				t.Fatal(err)
			}
			s.serve(t)
			s.revoke(t, 20, 40)
			all := w.await(t, 60)
			if !running {
				if err := stop(); err != nil {
					t.Fatal(err)
				}
				sub = s.subscriber(t)
				sub.Rewound, sub.From = func(context.Context) error { rewound++; return nil }, all[59].Cursor
			}
			s.srv.Close()
			if err := os.RemoveAll(filepath.Join(s.dir, "jetstream")); err != nil {
				t.Fatal(err)
			}
			if err := os.CopyFS(filepath.Join(s.dir, "jetstream"), os.DirFS(filepath.Join(old, "jetstream"))); err != nil {
				t.Fatal(err)
			}
			s.serve(t)
			// As many as were lost, in the same places.
			s.revoke(t, 60, 40)
			if !running {
				run(t, sub, w.handle)
			}
			all = w.await(t, 120)
			if rewound != 1 {
				t.Errorf("it was told %d times that the log went backwards", rewound)
			}
			again := map[events.SID]bool{}
			for _, r := range all[60:] {
				if r.Position.Gen != 1 || r.Cursor.Gen != 1 {
					t.Fatalf("%s, cursor %s: want generation 1", r.Position, r.Cursor)
				}
				again[r.SID] = true
			}
			for i := range 100 {
				if want := i < 20 || i >= 60; again[sid(i)] != want {
					t.Errorf("session %d was told again: %v", i, again[sid(i)])
				}
			}
		})
	}
}
