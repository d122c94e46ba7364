package eventstest

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/revocast/revocast/events"
)

func testAppend(r *run) {
	var want []events.Entry
	for i := range 20 {
		m := r.login(fmt.Sprintf("u%d", i))
		seq := r.append(m, events.Expectation{})
		if i > 0 && seq != want[i-1].Seq+1 {
			r.Fatalf("sequence %d after %d", seq, want[i-1].Seq)
		}
		want = append(want, events.Entry{Seq: seq, Message: m})
		// Acknowledged means stored: the leader has it at once.
		last, err := r.Log.Last(r.ctx, m.Subject)
		if err != nil {
			r.Fatal(err)
		}
		r.sameEntries([]events.Entry{last}, want[i:])
	}
	tl := r.follow(0, nil)
	got := tl.applied(want[len(want)-1].Seq)
	r.sameEntries(got, want)
	last, err := r.Log.Last(r.ctx, want[3].Subject)
	if err != nil {
		r.Fatal(err)
	}
	if !last.Time.Equal(got[3].Time) {
		r.Errorf("Last says %v, Follow %v for one entry", last.Time, got[3].Time)
	}
	tl.stop(1)
}

func testAppendEnded(r *run) {
	ended, cancel := context.WithCancel(r.ctx)
	cancel()
	if _, err := r.Log.Append(ended, r.login("late"), events.Expectation{}); !errors.Is(err, events.ErrUnavailable) {
		r.Errorf("append with an ended context: %v, want ErrUnavailable", err)
	}
	r.append(r.login("next"), events.Expectation{})
}

func testExpectations(r *run) {
	msg := func() events.Message { return r.login("ada") }
	refused := func(m events.Message, seq uint64) {
		r.Helper()
		if _, err := r.Log.Append(r.ctx, m, events.Expect(seq)); !errors.Is(err, events.ErrConflict) {
			r.Fatalf("append expecting %d: %v, want ErrConflict", seq, err)
		}
	}
	other := r.append(r.login("bob"), events.Expectation{})

	refused(msg(), other) // another subject's sequence
	first := r.append(msg(), events.Expect(0))
	refused(msg(), 0)
	second := r.append(msg(), events.Expect(first))
	refused(msg(), 0)
	refused(msg(), first)
	refused(msg(), second+1)
	kept := msg()
	third := r.append(kept, events.Expectation{}) // expects nothing
	refused(msg(), second)

	last, err := r.Log.Last(r.ctx, kept.Subject)
	if err != nil {
		r.Fatal(err)
	}
	r.sameEntries([]events.Entry{last}, []events.Entry{{Seq: third, Message: kept}})
	info, err := r.Log.Info(r.ctx)
	if err != nil {
		r.Fatal(err)
	}
	if info.LastSeq != third {
		r.Errorf("last sequence is %d, want %d: a refused append stored something", info.LastSeq, third)
	}
}

func testOwnAttempt(r *run) {
	// A retry after a lost answer finds its own message where it expected
	// another: that is success, with the sequence of the first attempt.
	for _, expected := range []events.Expectation{events.Expect(0), {}} {
		m := r.login("ada")
		if !expected.Set {
			last, err := r.Log.Last(r.ctx, m.Subject)
			if err != nil {
				r.Fatal(err)
			}
			expected = events.Expect(last.Seq)
		}
		first := r.append(m, expected)
		if again := r.append(m, expected); again != first {
			r.Errorf("the retry of %d was stored as %d", first, again)
		}
		// The same content sealed anew is somebody else's attempt.
		if _, err := r.Log.Append(r.ctx, r.login("ada"), expected); !errors.Is(err, events.ErrConflict) {
			r.Errorf("append of another message: %v, want ErrConflict", err)
		}
	}
}

