package node

import (
	"context"
	"errors"
	"strings"
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
	}
	s.signalLocked()
}

// caughtUp is called by the follow goroutine when all there was is applied.
func (s *stream) caughtUp() {
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
	for {
		select {
		case <-s.wake:
		case <-ctx.Done():
			return nil
		}
		s.mu.Lock()
		caught, broken, lost := s.caught, s.broken, s.lost
		if caught {
			s.broken, s.lost = map[string]uint64{}, false
		}
		s.mu.Unlock()
		if !caught {
			continue
		}
		s.repairBroken(ctx, broken)
		if !lost {
			continue
		}
		for _, fix := range s.fold.Lost(s.node.wall()) {
			s.repairAppend(ctx, fix, s.fold.Expect(fix.Event))
		}
	}
}

// repairers is how many repairs are under way at a time: as many appends with an
// expectation as a log takes.
const repairers = 8

// repairBroken repairs revocations before all else: without them a node that
// starts now would know less than this one.
func (s *stream) repairBroken(ctx context.Context, broken map[string]uint64) {
	var g errgroup.Group
	g.SetLimit(repairers)
	for _, first := range []bool{true, false} {
		for subject, seq := range broken {
			if revokes := strings.HasSuffix(subject, ".rev") || strings.HasSuffix(subject, ".all"); revokes == first {
				g.Go(func() error { s.repairOne(ctx, subject, seq); return nil })
			}
		}
	}
	_ = g.Wait() // a repair reports nothing: it goes on until it has succeeded
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
// or a newer change stands there.
func (s *stream) repairAppend(ctx context.Context, fix projection.Repair, e events.Expectation) {
	keys := s.node.conf.Keys
	private, err := keys.OpenVerified(fix.Sealed)
	if err != nil {
		s.node.conf.Log.Error("overwrite cannot be repaired", "stream", s.region, "error", err)
		return
	}
	m, err := keys.Encode(s.region, fix.Event, private, fix.TTL)
	if err != nil {
		s.node.conf.Log.Error("overwrite cannot be repaired", "stream", s.region, "error", err)
		return
	}
	for ctx.Err() == nil {
		_, err := s.log.Append(ctx, m, e)
		if err == nil {
			s.node.metrics.repairs.WithLabelValues(s.region).Inc()
			return
		}
		if errors.Is(err, events.ErrConflict) {
			if _, err = s.log.Last(ctx, m.Subject); err == nil {
				return
			}
			if errors.Is(err, events.ErrNotFound) && e.Seq != 0 {
				// The overwrite had a short life, and is gone together with what
				// it replaced.
				e = events.Expect(0)
				continue
			}
		}
		s.node.conf.Log.Warn("repair is tried again", "stream", s.region, "error", err)
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
		}
	}
}
