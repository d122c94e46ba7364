package node

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/revocast/revocast/events"
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

// A stream that is read again, while a feed that goes on in it waits for another, is
// no part of that feed: what comes next in it is not what follows the cursor.
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
			}
			got <- err
		}()
		synctest.Wait()
		f.settings.leaveFeed()
		f.home.advance(5)
		if _, stale := errors.AsType[*staleError](<-got); !stale {
			t.Error("a feed goes on in a stream that is being read again")
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
		r.join()
		if got := r.cursor().String(); got != "_config:0:0" {
			t.Errorf("before: %s", got)
		}
		f.revoke()
		f.home.joinFeed()
		if r.join(); r.cursor().String() != "_config:0:0,eu:0:1" {
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
		if err := f.home.lookThrough(ctx); err == nil || !f.awaitsRecent(f.home) {
			t.Errorf("looked through before anything was applied: %v", err)
		}
		f.revoke()
		if err := f.home.lookThrough(t.Context()); err != nil || f.awaitsRecent(f.home) {
			t.Errorf("not looked through: %v", err)
		}
	})
}
