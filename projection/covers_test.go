package projection_test

import (
	"testing"

	"github.com/revocast/revocast/projection"
)

// What knows less of revocations covers nothing that knows more; all else it does.
func TestCovers(t *testing.T) {
	apply := func(l *log, n int) *projection.Map {
		m := new(projection.Map)
		for _, r := range l.recs[:n] {
			m.Apply(r)
		}
		return m
	}
	l := newLog(t)
	a, b := state(sid(home, 1), "u"), state(sid(home, 2), "v")
	l.add(a)
	l.add(b)
	l.add(revoke(a))
	l.add(touch(b, base))
	l.add(all("v", 0))
	l.add(all("w", 0))
	l.add(all("w", 0))
	whole := len(l.recs)
	covered := map[int]int{0: 0, 1: 0, 2: 0, 3: 3, 4: 3, 5: 5, 6: 6, 7: 7} // by how much is applied, from how much it takes
	for n, least := range covered {
		for k := range whole + 1 {
			if got, want := apply(l, k).Covers(apply(l, n), base), k >= least; got != want {
				t.Errorf("%d of %d records cover %d: %v", k, whole, n, got)
			}
		}
	}
	if late := base + 800*24*hour; !apply(l, 0).Covers(apply(l, whole), late) {
		t.Error("what is long over is missed")
	}
	again := apply(l, whole)
	again.Rewind(home)
	if again.Covers(apply(l, whole), base) || apply(l, whole).Covers(again, base) {
		t.Error("generations are compared")
	}
}
