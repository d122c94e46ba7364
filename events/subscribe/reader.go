package subscribe

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/revocast/revocast/events"
)

const (
	// liveBuffer is how many live messages wait while handle works. What does not
	// fit is lost, and delivered by the consumer.
	liveBuffer = 1024
	// startWait is how long nobody may answer at first: an election of the servers
	// takes up to 9 s.
	startWait = 10 * time.Second
	// Pauses between two readings that failed.
	pauseMin = 20 * time.Millisecond
	pauseMax = time.Second
	// tickEvery is how often it is looked whether the reading has come to a halt.
	tickEvery = 100 * time.Millisecond
	// silentAfter is how long a consumer may say nothing at all, stuckAfter how
	// long it may deliver nothing while there is more by what was heard live.
	silentAfter = 3 * pullHeartbeat
	stuckAfter  = 3 * time.Second
	// behindMost is how long one of several servers may hold nothing of what was told
	// last, because it has not caught up with the others, until the log is taken to
	// have gone backwards. What is heard live is told meanwhile.
	behindMost = 30 * time.Second
	// doubtEvery bounds how often what is published to live. can have the log
	// read again.
	doubtEvery = time.Second
	// sharedFor is for how long deliveries may be missing, each within sharedWithin
	// of the one before, until somebody else is taken to be delivered them. For 2 s
	// a server that has leafnodes or gateways delivers to who pulled and is gone.
	sharedFor    = 10 * time.Second
	sharedWithin = 5 * time.Second
)

// Why a reading ends and another one begins.
var (
	errReconnected = errors.New("the connection was lost")
	errSilent      = errors.New("the consumer says nothing")
	errStuck       = errors.New("the consumer does not deliver what was heard live")
	errDoubt       = errors.New("what was heard live is not what was told")
	errSkipped     = errors.New("the consumer skipped something, or somebody else was delivered it")
	errGone        = errors.New("the log holds none of the revocations told last; if so again, all that it holds is told again")
)

// handleError is an error of the caller's functions.
type handleError struct{ error }

func (e handleError) Unwrap() error { return e.error }

// reader is one Run. Its goroutine owns it.
type reader struct {
	s      *Subscriber
	c      events.SubscriberConfig
	handle func(context.Context, Revocation) error
	source source
	live   chan *nats.Msg

	gen   uint32
	start uint64  // where to begin while nothing was told; 0: where the durable stands
	last  Cursor  // all up to it was told
	top   uint64  // the highest sequence told
	told  history // what the consumer delivered last
	heard ahead   // what was heard live and not delivered yet
	// proven: this reading has met something that was told before, or has nothing
	// to meet.
	proven  bool
	begun   time.Time // when Run was called
	started bool      // the consumer has answered once
	gone    int       // how many readings in a row met nothing known
	behind  time.Time // since when the consumer has nothing of what was told; zero: it has
	number  uint8     // of the stream
	breaks  uint64    // reconnects of the connection when this reading began
	doubted time.Time // when a live message last had the log read again
	missed  time.Time // when a delivery was last missing
	missing time.Time // since when some were missing again and again
}

func newReader(s *Subscriber, c events.SubscriberConfig, handle func(context.Context, Revocation) error) *reader {
	r := &reader{s: s, c: c, handle: handle, live: make(chan *nats.Msg, liveBuffer), gen: s.From.Gen, told: newHistory(), begun: time.Now()}
	r.heard = newAhead(s.Patience)
	timeout := min(requestTimeout, cmp.Or(s.startWait, startWait))
	r.source = &durable{conn: s.Conn, c: c, timeout: timeout}
	if s.Create {
		r.source, r.start = &ephemeral{conn: s.Conn, c: c, timeout: timeout}, 1
	}
	if s.From.Seq != 0 {
		r.last = s.From
		r.told.add(known{seq: s.From.Seq, at: s.From.At.UnixNano()})
	}
	return r
}

// run reads, and begins again after whatever can be overcome.
func (r *reader) run(ctx context.Context) error {
	// What was acknowledged is not to be sent again to the next Run.
	defer r.flush(context.WithoutCancel(ctx))
	defer r.source.end()
	pause := pauseMin
	for {
		opened, err := r.session(ctx)
		own, mine := errors.AsType[handleError](err)
		switch {
		case ctx.Err() != nil && !mine:
			return nil
		case mine:
			return unless(ctx, own.error)
		case errors.Is(err, events.ErrDenied), errors.Is(err, ErrDurable), errors.Is(err, ErrShared), r.s.Conn.IsClosed():
			return err
		case r.waited(), !r.started && errors.Is(err, events.ErrNoStream):
			return err
		}
		r.s.report(err)
		// Once may be because somebody else had the durable go on elsewhere.
		if r.gone++; !errors.Is(err, errGone) {
			r.gone = 0
		} else if r.gone > 1 {
			r.gone = 0
			if err := r.rewound(ctx); err != nil {
				return unless(ctx, err)
			}
		}
		if opened && !errors.Is(err, errSkipped) {
			pause = pauseMin
		}
		if err := r.meanwhile(ctx, func(ctx context.Context) { sleep(ctx, pause) }); err != nil {
			return unless(ctx, errors.Unwrap(err)) // handle's own
		}
		pause = min(2*pause, pauseMax)
	}
}

