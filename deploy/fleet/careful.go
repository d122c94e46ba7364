package fleet

import (
	"context"
	"crypto/rand"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/revocast/revocast/node/nodetest"
)

// Careful are clients that ask the next node when one does not answer or
// answers 503: what a balancer does. They create, verify and revoke; a create
// has an Idempotency-Key, so that it may be sent twice.
type Careful struct {
	l *Load

	mu       sync.Mutex // guards what follows
	requests int
	retried  map[string]int // why the first node was not enough
	failures []string
}

// NewCareful returns careful clients of the load's fleet. What they do is not in
// its history, except for their receipts.
func NewCareful(l *Load) *Careful { return &Careful{l: l, retried: map[string]int{}} }

// String says how many requests there were, and which of them had to be made
// again.
func (c *Careful) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := fmt.Sprintf("%d requests, %d failed", c.requests, len(c.failures))
	for _, why := range slices.Sorted(maps.Keys(c.retried)) {
		out += fmt.Sprintf("; asked another node: %d × %s", c.retried[why], why)
	}
	return out
}

// Failures says which requests no node answered.
func (c *Careful) Failures() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.failures)
}

// Run makes requests until ctx ends.
func (c *Careful) Run(ctx context.Context) {
	asking, key := context.WithoutCancel(ctx), c.l.Fleet.APIKey
	for at := 0; pause(ctx, 5*time.Millisecond) == nil; at++ {
		made := c.ask(asking, at, request{
			credential: key, method: "POST", path: "/v1/sessions", patience: writePatience,
			body: fields{"user_id": "careful"}, once: rand.Text(),
		}, 201)
		if made == nil {
			continue
		}
		for i := range 3 {
			c.ask(asking, at+i, request{credential: made.body.Token, method: "GET", path: "/v1/verify", patience: usePatience}, 204)
		}
		from := c.l.Now()
		revoked := c.ask(asking, at, request{
			credential: key, method: "POST", path: "/v1/sessions/revoke", patience: allPatience,
			body: fields{"session_token": made.body.Token, "wait": "all"},
		}, 200)
		if revoked != nil {
			c.l.History.Add(nodetest.Op{
				Op: nodetest.OpRevoke, Node: revoked.node, Life: revoked.life, Start: from, End: c.l.Now(),
				Outcome: nodetest.OK, Receipt: revoked.body.Receipt.Status,
			})
			c.ask(asking, at+1, request{credential: made.body.Token, method: "GET", path: "/v1/verify", patience: usePatience}, 401)
		}
	}
}

// ask asks one node after the other, and returns the first answer that is not
// 503, if it is the one wanted; else nil.
func (c *Careful) ask(ctx context.Context, at int, q request, want int) *reply {
	nodes := c.l.Fleet.Nodes
	var last string
	for i := range nodes {
		n := nodes[(at+i)%len(nodes)]
		r := send(ctx, c.l.client, n, q)
		r.node = n.Name
		if r.err == nil && r.status != 503 {
			c.note(i, last)
			if r.status == want {
				return &r
			}
			last = fmt.Sprintf("%s %d %s%s", n.Name, r.status, r.body.ErrorType, r.reason)
			break
		}
		last = fmt.Sprintf("%s %d %s%s", q.path, r.status, r.body.ErrorType, r.reason)
		if r.err != nil {
			last = fmt.Sprintf("%s %v", q.path, r.err)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.failures = append(c.failures, fmt.Sprintf("%s %s: %s, want %d", q.method, q.path, last, want))
	return nil
}

func (c *Careful) note(again int, why string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.requests++
	if again > 0 {
		c.retried[why]++
	}
}
