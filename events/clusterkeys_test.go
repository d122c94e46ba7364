package events_test

import (
	"bytes"
	"errors"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/revocast/revocast/events"
)

// TestReplaceClusterKeys: keys come and go, and the one that seals stays until
// another is named.
func TestReplaceClusterKeys(t *testing.T) {
	ks, both := clusterKeys(t, 1), clusterKeys(t, 2, 1, 2)
	first, second := ks.IDs()[0], both.IDs()[0]
	if diff := cmp.Diff([]string{second, first}, both.IDs()); diff != "" {
		t.Errorf("a key given twice\n%s", diff)
	}
	seal := func() string {
		m, err := ks.Encode("eu", &events.Marker{Node: "n1", N: 1}, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		if r := ks.Decode(2, events.Entry{Seq: 1, Message: m}); r.Trust != events.Authentic || r.Sealed.Key() != m.SealKey() {
			t.Errorf("read back: %v, sealed with %q", r.Trust, r.Sealed.Key())
		}
		return m.SealKey()
	}
	if err := ks.Replace(both); err != nil || seal() != first || ks.Sealing() != first {
		t.Errorf("after the second came: %v, sealed with %s", err, seal())
	}
	if err := ks.Replace(clusterKeys(t, 2)); !errors.Is(err, events.ErrSealingKey) || !ks.Holds(first) {
		t.Errorf("without the key that seals: %v", err)
	}
	if !ks.SealWith(second) || seal() != second || ks.SealWith("another-") {
		t.Errorf("sealed with %s", seal())
	}
	old, ok := ks.DeriveFrom(first, "one purpose", 32)
	if !ok || !bytes.Equal(old, clusterKeys(t, 1).Derive("one purpose", 32)) || bytes.Equal(old, ks.Derive("one purpose", 32)) {
		t.Error("derived from the wrong key")
	}
	if err := ks.Replace(clusterKeys(t, 2)); err != nil || ks.Holds(first) {
		t.Errorf("the first goes: %v", err)
	}
	if _, ok := ks.DeriveFrom(first, "one purpose", 32); ok {
		t.Error("derived from a key that is gone")
	}
	for _, seal := range []string{"", "1.", "1.short", "2.abcdefgh.x", "1.abcdefghx"} {
		if id := (&events.Message{Seal: seal}).SealKey(); id != "" {
			t.Errorf("seal %q names %q", seal, id)
		}
	}
}

// TestReplaceUnderUse: what is sealed while keys change is sealed with one of
// them, and whoever holds both can read it.
func TestReplaceUnderUse(t *testing.T) {
	ks, reader := clusterKeys(t, 1, 2), clusterKeys(t, 1, 2)
	ids := ks.IDs()
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range 200 {
				m, err := ks.Encode("eu", &events.Marker{Node: "n1", N: 1}, []byte("private"), 0)
				if err != nil {
					t.Error(err)
					return
				}
				r := reader.Decode(2, events.Entry{Seq: 1, Message: m})
				if plain, err := ks.OpenVerified(r.Sealed); err != nil || string(plain) != "private" {
					t.Errorf("%v: %q, %v", r.Trust, plain, err)
				}
			}
		})
	}
	for i := range 200 {
		ks.SealWith(ids[i%2])
		if err := ks.Replace(clusterKeys(t, byte(1+i%2), byte(2-i%2))); err != nil {
			t.Error(err)
		}
	}
	all.Wait()
}
