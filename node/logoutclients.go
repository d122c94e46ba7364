package node

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node/api"
	"github.com/revocast/revocast/node/outbound"
	"github.com/revocast/revocast/projection"
	"github.com/revocast/revocast/signer"
)

// logoutClientType is the type of setting that a client of OpenID Connect
// Back-Channel Logout 1.0 is. Its name is derived from the client's id, which may
// have characters that a name has not.
const logoutClientType = "logout_client"

const (
	maxLogoutClients = 64 // of an app
	// logoutTokenLife is how long a logout token is valid. Two minutes are the most
	// that section 2.4 recommends.
	logoutTokenLife = 2 * time.Minute
	logoutTokenType = "logout+jwt"
	logoutEvent     = "http://schemas.openid.net/event/backchannel-logout"
)

// clientID is what may be the id of a client.
var clientID = regexp.MustCompile(`^[A-Za-z0-9][!-.0-~]{0,127}$`)

func logoutClientName(client string) string {
	sum := sha256.Sum256([]byte("logout client " + client))
	return base64.RawURLEncoding.EncodeToString(sum[:18])
}

// logoutClient is the setting as it is stored.
type logoutClient struct {
	ClientID        string          `json:"client_id"`
	URI             string          `json:"backchannel_logout_uri"`
	SessionRequired bool            `json:"backchannel_logout_session_required,omitempty"`
	Delivery        deliverySetting `json:"delivery"`
}

func readLogoutClient(held *events.Setting) (l logoutClient, err error) {
	if err := json.Unmarshal(held.Value, &l); err != nil {
		return l, fmt.Errorf("read logout client %s: %w", held.Name, err)
	}
	return l, nil
}

// toldClient is a client as it is told of log-outs.
type toldClient struct {
	n   *Node
	app string
	logoutClient
}

func openLogoutClient(n *Node, _ *projection.Snapshot, held *events.Setting) (endpoint, error) {
	l, err := readLogoutClient(held)
	return &toldClient{n: n, app: held.App, logoutClient: l}, err
}

// types leaves out app.revoked: a logout token is about a session or a user.
func (t *toldClient) types() map[string]bool {
	return map[string]bool{api.EventRevoked: true, api.EventExpired: true, api.EventUserRevoked: true}
}

// judge takes 400 for what it is by section 2.8: the client does not know the session,
// or refuses the token. It will not know it later, and those behind it wait.
func (t *toldClient) judge(a *outbound.Answer) attempted {
	out := judgeAnswer(a)
	out.final = a.Status == http.StatusBadRequest
	return out
}

// whose is what one logout token is about.
type whose struct{ user, sid string }

func (t *toldClient) requests(e *feedEvent) ([]*http.Request, error) {
	var all []*http.Request
	for _, about := range t.about(e) {
		token, err := t.token(about)
		if err != nil {
			return nil, err
		}
		form := url.Values{"logout_token": {token}}.Encode()
		r, err := http.NewRequest(http.MethodPost, t.URI, strings.NewReader(form))
		if err != nil {
			return nil, fmt.Errorf("write logout to %s: the URI cannot be used", t.ClientID)
		}
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r.Header.Set("User-Agent", "revocast")
		r.Header.Set("Cache-Control", "no-store")
		all = append(all, r)
	}
	return all, nil
}

// about returns whom the client has to log out. A token without sid logs a user out
// of everything, so where the user has a good session, which was spared or may be
// younger, or the client demands it, those that are over are named one by one.
func (t *toldClient) about(e *feedEvent) []whose {
	user := e.UserID
	if user == "" && e.UserHash != "" {
		user = t.n.userOf(t.app, e.UserHash)
	}
	switch {
	case e.Type != api.EventUserRevoked:
		return []whose{{user, e.SessionID}}
	case user == "":
		return nil // nobody here has a session of that user
	}
	var all []whose
	from, spares := int64(0), len(e.Except) > 0
	if e.RevokedAt != nil {
		from = e.RevokedAt.UnixMilli()
	}
	for s, v := range t.n.sessions().User(t.app, user, t.n.judged()) {
		spares = spares || v == projection.Active
		// Of those that were revoked before it was told already.
		if v == projection.Revoked && s.SID.Stream() == e.Stream && s.RevokedAt >= from {
			all = append(all, whose{user, s.SID.String()})
		}
	}
	if !spares && !t.SessionRequired {
		return []whose{{user, ""}}
	}
	return all
}

// userOf returns the id of the user with the hash, if there is a session of theirs.
// It looks at all sessions of the app: only a revocation that is not authentic does
// not say whose it is.
func (n *Node) userOf(app, hash string) string {
	for s := range n.sessions().App(app, n.judged()) {
		if events.UserHash(app, s.User) == hash {
			return s.User
		}
	}
	return ""
}

// token returns a logout token (section 2.4). Its jti is new with each attempt: a
// client that took one and whose answer was lost may refuse the same one again.
func (t *toldClient) token(about whose) (string, error) {
	app, ok := t.n.app(t.app)
	if !ok {
		return "", appNotFound(t.app)
	}
	now := t.n.conf.Clock.Wall()
	key, err := t.n.ring(t.app).Active(signer.Alg(app.Settings.JWTAlg), now)
	if err != nil {
		return "", fmt.Errorf("sign logout token: %w", err)
	}
	claims, err := json.Marshal(struct {
		Issuer   string              `json:"iss"`
		Audience string              `json:"aud"`
		Subject  string              `json:"sub,omitempty"`
		Session  string              `json:"sid,omitempty"`
		IssuedAt int64               `json:"iat"`
		Expires  int64               `json:"exp"`
		ID       string              `json:"jti"`
		Events   map[string]struct{} `json:"events"`
	}{
		t.n.issuerOf(t.app, signer.Profile(app.Settings.JWTProfile)), t.ClientID, about.user, about.sid,
		now.Unix(), now.Add(logoutTokenLife).Unix(), events.NewIncarnation().String(), map[string]struct{}{logoutEvent: {}},
	})
	if err != nil {
		return "", fmt.Errorf("write logout token: %w", err)
	}
	return signer.SignTyped(key, logoutTokenType, claims, now)
}

