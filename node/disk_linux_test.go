package node_test

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/events/broker"
)

// tmpfs mounts a file system of the given size in MiB, unmounted when the test
// ends.
func tmpfs(t *testing.T, mib int) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%dm", mib)); err != nil {
		t.Skipf("NOT TESTED on this machine: a full disk needs a tmpfs of its own, and mounting one is not allowed: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Errorf("unmount %s: %v", dir, err)
		}
	})
	return dir
}

// fill takes all the space there is and returns the file that holds it.
func fill(t *testing.T, dir string) string {
	t.Helper()
	path := filepath.Join(dir, "ballast")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for chunk := make([]byte, 1<<20); len(chunk) > 0; {
		if _, err := f.Write(chunk); errors.Is(err, syscall.ENOSPC) {
			chunk = chunk[:len(chunk)/2]
		} else if err != nil {
			t.Fatal(err)
		}
	}
	return path
}

// TestFullDisk takes the space away under a node in use, and gives it back.
func TestFullDisk(t *testing.T) {
	dir := tmpfs(t, 96)
	// A limit beyond the disk, so that the disk's own end is met.
	l := newRealLog(t, broker.Config{StoreDir: filepath.Join(dir, "log"), MaxStore: 4 << 30}, events.ClusterConfig{})
	n := l.start(t, fast)
	members := n.enterMany(t, 100)
	good, revoked, torevoke := members[:50], members[50:80], members[80:]
	for _, m := range revoked {
		n.do(n.key, "POST", "/v1/sessions/revoke", map[string]any{"session_token": m.token}).want(http.StatusOK)
	}
	stopBad := n.probe(t, "a revoked session", credentials(revoked...), http.StatusUnauthorized, http.StatusServiceUnavailable)
	stopGood := n.probe(t, "a good session", credentials(good...), http.StatusNoContent, http.StatusServiceUnavailable)
	tr := n.traffic(t, 4)
	tr.since.Store(true)

	ballast := fill(t, dir)
	full := time.Now()
	eventually(t, 20*time.Second, "the node knows that the log is dead", func() bool { return len(n.lines.with("the log takes no writes")) == 1 })
	since := func() time.Duration { return time.Since(full).Round(time.Millisecond) }
	t.Logf("the node knows of it %v after the disk was full", since())
	n.wantVerdict(t, &good[0], http.StatusNoContent)
	n.wantVerdict(t, &revoked[0], http.StatusUnauthorized)
	n.do(n.key, "POST", "/v1/sessions", map[string]any{"user_id": "late"}).wantError(http.StatusServiceUnavailable, "log_unavailable")
	n.do(n.key, "POST", "/v1/sessions/revoke", map[string]any{"session_token": torevoke[0].token}).wantError(http.StatusServiceUnavailable, "log_unavailable")
	eventually(t, 20*time.Second, "verifies say node_stale", func() bool {
		status, reason := n.verify(good[0].token)
		return status == http.StatusServiceUnavailable && reason == "silent"
	})
	t.Logf("verifies are refused %v after the disk was full", since())
	if status, _ := n.verify(revoked[0].token); status != http.StatusServiceUnavailable {
		t.Errorf("a revoked session is answered %d without a lease", status)
	}
	n.do(n.key, "POST", "/v1/sessions", map[string]any{"user_id": "late"}).wantError(http.StatusServiceUnavailable, "node_stale")
	n.do(n.key, "POST", "/v1/sessions/revoke", map[string]any{"session_token": torevoke[0].token}).wantError(http.StatusServiceUnavailable, "node_stale")
	if n.metric("revocast_log_revivals_total") != 0 {
		t.Error("the server was restarted without space")
	}

	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	space := time.Now()
	eventually(t, 15*time.Second, "the node lives again", func() bool {
		return n.ready() && n.do(n.key, "POST", "/v1/sessions", map[string]any{"user_id": "again"}).Status == http.StatusCreated
	})
	t.Logf("creates work %v after there was space", time.Since(space).Round(time.Millisecond))
	tr.end()
	t.Logf("%d created, %d revoked, %d refused; verifies of revoked sessions %v, of good ones %v",
		len(tr.created), len(tr.revoked), tr.refused, stopBad(), stopGood())
	for _, m := range torevoke[1:] {
		n.do(n.key, "POST", "/v1/sessions/revoke", map[string]any{"session_token": m.token}).want(http.StatusOK)
	}
	check := func(n *realNode) {
		t.Helper()
		for want, ms := range map[int][][]member{
			http.StatusNoContent:    {good, tr.created},
			http.StatusUnauthorized: {revoked, torevoke[1:], tr.revoked},
		} {
			for _, m := range ms {
				for i := range m {
					n.wantVerdict(t, &m[i], want)
				}
			}
		}
	}
	check(n)
	if n.metric("revocast_log_revivals_total") == 0 {
		t.Error("no revival was counted")
	}
	if rebuilds := n.metric("revocast_rebuilds_total"); rebuilds != 0 {
		t.Errorf("%v rebuilds", rebuilds)
	}
	n.stop()
	check(l.start(t, fast))
}

