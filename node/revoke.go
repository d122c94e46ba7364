package node

import (
	"context"
	"errors"
	"iter"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node/api"
	"github.com/revocast/revocast/projection"
)

// maxReason is how long the reason of a revocation may be, in bytes.
const maxReason = 256

// revocation is a revoke on its way.
type revocation struct {
	c     *call
	app   *events.App
	req   *api.Revoke
	start time.Time
	// mustExist: what is not known is 404, not "nothing to revoke".
	mustExist bool
}

// revokeSessions answers POST /v1/sessions/revoke. It can be repeated: what is
// revoked already, or was never known, is 200 with revoked 0. It works while
// the log is above its budget for everything else.
func (n *Node) revokeSessions(ctx context.Context, c *call) (int, any, error) {
	var req api.Revoke
	if err := c.decode(&req); err != nil {
		return 0, nil, err
	}
	if err := checkRevoke(&req); err != nil {
		return 0, nil, err
	}
	r, err := n.newRevocation(c, &req)
	if err != nil {
		return 0, nil, err
	}
	switch {
	case req.All:
		return n.revokeGroup(ctx, r, "")
	case req.UserID != "":
		return n.revokeGroup(ctx, r, req.UserID)
	case req.SessionID != "":
		sid, err := events.ParseSID(req.SessionID)
		if err != nil {
			return 0, nil, fail(api.InvalidArgument, "session_id: %v", err).with("field", "session_id")
		}
		return n.revokeOne(ctx, r, func() (found, error) { return n.lookSID(ctx, r.app.App, sid, consistency{sure: true}) })
	}
	return n.revokeOne(ctx, r, func() (found, error) {
		return n.findCredential(ctx, r.app.App, req.SessionToken, req.SessionJWT, consistency{sure: true})
	})
}

// deleteSession answers DELETE /v1/sessions/{sid}. Unlike a revoke it says 404
// when there is no such session. The query may have reason and wait.
func (n *Node) deleteSession(ctx context.Context, c *call) (int, any, error) {
	q, err := url.ParseQuery(c.r.URL.RawQuery)
	if err != nil {
		return 0, nil, fail(api.InvalidArgument, "the query cannot be read").because(err)
	}
	for name := range q {
		if !slices.Contains([]string{"reason", "wait", "app"}, name) {
			return 0, nil, fail(api.InvalidArgument, "unknown parameter %q", name).with("field", name)
		}
	}
	req := &api.Revoke{SessionID: c.r.PathValue("sid"), Reason: q.Get("reason"), Wait: q.Get("wait")}
	if err := checkRevoke(req); err != nil {
		return 0, nil, err
	}
	r, err := n.newRevocation(c, req)
	if err != nil {
		return 0, nil, err
	}
	sid, err := c.pathSID()
	if err != nil {
		return 0, nil, err
	}
	r.mustExist = true
	return n.revokeOne(ctx, r, func() (found, error) { return n.lookSID(ctx, r.app.App, sid, consistency{sure: true}) })
}

func checkRevoke(req *api.Revoke) error {
	if err := oneOf(map[string]bool{
		"session_id": req.SessionID != "", "session_token": req.SessionToken != "", "session_jwt": req.SessionJWT != "",
		"user_id": req.UserID != "", "all": req.All,
	}); err != nil {
		return err
	}
	if req.UserID != "" {
		if err := checkUser(req.UserID); err != nil {
			return err
		}
	}
	if req.ExceptSessionID != "" {
		if req.UserID == "" {
			return fail(api.InvalidArgument, "except_session_id: only with user_id").with("field", "except_session_id")
		}
		if _, err := events.ParseSID(req.ExceptSessionID); err != nil {
			return fail(api.InvalidArgument, "except_session_id: %v", err).with("field", "except_session_id")
		}
	}
	switch req.Wait {
	case "", waitNone, waitAll:
	default:
		return fail(api.InvalidArgument, "wait: want none or all").with("field", "wait")
	}
	return checkText("reason", req.Reason, maxReason)
}

func (n *Node) newRevocation(c *call, req *api.Revoke) (*revocation, error) {
	app, err := n.appOf(c)
	if err != nil {
		return nil, err
	}
	return &revocation{c: c, app: app, req: req, start: n.conf.Clock.Wall()}, nil
}

