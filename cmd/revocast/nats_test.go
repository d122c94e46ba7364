package main

import (
	"context"
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/revocast/revocast/events/broker"
	"github.com/revocast/revocast/events/eventstest"
	"github.com/revocast/revocast/node/api"
)

// natsServer runs a NATS server that takes clients on a free loopback port.
func natsServer(t *testing.T) *broker.Broker {
	t.Helper()
	b, err := broker.Start(t.Context(), broker.Config{StoreDir: t.TempDir(), Listen: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	return b
}

// serveOn starts the program on a log elsewhere. Only the node that began the
// cluster has keys; keys is that node, nil for itself.
func serveOn(t *testing.T, bin, data string, keys *serving, flags ...string) *serving {
	t.Helper()
	if keys == nil {
		return serve(t, bin, data, flags...)
	}
	cmd := exec.Command(bin, append([]string{"serve", "--data", data, "--listen", "127.0.0.1:0", "--metrics-listen", ""}, flags...)...)
	p, err := startProcess(cmd)
	if err != nil {
		t.Fatalf("serve: %v\n%s%s", err, p.out, p.stderr)
	}
	t.Cleanup(p.kill)
	return &serving{process: p, url: field(p.out.String(), "address"), apiKey: keys.apiKey, app: keys.app}
}

// until asks until verify answers with the status, and returns how long that took.
func (s *serving) until(t *testing.T, token string, want int) time.Duration {
	t.Helper()
	begun := time.Now()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		got := s.verify(t, http.DefaultClient, token)
		if got == want {
			return time.Since(begun)
		}
		if time.Since(begun) > 20*time.Second {
			t.Fatalf("verify answers %d after %v, want %d\n%s", got, time.Since(begun), want, s.stderr)
		}
		<-tick.C
	}
}

// Two nodes on one NATS server are one service: what one of them makes or takes
// away, the other one knows, by token and by JWT, also when the server was
// restarted, and when a node was.
func testTwoNodes(t *testing.T, bin string) {
	server := natsServer(t)
	dir := t.TempDir()
	flags := []string{"--nats", server.ClientURL(), "--public-url", "https://sessions.example"}
	a := serveOn(t, bin, filepath.Join(dir, "a"), nil, append(flags, "--init", "--node", "a", "--max-bytes", "256MiB")...)
	join := append(flags, "--node", "b", "--cluster-key-file", filepath.Join(dir, "a", "cluster.key"))
	b := serveOn(t, bin, filepath.Join(dir, "b"), a, join...)

	exchange := func(from, to *serving) { exchange(t, from, to) }
	exchange(a, b)
	exchange(b, a)

	if err := server.Restart(context.Background()); err != nil {
		t.Fatal(err)
	}
	settle(t, a)
	settle(t, b)
	exchange(a, b)

	if err := a.signal(syscall.SIGTERM); err != nil {
		t.Fatalf("a ended with %v\n%s", err, a.stderr)
	}
	if strings.Contains(a.stderr.String(), "farewell was not written") {
		t.Errorf("no farewell:\n%s", a.stderr)
	}
	a = serveOn(t, bin, filepath.Join(dir, "a"), nil, append(flags, "--node", "a")...)
	exchange(a, b)
}

// settle waits until creates are answered again: a restart of the server may
// take longer than a request waits for it.
func settle(t *testing.T, s *serving) {
	t.Helper()
	begun := time.Now()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		status := s.post(t.Context(), http.DefaultClient, "/v1/sessions", s.apiKey, api.CreateSession{UserID: "bob"}, nil)
		if status == http.StatusCreated {
			return
		}
		if time.Since(begun) > 30*time.Second {
			t.Fatalf("create answers %d\n%s", status, s.stderr)
		}
		<-tick.C
	}
}

