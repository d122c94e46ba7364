package projection_test

import (
	"slices"
	"sync"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/projection"
)

// atOnce is what ApplyAll is given to share work with.
func atOnce(parts int, do func(int)) {
	var all sync.WaitGroup
	for part := range parts {
		all.Go(func() { do(part) })
	}
	all.Wait()
}

// severalAtOnce: what is applied by several goroutines is what one would have
// made of it, to the last field, and so is what each record is said to have done.
func severalAtOnce(t *rapid.T) {
	w := newWorld(t)
	w.hostile, w.away = true, true
	w.run()
	one, all := new(projection.Map), new(projection.Map)
	all.SmallPages(100)
	for rest := w.log; len(rest) > 0; {
		stream, n := rest[0].r.Stream, 0
		most := rapid.IntRange(1, 40).Draw(t, "at hand")
		var rs []events.Record
		for ; n < len(rest) && n < most && rest[n].r.Stream == stream; n++ {
			rs = append(rs, rest[n].r)
			if rapid.IntRange(0, 9).Draw(t, "again") == 0 {
				rs = append(rs, rest[n].r)
			}
		}
		rest = rest[n:]
		effects := make([]projection.Effect, len(rs))
		all.ApplyAll(rs, effects, rapid.IntRange(1, 4).Draw(t, "parts"), atOnce)
		for i := range rs {
			if want := one.Apply(rs[i]); effects[i] != want {
				t.Fatalf("record %d of %v has effect %d, by itself %d", rs[i].Seq, rs[i].Subject, effects[i], want)
			}
		}
	}
	if err := all.Sound(); err != nil {
		t.Fatal(err)
	}
	if diff := gocmp.Diff(one.Dump(), all.Dump(), sameDump...); diff != "" {
		t.Fatalf("one by one, at once: %s", diff)
	}
}

func TestSeveralAtOnce(t *testing.T) { rapid.Check(t, severalAtOnce) }

// Thousands of sessions of few users, changed, used and revoked, with what
// concerns many between: the same as one by one. Readers look on meanwhile, and
// what Position says is applied they see.
func TestManyAtOnce(t *testing.T) {
	const sessions = 3000
	l := newLog(t)
	var rs []events.Record
	add := func(e events.Event) { rs = append(rs, stamped(l, e)) }
	for i := range sessions {
		e := state(sid(home, i), "u"+string(rune('a'+i%7)))
		add(e)
		if i%3 == 0 {
			add(touch(e, base+second))
		}
		if i%5 == 0 {
			add(changed(e, l.seq-uint64(i%3/3), 1, func(e *events.State) { e.ExpiresAt += minute }))
		}
		if i%11 == 0 {
			add(revoke(e))
		}
		if i%200 == 199 {
			add(all("u"+string(rune('a'+i%7)), 0, e.SID))
		}
		if i%300 == 299 {
			add(&events.Beat{N: uint64(i)})
		}
	}
	one, many := new(projection.Map), new(projection.Map)
	want := make([]projection.Effect, len(rs))
	for i := range rs {
		want[i] = one.Apply(rs[i])
	}
	done := make(chan struct{})
	var readers sync.WaitGroup
	defer readers.Wait()
	readers.Go(func() {
		for !closed(done) {
			_, at := many.Position(home)
			i, _ := slices.BinarySearchFunc(rs, at+1, func(r events.Record, seq uint64) int { return int(r.Seq) - int(seq) })
			for _, r := range rs[max(0, i-50):i] {
				if e, ok := r.Event.(*events.State); ok {
					if _, v := many.Lookup(e.SID, base); v == unknown {
						t.Errorf("position %d, and the session created at %d is unknown", at, r.Seq)
						return
					}
				}
			}
		}
	})
	got := make([]projection.Effect, len(rs))
	for from := 0; from < len(rs); from += 256 {
		to := min(from+256, len(rs))
		many.ApplyAll(rs[from:to], got[from:to], 3, atOnce)
	}
	close(done)
	if !slices.Equal(want, got) {
		t.Error("the effects differ")
	}
	if diff := gocmp.Diff(one.Dump(), many.Dump(), sameDump...); diff != "" {
		t.Fatalf("one by one, at once: %s", diff)
	}
}
