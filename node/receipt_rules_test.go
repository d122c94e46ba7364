package node_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/revocast/revocast/events"
)

// cut cuts a node off from everything.
func (n *fleetNode) cut() {
	n.link.Cut()
	n.config.Cut()
	n.mesh.Cut()
}

// served looks for a node that answers good after a complete receipt, for longer
// than any lease lasts, and returns which and when; "" is none.
func (f *fleet) served(c *reply) string {
	for after := time.Duration(0); after < 17*time.Second; after += 250 * time.Millisecond {
		for _, n := range f.nodes {
			if v := n.do(c.str("session_token"), "GET", "/v1/verify", nil); v.Status == http.StatusNoContent {
				return fmt.Sprintf("%s answered good %v after the receipt", n.name, after)
			}
		}
		time.Sleep(250 * time.Millisecond)
	}
	return ""
}

// ruleCases has for each rule of the receipt what goes wrong when it is broken:
// the revocation that is then answered with a receipt that is not true.
var ruleCases = []struct {
	rule, what string
	// breaks is the node that breaks it, 0 the one that is asked.
	breaks int
	nodes  int
	revoke func(f *fleet, c *reply) *reply
}{
	{"R5", "a member is cut off and still holds its lease", 0, 3, func(f *fleet, c *reply) *reply {
		f.nodes[2].cut()
		time.Sleep(4 * time.Second)
		r, _ := f.revoke(c)
		return r
	}},
	{"R9", "the revocation commits long after it was asked for", 0, 3, func(f *fleet, c *reply) *reply {
		f.nodes[2].mesh.Cut()
		f.nodes[0].link.SetFaults(events.MemoryFaults{Send: func(ctx context.Context, m events.Message) error {
			if strings.HasSuffix(m.Subject, ".rev") {
				wait(ctx, 4*time.Second)
				f.nodes[2].cut()
			}
			return nil
		}})
		r, _ := f.revoke(c)
		return r
	}},
	{"R11", "a node joins right before the revocation", 0, 2, func(f *fleet, c *reply) *reply {
		f.join("n3").cut()
		r, _ := f.revoke(c)
		return r
	}},
	{"R12", "a node has the revocation in hand, and its readers do not", 2, 3, func(f *fleet, c *reply) *reply {
		f.nodes[2].link.SetFaults(events.MemoryFaults{Deliver: func(ctx context.Context, e events.Entry) int {
			if strings.HasSuffix(e.Subject, ".rev") {
				wait(ctx, 5*time.Second)
			}
			return 1
		}})
		r, _ := f.revoke(c)
		return r
	}},
	{"R13", "the log loses the heartbeats that made a node a member", 0, 2, func(f *fleet, c *reply) *reply {
		before, err := f.home.Info(f.t.Context())
		if err != nil {
			f.t.Fatal(err)
		}
		f.join("n3").cut()
		after, err := f.home.Info(f.t.Context())
		if err != nil {
			f.t.Fatal(err)
		}
		f.home.Truncate(int(after.LastSeq - before.LastSeq))
		time.Sleep(4 * time.Second) // the others read it again
		r, _ := f.revoke(c)
		return r
	}},
	{"R13, vouched", "only the node that vouches knows of a member", 0, 3, func(f *fleet, c *reply) *reply {
		f.nodes[2].cut()
		f.nodes[0].node.ForgetMembers()
		f.nodes[0].link.Break()
		time.Sleep(3 * time.Second) // long enough to be vouched for
		r, _ := f.revoke(c)
		return r
	}},
}

// TestReceiptRules is the mutation table of the receipt: each rule that is
// broken makes a receipt untrue, and is noticed; kept, none is.
func TestReceiptRules(t *testing.T) {
	for _, tc := range ruleCases {
		for _, broken := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/broken=%t", tc.rule, broken), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					f := newFleet(t, tc.nodes)
					c := f.login("ada")
					time.Sleep(5 * time.Second)
					if broken {
						f.nodes[tc.breaks].node.BreakRule(tc.rule)
					}
					r := tc.revoke(f, c).want(http.StatusOK)
					if r.str("receipt.status") != "complete" {
						t.Fatalf("%s: no receipt: %s", tc.what, r.Raw)
					}
					switch bad := f.served(c); {
					case bad != "" && !broken:
						t.Errorf("%s: %s\n%s", tc.what, bad, r.Raw)
					case bad == "" && broken:
						t.Errorf("%s: breaking %s was not noticed\n%s", tc.what, tc.rule, r.Raw)
					}
				})
			})
		}
	}
}

// trouble does one random thing to the fleet.
func (f *fleet) trouble(r *rand.Rand) {
	n := f.nodes[r.IntN(len(f.nodes))]
	ms := func(most int) time.Duration { return time.Duration(r.IntN(most)) * time.Millisecond }
	switch r.IntN(10) {
	case 0:
		n.cut()
	case 1:
		n.link.Cut()
	case 2:
		n.mesh.Cut()
	case 3:
		n.link.Break()
	case 4, 5:
		every, long := 1+r.Int64N(10), ms(8000)
		var i atomic.Int64 // a part of the log may be read beside following it
		n.link.SetFaults(events.MemoryFaults{Deliver: func(ctx context.Context, _ events.Entry) int {
			if i.Add(1)%every == 0 {
				wait(ctx, long)
			}
			return 1
		}})
	case 6:
		long := ms(3000)
		n.mesh.SetDeliver(func(ctx context.Context, _ events.Message) int { wait(ctx, long); return 1 })
	case 7:
		f.home.Truncate(1 + r.IntN(6))
	case 8:
		n.link.Heal()
		n.config.Heal()
		n.mesh.Heal()
	case 9:
		if n != f.nodes[0] {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			_ = n.node.Leave(ctx) // one that is cut off cannot say it
			cancel()
		}
	}
}

// TestReceiptSimulation: whatever happens to nodes, links and the log before and
// while a revocation is made, no verify that starts after a complete receipt is
// answered good by any node.
func TestReceiptSimulation(t *testing.T) {
	base, complete, fast := rand.Uint64()>>16, 0, 0
	seeds := uint64(150)
	if testing.Short() || underRace {
		seeds = 40
	}
	for seed := base; seed < base+seeds; seed++ {
		synctest.Test(t, func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 5))
			f := newFleet(t, 2+r.IntN(3))
			c := f.login("ada")
			time.Sleep(10 * time.Second)
			if r.IntN(3) == 0 {
				f.join("late")
			}
			for range r.IntN(5) {
				f.trouble(r)
				time.Sleep(time.Duration(r.IntN(6000)) * time.Millisecond)
			}
			answers := make(chan *reply, 1)
			begin := time.Now()
			go func() { a, _ := f.revoke(c); answers <- a }()
			for range r.IntN(3) {
				time.Sleep(time.Duration(r.IntN(3000)) * time.Millisecond)
				if r.IntN(2) == 0 {
					f.nodes[r.IntN(len(f.nodes))].cut()
				}
			}
			a := <-answers
			if a.str("receipt.status") != "complete" {
				return
			}
			complete++
			if time.Since(begin) < fullWait {
				fast++
			}
			if bad := f.served(c); bad != "" {
				t.Errorf("seed %d: %s\n%s", seed, bad, a.Raw)
			}
		})
		if t.Failed() {
			return
		}
	}
	t.Logf("seeds from %d: %d of %d receipts complete, %d before W", base, complete, seeds, fast)
	if complete < int(seeds)/3 || fast < int(seeds)/10 {
		t.Errorf("seeds from %d: only %d of %d receipts were complete, %d of them before W: the faults hide what is tested", base, complete, seeds, fast)
	}
}
