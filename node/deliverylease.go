package node

import (
	"context"
	"encoding/json"
	"errors"
	"sync/atomic"
	"time"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/projection"
)

// deliveryWork is the type of the work that says which node delivers the events of
// a region; its name is the region.
const deliveryWork = "delivery"

// deliveryLease is the right to deliver the events of this node's region. It is
// there so that two nodes do not tell the same twice; what keeps an endpoint from
// missing anything is the noted progress. But for until, the goroutine of delivers
// owns it.
//
// The holder's record in CONFIG is renewed by compare-and-set. It holds for L from
// when the renewal was sent, by the holder's clock. Whoever has seen the same record
// unchanged for W by its own clock may take its place: the renewal was sent before
// it was seen, so it is over by then. No two clocks are compared.
type deliveryLease struct {
	until atomic.Int64 // Clock.Boot in ns; 0: not held

	n    uint64                   // of the newest renewal
	sent map[uint64]time.Duration // when each was sent that may still stand in CONFIG

	// The record as it was last seen, and since when it was.
	seen  events.Position
	since time.Duration
}

// deliveryHolder is the value of the record.
type deliveryHolder struct {
	Incarnation events.Incarnation `json:"incarnation"`
	N           uint64             `json:"n"`
	// Released: the holder has stopped, and anybody may be the next.
	Released bool `json:"released,omitempty"`
}

// holds reports whether a request may be sent at the time now of Clock.Boot.
func (l *deliveryLease) holds(now time.Duration) bool { return int64(now) < l.until.Load() }

// keepDelivery renews or takes the lease if there is anything to deliver, and
// reports whether it is held. Who cannot hear of changes of CONFIG, or does not
// know all of the region's stream, leaves it to others.
func (n *Node) keepDelivery(ctx context.Context, wanted bool) bool {
	l := &n.deliveries.lease
	// One snapshot for all that follows: what was seen for so long is what is replaced.
	snap := n.catalog.Snapshot()
	l.look(n, snap)
	now := n.conf.Clock.Boot()
	if !n.settings.lease.holds(now) || !n.home.lease.holds(now) {
		return l.holds(now)
	}
	if wanted {
		if mine, free := l.standing(n, snap, now); free || mine && now >= l.renewAt(n.conf.Lease) {
			l.claim(ctx, n, snap, false)
		}
	} else if l.holds(now) {
		n.releaseDelivery()
	}
	return l.holds(n.conf.Clock.Boot())
}

// renewAt is when (Clock.Boot) the lease is to be renewed.
func (l *deliveryLease) renewAt(length time.Duration) time.Duration {
	return time.Duration(l.until.Load()) - length*2/3
}

// look notes what CONFIG says, and lengthens the lease by what of its own it finds
// there.
func (l *deliveryLease) look(n *Node, snap *projection.Snapshot) {
	record, seq := snap.Work("", deliveryWork, n.home.region)
	at := events.Position{Gen: snap.Gen, Seq: seq}
	if at != l.seen || record == nil {
		l.seen, l.since = at, n.conf.Clock.Boot()
	}
	h, ok := holderOf(record)
	if !ok || h.Incarnation != n.incarnation || h.Released {
		l.until.Store(0) // another took it over, or this node gave it up
		return
	}
	if sent, ok := l.sent[h.N]; ok && seq != 0 {
		l.until.Store(max(l.until.Load(), int64(sent+n.conf.Lease)))
	}
	for m := range l.sent {
		if m <= h.N {
			delete(l.sent, m)
		}
	}
}

func holderOf(record *events.Work) (h deliveryHolder, ok bool) {
	return h, record != nil && json.Unmarshal(record.Value, &h) == nil
}

// standing reports whether the lease is this node's, and whether it is anybody's to
// take.
func (l *deliveryLease) standing(n *Node, snap *projection.Snapshot, now time.Duration) (mine, free bool) {
	record, _ := snap.Work("", deliveryWork, n.home.region)
	h, ok := holderOf(record)
	switch {
	case !ok || h.Released:
		return false, true
	case h.Incarnation == n.incarnation && l.holds(now):
		return true, false
	}
	return false, now-l.since >= n.maxWait()
}

// claim writes a record of this node over the one that was looked at.
func (l *deliveryLease) claim(ctx context.Context, n *Node, snap *projection.Snapshot, released bool) {
	l.n++
	value, err := json.Marshal(deliveryHolder{n.incarnation, l.n, released})
	if err != nil {
		return
	}
	e := &events.Work{Type: deliveryWork, Name: n.home.region, Value: value}
	if l.sent == nil {
		l.sent = map[uint64]time.Duration{}
	}
	if !released {
		l.sent[l.n] = n.conf.Clock.Boot()
	}
	seq, err := n.note(ctx, e, snap.Last(e))
	if err == nil && !released {
		ctx, cancel := context.WithTimeout(ctx, n.conf.Lease/4)
		defer cancel()
		err = n.settings.wait(ctx, seq)
		l.look(n, n.catalog.Snapshot())
	}
	if err != nil && !errors.Is(err, events.ErrConflict) && ctx.Err() == nil && n.refusals.first("delivery lease", n.conf.Clock.Boot()) {
		n.conf.Log.Warn("lease of deliveries cannot be written; tried again", "region", n.home.region, "error", err)
	}
}

// releaseDelivery lets another node deliver at once. Nothing is being sent any more.
func (n *Node) releaseDelivery() {
	l := &n.deliveries.lease
	if !l.holds(n.conf.Clock.Boot()) {
		return
	}
	l.until.Store(0)
	clear(l.sent)
	l.claim(context.Background(), n, n.catalog.Snapshot(), true)
}

// noteTimeout bounds how long a note of work may take.
const noteTimeout = 3 * time.Second

// note writes work to CONFIG over what stands there at the sequence prev, and
// returns its sequence. It does not wait until this node has heard of it, and works
// after ctx has ended: who stops says how far it came.
func (n *Node) note(ctx context.Context, e *events.Work, prev uint64) (uint64, error) {
	e.Ignorable, e.At, e.By, e.Prev = true, n.wall(), n.conf.Name, prev
	m, err := n.conf.Keys.Encode(events.ConfigRegion, e, nil, 0)
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), min(noteTimeout, n.conf.Lease/4))
	defer cancel()
	before := n.settings.position()
	seq, err := n.settings.log.Append(ctx, m, events.Expect(prev))
	if err == nil && seq <= before.Seq {
		n.settings.rewound(before.Gen)
		return 0, events.ErrRewound
	}
	return seq, err
}
