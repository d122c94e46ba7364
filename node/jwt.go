package node

import (
	"context"
	"errors"
	"time"

	"github.com/revocast/revocast/signer"
)

// jwtTime says when a JWT may be shown. Its signature, issuer and audience are
// always checked.
type jwtTime int

const (
	jwtLive jwtTime = iota // from nbf to exp
	jwtPast                // after exp as well: by whoever has shown an API key
	jwtEver                // before nbf as well: to take its session away
)

// verifyJWT checks a JWT of the app, whichever profile it was minted in.
func (n *Node) verifyJWT(ctx context.Context, app, jwt string, when jwtTime) (signer.Verified, error) {
	v, err := n.checkJWT(app, jwt, when)
	if !errors.Is(err, signer.ErrUnknownKey) {
		return v, err
	}
	return n.awaitKeyOf(ctx, app, jwt, when)
}

// awaitKeyOf checks a JWT whose key, or app, this node has not heard of: that
// is no reason to turn anybody away.
func (n *Node) awaitKeyOf(ctx context.Context, app, jwt string, when jwtTime) (v signer.Verified, err error) {
	late := n.settings.certain(ctx, func() bool {
		v, err = n.checkJWT(app, jwt, when)
		return !errors.Is(err, signer.ErrUnknownKey)
	})
	if late != nil {
		return signer.Verified{}, late
	}
	return v, err
}

// undecided reports whether the error of verifyJWT says nothing of the JWT,
// only that this node may not judge it now.
func undecided(err error) bool {
	_, stale := errors.AsType[*staleError](err)
	_, late := errors.AsType[*failure](err)
	return stale || late
}

func (n *Node) checkJWT(app, jwt string, when jwtTime) (signer.Verified, error) {
	t, ok := n.catalog.Snapshot().App(app)
	if !ok {
		return signer.Verified{}, signer.ErrUnknownKey
	}
	ring := n.ring(app)
	e := signer.Expect{
		Issuer: n.issuerOf(app, signer.Profile(t.Settings.JWTProfile)),
		App:    app, Now: time.UnixMilli(n.judged()), AllowExpired: when >= jwtPast, AllowEarly: when >= jwtEver,
	}
	v, err := n.verified.Verify(ring, jwt, e)
	for _, p := range signer.Profiles() {
		// A template, or the app before it changed, may have another profile.
		if !errors.Is(err, signer.ErrWrongIssuer) {
			break
		}
		if issuer := n.issuerOf(app, p); issuer != e.Issuer {
			e.Issuer = issuer
			v, err = n.verified.Verify(ring, jwt, e)
		}
	}
	if err == nil && v.Issuer != n.issuerOf(app, v.Profile) {
		return signer.Verified{}, signer.ErrWrongIssuer
	}
	return v, err
}
