package projection

import (
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// hugePage is what one entry of a processor's address cache covers at best, in
// bytes.
const hugePage = 2 << 20

// collapse lets the kernel hold the words in huge pages, if there are so many
// that it pays. Of millions of sessions each is far from the one before, and with
// small pages finding out where in memory it is takes longer than reading it.
//
// It is done once, for what is there, and not asked for in advance: else the
// kernel would go on filling up what the garbage collector gives back. A kernel
// that cannot, says so, and all is as before. Nobody who reads the words meanwhile
// sees anything but waiting some 100 µs.
func collapse(words []uint64) {
	size := uintptr(len(words)) * 8
	if size < 2*hugePage {
		return
	}
	// Pages often lie side by side, so the first and the last huge page are
	// those of a neighbour too.
	begin := uintptr(unsafe.Pointer(unsafe.SliceData(words)))
	end := (begin + size + hugePage - 1) &^ (hugePage - 1)
	begin &^= hugePage - 1
	_, _, _ = unix.Syscall(unix.SYS_MADVISE, begin, end-begin, unix.MADV_COLLAPSE)
	runtime.KeepAlive(words)
}
