package main

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/alecthomas/kong"

	"github.com/revocast/revocast/cmd/revocast/bench"
)

// benchCmd measures a node.
type benchCmd struct {
	Sessions count         `env:"-" default:"100k" placeholder:"N" help:"Sessions to load before anything is measured, such as 100k or 1M (default: 100k)."`
	Only     []string      `env:"-" placeholder:"NAME,…" help:"What to measure (default: all of the list above)."`
	Rounds   int           `env:"-" default:"3" placeholder:"N" help:"Rounds of each comparison; figures are medians (default: 3)."`
	Duration time.Duration `env:"-" default:"3s" placeholder:"D" help:"How long each target is asked in each round (default: 3s)."`
	Conns    int           `env:"-" default:"64" placeholder:"N" help:"Connections (default: 64)."`
	Rate     float64       `env:"-" placeholder:"N" help:"Requests a second; what each took counts from when it was due (default: as many as are answered)."`
	URL      string        `env:"-" name:"url" placeholder:"URL" help:"A node that runs already, or anything that answers as one: http://host:port, or unix:PATH (default: a node is started)."`
	Tokens   string        `env:"-" placeholder:"FILE" help:"With --url: a file with the token or the JWT of a session on each line."`
	PID      int           `env:"-" name:"pid" placeholder:"N" help:"With --url: the process of the node, whose CPU is to be counted."`
	Gate     bool          `env:"-" help:"Hold what was measured against the targets, and exit with 1 if one is missed."`
	Growth   counts        `env:"-" placeholder:"N,…" help:"Measure the projection with these numbers of sessions, such as 10k,100k,1M,10M."`
	Nodes    counts        `env:"-" placeholder:"N,…" help:"Measure so many nodes on one log, such as 1,4,16,64."`
	Peers    peersFlag     `env:"-" placeholder:"PROGRAM" help:"Measure what others use instead, which this program starts (default, when no program is given: deploy/peers/run)."`
	JSON     string        `env:"-" name:"json" placeholder:"FILE" help:"Write everything to this file as JSON."`
	Picture  string        `env:"-" placeholder:"FILE" help:"Draw latency, and cost against the numbers of sessions and nodes, into this file: .svg or .html."`
}

// Help is shown by "bench --help".
func (*benchCmd) Help() string {
	return `Starts a NATS server and a node as processes of their own, in a temporary directory (below TMPDIR, which should be on a disk) and on free ports, loads sessions, and measures them beside a bare handler of net/http that gives the same answers. Targets take turns in each round. No ratio is printed when anything was not answered as it should be, or when the rounds of the bare handler differ by more than 30 %. CPU is that of the processes, and is measured on Linux only.

Without --only all of these are measured; with --growth, --nodes or --peers only what --only names:

` + bench.ScenarioHelp() + `
With --url those that need a token or a JWT and nothing else: verify, post, jwt, garbage.`
}

// Run implements the command.
func (c *benchCmd) Run(e *env) error {
	conf, err := c.config(e)
	if err != nil {
		return err
	}
	report, err := bench.Run(e.ctx, conf)
	if errors.Is(err, bench.ErrConfig) {
		return &usageError{err}
	}
	if report == nil {
		return err
	}
	var missed error
	if c.Gate && err == nil {
		missed = report.Judge()
	}
	err = errors.Join(err, report.WriteText(e.stdout))
	if c.JSON != "" {
		err = errors.Join(err, report.WriteJSON(c.JSON))
	}
	if c.Picture != "" {
		err = errors.Join(err, report.WritePicture(c.Picture))
	}
	return errors.Join(err, missed)
}

