package bench

import (
	"strings"
	"testing"
)

func TestJudge(t *testing.T) {
	for name, tt := range map[string]struct {
		figure   Figure
		sessions int
		want     string // the lines; "" for none
		ok       bool
	}{
		"at least":     {Figure{ID: "verify/rps", Value: 0.95, Unit: "x"}, 1, "GATE verify GET, requests ok 0.95 want at least 0.95", true},
		"below":        {Figure{ID: "verify/rps", Value: 0.9, Unit: "x"}, 1, "GATE verify GET, requests MISSED 0.9 want at least 0.95", false},
		"at most":      {Figure{ID: "verify/cpu", Value: 1.1, Unit: "x"}, 1, "GATE verify GET, CPU ok 1.10 want at most 1.10", true},
		"above":        {Figure{ID: "verify/cpu", Value: 1.11, Unit: "x"}, 1, "GATE verify GET, CPU MISSED 1.11 want at most 1.10", false},
		"refused":      {Figure{ID: "verify/cpu", Refused: "noisy: x", Unit: "x"}, 1, "GATE verify GET, CPU MISSED (noisy: x) want at most 1.10", false},
		"unit":         {Figure{ID: "start", Value: 2, Unit: "s"}, 1, "GATE start from a snapshot ok 2.00 want at most 3.00 s", true},
		"large":        {Figure{ID: "start", Value: 4, Unit: "s"}, 10 * million, "GATE start from a snapshot ok 4.00 want at most 20.0 s", true},
		"none":         {Figure{ID: "inprocess/allocs", Unit: "allocs"}, 1, "GATE in-process verify, allocations ok 0 want none", true},
		"some":         {Figure{ID: "inprocess/allocs", Value: 1, Unit: "allocs"}, 1, "GATE in-process verify, allocations MISSED 1.00 want none", false},
		"too few":      {Figure{ID: "memory/beside", Value: 300, Unit: "B"}, 5000, "", false},
		"peer":         {Figure{ID: "peer/go-redis/cpu", Value: 0.2, Unit: "x"}, 1, "GATE CPU beside go-redis ok 0.2 want at most 0.25", true},
		"nginx":        {Figure{ID: "nginx/rps", Value: 0.38, Unit: "x"}, 1, "GATE nginx auth_request, beside plain nginx ok 0.38 want at least 0.37", true},
		"nginx closes": {Figure{ID: "nginx/body", Value: 1.1, Unit: "x"}, 1, "GATE nginx auth_request, beside an answer with a body MISSED 1.10 want at least 2.00", false},
		"not a target": {Figure{ID: "create/rate", Value: 1}, 1, "", false},
	} {
		t.Run(name, func(t *testing.T) {
			r := &Report{Sessions: tt.sessions, Figures: []Figure{tt.figure}}
			err := r.Judge()
			var lines []string
			for _, g := range r.Gates {
				lines = append(lines, g.String())
			}
			if got := strings.Join(lines, "\n"); got != tt.want || (err == nil) != tt.ok {
				t.Errorf("got %q, %v, want %q", got, err, tt.want)
			}
		})
	}
}

// TestJudgeGrowth checks that each size is judged by its own row.
func TestJudgeGrowth(t *testing.T) {
	r := &Report{Sessions: 1, Growth: []Size{
		{Sessions: million, Lookup: 700, Clock: 100, Bytes: 430, Beside: 170, Returned: 0.9, GC: 1, Load: 2},
		{Sessions: 10 * million, Lookup: 700, Clock: 100, Bytes: 430, Beside: 170, Returned: 0.9, GC: 1, Load: 19},
	}}
	err := r.Judge()
	if err == nil || err.Error() != "1 of 16 targets are missed: in-process verify (1000000 sessions)" {
		t.Errorf("got %v", err)
	}
}

// TestGates checks that each row has one target, and that the figures of a size
// are called as the rows want.
func TestGates(t *testing.T) {
	// A size has no node.
	known := map[string]bool{"inprocess/node": true, "inprocess/node/allocs": true}
	for _, f := range (&Size{Sessions: 1}).figures() {
		known[f.ID] = true
	}
	for _, g := range gates {
		n := 0
		for _, set := range []bool{g.atLeast > 0, g.atMost > 0, g.none} {
			if set {
				n++
			}
		}
		if n != 1 {
			t.Errorf("%s has %d targets", g.row, n)
		}
		for _, of := range []string{"inprocess/", "memory/", "gc/", "snapshot/"} {
			if strings.HasPrefix(g.figure, of) && !known[g.figure] {
				t.Errorf("%s: no figure %s", g.row, g.figure)
			}
		}
	}
}
