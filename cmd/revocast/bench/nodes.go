package bench

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node"
)

// Fleet is what a number of nodes on one log costs. The nodes are in this
// process, each with a connection of its own; the log is another process.
type Fleet struct {
	Nodes int `json:"nodes"`
	// Lag is from when a revocation was acknowledged until a node denies, of all
	// nodes and revocations; Last until the last of the nodes does.
	Lag  Quantiles `json:"lag"`
	Last Quantiles `json:"last"`
	// Beats are events a second that the stream stores while nothing happens:
	// the heartbeats of all nodes.
	Beats float64 `json:"heartbeats_per_s"`
	// Server and Process are the CPU of the server and of all nodes together
	// while nothing happens, in percent of one core; -1: not measured.
	Server  float64 `json:"server_cpu_percent"`
	Process float64 `json:"process_cpu_percent"`
}

const (
	// fleetSessions is how many sessions a fleet has: what nodes cost is
	// measured, not what sessions do.
	fleetSessions = 2000
	// fleetRevokes is how many of them are revoked with each number of nodes.
	fleetRevokes = 100
	// fleetQuiet is for how long a fleet is watched that does nothing.
	fleetQuiet = 3 * time.Second
)

// fleets measures each number of nodes.
func (r *runner) fleets(ctx context.Context) error {
	if len(r.Nodes) == 0 {
		return nil
	}
	dir := filepath.Join(r.dir, "fleet")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return fmt.Errorf("make a directory: %w", err)
	}
	s, err := startSystem(ctx, r.Program, dir, max(fleetSessions, fleetRevokes*(len(r.Nodes)+1)))
	defer s.close()
	if err == nil {
		err = s.node.end() // the nodes of this process are all there are
	}
	if err != nil {
		return err
	}
	for i, n := range r.Nodes {
		r.say("growth: %d nodes", n)
		f, err := s.fleet(ctx, n, i*fleetRevokes)
		if err != nil {
			return fmt.Errorf("growth: %d nodes: %w", n, err)
		}
		r.report.Nodes = append(r.report.Nodes, f)
	}
	return nil
}

// fleet measures n nodes, and revokes sessions from first on.
func (s *system) fleet(ctx context.Context, n, first int) (f Fleet, err error) {
	f.Nodes = n
	running, stop := context.WithCancel(ctx)
	g, running := errgroup.WithContext(running)
	var conns []*events.Conn
	defer func() {
		stop()
		if ended := g.Wait(); err == nil && ctx.Err() == nil {
			err = ended
		}
		for _, c := range conns {
			c.Close()
		}
	}()
	var nodes []*node.Node
	for i := range n {
		one, conn, err := s.embed(ctx, fmt.Sprintf("f%d-%d", n, i))
		if conn != nil {
			conns = append(conns, conn)
		}
		if err != nil {
			return f, err
		}
		g.Go(func() error { return one.Run(running) })
		nodes = append(nodes, one)
	}
	for _, one := range nodes {
		select {
		case <-one.Ready():
		case <-running.Done():
			return f, context.Cause(running)
		}
	}
	if err := s.quiet(ctx, &f); err != nil {
		return f, err
	}
	return f, s.fanOut(ctx, nodes, first, &f)
}

// embed makes a node on the system's log.
func (s *system) embed(ctx context.Context, name string) (*node.Node, *events.Conn, error) {
	conn, err := events.Connect(events.ConnectConfig{URL: s.broker.printed("address"), Name: name})
	if err != nil {
		return nil, nil, err
	}
	settings, err := events.Open(ctx, conn, events.StreamConfig{Region: events.ConfigRegion})
	if err != nil {
		return nil, conn, err
	}
	home, err := events.Open(ctx, conn, events.StreamConfig{Region: region})
	if err != nil {
		return nil, conn, err
	}
	archive, err := events.OpenArchive(ctx, conn, events.ArchiveConfig{Region: region, Cluster: home.Cluster()})
	if err != nil {
		return nil, conn, err
	}
	n, err := node.New(node.Config{
		Name: name, Version: "bench", PublicURL: "https://" + host, Settings: settings, Home: home, Archive: archive,
		Keys: s.keys, Mesh: events.NewMesh(conn, s.keys),
	})
	return n, conn, err
}

