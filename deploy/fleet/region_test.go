package fleet_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/revocast/revocast/deploy/fleet"
	"github.com/revocast/revocast/node/nodetest"
)

// slowest is the longest that a receipt may take: W and a second.
const slowest = 15300*time.Millisecond + time.Second

// quick is what a receipt may take when every node is there. It is far below
// W, and far above what it takes on a machine that does nothing else.
const quick = 2 * time.Second

func took(o nodetest.Op) time.Duration { return time.Duration(o.End - o.Start) }

// receipt creates a session on one node and revokes it there with wait=all.
func receipt(t *testing.T, ctx context.Context, l *fleet.Load, n *fleet.Node) nodetest.Op {
	t.Helper()
	o := l.Revoke(ctx, n, session(t, ctx, l, n), "all")
	if o.Receipt != "complete" {
		t.Errorf("no receipt: %v", o)
	}
	return o
}

// quickReceipt is receipt, and fails when it was waited for.
func quickReceipt(t *testing.T, ctx context.Context, l *fleet.Load, n *fleet.Node, when string) {
	t.Helper()
	o := receipt(t, ctx, l, n)
	t.Logf("receipt %s: %v (%s)", when, took(o).Round(100*time.Microsecond), o.Note)
	if took(o) > quick {
		t.Errorf("receipt %s took %v", when, took(o))
	}
}

// slowReceipt is receipt while a node is silent; it does not wait for the end
// of a test that has failed already.
func slowReceipt(t *testing.T, ctx context.Context, l *fleet.Load, n *fleet.Node, when string) {
	t.Helper()
	o := receipt(t, ctx, l, n)
	t.Logf("receipt %s: %v (%s)", when, took(o).Round(time.Millisecond), o.Note)
	if took(o) > slowest {
		t.Errorf("receipt %s took %v", when, took(o))
	}
}

// settled waits until receipts may be quick: no follow loop was broken for W
// (rule R13).
func settled(t *testing.T, ctx context.Context, l *fleet.Load) {
	t.Helper()
	until(t, ctx, "quick receipt", slowest, func() bool { return took(receipt(t, ctx, l, l.Fleet.Nodes[0])) < quick })
}

// Nodes are killed, stopped and restarted under load.
func TestNodesFail(t *testing.T) {
	t.Parallel()
	f := region(t, 3)
	l := newLoad(t, f)
	under(t, l, func(ctx context.Context) {
		settled(t, ctx, l)
		quickReceipt(t, ctx, l, f.Nodes[0], "with all nodes live")
		rollingRestart(t, ctx, l)
		stoppedShort(t, ctx, l, f.Nodes[1])
		deadAndStopped(t, ctx, l, f.Nodes[1], f.Nodes[2])
	})
}

// stoppedShort stops a node for less than a lease. A receipt waits for it: when
// it goes on it may answer from its lease.
func stoppedShort(t *testing.T, ctx context.Context, l *fleet.Load, n *fleet.Node) {
	t.Helper()
	must(t, n.Process().Stop())
	done := make(chan struct{})
	begun := time.Now()
	go func() {
		defer close(done)
		slowReceipt(t, ctx, l, l.Fleet.Nodes[0], "with a node stopped for less than a lease")
	}()
	wait(t, ctx, fleet.Lease/3)
	select {
	case <-done:
		t.Errorf("a receipt did not wait for a node that was stopped %v ago", time.Since(begun))
	default:
	}
	must(t, n.Process().Resume())
	<-done
}