// exchange makes a session on one node and ends it there; the other one knows
// both, by token and by JWT.
func exchange(t *testing.T, from, to *serving) {
	t.Helper()
	var made api.SessionAnswer
	if status := from.post(t.Context(), http.DefaultClient, "/v1/sessions", from.apiKey, api.CreateSession{UserID: "ada"}, &made); status != http.StatusCreated {
		t.Fatalf("create answers %d\n%s", status, from.stderr)
	}
	created := to.until(t, made.SessionToken, http.StatusNoContent)
	to.until(t, made.SessionJWT, http.StatusNoContent)
	var revoked api.RevokeAnswer
	status := from.post(t.Context(), http.DefaultClient, "/v1/sessions/revoke", from.apiKey, api.Revoke{SessionToken: made.SessionToken}, &revoked)
	if status != http.StatusOK || revoked.Revoked != 1 {
		t.Fatalf("revoke answers %d, %+v\n%s", status, revoked, from.stderr)
	}
	gone := to.until(t, made.SessionToken, http.StatusUnauthorized)
	to.until(t, made.SessionJWT, http.StatusUnauthorized)
	if got := from.verify(t, http.DefaultClient, made.SessionToken); got != http.StatusUnauthorized {
		t.Errorf("the node that revoked answers %d", got)
	}
	t.Logf("the other node knew the session after %v and its end after %v", created, gone)
}

// get reads what the node answers into out and returns the status.
func (s *serving) get(t *testing.T, path string, out any) int {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.url+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+s.apiKey)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatalf("get %s: %v", path, err)
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(out); err != nil {
		t.Fatalf("get %s: %v", path, err)
	}
	return resp.StatusCode
}

// revokeOutOfReach ends a session of a region whose server is down. It is denied
// at once where that was asked for, and there as soon as the server is back.
func revokeOutOfReach(t *testing.T, here, there *serving, server *process, restart func()) {
	t.Helper()
	var made api.SessionAnswer
	if status := there.post(t.Context(), http.DefaultClient, "/v1/sessions", there.apiKey, api.CreateSession{UserID: "ada"}, &made); status != http.StatusCreated {
		t.Fatalf("create answers %d\n%s", status, there.stderr)
	}
	here.until(t, made.SessionToken, http.StatusNoContent)
	server.kill()
	var revoked api.RevokeAnswer
	begun := time.Now()
	status := here.post(t.Context(), http.DefaultClient, "/v1/sessions/revoke", here.apiKey, api.Revoke{UserID: "ada"}, &revoked)
	if status != http.StatusAccepted || revoked.Receipt == nil || revoked.Receipt.Status != "pending" || revoked.Revoked != 1 {
		t.Fatalf("revoke answers %d, %+v\n%s", status, revoked, here.stderr)
	}
	t.Logf("pending after %v", time.Since(begun))
	if got := here.verify(t, http.DefaultClient, made.SessionToken); got == http.StatusNoContent {
		t.Error("the node that revoked lets it in")
	}
	restart()
	begun = time.Now()
	t.Logf("denied there %v after the server was back", there.until(t, made.SessionToken, http.StatusUnauthorized))
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		var receipt api.ReceiptAnswer
		status := here.get(t, strings.TrimPrefix(revoked.Receipt.ReceiptURL, "https://sessions.example")+"?wait=none", &receipt)
		if receipt.Status == "committed" {
			break
		}
		if status != http.StatusAccepted || receipt.Status != "pending" || time.Since(begun) > 20*time.Second {
			t.Fatalf("after %v the receipt answers %d, %+v\n%s", time.Since(begun), status, receipt, here.stderr)
		}
		<-tick.C
	}
	t.Logf("the node that revoked knew %v after the server was back", time.Since(begun))
}

// natsFile runs the program as a server of a file in deploy/nats.
func natsFile(t *testing.T, bin, file string, env ...string) *process {
	t.Helper()
	cmd := exec.Command(bin, "broker", "--nats-config", filepath.Join("..", "..", "deploy", "nats", file))
	cmd.Env = append(os.Environ(), env...)
	p, err := startProcess(cmd)
	if err != nil {
		t.Fatalf("broker: %v\n%s%s", err, p.out, p.stderr)
	}
	t.Cleanup(p.kill)
	return p
}

