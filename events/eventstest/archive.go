package eventstest

import (
	"context"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/revocast/revocast/events"
)

// history returns what the archive holds under the filters.
func (r *run) history(filters ...string) []events.Archived {
	r.Helper()
	var all []events.Archived
	err := r.Archive.History(r.ctx, filters, func(a events.Archived) bool {
		all = append(all, a)
		return true
	})
	if err != nil {
		r.Fatal(err)
	}
	return all
}

// keep appends the event and waits until the archive has it, because an
// archive that follows its stream may miss a state replaced before it looked.
func (r *run) keep(e events.Event, private string) events.Archived {
	r.Helper()
	m := r.message(e, private, time.Hour)
	seq := r.append(m, events.Expectation{})
	r.eventually("the archive has it", func() bool {
		all := r.history(m.Subject)
		return len(all) > 0 && all[len(all)-1].Origin >= seq
	})
	return events.Archived{Entry: events.Entry{Message: m}, Origin: seq}
}

// sameHistory fails unless got is want, with sequences of its own that ascend.
// The archive has no TTL, but the entry says which one it had.
func (r *run) sameHistory(got, want []events.Archived) {
	r.Helper()
	plain := make([]events.Archived, len(got))
	for i, a := range got {
		if i > 0 && a.Seq <= got[i-1].Seq {
			r.Errorf("archived entry %d came after %d", a.Seq, got[i-1].Seq)
		}
		if a.Time.IsZero() {
			r.Errorf("archived entry %d has no time", a.Seq)
		}
		plain[i] = events.Archived{Entry: events.Entry{Message: a.Message}, Origin: a.Origin}
		if rec := r.keys.Decode(r.Log.Number(), a.Entry); rec.Trust != events.Authentic {
			r.Errorf("archived entry %d is %v", a.Seq, rec.Trust)
		}
	}
	if d := cmp.Diff(want, plain); d != "" {
		r.Fatalf("history (-want +got):\n%s", d)
	}
}

func testArchive(r *run) {
	if r.Archive == nil {
		r.Skip("NOT TESTED: this log has no archive")
	}
	s := r.state("ada")
	var want []events.Archived
	want = append(want, r.keep(s, "private"))
	for range 3 {
		s.Reason, s.Prev = events.ReasonExtended, want[len(want)-1].Origin
		want = append(want, r.keep(s, "private"))
	}
	for _, e := range []events.Event{ // not archived
		&events.Touch{App: s.App, User: s.User, SID: s.SID, At: 1},
		&events.Beat{Node: "n1", Incarnation: r.inc, N: 1, Keys: r.keys.IDs()},
	} {
		r.append(r.message(e, "", time.Hour), events.Expectation{})
	}
	want = append(want,
		r.keep(&events.Revoke{App: s.App, User: s.User, SID: s.SID, At: 2, Reason: "logout"}, ""),
		r.keep(&events.RevokeAll{App: s.App, User: s.User, At: 3}, ""),
		r.keep(&events.RevokeAll{App: s.App, At: 4}, ""))
	r.sameHistory(r.history("ev."+r.Log.Region()+".>"), want)
}

func testArchiveFilters(r *run) {
	if r.Archive == nil {
		r.Skip("NOT TESTED: this log has no archive")
	}
	ada, bob := r.state("ada"), r.state("bob")
	other := r.state("eve")
	other.App = "other"
	a1, b1 := r.keep(ada, ""), r.keep(bob, "")
	o1, a2 := r.keep(other, ""), r.keep(ada, "")
	rev := r.keep(&events.Revoke{App: ada.App, User: ada.User, SID: ada.SID, At: 2}, "")

	region := r.Log.Region()
	subject := ada.Subject(region)
	mine := "ev." + region + "." + subject.App + "." + subject.User + "." + subject.ID + "."
	for _, c := range []struct {
		filters []string
		want    []events.Archived
	}{
		{[]string{mine + "*"}, []events.Archived{a1, a2, rev}},
		{[]string{mine + "rev"}, []events.Archived{rev}},
		{[]string{mine + "rev", mine + "st"}, []events.Archived{a1, a2, rev}},
		{[]string{"ev." + region + ".demo.>"}, []events.Archived{a1, b1, a2, rev}},
		{[]string{"ev." + region + ".*.*.*.rev", "ev." + region + ".other.>"}, []events.Archived{o1, rev}},
		{[]string{"ev." + region + ".nobody.>"}, []events.Archived{}},
	} {
		r.Logf("filters %q", c.filters)
		r.sameHistory(r.history(c.filters...), c.want)
	}
	// fn ends the reading.
	n := 0
	err := r.Archive.History(r.ctx, []string{"ev." + region + ".>"}, func(events.Archived) bool {
		n++
		return n < 2
	})
	if err != nil || n != 2 {
		r.Errorf("history went on to %d entries after fn returned false: %v", n, err)
	}
	ended, cancel := context.WithCancel(r.ctx)
	cancel()
	if err := r.Archive.History(ended, []string{mine + "*"}, func(events.Archived) bool { return true }); err == nil {
		r.Error("history with an ended context succeeded, and may be incomplete")
	}
}