// deadAndStopped kills one node and stops another for longer than a lease.
func deadAndStopped(t *testing.T, ctx context.Context, l *fleet.Load, dead, stopped *fleet.Node) {
	t.Helper()
	live := l.Fleet.Nodes[0]
	// What the stopped node has in memory as good, and is revoked meanwhile.
	var old []*fleet.Session
	for range 8 {
		s := session(t, ctx, l, live)
		if o := l.Use(ctx, stopped, s, "token", ""); o.Outcome != nodetest.Valid {
			t.Fatalf("no session to be revoked while a node is stopped: %v", o)
		}
		old = append(old, s)
	}
	dead.Kill()
	must(t, stopped.Process().Stop())
	begun := time.Now()
	var revokes sync.WaitGroup
	for _, s := range old {
		revokes.Go(func() {
			if o := l.Revoke(ctx, live, s, "all"); o.Receipt != "complete" || took(o) > slowest {
				t.Errorf("receipt with a dead and a stopped node: %v", o)
			}
		})
	}
	slowReceipt(t, ctx, l, live, "with a node dead and a node stopped")
	revokes.Wait()
	quickReceipt(t, ctx, l, live, "W after their last heartbeats")
	wait(t, ctx, fleet.Lease+time.Second-time.Since(begun))

	// Requests that reach the stopped node before it goes on, and after.
	from := l.Now()
	var uses sync.WaitGroup
	outcomes := make([]nodetest.Op, 3*len(old))
	for i := range outcomes {
		uses.Go(func() {
			outcomes[i] = l.Use(ctx, stopped, old[i%len(old)], []string{"token", "jwt", "mint"}[i/len(old)], "")
		})
	}
	wait(t, ctx, 300*time.Millisecond)
	must(t, stopped.Process().Resume())
	uses.Wait()
	good := slices.DeleteFunc(outcomes, func(o nodetest.Op) bool { return o.Outcome != nodetest.Valid })
	t.Logf("stopped for %v: resumed, it answered %v", time.Since(begun).Round(time.Millisecond), fleet.Count(l.History.Ops(), stopped.Name, from, l.Now()))
	if len(good) > 0 {
		t.Errorf("a node that goes on answers from old memory: %v", good[0])
	}
	must(t, dead.Start())
	begun = time.Now()
	must(t, dead.Ready(ctx))
	t.Logf("killed node ready again after %v", time.Since(begun).Round(time.Millisecond))
	// Its follow loop was broken with the process; that of the live one was not.
	quickReceipt(t, ctx, l, live, "with all nodes live again")
}

// rollingRestart restarts all nodes in order, while receipts are asked for and
// careful clients, who try the next node, are told no failure.
func rollingRestart(t *testing.T, ctx context.Context, l *fleet.Load) {
	t.Helper()
	careful := fleet.NewCareful(l)
	ending, stop := context.WithCancel(ctx)
	var clients sync.WaitGroup
	for range 4 {
		clients.Go(func() { careful.Run(ending) })
	}
	begun, from := time.Now(), l.Now()
	for _, n := range l.Fleet.Nodes {
		must(t, n.End())
		must(t, n.Restart(ctx))
	}
	stop()
	clients.Wait()
	t.Logf("rolling restart of %d nodes in %v: careful clients made %v", len(l.Fleet.Nodes), time.Since(begun).Round(time.Millisecond), careful)
	for _, o := range careful.Failures() {
		t.Errorf("a request failed on every node: %s", o)
	}
	slow, longest := 0, time.Duration(0)
	for _, o := range l.History.Ops() {
		if o.Start < from || o.Receipt != "complete" {
			continue
		}
		longest = max(longest, took(o))
		if took(o) > quick {
			slow++
			t.Errorf("a receipt was slow in a rolling restart: %v", o)
		}
	}
	t.Logf("receipts meanwhile: the longest took %v", longest.Round(time.Millisecond))
}

// A node alone, with its log in the same process, gives receipts at once, from
// the first call on.
func TestAlone(t *testing.T) {
	t.Parallel()
	f := started(t, fleet.StartAlone)
	l := newLoad(t, f)
	for _, when := range []string{"of a node alone, its first call", "of a node alone after kill -9"} {
		quickReceipt(t, t.Context(), l, f.Nodes[0], when)
		f.Nodes[0].Kill()
		must(t, f.Nodes[0].Restart(patient(t, time.Minute)))
	}
	l.Finish(t.Context())
	judge(t, l)
}

// The leader of the stream is killed with -9 under load, again and again: no
// acknowledged event is lost, no node is fenced, and each revoke that is called
// during an election is acknowledged when it ends.
func TestLeaderKilled(t *testing.T) {
	t.Parallel()
	const rounds = 5
	var found findings
	var slowest time.Duration
	f := region(t, 3)
	l := newLoad(t, f)
	l.Clients, l.Think = 16, 60*time.Millisecond
	under(t, l, func(ctx context.Context) {
		from := l.Now()
		stop := watched(t, ctx, l, found.add, f.Nodes...)
		for round := range rounds {
			slowest = max(slowest, killLeader(t, ctx, l, found.add, round))
		}
		good := stop()
		seen := fleet.Count(l.History.Ops(), "", from, l.Now())
		t.Logf("%d leaders killed: %d verifies of good sessions answered good, none otherwise; in all %v", rounds, good, seen)
		for why, n := range seen.Reasons {
			if strings.Contains(why, "silent") || strings.Contains(why, "node_stale") || strings.Contains(why, "rewound") {
				found.add("C8: a node was fenced: %s, %d times", why, n)
			}
			if strings.HasPrefix(why, nodetest.OpRevoke) {
				found.add("of the load's revocations %d were not acknowledged: %s", n, why)
			}
		}
	})
	if slowest > longElection {
		t.Skipf("NOT JUDGED: the servers took %v to elect a leader, more than leases and revocations are made to outlast; seen: %q", slowest, found.all())
	}
	for _, what := range found.all() {
		t.Error(what)
	}
}

