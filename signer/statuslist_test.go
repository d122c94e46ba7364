package signer_test

import (
	"bytes"
	"compress/zlib"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/revocast/revocast/signer"
)

// unpack returns the bytes of lst, as a verifier reads it.
func unpack(t *testing.T, lst string) []byte {
	t.Helper()
	packed, err := base64.RawURLEncoding.DecodeString(lst)
	if err != nil {
		t.Fatal(err)
	}
	r, err := zlib.NewReader(bytes.NewReader(packed))
	if err != nil {
		t.Fatal(err)
	}
	raw, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

type statusClaim struct {
	Bits int    `json:"bits"`
	List string `json:"lst"`
}

func statusClaimOf(t *testing.T, l *signer.StatusList) (c statusClaim, raw []byte) {
	t.Helper()
	text, err := json.Marshal(l)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &c); err != nil {
		t.Fatal(err)
	}
	return c, unpack(t, c.List)
}

// TestStatusListVectors are those of draft-ietf-oauth-status-list, sections 4.1 and
// 4.2: the statuses, the bytes, and the claim as the draft has it, which other
// implementations of zlib pack otherwise and unpack to the same.
func TestStatusListVectors(t *testing.T) {
	for _, v := range []struct {
		bits     int
		statuses []byte
		bytes    []byte
		lst      string
	}{
		{1, []byte{1, 0, 0, 1, 1, 1, 0, 1, 1, 1, 0, 0, 0, 1, 0, 1}, []byte{0xb9, 0xa3}, "eNrbuRgAAhcBXQ"},
		{2, []byte{1, 2, 0, 3, 0, 1, 0, 1, 1, 2, 3, 3}, []byte{0xc9, 0x44, 0xf9}, "eNo76fITAAPfAgc"},
	} {
		l := signer.NewStatusList(len(v.statuses), v.bits, signer.StatusValid)
		for i, s := range v.statuses {
			l.Set(i, s)
		}
		c, raw := statusClaimOf(t, l)
		if c.Bits != v.bits || !bytes.Equal(raw, v.bytes) {
			t.Errorf("%d bits: %d, %x, want %x", v.bits, c.Bits, raw, v.bytes)
		}
		if got := unpack(t, v.lst); !bytes.Equal(got, v.bytes) {
			t.Errorf("the draft's %s unpacks to %x, want %x", v.lst, got, v.bytes)
		}
	}
}

// TestStatusListAgainstPlain compares with one byte a token.
func TestStatusListAgainstPlain(t *testing.T) {
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	for range 200 {
		bits := []int{1, 2, 4, 8}[r.IntN(4)]
		plain := make([]byte, 8*(1+r.IntN(20)))
		first := byte(r.IntN(1 << bits))
		for i := range plain {
			plain[i] = first
		}
		l := signer.NewStatusList(len(plain), bits, first)
		for range r.IntN(30) {
			i, s := r.IntN(len(plain)), byte(r.IntN(1<<bits))
			if r.IntN(3) == 0 {
				l.SetBelow(i, s)
				for j := range i {
					plain[j] = s
				}
				continue
			}
			l.Set(i, s)
			plain[i] = s
		}
		_, raw := statusClaimOf(t, l)
		for i, want := range plain {
			if got := raw[i*bits/8] >> (i * bits % 8) & (1<<bits - 1); got != want {
				t.Fatalf("seed %d: %d bits: token %d is %d, want %d", seed, bits, i, got, want)
			}
		}
	}
}

func TestSignStatusList(t *testing.T) {
	for _, alg := range algs {
		k := keyFor(alg)
		// The longest there is: of 2^20 tokens half are revoked, in no order.
		l := signer.NewStatusList(1<<20, 1, signer.StatusValid)
		r := rand.New(rand.NewPCG(1, 1))
		for i := range 1 << 20 {
			l.Set(i, byte(r.IntN(2)))
		}
		claims, err := json.Marshal(map[string]any{"sub": "https://id.example.com/v1/apps/a/status/eu/0", "status_list": l})
		if err != nil {
			t.Fatal(err)
		}
		token, err := signer.SignStatusList(k, claims, now)
		if err != nil {
			t.Fatal(err)
		}
		head, err := base64.RawURLEncoding.DecodeString(token[:strings.IndexByte(token, '.')])
		if want := fmt.Sprintf(`{"alg":"%s","kid":"%s","typ":"statuslist+jwt"}`, alg, k.ID); err != nil || string(head) != want {
			t.Errorf("header %s, %v, want %s", head, err, want)
		}
		t.Logf("%s: %d bytes at most", alg, len(token))
		if _, err := signer.SignTyped(k, signer.StatusListType, claims, now); !errors.Is(err, signer.ErrTooLarge) {
			t.Errorf("as any statement: %v", err)
		}
		if _, err := signer.SignStatusList(k, claims, now.Add(-48*time.Hour)); !errors.Is(err, signer.ErrNoKey) {
			t.Errorf("with a key that does not sign yet: %v", err)
		}
	}
}

// TestMintStatus: in every profile a JWT says where its status is, and is taken here
// as it was.
func TestMintStatus(t *testing.T) {
	const want = `"status":{"status_list":{"idx":1048575,"uri":"https://sessions.example/v1/apps/shop/status/eu/3"}}`
	for _, p := range signer.Profiles() {
		c := claims()
		if b := body(t, mint(t, keyFor(signer.ES256), p, c)); strings.Contains(b, `"status"`) {
			t.Errorf("%s: a status that was not asked for: %s", p, b)
		}
		c.StatusURI, c.StatusIndex = "https://sessions.example/v1/apps/shop/status/eu/3", 1<<20-1
		token := mint(t, keyFor(signer.ES256), p, c)
		if b := body(t, token); !strings.Contains(b, want) {
			t.Errorf("%s: %s", p, b)
		}
		if v, err := signer.NewRing(keyFor(signer.ES256)).Verify(token, expect()); err != nil || v.SessionID != sid {
			t.Errorf("%s: %v", p, err)
		}
	}
}

// BenchmarkStatusList makes and signs the list of 2^20 tokens of which some are
// revoked.
func BenchmarkStatusList(b *testing.B) {
	for _, revoked := range []int{0, 100, 10_000, 1 << 19} {
		b.Run(fmt.Sprint(revoked), func(b *testing.B) {
			k, r, size := keyFor(signer.ES256), rand.New(rand.NewPCG(1, 1)), 0
			for b.Loop() {
				l := signer.NewStatusList(1<<20, 1, signer.StatusValid)
				for range revoked {
					l.Set(r.IntN(1<<20), signer.StatusInvalid)
				}
				claims, err := json.Marshal(map[string]any{"status_list": l})
				if err != nil {
					b.Fatal(err)
				}
				token, err := signer.SignStatusList(k, claims, now)
				if err != nil {
					b.Fatal(err)
				}
				size = len(token)
			}
			b.ReportMetric(float64(size), "bytes")
		})
	}
}
