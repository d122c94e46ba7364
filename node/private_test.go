package node_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node"
)

var modes = []string{node.PrivateMemory, node.PrivateHome, node.PrivateLog}

// rich is a create with all that a private part can hold.
func rich(user string) m {
	return m{
		"user_id": user, "session_duration_minutes": 60,
		"session_custom_claims": m{"plan": "pro <&>"}, "metadata": m{"cart": 3},
		"authentication_factors": []m{{"type": "otp", "delivery_method": "sms"}},
		"attributes":             m{"ip_address": "203.0.113.7", "user_agent": "Firefox"},
	}
}

// wantPrivate fails unless the session in the answer has all that rich gave it,
// with the metadata as it is by now.
func wantPrivate(r *reply, status int, under string, metadata string) {
	r.t.Helper()
	r.want(status)
	s, _ := r.at(strings.TrimSuffix(under, ".")).(map[string]any)
	got, err := json.Marshal([]any{s["custom_claims"], s["metadata"], s["authentication_factors"], s["attributes"]})
	want := `[{"plan":"pro \u003c\u0026\u003e"},` + metadata +
		`,[{"delivery_method":"sms","type":"otp"}],{"ip_address":"203.0.113.7","user_agent":"Firefox"}]`
	if err != nil || string(got) != want {
		r.t.Errorf("%s: private part is\n%s\nwant\n%s", r.call, got, want)
	}
}

// claimsOf returns the payload of a JWT.
func claimsOf(t *testing.T, jwt string) string {
	t.Helper()
	parts := strings.Split(jwt, ".")
	if len(parts) != 3 {
		t.Fatalf("%q is no JWT", jwt)
	}
	b, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// richSession is a session that every route is tried on.
type richSession struct{ key, sid, token, jwt string }

// enjoy makes the node answer everything that needs the private part, and change
// the session in every way. It leaves the session with a new token.
func (h *harness) enjoy(s *richSession, round int) {
	h.t.Helper()
	meta := func(n int) string { return fmt.Sprintf(`{"cart":3,"round":%d}`, n) }
	was := meta(round - 1)
	if round == 1 {
		was = `{"cart":3}`
	}
	wantPrivate(h.do(s.key, "POST", "/v1/sessions/authenticate", m{"session_token": s.token}), 200, "session.", was)
	r := h.do(s.key, "POST", "/v1/sessions/authenticate", m{"session_jwt": s.jwt})
	if wantPrivate(r, 200, "session.", was); r.str("session_token") != s.token {
		h.t.Errorf("token by JWT is %q, want %q", r.str("session_token"), s.token)
	}
	wantPrivate(h.do(s.key, "GET", "/v1/sessions/"+s.sid, nil), 200, "session.", was)
	list := h.do(s.key, "GET", "/v1/sessions?user_id=ada", nil).want(200)
	if n := len(list.JSON["sessions"].([]any)); n != 1 {
		h.t.Fatalf("%d sessions in the list: %s", n, list.Raw)
	}
	list.JSON["session"] = list.JSON["sessions"].([]any)[0]
	wantPrivate(list, 200, "session.", was)
	jwt := h.do(s.key, "POST", "/v1/sessions/"+s.sid+"/tokens", m{}).want(200).str("session_jwt")
	verified := h.do(s.token, "GET", "/v1/verify?jwt=1", nil).want(204).Header.Get("X-Session-Jwt")
	for _, jwt := range []string{jwt, verified} {
		if claims := claimsOf(h.t, jwt); !strings.Contains(claims, `"plan":"pro `) {
			h.t.Errorf("JWT lacks the custom claims: %s", claims)
		}
	}
	now := meta(round)
	wantPrivate(h.do(s.key, "PATCH", "/v1/sessions/"+s.sid, m{"metadata": m{"round": round}}), 200, "session.", now)
	wantPrivate(h.do(s.key, "POST", "/v1/sessions/authenticate",
		m{"session_token": s.token, "session_duration_minutes": 100 * (round + 1)}), 200, "session.", now)
	r = h.do(s.key, "POST", "/v1/sessions/rotate", m{"session_token": s.token, "grace_seconds": 60})
	wantPrivate(r, 200, "session.", now)
	next := r.str("session_token")
	again := h.do(s.key, "POST", "/v1/sessions/rotate", m{"session_token": s.token, "grace_seconds": 60}).want(200)
	if next == "" || next == s.token || again.str("session_token") != next {
		h.t.Errorf("rotated %q to %q and %q", s.token, next, again.str("session_token"))
	}
	s.token, s.jwt = next, r.str("session_jwt")
}

// Wherever private parts are kept, every answer that needs one has all of it, on
// each node of two regions, and no change loses any of it. With the home out of
// reach, who does not keep it says so, and verifies all the same.
func TestPrivateModes(t *testing.T) {
	for _, mode := range modes {
		t.Run(mode, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := adjustedContinents(t, func(_ string, conf *node.Config) { conf.Private = mode })
				eu, us := c.nodes["eu1"], c.nodes["us1"]
				key := eu.newApp("vend", m{"return_token": true})
				time.Sleep(2 * time.Second)
				body := rich("ada")
				r := eu.do(key, "POST", "/v1/sessions", body, "Idempotency-Key", "k")
				wantPrivate(r, http.StatusCreated, "session.", `{"cart":3}`)
				s := &richSession{key, r.str("session.session_id"), r.str("session_token"), r.str("session_jwt")}
				repeat := c.nodes["eu2"].do(key, "POST", "/v1/sessions", body, "Idempotency-Key", "k").want(http.StatusCreated)
				if got := repeat.str("session_token"); got != s.token {
					t.Errorf("a repeat has token %q, want %q", got, s.token)
				}
				body["metadata"] = m{"cart": 4}
				c.nodes["eu2"].do(key, "POST", "/v1/sessions", body, "Idempotency-Key", "k").wantError(422, "idempotency_key_reused")
				time.Sleep(2 * time.Second)
				for i, name := range []string{"eu1", "us1", "eu2"} {
					c.nodes[name].enjoy(s, i+1)
					time.Sleep(2 * time.Second)
				}

				c.cut()
				us.wantApart(mode, s)
				c.heal()
				time.Sleep(time.Minute)
				us.enjoy(s, 4)
			})
		})
	}
}

