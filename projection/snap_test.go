package projection_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/projection"
)

var update = flag.Bool("update", false, "write the golden files anew")

var snapKey = []byte("0123456789abcdef0123456789abcdef")

// sameDump compares all that two maps hold, an empty list being as good as none.
var sameDump = []gocmp.Option{gocmp.Exporter(func(reflect.Type) bool { return true }), cmpopts.EquateEmpty()}

// passed is the ring's entry of a record.
func passed(r events.Record) projection.Passed {
	sum := sha256.Sum256(fmt.Appendf(nil, "%d/%d", r.Stream, r.Seq))
	return projection.Passed{Seq: r.Seq, Sum: projection.EntrySum(sum[:16])}
}

// tape is a projection that applies records and remembers what it was handed.
type tape struct {
	m      *projection.Map
	past   map[uint8][]projection.Passed
	region map[uint8]string
}

func newTape() *tape {
	return &tape{
		m: new(projection.Map), past: map[uint8][]projection.Passed{},
		region: map[uint8]string{2: "r2", 3: "r3"},
	}
}

func (p *tape) apply(r events.Record) {
	p.past[r.Stream] = append(p.past[r.Stream], passed(r))
	p.m.Apply(r)
}

func (p *tape) ring(stream uint8) []projection.Passed { return p.past[stream] }

// header names the streams of the tape; the anchor of each is its entry at
// the place that pick returns of n.
func (p *tape) header(pick func(n int) int) projection.SnapshotHeader {
	h := projection.SnapshotHeader{Cluster: "c1", Node: "n1", Created: base, SettingsGen: 3}
	for _, stream := range []uint8{2, 3} {
		s := projection.SnapshotStream{Number: stream, Region: p.region[stream], Epoch: fmt.Sprint("e", stream)}
		if past := p.past[stream]; len(past) > 0 {
			s.Anchor = past[pick(len(past))]
		}
		h.Streams = append(h.Streams, s)
	}
	return h
}

func lastOf(n int) int { return n - 1 }

func load(t interface {
	Helper()
	Fatal(...any)
}, file []byte) (*projection.Map, *projection.SnapshotHeader) {
	t.Helper()
	m, h, err := projection.ReadSnapshot(bytes.NewReader(file), snapKey)
	if err != nil {
		t.Fatal(err)
	}
	return m, h
}

// fuzzySnapshot: a snapshot written while the log is applied, loaded, with the
// log read again from any place at or below where it stands, as the log is
// compacted by then, holds what one holds that saw it all.
func fuzzySnapshot(t *rapid.T) {
	w := newWorld(t)
	w.hostile = rapid.Bool().Draw(t, "hostile")
	// An "all" of another home is hidden by the next one of its subject, so
	// with those a compacted log is not the whole.
	w.away = rapid.Bool().Draw(t, "away")
	w.run()
	loaded, next := w.throughSnapshot()
	cut := next
	if !w.away {
		cut = rapid.IntRange(next, len(w.log)).Draw(t, "cut")
		if slices.Contains(w.open, cut) {
			cut++
		}
	}
	again := compacted(w.log, cut)
	if w.away {
		again = nil
		for _, k := range w.log[:cut] {
			again = append(again, k.r)
		}
	}
	for _, r := range again {
		loaded.Apply(r)
	}
	for _, k := range w.log[cut:] {
		loaded.Apply(k.r)
	}
	w.same("from a snapshot", loaded)
}

// throughSnapshot returns what a snapshot, written at a random place of the log
// while that is applied on, is loaded as, and where in the log its end is.
func (w *world) throughSnapshot() (*projection.Map, int) {
	live := newTape()
	next := rapid.IntRange(0, len(w.log)).Draw(w.t, "begin")
	for _, k := range w.log[:next] {
		live.apply(k.r)
	}
	end := rapid.IntRange(next, len(w.log)).Draw(w.t, "end")
	steps := make([]int, end-next) // after which step each record comes
	for i := range steps {
		steps[i] = rapid.IntRange(0, projection.SnapshotSteps-1).Draw(w.t, "step")
	}
	slices.Sort(steps)
	var file bytes.Buffer
	h := live.header(func(n int) int { return rapid.IntRange(0, n-1).Draw(w.t, "anchor") })
	err := live.m.WriteSnapshotBetween(&file, snapKey, h, live.ring, func(step int) {
		for len(steps) > 0 && steps[0] <= step {
			live.apply(w.log[next].r)
			next, steps = next+1, steps[1:]
		}
	})
	if err != nil {
		w.t.Fatal(err)
	}
	loaded, got := load(w.t, file.Bytes())
	for i, s := range got.Streams {
		past := live.past[s.Number]
		from, _ := slices.BinarySearchFunc(past, s.Anchor.Seq+1, func(p projection.Passed, seq uint64) int { return int(p.Seq) - int(seq) })
		if s.High != uint64(len(past)) || s.Anchor != h.Streams[i].Anchor || s.Anchor.Seq > 0 && !slices.Equal(s.Ring, past[from:]) {
			w.t.Fatalf("stream %+v, applied %d", s, len(past))
		}
		if _, seq := loaded.Position(s.Number); seq != s.Seq || s.Seq > s.High {
			w.t.Fatalf("stands at %d, not at %d of %d", seq, s.Seq, s.High)
		}
	}
	return loaded, next
}

