package node

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/revocast/revocast/events"
)

// A replay that is asked for before anything was noted passes over nothing where it is
// not known from where on an endpoint is told.
func TestReplayFromAnUnknownPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		keys, err := events.NewClusterKeys(events.NewClusterKey())
		if err != nil {
			t.Fatal(err)
		}
		clock := bubbleClock(time.Now())
		home := events.NewMemory("eu", 2, events.MemoryConfig{Clock: clock})
		config := events.NewMemory(events.ConfigRegion, 1, events.MemoryConfig{Clock: clock})
		n, err := New(Config{Name: "n1", PublicURL: "http://localhost", Clock: clock, Keys: keys, Home: home, Archive: home, Settings: config})
		if err != nil {
			t.Fatal(err)
		}
		for name, start := range map[string]map[string]string{
			"out of reach when it was made": {"eu": ""}, "younger than the endpoint": {},
		} {
			w := &worker{n: n, id: endpointID{"acme", webhookType, "wh_1"}}
			d := deliverySetting{Born: "b", BornAt: n.wall(), Start: start}
			d.again(map[string]string{"eu": "eu:0:500"})
			if !w.begin(&endpointConf{delivery: d}) || w.at != n.home.at(0) || w.p.Heard != 0 {
				t.Errorf("%s: begins at %v, heard %d", name, w.at, w.p.Heard)
			}
		}
	})
}
