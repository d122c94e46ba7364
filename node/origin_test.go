package node_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// request is a POST with the cookie, to be changed and sent.
func (h *harness) request(path, token string) *http.Request {
	r := httptest.NewRequestWithContext(h.t.Context(), "POST", path, nil)
	r.Header.Set("Cookie", "__Host-session="+token)
	return r
}

// TestOriginSettings: what may stand in an app's origins.
func TestOriginSettings(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		set := func(origins any) *reply { return h.do(h.key, "PATCH", "/v1/apps/acme", m{"origins": origins}) }
		for _, good := range []string{
			"https://app.example.com", "https://app.example.com:8443", "https://example", "https://xn--bcher-kva.example", "https://192.0.2.7",
			"https://[2001:db8::1]:444", "http://localhost", "http://localhost:3000", "http://127.0.0.1:8080", "http://[::1]:5173", "http://app.localhost",
			"https://my_app.example.com", "https://app.example.com:80", "http://localhost:443",
		} {
			r := set([]string{good}).want(200)
			if got, _ := r.at("app.origins").([]any); len(got) != 1 || got[0] != good {
				t.Errorf("%s: %s", good, r.Raw)
			}
		}
		long := "https://" + strings.Repeat("a.", 130) + "example"
		for _, bad := range []any{
			"", "*", "null", "app.example.com", "//app.example.com", "https://", "https://*.example.com", "https://app.example.com/", "https://app.example.com/x",
			"https://app.example.com?x", "https://app.example.com#x", "https://user@app.example.com", "https://App.example.com", "HTTPS://app.example.com",
			"https://app.example.com:443", "http://localhost:80", "http://app.example.com", "http://localhost.example.com", "http://127.0.0.1.example.com", "http://127.0.0.2",
			"ftp://app.example.com", "chrome-extension://abc", "capacitor://localhost", "https://app.example.com:0", "https://app.example.com:99999x", "https://app.example.com:08443",
			"https://app.example.com ", " https://app.example.com", "https://app.example.com\n", "https://app..example.com", "https://.example.com", "https://bücher.example",
			"https://app.example.com:", "https://a,https://b", "https://app.example.com\\@evil.example", long, nil, 1, []string{"https://a"},
		} {
			set([]any{bad}).wantError(400, "invalid_argument")
		}
		set("https://app.example.com").wantError(400, "invalid_argument")
		set([]string{"https://a.example", "https://a.example"}).wantError(400, "invalid_argument")
		many := make([]string, 65)
		for i := range many {
			many[i] = "https://a" + strings.Repeat("a", i) + ".example"
		}
		set(many).wantError(400, "invalid_argument")
		set(many[:64]).want(200)
		// A list is replaced as a whole; what is not mentioned stays.
		h.do(h.key, "PATCH", "/v1/apps/acme", m{"jwt_ttl_seconds": 60}).want(200)
		if r := h.do(h.key, "GET", "/v1/apps/acme", nil).want(200); len(r.at("app.origins").([]any)) != 64 {
			t.Errorf("%s", r.Raw)
		}
		before := set([]string{page}).want(200).str("revision")
		if again := set([]string{page}).want(200).str("revision"); again != before {
			t.Errorf("the same list was written again: %s, then %s", before, again)
		}
		empty := set([]string{}).want(200)
		if len(empty.at("app.origins").([]any)) != 0 {
			t.Errorf("%s", empty.Raw)
		}
		h.newApp("other", m{"origins": []string{page}, "client_jwt_ttl_seconds": 30, "clear_site_data": true})
		h.do(h.admin, "POST", "/v1/apps", m{"app_id": "bad", "origins": []string{"null"}}).wantError(400, "invalid_argument")
		h.do(h.admin, "GET", "/v1/apps/bad", nil).wantError(404, "app_not_found")
	})
}

// lookalikes are origins that a careless comparison would take for page.
var lookalikes = []string{
	"null", "*", "https://app.example.com.evil.example", "https://evil.example/app.example.com", "https://evilapp.example.com", "https://app.example.com:443",
	"https://app.example.com:8443", "http://app.example.com", "https://App.example.com", "HTTPS://app.example.com", "https://app.example.com/", "https://app.example.com.",
	"https://app.example.co", "https://example.com", "https://www.app.example.com", "app.example.com", "https://app.example.com https://evil.example",
	"https://app.example.com,https://evil.example", "https://evil.example,https://app.example.com", "https://app.example.com@evil.example", "https://app.example.com%00",
	"https://id.example.com:443", "http://id.example.com", "https://id.example.com.evil.example",
}

