package node

import (
	"cmp"
	"context"
	"errors"
	"time"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node/api"
)

// feedWait is where a reader goes on in a stream once that can be read again. None of
// its entries is taken from the ring until then: they are in the log.
type feedWait struct {
	at events.Position
	// since is from when on (Clock.Boot) a heartbeat of this node must have been sent, and
	// have come back, for it to be known whether the log has the position.
	since time.Duration
	// asked: this node did not know of its generation then, but was about to hear of it.
	asked bool
}

// mayWait reports whether the reader does without the region's stream for a while.
func (r *feedReader) mayWait(region string) bool {
	return r.f.streams == nil && region != r.n.home.region
}

// wait has the reader do without the stream of the position, and go on there later.
func (r *feedReader) wait(p events.Position) {
	r.waits[p.Stream] = &feedWait{at: p, since: r.n.conf.Clock.Boot()}
}

// reach is reachCursor, of a stream that may wait for as long as there is a lease on it.
// Who waits longer, or reads its log, holds up all else.
func (r *feedReader) reach(ctx context.Context, p events.Position) error {
	may := r.mayWait(p.Stream)
	if s := r.n.streamOf(p.Stream); may && s != nil && s.fenced() != nil {
		r.wait(p)
		return nil
	}
	err := r.n.reachCursor(ctx, p)
	if f, ok := errors.AsType[*failure](err); err == nil || !may || ctx.Err() != nil || ok && f.kind == api.CursorGone {
		return err
	}
	r.wait(p)
	return nil
}

// disown takes back what was said of streams that the reader has had to leave since: what
// the log holds of them was not given.
func (r *feedReader) disown(all []api.FeedStream) {
	for i, s := range all {
		if r.waits[s.Region] != nil {
			all[i] = api.FeedStream{Region: s.Region, Stream: s.Stream, Stale: cmp.Or(s.Stale, reasonStarting)}
		}
	}
}

// unreadable reports whether the error is one of the log of a stream, and not of the
// reader.
func unreadable(err error) bool {
	return err != nil && !errors.Is(err, errFeedSlow) && !errors.Is(err, errFeedRewound) && !errors.Is(err, errFeedEnded)
}

// goOn takes the place, which is where the stream is now, back to the position. The lock
// of the feed is held.
func (r *feedReader) goOn(s *stream, place *feedPlace, p events.Position) error {
	switch {
	case p.Gen != place.gen:
		return r.n.cursorGone("the log of stream %s is another one than that of the cursor", s.region)
	case !r.f.patient && p.Seq+maxCatchUp < place.seq:
		return r.n.cursorGone("the cursor is %d entries behind stream %s", place.seq-p.Seq, s.region)
	case p.Seq < place.seq:
		place.seq, place.since = p.Seq, p.Seq
	}
	return nil
}

// join takes up the streams that are fed since the reader began, of which it may hear
// nothing for a long time, and those that wait and can be read by now; then there is more
// to read. It does nothing while there is something to read.
func (r *feedReader) join() (more bool, err error) {
	if r.f.streams != nil {
		return false, nil
	}
	all := r.n.streams()
	r.n.feed.mu.Lock()
	defer r.n.feed.mu.Unlock()
	if r.next != r.n.feed.tail {
		return false, nil
	}
	for _, s := range all {
		if r.at[s] != nil || !s.feeding {
			continue
		}
		place := s.feedPlace()
		if w := r.waits[s.region]; w != nil {
			// The lease first: what was committed before it is applied.
			if s.fenced() != nil || !s.lease.provenSince(w.since) {
				continue
			}
			if w.at.Gen > place.gen && !w.asked {
				w.asked, w.since = true, r.n.conf.Clock.Boot()+cursorWait
				continue
			}
			if w.at.Gen == place.gen && w.at.Seq > place.seq {
				if w.at.Seq > s.begun.Load() {
					return false, r.n.cursorGone("the log of stream %s is another one than that of the cursor", s.region)
				}
				continue // about to count as applied
			}
			if err := r.goOn(s, place, w.at); err != nil {
				return false, err
			}
			delete(r.waits, s.region)
			more = more || place.seq < place.until
		}
		r.at[s] = place
	}
	return more, nil
}
