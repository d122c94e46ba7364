package node

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node/api"
	"github.com/revocast/revocast/projection"
)

const (
	// maxPending bounds what of sessions that nobody here knows is recorded for
	// one home: anybody can make up tokens. Known sessions are always taken.
	maxPending = 100_000
	// deliverRound is how many revocations are delivered between two looks at
	// what others delivered, deliverers how many at a time.
	deliverRound = 64
	deliverers   = 8
)

// away is a revocation that a home out of reach is yet to say: of a session, or
// of a user (hash, empty for all) of an app. The zero away is none.
type away struct {
	region    string
	sid       events.SID
	app, hash string
}

func (a away) none() bool { return a.region == "" }

// String returns what follows the position under which it was recorded, such as
// "@us.<sid>" or "@us.<app>.<hash of the user, or ->". So whoever is shown the
// revision knows what to look for, on any node and after any restart.
func (a away) String() string {
	switch {
	case a.none():
		return ""
	case a.app == "":
		return "@" + a.region + "." + a.sid.String()
	case a.hash == "":
		return "@" + a.region + "." + a.app + ".-"
	}
	return "@" + a.region + "." + a.app + "." + a.hash
}

func parseAway(text string) (a away, err error) {
	part := strings.Split(text, ".")
	a.region = part[0]
	ok := events.ValidName(a.region)
	switch len(part) {
	case 2:
		a.sid, err = events.ParseSID(part[1])
	case 3:
		if a.app, a.hash = part[1], part[2]; a.hash == "-" {
			a.hash = ""
		} else if _, err = events.ParseSID(a.hash); err != nil && len(a.hash) == 22 {
			err = nil // 22 characters, of which the last may have spare bits
		}
		ok = ok && events.ValidName(a.app)
	default:
		ok = false
	}
	if !ok || err != nil {
		return away{}, fmt.Errorf("not a revocation elsewhere: %q", text)
	}
	return a, nil
}

// spot is one part of a revision as the API writes it: a position and, where
// what stands there is for a home that was out of reach, what that is.
type spot struct {
	at   events.Position
	away away
}

// maxSpots bounds the parts of a revision: there are no more streams.
const maxSpots = 256

func parseSpots(text string) ([]spot, error) {
	var out []spot
	for part := range strings.SplitSeq(text, ",") {
		position, rest, elsewhere := strings.Cut(part, "@")
		at, err := events.ParsePosition(position)
		if err != nil {
			return nil, err
		}
		p := spot{at: at}
		if elsewhere {
			if p.away, err = parseAway(rest); err != nil {
				return nil, err
			}
		}
		if slices.Contains(out, p) || len(out) == maxSpots {
			return nil, fmt.Errorf("not a revision: %q", text)
		}
		out = append(out, p)
	}
	return out, nil
}

// parseRevision reads the positions of a revision as the API writes it; of
// several in one stream the last.
func parseRevision(text string) (events.Revision, error) {
	if !strings.Contains(text, "@") {
		return events.ParseRevision(text)
	}
	spots, err := parseSpots(text)
	if err != nil {
		return nil, err
	}
	var r events.Revision
	for _, p := range spots {
		i := slices.IndexFunc(r, func(q events.Position) bool { return q.Stream == p.at.Stream })
		switch {
		case i < 0:
			r = append(r, p.at)
		case r[i].Gen != p.at.Gen:
			return nil, fmt.Errorf("not a revision: stream %q in two generations", p.at.Stream)
		default:
			r[i].Seq = max(r[i].Seq, p.at.Seq)
		}
	}
	return events.ParseRevision(r.String())
}

// outOfReach reports whether the error says that a stream cannot be reached, or
// that this node may not answer about it, and not that it refused.
func outOfReach(err error) bool {
	if f, ok := errors.AsType[*failure](err); ok && (f.kind == api.HomeUnreachable || f.kind == api.ConsistencyTimeout) {
		return true
	}
	_, stale := errors.AsType[*staleError](err)
	return stale || errors.Is(err, events.ErrUnavailable)
}

// elsewhere returns the region of the number if that is another than this
// node's, whose own stream can take what that one cannot. What is recorded there
// goes by time, so the wall clock (unix ms) must be right.
func (n *Node) elsewhere(number uint8, wall int64) (region string, ok bool) {
	r, ok := n.catalog.Snapshot().RegionByNumber(number)
	if !ok || n.conf.Solo || number == n.home.number {
		return "", false
	}
	if _, stale := n.freshAt(n.home.number, wall); stale != nil { // by a clock that was set it would be dated wrong
		return "", false
	}
	return r.Region, true
}

