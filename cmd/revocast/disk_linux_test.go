package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/revocast/revocast/node/api"
)

// fill writes a file until the file system has no space left.
func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	chunk := make([]byte, 64<<10)
	rand.Read(chunk)
	for len(chunk) > 0 {
		if _, err = f.Write(chunk); errors.Is(err, syscall.ENOSPC) {
			chunk = chunk[:len(chunk)/2] // down to the last byte
		} else if err != nil {
			t.Fatal(err)
		}
	}
}

// until asks again and again until the answer is the one wanted; every answer
// before must be one of those allowed.
func until(t *testing.T, what string, ask func() int, want int, allowed ...int) {
	t.Helper()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	limit := time.After(time.Minute)
	for {
		got := ask()
		if got == want {
			return
		}
		ok := false
		for _, a := range allowed {
			ok = ok || got == a
		}
		if !ok {
			t.Fatalf("%s: answered %d on the way to %d, allowed are %v", what, got, want, allowed)
		}
		select {
		case <-tick.C:
		case <-limit:
			t.Fatalf("%s: no %d within a minute", what, want)
		}
	}
}

// A full disk stops writes, then verifies, and never says "not found" or
// "good" wrongly; with space again the node comes back by itself, with all it
// acknowledged.
func testFullDisk(t *testing.T, bin string) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64m"); err != nil {
		t.Skipf("NOT TESTED on this machine: a full disk needs a tmpfs of its own, and mounting one is not allowed: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	s := serve(t, bin, filepath.Join(dir, "data"))
	client := &http.Client{Timeout: 30 * time.Second}
	var good []string
	create := func() int {
		var made api.SessionAnswer
		status := s.post(t.Context(), client, "/v1/sessions", s.apiKey, api.CreateSession{UserID: fmt.Sprint("user-", len(good))}, &made)
		if status == http.StatusCreated {
			good = append(good, made.SessionToken)
		}
		return status
	}
	for range 50 {
		if status := create(); status != http.StatusCreated {
			t.Fatalf("create answered %d", status)
		}
	}
	revoked := good[0]
	good = good[1:]
	revoke := func(token string) int {
		return s.post(t.Context(), client, "/v1/sessions/revoke", s.apiKey, api.Revoke{SessionToken: token}, new(api.RevokeAnswer))
	}
	if status := revoke(revoked); status != http.StatusOK {
		t.Fatalf("revoke answered %d", status)
	}

	fill(t, filepath.Join(dir, "ballast"))
	// What the server has set aside already still takes a few.
	until(t, "create on a full disk", create, http.StatusServiceUnavailable, http.StatusCreated)
	until(t, "verify on a full disk", func() int { return s.verify(t, client, good[0]) }, http.StatusServiceUnavailable, http.StatusNoContent)
	if status := s.verify(t, client, revoked); status != http.StatusServiceUnavailable && status != http.StatusUnauthorized {
		t.Errorf("verify of a revoked session without a lease answered %d", status)
	}
	if status := revoke(good[1]); status != http.StatusServiceUnavailable {
		t.Errorf("revoke on a full disk answered %d", status)
	}
	asked := good[1] // may have been stored after all
	if err := os.Remove(filepath.Join(dir, "ballast")); err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	until(t, "create with space again", create, http.StatusCreated, http.StatusServiceUnavailable)
	until(t, "verify with space again", func() int { return s.verify(t, client, good[0]) }, http.StatusNoContent, http.StatusServiceUnavailable)
	t.Logf("back %v after there was space again", time.Since(begun).Round(time.Millisecond))
	for _, token := range good {
		if status := s.verify(t, client, token); status != http.StatusNoContent && token != asked {
			t.Errorf("an acknowledged session is answered %d", status)
		}
	}
	if status := s.verify(t, client, revoked); status != http.StatusUnauthorized {
		t.Errorf("an acknowledged revocation is answered %d", status)
	}
	if err := s.signal(os.Interrupt); err != nil {
		t.Errorf("ended with %v\n%s", err, s.stderr)
	}
}
