package node

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node/outbound"
	"github.com/revocast/revocast/projection"
)

// Deliveries: endpoints that apps chose are told of events, each of all it wants
// to hear, in the order of the log, at least once. Of the sessions of a region,
// one node of that region tells at a time (deliverylease.go); how far each
// endpoint is stands in CONFIG (deliveryprogress.go), so that another node goes
// on from there. DESIGN.md says what is promised.

// endpointKind is a kind of endpoints: those that settings of one type describe.
type endpointKind struct {
	// typ is the type of the settings. It has no "-".
	typ string
	// open reads one. An error is logged, and nothing is delivered until the setting
	// changes.
	open func(n *Node, snap *projection.Snapshot, held *events.Setting) (endpoint, error)
}

// endpoint is a receiver of events as its setting has it. It is immutable.
type endpoint interface {
	// types are those of the events it is to hear of; nil: all.
	types() map[string]bool
	// requests returns what tells of the event; nothing, if the endpoint is not to
	// hear of this one after all. It may be called several times for one event, and
	// each time that is a new attempt: all requests are sent, one after the other,
	// until one fails for another reason than what it says. An error counts as a failed
	// attempt.
	requests(e *feedEvent) ([]*http.Request, error)
	// judge says what an answer means; usually it is judgeAnswer.
	judge(a *outbound.Answer) attempted
}

// endpointKinds returns the kinds there are.
func endpointKinds() []endpointKind {
	return []endpointKind{
		{webhookType, openWebhook},
		{logoutClientType, openLogoutClient},
		{ssfStreamType, openSSFStream},
	}
}

// endpointID names an endpoint: the app, the type and the name of its setting.
type endpointID struct{ app, typ, name string }

// work is the name of what is noted of the endpoint.
func (id endpointID) work() string { return id.typ + "-" + id.name }

// deliverySetting is the member "delivery" of the value of each endpoint's setting:
// what the one who delivers is told.
type deliverySetting struct {
	// Born tells the endpoint from an earlier one of the same name.
	Born string `json:"born"`
	// Off: nothing is delivered; the place is kept.
	Off bool `json:"off,omitempty"`
	// BornAt is when it was made (unix ms).
	BornAt int64 `json:"born_at"`
	// Start is from where on events are delivered, by region: the position when the
	// endpoint was made, or "" where that was not known; what the log took a minute
	// before BornAt and later is delivered there. A region that is not in it is younger
	// than the endpoint, which hears all of it.
	Start map[string]string `json:"start"`
	// Turn counts how often delivering was begun anew: an endpoint that was paused
	// or disabled in an earlier turn is not any more.
	Turn uint64 `json:"turn,omitempty"`
	// Replay says by region which events are delivered again.
	Replay map[string]replay `json:"replay,omitempty"`
}

// replay is what is delivered again: what comes after From. It is begun by who has
// not begun the turn yet in which it was asked for, whatever was asked for since.
type replay struct {
	From string `json:"from"`
	Turn uint64 `json:"turn"`
}

// again has the events of the regions delivered again from those places on.
func (d *deliverySetting) again(from map[string]string) {
	d.Turn++
	all := maps.Clone(d.Replay)
	if all == nil {
		all = map[string]replay{}
	}
	for region, at := range from {
		all[region] = replay{at, d.Turn}
	}
	d.Replay = all
}

// deliveryOf reads it from the value of a setting.
func deliveryOf(value json.RawMessage) (deliverySetting, error) {
	var v struct {
		Delivery *deliverySetting `json:"delivery"`
	}
	if err := json.Unmarshal(value, &v); err != nil || v.Delivery == nil {
		return deliverySetting{}, fmt.Errorf("read delivery of a setting: none there, or %w", err)
	}
	return *v.Delivery, nil
}

// newDelivery returns the part of a new endpoint's setting: it hears what comes
// from now on.
func (n *Node) newDelivery(snap *projection.Snapshot) deliverySetting {
	d := deliverySetting{Born: events.NewIncarnation().String(), BornAt: n.wall(), Start: map[string]string{n.home.region: ""}}
	for r := range snap.Regions() {
		d.Start[r.Region] = ""
	}
	for _, s := range n.streams() {
		if s != n.settings && s.lease.holds(n.conf.Clock.Boot()) {
			d.Start[s.region] = s.position().String()
		}
	}
	return d
}

// endpointConf is an endpoint's setting as it was read.
type endpointConf struct {
	held     *events.Setting
	delivery deliverySetting
	to       endpoint // nil: the setting cannot be read
	// current ends when the setting is no longer this one, or the endpoint is no longer
	// this node's to tell. What is on its way then is waited for in the first case.
	current context.Context
	replace context.CancelFunc
}

