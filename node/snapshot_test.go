package node_test

import (
	"context"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/events/broker"
	"github.com/revocast/revocast/node"
)

// readLog remembers from where the log was followed, and counts what it
// delivered below a sequence.
type readLog struct {
	events.Log
	from atomic.Uint64 // of the newest Follow that resumes by overlap
}

func (l *readLog) Follow(ctx context.Context, f events.Follow) error {
	if f.Anchor != nil { // else it only looks something up beside that
		l.from.Store(f.From)
	}
	return l.Log.Follow(ctx, f)
}

// snapshotHarness starts a node that keeps snapshots in dir.
func snapshotHarness(t *testing.T, dir string) *harness {
	t.Helper()
	return newHarness(t, func(c *node.Config) { c.SnapshotDir = dir })
}

// again returns a node over the same logs with the same keys, not running, with
// snapshots in dir, and the log as it reads it.
func (h *harness) again(dir string) (*harness, *readLog) {
	h.t.Helper()
	read := &readLog{Log: h.home}
	next := *h
	var err error
	next.node, err = node.New(node.Config{
		Name: "n1", Version: "test", PublicURL: publicURL, SnapshotDir: dir,
		Settings: h.config, Home: read, Archive: h.home, Keys: h.keys,
		Solo: true, Durability: func() string { return "fsync" }, Clock: h.clock,
	})
	if err != nil {
		h.t.Fatalf("new node: %v", err)
	}
	next.handler = next.node.Handler()
	return &next, read
}

// lived is what a test did before it looks what is known of it.
type lived struct{ good, changed, revoked, swept, spared string }

func (h *harness) live() lived {
	h.t.Helper()
	token := func(user string) string { return h.login(user).str("session_token") }
	l := lived{good: token("ann"), changed: token("bob"), revoked: token("cid"), swept: token("dan")}
	h.do(h.key, "POST", "/v1/sessions/authenticate", map[string]any{"session_token": l.changed, "session_duration_minutes": 900}).want(http.StatusOK)
	h.do(h.key, "POST", "/v1/sessions/revoke", map[string]any{"session_token": l.revoked}).want(http.StatusOK)
	h.do(h.key, "POST", "/v1/sessions/revoke", map[string]any{"user_id": "dan"}).want(http.StatusOK)
	l.spared = token("dan")
	return l
}

func (h *harness) knows(l lived) {
	h.t.Helper()
	for token, want := range map[string]int{
		l.good: 204, l.changed: 204, l.spared: 204, l.revoked: 401, l.swept: 401,
	} {
		h.verify(token).want(want)
	}
}

// files returns the names in the directory.
func files(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// TestSnapshotOfRestart: a node that stops and starts reads on where its
// snapshot says, and knows the same.
func TestSnapshotOfRestart(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		h := snapshotHarness(t, dir)
		l := h.live()
		time.Sleep(7 * time.Minute)
		last := h.login("eve").str("session_token")
		digest := h.node.SessionDigest(time.Now().UnixMilli())
		h.stop()
		n, read := h.again(dir)
		// Knowing it all, it has heard nothing of the log yet.
		n.verify(l.good).wantStale()
		n.start()
		if from := read.from.Load(); from < 300 {
			t.Errorf("the log was read from %d", from)
		}
		n.knows(l)
		n.verify(last).want(http.StatusNoContent)
		if got := n.node.SessionDigest(time.Now().UnixMilli()); got != digest {
			t.Errorf("digest %s became %s", digest, got)
		}
		if got := n.login("fay").str("revision"); !strings.HasPrefix(got, "eu:0:") {
			t.Errorf("revision %s", got)
		}
		// And once more, from a snapshot that was made from a snapshot.
		n.stop()
		n, _ = n.again(dir)
		n.start()
		n.knows(l)
	})
}

func (r *reply) wantStale() {
	r.t.Helper()
	r.want(http.StatusServiceUnavailable)
}

