package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/revocast/revocast/signer"
)

const (
	// unknownKeyPause is how long after one look for a key that is not known there is
	// none for another: whoever makes key ids up makes no load by it.
	unknownKeyPause = 3 * time.Second
	// retryKeys is how soon keys are asked for again that could not be fetched, while
	// there are none; oldKeyPause while old ones do, as somebody waits for it.
	retryKeys   = time.Second
	oldKeyPause = 30 * time.Second
)

// errPause: keys were fetched a moment ago.
var errPause = errors.New("public keys were asked for a moment ago")

// keys are the public keys of the app. Once there are some they are used until
// there are others: not being able to fetch them takes none away.
type keys struct {
	fixed   string // the iss that was configured; empty: discovery says it
	current atomic.Pointer[keySet]

	mu     sync.Mutex    // guards what follows
	flight *flight       // the one fetch that goes on; nil: none does
	tried  time.Duration // on the boot clock: when the last fetch began; 0: none has
	failed error         // how it ended
}

// keySet is what was fetched. It never changes.
type keySet struct {
	ring *signer.Ring
	// issuers are the two that JWTs of the app have, by their profile; that of its
	// own profile comes first.
	issuers [2]string
	at      time.Duration
}

// get returns the keys, fetching them if there are none. Of keys that have become
// old, one caller fetches new ones; the others go on.
func (k *keys) get(ctx context.Context, c *Client) (*keySet, error) {
	set := k.current.Load()
	if set == nil {
		err := k.fetch(ctx, c, retryKeys, true)
		if set = k.current.Load(); set == nil {
			return nil, err
		}
		return set, nil
	}
	if c.setup.clock.Boot()-set.at > c.setup.keyAge {
		_ = k.fetch(ctx, c, oldKeyPause, false) // the old ones count on
		set = k.current.Load()
	}
	return set, nil
}

// flight is a fetch that goes on.
type flight struct {
	over chan struct{} // closed when it has ended; then err is set
	err  error
	gone bool // whoever fetched gave up, which says nothing of the node
}

// fetch gets the keys, unless that was tried less than pause ago: then its error is
// errPause itself if they were got. Who comes while another does waits for that, if
// asked to.
func (k *keys) fetch(ctx context.Context, c *Client, pause time.Duration, wait bool) error {
	for {
		k.mu.Lock()
		if other := k.flight; other != nil {
			k.mu.Unlock()
			if !wait {
				return errPause
			}
			select {
			case <-other.over:
			case <-ctx.Done():
				return ctx.Err()
			}
			if !other.gone {
				return other.err
			}
			continue
		}
		now := c.setup.clock.Boot()
		if k.tried != 0 && now-k.tried < pause {
			failed := k.failed
			k.mu.Unlock()
			if failed != nil {
				return fmt.Errorf("%w: %w", errPause, failed)
			}
			return errPause
		}
		ours := &flight{over: make(chan struct{})}
		before := k.tried
		k.flight, k.tried = ours, now
		k.mu.Unlock()
		ours.err = k.load(ctx, c, now)
		ours.gone = ours.err != nil && ctx.Err() != nil
		k.mu.Lock()
		k.flight, k.failed = nil, ours.err
		if ours.gone {
			k.tried = before
		}
		k.mu.Unlock()
		close(ours.over)
		return ours.err
	}
}

// load fetches the keys and, unless it was configured, the issuer.
func (k *keys) load(ctx context.Context, c *Client, now time.Duration) error {
	path := "/v1/apps/" + c.App
	issuer := k.fixed
	if issuer == "" {
		var discovery struct {
			Issuer string `json:"issuer"`
		}
		if err := c.public(ctx, path+"/.well-known/openid-configuration", &discovery); err != nil {
			return fmt.Errorf("fetch issuer: %w", err)
		}
		if issuer = discovery.Issuer; issuer == "" {
			return errors.New("fetch issuer: the node names none")
		}
	}
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := c.public(ctx, path+"/jwks", &set); err != nil {
		return fmt.Errorf("fetch keys: %w", err)
	}
	if set.Keys == nil {
		return errors.New("fetch keys: no array of keys")
	}
	var all []*signer.Key
	for _, one := range set.Keys {
		if key, err := signer.ParsePublic(one); err == nil { // of a kind that a newer node may have: no JWT of it counts here
			all = append(all, key)
		}
	}
	k.current.Store(&keySet{ring: signer.NewRing(all...), issuers: issuersOf(issuer, c.App), at: now})
	return nil
}

// issuersOf returns both issuers of the app: of the native profile and of those of
// vendors, whichever it was given.
func issuersOf(issuer, app string) [2]string {
	issuer = strings.TrimRight(issuer, "/")
	if root, native := strings.CutSuffix(issuer, "/v1/apps/"+app); native {
		return [2]string{issuer, root}
	}
	return [2]string{issuer, issuer + "/v1/apps/" + app}
}

// issuer returns the one that a JWT of the profile must have.
func (s *keySet) issuer(p signer.Profile, app string) string {
	if native := strings.HasSuffix(s.issuers[0], "/v1/apps/"+app); native == (p == signer.Native) {
		return s.issuers[0]
	}
	return s.issuers[1]
}

// keep fetches the keys before they are old until ctx ends, so that no request
// waits for it.
func (k *keys) keep(ctx context.Context, c *Client) {
	for ctx.Err() == nil {
		wait := time.Duration(float64(c.setup.keyAge) * (0.7 + 0.2*rand.Float64()))
		if err := k.fetch(ctx, c, retryKeys, true); err != nil {
			wait = min(wait, retryKeys*2)
		}
		pause(ctx, wait)
	}
}

// pause returns after that time, or when ctx ends.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
