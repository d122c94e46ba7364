package projection_test

import (
	"bufio"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"runtime/metrics"
	"sync/atomic"
	"testing"
	"time"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/projection"
)

// BenchmarkGrowth prints one line of the growth curve: what -sessions cost to
// hold, to look up, to collect around, to write as a snapshot and to start from
// one. Run it with -benchtime 1x, once for each number. Lookups and collections
// are in CPU time of the thread, as far as the system tells; what somebody waits
// for is in time that passes.
func BenchmarkGrowth(b *testing.B) {
	for b.Loop() {
		growth(b, *memorySessions)
	}
}

func growth(b *testing.B, n int) {
	before := resident()
	m := new(projection.Map)
	loadSessions(m, n)
	per := (resident() - before) / float64(n)
	b.ReportMetric(per-private, "B/session-beside")
	pauses := gcPauses()
	b.ReportMetric(collect(), "gc-ms")
	verifyTimes(b, m, n)
	path := filepath.Join(b.TempDir(), "snapshot")
	writeTimes(b, m, path)
	b.ReportMetric(longest(pauses, gcPauses())*1000, "gc-pause-ms")
	runtime.KeepAlive(m)
	m = nil
	runtime.GC()
	loadTimes(b, path, n)
}

// verifyTimes reports what a verify by token costs: the hash, the lookup, both
// together beside one look at the clock, which each verify waits for, and that.
func verifyTimes(b *testing.B, m *projection.Map, n int) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	b.ReportMetric(misses(b, m), "miss-ns")
	b.ReportMetric(twoReads(n), "two-reads-ns")
	const rounds = 1_000_000
	tokens := make([]events.Token, rounds)
	for i := range tokens {
		tokens[i] = tokenOf(rand.IntN(n))
	}
	var last int64
	clock := perRound(rounds, func(int) { last = max(last, time.Now().UnixMilli()) })
	hash := perRound(rounds, func(i int) {
		key, _ := tokens[i].Key()
		last = max(last, time.Now().UnixMilli()+int64(key[5]))
	})
	allocs := mallocs()
	both := perRound(rounds, func(i int) {
		key, _ := tokens[i].Key()
		if _, v, _ := m.LookupToken(key, min(base, time.Now().UnixMilli())); v != active {
			b.Fatal(key, v)
		}
	})
	if made := mallocs() - allocs; made > rounds/100 {
		b.Errorf("%d lookups made %d allocations", rounds, made)
	}
	b.ReportMetric(both-clock, "verify-ns")
	b.ReportMetric(hash-clock, "hash-ns")
	b.ReportMetric(clock, "clock-ns")
	runtime.KeepAlive(last)
}

// perRound returns how long a round takes: in the quickest tenth of them, as others
// use the machine too.
func perRound(rounds int, do func(i int)) float64 {
	least := time.Duration(1<<63 - 1)
	for tenth := range 10 {
		start := threadTime()
		for i := tenth * rounds / 10; i < (tenth+1)*rounds/10; i++ {
			do(i)
		}
		least = min(least, threadTime()-start)
	}
	return float64(least) * 10 / float64(rounds)
}

func mallocs() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.Mallocs
}

// writeTimes writes a snapshot while events are applied, and reports how long it
// took and how long the one applier waited at most.
func writeTimes(b *testing.B, m *projection.Map, path string) {
	_, seq := m.Position(home)
	var stop atomic.Bool
	waited := make(chan time.Duration)
	go func() {
		most := time.Duration(0)
		for i := uint64(1); !stop.Load(); i++ {
			e := &events.Beat{N: i}
			start := time.Now()
			m.Apply(events.Record{Stream: home, Seq: seq + i, Time: time.UnixMilli(base), Subject: e.Subject(region), Event: e})
			most = max(most, time.Since(start))
			time.Sleep(100 * time.Microsecond)
		}
		waited <- most
	}()
	f, err := os.Create(path)
	if err != nil {
		b.Fatal(err)
	}
	h := projection.SnapshotHeader{Cluster: "c1", Streams: []projection.SnapshotStream{{Number: home, Region: region}}}
	w := bufio.NewWriterSize(f, 1<<20)
	start, cpu := time.Now(), processTime()
	if err := m.WriteSnapshot(w, snapKey, h, nil); err != nil {
		b.Fatal(err)
	}
	if err := w.Flush(); err != nil {
		b.Fatal(err)
	}
	took := time.Since(start)
	b.ReportMetric((processTime() - cpu).Seconds(), "snap-write-cpu-s")
	stop.Store(true)
	b.ReportMetric(float64((<-waited).Microseconds())/1000, "applier-wait-ms")
	size, _ := f.Seek(0, io.SeekEnd)
	b.ReportMetric(took.Seconds(), "snap-write-s")
	b.ReportMetric(float64(size), "snap-bytes")
	if err := f.Close(); err != nil {
		b.Fatal(err)
	}
}

// loadTimes reports how long it takes from opening the file to the first answer.
func loadTimes(b *testing.B, path string, n int) {
	key, _ := tokenOf(n - 1).Key()
	start, cpu := time.Now(), processTime()
	f, err := os.Open(path)
	if err != nil {
		b.Fatal(err)
	}
	m, _, err := projection.ReadSnapshot(bufio.NewReaderSize(f, 1<<20), snapKey)
	if err != nil {
		b.Fatal(err)
	}
	if _, v, _ := m.LookupToken(key, base); v != active {
		b.Fatal(v)
	}
	b.ReportMetric(time.Since(start).Seconds(), "snap-load-s")
	b.ReportMetric((processTime() - cpu).Seconds(), "snap-load-cpu-s")
	if got, _ := m.Len(); got != n {
		b.Fatalf("%d sessions of %d", got, n)
	}
	b.ReportMetric(float64(m.Bytes())/float64(n)-private, "B/session-loaded-beside")
	_ = f.Close()
	runtime.KeepAlive(m)
}

// gcPauses returns how often the collector stopped the world, by how long.
func gcPauses() *metrics.Float64Histogram {
	s := []metrics.Sample{{Name: "/sched/pauses/total/gc:seconds"}}
	metrics.Read(s)
	return s[0].Value.Float64Histogram()
}

// longest returns an upper bound of the longest pause between two looks.
func longest(before, after *metrics.Float64Histogram) float64 {
	for i := len(after.Counts) - 1; i >= 0; i-- {
		if after.Counts[i] > before.Counts[i] {
			return after.Buckets[i+1]
		}
	}
	return 0
}
