package node

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"slices"
	"strings"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node/api"
	"github.com/revocast/revocast/signer"
)

// jwksCache is how long anybody may use public keys without asking again. It is
// far below the hour for which a new key is published before it signs.
const jwksCache = "public, max-age=300, stale-if-error=86400"

// keySet is a JWK Set, RFC 7517 section 5.
type keySet struct {
	Keys []signer.JWK `json:"keys"`
}

// stytchKeySet is a keySet where Stytch's clients look for it: they expect what
// every other answer has, too.
type stytchKeySet struct {
	api.Meta
	keySet
}

// providerMetadata is what OAuth calls authorization server metadata (RFC 8414
// section 2), as far as there is something. There is no authorization endpoint:
// logging in is somebody else's. An array that is absent would mean its default,
// so grant_types_supported is there, and empty.
type providerMetadata struct {
	Issuer         string       `json:"issuer"`
	JWKSURI        string       `json:"jwks_uri"`
	Introspection  string       `json:"introspection_endpoint"`
	IntrospectAuth []string     `json:"introspection_endpoint_auth_methods_supported"`
	Revocation     string       `json:"revocation_endpoint"`
	RevocationAuth []string     `json:"revocation_endpoint_auth_methods_supported"`
	ProofAlgs      []string     `json:"dpop_signing_alg_values_supported"`
	SigningAlgs    []signer.Alg `json:"id_token_signing_alg_values_supported"`
	ResponseTypes  []string     `json:"response_types_supported"`
	GrantTypes     []string     `json:"grant_types_supported"`
	SubjectTypes   []string     `json:"subject_types_supported"`
	Claims         []string     `json:"claims_supported"`
	// OpenID Connect Back-Channel Logout 1.0 section 2.1.
	BackchannelLogout        bool `json:"backchannel_logout_supported"`
	BackchannelLogoutSession bool `json:"backchannel_logout_session_supported"`
}

// clientAuth is how a client may authenticate at the OAuth endpoints. Bearer has
// no name there.
var clientAuth = []string{"client_secret_basic", "client_secret_post"}

// jwks answers with the public keys of the app. It needs no lease: public keys
// do not go stale, and clients fail to start without them.
func (n *Node) jwks(_ context.Context, c *call) (int, any, error) {
	set, err := n.keySet(c, c.r.PathValue("app"))
	if err != nil {
		return 0, nil, err
	}
	return cached(c, set, &set, "")
}

func (n *Node) stytchJWKS(_ context.Context, c *call) (int, any, error) {
	set, err := n.keySet(c, c.r.PathValue("app"))
	if err != nil {
		return 0, nil, err
	}
	// Weak, because the request id differs from answer to answer.
	return cached(c, set, &stytchKeySet{keySet: set}, "W/")
}

// soleJWKS is jwks of the only app there is.
func (n *Node) soleJWKS(ctx context.Context, c *call) (int, any, error) {
	app, err := n.soleApp(c, "/v1/apps/{app}/jwks")
	if err != nil {
		return 0, nil, err
	}
	c.r.SetPathValue("app", app)
	return n.jwks(ctx, c)
}

func (n *Node) keySet(c *call, id string) (keySet, error) {
	if _, err := n.publicApp(c, id); err != nil {
		return keySet{}, err
	}
	return keySet{n.ring(id).JWKS(n.conf.Clock.Wall()).Keys}, nil
}

// discovery answers with the metadata of the app's issuer, at the place where
// OpenID Connect Discovery 1.0 section 4 looks for it and at those of RFC 8414
// section 3.
func (n *Node) discovery(_ context.Context, c *call) (int, any, error) {
	t, err := n.publicApp(c, c.r.PathValue("app"))
	if err != nil {
		return 0, nil, err
	}
	return n.metadata(c, t)
}

