package node_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/revocast/revocast/events"
)

// verifyHeaders are on every answer of /v1/verify.
var verifyHeaders = []string{
	"X-Request-Id", "Cache-Control", "X-Session-Id", "X-Session-User", "X-Session-App", "X-Session-Expires",
	"X-Session-Reason", "X-Session-Staleness-Ms", "X-Session-Jwt",
}

func TestVerifyHeaders(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		shut := h.newApp("shut", nil)
		inShut := h.do(shut, "POST", "/v1/sessions", m{"user_id": "ada"}).want(201)
		reauth := h.do(h.newApp("reauth", m{"when_stale": "reauth"}), "POST", "/v1/sessions", m{"user_id": "ada"}).want(201)
		h.do(h.admin, "POST", "/v1/apps/shut/suspend", nil).want(200)
		c, gone := h.login("ada lovelace"), h.login("ada")
		h.do(h.key, "DELETE", "/v1/sessions/"+gone.str("session.session_id"), nil).want(200)
		brief := h.do(h.key, "POST", "/v1/sessions", m{"user_id": "ada", "session_duration_minutes": 1}).want(201)
		idle := h.do(h.key, "POST", "/v1/sessions", m{"user_id": "ada", "idle_timeout_minutes": 1}).want(201)
		time.Sleep(100 * time.Second)

		check := func(name, credential, query string, status int, reason string) *reply {
			t.Helper()
			r := h.do(credential, "GET", "/v1/verify"+query, nil)
			if r.Status != status || r.Header.Get("X-Session-Reason") != reason {
				t.Errorf("%s: %d %q, want %d %q", name, r.Status, r.Header.Get("X-Session-Reason"), status, reason)
			}
			for _, k := range verifyHeaders {
				if len(r.Header[k]) != 1 || r.Header[k][0] == "" {
					t.Errorf("%s: header %s is %q", name, k, r.Header[k])
				}
			}
			if r.Header.Get("Cache-Control") != "no-store" {
				t.Errorf("%s: Cache-Control %q", name, r.Header.Get("Cache-Control"))
			}
			if (status == 401) != (r.Header.Get("WWW-Authenticate") != "") || (status == 503) != (r.Header.Get("Retry-After") != "") {
				t.Errorf("%s: %v", name, r.Header)
			}
			if len(r.Raw) != 0 && query == "" {
				t.Errorf("%s: body %s", name, r.Raw)
			}
			if status != 204 && status != 200 && (r.Header.Get("X-Session-Id") != "-" || r.Header.Get("X-Session-User") != "-") {
				t.Errorf("%s: says whose it is: %v", name, r.Header)
			}
			return r
		}
		token := c.str("session_token")
		ok := check("good", token, "", 204, "-")
		end, err := strconv.ParseInt(ok.Header.Get("X-Session-Expires"), 10, 64)
		want, _ := time.Parse(time.RFC3339, c.str("session.expires_at"))
		if err != nil || end != want.Unix() || ok.Header.Get("X-Session-Id") != c.str("session.session_id") ||
			ok.Header.Get("X-Session-App") != "acme" || ok.Header.Get("X-Session-User") != "ada%20lovelace" || ok.Header.Get("X-Session-Jwt") != "-" {
			t.Errorf("good: %v", ok.Header)
		}
		minted := check("with a JWT", token, "?jwt=1", 204, "-").Header.Get("X-Session-Jwt")
		check("that JWT", minted, "", 204, "-")
		b := check("with a body", token, "?body=1", 200, "-")
		if b.str("user_id") != "ada lovelace" || b.str("session_id") != c.str("session.session_id") || b.str("revision") == "" {
			t.Errorf("body: %s", b.Raw)
		}
		check("revoked", gone.str("session_token"), "", 401, "revoked")
		check("expired", brief.str("session_token"), "", 401, "expired")
		check("idle", idle.str("session_token"), "", 401, "idle")
		check("unknown", string(events.NewToken(2).Reveal()), "", 401, "unknown")
		check("no such stream", string(events.NewToken(99).Reveal()), "", 401, "unknown")
		check("malformed", "junk", "", 401, "malformed")
		check("malformed JWT", "a.b.c", "", 401, "malformed")
		check("over the limit", strings.Repeat("x", 9000), "", 401, "malformed")
		check("missing", "", "", 401, "missing")
		check("an API key", h.key, "", 401, "missing")
		check("suspended", inShut.str("session_token"), "", 403, "app_suspended")
		check("suspended, body", inShut.str("session_token"), "?body=1", 403, "app_suspended").wantError(403, "app_suspended")
		r := check("revoked, body", gone.str("session_token"), "?body=1", 401, "revoked")
		if r.str("error_type") != "session_not_found" || r.str("error_details.reason") != "revoked" || r.at("status_code") != 401.0 {
			t.Errorf("body: %s", r.Raw)
		}

		h.home.Cut()
		time.Sleep(16 * time.Second)
		check("fenced", token, "", 503, "silent")
		check("fenced, unknown", string(events.NewToken(2).Reveal()), "", 503, "silent")
		check("fenced, JWT", minted, "", 503, "silent")
		check("fenced, body", token, "?body=1", 503, "silent").wantError(503, "node_stale")
		check("fenced, reauth", reauth.str("session_token"), "", 401, "session_home_unreachable")
	})
}

