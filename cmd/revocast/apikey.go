package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/revocast/revocast/node"
	"github.com/revocast/revocast/node/api"
)

type apikeyCmd struct {
	Create apikeyCreate `cmd:"" help:"Make an API key; prints its secret, once."`
	List   apikeyList   `cmd:"" help:"List API keys, without their secrets."`
	Revoke apikeyRevoke `cmd:"" help:"Revoke an API key."`
}

// keyOwner says whose API keys a command is about.
type keyOwner struct {
	inApp
	Admin bool `env:"-" help:"Cluster admin keys instead of an app's."`
}

// path returns where the keys are in the API.
func (o *keyOwner) path(c *client) (string, error) {
	if o.Admin {
		if o.App != "" {
			return "", &usageError{errors.New("--admin and --app: give one; an admin key is no app's")}
		}
		return "/v1/admin-keys", nil
	}
	app, err := c.appOr(o.App)
	return appPath(app) + "/api-keys", err
}

type apikeyCreate struct {
	remote
	keyOwner
	Name           string        `env:"-" placeholder:"TEXT" help:"What the key is for."`
	Scopes         []string      `env:"-" filled:"" placeholder:"SCOPE" help:"What it may do: create, verify, read, revoke, admin (default: all of these), impersonate, ssf (Shared Signals)."`
	Expires        time.Duration `env:"-" placeholder:"TIME" help:"Life of the key, such as 720h (default: no end)."`
	Offline        bool          `env:"-" help:"Write the key into the data directory of a stopped node, for who lost the others."`
	ClusterKeyFile string        `placeholder:"FILE" help:"With --offline: the cluster key (default: that of the data directory)."`
}

// Run implements the command.
func (a *apikeyCreate) Run(e *env) error {
	if a.Offline {
		return a.offline(e)
	}
	c, err := a.remote.connect(e)
	if err != nil {
		return err
	}
	path, err := a.path(c)
	if err != nil {
		return err
	}
	in := api.CreateAPIKey{Name: a.Name, Scopes: a.Scopes}
	if a.Expires != 0 {
		in.ExpiresAt = new(time.Now().Add(a.Expires).UTC().Truncate(time.Millisecond))
	}
	var out api.APIKeyAnswer
	raw, err := c.asAdmin().call(e, http.MethodPost, path, &in, &out)
	if err != nil {
		return err
	}
	return c.show(raw, func(w io.Writer) {
		row(w, "id", out.APIKey.ID)
		row(w, "app", cmp.Or(out.APIKey.AppID, "(cluster)"))
		row(w, "scopes", strings.Join(out.APIKey.Scopes, ","))
		row(w, "expires", stampOr(out.APIKey.ExpiresAt, "never"))
		row(w, "API key", out.Secret)
	})
}

// offlineTimeout bounds the whole of an offline change, recovery of the log
// apart.
const offlineTimeout = 30 * time.Second

// offline runs a node on the data directory for as long as it takes to add the
// key, so that the same code checks and writes it. It listens nowhere.
func (a *apikeyCreate) offline(e *env) error {
	if a.Expires != 0 {
		return &usageError{errors.New("--offline makes a key without end: replace it once the node runs")}
	}
	s, err := openStore(e.ctx, storeConfig{dir: dataAt(a.Data), keyFile: a.ClusterKeyFile, log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	defer s.Close()
	b, err := s.dir.readBootstrap()
	if err != nil {
		return err
	}
	app, scopes := a.App, a.Scopes
	if b != nil {
		app = cmp.Or(app, b.App)
	}
	app = cmp.Or(app, firstApp)
	if a.Admin {
		if a.App != "" {
			return &usageError{errors.New("--admin and --app: give one; an admin key is no app's")}
		}
		app, scopes = "", []string{api.ScopeCluster}
	} else if len(scopes) == 0 {
		scopes = []string{api.ScopeCreate, api.ScopeVerify, api.ScopeRead, api.ScopeRevoke, api.ScopeAdmin}
	}
	n, err := s.newNode(node.Config{Name: "offline", PublicURL: defaultURL, Solo: true, Mute: true})
	if err != nil {
		return err
	}
	secret := node.NewBootstrap(app).APIKey
	ctx, cancel := context.WithTimeout(e.ctx, offlineTimeout)
	defer cancel()
	err = withNode(ctx, n, func(ctx context.Context) error {
		return n.AddAPIKey(ctx, app, secret, cmp.Or(a.Name, "offline"), scopes)
	})
	if err != nil {
		return fmt.Errorf("add the key: %w", err)
	}
	c := &client{out: e.stdout, json: a.JSON}
	return c.show(fmt.Appendf(nil, `{"app_id":%q,"api_key":%q}`, app, secret), func(w io.Writer) {
		row(w, "app", cmp.Or(app, "(cluster)"))
		row(w, "scopes", strings.Join(scopes, ","))
		row(w, "API key", secret)
	})
}

// withNode runs the node until it is ready and do has returned.
func withNode(ctx context.Context, n *node.Node, do func(context.Context) error) error {
	g, ctx := errgroup.WithContext(ctx)
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	g.Go(func() error { return n.Run(life) })
	g.Go(func() (err error) {
		defer end()
		select {
		case <-n.Ready():
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if err := do(ctx); err != nil {
			return err
		}
		leave, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaveTimeout)
		defer cancel()
		return n.Leave(leave)
	})
	return g.Wait()
}

type apikeyList struct {
	remote
	keyOwner
}

// Run implements the command.
func (a *apikeyList) Run(e *env) error {
	c, err := a.remote.connect(e)
	if err != nil {
		return err
	}
	path, err := a.path(c)
	if err != nil {
		return err
	}
	var out api.APIKeyList
	raw, err := c.asAdmin().call(e, http.MethodGet, path, nil, &out)
	if err != nil {
		return err
	}
	return c.show(raw, func(w io.Writer) {
		row(w, "ID", "NAME", "SCOPES", "CREATED", "EXPIRES", "REVOKED")
		for _, k := range out.APIKeys {
			row(w, k.ID, cmp.Or(k.Name, "-"), strings.Join(k.Scopes, ","), stamp(k.CreatedAt), stampOr(k.ExpiresAt, "never"), stampOr(k.RevokedAt, "-"))
		}
	})
}

type apikeyRevoke struct {
	remote
	keyOwner
	ID string `arg:"" help:"The key's id, as apikey list shows it."`
}

// Run implements the command.
func (a *apikeyRevoke) Run(e *env) error {
	c, err := a.remote.connect(e)
	if err != nil {
		return err
	}
	path, err := a.path(c)
	if err != nil {
		return err
	}
	var out api.APIKeyAnswer
	raw, err := c.asAdmin().call(e, http.MethodDelete, path+"/"+url.PathEscape(a.ID), nil, &out)
	if err != nil {
		return err
	}
	return c.show(raw, func(w io.Writer) {
		row(w, "revoked", a.ID)
		if out.Receipt != nil {
			receipt(w, out.Receipt)
		}
	})
}
