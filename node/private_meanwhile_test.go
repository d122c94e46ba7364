package node_test

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node"
)

// A session that is revoked while a verify waits for its private part is not good:
// this node has confirmed the revocation by then.
func TestPrivateVerifyRevokedMeanwhile(t *testing.T) {
	for _, query := range []string{"?jwt=1", "?jwt=1&body=1"} {
		synctest.Test(t, func(t *testing.T) {
			h := newHarness(t, func(c *node.Config) {
				c.Solo, c.Private, c.Archive = false, node.PrivateLog, emptyArchive{}
			})
			r := h.do(h.key, "POST", "/v1/sessions", rich("ada")).want(201)
			time.Sleep(4 * time.Minute) // until the JWT of the log-in is not used again
			h.overwrite(subjectOfState(t, r, "ada"), nil)
			time.Sleep(time.Second)
			revoked := make(chan struct{})
			go func() {
				defer close(revoked)
				time.Sleep(100 * time.Millisecond)
				h.do(h.key, "POST", "/v1/sessions/revoke", m{"session_id": r.str("session.session_id"), "wait": "all"}).want(200)
			}()
			h.do(r.str("session_token"), "GET", "/v1/verify"+query, nil).wantRefused("revoked")
			<-revoked
		})
	}
}

// A token that was rotated away while the node waited for the private part of the
// newer state is no token any more.
func TestPrivateRotatedMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t, func(c *node.Config) { c.Solo = false })
		late, link := h.another(func(c *node.Config) { c.Private = node.PrivateLog })
		late.start()
		time.Sleep(2 * time.Second)
		r := h.do(h.key, "POST", "/v1/sessions", rich("ada")).want(201)
		time.Sleep(time.Second)
		link.SetFaults(events.MemoryFaults{Deliver: func(ctx context.Context, e events.Entry) int {
			if strings.HasSuffix(e.Subject, ".st") {
				wait(ctx, 2*time.Second)
			}
			return 1
		}})
		old := r.str("session_token")
		h.do(h.key, "POST", "/v1/sessions/rotate", m{"session_token": old, "grace_seconds": 0}).want(200)
		late.auth(m{"session_token": old}).wantError(404, "session_not_found")
	})
}
