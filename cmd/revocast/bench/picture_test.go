package bench

import (
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// pictured is a report of everything that is drawn.
func pictured() *Report {
	h := new(Histogram)
	for i := range 20_000 {
		h.Add(time.Duration(i+1) * time.Microsecond)
	}
	c := &Comparison{Scenario: "verify <&>", Targets: []*Measured{{Name: "bare"}, {Name: "verify"}, {Name: "silent"}}}
	for _, m := range c.Targets[:2] {
		m.Latency = quantiles(h)
	}
	return &Report{
		Version: "test", Sessions: 1000, Comparisons: []*Comparison{c},
		Growth: []Size{{Sessions: 10_000, Bytes: 480, Beside: 220, Lookup: 300, GC: 1, Write: 0.1, Load: 0.2}, {Sessions: million, Bytes: 430, Beside: 170, Lookup: 500, GC: 1, Write: 2, Load: 3}},
		Nodes:  []Fleet{{Nodes: 1, Lag: quantiles(h), Last: quantiles(h), Beats: 1, Server: -1, Process: -1}},
	}
}

func TestWritePicture(t *testing.T) {
	for _, name := range []string{"p.svg", "p.html"} {
		file := filepath.Join(t.TempDir(), name)
		if err := pictured().WritePicture(file); err != nil {
			t.Fatal(err)
		}
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		text := string(raw)
		if strings.HasSuffix(name, ".html") {
			if !strings.HasPrefix(text, "<!doctype html>") {
				t.Errorf("%s begins with %.20q", name, text)
			}
			text = text[strings.Index(text, "<svg"):]
		}
		dec := xml.NewDecoder(strings.NewReader(text))
		for {
			if _, err := dec.Token(); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
		for _, want := range []string{"verify &lt;&amp;&gt;", "99.99 %", "memory against sessions", ">1M<", "revocation against nodes"} {
			if !strings.Contains(text, want) {
				t.Errorf("%s lacks %q", name, want)
			}
		}
		for _, bad := range []string{"NaN", "Inf", "href", "<script", "silent:"} {
			if strings.Contains(text, bad) {
				t.Errorf("%s has %q", name, bad)
			}
		}
	}
	if err := new(Report).WritePicture(filepath.Join(t.TempDir(), "p.svg")); err == nil {
		t.Error("a picture of nothing was drawn")
	}
}

func TestWriteJSON(t *testing.T) {
	file := filepath.Join(t.TempDir(), "out.json")
	r := pictured()
	r.ratio("verify/rps", "verify", Ratio{Refused: "noisy: x"})
	if err := r.WriteJSON(file); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var back Report
	if err := json.Unmarshal(raw, &back); err != nil {
		t.Fatal(err)
	}
	if len(back.Growth) != 2 || back.Growth[1].Bytes != 430 || back.Figures[0].Refused != "noisy: x" || back.Comparisons[0].Targets[1].Latency.Count != 20_000 {
		t.Errorf("read back %+v", back)
	}
}

func TestWriteText(t *testing.T) {
	r := pictured()
	r.Comparisons[0].Targets = r.Comparisons[0].Targets[:2]
	r.Comparisons[0].Targets[0].Rounds = measured("bare", 100, 200).Rounds
	r.Comparisons[0].Targets[1].Rounds = measured("verify", 90, 90).Rounds
	r.skip("lean", "serve has no flag %s", "--x")
	var b strings.Builder
	if err := r.WriteText(&b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"no ratio: noisy: the rounds of bare differ by 100 %", "lean: not measured: serve has no flag --x", "\n1000000 ", "NODES"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("it lacks %q:\n%s", want, b.String())
		}
	}
}
