package signer_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/revocast/revocast/signer"
)

func TestThumbprintVectors(t *testing.T) {
	for _, tc := range []struct{ name, jwk, want string }{
		{"RFC 7638 section 3.1", `{"kty":"RSA","n":"0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw","e":"AQAB","alg":"RS256","kid":"2011-04-29"}`,
			"NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"},
		{"RFC 8037 appendix A.3", `{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}`,
			"kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			k, err := signer.ParsePublic([]byte(tc.jwk))
			if err != nil {
				t.Fatal(err)
			}
			if k.ID != tc.want {
				t.Errorf("thumbprint %s, want %s", k.ID, tc.want)
			}
		})
	}
}

// TestShortCoordinates makes keys until one has a coordinate with a leading zero
// byte, which careless encoders drop and so get another thumbprint.
func TestShortCoordinates(t *testing.T) {
	for range 20000 {
		k := fresh(t, signer.ES256)
		point, err := k.Public.(*ecdsa.PublicKey).Bytes()
		if err != nil {
			t.Fatal(err)
		}
		if point[1] != 0 && point[33] != 0 {
			continue
		}
		j := k.JWK()
		if len(j.X) != 43 || len(j.Y) != 43 {
			t.Fatalf("coordinates of %d and %d characters, want 43", len(j.X), len(j.Y))
		}
		raw, _ := k.MarshalPublic()
		back, err := signer.ParsePublic(raw)
		if err != nil || back.ID != k.ID {
			t.Fatalf("round trip: %v, %v", back, err)
		}
		return
	}
	t.Fatal("no such key in 20000")
}

func TestKeyRoundTrip(t *testing.T) {
	for _, a := range algs {
		t.Run(string(a), func(t *testing.T) {
			k := keyFor(a)
			der, err := k.MarshalPrivate()
			if err != nil {
				t.Fatal(err)
			}
			private, err := signer.ParsePrivate(a, der)
			if err != nil {
				t.Fatal(err)
			}
			raw, err := k.MarshalPublic()
			if err != nil {
				t.Fatal(err)
			}
			public, err := signer.ParsePublic(raw)
			if err != nil {
				t.Fatal(err)
			}
			if private.ID != k.ID || public.ID != k.ID || public.Alg != a || public.Signer != nil {
				t.Errorf("ids %s, %s, %s; alg %s", k.ID, private.ID, public.ID, public.Alg)
			}
			token := mint(t, private, signer.Native, claims())
			if _, err := signer.NewRing(public).Verify(token, expect()); err != nil {
				t.Errorf("public half refuses what the private one signed: %v", err)
			}
			if _, err := signer.Mint(public, signer.Native, claims()); err == nil {
				t.Error("a public key signed")
			}
			if _, err := public.MarshalPrivate(); err == nil {
				t.Error("a public key gave away a private half")
			}
			for _, other := range algs {
				if _, err := signer.ParsePrivate(other, der); (err == nil) != (other == a) {
					t.Errorf("%s key as %s: %v", a, other, err)
				}
			}
		})
	}
}

func TestWrongKinds(t *testing.T) {
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := signer.NewKey(signer.ES256, p384); err == nil {
		t.Error("P-384 accepted for ES256")
	}
	if _, err := signer.NewKey(signer.RS256, small); err == nil {
		t.Error("RSA of 1024 bits accepted")
	}
	if _, err := signer.NewKey(signer.ES256, nil); err == nil {
		t.Error("no signer accepted")
	}
	for _, a := range []signer.Alg{"none", "HS256", "PS256", "ES384", "es256"} {
		if _, err := signer.GenerateKey(a); err == nil {
			t.Errorf("generated a key for %q", a)
		}
		if _, err := signer.ParseAlg(string(a)); err == nil {
			t.Errorf("parsed alg %q", a)
		}
	}
	for in, want := range map[string]signer.Alg{"": signer.ES256, "ES256": signer.ES256, "RS256": signer.RS256, "EdDSA": signer.EdDSA} {
		if got, err := signer.ParseAlg(in); got != want || err != nil {
			t.Errorf("ParseAlg(%q) = %s, %v", in, got, err)
		}
	}
}

