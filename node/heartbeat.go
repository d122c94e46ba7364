package node

import (
	"context"
	"fmt"
	"time"

	"github.com/revocast/revocast/events"
)

// markerLife is how long a snap marker stays in the log; markerEvery is the
// time between them.
const (
	markerLife  = 24 * time.Hour
	markerEvery = 5 * time.Minute
)

// beat registers this incarnation and then sends heartbeats until ctx ends or
// the node leaves: after the farewell nothing is heard of it any more.
func (s *stream) beat(ctx context.Context) error {
	next := time.NewTimer(0)
	defer next.Stop()
	<-next.C
	var registered, marked bool
	var markedAt time.Duration
	for !s.lease.ended() {
		began := s.node.conf.Clock.Boot()
		s.checkKeys()
		s.checkFormat()
		// Its registration comes first in the log: a coordinator that reads
		// members before a revocation finds this incarnation (rule R11).
		var err error
		if !registered {
			err = s.register(ctx, false)
			registered = err == nil
		}
		if registered {
			_, _, err = s.sendBeat(ctx)
		}
		s.beaten(err)
		if err != nil && ctx.Err() == nil {
			s.node.metrics.beatFailures.WithLabelValues(s.region).Inc()
		} else if now := s.node.conf.Clock.Boot(); !marked || now-markedAt >= markerEvery {
			marked, markedAt = s.mark(ctx) == nil, now
		}
		next.Reset(s.beatEvery() - (s.node.conf.Clock.Boot() - began))
		select {
		case <-next.C:
		case <-s.soon:
		case <-ctx.Done():
			return nil
		}
	}
	return nil
}

// beatEvery returns the time until the next heartbeat. Each heartbeat goes to
// every node, so where there are many, all of them together send a hundred in
// the time between two of one (at the default, a second); but each a few in a
// lease, so that one that is lost fences nobody.
func (s *stream) beatEvery() time.Duration {
	c := &s.node.conf
	return max(c.Beat, min(c.Beat*time.Duration(s.members.count())/100, c.Lease/4))
}

// beaten notes how the newest heartbeat fared, for people.
func (s *stream) beaten(err error) {
	if err == nil {
		s.beatError.Store(nil)
		return
	}
	s.beatError.Store(new(err.Error()))
}

// sendBeat sends one heartbeat and returns its sequence and fingerprint once it
// is committed: above everything that was committed before it was sent.
func (s *stream) sendBeat(ctx context.Context) (seq, event uint64, err error) {
	c := &s.node.conf
	n := s.beats.Add(1)
	// Before the generation is read, so that a heartbeat which names an earlier
	// one renews nothing in the next: see follow.
	s.lease.sending(n, c.Clock.Boot())
	e := &events.Beat{
		Node: c.Name, Incarnation: s.node.incarnation, N: n, Region: s.node.home.region, Format: events.Version, Keys: s.node.announcedKeys(),
		Positions: map[string]string{s.region: s.position().String()},
		Digests:   *s.digest.Load(), At: s.node.wall(),
	}
	said := s.tellTrail(e)
	m, err := c.Keys.Encode(s.region, e, nil, 4*c.Lease)
	if err != nil {
		return 0, 0, fmt.Errorf("encode heartbeat: %w", err)
	}
	s.sent.note(n, m.Fingerprint())
	ctx, cancel := context.WithTimeout(ctx, c.Lease/4)
	defer cancel()
	before := s.position()
	seq, err = s.log.Append(ctx, m, events.Expectation{})
	if err != nil {
		return 0, 0, fmt.Errorf("send heartbeat: %w", err)
	}
	if seq <= before.Seq {
		// What this node applied is not what the log holds: only an own
		// acknowledgement proves it, never what a leader says of itself.
		s.rewound(before.Gen)
		return 0, 0, fmt.Errorf("send heartbeat: %w", events.ErrRewound)
	}
	s.told.Store(said)
	if s.node.faults.beatsApart {
		s.lease.returned(n, seq)
	}
	s.node.metrics.beats.WithLabelValues(s.region).Inc()
	return seq, m.Fingerprint(), nil
}

// adopt takes over the generation that an authentic heartbeat names, if it is
// higher. Two nodes then name one log alike, and one that starts anew does not
// count from 0. Nothing was read again for that: what holds for a position of an
// earlier generation on this node goes by stream.rebuilt.
func (s *stream) adopt(r events.Record) {
	beat, ok := r.Event.(*events.Beat)
	if !ok {
		return
	}
	p, err := events.ParsePosition(beat.Positions[s.region])
	if gen, _ := s.fold.Position(); err == nil && p.Stream == s.region && p.Gen > gen {
		s.fold.Adopt(p.Gen)
	}
}

// register writes that this incarnation begins or has left.
func (s *stream) register(ctx context.Context, left bool) error {
	c := &s.node.conf
	return s.announce(ctx, 4*c.Lease, &events.Node{
		Node: c.Name, Incarnation: s.node.incarnation, N: s.beats.Add(1), Region: s.node.home.region,
		Format: events.Version, Keys: s.node.announcedKeys(), Left: left, At: s.node.wall(),
	})
}

// mark appends a marker, from which the node may resume after a long break.
func (s *stream) mark(ctx context.Context) error {
	return s.announce(ctx, markerLife, &events.Marker{
		Node: s.node.conf.Name, Incarnation: s.node.incarnation, N: s.beats.Add(1),
	})
}

func (s *stream) announce(ctx context.Context, life time.Duration, e events.Event) error {
	m, err := s.node.conf.Keys.Encode(s.region, e, nil, life)
	if err != nil {
		return fmt.Errorf("encode: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, s.node.conf.Lease/4)
	defer cancel()
	_, err = s.log.Append(ctx, m, events.Expectation{})
	return err
}
