package compat

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// TestNodeSDK runs what the Node.js SDK is tested with against a small node of those
// tests themselves.
func TestNodeSDK(t *testing.T) {
	t.Parallel()
	needPackages(t, "jose", "express", "fastify")
	cmd := exec.CommandContext(t.Context(), "node", "--import", "./node_sdk_resolve.mjs", "--test", "--test-reporter=tap",
		"node_sdk_verify.test.mjs", "node_sdk_feed.test.mjs", "node_sdk_adapters.test.mjs", "node_sdk_chaos.test.mjs")
	cmd.Env = append(environ(), "NODE_ENV=test")
	out, err := cmd.CombinedOutput()
	passed := strings.Count(string(out), "\n    ok ")
	if err != nil || passed < 80 {
		t.Fatalf("%v; %d passed\n%s", err, passed, out)
	}
	t.Logf("Node.js SDK: %d tests passed", passed)
}

// TestNodeSDKTypes has tsc check the SDK's types, by what an application does with them.
func TestNodeSDKTypes(t *testing.T) {
	t.Parallel()
	needPackages(t, "typescript")
	tsc := exec.Command("node", "node_modules/typescript/bin/tsc", "--strict", "--noEmit", "--target", "es2022", "--module", "nodenext",
		"--moduleResolution", "nodenext", "--lib", "es2022,dom", "node_sdk_types.ts")
	if out, err := tsc.CombinedOutput(); err != nil {
		t.Errorf("tsc: %v\n%s", err, out)
	}
}

func (c *cluster) options(more object, urls ...string) object {
	o := object{"baseUrl": urls, "app": c.a.boot.App, "apiKey": c.a.boot.APIKey}
	for k, v := range more {
		o[k] = v
	}
	return o
}

