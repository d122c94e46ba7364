package projection

import (
	"hash/maphash"
	"iter"
	"sync"
	"sync/atomic"

	"github.com/revocast/revocast/events"
)

// packed is a [store] in words without pointers: an arena of blocks, and indexes
// of slots that name them. The garbage collector has nothing to look at however
// many sessions there are, and readers no lock to take.
//
// A change makes a new block, lets the slots name it, and then releases the old
// one: in this order, or a reader finds a page gone that a slot still names.
// Only the last use is changed in place, because nothing else depends on it.
//
// Locks are taken in the order shard, user, arena. Appliers share Map.fold for
// the length of a record, so who has it alone, as tidy must, meets no block that
// is allocated and not filled.
type packed struct {
	names  names
	arena  arena
	shards [256]packedShard
	users  [256]packedUsers
}

// packedShard holds a 256th of the keys. It is small, as every reader passes by.
type packedShard struct {
	mu      sync.Mutex // for those who change it; readers never take it
	records index
	aliases index
	was     *record // what an update is about; nil before the first
}

// packedUsers holds a 256th of the users: the first session of each. The others
// follow it by links in their blocks.
type packedUsers struct {
	mu    sync.Mutex // guards first and the links
	first index
}

// load fills in the session of the sid and the rest of its record, both zero.
func (p *packed) load(sid events.SID, s *Session, st *standing) bool {
	k := keyOf(sid)
	h := k.place()
	b, ok := p.shards[h.shard].records.find(&p.arena, h, k)
	if ok {
		b.read(s, st, &p.names)
	}
	return ok
}

func (p *packed) get(sid events.SID) *record {
	r, st := new(record), standing{}
	if !p.load(sid, &r.Session, &st) {
		return nil
	}
	r.stand(&st)
	return r
}

func (p *packed) alias(key events.SID) (events.SID, bool) {
	k := keyOf(key)
	h := k.place()
	b, ok := p.shards[h.shard].aliases.find(&p.arena, h, k)
	if !ok {
		return events.SID{}, false
	}
	return b.aliasOf(), true
}

// held returns the slot that names the key's block in the index, nil for none.
// The caller has the shard.
func (p *packed) held(x *index, h place, k key) *atomic.Uint64 {
	return x.slot(h, func(r ref) bool { return p.arena.block(r).key() == k })
}

func (p *packed) update(sid events.SID, userHash string, change func(*record) *record) {
	k := keyOf(sid)
	h := k.place()
	sh := &p.shards[h.shard]
	sh.mu.Lock()
	defer sh.mu.Unlock()
	slot := p.held(&sh.records, h, k)
	var was *record
	var old ref
	if slot != nil {
		if sh.was == nil {
			sh.was = new(record)
		}
		was, old = sh.was, named(slot)
		p.arena.block(old).record(was, &p.names)
		defer func() { *was = record{} }() // else it keeps a page
	}
	is := change(was)
	if is == was {
		return
	}
	var next ref
	if is != nil {
		next = p.write(is, was, old, userHash)
	}
	p.relink(was, is, old, next)
	switch {
	case slot == nil:
		sh.records.insert(h, next)
		return
	case is == nil:
		sh.records.remove(slot)
	default:
		h.set(slot, next)
	}
	p.arena.release(old, p.arena.block(old).size())
}

// write returns a new block of the record. It has the user's hash, if it has a
// state, from the old one where that is of the same user.
func (p *packed) write(is, was *record, old ref, userHash string) ref {
	var user place
	switch {
	case !is.known:
	case was.sameUser(is):
		user.shard = p.arena.block(old).userShard() // the rest comes with the links
	case userHash != "":
		user = userSlot(userHash)
	default:
		user = userSlot(events.UserHash(is.App, is.User))
	}
	s := p.names.shape(is)
	r, words := p.arena.alloc(s.size)
	s.fill(words, user)
	return r
}

func (p *packed) touch(sid events.SID, seen int64) {
	k := keyOf(sid)
	h := k.place()
	sh := &p.shards[h.shard]
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if slot := p.held(&sh.records, h, k); slot != nil {
		if b := p.arena.block(named(slot)); b.flags()&hasState != 0 {
			b.touch(seen)
		}
	}
}

func (p *packed) addAlias(key, sid events.SID) {
	p.claimAlias(key, sid, func(events.SID) bool { return true })
}

// claimAlias makes the key an alias of sid, if it is none or may be taken from
// whose it is.
func (p *packed) claimAlias(key, sid events.SID, may func(holder events.SID) bool) {
	k := keyOf(key)
	h := k.place()
	sh := &p.shards[h.shard]
	sh.mu.Lock()
	defer sh.mu.Unlock()
	slot := p.held(&sh.aliases, h, k)
	if slot != nil {
		if holder := p.arena.block(named(slot)).aliasOf(); holder == sid || !may(holder) {
			return
		}
	}
	r, words := p.arena.alloc(aliasWords)
	to := keyOf(sid)
	copy(words, []uint64{aliasWords | isAlias<<24, k[0], k[1], to[0], to[1]})
	if slot == nil {
		sh.aliases.insert(h, r)
		return
	}
	old := named(slot)
	h.set(slot, r)
	p.arena.release(old, aliasWords)
}

func (p *packed) dropAlias(key, sid events.SID) {
	k := keyOf(key)
	h := k.place()
	sh := &p.shards[h.shard]
	sh.mu.Lock()
	defer sh.mu.Unlock()
	slot := p.held(&sh.aliases, h, k)
	if slot == nil || p.arena.block(named(slot)).aliasOf() != sid {
		return
	}
	old := named(slot)
	sh.aliases.remove(slot)
	p.arena.release(old, aliasWords)
}

func (b block) aliasOf() events.SID { return key{*b.word(3), *b.word(4)}.sid() }

func (p *packed) list(slice int) iter.Seq[*record] {
	return p.those(slice, func(block) bool { return true })
}

// those is list of the blocks that are wanted.
func (p *packed) those(slice int, wanted func(block) bool) iter.Seq[*record] {
	sh := &p.shards[slice]
	sh.mu.Lock()
	blocks := sh.records.blocks(&p.arena)
	sh.mu.Unlock()
	return func(yield func(*record) bool) {
		var r record
		for _, b := range blocks {
			if !wanted(b) {
				continue
			}
			r = record{}
			if b.record(&r, &p.names); !yield(&r) {
				return
			}
		}
	}
}

var userSeed = maphash.MakeSeed()

// userSlot returns where the sessions of the user with the hash are found.
func userSlot(of string) place { return placeOf(maphash.String(userSeed, of)) }

// bytes returns the size of all pages and tables.
func (p *packed) bytes() int {
	n := p.arena.bytes()
	for i := range p.shards {
		n += p.shards[i].records.bytes() + p.shards[i].aliases.bytes() + p.users[i].first.bytes()
	}
	return n
}
