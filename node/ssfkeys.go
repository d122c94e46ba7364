package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node/api"
	"github.com/revocast/revocast/projection"
	"github.com/revocast/revocast/signer"
)

// The setting that holds the keys of the Shared Signals transmitter. They are
// apart from those of all apps, because all SETs have the one issuer and the CAEP
// interoperability profile demands RS256 of them.
const (
	secretType = "secret"
	ssfSecret  = "ssf"
)

// ssfKeep is how long a retired key stays listed: a receiver may have a SET lie
// for some days before it looks at it, and SETs do not expire.
const ssfKeep = 7 * 24 * time.Hour

var ssfRotation = signer.RotationPolicy{JWTLife: ssfKeep, Keep: ssfKeep}

// storedKey is a key of the transmitter in the value of the setting; the private
// part has the private halves in PKCS #8, by kid, of those that may yet sign.
type storedKey struct {
	Public      json.RawMessage `json:"public"`
	CreatedAt   int64           `json:"created_at"`
	ActiveAt    int64           `json:"active_at"`
	RetiredAt   int64           `json:"retired_at,omitempty"`
	ListedUntil int64           `json:"listed_until,omitempty"`
	ForgetAt    int64           `json:"forget_at,omitempty"`
	Compromised bool            `json:"compromised,omitempty"`
}

type storedKeys struct {
	Keys []storedKey `json:"keys"`
}

// ssfKeys holds the transmitter's keys as they were read last.
type ssfKeys struct {
	mu   sync.Mutex // guards the fields below
	of   *events.Setting
	ring *signer.Ring
}

// ssfRing returns the transmitter's keys; empty: none was made yet.
func (n *Node) ssfRing() (*signer.Ring, error) { return n.ssfRingIn(n.catalog.Snapshot()) }

func (n *Node) ssfRingIn(snap *projection.Snapshot) (*signer.Ring, error) {
	held, ok := snap.Setting("", secretType, ssfSecret)
	if !ok {
		return signer.NewRing(), nil
	}
	n.ssfKeys.mu.Lock()
	defer n.ssfKeys.mu.Unlock()
	if n.ssfKeys.of == held {
		return n.ssfKeys.ring, nil
	}
	private, err := n.conf.Keys.OpenVerified(snap.Sealed(held))
	if err != nil {
		return nil, fmt.Errorf("open keys of the transmitter: %w", err)
	}
	ring, err := parseSSFKeys(held.Value, private)
	if err != nil {
		return nil, fmt.Errorf("read keys of the transmitter: %w", err)
	}
	n.ssfKeys.of, n.ssfKeys.ring = held, ring
	return ring, nil
}

func parseSSFKeys(value json.RawMessage, private []byte) (*signer.Ring, error) {
	var stored storedKeys
	var halves map[string][]byte
	if err := errors.Join(json.Unmarshal(value, &stored), json.Unmarshal(private, &halves)); err != nil {
		return nil, err
	}
	keys := make([]*signer.Key, 0, len(stored.Keys))
	for _, s := range stored.Keys {
		k, err := signer.ParsePublic(s.Public)
		if err != nil {
			return nil, err
		}
		if der, ok := halves[k.ID]; ok {
			whole, err := signer.ParsePrivate(k.Alg, der)
			if err != nil {
				return nil, err
			}
			if whole.ID != k.ID {
				return nil, fmt.Errorf("the private half of key %s is that of another", k.ID)
			}
			k = whole
		}
		k.CreatedAt, k.ActiveAt, k.RetiredAt = fromMS(s.CreatedAt), fromMS(s.ActiveAt), fromMS(s.RetiredAt)
		k.ListedUntil, k.ForgetAt, k.Compromised = fromMS(s.ListedUntil), fromMS(s.ForgetAt), s.Compromised
		keys = append(keys, k)
	}
	return signer.NewRing(keys...), nil
}

