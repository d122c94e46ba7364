package node

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node/api"
)

// How often the log is bothered by who asks for what this node does not know,
// whatever their number.
const (
	// askPace is the time between two questions for a last sequence, of all
	// streams together.
	askPace = 25 * time.Millisecond
	// beatPace is the time between two shared heartbeats of a stream, unless
	// somebody demanded one.
	beatPace = 200 * time.Millisecond
	// urgentPace is the time between two shared heartbeats of a stream that
	// somebody demanded: each stays in the log for four leases.
	urgentPace = 50 * time.Millisecond
)

// barrier answers, for all who wait at the same time, whether readers of a
// stream see what had been committed when they asked.
//
// It has no goroutine: who comes first leads a round, the others join it until
// it is sent, and the applier ends it. A leader whose client goes away leads on
// until the round is sent. What can fail, and what then happens:
//
//   - The log does not take the heartbeat, or does not answer: all in the round
//     are told, and try the next one for as long as they may wait.
//   - What was sent does not come back: each waits for as long as it may, which
//     is answered 503, never "not found".
//   - The lease ends: nothing more is sent, and all are told why.
//   - The log goes backwards: rounds on their way end when the new generation
//     has come as far. One whose heartbeat is not what was applied proves
//     nothing: all in it try the next.
type barrier struct {
	stream *stream
	beats  rounds // own heartbeats: proof of everything committed before they were sent
	asks   rounds // the leader's last sequence: a lower bound only, but one that costs no write
}

func newBarrier(s *stream) *barrier {
	b := &barrier{stream: s}
	b.beats = rounds{stream: s, pace: &pace{every: beatPace}, send: func(ctx context.Context) (seq, event uint64, err error) {
		if stale := s.fenced(); stale != nil {
			return 0, 0, stale // after a farewell no heartbeat may be heard
		}
		return s.sendBeat(ctx)
	}}
	b.asks = rounds{stream: s, pace: &s.node.asks, send: func(ctx context.Context) (seq, event uint64, err error) {
		info, err := s.log.Info(ctx)
		return info.LastSeq, 0, err
	}}
	return b
}

// pass returns once readers see everything that was committed before it was
// called: a heartbeat sent after that has come back. It waits no longer than
// the limit. Who is urgent waits for the one under way, and no longer than
// urgentPace for the next: not at all when nobody asked a moment ago.
func (b *barrier) pass(ctx context.Context, limit time.Duration, urgent bool) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		if stale := b.stream.fenced(); stale != nil {
			return stale
		}
		err := b.beats.join(ctx, urgent)
		if err == nil {
			return nil
		}
		if over(ctx) || !errors.Is(err, events.ErrUnavailable) {
			return b.late(err)
		}
	}
}

// ask returns once readers see all that the stream's leader says there is. That
// may be less than was committed: a leader that was deposed goes on answering.
func (b *barrier) ask(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, consistencyWait)
	defer cancel()
	err := b.asks.join(ctx, false)
	if err != nil && (over(ctx) || errors.Is(err, errTooManyWaiters)) {
		return b.late(err)
	}
	return nil // no answer is as good as a low one
}

// over reports whether the time of ctx is over. Its Err may say so a moment
// later than that of another of the same deadline.
func over(ctx context.Context) bool {
	deadline, _ := ctx.Deadline()
	return ctx.Err() != nil || !time.Now().Before(deadline)
}

func (b *barrier) late(err error) error {
	if stale, ok := errors.AsType[*staleError](err); ok {
		return stale
	}
	return fail(api.ConsistencyTimeout, "stream %s did not answer in time; ask again", b.stream.region).because(err)
}

// rounds lets many wait for one message to the log.
type rounds struct {
	stream *stream
	pace   *pace
	// send bothers the log and returns the sequence that readers must see, and
	// the event that must be there; 0: whichever.
	send func(ctx context.Context) (seq, event uint64, err error)

	waiting atomic.Int64

	mu   sync.Mutex // guards the fields below
	open *round     // not yet sent, takes who comes; nil: the next to come opens one and leads it
	last *round     // sent last
}

