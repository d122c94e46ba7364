package node_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/revocast/revocast/node/api"
)

// TestLifetimePresets: S16.
func TestLifetimePresets(t *testing.T) {
	lives := func(r *reply) string {
		return fmt.Sprint(r.at("app.session_duration_minutes"), r.at("app.absolute_lifetime_minutes"), r.at("app.idle_timeout_minutes"))
	}
	bubble(t, func(t *testing.T, h *harness) {
		for preset, want := range map[string]string{"aal1": "43200 43200 0", "aal2": "1440 1440 60", "aal3": "720 720 15"} {
			r := h.do(h.admin, "POST", "/v1/apps", m{"app_id": preset, "lifetime_preset": preset}).want(201)
			if got := lives(r); got != want || r.at("app.lifetime_preset") != nil {
				t.Errorf("%s: %s, want %s\n%s", preset, got, want, r.Raw)
			}
			r = h.do(h.key, "PATCH", "/v1/apps/acme", m{"lifetime_preset": preset, "session_duration_minutes": 100}).want(200)
			if got := lives(r); got != "100"+want[strings.Index(want, " "):] {
				t.Errorf("%s and 100 minutes: %s", preset, got)
			}
		}
		h.do(h.key, "PATCH", "/v1/apps/acme", m{"lifetime_preset": "aal2", "absolute_lifetime_minutes": 43200, "idle_timeout_minutes": 0}).want(200)
		for _, bad := range []m{{"lifetime_preset": "aal4"}, {"lifetime_preset": ""}, {"lifetime_preset": "AAL1"}, {"lifetime_preset": "aal2", "session_duration_minutes": 1441}} {
			h.do(h.key, "PATCH", "/v1/apps/acme", bad).wantError(400, api.InvalidArgument)
		}
		h.do(h.key, "POST", "/v1/sessions", m{"user_id": "ada", "lifetime_preset": "x"}).wantError(400, api.InvalidArgument)

		create := func(body m) *reply {
			body["user_id"] = "ada"
			return h.do(h.key, "POST", "/v1/sessions", body).want(201)
		}
		after := func(d time.Duration) string { return time.Now().Add(d).UTC().Format(time.RFC3339) }
		c := create(m{"lifetime_preset": "aal3"})
		if c.str("session.expires_at") != after(12*time.Hour) || c.str("session.absolute_expires_at") != after(12*time.Hour) || c.str("session.idle_expires_at") != after(15*time.Minute) {
			t.Errorf("aal3: %s", c.Raw)
		}
		c = create(m{"lifetime_preset": "aal2", "session_duration_minutes": 30, "idle_timeout_minutes": 5})
		if c.str("session.expires_at") != after(30*time.Minute) || c.str("session.absolute_expires_at") != after(24*time.Hour) || c.str("session.idle_expires_at") != after(5*time.Minute) {
			t.Errorf("aal2 with members of its own: %s", c.Raw)
		}
		h.do(h.key, "PATCH", "/v1/apps/acme", m{"lifetime_preset": "aal3"}).want(200)
		if c = create(m{"lifetime_preset": "aal1"}); c.str("session.absolute_expires_at") != after(12*time.Hour) {
			t.Errorf("a preset went past the app's own limit: %s", c.Raw)
		}

		// It ends as it says: idle, though it was never revoked.
		token := create(m{"lifetime_preset": "aal3"}).str("session_token")
		time.Sleep(14 * time.Minute)
		h.verify(token).want(204)
		time.Sleep(14 * time.Minute)
		h.verify(token).want(204)
		time.Sleep(17 * time.Minute)
		h.verify(token).wantRefused("idle")
	})
}

// TestSessionsOfAUser: S9, the list shows device, begin and last use and no token;
// S8, the others can be revoked.
func TestSessionsOfAUser(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		var tokens, ids []string
		began := map[string]string{}
		for i := range 4 {
			c := h.do(h.key, "POST", "/v1/sessions", m{
				"user_id": "ada", "attributes": m{"ip_address": fmt.Sprint("192.0.2.", i), "user_agent": fmt.Sprint("browser ", i)},
			}).want(201)
			tokens, ids = append(tokens, c.str("session_token")), append(ids, c.str("session.session_id"))
			began[c.str("session.session_id")] = time.Now().UTC().Format(time.RFC3339)
			time.Sleep(time.Minute)
		}
		bob := h.login("bob").str("session_token")
		time.Sleep(2 * time.Hour)
		used := time.Now().UTC().Format(time.RFC3339)
		h.verify(tokens[1]).want(204)
		time.Sleep(10 * time.Second)
		l := h.do(h.key, "GET", "/v1/sessions?user_id=ada", nil).want(200)
		all := l.JSON["sessions"].([]any)
		if len(all) != 4 || l.at("total") != 4.0 {
			t.Fatalf("list: %s", l.Raw)
		}
		for i, s := range all {
			s, n := s.(m), 3-i // newest first
			seen := s["last_accessed_at"].(string)
			if s["session_id"] != ids[n] || s["started_at"] != began[ids[n]] || s["attributes"].(m)["user_agent"] != fmt.Sprint("browser ", n) || s["attributes"].(m)["ip_address"] != fmt.Sprint("192.0.2.", n) ||
				n == 1 && seen[:16] != used[:16] || n != 1 && seen != began[ids[n]] {
				t.Errorf("session %d: %v, used %s", n, s, used)
			}
		}
		for _, token := range tokens {
			if strings.Contains(string(l.Raw), token) {
				t.Error("the list shows a token")
			}
		}
		r := h.do(h.key, "POST", "/v1/sessions/revoke", m{"user_id": "ada", "except_session_id": ids[2], "reason": "others"}).want(200)
		if r.at("revoked") != 3.0 {
			t.Errorf("revoke others: %s", r.Raw)
		}
		for i, token := range tokens {
			if i == 2 {
				h.verify(token).want(204)
			} else {
				h.verify(token).wantRefused("revoked")
			}
		}
		h.verify(bob).want(204)
		if got := h.good("ada"); len(got) != 1 || got[0] != ids[2] {
			t.Errorf("good: %v", got)
		}
	})
}

