package node

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node/api"
	"github.com/revocast/revocast/projection"
)

// Limits of a create.
const (
	maxIdempotencyKey = 256  // characters
	maxAttribute      = 1024 // bytes
)

// createSession answers POST /v1/sessions.
func (n *Node) createSession(ctx context.Context, c *call) (int, any, error) {
	var req api.CreateSession
	if err := c.decode(&req); err != nil {
		return 0, nil, err
	}
	if given(req.Actor) && !c.caller.may(api.ScopeImpersonate) {
		return 0, nil, fail(api.Forbidden, "an actor needs the scope %s", api.ScopeImpersonate).with("scope", api.ScopeImpersonate)
	}
	return n.newSession(ctx, c, &req)
}

// newSession creates the session that the request, which the caller may make,
// asks for.
func (n *Node) newSession(ctx context.Context, c *call, req *api.CreateSession) (int, any, error) {
	app, err := n.appOf(c)
	if err != nil {
		return 0, nil, err
	}
	d, err := n.newDraft(req, &app.Settings)
	if err != nil {
		return 0, nil, err
	}
	d.state.App, d.state.By = app.App, c.caller.keyID
	key, repeatable, err := c.idempotencyKey()
	if err != nil {
		return 0, nil, err
	}
	if err := n.bindDraft(c, app, d, req); err != nil {
		return 0, nil, err
	}
	if err := n.mayBegin(app, n.home.number, d.state.CreatedAt); err != nil {
		return 0, nil, err
	}
	var f found
	if repeatable {
		f, err = n.createOnce(ctx, c, d, req, key)
	} else {
		f, err = n.createNew(ctx, d, req.AuthRevision != "")
	}
	if err != nil {
		return 0, nil, err
	}
	p, err := n.private(ctx, &f)
	if err != nil {
		return 0, nil, err
	}
	out, err := n.answered(ctx, c, f, p.Token)
	if err == nil && req.SetCookie {
		out.SetCookie = n.sessionCookie(c, f, p.Token)
	}
	return http.StatusCreated, out, err
}

// bindDraft binds the session to the key that the request names. It is part of
// the request then, however it was named: a repeat must name the same.
func (n *Node) bindDraft(c *call, app *events.App, d *draft, req *api.CreateSession) error {
	key, err := n.bind(c, app, req.Bind)
	if err != nil || key == "" {
		return err
	}
	if err := n.bindable(); err != nil {
		return err
	}
	req.Bind = &api.Bind{DPoPJKT: key}
	d.state.Bound, d.private.Thumbprint = true, key
	return nil
}

// mayBegin says why no session of the app may begin now in the stream, at (unix ms).
//
// Its times are of the wall clock, so that has to be right as well: a session of
// the future would outlive a log-out that goes by time (pending.go). And without a
// key to sign with, the caller would get an error for a session that exists.
func (n *Node) mayBegin(app *events.App, stream uint8, at int64) error {
	if _, stale := n.freshAt(stream, at); stale != nil {
		return stale
	}
	_, err := n.signingKey(app, n.conf.Clock.Wall())
	return err
}

// createNew creates a session with a token of its own.
//
// Its state always says what was known of the stream when it was made. Without
// that, a copy of it appended after a log-out everywhere would look like a new
// session to a node that reads only the copy. So a log-out everywhere at the
// same moment hits it; unless the caller asked for that, it is made again.
func (n *Node) createNew(ctx context.Context, d *draft, authRevision bool) (f found, err error) {
	for range attempts {
		d.name(events.NewToken(n.home.number))
		if !authRevision {
			d.state.AuthSeq = n.known()
		}
		f, err = n.create(ctx, d, events.Expectation{})
		if failed, ok := errors.AsType[*failure](err); !ok || failed.kind != api.RevokedMeanwhile || authRevision {
			break
		}
	}
	return f, err
}

