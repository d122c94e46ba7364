package wycheproof

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/c2sp/wycheproof"
	"github.com/revocast/revocast/signer"
)

// file is what the files of vectors have in common.
type file struct {
	NumberOfTests int     `json:"numberOfTests"`
	TestGroups    []group `json:"testGroups"`
}

type group struct {
	Comment string          `json:"comment"`
	Public  json.RawMessage `json:"public"`
	Private json.RawMessage `json:"private"`
	// Of signatures: the key, as JWK where the file has one.
	PublicKeyJWK json.RawMessage `json:"publicKeyJwk"`
	KeyJWK       json.RawMessage `json:"keyJwk"`
	PublicKeyDER string          `json:"publicKeyDer"`
	Tests        []vector        `json:"tests"`
}

// jwk is the key or key set that the tests are about.
func (g group) jwk() json.RawMessage {
	if g.Public != nil {
		return g.Public
	}
	return g.Private
}

type vector struct {
	ID      int             `json:"tcId"`
	Comment string          `json:"comment"`
	Result  string          `json:"result"` // valid, invalid, acceptable
	JWS     json.RawMessage `json:"jws"`
	Msg     string          `json:"msg"`
	Sig     string          `json:"sig"`
}

// token is the JWS as it would arrive: some vectors are objects.
func (v vector) token() string {
	var s string
	if json.Unmarshal(v.JWS, &s) != nil {
		return string(v.JWS)
	}
	return s
}

func load(t *testing.T, name string) file {
	t.Helper()
	data, err := fs.ReadFile(wycheproof.TestVectors, name)
	if err != nil {
		t.Fatal(err)
	}
	var f file
	if err := json.Unmarshal(data, &f); err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, g := range f.TestGroups {
		n += len(g.Tests)
	}
	if n == 0 || n != f.NumberOfTests {
		t.Fatalf("%s: %d tests, it says %d", name, n, f.NumberOfTests)
	}
	return f
}

