package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node/api"
	"github.com/revocast/revocast/projection"
	"github.com/revocast/revocast/signer"
)

// jwtOrder says which JWT of a session is wanted. The zero value is the app's
// own.
type jwtOrder struct {
	template api.Template
	ttl      time.Duration // at most; 0: the template's, or the app's
	party    string        // the Origin it is for; empty: none
}

// mint returns a JWT of an active session: one that was minted before, while
// more than half of its life is left and nothing in it changed, or a new one. Who
// shows that very JWT when it is no longer young wants another: Stytch's clients
// do, with max_token_age_seconds.
// It never outlives the session; a session that ends within this second has
// none, nor has one in which nobody is logged in, and the JWT is empty. A node without a lease mints nothing.
//
// p is the session's private part; nil: it is opened if it is needed.
func (n *Node) mint(ctx context.Context, f found, p *events.Private, o jwtOrder) (jwt string, expires time.Time, err error) {
	if f.stale != "" {
		return "", time.Time{}, &staleError{stream: n.stream(f.SID.Stream()).region, reason: f.stale}
	}
	if err := f.active(); err != nil {
		return "", time.Time{}, err
	}
	if nobody(&f.Session) {
		return "", time.Time{}, nil // whoever reads a JWT takes its subject for somebody
	}
	app, ok := n.catalog.Snapshot().App(f.App)
	if !ok {
		return "", time.Time{}, fail(api.AppNotFound, "no app %s", f.App)
	}
	if app.State != events.AppActive {
		return "", time.Time{}, fail(api.AppSuspended, "app %s is %s", f.App, app.State)
	}
	// The JWT counts from when the session was found good. However long the
	// process stood still since, it ends when a receipt says that it does.
	now := time.UnixMilli(f.asked)
	ring := n.ring(f.App)
	key, err := n.signingKey(app, now)
	if err != nil {
		return "", time.Time{}, err
	}
	shape := shapeOf(&app.Settings, o)
	if n.pastTrust() {
		shape.ttl = min(shape.ttl, minJWTTTL*time.Second)
	}
	print := n.fingerprint(f, key, shape, o)
	if jwt, expires, ok := n.minted.Get(ring, print, now); ok && !(jwt == f.shown && now.After(expires.Add(shape.ttl/10-shape.ttl))) {
		n.metrics.mintReused.Inc()
		return jwt, expires, nil
	}
	expires = now.Add(shape.ttl)
	if end := date(f.ExpiresAt); end.Before(expires) {
		expires = end
	}
	expires = expires.UTC().Truncate(time.Second)
	if expires.Unix() <= now.Unix() {
		return "", time.Time{}, nil
	}
	if p == nil {
		newest := f.StateSeq
		if p, err = n.private(ctx, &f); err != nil {
			return "", time.Time{}, err
		}
		if f.StateSeq != newest {
			return n.mint(ctx, f, p, o)
		}
	}
	c, err := n.claims(f, p, shape, o.template.Claims)
	if err != nil {
		return "", time.Time{}, err
	}
	c.IssuedAt, c.Expires = now, expires
	if jwt, err = signer.Mint(key, shape.profile, c); err != nil {
		return "", time.Time{}, err
	}
	n.metrics.minted.Inc()
	jwt, expires = n.minted.Put(ring, print, key, jwt, now, expires, f.shown)
	return jwt, expires, nil
}

// jwtShape is what settings, template and order come to.
type jwtShape struct {
	profile  signer.Profile
	audience string
	party    string
	ttl      time.Duration
	status   bool // it names its place in a status list
}

func shapeOf(s *events.AppSettings, o jwtOrder) jwtShape {
	shape := jwtShape{profile: signer.Profile(s.JWTProfile), audience: o.template.Audience, party: o.party, ttl: jwtLimit(s, o.template), status: s.StatusList}
	if o.template.JWTProfile != "" {
		shape.profile = signer.Profile(o.template.JWTProfile)
	}
	if shape.profile == "" {
		shape.profile = signer.Native
	}
	if o.ttl > 0 {
		shape.ttl = min(shape.ttl, o.ttl)
	}
	return shape
}

// jwtLimit returns the longest life of a JWT of the template, the zero one
// being the app's own.
func jwtLimit(s *events.AppSettings, t api.Template) time.Duration {
	if t.TTLSeconds > 0 {
		return time.Duration(t.TTLSeconds) * time.Second
	}
	return time.Duration(s.JWTTTL) * time.Second
}

// signingKey returns the key with which the app signs now.
func (n *Node) signingKey(app *events.App, now time.Time) (*signer.Key, error) {
	key, err := n.ring(app.App).Active(signer.Alg(app.Settings.JWTAlg), now)
	if errors.Is(err, signer.ErrNoKey) {
		if stale := n.settings.fenced(); stale != nil {
			return nil, stale
		}
		return nil, fmt.Errorf("app %s: %w", app.App, err)
	}
	return key, err
}

