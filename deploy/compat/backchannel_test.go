package compat

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
)

// TestExpressOpenIDConnect lets npm's express-openid-connect be told of log-outs: it
// judges the logout tokens with what discovery says, and ends sessions of its own.
func TestExpressOpenIDConnect(t *testing.T) {
	t.Parallel()
	n := newNode(t, "--outbound-allow", "127.0.0.1/32")
	apps := oauthApps(t, n, "rp", algs...)
	for i, alg := range algs {
		// It signs as the app does, so that the algorithm is not why it is refused.
		id := "rp-stranger-" + strings.ToLower(alg)
		apps[i].Other = &oauthOther{App: id, Key: n.newApp(t, id, object{"jwt_alg": alg}).key}
	}
	runOAuthScript(t, "express-openid-connect.mjs", apps, 36, "express-openid-connect", "express-session", "dpop")
}

// TestGoOIDCLogout: go-oidc takes the logout tokens that it is sent, and nothing else.
// What was told already (jti) it leaves to its user.
func TestGoOIDCLogout(t *testing.T) {
	t.Parallel()
	n := newNode(t, "--outbound-allow", "127.0.0.1/32")
	for _, alg := range algs {
		t.Run(alg, func(t *testing.T) {
			t.Parallel()
			judgeLogout(t, n, alg)
		})
	}
}

func judgeLogout(t *testing.T, n *node, alg string) {
	id := "go-rp-" + strings.ToLower(alg)
	c := n.newApp(t, id, object{"jwt_alg": alg})
	stranger, _ := toldOf(t, id+"-other", n.newApp(t, id+"-other", object{"jwt_alg": alg}), "shop")
	wrong, _ := toldOf(t, id, c, "another-shop")
	good, over := toldOf(t, id, c, "shop")
	c.do(t, "PUT", "/v1/apps/"+id+"/templates/shop", object{"audience": "shop"}).want(t, http.StatusOK)
	live := c.create(t, "ada@example.com").Session.SessionID
	idToken := c.do(t, "POST", "/v1/sessions/"+live+"/tokens", object{"template": "shop"}).want(t, http.StatusOK).SessionJWT

	provider, err := oidc.NewProvider(t.Context(), n.base+"/v1/apps/"+id)
	if err != nil {
		t.Fatalf("discovery: %v", err)
	}
	verifier := provider.VerifierContext(t.Context(), &oidc.Config{ClientID: "shop"})
	got, err := verifier.VerifyLogout(t.Context(), good)
	if err != nil {
		t.Fatalf("the logout token is refused: %v", err)
	}
	life := got.Expiry.Sub(got.IssuedAt)
	if got.SessionID != over.Session.SessionID || got.Subject != "ada@example.com" || life <= 0 || life > 2*time.Minute {
		t.Errorf("the logout token says %+v", got)
	}
	// So it is the missing event for which the next is refused.
	if _, err := verifier.Verify(t.Context(), idToken); err != nil {
		t.Errorf("the ID token is none: %v", err)
	}
	tab := newTable(t, "alg", "case", "result")
	bad := append(forgeries(t, good, stranger), forged{"a wrong audience", wrong}, forged{"an ID token", idToken}, forged{"a JWT", over.SessionJWT})
	for _, f := range bad {
		_, err := verifier.VerifyLogout(t.Context(), f.jwt)
		tab.row(unless(err != nil, "accepted"), alg, f.name, err)
	}
}

// toldOf registers a client with the id, and returns the logout token that it is sent for
// a session that is revoked.
func toldOf(t *testing.T, app string, c client, id string) (token string, over *reply) {
	t.Helper()
	told := make(chan string, 1)
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case told <- r.PostFormValue("logout_token"):
		default: // the one that counts is there
		}
	}))
	defer server.Close()
	path := "/v1/apps/" + app + "/logout-clients/" + id
	c.do(t, "PUT", path, object{"backchannel_logout_uri": server.URL}).want(t, http.StatusOK)
	over = c.create(t, "ada@example.com")
	c.do(t, "DELETE", "/v1/sessions/"+over.Session.SessionID, nil).want(t, http.StatusOK)
	select {
	case token = <-told:
	case <-time.After(20 * time.Second):
		t.Fatalf("%s: nothing was told within 20 s", path)
	}
	c.do(t, "DELETE", path, nil).want(t, http.StatusOK)
	return token, over
}
