package fleet_test

import (
	"context"
	"testing"
	"time"

	"github.com/revocast/revocast/deploy/fleet"
	"github.com/revocast/revocast/node/nodetest"
)

// Links between nodes and servers are cut, each way apart and with and without
// telling, under load. A node that is cut off answers from its lease and then
// 503 with the reason; the others notice nothing; and healed it answers again.
func TestCut(t *testing.T) {
	t.Parallel()
	f := region(t, 4)
	l := newLoad(t, f)
	under(t, l, func(ctx context.Context) {
		stop := watched(t, ctx, l, t.Errorf, f.Nodes[0])
		bad(t, ctx, l, f.Nodes[3])
		cuts := map[*fleet.Node]string{f.Nodes[1]: "nothing reaches the servers", f.Nodes[2]: "nothing reaches the node", f.Nodes[3]: "black hole both ways"}
		f.Nodes[1].EachLink(fleet.Forth, fleet.Trouble{Hold: true})
		f.Nodes[2].EachLink(fleet.Back, fleet.Trouble{Hold: true})
		f.Nodes[3].EachLink(fleet.Forth, fleet.Trouble{Hold: true})
		f.Nodes[3].EachLink(fleet.Back, fleet.Trouble{Hold: true})
		severed(t, ctx, l, cuts)
		f.Nodes[1].Refuse(true)
		severed(t, ctx, l, map[*fleet.Node]string{f.Nodes[1]: "connections refused"})
		t.Logf("the node that was not cut off answered good sessions %d times, and never otherwise", stop())
	})
}

// bad makes the links of the node late, jittery and slow for a while: its
// sessions are good all the time.
func bad(t *testing.T, ctx context.Context, l *fleet.Load, n *fleet.Node) {
	t.Helper()
	stop := watched(t, ctx, l, t.Errorf, n)
	n.EachLink(fleet.Forth, fleet.Trouble{Delay: 100 * time.Millisecond, Jitter: 100 * time.Millisecond})
	n.EachLink(fleet.Back, fleet.Trouble{Delay: 100 * time.Millisecond, Jitter: 100 * time.Millisecond, Rate: 64 << 10})
	wait(t, ctx, 6*time.Second)
	o := receipt(t, ctx, l, n)
	l.Fleet.Heal()
	t.Logf("links late by 100 to 200 ms each way and slow: a receipt took %v; %d good verifies, and none otherwise", took(o).Round(time.Millisecond), stop())
}

// severed waits until the nodes, just cut off, are fenced, and looks that they
// answer what they must; then it heals them.
func severed(t *testing.T, ctx context.Context, l *fleet.Load, cuts map[*fleet.Node]string) {
	t.Helper()
	begun := time.Now()
	live := l.Fleet.Nodes[0]
	s := session(t, ctx, l, live)
	// The slow receipt of the fenced: nobody answers "good" after it.
	if o := l.Revoke(ctx, live, s, "all"); o.Receipt != "complete" || took(o) > slowest {
		t.Errorf("receipt while others are cut off: %v", o)
	} else {
		t.Logf("receipt while %d nodes are cut off: %v (%s)", len(cuts), took(o).Round(time.Millisecond), o.Note)
	}
	for n, how := range cuts {
		why := ""
		until(t, ctx, "fence of "+n.Name, fleet.Lease+2*time.Second-time.Since(begun), func() bool {
			w, err := n.Fenced(ctx, "eu")
			why = w
			return err == nil && w != ""
		})
		if o := l.Use(ctx, n, s, "token", ""); o.Outcome != nodetest.Fenced {
			t.Errorf("%s, cut off (%s), answers %v", n.Name, how, o)
		}
		t.Logf("%s: %s: fenced within %v, reason %q", n.Name, how, time.Since(begun).Round(100*time.Millisecond), why)
	}
	healed := time.Now()
	l.Fleet.Heal()
	for n := range cuts {
		until(t, ctx, "answer of "+n.Name, fleet.Lease, func() bool { return l.Use(ctx, n, s, "token", "").Outcome == nodetest.Invalid })
	}
	t.Logf("all answer again %v after healing", time.Since(healed).Round(time.Millisecond))
}
