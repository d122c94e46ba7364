package node_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node"
)

// trouble is a slog.Handler that keeps what is logged as an error.
type trouble struct {
	slog.Handler

	mu    sync.Mutex // guards lines
	lines []string
}

func (l *trouble) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelError }

func (l *trouble) Handle(_ context.Context, r slog.Record) error {
	line := r.Message
	r.Attrs(func(a slog.Attr) bool { line += fmt.Sprintf(" %s=%v", a.Key, a.Value); return true })
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, line)
	return nil
}

func (l *trouble) all() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lines
}

// TestSnapshotRefused: whatever is wrong with the only snapshot, it is said once,
// the log is read from its beginning, and the next start is from the snapshot
// that was written since.
func TestSnapshotRefused(t *testing.T) {
	stranger, err := events.NewClusterKeys(events.NewClusterKey())
	if err != nil {
		t.Fatal(err)
	}
	for name, wrong := range map[string]struct {
		file func(b []byte) []byte
		keys *events.ClusterKeys // who wrote it, if not the cluster
		says string
	}{
		"empty":       {file: func(b []byte) []byte { return nil }, says: "damaged"},
		"cut short":   {file: func(b []byte) []byte { return b[:len(b)*2/3] }, says: "damaged"},
		"without end": {file: func(b []byte) []byte { return b[:len(b)-1] }, says: "damaged"},
		"flipped":     {file: func(b []byte) []byte { b[len(b)/2] ^= 4; return b }, says: "damaged"},
		"its end":     {file: func(b []byte) []byte { b[len(b)-1] ^= 4; return b }, says: "another cluster"},
		"newer":       {file: func(b []byte) []byte { b[11]++; return b }, says: "newer format"},
		"foreign":     {file: func(b []byte) []byte { return b }, keys: stranger, says: "another cluster"},
		"no snapshot": {file: func([]byte) []byte { return []byte("#!/bin/sh\nexit 0 # and so on\n") }, says: "damaged"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			synctest.Test(t, func(t *testing.T) {
				h := snapshotHarness(t, dir)
				l := h.live()
				time.Sleep(7 * time.Minute)
				h.stop()
				if wrong.keys != nil {
					foreignSnapshot(t, dir, wrong.keys)
				}
				kept := files(t, dir)
				for _, older := range kept[:len(kept)-1] {
					if err := os.Remove(filepath.Join(dir, older)); err != nil {
						t.Fatal(err)
					}
				}
				newest := kept[len(kept)-1]
				change(t, filepath.Join(dir, newest), wrong.file)
				n, logged := h.startLogged(dir)
				n.knows(l)
				if got := logged.all(); len(got) != 1 || !strings.Contains(got[0], newest) || !strings.Contains(got[0], wrong.says) {
					t.Errorf("%d lines, want one about %s that says %q: %q", len(got), newest, wrong.says, got)
				}
				time.Sleep(7 * time.Minute)
				n.stop()
				n, logged = h.startLogged(dir)
				n.knows(l)
				if got := logged.all(); len(got) != 0 {
					t.Errorf("at the next start: %q", got)
				}
				n.wantGeneration("0")
			})
		})
	}
}

// startLogged starts a node on the logs of h, with snapshots in dir.
func (h *harness) startLogged(dir string) (*harness, *trouble) {
	h.t.Helper()
	logged := &trouble{Handler: slog.DiscardHandler}
	n, _ := h.another(func(c *node.Config) {
		c.Name, c.Solo, c.SnapshotDir, c.Log = "n1", true, dir, slog.New(logged)
	})
	n.start()
	return n, logged
}

func change(t *testing.T, path string, of func([]byte) []byte) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err == nil {
		err = os.WriteFile(path, of(b), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// foreignSnapshot puts a snapshot of a cluster with the keys in the place of the
// newest.
func foreignSnapshot(t *testing.T, dir string, keys *events.ClusterKeys) {
	t.Helper()
	theirs := t.TempDir()
	other := newHarness(t, func(c *node.Config) { c.SnapshotDir, c.Keys = theirs, keys })
	time.Sleep(7 * time.Minute)
	other.stop()
	made, kept := files(t, theirs), files(t, dir)
	b, err := os.ReadFile(filepath.Join(theirs, made[len(made)-1]))
	if err != nil {
		t.Fatal(err)
	}
	change(t, filepath.Join(dir, kept[len(kept)-1]), func([]byte) []byte { return b })
}

// TestSnapshotHidesNoRevocation: the log is cut back below what a snapshot holds,
// and a revocation is written at each of the sequences that are given away again.
// The node that starts from the snapshot believes to have applied them all.
func TestSnapshotHidesNoRevocation(t *testing.T) {
	for name, cut := range map[string]struct {
		entries int // how many of the newest the log loses
		again   int // how many more than those it has later
	}{
		"a little": {3, 0}, "to before the last minutes": {100, 0}, "and grown further": {100, 40},
		"below the anchor": {400, 0}, "below the anchor, and grown further": {400, 40},
	} {
		for place, at := range map[string]func(n int) int{
			"first": func(int) int { return 0 }, "in between": func(n int) int { return n / 2 }, "last": func(n int) int { return n - 1 },
		} {
			t.Run(name+", "+place, func(t *testing.T) {
				dir := t.TempDir()
				synctest.Test(t, func(t *testing.T) {
					h := snapshotHarness(t, dir)
					victim, bystander := h.login("ann"), h.login("bob")
					time.Sleep(7 * time.Minute)
					h.stop()
					h.home.Truncate(cut.entries)
					for i := range cut.entries + cut.again {
						if i == at(cut.entries) {
							h.inject(&events.Revoke{
								App: "acme", User: "ann", SID: sidOf(t, victim), Reason: "stolen", By: "other",
								At: time.Now().UnixMilli(), AbsoluteAt: time.Now().Add(time.Hour).UnixMilli(),
							})
							continue
						}
						h.inject(&events.Touch{App: "acme", User: "x", SID: events.SID{2, byte(i), byte(i >> 8)}})
					}
					n, _ := h.again(dir)
					n.start()
					n.verify(victim.str("session_token")).wantRefused("revoked")
					n.verify(bystander.str("session_token")).want(http.StatusNoContent)
					time.Sleep(10 * time.Second)
					n.verify(victim.str("session_token")).wantRefused("revoked")
					n.verify(bystander.str("session_token")).want(http.StatusNoContent)
					if cut.entries >= 100 {
						n.wantGeneration("1")
					}
				})
			})
		}
	}
}
