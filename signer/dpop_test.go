package signer_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/revocast/revocast/signer"
)

// rfcProof is the proof of RFC 9449 section 4.1, figure 1; its key has the
// thumbprint of section 6.1, figure 9.
const (
	rfcProof = "eyJ0eXAiOiJkcG9wK2p3dCIsImFsZyI6IkVTMjU2IiwiandrIjp7Imt0eSI6IkVDIiwieCI6Imw4dEZyaHgtMzR0VjNoUklDUkRZOXpDa0RscEJoRjQyVVFVZldWQVdCRnMiLCJ5IjoiOVZFNGpmX09rX282NHpiVFRsY3VOSmFqSG10NnY5VERWclUwQ2R2R1JEQSIsImNydiI6IlAtMjU2In19" +
		".eyJqdGkiOiItQndDM0VTYzZhY2MybFRjIiwiaHRtIjoiUE9TVCIsImh0dSI6Imh0dHBzOi8vc2VydmVyLmV4YW1wbGUuY29tL3Rva2VuIiwiaWF0IjoxNTYyMjYyNjE2fQ" +
		".2-GxA6T8lP4vfrg8v-FdWP0A0zdrj8igiMLvqRMUvwnQg4PtFLbdLXiOSsX0x7NVY-FNyJK70nfbV37xRZT3Lg"
	rfcThumbprint = "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"
)

func TestProofOfTheRFC(t *testing.T) {
	p, err := signer.ParseProof(rfcProof)
	if err != nil {
		t.Fatal(err)
	}
	if p.Thumbprint != rfcThumbprint || p.ID != "-BwC3ESc6acc2lTc" || p.Nonce != "" {
		t.Errorf("%+v", p)
	}
	at := time.Unix(1562262616, 0)
	if err := p.Check("POST", "https://server.example.com/token", "", at); err != nil {
		t.Error(err)
	}
	for name, err := range map[string]error{
		"later":          p.Check("POST", "https://server.example.com/token", "", at.Add(61*time.Second)),
		"earlier":        p.Check("POST", "https://server.example.com/token", "", at.Add(-61*time.Second)),
		"another method": p.Check("GET", "https://server.example.com/token", "", at),
		"other letters":  p.Check("post", "https://server.example.com/token", "", at),
		"another path":   p.Check("POST", "https://server.example.com/tokens", "", at),
		"another host":   p.Check("POST", "https://example.com/token", "", at),
		"another scheme": p.Check("POST", "http://server.example.com/token", "", at),
		"another port":   p.Check("POST", "https://server.example.com:8443/token", "", at),
		"no URL":         p.Check("POST", "", "", at),
		"a token":        p.Check("POST", "https://server.example.com/token", "x", at),
	} {
		if _, ok := errors.AsType[signer.ErrProof](err); !ok {
			t.Errorf("%s: %v, want an ErrProof", name, err)
		}
	}
}

// proofMaker makes proofs, good ones and others.
type proofMaker struct {
	t   *testing.T
	key crypto.Signer
	alg string
	jwk map[string]any
}

func enc64(b []byte) string { return b64.EncodeToString(b) }

func newProofMaker(t *testing.T, alg string) *proofMaker {
	p := &proofMaker{t: t, alg: alg}
	switch alg {
	case "ES256":
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		point, _ := k.PublicKey.Bytes()
		p.key, p.jwk = k, map[string]any{"kty": "EC", "crv": "P-256", "x": enc64(point[1:33]), "y": enc64(point[33:])}
	case "EdDSA", "Ed25519":
		pub, k, _ := ed25519.GenerateKey(rand.Reader)
		p.key, p.jwk = k, map[string]any{"kty": "OKP", "crv": "Ed25519", "x": enc64(pub)}
	default:
		k, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			t.Fatal(err)
		}
		p.key, p.jwk = k, map[string]any{"kty": "RSA", "n": enc64(k.N.Bytes()), "e": "AQAB"}
	}
	return p
}

func (p *proofMaker) header() map[string]any {
	return map[string]any{"typ": "dpop+jwt", "alg": p.alg, "jwk": p.jwk}
}