// known returns the sequence up to which this node knows the home stream, at
// least 1: as AuthSeq 0 would say nothing.
func (n *Node) known() uint64 { return max(n.home.position().Seq, 1) }

// name gives the session its token and the id that derives from it.
func (d *draft) name(t events.Token) {
	d.private.Token = t
	d.state.SID, _ = t.Key() // a token made by this program has the form of one
}

// newDraft checks the request and returns the session it asks for, without a
// token. What is not asked for is the app's.
func (n *Node) newDraft(req *api.CreateSession, s *events.AppSettings) (*draft, error) {
	if err := checkUser(req.UserID); err != nil {
		return nil, err
	}
	d := &draft{state: events.State{User: req.UserID, Reason: events.ReasonCreated}}
	now := n.wall()
	if err := d.last(req, s, now); err != nil {
		return nil, err
	}
	if req.AuthRevision != "" {
		seq, err := n.home.authSeq(req.AuthRevision)
		if err != nil {
			return nil, err
		}
		d.state.AuthSeq = seq
	}
	err := d.describe(req, now)
	d.limit = limitOf(s, &d.private)
	return d, err
}

// last sets how long the session lives. No life is longer than the app's
// longest, whatever is asked for.
func (d *draft) last(req *api.CreateSession, s *events.AppSettings, now int64) error {
	for field, minutes := range map[string]int64{
		"session_duration_minutes":  req.SessionDurationMinutes,
		"idle_timeout_minutes":      req.IdleTimeoutMinutes,
		"absolute_lifetime_minutes": req.AbsoluteLifetimeMinutes,
	} {
		if err := checkMinutes(field, minutes); err != nil {
			return err
		}
	}
	orElse := func(minutes, seconds int64) int64 {
		if minutes > 0 {
			return minutes * 60
		}
		return seconds
	}
	usual := *s
	if req.LifetimePreset != "" {
		p, err := presetOf(req.LifetimePreset)
		if err != nil {
			return err
		}
		usual.SessionDuration, usual.AbsoluteMax, usual.Idle = p.total, p.total, p.idle
	}
	absolute := min(orElse(req.AbsoluteLifetimeMinutes, usual.AbsoluteMax), s.AbsoluteMax)
	d.state.CreatedAt, d.state.SeenAt = now, now
	d.state.AbsoluteAt = now + absolute*1000
	d.state.ExpiresAt = min(now+orElse(req.SessionDurationMinutes, usual.SessionDuration)*1000, d.state.AbsoluteAt)
	d.state.Idle = orElse(req.IdleTimeoutMinutes, usual.Idle)
	return nil
}

// describe sets the private part, but for the token. Now is in unix ms: the session
// may have begun before.
func (d *draft) describe(req *api.CreateSession, now int64) (err error) {
	if len(req.Factors) > 0 {
		if d.private.Factors, err = checkFactors("authentication_factors", req.Factors); err != nil {
			return err
		}
		if err := checkFactorTimes("authentication_factors", req.Factors, date(now)); err != nil {
			return err
		}
	}
	if req.AssuranceLevel != "" {
		if err := stateLevel(&d.private, req.AssuranceLevel); err != nil {
			return err
		}
	}
	if err := d.authorize(req); err != nil {
		return err
	}
	if a := req.Attributes; a != nil {
		if err := errors.Join(
			checkText("attributes.ip_address", a.IPAddress, maxAttribute),
			checkText("attributes.user_agent", a.UserAgent, maxAttribute)); err != nil {
			return err
		}
		d.private.Attributes = events.Attributes{IPAddress: a.IPAddress, UserAgent: a.UserAgent}
	}
	if given(req.CustomClaims) {
		if err := checkClaims(req.CustomClaims); err != nil {
			return err
		}
		if d.private.CustomClaims, err = patchClaims(nil, req.CustomClaims); err != nil {
			return err
		}
	}
	if given(req.Metadata) {
		if err := checkObject("metadata", req.Metadata); err != nil {
			return err
		}
		d.private.Metadata, err = mergePatch(nil, req.Metadata)
	}
	return err
}