func TestFuzzySnapshot(t *testing.T) { rapid.Check(t, fuzzySnapshot) }

func FuzzFuzzySnapshot(f *testing.F) { f.Fuzz(rapid.MakeFuzz(fuzzySnapshot)) }

// What is written at rest is loaded to the last field.
func TestSnapshotHoldsAll(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t)
		w.hostile, w.away = true, true
		w.run()
		live := newTape()
		for _, k := range w.log {
			live.apply(k.r)
		}
		if rapid.Bool().Draw(t, "rewind") {
			live.m.Rewind(2)
			for _, k := range w.log[:rapid.IntRange(0, len(w.log)).Draw(t, "again")] {
				if k.r.Stream == 2 {
					live.m.Apply(k.r)
				}
			}
			if rapid.Bool().Draw(t, "reread") {
				for range live.m.Lost(2, w.now) {
				}
			}
			live.past[2] = nil
		}
		var file bytes.Buffer
		if err := live.m.WriteSnapshot(&file, snapKey, live.header(lastOf), live.ring); err != nil {
			t.Fatal(err)
		}
		loaded, h, err := projection.ReadSnapshot(&file, snapKey)
		if err != nil {
			t.Fatal(err)
		}
		if diff := gocmp.Diff(live.m.Dump(), loaded.Dump(), sameDump...); diff != "" {
			t.Fatal(diff)
		}
		if h.Cluster != "c1" || h.Node != "n1" || h.Created != base || h.SettingsGen != 3 || h.Streams[0].Epoch != "e2" || h.Streams[0].Region != "r2" {
			t.Fatalf("%+v", h)
		}
		a, b := slices.Collect(live.m.Lost(2, w.now)), slices.Collect(loaded.Lost(2, w.now))
		byText := func(x, y projection.Repair) bool { return fmt.Sprint(x.Event) < fmt.Sprint(y.Event) }
		if diff := gocmp.Diff(a, b, cmpopts.SortSlices(byText), cmpopts.EquateEmpty()); diff != "" {
			t.Fatal(diff)
		}
	})
}

// A revocation that a rewound log lost is not lost by a snapshot either.
func TestSnapshotKeepsGenerations(t *testing.T) {
	l := newLog(t)
	a, b, c := state(sid(home, 1), "u"), state(sid(home, 2), "v"), state(sid(home, 3), "w")
	l.add(a)
	l.add(b)
	l.add(c)
	l.add(revoke(a))
	l.add(all("v", 0))
	l.m.Rewind(home)
	l.seq = 0
	l.add(a)
	l.add(b)
	var file bytes.Buffer
	h := projection.SnapshotHeader{Cluster: "c1", Streams: []projection.SnapshotStream{{Number: home, Region: region}}}
	if err := l.m.WriteSnapshot(&file, snapKey, h, nil); err != nil {
		t.Fatal(err)
	}
	l.m, _ = load(t, file.Bytes())
	if gen, seq := l.m.Position(home); gen != 1 || seq != 2 {
		t.Fatalf("generation %d, sequence %d", gen, seq)
	}
	l.verdict(a.SID, revoked)
	l.verdict(b.SID, revoked)
	l.verdict(c.SID, unknown)
	var lost []events.Kind
	for fix := range l.m.Lost(home, l.now) {
		lost = append(lost, fix.Event.Subject(region).Kind)
		l.add(fix.Event)
	}
	slices.Sort(lost)
	if !slices.Equal(lost, []events.Kind{events.KindAll, events.KindRevoke, events.KindRevoke}) {
		t.Fatal(lost)
	}
	for fix := range l.m.Lost(home, l.now) {
		t.Fatalf("lost although appended again: %+v", fix.Event)
	}
}