// namedClient returns the client that the path names, nil when there is none, and
// the sequence over which it is written.
func (n *Node) namedClient(c *call) (*projection.Snapshot, *logoutClient, uint64, error) {
	id := c.r.PathValue("client_id")
	if !clientID.MatchString(id) {
		return nil, nil, 0, badSetting("client_id", "want 1 to 128 printable ASCII characters but /, of which the first is a letter or a digit")
	}
	snap, err := n.administer()
	if err != nil {
		return nil, nil, 0, err
	}
	name := logoutClientName(id)
	last := snap.Last(&events.Setting{App: c.caller.app, Type: logoutClientType, Name: name})
	held, ok := snap.Setting(c.caller.app, logoutClientType, name)
	if !ok {
		return snap, nil, last, nil
	}
	l, err := readLogoutClient(held)
	return snap, &l, last, err
}

func noLogoutClient(c *call) *failure {
	return fail(api.NotFound, "no logout client %q", c.r.PathValue("client_id"))
}

// showClient returns the client as the API has it.
func (n *Node) showClient(snap *projection.Snapshot, app string, l *logoutClient) api.LogoutClientAnswer {
	out := api.LogoutClientAnswer{
		LogoutClient: api.LogoutClient{ClientID: l.ClientID, URI: l.URI, SessionRequired: l.SessionRequired, Enabled: new(!l.Delivery.Off)},
		CreatedAt:    fromMS(l.Delivery.BornAt),
		Delivery:     n.deliveryStatus(snap, endpointID{app, logoutClientType, logoutClientName(l.ClientID)}, &l.Delivery),
	}
	out.Status, out.Reason = worstOf(out.Delivery)
	return out
}

func (n *Node) getLogoutClient(_ context.Context, c *call) (int, any, error) {
	snap, l, _, err := n.namedClient(c)
	switch {
	case err != nil:
		return 0, nil, err
	case l == nil:
		return 0, nil, noLogoutClient(c)
	}
	out := n.showClient(snap, c.caller.app, l)
	return http.StatusOK, &out, nil
}

func (n *Node) listLogoutClients(_ context.Context, c *call) (int, any, error) {
	snap, err := n.administer()
	if err != nil {
		return 0, nil, err
	}
	list := api.LogoutClientList{LogoutClients: []api.LogoutClientAnswer{}}
	for _, held := range snap.SettingsOf(c.caller.app, logoutClientType) {
		l, err := readLogoutClient(held)
		if err != nil {
			return 0, nil, err
		}
		list.LogoutClients = append(list.LogoutClients, n.showClient(snap, c.caller.app, &l))
	}
	return http.StatusOK, &list, nil
}

func (n *Node) putLogoutClient(ctx context.Context, c *call) (int, any, error) {
	var in api.LogoutClient
	if err := c.decode(&in); err != nil {
		return 0, nil, err
	}
	snap, l, last, err := n.namedClient(c)
	if err != nil {
		return 0, nil, err
	}
	id := c.r.PathValue("client_id")
	if in.ClientID != "" && in.ClientID != id {
		return 0, nil, badSetting("client_id", "is not the one in the path")
	}
	if err := n.conf.Outbound.Check(in.URI); err != nil {
		return 0, nil, badSetting("backchannel_logout_uri", "%v", err)
	}
	made := l == nil
	if made {
		if len(snap.SettingsOf(c.caller.app, logoutClientType)) >= maxLogoutClients {
			return 0, nil, fail(api.InvalidArgument, "the app has %d logout clients already, which is the most", maxLogoutClients)
		}
		l = &logoutClient{ClientID: id, Delivery: n.newDelivery(snap)}
	}
	l.URI, l.SessionRequired = in.URI, in.SessionRequired
	l.Delivery.enable(in.Enabled == nil || *in.Enabled)
	value, err := marshal(l)
	if err != nil {
		return 0, nil, fmt.Errorf("write logout client: %w", err)
	}
	pos, err := n.setEndpoint(ctx, c, logoutClientType, logoutClientName(id), value, nil, last)
	if err != nil {
		return 0, nil, err
	}
	if made {
		if err := n.checkRoom(ctx, c, logoutClientType, logoutClientName(id), maxLogoutClients); err != nil {
			return 0, nil, err
		}
	}
	out := n.showClient(n.catalog.Snapshot(), c.caller.app, l)
	out.Revision = pos.String()
	return http.StatusOK, &out, nil
}

func (n *Node) deleteLogoutClient(ctx context.Context, c *call) (int, any, error) {
	if err := c.nothing(); err != nil {
		return 0, nil, err
	}
	snap, l, last, err := n.namedClient(c)
	switch {
	case err != nil:
		return 0, nil, err
	case l == nil:
		return 0, nil, noLogoutClient(c)
	}
	out := n.showClient(snap, c.caller.app, l)
	pos, err := n.setEndpoint(ctx, c, logoutClientType, logoutClientName(l.ClientID), nil, nil, last)
	out.Revision = pos.String()
	return http.StatusOK, &out, err
}
