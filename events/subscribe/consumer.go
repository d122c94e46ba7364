package subscribe

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/revocast/revocast/events"
)

const (
	// A request is given firstTimeout, then twice as long each time: between
	// accounts the servers do not say that nobody is there yet.
	firstTimeout   = 250 * time.Millisecond
	requestTimeout = 2 * time.Second
	// pullBatch is how many messages are asked for at once, for pullExpires at
	// most; meanwhile the consumer says each pullHeartbeat that it is there. A pull
	// that reaches the consumer just when its process ends is served until then.
	pullBatch     = 1024
	pullExpires   = 5 * time.Second
	pullHeartbeat = 2 * time.Second
	// inactive is after what time a consumer is dropped that nobody reads.
	inactive = 30 * time.Second
	// underWay is for how long what was sent may be on its way: a pull, or what was
	// delivered before a reset.
	underWay = 100 * time.Millisecond
	// earlyTries is how often a pull is repeated that nobody took, because a new
	// consumer is not known everywhere yet. The pauses double.
	earlyTries = 7
	earlyPause = 10 * time.Millisecond
	// metaNumber is where a stream, or a durable, says the number of the stream.
	metaNumber = "revocast.number"
)

// source is what a reading reads from.
type source interface {
	// open has it deliver what stands at the sequence and after; 0: where it stands.
	open(ctx context.Context, from uint64) (*consumer, error)
	// close ends the reading, end all of it.
	close(ctx context.Context, c *consumer)
	end()
}

// consumer is one reading of a source, whose deliveries count from 1.
type consumer struct {
	conn   *nats.Conn
	next   string // subject of pull requests
	sub    *nats.Subscription
	in     chan *nats.Msg
	acks   bool
	number uint8 // of the stream
	empty  bool  // there was nothing to deliver when it was opened
	copies bool  // it is of one of several servers, which may be behind the others

	asked     int // messages asked for and not yet delivered
	read      uint64
	early     int
	pulled    time.Time // when was asked for more
	reset     time.Time // when a consumer that had been read was reset
	spoke     time.Time // when anything came last
	delivered time.Time // when a message did
}

func newConsumer(conn *nats.Conn, next string) (*consumer, error) {
	c := &consumer{conn: conn, next: next, in: make(chan *nats.Msg, 4*pullBatch), spoke: time.Now(), delivered: time.Now()}
	var err error
	if c.sub, err = conn.ChanSubscribe(conn.NewInbox(), c.in); err != nil {
		return nil, fmt.Errorf("subscribe to consumer: %w", err)
	}
	return c, nil
}

// end takes the inbox away, once the consumer has taken the last pull: one that it
// takes later it serves, and nobody is there.
func (c *consumer) end() {
	time.Sleep(max(0, underWay-time.Since(c.pulled)))
	// An error means that the connection is closed, and the subscription with it.
	_ = c.sub.Unsubscribe()
}

func (c *consumer) pull() error {
	body, err := json.Marshal(struct {
		Batch     int           `json:"batch"`
		Expires   time.Duration `json:"expires"`
		Heartbeat time.Duration `json:"idle_heartbeat"`
	}{pullBatch, pullExpires, pullHeartbeat})
	if err != nil {
		return fmt.Errorf("encode pull: %w", err)
	}
	if err := c.conn.PublishRequest(c.next, c.sub.Subject, body); err != nil {
		return fmt.Errorf("pull: %w", err)
	}
	c.asked, c.pulled = c.asked+pullBatch, time.Now()
	return nil
}

// arrived counts a delivery. It reports whether it is the next one, and whether
// one is missing. What was under way when a reading began belongs to the one
// before.
func (c *consumer) arrived(nth uint64) (next, skipped bool) {
	c.asked = max(c.asked-1, 0)
	if nth != c.read+1 {
		return false, c.read > 0 || time.Since(c.reset) > underWay
	}
	c.read = nth
	return true, false
}

// refill asks for more before all came that was asked for.
func (c *consumer) refill() error {
	if c.asked > pullBatch/2 {
		return nil
	}
	return c.pull()
}

