package node_test

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
	"testing/cryptotest"
	"testing/synctest"
	"time"

	"github.com/revocast/revocast/node"
	"github.com/revocast/revocast/node/nodetest"
)

var (
	simSeeds   = flag.Int("seeds", 0, "seeds of each simulation; 0: as many as go into some seconds")
	simSeed    = flag.Uint64("seed", 1, "the first seed of a simulation")
	simLossy   = flag.Bool("lossy", false, "the log also loses what it acknowledged, which is beyond what is promised")
	simHistory = flag.String("history", "", "file for the history of the first seed that fails; empty: a new one")
)

// simulate runs one seed in a bubble of its own.
func simulate(t *testing.T, p nodetest.Plan) (ops []nodetest.Op, err error) {
	t.Helper()
	cryptotest.SetGlobalRandom(t, p.Seed)
	p.Lossy = *simLossy
	p.Digest = (*node.Node).SessionDigest
	synctest.Test(t, func(t *testing.T) {
		h, failed := nodetest.Simulate(t.Context(), p)
		err, ops = failed, h.Ops()
	})
	return ops, err
}

// TestSimulation is layer L2: the real code of three nodes, with faults of every
// kind, keeps what section 5 of the design promises.
func TestSimulation(t *testing.T) {
	simulation(t, nodetest.Plan{}, 15*time.Second,
		"use valid", "use invalid", "use fenced", "revoke ok", "revoke_user ok", "receipt complete", "probe ok", "strong", "patch")
}

// TestSimulationRegions is the same with two regions of two nodes each, which are
// cut off from each other, too.
func TestSimulationRegions(t *testing.T) {
	simulation(t, nodetest.Plan{Config: nodetest.Config{Regions: 2}}, 15*time.Second,
		"use valid", "use invalid", "use fenced", "revoke ok", "revoke_user ok", "receipt complete", "probe ok", "pending", "pending, later complete")
}

// TestSimulationPrivate is the same with nodes that keep private parts for
// different sessions, in each of their lives.
func TestSimulationPrivate(t *testing.T) {
	modes, lives := [...]string{node.PrivateLog, node.PrivateHome, node.PrivateMemory}, 0
	simulation(t, nodetest.Plan{Config: nodetest.Config{Regions: 2, Adjust: func(_ int, _ *nodetest.Member, c *node.Config) {
		c.Private = modes[lives%len(modes)]
		lives++
	}}}, 10*time.Second,
		"use valid", "use invalid", "use fenced", "revoke ok", "revoke_user ok", "receipt complete", "probe ok", "pending")
}

// TestSimulationElections: with the default lease, no election of a leader fences
// a node.
func TestSimulationElections(t *testing.T) {
	simulation(t, nodetest.Plan{Config: nodetest.Config{Lease: 15 * time.Second}, Elections: true, Length: 2 * time.Minute}, 10*time.Second,
		"use valid", "use invalid", "revoke ok", "receipt complete", "probe ok", "elect")
}

// simulation runs seeds of the plan for some time, or as many as the flags say.
// Each of some must have happened as often as there were seeds.
func simulation(t *testing.T, p nodetest.Plan, budget time.Duration, some ...string) {
	seeds := *simSeeds
	if seeds == 0 {
		seeds = 1000
	}
	if testing.Short() {
		budget /= 4
	}
	until := time.Now().Add(budget)
	total, done := map[string]int{}, 0
	for seed := *simSeed; seed < *simSeed+uint64(seeds); seed++ {
		if *simSeeds == 0 && time.Now().After(until) {
			break
		}
		p.Seed = seed
		ops, err := simulate(t, p)
		bad := append(nodetest.Check(ops, cmp.Or(p.Lease, nodetest.Lease)), nodetest.CheckLinear(ops)...)
		if err != nil || len(bad) > 0 {
			lossy := ""
			if *simLossy {
				lossy = " -lossy"
			}
			t.Fatalf("seed %d: %v\n%s\nhistory: %s\nrepeat with: go test ./node -run '^%s$' -seeds 1 -seed %d%s",
				seed, err, report(bad), saveHistory(t, ops), t.Name(), seed, lossy)
		}
		count(ops, total)
		done++
	}
	t.Logf("%d seeds: %v", done, total)
	for _, some := range some {
		if total[some] < done {
			t.Errorf("only %d of %q in %d seeds: the schedule is too weak to mean anything", total[some], some, done)
		}
	}
}

// count adds what happened.
func count(ops []nodetest.Op, total map[string]int) {
	for _, o := range ops {
		total[strings.TrimSpace(o.Op+" "+o.Outcome)]++
		switch {
		case o.Op == nodetest.OpReceipt && len(o.Pending) > 0 && o.Receipt == "complete":
			total["pending, later complete"]++
		case o.Op == nodetest.OpReceipt:
		case o.Receipt == "complete":
			total["receipt complete"]++
		case len(o.Pending) > 0:
			total["pending"]++
		case o.Strong && (o.Outcome == nodetest.Valid || o.Outcome == nodetest.Invalid):
			total["strong"]++
		case o.Via == "patch" && o.Outcome == nodetest.Valid:
			total["patch"]++
		}
	}
}

func report(bad []nodetest.Violation) string {
	var lines []string
	for _, v := range bad {
		lines = append(lines, v.String())
	}
	return strings.Join(lines, "\n")
}

// saveHistory writes the history where it survives the test, and returns where
// that is.
func saveHistory(t *testing.T, ops []nodetest.Op) string {
	t.Helper()
	var f *os.File
	var err error
	if *simHistory == "" {
		f, err = os.CreateTemp("", "history-*.jsonl")
	} else {
		f, err = os.Create(*simHistory)
	}
	if err != nil {
		t.Errorf("history: %v", err)
		return "none"
	}
	for _, o := range ops {
		if err == nil {
			_, err = fmt.Fprintln(f, o)
		}
	}
	if err := errors.Join(err, f.Close()); err != nil {
		t.Errorf("history: %v", err)
	}
	return f.Name()
}
