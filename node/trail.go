package node

import (
	"crypto/sha256"
	"encoding/binary"
	"sync/atomic"
)

// trailLength is how many of the newest events a stream remembers: more than a
// log commits while a request that waits for one of them is woken. It costs 32
// bytes each.
const trailLength = 1 << 14

// trail remembers the fingerprints of the events that were applied last, by
// their sequences. A sequence alone says nothing of an event once the log went
// backwards: it is given away again.
//
// The applier notes and resets, any number may ask. A step is readable only
// while its sequence is set, which is set last and cleared first.
type trail struct {
	newest uint64 // owned by the applier, as are first and total
	first  uint64
	total  stretch
	steps  [trailLength]step
}

// step is an event. Beside it stands the sum of all up to it.
type step struct{ seq, event, count, sum atomic.Uint64 }

// stretch is what was applied from one sequence to another: how many events, and
// a sum of them.
type stretch struct{ count, sum uint64 }

// note remembers what was applied, 0 for what is not authentic; raw is the same
// of what anybody may have written, so that all nodes sum up the same. An entry that
// was delivered twice is remembered once.
func (t *trail) note(seq, event, raw uint64) {
	if seq <= t.newest {
		return
	}
	if t.newest == 0 {
		t.first = seq
	}
	t.newest = seq
	t.total.count++
	t.total.sum += stepSum(seq, raw)
	s := &t.steps[seq%trailLength]
	s.seq.Store(0)
	s.event.Store(event)
	s.count.Store(t.total.count)
	s.sum.Store(t.total.sum)
	s.seq.Store(seq)
}

// stepSum is what an event adds to the sum of a stretch.
func stepSum(seq, event uint64) uint64 {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:], seq)
	binary.BigEndian.PutUint64(b[8:], event)
	sum := sha256.Sum256(b[:])
	return binary.BigEndian.Uint64(sum[:])
}

// upTo returns what was applied up to the sequence, and false when nothing was
// applied at it, or so much since that it is forgotten.
func (t *trail) upTo(seq uint64) (to stretch, ok bool) {
	s := &t.steps[seq%trailLength]
	if seq == 0 || s.seq.Load() != seq {
		return to, false
	}
	to = stretch{s.count.Load(), s.sum.Load()}
	return to, s.seq.Load() == seq
}

// between returns what was applied above from and up to to, and false when that
// is not known.
func (t *trail) between(from, to uint64) (stretch, bool) {
	a, known := t.upTo(from)
	b, ok := t.upTo(to)
	return stretch{b.count - a.count, b.sum - a.sum}, known && ok && from <= to
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
	t.newest, t.total = 0, stretch{}
	for i := range t.steps {
		t.steps[i].seq.Store(0)
	}
}