// fingerprint names all that the JWT depends on.
func (n *Node) fingerprint(f found, key *signer.Key, s jwtShape, o jwtOrder) signer.Fingerprint {
	return signer.NewFingerprint(
		f.App, f.SID.String(), n.stream(f.SID.Stream()).at(f.StateSeq).String(), key.ID, n.issuerOf(f.App, s.profile),
		string(s.profile), s.audience, s.party, strconv.FormatInt(int64(s.ttl), 10), o.template.Name, string(o.template.Claims),
		strings.Join(n.rolesOf(f.App, nil), " "), n.policyMark(f.App, s.profile), strconv.FormatBool(s.status))
}

func (n *Node) claims(f found, p *events.Private, s jwtShape, extra json.RawMessage) (signer.Claims, error) {
	custom := p.CustomClaims
	if f.Bound && p.Thumbprint == "" {
		return signer.Claims{}, fmt.Errorf("session %s: it is bound, and to which key is lost", f.SID) // never a bearer token
	}
	if len(extra) > 0 {
		// What the app's template says stands above what a session says.
		var err error
		if custom, err = overlay(p.CustomClaims, extra); err != nil {
			return signer.Claims{}, err
		}
	}
	began, asked := date(f.CreatedAt), time.UnixMilli(f.asked)
	methods, auth := factorClaims(p.Factors, began, asked)
	first, second := factorUses(p.Factors, began, asked)
	if actedUnproved(p) {
		auth, first = time.Time{}, time.Time{} // who judges by the JWT must find no log-in either
	}
	factors, err := vendorFactors(s.profile, p.Factors, began)
	if err != nil {
		return signer.Claims{}, err
	}
	actor, err := actorClaim(p.Actor)
	if err != nil {
		return signer.Claims{}, err
	}
	roles := n.rolesOf(f.App, p.Roles)
	var permissions []signer.Permission
	if s.profile == signer.Clerk && p.Organization.ID != "" {
		permissions = n.permissionsOf(f.App, roles)
	}
	var status string
	var index uint64
	if s.status {
		status, index = n.statusURI(f.App, n.stream(f.SID.Stream()).region, f.CreatedSeq)
	}
	return signer.Claims{
		StatusURI: status, StatusIndex: index,
		Issuer: n.issuerOf(f.App, s.profile), App: f.App, Audience: s.audience,
		Subject: f.User, SessionID: f.SID.String(),
		SessionStarted: date(f.CreatedAt), SessionLastAccessed: date(max(f.SeenAt, f.CreatedAt)), SessionExpires: date(f.ExpiresAt),
		AuthTime: auth, AMR: methods, ACR: level(p), FirstFactor: first, SecondFactor: second, Revision: f.at.String(),
		OrgID: p.Organization.ID, OrgSlug: p.Organization.Slug, Roles: roles, Actor: actor, Thumbprint: p.Thumbprint, AuthorizedParty: s.party,
		Attributes: signer.Attributes{IPAddress: p.Attributes.IPAddress, UserAgent: p.Attributes.UserAgent},
		Factors:    factors, Permissions: permissions, Custom: custom,
	}, nil
}

// mintToken answers POST /v1/sessions/{sid}/tokens.
func (n *Node) mintToken(ctx context.Context, c *call) (int, any, error) {
	var req api.MintToken
	if err := c.decode(&req); err != nil {
		return 0, nil, err
	}
	app, err := n.appOf(c)
	if err != nil {
		return 0, nil, err
	}
	var o jwtOrder
	if req.Template != "" {
		var ok bool
		if o.template, ok = n.template(app.App, req.Template); !ok {
			if stale := n.settings.fenced(); stale != nil {
				return 0, nil, stale
			}
			return 0, nil, fail(api.NotFound, "no template %q", req.Template)
		}
	}
	limit := jwtLimit(&app.Settings, o.template)
	o.ttl = time.Duration(req.TTLSeconds) * time.Second
	if req.TTLSeconds < 0 || req.TTLSeconds > int64(limit/time.Second) {
		return 0, nil, fail(api.InvalidArgument, "ttl_seconds: want 1 to %d", int64(limit/time.Second)).with("field", "ttl_seconds")
	}
	sid, err := c.pathSID()
	if err != nil {
		return 0, nil, err
	}
	f, err := n.lookSID(ctx, app.App, sid, consistency{})
	if err != nil {
		return 0, nil, err
	}
	jwt, expires, err := n.mint(ctx, f, nil, o)
	switch {
	case errors.Is(err, signer.ErrTooLarge):
		return 0, nil, fail(api.ClaimsTooLarge, "the JWT would be over %d bytes", signer.MaxJWT).because(err)
	case err != nil:
		return 0, nil, err
	case jwt == "" && nobody(&f.Session):
		return 0, nil, fail(api.InvalidArgument, "nobody is logged in in this session, so there is no JWT of it")
	case jwt == "":
		return 0, nil, notFound(projection.Expired)
	}
	c.warnLong(jwt)
	return 200, &api.MintAnswer{
		Freshness: f.freshness(), SessionJWT: jwt, ExpiresAt: expires,
		ExpiresIn: max(0, int64(expires.Sub(n.conf.Clock.Wall())/time.Second)),
	}, nil
}