// soleDiscovery is discovery at the root, for JWTs whose iss is the base. It
// answers only when that names one app.
func (n *Node) soleDiscovery(_ context.Context, c *call) (int, any, error) {
	const instead = "/v1/apps/{app}/.well-known/openid-configuration"
	id, err := n.soleApp(c, instead)
	if err != nil {
		return 0, nil, err
	}
	t, err := n.publicApp(c, id)
	if err != nil {
		return 0, nil, err
	}
	if n.issuerOf(t.App, signer.Profile(t.Settings.JWTProfile)) != n.issuer {
		return 0, nil, fail(api.NotFound, "the issuer of app %s is not this address; use %s%s", t.App, n.issuer, instead)
	}
	return n.metadata(c, t)
}

func (n *Node) metadata(c *call, t *events.App) (int, any, error) {
	m := providerMetadata{
		Issuer:        n.issuerOf(t.App, signer.Profile(t.Settings.JWTProfile)),
		JWKSURI:       n.issuer + "/v1/apps/" + t.App + "/jwks",
		Introspection: n.issuer + "/oauth2/introspect", IntrospectAuth: clientAuth,
		Revocation: n.issuer + "/oauth2/revoke", RevocationAuth: clientAuth,
		ProofAlgs:         signer.ProofAlgs(),
		SigningAlgs:       []signer.Alg{},
		ResponseTypes:     []string{"none"},
		GrantTypes:        []string{},
		SubjectTypes:      []string{"public"},
		Claims:            claimsOf(signer.Profile(t.Settings.JWTProfile)),
		BackchannelLogout: true, BackchannelLogoutSession: true,
	}
	for _, k := range n.ring(t.App).JWKS(n.conf.Clock.Wall()).Keys {
		if !slices.Contains(m.SigningAlgs, k.Alg) {
			m.SigningAlgs = append(m.SigningAlgs, k.Alg)
		}
	}
	return cached(c, m, &m, "")
}

// claimsOf lists the claims that JWTs of the profile always have.
func claimsOf(p signer.Profile) []string {
	claims := []string{"iss", "sub", "aud", "iat", "nbf", "exp"}
	switch p {
	case signer.Stytch:
		return append(claims, "https://stytch.com/session")
	case signer.Streambird:
		return append(claims, "https://streambird.io/jwt/session")
	case signer.Clerk:
		return append(claims, "sid", "sts", "v", "fva")
	}
	return append(claims, "jti", "client_id", "sid", "auth_time", "sxp")
}

// publicApp returns the app, and lets any origin read the answer. Suspended apps
// still have public keys: their JWTs go on elsewhere until they expire.
func (n *Node) publicApp(c *call, id string) (*events.App, error) {
	c.h.Set("Access-Control-Allow-Origin", "*")
	t, ok := n.app(id)
	if !ok {
		var err error
		if t, ok, err = n.awaitApp(c.r.Context(), id); err != nil {
			return nil, err
		}
	}
	if !ok || t.State == events.AppDeleted {
		return nil, appNotFound(id)
	}
	return t, nil
}

// soleApp returns the id of the app when exactly one is active.
func (n *Node) soleApp(c *call, instead string) (string, error) {
	c.h.Set("Access-Control-Allow-Origin", "*")
	var sole []string
	for _, t := range n.apps() {
		if t.State == events.AppActive {
			sole = append(sole, t.App)
		}
	}
	if len(sole) != 1 {
		return "", fail(api.NotFound, "this service has not exactly one app; use %s%s", n.issuer, instead)
	}
	return sole[0], nil
}

// cached answers with body, of which content is what matters, or with 304 when
// the client has that already.
func cached(c *call, content, body any, weak string) (int, any, error) {
	text, err := json.Marshal(content)
	if err != nil {
		return 0, nil, err
	}
	sum := sha256.Sum256(text)
	tag := `"` + base64.RawURLEncoding.EncodeToString(sum[:12]) + `"`
	c.h.Set("Cache-Control", jwksCache)
	c.h.Set("ETag", weak+tag)
	if knows(c.r.Header.Get("If-None-Match"), tag) {
		return http.StatusNotModified, nil, nil
	}
	return http.StatusOK, body, nil
}

// knows compares weakly, as RFC 9110 section 13.1.2 says.
func knows(header, tag string) bool {
	for t := range strings.SplitSeq(header, ",") {
		t = strings.TrimSpace(t)
		if t == "*" || strings.TrimPrefix(t, "W/") == tag {
			return true
		}
	}
	return false
}
