// Package bench measures a node, and what it is held against, on one machine in
// one run: the machinery of "revocast bench".
//
// A node, the NATS server under it and bare handlers are processes of their own,
// started again from this program; the clients are this process. What is
// compared is measured in turns (round.go), CPU is that of the processes, and no
// ratio is printed of what failed or of a machine that was busy with something
// else. DESIGN.md says what each figure is.
package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"
)

// Config says what is measured, and how. All fields without a default are
// required.
type Config struct {
	Program Program
	Version string
	// Sessions are loaded before anything is measured.
	Sessions int
	// Only are the scenarios, of Scenarios; empty: all of them, or with a URL
	// those that need nothing but it.
	Only []string
	// Rounds, Duration and Conns are those of each comparison; Rate is requests
	// a second, 0: as fast as they are answered.
	Rounds   int
	Duration time.Duration
	Conns    int
	Rate     float64

	// Network and Addr are a node, or anything that answers as one, that runs
	// already; empty: a node is started. Tokens are its sessions' tokens and
	// JWTs, PID its process, 0 not known.
	Network, Addr string
	Tokens        []string
	PID           int

	// Growth are numbers of sessions and Nodes numbers of nodes for the growth
	// curve; with either nothing else is measured unless Only says so.
	Growth, Nodes []int
	// Peers is the program that runs what others use instead; empty: none.
	Peers string

	// Progress is told what is being done; it may be io.Discard.
	Progress io.Writer
}

// scenario is one part of a run.
type scenario struct {
	name string
	help string
	// url: it needs no more than a URL and tokens.
	url bool
	run func(*runner, context.Context) error
}

// scenarios are in the order in which they run: first those that only read, at
// last those that leave the node different.
var scenarios = []scenario{
	{"verify", "verify by token, GET", true, (*runner).verifyGet},
	{"post", "verify by token, POST of JSON", true, (*runner).verifyPost},
	{"jwt", "verify by JWT", true, (*runner).verifyJWT},
	{"garbage", "verify with as many garbage tokens mixed in", true, (*runner).garbage},
	{"nginx", "auth_request of nginx, where it is installed", false, (*runner).nginx},
	{"mint", "minting beside the bare signature, and over HTTP", false, (*runner).mint},
	{"create", "creates, each on disk before it is answered", false, (*runner).create},
	{"revoke", "from a revoke until every one of three nodes denies, under load", false, (*runner).revoke},
	{"lean", "verify on the listeners of --verify-listen", false, (*runner).lean},
	{"busy", "verify while 2,000 events/s are applied and snapshots are written", false, (*runner).busy},
	{"tail", "p99 during key rotation, a user-wide revoke, snapshots and a replay", false, (*runner).tail},
	{"memory", "memory of the process", false, (*runner).memory},
	{"start", "from the start of the process to the first right answer", false, (*runner).begin},
	{"inprocess", "the projection alone: lookup, memory, collector, snapshot", false, (*runner).inprocess},
	{"apply", "events applied a second, from memory and from the log", false, (*runner).apply},
}

// Scenarios returns the names of all scenarios, in the order in which they run.
func Scenarios() (names []string) {
	for _, s := range scenarios {
		names = append(names, s.name)
	}
	return names
}

// ScenarioHelp returns an indented line for each scenario.
func ScenarioHelp() string {
	var b strings.Builder
	for _, s := range scenarios {
		fmt.Fprintf(&b, "    %-10s %s\n", s.name, s.help)
	}
	return b.String()
}

// ErrConfig means that what was asked for makes no sense.
var ErrConfig = errors.New("cannot measure that")

