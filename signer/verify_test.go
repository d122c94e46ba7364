package signer_test

import (
	"crypto/ecdsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/revocast/revocast/signer"
)

// TestExpectations: rules J7 to J9 and J11 from the caller's side, for a JWT
// that is in perfect order.
func TestExpectations(t *testing.T) {
	at := func(d time.Duration) func(*signer.Expect) { return func(e *signer.Expect) { e.Now = now.Add(d) } }
	for _, tc := range []struct {
		name   string
		change func(*signer.Expect)
		want   signer.Reason
	}{
		{"as minted", func(*signer.Expect) {}, ""},
		{"nothing expected", func(e *signer.Expect) { *e = signer.Expect{} }, signer.ErrWrongIssuer},
		{"no time", func(e *signer.Expect) { e.Now = time.Time{} }, signer.ErrNotYetValid},
		{"other issuer", func(e *signer.Expect) { e.Issuer += "/" }, signer.ErrWrongIssuer},
		{"no issuer", func(e *signer.Expect) { e.Issuer = "" }, signer.ErrWrongIssuer},
		{"other app", func(e *signer.Expect) { e.App = "shop2" }, signer.ErrWrongAudience},
		{"no app", func(e *signer.Expect) { e.App = "" }, signer.ErrWrongAudience},
		{"its type", func(e *signer.Expect) { e.Types = []string{"JWT", "at+jwt"} }, ""},
		{"other type", func(e *signer.Expect) { e.Types = []string{"JWT"} }, signer.ErrWrongType},
		{"type in other case", func(e *signer.Expect) { e.Types = []string{"AT+JWT"} }, signer.ErrWrongType},
		{"life as allowed", func(e *signer.Expect) { e.MaxLife = 300 * time.Second }, ""},
		{"life too long", func(e *signer.Expect) { e.MaxLife = 299 * time.Second }, signer.ErrBadClaims},
		{"at nbf", at(-10 * time.Second), ""},
		{"before nbf", at(-10*time.Second - 1), signer.ErrNotYetValid},
		{"before nbf in the leeway", func(e *signer.Expect) { e.Now, e.Leeway = now.Add(-15*time.Second), 5*time.Second }, ""},
		{"leeway is capped at nbf", func(e *signer.Expect) { e.Now, e.Leeway = now.Add(-16*time.Second), time.Hour }, signer.ErrNotYetValid},
		{"just before exp", at(5*time.Minute - 1), ""},
		{"at exp", at(5 * time.Minute), signer.ErrExpired},
		{"after exp in the leeway", func(e *signer.Expect) { e.Now, e.Leeway = now.Add(5*time.Minute+4*time.Second), 5*time.Second }, ""},
		{"leeway is capped at exp", func(e *signer.Expect) { e.Now, e.Leeway = now.Add(5*time.Minute+5*time.Second), time.Hour }, signer.ErrExpired},
		{"negative leeway", func(e *signer.Expect) { e.Now, e.Leeway = now.Add(5*time.Minute-1), -time.Hour }, ""},
		{"expired but other app", func(e *signer.Expect) { e.Now, e.AllowExpired, e.App = now.Add(time.Hour), true, "x" }, signer.ErrWrongAudience},
		{"long before nbf, allowed", func(e *signer.Expect) { e.Now, e.AllowEarly = now.Add(-24*time.Hour), true }, ""},
		{"the future is allowed, not the past", func(e *signer.Expect) { e.Now, e.AllowEarly = now.Add(time.Hour), true }, signer.ErrExpired},
		{"before nbf, allowed, of another app", func(e *signer.Expect) { e.Now, e.AllowEarly, e.App = now.Add(-time.Hour), true, "x" }, signer.ErrWrongAudience},
		{"expired is allowed, not the future", func(e *signer.Expect) { e.Now, e.AllowExpired = now.Add(-time.Hour), true }, signer.ErrNotYetValid},
	} {
		k := keyFor(signer.ES256)
		token, e := mint(t, k, signer.Native, claims()), expect()
		tc.change(&e)
		ring, cache := signer.NewRing(k), &signer.VerifyCache{}
		_, err := ring.Verify(token, e)
		if got := reason(t, err); got != tc.want {
			t.Errorf("%s: %q, want %q", tc.name, got, tc.want)
		}
		// The same answer from the cache, cold and warm: nothing of e may be held.
		if _, err := cache.Verify(ring, token, expect()); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if _, err := cache.Verify(ring, token, e); reason(t, err) != tc.want {
				t.Errorf("%s: cached: %v, want %q", tc.name, err, tc.want)
			}
		}
	}
}

