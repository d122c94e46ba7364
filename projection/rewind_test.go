package projection_test

import (
	"testing"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/projection"
)

// A log may go backwards again while it is read again. What it says of an "all"
// is then what it said before, and nothing is appended that nobody ever wrote:
// it would end every session begun since.
func TestRewindTwice(t *testing.T) {
	l := newLog(t)
	l.add(all("u", 0))
	l.add(state(s1, "u"))
	for range 3 {
		l.m.Rewind(home)
	}
	l.seq = 0
	for _, r := range l.recs[:2] {
		l.put(r)
	}
	for fix := range l.m.Lost(home, l.now) {
		t.Errorf("lost: %+v", fix.Event)
	}
	l.verdict(s1, active)
}

// lostAll returns what is to be appended again of "all" entries.
func (l *log) lostAll() (lost []*events.RevokeAll) {
	for fix := range l.m.Lost(l.num, l.now) {
		if e, ok := fix.Event.(*events.RevokeAll); ok {
			lost = append(lost, e)
		}
	}
	return lost
}

// Of several generations that each said something else of a subject, what is
// appended again must stand for all: the first to be stored ends the others.
func TestRewindWithSeveralKept(t *testing.T) {
	later := base + hour
	tests := map[string]struct{ first, second int64 }{
		"the later one was read first": {later, base},
		"the later one was read last":  {base, later},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			l := newLog(t)
			away := l.awayLog(3)
			s := state(s1, "u")
			s.CreatedAt = later
			away.add(allAway(test.first))
			l.m.Rewind(away.num)
			away.seq = 0
			away.add(allAway(test.second))
			l.m.Rewind(away.num)
			away.seq = 0
			away.add(&events.Beat{N: 1})
			for range 3 {
				for _, e := range away.lostAll() {
					away.add(e)
					break // another node's repair takes the place of the rest
				}
			}
			if lost := away.lostAll(); len(lost) != 0 {
				t.Errorf("lost although appended again: %+v", lost)
			}
			l.add(s)
			l.verdict(s1, revoked)
			if got := l.pending(); len(got) != 1 || got[0].(*events.RevokeAll).At != later {
				t.Errorf("pending: %+v", got)
			}
		})
	}
}

// What a home said before its log went backwards is in what it is told next.
func TestRewindOfHomeThatWasTold(t *testing.T) {
	l := newLog(t)
	away := l.awayLog(3)
	l.add(allAway(base + hour))
	l.m.Rewind(home)
	l.seq = 0
	l.add(&events.Beat{N: 1})
	_ = l.lostAll()
	away.add(allAway(base))
	l.add(l.pending()[0])
	s := state(s1, "u")
	s.CreatedAt = base + hour
	l.add(s)
	l.verdict(s1, revoked)
}

// An "all" for another home that could not be opened is forgotten with all that
// finds it, before the stream is read again.
func TestRereadOfAnAllElsewhere(t *testing.T) {
	l := newLog(t)
	away := l.awayLog(3)
	away.must(overwrite, away.forge(allAway(base))) // sealed with a key that is not held
	l.m.Reread(away.num)
	if n := l.m.PendingLen(home); n != 0 {
		t.Errorf("%d are pending", n)
	}
	l.add(state(s1, "u"))
	l.verdict(s1, active)
	away.seq = 0
	away.add(allAway(base))
	l.verdict(s1, revoked)
	if got := l.pending(); len(got) != 1 {
		t.Errorf("pending: %+v", got)
	}
}

// What an earlier generation said stays when the newest entry could not be
// opened and is read again.
func TestRereadKeepsEarlierGenerations(t *testing.T) {
	l := newLog(t)
	l.add(&events.Beat{N: 1})
	l.add(all("u", 0))
	l.m.Rewind(home)
	l.seq = 0
	l.forge(all("u", 0)) // sealed with a key that is not held
	l.m.Reread(home)
	s := state(s1, "u")
	s.AuthSeq = 1
	l.seq = 5
	l.must(projection.Applied, l.add(s))
	l.verdict(s1, revoked)
}
