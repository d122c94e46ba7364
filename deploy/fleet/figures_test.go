package fleet_test

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/revocast/revocast/deploy/fleet"
	"github.com/revocast/revocast/events"
)

// verifies verifies the token on the nodes for a while, from so many connections,
// at the rate per second in all, 0 for as fast as it goes, and returns how many
// were answered good. Late ones are caught up with.
func verifies(b *testing.B, ctx context.Context, nodes []*fleet.Node, tokens []string, conns int, rate float64, d time.Duration) (good int64) {
	b.Helper()
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	var all sync.WaitGroup
	var done, given atomic.Int64
	begun := time.Now()
	for i := range conns {
		w, err := nodes[i%len(nodes)].Dial()
		must(b, err)
		all.Go(func() {
			defer w.Close()
			for ctx.Err() == nil {
				if rate > 0 && float64(given.Add(1)) > rate*time.Since(begun).Seconds() {
					given.Add(-1)
					select {
					case <-time.After(time.Millisecond):
					case <-ctx.Done():
					}
					continue
				}
				status, err := w.Verify(tokens[i%len(tokens)])
				if err != nil || status != http.StatusNoContent {
					b.Errorf("a good session: %d, %v", status, err)
					return
				}
				done.Add(1)
			}
		})
	}
	all.Wait()
	return done.Load()
}

func tokens(b *testing.B, ctx context.Context, l *fleet.Load, n int) (all []string) {
	for i := range n {
		all = append(all, session(b, ctx, l, l.Fleet.Nodes[i%len(l.Fleet.Nodes)]).Token())
	}
	return all
}

// BenchmarkRevoke measures, on three nodes of one region with three copies of
// the log, while they verify at half of what the machine can, clients included:
// from the moment a revoke is accepted (and from when it is called) until every
// node denies the session, and how long a receipt takes.
func BenchmarkRevoke(b *testing.B) {
	const samples, conns = 300, 12
	f := region(b, 3)
	l := newLoad(b, f)
	ctx := b.Context()
	good := tokens(b, ctx, l, conns)
	wait(b, ctx, slowest) // until receipts may be quick (R13)
	most := float64(verifies(b, ctx, f.Nodes, good, conns, 0, 3*time.Second)) / 3
	var accepted, called, receipts []time.Duration
	for b.Loop() {
		loaded, stop := context.WithCancel(ctx)
		var load sync.WaitGroup
		var under int64
		begun := time.Now()
		load.Go(func() { under = verifies(b, loaded, f.Nodes, good, conns, most/2, time.Hour) })
		for i := range samples {
			a, c := denied(b, ctx, l, f.Nodes[i%3])
			accepted, called = append(accepted, a), append(called, c)
		}
		for i := range samples {
			o := l.Revoke(ctx, f.Nodes[i%3], session(b, ctx, l, f.Nodes[i%3]), "all")
			if o.Receipt != "complete" {
				b.Fatalf("no receipt: %v", o)
			}
			receipts = append(receipts, took(o))
		}
		seconds := time.Since(begun).Seconds()
		stop()
		load.Wait()
		b.ReportMetric(float64(under)/seconds, "verifies/s")
	}
	b.ReportMetric(most, "verifies/s-most")
	report(b, accepted, "accepted-to-denied")
	report(b, called, "called-to-denied")
	report(b, receipts, "receipt")
}

// report reports the p50 and the p99 in milliseconds.
func report(b *testing.B, times []time.Duration, what string) {
	p50, p99, longest := fleet.Percentiles(times)
	b.ReportMetric(float64(p50.Microseconds())/1000, "ms-"+what+"-p50")
	b.ReportMetric(float64(p99.Microseconds())/1000, "ms-"+what+"-p99")
	b.Logf("%s: p50 %v, p99 %v, longest %v of %d", what, p50, p99, longest, len(times))
}

// denied revokes a session while each node is asked about it without a pause,
// and returns how long after the revoke was accepted, and after it was called,
// the last node denied it for the first time.
func denied(b *testing.B, ctx context.Context, l *fleet.Load, n *fleet.Node) (accepted, called time.Duration) {
	b.Helper()
	s := session(b, ctx, l, n)
	var asking sync.WaitGroup
	known := make(chan struct{}, len(l.Fleet.Nodes))
	last := make([]time.Time, len(l.Fleet.Nodes))
	for i, m := range l.Fleet.Nodes {
		asking.Go(func() {
			w, err := m.Dial()
			if err != nil {
				b.Error(err)
				known <- struct{}{}
				return
			}
			defer w.Close()
			for first := true; ; {
				status, err := w.Verify(s.Token())
				switch {
				case err != nil || status != http.StatusNoContent && first:
					b.Errorf("%s answers %d, %v", m.Name, status, err)
					known <- struct{}{}
					return
				case status != http.StatusNoContent:
					last[i] = time.Now()
					return
				case first:
					first = false
					known <- struct{}{}
				}
			}
		})
	}
	for range l.Fleet.Nodes {
		<-known
	}
	o := l.Revoke(ctx, n, s, "none")
	end := time.Now()
	asking.Wait()
	all := slices.MaxFunc(last, time.Time.Compare)
	return max(0, all.Sub(end)), all.Sub(end) + took(o)
}

