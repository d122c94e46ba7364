package events

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
)

const (
	// liveBuffer is how many live messages wait while others are read. What
	// does not fit is lost, and found again as a gap.
	liveBuffer = 64 << 10
	// quietAfter is how long the live tail may be silent before the stream is
	// asked whether the end of it was lost.
	quietAfter = 2 * time.Second
	quietTicks = 4
	// heldTries is how often following begins again to fill the gap before a
	// live message before that message is given up: nobody can say that the
	// stream holds it.
	heldTries = 5
)

// Reasons to begin again at the anchor. Also the values of the metric's label.
var (
	errReconnected = errors.New("reconnected")
	errQuiet       = errors.New("quiet")
	errDiffers     = errors.New("live_differs")
	errLagging     = errors.New("replica_lags")
)

// follower is one run of Follow. Its goroutine owns all but what is atomic.
type follower struct {
	j    *JetStream
	f    Follow
	live chan *nats.Msg
	// applied is the last sequence that is not wanted any more.
	applied uint64
	// delivered is the last sequence delivered, 0 if none. Appends read it.
	delivered atomic.Uint64
	// proof holds the sequence of an own acknowledgement that proves that the
	// log went backwards; 0 is none. Appends write it.
	proof    atomic.Uint64
	proven   chan struct{} // has a token once proof is set
	ring     ring
	breaks   uint64 // reconnects of the connection when it was last whole
	held     *nats.Msg
	tries    int
	caughtUp bool
	goal     uint64 // last sequence of the stream when following began
}

// Follow implements [Log]. It uses one subscription, and for the time of a bulk
// read one consumer; both are gone when it returns.
func (j *JetStream) Follow(ctx context.Context, f Follow) error {
	fl := &follower{
		j: j, f: f, live: make(chan *nats.Msg, liveBuffer), proven: make(chan struct{}, 1), ring: newRing(),
	}
	if f.From > 0 {
		fl.applied = f.From - 1
	}
	// Live first: what is stored while the rest is read waits in the buffer.
	sub, err := j.api.nc.ChanSubscribe("live."+j.region+".>", fl.live)
	if err != nil {
		return fmt.Errorf("follow %s: %w", j.name, err)
	}
	// An error means that the connection is closed, and the subscription with it.
	defer func() { _ = sub.Unsubscribe() }()
	j.enlist(fl)
	defer j.retire(fl)
	if err := fl.run(ctx); err != nil {
		return fmt.Errorf("follow %s: %w", j.name, err)
	}
	return nil
}

// prove tells the follower that seq was assigned after it had applied it.
func (fl *follower) prove(seq uint64) {
	fl.proof.Store(seq)
	select {
	case fl.proven <- struct{}{}:
	default:
	}
}

// applyError is an error of the caller's Apply.
type applyError struct{ error }

// Unwrap returns the caller's error.
func (e applyError) Unwrap() error { return e.error }

// run alternates between catching up from the anchor and the live tail until
// ctx ends or the stream cannot be trusted.
func (fl *follower) run(ctx context.Context) error {
	pause := backoff{}
	for {
		before := fl.applied
		err := fl.catchUp(ctx)
		if err == nil {
			err = fl.tail(ctx)
		}
		if _, mine := errors.AsType[applyError](err); !mine {
			err = cmp.Or(fl.flush(), err)
		}
		if seq := fl.proof.Load(); seq != 0 {
			err = fmt.Errorf("%w: sequence %d was assigned again", ErrRewound, seq)
		}
		mine, ok := errors.AsType[applyError](err)
		switch {
		case ok:
			return mine.error
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, ErrRewound):
			fl.j.metrics.rewinds.Add(1)
			return err
		case errors.Is(err, ErrIdentity), errors.Is(err, nats.ErrConnectionClosed):
			return err
		}
		fl.j.metrics.resumes.inc(cause(err))
		if errors.Is(err, errQuiet) || errors.Is(err, errReconnected) {
			continue
		}
		if fl.applied > before {
			pause = backoff{}
		}
		pause.wait(ctx)
	}
}

