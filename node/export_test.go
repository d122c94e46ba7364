package node

import (
	"context"
	"maps"
	"net/http"

	"github.com/revocast/revocast/events"
)

// What tests outside the package need to know of its inside.

// RouteScope is a line of the route table.
type RouteScope struct {
	Pattern, Scope string
	Raw            bool     // answers without the common wrapper
	Query          []string // the parameters it takes, besides app
	Open           bool     // reads its query itself
	OAuth          bool     // takes a form, and answers errors of OAuth: see TestOAuthClients
}

// RouteTable returns the route table.
func (n *Node) RouteTable() (all []RouteScope) {
	for _, rt := range n.routes() {
		all = append(all, RouteScope{rt.pattern, rt.scope, rt.raw != nil, rt.query, rt.open, rt.oauth})
	}
	return all
}

// PanicHandler returns a handler whose route panics, served as all routes are.
func (n *Node) PanicHandler() http.Handler {
	return n.serve(route{pattern: "test", handle: func(context.Context, *call) (int, any, error) { panic("test") }})
}

// ErrorStatuses returns the status of each error type.
func ErrorStatuses() map[string]int { return maps.Clone(statusOf) }

// ErrorMeanings returns what the documentation says of each error type.
func ErrorMeanings() map[string]string { return maps.Clone(meaning) }

// HomeDigest returns the digest of the sessions of the home stream.
func (n *Node) HomeDigest() string { return n.home.fold.Digest(n.wall()) }

// FollowHome applies all that the home stream holds, as a node that runs does.
func (n *Node) FollowHome(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	return n.home.log.Follow(ctx, events.Follow{Apply: n.home.take, Flush: n.home.flush, CaughtUp: cancel})
}

// HomeSessions returns how many sessions and tombstones there are.
func (n *Node) HomeSessions() (sessions, tombstones int) { return n.sessions().Len() }

// FindCredential looks a session up as handlers do that can show no proof of
// possession; ever: to take it away.
func (n *Node) FindCredential(ctx context.Context, app, token, jwt string, ever bool) error {
	when := jwtLive
	if ever {
		when = jwtEver
	}
	f, err := n.findCredential(ctx, app, token, jwt, when, consistency{})
	if err == nil {
		err = f.active()
	}
	return err
}

// FeedReaders returns how many readers the feed has.
func (n *Node) FeedReaders() int {
	n.feed.mu.Lock()
	defer n.feed.mu.Unlock()
	return n.feed.readers
}

// FeedEntries is how many entries a feed holds.
const FeedEntries = feedEntries