// small returns a log with something of each kind, and the tape that applied it.
func small(t testing.TB) (*log, *tape) {
	l := newLog(t)
	l.num = 2
	a, b, c := state(sid(2, 1), "u"), state(sid(2, 2), "v"), state(sid(2, 3), "w")
	l.add(a)
	l.add(changed(a, 1, 1, func(e *events.State) {
		e.OriginalUntil, e.By, e.Idle, e.AuthSeq = base+minute, "key", 600, 1
		e.Aliases = []events.Alias{{Key: sid(2, 11), Until: base + hour}, {Key: sid(2, 12)}}
	}))
	l.add(b)
	l.add(c)
	l.add(revoke(b))
	l.add(revoke(state(sid(3, 4), "x")))
	l.add(touch(state(sid(2, 5), "y"), base+second))
	l.add(all("w", 0, sid(2, 6)))
	away := all("u", 0)
	away.Home = 3
	l.add(away)
	l.forge(all("z", 0))
	p := newTape()
	p.region[2] = l.region()
	for _, r := range l.recs {
		p.apply(r)
	}
	p.m.Rewind(2)
	p.past[2] = nil
	for _, r := range l.recs[:7] {
		p.apply(r)
	}
	return l, p
}

func (p *tape) write(t testing.TB, h projection.SnapshotHeader) []byte {
	t.Helper()
	var file bytes.Buffer
	if err := p.m.WriteSnapshot(&file, snapKey, h, p.ring); err != nil {
		t.Fatal(err)
	}
	return file.Bytes()
}

// refused reports whether err is one of the three that say why.
func refused(err error) bool {
	return errors.Is(err, projection.ErrSnapshotDamaged) || errors.Is(err, projection.ErrSnapshotVersion) || errors.Is(err, projection.ErrSnapshotForeign)
}

func TestSnapshotDamaged(t *testing.T) {
	_, p := small(t)
	file := p.write(t, p.header(func(int) int { return 2 }))
	for n := range file {
		m, h, err := projection.ReadSnapshot(bytes.NewReader(file[:n]), snapKey)
		if m != nil || h != nil || !errors.Is(err, projection.ErrSnapshotDamaged) {
			t.Fatalf("cut to %d of %d bytes: %v", n, len(file), err)
		}
	}
	for i := range file {
		for _, flip := range []byte{1, 0x80, 0xff} {
			bad := slices.Clone(file)
			bad[i] ^= flip
			if m, h, err := projection.ReadSnapshot(bytes.NewReader(bad), snapKey); m != nil || h != nil || !refused(err) {
				t.Fatalf("byte %d of %d flipped: %v", i, len(file), err)
			}
		}
	}
	if _, _, err := projection.ReadSnapshot(bytes.NewReader(append(slices.Clone(file), 0)), snapKey); !errors.Is(err, projection.ErrSnapshotDamaged) {
		t.Fatalf("one more byte: %v", err)
	}
	broken := errors.New("broken disk")
	if _, _, err := projection.ReadSnapshot(io.MultiReader(bytes.NewReader(file[:100]), errReader{broken}), snapKey); !errors.Is(err, broken) || refused(err) {
		t.Fatalf("a disk that breaks: %v", err)
	}
}

type errReader struct{ error }

func (e errReader) Read([]byte) (int, error) { return 0, e.error }

func TestSnapshotForeign(t *testing.T) {
	_, p := small(t)
	file := p.write(t, p.header(lastOf))
	other := slices.Clone(snapKey)
	other[0]++
	if _, _, err := projection.ReadSnapshot(bytes.NewReader(file), other); !errors.Is(err, projection.ErrSnapshotForeign) {
		t.Errorf("another key: %v", err)
	}
	if _, _, err := projection.ReadSnapshot(bytes.NewReader(file), other, other); !errors.Is(err, projection.ErrSnapshotForeign) {
		t.Errorf("other keys: %v", err)
	}
	if _, _, err := projection.ReadSnapshot(bytes.NewReader(file)); !errors.Is(err, projection.ErrSnapshotForeign) {
		t.Errorf("no key: %v", err)
	}
	if m, _, err := projection.ReadSnapshot(bytes.NewReader(file), other, snapKey, other); m == nil || err != nil {
		t.Errorf("one of several keys: %v", err)
	}
	newer := slices.Clone(file)
	newer[11]++
	if _, _, err := projection.ReadSnapshot(bytes.NewReader(newer), snapKey); !errors.Is(err, projection.ErrSnapshotVersion) {
		t.Errorf("a newer version: %v", err)
	}
	_, h := load(t, file)
	epochs := map[uint8]string{2: "e2", 3: "e3", 4: "e4"}
	if err := h.Check("c1", epochs); err != nil {
		t.Error(err)
	}
	if err := h.Check("c2", epochs); !errors.Is(err, projection.ErrSnapshotForeign) {
		t.Errorf("another cluster: %v", err)
	}
	epochs[3] = "e9"
	if err := h.Check("c1", epochs); !errors.Is(err, projection.ErrSnapshotForeign) {
		t.Errorf("another epoch: %v", err)
	}
	delete(epochs, 3)
	if err := h.Check("c1", epochs); !errors.Is(err, projection.ErrSnapshotForeign) {
		t.Errorf("an unknown stream: %v", err)
	}
}

