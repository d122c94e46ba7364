package projection

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"iter"

	"github.com/revocast/revocast/events"
)

// digestVersion names what Digest covers. Digests of different versions say
// nothing about each other.
const digestVersion = "f1-"

// touchLife is how long a touch waits for its session, in ms of the log's time.
// A state that does not know of the touch was computed before it and appended
// after it: seconds, not minutes. Later states carry the use themselves.
const touchLife = int64(10 * 60 * 1000)

// reclaimed returns the time by which things of the stream are forgotten: the
// earlier of the two clocks, so that neither one alone, set ahead, makes a node
// forget what it must still refuse.
func (m *Map) reclaimed(stream uint8, now int64) int64 {
	return min(now, m.streams[stream].logTime.Load())
}

// sweepWords is how many words a sweep moves: about a millisecond's work.
const sweepWords = 8 * tidyWords

// Sweep implements [Projection].
func (m *Map) Sweep(slice uint8, now int64) int {
	m.fold.Lock()
	defer m.fold.Unlock()
	forgotten := 0
	over := m.all(int(slice), func(r *record) bool {
		t := m.reclaimed(r.SID.Stream(), now)
		return r.known && t >= r.longest+slack || !r.known && t >= r.until+slack
	})
	for _, r := range over {
		if r.known {
			m.forgetState(r)
			forgotten++
		}
		if !r.revoked() || m.reclaimed(r.SID.Stream(), now) >= r.until+slack {
			m.update(r.SID, "", func(*record) *record { return nil })
		}
	}
	m.sweepTouches(&m.slices[slice], now)
	m.sweepMarks(slice, now)
	m.held().tidy(int(slice), sweepWords)
	return forgotten
}

// tidy gives memory back. Appliers wait for it, readers do not.
func (m *Map) tidy(slice, words int) {
	m.fold.Lock()
	defer m.fold.Unlock()
	m.held().tidy(slice, words)
}

func (m *Map) sweepTouches(s *slice, now int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for sid, seen := range s.touched {
		if m.reclaimed(sid.Stream(), now) >= seen+touchLife {
			delete(s.touched, sid)
		}
	}
}

func (m *Map) sweepMarks(slice uint8, now int64) {
	for key, k := range m.marks[slice] {
		if m.reclaimed(key.stream, now) >= k.time+year+slack {
			m.forgetMark(key)
		}
	}
}

// Digest implements [Projection]: a sum of hashes, so the order does not
// matter. Only what the stream itself says counts, or two nodes at the same
// position of it would differ by how far they are in another. It is exact for a
// position when called by the goroutine that applies the stream.
func (m *Map) Digest(stream uint8, now int64) string {
	var high, low uint64
	for i := range m.slices {
		for r := range m.held().list(i) {
			if !r.known || r.SID.Stream() != stream || r.ExpiresAt <= now {
				continue
			}
			var b [25]byte
			copy(b[:], r.SID[:])
			binary.BigEndian.PutUint64(b[16:], r.StateSeq)
			if r.found {
				b[24] = 1
			}
			sum := sha256.Sum256(b[:])
			high += binary.BigEndian.Uint64(sum[:])
			low += binary.BigEndian.Uint64(sum[8:])
		}
	}
	var out [16]byte
	binary.BigEndian.PutUint64(out[:], high)
	binary.BigEndian.PutUint64(out[8:], low)
	return digestVersion + hex.EncodeToString(out[:])
}

// States implements [Projection].
func (m *Map) States(stream uint8, after, last uint64, now int64) iter.Seq2[events.SID, uint64] {
	return func(yield func(events.SID, uint64) bool) {
		for i := range m.slices {
			for r := range m.held().list(i) {
				wanted := r.known && r.SID.Stream() == stream && r.StateSeq > after && r.StateSeq <= last && now < r.ExpiresAt
				if wanted && !yield(r.SID, r.StateSeq) {
					return
				}
			}
		}
	}
}
