package node_test

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node"
)

const (
	page      = "https://app.example.com" // an origin of the app acme, see browserBubble
	refresh   = "/v1/client/refresh"
	logout    = "/v1/client/logout"
	cleared   = "__Host-session=; Path=/; Secure; HttpOnly; SameSite=Lax; Max-Age=0"
	noneOrOwn = "" // of a reply: no Set-Cookie
)

// browserBubble is bubble with an app that lists an origin.
func browserBubble(t *testing.T, test func(t *testing.T, h *harness)) {
	t.Helper()
	bubble(t, func(t *testing.T, h *harness) {
		h.do(h.key, "PATCH", "/v1/apps/acme", m{"origins": []string{page}}).want(200)
		test(t, h)
	})
}

// browse posts to a route for browsers as a page of the origin does, with the
// cookie (empty: none).
func (h *harness) browse(path, origin, token string, headers ...string) *reply {
	h.t.Helper()
	if token != "" {
		headers = append(headers, "Cookie", "a=b; __Host-session="+token)
	}
	if origin != "" {
		headers = append(headers, "Origin", origin, "Sec-Fetch-Site", "same-site")
	}
	return h.do("", "POST", path, nil, headers...)
}

// wantNoSession fails unless the answer is 401 for the reason, with the Set-Cookie.
func (r *reply) wantNoSession(reason, setCookie string) {
	r.t.Helper()
	r.wantError(401, "no_session")
	if r.str("error_details.reason") != reason || r.Header.Get("Set-Cookie") != setCookie || r.Header.Get("WWW-Authenticate") == "" {
		r.t.Errorf("%s: %s\nSet-Cookie %q; want reason %s, %q", r.call, r.Raw, r.Header.Get("Set-Cookie"), reason, setCookie)
	}
}

// wantReadableBy fails unless pages of the origin, and of no other, may read the
// answer; empty: none may.
func (r *reply) wantReadableBy(origin string) {
	r.t.Helper()
	credentials := ""
	if origin != "" {
		credentials = "true"
	}
	if r.Header.Get("Access-Control-Allow-Origin") != origin || r.Header.Get("Access-Control-Allow-Credentials") != credentials || r.Header.Get("Vary") != "Origin" {
		r.t.Errorf("%s: %v, want it readable by %q", r.call, r.Header, origin)
	}
}

func TestClientRefresh(t *testing.T) {
	browserBubble(t, func(t *testing.T, h *harness) {
		login := h.do(h.key, "POST", "/v1/sessions", m{"user_id": "ada", "idle_timeout_minutes": 30, "metadata": m{"internal": "yes"}}).want(201)
		token := login.str("session_token")
		for name, r := range map[string]*reply{
			"cookie":           h.browse(refresh, page, token),
			"cookie, own page": h.browse(refresh, publicURL, token),
			"bearer":           h.do(token, "POST", refresh, nil, "Origin", page),
			"bearer, no page":  h.do(token, "POST", refresh, nil),
			"pinned":           h.browse(refresh+"?app=acme", page, token),
			"body":             h.do(token, "POST", refresh, m{"background": false}),
		} {
			r.want(200)
			origin := map[string]string{"cookie, own page": publicURL, "bearer, no page": "", "body": ""}
			want, ok := origin[name]
			if !ok {
				want = page
			}
			r.wantReadableBy(want)
			got := claims(t, r.str("session_jwt"))
			if azp, _ := got["azp"].(string); azp != want || got["exp"].(float64)-got["iat"].(float64) != 60 || got["sub"] != "ada" {
				t.Errorf("%s: claims %v, want azp %q and 60 s", name, got, want)
			}
			if r.at("expires_in") != 60.0 || r.at("refresh_after") != 40.0 || r.str("expires_at") == "" || r.Header.Get("Cache-Control") != "no-store" ||
				r.Header.Get("Set-Cookie") != "" || r.str("session.session_id") != login.str("session.session_id") || r.str("session.idle_expires_at") == "" {
				t.Errorf("%s: %s\n%v", name, r.Raw, r.Header)
			}
			if strings.Contains(string(r.Raw), token) || strings.Contains(string(r.Raw), "internal") {
				t.Errorf("%s: shows a page what is not for it: %s", name, r.Raw)
			}
			h.verify(r.str("session_jwt")).want(204)
		}
		// Whoever follows refresh_after always has a JWT that is good, and a new one each time.
		seen := map[string]bool{}
		for range 10 {
			r := h.browse(refresh, page, token).want(200)
			jwt := r.str("session_jwt")
			if seen[jwt] {
				t.Errorf("the JWT of before again, after refresh_after")
			}
			seen[jwt] = true
			time.Sleep(time.Duration(r.at("refresh_after").(float64)) * time.Second)
			h.verify(jwt).want(204)
		}
	})
}

