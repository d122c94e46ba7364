package projection_test

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/projection"
)

func TestRevokedOf(t *testing.T) {
	l := newLog(t)
	for i := range 4 {
		l.add(state(sid(home, i), "ada")) // 1 to 4
	}
	l.add(state(sid(home, 10), "bob"))
	of := func(stream uint8, app, user string) []uint64 {
		return slices.Sorted(l.m.RevokedOf(stream, app, events.UserHash(app, user)))
	}
	l.add(revoke(state(sid(home, 1), "ada")))
	if got := of(home, "app", "ada"); !slices.Equal(got, []uint64{2}) {
		t.Errorf("one revoked: %v", got)
	}
	l.add(all("ada", 0, sid(home, 3)))
	l.add(changed(state(sid(home, 3), "ada"), 4, 4, nil))
	l.add(state(sid(home, 5), "ada")) // created since
	if got := of(home, "app", "ada"); !slices.Equal(got, []uint64{1, 2, 3}) {
		t.Errorf("all but one revoked: %v", got)
	}
	for _, other := range [][]uint64{of(home, "app", "bob"), of(home+1, "app", "ada"), of(home, "other", "ada")} {
		if len(other) != 0 {
			t.Errorf("of others: %v", other)
		}
	}
}

func TestAppRevoked(t *testing.T) {
	l := newLog(t)
	none := projection.AppRevoked{}
	same := func(what string, want projection.AppRevoked) {
		t.Helper()
		bySID := cmpopts.SortSlices(func(a, b events.SID) bool { return a.String() < b.String() })
		if diff := cmp.Diff(want, l.m.AppRevoked(home, "app"), cmpopts.EquateEmpty(), bySID); diff != "" {
			t.Errorf("%s: -want +got\n%s", what, diff)
		}
	}
	l.add(state(sid(home, 1), "ada"))
	l.add(all("ada", 0))
	same("a user", none)
	l.add(all("", 0, sid(home, 1)))
	same("the app", projection.AppRevoked{Below: 3, Spared: []events.SID{sid(home, 1)}})
	l.now += minute
	away := all("", 0)
	away.Home, away.At = home, base
	other := &log{t: t, m: l.m, num: home + 1, now: l.now + second}
	other.add(away)
	same("recorded elsewhere", projection.AppRevoked{Below: 3, Spared: []events.SID{sid(home, 1)}, ByTime: other.now})
	// A log that went backwards takes nothing of it back.
	l.m.Rewind(home)
	same("after it went backwards", projection.AppRevoked{Below: 3, Spared: []events.SID{sid(home, 1)}, ByTime: other.now})
	if got := l.m.AppRevoked(home, "other"); got.Below != 0 || got.ByTime != 0 {
		t.Errorf("of another app: %+v", got)
	}
}
