package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/revocast/revocast/node"
)

// verifySocketMode lets the owner and the group of the process connect, so that
// a proxy of another user needs the group.
const verifySocketMode = 0o660

// unixPrefix begins the address of a Unix socket.
const unixPrefix = "unix:"

// listenVerify is listen for --verify-listen, which may be a Unix socket.
func listenVerify(addr string) (net.Listener, error) {
	path, ok := strings.CutPrefix(addr, unixPrefix)
	if !ok {
		return listen("verify-listen", addr)
	}
	l, err := listenUnix(path)
	if err == nil {
		return l, nil
	}
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Err != nil {
		err = op.Err
	}
	return nil, fmt.Errorf("cannot listen on %s (%w): stop what uses it, or give another address with --verify-listen", addr, err)
}

// listenUnix makes a Unix socket, which goes when it is closed. One that a killed
// process left is taken over; one on which somebody listens is not, nor is a
// file of another kind.
func listenUnix(path string) (net.Listener, error) {
	// Of two that start at once, the second must not take over what the first is
	// about to listen on.
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	if err := lockDir(dir); err != nil {
		return nil, fmt.Errorf("lock %s: %w", dir.Name(), err)
	}
	l, err := net.Listen("unix", path)
	if errors.Is(err, syscall.EADDRINUSE) && abandoned(path) {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		l, err = net.Listen("unix", path)
	}
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, verifySocketMode); err != nil {
		_ = l.Close()
		return nil, err
	}
	return l, nil
}

// lockPatience is how long another start may hold the lock, which takes it a moment.
// Whoever may read the directory can hold it for ever.
const lockPatience = 2 * time.Second

func lockDir(dir *os.File) error {
	for began := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		err := syscall.Flock(int(dir.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return err
		}
		if time.Since(began) >= lockPatience {
			return errors.New("another process holds it")
		}
	}
}

// abandoned reports whether the path is a socket on which nobody listens.
func abandoned(path string) bool {
	info, err := os.Lstat(path)
	if err != nil || info.Mode().Type() != fs.ModeSocket {
		return false
	}
	c, err := net.Dial("unix", path)
	if err == nil {
		_ = c.Close()
	}
	return errors.Is(err, syscall.ECONNREFUSED)
}

// verifyLimits are those of the main listener. Its buffer for the head is larger
// by what net/http allows beyond its own limit.
func verifyLimits() node.VerifyLimits {
	return node.VerifyLimits{Read: readTimeout, Write: writeTimeout, Idle: idleTimeout, Head: maxHeaderBytes + 4<<10}
}

// verifyAddr returns how people write the address.
func verifyAddr(a net.Addr) string {
	if a.Network() == "unix" {
		return unixPrefix + a.String()
	}
	return localURL(a)
}
