package node_test

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/revocast/revocast/events"
)

// A session is revoked twice, and a node that is behind reads the stream when
// the second revocation has replaced the first. Its heartbeat stands between
// the two: it proves nothing, because the node has seen neither.
func TestHeartbeatBeforeTheReplacement(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		b, link := h.twinLink("n2")
		c := h.login("ada")
		time.Sleep(3 * time.Second)
		b.verify(c.str("session_token")).want(http.StatusNoContent)

		behind, stuck := make(chan struct{}), make(chan struct{})
		link.SetFaults(events.MemoryFaults{Deliver: func(ctx context.Context, e events.Entry) int {
			select {
			case <-behind:
			case <-ctx.Done():
			}
			if strings.HasSuffix(e.Subject, ".rev") {
				select {
				case <-stuck:
				case <-ctx.Done():
				}
			}
			return 1
		}})
		revoke := func() {
			h.inject(&events.Revoke{App: "acme", User: "ada", SID: sidOf(t, c), At: time.Now().UnixMilli()})
		}
		revoke()
		first := time.Now()
		time.Sleep(5 * time.Second)
		revoke()
		close(behind)
		time.Sleep(time.Until(first.Add(lease + time.Second)))
		if v := b.verify(c.str("session_token")); v.Status != http.StatusServiceUnavailable {
			t.Errorf("a lease and a second after the revocation: %d", v.Status)
		}
		close(stuck)
		time.Sleep(2 * time.Second)
		b.verify(c.str("session_token")).wantRefused("revoked")
	})
}

// A node begins when a second revocation has replaced the first, and before it
// reads the second the log loses that: the first is back, below what the node
// has read.
func TestReplacementIsLostBeforeItIsRead(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		c := h.login("ada")
		revoke := func() uint64 {
			return h.inject(&events.Revoke{App: "acme", User: "ada", SID: sidOf(t, c), At: time.Now().UnixMilli()})
		}
		revoke()
		time.Sleep(3 * time.Second)
		b, link := h.twinUnstarted("n2")
		stuck := make(chan struct{})
		link.SetFaults(events.MemoryFaults{Deliver: func(ctx context.Context, e events.Entry) int {
			if strings.HasSuffix(e.Subject, ".rev") {
				select {
				case <-stuck:
				case <-ctx.Done():
				}
			}
			return 1
		}})
		second := revoke()
		b.begin()
		time.Sleep(100 * time.Millisecond)
		info, err := h.home.Info(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		h.home.Truncate(int(info.LastSeq - second + 1))
		close(stuck)
		for range 20 {
			time.Sleep(500 * time.Millisecond)
			if v := b.verify(c.str("session_token")); v.Status == http.StatusNoContent {
				t.Fatal("the session is good")
			}
		}
		b.verify(c.str("session_token")).wantRefused("revoked")
	})
}
