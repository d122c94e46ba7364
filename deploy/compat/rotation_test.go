package compat

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
)

// kids returns the key ids of the app's key set.
func kids(t *testing.T, n *node, app string) map[string]bool {
	t.Helper()
	all := map[string]bool{}
	for _, k := range (client{base: n.base}).do(t, "GET", "/v1/apps/"+app+"/jwks", nil).want(t, http.StatusOK).Keys {
		all[k.KID] = true
	}
	return all
}

// TestKeyRotation rotates an app's key, then gives up the old one. A new key is
// published an hour before it signs, so that no verifier meets an unknown one;
// a key that is compromised is replaced at once.
func TestKeyRotation(t *testing.T) {
	n := shared(t)
	for _, alg := range algs {
		t.Run(alg, func(t *testing.T) {
			tab := newTable(t, "step", "JWT", "key set", "result")
			s := signedBy(t, n, "rotate-"+strings.ToLower(alg), "native", alg)
			c := n.admin()
			cached := oidc.NewRemoteKeySet(t.Context(), s.jwks)
			now := clock(time.Now())
			check := func(step, name, jwt, set string, keys oidc.KeySet, good bool) {
				conf := &oidc.Config{ClientID: s.app, SupportedSigningAlgs: []string{alg}, Now: now}
				_, err := oidc.NewVerifier(s.issuer, keys, conf).Verify(t.Context(), jwt)
				tab.row(unless((err == nil) == good, "want accepted %v: %v", good, err), step, name, set, brief(err))
			}
			fresh := func() oidc.KeySet { return oidc.NewRemoteKeySet(t.Context(), s.jwks) }
			check("before", "old", s.jwt, "cached", cached, true)

			r := c.do(t, "POST", "/v1/apps/"+s.app+"/keys/rotate", object{}).want(t, http.StatusOK)
			old, _ := part(t, s.jwt, 0)["kid"].(string)
			for _, k := range r.Keys {
				want := map[bool]string{true: "active", false: "next"}[k.KID == old]
				tab.row(unless(k.State == want, "want %s", want), "rotated", "", k.KID, k.State)
			}
			listed := kids(t, n, s.app)
			if len(listed) != 2 || !listed[old] {
				t.Errorf("after a rotation the key set lists %v, want two keys, one of them %s", listed, old)
			}
			second := client{n.base, n.boot.AdminKey}.do(t, "POST", "/v1/sessions", object{"user_id": s.user}, "X-Revocast-App", s.app).want(t, http.StatusCreated)
			check("rotated", "old", s.jwt, "cached", cached, true)
			check("rotated", "old", s.jwt, "fresh", fresh(), true)
			check("rotated", "newer", second.SessionJWT, "cached", cached, true)
			check("rotated", "newer", second.SessionJWT, "fresh", fresh(), true)

			again := c.do(t, "POST", "/v1/apps/"+s.app+"/keys/rotate", object{})
			tab.row(again.wrong(http.StatusConflict, "conflict")+unless(len(kids(t, n, s.app)) == 2, "; another key is listed"), "rotated again", "", "", again.status)

			c.do(t, "POST", "/v1/apps/"+s.app+"/keys/rotate", object{"compromised": old}).want(t, http.StatusOK)
			if kids(t, n, s.app)[old] {
				t.Errorf("the compromised key %s is still listed", old)
			}
			third := client{n.base, n.boot.AdminKey}.do(t, "POST", "/v1/sessions", object{"user_id": s.user}, "X-Revocast-App", s.app).want(t, http.StatusCreated)
			if kid := part(t, third.SessionJWT, 0)["kid"]; kid == old {
				t.Errorf("a JWT is still signed with the compromised key %s", old)
			}
			check("compromised", "new key's", third.SessionJWT, "cached", cached, true)
			check("compromised", "new key's", third.SessionJWT, "fresh", fresh(), true)
			check("compromised", "old key's", s.jwt, "fresh", fresh(), false)
			r = client{base: n.base}.verify(t, s.jwt)
			tab.row(unless(r.status == http.StatusUnauthorized, "status %d", r.status), "compromised", "old key's", "/v1/verify", r.status)
			r = client{base: n.base}.verify(t, third.SessionJWT)
			tab.row(unless(r.status == http.StatusNoContent, "status %d", r.status), "compromised", "new key's", "/v1/verify", r.status)
		})
	}
}

// TestAlgChange moves an app from one algorithm to another: what was signed
// before and what is signed after both verify.
func TestAlgChange(t *testing.T) {
	n := shared(t)
	tab := newTable(t, "from", "to", "JWT", "signed with", "result")
	for i, from := range algs {
		to := algs[(i+1)%len(algs)]
		s := signedBy(t, n, "change-"+strings.ToLower(from), "native", from)
		n.admin().do(t, "PATCH", "/v1/apps/"+s.app, object{"jwt_alg": to}).want(t, http.StatusOK)
		after := n.admin().do(t, "POST", "/v1/sessions", object{"user_id": s.user}, "X-Revocast-App", s.app).want(t, http.StatusCreated)
		keys := oidc.NewRemoteKeySet(t.Context(), s.jwks)
		provider, err := oidc.NewProvider(t.Context(), s.issuer)
		if err != nil {
			t.Fatal(err)
		}
		for _, j := range []struct{ name, jwt string }{{"before", s.jwt}, {"after", after.SessionJWT}} {
			conf := oidc.Config{ClientID: s.app, SupportedSigningAlgs: algs, Now: clock(seconds(t, j.jwt, "iat"))}
			_, err := oidc.NewVerifier(s.issuer, keys, &conf).Verify(t.Context(), j.jwt)
			conf.SupportedSigningAlgs = nil // discovery says
			_, err2 := provider.Verifier(&conf).Verify(t.Context(), j.jwt)
			tab.row(unless(err == nil && err2 == nil, "from the key set: %v; from discovery: %v", err, err2), from, to, j.name, part(t, j.jwt, 0)["alg"], brief(err))
		}
	}
}

// TestProfileChange changes the shape of an app's JWTs. Those that are about
// stay good.
func TestProfileChange(t *testing.T) {
	n := shared(t)
	tab := newTable(t, "from", "JWT", "typ", "verify", "authenticate")
	for from, to := range map[string]string{"native": "stytch", "stytch": "native"} {
		s := signedBy(t, n, "profile-"+from, from, "ES256")
		n.admin().do(t, "PATCH", "/v1/apps/"+s.app, object{"jwt_profile": to}).want(t, http.StatusOK)
		after := n.admin().do(t, "POST", "/v1/sessions", object{"user_id": s.user}, "X-Revocast-App", s.app).want(t, http.StatusCreated)
		for _, j := range []struct{ name, jwt string }{{"before", s.jwt}, {"after", after.SessionJWT}} {
			v := client{base: n.base}.verify(t, j.jwt)
			a := n.admin().do(t, "POST", "/v1/sessions/authenticate", object{"session_jwt": j.jwt}, "X-Revocast-App", s.app)
			ok := v.status == http.StatusNoContent && a.status == http.StatusOK
			tab.row(unless(ok, "verify %d, authenticate %s", v.status, a.raw), from, j.name, part(t, j.jwt, 0)["typ"], v.status, a.status)
		}
	}
}
