package node

import (
	"context"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node/api"
)

// ImportTo is importTo, for tests.
func (n *Node) ImportTo(ctx context.Context, app string) (uint8, error) {
	return n.importTo(ctx, app, "test")
}

// CreateForeign creates the session of the foreign token as a store or a lazy
// import does, for tests.
func (n *Node) CreateForeign(ctx context.Context, app, token, user string, began int64, fresh bool) (sid string, created bool, err error) {
	number, err := n.importTo(ctx, app, "test")
	if err != nil {
		return "", false, err
	}
	a, _ := n.app(app)
	d, err := n.newDraft(&api.CreateSession{UserID: user}, &a.Settings)
	if err != nil {
		return "", false, err
	}
	d.state.SID = events.ForeignKey(app, number, events.TokenHash(token))
	d.private.Token = events.Token(token)
	f, created, err := n.createForeign(ctx, a, &foreignDraft{draft: *d, start: began, fresh: fresh})
	return f.SID.String(), created, err
}
