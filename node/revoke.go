package node

import (
	"context"
	"errors"
	"iter"
	"net/http"
	"slices"
	"sync"
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
	// parted: there may be regions of which this node has not heard.
	parted bool
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
		return n.revokeOne(ctx, r, func(ctx context.Context) (found, error) {
			return n.lookSID(ctx, r.app.App, sid, consistency{sure: true})
		})
	}
	return n.revokeOne(ctx, r, func(ctx context.Context) (found, error) {
		return n.findCredential(ctx, r.app.App, req.SessionToken, req.SessionJWT, jwtEver, consistency{sure: true})
	})
}

// deleteSession answers DELETE /v1/sessions/{sid}. Unlike a revoke it says 404
// when there is no such session. The query may have reason and wait.
func (n *Node) deleteSession(ctx context.Context, c *call) (int, any, error) {
	req := &api.Revoke{SessionID: c.r.PathValue("sid"), Reason: c.query.Get("reason"), Wait: c.query.Get("wait")}
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
	return n.revokeOne(ctx, r, func(ctx context.Context) (found, error) {
		return n.lookSID(ctx, r.app.App, sid, consistency{sure: true})
	})
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
func (n *Node) revokeOne(ctx context.Context, r *revocation, look func(context.Context) (found, error)) (int, any, error) {
	trying, cancel := context.WithTimeout(ctx, revokeTimeout)
	defer cancel()
	f, err := look(trying)
	if err != nil {
		return n.revokeOneAway(ctx, r, err)
	}
	if f.stale != "" && f.SID.Stream() != n.home.number {
		return n.revokeOneAway(ctx, r, &staleError{stream: f.at.Stream, reason: f.stale})
	}
	if f.verdict == projection.Unknown && r.mustExist {
		return 0, nil, notFound(f.verdict)
	}
	if f.verdict == projection.Unknown {
		return http.StatusOK, &api.RevokeAnswer{Freshness: f.freshness()}, nil
	}
	home, err := n.homeOf(f.SID)
	if err != nil {
		return 0, nil, err
	}
	revoked := 0
	if f.verdict == projection.Active {
		revoked = 1
	}
	pos, err := n.revokeOneIn(trying, r, home, f)
	if err != nil {
		return n.revokeOneAway(ctx, r, err)
	}
	return n.revoked(ctx, r, []placed{{stream: home, at: pos}}, revoked)
}

// revokeOneIn is revokeOne for the session in its home. Another revocation of
// the session may replace this one before this node has read it: then that one
// stands, and is as good.
func (n *Node) revokeOneIn(ctx context.Context, r *revocation, home *stream, f found) (pos events.Position, err error) {
	err = home.insist(ctx, func(ctx context.Context) (_ events.Event, err error) {
		e := &events.Revoke{
			App: f.App, User: f.User, SID: f.SID, Reason: r.req.Reason, By: r.c.caller.keyID, Request: r.c.id,
			At: n.wall(), AbsoluteAt: n.remembered(&f.Session),
		}
		if f.verdict == projection.Revoked {
			at, ok := n.stands(home, &f.Session)
			if ok {
				pos = at
				return e, nil
			}
			// The home does not say so yet, or its log lost it, and then only this node
			// may know of it. It is said again as it was.
			e.Reason, e.By, e.At, e.Request = f.RevokeReason, f.RevokedBy, f.RevokedAt, ""
		}
		if pos, err = home.write(ctx, e, nil, n.life(e.AbsoluteAt), events.Expectation{}); errors.Is(err, errOvertaken) {
			if s, v := n.sessions().Lookup(f.SID, n.judged()); v != projection.Unknown {
				f.Session, f.verdict = s, n.held(&s, v)
			}
		}
		return e, err
	})
	return pos, err
}

// remembered returns until when (unix ms) it must be known that the session was
// revoked: as long as it could live. Of one that another system began, nobody says
// when, nothing else keeps that system from bringing it back.
func (n *Node) remembered(s *projection.Session) int64 {
	if s.CreatedAt == begunUnknown {
		return max(s.AbsoluteAt, n.wall()+events.UnknownLifetime.Milliseconds())
	}
	return s.AbsoluteAt
}

// stands returns a position of the home at or after the revocation of the
// session, and false when the home, as this node has read it, does not say that
// the session is revoked. Another node may not have heard of it yet.
//
// The generation is read before and the sequence afterwards: if the log went
// backwards in between, no receipt of the position becomes complete.
func (n *Node) stands(home *stream, s *projection.Session) (events.Position, bool) {
	pos := home.position()
	ok := n.sessions().Stands(s.SID) && !n.undelivered(s)
	pos.Seq = home.seen().Seq
	return pos, ok
}

// revokeGroup revokes every session of a user, or with an empty user of the
// app, that was created before now, in every region. It is always written, also
// when this node knows of none: a log-in may be on its way. What a region out of
// reach does not take is recorded in this node's. Where neither is possible the
// request fails, and others may have taken it: a repeat is harmless.
//
// A region may have been added that this node has not heard of: it makes sure
// meanwhile, and revokes there too. If CONFIG does not answer, the receipt is not
// complete.
func (n *Node) revokeGroup(ctx context.Context, r *revocation, user string) (int, any, error) {
	var done []placed
	total := 0
	revoke := func(numbers []uint8) error {
		placed, counts, errs := make([]placed, len(numbers)), make([]int, len(numbers)), make([]error, len(numbers))
		var all sync.WaitGroup
		for i, number := range numbers {
			all.Go(func() { placed[i], counts[i], errs[i] = n.revokeGroupAt(ctx, r, number, user) })
		}
		all.Wait()
		for i, err := range errs {
			if err != nil {
				return err
			}
			total += counts[i]
		}
		done = append(done, placed...)
		return nil
	}
	known := n.homes()
	var asking sync.WaitGroup
	asking.Go(func() { r.parted = !n.conf.Solo && n.settings.reads.pass(ctx, consistencyWait, true) != nil })
	err := revoke(known)
	asking.Wait()
	if err == nil {
		err = revoke(slices.DeleteFunc(n.homes(), func(number uint8) bool { return slices.Contains(known, number) }))
	}
	if err != nil {
		return 0, nil, err
	}
	return n.revoked(ctx, r, done, total)
}

// homes returns the numbers of all streams that sessions live in, as far as this
// node has heard.
func (n *Node) homes() (numbers []uint8) {
	for _, s := range n.streams() {
		if s != n.settings {
			numbers = append(numbers, s.number)
		}
	}
	for region := range n.catalog.Snapshot().Regions() {
		if !slices.Contains(numbers, region.Number) {
			numbers = append(numbers, region.Number)
		}
	}
	return numbers
}

// revokeGroupAt is revokeGroup for the sessions whose home has the number.
func (n *Node) revokeGroupAt(ctx context.Context, r *revocation, number uint8, user string) (placed, int, error) {
	s, err := n.homeOf(events.SID{number})
	if err == nil {
		var pos events.Position
		var count int
		if pos, count, err = n.revokeGroupIn(ctx, r, s, user); err == nil {
			return placed{stream: s, at: pos}, count, nil
		}
	}
	return n.revokeGroupAway(ctx, r, number, user, err)
}

// placed is a revocation in a stream: that of the sessions, or where their home
// was out of reach and has yet to say it, this region's.
type placed struct {
	stream *stream
	at     events.Position
	away   away
}

// revokeGroupIn is revokeGroup for the sessions of one stream.
func (n *Node) revokeGroupIn(ctx context.Context, r *revocation, s *stream, user string) (pos events.Position, revoked int, err error) {
	err = s.insist(ctx, func(ctx context.Context) (events.Event, error) {
		if stale := s.fenced(); stale != nil {
			return nil, stale
		}
		e := &events.RevokeAll{
			App: r.app.App, User: user, Reason: r.req.Reason, By: r.c.caller.keyID, Request: r.c.id, At: n.wall(),
			Prev: n.sessions().LastAll(s.number, r.app.App, user),
		}
		if err := n.spare(ctx, e, s.number, r.req.ExceptSessionID); err != nil {
			return nil, err
		}
		revoked = max(revoked, n.countActive(e, s.number)) // the first try may have done it
		pos, err = s.write(ctx, e, nil, events.UnknownLifetime+events.TTLSlack, events.Expect(e.Prev))
		return e, err
	})
	return pos, revoked, err
}

// spare lets the event, for sessions of the stream, except the session, if it is
// one of the user's there and not revoked already: what is revoked stays so.
func (n *Node) spare(ctx context.Context, e *events.RevokeAll, stream uint8, except string) error {
	if except == "" {
		return nil
	}
	sid, err := events.ParseSID(except)
	if err != nil {
		return err
	}
	if sid.Stream() != stream {
		return nil // it lives elsewhere, and that may be out of reach
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

// countActive counts the sessions of the stream that are good until the event is
// applied.
func (n *Node) countActive(e *events.RevokeAll, stream uint8) (count int) {
	var all iter.Seq2[projection.Session, projection.Verdict]
	if e.User == "" {
		all = n.sessions().App(e.App, n.wall())
	} else {
		all = n.sessions().User(e.App, e.User, n.wall())
	}
	for s, v := range all {
		if s.SID.Stream() == stream && n.held(&s, v) == projection.Active && !e.Spares(s.SID) {
			count++
		}
	}
	return count
}

// revoked answers a revocation that stands in each of the streams.
func (n *Node) revoked(ctx context.Context, r *revocation, in []placed, count int) (int, any, error) {
	receipts := make([]*api.Receipt, len(in))
	var all sync.WaitGroup
	for i, p := range in {
		all.Go(func() {
			receipts[i] = n.receipt(ctx, p.stream, p.at, r.start, r.req.Wait, n.jwtLife(r.app))
			if !p.away.none() {
				n.pending(receipts[i], p.away)
			}
		})
	}
	all.Wait()
	receipt := receipts[0]
	for _, other := range receipts[1:] {
		n.combine(receipt, other)
	}
	staleness, _ := in[0].stream.lease.staleness(n.conf.Clock.Boot())
	out := &api.RevokeAnswer{
		Freshness: api.Freshness{Revision: receipt.Revision, StalenessMS: staleness.Milliseconds()},
		Revoked:   count,
		Receipt:   receipt,
	}
	if out.Receipt.Status == receiptComplete && (r.parted || n.mayServe(r.app.App)) {
		out.Receipt.Status = receiptPartial
	}
	return receiptStatus(out.Receipt, r.req.Wait), out, nil
}

// combine adds the receipt of another stream: together they are as far as the one
// that is less far.
func (n *Node) combine(r, other *api.Receipt) {
	r.Revision += "," + other.Revision
	if rankOfStatus[other.Status] > rankOfStatus[r.Status] {
		r.Status, r.Method = other.Status, other.Method
	}
	for _, a := range other.Applied {
		i := slices.IndexFunc(r.Applied, func(b api.ReceiptApplied) bool { return b.Node == a.Node })
		if i < 0 {
			r.Applied = append(r.Applied, a)
			continue
		}
		r.Applied[i].MS = max(r.Applied[i].MS, a.MS)
	}
	union := func(a, b []string) []string {
		all := slices.Concat(a, b)
		slices.Sort(all)
		return slices.Compact(all)
	}
	r.Fenced, r.WaitedOut, r.Left = union(r.Fenced, other.Fenced), union(r.WaitedOut, other.WaitedOut), union(r.Left, other.Left)
	r.Pending = union(r.Pending, other.Pending)
	r.TookMS = max(r.TookMS, other.TookMS)
	switch {
	case r.Status == receiptPending:
		r.JWTSafeAfter = time.Time{}
	case other.JWTSafeAfter.After(r.JWTSafeAfter):
		r.JWTSafeAfter = other.JWTSafeAfter
	}
	if r.Status == receiptCommitted || r.Status == receiptPending {
		r.ReceiptURL = n.issuer + "/v1/receipts/" + r.Revision
	}
}
