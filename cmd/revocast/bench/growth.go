package bench

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"time"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/projection"
)

// Size is what a number of sessions costs in a projection of this process, with
// a private part of 225 bytes each.
type Size struct {
	Sessions int `json:"sessions"`
	// Bytes and Beside are for each session: all, and without the sealed private part.
	Bytes  float64 `json:"bytes_per_session"`
	Beside float64 `json:"bytes_beside_private"`
	// Lookup is a verify by a random token: hash, clock, lookup; Clock is reading
	// the clock once. CPU time in ns.
	Lookup float64 `json:"lookup_ns"`
	Clock  float64 `json:"clock_ns"`
	Allocs float64 `json:"lookup_allocs"`
	// GC is the CPU of one cycle of the collector, Pause the longest pause of any
	// since the first session, in ms.
	GC    float64 `json:"gc_cycle_ms"`
	Pause float64 `json:"gc_pause_ms"`
	// Apply is creations a second on one thread, by CPU time.
	Apply float64 `json:"applied_per_s"`
	// Write and Load are seconds of a snapshot of File bytes. Load ends with the
	// first right answer.
	Write float64 `json:"snapshot_write_s"`
	Load  float64 `json:"snapshot_load_s"`
	File  int64   `json:"snapshot_bytes"`
	// Returned is the share of the memory that is given back once nine of ten
	// sessions have ended.
	Returned float64 `json:"returned"`
}

// sizeTime is when the sessions of a Size begin, unix ms. Nine of ten end an
// hour later.
const (
	sizeTime   int64 = 1_750_000_000_000
	hour       int64 = 3_600_000
	sizeStream uint8 = 2
)

// sizeRecord is the creation of session i.
func sizeRecord(i int) events.Record {
	key, _ := token(sizeStream, i).Key() // a token made here has the form of one
	e := &events.State{
		App: "app", User: fmt.Sprintf("user-%d", i*2/3), SID: key, Reason: events.ReasonCreated, CreatedAt: sizeTime, SeenAt: sizeTime,
		ExpiresAt: sizeTime + hour, AbsoluteAt: sizeTime + 24*hour, Idle: 6 * 3600, AuthSeq: 1, By: "key_0123456789",
	}
	if i%10 == 0 {
		e.ExpiresAt = sizeTime + 12*hour
	}
	sealed := make([]byte, privateBytes+sealedHead)
	binary.BigEndian.PutUint64(sealed[8:], uint64(i))
	return events.Record{
		Stream: sizeStream, Seq: uint64(i + 1), Time: time.UnixMilli(sizeTime), Subject: e.Subject(region), Event: e, Sealed: sealed,
	}
}

// sealedHead is what a private part is longer in memory: the key's id and the
// nonce.
const sealedHead = 8 + 24

// errLost means that a session that was written is not there.
var errLost = errors.New("a session that was applied is not found")

// measureSize measures n sessions. What it writes is below dir, and removed.
func measureSize(ctx context.Context, n int, dir string) (z Size, err error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	// As serve does: garbage must not come to as much as the sessions take. Two
	// copies of them are held while a snapshot is loaded.
	defer debug.SetGCPercent(debug.SetGCPercent(20))
	z.Sessions = n
	before, pauses := resident(), readPauses()
	m := new(projection.Map)
	if z.Apply, err = applySize(ctx, m, n); err != nil {
		return z, err
	}
	held := resident() - before
	z.Bytes = held / float64(n)
	z.Beside = z.Bytes - privateBytes - sealedHead
	z.GC = collect()
	if z.Lookup, z.Allocs, err = lookups(m, n); err != nil {
		return z, err
	}
	z.Clock = clockReads(lookupsOf(n))
	if err := z.snapshot(m, filepath.Join(dir, "growth.snap")); err != nil {
		return z, err
	}
	z.Pause = readPauses().longestSince(pauses)
	if err := endMost(ctx, m, n); err != nil {
		return z, err
	}
	z.Returned = 1 - (resident()-before)/held
	runtime.KeepAlive(m)
	debug.FreeOSMemory()
	return z, nil
}

