package signer

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"slices"
)

// b64 is the base64url of RFC 7515: no padding, and no second spelling of the
// same bytes through unused bits.
var b64 = base64.RawURLEncoding.Strict()

// JWK is the public half of a key as RFC 7517 and RFC 8037 write it. It has no
// member that could hold a private one.
type JWK struct {
	KeyType string `json:"kty"`
	KeyID   string `json:"kid"`
	Use     string `json:"use"`
	Alg     Alg    `json:"alg"`
	N       string `json:"n,omitempty"`
	E       string `json:"e,omitempty"`
	Curve   string `json:"crv,omitempty"`
	X       string `json:"x,omitempty"`
	Y       string `json:"y,omitempty"`
}

// JWKS is a JWK Set, RFC 7517 section 5.
type JWKS struct {
	Keys []JWK
}

// MarshalJSON writes {"keys":[...]}, with an empty array when there is no key.
func (s JWKS) MarshalJSON() ([]byte, error) {
	keys := s.Keys
	if keys == nil {
		keys = []JWK{}
	}
	return json.Marshal(struct {
		Keys []JWK `json:"keys"`
	}{keys})
}

// JWK returns the public half.
func (k *Key) JWK() JWK { return jwkOf(k.Alg, k.Public) }

// MarshalPublic returns the public half as a JWK in JSON.
func (k *Key) MarshalPublic() ([]byte, error) {
	if err := checkPublic(k.Alg, k.Public); err != nil {
		return nil, fmt.Errorf("marshal public key: %w", err)
	}
	return json.Marshal(k.JWK())
}

// ParsePublic reads a public JWK. The id is computed from the key, never copied,
// so a JWK cannot claim the id of another key; alg follows from the kind of key
// and must agree when present. A JWK with private members is refused.
func ParsePublic(jwk []byte) (*Key, error) {
	k, err := parseJWK(jwk)
	if err != nil {
		return nil, fmt.Errorf("parse public key: %w", err)
	}
	return k, nil
}

var errPrivate = errors.New("has a private member")

func parseJWK(data []byte) (*Key, error) {
	list, err := members(data)
	if err != nil {
		return nil, err
	}
	text := map[string]string{}
	for _, m := range list {
		switch m.name {
		case "kty", "use", "alg", "crv", "x", "y", "n", "e":
			s, ok := m.text()
			if !ok {
				return nil, fmt.Errorf("member %s is not a string", m.name)
			}
			text[m.name] = s
		case "key_ops": // RFC 7517 section 4.3
			var ops []string
			if json.Unmarshal(m.value, &ops) != nil || !slices.Contains(ops, "verify") {
				return nil, errors.New("key_ops has no verify")
			}
		case "d", "p", "q", "dp", "dq", "qi", "oth", "k":
			return nil, errPrivate
		}
	}
	if u, ok := text["use"]; ok && u != "sig" {
		return nil, errors.New("use is not sig")
	}
	alg, pub, err := publicOf(text)
	if err != nil {
		return nil, err
	}
	if a, ok := text["alg"]; ok && a != string(alg) {
		return nil, fmt.Errorf("alg does not suit kty %s", text["kty"])
	}
	if err := checkPublic(alg, pub); err != nil {
		return nil, err
	}
	return &Key{ID: jwkOf(alg, pub).thumbprint(), Alg: alg, Public: pub}, nil
}

// publicOf builds the public key of a JWK's members.
func publicOf(m map[string]string) (Alg, crypto.PublicKey, error) {
	switch {
	case m["kty"] == "EC" && m["crv"] == "P-256":
		x, errX := b64.DecodeString(m["x"])
		y, errY := b64.DecodeString(m["y"])
		if err := errors.Join(errX, errY); err != nil {
			return "", nil, fmt.Errorf("decode point: %w", err)
		}
		if len(x) != 32 || len(y) != 32 {
			return "", nil, errors.New("coordinates are not 32 bytes")
		}
		pub, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), append(append([]byte{4}, x...), y...))
		return ES256, pub, err
	case m["kty"] == "OKP" && m["crv"] == "Ed25519":
		x, err := b64.DecodeString(m["x"])
		return EdDSA, ed25519.PublicKey(x), err
	case m["kty"] == "RSA":
		n, errN := b64.DecodeString(m["n"])
		e, errE := b64.DecodeString(m["e"])
		if err := errors.Join(errN, errE); err != nil {
			return "", nil, fmt.Errorf("decode rsa key: %w", err)
		}
		if len(e) == 0 || len(e) > 4 || e[0] == 0 || len(n) == 0 || n[0] == 0 {
			return "", nil, errors.New("rsa numbers are not in shortest form or out of range")
		}
		exp := binary.BigEndian.Uint32(append(make([]byte, 4-len(e)), e...))
		if exp > 1<<31-1 {
			return "", nil, errors.New("rsa exponent out of range")
		}
		return RS256, &rsa.PublicKey{N: new(big.Int).SetBytes(n), E: int(exp)}, nil
	}
	return "", nil, errors.New("kind of key is not EC P-256, OKP Ed25519 or RSA")
}

// jwkOf needs a pair that checkPublic accepted.
func jwkOf(alg Alg, pub crypto.PublicKey) JWK {
	j := JWK{Use: "sig", Alg: alg}
	switch p := pub.(type) {
	case *ecdsa.PublicKey:
		point, _ := p.Bytes() // 4, x, y, each coordinate at full width
		j.KeyType, j.Curve = "EC", "P-256"
		j.X, j.Y = b64.EncodeToString(point[1:33]), b64.EncodeToString(point[33:])
	case *rsa.PublicKey:
		j.KeyType = "RSA"
		j.N, j.E = b64.EncodeToString(p.N.Bytes()), b64.EncodeToString(big.NewInt(int64(p.E)).Bytes())
	case ed25519.PublicKey:
		j.KeyType, j.Curve, j.X = "OKP", "Ed25519", b64.EncodeToString(p)
	}
	j.KeyID = j.thumbprint()
	return j
}

// thumbprint is RFC 7638 section 3, for OKP RFC 8037 section 2: the required
// members in lexical order without white space. base64url needs no escaping.
func (j JWK) thumbprint() string {
	var s string
	switch j.KeyType {
	case "EC":
		s = `{"crv":"` + j.Curve + `","kty":"EC","x":"` + j.X + `","y":"` + j.Y + `"}`
	case "RSA":
		s = `{"e":"` + j.E + `","kty":"RSA","n":"` + j.N + `"}`
	case "OKP":
		s = `{"crv":"` + j.Curve + `","kty":"OKP","x":"` + j.X + `"}`
	}
	sum := sha256.Sum256([]byte(s))
	return b64.EncodeToString(sum[:])
}
