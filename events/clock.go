package events

import (
	"time"

	"github.com/revocast/revocast/events/bootclock"
)

// Clock is the seam through which all time enters a node.
type Clock interface {
	// Boot returns the time since some fixed moment of this machine's life. It
	// never goes back, and it goes on while the machine is suspended: Go's own
	// monotonic clock does not, and a lease measured by it would outlive a
	// suspension (rule R7).
	Boot() time.Duration
	// Wall returns the wall clock.
	Wall() time.Time
}

// SystemClock is the machine's clock.
type SystemClock struct{}

// Boot implements [Clock] by [bootclock.Now].
func (SystemClock) Boot() time.Duration { return bootclock.Now() }

// Wall implements [Clock].
func (SystemClock) Wall() time.Time { return time.Now() }
