//go:build !linux && !darwin

package bootclock

import (
	"sync/atomic"
	"time"
)

var (
	began  = time.Now()
	newest atomic.Int64
)

// now is the later of Go's monotonic clock and the wall clock, and never goes
// back. Where the former stops in suspend the latter has gone on; a wall clock
// that is set forward ends leases early, which costs time and nothing else.
func now() time.Duration {
	t := time.Now()
	at := int64(time.Hour + max(t.Sub(began), t.Round(0).Sub(began.Round(0))))
	for {
		last := newest.Load()
		if at <= last {
			return time.Duration(last)
		}
		if newest.CompareAndSwap(last, at) {
			return time.Duration(at)
		}
	}
}
