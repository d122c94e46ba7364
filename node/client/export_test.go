package client

import "time"

// SetClock lets the client, which was not used yet, go by another clock.
func SetClock(c *Client, clock interface {
	Boot() time.Duration
	Wall() time.Time
}) {
	c.clock = clock
}

// CloseIdle returns what closes the connections that the client keeps.
func CloseIdle(c *Client) func() {
	return func() {
		if c.prepare() == nil {
			c.setup.api.CloseIdleConnections()
			c.setup.feed.CloseIdleConnections()
		}
	}
}
