package signer_test

import (
	"encoding/json"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/revocast/revocast/signer"
)

// timed makes a key with these times after now; zero: not set.
func timed(t *testing.T, a signer.Alg, active, retired, listed time.Duration) *signer.Key {
	t.Helper()
	k := fresh(t, a)
	k.CreatedAt, k.ActiveAt = now.Add(active-time.Hour), now.Add(active)
	if retired != 0 {
		k.RetiredAt = now.Add(retired)
	}
	if listed != 0 {
		k.ListedUntil = now.Add(listed)
	}
	return k
}

func TestActiveAndJWKS(t *testing.T) {
	old := timed(t, signer.ES256, -48*time.Hour, -time.Hour, time.Hour)
	gone := timed(t, signer.ES256, -96*time.Hour, -48*time.Hour, -47*time.Hour)
	current := timed(t, signer.ES256, -2*time.Hour, time.Hour, 0)
	newest := timed(t, signer.ES256, -time.Hour, 0, 0)
	next := timed(t, signer.ES256, time.Hour, 0, 0)
	bad := timed(t, signer.ES256, -time.Minute, 0, 0)
	bad.Compromised = true
	public := timed(t, signer.ES256, -time.Second, 0, 0)
	public.Signer = nil
	ed := timed(t, signer.EdDSA, -61*time.Minute, 0, 0)
	all := []*signer.Key{old, gone, current, newest, next, bad, public, ed}

	for _, tc := range []struct {
		name string
		keys []*signer.Key
		alg  signer.Alg
		at   time.Duration
		want *signer.Key
	}{
		{"newest", all, signer.ES256, 0, newest},
		{"default alg", all, "", 0, newest},
		{"just before the next", all, "", time.Hour - 1, newest},
		{"at the next", all, "", time.Hour, next},
		{"other alg", all, signer.EdDSA, 0, ed},
		{"no key of that alg", all, signer.RS256, 0, newest},
		{"only the other alg is active", []*signer.Key{next, ed}, signer.ES256, 0, ed},
		{"the alg is active at last", []*signer.Key{next, ed}, signer.ES256, 2 * time.Hour, next},
		{"just before retirement", []*signer.Key{current}, "", time.Hour - 1, current},
		{"at retirement", []*signer.Key{current}, "", time.Hour, nil},
		{"nothing usable", []*signer.Key{old, gone, next, bad, public}, "", 0, nil},
		{"empty", nil, "", 0, nil},
	} {
		got, err := signer.NewRing(tc.keys...).Active(tc.alg, now.Add(tc.at))
		switch {
		case tc.want == nil:
			if !errors.Is(err, signer.ErrNoKey) || got != nil {
				t.Errorf("%s: %v, %v", tc.name, got, err)
			}
		case err != nil || got.ID != tc.want.ID:
			t.Errorf("%s: %v, want %v, %v", tc.name, got, tc.want, err)
		}
	}
	var none *signer.Ring
	if _, err := none.Active("", now); !errors.Is(err, signer.ErrNoKey) || len(none.JWKS(now).Keys) != 0 || none.Keys() != nil {
		t.Error("the nil ring is not empty")
	}

	ids := func(at time.Duration) (got []string) {
		for _, j := range signer.NewRing(all...).JWKS(now.Add(at)).Keys {
			got = append(got, j.KeyID)
		}
		return got
	}
	want := []string{next.ID, public.ID, newest.ID, ed.ID, current.ID, old.ID}
	if diff := cmp.Diff(want, ids(0)); diff != "" {
		t.Errorf("listed now (-want +got):\n%s", diff)
	}
	if slices.Contains(ids(time.Hour), old.ID) {
		t.Error("listed at ListedUntil")
	}
}

