package projection

import (
	"bytes"
	"cmp"
	"iter"
	"slices"
	"time"

	"github.com/revocast/revocast/events"
)

// judged returns the time at which sessions of the stream are judged: the later
// of the wall clock and the log's time, so that a wall clock set back revives
// nothing; but not more than Skew after the wall clock, so that a leader whose
// clock jumped ahead expires nobody.
func (m *Map) judged(stream uint8, now int64) int64 {
	return max(now, min(m.streams[stream].logTime.Load(), now+skew))
}

func (m *Map) lease() time.Duration { return cmp.Or(m.Lease, DefaultLease) }

func (m *Map) verdict(s *Session, st *standing, now int64) Verdict {
	t := m.judged(s.SID.Stream(), now)
	switch {
	case st.rank != 0 && (st.known || t < st.until):
		return Revoked
	case !st.known:
		return Unknown
	case t >= s.ExpiresAt:
		return Expired
	case t >= s.IdleEnd(m.lease()):
		return IdleExpired
	}
	return Active
}

// IdleEnd returns when (unix ms) the session has been idle too long: its idle
// timeout after its last use, and later by the tenth within which a use is
// written and by the lease within which what was written is heard.
func (s *Session) IdleEnd(lease time.Duration) int64 {
	const longest = year / 1000 // seconds; no session lives longer, so a longer timeout ends none
	if s.Idle <= 0 || s.Idle > longest {
		return 1<<63 - 1
	}
	ms := s.Idle * 1000
	return s.SeenAt + ms + ms/10 + lease.Milliseconds()
}

// Lookup implements [Projection].
func (m *Map) Lookup(sid events.SID, now int64) (s Session, v Verdict) {
	var st standing
	if m.load(sid, &s, &st) {
		if v = m.verdict(&s, &st, now); v == Unknown {
			s = Session{}
		}
	}
	return s, v
}

// LookupToken implements [Projection].
func (m *Map) LookupToken(key events.SID, now int64) (s Session, v Verdict, rotated bool) {
	var st standing
	until, ok := m.accepts(key, &s, &st)
	if ok && (until == 0 || m.judged(s.SID.Stream(), now) < until) {
		v = m.verdict(&s, &st, now)
	}
	if v == Unknown && ok {
		s, until = Session{}, 0
	}
	return s, v, until != 0
}

// Replaced implements [Projection].
func (m *Map) Replaced(key events.SID, now int64) (s Session, v Verdict) {
	var st standing
	until, ok := m.accepts(key, &s, &st)
	if !ok || until == 0 || m.judged(s.SID.Stream(), now) < until {
		return Session{}, Unknown
	}
	if v = m.verdict(&s, &st, now); v == Unknown {
		s = Session{}
	}
	return s, v
}

// accepts fills in the session that the token's key belongs to and the rest of its
// record, both zero, and returns until when the token is accepted, 0 for good. The
// record alone says which aliases it has: the table only finds it.
func (m *Map) accepts(key events.SID, s *Session, st *standing) (until int64, ok bool) {
	if m.load(key, s, st) {
		return s.OriginalUntil, true
	}
	sid, ok := m.alias(key)
	if !ok || !m.load(sid, s, st) {
		return 0, false
	}
	for i := range s.Aliases {
		if s.Aliases[i].Key == key {
			return s.Aliases[i].Until, true
		}
	}
	*s = Session{}
	return 0, false
}

// User implements [Projection].
func (m *Map) User(app, user string, now int64) iter.Seq2[Session, Verdict] {
	return func(yield func(Session, Verdict) bool) {
		k := userKey{app, events.UserHash(app, user)}
		var found []*record
		for _, sid := range m.held().of(k) {
			if r := m.get(sid); r != nil && r.known {
				found = append(found, r)
			}
		}
		slices.SortFunc(found, func(a, b *record) int {
			return cmp.Or(cmp.Compare(a.CreatedAt, b.CreatedAt), cmp.Compare(a.CreatedSeq, b.CreatedSeq), bytes.Compare(a.SID[:], b.SID[:]))
		})
		for _, r := range found {
			st := r.standing()
			if !yield(r.Session, m.verdict(&r.Session, &st, now)) {
				return
			}
		}
	}
}

// App implements [Projection].
func (m *Map) App(app string, now int64) iter.Seq2[Session, Verdict] {
	return func(yield func(Session, Verdict) bool) {
		for i := range m.slices {
			for r := range m.held().list(i) {
				st := r.standing()
				if r.known && r.App == app && !yield(r.Session, m.verdict(&r.Session, &st, now)) {
					return
				}
			}
		}
	}
}
