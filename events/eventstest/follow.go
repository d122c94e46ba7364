package eventstest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/revocast/revocast/events"
)

func testFollowEmpty(r *run) {
	tl := r.follow(0, nil)
	if n := tl.caughtUpAfter(); n != 0 {
		r.Errorf("CaughtUp came after %d entries of an empty stream", n)
	}
	want := r.appended("live", 3)
	r.sameEntries(tl.applied(want[2].Seq), want)
	tl.stop(1)
}

func testFollowFrom(r *run) {
	stored := r.appended("old", 10)
	last := stored[9].Seq
	starts := []struct {
		name string
		from uint64
		want int // of stored, the first delivered
	}{
		{"zero", 0, 0},
		{"one", 1, 0},
		{"first", stored[0].Seq, 0},
		{"middle", stored[4].Seq, 4},
		{"last", last, 9},
		{"after the end", last + 1, 10},
		{"far after the end", last + 3, 12},
	}
	var tails []*tail
	for _, s := range starts {
		tl := r.follow(s.from, nil)
		if n, want := tl.caughtUpAfter(), max(0, 10-s.want); n != want {
			r.Errorf("from %s: CaughtUp came after %d entries, want %d", s.name, n, want)
		}
		tails = append(tails, tl)
	}
	all := append(stored, r.appended("live", 5)...)
	for i, s := range starts {
		r.Logf("from %s", s.name)
		r.sameEntries(tails[i].applied(all[14].Seq), all[s.want:])
		tails[i].stop(1)
	}
}

// testFollowLive has several followers begin while there are writes, so that
// for each the end of what was stored lies elsewhere.
func testFollowLive(r *run) {
	var want []events.Entry
	var tails []*tail
	for i := range 5 {
		want = append(want, r.appended(fmt.Sprintf("batch%d", i), 40)...)
		tails = append(tails, r.follow(0, nil))
	}
	want = append(want, r.appended("end", 40)...)
	for i, tl := range tails {
		r.sameEntries(tl.applied(want[len(want)-1].Seq), want)
		if n := tl.caughtUpAfter(); n < 40*(i+1) {
			r.Errorf("CaughtUp of follower %d came after %d entries; %d were stored before it began", i, n, 40*(i+1))
		}
		tl.stop(1)
	}
}

func testFollowConcurrent(r *run) {
	const writers, each = 64, 20
	tails := []*tail{r.follow(0, nil), r.follow(0, nil), r.follow(0, nil)}
	var mu sync.Mutex // guards want
	var want []events.Entry
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				m := r.login(fmt.Sprintf("w%d-%d", w, i))
				seq, err := r.Log.Append(r.ctx, m, events.Expectation{})
				if err != nil {
					r.Error(err)
					return
				}
				mu.Lock()
				want = append(want, events.Entry{Seq: seq, Message: m})
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if r.Failed() {
		return
	}
	slices.SortFunc(want, func(a, b events.Entry) int { return cmp.Compare(a.Seq, b.Seq) })
	tails = append(tails, r.follow(0, nil)) // reads all of it in bulk
	for _, tl := range tails {
		r.sameEntries(tl.applied(want[len(want)-1].Seq), want)
		tl.stop(1)
	}
}

// testFollowBreak breaks the connections under load. An append whose answer
// was lost may be stored twice; nothing acknowledged may be missing, and no
// sequence may come twice or late.
func testFollowBreak(r *run) {
	if r.Break == nil {
		r.Skip("NOT TESTED: connections of this log cannot be broken")
	}
	const writers, each, breaks = 8, 60, 6
	anchored, bare := r.follow(0, r.isMarker), r.follow(0, nil)
	var mu sync.Mutex // guards acked
	var acked []events.Entry
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				m := r.login(fmt.Sprintf("w%d-%d", w, i))
				seq, err := r.Log.Append(r.ctx, m, events.Expectation{})
				if err != nil {
					r.Error(err)
					return
				}
				mu.Lock()
				acked = append(acked, events.Entry{Seq: seq, Message: m})
				mu.Unlock()
			}
		})
	}
	for range breaks {
		seq := r.append(r.marker(), events.Expectation{})
		anchored.applied(seq)
		r.Break()
	}
	wg.Wait()
	quiet := r.append(r.marker(), events.Expectation{})
	before := map[*tail]int{}
	for _, tl := range []*tail{anchored, bare} {
		before[tl] = len(tl.applied(quiet))
	}
	r.Break()
	end := r.append(r.marker(), events.Expectation{})
	for _, tl := range []*tail{anchored, bare} {
		got := tl.applied(end)
		r.ascending(got)
		// The break is said before anything that was appended after it. Of
		// those under load several may have been met as one.
		if again := tl.resumes(); len(again) < 2 || again[0] != 0 || !slices.Contains(again[1:], before[tl]) {
			r.Errorf("Resumed was called after %v entries, want 0, and %d for the last break", again, before[tl])
		}
		r.holds(got, acked)
		tl.stop(1)
	}
}

