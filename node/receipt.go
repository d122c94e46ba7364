package node

import (
	"context"
	"sync"
	"time"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node/api"
)

// What a revoke may wait for.
const (
	waitNone = "none" // committed, and applied on this node
	waitAll  = "all"  // applied on every node, or the node has fenced itself
)

// Statuses of a receipt.
const (
	receiptCommitted = "committed"
	receiptComplete  = "complete"
	receiptPartial   = "partial" // a node that is cut off may serve its old answer, as the app wants
)

// receipt says how far a revocation has come that was begun at start (of
// Clock.Wall), stands at pos, and is applied on this node.
//
// Where no other process reaches the log, that is everywhere. Else it is
// complete once W has passed since its acknowledgement (rule R9): a node that
// has not applied it by then has had no lease since. The clock begins here,
// after the acknowledgement, which only makes it wait longer.
//
// jwtLife is the longest life of a JWT that a node may have minted before it
// applied the revocation.
func (n *Node) receipt(ctx context.Context, s *stream, pos events.Position, start time.Time, wait string, jwtLife time.Duration) *api.Receipt {
	clock := n.conf.Clock
	acknowledged := clock.Boot()
	r := &api.Receipt{
		Revision: pos.String(), Status: receiptCommitted,
		Applied: []api.ReceiptApplied{{Node: n.conf.Name, MS: clock.Wall().Sub(start).Milliseconds()}},
	}
	left := n.maxWait()
	switch {
	case n.conf.Solo:
		r.Status, left = receiptComplete, 0
	case wait == waitAll && n.sleepUntil(ctx, acknowledged+left):
		r.Status, left = receiptComplete, 0
	default:
		left = max(0, acknowledged+left-clock.Boot())
	}
	r.TookMS = clock.Wall().Sub(start).Milliseconds()
	r.JWTSafeAfter = clock.Wall().Add(left + jwtLife).UTC().Truncate(time.Millisecond)
	return r
}

// sleepUntil returns true once Clock.Boot has come to t, false when ctx ended
// before. Timers do not run while the machine is suspended and Clock.Boot does,
// so the clock is asked again.
func (n *Node) sleepUntil(ctx context.Context, t time.Duration) bool {
	for {
		left := t - n.conf.Clock.Boot()
		if left <= 0 {
			return true
		}
		select {
		case <-time.After(left):
		case <-ctx.Done():
			return false
		}
	}
}

// jwtLives remembers until when JWTs of an app may be around that were minted
// under settings or a template that have changed since.
type jwtLives struct {
	mu    sync.Mutex // guards until
	until map[string]time.Time
}

// changed notes that the app's settings, or one of its templates, were changed
// at that time: what was minted before lives for an hour at most.
func (l *jwtLives) changed(app string, at time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.until == nil {
		l.until = map[string]time.Time{}
	}
	l.until[app] = at.Add(maxJWTTTL * time.Second)
}

// linger reports whether such JWTs may be around at the time.
func (l *jwtLives) linger(app string, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return now.Before(l.until[app])
}

// jwtLife returns the longest life of a JWT of the app, templates included.
func (n *Node) jwtLife(app *events.App) time.Duration {
	if n.jwtLives.linger(app.App, n.conf.Clock.Wall()) {
		return maxJWTTTL * time.Second
	}
	longest := jwtLimit(&app.Settings, api.Template{})
	for _, held := range n.catalog.Snapshot().SettingsOf(app.App, templateType) {
		if t, err := readTemplate(held); err == nil { // one that cannot be read mints nothing
			longest = max(longest, jwtLimit(&app.Settings, t))
		}
	}
	return longest
}
