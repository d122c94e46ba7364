package client_test

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node"
	"github.com/revocast/revocast/node/api"
	"github.com/revocast/revocast/node/client"
)

func TestMain(m *testing.M) {
	flag.Parse()
	if flag.Lookup("test.bench").Value.String() == "" {
		// Timers of a synctest bubble are not safe on two processors at once in the
		// runtime of Go 1.26.8, see the tests of package node.
		runtime.GOMAXPROCS(1)
	}
	goleak.VerifyTestMain(m)
}

// world is nodes of one region in one process, on logs in memory, that are asked
// over connections in memory, so that all of it runs in a synctest bubble as well.
type world struct {
	t            testing.TB
	nodes        []*peer
	home, config *events.Memory
	mesh         *events.MemoryMesh
	keys         *events.ClusterKeys
	begin        time.Time
	access       node.Bootstrap
	admin        string
}

const publicURL = "https://id.example.com"

// bubble runs the test in a synctest bubble, with that many nodes.
func bubble(t *testing.T, nodes int, test func(t *testing.T, w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { test(t, newWorld(t, nodes)) })
}

func newWorld(t testing.TB, nodes int) *world {
	t.Helper()
	w := &world{t: t, begin: time.Now(), mesh: new(events.MemoryMesh), access: node.NewBootstrap("acme")}
	w.admin = w.access.Admin
	var err error
	if w.keys, err = events.NewClusterKeys(events.NewClusterKey()); err != nil {
		t.Fatal(err)
	}
	w.home = events.NewMemory("eu", 2, events.MemoryConfig{Clock: w.clock()})
	w.config = events.NewMemory(events.ConfigRegion, 1, events.MemoryConfig{Clock: w.clock()})
	for i := range nodes {
		p := &peer{w: w, name: fmt.Sprintf("n%d", i+1), conns: map[*link]bool{}}
		w.nodes = append(w.nodes, p)
		p.start()
		if i == 0 {
			if err := p.node.Bootstrap(t.Context(), w.access); err != nil {
				t.Fatalf("bootstrap: %v", err)
			}
		}
	}
	for _, p := range w.nodes {
		w.await("node "+p.name+" knows the app, and what was revoked before", func() bool {
			var recent api.Revocations
			status := w.ask(p, w.access.APIKey, "GET", "/v1/revocations", nil, &recent)
			return status == http.StatusOK && strings.Contains(recent.Revision, "eu:")
		})
	}
	return w
}

func (w *world) clock() *testClock { return &testClock{begin: w.begin} }

// testClock is the time of the bubble, or of the machine.
type testClock struct {
	begin time.Time

	mu    sync.Mutex    // guards what follows
	slept time.Duration // what Boot has counted in suspend
	skew  time.Duration // of Wall
}

func (c *testClock) Boot() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Since(c.begin) + time.Hour + c.slept
}

func (c *testClock) Wall() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Add(c.skew)
}

// move lets the machine sleep for so long, and moves its wall clock.
func (c *testClock) move(slept, skew time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.slept += slept
	c.skew += skew
}

// peer is a node through its lives, and the way to it.
type peer struct {
	w    *world
	name string
	node *node.Node
	log  *events.MemoryLink // to the home stream
	all  http.Handler       // what the node answers, without the way to it
	end  func()

	mu     sync.Mutex // guards what follows
	conns  map[*link]bool
	frozen chan struct{} // while nothing passes: closed when it does again
	down   bool          // connections are refused
	listen chan net.Conn
	count  map[string]int // requests by path
	fail   map[string]int // status with which requests to a path fail; 0: the connection is cut
}