// wantApart fails unless the node answers about the session as its mode allows
// while the session's home, eu, is out of reach and its lease still runs.
func (n *continental) wantApart(mode string, s *richSession) {
	n.t.Helper()
	n.verify(s.token).want(http.StatusNoContent)
	if mode == node.PrivateMemory {
		n.do(s.key, "POST", "/v1/sessions/authenticate", m{"session_token": s.token}).want(200)
		n.verify(s.token).want(http.StatusNoContent)
		return
	}
	began := time.Now()
	if v := n.do(s.token, "GET", "/v1/verify?jwt=1", nil).want(204); v.Header.Get("X-Session-Jwt") == "" || time.Since(began) > time.Second {
		n.t.Errorf("a verify took %v: %v", time.Since(began), v.Header)
	}
	n.do(s.key, "POST", "/v1/sessions/authenticate", m{"session_token": s.token}).wantError(503, "home_unreachable")
	n.verify(s.token).want(http.StatusNoContent)
	list := n.do(s.key, "GET", "/v1/sessions?user_id=ada", nil).want(200)
	if fmt.Sprint(list.at("incomplete")) != "[eu]" || list.at("total") != float64(0) || len(list.JSON["sessions"].([]any)) != 0 {
		n.t.Errorf("list without eu: %s", list.Raw)
	}
}

// Each route says that the home is out of reach, and none shows a session without
// what it has.
func TestPrivateOutOfReach(t *testing.T) {
	for name, ask := range map[string]func(n *continental, s *richSession) *reply{
		"authenticate": func(n *continental, s *richSession) *reply { return n.auth(m{"session_jwt": s.jwt}) },
		"read":         func(n *continental, s *richSession) *reply { return n.do(s.key, "GET", "/v1/sessions/"+s.sid, nil) },
		"patch": func(n *continental, s *richSession) *reply {
			return n.do(s.key, "PATCH", "/v1/sessions/"+s.sid, m{"metadata": m{"a": 1}})
		},
		"rotate": func(n *continental, s *richSession) *reply {
			return n.do(s.key, "POST", "/v1/sessions/rotate", m{"session_token": s.token})
		},
		"mint": func(n *continental, s *richSession) *reply {
			return n.do(s.key, "POST", "/v1/sessions/"+s.sid+"/tokens", m{})
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := adjustedContinents(t, func(_ string, conf *node.Config) { conf.Private = node.PrivateHome })
				eu, us := c.nodes["eu1"], c.nodes["us1"]
				r := eu.do(eu.key, "POST", "/v1/sessions", rich("ada")).want(201)
				s := &richSession{eu.key, r.str("session.session_id"), r.str("session_token"), r.str("session_jwt")}
				time.Sleep(2 * time.Second)
				c.cut()
				ask(us, s).wantError(503, "home_unreachable")
				if got := ask(c.nodes["eu2"], s); got.Status != 200 {
					t.Errorf("at home: %s", got.Raw)
				}
			})
		})
	}
}

