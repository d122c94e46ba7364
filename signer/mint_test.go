package signer_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/revocast/revocast/signer"
)

const nativeClaims = `{"iss":"https://sessions.example","sub":"user-1@example.com","aud":["shop"],` +
	`"iat":1795348800,"nbf":1795348790,"exp":1795349100,"client_id":"shop","jti":"j1","sid":"AgEBAQEBAQEBAQEBAQEBAQ",` +
	`"auth_time":1795345200,"amr":["pwd","otp"],"acr":"aal2","sxp":1795953600,"plan":"pro","limits":{"seats":5}}`

const stytchClaims = `{"iss":"https://sessions.example","sub":"user-1@example.com","aud":["shop"],` +
	`"iat":1795348800,"nbf":1795348790,"exp":1795349100,"https://stytch.com/session":{"id":"AgEBAQEBAQEBAQEBAQEBAQ",` +
	`"started_at":"2026-11-22T11:00:00Z","last_accessed_at":"2026-11-22T12:00:00Z","expires_at":"2026-11-29T12:00:00Z",` +
	`"attributes":{"ip_address":"192.0.2.1","user_agent":"curl/8"},"authentication_factors":[{"type":"otp",` +
	`"delivery_method":"email","email_factor":{"email_id":"e1","email_address":"a@example.com"}}],"roles":[]},` +
	`"plan":"pro","limits":{"seats":5}}`

// TestProfiles compares header and claims byte by byte.
func TestProfiles(t *testing.T) {
	for _, a := range algs {
		for p, want := range map[signer.Profile]struct{ typ, body string }{
			signer.Native: {"at+jwt", nativeClaims}, signer.Stytch: {"JWT", stytchClaims},
		} {
			k, c := keyFor(a), claims()
			c.JWTID = "j1"
			token := mint(t, k, p, c)
			if diff := cmp.Diff(want.body, body(t, token)); diff != "" {
				t.Errorf("%s %s claims (-want +got):\n%s", a, p, diff)
			}
			head, _ := b64.DecodeString(strings.Split(token, ".")[0])
			if diff := cmp.Diff(`{"alg":"`+string(a)+`","kid":"`+k.ID+`","typ":"`+want.typ+`"}`, string(head)); diff != "" {
				t.Errorf("%s %s header (-want +got):\n%s", a, p, diff)
			}
		}
	}
}

func TestRoundTrip(t *testing.T) {
	for _, a := range algs {
		for _, p := range signer.Profiles() {
			k, c := keyFor(a), claims()
			c.JWTID = "j1"
			got, err := signer.NewRing(k).Verify(mint(t, k, p, c), expect())
			if err != nil {
				t.Errorf("%s %s: %v", a, p, err)
				continue
			}
			want := signer.Verified{
				KeyID: k.ID, Profile: p, SessionID: sid, Subject: user, App: app, Issuer: issuer, JWTID: "j1",
				IssuedAt: now, NotBefore: now.Add(-10 * time.Second), Expires: now.Add(5 * time.Minute),
			}
			if p != signer.Native {
				want.JWTID = ""
			}
			if diff := cmp.Diff(want, got, cmpopts.IgnoreUnexported(signer.Verified{})); diff != "" {
				t.Errorf("%s %s (-want +got):\n%s", a, p, diff)
			}
			if diff := cmp.Diff(`{"plan":"pro","limits":{"seats":5}}`, string(got.Custom())); diff != "" {
				t.Errorf("%s %s custom (-want +got):\n%s", a, p, diff)
			}
		}
	}
	var zero signer.Verified
	if zero.Claims() != nil || string(zero.Custom()) != "{}" {
		t.Error("the zero Verified has claims")
	}
}

