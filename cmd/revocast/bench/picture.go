package bench

import (
	"bytes"
	"cmp"
	"fmt"
	"html"
	"math"
	"os"
	"slices"
	"strings"
	"time"
)

// WritePicture draws the report into the file: as SVG, or as a page with it when
// the name ends in .html. Nothing else is needed to look at it.
func (r *Report) WritePicture(file string) error {
	charts := r.charts()
	if len(charts) == 0 {
		return fmt.Errorf("draw picture: nothing was measured that can be drawn")
	}
	var b bytes.Buffer
	page := strings.HasSuffix(file, ".html")
	if page {
		b.WriteString("<!doctype html>\n<meta charset=\"utf-8\">\n<title>revocast bench</title>\n<body style=\"margin:0\">\n")
	}
	draw(&b, r.title(), charts)
	if err := os.WriteFile(file, b.Bytes(), 0o644); err != nil {
		return fmt.Errorf("draw picture: %w", err)
	}
	return nil
}

func (r *Report) title() string {
	return fmt.Sprintf("revocast %s · %s · %s · %d sessions, %d rounds of %s, %d connections%s",
		r.Version, r.Machine, r.Begun.UTC().Format(time.DateOnly), r.Sessions, r.Rounds, r.Duration, r.Conns, r.pace())
}

// chart is lines over one axis.
type chart struct {
	title, x, y string
	ticks       []tick // of the x axis
	lines       []line
}

type tick struct {
	at   float64
	text string
}

// line is a series; its points lie where the chart's x axis says, and on a
// logarithmic y axis.
type line struct {
	name   string
	points [][2]float64
}

// charts returns what there is to draw: latency of each comparison, and then
// cost against the numbers of sessions and of nodes.
func (r *Report) charts() (all []chart) {
	for _, c := range r.Comparisons {
		all = append(all, c.chart())
	}
	if len(r.Growth) > 0 {
		all = append(all, r.growthCharts()...)
	}
	if len(r.Nodes) > 0 {
		all = append(all, r.nodeCharts()...)
	}
	return all
}

// chart draws how many of all requests were answered within what time. Each nine
// of the share is as far from the one before.
func (c *Comparison) chart() chart {
	out := chart{title: c.Scenario, x: "share of requests", y: "answered within, ms"}
	place := func(q float64) float64 { return -math.Log10(1 - q) }
	for _, t := range []tick{{0.5, "50 %"}, {0.9, "90 %"}, {0.99, "99 %"}, {0.999, "99.9 %"}, {0.9999, "99.99 %"}} {
		out.ticks = append(out.ticks, tick{place(t.at), t.text})
	}
	for _, m := range c.Targets {
		l := line{name: m.Name}
		for i, us := range m.Latency.Curve {
			// A quantile of fewer than ten requests is that of one of them.
			if us > 0 && (1-curveAt[i])*float64(m.Latency.Count) >= 10 {
				l.points = append(l.points, [2]float64{place(curveAt[i]), us / 1000})
			}
		}
		out.lines = append(out.lines, l)
	}
	return out
}

// short writes a number of sessions as flags take it.
func short(n int) string {
	switch {
	case n >= million && n%100_000 == 0:
		return fmt.Sprintf("%gM", float64(n)/million)
	case n >= 1000 && n%100 == 0:
		return fmt.Sprintf("%gk", float64(n)/1000)
	}
	return fmt.Sprint(n)
}

func (r *Report) growthCharts() []chart {
	var ticks []tick
	for _, z := range r.Growth {
		ticks = append(ticks, tick{math.Log10(float64(z.Sessions)), short(z.Sessions)})
	}
	over := func(name string, of func(*Size) float64) line {
		l := line{name: name}
		for i := range r.Growth {
			if v := of(&r.Growth[i]); v > 0 {
				l.points = append(l.points, [2]float64{ticks[i].at, v})
			}
		}
		return l
	}
	return []chart{
		{title: "memory against sessions", x: "sessions", y: "bytes each", ticks: ticks, lines: []line{
			over("in all", func(z *Size) float64 { return z.Bytes }),
			over("beside the private part", func(z *Size) float64 { return z.Beside }),
		}},
		{title: "verify in process against sessions", x: "sessions", y: "ns of CPU", ticks: ticks, lines: []line{
			over("verify", func(z *Size) float64 { return z.Lookup }),
			over("of that the clock", func(z *Size) float64 { return z.Clock }),
		}},
		{title: "collector against sessions", x: "sessions", y: "ms", ticks: ticks, lines: []line{
			over("CPU of one cycle", func(z *Size) float64 { return z.GC }),
			over("longest pause", func(z *Size) float64 { return z.Pause }),
		}},
		{title: "snapshot against sessions", x: "sessions", y: "seconds", ticks: ticks, lines: []line{
			over("write", func(z *Size) float64 { return z.Write }),
			over("load to first answer", func(z *Size) float64 { return z.Load }),
		}},
	}
}