// TestClientTTL: the two lives are apart from each other and from the session's.
func TestClientTTL(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		token := h.login("ada").str("session_token")
		life := func(want float64) {
			t.Helper()
			r := h.do(token, "POST", refresh, nil).want(200)
			c := claims(t, r.str("session_jwt"))
			if got := c["exp"].(float64) - c["iat"].(float64); got != want || r.at("expires_in") != want {
				t.Errorf("a JWT lives %v s, want %v: %s", got, want, r.Raw)
			}
		}
		app := h.do(h.key, "GET", "/v1/apps/acme", nil).want(200)
		if app.at("app.client_jwt_ttl_seconds") != 60.0 || fmt.Sprint(app.at("app.origins")) != "[]" || app.at("app.clear_site_data") != false {
			t.Errorf("defaults: %s", app.Raw)
		}
		life(60)
		h.do(h.key, "PATCH", "/v1/apps/acme", m{"client_jwt_ttl_seconds": 90}).want(200)
		life(90)
		h.do(h.key, "PATCH", "/v1/apps/acme", m{"jwt_ttl_seconds": 45}).want(200)
		life(45) // never longer than any JWT of the app
		for _, bad := range []int{0, 29, 3601, -1} {
			h.do(h.key, "PATCH", "/v1/apps/acme", m{"client_jwt_ttl_seconds": bad}).wantError(400, "invalid_argument")
		}
		short := h.do(h.key, "POST", "/v1/sessions", m{"user_id": "ada", "session_duration_minutes": 1}).want(201)
		time.Sleep(50 * time.Second)
		r := h.do(short.str("session_token"), "POST", refresh, nil).want(200)
		if r.at("expires_in") != 10.0 || r.at("refresh_after") != 6.0 {
			t.Errorf("a JWT outlives its session: %s", r.Raw)
		}
	})
}

// TestClientTabs: tabs that ask at once all get the same JWT; other pages another.
func TestClientTabs(t *testing.T) {
	browserBubble(t, func(t *testing.T, h *harness) {
		const other = "https://admin.example.com"
		h.do(h.key, "PATCH", "/v1/apps/acme", m{"origins": []string{page, other}}).want(200)
		token := h.login("ada").str("session_token")
		for range 3 {
			jwts := map[string]map[string]int{page: {}, other: {}}
			var mu sync.Mutex
			var tabs sync.WaitGroup
			for i := range 60 {
				origin := []string{page, other}[i%2]
				tabs.Go(func() {
					r := h.browse(refresh, origin, token)
					mu.Lock()
					defer mu.Unlock()
					jwts[origin][fmt.Sprint(r.Status, r.str("session_jwt"))]++
				})
			}
			tabs.Wait()
			if len(jwts[page]) != 1 || len(jwts[other]) != 1 {
				t.Errorf("tabs got %d and %d answers: %v", len(jwts[page]), len(jwts[other]), jwts)
			}
			for jwt := range jwts[page] {
				if jwts[other][jwt] != 0 || !strings.HasPrefix(jwt, "200ey") {
					t.Errorf("pages of two origins share %s", jwt)
				}
			}
			time.Sleep(40 * time.Second)
		}
	})
}