// longElection is how long a machine that is not overloaded takes at most to
// elect a leader (4 to 9 s), and something for noticing. Revocations wait for 12 s.
const longElection = 11 * time.Second

// findings are what is judged only at the end of a test.
type findings struct {
	mu   sync.Mutex // guards list
	list []string
}

func (f *findings) add(format string, args ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.list = append(f.list, fmt.Sprintf(format, args...))
}

func (f *findings) all() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.list)
}

// watched verifies good sessions on the nodes, about a hundred times a second each,
// until stop is called: all answers must be good, what else is seen is added.
// stop returns how many were good.
func watched(t *testing.T, ctx context.Context, l *fleet.Load, add func(string, ...any), nodes ...*fleet.Node) (stop func() int64) {
	t.Helper()
	var kept []*fleet.Session
	for _, n := range nodes {
		for range 3 {
			kept = append(kept, session(t, ctx, l, n))
		}
	}
	watching, cancel := context.WithCancel(ctx)
	t.Cleanup(cancel)
	var watchers sync.WaitGroup
	var good atomic.Int64
	tick := 10 * time.Millisecond
	for _, n := range nodes {
		watchers.Go(func() {
			for k := 0; watching.Err() == nil; k++ {
				if o := l.Use(ctx, n, kept[k%len(kept)], []string{"token", "jwt"}[k%2], ""); o.Outcome == nodetest.Valid {
					good.Add(1)
				} else {
					add("%s does not know a good session: %v", n.Name, o)
				}
				select {
				case <-time.After(tick):
				case <-watching.Done():
				}
			}
		})
	}
	return func() int64 {
		cancel()
		watchers.Wait()
		return good.Load()
	}
}

// killLeader kills the leader, calls revokes of every kind and creates while
// there is none, and starts it again. It returns how long there was none.
func killLeader(t *testing.T, ctx context.Context, l *fleet.Load, add func(string, ...any), round int) (elected time.Duration) {
	t.Helper()
	leader, err := l.Fleet.Steady(ctx, "EV_eu")
	must(t, err)
	var doomed, spared []*fleet.Session
	kinds := fleet.RevokeKinds
	for i := range 2 * len(kinds) {
		user := fmt.Sprintf("doomed-%d-%d", round, i)
		for _, all := range []*[]*fleet.Session{&doomed, &spared} {
			s, err := l.Doom(ctx, l.Fleet.Nodes[i%3], user)
			must(t, err)
			*all = append(*all, s)
		}
	}
	leader.Kill()
	killed := time.Now()
	var calls sync.WaitGroup
	var longest, asked atomic.Int64
	calls.Go(func() {
		for ctx.Err() == nil {
			info, err := l.Fleet.Stream(ctx, "EV_eu")
			if err == nil && info.Cluster != nil && info.Cluster.Leader != "" && info.Cluster.Leader != leader.Name {
				break
			}
		}
		elected = time.Since(killed)
	})
	for i, s := range doomed {
		calls.Go(func() {
			// The second half is called in the middle of the election.
			select {
			case <-time.After(time.Duration(i/len(kinds)) * 2 * time.Second):
			case <-ctx.Done():
			}
			o := l.RevokeAs(ctx, l.Fleet.Nodes[i%3], s, spared[i], kinds[i%len(kinds)])
			for took := int64(time.Since(killed)); took > longest.Load(); {
				longest.Store(took)
			}
			if o.Outcome != nodetest.OK || o.Already {
				add("a revoke by %s called during an election: %v", kinds[i%len(kinds)], o)
			}
		})
	}
	for i := range l.Fleet.Nodes {
		calls.Go(func() {
			n, has, err := l.CreateOnce(ctx, i, fmt.Sprintf("once-%d-%d", round, i))
			asked.Add(int64(n))
			if err != nil || has != 1 {
				add("a create called during an election was asked for %d times, and made %d sessions: %v", n, has, err)
			}
		})
	}
	calls.Wait()
	must(t, leader.Start())
	t.Logf("round %d: leader %s killed, the next elected after %v; revokes called without a leader were acknowledged within %v; %d creates were asked for %d times and made once",
		round+1, leader.Name, elected.Round(time.Millisecond), time.Duration(longest.Load()).Round(time.Millisecond), len(l.Fleet.Nodes), asked.Load())
	return elected
}
