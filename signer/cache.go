package signer

import (
	"crypto/sha256"
	"encoding/binary"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
)

// DefaultEntries is how many JWTs a cache holds unless told otherwise: of the
// usual size, about 20 MB of minted or 10 MB of verified ones.
const DefaultEntries = 1 << 14

// numShards keeps readers from queueing for one lock: even a hit moves its entry
// to the front of a list.
const numShards = 64

// shards is an LRU cache in numShards parts. Keys must be uniform in their first
// byte. Each part has its own lock, inside the library.
type shards[V any] struct {
	once sync.Once
	lru  [numShards]*lru.Cache[[sha256.Size]byte, V]
}

func (s *shards[V]) of(key [sha256.Size]byte, entries int) *lru.Cache[[sha256.Size]byte, V] {
	s.once.Do(func() {
		if entries <= 0 {
			entries = DefaultEntries
		}
		for i := range s.lru {
			// Fails only for a size below 1.
			s.lru[i], _ = lru.New[[sha256.Size]byte, V]((entries + numShards - 1) / numShards)
		}
	})
	return s.lru[key[0]%numShards]
}

func (s *shards[V]) purge(entries int) {
	s.of([sha256.Size]byte{}, entries) // so that there is something to empty
	for _, c := range s.lru {
		c.Purge()
	}
}

// Fingerprint names everything a minted JWT depends on: the session, the revision
// of its state, profile or template, algorithm, audience.
type Fingerprint [sha256.Size]byte

// NewFingerprint hashes the parts so that no two lists of parts collide.
func NewFingerprint(parts ...string) Fingerprint {
	buf := make([]byte, 0, 256)
	for _, p := range parts {
		buf = binary.AppendUvarint(buf, uint64(len(p)))
		buf = append(buf, p...)
	}
	return sha256.Sum256(buf)
}

// MintCache holds minted JWTs for reuse. The zero MintCache is ready; it must not
// be copied. It is safe for concurrent use.
type MintCache struct {
	// Entries is how many JWTs are held. Zero: DefaultEntries. Read at first use.
	Entries int

	shards shards[minted]
	put    sync.Mutex // makes the look and the change of a Put one step
}

type minted struct {
	jwt, keyID      string
	issued, expires time.Time
}

// Get returns the JWT held under f, if more than half of its life is left at now,
// it is valid already (a clock set back must not hand out JWTs of the future),
// and its key is in r, listed and not compromised. Because r is asked, a JWT that
// was minted while its key was being flagged is never handed out, whether Put or
// Purge came first.
func (c *MintCache) Get(r *Ring, f Fingerprint, now time.Time) (jwt string, expires time.Time, ok bool) {
	m, ok := c.shards.of(f, c.Entries).Get(f)
	if !ok || m.expires.Sub(now) <= m.expires.Sub(m.issued)/2 || now.Before(m.issued.Add(-NotBeforeMargin)) {
		return "", time.Time{}, false
	}
	if k, known := r.Find(m.keyID); !known || !k.listed(now) {
		return "", time.Time{}, false
	}
	return m.jwt, m.expires, true
}

// Put holds a JWT that was minted with k at issued, unless one is held under f
// that Get would return then, and returns the one that is held: of several that
// were minted at once, everybody hands out the same. The JWT worn, if it is the one
// that is held, makes way.
func (c *MintCache) Put(r *Ring, f Fingerprint, k *Key, jwt string, issued, expires time.Time, worn string) (string, time.Time) {
	c.put.Lock()
	defer c.put.Unlock()
	if held, until, ok := c.Get(r, f, issued); ok && held != worn {
		return held, until
	}
	c.shards.of(f, c.Entries).Add(f, minted{jwt: jwt, keyID: k.ID, issued: issued, expires: expires})
	return jwt, expires
}

// Purge empties the cache.
func (c *MintCache) Purge() { c.shards.purge(c.Entries) }

// VerifyCache remembers JWTs whose signature was found valid, by the SHA-256 of
// the whole JWT. It saves the signature and the parsing and nothing else: times,
// issuer, app, type and the state of the key are judged again at every hit, with
// the ring and the expectations given then. Only JWTs that a key of ours has
// signed are held, so strangers cannot fill it. The zero VerifyCache is ready; it
// must not be copied. It is safe for concurrent use.
type VerifyCache struct {
	// Entries is how many JWTs are held. Zero: DefaultEntries. Read at first use.
	Entries int

	shards shards[*content]
}

// Verify is [Ring.Verify] with the cache in front. A ring's ids are thumbprints
// of its keys, so a hit whose kid is in r was signed by that very key.
func (c *VerifyCache) Verify(r *Ring, token string, e Expect) (Verified, error) {
	return c.verify(token, func(*content) (*Ring, Expect, error) { return r, e, nil })
}

// VerifyFor is Verify for callers that learn from the JWT which app's ring to
// use: pick gets the audience, which nothing has proved yet. For an app it does
// not know it returns a nil ring.
func (c *VerifyCache) VerifyFor(token string, pick func(app string) (*Ring, Expect)) (Verified, error) {
	return c.verify(token, func(held *content) (*Ring, Expect, error) {
		if held != nil {
			r, e := pick(held.audience)
			return r, e, nil
		}
		app, err := PeekAudience(token)
		if err != nil {
			return nil, Expect{}, err
		}
		r, e := pick(app)
		return r, e, nil
	})
}

// verify asks pick for the ring and the expectations, with what is held of the
// JWT or nil.
func (c *VerifyCache) verify(token string, pick func(*content) (*Ring, Expect, error)) (Verified, error) {
	if len(token) > MaxJWT { // before hashing it
		return Verified{}, refuse(ErrMalformed, "longer than 8 KiB")
	}
	sum := sha256.Sum256(append(make([]byte, 0, 1024), token...)) // on the stack for the usual JWT
	shard := c.shards.of(sum, c.Entries)
	held, hit := shard.Get(sum)
	r, e, err := pick(held)
	if err != nil {
		return Verified{}, err
	}
	if hit {
		k, ok := r.Find(held.keyID)
		if !ok {
			return Verified{}, refuse(ErrUnknownKey, "no such key")
		}
		return held.judge(token, k, e)
	}
	fresh, k, err := r.authenticate(token)
	if err != nil {
		return Verified{}, err
	}
	shard.Add(sum, fresh)
	return fresh.judge(token, k, e)
}

// Purge empties the cache.
func (c *VerifyCache) Purge() { c.shards.purge(c.Entries) }
