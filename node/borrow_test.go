package node_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node"
)

// heardLog remembers the sequence that a node first heard of its stream. Before
// it follows, first is called.
type heardLog struct {
	events.Log
	first  atomic.Uint64
	before func()
}

func (l *heardLog) Follow(ctx context.Context, f events.Follow) error {
	if before := l.before; before != nil {
		l.before = nil
		before()
	}
	apply := f.Apply
	f.Apply = func(e events.Entry) error {
		l.first.CompareAndSwap(0, e.Seq)
		return apply(e)
	}
	return l.Log.Follow(ctx, f)
}

// lendingAfter is when a node that keeps snapshots has one that begins far up
// in the log.
const lendingAfter = 11 * time.Minute

// lender starts a node that keeps snapshots.
func (f *fleet) lender(name, dir string, changes ...func(*node.Config)) *fleetNode {
	return f.join(name, append(changes, func(c *node.Config) { c.SnapshotDir = dir })...)
}

// heard is joining, with what the node hears of its region's stream.
func (f *fleet) heard(name string, changes ...func(*node.Config)) (*fleetNode, *heardLog) {
	read := new(heardLog)
	n := f.joining(name, append(changes, func(c *node.Config) {
		read.Log = c.Home
		c.Home = read
	})...)
	return n, read
}

// transfers returns how often the node counted the result.
func (h *harness) transfers(result string) float64 {
	h.t.Helper()
	return (&realNode{harness: h}).metric("revocast_snapshot_transfer_total", `result="`+result+`"`)
}

// mustJoin fails unless the node began from the snapshot of a peer and is told
// nothing of what stands below its anchor.
func mustJoin(t *testing.T, n *fleetNode, read *heardLog) {
	t.Helper()
	if first := read.first.Load(); first < 300 || n.transfers("loaded") != 1 {
		t.Errorf("%s heard the log from %d and loaded %v snapshots", n.name, first, n.transfers("loaded"))
	}
}

// mustRead fails unless the node read the log from its beginning.
func mustRead(t *testing.T, n *fleetNode, read *heardLog) {
	t.Helper()
	if first := read.first.Load(); first > 10 || n.transfers("loaded") != 0 {
		t.Errorf("%s heard the log from %d and loaded %v snapshots", n.name, first, n.transfers("loaded"))
	}
}

// A node that joins hears of the log only what came after its peer's marker,
// answers nothing before it is fresh, and what it then answers is not older
// than the log: a revocation between snapshot and join counts from its first
// answer on.
func TestJoinFromPeer(t *testing.T) {
	dir, own := t.TempDir(), t.TempDir()
	fleetBubble(t, 1, func(t *testing.T, f *fleet) {
		lender := f.lender("n2", dir)
		l := f.live()
		time.Sleep(lendingAfter)
		for _, token := range []string{l.good, l.spared} {
			f.do(f.key, "POST", "/v1/sessions/revoke", m{"session_token": token}).want(http.StatusOK)
		}
		late := f.login("gil").str("session_token")
		n, read := f.heard("n3", func(c *node.Config) { c.SnapshotDir = own })
		n.link.SetFaults(events.MemoryFaults{Deliver: func(ctx context.Context, e events.Entry) int {
			wait(ctx, 10*time.Millisecond)
			return 1
		}})
		n.begin()
		stale := 0
		want := map[string]int{l.good: 401, l.spared: 401, l.revoked: 401, l.swept: 401, l.changed: 204, late: 204}
		for n.verify(late).Status == http.StatusServiceUnavailable {
			for token, status := range want {
				if got := n.verify(token).Status; got == http.StatusServiceUnavailable {
					stale++
				} else if got != status {
					t.Fatalf("answered %d before it was fresh, want %d", got, status)
				}
			}
			time.Sleep(time.Millisecond)
		}
		for token, status := range want {
			n.verify(token).want(status)
		}
		if stale < 100 {
			t.Errorf("it was fresh after only %d questions", stale)
		}
		mustJoin(t, n, read)
		if lender.transfers("lent") != 1 {
			t.Error("the lender does not count it")
		}
		// What it holds is what its peer holds, and its own snapshot is as good.
		now := time.Now().UnixMilli()
		if got, want := n.node.SessionDigest(now), lender.node.SessionDigest(now); got != want {
			t.Errorf("digest %s, not %s", got, want)
		}
		n.stop()
		again, read := f.heard("n3", func(c *node.Config) { c.SnapshotDir = own })
		again.start()
		if first := read.first.Load(); first < 300 || again.transfers("loaded") != 0 {
			t.Errorf("started again it heard the log from %d and loaded %v from others", first, again.transfers("loaded"))
		}
		again.verify(l.good).want(http.StatusUnauthorized)
	})
}

