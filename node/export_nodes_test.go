package node

import (
	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/projection"
	"slices"
)

// Misfold makes the node lose what drop says of its home stream, given how often
// it was read again. It is called before Run.
func (n *Node) Misfold(drop func(rebuilds int, r events.Record) bool) {
	n.home.fold = &misfold{fold: n.home.fold, drop: drop}
}

type misfold struct {
	fold
	drop     func(int, events.Record) bool
	rebuilds int // the follow goroutine's
}

func (f *misfold) ApplyAll(rs []events.Record, effects []projection.Effect) {
	rs = slices.Clone(rs)
	for i := range rs {
		if f.drop(f.rebuilds, rs[i]) {
			rs[i].Trust = events.Junk
		}
	}
	f.fold.ApplyAll(rs, effects)
}

func (f *misfold) Rewind() {
	f.rebuilds++
	f.fold.Rewind()
}
