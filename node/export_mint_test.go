package node

import (
	"context"

	"github.com/revocast/revocast/events"
)

// MintAfter finds a session by its token, as a verify does, and mints a JWT for it
// once pause has returned.
func (n *Node) MintAfter(token string, pause func()) (string, error) {
	key, _ := events.Token(token).Key()
	a, err := n.byToken(key)
	if err != nil {
		return "", err
	}
	pause()
	jwt, _, err := n.mint(context.Background(), found{answer: a}, nil, jwtOrder{})
	return jwt, err
}
