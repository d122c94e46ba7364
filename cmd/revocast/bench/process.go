package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Program is this program, to be started again as another process.
type Program struct {
	// Path is its file, Name what it calls itself.
	Path, Name string
}

// child is a process that bench started.
type child struct {
	cmd   *exec.Cmd
	stdin io.WriteCloser
	out   text
	log   text
	done  chan struct{} // closed when it has ended
	err   error         // how; set before done is closed
}

// start starts the program with the arguments. Its standard input stays open
// until it is ended, or this process is: a child that reads it ends with us.
func (p Program) start(args ...string) (*child, error) {
	c := &child{cmd: exec.Command(p.Path), done: make(chan struct{})}
	c.cmd.Args = append([]string{p.Name}, args...)
	// Settings of the caller's environment are for the caller's node.
	c.cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "REVOCAST_") })
	return c, c.begin()
}

func (c *child) begin() error {
	c.cmd.Stdout, c.cmd.Stderr = &c.out, &c.log
	in, err := c.cmd.StdinPipe()
	if err != nil {
		return fmt.Errorf("start %s: %w", c.cmd.Path, err)
	}
	c.stdin = in
	if err := c.cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", c.cmd.Path, err)
	}
	go func() {
		defer close(c.done)
		c.err = c.cmd.Wait()
	}()
	return nil
}

func (c *child) pid() int { return c.cmd.Process.Pid }

// started reports whether there ever was a process.
func (c *child) started() bool { return c != nil && c.cmd.Process != nil }

// await waits until what the process has printed satisfies ready.
func (c *child) await(ctx context.Context, ready func(out string) bool) error {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !ready(c.out.String()) {
		select {
		case <-tick.C:
		case <-c.done:
			return fmt.Errorf("%s ended before it was ready: %v: %s", strings.Join(c.cmd.Args[:2], " "), c.err, c.log.tail())
		case <-ctx.Done():
			return fmt.Errorf("%s was not ready in time: %w: %s", strings.Join(c.cmd.Args[:2], " "), ctx.Err(), c.log.tail())
		}
	}
	return nil
}

// welcomed reports whether a node or a broker has said that it is ready.
func welcomed(out string) bool {
	return strings.Contains(out, "  address ") && strings.HasSuffix(out, "\n\n")
}

// printed returns the value behind a name in the welcome.
func (c *child) printed(name string) string {
	for line := range strings.Lines(c.out.String()) {
		if rest, ok := strings.CutPrefix(line, "  "+name+" "); ok {
			return strings.TrimSpace(rest)
		}
	}
	return ""
}

// endTimeout is how long an orderly end may take: a node writes a snapshot.
const endTimeout = 3 * time.Minute

// end asks the process to end and waits until it has.
func (c *child) end() error {
	if !c.started() {
		return nil
	}
	_ = c.stdin.Close()
	_ = c.cmd.Process.Signal(syscall.SIGTERM) // it may have ended already
	select {
	case <-c.done:
	case <-time.After(endTimeout):
		_ = c.cmd.Process.Kill()
		<-c.done
		return fmt.Errorf("%s did not end in %s", strings.Join(c.cmd.Args[:2], " "), endTimeout)
	}
	if c.err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(c.cmd.Args[:2], " "), c.err, c.log.tail())
	}
	return nil
}

// kill ends the process at once.
func (c *child) kill() {
	if !c.started() {
		return
	}
	_ = c.stdin.Close()
	_ = c.cmd.Process.Kill()
	<-c.done
}

// text collects what a process writes.
type text struct {
	mu sync.Mutex // guards b
	b  bytes.Buffer
}

// Write implements [io.Writer].
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

// tail returns the last lines on one line.
func (t *text) tail() string {
	lines := strings.Split(strings.TrimSpace(t.String()), "\n")
	return strings.Join(lines[max(0, len(lines)-3):], "; ")
}

// errNoProc means that this system does not tell what a process used.
var errNoProc = errors.New("not measured here: there is no /proc")

// userHz is in what units /proc counts CPU time; it is the same on every Linux.
const userHz = 100

// cpuOf returns the CPU time that the processes and all their descendants have
// had, those that have ended included, but not those of other processes that are
// among them.
func cpuOf(pids, not []int) (time.Duration, error) {
	all, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil || len(all) == 0 {
		return 0, errNoProc
	}
	type process struct {
		parent int
		ticks  int64
	}
	table := make(map[int]process, len(all))
	for _, path := range all {
		raw, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		if pid, parent, ticks, ok := parseStat(string(raw)); ok {
			table[pid] = process{parent, ticks}
		}
	}
	for _, pid := range pids {
		if _, ok := table[pid]; !ok {
			return 0, fmt.Errorf("there is no process %d", pid)
		}
	}
	var ticks int64
	for pid, p := range table {
		at := pid
		for hops := 0; at > 1 && hops < 64 && !slices.Contains(pids, at) && !slices.Contains(not, at); hops++ {
			at = table[at].parent
		}
		if slices.Contains(pids, at) {
			ticks += p.ticks
		}
	}
	return time.Duration(ticks) * (time.Second / userHz), nil
}

// parseStat reads /proc/<pid>/stat: the process, its parent, and the CPU time of
// it and of its children that have ended.
func parseStat(text string) (pid, parent int, ticks int64, ok bool) {
	open, end := strings.IndexByte(text, '('), strings.LastIndexByte(text, ')')
	if open < 1 || end < open {
		return 0, 0, 0, false
	}
	pid, err := strconv.Atoi(strings.TrimSpace(text[:open]))
	fields := strings.Fields(text[end+1:])
	if err != nil || len(fields) < 15 {
		return 0, 0, 0, false
	}
	parent, err = strconv.Atoi(fields[1])
	for _, f := range fields[11:15] { // utime, stime, cutime, cstime
		n, bad := strconv.ParseInt(f, 10, 64)
		err = errors.Join(err, bad)
		ticks += n
	}
	return pid, parent, ticks, err == nil
}

// residentOf returns the memory of the process that is in use, in bytes.
func residentOf(pid int) (int64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, errNoProc
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			n, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			return n << 10, err
		}
	}
	return 0, errNoProc
}
