package bench

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestNginxIsNotInstalled checks that a run says so.
func TestNginxIsNotInstalled(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	r := &runner{report: &Report{}}
	if err := r.nginx(t.Context()); err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	if err := r.report.WriteText(&out); err != nil || !strings.Contains(out.String(), "\nnginx: not measured: nginx is not installed\n") {
		t.Errorf("got %v, %q", err, out.String())
	}
}

// TestNginxThatEnds checks that one that does not start is not waited for.
func TestNginxThatEnds(t *testing.T) {
	file := filepath.Join(t.TempDir(), "nginx")
	if err := os.WriteFile(file, []byte("#!/bin/sh\necho no such module >&2; exit 1\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	c, _, err := startNginx(t.Context(), file, t.TempDir(), "127.0.0.1:1", "127.0.0.1:1")
	if err == nil || !strings.Contains(err.Error(), "no such module") {
		t.Errorf("got %v", err)
	}
	c.kill()
}

// TestAsks checks that a proxy that lets everybody in is noticed.
func TestAsks(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = c.Read(make([]byte, 4096))
			_, _ = c.Write([]byte("HTTP/1.1 204 No Content\r\n\r\n"))
			_ = c.Close()
		}
	}()
	target := &Target{Name: "open", Network: "tcp", Addr: l.Addr().String()}
	if err := target.asks(getVerify("/", "none"), 204); err != nil {
		t.Error(err)
	}
	if err := target.asks(getVerify("/", "none"), 401); err == nil {
		t.Error("it was not noticed")
	}
}