// TestFullLog fills the budget of the stream from many clients at once. Creates
// stop in time; revocations, verifies and heartbeats go on.
func TestFullLog(t *testing.T) {
	const budget = 4 << 20
	l := newRealLog(t, broker.Config{StoreDir: filepath.Join(tmpfs(t, 256), "log"), Lazy: true}, events.ClusterConfig{
		MaxBytes: budget, ConfigMaxBytes: budget, AuditMaxBytes: 16 << 20,
	})
	n := l.start(t, fast)
	var mu sync.Mutex
	var made []member
	refusals := map[string]int{}
	var clients sync.WaitGroup
	for c := range 64 {
		clients.Go(func() {
			for i := range 1000 {
				user := fmt.Sprintf("full-%d-%d", c, i)
				r := n.do(n.key, "POST", "/v1/sessions", map[string]any{"user_id": user, "session_duration_minutes": 60})
				mu.Lock()
				if r.Status == http.StatusCreated {
					sid, err := events.ParseSID(r.str("session.session_id"))
					if err != nil {
						t.Error(err)
					}
					made = append(made, member{user, r.str("session_token"), r.str("session_jwt"), sid, ""})
					mu.Unlock()
					continue
				}
				refusals[r.str("error_type")]++
				mu.Unlock()
				return
			}
		})
	}
	clients.Wait()
	info, err := l.home.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d sessions; refused with %v at %d %% of the budget", len(made), refusals, info.Bytes*100/budget)
	if len(refusals) != 1 || refusals["log_full"] != 64 {
		t.Errorf("creates were refused with %v, want log_full for each client", refusals)
	}
	if info.Bytes > budget/100*85 {
		t.Errorf("creates went on until the stream held %d of %d bytes", info.Bytes, budget)
	}
	good, revoked := made[:len(made)-100], made[len(made)-100:]
	stopGood := n.probe(t, "a good session", credentials(good[0]), http.StatusNoContent)
	beats := n.metric("revocast_heartbeats_total", `stream="eu"`)
	for i := range revoked {
		n.do(n.key, "POST", "/v1/sessions/revoke", map[string]any{"session_token": revoked[i].token}).want(http.StatusOK)
		n.wantVerdict(t, &revoked[i], http.StatusUnauthorized)
	}
	n.do(n.key, "POST", "/v1/sessions/revoke", map[string]any{"user_id": good[1].user}).want(http.StatusOK)
	n.wantVerdict(t, &good[1], http.StatusUnauthorized)
	// Longer than a lease: it is renewed by what the full log still takes.
	eventually(t, 20*time.Second, "heartbeats go on", func() bool {
		return n.metric("revocast_heartbeats_total", `stream="eu"`) > beats+20
	})
	n.wantVerdict(t, &good[0], http.StatusNoContent)
	if info, err = l.home.Info(t.Context()); err != nil || info.Bytes > budget/100*87 {
		t.Errorf("the stream holds %d of %d bytes, %v", info.Bytes, budget, err)
	}
	eventually(t, 20*time.Second, "creates are refused whenever the log is above 80 %", func() bool {
		return n.do(n.key, "POST", "/v1/sessions", map[string]any{"user_id": "late"}).Status == http.StatusServiceUnavailable
	})
	n.do(n.key, "POST", "/v1/sessions", map[string]any{"user_id": "late"}).wantError(http.StatusServiceUnavailable, "log_full")
	// Under the race detector a heartbeat may be late for other reasons.
	if !n.ready() || n.metric("revocast_heartbeat_failures_total") != 0 && !underRace {
		t.Error("heartbeats failed")
	}
	t.Logf("verifies %v", stopGood())
}
