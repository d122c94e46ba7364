package node_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node"
)

var benchSessions = flag.Int("verify-sessions", 10_000, "sessions that the node of BenchmarkVerify and BenchmarkVerifyInProcess holds")

// Limits of the servers, those that serve gives them: deadlines cost something.
const (
	benchRead, benchWrite, benchIdle = 10 * time.Second, 30 * time.Second, 90 * time.Second
	benchHead                        = 20 << 10
)

// BenchmarkVerify compares /v1/verify on both listeners with a bare handler of
// net/http that sets as many headers of the same size and looks at nothing: in
// one run, in alternating rounds whose order turns, through real servers on
// loopback. The clients are another process, so that their CPU does not thin the
// ratios; each request has another token.
//
// The bare handler does not even read the body of a POST, which spares net/http
// its watch for a client that goes away; one that reads it and does nothing else
// is measured beside it.
//
// The figures are medians over the rounds, main of the main listener and lean of
// the other. x-cpu is the CPU of this process against that for the bare handler,
// x-rate the requests in the same time (on few cores the clients slow all of
// them, and so draw it towards 1).
func BenchmarkVerify(b *testing.B) {
	n, tokens, jwt := benchNode(b)
	sample := httptest.NewRecorder()
	n.Handler().ServeHTTP(sample, benchRequest(tokens[0]))
	if sample.Code != http.StatusNoContent {
		b.Fatalf("verify: %d", sample.Code)
	}
	load := newLoad(b)
	bare := bareHandler(sample.Header())
	servers := []string{serveOn(b, bare), serveOn(b, n.Handler()), serveLean(b, n), serveOn(b, readingHandler(bare))}
	files := map[string]string{"token": load.file(tokens), "jwt": load.file([]string{jwt})}
	for _, method := range []string{"GET", "POST"} {
		for _, kind := range []string{"token", "jwt"} {
			b.Run(method+"/"+kind, func(b *testing.B) { benchServers(b, load, servers, method, kind, files[kind]) })
		}
	}
}

// benchServers loads the bare handler and the two listeners in turns.
func benchServers(b *testing.B, load *load, servers []string, method, kind, file string) {
	const requests = 8000
	names := []string{"bare", "main", "lean", "reads"}
	if method == "GET" {
		names, servers = names[:3], servers[:3]
	}
	var spent, took [4][]float64
	for _, addr := range servers {
		load.run(addr, method, kind, file, requests)
	}
	for round := 0; b.Loop(); round++ {
		for i := range servers {
			if round%2 == 1 {
				i = len(servers) - 1 - i
			}
			before, begun := cpu(), time.Now()
			load.run(servers[i], method, kind, file, requests)
			spent[i] = append(spent[i], float64(cpu()-before)/requests)
			took[i] = append(took[i], float64(time.Since(begun))/requests)
		}
	}
	for i, name := range names {
		b.ReportMetric(median(spent[i]), "cpu-ns/"+name)
		if i > 0 {
			b.ReportMetric(median(ratios(spent[i], spent[0])), "x-cpu-"+name)
			b.ReportMetric(median(ratios(took[0], took[i])), "x-rate-"+name)
		}
	}
	b.ReportMetric(0, "ns/op") // of all together, which says nothing
}

func ratios(a, b []float64) (all []float64) {
	for i := range a {
		all = append(all, a[i]/b[i])
	}
	return all
}

func median(all []float64) float64 {
	all = slices.Sorted(slices.Values(all))
	return all[len(all)/2]
}

// BenchmarkVerifyInProcess is Node.Verify with random keys over all sessions, as
// CPU time, beside one reading of the clock in the same run.
func BenchmarkVerifyInProcess(b *testing.B) {
	n, tokens, _ := benchNode(b)
	ctx := b.Context()
	// The session of each verify is drawn, but its token lies in memory behind the
	// one before: that of a real request was just read from its connection, so it
	// should be in the caches where the session is not.
	var text strings.Builder
	ends := make([]int, 0, len(tokens))
	for _, i := range rand.New(rand.NewPCG(1, 2)).Perm(len(tokens)) {
		text.WriteString(tokens[i])
		ends = append(ends, text.Len())
	}
	inOrder, from := make([]string, len(ends)), 0
	for i, end := range ends {
		inOrder[i], from = text.String()[from:end], end
	}
	// Nothing here makes garbage, and what the log in memory made must not count.
	runtime.GC()
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	b.Run("verify", func(b *testing.B) {
		b.ReportAllocs()
		before := cpu()
		i := 0
		for b.Loop() {
			if _, err := n.Verify(ctx, inOrder[i%len(inOrder)], node.VerifyOptions{Background: true}); err != nil {
				b.Fatal(err)
			}
			i++
		}
		b.ReportMetric(float64(cpu()-before)/float64(i), "cpu-ns/verify")
	})
	b.Run("clock", func(b *testing.B) {
		before := cpu()
		i := 0
		for b.Loop() {
			events.SystemClock{}.Boot()
			i++
		}
		b.ReportMetric(float64(cpu()-before)/float64(i), "cpu-ns/clock")
	})
	b.Run("wall", func(b *testing.B) {
		for b.Loop() {
			events.SystemClock{}.Wall()
		}
	})
}

