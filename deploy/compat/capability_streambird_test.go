package compat

import (
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

const streambirdClaim = "https://streambird.io/jwt/session"

// sbVerify and sbDelete are Streambird's own calls.
func (w *world) sbVerify(t *testing.T, by string, value any) *reply {
	t.Helper()
	return w.streambird.do(t, "POST", "/v1/auth/sessions/verify", object{by: value})
}

func (w *world) sbDelete(t *testing.T, body object) *reply {
	t.Helper()
	return w.streambird.do(t, "DELETE", "/v1/auth/sessions/delete", body)
}

// expired returns a JWT of the session that has expired.
func (w *world) expired(t *testing.T, c client, s *reply) string {
	t.Helper()
	short := c.do(t, "POST", "/v1/sessions/"+s.Session.SessionID+"/tokens", object{"ttl_seconds": 1}).want(t, http.StatusOK)
	time.Sleep(time.Until(seconds(t, short.SessionJWT, "exp").Add(10 * time.Millisecond)))
	return short.SessionJWT
}

var streambirdRows = []capability{
	{id: "S1", text: "a token in a cookie, a header or a body identifies the session", check: func(t *testing.T, w *world) {
		token := w.login(t, w.streambird, nil).SessionToken
		if !regexp.MustCompile(`^[A-Za-z0-9_-]+$`).MatchString(token) {
			t.Errorf("the token is not safe in cookies and URLs")
		}
		w.anonymous(t, "GET", "/v1/verify", "Cookie", "session="+token).want(t, http.StatusNoContent)
		w.anonymous(t, "GET", "/v1/verify", bearer(token)...).want(t, http.StatusNoContent)
		client{base: w.n.base}.do(t, "POST", "/v1/verify", object{"session_token": token}).want(t, http.StatusNoContent)
	}},
	{id: "S2", text: "each verification returns token and JWT", check: func(t *testing.T, w *world) {
		s := w.login(t, w.streambird, nil)
		for _, r := range []*reply{s, w.sbVerify(t, "session_token", s.SessionToken).want(t, 200), w.sbVerify(t, "session_jwt", s.SessionJWT).want(t, 200)} {
			if jwt, _ := r.at("session_jwt").(string); r.at("session_token") != s.SessionToken || s.SessionToken == "" || jwt == "" {
				t.Errorf("%s", r.raw)
			}
		}
	}},
	{id: "S3", text: "the session holds the user", check: func(t *testing.T, w *world) {
		if r := w.sbVerify(t, "session_token", w.login(t, w.streambird, nil).SessionToken).want(t, 200); r.at("session.user_id") != "ada" {
			t.Errorf("%s", r.raw)
		}
	}},
	{id: "S4", text: "the session holds the authentication factors", check: func(t *testing.T, w *world) {
		s := w.login(t, w.streambird, object{"authentication_factors": []object{
			{"type": "otp", "delivery_method": "sms"}, {"type": "magic_link", "delivery_method": "email"},
		}})
		factors, _ := w.sbVerify(t, "session_token", s.SessionToken).want(t, 200).at("session.factors").([]any)
		got := map[any]any{}
		for _, f := range factors {
			f := f.(map[string]any)
			got[f["type"]] = f["delivery_channel"]
			if m, _ := f["method"].(map[string]any); m["last_verified_at"] == nil {
				t.Errorf("no time in %v", f)
			}
		}
		if len(got) != 2 || got["otp"] != "sms" || got["magic_link"] != "email" {
			t.Errorf("%v", factors)
		}
	}},
	{id: "S5", text: "the session holds the device of the log-in", check: func(t *testing.T, w *world) {
		s := w.login(t, w.streambird, object{"attributes": object{"ip_address": "192.0.2.7", "user_agent": "curl/8"}})
		r := w.sbVerify(t, "session_token", s.SessionToken).want(t, 200)
		if r.at("session.device_fingerprint.ip") != "192.0.2.7" || r.at("session.device_fingerprint.user_agent") != "curl/8" {
			t.Errorf("%s", r.raw)
		}
	}},
	{id: "S6", text: "10,000 tokens are 10,000 tokens, and say nothing", check: func(t *testing.T, w *world) {
		want := 10_000
		if testing.Short() {
			want = 1000
		}
		var mu sync.Mutex // guards seen
		seen := map[string]bool{}
		var all sync.WaitGroup
		for range 50 {
			all.Go(func() {
				for range want / 50 {
					r, err := w.plain.try("POST", "/v1/sessions", object{"user_id": "crowd"})
					if err != nil || r.status != http.StatusCreated {
						t.Errorf("create: %v", err)
						return
					}
					mu.Lock()
					seen[r.SessionToken] = true
					mu.Unlock()
				}
			})
		}
		all.Wait()
		if len(seen) != want {
			t.Errorf("%d tokens of %d sessions", len(seen), want)
		}
		s := w.login(t, w.plain, nil)
		isOpaque(t, s.SessionToken, "ada", s.Session.SessionID)
	}},
	{id: "S7", text: "/sessions/verify tells good tokens from others", check: func(t *testing.T, w *world) {
		w.sbVerify(t, "session_token", w.login(t, w.streambird, nil).SessionToken).want(t, 200)
		if r := w.sbVerify(t, "session_token", strings.Repeat("A", 44)); r.status < 400 || r.status > 499 || r.ErrorType == "" {
			t.Errorf("unknown: %d %s", r.status, r.raw)
		}
	}},
	{id: "S8", text: "/sessions/delete revokes", check: func(t *testing.T, w *world) {
		s := w.login(t, w.streambird, nil)
		if r := w.sbDelete(t, object{"session_token": s.SessionToken}).want(t, 200); r.at("message") == nil {
			t.Errorf("%s", r.raw)
		}
		if r := w.sbVerify(t, "session_token", s.SessionToken); r.status < 400 || r.status > 499 {
			t.Errorf("%d", r.status)
		}
	}},
	{id: "S9", text: "delete by id and JWT too; exactly one of the three", check: func(t *testing.T, w *world) {
		a, b := w.login(t, w.streambird, nil), w.login(t, w.streambird, nil)
		w.sbDelete(t, object{"session_id": a.Session.SessionID}).want(t, 200)
		w.sbDelete(t, object{"session_jwt": b.SessionJWT}).want(t, 200)
		for _, s := range []*reply{a, b} {
			if r := w.sbVerify(t, "session_token", s.SessionToken); r.status == 200 {
				t.Error("still good")
			}
		}
		w.sbDelete(t, object{"session_id": a.Session.SessionID, "session_token": a.SessionToken}).want(t, 400)
		w.sbDelete(t, object{}).want(t, 400)
	}},
	{id: "S10", text: "no use of a revoked token, ever", shown: "deploy/fleet, on many nodes under faults", check: func(t *testing.T, w *world) {
		s := w.login(t, w.streambird, nil)
		w.sbDelete(t, object{"session_token": s.SessionToken}).want(t, 200)
		for range 200 {
			if r := w.plain.verify(t, s.SessionToken); r.status != http.StatusUnauthorized {
				t.Fatalf("verified: %d", r.status)
			}
		}
	}},
	{id: "S11", text: "a revoked session's JWT is refused at once (a mere JWKS check passes until exp)", check: func(t *testing.T, w *world) {
		s := w.login(t, w.streambird, nil)
		w.sbDelete(t, object{"session_token": s.SessionToken}).want(t, 200)
		w.plain.verify(t, s.SessionJWT).want(t, http.StatusUnauthorized)
		if _, err := verifies(w.keys["streambird"], s.SessionJWT); err != nil {
			t.Errorf("its signature: %v", err)
		}
	}},
	{id: "S12", text: "the token exposes neither user nor session", check: func(t *testing.T, w *world) {
		s := w.login(t, w.streambird, nil)
		isOpaque(t, s.SessionToken, "ada", s.Session.SessionID)
	}},
	{id: "S13", text: "the JWT is a JWS, RS256, readable, verified by anyone", check: func(t *testing.T, w *world) {
		jwt := w.login(t, w.streambird, nil).SessionJWT
		if alg := part(t, jwt, 0)["alg"]; alg != "RS256" {
			t.Errorf("alg %v", alg)
		}
		claims, err := verifies(w.keys["streambird"], jwt)
		if err != nil || claims["sub"] != "ada" {
			t.Errorf("%v, %v", claims, err)
		}
	}},
	{id: "S14", text: "the JWT lives for 300 s", check: func(t *testing.T, w *world) {
		jwt := w.login(t, w.streambird, nil).SessionJWT
		if life := seconds(t, jwt, "exp").Sub(seconds(t, jwt, "iat")); life != 300*time.Second {
			t.Errorf("%v", life)
		}
	}},
	{id: "S15", text: "an expired JWT is exchanged for a new one", check: func(t *testing.T, w *world) {
		old := w.expired(t, w.streambird, w.login(t, w.streambird, nil))
		r := w.sbVerify(t, "session_jwt", old).want(t, 200)
		if jwt, _ := r.at("session_jwt").(string); jwt == old || !seconds(t, jwt, "exp").After(time.Now()) {
			t.Errorf("no new JWT")
		}
	}},
	{id: "S16", text: "a JWT of a revoked session is refused though it has not expired", check: func(t *testing.T, w *world) {
		s := w.login(t, w.streambird, nil)
		w.sbDelete(t, object{"session_id": s.Session.SessionID}).want(t, 200)
		if r := w.sbVerify(t, "session_jwt", s.SessionJWT); r.status < 400 || r.status > 499 {
			t.Errorf("%d", r.status)
		}
	}},
	{id: "S17", text: "a session of 7 days, whatever the JWT's life", check: func(t *testing.T, w *world) {
		s := w.login(t, w.streambird, object{"session_duration_minutes": 7 * 24 * 60})
		if life := s.Session.ExpiresAt.Sub(s.Session.StartedAt); life != 7*24*time.Hour {
			t.Errorf("%v", life)
		}
	}},
	{id: "S18", text: "the JWKS holds public keys and nothing else", check: func(t *testing.T, w *world) {
		r := w.anonymous(t, "GET", "/v1/auth/jwks/streambird").want(t, 200)
		keys, _ := r.at("keys").([]any)
		for _, k := range keys {
			k := k.(map[string]any)
			for _, name := range []string{"kty", "n", "e", "kid", "alg", "use"} {
				if k[name] == nil {
					t.Errorf("no %s in %v", name, k)
				}
			}
			for _, name := range []string{"d", "p", "q", "dp", "dq", "qi", "k"} {
				if k[name] != nil {
					t.Errorf("%s in a public key", name)
				}
			}
		}
		if len(keys) == 0 {
			t.Errorf("%s", r.raw)
		}
	}},
	{id: "S19", text: "the JWKS is public and each app's own", check: func(t *testing.T, w *world) {
		set := jwksOf(t, w.n, "/v1/auth/jwks/streambird")
		if _, err := verifies(set, w.jwts["streambird"]); err != nil {
			t.Error(err)
		}
		if _, err := verifies(set, w.jwts["stytch"]); err == nil {
			t.Error("a JWT of another app verifies")
		}
	}},
	{id: "S20", text: "the JWT holds session, factors and user", check: func(t *testing.T, w *world) {
		s := w.login(t, w.streambird, object{"authentication_factors": []object{{"type": "otp", "delivery_method": "sms"}}})
		claims := part(t, s.SessionJWT, 1)
		inner, _ := claims[streambirdClaim].(map[string]any)
		factors, _ := inner["factors"].([]any)
		if claims["sub"] != "ada" || inner["id"] != s.Session.SessionID || inner["user_id"] != "ada" || len(factors) != 1 {
			t.Errorf("%v", claims)
		}
	}},
	{id: "S21", text: "keys are JWKs of RFC 7517, read by other libraries", shown: "TestJose, TestGoOIDC", check: func(t *testing.T, w *world) {
		for app, set := range w.keys { // as go-jose read them
			for _, k := range set.Keys {
				if !k.Valid() || !k.IsPublic() || k.KeyID == "" || k.Use != "sig" {
					t.Errorf("%s: %v", app, k.KeyID)
				}
			}
		}
	}},
	{id: "S22", text: "JWTs are verified without any call: 1,000 with the node dead", at: withNobody, check: func(t *testing.T, w *world) {
		for app, jwt := range w.jwts {
			for range 250 {
				if _, err := verifies(w.keys[app], jwt); err != nil {
					t.Fatalf("%s: %v", app, err)
				}
			}
		}
	}},
	{id: "S23", text: "systems that cannot call can verify", check: func(t *testing.T, w *world) {
		r := w.anonymous(t, "GET", "/v1/apps/streambird/.well-known/openid-configuration").want(t, 200)
		url := fmt.Sprint(r.at("jwks_uri"))
		if !strings.HasPrefix(url, w.n.base) {
			t.Fatalf("%s", r.raw)
		}
		if _, err := verifies(jwksOf(t, w.n, strings.TrimPrefix(url, w.n.base)), w.jwts["streambird"]); err != nil {
			t.Error(err)
		}
	}, shown: "TestJose, TestGoOIDC, TestNginx"},
	{id: "S24", text: "factors of any kind of log-in", check: func(t *testing.T, w *world) {
		for _, kind := range []string{"otp", "magic_link", "totp", "oauth", "webauthn", "wallet", "password"} {
			s := w.login(t, w.streambird, object{"authentication_factors": []object{{"type": kind}}})
			factors, _ := w.sbVerify(t, "session_token", s.SessionToken).want(t, 200).at("session.factors").([]any)
			if len(factors) != 1 || factors[0].(map[string]any)["type"] != kind {
				t.Errorf("%s: %v", kind, factors)
			}
		}
		w.streambird.do(t, "POST", "/v1/sessions", object{"user_id": "ada", "authentication_factors": []object{{"type": ""}}}).want(t, 400)
	}},
}