// free returns a loopback address on which nothing listens.
func free(t *testing.T) string {
	t.Helper()
	addr, err := eventstest.FreeAddr()
	if err != nil {
		t.Fatal(err)
	}
	return addr
}

// regions are two of them, with a server each as deployed.
type regions struct {
	t        *testing.T
	bin, dir string
	env      []string
	addr     map[string]string
	server   map[string]*process
}

func newRegions(t *testing.T, bin string) *regions {
	leaf := free(t)
	r := &regions{
		t: t, bin: bin, dir: t.TempDir(), env: []string{"NATS_LEAF_LISTEN=" + leaf, "NATS_LEAF_URL=nats://backbone:pw-backbone@" + leaf},
		addr: map[string]string{"eu": free(t), "us": free(t)}, server: map[string]*process{},
	}
	for _, user := range []string{"SYS", "NODE", "OPERATOR", "SUBSCRIBER", "BACKBONE"} {
		r.env = append(r.env, "NATS_"+user+"_PASSWORD=pw-"+strings.ToLower(user))
	}
	r.serve("eu")
	r.serve("us")
	return r
}

// store is the directory of the region's server.
func (r *regions) store(region string) string { return filepath.Join(r.dir, "nats-"+region) }

// serve starts the region's server.
func (r *regions) serve(region string) {
	r.t.Helper()
	r.server[region] = natsFile(r.t, r.bin, "two-regions/"+region+".conf", append(r.env, "NATS_LISTEN="+r.addr[region], "NATS_STORE="+r.store(region))...)
}

// start starts a node on the servers of a region, as one of their users.
func (r *regions) start(name, at, user string, keys *serving, flags ...string) *serving {
	r.t.Helper()
	return serveOn(r.t, r.bin, filepath.Join(r.dir, name), keys, append(flags, "--nats", "nats://"+user+":pw-"+user+"@"+r.addr[at],
		"--node", name, "--public-url", "https://sessions.example")...)
}

// begin starts the first node of each region, and returns them and where the
// cluster key is.
func (r *regions) begin() (eu, us *serving, key string) {
	r.t.Helper()
	eu = r.start("eu", "eu", "operator", nil, "--init", "--region", "eu", "--max-bytes", "64MiB")
	key = filepath.Join(r.dir, "eu", "cluster.key")
	us = r.start("us", "us", "operator", eu, "--init", "--join", "eu", "--region", "us", "--max-bytes", "64MiB", "--cluster-key-file", key)
	return eu, us, key
}

// Two regions, each with a server of its own as deployed, are one service: a
// session is known in both, wherever it was made. The operator begins each
// region; the node's own user does for the rest.
func testTwoRegions(t *testing.T, bin string) {
	r := newRegions(t, bin)
	eu, us, key := r.begin()
	exchange(t, eu, us)
	exchange(t, us, eu)
	for _, s := range []*serving{eu, us} {
		if err := s.signal(syscall.SIGTERM); err != nil {
			t.Fatalf("ended with %v\n%s", err, s.stderr)
		}
	}
	eu = r.start("eu", "eu", "node", nil)
	us = r.start("us", "us", "node", eu, "--cluster-key-file", key)
	exchange(t, eu, us)
	exchange(t, us, eu)
	// A further node of the second region.
	us2 := r.start("us2", "us", "node", eu, "--join", "eu", "--region", "us", "--cluster-key-file", key)
	exchange(t, us2, eu)
	exchange(t, eu, us2)
	revokeOutOfReach(t, eu, us, r.server["us"], func() { r.serve("us") })
	for name, s := range map[string]*serving{"eu": eu, "us": us, "us2": us2} {
		if text := s.stderr.String(); strings.Contains(text, "no permission") {
			t.Errorf("%s lacks a permission:\n%s", name, text)
		}
	}
}
