package node_test

import (
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/revocast/revocast/events"
)

// Whose API key is revoked hears no more, also while there is always more to read.
func TestFeedOfARevokedKey(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		key := h.do(h.admin, "POST", "/v1/apps/"+h.app+"/api-keys", m{"name": "reader", "scopes": []string{"read"}}).want(http.StatusCreated)
		h.key = key.str("api_key")
		slow := h.stuck("types=session.revoked")
		const n = 5000
		for i := range n {
			sid := events.SID{2, byte(i >> 8), byte(i)}
			h.inject(&events.Revoke{App: h.app, User: "u", SID: sid, At: 1, AbsoluteAt: time.Now().Add(time.Hour).UnixMilli()})
		}
		synctest.Wait()
		h.do(h.admin, "DELETE", "/v1/apps/"+h.app+"/api-keys/"+key.str("key.id"), nil).want(http.StatusOK)
		time.Sleep(10 * time.Second)
		close(slow.let)
		came := 0
		for f := range slow.c.frames {
			if strings.HasPrefix(f.name, "session.") {
				came++
			}
		}
		if came > n/2 {
			t.Errorf("%d events came, of %d", came, n)
		}
	})
}
