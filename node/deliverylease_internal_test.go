package node

import (
	"encoding/json"
	"testing"
	"testing/synctest"
	"time"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/projection"
)

// hookedClock calls what it is told to at the next look at it.
type hookedClock struct {
	bubbleClock
	next func()
}

func (c *hookedClock) Boot() time.Duration {
	if f := c.next; f != nil {
		c.next = nil
		f()
	}
	return c.bubbleClock.Boot()
}

// A node that hears of nothing for a while, and then of the holder's newest renewal
// in the moment in which it looks, does not take the holder's place.
func TestDeliveryLeaseRenewedMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		keys, err := events.NewClusterKeys(events.NewClusterKey())
		if err != nil {
			t.Fatal(err)
		}
		clock := &hookedClock{bubbleClock: bubbleClock(time.Now())}
		home := events.NewMemory("eu", 2, events.MemoryConfig{Clock: clock})
		config := events.NewMemory(events.ConfigRegion, 1, events.MemoryConfig{Clock: clock})
		n, err := New(Config{Name: "n1", PublicURL: "http://localhost", Clock: clock, Keys: keys, Home: home, Archive: home, Settings: config})
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range n.streams() {
			s.lease.deadline.Store(int64(24 * time.Hour))
		}
		other := events.NewIncarnation()
		renewed := func(i uint64) uint64 {
			value, err := json.Marshal(deliveryHolder{Incarnation: other, N: i})
			if err != nil {
				t.Fatal(err)
			}
			m, err := keys.Encode(events.ConfigRegion, &events.Work{Ignorable: true, Type: deliveryWork, Name: "eu", Value: value}, nil, 0)
			if err != nil {
				t.Fatal(err)
			}
			seq, err := config.Inject(m)
			if err != nil {
				t.Fatal(err)
			}
			r := keys.Decode(1, events.Entry{Message: m, Seq: seq, Time: clock.Wall()})
			n.settings.fold.ApplyAll([]events.Record{r}, make([]projection.Effect, 1))
			return seq
		}
		renewed(1)
		if n.keepDelivery(t.Context(), true) {
			t.Fatal("the lease was taken from its holder")
		}
		time.Sleep(2 * n.maxWait())
		var last uint64
		clock.next = func() { last = renewed(2) }
		if n.keepDelivery(t.Context(), true); last == 0 {
			t.Fatal("the clock was not looked at")
		}
		info, err := config.Info(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if info.LastSeq != last {
			t.Errorf("the lease was taken from its holder: CONFIG ends at %d, want %d", info.LastSeq, last)
		}
	})
}
