package projection

import (
	"cmp"
	"iter"
	"slices"
	"time"

	"github.com/revocast/revocast/events"
)

// life returns how long a message stays in the log when what it says matters
// until then: at least a second, because 0 would keep it for good.
func life(until, now int64) time.Duration {
	return max(time.Duration(until-now)*time.Millisecond+events.TTLSlack, time.Second)
}

// Repair implements [Projection].
func (m *Map) Repair(subject events.Subject, seq uint64, now int64) (Repair, bool) {
	if subject.Kind == events.KindAll {
		return m.repairAll(subject, seq, now)
	}
	sid, err := events.ParseSID(subject.ID)
	if err != nil {
		return Repair{}, false
	}
	r := m.get(sid)
	if r == nil || r.App != subject.App || events.UserHash(r.App, r.User) != subject.User {
		return Repair{}, false
	}
	switch subject.Kind {
	case events.KindState:
		return r.repairState(seq, now)
	case events.KindTouch:
		return r.repairTouch(now)
	case events.KindRevoke:
		fix, ok := r.repairRevoke(now)
		if stream, known := m.number(subject.Region); known && stream != sid.Stream() && ok {
			fix.Event.(*events.Revoke).Home = sid.Stream()
		}
		return fix, ok
	}
	return Repair{}, false
}

// repairState rebuilds the state. Past the expiry that any of its states had
// nothing of the session can be believed any more; before that even an expired
// state is needed, to take the place of a longer one that was copied there.
func (r *record) repairState(seq uint64, now int64) (Repair, bool) {
	if !r.known || now >= r.longest {
		return Repair{}, false
	}
	e := &events.State{
		App: r.App, User: r.User, SID: r.SID, Reason: events.ReasonRepaired,
		CreatedAt: r.CreatedAt, ExpiresAt: r.ExpiresAt, AbsoluteAt: r.AbsoluteAt, Idle: r.Idle, SeenAt: r.SeenAt,
		Prev: seq, CreatedSeq: r.CreatedSeq, AuthSeq: r.AuthSeq, OriginalUntil: r.OriginalUntil, By: r.By, Bound: r.Bound,
	}
	for _, a := range r.Aliases {
		if !a.Key.IsZero() {
			e.Aliases = append(e.Aliases, a)
		}
	}
	return Repair{Event: e, Sealed: r.Sealed, TTL: life(r.ExpiresAt, now)}, true
}

// repairTouch dates the touch back by what a fold adds to it. Otherwise every
// forged touch would buy the session Skew through its own repair.
func (r *record) repairTouch(now int64) (Repair, bool) {
	if !r.known || now >= r.ExpiresAt {
		return Repair{}, false
	}
	e := &events.Touch{App: r.App, User: r.User, SID: r.SID, At: r.SeenAt - skew}
	return Repair{Event: e, TTL: life(r.ExpiresAt, now)}, true
}

func (r *record) repairRevoke(now int64) (Repair, bool) {
	if !r.revoked() || now >= r.until {
		return Repair{}, false
	}
	e := &events.Revoke{
		App: r.App, User: r.User, SID: r.SID,
		Reason: r.RevokeReason, By: r.RevokedBy, At: r.RevokedAt, AbsoluteAt: r.until,
	}
	return Repair{Event: e, TTL: life(r.until, now)}, true
}

func (m *Map) repairAll(subject events.Subject, seq uint64, now int64) (Repair, bool) {
	stream, known := m.number(subject.Region)
	home, ok := subject.Home()
	if !known || !ok {
		return Repair{}, false
	}
	m.fold.RLock()
	defer m.fold.RUnlock()
	key := groupKey{stream, home, subject.App, subject.User}
	k := m.marks[key.index()][key]
	if k == nil {
		return Repair{}, false
	}
	fix, ok := m.restate(key, k, now)
	if ok {
		e := fix.Event.(*events.RevokeAll)
		e.Prev = seq
		if home == 0 {
			e.Before = k.seq
		}
	}
	return fix, ok
}

// restate returns the mark as an event without a place in the log. The user of
// a mark known only from forged entries is taken from one of the sessions.
func (m *Map) restate(key groupKey, k *mark, now int64) (Repair, bool) {
	user := k.user
	if k.forged && key.hash != "" {
		u := userKey{key.app, key.hash}
		for _, sid := range m.held().of(u) {
			if r := m.get(sid); r != nil && r.known {
				user = r.User
				break
			}
		}
	}
	if events.UserHash(key.app, user) != key.hash || now >= k.time+year {
		return Repair{}, false
	}
	e := &events.RevokeAll{
		App: key.app, User: user, Except: slices.Clone(k.except),
		Reason: k.reason, By: k.by, At: k.at, Home: key.home,
	}
	if key.home != 0 {
		e.At = asked(k.seq)
	}
	return Repair{Event: e, TTL: life(k.time+year, now)}, true
}

