package signer_test

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/revocast/revocast/signer"
)

const (
	issuer = "https://sessions.example"
	app    = "shop"
	sid    = "AgEBAQEBAQEBAQEBAQEBAQ"
	user   = "user-1@example.com"
)

var now = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

var algs = []signer.Alg{signer.ES256, signer.RS256, signer.EdDSA}

var b64 = base64.RawURLEncoding

// keys are made once: an RSA key takes a while.
var keys = sync.OnceValue(func() map[signer.Alg]*signer.Key {
	all := map[signer.Alg]*signer.Key{}
	for _, a := range algs {
		k, err := signer.GenerateKey(a)
		if err != nil {
			panic(err)
		}
		k.CreatedAt, k.ActiveAt = now.Add(-24*time.Hour), now.Add(-23*time.Hour)
		all[a] = k
	}
	return all
})

// keyFor returns a copy that a test may change.
func keyFor(a signer.Alg) *signer.Key {
	k := *keys()[a]
	return &k
}

func fresh(t testing.TB, a signer.Alg) *signer.Key {
	t.Helper()
	k, err := signer.GenerateKey(a)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func claims() signer.Claims {
	return signer.Claims{
		Issuer: issuer, App: app, Subject: user, SessionID: sid,
		IssuedAt: now, Expires: now.Add(5 * time.Minute),
		SessionStarted: now.Add(-time.Hour), SessionLastAccessed: now, SessionExpires: now.Add(7 * 24 * time.Hour),
		AuthTime: now.Add(-time.Hour), AMR: []string{"pwd", "otp"}, ACR: "aal2",
		Attributes: signer.Attributes{IPAddress: "192.0.2.1", UserAgent: "curl/8"},
		Factors:    json.RawMessage(`[{"type":"otp","delivery_method":"email","email_factor":{"email_id":"e1","email_address":"a@example.com"}}]`),
		Custom:     json.RawMessage(`{"plan":"pro","limits":{"seats":5}}`),
	}
}

func expect() signer.Expect { return signer.Expect{Issuer: issuer, App: app, Now: now} }

func mint(t testing.TB, k *signer.Key, p signer.Profile, c signer.Claims) string {
	t.Helper()
	token, err := signer.Mint(k, p, c)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// header is the header Mint writes for a native JWT.
func header(k *signer.Key) string {
	return `{"alg":"` + string(k.Alg) + `","kid":"` + k.ID + `","typ":"at+jwt"}`
}

// sign makes a JWT of any two segments with a real signature of k: what an
// honest key could be brought to sign, so that only our own rules can refuse it.
func sign(t testing.TB, k *signer.Key, head, body string) string {
	t.Helper()
	input := b64.EncodeToString([]byte(head)) + "." + b64.EncodeToString([]byte(body))
	return input + "." + b64.EncodeToString(signature(t, k, input))
}

func signature(t testing.TB, k *signer.Key, input string) []byte {
	t.Helper()
	var m jwt.SigningMethod
	switch k.Signer.(type) {
	case *ecdsa.PrivateKey:
		m = jwt.SigningMethodES256
	case *rsa.PrivateKey:
		m = jwt.SigningMethodRS256
	case ed25519.PrivateKey:
		m = jwt.SigningMethodEdDSA
	}
	sig, err := m.Sign(input, k.Signer)
	if err != nil {
		t.Fatal(err)
	}
	return sig
}

// body returns the decoded claims of a JWT.
func body(t testing.TB, token string) string {
	t.Helper()
	raw, err := b64.DecodeString(strings.Split(token, ".")[1])
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// reason returns the reason of a refusal; an error without one fails the test.
func reason(t testing.TB, err error) signer.Reason {
	t.Helper()
	if err == nil {
		return ""
	}
	r, ok := errors.AsType[signer.Reason](err)
	if !ok {
		t.Fatalf("error %v has no reason", err)
	}
	return r
}

// sortedKeys joins the keys of a map.
func sortedKeys[V any](m map[string]V) string {
	return strings.Join(slices.Sorted(maps.Keys(m)), " ")
}
