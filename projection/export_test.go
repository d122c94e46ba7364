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
	for i := range m.slices {
		for r := range m.held().list(i) {
			d.Records[r.SID] = *clone(r)
			for _, a := range r.Aliases {
				if sid, ok := m.alias(a.Key); ok {
					d.Aliases[a.Key] = sid
				}
			}
			u := userKey{r.App, events.UserHash(r.App, r.User)}
			if sids := m.held().of(u); len(sids) > 0 {
				d.Users[u] = slices.SortedFunc(slices.Values(sids), func(a, b events.SID) int { return bytes.Compare(a[:], b[:]) })
			}
		}
		for k, v := range m.slices[i].touched {
			d.Touched[k] = v
		}
		for k := range m.slices[i].pending {
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
