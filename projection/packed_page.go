package projection

import (
	"cmp"
	"sync"
	"sync/atomic"
	"unsafe"
)

// A ref names a block: page<<pageBits | word in the page. 0 names none.
type ref uint64

const (
	pageBits = 20 // a page has at most 2^20 words, 8 MiB
	idBits   = 17 // 2^17 pages are 1 TiB
	refBits  = idBits + pageBits
	refMask  = 1<<refBits - 1

	pageWords  = 1 << pageBits
	firstPage  = 512 // words of the first pages; later ones are an eighth of all
	chunkPages = 1 << 12

	// tidyWords is how many words may be allocated, where much is dead, before
	// something is done about it.
	tidyWords = 1 << 13
)

func (r ref) page() uint32 { return uint32(r >> pageBits) }
func (r ref) word() uint32 { return uint32(r & (pageWords - 1)) }

// arena holds blocks of words in pages. A page is filled from its beginning and
// never written again, except for the words that a block says are mutable. So
// what a reader found stays as it is for as long as he holds on to it: that it
// is no longer reachable is for the garbage collector to see, which frees whole
// pages and looks into none, as they hold no pointers. A place in a page is used
// once; space comes back when all that lives in a page has been moved elsewhere.
type arena struct {
	dir [1 << idBits / chunkPages]atomic.Pointer[chunk] // by page number

	// due is set when so much is dead that pages are to be emptied, each time
	// tidyWords were allocated.
	due atomic.Bool

	mu    sync.Mutex // guards the following
	pages []pageInfo // by number; the one numbered 0 is never used
	idle  []uint32   // numbers without a page
	open  uint32     // the page that is being filled, 0 none
	// most is the size of a full page in words; 0 is pageWords.
	most int
	// words are those of all pages, live those of all blocks in use.
	words, live int
	since       int // words allocated since due was set
	// emptying is the page that is being emptied, up to the word at; 0 none.
	emptying, at uint32
	cursor       uint32 // from where pages to be emptied are looked for
}

// chunk is a part of the directory: the first word of each page.
type chunk [chunkPages]atomic.Pointer[uint64]

// pageInfo counts in words.
type pageInfo struct{ size, fill, live uint32 }

// place returns where the directory has a page that was there once.
func (a *arena) place(page uint32) *atomic.Pointer[uint64] {
	return &a.dir[page/chunkPages].Load()[page%chunkPages]
}

// block returns the block that the ref names. The caller keeps out whoever would
// give the page up.
func (a *arena) block(r ref) block { return in(a.place(r.page()).Load(), r) }

// in returns the ref's block in the page that begins at first.
func in(first *uint64, r ref) block {
	return block{(*uint64)(unsafe.Add(unsafe.Pointer(first), uintptr(r.word())*8))}
}

// whole returns all words of the page. The caller holds mu.
func (a *arena) whole(page uint32) []uint64 {
	return unsafe.Slice(a.place(page).Load(), a.pages[page].size)
}

// alloc returns n zero words. They count as live from now on, so their page is
// not given up before they are released. The caller fills them before he lets go
// of what keeps the emptying of pages out.
func (a *arena) alloc(n int) (ref, []uint64) {
	r, words, full := a.take(n)
	collapse(full)
	return r, words
}

// take returns what alloc does, and the page that is full since.
func (a *arena) take(n int) (_ ref, words, full []uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	id := a.open
	if id == 0 || int(a.pages[id].size-a.pages[id].fill) < n {
		id, full = a.grow(n)
	}
	p := &a.pages[id]
	r := ref(id)<<pageBits | ref(p.fill)
	p.fill += uint32(n)
	p.live += uint32(n)
	a.live += n
	if a.since += n; a.since >= tidyWords {
		a.since = 0
		a.due.Store(a.wasteful())
	}
	return r, unsafe.Slice(a.block(r).first, n), full
}

// grow returns a new page with room for n words, and the one that was filled
// before. It is filled on, unless it is one block's own. The caller holds mu.
func (a *arena) grow(n int) (id uint32, full []uint64) {
	size := a.next(1)
	if n > size {
		return a.add(n), nil
	}
	id = a.add(size)
	was := a.open
	a.open = id
	switch {
	case was == 0:
	case a.pages[was].live == 0:
		a.drop(was)
	default:
		full = a.whole(was)
	}
	return id, full
}

// next returns how large the next page is in words, if there are so many that are
// being filled. The caller holds mu.
func (a *arena) next(filled int) int {
	return min(cmp.Or(a.most, pageWords), max(firstPage, a.words/8/filled))
}

// add returns the number of a new page. The caller holds mu.
func (a *arena) add(size int) uint32 {
	id := uint32(len(a.pages))
	if last := len(a.idle) - 1; last >= 0 {
		id = a.idle[last]
		a.idle = a.idle[:last]
	} else {
		id = max(id, 1)
		if id >= 1<<idBits {
			panic("more than 1 TiB of sessions")
		}
		a.pages = append(a.pages, make([]pageInfo, int(id)+1-len(a.pages))...)
	}
	if a.dir[id/chunkPages].Load() == nil {
		a.dir[id/chunkPages].Store(new(chunk))
	}
	a.place(id).Store(unsafe.SliceData(make([]uint64, size)))
	a.pages[id] = pageInfo{size: uint32(size)}
	a.words += size
	return id
}

// wasteful reports whether more than a quarter is dead or was never used. The
// caller holds mu.
func (a *arena) wasteful() bool { return a.words-a.live > max(a.words/4, 4*firstPage) }

// release gives up n words at r. Nothing that readers begin with names them any
// more.
func (a *arena) release(r ref, n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	id := r.page()
	a.live -= n
	if a.pages[id].live -= uint32(n); a.pages[id].live == 0 && id != a.open {
		a.drop(id)
	}
}

// drop gives a page up. Readers that hold it keep it. The caller holds mu.
func (a *arena) drop(id uint32) {
	if id == a.emptying {
		a.emptying = 0
	}
	a.place(id).Store(nil)
	a.words -= int(a.pages[id].size)
	a.pages[id] = pageInfo{}
	a.idle = append(a.idle, id)
}

// sparse returns a page of which less than 3/4 is live, from where on it is to
// be emptied, and how far it is filled; 0 if there is none, or not enough to
// gain. The page that is being filled is not one.
func (a *arena) sparse() (page, from, fill uint32) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.emptying == 0 && !a.search() {
		return 0, 0, 0
	}
	return a.emptying, a.at, a.pages[a.emptying].fill
}

// search finds a page to be emptied. The caller holds mu.
func (a *arena) search() bool {
	if !a.wasteful() {
		return false
	}
	for range a.pages {
		if a.cursor++; int(a.cursor) >= len(a.pages) {
			a.cursor = 1
		}
		if p := &a.pages[a.cursor]; p.size != 0 && a.cursor != a.open && p.live < p.size/4*3 {
			a.emptying, a.at = a.cursor, 0
			return true
		}
	}
	return false
}

// emptied notes that the page is empty up to the word. It was given up if that
// was all of it.
func (a *arena) emptied(page, upTo uint32) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.emptying != page {
		return
	}
	if a.at = upTo; upTo >= a.pages[page].fill {
		a.emptying = 0
	}
}

// rest lets tidyWords be allocated before the next look.
func (a *arena) rest() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.since = 0
	a.due.Store(false)
}

// bytes returns the size of all pages.
func (a *arena) bytes() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.words * 8
}
