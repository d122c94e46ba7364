package node_test

import (
	"context"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/revocast/revocast/events"
)

// The log loses its end behind a server that nobody is connected to: no
// subscription breaks. One node had applied the end, and a revocation takes its
// place; another had not come as far. The first is told by what the second says.
func TestLostTailUnseen(t *testing.T) {
	fleetBubble(t, 2, func(t *testing.T, f *fleet) {
		c := f.login("ada")
		time.Sleep(20*time.Second + 300*time.Millisecond)
		sees, misses := f.nodes[0], f.nodes[1]
		gate := make(chan struct{})
		sees.link.SetFaults(events.MemoryFaults{Deliver: func(ctx context.Context, _ events.Entry) int {
			select {
			case <-gate:
			case <-ctx.Done():
			}
			return 1
		}})
		touch := func(user string) {
			f.inject(&events.Touch{App: "acme", User: user, SID: events.SID{2, user[0]}, At: time.Now().UnixMilli()})
		}
		touch("last") // on its way to the one
		touch("gone")
		touch("lost")
		synctest.Wait()
		f.home.TruncateUnseen(2)
		f.inject(&events.Revoke{App: "acme", User: "ada", SID: sidOf(t, c), At: time.Now().UnixMilli()})
		for _, user := range []string{"a", "b", "c"} {
			touch(user)
		}
		close(gate)
		synctest.Wait()
		sees.verify(c.str("session_token")).wantRefused("revoked")
		misses.verify(c.str("session_token")).want(http.StatusNoContent) // it cannot know yet
		time.Sleep(lease / 2)
		if v := misses.verify(c.str("session_token")); v.Status == http.StatusNoContent {
			t.Error("half a lease later the session is good")
		}
		sees.verify(c.str("session_token")).wantRefused("revoked") // and is not fenced
		time.Sleep(lease)
		misses.verify(c.str("session_token")).wantRefused("revoked")
	})
}
