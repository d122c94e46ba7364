package node

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node/api"
)

// caller is who shows an API key, and for which app.
type caller struct {
	// app is the app the request is about; empty only on routes of the cluster.
	app    string
	keyID  string
	scopes []string
	// cluster: a cluster admin key, which may do everything in every app.
	cluster bool
	// settings are those of app.
	settings events.AppSettings
}

// may reports whether the API key has the scope; a cluster admin key has all, and
// who administers an app its Shared Signals streams.
func (c *caller) may(scope string) bool {
	return slices.Contains(c.scopes, scope) || c.cluster && slices.Contains(c.scopes, api.ScopeCluster) ||
		scope == api.ScopeSSF && slices.Contains(c.scopes, api.ScopeAdmin)
}

// appHeader names the app for a cluster admin key; the query parameter app does
// the same.
const appHeader = "X-Revocast-App"

// secretPrefix begins every API key, so that scanners of leaked secrets find it.
const secretPrefix = "sk_"

// newSecret returns a fresh API key: 256 random bits.
func newSecret() string {
	var b [32]byte
	rand.Read(b[:])
	return secretPrefix + base64.RawURLEncoding.EncodeToString(b[:])
}

// hashSecret returns what is stored of an API key. It has 256 random bits, so
// one round of SHA-256 cannot be guessed backwards.
func hashSecret(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// keyIDOf returns the public id of the API key with the hash. It follows from
// the key, so that adding a key twice is a conflict and not a second key.
func keyIDOf(hash string) string {
	sum := sha256.Sum256([]byte("revocast api key id " + hash))
	return "key_" + base64.RawURLEncoding.EncodeToString(sum[:12])
}

// appScopes returns the scopes that a key of an app has unless others were asked
// for: all but those that let it act as somebody else, and that of receivers.
func appScopes() []string {
	return []string{api.ScopeCreate, api.ScopeVerify, api.ScopeRead, api.ScopeRevoke, api.ScopeAdmin}
}

// authorize returns who shows the API key of the request, which must have the
// scope. It needs no lease: with CONFIG out of reach a node goes on with the
// keys it has.
//
// An app of which the caller is not, and an app that does not exist, have the
// same answer.
func (n *Node) authorize(r *http.Request, scope string) (caller, error) {
	user, secret, err := credentials(r)
	if err != nil {
		return caller{}, err
	}
	return n.authorizeAs(r, user, secret, scope)
}

// authorizeAs is authorize for the API key, however the request bears it; user
// names its app, or is empty.
func (n *Node) authorizeAs(r *http.Request, user, secret, scope string) (caller, error) {
	key, err := n.apiKey(r.Context(), secret)
	if err != nil {
		return caller{}, err
	}
	c := caller{app: key.App, keyID: key.ID, scopes: key.Scopes, cluster: key.App == ""}
	if !c.cluster && user != "" && user != key.App {
		return caller{}, unauthorized("the API key is not one of app %q", user)
	}
	if !c.may(scope) {
		return caller{}, fail(api.Forbidden, "the API key lacks the scope %s", scope).with("scope", scope)
	}
	if scope == api.ScopeCluster {
		return c, nil
	}
	named, err := namedApp(r)
	if err != nil {
		return caller{}, err
	}
	switch {
	case c.cluster && named != "" && user != "" && user != named:
		return caller{}, fail(api.InvalidArgument, "the request names two apps, %q and %q", named, user)
	case c.cluster:
		named = cmp.Or(named, user)
	}
	switch {
	case named == "" && c.cluster:
		return caller{}, fail(api.InvalidArgument, "a cluster admin key must name the app: header %s, or ?app=", appHeader)
	case named != "" && !c.cluster && named != c.app:
		return caller{}, appNotFound(named)
	}
	c.app = cmp.Or(named, c.app)
	return n.within(r.Context(), c, scope)
}

// within checks that the state of the caller's app allows what the scope is
// for, and adds its settings. In a suspended app sessions can be read and
// revoked, and a cluster admin key can administer it.
func (n *Node) within(ctx context.Context, c caller, scope string) (caller, error) {
	app, ok := n.app(c.app)
	if !ok {
		var err error
		if app, ok, err = n.awaitApp(ctx, c.app); err != nil {
			return caller{}, err
		}
	}
	switch {
	case ok && app.State != events.AppDeleted:
	case c.cluster:
		return caller{}, appNotFound(c.app)
	default:
		return caller{}, unauthorized("the app of the API key was deleted")
	}
	allowed := scope == api.ScopeRead || scope == api.ScopeRevoke || c.cluster && scope == api.ScopeAdmin
	if app.State == events.AppSuspended && !allowed {
		return caller{}, fail(api.AppSuspended, "app %s is suspended", c.app)
	}
	c.settings = app.Settings
	return c, nil
}

// credentials returns the API key of the request and the user name of Basic.
func credentials(r *http.Request) (user, secret string, err error) {
	all := r.Header.Values("Authorization")
	switch {
	case len(all) == 0:
		return "", "", unauthorized("an API key is needed: Authorization: Bearer sk_…, or Basic with the app and the key")
	case len(all) > 1:
		return "", "", unauthorized("more than one Authorization header")
	case len(all[0]) > maxCredentials:
		return "", "", fail(api.HeaderTooLarge, "the Authorization header is over %d bytes", maxCredentials)
	}
	if user, secret, ok := r.BasicAuth(); ok {
		return user, secret, nil
	}
	scheme, secret, _ := strings.Cut(all[0], " ")
	if secret = strings.TrimSpace(secret); !strings.EqualFold(scheme, "Bearer") || secret == "" {
		return "", "", unauthorized("the Authorization header is neither Bearer nor Basic")
	}
	return "", secret, nil
}

func unauthorized(format string, args ...any) *failure {
	return fail(api.Unauthorized, format, args...)
}

// apiKey returns the API key with the secret if it is in force.
func (n *Node) apiKey(ctx context.Context, secret string) (*events.APIKey, error) {
	hash := hashSecret(secret)
	key, ok := n.catalog.Snapshot().APIKey(hash)
	if !ok {
		var err error
		if key, ok, err = n.awaitAPIKey(ctx, hash); err != nil {
			return nil, err
		}
	}
	now := n.judged()
	if ok && subtle.ConstantTimeCompare([]byte(key.Hash), []byte(hash)) == 1 &&
		key.RevokedAt == 0 && (key.ExpiresAt == 0 || now < key.ExpiresAt) {
		return key, nil
	}
	return nil, unauthorized("the API key is unknown, expired or revoked")
}

// namedApp returns the app that the request names in its path, header or query.
func namedApp(r *http.Request) (string, error) {
	named := r.PathValue("app")
	for _, other := range slices.Concat(r.Header.Values(appHeader), r.URL.Query()["app"]) {
		switch {
		case other == "": // what was meant may not be what is without it
			return "", fail(api.InvalidArgument, "app: want the id of an app, in the header %s or in ?app=", appHeader).with("field", "app")
		case other == named:
		case named != "":
			return "", fail(api.InvalidArgument, "the request names two apps, %q and %q", named, other)
		default:
			named = other
		}
	}
	return named, nil
}

// AddAPIKey adds an API key of the app, or with an empty app a cluster admin
// key. The secret is not stored, only its hash. A key that exists is
// events.ErrConflict.
func (n *Node) AddAPIKey(ctx context.Context, app, secret, name string, scopes []string) error {
	hash := hashSecret(secret)
	_, err := n.addAPIKey(ctx, &events.APIKey{
		ID: keyIDOf(hash), App: app, Name: name, Hash: hash, Scopes: scopes, CreatedAt: n.wall(), By: name,
	})
	return err
}

func (n *Node) addAPIKey(ctx context.Context, key *events.APIKey) (events.Position, error) {
	snap, err := n.administer()
	if err != nil {
		return events.Position{}, err
	}
	if _, ok := snap.APIKeyByID(key.App, key.ID); ok {
		return events.Position{}, fmt.Errorf("add api key %s: %w", key.ID, events.ErrConflict)
	}
	key.Prev = snap.Last(key)
	return n.configure(ctx, key, nil, 0, key.Prev)
}
