package signer_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/revocast/revocast/signer"
)

const statement = `{"iss":"https://sessions.example","aud":"client","iat":1795608000,"jti":"j","events":{"urn:x":{}}}`

func TestSignTyped(t *testing.T) {
	for _, alg := range algs {
		k := keyFor(alg)
		token, err := signer.SignTyped(k, "secevent+jwt", json.RawMessage(strings.ReplaceAll(statement, ",", ",\n ")), now)
		if err != nil {
			t.Fatalf("%s: %v", alg, err)
		}
		if got := body(t, token); got != statement {
			t.Errorf("%s: claims %s", alg, got)
		}
		parsed, err := jwt.NewParser(jwt.WithValidMethods([]string{string(alg)})).Parse(token, func(j *jwt.Token) (any, error) { return k.Public, nil })
		if err != nil {
			t.Fatalf("%s: another library: %v", alg, err)
		}
		if parsed.Header["typ"] != "secevent+jwt" || parsed.Header["kid"] != k.ID || len(parsed.Header) != 3 {
			t.Errorf("%s: header %v", alg, parsed.Header)
		}
	}
}

// A statement is no JWT of a session and no grant, whatever it says.
func TestStatementAuthenticatesNothing(t *testing.T) {
	k := keyFor(signer.ES256)
	says := json.RawMessage(body(t, mint(t, k, signer.Native, claims())))
	token, err := signer.SignTyped(k, "logout+jwt", says, now)
	if err != nil {
		t.Fatal(err)
	}
	ring := signer.NewRing(k)
	if _, err := ring.Verify(token, expect()); reason(t, err) != signer.ErrWrongType {
		t.Errorf("taken for a session: %v", err)
	}
	if _, err := ring.VerifyGrant(token, "impersonation+jwt", expect()); reason(t, err) != signer.ErrWrongType {
		t.Errorf("taken for a grant: %v", err)
	}
}

func TestSignTypedRefuses(t *testing.T) {
	for _, typ := range []string{"", "at+jwt", "JWT", "jwt", "a\"b", "logout jwt", "LOGOUT+JWT"} {
		if _, err := signer.SignTyped(keyFor(signer.ES256), typ, json.RawMessage(statement), now); err == nil {
			t.Errorf("typ %q was taken", typ)
		}
	}
	for _, bad := range []string{"", "null", "[]", `"text"`, "{", `{"a":1,"a":2}`, `{"a":{"b":1,"b":2}}`, "{\"a\":\"\xff\"}", `{}{}`} {
		if _, err := signer.SignTyped(keyFor(signer.ES256), "logout+jwt", json.RawMessage(bad), now); !errors.Is(err, signer.ErrBadClaims) {
			t.Errorf("claims %q: %v", bad, err)
		}
	}
	long := json.RawMessage(`{"a":"` + strings.Repeat("x", signer.MaxJWT) + `"}`)
	if _, err := signer.SignTyped(keyFor(signer.ES256), "logout+jwt", long, now); !errors.Is(err, signer.ErrTooLarge) {
		t.Errorf("a long one: %v", err)
	}
	retired, compromised, public := keyFor(signer.ES256), keyFor(signer.ES256), keyFor(signer.ES256)
	retired.RetiredAt, compromised.Compromised, public.Signer = now.Add(-time.Minute), true, nil
	for name, k := range map[string]*signer.Key{"none": nil, "retired": retired, "compromised": compromised, "public": public} {
		if _, err := signer.SignTyped(k, "logout+jwt", json.RawMessage(statement), now); !errors.Is(err, signer.ErrNoKey) {
			t.Errorf("key %s: %v", name, err)
		}
	}
}
