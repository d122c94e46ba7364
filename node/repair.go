package node

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/projection"
)

// maxBroken bounds the overwrites remembered. Beyond it some are repaired only
// when the stream is read again; they grant nothing meanwhile.
const maxBroken = 100_000

// warnEvery is the least time between two log lines about the same.
const warnEvery = time.Minute

// overwritten notes that the entry may not stand where it stands.
func (s *stream) overwritten(e events.Entry, r events.Record) {
	total := s.overwrites.Add(1)
	s.node.metrics.overwrites.WithLabelValues(s.region).Inc()
	s.mu.Lock()
	defer s.mu.Unlock()
	if now := s.node.conf.Clock.Wall(); now.Sub(s.warned) >= warnEvery {
		s.warned = now
		s.node.conf.Log.Warn("overwrite: an event stands where this cluster did not write it; it is not believed and will be repaired",
			"stream", s.region, "seq", e.Seq, "kind", r.Subject.Kind, "trust", r.Trust.String(), "total", total)
	}
	if len(s.broken) < maxBroken {
		s.broken[e.Subject] = e.Seq
		s.urgent = s.urgent || r.Subject.Kind == events.KindRevoke || r.Subject.Kind == events.KindAll
	}
	s.signalLocked()
}

// caughtUp is called by the follow goroutine when all there was is applied.
func (s *stream) caughtUp() {
	s.joinFeed()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.caught = true
	if s.gaps.open {
		s.hurry()
	}
	s.signalLocked()
}

func (s *stream) signalLocked() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// repair appends again, until ctx ends, what others overwrote, and after the
// log went backwards the revocations it lost.
func (s *stream) repair(ctx context.Context) error {
	again := time.NewTicker(unheldEvery)
	defer again.Stop()
	for {
		select {
		case <-s.wake:
		case <-again.C:
			if !s.retake() {
				continue
			}
		case <-ctx.Done():
			return nil
		}
		// What it cannot read it would replace with less than there was.
		if s.node.missingKey() != "" {
			continue
		}
		s.mu.Lock()
		caught, broken, lost := s.caught, s.broken, s.lost
		if caught {
			s.broken, s.urgent = map[string]uint64{}, false
		}
		s.mu.Unlock()
		if !caught {
			continue
		}
		s.repairBroken(ctx, broken)
		if lost {
			s.restore(ctx)
		}
	}
}

// restore appends again what the log lost, until readers see in the present
// generation that it says so. An "all" that meets another than it was computed
// from is not forced upon it: with that one applied, what is still lost is
// computed again.
func (s *stream) restore(ctx context.Context) {
	began, again := s.rebuilt.Load(), false
	for ctx.Err() == nil && s.rebuilt.Load() == began {
		lost := s.fold.Lost(s.node.wall())
		if len(lost) == 0 {
			s.mu.Lock()
			defer s.mu.Unlock()
			if s.rebuilt.Load() == began {
				s.lost = false
			}
			return
		}
		s.settle(ctx, s.repairAll(ctx, lost))
		if again {
			wait(ctx, time.Second) // whatever it is that does not help, it may not fill the log
		}
		again = true
	}
	// A log that went backwards again is read again; then it goes on.
}

