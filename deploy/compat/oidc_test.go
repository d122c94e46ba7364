package compat

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
)

// algs are the algorithms an app may sign with. The smallest life of a JWT,
// 30 s, keeps the numbers in claims easy to check.
var algs = []string{"ES256", "RS256", "EdDSA"}

const (
	jwtLife  = 30 * time.Second
	nbfSlack = 10 * time.Second // nbf is this much before iat
)

// signed is a JWT of a fresh session, with what a verifier must be told.
type signed struct {
	alg, profile, app string
	issuer, jwks      string
	typ               string
	jwt               string
	user, sid         string
}

// signedBy makes an app that signs with alg in the profile, and a session in it.
func signedBy(t *testing.T, n *node, app, profile, alg string) signed {
	t.Helper()
	c := n.newApp(t, app, object{"jwt_alg": alg, "jwt_profile": profile, "jwt_ttl_seconds": int(jwtLife.Seconds())})
	r := c.create(t, "ada@example.com")
	s := signed{
		alg: alg, profile: profile, app: app, jwt: r.SessionJWT, user: "ada@example.com", sid: r.Session.SessionID,
		issuer: n.base + "/v1/apps/" + app, jwks: n.base + "/v1/apps/" + app + "/jwks", typ: "at+jwt",
	}
	if profile == "stytch" {
		// Stytch's clients know only the base URL and this place.
		s.issuer, s.jwks, s.typ = n.base, n.base+"/v1/sessions/jwks/"+app, "JWT"
	}
	return s
}

// forged is a JWT that no verifier may accept, and why not.
type forged struct {
	name string
	jwt  string
}

// forgeries alters a good JWT in every way that matters to a verifier.
// otherJWT is a good JWT of another app.
func forgeries(t *testing.T, jwt, otherJWT string) []forged {
	t.Helper()
	p, o := strings.Split(jwt, "."), strings.Split(otherJWT, ".")
	// The first character of a signature holds six whole bits of it; the last
	// may hold padding, which a decoder can ignore.
	flipped := "A" + p[2][1:]
	if flipped == p[2] {
		flipped = "B" + p[2][1:]
	}
	claims := encodePart(t, p[1], func(m map[string]any) { m["sub"] = "mallory" })
	longer := encodePart(t, p[1], func(m map[string]any) { m["exp"] = m["exp"].(float64) + 3600 })
	none := encodePart(t, p[0], func(m map[string]any) { m["alg"] = "none" })
	hmac := encodePart(t, p[0], func(m map[string]any) { m["alg"] = "HS256" })
	strange := encodePart(t, p[0], func(m map[string]any) { m["kid"] = "unknown" })
	return []forged{
		{"another user in the claims", p[0] + "." + claims + "." + p[2]},
		{"a later expiry in the claims", p[0] + "." + longer + "." + p[2]},
		{"a flipped bit in the signature", p[0] + "." + p[1] + "." + flipped},
		{"no signature", p[0] + "." + p[1] + "."},
		{"the signature of another JWT", p[0] + "." + p[1] + "." + o[2]},
		{"alg none", none + "." + p[1] + "."},
		{"alg HS256", hmac + "." + p[1] + "." + p[2]},
		{"an unknown kid", strange + "." + p[1] + "." + p[2]},
		{"a JWT of another app", otherJWT},
	}
}

// clock returns a clock that stands still.
func clock(at time.Time) func() time.Time { return func() time.Time { return at } }

// seconds returns a claim that is a time.
func seconds(t *testing.T, jwt, claim string) time.Time {
	t.Helper()
	v, ok := part(t, jwt, 1)[claim].(float64)
	if !ok {
		t.Fatalf("the claim %s is missing or no number", claim)
	}
	return time.Unix(int64(v), 0)
}

