package projection

import (
	"iter"
	"sync/atomic"
	"time"

	"github.com/revocast/revocast/events"
)

// Settings is the fold of CONFIG: apps, signing keys, API keys, settings and
// the numbers of regions. One goroutine calls Apply and Rewind; any number may
// call the rest. Readers take no lock. The zero value is ready.
//
// As in [Map] an entry that is not authentic, or computed from an older one,
// grants nothing and is an Overwrite. And what was taken away stays taken away,
// whatever comes later: a revoked API key, a compromised signing key, a deleted
// app.
type Settings struct {
	now atomic.Pointer[Snapshot]
}

// object is what is held of one subject of CONFIG. It is immutable.
type object struct {
	event  events.Event // nil when only overwrites were seen
	sealed events.Sealed
	seq    uint64 // newest entry believed; 0 when it is of an earlier generation
	last   uint64 // newest entry, believed or not
	// lost: the log, as read in this generation, does not say this.
	lost bool
}

// Snapshot returns what is known now. It never changes.
func (s *Settings) Snapshot() *Snapshot {
	if snap := s.now.Load(); snap != nil {
		return snap
	}
	return new(Snapshot)
}

// Apply folds a record of CONFIG. Records come in ascending sequence; a
// sequence at or below the applied one is dropped.
func (s *Settings) Apply(r events.Record) Effect {
	old := s.Snapshot()
	if r.Seq <= old.Seq {
		return Applied
	}
	next := *old
	next.Seq = r.Seq
	if r.Time.After(next.LogTime) {
		next.LogTime = r.Time
	}
	effect := next.apply(&r)
	s.now.Store(&next)
	return effect
}

// Position returns generation and sequence up to which CONFIG is applied.
func (s *Settings) Position() (gen uint32, seq uint64) {
	snap := s.Snapshot()
	return snap.Gen, snap.Seq
}

// LogTime returns the newest time of the applied records.
func (s *Settings) LogTime() time.Time { return s.Snapshot().LogTime }

// Begin sets the generation in which CONFIG is read. It is called before the
// first record.
func (s *Settings) Begin(gen uint32) {
	next := *s.Snapshot()
	next.Gen = gen
	s.now.Store(&next)
}

// Adopt names the present generation gen, if that is higher: another node
// counted further. The goroutine of Apply calls it.
func (s *Settings) Adopt(gen uint32) {
	next := *s.Snapshot()
	next.Gen = max(next.Gen, gen)
	s.now.Store(&next)
}

// Rewind begins a new generation because CONFIG went backwards. What is held
// stays in force until the log, read again, says otherwise.
func (s *Settings) Rewind() {
	s.restart(1)
}

// Reread begins CONFIG anew because it was read without a cluster key that came
// since. The generation stays.
func (s *Settings) Reread() { s.restart(0) }

func (s *Settings) restart(generations uint32) {
	next := *s.Snapshot()
	next.Gen += generations
	next.Seq = 0
	for subject, o := range next.objects.all() {
		kept := *o
		kept.seq, kept.last, kept.lost = 0, 0, o.event != nil
		next.objects = next.objects.with(subject, &kept)
	}
	s.now.Store(&next)
}

// apply makes the record part of n, which nobody sees yet.
func (n *Snapshot) apply(r *events.Record) Effect {
	switch r.Trust {
	case events.Authentic:
	case events.Forged:
		n.noteLast(r)
		return Overwrite
	default:
		return Skipped
	}
	switch r.Event.(type) {
	case *events.App, *events.SigningKey, *events.APIKey, *events.Setting, *events.Work, *events.Region:
	case *events.Node, *events.Beat, *events.Marker:
		return Applied
	default:
		return Skipped
	}
	held := n.objects.get(r.Subject)
	if held == nil {
		held = &object{}
	}
	next := *held
	next.last = r.Seq
	had := held.event != nil && held.seq != 0
	event := r.Event
	switch {
	case had && held.sealed.SameMessage(r.Sealed):
		next.seq = r.Seq
		n.objects = n.objects.with(r.Subject, &next)
		return Applied
	case prevOf(event) >= r.Seq, had && prevOf(event) < held.seq && !isRegion(event), !n.numberFree(event, held):
		n.objects = n.objects.with(r.Subject, &next)
		return Overwrite
	}
	if held.event != nil {
		event = absorb(held.event, event)
	}
	next.event, next.sealed, next.seq = event, r.Sealed, r.Seq
	next.lost = event != r.Event
	n.objects = n.objects.with(r.Subject, &next)
	n.index(held.event, &next)
	if next.lost {
		return Overwrite // it gives back what was taken away, and is alone in the log
	}
	return Applied
}