func (r *Report) nodeCharts() []chart {
	var ticks []tick
	for _, f := range r.Nodes {
		ticks = append(ticks, tick{math.Log10(float64(f.Nodes)), fmt.Sprint(f.Nodes)})
	}
	over := func(name string, of func(*Fleet) float64) line {
		l := line{name: name}
		for i := range r.Nodes {
			if v := of(&r.Nodes[i]); v > 0 {
				l.points = append(l.points, [2]float64{ticks[i].at, v})
			}
		}
		return l
	}
	return []chart{
		{title: "revocation against nodes on one log", x: "nodes", y: "denied after, ms", ticks: ticks, lines: []line{
			over("each node, p50", func(f *Fleet) float64 { return f.Lag.P50 / 1000 }),
			over("each node, p99", func(f *Fleet) float64 { return f.Lag.P99 / 1000 }),
			over("last node, p50", func(f *Fleet) float64 { return f.Last.P50 / 1000 }),
		}},
		{title: "idle cost against nodes on one log", x: "nodes", y: "each second · % of a core", ticks: ticks, lines: []line{
			over("heartbeats a second", func(f *Fleet) float64 { return f.Beats }),
			over("CPU of the server, %", func(f *Fleet) float64 { return f.Server }),
			over("CPU of all nodes, %", func(f *Fleet) float64 { return f.Process }),
		}},
	}
}

// Sizes of a picture, in pixels.
const (
	chartWide, chartHigh = 610, 330
	plotLeft, plotTop    = 64, 40
	plotWide, plotHigh   = 320, 230
	headHigh             = 44
	perRow               = 2
)

