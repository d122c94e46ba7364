package projection_test

import (
	"sync"
	"sync/atomic"
	"testing"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/projection"
)

// Readers beside two writers and the sweeper: a token is never between its
// rotation's two sides, a revocation that is applied is seen, and nothing
// revoked comes back.
func TestReadersBesideWriters(t *testing.T) {
	const rounds, sessions = 300, 8
	m := new(projection.Map)
	eu := &log{t: t, m: m, num: home, now: base}
	us := &log{t: t, m: m, num: 3, now: base}
	var (
		writers, readers sync.WaitGroup
		done             atomic.Bool
		revokedUpTo      atomic.Int64 // round whose sessions are revoked
		current          [2]atomic.Pointer[[2]events.SID]
	)
	revokedUpTo.Store(-1)
	name := func(round, i int) events.SID { return sid(home, 1000*round+i) }
	rotating := state(sid(home, 900_000), "rotating")
	eu.add(rotating)
	current[0].Store(&[2]events.SID{rotating.SID, rotating.SID})

	writers.Go(func() {
		prev := eu.seq
		for round := range rounds {
			for i := range sessions {
				eu.add(state(name(round, i), "u"))
			}
			// The old token ends at once: exactly one of the two is good.
			key := sid(home, 900_001+round)
			current[0].Store(&[2]events.SID{current[0].Load()[1], key})
			eu.add(changed(rotating, prev, 1, func(e *events.State) {
				e.OriginalUntil, e.Aliases = base, []events.Alias{{Key: key}}
			}))
			prev = eu.seq
			eu.add(all("u", m.LastAll(home, "app", "u")))
			revokedUpTo.Store(int64(round))
		}
	})
	writers.Go(func() {
		for round := range rounds {
			e := state(sid(3, round), "u")
			us.add(e)
			away := revoke(state(name(round, 0), "u"))
			away.Home = home
			us.add(away)
			us.add(touch(e, base))
		}
	})
	for range 2 {
		readers.Go(func() {
			for !done.Load() {
				_, before := m.Position(home)
				round := int(revokedUpTo.Load())
				for i := range sessions {
					if round < 0 {
						break
					}
					if _, v := m.Lookup(name(round, i), base); v != revoked {
						t.Errorf("round %d is revoked up to %d, yet %v", round, before, v)
					}
				}
				for s, v := range m.User("app", "u", base) {
					if s.User != "u" || v != active && v != revoked {
						t.Errorf("%+v is %v", s, v)
					}
				}
				pair := current[0].Load()
				_, a, _ := m.LookupToken(pair[0], base)
				_, b, _ := m.LookupToken(pair[1], base)
				if a != active && b != active && current[0].Load() == pair {
					t.Errorf("between two tokens: %v, %v", a, b)
				}
				m.Digest(home, base)
				m.Repair(rotating.Subject(region), 1, base)
				m.Len()
			}
		})
	}
	readers.Go(func() {
		for i := 0; !done.Load(); i++ {
			m.Sweep(uint8(i), base)
		}
	})
	writers.Wait()
	done.Store(true)
	readers.Wait()
	for round := range rounds {
		for i := range sessions {
			eu.verdict(name(round, i), revoked)
		}
	}
	if n, _ := m.Len(); n != rounds*(sessions+1)+1 {
		t.Errorf("%d sessions", n)
	}
}
