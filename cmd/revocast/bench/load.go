package bench

import (
	"context"
	"fmt"
	"net"
	"sync"
	"time"
)

// Target is a server under load and what it is asked.
type Target struct {
	// Name is how reports call it.
	Name string
	// Network and Addr are where it listens: "tcp" or "unix".
	Network, Addr string
	// Requests are sent in turns; each connection begins at another one.
	Requests []Request
	// Server are the processes that answer, Backend those behind them, with
	// their children: whose CPU is counted. None: it is not measured.
	Server, Backend []int

	// dial replaces the network, in tests.
	dial func() (net.Conn, error)
}

func (t *Target) connect() (*wire, error) {
	dial := t.dial
	if dial == nil {
		dial = func() (net.Conn, error) { return net.DialTimeout(t.Network, t.Addr, wireTimeout) }
	}
	c, err := dial()
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	return newWire(c), nil
}

// Load is how a target is asked.
type Load struct {
	// Conns is the number of connections. Required.
	Conns int
	// Duration is for how long requests are sent. Required.
	Duration time.Duration
	// Rate is how many requests a second are due, on all connections together;
	// 0: each connection sends the next one as soon as it has its answer.
	//
	// With a rate, what a request took counts from when it was due, not from
	// when a connection was free to send it: a server that stands still for a
	// second is not asked less because of that (coordinated omission), and all
	// that was due in that second waited.
	Rate float64

	// sleep replaces the wait until a request is due, in tests.
	sleep func(time.Duration)
}

// Result is what a load came to.
type Result struct {
	// Latency is of answers with the right status, and Done their number.
	Latency Histogram
	Done    int64
	// Failed are answers with another status, Broken requests without an answer,
	// and First says what the first of either was.
	Failed, Broken int64
	First          string
	// Late are requests of a rate that nobody was free to send, not even in
	// three times the time: the rate is more than the target can.
	Late    int64
	Elapsed time.Duration
}

// OK reports whether every request was answered as it should be.
func (r *Result) OK() bool { return r.Failed == 0 && r.Broken == 0 && r.Late == 0 && r.Done > 0 }

// trouble says what went wrong, "" when nothing did.
func (r *Result) trouble() string {
	switch {
	case r.OK():
		return ""
	case r.Failed == 0 && r.Broken == 0 && r.Late > 0:
		return fmt.Sprintf("%d requests could not be sent in time: the rate is too high", r.Late)
	case r.Failed == 0 && r.Broken == 0:
		return "nothing was answered"
	}
	return fmt.Sprintf("%d unexpected answers, %d broken connections; first: %s", r.Failed, r.Broken, r.First)
}

// Rate returns right answers a second.
func (r *Result) Rate() float64 {
	if r.Elapsed <= 0 {
		return 0
	}
	return float64(r.Done) / r.Elapsed.Seconds()
}

// merge adds what another connection of the same load came to.
func (r *Result) merge(o *Result) {
	r.Latency.Merge(&o.Latency)
	r.Done += o.Done
	r.Failed += o.Failed
	r.Broken += o.Broken
	if r.First == "" {
		r.First = o.First
	}
}

func (r *Result) note(status int, err error, want int, took time.Duration) {
	switch {
	case err != nil:
		r.Broken++
	case status != want:
		r.Failed++
		err = fmt.Errorf("status %d, want %d", status, want)
	default:
		r.Done++
		r.Latency.Add(took)
		return
	}
	if r.First == "" {
		r.First = err.Error()
	}
}

const (
	// errorPause keeps a connection that only breaks from spinning.
	errorPause = 10 * time.Millisecond
	// patience is how many times its duration a load with a rate may take to
	// send what was due in time.
	patience = 3
)

// Run puts the load on the target until the time is over and all that was sent
// is answered, or ctx ends. It returns once every connection is closed.
func (l Load) Run(ctx context.Context, t *Target) *Result {
	if l.Rate > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, patience*l.Duration)
		defer cancel()
	}
	each := make([]Result, l.Conns)
	begun := time.Now()
	due := make(chan time.Time, int(l.Rate*l.Duration.Seconds()))
	var conns sync.WaitGroup
	for i := range each {
		s := &sender{target: t, result: &each[i], at: i * len(t.Requests) / l.Conns}
		conns.Go(func() {
			defer s.drop()
			if l.Rate > 0 {
				s.paced(ctx, due)
				return
			}
			s.unpaced(ctx, begun.Add(l.Duration))
		})
	}
	if l.Rate > 0 {
		l.pace(ctx, begun, due)
	}
	conns.Wait()
	sum := &Result{Elapsed: time.Since(begun), Late: int64(len(due))}
	for i := range each {
		sum.merge(&each[i])
	}
	return sum
}

// pace hands out the times at which requests are due, each when it has come.
// The channel has room for all of them: no connection that is waited for keeps
// it from going on.
func (l Load) pace(ctx context.Context, begun time.Time, due chan<- time.Time) {
	defer close(due)
	wait := l.sleep
	if wait == nil {
		wait = preciseSleep
	}
	for i := range cap(due) {
		at := begun.Add(time.Duration(float64(i) / l.Rate * float64(time.Second)))
		if d := time.Until(at); d > 0 {
			wait(d)
		}
		if ctx.Err() != nil {
			return
		}
		due <- at
	}
}

// sender is one connection of a load, through as many lives as it takes.
type sender struct {
	target *Target
	result *Result
	at     int // which request is next
	wire   *wire
}

// unpaced sends one request after the other until the end has come, at least
// one.
func (s *sender) unpaced(ctx context.Context, end time.Time) {
	for last := time.Now(); ctx.Err() == nil; {
		if last = s.one(ctx, last); !last.Before(end) {
			return
		}
	}
}

// paced sends a request for each time that is due. What it took counts from
// then.
func (s *sender) paced(ctx context.Context, due <-chan time.Time) {
	for at := range due {
		s.one(ctx, at)
		if ctx.Err() != nil {
			return
		}
	}
}

// one sends the next request, notes what came of it and how long that took
// since begun, and returns when the next may begin.
func (s *sender) one(ctx context.Context, begun time.Time) time.Time {
	r := &s.target.Requests[s.at]
	if s.at++; s.at == len(s.target.Requests) {
		s.at = 0
	}
	status, err := s.send(r.Bytes)
	now := time.Now()
	s.result.note(status, err, r.Want, now.Sub(begun))
	if err == nil {
		return now
	}
	s.drop()
	_ = sleep(ctx, errorPause) // the caller looks at ctx
	return time.Now()
}

// send sends on the connection there is, or on a new one.
func (s *sender) send(request []byte) (status int, err error) {
	if s.wire == nil {
		if s.wire, err = s.target.connect(); err != nil {
			return 0, err
		}
	}
	status, err = s.wire.do(request)
	if err == nil && s.wire.over {
		s.drop()
	}
	return status, err
}

func (s *sender) drop() {
	if s.wire != nil {
		s.wire.close()
		s.wire = nil
	}
}

// sleep waits, or returns the error of ctx when that ends first.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
