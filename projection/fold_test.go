package projection_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/projection"
)

const (
	applied   = projection.Applied
	overwrite = projection.Overwrite
	skipped   = projection.Skipped

	unknown = projection.Unknown
	active  = projection.Active
	idle    = projection.IdleExpired
	expired = projection.Expired
	revoked = projection.Revoked
)

var (
	s1, s2 = sid(home, 1), sid(home, 2)
	a1, a2 = sid(home, 101), sid(home, 102)
)

func TestState(t *testing.T) {
	tests := map[string]func(l *log, e *events.State){
		"the first creates": func(l *log, e *events.State) {
			l.must(applied, l.add(e))
			want := projection.Session{
				SID: s1, App: "app", User: "u", CreatedAt: base, ExpiresAt: base + hour, AbsoluteAt: base + 24*hour,
				SeenAt: base, CreatedSeq: 1, StateSeq: 1, Sealed: sealed(1, "private"),
			}
			if diff := cmp.Diff(want, l.verdict(s1, active)); diff != "" {
				t.Error(diff)
			}
		},
		"the first seen creates, whatever it was computed from": func(l *log, e *events.State) {
			l.seq = 8
			l.must(applied, l.add(changed(e, 5, 3, nil)))
			if s := l.verdict(s1, active); s.CreatedSeq != 3 || s.StateSeq != 9 {
				t.Errorf("created at %d, state at %d", s.CreatedSeq, s.StateSeq)
			}
		},
		"a change replaces": func(l *log, e *events.State) {
			l.add(e)
			l.must(applied, l.add(changed(e, 1, 1, func(e *events.State) { e.ExpiresAt = base + 2*hour; e.By = "k" })))
			if s := l.verdict(s1, active); s.ExpiresAt != base+2*hour || s.By != "k" || s.StateSeq != 2 || s.CreatedSeq != 1 {
				t.Errorf("%+v", s)
			}
		},
		"an older one is an overwrite": func(l *log, e *events.State) {
			l.add(e)
			l.add(changed(e, 1, 1, nil))
			before := l.verdict(s1, active)
			l.must(overwrite, l.add(changed(e, 1, 1, func(e *events.State) { e.ExpiresAt = base + 9*hour })))
			if diff := cmp.Diff(before, l.verdict(s1, active)); diff != "" {
				t.Error(diff)
			}
			l.repair(e.Subject(region))
			if diff := cmp.Diff(l.verdict(s1, active), lookup(l.rebuilt(), s1)); diff != "" {
				t.Error("a rebuild differs:", diff)
			}
		},
		"a copy of a replaced one is an overwrite": func(l *log, e *events.State) {
			l.add(e)
			l.add(changed(e, 1, 1, nil))
			l.must(overwrite, l.replay(1))
			if s := l.verdict(s1, active); s.StateSeq != 2 {
				t.Errorf("state at %d", s.StateSeq)
			}
		},
		"a retry only moves the sequence": func(l *log, e *events.State) {
			l.add(e)
			l.now += minute
			l.must(applied, l.replay(1))
			if s := l.verdict(s1, active); s.StateSeq != 2 || s.CreatedSeq != 1 || s.SeenAt != base {
				t.Errorf("%+v", s)
			}
		},
		"a retry does not slip past an all": func(l *log, e *events.State) {
			l.add(e)
			l.add(all("u", 0))
			l.must(overwrite, l.replay(1))
			l.verdict(s1, revoked)
			l.repair(e.Subject(region))
			if _, v := l.rebuilt().Lookup(s1, l.now); v != revoked {
				t.Errorf("after a rebuild %v", v)
			}
		},
		"a retry is no later use": func(l *log, e *events.State) {
			e.SeenAt, e.Idle = base+hour/2, 60
			l.add(e)
			l.now += 20 * minute
			l.verdict(s1, idle)
			l.must(overwrite, l.replay(1))
			l.verdict(s1, idle)
		},
		"nothing is computed from its own future": func(l *log, e *events.State) {
			l.add(e)
			l.must(overwrite, l.add(changed(e, 2, 1, nil)))
		},
		"app and user are fixed": func(l *log, e *events.State) {
			l.add(e)
			l.must(overwrite, l.add(changed(e, 1, 1, func(e *events.State) { e.User = "v" })))
			l.must(overwrite, l.add(changed(e, 1, 1, func(e *events.State) { e.App = "app2" })))
			if s := l.verdict(s1, active); s.User != "u" {
				t.Errorf("user %q", s.User)
			}
			if _, ok := l.m.Repair(l.recs[l.seq-1].Subject, l.seq, l.now); ok {
				t.Error("nothing is held for the other's subject")
			}
		},
		"absolute expiry and creation never rise": func(l *log, e *events.State) {
			l.seq = 4
			e.AuthSeq = 3
			l.add(e)
			l.add(changed(e, 5, 7, func(e *events.State) {
				e.AbsoluteAt, e.ExpiresAt, e.AuthSeq, e.CreatedAt = base+90*hour, base+80*hour, 4, base+1
			}))
			s := l.verdict(s1, active)
			if s.AbsoluteAt != base+24*hour || s.ExpiresAt != base+24*hour || s.CreatedSeq != 5 || s.AuthSeq != 3 || s.CreatedAt != base {
				t.Errorf("%+v", s)
			}
		},
		"a creation sequence is at most its own": func(l *log, e *events.State) {
			l.add(changed(e, 0, 99, nil))
			if s := l.verdict(s1, active); s.CreatedSeq != 1 {
				t.Errorf("created at %d", s.CreatedSeq)
			}
		},
		"seen at most at the log's time": func(l *log, e *events.State) {
			e.SeenAt = base + hour
			l.add(e)
			if s := l.verdict(s1, active); s.SeenAt != base {
				t.Errorf("seen %d ms late", s.SeenAt-base)
			}
		},
		"only at home": func(l *log, e *events.State) {
			e.SID[0]++
			l.must(skipped, l.add(e))
			l.verdict(e.SID, unknown)
		},
		"a forged one grants nothing": func(l *log, e *events.State) {
			l.must(overwrite, l.forge(e))
			l.verdict(s1, unknown)
			if _, ok := l.m.Repair(e.Subject(region), 1, l.now); ok {
				t.Error("nothing is held")
			}
			l.add(e)
			before := l.verdict(s1, active)
			l.must(overwrite, l.forge(e))
			if diff := cmp.Diff(before, l.verdict(s1, active)); diff != "" {
				t.Error(diff)
			}
		},
		"a sequence is applied once": func(l *log, e *events.State) {
			l.add(e)
			r := l.record(revoke(e))
			r.Stream, r.Seq, r.Time = home, 1, time.UnixMilli(l.now)
			l.must(applied, l.m.Apply(r))
			l.verdict(s1, active)
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) { test(newLog(t), state(s1, "u")) })
	}
}

