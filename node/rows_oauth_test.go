package node_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/revocast/revocast/node"
	"github.com/revocast/revocast/signer"
)

// row is a capability of the systems that Revocast replaces, and the check of it.
// The check returns what is wrong, "" if nothing is.
type row struct {
	id, what string
	check    func(h *harness) string
}

// TestRowsOfJWTs checks what Streambird (S), Stytch (Y) and the tutorial on
// sessions and JWTs (U) say of JWTs and of the keys that verify them, and prints
// the table. What needs a vendor's library, or real programs, is in deploy/compat.
func TestRowsOfJWTs(t *testing.T) {
	var table strings.Builder
	w := tabwriter.NewWriter(&table, 0, 0, 2, ' ', 0)
	for _, r := range jwtRows {
		verdict := "pass"
		bubble(t, func(t *testing.T, h *harness) {
			if trouble := r.check(h); trouble != "" {
				verdict = "FAIL"
				t.Errorf("%s %s: %s", r.id, r.what, trouble)
			}
		})
		fmt.Fprintf(w, "%s\t%s\t%s\n", r.id, verdict, r.what)
	}
	_ = w.Flush()
	t.Logf("\n%s", &table)
}

var jwtRows = []row{
	{"S13", "a JWT is a JWS signed with RS256 that anyone with the public key can verify", func(h *harness) string {
		key := h.newApp("rsa", m{"jwt_alg": "RS256"})
		jwt := h.do(key, "POST", "/v1/sessions", m{"user_id": "ada"}).want(201).str("session_jwt")
		if alg := jwtHeader(h.t, jwt)["alg"]; alg != "RS256" || claims(h.t, jwt)["sub"] != "ada" {
			return fmt.Sprintf("alg %v, claims %v", alg, claims(h.t, jwt))
		}
		return h.verifiedBy("rsa", jwt)
	}},
	{"S14", "a JWT is good for 300 s unless the app says otherwise", func(h *harness) string {
		c := claims(h.t, h.login("ada").str("session_jwt"))
		return differs(c["exp"].(float64)-c["iat"].(float64), 300.0)
	}},
	{"S15", "an expired JWT is exchanged for a new one while the session lives", func(h *harness) string {
		jwt := h.login("ada").str("session_jwt")
		time.Sleep(301 * time.Second)
		next := h.do(h.key, "POST", "/v1/sessions/authenticate", m{"session_jwt": jwt}).want(200).str("session_jwt")
		if next == jwt || claims(h.t, next)["exp"].(float64) <= claims(h.t, jwt)["exp"].(float64) {
			return "it is not a newer one"
		}
		return ""
	}},
	{"S16", "a JWT of a revoked session is an error, also before its exp", func(h *harness) string {
		c := h.login("ada")
		h.do(h.key, "DELETE", "/v1/sessions/"+c.str("session.session_id"), nil).want(200)
		h.do(h.key, "POST", "/v1/sessions/authenticate", m{"session_jwt": c.str("session_jwt")}).wantError(404, "session_not_found")
		return differs(h.do(c.str("session_jwt"), "GET", "/v1/verify", nil).want(401).Header.Get("X-Session-Reason"), "revoked")
	}},
	{"S18", "the JWKS has the public keys and nothing private", func(h *harness) string {
		h.newApp("rsa", m{"jwt_alg": "RS256"})
		for _, k := range h.do("", "GET", "/v1/apps/rsa/jwks", nil).want(200).JSON["keys"].([]any) {
			var names []string
			for name := range k.(map[string]any) {
				names = append(names, name)
			}
			slices.Sort(names)
			if trouble := differs(strings.Join(names, " "), "alg e kid kty n use"); trouble != "" {
				return trouble
			}
		}
		return ""
	}},
	{"S19", "the JWKS is public, and each app has its own", func(h *harness) string {
		other := h.newApp("other", nil)
		mine, theirs := h.login("ada").str("session_jwt"), h.do(other, "POST", "/v1/sessions", m{"user_id": "ada"}).want(201).str("session_jwt")
		if h.verifiedBy("other", mine) == "" || h.verifiedBy("acme", theirs) == "" {
			return "a JWT verifies with another app's keys"
		}
		return h.verifiedBy("acme", mine) + h.verifiedBy("other", theirs)
	}},
	{"S20", "the JWT holds the session with its factors, and the user", func(h *harness) string {
		key := h.newApp("full", m{"jwt_profile": "stytch"})
		c := claims(h.t, h.do(key, "POST", "/v1/sessions", m{"user_id": "ada", "authentication_factors": []m{{"type": "password"}}}).want(201).str("session_jwt"))
		s, _ := c["https://stytch.com/session"].(map[string]any)
		if f, _ := s["authentication_factors"].([]any); len(f) != 1 || c["sub"] != "ada" {
			return fmt.Sprint(c)
		}
		return ""
	}},
	{"S21", "each key is a JWK with a thumbprint for its kid (jose, go-jose, keyfunc: deploy/compat)", func(h *harness) string {
		for _, alg := range []string{"ES256", "RS256", "EdDSA"} {
			id := strings.ToLower(alg)
			h.newApp(id, m{"jwt_alg": alg})
			if trouble := h.verifiedBy(id, h.do(h.admin, "POST", "/v1/sessions?app="+id, m{"user_id": "ada"}).want(201).str("session_jwt")); trouble != "" {
				return alg + ": " + trouble
			}
		}
		return ""
	}},
	{"S22", "with the JWKS once fetched a JWT is verified without any call", func(h *harness) string {
		ring, jwt := h.publicRing("acme"), h.login("ada").str("session_jwt")
		h.stop() // there is nobody to call any more
		for range 1000 {
			if _, err := ring.Verify(jwt, signer.Expect{Issuer: publicURL + "/v1/apps/acme", App: "acme", Now: time.Now()}); err != nil {
				return err.Error()
			}
		}
		return ""
	}},
	{"S23", "who cannot call the API finds all by discovery (express-oauth2-jwt-bearer: deploy/compat)", func(h *harness) string {
		d := h.do("", "GET", "/v1/apps/acme/.well-known/openid-configuration", nil).want(200)
		jwt := h.login("ada").str("session_jwt")
		if d.str("issuer") != claims(h.t, jwt)["iss"] || d.str("jwks_uri") != publicURL+"/v1/apps/acme/jwks" {
			return string(d.Raw)
		}
		return ""
	}},
	{"Y11", "the JWT has the standard claims and the session", func(h *harness) string {
		c := claims(h.t, h.do(h.newApp("st", m{"jwt_profile": "stytch"}), "POST", "/v1/sessions", m{"user_id": "ada"}).want(201).str("session_jwt"))
		for _, name := range []string{"iss", "aud", "sub", "iat", "nbf", "exp", "https://stytch.com/session"} {
			if c[name] == nil {
				return "no " + name
			}
		}
		return ""
	}},
	{"Y13", "keys are the project's own; GET /v1/sessions/jwks/{project} is public", func(h *harness) string {
		h.newApp("p2", nil)
		a, b := h.do("", "GET", "/v1/sessions/jwks/acme", nil).want(200), h.do("", "GET", "/v1/sessions/jwks/p2", nil).want(200)
		if len(a.JSON["keys"].([]any)) == 0 || fmt.Sprint(a.JSON["keys"]) == fmt.Sprint(b.JSON["keys"]) {
			return string(a.Raw)
		}
		return ""
	}},
	{"Y14", "a JWT of 5 minutes is renewed for the session's life, and then no more", func(h *harness) string {
		jwt := h.do(h.key, "POST", "/v1/sessions", m{"user_id": "ada", "session_duration_minutes": 30}).want(201).str("session_jwt")
		for range 4 {
			time.Sleep(6 * time.Minute)
			jwt = h.do(h.key, "POST", "/v1/sessions/authenticate", m{"session_jwt": jwt}).want(200).str("session_jwt")
		}
		time.Sleep(6 * time.Minute)
		return differs(h.do(h.key, "POST", "/v1/sessions/authenticate", m{"session_jwt": jwt}).wantError(404, "session_not_found").str("error_details.reason"), "expired")
	}},
	{"Y15", "verified locally a JWT is good until its exp, which an app sets to 30 to 3600 s", func(h *harness) string {
		for _, ttl := range []int{29, 3601} {
			h.do(h.key, "PATCH", "/v1/apps/acme", m{"jwt_ttl_seconds": ttl}).wantError(400, "invalid_argument")
		}
		h.do(h.key, "PATCH", "/v1/apps/acme", m{"jwt_ttl_seconds": 30}).want(200)
		c := h.login("ada")
		h.do(h.key, "DELETE", "/v1/sessions/"+c.str("session.session_id"), nil).want(200)
		if trouble := h.verifiedBy("acme", c.str("session_jwt")); trouble != "" {
			return trouble
		}
		time.Sleep(30 * time.Second)
		if h.verifiedBy("acme", c.str("session_jwt")) == "" {
			return "it is good after its exp"
		}
		return ""
	}},
	{"Y16", "a template mints JWTs for other systems, which are good for nothing here", func(h *harness) string {
		h.do(h.key, "PUT", "/v1/apps/acme/templates/out", m{"audience": "https://warehouse.example"}).want(200)
		jwt := h.do(h.key, "POST", "/v1/sessions/"+h.login("ada").str("session.session_id")+"/tokens", m{"template": "out"}).want(200).str("session_jwt")
		h.do(jwt, "GET", "/v1/verify", nil).want(401)
		return differs(fmt.Sprint(claims(h.t, jwt)["aud"]), "[https://warehouse.example]")
	}},
	{"U13", "JWTs are signed with a private key (a shared secret is not offered: who could verify could forge)", func(h *harness) string {
		h.do(h.key, "PATCH", "/v1/apps/acme", m{"jwt_alg": "HS256"}).wantError(400, "invalid_argument")
		return differs(jwtHeader(h.t, h.login("ada").str("session_jwt"))["alg"], any("ES256"))
	}},
	{"U14", "a JWT is taken from Authorization, a cookie or a body", func(h *harness) string {
		jwt := h.login("ada").str("session_jwt")
		h.do(jwt, "GET", "/v1/verify", nil).want(204)
		h.do("", "GET", "/v1/verify", nil, "Cookie", "session="+jwt).want(204)
		h.do("", "GET", "/v1/verify", nil, "Cookie", "__Host-session="+jwt).want(204)
		h.do("", "POST", "/v1/verify", m{"session_jwt": jwt}).want(204)
		return ""
	}},
	{"U15", "an expired JWT is refused in the words of RFC 6750", func(h *harness) string {
		jwt := h.login("ada").str("session_jwt")
		time.Sleep(301 * time.Second)
		return differs(h.do(jwt, "GET", "/v1/verify", nil).want(401).Header.Get("WWW-Authenticate"), `Bearer error="invalid_token"`)
	}},
	{"U16", "a log-out ends the JWTs of the session at once, on every node", func(h *harness) string {
		c, other := h.login("ada"), h.twin("n2")
		h.do(h.key, "POST", "/v1/sessions/revoke", m{"session_jwt": c.str("session_jwt")}).want(200)
		time.Sleep(node.DefaultLease)
		for _, n := range []*harness{h, other} {
			if reason := n.do(c.str("session_jwt"), "GET", "/v1/verify", nil).want(401).Header.Get("X-Session-Reason"); reason != "revoked" {
				return reason
			}
		}
		return ""
	}},
}