func (c *consumer) ack(m *nats.Msg) error {
	if !c.acks {
		return nil
	}
	if err := c.conn.Publish(m.Reply, []byte("+ACK")); err != nil {
		return fmt.Errorf("acknowledge: %w", err)
	}
	return nil
}

// status deals with what a consumer says that is no delivery.
func (c *consumer) status(ctx context.Context, m *nats.Msg) error {
	switch code := m.Header.Get("Status"); code {
	case "100":
		if n, err := strconv.ParseUint(m.Header.Get("Nats-Last-Consumer"), 10, 64); err == nil && n > c.read {
			return errSkipped
		}
		return nil
	case "404", "408": // the time of a pull is over
		left, err := strconv.Atoi(m.Header.Get("Nats-Pending-Messages"))
		if err != nil {
			left = c.asked
		}
		c.asked = max(c.asked-left, 0)
		return c.refill()
	case "503":
		if c.read > 0 || c.early >= earlyTries {
			return nats.ErrNoResponders
		}
		sleep(ctx, earlyPause<<c.early)
		c.early++
		c.asked = 0
		return c.pull()
	default:
		c.asked = 0
		return fmt.Errorf("consumer ended: %s %s", code, m.Header.Get("Description"))
	}
}

// durable is the consumer that an operator made.
type durable struct {
	conn    *nats.Conn
	c       events.SubscriberConfig
	timeout time.Duration // of a request
	failed  uint          // how many requests in a row had no answer

	// read is its one consumer: an inbox that was given up would be delivered, for
	// some time, what was asked for from it, and the next reading miss that.
	read   *consumer
	breaks uint64 // reconnects of the connection: no pull survives one
}

// resetInfo is the part of the answer to a reset that matters.
type resetInfo struct {
	Error  *jetstream.APIError `json:"error"`
	Stream string              `json:"stream_name"`
	Name   string              `json:"name"`
	Config struct {
		Acks     string            `json:"ack_policy"`
		Filter   string            `json:"filter_subject"`
		Filters  []string          `json:"filter_subjects"`
		Metadata map[string]string `json:"metadata"`
	} `json:"config"`
	Cluster struct {
		Replicas []json.RawMessage `json:"replicas"`
	} `json:"cluster"`
	Pending   uint64 `json:"num_pending"`
	Delivered struct {
		Nth uint64 `json:"consumer_seq"`
	} `json:"delivered"`
}

// open implements source. The reset has what was sent and not acknowledged, to a
// process that is gone or over a connection that broke, sent again at once and in
// its order: by itself the consumer would wait for minutes, and send what comes
// after meanwhile.
func (d *durable) open(ctx context.Context, from uint64) (*consumer, error) {
	var body []byte
	if from > 0 {
		body = []byte(`{"seq":` + strconv.FormatUint(from, 10) + `}`)
	}
	used := d.read != nil
	if !used {
		c, err := newConsumer(d.conn, d.c.API("MSG.NEXT"))
		if err != nil {
			return nil, err
		}
		c.acks, d.read = true, c
	}
	c := d.read
	for len(c.in) > 0 { // of the reading before: it is sent again
		<-c.in
		c.asked = max(c.asked-1, 0)
	}
	breaks := d.conn.Stats().Reconnects
	info, err := d.reset(ctx, body)
	if err != nil {
		return nil, err
	}
	if breaks != d.breaks || time.Since(c.spoke) > silentAfter {
		c.asked, d.breaks = 0, breaks
	}
	c.read, c.early = 0, 0
	if c.spoke, c.delivered = time.Now(), time.Now(); used {
		c.reset = c.spoke
	}
	// An earlier pull may have been served before the answer was written.
	c.empty = info.Pending == 0 && info.Delivered.Nth == 0
	c.copies = len(info.Cluster.Replicas) > 0
	number, _ := strconv.ParseUint(info.Config.Metadata[metaNumber], 10, 8) // 0 is unknown
	c.number = uint8(number)
	return c, nil
}

// close implements source.
func (d *durable) close(context.Context, *consumer) {}

// end implements source.
func (d *durable) end() {
	if d.read != nil {
		d.read.end()
	}
}

