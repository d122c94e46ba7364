package node_test

import (
	"encoding/base64"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node"
)

// form posts a form. The authorization is a whole header; empty: none.
func (h *harness) form(path, authorization, body string, headers ...string) *reply {
	h.t.Helper()
	r := httptest.NewRequestWithContext(h.t.Context(), "POST", path, strings.NewReader(body))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if authorization != "" {
		r.Header.Set("Authorization", authorization)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	return h.send(r)
}

func basic(user, secret string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+secret))
}

// introspect asks as the first app and returns the answer, which is 200.
func (h *harness) introspect(token string, headers ...string) *reply {
	h.t.Helper()
	return h.form("/oauth2/introspect", basic(h.app, h.key), url.Values{"token": {token}}.Encode(), headers...).want(200)
}

const inactive = `{"active":false}` + "\n"

func (r *reply) wantInactive(what string) {
	r.t.Helper()
	if string(r.Raw) != inactive {
		r.t.Errorf("%s: %s, want active:false and nothing else", what, r.Raw)
	}
	if r.Header.Get("Cache-Control") != "no-store" || r.Header.Get("Content-Type") != "application/json" {
		r.t.Errorf("%s: %v", what, r.Header)
	}
}

func (r *reply) wantOAuthError(what string, status int, code string) *reply {
	r.t.Helper()
	if r.Status != status || r.str("error") != code || r.str("error_description") == "" || len(r.JSON) != 2 {
		r.t.Errorf("%s: %d %s, want %d %s", what, r.Status, r.Raw, status, code)
	}
	if (r.Status == 401) != strings.HasPrefix(r.Header.Get("WWW-Authenticate"), "Basic ") || (r.Status == 503) != (r.Header.Get("Retry-After") != "") {
		r.t.Errorf("%s: %d with %v", what, r.Status, r.Header)
	}
	if r.Header.Get("Cache-Control") != "no-store" || r.Header.Get("Content-Type") != "application/json" {
		r.t.Errorf("%s: %v", what, r.Header)
	}
	return r
}

func TestIntrospection(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		c := h.do(h.key, "POST", "/v1/sessions", m{
			"user_id": "ada", "authentication_factors": []m{{"type": "password"}, {"type": "totp"}},
			"session_custom_claims": m{"scope": "read write", "plan": m{"n": 1}, "active": false, "token_type": "x", "username": 7},
		}).want(201)
		now := time.Now().Unix()
		token, jwt := c.str("session_token"), c.str("session_jwt")
		want := map[string]any{
			"active": true, "token_type": "Bearer", "iss": publicURL + "/v1/apps/acme", "sub": "ada", "aud": "acme", "client_id": "acme",
			"sid": c.str("session.session_id"), "iat": float64(now), "exp": float64(now + 60), "sxp": float64(now + 43_200*60), "auth_time": float64(now),
			"amr": []any{"pwd", "otp", "mfa"}, "scope": "read write", "plan": map[string]any{"n": 1.0},
		}
		r := h.introspect(token)
		if diff := cmp.Diff(want, r.JSON); diff != "" {
			t.Errorf("token: -want +got\n%s", diff)
		}
		if r.Header.Get("Cache-Control") != "no-store" || r.Header.Get("Content-Type") != "application/json" || r.Header.Get("X-Request-Id") == "" {
			t.Errorf("%v", r.Header)
		}
		cl := claims(t, jwt)
		want["jti"], want["nbf"] = cl["jti"], cl["nbf"]
		if diff := cmp.Diff(want, h.introspect(jwt).JSON); diff != "" {
			t.Errorf("JWT: -want +got\n%s", diff)
		}

		// exp is the least of the cap, the JWT's and the session's.
		h.do(h.key, "PATCH", "/v1/apps/acme", m{"introspection_max_exp_seconds": 3600}).want(200)
		now = time.Now().Unix()
		for what, tc := range map[string]struct {
			token string
			end   int64
		}{"of the session": {h.do(h.key, "POST", "/v1/sessions", m{"user_id": "ada", "session_duration_minutes": 2}).want(201).str("session_token"), now + 120},
			"of the JWT": {h.login("ada").str("session_jwt"), now + 300}, "of the cap": {h.login("ada").str("session_token"), now + 3600}} {
			if got := h.introspect(tc.token).at("exp"); got != float64(tc.end) {
				t.Errorf("exp %s: %v, want %d", what, got, tc.end)
			}
		}
		for _, bad := range []any{0, -1, 3601, 1.5, "60"} {
			h.do(h.key, "PATCH", "/v1/apps/acme", m{"introspection_max_exp_seconds": bad}).wantError(400, "invalid_argument")
		}
		if got := h.do(h.key, "GET", "/v1/apps/acme", nil).at("app.introspection_max_exp_seconds"); got != 3600.0 {
			t.Errorf("the setting is %v", got)
		}
	})
}

