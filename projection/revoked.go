package projection

import (
	"iter"

	"github.com/revocast/revocast/events"
)

// RevokedOf yields the creation sequences of the revoked sessions that the user of
// the hash has in the stream.
func (m *Map) RevokedOf(stream uint8, app, hash string) iter.Seq[uint64] {
	return func(yield func(uint64) bool) {
		for _, sid := range m.held().of(userKey{app, hash}) {
			if sid.Stream() != stream {
				continue
			}
			if r := m.get(sid); r != nil && r.known && r.revoked() && r.App == app && !yield(r.CreatedSeq) {
				return
			}
		}
	}
}

// AppRevoked is what was revoked of an app as a whole in a stream: each of its
// sessions there that was created below the sequence Below, unless it is one of
// Spared; these may be revoked or not. ByTime is when (unix ms, the log's time) the
// newest revocation was written that goes by the time of creation instead, because it
// was recorded in another stream: 0 for none.
type AppRevoked struct {
	Below  uint64
	Spared []events.SID
	ByTime int64
}

// AppRevoked returns that of the app in the stream.
func (m *Map) AppRevoked(stream uint8, app string) (out AppRevoked) {
	m.fold.RLock()
	defer m.fold.RUnlock()
	key := groupKey{stream: stream, app: app}
	if k := m.marks[key.index()][key]; k != nil {
		for _, k := range append([]*mark{k}, k.kept...) {
			out.Below = max(out.Below, k.seq)
			out.Spared = append(out.Spared, k.except...)
		}
	}
	for _, recorded := range m.away[key] {
		at := groupKey{recorded, stream, app, ""}
		out.ByTime = max(out.ByTime, m.marks[at.index()][at].time)
	}
	return out
}
