package projection_test

import (
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
		if s, v := l.m.Replaced(key, l.now); v != unknown && want != unknown {
			t.Errorf("seq %d: %v is %v, and a replaced token of %v", l.seq, key, want, s.SID)
		}
	}
	replaced := func(key events.SID, want projection.Verdict) {
		t.Helper()
		if s, v := l.m.Replaced(key, l.now); v != want || (v != unknown && s.SID != s1) || (v == unknown && s.SID != events.SID{}) {
			t.Errorf("seq %d: replaced token %v is %v, want %v", l.seq, key, v, want)
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
	replaced(s1, active)
	replaced(a1, unknown)
	l.now = base + 2*minute
	token(a1, unknown, false)
	token(a2, active, false)
	replaced(a1, active)
	replaced(a2, unknown)
	replaced(s2, unknown)
	l.add(changed(e, 3, 1, func(e *events.State) { e.OriginalUntil, e.Aliases = base+minute, []events.Alias{{Key: a2}} }))
	token(a1, unknown, false)
	token(a2, active, false)
	replaced(a1, unknown) // forgotten
	replaced(s1, active)
	l.add(revoke(e))
	token(a2, revoked, false)
	replaced(s1, revoked)
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

func TestLookupDoesNotAllocate(t *testing.T) {
	l := newLog(t)
	e := state(s1, "u")
	e.Aliases = []events.Alias{{Key: a1}}
	l.add(e)
	for name, look := range map[string]func(){
		"Lookup":       func() { l.m.Lookup(s1, l.now) },
		"Lookup, miss": func() { l.m.Lookup(s2, l.now) },
		"LookupToken":  func() { l.m.LookupToken(s1, l.now) },
		"Replaced":     func() { l.m.Replaced(s1, l.now) },
		"alias":        func() { l.m.LookupToken(a1, l.now) },
		"token, miss":  func() { l.m.LookupToken(s2, l.now) },
	} {
		if n := testing.AllocsPerRun(1000, look); n != 0 {
			t.Errorf("%s allocates %v times", name, n)
		}
	}
}