// A generation is taken over with the snapshot.
func TestJoinTakesGeneration(t *testing.T) {
	dir := t.TempDir()
	fleetBubble(t, 1, func(t *testing.T, f *fleet) {
		f.lender("n2", dir)
		l := f.live()
		time.Sleep(time.Minute)
		f.home.Truncate(5)
		time.Sleep(12 * time.Minute)
		n, read := f.heard("n3")
		n.start()
		mustJoin(t, n, read)
		n.knows(l)
		if got := n.login("joe").str("revision"); !strings.HasPrefix(got, "eu:1:") {
			t.Errorf("revision %s, want generation 1", got)
		}
	})
}

// meshCall reads a question about a snapshot, as it passes.
func meshCall(msg events.Message) (op string, to events.Incarnation) {
	var q struct{ To events.Incarnation }
	var body struct{ Op string }
	head, rest, _ := bytes.Cut(msg.Payload, []byte("\n"))
	if msg.Subject == "query.snapshot" && json.Unmarshal(head, &q) == nil {
		_ = json.Unmarshal(rest, &body)
	}
	return body.Op, q.To
}

// silence makes whoever is asked for a piece first, up to so many, say nothing
// from then on.
func silence(up int, lenders ...*fleetNode) {
	var mu sync.Mutex
	dead := map[events.Incarnation]bool{}
	for _, l := range lenders {
		l.mesh.SetDeliver(func(_ context.Context, msg events.Message) int {
			op, to := meshCall(msg)
			mu.Lock()
			defer mu.Unlock()
			if op == "read" && len(dead) < up {
				dead[to] = true
			}
			if dead[to] {
				return 0
			}
			return 1
		})
	}
}

// A peer that falls silent is given up for another one, and all of them for the log.
func TestJoinPeerDies(t *testing.T) {
	for up, name := range []string{1: "another peer", 2: "the log"} {
		if name == "" {
			continue
		}
		t.Run(name, func(t *testing.T) {
			dirs := [2]string{t.TempDir(), t.TempDir()}
			fleetBubble(t, 1, func(t *testing.T, f *fleet) {
				a, b := f.lender("n2", dirs[0]), f.lender("n3", dirs[1])
				l := f.live()
				time.Sleep(lendingAfter)
				silence(up, a, b)
				n, read := f.heard("n4")
				n.begin()
				time.Sleep(time.Minute)
				n.knows(l)
				if up == 1 {
					mustJoin(t, n, read)
				} else {
					mustRead(t, n, read)
				}
				if got := n.transfers("given_up"); got != float64(up) {
					t.Errorf("%v peers were given up", got)
				}
			})
		})
	}
}

// The log loses its end, or its anchor too, after the snapshot was handed over
// and before it is held against the log: no session comes from it, and no
// revocation is lost, although nobody else knows it any more.
func TestJoinContradicted(t *testing.T) {
	for name, after := range map[string]time.Duration{"anchor lost": 2 * time.Minute, "end lost": 5*time.Minute + 30*time.Second} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			fleetBubble(t, 1, func(t *testing.T, f *fleet) {
				lender := f.lender("n2", dir, func(c *node.Config) { c.SnapshotEvery = 4 * time.Minute })
				l := f.live()
				time.Sleep(after)
				info, _ := f.home.Info(t.Context())
				kept := info.LastSeq
				gone := f.login("ivy").str("session_token")
				f.do(f.key, "POST", "/v1/sessions/revoke", m{"session_token": l.good}).want(http.StatusOK)
				time.Sleep(9*time.Minute - after)
				n, read := f.heard("n3")
				read.before = func() {
					lender.stop()
					f.nodes[0].stop()
					info, _ := f.home.Info(t.Context())
					f.home.Truncate(int(info.LastSeq - kept))
				}
				n.start()
				if n.transfers("loaded") != 1 {
					t.Fatal("no snapshot was loaded")
				}
				n.verify(gone).want(http.StatusUnauthorized)
				n.verify(l.good).want(http.StatusUnauthorized)
				n.verify(l.revoked).want(http.StatusUnauthorized)
				n.verify(l.changed).want(http.StatusNoContent)
				if got := n.login("joe").str("revision"); !strings.HasPrefix(got, "eu:1:") {
					t.Errorf("revision %s, want generation 1", got)
				}
				time.Sleep(time.Second)
				n.stop()
				fresh, _ := f.heard("n4")
				fresh.start()
				fresh.verify(l.good).want(http.StatusUnauthorized)
			})
		})
	}
}

