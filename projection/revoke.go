package projection

import (
	"bytes"
	"slices"
	"strings"

	"github.com/revocast/revocast/events"
)

// mark is what the "all" entries of one subject say: sessions created below seq
// are revoked, except those it spares. Guarded by Map.fold.
type mark struct {
	seq    uint64 // the watermark; never falls
	last   uint64 // newest entry on the subject, believed or not
	except []events.SID

	user       string // verbatim; empty when unknown, or for the whole app
	reason, by string
	at         int64
	home       uint8
	time       int64 // log time of the newest entry, unix ms
	nonce      []byte
	forged     bool // no authentic entry was seen: the user is unknown

	// kept are marks of earlier generations that this one has not confirmed.
	// They go on revoking what is older than their own sequences.
	kept []*mark
}

func (k *mark) spares(sid events.SID) bool { return slices.Contains(k.except, sid) }

func (k *mark) covers(s *Session) bool { return s.birth() < k.seq && !k.spares(s.SID) }

func (k *mark) revocation(key groupKey) revocation {
	user, app := rankUser, rankApp
	if k.forged {
		user, app = rankForgedUser, rankForgedApp
	}
	v := revocation{rank: user, from: key.stream, at: k.at, by: k.by, reason: k.reason}
	if key.hash == "" {
		v.rank = app
	}
	return v
}

// revoke revokes n, which readers do not see yet, if the mark or one kept
// beside it covers it.
func (k *mark) revoke(n *record, key groupKey) {
	for _, old := range k.kept {
		if old.covers(&n.Session) {
			n.revoke(old.revocation(key))
		}
	}
	if k.covers(&n.Session) {
		n.revoke(k.revocation(key))
		n.found = true
	}
}

// confirms reports whether an entry of this generation, at sequence seq, says
// what the kept mark said. Same content is the re-appended revocation, by
// whichever node; and once the stream was read again (up to reread), anything
// newer covers every session that the kept mark could.
func (k *mark) confirms(old *mark, seq, reread uint64) bool {
	return k.nonce != nil && bytes.Equal(k.nonce, old.nonce) ||
		k.at == old.at && k.by == old.by && k.reason == old.reason && k.forged == old.forged && !k.forged ||
		k.forged && old.forged && seq == old.last ||
		reread != 0 && seq > reread
}

func (k *mark) confirm(seq, reread uint64) {
	k.kept = slices.DeleteFunc(k.kept, func(old *mark) bool { return k.confirms(old, seq, reread) })
}

// foreignMark is an "all" that was recorded in another stream because the home
// was out of reach. Sequences of two streams cannot be compared, so it goes by
// time: sessions begun up to Skew after it are revoked. It does not depend on
// the order in which the two streams are read. Once the home is reached, the
// "all" appended there revokes everything created meanwhile anyway.
type foreignMark struct {
	recorded uint8 // stream it stands in
	except   []events.SID
	v        revocation
	until    int64 // covers sessions that began up to then, unix ms
	time     int64 // log time, unix ms
}

func (f *foreignMark) covers(s *Session) bool {
	return s.CreatedAt <= f.until && !slices.Contains(f.except, s.SID)
}

// meetMarks revokes a new state that a watermark covers: it was created, or its
// log-in had begun, before the "all". The caller holds fold.
func (m *Map) meetMarks(n *record, hash string) {
	stream := n.SID.Stream()
	for _, h := range [...]string{hash, ""} {
		key := groupKey{stream, n.App, h}
		if k := m.marks[key.index()][key]; k != nil {
			k.revoke(n, key)
		}
		for i := range m.foreign[key] {
			if f := &m.foreign[key][i]; f.covers(&n.Session) {
				n.revoke(f.v)
			}
		}
	}
}