// BenchmarkFanOut measures the time from when the leader of a log with three
// copies stores an event until each of 64 followers, with a connection each, has
// been given it. The leader's clock is this machine's.
func BenchmarkFanOut(b *testing.B) {
	const followers, creates = 64, 1500
	f := region(b, 1)
	l := newLoad(b, f)
	ctx, cancel := context.WithCancel(b.Context())
	var mu sync.Mutex // guards times
	var times []time.Duration
	var live atomic.Bool
	var following sync.WaitGroup
	defer following.Wait()
	defer cancel()
	for i := range followers {
		log, err := f.Follower(ctx, i)
		must(b, err)
		caught := make(chan struct{})
		following.Go(func() {
			err := log.Follow(ctx, events.Follow{CaughtUp: func() { close(caught) }, Apply: func(e events.Entry) error {
				took := time.Since(e.Time)
				if live.Load() {
					mu.Lock()
					defer mu.Unlock()
					times = append(times, took)
				}
				return nil
			}})
			if err != nil && !errors.Is(err, context.Canceled) {
				b.Errorf("follow: %v", err)
			}
		})
		<-caught
	}
	live.Store(true)
	for b.Loop() {
		begun := time.Now()
		for range creates / 3 {
			var three sync.WaitGroup
			for range 3 {
				three.Go(func() { session(b, ctx, l, f.Nodes[0]) })
			}
			three.Wait()
			wait(b, ctx, 5*time.Millisecond)
		}
		b.ReportMetric(creates/time.Since(begun).Seconds(), "events/s")
	}
	live.Store(false)
	mu.Lock()
	defer mu.Unlock()
	report(b, times, "fan-out")
}

// garbage returns a well-formed token of the first region that nobody was given.
func garbage() string {
	raw := make([]byte, 33)
	_, _ = rand.Read(raw) // it never fails
	raw[0] = 2
	return base64.RawURLEncoding.EncodeToString(raw)
}

// BenchmarkGarbage verifies good sessions on a node of three for ten seconds, at
// a rate, without and with as many garbage tokens beside them as the machine can
// send and answer, up to 50,000 a second.
//
// x-good is the rate of good verifies beside the flood to that without it;
// log-requests/s is all that the nodes publish to NATS, heartbeats and questions
// to one another included.
func BenchmarkGarbage(b *testing.B) {
	const window, conns, good, most = 10 * time.Second, 2500, 500, 50_000
	f := region(b, 3)
	l := newLoad(b, f)
	ctx := b.Context()
	held := tokens(b, ctx, l, 4)
	for b.Loop() {
		before := published(b, ctx, f)
		alone := verifies(b, ctx, f.Nodes[:1], held, 4, good, window)
		idle := published(b, ctx, f) - before
		spilling, stop := context.WithCancel(ctx)
		var spill sync.WaitGroup
		var sent, answered, odd atomic.Int64
		begun := time.Now()
		for range conns {
			spill.Go(func() {
				w, err := f.Nodes[0].Dial()
				if err != nil {
					b.Error(err)
					return
				}
				defer w.Close()
				for spilling.Err() == nil {
					if float64(sent.Add(1)) > most*time.Since(begun).Seconds()+1 {
						sent.Add(-1)
						select {
						case <-time.After(time.Millisecond):
						case <-spilling.Done():
						}
						continue
					}
					status, err := w.Verify(garbage())
					if err != nil {
						b.Error(err)
						return
					}
					answered.Add(1)
					if status != http.StatusUnauthorized {
						odd.Add(1)
					}
				}
			})
		}
		before = published(b, ctx, f)
		beside := verifies(b, ctx, f.Nodes[:1], held, 4, good, window)
		busy := published(b, ctx, f) - before
		b.ReportMetric(float64(answered.Load())/time.Since(begun).Seconds(), "garbage/s")
		stop()
		spill.Wait()
		b.ReportMetric(float64(alone)/window.Seconds(), "good/s")
		b.ReportMetric(float64(beside)/float64(alone), "x-good")
		b.ReportMetric(float64(idle)/window.Seconds(), "log-requests/s-idle")
		b.ReportMetric(float64(busy)/window.Seconds(), "log-requests/s")
		b.ReportMetric(float64(odd.Load())/float64(answered.Load()), "x-garbage-503")
	}
}

// published returns how many messages all nodes have sent to their servers.
func published(b *testing.B, ctx context.Context, f *fleet.Fleet) (n int64) {
	b.Helper()
	all, err := f.Connections(ctx)
	must(b, err)
	for _, raw := range all {
		var c struct {
			Data struct {
				Connections []struct {
					Name   string `json:"name"`
					InMsgs int64  `json:"in_msgs"`
				} `json:"connections"`
			} `json:"data"`
		}
		must(b, json.Unmarshal(raw, &c))
		for _, conn := range c.Data.Connections {
			if conn.Name == "revocast" {
				n += conn.InMsgs
			}
		}
	}
	return n
}
