package client

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/revocast/revocast/node/api"
)

// Pauses before a feed that was lost is followed again.
const (
	leastPause = 100 * time.Millisecond
	mostPause  = 5 * time.Second
)

// followed are the types of events that take something away, and the one that gives
// an app back.
var followed = []string{
	api.EventRevoked, api.EventUserRevoked, api.EventAppRevoked,
	api.EventAppSuspended, api.EventAppResumed, api.EventAppDeleted, api.EventKeyCompromised,
}

var (
	// errAgain: the feed is to be followed from the cursor.
	errAgain = errors.New("the node ended the feed")
	// errLost: the revocations are to be read anew, since something may be missing.
	errLost = errors.New("the feed cannot go on from here")
	// errSilent: no ping has come back for a lease.
	errSilent = errors.New("the feed is silent")
	// errMoved: the node knows a stream that the cursor does not, or has it again.
	errMoved = errors.New("the feed has a stream that was not caught up with")
	// errOutlived: JWTs live longer than was said.
	errOutlived = errors.New("JWTs live longer than what was caught up with")
)

// follower follows the feed. It belongs to the goroutine that runs it, but for pings.
type follower struct {
	c      *Client
	cursor string // everything up to here is in the book; empty: nothing is known
	since  string // the cursor with which the present connection began
	moved  time.Duration
	caught time.Duration // when (on the boot clock) the last catch-up began
	// outlived is when (on the boot clock) that was last a reason to catch up.
	outlived time.Duration
}

// follow follows the feed until ctx ends.
func (f *follower) follow(ctx context.Context) {
	defer f.c.state.found("") // nobody's feed is followed
	wait := leastPause
	for ctx.Err() == nil {
		began := f.c.setup.clock.Boot()
		proved, err := f.once(ctx)
		if ctx.Err() != nil {
			return
		}
		f.c.state.lost(err)
		f.c.setup.log.Warn("lost the feed of revocations", "error", err, "after", f.c.setup.clock.Boot()-began)
		if errors.Is(err, errLost) || errors.Is(err, errMoved) || errors.Is(err, errOutlived) {
			f.cursor = ""
		} else {
			f.c.base.Add(1) // the next node
		}
		if proved {
			wait = leastPause
		}
		pause(ctx, wait/2+mathrand.N(wait))
		wait = min(2*wait, mostPause)
	}
}

// once follows one connection to its end. It reports whether a ping came back.
func (f *follower) once(ctx context.Context) (proved bool, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if f.cursor == "" {
		if err := f.catchUp(ctx); err != nil {
			return false, err
		}
	}
	// A connection on which no ping comes back within a lease is worth nothing,
	// whether or not anybody has closed it.
	lease := f.c.setup.lease
	watch := time.AfterFunc(lease, func() { cancel(errSilent) })
	defer watch.Stop()
	body, err := f.connect(ctx)
	if err != nil {
		return false, because(ctx, err)
	}
	defer body.Close()
	p := &pings{c: f.c, sent: map[string]time.Duration{}}
	var pinging sync.WaitGroup
	defer pinging.Wait()
	defer cancel(nil) // before the wait
	for in := newSSE(body); ; {
		m, err := in.next()
		if err != nil {
			return proved, because(ctx, fmt.Errorf("read feed: %w", err))
		}
		switch m.event {
		case "hello":
			var h api.FeedHello
			if err := json.Unmarshal(m.data, &h); err != nil || h.Feed == "" {
				return proved, fmt.Errorf("read hello: %w", errors.Join(errLost, err))
			}
			f.c.book.lives(h.JWTLifeSeconds)
			f.c.state.found(h.Node)
			f.c.setup.log.Info("follows the feed of revocations", "node", h.Node)
			pinging.Go(func() { p.run(ctx, h.Feed, cancel) })
		case "heartbeat":
			back, err := f.heartbeat(p, m.data)
			if err != nil {
				return proved, err
			}
			if back {
				proved = true
				watch.Reset(lease)
			}
		case "resync":
			return proved, resync(m.data)
		default:
			if err := f.apply(m); err != nil {
				return proved, err
			}
		}
		if m.id != "" {
			// Of a stream that the connection did not begin with, what came before is not in
			// the book, and must not pass for it on the next connection.
			f.cursor = common(m.id, f.since)
		}
	}
}

// because returns why ctx was ended, if it was, or else the error.
func because(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil && cause != context.Canceled {
		return cause
	}
	return err
}

func resync(data []byte) error {
	var r api.FeedResync
	if json.Unmarshal(data, &r) == nil && r.Reason == "slow" {
		return fmt.Errorf("%w: %s", errAgain, r.Reason)
	}
	return fmt.Errorf("%w: %s", errLost, r.Reason)
}

// catchUp reads all revocations whose JWTs may be alive. They are added to what the
// book holds.
func (f *follower) catchUp(ctx context.Context) error {
	var r api.Revocations
	began := f.c.setup.clock.Boot()
	if err := f.c.call(ctx, request{method: http.MethodGet, path: "/v1/revocations", once: true}, &r); err != nil {
		return fmt.Errorf("catch up: %w", err)
	}
	if r.Revision == "" {
		return errors.New("catch up: the answer names no revision")
	}
	if err := f.c.book.load(&r); err != nil {
		return fmt.Errorf("catch up: %w", err)
	}
	f.c.book.outlived.Store(false)
	f.cursor, f.caught = r.Revision, began
	return nil
}

