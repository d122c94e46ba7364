package signer

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"

	"github.com/golang-jwt/jwt/v5"
)

// method returns the signature method of an algorithm.
func method(alg Alg) jwt.SigningMethod {
	switch alg {
	case ES256:
		return jwt.SigningMethodES256
	case RS256:
		return jwt.SigningMethodRS256
	case EdDSA:
		return jwt.SigningMethodEdDSA
	}
	return nil
}

// CheckSignature returns an error unless sig is the signature of k over input,
// the first two segments of a JWT, in the form of RFC 7518 section 3 or RFC 8037
// section 3.1. It says nothing about what was signed: that is [Ring.Verify].
func (k *Key) CheckSignature(input string, sig []byte) error {
	if err := checkPublic(k.Alg, k.Public); err != nil {
		return fmt.Errorf("check signature: %w", err)
	}
	if err := method(k.Alg).Verify(input, sig, k.Public); err != nil {
		return fmt.Errorf("check signature: %w", err)
	}
	return nil
}

// sign signs input, the first two segments of a JWT. The JWT library takes the
// private keys of the standard library; any other crypto.Signer is asked here.
func sign(k *Key, input string) ([]byte, error) {
	switch k.Signer.(type) {
	case *ecdsa.PrivateKey, *rsa.PrivateKey, ed25519.PrivateKey:
		sig, err := method(k.Alg).Sign(input, k.Signer)
		if err != nil {
			return nil, fmt.Errorf("sign jwt: %w", err)
		}
		return sig, nil
	}
	sig, err := signRemote(k, []byte(input))
	if err != nil {
		return nil, fmt.Errorf("sign jwt: %w", err)
	}
	return sig, nil
}

func signRemote(k *Key, input []byte) ([]byte, error) {
	if k.Alg == EdDSA {
		return k.Signer.Sign(rand.Reader, input, crypto.Hash(0))
	}
	digest := sha256.Sum256(input)
	sig, err := k.Signer.Sign(rand.Reader, digest[:], crypto.SHA256)
	if err != nil || k.Alg != ES256 {
		return sig, err
	}
	// crypto.Signer returns ASN.1; RFC 7518 section 3.4 wants r and s side by
	// side, 32 bytes each.
	var p struct{ R, S *big.Int }
	rest, err := asn1.Unmarshal(sig, &p)
	if err != nil {
		return nil, fmt.Errorf("read signature: %w", err)
	}
	if len(rest) != 0 || p.R.Sign() <= 0 || p.S.Sign() <= 0 || p.R.BitLen() > 256 || p.S.BitLen() > 256 {
		return nil, errors.New("signature out of range")
	}
	out := make([]byte, 64)
	p.R.FillBytes(out[:32])
	p.S.FillBytes(out[32:])
	return out, nil
}