func (p *proofMaker) sign(header, claims any) string {
	p.t.Helper()
	text := func(v any) string {
		if s, ok := v.(string); ok {
			return enc64([]byte(s))
		}
		out, err := json.Marshal(v)
		if err != nil {
			p.t.Fatal(err)
		}
		return enc64(out)
	}
	in := text(header) + "." + text(claims)
	sum := sha256.Sum256([]byte(in))
	var sig []byte
	var err error
	switch k := p.key.(type) {
	case *ecdsa.PrivateKey:
		r, s, signErr := ecdsa.Sign(rand.Reader, k, sum[:])
		sig, err = append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...), signErr
	case ed25519.PrivateKey:
		sig = ed25519.Sign(k, []byte(in))
	case *rsa.PrivateKey:
		sig, err = rsa.SignPKCS1v15(rand.Reader, k, crypto.SHA256, sum[:])
	}
	if err != nil {
		p.t.Fatal(err)
	}
	return in + "." + enc64(sig)
}

func with(base map[string]any, name string, value any) map[string]any {
	out := map[string]any{name: value}
	for k, v := range base {
		if _, ok := out[k]; !ok {
			out[k] = v
		}
	}
	if value == nil {
		delete(out, name)
	}
	return out
}

// TestProofs: each algorithm, and everything a proof may not be.
func TestProofs(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	claims := map[string]any{"jti": "id", "htm": "GET", "htu": "https://h.example/a", "iat": now.Unix(), "ath": enc64(func() []byte { s := sha256.Sum256([]byte("token")); return s[:] }())}
	for _, alg := range signer.ProofAlgs() {
		p := newProofMaker(t, alg)
		proof, err := signer.ParseProof(p.sign(p.header(), with(with(claims, "nonce", "n"), "extra", map[string]any{"a": 1})))
		if err != nil {
			t.Errorf("%s: %v", alg, err)
			continue
		}
		if err := proof.Check("GET", "https://h.example/a", "token", now); err != nil || proof.Nonce != "n" || !signer.ValidThumbprint(proof.Thumbprint) {
			t.Errorf("%s: %v %+v", alg, err, proof)
		}
		if err := proof.Check("GET", "https://h.example/a", "token2", now); err == nil {
			t.Errorf("%s: a proof of another token", alg)
		}
	}
	p, ed := newProofMaker(t, "ES256"), newProofMaker(t, "EdDSA")
	good := p.sign(p.header(), claims)
	parts := strings.Split(good, ".")
	dupHeader, _ := json.Marshal(p.header())
	for name, proof := range map[string]string{
		"nothing": "", "two dots": "..", "junk": "a.b.c", "a JWT's worth of junk": strings.Repeat("x", 9000), "padding": good + "=", "a line break": good + "\n",
		"long":                   p.sign(p.header(), with(claims, "extra", strings.Repeat("x", 4096))),
		"no signature":           parts[0] + "." + parts[1] + ".",
		"a zero signature":       parts[0] + "." + parts[1] + "." + enc64(make([]byte, 64)),
		"a short signature":      parts[0] + "." + parts[1] + "." + enc64(make([]byte, 63)),
		"other claims":           parts[0] + "." + enc64([]byte(`{"jti":"id","htm":"GET","htu":"https://h.example/a","iat":1}`)) + "." + parts[2],
		"the key of somebody":    ed.sign(with(ed.header(), "jwk", p.jwk), claims),
		"no typ":                 p.sign(with(p.header(), "typ", nil), claims),
		"typ of a session":       p.sign(with(p.header(), "typ", "at+jwt"), claims),
		"typ in capitals":        p.sign(with(p.header(), "typ", "DPoP+JWT"), claims),
		"typ JWT":                p.sign(with(p.header(), "typ", "JWT"), claims),
		"alg none":               p.sign(with(p.header(), "alg", "none"), claims),
		"alg HS256":              p.sign(with(p.header(), "alg", "HS256"), claims),
		"alg PS256":              p.sign(with(p.header(), "alg", "PS256"), claims),
		"alg ES384":              p.sign(with(p.header(), "alg", "ES384"), claims),
		"alg of another key":     p.sign(with(p.header(), "alg", "RS256"), claims),
		"no alg":                 p.sign(with(p.header(), "alg", nil), claims),
		"no jwk":                 p.sign(with(p.header(), "jwk", nil), claims),
		"jwk a string":           p.sign(with(p.header(), "jwk", "x"), claims),
		"jwk private":            p.sign(with(p.header(), "jwk", with(p.jwk, "d", "x")), claims),
		"jwk private, symmetric": p.sign(with(p.header(), "jwk", map[string]any{"kty": "oct", "k": "AAAA"}), claims),
		"jwk off the curve":      p.sign(with(p.header(), "jwk", with(p.jwk, "x", enc64(make([]byte, 32)))), claims),
		"jwk of another curve":   p.sign(with(p.header(), "jwk", with(p.jwk, "crv", "P-384")), claims),
		"jwk to encrypt":         p.sign(with(p.header(), "jwk", with(p.jwk, "use", "enc")), claims),
		"RSA too small":          p.sign(with(with(p.header(), "alg", "RS256"), "jwk", map[string]any{"kty": "RSA", "n": enc64(append([]byte{0xff}, make([]byte, 127)...)), "e": "AQAB"}), claims),
		"kid":                    p.sign(with(p.header(), "kid", "x"), claims),
		"crit":                   p.sign(with(p.header(), "crit", []string{"b64"}), claims),
		"x5c":                    p.sign(with(p.header(), "x5c", []string{"x"}), claims),
		"jku":                    p.sign(with(p.header(), "jku", "https://evil.example"), claims),
		"a repeated member":      p.sign(strings.TrimSuffix(string(dupHeader), "}")+`,"typ":"dpop+jwt"}`, claims),
		"claims an array":        p.sign(p.header(), `[]`),
		"a repeated claim":       p.sign(p.header(), `{"jti":"a","jti":"b","htm":"GET","htu":"https://h.example/a","iat":1}`),
		"no jti":                 p.sign(p.header(), with(claims, "jti", nil)),
		"empty jti":              p.sign(p.header(), with(claims, "jti", "")),
		"long jti":               p.sign(p.header(), with(claims, "jti", strings.Repeat("x", 129))),
		"jti a number":           p.sign(p.header(), with(claims, "jti", 1)),
		"no htm":                 p.sign(p.header(), with(claims, "htm", nil)),
		"no htu":                 p.sign(p.header(), with(claims, "htu", nil)),
		"no iat":                 p.sign(p.header(), with(claims, "iat", nil)),
		"iat a text":             p.sign(p.header(), with(claims, "iat", fmt.Sprint(now.Unix()))),
		"iat a fraction":         p.sign(p.header(), with(claims, "iat", 1.5)),
		"ath a number":           p.sign(p.header(), with(claims, "ath", 1)),
		"nonce null":             p.sign(p.header(), `{"jti":"a","htm":"GET","htu":"https://h.example/a","iat":1,"nonce":null}`),
	} {
		_, err := signer.ParseProof(proof)
		if _, ok := errors.AsType[signer.ErrProof](err); !ok {
			t.Errorf("%s: %v, want an ErrProof", name, err)
		}
	}
	// A proof is no JWT of a session, whoever signed it.
	k, err := signer.GenerateKey("")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := signer.NewRing(k).Verify(good, signer.Expect{Issuer: "i", App: "a", Now: now}); !errors.Is(err, signer.ErrMalformed) {
		t.Errorf("as a JWT: %v", err)
	}
}

