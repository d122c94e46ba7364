package events

import (
	"context"
	"crypto/rand"
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

// Group commit for a stream of one replica, whose server syncs its file once
// per message but only once per atomic batch. A batch costs the server some
// 3.5 ms before its first message, so up to maxSingles messages are published
// by themselves at a time, and only when more than batchAbove others wait does
// one of the waiting callers publish all of them as one batch. While a batch is
// in flight newcomers queue, so that the next one gathers.
//
// There is no goroutine: each step is taken by a caller that waits anyway.
const (
	maxSingles    = 8
	batchAbove    = 12
	maxBatch      = 500
	maxBatchBytes = 4 << 20
	gatherStill   = 3 // yields without a newcomer after which gathering ends
)

// group is the queue of a stream's appends. Its zero value is ready.
type group struct {
	mu       sync.Mutex // guards all of it, and the fields of what it queues
	singles  int        // published by themselves, not yet answered
	batching bool       // a batch is in flight
	alone    []*pending // must be published by themselves
	waiting  []*pending // may be published in a batch
	whole    []*pending // bring a batch of their own
	turnOf   bool       // the next batch is one of whole, if there is any: they take turns with those that gather
}

// pending is one append in the queue.
type pending struct {
	m    *Message
	turn chan turn // holds one; a pending is given the next only after it took the last
	gone bool      // its caller no longer waits
	own  *batch    // that it brings; then there is no message
}

// turn tells a waiting caller what to do.
type turn struct {
	batch *batch // publish it, or if it was sent, wait for its acknowledgement
	seq   uint64 // not 0: stored, with this sequence
	// neither: publish by yourself
}

// batch is a group of messages published as one.
type batch struct {
	members  []*pending
	sub      *nats.Subscription // of the acknowledgement; nil until sent
	deadline time.Time
}

// grouped publishes the message, alone or in company. fresh is as in single.
func (j *JetStream) grouped(ctx context.Context, m *Message, e Expectation) (seq uint64, fresh bool, err error) {
	if j.replicated {
		return j.single(ctx, m, e)
	}
	g := &j.group
	p := g.enter(m, e.Set)
	for p != nil {
		select {
		case t := <-p.turn:
			switch {
			case t.seq != 0:
				return t.seq, true, nil
			case t.batch == nil:
				p = nil // may publish by itself
			default:
				if seq, err := j.lead(ctx, p, t.batch); seq != 0 || err != nil {
					return seq, err == nil, err
				}
			}
		case <-ctx.Done():
			if seq := g.withdraw(p); seq != 0 {
				return seq, true, nil
			}
			return 0, false, unanswered(context.Cause(ctx))
		}
	}
	defer g.leave()
	return j.single(ctx, m, e)
}

// enter returns nil when the caller may publish by itself at once.
func (g *group) enter(m *Message, alone bool) *pending {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.singles < maxSingles && len(g.alone) == 0 && (alone || !g.batching && len(g.waiting) == 0) {
		g.singles++
		return nil
	}
	p := &pending{m: m, turn: make(chan turn, 1)}
	if alone {
		g.alone = append(g.alone, p)
	} else {
		g.waiting = append(g.waiting, p)
	}
	g.dispatch()
	return p
}

// leave gives the place of a single to the next.
func (g *group) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.singles--
	g.dispatch()
}

// dispatch gives out turns. g.mu is held.
func (g *group) dispatch() {
	for g.singles < maxSingles && len(g.alone) > 0 {
		g.singles++
		g.alone = give(g.alone, turn{})
	}
	if g.batching {
		return
	}
	if len(g.waiting) > batchAbove && (!g.turnOf || len(g.whole) == 0) {
		b := new(batch)
		size := 0
		for len(b.members) < min(len(g.waiting), maxBatch) && size < maxBatchBytes {
			p := g.waiting[len(b.members)]
			size += wireSize(p.m)
			b.members = append(b.members, p)
		}
		g.waiting = g.waiting[len(b.members):]
		g.batching, g.turnOf = true, true
		b.members[0].turn <- turn{batch: b}
		return
	}
	for g.singles < maxSingles && len(g.waiting) > 0 {
		g.singles++
		g.waiting = give(g.waiting, turn{})
	}
	if len(g.whole) > 0 {
		g.batching, g.turnOf = true, false
		g.whole = give(g.whole, turn{batch: g.whole[0].own})
	}
}

// give gives the turn to the first of the queue and returns the rest.
func give(queue []*pending, t turn) []*pending {
	queue[0].turn <- t
	queue[0] = nil
	return queue[1:]
}

