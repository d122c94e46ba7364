package node

import (
	"context"
	"time"
)

// probeSize is what must be writable before a dead log is restarted, so that
// it does not die again at once.
const probeSize = 4 << 20

// revive restarts the embedded log's server once its disk takes writes again:
// a stream that met a write error stays dead until then, silently. With a log
// elsewhere it does nothing.
func (n *Node) revive(ctx context.Context) error {
	disk := n.conf.Disk
	if disk == nil {
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
		dead := disk.Check()
		if dead == nil {
			n.logDead.Store(false)
			continue
		}
		if !n.logDead.Swap(true) {
			n.conf.Log.Error("the log takes no writes; verifies go on within the lease; make space on its disk", "error", dead)
		}
		if disk.Probe(probeSize) != nil {
			continue
		}
		n.conf.Log.Warn("the log's disk takes writes again; its server is restarted")
		if err := disk.Restart(ctx); err != nil {
			n.conf.Log.Error("restart of the log's server is tried again", "error", err)
			continue
		}
		n.metrics.revivals.Inc()
		n.logDead.Store(false)
	}
}