// number returns the stream whose subjects have the region.
func (m *Map) number(region string) (uint8, bool) {
	for i := range m.streams {
		s := &m.streams[i]
		s.mu.Lock()
		r := s.region
		s.mu.Unlock()
		if r == region && r != "" {
			return uint8(i), true
		}
	}
	return 0, false
}

// Rewind implements [Projection]. Sequences begin anew, so what is kept goes by
// itself: a tombstone by its sid, a watermark by the sequence it had, beside
// whatever the new generation says.
func (m *Map) Rewind(stream uint8) {
	m.fold.Lock()
	defer m.fold.Unlock()
	m.restart(stream, 1)
}

// Reread implements [Projection]. The newest entry of a subject is all that the
// log holds of it: once it can be opened it says what is true, and what was taken
// away because it could not must not last.
func (m *Map) Reread(stream uint8) {
	m.fold.Lock()
	defer m.fold.Unlock()
	for i := range m.slices {
		guessed := func(r *record) bool {
			return r.SID.Stream() == stream && r.from == stream && r.revoked() && r.rank <= rankForgedSession
		}
		for _, r := range m.all(i, guessed) {
			m.update(r.SID, "", func(now *record) *record {
				if !now.known {
					return nil
				}
				next := *now
				next.rank, next.from, next.found, next.until = 0, 0, false, 0
				next.RevokedAt, next.RevokedBy, next.RevokeReason = 0, "", ""
				return &next
			})
		}
	}
	for i := range m.marks {
		for key, k := range m.marks[i] {
			switch {
			case key.stream != stream || !k.guessed:
			case len(k.kept) == 0:
				m.forgetMark(key)
			default:
				m.marks[i][key] = &mark{user: k.user, time: k.time, home: key.home, kept: k.kept}
			}
		}
	}
	m.restart(stream, 0)
}

// restart has the stream begin again, so many generations later. The caller
// holds fold alone.
func (m *Map) restart(stream uint8, generations uint32) {
	st := &m.streams[stream]
	st.begun.Store(0)
	st.mu.Lock()
	st.gen += generations
	st.seq, st.reread = 0, 0
	st.mu.Unlock()
	for i := range m.slices {
		s := &m.slices[i]
		for _, r := range m.listed(i, func(r *record) bool { return r.from == stream }) {
			m.update(r.SID, "", func(now *record) *record {
				next := *now
				next.gone = true
				return &next
			})
		}
		for _, r := range m.all(i, func(r *record) bool { return r.SID.Stream() == stream }) {
			m.forgetState(r)
			if r.revoked() {
				m.update(r.SID, "", func(now *record) *record {
					next := *now
					next.found = false
					return &next
				})
			}
		}
		s.mu.Lock()
		for sid := range s.touched {
			if sid.Stream() == stream {
				delete(s.touched, sid)
			}
		}
		s.mu.Unlock()
	}
	for i := range m.marks {
		for key, k := range m.marks[i] {
			// One of which this generation has shown nothing has nothing to keep but
			// what it keeps already.
			if key.stream == stream && k.last != 0 {
				kept := append(k.kept, k)
				k.kept = nil
				m.marks[i][key] = &mark{user: k.user, time: k.time, home: key.home, kept: kept}
			}
		}
	}
}

// Adopt implements [Projection].
func (m *Map) Adopt(stream uint8, gen uint32) {
	st := &m.streams[stream]
	st.mu.Lock()
	defer st.mu.Unlock()
	st.gen = max(st.gen, gen)
}

// Stands implements [Projection].
func (m *Map) Stands(sid events.SID) bool {
	r := m.get(sid)
	return r != nil && r.revoked() && r.found
}

// forgetState forgets the session, and leaves the tombstone of a revoked one.
// The caller holds fold alone.
func (m *Map) forgetState(r *record) {
	if !r.known {
		return
	}
	m.update(r.SID, "", func(*record) *record {
		if !r.revoked() {
			return nil
		}
		return &record{
			Session: Session{
				SID: r.SID, App: r.App, User: r.User, AbsoluteAt: r.until,
				RevokedAt: r.RevokedAt, RevokedBy: r.RevokedBy, RevokeReason: r.RevokeReason,
			},
			rank: r.rank, from: r.from, found: r.found, gone: r.gone, until: r.until,
		}
	})
	m.dropAliases(r, nil)
}

func (s *stream) rereadTo() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.reread
}