// TestClientBackground: what the user did not ask for keeps no idle session alive.
func TestClientBackground(t *testing.T) {
	browserBubble(t, func(t *testing.T, h *harness) {
		for name, tc := range map[string]struct {
			body    any
			headers []string
			alive   bool
		}{
			"used":              {nil, nil, true},
			"body":              {m{"background": true}, nil, false},
			"header":            {nil, []string{"X-Session-Background", "1"}, false},
			"header, body says": {m{"background": false}, []string{"X-Session-Background", ""}, false},
		} {
			token := h.do(h.key, "POST", "/v1/sessions", m{"user_id": "ada", "idle_timeout_minutes": 10}).want(201).str("session_token")
			last := 200
			for range 30 {
				time.Sleep(time.Minute)
				last = h.do(token, "POST", refresh, tc.body, tc.headers...).Status
			}
			if alive := last == 200; alive != tc.alive {
				t.Errorf("%s: after 30 minutes %d", name, last)
			}
		}
	})
}

func TestClientRefusals(t *testing.T) {
	browserBubble(t, func(t *testing.T, h *harness) {
		shut := h.newApp("shut", m{"origins": []string{page}})
		inShut := h.do(shut, "POST", "/v1/sessions", m{"user_id": "ada"}).want(201)
		h.do(h.admin, "POST", "/v1/apps/shut/suspend", nil).want(200)
		h.newApp("gone", m{"origins": []string{page}})
		c, gone := h.login("ada"), h.login("ada")
		brief := h.do(h.key, "POST", "/v1/sessions", m{"user_id": "ada", "session_duration_minutes": 1}).want(201).str("session_token")
		idle := h.do(h.key, "POST", "/v1/sessions", m{"user_id": "ada", "idle_timeout_minutes": 1}).want(201).str("session_token")
		h.do(h.key, "DELETE", "/v1/sessions/"+gone.str("session.session_id"), nil).want(200)
		time.Sleep(100 * time.Second)
		token, jwt := c.str("session_token"), c.str("session_jwt")
		unknown := events.NewToken(2).Reveal()

		h.browse(refresh, page, gone.str("session_token")).wantNoSession("revoked", cleared)
		h.do("", "POST", refresh, m{"background": true}, "Origin", page, "Cookie", "__Host-session="+gone.str("session_token")).wantNoSession("revoked", "")
		h.browse(refresh, page, brief).wantNoSession("expired", cleared)
		h.browse(refresh, page, idle).wantNoSession("idle", cleared)
		h.browse(refresh, page, unknown).wantNoSession("unknown", cleared)
		// What may be good elsewhere, or for another app, is left to the browser.
		h.browse(refresh+"?app=gone", page, token).wantNoSession("unknown", noneOrOwn)
		h.browse(refresh+"?app=gone", page, unknown).wantNoSession("unknown", noneOrOwn)
		h.browse(refresh, page, "a-token-of-another-system").wantNoSession("malformed", noneOrOwn)
		h.browse(refresh, page, jwt).wantNoSession("token_needed", noneOrOwn)
		h.browse(refresh, page, "").wantNoSession("missing", noneOrOwn)
		h.browse(refresh, page, strings.Repeat("x", 8<<10)).wantError(431, "header_too_large")
		h.do(gone.str("session_token"), "POST", refresh, nil).wantNoSession("revoked", noneOrOwn)
		h.do(jwt, "POST", refresh, nil).wantNoSession("token_needed", noneOrOwn)
		h.do(h.key, "POST", refresh, nil, "Origin", page).wantNoSession("missing", noneOrOwn)
		h.do("", "POST", refresh+"?session_token="+token, nil, "Origin", page).wantError(400, "invalid_argument")
		h.browse(refresh+"?other=1", page, token).wantError(400, "invalid_argument")
		h.do("", "POST", refresh, m{}, "Cookie", "session="+token, "Origin", page).wantNoSession("missing", noneOrOwn)
		h.browse(refresh, page, inShut.str("session_token")).wantError(403, "app_suspended").wantReadableBy(page)

		// The credential counts in the order of Authorization, cookie.
		h.browse(refresh, page, token, "Authorization", "Bearer "+unknown).wantNoSession("unknown", noneOrOwn)
		h.browse(refresh, page, unknown, "Authorization", "Bearer "+token).want(200)

		for body, kind := range map[string]string{
			`{"background":1}`: "invalid_argument", `{"x":true}`: "invalid_argument", `[]`: "invalid_argument", `{"background":true,"background":true}`: "invalid_argument",
		} {
			h.do(token, "POST", refresh, body).wantError(400, kind)
			h.do(token, "POST", logout, body).wantError(400, kind)
		}
		h.do(token, "POST", logout, `{"background":true}`).wantError(400, "invalid_argument")
		for _, media := range []string{"text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""} {
			h.do(token, "POST", refresh, `{"background":true}`, "Content-Type", media).wantError(415, "unsupported_media_type")
			h.do(token, "POST", logout, `{}`, "Content-Type", media).wantError(415, "unsupported_media_type")
		}
		h.do(token, "POST", refresh, strings.Repeat(" ", 70<<10)).wantError(413, "body_too_large")
		for _, query := range []string{"?app=", "?app=a&app=b", "?app=acme&app=acme", "?%zz"} {
			h.do(token, "POST", refresh+query, nil).wantError(400, "invalid_argument")
		}
		for _, method := range []string{"GET", "PUT", "DELETE", "HEAD"} {
			if r := h.do(token, method, refresh, nil).want(405); r.Header.Get("Allow") != "OPTIONS, POST" {
				t.Errorf("%s: Allow %q", method, r.Header.Get("Allow"))
			}
		}
		h.verify(token).want(204) // nothing of all that ended it
	})
}