// TestSnapshotOfCrash: what happened after the newest snapshot is read from the
// log.
func TestSnapshotOfCrash(t *testing.T) {
	dir, crashed := t.TempDir(), t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		h := snapshotHarness(t, dir)
		before := h.live()
		later := h.login("gus").str("session_token")
		time.Sleep(6 * time.Minute)
		if err := os.CopyFS(crashed, os.DirFS(dir)); err != nil || len(files(t, crashed)) != 1 {
			t.Fatal(err, files(t, crashed))
		}
		h.do(h.key, "POST", "/v1/sessions/revoke", map[string]any{"session_token": later}).want(http.StatusOK)
		after := h.live()
		h.stop()
		n, read := h.again(crashed)
		n.start()
		if from := read.from.Load(); from <= 1 {
			t.Errorf("the log was read from %d", from)
		}
		n.knows(after)
		n.verify(before.good).want(http.StatusNoContent)
		n.verify(before.revoked).want(http.StatusUnauthorized)
		n.verify(later).want(http.StatusUnauthorized)
	})
}

// TestSnapshotContradicted: the log lost what the snapshot has. It is read
// anew, no session comes from the snapshot, and no revocation is lost.
func TestSnapshotContradicted(t *testing.T) {
	for name, lost := range map[string]struct {
		after   time.Duration // how long the log went on: with 7 minutes, the anchor is lost as well
		regrown bool
	}{
		"short": {7 * time.Minute, false}, "grown again": {7 * time.Minute, true},
		"tail short": {0, false}, "tail grown again": {0, true},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			synctest.Test(t, func(t *testing.T) {
				h := snapshotHarness(t, dir)
				l := h.live()
				time.Sleep(time.Minute)
				info, _ := h.home.Info(t.Context())
				kept := info.LastSeq
				victim := h.login("hal").str("session_token")
				gone := h.login("ivy").str("session_token")
				h.do(h.key, "POST", "/v1/sessions/revoke", map[string]any{"session_token": l.good}).want(http.StatusOK)
				h.do(h.key, "POST", "/v1/sessions/revoke", map[string]any{"session_token": victim}).want(http.StatusOK)
				time.Sleep(lost.after)
				h.stop()
				info, _ = h.home.Info(t.Context())
				h.home.Truncate(int(info.LastSeq - kept))
				if lost.regrown {
					other, _ := h.again(t.TempDir())
					other.start()
					time.Sleep(20 * time.Minute)
					other.stop()
				}
				n, _ := h.again(dir)
				n.start()
				time.Sleep(10 * time.Second)
				n.verify(l.good).want(http.StatusUnauthorized) // revoked in what was lost
				n.verify(victim).want(http.StatusUnauthorized)
				n.verify(gone).want(http.StatusUnauthorized)
				n.verify(l.changed).want(http.StatusNoContent)
				if got := n.login("joe").str("revision"); !strings.HasPrefix(got, "eu:1:") {
					t.Errorf("revision %s, want generation 1", got)
				}
				n.stop()
				// The revocation was appended again: the log alone has it.
				fresh, _ := h.again(t.TempDir())
				fresh.start()
				fresh.verify(l.good).want(http.StatusUnauthorized)
				fresh.stop()
				// And the generation lasts.
				n, _ = h.again(dir)
				n.start()
				if got := n.login("kim").str("revision"); !strings.HasPrefix(got, "eu:1:") {
					t.Errorf("revision %s after a restart, want generation 1", got)
				}
			})
		})
	}
}

// TestSnapshotOfConfig: CONFIG is read from its beginning, in the generation it
// had.
func TestSnapshotOfConfig(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		h := snapshotHarness(t, dir)
		h.config.Truncate(1)
		time.Sleep(time.Minute)
		revision := func(h *harness, app string) string {
			return h.do(h.admin, "POST", "/v1/apps", map[string]any{"app_id": app}).want(http.StatusCreated).str("revision")
		}
		if got := revision(h, "one"); !strings.HasPrefix(got, "_config:1:") {
			t.Fatalf("revision %s", got)
		}
		h.stop()
		n, _ := h.again(dir)
		n.start()
		if got := revision(n, "two"); !strings.HasPrefix(got, "_config:1:") {
			t.Errorf("revision %s", got)
		}
	})
}

