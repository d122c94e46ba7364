package projection

import (
	"encoding/binary"
	"sync"
	"sync/atomic"
	"unsafe"

	"github.com/revocast/revocast/events"
)

// A block is a record or an alias in words. It begins with
//
//	0     words of the block:24 | flags:16 | number of the app:16 | shard of the user:8
//	1, 2  sid, or the alias's key
//
// then of an alias the sid, and of a record that has a state
//
//	3     last use; changed in place, atomically
//	4     next of the user's sessions:37, rest 0; changed in place under the user's lock
//	5     tag of the user:27 | the one before, 0 if it is the first:37; as 4
//	6     expires
//	7     absolute
//	8     created
//	9     created seq
//	10    number of the API key:16 | bytes of the private part:24 | bytes of the user:24
//
// and of a tombstone
//
//	3     absolute
//	4     bytes of the user
//
// Then come the words that the flags say, in their order, and the bytes of the
// texts in the order of their lengths. Times are unix ms.
type block struct{ first *uint64 }

const (
	atSID     = 1
	atSeen    = 3
	atNext    = 4
	atBefore  = 5
	atExpires = 6

	stateWords = 11
	graveWords = 5
	aliasWords = 5
)

// The flags, and what words they mean.
const (
	hasState   = 1 << iota
	isAlias    // the block is one
	isFound    // none
	isGone     // none
	hasSeq     // state seq, if it is not the created seq
	hasIdle    // idle timeout
	hasAuth    // auth seq
	hasUntil   // original until
	hasAlias1  // key: 2 words, until
	hasAlias2  // the same; 1 as well
	hasLongest // longest, if it is not the expiry
	hasRevoked // revoked at; until; rank:8 | from:8 | bytes of who:24 | bytes of the reason:24
	hasApp     // bytes of the app: it has no number
	hasBy      // bytes of the API key: it has no number
	isBound    // none
)

func (b block) word(i int) *uint64 {
	return (*uint64)(unsafe.Add(unsafe.Pointer(b.first), uintptr(i)*8))
}

func (b block) size() int       { return int(*b.first & (1<<24 - 1)) }
func (b block) flags() uint64   { return *b.first >> 24 & (1<<16 - 1) }
func (b block) words() []uint64 { return unsafe.Slice(b.first, b.size()) }
func (b block) key() key        { return key{*b.word(atSID), *b.word(atSID + 1)} }
func (b block) seen() int64     { return int64(atomic.LoadUint64(b.word(atSeen))) }
func (b block) touch(ms int64)  { atomic.StoreUint64(b.word(atSeen), uint64(ms)) }

// userShard says whose lock guards the links.
func (b block) userShard() uint8 { return uint8(*b.first >> 56) }

// user returns where the user's sessions are found. The caller has his lock.
func (b block) user() place { return place{shard: b.userShard(), tag: *b.word(atBefore) >> refBits} }

func (b block) next() ref   { return ref(*b.word(atNext)) }
func (b block) before() ref { return ref(*b.word(atBefore) & refMask) }

func (b block) setNext(r ref) { *b.word(atNext) = uint64(r) }
func (b block) setBefore(r ref) {
	w := b.word(atBefore)
	*w = *w&^uint64(refMask) | uint64(r)
}

func keyOf(s events.SID) key {
	return key{binary.NativeEndian.Uint64(s[:8]), binary.NativeEndian.Uint64(s[8:])}
}

func (k key) sid() (s events.SID) {
	binary.NativeEndian.PutUint64(s[:8], k[0])
	binary.NativeEndian.PutUint64(s[8:], k[1])
	return s
}

// names numbers texts of which there are few: apps and API keys. It never
// forgets one; when it is full, further ones have no number.
type names struct {
	list atomic.Pointer[[]string] // by number; 0 is none

	mu     sync.RWMutex // guards number and changes of list
	number map[string]uint16
}

const maxNames = 1<<16 - 1

func (n *names) text(number uint16) string { return (*n.list.Load())[number] }

