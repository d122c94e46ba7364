package projection

import (
	"cmp"
	"hash/maphash"
	"sync"
	"sync/atomic"
	"time"

	"github.com/revocast/revocast/events"
)

// DefaultLease is the lease of a node on a stream, when Map.Lease is zero.
const DefaultLease = 15 * time.Second

// Skew is how far a writer's wall clock may be from a stream's: the last use a
// touch proves, and the log time a verdict is judged at, are bounded by it.
const Skew = 30 * time.Second

const (
	skew  = int64(Skew / time.Millisecond)
	slack = int64(events.TTLSlack / time.Millisecond)
	// year is how long a revocation must last when no expiry is known.
	year = int64(events.UnknownLifetime / time.Millisecond)
)

// Map is a [Projection]. The zero value is ready. It must not be copied.
//
// It folds records into a [store] of sessions and tombstones, which has a form
// that ten million of them fit in. What there is little of, it holds itself, in
// maps. A reader sees a session as it was before a record or after it, and waits
// for nobody. The texts and the private part of what it gets are those in the
// store; who keeps them for long copies them, or all of their page is kept.
type Map struct {
	// Lease is how long a node may serve without news of a stream. A session
	// is judged idle only this much later, because the touch that proves its
	// use may be on its way. Zero: DefaultLease. It is set before first use.
	Lease time.Duration

	// fold orders changes that touch several tables. Apply shares it, except
	// for "all"; that, Sweep and Rewind hold it alone. Readers never take it.
	// A session is in users if and only if it has a state, and an "all" meets
	// either the session or a session that has met the "all": this lock makes
	// both true.
	fold sync.RWMutex

	packed packed
	model  store // in the place of packed, for tests; else nil

	streams [256]stream
	slices  [256]slice
	// marks are what each "all" said. away finds those that name a home: by
	// the home's own group, the streams they stand in. Both are guarded by fold.
	marks [256]map[groupKey]*mark
	away  map[groupKey][]uint8

	sessions, tombstones atomic.Int64
	// pending is how many sessions of each stream are revoked by what stands
	// elsewhere only. They are listed in the slices.
	pending [256]atomic.Int64
}

var _ Projection = (*Map)(nil)

// stream is how far a stream is applied.
type stream struct {
	logTime atomic.Int64 // unix ms, never falls
	// begun is the highest sequence of which anything can have been done: at
	// least seq. The stream's goroutine writes it.
	begun atomic.Uint64

	mu     sync.Mutex // guards the following; only the stream's goroutine writes them
	gen    uint32
	seq    uint64
	region string // the place in subjects, learnt from authentic records
	// reread is the sequence up to which a rewound stream had been read again
	// when Lost was called; 0 before that.
	reread uint64
}

// slice holds a 256th of the touches whose session is not known yet, and names
// what is pending. Slices are those of the store.
type slice struct {
	mu      sync.Mutex           // guards the maps
	touched map[events.SID]int64 // last use, unix ms
	pending map[events.SID]struct{}
}

func (m *Map) slice(sid events.SID) *slice { return &m.slices[keyOf(sid).place().shard] }

// record is what is held of a sid: a session, a tombstone, or both.
type record struct {
	Session
	known bool  // there is a state; else a tombstone
	rank  rank  // what revoked it
	from  uint8 // and in which stream that stands
	// found: the session's own stream, as read in this generation, says that
	// it is revoked. False also for what was only heard in another stream.
	found bool
	// gone: the stream that the revocation stood in went backwards, and has
	// not said so again. Only of what is pending.
	gone bool
	// longest is the latest expiry that any of its states had. Until then a
	// copy of that state could be believed, were the session forgotten.
	longest int64
	// until is how long the tombstone must last, unix ms.
	until int64
}

func (r *record) revoked() bool { return r.rank != 0 }

// pending reports whether the session was revoked away from home, and its home
// does not say so yet.
func (r *record) pending() bool { return r.rank == rankAwaySession && !r.found }

