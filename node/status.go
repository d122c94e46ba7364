package node

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node/api"
)

// deniedFor is how long a missing permission is shown after it was last missed.
// Heartbeats are sent each second and reads repeated at least as often.
const deniedFor = time.Minute

// status returns how this node is.
func (n *Node) status() api.NodeStatus {
	st := api.NodeStatus{
		Ready: true, Node: n.conf.Name, Region: n.home.region, Version: n.conf.Version,
		Durability: n.conf.Durability(), Incarnation: n.incarnation.String(),
		Format: events.Version, ClusterKeys: n.conf.Keys.IDs(), ConfigStaleMS: -1,
	}
	if ms := n.home.offset.Load(); ms != nil {
		st.ClockOffsetMS = ms
	}
	if age, ok := n.settings.lease.staleness(n.conf.Clock.Boot()); ok {
		st.ConfigStaleMS = age.Milliseconds()
	}
	st.Sessions, st.Tombstones = n.sessions().Len()
	st.Memory = n.memoryState()
	for _, s := range n.streams() {
		state := s.state()
		st.Ready = st.Ready && (state.Fresh || !s.vital())
		st.Streams = append(st.Streams, state)
		st.Problems = append(st.Problems, s.problems(state)...)
	}
	st.Problems = append(st.Problems, n.problems()...)
	return st
}

// vital reports whether the node should be asked nothing without a lease on the
// stream: its own region's; and CONFIG as long as it was never known whole. With
// CONFIG out of reach a node goes on with what it has, and another region is out
// of reach for other nodes too.
func (s *stream) vital() bool {
	return s == s.node.home || s == s.node.settings && s.lease.blind()
}

// state returns how the node stands to the stream. StalenessMS is -1 when the
// node never knew all of it.
func (s *stream) state() api.StreamState {
	now := s.node.conf.Clock.Boot()
	st := api.StreamState{
		Stream: s.region, Position: s.position().String(), Fresh: s.lease.holds(now),
		LeaseMS: s.lease.left(now).Milliseconds(), StalenessMS: -1,
		Bytes: s.bytes.Load(), MaxBytes: s.maxBytes.Load(), Overwrites: s.overwrites.Load(),
		Digest:  s.digestState(),
		Pending: s.node.sessions().PendingLen(s.number),
	}
	if age, ok := s.lease.staleness(now); ok {
		st.StalenessMS = age.Milliseconds()
	}
	if !st.Fresh {
		st.Fenced = s.lease.why()
		st.Detail = s.detail(st.Fenced)
	}
	return st
}

// detail says what the reason for which the node is fenced means, and what to do.
func (s *stream) detail(reason string) string {
	because := func(what string, err *string) string {
		if err == nil {
			return what
		}
		return what + ": " + *err
	}
	switch reason {
	case reasonStarting:
		return because("the stream is being read, and no heartbeat of this node came back yet", s.beatError.Load())
	case reasonSilent:
		return because("the stream is out of reach: no heartbeat of this node came back for a lease; check its servers, the way there, and that the NATS user is of the right account", s.beatError.Load())
	case reasonClock:
		return s.clockDetail()
	case reasonRewound:
		return because("the log went backwards and is read again", s.followError.Load())
	case reasonIdentity:
		return because("the stream is another one than this node began with", s.followError.Load()) +
			"; if it was made again, restore it from a backup, or begin a new cluster in a new data directory; if this node was moved, give it the servers and the account it had"
	case reasonDigest:
		return because("the stream is read again", s.followError.Load())
	case reasonLeaving:
		return "the node is stopping"
	case reasonCloned:
		return "another process has the identity of this one, because its machine was copied or set back while it ran: restart this process, and the other one too"
	}
	return s.lease.detail()
}

func (s *stream) clockDetail() string {
	ms := s.offset.Load()
	if ms == nil {
		return ""
	}
	apart, than := time.Duration(*ms)*time.Millisecond, "ahead of"
	if apart < 0 {
		apart, than = -apart, "behind"
	}
	if apart <= maxClockSkew {
		return "the log's clock and this node's were both set back; if they are right now, restart the node"
	}
	return fmt.Sprintf("the log's clock is %v %s this node's: set the wrong one right", apart.Round(time.Millisecond), than)
}

// problems returns what is wrong with the stream, given its state.
func (s *stream) problems(st api.StreamState) (all []api.Problem) {
	add := func(state, format string, args ...any) {
		all = append(all, api.Problem{State: state, Stream: s.region, Message: fmt.Sprintf(format, args...)})
	}
	if !st.Fresh {
		add(st.Fenced, "%s", st.Detail)
	}
	if a, ok := s.namesake(); ok {
		add(api.ProblemNameTaken, "another process runs as node %s: incarnation %s, and this one is %s; give each its own --node",
			a.node, a.incarnation, s.node.incarnation)
	}
	held, told := s.node.conf.Keys.IDs(), map[string]bool{}
	for _, a := range s.others() {
		if a.format > events.Version && !told[a.node] {
			told[a.node] = true
			add(api.ProblemNewerFormat, "node %s reads events of version %d, and this one only up to %d: run the newer version on this node too",
				a.node, a.format, events.Version)
		}
		// The log counts in seconds, so a quarter of that says nothing.
		if own := s.node.conf.Lease; !told["lease "+a.node] && (a.lease-own).Abs() > time.Second/4 {
			told["lease "+a.node] = true
			add(api.ProblemLeaseDiffers, "node %s has leases of %v, and this one of %v: configure all nodes alike; receipts wait for the longest",
				a.node, a.lease, own)
		}
		for _, id := range a.keys {
			if !slices.Contains(held, id) && !told[id] {
				told[id] = true
				add(api.ProblemKeyMissing, "node %s holds cluster key %s, which this node lacks: add it to this node's cluster key file; it seals nothing before all nodes hold it",
					a.node, id)
			}
		}
	}
	if c, ok := s.digests.newest(s.node.incarnation); ok && len(c.differ) > 0 {
		add(api.ProblemDigest, "at sequence %d this node and %s made different things of the same events; the node in the minority reads them again",
			c.seq, strings.Join(c.differ, ", "))
	}
	if s.above(createBudget) {
		add(api.ProblemLogFull, "%d of %d bytes are used: new sessions are refused; raise the budget (max_bytes of the stream)", st.Bytes, st.MaxBytes)
	}
	return all
}

// problems returns what is wrong with the node as a whole.
func (n *Node) problems() (all []api.Problem) {
	add := func(state, stream, format string, args ...any) {
		all = append(all, api.Problem{State: state, Stream: stream, Message: fmt.Sprintf(format, args...)})
	}
	if n.conf.Denials != nil {
		for _, p := range n.conf.Denials.Within(deniedFor) {
			add(api.ProblemDenied, "", "denied: %s: give the NATS user of this node that permission", p)
		}
	}
	if n.logDead.Load() {
		add(api.ProblemLogDead, "", "the log takes no writes: make space on its disk")
	}
	if st := n.memoryState(); st != nil && st.Full {
		add(api.ProblemMemoryFull, "", "%d of %d bytes of memory are used by what cannot be freed: new sessions are refused; give the node more memory, or end sessions",
			st.UsedBytes, st.LimitBytes)
	}
	for _, region := range n.unopened() {
		why, _ := n.openErrors.Load(region)
		add(api.ProblemUnreachable, region, "the stream of region %s was not reached since this node began, and its sessions are refused: %v", region, why)
	}
	return all
}
