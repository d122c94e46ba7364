// Package nodetest runs the real code of several nodes in one process, on logs in
// memory and inside a testing/synctest bubble, breaks what can break around
// them, and judges what their callers saw.
//
// [Cluster] is nodes, streams and their faults; [Simulate] lets clients and
// faults drawn from a seed loose on one and returns the [History]; [Check] finds
// in a history what breaks a promise of DESIGN section 5. Nothing here knows
// the inside of a node: it is asked through its HTTP API, and harmed through
// its clock and its log.
//
// One seed is one schedule of requests and faults. What runs at the same
// moment of the bubble's clock is ordered by Go's scheduler, so a seed repeats
// a run nearly always, not always.
package nodetest

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node"
)

// Lease is L of all nodes of a cluster, Beat the time between heartbeats: as
// short as a node takes them, so that a run sees many leases.
const (
	Lease = 4 * time.Second
	Beat  = time.Second
)

// ClockRate is ρ: how far the rate of a node's clock is off at most.
const ClockRate = 1e-3

// Number and region of the nodes' home stream.
const (
	region     = "eu"
	homeNumber = 2
)

// Config says what a cluster is made of.
type Config struct {
	// Nodes is how many nodes there are; 0 is 3.
	Nodes int
	// Seed is where all that is random comes from.
	Seed uint64
	// Adjust, if not nil, may change what a life of node i is made of before it
	// is made: a rule that can be broken by clock, log or settings is broken here.
	Adjust func(i int, m *Member, c *node.Config)
	// Made, if not nil, is called with each node before it runs.
	Made func(n *node.Node)
}

// Cluster is nodes on one home stream and CONFIG.
type Cluster struct {
	Members  []*Member
	Home     *events.Memory
	Settings *events.Memory
	Mesh     *events.MemoryMesh

	conf   Config
	keys   *events.ClusterKeys
	access node.Bootstrap
	begin  time.Time
	tail   tail
}

// New starts the nodes and returns when all are ready. Stop must be called.
func New(ctx context.Context, conf Config) (*Cluster, error) {
	if conf.Nodes == 0 {
		conf.Nodes = 3
	}
	keys, err := events.NewClusterKeys(events.NewClusterKey())
	if err != nil {
		return nil, fmt.Errorf("make cluster keys: %w", err)
	}
	c := &Cluster{conf: conf, keys: keys, access: node.NewBootstrap("acme"), begin: time.Now()}
	log := &Clock{begin: c.begin}
	c.Home = events.NewMemory(region, homeNumber, events.MemoryConfig{Clock: log})
	c.Mesh = new(events.MemoryMesh)
	c.Settings = events.NewMemory(events.ConfigRegion, 1, events.MemoryConfig{Clock: log})
	for i := range conf.Nodes {
		rnd := draw(conf.Seed, uint64(i))
		m := &Member{
			Name: fmt.Sprintf("n%d", i+1), cluster: c, index: i, rnd: rnd,
			Clock: &Clock{
				begin: c.begin,
				drift: ClockRate * (2*rnd.Float64() - 1),
				skew:  time.Duration(rnd.Int64N(int64(10*time.Second))) - 5*time.Second,
			},
		}
		c.Members = append(c.Members, m)
		// Nodes of one beat at one moment would be ordered by the scheduler.
		time.Sleep(time.Duration(rnd.Int64N(int64(Beat / 4))))
		if err := m.Start(); err != nil {
			return nil, err
		}
		if err := m.awaitReady(ctx); err != nil {
			return nil, err
		}
		if i == 0 {
			if err := m.life.node.Bootstrap(ctx, c.access); err != nil {
				return nil, fmt.Errorf("bootstrap: %w", err)
			}
		}
	}
	return c, nil
}

// Stop ends all nodes and returns when they have ended.
func (c *Cluster) Stop() {
	for _, m := range c.Members {
		m.Kill()
	}
}

// now is the driver's clock: nanoseconds since the cluster began.
func (c *Cluster) now() int64 { return int64(time.Since(c.begin)) }

// Member is a node through all its lives.
type Member struct {
	Name  string
	Clock *Clock
	// Forgets lets the node's links go on after a break without a look at what
	// they delivered before, which breaks rule R8. It is set before a life.
	Forgets bool

	cluster *Cluster
	index   int
	rnd     *dice

	mu      sync.Mutex // guards what follows
	life    *life
	lives   int
	cuts    int           // how many faults keep its links cut
	gate    chan struct{} // while the node is paused: closed when it goes on
	weather Weather
}

