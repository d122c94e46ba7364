package node

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node/api"
)

// appendTimeout bounds how long a request waits for the log.
const appendTimeout = 5 * time.Second

// revokeTimeout is appendTimeout for a revocation in the node's own region. It
// outlasts the election of a leader, which takes servers 4 to 9 s: who logs
// somebody out must not be told to come back later.
const revokeTimeout = 12 * time.Second

// patience returns how long a request waits for the event to be written.
func (s *stream) patience(e events.Event) time.Duration {
	switch e.(type) {
	case *events.Revoke, *events.RevokeAll:
		return s.revokePatience()
	}
	return appendTimeout
}

// revokePatience is patience for a revocation, with all that it looks up.
func (s *stream) revokePatience() time.Duration {
	if s == s.node.home {
		return revokeTimeout
	}
	return appendTimeout
}

// errOvertaken means that an event was stored and is not what this node read
// there: a newer one on its subject replaced it before, or it was lost together
// with what took its place.
var errOvertaken = errors.New("it is not known what was applied")

// insist calls try, which computes a revocation anew and writes it, until it
// stands, is refused, or the stream's patience ends. That others write the same
// at that moment is no reason to give up: during an election what they wrote is
// neither stored nor lost for some seconds, and nothing passes it.
func (s *stream) insist(ctx context.Context, try func(ctx context.Context) (events.Event, error)) error {
	ctx, cancel := context.WithTimeout(ctx, s.revokePatience())
	defer cancel()
	for {
		e, err := try(ctx)
		switch {
		case errors.Is(err, events.ErrConflict):
			if late := s.catchUp(ctx, e); late != nil {
				return late
			}
		case !errors.Is(err, errOvertaken):
			return err
		}
		if ctx.Err() != nil {
			return fmt.Errorf("%w: others write the same: %v", events.ErrUnavailable, err)
		}
	}
}

// messageFrame is about what a stored message takes in a stream beside subject,
// payload and seal, in bytes.
const messageFrame = 160

// sealDraft returns the message that creates the draft's session.
func (n *Node) sealDraft(s *stream, d *draft) (events.Message, error) {
	private, err := sealable(&d.private)
	if err != nil {
		return events.Message{}, err
	}
	return n.conf.Keys.Encode(s.region, &d.state, private, n.life(d.state.ExpiresAt))
}

// sealable returns the private part as it is sealed.
func sealable(p *events.Private) ([]byte, error) {
	private, err := marshal(p)
	if err != nil {
		return nil, err
	}
	if len(private) > events.MaxPrivate {
		return nil, fail(api.ClaimsTooLarge,
			"factors, attributes, custom claims and metadata of the session are over %d bytes together", events.MaxPrivate)
	}
	return private, nil
}

// storedSize is about what the message takes in a stream.
func storedSize(m *events.Message) uint64 {
	return uint64(len(m.Subject)+len(m.Payload)+len(m.Seal)) + messageFrame
}

// write appends the event, with its private part sealed, and returns its
// position once this node's readers see it.
//
// When the log did not answer it returns events.ErrUnavailable: the event may
// have been stored. A repeat is safe, because events only ever add or replace
// the same state.
func (s *stream) write(ctx context.Context, e events.Event, private []byte, ttl time.Duration, ex events.Expectation) (events.Position, error) {
	m, err := s.node.conf.Keys.Encode(s.region, e, private, ttl)
	if err != nil {
		return events.Position{}, err
	}
	if s.node.logDead.Load() {
		return events.Position{}, events.ErrUnavailable
	}
	// The caller may go away; what was begun is finished, so that a client
	// that gave up after the append finds it applied.
	patience := s.patience(e)
	if until, ok := ctx.Deadline(); ok {
		patience = min(patience, time.Until(until))
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
	defer cancel()
	before := s.position()
	seq, err := s.log.Append(ctx, m, ex)
	if err != nil {
		return events.Position{}, err
	}
	if seq <= before.Seq {
		// The log went backwards. What readers see at this sequence is another
		// event, and waiting for it would answer as if they saw this one.
		s.rewound(before.Gen)
		return events.Position{}, events.ErrRewound
	}
	// Until the stream's size is looked at again: within that second many clients
	// can fill a small log to the end, and then it takes no revocation either.
	s.bytes.Add(storedSize(&m))
	if err := s.wait(ctx, seq); err != nil {
		// Committed, but this node cannot show it: the same to the caller as
		// an append without an answer.
		return events.Position{}, fmt.Errorf("%w: %w", events.ErrUnavailable, err)
	}
	return s.proven(seq, m.Fingerprint(), before.Gen)
}

// wrote is what became of one of many events.
type wrote struct {
	at  events.Position
	err error
}

// writeAll is write of events that expect nothing, which are messages already and
// were counted.
func (s *stream) writeAll(ctx context.Context, ms []events.Message) []wrote {
	out := make([]wrote, len(ms))
	if s.node.logDead.Load() {
		for i := range out {
			out[i].err = events.ErrUnavailable
		}
		return out
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), appendTimeout)
	defer cancel()
	before := s.position()
	appended := events.AppendAll(ctx, s.log, ms)
	var last uint64
	for i, a := range appended {
		switch {
		case a.Err != nil:
			out[i].err = a.Err
		case a.Seq <= before.Seq:
			s.rewound(before.Gen)
			out[i].err = events.ErrRewound
		default:
			last = max(last, a.Seq)
		}
	}
	late := s.wait(ctx, last)
	for i, a := range appended {
		switch {
		case out[i].err != nil:
		case late != nil:
			out[i].err = fmt.Errorf("%w: %w", events.ErrUnavailable, late)
		default:
			out[i].at, out[i].err = s.proven(a.Seq, ms[i].Fingerprint(), before.Gen)
		}
	}
	return out
}

// proven returns the position of an event of this node that was acknowledged at
// the sequence, if it is what readers see there. Between the acknowledgement and
// its application the log may have gone backwards and given the sequence to
// another event, or this node may still have applied what stood there before.
//
// An append that was repeated without an answer may have stored copies of the
// event, of which only the last stands: then that is its position. One that is
// not on the trail at all may have been replaced by a newer one on its subject
// before it was read, or lost together with what took its place. That cannot be
// told apart, so the answer is that it may have been made (errOvertaken).
//
// Gen is a generation of before the append.
func (s *stream) proven(seq, event uint64, gen uint32) (events.Position, error) {
	for {
		pos := s.at(seq)
		applied, ok := s.trail.at(seq)
		switch {
		case !ok:
			later := s.trail.after(seq, event, s.applied.Load())
			if later == 0 {
				return events.Position{}, fmt.Errorf("%w: %w at %s", events.ErrUnavailable, errOvertaken, pos)
			}
			seq = later
		case applied != event:
			s.rewound(gen)
			return events.Position{}, fmt.Errorf("%w: another event was applied at %s", events.ErrRewound, pos)
		case s.rebuilt.Load() <= pos.Gen:
			return pos, nil
		}
	}
}
