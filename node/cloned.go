package node

import "sync"

// A process that is copied while it runs, with its machine, or set back to what it
// was, has another with the same incarnation: the heartbeats of one would renew
// the lease of the other, from a time at which that one sent something else (rule
// R2), and one would confirm receipts for both. The log tells: a heartbeat of
// this incarnation that this process did not send. It stops for good; when it is
// started again it has an incarnation of its own.

// beatsKept is how many of its newest heartbeats a stream remembers: more than
// are sent within a lease.
const beatsKept = 1 << 10

// sentBeats remembers which heartbeats this process has sent. The zero value is
// ready.
type sentBeats struct {
	mu   sync.Mutex // guards beat
	beat [beatsKept]struct{ n, event uint64 }
}

// note remembers heartbeat n, with its fingerprint, before it is sent.
func (b *sentBeats) note(n, event uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.beat[n%beatsKept] = struct{ n, event uint64 }{n, event}
}

// own reports whether this process sent the heartbeat, and foreign whether it
// certainly did not; neither when it is forgotten.
func (b *sentBeats) own(n, event uint64) (own, foreign bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	held := b.beat[n%beatsKept]
	own = held.n == n && held.event == event
	return own, !own && held.n <= n
}

// cloned fences this node for good on all streams, and says no farewell: the other
// process may go on.
func (n *Node) cloned(s *stream, beat uint64) {
	if n.isCloned.Swap(true) {
		return
	}
	n.conf.Log.Error("fenced for good: another process has the identity of this one; its machine was copied or set back while it ran: restart both",
		"stream", s.region, "incarnation", n.incarnation.String(), "heartbeat", beat)
	n.joining.Lock()
	defer n.joining.Unlock()
	n.left = true
	for _, each := range n.streams() {
		each.lease.drop(reasonCloned)
	}
}
