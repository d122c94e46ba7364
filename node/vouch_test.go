package node_test

import (
	"net/http"
	"testing"
	"time"
)

// A node that began a moment ago may not know all members; one that has followed
// the log for W vouches for them. So its first receipts are as quick as any, and
// wait for whom they must.
func TestReceiptOfNewNode(t *testing.T) {
	fleetBubble(t, 3, func(t *testing.T, f *fleet) {
		late := f.join("n4")
		time.Sleep(time.Second) // a heartbeat of its own must be back
		revoke := func() (*reply, time.Duration) {
			t.Helper()
			c := f.login("ada")
			begin := time.Now()
			r := late.do(f.key, "POST", "/v1/sessions/revoke", m{"session_id": c.str("session.session_id"), "wait": "all"})
			return r, time.Since(begin)
		}
		r, took := revoke()
		f.wantReceipt(r, "confirmed", []string{"n1", "n2", "n3", "n4"}, nil, nil, nil)
		if took > 100*time.Millisecond {
			t.Errorf("the first receipt of a new node took %v", took)
		}

		// It waits for whom it must as any receipt does: a member that is silent,
		// until that can have no lease.
		c := f.login("eve")
		f.nodes[1].link.Cut()
		f.nodes[1].config.Cut()
		f.nodes[1].mesh.Cut()
		begin := time.Now()
		r = late.do(f.key, "POST", "/v1/sessions/revoke", m{"session_id": c.str("session.session_id"), "wait": "all"})
		f.wantReceipt(r, "waited", []string{"n1", "n3", "n4"}, nil, []string{"n2"}, nil)
		if took := time.Since(begin); took < fullWait-2*time.Second || took > fullWait+50*time.Millisecond {
			t.Errorf("took %v though a node was silent for no longer than a heartbeat", took)
		}
		f.nodes[1].wantVerify(c.str("session_token"), http.StatusServiceUnavailable, "silent")
	})
}
