package projection_test

import (
	"slices"
	"testing"
	"time"

	"github.com/revocast/revocast/events"
)

func TestRevoke(t *testing.T) {
	tests := map[string]func(l *log, e *events.State){
		"says why": func(l *log, e *events.State) {
			l.add(e)
			l.must(applied, l.add(revoke(e)))
			s := l.verdict(s1, revoked)
			if s.RevokedAt != base || s.RevokedBy != "admin" || s.RevokeReason != "logout" {
				t.Errorf("%+v", s)
			}
		},
		"nothing revives": func(l *log, e *events.State) {
			l.add(e)
			l.add(revoke(e))
			l.add(changed(e, 1, 1, func(e *events.State) { e.ExpiresAt = base + 20*hour }))
			l.add(touch(e, l.now))
			l.replay(1)
			l.verdict(s1, revoked)
			l.now += 2 * hour
			l.verdict(s1, revoked)
		},
		"counts before its session": func(l *log, e *events.State) {
			l.add(revoke(e))
			s := l.verdict(s1, revoked)
			if s.AbsoluteAt != e.AbsoluteAt {
				t.Errorf("tombstone until %d", s.AbsoluteAt)
			}
			l.add(changed(e, 1, 1, nil))
			l.verdict(s1, revoked)
		},
		"a tombstone ends with absolute expiry": func(l *log, e *events.State) {
			l.add(revoke(e))
			l.now = e.AbsoluteAt - 1
			l.verdict(s1, revoked)
			l.now++
			l.verdict(s1, unknown)
		},
		"a tombstone of unknown life lasts a year": func(l *log, e *events.State) {
			e.AbsoluteAt = 0
			l.add(revoke(e))
			l.now += int64(events.UnknownLifetime/time.Millisecond) - 1
			l.verdict(s1, revoked)
			l.now++
			l.verdict(s1, unknown)
		},
		"a forged one takes away and is repaired": func(l *log, e *events.State) {
			l.add(e)
			l.must(overwrite, l.forge(revoke(e)))
			if s := l.verdict(s1, revoked); s.RevokeReason != "overwritten" || s.RevokedBy != "" {
				t.Errorf("%+v", s)
			}
			l.repair(revoke(e).Subject(region))
			if s := lookup(l.rebuilt(), s1); s.RevokeReason != "overwritten" {
				t.Errorf("%+v", s)
			}
		},
		"a forged one leaves the reason": func(l *log, e *events.State) {
			l.add(e)
			l.add(revoke(e))
			l.must(overwrite, l.forge(revoke(e)))
			if s := l.verdict(s1, revoked); s.RevokeReason != "logout" {
				t.Errorf("%+v", s)
			}
		},
		"a forged one of an unknown sid is a tombstone": func(l *log, e *events.State) {
			l.must(overwrite, l.forge(revoke(e)))
			if _, ok := l.m.Repair(revoke(e).Subject(region), l.seq, l.now); ok {
				t.Error("nobody knows the user")
			}
			l.add(e)
			l.verdict(s1, revoked)
		},
		"from several streams, in any order": func(l *log, e *events.State) {
			reasons := map[string]bool{}
			for _, order := range [][]uint8{{3, 4}, {4, 3}} {
				l := newLog(t)
				l.add(e)
				for _, num := range order {
					away := &log{t: t, m: l.m, num: num, now: base}
					rev := revoke(e)
					rev.Home, rev.Reason = home, away.region()
					away.add(rev)
				}
				reasons[l.verdict(s1, revoked).RevokeReason] = true
				l.add(revoke(e))
				if s := l.verdict(s1, revoked); s.RevokeReason != "logout" {
					t.Errorf("%+v", s)
				}
			}
			if len(reasons) != 1 {
				t.Errorf("the reason depends on the order: %v", reasons)
			}
		},
		"from another stream": func(l *log, e *events.State) {
			l.add(e)
			digest := l.m.Digest(home, l.now)
			away := &log{t: t, m: l.m, num: 3, now: base}
			rev := revoke(e)
			rev.Home = home
			away.must(applied, away.add(rev))
			l.verdict(s1, revoked)
			if got := l.m.Digest(home, l.now); got != digest {
				t.Error("the home stream's digest depends on another stream")
			}
			away.must(overwrite, away.forge(rev))
			fix, ok := l.m.Repair(rev.Subject("r3"), away.seq, l.now)
			if !ok || fix.Event.(*events.Revoke).Home != home {
				t.Errorf("repaired as %+v", fix.Event)
			}
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) { test(newLog(t), state(s1, "u")) })
	}
}

