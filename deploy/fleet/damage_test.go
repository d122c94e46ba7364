package fleet_test

import (
	"context"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/revocast/revocast/deploy/fleet"
	"github.com/revocast/revocast/node/nodetest"
)

// Store files of one of three servers are damaged while it is down: nothing
// acknowledged is lost, and nothing is good that was revoked. Then the stream is
// deleted and made again: the nodes read it anew and keep every revocation.
func TestStoreDamaged(t *testing.T) {
	t.Parallel()
	f := region(t, 3)
	l := newLoad(t, f)
	dice := rand.New(rand.NewPCG(l.Seed, 7))
	under(t, l, func(ctx context.Context) {
		wait(t, ctx, 3*time.Second)
		for i, how := range []func(*rand.Rand, []byte) []byte{cutOff, flipped} {
			leader, err := f.Steady(ctx, "EV_eu")
			must(t, err)
			victim := f.Others(leader)[dice.IntN(2)]
			if i == 1 {
				victim = leader
			}
			victim.Kill()
			files := damage(t, victim.Store, dice, how)
			must(t, victim.Start())
			t.Logf("%d store files of %s damaged: %s", len(files), victim.Name, strings.Join(files, " "))
			_, err = f.Steady(ctx, "EV_eu")
			must(t, err)
			wait(t, ctx, time.Second)
		}
		recreate(t, ctx, l)
	})
}

// cutOff leaves half of a file.
func cutOff(_ *rand.Rand, b []byte) []byte { return b[:len(b)/2] }

// flipped flips a bit of a file.
func flipped(d *rand.Rand, b []byte) []byte {
	if len(b) > 0 {
		b[d.IntN(len(b))] ^= 1 << d.IntN(8)
	}
	return b
}

// damage damages the blocks of EV_eu in the store directory.
func damage(t *testing.T, store string, d *rand.Rand, how func(*rand.Rand, []byte) []byte) (files []string) {
	t.Helper()
	must(t, filepath.WalkDir(store, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || !strings.Contains(path, "EV_eu") || !strings.HasSuffix(path, ".blk") {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		files = append(files, fmt.Sprintf("%s (%d bytes)", e.Name(), len(b)))
		return os.WriteFile(path, how(d, b), 0o600)
	}))
	if len(files) == 0 {
		t.Fatal("no block of EV_eu in " + store)
	}
	return files
}

// recreate deletes the stream and makes it again under running nodes: all that
// was in it is lost. The nodes fence themselves, read it anew, and append every
// revocation again.
func recreate(t *testing.T, ctx context.Context, l *fleet.Load) {
	t.Helper()
	f := l.Fleet
	gone := session(t, ctx, l, f.Nodes[0])
	if o := l.Revoke(ctx, f.Nodes[0], gone, "none"); o.Outcome != nodetest.OK {
		t.Fatalf("no revocation: %v", o)
	}
	from := l.Now()
	_, err := f.Recreate(ctx, "EV_eu")
	must(t, err)
	// From the first sequence on everything is lost, also what was written
	// before the nodes noticed.
	begun := time.Now()
	agreed(t, ctx, f, "eu")
	l.History.Add(nodetest.Op{Op: nodetest.OpLose, Start: from, End: l.Now(), Seq: 1})
	t.Logf("stream made again: all nodes read it from its beginning and answer after %v", time.Since(begun).Round(time.Millisecond))
	for _, n := range f.Nodes {
		if o := l.Use(ctx, n, gone, "token", ""); o.Outcome != nodetest.Invalid || o.Reason != "revoked" {
			t.Errorf("%s forgot a revocation with the stream: %v", n.Name, o)
		}
	}
	// A node that starts now knows it from the log alone.
	fresh := f.Nodes[2]
	must(t, fresh.End())
	must(t, fresh.Forget())
	must(t, fresh.Restart(ctx))
	until(t, ctx, "revocation that was appended again", fleet.Lease, func() bool {
		o := l.Use(ctx, fresh, gone, "token", "")
		return o.Outcome == nodetest.Invalid && o.Reason == "revoked"
	})
}

// agreed waits until every node is in a later generation of the stream than the
// first and holds a lease on it.
func agreed(t *testing.T, ctx context.Context, f *fleet.Fleet, stream string) {
	t.Helper()
	for _, n := range f.Nodes {
		until(t, ctx, "new generation on "+n.Name, 2*fleet.Lease, func() bool {
			state, err := n.State(ctx)
			if err != nil {
				return false
			}
			for _, s := range state.Streams {
				if s.Stream == stream {
					return s.Fresh && !strings.HasPrefix(s.Position, stream+":0:")
				}
			}
			return false
		})
	}
}

// copyDir copies a directory of files.
func copyDir(t *testing.T, from, to string) {
	t.Helper()
	must(t, os.RemoveAll(to))
	must(t, os.CopyFS(to, os.DirFS(from)))
}

// A server that has the only copy is started on an older copy of its store: the
// log goes backwards by what came since. Nodes notice, read it anew, and append
// the revocations again that it lost.
func rewound(t *testing.T, ctx context.Context, l *fleet.Load, b *fleet.Broker) {
	t.Helper()
	f := l.Fleet
	i := slices.IndexFunc(f.Nodes, func(n *fleet.Node) bool { return n.Region == b.Region })
	near, far := f.Nodes[i], f.Nodes[(i+1)%len(f.Nodes)]
	old := b.Store + ".old"
	b.Kill()
	copyDir(t, b.Store, old)
	must(t, b.Start())
	until(t, ctx, "log that takes sessions", fleet.Lease, func() bool { s, _ := l.Create(ctx, near, ""); return s != nil })
	from := l.Now()
	kept := session(t, ctx, l, near)
	if o := l.Revoke(ctx, far, kept, "none"); o.Outcome != nodetest.OK {
		t.Fatalf("nothing to lose: %v", o)
	}
	wait(t, ctx, 2*time.Second)
	b.Kill()
	must(t, os.RemoveAll(b.Store))
	must(t, os.Rename(old, b.Store))
	must(t, b.Start())
	begun := time.Now()
	agreed(t, ctx, f, b.Region)
	l.History.Add(nodetest.Op{Op: nodetest.OpLose, Start: from, End: l.Now(), Seq: 1})
	t.Logf("log of %s put back: all nodes read it from its beginning and answer after %v", b.Region, time.Since(begun).Round(time.Millisecond))
	for _, n := range f.Nodes {
		if o := l.Use(ctx, n, kept, "token", ""); o.Outcome != nodetest.Invalid || o.Reason != "revoked" {
			t.Errorf("%s forgot a revocation that the log lost: %v", n.Name, o)
		}
	}
}