// field is a header of the sample answer.
type field struct {
	name   string
	values []string
}

func fields(like http.Header) (all []field) {
	for k, v := range like {
		all = append(all, field{k, v})
	}
	return all
}

// bareHandler sets the headers as handlers usually do.
func bareHandler(like http.Header) http.Handler {
	all := fields(like)
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		h := w.Header()
		for i := range all {
			h.Set(all[i].name, all[i].values[0])
		}
		w.WriteHeader(http.StatusNoContent)
	})
}

// readingHandler reads the body before h answers.
func readingHandler(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			return
		}
		h.ServeHTTP(w, r)
	})
}

func serveOn(b *testing.B, h http.Handler) string {
	b.Helper()
	s := httptest.NewUnstartedServer(h)
	s.Config.ReadTimeout, s.Config.WriteTimeout, s.Config.IdleTimeout = benchRead, benchWrite, benchIdle
	s.Start()
	b.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

func serveLean(b *testing.B, n *node.Node) string {
	b.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	s := n.VerifyServer(node.VerifyLimits{Read: benchRead, Write: benchWrite, Idle: benchIdle, Head: benchHead})
	var serving sync.WaitGroup
	serving.Go(func() {
		if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			b.Errorf("serve: %v", err)
		}
	})
	b.Cleanup(func() { _ = s.Close(); serving.Wait() })
	return l.Addr().String()
}

// cpu returns the user and system time of this process.
func cpu() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err) // the arguments are constants every system takes
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func benchRequest(token string) *http.Request {
	r := httptest.NewRequest("GET", "/v1/verify", nil)
	r.Header.Set("Authorization", "Bearer "+token)
	return r
}

// benchNode runs a node by the machine's clock, with as many sessions as the flag
// says, and returns their tokens, and a JWT of the first.
func benchNode(b *testing.B) (n *node.Node, tokens []string, jwt string) {
	b.Helper()
	keys, err := events.NewClusterKeys(events.NewClusterKey())
	if err != nil {
		b.Fatal(err)
	}
	home := events.NewMemory("eu", 2, events.MemoryConfig{})
	n, err = node.New(node.Config{
		Name: "n1", Version: "bench", PublicURL: publicURL, Solo: true, Keys: keys,
		Settings: events.NewMemory(events.ConfigRegion, 1, events.MemoryConfig{}), Home: home, Archive: home,
	})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := n.Run(ctx); err != nil {
			b.Errorf("run node: %v", err)
		}
	})
	b.Cleanup(func() { cancel(); running.Wait() })
	<-n.Ready()
	boot := node.NewBootstrap("acme")
	if err := n.Bootstrap(ctx, boot); err != nil {
		b.Fatal(err)
	}
	r := httptest.NewRequest("POST", "/v1/sessions", strings.NewReader(`{"user_id":"user-0"}`))
	r.Header.Set("Authorization", "Bearer "+boot.APIKey)
	w := httptest.NewRecorder()
	n.Handler().ServeHTTP(w, r)
	var c struct {
		Token string `json:"session_token"`
		JWT   string `json:"session_jwt"`
	}
	if err := json.Unmarshal(w.Body.Bytes(), &c); err != nil || w.Code != http.StatusCreated {
		b.Fatalf("create: %d %v", w.Code, err)
	}
	tokens = append(tokens, c.Token)
	// The others straight into the log: a million creates take a minute.
	var last uint64
	for i := 1; i < *benchSessions; i++ {
		token, now := events.NewToken(2), time.Now().UnixMilli()
		sid, _ := token.Key()
		end := now + 24*3_600_000
		m, err := keys.Encode("eu", &events.State{
			App: "acme", User: fmt.Sprintf("user-%d", i), SID: sid, Reason: events.ReasonCreated, CreatedAt: now, ExpiresAt: end, AbsoluteAt: end,
		}, []byte(`{}`), 24*time.Hour)
		if err != nil {
			b.Fatal(err)
		}
		if last, err = home.Append(ctx, m, events.Expectation{}); err != nil {
			b.Fatal(err)
		}
		tokens = append(tokens, token.Reveal())
	}
	for status := 0; status != http.StatusOK && *benchSessions > 1; {
		r := httptest.NewRequest("POST", "/v1/sessions/authenticate", strings.NewReader(
			fmt.Sprintf(`{"session_token":%q,"consistency":{"at_least":"eu:0:%d"}}`, tokens[len(tokens)-1], last)))
		r.Header.Set("Authorization", "Bearer "+boot.APIKey)
		w := httptest.NewRecorder()
		n.Handler().ServeHTTP(w, r) // waits for the position, for half a second
		status = w.Code
	}
	return n, tokens, c.JWT
}

