package node

import (
	"cmp"
	"fmt"
	"time"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/projection"
)

// staleError says that this node may not answer about a stream: it holds no
// lease. It is answered 503 node_stale, never "not found", on which clients
// would sign people out.
type staleError struct {
	stream string
	reason string
	// blind: nothing that this node has read so far is worth an answer, even
	// an old one.
	blind bool
	// reauth: the session's app asks for a new log-in rather than a wait.
	reauth bool
}

func (e *staleError) Error() string {
	return fmt.Sprintf("node holds no lease on stream %s: %s", e.stream, e.reason)
}

// What an app wants of a node without a lease.
const (
	whenStaleRefuse = "refuse" // 503
	whenStaleServe  = "serve"  // the old answer, which says that it is old
	whenStaleReauth = "reauth" // 401
)

// answer is what a node knows of a session at one moment.
type answer struct {
	projection.Session
	verdict projection.Verdict
	// rotated: the token shown was replaced by a newer one and is accepted
	// only for some more time.
	rotated bool
	// staleness is how long ago the node knew for certain all that was
	// committed in the session's home stream.
	staleness time.Duration
	// stale is why this node holds no lease, when the session's app wants it
	// served all the same.
	stale string
	// asked is the wall clock (unix ms) read before the lease was checked. What is
	// said of the session later is true of that time.
	asked int64
}

// byToken answers for a token's key, bySID for a session id taken from a JWT
// whose signature was verified, or from a caller entitled to ask.
//
// Both go clock, lease, lookup, in that order. Looking up first would be wrong:
// the lease could be renewed between an old lookup and the check, and a revoked
// session would be answered "good" after its receipt (rule R3). The request
// must have been read in full before (DESIGN section 5).
//
// Unknown means here that this node has not heard of the session; resolveToken
// and resolveSID make sure.
func (n *Node) byToken(key events.SID) (answer, error) {
	if !n.follows(key.Stream()) {
		return answer{}, nil
	}
	if n.faults.lookupFirst {
		asked := n.wall()
		s, v, rotated := n.sessions().LookupToken(key, n.judgedAt(asked))
		staleness, err := n.fresh(key.Stream())
		return n.judge(answer{Session: s, verdict: v, rotated: rotated, staleness: staleness, asked: asked}, err)
	}
	asked := n.wall()
	staleness, err := n.freshAt(key.Stream(), asked)
	s, v, rotated := n.sessions().LookupToken(key, n.judgedAt(asked))
	return n.judge(answer{Session: s, verdict: v, rotated: rotated, staleness: staleness, asked: asked}, err)
}

func (n *Node) bySID(sid events.SID) (answer, error) {
	if !n.follows(sid.Stream()) {
		return answer{}, nil
	}
	asked := n.wall()
	staleness, err := n.freshAt(sid.Stream(), asked)
	s, v := n.sessions().Lookup(sid, n.judgedAt(asked))
	return n.judge(answer{Session: s, verdict: v, staleness: staleness, asked: asked}, err)
}

// follows reports whether this node follows the stream of the number as one in
// which sessions live. What it has of any other, from a snapshot, proves
// nothing: there is no lease that could say so.
func (n *Node) follows(number uint8) bool {
	s := n.stream(number)
	return s != nil && s != n.settings
}

// judge decides on what was looked up, given what the lease check before said.
func (n *Node) judge(a answer, stale *staleError) (answer, error) {
	a.verdict = n.held(&a.Session, a.verdict)
	if stale == nil {
		return a, nil
	}
	if a.verdict == projection.Revoked && n.whenStale(a.App) == whenStaleServe {
		a.stale = stale.reason // revoked it stays, whatever this node has missed
		return a, nil
	}
	if a.verdict != projection.Active || stale.blind {
		return answer{}, stale
	}
	switch n.whenStale(a.App) {
	case whenStaleServe:
		a.stale = stale.reason
		return a, nil
	case whenStaleReauth:
		stale.reauth = true
	}
	return answer{}, stale
}

func (n *Node) whenStale(app string) string {
	a, ok := n.catalog.Snapshot().App(app)
	if !ok || a.Settings.WhenStale == whenStaleServe && n.pastTrust() {
		return whenStaleRefuse
	}
	return a.Settings.WhenStale
}

// fresh reads the clock and checks the lease on the stream of the number.
func (n *Node) fresh(number uint8) (staleness time.Duration, stale *staleError) {
	return n.freshAt(number, n.wall())
}

// freshAt is fresh for the wall clock (unix ms), which must be about what it was
// when a heartbeat last showed it right. One that was set since would expire
// sessions, or mint JWTs for another time, until the lease runs out.
func (n *Node) freshAt(number uint8, wall int64) (staleness time.Duration, stale *staleError) {
	s := n.stream(number)
	if s == nil || s == n.settings {
		// No session lives there; nothing in the log could ever make it known.
		return 0, nil
	}
	now := n.conf.Clock.Boot()
	staleness, _ = s.lease.staleness(now)
	if !s.lease.holds(now) {
		return staleness, &staleError{stream: s.region, reason: s.lease.why(), blind: s.lease.blind()}
	}
	if set := wall - now.Milliseconds() - cmp.Or(n.booted.Load(), wall-now.Milliseconds()); set > maxClockSkew.Milliseconds() || set < -maxClockSkew.Milliseconds() {
		return staleness, &staleError{stream: s.region, reason: reasonClock}
	}
	return staleness, nil
}
