package bench

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"time"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node"
)

// embedded measures [node.Node.Verify] of a node in this process, on the log of
// the one that is measured otherwise.
func (r *runner) embedded(ctx context.Context) (err error) {
	s, err := r.start(ctx)
	if err != nil {
		return err
	}
	n, conn, err := s.embed(ctx, "embedded")
	if conn != nil {
		defer conn.Close()
	}
	if err != nil {
		return err
	}
	running, stop := context.WithCancel(ctx)
	var life sync.WaitGroup
	defer life.Wait()
	defer stop()
	life.Go(func() {
		if ended := n.Run(running); err == nil {
			err = ended
		}
	})
	last := token(s.log.Number(), s.sessions-1).Reveal()
	if err := until(ctx, startTimeout, func() error {
		_, err := n.Verify(ctx, last, node.VerifyOptions{})
		return err
	}); err != nil {
		return fmt.Errorf("wait for the node to have its sessions: %w", err)
	}
	ns, allocs, err := r.verifies(ctx, n)
	if err != nil {
		return err
	}
	r.report.figure("inprocess/node", fmt.Sprintf("verify through a node in this process by a random token of %d, without one read of the clock, CPU", s.sessions), ns, "ns")
	r.report.figure("inprocess/node/allocs", "the same, allocations", allocs, "allocs")
	return nil
}

// verifies returns what one takes without reading the clock once, and how often
// it allocates.
func (r *runner) verifies(ctx context.Context, n *node.Node) (ns, allocs float64, err error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	s := r.system
	rounds := lookupsOf(s.sessions)
	tokens := inOrder(rounds, func() events.Token { return token(s.log.Number(), s.anySession()) })
	var took time.Duration
	var before, after runtime.MemStats
	for range 2 { // the first time each session is used, it is noted; the second is what counts
		runtime.ReadMemStats(&before)
		begun := threadTime()
		for _, t := range tokens {
			if _, err := n.Verify(ctx, t, node.VerifyOptions{}); err != nil {
				return 0, 0, err
			}
		}
		took = threadTime() - begun
		runtime.ReadMemStats(&after)
	}
	return max(0, float64(took)/float64(rounds)-clockReads(rounds)), float64((after.Mallocs - before.Mallocs) / uint64(rounds)), nil
}
