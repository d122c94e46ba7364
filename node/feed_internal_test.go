package node

import (
	"context"
	"errors"
	"math"
	"net/http"
	"net/http/httptest"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node/api"
)

// fed is a node that does not run, whose streams are fed by hand.
type fed struct {
	*Node
	t    *testing.T
	keys *events.ClusterKeys
	seq  uint64
}

func newFed(t *testing.T) *fed {
	t.Helper()
	keys, err := events.NewClusterKeys(events.NewClusterKey())
	if err != nil {
		t.Fatal(err)
	}
	n := memoryNode(t, keys)
	n.settings.joinFeed()
	n.home.joinFeed()
	return &fed{Node: n, t: t, keys: keys}
}

// revoke has the home stream deliver the revocation of some session.
func (f *fed) revoke() {
	f.t.Helper()
	f.seq++
	sid := events.SID{f.home.number, byte(f.seq)}
	m, err := f.keys.Encode(f.home.region, &events.Revoke{App: "acme", User: "ada", SID: sid, At: 1, AbsoluteAt: f.wall() + 1e6}, nil, time.Hour)
	if err != nil {
		f.t.Fatal(err)
	}
	if err := errors.Join(f.home.take(events.Entry{Seq: f.seq, Time: f.conf.Clock.Wall(), Message: m}), f.home.flush()); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fed) reader(from events.Revision) *feedReader {
	f.t.Helper()
	r, err := f.readFeed(f.t.Context(), feedFilter{app: "acme"}, from)
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(r.close)
	return r
}

func isStale(err error) bool {
	_, stale := errors.AsType[*staleError](err)
	return stale
}

func (f *fed) join(r *feedReader) {
	f.t.Helper()
	if _, err := r.join(); err != nil {
		f.t.Fatal(err)
	}
}

// A stream that is read again, while a feed that goes on in it waits for another, is
// no part of that feed: what comes next in it is not what follows the cursor. The feed
// keeps its place there; without the home there is none.
func TestFeedOfAStreamThatIsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFed(t)
		cursor, err := events.ParseRevision("_config:0:0,eu:0:5")
		if err != nil {
			t.Fatal(err)
		}
		got := make(chan error, 1)
		go func() {
			r, err := f.readFeed(t.Context(), feedFilter{app: "acme"}, cursor)
			if err == nil {
				r.close()
				if _, ok := r.at[f.settings]; ok || r.cursor().String() != cursor.String() {
					t.Errorf("a feed goes on in a stream that is being read again, at %s", r.cursor())
				}
			}
			got <- err
		}()
		synctest.Wait()
		f.settings.leaveFeed()
		f.home.advance(5)
		if err := <-got; err != nil {
			t.Error(err)
		}
		f.home.leaveFeed()
		if _, err := f.readFeed(t.Context(), feedFilter{app: "acme"}, cursor); !isStale(err) {
			t.Errorf("a feed goes on without the home: %v", err)
		}
	})
}

// An event keeps the generation in which it was applied, and a reader goes on in no
// other: neither when this node read the log again, nor when another did.
func TestFeedGenerations(t *testing.T) {
	for name, change := range map[string]func(*stream){
		"rewound": func(s *stream) { s.begin(false); s.joinFeed() },
		"adopted": func(s *stream) { s.fold.Adopt(1) },
	} {
		synctest.Test(t, func(t *testing.T) {
			f := newFed(t)
			r := f.reader(nil)
			f.revoke()
			entries, _, err := r.scan()
			if err != nil || len(entries) != 1 {
				t.Fatalf("%s: %d entries, %v", name, len(entries), err)
			}
			change(f.home)
			if e := entries[0].event(); e.pos.String() != "eu:0:1" || e.Revision != "eu:0:1" {
				t.Errorf("%s: the event stands at %s, and says %s", name, e.pos, e.Revision)
			}
			if all, _, err := r.poll(t.Context()); !errors.Is(err, errFeedRewound) {
				t.Errorf("%s: the reader goes on with %d, %v", name, len(all), err)
			}
		})
	}
}

// A reader takes up a stream that is fed later, from where it is then.
func TestFeedJoins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFed(t)
		f.home.leaveFeed()
		r := f.reader(nil)
		f.join(r)
		if got := r.cursor().String(); got != "_config:0:0" {
			t.Errorf("before: %s", got)
		}
		f.revoke()
		f.home.joinFeed()
		if f.join(r); r.cursor().String() != "_config:0:0,eu:0:1" {
			t.Errorf("after: %s", r.cursor())
		}
		f.revoke()
		if all, _, err := r.poll(context.Background()); err != nil || len(all) != 1 || all[0].pos.Seq != 2 {
			t.Errorf("%d events, %v", len(all), err)
		}
	})
}

// A stream may have caught up, and be fed, before anything of it counts as applied.
// What the log holds then must not pass for looked through.
func TestLookThroughWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFed(t)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := f.home.lookThrough(ctx); err == nil || f.recallsAll(f.home) {
			t.Errorf("looked through before anything was applied: %v", err)
		}
		f.revoke()
		if err := f.home.lookThrough(t.Context()); err != nil || !f.recallsAll(f.home) {
			t.Errorf("not looked through: %v", err)
		}
	})
}

