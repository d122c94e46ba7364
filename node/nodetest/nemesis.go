package nodetest

import (
	"context"
	"sync"
	"time"
)

// nemesis harms a cluster, and repairs what it harmed.
type nemesis struct {
	c     *Cluster
	h     *History
	d     *dice
	lossy bool

	harms sync.WaitGroup
	mu    sync.Mutex // guards err
	err   error
}

// harm is a kind of fault with its share of all. It returns once it is over,
// soon after ctx ended.
type harm struct {
	share float64
	do    func(n *nemesis, ctx context.Context, m *Member, d time.Duration)
}

var harms = []harm{
	{3, (*nemesis).cut},
	{3, (*nemesis).pause},
	{2, (*nemesis).restart},
	{3, (*nemesis).weather},
	{2, (*nemesis).slowClock},
	{1, (*nemesis).stepClock},
	{1, (*nemesis).breaks},
	{3, (*nemesis).truncate},
}

// run harms until ctx ends, and returns when everything is whole again.
func (n *nemesis) run(ctx context.Context) {
	total := 0.0
	for _, h := range harms {
		total += h.share
	}
	for {
		wait(ctx, 100*time.Millisecond+n.d.upTo(2*time.Second))
		if ctx.Err() != nil {
			break
		}
		m := n.c.Members[n.d.Int64N(int64(len(n.c.Members)))]
		// Shorter and longer than a lease, and just about one.
		length := 50*time.Millisecond + n.d.upTo(Lease/2)
		switch n.d.Int64N(3) {
		case 0:
			length = Lease - Lease/8 + n.d.upTo(Lease/4)
		case 1:
			length = n.d.upTo(3*Lease) + time.Millisecond
		}
		at := n.d.Float64() * total
		for _, h := range harms {
			if at -= h.share; at < 0 {
				n.harms.Go(func() { h.do(n, ctx, m, length) })
				break
			}
		}
	}
	n.harms.Wait()
}

func (n *nemesis) cut(ctx context.Context, m *Member, d time.Duration) {
	m.Cut()
	defer m.Heal()
	wait(ctx, d)
}

func (n *nemesis) pause(ctx context.Context, m *Member, d time.Duration) {
	if m.Pause() {
		defer m.Resume()
		wait(ctx, d)
	}
}

// restart ends a life, with a farewell or without, and begins the next.
func (n *nemesis) restart(ctx context.Context, m *Member, d time.Duration) {
	if m.current() == nil {
		return
	}
	if n.d.hit(0.3) {
		bye, cancel := context.WithTimeout(ctx, Lease/4)
		m.Leave(bye)
		cancel()
	} else {
		m.Kill()
	}
	wait(ctx, d/4)
	n.mu.Lock()
	defer n.mu.Unlock()
	if m.current() != nil {
		return // of two restarts at a time the other was first
	}
	if err := m.Start(); err != nil {
		n.err = err
	}
}

func (n *nemesis) weather(ctx context.Context, m *Member, d time.Duration) {
	w := fair
	for range 2 {
		switch n.d.Int64N(6) {
		case 0:
			w.Lag = n.d.upTo(3 * Lease)
		case 1:
			w.Send = n.d.upTo(Lease)
		case 2:
			w.Refuse, w.Repeat = n.d.Float64(), n.d.Float64()
		case 3:
			w.Lose, w.Unanswered = n.d.Float64()/2, n.d.Float64()
		case 4:
			w.Twice = n.d.Float64()
		case 5:
			w.Late = n.d.Float64()
		}
	}
	m.SetWeather(w)
	defer m.SetWeather(fair)
	wait(ctx, d)
}

// slowClock holds somebody up just before the clock is read.
func (n *nemesis) slowClock(ctx context.Context, m *Member, d time.Duration) {
	for range 5 {
		m.Clock.Slow(d / 4)
		wait(ctx, d/4)
	}
	m.Clock.Slow(0)
}

// stepClock steps the wall clock, by seconds or by minutes, and back.
func (n *nemesis) stepClock(ctx context.Context, m *Member, d time.Duration) {
	by := n.d.upTo(40*time.Second) - 20*time.Second
	if n.d.hit(0.3) {
		by *= 60
	}
	m.Clock.Step(by)
	defer m.Clock.Step(-by)
	wait(ctx, d)
}

func (n *nemesis) breaks(context.Context, *Member, time.Duration) {
	if n.d.hit(0.5) {
		n.c.Home.BreakAll()
		return
	}
	for _, m := range n.c.Members {
		m.Break()
	}
}

// truncate makes the home stream lose its tail.
func (n *nemesis) truncate(ctx context.Context, _ *Member, _ time.Duration) {
	at := n.c.now()
	first, lost := n.c.truncate(ctx, 1+int(n.d.Int64N(12)), n.lossy)
	if first == 0 {
		return
	}
	o := Op{Op: OpRewind, Start: at, End: n.c.now(), Seq: first}
	if lost {
		o.Op = OpLose
	}
	n.h.Add(o)
}
