package fleet_test

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/revocast/revocast/deploy/fleet"
	"github.com/revocast/revocast/node/nodetest"
)

var (
	soakFlag  = flag.Duration("soak", 0, "how long TestSoak goes on")
	roundFlag = flag.Duration("round", 10*time.Minute, "how often TestSoak heals everything and judges")
	dirFlag   = flag.String("histories", "", "directory for the histories of TestSoak; empty: a new temporary one")
)

// simulations is how many seeds of the simulation follow each round.
const simulations = 50

// TestSoak harms a fleet at random for as long as it is told, from one seed. In
// turn with it the simulation of the nodes runs (L2), from the same.
func TestSoak(t *testing.T) {
	if *soakFlag == 0 {
		t.Skip("NOT TESTED without -soak DURATION; with hours, add -timeout 0")
	}
	f := region(t, 3)
	seed := newLoad(t, f).Seed
	dir := *dirFlag
	if dir == "" {
		made, err := os.MkdirTemp("", "soak")
		must(t, err)
		dir = made
	}
	simulation := filepath.Join(t.TempDir(), "node.test")
	if out, err := exec.Command("go", "test", "-c", "-o", simulation, "github.com/revocast/revocast/node").CombinedOutput(); err != nil {
		t.Fatalf("go test -c: %v\n%s", err, out)
	}
	t.Logf("histories: %s", dir)
	begun := time.Now()
	for round := uint64(1); time.Since(begun) < *soakFlag && !t.Failed(); round++ {
		l := fleet.NewLoad(f, seed+round)
		soakRound(t, l, min(*roundFlag, *soakFlag-time.Since(begun)))
		file := filepath.Join(dir, fmt.Sprintf("round-%d.jsonl", round))
		must(t, write(file, l.History))
		say("round %d: %v after the beginning: %v\n", round, time.Since(begun).Round(time.Second), fleet.Count(l.History.Ops(), "", 0, l.Now()))
		if bad := nodetest.Check(l.History.Ops(), fleet.Lease); len(bad) > 0 {
			for _, v := range bad {
				t.Errorf("seed %d, round %d: %v", seed, round, v)
			}
			t.Errorf("history: %s", file)
		}
		memory(t, f)
		out, err := exec.Command(simulation, "-test.run", "^TestSimulation$", "-test.v", "-seeds", fmt.Sprint(simulations),
			"-seed", fmt.Sprint((seed+round)*simulations), "-history", filepath.Join(dir, "simulation.jsonl")).CombinedOutput()
		say("%s\n", strings.TrimSpace(string(out)))
		if err != nil {
			t.Errorf("simulation: %v\n%s", err, out)
		}
	}
}

// say prints at once: who soaks for hours wants to see how it goes.
func say(format string, args ...any) {
	fmt.Fprintf(os.Stderr, time.Now().Format(time.TimeOnly)+" "+format, args...)
}

// soakRound is load and faults for a while, and then the final reading.
func soakRound(t *testing.T, l *fleet.Load, d time.Duration) {
	t.Helper()
	ctx, stop := context.WithTimeout(t.Context(), d)
	defer stop()
	var load sync.WaitGroup
	load.Go(func() { l.Run(ctx) })
	n := &fleet.Nemesis{Fleet: l.Fleet, Dice: rand.New(rand.NewPCG(l.Seed, 99)), Log: func(format string, args ...any) {
		say(format+"\n", args...)
	}}
	if err := n.Run(ctx); err != nil {
		t.Errorf("seed %d: %v", l.Seed, err)
	}
	load.Wait()
	l.Finish(t.Context())
}

func write(name string, h *nodetest.History) error {
	file, err := os.Create(name)
	if err != nil {
		return err
	}
	_, err = h.WriteTo(file)
	if closed := file.Close(); err == nil {
		err = closed
	}
	return err
}
