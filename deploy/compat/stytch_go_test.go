package compat

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// stytchClaims is what Stytch's client in Go reads of a JWT. Its times are
// mandatory: one that is missing or not RFC 3339 sends the client to the API.
type stytchClaims struct {
	jwt.RegisteredClaims
	Session struct {
		ID             string           `json:"id"`
		StartedAt      string           `json:"started_at"`
		LastAccessedAt string           `json:"last_accessed_at"`
		ExpiresAt      string           `json:"expires_at"`
		Attributes     map[string]any   `json:"attributes"`
		Factors        []map[string]any `json:"authentication_factors"`
		Roles          []string         `json:"roles"`
	} `json:"https://stytch.com/session"`
}

// stytchRules verifies as Stytch's client in Go does: golang-jwt without leeway,
// audience, one of two issuers, the times of the session. It returns the session
// id and the custom claims, which are all that it does not know.
func stytchRules(keys map[string]crypto.PublicKey, token, project, base string, now time.Time) (sid string, custom map[string]any, err error) {
	var c stytchClaims
	_, err = jwt.ParseWithClaims(token, &c, func(t *jwt.Token) (any, error) {
		kid, _ := t.Header["kid"].(string)
		if key, ok := keys[kid]; ok {
			return key, nil
		}
		return nil, errors.New("no such key")
	}, jwt.WithAudience(project), jwt.WithTimeFunc(func() time.Time { return now }))
	if err != nil {
		return "", nil, err
	}
	if c.Issuer != base && c.Issuer != "stytch.com/"+project {
		return "", nil, fmt.Errorf("issuer %q", c.Issuer)
	}
	for _, at := range []string{c.Session.StartedAt, c.Session.LastAccessedAt, c.Session.ExpiresAt} {
		if _, err := time.Parse(time.RFC3339, at); err != nil {
			return "", nil, err
		}
	}
	raw, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[1])
	if err != nil {
		return "", nil, err
	}
	if err := json.Unmarshal(raw, &custom); err != nil {
		return "", nil, err
	}
	for name := range custom {
		switch {
		case strings.HasPrefix(name, "https://stytch.com/"):
			delete(custom, name)
		case strings.Contains(" iss aud sub iat nbf exp ", " "+name+" "): // not jti: it would leak
			delete(custom, name)
		}
	}
	return c.Session.ID, custom, nil
}

// stytchKeys reads the key set where Stytch's clients look for it.
func stytchKeys(t *testing.T, base, project string) map[string]crypto.PublicKey {
	t.Helper()
	r := client{base: base}.do(t, "GET", "/v1/sessions/jwks/"+project, nil).want(t, http.StatusOK)
	var set struct {
		Keys []map[string]string `json:"keys"`
	}
	if err := json.Unmarshal(r.raw, &set); err != nil {
		t.Fatal(err)
	}
	keys := map[string]crypto.PublicKey{}
	number := func(text string) *big.Int {
		b, err := base64.RawURLEncoding.DecodeString(text)
		if err != nil {
			t.Fatal(err)
		}
		return new(big.Int).SetBytes(b)
	}
	for _, k := range set.Keys {
		switch k["kty"] {
		case "EC":
			keys[k["kid"]] = &ecdsa.PublicKey{Curve: elliptic.P256(), X: number(k["x"]), Y: number(k["y"])}
		case "RSA":
			keys[k["kid"]] = &rsa.PublicKey{N: number(k["n"]), E: int(number(k["e"]).Int64())}
		}
	}
	return keys
}

// TestStytchRules holds JWTs against the rules of Stytch's client in Go.
func TestStytchRules(t *testing.T) {
	n := shared(t)
	tab := newTable(t, "alg", "case", "result")
	for _, alg := range []string{"ES256", "RS256"} {
		project, other := "stytch-go-"+strings.ToLower(alg), "stytch-go-other-"+strings.ToLower(alg)
		c := n.newApp(t, project, object{"jwt_profile": "stytch", "jwt_alg": alg})
		stranger := n.newApp(t, other, object{"jwt_profile": "stytch", "jwt_alg": alg}).create(t, "ada").SessionJWT
		s := c.do(t, "POST", "/v1/sessions", object{"user_id": "ada", "session_custom_claims": object{"plan": "pro"}}).want(t, http.StatusCreated)
		keys, iat, exp := stytchKeys(t, n.base, project), seconds(t, s.SessionJWT, "iat"), seconds(t, s.SessionJWT, "exp")
		minted := func(template string, settings object) string {
			c.do(t, "PUT", "/v1/apps/"+project+"/templates/"+template, settings).want(t, http.StatusOK)
			return c.do(t, "POST", "/v1/sessions/"+s.Session.SessionID+"/tokens", object{"template": template}).want(t, http.StatusOK).SessionJWT
		}
		native, partner := minted("native", object{"jwt_profile": "native"}), minted("partner", object{"jwt_profile": "stytch", "audience": "partner"})
		refreshed := c.do(t, "POST", "/v1/sessions/authenticate", object{"session_jwt": s.SessionJWT, "session_custom_claims": object{"plan": "free"}}).want(t, http.StatusOK)
		for _, r := range []struct {
			name, jwt, project, base string
			now                      time.Time
			plan                     string // "": must be refused
		}{
			{"as minted", s.SessionJWT, project, n.base, iat, "pro"},
			{"after authenticate", refreshed.SessionJWT, project, n.base, iat.Add(time.Second), "free"},
			{"a clock 2 s behind", s.SessionJWT, project, n.base, iat.Add(-2 * time.Second), "pro"},
			{"a clock 2 s ahead", s.SessionJWT, project, n.base, iat.Add(2 * time.Second), "pro"},
			{"a clock 10 s behind", s.SessionJWT, project, n.base, iat.Add(-10 * time.Second), "pro"},
			{"a clock 11 s behind", s.SessionJWT, project, n.base, iat.Add(-11 * time.Second), ""},
			{"one second before exp", s.SessionJWT, project, n.base, exp.Add(-time.Second), "pro"},
			{"at exp", s.SessionJWT, project, n.base, exp, ""},
			{"another project", s.SessionJWT, other, n.base, iat, ""},
			{"another base", s.SessionJWT, project, n.base + "/", iat, ""},
			{"the JWT of another project", stranger, project, n.base, iat, ""},
			{"a template of the native profile", native, project, n.base, iat, ""},
			{"a template with an audience, here", partner, project, n.base, iat, ""},
			{"a template with an audience, there", partner, "partner", n.base, iat.Add(time.Second), "pro"},
		} {
			sid, custom, err := stytchRules(keys, r.jwt, r.project, r.base, r.now)
			if r.plan == "" {
				tab.row(unless(err != nil, "want it refused, got session %s", sid), alg, r.name, "refused")
				continue
			}
			trouble := unless(err == nil, "%v; ", err) + unless(sid == s.Session.SessionID, "session %q; ", sid) +
				unless(fmt.Sprint(custom) == "map[plan:"+r.plan+"]", "custom claims %v", custom)
			tab.row(trouble, alg, r.name, "accepted")
		}
	}
}