func TestAllowExpired(t *testing.T) {
	k := keyFor(signer.ES256)
	token, e := mint(t, k, signer.Native, claims()), expect()
	e.AllowExpired = true
	if v, err := signer.NewRing(k).Verify(token, e); err != nil || v.Expired {
		t.Errorf("live: expired %v, %v", v.Expired, err)
	}
	e.Now = now.Add(300 * 24 * time.Hour)
	if v, err := signer.NewRing(k).Verify(token, e); err != nil || !v.Expired || v.SessionID != sid {
		t.Errorf("long expired: expired %v, %v", v.Expired, err)
	}
}

// TestKeyLife: rule J11, what a JWT of a key is worth through the life of the key.
func TestKeyLife(t *testing.T) {
	k := keyFor(signer.ES256)
	token := mint(t, k, signer.Native, claims())
	k.RetiredAt, k.ListedUntil, k.ForgetAt = now.Add(time.Minute), now.Add(4*time.Minute), now.Add(time.Hour)
	bad := *k
	bad.Compromised = true
	for _, tc := range []struct {
		name          string
		key           *signer.Key
		at            time.Duration
		live, expired signer.Reason // without and with AllowExpired
	}{
		{"active", k, 0, "", ""},
		{"retired, listed", k, 2 * time.Minute, "", ""},
		{"no longer listed", k, 4 * time.Minute, signer.ErrUnknownKey, ""},
		{"just known", k, time.Hour - 1, signer.ErrUnknownKey, ""},
		{"forgotten", k, time.Hour, signer.ErrUnknownKey, signer.ErrUnknownKey},
		{"compromised", &bad, 0, signer.ErrUnknownKey, signer.ErrUnknownKey},
		{"unknown", fresh(t, signer.ES256), 0, signer.ErrUnknownKey, signer.ErrUnknownKey},
	} {
		ring, cache := signer.NewRing(tc.key), &signer.VerifyCache{}
		if _, err := cache.Verify(signer.NewRing(keyFor(signer.ES256)), token, expect()); err != nil {
			t.Fatal(err)
		}
		for allow, want := range map[bool]signer.Reason{false: tc.live, true: tc.expired} {
			e := expect()
			e.Now, e.AllowExpired = now.Add(tc.at), allow
			if _, err := ring.Verify(token, e); reason(t, err) != want {
				t.Errorf("%s, allow expired %v: %v, want %q", tc.name, allow, err, want)
			}
			if _, err := cache.Verify(ring, token, e); reason(t, err) != want {
				t.Errorf("%s, allow expired %v, cached: %v, want %q", tc.name, allow, err, want)
			}
		}
	}
	var none *signer.Ring
	if _, err := none.Verify(token, expect()); reason(t, err) != signer.ErrUnknownKey {
		t.Errorf("nil ring: %v", err)
	}
}

