package compat

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// front is a proxy with its configuration of deploy/proxy, before an application
// that tells what it was sent.
type front struct {
	node *node
	addr string // of the proxy
	app  string // of the application
}

// needs skips the test, and says so loudly, unless the programs or files are there.
func needs(t testing.TB, what, conf string, paths ...string) {
	t.Helper()
	for _, p := range paths {
		_, err := exec.LookPath(p)
		if filepath.IsAbs(p) {
			_, err = os.Stat(p)
		}
		if err != nil {
			fmt.Fprintf(os.Stderr, "SKIPPED: %s: %s is not installed, so deploy/proxy/%s was not tested\n", t.Name(), what, conf)
			t.Skipf("NOT TESTED on this machine: %s is not installed", what)
		}
	}
}

// newFront starts a node and an application for a proxy.
func newFront(t testing.TB) *front {
	t.Helper()
	application := httptest.NewServer(http.HandlerFunc(echo))
	t.Cleanup(application.Close)
	return &front{node: newNode(t), addr: freeAddr(t), app: strings.TrimPrefix(application.URL, "http://")}
}

// echo answers with what the application was sent: the request line and the body,
// and each header as it was spelled.
func echo(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	for name, values := range r.Header {
		w.Header()["Got-"+name] = values
	}
	fmt.Fprintf(w, "%s %s %s", r.Method, r.RequestURI, body)
}

// configuration writes a file of deploy/proxy into dir, with the edits (old, new),
// each of which must change something, and returns its path.
func configuration(t testing.TB, dir, name string, edits ...string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "proxy", name))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(edits); i += 2 {
		if !bytes.Contains(text, []byte(edits[i])) {
			t.Fatalf("%s lacks %q", name, edits[i])
		}
	}
	file := filepath.Join(dir, filepath.Base(name))
	if err := os.WriteFile(file, []byte(strings.NewReplacer(edits...).Replace(string(text))), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// run starts the proxy in dir and waits until it listens.
func (f *front) run(t testing.TB, dir, program string, args ...string) {
	t.Helper()
	cmd := exec.Command(program, args...)
	cmd.Dir, cmd.Env = dir, append(environ(), "HOME="+dir)
	out := &output{}
	cmd.Stdout, cmd.Stderr = out, out
	// Some have children, which end with them only as a group.
	cmd.SysProcAttr, cmd.WaitDelay = &syscall.SysProcAttr{Setpgid: true}, 5*time.Second
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan struct{})
	go func() { _ = cmd.Wait(); close(exited) }()
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		<-exited
		if t.Failed() {
			t.Logf("%s printed:\n%s", program, out)
		}
	})
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if c, err := net.Dial("tcp", f.addr); err == nil {
			_ = c.Close()
			return
		}
		select {
		case <-exited:
			t.Fatalf("%s ended: %v", program, cmd.ProcessState)
		default:
		}
		if time.Now().After(end) {
			t.Fatalf("%s does not listen", program)
		}
	}
}

// answerOf is what came back through a proxy.
type answerOf struct {
	status int
	header http.Header
	body   string
}

// ask sends a request as it is written, so that nothing of it is cleaned. The
// headers are lines.
func (f *front) ask(t testing.TB, method, target, body string, headers ...string) answerOf {
	t.Helper()
	c, err := net.Dial("tcp", f.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(30 * time.Second))
	fmt.Fprintf(c, "%s %s HTTP/1.1\r\nHost: app.example.com\r\nConnection: close\r\n", method, target)
	for _, h := range headers {
		fmt.Fprintf(c, "%s\r\n", h)
	}
	if body != "" {
		fmt.Fprintf(c, "Content-Type: application/json\r\nContent-Length: %d\r\n", len(body))
	}
	fmt.Fprintf(c, "\r\n%s", body)
	r, err := http.ReadResponse(bufio.NewReader(c), &http.Request{Method: method})
	if err != nil {
		t.Fatalf("%s %s: %v", method, target, err)
	}
	defer r.Body.Close()
	text, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answerOf{r.StatusCode, r.Header, string(text)}
}

// spoofs are what a client may call itself: each ends in a value that must not
// reach the application.
var spoofs = []string{
	"X-Session-User: eve", "x-session-user: eve", "X-Session-Id: eve", "X-Session-App: eve", "X-Session-Expires: eve", "X-Session-Reason: eve",
	"X-Session-Jwt: eve", "X-Session-Freshness: eve", "X-Session-Staleness-Ms: eve", "X-Session-Background: eve",
	"X_Session_User: eve", "x_session_id: eve", "X_SESSION_APP: eve", "X_Session_Expires: eve",
	"X-Session_User: eve", "X_Session-Id: eve", "x-session_app: eve", "X_session-Expires: eve",
}