// A stream that was made anew is another one: nothing of the snapshot is served.
func TestJoinRecreated(t *testing.T) {
	dir := t.TempDir()
	fleetBubble(t, 1, func(t *testing.T, f *fleet) {
		f.lender("n2", dir)
		l := f.live()
		time.Sleep(lendingAfter)
		n, read := f.heard("n3")
		read.before = f.home.Recreate
		n.begin()
		for range 60 {
			time.Sleep(time.Second)
			for _, token := range []string{l.good, l.changed, l.spared} {
				n.verify(token).wantStale()
			}
		}
	})
}

// A peer that rewound, is fenced or has no anchor yet lends nothing.
func TestJoinPeerUnsound(t *testing.T) {
	for name, spoil := range map[string]func(f *fleet, lender *fleetNode){
		"rewound": func(f *fleet, _ *fleetNode) {
			f.home.Truncate(5)
		},
		"fenced": func(_ *fleet, lender *fleetNode) {
			lender.link.Cut()
			time.Sleep(30 * time.Second)
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			fleetBubble(t, 1, func(t *testing.T, f *fleet) {
				lender := f.lender("n2", dir)
				l := f.live()
				time.Sleep(lendingAfter)
				spoil(f, lender)
				n, read := f.heard("n3")
				n.start()
				n.knows(l)
				mustRead(t, n, read)
			})
		})
	}
}

// Many nodes that join at once share what a lender gives; each gets its turn.
func TestJoinMany(t *testing.T) {
	dir := t.TempDir()
	fleetBubble(t, 1, func(t *testing.T, f *fleet) {
		lender := f.lender("n2", dir)
		l := f.live()
		time.Sleep(lendingAfter)
		var most atomic.Int64
		lender.mesh.SetDeliver(func(ctx context.Context, msg events.Message) int {
			if op, _ := meshCall(msg); op == "read" {
				wait(ctx, 50*time.Millisecond)
			}
			most.Store(max(most.Load(), int64(lender.node.Loans())))
			return 1
		})
		var joined []*fleetNode
		var reads []*heardLog
		for i := range 9 {
			n, read := f.heard(fmt.Sprint("m", i))
			joined, reads = append(joined, n), append(reads, read)
			n.begin()
		}
		time.Sleep(time.Minute)
		for i, n := range joined {
			n.knows(l)
			mustJoin(t, n, reads[i])
		}
		if got := most.Load(); got != 4 {
			t.Errorf("%d read at a time", got)
		}
		if got := lender.node.Loans(); got != 0 {
			t.Errorf("%d loans were left", got)
		}
	})
}

// A loan outlives the file's name, and ends when nobody asks.
func TestLoanOutlivesPruning(t *testing.T) {
	dir := t.TempDir()
	fleetBubble(t, 1, func(t *testing.T, f *fleet) {
		lender := f.lender("n2", dir)
		l := f.live()
		time.Sleep(lendingAfter)
		lender.mesh.SetDeliver(func(_ context.Context, msg events.Message) int {
			if op, _ := meshCall(msg); op == "read" {
				for _, name := range files(t, dir) {
					_ = os.Remove(filepath.Join(dir, name))
				}
			}
			if op, _ := meshCall(msg); op == "done" {
				return 0
			}
			return 1
		})
		n, read := f.heard("n3")
		n.start()
		n.knows(l)
		mustJoin(t, n, read)
		if got := lender.node.Loans(); got != 1 {
			t.Errorf("%d loans", got)
		}
		time.Sleep(time.Minute)
		if got := lender.node.Loans(); got != 0 {
			t.Errorf("%d loans after a minute of silence", got)
		}
	})
}

// A lender that has not written a snapshot yet writes one when it is asked.
func TestJoinSoonAfterStart(t *testing.T) {
	dir := t.TempDir()
	fleetBubble(t, 1, func(t *testing.T, f *fleet) {
		time.Sleep(lendingAfter)
		l := f.live()
		f.lender("n2", dir)
		time.Sleep(2 * time.Second)
		n, read := f.heard("n3")
		n.start()
		n.knows(l)
		mustJoin(t, n, read)
		if names := files(t, dir); len(names) != 1 {
			t.Error(names)
		}
	})
}

