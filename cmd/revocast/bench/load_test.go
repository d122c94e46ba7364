package bench

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func get(path string, want int) Request {
	return Request{[]byte("GET " + path + " HTTP/1.1\r\nHost: x\r\n\r\n"), want}
}

// served is a target that the handler answers.
func served(t *testing.T, h http.HandlerFunc, requests ...Request) *Target {
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return &Target{Name: "served", Network: "tcp", Addr: s.Listener.Addr().String(), Requests: requests}
}

func TestLoadAnswers(t *testing.T) {
	for name, answer := range map[string]http.HandlerFunc{
		"no content": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(204) },
		"length":     func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, strings.Repeat("x", 599)) },
		"long": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100000")
			_, _ = io.WriteString(w, strings.Repeat("x", 100_000))
		},
		"chunks": func(w http.ResponseWriter, _ *http.Request) {
			for range 3 {
				_, _ = io.WriteString(w, strings.Repeat("x", 5000))
				w.(http.Flusher).Flush()
			}
		},
		"empty": func(http.ResponseWriter, *http.Request) {},
		"close": func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Connection", "close") },
	} {
		t.Run(name, func(t *testing.T) {
			want := 200
			if name == "no content" {
				want = 204
			}
			var asked atomic.Int64
			target := served(t, func(w http.ResponseWriter, r *http.Request) { asked.Add(1); answer(w, r) }, get("/", want))
			r := Load{Conns: 3, Duration: 50 * time.Millisecond}.Run(t.Context(), target)
			if !r.OK() || r.Done != asked.Load() || r.Latency.Count() != uint64(r.Done) {
				t.Errorf("%d of %d answered: %s", r.Done, asked.Load(), r.trouble())
			}
		})
	}
}

// TestLoadTakesTurns checks that each request is sent, and held against its own
// status.
func TestLoadTakesTurns(t *testing.T) {
	var good, bad atomic.Int64
	target := served(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/bad" {
			bad.Add(1)
			w.WriteHeader(401)
			return
		}
		good.Add(1)
	}, get("/good", 200), get("/bad", 401))
	r := Load{Conns: 1, Duration: 50 * time.Millisecond}.Run(t.Context(), target)
	if !r.OK() || good.Load()-bad.Load() > 1 || bad.Load() == 0 {
		t.Errorf("%d good, %d bad: %s", good.Load(), bad.Load(), r.trouble())
	}
	target.Requests[1].Want = 200
	r = Load{Conns: 2, Duration: 50 * time.Millisecond}.Run(t.Context(), target)
	if r.OK() || r.Failed == 0 || r.Broken != 0 || !strings.Contains(r.trouble(), "status 401, want 200") {
		t.Errorf("%d failed, %d broken: %q", r.Failed, r.Broken, r.trouble())
	}
}

// TestLoadBroken has a server that does not keep to HTTP, one way in each case.
func TestLoadBroken(t *testing.T) {
	for name, answer := range map[string]string{
		"nothing":        "",
		"half a head":    "HTTP/1.1 200 OK\r\nContent-Le",
		"half a body":    "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf",
		"half a chunk":   "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n10\r\nhalf",
		"no chunk":       "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
		"no length":      "HTTP/1.1 200 OK\r\n\r\n",
		"bad length":     "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
		"no status":      "HTTP/1.1 abc OK\r\nContent-Length: 0\r\n\r\n",
		"older protocol": "HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n",
		"junk":           "SSH-2.0-OpenSSH\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			var serving sync.WaitGroup
			t.Cleanup(serving.Wait)
			t.Cleanup(func() { _ = l.Close() })
			serving.Go(func() {
				for {
					c, err := l.Accept()
					if err != nil {
						return
					}
					_, _ = http.ReadRequest(bufio.NewReader(c)) // whatever it is
					_, _ = io.WriteString(c, answer)
					_ = c.Close()
				}
			})
			target := &Target{Network: "tcp", Addr: l.Addr().String(), Requests: []Request{get("/", 200)}}
			r := Load{Conns: 2, Duration: 30 * time.Millisecond}.Run(t.Context(), target)
			if r.Done != 0 || r.Broken == 0 || r.OK() {
				t.Errorf("%d answered, %d broken: %s", r.Done, r.Broken, r.trouble())
			}
		})
	}
	nobody := &Target{Network: "unix", Addr: t.TempDir() + "/nobody", Requests: []Request{get("/", 200)}}
	if r := (Load{Conns: 1, Duration: 30 * time.Millisecond}).Run(t.Context(), nobody); r.OK() || r.Broken == 0 {
		t.Error("nobody listens, and that is no error")
	}
}

