package node

import (
	"slices"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/projection"
)

// sessionFold is a region's stream as a fold.
type sessionFold struct {
	*Node
	number uint8
}

func (f sessionFold) ApplyAll(rs []events.Record, effects []projection.Effect) {
	if !f.keeps(f.number) {
		for i := range rs {
			if rs[i].Subject.Kind == events.KindState {
				rs[i].Sealed = rs[i].Sealed.Head()
			}
		}
	}
	f.sessions().ApplyAll(rs, effects, appliers(), inParallel)
}

func (f sessionFold) Adopt(gen uint32)           { f.sessions().Adopt(f.number, gen) }
func (f sessionFold) Reread()                    { f.sessions().Reread(f.number) }
func (f sessionFold) Position() (uint32, uint64) { return f.sessions().Position(f.number) }
func (f sessionFold) Digest(now int64) string    { return f.sessions().Digest(f.number, now) }

func (f sessionFold) Rewind() {
	f.keepStatuses(f.number)
	f.sessions().Rewind(f.number)
}

func (f sessionFold) Repair(s events.Subject, seq uint64, now int64) (projection.Repair, bool) {
	return f.sessions().Repair(s, seq, now)
}

func (f sessionFold) Lost(now int64) []projection.Repair {
	return slices.Collect(f.sessions().Lost(f.number, now))
}

// Expect demands of an "all" that it replaces the one it was computed from, for
// the newest alone is the whole truth. Revocations of sessions add up in any
// order.
func (f sessionFold) Expect(e events.Event) events.Expectation {
	if all, ok := e.(*events.RevokeAll); ok {
		return events.Expect(all.Prev)
	}
	return events.Expectation{}
}

// settingsFold is the stream CONFIG as a fold.
type settingsFold struct{ *Node }

func (f settingsFold) ApplyAll(rs []events.Record, effects []projection.Effect) {
	for i := range rs {
		effects[i] = f.apply(rs[i])
	}
}

func (f settingsFold) apply(r events.Record) projection.Effect {
	f.noteLife(r)
	effect := f.catalog.Apply(r)
	switch e := r.Event.(type) {
	case *events.SigningKey:
		f.reload(e.App)
	case *events.Region:
		select {
		case f.met <- struct{}{}:
		default:
		}
	}
	return effect
}

func (f settingsFold) Rewind()                    { f.catalog.Rewind() }
func (f settingsFold) Adopt(gen uint32)           { f.catalog.Adopt(gen) }
func (f settingsFold) Reread()                    { f.catalog.Reread() }
func (f settingsFold) Position() (uint32, uint64) { return f.catalog.Position() }
func (f settingsFold) Digest(int64) string        { return "" }

func (f settingsFold) Repair(s events.Subject, seq uint64, _ int64) (projection.Repair, bool) {
	return f.catalog.Repair(s, seq)
}

func (f settingsFold) Lost(int64) []projection.Repair { return slices.Collect(f.catalog.Lost()) }

// Expect demands that nothing newer stands there than is applied.
func (f settingsFold) Expect(e events.Event) events.Expectation {
	return events.Expect(f.catalog.Snapshot().Last(e))
}