// TestVerifiesFromJWKS checks JWTs with the standard library alone, from the
// JSON of the JWKS, as somebody else's verifier would.
func TestVerifiesFromJWKS(t *testing.T) {
	ring := signer.NewRing(keyFor(signer.ES256), keyFor(signer.RS256), keyFor(signer.EdDSA))
	raw, err := json.Marshal(ring.JWKS(now))
	if err != nil {
		t.Fatal(err)
	}
	var set struct{ Keys []map[string]string }
	if err := json.Unmarshal(raw, &set); err != nil {
		t.Fatal(err)
	}
	members := map[string]string{"ES256": "alg crv kid kty use x y", "RS256": "alg e kid kty n use", "EdDSA": "alg crv kid kty use x"}
	num := func(s string) *big.Int { b, _ := b64.DecodeString(s); return new(big.Int).SetBytes(b) }
	for _, j := range set.Keys {
		alg := j["alg"]
		if got := sortedKeys(j); got != members[alg] || j["use"] != "sig" {
			t.Errorf("%s has members %q, want %q", alg, got, members[alg])
		}
		token := mint(t, keyFor(signer.Alg(alg)), signer.Native, claims())
		input, encoded := token[:strings.LastIndex(token, ".")], token[strings.LastIndex(token, ".")+1:]
		sig, _ := b64.DecodeString(encoded)
		digest := sha256.Sum256([]byte(input))
		ok := false
		switch alg {
		case "ES256":
			x, _ := b64.DecodeString(j["x"])
			y, _ := b64.DecodeString(j["y"])
			pub, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), slices.Concat([]byte{4}, x, y))
			ok = err == nil && len(sig) == 64 &&
				ecdsa.Verify(pub, digest[:], new(big.Int).SetBytes(sig[:32]), new(big.Int).SetBytes(sig[32:]))
		case "RS256":
			pub := &rsa.PublicKey{N: num(j["n"]), E: int(num(j["e"]).Int64())}
			ok = rsa.VerifyPKCS1v15(pub, crypto.SHA256, digest[:], sig) == nil
		case "EdDSA":
			x, _ := b64.DecodeString(j["x"])
			ok = ed25519.Verify(x, []byte(input), sig)
		}
		if !ok {
			t.Errorf("%s does not verify from the JWKS", alg)
		}
	}
	if len(set.Keys) != 3 {
		t.Errorf("%d keys listed", len(set.Keys))
	}
	if raw, err := json.Marshal(signer.JWKS{}); string(raw) != `{"keys":[]}` || err != nil {
		t.Errorf("empty JWKS is %s, %v", raw, err)
	}
}

func TestMintOptionalClaims(t *testing.T) {
	k, c := keyFor(signer.ES256), claims()
	c.Audience, c.ClientID, c.AuthorizedParty = "https://other.example", "web", "https://shop.example"
	c.Revision, c.OrgID, c.OrgSlug, c.Roles = "eu:1:7", "org1", "acme", []string{"admin"}
	c.Actor = json.RawMessage(` { "sub" : "support-1" } `)
	c.NotBefore = now.Add(time.Second)
	c.Custom = json.RawMessage(`{"roles":["root"],"x":1}`)
	token := mint(t, k, signer.Native, c)
	var got map[string]any
	if err := json.Unmarshal([]byte(body(t, token)), &got); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]any{
		"aud": []any{"https://other.example"}, "client_id": "web", "azp": "https://shop.example", "rev": "eu:1:7",
		"org_id": "org1", "roles": []any{"admin"}, "act": map[string]any{"sub": "support-1"},
		"nbf": float64(now.Unix() + 1), "x": float64(1),
	} {
		if diff := cmp.Diff(want, got[name]); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	if strings.Contains(token, " ") || strings.Count(body(t, token), `"roles"`) != 1 {
		t.Errorf("claims %s", body(t, token))
	}
	e := expect()
	e.Now = now.Add(2 * time.Second)
	if _, err := signer.NewRing(k).Verify(token, e); !errors.Is(err, signer.ErrWrongAudience) {
		t.Errorf("a JWT for another system: %v", err)
	}
	c.Roles = nil
	if !strings.Contains(body(t, mint(t, k, signer.Native, c)), `"roles":["root"]`) {
		t.Error("a custom claim roles is lost although the session has none")
	}
	stytch := body(t, mint(t, k, signer.Stytch, c))
	if !strings.Contains(stytch, `"https://stytch.com/organization":{"organization_id":"org1","slug":"acme"}`) {
		t.Errorf("organization missing: %s", stytch)
	}
}

// TestStytchTopLevel: every member that is not standard or Stytch's own shows up
// as a custom claim in Stytch's libraries.
func TestStytchTopLevel(t *testing.T) {
	c := claims()
	c.Roles, c.ACR, c.Revision, c.AuthorizedParty, c.Custom = []string{"a"}, "x", "r", "o", nil
	var got map[string]any
	if err := json.Unmarshal([]byte(body(t, mint(t, keyFor(signer.ES256), signer.Stytch, c))), &got); err != nil {
		t.Fatal(err)
	}
	if keys := sortedKeys(got); keys != "aud exp https://stytch.com/session iat iss nbf sub" {
		t.Errorf("members %s", keys)
	}
}

