package bench

import (
	"time"

	"golang.org/x/sys/unix"
)

// preciseSleep waits to within some 60 µs. A timer of Go may be a millisecond
// late, which is longer than what is measured takes.
func preciseSleep(d time.Duration) {
	t := unix.NsecToTimespec(int64(d))
	_ = unix.Nanosleep(&t, nil) // woken early by a signal: the request is sent early by so much
}

// threadTime is the CPU time that this thread has had.
func threadTime() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t); err != nil {
		panic(err) // every Linux has this clock
	}
	return time.Duration(t.Nano())
}
