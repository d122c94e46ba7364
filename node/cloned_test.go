package node_test

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/revocast/revocast/events"
)

// clone stores another heartbeat of the life that the message is of, if it is a
// heartbeat, ahead by so many.
func (h *harness) clone(msg events.Message, ahead uint64) {
	beat, ok := h.keys.Decode(2, events.Entry{Seq: 1, Time: time.Now(), Message: msg}).Event.(*events.Beat)
	if !ok {
		return
	}
	other := *beat
	other.N += ahead
	copied, err := h.keys.Encode("eu", &other, nil, time.Minute)
	if err != nil {
		h.t.Error(err)
	} else if _, err := h.home.Inject(copied); err != nil {
		h.t.Error(err)
	}
}

// A machine is copied, or set back, while a node runs on it: two processes have
// one incarnation. The heartbeats of one never renew the lease of the other, and
// both stop for good.
func TestClonedNode(t *testing.T) {
	for name, faults := range map[string]func(*fleetNode) events.MemoryFaults{
		"in step": func(n *fleetNode) events.MemoryFaults {
			return events.MemoryFaults{Ack: func(_ context.Context, msg events.Message, _ uint64) error {
				n.clone(msg, 0)
				return nil
			}}
		},
		"the other runs ahead": func(n *fleetNode) events.MemoryFaults {
			return events.MemoryFaults{Send: func(_ context.Context, msg events.Message) error {
				n.clone(msg, 1000)
				return nil
			}}
		},
		"only the other is heard": func(n *fleetNode) events.MemoryFaults {
			return events.MemoryFaults{Send: func(_ context.Context, msg events.Message) error {
				n.clone(msg, 0)
				return events.ErrUnavailable
			}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			fleetBubble(t, 1, func(t *testing.T, f *fleet) {
				n := f.join("n2")
				token := f.login("ada").str("session_token")
				time.Sleep(time.Second)
				n.wantVerify(token, http.StatusNoContent, "-")
				n.link.SetFaults(faults(n))
				time.Sleep(2 * time.Second)
				n.wantVerify(token, http.StatusServiceUnavailable, "cloned")
				n.link.SetFaults(events.MemoryFaults{})
				n.wantProblem("cloned", "restart")
				time.Sleep(time.Minute)
				n.wantVerify(token, http.StatusServiceUnavailable, "cloned")
				left := false
				f.nodes[0].link.SetFaults(events.MemoryFaults{Deliver: func(_ context.Context, e events.Entry) int {
					left = left || strings.HasSuffix(e.Subject, ".reg")
					return 1
				}})
				if err := n.node.Leave(t.Context()); err != nil || left {
					t.Errorf("a farewell was said (%t), and the other process may live: %v", left, err)
				}
				n.stop()
				next := f.join("n2")
				next.wantVerify(token, http.StatusNoContent, "-")
				f.wantNoProblems()
			})
		})
	}
}