// Of two entries that revoke a session, recorded elsewhere and delivered, the later
// counts, in whichever order they are read.
func TestRecentKeepsTheLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFed(t)
		sid, now := events.SID{f.home.number, 1}, f.conf.Clock.Wall()
		for _, ago := range []time.Duration{time.Minute, time.Hour, 20 * time.Minute} {
			f.home.recall(&events.Record{
				Subject: events.Subject{App: "acme", Kind: events.KindRevoke}, Time: now.Add(-ago), Trust: events.Authentic,
				Event: &events.Revoke{App: "acme", SID: sid},
			}, 0)
		}
		sids, _ := f.recent.since("acme", 0)
		if got := now.Sub(time.UnixMilli(sids[sid])).Round(time.Second); got != time.Minute {
			t.Errorf("revoked %v ago", got)
		}
	})
}

// What /v1/revocations says of the app is not older than its cursor: who goes on from
// there would never hear of it.
func TestRevocationsAreNoOlderThanTheirCursor(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(2)) // no bubble: the two are to run beside each other
	f := newFed(t)
	f.settings.lease.deadline.Store(math.MaxInt64)
	f.home.lease.deadline.Store(math.MaxInt64)
	done := make(chan struct{})
	const changes = 3000
	put := func(i int64) {
		a := &events.App{App: "acme", State: events.AppActive, Settings: events.AppSettings{JWTTTL: 60 + i}}
		if a.Prev = uint64(i - 1); i == 1 {
			a.Prev = 0
		}
		m, err := f.keys.Encode(events.ConfigRegion, a, nil, 0)
		if err == nil {
			err = errors.Join(f.settings.take(events.Entry{Seq: uint64(i), Time: f.conf.Clock.Wall(), Message: m}), f.settings.flush())
		}
		if err != nil {
			t.Error(err)
		}
	}
	put(1)
	go func() {
		defer close(done)
		for i := int64(2); i <= changes; i++ {
			put(i)
		}
	}()
	c := &call{n: f.Node, r: httptest.NewRequest("GET", "/v1/revocations", nil), h: http.Header{}, caller: caller{app: "acme"}}
	for over := false; !over; {
		select {
		case <-done:
			over = true
		default:
		}
		_, body, err := f.revocations(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		out := body.(*api.Revocations)
		at, err := events.ParseRevision(out.Revision)
		if err != nil {
			t.Fatal(err)
		}
		config, _ := at.In(events.ConfigRegion)
		if out.JWTLifeSeconds < 60+int64(config.Seq) {
			t.Fatalf("at %s JWTs live %d s", config, out.JWTLifeSeconds)
		}
	}
}

// logout has the stream of the number deliver a log-out of everybody, recorded there for
// the home of that number, 0 for itself.
func (f *fed) logout(home uint8, at time.Time, gen uint32, except ...events.SID) {
	f.t.Helper()
	f.seq++
	f.home.recall(&events.Record{
		Seq: f.seq, Subject: events.Subject{App: "acme", Kind: events.KindAll}, Time: at, Trust: events.Authentic,
		Event: &events.RevokeAll{App: "acme", At: at.UnixMilli(), Home: home, Except: except},
	}, gen)
}

// Until when the nodes of a home may not have known of a log-out is told only where no
// node can have minted later: not of what the home is yet to be told, nor of what its log
// lost, and of what was read late only from then on.
func TestMintedUntil(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFed(t)
		f.home.lease.deadline.Store(math.MaxInt64)
		list := func() (all []api.Watermark) {
			var out api.Revocations
			f.listRecent("acme", 0, &out)
			return out.All
		}
		own, now, allow := f.home.number, f.conf.Clock.Wall(), f.maxWait()+2*maxClockSkew
		f.logout(0, now.Add(-time.Minute), 0)
		if all := list(); len(all) != 1 || all[0].MintedUntil == nil || all[0].MintedUntil.Sub(now).Round(time.Second) != allow.Round(time.Second) {
			t.Errorf("read late: %+v", all)
		}
		f.logout(0, now, 0, events.SID{own, 1})
		if all := list(); len(all) != 2 || all[1].MintedUntil == nil || all[1].MintedUntil.Sub(now) < allow {
			t.Errorf("one that spares somebody: %+v", all)
		}
		// One for another home is about that, and one that is delivered is the home's own.
		f.logout(own+1, now.Add(time.Second), 0)
		f.logout(own, now.Add(time.Second), 0)
		for _, w := range list() {
			if (w.Stream == own) != (w.MintedUntil != nil) {
				t.Errorf("in the stream of eu: %+v", w)
			}
		}
		f.home.fold.Adopt(1)
		for _, w := range list() {
			if w.MintedUntil != nil {
				t.Errorf("of an earlier log: %+v", w)
			}
		}
		f.logout(own, now.Add(time.Second), 1)
		if all := list(); all[0].MintedUntil == nil {
			t.Errorf("of the present log: %+v", all)
		}
		f.home.lease.drop(reasonSilent)
		if all := list(); all[0].MintedUntil != nil {
			t.Errorf("without a lease: %+v", all)
		}
	})
}
