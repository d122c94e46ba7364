package compat

import (
	"encoding/json"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
)

// TestClaimsOfAnotherCase tries to overrule registered claims by custom ones
// that differ from them in case only. Verifiers written in Go read JSON with
// encoding/json, which takes "Sub", and even "ſub", for "sub", and of several
// members the last. Such a claim must be refused, or do nothing.
func TestClaimsOfAnotherCase(t *testing.T) {
	n := shared(t)
	c := n.newApp(t, "claim-case", nil)
	tab := newTable(t, "claim", "given to", "status", "what go-oidc reads")
	keys := oidc.NewRemoteKeySet(t.Context(), n.base+"/v1/apps/claim-case/jwks")
	later := time.Now().Add(100 * 24 * time.Hour).Unix()
	for _, claim := range []struct {
		name  string
		value any
	}{
		{"Sub", "root"}, {"SUB", "root"}, {"sUb", "root"}, {"ſub", "root"}, {"Exp", later}, {"EXP", later},
		{"Iss", "https://evil.example"}, {"iſſ", "https://evil.example"}, {"Aud", "somebody-else"}, {"AUD", []string{"somebody-else"}},
		{"Iat", later}, {"Nbf", later}, {"NBF", later}, {"Sid", "x"}, {"ſid", "x"}, {"Client_id", "x"},
	} {
		judge := func(where string, r *reply, jwt func(*reply) string) {
			if r.status >= 400 {
				tab.row(r.wrong(http.StatusBadRequest, invalid), claim.name, where, r.status, "refused")
				return
			}
			token := jwt(r)
			trouble, read := overruled(t, n, keys, token)
			tab.row(trouble, claim.name, where, r.status, read)
		}
		own := func(r *reply) string { return r.SessionJWT }
		custom := object{claim.name: claim.value}
		judge("create", c.do(t, "POST", "/v1/sessions", object{"user_id": "ada", "session_custom_claims": custom}), own)
		s := c.create(t, "ada")
		judge("authenticate", c.do(t, "POST", "/v1/sessions/authenticate", object{"session_token": s.SessionToken, "session_custom_claims": custom}), own)
		s = c.create(t, "ada")
		judge("template", c.do(t, "PUT", "/v1/apps/claim-case/templates/t", object{"claims": custom}), func(*reply) string {
			return c.do(t, "POST", "/v1/sessions/"+s.Session.SessionID+"/tokens", object{"template": "t"}).want(t, http.StatusOK).SessionJWT
		})
	}
	// What Stytch's client in Go reads its session from.
	for _, name := range []string{"Https://Stytch.com/session", "https://ſtytch.com/session"} {
		r := c.do(t, "POST", "/v1/sessions", object{"user_id": "ada", "session_custom_claims": object{name: object{"id": "x"}}})
		tab.row(r.wrong(http.StatusBadRequest, invalid), name, "create", r.status, r.ErrorType)
	}
}

// overruled verifies a JWT of ada's with go-oidc, and says what it reads
// wrongly.
func overruled(t *testing.T, n *node, keys oidc.KeySet, jwt string) (trouble, read string) {
	t.Helper()
	conf := &oidc.Config{ClientID: "claim-case", SupportedSigningAlgs: []string{"ES256"}}
	id, err := oidc.NewVerifier(n.base+"/v1/apps/claim-case", keys, conf).Verify(t.Context(), jwt)
	if err != nil {
		return "it cannot be verified: " + clip(err.Error()), "nothing"
	}
	var claims struct {
		SID    string `json:"sid"`
		Client string `json:"client_id"`
	}
	if err := id.Claims(&claims); err != nil {
		return err.Error(), "nothing"
	}
	sid, _ := part(t, jwt, 1)["sid"].(string)
	ok := id.Subject == "ada" && id.Expiry.Equal(seconds(t, jwt, "exp")) && id.IssuedAt.Equal(seconds(t, jwt, "iat")) &&
		claims.SID == sid && claims.Client == "claim-case"
	read = fmt.Sprintf("sub %s, exp in %v, sid %s", id.Subject, time.Until(id.Expiry).Round(time.Minute), claims.SID)
	return unless(ok, "go-oidc reads %s", read), read
}

// TestStrangeClaims stores custom claims that JSON allows and libraries may
// trip over: what is accepted must be verifiable.
func TestStrangeClaims(t *testing.T) {
	n := shared(t)
	c := n.newApp(t, "claim-strange", nil)
	tab := newTable(t, "claims", "status", "result")
	keys := oidc.NewRemoteKeySet(t.Context(), n.base+"/v1/apps/claim-strange/jwks")
	for _, text := range []string{
		`{"n":1e400}`, `{"n":-1e400}`, `{"n":1e-400}`, `{"n":-0,"m":1.0,"k":1e2}`, `{"n":12345678901234567890123}`, `{"__proto__":{"a":1},"constructor":1}`,
		`{"a":"\u0000\u2028</script>"}`, `{"a":"😀"}`, `{"typ":"x","alg":"none","kid":"y"}`, `{"roles":{"a":1}}`, `{"é":1,"e\u0301":2}`, `{" ":1}`, `{"a":[]}`, `{"a":[[[[1]]]]}`,
	} {
		r := c.do(t, "POST", "/v1/sessions", `{"user_id":"ada","session_custom_claims":`+text+`}`)
		if r.status >= 400 {
			tab.row(r.wrong(http.StatusBadRequest, invalid), text, r.status, "refused")
			continue
		}
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