func TestVerifyCredentials(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		token, jwt := h.login("ada").str("session_token"), h.login("ada").str("session_jwt")
		bad := string(events.NewToken(2).Reveal())
		type headers = []string
		for _, tc := range []struct {
			name, method, path, body string
			headers                  headers
			status                   int
			reason                   string
		}{
			{"bearer", "GET", "/v1/verify", "", headers{"Authorization", "Bearer " + token}, 204, "-"},
			{"bearer, spelled otherwise", "GET", "/v1/verify", "", headers{"Authorization", "bEARER   " + token + " "}, 204, "-"},
			{"below", "GET", "/v1/verify/a/../b%2f/c", "", headers{"Authorization", "Bearer " + token}, 204, "-"},
			{"below, POST", "POST", "/v1/verify/x", "", headers{"Authorization", "Bearer " + jwt}, 204, "-"},
			{"head", "HEAD", "/v1/verify", "", headers{"Authorization", "Bearer " + jwt}, 204, "-"},
			{"no scheme", "GET", "/v1/verify", "", headers{"Authorization", token}, 401, "missing"},
			{"basic", "GET", "/v1/verify", "", headers{"Authorization", "Basic " + token}, 401, "missing"},
			{"empty bearer", "GET", "/v1/verify", "", headers{"Authorization", "Bearer "}, 401, "malformed"},
			{"cookie", "GET", "/v1/verify", "", headers{"Cookie", "a=b; session=" + token}, 204, "-"},
			{"quoted cookie", "GET", "/v1/verify", "", headers{"Cookie", `session="` + jwt + `"; c`}, 204, "-"},
			{"host cookie first", "GET", "/v1/verify", "", headers{"Cookie", "session=" + bad + ";__Host-session=" + token}, 204, "-"},
			{"another cookie", "GET", "/v1/verify", "", headers{"Cookie", "xsession=" + token + "; session2=" + token}, 401, "missing"},
			{"header before cookie", "GET", "/v1/verify", "", headers{"Authorization", "Bearer " + bad, "Cookie", "session=" + token}, 401, "unknown"},
			{"body token", "POST", "/v1/verify", `{"session_token":"` + token + `"}`, nil, 204, "-"},
			{"body JWT", "POST", "/v1/verify", `{"session_jwt":"` + jwt + `"}`, nil, 204, "-"},
			{"body with an API key", "POST", "/v1/verify", `{"session_jwt":"` + jwt + `"}`, headers{"Authorization", "Bearer " + h.key}, 204, "-"},
			{"body JWT as token", "POST", "/v1/verify", `{"session_token":"` + jwt + `"}`, nil, 401, "malformed"},
			{"body with both", "POST", "/v1/verify", `{"session_token":"` + token + `","session_jwt":"` + jwt + `"}`, nil, 401, "malformed"},
			{"body with more", "POST", "/v1/verify", `{"session_token":"` + token + `","x":1}`, nil, 401, "malformed"},
			{"body too large", "POST", "/v1/verify", strings.Repeat(" ", 70<<10) + "{}", headers{"Authorization", "Bearer " + token}, 401, "malformed"},
			{"body, not JSON", "POST", "/v1/verify", `{"session_token":"` + token + `"}`, headers{"Content-Type", "text/plain"}, 401, "missing"},
			{"empty body", "POST", "/v1/verify", `{}`, nil, 401, "missing"},
			{"body of a GET", "GET", "/v1/verify", `{"session_token":"` + token + `"}`, nil, 401, "missing"},
			{"never from the URL", "GET", "/v1/verify?session_token=" + token + "&token=" + token + "&access_token=" + token, "", nil, 401, "missing"},
			{"original query", "GET", "/v1/verify/x?page=2&q=a%20b", "", headers{"Authorization", "Bearer " + token}, 204, "-"},
			{"pinned", "GET", "/v1/verify?app=acme", "", headers{"Authorization", "Bearer " + token}, 204, "-"},
			{"pinned twice alike", "GET", "/v1/verify?app=acme&app=acme", "", headers{"Authorization", "Bearer " + token}, 204, "-"},
			{"pinned elsewhere", "GET", "/v1/verify?app=none", "", headers{"Authorization", "Bearer " + jwt}, 401, "unknown"},
			{"two pins", "GET", "/v1/verify?app=acme&app=none", "", headers{"Authorization", "Bearer " + token}, 401, "malformed"},
			{"empty pin", "GET", "/v1/verify?app=", "", headers{"Authorization", "Bearer " + token}, 401, "malformed"},
			{"unreadable query", "GET", "/v1/verify?app=none;x=1&%zz", "", headers{"Authorization", "Bearer " + token}, 401, "malformed"},
		} {
			var body any
			if tc.body != "" {
				body = tc.body
			}
			r := h.do("", tc.method, tc.path, body, tc.headers...)
			if r.Status != tc.status || r.Header.Get("X-Session-Reason") != tc.reason {
				t.Errorf("%s: %d %q, want %d %q", tc.name, r.Status, r.Header.Get("X-Session-Reason"), tc.status, tc.reason)
			}
		}
		r := httptest.NewRequest("GET", "/v1/verify", nil)
		r.Header["Authorization"] = []string{"Bearer " + token, "Bearer " + token}
		w := httptest.NewRecorder()
		h.handler.ServeHTTP(w, r)
		if w.Code != 401 {
			t.Errorf("two Authorization headers: %d", w.Code)
		}
	})
}

