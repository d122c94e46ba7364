// Package eventstest holds what every events.Log must do, as tests. A log that
// passes them can stand below a node.
//
// The tests know no log from within: they append, follow, break and read, and
// compare. They wait on positions, never for a time, except that a TTL of one
// second, the shortest there is, has to run out.
package eventstest

import (
	"bytes"
	"context"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/revocast/revocast/events"
)

// Options say what a test needs of its log.
type Options struct {
	// MaxBytes is the budget of the stream in bytes; 0: ample.
	MaxBytes uint64
}

// Env is a log to be tested, fresh and empty, and the means to trouble it.
type Env struct {
	Log events.Log
	// Archive is the archive of the same stream. Nil: there is none, and its
	// tests are skipped.
	Archive events.Archive
	// Break breaks the log's connections, which then recover. Nil: cannot be
	// done, and its tests are skipped.
	Break func()
	// Inject stores a message without the log, as a hostile client would.
	// Nil: cannot be done, and its tests are skipped.
	Inject func(events.Message) error
}

// Test runs the suite. fresh returns an Env for one test, and cleans up with
// t.Cleanup.
func Test(t *testing.T, fresh func(t *testing.T, o Options) Env) {
	for _, c := range []struct {
		name string
		opts Options
		test func(*run)
	}{
		{"Append", Options{}, testAppend},
		{"AppendEnded", Options{}, testAppendEnded},
		{"Expectations", Options{}, testExpectations},
		{"OwnAttempt", Options{}, testOwnAttempt},
		{"CompareAndSet", Options{}, testCompareAndSet},
		{"Replacement", Options{}, testReplacement},
		{"TTL", Options{}, testTTL},
		{"TooLarge", Options{}, testTooLarge},
		{"Full", Options{MaxBytes: smallBudget}, testFull},
		{"FullConcurrent", Options{MaxBytes: smallBudget}, testFullConcurrent},
		{"Last", Options{}, testLast},
		{"Info", Options{}, testInfo},
		{"Read", Options{}, testRead},
		{"FollowEmpty", Options{}, testFollowEmpty},
		{"FollowFrom", Options{}, testFollowFrom},
		{"FollowLive", Options{}, testFollowLive},
		{"FollowConcurrent", Options{}, testFollowConcurrent},
		{"FollowBreak", Options{}, testFollowBreak},
		{"FollowAnchorGone", Options{}, testFollowAnchorGone},
		{"FollowEnds", Options{}, testFollowEnds},
		{"FollowApplyError", Options{}, testFollowApplyError},
		{"Bytes", Options{}, testBytes},
		{"Inject", Options{}, testInject},
		{"Archive", Options{}, testArchive},
		{"ArchiveFilters", Options{}, testArchiveFilters},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			defer cancel()
			keys, err := events.NewClusterKeys(bytes.Repeat([]byte{7}, events.ClusterKeyLen))
			if err != nil {
				t.Fatal(err)
			}
			c.test(&run{T: t, Env: fresh(t, c.opts), ctx: ctx, keys: keys, inc: events.NewIncarnation()})
		})
	}
}

// limit is how long one test may take before the log counts as stuck.
const limit = time.Minute

// run is one test on one log.
type run struct {
	*testing.T
	Env
	ctx  context.Context
	keys *events.ClusterKeys
	inc  events.Incarnation
	beat uint64
	// tails counts them: every other one gathers.
	tails atomic.Uint64
}

// state returns the state of a session of the user, one for each user.
func (r *run) state(user string) *events.State {
	sid, _ := events.TokenOf(r.Log.Number(), [32]byte([]byte(fmt.Sprintf("%32.32s", user)))).Key()
	return &events.State{
		App: "demo", User: user, SID: sid, Reason: events.ReasonCreated,
		CreatedAt: 1_700_000_000_000, ExpiresAt: 1_700_003_600_000, AbsoluteAt: 1_702_592_000_000,
	}
}

// message seals the event for the log's stream.
func (r *run) message(e events.Event, private string, ttl time.Duration) events.Message {
	r.Helper()
	m, err := r.keys.Encode(r.Log.Region(), e, []byte(private), ttl)
	if err != nil {
		r.Fatal(err)
	}
	return m
}

