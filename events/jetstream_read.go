package events

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Bulk reading goes by pull requests of many messages at once, on an ephemeral
// consumer without acknowledgements that is dropped afterwards.
const (
	pullMax   = 10000
	pullMin   = 500
	pullBytes = 16 << 20 // about how much one request may bring
	// readSilence is how long a read waits for the next message. The server
	// sends a heartbeat each pullHeartbeat.
	readSilence   = 3 * time.Second
	pullHeartbeat = time.Second
)

var errSilent = errors.New("consumer fell silent")

// readConfig says what a bulk read delivers.
type readConfig struct {
	from    uint64   // first sequence
	filters []string // subjects; none means all
	// idle, if not nil, is called before the read waits for the next message.
	idle func() error
}

// read gives each the messages of the stream from c.from on, in order, until
// each returns false or an error, or nothing is left by the server's count. That
// proves nothing: the consumer may live on a replica that is behind, and each server
// counts too little for a moment when a message takes the place of another, which it
// takes off at once and the new one it adds later.
func (a jsAPI) read(ctx context.Context, stream string, c readConfig, each func(delivery, *nats.Msg) (bool, error)) error {
	consumer, end, err := a.consumer(ctx, stream, jetstream.ConsumerConfig{
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: max(c.from, 1), FilterSubjects: c.filters,
	})
	if err != nil {
		return err
	}
	defer end()
	if consumer.NumPending == 0 {
		return nil
	}
	p := puller{api: a, next: a.prefix + "CONSUMER.MSG.NEXT." + stream + "." + consumer.Name, each: each, idle: c.idle}
	return p.run(ctx)
}

// seqAt returns the first sequence of the stream that was stored at the time or later.
// A replica that is behind may name an earlier one. It is asked by a consumer without
// filters: of one with several that begins at a time, the server (v2.15.2) passes over
// what matches a filter that also matches something older, up to where another one
// begins to match.
func (a jsAPI) seqAt(ctx context.Context, stream string, at time.Time) (uint64, error) {
	consumer, end, err := a.consumer(ctx, stream, jetstream.ConsumerConfig{DeliverPolicy: jetstream.DeliverByStartTimePolicy, OptStartTime: &at})
	if err != nil {
		return 0, err
	}
	defer end()
	return consumer.Delivered.Stream + 1, nil
}

// consumer creates an ephemeral consumer without acknowledgements; end drops it.
func (a jsAPI) consumer(ctx context.Context, stream string, c jetstream.ConsumerConfig) (info *jetstream.ConsumerInfo, end func(), err error) {
	setup, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	c.Name, c.AckPolicy = "read_"+rand.Text(), jetstream.AckNonePolicy
	c.MemoryStorage, c.Replicas, c.InactiveThreshold = true, 1, 30*time.Second
	made, err := a.js.CreateConsumer(setup, stream, c)
	if err != nil {
		return nil, nil, fmt.Errorf("create consumer: %w", explain(a.nc, a.prefix+"CONSUMER.CREATE."+stream, err))
	}
	return made.CachedInfo(), func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), attemptTimeout)
		defer cancel()
		// If this fails the server drops the consumer for its inactivity.
		_ = a.js.DeleteConsumer(ctx, stream, made.CachedInfo().Name)
	}, nil
}

// puller is one running bulk read; its goroutine owns it.
type puller struct {
	api    jsAPI
	next   string // subject of pull requests
	inbox  string
	each   func(delivery, *nats.Msg) (bool, error)
	idle   func() error
	asked  int // messages asked for and not yet delivered
	ask    int // size of the last request
	read   uint64
	bytes  uint64
	silent int // ticks since the last message
	early  int // pulls that reached the servers before the consumer did
}

// earlyTries is how often a pull is repeated that nobody took: a new consumer
// of a replicated stream may live on another server than the client is on, and
// that one learns of it a moment later. The pauses double, and add up to 1.3 s.
const (
	earlyTries = 7
	earlyPause = 10 * time.Millisecond
)

func (p *puller) run(ctx context.Context) error {
	p.inbox = p.api.nc.NewInbox()
	// Room for all that can be asked for at once, so that nothing is dropped.
	in := make(chan *nats.Msg, 2*pullMax+16)
	sub, err := p.api.nc.ChanSubscribe(p.inbox, in)
	if err != nil {
		return fmt.Errorf("subscribe to consumer: %w", err)
	}
	// An error means that the connection is closed, and the subscription with it.
	defer func() { _ = sub.Unsubscribe() }()
	if err := p.pull(); err != nil {
		return err
	}
	tick := time.NewTicker(readSilence / 3)
	defer tick.Stop()
	for {
		if p.idle != nil && len(in) == 0 {
			if err := p.idle(); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
			if p.silent++; p.silent > 3 {
				return errSilent
			}
		case m := <-in:
			p.silent = 0
			if p.tooEarly(m) {
				if !sleep(ctx, earlyPause<<(p.early-1)) {
					return ctx.Err()
				}
				if err := p.pull(); err != nil {
					return err
				}
				continue
			}
			more, err := p.handle(m)
			if err != nil || !more {
				return err
			}
		}
	}
}

// pull asks for the next messages, as many as are about pullBytes.
func (p *puller) pull() error {
	p.ask = 1000
	if p.read > 0 {
		p.ask = int(min(max(pullBytes/max(p.bytes/p.read, 1), pullMin), pullMax))
	}
	body, err := json.Marshal(struct {
		Batch     int           `json:"batch"`
		Expires   time.Duration `json:"expires"`
		Heartbeat time.Duration `json:"idle_heartbeat"`
	}{p.ask, 30 * time.Second, pullHeartbeat})
	if err != nil {
		return fmt.Errorf("encode pull: %w", err)
	}
	if err := p.api.nc.PublishRequest(p.next, p.inbox, body); err != nil {
		return fmt.Errorf("pull: %w", err)
	}
	p.asked += p.ask
	return nil
}

// tooEarly reports whether the message says that nobody took the first pull.
func (p *puller) tooEarly(m *nats.Msg) bool {
	if m.Header.Get(hdrStatus) != "503" || p.read > 0 || p.early >= earlyTries {
		return false
	}
	p.early++
	p.asked = 0
	return true
}

func (p *puller) handle(m *nats.Msg) (more bool, err error) {
	d, ok := parseDelivery(m.Reply)
	if !ok {
		switch status := m.Header.Get(hdrStatus); status {
		case "100":
			return true, nil
		default:
			return false, fmt.Errorf("consumer ended: %s %s", status, m.Header.Get("Description"))
		}
	}
	p.read++
	p.bytes += uint64(m.Size())
	p.asked--
	if d.consumerSeq != p.read {
		return false, fmt.Errorf("consumer skipped: delivery %d where %d was due", d.consumerSeq, p.read)
	}
	more, err = p.each(d, m)
	if err != nil || !more || d.pending == 0 {
		return false, err
	}
	if p.asked <= p.ask/2 {
		return true, p.pull()
	}
	return true, nil
}
