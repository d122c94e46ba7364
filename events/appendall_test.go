package events_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/revocast/revocast/events"
)

// What AppendAll says is stored stands in the log where it says, beside what
// others append meanwhile, and what is bad fails alone.
func TestAppendAll(t *testing.T) {
	s := newSite(t, true)
	memory := events.NewMemory("eu", 2, events.MemoryConfig{})
	for name, log := range map[string]events.Log{"jetstream": s.create(t, s.cluster()), "memory": memory} {
		t.Run(name, func(t *testing.T) {
			const callers, each = 3, 1203 // more than a batch, and a few more
			var all sync.WaitGroup
			for c := range callers {
				all.Go(func() {
					ms := make([]events.Message, each)
					for i := range ms {
						ms[i] = benchMessage(t, s.keys, c*each+i)
					}
					ms[7].TTL = time.Millisecond // not a number of seconds
					checkAppended(t, log, ms, 7)
				})
			}
			for i := range 50 {
				all.Go(func() {
					if _, err := log.Append(t.Context(), benchMessage(t, s.keys, -i), events.Expectation{}); err != nil {
						t.Errorf("append beside them: %v", err)
					}
				})
			}
			all.Wait()
		})
	}
}

// checkAppended appends the messages, of which one is bad, and reads back some.
func checkAppended(t *testing.T, log events.Log, ms []events.Message, bad int) {
	seen := map[uint64]bool{}
	for i, a := range events.AppendAll(t.Context(), log, ms) {
		if i == bad && log.Region() == "eu" {
			if _, memory := log.(*events.Memory); !memory && a.Err == nil {
				t.Error("a message that the stream would refuse was taken")
			}
			continue
		}
		if a.Err != nil || a.Seq == 0 || seen[a.Seq] {
			t.Errorf("message %d: sequence %d, %v", i, a.Seq, a.Err)
			return
		}
		if seen[a.Seq] = true; i%97 != 0 {
			continue
		}
		if e, err := log.Last(t.Context(), ms[i].Subject); err != nil || e.Seq != a.Seq || e.Seal != ms[i].Seal {
			t.Errorf("message %d is said to stand at %d; there is %d, %v", i, a.Seq, e.Seq, err)
		}
	}
}

// Whoever gives up leaves the queue as it was.
func TestAppendAllGivesUp(t *testing.T) {
	s := newSite(t, true)
	log := s.create(t, s.cluster())
	var ms []events.Message
	for i := range 100 {
		ms = append(ms, benchMessage(t, s.keys, i))
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	for _, a := range events.AppendAll(gone, log, ms) {
		if a.Err == nil || !strings.Contains(fmt.Sprint(a.Err), "unavailable") {
			t.Fatalf("after its context ended: %v", a.Err)
		}
	}
	for i, a := range events.AppendAll(t.Context(), log, ms) {
		if a.Err != nil {
			t.Fatalf("message %d: %v", i, a.Err)
		}
	}
}
