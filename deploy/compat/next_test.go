package compat

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// TestNext builds the application in next/ with the real Next.js, and runs it beside two
// nodes: it follows one, by way of a proxy, and sessions are revoked on the other.
func TestNext(t *testing.T) {
	t.Parallel()
	needPackagesIn(t, "next", "next", "react", "react-dom", "jose")
	c := newCluster(t)
	brief := c.a.app().do(t, "POST", "/v1/sessions", object{"user_id": "bob", "session_duration_minutes": 1}).want(t, http.StatusCreated)
	road := newHole(t, c.b.addr)
	w := newNextApp(t, c.options(object{"leaseMs": 2000, "timeoutMs": 1000}, "http://"+road.addr))
	s := c.a.app().create(t, "ada")
	w.await(t, "/api/cart/7", s.SessionJWT, "200 ada local 7")
	t.Run("nobody", func(t *testing.T) { testNextNobody(t, w) })
	t.Run("revoked", func(t *testing.T) { testNextRevoked(t, w, c) })
	t.Run("out of reach", func(t *testing.T) { testNextOutOfReach(t, w, road, s) })
	if testing.Short() {
		t.Log("NOT TESTED: -short: the shortest session takes a minute")
		return
	}
	w.await(t, "/api/cart/7", s.SessionJWT, "200 ada local 7")
	time.Sleep(time.Until(brief.Session.ExpiresAt))
	w.await(t, "/account", brief.SessionJWT, "303 /login")
	w.wants(t, "/api/visit", brief.SessionJWT, "200 <nil>")
}

// testNextNobody: who shows nothing, or nothing that is good.
func testNextNobody(t *testing.T, w *nextApp) {
	for credential, code := range map[string]string{"": "missing", "junk": "invalid", "eyJ.e.e": "invalid", strings.Repeat("x", 44): "invalid"} {
		w.wants(t, "/api/cart/7", credential, "401 "+code)
		w.wants(t, "/api/visit", credential, "200 <nil>")
		w.wants(t, "/account", credential, "303 /login")
	}
}

// testNextRevoked revokes on the node that the application does not follow.
func testNextRevoked(t *testing.T, w *nextApp, c *cluster) {
	s, other := c.a.app().create(t, "ada"), c.a.app().create(t, "eve")
	for _, credential := range []string{s.SessionJWT, s.SessionToken} {
		w.wants(t, "/account", credential, "200 account of ada")
		w.wants(t, "/api/visit", credential, "200 ada")
	}
	action := w.action(t, s.SessionJWT)
	if status, _ := w.act(t, action, s.SessionJWT); status != http.StatusOK || w.renamed("ada") != 1 {
		t.Errorf("a server action: %d, done %d times\n%s", status, w.renamed("ada"), w.out)
	}
	w.wants(t, "/api/cart/8", s.SessionJWT, "200 ada local 8")
	c.a.app().do(t, "POST", "/v1/sessions/revoke", object{"session_id": s.Session.SessionID}).want(t, http.StatusOK)
	took := w.await(t, "/api/cart/7", s.SessionJWT, "401 revoked")
	t.Logf("refused %v after it was revoked on the other node", took.Round(time.Millisecond))
	// The proxy and the pages are bundles of their own, and know it too.
	w.wants(t, "/account", s.SessionJWT, "303 /login")
	if status, _ := w.act(t, action, s.SessionJWT); status != http.StatusSeeOther || w.renamed("ada") != 1 {
		t.Errorf("a server action after it: %d, done %d times", status, w.renamed("ada"))
	}
	for _, credential := range []string{s.SessionJWT, s.SessionToken} {
		w.wants(t, "/api/visit", credential, "200 <nil>") // also where Next keeps what was fetched
	}
	w.wants(t, "/account", s.SessionToken, "303 /login")
	w.wants(t, "/api/cart/7", other.SessionJWT, "200 eve local 7")
}

// testNextOutOfReach: no node answers. Nobody is sent to the log-in, or taken for a guest.
func testNextOutOfReach(t *testing.T, w *nextApp, road *hole, s *reply) {
	w.wants(t, "/api/visit", s.SessionToken, "200 ada")
	w.wants(t, "/api/visit", s.SessionToken, "200 ada")
	road.stop()
	w.await(t, "/api/cart/7", s.SessionJWT, "503 unavailable")
	for _, credential := range []string{s.SessionJWT, s.SessionToken} {
		for _, path := range []string{"/account", "/api/visit"} {
			w.wants(t, path, credential, "503 unavailable")
		}
	}
	road.start()
	w.await(t, "/api/cart/7", s.SessionJWT, "200 ada local 7")
	w.wants(t, "/account", s.SessionToken, "200 account of ada")
}

// nextApp is "next start".
type nextApp struct {
	base string
	out  *output
}

