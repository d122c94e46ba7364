package node

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"github.com/revocast/revocast/events"
)

// member is an incarnation of a node, as a stream shows it.
type member struct {
	node        string
	incarnation events.Incarnation
	first       uint64        // sequence of its oldest heartbeat seen here
	newest      uint64        // of its newest
	heard       time.Duration // Clock.Boot when the newest was applied here
	left        uint64        // of its farewell, 0: none
}

// members are the incarnations that may hold a lease on a stream: it is the
// log that says so, not who answers (rule R11). One that the log shows no
// heartbeat of can have none. They are a fold of the log, fed by its applier in
// order.
//
// The zero value with a lease is ready.
type members struct {
	lease time.Duration // L

	mu      sync.Mutex // guards what follows
	all     map[events.Incarnation]*member
	left    map[events.Incarnation]farewell // also of those without a heartbeat
	sampled []sample                        // oldest first
	changed chan struct{}                   // closed at the next farewell; nil: nobody waits
	swept   time.Duration
	long    struct{ lease, heard time.Duration } // the longest lease that some node has, when above L
}

// farewell is that an incarnation has left for good.
type farewell struct {
	seq uint64
	at  time.Duration // Clock.Boot when it was applied here
}

// sample is that everything up to seq was committed at or before the time at
// of Clock.Boot.
type sample struct {
	seq uint64
	at  time.Duration
}

// forgetAfter is how many leases after it was last heard an incarnation is
// forgotten, and how far back samples reach.
const forgetAfter = 4

// apply folds a record in that readers of the stream see at now.
func (m *members) apply(r events.Record, now time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch e := r.Event.(type) {
	case *events.Beat:
		m.beat(e, r.Seq, now)
	case *events.Node:
		if e.Left {
			m.farewell(e.Incarnation, r.Seq, now)
		}
	}
	if now-m.swept >= m.lease {
		m.swept = now
		m.sweep(now - forgetAfter*m.longestAt(now))
	}
}

// leased notes that some node has leases of that length.
func (m *members) leased(lease, now time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if lease > m.lease && lease >= m.longestAt(now) {
		m.long.lease, m.long.heard = lease, now
	}
}

// longest returns the longest lease that a member may hold: L, unless one is
// configured otherwise. A receipt has to wait for that one.
func (m *members) longest(now time.Duration) time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.longestAt(now)
}

// longestAt is longest. m.mu is held.
func (m *members) longestAt(now time.Duration) time.Duration {
	if now-m.long.heard > forgetAfter*m.long.lease {
		return m.lease
	}
	return max(m.lease, m.long.lease)
}

// concerns reports whether apply wants the record, so that the applier need not
// ask the clock for any other.
func (m *members) concerns(r events.Record) bool {
	switch r.Event.(type) {
	case *events.Beat, *events.Node:
		return true
	}
	return false
}

func (m *members) beat(e *events.Beat, seq uint64, now time.Duration) {
	if last := len(m.sampled) - 1; last < 0 || now-m.sampled[last].at >= m.lease/32 {
		m.sampled = append(m.sampled, sample{seq, now})
	}
	// A heartbeat that was on its way when its node said farewell.
	if _, gone := m.left[e.Incarnation]; gone {
		return
	}
	held := m.all[e.Incarnation]
	if held == nil {
		held = &member{node: e.Node, incarnation: e.Incarnation, first: seq}
		if m.all == nil {
			m.all = map[events.Incarnation]*member{}
		}
		m.all[e.Incarnation] = held
	}
	held.newest, held.heard = seq, now
}

func (m *members) farewell(who events.Incarnation, seq uint64, now time.Duration) {
	if m.left == nil {
		m.left = map[events.Incarnation]farewell{}
	}
	m.left[who] = farewell{seq, now}
	if held := m.all[who]; held != nil {
		held.left = seq
	}
	if m.changed != nil {
		close(m.changed)
		m.changed = nil
	}
}

// sweep forgets what was last heard before the time. m.mu is held.
func (m *members) sweep(before time.Duration) {
	for who, held := range m.all {
		if held.heard < before {
			delete(m.all, who)
		}
	}
	for who, gone := range m.left {
		if gone.at < before {
			delete(m.left, who)
		}
	}
	// The newest of those that are old enough stays: what lies below it is as old.
	for len(m.sampled) > 1 && m.sampled[1].at < before {
		m.sampled = m.sampled[1:]
	}
}

// reset forgets everything, because the stream is read again from its beginning.
func (m *members) reset() {
	m.mu.Lock()
	defer m.mu.Unlock()
	clear(m.all)
	clear(m.left)
	m.sampled = nil
}

// before returns the members with a heartbeat below the sequence, ordered by
// node: whoever may hold a lease without having applied the event there. The
// stream must be applied up to that sequence. A heartbeat above it proves that
// the event was applied before, to a node that it comes back to.
func (m *members) before(seq uint64) []member {
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []member
	for _, held := range m.all {
		if held.first < seq {
			all = append(all, *held)
		}
	}
	slices.SortFunc(all, func(a, b member) int {
		return cmp.Or(cmp.Compare(a.node, b.node), cmp.Compare(a.first, b.first))
	})
	return all
}

// count returns how many incarnations are known that have not left.
func (m *members) count() (n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, held := range m.all {
		if held.left == 0 {
			n++
		}
	}
	return n
}

// farewells returns a channel that is closed at the next farewell.
func (m *members) farewells() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.changed == nil {
		m.changed = make(chan struct{})
	}
	return m.changed
}

// since returns a time of Clock.Boot at or after the commit of the sequence, the
// earliest that is known, and false when none is known.
func (m *members) since(seq uint64) (time.Duration, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, s := range m.sampled {
		if s.seq >= seq {
			return s.at, true
		}
	}
	return 0, false
}
