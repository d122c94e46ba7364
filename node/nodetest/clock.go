package nodetest

import (
	"math/rand/v2"
	"sync"
	"time"
)

// Clock is a node's clock over that of the bubble: its rate is off, its wall
// clock is anywhere.
type Clock struct {
	// Stops makes Boot stand still while the node is paused, as Go's own
	// monotonic clock does in suspend; that breaks rule R7. Frozen lets it stand
	// still for ever from then on, which breaks rule R1: no lease ends.
	Stops, Frozen bool

	begin time.Time
	drift float64

	mu      sync.Mutex // guards what follows
	skew    time.Duration
	slow    time.Duration // the next Boot takes so long
	paused  time.Time     // since when; zero: it runs
	missing time.Duration // what Boot did not count of pauses
}

// Boot implements [events.Clock].
func (c *Clock) Boot() time.Duration {
	c.mu.Lock()
	slow := c.slow
	c.slow = 0
	c.mu.Unlock()
	if slow > 0 {
		time.Sleep(slow)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	at := time.Now()
	if c.Frozen {
		at = c.begin
	} else if c.Stops && !c.paused.IsZero() {
		at = c.paused
	}
	return time.Hour + time.Duration(float64(at.Sub(c.begin)-c.missing)*(1+c.drift))
}

// Wall implements [events.Clock].
func (c *Clock) Wall() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Add(c.skew)
}

// Step moves the wall clock.
func (c *Clock) Step(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.skew += d
}

// Slow makes the next reading of Boot take so long: whoever reads it is held up
// just before.
func (c *Clock) Slow(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.slow = d
}

func (c *Clock) stop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.paused = time.Now()
}

func (c *Clock) start() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.Stops {
		c.missing += time.Since(c.paused)
	}
	c.paused = time.Time{}
}

// dice is a source of random numbers that several goroutines share.
type dice struct {
	mu sync.Mutex // guards r
	r  *rand.Rand
}

// draw returns the dice of one user of a seed.
func draw(seed, user uint64) *dice { return &dice{r: rand.New(rand.NewPCG(seed, user))} }

// Float64 returns a number in [0, 1).
func (d *dice) Float64() float64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.r.Float64()
}

// Int64N returns a number in [0, n).
func (d *dice) Int64N(n int64) int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.r.Int64N(n)
}

// upTo returns a duration in [0, limit).
func (d *dice) upTo(limit time.Duration) time.Duration { return time.Duration(d.Int64N(int64(limit))) }

// hit returns true with the probability.
func (d *dice) hit(p float64) bool { return d.Float64() < p }
