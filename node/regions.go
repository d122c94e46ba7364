package node

import (
	"context"
	"errors"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/revocast/revocast/events"
)

// regionRetry is the time between two attempts to open a region's stream.
const regionRetry = time.Second

// followRegions follows the stream of each region that CONFIG names with the
// others, until ctx ends.
func (n *Node) followRegions(ctx context.Context, g *errgroup.Group) error {
	begun := map[uint8]bool{}
	for {
		for r := range n.catalog.Snapshot().Regions() {
			if n.conf.Open == nil || begun[r.Number] || n.stream(r.Number) != nil {
				continue
			}
			begun[r.Number] = true
			g.Go(func() error { return n.followRegion(ctx, g, r) })
		}
		select {
		case <-n.met:
		case <-ctx.Done():
			return nil
		}
	}
}

// followRegion opens the stream of the region and follows it from then on. One
// that is out of reach, or slow to answer, holds up no other.
func (n *Node) followRegion(ctx context.Context, g *errgroup.Group, r *events.Region) error {
	for {
		// CONFIG may say meanwhile that the stream is elsewhere: it was promoted there.
		if now, ok := n.catalog.Snapshot().Region(r.Region); ok {
			r = now
		}
		log, err := n.conf.Open(ctx, r)
		if err == nil {
			n.join(ctx, g, log)
			return nil
		}
		n.openErrors.Store(r.Region, err)
		n.conf.Log.Warn("stream of a region cannot be opened; tried again", "region", r.Region, "error", err)
		select {
		case <-time.After(regionRetry):
		case <-ctx.Done():
			return nil
		}
	}
}

// join follows the stream with the others, unless the node is leaving: it would
// take a lease after its farewell.
func (n *Node) join(ctx context.Context, g *errgroup.Group, log events.Log) {
	n.joining.Lock()
	defer n.joining.Unlock()
	if n.left {
		return
	}
	s := newStream(n, log, sessionFold{n, log.Number()})
	all := append(slices.Clone(n.streams()), s)
	n.followed.Store(&all)
	n.metrics.follow(s)
	s.live(ctx, g)
}

// Leave makes the node stop answering, and only then writes its farewell to
// every stream: whoever waits for this node need not wait any longer.
func (n *Node) Leave(ctx context.Context) error {
	n.joining.Lock()
	n.left = true
	all := n.streams()
	n.joining.Unlock()
	for _, s := range all {
		s.lease.drop(reasonLeaving)
	}
	n.EndFeeds()
	if n.isCloned.Load() {
		return nil // it would be the farewell of another process too
	}
	var errs []error
	for _, s := range all {
		errs = append(errs, s.register(ctx, true))
	}
	return errors.Join(errs...)
}
