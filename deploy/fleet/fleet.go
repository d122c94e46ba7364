package fleet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/events/eventstest"
)

// Lease is L, the default of the program, which no flag changes.
const Lease = 15 * time.Second

// Config says where things are. All fields are required.
type Config struct {
	// Program is the built cmd/revocast.
	Program string
	// Deploy is the directory deploy/nats.
	Deploy string
	// Dir is an empty directory for data and logs.
	Dir string
}

// Fleet is brokers and nodes as processes. The caller closes it.
type Fleet struct {
	Brokers []*Broker
	Nodes   []*Node
	// Backbone is the link between two regions; nil with one region.
	Backbone *Link
	// App and APIKey are those of the first app.
	App, APIKey string

	conf     Config
	links    []*Link
	running  sync.WaitGroup // links
	stop     context.CancelFunc
	ctx      context.Context // of the links
	operator *events.Conn
	conns    []*events.Conn // of followers
}

// users are those of accounts.conf, in capitals as in its variables.
var users = []string{"SYS", "NODE", "OPERATOR", "SUBSCRIBER", "BACKBONE", "ROUTE"}

func password(user string) string { return "pw-" + strings.ToLower(user) }

// passwords returns what the configuration files want of the environment.
func passwords() (env []string) {
	for _, u := range users {
		env = append(env, "NATS_"+u+"_PASSWORD="+password(u))
	}
	return env
}

func newFleet(c Config) *Fleet {
	f := &Fleet{conf: c}
	f.ctx, f.stop = context.WithCancel(context.Background())
	return f
}

// StartRegion starts one region, eu: three brokers, each with a copy of every
// stream (deploy/nats/region3), and the number of nodes. It returns when all
// are ready.
func StartRegion(ctx context.Context, c Config, nodes int) (*Fleet, error) {
	f := newFleet(c)
	err := f.startRegion(ctx, nodes)
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("start region: %w", err)
	}
	return f, nil
}

// noAdvert is the configuration of a server of region3 whose clients hear of no
// other address: else nodes would go around their links.
const noAdvert = `include '%s'
cluster {
  name: $NATS_REGION
  listen: $NATS_CLUSTER_LISTEN
  routes: $NATS_ROUTES
  authorization { user: route, password: $NATS_ROUTE_PASSWORD, timeout: 5 }
  no_advertise: true
}
`

func (f *Fleet) startRegion(ctx context.Context, nodes int) error {
	file := filepath.Join(f.conf.Dir, "server.conf")
	deployed, err := filepath.Rel(f.conf.Dir, filepath.Join(f.conf.Deploy, "region3", "server.conf"))
	if err != nil {
		return err
	}
	if err := os.WriteFile(file, fmt.Appendf(nil, noAdvert, deployed), 0o600); err != nil {
		return err
	}
	var routes []string
	for i := range 3 {
		b, err := f.newBroker(fmt.Sprintf("n%d", i+1), "eu", file)
		if err != nil {
			return err
		}
		cluster, err := eventstest.FreeAddr()
		if err != nil {
			return err
		}
		b.env = append(b.env, "NATS_NAME="+b.Name, "NATS_REGION=eu", "NATS_CLUSTER_LISTEN="+cluster)
		routes = append(routes, "nats://route:"+password("ROUTE")+"@"+cluster)
	}
	for _, b := range f.Brokers {
		b.env = append(b.env, "NATS_ROUTES=["+strings.Join(routes, ",")+"]")
		if err := b.Start(); err != nil {
			return err
		}
	}
	for i := range nodes {
		if _, err := f.newNode(fmt.Sprintf("node-%d", i+1), "eu", f.Brokers); err != nil {
			return err
		}
	}
	return f.begin(ctx)
}

// StartRegions starts two regions of one broker each (deploy/nats/two-regions):
// eu with one node, and us with two. It returns when all are ready.
func StartRegions(ctx context.Context, c Config) (*Fleet, error) {
	f := newFleet(c)
	err := f.startRegions(ctx)
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("start regions: %w", err)
	}
	return f, nil
}