// authorize sets what the session may do, where, and in whose place.
func (d *draft) authorize(req *api.CreateSession) (err error) {
	if err := checkRoles(req.Roles); err != nil {
		return err
	}
	if req.OrganizationSlug != "" && req.OrganizationID == "" {
		return fail(api.InvalidArgument, "organization_slug: only with organization_id").with("field", "organization_slug")
	}
	if req.OrganizationID != "" {
		if d.private.Organization, err = newOrganization(req.OrganizationID, "organization_slug", req.OrganizationSlug); err != nil {
			return err
		}
	}
	if given(req.Actor) {
		d.private.Actor, err = checkActor(req.Actor)
	}
	d.private.Roles = req.Roles
	return err
}

// authSeq returns the sequence of the stream that a revision read when the log-in
// began names.
func (s *stream) authSeq(text string) (uint64, error) {
	r, err := parseRevision(text)
	if err != nil {
		return 0, fail(api.InvalidArgument, "auth_revision: not a revision").with("field", "auth_revision").because(err)
	}
	p, ok := r.In(s.region)
	if !ok {
		return 0, fail(api.InvalidArgument, "auth_revision: has no position in stream %s", s.region).with("field", "auth_revision")
	}
	switch gen := s.position().Gen; {
	case p.Gen < gen:
		// Sequences of a log that went backwards were used again: nothing can
		// be said of what lies between.
		return 0, revokedSince()
	case p.Gen > gen:
		return 0, fail(api.ConsistencyTimeout, "this node has not heard of generation %d of stream %s", p.Gen, p.Stream)
	}
	// 0 would mean that none was given; a log begins at 1.
	return max(p.Seq, 1), nil
}

func revokedSince() *failure {
	return fail(api.RevokedMeanwhile, "the user was logged out everywhere since this log-in began")
}

// create writes the session and returns it as readers see it.
func (n *Node) create(ctx context.Context, d *draft, ex events.Expectation) (found, error) {
	s, err := n.homeOf(d.state.SID)
	if err != nil {
		return found{}, err
	}
	if err := n.mayCreate(s); err != nil {
		return found{}, err
	}
	if d.limit.max > 0 {
		return n.createWithin(ctx, d, ex)
	}
	return n.place(ctx, d, ex)
}

// place is create without a look at what else there is.
func (n *Node) place(ctx context.Context, d *draft, ex events.Expectation) (found, error) {
	pos, err := n.writeState(ctx, d, ex)
	if err != nil {
		return found{}, err
	}
	f, err := n.written(d, pos)
	switch {
	case err == nil && f.verdict == projection.Revoked && d.limit.max > 0 && f.RevokeReason == reasonLimit:
		return found{}, tooManySessions(d.limit.max)
	case err == nil && f.verdict == projection.Revoked:
		return found{}, revokedSince()
	}
	if err != nil {
		return found{}, err
	}
	return f, f.active()
}

// mayCreate says why the stream may not get another session now.
func (n *Node) mayCreate(s *stream) error {
	if err := n.memoryLeft(); err != nil {
		return err
	}
	if s.above(createBudget) {
		return fail(api.LogFull, "the log is above %d %% of its budget; sessions go on, new ones must wait", createBudget)
	}
	return nil
}

