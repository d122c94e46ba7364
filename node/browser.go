package node

import (
	"cmp"
	"context"
	"errors"
	"mime"
	"net/http"
	"time"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node/api"
	"github.com/revocast/revocast/projection"
	"github.com/revocast/revocast/signer"
)

// defaultClientJWTTTL is the life of a JWT for a browser, in seconds: of the
// hybrid model, in which a page asks for the next one as long as it is open.
const defaultClientJWTTTL = 60

func clientJWTTTL(s *events.AppSettings) int64 { return cmp.Or(s.ClientJWTTTL, defaultClientJWTTTL) }

// byUser is who revokes a session by logging out.
const byUser = "user"

// Reasons of a refusal by the routes for browsers, beside those of a verify.
const (
	// reasonTokenNeeded: a JWT does not renew itself.
	reasonTokenNeeded = "token_needed"
)

// client is a request to a route for browsers on its way.
type client struct {
	*call
	pin  string // the app that it names, or ""
	from sender
	shown
	// cookie: the credential came in one, so the browser added it by itself.
	cookie bool
}

// newClient reads who is asking, and refuses what no listed origin asks, before
// anything is looked up.
func (n *Node) newClient(c *call) (*client, error) {
	c.h.Set("Vary", "Origin")
	cl := &client{call: c, from: senderOf(c.r)}
	var err error
	if cl.pin, err = pinOf(c.r); err != nil {
		return nil, err
	}
	unclear := cl.credential()
	cl.isJWT = cl.isJWT && !n.isForeign(cl.text, cl.pin)
	if err := cl.from.refused(cl.cookie, n.anyMayCall(cl.pin)); err != nil {
		return nil, err
	}
	if cl.from.origin != "" {
		c.letRead(cl.from.origin)
	}
	return cl, unclear
}

// credential takes the credential from Authorization or from the cookie
// __Host-session. Any other cookie may have been set by a neighbour's page, to
// have somebody use a session that is not theirs.
func (cl *client) credential() error {
	v, bad := presented(&presentation{authorization: cl.r.Header["Authorization"]})
	if !bad && v.text == "" {
		cl.cookie = true // or nothing at all, which a browser could have sent as well
		text, ok := cookie(cl.r.Header["Cookie"], hostCookie)
		if !ok {
			return nil
		}
		v, bad = textual(text)
	}
	if bad {
		return noSession(reasonMalformed)
	}
	cl.shown = v
	return nil
}

// body reads the body into v. Only JSON will do, which no form can send.
func (cl *client) body(v any) error {
	if len(cl.call.body) > 0 {
		if media, _, err := mime.ParseMediaType(cl.r.Header.Get("Content-Type")); err != nil || media != "application/json" {
			return fail(api.MediaType, "Content-Type %q: want application/json", cl.r.Header.Get("Content-Type"))
		}
	}
	return cl.decode(v)
}

// clientSession judges the credential as a verify does. The session's app must be one
// whose origins allow the request.
func (n *Node) clientSession(ctx context.Context, cl *client) (found, error) {
	v := n.clientVerify(cl)
	o := n.check(ctx, v.shown, &v.verifyQuery)
	if o.needsProof(v) {
		o = n.proved(ctx, v, o)
	}
	if o.nonce != "" {
		cl.h.Set(nonceHeader, o.nonce)
	}
	if o.status == http.StatusNoContent {
		if err := n.clientOf(cl, o.App); err != nil {
			return found{}, err
		}
		return found{answer: o.answer, at: o.at}, nil
	}
	return found{}, refusedClient(o)
}

// clientVerify is the request as a verify would have it. Body: the position is wanted.
func (n *Node) clientVerify(cl *client) *verifyRequest {
	return &verifyRequest{shown: cl.shown, verifyQuery: verifyQuery{app: cl.pin, body: true}, proof: n.ownProof(cl.r)}
}

// refusedClient returns the failure that the outcome of a verify, which is not
// good, is here.
func refusedClient(o outcome) error {
	switch {
	case o.err != nil:
		return o.err
	case o.reason == reasonEarly:
		return tooEarly()
	}
	return noSession(o.reason)
}

// clientOf refuses origins that are not listed by the app of the session itself.
func (n *Node) clientOf(cl *client, id string) error {
	app, ok := n.app(id)
	err := cl.from.refused(cl.cookie, func(origin string) bool { return ok && n.mayCall(app, origin) })
	if err != nil {
		cl.hide()
	}
	return err
}

// noSession is how the routes for browsers answer whoever shows no session that
// is good.
func noSession(reason string) *failure {
	return fail(api.NoSession, "no session that is good was shown").with("reason", reason)
}

