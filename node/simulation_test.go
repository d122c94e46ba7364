package node_test

import (
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
	simSeeds   = flag.Int("seeds", 0, "seeds of TestSimulation; 0: as many as go into a quarter of a minute")
	simSeed    = flag.Uint64("seed", 1, "the first seed of TestSimulation")
	simLossy   = flag.Bool("lossy", false, "the log also loses what it acknowledged, which is beyond what is promised")
	simHistory = flag.String("history", "", "file for the history of the first seed that fails")
)

// simulate runs one seed in a bubble of its own.
func simulate(t *testing.T, p nodetest.Plan) (ops []nodetest.Op, err error) {
	t.Helper()
	cryptotest.SetGlobalRandom(t, p.Seed)
	p.Lossy = *simLossy
	p.Digest = (*node.Node).SessionDigest
	synctest.Test(t, func(t *testing.T) {
		h, failed := nodetest.Simulate(t.Context(), p)
		if err = failed; h != nil {
			ops = h.Ops()
		}
	})
	return ops, err
}

// TestSimulation is layer L2: the real code of three nodes, with faults of every
// kind, keeps what section 5 of the design promises.
func TestSimulation(t *testing.T) {
	skipUnderRace(t)
	seeds, until := *simSeeds, time.Now().Add(15*time.Second)
	if seeds == 0 {
		seeds = 300
	}
	if testing.Short() {
		until = time.Now().Add(5 * time.Second)
	}
	total, done := map[string]int{}, 0
	for seed := *simSeed; seed < *simSeed+uint64(seeds); seed++ {
		if *simSeeds == 0 && time.Now().After(until) {
			break
		}
		ops, err := simulate(t, nodetest.Plan{Config: nodetest.Config{Seed: seed}})
		bad := nodetest.Check(ops, nodetest.Lease)
		if err != nil || len(bad) > 0 {
			saveHistory(t, ops)
			t.Fatalf("seed %d: %v\n%s\nrepeat with: go test ./node -run '^TestSimulation$' -seeds 1 -seed %d -history FILE",
				seed, err, report(bad), seed)
		}
		for _, o := range ops {
			total[o.Op+" "+o.Outcome]++
			if o.Receipt == "complete" {
				total["receipt complete"]++
			}
		}
		done++
	}
	t.Logf("%d seeds: %v", done, total)
	for _, some := range []string{"use valid", "use invalid", "use fenced", "revoke ok", "revoke_user ok", "receipt complete", "probe ok"} {
		if total[some] < done {
			t.Errorf("only %d of %q in %d seeds: the schedule is too weak to mean anything", total[some], some, done)
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

func saveHistory(t *testing.T, ops []nodetest.Op) {
	t.Helper()
	if *simHistory == "" {
		return
	}
	f, err := os.Create(*simHistory)
	for _, o := range ops {
		if err == nil {
			_, err = fmt.Fprintln(f, o)
		}
	}
	if err := errors.Join(err, f.Close()); err != nil {
		t.Errorf("history: %v", err)
	}
}
