package node

import (
	"cmp"
	"context"
	"net/http"
	"slices"
	"strings"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node/api"
)

// The handlers of this file serve both /v1/apps/{app}/api-keys, where the
// caller's app is set, and /v1/admin-keys, where it is empty because the routes
// are the cluster's.

// keyApp returns whose keys the call is about; empty: the cluster's.
func keyApp(c *call) string { return c.r.PathValue("app") }

func showAPIKey(e *events.APIKey) api.APIKey {
	return api.APIKey{
		ID: e.ID, AppID: e.App, Name: e.Name, Scopes: e.Scopes, CreatedAt: fromMS(e.CreatedAt),
		ExpiresAt: moment(e.ExpiresAt), RevokedAt: moment(e.RevokedAt),
	}
}

func (n *Node) postAPIKey(ctx context.Context, c *call) (int, any, error) {
	var in api.CreateAPIKey
	if err := c.decode(&in); err != nil {
		return 0, nil, err
	}
	if err := checkText("name", in.Name, maxName); err != nil {
		return 0, nil, err
	}
	app := keyApp(c)
	scopes, err := checkScopes(app, in.Scopes)
	if err != nil {
		return 0, nil, err
	}
	secret, now := newSecret(), n.wall()
	hash := hashSecret(secret)
	key := &events.APIKey{
		ID: keyIDOf(hash), App: app, Name: in.Name, Hash: hash, Scopes: scopes, CreatedAt: now, By: c.caller.keyID,
	}
	if in.ExpiresAt != nil {
		if key.ExpiresAt = in.ExpiresAt.UnixMilli(); key.ExpiresAt <= now {
			return 0, nil, badSetting("expires_at", "lies in the past")
		}
	}
	pos, err := n.addAPIKey(ctx, key)
	if err != nil {
		return 0, nil, err
	}
	return http.StatusCreated, &api.APIKeyAnswer{APIKey: showAPIKey(key), Secret: secret, Revision: pos.String()}, nil
}

// checkScopes returns the scopes a new key is to have.
func checkScopes(app string, asked []string) ([]string, error) {
	usual, allowed := appScopes(), append(appScopes(), api.ScopeImpersonate, api.ScopeSSF)
	if app == "" {
		usual, allowed = []string{api.ScopeCluster}, []string{api.ScopeCluster}
	}
	if asked == nil {
		return usual, nil
	}
	if len(asked) == 0 {
		return nil, badSetting("scopes", "a key without any can do nothing; leave it out for all")
	}
	for i, s := range asked {
		if !slices.Contains(allowed, s) {
			return nil, badSetting("scopes", "%q: want some of %s", s, strings.Join(allowed, ", "))
		}
		if slices.Contains(asked[:i], s) {
			return nil, badSetting("scopes", "%q appears twice", s)
		}
	}
	return asked, nil
}

func (n *Node) listAPIKeys(_ context.Context, c *call) (int, any, error) {
	snap, err := n.administer()
	if err != nil {
		return 0, nil, err
	}
	list := api.APIKeyList{APIKeys: []api.APIKey{}}
	for key := range snap.APIKeys() {
		if key.App == keyApp(c) {
			list.APIKeys = append(list.APIKeys, showAPIKey(key))
		}
	}
	slices.SortFunc(list.APIKeys, func(a, b api.APIKey) int {
		return cmp.Or(a.CreatedAt.Compare(b.CreatedAt), strings.Compare(a.ID, b.ID))
	})
	return http.StatusOK, &list, nil
}

// revokeAPIKey revokes a key for good. On this node it is refused from the
// answer on; the receipt says the same of all others.
func (n *Node) revokeAPIKey(ctx context.Context, c *call) (int, any, error) {
	start := n.conf.Clock.Wall()
	if err := c.nothing(); err != nil {
		return 0, nil, err
	}
	wait, err := waitParam(c)
	if err != nil {
		return 0, nil, err
	}
	snap, err := n.administer()
	if err != nil {
		return 0, nil, err
	}
	id := c.r.PathValue("key")
	held, ok := snap.APIKeyByID(keyApp(c), id)
	if !ok {
		return 0, nil, fail(api.NotFound, "no API key %q", id)
	}
	key, pos := *held, n.settings.at(snap.Last(held))
	if key.RevokedAt == 0 {
		key.RevokedAt, key.By, key.Prev = n.wall(), c.caller.keyID, snap.Last(held)
		if pos, err = n.configure(ctx, &key, nil, 0, key.Prev); err != nil {
			return 0, nil, err
		}
	}
	receipt := n.receipt(ctx, n.settings, pos, start, wait, 0)
	return receiptStatus(receipt, wait), &api.APIKeyAnswer{APIKey: showAPIKey(&key), Revision: pos.String(), Receipt: receipt}, nil
}
