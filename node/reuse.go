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
	// However often it is shown meanwhile, the log is asked once.
	_, err, _ := n.reuses.Do(s.SID.String(), func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), appendTimeout)
		defer cancel()
		err := n.takeAway(ctx, s.App, "", reasonReuse, &s)
		if err == nil {
			n.conf.Log.Warn("a replaced token was shown after its grace; its session is revoked", "app", s.App, "sid", s.SID.String())
		}
		return nil, err
	})
	if err != nil {
		return err
	}
	return fail(api.TokenReuse, "the token was replaced and its grace is over; the session is revoked")
}

// reusedToken is reused for a text by each key under which it may have been the
// token of a session.
func (n *Node) reusedToken(ctx context.Context, app, text string) error {
	if key, ok := events.Token(text).Key(); ok {
		if err := n.reused(ctx, app, key); err != nil {
			return err
		}
	}
	if key, ok, err := n.foreignKey(app, text); ok && err == nil {
		return n.reused(ctx, app, key)
	}
	return nil
}