// check refuses what makes no sense, in words of the command line.
func (c *Config) check() error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%w: "+format, append([]any{ErrConfig}, args...)...)
	}
	for _, name := range c.Only {
		i := slices.IndexFunc(scenarios, func(s scenario) bool { return s.name == name })
		switch {
		case i < 0:
			return bad("no scenario %q; there are %s", name, strings.Join(Scenarios(), ", "))
		case c.Addr != "" && !scenarios[i].url:
			return bad("scenario %s needs a node of its own, without --url", name)
		}
	}
	switch {
	case c.Sessions < 1:
		return bad("--sessions %d: want at least 1", c.Sessions)
	case c.Rounds < 1:
		return bad("--rounds %d: want at least 1", c.Rounds)
	case c.Duration <= 0:
		return bad("--duration %s: want more than 0", c.Duration)
	case c.Conns < 1:
		return bad("--conns %d: want at least 1", c.Conns)
	case c.Rate < 0:
		return bad("--rate %g: want 0 or more", c.Rate)
	case c.Rate > 0 && c.Rate*c.Duration.Seconds() < 1:
		return bad("--rate %g: no request is due in %s", c.Rate, c.Duration)
	case c.Addr != "" && len(c.Tokens) == 0:
		return bad("--url needs --tokens: a file with a token or a JWT on each line")
	case c.Addr == "" && len(c.Tokens) > 0:
		return bad("--tokens needs --url")
	case c.Addr == "" && c.PID != 0:
		return bad("--pid needs --url")
	case c.Addr != "" && c.Peers != "":
		return bad("--peers needs a node of its own, without --url")
	}
	return nil
}

// wants reports whether the scenario is part of the run.
func (c *Config) wants(s scenario) bool {
	switch {
	case len(c.Only) > 0:
		return slices.Contains(c.Only, s.name)
	case len(c.Growth)+len(c.Nodes) > 0 || c.Peers != "":
		return false
	}
	return c.Addr == "" || s.url
}

// runner is one run.
type runner struct {
	Config
	report *Report
	dir    string
	system *system // nil until it is needed
	// leanAddr is where the node serves verifies only while peers are measured;
	// empty: nowhere.
	leanAddr string
}

// Run measures. It returns what was measured also with an error.
func Run(ctx context.Context, c Config) (*Report, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	r := &runner{Config: c, report: &Report{
		Version: c.Version, Machine: machine(), Begun: time.Now(), Sessions: c.Sessions, Rounds: c.Rounds,
		Duration: c.Duration.String(), Conns: c.Conns, Rate: c.Rate,
	}}
	dir, err := os.MkdirTemp("", "revocast-bench-")
	if err != nil {
		return nil, fmt.Errorf("make a directory: %w", err)
	}
	r.dir = dir
	err = r.all(ctx)
	if r.system != nil {
		r.system.close()
	}
	if removed := os.RemoveAll(dir); err == nil {
		err = removed
	}
	return r.report, err
}

func (r *runner) all(ctx context.Context) error {
	for _, s := range scenarios {
		if !r.wants(s) {
			continue
		}
		r.say("%s: %s", s.name, s.help)
		if err := s.run(r, ctx); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	for _, part := range []func(context.Context) error{r.peers, r.grow, r.fleets} {
		if err := part(ctx); err != nil {
			return err
		}
	}
	return nil
}

// say tells what is being done.
func (r *runner) say(format string, args ...any) {
	fmt.Fprintf(r.Progress, format+"\n", args...)
}

// start returns the system that is measured, with its sessions.
func (r *runner) start(ctx context.Context) (*system, error) {
	if r.system != nil {
		return r.system, nil
	}
	r.say("starting a NATS server and a node, and loading %d sessions", r.Sessions)
	var err error
	if r.system, err = startSystem(ctx, r.Program, r.dir, r.Sessions); err != nil {
		return nil, err
	}
	r.say("written in %s, read by the node in %s", r.system.loadedIn.Round(time.Millisecond), r.system.readIn.Round(time.Millisecond))
	return r.system, nil
}

// load is how targets are asked.
func (r *runner) load() Load {
	return Load{Conns: r.Conns, Duration: r.Duration, Rate: r.Rate}
}