// TestClientRevokedWhileSending: the session is judged once the request is read.
func TestClientRevokedWhileSending(t *testing.T) {
	browserBubble(t, func(t *testing.T, h *harness) {
		c := h.login("ada")
		finish := h.sending(c.str("session_token"), refresh, `{"background":true}`)
		h.do(h.key, "DELETE", "/v1/sessions/"+c.str("session.session_id"), nil).want(200)
		finish().wantNoSession("revoked", noneOrOwn)
	})
}

// TestClientFenced: a node that may be behind takes nobody's cookie away.
func TestClientFenced(t *testing.T) {
	browserBubble(t, func(t *testing.T, h *harness) {
		again := h.do(h.newApp("again", m{"when_stale": "reauth", "origins": []string{page}}), "POST", "/v1/sessions", m{"user_id": "ada"}).want(201)
		served := h.do(h.newApp("served", m{"when_stale": "serve", "origins": []string{page}}), "POST", "/v1/sessions", m{"user_id": "ada"}).want(201)
		token, gone := h.login("ada").str("session_token"), h.login("ada").str("session_token")
		h.do(h.key, "POST", "/v1/sessions/revoke", m{"session_token": gone}).want(200)
		h.home.Cut()
		time.Sleep(16 * time.Second)
		for _, path := range []string{refresh, logout} {
			for _, credential := range []string{token, gone, events.NewToken(2).Reveal(), served.str("session_token")} {
				r := h.browse(path, page, credential)
				r.wantReadableBy(page)
				if r.want(503).Header.Get("Retry-After") == "" || r.Header.Get("Set-Cookie") != "" {
					t.Errorf("%s: %v", path, r.Header)
				}
			}
		}
		r := h.browse(refresh, page, again.str("session_token")).wantError(401, "session_home_unreachable")
		if r.Header.Get("Set-Cookie") != "" {
			t.Errorf("reauth takes the cookie away: %v", r.Header)
		}
		h.home.Heal()
		time.Sleep(5 * time.Second)
		h.browse(refresh, page, token).want(200)
		h.browse(refresh, page, gone).wantNoSession("revoked", cleared)
	})
}

