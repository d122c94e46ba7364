package node

import (
	"context"
	"fmt"
	"time"

	"github.com/revocast/revocast/events"
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
		if s == s.node.home {
			return revokeTimeout
		}
	}
	return appendTimeout
}

// messageFrame is about what a stored message takes in a stream beside subject,
// payload and seal, in bytes.
const messageFrame = 160

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
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.patience(e))
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
	s.bytes.Add(uint64(len(m.Subject)+len(m.Payload)+len(m.Seal)) + messageFrame)
	if err := s.wait(ctx, seq); err != nil {
		// Committed, but this node cannot show it: the same to the caller as
		// an append without an answer.
		return events.Position{}, fmt.Errorf("%w: %w", events.ErrUnavailable, err)
	}
	return s.at(seq), nil
}