// life is one process life of a node.
type life struct {
	number   int
	node     *node.Node
	handler  http.Handler
	home     *events.MemoryLink
	settings *events.MemoryLink
	mesh     *events.MeshLink
	end      func() error
}

// Start begins a new life of the node.
func (m *Member) Start() error {
	c := m.cluster
	m.mu.Lock()
	m.lives++
	number := m.lives
	m.mu.Unlock()
	l := &life{number: number, home: c.Home.Link(), settings: c.Settings.Link(), mesh: c.Mesh.Link(c.keys)}
	conf := node.Config{
		Name: m.Name, Version: "test", PublicURL: "https://id.example.com",
		Settings: l.settings, Home: l.home, Archive: l.home, Keys: c.keys,
		Lease: Lease, Beat: Beat, Clock: m.Clock, Mesh: l.mesh,
	}
	if c.conf.Adjust != nil {
		c.conf.Adjust(m.index, m, &conf)
	}
	l.home.SetFaults(m.faults(l, 2))
	l.settings.SetFaults(m.faults(l, 1))
	l.mesh.SetDeliver(m.hearing(l))
	var err error
	if l.node, err = node.New(conf); err != nil {
		return fmt.Errorf("new node: %w", err)
	}
	if c.conf.Made != nil {
		c.conf.Made(l.node)
	}
	l.handler = l.node.Handler()
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { err = l.node.Run(ctx) })
	l.end = func() error { cancel(); running.Wait(); return err }
	m.mu.Lock()
	defer m.mu.Unlock()
	m.life = l
	if m.cuts > 0 {
		l.home.Cut()
		l.settings.Cut()
		l.mesh.Cut()
	}
	return nil
}

// Kill ends the node's life without a word: nothing it still tries to write
// reaches a log.
func (m *Member) Kill() {
	m.mu.Lock()
	l := m.life
	m.life = nil
	m.mu.Unlock()
	if l == nil {
		return
	}
	l.home.Cut()
	l.settings.Cut()
	l.mesh.Cut()
	_ = l.end() // a node that was killed has nothing to say
}

// Leave ends the node's life with a farewell.
func (m *Member) Leave(ctx context.Context) {
	if l := m.current(); l != nil {
		_ = l.node.Leave(ctx) // without an answer, nobody hears the farewell
	}
	m.Kill()
}

// Node returns the node of the present life, nil while there is none.
func (m *Member) Node() *node.Node {
	if l := m.current(); l != nil {
		return l.node
	}
	return nil
}

func (m *Member) current() *life {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.life
}

func (m *Member) awaitReady(ctx context.Context) error {
	select {
	case <-m.Node().Ready():
		return nil
	case <-time.After(time.Minute):
		return fmt.Errorf("node %s is not ready after a minute", m.Name)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Cut separates the node from both streams, until as many Heal as Cut.
func (m *Member) Cut() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.cuts++; m.life != nil {
		m.life.home.Cut()
		m.life.settings.Cut()
		m.life.mesh.Cut()
	}
}

// Heal ends one Cut.
func (m *Member) Heal() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.cuts--; m.cuts == 0 && m.life != nil {
		m.life.home.Heal()
		m.life.settings.Heal()
		m.life.mesh.Heal()
	}
}

// Break breaks the node's subscriptions for a moment.
func (m *Member) Break() {
	if l := m.current(); l != nil {
		l.home.Break()
		l.settings.Break()
	}
}

// Pause stops the node as SIGSTOP or a suspended machine does: it neither
// receives nor sends, and requests to it wait. It returns false if it is paused.
func (m *Member) Pause() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.gate != nil {
		return false
	}
	m.gate = make(chan struct{})
	m.Clock.stop()
	return true
}

// Resume ends Pause: all that waited happens at once.
func (m *Member) Resume() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.gate != nil {
		m.Clock.start()
		close(m.gate)
		m.gate = nil
	}
}

// running returns once the node is not paused, or ctx ends.
func (m *Member) running(ctx context.Context) {
	for ctx.Err() == nil {
		m.mu.Lock()
		gate := m.gate
		m.mu.Unlock()
		if gate == nil {
			return
		}
		select {
		case <-gate:
		case <-ctx.Done():
		}
	}
}