// createOnce creates the session that the Idempotency-Key names, or returns it
// if an earlier attempt has.
//
// Creates of one sid take turns within this node: two that were sent at the
// same time for different users would stand on different subjects, and no
// expectation could tell the second that it came second.
func (n *Node) createOnce(ctx context.Context, c *call, d *draft, req *api.CreateSession, key string) (found, error) {
	hash, err := bodyHash(req)
	if err != nil {
		return found{}, err
	}
	d.private.BodyHash = hash
	secret, err := n.idempotencySecret()
	if err != nil {
		return found{}, err
	}
	d.name(derivedToken(secret, n.home.number, c.caller.app, c.caller.keyID, "POST /v1/sessions", key))
	if req.AuthRevision == "" {
		d.state.AuthSeq = n.known()
	}
	f, err := n.createDerived(ctx, d)
	if err != nil {
		return found{}, err
	}
	return f, n.sameRequest(ctx, &f, hash)
}

// createDerived creates the session, whose token was derived from what makes it
// the only one, or returns it if it was made before.
func (n *Node) createDerived(ctx context.Context, d *draft) (found, error) {
	home, err := n.homeOf(d.state.SID)
	if err != nil {
		return found{}, err
	}
	for range attempts {
		first, err, _ := n.creates.Do(d.state.SID.String(), func() (any, error) {
			return n.createFirst(ctx, d)
		})
		if errors.Is(err, events.ErrConflict) {
			// Another node was first.
			if err := home.catchUp(ctx, &d.state); err != nil {
				return found{}, err
			}
			continue
		}
		if err != nil {
			return found{}, err
		}
		return first.(found), nil
	}
	return found{}, events.ErrConflict
}

// createFirst creates the session unless it is there.
func (n *Node) createFirst(ctx context.Context, d *draft) (found, error) {
	f, err := n.findSID(d.state.App, d.state.SID)
	if err != nil {
		return found{}, err
	}
	switch f.verdict {
	case projection.Unknown:
		return n.create(ctx, d, events.Expect(0))
	case projection.Active:
		return f, nil
	}
	return found{}, fail(api.IdempotencyEnded, "the session that this Idempotency-Key made has ended; use another key").
		with("reason", f.verdict.String())
}

// sameRequest refuses another request under the key of an earlier one.
func (n *Node) sameRequest(ctx context.Context, f *found, hash string) error {
	p, err := n.private(ctx, f)
	if err != nil {
		return err
	}
	if p.BodyHash != hash {
		return fail(api.IdempotencyReused, "this Idempotency-Key was used with another body")
	}
	return nil
}

// idempotencyKey returns the header Idempotency-Key.
func (c *call) idempotencyKey() (key string, ok bool, err error) {
	all := c.r.Header.Values("Idempotency-Key")
	if len(all) == 0 {
		return "", false, nil
	}
	if len(all) > 1 || len(all[0]) == 0 || len(all[0]) > maxIdempotencyKey {
		return "", false, badIdempotencyKey()
	}
	for _, b := range []byte(all[0]) {
		if b < 0x20 || b > 0x7e {
			return "", false, badIdempotencyKey()
		}
	}
	return all[0], true, nil
}

func badIdempotencyKey() error {
	return fail(api.InvalidArgument, "Idempotency-Key: want 1 to %d printable ASCII characters, once", maxIdempotencyKey)
}

// derivedToken returns the token of a session in the stream of the number that the
// parts name on every node. Nobody without the secret can compute it.
func derivedToken(secret []byte, number uint8, parts ...string) events.Token {
	mac := hmac.New(sha256.New, secret)
	for _, part := range parts {
		var length [4]byte
		binary.BigEndian.PutUint32(length[:], uint32(len(part)))
		mac.Write(length[:])
		mac.Write([]byte(part))
	}
	return events.TokenOf(number, [32]byte(mac.Sum(nil)))
}

// bodyHash returns the hash of what the request says, whatever its white space.
func bodyHash(req *api.CreateSession) (string, error) {
	b, err := json.Marshal(req)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(b)
	return base64.RawURLEncoding.EncodeToString(sum[:]), nil
}

// extended returns when a session that is asked to live for the duration from
// now on ends: never past its absolute expiry.
func extended(minutes, now, absolute int64) int64 {
	return min(now+minutes*time.Minute.Milliseconds(), absolute)
}
