package node

import (
	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/projection"
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

func (f *misfold) Apply(r events.Record) projection.Effect {
	if f.drop(f.rebuilds, r) {
		r.Trust = events.Junk
	}
	return f.fold.Apply(r)
}

func (f *misfold) Rewind() {
	f.rebuilds++
	f.fold.Rewind()
}
