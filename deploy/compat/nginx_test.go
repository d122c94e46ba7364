package compat

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// proxied is nginx with the configuration of deploy/proxy/nginx, before an
// application that tells what it was sent.
type proxied struct {
	node     *node
	url      string       // of nginx
	accepted atomic.Int64 // connections that nginx opened to the node
}

// startNginx runs it; edits (old, new) are made to the configuration beside those
// of its addresses.
func startNginx(t testing.TB, edits ...string) *proxied {
	t.Helper()
	if _, err := exec.LookPath("nginx"); err != nil {
		fmt.Fprintf(os.Stderr, "SKIPPED: %s: nginx is not installed, so deploy/proxy/nginx was not tested\n", t.Name())
		t.Skip("NOT TESTED on this machine: nginx is not installed")
	}
	socket := filepath.Join(t.TempDir(), "v.sock")
	p := &proxied{node: newNode(t, "--verify-listen", "unix:"+socket)}
	application := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for name, values := range r.Header {
			if strings.HasPrefix(name, "X-Session-") {
				w.Header()["Got-"+name] = values
			}
		}
		fmt.Fprint(w, "hello")
	}))
	t.Cleanup(application.Close)
	upstream := p.node.addr
	if _, ok := t.(*testing.B); !ok { // whose figures are those of the main listener, with nothing between
		upstream = p.count(t, socket)
	}
	addr := freeAddr(t)
	conf, err := os.ReadFile(filepath.Join("..", "proxy", "nginx", "nginx.conf"))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	edits = append([]string{
		"server 127.0.0.1:8080;", "server " + upstream + ";", "server 127.0.0.1:3000;", "server " + strings.TrimPrefix(application.URL, "http://") + ";",
		"listen 8000;", "listen " + addr + ";", "events {", "pid " + dir + "/pid; error_log stderr; events {",
		"http {", "http { access_log off; client_body_temp_path " + dir + "; proxy_temp_path " + dir + "; fastcgi_temp_path " + dir +
			"; uwsgi_temp_path " + dir + "; scgi_temp_path " + dir + ";",
	}, edits...)
	for i := 0; i < len(edits); i += 2 {
		if !strings.Contains(string(conf), edits[i]) {
			t.Fatalf("nginx.conf lacks %q", edits[i])
		}
	}
	file := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(file, []byte(strings.NewReplacer(edits...).Replace(string(conf))), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("nginx", "-p", dir, "-c", file, "-g", "daemon off; master_process off;")
	out := &output{}
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	p.url = "http://" + addr
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if c, err := net.Dial("tcp", addr); err == nil {
			_ = c.Close()
			return p
		}
		if time.Now().After(end) {
			t.Fatalf("nginx does not listen; it printed:\n%s", out)
		}
	}
}

// count counts the connections to the node on their way, and returns the address.
func (p *proxied) count(t testing.TB, socket string) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			p.accepted.Add(1)
			to, err := net.Dial("unix", socket)
			if err != nil {
				_ = c.Close()
				continue
			}
			go func() { _, _ = io.Copy(to, c); _ = to.Close() }()
			go func() { _, _ = io.Copy(c, to); _ = c.Close() }()
		}
	}()
	return l.Addr().String()
}

func (p *proxied) get(t *testing.T, header ...string) *http.Response {
	t.Helper()
	r, err := http.NewRequest("POST", p.url+"/page?app=none&jwt=1", strings.NewReader("a body"))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, answer.Body)
	_ = answer.Body.Close()
	return answer
}