// TestVerifyReadsTheBodyFirst revokes a session while a slow sender is still
// sending: the answer must not be as old as the beginning of the request.
func TestVerifyReadsTheBodyFirst(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		c := h.login("ada")
		for name, r := range map[string]*http.Request{
			"body":  httptest.NewRequest("POST", "/v1/verify", nil),
			"spare": httptest.NewRequest("POST", "/v1/verify", nil),
		} {
			cr := h.login("ada")
			slow, sender := io.Pipe()
			r.Body = slow
			r.Header.Set("Content-Type", "application/json")
			content := `{"session_token":"` + cr.str("session_token") + `"}`
			if name == "spare" {
				r.Header.Set("Authorization", "Bearer "+cr.str("session_token"))
			}
			done := make(chan int, 1)
			go func() {
				w := httptest.NewRecorder()
				h.handler.ServeHTTP(w, r)
				done <- w.Code
			}()
			_, _ = sender.Write([]byte(content))
			time.Sleep(time.Second)
			h.do(h.key, "DELETE", "/v1/sessions/"+cr.str("session.session_id"), nil).want(200)
			_ = sender.Close()
			if status := <-done; status != 401 {
				t.Errorf("%s: revoked while the body was sent, and answered %d", name, status)
			}
		}
		h.verify(c.str("session_token")).want(204)
	})
}

func TestVerifyOfAnAppThatIsShut(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		key := h.newApp("shut", nil)
		c := h.do(key, "POST", "/v1/sessions", m{"user_id": "ada"}).want(201)
		h.do(h.admin, "POST", "/v1/apps/shut/suspend", nil).want(200)
		h.verify(c.str("session_jwt")).want(403)
		// Revoking goes on.
		r := h.do(h.admin, "POST", "/v1/sessions/revoke", m{"user_id": "ada"}, "X-Revocast-App", "shut").want(200)
		if r.at("revoked") != 1.0 {
			t.Errorf("revoke: %s", r.Raw)
		}
		h.do(h.admin, "POST", "/v1/apps/shut/resume", nil).want(200)
		h.verify(c.str("session_token")).wantRefused("revoked")
		c = h.do(key, "POST", "/v1/sessions", m{"user_id": "ada"}).want(201)
		h.do(h.admin, "DELETE", "/v1/apps/shut", nil).want(200)
		if r := h.verify(c.str("session_token")); r.Status != 401 {
			t.Errorf("deleted app: %d", r.Status)
		}
		if r := h.verify(c.str("session_jwt")); r.Status != 401 {
			t.Errorf("deleted app, JWT: %d", r.Status)
		}
	})
}

// TestUnknownKeyWithoutConfig: a JWT signed with a key that this node has not
// heard of turns nobody away while CONFIG is out of reach.
func TestUnknownKeyWithoutConfig(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		jwt := h.login("ada").str("session_jwt")
		stranger := newHarness(t)
		foreign := stranger.login("ada").str("session_jwt")
		h.verify(foreign).wantRefused("unknown")
		h.config.Cut()
		time.Sleep(16 * time.Second)
		h.verify(jwt).want(204)
		if r := h.verify(foreign).want(503); r.Header.Get("X-Session-Reason") != "silent" {
			t.Errorf("%v", r.Header)
		}
		h.auth(m{"session_jwt": foreign}).wantError(503, "node_stale")
		h.auth(m{"session_jwt": jwt}).want(200)
	})
}

func TestHeaderTextCanBeDecoded(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		for _, user := range []string{"a%20b", "é", "a\u00a0b", "%", "plain"} {
			r := h.verify(h.login(user).str("session_token")).want(204)
			got, err := url.PathUnescape(r.Header.Get("X-Session-User"))
			if err != nil || got != user {
				t.Errorf("%q came as %q", user, r.Header.Get("X-Session-User"))
			}
		}
	})
}

// TestStoppedNodeRefuses: after its farewell a node says nothing any more.
func TestStoppedNodeRefuses(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		token := h.login("ada").str("session_token")
		if err := h.node.Leave(context.Background()); err != nil {
			t.Fatal(err)
		}
		if r := h.verify(token).want(503); r.Header.Get("X-Session-Reason") != "leaving" {
			t.Errorf("%v", r.Header)
		}
	})
}
