package projection

// tidy implements [store]. The caller has Map.fold alone; the locks are for
// those who list sessions meanwhile.
func (p *packed) tidy(slice, words int) {
	for words > 0 {
		page, from, fill := p.arena.sparse()
		if page == 0 {
			break
		}
		words -= p.empty(page, from, fill, words)
	}
	p.arena.rest()
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

// empty moves what lives in the page elsewhere, until about so many words are
// moved. With the last of it the page is given up. It returns as how many words
// moved that counts: what is dead is looked at as well.
func (p *packed) empty(page, from, fill uint32, most int) (words int) {
	place := p.arena.place(page)
	for first := place.Load(); from < fill && words < most && place.Load() == first; {
		r := ref(page)<<pageBits | ref(from)
		b := in(first, r)
		n := b.size()
		if p.move(r, b, n) {
			words += n
		} else {
			words += n/16 + 1
		}
		from += uint32(n)
	}
	p.arena.emptied(page, from)
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