// TestIntrospectionInactive: whatever is not good is active:false and nothing
// else, and only to who may ask.
func TestIntrospectionInactive(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		other := h.newApp("other", nil)
		theirs := h.do(other, "POST", "/v1/sessions", m{"user_id": "ada"}).want(201)
		h.do(h.key, "PUT", "/v1/apps/acme/templates/out", m{"audience": "elsewhere"}).want(200)
		c, gone, brief := h.login("ada"), h.login("ada"), h.do(h.key, "POST", "/v1/sessions", m{"user_id": "ada", "session_duration_minutes": 1}).want(201)
		sent := h.do(h.key, "POST", "/v1/sessions/"+c.str("session.session_id")+"/tokens", m{"template": "out"}).want(200).str("session_jwt")
		h.do(h.key, "DELETE", "/v1/sessions/"+gone.str("session.session_id"), nil).want(200)
		rotated := h.login("ada").str("session_token")
		h.do(h.key, "POST", "/v1/sessions/rotate", m{"session_token": rotated}).want(200)
		for what, token := range map[string]string{
			"unknown": string(events.NewToken(2).Reveal()), "another stream's": string(events.NewToken(99).Reveal()), "junk": "junk", "a JWT that is none": "a.b.c",
			"dots": "...", "revoked": gone.str("session_token"), "revoked, JWT": gone.str("session_jwt"), "another app's": theirs.str("session_token"),
			"another app's JWT": theirs.str("session_jwt"), "for another audience": sent, "an API key": h.key, "a session id": c.str("session.session_id"),
			"rotated away": rotated, "control characters": "\x00\r\n", "another script": "ж",
		} {
			h.introspect(token).wantInactive(what)
		}
		h.form("/oauth2/introspect", basic("other", other), "token="+c.str("session_token")).want(200).wantInactive("to another app")
		time.Sleep(61 * time.Second)
		h.introspect(brief.str("session_token")).wantInactive("expired")
		time.Sleep(300 * time.Second)
		// An API key lets an expired JWT authenticate, and never be introspected.
		h.do(h.key, "POST", "/v1/sessions/authenticate", m{"session_jwt": c.str("session_jwt")}).want(200)
		h.introspect(c.str("session_jwt")).wantInactive("an expired JWT of a good session")
		if h.introspect(c.str("session_token")).at("active") != true {
			t.Errorf("its token is not active")
		}
	})
}

// TestIntrospectionWithoutLease: a node that may be behind never says that a
// token is not active.
func TestIntrospectionWithoutLease(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		reauth := h.newApp("reauth", m{"when_stale": "reauth"})
		serve := h.newApp("serve", m{"when_stale": "serve"})
		again := h.do(reauth, "POST", "/v1/sessions", m{"user_id": "ada"}).want(201)
		served := h.do(serve, "POST", "/v1/sessions", m{"user_id": "ada"}).want(201)
		c := h.login("ada")
		h.home.Cut()
		time.Sleep(node.DefaultLease + time.Second)
		for what, token := range map[string]string{
			"token": c.str("session_token"), "JWT": c.str("session_jwt"), "unknown": string(events.NewToken(2).Reveal()), "junk": "junk", "junk JWT": "a.b.c",
		} {
			for _, path := range []string{"/oauth2/introspect", "/oauth2/revoke"} {
				h.form(path, basic("acme", h.key), "token="+token).wantOAuthError(path+" "+what, 503, "temporarily_unavailable")
			}
		}
		h.form("/oauth2/introspect", basic("reauth", reauth), "token="+again.str("session_token")).wantOAuthError("reauth", 503, "temporarily_unavailable")
		r := h.form("/oauth2/introspect", basic("serve", serve), "token="+served.str("session_token")).want(200)
		if r.at("active") != true || !strings.HasPrefix(r.Header.Get("X-Session-Freshness"), "stale") {
			t.Errorf("served when stale: %v %s", r.Header, r.Raw)
		}
	})
}

// TestIntrospectionIsUse: an introspection keeps an idle session alive, one that
// is marked as background does not.
func TestIntrospectionIsUse(t *testing.T) {
	for _, background := range []bool{false, true} {
		bubble(t, func(t *testing.T, h *harness) {
			token := h.do(h.key, "POST", "/v1/sessions", m{"user_id": "ada", "idle_timeout_minutes": 10}).want(201).str("session_token")
			var mark []string
			if background {
				mark = []string{"X-Session-Background", "1"}
			}
			for range 4 {
				time.Sleep(5 * time.Minute)
				h.form("/oauth2/introspect", basic("acme", h.key), "token="+token, mark...).want(200)
			}
			if active := h.introspect(token).at("active"); active != !background {
				t.Errorf("background %v: after 20 minutes of introspections, active is %v", background, active)
			}
		})
	}
}

