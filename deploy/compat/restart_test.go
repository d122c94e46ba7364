package compat

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestRestart stops a node in order and starts it again: everything is as it
// was.
func TestRestart(t *testing.T) { restart(t, false) }

// TestKilled does the same with kill -9.
func TestKilled(t *testing.T) { restart(t, true) }

func restart(t *testing.T, kill bool) {
	n := newNode(t)
	tab := newTable(t, "step", "answer")
	c := n.app()
	alive, byID, byToken := c.create(t, "ada"), c.create(t, "bob"), c.create(t, "eve")
	user, spared := c.create(t, "mal"), c.create(t, "mal")
	other := n.newApp(t, "other", object{"jwt_alg": "EdDSA", "jwt_profile": "stytch", "jwt_ttl_seconds": 77})
	theirs := other.create(t, "ada")
	c.do(t, "POST", "/v1/sessions/revoke", object{"session_id": byID.Session.SessionID, "reason": "stolen"}).want(t, http.StatusOK)
	c.do(t, "POST", "/v1/sessions/revoke", object{"session_token": byToken.SessionToken}).want(t, http.StatusOK)
	c.do(t, "POST", "/v1/sessions/revoke", object{"user_id": "mal", "except_session_id": spared.Session.SessionID}).want(t, http.StatusOK)
	changed := c.do(t, "PATCH", "/v1/sessions/"+alive.Session.SessionID, object{"metadata": object{"seen": 1}, "session_duration_minutes": 7}).want(t, http.StatusOK)
	rotated := c.do(t, "POST", "/v1/sessions/rotate", object{"session_token": alive.SessionToken, "grace_seconds": 60}).want(t, http.StatusOK)
	c.do(t, "PUT", "/v1/apps/"+n.boot.App+"/templates/t", object{"audience": "x"}).want(t, http.StatusOK)
	keys, boot := kids(t, n, "other"), n.boot

	if kill {
		if err := n.kill(); err != nil {
			t.Fatal(err)
		}
	} else {
		code := n.stop(t)
		tab.row(unless(code == 0, "exit code %d; it printed:\n%s", code, n.out), "SIGTERM", code)
	}
	start := time.Now()
	n.start(t)
	tab.row("", "ready again after", time.Since(start).Round(10*time.Millisecond))
	tab.row(unless(n.boot == boot, "%v", n.boot), "bootstrap.json", "the same")
	tab.row(unless(!strings.Contains(n.out.String(), boot.APIKey) && !strings.Contains(n.out.String(), boot.AdminKey), "a key is printed again"), "keys are printed", "once only")
	tab.row(unless(fmt.Sprint(kids(t, n, "other")) == fmt.Sprint(keys), "other keys"), "JWKS", "the same")
	tab.row(c.verdict(t, alive, "active"), "a session, its old token in its grace", "active")
	tab.row(c.verdict(t, rotated, "active"), "its new token", "active")
	tab.row(c.verdict(t, spared, "active"), "the one that was excepted", "active")
	tab.row(other.verdict(t, theirs, "active"), "another app's", "active")
	tab.row(c.verdict(t, byID, "revoked"), "revoked by id", "revoked")
	tab.row(c.verdict(t, byToken, "revoked"), "revoked by token", "revoked")
	tab.row(c.verdict(t, user, "revoked"), "revoked by user", "revoked")
	r := c.do(t, "GET", "/v1/sessions/"+alive.Session.SessionID, nil).want(t, http.StatusOK)
	tab.row(unless(string(r.Session.Metadata) == `{"seen":1}` && r.Session.ExpiresAt.Equal(changed.Session.ExpiresAt), "%s", r.raw), "what was changed", "kept")
	r = c.do(t, "GET", "/v1/sessions/"+byID.Session.SessionID, nil).want(t, http.StatusOK)
	tab.row(unless(r.Session.RevokeReason == "stolen" && r.Session.RevokedBy != "", "%s", r.raw), "who and why", r.Session.RevokeReason)
	r = other.create(t, "new")
	p := part(t, r.SessionJWT, 1)
	tab.row(unless(p["exp"].(float64)-p["iat"].(float64) == 77 && part(t, r.SessionJWT, 0)["alg"] == "EdDSA", "%v", p), "settings of an app", "kept")
	r = c.do(t, "GET", "/v1/apps/"+n.boot.App+"/templates/t", nil)
	tab.row(unless(r.status == http.StatusOK, "%s", r.raw), "templates", "kept")
	types, _, _ := history(t, c, byID.Session.SessionID, 2)
	tab.row(unless(len(types) == 2 && types[1] == "session.revoked", "%v", types), "history", strings.Join(types, " "))
	noSecrets(t, n, alive.SessionToken, rotated.SessionToken, boot.APIKey)
}