// login is the message of the user's session.
func (r *run) login(user string) events.Message {
	r.Helper()
	return r.message(r.state(user), "", 0)
}

// marker is a fresh anchor of this run.
func (r *run) marker() events.Message {
	r.Helper()
	r.beat++
	return r.message(&events.Marker{Node: "n1", Incarnation: r.inc, N: r.beat}, "", time.Hour)
}

func (r *run) isMarker(e events.Entry) bool {
	return strings.HasSuffix(e.Subject, "."+string(events.KindMarker)) && strings.Contains(e.Subject, "."+r.inc.String()+"-")
}

// append stores the message, which must succeed.
func (r *run) append(m events.Message, e events.Expectation) uint64 {
	r.Helper()
	seq, err := r.Log.Append(r.ctx, m, e)
	if err != nil {
		r.Fatalf("append %s: %v", m.Subject, err)
	}
	return seq
}

// appended stores n log-ins and returns them as entries without time.
func (r *run) appended(name string, n int) []events.Entry {
	r.Helper()
	var all []events.Entry
	for i := range n {
		m := r.login(fmt.Sprintf("%s-%d", name, i))
		all = append(all, events.Entry{Seq: r.append(m, events.Expectation{}), Message: m})
	}
	return all
}

// eventually asks until the answer is true. It is for what has no position: a
// TTL that runs out, an archive that follows its stream, a goroutine that ends.
func (r *run) eventually(what string, is func() bool) {
	r.Helper()
	again := time.NewTicker(10 * time.Millisecond)
	defer again.Stop()
	for !is() {
		select {
		case <-r.ctx.Done():
			r.Fatalf("%s: not within %v", what, limit)
		case <-again.C:
		}
	}
}

// sameEntries fails unless got is want, times aside.
func (r *run) sameEntries(got, want []events.Entry) {
	r.Helper()
	got = slices.Clone(got)
	for i := range got {
		if got[i].Time.IsZero() {
			r.Errorf("entry %d has no time", got[i].Seq)
		}
		got[i].Time = time.Time{}
	}
	if d := cmp.Diff(want, got); d != "" {
		r.Fatalf("entries (-want +got):\n%s", d)
	}
}

// tail is one Follow and what it delivered.
type tail struct {
	r      *run
	cancel context.CancelFunc
	wg     sync.WaitGroup
	ended  chan struct{}
	err    error // of Follow; read after ended

	// calls is touched by Apply and CaughtUp without a lock: were they called
	// from two goroutines, the race detector would say so.
	calls int
	// gathers: Apply puts entries aside, and only Flush makes them applied.
	gathers bool
	aside   []events.Entry

	mu      sync.Mutex // guards what follows
	changed chan struct{}
	got     []events.Entry
	caught  []int // for each call of CaughtUp, how many entries were applied
	resumed []int // for each call of Resumed, the same
}

// follow starts a tail, which ends with the test at the latest.
func (r *run) follow(from uint64, anchor func(events.Entry) bool) *tail {
	ctx, cancel := context.WithCancel(r.ctx)
	tl := &tail{r: r, cancel: cancel, ended: make(chan struct{}), changed: make(chan struct{}), gathers: r.tails.Add(1)%2 == 0}
	tl.wg.Go(func() {
		defer close(tl.ended)
		tl.err = r.Log.Follow(ctx, events.Follow{From: from, Anchor: anchor, Apply: tl.apply, Flush: tl.flush, CaughtUp: tl.caughtUp, Resumed: tl.resume})
	})
	r.Cleanup(func() {
		cancel()
		tl.wg.Wait()
	})
	return tl
}

func (tl *tail) resume() {
	tl.flushed("Resumed")
	tl.mu.Lock()
	defer tl.mu.Unlock()
	tl.resumed = append(tl.resumed, len(tl.got))
}

// resumes returns, for each call of Resumed, how many entries were applied before.
func (tl *tail) resumes() []int {
	tl.mu.Lock()
	defer tl.mu.Unlock()
	return slices.Clone(tl.resumed)
}

