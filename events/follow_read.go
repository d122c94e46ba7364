package events

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
)

const (
	// bulkAbove is the distance from which a consumer is worth its making.
	bulkAbove = 1000
	// directBatch is the most asked of one direct get.
	directBatch = 1000
	// lagTries is how often a replica that is behind is asked again before
	// the stream's leader is.
	lagTries = 4
	lagPause = 10 * time.Millisecond
)

// errIrregular: a message whose place cannot be read from a copy of it.
var errIrregular = errors.New("copy with an unreadable header")

// readTo reads from sequence from on, compares or applies each entry, and
// returns the sequence that was reached: at to or beyond, all between is
// proven to have been delivered or to be gone. It is less when the stream's
// leader itself holds nothing more; inHand, if not 0, is a live sequence that
// the stream must then at least have assigned.
func (fl *follower) readTo(ctx context.Context, from, to, inHand uint64) (uint64, error) {
	next := from
	if err := fl.flush(); err != nil {
		return 0, err
	}
	if to-from >= bulkAbove {
		reached, err := fl.bulk(ctx, from, to, inHand)
		if err != nil {
			return 0, err
		}
		next = max(next, reached+1)
	}
	for try := 0; next <= to; {
		reached, err := fl.direct(ctx, next, to, inHand)
		if err != nil && !errors.Is(err, errIrregular) {
			return 0, err
		}
		if reached >= next {
			next, try = reached+1, 0
		}
		if err != nil || next <= to && (try >= lagTries || !fl.j.replicated) {
			return fl.leader(ctx, next, to, inHand)
		}
		if reached < next-1 {
			try++
			if err := fl.flush(); err != nil {
				return 0, err
			}
			if !sleep(ctx, lagPause<<try) {
				return 0, ctx.Err()
			}
		}
	}
	return next - 1, nil
}

// sleep pauses and reports whether ctx still goes on.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// bulk reads with a consumer.
func (fl *follower) bulk(ctx context.Context, from, to, inHand uint64) (reached uint64, err error) {
	err = fl.j.api.read(ctx, fl.j.name, readConfig{from: from, idle: fl.flush}, func(d delivery, m *nats.Msg) (bool, error) {
		if err := fl.redeliver(deliveredEntry(m, d), inHand); err != nil {
			return false, err
		}
		reached = d.seq
		if reached < to {
			return true, nil
		}
		return false, fl.flush() // ending the read takes a moment
	})
	return reached, err
}

// direct reads with one batch direct get, which any replica may answer. It
// returns the last sequence it delivered.
func (fl *follower) direct(ctx context.Context, from, to, inHand uint64) (reached uint64, err error) {
	nc := fl.j.api.nc
	inbox := nc.NewInbox()
	sub, err := nc.SubscribeSync(inbox)
	if err != nil {
		return 0, fmt.Errorf("direct get: %w", err)
	}
	// An error means that the connection is closed, and the subscription with it.
	defer func() { _ = sub.Unsubscribe() }()
	body, err := json.Marshal(struct {
		Seq   uint64 `json:"seq"`
		Batch uint64 `json:"batch"`
	}{from, min(to-from+1, directBatch)})
	if err != nil {
		return 0, fmt.Errorf("encode direct get: %w", err)
	}
	if err := nc.PublishRequest(fl.j.api.prefix+"DIRECT.GET."+fl.j.name, inbox, body); err != nil {
		return 0, fmt.Errorf("direct get: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, 2*attemptTimeout)
	defer cancel()
	for {
		if waiting, _, err := sub.Pending(); err != nil || waiting == 0 {
			if err := fl.flush(); err != nil {
				return reached, err
			}
		}
		m, err := sub.NextMsgWithContext(ctx)
		if err != nil {
			return reached, fmt.Errorf("direct get: %w", err)
		}
		if status := m.Header.Get(hdrStatus); status != "" && lastValue(m.Header, hdrSequence) == "" {
			switch status {
			case "204", "404":
				return reached, nil
			}
			return reached, fmt.Errorf("direct get: status %s", status)
		}
		e, ok := parseCopy(m, fl.j.name)
		if !ok {
			return reached, errIrregular
		}
		if err := fl.redeliver(e, inHand); err != nil {
			return reached, err
		}
		reached = e.Seq
	}
}

// leader reads one by one from the stream's leader.
func (fl *follower) leader(ctx context.Context, from, to, inHand uint64) (uint64, error) {
	j := fl.j
	for next := from; next <= to; {
		if err := fl.flush(); err != nil {
			return 0, err
		}
		e, err := j.api.get(ctx, j.name, getRequest{Seq: next, NextFor: "ev." + j.region + ".>"})
		if errors.Is(err, ErrNotFound) {
			return fl.end(ctx, next-1, inHand)
		}
		if err != nil {
			return 0, err
		}
		if err := fl.redeliver(e, inHand); err != nil {
			return 0, err
		}
		next = e.Seq + 1
		from = next
	}
	return from - 1, nil
}

// end says what was reached when the leader holds nothing after a sequence.
// With a live sequence in hand that has itself expired nothing can be read
// there: a single server is believed that it assigned it. A leader of several
// may have been deposed, and proves nothing.
func (fl *follower) end(ctx context.Context, reached, inHand uint64) (uint64, error) {
	if inHand == 0 || fl.j.replicated {
		return reached, nil
	}
	last, err := fl.identify(ctx)
	if err != nil {
		return 0, err
	}
	if last >= inHand {
		return inHand, nil
	}
	return reached, nil
}
