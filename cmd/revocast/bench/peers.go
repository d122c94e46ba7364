package bench

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"
)

// DefaultPeers is the program of the peers in a checkout.
const DefaultPeers = "deploy/peers/run"

// listedPeer is a line of "PROGRAM list".
type listedPeer struct {
	Name      string `json:"name"`
	Available bool   `json:"available"`
	Why       string `json:"why"`
}

// runningPeer is the line that "PROGRAM run NAME" prints once it answers.
type runningPeer struct {
	Name            string  `json:"name"`
	URL             string  `json:"url"`
	PID             int     `json:"pid"`
	BackendPIDs     []int   `json:"backend_pids"`
	Credentials     string  `json:"credentials"`       // file, a header line each
	BytesPerSession float64 `json:"bytes_per_session"` // 0: not known
	Status          int     `json:"status"`            // the right answer
}

// peerBody is the size of a session as peers keep it: what Revocast keeps in a
// header of its own and in a private part of 225 bytes is in there as JSON.
const peerBody = 560

// peers measures each peer beside a bare handler and a node.
func (r *runner) peers(ctx context.Context) error {
	if r.Peers == "" {
		return nil
	}
	program := Program{Path: r.Peers, Name: r.Peers}
	all, err := listPeers(ctx, program)
	if err != nil {
		return fmt.Errorf("peers: %w", err)
	}
	if err := r.listenLean(ctx); err != nil {
		return err
	}
	for _, p := range all {
		switch {
		case p.Name == "bare": // there is one in each round
		case !p.Available:
			r.report.skip("peer "+p.Name, "%s", p.Why)
		default:
			r.say("peer: %s", p.Name)
			if err := r.peer(ctx, program, p.Name); err != nil {
				return fmt.Errorf("peer %s: %w", p.Name, err)
			}
		}
	}
	return nil
}

// listenLean lets the node have the listener for verifies only: peers come in
// their best configuration, and so does it.
func (r *runner) listenLean(ctx context.Context) error {
	if r.Addr != "" {
		return nil // another's node is as it is
	}
	s, err := r.start(ctx)
	if err != nil {
		return err
	}
	if r.leanAddr, err = freeAddr(); err != nil {
		return err
	}
	return s.restart(ctx, "--verify-listen", r.leanAddr)
}

func listPeers(ctx context.Context, p Program) (all []listedPeer, err error) {
	c, err := p.start("list")
	if err != nil {
		return nil, err
	}
	defer c.kill()
	select {
	case <-c.done:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if c.err != nil {
		return nil, fmt.Errorf("%s list: %w: %s", p.Path, c.err, c.log.tail())
	}
	dec := json.NewDecoder(strings.NewReader(c.out.String()))
	for dec.More() {
		var one listedPeer
		if err := dec.Decode(&one); err != nil {
			return nil, fmt.Errorf("%s list: %w", p.Path, err)
		}
		all = append(all, one)
	}
	return all, nil
}

// peer runs one of them and measures it.
func (r *runner) peer(ctx context.Context, program Program, name string) (err error) {
	c, err := program.start("run", name, "--sessions", strconv.Itoa(r.Sessions), "--body-bytes", strconv.Itoa(peerBody))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.finish()) }()
	starting, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if err := c.await(starting, func(out string) bool { return strings.Contains(out, "\n") }); err != nil {
		return err
	}
	var p runningPeer
	if err := json.Unmarshal([]byte(c.out.String()), &p); err != nil {
		return fmt.Errorf("read what it says: %w", err)
	}
	t, err := p.target()
	if err != nil {
		return err
	}
	return r.beside(ctx, t, p.BytesPerSession)
}

// finish lets the process end because its standard input has, as a peer does,
// and asks it to if it does not.
func (c *child) finish() error {
	_ = c.stdin.Close()
	select {
	case <-c.done:
		if c.err != nil {
			return fmt.Errorf("%s: %w: %s", strings.Join(c.cmd.Args, " "), c.err, c.log.tail())
		}
		return nil
	case <-time.After(time.Minute):
	}
	return c.end()
}

// target returns the peer under load of its credentials.
func (p *runningPeer) target() (*Target, error) {
	u, err := url.Parse(p.URL)
	if err != nil || u.Scheme != "http" || u.Port() == "" {
		return nil, fmt.Errorf("url %q: want http://host:port/path", p.URL)
	}
	raw, err := os.ReadFile(p.Credentials)
	if err != nil {
		return nil, fmt.Errorf("read credentials: %w", err)
	}
	t := &Target{
		Name: p.Name, Network: "tcp", Addr: net.JoinHostPort(u.Hostname(), u.Port()), Server: []int{p.PID}, Backend: p.BackendPIDs,
	}
	for s := bufio.NewScanner(bytes.NewReader(raw)); s.Scan(); {
		if line := strings.TrimSpace(s.Text()); line != "" {
			t.Requests = append(t.Requests, Request{
				fmt.Appendf(nil, "GET %s HTTP/1.1\r\nHost: %s\r\n%s\r\n\r\n", u.RequestURI(), t.Addr, line), p.Status,
			})
		}
	}
	if len(t.Requests) == 0 {
		return nil, fmt.Errorf("there are no credentials in %s", p.Credentials)
	}
	return t, nil
}

// beside measures a peer, a node and a bare handler in turns.
func (r *runner) beside(ctx context.Context, peer *Target, bytesEach float64) error {
	tokens, err := r.tokens(ctx)
	if err != nil {
		return err
	}
	own, err := r.verifyTarget(ctx, "revocast", getting(tokens))
	if err != nil {
		return err
	}
	bare, process, err := startBare(ctx, r.Program, own)
	defer process.kill()
	if err != nil {
		return err
	}
	all := []*Target{bare, peer, own}
	best := own
	if r.leanAddr != "" {
		lean := *own
		lean.Name, lean.Addr = "revocast-lean", r.leanAddr
		best = &lean
		all = append(all, best)
	}
	c, err := compare(ctx, "peer "+peer.Name, r.Rounds, r.load(), all)
	if err != nil {
		return err
	}
	r.report.Comparisons = append(r.report.Comparisons, c)
	for i, t := range all[2:] {
		id, what := "peer/"+peer.Name, "verify"
		if t != best {
			id, what = id+"/main", "verify on the main listener"
		}
		r.report.ratio(id+"/cpu", what+", CPU to that of "+peer.Name+" with what is behind it", ratio(c.Targets[2+i], c.Targets[1], c.Targets[0], allCPU))
		r.report.ratio(id+"/rps", what+", requests a second to those of "+peer.Name, ratio(c.Targets[2+i], c.Targets[1], c.Targets[0], rps))
	}
	if bytesEach == 0 {
		return nil
	}
	z, err := measureSize(ctx, r.Sessions, r.dir)
	if err != nil {
		return err
	}
	r.report.figure("peer/"+peer.Name+"/bytes", "memory of each session in "+peer.Name, bytesEach, "B")
	r.report.ratio("peer/"+peer.Name+"/memory", "memory of a session to that in "+peer.Name, Ratio{Value: z.Bytes / bytesEach})
	return nil
}
