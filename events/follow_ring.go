package events

import (
	"cmp"
	"encoding/binary"
	"hash/maphash"
	"slices"
	"time"
)

// How many applied entries are remembered: all since the oldest anchor of use,
// up to ringAnchored, or just the newest when there is no anchor.
const (
	ringAnchored = 512 << 10
	ringBare     = 256
)

// ring remembers the newest applied entries, so that what is delivered again
// can be compared.
type ring struct {
	seed    maphash.Seed
	items   []summed // ascending; those before start are forgotten
	start   int
	anchors anchors // all are in items
}

type summed struct{ seq, sum uint64 }

func newRing() ring { return ring{seed: maphash.MakeSeed()} }

// anchors are own entries, ascending, from which following may begin again. Each
// stays in the log longer than those after it: a heartbeat is near and soon gone,
// a marker further back and there for a day. What one that is gone leaves is no
// proof: the log may have lost its end and used the sequences again.
type anchors []anchor

type anchor struct {
	seq   uint64
	until time.Time // when it leaves the log by its TTL; zero: never
}

func anchorAt(e *Entry) *anchor {
	a := &anchor{seq: e.Seq}
	if e.TTL > 0 {
		a.until = e.Time.Add(e.TTL)
	}
	return a
}

// with returns the anchors with a newer one, which makes those needless that do
// not outlast it.
func (a anchors) with(next anchor) anchors {
	for len(a) > 0 && (next.until.IsZero() || !a[len(a)-1].until.IsZero() && !a[len(a)-1].until.After(next.until)) {
		a = a[:len(a)-1]
	}
	return append(a, next)
}

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

// add remembers an entry, which is an anchor unless that is nil, and forgets what
// is older than any anchor of use.
func (r *ring) add(seq, sum uint64, at *anchor) {
	r.items = append(r.items, summed{seq, sum})
	if at != nil {
		r.anchors = r.anchors.with(*at)
	}
	switch {
	case len(r.anchors) == 0:
		r.start = max(r.start, len(r.items)-ringBare)
	case len(r.items)-r.start > ringAnchored && len(r.anchors) > 1:
		r.anchors = r.anchors[1:]
		fallthrough
	case at != nil && len(r.anchors) == 1:
		r.start, _ = r.index(r.anchors[0].seq)
	case len(r.items)-r.start > ringAnchored:
		r.anchors, r.start = nil, len(r.items)-ringBare
	}
	if r.start > 1024 && r.start > len(r.items)/2 {
		r.items = r.items[:copy(r.items, r.items[r.start:])]
		r.start = 0
	}
}

// index returns where the entry with the sequence stands in items.
func (r *ring) index(seq uint64) (int, bool) {
	i, ok := slices.BinarySearchFunc(r.items[r.start:], seq, func(a summed, seq uint64) int { return cmp.Compare(a.seq, seq) })
	return r.start + i, ok
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
	i, ok := r.index(seq)
	if !ok {
		return 0, false
	}
	return r.items[i].sum, true
}
