package node

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/projection"
)

// A cluster key comes while entries at hand together are being applied, after
// those that it opens were found unreadable: the stream is read again for it, the
// lease not renewed before, and what stands there not taken for an overwrite.
func TestKeyComesAmongEntries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first, second := events.NewClusterKey(), events.NewClusterKey()
		both, err := events.NewClusterKeys(second, first)
		if err != nil {
			t.Fatal(err)
		}
		keys, err := events.NewClusterKeys(first)
		if err != nil {
			t.Fatal(err)
		}
		more, err := events.NewClusterKeys(first, second)
		if err != nil {
			t.Fatal(err)
		}
		n := memoryNode(t, keys)
		s := n.home
		seq := uint64(0)
		take := func(by *events.ClusterKeys, e events.Event) (print uint64) {
			t.Helper()
			m, err := by.Encode("eu", e, []byte("{}"), time.Hour)
			if err != nil {
				t.Fatal(err)
			}
			seq++
			if err := s.take(events.Entry{Seq: seq, Time: time.Now(), Message: m}); err != nil {
				t.Fatal(err)
			}
			return m.Fingerprint()
		}
		sid, _ := events.NewToken(2).Key()
		now := n.wall()
		take(both, &events.State{App: "a", User: "u", SID: sid, Reason: events.ReasonCreated, CreatedAt: now, ExpiresAt: now + 1e6, AbsoluteAt: now + 1e6})
		beat := s.beats.Add(1)
		s.lease.sending(beat, n.conf.Clock.Boot())
		s.sent.note(beat, take(keys, &events.Beat{Node: "n1", Incarnation: n.incarnation, N: beat, Format: 1, Keys: n.announcedKeys()}))

		s.fold = meddled{s.fold, func() {
			if err := keys.Replace(more); err != nil {
				t.Error(err)
			}
		}}
		if err := s.flush(); err != nil {
			t.Fatal(err)
		}
		if !s.opens() {
			t.Error("nothing has the stream read again with the key that came")
		}
		if s.lease.holds(n.conf.Clock.Boot()) {
			t.Error("the lease was renewed by a heartbeat behind an entry that was not read")
		}
	})
}

// meddled calls come before it applies anything.
type meddled struct {
	fold
	come func()
}

func (f meddled) ApplyAll(rs []events.Record, effects []projection.Effect) {
	f.come()
	f.fold.ApplyAll(rs, effects)
}