// stalling is a target whose server, inside a bubble, stands still for a second
// before it answers the request of that number; others take no time.
func stalling(t *testing.T, number int64) *Target {
	var asked atomic.Int64
	var serving sync.WaitGroup
	t.Cleanup(serving.Wait)
	return &Target{Name: "stalling", Requests: []Request{get("/", 204)}, dial: func() (net.Conn, error) {
		client, server := net.Pipe()
		serving.Go(func() {
			defer server.Close()
			for r := bufio.NewReader(server); ; {
				if _, err := http.ReadRequest(r); err != nil {
					return
				}
				if asked.Add(1) == number {
					time.Sleep(time.Second)
				}
				if _, err := io.WriteString(server, "HTTP/1.1 204 No Content\r\n\r\n"); err != nil {
					return
				}
			}
		})
		return client, nil
	}}
}

// TestCoordinatedOmission has a server stand still for one of ten seconds. With
// a rate, what was due in that second waited, so a tenth of all took long: on
// average half of that second.
func TestCoordinatedOmission(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := Load{Conns: 1, Duration: 10 * time.Second, Rate: 100, sleep: time.Sleep}
		r := l.Run(t.Context(), stalling(t, 301))
		if !r.OK() || r.Done != 1000 {
			t.Fatalf("%d of 1000 answered: %s", r.Done, r.trouble())
		}
		if p := r.Latency.Quantile(0.99); p < 890*time.Millisecond || p > 920*time.Millisecond {
			t.Errorf("p99 is %v, want 900 ms", p)
		}
		if p := r.Latency.Quantile(0.95); p < 490*time.Millisecond || p > 510*time.Millisecond {
			t.Errorf("p95 is %v, want half a second", p)
		}
		if p := r.Latency.Quantile(0.85); p > time.Millisecond {
			t.Errorf("p85 is %v, but nine tenths did not wait", p)
		}
		if r.Latency.Max() != time.Second {
			t.Errorf("the longest took %v", r.Latency.Max())
		}
	})
}

// TestLoadTooHigh has a rate that the target cannot reach: what was not sent is
// said, and is an error.
func TestLoadTooHigh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		target := stalling(t, 1)
		l := Load{Conns: 1, Duration: 100 * time.Millisecond, Rate: 100, sleep: time.Sleep}
		r := l.Run(t.Context(), target)
		if r.OK() || r.Late != 9 || r.Done != 1 || !strings.Contains(r.trouble(), "the rate is too high") {
			t.Errorf("%d done, %d late: %q", r.Done, r.Late, r.trouble())
		}
	})
}

func TestLoadEndsWithContext(t *testing.T) {
	for _, rate := range []float64{0, 1000} {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var asked atomic.Int64
		target := served(t, func(w http.ResponseWriter, _ *http.Request) {
			if asked.Add(1) == 10 {
				cancel()
			}
		}, get("/", 200))
		r := Load{Conns: 2, Duration: time.Minute, Rate: rate}.Run(ctx, target)
		if r.Broken != 0 || r.Failed != 0 || r.Done < 10 || r.Elapsed > time.Minute {
			t.Errorf("rate %g: %d done: %s", rate, r.Done, r.trouble())
		}
	}
}
