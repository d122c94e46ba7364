package node

import (
	"context"
	"time"

	"github.com/revocast/revocast/events"
)

// confirms answers, until ctx ends, what other nodes ask for their receipts.
func (n *Node) confirms(ctx context.Context) error {
	if n.conf.Mesh == nil {
		return nil
	}
	return n.conf.Mesh.Run(ctx, events.Answers{
		Me: n.incarnation, Confirm: n.confirm,
		Queries: map[string]func(context.Context, []byte) ([]byte, bool){
			snapshotTopic: n.lend, statusTopic: n.tellStatus, vouchTopic: n.vouch, eraseTopic: n.eraseFor, pingTopic: n.pinged,
		},
	})
}

// confirm says yes once no request that begins from then on is answered by this
// node without the position: it is visible to readers (rule R12), or the node
// holds no lease and renounces every heartbeat below the position. So a node
// that joins, or is cut off from the log alone, holds up no receipt. It says
// nothing when W has passed first: by then nobody waits for it.
//
// Having come as far is worth nothing without a lease: the log may have gone
// backwards, and what was applied at this sequence be another event. With one
// it is the log of the last L, and whoever asks has seen that unbroken for W.
// That another event was applied there shows that the two do not follow one
// log; then nothing is said. That nothing was applied there shows only that it
// was replaced before it was read: the lease is of a heartbeat after that (see
// gaps), so what replaced it is applied, and on the subject of a revocation only
// what revokes as much may stand.
func (n *Node) confirm(ctx context.Context, q events.Question) (events.Confirmation, bool) {
	c := events.Confirmation{Node: n.conf.Name, Incarnation: n.incarnation}
	s := n.streamOf(q.Stream)
	if s == nil || s.lease.ended() {
		return c, false // after a farewell nothing is said any more
	}
	if n.faults.confirmEarly {
		return c, true
	}
	ctx, cancel := context.WithTimeout(ctx, n.maxWait())
	defer cancel()
	for {
		if s.lease.renounce(q.Seq, n.conf.Clock.Boot()) {
			c.Fenced = true
			return c, true
		}
		began := s.rebuilt.Load()
		if err := s.wait(ctx, q.Seq); err != nil {
			return c, false
		}
		applied, known := s.trail.at(q.Seq)
		if known && q.Event != 0 && applied != q.Event {
			return c, false // it is asked again
		}
		// The lease after the sequence and the generation last: a rebuild drops
		// the lease first and begins the generation last.
		if s.lease.holds(n.conf.Clock.Boot()) && s.rebuilt.Load() == began {
			return c, true
		}
	}
}

// unbrokenFor returns how long the subscription has been without a break.
func (s *stream) unbrokenFor(now time.Duration) time.Duration {
	return now - time.Duration(s.resumedAt.Load())
}

// resumed notes that following begins, or begins again.
func (s *stream) resumed() {
	s.resumedAt.Store(int64(s.node.conf.Clock.Boot()))
	s.gaps.broken = s.gaps.open
	select {
	case s.broke <- struct{}{}:
	default:
	}
}

// faults break a rule each, so that tests can show that it would be noticed.
// All are false outside tests.
type faults struct {
	fromReturn       bool // R2: the lease counts from when the heartbeat came back
	lookupFirst      bool // R3: the session is looked up before the lease is checked
	anyLife          bool // R4: heartbeats of an earlier life renew the lease
	overGaps         bool // gap: a heartbeat from before one renews the lease
	beatsApart       bool // R6: heartbeats come back by another way than revocations
	silentIsDead     bool // R5: who missed two heartbeats is not waited for
	fromRequest      bool // R9: W counts from the request
	membersAtRequest bool // R11: members as they were a moment before the revocation
	confirmEarly     bool // R12: a node confirms what its readers do not see
	fastAfterBreak   bool // R13: confirmations count right after a break
	blindVouch       bool // R13: a voucher's age is taken, and not its members
	strongAtOnce     bool // a strong read does not wait for its heartbeat
	blindChange      bool // a change expects nothing
}
