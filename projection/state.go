package projection

import (
	"cmp"
	"unique"

	"github.com/revocast/revocast/events"
)

// applyState folds kind st. Only the goroutine of the session's own stream
// changes a state; another stream's may revoke the session meanwhile.
func (m *Map) applyState(r *events.Record, e *events.State) Effect {
	if e.SID.Stream() != r.Stream {
		return Skipped // a session has one home, and an entry elsewhere has nothing to overwrite
	}
	m.fold.RLock()
	defer m.fold.RUnlock()
	held := m.get(e.SID)
	next, effect := m.foldState(held, r, e)
	if next == nil {
		return effect
	}
	// New aliases can be found before the record lists them, old ones as long
	// as it does: the record alone says which count.
	for _, a := range next.Aliases {
		m.addAlias(a.Key, e.SID)
	}
	m.update(e.SID, r.Subject.User, func(now *record) *record {
		if now != nil && now.revoked() && !now.revokedAs(held) {
			next.until = max(next.until, now.until)
			next.found = next.found || now.found
			next.revoke(now.revocation())
			if next.from == now.from {
				next.gone = now.gone
			}
		}
		return next
	})
	if held != nil {
		m.dropAliases(held, next)
	}
	return effect
}

// revokedAs reports whether both, of which o may be nil, are revoked alike.
func (r *record) revokedAs(o *record) bool {
	return o != nil && r.revocation() == o.revocation() && r.until == o.until && r.found == o.found && r.gone == o.gone
}

func (r *record) revocation() revocation {
	return revocation{rank: r.rank, from: r.from, at: r.RevokedAt, by: r.RevokedBy, reason: r.RevokeReason}
}

// foldState returns what becomes of the held record, nil for no change.
func (m *Map) foldState(held *record, r *events.Record, e *events.State) (*record, Effect) {
	if e.Prev >= r.Seq {
		return nil, Overwrite // computed from what this log does not hold: a lost tail
	}
	had := held != nil && held.known
	if had {
		switch {
		case held.Sealed.SameMessage(r.Sealed):
			return m.foldCopy(held, r, e)
		case held.App != e.App || held.User != e.User:
			// One token was made a session of two users: two creates under
			// one Idempotency-Key that knew nothing of each other. The one
			// created first counts, whatever is still in the log of either.
			if earlier(e.CreatedSeq, r.Seq) >= held.CreatedSeq {
				return nil, Overwrite
			}
			had = false
		case e.Prev < held.StateSeq:
			return nil, Overwrite
		}
	}
	next := &record{Session: newSession(r, e), known: true}
	if held != nil {
		next.rank, next.from, next.found, next.gone = held.rank, held.from, held.found, held.gone
		next.RevokedAt, next.RevokedBy, next.RevokeReason = held.RevokedAt, held.RevokedBy, held.RevokeReason
		next.until, next.longest = held.until, held.longest
	}
	if had {
		next.CreatedAt = min(next.CreatedAt, held.CreatedAt)
		next.AbsoluteAt = min(next.AbsoluteAt, held.AbsoluteAt)
		next.SeenAt = max(next.SeenAt, held.SeenAt)
		next.CreatedSeq = min(next.CreatedSeq, held.CreatedSeq)
		next.AuthSeq = earlier(next.AuthSeq, held.AuthSeq)
		next.Bound = next.Bound || held.Bound
	} else {
		next.SeenAt = max(next.SeenAt, m.takeTouch(e.SID))
	}
	next.ExpiresAt = min(next.ExpiresAt, next.AbsoluteAt)
	next.longest = max(next.longest, next.ExpiresAt)
	m.meetMarks(next, r.Subject.User)
	return next, Applied
}