func TestSetCookie(t *testing.T) {
	browserBubble(t, func(t *testing.T, h *harness) {
		cookie := func(token string, age int) string {
			return fmt.Sprintf("__Host-session=%s; Path=/; Secure; HttpOnly; SameSite=Lax; Max-Age=%d", token, age)
		}
		want := func(name, got, want string) {
			t.Helper()
			if got != want || len(got) > 4096 {
				t.Errorf("%s: %q, want %q", name, got, want)
			}
			if c, err := http.ParseSetCookie(got); err != nil || c.Valid() != nil || c.Domain != "" {
				t.Errorf("%s: net/http takes it for %+v, %v", name, c, err)
			}
		}
		if r := h.login("ada"); r.at("set_cookie") != nil {
			t.Errorf("a cookie nobody asked for: %s", r.Raw)
		}
		r := h.do(h.key, "POST", "/v1/sessions", m{"user_id": "ada", "session_duration_minutes": 60, "set_cookie": true}, "Idempotency-Key", "k").want(201)
		token := r.str("session_token")
		want("create", r.str("set_cookie"), cookie(token, 3600))
		r = h.do(h.key, "POST", "/v1/sessions", m{"user_id": "ada", "session_duration_minutes": 60, "set_cookie": true}, "Idempotency-Key", "k").want(201)
		want("create again", r.str("set_cookie"), cookie(token, 3600))
		h.do(h.key, "POST", "/v1/sessions", m{"user_id": "ada", "session_duration_minutes": 60}, "Idempotency-Key", "k").wantError(422, "idempotency_key_reused")
		h.do(h.key, "POST", "/v1/sessions", m{"user_id": "ada", "set_cookie": "yes"}).wantError(400, "invalid_argument")

		// The cookie lasts as long as the session does by now.
		time.Sleep(10 * time.Minute)
		h.do(h.key, "POST", "/v1/sessions/authenticate", m{"session_token": token, "session_duration_minutes": 120}).want(200)
		renewed := h.do("", "POST", refresh, m{"set_cookie": true}, "Cookie", "__Host-session="+token, "Origin", page).want(200)
		want("refresh", renewed.Header.Get("Set-Cookie"), cookie(token, 7200))

		r = h.do(h.key, "POST", "/v1/sessions/rotate", m{"session_token": token, "grace_seconds": 30, "set_cookie": true}).want(200)
		next := r.str("session_token")
		want("rotate", r.str("set_cookie"), cookie(next, 7200))
		// Within its grace the old cookie is renewed to the new one; afterwards it is none.
		renewed = h.do("", "POST", refresh, m{"set_cookie": true}, "Cookie", "__Host-session="+token, "Origin", page).want(200)
		want("refresh, rotated", renewed.Header.Get("Set-Cookie"), cookie(next, 7200))
		if strings.Contains(string(renewed.Raw), next) {
			t.Errorf("a page can read the token: %s", renewed.Raw)
		}
		time.Sleep(31 * time.Second)
		h.browse(refresh, page, token).wantError(401, "no_session")
		h.browse(refresh, page, next).want(200)
	})
}

// TestClientLongJWT: one that no cookie holds is reported.
func TestClientLongJWT(t *testing.T) {
	browserBubble(t, func(t *testing.T, h *harness) {
		r := h.do(h.key, "POST", "/v1/sessions", m{"user_id": "ada", "session_custom_claims": m{"long": strings.Repeat("x", 4000)}}).want(201)
		if got := r.Header.Get("X-Session-Warning"); got != "jwt_over_4096_bytes" {
			t.Errorf("create: X-Session-Warning %q", got)
		}
		r = h.browse(refresh, page, r.str("session_token")).want(200)
		if got := r.Header.Get("X-Session-Warning"); got != "jwt_over_4096_bytes" || !strings.Contains(r.Header.Get("Access-Control-Expose-Headers"), "X-Session-Warning") {
			t.Errorf("refresh: %v", r.Header)
		}
	})
}

