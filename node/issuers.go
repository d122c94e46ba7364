package node

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node/api"
	"github.com/revocast/revocast/signer"
)

// issuerType is the type of setting that a registered issuer is; its name is the
// profile id.
const issuerType = "issuer"

// Limits of registered issuers.
const (
	maxIssuers      = 64 // of an app
	maxIssuerURL    = 512
	maxInlineJWKS   = 8 << 10
	maxCopiedClaims = 32
	maxTokenAge     = 24 * 3600 // seconds
)

// profileID is what may name a registered issuer: also what Stytch names them.
var profileID = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,127}$`)

// issuersOf returns the registered issuers of the app, by profile id.
func (n *Node) issuersOf(app string) (all []api.Issuer, err error) {
	for _, held := range n.catalog.Snapshot().SettingsOf(app, issuerType) {
		i, err := readIssuer(held)
		if err != nil {
			return nil, err
		}
		all = append(all, i)
	}
	return all, nil
}

func readIssuer(held *events.Setting) (i api.Issuer, err error) {
	if err := json.Unmarshal(held.Value, &i); err != nil {
		return i, fmt.Errorf("read issuer %s: %w", held.Name, err)
	}
	i.ProfileID = held.Name
	return i, nil
}

func (n *Node) listIssuers(_ context.Context, c *call) (int, any, error) {
	if stale := n.configStale(); stale != nil {
		return 0, nil, stale
	}
	all, err := n.issuersOf(c.caller.app)
	if err != nil {
		return 0, nil, err
	}
	return http.StatusOK, &api.IssuerList{Issuers: orEmpty(all)}, nil
}

// heldIssuer returns the issuer that the path names.
func (n *Node) heldIssuer(c *call) (api.Issuer, error) {
	if stale := n.configStale(); stale != nil {
		return api.Issuer{}, stale
	}
	id := c.r.PathValue("profile_id")
	held, ok := n.catalog.Snapshot().Setting(c.caller.app, issuerType, id)
	if !ok {
		return api.Issuer{}, fail(api.NotFound, "no issuer %q", id)
	}
	return readIssuer(held)
}

func (n *Node) getIssuer(_ context.Context, c *call) (int, any, error) {
	i, err := n.heldIssuer(c)
	return http.StatusOK, &api.IssuerAnswer{Issuer: i}, err
}

func (n *Node) deleteIssuer(ctx context.Context, c *call) (int, any, error) {
	if err := c.nothing(); err != nil {
		return 0, nil, err
	}
	i, err := n.heldIssuer(c)
	if err != nil {
		return 0, nil, err
	}
	pos, err := n.putSetting(ctx, c, issuerType, i.ProfileID, nil)
	return http.StatusOK, &api.IssuerAnswer{Issuer: i, Revision: pos.String()}, err
}

// putIssuer answers PUT /v1/apps/{app}/issuers/{profile_id}. It asks the issuer
// nothing: whether its keys can be fetched shows when they are needed.
func (n *Node) putIssuer(ctx context.Context, c *call) (int, any, error) {
	id := c.r.PathValue("profile_id")
	in := api.Issuer{ProfileID: id}
	if err := c.decode(&in); err != nil {
		return 0, nil, err
	}
	if in.ProfileID != id {
		return 0, nil, badSetting("profile_id", "is not the one in the path")
	}
	if err := n.checkIssuer(&in); err != nil {
		return 0, nil, err
	}
	snap, err := n.administer()
	if err != nil {
		return 0, nil, err
	}
	if _, replaces := snap.Setting(c.caller.app, issuerType, id); !replaces && len(snap.SettingsOf(c.caller.app, issuerType)) >= maxIssuers {
		return 0, nil, fail(api.InvalidArgument, "the app has %d issuers already, which is the most", maxIssuers)
	}
	value, err := marshal(in)
	if err != nil {
		return 0, nil, err
	}
	if len(value) > maxPolicy {
		return 0, nil, fail(api.BodyTooLarge, "the issuer is over %d bytes", maxPolicy)
	}
	pos, err := n.putSetting(ctx, c, issuerType, id, value)
	return http.StatusOK, &api.IssuerAnswer{Issuer: in, Revision: pos.String()}, err
}

// checkIssuer refuses an issuer by which nobody could log in, or anybody.
func (n *Node) checkIssuer(i *api.Issuer) error {
	if !profileID.MatchString(i.ProfileID) {
		return badSetting("profile_id", "%q: want %s", i.ProfileID, profileID)
	}
	if i.Issuer == "" {
		return badSetting("issuer", "required")
	}
	if u, err := url.Parse(n.issuer); err == nil && i.Issuer == u.String() || bytes.HasPrefix([]byte(i.Issuer), []byte(n.issuer+"/v1/apps/")) {
		return badSetting("issuer", "is this system: its JWTs name sessions that exist already")
	}
	for field, text := range map[string]string{
		"issuer": i.Issuer, "audience": i.Audience, "jwks_uri": i.JWKSURI, "user_id_claim": i.UserIDClaim, "user_id_prefix": i.UserIDPrefix,
	} {
		if err := checkText(field, text, maxIssuerURL); err != nil {
			return err
		}
	}
	if i.Audience == "" {
		return badSetting("audience", "required: a JWT that was made for another service says nothing here")
	}
	if err := n.checkKeysOf(i); err != nil {
		return err
	}
	for at, alg := range i.Algs {
		if a, err := signer.ParseAlg(alg); err != nil || alg == "" || string(a) != alg || slices.Contains(i.Algs[:at], alg) {
			return badSetting("algs", "want some of ES256, RS256 and EdDSA, each once")
		}
	}
	if i.MaxAgeSeconds < 0 || i.MaxAgeSeconds > maxTokenAge {
		return badSetting("max_age_seconds", "want 1 to %d, or none", maxTokenAge)
	}
	if i.MaxSessionMinutes < 0 || i.MaxSessionMinutes > maxMinutes {
		return badSetting("max_session_minutes", "want 1 to %d, or none for the app's", maxMinutes)
	}
	return checkRecorded(i)
}

// checkKeysOf refuses an issuer whose keys are nowhere, or where this node must
// not look.
func (n *Node) checkKeysOf(i *api.Issuer) error {
	if !given(i.JWKS) {
		i.JWKS = nil
	}
	switch {
	case (i.JWKSURI == "") == (i.JWKS == nil):
		return badSetting("jwks_uri", "one of jwks_uri and jwks is required, and only one")
	case i.JWKS == nil:
		if err := n.conf.Outbound.Check(i.JWKSURI); err != nil {
			return badSetting("jwks_uri", "%v", err).because(err)
		}
		return nil
	case len(i.JWKS) > maxInlineJWKS:
		return fail(api.BodyTooLarge, "jwks: over %d bytes; let them be fetched by jwks_uri", maxInlineJWKS).with("field", "jwks")
	}
	if _, err := signer.ParseForeignKeys(i.JWKS); err != nil {
		return badSetting("jwks", "%v", err).because(err)
	}
	return nil
}

// checkRecorded refuses copies of claims that could not be minted, and factors
// without a type.
func checkRecorded(i *api.Issuer) error {
	if len(i.Claims) > maxCopiedClaims {
		return badSetting("claims", "more than %d", maxCopiedClaims)
	}
	to := map[string]bool{}
	for from, name := range i.Claims {
		if from == "" || len(from) > maxName || len(name) > maxName || to[name] {
			return badSetting("claims", "want names of claims, each the target of one")
		}
		to[name] = true
		custom, err := marshal(map[string]bool{name: true})
		if err != nil {
			return err
		}
		if err := signer.CheckCustom(custom); err != nil {
			return badSetting("claims", "%q cannot be a custom claim", name).with("claim", name).because(err)
		}
	}
	if f := i.Factor; f != nil {
		if err := checkID("factor.type", f.Type); err != nil {
			return err
		}
		return checkID("factor.delivery_method", f.DeliveryMethod)
	}
	return nil
}
