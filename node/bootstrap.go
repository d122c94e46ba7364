package node

import (
	"context"
	"errors"
	"fmt"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node/api"
)

// Bootstrap is what a new cluster begins with. The secrets are chosen before
// anything is written, so that a crash in between loses none of them.
type Bootstrap struct {
	App    string // id of the first app
	APIKey string // of the first app, all its scopes
	Admin  string // cluster admin key
}

// NewBootstrap returns fresh secrets for the app.
func NewBootstrap(app string) Bootstrap {
	return Bootstrap{App: app, APIKey: newSecret(), Admin: newSecret()}
}

// Bootstrap makes the first app, its first key and the cluster admin key, each
// unless it exists: a repeat after a crash finishes what was begun. It must be
// called after Ready.
func (n *Node) Bootstrap(ctx context.Context, b Bootstrap) error {
	if _, ok := n.catalog.Snapshot().App(b.App); !ok {
		if _, err := n.createApp(ctx, b.App, defaultSettings(), "bootstrap"); err != nil && !errors.Is(err, events.ErrConflict) {
			return fmt.Errorf("create app %s: %w", b.App, err)
		}
	}
	for secret, app := range map[string]string{b.APIKey: b.App, b.Admin: ""} {
		scopes := appScopes()
		if app == "" {
			scopes = []string{api.ScopeCluster}
		}
		err := n.AddAPIKey(ctx, app, secret, "bootstrap", scopes)
		if err != nil && !errors.Is(err, events.ErrConflict) {
			return fmt.Errorf("create api key: %w", err)
		}
	}
	return nil
}
