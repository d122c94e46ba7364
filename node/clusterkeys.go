package node

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/revocast/revocast/events"
)

// maxStrange bounds how many ids of keys that are not held a stream remembers:
// anybody who reaches NATS can write seals that name any.
const maxStrange = 64

// errNewKey ends a Follow because a cluster key came that opens what was passed
// over.
var errNewKey = errors.New("a cluster key was added that the stream has been read without")

// firstBeats is how many times between heartbeats a node that starts waits when
// it has met entries that it cannot open: so long the others take to hear of it,
// and to seal again with a key that it holds.
const firstBeats = 4

// listing returns the other nodes that may live, of all streams followed.
func (n *Node) listing() []announced {
	var all []announced
	for _, s := range n.streams() {
		all = append(all, s.others()...)
	}
	return all
}

// lacking returns the names of those that do not list the cluster key, sorted.
func lacking(all []announced, id string) []string {
	var names []string
	for _, a := range all {
		if !slices.Contains(a.keys, id) {
			names = append(names, a.node)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// announcedKeys returns the ids of the keys held as heartbeats list them: first
// the one that seals, or is about to.
func (n *Node) announcedKeys() []string {
	ids, first := n.conf.Keys.IDs(), n.conf.Keys.Sealing()
	if next := n.sealNext.Load(); next != nil && n.conf.Keys.Holds(*next) {
		first = *next
	}
	return append([]string{first}, slices.DeleteFunc(ids, func(id string) bool { return id == first })...)
}

// keepKeys seals with the preferred cluster key, and reads a stream again when a
// key comes that it was read without, until ctx ends.
func (n *Node) keepKeys(ctx context.Context) error {
	tick := time.NewTicker(n.conf.Beat)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		for _, s := range n.streams() {
			if s.opens() {
				s.readAgain(reasonKey, errNewKey)
			}
		}
		if err := n.chooseKey(ctx); err != nil && ctx.Err() == nil {
			n.conf.Log.Warn("cluster key cannot be changed yet", "error", err)
		}
	}
}

// chooseKey makes that key seal which comes first of those that every live node
// lists. First its heartbeats say so in every stream: whoever lacks the key, and
// joined too late to be counted, meets that before the first event that it
// cannot read.
func (n *Node) chooseKey(ctx context.Context) error {
	listed, _, ok := n.listed()
	if !ok || len(listed) == 0 {
		return nil
	}
	id, was := listed[0], n.conf.Keys.Sealing()
	if id == was {
		n.sealNext.Store(nil)
		return nil
	}
	if err := n.recordIdempotency(ctx); err != nil {
		return err
	}
	if next := n.sealNext.Load(); next == nil || *next != id {
		n.sealNext.Store(&id)
		n.hurry()
		return nil
	}
	for _, s := range n.streams() {
		if shown := s.shown.Load(); shown == nil || *shown != id {
			return nil
		}
	}
	if !n.conf.Keys.SealWith(id) {
		return nil // taken away meanwhile
	}
	n.sealNext.Store(nil)
	n.reseal.switched(n.conf.Clock.Boot())
	n.conf.Log.Info("another cluster key seals from now on", "key", id, "before", was)
	n.hurry()
	return nil
}

// hurry has the next heartbeats sent at once.
func (n *Node) hurry() {
	for _, s := range n.streams() {
		s.hurry()
	}
}

// readable reports whether a heartbeat of this node's that was sealed with the
// key may renew the lease: a member that cannot open it does not know that this
// node is one, and its receipts would not wait for this node (rule R11). A
// member that shares no key with this node holds nobody up.
func (s *stream) readable(id string) bool {
	all := s.others()
	if len(lacking(all, id)) == 0 {
		return true
	}
	return !slices.ContainsFunc(s.node.conf.Keys.IDs(), func(id string) bool { return len(lacking(all, id)) == 0 })
}

// ephemeral reports whether events of the kind are about nodes: they leave by
// themselves, and are never appended again.
func ephemeral(k events.Kind) bool {
	return k == events.KindNode || k == events.KindBeat || k == events.KindMarker
}

// outlived reports whether the entry, which is not believed, needs no repair and
// is no sign of trouble: what a node said of itself, or that a session ran out,
// sealed with a key that was retired since. Of other entries it notes the key that they name.
func (s *stream) outlived(e *events.Entry, r *events.Record) bool {
	id, keys := e.SealKey(), s.node.conf.Keys
	if id == "" {
		return false
	}
	// A key may have come since the entry was decoded, with all at hand then.
	if keys.Holds(id) && (r.Trust == events.Authentic || keys.Decode(s.number, *e).Trust != events.Authentic) {
		return false
	}
	if ephemeral(r.Subject.Kind) || r.Subject.Kind == events.KindExpire {
		return true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.strange == nil {
		s.strange = map[string]struct{}{}
	}
	if len(s.strange) < maxStrange {
		s.strange[id] = struct{}{}
	}
	return false
}

// opens reports whether a key is held by now that the stream was read without.
func (s *stream) opens() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id := range s.strange {
		if s.node.conf.Keys.Holds(id) {
			return true
		}
	}
	return false
}

// missingKey returns the id of a cluster key that this node lacks, that a live
// member lists, and that the log names in seals; empty when there is none. What
// the log alone names proves nothing: anybody could have written it.
func (n *Node) missingKey() string {
	for _, s := range n.streams() {
		if id := s.missingKey(); id != "" {
			return id
		}
	}
	return ""
}

func (s *stream) missingKey() string {
	s.mu.Lock()
	ids := slices.Collect(maps.Keys(s.strange))
	s.mu.Unlock()
	if len(ids) == 0 {
		return ""
	}
	for _, a := range s.node.listing() {
		for _, id := range ids {
			if slices.Contains(a.keys, id) && !s.node.conf.Keys.Holds(id) {
				return id
			}
		}
	}
	return ""
}

// unreadable returns what fences this node on the stream: it holds events that
// another node could read, and this one could not.
func (s *stream) unreadable() (detail string) {
	if id := s.missingKey(); id != "" {
		return fmt.Sprintf("the log holds events sealed with cluster key %s, which this node lacks: add it to this node's cluster key file", id)
	}
	return ""
}

// blinded reports whether the lease may not be renewed yet, because the stream
// was read without a key: one that came since, and then it is read again; or,
// right after a start, one that the others may list as soon as they have heard of
// this node. The follow goroutine calls it.
func (s *stream) blinded() bool {
	s.mu.Lock()
	strange := len(s.strange) > 0
	s.mu.Unlock()
	switch {
	case !strange:
		return false
	case s.opens():
		return true
	case !s.lease.blind():
		return false
	}
	now := s.node.conf.Clock.Boot()
	s.firstBeat = cmp.Or(s.firstBeat, now)
	return now-s.firstBeat < firstBeats*s.beatEvery()
}

// idempotencyPurpose is what tokens of an Idempotency-Key are derived for.
const idempotencyPurpose = "revocast idempotency 1"

// idempotencySetting is where the secret stands that such tokens are made with,
// in its private part.
func idempotencySetting() *events.Setting {
	return &events.Setting{Type: "secret", Name: "idempotency"}
}

// idempotencySecret returns what tokens under an Idempotency-Key are made with.
// It must be the same on all nodes at all times, or a repeat makes a second
// session. So it is that of the cluster's first key, and is recorded in CONFIG
// before any node seals with another (chooseKey): until it is recorded all of
// CONFIG is sealed with the first, and from then on it says the same.
func (n *Node) idempotencySecret() ([]byte, error) {
	keys, snap := n.conf.Keys, n.catalog.Snapshot()
	if sealed := snap.Sealed(idempotencySetting()); !sealed.Empty() {
		secret, err := keys.OpenVerified(sealed)
		if err != nil {
			return nil, fmt.Errorf("read the secret of idempotency keys: %w", err)
		}
		return secret, nil
	}
	if n.settings.lease.blind() {
		// It may be in what was not read yet.
		if stale := n.configStale(); stale != nil {
			return nil, stale
		}
	}
	first := cmp.Or(snap.Eldest().Key(), keys.Sealing())
	secret, ok := keys.DeriveFrom(first, idempotencyPurpose, 32)
	if !ok {
		return nil, fmt.Errorf("make the secret of idempotency keys: cluster key %s is not held", first)
	}
	return secret, nil
}

// recordIdempotency records the secret in CONFIG, once and for all.
func (n *Node) recordIdempotency(ctx context.Context) error {
	e := idempotencySetting()
	if snap := n.catalog.Snapshot(); snap.Sealed(e).Empty() {
		secret, err := n.idempotencySecret()
		if err != nil {
			return err
		}
		e.Value, e.At, e.By, e.Prev = json.RawMessage("true"), n.wall(), "cluster", snap.Last(e)
		_, err = n.configure(ctx, e, secret, 0, e.Prev)
		if err != nil && !errors.Is(err, events.ErrConflict) {
			return fmt.Errorf("record the secret of idempotency keys: %w", err)
		}
		if err != nil {
			return n.settings.catchUp(ctx, e)
		}
	}
	return nil
}
