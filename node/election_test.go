package node_test

import (
	"context"
	"testing"
	"time"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node/api"
)

// A log that elects a leader takes nothing for some seconds. A revocation that
// is asked for meanwhile is acknowledged when it ends; a create is not waited
// for so long.
func TestRevokeDuringElection(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		token := h.login("ada").str("session_token")
		until := time.Now().Add(9 * time.Second)
		h.home.SetFaults(events.MemoryFaults{Send: func(ctx context.Context, _ events.Message) error {
			select {
			case <-time.After(time.Until(until)):
				return nil
			case <-ctx.Done():
				return events.ErrUnavailable
			}
		}})
		begun := time.Now()
		h.do(h.key, "POST", "/v1/sessions", map[string]any{"user_id": "bob"}).wantError(503, api.LogUnavailable)
		if took := time.Since(begun); took != 5*time.Second {
			t.Errorf("a create waited for %v", took)
		}
		h.do(h.key, "POST", "/v1/sessions/revoke", map[string]any{"session_token": token}).want(200)
		if took := time.Since(begun); took < 9*time.Second || took > 10*time.Second {
			t.Errorf("the revocation was acknowledged after %v", took)
		}
		h.do(token, "GET", "/v1/verify", nil).want(401)
	})
}