func TestParsePublicRefuses(t *testing.T) {
	ec, ed, rs := keyFor(signer.ES256).JWK(), keyFor(signer.EdDSA).JWK(), keyFor(signer.RS256).JWK()
	ones := func(n int) string { return b64.EncodeToString(bytes.Repeat([]byte{0xff}, n)) }
	for name, jwk := range map[string]string{
		"empty":           ``,
		"array":           `[]`,
		"no kty":          `{"crv":"P-256"}`,
		"symmetric":       `{"kty":"oct","k":"AAAA"}`,
		"private member":  `{"kty":"EC","crv":"P-256","x":"` + ec.X + `","y":"` + ec.Y + `","d":"AA"}`,
		"off the curve":   `{"kty":"EC","crv":"P-256","x":"` + ec.Y + `","y":"` + ec.X + `"}`,
		"short point":     `{"kty":"EC","crv":"P-256","x":"` + ec.X[:40] + `","y":"` + ec.Y + `"}`,
		"other curve":     `{"kty":"EC","crv":"secp256k1","x":"` + ec.X + `","y":"` + ec.Y + `"}`,
		"unused bits":     `{"kty":"OKP","crv":"Ed25519","x":"` + ed.X[:42] + string(rune(ed.X[42]+1)) + `"}`,
		"short ed25519":   `{"kty":"OKP","crv":"Ed25519","x":"` + ed.X[:20] + `"}`,
		"x25519":          `{"kty":"OKP","crv":"X25519","x":"` + ed.X + `"}`,
		"encryption":      `{"kty":"OKP","crv":"Ed25519","use":"enc","x":"` + ed.X + `"}`,
		"other key_ops":   `{"kty":"OKP","crv":"Ed25519","key_ops":["encrypt"],"x":"` + ed.X + `"}`,
		"odd key_ops":     `{"kty":"OKP","crv":"Ed25519","key_ops":"verify","x":"` + ed.X + `"}`,
		"alg of another":  `{"kty":"OKP","crv":"Ed25519","alg":"ES256","x":"` + ed.X + `"}`,
		"x twice":         `{"kty":"OKP","crv":"Ed25519","x":"` + ed.X + `","x":"` + ed.X + `"}`,
		"number":          `{"kty":"OKP","crv":"Ed25519","x":1}`,
		"small rsa":       `{"kty":"RSA","n":"` + ones(128) + `","e":"AQAB"}`,
		"huge rsa":        `{"kty":"RSA","n":"` + ones(1024) + `","e":"AQAB"}`,
		"even exponent":   `{"kty":"RSA","n":"` + rs.N + `","e":"Ag"}`,
		"exponent 1":      `{"kty":"RSA","n":"` + rs.N + `","e":"AQ"}`,
		"exponent 4":      `{"kty":"RSA","n":"` + rs.N + `","e":"BA"}`,
		"large exponent":  `{"kty":"RSA","n":"` + rs.N + `","e":"_____w"}`,
		"padded modulus":  `{"kty":"RSA","n":"` + b64.EncodeToString(append([]byte{0}, keyFor(signer.RS256).Public.(*rsa.PublicKey).N.Bytes()...)) + `","e":"AQAB"}`,
		"no exponent":     `{"kty":"RSA","n":"` + rs.N + `"}`,
		"no modulus":      `{"kty":"RSA","e":"AQAB"}`,
		"padded exponent": `{"kty":"RSA","n":"` + rs.N + `","e":"AAEAAQ"}`,
	} {
		if k, err := signer.ParsePublic([]byte(jwk)); err == nil {
			t.Errorf("%s: accepted as %v", name, k)
		}
	}
}

// TestKeyIsNeverPrinted looks for the private half in everything that prints.
func TestKeyIsNeverPrinted(t *testing.T) {
	k := keyFor(signer.ES256)
	secret, err := k.Signer.(*ecdsa.PrivateKey).Bytes()
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("key", "pointer", k, "value", *k)
	slog.New(slog.NewTextHandler(&log, nil)).Info("key", "pointer", k, "value", *k)
	v, err := signer.NewRing(k).Verify(mint(t, k, signer.Native, claims()), expect())
	if err != nil {
		t.Fatal(err)
	}
	slog.New(slog.NewTextHandler(&log, nil)).Info("verified", "v", v)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%d", "%x", "%q"} {
		fmt.Fprintf(&log, verb+verb+verb, k, *k, v)
	}
	if err := json.NewEncoder(&log).Encode([]any{k, *k, v}); err != nil {
		t.Fatal(err)
	}
	scalar := new(big.Int).SetBytes(secret).String() // what %v would print
	for _, leak := range []string{b64.EncodeToString(secret), fmt.Sprintf("%x", secret), scalar, "PRIVATE", "eyJhbGci"} {
		if strings.Contains(log.String(), leak) {
			t.Errorf("output holds %q", leak)
		}
	}
	if !strings.Contains(log.String(), k.ID) {
		t.Error("the public id is not shown either")
	}
}

// remote stands for a KMS: it signs as crypto.Signer documents and has no other
// methods.
type remote struct{ crypto.Signer }

func (r remote) Sign(rand io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	return r.Signer.Sign(rand, digest, opts)
}

// broken returns a signature that is not one.
type broken struct {
	crypto.Signer
	sig []byte
}

func (b broken) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) { return b.sig, nil }

func TestRemoteSigner(t *testing.T) {
	for _, a := range algs {
		k, err := signer.NewKey(a, remote{keyFor(a).Signer})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(keyFor(a).ID, k.ID); diff != "" {
			t.Error(diff)
		}
		for range 50 {
			token := mint(t, k, signer.Native, claims())
			if _, err := signer.NewRing(k).Verify(token, expect()); err != nil {
				t.Fatalf("%s: %v", a, err)
			}
		}
		if _, err := k.MarshalPrivate(); err == nil {
			t.Errorf("%s: exported a private half that is elsewhere", a)
		}
	}
	for _, sig := range [][]byte{nil, {0x30, 0}, {0x30, 6, 2, 1, 0, 2, 1, 0}, {0x30, 6, 2, 1, 1, 2, 1, 1, 9}} {
		k, err := signer.NewKey(signer.ES256, broken{keyFor(signer.ES256).Signer, sig})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := signer.Mint(k, signer.Native, claims()); err == nil {
			t.Errorf("minted with signature %x", sig)
		}
	}
}
