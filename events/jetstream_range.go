package events

import (
	"context"
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
// replicated the one server there is knows.
//
// An election, or a server that ends, is waited out until ctx ends, or, if it has no
// deadline, until nothing was read for five seconds.
func (j *JetStream) Read(ctx context.Context, r Range, fn func(Entry) bool) error {
	beats := Subject{Region: j.region, User: "*", ID: "*", Kind: KindBeat}.String()
	along := readConfig{from: r.From, since: r.Since, filters: append(slices.Clone(r.Filters), beats)}
	_, limited := ctx.Deadline()
	heard, pause := time.Now(), backoff{}
	for along.from <= r.To {
		over := false
		err := j.api.read(ctx, j.name, along, func(d delivery, m *nats.Msg) (bool, error) {
			along.from, along.since = d.seq+1, time.Time{}
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
		switch {
		case over:
			return nil
		case err != nil:
			if !transient(err) || !limited && time.Since(heard) > defaultTimeout || !pause.wait(ctx) {
				return fmt.Errorf("read %s: %w", j.name, err)
			}
		case !j.replicated:
			return nil
		case along.from <= r.To && !sleep(ctx, readAgain):
			return fmt.Errorf("read %s: %w", j.name, ctx.Err())
		}
	}
	return nil
}
