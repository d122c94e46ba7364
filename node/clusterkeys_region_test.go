package node_test

import (
	"context"
	"errors"
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node"
)

// A rotation is not complete while a region has not been gone through: what its
// log holds needs the old key, and the node was told that nothing does.
func TestClusterKeyRotationWithRegionOutOfReach(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		old, fresh := events.NewClusterKey(), events.NewClusterKey()
		keys := holding(t, old)
		h := newHarness(t, func(c *node.Config) { c.Solo, c.Keys = false, keys })
		h.keys = keys
		us := h.abroad()
		us.login("ada")
		us.stop()
		h.stop()
		time.Sleep(2 * time.Minute)

		// It starts with a file whose first key is the new one.
		var reach atomic.Bool
		own := holding(t, fresh, old)
		b, _ := h.another(func(c *node.Config) {
			c.Name, c.Keys = "n2", own
			c.Open = func(ctx context.Context, r *events.Region) (events.Log, error) {
				if !reach.Load() {
					return nil, errors.New("no route")
				}
				return us.open(ctx, r)
			}
		})
		b.keys = own
		b.start()
		time.Sleep(time.Minute)
		r := b.do(b.admin, "POST", "/v1/cluster-keys/rotate", nil)
		if r.Status == http.StatusAccepted {
			time.Sleep(2 * time.Minute)
			r = b.do(b.admin, "GET", "/v1/cluster-keys", nil).want(http.StatusOK)
		}
		if n := sealedWith(t, us.log, old); r.Status == http.StatusOK && r.str("rotation.state") == "complete" || r.Status == http.StatusOK && mayGo(r, old) {
			t.Errorf("us holds %d events of the old key, and it is said: %s", n, r.Raw)
		}
		reach.Store(true)
		time.Sleep(time.Minute)
		if !mayGo(b.rotate(), old) {
			t.Error("it may not go")
		}
		if n := sealedWith(t, us.log, old); n != 0 {
			t.Errorf("us holds %d events of the old key", n)
		}
	})
}