func TestGoOIDC(t *testing.T) {
	n := shared(t)
	tab := newTable(t, "verifier", "alg", "profile", "case", "result")
	other := signedBy(t, n, "oidc-other", "native", "ES256")
	for _, alg := range algs {
		s := signedBy(t, n, "oidc-"+strings.ToLower(alg), "native", alg)
		checkTimes(t, s)
		provider, err := oidc.NewProvider(t.Context(), s.issuer)
		if err != nil {
			tab.row(err.Error(), "go-oidc discovery", alg, "native", "discovery", "no provider")
			continue
		}
		judge(t, tab, "go-oidc discovery", s, other, provider.VerifierContext)
		keys := oidc.NewRemoteKeySet(t.Context(), s.jwks)
		judge(t, tab, "go-oidc JWKS", s, other, func(_ context.Context, c *oidc.Config) *oidc.IDTokenVerifier {
			c.SupportedSigningAlgs = []string{s.alg}
			return oidc.NewVerifier(s.issuer, keys, c)
		})
	}
}

// TestGoOIDCStytch verifies JWTs of the stytch profile, whose issuer is the base
// URL, from the key set where Stytch's clients look for it.
func TestGoOIDCStytch(t *testing.T) {
	n := shared(t)
	tab := newTable(t, "verifier", "alg", "profile", "case", "result")
	other := signedBy(t, n, "oidc-stytch-other", "stytch", "ES256")
	for _, alg := range algs {
		s := signedBy(t, n, "oidc-stytch-"+strings.ToLower(alg), "stytch", alg)
		checkTimes(t, s)
		keys := oidc.NewRemoteKeySet(t.Context(), s.jwks)
		judge(t, tab, "go-oidc JWKS", s, other, func(_ context.Context, c *oidc.Config) *oidc.IDTokenVerifier {
			c.SupportedSigningAlgs = []string{s.alg}
			return oidc.NewVerifier(s.issuer, keys, c)
		})
	}
}

// checkTimes checks iat, nbf and exp against each other.
func checkTimes(t *testing.T, s signed) {
	t.Helper()
	iat, nbf, exp := seconds(t, s.jwt, "iat"), seconds(t, s.jwt, "nbf"), seconds(t, s.jwt, "exp")
	if exp.Sub(iat) != jwtLife || iat.Sub(nbf) != nbfSlack {
		t.Errorf("%s %s: iat %v, nbf %v, exp %v: want a life of %v and %v before it", s.alg, s.profile, iat, nbf, exp, jwtLife, nbfSlack)
	}
}

// judge lets a verifier see the JWT, and all it must refuse.
func judge(t *testing.T, tab *table, name string, s, other signed, verifier func(context.Context, *oidc.Config) *oidc.IDTokenVerifier) {
	t.Helper()
	ctx := t.Context()
	accept := func(what, jwt string, c oidc.Config) {
		id, err := verifier(ctx, &c).Verify(ctx, jwt)
		switch {
		case err != nil:
			tab.row(fmt.Sprintf("want it accepted: %v", err), name, s.alg, s.profile, what, "refused")
		default:
			var claims struct {
				Subject string `json:"sub"`
				SID     string `json:"sid"`
			}
			err := id.Claims(&claims)
			ok := err == nil && id.Subject == s.user && id.Issuer == s.issuer && slices.Equal(id.Audience, []string{s.app}) &&
				(claims.SID == s.sid || s.profile == "stytch")
			tab.row(unless(ok, "claims %+v, sub %q, iss %q, aud %q", claims, id.Subject, id.Issuer, id.Audience), name, s.alg, s.profile, what, "accepted")
		}
	}
	refuse := func(what, jwt string, c oidc.Config) {
		_, err := verifier(ctx, &c).Verify(ctx, jwt)
		tab.row(unless(err != nil, "want it refused"), name, s.alg, s.profile, what, brief(err))
	}
	// A clock that stands still, so that a slow machine does not expire it.
	exp, now := seconds(t, s.jwt, "exp"), clock(seconds(t, s.jwt, "iat"))
	accept("as minted", s.jwt, oidc.Config{ClientID: s.app, Now: now})
	accept("one second before exp", s.jwt, oidc.Config{ClientID: s.app, Now: clock(exp.Add(-time.Second))})
	refuse("one second after exp", s.jwt, oidc.Config{ClientID: s.app, Now: clock(exp.Add(time.Second))})
	// go-oidc forgives five minutes before nbf.
	refuse("long before nbf", s.jwt, oidc.Config{ClientID: s.app, Now: clock(exp.Add(-time.Hour))})
	refuse("wrong audience", s.jwt, oidc.Config{ClientID: "somebody-else", Now: now})
	for _, f := range forgeries(t, s.jwt, other.jwt) {
		refuse(f.name, f.jwt, oidc.Config{ClientID: s.app, Now: now})
	}
}

