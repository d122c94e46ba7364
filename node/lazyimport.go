package node

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node/api"
	"github.com/revocast/revocast/projection"
)

// The setting that says which system is asked about foreign tokens that nobody
// here knows. Its secret is its private part.
const (
	lazyImportType = "lazy_import"
	lazyImportName = "default"
)

const (
	lazyTimeout    = 2 * time.Second
	minLazyTimeout = 100 * time.Millisecond
	maxLazyTimeout = 5 * time.Second
	// The secret, as Standard Webhooks has it.
	webhookSecretPrefix = "whsec_"
	minWebhookSecret    = 24
	maxWebhookSecret    = 64
)

// lazyImport is the setting as it is stored.
type lazyImport struct {
	URL       string `json:"url"`
	TimeoutMS int64  `json:"timeout_ms,omitempty"`
}

// lazySetting returns the app's setting, nil when it has none.
func lazySetting(snap *projection.Snapshot, app string) *events.Setting {
	held, ok := snap.Setting(app, lazyImportType, lazyImportName)
	if !ok {
		return nil
	}
	return held
}

// readLazyImport opens the setting.
func (n *Node) readLazyImport(snap *projection.Snapshot, held *events.Setting) (l lazyImport, secret []byte, err error) {
	if err = json.Unmarshal(held.Value, &l); err == nil {
		secret, err = n.conf.Keys.OpenVerified(snap.Sealed(held))
	}
	if err != nil {
		return lazyImport{}, nil, fmt.Errorf("read lazy import of app %s: %w", held.App, err)
	}
	return l, secret, nil
}

// parseWebhookSecret returns the bytes that a secret stands for.
func parseWebhookSecret(text string) ([]byte, error) {
	rest, ok := strings.CutPrefix(text, webhookSecretPrefix)
	secret, err := base64.StdEncoding.Strict().DecodeString(rest)
	if !ok || err != nil || len(secret) < minWebhookSecret || len(secret) > maxWebhookSecret || strings.ContainsAny(rest, "\r\n") {
		return nil, badSetting("secret", "want %s and %d to %d bytes in base64", webhookSecretPrefix, minWebhookSecret, maxWebhookSecret)
	}
	return secret, nil
}

func (n *Node) getLazyImport(_ context.Context, c *call) (int, any, error) {
	snap, err := n.administer()
	if err != nil {
		return 0, nil, err
	}
	held := lazySetting(snap, c.caller.app)
	if held == nil {
		return 0, nil, noLazyImport(c.caller.app)
	}
	l, _, err := n.readLazyImport(snap, held)
	return http.StatusOK, &api.LazyImportAnswer{LazyImport: api.LazyImport{URL: l.URL, TimeoutMS: l.TimeoutMS}}, err
}

func noLazyImport(app string) *failure { return fail(api.NotFound, "app %s has no lazy import", app) }

func (n *Node) putLazyImport(ctx context.Context, c *call) (int, any, error) {
	var in api.LazyImport
	if err := c.decode(&in); err != nil {
		return 0, nil, err
	}
	if err := n.conf.Outbound.Check(in.URL); err != nil {
		return 0, nil, badSetting("url", "%v", err)
	}
	if t := time.Duration(in.TimeoutMS) * time.Millisecond; in.TimeoutMS != 0 && (in.TimeoutMS < 0 || t < minLazyTimeout || t > maxLazyTimeout) {
		return 0, nil, badSetting("timeout_ms", "want %d to %d, or none for %d", minLazyTimeout.Milliseconds(), maxLazyTimeout.Milliseconds(), lazyTimeout.Milliseconds())
	}
	snap, err := n.administer()
	if err != nil {
		return 0, nil, err
	}
	secret, shown, err := n.lazySecret(snap, c.caller.app, in.Secret)
	if err != nil {
		return 0, nil, err
	}
	// Its sessions have to have a home before there can be one.
	if _, err := n.importTo(ctx, c.caller.app, c.caller.keyID); err != nil {
		return 0, nil, err
	}
	value, err := json.Marshal(lazyImport{URL: in.URL, TimeoutMS: in.TimeoutMS})
	if err != nil {
		return 0, nil, fmt.Errorf("write lazy import: %w", err)
	}
	pos, err := n.setLazyImport(ctx, c, snap, value, secret)
	if err != nil {
		return 0, nil, err
	}
	in.Secret = shown
	return http.StatusOK, &api.LazyImportAnswer{LazyImport: in, Revision: pos.String()}, nil
}

// lazySecret returns the secret to sign with: that which was sent, or the one there
// is, or else a new one, which is shown.
func (n *Node) lazySecret(snap *projection.Snapshot, app, sent string) (secret []byte, shown string, err error) {
	if sent != "" {
		secret, err = parseWebhookSecret(sent)
		return secret, "", err
	}
	if held := lazySetting(snap, app); held != nil {
		_, secret, err = n.readLazyImport(snap, held)
		return secret, "", err
	}
	secret = make([]byte, 32)
	rand.Read(secret)
	return secret, webhookSecretPrefix + base64.StdEncoding.EncodeToString(secret), nil
}

// setLazyImport writes the setting; a nil value deletes it.
func (n *Node) setLazyImport(ctx context.Context, c *call, snap *projection.Snapshot, value json.RawMessage, secret []byte) (events.Position, error) {
	e := &events.Setting{App: c.caller.app, Type: lazyImportType, Name: lazyImportName, Value: value, At: n.wall(), By: c.caller.keyID}
	e.Prev = snap.Last(e)
	return n.configure(ctx, e, secret, 0, e.Prev)
}

func (n *Node) deleteLazyImport(ctx context.Context, c *call) (int, any, error) {
	if err := c.nothing(); err != nil {
		return 0, nil, err
	}
	snap, err := n.administer()
	if err != nil {
		return 0, nil, err
	}
	held := lazySetting(snap, c.caller.app)
	if held == nil {
		return 0, nil, noLazyImport(c.caller.app)
	}
	l, _, err := n.readLazyImport(snap, held)
	if err != nil {
		return 0, nil, err
	}
	pos, err := n.setLazyImport(ctx, c, snap, nil, nil)
	if err != nil {
		return 0, nil, err
	}
	return http.StatusOK, &api.LazyImportAnswer{LazyImport: api.LazyImport{URL: l.URL, TimeoutMS: l.TimeoutMS}, Revision: pos.String()}, nil
}
