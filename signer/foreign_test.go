package signer_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/revocast/revocast/signer"
)

const idp = "https://idp.example"

// foreignSet writes a key set of another issuer: the keys under the kids k0, k1, …
func foreignSet(t testing.TB, keys ...*signer.Key) []byte {
	t.Helper()
	all := []any{}
	for i, k := range keys {
		raw, err := k.MarshalPublic()
		if err != nil {
			t.Fatal(err)
		}
		jwk := map[string]any{}
		if err := json.Unmarshal(raw, &jwk); err != nil {
			t.Fatal(err)
		}
		jwk["kid"] = fmt.Sprint("k", i)
		all = append(all, jwk)
	}
	set, err := json.Marshal(map[string]any{"keys": all})
	if err != nil {
		t.Fatal(err)
	}
	return set
}

func foreignKeys(t testing.TB, set []byte) *signer.ForeignKeys {
	t.Helper()
	f, err := signer.ParseForeignKeys(set)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func foreignHead(k *signer.Key, kid string) string {
	return `{"alg":"` + string(k.Alg) + `","kid":"` + kid + `","typ":"JWT"}`
}

func foreignBody() string {
	return fmt.Sprintf(`{"iss":%q,"aud":"shop","sub":"ada","iat":%d,"exp":%d,"n":{"a":[1]}}`, idp, now.Unix(), now.Add(time.Hour).Unix())
}

func foreignExpect() signer.ForeignExpect {
	return signer.ForeignExpect{Issuer: idp, Audience: "shop", Now: now}
}

// TestForeign: each key verifies with its own algorithm, and no other's.
func TestForeign(t *testing.T) {
	es, rs, ed := keyFor(signer.ES256), keyFor(signer.RS256), keyFor(signer.EdDSA)
	all := []*signer.Key{es, rs, ed}
	f := foreignKeys(t, foreignSet(t, all...))
	for i, k := range all {
		for j := range all {
			token := sign(t, k, foreignHead(k, fmt.Sprint("k", j)), foreignBody())
			v, err := f.Verify(token, foreignExpect())
			if i != j {
				if reason(t, err) != signer.ErrBadSignature {
					t.Errorf("%s under the kid of %s: %v", k.Alg, all[j].Alg, err)
				}
				continue
			}
			if err != nil {
				t.Errorf("%s: %v", k.Alg, err)
			}
			sub, _ := v.Text("sub")
			n, _ := v.Raw("n")
			if sub != "ada" || string(n) != `{"a":[1]}` || !v.Expires.Equal(now.Add(time.Hour)) || fmt.Sprintf("%v %+v", v, v) != "[token] [token]" {
				t.Errorf("%s: %q %s %v", k.Alg, sub, n, v.Expires)
			}
			narrow := foreignExpect()
			narrow.Algs = []signer.Alg{all[(i+1)%3].Alg}
			if _, err := f.Verify(token, narrow); reason(t, err) != signer.ErrBadSignature {
				t.Errorf("%s, not allowed: %v", k.Alg, err)
			}
			// A key's own name for itself counts for nothing.
			if _, err := f.Verify(sign(t, k, foreignHead(k, k.ID), foreignBody()), foreignExpect()); reason(t, err) != signer.ErrUnknownKey {
				t.Errorf("%s, by thumbprint: %v", k.Alg, err)
			}
		}
	}
	// Nothing demanded is nothing accepted.
	token := sign(t, es, foreignHead(es, "k0"), foreignBody())
	for name, e := range map[string]signer.ForeignExpect{
		"nothing": {}, "no issuer": {Audience: "shop", Now: now}, "no audience": {Issuer: idp, Now: now}, "no time": {Issuer: idp, Audience: "shop"},
	} {
		if _, err := f.Verify(token, e); err == nil {
			t.Errorf("accepted, with %s expected", name)
		}
	}
	var none *signer.ForeignKeys
	if _, err := none.Verify(token, foreignExpect()); reason(t, err) != signer.ErrUnknownKey {
		t.Errorf("no keys: %v", err)
	}
}

// TestForeignSession: a JWT of a session of ours is one of another issuer only
// for who registers us, and an issuer's is never one of ours.
func TestForeignSession(t *testing.T) {
	k := keyFor(signer.ES256)
	token := sign(t, k, foreignHead(k, k.ID), foreignBody())
	if _, err := signer.NewRing(k).Verify(token, signer.Expect{Issuer: idp, App: "shop", Now: now}); err == nil {
		t.Error("a foreign JWT authenticates a session")
	}
}

func TestForeignKeys(t *testing.T) {
	es := keyFor(signer.ES256)
	good := strings.TrimSuffix(strings.TrimPrefix(string(foreignSet(t, es)), `{"keys":[`), `]}`)
	with := func(members string) string { return `{` + members + `,` + good[1:] }
	set := func(keys ...string) string { return `{"keys":[` + strings.Join(keys, ",") + `]}` }
	for name, c := range map[string]struct {
		set string
		ok  bool
	}{
		"one": {set(good), true}, "more members": {set(with(`"x5c":["AA"],"x5t":"a","key_ops":["verify"]`)), true},
		"beside one of no use":   {set(good, `{"kty":"EC","crv":"P-521","kid":"x","x":"AA","y":"AA"}`, `{"kty":"new"}`), true},
		"beside one to encrypt":  {set(good, strings.Replace(with(`"kid2":1`), `"use":"sig"`, `"use":"enc"`, 1)), true},
		"empty":                  {set(), false},
		"null":                   {`{"keys":null}`, false},
		"no keys":                {`{}`, false},
		"an array":               {`[` + good + `]`, false},
		"not JSON":               {`{"keys":[`, false},
		"keys twice":             {`{"keys":[],"keys":[` + good + `]}`, false},
		"a private key":          {set(good, with(`"d":"AA"`)), false},
		"a secret":               {set(good, `{"kty":"oct","kid":"h","k":"AA"}`), false},
		"to sign":                {set(with(`"key_ops":["sign"]`)), false},
		"another alg":            {set(strings.Replace(good, `"ES256"`, `"ES384"`, 1)), false},
		"alg HS256":              {set(strings.Replace(good, `"ES256"`, `"HS256"`, 1)), false},
		"two of one kid":         {set(good, good), false},
		"three of one kid":       {set(good, good, good), false},
		"no kid":                 {set(strings.Replace(good, `"kid":"k0"`, `"id":"k0"`, 1)), false},
		"kid is a number":        {set(strings.Replace(good, `"k0"`, `0`, 1)), false},
		"kid is long":            {set(strings.Replace(good, `"k0"`, `"`+strings.Repeat("k", 129)+`"`, 1)), false},
		"a point off the curve":  {set(strings.Replace(good, `"x":"`, `"x":"AAAA`, 1)), false},
		"more than is looked at": {set(strings.Repeat(`{},`, 128) + good), false},
		"as many as are":         {set(strings.Repeat(`{},`, 127) + good), true},
	} {
		f, err := signer.ParseForeignKeys([]byte(c.set))
		if (err == nil) != c.ok || c.ok && !f.Has("k0") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestGrant: a grant is no JWT of a session, and no other grant.
func TestGrant(t *testing.T) {
	const typ = "permit+jwt"
	for _, a := range algs {
		k := keyFor(a)
		ring := signer.NewRing(k)
		c := claims()
		c.Actor, c.Revision, c.Custom = json.RawMessage(`{"sub":"sue"}`), "eu:0:7", nil
		token, err := signer.MintGrant(k, typ, c)
		if err != nil {
			t.Fatal(err)
		}
		v, err := ring.VerifyGrant(token, typ, expect())
		if err != nil || v.Subject != user || v.JWTID == "" || v.SessionID != "" || v.Profile != "" {
			t.Errorf("%s: %+v, %v", a, v, err)
		}
		var said map[string]any
		if err := json.Unmarshal(v.Claims(), &said); err != nil || said["rev"] != "eu:0:7" || fmt.Sprint(said["act"]) != "map[sub:sue]" || said["sid"] != nil {
			t.Errorf("%s: %s", a, v.Claims())
		}
		other, _ := signer.MintGrant(k, typ, c)
		if w, err := ring.VerifyGrant(other, typ, expect()); err != nil || w.JWTID == v.JWTID {
			t.Errorf("%s: two grants are one: %v", a, err)
		}
		if _, err := ring.Verify(token, expect()); reason(t, err) != signer.ErrWrongType {
			t.Errorf("%s: as a session: %v", a, err)
		}
		if _, err := ring.VerifyGrant(token, "other+jwt", expect()); reason(t, err) != signer.ErrWrongType {
			t.Errorf("%s: as another grant: %v", a, err)
		}
		for _, p := range signer.Profiles() {
			session := mint(t, k, p, claims())
			for _, typ := range []string{typ, "at+jwt", "JWT", ""} {
				if _, err := ring.VerifyGrant(session, typ, expect()); err == nil {
					t.Errorf("%s: a session of profile %s is a grant of typ %q", a, p, typ)
				}
			}
		}
		for name, change := range map[string]func(*signer.Expect){
			"issuer": func(e *signer.Expect) { e.Issuer += "x" }, "app": func(e *signer.Expect) { e.App += "x" },
			"late": func(e *signer.Expect) { e.Now = now.Add(5 * time.Minute) }, "early": func(e *signer.Expect) { e.Now = now.Add(-time.Minute) },
			"life": func(e *signer.Expect) { e.MaxLife = time.Minute },
		} {
			e := expect()
			change(&e)
			if _, err := ring.VerifyGrant(token, typ, e); err == nil {
				t.Errorf("%s: accepted, with another %s", a, name)
			}
		}
		for _, typ := range []string{"", "JWT", "at+jwt"} {
			if _, err := signer.MintGrant(k, typ, c); err == nil {
				t.Errorf("%s: a grant of typ %q", a, typ)
			}
		}
	}
}

func FuzzForeign(f *testing.F) {
	k := keyFor(signer.ES256)
	keys := foreignKeys(f, foreignSet(f, k))
	good := sign(f, k, foreignHead(k, "k0"), foreignBody())
	f.Add(good)
	f.Add(strings.Replace(good, ".", "..", 1))
	f.Add("a.b.c")
	f.Fuzz(func(t *testing.T, token string) {
		v, err := keys.Verify(token, foreignExpect())
		if err != nil {
			reason(t, err)
			return
		}
		// The signature of ES256 can be written in a second way; the rest cannot.
		if sub, _ := v.Text("sub"); sub != "ada" || token[:strings.LastIndexByte(token, '.')] != good[:strings.LastIndexByte(good, '.')] {
			t.Errorf("forged: %s", token)
		}
	})
}

// TestForeignRefused: each rule for what others mint.
func TestForeignRefused(t *testing.T) {
	k := keyFor(signer.ES256)
	f := foreignKeys(t, foreignSet(t, k))
	head := func(more string) string { return strings.TrimSuffix(foreignHead(k, "k0"), "}") + "," + more + "}" }
	claims := func(was, is string) string { return strings.Replace(foreignBody(), was, is, 1) }
	iat, exp := fmt.Sprintf(`"iat":%d`, now.Unix()), fmt.Sprintf(`"exp":%d`, now.Add(time.Hour).Unix())
	at := func(name string, d time.Duration) string { return fmt.Sprintf(`%q:%d`, name, now.Add(d).Unix()) }
	for name, c := range map[string]struct {
		head, body string
		want       signer.Reason // "": accepted
	}{
		"good":             {foreignHead(k, "k0"), foreignBody(), ""},
		"x5t":              {head(`"x5t":"a"`), foreignBody(), ""},
		"crit":             {head(`"crit":["exp"]`), foreignBody(), signer.ErrMalformed},
		"b64":              {head(`"b64":true`), foreignBody(), signer.ErrMalformed},
		"zip":              {head(`"zip":"DEF"`), foreignBody(), signer.ErrMalformed},
		"enc":              {head(`"enc":"A128GCM"`), foreignBody(), signer.ErrMalformed},
		"cty":              {head(`"cty":"JWT"`), foreignBody(), signer.ErrMalformed},
		"jku":              {head(`"jku":"https://x"`), foreignBody(), signer.ErrMalformed},
		"jwk":              {head(`"jwk":{}`), foreignBody(), signer.ErrMalformed},
		"x5u":              {head(`"x5u":"https://x"`), foreignBody(), signer.ErrMalformed},
		"x5c":              {head(`"x5c":[]`), foreignBody(), signer.ErrMalformed},
		"kid twice":        {head(`"kid":"k1"`), foreignBody(), signer.ErrMalformed},
		"typ of an event":  {strings.Replace(foreignHead(k, "k0"), "JWT", "secevent+jwt", 1), foreignBody(), signer.ErrWrongType},
		"typ is empty":     {strings.Replace(foreignHead(k, "k0"), "JWT", "", 1), foreignBody(), signer.ErrWrongType},
		"typ is a number":  {strings.Replace(foreignHead(k, "k0"), `"JWT"`, "7", 1), foreignBody(), signer.ErrWrongType},
		"no typ":           {`{"alg":"ES256","kid":"k0"}`, foreignBody(), ""},
		"events":           {foreignHead(k, "k0"), claims(iat, iat+`,"events":{}`), signer.ErrWrongType},
		"iss twice":        {foreignHead(k, "k0"), claims(iat, iat+`,"iss":"x"`), signer.ErrMalformed},
		"iat 5 s ahead":    {foreignHead(k, "k0"), claims(iat, at("iat", 5*time.Second)), ""},
		"iat 6 s ahead":    {foreignHead(k, "k0"), claims(iat, at("iat", 6*time.Second)), signer.ErrNotYetValid},
		"nbf 6 s ahead":    {foreignHead(k, "k0"), claims(iat, iat+","+at("nbf", 6*time.Second)), signer.ErrNotYetValid},
		"nbf is past, iat": {foreignHead(k, "k0"), claims(iat, at("iat", 6*time.Second)+","+at("nbf", -time.Hour)), signer.ErrNotYetValid},
		"a day":            {foreignHead(k, "k0"), claims(exp, at("exp", 24*time.Hour)), ""},
		"more than a day":  {foreignHead(k, "k0"), claims(exp, at("exp", 24*time.Hour+time.Second)), signer.ErrBadClaims},
		"exp before iat":   {foreignHead(k, "k0"), claims(exp, at("exp", 0)), signer.ErrBadClaims},
		"two audiences":    {foreignHead(k, "k0"), claims(`"shop"`, `["shop","x"]`), signer.ErrWrongAudience},
		"nested deep":      {foreignHead(k, "k0"), claims(`[1]`, `[[[[[[[1]]]]]]]`), signer.ErrMalformed},
	} {
		e := foreignExpect()
		e.Leeway = time.Hour // more than is ever given
		_, err := f.Verify(sign(t, k, c.head, c.body), e)
		if c.want == "" && err != nil {
			t.Errorf("%s: %v", name, err)
		} else if c.want != "" && reason(t, err) != c.want {
			t.Errorf("%s: %v, want %s", name, err, c.want)
		}
	}
}
