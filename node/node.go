// Package node is one node of Revocast: it follows the streams, holds a lease
// on each, answers "is this session good?" from memory, mints JWTs, and writes
// what its callers ask for.
//
// The order of every verify is clock, lease, lookup (verdict.go). A request
// never waits on the log for a session the projection knows, and the
// projection never waits on a request.
package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/singleflight"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node/outbound"
	"github.com/revocast/revocast/projection"
	"github.com/revocast/revocast/signer"
)

// Defaults of the lease protocol (DESIGN section 5).
const (
	// DefaultLease is L: how long a heartbeat seen again entitles to answer. It
	// exceeds a JetStream leader election (4 to 9 s); less would fence a whole
	// region at each crash of a leader.
	DefaultLease = 15 * time.Second
	// DefaultBeat is the time between heartbeats.
	DefaultBeat = time.Second
	// clockRate is ρ, how far the rate of a clock may be off.
	clockRate = 1e-3
	// waitSlack is added to W beside clock drift.
	waitSlack = 270 * time.Millisecond
	// maxClockSkew is how far the log's stamp on a node's own heartbeat may be
	// from its wall clock before the lease is no longer renewed.
	maxClockSkew = 30 * time.Second
)

// Config is what a node is made of. The streams must be open, and the caller
// closes what is under them after Run has returned.
type Config struct {
	// Name is unique among the nodes of the cluster and a valid name.
	Name string
	// Version is the program's version, for people.
	Version string
	// PublicURL is the base under which clients reach this service, without a
	// trailing slash: the issuer of JWTs, so all nodes must agree on it.
	PublicURL string

	// Settings is the stream CONFIG, Home that of the node's region.
	Settings, Home events.Log
	// Open opens the stream of another region, as soon as CONFIG names it; nil:
	// this node follows its own region only. After an error it is called again.
	Open func(ctx context.Context, r *events.Region) (events.Log, error)
	// Archive is the history of the region.
	Archive events.Archive
	// Keys authenticate what is read and seal what is written. They may be
	// replaced while the node runs; it chooses which of them seals.
	Keys *events.ClusterKeys

	// Mesh is how nodes confirm to one another what they have applied; nil: a
	// receipt waits until the leases of other nodes have ended.
	Mesh events.Mesh

	// Denials are what NATS servers deny this node, for people; nil: not known.
	Denials *events.Denials

	// Lease is L; 0 is DefaultLease. All nodes should agree on it: receipts wait
	// for the longest, and each node says that they differ. Who verifies by itself
	// (node/client) allows for 30 s: a node with a longer one may mint, for a session
	// that a log-out everywhere took, a JWT that is taken there.
	Lease time.Duration
	// Beat is the time between heartbeats; 0 is DefaultBeat. It must be well
	// below Lease.
	Beat time.Duration
	// Private says of which sessions the private part (token, device, factors,
	// claims, metadata), sealed, is kept in memory and in snapshots; empty is
	// PrivateMemory. What is not kept is read from the log whenever an answer needs
	// it, and a session's home out of reach is then 503 for such an answer. The
	// fewer nodes keep it, the fewer can repair a state that somebody overwrote.
	Private string
	// Solo says that no other process can reach the log, so what this node
	// applied, every node applied.
	Solo bool
	// Durability says what an acknowledgement of the log is worth: "fsync",
	// "interval" or "unverified"; nil: always "unverified".
	Durability func() string
	// Disk is the store under an embedded log; nil when the log is elsewhere.
	Disk Disk

	// SnapshotDir is where snapshots of the sessions are kept, so that a start
	// need not read the whole log; empty: there are none. It is this node's
	// alone. SnapshotEvery is the time between two; 0: 5 minutes. The last one
	// is written when Run ends.
	SnapshotDir   string
	SnapshotEvery time.Duration

	// Memory returns how much of the process's memory no collection of garbage
	// gives back, and how much memory the process may take, in bytes; 0 or nil:
	// that is not known, and creates are never refused for it. It is called ten
	// times a second, from one goroutine.
	Memory func() (used, limit uint64)

	// Outbound makes the requests to addresses that apps chose; nil: an
	// outbound.Client, which reaches public ones only.
	Outbound Outbound

	// Demo is the app in which the demo of the module for browsers, at /demo/, makes
	// sessions for whoever asks; empty: there is no demo. With it, whoever reaches
	// the node is logged in as anybody: it is for development, on a machine of one's
	// own. PublicURL must then be http, on a loopback address.
	Demo string

	// Mute: this node tells no endpoint of events. That of a region that has no other
	// node waits.
	Mute bool

	// Clock is where time comes from; nil: events.SystemClock.
	Clock events.Clock
	// Log receives what happens at the edge of the node; nil discards it.
	Log *slog.Logger
}