func (f *Fleet) startRegions(ctx context.Context) error {
	leaf, err := eventstest.FreeAddr()
	if err != nil {
		return err
	}
	if f.Backbone, err = f.newLink(leaf); err != nil {
		return err
	}
	nodes := map[string][]string{"eu": {"eu-1"}, "us": {"us-1", "us-2"}}
	for _, region := range []string{"eu", "us"} {
		b, err := f.newBroker(region, region, filepath.Join(f.conf.Deploy, "two-regions", region+".conf"))
		if err != nil {
			return err
		}
		b.env = append(b.env, "NATS_LEAF_LISTEN="+leaf, "NATS_LEAF_URL=nats://backbone:"+password("BACKBONE")+"@"+f.Backbone.Addr())
		if err := b.Start(); err != nil {
			return err
		}
		for _, name := range nodes[region] {
			if _, err := f.newNode(name, region, []*Broker{b}); err != nil {
				return err
			}
		}
	}
	return f.begin(ctx)
}

// StartAlone starts one node with its log in the same process, and returns when
// it is ready.
func StartAlone(ctx context.Context, c Config) (*Fleet, error) {
	f := newFleet(c)
	_, err := f.newNode("alone", "eu", nil)
	if err == nil {
		err = f.begin(ctx)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("start a node alone: %w", err)
	}
	return f, nil
}

// begin makes the cluster with the first node of each region as the operator,
// and then starts all nodes with no more rights than they need.
func (f *Fleet) begin(ctx context.Context) error {
	begun := map[string]bool{}
	for _, n := range f.Nodes {
		if begun[n.Region] {
			continue
		}
		flags := []string{"--init"}
		if len(begun) > 0 {
			flags = append(flags, "--join", f.Nodes[0].Region)
		}
		begun[n.Region] = true
		if err := n.begin(ctx, flags); err != nil {
			return fmt.Errorf("begin region %s: %w", n.Region, err)
		}
	}
	var keys struct {
		App    string `json:"app"`
		APIKey string `json:"api_key"`
	}
	raw, err := os.ReadFile(filepath.Join(f.Nodes[0].data, "bootstrap.json"))
	if err == nil {
		err = json.Unmarshal(raw, &keys)
	}
	if err != nil {
		return fmt.Errorf("read the first keys: %w", err)
	}
	f.App, f.APIKey = keys.App, keys.APIKey
	for _, n := range f.Nodes {
		if err := n.Start(); err != nil {
			return err
		}
	}
	for _, n := range f.Nodes {
		if err := n.Ready(ctx); err != nil {
			return err
		}
	}
	return nil
}

// Close kills all processes and returns when everything has ended.
func (f *Fleet) Close() {
	if f.operator != nil {
		f.operator.Close()
	}
	for _, c := range f.conns {
		c.Close()
	}
	for _, n := range f.Nodes {
		n.Kill()
	}
	for _, b := range f.Brokers {
		b.Kill()
	}
	f.stop()
	f.running.Wait()
}

func (f *Fleet) newLink(target string) (*Link, error) {
	l, err := NewLink(target)
	if err != nil {
		return nil, err
	}
	f.links = append(f.links, l)
	f.running.Go(func() { _ = l.Run(f.ctx) }) // its end is that of the fleet
	return l, nil
}

// Heal ends the trouble of all links.
func (f *Fleet) Heal() {
	for _, l := range f.links {
		l.Heal()
	}
}

// Broker is one NATS server in its lives.
type Broker struct {
	Name, Region string
	Addr         string // for clients
	Store        string // its directory

	program, file string
	env           []string
	life
}

func (f *Fleet) newBroker(name, region, file string) (*Broker, error) {
	addr, err := eventstest.FreeAddr()
	if err != nil {
		return nil, err
	}
	b := &Broker{Name: name, Region: region, Addr: addr, Store: filepath.Join(f.conf.Dir, "nats-"+name), program: f.conf.Program, file: file}
	b.env = append(passwords(), "NATS_LISTEN="+addr, "NATS_STORE="+b.Store)
	f.Brokers = append(f.Brokers, b)
	return b, nil
}

// Start starts the server and returns once it answers.
func (b *Broker) Start() error {
	p, err := start(b.program, b.env, "broker", "--nats-config", b.file)
	if err != nil {
		return err
	}
	b.set(p)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := p.ready(ctx); err != nil {
		return fmt.Errorf("broker %s: %w", b.Name, err)
	}
	return nil
}

// Node is one node in its lives: the same name, data and addresses.
type Node struct {
	Name, Region string
	URL          string
	// Links are its ways to the brokers of its region, in their order; none
	// when its log is in its own process.
	Links []*Link

	program, data, addr string
	key                 string // file of the cluster key
	origin              string // the region that began the cluster
	life
}

