package compat

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// program is the path of the program under test, built by TestMain.
var program string

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	dir, err := os.MkdirTemp("", "revocast-compat-")
	if err != nil {
		fmt.Fprintln(os.Stderr, "make a directory for the program:", err)
		return 1
	}
	defer os.RemoveAll(dir)
	program = filepath.Join(dir, "revocast")
	// The product is another module: go must run where its go.mod is.
	build := exec.Command("go", "build", "-o", program, "./cmd/revocast")
	build.Dir = filepath.Join("..", "..")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build the program: %v\n%s", err, out)
		return 1
	}
	defer func() {
		if sharedNode != nil {
			_ = sharedNode.kill()
		}
	}()
	return m.Run()
}

// readyWithin is how long a node may take until it is ready. A fenced start of
// L = 15 s is no part of it: a fresh node has nothing to wait for.
const readyWithin = 60 * time.Second

// node is a running "revocast serve".
type node struct {
	data string
	// addr is what it listens on, the same after a restart: JWTs carry it in
	// iss.
	addr string
	args []string // beyond data and addresses
	base string
	boot bootstrap

	cmd    *exec.Cmd
	out    *output
	exited chan struct{} // closed once cmd.Wait has returned
}

// bootstrap is <data>/bootstrap.json.
type bootstrap struct {
	URL      string `json:"url"`
	App      string `json:"app"`
	APIKey   string `json:"api_key"`
	AdminKey string `json:"admin_key"`
}

// output collects what a process prints.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer // guarded by mu
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(b)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// environ is the test's environment without settings of the product.
func environ() []string {
	return slices.DeleteFunc(os.Environ(), func(s string) bool { return strings.HasPrefix(s, "REVOCAST_") })
}

// freeAddr returns an address nobody listens on at the moment. Its port is none that the
// system gives to outgoing connections: one of those could take it while a node is down.
func freeAddr(t testing.TB) string {
	t.Helper()
	for range 1000 {
		if l, err := listenAt(fmt.Sprintf("127.0.0.1:%d", 12000+rand.IntN(20000))); err == nil {
			defer l.Close()
			return l.Addr().String()
		}
	}
	t.Fatal("no free port")
	return ""
}

// newNode starts a node on a fresh data directory and stops it when the test
// ends.
func newNode(t testing.TB, args ...string) *node {
	t.Helper()
	n := &node{data: filepath.Join(t.TempDir(), "data"), addr: freeAddr(t), args: args}
	n.start(t)
	t.Cleanup(func() { _ = n.kill() })
	return n
}

// launch starts the process and does not wait for it.
func (n *node) launch(t testing.TB) {
	t.Helper()
	args := append([]string{"serve", "--data", n.data, "--listen", n.addr, "--metrics-listen", "127.0.0.1:0"}, n.args...)
	n.out, n.exited = &output{}, make(chan struct{})
	n.cmd = exec.Command(program, args...)
	n.cmd.Env = environ()
	n.cmd.Stdout, n.cmd.Stderr = n.out, n.out
	if err := n.cmd.Start(); err != nil {
		t.Fatalf("start the program: %v", err)
	}
	go func() {
		_ = n.cmd.Wait() // stop reads the state
		close(n.exited)
	}()
	n.base = "http://" + n.addr
}

// start starts the process and waits until it is ready.
func (n *node) start(t testing.TB) {
	t.Helper()
	n.launch(t)
	if err := n.awaitReady(); err != nil {
		_ = n.kill()
		t.Fatalf("%v; it printed:\n%s", err, n.out)
	}
	text, err := os.ReadFile(filepath.Join(n.data, "bootstrap.json"))
	if err != nil {
		t.Fatalf("read the bootstrap file: %v", err)
	}
	if err := json.Unmarshal(text, &n.boot); err != nil {
		t.Fatalf("read the bootstrap file: %v", err)
	}
}

// awaitReady waits for what the program prints when it is ready. /readyz comes
// before that: it is about the leases, not about the first app.
func (n *node) awaitReady() error {
	for end := time.Now().Add(readyWithin); time.Now().Before(end); {
		select {
		case <-n.exited:
			return fmt.Errorf("the program ended: %v", n.cmd.ProcessState)
		case <-time.After(20 * time.Millisecond):
		}
		if strings.Contains(n.out.String(), "Revocast is ready.") {
			return nil
		}
	}
	return errors.New("the program was not ready in " + readyWithin.String())
}

