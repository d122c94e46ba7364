package bench

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/projection"
)

// memory measures what the node's process takes for its sessions.
func (r *runner) memory(ctx context.Context) error {
	s, err := r.start(ctx)
	if err != nil {
		return err
	}
	// A life that began from a snapshot: what the reading of the log needed is
	// not in it.
	if err := s.restart(ctx); err != nil {
		return err
	}
	if err := s.awaitSessions(ctx, s.listen); err != nil {
		return err
	}
	now, err := residentOf(s.node.pid())
	if err != nil || s.empty == 0 {
		r.report.skip("memory", "%v", errNoProc)
		return nil
	}
	r.report.figure("memory/rss", "memory of the node's process", float64(now)/(1<<20), "MiB")
	r.report.figure("memory/rss/session", "the same beyond that without sessions, for each session", float64(now-s.empty)/float64(s.sessions), "B")
	return nil
}

// begin measures how long a node takes from the start of its process until it
// gives the first right answer, from its snapshot.
func (r *runner) begin(ctx context.Context) error {
	s, err := r.start(ctx)
	if err != nil {
		return err
	}
	var all []float64
	for range r.Rounds {
		if err := s.node.end(); err != nil {
			return err
		}
		begun := time.Now()
		if s.node, err = s.newNode("n1", s.listen); err != nil {
			return err
		}
		if err := s.awaitSessions(ctx, s.listen); err != nil {
			return err
		}
		all = append(all, time.Since(begun).Seconds())
		if err := s.node.await(ctx, welcomed); err != nil {
			return err
		}
	}
	r.report.figure("start", "start of the process from a snapshot to the first right answer", median(all), "s")
	r.report.figure("start/log", "the same without a snapshot, from the log", s.readIn.Seconds(), "s")
	return nil
}

// inprocess measures the projection as a program that embeds a node has it.
func (r *runner) inprocess(ctx context.Context) error {
	size, err := measureSize(ctx, r.Sessions, r.dir)
	if err != nil {
		return err
	}
	r.report.Figures = append(r.report.Figures, size.figures()...)
	return r.embedded(ctx)
}

// applyMost is how many sessions the scenario "apply" folds at most.
const applyMost = 1_000_000

// apply measures how many events a second a projection takes, from memory and
// from the log.
func (r *runner) apply(ctx context.Context) error {
	s, err := r.start(ctx)
	if err != nil {
		return err
	}
	var fromMemory, byOne, shares, fromLog, logged []float64
	for range r.Rounds {
		rate, share := applyMemory(min(r.Sessions, applyMost), oneByOne)
		byOne, shares = append(byOne, rate), append(shares, share)
		rate, _ = applyMemory(min(r.Sessions, applyMost), atOnce)
		fromMemory = append(fromMemory, rate)
		rate, read, err := s.applyLog(ctx)
		if err != nil {
			return err
		}
		fromLog, logged = append(fromLog, rate), append(logged, read)
	}
	r.report.figure("apply/memory", "events applied from memory, on all cores", median(fromMemory), "/s")
	r.report.figure("apply/memory/one", "the same on one thread", median(byOne), "/s")
	if why := starved(median(shares)); why != "" { // then there was no second core either
		r.refuse("apply/memory", why)
		r.refuse("apply/memory/one", why)
	}
	r.report.figure("apply/log", "events read from the log, opened and applied", median(fromLog), "/s")
	r.report.figure("apply/log/read", "events read from the log and dropped: what the log can", median(logged), "/s")
	return nil
}

// oneByOne and atOnce apply records as a node does that has one at hand, and many.
func oneByOne(m *projection.Map, records []events.Record) {
	for i := range records {
		m.Apply(records[i])
	}
}

func atOnce(m *projection.Map, records []events.Record) {
	effects := make([]projection.Effect, len(records))
	for part := range slices.Chunk(records, atHand) {
		m.ApplyAll(part, effects[:len(part)], runtime.GOMAXPROCS(0), func(parts int, do func(int)) {
			var all sync.WaitGroup
			for i := range parts {
				all.Go(func() { do(i) })
			}
			all.Wait()
		})
	}
}

// atHand is how many records a node applies at once at most.
const atHand = 1024

// applyMemory returns how many creations a second a projection applies, without
// making them, and what share of that time the thread had a core.
func applyMemory(n int, apply func(*projection.Map, []events.Record)) (rate, share float64) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	m := new(projection.Map)
	var took, had time.Duration
	records := make([]events.Record, 0, 10_000)
	for i := 0; i < n; {
		records = records[:0]
		for ; len(records) < cap(records) && i < n; i++ {
			records = append(records, sizeRecord(i))
		}
		begun, before := time.Now(), threadTime()
		apply(m, records)
		took += time.Since(begun)
		had += threadTime() - before
	}
	return float64(n) / took.Seconds(), had.Seconds() / took.Seconds()
}

// starved says why a figure in seconds means nothing, when a thread that never
// waits had a core for less than the time that the rounds of a bare handler may
// differ by; else "".
func starved(share float64) string {
	if share >= 1/(1+noisy) {
		return ""
	}
	return fmt.Sprintf("noisy: the thread had a core for %.0f %% of the time", 100*share)
}

// applyLog reads the log from its beginning, with and without a fold.
func (s *system) applyLog(ctx context.Context) (applied, read float64, err error) {
	m := new(projection.Map)
	number := s.log.Number()
	if applied, err = s.follow(ctx, func(e events.Entry) { m.Apply(s.keys.Decode(number, e)) }); err != nil {
		return 0, 0, err
	}
	if held, _ := m.Len(); held < s.sessions-s.revoked()-s.crowded() {
		return 0, 0, fmt.Errorf("the log gave %d of %d sessions", held, s.sessions)
	}
	read, err = s.follow(ctx, func(events.Entry) {})
	return applied, read, err
}

// follow reads the log from its beginning to its end, and returns how many
// entries a second.
func (s *system) follow(ctx context.Context, apply func(events.Entry)) (float64, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	n, whole, begun := 0, false, time.Now()
	var took time.Duration
	err := s.log.Follow(ctx, events.Follow{
		Apply:    func(e events.Entry) error { n++; apply(e); return nil },
		CaughtUp: func() { took, whole = time.Since(begun), true; cancel() },
	})
	if err == nil && !whole {
		err = context.Cause(ctx)
	}
	if err != nil {
		return 0, fmt.Errorf("read the log: %w", err)
	}
	return float64(n) / took.Seconds(), nil
}