func (c *benchCmd) config(e *env) (bench.Config, error) {
	conf := bench.Config{
		Version: programVersion(), Sessions: int(c.Sessions), Only: c.Only, Rounds: c.Rounds, Duration: c.Duration,
		Conns: c.Conns, Rate: c.Rate, PID: c.PID, Growth: c.Growth, Nodes: c.Nodes, Peers: string(c.Peers), Progress: e.stderr,
	}
	path, err := os.Executable()
	if err != nil {
		return conf, fmt.Errorf("find this program: %w", err)
	}
	conf.Program = bench.Program{Path: path, Name: filepath.Base(os.Args[0])}
	if ext := filepath.Ext(c.Picture); c.Picture != "" && ext != ".svg" && ext != ".html" {
		return conf, &usageError{fmt.Errorf("--picture %q: want a name that ends in .svg or .html", c.Picture)}
	}
	if c.URL != "" {
		if conf.Network, conf.Addr, err = listenerOf(c.URL); err != nil {
			return conf, &usageError{err}
		}
	}
	if c.Tokens != "" {
		if conf.Tokens, err = readLines(c.Tokens); err != nil {
			return conf, err
		}
	}
	return conf, nil
}

// listenerOf returns where the URL leads.
func listenerOf(text string) (network, addr string, err error) {
	if path, ok := strings.CutPrefix(text, "unix:"); ok && path != "" {
		return "unix", path, nil
	}
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "http" || u.Hostname() == "" || u.Path != "" && u.Path != "/" {
		return "", "", fmt.Errorf("--url %q: want http://host:port or unix:PATH", text)
	}
	return "tcp", net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), "80")), nil
}

// readLines returns the lines of a file that are not empty.
func readLines(file string) (lines []string, err error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("read tokens: %w", err)
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if line := strings.TrimSpace(s.Text()); line != "" {
			lines = append(lines, line)
		}
	}
	return lines, nil
}

// count is a number, in flags as "100k", "1M" or "250000".
type count int

// UnmarshalText implements [encoding.TextUnmarshaler].
func (c *count) UnmarshalText(text []byte) error {
	digits, unit := string(text), 1
	for suffix, n := range map[string]int{"k": 1000, "M": 1_000_000} {
		if d, ok := strings.CutSuffix(digits, suffix); ok {
			digits, unit = d, n
			break
		}
	}
	n, err := strconv.Atoi(digits)
	if err != nil || n < 0 || n > 1_000_000_000/unit {
		return fmt.Errorf("number %q: want one such as 100k or 1M", text)
	}
	*c = count(n * unit)
	return nil
}

// benchBareCmd is a process of "bench".
type benchBareCmd struct{}

// Run implements the command.
func (*benchBareCmd) Run(e *env) error {
	// With the limits of a node's listener: who has none is not to be compared.
	return bench.ServeBare(e.ctx, e.stdin, e.stdout, &http.Server{
		ReadHeaderTimeout: readHeaderTimeout, ReadTimeout: readTimeout, WriteTimeout: writeTimeout,
		IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeaderBytes,
	})
}

// counts are several of them, joined by commas.
type counts []int

// UnmarshalText implements [encoding.TextUnmarshaler].
func (c *counts) UnmarshalText(text []byte) error {
	*c = nil
	for part := range strings.SplitSeq(string(text), ",") {
		var n count
		if err := n.UnmarshalText([]byte(part)); err != nil {
			return err
		}
		if n == 0 {
			return fmt.Errorf("number %q: want at least 1", part)
		}
		*c = append(*c, int(n))
	}
	return nil
}

// peersFlag is a program; the flag may stand alone.
type peersFlag string

// Decode implements [kong.MapperValue].
func (p *peersFlag) Decode(ctx *kong.DecodeContext) error {
	*p = bench.DefaultPeers
	next := ctx.Scan.Peek()
	text, ok := next.Value.(string)
	if !ok || next.IsEOL() || next.Type != kong.FlagValueToken && strings.HasPrefix(text, "-") {
		return nil
	}
	ctx.Scan.Pop()
	*p = peersFlag(text)
	return nil
}

var _ kong.HelpProvider = (*benchCmd)(nil)