// TestNginx: what deploy/proxy/nginx/README.md promises.
func TestNginx(t *testing.T) {
	p := startNginx(t)
	created := p.node.app().create(t, "ada löve")
	token := created.SessionToken
	spoof := []string{"X-Session-User", "eve", "x-session-id", "eve", "X-Session-Jwt", "eve", "X-Session-Reason", "-", "X-Session-Freshness", "eve", "X-Session-Background", "1"}

	for name, header := range map[string][]string{
		"bearer": {"Authorization", "Bearer " + token}, "JWT": {"Authorization", "Bearer " + created.SessionJWT}, "cookie": {"Cookie", "session=" + token},
	} {
		r := p.get(t, append(header, spoof...)...)
		if r.StatusCode != 200 || r.Header.Get("Got-X-Session-User") != "ada%20l%C3%B6ve" || r.Header.Get("Got-X-Session-Id") != created.Session.SessionID ||
			r.Header.Get("Got-X-Session-App") != p.node.boot.App {
			t.Errorf("%s: %d %v", name, r.StatusCode, r.Header)
		}
		for _, h := range []string{"Jwt", "Reason", "Freshness", "Background", "Staleness-Ms"} {
			if v := r.Header.Values("Got-X-Session-" + h); len(v) != 0 {
				t.Errorf("%s: X-Session-%s %q came through", name, h, v)
			}
		}
	}
	for name, header := range map[string][]string{"nothing": nil, "junk": {"Authorization", "Bearer junk"}, "spoofed": spoof} {
		if r := p.get(t, header...); r.StatusCode != 401 || !strings.HasPrefix(r.Header.Get("WWW-Authenticate"), "Bearer") {
			t.Errorf("%s: %d %v", name, r.StatusCode, r.Header)
		}
	}
	for range 50 {
		if r := p.get(t, "Authorization", "Bearer "+token); r.StatusCode != 200 {
			t.Fatalf("%d", r.StatusCode)
		}
	}
	if n := p.accepted.Load(); n > 5 {
		t.Errorf("nginx opened %d connections to the node for 56 requests one after the other", n)
	}
	p.node.app().do(t, "POST", "/v1/sessions/revoke", object{"session_token": token}).want(t, http.StatusOK)
	if r := p.get(t, "Authorization", "Bearer "+token); r.StatusCode != 401 {
		t.Errorf("revoked: %d", r.StatusCode)
	}
	_ = p.node.kill()
	if r := p.get(t, "Authorization", "Bearer "+token); r.StatusCode != 503 || r.Header.Get("Retry-After") == "" {
		t.Errorf("without a node: %d %v", r.StatusCode, r.Header)
	}
}

// BenchmarkNginx compares nginx before an application, alone, with auth_request,
// and with auth_request to an answer with a body, in alternating rounds.
func BenchmarkNginx(b *testing.B) {
	auth := startNginx(b)
	plain := startNginx(b, "auth_request /_verify;", "")
	body := startNginx(b, "/v1/verify;", "/v1/verify?body=1;")
	kinds := []*proxied{plain, auth, body}
	var tokens []string
	for _, p := range kinds {
		tokens = append(tokens, p.node.app().create(b, "ada").SessionToken)
	}
	const requests = 2000
	var took [3]time.Duration
	for b.Loop() {
		for i, p := range kinds {
			begun := time.Now()
			drive(b, strings.TrimPrefix(p.url, "http://"), tokens[i], requests)
			took[i] += time.Since(begun)
		}
	}
	b.ReportMetric(float64(took[0])/float64(took[1]), "x-plain")
	b.ReportMetric(float64(took[2])/float64(took[1]), "x-body")
	b.ReportMetric(float64(b.N*requests)/took[0].Seconds(), "plain/s")
	b.ReportMetric(0, "ns/op")
}

// drive sends GET requests on 16 connections.
func drive(b *testing.B, addr, token string, requests int) {
	const conns = 16
	var wg sync.WaitGroup
	for range conns {
		wg.Go(func() {
			c, err := net.Dial("tcp", addr)
			if err != nil {
				b.Error(err)
				return
			}
			defer c.Close()
			r := bufio.NewReader(c)
			for range requests / conns {
				fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n\r\n", token)
				answer, err := http.ReadResponse(r, nil)
				if err != nil || answer.StatusCode != 200 {
					b.Errorf("%v, %v", answer, err)
					return
				}
				_, _ = io.Copy(io.Discard, answer.Body)
			}
		})
	}
	wg.Wait()
}