// Disk is the store under an embedded log. After a write error a stream stays
// dead until its server restarts, even when there is space again.
type Disk interface {
	// Check returns why the log takes no writes, nil while it takes them. It
	// is cheap, and learns of a failure from a write that failed.
	Check() error
	// Probe reports whether n bytes can be written durably.
	Probe(n int64) error
	// Restart restarts the log's server on the same store. Clients reconnect
	// by themselves.
	Restart(ctx context.Context) error
}

// Outbound is what [outbound.Client] is. Do MUST judge the address at the moment
// it dials it, MUST NOT follow redirects, and MUST NOT put the URL, which may be
// secret, into its errors.
type Outbound interface {
	// Check says whether text may be the URL of a request at all.
	Check(text string) error
	// Do sends the request and reads the answer, of at most limit bytes. With the error
	// about one that is longer it may return the answer without its body.
	Do(ctx context.Context, r *http.Request, limit int64) (*outbound.Answer, error)
}

// Node is one node. New makes it, Run lives its life.
type Node struct {
	conf        Config
	issuer      string
	origin      string // of issuer, as browsers write it
	incarnation events.Incarnation

	// projected is replaced as a whole by a node that joins, before it follows a
	// stream: until then nobody is answered from what is found in either.
	projected atomic.Pointer[projection.Map]
	catalog   *projection.Settings
	// loaded is what the snapshot that the node began from says of each stream,
	// nil without one. It is set before the streams are followed.
	loaded map[uint8]projection.SnapshotStream
	// outdated: that snapshot is older than any marker can be.
	outdated bool
	// snapshots is nil without a directory for them.
	snapshots *snapshots
	settings  *stream // CONFIG
	home      *stream // of the node's region
	// followed are all streams, CONFIG and home first; replaced as a whole by
	// join, under joining.
	followed atomic.Pointer[[]*stream]
	met      chan struct{} // 1 deep: CONFIG names a region that may be new
	joining  sync.Mutex    // guards left, and replacing followed
	left     bool          // the node is leaving, or cloned: no stream is followed any more that was not
	isCloned atomic.Bool   // another process has this incarnation
	asks     pace          // of questions to the logs, of all streams together

	rings    atomic.Pointer[map[string]*signer.Ring] // by app; replaced as a whole by the applier of CONFIG
	minted   signer.MintCache
	verified signer.VerifyCache
	touches  touches
	proofs   proofs // of possession, that were used
	limits   limits
	expiries expiries
	statuses statusLists
	creates  singleflight.Group // creates of a sid that is known before: under an Idempotency-Key
	creating turns              // creates of sessions of foreign tokens
	storing  turns              // writes of stored sessions
	// importing holds one for each chunk of rows that is being imported, claims the
	// keys of those rows.
	importing chan struct{}
	claimed   keyClaims
	lazy      lazyImports
	reuses    singleflight.Group // sessions whose replaced token was shown, by sid
	// idleHeld is since when (unix ms) touches could not be written for lack of
	// space, 0 while they can: nobody is idle-expired since then.
	idleHeld atomic.Int64
	logDead  atomic.Bool // the embedded log takes no writes: requests need not wait to learn it
	metrics  *metrics
	refusals refusals
	memory   memory

	feed        feed
	ssfKeys     ssfKeys
	ssfHeard    ssfHeard
	deliveries  deliveries
	feeds       feeds
	recent      recent
	jwtLives    jwtLives
	policies    policies
	issuerKeys  issuerKeys
	reseal      resealing
	clientFeeds clientFeeds
	// sealNext is the cluster key that is to seal, once heartbeats have listed it
	// first; nil: none but the one that seals.
	sealNext atomic.Pointer[string]
	faults   faults

	// booted is the wall clock (unix ms) at Clock.Boot 0, as it was when agreed was
	// last set; 0 before.
	booted atomic.Int64
	agreed atomic.Int64 // newest stamp (unix ms) of an own heartbeat that fitted the wall clock

	openErrors sync.Map // region to why its stream could not be opened at last, an error

	ready chan struct{} // closed once the leases on CONFIG and home are held
}