// resident is what the Go heap has in use after a collection.
func resident() float64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapInuse)
}

// applySize applies n creations and returns how many a second of CPU, without
// making them.
func applySize(ctx context.Context, m *projection.Map, n int) (float64, error) {
	var took time.Duration
	records := make([]events.Record, 0, 10_000)
	for i := 0; i < n; {
		if ctx.Err() != nil {
			return 0, ctx.Err()
		}
		records = records[:0]
		for ; len(records) < cap(records) && i < n; i++ {
			records = append(records, sizeRecord(i))
		}
		begun := threadTime()
		for k := range records {
			m.Apply(records[k])
		}
		took += threadTime() - begun
	}
	return float64(n) / max(took.Seconds(), 1e-9), nil
}

// lookupRounds is how many lookups are timed, fewer of fewer sessions.
const lookupRounds = 1_000_000

func lookupsOf(n int) int { return min(lookupRounds, 50*n) }

// lookups returns how long a verify takes in process: hash the token, read the
// clock, look up; and how often it allocates.
func lookups(m *projection.Map, n int) (ns, allocs float64, err error) {
	rounds := lookupsOf(n)
	tokens := inOrder(rounds, func() events.Token { return token(sizeStream, rand.IntN(n)) })
	var clock events.SystemClock
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	begun := threadTime()
	for _, t := range tokens {
		key, _ := events.Token(t).Key()
		now := clock.Boot()
		if _, v, _ := m.LookupToken(key, sizeTime+int64(now&1)); v != projection.Active {
			return 0, 0, errLost
		}
	}
	took := threadTime() - begun
	runtime.ReadMemStats(&after)
	return float64(took) / float64(rounds), float64((after.Mallocs - before.Mallocs) / uint64(rounds)), nil
}

// clockReads returns how long reading the clock takes, in ns.
func clockReads(rounds int) float64 {
	var clock events.SystemClock
	var sum time.Duration
	begun := threadTime()
	for range rounds {
		sum += clock.Boot()
	}
	took := threadTime() - begun
	runtime.KeepAlive(sum)
	return float64(took) / float64(rounds)
}

// collect returns what one garbage collection costs, in ms of CPU.
func collect() float64 {
	const rounds = 5
	s := []metrics.Sample{{Name: "/cpu/classes/gc/total:cpu-seconds"}}
	runtime.GC()
	metrics.Read(s)
	before := s[0].Value.Float64()
	for range rounds {
		runtime.GC()
	}
	metrics.Read(s)
	return (s[0].Value.Float64() - before) * 1000 / rounds
}

// pauses are the pauses of the collector so far.
type pauses struct{ h *metrics.Float64Histogram }

func readPauses() pauses {
	s := []metrics.Sample{{Name: "/sched/pauses/total/gc:seconds"}}
	metrics.Read(s)
	h := s[0].Value.Float64Histogram()
	return pauses{&metrics.Float64Histogram{Counts: append([]uint64(nil), h.Counts...), Buckets: h.Buckets}}
}

// longestSince returns the longest pause since before, in ms: the upper end of
// its bucket.
func (p pauses) longestSince(before pauses) (ms float64) {
	for i, n := range p.h.Counts {
		if n > before.h.Counts[i] {
			ms = p.h.Buckets[min(i+1, len(p.h.Buckets)-2)] * 1000 // the last end is infinite
		}
	}
	return ms
}