func (tl *tail) apply(e events.Entry) error {
	tl.calls++
	if tl.gathers {
		tl.aside = append(tl.aside, e)
		return nil
	}
	tl.take(e)
	return nil
}

func (tl *tail) flush() error {
	tl.calls++
	tl.take(tl.aside...)
	tl.aside = nil
	return nil
}

func (tl *tail) take(all ...events.Entry) {
	if len(all) == 0 {
		return
	}
	tl.mu.Lock()
	defer tl.mu.Unlock()
	tl.got = append(tl.got, all...)
	close(tl.changed)
	tl.changed = make(chan struct{})
}

// flushed fails unless Flush was called since the last entry.
func (tl *tail) flushed(before string) {
	if len(tl.aside) > 0 {
		tl.r.Errorf("%s was called before Flush, with %d entries put aside", before, len(tl.aside))
	}
}

func (tl *tail) caughtUp() {
	tl.calls++
	tl.flushed("CaughtUp")
	tl.mu.Lock()
	defer tl.mu.Unlock()
	tl.caught = append(tl.caught, len(tl.got))
	close(tl.changed)
	tl.changed = make(chan struct{})
}

// until waits for the condition, which is asked with the lock held.
func (tl *tail) until(what string, is func() bool) {
	tl.r.Helper()
	for {
		tl.mu.Lock()
		ok, changed, n := is(), tl.changed, len(tl.got)
		tl.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-changed:
		case <-tl.ended:
			tl.r.Fatalf("follow ended before %s, after %d entries: %v", what, n, tl.err)
		case <-tl.r.ctx.Done():
			tl.r.Fatalf("follow did not reach %s; %d entries", what, n)
		}
	}
}

// applied waits until the sequence was applied and returns all entries.
func (tl *tail) applied(seq uint64) []events.Entry {
	tl.r.Helper()
	tl.until(fmt.Sprintf("sequence %d", seq), func() bool {
		return len(tl.got) > 0 && tl.got[len(tl.got)-1].Seq >= seq
	})
	return tl.entries()
}

// caughtUpAfter waits for CaughtUp and returns how many entries it came after.
func (tl *tail) caughtUpAfter() int {
	tl.r.Helper()
	tl.until("CaughtUp", func() bool { return len(tl.caught) > 0 })
	tl.mu.Lock()
	defer tl.mu.Unlock()
	return tl.caught[0]
}

func (tl *tail) entries() []events.Entry {
	tl.mu.Lock()
	defer tl.mu.Unlock()
	return slices.Clone(tl.got)
}

// stop ends the context, and fails unless Follow then returns nil at once and
// CaughtUp was called as often as wanted.
func (tl *tail) stop(caught int) {
	tl.r.Helper()
	tl.cancel()
	late := time.NewTimer(5 * time.Second)
	defer late.Stop()
	select {
	case <-tl.ended:
	case <-late.C:
		tl.r.Fatal("follow goes on 5 s after its context ended")
	}
	if tl.err != nil {
		tl.r.Fatalf("follow ended with %v, want nil", tl.err)
	}
	tl.flushed("the end")
	if len(tl.caught) != caught {
		tl.r.Fatalf("CaughtUp was called %d times, want %d", len(tl.caught), caught)
	}
}

// ascending fails unless each sequence is above the one before.
func (r *run) ascending(got []events.Entry) {
	r.Helper()
	for i := 1; i < len(got); i++ {
		if got[i].Seq <= got[i-1].Seq {
			r.Fatalf("entry %d came after entry %d", got[i].Seq, got[i-1].Seq)
		}
	}
}

// goroutines counts those that run code of package events.
func goroutines() int {
	buf := make([]byte, 1<<20)
	for {
		n := runtime.Stack(buf, true)
		if n < len(buf) {
			buf = buf[:n]
			break
		}
		buf = make([]byte, 2*len(buf))
	}
	n := 0
	for stack := range strings.SplitSeq(string(buf), "\n\n") {
		if strings.Contains(stack, "github.com/revocast/revocast/events.") {
			n++
		}
	}
	return n
}
