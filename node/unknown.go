package node

import (
	"context"
	"sync"
	"sync/atomic"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node/api"
	"github.com/revocast/revocast/projection"
)

// resolveToken and resolveSID look up as byToken and bySID do, and as new as is
// wanted; but Unknown from them means that there is no such session, not that
// this node has not heard of it. What is known costs nothing more.
func (n *Node) resolveToken(ctx context.Context, key events.SID, want consistency) (answer, error) {
	if !want.strong {
		if a, err := n.byToken(key); err != nil || a.verdict != projection.Unknown || n.conf.Solo {
			return a, err
		}
	}
	return n.settle(ctx, key, want, true, func() (answer, error) { return n.byToken(key) })
}

// resolveForeign is resolveToken for the key of a foreign token. That there is no
// such session is not remembered: the token was there before the session is.
func (n *Node) resolveForeign(ctx context.Context, key events.SID, want consistency) (answer, error) {
	if !want.strong {
		if a, err := n.byToken(key); err != nil || a.verdict != projection.Unknown || n.conf.Solo {
			return a, err
		}
	}
	return n.settle(ctx, key, want, false, func() (answer, error) { return n.byToken(key) })
}

func (n *Node) resolveSID(ctx context.Context, sid events.SID, want consistency) (answer, error) {
	if !want.strong {
		if a, err := n.bySID(sid); err != nil || a.verdict != projection.Unknown || n.conf.Solo {
			return a, err
		}
	}
	return n.settle(ctx, sid, want, true, func() (answer, error) { return n.bySID(sid) })
}

// settle looks up once this node is as new as is wanted, at least so new that
// Unknown is final, and may be remembered.
func (n *Node) settle(ctx context.Context, key events.SID, want consistency, remember bool, look func() (answer, error)) (a answer, err error) {
	s := n.stream(key.Stream())
	if s == nil && !n.conf.Solo {
		if s, err = n.meet(ctx, key.Stream()); err != nil {
			return answer{}, err
		}
	}
	switch {
	case s == nil || s == n.settings: // no session lives there
		return look()
	case want.strong && n.faults.strongAtOnce:
		return look()
	case want.strong || want.sure:
		limit := appendTimeout
		if want.sure {
			limit = s.revokePatience() // an election is no reason to refuse a revocation
		}
		if err = s.reads.pass(ctx, limit, true); err != nil {
			return answer{}, err
		}
		return look()
	}
	if remember && s.missing.holds(key) {
		return look() // for the lease
	}
	late := s.certain(ctx, func() bool {
		a, err = look()
		return err != nil || a.verdict != projection.Unknown
	})
	if late != nil {
		return answer{}, late
	}
	if err != nil || a.verdict != projection.Unknown || !remember {
		return a, err
	}
	s.missing.add(key)
	if a, err = look(); err != nil || a.verdict != projection.Unknown {
		s.missing.remove(key)
	}
	return a, err
}

// meet returns the stream of a number that this node did not follow a moment
// ago, and nil when it is certain that no region has the number.
func (n *Node) meet(ctx context.Context, number uint8) (s *stream, err error) {
	assigned := false
	err = n.settings.certain(ctx, func() bool {
		assigned = false
		for r := range n.catalog.Snapshot().Regions() {
			assigned = assigned || r.Number == number
		}
		s = n.stream(number)
		return assigned || s != nil
	})
	if err != nil || assigned && s == nil {
		return nil, fail(api.HomeUnreachable, "the home of the session, stream %d, cannot be reached from here", number).because(err)
	}
	return s, nil
}

// certain returns once found reports true, or nothing that was committed before
// the call can make it so: "not found" is said only by a node that cannot be
// behind. found looks up and keeps what it saw; the last time it is called
// decides. Any number may ask for nothing but garbage: the log is bothered at
// its pace (barrier).
//
// On an error nothing is certain, and the caller answers 503.
func (s *stream) certain(ctx context.Context, found func() bool) error {
	if stale := s.fenced(); stale != nil {
		return stale
	}
	if s.node.conf.Solo {
		found()
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
	if found() {
		return nil
	}
	// The heartbeat came back, and with it may have come an event that this
	// version cannot read, or that the stream is read again.
	if stale := s.fenced(); stale != nil {
		return stale
	}
	return nil
}

// awaitApp looks an app up of which this node has not heard: it may have been
// made a moment ago, and clients sign users out on 401.
func (n *Node) awaitApp(ctx context.Context, id string) (app *events.App, ok bool, err error) {
	err = n.settings.certain(ctx, func() bool {
		app, ok = n.app(id)
		return ok
	})
	return app, ok, err
}

// awaitAPIKey looks up an API key, by its hash, of which this node has not heard.
func (n *Node) awaitAPIKey(ctx context.Context, hash string) (key *events.APIKey, ok bool, err error) {
	err = n.settings.certain(ctx, func() bool {
		key, ok = n.catalog.Snapshot().APIKey(hash)
		return ok
	})
	return key, ok, err
}

// Size of a negative: about 10 MB when full.
const (
	negativeShards = 16
	negativeShard  = 4096
)

// negative remembers keys of sessions that are certain not to be in a stream, the
// newest 65,536, so that asking again for the same garbage costs nothing. It is
// asked only after a miss in the projection, so what the projection knows is
// never hidden by it.
//
// Only what nobody can ask for before it exists may be remembered: the hash of
// 256 bits that a node makes up. What callers name, such as an app or an API key,
// can be made elsewhere at any time after it was found missing, and this node may
// be behind that: it is asked for anew each time.
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
// applier once readers see the record.
func (n *negative) heard(r events.Record) {
	if e, ok := r.Event.(*events.State); ok {
		n.remove(e.SID)
		for _, a := range e.Aliases {
			n.remove(a.Key)
		}
	}
}
