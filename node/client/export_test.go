package client

import "time"

// SetClock lets the client, which was not used yet, go by another clock.
func SetClock(c *Client, clock interface {
	Boot() time.Duration
	Wall() time.Time
}) {
	c.clock = clock
}