// TestRingIsImmutable: no change to a key that was handed in shows, and equal
// sets of keys list the same bytes in any order.
func TestRingIsImmutable(t *testing.T) {
	seed := rand.Uint64()
	rnd := rand.New(rand.NewPCG(seed, 0))
	k := keyFor(signer.ES256)
	ring := signer.NewRing(k)
	token := mint(t, k, signer.Native, claims())
	k.Compromised, k.ID, k.Alg, k.Public = true, "x", "none", nil
	if _, err := ring.Verify(token, expect()); err != nil {
		t.Errorf("a key changed inside a ring: %v", err)
	}
	list := ring.Keys()
	list[0] = nil
	if ring.Keys()[0] == nil {
		t.Error("the slice of keys is the ring's own")
	}
	mixed := keyFor(signer.ES256)
	mixed.Alg = signer.RS256
	if len(signer.NewRing(k, nil, &signer.Key{ID: "y"}, mixed).Keys()) != 0 {
		t.Error("a ring took keys that can verify nothing")
	}

	var many []*signer.Key
	for range 12 {
		many = append(many, timed(t, signer.EdDSA, time.Duration(rnd.IntN(3))*time.Hour, 0, 0))
	}
	want, _ := json.Marshal(signer.NewRing(many...).JWKS(now))
	active, _ := signer.NewRing(many...).Active(signer.EdDSA, now.Add(5*time.Hour))
	for range 20 {
		rnd.Shuffle(len(many), func(i, j int) { many[i], many[j] = many[j], many[i] })
		ring := signer.NewRing(many...)
		if got, _ := json.Marshal(ring.JWKS(now)); string(got) != string(want) {
			t.Fatalf("seed %d: JWKS depends on the order of keys", seed)
		}
		if got, _ := ring.Active(signer.EdDSA, now.Add(5*time.Hour)); got.ID != active.ID {
			t.Fatalf("seed %d: the active key depends on the order of keys", seed)
		}
	}
}

// TestRingTakesNoBorrowedID: the id is computed, so a record cannot put a key
// under the id of another.
func TestRingTakesNoBorrowedID(t *testing.T) {
	k, thief := keyFor(signer.ES256), fresh(t, signer.ES256)
	honest := thief.ID
	thief.ID = k.ID
	ring := signer.NewRing(k).With(thief)
	if _, err := ring.Verify(mint(t, k, signer.Native, claims()), expect()); err != nil {
		t.Error(err)
	}
	if _, err := ring.Verify(mint(t, thief, signer.Native, claims()), expect()); err == nil {
		t.Error("the thief's JWT verifies under a borrowed kid")
	}
	if _, ok := ring.Find(honest); !ok {
		t.Error("the key is not under its own id")
	}
}

func TestCompromiseIsAbsorbing(t *testing.T) {
	good, bad := keyFor(signer.ES256), keyFor(signer.ES256)
	bad.Compromised = true
	for _, ring := range []*signer.Ring{signer.NewRing(good, bad), signer.NewRing(bad, good), signer.NewRing(good).With(bad), signer.NewRing(bad).With(good)} {
		if k, ok := ring.Find(good.ID); !ok || !k.Compromised {
			t.Error("compromise was taken back")
		}
	}
	later := keyFor(signer.ES256)
	later.RetiredAt = now
	if k, _ := signer.NewRing(good).With(later).Find(good.ID); !k.RetiredAt.Equal(now) {
		t.Error("With did not replace the key")
	}
}

