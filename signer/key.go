package signer

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"
)

// RSA keys: RFC 7518 section 3.3 demands 2048 bits; more than 4096 would let a
// single verification cost milliseconds.
const (
	rsaBits    = 2048
	rsaMaxBits = 4096
)

// Key is one signing key of an app: its public half, its private half and its
// life. A Key inside a [Ring] belongs to the ring and must not be changed.
type Key struct {
	// ID is the RFC 7638 thumbprint of Public, the kid of its JWTs.
	ID string
	// Alg is the one algorithm of this key.
	Alg Alg
	// Public is an *ecdsa.PublicKey on P-256, an *rsa.PublicKey or an ed25519.PublicKey.
	Public crypto.PublicKey
	// Signer is the private half, in memory or behind a KMS; nil for a key that
	// can only be verified with.
	Signer crypto.Signer

	// CreatedAt is when the key was made.
	CreatedAt time.Time
	// ActiveAt is when it begins to sign. It is published before that, so that
	// verifiers know it by then. Zero: always.
	ActiveAt time.Time
	// RetiredAt is when it stops to sign. Zero: not retired.
	RetiredAt time.Time
	// ListedUntil is when it leaves the JWKS, and with that authenticates only
	// where an expired JWT would do. Zero: listed.
	ListedUntil time.Time
	// ForgetAt is when it stops to authenticate even expired JWTs. Zero: never.
	ForgetAt time.Time
	// Compromised keys sign nothing, verify nothing and are not listed. It is
	// absorbing: no later record of the key takes it back.
	Compromised bool
}

// GenerateKey makes a key from crypto/rand; "" means [DefaultAlg], RSA keys have
// 2048 bits. Its times are zero: [RotationPolicy] sets them.
func GenerateKey(alg Alg) (*Key, error) {
	var s crypto.Signer
	var err error
	switch alg {
	case ES256, "":
		alg = ES256
		s, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case RS256:
		s, err = rsa.GenerateKey(rand.Reader, rsaBits)
	case EdDSA:
		_, s, err = ed25519.GenerateKey(rand.Reader)
	default:
		return nil, fmt.Errorf("generate key: unknown alg %q", alg)
	}
	if err != nil {
		return nil, fmt.Errorf("generate %s key: %w", alg, err)
	}
	return NewKey(alg, s)
}

// NewKey wraps a private half that lives elsewhere, such as in a KMS. s must be
// safe for concurrent use and sign as [crypto.Signer] documents for its kind of
// key: RSA PKCS #1 v1.5 and ASN.1 ECDSA over a SHA-256 digest, Ed25519 over the
// message itself.
func NewKey(alg Alg, s crypto.Signer) (*Key, error) {
	if s == nil {
		return nil, errors.New("new key: no signer")
	}
	pub := s.Public()
	if err := checkPublic(alg, pub); err != nil {
		return nil, fmt.Errorf("new key: %w", err)
	}
	return &Key{ID: jwkOf(alg, pub).thumbprint(), Alg: alg, Public: pub, Signer: s}, nil
}

// ParsePrivate reads what [Key.MarshalPrivate] wrote.
func ParsePrivate(alg Alg, pkcs8 []byte) (*Key, error) {
	k, err := x509.ParsePKCS8PrivateKey(pkcs8)
	if err != nil {
		return nil, fmt.Errorf("parse private key: %w", err)
	}
	s, ok := k.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("parse private key: %T cannot sign", k)
	}
	return NewKey(alg, s)
}

// MarshalPrivate returns the private half as PKCS #8 DER, which the caller seals
// before it leaves memory. It fails for a public key and for a private half that
// is not in memory.
func (k *Key) MarshalPrivate() ([]byte, error) {
	switch k.Signer.(type) {
	case *ecdsa.PrivateKey, *rsa.PrivateKey, ed25519.PrivateKey:
	default:
		return nil, errors.New("marshal private key: not in memory")
	}
	der, err := x509.MarshalPKCS8PrivateKey(k.Signer)
	if err != nil {
		return nil, fmt.Errorf("marshal private key: %w", err)
	}
	return der, nil
}

// signs says whether the key may sign at now.
func (k *Key) signs(now time.Time) bool {
	return k.Signer != nil && !k.Compromised && !now.Before(k.ActiveAt) &&
		(k.RetiredAt.IsZero() || now.Before(k.RetiredAt))
}

// listed says whether the JWKS shows the key at now.
func (k *Key) listed(now time.Time) bool {
	return k.known(now) && (k.ListedUntil.IsZero() || now.Before(k.ListedUntil))
}

// known says whether the key authenticates at least expired JWTs at now.
func (k *Key) known(now time.Time) bool {
	return !k.Compromised && (k.ForgetAt.IsZero() || now.Before(k.ForgetAt))
}

// String names the key by its public id.
func (k Key) String() string { return "[key " + k.ID + "]" }

// Format prints String for every verb, so that no verb can print a private half.
func (k Key) Format(s fmt.State, _ rune) { _, _ = io.WriteString(s, k.String()) }

// LogValue logs the key by its public id.
func (k Key) LogValue() slog.Value { return slog.StringValue(k.String()) }

// MarshalJSON writes the public JWK: the private half never reaches JSON.
func (k Key) MarshalJSON() ([]byte, error) { return k.MarshalPublic() }

// checkPublic binds alg to the one kind of key it may be used with.
func checkPublic(alg Alg, pub crypto.PublicKey) error {
	switch p := pub.(type) {
	case *ecdsa.PublicKey:
		if alg == ES256 && p != nil && p.Curve == elliptic.P256() {
			_, err := p.Bytes() // refuses a point off the curve
			return err
		}
	case *rsa.PublicKey:
		if alg == RS256 && p != nil && p.N != nil {
			if n := p.N.BitLen(); n < rsaBits || n > rsaMaxBits {
				return fmt.Errorf("rsa key of %d bits, want %d to %d", n, rsaBits, rsaMaxBits)
			}
			if p.E < 3 || p.E&1 == 0 {
				return errors.New("rsa exponent is not an odd number above 1")
			}
			return nil
		}
	case ed25519.PublicKey:
		if alg == EdDSA && len(p) == ed25519.PublicKeySize {
			return nil
		}
	}
	return fmt.Errorf("%T does not suit alg %q", pub, alg)
}