// TestClaimRules: rules J6, J7 and J9 on claims that the right key has signed.
func TestClaimRules(t *testing.T) {
	k := keyFor(signer.ES256)
	ring := signer.NewRing(k)
	good := func(change func(map[string]any)) string {
		m := map[string]any{"iss": issuer, "sub": user, "aud": []string{app}, "iat": now.Unix(), "nbf": now.Unix() - 10,
			"exp": now.Unix() + 300, "client_id": app, "jti": "j", "sid": sid}
		change(m)
		raw, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return string(raw)
	}
	set := func(name string, v any) string { return good(func(m map[string]any) { m[name] = v }) }
	without := func(name string) string { return good(func(m map[string]any) { delete(m, name) }) }
	plain := good(func(map[string]any) {})
	exp := fmt.Sprint(now.Unix() + 300)
	replaced := func(v string) string { return strings.Replace(plain, `"exp":`+exp, `"exp":`+v, 1) }
	deep := func(n int) json.RawMessage { return json.RawMessage(strings.Repeat("[", n) + strings.Repeat("]", n)) }

	names := func(last string) string { // an object of 60 names
		var b strings.Builder
		for i := range 59 {
			fmt.Fprintf(&b, `"n%d":0,`, i)
		}
		return `{"x":{` + b.String() + `"` + last + `":0},` + plain[1:]
	}

	cases := map[string]struct {
		body string
		want signer.Reason
	}{
		"in order":             {plain, ""},
		"aud as a string":      {set("aud", app), ""},
		"white space":          {" " + strings.ReplaceAll(plain, ",", " , ") + "\n", ""},
		"depth 8":              {set("x", deep(7)), ""},
		"depth 9":              {set("x", deep(8)), signer.ErrMalformed},
		"depth 5000":           {`{"x":` + string(deep(2500)) + `,` + plain[1:], signer.ErrMalformed},
		"two audiences":        {set("aud", []string{app, "other"}), signer.ErrWrongAudience},
		"same audience twice":  {set("aud", []string{app, app}), signer.ErrWrongAudience},
		"other audience":       {set("aud", []string{"other"}), signer.ErrWrongAudience},
		"no audience in aud":   {set("aud", []string{}), signer.ErrBadClaims},
		"empty audience":       {set("aud", ""), signer.ErrBadClaims},
		"number as audience":   {set("aud", []int{1}), signer.ErrBadClaims},
		"object as audience":   {set("aud", map[string]any{app: 1}), signer.ErrBadClaims},
		"null as audience":     {set("aud", nil), signer.ErrBadClaims},
		"issuer in other case": {set("iss", strings.ToUpper(issuer)), signer.ErrWrongIssuer},
		"issuer as an array":   {set("iss", []string{issuer}), signer.ErrBadClaims},
		"empty issuer":         {set("iss", ""), signer.ErrBadClaims},
		"empty subject":        {set("sub", ""), signer.ErrBadClaims},
		"subject as a number":  {set("sub", 7), signer.ErrBadClaims},
		"empty session":        {set("sid", ""), signer.ErrBadClaims},
		"session as an array":  {set("sid", []string{sid}), signer.ErrBadClaims},
		"life of a day":        {set("exp", now.Unix()+86400), signer.ErrBadClaims},
		"exp before iat":       {set("iat", now.Unix()+301), signer.ErrBadClaims},
		"exp equals iat":       {set("iat", now.Unix()+300), signer.ErrBadClaims},
		"nbf ahead":            {set("nbf", now.Unix()+1), signer.ErrNotYetValid},
		"expired":              {good(func(m map[string]any) { m["exp"], m["iat"] = now.Unix(), now.Unix()-300 }), signer.ErrExpired},

		"exp in other case only":   {strings.Replace(plain, `"exp"`, `"EXP"`, 1), signer.ErrBadClaims},
		"exp twice":                {`{"exp":` + exp + `,` + plain[1:], signer.ErrMalformed},
		"60 names":                 {names("n59"), ""},
		"one of 60 names twice":    {names("n58"), signer.ErrMalformed},
		"first of 60 names twice":  {names("n0"), signer.ErrMalformed},
		"exp twice, escaped":       {`{"\u0065xp":99999999999,` + plain[1:], signer.ErrMalformed},
		"a name twice deeper down": {`{"x":[{"a":1,"a":2}],` + plain[1:], signer.ErrMalformed},
		"bad UTF-8 in a value":     {"{\"x\":\"\xff\"," + plain[1:], signer.ErrMalformed},
		"bad UTF-8 in a name":      {"{\"\xc0\xaf\":1," + plain[1:], signer.ErrMalformed},
		"something after it":       {plain + `{}`, signer.ErrMalformed},
		"zero byte after it":       {plain + "\x00", signer.ErrMalformed},
		"array":                    {`[` + plain + `]`, signer.ErrMalformed},
		"null":                     {`null`, signer.ErrMalformed},
		"not JSON":                 {`{`, signer.ErrMalformed},
	}
	for _, name := range []string{"iss", "sub", "aud", "iat", "nbf", "exp", "sid", "jti", "client_id"} {
		cases["no "+name] = struct {
			body string
			want signer.Reason
		}{without(name), signer.ErrBadClaims}
	}
	for _, v := range []string{`"` + exp + `"`, exp + ".0", exp + ".5", "1.795e9", "1e300", "-1", "-0", "0", "9223372036854775808",
		"18446744073709551616", "1795349100000", "null", "true", "[]", "{}"} {
		cases["exp "+v] = struct {
			body string
			want signer.Reason
		}{replaced(v), signer.ErrBadClaims}
	}
	for name, tc := range cases {
		token := sign(t, k, header(k), tc.body)
		if _, err := ring.Verify(token, expect()); reason(t, err) != tc.want {
			t.Errorf("%s: %v, want %q", name, err, tc.want)
		}
		var cache signer.VerifyCache
		for range 2 {
			if _, err := cache.Verify(ring, token, expect()); reason(t, err) != tc.want {
				t.Errorf("%s: cached: %v, want %q", name, err, tc.want)
			}
		}
		e := expect()
		e.AllowExpired = true
		if v, err := ring.Verify(token, e); err == nil && tc.want != "" && tc.want != signer.ErrExpired {
			t.Errorf("%s: accepted where an expired JWT would be: %s", name, v.Claims())
		}
	}
}

