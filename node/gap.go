package node

import (
	"fmt"

	"github.com/revocast/revocast/events"
)

// A stream keeps only the newest message of a subject, so what a node reads
// late has gaps: an event that is absent may have been replaced by one that is
// still to come. Until that one is applied, "applied up to here" would be
// wrong, and a heartbeat between the two would renew the lease of a node that
// has seen neither.
//
// Whatever replaced what is absent was in the stream when its absence showed,
// so it stands before every heartbeat sent later. After a gap, therefore, only
// heartbeats sent since renew the lease, and nobody is told of a new position
// before such a one is applied.
//
// If the subscription breaks meanwhile, the log may have gone backwards to before
// what replaced the absent event, which then is back where it stood. Nobody sees
// that: it lies below what is delivered. So such a gap is closed only by reading
// the stream again.

// gaps is what the follow goroutine, which owns it, knows of them.
type gaps struct {
	seen  uint64 // the last sequence applied
	open  bool   // what replaced an absent event may be still to come
	after uint64 // number of the newest heartbeat when its absence showed
	// broken: the subscription broke while it was open.
	broken bool
}

// pass notes that the sequence is applied next.
func (s *stream) pass(seq uint64) {
	g := &s.gaps
	absent := seq > g.seen+1
	g.seen = max(g.seen, seq)
	if !absent || s.node.faults.overGaps {
		return
	}
	if !g.open {
		s.hurry()
	}
	g.open, g.after = true, s.beats.Load()
	s.lease.forget()
}

// returned notes that an own heartbeat is applied. It returns ErrRewound when
// that would close a gap across a break.
func (g *gaps) returned(n uint64) error {
	switch {
	case !g.open || n <= g.after:
	case g.broken:
		return fmt.Errorf("%w, or may have: the subscription broke before what replaced an absent event was read", events.ErrRewound)
	default:
		g.open = false
	}
	return nil
}

// forget makes the heartbeats sent so far renew nothing.
func (l *lease) forget() {
	l.mu.Lock()
	defer l.mu.Unlock()
	clear(l.sent)
}

// hurry has the next heartbeat sent at once.
func (s *stream) hurry() {
	select {
	case s.soon <- struct{}{}:
	default:
	}
}
