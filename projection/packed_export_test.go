package projection

import (
	"bytes"
	"fmt"

	"github.com/revocast/revocast/events"
)

// SmallPages lets a page have so many words at most. It is called first.
func (m *Map) SmallPages(words int) { m.packed.arena.most = words }

// Tidy moves up to so many words.
func (m *Map) Tidy(slice, words int) { m.tidy(slice, words) }

// Held is a record, with all its fields to be seen.
type Held struct {
	Session
	Known, Found, Gone bool
	Rank, From         uint8
	Longest, Until     int64
}

// Put holds the record.
func (m *Map) Put(h Held) {
	m.update(h.SID, "", func(*record) *record { return h.record() })
}

func (h *Held) record() *record {
	return &record{
		Session: h.Session, known: h.Known, found: h.Found, gone: h.Gone,
		rank: rank(h.Rank), from: h.From, longest: h.Longest, until: h.Until,
	}
}

// Get returns the record that is held.
func (m *Map) Get(sid events.SID) Held {
	r := m.get(sid)
	if r == nil {
		return Held{}
	}
	return Held{
		Session: r.Session, Known: r.known, Found: r.found, Gone: r.gone,
		Rank: uint8(r.rank), From: r.from, Longest: r.longest, Until: r.until,
	}
}

// Sound returns what does not fit together in the pages. Nobody changes them
// meanwhile.
func (m *Map) Sound() error {
	p := &m.packed
	live := map[uint32]int{}
	named, states := 0, map[ref]bool{}
	for i := range p.shards {
		for _, x := range []*index{&p.shards[i].records, &p.shards[i].aliases} {
			refs := x.refs()
			if len(refs) != x.live || x.used < x.live {
				return fmt.Errorf("an index counts %d of %d used, and names %d", x.live, x.used, len(refs))
			}
			if t := x.table.Load(); t != nil && x.used*4 > len(t.s)*3 {
				return fmt.Errorf("of %d slots %d are used", len(t.s), x.used)
			}
			for _, r := range refs {
				b := p.arena.block(r)
				k := b.key()
				if slot := x.slot(k.place(), func(held ref) bool { return held == r }); slot == nil || int(k.place().shard) != i {
					return fmt.Errorf("a block is not found by its key")
				}
				live[r.page()] += b.size()
				named += b.size()
				if b.flags()&hasState != 0 {
					states[r] = true
				}
			}
		}
	}
	if err := p.soundUsers(states); err != nil {
		return err
	}
	return p.arena.sound(live, named)
}

// refs returns what is named, in no order.
func (x *index) refs() (out []ref) {
	t := x.table.Load()
	if t == nil {
		return nil
	}
	for i := range t.s {
		if e := t.s[i].Load(); e != 0 && e != deleted {
			out = append(out, ref(e&refMask))
		}
	}
	return out
}

// soundUsers checks that the lists of users hold each state once.
func (p *packed) soundUsers(states map[ref]bool) error {
	for i := range p.users {
		for _, first := range p.users[i].first.refs() {
			app, user := p.ident(first)
			want := userSlot(events.UserHash(app, user))
			before := ref(0)
			for r := first; r != 0; r = p.arena.block(r).next() {
				b := p.arena.block(r)
				if !states[r] {
					return fmt.Errorf("a user has what has no state, or twice the same")
				}
				delete(states, r)
				if a, u := p.ident(r); a != app || u != user || b.before() != before || b.user() != want || int(want.shard) != i {
					return fmt.Errorf("the list of %q is broken", user)
				}
				before = r
			}
		}
	}
	if len(states) > 0 {
		return fmt.Errorf("%d states are in no list", len(states))
	}
	return nil
}

// sound checks the counts of pages against what is live in each.
func (a *arena) sound(live map[uint32]int, named int) error {
	words := 0
	for id := range a.pages {
		info := a.pages[id]
		words += int(info.size)
		if int(info.live) != live[uint32(id)] {
			return fmt.Errorf("page %d counts %d words live of %d", id, info.live, live[uint32(id)])
		}
		if info.live == 0 && info.size != 0 && uint32(id) != a.open {
			return fmt.Errorf("page %d is kept for nothing", id)
		}
	}
	if words != a.words || named != a.live {
		return fmt.Errorf("%d words in pages, %d counted; %d live, %d counted", words, a.words, named, a.live)
	}
	return nil
}

// Windows is how many there are.
const Windows = int(windowBlock) + 1

// StandIn lets the next reader that comes into the window stand still there while
// do runs, and returns whether one did. Only one goroutine reads meanwhile, other
// than do itself.
func StandIn(w int, do func()) (stood func() bool) {
	came := false
	onRead = func(at window) {
		if int(at) != w || came {
			return
		}
		came = true
		do()
	}
	return func() bool {
		onRead = nil
		return came
	}
}

// SamePlace returns a sid of the stream; all of one stream are found in the same
// place.
func SamePlace(stream uint8, n int) events.SID {
	at := key{seeds[0], seeds[1] ^ 1}.sid()
	at[0] = stream
	k := keyOf(at)
	seeds[0] = k[0] // from now on the product is 0
	k[1] = uint64(n)
	return k.sid()
}

// Forget lets nothing be held of the sid.
func (m *Map) Forget(sid events.SID) { m.update(sid, "", func(*record) *record { return nil }) }

// SnapshotOf returns a snapshot that holds the records in their order, whether or
// not a Map could hold them.
func SnapshotOf(key []byte, list []Held) []byte {
	var file bytes.Buffer
	b := newBlockWriter(&file, key)
	b.add(snapHeader, func(e snapEncoder) snapEncoder { return e.header(&SnapshotHeader{}, nil) })
	for _, h := range list {
		b.add(snapRecords, func(e snapEncoder) snapEncoder { return e.record(h.record()) })
	}
	_ = b.close() // a buffer takes it all
	return file.Bytes()
}

// Collapse holds the words in huge pages, where that is known.
func Collapse(words []uint64) { collapse(words) }

// Slot returns the ref that the slot of the sid holds.
func (m *Map) Slot(sid events.SID) uint64 {
	k := keyOf(sid)
	h := k.place()
	return uint64(named(m.packed.held(&m.packed.shards[h.shard].records, h, k)))
}

// PageAt returns the page that has the number of the ref's now, nil for none.
func (m *Map) PageAt(r uint64) *uint64 { return m.packed.arena.place(ref(r).page()).Load() }

// StandInBoth is StandIn for a reader who stands still twice: when he has the ref,
// and when he has the page of it.
func StandInBoth(ref, page func()) (stood func() bool) {
	came, busy := 0, false
	stand := func(do func()) {
		came, busy = came+1, true
		do()
		busy = false
	}
	onRead = func(at window) {
		switch {
		case busy:
		case at == windowSlot && came == 0:
			stand(ref)
		case at == windowPage && came == 1:
			stand(page)
		}
	}
	return func() bool {
		onRead = nil
		return came == 2
	}
}
