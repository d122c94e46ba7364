package node

import (
	"context"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node/api"
	"github.com/revocast/revocast/projection"
)

// What an app wants when a replaced token is shown after its grace:
// AppSettings.TokenReuse, of which "" is reuseRefuse.
const (
	reuseRefuse = "refuse" // it is no token any more
	reuseRevoke = "revoke" // and its session ends
)

// reasonReuse is why a session was revoked whose replaced token was shown, and
// X-Session-Reason of the verify in which it was.
const reasonReuse = "token_reuse"

// reused ends the good session of which the key was a token until it was replaced,
// if its grace is over and the app wants that; then it returns the failure to
// answer with. The app is empty if any will do.
//
// Of a session that was rotated often, the first token and the one before the
// newest are recognised; all others are tokens that nobody knows. Whoever has one
// of the two can end the session, and nothing else.
func (n *Node) reused(ctx context.Context, app string, key events.SID) error {
	s, v := n.sessions().Replaced(key, n.judged())
	if n.held(&s, v) != projection.Active || app != "" && s.App != app {
		return nil
	}
	t, ok := n.app(s.App)
	if !ok || t.State != events.AppActive || t.Settings.TokenReuse != reuseRevoke {
		return nil
	}
	if err := n.takeAway(ctx, s.App, "", reasonReuse, &s); err != nil {
		return err
	}
	n.conf.Log.Warn("a replaced token was shown after its grace; its session is revoked", "app", s.App, "sid", s.SID.String())
	return fail(api.TokenReuse, "the token was replaced and its grace is over; the session is revoked")
}
