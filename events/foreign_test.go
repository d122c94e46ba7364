package events_test

import (
	"crypto/sha256"
	"testing"

	"github.com/revocast/revocast/events"
)

// TestForeignKey holds the derivation: sessions that were imported are found by
// it for as long as they live.
func TestForeignKey(t *testing.T) {
	hash := events.TokenHash("s:abc.def")
	sum := sha256.Sum256(append([]byte("revocast foreign token\x00demo\x00"), hash[:]...))
	want := events.SID{7}
	copy(want[1:], sum[:15])
	if got := events.ForeignKey("demo", 7, hash); got != want {
		t.Errorf("key %s, want %s", got, want)
	}
}

// TestForeignKeyNamesNothingElse: the hash that an import brings cannot be
// chosen so that it names a native session, or one of another app.
func TestForeignKeyNamesNothingElse(t *testing.T) {
	token := events.NewToken(2)
	native, _ := token.Key()
	seen := map[events.SID]string{native: "native"}
	for _, app := range []string{"a", "b", "a-", "ab"} {
		key := events.ForeignKey(app, 2, events.TokenHash(token.Reveal()))
		if other, ok := seen[key]; ok {
			t.Errorf("the token has the same key in %s and %s", app, other)
		}
		seen[key] = app
	}
}

func TestForeignKeyDoesNotAllocate(t *testing.T) {
	hash := events.TokenHash("x")
	if n := testing.AllocsPerRun(100, func() { _ = events.ForeignKey("demo", 2, hash) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
