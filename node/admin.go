package node

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node/api"
	"github.com/revocast/revocast/projection"
)

// What the handlers of administration share. All they write goes to CONFIG, by
// compare-and-set: each change names in Prev, and expects, the last sequence on
// its subject in the very snapshot it was computed from.

// configStale returns why this node may not say what CONFIG holds, nil when it
// may.
func (n *Node) configStale() error {
	if stale := n.settings.fenced(); stale != nil {
		return stale
	}
	return nil
}

// administer returns CONFIG as it is to be changed. The lease is checked before
// CONFIG is looked at, as in a verify.
func (n *Node) administer() (*projection.Snapshot, error) {
	if stale := n.configStale(); stale != nil {
		return nil, stale
	}
	return n.catalog.Snapshot(), nil
}

// configure writes a change of CONFIG that was computed from the sequence last.
func (n *Node) configure(ctx context.Context, e events.Event, private []byte, life time.Duration, last uint64) (events.Position, error) {
	return n.settings.write(ctx, e, private, life, events.Expect(last))
}

// app returns the app, also a suspended or deleted one.
func (n *Node) app(id string) (*events.App, bool) { return n.catalog.Snapshot().App(id) }

// apps returns all apps, ordered by id.
func (n *Node) apps() []*events.App {
	return slices.SortedFunc(n.catalog.Snapshot().Apps(), func(a, b *events.App) int { return strings.Compare(a.App, b.App) })
}

func appNotFound(id string) *failure {
	return fail(api.AppNotFound, "no app %q", id)
}

// waitParam reads ?wait= of routes that answer with a receipt.
func waitParam(c *call) (string, error) {
	switch w := c.query.Get("wait"); w {
	case "", waitNone:
		return waitNone, nil
	case waitAll:
		return w, nil
	default:
		return "", fail(api.InvalidArgument, "wait %q: want none or all", w).with("field", "wait")
	}
}

// nothing reads a body that must be empty, or an empty object.
func (c *call) nothing() error { return c.decode(new(struct{})) }

// maxName is the longest name that people give to a thing, in bytes.
const maxName = 128

// moment returns unix milliseconds as a time, nil for none.
func moment(ms int64) *time.Time {
	if ms == 0 {
		return nil
	}
	t := fromMS(ms)
	return &t
}