func TestRotate(t *testing.T) {
	p := signer.RotationPolicy{}
	ring := signer.NewRing()
	rotate := func(a signer.Alg, at time.Duration) []*signer.Key {
		t.Helper()
		changed, err := p.Rotate(ring, a, now.Add(at))
		if err != nil {
			t.Fatal(err)
		}
		ring = ring.With(changed...)
		return changed
	}
	active := func(a signer.Alg, at time.Duration) string {
		t.Helper()
		k, err := ring.Active(a, now.Add(at))
		if err != nil {
			t.Fatal(err)
		}
		return k.ID
	}

	first := rotate("", 0)
	if len(first) != 1 || first[0].Alg != signer.ES256 || !first[0].ActiveAt.Equal(now) || !first[0].CreatedAt.Equal(now) {
		t.Fatalf("first key: %+v", first)
	}

	// The second is published an hour ahead; the first signs until then.
	second := rotate(signer.ES256, 24*time.Hour)
	start := now.Add(25 * time.Hour)
	if len(second) != 2 || !second[0].ActiveAt.Equal(start) || second[1].ID != first[0].ID {
		t.Fatalf("second rotation changed %d keys, active at %v", len(second), second[0].ActiveAt)
	}
	old := second[1]
	if !old.RetiredAt.Equal(start) || !old.ListedUntil.Equal(start.Add(15*time.Minute)) || !old.ForgetAt.Equal(start.Add(366*24*time.Hour)) {
		t.Errorf("retired %v, listed until %v, forgotten %v", old.RetiredAt, old.ListedUntil, old.ForgetAt)
	}
	if active("", 25*time.Hour-1) != first[0].ID || active("", 25*time.Hour) != second[0].ID {
		t.Error("the keys do not follow each other without a gap")
	}
	if n := len(ring.JWKS(now.Add(24 * time.Hour)).Keys); n != 2 {
		t.Errorf("%d keys published ahead", n)
	}

	// Another before the second is active: the first keeps its retirement.
	third := rotate(signer.ES256, 24*time.Hour+30*time.Minute)
	if len(third) != 2 || third[1].ID != second[0].ID || !third[0].ActiveAt.Equal(now.Add(25*time.Hour+30*time.Minute)) {
		t.Errorf("third rotation: %v", third)
	}

	// Another algorithm: the old goes on signing until the new one is known.
	rs := rotate(signer.EdDSA, 48*time.Hour)
	if len(rs) != 1 || !rs[0].ActiveAt.Equal(now.Add(49*time.Hour)) {
		t.Fatalf("new algorithm: %v", rs)
	}
	if active(signer.EdDSA, 48*time.Hour) != third[0].ID || active(signer.EdDSA, 49*time.Hour) != rs[0].ID || active(signer.ES256, 49*time.Hour) != third[0].ID {
		t.Error("wrong key around a change of algorithm")
	}
	gone, err := p.Retire(ring, third[0].ID, rs[0].ActiveAt)
	if err != nil || !gone.RetiredAt.Equal(rs[0].ActiveAt) {
		t.Fatal(gone, err)
	}
	ring = ring.With(gone)
	if active(signer.ES256, 49*time.Hour) != rs[0].ID {
		t.Error("a retired algorithm still signs")
	}
	if again, err := p.Retire(ring, third[0].ID, now.Add(99*time.Hour)); err != nil || !again.RetiredAt.Equal(gone.RetiredAt) {
		t.Error("retired twice", err)
	}
	if _, err := p.Retire(ring, "x", now); err == nil {
		t.Error("retired an unknown key")
	}
}

// TestRotateClosesGap: a key that retires without a successor gets one in time,
// even if that is shorter than Publish.
func TestRotateClosesGap(t *testing.T) {
	k := timed(t, signer.ES256, -time.Hour, 20*time.Minute, 0)
	changed, err := signer.RotationPolicy{}.Rotate(signer.NewRing(k), "", now)
	if err != nil || len(changed) != 1 || !changed[0].ActiveAt.Equal(k.RetiredAt) {
		t.Errorf("%v, %v", changed, err)
	}
	custom := signer.RotationPolicy{Publish: time.Minute, JWTLife: time.Hour, Skew: time.Second, Keep: time.Minute,
		NewKey: func(a signer.Alg) (*signer.Key, error) { return keyFor(a), nil }}
	changed, err = custom.Rotate(signer.NewRing(timed(t, signer.ES256, -time.Hour, 0, 0)), signer.ES256, now)
	if err != nil || changed[0].ID != keyFor(signer.ES256).ID || !changed[0].ActiveAt.Equal(now.Add(time.Minute)) {
		t.Fatal(changed, err)
	}
	if at := changed[1].RetiredAt; !changed[1].ListedUntil.Equal(at.Add(time.Hour+time.Second)) || changed[1].ForgetAt.Before(changed[1].ListedUntil) {
		t.Errorf("listed until %v, forgotten %v", changed[1].ListedUntil, changed[1].ForgetAt)
	}
	boom := errors.New("kms is down")
	custom.NewKey = func(signer.Alg) (*signer.Key, error) { return nil, boom }
	if _, err := custom.Rotate(signer.NewRing(), "", now); !errors.Is(err, boom) {
		t.Error(err)
	}
}

