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
)

// recentMargin is how much longer than the longest life of a JWT a revocation is
// told: some node may have minted a lease after it, by a clock of its own.
const recentMargin = 2 * time.Minute

// recent holds the revocations of which a JWT may still be alive, for verifiers that
// begin to follow a feed. Appliers add to it, before what they add counts as applied.
type recent struct {
	look chan struct{} // 1 deep: a stream is fed, and may not have been looked through

	mu   sync.Mutex // guards what follows
	apps map[string]*recentApp
	// through are the streams of which all that was revoked before this node began
	// is here too.
	through map[*stream]bool
}

// recentApp is what was revoked of one app.
type recentApp struct {
	sids  map[events.SID]int64 // when, unix ms
	marks map[recentKey][]recentMark
}

type recentKey struct {
	user   string // hash; empty: everybody
	number uint8  // of the stream whose sessions it is about
}

// recentMark is one revocation of every older session.
type recentMark struct {
	at     int64 // as it was asked for, unix ms
	logged int64 // when the log took it, unix ms
	user   string
	except []events.SID
}

func newRecent() recent {
	return recent{look: make(chan struct{}, 1), apps: map[string]*recentApp{}, through: map[*stream]bool{}}
}

// recall notes what the entry revokes: of the applier, as it comes, and of the look
// through the log. Twice is as good as once.
func (s *stream) recall(r *events.Record) {
	logged := r.Time.UnixMilli()
	if logged < s.node.judged()-recentMost.Milliseconds() {
		return
	}
	k := &s.node.recent
	k.mu.Lock()
	defer k.mu.Unlock()
	switch e := r.Event.(type) {
	case *events.Revoke:
		k.of(r.Subject.App).sids[e.SID] = logged
	case *events.RevokeAll:
		k.mark(r, homeOr(e.Home, s.number), recentMark{at: e.At, logged: logged, user: e.User, except: e.Except})
	default:
		// Not authentic: it took away all that its subject can mean.
		if r.Trust != events.Forged {
			return
		}
		if sid, err := events.ParseSID(r.Subject.ID); err == nil && r.Subject.Kind == events.KindRevoke {
			k.of(r.Subject.App).sids[sid] = logged
		} else if home, ok := r.Subject.Home(); ok {
			k.mark(r, homeOr(home, s.number), recentMark{at: logged, logged: logged})
		}
	}
}

// recentMost is how long ago anything here was revoked at most.
const recentMost = maxJWTTTL*time.Second + recentMargin + maxClockSkew

func (k *recent) of(app string) *recentApp {
	a := k.apps[app]
	if a == nil {
		a = &recentApp{sids: map[events.SID]int64{}, marks: map[recentKey][]recentMark{}}
		k.apps[app] = a
	}
	return a
}

// mark notes a revocation of every older session. One that spares nobody says what
// those before it said; one that spares a session says nothing of whether an earlier
// one took it.
func (k *recent) mark(r *events.Record, number uint8, m recentMark) {
	a, key := k.of(r.Subject.App), recentKey{r.Subject.User, number}
	kept := slices.DeleteFunc(a.marks[key], func(was recentMark) bool {
		return was.at == m.at && was.logged == m.logged || len(m.except) == 0 && was.at <= m.at && was.logged <= m.logged
	})
	a.marks[key] = append(kept, m)
}

// fillRecent adds, until ctx ends, what was revoked before this node began to follow
// a stream: it may have begun from a snapshot, and not have read the revocations.
// What a session says of its revocation would not do: one that was recorded elsewhere
// may have been asked for long before it was heard.
func (n *Node) fillRecent(ctx context.Context) error {
	for {
		again := false
		for _, s := range n.streams() {
			if s == n.settings || !n.awaitsRecent(s) {
				continue
			}
			if err := s.lookThrough(ctx); err != nil {
				n.conf.Log.Warn("recent revocations were not read; tried again", "stream", s.region, "error", err)
				again = true
			}
		}
		var retry <-chan time.Time
		if again {
			retry = time.After(time.Second)
		}
		select {
		case <-n.recent.look:
		case <-retry:
		case <-ctx.Done():
			return nil
		}
	}
}

// awaitsRecent reports whether the stream is fed, and was not looked through.
func (n *Node) awaitsRecent(s *stream) bool {
	n.feed.mu.Lock()
	defer n.feed.mu.Unlock()
	n.recent.mu.Lock()
	defer n.recent.mu.Unlock()
	return s.feeding && !n.recent.through[s]
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
	what := events.Range{Since: time.UnixMilli(s.node.judged()).Add(-recentMost), To: s.applied.Load()}
	for _, k := range []events.Kind{events.KindRevoke, events.KindAll} {
		what.Filters = append(what.Filters, events.Subject{Region: s.region, App: "*", User: "*", ID: "*", Kind: k}.String())
	}
	err := s.log.Read(ctx, what, func(e events.Entry) bool {
		r := s.node.conf.Keys.Decode(s.number, e)
		s.recall(&r)
		return true
	})
	if err != nil {
		return err
	}
	s.node.recent.mu.Lock()
	defer s.node.recent.mu.Unlock()
	s.node.recent.through[s] = true
	return nil
}

// forget drops what no JWT can be alive of any more.
func (k *recent) forget(app string, before int64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	a := k.apps[app]
	if a == nil {
		return
	}
	for sid, at := range a.sids {
		if at < before {
			delete(a.sids, sid)
		}
	}
	for key, all := range a.marks {
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
		n.recent.forget(app, n.recentFrom(app))
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
	app, ok := n.app(c.caller.app)
	if !ok {
		return 0, nil, appNotFound(c.caller.app)
	}
	if _, stale := n.fresh(n.home.number); stale != nil {
		return 0, nil, stale
	}
	out := &api.Revocations{
		JWTLifeSeconds: int64(n.jwtLife(app).Seconds()), AppState: app.State, Streams: n.feedStreams(nil),
		Sessions: []string{}, Users: []api.Watermark{}, All: []api.Watermark{}, CompromisedKeys: []string{},
	}
	// The cursor first: all up to there was noted before it was applied.
	out.Revision = n.throughCursor().String()
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
	for sid, at := range a.sids {
		if at >= from {
			sids[sid] = at
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
			w := api.Watermark{UserHash: key.user, UserID: m.user, Region: n.regionOf(key.number), Stream: key.number, RevokedAt: date(m.at)}
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