// of returns the number of the text, 0 for none.
func (n *names) of(text string) uint16 {
	n.mu.RLock()
	i, ok := n.number[text]
	n.mu.RUnlock()
	if ok {
		return i
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if i, ok := n.number[text]; ok {
		return i
	}
	list := []string{""}
	if was := n.list.Load(); was != nil {
		list = *was
	}
	if len(list) > maxNames {
		return 0
	}
	if n.number == nil {
		n.number = make(map[string]uint16)
	}
	text = string(append([]byte(nil), text...)) // else a page or a message is kept for it
	n.number[text] = uint16(len(list))
	list = append(list, text) // whoever has the shorter list does not see it
	n.list.Store(&list)
	return n.number[text]
}

// shape is a record on its way into a block.
type shape struct {
	r       *record
	flags   uint64
	app, by uint16
	size    int // words
}

// shape returns how much room the record needs.
func (n *names) shape(r *record) shape {
	s := shape{r: r, app: n.of(r.App), size: graveWords}
	bytes := len(r.User)
	set := func(flag uint64, words int, wanted bool) {
		if wanted {
			s.flags |= flag
			s.size += words
		}
	}
	expires := int64(0)
	if r.known {
		s.flags, s.size, expires = hasState, stateWords, r.ExpiresAt
		bytes += len(r.Sealed)
		s.by = n.of(r.By)
		set(hasSeq, 1, r.StateSeq != r.CreatedSeq)
		set(hasIdle, 1, r.Idle != 0)
		set(hasAuth, 1, r.AuthSeq != 0)
		set(hasUntil, 1, r.OriginalUntil != 0)
		set(hasAlias2, 3, r.Aliases[1] != events.Alias{})
		set(hasAlias1, 3, r.Aliases[0] != events.Alias{} || s.flags&hasAlias2 != 0)
		set(hasBy, 1, s.by == 0)
		set(isBound, 0, r.Bound)
		if s.by == 0 {
			bytes += len(r.By)
		}
	}
	set(isFound, 0, r.found)
	set(isGone, 0, r.gone)
	set(hasLongest, 1, r.longest != expires)
	if r.rank != 0 || r.from != 0 || r.until != 0 || r.RevokedAt != 0 || r.RevokedBy != "" || r.RevokeReason != "" {
		set(hasRevoked, 3, true)
		bytes += len(r.RevokedBy) + len(r.RevokeReason)
	}
	set(hasApp, 1, s.app == 0)
	if s.app == 0 {
		bytes += len(r.App)
	}
	s.size += (bytes + 7) / 8
	return s
}

// writer appends words, and then bytes.
type writer struct {
	w []uint64
	i int
	b []byte
}

func (w *writer) add(words ...uint64) { w.i += copy(w.w[w.i:], words) }

func (w *writer) ints(words ...int64) {
	for _, n := range words {
		w.w[w.i] = uint64(n)
		w.i++
	}
}

func (w *writer) text(s string) { w.b = w.b[copy(w.b, s):] }

// fill writes the record into w, which is as large as the shape says and zero.
func (s *shape) fill(into []uint64, user place) {
	r, w := s.r, writer{w: into}
	k := keyOf(r.SID)
	w.add(uint64(s.size)|s.flags<<24|uint64(s.app)<<40|uint64(user.shard)<<56, k[0], k[1])
	if r.known {
		w.ints(r.SeenAt, 0, int64(user.tag<<refBits), r.ExpiresAt, r.AbsoluteAt, r.CreatedAt)
		w.add(r.CreatedSeq, uint64(s.by)<<48|uint64(len(r.Sealed))<<24|uint64(len(r.User)))
		s.fillState(&w)
	} else {
		w.ints(r.AbsoluteAt, int64(len(r.User)))
	}
	if s.flags&hasLongest != 0 {
		w.ints(r.longest)
	}
	if s.flags&hasRevoked != 0 {
		w.ints(r.RevokedAt, r.until)
		w.add(uint64(r.rank) | uint64(r.from)<<8 | uint64(len(r.RevokedBy))<<16 | uint64(len(r.RevokeReason))<<40)
	}
	if s.flags&hasApp != 0 {
		w.ints(int64(len(r.App)))
	}
	if s.flags&hasBy != 0 {
		w.ints(int64(len(r.By)))
	}
	if w.i == len(into) {
		return // no text
	}
	w.b = unsafe.Slice((*byte)(unsafe.Pointer(&into[w.i])), (len(into)-w.i)*8)
	w.text(r.User)
	if r.known {
		w.text(unsafe.String(unsafe.SliceData(r.Sealed), len(r.Sealed)))
	}
	w.text(r.RevokedBy)
	w.text(r.RevokeReason)
	if s.flags&hasApp != 0 {
		w.text(r.App)
	}
	if s.flags&hasBy != 0 {
		w.text(r.By)
	}
}

// fillState writes the words that only a state has, as the flags say.
func (s *shape) fillState(w *writer) {
	r := s.r
	for _, o := range [...]struct {
		flag uint64
		n    uint64
	}{{hasSeq, r.StateSeq}, {hasIdle, uint64(r.Idle)}, {hasAuth, r.AuthSeq}, {hasUntil, uint64(r.OriginalUntil)}} {
		if s.flags&o.flag != 0 {
			w.add(o.n)
		}
	}
	for i, flag := range [...]uint64{hasAlias1, hasAlias2} {
		if s.flags&flag != 0 {
			k := keyOf(r.Aliases[i].Key)
			w.add(k[0], k[1], uint64(r.Aliases[i].Until))
		}
	}
}