// A file that this version once wrote is read by every later one.
func TestSnapshotGolden(t *testing.T) {
	name := filepath.Join("testdata", "snapshot2.golden")
	_, p := small(t)
	if *update {
		if err := os.WriteFile(name, p.write(t, p.header(func(int) int { return 2 })), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	file, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	m, h := load(t, file)
	if diff := gocmp.Diff(p.m.Dump(), m.Dump(), sameDump...); diff != "" {
		t.Error(diff)
	}
	want := p.header(func(int) int { return 2 })
	want.Streams[0].Gen, want.Streams[0].Seq, want.Streams[0].High, want.Streams[0].Ring = 1, 7, 7, p.past[2][3:]
	if diff := gocmp.Diff(want, *h, cmpopts.EquateEmpty()); diff != "" {
		t.Error(diff)
	}
}

func TestSnapshotIsNotWritten(t *testing.T) {
	l, p := small(t)
	anchored := p.header(func(int) int { return 2 })
	none := func(uint8) []projection.Passed { return nil }
	if err := p.m.WriteSnapshot(io.Discard, snapKey, anchored, none); err == nil {
		t.Error("with a hole after the anchor")
	}
	unnamed := anchored
	unnamed.Streams = anchored.Streams[1:]
	if err := p.m.WriteSnapshot(io.Discard, snapKey, unnamed, p.ring); err == nil {
		t.Error("without a stream that was applied")
	}
	twice := anchored
	twice.Streams = slices.Concat(anchored.Streams, anchored.Streams)
	if err := p.m.WriteSnapshot(io.Discard, snapKey, twice, p.ring); err == nil {
		t.Error("with a stream named twice")
	}
	ahead := anchored
	ahead.Streams = slices.Clone(anchored.Streams)
	ahead.Streams[0].Anchor.Seq = 8
	if err := p.m.WriteSnapshot(io.Discard, snapKey, ahead, p.ring); err == nil {
		t.Error("with an anchor that was not applied")
	}
	renamed := anchored
	renamed.Streams = slices.Clone(anchored.Streams)
	renamed.Streams[0].Region = "us"
	if err := p.m.WriteSnapshot(io.Discard, snapKey, renamed, p.ring); err == nil {
		t.Error("with a stream under another name than its records have")
	}
	full := errors.New("disk full")
	if err := p.m.WriteSnapshot(errWriter{full}, snapKey, anchored, p.ring); !errors.Is(err, full) {
		t.Errorf("to a full disk: %v", err)
	}
	err := p.m.WriteSnapshotBetween(io.Discard, snapKey, anchored, p.ring, func(step int) {
		if step == 300 {
			p.m.Rewind(2)
			for _, r := range l.recs {
				p.m.Apply(r)
			}
		}
	})
	if err == nil {
		t.Error("across a rewind")
	}
}

type errWriter struct{ error }

func (e errWriter) Write([]byte) (int, error) { return 0, e.error }

// An "all" that was applied while the snapshot was written, and is read again,
// is no overwrite: nothing is repaired for it.
func TestSnapshotRepairsNothing(t *testing.T) {
	p := newTape()
	l := &log{t: t, m: p.m, num: 2, now: base}
	p.region[2] = l.region()
	p.apply(stamped(l, state(sid(2, 1), "u0")))
	var during []events.Record
	for i := range 20 {
		during = append(during, stamped(l, all(fmt.Sprint("u", i), 0, sid(2, 9))))
	}
	var file bytes.Buffer
	err := p.m.WriteSnapshotBetween(&file, snapKey, p.header(lastOf), p.ring, func(step int) {
		if step == 0 {
			for _, r := range during {
				p.apply(r)
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	m, _ := load(t, file.Bytes())
	for _, r := range during {
		if got := m.Apply(r); got != projection.Applied {
			t.Errorf("%v again: effect %d", r.Subject, got)
		}
	}
	if _, v := m.Lookup(sid(2, 1), base); v != revoked {
		t.Errorf("revoked by the first: %v", v)
	}
	if diff := gocmp.Diff(p.m.Dump(), m.Dump(), sameDump...); diff != "" {
		t.Error(diff)
	}
}

// FuzzReadSnapshot is run with -fuzzminimizetime 1x: as blocks are loaded side by
// side, no two runs cover quite the same, and making inputs smaller takes for ever.
func FuzzReadSnapshot(f *testing.F) {
	_, p := small(f)
	f.Add(p.write(f, p.header(lastOf)))
	f.Fuzz(func(t *testing.T, file []byte) {
		if m, _, err := projection.ReadSnapshot(bytes.NewReader(file), snapKey); err == nil && m.Dump().Sessions[0] < 0 {
			t.Fatal("a negative number of sessions")
		}
	})
}
