package node

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/projection"
)

// fold is what a stream's records are applied to.
type fold interface {
	// ApplyAll applies records of which none but the last is about nodes, and
	// says in effects what each did.
	ApplyAll(rs []events.Record, effects []projection.Effect)
	Rewind()
	// Adopt names the present generation gen, if that is higher.
	Adopt(gen uint32)
	Reread()
	Position() (gen uint32, seq uint64)
	Repair(s events.Subject, seq uint64, now int64) (projection.Repair, bool)
	Lost(now int64) []projection.Repair
	// Expect returns what appending a lost event again demands of its subject.
	Expect(e events.Event) events.Expectation
	Digest(now int64) string
}

// stream is how a node stands to one stream: it follows it, knows what is
// applied, holds the lease, and repairs what others overwrote.
type stream struct {
	node   *Node
	log    events.Log
	region string
	number uint8
	fold   fold
	lease  *lease
	leased chan struct{} // closed at the first lease; by the follow goroutine only

	beats  atomic.Uint64 // number of the newest heartbeat, marker or registration
	sent   sentBeats
	digest atomic.Pointer[map[string]string] // position to digest, for the next heartbeats

	members members
	said    announcements
	digests digests
	// resumedAt is Clock.Boot in ns when following last began or began again, or
	// since when another node vouches for the members (see vouch.go).
	resumedAt atomic.Int64
	broke     chan struct{} // 1 deep: following began, or began again

	reads   *barrier // shared by all whose answer depends on what this node may not have heard
	missing negative // what was asked for and is not in the stream

	fetching chan struct{} // holds one for each private part that is being read
	seeking  chan struct{} // likewise for each that is looked for in the history

	bytes, maxBytes atomic.Uint64 // newest size seen
	overwrites      atomic.Uint64

	applied atomic.Uint64 // sequence that readers see, with all before it
	begun   atomic.Uint64 // sequence of which readers may see something
	trail   trail         // which events those were
	// rebuilt is the generation with which reading from the beginning began last.
	// A position taken before has a lower one. Generations rise also without
	// that, when another node counted further.
	rebuilt atomic.Uint32
	told    atomic.Uint64 // up to where the newest heartbeat said what was applied
	doubts  doubts
	waiting atomic.Int64 // number of waiters; lets the applier skip the lock

	mu      sync.Mutex // guards the fields below
	waiters map[*waiter]struct{}
	strange map[string]struct{}     // ids of cluster keys that are not held and sealed lasting entries
	restart context.CancelCauseFunc // ends the current Follow; nil when none runs
	broken  map[string]uint64       // subject to sequence of an overwrite not yet repaired
	urgent  bool                    // some of broken are revocations
	wake    chan struct{}           // 1 deep: broken is not empty
	caught  bool                    // everything there was at the start of Follow is applied
	lost    bool                    // the log went backwards, and what it lost is not yet appended again
	warned  time.Time               // when an overwrite was last logged
	// warnedUnheld is when one that is left as it is was last logged.
	warnedUnheld time.Time
	unread       unread // what fences with the reason format
	unheld       unheld // overwrites that this node could not repair

	doomed atomic.Bool // the current Follow is to apply nothing more
	behind atomic.Bool // unread holds something; lets the applier skip the lock

	offset atomic.Pointer[int64] // the log's stamp on the newest own heartbeat minus the wall clock, ms; nil: none yet
	// Why the newest heartbeat was not stored, and why the stream is read
	// again; nil: nothing of the kind.
	beatError, followError atomic.Pointer[string]

	gaps gaps
	soon chan struct{} // 1 deep: the next heartbeat is wanted at once

	namesakeWarned time.Duration // Clock.Boot when another process of this name was last logged; the follow goroutine's
	// shown is the cluster key that the newest heartbeat of its own that came
	// back lists first.
	shown atomic.Pointer[string]
	// firstBeat is when (Clock.Boot) a heartbeat of its own first came back
	// since the stream was last read from its beginning; owned by the follow
	// goroutine, and kept only while entries cannot be read.
	firstBeat time.Duration

	// Guarded by the node's feed: whether entries are told as they come, how often
	// they were interrupted, and the newest that could be told.
	feeding bool
	lives   uint64
	toldSeq uint64
	fed     chan struct{} // 1 deep: feeding was set

	queue   queue    // delivered and not yet applied; owned by the follow goroutine
	overlap *overlap // with the loaded snapshot; owned by the follow goroutine
	tape    *tape    // for the next snapshot; nil without snapshots
}

