package projection_test

import (
	"testing"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/projection"
)

// TestBoundStays: that a session is bound to a key survives changes by who knows
// nothing of it, a repair and a restart from a snapshot; one that is not bound
// never becomes so by any of them.
func TestBoundStays(t *testing.T) {
	l := newLog(t)
	l.num = 2
	p := newTape()
	p.region[2] = l.region()
	e, free := state(sid(2, 1), "u"), state(sid(2, 2), "u")
	e.Bound = true
	l.add(e)
	l.add(free)
	l.add(changed(e, 1, 1, func(e *events.State) { e.Bound = false }))
	l.add(changed(free, 2, 2, nil))
	l.add(touch(e, base+second))
	for _, r := range l.recs {
		p.apply(r)
	}
	check := func(what string, m interface {
		Lookup(events.SID, int64) (projection.Session, projection.Verdict)
	}) {
		t.Helper()
		if s, v := m.Lookup(e.SID, l.now); v != active || !s.Bound {
			t.Errorf("%s: %v, bound %v, want a bound session", what, v, s.Bound)
		}
		if s, v := m.Lookup(free.SID, l.now); v != active || s.Bound {
			t.Errorf("%s: %v, bound %v, want one that is not bound", what, v, s.Bound)
		}
	}
	check("applied", l.m)
	if fix := l.repair(e.Subject(l.region())).(*events.State); !fix.Bound {
		t.Errorf("the repair is not bound: %+v", fix)
	}
	if fix := l.repair(free.Subject(l.region())).(*events.State); fix.Bound {
		t.Errorf("the repair is bound: %+v", fix)
	}
	m, _ := load(t, p.write(t, p.header(lastOf)))
	check("from a snapshot", m)
	for s := range l.m.User("app", "u", l.now) {
		if s.Bound != (s.SID == e.SID) {
			t.Errorf("listed: %v bound %v", s.SID, s.Bound)
		}
	}
}