func lookup(m *projection.Map, s events.SID) projection.Session {
	got, _ := m.Lookup(s, base)
	return got
}

func TestTouch(t *testing.T) {
	tests := map[string]func(l *log, e *events.State){
		"counts by the log's time": func(l *log, e *events.State) {
			l.add(e)
			l.now += minute
			l.must(applied, l.add(touch(e, l.now+hour)))
			seen(t, l, s1, l.now)
		},
		"a slow writer's counts 30 s after its own clock": func(l *log, e *events.State) {
			l.add(e)
			l.now += minute
			l.add(touch(e, base+20*second))
			seen(t, l, s1, base+50*second)
		},
		"a copy keeps nobody logged in": func(l *log, e *events.State) {
			e.Idle = 60
			l.add(e)
			l.add(touch(e, base))
			for range 20 {
				l.now += 30 * second
				l.replay(2)
			}
			l.verdict(s1, idle)
		},
		"what says less is an overwrite": func(l *log, e *events.State) {
			l.add(e)
			l.now += minute
			l.add(touch(e, l.now))
			l.now += minute
			l.add(touch(e, l.now))
			l.must(overwrite, l.replay(2))
			l.repair(touch(e, 0).Subject(region))
			seen(t, l, s1, l.now)
			if s := lookup(l.rebuilt(), s1); s.SeenAt != l.now {
				t.Errorf("a rebuild holds %d ms", s.SeenAt-base)
			}
		},
		"repairing a forged one buys no time": func(l *log, e *events.State) {
			e.Idle = 60
			l.add(e)
			for range 20 {
				l.now += 30 * second
				l.must(overwrite, l.forge(touch(e, 0)))
				l.repair(touch(e, 0).Subject(region))
			}
			seen(t, l, s1, base)
			l.verdict(s1, idle)
		},
		"waits for its session": func(l *log, e *events.State) {
			l.now += minute
			l.must(applied, l.add(touch(e, l.now)))
			l.verdict(s1, unknown)
			l.now += second
			l.add(e)
			seen(t, l, s1, base+minute)
		},
		"does not wait for ever": func(l *log, e *events.State) {
			l.now += minute
			l.add(touch(e, l.now))
			l.now += hour / 2
			l.add(&events.Beat{})
			sweep(l)
			l.add(e)
			seen(t, l, s1, base)
		},
		"only at home": func(l *log, e *events.State) {
			other := *e
			other.SID[0]++
			l.must(skipped, l.add(touch(&other, base)))
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) { test(newLog(t), state(s1, "u")) })
	}
}