// TestOtherKindsOfToken: rule J8, tokens of the same issuer and key that are not
// of a session.
func TestOtherKindsOfToken(t *testing.T) {
	k := keyFor(signer.RS256)
	good := body(t, mint(t, k, signer.Native, claims()))
	for _, typ := range []string{"secevent+jwt", "logout+jwt", "statuslist+jwt", "dpop+jwt", "dbsc+jwt", "AT+JWT", "jwt", "application/at+jwt", ""} {
		head := `{"alg":"RS256","kid":"` + k.ID + `","typ":"` + typ + `"}`
		if _, err := signer.NewRing(k).Verify(sign(t, k, head, good), expect()); reason(t, err) != signer.ErrWrongType {
			t.Errorf("typ %q: %v", typ, err)
		}
	}
	if _, err := signer.NewRing(k).Verify(sign(t, k, `{"alg":"RS256","kid":"`+k.ID+`"}`, good), expect()); reason(t, err) != signer.ErrWrongType {
		t.Errorf("no typ: %v", err)
	}
	// The claims of one profile under the typ of another name no session.
	head := `{"alg":"RS256","kid":"` + k.ID + `","typ":"JWT"}`
	if _, err := signer.NewRing(k).Verify(sign(t, k, head, good), expect()); reason(t, err) != signer.ErrBadClaims {
		t.Errorf("native claims with typ JWT: %v", err)
	}
	for _, session := range []string{`1`, `{}`, `{"id":""}`, `{"id":1}`, `[]`} {
		body := strings.Replace(good, `"sid"`, `"https://stytch.com/session":`+session+`,"sid"`, 1)
		if _, err := signer.NewRing(k).Verify(sign(t, k, head, body), expect()); reason(t, err) != signer.ErrBadClaims {
			t.Errorf("stytch session %s: %v", session, err)
		}
	}
}

func TestPeekAudience(t *testing.T) {
	k := keyFor(signer.ES256)
	c := claims()
	c.App = "other"
	for _, p := range signer.Profiles() {
		if got, err := signer.PeekAudience(mint(t, k, p, c)); got != "other" || err != nil {
			t.Errorf("%s: %q, %v", p, got, err)
		}
	}
	enc := func(body string) string { return "e30." + b64.EncodeToString([]byte(body)) + ".AA" }
	loose := []byte(enc(`{"aud":"a"}`)) // 11 bytes: two bits of the last character are unused
	loose[len(loose)-len(".AA")-1]++
	for token, want := range map[string]signer.Reason{
		string(loose): signer.ErrMalformed,
		"":            signer.ErrMalformed,
		"mZAYn5aLEqKUlZ_Ad9U_fWr38GaAQ1oFAhT8ds2": signer.ErrMalformed,
		"a.b":                        signer.ErrMalformed,
		enc(`{"aud":"a"}`) + ".":     signer.ErrMalformed,
		enc(`{"aud":"a","aud":"b"}`): signer.ErrMalformed,
		enc(`[]`):                    signer.ErrMalformed,
		enc(`{}`):                    signer.ErrBadClaims,
		enc(`{"aud":["a","b"]}`):     signer.ErrWrongAudience,
		enc(`{"aud":"` + strings.Repeat("a", 8000) + `"}`): signer.ErrMalformed,
		enc(`{"aud":"a"}`): "",
	} {
		if _, err := signer.PeekAudience(token); reason(t, err) != want {
			t.Errorf("%.60s: %v, want %q", token, err, want)
		}
	}
}

