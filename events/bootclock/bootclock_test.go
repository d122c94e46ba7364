package bootclock_test

import (
	"testing"
	"time"

	"github.com/revocast/revocast/events/bootclock"
)

// TestNow: it is above zero, never goes back, and runs as fast as Go's clock does.
func TestNow(t *testing.T) {
	began, first := time.Now(), bootclock.Now()
	last := first
	if first <= 0 {
		t.Fatalf("the clock shows %v", first)
	}
	for time.Since(began) < 20*time.Millisecond {
		now := bootclock.Now()
		if now < last {
			t.Fatalf("%v after %v", now, last)
		}
		last = now
	}
	if ran := bootclock.Now() - first; ran < 19*time.Millisecond { // they are read one after the other
		t.Errorf("it ran %v in 20 ms", ran)
	}
}
