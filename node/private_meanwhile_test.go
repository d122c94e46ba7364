package node_test

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
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

// rotatedMeanwhile returns a node that keeps no private parts and hears of states as
// much later as said, and the session of which another has just replaced the token.
func rotatedMeanwhile(t *testing.T, later time.Duration) (late *harness, created *reply) {
	h := newHarness(t, func(c *node.Config) { c.Solo = false })
	late, link := h.another(func(c *node.Config) { c.Private = node.PrivateLog })
	late.start()
	time.Sleep(2 * time.Second)
	created = h.do(h.key, "POST", "/v1/sessions", rich("ada")).want(201)
	time.Sleep(time.Second)
	link.SetFaults(events.MemoryFaults{Deliver: func(ctx context.Context, e events.Entry) int {
		if strings.HasSuffix(e.Subject, ".st") {
			wait(ctx, later)
		}
		return 1
	}})
	h.do(h.key, "POST", "/v1/sessions/rotate", m{"session_token": created.str("session_token"), "grace_seconds": 0}).want(200)
	return late, created
}

// A token that was rotated away while the node waited for the private part of the
// newer state is no token any more.
func TestPrivateRotatedMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		late, r := rotatedMeanwhile(t, 2*time.Second)
		old := r.str("session_token")
		late.auth(m{"session_token": old}).wantError(404, "session_not_found")
	})
}

// crowdedArchive is a history that takes long, and counts who reads it at once.
type crowdedArchive struct{ now, most atomic.Int64 }

func (a *crowdedArchive) History(ctx context.Context, _ []string, _ func(events.Archived) bool) error {
	now := a.now.Add(1)
	defer a.now.Add(-1)
	for most := a.most.Load(); now > most && !a.most.CompareAndSwap(most, now); {
		most = a.most.Load()
	}
	wait(ctx, time.Second)
	return nil
}

// However many ask for a session whose state somebody overwrote, the history is
// read by few at a time: each reads with a consumer of its own, of which a server
// bears so many.
func TestPrivateArchiveIsNotCrowded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var archive crowdedArchive
		h := newHarness(t, func(c *node.Config) {
			c.Solo, c.Private, c.Archive = false, node.PrivateLog, &archive
		})
		r := h.do(h.key, "POST", "/v1/sessions", rich("ada")).want(201)
		other := h.do(h.key, "POST", "/v1/sessions", rich("bob")).want(201)
		h.overwrite(subjectOfState(t, r, "ada"), nil)
		time.Sleep(time.Second)
		var all sync.WaitGroup
		for range 200 {
			all.Go(func() { h.auth(m{"session_token": r.str("session_token")}).wantError(503, "log_unavailable") })
		}
		time.Sleep(100 * time.Millisecond)
		h.auth(m{"session_token": other.str("session_token")}).want(200) // which holds up nobody else
		all.Wait()
		if most := archive.most.Load(); most < 2 || most > 24 {
			t.Errorf("the history was read by %d at a time", most)
		}
	})
}
