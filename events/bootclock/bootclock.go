// Package bootclock reads the clock by which leases are measured: the time since
// some fixed moment of this machine's life. It never goes back, and it goes on
// while the machine is suspended. Go's own monotonic clock does not, and a lease
// measured by it would outlive a suspension (rule R7).
//
// It is apart from package events, so that a client that is not part of a node
// measures its lease by the same clock.
package bootclock

import "time"

// Now returns the time on the clock. It is always above zero.
func Now() time.Duration { return now() }
