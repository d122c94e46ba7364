package compat

import (
	"strings"
	"testing"
	"time"

	"github.com/MicahParks/keyfunc/v3"
	"github.com/golang-jwt/jwt/v5"
)

func lower(alg string) string { return strings.ToLower(alg) }

// TestKeyfunc lets golang-jwt verify JWTs with the keys that keyfunc fetches.
func TestKeyfunc(t *testing.T) {
	n := shared(t)
	tab := newTable(t, "alg", "profile", "case", "result")
	other := signedBy(t, n, "keyfunc-other", "native", "ES256")
	for _, profile := range []string{"native", "stytch"} {
		for _, alg := range algs {
			s := signedBy(t, n, "keyfunc-"+profile+"-"+lower(alg), profile, alg)
			keys, err := keyfunc.NewDefaultCtx(t.Context(), []string{s.jwks})
			if err != nil {
				tab.row(err.Error(), alg, profile, "key set", "not read")
				continue
			}
			iat, exp := seconds(t, s.jwt, "iat"), seconds(t, s.jwt, "exp")
			parse := func(text, issuer, audience string, now time.Time) (*jwt.RegisteredClaims, error) {
				var claims jwt.RegisteredClaims
				_, err := jwt.ParseWithClaims(text, &claims, keys.Keyfunc, jwt.WithIssuer(issuer), jwt.WithAudience(audience),
					jwt.WithValidMethods([]string{alg}), jwt.WithExpirationRequired(), jwt.WithTimeFunc(clock(now)))
				return &claims, err
			}
			for what, now := range map[string]time.Time{"as minted": iat, "by a clock 10 s slow": iat.Add(-nbfSlack), "one second before exp": exp.Add(-time.Second)} {
				claims, err := parse(s.jwt, s.issuer, s.app, now)
				trouble := unless(err == nil, "want it accepted: %v", err)
				if err == nil {
					trouble = unless(claims.Subject == s.user, "sub is %q", claims.Subject)
				}
				tab.row(trouble, alg, profile, what, "accepted")
			}
			refuse := func(what, text, issuer, audience string, now time.Time) {
				_, err := parse(text, issuer, audience, now)
				tab.row(unless(err != nil, "want it refused"), alg, profile, what, brief(err))
			}
			refuse("at exp", s.jwt, s.issuer, s.app, exp.Add(time.Second))
			refuse("by a clock 11 s slow", s.jwt, s.issuer, s.app, iat.Add(-nbfSlack-time.Second))
			refuse("wrong audience", s.jwt, s.issuer, "somebody-else", iat)
			refuse("wrong issuer", s.jwt, s.issuer+"/", s.app, iat)
			for _, f := range forgeries(t, s.jwt, other.jwt) {
				refuse(f.name, f.jwt, s.issuer, s.app, iat)
			}
		}
	}
}

// TestVerifiersGoOnAlone (S22): with the keys once fetched, JWTs are verified while
// there is no node to ask.
func TestVerifiersGoOnAlone(t *testing.T) {
	n := newNode(t)
	tab := newTable(t, "alg", "verified with the node stopped")
	type fetched struct {
		s    signed
		keys keyfunc.Keyfunc
	}
	var all []fetched
	for _, alg := range algs {
		s := signedBy(t, n, "alone-"+lower(alg), "native", alg)
		keys, err := keyfunc.NewDefaultCtx(t.Context(), []string{s.jwks})
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, fetched{s, keys})
	}
	if code := n.stop(t); code != 0 {
		t.Errorf("the node ended with %d", code)
	}
	for _, f := range all {
		good, now := 0, clock(seconds(t, f.s.jwt, "iat"))
		var err error
		for range 1000 {
			if _, err = jwt.Parse(f.s.jwt, f.keys.Keyfunc, jwt.WithIssuer(f.s.issuer), jwt.WithAudience(f.s.app), jwt.WithTimeFunc(now)); err == nil {
				good++
			}
		}
		tab.row(unless(good == 1000, "%v", err), f.s.alg, good)
	}
}
