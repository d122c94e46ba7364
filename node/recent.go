package node

import (
	"cmp"
	"context"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node/api"
	"github.com/revocast/revocast/projection"
)

// recentMargin is how much longer than the longest life of a JWT a revocation is
// told: some node may have minted a lease after it, by a clock of its own.
const recentMargin = 2 * time.Minute

// recent holds the revocations of which a JWT may still be alive, for verifiers that
// begin to follow a feed. Appliers add to it, before what they add counts as applied.
type recent struct {
	mu   sync.Mutex // guards what follows
	apps map[string]*recentApp
	// through are the streams of which all that was revoked before this node began
	// is here too.
	through map[*stream]bool
}

// recentApp is what was revoked of one app.
type recentApp struct {
	sids  map[events.SID]recentSession
	marks map[recentKey][]recentMark
}

// recentSession is when (unix ms) the log took that a session is revoked. One that was
// recorded away from its home counts as of now for as long as the home may not know of
// it, and mint JWTs: see forget.
type recentSession struct {
	logged int64
	away   bool
}

type recentKey struct {
	user   string // hash; empty: everybody
	number uint8  // of the stream whose sessions it is about
}

// recentMark is one revocation of every older session.
type recentMark struct {
	in     uint8     // number of the stream that it stands in, 0 if that is not known
	gen    uint32    // of that stream, when it was last read there
	seq    uint64    // where it stands
	at     int64     // as it was asked for, unix ms
	logged int64     // as in recentSession
	heard  time.Time // by when it was committed, zero if that says nothing: see mintedUntil
	user   string
	except []events.SID
}

func newRecent() recent {
	return recent{apps: map[string]*recentApp{}, through: map[*stream]bool{}}
}

// recall notes what the entry revokes: of the applier, as it comes, and of the look
// through the log. Twice is as good as once. Gen is the generation that it was read in.
func (s *stream) recall(r *events.Record, gen uint32) {
	logged, judged := r.Time.UnixMilli(), s.node.judged()
	if logged < judged-recentMost.Milliseconds() {
		return
	}
	k := &s.node.recent
	k.mu.Lock()
	defer k.mu.Unlock()
	m := recentMark{in: s.number, gen: gen, seq: r.Seq, at: logged, logged: logged, heard: time.UnixMilli(max(logged, judged))}
	switch e := r.Event.(type) {
	case *events.Revoke:
		k.revoke(r.Subject.App, e.SID, recentSession{logged, e.SID.Stream() != s.number})
	case *events.RevokeAll:
		m.at, m.user, m.except = e.At, e.User, e.Except
		k.mark(r.Subject.App, recentKey{r.Subject.User, homeOr(e.Home, s.number)}, m)
	default:
		// Not authentic: it took away all that its subject can mean.
		if r.Trust != events.Forged {
			return
		}
		m.heard = time.Time{} // it may be gone before another node has read it
		if sid, err := events.ParseSID(r.Subject.ID); err == nil && r.Subject.Kind == events.KindRevoke {
			k.revoke(r.Subject.App, sid, recentSession{logged, sid.Stream() != s.number})
		} else if home, ok := r.Subject.Home(); ok {
			k.mark(r.Subject.App, recentKey{r.Subject.User, homeOr(home, s.number)}, m)
		}
	}
}

// recentMost is how long ago anything here was revoked at most, but for what is pending.
const recentMost = maxJWTTTL*time.Second + recentMargin + maxClockSkew

func (k *recent) of(app string) *recentApp {
	a := k.apps[app]
	if a == nil {
		a = &recentApp{sids: map[events.SID]recentSession{}, marks: map[recentKey][]recentMark{}}
		k.apps[app] = a
	}
	return a
}

// revoke notes that a session is revoked. Where two entries say so the later counts, in
// whichever order they are read: until then its home may not have known. k.mu is held.
func (k *recent) revoke(app string, sid events.SID, is recentSession) {
	a := k.of(app)
	was := a.sids[sid]
	a.sids[sid] = recentSession{max(was.logged, is.logged), was.away || is.away}
}

// mark notes a revocation of every older session. One that spares nobody says what
// those before it in its stream said; one that spares a session says nothing of whether
// an earlier one took it. k.mu is held.
func (k *recent) mark(app string, key recentKey, m recentMark) {
	a := k.of(app)
	kept := slices.DeleteFunc(a.marks[key], func(was recentMark) bool {
		if was.in != m.in {
			return false // another region's may be one that the home does not know of
		}
		if was.seq == m.seq && was.at == m.at { // the same once more
			m.logged = max(m.logged, was.logged)
			if was.gen == m.gen && was.heard.Before(m.heard) { // of another log its time says nothing
				m.heard = was.heard
			}
			m.gen = max(m.gen, was.gen)
			return true
		}
		return len(m.except) == 0 && was.at <= m.at && was.logged <= m.logged
	})
	a.marks[key] = append(kept, m)
}

