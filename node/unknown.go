package node

import (
	"context"
	"crypto/sha256"
	"sync"
	"sync/atomic"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/revocast/revocast/events"
)

// certain returns once found reports true, or nothing that was committed before
// the call can make it so: "not found" is said only by a node that cannot be
// behind. found looks up and keeps what it saw; the last time it is called
// decides. Any number may ask for nothing but garbage: the log is bothered at
// its pace (barrier), and nobody waits twice for the same key.
//
// On an error nothing is certain, and the caller answers 503.
func (s *stream) certain(ctx context.Context, key events.SID, found func() bool) error {
	if stale := s.fenced(); stale != nil {
		return stale
	}
	if found() || s.node.conf.Solo || s.missing.holds(key) {
		return nil
	}
	// A fresh log-in on another node is found by this, in milliseconds.
	if err := s.reads.ask(ctx); err != nil {
		return err
	}
	if found() {
		return nil
	}
	if err := s.reads.pass(ctx, consistencyWait, false); err != nil {
		return err
	}
	s.missing.add(key)
	if found() {
		s.missing.remove(key)
	}
	return nil
}

// Size of a negative: about 10 MB when full.
const (
	negativeShards = 16
	negativeShard  = 4096
)

// negative remembers keys that are certain not to be in a stream, the newest
// 65,536, so that asking again for the same garbage costs nothing. It is asked
// only after a miss in the projection, so what the projection knows is never
// hidden by it.
//
// A key must not stay when what it names is applied. Who adds a key looks it up
// once more afterwards; the applier makes visible first and calls heard second.
// Whichever comes first, one of the two sees the other. The same holds for a
// rebuild, which empties it after the projection.
type negative struct {
	used   atomic.Bool // something was ever added: spares the applier the locks, and a lone node the memory
	once   sync.Once
	shards [negativeShards]*lru.Cache[events.SID, struct{}]
}

func (n *negative) shard(key events.SID) *lru.Cache[events.SID, struct{}] {
	return n.shards[key[1]%negativeShards]
}

func (n *negative) holds(key events.SID) bool {
	if !n.used.Load() {
		return false
	}
	_, ok := n.shard(key).Get(key)
	return ok
}

func (n *negative) add(key events.SID) {
	n.once.Do(func() {
		for i := range n.shards {
			n.shards[i], _ = lru.New[events.SID, struct{}](negativeShard) // fails only for a size below 1
		}
		n.used.Store(true)
	})
	n.shard(key).Add(key, struct{}{})
}

func (n *negative) remove(key events.SID) {
	if n.used.Load() {
		n.shard(key).Remove(key)
	}
}

func (n *negative) empty() {
	if n.used.Load() {
		for _, c := range n.shards {
			c.Purge()
		}
	}
}

// heard forgets what the record may have made known. It is called by the
// applier once readers see the record. What CONFIG holds changes seldom, and
// then all is forgotten.
func (n *negative) heard(r events.Record) {
	switch e := r.Event.(type) {
	case *events.State:
		n.remove(e.SID)
		for _, a := range e.Aliases {
			n.remove(a.Key)
		}
	case *events.App, *events.SigningKey, *events.APIKey, *events.Region:
		n.empty()
	}
}

// textKey returns the key under which it is remembered that CONFIG knows
// nothing of the text, an API key or a JWT.
func textKey(text string) events.SID {
	sum := sha256.Sum256([]byte(text))
	return events.SID(sum[:16])
}