// A change that a node has not heard of yet is waited for: the answer is about
// the newer state, or there is none.
func TestPrivateOfNewerState(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t, func(c *node.Config) { c.Solo = false })
		late, link := h.another(func(c *node.Config) { c.Private = node.PrivateLog })
		late.start()
		time.Sleep(2 * time.Second)
		r := h.do(h.key, "POST", "/v1/sessions", rich("ada")).want(201)
		time.Sleep(time.Second)
		sid := "/v1/sessions/" + r.str("session.session_id")
		var delay atomic.Int64
		delay.Store(int64(2 * time.Second))
		link.SetFaults(events.MemoryFaults{Deliver: func(ctx context.Context, e events.Entry) int {
			if strings.HasSuffix(e.Subject, ".st") {
				wait(ctx, time.Duration(delay.Load()))
			}
			return 1
		}})
		h.do(h.key, "PATCH", sid, m{"metadata": m{"n": 1}}).want(200)
		wantPrivate(late.do(late.key, "GET", sid, nil), 200, "session.", `{"cart":3,"n":1}`)

		h.do(h.key, "PATCH", sid, m{"metadata": m{"n": 2}}).want(200)
		wantPrivate(late.do(late.key, "PATCH", sid, m{"metadata": m{"late": true}}), 200, "session.", `{"cart":3,"late":true,"n":2}`)

		// Revoked while it is waited for: then there is nothing to show.
		h.do(h.key, "PATCH", sid, m{"metadata": m{"n": 3}}).want(200)
		h.do(h.key, "POST", "/v1/sessions/revoke", m{"session_id": r.str("session.session_id")}).want(200)
		late.auth(m{"session_token": r.str("session_token")}).wantError(404, "session_not_found")

		delay.Store(int64(time.Minute))
		other := h.do(h.key, "POST", "/v1/sessions", rich("bob")).want(201)
		delay.Store(0)
		time.Sleep(2 * time.Minute)
		delay.Store(int64(8 * time.Second))
		h.do(h.key, "PATCH", "/v1/sessions/"+other.str("session.session_id"), m{"metadata": m{"n": 1}}).want(200)
		late.auth(m{"session_token": other.str("session_token")}).wantError(503, "home_unreachable")
	})
}

// A session that has ended is shown for as long as its log holds it.
func TestPrivateOfEndedSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t, func(c *node.Config) { c.Private = node.PrivateLog })
		body := rich("ada")
		body["session_duration_minutes"] = 1
		r := h.do(h.key, "POST", "/v1/sessions", body).want(201)
		sid := "/v1/sessions/" + r.str("session.session_id")
		time.Sleep(61 * time.Second)
		wantPrivate(h.do(h.key, "GET", sid, nil), 200, "session.", `{"cart":3}`)
		for range 150 {
			time.Sleep(time.Second)
			if got := h.do(h.key, "GET", sid, nil); got.Status != 404 {
				wantPrivate(got, 200, "session.", `{"cart":3}`)
			}
			list := h.do(h.key, "GET", "/v1/sessions?user_id=ada&status=all", nil).want(200)
			for _, s := range list.JSON["sessions"].([]any) {
				list.JSON["session"] = s
				wantPrivate(list, 200, "session.", `{"cart":3}`)
			}
		}
		h.do(h.key, "GET", sid, nil).wantError(404, "session_not_found")
	})
}

// A page of private parts is read, whole and in order.
func TestPrivateList(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t, func(c *node.Config) { c.Private = node.PrivateLog })
		const n = 300
		for i := range n {
			h.do(h.key, "POST", "/v1/sessions", m{"user_id": "ada", "metadata": m{"i": i}}).want(201)
			time.Sleep(time.Millisecond)
		}
		i := n
		for cursor := ""; ; {
			r := h.do(h.key, "GET", "/v1/sessions?user_id=ada&limit=120"+cursor, nil).want(200)
			for _, s := range r.JSON["sessions"].([]any) {
				i--
				if got := s.(map[string]any)["metadata"].(map[string]any)["i"]; got != float64(i) {
					t.Fatalf("session %v where %d should be", got, i)
				}
			}
			if r.str("next_cursor") == "" {
				break
			}
			cursor = "&cursor=" + r.str("next_cursor")
		}
		if i != 0 {
			t.Errorf("%d sessions are missing", i)
		}
	})
}

// Left in the log, a private part takes no memory.
func TestPrivateMemory(t *testing.T) {
	sizes := map[string]int{}
	for _, mode := range modes {
		synctest.Test(t, func(t *testing.T) {
			h := newHarness(t, func(c *node.Config) { c.Private = mode })
			before := h.node.SessionBytes()
			const n = 500
			for i := range n {
				h.do(h.key, "POST", "/v1/sessions", m{"user_id": fmt.Sprint("user", i), "metadata": m{"text": strings.Repeat("x", 3000)}}).want(201)
			}
			sizes[mode] = (h.node.SessionBytes() - before) / n
		})
	}
	t.Logf("bytes a session: %v", sizes)
	if sizes[node.PrivateHome] < 3000 || sizes[node.PrivateLog] > 600 || sizes[node.PrivateMemory] < 3000 {
		t.Errorf("bytes a session: %v; with a private part of 3 KB", sizes)
	}
}
