package compat

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
)

const stytchClaim = "https://stytch.com/session"

var stytchRows = []capability{
	{id: "Y1", text: "token or JWT identifies the session on each request", check: func(t *testing.T, w *world) {
		s := w.login(t, w.stytch, nil)
		for by, value := range map[string]string{"session_token": s.SessionToken, "session_jwt": s.SessionJWT} {
			if r := authenticate(t, w.stytch, by, value).want(t, 200); r.Session.SessionID != s.Session.SessionID {
				t.Errorf("%s: %s", by, r.raw)
			}
		}
	}},
	{id: "Y2", text: "both are in each answer, also when only the JWT was shown", check: func(t *testing.T, w *world) {
		s := w.login(t, w.stytch, nil)
		for by, value := range map[string]string{"session_token": s.SessionToken, "session_jwt": s.SessionJWT} {
			if r := authenticate(t, w.stytch, by, value).want(t, 200); r.SessionToken != s.SessionToken || r.SessionJWT == "" {
				t.Errorf("%s: token %q, JWT %q", by, r.SessionToken, r.SessionJWT)
			}
		}
	}},
	{id: "Y3", text: "the token is opaque, unique, 44 characters", check: func(t *testing.T, w *world) {
		a, b := w.login(t, w.stytch, nil), w.login(t, w.stytch, nil)
		if len(a.SessionToken) != 44 || a.SessionToken == b.SessionToken {
			t.Errorf("%d characters", len(a.SessionToken))
		}
		isOpaque(t, a.SessionToken, "ada", a.Session.SessionID)
	}},
	{id: "Y4", text: "the JWT is a standard one", shown: "TestGoOIDCStytch, TestJose", check: func(t *testing.T, w *world) {
		jwt := w.login(t, w.stytch, nil).SessionJWT
		if strings.Count(jwt, ".") != 2 || part(t, jwt, 0)["typ"] != "JWT" {
			t.Errorf("%v", part(t, jwt, 0))
		}
		if _, err := verifies(w.keys["stytch"], jwt); err != nil {
			t.Error(err)
		}
	}},
	{id: "Y5", text: "token and JWT are interchangeable: revoke, extend by either", check: func(t *testing.T, w *world) {
		for by, other := range map[string]string{"session_jwt": "session_token", "session_token": "session_jwt"} {
			s := w.login(t, w.stytch, object{"session_duration_minutes": 60})
			value := map[string]string{"session_token": s.SessionToken, "session_jwt": s.SessionJWT}
			r := w.stytch.do(t, "POST", "/v1/sessions/authenticate", object{by: value[by], "session_duration_minutes": 600}).want(t, 200)
			seen := authenticate(t, w.stytch, other, value[other]).want(t, 200)
			if !seen.Session.ExpiresAt.Equal(r.Session.ExpiresAt) || !r.Session.ExpiresAt.After(s.Session.ExpiresAt) {
				t.Errorf("extended by %s: %v, by %s: %v", by, r.Session.ExpiresAt, other, seen.Session.ExpiresAt)
			}
			w.stytch.do(t, "POST", "/v1/sessions/revoke", object{by: value[by]}).want(t, 200)
			authenticate(t, w.stytch, other, value[other]).want(t, 404)
		}
	}},
	{id: "Y6", text: "authenticate before a protected action, with project id and secret", check: func(t *testing.T, w *world) {
		s := w.login(t, w.stytch, nil)
		as := func(user string) *reply {
			return client{base: w.n.base}.do(t, "POST", "/v1/sessions/authenticate", object{"session_token": s.SessionToken}, "Authorization", basic(user, w.stytch.key))
		}
		as("stytch").want(t, 200)
		as("clerk").want(t, 401)
	}},
	{id: "Y7", text: "the token is invalid once revoked: 404 session_not_found", check: func(t *testing.T, w *world) {
		s := w.login(t, w.stytch, nil)
		w.stytch.do(t, "POST", "/v1/sessions/revoke", object{"session_id": s.Session.SessionID}).want(t, 200)
		if trouble := authenticate(t, w.stytch, "session_token", s.SessionToken).wrong(404, "session_not_found"); trouble != "" {
			t.Error(trouble)
		}
	}},
	{id: "Y8", text: "not even 5 minutes of grace for a revoked session", shown: "deploy/fleet, on many nodes under faults", check: func(t *testing.T, w *world) {
		s := w.login(t, w.stytch, nil)
		w.stytch.do(t, "POST", "/v1/sessions/revoke", object{"session_token": s.SessionToken}).want(t, 200)
		for _, credential := range []string{s.SessionToken, s.SessionJWT} {
			for range 100 {
				w.plain.verify(t, credential).want(t, http.StatusUnauthorized)
			}
		}
	}},
	{id: "Y9", text: "the token is small, and the JWT's size is known", check: func(t *testing.T, w *world) {
		s := w.login(t, w.stytch, nil)
		if len(s.SessionToken) != 44 || len(s.SessionJWT) > 2048 {
			t.Errorf("token %d, JWT %d bytes", len(s.SessionToken), len(s.SessionJWT))
		}
		large := w.login(t, w.stytch, object{"session_custom_claims": object{"x": strings.Repeat("y", 3500)}})
		if len(large.SessionJWT) <= 4096 || large.header.Get("X-Session-Warning") == "" {
			t.Errorf("a JWT of %d bytes is not reported", len(large.SessionJWT))
		}
		t.Logf("token 44, JWT %d bytes (RS256)", len(s.SessionJWT))
	}},
	{id: "Y10", text: "the token exposes no data, metadata, times", check: func(t *testing.T, w *world) {
		s := w.login(t, w.stytch, object{"metadata": object{"plan": "gold"}})
		isOpaque(t, s.SessionToken, "ada", s.Session.SessionID)
		isOpaque(t, s.SessionToken, "gold", s.Session.SessionID)
	}},
	{id: "Y11", text: "the JWT has the standard claims and the session", check: func(t *testing.T, w *world) {
		s := w.login(t, w.stytch, nil)
		claims := part(t, s.SessionJWT, 1)
		for _, name := range []string{"iss", "aud", "sub", "iat", "nbf", "exp"} {
			if claims[name] == nil {
				t.Errorf("no %s", name)
			}
		}
		inner, _ := claims[stytchClaim].(map[string]any)
		if inner["id"] != s.Session.SessionID {
			t.Errorf("%v", inner)
		}
		for _, name := range []string{"started_at", "last_accessed_at", "expires_at"} {
			if _, err := time.Parse(time.RFC3339, fmt.Sprint(inner[name])); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}},
	{id: "Y12", text: "verified locally, without a call", at: withNobody, shown: "TestStytch (their SDK)", check: func(t *testing.T, w *world) {
		if _, err := verifies(w.keys["stytch"], w.jwts["stytch"]); err != nil {
			t.Error(err)
		}
	}},
	{id: "Y13", text: "each project has its own keys, at a public address", check: func(t *testing.T, w *world) {
		set := jwksOf(t, w.n, "/v1/sessions/jwks/stytch")
		if _, err := verifies(set, w.jwts["stytch"]); err != nil {
			t.Error(err)
		}
		for _, other := range []string{"plain", "clerk"} {
			if _, err := verifies(set, w.jwts[other]); err == nil {
				t.Errorf("a JWT of %s verifies", other)
			}
		}
	}},
	{id: "Y14", text: "the JWT lives 5 minutes and is refreshed for the session's life", check: func(t *testing.T, w *world) {
		s := w.login(t, w.stytch, nil)
		if life := seconds(t, s.SessionJWT, "exp").Sub(seconds(t, s.SessionJWT, "iat")); life != 300*time.Second {
			t.Errorf("%v", life)
		}
		old := w.expired(t, w.stytch, s)
		if r := authenticate(t, w.stytch, "session_jwt", old).want(t, 200); r.SessionJWT == old {
			t.Error("no new JWT")
		}
		w.stytch.do(t, "POST", "/v1/sessions/revoke", object{"session_token": s.SessionToken}).want(t, 200)
		authenticate(t, w.stytch, "session_jwt", old).want(t, 404)
	}},
	{id: "Y15", text: "the JWT's life is the app's to choose, 30 s to an hour", check: func(t *testing.T, w *world) {
		for life, status := range map[int]int{29: 400, 30: 201, 3600: 201, 3601: 400} {
			r := w.n.admin().do(t, "POST", "/v1/apps", object{"app_id": fmt.Sprint("ttl-", life), "jwt_profile": "stytch", "jwt_alg": "ES256", "jwt_ttl_seconds": life}).want(t, status)
			if status != 201 {
				continue
			}
			jwt := w.login(t, client{w.n.base, r.APIKey}, nil).SessionJWT
			if got := seconds(t, jwt, "exp").Sub(seconds(t, jwt, "iat")); got != time.Duration(life)*time.Second {
				t.Errorf("%d: %v", life, got)
			}
		}
	}},
	{id: "Y16", text: "JWTs for actions outside the app: audience by template", check: func(t *testing.T, w *world) {
		w.stytch.do(t, "PUT", "/v1/apps/stytch/templates/partner", object{"audience": "partner"}).want(t, 200)
		s := w.login(t, w.stytch, nil)
		jwt := w.stytch.do(t, "POST", "/v1/sessions/"+s.Session.SessionID+"/tokens", object{"template": "partner"}).want(t, 200).SessionJWT
		if aud := strings.Trim(fmt.Sprint(part(t, jwt, 1)["aud"]), "[]"); aud != "partner" {
			t.Errorf("aud %s", aud)
		}
		w.plain.verify(t, jwt).want(t, http.StatusUnauthorized)
	}},
	{id: "Y17", text: "their backend SDKs verify locally, and ask when the JWT has expired", shown: "TestStytch (npm stytch); Python, Ruby and Go use the same calls", check: func(t *testing.T, w *world) {
		// The one call that each of them makes then.
		old := w.expired(t, w.stytch, w.login(t, w.stytch, nil))
		r := client{base: w.n.base}.do(t, "POST", "/v1/sessions/authenticate", object{"session_jwt": old}, "Authorization", basic("stytch", w.stytch.key)).want(t, 200)
		if _, err := verifies(w.keys["stytch"], r.SessionJWT); err != nil || r.SessionJWT == old {
			t.Errorf("%v", err)
		}
	}},
}