func TestCompromise(t *testing.T) {
	current, next := timed(t, signer.ES256, -time.Hour, 30*time.Minute, 0), timed(t, signer.ES256, 30*time.Minute, 0, 0)
	old, ed := timed(t, signer.ES256, -9*time.Hour, -time.Hour, time.Hour), timed(t, signer.EdDSA, -time.Hour, 0, 0)
	flagged := timed(t, signer.ES256, -time.Hour, 0, 0)
	flagged.Compromised = true
	for _, tc := range []struct {
		name string
		keys []*signer.Key
		bad  *signer.Key
		next time.Duration // when the new key becomes active; -1: there is none
	}{
		{"the only key", []*signer.Key{next, old}, next, 0},
		{"the key that signs", []*signer.Key{current, next, old, ed}, current, 0},
		{"the next key", []*signer.Key{current, next, old}, next, 30 * time.Minute},
		{"a retired key", []*signer.Key{current, next, old}, old, -1},
		{"a retired key of an algorithm given up", []*signer.Key{old, ed}, old, -1},
		{"flagged before", []*signer.Key{flagged, next}, flagged, -1},
		{"one of two that sign", []*signer.Key{flagged, timed(t, signer.EdDSA, -time.Hour, 0, 0), ed}, ed, -1},
	} {
		ring := signer.NewRing(tc.keys...)
		changed, err := signer.RotationPolicy{}.Compromise(ring, tc.bad.ID, now)
		if err != nil || !changed[0].Compromised || changed[0].ID != tc.bad.ID {
			t.Errorf("%s: %v, %v", tc.name, changed, err)
			continue
		}
		if tc.next < 0 && len(changed) != 1 || tc.next >= 0 && (len(changed) != 2 || !changed[1].ActiveAt.Equal(now.Add(tc.next)) || changed[1].Alg != tc.bad.Alg) {
			t.Errorf("%s: changed %v", tc.name, changed)
		}
		after := ring.With(changed...)
		for _, j := range after.JWKS(now).Keys {
			if j.KeyID == tc.bad.ID {
				t.Errorf("%s: still listed", tc.name)
			}
		}
		if k, err := after.Active(tc.bad.Alg, now); err == nil && k.ID == tc.bad.ID {
			t.Errorf("%s: still signs", tc.name)
		}
		if k, ok := ring.Find(tc.bad.ID); !ok || k.Compromised != tc.bad.Compromised {
			t.Errorf("%s: the old ring changed", tc.name)
		}
	}
	if _, err := (signer.RotationPolicy{}).Compromise(signer.NewRing(), "x", now); err == nil {
		t.Error("flagged an unknown key")
	}
}

// TestRotationNeverStops: whatever is rotated or flagged and when, a ring that
// was started has a key to sign with at every moment, and a JWT whose key was not
// flagged verifies until it expires. Without flagging, every key but the first
// has been listed for Publish before it signs.
func TestRotationNeverStops(t *testing.T) {
	seed := rand.Uint64()
	rnd := rand.New(rand.NewPCG(seed, 0))
	p := signer.RotationPolicy{}
	type held struct {
		token, kid string
		expires    time.Time
	}
	for run := range 12 {
		flagging := run%2 == 0
		at := now
		first, err := p.Rotate(nil, signer.EdDSA, at)
		if err != nil {
			t.Fatal(err)
		}
		ring := signer.NewRing(first...)
		var tokens []held
		for range 40 {
			at = at.Add(time.Duration(rnd.IntN(3600)) * time.Second)
			var changed []*signer.Key
			switch n := rnd.IntN(4); {
			case n == 0:
				changed, err = p.Rotate(ring, signer.EdDSA, at)
			case n == 1 && flagging:
				all := ring.Keys()
				bad := all[rnd.IntN(len(all))].ID
				changed, err = p.Compromise(ring, bad, at)
				tokens = slices.DeleteFunc(tokens, func(h held) bool { return h.kid == bad })
			}
			if err != nil {
				t.Fatal(err)
			}
			ring = ring.With(changed...)
			for range 4 {
				at = at.Add(time.Duration(rnd.IntN(120)) * time.Second)
				k, err := ring.Active(signer.EdDSA, at)
				if err != nil {
					t.Fatalf("seed %d run %d: %v", seed, run, err)
				}
				if !flagging && k.ID != first[0].ID && at.Sub(k.CreatedAt) < signer.DefaultPublish {
					t.Fatalf("seed %d run %d: signs %v after it was made", seed, run, at.Sub(k.CreatedAt))
				}
				c, e := claims(), expect()
				c.IssuedAt, c.Expires, e.Now = at, at.Add(5*time.Minute), at
				tokens = append(tokens, held{mint(t, k, signer.Native, c), k.ID, c.Expires})
				tokens = slices.DeleteFunc(tokens, func(h held) bool { return !h.expires.After(at) })
				for _, h := range tokens {
					if _, err := ring.Verify(h.token, e); err != nil {
						t.Fatalf("seed %d run %d: %v", seed, run, err)
					}
				}
			}
		}
	}
}