// stop sends SIGTERM and returns the exit code.
func (n *node) stop(t testing.TB) int {
	t.Helper()
	if err := n.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatalf("signal the program: %v", err)
	}
	select {
	case <-n.exited:
	case <-time.After(30 * time.Second):
		_ = n.kill()
		t.Fatalf("the program did not stop within 30 s of SIGTERM; it printed:\n%s", n.out)
	}
	return n.cmd.ProcessState.ExitCode()
}

// kill is kill -9.
func (n *node) kill() error {
	err := n.cmd.Process.Kill()
	<-n.exited
	return err
}

// sharedNode serves the tests that need no life of their own.
var (
	sharedNode *node
	sharedOnce sync.Once
)

func shared(t testing.TB) *node {
	t.Helper()
	sharedOnce.Do(func() {
		dir := filepath.Join(filepath.Dir(program), "shared")
		n := &node{data: dir, addr: freeAddr(t)}
		n.start(t)
		sharedNode = n
	})
	if sharedNode == nil {
		t.Fatal("the shared node did not start; see the first test that used it")
	}
	return sharedNode
}

// runFails runs the program, which must end by itself with code, and returns
// its one line on standard error.
func runFails(t *testing.T, code int, env []string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = append(environ(), env...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != code {
		t.Fatalf("revocast %s: got %v, want exit code %d; it printed:\n%s%s", strings.Join(args, " "), err, code, &stdout, &stderr)
	}
	lines := strings.Split(strings.TrimRight(stderr.String(), "\n"), "\n")
	if len(lines) != 1 || lines[0] == "" {
		t.Errorf("revocast %s: want one line on standard error, got %q", strings.Join(args, " "), lines)
	}
	return lines[len(lines)-1]
}

// TestBootstrapAppears watches a first start, without waiting for it to be
// ready: once bootstrap.json is there, its keys work, and the file is whole.
func TestBootstrapAppears(t *testing.T) {
	for range 3 {
		n := &node{data: filepath.Join(t.TempDir(), "data"), addr: freeAddr(t)}
		n.launch(t)
		t.Cleanup(func() { _ = n.kill() })
		text, err := os.ReadFile(filepath.Join(n.data, "bootstrap.json"))
		for end := time.Now().Add(readyWithin); err != nil && time.Now().Before(end); {
			text, err = os.ReadFile(filepath.Join(n.data, "bootstrap.json"))
		}
		if err != nil {
			t.Fatalf("%v; it printed:\n%s", err, n.out)
		}
		if err := json.Unmarshal(text, &n.boot); err != nil {
			t.Fatalf("the file is not whole: %v", err)
		}
		for path, c := range map[string]client{"/v1/sessions": n.app(), "/v1/apps": n.admin()} {
			if r, err := c.try("GET", path, nil); err != nil || r.status != http.StatusOK {
				t.Errorf("GET %s with a key of bootstrap.json: %+v, %v", path, r, err)
			}
		}
	}
}

// TestAnyPort lets the system choose the port: the program must print, and
// write to bootstrap.json, the address it really has.
func TestAnyPort(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	cmd := exec.Command(program, "serve", "--data", data, "--listen", "127.0.0.1:0", "--metrics-listen", "")
	cmd.Env = environ()
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var stderr output
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	timer := time.AfterFunc(readyWithin, func() { _ = cmd.Process.Kill() })
	defer timer.Stop()
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	address := regexp.MustCompile(`http://127\.0\.0\.1:[1-9][0-9]*`)
	found := ""
	lines := bufio.NewScanner(stdout)
	for found == "" && lines.Scan() {
		found = address.FindString(lines.Text())
	}
	if found == "" {
		t.Fatalf("no address was printed; standard error:\n%s", &stderr)
	}
	answer, err := http.Get(found + "/healthz")
	if err != nil {
		t.Fatalf("the printed address does not answer: %v", err)
	}
	answer.Body.Close()
	text, err := os.ReadFile(filepath.Join(data, "bootstrap.json"))
	if err != nil {
		t.Fatal(err)
	}
	var b bootstrap
	if err := json.Unmarshal(text, &b); err != nil || b.URL != found || b.App == "" || b.APIKey == "" || b.AdminKey == "" {
		t.Errorf("bootstrap.json says url %q (%v), the program printed %q", b.URL, err, found)
	}
	info, err := os.Stat(filepath.Join(data, "bootstrap.json"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("bootstrap.json has mode %v (%v), want 0600", info.Mode(), err)
	}
}

// listenAt listens on an address of freeAddr.
func listenAt(addr string) (net.Listener, error) { return net.Listen("tcp", addr) }
