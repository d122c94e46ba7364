//go:build !linux

package projection_test

import "time"

var began = time.Now()

// threadTime is the time that passed, as the thread's CPU time is not known.
func threadTime() time.Duration { return time.Since(began) }

// processTime is the time that passed, as the process's CPU time is not known.
func processTime() time.Duration { return time.Since(began) }
