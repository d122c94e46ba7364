package node

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/projection"
)

// overlap proves that the log still holds what the loaded snapshot was made
// from (rule R8). The follow goroutine owns it.
//
// What is absent proves nothing by itself: it may be compacted away. But a log
// that lost its end, and used the sequences again for what has left it since,
// looks just so. A state leaves the log only with its session, or when another
// entry stands on its subject, which is delivered too. So, once all of it was,
// a session whose state was not means that the log lost that.
type overlap struct {
	from     projection.SnapshotStream
	anchored bool
	found    []uint64                // sequences up to High that were delivered again
	excused  map[events.SID]struct{} // on whose subject stands what the fold did not take
	over     bool                    // nothing is left to be proved
}

// start returns the sequence from which the stream is followed.
func (o *overlap) start() uint64 {
	if o == nil {
		return 1
	}
	return o.from.Anchor.Seq
}

// check returns ErrRewound if the entry is not what was applied. The first has
// to be the anchor itself: what begins after it proves nothing. Of what follows
// some may be compacted away, but what is there must have been there.
func (o *overlap) check(e *events.Entry) error {
	if o == nil || o.anchored && e.Seq > o.from.High {
		return nil
	}
	want, ok := o.from.Anchor, true
	if o.anchored && e.Seq != want.Seq {
		var i int
		i, ok = slices.BinarySearchFunc(o.from.Ring, e.Seq, func(p projection.Passed, seq uint64) int { return cmp.Compare(p.Seq, seq) })
		if ok {
			want = o.from.Ring[i]
		}
	}
	if !ok || want.Seq != e.Seq || want.Sum != projection.SumEntry(e) {
		return fmt.Errorf("%w: at sequence %d it holds another event than the snapshot was made from, or no longer its anchor %d",
			events.ErrRewound, e.Seq, o.from.Anchor.Seq)
	}
	o.anchored = true
	o.found = append(o.found, e.Seq)
	return nil
}

// applied notes what the fold made of an entry. Where it did not take a state,
// the one that it holds may have been replaced.
func (o *overlap) applied(r *events.Record, effect projection.Effect) {
	if o == nil || o.over || effect == projection.Applied || r.Subject.Kind != events.KindState {
		return
	}
	sid, err := events.ParseSID(r.Subject.ID)
	switch {
	case err != nil:
	case len(o.excused) >= maxBroken:
		o.end() // a flood of them must not fill the memory
	default:
		if o.excused == nil {
			o.excused = map[events.SID]struct{}{}
		}
		o.excused[sid] = struct{}{}
	}
}

// settle returns ErrRewound if some session of the snapshot is not in the log any
// more, although it is unexpired. It is called when all is applied that can have
// replaced what was absent, with the time of an entry sent since: see gaps.
func (o *overlap) settle(f sessionFold, logged time.Time) error {
	if o == nil || o.over {
		return nil
	}
	defer o.end()
	for sid, seq := range f.sessions().States(f.number, o.from.Anchor.Seq, o.from.High, logged.UnixMilli()) {
		_, found := slices.BinarySearch(o.found, seq)
		if _, excused := o.excused[sid]; !found && !excused {
			return fmt.Errorf("%w: it does not hold any more what session %s of the snapshot was made from, at sequence %d", events.ErrRewound, sid, seq)
		}
	}
	return nil
}

// end forgets what was remembered for settle.
func (o *overlap) end() { o.over, o.found, o.excused = true, nil, nil }
