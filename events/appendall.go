package events

import (
	"context"
	"fmt"
	"slices"
	"sync"
)

// Bulk is what a Log may be beside: one that stores many messages for the price
// of a few.
type Bulk interface {
	// AppendAll is Append, without an expectation, of each of the messages: it
	// returns the sequence or the error of each. They may be stored in any order,
	// some and not others.
	AppendAll(ctx context.Context, ms []Message) []Appended
}

// Appended is what became of one of many messages.
type Appended struct {
	Seq uint64
	Err error
}

// AppendAll appends the messages to the log, at once if it is one that can, else
// some at a time.
func AppendAll(ctx context.Context, log Log, ms []Message) []Appended {
	if b, ok := log.(Bulk); ok {
		return b.AppendAll(ctx, ms)
	}
	out := make([]Appended, len(ms))
	appendEach(len(ms), func(i int) { out[i].Seq, out[i].Err = log.Append(ctx, ms[i], Expectation{}) })
	return out
}

// wholeBatch is the most messages of a batch that one caller brings: what a server
// takes. What waits beside it waits longer than beside one that gathered, so the
// two take turns.
const wholeBatch = 1000

// appenders is how many messages are appended at a time that cannot be appended
// together.
const appenders = 64

// appendEach calls do with 0 to n-1.
func appendEach(n int, do func(i int)) {
	turns := make(chan struct{}, appenders)
	var all sync.WaitGroup
	for i := range n {
		turns <- struct{}{}
		all.Go(func() { do(i); <-turns })
	}
	all.Wait()
}

// AppendAll implements [Bulk]. On one replica each call is one atomic batch, and
// one sync of the file; what the server does not take as that, or does not answer,
// is appended one by one.
func (j *JetStream) AppendAll(ctx context.Context, ms []Message) []Appended {
	ctx, cancel := bounded(ctx)
	defer cancel()
	out := make([]Appended, len(ms))
	var fit []*pending
	var at []int // where in ms each of fit is
	size := 0
	flush := func() {
		if !j.appendBatch(ctx, fit, at, out) {
			appendEach(len(fit), func(k int) { out[at[k]].Seq, out[at[k]].Err = j.Append(ctx, *fit[k].m, Expectation{}) })
		}
		fit, at, size = nil, nil, 0
	}
	for i := range ms {
		m := &ms[i]
		if err := j.checkMessage(m); err != nil {
			out[i].Err = fmt.Errorf("append to %s: %w", j.name, err)
			continue
		}
		if size += wireSize(m); len(fit) == wholeBatch || size > maxBatchBytes && len(fit) > 0 {
			flush()
			size = wireSize(m)
		}
		fit, at = append(fit, &pending{m: m}), append(at, i)
	}
	if len(fit) > 0 {
		flush()
	}
	return out
}

// appendBatch stores the messages as one batch, and reports whether it did.
func (j *JetStream) appendBatch(ctx context.Context, members []*pending, at []int, out []Appended) bool {
	if j.replicated || len(members) <= batchAbove {
		return false
	}
	g := &j.group
	b := &batch{members: members}
	if !g.enterWhole(ctx, b) {
		return false
	}
	defer func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.end(b)
	}()
	marks := j.marks()
	if err := j.publishBatch(b); err != nil {
		j.metrics.batchesRefused.Add(1)
		return false
	}
	wait, cancel := context.WithDeadline(ctx, b.deadline)
	defer cancel()
	resp, err := b.sub.NextMsgWithContext(wait)
	if err != nil {
		return false
	}
	ack, err := parseAck(resp.Data, j.name)
	n := uint64(len(members))
	if err != nil || ack.Count != n || ack.Seq < n {
		j.metrics.batchesRefused.Add(1)
		return false
	}
	j.metrics.batches.Add(1)
	j.metrics.batchEvents.Add(n)
	first := ack.Seq - n + 1
	marks.acknowledged(first)
	for k := range members {
		out[at[k]].Seq = first + uint64(k)
		j.metrics.appends.inc(outcome(nil))
	}
	return true
}

// enterWhole waits until the batch may be published, and reports whether it may.
func (g *group) enterWhole(ctx context.Context, b *batch) bool {
	p := &pending{turn: make(chan turn, 1), own: b}
	g.mu.Lock()
	g.whole = append(g.whole, p)
	g.dispatch()
	g.mu.Unlock()
	select {
	case <-p.turn:
		return true
	case <-ctx.Done():
		g.mu.Lock()
		defer g.mu.Unlock()
		p.gone = true
		select {
		case <-p.turn: // at that very moment
			g.end(b)
		default:
			g.whole = slices.DeleteFunc(g.whole, func(q *pending) bool { return q == p })
		}
		return false
	}
}

var _ Bulk = (*JetStream)(nil)