// mintedUntil returns until when (by iat) a JWT of a session that the mark took may have
// been minted, nil if that cannot be told.
//
// Who mints has read its wall clock, and then held a lease on the home: by a heartbeat
// sent before the mark was committed there, or it would have known of it. So it read it
// at most W after that, and that clock was at most twice maxClockSkew ahead of the log's:
// see lastMinted. The log's stamp says when it was committed; should its clock have been
// wrong then, this node's own, when it first read of it, is no earlier.
//
// It cannot be told of what its home may not know yet, nor of what the home's log may
// have lost when it went backwards: nodes that do not know of it go on. Nor of a home on
// which this node holds no lease, as it may not know how long those of others are.
func (n *Node) mintedUntil(number uint8, m *recentMark) *time.Time {
	s := n.stream(number)
	if s == nil || m.in != number || m.heard.IsZero() || m.gen != s.position().Gen || s.fenced() != nil {
		return nil
	}
	return new(m.heard.Add(n.maxWait() + 2*maxClockSkew).UTC().Truncate(time.Millisecond).Add(time.Millisecond))
}

// fillRecent adds what was revoked before this node began to follow the stream, once
// that is fed: the node may have begun from a snapshot, and not have read the
// revocations. What a session says of its revocation would not do: one that was recorded
// elsewhere may have been asked for long before it was heard.
func (s *stream) fillRecent(ctx context.Context) error {
	for {
		var retry <-chan time.Time
		if s.isFed() {
			err := s.lookThrough(ctx)
			if err == nil || ctx.Err() != nil {
				return nil
			}
			s.node.conf.Log.Warn("recent revocations were not read; tried again", "stream", s.region, "error", err)
			retry = time.After(time.Second)
		}
		select {
		case <-s.fed:
		case <-retry:
		case <-ctx.Done():
			return nil
		}
	}
}

// lookThrough adds what the log holds of the last hour.
func (s *stream) lookThrough(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	// A stream that has caught up may have applied nothing yet: then To would be 0, and
	// all that the snapshot holds would be passed over.
	if err := s.wait(ctx, 1); err != nil {
		return err
	}
	gen := s.position().Gen // before: what the log lost meanwhile is not of the next one
	what := events.Range{Since: time.UnixMilli(s.node.judged()).Add(-recentMost), To: s.applied.Load()}
	for _, k := range []events.Kind{events.KindRevoke, events.KindAll} {
		what.Filters = append(what.Filters, events.Subject{Region: s.region, App: "*", User: "*", ID: "*", Kind: k}.String())
	}
	err := s.log.Read(ctx, what, func(e events.Entry) bool {
		r := s.node.conf.Keys.Decode(s.number, e)
		s.recall(&r, gen)
		return true
	})
	if err != nil {
		return err
	}
	s.node.recallPending()
	s.node.recent.mu.Lock()
	defer s.node.recent.mu.Unlock()
	s.node.recent.through[s] = true
	return nil
}

// recallPending notes what is yet to be delivered, however long ago it was recorded.
func (n *Node) recallPending() {
	k, now := &n.recent, n.judged()
	note := func(home uint8, e events.Event) {
		k.mu.Lock()
		defer k.mu.Unlock()
		switch e := e.(type) {
		case *events.Revoke:
			k.revoke(e.App, e.SID, recentSession{now, true})
		case *events.RevokeAll:
			k.mark(e.App, recentKey{events.UserHash(e.App, e.User), home}, recentMark{at: e.At, logged: now, user: e.User, except: e.Except})
		}
	}
	// Not by the regions of the catalog: CONFIG may be behind.
	for _, home := range n.sessions().PendingHomes() {
		for fix := range n.sessions().Pending(home, n.wall()) {
			note(home, fix.Event)
		}
	}
}

// forget drops what no JWT can be alive of any more. What is pending may have been
// recorded long ago, and its home mints on: it counts as of now.
func (k *recent) forget(app string, before, now int64, held projection.Projection) {
	k.mu.Lock()
	defer k.mu.Unlock()
	a := k.apps[app]
	if a == nil {
		return
	}
	for sid, is := range a.sids {
		if is.away {
			if is.away = held.PendingSession(sid); is.away {
				is.logged = max(is.logged, now)
			}
			a.sids[sid] = is
		}
		if is.logged < before {
			delete(a.sids, sid)
		}
	}
	for key, all := range a.marks {
		if held.PendingAll(key.number, app, key.user) {
			for i := range all {
				if all[i].in != key.number {
					all[i].logged = max(all[i].logged, now)
				}
			}
		}
		if all = slices.DeleteFunc(all, func(m recentMark) bool { return m.logged < before }); len(all) == 0 {
			delete(a.marks, key)
		} else {
			a.marks[key] = all
		}
	}
	if len(a.sids)+len(a.marks) == 0 {
		delete(k.apps, app)
	}
}