// cause returns the word of the metric for a reason to begin again.
func cause(err error) string {
	for _, known := range []error{errReconnected, errQuiet, errDiffers, errLagging} {
		if errors.Is(err, known) {
			return known.Error()
		}
	}
	return "unavailable"
}

// catchUp checks the stream's identity and reads from the anchor, which must
// still hold what was applied, up to the last sequence.
func (fl *follower) catchUp(ctx context.Context) error {
	fl.breaks = fl.j.api.nc.Stats().Reconnects
	if fl.f.Resumed != nil {
		// Also when the tail was only quiet: the stream's server may have
		// restarted behind the one this connection is to.
		fl.f.Resumed()
	}
	last, err := fl.identify(ctx)
	if err != nil {
		return err
	}
	from, err := fl.resumeAt(ctx, last)
	if err != nil {
		return err
	}
	if !fl.caughtUp && fl.goal == 0 {
		fl.goal = last
	}
	if last >= from {
		if _, err := fl.readTo(ctx, from, last, 0); err != nil {
			return err
		}
	}
	if m := fl.held; m != nil {
		if fl.tries++; fl.tries > heldTries {
			fl.held, fl.tries = nil, 0
		} else if err := fl.take(ctx, m); err != nil {
			return err
		}
	}
	return fl.reached()
}

// flush has the caller do what it put aside.
func (fl *follower) flush() error {
	if fl.f.Flush == nil {
		return nil
	}
	if err := fl.f.Flush(); err != nil {
		return applyError{err}
	}
	return nil
}

// resumeAt returns from where the stream is to be read again: the newest anchor
// that it still holds. An anchor that is gone would prove nothing of what came
// before it: the stream may have lost its end, and by now have used the
// sequences again for what is gone as well. Before there is an anchor, it is the
// oldest entry remembered.
//
// A leader whose last sequence is below what was applied proves nothing, it may
// only just have been elected: an own acknowledgement or a live entry will show
// what is true.
func (fl *follower) resumeAt(ctx context.Context, last uint64) (uint64, error) {
	first, ok := fl.ring.first()
	switch {
	case !ok:
		return fl.applied + 1, nil
	case len(fl.ring.anchors) == 0:
		return first, nil
	}
	for _, a := range slices.Backward(fl.ring.anchors) {
		e, err := fl.j.api.get(ctx, fl.j.name, getRequest{Seq: a.seq})
		switch {
		case errors.Is(err, ErrNotFound):
			continue
		case err != nil:
			return 0, err
		}
		return a.seq, fl.redeliver(e, 0)
	}
	if last < fl.applied {
		return fl.applied + 1, nil
	}
	return 0, fmt.Errorf("%w: it holds none of the own entries any more from which to go on", ErrRewound)
}

// reached says, once, that the stream's state of the beginning was applied.
func (fl *follower) reached() error {
	if !fl.caughtUp && fl.f.CaughtUp != nil {
		if err := fl.flush(); err != nil {
			return err
		}
		fl.f.CaughtUp()
	}
	fl.caughtUp = true
	return nil
}

// identify returns the last sequence of the stream, as a lower bound, if it is
// the stream that was opened. One that was made again since, with the same
// identity, contradicts what was delivered of it, and nothing else.
func (fl *follower) identify(ctx context.Context) (uint64, error) {
	j := fl.j
	s, err := j.api.info(ctx, j.name)
	switch {
	case err != nil:
		return 0, err
	case s.Cluster != nil && s.Cluster.Leader == "":
		return 0, fmt.Errorf("%w: the stream has no leader", ErrUnavailable)
	case s.Config.Metadata[metaEpoch] != j.epoch:
		return 0, fmt.Errorf("%w: epoch %q, not %q", ErrIdentity, s.Config.Metadata[metaEpoch], j.epoch)
	case s.Config.Metadata[metaNumber] != fmt.Sprint(j.number):
		return 0, fmt.Errorf("%w: number %q, not %d", ErrIdentity, s.Config.Metadata[metaNumber], j.number)
	case j.isMade(s.Created) && fl.delivered.Load() != 0:
		// Deleted, and made again as the same: what was applied is not in it.
		return 0, fmt.Errorf("%w: the stream was made again at %s", ErrRewound, s.Created.Format(time.RFC3339Nano))
	}
	return s.State.LastSeq, nil
}

