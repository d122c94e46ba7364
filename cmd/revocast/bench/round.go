package bench

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// Round is what one target came to in one round.
type Round struct {
	RPS float64 `json:"rps"`
	// CPU and Backend are microseconds for each right answer; -1: not measured.
	CPU     float64 `json:"cpu_us"`
	Backend float64 `json:"backend_cpu_us"`
	P50     float64 `json:"p50_us"`
	P99     float64 `json:"p99_us"`
	// Trouble says what was not answered as it should be; "": nothing.
	Trouble string `json:"trouble,omitempty"`
}

// Measured is a target and its rounds.
type Measured struct {
	Name    string    `json:"name"`
	Rounds  []Round   `json:"rounds"`
	Latency Quantiles `json:"latency"` // of all rounds

	histogram Histogram
}

// Comparison is targets that were measured in turns, so that what else the
// machine did was the same for all of them. The first is the one that the others
// are held against, a bare handler where there is one.
type Comparison struct {
	Scenario string      `json:"scenario"`
	Targets  []*Measured `json:"targets"`
}

// noisy is by what share the rounds of a bare handler may differ before no ratio
// is printed.
const noisy = 0.30

// warmUp is how long each target is asked before the first round.
const warmUp = 300 * time.Millisecond

// compare measures the targets: each in each round, in an order that is turned
// around in odd rounds.
func compare(ctx context.Context, scenario string, rounds int, l Load, targets []*Target) (*Comparison, error) {
	c := &Comparison{Scenario: scenario}
	for _, t := range targets {
		c.Targets = append(c.Targets, &Measured{Name: t.Name})
		warm := l
		warm.Duration = min(warmUp, l.Duration)
		if r := warm.Run(ctx, t); ctx.Err() == nil && !r.OK() {
			return nil, fmt.Errorf("%s: %s: %s", scenario, t.Name, r.trouble())
		}
	}
	for round := range rounds {
		order := make([]int, len(targets))
		for i := range order {
			order[i] = i
		}
		if round%2 == 1 {
			slices.Reverse(order)
		}
		for _, i := range order {
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			c.Targets[i].measure(ctx, l, targets[i])
		}
	}
	for _, m := range c.Targets {
		m.Latency = quantiles(&m.histogram)
	}
	return c, nil
}

// measure is one round of the target.
func (m *Measured) measure(ctx context.Context, l Load, t *Target) {
	server, backend := newMeter(t.Server, t.Backend), newMeter(t.Backend, t.Server)
	r := l.Run(ctx, t)
	m.Rounds = append(m.Rounds, Round{
		RPS: r.Rate(), CPU: server.each(r.Done), Backend: backend.each(r.Done),
		P50: micros(r.Latency.Quantile(0.5)), P99: micros(r.Latency.Quantile(0.99)), Trouble: r.trouble(),
	})
	m.histogram.Merge(&r.Latency)
}

// meter measures the CPU of processes and their descendants, without others and
// theirs, from when it was made.
type meter struct {
	pids  []int
	not   []int
	begun time.Duration
	err   error
}

func newMeter(pids, not []int) *meter {
	m := &meter{pids: pids, not: not}
	if len(pids) > 0 {
		m.begun, m.err = cpuOf(pids, not)
	}
	return m
}

// each returns the microseconds for one of n; -1: it is not known.
func (m *meter) each(n int64) float64 {
	if len(m.pids) == 0 {
		return -1
	}
	now, err := cpuOf(m.pids, m.not)
	if err != nil || m.err != nil || n == 0 {
		return -1
	}
	return micros(now-m.begun) / float64(n)
}

