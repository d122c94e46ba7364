package projection_test

import (
	"maps"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/revocast/revocast/events"
)

// States is by the newest state of each session, of one stream, unexpired.
func TestStates(t *testing.T) {
	l := newLog(t)
	a, b, c := state(sid(home, 1), "u"), state(sid(home, 2), "v"), state(sid(home, 3), "w")
	c.ExpiresAt = base + minute
	l.add(a)
	l.add(b)
	l.add(c)
	again := *a
	again.Prev, again.CreatedSeq = 1, 1
	l.add(&again)
	l.add(revoke(b))
	for _, c := range []struct {
		name        string
		stream      uint8
		after, last uint64
		now         int64
		want        map[events.SID]uint64
	}{
		{"all", home, 0, 9, base, map[events.SID]uint64{a.SID: 4, b.SID: 2, c.SID: 3}},
		{"both ends", home, 2, 3, base, map[events.SID]uint64{c.SID: 3}},
		{"where it stood", home, 0, 1, base, map[events.SID]uint64{}},
		{"expired", home, 0, 9, base + minute, map[events.SID]uint64{a.SID: 4, b.SID: 2}},
		{"another stream", home + 1, 0, 9, base, map[events.SID]uint64{}},
	} {
		got := maps.Collect(l.m.States(c.stream, c.after, c.last, c.now))
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s: -want +got\n%s", c.name, diff)
		}
	}
	l.m.Rewind(home)
	if got := maps.Collect(l.m.States(home, 0, 9, base)); len(got) != 0 {
		t.Errorf("after Rewind: %v", got)
	}
}
