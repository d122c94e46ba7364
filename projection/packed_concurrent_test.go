package projection_test

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/projection"
)

// privateOf is what a state's private part says, so that a mixture of two
// blocks shows.
func privateOf(s events.SID, round int) string {
	return fmt.Sprintf("%v/%d/%0*d", s, round, round%90, round)
}

// whole fails unless all of the session is of one state.
func whole(t *testing.T, s projection.Session, want events.SID) {
	t.Helper()
	round := int(s.ExpiresAt - base - hour)
	if s.SID != want || s.User != fmt.Sprint("user ", want) || s.App != "app" || string(s.Sealed[32:]) != privateOf(want, round) {
		t.Errorf("%v in round %d: %+v", want, round, s)
	}
}

// rounds applies states of a few sessions again and again, of another length
// each time, so that pages fill up and are given up.
type rounds struct {
	l     *log
	prev  map[events.SID]uint64
	round map[events.SID]int
}

func newRounds(t testing.TB, words int) *rounds {
	l := newLog(t)
	l.m.SmallPages(words)
	return &rounds{l: l, prev: map[events.SID]uint64{}, round: map[events.SID]int{}}
}

// next applies the session's next state.
func (r *rounds) next(s events.SID, change func(*events.State)) {
	r.l.t.Helper()
	e := state(s, fmt.Sprint("user ", s))
	r.round[s]++
	e.ExpiresAt, e.Prev = base+hour+int64(r.round[s]), r.prev[s]
	if change != nil {
		change(e)
	}
	r.l.seq++
	r.l.nonce++
	r.prev[s] = r.l.seq
	effect := r.l.m.Apply(events.Record{
		Stream: home, Seq: r.l.seq, Time: time.UnixMilli(r.l.now), Subject: e.Subject(region), Event: e,
		Sealed: sealed(r.l.nonce, privateOf(s, r.round[s])),
	})
	if effect != applied {
		r.l.t.Errorf("effect %d", effect)
	}
}

// Readers beside everything that moves: none misses a session that is never
// gone, or sees parts of two.
func TestReadersBesideMoves(t *testing.T) {
	const sessions, times = 40, 40
	r := newRounds(t, 200)
	var readers, writers sync.WaitGroup
	var done atomic.Bool
	alias := func(i int) events.SID { return sid(home, 900_000+i) }
	for i := range sessions {
		r.next(sid(home, i), func(e *events.State) { e.Aliases = []events.Alias{{Key: alias(i)}} })
	}
	for w := range 2 {
		readers.Go(func() {
			for i := w; !done.Load(); i++ {
				want := sid(home, i%sessions)
				s, v := r.l.m.Lookup(want, base)
				if v != active {
					t.Errorf("%v is %v", want, v)
					return
				}
				whole(t, s, want)
				if s, v, _ = r.l.m.LookupToken(alias(i%sessions), base); v != active {
					t.Errorf("the alias of %v is %v", want, v)
					return
				}
				whole(t, s, want)
				if i%50 == 0 {
					for s := range r.l.m.User("app", s.User, base) {
						whole(t, s, want)
					}
				}
			}
		})
	}
	writers.Go(func() {
		for n := range times {
			for i := range sessions {
				r.next(sid(home, i), func(e *events.State) { e.Aliases = []events.Alias{{Key: alias(i)}} })
			}
			for i := range 20 { // come and go, so that tables are made anew
				r.l.add(state(sid(home, 1000+20*n+i), "passing"))
			}
		}
	})
	readers.Go(func() {
		for i := 0; !done.Load(); i++ {
			r.l.m.Tidy(i%256, 100)
		}
	})
	writers.Wait()
	done.Store(true)
	readers.Wait()
	if err := r.l.m.Sound(); err != nil {
		t.Error(err)
	}
}

// meanwhile is something that happens to the table and the pages while a reader
// stands still.
var meanwhile = map[string]func(r *rounds, s events.SID){
	"changed": func(r *rounds, s events.SID) { r.next(s, nil) },
	// The page of the session is given up, and its number taken by one that has
	// something else where the session was.
	"page reused": func(r *rounds, s events.SID) {
		for range 20 {
			r.next(s, nil)
			r.next(sid(home, 2), nil)
			r.l.m.Tidy(0, 300)
		}
	},
	"page reused, table replaced": func(r *rounds, s events.SID) {
		for i := range 10 {
			r.next(projection.SamePlace(home, 100+i), nil)
		}
		for range 20 {
			r.next(s, nil)
			r.next(sid(home, 2), nil)
			r.l.m.Tidy(0, 300)
		}
	},
	"page given up": func(r *rounds, s events.SID) {
		for range 20 {
			r.next(s, nil)
		}
	},
	"table replaced": func(r *rounds, s events.SID) {
		for i := range 10 {
			r.next(projection.SamePlace(home, 100+i), nil)
		}
		r.next(s, nil)
	},
}

