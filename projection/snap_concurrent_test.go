package projection_test

import (
	"bytes"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/projection"
)

// Snapshots beside appliers, the sweeper and readers, each loaded and brought
// up to date: all hold the same.
func TestSnapshotBesideWriters(t *testing.T) {
	const rounds = 150
	live := newTape()
	l := &log{t: t, m: live.m, num: 2, now: base}
	made := make(chan events.Record, rounds*8)
	rotating := state(sid(2, 1_000_000), "r")
	go func() {
		defer close(made)
		prev := uint64(0)
		for i := range rounds {
			e := state(sid(2, i), "u")
			l.recs = append(l.recs, stamped(l, touch(e, base)), stamped(l, e))
			l.recs = append(l.recs, stamped(l, changed(rotating, prev, 1, func(e *events.State) {
				e.Aliases = []events.Alias{{Key: sid(2, 2_000_000+i)}}
			})))
			prev = l.seq
			if i%3 == 0 {
				l.recs = append(l.recs, stamped(l, revoke(e)))
			}
			if i%50 == 49 {
				l.recs = append(l.recs, stamped(l, all("u", 0, e.SID)))
			}
		}
		for _, r := range l.recs {
			made <- r
		}
	}()
	var files [][]byte
	done := make(chan struct{})
	entries := make(chan projection.Passed, rounds*8)
	go func() {
		defer close(done)
		for r := range made {
			entries <- passed(r) // before it is handed over
			live.m.Apply(r)
		}
	}()
	var past []projection.Passed
	drain := func(uint8) []projection.Passed {
		for {
			select {
			case p := <-entries:
				past = append(past, p)
			default:
				return past
			}
		}
	}
	for first := true; first || !closed(done); first = false {
		h := projection.SnapshotHeader{Cluster: "c1", Streams: []projection.SnapshotStream{{Number: 2, Region: region}}}
		if _, seq := live.m.Position(2); seq > 0 {
			h.Streams[0].Anchor = drain(2)[0]
		}
		var file bytes.Buffer
		if err := live.m.WriteSnapshot(&file, snapKey, h, drain); err != nil {
			t.Fatal(err)
		}
		files = append(files, file.Bytes())
		live.m.Sweep(uint8(len(files)), base)
	}
	<-done
	want := live.m.Dump()
	for i, file := range files {
		m, _ := load(t, file)
		for _, r := range l.recs {
			m.Apply(r)
		}
		if diff := gocmp.Diff(want, m.Dump(), sameDump...); diff != "" {
			t.Fatalf("snapshot %d of %d: %s", i, len(files), diff)
		}
	}
	t.Logf("%d snapshots", len(files))
}

func closed(done chan struct{}) bool {
	select {
	case <-done:
		return true
	default:
		return false
	}
}

// stamped is the record of the event at the log's next sequence.
func stamped(l *log, e events.Event) events.Record {
	r := l.record(e)
	l.seq++
	r.Stream, r.Seq, r.Time = l.num, l.seq, time.UnixMilli(l.now)
	return r
}
