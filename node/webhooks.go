package node

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node/api"
	"github.com/revocast/revocast/node/outbound"
	"github.com/revocast/revocast/projection"
)

// webhookType is the type of setting that a webhook is; its name is the webhook's id,
// its private part a webhookSecrets.
const webhookType = "webhook"

// Limits of webhooks.
const (
	maxWebhooks    = 16 // of an app
	defaultOverlap = 24 * time.Hour
	maxOverlap     = 7 * 24 * time.Hour
)

// webhook is the setting as it is stored.
type webhook struct {
	URL         string          `json:"url"`
	Types       []string        `json:"types"`
	Description string          `json:"description,omitempty"`
	Delivery    deliverySetting `json:"delivery"`
}

// webhookSecrets is its private part: the present secret, and the one before.
type webhookSecrets struct {
	Secrets []webhookSecret `json:"secrets"`
}

// webhookSecret signs until Until (unix ms); 0: for good.
type webhookSecret struct {
	Key   []byte `json:"key"`
	Until int64  `json:"until,omitempty"`
}

// toldWebhook is a webhook as it is told of events.
type toldWebhook struct {
	n       *Node
	id      string
	url     string
	wants   map[string]bool
	secrets []webhookSecret
}

func openWebhook(n *Node, snap *projection.Snapshot, held *events.Setting) (endpoint, error) {
	w, s, err := n.readWebhook(snap, held)
	if err != nil {
		return nil, err
	}
	t := &toldWebhook{n: n, id: held.Name, url: w.URL, wants: map[string]bool{}, secrets: s.Secrets}
	for _, typ := range w.Types {
		t.wants[typ] = true
	}
	return t, nil
}

// readWebhook opens the setting.
func (n *Node) readWebhook(snap *projection.Snapshot, held *events.Setting) (w webhook, s webhookSecrets, err error) {
	var private []byte
	if err = json.Unmarshal(held.Value, &w); err == nil {
		private, err = n.conf.Keys.OpenVerified(snap.Sealed(held))
	}
	if err == nil {
		err = json.Unmarshal(private, &s)
	}
	if err != nil {
		return webhook{}, webhookSecrets{}, fmt.Errorf("read webhook %s: %w", held.Name, err)
	}
	return w, s, nil
}

func (t *toldWebhook) types() map[string]bool { return t.wants }

func (t *toldWebhook) judge(a *outbound.Answer) attempted { return judgeAnswer(a) }

func (t *toldWebhook) requests(e *feedEvent) ([]*http.Request, error) {
	r, err := t.request(messageID(t.id, e), e.Type, e.At, json.RawMessage(e.json))
	return []*http.Request{r}, err
}

// messageID returns the id of the message that tells an endpoint of the event: the
// same however often it is sent, so that a receiver knows it again. The log's time is
// in it, as a log that was brought back from a backup gives positions a second time.
// Standard Webhooks allows no full stop in it.
func messageID(endpoint string, e *feedEvent) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s %s %d", endpoint, e.pos, e.At.UnixMilli()))
	return "msg_" + base64.RawURLEncoding.EncodeToString(sum[:18])
}

