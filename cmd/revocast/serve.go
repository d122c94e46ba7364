package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"net/netip"
	"os"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node"
	"github.com/revocast/revocast/node/outbound"
)

// serveCmd runs a node, with its log in the same process or on NATS servers.
type serveCmd struct {
	natsFlags      `embed:""`
	NatsConfig     string   `name:"nats-config" placeholder:"FILE" help:"Run a NATS server in this process, as this file of nats-server says: a member of a cluster that holds the log (default: none)."`
	NatsUser       string   `name:"nats-user" placeholder:"NAME" help:"User of the --nats-config file that the node is (default: node, or nobody where the file has no users). To make streams (--init) it takes one that may."`
	Data           string   `placeholder:"DIR" default:"revocast-data" help:"Where everything lives: the log, the cluster key, the first API keys (default: ./revocast-data)."`
	Listen         string   `placeholder:"ADDR" default:"127.0.0.1:8080" help:"Address of the HTTP API (default: 127.0.0.1:8080)."`
	MetricsListen  string   `placeholder:"ADDR" default:"127.0.0.1:9464" help:"Address of /metrics and /debug/pprof; \"\" for none (default: 127.0.0.1:9464, or any free port when that is taken). Keep it away from the public."`
	VerifyListen   string   `placeholder:"ADDR" help:"Address, or unix:/path of a socket, that serves /v1/verify and nothing else, for less than half of the cost (default: none)."`
	PublicURL      string   `name:"public-url" placeholder:"URL" help:"Base URL under which clients reach this service: the issuer of JWTs (default: http:// and the address of --listen)."`
	Node           string   `placeholder:"NAME" help:"Name of this node, unique in the cluster (default: made from the host's name)."`
	Region         string   `placeholder:"NAME" help:"Region of this node (default: the one of the data directory; \"local\" in a new one)."`
	ClusterKeyFile string   `placeholder:"FILE" help:"File with the cluster key (default: cluster.key in the data directory). The key itself can be in REVOCAST_CLUSTER_KEY instead."`
	NatsListen     string   `name:"nats-listen" placeholder:"ADDR" help:"Address on which the embedded NATS server takes clients, who need no password (default: none)."`
	Join           string   `placeholder:"REGION" help:"Region that began the cluster, if it is not this node's own; its JetStream domain is called the same. With --init the node's region is added to that cluster (default: the node's own region began it)."`
	Replicas       int      `placeholder:"N" help:"Copies of a new log on NATS servers, 1 to 5 (default: 3 on a cluster of servers, else 1)."`
	MaxBytes       byteSize `placeholder:"SIZE" help:"Budget of a new log, such as 10GiB (default: half of the free space, at most 64GiB; 4GiB on NATS servers)."`
	Private        string   `enum:"memory,home,log" default:"memory" help:"Where the sealed private part of sessions (token, device, factors, claims, metadata) is kept: memory, on this node; home, on this node only for sessions of its own region; log, nowhere but in the log. What is not kept is read from the session's region when an answer needs it (default: memory)."`
	MemoryLimit    byteSize `placeholder:"SIZE" help:"Memory that the process may take, such as 2GiB; above 85 % of it no sessions are created (default: the least of GOMEMLIMIT, its cgroups and what the machine has)."`
	Init           bool     `help:"Begin a new cluster in the data directory if it holds none, although it is not empty. Implied when it is empty, but never with --nats or --nats-config: there it makes the streams, on the first node of a cluster or of a region only."`
	Dev            bool     `help:"Serve the demo of the browser module at /demo/, which logs in whoever asks, as anybody, in the app \"app\". For development: --listen must be a loopback address, and no proxy may stand before it."`
	logFlags       `embed:""`

	OutboundAllow []string      `placeholder:"PREFIX" help:"Networks, such as 10.1.0.0/16, that requests to addresses chosen by apps (keys of issuers, import sources, webhooks, log-out and Shared Signals receivers) may reach besides the public ones, on any port and without TLS (default: none)."`
	SnapshotEvery time.Duration `placeholder:"D" default:"5m" help:"Time between two snapshots of the sessions, from which a start goes on (default: 5m)."`
}

