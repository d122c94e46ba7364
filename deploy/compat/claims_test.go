package compat

import (
	"encoding/json"
	"fmt"
	"net/http"
	"testing"

	"github.com/coreos/go-oidc/v3/oidc"
)

// TestClaimsOfAnotherCase tries to overrule registered claims by custom ones
// that differ from them in case only. Verifiers written in Go read JSON with
// encoding/json, which takes "Sub", and even "ſub", for "sub", and of several
// members the last. Such a claim is refused wherever it is given.
func TestClaimsOfAnotherCase(t *testing.T) {
	n := shared(t)
	c := n.newApp(t, "claim-case", nil)
	tab := newTable(t, "claim", "given to", "status", "error_type")
	s := c.create(t, "ada")
	for _, name := range []string{
		"Sub", "SUB", "sUb", "ſub", "Exp", "EXP", "Iss", "iſſ", "ISS", "Aud", "AUD", "Iat", "Nbf", "NBF", "Jti", "Sid", "ſid", "Client_id", "CLIENT_ID", "Cnf",
		// What Stytch's client in Go reads its session from.
		"Https://Stytch.com/session", "https://ſtytch.com/session",
	} {
		custom := object{name: "x"}
		for _, r := range []struct {
			where, method, path string
			body                object
		}{
			{"create", "POST", "/v1/sessions", object{"user_id": "ada", "session_custom_claims": custom}},
			{"authenticate", "POST", "/v1/sessions/authenticate", object{"session_token": s.SessionToken, "session_custom_claims": custom}},
			{"patch", "PATCH", "/v1/sessions/" + s.Session.SessionID, object{"session_custom_claims": custom}},
			{"template", "PUT", "/v1/apps/claim-case/templates/t", object{"claims": custom}},
		} {
			a := c.do(t, r.method, r.path, r.body)
			tab.row(a.wrong(http.StatusBadRequest, invalid), name, r.where, a.status, a.ErrorType)
		}
	}
	for _, name := range []string{"subject", "expiry", "my_sub", "Sub ", "roles", "sub.x"} {
		r := c.do(t, "POST", "/v1/sessions", object{"user_id": "ada", "session_custom_claims": object{name: "x"}})
		tab.row(unless(r.status == http.StatusCreated && part(t, r.SessionJWT, 1)[name] == "x", "%s", r.raw), name, "create", r.status, "")
	}
}

// TestStrangeClaims stores custom claims that JSON allows and libraries may
// trip over: what is accepted must be verifiable.
func TestStrangeClaims(t *testing.T) {
	n := shared(t)
	c := n.newApp(t, "claim-strange", nil)
	tab := newTable(t, "claims", "status", "result")
	keys := oidc.NewRemoteKeySet(t.Context(), n.base+"/v1/apps/claim-strange/jwks")
	for _, text := range []string{`{"n":1e400}`, `{"n":-1e400}`, `{"a":[{"n":1e309}]}`} {
		r := c.do(t, "POST", "/v1/sessions", `{"user_id":"ada","session_custom_claims":`+text+`}`)
		tab.row(r.wrong(http.StatusBadRequest, invalid), text, r.status, "refused")
	}
	for _, text := range []string{
		`{"n":1e308,"m":1e-400}`, `{"n":-0,"m":1.0,"k":1e2}`, `{"n":12345678901234567890123}`, `{"__proto__":{"a":1},"constructor":1}`,
		`{"a":"\u0000\u2028</script>"}`, `{"a":"😀"}`, `{"typ":"x","alg":"none","kid":"y"}`, `{"roles":{"a":1}}`, `{"é":1,"e\u0301":2}`, `{" ":1}`, `{"a":[]}`, `{"a":[[[[1]]]]}`,
	} {
		r := c.do(t, "POST", "/v1/sessions", `{"user_id":"ada","session_custom_claims":`+text+`}`).want(t, http.StatusCreated)
		v := c.verify(t, r.SessionJWT)
		trouble := unless(v.status == http.StatusNoContent, "verify says %d; ", v.status)
		conf := &oidc.Config{ClientID: "claim-strange", SupportedSigningAlgs: []string{"ES256"}}
		id, err := oidc.NewVerifier(n.base+"/v1/apps/claim-strange", keys, conf).Verify(t.Context(), r.SessionJWT)
		if err == nil {
			var all map[string]any
			err = id.Claims(&all)
		}
		var sent, got any
		if json.Unmarshal([]byte(text), &sent) == nil && json.Unmarshal(r.Session.CustomClaims, &got) == nil {
			trouble += unless(fmt.Sprint(sent) == fmt.Sprint(got), "came back as %s; ", r.Session.CustomClaims)
		}
		tab.row(trouble+unless(err == nil, "go-oidc: %v", err), text, r.status, "accepted")
	}
}