// testFollowAnchorGone: of two anchors the newer has left the log at a break, and
// following goes on from the older; when there is none left, nothing proves that
// the log is the one that was applied.
func testFollowAnchorGone(r *run) {
	if r.Break == nil {
		r.Skip("NOT TESTED: connections of this log cannot be broken")
	}
	long, none := r.follow(0, r.isMarker), r.follow(0, func(e events.Entry) bool { return r.isMarker(e) && e.TTL == time.Second })
	r.append(r.marker(), events.Expectation{})
	r.appended("old", 3)
	for range 2 {
		r.beat++
		short := r.message(&events.Marker{Node: "n1", Incarnation: r.inc, N: r.beat}, "", time.Second)
		seq := r.append(short, events.Expectation{})
		long.applied(seq)
		none.applied(seq)
		r.eventually("TTL of one second", func() bool {
			_, err := r.Log.Last(r.ctx, short.Subject)
			return errors.Is(err, events.ErrNotFound)
		})
	}
	r.appended("more", 3)
	r.Break()
	end := r.append(r.marker(), events.Expectation{})
	r.ascending(long.applied(end))
	long.stop(1)
	select {
	case <-none.ended:
	case <-r.ctx.Done():
		r.Fatal("follow goes on without an anchor")
	}
	if !errors.Is(none.err, events.ErrRewound) {
		r.Errorf("follow without an anchor ended with %v, want ErrRewound", none.err)
	}
}

// holds fails unless each acknowledged message was delivered, at the sequence
// acknowledged or, when a lost attempt of the same message arrived late, above.
func (r *run) holds(got, acked []events.Entry) {
	r.Helper()
	at := map[string]events.Entry{}
	for _, e := range got {
		at[e.Seal] = e
	}
	for _, a := range acked {
		e, ok := at[a.Seal]
		switch {
		case !ok:
			r.Fatalf("acknowledged as %d, never delivered: %s", a.Seq, a.Subject)
		case e.Seq < a.Seq:
			r.Fatalf("acknowledged as %d, delivered as %d", a.Seq, e.Seq)
		}
		if d := gocmp.Diff(a.Message, e.Message); d != "" {
			r.Fatalf("entry %d (-appended +delivered):\n%s", e.Seq, d)
		}
	}
}

func testFollowEnds(r *run) {
	before := goroutines()
	want := r.appended("old", 50)
	for range 3 {
		idle := r.follow(0, nil)
		idle.applied(want[len(want)-1].Seq)
		idle.caughtUpAfter()
		idle.stop(1)
	}
	// Ended in the middle of what it reads, from within Apply.
	ctx, cancel := context.WithCancel(r.ctx)
	defer cancel()
	n := 0
	err := r.Log.Follow(ctx, events.Follow{Apply: func(events.Entry) error {
		n++
		cancel()
		return nil
	}})
	if err != nil || n == 0 {
		r.Errorf("follow ended from within Apply after %d entries: %v", n, err)
	}
	// Ended before it began.
	if err := r.Log.Follow(ctx, events.Follow{Apply: func(events.Entry) error { return nil }}); err != nil {
		r.Errorf("follow with an ended context: %v", err)
	}
	r.eventually("every goroutine of the followers ended", func() bool { return goroutines() <= before })
}

func testFollowApplyError(r *run) {
	before := goroutines()
	defer testFollowFlushError(r)
	want := r.appended("old", 10)
	refused := errors.New("not this one")
	for _, at := range []uint64{want[0].Seq, want[4].Seq, want[9].Seq + 1} {
		last := uint64(0)
		var wg sync.WaitGroup
		var err error
		caught := make(chan struct{})
		wg.Go(func() {
			err = r.Log.Follow(r.ctx, events.Follow{
				Apply: func(e events.Entry) error {
					last = e.Seq
					if e.Seq == at {
						return refused
					}
					return nil
				},
				CaughtUp: func() { close(caught) },
			})
		})
		if at > want[9].Seq {
			<-caught
			r.appended("live", 2) // the second is not to be applied
		}
		wg.Wait()
		if !errors.Is(err, refused) || last != at {
			r.Errorf("Apply refused %d: follow ended at %d with %v", at, last, err)
		}
	}
	r.eventually("every goroutine of the followers ended", func() bool { return goroutines() <= before })
}

