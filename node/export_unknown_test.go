package node

import "github.com/revocast/revocast/events"

// Missing reports whether the node remembers that there is no session of the
// token, which must have the form of one.
func (n *Node) Missing(token string) bool {
	key, ok := events.Token(token).Key()
	return ok && n.stream(key.Stream()).missing.holds(key)
}
