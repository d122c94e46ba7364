package main

import (
	"context"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// paceEvery is how often the collector's pace is set anew.
const paceEvery = 10 * time.Second

// leastGarbage is how many bytes may become garbage between two collections,
// however little is in use.
const leastGarbage = 64 << 20

// paceCollector keeps the heap from growing to twice what sessions take before
// garbage is collected: the collector does not look into them, so it may run
// often. held returns how many bytes they are. Who sets GOGC sets the pace
// himself.
func paceCollector(ctx context.Context, held func() int) error {
	if os.Getenv("GOGC") != "" {
		return nil
	}
	tick := time.NewTicker(paceEvery)
	defer tick.Stop()
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	for pace := 100; ; {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		metrics.Read(live)
		next := collectorPace(int(live[0].Value.Uint64()), held())
		if next < pace-5 || next > pace+5 { // setting it stops the process for a moment
			pace = next
			debug.SetGCPercent(pace)
		}
	}
}

// collectorPace returns the percentage by which a heap may grow of which
// sessions are so many bytes: to twice the rest, and by an eighth of the
// sessions.
func collectorPace(live, sessions int) int {
	rest := max(live-sessions, 0)
	return min(100, (max(rest, leastGarbage)+sessions/8)*100/max(live, 1)+1)
}