func TestReservedClaims(t *testing.T) {
	k := keyFor(signer.ES256)
	for _, name := range []string{"iss", "sub", "aud", "exp", "nbf", "iat", "jti", "sid", "client_id", "auth_time", "amr", "acr",
		"sxp", "rev", "act", "cnf", "status", "azp", "org_id", "events", "sub_id", "v", "sts", "fva", "o", "fea", "pla", "https://stytch.com/session", "https://streambird.io/jwt/session"} {
		if !signer.IsReservedClaim(name) {
			t.Errorf("%s is not reserved", name)
		}
		custom, _ := json.Marshal(map[string]any{name: "stolen", "mine": 1})
		var named *signer.ReservedClaimError
		if err := signer.CheckCustom(custom); !errors.As(err, &named) || named.Name != name {
			t.Errorf("%s: checked as %v", name, err)
		}
		for _, p := range signer.Profiles() {
			c := claims()
			c.Custom = custom
			token := mint(t, k, p, c)
			if b := body(t, token); strings.Contains(b, "stolen") || !strings.Contains(b, `"mine":1`) {
				t.Errorf("%s: %s in %s", p, name, b)
			}
			if v, err := signer.NewRing(k).Verify(token, expect()); err != nil || v.SessionID != sid {
				t.Errorf("%s: %v", p, err)
			}
		}
	}
	// Every name a profile writes, except roles, must be reserved.
	for _, p := range signer.Profiles() {
		c := claims()
		c.Roles, c.OrgID, c.Revision, c.AuthorizedParty, c.Custom = []string{"r"}, "o", "r", "a", nil
		c.Actor = json.RawMessage(`{}`)
		var got map[string]any
		if err := json.Unmarshal([]byte(body(t, mint(t, k, p, c))), &got); err != nil {
			t.Fatal(err)
		}
		for name := range got {
			if name != "roles" && !signer.IsReservedClaim(name) {
				t.Errorf("%s writes %s, which custom claims may use", p, name)
			}
		}
	}
	for _, name := range []string{"Sub", "SUB", "\u017fub", "\u017fID", "Exp", "Rev", "HTTPS://\u017ftytch.com/session", "https://STREAMBIRD.io/x"} {
		if !signer.IsReservedClaim(name) {
			t.Errorf("%q is not reserved, and encoding/json reads it as a reserved name", name)
		}
	}
	for _, name := range []string{"plan", "roles", "scope", "subs", "https://example.com/x", ""} {
		if signer.IsReservedClaim(name) {
			t.Errorf("%q is reserved", name)
		}
	}
}

func TestCheckCustom(t *testing.T) {
	for in, ok := range map[string]bool{
		`{}`: true, `{"a":1}`: true, `{"a":[[[[[[1]]]]]]}`: true, `{"é":"\u00e9 < & >"}`: true,
		``: false, `null`: false, `[]`: false, `{"a":1}x`: false, `{"a":1,"a":2}`: false, `{"a":{"b":1,"\u0062":2}}`: false,
		`{"a":[[[[[[[1]]]]]]]}`: true, `{"a":[[[[[[[[1]]]]]]]]}`: false, "{\"a\":\"\xff\"}": false, `{"":1}`: false, `{"s\u0069d":1}`: false,
	} {
		c := claims()
		c.Custom = json.RawMessage(in)
		if err := signer.CheckCustom(c.Custom); (err == nil) != ok {
			t.Errorf("CheckCustom(%q) = %v", in, err)
		}
		if !ok {
			continue
		}
		token := mint(t, keyFor(signer.ES256), signer.Native, c)
		if _, err := signer.NewRing(keyFor(signer.ES256)).Verify(token, expect()); err != nil {
			t.Errorf("%s passed the check, was minted and then refused: %v", in, err)
		}
	}
}

