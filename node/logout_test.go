package node_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/revocast/revocast/events"
)

func TestClientLogout(t *testing.T) {
	browserBubble(t, func(t *testing.T, h *harness) {
		out := func(r *reply) *reply {
			t.Helper()
			if r.want(200); r.Header.Get("Cache-Control") != "no-store" || r.JSON["status_code"] != 200.0 {
				t.Errorf("%s: %s %v", r.call, r.Raw, r.Header)
			}
			return r
		}
		c := h.login("ada")
		r := out(h.browse(logout, page, c.str("session_token")))
		r.wantReadableBy(page)
		if r.Header.Get("Set-Cookie") != cleared || r.str("revision") == "" || r.Header.Get("Clear-Site-Data") != "" {
			t.Errorf("%s %v", r.Raw, r.Header)
		}
		h.wantVerify(c.str("session_token"), 401, "revoked")
		h.wantVerify(c.str("session_jwt"), 401, "revoked")
		info := h.do(h.key, "GET", "/v1/sessions/"+c.str("session.session_id"), nil).want(200)
		if info.str("session.revoked_by") != "user" || info.str("session.revoke_reason") != "logout" {
			t.Errorf("%s", info.Raw)
		}
		// Again, of what is not known, and of nothing: they are logged out.
		for name, credential := range map[string]string{"again": c.str("session_token"), "unknown": events.NewToken(2).Reveal(), "nothing": ""} {
			if r := out(h.browse(logout, page, credential)); r.Header.Get("Set-Cookie") != cleared {
				t.Errorf("%s: %v", name, r.Header)
			}
		}
		if r := out(h.do(c.str("session_jwt"), "POST", logout, nil)); r.Header.Get("Set-Cookie") != "" {
			t.Errorf("a JWT that has ended, as Bearer: %v", r.Header)
		}
		// A live JWT will do; one that has expired proves nothing, and nobody is told that they are logged out.
		c = h.login("ada")
		time.Sleep(301 * time.Second)
		h.browse(logout, page, c.str("session_jwt")).wantNoSession("expired", noneOrOwn)
		h.verify(c.str("session_token")).want(204)
		live := h.browse(refresh, page, c.str("session_token")).want(200).str("session_jwt")
		out(h.do(live, "POST", logout, nil, "Origin", page))
		h.wantVerify(c.str("session_token"), 401, "revoked")

		forged := live[:len(live)-8] + "AAAAAAAA"
		h.browse(logout, page, forged).wantNoSession("unknown", noneOrOwn)
		h.browse(logout, page, "a-token-of-another-system").wantNoSession("malformed", noneOrOwn)
		h.browse(logout+"?app=acme", page, "a-token-of-another-system").wantNoSession("unknown", noneOrOwn)
		h.do(h.key, "POST", logout, nil).want(403) // without a page and a cookie it could be any browser

		h.do(h.key, "PATCH", "/v1/apps/acme", m{"clear_site_data": true}).want(200)
		if r := out(h.browse(logout, page, h.login("ada").str("session_token"))); r.Header.Get("Clear-Site-Data") != `"cookies", "storage"` {
			t.Errorf("%v", r.Header)
		}
		// A suspended app's sessions can be ended.
		token := h.login("ada").str("session_token")
		h.do(h.admin, "POST", "/v1/apps/acme/suspend", nil).want(200)
		out(h.browse(logout, page, token))
		h.do(h.admin, "POST", "/v1/apps/acme/resume", nil).want(200)
		h.wantVerify(token, 401, "revoked")
	})
}

// TestClientLogoutPending: what the home cannot take now is recorded, and said so.
func TestClientLogoutPending(t *testing.T) {
	continentsBubble(t, func(t *testing.T, c *continents) {
		eu1, us1 := c.nodes["eu1"], c.nodes["us1"]
		eu1.do(eu1.key, "PATCH", "/v1/apps/acme", m{"origins": []string{page}}).want(200)
		token, jwt := us1.login("ada").str("session_token"), us1.login("ada").str("session_jwt")
		time.Sleep(time.Second)
		c.cut()
		for _, credential := range []string{token, jwt} {
			r := eu1.browse(logout, page, credential).want(202)
			if fmt.Sprint(r.at("pending")) != "[us]" || r.str("revision") == "" || r.Header.Get("Set-Cookie") != cleared {
				t.Errorf("%s %v", r.Raw, r.Header)
			}
			synctest.Wait()
			eu1.wantVerify(credential, 401, "revoked")
		}
		time.Sleep(time.Minute)
		// Nobody can have made-up tokens recorded.
		eu1.browse(logout, page, events.NewToken(3).Reveal()).want(503)
		c.heal()
		time.Sleep(time.Minute)
		us1.wantVerify(token, 401, "revoked")
	})
}
