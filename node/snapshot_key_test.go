package node_test

import (
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node"
)

// A node that ran without a cluster key for some time, and was given it again
// before it was started anew, knows all that the key sealed: its snapshot does not.
func TestSnapshotOfANodeThatLackedAKey(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		old, fresh := events.NewClusterKey(), events.NewClusterKey()
		own := holding(t, old)
		h := newHarness(t, func(c *node.Config) { c.Solo, c.Keys = false, own })
		h.keys = own
		token := h.login("ada").str("session_token")
		h.stop()
		start := func(raw ...[]byte) *harness {
			n, _ := h.another(func(c *node.Config) { c.SnapshotDir, c.Keys = dir, holding(t, raw...) })
			n.start()
			return n
		}
		lacking := start(fresh)
		time.Sleep(6 * time.Minute)
		lacking.stop()
		again := start(fresh, old)
		time.Sleep(6 * time.Minute)
		again.verify(token).want(http.StatusNoContent)
		again.stop()
		start(old, fresh).verify(token).want(http.StatusNoContent) // in another order they are the same
	})
}