// rank orders what revokes: of two revocations the higher names the reason, of
// equal ones that of the higher stream, within a stream the newer. That makes
// the reason shown independent of compaction and of the order between streams.
type rank uint8

const (
	rankForgedApp rank = iota + 1
	rankForgedUser
	rankForgedSession
	rankAwayApp // recorded in another stream than the session's
	rankAwayUser
	rankAwaySession
	rankApp
	rankUser
	rankSession
)

// reasonOverwritten is the reason shown when an entry that is not authentic
// stands where a revocation stands.
const reasonOverwritten = "overwritten"

// revocation is why and by whom.
type revocation struct {
	rank       rank
	from       uint8 // stream it stands in
	at         int64
	by, reason string
}

// revoke sets why the record is revoked; r is not visible to readers yet.
func (r *record) revoke(v revocation) {
	if v.rank > r.rank || v.rank == r.rank && v.from >= r.from {
		r.rank, r.from, r.RevokedAt, r.RevokedBy, r.RevokeReason = v.rank, v.from, v.at, v.by, v.reason
	}
	r.until = max(r.until, r.AbsoluteAt)
}

// groupKey names the sessions of a user, or with an empty hash of an app, in a
// stream. It is by hash because an entry that is not authentic has no user id.
// As the key of a mark it is a subject: the stream that the mark stands in and,
// if that names one, the home that it is about.
type groupKey struct {
	stream, home uint8
	app, hash    string
}

// about returns the stream whose sessions a mark on the subject revokes.
func (k groupKey) about() uint8 { return cmp.Or(k.home, k.stream) }

var seed = maphash.MakeSeed()

func (k groupKey) index() uint8 { return uint8(maphash.Comparable(seed, k)) }

// userKey names the sessions of a user in all streams.
type userKey struct{ app, hash string }

// Apply implements [Projection].
func (m *Map) Apply(r events.Record) Effect {
	st := &m.streams[r.Stream]
	if _, seq := st.position(); r.Seq <= seq {
		return Applied
	}
	m.tidyIfDue(tidyWords)
	st.begun.Store(max(st.begun.Load(), r.Seq))
	effect := m.apply(&r)
	st.advance(&r)
	return effect
}

// tidyIfDue gives memory back where about so many words are written between two
// calls, tidyWords at least, and much is dead.
func (m *Map) tidyIfDue(words int) {
	if m.packed.arena.due.Load() {
		m.tidy(0, 3*max(words, tidyWords)) // as much as gains what was allocated, or more
	}
}

func (m *Map) apply(r *events.Record) Effect {
	switch r.Trust {
	case events.Authentic:
	case events.Forged:
		m.applyForged(r)
		return Overwrite
	default:
		return Skipped
	}
	switch e := r.Event.(type) {
	case *events.State:
		return m.applyState(r, e)
	case *events.Touch:
		return m.applyTouch(r, e)
	case *events.Revoke:
		return m.applyRevoke(r, e)
	case *events.RevokeAll:
		return m.applyAll(r, e)
	case *events.Node, *events.Beat, *events.Marker, *events.Expire:
		return Applied // an Expire says what the times of its session say
	}
	return Skipped
}

func (s *stream) position() (uint32, uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.gen, s.seq
}

// advance makes r part of what is applied. It comes last: whoever sees the
// position sees what r did.
func (s *stream) advance(r *events.Record) {
	s.logTime.Store(max(s.logTime.Load(), r.Time.UnixMilli()))
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seq = r.Seq
	if s.region == "" && r.Trust == events.Authentic {
		s.region = r.Subject.Region
	}
}

// Position implements [Projection].
func (m *Map) Position(stream uint8) (gen uint32, seq uint64) { return m.streams[stream].position() }

// LogTime implements [Projection].
func (m *Map) LogTime(stream uint8) time.Time {
	ms := m.streams[stream].logTime.Load()
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms)
}

// Len implements [Projection].
func (m *Map) Len() (sessions, tombstones int) {
	return int(m.sessions.Load()), int(m.tombstones.Load())
}
