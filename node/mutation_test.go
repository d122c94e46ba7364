package node_test

import (
	"cmp"
	"flag"
	"slices"
	"testing"
	"time"

	"github.com/revocast/revocast/node"
	"github.com/revocast/revocast/node/nodetest"
)

var mutantSeeds = flag.Int("mutantseeds", 1500, "seeds in which TestMutations looks for each broken rule")

// mutants are broken rules of DESIGN section 5, each with how to break it: from
// outside by clock and settings, or by a fault point. The last three break what makes
// a strong read and a change, and what makes elections harmless.
var mutants = []struct {
	rule, how string
	plan      nodetest.Plan
	// from is a little before a seed that noticed it: a start for the search.
	from uint64
}{
	{"R1", "a node's lease clock stands still", adjusted(func(i int, m *nodetest.Member, _ *node.Config) {
		m.Clock.Frozen = i == 2
	}), 26},
	{"R2", "the lease counts from the return", breaking("R2"), 344},
	{"R3", "lookup before the lease check", breaking("R3", "slow clock", "cut", "weather"), 485},
	{"R4", "heartbeats of an earlier life count", breaking("R4"), 153},
	{"gap", "a heartbeat from before a gap counts", breaking("gap", "truncate", "cut", "break", "weather"), 1235},
	{"R5", "who is silent is taken for dead", breaking("R5"), 17},
	{"R6", "heartbeats return by another way", breaking("R6"), 69},
	{"R7", "the lease clock stops in suspend", adjusted(func(_ int, m *nodetest.Member, _ *node.Config) {
		m.Clock.Stops = true
	}), 63},
	{"R8", "resumed without a look at what was applied", adjusted(func(_ int, m *nodetest.Member, _ *node.Config) {
		m.Forgets = true
	}), 910},
	{"R9", "W counts from the request", breaking("R9"), 27},
	{"R10", "a lease that is longer than W", adjusted(func(i int, _ *nodetest.Member, c *node.Config) {
		if i == 2 {
			c.Lease = 3 * nodetest.Lease
		}
	}), 243},
	{"R11", "members of before the revocation", breaking("R11"), 165},
	{"R12", "confirmed before readers see it", breaking("R12"), 12},
	{"R13", "confirmations count right after a break", breaking("R13", "truncate", "cut", "break", "restart"), 761},
	{"strong", "a strong read waits for no heartbeat", breaking("strong"), 1},
	{"change", "a change expects nothing", breaking("change"), 1},
	{"L", "a lease that is hardly longer than an election", nodetest.Plan{
		Config: nodetest.Config{Lease: 6 * time.Second}, Elections: true, Length: 2 * time.Minute,
	}, 1},
}

func adjusted(adjust func(i int, m *nodetest.Member, c *node.Config)) nodetest.Plan {
	return nodetest.Plan{Config: nodetest.Config{Adjust: adjust}}
}

// breaking returns the plan in which all nodes break the rule, and only these
// faults happen; without any, all.
func breaking(rule string, only ...string) nodetest.Plan {
	return nodetest.Plan{Config: nodetest.Config{Made: func(n *node.Node) { n.BreakRule(rule) }}, Only: only}
}

// notices reports whether the checker is one for what was broken; others would be
// no proof of it.
func notices(rule, check string) bool {
	switch rule {
	case "strong", "change":
		return check == rule
	case "L":
		return check == "C8"
	}
	return slices.Contains([]string{"C2", "C3", "C4", "C5"}, check)
}

// TestMutations prints the mutation table: for each rule the seed of the
// simulation that notices when it is broken, and by which checkers.
func TestMutations(t *testing.T) {
	if testing.Short() {
		t.Skip("NOT TESTED with -short: runs the simulation for each rule")
	}
	if underRace {
		t.Skip("SKIPPED under the race detector: it searches for seeds; the simulations themselves run there")
	}
	for _, m := range mutants {
		t.Run(m.rule, func(t *testing.T) {
			for seed := m.from; seed < m.from+uint64(*mutantSeeds); seed++ {
				m.plan.Seed = seed
				ops, err := simulate(t, m.plan)
				if err != nil {
					t.Fatalf("seed %d: %v", seed, err)
				}
				for _, v := range append(nodetest.Check(ops, cmp.Or(m.plan.Lease, nodetest.Lease)), nodetest.CheckLinear(ops)...) {
					if notices(m.rule, v.Check) {
						t.Logf("| %s | %s | %d | %s: %s |", m.rule, m.how, seed, v.Check, v.What)
						return
					}
				}
			}
			t.Errorf("%s: %s: not noticed in %d seeds from %d on", m.rule, m.how, *mutantSeeds, m.from)
		})
	}
}
