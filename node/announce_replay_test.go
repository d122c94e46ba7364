package node_test

import (
	"context"
	"errors"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/revocast/revocast/events"
)

// newestBeat returns the newest heartbeat of the node in its region's log.
func (k *keyed) newestBeat(name string) (m events.Message) {
	k.t.Helper()
	ctx, cancel := context.WithCancel(k.t.Context())
	defer cancel()
	err := k.home.Follow(ctx, events.Follow{CaughtUp: cancel, Apply: func(e events.Entry) error {
		if beat, ok := k.harness.keys.Decode(k.home.Number(), e).Event.(*events.Beat); ok && beat.Node == name {
			m = e.Message
		}
		return nil
	}})
	if err != nil && !errors.Is(err, context.Canceled) || m.Subject == "" {
		k.t.Fatalf("no heartbeat of %s: %v", name, err)
	}
	return m
}

// Whoever reaches NATS appends what a node of the past said again. The live nodes
// do not go back to the key that it held, and a rotation goes on.
func TestClusterKeyReplayedHeartbeat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := keyedFleet(t, 2)
		gone := k.join("n9", k.old)
		time.Sleep(10 * time.Second)
		m := k.newestBeat("n9")
		gone.stop()
		k.nodes = k.nodes[:2]
		time.Sleep(5 * time.Minute)
		for _, n := range k.nodes {
			n.give(k.new, k.old)
		}
		time.Sleep(20 * time.Second)
		k.wantSealing(k.new)
		for range 3 {
			if _, err := k.home.Inject(m); err != nil {
				t.Fatal(err)
			}
			time.Sleep(20 * time.Second)
		}
		k.wantSealing(k.new)
		if r := k.nodes[0].do(k.admin, "GET", "/v1/nodes", nil).want(http.StatusOK); len(r.at("nodes").([]any)) != 2 {
			t.Errorf("nodes: %s", r.Raw)
		}
		k.nodes[0].rotate()
	})
}
