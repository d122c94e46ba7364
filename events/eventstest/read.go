package eventstest

import (
	"fmt"
	"time"

	"github.com/revocast/revocast/events"
)

// testRead: what the stream holds of some sequences, filtered, in order, and no
// more; what was replaced is not there.
func testRead(r *run) {
	var all []events.Entry
	add := func(m events.Message) {
		all = append(all, events.Entry{Seq: r.append(m, events.Expectation{}), Message: m})
	}
	beat := func() {
		r.beat++
		r.append(r.message(&events.Beat{Node: "n1", Incarnation: r.inc, N: r.beat, Keys: r.keys.IDs()}, "", time.Hour), events.Expectation{})
	}
	replaced := r.login("user-0")
	r.append(replaced, events.Expectation{})
	for i := range 40 {
		s := r.state(fmt.Sprintf("user-%d", i))
		add(r.message(s, "", 0))
		if i%2 == 0 {
			add(r.message(&events.Revoke{App: s.App, User: s.User, SID: s.SID, At: 1}, "", time.Hour))
		}
		if i%5 == 0 {
			beat()
		}
	}
	revokes := []string{"ev." + r.Log.Region() + ".demo.*.*." + string(events.KindRevoke)}
	both := append(revokes, "ev."+r.Log.Region()+".demo.*.*."+string(events.KindState))
	last := all[len(all)-1].Seq
	beat() // a replica that delivers it is not behind
	for _, c := range []struct {
		from, to uint64
		filters  []string
		most     int
	}{
		{0, last, both, 1000}, {1, last, revokes, 1000}, {all[7].Seq, all[20].Seq, both, 1000},
		{all[7].Seq + 1, all[20].Seq - 1, both, 1000}, {last, last, both, 1000}, {5, 4, both, 1000}, {1, last, both, 3},
		{1, last, []string{"ev." + r.Log.Region() + ".other.*.*." + string(events.KindState)}, 1000},
	} {
		var want, got []events.Entry
		for _, e := range all {
			kind := e.Subject[len(e.Subject)-2:]
			wanted := len(c.filters) == 2 && (kind == "st" || kind == "ev") || c.filters[0] == revokes[0] && kind == "ev"
			if e.Seq >= c.from && e.Seq <= c.to && wanted && len(want) < c.most {
				want = append(want, e)
			}
		}
		r.read(events.Range{From: c.from, To: c.to, Filters: c.filters}, func(e events.Entry) bool {
			got = append(got, e)
			return len(got) < c.most
		})
		r.sameEntries(got, want)
	}
	r.readSince(all[len(all)/2], last, both)
}

func (r *run) read(what events.Range, fn func(events.Entry) bool) {
	r.Helper()
	if err := r.Log.Read(r.ctx, what, fn); err != nil {
		r.Fatalf("read %+v: %v", what, err)
	}
}

// readSince: a time in the place of a sequence.
func (r *run) readSince(from events.Entry, to uint64, filters []string) {
	r.Helper()
	var all []events.Entry
	r.read(events.Range{From: from.Seq, To: to, Filters: filters}, func(e events.Entry) bool {
		all = append(all, e)
		return true
	})
	since := all[0].Time
	n := 0
	r.read(events.Range{Since: since, To: to, Filters: filters}, func(e events.Entry) bool {
		if e.Time.Before(since) {
			r.Errorf("entry %d of %v was read since %v", e.Seq, e.Time, since)
		}
		n++
		return true
	})
	if n < len(all) {
		r.Errorf("since %v there are %d entries, want at least %d", since, n, len(all))
	}
}
