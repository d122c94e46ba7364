package node_test

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// capability is one thing that the systems Revocast replaces can do, with what
// shows it. The ids C and U are those of Clerk's sessions and of the tutorial; V
// those of the requirements of ASVS V7 and NIST SP 800-63B.
type capability struct {
	id, what string
	show     func(t *testing.T, h *harness)
}

// TestSessionCapabilities: what a session has and can, row by row.
func TestSessionCapabilities(t *testing.T) {
	for _, row := range sessionCapabilities {
		t.Run(row.id, func(t *testing.T) {
			bubble(t, row.show)
			t.Logf("%-4s %-70s %s", row.id, row.what, map[bool]string{false: "pass", true: "FAIL"}[t.Failed()])
		})
	}
}

var sessionCapabilities = []capability{
	{"C1", "a session has an id, a user, its begin, its end and a status", func(t *testing.T, h *harness) {
		c := h.login("ada")
		r := h.do(h.key, "GET", "/v1/sessions/"+c.str("session.session_id"), nil).want(200)
		for _, field := range []string{"session_id", "user_id", "started_at", "expires_at", "status"} {
			if r.str("session."+field) == "" {
				t.Errorf("no %s: %s", field, r.Raw)
			}
		}
	}},
	{"C7", "JWTs of 60 seconds", func(t *testing.T, h *harness) {
		h.do(h.key, "PATCH", "/v1/apps/acme", m{"jwt_ttl_seconds": 60}).want(200)
		if c := claims(t, h.login("ada").str("session_jwt")); c["exp"].(float64)-c["iat"].(float64) != 60 {
			t.Errorf("claims: %v", c)
		}
	}},
	{"C9", "the state decides about minting: revoked, expired and idle sessions mint nothing", func(t *testing.T, h *harness) {
		for reason, end := range map[string]func(c *reply){
			"revoked": func(c *reply) {
				h.do(h.key, "POST", "/v1/sessions/revoke", m{"session_token": c.str("session_token")}).want(200)
			},
			"idle":    func(*reply) { time.Sleep(3 * time.Minute) },
			"expired": func(*reply) { time.Sleep(5*time.Minute + time.Second) },
		} {
			body := m{"user_id": "ada", "session_duration_minutes": 5}
			if reason == "idle" {
				body["idle_timeout_minutes"] = 2
			}
			c := h.do(h.key, "POST", "/v1/sessions", body).want(201)
			path := "/v1/sessions/" + c.str("session.session_id") + "/tokens"
			h.do(h.key, "POST", path, m{}).want(200)
			end(c)
			h.do(h.key, "POST", path, m{}).wantEnded(reason)
		}
	}},
	{"C14", "a JWT's life has a limit", func(t *testing.T, h *harness) {
		h.do(h.key, "PATCH", "/v1/apps/acme", m{"jwt_ttl_seconds": 3601}).wantError(400, "invalid_argument")
	}},
	{"C15", "a session of 7 days whose JWTs live a minute", func(t *testing.T, h *harness) {
		h.do(h.key, "PATCH", "/v1/apps/acme", m{"jwt_ttl_seconds": 60, "session_duration_minutes": 7 * 24 * 60}).want(200)
		c := h.login("ada")
		jwt := claims(t, c.str("session_jwt"))
		if got := c.str("session.expires_at"); got != time.Now().Add(7*24*time.Hour).UTC().Format(time.RFC3339) || jwt["exp"].(float64)-jwt["iat"].(float64) != 60 {
			t.Errorf("until %s, JWT %v", got, jwt)
		}
	}},
	{"U3", "a session expires after inactivity", func(t *testing.T, h *harness) {
		token := h.do(h.key, "POST", "/v1/sessions", m{"user_id": "ada", "idle_timeout_minutes": 2}).want(201).str("session_token")
		for range 3 {
			time.Sleep(110 * time.Second)
			h.verify(token).want(204)
		}
		time.Sleep(3 * time.Minute)
		h.verify(token).wantRefused("idle")
	}},
	{"U7", "the server keeps data with the session, which no JWT shows", func(t *testing.T, h *harness) {
		c := h.login("ada")
		h.do(h.key, "PATCH", "/v1/sessions/"+c.str("session.session_id"), m{"metadata": m{"cart": []int{1, 2}, "theme": "dark"}, "session_custom_claims": m{"plan": "pro"}}).want(200)
		h.do(h.key, "PATCH", "/v1/sessions/"+c.str("session.session_id"), m{"metadata": m{"theme": nil}}).want(200)
		a := h.auth(m{"session_token": c.str("session_token")}).want(200)
		if fmt.Sprint(a.at("session.metadata")) != "map[cart:[1 2]]" || a.str("session.custom_claims.plan") != "pro" {
			t.Errorf("authenticate: %s", a.Raw)
		}
		if jwt := fmt.Sprint(claims(t, a.str("session_jwt"))); strings.Contains(jwt, "cart") || !strings.Contains(jwt, "plan:pro") {
			t.Errorf("claims: %s", jwt)
		}
	}},
	{"U12", "a JWT has the user, roles, permissions and more", func(t *testing.T, h *harness) {
		c := h.do(h.key, "POST", "/v1/sessions", m{"user_id": "ada", "roles": []string{"editor"}, "session_custom_claims": m{"permissions": []string{"read", "write"}, "team": m{"id": 7}}}).want(201)
		jwt := claims(t, c.str("session_jwt"))
		if jwt["sub"] != "ada" || fmt.Sprint(jwt["roles"]) != "[editor]" || fmt.Sprint(jwt["permissions"]) != "[read write]" || fmt.Sprint(jwt["team"]) != "map[id:7]" {
			t.Errorf("claims: %v", jwt)
		}
	}},
	{"V7.2.4", "a new token when privileges rise, and the old one is dead", func(t *testing.T, h *harness) {
		c := h.login("ada")
		r := h.rotateToken(c.str("session_token"), 0).want(200)
		h.verify(c.str("session_token")).wantRefused("unknown")
		h.verify(c.str("session_jwt")).want(204) // a JWT is bound to the session
		h.verify(r.str("session_token")).want(204)
	}},
	{"V7.3.2", "an absolute end, whatever is asked for and however much it is used", func(t *testing.T, h *harness) {
		c := h.do(h.key, "POST", "/v1/sessions", m{"user_id": "ada", "session_duration_minutes": 30, "absolute_lifetime_minutes": 60}).want(201)
		token := c.str("session_token")
		for range 5 {
			time.Sleep(10 * time.Minute)
			h.auth(m{"session_token": token, "session_duration_minutes": 600}).want(200)
		}
		time.Sleep(10*time.Minute + time.Second)
		h.auth(m{"session_token": token, "session_duration_minutes": 600}).wantEnded("expired")
	}},
}