func (f *Fleet) newNode(name, region string, brokers []*Broker) (*Node, error) {
	addr, err := eventstest.FreeAddr()
	if err != nil {
		return nil, err
	}
	n := &Node{
		Name: name, Region: region, URL: "http://" + addr, addr: addr, program: f.conf.Program,
		data: filepath.Join(f.conf.Dir, name), origin: region,
	}
	if len(f.Nodes) > 0 {
		n.key, n.origin = filepath.Join(f.Nodes[0].data, "cluster.key"), f.Nodes[0].Region
	}
	for _, b := range brokers {
		l, err := f.newLink(b.Addr)
		if err != nil {
			return nil, err
		}
		n.Links = append(n.Links, l)
	}
	f.Nodes = append(f.Nodes, n)
	return n, nil
}

// urls returns how the node reaches its servers as the user.
func (n *Node) urls(user string) string {
	var all []string
	for _, l := range n.Links {
		all = append(all, "nats://"+user+":"+password(user)+"@"+l.Addr())
	}
	return strings.Join(all, ",")
}

func (n *Node) spawn(user string, flags ...string) error {
	args := append([]string{
		"serve", "--data", n.data, "--listen", n.addr, "--metrics-listen", "127.0.0.1:0", "--node", n.Name,
		"--region", n.Region, "--public-url", "https://sessions.example",
	}, flags...)
	if n.key != "" {
		args = append(args, "--cluster-key-file", n.key)
	}
	var env []string
	if len(n.Links) > 0 {
		env = []string{"REVOCAST_NATS=" + n.urls(user)}
	}
	p, err := start(n.program, env, args...)
	if err != nil {
		return err
	}
	n.set(p)
	return nil
}

// begin makes the streams of the region, and leaves no process behind.
func (n *Node) begin(ctx context.Context, flags []string) error {
	// Brokers that have just started may still be electing who makes streams.
	for {
		err := n.spawn("operator", append(flags, "--max-bytes", "256MiB")...)
		if err != nil {
			return err
		}
		if err = n.Ready(ctx); err == nil {
			return n.End()
		}
		n.Kill()
		if ctx.Err() != nil {
			return err
		}
		if err := pause(ctx, time.Second); err != nil {
			return err
		}
	}
}

// Start begins the next life of the node. It answers 503 until it is ready.
func (n *Node) Start() error {
	if n.origin != n.Region {
		return n.spawn("node", "--join", n.origin)
	}
	return n.spawn("node")
}

// Ready waits until the node has said that it is ready.
func (n *Node) Ready(ctx context.Context) error {
	if err := n.Process().ready(ctx); err != nil {
		return fmt.Errorf("node %s: %w", n.Name, err)
	}
	return nil
}

// Restart is Start and Ready.
func (n *Node) Restart(ctx context.Context) error {
	if err := n.Start(); err != nil {
		return err
	}
	return n.Ready(ctx)
}

// Forget removes the snapshots of the node, which has ended: its next life knows
// what the log says, and nothing else.
func (n *Node) Forget() error {
	if err := os.RemoveAll(filepath.Join(n.data, "snapshots")); err != nil {
		return fmt.Errorf("forget snapshots: %w", err)
	}
	return nil
}

// Metrics is the URL of the metrics of the node's present life, once it is ready.
func (n *Node) Metrics() string { return n.Process().printed("metrics") }

// EachLink makes the same trouble on all links of the node.
func (n *Node) EachLink(w Way, t Trouble) {
	for _, l := range n.Links {
		l.Set(w, t)
	}
}

// Refuse breaks all links of the node, or lets it connect again.
func (n *Node) Refuse(refuses bool) {
	for _, l := range n.Links {
		l.Refuse(refuses)
	}
}

// life is which life of a program it is.
type life struct {
	mu      sync.Mutex // guards what follows
	process *Process
	number  int
}

func (l *life) set(p *Process) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.process = p
	l.number++
}

// Process returns the present or last life, nil before the first.
func (l *life) Process() *Process {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.process
}

// Life returns the number of the present or last life, from 1.
func (l *life) Life() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.number
}

// Kill is kill -9; without a life it does nothing.
func (l *life) Kill() {
	if p := l.Process(); p != nil {
		p.Kill()
	}
}

// End is SIGTERM, and waits for an orderly end.
func (l *life) End() error { return l.Process().End() }

// Broker returns the broker of the name.
func (f *Fleet) Broker(name string) (*Broker, error) {
	i := slices.IndexFunc(f.Brokers, func(b *Broker) bool { return b.Name == name })
	if i < 0 {
		return nil, errors.New("no broker " + name)
	}
	return f.Brokers[i], nil
}