// markedSince reports whether a watermark covers the held session by its
// sequence. The caller holds fold.
func (m *Map) markedSince(held *record, hash string) bool {
	for _, h := range [...]string{hash, ""} {
		key := groupKey{held.SID.Stream(), held.App, h}
		if k := m.marks[key.index()][key]; k != nil && k.covers(&held.Session) {
			return true
		}
	}
	return false
}

// applyRevoke folds kind rev. It takes effect whatever its sequence and
// whichever stream it stands in.
func (m *Map) applyRevoke(r *events.Record, e *events.Revoke) Effect {
	m.fold.RLock()
	defer m.fold.RUnlock()
	v := revocation{rank: rankSession, from: r.Stream, at: e.At, by: e.By, reason: e.Reason}
	if e.SID.Stream() != r.Stream {
		v.rank = rankAwaySession
	}
	m.revokeOne(r, e.SID, e.App, e.User, e.AbsoluteAt, v)
	return Applied
}

func (m *Map) revokeOne(r *events.Record, sid events.SID, app, user string, absolute int64, v revocation) {
	m.update(sid, func(now *record) *record {
		next := &record{}
		if now != nil {
			*next = *now
		}
		if absolute == 0 && !next.known {
			absolute = r.Time.UnixMilli() + year
		}
		next.until = max(next.until, absolute)
		if !next.known {
			next.SID, next.AbsoluteAt = sid, next.until
			if app != "" {
				next.App, next.User = app, user
			}
		}
		next.revoke(v)
		next.found = next.found || sid.Stream() == r.Stream
		return next
	})
}

// applyAll folds kind all.
func (m *Map) applyAll(r *events.Record, e *events.RevokeAll) Effect {
	m.fold.Lock()
	defer m.fold.Unlock()
	key := groupKey{r.Stream, r.Subject.App, r.Subject.User}
	k := m.mark(key)
	if r.Seq <= k.last {
		return k.again(r, e)
	}
	effect := Applied
	except := e.Except
	if e.Prev < k.last || e.Prev >= r.Seq {
		// Computed from an older one, or a copy: it takes away all the same,
		// and spares only what both spare.
		effect = Overwrite
		except = slices.DeleteFunc(slices.Clone(except), func(s events.SID) bool { return k.last != 0 && !k.spares(s) })
	}
	if effect == Applied || k.last == 0 || k.forged {
		k.user, k.reason, k.by, k.at, k.home = e.User, e.Reason, e.By, e.At, e.Home
		k.forged = false
	}
	k.except, k.nonce = except, r.Sealed.Nonce()
	k.raise(r, e.Before)
	k.confirm(r.Seq, m.streams[r.Stream].rereadTo())
	m.revokeGroup(key, key.stream, func(n *record) { k.revoke(n, key) })
	if e.Home != 0 && e.Home != r.Stream {
		m.applyForeign(r, e, effect == Overwrite)
	}
	return effect
}

// again folds an entry that the mark knows already, because the mark was loaded
// from a snapshot that was written while the stream was applied. What the entry
// did to sessions is in the snapshot as well. It still is an overwrite where it
// alone would take away less than the mark.
func (k *mark) again(r *events.Record, e *events.RevokeAll) Effect {
	if e.Prev >= r.Seq || earlier(e.Before, r.Seq) < k.seq || len(e.Except) > len(k.except) {
		return Overwrite
	}
	return Applied
}

// raise lifts the watermark to the entry, or to before if that is set.
func (k *mark) raise(r *events.Record, before uint64) {
	k.seq = max(k.seq, earlier(before, r.Seq))
	k.last = r.Seq
	k.time = max(k.time, r.Time.UnixMilli())
}

func (m *Map) mark(key groupKey) *mark {
	i := key.index()
	k := m.marks[i][key]
	if k != nil {
		return k
	}
	if m.marks[i] == nil {
		m.marks[i] = make(map[groupKey]*mark)
	}
	key.app, key.hash = strings.Clone(key.app), strings.Clone(key.hash)
	k = new(mark)
	m.marks[i][key] = k
	return k
}