// TestAnyChange: no other single character anywhere, and no JWT cut short,
// verifies. Every position is tried, with the characters that differ in one bit
// of their meaning, some at random, and some that are not base64url.
func TestAnyChange(t *testing.T) {
	seed := rand.Uint64()
	rnd := rand.New(rand.NewPCG(seed, 0))
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	for _, a := range algs {
		for _, p := range signer.Profiles() {
			k := keyFor(a)
			ring := signer.NewRing(k)
			token := mint(t, k, p, claims())
			if _, err := ring.Verify(token, expect()); err != nil {
				t.Fatal(err)
			}
			for i := range len(token) {
				tries := []byte{'=', '+', '/', '\n', '.', 0x80, alphabet[rnd.IntN(64)]}
				if at := strings.IndexByte(alphabet, token[i]); at >= 0 {
					bit := rnd.IntN(6)
					if strings.Count(token[i:], ".") == 0 && len(token)-i < 3 {
						for b := range 6 { // all bits of the last characters, unused ones too
							tries = append(tries, alphabet[at^1<<b])
						}
					}
					tries = append(tries, alphabet[at^1<<bit])
				}
				for _, c := range tries {
					changed := token[:i] + string([]byte{c}) + token[i+1:]
					if changed == token {
						continue
					}
					if _, err := ring.Verify(changed, expect()); err == nil {
						t.Fatalf("seed %d: %s %s verifies with %q at %d", seed, a, p, c, i)
					}
				}
				if _, err := ring.Verify(token[:i], expect()); err == nil {
					t.Fatalf("%s %s verifies when cut at %d", a, p, i)
				}
			}
		}
	}
}

// TestOtherSpellings: rule J5, the same bytes written in another way.
func TestOtherSpellings(t *testing.T) {
	k := keyFor(signer.ES256)
	ring := signer.NewRing(k)
	token := mint(t, k, signer.Native, claims())
	parts := strings.Split(token, ".")
	std := base64.StdEncoding
	pad := func(s string) string { raw, _ := b64.DecodeString(s); return std.EncodeToString(raw) }
	for name, changed := range map[string]string{
		"LF in the header":       parts[0][:4] + "\n" + parts[0][4:] + "." + parts[1] + "." + parts[2],
		"CR LF in the claims":    parts[0] + "." + parts[1][:8] + "\r\n" + parts[1][8:] + "." + parts[2],
		"LF at the end":          token + "\n",
		"space in front":         " " + token,
		"padding":                parts[0] + "." + parts[1] + "." + parts[2] + "==",
		"standard base64":        pad(parts[0]) + "." + pad(parts[1]) + "." + pad(parts[2]),
		"a fourth segment":       token + "." + parts[2],
		"an empty fourth":        token + ".",
		"no signature":           parts[0] + "." + parts[1] + ".",
		"two segments":           parts[0] + "." + parts[1],
		"empty header":           "." + parts[1] + "." + parts[2],
		"Bearer":                 "Bearer " + token,
		"unused bits set":        token[:len(token)-1] + string(rune(token[len(token)-1]+1)),
		"full-width letter":      strings.Replace(token, "e", "\uff45", 1),
		"zero byte":              token + "\x00",
		"the JSON serialization": `{"protected":"` + parts[0] + `","payload":"` + parts[1] + `","signature":"` + parts[2] + `"}`,
		"9 KiB":                  parts[0] + "." + parts[1] + strings.Repeat("A", 9000) + "." + parts[2],
		"10 MB":                  strings.Repeat("A", 10<<20),
		"dots":                   strings.Repeat(".", 8192),
	} {
		if _, err := ring.Verify(changed, expect()); reason(t, err) != signer.ErrMalformed {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestTwinSignature documents what ECDSA allows: whoever holds a JWT can write
// its signature in a second way. Both say the same; so nothing may depend on the
// bytes of a JWT being unique.
func TestTwinSignature(t *testing.T) {
	k := keyFor(signer.ES256)
	token := mint(t, k, signer.Native, claims())
	cut := strings.LastIndex(token, ".")
	sig, _ := b64.DecodeString(token[cut+1:])
	n := k.Public.(*ecdsa.PublicKey).Params().N
	new(big.Int).Sub(n, new(big.Int).SetBytes(sig[32:])).FillBytes(sig[32:])
	twin := token[:cut+1] + b64.EncodeToString(sig)
	ring := signer.NewRing(k)
	a, errA := ring.Verify(token, expect())
	b, errB := ring.Verify(twin, expect())
	if err := errors.Join(errA, errB); err != nil || twin == token || string(a.Claims()) != string(b.Claims()) {
		t.Errorf("twin: %v", err)
	}
}
