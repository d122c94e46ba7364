package events

import (
	"encoding/binary"
	"hash/maphash"
	"slices"
)

// How many applied entries are remembered: all since the newest own anchor, up
// to ringAnchored, or just the newest when there is no anchor.
const (
	ringAnchored = 64 << 10
	ringBare     = 256
)

// ring remembers the newest applied entries, so that what is delivered again
// can be compared.
type ring struct {
	seed  maphash.Seed
	items []summed // ascending; those before start are forgotten
	start int
	limit int
}

type summed struct{ seq, sum uint64 }

func newRing() ring { return ring{seed: maphash.MakeSeed(), limit: ringBare} }

// sum is a hash of what tells an entry from any other at its sequence: the
// server's time, to the nanosecond, subject and payload. Not of its headers,
// which a hostile writer can make so that two ways to read them differ.
func (r *ring) sum(e *Entry) uint64 {
	var h maphash.Hash
	h.SetSeed(r.seed)
	var b [16]byte
	binary.LittleEndian.PutUint64(b[:], uint64(e.Time.UnixNano()))
	binary.LittleEndian.PutUint64(b[8:], uint64(len(e.Subject)))
	// Writes to a maphash never fail.
	_, _ = h.Write(b[:])
	_, _ = h.WriteString(e.Subject)
	_, _ = h.Write(e.Payload)
	return h.Sum64()
}

// add remembers an entry; at an anchor all older ones are forgotten.
func (r *ring) add(seq, sum uint64, anchor bool) {
	r.items = append(r.items, summed{seq, sum})
	switch {
	case anchor:
		r.start, r.limit = len(r.items)-1, ringAnchored
	case len(r.items)-r.start > r.limit:
		r.start++
	}
	if r.start > 1024 && r.start > len(r.items)/2 {
		r.items = r.items[:copy(r.items, r.items[r.start:])]
		r.start = 0
	}
}

// first returns the oldest sequence remembered.
func (r *ring) first() (uint64, bool) {
	if r.start == len(r.items) {
		return 0, false
	}
	return r.items[r.start].seq, true
}

// find returns the sum of the entry with the sequence.
func (r *ring) find(seq uint64) (uint64, bool) {
	items := r.items[r.start:]
	i, ok := slices.BinarySearchFunc(items, seq, func(a summed, seq uint64) int {
		switch {
		case a.seq < seq:
			return -1
		case a.seq > seq:
			return 1
		}
		return 0
	})
	if !ok {
		return 0, false
	}
	return items[i].sum, true
}
