package compat

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
)

var tutorialRows = []capability{
	{id: "U1", text: "a random string, or one with information in it", check: func(t *testing.T, w *world) {
		s := w.login(t, w.plain, nil)
		isOpaque(t, s.SessionToken, "ada", s.Session.SessionID)
		if part(t, s.SessionJWT, 1)["sub"] != "ada" {
			t.Error("the JWT does not name the user")
		}
	}},
	{id: "U2", text: "kept on the server, in memory and in a log", check: func(t *testing.T, w *world) {
		s := w.login(t, w.plain, nil)
		r := w.plain.do(t, "GET", "/v1/sessions/"+s.Session.SessionID, nil).want(t, 200)
		if strings.Contains(string(r.raw), s.SessionToken) || r.Revision == "" {
			t.Errorf("%s", r.raw)
		}
	}},
	{id: "U3", text: "ends when it is not used", at: idle, check: func(t *testing.T, w *world) {
		w.plain.verify(t, w.used.SessionToken).want(t, http.StatusNoContent)
		if trouble := w.plain.verdict(t, w.unused, "idle"); trouble != "" {
			t.Error(trouble)
		}
	}},
	{id: "U4", text: "ends at log-out", check: func(t *testing.T, w *world) {
		s := w.login(t, w.plain, nil)
		w.plain.do(t, "POST", "/v1/sessions/revoke", object{"session_token": s.SessionToken, "reason": "logout"}).want(t, 200)
		if trouble := w.plain.verdict(t, s, "revoked"); trouble != "" {
			t.Error(trouble)
		}
	}},
	{id: "U5", text: "a cookie with the attributes it should have", check: func(t *testing.T, w *world) {
		cookie := w.cookie(t)
		attributes := strings.Split(cookie, "; ")
		for _, want := range []string{"HttpOnly", "Secure", "Path=/"} {
			if !strings.Contains("; "+cookie+";", "; "+want+";") {
				t.Errorf("no %s in %s", want, attributes[1:])
			}
		}
		if !strings.HasPrefix(cookie, "__Host-session=") || !strings.Contains(cookie, "; SameSite=") || !strings.Contains(cookie, "; Max-Age=") || strings.Contains(cookie, "Domain") {
			t.Errorf("%s with %s", strings.SplitN(cookie, "=", 2)[0], attributes[1:])
		}
	}},
	{id: "U6", text: "each request is checked and the user identified", check: func(t *testing.T, w *world) {
		s := w.login(t, w.plain, nil)
		if r := w.plain.verify(t, s.SessionToken).want(t, http.StatusNoContent); r.header.Get(userHeader) != "ada" {
			t.Errorf("%v", r.header)
		}
		if r := (client{w.n.base, s.SessionToken}).do(t, "GET", "/v1/verify?body=1", nil).want(t, 200); r.UserID != "ada" {
			t.Errorf("%s", r.raw)
		}
	}},
	{id: "U7", text: "the session keeps data", shown: "TestSCS, TestExpressSession", check: func(t *testing.T, w *world) {
		s := w.login(t, w.plain, nil)
		w.plain.do(t, "PATCH", "/v1/sessions/"+s.Session.SessionID, object{"metadata": object{"theme": "dark"}}).want(t, 200)
		r := authenticate(t, w.plain, "session_token", s.SessionToken).want(t, 200)
		var data map[string]any
		if err := json.Unmarshal(r.Session.Metadata, &data); err != nil || data["theme"] != "dark" {
			t.Errorf("%s, %v", r.Session.Metadata, err)
		}
	}},
	{id: "U8", text: "or the user's id alone, with which the user is looked up", check: func(t *testing.T, w *world) {
		if r := authenticate(t, w.plain, "session_token", w.login(t, w.plain, nil).SessionToken).want(t, 200); r.at("user.user_id") != "ada" {
			t.Errorf("%s", r.raw)
		}
	}},
	{id: "U9", text: "a crash loses no session", at: after, shown: "deploy/fleet, TestKilledUnderLoad, cmd/revocast power cuts", check: func(t *testing.T, w *world) {
		if trouble := w.plain.verdict(t, w.lasting, "active"); trouble != "" {
			t.Error(trouble)
		}
		for app, jwt := range w.jwts {
			if r := w.plain.verify(t, jwt); r.status != http.StatusNoContent && app != "clerk" { // 60 s
				t.Errorf("%s: %d", app, r.status)
			}
		}
	}},
	{id: "U10", text: "memory for ten million sessions", shown: "revocast bench memory, deploy/PERFORMANCE.md"},
	{id: "U11", text: "the backend logs a user out at any time", check: func(t *testing.T, w *world) {
		a := w.plain.create(t, "mallory")
		b := w.plain.create(t, "mallory")
		r := w.plain.do(t, "POST", "/v1/sessions/revoke", object{"user_id": "mallory", "wait": "all"}).want(t, 200)
		if r.Revoked == nil || *r.Revoked != 2 || r.Receipt == nil || r.Receipt.Status != "complete" {
			t.Errorf("%s", r.raw)
		}
		for _, s := range []*reply{a, b} {
			if trouble := w.plain.verdict(t, s, "revoked"); trouble != "" {
				t.Error(trouble)
			}
		}
	}},
	{id: "U12", text: "the JWT has user, roles and anything else", check: func(t *testing.T, w *world) {
		s := w.login(t, w.plain, object{"roles": []string{"admin"}, "session_custom_claims": object{"permissions": []string{"write"}}})
		claims := part(t, s.SessionJWT, 1)
		if claims["sub"] != "ada" || fmt.Sprint(claims["roles"]) != "[admin]" || fmt.Sprint(claims["permissions"]) != "[write]" {
			t.Errorf("%v", claims)
		}
	}},
	{id: "U13", text: "signed with a private key, by the algorithm of one's choice", check: func(t *testing.T, w *world) {
		for _, alg := range algs {
			c := w.n.newApp(t, "sign-"+strings.ToLower(alg), object{"jwt_alg": alg})
			if got := part(t, w.login(t, c, nil).SessionJWT, 0)["alg"]; got != alg {
				t.Errorf("%s: %v", alg, got)
			}
		}
		w.n.admin().do(t, "POST", "/v1/apps", object{"app_id": "sign-hs256", "jwt_alg": "HS256"}).want(t, 400)
	}},
	{id: "U14", text: "the JWT in a cookie, a header or a body", check: func(t *testing.T, w *world) {
		jwt := w.login(t, w.plain, nil).SessionJWT
		w.anonymous(t, "GET", "/v1/verify", bearer(jwt)...).want(t, http.StatusNoContent)
		w.anonymous(t, "GET", "/v1/verify", "Cookie", "session="+jwt).want(t, http.StatusNoContent)
		client{base: w.n.base}.do(t, "POST", "/v1/verify", object{"session_jwt": jwt}).want(t, http.StatusNoContent)
	}},
	{id: "U15", text: "an expired JWT is refused, in the standard's words", check: func(t *testing.T, w *world) {
		r := w.plain.verify(t, w.expired(t, w.plain, w.lasting)).want(t, http.StatusUnauthorized)
		if got := r.header.Get("WWW-Authenticate"); !strings.HasPrefix(got, "Bearer") || !strings.Contains(got, `error="invalid_token"`) {
			t.Errorf("WWW-Authenticate: %s", got)
		}
	}},
	{id: "U16", text: "log-out invalidates the JWT", shown: "TestSDKs, for verifiers by themselves", check: func(t *testing.T, w *world) {
		s := w.login(t, w.plain, nil)
		w.plain.do(t, "POST", "/v1/sessions/revoke", object{"session_jwt": s.SessionJWT}).want(t, 200)
		w.plain.verify(t, s.SessionJWT).want(t, http.StatusUnauthorized)
		authenticate(t, w.plain, "session_jwt", s.SessionJWT).want(t, 404)
	}},
	{id: "U17", text: "too much data in the JWT is refused", check: func(t *testing.T, w *world) {
		body := object{"user_id": "ada", "session_custom_claims": object{"x": strings.Repeat("y", 4<<10)}}
		if trouble := w.plain.do(t, "POST", "/v1/sessions", body).wrong(413, "claims_too_large"); trouble != "" {
			t.Error(trouble)
		}
	}},
	{id: "U18", text: "another signing key logs nobody out, a stolen one is removed at once", check: func(t *testing.T, w *world) {
		c := w.n.newApp(t, "rotating", nil)
		s := w.login(t, c, nil)
		c.do(t, "POST", "/v1/apps/rotating/keys/rotate", object{}).want(t, 200)
		if trouble := c.verdict(t, s, "active"); trouble != "" {
			t.Error(trouble)
		}
		r := authenticate(t, c, "session_token", s.SessionToken).want(t, 200)
		c.do(t, "POST", "/v1/apps/rotating/keys/rotate", object{"compromised": part(t, r.SessionJWT, 0)["kid"]}).want(t, 200)
		c.verify(t, r.SessionJWT).want(t, http.StatusUnauthorized)
		again := authenticate(t, c, "session_token", s.SessionToken).want(t, 200)
		if again.SessionJWT == r.SessionJWT || c.verify(t, again.SessionJWT).status != http.StatusNoContent {
			t.Error("no new JWT for a session that lives")
		}
	}},
}
