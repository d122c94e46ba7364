package fleet_test

import (
	"context"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/revocast/revocast/deploy/fleet"
	"github.com/revocast/revocast/node/nodetest"
)

var alone = flag.Bool("alone", false, "run: nothing else runs on this machine")

var seedFlag = flag.Uint64("seed", 0, "decides what clients and faults do; 0: by chance")

var logsFlag = flag.Bool("logs", false, "print what the nodes logged also when a test passes")

// program builds the program, once.
var program = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "fleet")
	if err != nil {
		return "", err
	}
	bin := filepath.Join(dir, "revocast")
	if out, err := exec.Command("go", "build", "-o", bin, "github.com/revocast/revocast/cmd/revocast").CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return bin, nil
})

var built bool // program was called

func TestMain(m *testing.M) {
	flag.Parse()
	code := m.Run()
	if built {
		bin, _ := program()
		_ = os.RemoveAll(filepath.Dir(bin))
	}
	os.Exit(code)
}

func config(t testing.TB) fleet.Config {
	t.Helper()
	if !*alone {
		t.Skip("NOT TESTED without -alone: processes under faults keep their time-outs only on a machine that does nothing else; deploy/ci/check.sh gives it")
	}
	if underRace {
		t.Skip("NOT TESTED with -race: the processes are not built with it")
	}
	bin, err := program()
	if err != nil {
		t.Fatal(err)
	}
	built = true
	deploy, err := filepath.Abs(filepath.Join("..", "nats"))
	if err != nil {
		t.Fatal(err)
	}
	return fleet.Config{Program: bin, Deploy: deploy, Dir: t.TempDir()}
}

// patient is a context that ends before a test that hangs.
func patient(t testing.TB, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// region starts a region of three brokers and the number of nodes.
func region(t testing.TB, nodes int) *fleet.Fleet {
	t.Helper()
	return started(t, func(ctx context.Context, c fleet.Config) (*fleet.Fleet, error) {
		return fleet.StartRegion(ctx, c, nodes)
	})
}

func started(t testing.TB, start func(context.Context, fleet.Config) (*fleet.Fleet, error)) *fleet.Fleet {
	t.Helper()
	c := config(t)
	begun := time.Now()
	f, err := start(patient(t, time.Minute), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() || *logsFlag {
			for _, n := range f.Nodes {
				t.Logf("life %d of %s:\n%s", n.Life(), n.Name, n.Process().Log())
			}
		}
		f.Close()
	})
	t.Logf("%d brokers and %d nodes after %v", len(f.Brokers), len(f.Nodes), time.Since(begun).Round(time.Millisecond))
	return f
}

// newLoad returns clients with the seed of the run, which it prints.
func newLoad(t testing.TB, f *fleet.Fleet) *fleet.Load {
	t.Helper()
	seed := *seedFlag
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("seed %d; again: go test ./deploy/fleet -alone -run '^%s$' -seed %d -v", seed, t.Name(), seed)
	return fleet.NewLoad(f, seed)
}

// under runs the load while do runs, then heals the fleet, reads everything on
// every node, and judges the history.
func under(t *testing.T, l *fleet.Load, do func(ctx context.Context)) {
	t.Helper()
	before := goroutines(t, l.Fleet)
	ctx, stop := context.WithCancel(t.Context())
	var load sync.WaitGroup
	load.Go(func() { l.Run(ctx) })
	func() {
		defer load.Wait()
		defer stop()
		do(patient(t, 4*time.Minute))
	}()
	l.Fleet.Heal()
	l.Finish(t.Context())
	judge(t, l)
	for name, n := range goroutines(t, l.Fleet) {
		if was, ok := before[name]; ok && n > 2*was+100 {
			t.Errorf("%s has %d goroutines, it had %d", name, n, was)
		}
	}
	memory(t, l.Fleet)
}

// judge checks C1 to C7.
func judge(t *testing.T, l *fleet.Load) {
	t.Helper()
	ops := l.History.Ops()
	t.Logf("%d operations: %v", len(ops), fleet.Count(ops, "", 0, l.Now()))
	bad := nodetest.Check(ops, fleet.Lease)
	for _, v := range bad {
		t.Errorf("seed %d: %v", l.Seed, v)
	}
	if len(bad) > 0 {
		save(t, l)
	}
}

// save writes the history where it survives the test.
func save(t *testing.T, l *fleet.Load) {
	t.Helper()
	file, err := os.CreateTemp("", "history-*.jsonl")
	if err != nil {
		t.Error(err)
		return
	}
	defer file.Close()
	if _, err := l.History.WriteTo(file); err != nil {
		t.Error(err)
	}
	t.Logf("history: %s", file.Name())
}

// memoryBound is what a node may hold after some thousand sessions (C9).
const memoryBound = 256 << 20

func memory(t *testing.T, f *fleet.Fleet) {
	t.Helper()
	var most int64
	for _, n := range f.Nodes {
		held, err := n.Process().Memory()
		if err != nil {
			t.Logf("NOT TESTED on this system: memory of %s: %v", n.Name, err)
			return
		}
		most = max(most, held)
		if held > memoryBound {
			t.Errorf("%s holds %d MiB", n.Name, held>>20)
		}
	}
	t.Logf("memory of a node: at most %d MiB", most>>20)
}

var goroutinesLine = regexp.MustCompile(`(?m)^go_goroutines (\d+)`)

// goroutines returns how many each node has, by its metrics.
func goroutines(t testing.TB, f *fleet.Fleet) map[string]int {
	t.Helper()
	all := map[string]int{}
	for _, n := range f.Nodes {
		v, err := metric(t.Context(), n, goroutinesLine)
		if err != nil {
			t.Errorf("metrics of %s: %v", n.Name, err)
			continue
		}
		all[n.Name] = int(v)
	}
	return all
}

func metric(ctx context.Context, n *fleet.Node, line *regexp.Regexp) (float64, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, n.Metrics(), nil)
	if err != nil {
		return 0, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	var sum float64
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err
	}
	for _, m := range line.FindAllSubmatch(text, -1) {
		v, err := strconv.ParseFloat(string(m[1]), 64)
		if err != nil {
			return 0, err
		}
		sum += v
	}
	return sum, nil
}

// must ends the test on an error of the fleet itself.
func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// wait lets time pass.
func wait(t testing.TB, ctx context.Context, d time.Duration) {
	t.Helper()
	select {
	case <-time.After(d):
	case <-ctx.Done():
		t.Fatal("the test took too long")
	}
}

// until waits until the condition holds, and returns how long that took.
func until(t testing.TB, ctx context.Context, what string, limit time.Duration, holds func() bool) time.Duration {
	t.Helper()
	begun := time.Now()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		if time.Since(begun) > limit || ctx.Err() != nil {
			t.Fatalf("no %s within %v", what, time.Since(begun))
		}
		<-tick.C
	}
	return time.Since(begun)
}

// session makes a session on the node that the load leaves alone.
func session(t testing.TB, ctx context.Context, l *fleet.Load, n *fleet.Node) *fleet.Session {
	t.Helper()
	s, err := l.Keep(ctx, n)
	must(t, err)
	return s
}
