package client_test

import (
	"fmt"
	"io"
	"math"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/revocast/revocast/node/client"
	"github.com/revocast/revocast/signer"
)

// costs are what a JWT of a session can be verified with.
type costs struct {
	w      *world
	c      *client.Client
	jwts   []string
	key    any
	verify *http.Request
	http   *http.Client
}

func newCosts(t testing.TB, jwts int) *costs {
	t.Helper()
	w := newWorld(t, 1)
	url := w.nodes[0].serve(t)
	k := &costs{w: w, http: &http.Client{Transport: &http.Transport{}}}
	t.Cleanup(k.http.CloseIdleConnections)
	k.c = w.overTCP([]string{url}, func(c *client.Client) { c.OnStale = client.Refuse })
	w.ready(k.c)
	for range jwts {
		k.jwts = append(k.jwts, login(t, k.c, "ada").SessionJWT)
	}
	var set struct{ Keys []signer.JWK }
	w.must(w.nodes[0], "", "GET", "/v1/apps/acme/jwks", nil, &set)
	text := fmt.Sprintf(`{"kty":%q,"crv":%q,"x":%q,"y":%q}`, set.Keys[0].KeyType, set.Keys[0].Curve, set.Keys[0].X, set.Keys[0].Y)
	public, err := signer.ParsePublic([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	k.key = public.Public
	if k.verify, err = http.NewRequestWithContext(t.Context(), http.MethodGet, url+"/v1/verify", nil); err != nil {
		t.Fatal(err)
	}
	k.verify.Header.Set("Authorization", "Bearer "+k.jwts[0])
	return k
}

// seen verifies a JWT that was verified before.
func (k *costs) seen() error { return k.local(k.jwts[0]) }

func (k *costs) local(text string) error {
	s, err := k.c.Verify(k.w.t.Context(), text)
	if err == nil && s.Detail != nil {
		return fmt.Errorf("the API was asked")
	}
	return err
}

// plain is what golang-jwt does: the signature, iss, aud, exp. It does not hear of
// revocations.
func (k *costs) plain(text string) error {
	_, err := jwt.ParseWithClaims(text, jwt.MapClaims{}, func(*jwt.Token) (any, error) { return k.key, nil },
		jwt.WithValidMethods([]string{"ES256"}), jwt.WithIssuer(publicURL+"/v1/apps/acme"), jwt.WithAudience("acme"), jwt.WithExpirationRequired())
	return err
}

// ask asks the node, as proxies do, on a connection that is kept.
func (k *costs) ask() error {
	r, err := k.http.Do(k.verify)
	if err != nil {
		return err
	}
	defer r.Body.Close()
	_, _ = io.Copy(io.Discard, r.Body)
	if r.StatusCode != http.StatusNoContent {
		return fmt.Errorf("verify: %s", r.Status)
	}
	return nil
}

// TestCost prints what it costs to verify a JWT here, beside what does not hear of
// revocations and what asks a node.
func TestCost(t *testing.T) {
	if raceEnabled {
		t.Skip("SKIPPED: what things cost says nothing under the race detector")
	}
	k := newCosts(t, 200)
	// The least of ten parts: what else runs on the machine only adds.
	each := func(n int, one func(i int) error) time.Duration {
		t.Helper()
		least := time.Duration(math.MaxInt64)
		for part := range 10 {
			began := time.Now()
			for i := part * n / 10; i < (part+1)*n/10; i++ {
				if err := one(i); err != nil {
					t.Fatal(err)
				}
			}
			least = min(least, time.Since(began)*10/time.Duration(n))
		}
		return least
	}
	first := each(len(k.jwts), func(i int) error { return k.local(k.jwts[i]) })
	seen := each(20_000, func(int) error { return k.seen() })
	plain := each(len(k.jwts), func(i int) error { return k.plain(k.jwts[i]) })
	ask := each(500, func(int) error { return k.ask() })
	table := &strings.Builder{}
	for _, row := range []struct {
		what string
		took time.Duration
	}{
		{"Client.Verify, JWT seen before", seen},
		{"Client.Verify, JWT seen first (ES256)", first},
		{"golang-jwt, each time (ES256), revocations unheard", plain},
		{"GET /v1/verify over loopback, connection kept", ask},
	} {
		fmt.Fprintf(table, "\n%-52s %12v %8.2f x golang-jwt", row.what, row.took, float64(row.took)/float64(plain))
	}
	t.Log(table)
	if seen > 100*time.Microsecond {
		t.Errorf("a JWT that was seen before costs %v, want less than 100 µs", seen)
	}
}

// BenchmarkVerify is the same for one at a time, with allocations.
func BenchmarkVerify(b *testing.B) {
	k := newCosts(b, 1)
	v := newVault(b, signer.ES256)
	for name, one := range map[string]func() error{
		"seen":       k.seen,
		"golang-jwt": func() error { return k.plain(k.jwts[0]) },
		"node":       k.ask,
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := one(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	b.Run("first", func(b *testing.B) {
		b.ReportAllocs()
		c := v.client(func(c *client.Client) { c.Entries = 1 })
		jwts := make([]string, 512)
		for i := range jwts {
			jwts[i] = v.jwt(v.keys[0], signer.Native)
		}
		for i := 0; b.Loop(); i++ {
			if _, err := c.Verify(b.Context(), jwts[i%len(jwts)]); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("parallel", func(b *testing.B) {
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				if err := k.seen(); err != nil {
					b.Error(err)
				}
			}
		})
	})
}
