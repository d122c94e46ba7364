package compat

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestNodeSDK runs what the Node.js SDK is tested with against a small node of those
// tests themselves.
func TestNodeSDK(t *testing.T) {
	t.Parallel()
	needPackages(t, "jose", "express", "fastify")
	cmd := exec.CommandContext(t.Context(), "node", "--import", "./node_sdk_resolve.mjs", "--test", "--test-reporter=tap",
		"node_sdk_verify.test.mjs", "node_sdk_feed.test.mjs", "node_sdk_adapters.test.mjs")
	cmd.Env = append(environ(), "NODE_ENV=test")
	out, err := cmd.CombinedOutput()
	passed := strings.Count(string(out), "\n    ok ")
	if err != nil || passed < 60 {
		t.Fatalf("%v; %d passed\n%s", err, passed, out)
	}
	t.Logf("Node.js SDK: %d tests passed", passed)
}

// cluster is a broker and two nodes on it, which are one service.
type cluster struct {
	broker *exec.Cmd
	a, b   *node
}

// newCluster starts one, and ends it with the test.
func newCluster(t *testing.T) *cluster {
	t.Helper()
	dir := t.TempDir()
	natsAddr := freeAddr(t)
	conf := filepath.Join(dir, "nats.conf")
	text := fmt.Sprintf("listen: %s\njetstream { store_dir: %q, sync_interval: always }\n", natsAddr, filepath.Join(dir, "nats"))
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c := &cluster{broker: exec.Command(program, "broker", "--nats-config", conf)}
	out := &output{}
	c.broker.Env, c.broker.Stdout, c.broker.Stderr = environ(), out, out
	if err := c.broker.Start(); err != nil {
		t.Fatalf("start the broker: %v", err)
	}
	t.Cleanup(func() {
		_ = c.broker.Process.Kill()
		_ = c.broker.Wait()
	})
	for end := time.Now().Add(readyWithin); ; time.Sleep(20 * time.Millisecond) {
		conn, err := net.Dial("tcp", natsAddr)
		if err == nil {
			conn.Close()
			break
		}
		if time.Now().After(end) {
			t.Fatalf("the broker was not there in %v; it printed:\n%s", readyWithin, out)
		}
	}
	args := []string{"--nats", "nats://" + natsAddr, "--public-url", "https://sessions.example"}
	c.a = &node{data: filepath.Join(dir, "a"), addr: freeAddr(t), args: append(slices.Clone(args), "--init", "--node", "a", "--max-bytes", "256MiB")}
	c.a.start(t)
	t.Cleanup(func() { _ = c.a.kill() })
	c.b = &node{data: filepath.Join(dir, "b"), addr: freeAddr(t), boot: c.a.boot,
		args: append(slices.Clone(args), "--node", "b", "--cluster-key-file", filepath.Join(dir, "a", "cluster.key"))}
	c.b.up(t)
	t.Cleanup(func() { _ = c.b.kill() })
	return c
}

// up starts a node that has no keys of its own.
func (n *node) up(t *testing.T) {
	t.Helper()
	n.launch(t)
	if err := n.awaitReady(); err != nil {
		_ = n.kill()
		t.Fatalf("%v; it printed:\n%s", err, n.out)
	}
}

