package node

import (
	"context"
	"math"
	"sync"
	"time"

	"github.com/revocast/revocast/events"
)

// configAnswerTime bounds how long a receipt of CONFIG waits for nodes that may
// go on with what they have.
const configAnswerTime = 2 * time.Second

// everywhere reports whether a position of CONFIG is applied on every node that
// may serve, once nobody holds a lease on CONFIG without it. That alone says
// little there: a node goes on with the API keys and signing keys it has while
// CONFIG is out of its reach, as long as it has a lease on some region. So each
// incarnation counts of which any stream has shown a heartbeat for less than W.
func (q *inquiry) everywhere(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, configAnswerTime)
	defer cancel()
	asking, stop := context.WithCancel(ctx)
	var asked sync.WaitGroup
	defer asked.Wait()
	defer stop()
	for asks := false; ; {
		now := q.n.conf.Clock.Boot()
		next, sure := q.serving(now)
		if !sure || next == 0 {
			return sure
		}
		if !asks && q.n.conf.Mesh != nil {
			asks = true
			asked.Go(func() {
				q.n.conf.Mesh.Ask(asking, events.Question{Stream: q.pos.Stream, Seq: q.pos.Seq}, q.confirmed)
			})
		}
		if !q.sleep(ctx, next, q.s.members.farewells()) {
			return false
		}
	}
}

// serving returns when the first of those that have not applied the position
// can have no lease any more, 0 when there is none; and false when this node
// cannot know who serves.
func (q *inquiry) serving(now time.Duration) (next time.Duration, sure bool) {
	for region := range q.n.catalog.Snapshot().Regions() {
		if q.n.stream(region.Number) == nil {
			return 0, false
		}
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, s := range q.n.streams() {
		if s.fenced() != nil || s.unbrokenFor(now) < q.n.maxWait() {
			return 0, false
		}
		for _, m := range s.members.before(math.MaxUint64) {
			ends := m.heard + q.n.maxWait()
			if m.left != 0 || m.incarnation == q.n.incarnation || q.reached[m.incarnation] || ends <= now {
				continue
			}
			if next == 0 || ends < next {
				next = ends
			}
		}
	}
	return next, true
}
