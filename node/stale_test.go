package node_test

import (
	"strings"
	"testing"
	"time"

	"github.com/revocast/revocast/events"
)

// fencedCalls are calls about one session on every route there is.
func fencedCalls(c *reply) map[string]func(h *harness) *reply {
	token, jwt, sid := c.str("session_token"), c.str("session_jwt"), c.str("session.session_id")
	unknown := string(events.NewToken(2).Reveal())
	call := func(method, path string, body any) func(h *harness) *reply {
		return func(h *harness) *reply { return h.do(h.key, method, path, body) }
	}
	post := func(path string, body m) func(h *harness) *reply { return call("POST", path, body) }
	return map[string]func(h *harness) *reply{
		"create":            post("/v1/sessions", m{"user_id": "ada"}),
		"authenticate":      post("/v1/sessions/authenticate", m{"session_token": token}),
		"authenticate jwt":  post("/v1/sessions/authenticate", m{"session_jwt": jwt}),
		"authenticate none": post("/v1/sessions/authenticate", m{"session_token": unknown}),
		"authenticate junk": post("/v1/sessions/authenticate", m{"session_token": "junk"}),
		"strong":            post("/v1/sessions/authenticate", m{"session_token": token, "consistency": "strong"}),
		"rotate":            post("/v1/sessions/rotate", m{"session_token": token}),
		"revoke":            post("/v1/sessions/revoke", m{"session_id": sid}),
		"revoke unknown":    post("/v1/sessions/revoke", m{"session_token": unknown}),
		"revoke user":       post("/v1/sessions/revoke", m{"user_id": "ada"}),
		"revoke all":        post("/v1/sessions/revoke", m{"all": true}),
		"mint":              post("/v1/sessions/"+sid+"/tokens", m{}),
		"get":               call("GET", "/v1/sessions/"+sid, nil),
		"get unknown":       call("GET", "/v1/sessions/nothing", nil),
		"patch":             call("PATCH", "/v1/sessions/"+sid, m{"metadata": m{"a": 1}}),
		"delete":            call("DELETE", "/v1/sessions/"+sid, nil),
		"list":              call("GET", "/v1/sessions?user_id=ada", nil),
		"history":           call("GET", "/v1/sessions/"+sid+"/events", nil),
	}
}

func TestFencedNodeAnswersNothing(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		c := h.login("ada")
		h.home.Cut()
		time.Sleep(10 * time.Second)
		h.verify(c.str("session_token")).want(204) // inside the lease
		time.Sleep(6 * time.Second)
		for name, call := range fencedCalls(c) {
			r := call(h).wantError(503, "node_stale")
			if r.str("error_details.reason") != "silent" || r.Header.Get("Retry-After") == "" {
				t.Errorf("%s: %v %s", name, r.Header, r.Raw)
			}
		}
		for _, cred := range []string{c.str("session_token"), c.str("session_jwt"), string(events.NewToken(2).Reveal())} {
			r := h.verify(cred).want(503)
			if r.Header.Get("X-Session-Reason") != "silent" || r.Header.Get("Retry-After") == "" {
				t.Errorf("verify: %v", r.Header)
			}
			h.do(cred, "GET", "/v1/verify?body=1", nil).wantError(503, "node_stale")
		}
		h.home.Heal()
		time.Sleep(2 * time.Second)
		h.verify(c.str("session_token")).want(204)
	})
}

func TestWhenStale(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		serve, reauth := h.newApp("serve", m{"when_stale": "serve"}), h.newApp("reauth", m{"when_stale": "reauth"})
		cs := h.do(serve, "POST", "/v1/sessions", m{"user_id": "ada"}).want(201)
		cr := h.do(reauth, "POST", "/v1/sessions", m{"user_id": "ada"}).want(201)
		h.home.Cut()
		time.Sleep(20 * time.Second)

		a := h.do(serve, "POST", "/v1/sessions/authenticate", m{"session_token": cs.str("session_token"), "session_duration_minutes": 60}).want(200)
		if !strings.HasPrefix(a.Header.Get("X-Session-Freshness"), "stale; reason=silent") || a.str("session_jwt") != "" {
			t.Errorf("serve: %v %s", a.Header, a.Raw)
		}
		if ms, _ := a.at("staleness_ms").(float64); ms < 15_000 {
			t.Errorf("serve: staleness_ms %v", ms)
		}
		v := h.do(cs.str("session_token"), "GET", "/v1/verify?jwt=1", nil).want(204)
		if !strings.HasPrefix(v.Header.Get("X-Session-Freshness"), "stale;") || v.Header.Get("X-Session-Jwt") != "-" {
			t.Errorf("serve: %v", v.Header)
		}
		h.do(serve, "POST", "/v1/sessions/"+cs.str("session.session_id")+"/tokens", m{}).wantError(503, "node_stale")
		h.do(serve, "POST", "/v1/sessions/authenticate", m{"session_token": string(events.NewToken(2).Reveal())}).wantError(503, "node_stale")
		h.do(serve, "PATCH", "/v1/sessions/"+cs.str("session.session_id"), m{"metadata": m{"a": 1}}).wantError(503, "node_stale")

		h.do(reauth, "POST", "/v1/sessions/authenticate", m{"session_token": cr.str("session_token")}).wantError(401, "session_home_unreachable")
		h.verify(cr.str("session_token")).wantRefused("session_home_unreachable")
	})
}

func TestLogFull(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		c := h.login("ada")
		bulk := m{"user_id": "bulk", "metadata": m{"x": strings.Repeat("y", 7000)}}
		for range 40 {
			h.do(h.key, "POST", "/v1/sessions", bulk).want(201)
		}
		fill := func(percent uint64) {
			t.Helper()
			info, err := h.home.Info(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			h.home.SetMaxBytes(info.Bytes * 100 / percent)
			time.Sleep(1100 * time.Millisecond)
		}
		time.Sleep(2 * time.Minute) // heartbeats reach their usual number
		fill(84)
		h.do(h.key, "POST", "/v1/sessions", m{"user_id": "ada"}).wantError(503, "log_full")
		sid := "/v1/sessions/" + c.str("session.session_id")
		h.do(h.key, "PATCH", sid, m{"metadata": m{"a": 1}}).want(200)
		fill(94)
		h.do(h.key, "PATCH", sid, m{"metadata": m{"a": 2}}).wantError(503, "log_full")
		h.auth(m{"session_token": c.str("session_token"), "session_custom_claims": m{"a": 1}}).wantError(503, "log_full")
		a := h.auth(m{"session_token": c.str("session_token"), "session_duration_minutes": 527_040}).want(200)
		if a.str("session.expires_at") != c.str("session.expires_at") {
			t.Error("an extension was written above its budget")
		}
		if r := h.do(h.key, "DELETE", sid, nil).want(200); r.at("revoked") != 1.0 {
			t.Errorf("revoke: %s", r.Raw)
		}
		if r := h.do(h.key, "POST", "/v1/sessions/revoke", m{"user_id": "bulk"}).want(200); r.at("revoked") != 40.0 {
			t.Errorf("revoke user: %s", r.Raw)
		}
	})
}
