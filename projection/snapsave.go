package projection

import (
	"cmp"
	"fmt"
	"io"
	"iter"
	"maps"
	"slices"

	"github.com/revocast/revocast/events"
)

// WriteSnapshot writes what is held to w, authenticated by the key, while
// streams go on being applied: appliers wait for a 256th of the tables to be
// listed, readers do not wait. So it is no moment's copy. What it is, and why
// reading the log on from it is right all the same, is in DESIGN.md.
//
// The header names each stream of which anything was applied. Then ring is
// called, once for each that has an anchor, and returns what was handed to
// Apply after the anchor, ascending: an entry is listed before it is handed
// over.
//
// It fails if a stream is rewound meanwhile. The caller drops what was written
// unless the error is nil. One goroutine at a time may call it.
func (m *Map) WriteSnapshot(w io.Writer, key []byte, h SnapshotHeader, ring func(stream uint8) []Passed) error {
	return m.writeSnapshot(w, key, h, ring, func(int) {})
}

// writeSnapshot calls between after each step that held the lock.
func (m *Map) writeSnapshot(w io.Writer, key []byte, h SnapshotHeader, ring func(uint8) []Passed, between func(int)) error {
	begun, err := m.beginSnapshot(h.Streams)
	if err != nil {
		return fmt.Errorf("write snapshot: %w", err)
	}
	b := newBlockWriter(w, key)
	b.add(snapHeader, func(e snapEncoder) snapEncoder { return e.header(&h, begun) })
	// Marks first. Every session that they revoked when they were applied is
	// listed later, and so is listed as revoked.
	for i := range m.marks {
		for k, v := range m.copyMarks(i) {
			b.add(snapMarks, func(e snapEncoder) snapEncoder { return e.group(k).mark(v) })
		}
		between(i)
	}
	for i := range m.slices {
		records, touched := m.copySlice(i)
		n := 0
		for r := range records {
			breathe(&n)
			b.add(snapRecords, func(e snapEncoder) snapEncoder { return e.record(r) })
		}
		for sid, seen := range touched {
			b.add(snapTouches, func(e snapEncoder) snapEncoder { return e.sid(sid).int(seen) })
		}
		if b.err != nil {
			break
		}
		between(len(m.marks) + i)
	}
	if err := m.endSnapshot(b, h.Streams, begun, ring); err != nil {
		return fmt.Errorf("write snapshot: %w", err)
	}
	if err := b.close(); err != nil {
		return fmt.Errorf("write snapshot: %w", err)
	}
	return nil
}

// snapPosition is how far a stream was applied when the copy began.
type snapPosition struct {
	gen         uint32
	seq, reread uint64
	logTime     int64
}

// beginSnapshot returns how far each of the streams is applied, and fails
// unless they are all there are.
func (m *Map) beginSnapshot(streams []SnapshotStream) (map[uint8]snapPosition, error) {
	at := make(map[uint8]snapPosition, len(streams))
	for _, s := range streams {
		if _, twice := at[s.Number]; twice {
			return nil, fmt.Errorf("stream %d is named twice", s.Number)
		}
		p := m.streams[s.Number].snapPosition()
		switch name := m.streams[s.Number].name(); {
		case s.Anchor.Seq > p.seq:
			return nil, fmt.Errorf("stream %d is applied up to %d, below its anchor %d", s.Number, p.seq, s.Anchor.Seq)
		case name != "" && name != s.Region:
			return nil, fmt.Errorf("stream %d is named %q, not %q", s.Number, name, s.Region)
		}
		at[s.Number] = p
	}
	for i := range m.streams {
		if _, named := at[uint8(i)]; !named && m.streams[i].snapPosition() != (snapPosition{}) {
			return nil, fmt.Errorf("stream %d was applied and is not named", i)
		}
	}
	return at, nil
}

func (s *stream) snapPosition() snapPosition {
	s.mu.Lock()
	defer s.mu.Unlock()
	return snapPosition{gen: s.gen, seq: s.seq, reread: s.reread, logTime: s.logTime.Load()}
}

// name returns the region that was learnt from records, empty before.
func (s *stream) name() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.region
}

// endSnapshot writes how far each stream can have been applied when the copy
// ended, and the ring up to there.
func (m *Map) endSnapshot(b *blockWriter, streams []SnapshotStream, begun map[uint8]snapPosition, ring func(uint8) []Passed) error {
	for _, s := range streams {
		high, err := m.highest(s.Number, begun[s.Number])
		if err != nil {
			return err
		}
		var passed []Passed
		if s.Anchor.Seq != 0 && high > s.Anchor.Seq {
			passed = slices.DeleteFunc(slices.Clone(ring(s.Number)), func(p Passed) bool {
				return p.Seq <= s.Anchor.Seq || p.Seq > high
			})
			ascending := slices.IsSortedFunc(passed, func(a, b Passed) int { return cmp.Compare(a.Seq, b.Seq) })
			if len(passed) == 0 || passed[len(passed)-1].Seq != high || !ascending {
				return fmt.Errorf("what was applied of stream %d from %d to %d is not all known", s.Number, s.Anchor.Seq, high)
			}
		}
		if high == 0 {
			continue
		}
		if len(passed) == 0 {
			passed = []Passed{{Seq: high}}
			if s.Anchor.Seq == high {
				passed[0] = s.Anchor
			}
		}
		for _, p := range passed {
			b.add(snapRing, func(e snapEncoder) snapEncoder { return e.byte(s.Number).passed(p) })
		}
	}
	return nil
}

// highest returns the highest sequence of which anything can be in the copy.
// Appliers are outside of their changes then: what begins later is in no copy.
func (m *Map) highest(stream uint8, at snapPosition) (uint64, error) {
	m.fold.Lock()
	defer m.fold.Unlock()
	st := &m.streams[stream]
	if now := st.snapPosition(); now.gen != at.gen {
		return 0, fmt.Errorf("stream %d went backwards meanwhile", stream)
	}
	return max(st.begun.Load(), at.seq), nil
}

// copyMarks returns the marks of a slice as they are now.
func (m *Map) copyMarks(slice int) map[groupKey]*mark {
	m.fold.Lock()
	defer m.fold.Unlock()
	out := make(map[groupKey]*mark, len(m.marks[slice]))
	for key, k := range m.marks[slice] {
		c := *k
		c.kept = slices.Clone(k.kept) // those never change themselves
		out[key] = &c
	}
	return out
}

// copySlice returns the records of a slice and the touches that wait in it. It
// keeps appliers out: a touch is taken before the state it
// waited for can be seen, and must be in the one or in the other.
func (m *Map) copySlice(i int) (iter.Seq[*record], map[events.SID]int64) {
	m.fold.Lock()
	defer m.fold.Unlock()
	s := &m.slices[i]
	s.mu.Lock()
	defer s.mu.Unlock()
	return m.held().list(i), maps.Clone(s.touched)
}

func (e snapEncoder) header(h *SnapshotHeader, at map[uint8]snapPosition) snapEncoder {
	e = e.text(h.Cluster).text(h.Node).int(h.Created).uint(uint64(h.SettingsGen)).uint(uint64(len(h.Streams)))
	for _, s := range h.Streams {
		p := at[s.Number]
		e = e.byte(s.Number).text(s.Region).text(s.Epoch).passed(s.Anchor)
		e = e.uint(uint64(p.gen)).uint(p.seq).uint(p.reread).int(p.logTime)
	}
	return e
}
