package signer

import (
	"cmp"
	"errors"
)

// MintGrant returns a JWT by which the app permits one act, signed with k. Its
// typ is its own: as no profile has it, it authenticates no session, and a JWT of
// a session permits nothing. Of the claims it has iss, sub, aud, iat, nbf, exp,
// jti, rev, act and what is in Custom.
func MintGrant(k *Key, typ string, c Claims) (string, error) {
	if typ == "" || isSessionType(typ) {
		return "", errors.New("mint grant: a typ of its own is required")
	}
	return mint(k, shape{typ: typ, write: func(o *object, c *Claims) error {
		o.text("jti", cmp.Or(c.JWTID, newJWTID()))
		o.optional("rev", c.Revision)
		return o.raw("act", c.Actor, '{')
	}}, c)
}

// VerifyGrant checks what MintGrant returned, by the same rules as [Ring.Verify].
// It reads only that typ, and demands a jti.
func (r *Ring) VerifyGrant(token, typ string, e Expect) (Verified, error) {
	c, k, list, err := r.signed(token, func(t string) bool { return t == typ && !isSessionType(t) })
	if err != nil {
		return Verified{}, err
	}
	if c.jwtID, _ = findText(list, "jti"); c.jwtID == "" {
		return Verified{}, refuse(ErrBadClaims, "no jti")
	}
	return c.judge(token, k, e)
}
