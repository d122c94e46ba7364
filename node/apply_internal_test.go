package node

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/projection"
)

// groups notes which records are folded together.
type groups struct {
	fold
	kinds [][]events.Kind
}

func (f *groups) ApplyAll(rs []events.Record, effects []projection.Effect) {
	var kinds []events.Kind
	for i := range rs {
		kinds = append(kinds, rs[i].Subject.Kind)
	}
	f.kinds = append(f.kinds, kinds)
	f.fold.ApplyAll(rs, effects)
}

// R12 with many entries at hand: an own heartbeat among them is the last of what
// is folded together, and renews the lease though more was at hand behind it.
func TestHeartbeatsAreBarriers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		keys, err := events.NewClusterKeys(events.NewClusterKey())
		if err != nil {
			t.Fatal(err)
		}
		n := memoryNode(t, keys)
		s := n.home
		seen := &groups{fold: s.fold}
		s.fold = seen
		seq := uint64(0)
		take := func(e events.Event, forged bool) (print uint64) {
			t.Helper()
			m, err := keys.Encode("eu", e, []byte("{}"), time.Hour)
			if err != nil {
				t.Fatal(err)
			}
			if forged {
				m.Seal = ""
			}
			seq++
			if err := s.take(events.Entry{Seq: seq, Time: time.Now(), Message: m}); err != nil {
				t.Fatal(err)
			}
			return m.Fingerprint()
		}
		now := n.wall()
		create := func() events.SID {
			sid, _ := events.NewToken(2).Key()
			take(&events.State{App: "a", User: "u", SID: sid, Reason: events.ReasonCreated, CreatedAt: now, ExpiresAt: now + 1e6, AbsoluteAt: now + 1e6}, false)
			return sid
		}
		for range 5 {
			create()
		}
		beat := s.beats.Add(1)
		s.lease.sending(beat, n.conf.Clock.Boot())
		print := take(&events.Beat{Node: "n1", Incarnation: n.incarnation, N: beat, Format: 1, Keys: n.announcedKeys()}, false)
		s.sent.note(beat, print)
		for range 3 {
			create()
		}
		last := create()
		take(&events.Touch{App: "a", User: "u", SID: last, At: now}, true)
		create()
		if got := s.applied.Load(); got != 0 {
			t.Fatalf("applied up to %d before Flush", got)
		}
		if err := s.flush(); err != nil {
			t.Fatal(err)
		}
		st, hb, tch := events.KindState, events.KindBeat, events.KindTouch
		want := [][]events.Kind{{st, st, st, st, st, hb}, {st, st, st, st, tch}, {st}}
		if len(seen.kinds) != len(want) {
			t.Fatalf("folded together: %v, want %v", seen.kinds, want)
		}
		for i := range want {
			if len(seen.kinds[i]) != len(want[i]) || seen.kinds[i][len(want[i])-1] != want[i][len(want[i])-1] {
				t.Errorf("folded together: %v, want %v", seen.kinds, want)
			}
		}
		if !s.lease.holds(n.conf.Clock.Boot()) || s.applied.Load() != seq {
			t.Errorf("lease held: %v, applied up to %d of %d", s.lease.holds(n.conf.Clock.Boot()), s.applied.Load(), seq)
		}
		if a, err := n.bySID(last); err != nil || a.verdict != projection.Active {
			t.Errorf("created last: %v, %v", a.verdict, err)
		}
	})
}

// Once it is known that the log went backwards nothing more is applied, also of
// what was at hand already.
func TestNothingAppliedOnceDoomed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		keys, err := events.NewClusterKeys(events.NewClusterKey())
		if err != nil {
			t.Fatal(err)
		}
		n := memoryNode(t, keys)
		s := n.home
		for i := range uint64(3) {
			m, err := keys.Encode("eu", &events.Beat{Node: "n2", Incarnation: events.NewIncarnation(), N: 1, Format: 1}, nil, time.Hour)
			if err != nil {
				t.Fatal(err)
			}
			if err := s.take(events.Entry{Seq: i + 1, Time: time.Now(), Message: m}); err != nil {
				t.Fatal(err)
			}
		}
		s.fold = meddled{s.fold, func() { s.rewound(0) }}
		if err := s.flush(); !errors.Is(err, events.ErrRewound) || s.applied.Load() != 1 {
			t.Errorf("flush: %v, applied up to %d", err, s.applied.Load())
		}
	})
}