// unless returns an error of the caller's functions, unless it only says that ctx
// has ended.
func unless(ctx context.Context, err error) error {
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return nil
	}
	return err
}

// waited reports whether nobody has answered for as long as that may be at first.
func (r *reader) waited() bool {
	return !r.started && time.Since(r.begun) > cmp.Or(r.s.startWait, startWait)
}

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// flush waits for the servers to have what was sent to them, and reports whether
// they do.
func (r *reader) flush(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	return r.s.Conn.FlushWithContext(ctx) == nil
}

// meanwhile listens to the live subjects until do has returned: an answer of the
// consumer's servers can take the whole time of an election. Its error is one of
// handle.
func (r *reader) meanwhile(ctx context.Context, do func(context.Context)) error {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() { defer close(done); do(ctx) })
	for {
		due := r.heard.due.C
		if !r.started {
			due = nil // Run may end yet, with nothing told
		}
		select {
		case <-done:
			return nil
		case m := <-r.live:
			_ = r.hear(m) // a reading is about to begin anyway
		case <-due:
			if err := r.overdue(ctx, nil); err != nil {
				return err
			}
		}
	}
}

// open opens the source at the sequence. The servers say in passing that they
// refuse a live subject, so they are asked to have it said.
func (r *reader) open(ctx context.Context, from uint64) (c *consumer, err error) {
	listen := r.meanwhile(ctx, func(ctx context.Context) {
		for !r.s.Conn.IsConnected() && !r.s.Conn.IsClosed() && ctx.Err() == nil {
			sleep(ctx, pauseMin)
			if r.waited() {
				break
			}
		}
		if r.flush(ctx) {
			for _, subject := range r.c.LiveSubjects() {
				if err = events.RefusedSubscription(r.s.Conn, subject); err != nil {
					return
				}
			}
		}
		c, err = r.source.open(ctx, from)
	})
	if listen != nil {
		if c != nil {
			r.source.close(ctx, c)
		}
		return nil, listen
	}
	return c, err
}

// rewound begins the next generation, in which all is told.
func (r *reader) rewound(ctx context.Context) error {
	r.gen++
	r.start, r.last, r.top = 1, Cursor{}, 0
	r.told, r.heard = newHistory(), newAhead(r.s.Patience)
	if r.s.Rewound == nil {
		return nil
	}
	return r.s.Rewound(ctx)
}

// session reads from the oldest known entry on until it must begin again. It
// never returns nil. opened says that the consumer answered.
func (r *reader) session(ctx context.Context) (opened bool, err error) {
	r.breaks = r.s.Conn.Stats().Reconnects
	from := r.start
	overlap, ok := r.told.anchor()
	if ok {
		from = overlap
	}
	c, err := r.open(ctx, from)
	if err != nil {
		return false, err
	}
	defer r.source.close(ctx, c)
	r.started, r.number = true, c.number
	r.proven = !ok
	if err := r.lacks(c); err != nil {
		return true, err
	}
	if err := c.refill(); err != nil {
		return true, err
	}
	tick := time.NewTicker(tickEvery)
	defer tick.Stop()
	for err == nil {
		select {
		case <-ctx.Done():
			err = ctx.Err()
		case m := <-r.live:
			err = r.hear(m)
		case m := <-c.in:
			err = r.take(ctx, c, m)
		case <-r.heard.due.C:
			err = r.overdue(ctx, c)
		case <-tick.C:
			err = r.halted(c)
		}
	}
	return true, err
}

// lacks returns errGone for a log that ends before what was told last. One of
// several servers may only be behind the others, unless something was heard live that
// is in the place of what was told.
func (r *reader) lacks(c *consumer) error {
	switch {
	case r.proven || !c.empty:
		r.behind = time.Time{}
		return nil
	case r.behind.IsZero():
		r.behind = time.Now()
	}
	if c.copies && r.gone == 0 && time.Since(r.behind) < behindMost && time.Since(r.doubted) > doubtEvery {
		return nil
	}
	return errGone
}

// broken reports whether the connection was lost since this reading began. The
// client counts a reconnect before it subscribes again.
func (r *reader) broken() bool { return r.s.Conn.Stats().Reconnects != r.breaks }