// Help is shown by "serve --help".
func (*serveCmd) Help() string {
	return `The first start begins a cluster: it makes the log, a cluster key, an app and its API key, prints them, and writes them to bootstrap.json in the data directory. Back up cluster.key: nothing in the log can be read without it.

Every flag is also an environment variable (--public-url is REVOCAST_PUBLIC_URL) and a line of the --config file ("public-url"). A flag beats the environment, which beats the file.

The file with the cluster keys is read again when it was changed, and at once on SIGHUP. SIGINT or SIGTERM stops the node in order; a second one stops it at once. What was acknowledged is on disk either way.`
}

// Run implements the command.
func (c *serveCmd) Run(e *env) error {
	s := &service{out: e, dir: dataAt(c.Data), log: c.logger(e)}
	if err := c.check(); err != nil {
		return err
	}
	name, err := c.nodeName()
	if err != nil {
		return err
	}
	allowed, err := prefixes(c.OutboundAllow)
	if err != nil {
		return &usageError{err}
	}
	limit := limitMemory(c.MemoryLimit, os.DirFS("/"))
	s.log.Debug("memory", "limit_bytes", limit.bytes, "from", limit.from)
	// Ports first: nothing is made on disk by a start that cannot succeed.
	if s.listener, err = listen("listen", c.Listen); err != nil {
		return err
	}
	defer s.listener.Close()
	if c.MetricsListen != "" {
		if s.metrics, err = listenMetrics(c.MetricsListen); err != nil {
			return err
		}
		defer s.metrics.Close()
	}
	if c.VerifyListen != "" {
		if s.verify, err = listenVerify(c.VerifyListen); err != nil {
			return err
		}
		defer s.verify.Close()
	}
	if c.NatsListen != "" {
		// The broker binds it again; this is for the one clear line.
		l, err := listen("nats-listen", c.NatsListen)
		if err != nil {
			return err
		}
		_ = l.Close()
	}
	s.store, err = openStore(e.ctx, storeConfig{
		dir: s.dir, region: c.Region, keyFile: c.ClusterKeyFile, create: true, init: c.Init,
		nats: c.natsFlags, file: c.NatsConfig, user: c.NatsUser, join: c.Join, replicas: c.Replicas, maxBytes: int64(c.MaxBytes), listen: c.NatsListen, log: s.log,
	})
	if err != nil && e.ctx.Err() != nil {
		s.log.Info("stopped before the log was open")
		return nil
	} else if err != nil {
		return err
	}
	// Last of all: until here the node may still append its farewell.
	defer s.store.Close()
	s.url = localURL(s.listener.Addr())
	if !c.embedded() && c.PublicURL == "" {
		s.log.Warn("--public-url is not given: the nodes of a cluster need one and the same, the issuer of its JWTs", "issuer", s.url)
	}
	if s.node, err = s.store.newNode(node.Config{
		Name: name, PublicURL: cmp.Or(c.PublicURL, s.url), Solo: c.NatsListen == "" && c.embedded(),
		SnapshotDir: s.dir.snapshotDir(), SnapshotEvery: c.SnapshotEvery,
		Private: c.Private, Memory: memoryReader(limit), Outbound: outbound.New(allowed...), Demo: c.demo(), Log: s.log,
	}); err != nil {
		return err
	}
	if s.dev = c.Dev; s.dev {
		s.log.Warn("development mode: whoever reaches this address is logged in as anybody", "address", s.url)
	}
	return s.run(e.ctx)
}

// prefixes reads the networks of --outbound-allow.
func prefixes(texts []string) (all []netip.Prefix, err error) {
	for _, text := range texts {
		p, err := netip.ParsePrefix(text)
		if err != nil || p != p.Masked() {
			return nil, fmt.Errorf("--outbound-allow %q: want a network, such as 10.1.0.0/16, or 10.1.2.3/32 for one address", text)
		}
		all = append(all, p)
	}
	return all, nil
}

// embedded reports whether the log is in the data directory.
func (c *serveCmd) embedded() bool { return c.Nats == "" && c.NatsConfig == "" }