// foldCopy folds a second copy of the message that made the held state. A
// retry is harmless. But where a node that reads only the copy, because the
// first was compacted away, would hold more than this one does, the copy is an
// overwrite: its own sequence would hide the session from an "all" between the
// two, and its own time would count as a later use.
func (m *Map) foldCopy(held *record, r *events.Record, e *events.State) (*record, Effect) {
	next := *held
	next.StateSeq = r.Seq
	alone := newSession(r, e)
	if alone.SeenAt > held.SeenAt || (alone.CreatedSeq > held.CreatedSeq && m.markedSince(held, r.Subject.User)) {
		return &next, Overwrite
	}
	return &next, Applied
}

// newSession returns the session that the entry alone describes.
func newSession(r *events.Record, e *events.State) Session {
	s := Session{
		SID: e.SID, App: unique.Make(e.App).Value(), User: e.User,
		CreatedAt: e.CreatedAt, ExpiresAt: e.ExpiresAt, AbsoluteAt: e.AbsoluteAt, Idle: e.Idle,
		SeenAt:     min(cmp.Or(e.SeenAt, e.CreatedAt), r.Time.UnixMilli()),
		CreatedSeq: earlier(e.CreatedSeq, r.Seq), StateSeq: r.Seq, AuthSeq: e.AuthSeq,
		OriginalUntil: e.OriginalUntil, By: e.By, Bound: e.Bound, Sealed: r.Sealed,
	}
	copy(s.Aliases[:], e.Aliases[max(0, len(e.Aliases)-events.MaxAliases):])
	return s
}

// earlier returns the smaller of two sequences, of which 0 means none.
func earlier(a, b uint64) uint64 {
	if a == 0 || (b != 0 && b < a) {
		return b
	}
	return a
}

// birth returns the sequence at which the session counts as created. A log-in
// that began when the stream stood at AuthSeq knew of an "all" at AuthSeq, and
// not of one at AuthSeq + 1; so it counts as AuthSeq itself.
func (s *Session) birth() uint64 { return earlier(s.CreatedSeq, s.AuthSeq) }

func (m *Map) addAlias(key, sid events.SID) {
	if !key.IsZero() {
		m.held().addAlias(key, sid)
	}
}

// dropAliases forgets the aliases of was that is, which may be nil, lacks.
func (m *Map) dropAliases(was, is *record) {
	for _, a := range was.Aliases {
		if !a.Key.IsZero() && (is == nil || !is.hasAlias(a.Key)) {
			m.held().dropAlias(a.Key, was.SID)
		}
	}
}

func (r *record) hasAlias(key events.SID) bool {
	for i := range r.Aliases {
		if r.Aliases[i].Key == key {
			return true
		}
	}
	return false
}

// applyTouch folds kind tch. A copy appended later proves no use after at +
// Skew. A touch that says less than is held already is an overwrite: it took
// the place of a later one, which a rebuild would miss.
//
// A touch can stand before its session: the state it was made for was replaced
// by one computed before the touch was known. It waits for that state.
func (m *Map) applyTouch(r *events.Record, e *events.Touch) Effect {
	if e.SID.Stream() != r.Stream {
		return Skipped
	}
	m.fold.RLock()
	defer m.fold.RUnlock()
	seen := min(r.Time.UnixMilli(), e.At+skew)
	held := m.get(e.SID)
	switch {
	case held == nil || !held.known:
		m.keepTouch(e.SID, seen)
		return Applied
	case held.App != e.App || held.User != e.User:
		return Applied
	case seen < held.SeenAt && r.Time.UnixMilli() < held.SeenAt:
		return Applied // the log's clock is behind; a repair would say no more
	case seen < held.SeenAt:
		return Overwrite
	}
	m.held().touch(e.SID, seen)
	return Applied
}

func (m *Map) keepTouch(sid events.SID, seen int64) {
	s := m.slice(sid)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.touched == nil {
		s.touched = make(map[events.SID]int64)
	}
	s.touched[sid] = max(s.touched[sid], seen)
}

func (m *Map) takeTouch(sid events.SID) int64 {
	s := m.slice(sid)
	s.mu.Lock()
	defer s.mu.Unlock()
	seen := s.touched[sid]
	delete(s.touched, sid)
	return seen
}
