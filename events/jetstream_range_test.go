package events_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
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

// TestReadReplaced reads while some entries take the place of others, one of which
// the server takes off its count of what is left before it adds the other: all that
// stays is given all the same.
func TestReadReplaced(t *testing.T) {
	s := newSite(t, true)
	log := s.create(t, s.cluster())
	began := time.Now()
	const n = 50
	var last uint64
	for i := range n {
		m := benchMessage(t, s.keys, i)
		m.Subject = fmt.Sprintf("ev.eu.demo.u.s%d.rev", i)
		last = put(t, log, m)
	}
	var writing sync.WaitGroup
	defer writing.Wait()
	stop := make(chan struct{})
	defer close(stop)
	writing.Go(func() { // one state after the other, as fast as that goes
		m := &nats.Msg{Subject: "ev.eu.demo.u.s.st", Data: []byte("{}"), Header: nats.Header{"Nats-Expected-Stream": {"EV_eu"}}}
		for k := 1; ; k++ {
			select {
			case <-stop:
				return
			default:
			}
			err := s.nc.PublishMsg(m)
			if k%500 == 0 {
				_, err = s.nc.RequestMsg(m, time.Minute)
			}
			if err != nil {
				t.Error(err)
				return
			}
		}
	})
	for i := range 20 {
		what := events.Range{From: 1, To: last, Filters: []string{"ev.eu.demo.*.*.rev", "ev.eu.demo.*.*.st"}}
		if i%2 == 1 {
			what.From, what.Since = 0, began
		}
		got := 0
		err := log.Read(t.Context(), what, func(e events.Entry) bool {
			got++
			return true
		})
		if err != nil || got != n {
			t.Fatalf("reading %d of %+v: %d of %d entries, %v", i, what, got, n, err)
		}
	}
}

// TestReadSince reads from a time on what matches several filters, of which one also
// matches something older and another something younger: nothing between is passed over.
func TestReadSince(t *testing.T) {
	s := newSite(t, true)
	log := s.create(t, s.cluster())
	write := func(from, to int, kind string) (last uint64) {
		for i := from; i < to; i++ {
			m := benchMessage(t, s.keys, i)
			m.Subject = fmt.Sprintf("ev.eu.demo.u.s%d.%s", i, kind)
			last = put(t, log, m)
		}
		return last
	}
	write(0, 5, "rev")
	began := time.Now()
	write(5, 10, "rev")
	write(0, 5, "all")
	last := write(10, 15, "rev")
	got := 0
	what := events.Range{Since: began, To: last, Filters: []string{"ev.eu.demo.*.*.rev", "ev.eu.demo.*.*.all"}}
	err := log.Read(t.Context(), what, func(events.Entry) bool {
		got++
		return true
	})
	if err != nil || got != 15 {
		t.Errorf("%d of 15 entries, %v", got, err)
	}
}
