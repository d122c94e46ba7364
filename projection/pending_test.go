package projection_test

import (
	"slices"
	"testing"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/projection"
)

// pending returns what the home is yet to say.
func (l *log) pending() (out []events.Event) {
	for fix := range l.m.Pending(l.num, l.now) {
		out = append(out, fix.Event)
	}
	return out
}

// awayLog is another stream of the same projection.
func (l *log) awayLog(num uint8) *log { return &log{t: l.t, m: l.m, num: num, now: l.now} }

func allAway(at int64, except ...events.SID) *events.RevokeAll {
	e := all("u", 0, except...)
	e.At, e.Home = at, home
	return e
}

func TestPending(t *testing.T) {
	tests := map[string]func(l, away *log, e, f *events.State){
		"a session, until its home says it": func(l, away *log, e, f *events.State) {
			away.add(revoke(e))
			l.add(e)
			l.verdict(s1, revoked)
			if !l.m.PendingSession(s1) || l.m.PendingLen(home) != 1 || l.m.PendingLen(away.num) != 0 || !slices.Equal(l.m.PendingHomes(), []uint8{home}) {
				t.Error("it is not pending")
			}
			got := l.pending()
			if rev, ok := got[0].(*events.Revoke); len(got) != 1 || !ok || rev.SID != s1 || rev.Home != 0 || rev.Reason != "logout" || rev.AbsoluteAt != e.AbsoluteAt {
				t.Errorf("%+v", got)
			}
			l.add(got[0])
			if l.m.PendingSession(s1) || l.m.PendingLen(home) != 0 || len(l.m.PendingHomes()) != 0 || len(l.pending()) != 0 {
				t.Error("it is pending though its home says it")
			}
		},
		"not of what the home said before": func(l, away *log, e, f *events.State) {
			l.add(e)
			l.add(all("u", 0))
			away.add(revoke(e))
			if got := l.pending(); len(got) != 0 {
				t.Errorf("%+v", got)
			}
		},
		"a later token ends its session first": func(l, away *log, e, f *events.State) {
			key := sid(home, 9)
			e.Aliases = []events.Alias{{Key: key}}
			l.add(e)
			away.add(&events.Revoke{App: "app", SID: key, At: base})
			got := l.pending()
			if rev := got[0].(*events.Revoke); len(got) != 1 || rev.SID != s1 || rev.User != "u" {
				t.Fatalf("%+v", got)
			}
			l.add(got[0])
			l.verdict(s1, revoked)
			got = l.pending()
			if rev := got[0].(*events.Revoke); len(got) != 1 || rev.SID != key {
				t.Fatalf("%+v", got)
			}
			l.add(got[0])
			if got = l.pending(); len(got) != 0 {
				t.Errorf("%+v", got)
			}
		},
		"of several regions one says all": func(l, away *log, e, f *events.State) {
			f.User = "u"
			g := state(sid(home, 3), "u")
			g.CreatedAt = base + hour
			other := l.awayLog(4)
			l.add(e)
			l.add(f)
			l.add(g)
			away.add(allAway(base, s1))                    // takes f
			other.add(allAway(base+2*hour, s1, s2, g.SID)) // takes nobody
			got := l.pending()
			a, ok := got[0].(*events.RevokeAll)
			if len(got) != 1 || !ok || a.At != base+2*hour || a.Home != home || a.Prev != 0 {
				t.Fatalf("%+v", got)
			}
			slices.SortFunc(a.Except, func(a, b events.SID) int { return slices.Compare(a[:], b[:]) })
			want := []events.SID{s1, g.SID}
			slices.SortFunc(want, func(a, b events.SID) int { return slices.Compare(a[:], b[:]) })
			if !slices.Equal(a.Except, want) {
				t.Errorf("spares %v, want %v", a.Except, want)
			}
			l.add(a)
			if l.m.PendingAll(home, "app", events.UserHash("app", "u")) {
				t.Error("it is pending though its home says it")
			}
			alone := l.rebuilt()
			for s, want := range map[events.SID]projection.Verdict{s1: active, s2: revoked, g.SID: active} {
				if _, v := alone.Lookup(s, l.now); v != want {
					t.Errorf("%v is %v for its home alone, want %v", s, v, want)
				}
			}
		},
		"one that comes later and spares less is delivered as well": func(l, away *log, e, f *events.State) {
			l.add(e)
			l.awayLog(4).add(allAway(base+hour, s1))
			l.add(l.pending()[0])
			l.verdict(s1, active)
			away.add(allAway(base))
			got := l.pending()
			if a := got[0].(*events.RevokeAll); a.At != base+hour || len(a.Except) != 0 || a.Prev != 2 {
				t.Fatalf("%+v", a)
			}
			l.must(applied, l.add(got[0]))
			if got = l.pending(); len(got) != 0 {
				t.Errorf("%+v", got)
			}
		},
		"not of what is forged until it is repaired": func(l, away *log, e, f *events.State) {
			l.add(e)
			away.add(&events.Beat{N: 1})
			away.must(overwrite, away.forge(allAway(base)))
			l.verdict(s1, revoked)
			if got := l.pending(); len(got) != 0 {
				t.Errorf("%+v", got)
			}
			fix := away.repair(allAway(base).Subject(away.region())).(*events.RevokeAll)
			if fix.Home != home || fix.User != "u" || fix.Before != 0 {
				t.Errorf("repaired as %+v", fix)
			}
			if got := l.pending(); len(got) != 1 {
				t.Errorf("%+v", got)
			}
		},
		"kept when the stream it stands in goes backwards": func(l, away *log, e, f *events.State) {
			l.add(e)
			l.add(f)
			away.add(revoke(f))
			away.add(allAway(base))
			l.m.Rewind(away.num)
			l.verdict(s1, revoked)
			l.verdict(s2, revoked)
			if got := l.pending(); len(got) != 2 {
				t.Errorf("%+v", got)
			}
			if _, at := l.m.LastAway(away.num, home, "app", "u"); at != base {
				t.Errorf("the next could be asked for at %d", at)
			}
			away.seq = 0
			away.add(&events.Beat{N: 1})
			var lost []events.Event
			for fix := range l.m.Lost(away.num, l.now) {
				lost = append(lost, fix.Event)
			}
			if len(lost) != 2 {
				t.Fatalf("%d are lost", len(lost))
			}
			for _, e := range lost {
				away.must(applied, away.add(e))
			}
			for fix := range l.m.Lost(away.num, l.now) {
				t.Errorf("lost although it was appended again: %+v", fix.Event)
			}
			fresh := new(projection.Map)
			for _, r := range slices.Concat(l.recs, away.recs[2:]) {
				fresh.Apply(r)
			}
			for _, s := range []events.SID{s1, s2} {
				if _, v := fresh.Lookup(s, l.now); v != revoked {
					t.Errorf("%v is %v for who reads the log anew", s, v)
				}
			}
			if n := fresh.PendingLen(home); n != 2 || !slices.Equal(fresh.PendingHomes(), []uint8{home}) {
				t.Errorf("%d are pending for who reads the log anew", n)
			}
		},
		"spared only by all before": func(l, away *log, e, f *events.State) {
			spared := func() bool { return l.m.SparedAway(away.num, home, "app", "u", s1) }
			if !spared() {
				t.Error("nothing was revoked")
			}
			away.add(allAway(base, s1))
			if !spared() {
				t.Error("it was spared")
			}
			away.add(allAway(base + 1))
			if spared() {
				t.Error("it was revoked")
			}
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			l := newLog(t)
			test(l, l.awayLog(3), state(s1, "u"), state(s2, "v"))
		})
	}
}
