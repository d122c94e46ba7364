package signer_test

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/revocast/revocast/signer"
)

func TestMintCacheHalfLife(t *testing.T) {
	k := keyFor(signer.ES256)
	ring := signer.NewRing(k)
	f := signer.NewFingerprint(sid, "native", "eu:1:7")
	var cache signer.MintCache
	if _, _, ok := cache.Get(ring, f, now); ok {
		t.Fatal("the empty cache has a JWT")
	}
	cache.Put(ring, f, k, "jwt", now, now.Add(300*time.Second), "")
	retired := keyFor(signer.ES256)
	retired.RetiredAt = now.Add(time.Second)
	unlisted := keyFor(signer.ES256)
	unlisted.ListedUntil = now.Add(time.Second)
	bad := keyFor(signer.ES256)
	bad.Compromised = true
	for _, tc := range []struct {
		name string
		ring *signer.Ring
		f    signer.Fingerprint
		at   time.Duration
		want bool
	}{
		{"at once", ring, f, 0, true},
		{"just before half of its life", ring, f, 150*time.Second - 1, true},
		{"at half of its life", ring, f, 150 * time.Second, false},
		{"expired", ring, f, time.Hour, false},
		{"clock a little back", ring, f, -10 * time.Second, true},
		{"clock back before nbf", ring, f, -11 * time.Second, false},
		{"other session", ring, signer.NewFingerprint("other", "native", "eu:1:7"), 0, false},
		{"retired key", signer.NewRing(retired), f, 2 * time.Second, true},
		{"unlisted key", signer.NewRing(unlisted), f, 2 * time.Second, false},
		{"compromised key", signer.NewRing(bad), f, 0, false},
		{"key unknown", signer.NewRing(keyFor(signer.EdDSA)), f, 0, false},
		{"no ring", nil, f, 0, false},
	} {
		jwt, expires, ok := cache.Get(tc.ring, tc.f, now.Add(tc.at))
		if ok != tc.want || ok && (jwt != "jwt" || !expires.Equal(now.Add(300*time.Second))) || !ok && jwt != "" {
			t.Errorf("%s: %q, %v, %v", tc.name, jwt, expires, ok)
		}
	}
	cache.Purge()
	if _, _, ok := cache.Get(ring, f, now); ok {
		t.Error("the purged cache has a JWT")
	}
}

func TestFingerprints(t *testing.T) {
	seen := map[signer.Fingerprint][]string{}
	for _, parts := range [][]string{{}, {""}, {"", ""}, {"ab"}, {"a", "b"}, {"", "ab"}, {"ab", ""}, {"a", "", "b"}, {"a\x01b"}, {"\x01a"}} {
		f := signer.NewFingerprint(parts...)
		if other, ok := seen[f]; ok {
			t.Errorf("%q and %q have one fingerprint", parts, other)
		}
		seen[f] = parts
	}
}

func TestMintCacheIsBounded(t *testing.T) {
	k := keyFor(signer.ES256)
	ring := signer.NewRing(k)
	cache := signer.MintCache{Entries: 100}
	held := 0
	for i := range 5000 {
		cache.Put(signer.NewRing(k), signer.NewFingerprint(fmt.Sprint(i)), k, "jwt", now, now.Add(time.Minute), "")
	}
	for i := range 5000 {
		if _, _, ok := cache.Get(ring, signer.NewFingerprint(fmt.Sprint(i)), now); ok {
			held++
		}
	}
	if held < 100 || held > 128 { // rounded up to the same size in each part
		t.Errorf("%d held of 100", held)
	}
}

// TestVerifyCacheFindsApps: the JWT names the app, the app's ring decides.
func TestVerifyCacheFindsApps(t *testing.T) {
	a, b := keyFor(signer.ES256), fresh(t, signer.ES256)
	rings := map[string]*signer.Ring{"a": signer.NewRing(a), "b": signer.NewRing(b)}
	var cache signer.VerifyCache
	asked := []string{}
	pick := func(app string) (*signer.Ring, signer.Expect) {
		asked = append(asked, app)
		e := expect()
		e.App = app
		return rings[app], e
	}
	c := claims()
	c.App = "b"
	token := mint(t, b, signer.Native, c)
	for range 2 {
		if v, err := cache.VerifyFor(token, pick); err != nil || v.App != "b" {
			t.Errorf("%v, %v", v.App, err)
		}
	}
	c.App = "a"
	if _, err := cache.VerifyFor(mint(t, b, signer.Native, c), pick); !errors.Is(err, signer.ErrUnknownKey) {
		t.Errorf("signed by the key of another app: %v", err)
	}
	c.App = "nowhere"
	if _, err := cache.VerifyFor(mint(t, b, signer.Native, c), pick); !errors.Is(err, signer.ErrUnknownKey) {
		t.Errorf("an app that does not exist: %v", err)
	}
	if fmt.Sprint(asked) != "[b b a nowhere]" {
		t.Errorf("asked for %v", asked)
	}
	for _, junk := range []string{"", "a.b.c", token + "=", "e30.e30.AA"} {
		_, err := cache.VerifyFor(junk, func(string) (*signer.Ring, signer.Expect) {
			t.Errorf("asked for the app of %q", junk)
			return nil, signer.Expect{}
		})
		if r := reason(t, err); r != signer.ErrMalformed && r != signer.ErrBadClaims {
			t.Errorf("%q: %v", junk, err)
		}
	}
	// A warm cache answers by the ring it is given now.
	delete(rings, "b")
	if _, err := cache.VerifyFor(token, pick); !errors.Is(err, signer.ErrUnknownKey) {
		t.Errorf("the app is gone: %v", err)
	}
	cache.Purge()
	rings["b"] = signer.NewRing(b)
	if _, err := cache.VerifyFor(token, pick); err != nil {
		t.Errorf("after a purge: %v", err)
	}
}