func TestMintRefuses(t *testing.T) {
	for name, change := range map[string]func(*signer.Claims){
		"no issuer":          func(c *signer.Claims) { c.Issuer = "" },
		"no app":             func(c *signer.Claims) { c.App = "" },
		"no subject":         func(c *signer.Claims) { c.Subject = "" },
		"no session":         func(c *signer.Claims) { c.SessionID = "" },
		"no expiry":          func(c *signer.Claims) { c.Expires = time.Time{} },
		"expires at once":    func(c *signer.Claims) { c.Expires = c.IssuedAt },
		"never valid":        func(c *signer.Claims) { c.NotBefore = c.Expires },
		"far expiry":         func(c *signer.Claims) { c.Expires = time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC) },
		"subject not UTF-8":  func(c *signer.Claims) { c.Subject = "a\xff" },
		"custom not UTF-8":   func(c *signer.Claims) { c.Custom = json.RawMessage("{\"a\":\"\xff\"}") },
		"custom not JSON":    func(c *signer.Claims) { c.Custom = json.RawMessage(`{`) },
		"custom not object":  func(c *signer.Claims) { c.Custom = json.RawMessage(`[1]`) },
		"custom twice":       func(c *signer.Claims) { c.Custom = json.RawMessage(`{"a":1,"a":2}`) },
		"custom too deep":    func(c *signer.Claims) { c.Custom = json.RawMessage(`{"a":[[[[[[[[1]]]]]]]]}`) },
		"factors not array":  func(c *signer.Claims) { c.Factors = json.RawMessage(`{}`) },
		"factors not JSON":   func(c *signer.Claims) { c.Factors = json.RawMessage(`[`) },
		"actor not object":   func(c *signer.Claims) { c.Actor = json.RawMessage(`"x"`) },
		"actor with a twice": func(c *signer.Claims) { c.Actor = json.RawMessage(`{"a":1,"a":1}`) },
		"no session times":   func(c *signer.Claims) { c.SessionLastAccessed = time.Time{} },
	} {
		p := signer.Native
		if strings.HasPrefix(name, "factors") || name == "no session times" {
			p = signer.Stytch
		}
		c := claims()
		change(&c)
		if token, err := signer.Mint(keyFor(signer.ES256), p, c); !errors.Is(err, signer.ErrBadClaims) {
			t.Errorf("%s: %q, %v", name, token, err)
		}
	}
	c := claims()
	c.IssuedAt = time.Time{}
	for name, k := range map[string]*signer.Key{"none": nil, "zero": {}, "before it is active": keyFor(signer.ES256)} {
		if _, err := signer.Mint(k, signer.Native, c); !errors.Is(err, signer.ErrNoKey) {
			t.Errorf("key %s: %v", name, err)
		}
	}
	if _, err := signer.Mint(keyFor(signer.ES256), "unknown", claims()); err == nil {
		t.Error("minted an unknown profile")
	}
	for in, want := range map[string]signer.Profile{"": signer.Native, "native": signer.Native, "stytch": signer.Stytch} {
		if p, err := signer.ParseProfile(in); p != want || err != nil {
			t.Errorf("ParseProfile(%q) = %s, %v", in, p, err)
		}
	}
	if _, err := signer.ParseProfile("Native"); err == nil {
		t.Error("parsed profile Native")
	}
}

// TestMintStrings: any valid user id comes back verbatim, and nothing in a
// string can break out of it.
func TestMintStrings(t *testing.T) {
	k := keyFor(signer.EdDSA)
	for _, s := range []string{"a.b", "*", ">", " ", "$SYS", "../x", `"`, `\`, `","sub":"admin`, "<&>", "\x00\x01\x1f\x7f",
		"\n\r\t", "\u2028", "emoji 🙂", "e\u0301 é", strings.Repeat("x", 256), "\ufffd"} {
		for _, p := range signer.Profiles() {
			c := claims()
			c.Subject, c.SessionID, c.Attributes.UserAgent = s, s, s
			v, err := signer.NewRing(k).Verify(mint(t, k, p, c), expect())
			if err != nil || v.Subject != s || v.SessionID != s {
				t.Errorf("%s %q: %q, %q, %v", p, s, v.Subject, v.SessionID, err)
			}
			if !json.Valid(v.Claims()) {
				t.Errorf("%q: claims are not JSON", s)
			}
		}
	}
}

func TestMintSize(t *testing.T) {
	k, c := keyFor(signer.ES256), claims()
	c.Custom = json.RawMessage(`{"big":"` + strings.Repeat("x", 4000) + `"}`)
	token := mint(t, k, signer.Stytch, c)
	if len(token) <= signer.CookieLimit {
		t.Fatalf("%d bytes", len(token))
	}
	if _, err := signer.NewRing(k).Verify(token, expect()); err != nil {
		t.Error(err)
	}
	c.Custom = json.RawMessage(`{"big":"` + strings.Repeat("x", 6000) + `"}`)
	if token, err := signer.Mint(k, signer.Stytch, c); !errors.Is(err, signer.ErrTooLarge) {
		t.Errorf("%d bytes: %v", len(token), err)
	}
}

func TestJWTIDs(t *testing.T) {
	k, seen := keyFor(signer.EdDSA), map[string]bool{}
	ring := signer.NewRing(k)
	for range 2000 {
		v, err := ring.Verify(mint(t, k, signer.Native, claims()), expect())
		if err != nil || seen[v.JWTID] {
			t.Fatalf("jti %q again, or %v", v.JWTID, err)
		}
		if raw, err := b64.DecodeString(v.JWTID); err != nil || len(raw) != 16 {
			t.Fatalf("jti %q is not 128 bits", v.JWTID)
		}
		seen[v.JWTID] = true
	}
}