// New checks the configuration and returns a node that has not begun to follow
// its streams.
func New(c Config) (*Node, error) {
	if !events.ValidName(c.Name) {
		return nil, fmt.Errorf("node name %q: want [a-z0-9][a-z0-9_-]{0,63}", c.Name)
	}
	if c.Settings == nil || c.Home == nil || c.Archive == nil || c.Keys == nil {
		return nil, errors.New("node needs its streams, its archive and cluster keys")
	}
	base, err := url.Parse(c.PublicURL)
	if err != nil || base.Host == "" || (base.Scheme != "http" && base.Scheme != "https") || base.RawQuery != "" || base.Fragment != "" {
		return nil, fmt.Errorf("public url %q: want http(s)://host[:port][/path]", c.PublicURL)
	}
	if c.Demo != "" && (base.Scheme != "http" || !loopback(base.Hostname())) {
		return nil, fmt.Errorf("public url %q: the demo needs http on a loopback address, such as http://127.0.0.1:8080", c.PublicURL)
	}
	if c.Lease == 0 {
		c.Lease = DefaultLease
	}
	if c.Beat == 0 {
		c.Beat = DefaultBeat
	}
	if c.Beat > c.Lease/4 {
		return nil, fmt.Errorf("time between heartbeats %v is more than a quarter of the lease %v", c.Beat, c.Lease)
	}
	switch c.Private {
	case "":
		c.Private = PrivateMemory
	case PrivateMemory, PrivateHome, PrivateLog:
	default:
		return nil, fmt.Errorf("private parts %q: want %s, %s or %s", c.Private, PrivateMemory, PrivateHome, PrivateLog)
	}
	if c.Durability == nil {
		c.Durability = func() string { return "unverified" }
	}
	if c.Outbound == nil {
		c.Outbound = outbound.New()
	}
	if c.Clock == nil {
		c.Clock = events.SystemClock{}
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	n := &Node{
		conf:        c,
		issuer:      strings.TrimRight(c.PublicURL, "/"),
		origin:      originOf(c.PublicURL),
		incarnation: events.NewIncarnation(),
		catalog:     new(projection.Settings),
		ready:       make(chan struct{}),
		met:         make(chan struct{}, 1),
		asks:        pace{every: askPace},
		proofs:      newProofs(),
		statuses:    newStatusLists(),
		importing:   make(chan struct{}, importChunks),
		feed:        newFeed(),
		deliveries:  newDeliveries(),
		recent:      newRecent(),
		reseal:      resealing{want: make(chan struct{}, 1)},
	}
	n.rings.Store(&map[string]*signer.Ring{})
	n.projected.Store(&projection.Map{Lease: c.Lease})
	n.openSnapshots()
	n.settings = newStream(n, c.Settings, settingsFold{n})
	n.home = newStream(n, c.Home, sessionFold{n, c.Home.Number()})
	n.followed.Store(&[]*stream{n.settings, n.home})
	n.metrics = newMetrics(n)
	for _, s := range n.streams() {
		n.metrics.follow(s)
	}
	return n, nil
}

// Run follows the streams, keeps the leases, writes touches and repairs, until
// ctx ends. It returns when all it started has ended.
func (n *Node) Run(ctx context.Context) error {
	n.lookAtMemory()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return n.confirms(ctx) })
	n.borrow(ctx)
	if at := n.sessions().LogTime(n.home.number); !at.IsZero() {
		n.expiries.since = at.UnixMilli()
	}
	for _, s := range n.streams() {
		s.live(ctx, g)
	}
	g.Go(func() error { return n.followRegions(ctx, g) })
	g.Go(func() error { return n.awaitReady(ctx) })
	g.Go(func() error { return n.writeTouches(ctx) })
	g.Go(func() error { return n.sweep(ctx) })
	g.Go(func() error { return n.recount(ctx) })
	g.Go(func() error { return n.tellExpired(ctx) })
	g.Go(func() error { return n.revive(ctx) })
	g.Go(func() error { return n.keepSnapshots(ctx) })
	g.Go(func() error { return n.keepKeys(ctx) })
	g.Go(func() error { return n.watchMemory(ctx) })
	g.Go(func() error { return n.reseals(ctx) })
	if !n.conf.Mute {
		g.Go(func() error { return n.delivers(ctx) })
		g.Go(func() error { return n.tellSSFControls(ctx) })
	}
	g.Go(func() error { return n.spread(ctx) })
	err := g.Wait()
	n.saveSnapshot()
	if n.snapshots != nil {
		n.snapshots.loans.end()
	}
	return err
}