// connect begins a feed at the cursor.
func (f *follower) connect(ctx context.Context) (io.ReadCloser, error) {
	s := &f.c.setup
	query := url.Values{"types": {strings.Join(followed, ",")}, "since": {f.cursor}}
	base := s.bases[int(f.c.base.Load())%len(s.bases)]
	r := request{method: http.MethodGet, path: "/v1/events"}
	h, err := f.c.build(ctx, base, &request{method: r.method, path: r.path + "?" + query.Encode()}, nil)
	if err != nil {
		return nil, err
	}
	h.Header.Set("Accept", "text/event-stream")
	h.Header.Set("Accept-Encoding", "identity") // what is compressed is held back
	h.Header.Set("Cache-Control", "no-store")
	answer, err := s.feed.Do(h)
	if err != nil {
		return nil, unreached(&r, err)
	}
	if answer.StatusCode != http.StatusOK || !strings.HasPrefix(answer.Header.Get("Content-Type"), "text/event-stream") {
		_, _ = io.Copy(io.Discard, io.LimitReader(answer.Body, 64<<10))
		_ = answer.Body.Close()
		err := fmt.Errorf("%s of %s answered %d", r.path, base, answer.StatusCode)
		if answer.StatusCode == http.StatusGone || answer.StatusCode == http.StatusBadRequest {
			return nil, errors.Join(errLost, err)
		}
		return nil, err
	}
	date, _ := http.ParseTime(answer.Header.Get("Date")) // zero without one
	f.c.book.heard(date)
	f.since = f.cursor
	return answer.Body, nil
}

// heartbeat renews the leases, if it answers a ping: from when that was sent, less
// what the node itself may have been behind. It reports whether it does.
//
// Nothing is promised of a stream that the connection's cursor did not name: of
// that the feed began where the node was, and what came before is not known here. Nor is
// it of one that was out of reach for long: what was revoked elsewhere meanwhile may be
// forgotten here, although its own region, which is yet to be told, went on minting.
func (f *follower) heartbeat(p *pings, data []byte) (back bool, err error) {
	var h api.FeedHeartbeat
	if err := json.Unmarshal(data, &h); err != nil {
		return false, fmt.Errorf("read heartbeat: %w", err)
	}
	f.c.book.forget()
	if now := f.c.setup.clock.Boot(); f.c.book.outlived.Load() && (f.outlived == 0 || now-f.outlived > keepMargin) {
		f.outlived = now
		return false, errOutlived
	}
	sent, back := p.back(h.Nonce)
	if !back {
		return false, nil
	}
	lease := f.c.setup.lease
	for _, s := range h.Streams {
		switch {
		case s.Stale != "" || s.StalenessMS < 0:
		case positionIn(f.since, s.Region) != "" && !f.c.book.lapsed(s.Stream, f.caught):
			f.c.book.renew(s.Stream, sent-time.Duration(s.StalenessMS)*time.Millisecond+lease)
			if s.Region != configRegion {
				f.c.state.proved()
			}
		case f.c.setup.clock.Boot()-f.moved > lease || f.moved == 0:
			f.moved = f.c.setup.clock.Boot()
			return true, errMoved
		}
	}
	return true, nil
}

// apply puts an event into the book. One of a type that is not known is passed
// over; one that cannot be read is not: it may be a revocation.
func (f *follower) apply(m message) error {
	if !slices.Contains(followed, m.event) {
		return nil
	}
	var e api.Event
	if err := json.Unmarshal(m.data, &e); err != nil {
		return fmt.Errorf("read %s: %w", m.event, errors.Join(errLost, err))
	}
	if e.AppID != f.c.App {
		return nil // an admin's key is told of other apps
	}
	if err := f.c.book.apply(m.event, &e); err != nil {
		return fmt.Errorf("read %s: %w", m.event, errors.Join(errLost, err))
	}
	return nil
}

// pings are those of one connection.
type pings struct {
	c    *Client
	mu   sync.Mutex // guards sent
	sent map[string]time.Duration
}

// back returns when the ping with the nonce was sent.
func (p *pings) back(nonce string) (time.Duration, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	sent, ok := p.sent[nonce]
	delete(p.sent, nonce)
	return sent, ok
}

// run sends a ping at once and then about each third of the lease. Several may be
// under way; one that is as old as the lease renews nothing.
func (p *pings) run(ctx context.Context, feed string, cancel context.CancelCauseFunc) {
	third := p.c.setup.lease / 3
	for ctx.Err() == nil {
		wait := time.Duration(float64(third) * (0.8 + 0.4*mathrand.Float64()))
		if err := p.send(ctx, feed, third); err != nil {
			if e, ok := errors.AsType[*api.Error](err); ok && e.StatusCode == http.StatusNotFound {
				cancel(fmt.Errorf("%w: the node does not know it any more", errAgain))
				return
			}
			wait /= 4
		}
		pause(ctx, wait)
	}
}

func (p *pings) send(ctx context.Context, feed string, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	nonce := rand.Text()
	now := p.c.setup.clock.Boot()
	p.mu.Lock()
	for n, sent := range p.sent {
		if now-sent > p.c.setup.lease {
			delete(p.sent, n)
		}
	}
	p.sent[nonce] = now
	p.mu.Unlock()
	r := request{method: http.MethodPost, path: "/v1/events/ping", body: &api.Ping{Feed: feed, Nonce: nonce}, once: true}
	return p.c.call(ctx, r, &api.Accepted{})
}