// quiet measures what the nodes cost while nothing happens.
func (s *system) quiet(ctx context.Context, f *Fleet) error {
	before, err := s.log.Info(ctx)
	if err != nil {
		return err
	}
	server, process, begun := newMeter([]int{s.broker.pid()}, nil), newMeter([]int{os.Getpid()}, []int{s.broker.pid()}), time.Now()
	if err := sleep(ctx, fleetQuiet); err != nil {
		return err
	}
	after, err := s.log.Info(ctx)
	if err != nil {
		return err
	}
	took := time.Since(begun)
	f.Beats = float64(after.LastSeq-before.LastSeq) / took.Seconds()
	f.Server, f.Process = server.percent(took), process.percent(took)
	return nil
}

// percent returns the CPU in percent of one core; -1: it is not known.
func (m *meter) percent(took time.Duration) float64 {
	us := m.each(1)
	if us < 0 {
		return -1
	}
	return 100 * us / micros(took)
}

// fanOut revokes sessions one after the other, and asks all nodes in turns until
// each has denied it.
func (s *system) fanOut(ctx context.Context, nodes []*node.Node, first int, f *Fleet) error {
	var lag, last Histogram
	handlers := make([]http.Handler, len(nodes))
	for i, n := range nodes {
		handlers[i] = n.Handler()
	}
	for i := first; i < first+fleetRevokes; i++ {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, "/v1/verify", nil)
		if err != nil {
			return err
		}
		request.Header.Set("Authorization", "Bearer "+token(s.log.Number(), i).Reveal())
		for k, h := range handlers {
			if got, reason := ask(h, request); got != http.StatusNoContent {
				return fmt.Errorf("node %d: session %d: status %d (%s), want 204", k, i, got, reason)
			}
		}
		e, _ := s.session(i)
		st := e.(*events.State)
		err = s.append(ctx, s.log, &events.Revoke{
			App: st.App, User: st.User, SID: st.SID, Reason: "bench", By: "bench", At: time.Now().UnixMilli(), AbsoluteAt: st.AbsoluteAt,
		}, nil)
		if err != nil {
			return err
		}
		took, err := denials(handlers, request, time.Now())
		if err != nil {
			return err
		}
		for _, d := range took {
			lag.Add(d)
		}
		last.Add(slices.Max(took))
	}
	f.Lag, f.Last = quantiles(&lag), quantiles(&last)
	return nil
}

// denials returns how long after begun each of the nodes denied the session.
func denials(nodes []http.Handler, request *http.Request, begun time.Time) ([]time.Duration, error) {
	took := make([]time.Duration, len(nodes))
	for left := len(nodes); left > 0; {
		if time.Since(begun) > wireTimeout {
			return nil, fmt.Errorf("%d of %d nodes do not deny a revoked session after %s", left, len(nodes), wireTimeout)
		}
		for k, h := range nodes {
			if took[k] != 0 {
				continue
			}
			switch got, reason := ask(h, request); got {
			case http.StatusUnauthorized:
				took[k] = max(time.Since(begun), 1)
				left--
			case http.StatusNoContent:
			default:
				return nil, fmt.Errorf("node %d: status %d (%s), want 204 and then 401", k, got, reason)
			}
		}
		runtime.Gosched() // the nodes are in this process
	}
	return took, nil
}

// ask returns the status of the answer, and the reason that it gives.
func ask(h http.Handler, r *http.Request) (status int, reason string) {
	w := statusOnly{header: http.Header{}}
	h.ServeHTTP(&w, r)
	return w.status, w.header.Get("X-Session-Reason")
}

// statusOnly takes an answer of which only the status is wanted.
type statusOnly struct {
	header http.Header
	status int
}

func (w *statusOnly) Header() http.Header         { return w.header }
func (w *statusOnly) WriteHeader(status int)      { w.status = status }
func (w *statusOnly) Write(b []byte) (int, error) { return len(b), nil }

func (r *Report) writeNodes(w io.Writer) {
	if len(r.Nodes) > 0 {
		fmt.Fprint(w, "\nNODES\tREVOKED p50 us\tp99 us\tLAST NODE p50 us\tp99 us\tHEARTBEATS/S\tSERVER CPU %\tNODES CPU %\t\n")
	}
	for _, f := range r.Nodes {
		fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t\n", f.Nodes, number(f.Lag.P50), number(f.Lag.P99), number(f.Last.P50), number(f.Last.P99),
			number(f.Beats), number(f.Server), number(f.Process))
	}
}
