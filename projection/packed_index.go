package projection

import (
	"math/bits"
	"math/rand/v2"
	"sync/atomic"
)

// A slot of an index: tag<<refBits | ref. 0 is empty, deleted was used. Entries
// stay in their slots; only the ref in them changes.
const (
	tagBits = 64 - refBits
	deleted = refMask // no page has the highest number
)

// place is where a key is found: the shard, and the tag, from which the place in the shard
// follows too. So a table is made larger without a look at what it names.
type place struct {
	shard uint8
	tag   uint64
}

func placeOf(h uint64) place { return place{shard: uint8(h >> 56), tag: h & (1<<tagBits - 1)} }

// seeds keep who may choose keys from choosing them for one place.
var seeds = [2]uint64{rand.Uint64(), rand.Uint64()}

// key is a sid, or a token's key, as two words.
type key [2]uint64

func (k key) place() place {
	high, low := bits.Mul64(k[0]^seeds[0], k[1]^seeds[1])
	return placeOf(high ^ low)
}

// index finds blocks by key. Readers need no lock; those who change it keep each
// other out.
type index struct {
	table atomic.Pointer[slots]
	// used counts slots that are not empty, live those that name something.
	used, live int
}

// slots are a power of two, at most 3/4 of them used.
type slots struct {
	mask uint64
	s    []atomic.Uint64
}

func newSlots(n int) *slots { return &slots{mask: uint64(n - 1), s: make([]atomic.Uint64, n)} }

// window is where a reader stands when onRead is called.
type window int

const (
	windowTable window = iota // has the table
	windowSlot                // has the ref
	windowPage                // has the page
	windowBlock               // has the block
)

// onRead is called by readers in each window, for tests; nil else.
var onRead func(window)

// find returns the block of the key that is in use at some moment between call
// and return. Who changes the index meanwhile is never waited for.
//
// The ref in a slot means a place in a page only as long as the slot says so and
// the table is the index's: after that the page's number may name another page,
// where the words of the ref are being written, or are the middle of a block. So
// both are read again once the page is at hand, and then that the number still
// names it: a number that was used twice may have come back to the slot. If all is
// as before, the page is the one that the ref is of: it had the number when the
// slot was read again. What is in it is then read in peace: it was written before
// the slot was, and a page that is given up lasts as long as somebody has it.
//
// An empty slot needs no second look: an entry never leaves a table that is
// replaced, so who was in at the call is still there to be found.
func (x *index) find(a *arena, h place, k key) (block, bool) {
again:
	t := x.table.Load()
	if t == nil {
		return block{}, false
	}
	if onRead != nil {
		onRead(windowTable)
	}
	for i := h.tag & t.mask; ; i = (i + 1) & t.mask {
		e := t.s[i].Load()
		if e == 0 {
			return block{}, false
		}
		if e>>refBits != h.tag || e == deleted {
			continue
		}
		if onRead != nil {
			onRead(windowSlot)
		}
		r := ref(e & refMask)
		place := a.place(r.page())
		first := place.Load()
		if onRead != nil {
			onRead(windowPage)
		}
		if t.s[i].Load() != e || x.table.Load() != t {
			goto again
		}
		if place.Load() != first {
			goto again
		}
		if b := in(first, r); b.key() == k {
			if onRead != nil {
				onRead(windowBlock)
			}
			return b, true
		}
	}
}

// slot returns the slot that names a block which is wanted, nil for none. The
// caller keeps out whoever would change the index, as in all that follow.
func (x *index) slot(h place, wanted func(ref) bool) *atomic.Uint64 {
	t := x.table.Load()
	if t == nil {
		return nil
	}
	for i := h.tag & t.mask; ; i = (i + 1) & t.mask {
		switch e := t.s[i].Load(); {
		case e == 0:
			return nil
		case e>>refBits == h.tag && e != deleted && wanted(ref(e&refMask)):
			return &t.s[i]
		}
	}
}

func named(s *atomic.Uint64) ref { return ref(s.Load() & refMask) }

// set lets the slot, which belongs to h, name r.
func (h place) set(s *atomic.Uint64, r ref) { s.Store(h.tag<<refBits | uint64(r)) }

// insert adds an entry.
func (x *index) insert(h place, r ref) {
	t := x.table.Load()
	if t == nil || (x.used+1)*4 > len(t.s)*3 {
		t = x.rebuild()
	}
	for i := h.tag & t.mask; ; i = (i + 1) & t.mask {
		switch t.s[i].Load() {
		case 0:
			x.used++
		case deleted:
		default:
			continue
		}
		x.live++
		h.set(&t.s[i], r)
		return
	}
}

// remove empties the slot.
func (x *index) remove(s *atomic.Uint64) {
	s.Store(deleted)
	x.live--
}

// rebuild makes a table that is at most half full. Readers of the old one see
// that it is not the index's any more.
func (x *index) rebuild() *slots {
	n := 8
	for n < (x.live+1)*2 {
		n *= 2
	}
	next := newSlots(n)
	if was := x.table.Load(); was != nil {
		for i := range was.s {
			e := was.s[i].Load()
			if e == 0 || e == deleted {
				continue
			}
			j := e >> refBits & next.mask
			for next.s[j].Load() != 0 {
				j = (j + 1) & next.mask
			}
			next.s[j].Store(e)
		}
	}
	x.used = x.live
	x.table.Store(next)
	return next
}

// shrink gives back a table that is nearly empty.
func (x *index) shrink() {
	if t := x.table.Load(); t == nil || len(t.s) <= 8 || x.live*8 > len(t.s) {
		return
	}
	if x.live == 0 {
		x.table.Store(nil)
		x.used = 0
		return
	}
	x.rebuild()
}

// blocks returns what is named, in no order. Appliers wait for it.
func (x *index) blocks(a *arena) []block {
	t := x.table.Load()
	if t == nil {
		return nil
	}
	out := make([]block, 0, x.live)
	for i := range t.s {
		if e := t.s[i].Load(); e != 0 && e != deleted {
			out = append(out, a.block(ref(e&refMask)))
		}
	}
	return out
}

// bytes returns the size of the table.
func (x *index) bytes() int {
	if t := x.table.Load(); t != nil {
		return len(t.s) * 8
	}
	return 0
}
