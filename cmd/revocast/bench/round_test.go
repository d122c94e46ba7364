package bench

import (
	"context"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

func measured(name string, rates ...float64) *Measured {
	m := &Measured{Name: name}
	for _, r := range rates {
		m.Rounds = append(m.Rounds, Round{RPS: r, CPU: 1e6 / r, Backend: -1})
	}
	return m
}

func broken(m *Measured, why string) *Measured {
	m.Rounds[len(m.Rounds)-1].Trouble = why
	return m
}

func unmetered(m *Measured) *Measured {
	for i := range m.Rounds {
		m.Rounds[i].CPU = -1
	}
	return m
}

func TestRatio(t *testing.T) {
	for name, tt := range map[string]struct {
		a, bare *Measured
		of      metric
		want    float64
		refused string
	}{
		"median of rounds":    {measured("a", 90, 50, 99), measured("bare", 100, 100, 110), rps, 0.9, ""},
		"even rounds":         {measured("a", 90, 70), measured("bare", 100, 100), rps, 0.8, ""},
		"cpu":                 {measured("a", 50, 50, 50), measured("bare", 100, 100, 100), cpu, 2, ""},
		"within 30 %":         {measured("a", 100, 100), measured("bare", 100, 129), rps, (1 + 100.0/129) / 2, ""},
		"noisy":               {measured("a", 100, 100), measured("bare", 100, 131), rps, 0, "noisy: the rounds of bare differ by 31 %"},
		"noisy cpu":           {measured("a", 100, 100), measured("bare", 131, 100), cpu, 0, "noisy"},
		"failed":              {broken(measured("a", 100, 100), "1 unexpected answers"), measured("bare", 100, 100), rps, 0, "failed: a: 1 unexpected"},
		"bare failed":         {measured("a", 100, 100), broken(measured("bare", 100, 100), "broken"), rps, 0, "failed: bare: broken"},
		"failed before noisy": {broken(measured("a", 100, 100), "x"), measured("bare", 100, 200), rps, 0, "failed"},
		"no cpu":              {unmetered(measured("a", 100)), measured("bare", 100), cpu, 0, "not measured"},
		"nothing":             {measured("a"), measured("bare"), rps, 0, "not measured"},
		"bare stood still":    {measured("a", 1), measured("bare", 0), rps, 0, "not measured"},
	} {
		t.Run(name, func(t *testing.T) {
			got := ratio(tt.a, tt.bare, tt.bare, tt.of)
			if got.Value != tt.want || !strings.HasPrefix(got.Refused, tt.refused) || (tt.refused == "") != (got.Refused == "") {
				t.Errorf("got %+v, want %v, refused %q", got, tt.want, tt.refused)
			}
		})
	}
}

// TestCompare checks that targets take turns, and that the order is turned
// around in odd rounds.
func TestCompare(t *testing.T) {
	var mu sync.Mutex // guards order
	var order []string
	target := func(name string) *Target {
		tt := served(t, func(w http.ResponseWriter, _ *http.Request) {
			mu.Lock()
			defer mu.Unlock()
			if len(order) == 0 || order[len(order)-1] != name {
				order = append(order, name)
			}
		}, get("/", 200))
		tt.Name, tt.Server = name, []int{os.Getpid()}
		return tt
	}
	c, err := compare(t.Context(), "test", 3, Load{Conns: 1, Duration: 5 * time.Millisecond}, []*Target{target("bare"), target("a"), target("b")})
	if err != nil {
		t.Fatal(err)
	}
	// The first three are warm, and the end of a round is the beginning of the next.
	if got, want := strings.Join(order, " "), "bare a b bare a b a bare a b"; got != want {
		t.Errorf("order is %q, want %q", got, want)
	}
	for _, m := range c.Targets {
		if len(m.Rounds) != 3 || m.Latency.Count == 0 || m.trouble() != "" {
			t.Errorf("%s: %+v", m.Name, m.Rounds)
		}
	}
}

func TestCompareStopsAtOnce(t *testing.T) {
	wrong := served(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) }, get("/", 204))
	if _, err := compare(t.Context(), "test", 3, Load{Conns: 1, Duration: time.Millisecond}, []*Target{wrong}); err == nil || !strings.Contains(err.Error(), "status 500, want 204") {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	good := served(t, func(http.ResponseWriter, *http.Request) {}, get("/", 200))
	if _, err := compare(ctx, "test", 3, Load{Conns: 1, Duration: time.Millisecond}, []*Target{good}); err == nil {
		t.Error("it went on after the end")
	}
}

func TestTailRatio(t *testing.T) {
	of := func(p99s ...float64) *Measured {
		m := &Measured{Name: "m"}
		for _, p := range p99s {
			m.Rounds = append(m.Rounds, Round{P99: p})
			m.Latency.P99 = max(m.Latency.P99, p)
		}
		return m
	}
	if got := tailRatio(of(300, 100), of(100, 150)); got != (Ratio{Value: 2}) {
		t.Errorf("got %+v, want 2", got)
	}
	if got := tailRatio(of(300), of(100, 210)); !strings.HasPrefix(got.Refused, "noisy") {
		t.Errorf("got %+v, want it refused", got)
	}
	if got := tailRatio(broken(of(300), "x"), of(100)); !strings.HasPrefix(got.Refused, "failed") {
		t.Errorf("got %+v, want it refused", got)
	}
}

func TestStarved(t *testing.T) {
	if got := starved(0.78); got != "" {
		t.Errorf("got %q, but it had a core for nearly all of the time", got)
	}
	if got, want := starved(0.5), "noisy: the thread had a core for 50 % of the time"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestParseStat(t *testing.T) {
	const line = "42 (a (b) c) S 7 42 42 0 -1 4194304 100 0 0 0 11 22 33 44 20 0 8 0 100 0 0"
	if pid, parent, ticks, ok := parseStat(line); !ok || pid != 42 || parent != 7 || ticks != 110 {
		t.Errorf("got %d, %d, %d, %v", pid, parent, ticks, ok)
	}
	for _, bad := range []string{"", "42", "x (y) S 1", "42 (y", "42 (y) S 1 2 3 4 5 6 7 8 9 10 a b c d"} {
		if _, _, _, ok := parseStat(bad); ok {
			t.Errorf("%q was read", bad)
		}
	}
}
