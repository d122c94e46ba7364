package projection

import (
	"sync/atomic"

	"github.com/revocast/revocast/events"
)

// sameUser reports whether both have a state, of one user.
func (r *record) sameUser(o *record) bool {
	return r != nil && r.known && o != nil && o.known && r.App == o.App && r.User == o.User
}

// relink makes the user's sessions those that have a state, where old becomes
// next. The caller has the shard; next is in no slot yet.
func (p *packed) relink(was, is *record, old, next ref) {
	if was.sameUser(is) {
		p.replace(old, next)
		return
	}
	if was != nil && was.known {
		p.unlink(old)
	}
	if is != nil && is.known {
		p.link(is, next)
	}
}

// usersOf returns the lock of the block's user.
func (p *packed) usersOf(b block) *packedUsers { return &p.users[b.userShard()] }

// link puts the new block before the user's others.
func (p *packed) link(is *record, r ref) {
	b := p.arena.block(r)
	u := p.usersOf(b)
	u.mu.Lock()
	defer u.mu.Unlock()
	h := b.user()
	slot := u.first.slot(h, func(first ref) bool {
		app, user := p.ident(first)
		return app == is.App && user == is.User
	})
	if slot == nil {
		u.first.insert(h, r)
		return
	}
	first := named(slot)
	b.setNext(first)
	p.arena.block(first).setBefore(r)
	h.set(slot, r)
}

func (p *packed) ident(r ref) (app, user string) {
	var rec record
	p.arena.block(r).record(&rec, &p.names)
	return rec.App, rec.User
}

// firstSlot returns the slot that names r, the first of its user's. The caller
// has u.
func (u *packedUsers) firstSlot(h place, r ref) *atomic.Uint64 {
	return u.first.slot(h, func(first ref) bool { return first == r })
}

// unlink takes the block out.
func (p *packed) unlink(r ref) {
	b := p.arena.block(r)
	u := p.usersOf(b)
	u.mu.Lock()
	defer u.mu.Unlock()
	h, before, next := b.user(), b.before(), b.next()
	if next != 0 {
		p.arena.block(next).setBefore(before)
	}
	switch {
	case before != 0:
		p.arena.block(before).setNext(next)
	case next != 0:
		h.set(u.firstSlot(h, r), next)
	default:
		u.first.remove(u.firstSlot(h, r))
	}
}

// replace puts the block next in the place of old, which is of the same user.
func (p *packed) replace(old, next ref) {
	b, n := p.arena.block(old), p.arena.block(next)
	u := p.usersOf(b)
	u.mu.Lock()
	defer u.mu.Unlock()
	*n.word(atNext), *n.word(atBefore) = *b.word(atNext), *b.word(atBefore)
	if after := b.next(); after != 0 {
		p.arena.block(after).setBefore(next)
	}
	if before := b.before(); before != 0 {
		p.arena.block(before).setNext(next)
		return
	}
	h := b.user()
	h.set(u.firstSlot(h, old), next)
}

func (p *packed) of(k userKey) (out []events.SID) {
	h := userSlot(k.hash)
	u := &p.users[h.shard]
	u.mu.Lock()
	defer u.mu.Unlock()
	slot := u.first.slot(h, func(first ref) bool {
		app, user := p.ident(first)
		return app == k.app && events.UserHash(app, user) == k.hash
	})
	if slot == nil {
		return nil
	}
	for r := named(slot); r != 0; {
		b := p.arena.block(r)
		out = append(out, b.key().sid())
		r = b.next()
	}
	return out
}
