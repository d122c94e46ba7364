package nodetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"testing/synctest"
	"time"

	"github.com/revocast/revocast/node"
)

// Plan says what a run is like.
type Plan struct {
	Config
	// Length is how long clients and faults go on; 0 is 40 s.
	Length time.Duration
	// Only names the faults that happen, as they are called in histories; empty:
	// all.
	Only []string
	// Elections lets streams elect leaders, and nothing else go wrong.
	Elections bool
	// Lossy lets the home streams lose what was acknowledged, too.
	Lossy bool
	// Digest returns the digest of a node's sessions at a time (unix ms); nil:
	// nodes are not compared.
	Digest func(n *node.Node, now int64) string
}

// clients is how many of them there are.
const clients = 10

// Simulate runs a cluster under the load and the faults of the plan's seed, heals
// it, looks what is left, ends it, and returns what callers saw. It must be called
// in a testing/synctest bubble.
func Simulate(ctx context.Context, p Plan) (*History, error) {
	if p.Length == 0 {
		p.Length = 40 * time.Second
	}
	before := goroutines()
	h := &History{}
	err := simulate(ctx, &p, h)
	synctest.Wait()
	h.Add(Op{Op: OpStop, Seq: uint64(max(0, goroutines()-before))})
	return h, err
}

// goroutines returns how many there are in bubbles.
func goroutines() int {
	stacks := make([]byte, 1<<20)
	return bytes.Count(stacks[:runtime.Stack(stacks, true)], []byte("synctest bubble"))
}

func simulate(ctx context.Context, p *Plan, h *History) error {
	c, err := New(ctx, p.Config)
	if c != nil {
		defer c.Stop()
	}
	if err != nil {
		return err
	}
	w := &workload{c: c, h: h}

	watching, unwatch := context.WithCancel(ctx)
	var observers sync.WaitGroup
	watched := make([]error, len(c.streams))
	for i, s := range c.homes() {
		observers.Go(func() { watched[i] = s.watch(watching) })
	}
	defer observers.Wait()
	defer unwatch()

	running, stop := context.WithTimeout(ctx, p.Length)
	defer stop()
	var all sync.WaitGroup
	for i := range clients {
		all.Go(func() { w.client(running, draw(p.Seed, 100+uint64(i))) })
	}
	n := &nemesis{c: c, h: h, d: draw(p.Seed, 99), plan: p}
	all.Go(func() { n.run(running) })
	all.Wait()
	if n.err != nil {
		return n.err
	}
	w.finish(ctx, p)
	unwatch()
	observers.Wait()
	if err := errors.Join(watched...); err != nil {
		return fmt.Errorf("watch the log: %w", err)
	}
	return nil
}

// finish heals the cluster and looks what is left.
func (w *workload) finish(ctx context.Context, p *Plan) {
	c, h := w.c, w.h
	h.Add(Op{Op: OpHeal, Start: c.now(), End: c.now()})
	// A node that began to read a log again pauses for a beat before.
	wait(ctx, 2*c.conf.Lease)
	w.probe(ctx)
	wait(ctx, c.conf.Lease)
	w.readAll(ctx)
	for _, o := range w.unsure {
		for _, m := range c.Members {
			w.askReceipt(ctx, m, o)
		}
	}
	if p.Digest == nil {
		return
	}
	now := time.Now().UnixMilli()
	for _, m := range c.Members {
		h.Add(Op{Op: OpDigest, Node: m.Name, Start: c.now(), End: c.now(), Note: p.Digest(m.Node(), now)})
	}
}

// probe logs in on each node and uses that session on all.
func (w *workload) probe(ctx context.Context) {
	var all sync.WaitGroup
	for _, m := range w.c.Members {
		all.Go(func() {
			s, _ := w.create(ctx, OpProbe, m, "probe")
			if s == nil {
				return
			}
			for _, other := range w.c.Members {
				w.use(ctx, other, s, "token", "")
			}
		})
	}
	all.Wait()
}

// readAll reads every session on every node.
func (w *workload) readAll(ctx context.Context) {
	for _, s := range w.sessions {
		for _, m := range w.c.Members {
			o := w.begin(OpRead, m)
			o.SID = s.sid
			r := m.ask(ctx, w.c.access.APIKey, "POST", "/v1/sessions/"+s.sid+"/tokens", fields{})
			o.End = w.c.now()
			r.judged(&o)
			w.h.Add(o)
		}
	}
}
