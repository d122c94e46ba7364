package signer_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net"
	"strings"
	"testing"

	"github.com/revocast/revocast/signer"
)

// TestAlgConfusion: rule J1.
func TestAlgConfusion(t *testing.T) {
	for _, a := range algs {
		k := keyFor(a)
		ring := signer.NewRing(k)
		good := body(t, mint(t, k, signer.Native, claims()))
		unsigned := func(alg, sig string) string {
			head := `{"alg":"` + alg + `","kid":"` + k.ID + `","typ":"at+jwt"}`
			return b64.EncodeToString([]byte(head)) + "." + b64.EncodeToString([]byte(good)) + "." + sig
		}
		for _, alg := range []string{"none", "None", "NONE", "nOnE", "", "null", "HS256", "HS512", "PS256", "ES384", "ES521", "RS384", "Ed25519", strings.ToLower(string(a))} {
			for _, sig := range []string{"", "AA", "e30", b64.EncodeToString(make([]byte, 64)), b64.EncodeToString(make([]byte, 256))} {
				if _, err := ring.Verify(unsigned(alg, sig), expect()); err == nil {
					t.Errorf("%s key: alg %q with signature %q verifies", a, alg, sig)
				}
			}
			// A real signature of the key under another name.
			head := `{"alg":"` + alg + `","kid":"` + k.ID + `","typ":"at+jwt"}`
			if _, err := ring.Verify(sign(t, k, head, good), expect()); err == nil {
				t.Errorf("%s key: its signature verifies as %q", a, alg)
			}
		}
		// HMAC with everything public about the key as the secret.
		der, err := x509.MarshalPKIXPublicKey(k.Public)
		if err != nil {
			t.Fatal(err)
		}
		jwk, _ := k.MarshalPublic()
		jwks, _ := json.Marshal(ring.JWKS(now))
		text := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
		for name, secret := range map[string][]byte{"PEM": text, "trimmed PEM": text[:len(text)-1], "DER": der, "JWK": jwk, "JWKS": jwks, "kid": []byte(k.ID), "nothing": nil} {
			for _, alg := range []string{"HS256", string(a)} {
				token := unsigned(alg, "")
				mac := hmac.New(sha256.New, secret)
				mac.Write([]byte(token[:len(token)-1]))
				if _, err := ring.Verify(token+b64.EncodeToString(mac.Sum(nil)), expect()); reason(t, err) != signer.ErrBadSignature {
					t.Errorf("%s key: alg %s keyed with its %s: %v", a, alg, name, err)
				}
			}
		}
		// A JWT of another key of the ring, under this kid and alg.
		for _, b := range algs {
			other := keyFor(b)
			if a == b {
				other = fresh(t, b)
			}
			both := ring.With(other)
			if _, err := both.Verify(sign(t, other, header(k), good), expect()); reason(t, err) != signer.ErrBadSignature {
				t.Errorf("signed with %s as %s: %v", b, a, err)
			}
			mixed := `{"alg":"` + string(a) + `","kid":"` + other.ID + `","typ":"at+jwt"}`
			if _, err := both.Verify(sign(t, k, mixed, good), expect()); reason(t, err) != signer.ErrBadSignature {
				t.Errorf("kid of %s with %s: %v", b, a, err)
			}
		}
	}
}