func micros(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

// metric is a figure of a round, false when it was not measured.
type metric func(r *Round) (float64, bool)

func rps(r *Round) (float64, bool)     { return r.RPS, true }
func p99(r *Round) (float64, bool)     { return r.P99, true }
func cpu(r *Round) (float64, bool)     { return r.CPU, r.CPU >= 0 }
func allCPU(r *Round) (float64, bool)  { return r.CPU + max(r.Backend, 0), r.CPU >= 0 }
func backend(r *Round) (float64, bool) { return r.Backend, r.Backend >= 0 }

// values returns the metric of all rounds, false when one lacks it.
func (m *Measured) values(of metric) (all []float64, ok bool) {
	for i := range m.Rounds {
		v, ok := of(&m.Rounds[i])
		if !ok {
			return nil, false
		}
		all = append(all, v)
	}
	return all, len(all) > 0
}

// middle returns the median of the rounds.
func (m *Measured) middle(of metric) (float64, bool) {
	all, ok := m.values(of)
	if !ok {
		return 0, false
	}
	return median(all), true
}

// trouble returns the first trouble of any round.
func (m *Measured) trouble() string {
	for _, r := range m.Rounds {
		if r.Trouble != "" {
			return r.Trouble
		}
	}
	return ""
}

// Ratio is a figure held against another, or why it is not.
type Ratio struct {
	Value   float64 `json:"value"`
	Refused string  `json:"refused,omitempty"`
}

// ratio returns the median of what the metric of a is to that of b, round by
// round. It is refused when anything was not answered as it should be, and when
// the rounds of steady (a bare handler, or b) differ so much that it would say
// more of the machine's other work than of a and b.
func ratio(a, b, steady *Measured, of metric) Ratio {
	for _, m := range []*Measured{a, b, steady} {
		if t := m.trouble(); t != "" {
			return Ratio{Refused: fmt.Sprintf("failed: %s: %s", m.Name, t)}
		}
	}
	upper, ok := a.values(of)
	lower, also := b.values(of)
	level, too := steady.values(of)
	if !ok || !also || !too || len(upper) != len(lower) {
		return Ratio{Refused: "not measured"}
	}
	if slices.Min(lower) <= 0 || slices.Min(level) <= 0 {
		return Ratio{Refused: "not measured: too short a time"}
	}
	if d := slices.Max(level)/slices.Min(level) - 1; d > noisy {
		return Ratio{Refused: fmt.Sprintf("noisy: the rounds of %s differ by %.0f %%", steady.Name, 100*d)}
	}
	each := make([]float64, len(upper))
	for i := range upper {
		each[i] = upper[i] / lower[i]
	}
	return Ratio{Value: median(each)}
}

// against returns the ratio of target i to the first.
func (c *Comparison) against(i int, of metric) Ratio {
	return ratio(c.Targets[i], c.Targets[0], c.Targets[0], of)
}

func median(all []float64) float64 {
	s := slices.Sorted(slices.Values(all))
	n := len(s)
	if n == 0 {
		return 0
	}
	return (s[(n-1)/2] + s[n/2]) / 2
}

// Quantiles are those of a histogram, in microseconds.
type Quantiles struct {
	Count uint64  `json:"count"`
	P50   float64 `json:"p50_us"`
	P90   float64 `json:"p90_us"`
	P99   float64 `json:"p99_us"`
	P999  float64 `json:"p999_us"`
	Max   float64 `json:"max_us"`
	// Curve is for the picture: the quantiles that curveAt names.
	Curve []float64 `json:"curve_us,omitempty"`
}

// curveAt are the quantiles of a picture: half, and then ever nearer to all.
var curveAt = []float64{0.5, 0.75, 0.9, 0.95, 0.99, 0.995, 0.999, 0.9995, 0.9999}

func quantiles(h *Histogram) Quantiles {
	q := Quantiles{
		Count: h.Count(), P50: micros(h.Quantile(0.5)), P90: micros(h.Quantile(0.9)), P99: micros(h.Quantile(0.99)),
		P999: micros(h.Quantile(0.999)), Max: micros(h.Max()),
	}
	for _, at := range curveAt {
		q.Curve = append(q.Curve, micros(h.Quantile(at)))
	}
	return q
}
