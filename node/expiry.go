package node

import (
	"context"
	"encoding/binary"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/projection"
)

// A session that runs out is over by its times, and no event says so. For those who
// subscribe, one node of its region writes that: an Expire, some time after the end
// (projection.Skew, and up to the minute that a look at all sessions takes).
//
// Nobody is elected for it. Of the live nodes of the region each session has an order
// of its own; the first writes at once, the others do so later if they have not
// applied its event by then. Who is late meets the event of another where it expected
// none, and is done too. What was told is not remembered for long: each node knows up
// to which time it has seen all ends.

const (
	// expireEvery is the least time between two of them in a region, so that a million
	// sessions that end at once take neither the log's time nor its space from
	// revocations.
	expireEvery   = 2500 * time.Microsecond
	expireWriters = 4
	// expireLater is how long the second node waits for the first, which may find an
	// end a minute after others do, and expireStep how much longer each further one.
	expireLater = 75 * time.Second
	expireStep  = 15 * time.Second
	// maxEnded bounds what is known to have ended and is not told, and maxTold what was
	// told before this node knew of it.
	maxEnded = 65_536
	maxTold  = 65_536
	// What ended so long before the newest event that was heard, or before the
	// snapshot with which this node began, was told by others, or by its earlier life.
	expireHeard  = 10 * time.Minute
	expireLoaded = 5 * time.Minute
)

// expiries are the sessions of the home stream that ran out.
type expiries struct {
	mu sync.Mutex // guards what follows
	// ended are those that nobody has told yet, told when those ended that others
	// told before this node found them.
	ended map[events.SID]projection.Ended
	told  map[events.SID]int64
	// newest is the latest end that was told, pruned what it was when told was last
	// cleared of what is old.
	newest, pruned int64
	// since is the log time (unix ms) of the snapshot that this node began from, 0
	// without one.
	since int64
	// seen is up to when (unix ms) the ends in each slice of the sessions are known; 0
	// before the first look.
	seen [256]int64
}

// heard takes notice of an event that is applied.
func (x *expiries) heard(e *events.Expire) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.newest = max(x.newest, e.At)
	if d, ok := x.ended[e.SID]; ok && e.At >= d.CreatedAt {
		delete(x.ended, e.SID)
		return
	}
	if len(x.told) >= maxTold {
		if x.newest < x.pruned+time.Minute.Milliseconds() {
			return // its session will be told in vain: an event stands there
		}
		x.prune(x.newest - expireHeard.Milliseconds())
	}
	if x.told == nil {
		x.told = map[events.SID]int64{}
	}
	x.told[e.SID] = e.At
}

// prune forgets what was told of sessions that ended before. x.mu is held.
func (x *expiries) prune(before int64) {
	x.pruned = x.newest
	for sid, at := range x.told {
		if at < before {
			delete(x.told, sid)
		}
	}
}

// begin returns from when on ends in the slice matter, and whether more can be
// taken. Until is the end of what can be judged.
func (x *expiries) begin(slice uint8, until int64) (after int64, ok bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.seen[slice] == 0 {
		x.seen[slice] = max(until-events.ExpiredEventTTL.Milliseconds(), x.since-expireLoaded.Milliseconds(), x.newest-expireHeard.Milliseconds())
	}
	if slice == 0 {
		x.prune(slices.Min(x.seen[:]))
	}
	return x.seen[slice], len(x.ended) < maxEnded
}

// take adds a session that ended, and reports whether there was room for it.
func (x *expiries) take(d projection.Ended) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	switch at, told := x.told[d.SID]; {
	case told && at >= d.CreatedAt:
		delete(x.told, d.SID)
		return true
	case len(x.ended) >= maxEnded:
		return false
	}
	if x.ended == nil {
		x.ended = map[events.SID]projection.Ended{}
	}
	// The texts are the projection's own: kept, they would keep more than themselves.
	d.App, d.User = strings.Clone(d.App), strings.Clone(d.User)
	x.ended[d.SID] = d
	return true
}

// done forgets a session that was told, or is not to be.
func (x *expiries) done(sid events.SID) {
	x.mu.Lock()
	defer x.mu.Unlock()
	delete(x.ended, sid)
}

func (x *expiries) waiting() int {
	x.mu.Lock()
	defer x.mu.Unlock()
	return len(x.ended)
}

// lookForEnded finds what has ended in one of 256 slices of the sessions. It comes
// before the slice is swept, or what ended would be forgotten before it is told.
func (n *Node) lookForEnded(slice uint8) {
	if n.home.fenced() != nil {
		return // what is known of the home may be old
	}
	sessions, home := n.sessions(), n.home.number
	until := sessions.Settled(home, n.wall())
	after, room := n.expiries.begin(slice, until)
	if !room || n.idleHeld.Load() != 0 {
		return // the next look begins where this one would have
	}
	for d := range sessions.Ended(slice, home, after, until) {
		if app, ok := n.app(d.App); !ok || app.State == events.AppDeleted || app.Settings.NoExpired {
			continue
		}
		if !n.expiries.take(d) {
			return
		}
	}
	n.expiries.mu.Lock()
	defer n.expiries.mu.Unlock()
	n.expiries.seen[slice] = max(after, until)
}

