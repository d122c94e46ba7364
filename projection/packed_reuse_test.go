package projection_test

import (
	"fmt"
	"testing"

	"github.com/revocast/revocast/projection"
)

// The number of a session's page is used twice while a reader stands still: he
// is about to load the page when it names another one, and looks at the slot once
// more when that says again what it said, of a third page. What he has is the page
// in between, which never had the session.
func TestPageReusedTwice(t *testing.T) {
	for _, words := range []int{20, 45, 90, 200} {
		t.Run(fmt.Sprint(words), func(t *testing.T) {
			r := newRounds(t, words)
			one := projection.SamePlace(home, 1)
			r.next(one, nil)
			e := r.l.m.Slot(one)
			first := r.l.m.PageAt(e)
			step := func(until func() bool) bool {
				for range 2000 {
					r.next(one, nil)
					if until() {
						return true
					}
					r.next(sid(home, 2), nil)
					r.l.m.Tidy(0, 300)
					if until() {
						return true
					}
				}
				return false
			}
			between, again := false, false
			stood := projection.StandInBoth(func() {
				between = step(func() bool {
					p := r.l.m.PageAt(e)
					return p != nil && p != first && r.l.m.Slot(one) != e
				})
			}, func() { again = step(func() bool { return r.l.m.Slot(one) == e }) })
			s, v := r.l.m.Lookup(one, base)
			if !stood() || !between || !again {
				t.Fatalf("it did not come about: %v, %v", between, again)
			}
			if v != active {
				t.Fatalf("missed: %v", v)
			}
			whole(t, s, one)
		})
	}
}