// TestCachesSave compares hits and misses by what they allocate: the
// proof, without a clock, that a hit checks no signature.
func TestCachesSave(t *testing.T) {
	k := keyFor(signer.ES256)
	ring, token, e := signer.NewRing(k), mint(t, k, signer.Native, claims()), expect()
	var cache signer.VerifyCache
	verify := func() {
		if _, err := cache.Verify(ring, token, e); err != nil {
			t.Fatal(err)
		}
	}
	verify()
	hit := testing.AllocsPerRun(100, verify)
	miss := testing.AllocsPerRun(100, func() { cache.Purge(); verify() })
	if hit != 0 || miss < 20 {
		t.Errorf("a hit makes %.0f allocations, a miss %.0f", hit, miss)
	}
	var mints signer.MintCache
	mints.Put(ring, signer.NewFingerprint(sid, "native"), k, token, now, now.Add(time.Minute), "")
	if n := testing.AllocsPerRun(100, func() { mints.Get(ring, signer.NewFingerprint(sid, "native"), now) }); n != 0 {
		t.Errorf("reusing a JWT makes %.0f allocations", n)
	}
}

// TestRefusedIsNotHeld: what was refused once is not in the cache, and what the
// cache holds was not changed by a refusal.
func TestRefusedIsNotHeld(t *testing.T) {
	k := keyFor(signer.ES256)
	token := mint(t, k, signer.Native, claims())
	end := "AAAA"
	if strings.HasSuffix(token, end) {
		end = "AAAQ" // the last character has two bits of the signature
	}
	forged := token[:len(token)-4] + end
	var cache signer.VerifyCache
	for range 3 {
		if _, err := cache.Verify(signer.NewRing(k), forged, expect()); !errors.Is(err, signer.ErrBadSignature) {
			t.Fatal(err)
		}
		if _, err := cache.Verify(signer.NewRing(k), token, expect()); err != nil {
			t.Fatal(err)
		}
	}
}

// TestMintedAtOnce: of several JWTs that were minted under one fingerprint before
// any was held, all callers get one. Run it with -race.
func TestMintedAtOnce(t *testing.T) {
	k := keyFor(signer.ES256)
	ring := signer.NewRing(k)
	f := signer.NewFingerprint("f")
	var cache signer.MintCache
	for round := range 100 {
		at := now.Add(time.Duration(round) * time.Minute) // the one of the round before is past its half
		var got [8]string
		var wg sync.WaitGroup
		for i := range got {
			wg.Go(func() {
				var expires time.Time
				got[i], expires = cache.Put(ring, f, k, fmt.Sprint(round, i), at, at.Add(time.Minute), "")
				if !expires.Equal(at.Add(time.Minute)) {
					t.Errorf("expires %v", expires)
				}
			})
		}
		wg.Wait()
		held, _, _ := cache.Get(ring, f, at)
		for _, jwt := range got {
			if jwt != held || !strings.HasPrefix(jwt, fmt.Sprint(round, "")) {
				t.Fatalf("round %d: handed out %q, held %q", round, got, held)
			}
		}
	}
	bad := *k
	bad.Compromised = true
	if jwt, _ := cache.Put(signer.NewRing(&bad), f, k, "new", now.Add(99*time.Minute), now.Add(100*time.Minute), ""); jwt != "new" {
		t.Errorf("a JWT of a compromised key was handed out: %s", jwt)
	}
}

// TestCompromiseUnderLoad: from the moment the ring is swapped, no JWT of the
// compromised key comes out of either cache, although others go on putting them
// in. Run it with -race.
func TestCompromiseUnderLoad(t *testing.T) {
	k := fresh(t, signer.ES256)
	bad := *k
	bad.Compromised = true
	ring, after := signer.NewRing(k), signer.NewRing(&bad)
	token := mint(t, k, signer.Native, claims())
	f := signer.NewFingerprint("f")
	var mints signer.MintCache
	var verifies signer.VerifyCache
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 200 {
				mints.Put(ring, f, k, token, now, now.Add(time.Hour), "")
				mints.Get(ring, f, now)
				if _, err := verifies.Verify(ring, token, expect()); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Go(func() {
		for range 200 {
			if _, _, ok := mints.Get(after, f, now); ok {
				t.Error("a JWT of a compromised key was reused")
			}
			if _, err := verifies.Verify(after, token, expect()); !errors.Is(err, signer.ErrUnknownKey) {
				t.Error("a JWT of a compromised key was accepted", err)
			}
			mints.Purge()
			verifies.Purge()
		}
	})
	wg.Wait()
}
