//go:build !linux

package projection

// collapse does nothing where it is not known how to ask for huge pages.
func collapse([]uint64) {}