// noSecrets looks for secrets in everything the node wrote, but for the files
// whose purpose it is to hold them.
func noSecrets(t *testing.T, n *node, secrets ...string) {
	t.Helper()
	check := func(where, text string) {
		for _, s := range secrets {
			if strings.Contains(text, s) {
				t.Errorf("%s holds a secret", where)
			}
		}
	}
	err := filepath.WalkDir(n.data, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || d.Name() == "bootstrap.json" {
			return nil // files of the log come and go
		}
		text, err := os.ReadFile(path)
		if err == nil {
			check(path, string(text))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	check("the log on standard error", n.out.String())
}

// load is what clients of a node that is about to die know of it.
type load struct {
	mu       sync.Mutex        // guards what is below
	created  map[string]*reply // acknowledged creates, by session id
	revoking map[string]bool   // a revoke was sent
	revoked  map[string]bool   // and acknowledged
	unknown  int               // requests without an answer
}

// TestKilledUnderLoad kills a node with -9 in the middle of creates and
// revokes, several times. Whatever was acknowledged must be there afterwards.
func TestKilledUnderLoad(t *testing.T) {
	n := newNode(t)
	l := &load{created: map[string]*reply{}, revoking: map[string]bool{}, revoked: map[string]bool{}}
	tab := newTable(t, "kill", "acknowledged creates", "acknowledged revokes", "without an answer", "lost")
	for round := range 3 {
		// Each round dies at another moment, also while few events wait.
		after := time.Duration(300+rand.IntN(1200)) * time.Millisecond
		var clients sync.WaitGroup
		for i := range 16 {
			clients.Go(func() { l.run(n, fmt.Sprintf("user %d of round %d", i, round)) })
		}
		time.AfterFunc(after, func() { _ = n.cmd.Process.Kill() })
		clients.Wait()
		<-n.exited
		n.start(t)
		lost := l.check(t, n)
		tab.row(strings.Join(lost, "; "), fmt.Sprintf("after %v", after), len(l.created), len(l.revoked), l.unknown, len(lost))
	}
	if len(l.created) == 0 || len(l.revoked) == 0 {
		t.Errorf("the load made %d sessions and revoked %d: nothing was tested", len(l.created), len(l.revoked))
	}
}

// run creates and revokes until the node no longer answers.
func (l *load) run(n *node, user string) {
	c := n.app()
	for i := 0; ; i++ {
		s, err := c.try("POST", "/v1/sessions", object{"user_id": user})
		if err != nil || s.status != http.StatusCreated {
			l.unanswered()
			return
		}
		id := s.Session.SessionID
		l.mu.Lock()
		l.created[id] = s
		l.revoking[id] = i%2 == 0
		l.mu.Unlock()
		if i%2 != 0 {
			continue
		}
		r, err := c.try("POST", "/v1/sessions/revoke", object{"session_id": id})
		if err != nil || r.status != http.StatusOK {
			l.unanswered()
			return
		}
		l.mu.Lock()
		l.revoked[id] = true
		l.mu.Unlock()
	}
}

func (l *load) unanswered() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.unknown++
}

// check returns what was acknowledged and is not so.
func (l *load) check(t *testing.T, n *node) (lost []string) {
	t.Helper()
	c := n.app()
	for id, s := range l.created {
		token, jwt := c.verify(t, s.SessionToken).status, c.verify(t, s.SessionJWT).status
		switch {
		case token != jwt:
			lost = append(lost, fmt.Sprintf("%s: %d by token, %d by JWT", id, token, jwt))
		case l.revoked[id] && token != http.StatusUnauthorized:
			lost = append(lost, fmt.Sprintf("revoke of %s: %d", id, token))
		case !l.revoking[id] && token != http.StatusNoContent:
			lost = append(lost, fmt.Sprintf("create of %s: %d", id, token))
		}
	}
	return lost
}

// TestStartRefused starts the program where it must not run. It says so in one
// line, and how to go on.
func TestStartRefused(t *testing.T) {
	tab := newTable(t, "trouble", "what it says")
	n := newNode(t)
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	refused := func(name string, words []string, env []string, args ...string) {
		line := runFails(t, 1, env, append([]string{"serve", "--metrics-listen", ""}, args...)...)
		trouble := ""
		for _, w := range words {
			trouble += unless(strings.Contains(line, w), "does not say %q; ", w)
		}
		tab.row(trouble, name, strings.ReplaceAll(strings.ReplaceAll(line, n.data, "DATA"), dir, "DIR"))
	}
	free := func() string { return freeAddr(t) }
	refused("the port is taken", []string{n.addr, "--listen"}, nil, "--data", filepath.Join(dir, "a"), "--listen", n.addr)
	if _, err := os.Stat(filepath.Join(dir, "a")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a start that could not succeed made its data directory: %v", err)
	}
	refused("the data directory is in use", []string{n.data, "--data"}, nil, "--data", n.data, "--listen", free())
	refused("the data directory is a file", []string{file, "--data"}, nil, "--data", file, "--listen", free())
	refused("nobody can write there", []string{"--data"}, nil, "--data", "/proc/revocast", "--listen", free())
	refused("it is somebody else's directory", []string{dir, "--data"}, nil, "--data", dir, "--listen", free())
	n.stop(t)
	keyFile := filepath.Join(n.data, "cluster.key")
	if err := os.Chmod(keyFile, 0o644); err != nil {
		t.Fatal(err)
	}
	refused("others can read the cluster key", []string{"chmod 600"}, nil, "--data", n.data, "--listen", free())
	text, err := os.ReadFile(keyFile)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(keyFile); err != nil {
		t.Fatal(err)
	}
	refused("the cluster key is missing", []string{"--cluster-key-file", "REVOCAST_CLUSTER_KEY"}, nil, "--data", n.data, "--listen", free())
	refused("the cluster key is nonsense", []string{"REVOCAST_CLUSTER_KEY"}, []string{"REVOCAST_CLUSTER_KEY=nonsense"}, "--data", n.data, "--listen", free())
	if err := os.WriteFile(keyFile, text, 0o600); err != nil {
		t.Fatal(err)
	}
	refused("another region", []string{"region", "--region"}, nil, "--data", n.data, "--listen", free(), "--region", "mars")
	n.start(t)
	tab.row("", "after all that it starts", "ready")
}
