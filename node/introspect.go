package node

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"net/http"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node/api"
	"github.com/revocast/revocast/signer"
)

// Limits, in seconds, of how far ahead of the answer an introspection's exp lies.
// Apache's modules keep an answer until then, whatever is revoked meanwhile, and
// so a revoked token must not be kept for long.
const (
	defaultIntrospectionMax = 60
	maxIntrospectionMax     = 3600
)

// inactive is all that is said of a token that is not good (RFC 7662 section
// 2.2): not why, and not whose it was.
var inactive = &api.Introspection{}

// introspect answers POST /oauth2/introspect (RFC 7662) for a token or a JWT of
// the caller's app. It counts as a use of the session, as any other check of it,
// unless the request is marked as background. A node without a lease says 503,
// never that a token is not active.
//
// A session that is bound to a key is active here without a proof: its cnf says
// so, and the resource server that asks has the proof and must check it (RFC 9449
// section 6.2).
func (n *Node) introspect(ctx context.Context, c *call, token string) (int, any, error) {
	app, err := n.appOf(c)
	if err != nil {
		return 0, nil, err
	}
	cr, bad := textual(token)
	if bad {
		return 0, nil, fail(api.InvalidArgument, "the token is over %d bytes", maxCredentials)
	}
	asked := api.Authenticate{SessionToken: cr.text}
	if cr.isJWT = cr.isJWT && !n.isForeign(cr.text, app.App); cr.isJWT {
		asked.SessionToken, asked.SessionJWT = "", cr.text
	}
	look := func() (found, error) {
		f, err := n.findShown(ctx, app.App, asked.SessionToken, asked.SessionJWT, jwtLive, consistency{})
		if failed, ok := errors.AsType[*failure](err); ok && failed.kind == api.JWTNotYetValid {
			return n.nothing() // RFC 7662 section 2.2: before its nbf it is not active
		}
		return f, err
	}
	f, p, err := n.findWithPrivate(ctx, look)
	if err != nil {
		if failed, ok := errors.AsType[*failure](err); ok && (failed.kind == api.SessionNotFound || failed.kind == api.TokenReuse) {
			return http.StatusOK, inactive, nil
		}
		return 0, nil, err
	}
	out, err := n.introspection(ctx, app, f, p, cr)
	if err != nil || !out.Active {
		return http.StatusOK, out, err
	}
	if len(c.r.Header.Values(backgroundHeader)) == 0 {
		n.touch(&f.Session, f.asked)
	}
	c.warnStale(f)
	return http.StatusOK, out, nil
}

// findWithPrivate returns the good session that look finds, with its private
// part. Where that had to be waited for, look looks again afterwards: the token
// shown may not be of the newer state.
func (n *Node) findWithPrivate(ctx context.Context, look func() (found, error)) (found, *events.Private, error) {
	f, err := look()
	if err == nil {
		err = f.active()
	}
	if err != nil {
		return found{}, nil, err
	}
	newest := f.StateSeq
	p, err := n.private(ctx, &f)
	if err != nil {
		return found{}, nil, err
	}
	if f.StateSeq != newest {
		now, err := look()
		if err == nil {
			err = now.active()
		}
		if err != nil {
			return found{}, nil, err
		}
	}
	return f, p, nil
}

// introspection says what is known of a good session, and of the JWT if one was
// shown.
func (n *Node) introspection(ctx context.Context, app *events.App, f found, p *events.Private, cr shown) (*api.Introspection, error) {
	claims, err := n.claims(f, p, shapeOf(&app.Settings, jwtOrder{}), nil)
	if err != nil {
		return nil, err
	}
	end := min(f.ExpiresAt/1000, f.asked/1000+cmp.Or(app.Settings.IntrospectionMax, defaultIntrospectionMax))
	out := &api.Introspection{
		Active: true, TokenType: "Bearer",
		Issuer: claims.Issuer, Subject: claims.Subject, Audience: claims.App, ClientID: claims.App, SessionID: claims.SessionID,
		IssuedAt: f.CreatedAt / 1000, Expires: end, SessionExpires: f.ExpiresAt / 1000,
		AuthTime: max(0, claims.AuthTime.Unix()), ACR: claims.ACR, AMR: claims.AMR, Actor: claims.Actor,
	}
	if f.Bound {
		out.TokenType, out.Confirmation = "DPoP", &api.Confirmation{JKT: p.Thumbprint}
	}
	if cr.isJWT {
		// Its signature is checked once more against what the node holds of it, and
		// it may have expired since.
		v, err := n.verifyJWT(ctx, app.App, cr.text, jwtLive)
		if undecided(err) {
			return nil, err
		} else if err != nil {
			return inactive, nil
		}
		out.Issuer, out.JWTID = v.Issuer, v.JWTID
		out.IssuedAt, out.NotBefore, out.Expires = v.IssuedAt.Unix(), v.NotBefore.Unix(), min(end, v.Expires.Unix())
	}
	if out.Expires <= f.asked/1000 {
		return inactive, nil // it ends within this second
	}
	return out, addCustom(out, claims.Custom)
}

// addCustom adds the session's custom claims, as in its JWTs. Names that mean
// something in an introspection are left out, but for scope and username where
// they are the texts that RFC 7662 wants.
func addCustom(out *api.Introspection, custom json.RawMessage) error {
	if len(custom) == 0 {
		return nil
	}
	var all map[string]json.RawMessage
	if err := json.Unmarshal(custom, &all); err != nil {
		return err
	}
	for name, value := range all {
		switch {
		case name == "active" || name == "token_type" || signer.IsReservedClaim(name):
			delete(all, name)
		case (name == "scope" || name == "username") && value[0] != '"':
			delete(all, name)
		}
	}
	out.Custom = all
	return nil
}
