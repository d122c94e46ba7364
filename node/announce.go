package node

import (
	"cmp"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/revocast/revocast/events"
)

// announced is what an incarnation says of itself in a stream.
type announced struct {
	node, region string // region "": only heartbeats of an older version were read
	incarnation  events.Incarnation
	keys         []string      // ids of the cluster keys it holds; the first seals
	format       int           // newest payload version it reads
	first, seq   uint64        // sequence of the oldest and the newest of it
	heard        time.Duration // Clock.Boot when the newest was applied here
	logged       time.Time     // the log's stamp on it
	left         bool
	lease        time.Duration // L, as it is set there
	sealed       string        // id of the cluster key that sealed the newest
	since        time.Duration // Clock.Boot when the first of them so sealed was applied
}

// announcements are what the log of the last four leases says of nodes: those
// that hold no lease yet too, unlike members. The zero value is ready.
type announcements struct {
	mu  sync.Mutex // guards all
	all map[events.Incarnation]*announced
}

// note folds in a registration, a farewell or a heartbeat and returns what was
// said. Now is Clock.Boot.
//
// Life is how long the log keeps the message: four of its node's leases.
func (a *announcements) note(r events.Record, life, now time.Duration) (said announced) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.all == nil {
		a.all = map[events.Incarnation]*announced{}
	}
	switch e := r.Event.(type) {
	case *events.Beat:
		said = announced{node: e.Node, incarnation: e.Incarnation, keys: e.Keys, format: e.Format, region: e.Region}
	case *events.Node:
		said = announced{node: e.Node, incarnation: e.Incarnation, keys: e.Keys, format: e.Format, region: e.Region, left: e.Left}
	}
	said.lease = life / 4
	said.heard, said.logged, said.first, said.seq = now, r.Time, r.Seq, r.Seq
	said.sealed, said.since = r.Sealed.Key(), now
	if was := a.all[said.incarnation]; was != nil {
		// A heartbeat may have been on its way when its node left.
		said.region, said.left, said.first = cmp.Or(said.region, was.region), said.left || was.left, was.first
		if said.sealed == was.sealed {
			said.since = was.since
		}
	}
	a.all[said.incarnation] = &said
	return said
}

// reset forgets everything, because the stream is read again.
func (a *announcements) reset() {
	a.mu.Lock()
	defer a.mu.Unlock()
	clear(a.all)
}

// recent returns who was heard after the time of Clock.Boot, ordered by node,
// and forgets the others.
func (a *announcements) recent(after time.Duration) (all []announced) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for who, said := range a.all {
		if said.heard < after {
			delete(a.all, who)
			continue
		}
		all = append(all, *said)
	}
	slices.SortFunc(all, func(a, b announced) int {
		return cmp.Or(cmp.Compare(a.node, b.node), a.logged.Compare(b.logged))
	})
	return all
}

// others returns the incarnations of the stream that may live, without this one.
func (s *stream) others() []announced {
	all := s.said.recent(s.node.conf.Clock.Boot() - forgetAfter*s.node.conf.Lease)
	return slices.DeleteFunc(all, func(a announced) bool { return a.left || a.incarnation == s.node.incarnation })
}

// namesake returns another incarnation of this node's name that was heard within
// the last lease and wrote something since this one began: not its own earlier
// life, but another process.
func (s *stream) namesake() (other announced, ok bool) {
	now := s.node.conf.Clock.Boot()
	all := s.said.recent(now - forgetAfter*s.node.conf.Lease)
	me := slices.IndexFunc(all, func(a announced) bool { return a.incarnation == s.node.incarnation })
	if me < 0 {
		return other, false
	}
	for _, a := range all {
		if a.node == s.node.conf.Name && a.incarnation != s.node.incarnation && !a.left &&
			a.seq > all[me].first && now-a.heard < s.node.conf.Lease {
			return a, true
		}
	}
	return other, false
}

