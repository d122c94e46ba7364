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
	"cmp"
	"context"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node"
)

// Lease is L of the nodes of a cluster unless its Config says another, Beat the
// time between heartbeats: as short as a node takes them, so that a run sees many
// leases.
const (
	Lease = 4 * time.Second
	Beat  = time.Second
)

// ClockRate is ρ: how far the rate of a node's clock is off at most.
const ClockRate = 1e-3

// regions are the names of regions, in the order in which a cluster gets them;
// CONFIG is in the first.
var regions = []string{"eu", "us", "ap"}

// homeNumber is the number of the first region's stream; those of the others
// follow.
const homeNumber = 2

// Config says what a cluster is made of.
type Config struct {
	// Regions is how many regions there are, each with a stream of its own that
	// all nodes follow: 1 to 3; 0 is 1. CONFIG is in the first.
	Regions int
	// Nodes is how many nodes each region has; 0 is 3, of several regions 2.
	Nodes int
	// Lease is L of all nodes, Beat the time between heartbeats; 0 is Lease and
	// Beat of this package.
	Lease, Beat time.Duration
	// Seed is where all that is random comes from.
	Seed uint64
	// Adjust, if not nil, may change what a life of node i is made of before it
	// is made: a rule that can be broken by clock, log or settings is broken here.
	Adjust func(i int, m *Member, c *node.Config)
	// Made, if not nil, is called with each node before it runs.
	Made func(n *node.Node)
}

func (c *Config) setDefaults() error {
	c.Regions = cmp.Or(c.Regions, 1)
	if c.Regions < 0 || c.Regions > len(regions) {
		return fmt.Errorf("a cluster of %d regions: want 1 to %d", c.Regions, len(regions))
	}
	if c.Nodes == 0 {
		if c.Nodes = 3; c.Regions > 1 {
			c.Nodes = 2
		}
	}
	c.Lease, c.Beat = cmp.Or(c.Lease, Lease), cmp.Or(c.Beat, Beat)
	return nil
}

// Cluster is nodes, the stream of each region, and CONFIG.
type Cluster struct {
	Members []*Member
	Mesh    *events.MemoryMesh

	conf    Config
	streams []*stream // of the regions; CONFIG comes last
	keys    *events.ClusterKeys
	access  node.Bootstrap
	begin   time.Time
}

// stream is a stream of a cluster and what the driver knows of it.
type stream struct {
	*events.Memory
	number uint8
	tail   tail
	leader leader
}

// New starts the nodes and returns when all are ready. Stop must be called, also
// after an error that comes with a cluster.
func New(ctx context.Context, conf Config) (*Cluster, error) {
	if err := conf.setDefaults(); err != nil {
		return nil, err
	}
	keys, err := events.NewClusterKeys(events.NewClusterKey())
	if err != nil {
		return nil, fmt.Errorf("make cluster keys: %w", err)
	}
	c := &Cluster{conf: conf, keys: keys, access: node.NewBootstrap("acme"), begin: time.Now(), Mesh: new(events.MemoryMesh)}
	log := &Clock{begin: c.begin}
	for i, region := range append(slices.Clone(regions[:conf.Regions]), events.ConfigRegion) {
		number := uint8(homeNumber + i)
		if region == events.ConfigRegion {
			number = 1
		}
		c.streams = append(c.streams, &stream{
			Memory: events.NewMemory(region, number, events.MemoryConfig{Clock: log}), number: number,
		})
	}
	if conf.Regions > 1 {
		if err := c.nameRegions(); err != nil {
			return nil, err
		}
	}
	for i := range conf.Regions * conf.Nodes {
		m := c.newMember(i)
		c.Members = append(c.Members, m)
		// Nodes of one beat at one moment would be ordered by the scheduler.
		time.Sleep(m.rnd.upTo(conf.Beat / 4))
		if err := m.Start(); err != nil {
			return c, err
		}
		if err := m.awaitReady(ctx); err != nil {
			return c, err
		}
		if i == 0 {
			if err := m.life.node.Bootstrap(ctx, c.access); err != nil {
				return c, fmt.Errorf("bootstrap: %w", err)
			}
		}
	}
	if conf.Regions > 1 {
		time.Sleep(2 * conf.Lease) // until each is fresh on all streams
	}
	return c, nil
}

// nameRegions gives the regions their numbers.
func (c *Cluster) nameRegions() error {
	for i, s := range c.streams[:c.conf.Regions] {
		msg, err := c.keys.Encode(events.ConfigRegion, &events.Region{Region: regions[i], Number: s.number, At: 1}, nil, 0)
		if err == nil {
			_, err = c.settings().Inject(msg)
		}
		if err != nil {
			return fmt.Errorf("name region %s: %w", regions[i], err)
		}
	}
	return nil
}

func (c *Cluster) newMember(i int) *Member {
	rnd := draw(c.conf.Seed, uint64(i))
	m := &Member{
		Name: fmt.Sprintf("n%d", i+1), Region: regions[i/c.conf.Nodes], cluster: c, index: i, rnd: rnd, cuts: map[string]int{},
		Clock: &Clock{
			begin: c.begin,
			drift: ClockRate * (2*rnd.Float64() - 1),
			skew:  rnd.upTo(10*time.Second) - 5*time.Second,
		},
	}
	if c.conf.Regions > 1 {
		m.Name = fmt.Sprintf("%s%d", m.Region, i%c.conf.Nodes+1)
	}
	return m
}