func differs[T comparable](got, want T) string {
	if got == want {
		return ""
	}
	return fmt.Sprintf("%v, want %v", got, want)
}

// publicRing is a verifier's: it knows only what the JWKS says.
func (h *harness) publicRing(app string) *signer.Ring {
	h.t.Helper()
	var set struct{ Keys []json.RawMessage }
	if err := json.Unmarshal(h.do("", "GET", "/v1/apps/"+app+"/jwks", nil).want(200).Raw, &set); err != nil {
		h.t.Fatal(err)
	}
	var keys []*signer.Key
	for _, raw := range set.Keys {
		k, err := signer.ParsePublic(raw)
		if err != nil {
			h.t.Fatal(err)
		}
		keys = append(keys, k)
	}
	return signer.NewRing(keys...)
}

// verifiedBy returns why the JWT does not verify with the public keys of the app.
func (h *harness) verifiedBy(app, jwt string) string {
	h.t.Helper()
	_, err := h.publicRing(app).Verify(jwt, signer.Expect{Issuer: publicURL + "/v1/apps/" + app, App: app, Now: time.Now()})
	if err != nil {
		return err.Error()
	}
	return ""
}

// jwtHeader returns the header of a JWT, unverified.
func jwtHeader(t *testing.T, jwt string) (header map[string]any) {
	t.Helper()
	head, _, _ := strings.Cut(jwt, ".")
	text, err := base64.RawURLEncoding.DecodeString(head)
	if err == nil {
		err = json.Unmarshal(text, &header)
	}
	if err != nil {
		t.Fatal(err)
	}
	return header
}
