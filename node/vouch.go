package node

import (
	"cmp"
	"context"
	"encoding/json"
	"slices"
	"sync"
	"time"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node/api"
)

// A node that has just begun, or begun again, to follow a stream may not count
// confirmations for W (rule R13): it cannot know every member. Another node whose
// subscription has been unbroken for W can, so it is asked for the receipt. What
// it finds out holds for everybody, and it waits for the node that asks like for
// any other.

const (
	// vouchTopic is the topic on which nodes ask one another for receipts.
	vouchTopic = "receipt"
	// vouchers is how many nodes are asked at a time, the longest known first.
	vouchers = 3
	// vouchTime bounds how long a node looks for an answer. It is asked again
	// each second.
	vouchTime = time.Second
)

// vouchQuestion asks whether every node has applied the event. Two nodes that
// applied the same event at the sequence follow one log up to there.
type vouchQuestion struct {
	Stream string `json:"stream"`
	Seq    uint64 `json:"seq"`
	Event  uint64 `json:"event,string"`
}

// vouch is that every node has, or holds no lease; it names those that said so.
type vouch struct {
	Applied []string `json:"applied"`
	Fenced  []string `json:"fenced,omitempty"`
}

// vouch answers for another node whether every node has applied an event, and
// says nothing while it cannot know, or does not within vouchTime.
func (n *Node) vouch(ctx context.Context, body []byte) ([]byte, bool) {
	var v vouchQuestion
	if json.Unmarshal(body, &v) != nil || v.Event == 0 {
		return nil, false
	}
	s := n.streamOf(v.Stream)
	if s == nil || s == n.settings || s.lease.ended() {
		return nil, false
	}
	ctx, cancel := context.WithTimeout(ctx, vouchTime)
	defer cancel()
	rebuilt := s.rebuilt.Load()
	if s.wait(ctx, v.Seq) != nil {
		return nil, false
	}
	if at, known := s.trail.at(v.Seq); !known || at != v.Event || s.unbrokenFor(n.conf.Clock.Boot()) < n.maxWait() {
		return nil, false
	}
	gen, _ := s.fold.Position()
	q := n.inquire(s, events.Position{Stream: v.Stream, Gen: gen, Seq: v.Seq}, n.conf.Clock.Wall(), n.conf.Clock.Boot()+n.maxWait())
	q.forOther = true
	if !q.run(ctx) || s.rebuilt.Load() != rebuilt || s.lease.ended() {
		return nil, false
	}
	out := vouch{Applied: []string{n.conf.Name}}
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, a := range q.applied {
		out.Applied = append(out.Applied, a.Node)
	}
	out.Fenced = q.fenced
	b, err := json.Marshal(out)
	return b, err == nil
}

// askVouchers asks other nodes for the receipt until ctx ends.
func (q *inquiry) askVouchers(ctx context.Context) {
	event, known := q.s.trail.at(q.pos.Seq)
	if !known {
		return // what stands there nobody can name
	}
	body, err := json.Marshal(vouchQuestion{Stream: q.pos.Stream, Seq: q.pos.Seq, Event: event})
	if err != nil {
		return
	}
	others := slices.DeleteFunc(q.s.members.before(q.pos.Seq), func(m member) bool {
		return m.incarnation == q.n.incarnation || m.left != 0
	})
	slices.SortFunc(others, func(a, b member) int { return cmp.Compare(a.first, b.first) })
	var asked sync.WaitGroup
	defer asked.Wait()
	for _, m := range others[:min(len(others), vouchers)] {
		asked.Go(func() { q.n.conf.Mesh.Query(ctx, vouchTopic, m.incarnation, body, q.vouchedFor) })
	}
}

// vouchedFor notes that another node found the receipt complete.
func (q *inquiry) vouchedFor(_ events.Incarnation, body []byte) {
	var v vouch
	if json.Unmarshal(body, &v) != nil || len(v.Applied) == 0 {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.vouched {
		return
	}
	q.vouched = true
	ms := q.n.conf.Clock.Wall().Sub(q.start).Milliseconds()
	for _, name := range names(v.Applied) {
		heard := func(a api.ReceiptApplied) bool { return a.Node == name }
		if name != q.n.conf.Name && !slices.ContainsFunc(q.applied, heard) {
			q.applied = append(q.applied, api.ReceiptApplied{Node: name, MS: ms})
		}
	}
	q.fenced = append(q.fenced, v.Fenced...)
	// Who was heard less than W before the acknowledgement, and said nothing since.
	acknowledged := q.bound - q.n.maxWait()
	for _, m := range q.s.members.before(q.pos.Seq) {
		if m.left == 0 && acknowledged-m.heard < q.n.maxWait() && !slices.Contains(v.Applied, m.node) && !slices.Contains(q.fenced, m.node) {
			q.outwait = append(q.outwait, m.node)
		}
	}
	select {
	case q.news <- struct{}{}:
	default:
	}
}

// isVouchedFor reports whether another node found the receipt complete.
func (q *inquiry) isVouchedFor() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.vouched
}
