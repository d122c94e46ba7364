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
func (j *JetStream) Read(ctx context.Context, from, to uint64, filters []string, fn func(Entry) bool) error {
	beats := Subject{Region: j.region, User: "*", ID: "*", Kind: KindBeat}.String()
	along := append(slices.Clone(filters), beats)
	for next := max(from, 1); next <= to; {
		over := false
		err := j.api.read(ctx, j.name, readConfig{from: next, filters: along}, func(d delivery, m *nats.Msg) (bool, error) {
			next = d.seq + 1
			if d.seq > to {
				over = true
				return false, nil
			}
			e := deliveredEntry(m, d)
			wanted := slices.ContainsFunc(filters, func(f string) bool { return within(e.Subject, f) })
			over = wanted && !fn(e)
			return !over, nil
		})
		switch {
		case err != nil:
			return fmt.Errorf("read %s: %w", j.name, err)
		case over, !j.replicated:
			return nil
		case next <= to && !sleep(ctx, readAgain):
			return fmt.Errorf("read %s: %w", j.name, ctx.Err())
		}
	}
	return nil
}