// halted says why the reading has come to a halt, if it has.
func (r *reader) halted(c *consumer) error {
	switch {
	case r.broken():
		return errReconnected
	case r.s.Conn.IsClosed():
		return nats.ErrConnectionClosed
	case len(c.in) > 0:
		return nil
	case r.lacks(c) != nil:
		return errGone
	case time.Since(c.spoke) > silentAfter:
		return errSilent
	case time.Since(c.delivered) > stuckAfter && r.heard.waits(stuckAfter):
		return errStuck
	}
	return nil
}

// hear notes a live message that the consumer has not delivered yet.
func (r *reader) hear(m *nats.Msg) error {
	e, ok := events.LiveEntry(m, r.c.Region)
	if !ok || m.Subject != "live"+strings.TrimPrefix(e.Subject, "ev") {
		r.s.report(fmt.Errorf("%w: a message on %s is no copy of what the log holds", ErrForged, m.Subject))
		return nil
	}
	if r.s.dropLive != nil && r.s.dropLive(e.Seq) {
		return nil
	}
	if e.Seq > r.last.Seq {
		r.heard.add(e, r.told.sum(&e))
		return nil
	}
	if r.told.has(&e) || time.Since(r.doubted) < doubtEvery {
		return nil
	}
	// It was told long ago and is repeated, or somebody publishes to live., or the
	// log went backwards. What the log holds decides.
	r.doubted = time.Now()
	return errDoubt
}

// overdue tells what was heard live and has waited for long enough. What is not
// authentic by the keys waits for the consumer: the log may not hold it.
func (r *reader) overdue(ctx context.Context, c *consumer) error {
	var since time.Time
	for {
		if c != nil {
			since = c.delivered
		}
		h := r.heard.overdue(since, c != nil && len(c.in) > 0)
		if h == nil {
			return nil
		}
		if rev, ok := r.s.read(&h.entry, r.number); ok && (r.s.Keys == nil || rev.Verified) {
			if err := r.tell(ctx, &h.entry, rev, r.last); err != nil {
				return err
			}
			h.told = true
		}
	}
}

// take deals with what the consumer sent.
func (r *reader) take(ctx context.Context, c *consumer, m *nats.Msg) error {
	c.spoke = time.Now()
	e, nth, _, ok := events.DeliveredEntry(m)
	if !ok {
		if err := c.status(ctx, m); err != errSkipped {
			return err
		}
		return r.skipped()
	}
	if next, skipped := c.arrived(nth); skipped {
		return r.skipped()
	} else if !next {
		return nil
	}
	switch {
	case e.Seq <= r.last.Seq && r.told.has(&e):
		r.proven, r.behind = true, time.Time{}
	case e.Seq <= r.last.Seq || !r.proven:
		return errGone
	default:
		if err := r.deliver(ctx, &e); err != nil {
			return err
		}
	}
	// handle may have taken long.
	c.spoke, c.delivered = time.Now(), time.Now()
	if err := c.ack(m); err != nil {
		return err
	}
	return c.refill()
}

// skipped says whether it was somebody else who was delivered what is missing:
// that goes on, where a break would be over.
func (r *reader) skipped() error {
	if r.broken() {
		return errReconnected
	}
	if time.Since(r.missed) > sharedWithin {
		r.missing = time.Now()
	}
	r.missed = time.Now()
	if time.Since(r.missing) > cmp.Or(r.s.sharedFor, sharedFor) {
		return fmt.Errorf("%w %s: give each process a name and a durable of its own", ErrShared, r.c.Durable())
	}
	return errSkipped
}

// deliver tells what the consumer delivered, unless that was told as it was heard.
func (r *reader) deliver(ctx context.Context, e *events.Entry) error {
	sum, at := r.told.sum(e), Cursor{Region: r.c.Region, Gen: r.gen, Seq: e.Seq, At: e.Time}
	if h := r.heard.remove(e.Seq); h == nil || !h.told || h.sum != sum {
		rev, ok := r.s.read(e, r.number)
		if !ok {
			r.s.report(fmt.Errorf("%w: its subject %s names nobody", ErrUnreadable, e.Subject))
		} else if err := r.tell(ctx, e, rev, at); err != nil {
			return err
		}
	}
	r.last = at
	r.told.add(known{seq: e.Seq, at: e.Time.UnixNano(), sum: sum})
	return nil
}

// tell calls handle.
func (r *reader) tell(ctx context.Context, e *events.Entry, rev Revocation, at Cursor) error {
	rev.Position = events.Position{Stream: r.c.Region, Gen: r.gen, Seq: e.Seq}
	rev.Cursor, rev.Late = at, e.Seq < r.top
	if rev.Err != nil {
		r.s.report(fmt.Errorf("revocation %s: %w", rev.Position, rev.Err))
	}
	if err := r.handle(ctx, rev); err != nil {
		return handleError{err}
	}
	r.top = max(r.top, e.Seq)
	return nil
}
