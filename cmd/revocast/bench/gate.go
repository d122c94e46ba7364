package bench

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// gate is one row of the targets.
type gate struct {
	row    string
	figure string // its id
	// atLeast or atMost is the target; the other is 0.
	atLeast, atMost float64
	// none: the figure is to be 0.
	none bool
	// from and to bound the number of sessions for which the row counts; 0: any.
	from, to int
}

// million is in what the targets count sessions.
const million = 1_000_000

// gates are the targets.
var gates = []gate{
	{row: "verify GET, requests", figure: "verify/rps", atLeast: 0.95},
	{row: "verify GET, CPU", figure: "verify/cpu", atMost: 1.10},
	{row: "verify POST, requests", figure: "post/rps", atLeast: 0.93},
	{row: "verify POST, CPU", figure: "post/cpu", atMost: 1.10},
	{row: "verify JWT, requests", figure: "jwt/rps", atLeast: 0.95},
	{row: "verify JWT, CPU", figure: "jwt/cpu", atMost: 1.10},
	{row: "verify while busy, requests", figure: "busy/rps", atLeast: 0.80},
	{row: "verify-listen, requests", figure: "lean/rps", atLeast: 1.5},
	{row: "nginx auth_request, beside plain nginx", figure: "nginx/rps", atLeast: 0.37},
	{row: "nginx auth_request, beside an answer with a body", figure: "nginx/body", atLeast: 2},
	{row: "in-process verify", figure: "inprocess/ns", atMost: 400, to: million},
	{row: "in-process verify", figure: "inprocess/ns", atMost: 600, from: million + 1},
	{row: "in-process verify, allocations", figure: "inprocess/allocs", none: true},
	{row: "in-process verify through a node", figure: "inprocess/node", atMost: 400, to: million},
	{row: "in-process verify through a node", figure: "inprocess/node", atMost: 600, from: million + 1},
	{row: "in-process verify through a node, allocations", figure: "inprocess/node/allocs", none: true},
	{row: "memory beside the private part", figure: "memory/beside", atMost: 200, from: 100_000},
	{row: "memory in all", figure: "memory/session", atMost: 440, from: 100_000},
	{row: "memory returned", figure: "memory/returned", atLeast: 0.8, from: 100_000},
	{row: "collector, one cycle", figure: "gc/cycle", atMost: 5},
	{row: "collector, longest pause", figure: "gc/pause", atMost: 1},
	{row: "tail during snapshots", figure: "tail/snapshot", atMost: 2},
	{row: "tail during a user-wide revoke", figure: "tail/revoke", atMost: 2},
	{row: "tail during key rotation", figure: "tail/rotation", atMost: 2},
	{row: "tail during a replay", figure: "tail/replay", atMost: 2},
	{row: "apply from the log", figure: "apply/log", atLeast: 150_000},
	{row: "apply from memory", figure: "apply/memory", atLeast: 500_000},
	{row: "start from a snapshot", figure: "start", atMost: 3, to: million},
	{row: "start from a snapshot", figure: "start", atMost: 20, from: million + 1},
	{row: "load of a snapshot", figure: "snapshot/load", atMost: 3, to: million},
	{row: "load of a snapshot", figure: "snapshot/load", atMost: 20, from: million + 1},
	{row: "mint ES256", figure: "mint/ES256", atMost: 1.25},
	{row: "mint EdDSA", figure: "mint/EdDSA", atMost: 1.25},
	{row: "CPU beside go-redis", figure: "peer/go-redis/cpu", atMost: 1.0 / 4},
	{row: "CPU beside pgx", figure: "peer/pgx/cpu", atMost: 1 / 5.5},
	{row: "CPU beside scs", figure: "peer/scs/cpu", atMost: 1.0 / 5},
	{row: "CPU beside express-session", figure: "peer/express-session/cpu", atMost: 1.0 / 15},
	{row: "CPU beside Kratos whoami", figure: "peer/kratos/cpu", atMost: 1.0 / 50},
	{row: "CPU beside golang-jwt RS256", figure: "peer/jwt-rs256/cpu", atMost: 1 / 3.5},
	{row: "CPU beside golang-jwt ES256", figure: "peer/jwt-es256/cpu", atMost: 1.0 / 6},
	{row: "memory beside Redis", figure: "peer/go-redis/memory", atMost: 0.5, from: 100_000},
}

// Verdict is what came of a gate.
type Verdict struct {
	Row    string  `json:"row"`
	Figure float64 `json:"figure"`
	Target string  `json:"target"`
	OK     bool    `json:"ok"`
	// Refused says why there is no figure to judge.
	Refused string `json:"refused,omitempty"`
}

// String is the line that scripts look for.
func (v Verdict) String() string {
	switch {
	case v.Refused != "":
		return fmt.Sprintf("GATE %s MISSED (%s) want %s", v.Row, v.Refused, v.Target)
	case v.OK:
		return fmt.Sprintf("GATE %s ok %s want %s", v.Row, number(v.Figure), v.Target)
	}
	return fmt.Sprintf("GATE %s MISSED %s want %s", v.Row, number(v.Figure), v.Target)
}

// Judge holds what was measured against the targets, and returns an error that
// names those that were missed. A figure that was refused is missed; what was
// not asked for is not judged.
func (r *Report) Judge() error {
	r.judge(r.Figures, r.Sessions, "")
	for _, z := range r.Growth {
		r.judge(z.figures(), z.Sessions, fmt.Sprintf(" (%d sessions)", z.Sessions))
	}
	var missed []string
	for _, v := range r.Gates {
		if !v.OK {
			missed = append(missed, v.Row)
		}
	}
	switch {
	case len(r.Gates) == 0:
		return errors.New("no target was measured")
	case len(missed) > 0:
		return fmt.Errorf("%d of %d targets are missed: %s", len(missed), len(r.Gates), strings.Join(missed, "; "))
	}
	return nil
}

// judge adds the verdicts on the figures, which are of so many sessions.
func (r *Report) judge(figures []Figure, sessions int, where string) {
	for _, g := range gates {
		i := slices.IndexFunc(figures, func(f Figure) bool { return f.ID == g.figure })
		if i < 0 || sessions < g.from || g.to > 0 && sessions > g.to {
			continue
		}
		v := g.verdict(&figures[i])
		v.Row += where
		r.Gates = append(r.Gates, v)
	}
}

// verdict holds the figure against the target.
func (g *gate) verdict(f *Figure) Verdict {
	v := Verdict{Row: g.row, Figure: f.Value, Refused: f.Refused}
	switch {
	case g.none:
		v.Target, v.OK = "none", f.Value == 0
	case g.atLeast > 0:
		v.Target, v.OK = "at least "+number(g.atLeast), f.Value >= g.atLeast
	default:
		v.Target, v.OK = "at most "+number(g.atMost), f.Value <= g.atMost
	}
	if f.Unit != "x" && f.Unit != "" && !g.none {
		v.Target += " " + f.Unit
	}
	v.OK = v.OK && f.Refused == ""
	return v
}