// request returns the message, signed with each secret that still counts.
func (t *toldWebhook) request(id, typ string, at time.Time, data any) (*http.Request, error) {
	body, err := marshal(&api.WebhookPayload{Type: typ, Timestamp: at, Data: data})
	if err != nil {
		return nil, err
	}
	r, err := http.NewRequest(http.MethodPost, t.url, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("write webhook %s: the URL cannot be used", t.id)
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("User-Agent", "revocast")
	now := t.n.conf.Clock.Wall()
	var keys [][]byte
	for _, s := range t.secrets {
		if s.Until == 0 || now.UnixMilli() < s.Until {
			keys = append(keys, s.Key)
		}
	}
	signMessage(r.Header, id, keys, body, now)
	return r, nil
}

// newWebhookSecret returns the secret that was sent, or else a new one, which is
// shown.
func newWebhookSecret(sent string) (key []byte, shown string, err error) {
	if sent != "" {
		key, err = parseWebhookSecret(sent)
		return key, "", err
	}
	key = make([]byte, 32)
	rand.Read(key)
	return key, webhookSecretPrefix + base64.StdEncoding.EncodeToString(key), nil
}

// checkWebhook refuses what nothing could be delivered to.
func (n *Node) checkWebhook(w *webhook) error {
	if err := n.conf.Outbound.Check(w.URL); err != nil {
		return badSetting("url", "%v", err)
	}
	known := api.WebhookEventTypes()
	for i, t := range w.Types {
		if !slices.Contains(known, t) || slices.Contains(w.Types[:i], t) {
			return badSetting("types", "%q: want some of %v, each once", t, known)
		}
	}
	return checkText("description", w.Description, 4*maxName)
}

func (n *Node) postWebhook(ctx context.Context, c *call) (int, any, error) {
	var in api.CreateWebhook
	if err := c.decode(&in); err != nil {
		return 0, nil, err
	}
	w := webhook{URL: in.URL, Types: in.Types, Description: in.Description}
	if w.Types == nil {
		w.Types = api.WebhookEventTypes()
	} else if len(w.Types) == 0 {
		return 0, nil, badSetting("types", "want one at least, or none at all for all there are")
	}
	if err := n.checkWebhook(&w); err != nil {
		return 0, nil, err
	}
	key, shown, err := newWebhookSecret(in.Secret)
	if err != nil {
		return 0, nil, err
	}
	snap, err := n.administer()
	if err != nil {
		return 0, nil, err
	}
	if len(snap.SettingsOf(c.caller.app, webhookType)) >= maxWebhooks {
		return 0, nil, fail(api.InvalidArgument, "the app has %d webhooks already, which is the most", maxWebhooks)
	}
	w.Delivery = n.newDelivery(snap)
	w.Delivery.Off = in.Enabled != nil && !*in.Enabled
	held := &heldWebhook{id: "wh_" + strings.ToLower(rand.Text()), webhook: w, webhookSecrets: webhookSecrets{[]webhookSecret{{Key: key}}}}
	status, out, err := n.answerWebhook(ctx, c, http.StatusCreated, held, shown)
	if err == nil {
		err = n.checkRoom(ctx, c, webhookType, held.id, maxWebhooks)
	}
	if err != nil {
		return 0, nil, err
	}
	return status, out, nil
}

// checkRoom takes the endpoint back that was just made if the app has more than most
// of its type: others that were made at the same time found the same room.
func (n *Node) checkRoom(ctx context.Context, c *call, typ, name string, most int) error {
	snap := n.catalog.Snapshot()
	if len(snap.SettingsOf(c.caller.app, typ)) <= most {
		return nil
	}
	last := snap.Last(&events.Setting{App: c.caller.app, Type: typ, Name: name})
	if _, err := n.setEndpoint(ctx, c, typ, name, nil, nil, last); err != nil {
		return err
	}
	return fail(api.InvalidArgument, "others were made at the same time, and the app may have %d", most)
}

// heldWebhook is a webhook as it was read, and the sequence at which it stands.
type heldWebhook struct {
	id   string
	last uint64
	webhook
	webhookSecrets
}

// answerWebhook writes the webhook over the one that was read, and shows it.
func (n *Node) answerWebhook(ctx context.Context, c *call, status int, w *heldWebhook, shown string) (int, any, error) {
	value, err := marshal(&w.webhook)
	if err != nil {
		return 0, nil, fmt.Errorf("write webhook: %w", err)
	}
	private, err := json.Marshal(&w.webhookSecrets)
	if err != nil {
		return 0, nil, fmt.Errorf("write webhook: %w", err)
	}
	pos, err := n.setEndpoint(ctx, c, webhookType, w.id, value, private, w.last)
	if err != nil {
		return 0, nil, err
	}
	out, err := n.showWebhook(n.catalog.Snapshot(), c.caller.app, w.id)
	if err != nil {
		return 0, nil, err
	}
	return status, &api.WebhookAnswer{Webhook: *out, Secret: shown, Revision: pos.String()}, nil
}

// setEndpoint writes the setting of an endpoint over the one at the sequence last; a
// nil value deletes it.
func (n *Node) setEndpoint(ctx context.Context, c *call, typ, name string, value, private []byte, last uint64) (events.Position, error) {
	return n.configure(ctx, &events.Setting{
		App: c.caller.app, Type: typ, Name: name, Value: value, At: n.wall(), By: c.caller.keyID, Prev: last,
	}, private, 0, last)
}

// namedWebhook returns the webhook that the path names.
func (n *Node) namedWebhook(c *call) (*projection.Snapshot, *heldWebhook, error) {
	snap, err := n.administer()
	if err != nil {
		return nil, nil, err
	}
	id := c.r.PathValue("id")
	held, ok := snap.Setting(c.caller.app, webhookType, id)
	if !ok {
		return nil, nil, noWebhook(id)
	}
	w := &heldWebhook{id: id, last: snap.Last(held)}
	w.webhook, w.webhookSecrets, err = n.readWebhook(snap, held)
	return snap, w, err
}

func noWebhook(id string) *failure { return fail(api.NotFound, "no webhook %q", id) }

// showWebhook returns the webhook as the API has it.
func (n *Node) showWebhook(snap *projection.Snapshot, app, id string) (*api.Webhook, error) {
	held, ok := snap.Setting(app, webhookType, id)
	if !ok {
		return nil, noWebhook(id)
	}
	w, s, err := n.readWebhook(snap, held)
	if err != nil {
		return nil, err
	}
	out := &api.Webhook{
		ID: id, URL: w.URL, Types: w.Types, Description: w.Description, Enabled: !w.Delivery.Off, CreatedAt: fromMS(w.Delivery.BornAt),
	}
	for _, old := range s.Secrets {
		if old.Until > n.wall() {
			out.OldSecretUntil = moment(old.Until)
		}
	}
	out.Delivery = n.deliveryStatus(snap, endpointID{app, webhookType, id}, &w.Delivery)
	out.Status, out.Reason = worstOf(out.Delivery)
	return out, nil
}

func (n *Node) getWebhook(_ context.Context, c *call) (int, any, error) {
	snap, held, err := n.namedWebhook(c)
	if err != nil {
		return 0, nil, err
	}
	w, err := n.showWebhook(snap, c.caller.app, held.id)
	if err != nil {
		return 0, nil, err
	}
	return http.StatusOK, &api.WebhookAnswer{Webhook: *w}, nil
}

func (n *Node) listWebhooks(_ context.Context, c *call) (int, any, error) {
	snap, err := n.administer()
	if err != nil {
		return 0, nil, err
	}
	list := api.WebhookList{Webhooks: []api.Webhook{}}
	for _, held := range snap.SettingsOf(c.caller.app, webhookType) {
		w, err := n.showWebhook(snap, c.caller.app, held.Name)
		if err != nil {
			return 0, nil, err
		}
		list.Webhooks = append(list.Webhooks, *w)
	}
	return http.StatusOK, &list, nil
}

func (n *Node) patchWebhook(ctx context.Context, c *call) (int, any, error) {
	var in api.PatchWebhook
	if err := c.decode(&in); err != nil {
		return 0, nil, err
	}
	_, w, err := n.namedWebhook(c)
	if err != nil {
		return 0, nil, err
	}
	if in.URL != nil {
		w.URL = *in.URL
	}
	if in.Types != nil {
		if w.Types = in.Types; len(w.Types) == 0 {
			return 0, nil, badSetting("types", "want one at least")
		}
	}
	if in.Description != nil {
		w.Description = *in.Description
	}
	if in.Enabled != nil {
		w.Delivery.enable(*in.Enabled)
	}
	if err := n.checkWebhook(&w.webhook); err != nil {
		return 0, nil, err
	}
	return n.answerWebhook(ctx, c, http.StatusOK, w, "")
}

// enable sets whether the app wants anything delivered. That it does makes an
// endpoint go on that was paused or disabled.
func (d *deliverySetting) enable(on bool) {
	if d.Off = !on; on {
		d.Turn++
	}
}

func (n *Node) deleteWebhook(ctx context.Context, c *call) (int, any, error) {
	if err := c.nothing(); err != nil {
		return 0, nil, err
	}
	snap, held, err := n.namedWebhook(c)
	if err != nil {
		return 0, nil, err
	}
	w, err := n.showWebhook(snap, c.caller.app, held.id)
	if err != nil {
		return 0, nil, err
	}
	pos, err := n.setEndpoint(ctx, c, webhookType, held.id, nil, nil, held.last)
	if err != nil {
		return 0, nil, err
	}
	return http.StatusOK, &api.WebhookAnswer{Webhook: *w, Revision: pos.String()}, nil
}