// writeSSFKeys returns the ring as it is stored. What nobody needs any more is
// left out: keys that are no longer listed, and the private halves of those that
// sign no more. That a key was compromised is kept as long as it would be listed.
func writeSSFKeys(ring *signer.Ring, now time.Time) (value json.RawMessage, private []byte, err error) {
	stored, halves := storedKeys{Keys: []storedKey{}}, map[string][]byte{}
	for _, k := range ring.Keys() {
		if !k.ForgetAt.IsZero() && !now.Before(k.ForgetAt) {
			continue
		}
		public, err := k.MarshalPublic()
		if err != nil {
			return nil, nil, err
		}
		if k.Signer != nil && !k.Compromised && (k.RetiredAt.IsZero() || now.Before(k.RetiredAt)) {
			if halves[k.ID], err = k.MarshalPrivate(); err != nil {
				return nil, nil, err
			}
		}
		stored.Keys = append(stored.Keys, storedKey{
			Public: public, CreatedAt: toMS(k.CreatedAt), ActiveAt: toMS(k.ActiveAt), RetiredAt: toMS(k.RetiredAt),
			ListedUntil: toMS(k.ListedUntil), ForgetAt: toMS(k.ForgetAt), Compromised: k.Compromised,
		})
	}
	if value, err = marshal(stored); err != nil {
		return nil, nil, err
	}
	private, err = marshal(halves)
	return value, private, err
}

// needSSFKey makes the transmitter's first key if there is none. Nobody can have
// cached its keys before, so it signs at once.
func (n *Node) needSSFKey(ctx context.Context, by string) error {
	if _, ok := n.catalog.Snapshot().Setting("", secretType, ssfSecret); ok {
		return nil
	}
	k, err := signer.GenerateKey(signer.RS256)
	if err != nil {
		return err
	}
	now := n.conf.Clock.Wall()
	k.CreatedAt, k.ActiveAt = now, now.Add(-maxClockSkew)
	_, err = n.editSetting(ctx, "", secretType, ssfSecret, by, func(snap *projection.Snapshot, held *events.Setting) (json.RawMessage, []byte, error) {
		if held != nil {
			return nil, nil, errUnchanged // somebody else made it meanwhile
		}
		return writeSSFKeys(signer.NewRing(k), now)
	})
	return err
}

// ssfJWKS answers GET /ssf/jwks.json. As all public keys it is answered without a
// lease.
func (n *Node) ssfJWKS(_ context.Context, c *call) (int, any, error) {
	c.h.Set("Access-Control-Allow-Origin", "*")
	ring, err := n.ssfRing()
	if err != nil {
		return 0, nil, err
	}
	set := keySet{ring.JWKS(n.conf.Clock.Wall()).Keys}
	if len(set.Keys) == 0 {
		return http.StatusOK, &set, nil // not to be cached: the first stream brings the first key
	}
	return cached(c, set, &set, "")
}

// rotateSSFKeys answers POST /v1/ssf/keys/rotate: it publishes the transmitter's
// next key, which signs an hour later, or with "compromised" removes that key and
// replaces it at once.
func (n *Node) rotateSSFKeys(ctx context.Context, c *call) (int, any, error) {
	var in api.RotateKeys
	if err := c.decode(&in); err != nil {
		return 0, nil, err
	}
	if in.Alg != "" && in.Alg != string(signer.RS256) {
		return 0, nil, badSetting("alg", "security event tokens are signed with RS256")
	}
	if err := n.needSSFKey(ctx, c.caller.keyID); err != nil {
		return 0, nil, err
	}
	now := n.conf.Clock.Wall()
	var ring *signer.Ring
	pos, err := n.editSetting(ctx, "", secretType, ssfSecret, c.caller.keyID, func(snap *projection.Snapshot, _ *events.Setting) (json.RawMessage, []byte, error) {
		held, err := n.ssfRingIn(snap)
		if err != nil {
			return nil, nil, err
		}
		changed, err := nextSSFKeys(held, in.Compromised, now)
		if err != nil {
			return nil, nil, err
		}
		ring = held.With(changed...)
		return writeSSFKeys(ring, now)
	})
	if err != nil {
		return 0, nil, err
	}
	return http.StatusOK, &api.SSFKeys{Keys: shownKeys(ring, now), Revision: pos.String()}, nil
}

func nextSSFKeys(ring *signer.Ring, compromised string, now time.Time) ([]*signer.Key, error) {
	if compromised != "" {
		if _, ok := ring.Find(compromised); !ok {
			return nil, fail(api.NotFound, "the transmitter has no key %q", compromised)
		}
		return ssfRotation.Compromise(ring, compromised, now)
	}
	if i := slices.IndexFunc(ring.Keys(), func(k *signer.Key) bool { return !k.Compromised && now.Before(k.ActiveAt) }); i >= 0 {
		next := ring.Keys()[i]
		return nil, fail(api.Conflict, "the next key, %s, is published already and signs from %s on",
			next.ID, next.ActiveAt.UTC().Format(time.RFC3339)).with("kid", next.ID)
	}
	return ssfRotation.Rotate(ring, signer.RS256, now)
}