// public returns a JWK without its private members: the files have whole keys.
func public(t *testing.T, jwk json.RawMessage) []byte {
	t.Helper()
	var m map[string]json.RawMessage
	if err := json.Unmarshal(jwk, &m); err != nil {
		t.Fatal(err)
	}
	if string(m["kty"]) != `"oct"` {
		for _, name := range []string{"d", "p", "q", "dp", "dq", "qi", "oth"} {
			delete(m, name)
		}
	}
	out, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// bare says why a JWS is refused by all rules of the parser that do not speak of
// a session: form, header, alg of the key, signature. "" means it is accepted.
// Ring.Verify has the same steps in the same order, but between them asks for our
// kid and typ, which no vector has.
func bare(k *signer.Key, jws string) string {
	parts := strings.Split(jws, ".")
	if len(parts) != 3 || strings.ContainsAny(jws, "\r\n") {
		return "not three segments"
	}
	var raw [3][]byte
	for i, p := range parts {
		var err error
		if raw[i], err = base64.RawURLEncoding.Strict().DecodeString(p); err != nil || p == "" {
			return "not base64url, or empty"
		}
	}
	var head map[string]any
	if json.Unmarshal(raw[0], &head) != nil {
		return "header is not an object"
	}
	for name := range head {
		if name != "alg" && name != "kid" && name != "typ" {
			return "header has " + name
		}
	}
	if head["alg"] != string(k.Alg) {
		return fmt.Sprintf("alg %v with a key of %s", head["alg"], k.Alg)
	}
	if k.CheckSignature(parts[0]+"."+parts[1], raw[2]) != nil {
		return "signature"
	}
	return ""
}

// asIssuers says how the parser of other issuers' JWTs, which takes any kid and no
// typ, judges the JWS with the key set; "" means that it can use none of the keys.
// No vector has claims, so past the signature it is malformed.
func asIssuers(t *testing.T, jwks []json.RawMessage, jws string) signer.Reason {
	t.Helper()
	for i := range jwks {
		jwks[i] = public(t, jwks[i])
	}
	set, err := json.Marshal(map[string]any{"keys": jwks})
	if err != nil {
		t.Fatal(err)
	}
	keys, err := signer.ParseForeignKeys(set)
	if err != nil {
		return ""
	}
	_, err = keys.Verify(jws, signer.ForeignExpect{Issuer: "joe", Audience: "app", Now: time.Unix(1300819370, 0)})
	r, ok := errors.AsType[signer.Reason](err)
	if !ok {
		t.Errorf("a JWS without claims is accepted, or refused without a reason: %v", err)
	}
	return r
}

// strict is everything at once, as a node asks it, as lenient as it can be asked.
func strict(ring *signer.Ring, jws string) error {
	_, err := ring.Verify(jws, signer.Expect{Issuer: "joe", App: "app", Now: time.Unix(1300819370, 0), AllowExpired: true, AllowEarly: true})
	return err
}

// notOffered is why keys of valid vectors are refused, by kty and alg.
var notOffered = map[string]string{
	"oct HS256": "whoever can check a shared secret can sign with it",
	"oct HS384": "whoever can check a shared secret can sign with it",
	"oct HS512": "whoever can check a shared secret can sign with it",
	"RSA PS256": "RSA-PSS is not offered: several libraries take any salt length",
	"RSA PS384": "RSA-PSS is not offered: several libraries take any salt length",
	"RSA PS512": "RSA-PSS is not offered: several libraries take any salt length",
	"RSA RS384": "one algorithm per kind of key: RS256",
	"RSA RS512": "one algorithm per kind of key: RS256",
	"EC ES521":  "no such algorithm in RFC 7518; P-521 (ES512) is not offered",
}

// emptyPayload is the vector of an RS256 signature over no payload: valid as a
// JWS, refused because nothing is no claims.
const emptyPayload = 259

func TestJWS(t *testing.T) {
	refused := map[string]int{} // valid vectors, by kty and alg of the key
	reasons := map[signer.Reason]int{}
	accepted := 0
	for _, g := range load(t, "json_web_signature_test.json").TestGroups {
		jwk := g.jwk()
		var kind struct{ Kty, Alg string }
		if err := json.Unmarshal(jwk, &kind); err != nil {
			t.Fatal(err)
		}
		key, errKey := signer.ParsePublic(public(t, jwk))
		for _, v := range g.Tests {
			err := strict(signer.NewRing(key), v.token())
			if err == nil {
				t.Errorf("%d %s: a JWS without session, kid and typ passes as a session's JWT", v.ID, v.Comment)
				continue
			}
			for _, r := range []signer.Reason{signer.ErrMalformed, signer.ErrUnknownKey, signer.ErrWrongType, signer.ErrBadSignature} {
				if strings.HasPrefix(err.Error(), r.Error()) {
					reasons[r]++
				}
			}
			why := "key"
			if errKey == nil {
				why = bare(key, v.token())
			}
			issuers := asIssuers(t, []json.RawMessage{jwk}, v.token())
			if (why == "" && issuers != signer.ErrMalformed) || (why == "signature" && issuers != signer.ErrBadSignature && issuers != signer.ErrUnknownKey) || (why == "key" && issuers != "") {
				t.Errorf("%d %s: as a JWT of another issuer: %q, here %q", v.ID, v.Comment, issuers, why)
			}
			switch name := kind.Kty + " " + kind.Alg; {
			case v.Result == "valid" && why == "":
				accepted++
			case v.ID == emptyPayload && why == "not base64url, or empty":
				t.Logf("valid but refused:  1 %s: no payload, so no claims", name)
			case v.Result == "valid":
				if notOffered[name] == "" || why != "key" {
					t.Errorf("%d %s, valid, %s: refused because of its %s", v.ID, v.Comment, name, why)
				}
				refused[name]++
			case why == "":
				t.Errorf("%d %s, invalid: accepted", v.ID, v.Comment)
			}
		}
	}
	if accepted != 9 { // 2 ES256, 7 RS256
		t.Errorf("%d valid vectors accepted, want 9", accepted)
	}
	t.Logf("%d valid vectors accepted below the rules for sessions; as a session's JWT all are refused: %v", accepted, reasons)
	for _, name := range slices.Sorted(maps.Keys(refused)) {
		t.Logf("valid but refused: %2d %s: %s", refused[name], name, notOffered[name])
	}
}

// TestJWK: what may stand in a key set.
func TestJWK(t *testing.T) {
	for _, g := range load(t, "json_web_key_test.json").TestGroups {
		var set struct{ Keys []json.RawMessage }
		if err := json.Unmarshal(g.jwk(), &set); err != nil {
			t.Fatal(err)
		}
		ring := signer.NewRing()
		for _, jwk := range set.Keys {
			if k, err := signer.ParsePublic(public(t, jwk)); err == nil {
				ring = ring.With(k)
			} else {
				t.Logf("%s: key refused: %v", g.Comment, err)
			}
		}
		for _, v := range g.Tests {
			if strict(ring, v.token()) == nil {
				t.Errorf("%d %s: accepted as a session's JWT", v.ID, v.Comment)
			}
			if asIssuers(t, set.Keys, v.token()) == signer.ErrMalformed && v.Result != "valid" && v.Comment != "rejectsKeyWithRocaVulnerability" {
				t.Errorf("%d %s, invalid: signature accepted as another issuer's", v.ID, v.Comment)
			}
			took := slices.ContainsFunc(ring.Keys(), func(k *signer.Key) bool { return bare(k, v.token()) == "" })
			switch {
			case v.Comment == "rejectsKeyWithRocaVulnerability":
				// A key like any other, made by a chip with a bad generator. Ours come
				// from crypto/rsa; those of others from an issuer that an operator chose.
				if !took {
					t.Error("keys of that chip are recognised by now: say so")
				}
			case took && v.Result != "valid":
				t.Errorf("%d %s, invalid: accepted", v.ID, v.Comment)
			case !took && v.Result == "valid" && len(ring.Keys()) > 0:
				t.Errorf("%d %s, valid: refused", v.ID, v.Comment)
			}
		}
	}
}

// TestSignatures: the signatures themselves, over any bytes.
func TestSignatures(t *testing.T) {
	for name, alg := range map[string]signer.Alg{
		"ecdsa_secp256r1_sha256_p1363_test.json": signer.ES256,
		"ed25519_test.json":                      signer.EdDSA,
		"rsa_signature_2048_sha256_test.json":    signer.RS256,
		"rsa_signature_3072_sha256_test.json":    signer.RS256,
		"rsa_signature_4096_sha256_test.json":    signer.RS256,
		"rsa_signature_8192_sha256_test.json":    signer.RS256,
	} {
		valid, invalid := 0, 0
		for _, g := range load(t, name).TestGroups {
			k := keyOf(t, alg, g)
			for _, v := range g.Tests {
				msg, errMsg := hex.DecodeString(v.Msg)
				sig, errSig := hex.DecodeString(v.Sig)
				if errMsg != nil || errSig != nil {
					t.Fatal(name, v.ID, errMsg, errSig)
				}
				err := k.CheckSignature(string(msg), sig)
				want := v.Result == "valid" && name != "rsa_signature_8192_sha256_test.json" // 4096 bits are the most
				if (err == nil) != want {
					t.Errorf("%s %d %s, %s: %v", name, v.ID, v.Comment, v.Result, err)
				}
				if want {
					valid++
				} else {
					invalid++
				}
			}
		}
		t.Logf("%s: %d accepted, %d refused", name, valid, invalid)
	}
}

func keyOf(t *testing.T, alg signer.Alg, g group) *signer.Key {
	t.Helper()
	der, err := hex.DecodeString(g.PublicKeyDER)
	if err != nil {
		t.Fatal(err)
	}
	pub, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		t.Fatal(err)
	}
	k := &signer.Key{Alg: alg, Public: pub}
	jwk := g.PublicKeyJWK
	if jwk == nil {
		jwk = g.KeyJWK
	}
	if jwk == nil {
		return k
	}
	// The two ways to write the key are the same key, where it is one of ours.
	parsed, err := signer.ParsePublic(public(t, jwk))
	if r, ok := pub.(*rsa.PublicKey); ok && r.N.BitLen() > 4096 {
		if err == nil {
			t.Errorf("a key of %d bits is accepted", r.N.BitLen())
		}
		return k
	}
	if err != nil {
		t.Fatalf("%s: %v", bytes.TrimSpace(jwk), err)
	}
	same := false
	switch p := pub.(type) {
	case *ecdsa.PublicKey:
		same = p.Equal(parsed.Public)
	case ed25519.PublicKey:
		same = p.Equal(parsed.Public)
	case *rsa.PublicKey:
		same = p.Equal(parsed.Public)
	}
	if !same {
		t.Fatalf("JWK and DER are different keys: %s", jwk)
	}
	return parsed
}