// testCompareAndSet lets writers race for one subject: what was acknowledged
// must form one chain.
func testCompareAndSet(r *run) {
	const writers, each = 8, 5
	subject := r.login("ada").Subject
	var mu sync.Mutex // guards prev
	prev := map[uint64]uint64{}
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			for done := 0; done < each; {
				var on uint64
				last, err := r.Log.Last(r.ctx, subject)
				switch {
				case err == nil:
					on = last.Seq
				case !errors.Is(err, events.ErrNotFound):
					r.Error(err)
					return
				}
				seq, err := r.Log.Append(r.ctx, r.login("ada"), events.Expect(on))
				switch {
				case err == nil:
					mu.Lock()
					prev[seq] = on
					mu.Unlock()
					done++
				case !errors.Is(err, events.ErrConflict):
					r.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	if len(prev) != writers*each {
		r.Fatalf("%d sequences were acknowledged, want %d", len(prev), writers*each)
	}
	var before uint64
	for _, seq := range slices.Sorted(maps.Keys(prev)) {
		if prev[seq] != before {
			r.Errorf("%d was stored on top of %d, but expected %d", seq, before, prev[seq])
		}
		before = seq
	}
}

func testReplacement(r *run) {
	var want []events.Entry
	var last uint64
	for i := range 9 {
		m := r.login(fmt.Sprintf("u%d", i%3))
		last = r.append(m, events.Expectation{})
		if i >= 6 {
			want = append(want, events.Entry{Seq: last, Message: m})
		}
	}
	// The revocation has a subject of its own.
	s := r.state("u0")
	rev := r.message(&events.Revoke{App: s.App, User: s.User, SID: s.SID, At: 1}, "", time.Hour)
	last = r.append(rev, events.Expect(0))
	want = append(want, events.Entry{Seq: last, Message: rev})
	tl := r.follow(0, nil)
	r.sameEntries(tl.applied(last), want)
	tl.stop(1)
}

func testTTL(r *run) {
	var want []events.Entry
	for i, ttl := range []time.Duration{0, time.Minute, time.Hour, events.UnknownLifetime + events.TTLSlack} {
		m := r.message(r.state(fmt.Sprintf("kept%d", i)), "private", ttl)
		if m.TTL != ttl {
			r.Fatalf("encoded TTL is %v, want %v", m.TTL, ttl)
		}
		want = append(want, events.Entry{Seq: r.append(m, events.Expectation{}), Message: m})
	}
	// Live, because on a slow machine it may be gone before it can be read back.
	live := r.follow(0, nil)
	live.caughtUpAfter()
	short := r.message(r.state("short"), "private", time.Second)
	seq := r.append(short, events.Expect(0))
	r.sameEntries(live.applied(seq), append(slices.Clone(want), events.Entry{Seq: seq, Message: short}))

	r.eventually("TTL of one second", func() bool {
		_, err := r.Log.Last(r.ctx, short.Subject)
		if err != nil && !errors.Is(err, events.ErrNotFound) {
			r.Fatal(err)
		}
		return err != nil
	})
	// The subject is as new, the sequence is not; nothing was written by the
	// expiry; and a replacement ends with its own TTL.
	again := r.message(r.state("short"), "private", time.Hour)
	next := r.append(again, events.Expect(0))
	if next != seq+1 {
		r.Errorf("sequence %d follows %d", next, seq)
	}
	want = append(want, events.Entry{Seq: next, Message: again})
	late := r.follow(0, nil)
	r.sameEntries(late.applied(next), want)
	if got := live.applied(next); len(got) != len(want)+1 {
		r.Errorf("the live follower has %d entries, want %d", len(got), len(want)+1)
	}
	live.stop(1)
	late.stop(1)
}

func testTooLarge(r *run) {
	// The largest private part with an ordinary payload is not too large.
	largest := r.message(r.state(strings.Repeat("u", events.MaxUser)), strings.Repeat("p", events.MaxPrivate), time.Hour)
	first := r.append(largest, events.Expectation{})
	m := r.login("ada")
	m.Payload = bytes.Repeat([]byte{'x'}, events.MaxEvent+1)
	if _, err := r.Log.Append(r.ctx, m, events.Expectation{}); !errors.Is(err, events.ErrTooLarge) {
		r.Errorf("append of %d bytes: %v, want ErrTooLarge", len(m.Payload), err)
	}
	if next := r.append(r.login("ada"), events.Expect(0)); next != first+1 {
		r.Errorf("sequence %d follows %d: the refused message was stored", next, first)
	}
}

// smallBudget holds some dozens of the messages of fill.
const smallBudget = 64 << 10

// fill is a message of about 1.5 KiB.
func (r *run) fill(user string) events.Message {
	return r.message(r.state(user), strings.Repeat("p", 1<<10), time.Hour)
}

func testFull(r *run) {
	var want []events.Entry
	for i := 0; ; i++ {
		if i == 200 {
			r.Fatalf("%d messages fit into %d bytes", i, smallBudget)
		}
		m := r.fill(fmt.Sprintf("u%d", i))
		seq, err := r.Log.Append(r.ctx, m, events.Expectation{})
		if err == nil {
			want = append(want, events.Entry{Seq: seq, Message: m})
			continue
		}
		if !errors.Is(err, events.ErrFull) {
			r.Fatalf("append to a full stream: %v, want ErrFull", err)
		}
		if _, err := r.Log.Last(r.ctx, m.Subject); !errors.Is(err, events.ErrNotFound) {
			r.Errorf("the refused message was stored: %v", err)
		}
		break
	}
	if len(want) < 10 {
		r.Fatalf("only %d messages fit into %d bytes", len(want), smallBudget)
	}
	info, err := r.Log.Info(r.ctx)
	if err != nil {
		r.Fatal(err)
	}
	if info.MaxBytes != smallBudget || info.Bytes > info.MaxBytes || info.Bytes < smallBudget/2 {
		r.Errorf("full, the stream says %+v", info)
	}
	// A full log can be read, and everything acknowledged is there.
	tl := r.follow(0, nil)
	r.sameEntries(tl.applied(want[len(want)-1].Seq), want)
	tl.stop(1)
}

func testFullConcurrent(r *run) {
	var mu sync.Mutex // guards want
	var want []events.Entry
	refused := 0
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			m := r.fill(fmt.Sprintf("u%d", i))
			seq, err := r.Log.Append(r.ctx, m, events.Expectation{})
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				want = append(want, events.Entry{Seq: seq, Message: m})
			case errors.Is(err, events.ErrFull):
				refused++
			default:
				r.Errorf("append to a full stream: %v, want ErrFull", err)
			}
		})
	}
	wg.Wait()
	if len(want) < 10 || refused < 10 {
		r.Fatalf("%d stored, %d refused of 100 that need twice the budget", len(want), refused)
	}
	slices.SortFunc(want, func(a, b events.Entry) int { return cmp.Compare(a.Seq, b.Seq) })
	tl := r.follow(0, nil)
	r.sameEntries(tl.applied(want[len(want)-1].Seq), want)
	tl.stop(1)
}

