package projection_test

import (
	"encoding/base64"
	"encoding/binary"
	"flag"
	"fmt"
	"math/rand/v2"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"testing"
	"time"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/projection"
)

var (
	memorySessions = flag.Int("sessions", 1_000_000, "sessions of BenchmarkMemory")
	memoryModel    = flag.Bool("model", true, "BenchmarkMemory measures the plain maps too")
)

// private is a sealed private part of 225 bytes.
const private = 225 + 48

// BenchmarkMemory measures what sessions cost: bytes, applying, looking up by
// token, a cycle of the garbage collector, and what is given back when nine of
// ten are over. It does so once; run it with -benchtime 1x. Times are those of the
// thread's CPU, as far as the system tells.
func BenchmarkMemory(b *testing.B) {
	b.Run("packed", func(b *testing.B) { memory(b, new(projection.Map)) })
	if *memoryModel {
		b.Run("maps", func(b *testing.B) { memory(b, projection.NewModel()) })
	}
}

// tokenOf is a token of the home stream, by its number.
func tokenOf(i int) events.Token {
	raw := [33]byte{home}
	binary.BigEndian.PutUint64(raw[1:], uint64(i))
	return events.Token(base64.RawURLEncoding.EncodeToString(raw[:]))
}

// resident is what the Go heap has in use after a collection.
func resident() float64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapInuse)
}

// memoryRecord is the creation of one session. Nine of ten end after an hour.
func memoryRecord(i int) events.Record {
	key, _ := tokenOf(i).Key()
	e := &events.State{
		App: "shop", User: fmt.Sprintf("%08x-0000-4000-8000-%012x", uint32(i*2/3)*2654435761, i*2/3), SID: key,
		Reason: events.ReasonCreated, CreatedAt: base, SeenAt: base, ExpiresAt: base + hour, AbsoluteAt: base + 24*hour,
		Idle: 1800, AuthSeq: uint64(i), By: "key_0123456789",
	}
	if i%10 == 0 {
		e.ExpiresAt = base + 12*hour
	}
	sealed := make([]byte, private)
	binary.BigEndian.PutUint64(sealed[8:], uint64(i))
	return events.Record{
		Stream: home, Seq: uint64(i + 1), Time: time.UnixMilli(base),
		Subject: e.Subject(region), Event: e, Sealed: sealed,
	}
}

func memory(b *testing.B, m *projection.Map) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	n := *memorySessions
	for b.Loop() {
		before := resident()
		b.ReportMetric(float64(n)/loadSessions(m, n).Seconds(), "applied/s")
		per := (resident() - before) / float64(n)
		b.ReportMetric(per, "B/session")
		b.ReportMetric(per-private, "B/session-beside")
		b.ReportMetric(collect(), "gc-ms")
		b.ReportMetric(lookups(b, m, n), "lookup-ns")
		b.ReportMetric(twoReads(n), "two-reads-ns")
		b.ReportMetric(misses(b, m), "miss-ns")
		b.ReportMetric(touches(m, n), "touch-ns")
		rounds := endMost(b, m, n)
		left := (resident() - before) / float64(n/10)
		b.ReportMetric(left, "B/session-after")
		b.ReportMetric(float64(rounds), "sweeps")
	}
	runtime.KeepAlive(m)
}

// loadSessions applies n creations and returns how long that took, without
// making them.
func loadSessions(m *projection.Map, n int) (took time.Duration) {
	recs := make([]events.Record, 0, 10_000)
	for i := 0; i < n; {
		recs = recs[:0]
		for ; len(recs) < cap(recs) && i < n; i++ {
			recs = append(recs, memoryRecord(i))
		}
		start := threadTime()
		for k := range recs {
			m.Apply(recs[k])
		}
		took += threadTime() - start
	}
	return took
}

// lookups returns how long one takes by a random token, with hashing it and a
// look at the clock. Each waits for the one before, as reading the clock does.
func lookups(b *testing.B, m *projection.Map, n int) float64 {
	const rounds = 1_000_000
	tokens := make([]events.Token, rounds)
	for i := range tokens {
		tokens[i] = tokenOf(rand.IntN(n))
	}
	return perRound(rounds, func(i int) {
		key, _ := tokens[i].Key()
		if _, v, _ := m.LookupToken(key, min(base, time.Now().UnixMilli())); v != active {
			b.Fatal(key, v)
		}
	})
}

// twoReads returns how long it takes to read one random word, and then another
// that the first names, where memory is as large as that of n sessions: no lookup
// that begins with a token takes less.
func twoReads(n int) float64 {
	const rounds = 1_000_000
	words := make([]uint64, n*450/8)
	for i := range words {
		words[i] = rand.Uint64()
	}
	size := uint64(len(words))
	at := uint64(0)
	took := perRound(rounds, func(i int) {
		at = words[words[(at+uint64(i)*0x9E3779B97F4A7C15)%size]%size]
	})
	runtime.KeepAlive(at)
	return took
}

func misses(b *testing.B, m *projection.Map) float64 {
	const rounds = 1_000_000
	s := events.SID{0: home}
	return perRound(rounds, func(int) {
		binary.BigEndian.PutUint64(s[1:], rand.Uint64())
		if _, v, _ := m.LookupToken(s, base); v != unknown {
			b.Fatal(v)
		}
	})
}

func touches(m *projection.Map, n int) float64 {
	const rounds = 200_000
	_, seq := m.Position(home)
	recs := make([]events.Record, rounds)
	for i := range recs {
		r := memoryRecord(rand.IntN(n))
		s := r.Event.(*events.State)
		e := &events.Touch{App: s.App, User: s.User, SID: s.SID, At: base + second}
		recs[i] = events.Record{Stream: home, Seq: seq + uint64(i+1), Time: time.UnixMilli(base + second), Subject: e.Subject(region), Event: e}
	}
	start := threadTime()
	for i := range recs {
		m.Apply(recs[i])
	}
	return float64(threadTime()-start) / rounds
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

// endMost lets the time pass in which nine of ten sessions end, and returns how
// many times 256 sweeps it took until nothing more came back.
func endMost(b *testing.B, m *projection.Map, n int) int {
	_, seq := m.Position(home)
	e := &events.Beat{N: 1}
	later := base + 2*hour
	m.Apply(events.Record{Stream: home, Seq: seq + 1, Time: time.UnixMilli(later), Subject: e.Subject(region), Event: e})
	for round, was := 1, 0; ; round++ {
		for i := range 256 {
			m.Sweep(uint8(i), later)
		}
		is := m.Bytes()
		if is == was {
			if got, _ := m.Len(); got != (n+9)/10 {
				b.Fatalf("%d sessions left of %d", got, n)
			}
			debug.FreeOSMemory()
			return round
		}
		was = is
	}
}