// Lost implements [Projection]. It is called once the stream was read again;
// from then on any newer "all" stands for those that were kept.
func (m *Map) Lost(stream uint8, now int64) iter.Seq[Repair] {
	return func(yield func(Repair) bool) {
		for _, fix := range m.lost(stream, now) {
			if !yield(fix) {
				return
			}
		}
	}
}

func (m *Map) lost(stream uint8, now int64) (out []Repair) {
	m.fold.RLock()
	defer m.fold.RUnlock()
	st := &m.streams[stream]
	st.mu.Lock()
	rewound := st.gen > 0
	st.reread = st.seq
	st.mu.Unlock()
	if !rewound {
		return nil
	}
	for i := range m.slices {
		for _, r := range m.all(i, func(r *record) bool { return r.lost(stream) }) {
			if fix, ok := r.repairRevoke(now); ok {
				out = append(out, fix)
			}
		}
		for _, r := range m.listed(i, func(r *record) bool { return r.gone && r.from == stream }) {
			if fix, ok := r.repairRevoke(now); ok {
				fix.Event.(*events.Revoke).Home = r.SID.Stream()
				out = append(out, fix)
			}
		}
	}
	for i := range m.marks {
		for key, k := range m.marks[i] {
			if key.stream != stream {
				continue
			}
			if fix, ok := m.restateKept(key, k, now); ok {
				out = append(out, fix)
			}
		}
	}
	return out
}

// restateKept returns what the mark keeps of earlier generations as one event:
// once that is stored it stands for all of them, and for what this generation
// says on the subject, whose place it takes. It revokes what those revoked and no
// more: a session created since, or spared by what took the place of a kept one,
// must stay good. The caller holds fold.
func (m *Map) restateKept(key groupKey, k *mark, now int64) (Repair, bool) {
	if !slices.ContainsFunc(k.kept, func(old *mark) bool { return !m.includes(k, old) }) {
		return Repair{}, false
	}
	newest := slices.SortedStableFunc(slices.Values(k.kept), func(a, b *mark) int { return cmp.Compare(b.at, a.at) })
	for _, old := range newest {
		fix, ok := m.restate(key, old, now)
		if !ok {
			continue
		}
		e := fix.Event.(*events.RevokeAll)
		e.Prev = k.last
		all := slices.Clone(k.kept)
		if k.last != 0 {
			all = append(all, k)
		}
		e.Except = m.sparedBy(all)
		if key.home != 0 {
			e.At = asked(highest(all))
		} else {
			e.Before = highest(all)
		}
		fix.TTL = life(newestTime(all)+year, now)
		return fix, true
	}
	return Repair{}, false
}

// includes reports whether k, which the present log says, covers all that old
// does, as when it took its place while this node did not listen. Watermarks of two
// generations can be compared for that: where a session that the log still has was
// created has not changed. The caller holds fold.
func (m *Map) includes(k, old *mark) bool {
	return k.last != 0 && !k.forged && !k.guessed && k.seq >= old.seq &&
		!slices.ContainsFunc(k.except, func(sid events.SID) bool { return !old.spares(sid) && !m.good(sid) })
}

// good reports whether the session is held and not revoked: no mark covers it.
func (m *Map) good(sid events.SID) bool {
	r := m.get(sid)
	return r != nil && r.known && !r.revoked()
}

// sparedBy returns whom the marks spare together: who is good, whichever of them
// says so. Who is revoked is not spared again. Of one that is not held nobody knows
// when it was created: each of them must spare it. The caller holds fold.
func (m *Map) sparedBy(marks []*mark) (out []events.SID) {
	for _, k := range marks {
		for _, sid := range k.except {
			r := m.get(sid)
			held := r != nil && (r.known || r.revoked())
			everyone := !slices.ContainsFunc(marks, func(k *mark) bool { return !k.spares(sid) })
			if (m.good(sid) || !held && everyone) && !slices.Contains(out, sid) {
				out = append(out, sid)
			}
		}
	}
	return out
}

// newestTime returns the log time of the newest entry of the marks.
func newestTime(marks []*mark) (t int64) {
	for _, k := range marks {
		t = max(t, k.time)
	}
	return t
}

// highest returns the highest of the watermarks.
func highest(marks []*mark) (seq uint64) {
	for _, k := range marks {
		seq = max(seq, k.seq)
	}
	return seq
}

// lost reports whether the stream no longer says that r is revoked. What an
// "all" revoked needs no entry of its own when its state is gone as well: the
// "all" is appended again by itself.
func (r *record) lost(stream uint8) bool {
	return r.SID.Stream() == stream && r.revoked() && !r.found && r.App != "" &&
		(r.known || r.rank == rankSession || r.rank == rankAwaySession || r.rank == rankForgedSession)
}
