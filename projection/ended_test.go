package projection_test

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/projection"
)

// ended returns what Ended yields of all slices.
func ended(m *projection.Map, stream uint8, after, until int64) (all []projection.Ended) {
	for slice := range 256 {
		all = slices.AppendSeq(all, m.Ended(uint8(slice), stream, after, until))
	}
	return all
}

func TestEnded(t *testing.T) {
	for name, m := range map[string]*projection.Map{"pages": new(projection.Map), "maps": projection.NewModel()} {
		l := newLog(t)
		l.m = m
		of := func(n int, change func(*events.State)) *events.State {
			e := state(sid(home, n), "ada")
			change(e)
			l.add(e)
			return e
		}
		plain := of(1, func(*events.State) {})
		idle := of(2, func(e *events.State) { e.Idle = 600 })
		extended := of(3, func(*events.State) {})
		l.add(changed(extended, l.seq, l.seq, func(e *events.State) { e.ExpiresAt += hour }))
		used := of(4, func(e *events.State) { e.Idle = 600 })
		l.add(changed(used, l.seq, l.seq, nil))
		l.now += minute
		l.add(touch(used, l.now))
		l.add(revoke(of(5, func(*events.State) {})))
		of(6, func(*events.State) {})
		l.add(&events.Expire{App: "app", User: "ada", SID: plain.SID, At: base, Reason: events.ReasonExpired})
		l.add(revoke(state(sid(home, 6), "ada")))
		l.add(revoke(state(sid(home, 7), "ada"))) // a tombstone alone

		const lateBy = minute + 15*second // a tenth of ten minutes, and a lease
		want := []projection.Ended{
			{SID: idle.SID, App: "app", User: "ada", CreatedAt: base, At: base + 10*minute + lateBy, Idle: true},
			{SID: used.SID, App: "app", User: "ada", CreatedAt: base, At: base + 11*minute + lateBy, Idle: true},
			{SID: plain.SID, App: "app", User: "ada", CreatedAt: base, At: base + hour},
			{SID: extended.SID, App: "app", User: "ada", CreatedAt: base, At: base + 2*hour},
		}
		byTime := cmpopts.SortSlices(func(a, b projection.Ended) bool { return a.At < b.At })
		for i := range want {
			for j := i; j <= len(want); j++ {
				after, until := want[i].At-1, base+3*hour
				if j < len(want) {
					until = want[j].At - 1
				}
				if diff := cmp.Diff(want[i:j], ended(m, home, after, until), byTime, cmpopts.EquateEmpty()); diff != "" {
					t.Errorf("%s: after %d, until %d: %s", name, after, until, diff)
				}
			}
		}
		if all := ended(m, home+1, 0, base+3*hour); all != nil {
			t.Errorf("%s: of another stream %v", name, all)
		}
		if got, now := m.Settled(home, base+hour), l.now-30*second; got != now {
			t.Errorf("%s: settled at %d, want %d: the log's time is the earlier", name, got, now)
		}
		if got := m.Settled(home, base); got != base-30*second {
			t.Errorf("%s: settled at %d: the wall clock is the earlier", name, got)
		}
	}
}

// BenchmarkEnded looks once for what has ended among a million sessions, and
// sweeps them: a node does both once a minute.
func BenchmarkEnded(b *testing.B) {
	m, _, _ := million(b)
	b.Run("pass", func(b *testing.B) {
		for b.Loop() {
			for slice := range 256 {
				for range m.Ended(uint8(slice), home, base-1, base) {
					b.Fatal("nothing has ended")
				}
			}
		}
	})
	b.Run("sweep", func(b *testing.B) {
		for b.Loop() {
			for slice := range 256 {
				m.Sweep(uint8(slice), base)
			}
		}
	})
}
