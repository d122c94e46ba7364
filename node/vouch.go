package node

import (
	"context"
	"encoding/json"
	"sync"
	"time"

	"github.com/revocast/revocast/events"
)

// A node that has begun to follow a stream, or began again after a break, may
// miss members: the log may have lost the heartbeats that made them so. For W
// it would therefore take no confirmations (rule R13). A node whose own
// subscription is unbroken misses none, so it is asked for those it knows.
//
// What one says holds up to a heartbeat of the asker that it has applied. From
// there on the asker's own subscription, which delivered that heartbeat too, is
// unbroken: together they cover all that the voucher covers.

// vouchTopic is the topic of these questions.
const vouchTopic = "vouch"

// vouchQuery asks about a stream, as JSON. Seq is that of a heartbeat of the
// asker.
type vouchQuery struct {
	Stream string             `json:"stream"`
	Asker  events.Incarnation `json:"asker"`
	Seq    uint64             `json:"seq"`
}

// vouchReply says for how long the subscription of who answers has been
// unbroken, in ms, and which members it knows.
type vouchReply struct {
	Unbroken int64           `json:"unbroken"`
	Members  []vouchedMember `json:"members"`
}

// vouchedMember is a member, and how long ago its newest heartbeat was applied,
// in ms.
type vouchedMember struct {
	Node        string             `json:"node"`
	Incarnation events.Incarnation `json:"incarnation"`
	Heard       int64              `json:"heard"`
}

// vouch answers a vouchQuery.
func (n *Node) vouch(ctx context.Context, body []byte) ([]byte, bool) {
	var q vouchQuery
	if json.Unmarshal(body, &q) != nil {
		return nil, false
	}
	s := n.streamOf(q.Stream)
	if s == nil || s.lease.ended() {
		return nil, false
	}
	ctx, cancel := context.WithTimeout(ctx, n.conf.Beat)
	defer cancel()
	if s.wait(ctx, q.Seq) != nil {
		return nil, false
	}
	// In this order: a rebuild drops the lease first, counts itself second, and
	// forgets the members last, and who holds a lease has followed since. So
	// the members are not those of a rebuild that the age does not know of.
	began := s.rebuilt.Load()
	if !s.lease.holds(n.conf.Clock.Boot()) || !s.members.applied(q.Asker, q.Seq) {
		return nil, false
	}
	now := n.conf.Clock.Boot()
	r := vouchReply{Members: s.members.list(now)}
	r.Unbroken = s.unbrokenFor(now).Milliseconds()
	if s.rebuilt.Load() != began {
		return nil, false
	}
	out, err := json.Marshal(&r)
	return out, err == nil
}

// seekVoucher looks, after each break, for a node that vouches for the members
// of the stream, until one does or W has passed.
func (s *stream) seekVoucher(ctx context.Context) error {
	n := s.node
	if n.conf.Mesh == nil {
		return nil
	}
	for {
		select {
		case <-s.broke:
		case <-ctx.Done():
			return nil
		}
		for s.unbrokenFor(n.conf.Clock.Boot()) < n.maxWait() && !s.lease.ended() {
			s.askVoucher(ctx)
			select {
			case <-time.After(n.conf.Beat / 8):
			case <-ctx.Done():
				return nil
			}
		}
	}
}

// askVoucher asks once.
func (s *stream) askVoucher(ctx context.Context) {
	n := s.node
	resumed := s.resumedAt.Load()
	seq := s.members.newestAfter(n.incarnation, time.Duration(resumed))
	if seq == 0 {
		s.hurry()
		return
	}
	body, err := json.Marshal(&vouchQuery{Stream: s.region, Asker: n.incarnation, Seq: seq})
	if err != nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, n.conf.Beat)
	defer cancel()
	enough := n.maxWait()
	var mu sync.Mutex // guards what follows
	var best vouchReply
	n.conf.Mesh.Query(ctx, vouchTopic, events.Incarnation{}, body, func(_ events.Incarnation, raw []byte) {
		var r vouchReply
		if json.Unmarshal(raw, &r) != nil {
			return
		}
		mu.Lock()
		defer mu.Unlock()
		if r.Unbroken > best.Unbroken {
			best = r
		}
		if slower(r.Unbroken) >= enough {
			cancel()
		}
	})
	heard := n.conf.Clock.Boot() // later than it was: no age becomes more than it is
	mu.Lock()
	defer mu.Unlock()
	if since := heard - slower(best.Unbroken); best.Unbroken > 0 && since < time.Duration(resumed) {
		// Members first. A break meanwhile has set resumedAt, and stays.
		if !n.faults.blindVouch {
			s.members.vouched(best.Members, heard)
		}
		s.resumedAt.CompareAndSwap(resumed, int64(since))
	}
}

// slower returns a time that another node's clock has measured, in ms, as no
// more than it is on this one's.
func slower(ms int64) time.Duration {
	d := min(time.Duration(max(0, ms))*time.Millisecond, time.Hour)
	return d - d/100
}

// applied reports whether a heartbeat of the incarnation at the sequence may be
// applied: one before it or it, and it or one after it.
func (m *members) applied(who events.Incarnation, seq uint64) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	held := m.all[who]
	return held != nil && held.first <= seq && seq <= held.newest
}

// newestAfter returns the sequence of the newest heartbeat of the incarnation, 0 if
// none was applied after the time of Clock.Boot.
func (m *members) newestAfter(who events.Incarnation, at time.Duration) uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	if held := m.all[who]; held != nil && held.heard > at {
		return held.newest
	}
	return 0
}

// list returns the members that have not left.
func (m *members) list(now time.Duration) (all []vouchedMember) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, held := range m.all {
		if held.left == 0 {
			all = append(all, vouchedMember{held.node, held.incarnation, (now - held.heard).Milliseconds()})
		}
	}
	return all
}

// vouched adds members that another node knows of. They count for every
// position: what they have applied is not known.
func (m *members) vouched(all []vouchedMember, heard time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.all == nil {
		m.all = map[events.Incarnation]*member{}
	}
	for _, v := range all {
		if _, gone := m.left[v.Incarnation]; gone {
			continue
		}
		held := m.all[v.Incarnation]
		if held == nil {
			held = &member{node: v.Node, incarnation: v.Incarnation}
			m.all[v.Incarnation] = held
		}
		held.first, held.heard = 0, max(held.heard, heard-slower(v.Heard))
	}
}
