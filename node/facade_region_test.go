package node_test

import (
	"net/http"
	"strings"
	"testing"
	"time"
)

// TestFacadeOutOfReach: what is asked of a session whose region is out of reach
// is 503; a revocation of it counts at once and is delivered later; lists say
// whose sessions they lack.
func TestFacadeOutOfReach(t *testing.T) {
	continentsBubble(t, func(t *testing.T, c *continents) {
		eu, us := c.nodes["eu1"], c.nodes["us1"]
		eu.do(eu.key, "PATCH", "/v1/apps/acme", m{"compat": []string{"streambird", "clerk"}}).want(200)
		one, two := us.login("ada"), us.login("ada")
		here := eu.login("ada").str("session.session_id")
		time.Sleep(2 * time.Second)
		sids := []string{one.str("session.session_id"), two.str("session.session_id")}
		c.cut()
		time.Sleep(20 * time.Second)

		eu.do(eu.key, "GET", "/clerk/v1/sessions/"+sids[0], nil).wantClerk(503, "node_stale")
		eu.do(eu.key, "POST", "/v1/auth/sessions/verify", m{"session_token": one.str("session_token")}).wantError(503, "node_stale")
		for _, path := range []string{"/clerk/v1/sessions?user_id=ada", "/v1/auth/sessions/list?user_id=ada"} {
			r := eu.do(eu.key, "GET", path, nil).want(200)
			if got := r.Header.Values("X-Session-Incomplete"); len(got) != 1 || got[0] != "us" {
				t.Errorf("%s: X-Session-Incomplete %v", path, got)
			}
			if text := string(r.Raw); !strings.Contains(text, here) || strings.Contains(text, sids[0]) {
				t.Errorf("%s: %s", path, text)
			}
		}
		r := eu.do(eu.key, "DELETE", "/v1/auth/sessions/delete", m{"session_id": sids[0]}).want(http.StatusAccepted)
		if !strings.Contains(r.str("message"), "out of reach") {
			t.Errorf("%s", r.Raw)
		}
		r = eu.do(eu.key, "POST", "/clerk/v1/sessions/"+sids[1]+"/revoke", nil).want(200)
		if r.str("status") != "revoked" || r.str("id") != sids[1] || r.str("object") != "session" {
			t.Errorf("%s", r.Raw)
		}
		c.heal()
		time.Sleep(20 * time.Second)
		for _, s := range []*reply{one, two} {
			us.do(us.key, "POST", "/v1/auth/sessions/verify", m{"session_token": s.str("session_token")}).wantError(404, "session_not_found")
		}
		r = eu.do(eu.key, "GET", "/clerk/v1/sessions?user_id=ada&paginated=true", nil).want(200)
		if len(r.Header.Values("X-Session-Incomplete")) != 0 || r.at("total_count") != 3.0 {
			t.Errorf("%s", r.Raw)
		}
	})
}