// revokeOne revokes the session that look finds. A session that has expired is
// revoked as well: another node's clock may be behind. Before anybody is told
// that there is nothing to revoke, look must know all that was committed.
func (n *Node) revokeOne(ctx context.Context, r *revocation, look func() (found, error)) (int, any, error) {
	f, err := look()
	if err != nil {
		return 0, nil, err
	}
	if f.verdict == projection.Unknown && r.mustExist {
		return 0, nil, notFound(f.verdict)
	}
	switch f.verdict {
	case projection.Unknown:
		return http.StatusOK, &api.RevokeAnswer{Freshness: f.freshness()}, nil
	case projection.Revoked:
		// Another node may not have heard of it yet. The position that the answer
		// is of was read before the lookup, and may be before the revocation.
		return n.revoked(ctx, r, n.home.position(), 0)
	}
	e := &events.Revoke{
		App: f.App, User: f.User, SID: f.SID, Reason: r.req.Reason, By: r.c.caller.keyID,
		At: n.wall(), AbsoluteAt: f.AbsoluteAt,
	}
	pos, err := n.home.write(ctx, e, nil, n.life(f.AbsoluteAt), events.Expectation{})
	if err != nil {
		return 0, nil, err
	}
	revoked := 0
	if f.verdict == projection.Active {
		revoked = 1
	}
	return n.revoked(ctx, r, pos, revoked)
}

// revokeGroup revokes every session of a user, or with an empty user of the
// app, that was created before now. It is always written, also when this node
// knows of none: a log-in may be on its way.
func (n *Node) revokeGroup(ctx context.Context, r *revocation, user string) (int, any, error) {
	for range attempts {
		if stale := n.home.fenced(); stale != nil {
			return 0, nil, stale
		}
		e := &events.RevokeAll{
			App: r.app.App, User: user, Reason: r.req.Reason, By: r.c.caller.keyID, At: n.wall(),
			Prev: n.sessions.LastAll(n.home.number, r.app.App, user),
		}
		if err := n.spare(ctx, e, r.req.ExceptSessionID); err != nil {
			return 0, nil, err
		}
		revoked := n.countActive(e)
		pos, err := n.home.write(ctx, e, nil, events.UnknownLifetime+events.TTLSlack, events.Expect(e.Prev))
		if errors.Is(err, events.ErrConflict) {
			if err := n.home.catchUp(ctx, e); err != nil {
				return 0, nil, err
			}
			continue
		} else if err != nil {
			return 0, nil, err
		}
		return n.revoked(ctx, r, pos, revoked)
	}
	return 0, nil, events.ErrConflict
}

// spare lets the event except the session, if it is one of the user's and not
// revoked already: what is revoked stays so.
func (n *Node) spare(ctx context.Context, e *events.RevokeAll, except string) error {
	if except == "" {
		return nil
	}
	sid, err := events.ParseSID(except)
	if err != nil {
		return err
	}
	f, err := n.lookSID(ctx, e.App, sid, consistency{sure: true})
	if err != nil {
		return err
	}
	if f.verdict != projection.Unknown && f.verdict != projection.Revoked && f.User == e.User {
		e.Except = []events.SID{sid}
	}
	return nil
}

// countActive counts the sessions that are good until the event is applied.
func (n *Node) countActive(e *events.RevokeAll) (count int) {
	var all iter.Seq2[projection.Session, projection.Verdict]
	if e.User == "" {
		all = n.sessions.App(e.App, n.wall())
	} else {
		all = n.sessions.User(e.App, e.User, n.wall())
	}
	for s, v := range all {
		if n.held(&s, v) == projection.Active && !e.Spares(s.SID) {
			count++
		}
	}
	return count
}

func (n *Node) revoked(ctx context.Context, r *revocation, pos events.Position, count int) (int, any, error) {
	staleness, _ := n.home.lease.staleness(n.conf.Clock.Boot())
	out := &api.RevokeAnswer{
		Freshness: found{answer: answer{staleness: staleness}, at: pos}.freshness(),
		Revoked:   count,
		Receipt:   n.receipt(ctx, n.home, pos, r.start, r.req.Wait, n.jwtLife(r.app)),
	}
	if !n.conf.Solo && out.Receipt.Status == receiptComplete && n.whenStale(r.app.App) == whenStaleServe {
		out.Receipt.Status = receiptPartial
	}
	return receiptStatus(out.Receipt, r.req.Wait), out, nil
}
