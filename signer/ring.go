package signer

import (
	"cmp"
	"slices"
	"strings"
	"time"
)

// Ring is the set of the keys of one app. It never changes after NewRing, so any
// number of goroutines may read it; a change of keys is a new ring, swapped in
// as a whole. The nil Ring is empty.
type Ring struct {
	keys []*Key // the ring's own copies, newest first
	byID map[string]*Key
}

// NewRing copies the keys. Ids are computed from the public halves. Of records
// with the same id the last counts, except that compromise is never taken back.
// A key whose public half does not suit its Alg, which neither GenerateKey,
// NewKey nor the Parse functions return, is left out: it could verify nothing.
func NewRing(keys ...*Key) *Ring {
	r := &Ring{byID: make(map[string]*Key, len(keys))}
	for _, k := range keys {
		if k == nil || checkPublic(k.Alg, k.Public) != nil {
			continue
		}
		own := *k
		own.ID = jwkOf(k.Alg, k.Public).thumbprint()
		if old := r.byID[own.ID]; old != nil && old.Compromised {
			own.Compromised = true
		}
		r.byID[own.ID] = &own
	}
	for _, k := range r.byID {
		r.keys = append(r.keys, k)
	}
	slices.SortFunc(r.keys, newestFirst)
	return r
}

// newestFirst is a total order, so that every node picks the same key.
func newestFirst(a, b *Key) int {
	return cmp.Or(b.ActiveAt.Compare(a.ActiveAt), b.CreatedAt.Compare(a.CreatedAt), strings.Compare(a.ID, b.ID))
}

// With returns a ring in which the given keys are added or, by id, replaced.
func (r *Ring) With(keys ...*Key) *Ring {
	return NewRing(slices.Concat(r.Keys(), keys)...)
}

// Keys returns all keys, newest first, whatever their state. The slice is the
// caller's, the keys are not.
func (r *Ring) Keys() []*Key {
	if r == nil {
		return nil
	}
	return slices.Clone(r.keys)
}

// Find returns the key with this id, whatever its state.
func (r *Ring) Find(kid string) (*Key, bool) {
	if r == nil {
		return nil, false
	}
	k, ok := r.byID[kid]
	return k, ok
}

// Active returns the key to sign with at now: the newest of alg ("" means
// [DefaultAlg]) that is active, not retired, not compromised and has its private
// half. When alg has none, the newest such key of any other algorithm is
// returned: an app that changes its algorithm goes on signing with the old one
// until the new key has been published long enough. [ErrNoKey] if there is none.
func (r *Ring) Active(alg Alg, now time.Time) (*Key, error) {
	if r == nil {
		return nil, ErrNoKey
	}
	alg = cmp.Or(alg, DefaultAlg)
	var other *Key
	for _, k := range r.keys {
		switch {
		case !k.signs(now):
		case k.Alg == alg:
			return k, nil
		case other == nil:
			other = k
		}
	}
	if other == nil {
		return nil, ErrNoKey
	}
	return other, nil
}

// JWKS returns the public halves that verifiers should know at now: active keys,
// keys that will become active, and retired ones until ListedUntil; newest
// first, the same bytes on every node.
func (r *Ring) JWKS(now time.Time) JWKS {
	s := JWKS{Keys: []JWK{}}
	if r == nil {
		return s
	}
	for _, k := range r.keys {
		if k.listed(now) {
			s.Keys = append(s.Keys, k.JWK())
		}
	}
	return s
}