func TestOAuthRevocation(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		other := h.newApp("other", nil)
		theirs := h.do(other, "POST", "/v1/sessions", m{"user_id": "ada"}).want(201)
		revoke := func(what, token string) {
			t.Helper()
			for range 2 { // the second time there is nothing to revoke
				r := h.form("/oauth2/revoke", basic("acme", h.key), "token="+token+"&token_type_hint=refresh_token").want(200)
				if len(r.Raw) != 0 || r.Header.Get("Cache-Control") != "no-store" {
					t.Errorf("%s: %v %s", what, r.Header, r.Raw)
				}
			}
		}
		byToken, byJWT, expired := h.login("ada"), h.login("ada"), h.login("ada")
		revoke("token", byToken.str("session_token"))
		revoke("JWT", byJWT.str("session_jwt"))
		for _, c := range []*reply{byToken, byJWT} {
			h.do(h.key, "POST", "/v1/sessions/authenticate", m{"session_token": c.str("session_token")}).wantError(404, "session_not_found")
			h.introspect(c.str("session_jwt")).wantInactive("revoked")
		}
		if s := h.do(h.key, "GET", "/v1/sessions/"+byJWT.str("session.session_id"), nil).want(200); s.str("session.revoke_reason") != "oauth2_revoke" {
			t.Errorf("%s", s.Raw)
		}
		revoke("unknown", string(events.NewToken(2).Reveal()))
		revoke("junk", "junk")
		revoke("another app's", theirs.str("session_token"))
		revoke("another app's JWT", theirs.str("session_jwt"))
		h.do(other, "POST", "/v1/sessions/authenticate", m{"session_token": theirs.str("session_token")}).want(200)
		time.Sleep(10 * time.Minute)
		revoke("an expired JWT", expired.str("session_jwt"))
		h.introspect(expired.str("session_token")).wantInactive("revoked by an expired JWT")
	})
}

// TestOAuthClients: who may ask, and how they say who they are.
func TestOAuthClients(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		token := h.login("ada").str("session_token")
		other := h.newApp("other", nil)
		shut := h.newApp("shut", nil)
		h.do(h.admin, "POST", "/v1/apps/shut/suspend", nil).want(200)
		scoped := func(scope string) string {
			return h.do(h.key, "POST", "/v1/apps/acme/api-keys", m{"scopes": []string{scope}}).want(201).str("api_key")
		}
		reader, verifier := scoped("read"), scoped("verify")
		escaped := strings.NewReplacer("_", "%5F", "-", "%2D").Replace(h.key)
		for _, tc := range []struct {
			name, authorization, form string
			status                    int
			code                      string
		}{
			{"Basic", basic("acme", h.key), "", 200, ""},
			{"Basic, escaped as OAuth demands", basic("ac%6de", escaped), "", 200, ""},
			{"Basic without an app", basic("", h.key), "", 200, ""},
			{"Bearer", "Bearer " + h.key, "", 200, ""},
			{"Bearer and the app", "Bearer " + h.key, "client_id=acme", 200, ""},
			{"form", "", "client_id=acme&client_secret=" + h.key, 200, ""},
			{"form without an app", "", "client_secret=" + h.key, 200, ""},
			{"Basic and the same app", basic("acme", h.key), "client_id=acme", 200, ""},
			{"cluster admin, Basic", basic("acme", h.admin), "", 200, ""},
			{"cluster admin, form", "", "client_id=acme&client_secret=" + h.admin, 200, ""},
			{"scope verify", basic("acme", verifier), "", 200, ""},
			{"unknown parameters", basic("acme", h.key), "a=b&token_type_hint=x&resource=y", 200, ""},

			{"nobody", "", "", 401, "invalid_client"},
			{"an app alone", "", "client_id=acme", 401, "invalid_client"},
			{"wrong key", basic("acme", h.key+"x"), "", 401, "invalid_client"},
			{"wrong key, Bearer", "Bearer sk_x", "", 401, "invalid_client"},
			{"wrong key, form", "", "client_id=acme&client_secret=x", 401, "invalid_client"},
			{"another app's key", basic("acme", other), "", 401, "invalid_client"},
			{"another app's key, form", "", "client_id=acme&client_secret=" + other, 401, "invalid_client"},
			{"another app's key, Bearer", "Bearer " + other, "client_id=acme", 401, "invalid_client"},
			{"cluster admin of no app", basic("none", h.admin), "", 401, "invalid_client"},
			{"a session's token", "Bearer " + token, "", 401, "invalid_client"},
			{"another scheme", "Digest x", "", 401, "invalid_client"},
			{"half of Basic", "Basic x", "", 401, "invalid_client"},
			{"scope read", basic("acme", reader), "", 403, "insufficient_scope"},
			{"suspended", basic("shut", shut), "", 403, "access_denied"},
			{"two ways", basic("acme", h.key), "client_secret=" + h.key, 400, "invalid_request"},
			{"two apps", basic("acme", h.key), "client_id=other", 400, "invalid_request"},
			{"cluster admin, no app", "Bearer " + h.admin, "", 400, "invalid_request"},
		} {
			body := "token=" + token
			if tc.form != "" {
				body += "&" + tc.form
			}
			r := h.form("/oauth2/introspect", tc.authorization, body)
			switch {
			case tc.status != 200:
				r.wantOAuthError(tc.name, tc.status, tc.code)
			case r.Status != 200 || r.at("active") != true:
				t.Errorf("%s: %d %s", tc.name, r.Status, r.Raw)
			}
		}
		r := h.form("/oauth2/introspect", "Bearer sk_x", "token="+token)
		if all := r.Header.Values("WWW-Authenticate"); len(all) != 2 || !strings.HasPrefix(all[1], "Bearer ") {
			t.Errorf("Bearer is challenged with %q", all)
		}
		h.form("/oauth2/revoke", basic("acme", verifier), "token="+token).wantOAuthError("revoke with the scope verify", 403, "insufficient_scope")
	})
}

