package node_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node"
)

// slowArchive is a history out of reach.
type slowArchive struct{}

func (slowArchive) History(ctx context.Context, _ []string, _ func(events.Archived) bool) error {
	<-ctx.Done()
	return ctx.Err()
}

// A revocation that somebody overwrote is repaired soon, however many states wait
// whose private part this node does not find.
func TestRepairRevocationsFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t, func(c *node.Config) {
			c.Solo, c.Private, c.Archive = false, node.PrivateLog, slowArchive{}
		})
		gone := h.login("ada")
		h.do(h.key, "POST", "/v1/sessions/revoke", m{"session_id": gone.str("session.session_id")}).want(200)
		revocation := (&events.Revoke{App: "acme", User: "ada", SID: sidOf(t, gone)}).Subject("eu").String()
		h.newest(revocation)
		for i := range 400 {
			user := fmt.Sprint("user", i)
			h.overwrite(subjectOfState(t, h.do(h.key, "POST", "/v1/sessions", rich(user)).want(201), user), nil)
		}
		time.Sleep(5 * time.Second)
		seq := h.overwrite(revocation, nil)
		time.Sleep(5 * time.Second)
		if e := h.newest(revocation); e.Seq == seq {
			t.Error("5 seconds later what overwrote the revocation still stands")
		}
	})
}