// ended takes the cookie away from who shows in it a session that has ended. One
// that is merely not known is left alone, unless it can only be a token of ours: it
// may be another app's, or one that another system made. Where nothing could be said
// (503) a cookie is never touched. Nor is it by what the page did of its own accord: its
// user may have logged in again meanwhile, and the answer would take away the new one.
func (cl *client) ended(err error, background bool) error {
	f, ok := errors.AsType[*failure](err)
	if ok && f.kind == api.SessionNotFound { // it ended while it was answered
		reason, _ := f.details["reason"].(string)
		f = noSession(reason)
		err = f
	}
	if !ok || f.kind != api.NoSession || !cl.cookie || background {
		return err
	}
	switch f.details["reason"] {
	case projection.Revoked.String(), projection.Expired.String(), projection.IdleExpired.String():
		cl.h.Set("Set-Cookie", clearedCookie)
	case reasonUnknown:
		if _, ours := events.Token(cl.text).Key(); ours && cl.pin == "" && !cl.n.anyForeign() {
			cl.h.Set("Set-Cookie", clearedCookie)
		}
	}
	return err
}

// clientRefresh answers POST /v1/client/refresh: the next JWT of the session whose
// token is shown. Several tabs that ask at once get the same.
func (n *Node) clientRefresh(ctx context.Context, c *call) (int, any, error) {
	cl, err := n.newClient(c)
	if err != nil {
		return 0, nil, err
	}
	var req api.ClientRefresh
	if err := cl.body(&req); err != nil {
		return 0, nil, err
	}
	out, err := n.nextJWT(ctx, cl, &req)
	return http.StatusOK, out, cl.ended(err, cl.background(&req))
}

// background reports whether no user had a part in the request.
func (cl *client) background(req *api.ClientRefresh) bool {
	return req.Background || len(cl.r.Header[backgroundHeader]) > 0
}

// tokenSession is clientSession for who must show the token itself.
func (n *Node) tokenSession(ctx context.Context, cl *client) (found, error) {
	switch {
	case cl.text == "":
		return found{}, noSession(reasonMissing)
	case cl.isJWT: // it would live for ever
		return found{}, noSession(reasonTokenNeeded)
	}
	return n.clientSession(ctx, cl)
}

func (n *Node) nextJWT(ctx context.Context, cl *client, req *api.ClientRefresh) (*api.ClientRefreshAnswer, error) {
	f, err := n.tokenSession(ctx, cl)
	if err != nil {
		return nil, err
	}
	app, ok := n.app(f.App)
	if !ok {
		return nil, appNotFound(f.App)
	}
	jwt, expires, err := n.mint(ctx, f, nil, jwtOrder{
		ttl: time.Duration(clientJWTTTL(&app.Settings)) * time.Second, party: cl.from.origin,
	})
	switch {
	case errors.Is(err, signer.ErrTooLarge):
		return nil, fail(api.ClaimsTooLarge, "the JWT would be over %d bytes", signer.MaxJWT).because(err)
	case err != nil:
		return nil, err
	case jwt == "":
		return nil, noSession(reasonExpired)
	}
	if f.Sealed.Empty() { // it may have been waited for: is the token shown still one?
		v := n.clientVerify(cl)
		o := n.check(ctx, v.shown, &v.verifyQuery) // a proof counts once, and was shown
		if o.status != http.StatusNoContent {
			return nil, refusedClient(o)
		}
		f = found{answer: o.answer, at: o.at}
	}
	if !cl.background(req) {
		n.touch(&f.Session, f.asked)
	}
	cl.warnLong(jwt)
	if req.SetCookie {
		if err := n.renewCookie(ctx, cl, f); err != nil {
			return nil, err
		}
	}
	left := max(0, int64(expires.Sub(n.conf.Clock.Wall())/time.Second))
	return &api.ClientRefreshAnswer{
		Freshness: f.freshness(), SessionJWT: jwt, ExpiresAt: expires, ExpiresIn: left,
		// By then less than half of its life is left, so the next one is another.
		RefreshAfter: max(1, left*2/3), Session: clientView(&f.Session),
	}, nil
}

// renewCookie sets the cookie anew. Who shows a token that was replaced is given
// its successor, as by a rotation within its grace.
func (n *Node) renewCookie(ctx context.Context, cl *client, f found) error {
	token := events.Token(cl.text)
	if f.rotated {
		p, err := n.private(ctx, &f)
		if err != nil {
			return err
		}
		token = p.Token
	}
	if value := n.sessionCookie(cl.call, f, token); value != "" {
		cl.h.Set("Set-Cookie", value)
	}
	return nil
}

func clientView(s *projection.Session) api.ClientSession {
	out := api.ClientSession{
		SessionID: s.SID.String(), AppID: s.App, UserID: s.User, StartedAt: date(s.CreatedAt),
		LastAccess: date(max(s.SeenAt, s.CreatedAt)), ExpiresAt: date(s.ExpiresAt), AbsoluteExpiresAt: date(s.AbsoluteAt),
	}
	if s.Idle > 0 {
		idle := date(max(s.SeenAt, s.CreatedAt) + s.Idle*1000)
		out.IdleExpiresAt = &idle
	}
	return out
}
