package node_test

import (
	"bytes"
	"log/slog"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/revocast/revocast/node"
)

// lines is a log that counts what it is told.
type lines struct {
	mu  sync.Mutex // guards buf
	buf bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *lines) count(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.buf.String(), text)
}

// memoryStep is how long a node takes to notice how its memory is.
const memoryStep = 150 * time.Millisecond

// A node that is short of memory creates no session, and does all else: it
// verifies, revokes, extends, changes, reads, holds its leases, and applies what
// others create. It says so wherever an operator looks.
func TestMemoryFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const limit = 1000_000_000
		var used atomic.Uint64
		var said lines
		h := newHarness(t, func(c *node.Config) {
			c.Solo, c.Memory = false, func() (uint64, uint64) { return used.Load(), limit }
			c.Log = slog.New(slog.NewTextHandler(&said, nil))
		})
		roomy, _ := h.another()
		roomy.start()
		set := func(percent uint64) {
			used.Store(limit / 100 * percent)
			time.Sleep(memoryStep)
		}
		create := func(n *harness) *reply { return n.do(n.key, "POST", "/v1/sessions", m{"user_id": "ada"}) }
		set(84)
		c := create(h).want(201)
		repeat := h.do(h.key, "POST", "/v1/sessions", m{"user_id": "ada"}, "Idempotency-Key", "k").want(201)
		time.Sleep(time.Second)
		h.wantMemory(false, "84 %")

		set(85)
		refused := create(h).wantError(503, "memory_full")
		if refused.Header.Get("Retry-After") == "" {
			t.Error("no Retry-After")
		}
		h.do(h.key, "POST", "/v1/sessions", m{"user_id": "bob"}, "Idempotency-Key", "other").wantError(503, "memory_full")
		again := h.do(h.key, "POST", "/v1/sessions", m{"user_id": "ada"}, "Idempotency-Key", "k").want(201)
		if again.str("session.session_id") != repeat.str("session.session_id") {
			t.Error("a repeat made another session")
		}
		h.wantMemory(true, "85 %")
		token, sid := c.str("session_token"), c.str("session.session_id")
		h.verify(token).want(204)
		h.auth(m{"session_token": token, "session_duration_minutes": 50_000}).want(200)
		h.do(h.key, "PATCH", "/v1/sessions/"+sid, m{"metadata": m{"a": 1}}).want(200)
		h.do(h.key, "GET", "/v1/sessions?user_id=ada", nil).want(200)
		elsewhere := create(roomy).want(201).str("session_token")
		h.verify(elsewhere).want(204)
		next := h.do(h.key, "POST", "/v1/sessions/rotate", m{"session_token": token}).want(200).str("session_token")
		h.do(h.key, "POST", "/v1/sessions/revoke", m{"session_id": sid}).want(200)
		h.verify(next).wantRefused("revoked")
		before := said.count("memory is full")
		time.Sleep(5 * time.Minute)
		if got := said.count("memory is full") - before; before != 1 || got < 4 || got > 6 {
			t.Errorf("%d lines at once and %d in 5 minutes, want 1 and 5", before, got)
		}
		h.verify(elsewhere).want(204) // the lease goes on

		set(81) // not yet
		create(h).wantError(503, "memory_full")
		set(79)
		create(h).want(201)
		h.wantMemory(false, "79 %")
		set(84) // nor again
		create(h).want(201)
		set(99)
		create(h).wantError(503, "memory_full")
		if got := said.count("there is memory again"); got != 1 {
			t.Errorf("%d lines say that there is memory again", got)
		}
	})
}

// wantMemory fails unless status and metrics say whether the memory is full.
func (h *harness) wantMemory(full bool, when string) {
	h.t.Helper()
	ready := h.do("", "GET", "/readyz", nil).want(200)
	if got := ready.at("memory.full"); got != full || ready.at("memory.limit_bytes") != 1e9 {
		h.t.Errorf("at %s: memory %v, want full %v", when, ready.at("memory"), full)
	}
	if got := h.problem("memory_full") != ""; got != full {
		h.t.Errorf("at %s: problems %v, want memory_full %v", when, ready.at("problems"), full)
	}
	w := httptest.NewRecorder()
	h.node.Metrics().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	want := "\nrevocast_memory_full 0\n"
	if full {
		want = "\nrevocast_memory_full 1\n"
	}
	if body := w.Body.String(); !strings.Contains(body, want) || !strings.Contains(body, "\nrevocast_memory_limit_bytes 1e+09\n") {
		h.t.Errorf("at %s: the metrics do not say %q", when, want)
	}
}

// Without a limit nothing is refused, and nothing is said of memory.
func TestMemoryUnlimited(t *testing.T) {
	for name, read := range map[string]func() (uint64, uint64){"none": nil, "no limit": func() (uint64, uint64) { return 1 << 40, 0 }} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newHarness(t, func(c *node.Config) { c.Memory = read })
				time.Sleep(time.Second)
				h.login("ada")
				if r := h.do("", "GET", "/readyz", nil).want(200); r.at("memory") != nil || h.problem("memory_full") != "" {
					t.Errorf("said of memory: %s", r.Raw)
				}
			})
		})
	}
}

// A node that begins without memory to spare creates nothing from the start on.
func TestMemoryFullAtStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t)
		token := h.login("ada").str("session_token")
		h.stop()
		next, _, _ := h.successor()
		full, _ := next.another(func(c *node.Config) {
			c.Name, c.Solo, c.Memory = "n1", true, func() (uint64, uint64) { return 99, 100 }
		})
		full.start()
		full.do(full.key, "POST", "/v1/sessions", m{"user_id": "bob"}).wantError(503, "memory_full")
		full.verify(token).want(204)
	})
}
