package node

import (
	"runtime"
	"sync"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/projection"
)

const (
	// queueMost is how many entries are applied at once. What is at hand in one
	// moment is seldom more, but when a log is read from its beginning.
	queueMost = 1024
	// decodeLeast is how many entries are worth more than one goroutine: to
	// open a seal takes a microsecond.
	decodeLeast = 8
	// appliersMost bounds the goroutines of one stream. The log delivers no
	// faster than a few of them apply.
	appliersMost = 8
)

// queue is what was delivered and is not applied yet: entries that were at hand
// together. Their seals are opened and sessions changed by several goroutines;
// all else is done in order, by the one that follows the stream.
type queue struct {
	entries []events.Entry
	records []events.Record
	effects []projection.Effect
}

func (q *queue) empty() {
	clear(q.entries) // else their bytes are kept
	clear(q.records)
	q.entries, q.records, q.effects = q.entries[:0], q.records[:0], q.effects[:0]
}

// take puts an entry aside until flush.
func (s *stream) take(e events.Entry) error {
	if s.doomed.Load() {
		return events.ErrRewound
	}
	s.queue.entries = append(s.queue.entries, e)
	if len(s.queue.entries) < queueMost {
		return nil
	}
	return s.flush()
}

// flush applies what was put aside.
//
// What is about nodes, or cannot be read, is a barrier: it is the last of what
// is folded together. So a heartbeat renews the lease, names a position and is
// compared by a digest when all before it is visible and nothing after it is
// (rule R12).
func (s *stream) flush() error {
	q := &s.queue
	if len(q.entries) == 0 {
		return nil
	}
	defer q.empty()
	s.decode()
	for from, i := 0, 0; i < len(q.records); i++ {
		if i+1 < len(q.records) && !isBarrier(&q.records[i]) {
			continue
		}
		if s.doomed.Load() {
			return events.ErrRewound
		}
		if err := s.apply(q.entries[from:i+1], q.records[from:i+1], q.effects[from:i+1]); err != nil {
			return err
		}
		from = i + 1
	}
	return nil
}

// isBarrier reports whether the record is anything but an authentic one about
// sessions.
func isBarrier(r *events.Record) bool {
	switch r.Event.(type) {
	case *events.State, *events.Touch, *events.Revoke, *events.RevokeAll, *events.Expire:
		return r.Trust != events.Authentic
	}
	return true
}

// decode makes records of the entries in the queue.
func (s *stream) decode() {
	q := &s.queue
	q.records = append(q.records, make([]events.Record, len(q.entries))...)
	q.effects = append(q.effects, make([]projection.Effect, len(q.entries))...)
	parts := 1
	if len(q.entries) >= decodeLeast {
		parts = appliers()
	}
	inParallel(parts, func(part int) {
		for i := part; i < len(q.entries); i += parts {
			q.records[i] = s.node.conf.Keys.Decode(s.number, q.entries[i])
		}
	})
}

// appliers is how many goroutines a stream uses for what is at hand. It is never
// one, so that what runs on one processor is what runs on many.
func appliers() int { return min(max(runtime.GOMAXPROCS(0), 2), appliersMost) }

// inParallel calls do with 0 to parts-1 and returns when all have returned.
func inParallel(parts int, do func(part int)) {
	var rest sync.WaitGroup
	for part := 1; part < parts; part++ {
		rest.Go(func() { do(part) })
	}
	do(0)
	rest.Wait()
}

// apply makes the entries visible to readers, and only then lets the last, if it
// is a heartbeat, renew the lease, and wakes who waits for them (rule R12).
func (s *stream) apply(entries []events.Entry, rs []events.Record, effects []projection.Effect) error {
	for i := range entries {
		if err := s.overlap.check(&entries[i]); err != nil {
			return err
		}
		s.tape.note(&entries[i], s.tape != nil && s.isMarker(&entries[i]))
		s.pass(entries[i].Seq)
	}
	last := rs[len(rs)-1].Seq
	s.begun.Store(last)
	s.fold.ApplyAll(rs, effects)
	for i := range entries {
		if err := s.folded(&entries[i], &rs[i], effects[i]); err != nil {
			return err
		}
	}
	if !s.gaps.open {
		s.advance(last)
	}
	for i := range entries {
		s.node.metrics.applied.WithLabelValues(s.region, rs[i].Trust.String()).Inc()
		if effects[i] == projection.Overwrite && !s.outlived(&entries[i], &rs[i]) {
			s.overwritten(entries[i], rs[i])
		}
	}
	return nil
}

// folded does, in order, what else follows from an entry that readers see.
func (s *stream) folded(e *events.Entry, r *events.Record, effect projection.Effect) error {
	s.publish(r, effect == projection.Overwrite)
	s.overlap.applied(r, effect)
	s.missing.heard(*r) // after the fold: see negative
	s.read(e, r)
	concerns := s.members.concerns(*r)
	if concerns {
		s.announced(*r, e.TTL)
	}
	if x, ok := r.Event.(*events.Expire); ok && s == s.node.home {
		s.node.expiries.heard(x)
	}
	beat, ok := r.Event.(*events.Beat)
	if ok {
		if err := s.returned(beat, e, r); err != nil {
			return err
		}
		if err := s.digested(beat, e); err != nil {
			return err
		}
	}
	if concerns {
		s.members.apply(*r, s.node.conf.Clock.Boot())
	}
	s.adopt(*r)
	if ok {
		s.compare(beat, e)
	}
	s.trail.note(e.Seq, r.Sealed.Fingerprint(), e.Fingerprint())
	return nil
}

// returned lets a heartbeat of this node's own prove what it proves: that all
// committed before it was sent is applied.
func (s *stream) returned(beat *events.Beat, e *events.Entry, r *events.Record) error {
	if beat.Incarnation != s.node.incarnation && (!s.node.faults.anyLife || beat.Node != s.node.conf.Name) {
		return nil
	}
	if err := s.gaps.returned(beat.N); err != nil {
		return err
	}
	if f, ok := s.fold.(sessionFold); ok && !s.gaps.open {
		if err := s.overlap.settle(f, e.Time); err != nil {
			return err
		}
	}
	if len(beat.Keys) > 0 {
		s.shown.Store(&beat.Keys[0])
	}
	own, foreign := s.sent.own(beat.N, r.Sealed.Fingerprint())
	if s.node.faults.anyLife {
		own, foreign = true, false
	}
	if foreign {
		s.node.cloned(s, beat.N)
	}
	if own && s.readable(r.Sealed.Key()) && !s.blinded() {
		s.renew(beat.N, e.Seq, e.Time)
	}
	return nil
}