// applyForeign makes an "all" take away from the home it could not reach.
func (m *Map) applyForeign(r *events.Record, e *events.RevokeAll, overwrite bool) {
	key := groupKey{e.Home, r.Subject.App, r.Subject.User}
	v := revocation{rank: rankAwayUser, from: r.Stream, at: e.At, by: e.By, reason: e.Reason}
	if key.hash == "" {
		v.rank = rankAwayApp
	}
	f := foreignMark{recorded: r.Stream, except: e.Except, v: v, until: e.At + skew, time: r.Time.UnixMilli()}
	marks := m.foreign[key]
	i := slices.IndexFunc(marks, func(o foreignMark) bool { return o.recorded == r.Stream })
	if i >= 0 {
		old := marks[i]
		if overwrite {
			f.except = slices.DeleteFunc(slices.Clone(f.except), func(s events.SID) bool { return !slices.Contains(old.except, s) })
		}
		f.until, f.time = max(f.until, old.until), max(f.time, old.time)
		marks[i] = f
	} else {
		if m.foreign == nil {
			m.foreign = make(map[groupKey][]foreignMark)
		}
		m.foreign[key] = append(marks, f)
	}
	m.revokeGroup(key, e.Home, func(n *record) {
		if f.covers(&n.Session) {
			n.revoke(f.v)
		}
	})
}

// revokeGroup lets revoke decide about a copy of each session of the group that
// lives in the stream. The caller holds fold alone.
func (m *Map) revokeGroup(key groupKey, stream uint8, revoke func(*record)) {
	one := func(sid events.SID) {
		m.update(sid, func(now *record) *record {
			if now == nil || !now.known || now.App != key.app {
				return now
			}
			next := *now
			if revoke(&next); next.rank == now.rank && next.found == now.found && next.revocation() == now.revocation() {
				return now
			}
			return &next
		})
	}
	if key.hash != "" {
		u := userKey{key.app, key.hash}
		for _, sid := range m.user(u).of(u) {
			if sid.Stream() == stream {
				one(sid)
			}
		}
		return
	}
	for i := range m.shards {
		for _, r := range m.shards[i].all(func(r *record) bool { return r.known && r.App == key.app && r.SID.Stream() == stream }) {
			one(r.SID)
		}
	}
}

// applyForged folds an entry that is not authentic. It grants nothing. On the
// subject of a revocation it may have taken the place of a real one, and only
// the subject can be read: so it takes away what that could have taken.
func (m *Map) applyForged(r *events.Record) {
	switch r.Subject.Kind {
	case events.KindRevoke:
		sid, err := events.ParseSID(r.Subject.ID)
		if err != nil {
			return
		}
		m.fold.RLock()
		defer m.fold.RUnlock()
		m.revokeOne(r, sid, "", "", 0, revocation{rank: rankForgedSession, from: r.Stream, at: r.Time.UnixMilli(), reason: reasonOverwritten})
	case events.KindAll:
		if r.Subject.ID != "" {
			return
		}
		m.fold.Lock()
		defer m.fold.Unlock()
		key := groupKey{r.Stream, r.Subject.App, r.Subject.User}
		k := m.mark(key)
		if r.Seq <= k.last {
			return // as in again
		}
		if k.last == 0 || k.forged {
			k.forged, k.reason, k.at = true, reasonOverwritten, r.Time.UnixMilli()
		}
		k.except = nil
		k.raise(r, 0)
		k.confirm(r.Seq, m.streams[r.Stream].rereadTo())
		m.revokeGroup(key, key.stream, func(n *record) { k.revoke(n, key) })
	}
}

// LastAll implements [Projection].
func (m *Map) LastAll(stream uint8, app, user string) uint64 {
	m.fold.RLock()
	defer m.fold.RUnlock()
	key := groupKey{stream, app, events.UserHash(app, user)}
	if k := m.marks[key.index()][key]; k != nil {
		return k.last
	}
	return 0
}