// TestSnapshotDamaged: the older one counts, and without any the log.
func TestSnapshotDamaged(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t, func(c *node.Config) { c.SnapshotDir, c.SnapshotEvery = dir, 4*time.Minute })
		l := h.live()
		time.Sleep(11 * time.Minute) // after 8 from the marker of 5, at the end from that of 10
		h.do(h.key, "POST", "/v1/sessions/revoke", map[string]any{"session_token": l.spared}).want(http.StatusOK)
		l.swept, l.spared = l.spared, l.good
		h.stop()
		names := files(t, dir)
		if len(names) != 2 {
			t.Fatal(names)
		}
		damage := func(name string) {
			path := filepath.Join(dir, name)
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			b[len(b)/2] ^= 1
			if err := os.WriteFile(path, b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		restart := func() uint64 {
			copied := t.TempDir()
			if err := os.CopyFS(copied, os.DirFS(dir)); err != nil {
				t.Fatal(err)
			}
			n, read := h.again(copied)
			n.start()
			defer n.stop()
			n.knows(l)
			return read.from.Load()
		}
		newest := restart()
		damage(names[1])
		older := restart()
		damage(names[0])
		if none := restart(); older >= newest || older <= 1 || none != 1 {
			t.Errorf("read from %d, with the older one from %d, without from %d", newest, older, none)
		}
	})
}

// TestSnapshotTooOld: its anchor left the log, so it proves nothing.
func TestSnapshotTooOld(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		h := snapshotHarness(t, dir)
		l := h.live()
		h.do(h.key, "POST", "/v1/sessions/authenticate", map[string]any{"session_token": l.good, "session_duration_minutes": 3000}).want(http.StatusOK)
		time.Sleep(time.Minute)
		h.stop()
		time.Sleep(25 * time.Hour)
		n, _ := h.again(dir)
		n.start()
		n.verify(l.good).want(http.StatusNoContent)
		n.verify(l.revoked).want(http.StatusUnauthorized)
		if got := n.login("joe").str("revision"); !strings.HasPrefix(got, "eu:1:") {
			t.Errorf("revision %s, want generation 1", got)
		}
	})
}

// TestSnapshotsKept: two, and nothing of one that was not finished.
func TestSnapshotsKept(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "made", "by itself")
	synctest.Test(t, func(t *testing.T) {
		h := snapshotHarness(t, dir)
		time.Sleep(6 * time.Minute)
		first := files(t, dir)
		if err := os.WriteFile(filepath.Join(dir, first[0]+".tmp"), []byte("half"), 0o600); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Minute)
		names := files(t, dir)
		if len(first) != 1 || len(names) != 2 || names[0] <= first[0] {
			t.Errorf("%q, then %q", first, names)
		}
		h.stop()
		if last := files(t, dir); len(last) != 2 || last[0] != names[1] {
			t.Errorf("%q, then %q", names, last)
		}
		if info, err := os.Stat(filepath.Join(dir, names[1])); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%v, %v", info, err)
		}
	})
}

// TestSnapshotOfRealLog: the same on JetStream.
func TestSnapshotOfRealLog(t *testing.T) {
	l := newRealLog(t, broker.Config{Lazy: true}, events.ClusterConfig{})
	dir := t.TempDir()
	withDir := func(c *node.Config) { c.SnapshotDir = dir }
	n := l.start(t, withDir)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	all := n.enterMany(t, 100)
	want := make([]int, len(all))
	for i := range all {
		want[i] = http.StatusNoContent
		n.alter(random, &all[i])
		if random.IntN(3) == 0 {
			n.do(n.key, "POST", "/v1/sessions/revoke", map[string]any{"session_token": all[i].token}).want(http.StatusOK)
			want[i] = http.StatusUnauthorized
		}
	}
	now := time.Now().UnixMilli()
	digest := n.node.SessionDigest(now)
	for range 2 {
		n.stop()
		if len(files(t, dir)) == 0 {
			t.Fatal("no snapshot")
		}
		n = l.start(t, withDir)
		for i := range all {
			n.wantVerdict(t, &all[i], want[i])
		}
		if got := n.node.SessionDigest(now); got != digest {
			t.Errorf("digest %s became %s", digest, got)
		}
		if got := n.metric("revocast_rebuilds_total"); got != 0 {
			t.Errorf("read from the beginning %v times", got)
		}
		if got, _, _ := strings.Cut(n.login("joe").str("revision"), ","); !strings.HasPrefix(got, "eu:0:") {
			t.Errorf("revision %s", got)
		}
		digest = n.node.SessionDigest(now)
	}
}
