package projection

// tidy implements [store]. The caller has Map.fold alone; the locks are for
// those who list sessions meanwhile.
func (p *packed) tidy(slice, words int) {
	for words > 0 {
		page, fill := p.arena.sparse()
		if page == 0 {
			break
		}
		words -= p.empty(page, fill)
	}
	p.arena.due.Store(false) // what was moved has filled pages as well
	sh := &p.shards[slice]
	sh.mu.Lock()
	sh.records.shrink()
	sh.aliases.shrink()
	sh.mu.Unlock()
	u := &p.users[slice]
	u.mu.Lock()
	u.first.shrink()
	u.mu.Unlock()
}

// empty moves all that lives in the page elsewhere, whereupon the page is given
// up. It returns as how many words moved that counts.
func (p *packed) empty(page, fill uint32) int {
	words := int(fill) / 16 // to look at what is dead
	first := p.arena.at(page).Load()
	for at := uint32(0); at < fill; {
		r := ref(page)<<pageBits | ref(at)
		b := in(first, r)
		n := b.size()
		if p.move(r, b, n) {
			words += n
		}
		at += uint32(n)
	}
	return words
}

// move copies the block elsewhere, if a slot names it.
func (p *packed) move(r ref, b block, n int) bool {
	k := b.key()
	h := k.place()
	sh := &p.shards[h.shard]
	sh.mu.Lock()
	defer sh.mu.Unlock()
	x := &sh.records
	if b.flags()&isAlias != 0 {
		x = &sh.aliases
	}
	slot := x.slot(h, func(held ref) bool { return held == r })
	if slot == nil {
		return false
	}
	next, words := p.arena.alloc(n)
	if b.flags()&hasState != 0 {
		p.moveState(r, next, words)
	} else {
		copy(words, b.words())
	}
	h.set(slot, next)
	p.arena.release(r, n)
	return true
}

// moveState copies the block of a record that has a state, with its links.
func (p *packed) moveState(r, next ref, words []uint64) {
	b := p.arena.block(r)
	copy(words[:atNext], b.words())
	copy(words[atBefore+1:], b.words()[atBefore+1:])
	p.replace(r, next)
}