// load is a process of clients. It is this test program again, see
// TestBenchmarkClients.
type load struct {
	b   *testing.B
	in  io.Writer
	out *bufio.Reader
}

const loadVariable = "REVOCAST_BENCH_CLIENTS"

func newLoad(b *testing.B) *load {
	b.Helper()
	self, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	cmd := exec.Command(self, "-test.run=^TestBenchmarkClients$")
	cmd.Env = append(os.Environ(), loadVariable+"=1")
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = in.Close(); _ = cmd.Wait() })
	return &load{b: b, in: in, out: bufio.NewReader(out)}
}

// file writes credentials where the clients read them: not all of a million, but
// more than any cache of a processor holds the sessions of.
func (l *load) file(credentials []string) string {
	l.b.Helper()
	name := filepath.Join(l.b.TempDir(), "credentials")
	step := max(1, len(credentials)/20_000)
	var all []string
	for i := 0; i < len(credentials); i += step {
		all = append(all, credentials[i])
	}
	if err := os.WriteFile(name, []byte(strings.Join(all, "\n")), 0o600); err != nil {
		l.b.Fatal(err)
	}
	return name
}

// run sends the requests and returns once all are answered with 204.
func (l *load) run(addr, method, kind, file string, requests int) {
	l.b.Helper()
	fmt.Fprintf(l.in, "%s %s %s %s %d\n", addr, method, kind, file, requests)
	if line, err := l.out.ReadString('\n'); err != nil || line != "done\n" {
		l.b.Fatalf("clients: %q, %v", line, err)
	}
}

const clients = 8

// TestBenchmarkClients is the body of the process of clients; it does nothing
// elsewhere.
func TestBenchmarkClients(t *testing.T) {
	if os.Getenv(loadVariable) == "" {
		t.Skip("SKIPPED: it is a process of BenchmarkVerify, and no test")
	}
	conns, prepared := map[string][]net.Conn{}, map[string][][]byte{}
	var addr, method, kind, file string
	var requests int
	for {
		if _, err := fmt.Fscanf(os.Stdin, "%s %s %s %s %d\n", &addr, &method, &kind, &file, &requests); err != nil {
			break
		}
		for len(conns[addr]) < clients {
			c, err := net.Dial("tcp", addr)
			if err != nil {
				t.Fatal(err)
			}
			conns[addr] = append(conns[addr], c)
		}
		key := method + file
		if prepared[key] == nil {
			prepared[key] = prepare(t, method, kind, file)
		}
		var wg sync.WaitGroup
		for i, c := range conns[addr] {
			wg.Go(func() {
				if err := drive(c, prepared[key], i, requests/clients); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if t.Failed() {
			break
		}
		fmt.Fprintln(os.Stdout, "done")
	}
	for _, all := range conns {
		for _, c := range all {
			_ = c.Close()
		}
	}
}

// prepare makes a request of each credential of the file.
func prepare(t *testing.T, method, kind, file string) (all [][]byte) {
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for credential := range strings.SplitSeq(string(text), "\n") {
		if method == "GET" {
			all = append(all, []byte("GET /v1/verify HTTP/1.1\r\nHost: id.example.com\r\nAuthorization: Bearer "+credential+"\r\n\r\n"))
			continue
		}
		body := fmt.Sprintf(`{"session_%s":"%s"}`, kind, credential)
		all = append(all, fmt.Appendf(nil,
			"POST /v1/verify HTTP/1.1\r\nHost: id.example.com\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(body), body))
	}
	return all
}

// drive sends one request after the other on a connection, the i-th of all.
func drive(c net.Conn, requests [][]byte, i, count int) error {
	buf := make([]byte, 4096)
	for n := range count {
		if _, err := c.Write(requests[(n*clients+i)%len(requests)]); err != nil {
			return err
		}
		have := 0
		for !bytes.HasSuffix(buf[:have], []byte("\r\n\r\n")) {
			n, err := c.Read(buf[have:])
			if err != nil {
				return err
			}
			have += n
		}
		if !bytes.HasPrefix(buf, []byte("HTTP/1.1 204")) {
			return fmt.Errorf("answer: %.40q", buf)
		}
	}
	return nil
}