// revokeOneAway is revokeOne when that failed with cause: if the session's home
// is out of reach, the revocation is recorded in this region's stream. It takes
// away at once wherever that is heard, and is delivered when the home is
// reached. Any other cause is returned.
//
// A session that nobody here knows is revoked by whoever shows its token or its
// JWT. Its id alone is no proof that it is one of the app's.
func (n *Node) revokeOneAway(ctx context.Context, r *revocation, cause error) (int, any, error) {
	if !outOfReach(cause) {
		return 0, nil, cause
	}
	s, v, err := n.target(ctx, r)
	if err != nil && !undecided(err) {
		return 0, nil, cause // no credential, which a node without a lease does not say
	}
	if err != nil {
		return 0, nil, err
	}
	wall := n.wall()
	region, ok := n.elsewhere(s.SID.Stream(), wall)
	switch {
	case !ok, v != projection.Unknown && s.App != r.app.App:
		return 0, nil, cause
	case v == projection.Unknown && (r.req.SessionID != "" || n.sessions().PendingLen(s.SID.Stream()) >= maxPending):
		return 0, nil, cause
	}
	e := &events.Revoke{
		App: r.app.App, User: s.User, SID: s.SID, Reason: r.req.Reason, By: r.c.caller.keyID, Request: r.c.id,
		At: wall, AbsoluteAt: n.remembered(&s), Home: s.SID.Stream(),
	}
	if v == projection.Revoked { // it is said again as it was
		e.Reason, e.By, e.At = s.RevokeReason, s.RevokedBy, s.RevokedAt
	}
	life := events.UnknownLifetime + events.TTLSlack
	if e.AbsoluteAt != 0 {
		life = n.life(e.AbsoluteAt)
	}
	var pos events.Position
	err = n.home.insist(ctx, func(ctx context.Context) (_ events.Event, err error) {
		pos, err = n.home.write(ctx, e, nil, life, events.Expectation{})
		return e, err
	})
	if err != nil {
		return 0, nil, err
	}
	revoked := 0
	if v == projection.Active {
		revoked = 1
	}
	return n.revoked(ctx, r, []placed{{stream: n.home, at: pos, away: away{region: region, sid: s.SID}}}, revoked)
}

// target returns what this node knows, however old, of the session to be
// revoked. Of one that it does not know it returns the sid that the credential
// names, and the user if a JWT says it.
func (n *Node) target(ctx context.Context, r *revocation) (s projection.Session, v projection.Verdict, err error) {
	key, user := events.SID{}, ""
	switch req := r.req; {
	case req.SessionID != "":
		if key, err = events.ParseSID(req.SessionID); err != nil {
			return s, v, err
		}
		s, v = n.sessions().Lookup(key, n.judged())
	case req.SessionToken != "":
		if key, s, v, err = n.targetToken(r); err != nil {
			return s, v, err
		}
	default:
		jwt, err := n.verifyJWT(ctx, r.app.App, req.SessionJWT, jwtEver)
		if err != nil {
			return s, v, err
		}
		if key, err = events.ParseSID(jwt.SessionID); err != nil {
			return s, v, err
		}
		user = jwt.Subject
		s, v = n.sessions().Lookup(key, n.judged())
	}
	if v == projection.Unknown {
		s = projection.Session{SID: key, User: user}
	}
	return s, n.held(&s, v), nil
}

// targetToken is target for a token. One that nobody here knows is named as native
// if it has the form and a home that there is, else as the app's foreign one.
func (n *Node) targetToken(r *revocation) (key events.SID, s projection.Session, v projection.Verdict, err error) {
	key, native := events.Token(r.req.SessionToken).Key()
	if native {
		if s, v, _ = n.sessions().LookupToken(key, n.judged()); v != projection.Unknown {
			return key, s, v, nil
		}
	}
	foreign, ok, err := n.foreignKey(r.app.App, r.req.SessionToken)
	if err != nil || !ok {
		return key, s, v, err
	}
	if s, v, _ = n.sessions().LookupToken(foreign, n.judged()); v != projection.Unknown || !native {
		return foreign, s, v, nil
	}
	if _, assigned := n.catalog.Snapshot().RegionByNumber(key.Stream()); assigned {
		return key, s, v, nil
	}
	return foreign, s, v, nil
}

// revokeGroupAway is revokeGroupIn for a home that is out of reach, as cause
// says.
func (n *Node) revokeGroupAway(ctx context.Context, r *revocation, number uint8, user string, cause error) (placed, int, error) {
	wall := n.wall()
	region, ok := n.elsewhere(number, wall)
	if !ok || !outOfReach(cause) {
		return placed{}, 0, cause
	}
	s, count, pos := n.home, 0, events.Position{}
	err := s.insist(ctx, func(ctx context.Context) (_ events.Event, err error) {
		prev, at := n.sessions().LastAway(s.number, number, r.app.App, user)
		e := &events.RevokeAll{
			App: r.app.App, User: user, Reason: r.req.Reason, By: r.c.caller.keyID, Request: r.c.id,
			At: max(wall+n.aheadOf(number), at), Prev: prev, Home: number,
		}
		if sid, err := events.ParseSID(r.req.ExceptSessionID); err == nil && n.sparesAway(e, sid) {
			e.Except = []events.SID{sid}
		}
		count = max(count, n.countActive(e, number))
		pos, err = s.write(ctx, e, nil, events.UnknownLifetime+events.TTLSlack, events.Expect(e.Prev))
		return e, err
	})
	return placed{stream: s, at: pos, away: away{region: region, app: r.app.App, hash: events.UserHash(r.app.App, user)}}, count, err
}