// withdraw takes a caller whose context has ended out of the queue. It returns
// the sequence if the append was acknowledged at that very moment.
func (g *group) withdraw(p *pending) (seq uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	p.gone = true
	select {
	case t := <-p.turn:
		switch {
		case t.seq != 0:
			return t.seq
		case t.batch != nil:
			g.pass(t.batch)
		default:
			g.singles--
			g.dispatch()
		}
	default:
		is := func(q *pending) bool { return q == p }
		g.alone = slices.DeleteFunc(g.alone, is)
		g.waiting = slices.DeleteFunc(g.waiting, is)
		// Else it is a member of the batch in flight, which skips it.
	}
	return 0
}

// pass hands a batch to the first member that still waits, and ends it when
// there is none. g.mu is held.
func (g *group) pass(b *batch) {
	for _, p := range b.members {
		if !p.gone {
			p.turn <- turn{batch: b}
			return
		}
	}
	g.end(b)
}

// end makes room for the next batch. g.mu is held.
func (g *group) end(b *batch) {
	if b.sub != nil {
		// An error means that the connection is closed, and the subscription with it.
		_ = b.sub.Unsubscribe()
	}
	g.batching = false
	g.dispatch()
}

// settle gives each member but the leader its sequence.
func (g *group) settle(b *batch, leader *pending, first uint64) (seq uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for i, p := range b.members {
		switch {
		case p == leader:
			seq = first + uint64(i)
		case !p.gone:
			p.turn <- turn{seq: first + uint64(i)}
		}
	}
	g.gather()
	g.end(b)
	return seq
}

// gather lets the callers that were just served, and whoever else is ready to
// run, queue again before the next turns are given out: otherwise the first
// few would make a batch so small that it costs more than it saves. It yields
// only as long as the queue grows, so it costs microseconds, and only after a
// batch. g.mu is held.
func (g *group) gather() {
	for still := 0; still < gatherStill && len(g.waiting) < maxBatch; {
		before := len(g.waiting)
		g.mu.Unlock()
		runtime.Gosched()
		g.mu.Lock()
		if still++; len(g.waiting) > before {
			still = 0
		}
	}
}

// dissolve has each member publish by itself, so that one caller's bad message
// does not fail the others.
func (g *group) dissolve(b *batch) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, p := range b.members {
		if !p.gone {
			g.alone = append(g.alone, p)
		}
	}
	g.end(b)
}

// lead publishes the batch, unless an earlier leader did, and waits for its
// acknowledgement. It returns neither sequence nor error when the batch was
// dissolved: p then waits for its turn alone. When the leader's own context
// ends, another member goes on waiting, so that nobody fails for another.
func (j *JetStream) lead(ctx context.Context, p *pending, b *batch) (uint64, error) {
	g := &j.group
	if b.sub == nil {
		if err := j.publishBatch(b); err != nil {
			j.metrics.batchesRefused.Add(1)
			g.dissolve(b)
			return 0, nil
		}
	}
	wait, cancel := context.WithDeadline(ctx, b.deadline)
	defer cancel()
	resp, err := b.sub.NextMsgWithContext(wait)
	if err != nil && ctx.Err() != nil {
		g.mu.Lock()
		defer g.mu.Unlock()
		p.gone = true
		g.pass(b)
		return 0, unanswered(context.Cause(ctx))
	}
	var ack pubAck
	if err == nil {
		ack, err = parseAck(resp.Data, j.name)
	}
	n := uint64(len(b.members))
	if err != nil || ack.Count != n || ack.Seq < n {
		j.metrics.batchesRefused.Add(1)
		g.dissolve(b)
		return 0, nil
	}
	j.metrics.batches.Add(1)
	j.metrics.batchEvents.Add(n)
	return g.settle(b, p, ack.Seq-n+1), nil
}

// publishBatch sends the batch: only its last message asks for an answer.
func (j *JetStream) publishBatch(b *batch) error {
	nc := j.api.nc
	inbox := nc.NewInbox()
	sub, err := nc.SubscribeSync(inbox)
	if err != nil {
		return fmt.Errorf("subscribe to acknowledgement: %w", err)
	}
	b.sub, b.deadline = sub, time.Now().Add(attemptTimeout)
	id := []string{rand.Text()}
	for i, p := range b.members {
		msg := natsMsg(p.m, j.name)
		msg.Header[hdrBatchID] = id
		msg.Header[hdrBatchSeq] = []string{strconv.Itoa(i + 1)}
		if i == len(b.members)-1 {
			msg.Header[hdrBatchCommit] = []string{"1"}
			msg.Reply = inbox
		}
		if err := nc.PublishMsg(msg); err != nil {
			return fmt.Errorf("publish batch: %w", err)
		}
	}
	return nil
}