// A snapshot holds the streams of all regions, and is lent in its own region only.
func TestJoinRegions(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 1)
		l := f.live()
		us := events.NewMemory("us", 3, events.MemoryConfig{Clock: f.clock})
		for number, region := range map[uint8]string{2: "eu", 3: "us"} {
			msg, err := f.keys.Encode(events.ConfigRegion, &events.Region{Region: region, Number: number, At: time.Now().UnixMilli()}, nil, 0)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := f.harness.config.Append(t.Context(), msg, events.Expect(0)); err != nil {
				t.Fatal(err)
			}
		}
		reads := map[string]*heardLog{}
		opens := func(c *node.Config) {
			c.Open = func(_ context.Context, r *events.Region) (events.Log, error) {
				of := map[string]*events.Memory{"eu": f.home, "us": us}[r.Region]
				read := &heardLog{Log: of.Link()}
				reads[c.Name+r.Region] = read
				return read, nil
			}
		}
		in := func(c *node.Config) { c.Home = us.Link() }
		far := f.join("u1", opens, in)
		f.lender("n2", dir, opens)
		there := far.login("uma").str("session_token")
		out := far.login("una").str("session_token")
		time.Sleep(lendingAfter)
		far.do(f.key, "POST", "/v1/sessions/revoke", m{"session_token": out}).want(http.StatusOK)
		n, read := f.heard("n3", opens)
		n.start()
		time.Sleep(2 * time.Second)
		mustJoin(t, n, read)
		if first := reads["n3us"].first.Load(); first < 300 {
			t.Errorf("the other region's stream was heard from %d", first)
		}
		n.knows(l)
		n.verify(there).want(http.StatusNoContent)
		n.verify(out).want(http.StatusUnauthorized)
		// Of the lender's region is nobody here.
		other := f.join("u2", opens, in)
		if got := other.transfers("loaded") + other.transfers("given_up"); got != 0 {
			t.Errorf("%v snapshots of another region", got)
		}
	})
}

// A peer that cannot write a snapshot, because it never reached one of the
// regions, says so at once.
func TestJoinPeerCannotWrite(t *testing.T) {
	dir := t.TempDir()
	fleetBubble(t, 1, func(t *testing.T, f *fleet) {
		l := f.live()
		us := f.abroad()
		f.lender("n2", dir, func(c *node.Config) {
			c.Open = func(context.Context, *events.Region) (events.Log, error) {
				link := us.log.Link()
				link.Cut()
				return link, nil
			}
		})
		time.Sleep(lendingAfter)
		n, read := f.heard("n3")
		begin := time.Now()
		n.start()
		if took := time.Since(begin); took > 2*time.Second {
			t.Errorf("it waited for %v", took)
		}
		n.knows(l)
		mustRead(t, n, read)
	})
}

// A node whose own snapshot is older than any marker begins from that of a
// peer, as it does without one, unless that lacks a revocation.
func TestJoinWithOldSnapshot(t *testing.T) {
	for name, lost := range map[string]bool{"covered": false, "not covered": true} {
		t.Run(name, func(t *testing.T) {
			dir, own := t.TempDir(), t.TempDir()
			fleetBubble(t, 1, func(t *testing.T, f *fleet) {
				l := f.live()
				with := func(c *node.Config) { c.SnapshotDir = own }
				// Its clock dates the snapshot back.
				before, _ := f.heard("n3", with, func(c *node.Config) {
					c.Clock = &testClock{begin: f.clock.begin, skew: -25 * time.Hour}
				})
				before.begin()
				time.Sleep(time.Minute)
				info, _ := f.home.Info(t.Context())
				kept := info.LastSeq
				f.do(f.key, "POST", "/v1/sessions/revoke", m{"session_token": l.good}).want(http.StatusOK)
				time.Sleep(time.Minute)
				before.stop()
				if lost {
					f.nodes[0].stop()
					info, _ := f.home.Info(t.Context())
					f.home.Truncate(int(info.LastSeq - kept))
				}
				f.lender("n2", dir)
				time.Sleep(lendingAfter)
				n, read := f.heard("n3", with)
				n.start()
				time.Sleep(10 * time.Second)
				n.verify(l.good).want(http.StatusUnauthorized)
				n.verify(l.changed).want(http.StatusNoContent)
				if !lost {
					mustJoin(t, n, read)
				} else if n.transfers("loaded") != 0 || n.transfers("given_up") != 1 {
					t.Errorf("a snapshot without its revocations was loaded")
				}
			})
		})
	}
}