// TestWindows lets each thing happen while a reader stands in each window. It
// must find the session as it was or as it is.
func TestWindows(t *testing.T) {
	for name, do := range meanwhile {
		for window := range projection.Windows {
			t.Run(fmt.Sprintf("%s in window %d", name, window), func(t *testing.T) {
				for _, words := range []int{20, 45, 200} {
					r := newRounds(t, words)
					one := projection.SamePlace(home, 1)
					r.next(one, nil)
					before := r.round[one]
					stood := projection.StandIn(window, func() { do(r, one) })
					s, v := r.l.m.Lookup(one, base)
					if !stood() {
						t.Fatal("the reader was not there")
					}
					if v != active {
						t.Fatalf("missed: %v", v)
					}
					whole(t, s, one)
					if round := int(s.ExpiresAt - base - hour); round < before {
						t.Errorf("round %d, was %d before", round, before)
					}
					// What was handed out stays as it is, whatever comes.
					meanwhile["page reused"](r, one)
					whole(t, s, one)
				}
			})
		}
	}
}

// A key that never was is not found, whatever happens meanwhile to one that is in
// its place; and one behind it is.
func TestWindowsOfOneBehind(t *testing.T) {
	for name, do := range meanwhile {
		for window := range projection.Windows {
			t.Run(fmt.Sprintf("%s in window %d", name, window), func(t *testing.T) {
				for _, words := range []int{20, 45, 200} {
					r := newRounds(t, words)
					before, one, never := projection.SamePlace(home, 1), projection.SamePlace(home, 2), projection.SamePlace(home, 3)
					r.next(before, nil)
					r.next(one, nil)
					stood := projection.StandIn(window, func() { do(r, before) })
					s, v := r.l.m.Lookup(one, base)
					if v != active || !stood() {
						t.Fatalf("missed: %v", v)
					}
					whole(t, s, one)
					stood = projection.StandIn(min(window, projection.Windows-2), func() { do(r, before) })
					if s, v = r.l.m.Lookup(never, base); v != unknown || !stood() {
						t.Fatalf("found: %v, %+v", v, s)
					}
				}
			})
		}
	}
}

// One that goes leaves those behind it where they are found.
func TestOneBehindWhatWent(t *testing.T) {
	r := newRounds(t, 45)
	for i := range 5 {
		r.next(projection.SamePlace(home, i), nil)
	}
	for i := range 4 {
		r.l.m.Forget(projection.SamePlace(home, i))
		for j := range 5 {
			_, v := r.l.m.Lookup(projection.SamePlace(home, j), base)
			if (v == active) != (j > i) {
				t.Fatalf("%d is %v when those up to %d went", j, v, i)
			}
		}
	}
}

// What nine of ten sessions took is given back, aliases and tables included.
func TestMemoryIsGivenBack(t *testing.T) {
	const sessions = 20_000
	r := newRounds(t, 2000)
	for i := range sessions {
		r.next(sid(home, i), func(e *events.State) { e.Aliases = []events.Alias{{Key: sid(home, 900_000+i)}} })
	}
	full := r.l.m.Bytes()
	later := base + 12*hour
	r.l.now = later
	for i := range sessions / 10 { // the log's time goes on, and some sessions with it
		r.next(sid(home, i*10), func(e *events.State) {
			e.ExpiresAt = later + hour
			e.Aliases = []events.Alias{{Key: sid(home, 900_000+i*10)}}
		})
	}
	for i := range 1024 {
		r.l.m.Sweep(uint8(i), later)
	}
	if n, dead := r.l.m.Len(); n != sessions/10 || dead != 0 {
		t.Fatalf("%d sessions, %d tombstones", n, dead)
	}
	if left := r.l.m.Bytes(); left > full/6 {
		t.Errorf("%d bytes of %d are left", left, full)
	}
	if err := r.l.m.Sound(); err != nil {
		t.Error(err)
	}
}

// Words stay what they are when they come into huge pages, and can be changed
// meanwhile.
func TestCollapse(t *testing.T) {
	words := make([]uint64, 1<<20)
	for i := range words {
		words[i] = uint64(i) * 0x9E3779B97F4A7C15
	}
	var others sync.WaitGroup
	var done atomic.Bool
	others.Go(func() {
		for i := uint64(0); !done.Load(); i++ {
			atomic.StoreUint64(&words[0], i) // as a last use is
			if at := i * 7919 % (1<<20 - 1); words[at+1] != (at+1)*0x9E3779B97F4A7C15 {
				t.Errorf("word %d changed", at+1)
				return
			}
		}
	})
	for range 20 {
		projection.Collapse(words)
	}
	done.Store(true)
	others.Wait()
	for i, w := range words[1:] {
		if w != uint64(i+1)*0x9E3779B97F4A7C15 {
			t.Fatalf("word %d changed", i+1)
		}
	}
}