// start begins a life of the node.
func (p *peer) start() {
	w := p.w
	w.t.Helper()
	mesh := w.mesh.Link(w.keys)
	mesh.SetGroup("eu")
	home := w.home.Link()
	p.log = home
	n, err := node.New(node.Config{
		Name: p.name, Version: "test", PublicURL: publicURL,
		Settings: w.config.Link(), Home: home, Archive: home, Keys: w.keys, Mesh: mesh,
		Durability: func() string { return "fsync" }, Clock: w.clock(),
	})
	if err != nil {
		w.t.Fatalf("new node: %v", err)
	}
	p.node = n
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := n.Run(ctx); err != nil {
			w.t.Errorf("run node: %v", err)
		}
	})
	listener := &memListener{conns: make(chan net.Conn), closed: make(chan struct{})}
	p.mu.Lock()
	p.listen, p.down = listener.conns, false
	p.mu.Unlock()
	handler := n.Handler()
	p.all = handler
	server := &http.Server{Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if status, ok := p.counted(r); ok {
			if status == 0 {
				panic(http.ErrAbortHandler)
			}
			rw.WriteHeader(status)
			return
		}
		handler.ServeHTTP(rw, r)
	})}
	running.Go(func() { _ = server.Serve(listener) })
	var once sync.Once
	p.end = func() {
		once.Do(func() {
			p.mu.Lock()
			p.down = true
			p.mu.Unlock()
			p.thaw()
			cancel()
			_ = server.Close()
			p.cut()
			running.Wait()
		})
	}
	w.t.Cleanup(func() { p.end() })
	select {
	case <-n.Ready():
	case <-time.After(20 * time.Second):
		w.t.Fatalf("node %s is not ready after 20 s", p.name)
	}
}

// counted counts the request; ok if it is to fail, with that status.
func (p *peer) counted(r *http.Request) (status int, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.count == nil {
		p.count = map[string]int{}
	}
	p.count[r.URL.Path]++
	status, ok = p.fail[r.URL.Path]
	return status, ok
}

// asked returns how often the path was asked for.
func (p *peer) asked(path string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.count[path]
}

// fails lets requests to the path fail with the status, 0 by a connection that is
// cut; -1: no longer.
func (p *peer) fails(path string, status int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.fail == nil {
		p.fail = map[string]int{}
	}
	if p.fail[path] = status; status < 0 {
		delete(p.fail, path)
	}
}

// freeze lets nothing pass to the node or from it, on connections that there are and
// on new ones, and closes none: what a firewall does that has lost its table.
func (p *peer) freeze() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.frozen == nil {
		p.frozen = make(chan struct{})
	}
}

// thaw ends freeze.
func (p *peer) thaw() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.frozen != nil {
		close(p.frozen)
		p.frozen = nil
	}
}

// cut closes all connections to the node.
func (p *peer) cut() {
	p.mu.Lock()
	conns := p.conns
	p.conns = map[*link]bool{}
	p.mu.Unlock()
	for c := range conns {
		_ = c.Close()
	}
}

// gate returns once something passes, or an error when closed is closed.
func (p *peer) gate(closed chan struct{}) error {
	for {
		p.mu.Lock()
		frozen := p.frozen
		p.mu.Unlock()
		if frozen == nil {
			return nil
		}
		select {
		case <-frozen:
		case <-closed:
			return net.ErrClosed
		}
	}
}

// dial connects to the node.
func (p *peer) dial(ctx context.Context) (net.Conn, error) {
	p.mu.Lock()
	listen, down := p.listen, p.down
	p.mu.Unlock()
	if down {
		return nil, fmt.Errorf("node %s is down", p.name)
	}
	ours, theirs := net.Pipe()
	select {
	case listen <- theirs:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	l := &link{Conn: ours, p: p, closed: make(chan struct{})}
	p.mu.Lock()
	p.conns[l] = true
	p.mu.Unlock()
	return l, nil
}

// link is the client's end of a connection.
type link struct {
	net.Conn
	p      *peer
	once   sync.Once
	closed chan struct{}
}

func (l *link) Read(b []byte) (int, error) {
	n, err := l.Conn.Read(b)
	if shut := l.p.gate(l.closed); shut != nil {
		return 0, shut
	}
	return n, err
}

func (l *link) Write(b []byte) (int, error) {
	if err := l.p.gate(l.closed); err != nil {
		return 0, err
	}
	return l.Conn.Write(b)
}

func (l *link) Close() error {
	l.once.Do(func() { close(l.closed) })
	l.p.mu.Lock()
	delete(l.p.conns, l)
	l.p.mu.Unlock()
	return l.Conn.Close()
}

// memListener accepts connections in memory.
type memListener struct {
	conns  chan net.Conn
	once   sync.Once
	closed chan struct{}
}

func (l *memListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *memListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *memListener) Addr() net.Addr { return &net.UnixAddr{Name: "memory", Net: "unix"} }

// http returns a client for which http://n1 is the first node, and so on.
func (w *world) http() *http.Client {
	t := &http.Transport{DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
		host, _, _ := net.SplitHostPort(addr)
		for _, p := range w.nodes {
			if p.name == host {
				return p.dial(ctx)
			}
		}
		return nil, fmt.Errorf("no node %s", host)
	}}
	w.t.Cleanup(t.CloseIdleConnections)
	return &http.Client{Transport: t}
}

