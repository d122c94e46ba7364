package nodetest

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/revocast/revocast/events"
)

// Weather is what a node's links are like. The numbers are probabilities.
type Weather struct {
	// Lag is how long an entry travels to the node at most, Send how long a
	// message travels to the log.
	Lag, Send time.Duration
	// Refuse: the append fails and nothing is stored. Lose: it is not answered,
	// and nothing is stored. Unanswered: it is stored. Repeat: it is stored twice.
	Refuse, Lose, Unanswered, Repeat float64
	// Late: an append arrives so late that its sender has long given up.
	Late float64
	// Twice: an entry is delivered twice.
	Twice float64
}

// fair is the weather of a network in which nothing is wrong.
var fair = Weather{Lag: 3 * time.Millisecond, Send: time.Millisecond}

// SetWeather changes the weather of the node, and of its lives to come.
func (m *Member) SetWeather(w Weather) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.weather = w
}

func (m *Member) currentWeather() Weather {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.weather == (Weather{}) {
		return fair
	}
	return m.weather
}

// hearing returns the faults of a life's link to the other nodes.
func (m *Member) hearing(l *life) func(context.Context, events.Message) int {
	d := draw(m.cluster.conf.Seed^uint64(m.index+1)<<32^uint64(l.number)<<40, 40)
	return func(ctx context.Context, _ events.Message) int {
		w := m.currentWeather()
		wait(ctx, d.upTo(w.Send))
		m.running(ctx)
		switch {
		case d.hit(w.Lose):
			return 0
		case d.hit(w.Twice):
			return 2
		}
		return 1
	}
}

// travel waits until an entry of that time arrives, a share of the lag later;
// when the weather changes, on the way too.
func (m *Member) travel(ctx context.Context, stored time.Time, share float64) {
	for ctx.Err() == nil {
		lag := time.Duration(share * float64(m.currentWeather().Lag))
		left := time.Until(stored.Add(lag))
		if left <= 0 {
			return
		}
		wait(ctx, min(left, Lease/16))
	}
}

var errRefused = errors.New("the log refuses the message")

// faults returns the faults of one link of a life.
func (m *Member) faults(l *life, stream uint64) events.MemoryFaults {
	seed := m.cluster.conf.Seed ^ uint64(m.index+1)<<32 ^ uint64(l.number)<<40
	send, ack, deliver := draw(seed, 10+stream), draw(seed, 20+stream), draw(seed, 30+stream)
	memory := m.cluster.Home
	if stream == 1 {
		memory = m.cluster.Settings
	}
	return events.MemoryFaults{
		Forgets: m.Forgets,
		Send: func(ctx context.Context, msg events.Message) error {
			m.running(ctx)
			w := m.currentWeather()
			wait(ctx, send.upTo(w.Send))
			switch {
			case send.hit(w.Refuse):
				return errRefused
			case send.hit(w.Lose):
				<-ctx.Done()
				return events.ErrUnavailable
			case send.hit(w.Late):
				<-ctx.Done()
				return m.late(ctx, memory, msg)
			case send.hit(w.Repeat):
				// The log answers the sender as it does after a lost answer.
				_, _ = memory.Inject(msg)
			}
			return nil
		},
		Ack: func(ctx context.Context, _ events.Message, seq uint64) error {
			w := m.currentWeather()
			wait(ctx, ack.upTo(w.Send))
			if ack.hit(w.Unanswered) {
				<-ctx.Done()
				return events.ErrUnavailable
			}
			m.running(ctx)
			return nil
		},
		Deliver: func(ctx context.Context, e events.Entry) int {
			m.travel(ctx, e.Time, deliver.Float64())
			m.running(ctx)
			w := m.currentWeather()
			if deliver.hit(w.Twice) {
				return 2
			}
			return 1
		},
	}
}

// late stores a message although its sender has given up. What expects a
// sequence is not stored: Inject would not look at it.
func (m *Member) late(_ context.Context, memory *events.Memory, msg events.Message) error {
	if k := kindOf(msg.Subject); k == events.KindRevoke || k == events.KindBeat {
		_, _ = memory.Inject(msg)
	}
	return events.ErrUnavailable
}

func kindOf(subject string) events.Kind {
	return events.Kind(subject[strings.LastIndexByte(subject, '.')+1:])
}

// wait waits for d, or until ctx ends.
func wait(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// tail remembers of which kind the newest entries of the home stream are.
type tail struct {
	mu    sync.Mutex // guards kinds
	kinds []bool     // by sequence - 1: what no caller was ever answered for
}

// watch follows the home stream until ctx ends.
func (c *Cluster) watch(ctx context.Context) error {
	link := c.Home.Link()
	for ctx.Err() == nil {
		err := link.Follow(ctx, events.Follow{Apply: func(e events.Entry) error {
			k := kindOf(e.Subject)
			own := k == events.KindBeat || k == events.KindMarker || k == events.KindNode || k == events.KindTouch
			c.tail.mu.Lock()
			defer c.tail.mu.Unlock()
			for uint64(len(c.tail.kinds)) < e.Seq {
				c.tail.kinds = append(c.tail.kinds, false)
			}
			c.tail.kinds = append(c.tail.kinds[:e.Seq-1], own)
			return nil
		}})
		if err != nil && !errors.Is(err, events.ErrRewound) {
			return err
		}
	}
	return nil
}

// truncate takes up to n entries off the end of the home stream. Unless lossy
// it takes none that a caller may have been answered for. It returns the first
// sequence that is gone, 0 if none is, and whether it took more than it should.
func (c *Cluster) truncate(ctx context.Context, n int, lossy bool) (first uint64, lost bool) {
	c.tail.mu.Lock()
	defer c.tail.mu.Unlock()
	kinds := c.tail.kinds
	info, err := c.Home.Info(ctx)
	if err != nil || info.LastSeq != uint64(len(kinds)) {
		return 0, false // some entry is on its way to the observer
	}
	most := 0
	for most < min(n, len(kinds)-1) && (lossy || kinds[len(kinds)-1-most]) {
		lost = lost || !kinds[len(kinds)-1-most]
		most++
	}
	if most == 0 {
		return 0, false
	}
	c.tail.kinds = kinds[:len(kinds)-most]
	c.Home.Truncate(most)
	return uint64(len(c.tail.kinds)) + 1, lost
}
