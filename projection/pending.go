package projection

import (
	"iter"
	"slices"

	"github.com/revocast/revocast/events"
)

// LastAway implements [Projection].
func (m *Map) LastAway(stream, home uint8, app, user string) (seq uint64, at int64) {
	m.fold.RLock()
	defer m.fold.RUnlock()
	key := groupKey{stream, home, app, events.UserHash(app, user)}
	k := m.marks[key.index()][key]
	if k == nil {
		return 0, 0
	}
	return k.last, max(0, asked(max(k.seq, highest(k.kept))))
}

// SparedAway implements [Projection].
func (m *Map) SparedAway(stream, home uint8, app, user string, sid events.SID) bool {
	m.fold.RLock()
	defer m.fold.RUnlock()
	key := groupKey{stream, home, app, events.UserHash(app, user)}
	k := m.marks[key.index()][key]
	return k == nil || k.spares(sid) && !slices.ContainsFunc(k.kept, func(old *mark) bool { return !old.spares(sid) })
}

// PendingSession implements [Projection].
func (m *Map) PendingSession(sid events.SID) bool {
	r := m.get(sid)
	return r != nil && r.pending()
}

// PendingAll implements [Projection].
func (m *Map) PendingAll(home uint8, app, hash string) bool {
	m.fold.RLock()
	defer m.fold.RUnlock()
	return len(m.undelivered(groupKey{stream: home, app: app, hash: hash})) > 0
}

// PendingHomes implements [Projection].
func (m *Map) PendingHomes() (homes []uint8) {
	m.fold.RLock()
	defer m.fold.RUnlock()
	var has [256]bool
	for group := range m.away {
		has[group.stream] = has[group.stream] || len(m.undelivered(group)) > 0
	}
	for home := range m.pending {
		if has[home] || m.pending[home].Load() > 0 {
			homes = append(homes, uint8(home))
		}
	}
	return homes
}

// PendingLen implements [Projection].
func (m *Map) PendingLen(home uint8) int {
	m.fold.RLock()
	defer m.fold.RUnlock()
	n := int(m.pending[home].Load())
	for group := range m.away {
		if group.stream == home && len(m.undelivered(group)) > 0 {
			n++
		}
	}
	return n
}

// undelivered returns the marks that stand away from the group's home and say
// what the home's stream does not. The caller holds fold.
func (m *Map) undelivered(group groupKey) (out []*mark) {
	there := m.delivered(group)
	for _, recorded := range m.away[group] {
		if recorded == group.stream {
			continue
		}
		key := groupKey{recorded, group.stream, group.app, group.hash}
		k := m.marks[key.index()][key]
		for _, k := range append(slices.Clone(k.kept), k) {
			if m.lacks(group, there, k) {
				out = append(out, k)
			}
		}
	}
	return out
}

// delivered returns the mark by which a home itself says what was recorded
// elsewhere for the group; one that says nothing when there is none.
func (m *Map) delivered(group groupKey) *mark {
	key := groupKey{group.stream, group.stream, group.app, group.hash}
	if k := m.marks[key.index()][key]; k != nil {
		return k
	}
	return new(mark)
}

// lacks reports whether k takes away what the home's own mark does not. Nobody
// knows the user of one that is forged: it is repaired where it stands.
func (m *Map) lacks(group groupKey, there, k *mark) bool {
	switch {
	case k.forged || k.seq == 0:
		return false
	case there.seq < k.seq:
		return true
	}
	return slices.ContainsFunc(there.except, func(sid events.SID) bool {
		r := m.get(sid)
		return !k.spares(sid) && (r == nil || !r.known || r.of(group) && k.covers(&r.Session))
	})
}

// of reports whether the session belongs to the group.
func (r *record) of(group groupKey) bool {
	return r.SID.Stream() == group.stream && r.App == group.app && (group.hash == "" || events.UserHash(r.App, r.User) == group.hash)
}

// Pending implements [Projection].
func (m *Map) Pending(home uint8, now int64) iter.Seq[Repair] {
	return func(yield func(Repair) bool) {
		for _, group := range m.pendingGroups(home) {
			if fix, ok := m.deliverAll(group, now); ok && !yield(fix) {
				return
			}
		}
		if m.pending[home].Load() == 0 {
			return
		}
		for i := range m.slices {
			for _, r := range m.listed(i, func(r *record) bool { return r.SID.Stream() == home }) {
				if fix, ok := m.deliverOne(r, now); ok && !yield(fix) {
					return
				}
			}
		}
	}
}

func (m *Map) pendingGroups(home uint8) (out []groupKey) {
	m.fold.RLock()
	defer m.fold.RUnlock()
	for group := range m.away {
		if group.stream == home && len(m.undelivered(group)) > 0 {
			out = append(out, group)
		}
	}
	return out
}

// deliverAll returns what the home is to say of the group: all that was recorded
// anywhere, together with what it says already, of which it takes the place. It
// spares nobody whom any of them revoked.
func (m *Map) deliverAll(group groupKey, now int64) (Repair, bool) {
	m.fold.RLock()
	defer m.fold.RUnlock()
	there, marks := m.delivered(group), m.undelivered(group)
	if len(marks) == 0 {
		return Repair{}, false
	}
	newest, except := marks[0], slices.Clone(there.except)
	for _, old := range there.kept { // what is stored next stands for them too
		except = append(except, old.except...)
	}
	for _, k := range marks {
		except = append(except, k.except...)
		if k.seq > newest.seq {
			newest = k
		}
	}
	slices.SortFunc(except, func(a, b events.SID) int { return slices.Compare(a[:], b[:]) })
	except = slices.DeleteFunc(slices.Compact(except), func(sid events.SID) bool {
		r := m.get(sid)
		return r == nil || !r.known || r.revoked() || !r.of(group)
	})
	e := &events.RevokeAll{
		App: group.app, User: newest.user, Except: except, Reason: newest.reason, By: newest.by,
		At: asked(max(newest.seq, there.seq, highest(there.kept))), Prev: there.last, Home: group.stream,
	}
	return Repair{Event: e, TTL: life(now+year, now)}, events.UserHash(e.App, e.User) == group.hash
}

// deliverOne returns what the home is to say of one session. Where it was
// revoked by a token that its home knows as one of another session, that session
// comes first.
func (m *Map) deliverOne(r *record, now int64) (Repair, bool) {
	if !r.known {
		sid, ok := m.alias(r.SID)
		if s := m.get(sid); ok && s != nil && s.known && !s.found {
			e := &events.Revoke{
				App: s.App, User: s.User, SID: s.SID,
				Reason: r.RevokeReason, By: r.RevokedBy, At: r.RevokedAt, AbsoluteAt: s.AbsoluteAt,
			}
			return Repair{Event: e, TTL: life(s.AbsoluteAt, now)}, true
		}
	}
	return r.repairRevoke(now)
}
