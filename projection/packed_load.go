package projection

import "github.com/revocast/revocast/events"

// filler puts records that are new into pages of its own, so that several fill a
// store at once and meet only where two records have the same shard or user.
// Nobody else has the store meanwhile.
type filler struct {
	p *packed
	// among is how many fillers there are. They take smaller pages the more
	// there are, as each leaves one half full.
	among int

	page uint32
	all  []uint64 // the page
	fill uint32   // words used of it

	sessions, tombstones int64
}

// add holds a record that is new, and reports whether it was.
func (f *filler) add(r *record) bool {
	p := f.p
	k := keyOf(r.SID)
	h := k.place()
	var user place
	if r.known {
		user = userSlot(events.UserHash(r.App, r.User))
	}
	s := p.names.shape(r)
	at, words := f.alloc(s.size)
	s.fill(words, user)
	if !p.shards[h.shard].addNew(p, h, k, at) {
		return false
	}
	if !r.known {
		f.tombstones++
		return true
	}
	f.sessions++
	p.link(r, at)
	return true
}

func (sh *packedShard) addNew(p *packed, h place, k key, at ref) bool {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if p.held(&sh.records, h, k) != nil {
		return false
	}
	sh.records.insert(h, at)
	return true
}

// alloc returns n zero words of a page.
func (f *filler) alloc(n int) (ref, []uint64) {
	if n > len(f.all)-int(f.fill) {
		f.done()
		if !f.open(n) {
			return f.p.arena.alloc(n)
		}
	}
	r := ref(f.page)<<pageBits | ref(f.fill)
	f.fill += uint32(n)
	return r, f.all[int(f.fill)-n : f.fill]
}

// open takes a new page, unless n words are more than a page has.
func (f *filler) open(n int) bool {
	a := &f.p.arena
	a.mu.Lock()
	defer a.mu.Unlock()
	size := a.next(f.among)
	if n > size {
		return false
	}
	f.page = a.add(size)
	f.all = a.whole(f.page)
	return true
}

// done counts what the filler put into its page. What is free of it is filled on
// by those who come later, if they have none.
func (f *filler) done() {
	if f.page == 0 {
		return
	}
	a := &f.p.arena
	collapse(f.all)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.pages[f.page].fill, a.pages[f.page].live = f.fill, f.fill
	a.live += int(f.fill)
	if a.open == 0 {
		a.open = f.page
	}
	f.page, f.all, f.fill = 0, nil, 0
}
