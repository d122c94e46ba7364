package projection

import (
	"bytes"
	"slices"
	"strings"

	"github.com/revocast/revocast/events"
)

// mark is what the "all" entries of one subject say: sessions created below seq
// are revoked, except those it spares. Guarded by Map.fold.
//
// One that names a home goes by time instead, because sequences of two streams
// cannot be compared: it revokes the home's sessions created before seq, in unix
// ms. So it does not depend on the order in which the two streams are read.
type mark struct {
	seq    uint64 // the watermark; never falls
	last   uint64 // newest entry on the subject, believed or not
	except []events.SID

	user       string // verbatim; empty when unknown, or for the whole app
	reason, by string
	at         int64
	home       uint8 // that of the subject
	time       int64 // log time of the newest entry, unix ms
	nonce      []byte
	forged     bool // no authentic entry was seen: the user is unknown
	// guessed: the newest entry is not believed, and was taken for the widest it
	// could be.
	guessed bool

	// kept are marks of earlier generations that this one has not confirmed.
	// They go on revoking what is older than their own sequences.
	kept []*mark
}

// awaySkew is how much later than it was asked for a revocation for another home
// still covers, in ms. It is how far apart the clocks of two nodes can be that
// both agree with a log: what was created before is covered whoever dated it.
const awaySkew = 2 * skew

// CoveredAway reports whether a revocation for another home that was asked for
// at the time covers a session created at the other (unix ms).
func CoveredAway(created, asked int64) bool { return uint64(max(0, created)) < wall(asked) }

// wall returns the watermark of an "all" for another home that was asked for at
// the time.
func wall(at int64) uint64 { return uint64(max(0, at)) + uint64(awaySkew) + 1 }

// asked is the reverse of wall.
func asked(seq uint64) int64 { return int64(seq) - awaySkew - 1 }

// watermark returns what the entry lifts the mark to.
func watermark(r *events.Record, e *events.RevokeAll) uint64 {
	if e.Home != 0 {
		return wall(e.At)
	}
	return earlier(e.Before, r.Seq)
}

func (k *mark) spares(sid events.SID) bool { return slices.Contains(k.except, sid) }

func (k *mark) covers(s *Session) bool {
	if k.home != 0 {
		return uint64(max(0, s.CreatedAt)) < k.seq && !k.spares(s.SID)
	}
	return s.birth() < k.seq && !k.spares(s.SID)
}

func (k *mark) revocation(key groupKey) revocation {
	user, app := rankUser, rankApp
	switch {
	case k.forged:
		user, app = rankForgedUser, rankForgedApp
	case key.home != 0:
		user, app = rankAwayUser, rankAwayApp
	}
	v := revocation{rank: user, from: key.stream, at: k.at, by: k.by, reason: k.reason}
	if key.hash == "" {
		v.rank = app
	}
	return v
}

// revoke revokes n, which readers do not see yet, if the mark or one kept
// beside it covers it. It is found if the session's own stream says so.
func (k *mark) revoke(n *record, key groupKey) {
	for _, old := range k.kept {
		if old.covers(&n.Session) {
			n.revoke(old.revocation(key))
		}
	}
	if k.covers(&n.Session) {
		n.revoke(k.revocation(key))
		n.found = n.found || key.stream == n.SID.Stream()
	}
}

// confirms reports whether an entry of this generation, at sequence seq and with
// the watermark to, says what the kept mark said. Same content is the re-appended
// revocation, by whichever node; and once the stream was read again (up to
// reread), anything newer that reaches as far, or covers all before it, covers
// every session that the kept mark could.
func (k *mark) confirms(old *mark, seq, to, reread uint64) bool {
	return k.nonce != nil && bytes.Equal(k.nonce, old.nonce) ||
		k.at == old.at && k.by == old.by && k.reason == old.reason && k.forged == old.forged && !k.forged ||
		k.forged && old.forged && seq == old.last ||
		reread != 0 && seq > reread && (to >= old.seq || k.home == 0 && to >= seq)
}

func (k *mark) confirm(seq, to, reread uint64) {
	k.kept = slices.DeleteFunc(k.kept, func(old *mark) bool { return k.confirms(old, seq, to, reread) })
}

// meetMarks revokes a new state that a watermark covers: it was created, or its
// log-in had begun, before the "all". The caller holds fold.
func (m *Map) meetMarks(n *record, hash string) {
	for _, h := range [...]string{hash, ""} {
		key := groupKey{stream: n.SID.Stream(), app: n.App, hash: h}
		if k := m.marks[key.index()][key]; k != nil {
			k.revoke(n, key)
		}
		for _, recorded := range m.away[key] {
			at := groupKey{recorded, n.SID.Stream(), n.App, h}
			m.marks[at.index()][at].revoke(n, at)
		}
	}
}

