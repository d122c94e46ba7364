package nodetest

import (
	"context"
	"errors"
	"strings"
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
		wait(ctx, min(left, m.cluster.conf.Lease/16))
	}
}

var errRefused = errors.New("the log refuses the message")

// faults returns the faults of one link of a life.
func (m *Member) faults(l *life, s *stream) events.MemoryFaults {
	seed, user := m.cluster.conf.Seed^uint64(m.index+1)<<32^uint64(l.number)<<40, uint64(s.number)
	send, ack, deliver := draw(seed, 10+user), draw(seed, 20+user), draw(seed, 30+user)
	return events.MemoryFaults{
		Forgets: m.Forgets,
		Gather:  (m.index+l.number)%2 == 0,
		Send: func(ctx context.Context, msg events.Message) error {
			m.running(ctx)
			w := m.currentWeather()
			wait(ctx, send.upTo(w.Send))
			if err := s.leader.await(ctx); err != nil {
				return err
			}
			switch {
			case send.hit(w.Refuse):
				return errRefused
			case send.hit(w.Lose):
				<-ctx.Done()
				return events.ErrUnavailable
			case send.hit(w.Late):
				<-ctx.Done()
				return late(s, msg)
			case send.hit(w.Repeat) && s.takesAnyway(ctx, msg):
				// The log answers the sender as it does after a lost answer.
				_, _ = s.Inject(msg)
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

// late stores a message although its sender has given up.
func late(s *stream, msg events.Message) error {
	if k := kindOf(msg.Subject); k == events.KindRevoke || k == events.KindBeat {
		_, _ = s.Inject(msg)
	}
	return events.ErrUnavailable
}

// takesAnyway reports whether the stream would take the message whatever its
// sender expects. Inject looks at no expectation, and so must not be called with
// what has one: the stream refuses the second of two that expect the same.
func (s *stream) takesAnyway(ctx context.Context, msg events.Message) bool {
	switch kindOf(msg.Subject) {
	case events.KindRevoke, events.KindBeat, events.KindMarker, events.KindNode, events.KindTouch:
		return true
	case events.KindState:
		_, err := s.Last(ctx, msg.Subject)
		return errors.Is(err, events.ErrNotFound) // a creation
	}
	return false
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
