package compat

import (
	"bufio"
	"encoding/json"
	"io"
	"maps"
	"net"
	"os/exec"
	"sync"
	"testing"
	"time"
)

// agent is a process of Node.js with a client of the SDK; see node_sdk_agent.mjs.
type agent struct {
	t      *testing.T
	cmd    *exec.Cmd
	stdin  io.Writer
	stderr *output
	events chan agentLine // what it says unasked

	mu      sync.Mutex
	next    int                    // guarded by mu
	waiting map[int]chan agentLine // guarded by mu
}

// agentLine is what an agent says.
type agentLine struct {
	ID      int     `json:"id"`
	Error   string  `json:"error"`
	Outcome string  `json:"outcome"`
	Event   string  `json:"event"` // id of the session that it heard was revoked
	At      int64   `json:"at"`    // µs since 1970
	US      float64 `json:"us"`
	MS      float64 `json:"ms"`
	Status  struct {
		Connected bool   `json:"connected"`
		Node      string `json:"node"`
	} `json:"status"`
}

// newAgent starts a client with the options, and waits until it has a lease.
func newAgent(t *testing.T, options object) *agent {
	t.Helper()
	cmd := exec.Command("node", "--import", "./node_sdk_resolve.mjs", "node_sdk_agent.mjs")
	a := &agent{t: t, cmd: cmd, stderr: &output{}, events: make(chan agentLine, 2000), waiting: map[int]chan agentLine{}}
	cmd.Env, cmd.Stderr = environ(), a.stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatalf("start node: %v", err)
	}
	a.stdin = stdin
	read := make(chan struct{})
	go func() {
		defer close(read)
		a.read(stdout)
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-read
		_ = cmd.Wait()
	})
	a.call("create", object{"options": options})
	return a
}

func (a *agent) read(stdout io.Reader) {
	lines := bufio.NewScanner(stdout)
	for lines.Scan() {
		var l agentLine
		if err := json.Unmarshal(lines.Bytes(), &l); err != nil {
			a.t.Errorf("the agent said %s: %v", lines.Bytes(), err)
			continue
		}
		if l.Event != "" {
			a.events <- l
			continue
		}
		a.mu.Lock()
		c := a.waiting[l.ID]
		delete(a.waiting, l.ID)
		a.mu.Unlock()
		c <- l
	}
}

// call lets the agent do something, and waits for it.
func (a *agent) call(op string, with object) agentLine {
	a.t.Helper()
	c := make(chan agentLine, 1)
	a.mu.Lock()
	a.next++
	id := a.next
	a.waiting[id] = c
	line := object{"id": id, "op": op}
	maps.Copy(line, with)
	text, err := json.Marshal(line)
	if err == nil {
		_, err = a.stdin.Write(append(text, '\n'))
	}
	a.mu.Unlock()
	if err != nil {
		a.t.Fatalf("ask the agent: %v", err)
	}
	select {
	case l := <-c:
		if l.Error != "" {
			a.t.Fatalf("agent, %s: %s\n%s", op, l.Error, a.stderr)
		}
		return l
	case <-time.After(60 * time.Second):
		a.t.Fatalf("agent, %s: no answer\n%s", op, a.stderr)
		return agentLine{}
	}
}

// wants waits until a verify of the JWT has the outcome, and returns how long that took.
func (a *agent) wants(outcome, jwt string, within time.Duration) time.Duration {
	a.t.Helper()
	l := a.call("until", object{"jwt": jwt, "outcome": outcome, "ms": within.Milliseconds()})
	if l.Outcome != outcome {
		a.t.Fatalf("verify says %q after %.0f ms, want %q\n%s", l.Outcome, l.MS, outcome, a.stderr)
	}
	return time.Duration(l.MS * float64(time.Millisecond))
}

// verify returns what a verify of the JWT says now.
func (a *agent) verify(jwt string) string {
	a.t.Helper()
	return a.call("verify", object{"jwt": jwt}).Outcome
}

// hole is a TCP proxy that can stop passing anything on, without closing anything.
type hole struct {
	addr string
	to   string

	mu    sync.Mutex
	open  *sync.Cond
	shut  bool       // guarded by mu
	ended bool       // guarded by mu
	conns []net.Conn // guarded by mu: from both sides in turn
}

func newHole(t *testing.T, to string) *hole {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h := &hole{addr: l.Addr().String(), to: to}
	h.open = sync.NewCond(&h.mu)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			down, err := l.Accept()
			if err != nil {
				return
			}
			up, err := net.Dial("tcp", h.to)
			if err != nil {
				down.Close()
				continue
			}
			h.mu.Lock()
			h.conns = append(h.conns, down, up)
			h.mu.Unlock()
			wg.Go(func() { h.pass(down, up) })
			wg.Go(func() { h.pass(up, down) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		h.mu.Lock()
		h.ended = true
		for _, c := range h.conns {
			c.Close()
		}
		h.mu.Unlock()
		h.open.Broadcast()
		wg.Wait()
	})
	return h
}

// pass copies from one end to the other, but for nothing while the hole is shut.
func (h *hole) pass(from, to net.Conn) {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		h.mu.Lock()
		for h.shut && !h.ended {
			h.open.Wait()
		}
		h.mu.Unlock()
		if n > 0 {
			if _, err := to.Write(buf[:n]); err != nil {
				break
			}
		}
		if err != nil {
			break
		}
	}
	from.Close()
	to.Close()
}

// cut closes all connections and returns how many there were.
func (h *hole) cut() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := len(h.conns) / 2
	for _, c := range h.conns {
		c.Close()
	}
	h.conns = nil
	return n
}

func (h *hole) stop() { h.set(true) }

// start lets what was held back pass on.
func (h *hole) start() { h.set(false) }

func (h *hole) set(shut bool) {
	h.mu.Lock()
	h.shut = shut
	h.mu.Unlock()
	h.open.Broadcast()
}
