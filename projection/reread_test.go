package projection_test

import (
	"testing"

	"github.com/revocast/revocast/events"
)

// TestReread: what was taken away because an entry could not be opened is given
// back by reading it again, and nothing else is.
func TestReread(t *testing.T) {
	l := newLog(t)
	one, other := state(s1, "u"), state(s2, "v")
	l.add(one)
	l.add(other)
	spared, gone := all("u", 0), revoke(other)
	spared.Except = []events.SID{s1}
	l.must(overwrite, l.forge(spared)) // sealed with a key that is not held
	l.verdict(s1, revoked)
	l.add(gone)
	l.verdict(s2, revoked)

	gen, _ := l.m.Position(home)
	l.m.Reread(home)
	if now, seq := l.m.Position(home); now != gen || seq != 0 {
		t.Errorf("generation %d at %d, was %d", now, seq, gen)
	}
	l.verdict(s1, unknown)
	l.verdict(s2, revoked)
	read := l.recs
	l.recs, l.seq = nil, 0
	for _, r := range read {
		if r.Subject.Kind == events.KindAll {
			l.must(applied, l.add(spared))
			continue
		}
		l.put(r)
	}
	l.verdict(s1, active)
	l.verdict(s2, revoked)
	for range l.m.Lost(home, l.now) {
		t.Error("something is appended again")
	}
}
