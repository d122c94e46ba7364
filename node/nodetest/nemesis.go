package nodetest

import (
	"context"
	"slices"
	"sync"
	"time"
)

// nemesis harms a cluster, and repairs what it harmed.
type nemesis struct {
	c    *Cluster
	h    *History
	d    *dice
	plan *Plan

	harms sync.WaitGroup
	mu    sync.Mutex // guards err
	err   error
}

// harm is a kind of fault with its share of all. It returns once it is over,
// soon after ctx ended.
type harm struct {
	name  string
	share float64
	do    func(n *nemesis, ctx context.Context, m *Member, d time.Duration)
}

var harms = []harm{
	{"cut", 3, (*nemesis).cut},
	{"pause", 3, (*nemesis).pause},
	{"restart", 2, (*nemesis).restart},
	{"weather", 3, (*nemesis).weather},
	{"slow clock", 2, (*nemesis).slowClock},
	{"clock step", 1, (*nemesis).stepClock},
	{"break", 1, (*nemesis).breaks},
	{"truncate", 3, (*nemesis).truncate},
	{"election", 1, (*nemesis).election},
}

// borders are the harms of several regions.
var borders = []harm{
	{"sever", 5, (*nemesis).sever},
	{"cut of one stream", 3, (*nemesis).cutStream},
}

// run harms until ctx ends, and returns when everything is whole again.
func (n *nemesis) run(ctx context.Context) {
	if n.plan.Elections {
		n.elections(ctx)
		return
	}
	all, total := harms, 0.0
	if len(n.c.homes()) > 1 {
		all = slices.Concat(harms, borders)
	}
	if only := n.plan.Only; len(only) > 0 {
		all = slices.DeleteFunc(slices.Clone(all), func(h harm) bool { return !slices.Contains(only, h.name) })
	}
	for _, h := range all {
		total += h.share
	}
	for {
		wait(ctx, 100*time.Millisecond+n.d.upTo(2*time.Second))
		if ctx.Err() != nil {
			break
		}
		m := n.c.Members[n.d.Int64N(int64(len(n.c.Members)))]
		// Shorter and longer than a lease, and just about one.
		lease := n.c.conf.Lease
		length := 50*time.Millisecond + n.d.upTo(lease/2)
		switch n.d.Int64N(3) {
		case 0:
			length = lease - lease/8 + n.d.upTo(lease/4)
		case 1:
			length = n.d.upTo(3*lease) + time.Millisecond
		}
		at := n.d.Float64() * total
		for _, h := range all {
			if at -= h.share; at < 0 {
				n.harms.Go(func() {
					o := Op{Op: OpHarm, Node: m.Name, Note: h.name, Start: n.c.now()}
					h.do(n, ctx, m, length)
					o.End = n.c.now()
					n.h.Add(o)
				})
				break
			}
		}
	}
	n.harms.Wait()
}

// longestElection is how long a stream has no leader at most (DESIGN section 5).
const longestElection = 9 * time.Second

// elections makes streams elect leaders until ctx ends, none so soon after its
// last that nobody had heard of the one.
func (n *nemesis) elections(ctx context.Context) {
	for _, s := range n.c.streams {
		n.harms.Go(func() {
			for ctx.Err() == nil {
				wait(ctx, n.c.conf.Lease+n.d.upTo(n.c.conf.Lease))
				n.elect(ctx, s, longestElection-n.d.upTo(longestElection/2))
			}
		})
	}
	n.harms.Wait()
}

func (n *nemesis) elect(ctx context.Context, s *stream, d time.Duration) {
	o := Op{Op: OpElect, Stream: s.Region(), Start: n.c.now()}
	s.leader.resign()
	wait(ctx, d)
	s.leader.elect()
	o.End = n.c.now()
	n.h.Add(o)
}

func (n *nemesis) election(ctx context.Context, _ *Member, d time.Duration) {
	n.elect(ctx, n.c.streams[n.d.Int64N(int64(len(n.c.streams)))], d)
}

// sever cuts the node's region off, long enough for its nodes to be fenced on
// what is elsewhere, and mostly much longer.
func (n *nemesis) sever(ctx context.Context, m *Member, d time.Duration) {
	n.c.Sever(m.Region)
	defer n.c.Join(m.Region)
	wait(ctx, n.c.conf.Lease+d)
}

// cutStream cuts the node off one stream.
func (n *nemesis) cutStream(ctx context.Context, m *Member, d time.Duration) {
	name := n.c.streams[n.d.Int64N(int64(len(n.c.streams)))].Region()
	m.cut(name)
	defer m.heal(name)
	wait(ctx, 2*d)
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
		bye, cancel := context.WithTimeout(ctx, n.c.conf.Lease/4)
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
			w.Lag = n.d.upTo(3 * n.c.conf.Lease)
		case 1:
			w.Send = n.d.upTo(n.c.conf.Lease)
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
		n.home().BreakAll()
		return
	}
	for _, m := range n.c.Members {
		m.Break()
	}
}

// home returns the stream of some region.
func (n *nemesis) home() *stream {
	all := n.c.homes()
	return all[n.d.Int64N(int64(len(all)))]
}

// truncate makes a home stream lose its tail.
func (n *nemesis) truncate(ctx context.Context, _ *Member, _ time.Duration) {
	s, at := n.home(), n.c.now()
	first, lost := s.truncate(ctx, 1+int(n.d.Int64N(12)), n.plan.Lossy)
	if first == 0 {
		return
	}
	o := Op{Op: OpRewind, Stream: s.Region(), Start: at, End: n.c.now(), Seq: first}
	if lost {
		o.Op = OpLose
	}
	n.h.Add(o)
}