// live starts what a stream consists of.
func (s *stream) live(ctx context.Context, g *errgroup.Group) {
	g.Go(func() error { return s.follow(ctx) })
	g.Go(func() error { return s.beat(ctx) })
	g.Go(func() error { return s.repair(ctx) })
	g.Go(func() error { return s.watch(ctx) })
	g.Go(func() error { return s.settleDoubts(ctx) })
	g.Go(func() error { return s.seekVoucher(ctx) })
	if s != s.node.settings {
		g.Go(func() error { return s.deliver(ctx) })
		g.Go(func() error { return s.fillRecent(ctx) })
	}
}

// sessions returns what this node knows of sessions.
func (n *Node) sessions() *projection.Map { return n.projected.Load() }

// SessionBytes returns about how much memory sessions and tombstones take.
func (n *Node) SessionBytes() int { return n.sessions().Bytes() }

// Ready is closed once the node holds a lease on CONFIG and on its region's
// stream for the first time.
func (n *Node) Ready() <-chan struct{} { return n.ready }

func (n *Node) awaitReady(ctx context.Context) error {
	for _, s := range []*stream{n.settings, n.home} {
		select {
		case <-s.leased:
		case <-ctx.Done():
			return nil
		}
	}
	close(n.ready)
	return nil
}

// streams returns all streams that this node follows, CONFIG and home first. The
// caller must not change the slice.
func (n *Node) streams() []*stream { return *n.followed.Load() }

// stream returns the stream of the number, nil when this node does not follow it.
func (n *Node) stream(number uint8) *stream {
	for _, s := range n.streams() {
		if s.number == number {
			return s
		}
	}
	return nil
}

// wall returns the wall clock in unix milliseconds.
func (n *Node) wall() int64 { return n.conf.Clock.Wall().UnixMilli() }

// agree notes a stamp of the log that fits the wall clock.
func (n *Node) agree(stamp int64) {
	for {
		was := n.agreed.Load()
		if stamp <= was || n.agreed.CompareAndSwap(was, stamp) {
			return
		}
	}
}

// judged returns the time (unix ms) at which it is judged whether something has
// expired: the wall clock, but never before what it and the log once agreed on.
// So a clock that is set back revives nothing, not even until the next heartbeat
// shows it.
func (n *Node) judged() int64 { return n.judgedAt(n.wall()) }

func (n *Node) judgedAt(wall int64) int64 { return max(wall, n.agreed.Load()) }

// maxWait is W: how long after a revocation's acknowledgement no lease taken
// before it can still be held anywhere.
func (n *Node) maxWait() time.Duration {
	lease, now := n.conf.Lease, n.conf.Clock.Boot()
	for _, s := range n.streams() {
		lease = max(lease, s.members.longest(now))
	}
	return time.Duration(float64(lease)*(1+clockRate)/(1-clockRate)) + waitSlack
}

// sweep forgets what can no longer matter: a slice at a time, all of them in a
// minute.
func (n *Node) sweep(ctx context.Context) error {
	tick := time.NewTicker(time.Minute / 256)
	defer tick.Stop()
	for slice := uint8(0); ; slice++ {
		select {
		case <-tick.C:
			n.lookForEnded(slice)
			n.sessions().Sweep(slice, n.wall())
			if slice == 0 {
				n.forgetRecent()
			}
		case <-ctx.Done():
			return nil
		}
	}
}
