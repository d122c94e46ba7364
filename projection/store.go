package projection

import (
	"iter"

	"github.com/revocast/revocast/events"
)

// store holds records by sid, aliases by their keys, and which sessions a user
// has. [packed] is the one that serves; that on plain maps, which tests hold it
// against, is the other. Any number of goroutines may call any method.
type store interface {
	// get returns the record, nil for none. It is the caller's.
	get(sid events.SID) *record

	// update puts what change makes of the record, nil for none, in its place;
	// nil forgets it, and what it was given means no change. A session is among
	// its user's if and only if it has a state. change is called once, while no
	// other change of the sid is made, and keeps nothing of what it was given.
	// hash is the user's, "" if the caller has it not at hand.
	update(sid events.SID, hash string, change func(*record) *record)

	// touch sets the last use of what has a state.
	touch(sid events.SID, seen int64)

	// alias returns the sid that the key is an alias of. dropAlias forgets it
	// if it is one of that sid.
	alias(key events.SID) (events.SID, bool)
	addAlias(key, sid events.SID)
	dropAlias(key, sid events.SID)

	// of returns the user's sids.
	of(k userKey) []events.SID

	// list yields what a slice, a 256th of the store, holds at the time of the
	// call. A record is lent for one round. A key's slice is the shard of its
	// place.
	list(slice int) iter.Seq[*record]

	// tidy moves things together so that memory can be given back, until about
	// so many words are moved; and shrinks a 256th of the tables. Nothing is
	// changed meanwhile.
	tidy(slice, words int)
}

// load fills in the session of sid and the rest of its record, both zero. It does
// not allocate and waits for nobody.
func (m *Map) load(sid events.SID, s *Session, st *standing) bool {
	if m.model == nil {
		return m.packed.load(sid, s, st)
	}
	held := m.model.get(sid)
	if held != nil {
		*s, *st = held.Session, held.standing()
	}
	return held != nil
}

// alias returns the sid that the key is an alias of, as load does.
func (m *Map) alias(key events.SID) (events.SID, bool) {
	if m.model == nil {
		return m.packed.alias(key)
	}
	return m.model.alias(key)
}

func (m *Map) held() store {
	if m.model == nil {
		return &m.packed
	}
	return m.model
}

// get returns the record of sid, nil for none.
func (m *Map) get(sid events.SID) *record { return m.held().get(sid) }

func clone(r *record) *record {
	c := *r
	return &c
}

// update puts what change makes of the record of sid in its place; nil forgets
// it. The user's hash may be left empty.
func (m *Map) update(sid events.SID, hash string, change func(*record) *record) {
	m.held().update(sid, hash, func(was *record) *record {
		is := change(was)
		if is == was {
			return was
		}
		m.count(was, -1)
		m.count(is, +1)
		m.list(sid, was != nil && was.pending(), is != nil && is.pending())
		return is
	})
}

// list keeps what is pending listed.
func (m *Map) list(sid events.SID, was, is bool) {
	if was == is {
		return
	}
	s := m.slice(sid)
	s.mu.Lock()
	defer s.mu.Unlock()
	if was {
		delete(s.pending, sid)
		m.pending[sid.Stream()].Add(-1)
		return
	}
	if s.pending == nil {
		s.pending = make(map[events.SID]struct{})
	}
	s.pending[sid] = struct{}{}
	m.pending[sid.Stream()].Add(1)
}

func (m *Map) count(r *record, by int64) {
	switch {
	case r == nil:
	case r.known:
		m.sessions.Add(by)
	default:
		m.tombstones.Add(by)
	}
}

// all returns what a slice holds at this moment.
func (m *Map) all(slice int, keep func(*record) bool) (out []*record) {
	for r := range m.held().list(slice) {
		if keep(r) {
			out = append(out, clone(r))
		}
	}
	return out
}

// listed returns what of the pending in a slice is to be kept.
func (m *Map) listed(slice int, keep func(*record) bool) (out []*record) {
	s := &m.slices[slice]
	s.mu.Lock()
	sids := make([]events.SID, 0, len(s.pending))
	for sid := range s.pending {
		sids = append(sids, sid)
	}
	s.mu.Unlock()
	for _, sid := range sids {
		if r := m.get(sid); r != nil && r.pending() && keep(r) {
			out = append(out, r)
		}
	}
	return out
}

// Bytes returns about how many bytes of memory sessions and tombstones take.
func (m *Map) Bytes() int { return m.packed.bytes() }
