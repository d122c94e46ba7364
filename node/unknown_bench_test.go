package node_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node"
)

// BenchmarkGarbage verifies a good session 10,000 times a second, in turns
// without and with 50,000 garbage tokens a second beside it, on a node that is
// not alone. The handler is called without a server, which would cost the same
// for both.
//
// x-good is the rate of good verifies beside the flood to that without it,
// log-requests/s what the flood and the node itself ask of all logs together.
// Where garbage/s is below 50,000, the machine was too busy for the measurement.
func BenchmarkGarbage(b *testing.B) {
	const window, rate, flood = 2 * time.Second, 10_000, 50_000
	n, token, seen := countedNode(b)
	h := n.Handler()
	var alone, beside, garbage, requests int64
	for b.Loop() {
		alone += goodFor(b, h, token, rate, window)
		ctx, stop := context.WithCancel(b.Context())
		var spilling sync.WaitGroup
		var sent atomic.Int64
		before := seen.Load()
		spilling.Go(func() { spill(ctx, h, flood, &sent) })
		beside += goodFor(b, h, token, rate, window)
		garbage, requests = garbage+sent.Load(), requests+seen.Load()-before
		stop()
		spilling.Wait()
	}
	seconds := window.Seconds() * float64(b.N)
	b.ReportMetric(float64(alone)/seconds, "good/s")
	b.ReportMetric(float64(beside)/float64(alone), "x-good")
	b.ReportMetric(float64(garbage)/seconds, "garbage/s")
	b.ReportMetric(float64(requests)/seconds, "log-requests/s")
}

// countedNode runs a node that is not alone, over memory, with a good session;
// seen counts its requests to the logs.
func countedNode(b *testing.B) (n *node.Node, token string, seen *atomic.Int64) {
	b.Helper()
	keys, err := events.NewClusterKeys(events.NewClusterKey())
	if err != nil {
		b.Fatal(err)
	}
	home, config := events.NewMemory("eu", 2, events.MemoryConfig{}), events.NewMemory(events.ConfigRegion, 1, events.MemoryConfig{})
	seen = new(atomic.Int64)
	for _, l := range []*events.Memory{home, config} {
		l.SetFaults(events.MemoryFaults{
			Send: func(context.Context, events.Message) error { seen.Add(1); return nil },
			Info: func(i events.Info) events.Info { seen.Add(1); return i },
		})
	}
	n, err = node.New(node.Config{Name: "n1", Version: "bench", PublicURL: publicURL, Settings: config, Home: home, Archive: home, Keys: keys})
	if err != nil {
		b.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := n.Run(ctx); err != nil && !errors.Is(err, context.Canceled) {
			b.Errorf("run: %v", err)
		}
	})
	b.Cleanup(func() { stop(); running.Wait() })
	<-n.Ready()
	boot := node.NewBootstrap("acme")
	if err := n.Bootstrap(ctx, boot); err != nil {
		b.Fatal(err)
	}
	r := httptest.NewRequestWithContext(ctx, http.MethodPost, "/v1/sessions", strings.NewReader(`{"user_id":"ada"}`))
	r.Header.Set("Authorization", "Bearer "+boot.APIKey)
	r.Header.Set("Content-Type", "application/json")
	w := httptest.NewRecorder()
	n.Handler().ServeHTTP(w, r)
	var made struct {
		Token string `json:"session_token"`
	}
	if err := json.Unmarshal(w.Body.Bytes(), &made); err != nil || w.Code != http.StatusCreated {
		b.Fatalf("create: %d %s", w.Code, w.Body)
	}
	return n, made.Token, seen
}

// goodFor verifies the token at the rate a second for so long, one after the
// other, and returns how often: what is late is caught up with while there is
// time.
func goodFor(b *testing.B, h http.Handler, token string, rate float64, d time.Duration) (done int64) {
	start := time.Now()
	for {
		passed := time.Since(start)
		if passed >= d {
			return done
		}
		for ; float64(done) < rate*passed.Seconds(); done++ {
			if status := verifyOnce(h, token); status != http.StatusNoContent {
				b.Fatalf("a good session: %d", status)
			}
			if time.Since(start) >= d {
				return done
			}
		}
		time.Sleep(time.Millisecond) // the rate, not a wait for anything
	}
}

// spill verifies garbage at the rate a second until ctx ends, from as many
// goroutines as a server would have connections.
func spill(ctx context.Context, h http.Handler, rate float64, sent *atomic.Int64) {
	const connections = 12_000
	var all sync.WaitGroup
	defer all.Wait()
	turns := make(chan struct{}, connections)
	defer close(turns)
	for range connections {
		all.Go(func() {
			for range turns {
				if ctx.Err() != nil {
					continue // what is left in the queue is not sent
				}
				verifyOnce(h, garbage())
				sent.Add(1)
			}
		})
	}
	start, given := time.Now(), 0
	for ctx.Err() == nil {
		for due := int(rate * time.Since(start).Seconds()); given < due && len(turns) < cap(turns); given++ {
			turns <- struct{}{}
		}
		time.Sleep(time.Millisecond) // the rate of the flood, not a wait for anything
	}
}

var verifyURL = &url.URL{Path: "/v1/verify"}

// statusOnly is a ResponseWriter that keeps the status only.
type statusOnly struct {
	header http.Header
	status int
}

func (w *statusOnly) Header() http.Header         { return w.header }
func (w *statusOnly) Write(p []byte) (int, error) { return len(p), nil }
func (w *statusOnly) WriteHeader(status int)      { w.status = status }

func verifyOnce(h http.Handler, token string) int {
	w := &statusOnly{header: http.Header{}}
	h.ServeHTTP(w, &http.Request{
		Method: http.MethodGet, URL: verifyURL, RequestURI: "/v1/verify", Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{"Authorization": {"Bearer " + token}}, Body: http.NoBody,
	})
	return w.status
}