func (d *durable) reset(ctx context.Context, body []byte) (*resetInfo, error) {
	subject := d.c.API("RESET")
	limited, cancel := context.WithTimeout(ctx, min(d.timeout, firstTimeout<<min(d.failed, 8)))
	defer cancel()
	m, err := d.conn.RequestWithContext(limited, subject, body)
	if d.failed++; err == nil {
		d.failed = 0
	}
	if err = events.Refusal(d.conn, subject, err); err != nil && !errors.Is(err, events.ErrDenied) && ctx.Err() == nil {
		// Between accounts the servers do not say that nobody is there.
		return nil, fmt.Errorf("%w %s of stream %s: an operator makes it (revocast subscriber create) and lets this account import it; or there is no such region here, or its servers are away (%w)",
			ErrNoDurable, d.c.Durable(), d.c.Stream(), err)
	} else if err != nil {
		return nil, fmt.Errorf("reset durable %s: %w", d.c.Durable(), err)
	}
	info := new(resetInfo)
	if err := json.Unmarshal(m.Data, info); err != nil {
		return nil, fmt.Errorf("reset durable %s: %w", d.c.Durable(), err)
	}
	if info.Error != nil {
		return nil, fmt.Errorf("reset durable %s: %w", d.c.Durable(), info.Error)
	}
	filters := slices.Sorted(slices.Values(info.Config.Filters))
	if info.Stream != d.c.Stream() || info.Name != d.c.Durable() || info.Config.Acks != "explicit" || !slices.Equal(filters, d.c.Filters()) {
		return nil, fmt.Errorf("%w: %s of stream %s has filters %v %s and acknowledgements %q: have it made with revocast subscriber create",
			ErrDurable, info.Name, info.Stream, filters, info.Config.Filter, info.Config.Acks)
	}
	return info, nil
}

// ephemeral makes a consumer for each reading.
type ephemeral struct {
	conn    *nats.Conn
	c       events.SubscriberConfig
	timeout time.Duration // of a request

	stream jetstream.Stream
	name   string // of the consumer
}

// open implements source.
func (p *ephemeral) open(ctx context.Context, from uint64) (*consumer, error) {
	ctx, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	js, err := jetstream.New(p.conn)
	if p.c.Domain != "" {
		js, err = jetstream.NewWithDomain(p.conn, p.c.Domain)
	}
	if err != nil {
		return nil, fmt.Errorf("create consumer: %w", err)
	}
	stream, err := js.Stream(ctx, p.c.Stream())
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil, fmt.Errorf("region %s: %w", p.c.Region, events.ErrNoStream)
	} else if err != nil {
		return nil, fmt.Errorf("ask for stream %s: %w", p.c.Stream(), events.Refusal(p.conn, p.c.StreamAPI("STREAM.INFO"), err))
	}
	made, err := stream.CreateConsumer(ctx, jetstream.ConsumerConfig{
		Name: "sub_" + rand.Text(), FilterSubjects: p.c.Filters(),
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: max(from, 1),
		AckPolicy: jetstream.AckNonePolicy, MemoryStorage: true, Replicas: 1, InactiveThreshold: inactive,
	})
	if err != nil {
		return nil, fmt.Errorf("create consumer: %w", events.Refusal(p.conn, p.c.StreamAPI("CONSUMER.CREATE"), err))
	}
	p.stream, p.name = stream, made.CachedInfo().Name
	c, err := newConsumer(p.conn, p.c.StreamAPI("CONSUMER.MSG.NEXT")+"."+p.name)
	if err != nil {
		return nil, err
	}
	c.empty = made.CachedInfo().NumPending == 0
	c.copies = stream.CachedInfo().Config.Replicas > 1
	number, _ := strconv.ParseUint(stream.CachedInfo().Config.Metadata[metaNumber], 10, 8) // 0 is unknown
	c.number = uint8(number)
	return c, nil
}

// close implements source.
func (p *ephemeral) close(ctx context.Context, c *consumer) {
	c.end()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), p.timeout)
	defer cancel()
	// If this fails the server drops the consumer for its inactivity.
	_ = p.stream.DeleteConsumer(ctx, p.name)
}

// end implements source.
func (p *ephemeral) end() {}
