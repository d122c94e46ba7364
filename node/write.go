package node

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/revocast/revocast/events"
)

// appendTimeout bounds how long a request waits for the log.
const appendTimeout = 5 * time.Second

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
	// The caller may go away; what was begun is finished, so that a client
	// that gave up after the append finds it applied.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), appendTimeout)
	defer cancel()
	seq, err := s.append(ctx, m, ex)
	if err != nil {
		return events.Position{}, err
	}
	if err := s.wait(ctx, seq); err != nil {
		// Committed, but this node cannot show it: the same to the caller as
		// an append without an answer.
		return events.Position{}, fmt.Errorf("%w: %w", events.ErrUnavailable, err)
	}
	return s.at(seq), nil
}

func (s *stream) append(ctx context.Context, m events.Message, ex events.Expectation) (uint64, error) {
	seq, err := s.log.Append(ctx, m, ex)
	s.answered(err)
	return seq, err
}

// answered counts appends in a row to which the log gave no answer, from which
// revive tells that the log's server may be dead.
func (s *stream) answered(err error) {
	switch {
	case errors.Is(err, events.ErrUnavailable):
		s.unanswered.Add(1)
	case err == nil:
		s.unanswered.Store(0)
	}
}