// snapshot writes m to the file, loads it again, and measures both.
func (z *Size) snapshot(m *projection.Map, file string) error {
	f, err := os.Create(file)
	if err != nil {
		return fmt.Errorf("write snapshot: %w", err)
	}
	defer os.Remove(file)
	defer f.Close()
	key := make([]byte, 32)
	begun := time.Now()
	w := bufio.NewWriterSize(f, 1<<20)
	h := projection.SnapshotHeader{Cluster: "bench", Streams: []projection.SnapshotStream{{Number: sizeStream, Region: region}}}
	if err := m.WriteSnapshot(w, key, h, nil); err != nil {
		return err
	}
	if err := errors.Join(w.Flush(), f.Sync()); err != nil {
		return fmt.Errorf("write snapshot: %w", err)
	}
	z.Write = time.Since(begun).Seconds()
	if z.File, err = f.Seek(0, io.SeekCurrent); err != nil {
		return err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	begun = time.Now()
	again, _, err := projection.ReadSnapshot(bufio.NewReaderSize(f, 1<<20), key)
	if err != nil {
		return err
	}
	last, _ := token(sizeStream, z.Sessions-1).Key()
	if _, v := again.Lookup(last, sizeTime); v != projection.Active {
		return errLost
	}
	z.Load = time.Since(begun).Seconds()
	return nil
}

// endMost lets the time pass in which nine of ten sessions end, and sweeps until
// nothing more is given back.
func endMost(ctx context.Context, m *projection.Map, n int) error {
	e := &events.Beat{N: 1}
	later := sizeTime + 2*hour
	m.Apply(events.Record{
		Stream: sizeStream, Seq: uint64(n + 1), Time: time.UnixMilli(later), Subject: e.Subject(region), Event: e,
	})
	for was := 0; ctx.Err() == nil; {
		for i := range 256 {
			m.Sweep(uint8(i), later)
		}
		is := m.Bytes()
		if is == was {
			if held, _ := m.Len(); held != (n+9)/10 {
				return fmt.Errorf("%d of %d sessions are left, want a tenth", held, n)
			}
			return nil
		}
		was = is
	}
	return ctx.Err()
}

// figures are what the gates hold against the targets.
func (z *Size) figures() []Figure {
	of := func(text string) string { return fmt.Sprintf(text, z.Sessions) }
	return []Figure{
		{ID: "inprocess/ns", What: of("verify in process by a random token of %d, without the clock, CPU"), Value: max(0, z.Lookup-z.Clock), Unit: "ns"},
		{ID: "inprocess/clock", What: "reading the clock once, CPU", Value: z.Clock, Unit: "ns"},
		{ID: "inprocess/allocs", What: "verify in process, allocations", Value: z.Allocs, Unit: "allocs"},
		{ID: "memory/session", What: of("memory of each of %d sessions"), Value: z.Bytes, Unit: "B"},
		{ID: "memory/beside", What: "the same beside the sealed private part", Value: z.Beside, Unit: "B"},
		{ID: "memory/returned", What: "share of it that comes back when nine of ten have ended", Value: z.Returned, Unit: ""},
		{ID: "gc/cycle", What: "one cycle of the collector, CPU", Value: z.GC, Unit: "ms"},
		{ID: "gc/pause", What: "longest pause of the collector", Value: z.Pause, Unit: "ms"},
		{ID: "snapshot/write", What: "writing a snapshot", Value: z.Write, Unit: "s"},
		{ID: "snapshot/load", What: "loading a snapshot up to the first right answer", Value: z.Load, Unit: "s"},
	}
}

// grow measures each number of sessions.
func (r *runner) grow(ctx context.Context) error {
	for _, n := range r.Growth {
		r.say("growth: %d sessions", n)
		z, err := measureSize(ctx, n, r.dir)
		if err != nil {
			return fmt.Errorf("growth: %d sessions: %w", n, err)
		}
		r.report.Growth = append(r.report.Growth, z)
	}
	return nil
}

// writeGrowth writes the tables of sizes and of fleets.
func (r *Report) writeGrowth(w io.Writer) {
	if len(r.Growth) > 0 {
		fmt.Fprint(w, "\nSESSIONS\tB/SESSION\tBESIDE PRIVATE\tLOOKUP ns\tCLOCK ns\tAPPLIED/S\tGC CYCLE ms\tGC PAUSE ms\tSNAPSHOT WRITE s\tLOAD s\tFILE MiB\tRETURNED\t\n")
	}
	for _, z := range r.Growth {
		fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%.2f\t\n", z.Sessions, number(z.Bytes), number(z.Beside), number(z.Lookup),
			number(z.Clock), number(z.Apply), number(z.GC), number(z.Pause), number(z.Write), number(z.Load), number(float64(z.File)/(1<<20)), z.Returned)
	}
	r.writeNodes(w)
}
