//go:build !linux

package bench

import "time"

var began = time.Now()

// preciseSleep waits as precisely as Go's timers do.
func preciseSleep(d time.Duration) { time.Sleep(d) }

// threadTime is the time that passed: what CPU a thread had is not known here.
func threadTime() time.Duration { return time.Since(began) }
