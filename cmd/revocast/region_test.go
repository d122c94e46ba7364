package main

import (
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node/api"
)

// A region's server and its disk are lost. Its sessions go on from the mirror in
// the other region, on a new node of the region; what was revoked stays revoked.
func testMirror(t *testing.T, bin string) {
	r := newRegions(t, bin)
	eu, us, key := r.begin()
	operator := []string{"--data", filepath.Join(r.dir, "us"), "--cluster-key-file", key, "--nats", "nats://operator:pw-operator@" + r.addr["us"]}
	region := func(verb string, want int, say string, more ...string) {
		t.Helper()
		cmd := exec.Command(bin, slices.Concat([]string{"region", verb, "eu"}, operator, more)...)
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
	for tries, seq, config := 0, uint64(0), uint64(0); seq < want[0].Seq || config == 0; tries++ {
		out, err := exec.Command(bin, append([]string{"region", "mirror", "eu", "--status", "--json"}, operator...)...).Output()
		var state struct{ Mirrors []events.MirrorState }
		if err == nil {
			err = json.Unmarshal(out, &state)
		}
		if err != nil || tries > 200 {
			t.Fatalf("the mirror is not there: %v\n%s", err, out)
		}
		seq, config = state.Mirrors[0].LastSeq, state.Mirrors[1].LastSeq
	}

	eu.kill()
	r.server["eu"].kill()
	if err := os.RemoveAll(r.store("eu")); err != nil {
		t.Fatal(err)
	}
	region("promote", 0, "lives on", "--replicas", "1")
	if err := us.signal(syscall.SIGTERM); err != nil {
		t.Fatalf("us ended with %v\n%s", err, us.stderr)
	}
	us = r.start("us", "us", "node", eu, "--cluster-key-file", key)
	us.until(t, good.SessionToken, http.StatusNoContent)
	us.until(t, bad.SessionToken, http.StatusUnauthorized)
	eu2 := r.start("eu2", "us", "node", eu, "--region", "eu", "--cluster-key-file", key)
	eu2.until(t, good.SessionToken, http.StatusNoContent)
	eu2.until(t, bad.SessionToken, http.StatusUnauthorized)
	exchange(t, eu2, us)
	exchange(t, us, eu2)
}