// TestHeaderTricks: rules J2 to J4 and J6. Each header is signed by the right key
// or by the attacker's, and a listener counts who comes to fetch a key.
func TestHeaderTricks(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	visitors := make(chan int)
	go func() {
		n := 0
		for {
			c, err := l.Accept()
			if err != nil {
				visitors <- n
				return
			}
			_ = c.Close()
			n++
		}
	}()

	k, thief := keyFor(signer.ES256), fresh(t, signer.ES256)
	ring := signer.NewRing(k)
	good := body(t, mint(t, k, signer.Native, claims()))
	jwk, _ := thief.MarshalPublic()
	url := `"http://` + l.Addr().String() + `/jwks.json"`
	base := `"alg":"ES256","kid":"` + k.ID + `","typ":"at+jwt"`
	for name, head := range map[string]string{
		"jwk":              `{` + base + `,"jwk":` + string(jwk) + `}`,
		"jwk, thief's kid": `{"alg":"ES256","kid":"` + thief.ID + `","typ":"at+jwt","jwk":` + string(jwk) + `}`,
		"jku":              `{` + base + `,"jku":` + url + `}`,
		"x5u":              `{` + base + `,"x5u":` + url + `}`,
		"x5c":              `{` + base + `,"x5c":["MIIB"]}`,
		"x5t":              `{` + base + `,"x5t":"AAAA"}`,
		"crit exp":         `{` + base + `,"crit":["exp"],"exp":1}`,
		"crit b64":         `{` + base + `,"crit":["b64"],"b64":false}`,
		"empty crit":       `{` + base + `,"crit":[]}`,
		"b64 false":        `{` + base + `,"b64":false}`,
		"b64 true":         `{` + base + `,"b64":true}`,
		"zip":              `{` + base + `,"zip":"DEF"}`,
		"cty":              `{` + base + `,"cty":"JWT"}`,
		"enc":              `{` + base + `,"enc":"A128GCM"}`,
		"nested":           `{` + base + `,"x":[[[[[[[[[]]]]]]]]]}`,
		"two algs":         `{"alg":"ES256",` + strings.Replace(base, "ES256", "none", 1) + `}`,
		"alg, then ALG":    `{` + base + `,"ALG":"none"}`,
		"escaped name":     `{"\u0061lg":"none",` + base + `}`,
		"kid twice":        `{` + base + `,"kid":"` + thief.ID + `"}`,
		"kid as a number":  `{"alg":"ES256","kid":1,"typ":"at+jwt"}`,
		"kid as an array":  `{"alg":"ES256","kid":["` + k.ID + `"],"typ":"at+jwt"}`,
		"alg as an array":  `{"alg":["ES256"],"kid":"` + k.ID + `","typ":"at+jwt"}`,
		"alg null":         `{"alg":null,"kid":"` + k.ID + `","typ":"at+jwt"}`,
		"no alg":           `{"kid":"` + k.ID + `","typ":"at+jwt"}`,
		"bad UTF-8":        `{` + base + ",\"\xff\":1}",
		"not an object":    `["ES256"]`,
		"null":             `null`,
		"something after":  `{` + base + `} {}`,
		"cut short":        `{` + base,
	} {
		for who, by := range map[string]*signer.Key{"our key": k, "thief": thief} {
			if _, err := ring.Verify(sign(t, by, head, good), expect()); reason(t, err) != signer.ErrMalformed {
				t.Errorf("%s, signed by %s: %v", name, who, err)
			}
		}
	}
	for name, kid := range map[string]string{
		"none":           "",
		"traversal":      "../../../../dev/null",
		"SQL":            "' OR 1=1 --",
		"command":        "$(id)",
		"url":            "http://" + l.Addr().String() + "/",
		"zero byte":      k.ID + "\x00",
		"prefix":         k.ID[:20],
		"other case":     strings.ToLower(k.ID),
		"trailing space": k.ID + " ",
		"thief's":        thief.ID,
		"5,000 letters":  strings.Repeat("k", 5000),
	} {
		head, _ := json.Marshal(map[string]string{"alg": "ES256", "kid": kid, "typ": "at+jwt"})
		for _, by := range []*signer.Key{k, thief} {
			if _, err := ring.Verify(sign(t, by, string(head), good), expect()); reason(t, err) != signer.ErrUnknownKey {
				t.Errorf("kid %s: %v", name, err)
			}
		}
	}
	huge, _ := json.Marshal(map[string]string{"alg": "ES256", "kid": strings.Repeat("k", 1<<20), "typ": "at+jwt"})
	if _, err := ring.Verify(sign(t, k, string(huge), good), expect()); reason(t, err) != signer.ErrMalformed {
		t.Errorf("kid of 1 MB: %v", err)
	}
	if _, err := ring.Verify(sign(t, thief, header(k), good), expect()); reason(t, err) != signer.ErrBadSignature {
		t.Errorf("signed by a thief: %v", err)
	}
	_ = l.Close()
	if n := <-visitors; n != 0 {
		t.Errorf("%d connections to fetch a key", n)
	}
}

// TestBadSignatures: rule J10, and the same for the other algorithms.
func TestBadSignatures(t *testing.T) {
	for _, a := range algs {
		k := keyFor(a)
		ring := signer.NewRing(k)
		token := mint(t, k, signer.Native, claims())
		cut := strings.LastIndex(token, ".")
		sig, _ := b64.DecodeString(token[cut+1:])
		bad := map[string][]byte{
			"one byte short": sig[:len(sig)-1],
			"one byte more":  append(append([]byte{}, sig...), 0),
			"zero in front":  append([]byte{0}, sig...),
			"all zero":       make([]byte, len(sig)),
			"twice":          append(append([]byte{}, sig...), sig...),
			"one byte":       {0},
		}
		if a == signer.ES256 {
			n := k.Public.(*ecdsa.PublicKey).Params().N
			pair := func(r, s *big.Int) []byte {
				out := make([]byte, 64)
				r.FillBytes(out[:32])
				s.FillBytes(out[32:])
				return out
			}
			r, s, one := new(big.Int).SetBytes(sig[:32]), new(big.Int).SetBytes(sig[32:]), big.NewInt(1)
			zero, top := new(big.Int), new(big.Int).Sub(new(big.Int).Lsh(one, 256), one)
			digest := sha256.Sum256([]byte(token[:cut]))
			asn1, err := k.Signer.Sign(rand.Reader, digest[:], crypto.SHA256)
			if err != nil {
				t.Fatal(err)
			}
			bad["ASN.1"] = asn1
			for name, p := range map[string][2]*big.Int{"r = s = 0": {zero, zero}, "r = 0": {zero, s}, "s = 0": {r, zero}, "r = n": {n, s},
				"s = n": {r, n}, "r = s = n": {n, n}, "r = s = 1": {one, one}, "r = s = top": {top, top}, "swapped": {s, r}} {
				bad[name] = pair(p[0], p[1])
			}
		}
		for name, sig := range bad {
			if _, err := ring.Verify(token[:cut+1]+b64.EncodeToString(sig), expect()); reason(t, err) != signer.ErrBadSignature {
				t.Errorf("%s %s: %v", a, name, err)
			}
		}
	}
}

// TestTamperedClaims changes the claims of a JWT and keeps its signature.
func TestTamperedClaims(t *testing.T) {
	for _, a := range algs {
		for _, p := range signer.Profiles() {
			k := keyFor(a)
			token := mint(t, k, p, claims())
			parts := strings.Split(token, ".")
			good := body(t, token)
			for old, changed := range map[string]string{
				user: "admin@example.com", sid: strings.Repeat("A", len(sid)), app: "bank", "1795349100": "1795349101", `"plan":"pro"`: `"plan":"max"`,
				`"aud"`: ` "aud"`,
			} {
				forged := parts[0] + "." + b64.EncodeToString([]byte(strings.Replace(good, old, changed, 1))) + "." + parts[2]
				if forged == token {
					t.Fatalf("%s is not in %s", old, good)
				}
				if _, err := signer.NewRing(k).Verify(forged, expect()); reason(t, err) != signer.ErrBadSignature {
					t.Errorf("%s %s: %s for %s: %v", a, p, changed, old, err)
				}
			}
		}
	}
}
