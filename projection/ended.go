package projection

import (
	"iter"
	"time"

	"github.com/revocast/revocast/events"
)

// Ended is a session that ran out: when (unix ms), and by which of its times.
type Ended struct {
	SID       events.SID
	App, User string
	CreatedAt int64
	At        int64
	Idle      bool
}

// Settled returns the time (unix ms) by which nobody can still extend or use a
// session of the stream that had ended: the earlier of the wall clock now and the
// log's time, less what the clocks of nodes may be apart.
func (m *Map) Settled(stream uint8, now int64) int64 { return m.reclaimed(stream, now) - skew }

// Ended yields the sessions of the stream in one of 256 slices that ran out after
// the one time and at or before the other (unix ms), and are not revoked. The
// texts are those of the store.
func (m *Map) Ended(slice, stream uint8, after, until int64) iter.Seq[Ended] {
	lease := m.lease()
	within := func(at int64) bool { return at > after && at <= until }
	all := m.packed.those(int(slice), func(b block) bool { return within(b.end(lease)) })
	if m.model != nil {
		all = m.model.list(int(slice))
	}
	return func(yield func(Ended) bool) {
		for r := range all {
			if !r.known || r.revoked() || r.SID.Stream() != stream {
				continue
			}
			idle := r.IdleEnd(lease)
			at := min(r.ExpiresAt, idle)
			if within(at) && !yield(Ended{SID: r.SID, App: r.App, User: r.User, CreatedAt: r.CreatedAt, At: at, Idle: at < r.ExpiresAt}) {
				return
			}
		}
	}
}

// end returns when the session of the block ends, the earlier of its expiry and its
// idle end; 0 for a block without one. It reads as little of the block as tells.
func (b block) end(lease time.Duration) int64 {
	flags := b.flags()
	if flags&hasState == 0 {
		return 0
	}
	s := Session{ExpiresAt: int64(*b.word(atExpires))}
	if flags&hasIdle == 0 {
		return s.ExpiresAt
	}
	at := stateWords
	if flags&hasSeq != 0 {
		at++
	}
	s.SeenAt, s.Idle = b.seen(), int64(*b.word(at))
	return min(s.ExpiresAt, s.IdleEnd(lease))
}