// withBody is a body that a verify could take for a credential, and that the
// application must get as it is.
const withBody = `{"session_token":"not a credential, but the application's own"}`

// strange are paths that the application must get as they are, or as the proxy
// cleans them, and that must not change who is let in. The queries are such as a
// verify would understand.
var strange = []string{
	"/", "/a%2Fb/../c?x=%20", "/page?app=none&jwt=1&background=1&body=1&header=authorization", "/v1/verify", "/..%2f..%2fv1/verify", "//double//slash", "/%00", "/a;b=c?d;e",
}

// suite checks what every configuration promises. down is the status without a
// node; within is how long a revoked session may still be let in, which only
// those have that keep answers.
func (f *front) suite(t *testing.T, down int, within time.Duration) {
	t.Helper()
	created := f.node.app().create(t, "ada löve")
	token, sid := created.SessionToken, created.Session.SessionID
	good := map[string]string{
		"bearer": "Authorization: Bearer " + token, "cookie": "Cookie: a=b; __Host-session=" + token, "JWT": "Authorization: Bearer " + created.SessionJWT,
	}
	for name, credential := range good {
		for _, method := range []string{"GET", "POST", "PUT", "DELETE", "PATCH"} {
			body := ""
			if method != "GET" && method != "DELETE" {
				body = withBody
			}
			a := f.ask(t, method, "/page?q=1", body, append([]string{credential}, spoofs...)...)
			if a.status != 200 || a.body != method+" /page?q=1 "+body {
				t.Errorf("%s, %s: %d %q", name, method, a.status, a.body)
				continue
			}
			f.wantSession(t, name, a, sid)
		}
	}
	for _, path := range strange {
		if a := f.ask(t, "GET", path, "", good["bearer"]); a.status != 200 && a.status != 400 && a.status != 404 {
			t.Errorf("%s: %d", path, a.status)
		} else if a.status == 200 {
			f.wantSession(t, path, a, sid)
		}
		if a := f.ask(t, "GET", path, ""); a.status == 200 {
			t.Errorf("%s: let in without a credential", path)
		}
	}
	bad := map[string][]string{
		"nothing": nil, "junk": {"Authorization: Bearer junk"}, "junk JWT": {"Authorization: Bearer a.b.c"}, "unknown": {"Authorization: Bearer " + strangeToken},
		"spoofed": spoofs, "API key": {"Authorization: Bearer " + f.node.boot.APIKey}, "another cookie": {"Cookie: other=" + token},
		"empty bearer": {"Authorization: Bearer "}, "basic": {"Authorization: Basic " + token},
	}
	for name, headers := range bad {
		a := f.ask(t, "POST", "/page", withBody, headers...)
		if a.status != 401 || !strings.HasPrefix(a.header.Get("WWW-Authenticate"), "Bearer") {
			t.Errorf("%s: %d %v", name, a.status, a.header)
		}
	}
	if a := f.ask(t, "GET", "/page", "", good["bearer"], "Authorization: Bearer junk"); a.status == 200 && !slices.Equal(a.header["Got-Authorization"], []string{"Bearer " + token}) {
		t.Errorf("two credentials: the application got %q", a.header["Got-Authorization"])
	}
	for range 30 {
		if a := f.ask(t, "GET", "/page", "", good["cookie"]); a.status != 200 {
			t.Fatalf("%d", a.status)
		}
	}
	f.node.app().do(t, "POST", "/v1/sessions/revoke", object{"session_token": token}).want(t, http.StatusOK)
	time.Sleep(within)
	for name, credential := range good {
		if a := f.ask(t, "GET", "/page", "", credential); a.status != 401 {
			t.Errorf("revoked, %s: %d", name, a.status)
		}
	}
	other := f.node.app().create(t, "ada").SessionToken
	if a := f.ask(t, "GET", "/page", "", "Authorization: Bearer "+other); a.status != 200 {
		t.Errorf("another session: %d", a.status)
	}
	_ = f.node.kill()
	time.Sleep(within)
	begun := time.Now()
	if a := f.ask(t, "GET", "/page", "", "Authorization: Bearer "+other); a.status != down {
		t.Errorf("without a node: %d, want %d", a.status, down)
	}
	t.Logf("without a node it answers after %v", time.Since(begun).Round(time.Millisecond))
}

// strangeToken has the form of a token; nobody was given it.
const strangeToken = "AhERERERERERERERERERERERERERERERERERERERERER"