// TestProofURLs: two spellings of one URL are one; all else is another, or none.
func TestProofURLs(t *testing.T) {
	p := newProofMaker(t, "EdDSA")
	now := time.Unix(1_800_000_000, 0)
	check := func(htu, request string) error {
		proof, err := signer.ParseProof(p.sign(p.header(), map[string]any{"jti": "id", "htm": "GET", "htu": htu, "iat": now.Unix()}))
		if err != nil {
			t.Fatal(err)
		}
		return proof.Check("GET", request, "", now)
	}
	for _, same := range [][2]string{
		{"https://h.example/a", "https://h.example/a"}, {"HTTPS://H.Example/a", "https://h.example/a"}, {"https://h.example:443/a", "https://h.example/a"},
		{"http://h.example:80", "http://h.example/"}, {"http://h.example", "http://h.example/"}, {"https://h.example/a", "https://h.example:443/a"},
		{"https://h.example/~b%2f", "https://h.example/%7Eb%2F"}, {"https://h.example/%c3%a9", "https://h.example/é"}, {"https://[::1]:8443/a", "https://[::1]:8443/a"},
	} {
		if err := check(same[0], same[1]); err != nil {
			t.Errorf("%q for %q: %v", same[0], same[1], err)
		}
	}
	for _, other := range [][2]string{
		{"https://h.example/a", "https://h.example/a/"}, {"https://h.example/A", "https://h.example/a"}, {"https://h.example/a%2fb", "https://h.example/a/b"},
		{"https://h.example/a?b", "https://h.example/a"}, {"https://h.example/a?", "https://h.example/a"}, {"https://h.example/a#b", "https://h.example/a"}, {"https://h.example/a#", "https://h.example/a"},
		{"https://u@h.example/a", "https://h.example/a"}, {"//h.example/a", "https://h.example/a"}, {"/a", "https://h.example/a"}, {"", "https://h.example/a"},
		{"https:h.example/a", "https://h.example/a"}, {"ftp://h.example/a", "ftp://h.example/a"}, {"https://h.example:444/a", "https://h.example/a"}, {"https://h.example/b/../a", "https://h.example/a"},
		{"https://h.example/%zz", "https://h.example/%zz"}, {"https://h.example\n/a", "https://h.example/a"}, {"https://h.example/a", "https://h.example/a?b"},
	} {
		if err := check(other[0], other[1]); err == nil {
			t.Errorf("%q is taken for %q", other[0], other[1])
		}
	}
}

