package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/events/broker"
	"github.com/revocast/revocast/events/eventstest"
)

// The scripts run this test binary as the program.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"revocast": func() {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		context.AfterFunc(ctx, stop)
		os.Exit(run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
	}})
}

func TestScripts(t *testing.T) {
	if _, err := exec.LookPath("nginx"); err != nil {
		fmt.Fprintln(os.Stderr, "SKIPPED: bench_nginx: nginx is not installed, so bench --only nginx was not tested")
	}
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(e *testscript.Env) error {
			e.Setenv("HOME", e.WorkDir)
			nodes := &scriptNodes{env: e}
			e.Values[nodesKey{}] = nodes
			e.Defer(nodes.kill)
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"node": cmdNode, "code": cmdCode, "mode": cmdMode, "take-port": cmdTakePort, "capture": cmdCapture,
			"nats": cmdNats, "take-free": cmdTakeFree, "broker": cmdBroker,
			"until": cmdUntil, "last-key": cmdLastKey,
		},
	})
}

type nodesKey struct{}

// scriptNodes is what a script runs in the background.
type scriptNodes struct {
	env     *testscript.Env
	running *process // serve
	broker  *process
}

func (n *scriptNodes) kill() {
	if n.broker != nil {
		n.broker.kill()
		n.broker = nil
	}
	if n.running != nil {
		n.running.kill()
		n.running = nil
	}
}

// cmdNode is "node start [flag...]" (stdout goes to serve.out; URL is set in
// the environment), "node stop" (SIGINT, exit code 0 wanted; stderr goes to
// serve.err), "node kill" (SIGKILL) and "node hup text" (SIGHUP; the node is to
// log the text).
func cmdNode(ts *testscript.TestScript, neg bool, args []string) {
	n := ts.Value(nodesKey{}).(*scriptNodes)
	if neg || len(args) == 0 {
		ts.Fatalf("usage: node start|stop|kill")
	}
	switch args[0] {
	case "start":
		n.start(ts, args[1:])
	case "stop":
		err := n.running.signal(os.Interrupt)
		ts.Check(os.WriteFile(ts.MkAbs("serve.err"), []byte(n.running.stderr.String()), 0o600))
		if err != nil {
			ts.Fatalf("serve ended with %v:\n%s", err, n.running.stderr)
		}
		n.running = nil
	case "kill":
		n.kill()
	case "hup":
		ts.Check(n.running.cmd.Process.Signal(syscall.SIGHUP))
		n.running.says(ts, args[1])
	default:
		ts.Fatalf("node %s?", args[0])
	}
}

// start runs serve on free ports and returns once it has said that it is ready.
func (n *scriptNodes) start(ts *testscript.TestScript, flags []string) {
	if n.running != nil {
		ts.Fatalf("a node is running already")
	}
	bin := program(ts)
	args := append([]string{"serve", "--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0"}, flags...)
	cmd := exec.Command(bin, args...)
	cmd.Dir = ts.MkAbs(".")
	cmd.Env = []string{"PATH=" + ts.Getenv("PATH"), "HOME=" + ts.Getenv("HOME"), "TMPDIR=" + ts.Getenv("TMPDIR"), "REVOCAST_MAX_BYTES=256MiB"}
	for _, name := range []string{"REVOCAST_DATA", "REVOCAST_CONFIG", "REVOCAST_CLUSTER_KEY"} {
		if v := ts.Getenv(name); v != "" {
			cmd.Env = append(cmd.Env, name+"="+v)
		}
	}
	p, err := startProcess(cmd)
	if err != nil {
		ts.Fatalf("revocast %v: %v\n%s%s", args, err, p.out, p.stderr)
	}
	n.running = p
	out := p.out.String()
	ts.Check(os.WriteFile(ts.MkAbs("serve.out"), []byte(out), 0o600))
	ts.Setenv("URL", field(out, "address"))
	ts.Setenv("METRICS", field(out, "metrics"))
	ts.Setenv("NATS", field(out, "nats"))
}

// program returns the path of this binary under the name of the program.
func program(ts *testscript.TestScript) string {
	for dir := range strings.SplitSeq(ts.Getenv("PATH"), string(os.PathListSeparator)) {
		p := filepath.Join(dir, "revocast")
		if _, err := os.Stat(p); err == nil {
			return p
		}
	}
	ts.Fatalf("no revocast in PATH")
	return ""
}

// cmdBroker is "broker start [flag...]" and "broker stop" (SIGTERM, exit code 0
// wanted; stderr goes to broker.err).
func cmdBroker(ts *testscript.TestScript, _ bool, args []string) {
	n := ts.Value(nodesKey{}).(*scriptNodes)
	switch {
	case args[0] == "start" && n.broker == nil:
		cmd := exec.Command(program(ts), append([]string{"broker"}, args[1:]...)...)
		cmd.Dir = ts.MkAbs(".")
		p, err := startProcess(cmd)
		if err != nil {
			ts.Fatalf("revocast broker: %v\n%s%s", err, p.out, p.stderr)
		}
		n.broker = p
	case args[0] == "stop" && n.broker != nil:
		err := n.broker.signal(syscall.SIGTERM)
		ts.Check(os.WriteFile(ts.MkAbs("broker.err"), []byte(n.broker.stderr.String()), 0o600))
		if err != nil {
			ts.Fatalf("broker ended with %v:\n%s", err, n.broker.stderr)
		}
		n.broker = nil
	default:
		ts.Fatalf("broker %v: usage: broker start|stop, in turn", args)
	}
}

// process is a running serve or broker.
type process struct {
	cmd    *exec.Cmd
	out    *readyWriter
	stderr *lockedBuffer
	done   chan struct{} // closed when it has ended
	err    error         // how; set before done is closed
}