// newNextApp builds and starts the application, whose client has the options.
func newNextApp(t *testing.T, options object) *nextApp {
	t.Helper()
	installSDK(t, filepath.Join("next", "node_modules", "revocast-node"))
	text, err := json.Marshal(options)
	if err != nil {
		t.Fatal(err)
	}
	addr := freeAddr(t)
	host, port, _ := strings.Cut(addr, ":")
	w := &nextApp{base: "http://" + addr, out: &output{}}
	next := func(args ...string) *exec.Cmd {
		cmd := exec.Command("node", append([]string{filepath.Join("node_modules", "next", "dist", "bin", "next")}, args...)...)
		cmd.Dir, cmd.Stdout, cmd.Stderr = "next", w.out, w.out
		cmd.Env = append(environ(), "NEXT_TELEMETRY_DISABLED=1", "REVOCAST_CLIENT="+string(text))
		return cmd
	}
	begun := time.Now()
	if err := next("build").Run(); err != nil {
		t.Fatalf("next build: %v\n%s", err, w.out)
	}
	t.Logf("next build took %v", time.Since(begun).Round(time.Second))
	server := next("start", "--hostname", host, "--port", port)
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = server.Process.Kill()
		_ = server.Wait()
	})
	for end := time.Now().Add(readyWithin); ; time.Sleep(20 * time.Millisecond) {
		if status, _, err := w.send("GET", "/login", "", nil); err == nil && status == http.StatusOK {
			return w
		}
		if time.Now().After(end) {
			t.Fatalf("next start: nothing answers\n%s", w.out)
		}
	}
}

// installSDK puts the SDK of this tree where npm would, without what is not published.
func installSDK(t *testing.T, dir string) {
	t.Helper()
	source := filepath.Join("..", "..", "node", "client", "js")
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(dir, os.DirFS(source)); err != nil {
		t.Fatal(err)
	}
}

// send sends a request with the credential as a cookie, and returns what came, short: of
// JSON its members, of a page its first text, of a redirect where to.
func (w *nextApp) send(method, path, credential string, body io.Reader, header ...string) (status int, what string, err error) {
	r, err := http.NewRequest(method, w.base+path, body)
	if err != nil {
		return 0, "", err
	}
	if credential != "" {
		r.AddCookie(&http.Cookie{Name: "session", Value: credential})
	}
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	answer, err := http.DefaultTransport.RoundTrip(r) // follows no redirect
	if err != nil {
		return 0, "", err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		return 0, "", err
	}
	var j struct {
		User, Source, ID any
		Error            *string
	}
	switch {
	case answer.Header.Get("Set-Cookie") != "":
		return answer.StatusCode, "sets a cookie: " + answer.Header.Get("Set-Cookie"), nil
	case answer.Header.Get("Location") != "":
		what = answer.Header.Get("Location")
	case json.Unmarshal(text, &j) != nil:
		what = string(text)
	case j.Error != nil:
		what = *j.Error
	case j.ID != nil:
		what = fmt.Sprint(j.User, " ", j.Source, " ", j.ID)
	default:
		what = fmt.Sprint(j.User)
	}
	return answer.StatusCode, what, nil
}

// try is what came of a GET, as "401 revoked".
func (w *nextApp) try(path, credential string) string {
	status, what, err := w.send("GET", path, credential, nil)
	if err != nil {
		return err.Error()
	}
	if found := accountOf.FindString(what); found != "" {
		what = found
	}
	return fmt.Sprintf("%d %s", status, what)
}

var (
	accountOf  = regexp.MustCompile(`account of \w+`)
	actionName = regexp.MustCompile(`\$ACTION_ID_[0-9a-f]+`)
)

func (w *nextApp) wants(t *testing.T, path, credential, want string) {
	t.Helper()
	if got := w.try(path, credential); got != want {
		t.Errorf("%s with %.12q: %.300s; want %s\n%s", path, credential, got, want, w.out)
	}
}

// await waits for it, and returns how long that took.
func (w *nextApp) await(t *testing.T, path, credential, want string) time.Duration {
	t.Helper()
	for begun := time.Now(); ; time.Sleep(2 * time.Millisecond) {
		got := w.try(path, credential)
		if got == want {
			return time.Since(begun)
		}
		if time.Since(begun) > 30*time.Second {
			t.Fatalf("%s: %.300s; want %s\n%s", path, got, want, w.out)
		}
	}
}

// action returns the name of the account page's server action.
func (w *nextApp) action(t *testing.T, credential string) string {
	t.Helper()
	_, page, err := w.send("GET", "/account", credential, nil)
	name := actionName.FindString(page)
	if err != nil || name == "" {
		t.Fatalf("the page has no action: %v\n%s", err, page)
	}
	return name
}

// act calls it as a form without scripts does.
func (w *nextApp) act(t *testing.T, action, credential string) (status int, what string) {
	t.Helper()
	body := bytes.NewBufferString("--b\r\nContent-Disposition: form-data; name=\"" + action + "\"\r\n\r\n\r\n--b--\r\n")
	status, what, err := w.send("POST", "/account", credential, body, "Content-Type", "multipart/form-data; boundary=b", "Origin", w.base)
	if err != nil {
		t.Fatal(err)
	}
	return status, what
}

// renamed counts how often the action was done for the user.
func (w *nextApp) renamed(user string) int { return strings.Count(w.out.String(), "renamed by "+user) }
