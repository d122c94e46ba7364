package main

import (
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node/api"
)

// A region's server and its disk are lost. Its sessions go on from the mirror in
// the other region, on a new node of the region; what was revoked stays revoked.
func testMirror(t *testing.T, bin string) {
	leaf, dir := free(t), t.TempDir()
	env := []string{"NATS_LEAF_LISTEN=" + leaf, "NATS_LEAF_URL=nats://backbone:pw-backbone@" + leaf}
	for _, user := range []string{"SYS", "NODE", "OPERATOR", "SUBSCRIBER", "BACKBONE"} {
		env = append(env, "NATS_"+user+"_PASSWORD=pw-"+strings.ToLower(user))
	}
	addr := map[string]string{"eu": free(t), "us": free(t)}
	broker := map[string]*process{}
	for _, region := range []string{"eu", "us"} {
		broker[region] = natsFile(t, bin, "two-regions/"+region+".conf", append(env, "NATS_LISTEN="+addr[region], "NATS_STORE="+filepath.Join(dir, "nats-"+region))...)
	}
	start := func(name, at, user string, keys *serving, flags ...string) *serving {
		return serveOn(t, bin, filepath.Join(dir, name), keys, append(flags, "--nats", "nats://"+user+":pw-"+user+"@"+addr[at],
			"--node", name, "--public-url", "https://sessions.example")...)
	}
	eu := start("eu1", "eu", "operator", nil, "--init", "--region", "eu", "--max-bytes", "64MiB")
	key := filepath.Join(dir, "eu1", "cluster.key")
	us := start("us1", "us", "operator", eu, "--init", "--join", "eu", "--region", "us", "--max-bytes", "64MiB", "--cluster-key-file", key)

	region := func(verb string, want int, say string, more ...string) {
		t.Helper()
		args := append([]string{"region", verb, "eu", "--data", filepath.Join(dir, "us1"), "--cluster-key-file", key, "--nats", "nats://operator:pw-operator@" + addr["us"]}, more...)
		cmd := exec.Command(bin, args...)
		cmd.Env = os.Environ()
		out, _ := cmd.CombinedOutput() // the exit code is looked at below
		if got := cmd.ProcessState.ExitCode(); got != want || !strings.Contains(string(out), say) {
			t.Fatalf("region %s: exit code %d, want %d and %q:\n%s", verb, got, want, say, out)
		}
	}
	region("mirror", 1, "cannot hold copies")
	region("promote", 1, "still answers")
	region("mirror", 0, "CONFIG", "--replicas", "1")
	create := func(at *serving) (made api.SessionAnswer) {
		t.Helper()
		if status := at.post(t.Context(), http.DefaultClient, "/v1/sessions", eu.apiKey, api.CreateSession{UserID: "ada"}, &made); status != http.StatusCreated {
			t.Fatalf("create answers %d\n%s", status, at.stderr)
		}
		return made
	}
	good, bad := create(eu), create(eu)
	var revoked api.RevokeAnswer
	if status := us.post(t.Context(), http.DefaultClient, "/v1/sessions/revoke", eu.apiKey, api.Revoke{SessionToken: bad.SessionToken}, &revoked); status != http.StatusOK {
		t.Fatalf("revoke answers %d", status)
	}
	us.until(t, good.SessionToken, http.StatusNoContent)
	us.until(t, bad.SessionToken, http.StatusUnauthorized)
	want, err := events.ParseRevision(revoked.Revision)
	if err != nil {
		t.Fatal(err)
	}
	for tries, seq := 0, uint64(0); seq < want[0].Seq; tries++ {
		out, err := exec.Command(bin, "region", "mirror", "eu", "--status", "--json", "--data", filepath.Join(dir, "us1"), "--cluster-key-file", key,
			"--nats", "nats://operator:pw-operator@"+addr["us"]).Output()
		var state struct{ Mirrors []events.MirrorState }
		if err == nil {
			err = json.Unmarshal(out, &state)
		}
		if err != nil || tries > 200 {
			t.Fatalf("the mirror is not there: %v\n%s", err, out)
		}
		seq = state.Mirrors[0].LastSeq
	}

	eu.kill()
	broker["eu"].kill()
	if err := os.RemoveAll(filepath.Join(dir, "nats-eu")); err != nil {
		t.Fatal(err)
	}
	region("promote", 0, "lives on", "--replicas", "1")
	if err := us.signal(syscall.SIGTERM); err != nil {
		t.Fatalf("us ended with %v\n%s", err, us.stderr)
	}
	us = start("us1", "us", "node", eu, "--cluster-key-file", key)
	us.until(t, good.SessionToken, http.StatusNoContent)
	us.until(t, bad.SessionToken, http.StatusUnauthorized)
	eu2 := start("eu2", "us", "node", eu, "--region", "eu", "--cluster-key-file", key)
	eu2.until(t, good.SessionToken, http.StatusNoContent)
	eu2.until(t, bad.SessionToken, http.StatusUnauthorized)
	exchange(t, eu2, us)
	exchange(t, us, eu2)
}