// forgetRecent drops of each app what is older than its JWTs live.
func (n *Node) forgetRecent() {
	n.recent.mu.Lock()
	var apps []string
	for app := range n.recent.apps {
		apps = append(apps, app)
	}
	n.recent.mu.Unlock()
	for _, app := range apps {
		n.recent.forget(app, n.recentFrom(app), n.judged(), n.sessions())
	}
}

// recentFrom returns since when (unix ms) revocations of the app matter.
func (n *Node) recentFrom(id string) int64 {
	life := maxJWTTTL * time.Second
	if app, ok := n.app(id); ok {
		life = n.jwtLife(app)
	}
	return n.judged() - (life + recentMargin + maxClockSkew).Milliseconds()
}

// revocations answers GET /v1/revocations.
func (n *Node) revocations(_ context.Context, c *call) (int, any, error) {
	if err := c.nothing(); err != nil {
		return 0, nil, err
	}
	if _, stale := n.fresh(n.home.number); stale != nil {
		return 0, nil, stale
	}
	// The cursor first: all up to there was noted before it was applied, and who goes on
	// behind it is not told again what became of the app.
	revision, streams := n.throughCursor().String(), n.feedStreams(nil)
	app, ok := n.app(c.caller.app)
	if !ok {
		return 0, nil, appNotFound(c.caller.app)
	}
	out := &api.Revocations{
		Revision: revision, JWTLifeSeconds: int64(n.jwtLife(app).Seconds()), AppState: app.State, Streams: streams,
		Sessions: []string{}, Users: []api.Watermark{}, All: []api.Watermark{}, CompromisedKeys: []string{},
	}
	for _, key := range n.catalog.Snapshot().Keys(app.App) {
		if key.Event.Compromised {
			out.CompromisedKeys = append(out.CompromisedKeys, key.Event.KID)
		}
	}
	n.listRecent(app.App, n.recentFrom(app.App), out)
	return http.StatusOK, out, nil
}

// throughCursor returns how far this node is in the streams of which it knows every
// revocation that may matter.
func (n *Node) throughCursor() (all events.Revision) {
	n.feed.mu.Lock()
	defer n.feed.mu.Unlock()
	n.recent.mu.Lock()
	defer n.recent.mu.Unlock()
	for _, s := range n.streams() {
		if s.feeding && (s == n.settings || n.recent.through[s]) {
			at := s.position()
			at.Seq = max(s.applied.Load(), s.toldSeq)
			all = append(all, at)
		}
	}
	slices.SortFunc(all, func(a, b events.Position) int { return cmp.Compare(a.Stream, b.Stream) })
	return all
}

// since returns what was revoked of the app since, and when (unix ms). An applier may
// wait for it, so it copies, and leaves the rest to who asks.
func (k *recent) since(app string, from int64) (sids map[events.SID]int64, marks map[recentKey][]recentMark) {
	k.mu.Lock()
	defer k.mu.Unlock()
	a := k.apps[app]
	if a == nil {
		return nil, nil
	}
	sids, marks = make(map[events.SID]int64, len(a.sids)), make(map[recentKey][]recentMark, len(a.marks))
	for sid, is := range a.sids {
		if is.logged >= from {
			sids[sid] = is.logged
		}
	}
	for key, all := range a.marks {
		for _, m := range all {
			if m.logged >= from {
				marks[key] = append(marks[key], m)
			}
		}
	}
	return sids, marks
}

// listRecent adds what was revoked of the app since.
func (n *Node) listRecent(app string, from int64, out *api.Revocations) {
	sids, marks := n.recent.since(app, from)
	for sid := range sids {
		out.Sessions = append(out.Sessions, sid.String())
	}
	slices.Sort(out.Sessions)
	for key, all := range marks {
		for _, m := range all {
			w := api.Watermark{
				UserHash: key.user, UserID: m.user, Region: n.regionOf(key.number), Stream: key.number, RevokedAt: date(m.at),
				MintedUntil: n.mintedUntil(key.number, &m),
			}
			for _, sid := range m.except {
				w.Except = append(w.Except, sid.String())
			}
			if key.user == "" {
				out.All = append(out.All, w)
			} else {
				out.Users = append(out.Users, w)
			}
		}
	}
	order := func(a, b api.Watermark) int {
		return cmp.Or(cmp.Compare(a.UserHash, b.UserHash), cmp.Compare(a.Stream, b.Stream), a.RevokedAt.Compare(b.RevokedAt))
	}
	slices.SortFunc(out.Users, order)
	slices.SortFunc(out.All, order)
}