func TestRevokeAll(t *testing.T) {
	tests := map[string]func(l *log, e, f *events.State){
		"of a user": func(l *log, e, f *events.State) {
			l.add(e)
			l.add(f)
			l.must(applied, l.add(all("u", 0)))
			s := l.verdict(s1, revoked)
			if s.RevokeReason != "everywhere" || s.RevokedBy != "admin" || s.RevokedAt != base {
				t.Errorf("%+v", s)
			}
			l.verdict(s2, active)
			if got := l.m.LastAll(home, "app", "u"); got != 3 {
				t.Errorf("last all %d", got)
			}
		},
		"of an app": func(l *log, e, f *events.State) {
			other := *f
			other.SID, other.App = sid(home, 3), "app2"
			l.add(e)
			l.add(f)
			l.add(&other)
			l.add(all("", 0, s2))
			l.verdict(s1, revoked)
			l.verdict(s2, active)
			l.verdict(other.SID, active)
			if got := l.m.LastAll(home, "app", ""); got != 4 {
				t.Errorf("last all %d", got)
			}
		},
		"spares later ones": func(l *log, e, f *events.State) {
			l.add(all("u", 0))
			l.add(e)
			l.verdict(s1, active)
		},
		"meets an older one that comes later": func(l *log, e, f *events.State) {
			l.seq = 4
			l.add(all("u", 0))
			l.add(changed(e, 3, 3, nil))
			if s := l.verdict(s1, revoked); s.RevokeReason != "everywhere" {
				t.Errorf("%+v", s)
			}
		},
		"spares an older one that comes later": func(l *log, e, f *events.State) {
			l.seq = 4
			l.add(all("u", 0, s1))
			l.add(changed(e, 3, 3, nil))
			l.verdict(s1, active)
		},
		"lies within a log-in": func(l *log, e, f *events.State) {
			l.seq = 4
			l.add(all("u", 0)) // 5
			e.AuthSeq, f.AuthSeq, f.User = 4, 5, "u"
			l.add(e)
			l.add(f)
			l.verdict(s1, revoked)
			l.verdict(s2, active)
		},
		"an older one takes away and spares what both spare": func(l *log, e, f *events.State) {
			f.User = "u"
			l.add(e)
			l.add(f)
			l.add(all("u", 0, s1, s2)) // 3
			l.must(overwrite, l.add(all("u", 0, s1)))
			l.verdict(s1, active)
			l.verdict(s2, revoked)
			fix := l.repair(all("u", 0).Subject(region)).(*events.RevokeAll)
			if fix.Before != 4 || fix.Prev != 4 || !slices.Equal(fix.Except, []events.SID{s1}) {
				t.Errorf("repaired as %+v", fix)
			}
			if _, v := l.rebuilt().Lookup(s1, l.now); v != active {
				t.Errorf("after a rebuild %v", v)
			}
		},
		"the newest is the whole truth": func(l *log, e, f *events.State) {
			f.User = "u"
			l.add(all("u", 0, s1)) // 1
			l.add(e)
			l.add(f)
			l.add(all("u", 1, s2)) // 4
			l.verdict(s1, revoked)
			l.verdict(s2, active)
			l.add(all("u", 4, s1, s2))
			l.verdict(s1, revoked) // stays
		},
		"a forged one spares nobody": func(l *log, e, f *events.State) {
			f.User = "u"
			l.add(e)
			l.add(f)
			l.add(all("u", 0, s1)) // 3
			l.must(overwrite, l.forge(all("u", 0)))
			l.verdict(s1, revoked)
			if s := l.verdict(s2, revoked); s.RevokeReason != "everywhere" {
				t.Errorf("%+v", s)
			}
			g := state(sid(home, 3), "u")
			l.add(g)
			l.verdict(g.SID, active)
			if got := l.m.LastAll(home, "app", "u"); got != 4 {
				t.Errorf("the next all must expect 4, not %d", got)
			}
		},
		"a forged one alone is repaired by a session's user": func(l *log, e, f *events.State) {
			l.add(e)
			l.must(overwrite, l.forge(all("u", 0)))
			if s := l.verdict(s1, revoked); s.RevokeReason != "overwritten" {
				t.Errorf("%+v", s)
			}
			fix := l.repair(all("u", 0).Subject(region)).(*events.RevokeAll)
			if fix.User != "u" || fix.Before != 2 {
				t.Errorf("repaired as %+v", fix)
			}
			l.must(overwrite, l.forge(all("nobody", 0)))
			if _, ok := l.m.Repair(all("nobody", 0).Subject(region), l.seq, l.now); ok {
				t.Error("nobody knows the user")
			}
		},
		"an older one cannot spare by itself": func(l *log, e, f *events.State) {
			f.User = "u"
			l.add(all("u", 0, s1)) // 1
			l.add(e)
			l.add(f)
			l.must(overwrite, l.add(all("u", 0, s1, s2)))
			l.verdict(s1, active)
			l.verdict(s2, revoked)
		},
		"the watermark never falls": func(l *log, e, f *events.State) {
			l.seq = 4
			l.add(all("u", 0)) // 5
			a := all("u", 5)
			a.Before = 2
			l.must(applied, l.add(a))
			l.add(changed(e, 3, 3, nil))
			l.verdict(s1, revoked)
		},
		"before counts instead of the sequence": func(l *log, e, f *events.State) {
			l.add(e)
			a := all("u", 0)
			a.Before = 1
			l.add(a)
			l.verdict(s1, active)
		},
		"of another home": func(l *log, e, f *events.State) {
			late := state(sid(home, 3), "u")
			late.CreatedAt = base + 60*second + 1
			l.add(e)
			l.add(f)
			away := &log{t: t, m: l.m, num: 3, now: base}
			a := all("u", 0, sid(home, 4))
			a.Home = home
			away.must(applied, away.add(a))
			l.verdict(s1, revoked)
			l.verdict(s2, active)
			spared := state(sid(home, 4), "u")
			behind := state(sid(home, 5), "u") // of a node that lags: read after the all
			l.add(late)
			l.add(spared)
			l.add(behind)
			l.verdict(late.SID, active)
			l.verdict(spared.SID, active)
			l.verdict(behind.SID, revoked)
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) { test(newLog(t), state(s1, "u"), state(s2, "v")) })
	}
}