// TestClientOrigins: who may call, by what the browser says of the page.
func TestClientOrigins(t *testing.T) {
	browserBubble(t, func(t *testing.T, h *harness) {
		token := h.login("ada").str("session_token")
		for _, tc := range []struct {
			name         string
			headers      []string
			cookie, bear bool // allowed with the cookie, with Bearer
			readable     string
		}{
			{"listed", []string{"Origin", page}, true, true, page},
			{"listed, another site", []string{"Origin", page, "Sec-Fetch-Site", "cross-site"}, true, true, page},
			{"listed, same site", []string{"Origin", page, "Sec-Fetch-Site", "same-site"}, true, true, page},
			{"own", []string{"Origin", publicURL, "Sec-Fetch-Site", "same-origin"}, true, true, publicURL},
			{"none, same origin", []string{"Sec-Fetch-Site", "same-origin"}, true, true, ""},
			{"no browser", nil, false, true, ""},
			{"none, another site", []string{"Sec-Fetch-Site", "cross-site"}, false, false, ""},
			{"none, same site", []string{"Sec-Fetch-Site", "same-site"}, false, false, ""},
			{"none, user", []string{"Sec-Fetch-Site", "none"}, false, false, ""},
			{"none, odd", []string{"Sec-Fetch-Site", "SAME-ORIGIN"}, false, false, ""},
			{"empty", []string{"Origin", ""}, false, false, ""},
			{"empty site", []string{"Sec-Fetch-Site", ""}, false, false, ""},
			{"not listed, same origin", []string{"Origin", "https://evil.example", "Sec-Fetch-Site", "same-origin"}, false, false, ""},
			{"not listed", []string{"Origin", "https://evil.example"}, false, false, ""},
		} {
			for _, cookie := range []bool{true, false} {
				h.origin(t, tc.name, token, cookie, tc.headers, map[bool]bool{true: tc.cookie, false: tc.bear}[cookie], tc.readable)
			}
		}
		for _, origin := range lookalikes {
			for _, site := range []string{"cross-site", "same-site", "same-origin", "none"} {
				h.origin(t, origin, token, true, []string{"Origin", origin, "Sec-Fetch-Site", site}, false, "")
			}
			h.origin(t, origin, token, false, []string{"Origin", origin}, false, "")
		}
		// Header names in any case are one header, and two of one are none.
		for _, name := range []string{"Origin", "Sec-Fetch-Site"} {
			r := h.request(refresh, token)
			r.Header["Origin"], r.Header["Sec-Fetch-Site"] = []string{page}, []string{"same-site"}
			r.Header[name] = append(r.Header[name], r.Header[name][0])
			h.send(r).wantError(403, "origin_not_allowed").wantReadableBy("")
		}
		h.verify(token).want(204)
	})
}

// origin checks one sender on both routes; a log-out is tried on a session of its own.
func (h *harness) origin(t *testing.T, name, token string, cookie bool, headers []string, allowed bool, readable string) {
	t.Helper()
	for _, path := range []string{refresh, logout} {
		shown := token
		if path == logout && allowed {
			shown = h.login("ada").str("session_token")
		}
		key, all := shown, headers
		if cookie {
			key, all = "", append([]string{"Cookie", "__Host-session=" + shown}, headers...)
		}
		r := h.do(key, "POST", path, nil, all...)
		if allowed {
			r.want(200)
		} else if r.Status != 403 || r.str("error_type") != "origin_not_allowed" || r.Header.Get("Set-Cookie") != "" {
			t.Errorf("%s %s, cookie %v: %d %s", name, path, cookie, r.Status, r.Raw)
		}
		if !allowed {
			readable = ""
		}
		r.wantReadableBy(readable)
	}
}

// TestClientOtherApp: a page of one app has no say over sessions of another, even
// where both have their cookies on this host.
func TestClientOtherApp(t *testing.T) {
	browserBubble(t, func(t *testing.T, h *harness) {
		const theirs = "https://shop.example.com"
		shop := h.newApp("shop", m{"origins": []string{theirs}})
		c := h.do(shop, "POST", "/v1/sessions", m{"user_id": "ada"}).want(201)
		token, jwt := c.str("session_token"), c.str("session_jwt")
		for _, credential := range []string{token, jwt} {
			r := h.browse(logout, page, credential).wantError(403, "origin_not_allowed")
			r.wantReadableBy("")
			if r.Header.Get("Set-Cookie") != "" {
				t.Errorf("another app's page takes the cookie away: %v", r.Header)
			}
			h.browse(logout+"?app=acme", page, credential).wantNoSession("unknown", noneOrOwn)
			h.browse(logout+"?app=shop", page, credential).wantError(403, "origin_not_allowed").wantReadableBy("")
		}
		h.browse(refresh, page, token).wantError(403, "origin_not_allowed").wantReadableBy("")
		h.browse(refresh+"?app=acme", page, token).wantNoSession("unknown", noneOrOwn)
		h.browse(refresh+"?app=shop", page, token).wantError(403, "origin_not_allowed").wantReadableBy("")
		h.browse(refresh+"?app=none", theirs, token).wantError(403, "origin_not_allowed").wantReadableBy("")
		h.browse(refresh, theirs, token).want(200).wantReadableBy(theirs)
		h.browse(refresh+"?app=shop", theirs, token).want(200)
		h.verify(token).want(204)

		// Once the app no longer lists the origin, it is not allowed; nor are those of a deleted app.
		h.do(shop, "PATCH", "/v1/apps/shop", m{"origins": []string{}}).want(200)
		h.browse(refresh, theirs, token).wantError(403, "origin_not_allowed")
		h.do(shop, "PATCH", "/v1/apps/shop", m{"origins": []string{theirs}}).want(200)
		h.browse(refresh, theirs, token).want(200)
		h.do(h.admin, "DELETE", "/v1/apps/shop", nil).want(200)
		h.browse(refresh, theirs, token).wantError(403, "origin_not_allowed").wantReadableBy("")
	})
}

