package node

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/revocast/revocast/events"
)

// Where there are hundreds of nodes each sends its heartbeats further apart, and
// still holds its lease without a gap; where they left, as before.
func TestHeartbeatsOfMany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		keys, err := events.NewClusterKeys(events.NewClusterKey())
		if err != nil {
			t.Fatal(err)
		}
		n := runNode(t, keys)
		sent := func(during time.Duration) uint64 {
			before := n.home.beats.Load()
			for end := time.Now().Add(during); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
				if !n.home.lease.holds(n.conf.Clock.Boot()) {
					t.Fatal("the lease ran out")
				}
			}
			return n.home.beats.Load() - before
		}
		const minute = time.Minute
		if got := sent(minute); got < 59 || got > 61 {
			t.Errorf("alone: %d heartbeats in a minute", got)
		}
		for _, many := range []struct {
			nodes int
			least uint64
		}{{200, 27}, {1000, 14}} {
			for range many.nodes {
				who := events.NewIncarnation()
				n.home.members.apply(events.Record{Seq: 1, Event: &events.Beat{Node: "other", Incarnation: who}}, n.conf.Clock.Boot()+time.Hour)
			}
			if got := sent(minute); got < many.least || got > many.least+6 {
				t.Errorf("with %d more: %d heartbeats in a minute", many.nodes, got)
			}
		}
	})
}