// listed returns the ids of the cluster keys that every live node of every
// stream holds, in the order of this node's, and the newest payload version that
// all of them read: nothing else may be written. It reports false when this
// node cannot know, because it holds no lease on some stream.
func (n *Node) listed() (keys []string, format int, ok bool) {
	keys, format, ok = n.conf.Keys.IDs(), events.Version, true
	now := n.conf.Clock.Boot()
	for _, s := range n.streams() {
		ok = ok && s.lease.holds(now)
		for _, a := range s.others() {
			format = min(format, a.format)
			keys = slices.DeleteFunc(keys, func(id string) bool { return !slices.Contains(a.keys, id) })
		}
	}
	return keys, format, ok && len(n.unopened()) == 0
}

// unsealed returns what fences this node: a live node seals with a cluster key
// that this one lacks, so that what it writes cannot be read here. A key that is
// merely held somewhere fences nobody: it seals only once all hold it, and is
// handed to one node after the other until then.
func unsealed(others []announced, held []string) (detail string) {
	for _, a := range others {
		if len(a.keys) > 0 && !slices.Contains(held, a.keys[0]) {
			return fmt.Sprintf("node %s seals with cluster key %s, which this node lacks: add it to this node's cluster key file", a.node, a.keys[0])
		}
	}
	return ""
}

// announced takes notice of what a node says of itself, before any heartbeat
// after it can renew the lease.
func (s *stream) announced(r events.Record, life time.Duration) {
	now := s.node.conf.Clock.Boot()
	s.members.leased(life/4, now)
	if s.outdated(r, life) {
		return
	}
	said := s.said.note(r, life, now)
	if !said.left && unsealed([]announced{said}, s.node.conf.Keys.IDs()) != "" {
		s.checkKeys()
	}
	if said.node == s.node.conf.Name && said.incarnation != s.node.incarnation {
		s.warnNamesake()
	}
}

// outdated reports whether the record was written so long before it was stored
// that its node, if that lives, has said something newer: a copy. Whoever reaches
// NATS could otherwise have nodes of the past hold up what all live ones agree on.
// As a member its node counts all the same: see members.
//
// One whose clock is so far behind holds no lease.
func (s *stream) outdated(r events.Record, life time.Duration) bool {
	at := int64(0)
	switch e := r.Event.(type) {
	case *events.Beat:
		at = e.At
	case *events.Node:
		at = e.At
	}
	return at != 0 && r.Time.Sub(time.UnixMilli(at)) > max(life, forgetAfter*s.node.conf.Lease)+maxClockSkew
}

// warnNamesake says, once a minute, that another process uses this node's name.
// It is no reason to fence: what is counted are incarnations.
func (s *stream) warnNamesake() {
	other, ok := s.namesake()
	if now := s.node.conf.Clock.Boot(); ok && (s.namesakeWarned == 0 || now-s.namesakeWarned >= warnEvery) {
		s.namesakeWarned = now
		s.node.conf.Log.Warn("another process runs under this node's name; give each its own",
			"node", other.node, "stream", s.region, "incarnation", other.incarnation.String(), "own", s.node.incarnation.String())
	}
}

// unopened returns the regions that CONFIG names and whose stream this node has
// not reached yet.
func (n *Node) unopened() (regions []string) {
	if n.conf.Open == nil {
		return nil
	}
	for r := range n.catalog.Snapshot().Regions() {
		if n.stream(r.Number) == nil {
			regions = append(regions, r.Region)
		}
	}
	slices.Sort(regions)
	return regions
}

// checkKeys fences this node, or ends that, by what others announce: a key may
// have been added since, or a node be gone.
func (s *stream) checkKeys() {
	detail := unsealed(s.others(), s.node.conf.Keys.IDs())
	if detail == "" {
		detail = s.unreadable()
	}
	if s.lease.bar(reasonKey, detail) {
		s.node.conf.Log.Error("fenced until this node holds the cluster key", "stream", s.region, "detail", detail)
	}
}
