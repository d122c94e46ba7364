package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	// poolSize is how many connections to Redis a peer holds, pgxConns how many
	// to PostgreSQL, where each is a process.
	poolSize = 64
	pgxConns = 16

	readyWithin = 60 * time.Second // how long a backend may take to start
	stopWithin  = 5 * time.Second  // how long it may take to end before it is killed
)

// stage is what a running peer stands on: a temporary directory, processes,
// an HTTP server; all gone after close.
type stage struct {
	dir            string // 0711: a backend may run as another user
	sessions, body int
	now, expires   time.Time // of all sessions
	template

	// failed gets the first thing that ended by itself.
	failed chan error

	children []*child
	server   *http.Server
	wg       sync.WaitGroup
}

func newStage(sessions, body int) (*stage, error) {
	now := time.Now().UTC().Truncate(time.Second)
	s := &stage{sessions: sessions, body: body, now: now, expires: now.Add(24 * time.Hour), failed: make(chan error, 1)}
	var err error
	if s.template, err = newTemplate(s.now, s.expires, body); err != nil {
		return nil, err
	}
	s.dir, err = os.MkdirTemp("", "revocast-peer-")
	if err != nil {
		return nil, fmt.Errorf("make temporary directory: %w", err)
	}
	if err := os.Chmod(s.dir, 0o711); err != nil {
		return nil, errors.Join(fmt.Errorf("open temporary directory: %w", err), os.RemoveAll(s.dir))
	}
	return s, nil
}

// close ends everything that was started, last first.
func (s *stage) close() error {
	if s.server != nil {
		_ = s.server.Close() // nobody waits for an answer
	}
	for _, c := range slices.Backward(s.children) {
		c.end()
	}
	s.wg.Wait()
	if err := os.RemoveAll(s.dir); err != nil {
		return fmt.Errorf("remove temporary directory: %w", err)
	}
	return nil
}

func (s *stage) fail(err error) {
	select {
	case s.failed <- err:
	default: // the first counts
	}
}

// serve serves h on a free port and returns the URL. The limits are those of a
// node's listener: they cost each request some microseconds, and a server that
// others reach cannot be without.
func (s *stage) serve(h http.Handler) (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("listen: %w", err)
	}
	s.server = &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      30 * time.Second,
		IdleTimeout:       90 * time.Second,
		MaxHeaderBytes:    16 << 10,
	}
	s.wg.Go(func() {
		if err := s.server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			s.fail(fmt.Errorf("serve: %w", err))
		}
	})
	return "http://" + l.Addr().String() + "/verify", nil
}

// tool runs a program that ends by itself, or is asked to when ctx ends: then
// what it started has ended as well. It returns what the program printed.
func tool(ctx context.Context, cmd *exec.Cmd) ([]byte, error) {
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	endsWithParent(cmd, syscall.SIGTERM)
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Signal(syscall.SIGTERM) })
	defer stop()
	err := cmd.Wait()
	return out.Bytes(), err
}

// child is a process of a peer.
type child struct {
	cmd    *exec.Cmd
	log    string
	stop   syscall.Signal // asks it to end
	exited chan struct{}  // closed once cmd.Wait has returned
}

// start starts cmd, which is asked to end with stop. Its output goes to a file,
// unless cmd says otherwise.
func (s *stage) start(cmd *exec.Cmd, stop syscall.Signal) (*child, error) {
	name := filepath.Base(cmd.Path)
	c := &child{cmd: cmd, log: filepath.Join(s.dir, fmt.Sprintf("%s.%d.log", name, len(s.children))), stop: stop, exited: make(chan struct{})}
	out, err := os.OpenFile(c.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	defer out.Close()
	if cmd.Stdout == nil {
		cmd.Stdout = out
	}
	cmd.Stderr = out
	if cmd.Dir == "" {
		cmd.Dir = s.dir
	}
	endsWithParent(cmd, stop)
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	s.children = append(s.children, c)
	s.wg.Go(func() {
		err := cmd.Wait()
		close(c.exited)
		s.fail(fmt.Errorf("%s ended: %v%s", name, err, c.lastWords()))
	})
	return c, nil
}

func (c *child) pid() int { return c.cmd.Process.Pid }

// end asks the process to end, and makes it.
func (c *child) end() {
	_ = c.cmd.Process.Signal(c.stop) // it may have ended
	select {
	case <-c.exited:
	case <-time.After(stopWithin):
		_ = c.cmd.Process.Kill()
		<-c.exited
	}
}

// await calls ready until it succeeds.
func (c *child) await(ctx context.Context, ready func(context.Context) error) error {
	limit, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	for {
		err := ready(limit)
		if err == nil {
			return nil
		}
		select {
		case <-c.exited:
			return fmt.Errorf("%s ended%s", filepath.Base(c.cmd.Path), c.lastWords())
		case <-limit.Done():
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return fmt.Errorf("%s was not ready in %v: %w%s", filepath.Base(c.cmd.Path), readyWithin, err, c.lastWords())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// lastWords are the last lines the process printed, with a line break before
// them.
func (c *child) lastWords() string {
	text, err := os.ReadFile(c.log)
	if err != nil || len(text) == 0 {
		return ""
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return "\n" + strings.Join(lines[max(0, len(lines)-5):], "\n")
}

// freePort returns a port nobody listens on at the moment.
func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, fmt.Errorf("find free port: %w", err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}
