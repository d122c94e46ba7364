package events

import (
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
)

// Connect opens a connection to NATS servers elsewhere, named by one URL or by
// several joined by commas. It fails when none answers now; once connected it
// reconnects for ever, and buffers nothing meanwhile: a publish while no server
// is there fails instead of arriving later. The caller closes it.
func Connect(url, name string) (*nats.Conn, error) {
	nc, err := nats.Connect(url, nats.Name(name),
		nats.MaxReconnects(-1), nats.ReconnectWait(250*time.Millisecond), nats.ReconnectBufSize(-1),
		nats.PingInterval(5*time.Second), nats.MaxPingsOutstanding(2))
	if err != nil {
		return nil, fmt.Errorf("connect to NATS at %s: %w", url, err)
	}
	return nc, nil
}