// wantSession fails unless the application was told whose session it is, and
// nothing that the client said of itself.
func (f *front) wantSession(t *testing.T, name string, a answerOf, sid string) {
	t.Helper()
	user, err := url.PathUnescape(a.header.Get("Got-X-Session-User"))
	if err != nil || user != "ada löve" || a.header.Get("Got-X-Session-Id") != sid || a.header.Get("Got-X-Session-App") != f.node.boot.App {
		t.Errorf("%s: the application got %v", name, a.header)
	}
	for header, values := range a.header {
		if strings.HasPrefix(header, "Got-") && slices.Contains(values, "eve") || strings.Contains(header, "_") {
			t.Errorf("%s: %s %q came through", name, header, values)
		}
	}
}

// TestHAProxy: what deploy/proxy/haproxy/README.md promises.
func TestHAProxy(t *testing.T) {
	needs(t, "HAProxy", "haproxy", "haproxy")
	f, dir := newFront(t), t.TempDir()
	configuration(t, dir, "haproxy/verify.lua", "http://127.0.0.1:8080/", f.node.base+"/")
	conf := configuration(t, dir, "haproxy/haproxy.cfg", "bind :8000", "bind "+f.addr, "127.0.0.1:3000", f.app)
	f.run(t, dir, "haproxy", "-db", "-f", conf)
	f.suite(t, http.StatusServiceUnavailable, 0)
}

// TestCaddy: what deploy/proxy/caddy/README.md promises.
func TestCaddy(t *testing.T) {
	needs(t, "Caddy", "caddy", "caddy")
	f, dir := newFront(t), t.TempDir()
	edits := []string{"http://:8000", "http://" + f.port(), "forward_auth 127.0.0.1:8080", "forward_auth " + f.node.addr, "reverse_proxy 127.0.0.1:3000", "reverse_proxy " + f.app}
	f.run(t, dir, "caddy", "run", "--config", configuration(t, dir, "caddy/Caddyfile", edits...), "--adapter", "caddyfile")
	f.suite(t, http.StatusServiceUnavailable, 0)
}

// TestCaddyJWT: with ?header=authorization the application gets a JWT that it can
// verify by itself, in the place of whatever the client sent.
func TestCaddyJWT(t *testing.T) {
	needs(t, "Caddy", "caddy", "caddy")
	f, dir := newFront(t), t.TempDir()
	conf := configuration(t, dir, "caddy/Caddyfile", "http://:8000", "http://"+f.port(), "forward_auth 127.0.0.1:8080", "forward_auth "+f.node.addr,
		"reverse_proxy 127.0.0.1:3000", "reverse_proxy "+f.app, "uri /v1/verify?", "uri /v1/verify?header=authorization", "copy_headers", "copy_headers Authorization")
	f.run(t, dir, "caddy", "run", "--config", conf, "--adapter", "caddyfile")
	s := f.node.app().create(t, "ada löve")
	a := f.ask(t, "GET", "/", "", append([]string{"Cookie: __Host-session=" + s.SessionToken}, spoofs...)...)
	f.wantSession(t, "cookie", a, s.Session.SessionID)
	jwt, ok := strings.CutPrefix(a.header.Get("Got-Authorization"), "Bearer ")
	if !ok || part(t, jwt, 1)["sid"] != s.Session.SessionID {
		t.Errorf("the application got Authorization %q", a.header["Got-Authorization"])
	}
	f.node.app().verify(t, jwt).want(t, http.StatusNoContent)
	a = f.ask(t, "GET", "/", "", "Authorization: Bearer "+s.SessionToken)
	if got := a.header["Got-Authorization"]; len(got) != 1 || !strings.Contains(got[0], ".") {
		t.Errorf("the application got Authorization %q", got)
	}
}

// port is ":<port>" of the proxy.
func (f *front) port() string { return f.addr[strings.LastIndexByte(f.addr, ':'):] }

// TestNginxSuite is TestNginx with what every configuration promises.
func TestNginxSuite(t *testing.T) {
	needs(t, "nginx", "nginx", "nginx")
	f, dir := newFront(t), t.TempDir()
	conf := configuration(t, dir, "nginx/nginx.conf", "server 127.0.0.1:8080;", "server "+f.node.addr+";", "server 127.0.0.1:3000;", "server "+f.app+";",
		"listen 8000;", "listen "+f.addr+";", "events {", "pid "+dir+"/pid; error_log stderr; events {",
		"http {", "http { access_log off; client_body_temp_path "+dir+"; proxy_temp_path "+dir+"; fastcgi_temp_path "+dir+"; uwsgi_temp_path "+dir+"; scgi_temp_path "+dir+";")
	f.run(t, dir, "nginx", "-p", dir, "-c", conf, "-g", "daemon off; master_process off;")
	f.suite(t, http.StatusServiceUnavailable, 0)
}
