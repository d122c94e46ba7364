package node

import (
	"context"
	"net/http"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node/api"
)

// maxGrace is how long a replaced token may be accepted, in seconds.
const maxGrace = 60

// rotateSession answers POST /v1/sessions/rotate: a new token for the same
// session. JWTs are bound to the session and go on.
//
// Whoever shows the replaced token within its grace gets the same successor: it
// is a request that was sent twice, or two at once.
func (n *Node) rotateSession(ctx context.Context, c *call) (int, any, error) {
	var req api.Rotate
	if err := c.decode(&req); err != nil {
		return 0, nil, err
	}
	if err := oneOf(map[string]bool{"session_token": req.SessionToken != "", "session_jwt": req.SessionJWT != ""}); err != nil {
		return 0, nil, err
	}
	if req.GraceSeconds < 0 || req.GraceSeconds > maxGrace {
		return 0, nil, fail(api.InvalidArgument, "grace_seconds: want 0 to %d", maxGrace).with("field", "grace_seconds")
	}
	app, err := n.appOf(c)
	if err != nil {
		return 0, nil, err
	}
	var want consistency
	look := func() (found, error) {
		f, err := n.findCredential(ctx, app.App, req.SessionToken, req.SessionJWT, jwtPast, want)
		want.again = true
		return f, err
	}
	var next events.Token
	f, err := n.change(ctx, c, look, func(f found, d *draft) (string, error) {
		if f.rotated {
			return "", nil
		}
		if next == "" {
			// Whoever is shown it checks the lease of the stream that it names, so
			// that must be the session's home, wherever this node is.
			next = events.NewToken(f.SID.Stream())
		}
		d.rotate(next, n.wall()+req.GraceSeconds*1000)
		return events.ReasonRotated, nil
	})
	if err != nil {
		return 0, nil, err
	}
	p, err := n.private(ctx, &f)
	if err != nil {
		return 0, nil, err
	}
	out, err := n.answered(ctx, c, f, p.Token)
	return http.StatusOK, out, err
}

// rotate makes next the session's token, and lets the one it replaces be
// accepted until then. At most two tokens are aliases: of several replaced ones
// only the newest keeps its grace, beside the original.
func (d *draft) rotate(next events.Token, until int64) {
	key, _ := next.Key()
	s := &d.state
	var aliases []events.Alias
	if len(s.Aliases) > 0 {
		if last := s.Aliases[len(s.Aliases)-1]; last.Until == 0 {
			aliases = append(aliases, events.Alias{Key: last.Key, Until: until})
		}
	}
	if s.OriginalUntil == 0 {
		s.OriginalUntil = until
	}
	s.Aliases = append(aliases, events.Alias{Key: key})
	d.private.Token = next
}