// tellExpired writes that sessions of the home stream ran out, until ctx ends.
func (n *Node) tellExpired(ctx context.Context) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		if !n.mayTell() {
			continue
		}
		due, nodes := n.dueExpiries()
		g, stop := errgroup.WithContext(ctx)
		g.SetLimit(expireWriters)
		for i, begun := 0, n.conf.Clock.Boot(); i < len(due); i++ {
			// Others of higher turn may have become due, or have told some of these.
			if !n.mayTell() || n.conf.Clock.Boot()-begun > time.Second || !pause(stop, expireEvery*time.Duration(nodes)) {
				break
			}
			g.Go(func() error { return n.tellEnded(ctx, due[i]) })
		}
		_ = g.Wait() // the log is away: what was not told is due again
	}
}

// mayTell reports whether the home stream has time and space for it.
func (n *Node) mayTell() bool {
	return n.home.fenced() == nil && !n.home.above(createBudget) && !n.logDead.Load()
}

// dueExpiries returns what it is this node's turn to tell, in the order of the
// turns, and how many nodes the region has.
func (n *Node) dueExpiries() (due []projection.Ended, nodes int) {
	others := n.home.others()
	ids := make([]events.Incarnation, 0, len(others))
	for _, o := range others {
		if o.region == n.home.region && n.conf.Clock.Boot()-o.heard < n.maxWait() {
			ids = append(ids, o.incarnation)
		}
	}
	settled := n.sessions().Settled(n.home.number, n.wall())
	turns := map[events.SID]int64{}
	x := &n.expiries
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, d := range x.ended {
		turn := d.At
		if r := rankOf(d.SID, n.incarnation, ids); r > 0 {
			turn += (expireLater + time.Duration(r-1)*expireStep).Milliseconds()
		}
		if turn <= settled {
			due, turns[d.SID] = append(due, d), turn
		}
	}
	slices.SortFunc(due, func(a, b projection.Ended) int { return int(turns[a.SID] - turns[b.SID]) })
	return due, len(ids) + 1
}

// rankOf returns how many of the others come before own for the session. Who is gone
// leaves the order of the rest as it was.
func rankOf(sid events.SID, own events.Incarnation, others []events.Incarnation) (rank int) {
	weight := func(i events.Incarnation) uint64 {
		w := binary.LittleEndian.Uint64(sid[8:]) ^ binary.LittleEndian.Uint64(i[:])
		w = (w ^ w>>30) * 0xbf58476d1ce4e5b9
		w = (w ^ w>>27) * 0x94d049bb133111eb
		return w ^ w>>31
	}
	mine := weight(own)
	for _, o := range others {
		if weight(o) > mine {
			rank++
		}
	}
	return rank
}

// tellEnded writes that the session ran out, unless it is revoked or did not by now.
func (n *Node) tellEnded(ctx context.Context, d projection.Ended) error {
	// What is unknown by now was swept: it had ended, and nobody had revoked it.
	if s, v := n.sessions().Lookup(d.SID, n.judged()); v != projection.Unknown {
		end := min(s.ExpiresAt, s.IdleEnd(n.conf.Lease))
		if v == projection.Revoked || end > d.At || n.held(&s, v) == projection.Active {
			n.expiries.done(d.SID)
			return nil
		}
	}
	e := &events.Expire{App: d.App, User: d.User, SID: d.SID, At: d.At, Reason: events.ReasonExpired}
	if d.Idle {
		e.Reason = events.ReasonIdle
	}
	_, err := n.home.write(ctx, e, nil, events.ExpiredEventTTL, events.Expect(0))
	if errors.Is(err, events.ErrConflict) {
		err = n.tellOver(ctx, e, d.CreatedAt)
	} else if err == nil {
		n.metrics.expired.Inc()
	}
	if err == nil {
		n.expiries.done(d.SID)
	}
	return err
}

// tellOver deals with what stands where nothing was expected: most likely another
// node told the same. But the sid of a foreign token may have been that of an earlier
// session, created later than which this one was, and anybody may write there what is
// not believed.
func (n *Node) tellOver(ctx context.Context, e *events.Expire, created int64) error {
	ctx, cancel := context.WithTimeout(ctx, appendTimeout)
	defer cancel()
	stands, err := n.home.log.Last(ctx, e.Subject(n.home.region).String())
	if err != nil {
		return err
	}
	r := n.conf.Keys.Decode(n.home.number, stands)
	if r.Trust == events.Foreign {
		return nil
	}
	if was, ok := r.Event.(*events.Expire); ok && was.At >= created {
		return nil
	}
	_, err = n.home.write(ctx, e, nil, events.ExpiredEventTTL, events.Expect(stands.Seq))
	if err == nil {
		n.metrics.expired.Inc()
	}
	return err
}