// settings returns CONFIG.
func (c *Cluster) settings() *stream { return c.streams[len(c.streams)-1] }

// homes returns the streams of the regions.
func (c *Cluster) homes() []*stream { return c.streams[:len(c.streams)-1] }

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
	Name   string
	Region string
	Clock  *Clock
	// Forgets lets the node's links go on after a break without a look at what
	// they delivered before, which breaks rule R8. It is set before a life.
	Forgets bool

	cluster *Cluster
	index   int
	rnd     *dice

	mu      sync.Mutex // guards what follows
	life    *life
	lives   int
	cuts    map[string]int // by stream, mesh among them: how many faults keep its link cut
	gate    chan struct{}  // while the node is paused: closed when it goes on
	weather Weather
}

// life is one process life of a node.
type life struct {
	number  int
	node    *node.Node
	handler http.Handler
	links   map[string]*events.MemoryLink // by stream
	mesh    *events.MeshLink
	end     func() error
}

// Start begins a new life of the node.
func (m *Member) Start() error {
	c := m.cluster
	m.mu.Lock()
	m.lives++
	l := &life{number: m.lives, links: map[string]*events.MemoryLink{}, mesh: c.Mesh.Link(c.keys)}
	m.mu.Unlock()
	for _, s := range c.streams {
		l.links[s.Region()] = s.Link()
	}
	l.mesh.SetGroup(m.Region)
	l.mesh.SetDeliver(m.hearing(l))
	home := l.links[m.Region]
	conf := node.Config{
		Name: m.Name, Version: "test", PublicURL: "https://id.example.com",
		Settings: l.links[events.ConfigRegion], Home: home, Archive: home, Keys: c.keys,
		Lease: c.conf.Lease, Beat: c.conf.Beat, Clock: m.Clock, Mesh: l.mesh,
	}
	if c.conf.Regions > 1 {
		conf.Open = func(_ context.Context, r *events.Region) (events.Log, error) { return l.links[r.Region], nil }
	}
	if c.conf.Adjust != nil {
		c.conf.Adjust(m.index, m, &conf)
	}
	for _, s := range c.streams {
		l.links[s.Region()].SetFaults(m.faults(l, s))
	}
	var err error
	if l.node, err = node.New(conf); err != nil {
		return fmt.Errorf("new node: %w", err)
	}
	if c.conf.Made != nil {
		c.conf.Made(l.node)
	}
	l.handler = l.node.Handler()
	m.run(l)
	return nil
}

// run begins the life, with what is cut at present.
func (m *Member) run(l *life) {
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	var err error
	running.Go(func() { err = l.node.Run(ctx) })
	l.end = func() error { cancel(); running.Wait(); return err }
	m.mu.Lock()
	defer m.mu.Unlock()
	m.life = l
	for name, n := range m.cuts {
		if n > 0 {
			l.cut(name)
		}
	}
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
	for _, name := range m.everything() {
		l.cut(name)
	}
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

// mesh names the link to the other nodes among those to streams.
const mesh = "mesh"

func (l *life) cut(name string) {
	if name == mesh {
		l.mesh.Cut()
		return
	}
	l.links[name].Cut()
}

func (l *life) heal(name string) {
	if name == mesh {
		l.mesh.Heal()
		return
	}
	l.links[name].Heal()
}

// everything names all links of the node.
func (m *Member) everything() []string {
	all := []string{mesh}
	for _, s := range m.cluster.streams {
		all = append(all, s.Region())
	}
	return all
}

// Cut separates the node from all streams and all nodes, until as many Heal as
// Cut.
func (m *Member) Cut() { m.cut(m.everything()...) }

// Heal ends one Cut.
func (m *Member) Heal() { m.heal(m.everything()...) }

func (m *Member) cut(names ...string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, name := range names {
		if m.cuts[name]++; m.life != nil {
			m.life.cut(name)
		}
	}
}

func (m *Member) heal(names ...string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, name := range names {
		if m.cuts[name]--; m.cuts[name] == 0 && m.life != nil {
			m.life.heal(name)
		}
	}
}

// Sever lets nothing pass between the region and all others until as many Join
// as Sever: neither entries of streams nor messages between nodes. CONFIG is in
// the first region.
func (c *Cluster) Sever(region string) {
	c.Mesh.Part(region)
	for _, m := range c.Members {
		m.cut(c.beyond(m, region)...)
	}
}

// Join ends one Sever.
func (c *Cluster) Join(region string) {
	c.Mesh.Join(region)
	for _, m := range c.Members {
		m.heal(c.beyond(m, region)...)
	}
}

// beyond names the streams that are on the other side of the region's border
// than the node.
func (c *Cluster) beyond(m *Member, region string) (names []string) {
	for _, s := range c.streams {
		where := s.Region()
		if where == events.ConfigRegion {
			where = regions[0]
		}
		if (where == region) != (m.Region == region) {
			names = append(names, s.Region())
		}
	}
	return names
}

// Break breaks the node's subscriptions for a moment.
func (m *Member) Break() {
	if l := m.current(); l != nil {
		for _, s := range m.cluster.streams {
			l.links[s.Region()].Break()
		}
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
