package node_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node"
)

// BenchmarkVerify compares the CPU that this process spends on /v1/verify with
// that of a bare handler of net/http that sets as many headers of the same
// size: in one run, in turns, through a real server on loopback. The clients
// are another process, so that their CPU does not thin the ratio.
//
// x-bare is that ratio; x-bare-shared the one against a bare handler that even
// shares its header values between requests, which no handler can whose answers
// differ.
func BenchmarkVerify(b *testing.B) {
	n, token, jwt := benchNode(b)
	sample := httptest.NewRecorder()
	n.Handler().ServeHTTP(sample, benchRequest(token))
	if sample.Code != http.StatusNoContent {
		b.Fatalf("verify: %d", sample.Code)
	}
	load := newLoad(b)
	bare, shared, verify := serveOn(b, bareHandler(sample.Header())), serveOn(b, sharedHandler(sample.Header())), serveOn(b, n.Handler())
	for name, credential := range map[string]string{"token": token, "jwt": jwt} {
		b.Run(name, func(b *testing.B) {
			const requests = 4000
			var spent [3]time.Duration
			rounds := 0
			for _, addr := range []string{bare, shared, verify} {
				load.run(addr, credential, requests)
			}
			for b.Loop() {
				for i, addr := range []string{bare, shared, verify} {
					before := cpu()
					load.run(addr, credential, requests)
					spent[i] += cpu() - before
				}
				rounds++
			}
			b.ReportMetric(float64(spent[2])/float64(spent[0]), "x-bare")
			b.ReportMetric(float64(spent[2])/float64(spent[1]), "x-bare-shared")
			b.ReportMetric(float64(spent[2].Nanoseconds())/float64(rounds*requests), "cpu-ns/verify")
			b.ReportMetric(float64(spent[0].Nanoseconds())/float64(rounds*requests), "cpu-ns/bare")
		})
	}
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

func sharedHandler(like http.Header) http.Handler {
	all := fields(like)
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		h := w.Header()
		for i := range all {
			h[all[i].name] = all[i].values
		}
		w.WriteHeader(http.StatusNoContent)
	})
}

func serveOn(b *testing.B, h http.Handler) string {
	b.Helper()
	s := httptest.NewServer(h)
	b.Cleanup(s.Close)
	return s.Listener.Addr().String()
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

// benchNode runs a node by the machine's clock, with ten thousand sessions, and
// returns the credentials of one.
func benchNode(b *testing.B) (n *node.Node, token, jwt string) {
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
	for i := range 10_000 {
		r := httptest.NewRequest("POST", "/v1/sessions", strings.NewReader(fmt.Sprintf(`{"user_id":"user-%d"}`, i)))
		r.Header.Set("Authorization", "Bearer "+boot.APIKey)
		w := httptest.NewRecorder()
		n.Handler().ServeHTTP(w, r)
		if i > 0 {
			continue
		}
		var c struct {
			Token string `json:"session_token"`
			JWT   string `json:"session_jwt"`
		}
		if err := json.Unmarshal(w.Body.Bytes(), &c); err != nil || w.Code != http.StatusCreated {
			b.Fatalf("create: %d %v", w.Code, err)
		}
		token, jwt = c.Token, c.JWT
	}
	return n, token, jwt
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

// run sends the requests and returns once all are answered with 204.
func (l *load) run(addr, credential string, requests int) {
	l.b.Helper()
	fmt.Fprintf(l.in, "%s %s %d\n", addr, credential, requests)
	if line, err := l.out.ReadString('\n'); err != nil || line != "done\n" {
		l.b.Fatalf("clients: %q, %v", line, err)
	}
}

// TestBenchmarkClients is the body of the process of clients; it does nothing
// elsewhere.
func TestBenchmarkClients(t *testing.T) {
	if os.Getenv(loadVariable) == "" {
		t.Skip("only as a process of BenchmarkVerify")
	}
	conns := map[string][]net.Conn{}
	var addr, credential string
	var requests int
	for {
		if _, err := fmt.Fscanf(os.Stdin, "%s %s %d\n", &addr, &credential, &requests); err != nil {
			break
		}
		if conns[addr] == nil {
			for range 4 {
				c, err := net.Dial("tcp", addr)
				if err != nil {
					t.Fatal(err)
				}
				conns[addr] = append(conns[addr], c)
			}
		}
		request := []byte("GET /v1/verify HTTP/1.1\r\nHost: id.example.com\r\nAuthorization: Bearer " + credential + "\r\n\r\n")
		var wg sync.WaitGroup
		for _, c := range conns[addr] {
			wg.Go(func() {
				if err := drive(c, request, requests/4); err != nil {
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

// drive sends one request after the other on a connection.
func drive(c net.Conn, request []byte, count int) error {
	buf := make([]byte, 4096)
	for range count {
		if _, err := c.Write(request); err != nil {
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
