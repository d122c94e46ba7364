package bootclock

import (
	"time"

	"golang.org/x/sys/unix"
)

// now reads CLOCK_MONOTONIC_RAW's neighbour that counts on in sleep: on macOS
// CLOCK_MONOTONIC is mach_continuous_time (clock_gettime(3)).
func now() time.Duration {
	const monotonic = 6
	var ts unix.Timespec
	if err := unix.ClockGettime(monotonic, &ts); err != nil {
		panic(err) // the clock id is a constant every supported system has
	}
	return time.Duration(ts.Nano())
}
