package node_test

import (
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/revocast/revocast/node"
)

// Who revokes what is revoked already gets a receipt for that revocation, also
// while it is being applied: readers see what it did before they see its position.
func TestRevokeAgainWhileApplied(t *testing.T) {
	h := newHarness(t, func(c *node.Config) { c.Solo = false })
	first := h.login("ada")
	for range 5000 {
		h.login("ada")
	}
	var all sync.WaitGroup
	var group *reply
	all.Go(func() { group = h.do(h.key, "POST", "/v1/sessions/revoke", m{"user_id": "ada"}) })
	for h.verify(first.str("session_token")).Status != http.StatusUnauthorized {
	}
	again := h.do(h.key, "POST", "/v1/sessions/revoke", m{"session_id": sidOf(t, first).String()}).want(http.StatusOK)
	all.Wait()
	group.want(http.StatusOK)
	seq := func(r *reply) int {
		n, err := strconv.Atoi(r.str("receipt.revision")[strings.LastIndexByte(r.str("receipt.revision"), ':')+1:])
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	if seq(again) < seq(group) {
		t.Errorf("revoked already, by %s, and the receipt is of %s", group.str("receipt.revision"), again.str("receipt.revision"))
	}
}
