package events

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
)

// readAgain is the pause before a replica that is behind is asked again.
const readAgain = 100 * time.Millisecond

// Read implements [Log].
//
// Heartbeats are read along: there is always one a moment old. A replica that
// delivers an entry has delivered, before it, all it was asked for up to there, so
// one at or after to proves that nothing is missing. Of a stream that is not
// replicated the one server there is knows, and is asked for the next entry.
//
// An election, or a server that ends, is waited out until ctx ends, or, if it has no
// deadline, until nothing was read for five seconds.
func (j *JetStream) Read(ctx context.Context, r Range, fn func(Entry) bool) error {
	beats := Subject{Region: j.region, User: "*", ID: "*", Kind: KindBeat}.String()
	along := readConfig{from: r.From, filters: append(slices.Clone(r.Filters), beats)}
	_, limited := ctx.Deadline()
	heard, pause := time.Now(), backoff{}
	for since := r.Since; along.from <= r.To; {
		over := false
		var err error
		if !since.IsZero() {
			if along.from, err = j.api.seqAt(ctx, j.name, since); err == nil {
				since = time.Time{}
				continue
			}
		} else {
			err = j.api.read(ctx, j.name, along, func(d delivery, m *nats.Msg) (bool, error) {
				along.from = d.seq + 1
				heard, pause = time.Now(), backoff{}
				if d.seq > r.To {
					over = true
					return false, nil
				}
				e := deliveredEntry(m, d)
				wanted := slices.ContainsFunc(r.Filters, func(f string) bool { return within(e.Subject, f) })
				over = wanted && !fn(e)
				return !over, nil
			})
		}
		if err == nil && !over && !j.replicated && along.from <= r.To {
			var left bool
			if left, err = j.holds(ctx, along.from, r); err == nil && !left {
				return nil
			}
		}
		switch {
		case over:
			return nil
		case err != nil:
			if !transient(err) || !limited && time.Since(heard) > defaultTimeout || !pause.wait(ctx) {
				return fmt.Errorf("read %s: %w", j.name, err)
			}
		case along.from <= r.To && !sleep(ctx, readAgain):
			return fmt.Errorf("read %s: %w", j.name, ctx.Err())
		}
	}
	return nil
}

// holds reports whether the stream holds any of the range from the sequence on.
func (j *JetStream) holds(ctx context.Context, from uint64, r Range) (bool, error) {
	for _, f := range r.Filters {
		switch e, err := j.api.get(ctx, j.name, getRequest{Seq: from, NextFor: f}); {
		case errors.Is(err, ErrNotFound):
		case err != nil:
			return false, err
		case e.Seq <= r.To:
			return true, nil
		}
	}
	return false, nil
}