// deliveries are what this node delivers.
type deliveries struct {
	lease deliveryLease
	// fresh and retrying bound how many requests are on their way: to endpoints that
	// took what they were told last, to others, and by hand. Those that hang cannot take
	// the place of those that answer, nor who asks for many that of who waits.
	fresh, retrying, byHand chan struct{}

	endpoints atomic.Int64 // how many there are to be told

	mu      sync.Mutex // guards workers
	workers map[endpointID]*worker
}

// Requests on their way at a time.
const (
	freshRequests    = 512
	retryingRequests = 128
	byHandRequests   = 32
)

func newDeliveries() deliveries {
	return deliveries{
		fresh: make(chan struct{}, freshRequests), retrying: make(chan struct{}, retryingRequests), byHand: make(chan struct{}, byHandRequests),
		workers: map[endpointID]*worker{},
	}
}

// delivers tells the endpoints of all apps of the events of this node's region while
// it is this node that does, until ctx ends.
func (n *Node) delivers(ctx context.Context) error {
	var running sync.WaitGroup
	tick := time.NewTicker(n.conf.Beat)
	defer tick.Stop()
	for round := 0; ; round++ {
		snap := n.catalog.Snapshot()
		wanted := n.endpoints(snap)
		var orphans []*events.Work
		if len(wanted) == 0 || round%orphanRounds == 0 {
			orphans = n.orphans(snap)
		}
		// Who takes the lease next must not tell what is on its way yet.
		holds := n.keepDelivery(ctx, len(wanted)+len(orphans)+n.deliveries.count().all > 0)
		n.deliveries.employ(ctx, n, snap, wanted, holds, &running)
		if holds {
			n.forget(ctx, snap, orphans)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			running.Wait() // they note how far they are
			n.releaseDelivery()
			return nil
		}
	}
}

// endpoints returns the settings of all endpoints that are to be told something.
// Of a suspended app they wait, and of a deleted one there are none.
func (n *Node) endpoints(snap *projection.Snapshot) map[endpointID]*events.Setting {
	all := map[endpointID]*events.Setting{}
	for _, k := range endpointKinds() {
		for held := range snap.SettingsOfType(k.typ) {
			if app, ok := snap.App(held.App); ok && app.State == events.AppActive {
				all[endpointID{held.App, k.typ, held.Name}] = held
			}
		}
	}
	return all
}

// employ has one worker for each endpoint while the node holds the lease, and none
// else.
func (d *deliveries) employ(ctx context.Context, n *Node, snap *projection.Snapshot, wanted map[endpointID]*events.Setting, holds bool, running *sync.WaitGroup) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for id, w := range d.workers {
		select {
		case <-w.done:
			delete(d.workers, id)
			continue
		default:
		}
		if _, ok := wanted[id]; !ok || !holds {
			w.dismiss()
		}
	}
	if !holds {
		return
	}
	d.endpoints.Store(int64(len(wanted)))
	for id, held := range wanted {
		w, ok := d.workers[id]
		switch {
		case ok && w.dismissed: // another follows once it has noted how far it is
		case ok && w.conf.Load().held == held:
		case ok:
			w.conf.Swap(n.openEndpoint(w.life, snap, id, held)).replace()
		default:
			w = &worker{n: n, id: id, done: make(chan struct{})}
			w.life, w.end = context.WithCancel(ctx)
			w.conf.Store(n.openEndpoint(w.life, snap, id, held))
			d.workers[id] = w
			running.Go(w.run)
		}
	}
}

// openEndpoint reads the setting.
func (n *Node) openEndpoint(life context.Context, snap *projection.Snapshot, id endpointID, held *events.Setting) *endpointConf {
	c := &endpointConf{held: held}
	c.current, c.replace = context.WithCancel(life)
	var err error
	if c.delivery, err = deliveryOf(held.Value); err == nil {
		for _, k := range endpointKinds() {
			if k.typ == id.typ {
				c.to, err = k.open(n, snap, held)
			}
		}
	}
	if err != nil {
		c.to = nil
		n.conf.Log.Error("endpoint cannot be read, and is told nothing", "app", id.app, "type", id.typ, "endpoint", id.name, "error", err)
	}
	return c
}

// left returns how much of the lease is left at the time now of Clock.Boot.
func (d *deliveries) left(now time.Duration) time.Duration {
	return time.Duration(d.lease.until.Load()) - now
}

// savePause is the least time between two writes of one endpoint's progress: all of
// them together write about a hundred in a second.
func (d *deliveries) savePause() time.Duration {
	return busySave * max(1, time.Duration(d.endpoints.Load()/100))
}

// employed says how the workers of a node fare.
type employed struct {
	all, halted int
	oldest      int64 // the log's time (unix ms) of the oldest event that waits; 0: none
}

func (d *deliveries) count() (e employed) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, w := range d.workers {
		e.all++
		if w.halted.Load() {
			e.halted++
		}
		if at := w.oldest.Load(); at != 0 && (e.oldest == 0 || at < e.oldest) {
			e.oldest = at
		}
	}
	return e
}