// startProcess starts the command and returns once it has said that it is
// ready. What it printed is in the process also when it fails.
func startProcess(cmd *exec.Cmd) (*process, error) {
	p := &process{cmd: cmd, out: &readyWriter{ready: make(chan struct{})}, stderr: new(lockedBuffer), done: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = p.out, p.stderr
	if err := cmd.Start(); err != nil {
		return p, err
	}
	go func() {
		defer close(p.done)
		p.err = cmd.Wait()
	}()
	limit := time.NewTimer(time.Minute)
	defer limit.Stop()
	select {
	case <-p.out.ready:
		return p, nil
	case <-p.done:
		return p, fmt.Errorf("ended before it was ready: %w", p.err)
	case <-limit.C:
		p.kill()
		return p, errors.New("not ready within a minute")
	}
}

// says waits until the process has logged the text.
func (p *process) says(ts *testscript.TestScript, text string) {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for begun := time.Now(); !strings.Contains(p.stderr.String(), text); <-tick.C {
		if time.Since(begun) > 20*time.Second {
			ts.Fatalf("%q is not logged:\n%s", text, p.stderr)
		}
	}
}

// signal sends the signal and waits for the end.
func (p *process) signal(sig os.Signal) error {
	if err := p.cmd.Process.Signal(sig); err != nil {
		return err
	}
	<-p.done
	return p.err
}

// kill is kill -9.
func (p *process) kill() {
	_ = p.cmd.Process.Kill() // it may have ended already
	<-p.done
}

// lockedBuffer is a bytes.Buffer for a process and its reader.
type lockedBuffer struct {
	mu sync.Mutex // guards b
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// readyWriter closes ready once a whole welcome was written: it comes in
// several writes and ends with an empty line.
type readyWriter struct {
	mu    sync.Mutex // guards b and done
	b     bytes.Buffer
	done  bool
	ready chan struct{}
}

func (w *readyWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.b.Write(p)
	text := w.b.String()
	first := strings.Contains(text, "API key  sk_")
	whole := first && strings.HasSuffix(text, "/revoke\n\n") || !first && strings.Contains(text, "address") && strings.HasSuffix(text, "\n\n")
	if whole && !w.done {
		w.done = true
		close(w.ready)
	}
	return len(p), nil
}

func (w *readyWriter) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.b.String()
}

// field returns the value behind a name in what serve printed.
func field(out, name string) string {
	for line := range strings.Lines(out) {
		if rest, ok := strings.CutPrefix(line, "  "+name+" "); ok {
			return strings.TrimSpace(rest)
		}
	}
	return ""
}

// cmdCode is "code N program args...": the program must end with exit code N.
func cmdCode(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: code N program args...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	got := 0
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		got = exit.ExitCode()
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
	if line := ts.ReadFile("stderr"); strings.Count(line, "\n") > 1 {
		ts.Fatalf("more than one line on stderr")
	}
}

// cmdMode is "mode 0600 file...": the files must have that mode.
func cmdMode(ts *testscript.TestScript, neg bool, args []string) {
	for _, file := range args[1:] {
		info, err := os.Stat(ts.MkAbs(file))
		ts.Check(err)
		if got := fmt.Sprintf("%04o", info.Mode().Perm()); (got == args[0]) == neg {
			ts.Fatalf("%s has mode %s", file, got)
		}
	}
}

// cmdTakePort is "take-port VAR": listens on a free port until the script ends.
func cmdTakePort(ts *testscript.TestScript, _ bool, args []string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	ts.Defer(func() { _ = l.Close() })
	ts.Setenv(args[0], l.Addr().String())
}

// cmdCapture is "capture VAR file [pattern]": sets VAR to the file's text, trimmed,
// or to what the pattern finds first in it.
func cmdCapture(ts *testscript.TestScript, _ bool, args []string) {
	text := strings.TrimSpace(ts.ReadFile(args[1]))
	if len(args) > 2 {
		if text = regexp.MustCompile(args[2]).FindString(text); text == "" {
			ts.Fatalf("%s: nothing matches %s", args[1], args[2])
		}
	}
	ts.Setenv(args[0], text)
}

// cmdNats is "nats VAR": runs a NATS server with JetStream until the script
// ends, and sets VAR to its address.
func cmdNats(ts *testscript.TestScript, _ bool, args []string) {
	b, err := broker.Start(context.Background(), broker.Config{StoreDir: ts.MkAbs("nats-" + args[0]), Listen: "127.0.0.1:0", Lazy: true})
	ts.Check(err)
	ts.Defer(b.Close)
	ts.Setenv(args[0], b.ClientURL())
}

// cmdTakeFree is "take-free VAR": sets VAR to an address on which nothing listens.
func cmdTakeFree(ts *testscript.TestScript, _ bool, args []string) {
	addr, err := eventstest.FreeAddr()
	ts.Check(err)
	ts.Setenv(args[0], addr)
}

// cmdUntil is "until program args...": runs the program again and again until it
// succeeds, for a minute at most.
func cmdUntil(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: until program args...")
	}
	limit := time.NewTimer(time.Minute)
	defer limit.Stop()
	again := time.NewTicker(200 * time.Millisecond)
	defer again.Stop()
	for {
		err := ts.Exec(args[0], args[1:]...)
		if err == nil {
			return
		}
		select {
		case <-again.C:
		case <-limit.C:
			ts.Fatalf("%v after a minute", err)
		}
	}
}

// cmdLastKey is "last-key VAR file": sets VAR to the id of the last cluster key in
// the file.
func cmdLastKey(ts *testscript.TestScript, _ bool, args []string) {
	keys, err := events.ParseClusterKeys(ts.ReadFile(args[1]))
	ts.Check(err)
	ids := keys.IDs()
	ts.Setenv(args[0], ids[len(ids)-1])
}