// check refuses flags that do not go together.
func (c *serveCmd) check() error {
	if c.NatsConfig != "" && c.Nats+c.NatsListen+c.NatsCreds+c.NatsCA+c.NatsCert+c.NatsKey != "" {
		return &usageError{errors.New("--nats-config goes with none of --nats, --nats-listen, --nats-creds, --nats-ca, --nats-cert and --nats-key: the file says it all")}
	}
	if err := c.natsFlags.check(); err != nil {
		return err
	}
	switch {
	case c.NatsConfig == "" && c.NatsUser != "":
		return &usageError{errors.New("--nats-user needs --nats-config; with --nats the user stands in the URL")}
	case c.Nats != "" && c.NatsListen != "":
		return &usageError{errors.New("--nats and --nats-listen: give one; with --nats there is no embedded server to listen")}
	case c.embedded() && c.Join != "":
		return &usageError{errors.New("--join needs --nats or --nats-config: an embedded log is a cluster of its own")}
	case c.Join != "" && (!events.ValidName(c.Join) || c.Join == c.Region):
		return &usageError{fmt.Errorf("--join %q: want the name of another region", c.Join)}
	case c.Join != "" && c.Init && c.Region == "" && c.NatsConfig == "":
		return &usageError{errors.New("--join with --init adds a region: name it with --region")}
	case c.embedded() && c.Replicas != 0:
		return &usageError{errors.New("--replicas needs --nats or --nats-config: an embedded log is one copy")}
	case c.Dev && (!c.embedded() || !loopbackOnly(c.Listen)):
		return &usageError{fmt.Errorf("--dev with --listen %s: it lets anybody in, so it wants a loopback address, and a log of its own", c.Listen)}
	case c.SnapshotEvery < time.Second:
		return &usageError{fmt.Errorf("--snapshot-every %s: want at least 1s", c.SnapshotEvery)}
	case c.Replicas < 0 || c.Replicas > 5:
		return &usageError{fmt.Errorf("--replicas %d: want 1 to 5", c.Replicas)}
	}
	return nil
}

// loopbackOnly reports whether only this machine reaches a listener on the address.
func loopbackOnly(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	ip, bad := netip.ParseAddr(host)
	return err == nil && (host == "localhost" || bad == nil && ip.IsLoopback())
}

// demo is the app that the demo makes sessions in, empty without one.
func (c *serveCmd) demo() string {
	if c.Dev {
		return firstApp
	}
	return ""
}

// nodeName returns the node's name: the flag, or the host's name made to fit.
func (c *serveCmd) nodeName() (string, error) {
	if c.Node != "" {
		if !events.ValidName(c.Node) {
			return "", fmt.Errorf("node name %q: want [a-z0-9][a-z0-9_-]{0,63}", c.Node)
		}
		return c.Node, nil
	}
	host, err := os.Hostname()
	if err != nil {
		return "node", nil
	}
	return sanitiseName(host), nil
}

// sanitiseName returns a valid name that resembles text.
func sanitiseName(text string) string {
	name := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-' || r == '_' {
			return r
		}
		return '-'
	}, strings.ToLower(text))
	name = strings.Trim(name, "-_")
	name = strings.TrimRight(name[:min(len(name), 64)], "-_")
	return cmp.Or(name, "node")
}

// listen binds the address before anything else happens, so that a port that
// is taken is the first thing said.
func listen(flag, addr string) (net.Listener, error) {
	l, err := net.Listen("tcp", addr)
	if err == nil {
		return l, nil
	}
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Err != nil {
		err = op.Err
	}
	return nil, fmt.Errorf("cannot listen on %s (%w): stop what uses it, or give another address with --%s", addr, err, flag)
}

// defaultMetrics is the default of --metrics-listen.
const defaultMetrics = "127.0.0.1:9464"

// listenMetrics is listen for the metrics. A second node on one machine takes
// any free port for them unless it was told which.
func listenMetrics(addr string) (net.Listener, error) {
	l, err := listen("metrics-listen", addr)
	if err != nil && addr == defaultMetrics {
		return listen("metrics-listen", "127.0.0.1:0")
	}
	return l, err
}

// localURL returns a URL under which this machine reaches the address.
func localURL(addr net.Addr) string {
	a, ok := addr.(*net.TCPAddr)
	if !ok {
		return "http://" + addr.String()
	}
	if a.IP.IsUnspecified() {
		return fmt.Sprintf("http://localhost:%d", a.Port)
	}
	return "http://" + a.String()
}