// brief shortens what a verifier says.
func brief(err error) string {
	if err == nil {
		return "accepted"
	}
	text := "refused: " + err.Error()
	if len(text) > 90 {
		text = text[:90] + "…"
	}
	return strings.Join(strings.Fields(text), " ")
}

// TestGoOIDCWrongIssuer asks for discovery under names that are not the
// issuer's.
func TestGoOIDCWrongIssuer(t *testing.T) {
	n := shared(t)
	tab := newTable(t, "issuer", "result")
	s := signedBy(t, n, "oidc-issuer", "native", "ES256")
	for _, issuer := range []string{n.base + "/v1/apps/no-such-app", n.base, n.base + "/v1/apps/" + s.app + "/"} {
		_, err := oidc.NewProvider(t.Context(), issuer)
		tab.row(unless(err != nil, "want it refused"), strings.TrimPrefix(issuer, n.base), brief(err))
	}
	// A verifier that expects another issuer refuses what is else good.
	keys := oidc.NewRemoteKeySet(t.Context(), s.jwks)
	_, err := oidc.NewVerifier(n.base, keys, &oidc.Config{ClientID: s.app, SupportedSigningAlgs: []string{"ES256"}}).Verify(t.Context(), s.jwt)
	tab.row(unless(err != nil, "want it refused"), "of the base", brief(err))
}

// TestDiscoveryDocuments compares the places where clients look for the
// metadata and for the keys.
func TestDiscoveryDocuments(t *testing.T) {
	n := shared(t)
	tab := newTable(t, "path", "status", "Content-Type", "cached")
	s := signedBy(t, n, "documents", "native", "EdDSA")
	public := client{base: n.base}
	same := map[string]string{}
	for path, kind := range map[string]string{
		"/v1/apps/" + s.app + "/.well-known/openid-configuration":       "metadata",
		"/.well-known/openid-configuration/v1/apps/" + s.app:            "metadata",
		"/.well-known/oauth-authorization-server/v1/apps/" + s.app:      "metadata",
		"/v1/apps/" + s.app + "/jwks":                                   "keys",
		"/v1/sessions/jwks/" + s.app:                                    "Stytch's keys",
		"/v1/apps/" + s.app + "/.well-known/openid-configuration?a=b&c": "metadata",
	} {
		r := public.do(t, "GET", path, nil)
		again := public.do(t, "GET", path, nil, "If-None-Match", r.header.Get("ETag"))
		trouble := unless(r.status == http.StatusOK && r.header.Get("Content-Type") == "application/json" &&
			strings.Contains(r.header.Get("Cache-Control"), "max-age") && r.header.Get("Access-Control-Allow-Origin") == "*", "headers %v", r.header)
		if trouble == "" {
			trouble = unless(again.status == http.StatusNotModified && len(again.raw) == 0, "with its ETag: %d", again.status)
		}
		if kind != "Stytch's keys" { // which bear a request id
			if first, ok := same[kind]; ok && trouble == "" {
				trouble = unless(first == string(r.raw), "differs from another place: %s and %s", first, r.raw)
			}
			same[kind] = string(r.raw)
		}
		tab.row(trouble, path, r.status, r.header.Get("Content-Type"), again.status)
	}
	for _, private := range []string{`"d"`, `"p"`, `"q"`, `"k"`} {
		if strings.Contains(same["keys"], private) {
			t.Errorf("the key set has a member %s, which is private", private)
		}
	}
}
