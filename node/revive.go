package node

import (
	"context"
	"time"
)

// probeSize is what must be writable before a dead log is restarted, so that
// it does not die again at once.
const probeSize = 4 << 20

// deadAfter is how many appends in a row go unanswered before the log's server
// is suspected; heartbeats alone reach it in a few seconds.
const deadAfter = 3

// revive restarts the embedded log's server when appends go unanswered although
// the disk takes writes again: a stream that met a write error stays dead until
// then. With a log elsewhere it does nothing.
func (n *Node) revive(ctx context.Context) error {
	if n.conf.Disk == nil {
		return nil
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		if n.home.unanswered.Load() < deadAfter && n.settings.unanswered.Load() < deadAfter {
			continue
		}
		if err := n.conf.Disk.Probe(probeSize); err != nil {
			n.conf.Log.Error("the log takes no writes and neither does its disk; make space", "error", err)
			continue
		}
		n.conf.Log.Warn("the log takes no writes although its disk does; its server is restarted")
		if err := n.conf.Disk.Restart(ctx); err != nil {
			n.conf.Log.Error("restart of the log's server", "error", err)
			continue
		}
		n.metrics.revivals.Inc()
		for _, s := range n.streams() {
			s.unanswered.Store(0)
		}
	}
}