// tail applies live messages until it must begin again. It never returns nil.
func (fl *follower) tail(ctx context.Context) error {
	tick := time.NewTicker(quietAfter / quietTicks)
	defer tick.Stop()
	idle := 0
	for {
		if len(fl.live) == 0 {
			if err := fl.flush(); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-fl.proven:
			return ErrRewound
		case <-tick.C:
			switch idle++; {
			case fl.broken():
				return errReconnected
			case fl.j.api.nc.IsClosed():
				return nats.ErrConnectionClosed
			case idle > quietTicks:
				return errQuiet
			}
		case m := <-fl.live:
			if fl.broken() {
				// A log that went backwards may have grown again and continue
				// in sequence, so not even the next one is believed.
				fl.held = m
				return errReconnected
			}
			idle = 0
			if err := fl.take(ctx, m); err != nil {
				return err
			}
		}
	}
}

// broken reports whether the connection was lost since following began. The
// client counts a reconnect before it subscribes again, so no message from
// after the break is seen without it.
func (fl *follower) broken() bool { return fl.j.api.nc.Stats().Reconnects != fl.breaks }

// take applies a live message and, before it, whatever is missing. A message
// whose gap could not be filled is held.
func (fl *follower) take(ctx context.Context, m *nats.Msg) error {
	e, ok := parseCopy(m, fl.j.name)
	if !ok || fl.j.dropLive != nil && fl.j.dropLive(e.Seq) {
		// What the stream holds comes by a gap.
		fl.held = nil
		return nil
	}
	applied := fl.applied
	if e.Seq > applied+1 {
		fl.held = m
		reached, err := fl.readTo(ctx, applied+1, e.Seq, e.Seq)
		if err != nil {
			return err
		}
		switch {
		case reached >= e.Seq:
		case fl.j.replicated:
			return errLagging
		default:
			// The one server there is has not assigned it: somebody published
			// to live. directly, and must not hold anybody up.
			fl.held = nil
			return nil
		}
		fl.j.metrics.gaps.Add(1)
		applied = fl.applied
	}
	fl.held, fl.tries = nil, 0
	if e.Seq <= applied {
		if sum, ok := fl.ring.find(e.Seq); ok && sum != fl.ring.sum(&e) {
			// Anybody can publish to live.; what the stream holds decides.
			return errDiffers
		}
		return nil
	}
	return fl.apply(e)
}

// redeliver is given each entry read from the stream. At or above before, if
// that is not 0, nothing is applied: that entry is in hand.
func (fl *follower) redeliver(e Entry, before uint64) error {
	switch first, ok := fl.ring.first(); {
	case e.Seq > fl.applied:
		if before != 0 && e.Seq >= before {
			return nil
		}
		return fl.apply(e)
	case !ok || e.Seq < first:
		return nil
	}
	if sum, ok := fl.ring.find(e.Seq); !ok || sum != fl.ring.sum(&e) {
		return fmt.Errorf("%w: at sequence %d it holds another event than was applied", ErrRewound, e.Seq)
	}
	return nil
}

// apply hands an entry to the caller.
func (fl *follower) apply(e Entry) error {
	sum, seq := fl.ring.sum(&e), e.Seq
	var own *anchor
	if fl.f.Anchor != nil && fl.f.Anchor(e) {
		own = anchorAt(&e)
	}
	if err := fl.f.Apply(e); err != nil {
		return applyError{err}
	}
	fl.ring.add(seq, sum, own)
	fl.applied = seq
	fl.delivered.Store(seq)
	if seq >= fl.goal {
		return fl.reached()
	}
	return nil
}