// client returns a client of the app at the first node.
func (w *world) client(changes ...func(*client.Client)) *client.Client {
	c := &client.Client{Base: "http://n1", App: w.access.App, APIKey: w.access.APIKey, HTTP: w.http()}
	for _, change := range changes {
		change(c)
	}
	w.t.Cleanup(c.CloseIdleConnections)
	return c
}

// run runs the client until the test ends, or stop is called.
func (w *world) run(c *client.Client) (stop func()) {
	w.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := c.Run(ctx); err != nil {
			w.t.Errorf("run client: %v", err)
		}
	})
	stop = func() { cancel(); running.Wait() }
	w.t.Cleanup(stop)
	return stop
}

// ready runs the client and waits until it holds a lease.
func (w *world) ready(c *client.Client) (stop func()) {
	w.t.Helper()
	stop = w.run(c)
	select {
	case <-c.Ready():
	case <-time.After(20 * time.Second):
		w.t.Fatalf("no lease after 20 s: %+v", c.Status())
	}
	return stop
}

// ask sends a request to a node by itself and reads the answer into out.
func (w *world) ask(p *peer, key, method, path string, body, out any) (status int) {
	w.t.Helper()
	var content bytes.Buffer
	if body != nil {
		if err := json.NewEncoder(&content).Encode(body); err != nil {
			w.t.Fatal(err)
		}
	}
	r, err := http.NewRequestWithContext(w.t.Context(), method, path, &content)
	if err != nil {
		w.t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+key)
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	rec := newRecorder()
	p.all.ServeHTTP(rec, r)
	if out != nil {
		if err := json.Unmarshal(rec.body.Bytes(), out); err != nil {
			w.t.Fatalf("%s %s: %v: %s", method, path, err, rec.body.Bytes())
		}
	}
	return rec.status
}

// must is ask for what must succeed.
func (w *world) must(p *peer, key, method, path string, body, out any) {
	w.t.Helper()
	var raw json.RawMessage
	if status := w.ask(p, key, method, path, body, &raw); status > 299 {
		w.t.Fatalf("%s %s: %d %s", method, path, status, raw)
	}
	if out != nil {
		if err := json.Unmarshal(raw, out); err != nil {
			w.t.Fatal(err)
		}
	}
}

// await waits until it is so, for 30 s at most.
func (w *world) await(what string, so func() bool) {
	w.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !so(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			w.t.Fatalf("waited for 30 s: %s", what)
		}
	}
}

// recorder is an answer as it is written.
type recorder struct {
	status int
	header http.Header
	body   bytes.Buffer
}

func newRecorder() *recorder { return &recorder{status: http.StatusOK, header: http.Header{}} }

func (r *recorder) Header() http.Header         { return r.header }
func (r *recorder) WriteHeader(status int)      { r.status = status }
func (r *recorder) Write(b []byte) (int, error) { return r.body.Write(b) }

func (r *recorder) response(of *http.Request) *http.Response {
	return &http.Response{
		StatusCode: r.status, Header: r.header, Body: io.NopCloser(&r.body), ContentLength: int64(r.body.Len()), Request: of,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
	}
}
