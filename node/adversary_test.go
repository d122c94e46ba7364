package node_test

import (
	"context"
	"io"
	"log/slog"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node"
)

// launch runs the node and does not wait until it is ready.
func (h *harness) launch() {
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := h.node.Run(ctx); err != nil && ctx.Err() == nil {
			h.t.Errorf("run node: %v", err)
		}
	})
	h.stop = func() { cancel(); running.Wait() }
	h.t.Cleanup(h.stop)
}

// successor ends the node of h and returns the next process of the same name,
// which does not run yet, with its connections to the streams.
func (h *harness) successor() (next *harness, home, config *events.MemoryLink) {
	h.t.Helper()
	h.stop()
	config = h.config.Link()
	next, home = h.another(func(c *node.Config) { c.Name, c.Solo, c.Settings = "n1", true, config })
	return next, home, config
}

// held keeps back, for so long, the entries whose subject ends so.
func held(kind string, d time.Duration) events.MemoryFaults {
	return events.MemoryFaults{Deliver: func(ctx context.Context, e events.Entry) int {
		if strings.HasSuffix(e.Subject, kind) {
			wait(ctx, d)
		}
		return 1
	}}
}

// setSkew shifts the wall clock of node and log.
func (h *harness) setSkew(d time.Duration) {
	h.clock.mu.Lock()
	defer h.clock.mu.Unlock()
	h.clock.skew = d
}

// An app may ask for old answers rather than none. A node that is starting has
// no old answers: what it has read of the log so far may lack any revocation.
func TestStartingNodeServesNothing(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		key := h.newApp("serve", m{"when_stale": "serve"})
		c := h.do(key, "POST", "/v1/sessions", m{"user_id": "ada"}).want(201)
		h.do(key, "POST", "/v1/sessions/revoke", m{"session_id": c.str("session.session_id"), "wait": "all"}).want(200)
		h.verify(c.str("session_token")).wantRefused("revoked")

		next, home, _ := h.successor()
		home.SetFaults(held(".rev", time.Minute)) // a big log, read as far as the session
		next.launch()
		time.Sleep(5 * time.Second)
		next.verify(c.str("session_token")).want(503)
		next.verify(c.str("session_jwt")).want(503)
		next.do(key, "POST", "/v1/sessions/authenticate", m{"session_token": c.str("session_token")}).wantError(503, "node_stale")
		time.Sleep(time.Minute)
		next.verify(c.str("session_token")).wantRefused("revoked")
	})
}

// Clients sign users out on 401 and 404. A node that has read an API key, and
// not yet the app that it is of, knows neither of them.
func TestStartingNodeRefusesNobody(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		c := h.login("ada")
		h.do(h.admin, "PATCH", "/v1/apps/acme", m{"jwt_ttl_seconds": 60}).want(200) // now the app stands after its keys
		next, _, config := h.successor()
		config.SetFaults(held(".app", time.Second))
		next.launch()
		time.Sleep(500 * time.Millisecond)
		next.auth(m{"session_token": c.str("session_token")}).wantError(503, "node_stale")
		next.do(h.admin, "GET", "/v1/sessions?app=acme", nil).wantError(503, "node_stale")
		time.Sleep(10 * time.Second)
		next.auth(m{"session_token": c.str("session_token")}).want(200)
	})
}

// slowReload makes taking over a changed set of signing keys last a second once
// it is armed: the line that it logs about a key it cannot read does.
type slowReload struct {
	slog.Handler
	armed *atomic.Bool
}

func (slowReload) Enabled(context.Context, slog.Level) bool { return true }

func (l slowReload) Handle(ctx context.Context, r slog.Record) error {
	if l.armed.Load() && strings.Contains(r.Message, "signing key cannot be used") {
		time.Sleep(time.Second)
	}
	return l.Handler.Handle(ctx, r)
}

// A key is found compromised, and somebody rotates at that moment: their request
// has heard of the compromise and works on the set of keys from before it. It
// must not take the compromise back, neither here nor in the log.
func TestRotationKeepsCompromise(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var armed atomic.Bool
		h := newHarness(t, func(c *node.Config) { c.Log = slog.New(slowReload{slog.DiscardHandler, &armed}) })
		c := h.login("ada")
		bad := jose(t, c.str("session_jwt"), "kid")
		junk := &events.SigningKey{App: "acme", KID: "junk", Alg: "ES256", Public: []byte("{}"), CreatedAt: 1}
		msg, err := h.keys.Encode(events.ConfigRegion, junk, []byte("junk"), 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := h.config.Append(t.Context(), msg, events.Expectation{}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		armed.Store(true)
		var compromise sync.WaitGroup
		compromise.Go(func() {
			h.do(h.admin, "POST", "/v1/apps/acme/keys/rotate?wait=all", m{"compromised": bad}).want(200)
		})
		time.Sleep(1500 * time.Millisecond)
		h.do(h.admin, "POST", "/v1/apps/acme/keys/rotate", m{}) // may be told of a conflict
		compromise.Wait()
		h.verify(c.str("session_jwt")).wantRefused("unknown")

		armed.Store(false)
		next, _, _ := h.successor()
		next.start()
		next.verify(c.str("session_jwt")).wantRefused("unknown")
		if states, _ := next.states("acme"); states[bad] != "compromised" {
			t.Errorf("after a restart the key is %s", states[bad])
		}
	})
}

