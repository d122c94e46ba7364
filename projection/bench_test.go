package projection_test

import (
	"testing"
	"time"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/projection"
)

// million returns a projection of a million sessions, their sids in random
// order, and how many states a second it applied.
func million(b *testing.B) (*projection.Map, []events.SID, float64) {
	const n = 1_000_000
	m := new(projection.Map)
	sids := make([]events.SID, n)
	recs := make([]events.Record, n)
	for i := range n {
		e := state(sid(home, i), "user-"+sid(home, i/2).String())
		sids[i] = e.SID
		recs[i] = events.Record{
			Stream: home, Seq: uint64(i + 1), Time: time.UnixMilli(base),
			Subject: e.Subject(region), Event: e, Sealed: sealed(uint64(i), string(make([]byte, 225))),
		}
	}
	start := time.Now()
	for _, r := range recs {
		m.Apply(r)
	}
	return m, sids, n / time.Since(start).Seconds()
}

func BenchmarkLookup(b *testing.B) {
	m, sids, rate := million(b)
	look := map[string]func(i int) bool{
		"sid":   func(i int) bool { _, v := m.Lookup(sids[i%len(sids)], base); return v == active },
		"token": func(i int) bool { _, v, _ := m.LookupToken(sids[i%len(sids)], base); return v == active },
		"one":   func(int) bool { _, v, _ := m.LookupToken(sids[0], base); return v == active },
		"miss":  func(i int) bool { _, v := m.Lookup(events.SID{home, byte(i), byte(i >> 8)}, base); return v == unknown },
	}
	for name, look := range look {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				if !look(i) {
					b.Fatal(i)
				}
				i += 7919 // a prime: each lookup is far from the one before
			}
			b.ReportMetric(rate, "applied/s")
		})
	}
}

func BenchmarkApply(b *testing.B) {
	l := newLog(b)
	e := state(s1, "u")
	e.AbsoluteAt = 1 << 60
	l.add(e)
	kinds := map[string]func() events.Event{
		"state": func() events.Event { return changed(e, l.seq, 1, nil) },
		"touch": func() events.Event { return touch(e, l.now) },
		"rev":   func() events.Event { return revoke(e) },
	}
	for name, kind := range kinds {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				l.now++
				r := l.record(kind())
				l.seq++
				r.Stream, r.Seq, r.Time = home, l.seq, time.UnixMilli(l.now)
				if l.m.Apply(r) != applied {
					b.Fatal(l.seq)
				}
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "applied/s")
		})
	}
}