// TestOAuthBadInput: what is no proper form is refused, and nothing is done.
func TestOAuthBadInput(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		token := h.login("ada").str("session_token")
		for _, path := range []string{"/oauth2/introspect", "/oauth2/revoke"} {
			for _, tc := range []struct {
				name, query, contentType, body string
				status                         int
			}{
				{"JSON", "", "application/json", `{"token":"` + token + `"}`, 415},
				{"no type", "", "", "token=" + token, 415},
				{"multipart", "", "multipart/form-data; boundary=x", "token=" + token, 415},
				{"a type that is none", "", ";", "token=" + token, 415},
				{"no token", "", "", "token_type_hint=access_token", 415},
				{"no token, form", "", "form", "token_type_hint=access_token", 400},
				{"empty", "", "form", "", 400},
				{"an empty token", "", "form", "token=", 400},
				{"token twice", "", "form", "token=" + token + "&token=" + token, 400},
				{"two tokens", "", "form", "token=x&token=" + token, 400},
				{"hint twice", "", "form", "token=" + token + "&token_type_hint=a&token_type_hint=b", 400},
				{"an unknown parameter twice", "", "form", "token=" + token + "&a=1&a=2", 400},
				{"in the URL", "?token=" + token, "form", "", 400},
				{"in the URL too", "?token=" + token, "form", "token=" + token, 400},
				{"key in the URL", "?client_secret=" + h.key, "form", "token=" + token, 400},
				{"bad escapes", "", "form", "token=%zz", 400},
				{"semicolons", "", "form", "token=" + token + ";a=b", 400},
				{"bad query", "?%zz", "form", "token=" + token, 400},
				{"two apps", "?app=other", "form", "token=" + token, 401},
				{"token too long", "", "form", "token=" + strings.Repeat("x", 9000), 400},
				{"body too long", "", "form", "token=" + token + "&a=" + strings.Repeat("x", 65536), 413},
			} {
				code := "invalid_request"
				if tc.status == 401 {
					code = "invalid_client"
				}
				ct := tc.contentType
				if ct == "form" {
					ct = "application/x-www-form-urlencoded; charset=utf-8"
				}
				h.form(path+tc.query, basic("acme", h.key), tc.body, "Content-Type", ct).wantOAuthError(path+" "+tc.name, tc.status, code)
			}
			h.form(path, basic("acme", h.key), "token="+token, "Content-Encoding", "gzip").wantOAuthError(path+" gzip", 415, "invalid_request")
			for _, method := range []string{"GET", "HEAD", "PUT", "DELETE", "PATCH"} {
				r := h.do(h.key, method, path+"?token="+token, nil)
				if r.Status != http.StatusMethodNotAllowed || r.Header.Get("Allow") != "POST" {
					t.Errorf("%s %s: %d, Allow %q", method, path, r.Status, r.Header.Get("Allow"))
				}
			}
		}
		if h.introspect(token).at("active") != true {
			t.Errorf("something was done")
		}
	})
}