// aheadOf returns how far the clocks of a home that is out of reach are ahead of
// this node's, in ms, as far as this node has seen; never less than 0. That may be
// why it holds no lease there, and its sessions are dated by those clocks.
func (n *Node) aheadOf(number uint8) int64 {
	if s := n.stream(number); s != nil {
		if offset := s.offset.Load(); offset != nil {
			return max(0, *offset)
		}
	}
	return 0
}

// sparesAway reports whether the event may spare the session: it lives in the
// home that the event is about, and none before has revoked it.
func (n *Node) sparesAway(e *events.RevokeAll, sid events.SID) bool {
	if sid.Stream() != e.Home {
		return false
	}
	s, v := n.sessions().Lookup(sid, n.judged())
	if v == projection.Unknown {
		return n.sessions().SparedAway(n.home.number, e.Home, e.App, e.User, sid)
	}
	return v != projection.Revoked && s.App == e.App && s.User == e.User
}

// delivered returns a position of the home at or after what says it there, and
// false when the home, as far as this node has read it, does not.
//
// The generation is read before and the sequence afterwards: if the log went
// backwards in between, no receipt of the position becomes complete.
func (n *Node) delivered(a away) (events.Position, bool) {
	s := n.streamOf(a.region)
	if s == nil {
		return events.Position{}, false
	}
	at, pending := s.position(), false
	if a.app == "" {
		pending = n.sessions().PendingSession(a.sid)
	} else {
		pending = n.sessions().PendingAll(s.number, a.app, a.hash)
	}
	at.Seq = s.seen().Seq
	return at, !pending
}

// undelivered reports whether the session may be revoked by what its home has
// yet to say.
func (n *Node) undelivered(s *projection.Session) bool {
	home, held := s.SID.Stream(), n.sessions()
	return held.PendingSession(s.SID) || held.PendingAll(home, s.App, events.UserHash(s.App, s.User)) || held.PendingAll(home, s.App, "")
}

// pending makes the receipt, which is of the stream that the revocation was
// recorded in, one of what is not done: the home's own nodes may not have heard
// of it.
func (n *Node) pending(r *api.Receipt, a away) {
	r.Revision += a.String()
	r.Status, r.Method, r.Pending, r.JWTSafeAfter = receiptPending, "", []string{a.region}, time.Time{}
	r.ReceiptURL = n.issuer + "/v1/receipts/" + r.Revision
}

// countPending returns how many revocations wait for their home, of all homes.
func (n *Node) countPending() (count int) {
	for r := range n.catalog.Snapshot().Regions() {
		count += n.sessions().PendingLen(r.Number)
	}
	return count
}

// deliver appends to the stream, until ctx ends, what was recorded elsewhere
// because it was out of reach. What is to be done is in the projection, so any
// node does it that reaches the stream, however many die. Who comes later finds
// it done.
func (s *stream) deliver(ctx context.Context) error {
	tick := time.NewTicker(s.node.conf.Beat)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		for left := s.node.sessions().PendingLen(s.number); left > 0 && s.fenced() == nil; {
			select {
			case <-time.After(rand.N(s.node.conf.Beat)):
			case <-ctx.Done():
				return nil
			}
			was := left
			s.deliverSome(ctx)
			if left = s.node.sessions().PendingLen(s.number); left >= was {
				break // not before the next tick
			}
		}
	}
}

// deliverSome delivers a round, once all that others delivered is applied.
func (s *stream) deliverSome(ctx context.Context) {
	if s.barrier(ctx) != nil {
		return
	}
	var g errgroup.Group
	g.SetLimit(deliverers)
	count := 0
	for fix := range s.node.sessions().Pending(s.number, s.node.wall()) {
		if count++; count > deliverRound {
			break
		}
		g.Go(func() error { return s.deliverOne(ctx, fix) })
	}
	if err := g.Wait(); err != nil {
		s.node.conf.Log.Warn("delivery of revocations is tried again", "stream", s.region, "error", err)
	}
}

func (s *stream) deliverOne(ctx context.Context, fix projection.Repair) error {
	var expect events.Expectation
	if e, ok := fix.Event.(*events.RevokeAll); ok {
		expect = events.Expect(e.Prev)
	}
	_, err := s.write(ctx, fix.Event, nil, fix.TTL, expect)
	if errors.Is(err, events.ErrConflict) {
		return nil // another node was first
	}
	return err
}