type waiter struct {
	seq  uint64
	done chan struct{}
}

func newStream(n *Node, log events.Log, f fold) *stream {
	s := &stream{
		node: n, log: log, region: log.Region(), number: log.Number(), fold: f,
		lease: newLease(n.conf.Lease), leased: make(chan struct{}), members: members{lease: n.conf.Lease},
		fetching: make(chan struct{}, fetchers), seeking: make(chan struct{}, seekers),
		waiters: map[*waiter]struct{}{}, broken: map[string]uint64{}, wake: make(chan struct{}, 1), soon: make(chan struct{}, 1), broke: make(chan struct{}, 1), fed: make(chan struct{}, 1),
	}
	s.doubts.wake = make(chan struct{}, 1)
	s.digest.Store(&map[string]string{})
	s.reads = newBarrier(s)
	s.resume()
	return s
}

// position returns the position up to which readers see the stream.
func (s *stream) position() events.Position {
	gen, seq := s.fold.Position()
	return events.Position{Stream: s.region, Gen: gen, Seq: seq}
}

// seen returns a position at or after everything that readers saw when it was
// called: what an entry does is seen before its position is.
func (s *stream) seen() events.Position {
	p := s.position()
	p.Seq = max(p.Seq, s.begun.Load())
	return p
}

// at returns the position of seq in the current generation.
func (s *stream) at(seq uint64) events.Position {
	gen, _ := s.fold.Position()
	return events.Position{Stream: s.region, Gen: gen, Seq: seq}
}

// follow applies the stream until ctx ends. Whenever it cannot be trusted to
// continue what was applied, the lease is dropped and the stream is read again
// from its beginning, keeping revocations.
func (s *stream) follow(ctx context.Context) error {
	var err error
	for again := false; ; again = true {
		if again {
			s.begin(errors.Is(err, errNewKey))
		}
		err = s.followOnce(ctx)
		if ctx.Err() != nil {
			return nil
		}
		reason := reasonRewound
		switch {
		case errors.Is(err, events.ErrIdentity):
			reason = reasonIdentity
		case errors.Is(err, errDigest):
			reason = reasonDigest
		case errors.Is(err, errNewKey):
			reason = reasonKey
		}
		s.followError.Store(new(err.Error()))
		s.lease.drop(reason)
		s.node.conf.Log.Error("stream is read again from its beginning", "stream", s.region, "reason", reason, "error", err)
		s.node.metrics.rebuilds.WithLabelValues(s.region).Inc()
		select {
		case <-time.After(s.node.conf.Beat):
		case <-ctx.Done():
			return nil
		}
	}
}

// begin forgets what the stream is about to say again. With newKey that is the
// same as before, and can be read by now; else the log went backwards.
func (s *stream) begin(newKey bool) {
	s.leaveFeed()      // before anything is seen twice
	s.applied.Store(0) // first: nobody may take the old sequence for the new
	s.begun.Store(0)
	s.gaps = gaps{}
	s.overlap = nil
	s.tape.reset()
	s.trail.reset()
	if newKey {
		s.fold.Reread()
	} else {
		s.fold.Rewind()
		gen, _ := s.fold.Position()
		s.rebuilt.Store(gen)
		s.lease.forget()  // only heartbeats that name the generation renew in it
		s.members.reset() // after rebuilt: see inquiry.run
		s.said.reset()
	}
	s.digests.reset()
	s.missing.empty() // after the fold: see negative
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lost = s.lost || !newKey
	if newKey {
		s.broken = map[string]uint64{} // it was no overwrite
	}
	s.strange, s.firstBeat, s.unread, s.unheld = nil, 0, unread{}, nil
	s.behind.Store(false)
}

func (s *stream) followOnce(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	s.mu.Lock()
	s.restart, s.caught = cancel, false
	s.mu.Unlock()
	s.doomed.Store(false)
	s.queue.empty()
	err := s.log.Follow(ctx, events.Follow{
		From:     s.overlap.start(),
		Anchor:   s.own,
		Apply:    s.take,
		Flush:    s.flush,
		CaughtUp: s.caughtUp,
		Resumed:  s.resumed,
	})
	if err == nil {
		err = context.Cause(ctx)
	}
	if s.doomed.Load() && errors.Is(err, errNewKey) {
		err = events.ErrRewound // both, and this counts
	}
	return err
}