func TestPreflight(t *testing.T) {
	browserBubble(t, func(t *testing.T, h *harness) {
		h.newApp("shop", m{"origins": []string{"https://shop.example.com"}})
		ask := func(path, origin string, more ...string) *reply {
			return h.do("", "OPTIONS", path, nil, append([]string{"Origin", origin, "Access-Control-Request-Method", "POST", "Access-Control-Request-Headers", "authorization,content-type"}, more...)...)
		}
		for _, path := range []string{refresh, logout, refresh + "?app=acme", logout + "?app=acme"} {
			r := ask(path, page).want(204)
			r.wantReadableBy(page)
			for name, want := range map[string]string{
				"Access-Control-Allow-Methods": "POST", "Access-Control-Max-Age": "600", "Cache-Control": "no-store",
				"Access-Control-Allow-Headers": "Authorization, Content-Type, DPoP, X-Session-Background",
			} {
				if got := r.Header.Get(name); got != want {
					t.Errorf("%s: %s %q, want %q", path, name, got, want)
				}
			}
			if len(r.Raw) != 0 {
				t.Errorf("%s: a body: %s", path, r.Raw)
			}
			ask(path, publicURL).want(204).wantReadableBy(publicURL)
			for _, origin := range append(lookalikes, "") {
				r := ask(path, origin).wantError(403, "origin_not_allowed")
				r.wantReadableBy("")
				for name := range r.Header {
					if strings.HasPrefix(name, "Access-Control-") {
						t.Errorf("%s from %s: %s", path, origin, name)
					}
				}
			}
		}
		ask(refresh, "https://shop.example.com").want(204)
		ask(refresh+"?app=acme", "https://shop.example.com").wantError(403, "origin_not_allowed")
		ask(refresh+"?app=none", page).wantError(403, "origin_not_allowed")
		h.do("", "OPTIONS", refresh, nil).wantError(403, "origin_not_allowed")

		for _, path := range []string{
			"/v1/apps/acme/jwks", "/v1/sessions/jwks/acme", "/.well-known/jwks.json", "/.well-known/openid-configuration",
			"/v1/apps/acme/.well-known/openid-configuration", "/.well-known/openid-configuration/v1/apps/acme", "/.well-known/oauth-authorization-server/v1/apps/acme",
		} {
			r := ask(path, "https://anybody.example").want(204)
			if r.Header.Get("Access-Control-Allow-Origin") != "*" || r.Header.Get("Access-Control-Allow-Credentials") != "" ||
				r.Header.Get("Access-Control-Allow-Methods") != "GET, HEAD" {
				t.Errorf("%s: %v", path, r.Header)
			}
			h.do("", "GET", path, nil, "Origin", "https://anybody.example")
		}
		// No other route says anything to pages of others.
		for _, path := range []string{"/v1/sessions", "/v1/sessions/authenticate", "/v1/apps", "/v1/apps/acme", "/v1/sessions/x/events", "/healthz", "/v1/nothing"} {
			for _, method := range []string{"OPTIONS", "GET", "POST"} {
				for name := range h.do(h.key, method, path, nil, "Origin", page, "Access-Control-Request-Method", "POST").Header {
					if strings.HasPrefix(name, "Access-Control-") {
						t.Errorf("%s %s: %s", method, path, name)
					}
				}
			}
		}
		for _, path := range []string{"/v1/verify", "/v1/verify/x?header=authorization"} {
			r := h.do(h.login("ada").str("session_token"), "GET", path, nil, "Origin", page).want(204)
			if r.Header.Get("Access-Control-Allow-Origin") != "" {
				t.Errorf("%s: %v", path, r.Header)
			}
		}
	})
}
