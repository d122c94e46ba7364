package node_test

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/events/broker"
	"github.com/revocast/revocast/projection"
)

// stored is how many events BenchmarkReplay reads.
const stored = 200_000

// BenchmarkReplay reads a log from its beginning as a node does that starts:
// follow, decode, apply. Of 100 events 85 are states with a private part of 225
// bytes, 10 touches and 5 revocations.
func BenchmarkReplay(b *testing.B) {
	l := newRealLog(b, broker.Config{Lazy: true}, events.ClusterConfig{})
	l.storeSessions(b, stored)
	var read, decode time.Duration
	for b.Loop() {
		// First without the fold, then without both, for where the time goes.
		read += l.replayed(b, func(events.Entry) {})
		decode += l.replayed(b, func(e events.Entry) {
			if r := l.keys.Decode(2, e); r.Trust != events.Authentic {
				b.Fatalf("%s is %v", e.Subject, r.Trust)
			}
		})
	}
	b.StopTimer()
	var single, whole time.Duration
	for range b.N {
		m := new(projection.Map)
		single += l.replayed(b, func(e events.Entry) { m.Apply(l.keys.Decode(2, e)) })
		if sessions, tombstones := m.Len(); sessions != stored*85/100 || tombstones != 0 {
			b.Fatalf("%d sessions and %d tombstones", sessions, tombstones)
		}
		n, _ := l.newNode()
		start := time.Now()
		if err := n.FollowHome(b.Context()); err != nil {
			b.Fatal(err)
		}
		whole += time.Since(start)
		if sessions, _ := n.HomeSessions(); sessions != stored*85/100 {
			b.Fatalf("%d sessions", sessions)
		}
	}
	rate := func(d time.Duration) float64 { return stored * float64(b.N) / d.Seconds() }
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(rate(whole), "events/s")
	b.ReportMetric(rate(single), "one-applier-events/s")
	b.ReportMetric(rate(read), "read-events/s")
	b.ReportMetric(rate(decode), "decoded-events/s")
}

// replayed reads the stream from its beginning and returns how long it took.
func (l *realLog) replayed(b *testing.B, apply func(events.Entry)) time.Duration {
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	n, start := 0, time.Now()
	err := l.home.Follow(ctx, events.Follow{
		Apply:    func(e events.Entry) error { n++; apply(e); return nil },
		CaughtUp: cancel,
	})
	took := time.Since(start)
	if err != nil || n < stored {
		b.Fatalf("%d of %d events, %v", n, stored, err)
	}
	return took
}

// storeSessions stores n events of sessions.
func (l *realLog) storeSessions(b *testing.B, n int) {
	b.Helper()
	js, err := jetstream.New(l.nc, jetstream.WithPublishAsyncMaxPending(8192))
	if err != nil {
		b.Fatal(err)
	}
	put := func(e events.Event, private []byte) {
		m, err := l.keys.Encode("eu", e, private, time.Hour)
		if err != nil {
			b.Fatal(err)
		}
		msg := &nats.Msg{Subject: m.Subject, Data: m.Payload, Header: headerOf(m)}
		msg.Header["Nats-Expected-Stream"] = []string{"EV_eu"}
		if _, err := js.PublishMsgAsync(msg, jetstream.WithStallWait(time.Minute)); err != nil {
			b.Fatal(err)
		}
	}
	now := time.Now().UnixMilli()
	private := bytes.Repeat([]byte("p"), 225)
	for i := range n * 85 / 100 {
		token := events.NewToken(2)
		sid, _ := token.Key()
		user := "user-" + strconv.Itoa(i/2)
		put(&events.State{
			App: "acme", User: user, SID: sid, Reason: events.ReasonCreated, CreatedAt: now, ExpiresAt: now + 3600_000,
			AbsoluteAt: now + 86400_000, Idle: 1800, SeenAt: now, By: "key_AAAAAAAAAAAAAAAA",
		}, private)
		if i%17 < 2 {
			put(&events.Touch{App: "acme", User: user, SID: sid, At: now}, nil)
		}
		if i%17 == 2 {
			put(&events.Revoke{App: "acme", User: user, SID: sid, Reason: "logout", By: "user", At: now, AbsoluteAt: now + 86400_000}, nil)
		}
	}
	<-js.PublishAsyncComplete()
	if info, err := l.home.Info(b.Context()); err != nil || info.LastSeq < uint64(n) {
		b.Fatalf("the stream ends at %d of %d, %v", info.LastSeq, n, err)
	}
	// The archive takes its copies beside; it must not take its part of the measurement.
	archive, err := js.Stream(b.Context(), "AUDIT_eu")
	if err != nil {
		b.Fatal(err)
	}
	for tick := time.NewTicker(100 * time.Millisecond); ; <-tick.C {
		info, err := archive.Info(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		if info.State.LastSeq >= uint64(n)*85/100 { // touches are not archived
			return
		}
	}
}

// BenchmarkWrites creates sessions through the API of a node whose log syncs
// before each acknowledgement.
func BenchmarkWrites(b *testing.B) {
	for _, clients := range []int{1, 64} {
		b.Run("clients="+strconv.Itoa(clients), func(b *testing.B) {
			l := newRealLog(b, broker.Config{}, events.ClusterConfig{})
			n, _ := l.newNode()
			l.run(b, n)
			h := n.Handler()
			var mu sync.Mutex
			var took []time.Duration
			next := make(chan int)
			var work sync.WaitGroup
			for range clients {
				work.Go(func() {
					var mine []time.Duration
					for i := range next {
						start := time.Now()
						if w := l.create(h, "user-"+strconv.Itoa(i)); w.Code != http.StatusCreated {
							b.Errorf("create: %d %s", w.Code, w.Body)
						}
						mine = append(mine, time.Since(start))
					}
					mu.Lock()
					defer mu.Unlock()
					took = append(took, mine...)
				})
			}
			i, start := 0, time.Now()
			for b.Loop() {
				next <- i
				i++
			}
			close(next)
			work.Wait()
			elapsed := time.Since(start)
			slices.Sort(took)
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(float64(len(took))/elapsed.Seconds(), "creates/s")
			b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-us")
			b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-us")
		})
	}
}

func (l *realLog) create(h http.Handler, user string) *httptest.ResponseRecorder {
	body, err := json.Marshal(map[string]any{"user_id": user, "session_duration_minutes": 60})
	if err != nil {
		l.t.Error(err)
	}
	r := httptest.NewRequest("POST", "/v1/sessions", bytes.NewReader(body))
	r.Header.Set("Authorization", "Bearer "+l.boot.APIKey)
	r.Header.Set("Content-Type", "application/json")
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}
