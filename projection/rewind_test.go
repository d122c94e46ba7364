package projection_test

import (
	"testing"
	"time"

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

var s3 = sid(home, 3)

// again has the log go backwards and say what it said up to seq.
func (l *log) again(seq uint64) {
	recs := l.recs[:seq]
	l.m.Rewind(l.num)
	l.seq, l.recs = 0, nil
	for _, r := range recs {
		l.put(r)
	}
}

// An "all" was replaced while this node did not listen, and the log then lost its
// tail. The newer one says all that the older said: nothing is to be said again, as
// that would end sessions begun since, or spared.
func TestRewindAfterAnAllWasReplaced(t *testing.T) {
	l := newLog(t)
	l.add(state(s1, "u"))
	l.add(all("u", 0))
	l.again(1)
	l.seq = 2 // the "all" that stood there was replaced
	l.add(state(s2, "u"))
	newer := all("u", 2, s2)
	newer.At++
	l.add(newer)
	l.add(state(s3, "u"))
	if lost := l.lostAll(); len(lost) != 0 {
		t.Errorf("lost: %+v", lost)
	}
	l.verdict(s1, revoked)
	l.verdict(s2, active)
	l.verdict(s3, active)
}

// An "all" that the log lost is appended again for what it revoked, not for what
// was created since, or spared by what took its place; also on a node that reads
// only what is left of the log.
func TestLostAllRevokesNothingCreatedSince(t *testing.T) {
	spared, other := all("u", 0, s1), all("u", 0)
	spared.At, other.At, other.Reason = base+1, base+2, "other"
	tests := map[string]struct {
		lost     *events.RevokeAll
		instead  *events.RevokeAll // where the lost one stood
		s1       projection.Verdict
		appended int
	}{
		"nothing in its place":                 {all("u", 0), nil, revoked, 1},
		"it spared one, and nothing there":     {spared, nil, active, 1},
		"it spared one, and another there":     {spared, other, revoked, 0},
		"another there that spares one of all": {other, spared, revoked, 1},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			l := newLog(t)
			l.add(state(s1, "u"))
			l.add(test.lost)
			l.again(1)
			if test.instead != nil {
				l.add(test.instead)
			} else {
				l.add(&events.Beat{N: 1})
			}
			l.add(state(s2, "u"))
			again := l.lostAll()
			if len(again) != test.appended {
				t.Fatalf("lost: %+v", again)
			}
			l.add(state(s3, "u"))
			for _, e := range again {
				l.must(projection.Applied, l.add(e))
			}
			if left := l.lostAll(); len(left) != 0 {
				t.Errorf("lost although appended again: %+v", left)
			}
			for range 2 {
				l.verdict(s1, test.s1)
				l.verdict(s2, active)
				l.verdict(s3, active)
				l.m = l.rebuilt()
			}
		})
	}
}

// Of several that the log lost the newest is appended again: as far as any of them
// went, and for as long.
func TestLostAllStandsForSeveral(t *testing.T) {
	l := newLog(t)
	l.add(&events.Beat{N: 1})
	l.add(state(s1, "u"))
	l.add(state(s2, "u"))
	older := all("u", 0, s1)
	older.At--
	l.now += hour
	l.add(older)
	l.now -= hour
	kept := l.recs[:3]
	l.m.Rewind(home)
	l.seq, l.recs = 0, nil
	newer := all("u", 0)
	l.add(&events.Beat{N: 1})
	l.put(kept[1])
	l.add(newer)
	l.again(1)
	l.put(kept[1])
	l.put(kept[2])
	l.add(&events.Beat{N: 2})
	l.add(state(s3, "u"))
	var fixes []projection.Repair
	for fix := range l.m.Lost(home, l.now) {
		if _, ok := fix.Event.(*events.RevokeAll); ok {
			fixes = append(fixes, fix)
		}
	}
	if len(fixes) != 1 {
		t.Fatalf("lost: %+v", fixes)
	}
	e := fixes[0].Event.(*events.RevokeAll)
	if e.Before != 4 || len(e.Except) != 0 || e.At != newer.At {
		t.Errorf("appended again: %+v", e)
	}
	if want := events.UnknownLifetime + events.TTLSlack + time.Hour; fixes[0].TTL < want {
		t.Errorf("it lives %v, want %v", fixes[0].TTL, want)
	}
	l.add(e)
	for range 2 {
		l.verdict(s1, revoked)
		l.verdict(s2, revoked)
		l.verdict(s3, active)
		l.m = l.rebuilt()
	}
}
