package projection

import (
	"sync"
	"sync/atomic"
	"unsafe"
)

// A ref names a block: page<<pageBits | word in the page. 0 names none.
type ref uint64

const (
	pageBits = 15 // a page has at most 2^15 words, 256 KiB
	idBits   = 22 // 2^22 pages are 1 TiB
	refBits  = idBits + pageBits
	refMask  = 1<<refBits - 1

	pageWords  = 1 << pageBits
	firstPage  = 512 // words of the first page; they grow up to pageWords
	chunkPages = 1 << 12
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

	// due is set while so much is dead that pages are to be emptied.
	due atomic.Bool

	mu    sync.Mutex // guards the following
	pages []pageInfo // by number; the one numbered 0 is never used
	idle  []uint32   // numbers without a page
	open  uint32     // the page that is being filled, 0 none
	// most is the size of a full page in words; 0 is pageWords.
	most int
	// words are those of all pages, live those of all blocks in use.
	words, live int
	cursor      uint32 // from where pages to be emptied are looked for
}

// chunk is a part of the directory: the first word of each page.
type chunk [chunkPages]atomic.Pointer[uint64]

// pageInfo counts in words.
type pageInfo struct{ size, fill, live uint32 }

// at returns the place in the directory of a page that was there once.
func (a *arena) at(page uint32) *atomic.Pointer[uint64] {
	return &a.dir[page/chunkPages].Load()[page%chunkPages]
}

// block returns the block that the ref names. The caller keeps out whoever would
// give the page up.
func (a *arena) block(r ref) block { return in(a.at(r.page()).Load(), r) }

// in returns the ref's block in the page that begins at first.
func in(first *uint64, r ref) block {
	return block{(*uint64)(unsafe.Add(unsafe.Pointer(first), uintptr(r.word())*8))}
}

// alloc returns n zero words. They count as live from now on, so their page is
// not given up before they are released. The caller fills them before he lets go
// of what keeps the emptying of pages out.
func (a *arena) alloc(n int) (ref, []uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	id := a.open
	if id == 0 || int(a.pages[id].size-a.pages[id].fill) < n {
		id = a.grow(n)
	}
	p := &a.pages[id]
	r := ref(id)<<pageBits | ref(p.fill)
	p.fill += uint32(n)
	p.live += uint32(n)
	a.live += n
	return r, unsafe.Slice(a.block(r).first, n)
}

// grow returns a new page with room for n words. It is filled on, unless it is
// one block's own. The caller holds mu.
func (a *arena) grow(n int) uint32 {
	most := a.most
	if most == 0 {
		most = pageWords
	}
	size := min(most, max(firstPage, a.words))
	own := n > size
	if own {
		size = n
	}
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
	a.at(id).Store(unsafe.SliceData(make([]uint64, size)))
	a.pages[id] = pageInfo{size: uint32(size)}
	a.words += size
	if !own {
		was := a.open
		a.open = id
		if was != 0 && a.pages[was].live == 0 {
			a.drop(was)
		}
	}
	a.due.Store(a.wasteful())
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
	a.at(id).Store(nil)
	a.words -= int(a.pages[id].size)
	a.pages[id] = pageInfo{}
	a.idle = append(a.idle, id)
}

// sparse returns the next page of which less than 3/4 is live, and how far it is
// filled; 0 if there is none, or not enough to gain. The page that is being
// filled is not one.
func (a *arena) sparse() (page, fill uint32) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.wasteful() {
		a.due.Store(false)
		return 0, 0
	}
	for range a.pages {
		if a.cursor++; int(a.cursor) >= len(a.pages) {
			a.cursor = 1
		}
		p := &a.pages[a.cursor]
		if p.size != 0 && a.cursor != a.open && p.live < p.size/4*3 {
			return a.cursor, p.fill
		}
	}
	a.due.Store(false)
	return 0, 0
}

// bytes returns the size of all pages.
func (a *arena) bytes() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.words * 8
}
