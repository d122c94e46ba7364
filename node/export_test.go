package node

import "maps"

// What tests outside the package need to know of its inside.

// RouteScope is a line of the route table.
type RouteScope struct {
	Pattern, Scope string
	Raw            bool // answers without the common wrapper
}

// RouteTable returns the route table.
func (n *Node) RouteTable() (all []RouteScope) {
	for _, rt := range n.routes() {
		all = append(all, RouteScope{rt.pattern, rt.scope, rt.raw != nil})
	}
	return all
}

// ErrorStatuses returns the status of each error type.
func ErrorStatuses() map[string]int { return maps.Clone(statusOf) }

// ErrorMeanings returns what the documentation says of each error type.
func ErrorMeanings() map[string]string { return maps.Clone(meaning) }

// HomeDigest returns the digest of the sessions of the home stream.
func (n *Node) HomeDigest() string { return n.home.fold.Digest(n.wall()) }
