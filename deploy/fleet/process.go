package fleet

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Process is one life of a program. Its methods are safe for concurrent use.
type Process struct {
	cmd  *exec.Cmd
	out  text
	log  text
	done chan struct{} // closed when it has ended
	err  error         // how; set before done is closed
}

// start starts the program.
func start(bin string, env []string, args ...string) (*Process, error) {
	p := &Process{cmd: exec.Command(bin, args...), done: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.log
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s %s: %w", bin, args[0], err)
	}
	go func() {
		defer close(p.done)
		p.err = p.cmd.Wait()
	}()
	return p, nil
}

// Log returns what the process has written to stderr.
func (p *Process) Log() string { return p.log.String() }

// ready waits until the process has printed its welcome, which ends with an
// empty line.
func (p *Process) ready(ctx context.Context) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		if out := p.out.String(); strings.Contains(out, "  address ") && strings.HasSuffix(out, "\n\n") {
			return nil
		}
		select {
		case <-tick.C:
		case <-p.done:
			return fmt.Errorf("ended before it was ready: %w\n%s", p.err, p.Log())
		case <-ctx.Done():
			return fmt.Errorf("not ready in time\n%s", p.Log())
		}
	}
}

// printed returns the value behind a name in what the process printed.
func (p *Process) printed(name string) string {
	for line := range strings.Lines(p.out.String()) {
		if rest, ok := strings.CutPrefix(line, "  "+name+" "); ok {
			return strings.TrimSpace(rest)
		}
	}
	return ""
}

// Kill is kill -9. It returns when the process has ended.
func (p *Process) Kill() {
	_ = p.cmd.Process.Kill() // it may have ended already
	<-p.done
}

// Stop is SIGSTOP: the process does nothing until Resume, and is not told.
func (p *Process) Stop() error { return p.cmd.Process.Signal(syscall.SIGSTOP) }

// Resume is SIGCONT.
func (p *Process) Resume() error { return p.cmd.Process.Signal(syscall.SIGCONT) }

// End is SIGTERM. It returns when the process has ended.
func (p *Process) End() error {
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return fmt.Errorf("end process: %w", err)
	}
	<-p.done
	if p.err != nil {
		return fmt.Errorf("end process: %w\n%s", p.err, p.Log())
	}
	return nil
}

// errNoMemory means that this system does not tell what a process holds.
var errNoMemory = errors.New("no /proc")

// Memory returns the resident memory of the process in bytes.
func (p *Process) Memory() (int64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		return 0, fmt.Errorf("%w: %w", errNoMemory, err)
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			n, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			return n << 10, err
		}
	}
	return 0, errNoMemory
}

// text collects what a process writes.
type text struct {
	mu sync.Mutex // guards b
	b  bytes.Buffer
}

func (t *text) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.b.Write(p)
}

func (t *text) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.b.String()
}
