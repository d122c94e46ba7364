package events

import (
	"context"
	"fmt"

	"github.com/nats-io/nats.go"
)

// meshBuffer is how many messages wait to be read; what does not fit is lost.
const meshBuffer = 8 << 10

// NewMesh returns the Mesh of the nodes that core NATS reaches from here. It
// needs the right to publish and to subscribe to confirm.> and query.>, and
// never answers over another subject.
func NewMesh(nc *nats.Conn, keys *ClusterKeys) Mesh {
	return newSealedMesh(keys, natsWire{nc})
}

// natsWire is core NATS.
type natsWire struct{ nc *nats.Conn }

func (w natsWire) publish(m Message) error {
	return w.nc.PublishMsg(&nats.Msg{
		Subject: m.Subject, Data: m.Payload, Header: nats.Header{hdrSeal: []string{m.Seal}},
	})
}

func (w natsWire) receive(ctx context.Context, filters []string, fn func(Message)) error {
	in := make(chan *nats.Msg, meshBuffer)
	for _, f := range filters {
		sub, err := w.nc.ChanSubscribe(f, in)
		if err != nil {
			return fmt.Errorf("subscribe to %s: %w", f, err)
		}
		// An error means that the connection is closed, and the subscription with it.
		defer func() { _ = sub.Unsubscribe() }()
	}
	for {
		select {
		case m, ok := <-in:
			if !ok {
				return nats.ErrConnectionClosed
			}
			fn(Message{Subject: m.Subject, Payload: m.Data, Seal: m.Header.Get(hdrSeal)})
		case <-ctx.Done():
			return nil
		}
	}
}
