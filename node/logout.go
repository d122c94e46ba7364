package node

import (
	"context"
	"net/http"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node/api"
	"github.com/revocast/revocast/projection"
)

// reasonLogout is why a session is revoked whose user logs out.
const reasonLogout = "logout"

// clearSiteData is the value of Clear-Site-Data, whose directives are quoted.
const clearSiteData = `"cookies", "storage"`

// clientLogout answers POST /v1/client/logout: it revokes the session whose token,
// or live JWT, is shown. It can be repeated. Where it can be said that the session
// has ended, the cookie goes with it; where not, the cookie stays, so that the user
// sees that they are not logged out.
func (n *Node) clientLogout(ctx context.Context, c *call) (int, any, error) {
	cl, err := n.newClient(c)
	if err != nil {
		return 0, nil, err
	}
	if err := cl.body(&struct{}{}); err != nil {
		return 0, nil, err
	}
	status, out := http.StatusOK, &api.ClientLogoutAnswer{}
	if cl.text != "" {
		if status, out, err = n.logOut(ctx, cl); err != nil {
			return 0, nil, err
		}
	}
	if cl.cookie {
		c.h.Set("Set-Cookie", clearedCookie)
	}
	return status, out, nil
}

func (n *Node) logOut(ctx context.Context, cl *client) (int, *api.ClientLogoutAnswer, error) {
	app, err := n.shownApp(ctx, cl)
	if err != nil || app == nil {
		return http.StatusOK, &api.ClientLogoutAnswer{}, err
	}
	if err := n.clientOf(cl, app.App); err != nil {
		return 0, nil, err
	}
	cl.caller = caller{app: app.App, keyID: byUser}
	req := &api.Revoke{Reason: reasonLogout}
	if cl.isJWT {
		req.SessionJWT = cl.text
	} else {
		req.SessionToken = cl.text
	}
	r, err := n.newRevocation(cl.call, req)
	if err != nil {
		return 0, nil, err
	}
	status, body, err := n.revokeOne(ctx, r, func(ctx context.Context) (found, error) {
		// A JWT was live a moment ago, see shownApp.
		return n.findCredential(ctx, app.App, req.SessionToken, req.SessionJWT, jwtEver, consistency{sure: true})
	})
	if err != nil {
		return 0, nil, err
	}
	out := &api.ClientLogoutAnswer{}
	if done := body.(*api.RevokeAnswer); done.Receipt != nil { // revokeOne answers with nothing else
		out.Revision, out.Pending = done.Receipt.Revision, done.Receipt.Pending
	}
	if app.Settings.ClearSiteData {
		cl.h.Set("Clear-Site-Data", clearSiteData)
	}
	return status, out, nil
}

// shownApp returns the app of the session whose credential is shown, nil when
// there is no such session, or app, any more.
func (n *Node) shownApp(ctx context.Context, cl *client) (*events.App, error) {
	appOf := n.appOfToken
	if cl.isJWT {
		appOf = n.appOfJWT
	}
	id, err := appOf(ctx, cl)
	if err != nil || id == "" {
		return nil, err
	}
	if cl.pin != "" && id != cl.pin {
		return nil, noSession(reasonUnknown)
	}
	app, ok := n.app(id)
	if !ok {
		if app, ok, err = n.awaitApp(ctx, id); err != nil {
			return nil, err
		}
	}
	if !ok || app.State == events.AppDeleted {
		return nil, nil
	}
	return app, nil
}

func (n *Node) appOfJWT(ctx context.Context, cl *client) (string, error) {
	v, err := n.verifyAnyJWT(ctx, cl.text, cl.pin)
	if err != nil {
		return "", refusedClient(refusedJWT(err))
	}
	return v.App, nil
}

// appOfToken returns the app of the token's session, empty when there is none.
// What this node knew before it was cut off will do: whose a session is never
// changes, and a revocation is taken for a home that is out of reach. Of one that
// it does not know a token alone, which anybody can make up, is no proof.
func (n *Node) appOfToken(ctx context.Context, cl *client) (string, error) {
	key, ours := events.Token(cl.text).Key()
	if ours {
		if s, v, _ := n.sessions().LookupToken(key, n.judged()); v != projection.Unknown {
			return s.App, nil
		}
		if a, err := n.resolveToken(ctx, key, consistency{sure: true}); err != nil || a.verdict != projection.Unknown {
			return a.App, err
		}
	}
	if cl.pin != "" { // of which it may be in another form
		f, err := n.findCredential(ctx, cl.pin, cl.text, "", jwtEver, consistency{sure: true})
		if err != nil || f.verdict != projection.Unknown {
			return cl.pin, err
		}
	}
	switch {
	case cl.pin != "", ours && n.anyForeign():
		return "", noSession(reasonUnknown)
	case ours:
		return "", nil
	}
	return "", noSession(reasonMalformed)
}
