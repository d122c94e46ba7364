package main

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// Whoever may read a directory can lock it: a start says so and does not wait for
// him for ever.
func TestListenUnixLocked(t *testing.T) {
	dir := t.TempDir()
	other, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if err := syscall.Flock(int(other.Fd()), syscall.LOCK_SH); err != nil {
		t.Fatal(err)
	}
	if l, err := listenVerify(unixPrefix + filepath.Join(dir, "v.sock")); err == nil || !strings.Contains(err.Error(), "lock") {
		t.Errorf("listens on %v, %v", l, err)
	}
	_ = other.Close()
	l, err := listenVerify(unixPrefix + filepath.Join(dir, "v.sock"))
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
}
