package node

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/revocast/revocast/events"
)

// A server that a node is not connected to may restart and lose the end of the
// log, within a moment and without any subscription breaking. A node that had
// applied the lost end goes on behind what took its place, and never reads that.
//
// So heartbeats say what their senders applied since the one before: how many
// events, and a sum of them. Who applied something else between the same
// sequences follows another log, or was late and missed what was replaced. That
// does not say who is right: the log does. Who differs reads that part of it
// once more, beside following it, and only who had applied another event than
// stands there reads the stream again from its beginning.

// doubts are what is to be read once more. The zero value with wake is ready.
type doubts struct {
	mu       sync.Mutex    // guards from and to
	from, to uint64        // above from and up to to; 0, 0: nothing
	wake     chan struct{} // 1 deep
}

// add has a stretch read; what is not read yet grows to cover it.
func (d *doubts) add(from, to uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.to == 0 {
		d.from = from
	}
	d.from, d.to = min(d.from, from), max(d.to, to)
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

func (d *doubts) take() (from, to uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	from, to = d.from, d.to
	d.from, d.to = 0, 0
	return from, to
}

// tellTrail puts into the heartbeat what was applied since the one that was
// stored last, and returns up to where that is.
func (s *stream) tellTrail(e *events.Beat) uint64 {
	from, to := s.told.Load(), s.applied.Load()
	if what, ok := s.trail.between(from, to); ok && what.count > 0 {
		e.Trails = map[string]string{s.region: fmt.Sprintf("%d-%d-%d-%016x", from, to, what.count, what.sum)}
	}
	return to
}

// compare compares what the sender of a heartbeat applied with what this node
// did. The follow goroutine calls it, before it notes the heartbeat itself.
func (s *stream) compare(beat *events.Beat, e *events.Entry) {
	text, ok := beat.Trails[s.region]
	if !ok || beat.Incarnation == s.node.incarnation {
		return
	}
	var from, to uint64
	var theirs stretch
	if _, err := fmt.Sscanf(text, "%d-%d-%d-%x", &from, &to, &theirs.count, &theirs.sum); err != nil {
		return
	}
	p, err := events.ParsePosition(beat.Positions[s.region])
	switch {
	case err != nil || p.Gen < s.rebuilt.Load() || from >= to:
		return // it has not noticed yet what this node has
	case to >= e.Seq:
		s.breakProof() // it applied what the log has lost since
		return
	case from < s.trail.first || from+trailLength <= s.trail.newest:
		return // too long ago
	}
	mine, known := s.trail.between(from, to)
	if known && mine == theirs {
		return
	}
	if known && mine.count == theirs.count {
		s.breakProof() // none was late: they follow two logs
	}
	s.doubts.add(from, to)
}

// breakProof has the time for which the subscription was unbroken begin anew
// (rule R13): what made somebody a member may be in another log.
func (s *stream) breakProof() {
	s.resumedAt.Store(int64(s.node.conf.Clock.Boot()))
	select {
	case s.broke <- struct{}{}:
	default:
	}
}

// settleDoubts reads, until ctx ends, what is in doubt, at most once a heartbeat.
func (s *stream) settleDoubts(ctx context.Context) error {
	for {
		select {
		case <-s.doubts.wake:
		case <-ctx.Done():
			return nil
		}
		from, to := s.doubts.take()
		gen, _ := s.fold.Position()
		switch differs, err := s.differs(ctx, from, to); {
		case differs:
			s.rewound(gen)
		case err != nil && ctx.Err() == nil:
			s.doubts.add(from, to)
		}
		wait(ctx, s.node.conf.Beat)
	}
}

// differs reports whether the log holds, above from and up to to, another event
// than was applied.
func (s *stream) differs(ctx context.Context, from, to uint64) (differs bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, s.node.conf.Lease)
	defer cancel()
	whole := false
	err = s.log.Follow(ctx, events.Follow{
		From:     from + 1,
		CaughtUp: func() { whole = true; cancel() },
		Apply: func(e events.Entry) error {
			if e.Seq > to {
				whole = true
				return errEnough
			}
			applied, known := s.trail.at(e.Seq)
			// As it is written: the key that it is sealed with may be gone meanwhile.
			if known && applied != 0 && applied != e.Fingerprint() {
				differs = true
				return errEnough
			}
			return nil
		},
	})
	if err == nil && !whole {
		err = ctx.Err()
	}
	if errors.Is(err, errEnough) {
		err = nil
	}
	return differs, err
}
