package projection

import (
	"bytes"
	"io"
	"slices"

	"github.com/revocast/revocast/events"
)

// WriteSnapshotBetween is WriteSnapshot that calls between after each step.
func (m *Map) WriteSnapshotBetween(w io.Writer, key []byte, h SnapshotHeader, ring func(uint8) []Passed, between func(step int)) error {
	return m.writeSnapshot(w, key, h, ring, between)
}

// SnapshotSteps is how often between is called.
const SnapshotSteps = 256 + 256

// Dump is all that a Map holds, in a form that compares.
type Dump struct {
	Streams  map[uint8]snapPosition
	Records  map[events.SID]record
	Aliases  map[events.SID]events.SID
	Touched  map[events.SID]int64
	Users    map[userKey][]events.SID
	Marks    map[groupKey]mark
	Away     map[groupKey][]uint8
	Pending  map[events.SID]bool
	Sessions [2]int
}

// Dump returns what m holds.
func (m *Map) Dump() Dump {
	d := Dump{
		Streams: map[uint8]snapPosition{},
		Records: map[events.SID]record{}, Aliases: map[events.SID]events.SID{}, Touched: map[events.SID]int64{},
		Users: map[userKey][]events.SID{}, Marks: map[groupKey]mark{}, Away: map[groupKey][]uint8{},
		Pending: map[events.SID]bool{},
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
		for k := range m.shards[i].pending {
			d.Pending[k] = true
		}
		for k, v := range m.marks[i] {
			d.Marks[k] = *v
		}
	}
	for k, v := range m.away {
		d.Away[k] = slices.Sorted(slices.Values(v))
	}
	d.Sessions[0], d.Sessions[1] = m.Len()
	return d
}
