package compat

import (
	"testing"
	"time"

	"github.com/lestrrat-go/jwx/v3/jwk"
	"github.com/lestrrat-go/jwx/v3/jwt"
)

// TestJWX lets jwx verify JWTs with the keys it fetches. It holds iat against its
// clock too, which other libraries do not, and so needs to be told that clocks
// differ.
func TestJWX(t *testing.T) {
	n := shared(t)
	tab := newTable(t, "alg", "profile", "case", "result")
	other := signedBy(t, n, "jwx-other", "native", "ES256")
	for _, profile := range []string{"native", "stytch"} {
		for _, alg := range algs {
			s := signedBy(t, n, "jwx-"+profile+"-"+lower(alg), profile, alg)
			keys, err := jwk.Fetch(t.Context(), s.jwks)
			if err != nil {
				tab.row(err.Error(), alg, profile, "key set", "not read")
				continue
			}
			iat, exp := seconds(t, s.jwt, "iat"), seconds(t, s.jwt, "exp")
			parse := func(text, issuer, audience string, now time.Time, more ...jwt.ParseOption) (jwt.Token, error) {
				return jwt.ParseString(text, append(more, jwt.WithKeySet(keys), jwt.WithIssuer(issuer), jwt.WithAudience(audience),
					jwt.WithClock(jwt.ClockFunc(clock(now))), jwt.WithRequiredClaim("exp"))...)
			}
			for what, now := range map[string]time.Time{"as minted": iat, "by a clock 10 s slow, told so": iat.Add(-nbfSlack), "one second before exp": exp.Add(-time.Second)} {
				token, err := parse(s.jwt, s.issuer, s.app, now, jwt.WithAcceptableSkew(nbfSlack))
				trouble := unless(err == nil, "want it accepted: %v", err)
				if err == nil {
					sub, _ := token.Subject()
					trouble = unless(sub == s.user, "sub is %q", sub)
				}
				tab.row(trouble, alg, profile, what, "accepted")
			}
			refuse := func(what, text, issuer, audience string, now time.Time) {
				_, err := parse(text, issuer, audience, now)
				tab.row(unless(err != nil, "want it refused"), alg, profile, what, brief(err))
			}
			refuse("at exp", s.jwt, s.issuer, s.app, exp.Add(time.Second))
			refuse("by a clock 12 s slow", s.jwt, s.issuer, s.app, iat.Add(-nbfSlack-2*time.Second))
			refuse("by a clock 2 s slow, not told so", s.jwt, s.issuer, s.app, iat.Add(-2*time.Second))
			refuse("wrong audience", s.jwt, s.issuer, "somebody-else", iat)
			refuse("wrong issuer", s.jwt, s.issuer+"/", s.app, iat)
			for _, f := range forgeries(t, s.jwt, other.jwt) {
				refuse(f.name, f.jwt, s.issuer, s.app, iat)
			}
		}
	}
}
