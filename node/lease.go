package node

import (
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Why a node is fenced on a stream; the reason of a 503 node_stale.
const (
	reasonStarting = "starting" // has not yet seen a heartbeat of its own
	reasonSilent   = "silent"   // no heartbeat of its own came back in time
	reasonClock    = "clock"    // the log's clock and the node's are too far apart
	reasonRewound  = "rewound"  // the log went backwards; rebuilding
	reasonIdentity = "identity" // the stream is another one than the node knows
	reasonLeaving  = "leaving"  // the node is stopping
	reasonDigest   = "digest"   // most nodes made something else of the stream; rebuilding
	reasonFormat   = "format"   // the stream holds events that this version cannot read
	reasonKey      = "key"      // others seal with a cluster key that the node lacks
	reasonCloned   = "cloned"   // another process has the node's incarnation
)

// lease is the right to answer from what was applied of one stream: a
// heartbeat of this incarnation that came back proves that everything
// committed before it was sent is applied. It runs from the time of sending
// (rule R2), is measured on this node's own clock only, and dies with the
// process (rule R4).
type lease struct {
	length   time.Duration
	deadline atomic.Int64 // Clock.Boot in ns; 0: none
	proven   atomic.Int64 // when the newest heartbeat seen again was sent; 0: never
	reason   atomic.Pointer[string]

	mu   sync.Mutex               // guards the fields below
	sent map[uint64]time.Duration // heartbeat number to Clock.Boot when it was sent
	dead bool                     // dropped for good: the node is leaving, or cloned
	// floor is a sequence of the stream; heartbeats at or below it renew nothing.
	floor uint64
	// bars are why nothing renews the lease, by reason, with what is to be done.
	bars map[string]string
}

func newLease(length time.Duration) *lease {
	l := &lease{length: length, sent: map[uint64]time.Duration{}}
	l.because(reasonStarting)
	return l
}

// holds reports whether the lease is held at the time now of Clock.Boot, which
// the caller must have read before anything it is about to look up (rule R3).
func (l *lease) holds(now time.Duration) bool { return int64(now) < l.deadline.Load() }

// left returns how much of the lease is left, 0 when it is not held.
func (l *lease) left(now time.Duration) time.Duration {
	return max(0, time.Duration(l.deadline.Load())-now)
}

// staleness returns how long ago the node knew for certain all that was
// committed, and false when it never did.
func (l *lease) staleness(now time.Duration) (time.Duration, bool) {
	p := l.proven.Load()
	return now - time.Duration(p), p != 0
}

// provenSince reports whether a heartbeat that was sent then or later has come back.
func (l *lease) provenSince(then time.Duration) bool {
	p := l.proven.Load()
	return p != 0 && time.Duration(p) >= then
}

// blind reports whether the node never knew all that was committed since the
// stream was last read from its beginning, or is barred: what it has read may
// lack any revocation.
func (l *lease) blind() bool {
	if l.proven.Load() == 0 {
		return true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.bars) > 0
}

// ended reports whether the lease was dropped for good.
func (l *lease) ended() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.dead
}

// why returns the reason for which the lease is not held.
func (l *lease) why() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if reason, ok := l.barred(); ok {
		return reason
	}
	return *l.reason.Load()
}

// is reports whether the last reason given was that one, whatever bars it too.
func (l *lease) is(reason string) bool { return *l.reason.Load() == reason }

// bar ends the lease and keeps it from being renewed for the reason, until it is
// called with an empty detail. It reports whether it was not barred so before.
func (l *lease) bar(reason, detail string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, was := l.bars[reason]
	if detail == "" {
		delete(l.bars, reason)
		return false
	}
	if l.bars == nil {
		l.bars = map[string]string{}
	}
	l.bars[reason] = detail
	l.deadline.Store(0)
	return !was
}

// detail returns what is to be done about the reason why, "" if nothing was said.
func (l *lease) detail() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	reason, _ := l.barred()
	return l.bars[reason]
}

// barred returns the first of the reasons for which nothing renews the lease.
// l.mu is held.
func (l *lease) barred() (reason string, ok bool) {
	if len(l.bars) == 0 {
		return "", false
	}
	return slices.Min(slices.Collect(maps.Keys(l.bars))), true
}

func (l *lease) because(reason string) { l.reason.Store(&reason) }

// sending notes that heartbeat n is about to be sent at now.
func (l *lease) sending(n uint64, now time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sent[n] = now
}

// returned renews the lease for heartbeat n of this incarnation, which stands at
// seq in the stream and all before which readers see already. A heartbeat that
// was not sent under this lease, or was renounced, renews nothing.
func (l *lease) returned(n, seq uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	at, ok := l.sent[n]
	if !ok || l.dead {
		return
	}
	for m := range l.sent {
		if m <= n {
			delete(l.sent, m)
		}
	}
	if int64(at) > l.proven.Load() {
		l.proven.Store(int64(at))
	}
	if end := int64(at + l.length); end > l.deadline.Load() && seq > l.floor && len(l.bars) == 0 {
		l.deadline.Store(end)
		l.because(reasonSilent) // what it will be if nothing renews it
	}
}

// renounce reports whether the lease is not held at the time now of Clock.Boot.
// If so, no heartbeat at or below seq will renew it: whenever it is held again,
// readers see the stream up to there.
func (l *lease) renounce(seq uint64, now time.Duration) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.holds(now) {
		return false
	}
	l.floor = max(l.floor, seq)
	return true
}

// drop ends the lease at once, and with it what was proven. Heartbeats sent
// before no longer count, so that none of them renews it while the stream is
// read again.
func (l *lease) drop(reason string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.deadline.Store(0)
	l.proven.Store(0)
	clear(l.sent)
	l.floor = 0 // heartbeats sent from now on follow everything that was renounced for
	if l.dead {
		return // the reason stays
	}
	l.because(reason)
	l.dead = reason == reasonLeaving || reason == reasonCloned
}
