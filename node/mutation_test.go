package node_test

import (
	"testing"

	"github.com/revocast/revocast/node"
	"github.com/revocast/revocast/node/nodetest"
)

// mutants are broken rules of DESIGN section 5, each with how to break it: from
// outside by clock and settings, or by a fault point.
var mutants = []struct {
	rule, how string
	conf      nodetest.Config
	// from is a little before a seed that noticed it: a start for the search.
	from uint64
}{
	{"R1", "a node's lease clock stands still", nodetest.Config{
		Adjust: func(i int, m *nodetest.Member, _ *node.Config) { m.Clock.Frozen = i == 2 },
	}, 4},
	{"R2", "the lease counts from the return", breaking("R2"), 64},
	{"R3", "lookup before the lease check", breaking("R3"), 64},
	{"R4", "heartbeats of an earlier life count", breaking("R4"), 64},
	{"gap", "a heartbeat from before a gap counts", breaking("gap"), 755},
	{"R5", "who is silent is taken for dead", breaking("R5"), 3},
	{"R6", "heartbeats return by another way", breaking("R6"), 10},
	{"R7", "the lease clock stops in suspend", nodetest.Config{
		Adjust: func(_ int, m *nodetest.Member, _ *node.Config) { m.Clock.Stops = true },
	}, 11},
	{"R8", "resumed without a look at what was applied", nodetest.Config{
		Adjust: func(_ int, m *nodetest.Member, _ *node.Config) { m.Forgets = true },
	}, 120},
	{"R9", "W counts from the request", breaking("R9"), 15},
	{"R10", "a lease that is longer than W", nodetest.Config{
		Adjust: func(i int, _ *nodetest.Member, c *node.Config) {
			if i == 2 {
				c.Lease = 3 * nodetest.Lease
			}
		},
	}, 6},
	{"R11", "members of before the revocation", breaking("R11"), 57},
	{"R12", "confirmed before readers see it", breaking("R12"), 3},
}

func breaking(rule string) nodetest.Config {
	return nodetest.Config{Made: func(n *node.Node) { n.BreakRule(rule) }}
}

// TestMutations prints the mutation table: for each rule the seed of the
// simulation that notices when it is broken, and by which checkers.
func TestMutations(t *testing.T) {
	skipUnderRace(t)
	if testing.Short() {
		t.Skip("runs the simulation for each rule")
	}
	const seeds = 1500
	for _, m := range mutants {
		caught := false
		for seed := m.from; seed < m.from+seeds && !caught; seed++ {
			conf := m.conf
			conf.Seed = seed
			ops, err := simulate(t, nodetest.Plan{Config: conf})
			if err != nil {
				t.Fatalf("%s, seed %d: %v", m.rule, seed, err)
			}
			for _, v := range nodetest.Check(ops, nodetest.Lease) {
				if v.Check == "C2" || v.Check == "C3" || v.Check == "C4" || v.Check == "C5" {
					t.Logf("%-4s %-45s seed %3d: %s %s", m.rule, m.how, seed, v.Check, v.What)
					caught = true
					break
				}
			}
		}
		if !caught {
			t.Errorf("%-4s %-45s not noticed in %d seeds", m.rule, m.how, seeds)
		}
	}
}