type round struct {
	hurry chan struct{} // 1 deep: somebody in the round is urgent
	done  chan struct{} // closed when the round is over
	sent  time.Time     // set before it is the last

	// Set before done is closed.
	err        error
	seq, event uint64
}

// join waits for a round that is sent after it was called. The ctx must have a
// deadline.
func (q *rounds) join(ctx context.Context, urgent bool) error {
	defer q.waiting.Add(-1)
	if q.waiting.Add(1) > maxWaiters {
		return errTooManyWaiters
	}
	q.mu.Lock()
	r, leads := q.open, q.open == nil
	if leads {
		r = &round{hurry: make(chan struct{}, 1), done: make(chan struct{})}
		q.open = r
	}
	q.mu.Unlock()
	if urgent {
		select {
		case r.hurry <- struct{}{}:
		default:
		}
	}
	if leads {
		q.lead(ctx, r)
	}
	select {
	case <-r.done:
		if r.err == nil && r.event != 0 && !q.stream.trail.holds(r.seq, r.event) {
			return fmt.Errorf("%w: another event was applied at %d", events.ErrUnavailable, r.seq)
		}
		return r.err
	case <-ctx.Done():
		return fmt.Errorf("wait for stream %s: %w", q.stream.region, ctx.Err())
	}
}

// lead sends the round. Others count on it, so it goes on when the leader's
// client goes away, but no longer than the leader would have waited.
func (q *rounds) lead(ctx context.Context, r *round) {
	deadline, _ := ctx.Deadline()
	ctx, cancel := context.WithDeadline(context.WithoutCancel(ctx), deadline)
	defer cancel()
	q.space(ctx, r)
	r.sent = time.Now()
	q.mu.Lock()
	q.open, q.last = nil, r // from here on it proves nothing to who comes
	q.mu.Unlock()
	if r.seq, r.event, r.err = q.send(ctx); r.err != nil {
		close(r.done)
		return
	}
	q.stream.tell(&waiter{seq: r.seq, done: r.done})
}

// space returns when the round may be sent: at its pace or, when somebody in it
// is urgent, as soon as the round before has come back and urgentPace has passed
// since it was sent. After a failure there is no hurry.
func (q *rounds) space(ctx context.Context, r *round) {
	timer := time.NewTimer(q.pace.reserve(time.Now()))
	defer timer.Stop()
	q.mu.Lock()
	last := q.last
	q.mu.Unlock()
	var back chan struct{} // of the round before, once somebody is urgent
	var soon <-chan time.Time
	for {
		select {
		case <-timer.C:
			return
		case <-ctx.Done():
			return
		case <-r.hurry:
			if last == nil {
				q.pace.early(time.Now())
				return
			}
			back = last.done
		case <-back:
			back = nil
			if last.err == nil {
				soon = time.After(time.Until(last.sent.Add(urgentPace)))
			}
		case <-soon:
			q.pace.early(time.Now())
			return
		}
	}
}

// tell closes the waiter's channel once readers see its sequence, without
// anybody having to wait for that.
func (s *stream) tell(w *waiter) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waiters[w] = struct{}{}
	s.waiting.Add(1) // before the look at what is applied: see advance
	if s.applied.Load() >= w.seq {
		delete(s.waiters, w)
		s.waiting.Add(-1)
		close(w.done)
	}
}

// pace keeps things apart in time.
type pace struct {
	every time.Duration

	mu   sync.Mutex // guards next
	next time.Time  // from when on there may be another
}

// reserve returns how long to wait for one's turn.
func (p *pace) reserve(now time.Time) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	at := now
	if p.next.After(now) {
		at = p.next
	}
	p.next = at.Add(p.every)
	return at.Sub(now)
}

// early says that the newest turn was taken before its time.
func (p *pace) early(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.next = now.Add(p.every)
}
