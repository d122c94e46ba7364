package bench

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// Report is all that a run measured.
type Report struct {
	Version  string    `json:"version"`
	Machine  string    `json:"machine"`
	Begun    time.Time `json:"begun"`
	Sessions int       `json:"sessions"`
	Rounds   int       `json:"rounds"`
	Duration string    `json:"duration"`
	Conns    int       `json:"conns"`
	Rate     float64   `json:"rate,omitempty"`

	Comparisons []*Comparison `json:"comparisons,omitempty"`
	Figures     []Figure      `json:"figures,omitempty"`
	Growth      []Size        `json:"growth,omitempty"`
	Nodes       []Fleet       `json:"nodes,omitempty"`
	Skipped     []Skipped     `json:"skipped,omitempty"`
	Gates       []Verdict     `json:"gates,omitempty"`
}

// Figure is one number.
type Figure struct {
	// ID is stable, such as "verify/rps".
	ID      string  `json:"id"`
	What    string  `json:"what"`
	Value   float64 `json:"value"`
	Unit    string  `json:"unit"`
	Refused string  `json:"refused,omitempty"` // why there is none
}

// Skipped is what was asked for and could not be measured here.
type Skipped struct {
	Scenario string `json:"scenario"`
	Why      string `json:"why"`
}

func machine() string {
	return fmt.Sprintf("%s/%s, %d cores, %s", runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), runtime.Version())
}

func (r *Report) figure(id, what string, v float64, unit string) {
	r.Figures = append(r.Figures, Figure{ID: id, What: what, Value: v, Unit: unit})
}

// ratio notes a ratio, or why there is none.
func (r *Report) ratio(id, what string, x Ratio) {
	r.Figures = append(r.Figures, Figure{ID: id, What: what, Value: x.Value, Unit: "x", Refused: x.Refused})
}

func (r *Report) skip(scenario, why string, args ...any) {
	r.Skipped = append(r.Skipped, Skipped{scenario, fmt.Sprintf(why, args...)})
}

// WriteJSON writes the report to the file.
func (r *Report) WriteJSON(file string) error {
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	if err := os.WriteFile(file, append(text, '\n'), 0o644); err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	return nil
}

// WriteText writes the report as tables.
func (r *Report) WriteText(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "revocast %s on %s, %s; %d sessions, %d rounds of %s, %d connections%s\n", r.Version, r.Machine,
		r.Begun.UTC().Format(time.RFC3339), r.Sessions, r.Rounds, r.Duration, r.Conns, r.pace())
	for _, c := range r.Comparisons {
		c.write(t)
	}
	if len(r.Figures) > 0 {
		fmt.Fprint(t, "\nFIGURE\tVALUE\t\n")
		for _, f := range r.Figures {
			fmt.Fprintf(t, "%s\t%s\t\n", f.What, f.value())
		}
	}
	r.writeGrowth(t)
	for _, s := range r.Skipped {
		fmt.Fprintf(t, "\n%s: not measured: %s\n", s.Scenario, s.Why)
	}
	if len(r.Gates) > 0 {
		fmt.Fprintln(t)
		for _, g := range r.Gates {
			fmt.Fprintln(t, g.String())
		}
	}
	return t.Flush()
}

func (r *Report) pace() string {
	if r.Rate == 0 {
		return ""
	}
	return fmt.Sprintf(" at %.0f/s", r.Rate)
}

func (f *Figure) value() string {
	if f.Refused != "" {
		return "- (" + f.Refused + ")"
	}
	return number(f.Value) + " " + f.Unit
}

// number shows three digits, and all before the point.
func number(v float64) string {
	switch {
	case v >= 100 || v == 0:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	case v >= 1:
		return fmt.Sprintf("%.2f", v)
	}
	return fmt.Sprintf("%.3g", v)
}

func (c *Comparison) write(w io.Writer) {
	fmt.Fprintf(w, "\n%s\tREQ/S\tX %s\tP50 us\tP99 us\tCPU us/REQ\tX CPU\tBACKEND us\tREQ/S OF EACH ROUND\tERRORS\t\n",
		strings.ToUpper(c.Scenario), strings.ToUpper(c.Targets[0].Name))
	refused := map[string]bool{}
	for i, m := range c.Targets {
		cell := func(of metric) string {
			if v, ok := m.middle(of); ok {
				return number(v)
			}
			return "-"
		}
		beside := func(of metric) string {
			if i == 0 {
				return "1"
			}
			x := c.against(i, of)
			if x.Refused != "" {
				refused[x.Refused] = true
				return "-"
			}
			return fmt.Sprintf("%.2f", x.Value)
		}
		trouble := m.trouble()
		if trouble == "" {
			trouble = "0"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t\n", m.Name, cell(rps), beside(rps), number(m.Latency.P50), number(m.Latency.P99),
			cell(cpu), beside(cpu), cell(backend), m.each(), trouble)
	}
	for _, why := range slices.Sorted(maps.Keys(refused)) {
		if why != "not measured" {
			fmt.Fprintf(w, "no ratio: %s\n", why)
		}
	}
}

// each lists the rounds.
func (m *Measured) each() string {
	var all []string
	for _, r := range m.Rounds {
		all = append(all, number(r.RPS))
	}
	return strings.Join(all, " ")
}