// agent is a process of Node.js with a client of the SDK; see node_sdk_agent.mjs.
type agent struct {
	t      *testing.T
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
	a := &agent{t: t, stderr: &output{}, events: make(chan agentLine, 2000), waiting: map[int]chan agentLine{}}
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

func (c *cluster) options(more object, urls ...string) object {
	o := object{"baseUrl": urls, "app": c.a.boot.App, "apiKey": c.a.boot.APIKey, "issuer": "https://sessions.example"}
	for k, v := range more {
		o[k] = v
	}
	return o
}

// TestNodeSDKLive lets the SDK follow one of two nodes, and does to them what may be done.
func TestNodeSDKLive(t *testing.T) {
	t.Parallel()
	needPackages(t, "jose")
	c := newCluster(t)
	t.Run("revoked on another node", func(t *testing.T) { testSDKRevoked(t, c) })
	t.Run("user and app", func(t *testing.T) { testSDKUser(t, c) })
	t.Run("keys", func(t *testing.T) { testSDKKeys(t, c) })
	t.Run("black hole", func(t *testing.T) { testSDKBlackHole(t, c) })
	t.Run("outage", func(t *testing.T) { testSDKOutage(t, c) })
}

// testSDKRevoked revokes sessions on one node, one after the other, and measures how
// long a client of the other still takes their JWTs.
func testSDKRevoked(t *testing.T, c *cluster) {
	const n = 1000
	sdk := newAgent(t, c.options(object{"whenStale": "refuse"}, c.b.base))
	jwts := map[string]string{}
	var sids []string
	var mu sync.Mutex
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range n / 8 {
				s := c.a.app().do(t, "POST", "/v1/sessions", object{"user_id": "ada"})
				mu.Lock()
				jwts[s.Session.SessionID] = s.SessionJWT
				sids = append(sids, s.Session.SessionID)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	sdk.call("watch", object{"jwts": jwts})
	var cached []float64
	for _, sid := range sids {
		for i := range 2 {
			l := sdk.call("verify", object{"jwt": jwts[sid]})
			if l.Outcome != "good local" {
				t.Fatalf("before it was revoked verify says %q\n%s", l.Outcome, sdk.stderr)
			}
			if i == 1 {
				cached = append(cached, l.US)
			}
		}
	}
	var took []float64 // ms from the answer of the revoke
	for _, sid := range sids {
		c.a.app().do(t, "POST", "/v1/sessions/revoke", object{"session_id": sid}).want(t, http.StatusOK)
		answered := time.Now()
		select {
		case e := <-sdk.events:
			if e.Event != sid || e.Outcome != "revoked" {
				t.Fatalf("heard of %s, then verify says %q; revoked was %s", e.Event, e.Outcome, sid)
			}
			took = append(took, max(0, float64(e.At-answered.UnixMicro())/1000))
		case <-time.After(10 * time.Second):
			t.Fatalf("a revocation was not heard\n%s", sdk.stderr)
		}
	}
	p := func(of []float64, part float64) float64 { return of[int(float64(len(of)-1)*part)] }
	slices.Sort(took)
	slices.Sort(cached)
	t.Logf("%d revocations on another node, from their answer until verify refuses: median %.2f ms, p99 %.2f ms, most %.2f ms",
		len(took), p(took, 0.5), p(took, 0.99), p(took, 1))
	t.Logf("verify of a JWT that was seen before: median %.1f µs, p99 %.1f µs", p(cached, 0.5), p(cached, 0.99))
	if p(took, 0.99) > 50 {
		t.Errorf("p99 is %.2f ms, want at most 50", p(took, 0.99))
	}
}

func testSDKUser(t *testing.T, c *cluster) {
	sdk := newAgent(t, c.options(nil, c.b.base))
	app := c.a.app()
	first, kept := app.create(t, "eve"), app.create(t, "eve")
	other := app.create(t, "mallory")
	for _, s := range []*reply{first, kept, other} {
		if got := sdk.verify(s.SessionJWT); got != "good local" {
			t.Fatalf("verify says %q", got)
		}
	}
	app.do(t, "POST", "/v1/sessions/revoke", object{"user_id": "eve", "except_session_id": kept.Session.SessionID}).want(t, http.StatusOK)
	// Its JWT was minted a moment before: only the API knows on which side of it.
	sdk.wants("revoked", first.SessionJWT, 10*time.Second)
	for _, s := range []*reply{kept, other} {
		if got := sdk.verify(s.SessionJWT); got != "good local" {
			t.Errorf("of a session that was not meant verify says %q", got)
		}
	}
	again := app.create(t, "eve")
	if got := sdk.verify(again.SessionJWT); got != "good api" {
		t.Errorf("of a session from right after it verify says %q, want the API to tell", got)
	}
	if got := sdk.verify(again.SessionJWT); got != "good local" {
		t.Errorf("and then %q, want the answer remembered", got)
	}
	if got := sdk.verify(again.SessionToken); got != "good api" {
		t.Errorf("of a token verify says %q", got)
	}
}

// testSDKKeys rotates the app's keys, in order and because one was compromised.
func testSDKKeys(t *testing.T, c *cluster) {
	sdk := newAgent(t, c.options(object{"whenStale": "refuse"}, c.b.base))
	app := c.a.app()
	s := app.create(t, "ada")
	if got := sdk.verify(s.SessionJWT); got != "good local" {
		t.Fatalf("verify says %q", got)
	}
	path := "/v1/apps/" + c.a.boot.App + "/keys/rotate"
	c.a.admin().do(t, "POST", path, object{}).want(t, http.StatusOK)
	if got := sdk.verify(app.create(t, "ada").SessionJWT); got != "good local" {
		t.Errorf("after a rotation verify says %q", got)
	}
	kid, _ := part(t, s.SessionJWT, 0)["kid"].(string)
	c.a.admin().do(t, "POST", path, object{"compromised": kid}).want(t, http.StatusOK)
	took := sdk.wants("invalid", s.SessionJWT, 10*time.Second)
	t.Logf("a JWT of a compromised key is refused after %v", took)
	fresh := app.do(t, "POST", "/v1/sessions/authenticate", object{"session_token": s.SessionToken}).want(t, http.StatusOK)
	sdk.wants("good local", fresh.SessionJWT, 15*time.Second)
}

// testSDKBlackHole cuts the client off without a word: TCP goes on, and no byte arrives.
func testSDKBlackHole(t *testing.T, c *cluster) {
	const lease = 2 * time.Second
	proxy := newHole(t, c.b.addr)
	s := c.a.app().create(t, "ada")
	refuse := newAgent(t, c.options(object{"whenStale": "refuse", "leaseMs": lease.Milliseconds()}, "http://"+proxy.addr))
	ask := newAgent(t, c.options(object{"whenStale": "api", "leaseMs": lease.Milliseconds()}, "http://"+proxy.addr, c.a.base))
	for _, sdk := range []*agent{refuse, ask} {
		if got := sdk.verify(s.SessionJWT); got != "good local" {
			t.Fatalf("verify says %q", got)
		}
	}
	proxy.stop()
	cut := time.Now()
	c.a.app().do(t, "POST", "/v1/sessions/revoke", object{"session_id": s.Session.SessionID}).want(t, http.StatusOK)
	refuse.wants("stale", s.SessionJWT, 30*time.Second)
	stale := time.Since(cut)
	ask.wants("revoked", s.SessionJWT, 30*time.Second)
	t.Logf("black-holed, with a lease of %v: stale after %v; refused by way of another node after at most %v", lease, stale, time.Since(cut))
	if stale > lease+500*time.Millisecond {
		t.Errorf("the JWT was taken for %v, longer than the lease of %v", stale, lease)
	}
	proxy.start()
	refuse.wants("revoked", s.SessionJWT, 30*time.Second)
	refuse.wants("good local", c.a.app().create(t, "ada").SessionJWT, 30*time.Second)
}

// testSDKOutage kills the node that is followed, then both, and starts them again.
func testSDKOutage(t *testing.T, c *cluster) {
	lease := object{"whenStale": "refuse", "leaseMs": 4000}
	sdk := newAgent(t, c.options(lease, c.b.base, c.a.base))
	ask := newAgent(t, c.options(object{"leaseMs": 4000}, c.b.base, c.a.base))
	app := c.a.app()
	s, gone := app.create(t, "ada"), app.create(t, "ada")
	if got := sdk.verify(s.SessionJWT); got != "good local" {
		t.Fatalf("verify says %q", got)
	}
	_ = c.b.kill()
	for end := time.Now().Add(30 * time.Second); sdk.call("status", nil).Status.Node != "a" || !sdk.call("status", nil).Status.Connected; {
		if got := sdk.verify(s.SessionJWT); got != "good local" {
			t.Fatalf("while it changes nodes verify says %q\n%s", got, sdk.stderr)
		}
		if time.Now().After(end) {
			t.Fatalf("the client did not go to the other node\n%s", sdk.stderr)
		}
	}
	app.do(t, "POST", "/v1/sessions/revoke", object{"session_id": gone.Session.SessionID}).want(t, http.StatusOK)
	sdk.wants("revoked", gone.SessionJWT, 10*time.Second)
	sdk.wants("good local", s.SessionJWT, 10*time.Second)
	_ = c.a.kill()
	sdk.wants("stale", s.SessionJWT, 10*time.Second)
	ask.wants("unavailable", s.SessionJWT, 10*time.Second)
	if got := sdk.verify(gone.SessionJWT); got != "revoked" {
		t.Errorf("with all nodes gone verify says %q of what was revoked", got)
	}
	c.a.start(t)
	c.b.up(t)
	sdk.wants("good local", s.SessionJWT, 60*time.Second)
	ask.wants("good local", s.SessionJWT, 60*time.Second)
	sdk.wants("revoked", gone.SessionJWT, 10*time.Second)
}

// hole is a TCP proxy that can stop passing anything on, without closing anything.
type hole struct {
	addr string
	to   string

	mu    sync.Mutex
	open  *sync.Cond
	shut  bool // guarded by mu
	ended bool // guarded by mu
	conns []net.Conn
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

func (h *hole) stop() { h.set(true) }

// start lets what was held back pass on.
func (h *hole) start() { h.set(false) }

func (h *hole) set(shut bool) {
	h.mu.Lock()
	h.shut = shut
	h.mu.Unlock()
	h.open.Broadcast()
}
