// Package signer makes and checks the JWTs of an app: its signing keys, the
// claims each profile writes, and the one strict parser through which every JWT
// enters the system.
//
// A [Ring] holds the keys of one app and never changes; a node swaps whole
// rings. [Mint] signs, [Ring.Verify] checks, [RotationPolicy] says which keys
// come and go and when. [MintCache] and [VerifyCache] save the costly half of
// both; neither can make a compromised key count.
//
// The package starts no goroutine, reads no clock and opens no connection: time
// is always an argument. DESIGN.md beside this file has the claims of each
// profile, the invariants and the failure modes.
package signer

import (
	"errors"
	"fmt"
	"time"
)

// Alg is a signature algorithm of RFC 7518 or RFC 8037, by its JOSE name. A key
// has exactly one, and a JWT of that key is accepted with no other.
type Alg string

// The algorithms that keys may have. ES256 is accepted by every verifier tried
// and signs in tens of microseconds; RS256 is for verifiers that take nothing
// else and costs about a millisecond; EdDSA is the cheapest and least accepted.
const (
	ES256 Alg = "ES256"
	RS256 Alg = "RS256"
	EdDSA Alg = "EdDSA"

	DefaultAlg = ES256
)

// ParseAlg returns the algorithm of that exact name; "" is [DefaultAlg]. It is
// for settings: the alg of a JWT's header is compared, never parsed.
func ParseAlg(s string) (Alg, error) {
	switch a := Alg(s); a {
	case "":
		return DefaultAlg, nil
	case ES256, RS256, EdDSA:
		return a, nil
	}
	return "", fmt.Errorf("parse alg %q: want ES256, RS256 or EdDSA", s)
}

// Limits of a JWT.
const (
	// MaxJWT is the longest JWT in bytes that is minted or looked at.
	MaxJWT = 8192

	// CookieLimit is the number of bytes browsers keep of a cookie. A longer JWT
	// is minted all the same; who hands it out reports it.
	CookieLimit = 4096

	// MaxDepth is how deeply the JSON of a JWT may nest; the claims object itself
	// is level 1, so a custom claim has MaxDepth-1 levels of its own.
	MaxDepth = 8

	// MaxLeeway is the most that clocks may disagree at exp and nbf.
	MaxLeeway = 5 * time.Second

	// DefaultMaxLife is the longest exp - iat accepted when Expect names none.
	DefaultMaxLife = time.Hour

	// NotBeforeMargin is how long before iat a JWT is valid, because several
	// client libraries compare nbf with their own clock and tolerate nothing.
	NotBeforeMargin = 10 * time.Second
)

// Reason says why a JWT was refused. The set is bounded and its texts are
// stable, so they serve as metric labels and error codes:
//
//	if r, ok := errors.AsType[signer.Reason](err); ok { count(string(r)) }
//
// Errors wrap a Reason with detail that never quotes the JWT.
type Reason string

// The reasons. Test with errors.Is.
const (
	// ErrMalformed: not a JWT in strict form: size, characters, segments,
	// base64url, JSON, or a header with anything but alg, kid and typ.
	ErrMalformed Reason = "malformed"
	// ErrUnknownKey: no key of the ring has this kid, or it is compromised,
	// forgotten, or no longer listed.
	ErrUnknownKey Reason = "unknown_key"
	// ErrBadSignature: the signature, or the alg, is not that of the key.
	ErrBadSignature Reason = "bad_signature"
	// ErrWrongType: typ is missing, not allowed here, or that of another kind of token.
	ErrWrongType Reason = "wrong_type"
	// ErrWrongIssuer: iss is not byte for byte the expected one.
	ErrWrongIssuer Reason = "wrong_issuer"
	// ErrWrongAudience: aud is not exactly the expected app.
	ErrWrongAudience Reason = "wrong_audience"
	// ErrBadClaims: a required claim is missing or has the wrong form or range.
	// Mint returns it too, for claims that cannot be written.
	ErrBadClaims Reason = "bad_claims"
	// ErrNotYetValid: nbf lies ahead.
	ErrNotYetValid Reason = "not_yet_valid"
	// ErrExpired: exp has passed; everything else was in order.
	ErrExpired Reason = "expired"
)

// Error returns the reason as a sentence.
func (r Reason) Error() string { return "jwt refused: " + string(r) }

func refuse(r Reason, detail string) error { return fmt.Errorf("%w: %s", r, detail) }

var (
	// ErrNoKey: no key may sign at this time.
	ErrNoKey = errors.New("no key may sign now")

	// ErrTooLarge: the JWT would be longer than MaxJWT and so be refused everywhere.
	ErrTooLarge = errors.New("jwt too large")
)
