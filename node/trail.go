package node

import "sync/atomic"

// trailLength is how many of the newest events a stream remembers: more than a
// log commits while a request that waits for one of them is woken. It costs 16
// bytes each.
const trailLength = 1 << 14

// trail remembers the fingerprints of the events that were applied last, by
// their sequences. A sequence alone says nothing of an event once the log went
// backwards: it is given away again.
//
// The applier notes and resets, any number may ask. A step is readable only
// while its sequence is set, which is set last and cleared first.
type trail struct {
	newest uint64 // owned by the applier
	steps  [trailLength]step
}

type step struct{ seq, event atomic.Uint64 }

// note remembers what was applied, 0 for what is not authentic. An entry that
// was delivered twice is remembered once.
func (t *trail) note(seq, event uint64) {
	if seq <= t.newest {
		return
	}
	t.newest = seq
	s := &t.steps[seq%trailLength]
	s.seq.Store(0)
	s.event.Store(event)
	s.seq.Store(seq)
}

// at returns the fingerprint of what was applied at the sequence, and false when
// nothing was, or so much since that it is forgotten.
func (t *trail) at(seq uint64) (event uint64, ok bool) {
	s := &t.steps[seq%trailLength]
	if seq == 0 || s.seq.Load() != seq {
		return 0, false
	}
	event = s.event.Load()
	return event, s.seq.Load() == seq
}

// holds reports whether it is known that the event was applied at the sequence.
func (t *trail) holds(seq, event uint64) bool {
	applied, ok := t.at(seq)
	return ok && applied == event
}

// after returns the first sequence above seq, up to last, at which the event is
// known to have been applied; 0: none.
func (t *trail) after(seq, event, last uint64) uint64 {
	for at := max(seq, last-min(last, trailLength)) + 1; at <= last; at++ {
		if t.holds(at, event) {
			return at
		}
	}
	return 0
}

// reset forgets all, because the stream is read again from its beginning.
func (t *trail) reset() {
	t.newest = 0
	for i := range t.steps {
		t.steps[i].seq.Store(0)
	}
}