// markedSince reports whether a watermark covers the held session by its
// sequence. The caller holds fold.
func (m *Map) markedSince(held *record, hash string) bool {
	for _, h := range [...]string{hash, ""} {
		key := groupKey{stream: held.SID.Stream(), app: held.App, hash: h}
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
	m.update(sid, "", func(now *record) *record {
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
		next.gone = next.gone && next.from != r.Stream
		return next
	})
}

// applyAll folds kind all.
func (m *Map) applyAll(r *events.Record, e *events.RevokeAll) Effect {
	m.fold.Lock()
	defer m.fold.Unlock()
	key := groupKey{r.Stream, e.Home, r.Subject.App, r.Subject.User}
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
		k.user, k.reason, k.by, k.at = e.User, e.Reason, e.By, e.At
		k.forged = false
	}
	k.except, k.nonce, k.guessed = except, r.Sealed.Nonce(), false
	to := watermark(r, e)
	k.raise(r, to)
	k.confirm(r.Seq, to, m.streams[r.Stream].rereadTo())
	m.revokeGroup(key, func(n *record) { k.revoke(n, key) })
	return effect
}

// again folds an entry that the mark knows already, because the mark was loaded
// from a snapshot that was written while the stream was applied. What the entry
// did to sessions is in the snapshot as well. It still is an overwrite where it
// alone would take away less than the mark.
func (k *mark) again(r *events.Record, e *events.RevokeAll) Effect {
	if e.Prev >= r.Seq || watermark(r, e) < k.seq || len(e.Except) > len(k.except) {
		return Overwrite
	}
	return Applied
}

// raise lifts the watermark for an entry that is new.
func (k *mark) raise(r *events.Record, to uint64) {
	k.seq = max(k.seq, to)
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
	k = &mark{home: key.home}
	m.marks[i][key] = k
	m.index(key)
	return k
}

// index lets the sessions that a mark for another home is about find it.
func (m *Map) index(key groupKey) {
	if key.home == 0 {
		return
	}
	if m.away == nil {
		m.away = make(map[groupKey][]uint8)
	}
	group := groupKey{stream: key.home, app: key.app, hash: key.hash}
	m.away[group] = append(m.away[group], key.stream)
}

// forgetMark forgets the mark. The caller holds fold alone.
func (m *Map) forgetMark(key groupKey) {
	delete(m.marks[key.index()], key)
	if key.home == 0 {
		return
	}
	group := groupKey{stream: key.home, app: key.app, hash: key.hash}
	rest := slices.DeleteFunc(m.away[group], func(n uint8) bool { return n == key.stream })
	if m.away[group] = rest; len(rest) == 0 {
		delete(m.away, group)
	}
}

// revokeGroup lets revoke decide about a copy of each session that a mark with
// the key is about. The caller holds fold alone.
func (m *Map) revokeGroup(key groupKey, revoke func(*record)) {
	stream := key.about()
	one := func(sid events.SID) {
		m.update(sid, "", func(now *record) *record {
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
		for _, sid := range m.held().of(u) {
			if sid.Stream() == stream {
				one(sid)
			}
		}
		return
	}
	for i := range m.slices {
		var sids []events.SID
		for r := range m.held().list(i) {
			if r.known && r.App == key.app && r.SID.Stream() == stream {
				sids = append(sids, r.SID)
			}
		}
		for _, sid := range sids {
			one(sid)
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
		home, ok := r.Subject.Home()
		if !ok {
			return
		}
		m.fold.Lock()
		defer m.fold.Unlock()
		key := groupKey{r.Stream, home, r.Subject.App, r.Subject.User}
		k := m.mark(key)
		if r.Seq <= k.last {
			return // as in again
		}
		if k.last == 0 || k.forged {
			k.forged, k.reason, k.at = true, reasonOverwritten, r.Time.UnixMilli()
		}
		k.except, k.guessed = nil, true
		to := r.Seq
		if home != 0 {
			to = wall(r.Time.UnixMilli())
		}
		k.raise(r, to)
		k.confirm(r.Seq, to, m.streams[r.Stream].rereadTo())
		m.revokeGroup(key, func(n *record) { k.revoke(n, key) })
	}
}

// GroupRevokedAt returns when (unix ms) the sessions that the user, or anybody of
// the app, has in the stream were last revoked together, 0 if never: in that
// stream, or in another while it was out of reach.
func (m *Map) GroupRevokedAt(stream uint8, app, user string) (at int64) {
	m.fold.RLock()
	defer m.fold.RUnlock()
	for _, hash := range [...]string{events.UserHash(app, user), ""} {
		key := groupKey{stream: stream, app: app, hash: hash}
		at = max(at, m.marks[key.index()][key].newest())
		for _, recorded := range m.away[key] {
			k := groupKey{recorded, stream, app, hash}
			at = max(at, m.marks[k.index()][k].newest())
		}
	}
	return at
}

// newest returns the latest time (unix ms) at which the mark, which may be nil, or
// one kept beside it was asked for.
func (k *mark) newest() (at int64) {
	if k == nil {
		return 0
	}
	at = k.at
	for _, old := range k.kept {
		at = max(at, old.at)
	}
	return at
}

// LastAll implements [Projection].
func (m *Map) LastAll(stream uint8, app, user string) uint64 {
	m.fold.RLock()
	defer m.fold.RUnlock()
	key := groupKey{stream: stream, app: app, hash: events.UserHash(app, user)}
	if k := m.marks[key.index()][key]; k != nil {
		return k.last
	}
	return 0
}