// colours are told apart by those who see few of them; the first is that of what
// the others are held against.
var colours = []string{"#777777", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9"}

func draw(b *bytes.Buffer, title string, charts []chart) {
	rows := (len(charts) + perRow - 1) / perRow
	wide, high := perRow*chartWide, headHigh+rows*chartHigh
	fmt.Fprintf(b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12">`+"\n", wide, high, wide, high)
	fmt.Fprintf(b, `<rect width="%d" height="%d" fill="#ffffff"/>`+"\n", wide, high)
	label(b, 16, 26, "start", 13, title)
	for i := range charts {
		fmt.Fprintf(b, `<g transform="translate(%d,%d)">`+"\n", i%perRow*chartWide, headHigh+i/perRow*chartHigh)
		charts[i].draw(b)
		b.WriteString("</g>\n")
	}
	b.WriteString("</svg>\n")
}

// label writes text at a place; anchor is start, middle or end.
func label(b *bytes.Buffer, x, y float64, anchor string, size int, text string) {
	fmt.Fprintf(b, `<text x="%.1f" y="%.1f" text-anchor="%s" font-size="%d" fill="#222222">%s</text>`+"\n", x, y, anchor, size, html.EscapeString(text))
}

// span returns the least and the greatest of all points, on both axes.
func (c *chart) span() (x0, x1, y0, y1 float64) {
	x0, x1 = c.ticks[0].at, c.ticks[len(c.ticks)-1].at
	y0, y1 = math.Inf(1), math.Inf(-1)
	for _, l := range c.lines {
		for _, p := range l.points {
			y0, y1 = min(y0, p[1]), max(y1, p[1])
		}
	}
	if x0 == x1 {
		x0, x1 = x0-0.5, x1+0.5
	}
	if y0 > y1 { // there is no point
		y0, y1 = 1, 10
	}
	return x0, x1, y0 / 1.15, y1 * 1.15
}

func (c *chart) draw(b *bytes.Buffer) {
	x0, x1, y0, y1 := c.span()
	x := func(v float64) float64 { return plotLeft + plotWide*(v-x0)/(x1-x0) }
	y := func(v float64) float64 { return plotTop + plotHigh*(1-math.Log(v/y0)/math.Log(y1/y0)) }
	label(b, plotLeft, plotTop-14, "start", 14, c.title)
	for _, v := range marks(y0, y1) {
		fmt.Fprintf(b, `<line x1="%d" y1="%.1f" x2="%d" y2="%.1f" stroke="#dddddd"/>`+"\n", plotLeft, y(v), plotLeft+plotWide, y(v))
		label(b, plotLeft-6, y(v)+4, "end", 11, fmt.Sprintf("%g", v))
	}
	for _, t := range c.ticks {
		fmt.Fprintf(b, `<line x1="%.1f" y1="%d" x2="%.1f" y2="%d" stroke="#eeeeee"/>`+"\n", x(t.at), plotTop, x(t.at), plotTop+plotHigh)
		label(b, x(t.at), plotTop+plotHigh+16, "middle", 11, t.text)
	}
	label(b, plotLeft+plotWide/2, plotTop+plotHigh+36, "middle", 11, c.x)
	fmt.Fprintf(b, `<text transform="translate(14,%d) rotate(-90)" text-anchor="middle" font-size="11" fill="#222222">%s</text>`+"\n",
		plotTop+plotHigh/2, html.EscapeString(c.y))
	for i, l := range c.lines {
		l.draw(b, colours[i%len(colours)], x, y)
	}
	// Names stand beside the ends of their lines, as far apart as they need.
	places := c.places(y)
	for i, l := range c.lines {
		if len(l.points) == 0 {
			continue
		}
		last := l.points[len(l.points)-1]
		fmt.Fprintf(b, `<line x1="%.1f" y1="%.1f" x2="%d" y2="%.1f" stroke="%s" stroke-width="0.7" stroke-dasharray="2 2"/>`+"\n",
			x(last[0]), y(last[1]), plotLeft+plotWide+8, places[i], colours[i%len(colours)])
		fmt.Fprintf(b, `<circle cx="%d" cy="%.1f" r="4" fill="%s"/>`+"\n", plotLeft+plotWide+12, places[i], colours[i%len(colours)])
		label(b, plotLeft+plotWide+20, places[i]+4, "start", 12, fmt.Sprintf("%s: %s", l.name, number(last[1])))
	}
}

func (l *line) draw(b *bytes.Buffer, colour string, x, y func(float64) float64) {
	var path strings.Builder
	for i, p := range l.points {
		if i > 0 {
			path.WriteString(" ")
		}
		fmt.Fprintf(&path, "%.1f,%.1f", x(p[0]), y(p[1]))
		fmt.Fprintf(b, `<circle cx="%.1f" cy="%.1f" r="2.5" fill="%s"/>`+"\n", x(p[0]), y(p[1]), colour)
	}
	fmt.Fprintf(b, `<polyline points="%s" fill="none" stroke="%s" stroke-width="1.8"/>`+"\n", path.String(), colour)
}

// places returns at which height each line's name stands: beside its end, in
// the order of the ends, but never on another name.
func (c *chart) places(y func(float64) float64) []float64 {
	const apart = 16
	out, order := make([]float64, len(c.lines)), []int(nil)
	for i, l := range c.lines {
		if len(l.points) > 0 {
			out[i] = y(l.points[len(l.points)-1][1])
			order = append(order, i)
		}
	}
	slices.SortFunc(order, func(a, b int) int { return cmp.Compare(out[a], out[b]) })
	for k, i := range order[min(1, len(order)):] {
		out[i] = max(out[i], out[order[k]]+apart)
	}
	// What went below the plot pushes the others up.
	floor := float64(plotTop + plotHigh)
	for _, i := range slices.Backward(order) {
		out[i] = min(out[i], floor)
		floor = out[i] - apart
	}
	return out
}

// marks returns round numbers between the two, few of them.
func marks(from, to float64) (all []float64) {
	for _, steps := range [][]float64{{1}, {1, 3}, {1, 2, 5}, {1, 1.5, 2, 3, 4, 5, 6, 8}} {
		all = all[:0]
		for power := math.Pow(10, math.Floor(math.Log10(from))); power <= to; power *= 10 {
			for _, s := range steps {
				if v := roundTo(power * s); v >= from && v <= to {
					all = append(all, v)
				}
			}
		}
		if len(all) >= 3 {
			return all
		}
	}
	return all
}

// roundTo takes away what is left of multiplying by powers of ten.
func roundTo(v float64) float64 {
	scale := math.Pow(10, 3-math.Floor(math.Log10(v)))
	return math.Round(v*scale) / scale
}