// TestNodeSDKInstalled installs the SDK as its README says, and uses it from there.
func TestNodeSDKInstalled(t *testing.T) {
	t.Parallel()
	needPackages(t, "jose")
	dir := t.TempDir()
	run := func(name string, args ...string) (string, error) {
		cmd := exec.CommandContext(t.Context(), name, args...)
		cmd.Dir, cmd.Env = dir, environ()
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	source, err := filepath.Abs(filepath.Join("..", "..", "node", "client", "js"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "package.json"), []byte(`{"name":"app","private":true}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := run("npm", "install", "--install-links", "--prefer-offline", "--no-audit", "--no-fund", source); err != nil {
		fmt.Fprintf(os.Stderr, "NOT TESTED: %s: npm install: %v\n%s", t.Name(), err, out)
		t.Skip("NOT TESTED: npm install")
	}
	const use = `import { createClient } from 'revocast-node'
createClient({ baseUrl: 'http://127.0.0.1:1', app: 'a', apiKey: 'sk' }).verify('ey.x.y').catch((err) => console.log(err.code, err.reason))`
	if out, err := run("node", "--input-type=module", "--eval", use); err != nil || out != "invalid malformed\n" {
		t.Errorf("%v: %s", err, out)
	}
}

// TestNodeSDKLive lets the SDK follow one of two nodes, and does to them what may be
// done. How fast it hears of revocations, TestSDKs measures.
func TestNodeSDKLive(t *testing.T) {
	t.Parallel()
	needPackages(t, "jose")
	c := newCluster(t)
	t.Run("user and app", func(t *testing.T) { testSDKUser(t, c) })
	t.Run("keys", func(t *testing.T) { testSDKKeys(t, c) })
	t.Run("cut", func(t *testing.T) { testSDKCut(t, c) })
	t.Run("black hole", func(t *testing.T) { testSDKBlackHole(t, c) })
	t.Run("stopped", func(t *testing.T) { testSDKStopped(t, c) })
	t.Run("outage", func(t *testing.T) { testSDKOutage(t, c) })
}

// manySessions makes n sessions, and returns their ids and the JWT of each.
func manySessions(t *testing.T, app client, n int) (sids []string, jwts map[string]string) {
	t.Helper()
	jwts = map[string]string{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range n / 8 {
				s, err := app.try("POST", "/v1/sessions", object{"user_id": "ada"})
				if err != nil || s.status != http.StatusCreated {
					t.Errorf("create a session: %v, %+v", err, s)
					return
				}
				mu.Lock()
				jwts[s.Session.SessionID] = s.SessionJWT
				sids = append(sids, s.Session.SessionID)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return sids, jwts
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
	// A client that begins now knows the same from /v1/revocations.
	late := newAgent(t, c.options(nil, c.b.base))
	for _, want := range []string{"good api", "good local"} {
		if got := late.verify(again.SessionJWT); got != want {
			t.Errorf("a client that began afterwards says %q, want %q\n%s", got, want, late.stderr)
		}
	}
	if got := late.verify(first.SessionJWT); got != "revoked" {
		t.Errorf("and %q of what was revoked", got)
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

// testSDKCut closes the client's connections again and again while sessions are
// revoked. It must hear of each all the same.
func testSDKCut(t *testing.T, c *cluster) {
	const n = 200
	proxy := newHole(t, c.b.addr)
	sdk := newAgent(t, c.options(object{"whenStale": "refuse"}, "http://"+proxy.addr))
	sids, jwts := manySessions(t, c.a.app(), n)
	for _, sid := range sids {
		sdk.wants("good local", jwts[sid], 10*time.Second)
	}
	cuts := 0
	for i, sid := range sids {
		c.a.app().do(t, "POST", "/v1/sessions/revoke", object{"session_id": sid}).want(t, http.StatusOK)
		if i%10 == 0 {
			cuts += proxy.cut()
		}
	}
	for _, sid := range sids {
		sdk.wants("revoked", jwts[sid], 20*time.Second)
	}
	sdk.wants("good local", c.a.app().create(t, "ada").SessionJWT, 20*time.Second)
	t.Logf("%d revocations heard, over %d connections that were cut", n, cuts)
	if cuts < 2 {
		t.Errorf("only %d connections were cut", cuts)
	}
}

// testSDKBlackHole cuts the client off without a word: TCP goes on, and no byte arrives.
func testSDKBlackHole(t *testing.T, c *cluster) {
	const lease = 2 * time.Second
	proxy := newHole(t, c.b.addr)
	s := c.a.app().create(t, "ada")
	short := func(whenStale string) object {
		return object{"whenStale": whenStale, "leaseMs": lease.Milliseconds(), "timeoutMs": 500}
	}
	refuse := newAgent(t, c.options(short("refuse"), "http://"+proxy.addr))
	ask := newAgent(t, c.options(short("api"), "http://"+proxy.addr, c.a.base))
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

// testSDKStopped stops the client's process for longer than its lease. As soon as it
// goes on it is asked, and must not answer by what it knew.
func testSDKStopped(t *testing.T, c *cluster) {
	const lease = 2 * time.Second
	sdk := newAgent(t, c.options(object{"whenStale": "refuse", "leaseMs": lease.Milliseconds()}, c.b.base))
	s := c.a.app().create(t, "ada")
	sdk.wants("good local", s.SessionJWT, 10*time.Second)
	if err := sdk.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	c.a.app().do(t, "POST", "/v1/sessions/revoke", object{"session_id": s.Session.SessionID}).want(t, http.StatusOK)
	time.AfterFunc(lease, func() { _ = sdk.cmd.Process.Signal(syscall.SIGCONT) })
	if got := sdk.verify(s.SessionJWT); got != "stale" && got != "revoked" {
		t.Errorf("after it was stopped for %v verify says %q", lease, got)
	}
	sdk.wants("revoked", s.SessionJWT, 10*time.Second)
}

// TestNodeSDKCosts runs the command that prints what a verify costs, with few sessions.
func TestNodeSDKCosts(t *testing.T) {
	t.Parallel()
	needPackages(t, "jose")
	n := shared(t)
	app := n.newApp(t, "node-sdk-costs", nil)
	cmd := exec.CommandContext(t.Context(), "node", "--import", "./node_sdk_resolve.mjs", "node_sdk_cost.mjs", n.base, "node-sdk-costs", app.key, "100")
	cmd.Env = environ()
	out, err := cmd.CombinedOutput()
	if err != nil || strings.Count(string(out), "\n") != 6 {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Logf("not measured in quiet; run the command for that\n%s", out)
}

// testSDKOutage kills the node that is followed, then both, and starts them again.
func testSDKOutage(t *testing.T, c *cluster) {
	lease := object{"whenStale": "refuse", "leaseMs": 3000}
	sdk := newAgent(t, c.options(lease, c.b.base, c.a.base))
	ask := newAgent(t, c.options(object{"leaseMs": 3000}, c.b.base, c.a.base))
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
	c.b.launch(t)
	c.a.start(t)
	if err := c.b.awaitReady(); err != nil {
		t.Fatalf("%v; it printed:\n%s", err, c.b.out)
	}
	sdk.wants("good local", s.SessionJWT, 60*time.Second)
	ask.wants("good local", s.SessionJWT, 60*time.Second)
	sdk.wants("revoked", gone.SessionJWT, 10*time.Second)
}