// own reports whether the entry is a heartbeat or marker of this incarnation. One
// that is forged may be gone at any moment, and is no anchor.
func (s *stream) own(e events.Entry) bool {
	sub, err := events.ParseSubject(e.Subject)
	prefix := s.node.incarnation.String()
	return err == nil && (sub.Kind == events.KindBeat || sub.Kind == events.KindMarker) &&
		len(sub.ID) > len(prefix) && sub.ID[:len(prefix)] == prefix &&
		s.node.conf.Keys.Decode(s.number, e).Trust == events.Authentic
}

func (s *stream) renew(n, seq uint64, logged time.Time) {
	// Two clocks that disagree say that one is wrong. Where node and log have
	// the same clock, only its going back shows: what was expired would be good.
	s.offset.Store(new(logged.Sub(s.node.conf.Clock.Wall()).Milliseconds()))
	skew, back := logged.Sub(s.node.conf.Clock.Wall()).Abs(), time.UnixMilli(s.node.agreed.Load()).Sub(logged)
	if skew > maxClockSkew || back > maxClockSkew {
		if !s.lease.is(reasonClock) {
			s.node.conf.Log.Error("lease is not renewed: this node's clock and the log's are too far apart, or both were set back; if they are right now, restart the node",
				"stream", s.region, "apart", skew, "back", max(0, back))
		}
		s.lease.because(reasonClock)
		return
	}
	s.node.agree(logged.UnixMilli())
	s.node.booted.Store(s.node.wall() - s.node.conf.Clock.Boot().Milliseconds())
	if s.node.faults.fromReturn || s.node.faults.anyLife {
		s.lease.sending(n, s.node.conf.Clock.Boot())
	}
	s.lease.returned(n, seq)
	select {
	case <-s.leased:
	default:
		if s.lease.holds(s.node.conf.Clock.Boot()) {
			close(s.leased)
		}
	}
}

// advance publishes that readers see the sequence. The applier stores first
// and looks for waiters second, a waiter registers first and looks at the
// sequence second: so none is missed.
func (s *stream) advance(seq uint64) {
	s.applied.Store(seq)
	if s.waiting.Load() == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for w := range s.waiters {
		if w.seq <= seq {
			close(w.done)
			delete(s.waiters, w)
			s.waiting.Add(-1)
		}
	}
}

// errTooManyWaiters bounds what a flood of waiting requests can hold.
var errTooManyWaiters = errors.New("too many requests wait for the log")

const maxWaiters = 10_000

// wait returns once readers see the sequence.
func (s *stream) wait(ctx context.Context, seq uint64) error {
	if s.applied.Load() >= seq {
		return nil
	}
	w := &waiter{seq: seq, done: make(chan struct{})}
	s.mu.Lock()
	if len(s.waiters) >= maxWaiters {
		s.mu.Unlock()
		return errTooManyWaiters
	}
	s.waiters[w] = struct{}{}
	s.waiting.Add(1)
	if s.applied.Load() >= seq {
		delete(s.waiters, w)
		s.waiting.Add(-1)
		s.mu.Unlock()
		return nil
	}
	s.mu.Unlock()
	select {
	case <-w.done:
		return nil
	case <-ctx.Done():
		s.mu.Lock()
		defer s.mu.Unlock()
		if _, ok := s.waiters[w]; ok {
			delete(s.waiters, w)
			s.waiting.Add(-1)
		}
		return fmt.Errorf("wait for %s: %w", s.at(seq), ctx.Err())
	}
}

// rewound ends the current Follow because the log of the generation went
// backwards. Of several appends that prove it, all but the first come when the
// next generation is being read already.
func (s *stream) rewound(gen uint32) {
	if s.rebuilt.Load() > gen {
		return
	}
	s.doomed.Store(true)
	s.readAgain(reasonRewound, events.ErrRewound)
}

// readAgain ends the lease and the current Follow: the stream is read again from
// its beginning.
func (s *stream) readAgain(reason string, cause error) {
	s.lease.drop(reason)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.restart != nil {
		s.restart(cause)
	}
}

// watch looks at the stream's size about once a second: a full log refuses
// even heartbeats, so creates must stop long before.
func (s *stream) watch(ctx context.Context) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		if info, err := s.log.Info(ctx); err == nil {
			s.bytes.Store(info.Bytes)
			s.maxBytes.Store(info.MaxBytes)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// above reports whether the stream holds more than the given percentage of
// what it may.
func (s *stream) above(percent uint64) bool {
	limit := s.maxBytes.Load()
	return limit > 0 && s.bytes.Load() > limit/100*percent
}