func seen(t *testing.T, l *log, s events.SID, want int64) {
	t.Helper()
	got, _ := l.m.Lookup(s, l.now)
	if got.SeenAt != want {
		t.Errorf("seen at +%d ms, want +%d", got.SeenAt-base, want-base)
	}
}

func sweep(l *log) (forgotten int) {
	for i := range 256 {
		forgotten += l.m.Sweep(uint8(i), l.now)
	}
	return forgotten
}

func TestVerdict(t *testing.T) {
	tests := []struct {
		name     string
		lease    time.Duration
		idle     int64
		wall     int64 // after the creation
		logged   int64 // after the creation, of a heartbeat; 0 none
		want     projection.Verdict
		wallBack bool
	}{
		{name: "fresh", want: active},
		{name: "last moment", wall: hour - 1, want: active},
		{name: "expired", wall: hour, want: expired},
		{name: "wall clock set back", wall: -hour, logged: 30 * second, want: active},
		{name: "log ahead by less than its bound", wall: hour - 20*second, logged: hour, want: expired},
		{name: "log ahead by more than its bound", wall: hour - 31*second, logged: 9 * hour, want: active},
		{name: "idle with tenth and lease", idle: 100, wall: 125*second - 1, want: active},
		{name: "idle", idle: 100, wall: 125 * second, want: idle},
		{name: "idle, another lease", lease: 5 * time.Second, idle: 100, wall: 115 * second, want: idle},
		{name: "idle longer than any life", idle: 1 << 62, wall: minute, want: active},
		{name: "idle and expired", idle: 100, wall: 2 * hour, want: expired},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			l := newLog(t)
			l.m.Lease = tt.lease
			e := state(s1, "u")
			e.Idle = tt.idle
			l.add(e)
			if tt.logged != 0 {
				l.now = base + tt.logged
				l.add(&events.Beat{})
			}
			l.now = base + tt.wall
			l.verdict(s1, tt.want)
		})
	}
}

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
		"before counts instead of the sequence": func(l *log, e, f *events.State) {
			l.add(e)
			a := all("u", 0)
			a.Before = 1
			l.add(a)
			l.verdict(s1, active)
		},
		"of another home": func(l *log, e, f *events.State) {
			late := state(sid(home, 3), "u")
			late.CreatedAt = base + 31*second
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

func TestOtherRecords(t *testing.T) {
	l := newLog(t)
	for _, tt := range []struct {
		name string
		put  func() projection.Effect
		want projection.Effect
	}{
		{"reg", func() projection.Effect { return l.add(&events.Node{}) }, applied},
		{"hb", func() projection.Effect { return l.add(&events.Beat{}) }, applied},
		{"snap", func() projection.Effect { return l.add(&events.Marker{}) }, applied},
		{"forged hb", func() projection.Effect { return l.forge(&events.Beat{}) }, overwrite},
		{"foreign", func() projection.Effect { return l.put(events.Record{Trust: events.Foreign}) }, skipped},
		{"junk", func() projection.Effect { return l.put(events.Record{Trust: events.Junk}) }, skipped},
		{"app", func() projection.Effect { return l.add(&events.App{App: "app"}) }, skipped},
		{"cfg", func() projection.Effect { return l.add(&events.Setting{Type: "t", Name: "n"}) }, skipped},
		{"forged rev of no session", func() projection.Effect {
			return l.put(events.Record{Trust: events.Forged, Subject: events.Subject{Region: region, App: "app", ID: "x", Kind: events.KindRevoke}})
		}, overwrite},
	} {
		l.now += second
		if got := tt.put(); got != tt.want {
			t.Errorf("%s: effect %d, want %d", tt.name, got, tt.want)
		}
		if _, seq := l.m.Position(home); seq != l.seq || l.m.LogTime(home).UnixMilli() != l.now {
			t.Errorf("%s: position %d at %v", tt.name, seq, l.m.LogTime(home))
		}
	}
	l.now -= minute
	l.add(&events.Beat{})
	if got := l.m.LogTime(home).UnixMilli(); got != l.now+minute {
		t.Error("the log's time fell")
	}
	if sessions, tombs := l.m.Len(); sessions != 0 || tombs != 0 {
		t.Errorf("%d sessions, %d tombstones", sessions, tombs)
	}
}

func TestAliases(t *testing.T) {
	l := newLog(t)
	e := state(s1, "u")
	l.add(e)
	token := func(key events.SID, want projection.Verdict, rotated bool) {
		t.Helper()
		s, v, r := l.m.LookupToken(key, l.now)
		if v != want || r != rotated || (v != unknown && s.SID != s1) {
			t.Errorf("seq %d: %v is %v, rotated %v; want %v, %v", l.seq, key, v, r, want, rotated)
		}
	}
	token(s1, active, false)
	token(a1, unknown, false)
	l.add(changed(e, 1, 1, func(e *events.State) {
		e.OriginalUntil, e.Aliases = base+minute, []events.Alias{{Key: a1}}
	}))
	token(s1, active, true)
	token(a1, active, false)
	l.add(changed(e, 2, 1, func(e *events.State) {
		e.OriginalUntil, e.Aliases = base+minute, []events.Alias{{Key: a1, Until: base + 2*minute}, {Key: a2}}
	}))
	token(a1, active, true)
	token(a2, active, false)
	l.now = base + minute
	token(s1, unknown, false)
	l.verdict(s1, active)
	l.now = base + 2*minute
	token(a1, unknown, false)
	token(a2, active, false)
	l.add(changed(e, 3, 1, func(e *events.State) { e.OriginalUntil, e.Aliases = base+minute, []events.Alias{{Key: a2}} }))
	token(a1, unknown, false)
	token(a2, active, false)
	l.add(revoke(e))
	token(a2, revoked, false)
	three := changed(e, 4, 1, func(e *events.State) { e.Aliases = []events.Alias{{Key: s2}, {Key: a1}, {Key: a2}} })
	l.add(three)
	token(s2, unknown, false)
	token(a1, revoked, false)
	l.now = base + 48*hour
	l.add(&events.Beat{})
	sweep(l)
	token(a2, unknown, false)
}

func TestLists(t *testing.T) {
	l := newLog(t)
	for i := range 5 {
		e := state(sid(home, i), "u")
		e.CreatedAt -= int64(i)
		l.add(e)
	}
	l.add(state(sid(home, 9), "v"))
	l.add(revoke(state(sid(home, 2), "u")))
	var got []events.SID
	for s, v := range l.m.User("app", "u", l.now) {
		got = append(got, s.SID)
		if want := s.SID == sid(home, 2); (v == revoked) != want {
			t.Errorf("%v is %v", s.SID, v)
		}
	}
	want := []events.SID{sid(home, 4), sid(home, 3), sid(home, 2), sid(home, 1), sid(home, 0)}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	n := 0
	for range l.m.App("app", l.now) {
		n++
	}
	if n != 6 {
		t.Errorf("%d sessions of the app", n)
	}
	for range l.m.App("app2", l.now) {
		t.Error("another app's session")
	}
}

func TestRepairLives(t *testing.T) {
	l := newLog(t)
	e := state(s1, "u")
	l.add(e)
	subject := e.Subject(region)
	fix, ok := l.m.Repair(subject, 7, l.now)
	want := &events.State{
		App: "app", User: "u", SID: s1, Reason: events.ReasonRepaired, CreatedAt: base, ExpiresAt: base + hour,
		AbsoluteAt: base + 24*hour, SeenAt: base, Prev: 7, CreatedSeq: 1,
	}
	if diff := cmp.Diff(projection.Repair{Event: want, Sealed: sealed(1, "private"), TTL: time.Hour + time.Minute}, fix); !ok || diff != "" {
		t.Error(ok, diff)
	}
	if _, ok := l.m.Repair(subject, 7, base+hour); ok {
		t.Error("an expired session was repaired")
	}
	// A shorter state must still take the place of a copy of a longer one.
	l.add(changed(e, 1, 1, func(e *events.State) { e.ExpiresAt = base + minute }))
	l.now = base + 30*minute
	l.must(overwrite, l.replay(1))
	l.verdict(s1, expired)
	if fix, ok := l.m.Repair(subject, 3, l.now); !ok || fix.TTL != time.Second {
		t.Errorf("%v, lives %v", ok, fix.TTL)
	}
	if n := sweep(l); n != 0 {
		t.Error("forgotten while a copy could be believed")
	}
	l.add(revoke(e))
	fix, ok = l.m.Repair(revoke(e).Subject(region), 9, l.now)
	if rev := fix.Event.(*events.Revoke); !ok || rev.AbsoluteAt != e.AbsoluteAt || rev.Reason != "logout" || fix.TTL != 23*time.Hour+31*time.Minute {
		t.Errorf("%+v, lives %v", rev, fix.TTL)
	}
}

func TestSweep(t *testing.T) {
	l := newLog(t)
	e, f := state(s1, "u"), state(s2, "v")
	l.add(e)
	l.add(f)
	l.add(revoke(f))
	l.add(all("w", 0))
	l.now = base + hour + 2*minute
	if n := sweep(l); n != 0 {
		t.Errorf("forgot %d by the wall clock alone", n)
	}
	l.add(&events.Beat{})
	if n := sweep(l); n != 2 {
		t.Errorf("forgot %d sessions", n)
	}
	l.verdict(s1, unknown)
	if s := l.verdict(s2, revoked); s.RevokeReason != "logout" || s.AbsoluteAt != f.AbsoluteAt {
		t.Errorf("tombstone %+v", s)
	}
	if s, tombs := l.m.Len(); s != 0 || tombs != 1 {
		t.Errorf("%d sessions, %d tombstones", s, tombs)
	}
	for range l.m.User("app", "u", l.now) {
		t.Error("a forgotten session is listed")
	}
	l.replay(2)
	l.verdict(s2, revoked)
	l.now = base + 24*hour + minute
	l.add(&events.Beat{})
	sweep(l)
	if s, tombs := l.m.Len(); s != 0 || tombs != 0 {
		t.Errorf("%d sessions, %d tombstones", s, tombs)
	}
	if l.m.LastAll(home, "app", "w") == 0 {
		t.Error("a watermark was forgotten within its year")
	}
	l.now = base + int64(events.UnknownLifetime/time.Millisecond) + 2*minute
	l.add(&events.Beat{})
	sweep(l)
	if l.m.LastAll(home, "app", "w") != 0 {
		t.Error("a watermark outlived its year")
	}
}

func TestDigest(t *testing.T) {
	a, b := newLog(t), newLog(t)
	e, f := state(s1, "u"), state(s2, "v")
	a.add(e)
	a.add(f)
	b.seq = 1
	b.add(f)
	b.seq = 0
	b.m.Rewind(home)
	b.add(e)
	b.add(f)
	if x, y := a.m.Digest(home, base), b.m.Digest(home, base); x != y || !strings.HasPrefix(x, "f1-") {
		t.Errorf("%s, %s", x, y)
	}
	before := a.m.Digest(home, base)
	a.add(revoke(e))
	if a.m.Digest(home, base) == before {
		t.Error("a revocation changes nothing")
	}
	if a.m.Digest(home, base+2*hour) != new(projection.Map).Digest(home, base) {
		t.Error("expired sessions count")
	}
	if a.m.Digest(3, base) != new(projection.Map).Digest(home, base) {
		t.Error("another stream's sessions count")
	}
}

func TestRewind(t *testing.T) {
	l := newLog(t)
	e, f, g := state(s1, "u"), state(s2, "v"), state(sid(home, 3), "w")
	l.add(e)
	l.add(f)
	l.add(g)
	l.add(revoke(e))
	l.add(all("v", 0))
	l.m.Rewind(home)
	if gen, seq := l.m.Position(home); gen != 1 || seq != 0 {
		t.Errorf("position %d:%d", gen, seq)
	}
	l.verdict(s1, revoked)
	l.verdict(g.SID, unknown)
	// The log kept only the creations.
	recs := l.recs[:3]
	l.recs, l.seq = nil, 0
	for _, r := range recs {
		l.put(r)
	}
	l.verdict(s1, revoked)
	l.verdict(s2, revoked)
	l.verdict(g.SID, active)
	var lost []events.Event
	for fix := range l.m.Lost(home, l.now) {
		lost = append(lost, fix.Event)
		if fix.TTL <= 0 {
			t.Errorf("lives %v", fix.TTL)
		}
	}
	if len(lost) != 3 { // s1's rev; s2's, whose state was read again; the all
		t.Errorf("lost: %+v", lost)
	}
	for _, e := range lost {
		l.must(applied, l.add(e))
	}
	for range l.m.Lost(home, l.now) {
		t.Error("lost although appended again")
	}
	m := l.rebuilt()
	for s, want := range map[events.SID]projection.Verdict{s1: revoked, s2: revoked, g.SID: active} {
		if _, v := m.Lookup(s, l.now); v != want {
			t.Errorf("after a rebuild %v is %v, want %v", s, v, want)
		}
	}
	// A new log-in of the user is not held back by the old watermark.
	h := state(sid(home, 4), "v")
	l.add(h)
	l.verdict(h.SID, active)
}

func TestLookupDoesNotAllocate(t *testing.T) {
	l := newLog(t)
	e := state(s1, "u")
	e.Aliases = []events.Alias{{Key: a1}}
	l.add(e)
	for name, look := range map[string]func(){
		"Lookup":       func() { l.m.Lookup(s1, l.now) },
		"Lookup, miss": func() { l.m.Lookup(s2, l.now) },
		"LookupToken":  func() { l.m.LookupToken(s1, l.now) },
		"alias":        func() { l.m.LookupToken(a1, l.now) },
		"token, miss":  func() { l.m.LookupToken(s2, l.now) },
	} {
		if n := testing.AllocsPerRun(1000, look); n != 0 {
			t.Errorf("%s allocates %v times", name, n)
		}
	}
}