// testBytes decodes what was delivered: the seal covers subject, payload and
// TTL, so it verifies only if each byte came back.
func testBytes(r *run) {
	users := []string{"ada@example.com", "a.b", "*", ">", " ", "../", "$SYS", "😀 ünï\u2028", "\"\\<&>", "x\ty"}
	var want []*events.State
	var last uint64
	for i, u := range users {
		s := r.state(u)
		want = append(want, s)
		last = r.append(r.message(s, "private part of "+u, time.Duration(i)*time.Hour), events.Expectation{})
	}
	tl := r.follow(0, nil)
	got := tl.applied(last)
	if len(got) != len(want) {
		r.Fatalf("%d entries, want %d", len(got), len(want))
	}
	for i, e := range got {
		rec := r.keys.Decode(r.Log.Number(), e)
		if rec.Trust != events.Authentic {
			r.Errorf("the entry of user %q is %v", users[i], rec.Trust)
			continue
		}
		if d := gocmp.Diff(events.Event(want[i]), rec.Event); d != "" {
			r.Errorf("event of user %q (-want +got):\n%s", users[i], d)
		}
		private, err := r.keys.OpenVerified(rec.Sealed)
		if err != nil || string(private) != "private part of "+users[i] {
			r.Errorf("private part of user %q: %q, %v", users[i], private, err)
		}
	}
	// What Apply is given is its own.
	for _, e := range got {
		clear(e.Payload)
	}
	again := r.follow(0, nil)
	if rec := r.keys.Decode(r.Log.Number(), again.applied(last)[0]); rec.Trust != events.Authentic {
		r.Errorf("changing a delivered payload changed the log's: %v", rec.Trust)
	}
	again.stop(1)
	tl.stop(1)
}

// testInject writes past the log: following goes on over whatever stands in
// the stream, and reports it as it is.
func testInject(r *run) {
	if r.Inject == nil {
		r.Skip("NOT TESTED: this log cannot be written past")
	}
	genuine := r.login("ada")
	first := r.append(genuine, events.Expectation{})
	prefix := "ev." + r.Log.Region() + "."
	hostile := []struct {
		name  string
		msg   events.Message
		trust events.Trust
	}{
		{"another subject", events.Message{Subject: r.login("bob").Subject, Payload: genuine.Payload, Seal: genuine.Seal}, events.Forged},
		{"no seal", events.Message{Subject: r.login("eve").Subject, Payload: []byte(`{"v":1}`)}, events.Forged},
		{"short life", events.Message{Subject: genuine.Subject, Payload: genuine.Payload, Seal: genuine.Seal, TTL: time.Hour}, events.Forged},
		{"unknown kind", events.Message{Subject: prefix + "demo.u.s.newkind", Payload: []byte("?")}, events.Forged},
		{"junk subject", events.Message{Subject: prefix + "junk", Payload: []byte{0, 255, '\n'}, Seal: "?"}, events.Junk},
		{"nothing in it", events.Message{Subject: prefix + "a.b.c.st"}, events.Forged},
	}
	live := r.follow(0, nil)
	live.applied(first)
	for _, h := range hostile {
		if err := r.Inject(h.msg); err != nil {
			r.Fatalf("inject %s: %v", h.name, err)
		}
	}
	after := r.login("after")
	last := r.append(after, events.Expectation{})
	bulk := r.follow(first+1, nil)
	for name, got := range map[string][]events.Entry{"live": live.applied(last)[1:], "bulk": bulk.applied(last)} {
		if len(got) != len(hostile)+1 {
			r.Fatalf("%s: %d entries, want %d", name, len(got), len(hostile)+1)
		}
		r.ascending(got)
		for i, h := range hostile {
			m := got[i].Message
			if m.Subject != h.msg.Subject || string(m.Payload) != string(h.msg.Payload) || m.Seal != h.msg.Seal || m.TTL != h.msg.TTL {
				r.Errorf("%s: %s came as %+v, want %+v", name, h.name, m, h.msg)
			}
			if rec := r.keys.Decode(r.Log.Number(), got[i]); rec.Trust != h.trust || rec.Event != nil || rec.Seq != got[i].Seq {
				r.Errorf("%s: %s decodes as %+v, want %v", name, h.name, rec, h.trust)
			}
		}
		if rec := r.keys.Decode(r.Log.Number(), got[len(hostile)]); rec.Trust != events.Authentic {
			r.Errorf("%s: the genuine entry after them is %v", name, rec.Trust)
		}
	}
	live.stop(1)
	bulk.stop(1)
}

// An error of Flush ends following as one of Apply does, and CaughtUp is not
// called for what was not applied.
func testFollowFlushError(r *run) {
	refused := errors.New("not now")
	err := r.Log.Follow(r.ctx, events.Follow{
		Apply:    func(events.Entry) error { return nil },
		Flush:    func() error { return refused },
		CaughtUp: func() { r.Error("CaughtUp was called though Flush failed") },
	})
	if !errors.Is(err, refused) {
		r.Errorf("Flush failed: follow ended with %v", err)
	}
}
