package nodetest

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/revocast/revocast/node"
)

// Plan says what a run is like.
type Plan struct {
	Config
	// Length is how long clients and faults go on; 0 is 40 s.
	Length time.Duration
	// Lossy lets the home stream lose what was acknowledged, too.
	Lossy bool
	// Digest returns the digest of a node's sessions at a time (unix ms); nil:
	// nodes are not compared.
	Digest func(n *node.Node, now int64) string
}

// clients is how many of them there are.
const clients = 10

// Simulate runs a cluster under the load and the faults of the plan's seed, heals
// it, looks what is left, and returns what callers saw. It must be called in a
// testing/synctest bubble.
func Simulate(ctx context.Context, p Plan) (*History, error) {
	if p.Length == 0 {
		p.Length = 40 * time.Second
	}
	c, err := New(ctx, p.Config)
	if err != nil {
		return nil, err
	}
	defer c.Stop()
	h := &History{}
	w := &workload{c: c, h: h}

	watching, unwatch := context.WithCancel(ctx)
	var observer sync.WaitGroup
	observer.Go(func() { err = c.watch(watching) })
	defer observer.Wait()
	defer unwatch()

	running, stop := context.WithTimeout(ctx, p.Length)
	defer stop()
	var all sync.WaitGroup
	for i := range clients {
		all.Go(func() { w.client(running, draw(p.Seed, 100+uint64(i))) })
	}
	n := &nemesis{c: c, h: h, d: draw(p.Seed, 99), lossy: p.Lossy}
	all.Go(func() { n.run(running) })
	all.Wait()
	if n.err != nil {
		return h, n.err
	}
	h.Add(Op{Op: OpHeal, Start: c.now(), End: c.now()})

	// A node that began to read a log again pauses for a beat before.
	wait(ctx, 2*Lease)
	for _, m := range c.Members {
		w.create(ctx, OpProbe, m, "probe")
	}
	wait(ctx, Lease)
	w.readAll(ctx)
	if p.Digest != nil {
		now := time.Now().UnixMilli()
		for _, m := range c.Members {
			h.Add(Op{Op: OpDigest, Node: m.Name, Start: c.now(), End: c.now(), Note: p.Digest(m.Node(), now)})
		}
	}
	if err != nil {
		return h, fmt.Errorf("watch the log: %w", err)
	}
	return h, nil
}

// readAll reads every session on every node.
func (w *workload) readAll(ctx context.Context) {
	for _, s := range w.sessions {
		for _, m := range w.c.Members {
			o := Op{Op: OpRead, Node: m.Name, SID: s.sid, Start: w.c.now()}
			r := m.ask(ctx, w.c.access.APIKey, "POST", "/v1/sessions/"+s.sid+"/tokens", fields{})
			o.End = w.c.now()
			r.judged(&o)
			w.h.Add(o)
		}
	}
}
