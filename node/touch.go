package node

import (
	"context"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/projection"
)

// touches are uses of sessions that are not yet in the log. A use is noted only
// when the log's own knowledge is older than a twentieth of the idle timeout,
// so that most requests pass without a lock, and is written within a second:
// together less than the tenth by which idle expiry is judged late.
type touches struct {
	shards [64]touchShard
}

type touchShard struct {
	mu  sync.Mutex // guards due
	due map[events.SID]events.Touch
}

// maxTouches bounds each shard: when the log is away, touches wait.
const maxTouches = 16_384

// touchUnlimited is how often the last use of a session without an idle timeout
// is written: it ends nothing, it is shown in lists.
const touchUnlimited = time.Hour

// touch notes that the session was used at now (unix ms).
func (n *Node) touch(s *projection.Session, now int64) {
	step := s.Idle * 1000 / 20
	if s.Idle == 0 {
		step = touchUnlimited.Milliseconds()
	}
	if now-s.SeenAt < step {
		return
	}
	shard := &n.touches.shards[s.SID[1]%64]
	shard.mu.Lock()
	defer shard.mu.Unlock()
	if _, ok := shard.due[s.SID]; ok || len(shard.due) >= maxTouches {
		return
	}
	if shard.due == nil {
		shard.due = map[events.SID]events.Touch{}
	}
	// The texts are the projection's own: kept for long, they would keep more than themselves.
	shard.due[s.SID] = events.Touch{App: strings.Clone(s.App), User: strings.Clone(s.User), SID: s.SID, At: now}
}

// touchBudget is the percentage of the stream's budget above which touches and
// extensions wait; createBudget that above which creates are refused. The rest
// belongs to revocations and heartbeats.
const (
	createBudget = 80
	touchBudget  = 90
)

// flushEvery is how often noted uses are written; flushWriters how many at once.
const (
	flushEvery   = time.Second
	flushWriters = 64
)

// writeTouches writes noted uses until ctx ends.
func (n *Node) writeTouches(ctx context.Context) error {
	tick := time.NewTicker(flushEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		if n.home.above(touchBudget) {
			n.idleHeld.CompareAndSwap(0, n.wall())
			continue
		}
		g, gctx := errgroup.WithContext(ctx)
		g.SetLimit(flushWriters)
		for i := range n.touches.shards {
			for _, t := range n.touches.shards[i].take() {
				g.Go(func() error { n.writeTouch(gctx, t); return nil })
			}
		}
		_ = g.Wait() // writers report nothing: a touch that fails is noted again at the next use
		n.idleHeld.Store(0)
	}
}

// held returns the verdict, except that nobody becomes idle while touches
// cannot be written. Who was idle before stays so.
func (n *Node) held(s *projection.Session, v projection.Verdict) projection.Verdict {
	if v != projection.IdleExpired {
		return v
	}
	if since := n.idleHeld.Load(); since != 0 && s.IdleEnd(n.conf.Lease) >= since {
		return projection.Active
	}
	return v
}

func (s *touchShard) take() map[events.SID]events.Touch {
	s.mu.Lock()
	defer s.mu.Unlock()
	due := s.due
	s.due = nil
	return due
}

func (n *Node) writeTouch(ctx context.Context, t events.Touch) {
	s, v := n.sessions().Lookup(t.SID, n.wall())
	if n.held(&s, v) != projection.Active {
		return
	}
	t.At = n.wall()
	ttl := time.Duration(s.ExpiresAt-t.At)*time.Millisecond + events.TTLSlack
	home, err := n.homeOf(t.SID)
	if err == nil {
		_, err = home.write(ctx, &t, nil, ttl, events.Expectation{})
	}
	if err != nil {
		n.metrics.touchFailures.Inc()
		return
	}
	n.metrics.touches.Inc()
}