func testLast(r *run) {
	m := r.login("ada")
	if _, err := r.Log.Last(r.ctx, m.Subject); !errors.Is(err, events.ErrNotFound) {
		r.Fatalf("Last on an empty stream: %v, want ErrNotFound", err)
	}
	r.append(m, events.Expectation{})
	r.append(r.login("bob"), events.Expectation{})
	m = r.message(r.state("ada"), "changed", time.Hour)
	seq := r.append(m, events.Expectation{})
	r.append(r.login("eve"), events.Expectation{})
	got, err := r.Log.Last(r.ctx, m.Subject)
	if err != nil {
		r.Fatal(err)
	}
	r.sameEntries([]events.Entry{got}, []events.Entry{{Seq: seq, Message: m}})
	if _, err := r.Log.Last(r.ctx, r.login("carol").Subject); !errors.Is(err, events.ErrNotFound) {
		r.Errorf("Last of an unused subject: %v, want ErrNotFound", err)
	}
	ended, cancel := context.WithCancel(r.ctx)
	cancel()
	if _, err := r.Log.Last(ended, m.Subject); err == nil || errors.Is(err, events.ErrNotFound) {
		r.Errorf("Last with an ended context: %v, want an error that is not ErrNotFound", err)
	}
}

func testInfo(r *run) {
	var before events.Info
	for i := range 10 {
		seq := r.append(r.login(fmt.Sprintf("u%d", i)), events.Expectation{})
		info, err := r.Log.Info(r.ctx)
		if err != nil {
			r.Fatal(err)
		}
		if info.LastSeq != seq {
			r.Errorf("last sequence is %d after %d was acknowledged", info.LastSeq, seq)
		}
		if info.FirstSeq == 0 || info.FirstSeq > seq {
			r.Errorf("first sequence is %d of %d", info.FirstSeq, seq)
		}
		if info.Bytes <= before.Bytes {
			r.Errorf("the stream went from %d to %d bytes", before.Bytes, info.Bytes)
		}
		before = info
	}
	first := before.FirstSeq
	r.append(r.login("u0"), events.Expectation{}) // replaces the first
	info, err := r.Log.Info(r.ctx)
	if err != nil {
		r.Fatal(err)
	}
	if info.FirstSeq != first+1 {
		r.Errorf("first sequence is %d after %d was replaced", info.FirstSeq, first)
	}
}
