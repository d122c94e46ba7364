package projection

import (
	"bytes"
	"cmp"
	"io"
	"slices"

	"github.com/revocast/revocast/events"
)

// WriteSnapshotBetween is WriteSnapshot that calls between after each step.
func (m *Map) WriteSnapshotBetween(w io.Writer, key []byte, h SnapshotHeader, ring func(uint8) []Passed, between func(step int)) error {
	return m.writeSnapshot(w, key, h, ring, between)
}

// SnapshotSteps is how often between is called.
const SnapshotSteps = 256 + 1 + 256

// Dump is all that a Map holds, in a form that compares.
type Dump struct {
	Streams  map[uint8]snapPosition
	Records  map[events.SID]record
	Aliases  map[events.SID]events.SID
	Touched  map[events.SID]int64
	Users    map[userKey][]events.SID
	Marks    map[groupKey]mark
	Foreign  map[groupKey][]foreignMark
	Sessions [2]int
}

// Dump returns what m holds.
func (m *Map) Dump() Dump {
	d := Dump{
		Streams: map[uint8]snapPosition{},
		Records: map[events.SID]record{}, Aliases: map[events.SID]events.SID{}, Touched: map[events.SID]int64{},
		Users: map[userKey][]events.SID{}, Marks: map[groupKey]mark{}, Foreign: map[groupKey][]foreignMark{},
	}
	for i := range m.streams {
		if p := m.streams[i].snapPosition(); p != (snapPosition{}) {
			d.Streams[uint8(i)] = p
		}
	}
	for i := range m.shards {
		for k, v := range m.shards[i].records {
			d.Records[k] = *v
		}
		for k, v := range m.shards[i].aliases {
			d.Aliases[k] = v
		}
		for k, v := range m.shards[i].touched {
			d.Touched[k] = v
		}
		for k, v := range m.users[i].sids {
			d.Users[k] = slices.SortedFunc(slices.Values(v), func(a, b events.SID) int { return bytes.Compare(a[:], b[:]) })
		}
		for k, v := range m.marks[i] {
			d.Marks[k] = *v
		}
	}
	for k, v := range m.foreign {
		d.Foreign[k] = slices.SortedFunc(slices.Values(v), func(a, b foreignMark) int { return cmp.Compare(a.recorded, b.recorded) })
	}
	d.Sessions[0], d.Sessions[1] = m.Len()
	return d
}
