package signer_test

import (
	"strings"
	"testing"
	"time"

	"github.com/revocast/revocast/signer"
)

// FuzzVerify: no input makes Verify panic, and what it accepts says exactly what
// was signed. (The signature itself may differ: see TestTwinSignature.)
func FuzzVerify(f *testing.F) {
	var all []*signer.Key
	for _, a := range algs {
		all = append(all, keyFor(a))
	}
	ring := signer.NewRing(all...)
	signed := map[string]bool{}
	for _, k := range all {
		for _, p := range signer.Profiles() {
			token := mint(f, k, p, claims())
			signed[token[:strings.LastIndex(token, ".")]] = true
			f.Add(token)
			f.Add(strings.Replace(token, ".", "..", 1))
			f.Add(token[:len(token)-1])
		}
		good := body(f, mint(f, k, signer.Native, claims()))
		for _, s := range []string{`{"alg":"none"}`, header(k), `{}`, `[]`, `{"a":{"a":1,"a":2}}`, `{"\ud800":"\\"}`, strings.Repeat(`{"a":`, 20)} {
			f.Add(b64.EncodeToString([]byte(s)) + "." + b64.EncodeToString([]byte(good)) + ".AA")
			f.Add(b64.EncodeToString([]byte(header(k))) + "." + b64.EncodeToString([]byte(s)) + ".AA")
		}
	}
	var cache signer.VerifyCache
	f.Fuzz(func(t *testing.T, token string) {
		for _, allow := range []bool{false, true} {
			e := expect()
			e.AllowExpired = allow
			v, err := ring.Verify(token, e)
			if (err == nil) && (!signed[token[:strings.LastIndex(token, ".")]] || v.SessionID != sid || v.Subject != user) {
				t.Errorf("accepted %q", token)
			}
			if err != nil {
				reason(t, err)
			}
			if _, cached := cache.Verify(ring, token, e); reason(t, cached) != reason(t, err) {
				t.Errorf("cached %v, else %v", cached, err)
			}
		}
		if _, err := signer.PeekAudience(token); err != nil {
			reason(t, err)
		}
	})
}

// FuzzCustom: custom claims that pass the check are minted, accepted, and come
// back as they were, whatever they hold; others never produce a JWT that claims
// something else about the session.
func FuzzCustom(f *testing.F) {
	for _, s := range []string{`{}`, `{"a":1}`, `{"sid":"x"}`, `{"s\u0069d":"x"}`, `{"a":"\ud800"}`, `{"":0}`, `null`, `{"a":1e999}`,
		`{"exp":1}`, ` { "a" : [ 1 , { "b" : "<>&" } ] } `, `{"roles":["x"]}`, `{"https://stytch.com/session":{"id":"x"}}`} {
		f.Add([]byte(s))
	}
	k := keyFor(signer.EdDSA)
	ring := signer.NewRing(k)
	f.Fuzz(func(t *testing.T, custom []byte) {
		if len(custom) == 0 {
			return
		}
		for _, p := range signer.Profiles() {
			c := claims()
			c.Custom = custom
			checked := signer.CheckCustom(custom)
			token, err := signer.Mint(k, p, c)
			if err != nil {
				if checked == nil && len(custom) < 4096 {
					t.Errorf("checked, not minted: %v", err)
				}
				continue
			}
			v, err := ring.Verify(token, expect())
			if err != nil || v.SessionID != sid || v.Subject != user || v.App != app {
				t.Errorf("minted, then %v: %s", err, body(t, token))
			}
			if err := signer.CheckCustom(v.Custom()); checked == nil && err != nil {
				t.Errorf("came back as %s: %v", v.Custom(), err)
			}
		}
	})
}

// FuzzParseProof: no input makes ParseProof or Check panic, and what is accepted
// names a key.
func FuzzParseProof(f *testing.F) {
	for _, s := range []string{rfcProof, "a.b.c", "..", "", rfcProof + "A", strings.Replace(rfcProof, ".", "..", 1)} {
		f.Add(s, "https://server.example.com/token")
	}
	for _, u := range []string{"http://h:80/%7e%2f%zz", "https://[::1]:443", "HTTP://H", "//", "%", "https://h/%4"} {
		f.Add(rfcProof, u)
	}
	f.Fuzz(func(t *testing.T, text, url string) {
		p, err := signer.ParseProof(text)
		if err != nil {
			return
		}
		if !signer.ValidThumbprint(p.Thumbprint) || p.ID == "" {
			t.Fatalf("%q is %+v", text, p)
		}
		if p.Check("POST", url, "", time.Unix(1562262616, 0)) == nil && !strings.HasPrefix(strings.ToLower(url), "https://server.example.com") {
			t.Fatalf("it is taken for a proof of %q", url)
		}
	})
}