// Nobody becomes idle while the log has no room for uses of sessions. Who was
// idle long before stays so, also when the log has room again.
func TestFullLogRevivesNobody(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		c := h.do(h.key, "POST", "/v1/sessions", m{"user_id": "ada", "idle_timeout_minutes": 5}).want(201)
		bulk := m{"user_id": "bulk", "metadata": m{"x": strings.Repeat("y", 7000)}}
		for range 40 {
			h.do(h.key, "POST", "/v1/sessions", bulk).want(201)
		}
		time.Sleep(2 * time.Hour)
		used := h.do(h.key, "POST", "/v1/sessions", m{"user_id": "bob", "idle_timeout_minutes": 5}).want(201)
		h.verify(c.str("session_token")).wantRefused("idle")
		info, err := h.home.Info(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		h.home.SetMaxBytes(info.Bytes * 100 / 94)
		time.Sleep(3 * time.Second)
		h.verify(c.str("session_token")).wantRefused("idle")
		time.Sleep(10 * time.Minute)
		h.verify(used.str("session_token")).want(204)
		h.home.SetMaxBytes(0)
		time.Sleep(5 * time.Second)
		h.verify(used.str("session_token")).want(204)
		h.verify(c.str("session_token")).wantRefused("idle")
	})
}

// sending starts a request whose body ends only when finish is called.
func (h *harness) sending(key, path, body string) (finish func() *reply) {
	pr, pw := io.Pipe()
	r := httptest.NewRequestWithContext(h.t.Context(), "POST", path, pr)
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Authorization", "Bearer "+key)
	var answered sync.WaitGroup
	var out *reply
	answered.Go(func() {
		out = h.send(r)
		pr.Close() // a node that answers early reads no more
	})
	_, _ = pw.Write([]byte(body[:1]))
	return func() *reply {
		_, _ = pw.Write([]byte(body[1:]))
		pw.Close()
		answered.Wait()
		return out
	}
}

// What a key, an app or a session is good for is judged when the whole request
// is here: who sends its last byte late gets nothing that was taken away since.
func TestSlowSenderIsJudgedLast(t *testing.T) {
	for _, tc := range []struct {
		name                       string
		take                       func(h *harness, key, sid string)
		create, mint, authenticate int
	}{
		{"the API key is revoked", func(h *harness, key, _ string) {
			h.do(h.admin, "DELETE", "/v1/apps/shop/api-keys/"+key+"?wait=all", nil).want(200)
		}, 401, 401, 401},
		{"the app is suspended", func(h *harness, _, _ string) { h.do(h.admin, "POST", "/v1/apps/shop/suspend", nil).want(200) }, 403, 403, 403},
		{"the app is deleted", func(h *harness, _, _ string) { h.do(h.admin, "DELETE", "/v1/apps/shop", nil).want(200) }, 401, 401, 401},
		{"the session is revoked", func(h *harness, _, sid string) {
			h.do(h.admin, "DELETE", "/v1/sessions/"+sid+"?wait=all", nil, "X-Revocast-App", "shop").want(200)
		}, 201, 404, 404},
	} {
		t.Run(tc.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, h *harness) {
				c := h.do(h.newApp("shop", nil), "POST", "/v1/sessions", m{"user_id": "ada"}).want(201)
				k := h.do(h.admin, "POST", "/v1/apps/shop/api-keys", m{"name": "x"}).want(201)
				key, sid := k.str("api_key"), c.str("session.session_id")
				create := h.sending(key, "/v1/sessions", `{"user_id":"eve"}`)
				mint := h.sending(key, "/v1/sessions/"+sid+"/tokens", `{}`)
				authenticate := h.sending(key, "/v1/sessions/authenticate", `{"session_token":"`+c.str("session_token")+`"}`)
				tc.take(h, k.str("key.id"), sid)
				time.Sleep(9 * time.Second)
				create().want(tc.create)
				mint().want(tc.mint)
				authenticate().want(tc.authenticate)
			})
		})
	}
}
