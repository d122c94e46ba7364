package events_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/revocast/revocast/events"
)

// TestReadRestart restarts the broker in the middle of a reading: it goes on behind
// what was read, and a reading of what is not there ends at once.
func TestReadRestart(t *testing.T) {
	const n = 1500 // more than one request brings
	s := newSite(t, true)
	log := s.create(t, s.cluster())
	var want, got []uint64
	for i := range n {
		want = append(want, put(t, log, benchMessage(t, s.keys, i)))
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	what := events.Range{To: want[n-1], Filters: []string{"ev.eu.*.*.*.st"}}
	err := log.Read(ctx, what, func(e events.Entry) bool {
		if e.Seq == want[4] {
			if err := s.b.Restart(t.Context()); err != nil {
				t.Error(err)
			}
		}
		if e.Seq >= want[0] { // the stream's own first entries are not meant
			got = append(got, e.Seq)
		}
		return true
	})
	if err != nil || !slices.Equal(got, want) {
		t.Fatalf("%d of %d entries were read, in order: %v; %v", len(got), n, slices.IsSorted(got), err)
	}
	js, err := jetstream.New(s.nc)
	if err != nil {
		t.Fatal(err)
	}
	if err := js.DeleteStream(ctx, "EV_eu"); err != nil {
		t.Fatal(err)
	}
	if err := log.Read(ctx, what, func(events.Entry) bool { return true }); err == nil || ctx.Err() != nil {
		t.Errorf("read of a stream that is gone: %v, at the end of the context: %v", err, ctx.Err())
	}
}