// TestConfirmation: cnf is written in every profile, read again, and nothing
// else in its place is accepted.
func TestConfirmation(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	k, err := signer.GenerateKey("")
	if err != nil {
		t.Fatal(err)
	}
	ring := signer.NewRing(k)
	for _, profile := range signer.Profiles() {
		for _, jkt := range []string{"", rfcThumbprint} {
			jwt, err := signer.Mint(k, profile, signer.Claims{
				Issuer: "i", App: "a", Subject: "u", SessionID: "s", IssuedAt: now, Expires: now.Add(time.Minute), Thumbprint: jkt,
				SessionStarted: now, SessionLastAccessed: now, SessionExpires: now.Add(time.Hour), AuthTime: now,
			})
			if err != nil {
				t.Fatalf("%s: %v", profile, err)
			}
			v, err := ring.Verify(jwt, signer.Expect{Issuer: "i", App: "a", Now: now})
			if err != nil || v.Thumbprint != jkt {
				t.Errorf("%s: %q, %v, want %q", profile, v.Thumbprint, err, jkt)
			}
			if has := strings.Contains(string(v.Claims()), `"cnf":{"jkt":"`+rfcThumbprint+`"}`); has != (jkt != "") {
				t.Errorf("%s: %s", profile, v.Claims())
			}
		}
		// What cannot be a thumbprint is not minted: it would pass for a bearer token.
		if _, err := signer.Mint(k, profile, signer.Claims{
			Issuer: "i", App: "a", Subject: "u", SessionID: "s", IssuedAt: now, Expires: now.Add(time.Minute), Thumbprint: "x",
			SessionStarted: now, SessionLastAccessed: now, SessionExpires: now.Add(time.Hour),
		}); !errors.Is(err, signer.ErrBadClaims) {
			t.Errorf("%s: a thumbprint that is none: %v", profile, err)
		}
	}
	for text, want := range map[string]bool{rfcThumbprint: true, "": false, rfcThumbprint[:42]: false, rfcThumbprint + "A": false, rfcThumbprint + "=": false,
		rfcThumbprint[:42] + "J": false, rfcThumbprint[:42] + "\n": false, "0ZcOCORZNYy+DWpqq30jZyJGHTN0d2HglBV3uiguA4I": false} {
		if signer.ValidThumbprint(text) != want {
			t.Errorf("ValidThumbprint(%q) is not %v", text, want)
		}
	}
}
