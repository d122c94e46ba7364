package node

import (
	"context"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node/api"
	"github.com/revocast/revocast/projection"
)

// What an app wants of a session that is one too many: AppSettings.SessionLimit,
// of which "" is limitEvict.
const (
	limitEvict  = "evict_oldest"
	limitReject = "reject"
)

const (
	maxSessionsPerUser = 1000
	// reasonLimit is why a session was revoked that was one too many.
	reasonLimit = "session_limit"
	// evictors is how many sessions one create evicts at a time.
	evictors = 16
	// maxRecounts bounds the users whose sessions are to be counted again.
	maxRecounts = 65_536
)

// userOf names a user of an app.
type userOf struct{ app, user string }

// limit is how many sessions the user of a draft may have; 0: any number.
type limit struct {
	max    int
	reject bool
}

// limitOf returns the limit of the app for a new session. One in which somebody
// else acts as the user is not the user's, and takes no place of theirs.
func limitOf(s *events.AppSettings, p *events.Private) limit {
	if len(p.Actor) > 0 {
		return limit{}
	}
	return limit{max: int(s.MaxSessions), reject: s.SessionLimit == limitReject}
}

// createWithin creates a session of a user whose sessions are limited. Creates
// of one user take turns within this node, so that two at once do not both find
// the last place free. On other nodes of the region they do not, and so each
// counts again when its own event is applied: the last one in the log sees all
// before it. Between regions nobody is last; see recount.
//
// Which sessions are the oldest every node says alike: the order is that of
// Projection.User, by the time of creation first. A create dates its session after
// those it knows of, whatever the clocks of their nodes. So of several nodes that
// evict at the same time none evicts one of the newest.
func (n *Node) createWithin(ctx context.Context, d *draft, ex events.Expectation) (found, error) {
	user := userOf{d.state.App, d.state.User}
	leave, err := n.limits.enter(ctx, user)
	if err != nil {
		return found{}, err
	}
	defer leave()
	if err := n.makeRoom(ctx, d); err != nil {
		return found{}, err
	}
	f, err := n.place(ctx, d, ex)
	if err != nil {
		return found{}, err
	}
	// The session stands, so its caller must not be the reason to stop here.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), revokeTimeout)
	defer cancel()
	if n.manyRegions() {
		n.limits.again(user, n.conf.Clock.Boot()+n.conf.Lease)
	}
	return n.keepWithin(ctx, d, f)
}

// makeRoom evicts sessions until there is room for one more, or says that there
// is none.
func (n *Node) makeRoom(ctx context.Context, d *draft) error {
	others := n.counted(ctx, d.state.App, d.state.User, d.state.SID, d.limit.max)
	if len(others) > 0 {
		newest := others[len(others)-1].CreatedAt
		if ahead := newest - d.state.CreatedAt; ahead >= 0 && ahead <= maxClockSkew.Milliseconds() {
			d.state.CreatedAt = newest + 1
		}
	}
	excess := len(others) + 1 - d.limit.max
	switch {
	case excess <= 0:
		return nil
	case d.limit.reject:
		for i := range others { // it may have ended where this node is not told
			if _, stale := n.fresh(others[i].SID.Stream()); stale != nil {
				return stale
			}
		}
		return tooManySessions(d.limit.max)
	}
	if _, err := sealable(&d.private); err != nil {
		return err // nobody is evicted for what cannot be
	}
	return n.evict(ctx, d.state.App, d.state.By, others[:excess])
}

// keepWithin counts again now that the draft's session f is there.
func (n *Node) keepWithin(ctx context.Context, d *draft, f found) (found, error) {
	over := n.tooMany(ctx, d, f)
	err := n.evict(ctx, f.App, d.state.By, over)
	if err != nil {
		n.limits.again(userOf{f.App, f.User}, n.conf.Clock.Boot()+n.conf.Lease)
	}
	switch own := slices.ContainsFunc(over, func(s projection.Session) bool { return s.SID == f.SID }); {
	case own && err != nil:
		return found{}, err
	case own:
		return found{}, tooManySessions(d.limit.max)
	}
	return f, nil
}

// tooMany returns the sessions that are too many beside the draft's session f, or
// that one: if the app rejects, it counts those that came before, in the log of its
// region or from elsewhere.
func (n *Node) tooMany(ctx context.Context, d *draft, f found) []projection.Session {
	all := n.counted(ctx, f.App, f.User, events.SID{}, d.limit.max)
	if !d.limit.reject {
		return all[:max(0, len(all)-d.limit.max)]
	}
	before := 0
	for i := range all {
		if o := &all[i]; o.SID.Stream() != f.SID.Stream() || o.CreatedSeq < f.CreatedSeq {
			before++
		}
	}
	if before < d.limit.max {
		return nil
	}
	return []projection.Session{f.Session}
}

func tooManySessions(limit int) error {
	return fail(api.SessionLimit, "the user has %d sessions, as many as the app allows at a time", limit).with("max_sessions_per_user", limit)
}