// noteLast remembers that an entry that is not believed is the newest on its
// subject, if it is one of CONFIG's: that is what the next change must expect.
func (n *Snapshot) noteLast(r *events.Record) {
	switch r.Subject.Kind {
	case events.KindApp, events.KindKey, events.KindAPIKey, events.KindSetting, events.KindWork, events.KindRegion:
	default:
		return
	}
	next := object{}
	if held := n.objects.get(r.Subject); held != nil {
		next = *held
	}
	next.last = r.Seq
	n.objects = n.objects.with(r.Subject, &next)
}

// prevOf returns the sequence that the event was computed from.
func prevOf(e events.Event) uint64 {
	switch e := e.(type) {
	case *events.App:
		return e.Prev
	case *events.SigningKey:
		return e.Prev
	case *events.APIKey:
		return e.Prev
	case *events.Setting:
		return e.Prev
	case *events.Work:
		return e.Prev
	}
	return 0
}

func isRegion(e events.Event) bool {
	_, ok := e.(*events.Region)
	return ok
}

// numberFree reports whether the event, if it is a region's, may have its
// number: a region keeps its number for ever, and no two have the same. Tokens
// name their stream by it.
func (n *Snapshot) numberFree(e events.Event, held *object) bool {
	r, ok := e.(*events.Region)
	if !ok {
		return true
	}
	if was, ok := held.event.(*events.Region); ok && was.Number != r.Number {
		return false
	}
	other := n.regions[r.Number]
	return r.Number != 0 && (other == nil || other.Region == r.Region)
}

// absorb returns the event with what held took away; the event itself when it
// takes that away as well.
func absorb(held, e events.Event) events.Event {
	switch e := e.(type) {
	case *events.App:
		if was, ok := held.(*events.App); ok && was.State == events.AppDeleted && e.State != events.AppDeleted {
			next := *e
			next.State = events.AppDeleted
			return &next
		}
	case *events.SigningKey:
		if was, ok := held.(*events.SigningKey); ok && was.Compromised && !e.Compromised {
			next := *e
			next.Compromised = true
			return &next
		}
	case *events.APIKey:
		if was, ok := held.(*events.APIKey); ok && was.RevokedAt != 0 && e.RevokedAt == 0 {
			next := *e
			next.RevokedAt = was.RevokedAt
			return &next
		}
	}
	return e
}

// withPrev returns a copy of the event that was computed from seq.
func withPrev(e events.Event, seq uint64) events.Event {
	switch e := e.(type) {
	case *events.App:
		next := *e
		next.Prev = seq
		return &next
	case *events.SigningKey:
		next := *e
		next.Prev = seq
		return &next
	case *events.APIKey:
		next := *e
		next.Prev = seq
		return &next
	case *events.Setting:
		next := *e
		next.Prev = seq
		return &next
	case *events.Work:
		next := *e
		next.Prev = seq
		return &next
	case *events.Region:
		next := *e
		return &next
	}
	return e
}

// Sealed returns the private part of what stands on the event's subject, empty
// when there is nothing.
func (n *Snapshot) Sealed(e events.Event) events.Sealed {
	if o := n.objects.get(e.Subject(events.ConfigRegion)); o != nil {
		return o.sealed
	}
	return nil
}

// Eldest returns the private part of what has stood in CONFIG unchanged for
// longest, empty when there is nothing.
func (n *Snapshot) Eldest() (sealed events.Sealed) {
	first := uint64(0)
	for _, o := range n.objects.all() {
		if o.event != nil && (first == 0 || o.seq < first) {
			first, sealed = o.seq, o.sealed
		}
	}
	return sealed
}

// Repair returns the event and its private part that are to be appended again
// where an Overwrite stands at sequence seq of the subject, and false when
// nothing is held for it. Life is judged by the log's time.
func (s *Settings) Repair(subject events.Subject, seq uint64) (Repair, bool) {
	snap := s.Snapshot()
	return snap.restate(snap.objects.get(subject), seq)
}

func (n *Snapshot) restate(o *object, prev uint64) (Repair, bool) {
	if o == nil || o.event == nil {
		return Repair{}, false
	}
	fix := Repair{Event: withPrev(o.event, prev), Sealed: o.sealed}
	if k, ok := o.event.(*events.SigningKey); ok && k.ForgetAt != 0 {
		now := n.LogTime.UnixMilli()
		if now >= k.ForgetAt {
			return Repair{}, false
		}
		fix.TTL = life(k.ForgetAt, now)
	}
	return fix, true
}

// Lost yields, once a rewound CONFIG was read again, what is in force and not
// in the log, as events to append again. They expect the last sequence that
// their Prev names.
func (s *Settings) Lost() iter.Seq[Repair] {
	return func(yield func(Repair) bool) {
		snap := s.Snapshot()
		for _, o := range snap.objects.all() {
			if !o.lost {
				continue
			}
			if fix, ok := snap.restate(o, o.last); ok && !yield(fix) {
				return
			}
		}
	}
}
