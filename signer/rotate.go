package signer

import (
	"cmp"
	"fmt"
	"time"
)

// RotationPolicy says when keys come and go. Its methods change nothing: they
// return the keys to record, in the order to record them, each a copy the caller
// owns; [Ring.With] applies them. Recording only the first few is safe: an old
// key that was not retired in time is retired by the next rotation.
type RotationPolicy struct {
	// Publish is how long a new key is listed before it signs. It must be at
	// least the life of a cached JWKS; with less, verifiers meet JWTs of a key
	// they do not know. Zero: 1 h.
	Publish time.Duration
	// JWTLife is the longest life of a JWT of this app, templates included. A
	// retired key stays listed for JWTLife + Skew. Zero: 5 min.
	JWTLife time.Duration
	// Skew is what clocks, caches and late nodes may be off. Zero: 10 min.
	Skew time.Duration
	// Keep is how long after its retirement a key still authenticates expired
	// JWTs: as long as sessions live. Zero: 366 days.
	Keep time.Duration
	// NewKey makes keys, for private halves that live elsewhere. Nil: GenerateKey.
	NewKey func(Alg) (*Key, error)
}

// Defaults of RotationPolicy.
const (
	DefaultPublish = time.Hour
	DefaultJWTLife = 5 * time.Minute
	DefaultSkew    = 10 * time.Minute
	DefaultKeep    = 366 * 24 * time.Hour
)

// Rotate returns a new key of alg ("" means [DefaultAlg]), then the keys of alg
// that it retires. The new key becomes active after Publish, or as soon as the
// ring would otherwise have no key to sign with: at once for an empty ring.
func (p RotationPolicy) Rotate(r *Ring, alg Alg, now time.Time) ([]*Key, error) {
	alg = cmp.Or(alg, DefaultAlg)
	start := earlier(now.Add(cmp.Or(p.Publish, DefaultPublish)), r.signsUntil("", now))
	next, err := p.make(alg, now, start)
	if err != nil {
		return nil, fmt.Errorf("rotate key: %w", err)
	}
	changed := []*Key{next}
	for _, k := range r.Keys() {
		if k.Alg == alg && !k.Compromised && k.RetiredAt.IsZero() {
			changed = append(changed, p.retired(k, start))
		}
	}
	return changed, nil
}

// Retire returns the key with that id as retired at the given time, for an
// algorithm the app has given up. A key that is retired already is returned
// unchanged, so that repeating the call does not extend its life.
func (p RotationPolicy) Retire(r *Ring, kid string, at time.Time) (*Key, error) {
	k, ok := r.Find(kid)
	if !ok {
		return nil, fmt.Errorf("retire key %q: %w", kid, ErrUnknownKey)
	}
	if !k.RetiredAt.IsZero() {
		same := *k
		return &same, nil
	}
	return p.retired(k, at), nil
}

// Compromise returns the key with that id flagged, then a new one of its
// algorithm if the flagged one still had signing to do and the others leave a
// gap: active at once if the gap begins now. The caller swaps the new ring in
// before it purges caches.
func (p RotationPolicy) Compromise(r *Ring, kid string, now time.Time) ([]*Key, error) {
	k, ok := r.Find(kid)
	if !ok {
		return nil, fmt.Errorf("flag key %q: %w", kid, ErrUnknownKey)
	}
	bad := *k
	bad.Compromised = true
	if bad.RetiredAt.IsZero() || bad.RetiredAt.After(now) {
		bad.RetiredAt = now
	}
	if k.Compromised || !k.RetiredAt.IsZero() && !k.RetiredAt.After(now) {
		return []*Key{&bad}, nil
	}
	gap := r.With(&bad).signsUntil(k.Alg, now)
	if gap.IsZero() {
		return []*Key{&bad}, nil
	}
	next, err := p.make(k.Alg, now, earlier(now.Add(cmp.Or(p.Publish, DefaultPublish)), gap))
	if err != nil {
		return nil, fmt.Errorf("replace key: %w", err)
	}
	return []*Key{&bad, next}, nil
}

func (p RotationPolicy) make(alg Alg, now, active time.Time) (*Key, error) {
	generate := p.NewKey
	if generate == nil {
		generate = GenerateKey
	}
	k, err := generate(alg)
	if err != nil {
		return nil, err
	}
	k.CreatedAt, k.ActiveAt = now, active
	return k, nil
}

func (p RotationPolicy) retired(k *Key, at time.Time) *Key {
	old := *k
	old.RetiredAt = at
	old.ListedUntil = at.Add(cmp.Or(p.JWTLife, DefaultJWTLife) + cmp.Or(p.Skew, DefaultSkew))
	old.ForgetAt = at.Add(cmp.Or(p.Keep, DefaultKeep))
	if old.ForgetAt.Before(old.ListedUntil) {
		old.ForgetAt = old.ListedUntil
	}
	return &old
}

// signsUntil returns when, from now on, there is first no key of alg ("": of any
// algorithm) to sign with, following each key to the one that takes over from
// it: now if there is none at all, zero if that never happens.
func (r *Ring) signsUntil(alg Alg, now time.Time) time.Time {
	for t := now; ; {
		end := t
		for _, k := range r.Keys() {
			if !k.signs(t) || alg != "" && k.Alg != alg {
				continue
			}
			if k.RetiredAt.IsZero() {
				return time.Time{}
			}
			if k.RetiredAt.After(end) {
				end = k.RetiredAt
			}
		}
		if end.Equal(t) {
			return t
		}
		t = end
	}
}

// earlier returns the earlier of two times, of which b may be zero for never.
func earlier(a, b time.Time) time.Time {
	if !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}
