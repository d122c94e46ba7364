package node_test

import (
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/revocast/revocast/node"
)

// R8: a node is cut off until its heartbeats have left the log. Meanwhile the log
// loses its end, and the sequences are used again: for a revocation, and where
// this node had come to, for heartbeats that are gone as well when it is back. So
// nothing that is redelivered from there differs, and the node is acknowledged no
// sequence that it knows.
func TestAnchorThatExpired(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t, func(c *node.Config) { c.Solo = false })
		token := h.login("ada").str("session_token")
		b, link := h.another()
		b.start()
		time.Sleep(20 * time.Second)
		b.verify(token).want(http.StatusNoContent)
		synctest.Wait()
		link.Cut()
		h.home.Truncate(10)
		revoke := func() *reply {
			return h.do(h.key, "POST", "/v1/sessions/revoke", m{"session_token": token, "wait": "all"})
		}
		r := revoke()
		for r.Status != http.StatusOK { // until this node has read the log again
			time.Sleep(100 * time.Millisecond)
			r = revoke()
		}
		if r.str("receipt.status") != "complete" {
			t.Fatalf("receipt: %s", r.Raw)
		}
		time.Sleep(5 * time.Minute)
		link.Heal()
		time.Sleep(10 * time.Second)
		b.verify(token).want(http.StatusUnauthorized)
	})
}

// A cut that is longer than heartbeats last, of a log that lost nothing, is no
// reason to read it all again.
func TestAnchorIsTheMarker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t, func(c *node.Config) { c.Solo = false })
		b, link := h.another()
		b.start()
		token := h.login("ada").str("session_token")
		time.Sleep(20 * time.Second)
		link.Cut()
		time.Sleep(30 * time.Minute)
		link.Heal()
		time.Sleep(5 * time.Second)
		b.verify(token).want(http.StatusNoContent)
		if gen := b.login("eve").str("revision"); gen[:5] != "eu:0:" {
			t.Errorf("revision %s: the log was read again from its beginning", gen)
		}
	})
}