// TestClientPrivateElsewhere: a token that was rotated away while the node waited
// for the private part of the newer state is no token any more.
func TestClientPrivateElsewhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t, func(c *node.Config) { c.Solo = false })
		late, _ := h.another(func(c *node.Config) { c.Private = node.PrivateLog })
		late.start()
		time.Sleep(2 * time.Second)
		c := h.do(h.key, "POST", "/v1/sessions", rich("ada")).want(201)
		time.Sleep(time.Second)
		if r := late.do(c.str("session_token"), "POST", refresh, nil).want(200); claims(t, r.str("session_jwt"))["plan"] != "pro <&>" {
			t.Errorf("%s", r.Raw)
		}
		late.do(late.key, "POST", "/v1/sessions/rotate", m{"session_token": c.str("session_token"), "grace_seconds": 0}).want(200)
		late.do(c.str("session_token"), "POST", refresh, nil).wantError(401, "no_session")
	})
}

// TestClientQueryIsNotLogged is S14: a token in a URL is no credential, and shows
// up nowhere.
func TestClientQueryIsNotLogged(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		token := h.login("ada").str("session_token")
		for _, path := range []string{refresh, logout, "/v1/verify", "/v1/nothing"} {
			r := h.do("", "POST", path+"?token="+url.QueryEscape(token), nil, "Origin", publicURL)
			if strings.Contains(string(r.Raw)+fmt.Sprint(r.Header), token) {
				t.Errorf("%s: %s %v", path, r.Raw, r.Header)
			}
		}
		h.verify(token).want(204)
	})
}

// TestClientBound: a session that is bound to a key is refreshed only by whoever
// proves to have it; it can be ended by whoever has its token.
func TestClientBound(t *testing.T) {
	browserBubble(t, func(t *testing.T, h *harness) {
		d := newDevice(t)
		token := d.login(h).str("session_token")
		for name, r := range map[string]*reply{
			"bearer":            h.do(token, "POST", refresh, nil),
			"bearer, proof":     h.do(token, "POST", refresh, nil, "DPoP", d.proof("POST", publicURL+refresh, token)),
			"cookie":            h.browse(refresh, page, token),
			"no proof":          h.do("", "POST", refresh, nil, "Authorization", "DPoP "+token),
			"of another method": h.do("", "POST", refresh, nil, "Authorization", "DPoP "+token, "DPoP", d.proof("GET", publicURL+refresh, token)),
			"of another route":  h.do("", "POST", refresh, nil, "Authorization", "DPoP "+token, "DPoP", d.proof("POST", publicURL+logout, token)),
			"of another key":    h.do("", "POST", refresh, nil, "Authorization", "DPoP "+token, "DPoP", newDevice(t).proof("POST", publicURL+refresh, token)),
		} {
			if r.wantError(401, "invalid_dpop_proof"); r.Header.Get("Set-Cookie") != "" || !strings.HasPrefix(r.Header.Get("WWW-Authenticate"), "DPoP ") {
				t.Errorf("%s: %v", name, r.Header)
			}
		}
		proof := d.proof("POST", publicURL+refresh, token)
		r := h.do("", "POST", refresh, nil, "Authorization", "DPoP "+token, "DPoP", proof, "Origin", page).want(200)
		if cnf, _ := claims(t, r.str("session_jwt"))["cnf"].(m); cnf["jkt"] != d.jkt {
			t.Errorf("cnf %v", cnf)
		}
		h.do("", "POST", refresh, nil, "Authorization", "DPoP "+token, "DPoP", proof).wantError(401, "invalid_dpop_proof") // twice
		h.do("", "POST", refresh, nil, "Cookie", "__Host-session="+token, "Origin", page, "DPoP", d.proof("POST", publicURL+refresh, token)).want(200)
		h.browse(logout, page, token).want(200)
		h.do("", "POST", refresh, nil, "Authorization", "DPoP "+token, "DPoP", d.proof("POST", publicURL+refresh, token)).wantNoSession("revoked", noneOrOwn)
	})
}