// TestHistoryShowsExpiry: nobody writes that a session ran out; its history says
// so, once, and when, unless it was revoked before.
func TestHistoryShowsExpiry(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		began := time.Now()
		create := func(body m) (path, token string) {
			body["user_id"] = "ada"
			c := h.do(h.key, "POST", "/v1/sessions", body).want(201)
			return "/v1/sessions/" + c.str("session.session_id"), c.str("session_token")
		}
		history := func(path string) (out []string) {
			for _, e := range h.do(h.key, "GET", path+"/events", nil).want(200).JSON["events"].([]any) {
				e := e.(m)
				at, err := time.Parse(time.RFC3339, e["at"].(string))
				if err != nil || e["revision"] == "" {
					t.Errorf("event %v", e)
				}
				line := fmt.Sprint(strings.TrimPrefix(e["type"].(string), "session."), " ", at.Sub(began).Truncate(5*time.Second)) // a use is written within a second
				if e["reason"] != nil {
					line += fmt.Sprint(" ", e["reason"])
				}
				out = append(out, line)
			}
			return out
		}
		plain, _ := create(m{"session_duration_minutes": 10})
		idle, _ := create(m{"session_duration_minutes": 60, "idle_timeout_minutes": 10})
		used, token := create(m{"session_duration_minutes": 60, "idle_timeout_minutes": 10})
		revoked, _ := create(m{"session_duration_minutes": 10})
		extended, _ := create(m{"session_duration_minutes": 10})
		late, lateToken := create(m{"session_duration_minutes": 10})
		time.Sleep(5 * time.Minute)
		h.verify(token).want(204)
		h.do(h.key, "DELETE", revoked, nil).want(200)
		h.do(h.key, "PATCH", extended, m{"session_duration_minutes": 10}).want(200)
		if got := history(plain); fmt.Sprint(got) != "[created 0s]" {
			t.Errorf("before its end: %v", got)
		}
		time.Sleep(5*time.Minute + 10*time.Second)
		h.do(h.key, "POST", "/v1/sessions/revoke", m{"session_token": lateToken, "reason": "late"}).want(200)
		time.Sleep(10 * time.Minute)
		for name, c := range map[string]struct{ path, want string }{
			"plain": {plain, "[created 0s expired 10m0s expired]"},
			// A tenth and a lease later than the timeout, as the verdict.
			"idle":     {idle, "[created 0s expired 11m15s idle]"},
			"used":     {used, "[created 0s expired 16m15s idle]"},
			"revoked":  {revoked, "[created 0s revoked 5m0s]"},
			"extended": {extended, "[created 0s extended 5m0s expired 15m0s expired]"},
			"late":     {late, "[created 0s expired 10m0s expired revoked 10m10s late]"},
		} {
			if got := fmt.Sprint(history(c.path)); got != c.want {
				t.Errorf("%s: %s, want %s", name, got, c.want)
			}
		}
	})
}

// TestTemplatesOfASession: templates carry roles, claims and an audience, and
// metadata is in no JWT.
func TestTemplatesOfASession(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		h.do(h.key, "PUT", "/v1/apps/acme/templates/plain", m{"audience": "warehouse", "ttl_seconds": 60, "claims": m{"roles": []string{"guest"}, "scope": "read"}}).want(200)
		h.do(h.key, "PUT", "/v1/apps/acme/templates/vendor", m{"jwt_profile": "stytch"}).want(200)
		mint := func(c *reply, template string) m {
			t.Helper()
			r := h.do(h.key, "POST", "/v1/sessions/"+c.str("session.session_id")+"/tokens", m{"template": template}).want(200)
			if strings.Contains(fmt.Sprint(claims(t, r.str("session_jwt"))), "hidden") {
				t.Errorf("template %s shows metadata", template)
			}
			return claims(t, r.str("session_jwt"))
		}
		c := h.do(h.key, "POST", "/v1/sessions", m{"user_id": "ada", "metadata": m{"note": "hidden"}, "session_custom_claims": m{"scope": "write", "plan": "pro"}, "authentication_factors": []m{{"type": "password"}}}).want(201)
		got := mint(c, "plain")
		if fmt.Sprint(got["aud"]) != "[warehouse]" || fmt.Sprint(got["roles"]) != "[guest]" || got["scope"] != "read" || got["plan"] != "pro" || got["exp"].(float64)-got["iat"].(float64) != 60 || got["acr"] != "aal1" {
			t.Errorf("template: %v", got)
		}
		if strings.Contains(fmt.Sprint(claims(t, c.str("session_jwt"))), "hidden") {
			t.Error("the JWT shows metadata")
		}
		// What the session itself may do is no template's to say.
		c = h.do(h.key, "POST", "/v1/sessions", m{"user_id": "ada", "metadata": m{"note": "hidden"}, "roles": []string{"admin"}, "organization_id": "o"}).want(201)
		if got := mint(c, "plain"); fmt.Sprint(got["roles"]) != "[admin]" || got["org_id"] != "o" {
			t.Errorf("template over roles: %v", got)
		}
		if got := mint(c, "vendor"); fmt.Sprint(got["https://stytch.com/session"].(m)["roles"]) != "[admin]" {
			t.Errorf("stytch template: %v", got)
		}
	})
}