// counted returns the good sessions of the user that this node knows in all
// streams, but the one, oldest first. When there are as many as are allowed, those
// in which somebody else acts as the user do not count.
func (n *Node) counted(ctx context.Context, app, user string, but events.SID, most int) (all []projection.Session) {
	for s, v := range n.sessions().User(app, user, n.judged()) {
		if n.held(&s, v) == projection.Active && s.SID != but {
			all = append(all, s)
		}
	}
	if len(all) < most {
		return all
	}
	own := all[:0]
	ctx, cancel := context.WithTimeout(ctx, jwtPatience)
	defer cancel()
	for _, s := range all {
		// What cannot be read in time counts: who logs in does not wait for a region
		// that is out of reach.
		p, err := n.private(ctx, &found{answer: answer{Session: s, verdict: projection.Active}})
		if err != nil || len(p.Actor) == 0 {
			own = append(own, s)
		}
	}
	return own
}

// evict revokes sessions that are too many.
func (n *Node) evict(ctx context.Context, app, by string, sessions []projection.Session) error {
	var g errgroup.Group
	g.SetLimit(evictors)
	for i := range sessions {
		g.Go(func() error { return n.takeAway(ctx, app, by, reasonLimit, &sessions[i]) })
	}
	return g.Wait()
}

// takeAway revokes a good session for a reason of the node's own; where its home
// is out of reach, that is recorded here and delivered later.
func (n *Node) takeAway(ctx context.Context, app, by, reason string, s *projection.Session) error {
	t, ok := n.app(app)
	if !ok {
		return appNotFound(app)
	}
	r := &revocation{
		c: &call{n: n, caller: caller{app: app, keyID: by}}, app: t, start: n.conf.Clock.Wall(),
		req: &api.Revoke{SessionID: s.SID.String(), Reason: reason},
	}
	home, err := n.homeOf(s.SID)
	if err == nil {
		if stale := home.fenced(); stale != nil {
			err = stale
		}
	}
	if err == nil {
		_, err = n.revokeOneIn(ctx, r, home, found{answer: answer{Session: *s, verdict: projection.Active}})
	}
	if err != nil {
		_, _, err = n.revokeOneAway(ctx, r, err)
	}
	return err
}

// manyRegions reports whether sessions live in more streams than this node's
// region's.
func (n *Node) manyRegions() bool { return len(n.homes()) > 1 }

// recount counts the sessions of users again who got one a lease ago, while there
// were other regions. Two regions that made one each knew nothing of one another.
// A lease on a stream that is held a lease later than the create says that all is
// applied that was committed there before it; so whoever created last now sees all
// the others, and evicts the oldest, whatever the policy. A region that is out of
// reach is waited for.
func (n *Node) recount(ctx context.Context) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		for _, user := range n.limits.due(n.conf.Clock.Boot()) {
			if !n.recounted(ctx, user) {
				n.limits.again(user, n.conf.Clock.Boot()+n.conf.Lease)
			}
		}
	}
}

// recounted reports whether the user has no more sessions than the app allows.
func (n *Node) recounted(ctx context.Context, user userOf) bool {
	app, ok := n.app(user.app)
	if !ok || app.Settings.MaxSessions == 0 {
		return true
	}
	if _, missing, _, err := n.listable(nil); err != nil || len(missing) > 0 {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, revokeTimeout)
	defer cancel()
	most := int(app.Settings.MaxSessions)
	all := n.counted(ctx, user.app, user.user, events.SID{}, most)
	return len(all) <= most || n.evict(ctx, user.app, "", all[:len(all)-most]) == nil
}

// limits are what a node remembers of users whose sessions are limited.
type limits struct {
	mu    sync.Mutex // guards the maps
	turns map[userOf]*turn
	later map[userOf]time.Duration // when to count again, on Clock.Boot
}

// turn is whose turn it is among the creates of one user.
type turn struct {
	free chan struct{} // 1 deep: holds the right to create
	who  int           // how many have it or wait for it
}

// enter returns when the caller may create a session of the user, and what ends
// that.
func (l *limits) enter(ctx context.Context, user userOf) (leave func(), err error) {
	l.mu.Lock()
	t := l.turns[user]
	if t == nil {
		t = &turn{free: make(chan struct{}, 1)}
		t.free <- struct{}{}
		if l.turns == nil {
			l.turns = map[userOf]*turn{}
		}
		l.turns[user] = t
	}
	t.who++
	l.mu.Unlock()
	gone := func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if t.who--; t.who == 0 {
			delete(l.turns, user)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, appendTimeout)
	defer cancel()
	select {
	case <-t.free:
		return func() { t.free <- struct{}{}; gone() }, nil
	case <-ctx.Done():
		gone()
		return nil, fail(api.LogUnavailable, "other sessions of this user are being created; ask again").because(ctx.Err())
	}
}

// again has the user's sessions counted at the time. There is a bound to what is
// remembered; the user's next create counts too.
func (l *limits) again(user userOf, at time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.later == nil {
		l.later = map[userOf]time.Duration{}
	}
	if _, ok := l.later[user]; ok || len(l.later) < maxRecounts {
		l.later[user] = at
	}
}

// due takes the users whose sessions are to be counted now.
func (l *limits) due(now time.Duration) (users []userOf) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for user, at := range l.later {
		if at <= now {
			users = append(users, user)
			delete(l.later, user)
		}
	}
	return users
}
