package events_test

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/revocast/revocast/events"
)

// benchMessage is a sealed state of about 300 bytes with a small private part.
func benchMessage(b testing.TB, keys *events.ClusterKeys, n int) events.Message {
	token := events.NewToken(2)
	sid, _ := token.Key()
	m, err := keys.Encode("eu", &events.State{
		App: "demo", User: "user-" + strconv.Itoa(n), SID: sid, Reason: events.ReasonCreated,
		CreatedAt: 1_700_000_000_000, ExpiresAt: 1_700_003_600_000, AbsoluteAt: 1_702_592_000_000, Idle: 1800,
	}, []byte(`{"token":"`+token.Reveal()+`"}`), time.Hour)
	if err != nil {
		b.Fatal(err)
	}
	return m
}

// load has clients call do for as long as d, and returns calls a second and
// the median of how long one took.
func load(b *testing.B, clients int, d time.Duration, msgs <-chan events.Message, do func(events.Message) error) (rate float64, p50 time.Duration) {
	var mu sync.Mutex
	var took []time.Duration
	begin := time.Now()
	var wg sync.WaitGroup
	for range clients {
		wg.Go(func() {
			var own []time.Duration
			for time.Since(begin) < d {
				m := <-msgs
				start := time.Now()
				if err := do(m); err != nil {
					b.Error(err)
					return
				}
				own = append(own, time.Since(start))
			}
			mu.Lock()
			took = append(took, own...)
			mu.Unlock()
		})
	}
	wg.Wait()
	rate = float64(len(took)) / time.Since(begin).Seconds()
	slices.Sort(took)
	return rate, took[len(took)/2]
}

// BenchmarkGroupCommit compares Append with plain concurrent publishes of the
// same messages, with an fsync for every acknowledgement, in alternating
// rounds of one run: the ratio counts, not the disk.
func BenchmarkGroupCommit(b *testing.B) {
	for _, clients := range []int{1, 8, 16, 32, 64, 256} {
		b.Run(fmt.Sprintf("clients=%d", clients), func(b *testing.B) {
			s := newSite(b, false)
			log := s.create(b, s.cluster())
			js, err := jetstream.New(s.nc)
			if err != nil {
				b.Fatal(err)
			}
			msgs := make(chan events.Message, 4096)
			ctx, cancel := context.WithCancel(b.Context())
			var wg sync.WaitGroup
			defer wg.Wait()
			defer cancel()
			wg.Go(func() {
				for n := 0; ctx.Err() == nil; n++ {
					select {
					case msgs <- benchMessage(b, s.keys, n):
					case <-ctx.Done():
					}
				}
			})
			plain := func(m events.Message) error {
				msg := &nats.Msg{Subject: m.Subject, Data: m.Payload, Header: nats.Header{
					"Revocast-Seal": {m.Seal}, "Nats-TTL": {strconv.Itoa(int(m.TTL / time.Second))}, "Nats-Expected-Stream": {"EV_eu"},
				}}
				ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
				defer cancel()
				_, err := js.PublishMsg(ctx, msg)
				return err
			}
			group := func(m events.Message) error {
				_, err := log.Append(context.Background(), m, events.Expectation{})
				return err
			}
			const round = 400 * time.Millisecond
			load(b, clients, round/2, msgs, plain)
			load(b, clients, round/2, msgs, group)
			var ratios, plainRate, groupRate []float64
			var plain50, group50 []time.Duration
			for b.Loop() {
				// Each pair in the other order, so that neither is always first.
				for i := range 2 {
					var pr, gr float64
					var pl, gl time.Duration
					if i == 0 {
						pr, pl = load(b, clients, round, msgs, plain)
						gr, gl = load(b, clients, round, msgs, group)
					} else {
						gr, gl = load(b, clients, round, msgs, group)
						pr, pl = load(b, clients, round, msgs, plain)
					}
					ratios = append(ratios, gr/pr)
					plainRate, groupRate = append(plainRate, pr), append(groupRate, gr)
					plain50, group50 = append(plain50, pl), append(group50, gl)
				}
			}
			b.ReportMetric(median(groupRate), "msgs/s")
			b.ReportMetric(median(plainRate), "plain-msgs/s")
			b.ReportMetric(float64(median(group50).Microseconds()), "p50-us")
			b.ReportMetric(float64(median(plain50).Microseconds()), "plain-p50-us")
			b.ReportMetric(median(ratios), "ratio")
			b.ReportMetric(0, "ns/op")
		})
	}
}

func median[T float64 | time.Duration](v []T) T {
	v = slices.Sorted(slices.Values(v))
	return v[len(v)/2]
}

// BenchmarkFollow reads a stored log from the beginning to a no-op Apply.
func BenchmarkFollow(b *testing.B) {
	const n = 200_000
	s := newSite(b, true)
	log := s.create(b, s.cluster())
	js, err := jetstream.New(s.nc, jetstream.WithPublishAsyncMaxPending(4096))
	if err != nil {
		b.Fatal(err)
	}
	for i := range n {
		m := benchMessage(b, s.keys, i)
		msg := &nats.Msg{Subject: m.Subject, Data: m.Payload, Header: nats.Header{
			"Revocast-Seal": {m.Seal}, "Nats-TTL": {strconv.Itoa(int(m.TTL / time.Second))}, "Nats-Expected-Stream": {"EV_eu"},
		}}
		if _, err := js.PublishMsgAsync(msg, jetstream.WithStallWait(10*time.Second)); err != nil {
			b.Fatal(err)
		}
	}
	<-js.PublishAsyncComplete()
	var took time.Duration
	for b.Loop() {
		ctx, cancel := context.WithCancel(b.Context())
		got := 0
		start := time.Now()
		err := log.Follow(ctx, events.Follow{
			Apply:    func(events.Entry) error { got++; return nil },
			CaughtUp: cancel,
		})
		took += time.Since(start)
		cancel()
		if err != nil || got != n {
			b.Fatalf("%d entries of %d, %v", got, n, err)
		}
	}
	b.ReportMetric(float64(n)*float64(b.N)/took.Seconds(), "events/s")
}
