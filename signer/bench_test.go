package signer_test

import (
	"testing"
	"time"

	"github.com/revocast/revocast/signer"
)

// BenchmarkMint prints the cost per algorithm and, in the same run, what it is in
// units of a bare signature: the rest is ours.
func BenchmarkMint(b *testing.B) {
	for _, a := range algs {
		for _, p := range signer.Profiles() {
			b.Run(string(a)+"/"+string(p), func(b *testing.B) {
				k, c := keyFor(a), claims()
				b.ReportAllocs()
				for b.Loop() {
					mint(b, k, p, c)
				}
				perMint := b.Elapsed() / time.Duration(b.N)
				b.ReportMetric(float64(len(mint(b, k, p, c))), "bytes")
				b.ReportMetric(float64(perMint)/float64(average(func() { signature(b, k, "input") })), "x-signature")
			})
		}
	}
}

func BenchmarkMintCacheHit(b *testing.B) {
	k := keyFor(signer.ES256)
	ring := signer.NewRing(k)
	var cache signer.MintCache
	cache.Put(ring, signer.NewFingerprint(sid, "native", "eu:1:7"), k, "jwt", now, now.Add(time.Minute), "")
	b.ReportAllocs()
	for b.Loop() {
		if _, _, ok := cache.Get(ring, signer.NewFingerprint(sid, "native", "eu:1:7"), now); !ok {
			b.Fatal("missed")
		}
	}
}

// BenchmarkVerify prints the cost without the cache and, in the same run, how
// many times cheaper a hit is.
func BenchmarkVerify(b *testing.B) {
	for _, a := range algs {
		k := keyFor(a)
		ring, token, e := signer.NewRing(k), mint(b, k, signer.Native, claims()), expect()
		var cache signer.VerifyCache
		hit := func() {
			if _, err := cache.Verify(ring, token, e); err != nil {
				b.Fatal(err)
			}
		}
		b.Run(string(a)+"/uncached", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := ring.Verify(token, e); err != nil {
					b.Fatal(err)
				}
			}
			perVerify := b.Elapsed() / time.Duration(b.N)
			b.ReportMetric(float64(perVerify)/float64(average(hit)), "x-hit")
		})
		b.Run(string(a)+"/cached", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				hit()
			}
		})
	}
}

// BenchmarkRefuse prints what a stranger's junk costs.
func BenchmarkRefuse(b *testing.B) {
	k := keyFor(signer.ES256)
	ring, token := signer.NewRing(k), mint(b, k, signer.Native, claims())
	other := signer.NewRing(fresh(b, signer.ES256))
	for name, tc := range map[string]struct {
		ring  *signer.Ring
		token string
	}{"characters": {ring, token + "="}, "unknown key": {other, token}} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := tc.ring.Verify(tc.token, expect()); err == nil {
					b.Fatal("accepted")
				}
			}
		})
	}
}

// average runs f for a while and returns the time of one call.
func average(f func()) time.Duration {
	const rounds = 200
	start := time.Now()
	for range rounds {
		f()
	}
	return max(time.Since(start)/rounds, 1)
}