// wait returns after the time, or when ctx ends.
func wait(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// repairAll appends what was lost and returns the newest sequence that readers
// must see before it is known what is still lost.
func (s *stream) repairAll(ctx context.Context, lost []projection.Repair) uint64 {
	var newest atomic.Uint64
	var g errgroup.Group
	g.SetLimit(repairers)
	for _, fix := range lost {
		g.Go(func() error {
			seq := s.repairAppend(ctx, fix, s.fold.Expect(fix.Event))
			for old := newest.Load(); seq > old && !newest.CompareAndSwap(old, seq); {
				old = newest.Load()
			}
			return nil
		})
	}
	_ = g.Wait() // as in repairBroken
	return newest.Load()
}

// settle returns once readers see the sequence. It waits no longer than an
// append does: a log that went backwards meanwhile may not come as far.
func (s *stream) settle(ctx context.Context, seq uint64) {
	ctx, cancel := context.WithTimeout(ctx, appendTimeout)
	defer cancel()
	_ = s.wait(ctx, seq) // late, it is appended twice
}

// repairers is how many repairs are under way at a time: as many appends with an
// expectation as a log takes.
const repairers = 8

// repairBroken repairs revocations before all else: without them a node that
// starts now would know less than this one. One that is overwritten meanwhile does
// not wait for the rest, which may take long to find.
func (s *stream) repairBroken(ctx context.Context, broken map[string]uint64) {
	var g errgroup.Group
	g.SetLimit(repairers)
	states := 0 // a few each time: who overwrites revocations all the time does not hold them up
	for _, first := range []bool{true, false} {
		for subject, seq := range broken {
			if revokes := strings.HasSuffix(subject, ".rev") || strings.HasSuffix(subject, ".all"); revokes != first {
				continue
			}
			if !first {
				if states++; states > repairers && s.putOff(broken) {
					break
				}
			}
			delete(broken, subject)
			g.Go(func() error { s.repairOne(ctx, subject, seq); return nil })
		}
	}
	_ = g.Wait() // a repair reports nothing: it goes on until it has succeeded
}

// putOff leaves what is broken for later if a revocation is among what was
// overwritten since, and reports whether it is.
func (s *stream) putOff(broken map[string]uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.urgent {
		return false
	}
	for subject, seq := range broken {
		if _, newer := s.broken[subject]; !newer {
			s.broken[subject] = seq
		}
	}
	s.signalLocked()
	return true
}

func (s *stream) repairOne(ctx context.Context, text string, seq uint64) {
	subject, err := events.ParseSubject(text)
	if err != nil {
		return
	}
	if fix, ok := s.fold.Repair(subject, seq, s.node.wall()); ok {
		s.repairAppend(ctx, fix, events.Expect(seq))
	}
}

// repairAppend appends the event until it is stored, or another node's repair
// or a newer change stands there. It returns the sequence of what stands there
// then, 0 when that is not known.
func (s *stream) repairAppend(ctx context.Context, fix projection.Repair, e events.Expectation) uint64 {
	keys := s.node.conf.Keys
	private, err := s.privateOf(ctx, fix)
	if errors.Is(err, errNotHeld) {
		return s.leave(ctx, fix, e.Seq)
	} else if err != nil {
		s.node.conf.Log.Error("overwrite cannot be repaired", "stream", s.region, "error", err)
		return 0
	}
	for ctx.Err() == nil {
		// Each attempt is sealed anew, and bounded: none may arrive long after
		// the key was changed.
		m, err := keys.Encode(s.region, fix.Event, private, fix.TTL)
		if err != nil {
			s.node.conf.Log.Error("overwrite cannot be repaired", "stream", s.region, "error", err)
			return 0
		}
		limited, cancel := context.WithTimeout(ctx, appendTimeout)
		seq, err := s.log.Append(limited, m, e)
		cancel()
		if err == nil {
			s.node.metrics.repairs.WithLabelValues(s.region).Inc()
			s.settled(m.Subject)
			return seq
		}
		if errors.Is(err, events.ErrConflict) {
			var stands events.Entry
			if stands, err = s.log.Last(ctx, m.Subject); err == nil {
				s.settled(m.Subject)
				return stands.Seq
			}
			if errors.Is(err, events.ErrNotFound) && e.Seq != 0 {
				// The overwrite had a short life, and is gone together with what
				// it replaced.
				e = events.Expect(0)
				continue
			}
		}
		s.node.conf.Log.Warn("repair is tried again", "stream", s.region, "error", err)
		wait(ctx, time.Second)
	}
	return 0
}

const (
	// unheldEvery is the time until a repair is tried again that lacks the private
	// part: the archive may be out of reach, or a moment behind.
	unheldEvery = 10 * time.Second
	// unheldTries is how often it is tried until it is left to other nodes.
	unheldTries = 4
	// archivePatience is how long a repair looks for it: others wait.
	archivePatience = time.Second
)

// unheld are overwrites of states whose private part this node does not keep and
// could not find: by subject, how often it was tried.
type unheld map[string]unheldState

type unheldState struct {
	seq   uint64 // of the overwrite
	tries int
}

// privateOf returns what is to be sealed into the repair. A session's state is
// never written without its private part: who reads it would hold less than the
// session has, without a token or claims.
func (s *stream) privateOf(ctx context.Context, fix projection.Repair) ([]byte, error) {
	sealed := fix.Sealed
	if st, ok := fix.Event.(*events.State); ok && sealed.Empty() {
		ctx, cancel := context.WithTimeout(ctx, archivePatience)
		defer cancel()
		var err error
		if sealed, err = s.archived(ctx, st.Subject(s.region).String(), fix.Sealed); err != nil {
			return nil, fmt.Errorf("%w: %w", errNotHeld, err)
		}
	}
	return s.node.conf.Keys.OpenVerified(sealed)
}

// leave notes an overwrite at the sequence that cannot be repaired now, unless
// something else stands there by now: it returns the sequence of that.
func (s *stream) leave(ctx context.Context, fix projection.Repair, seq uint64) uint64 {
	at := fix.Event.Subject(s.region)
	subject := at.String()
	ctx, cancel := context.WithTimeout(ctx, archivePatience)
	defer cancel()
	if stands, err := s.log.Last(ctx, subject); err == nil && stands.Seq != seq {
		s.settled(subject)
		return stands.Seq
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	u := s.unheld[subject]
	if u.seq != seq {
		u = unheldState{seq: seq}
	}
	if u.tries++; u.tries < unheldTries {
		if s.unheld == nil {
			s.unheld = unheld{}
		}
		if len(s.unheld) < maxBroken {
			s.unheld[subject] = u
		}
		return 0
	}
	delete(s.unheld, subject)
	s.node.metrics.unrepaired.WithLabelValues(s.region).Inc()
	if now := s.node.conf.Clock.Wall(); now.Sub(s.warnedUnheld) >= warnEvery {
		s.warnedUnheld = now
		s.node.conf.Log.Error("an overwritten state is left as it is: its private part is neither kept on this node nor in the archive; nodes that keep it repair it, and where none does, what else the session had is lost",
			"stream", s.region, "sid", at.ID, "seq", seq)
	}
	return 0
}

// settled forgets that the subject could not be repaired.
func (s *stream) settled(subject string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.unheld, subject)
}

// retake makes the repairs that were left be tried again, and reports whether
// there are any.
func (s *stream) retake() (any bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for subject, u := range s.unheld {
		if _, newer := s.broken[subject]; !newer {
			s.broken[subject], any = u.seq, true
		}
	}
	return any
}