// newNode returns a node on the store's streams.
func (s *store) newNode(c node.Config) (*node.Node, error) {
	c.Version = programVersion()
	c.Settings, c.Home, c.Archive, c.Keys = s.settings, s.home, s.archive, s.keys
	c.Durability, c.Denials = s.durability, &s.denials
	switch {
	case s.broker != nil:
		c.Disk = s.broker
	case s.server != nil:
		c.Disk, c.Open = s.server, s.openRegion
	default:
		c.Open = s.openRegion
	}
	if !c.Solo {
		c.Mesh = events.NewMesh(s.conn, s.keys)
	}
	n, err := node.New(c)
	if err != nil {
		return nil, err
	}
	n.Register(&logCollector{logs: []*events.JetStream{s.settings, s.home}})
	return n, nil
}

// service is a running node with its listeners.
type service struct {
	out      *env
	log      *slog.Logger
	dir      dataDir
	listener net.Listener
	metrics  net.Listener // nil: none
	verify   net.Listener // nil: none
	url      string       // under which this machine reaches the node
	dev      bool         // there is a demo
	store    *store
	node     *node.Node
}

// Limits of an HTTP connection.
const (
	readHeaderTimeout = 5 * time.Second
	readTimeout       = 10 * time.Second
	writeTimeout      = 30 * time.Second
	idleTimeout       = 90 * time.Second
	maxHeaderBytes    = 16 << 10
)

// run serves until ctx ends or a part fails, and then stops everything.
func (s *service) run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	// The node lives on after ctx, until stop has taken its leave of the log.
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	public := s.server(s.node.Handler())
	public.ReadTimeout, public.WriteTimeout = readTimeout, writeTimeout
	// Requests are answered from the start: 503 until the leases are held.
	servers := map[server]net.Listener{public: s.listener}
	if s.metrics != nil {
		servers[s.server(s.operations())] = s.metrics
	}
	if s.verify != nil {
		servers[s.node.VerifyServer(verifyLimits())] = s.verify
	}
	g.Go(func() error { return s.node.Run(life) })
	for server, l := range servers {
		g.Go(func() error {
			if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
				return fmt.Errorf("serve %s: %w", l.Addr(), err)
			}
			return nil
		})
	}
	if s.store.server != nil {
		g.Go(func() error { return watch(ctx, s.store.server, s.log) })
	}
	begun := make(chan struct{})
	g.Go(func() error {
		defer close(begun)
		return s.begin(ctx)
	})
	g.Go(func() error { return s.watchKeys(ctx, begun) })
	g.Go(func() error { return paceCollector(ctx, s.node.SessionBytes) })
	g.Go(func() error {
		<-ctx.Done()
		return s.stop(servers, end)
	})
	return g.Wait()
}

// server is what serves a listener.
type server interface {
	Serve(l net.Listener) error
	Shutdown(ctx context.Context) error
	Close() error
}

func (s *service) server(h http.Handler) *http.Server {
	return &http.Server{
		Handler: h, ReadHeaderTimeout: readHeaderTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeaderBytes,
		ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
}

// operations is what the metrics listener serves. Profiles run for as long as
// they were asked to, so it has no write timeout.
func (s *service) operations() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", s.node.Metrics())
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	return mux
}

// Bounds of the steps of stop.
const (
	leaveTimeout    = 3 * time.Second
	shutdownTimeout = 10 * time.Second
)

// stop ends the node in an order that has reasons. A second signal ends the
// process at any point of it, and nothing acknowledged is lost.
func (s *service) stop(servers map[server]net.Listener, end context.CancelFunc) error {
	s.log.Info("stopping")
	// 1. Stop answering and say farewell, in this order: who waits for a
	// receipt takes the farewell for "this node says nothing any more". Load
	// balancers see 503 from here on.
	ctx, cancel := context.WithTimeout(context.Background(), leaveTimeout)
	if err := s.node.Leave(ctx); err != nil {
		s.log.Warn("farewell was not written; receipts wait for this node's lease to end", "error", err)
	}
	cancel()
	// 2. Let requests under way end: their writes need the log and the follow
	// loop, which still run.
	ctx, cancel = context.WithTimeout(context.Background(), shutdownTimeout)
	defer cancel()
	for server := range servers {
		if err := server.Shutdown(ctx); err != nil {
			s.log.Warn("requests were cut off", "error", err)
			_ = server.Close() // what Shutdown could not wait for
		}
	}
	// 3. End following and heartbeats; run then returns, and its caller closes
	// the connection and the server under it.
	end()
	return nil
}
