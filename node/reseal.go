package node

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node/api"
)

// States of a rotation of the cluster key.
const (
	rotationNone     = "none"
	rotationRunning  = "running"
	rotationComplete = "complete"
	rotationFailed   = "failed"
)

const (
	// resealPace is the least time between two events that are sealed anew, and
	// resealers how many are under way at a time: together they take a small
	// part of what a log takes.
	resealPace = 2 * time.Millisecond
	resealers  = 8
	// resealBatch is how many events are found before they are sealed anew, so
	// that neither memory nor a subscription is held for long.
	resealBatch = 10_000
	// resealPasses is how often a stream is gone through until nothing is left.
	resealPasses = 10
	// settleTime is how long after a node's last use of a key a message sealed
	// with it may still arrive.
	settleTime = appendTimeout + time.Second
)

// resealing is the rotation of the cluster key that this node does, or did last.
type resealing struct {
	want chan struct{} // 1 deep: a rotation is to begin

	mu    sync.Mutex // guards what follows
	state api.ClusterKeyRotation
	since time.Duration // Clock.Boot when another key began to seal here; 0: at the start

	scanned, resealed atomic.Int64
}

// switched notes that another key seals: what was found before counts no more.
func (r *resealing) switched(now time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.since = now
	if r.state.State != rotationRunning {
		r.state = api.ClusterKeyRotation{}
	}
}

// begin has a rotation begin unless one runs.
func (r *resealing) begin(key string, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.state.State == rotationRunning {
		return
	}
	r.state = api.ClusterKeyRotation{State: rotationRunning, KeyID: key, StartedAt: new(now.UTC())}
	r.scanned.Store(0)
	r.resealed.Store(0)
	r.want <- struct{}{} // empty, because none ran
}

func (r *resealing) end(left []api.ClusterKeyLeft, now time.Time, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.state.State, r.state.FinishedAt, r.state.Left = rotationComplete, new(now.UTC()), left
	if err != nil {
		r.state.State, r.state.Error = rotationFailed, err.Error()
	}
}

func (r *resealing) report() api.ClusterKeyRotation {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := r.state
	out.Left = slices.Clone(out.Left)
	if out.State == "" {
		out.State = rotationNone
	}
	out.Scanned, out.Resealed = r.scanned.Load(), r.resealed.Load()
	return out
}

// reseals does the rotations that are asked for, until ctx ends.
func (n *Node) reseals(ctx context.Context) error {
	for {
		select {
		case <-n.reseal.want:
		case <-ctx.Done():
			return nil
		}
		key := n.reseal.report().KeyID
		left, err := n.rotateClusterKey(ctx, key)
		n.reseal.end(left, n.conf.Clock.Wall(), err)
		report := n.reseal.report()
		n.conf.Log.Info("rotation of the cluster key has ended", "key", key, "state", report.State,
			"resealed", report.Resealed, "left", len(left), "error", err)
	}
}

// rotateClusterKey seals every lasting event that another key sealed with the
// key, and returns what is left. It can be broken off at any moment and begun
// again, by any node or several: an event is replaced only where it still stands.
func (n *Node) rotateClusterKey(ctx context.Context, key string) ([]api.ClusterKeyLeft, error) {
	var all []api.ClusterKeyLeft
	for pass := range resealPasses {
		if err := n.settleKey(ctx, key); err != nil {
			return all, err
		}
		all = nil
		found, failed := false, error(nil)
		for _, s := range n.streams() {
			r := &resealer{s: s, key: key, left: map[string]*api.ClusterKeyLeft{}}
			err := r.run(ctx)
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			if errors.Is(err, errKeyChanged) {
				return nil, err
			}
			failed = errors.Join(failed, err)
			found = found || r.found
			all = append(all, r.report()...)
		}
		failed = errors.Join(failed, n.outOfSight())
		if failed == nil && !found {
			return all, nil
		}
		if pass == resealPasses-1 {
			return all, errors.Join(errors.New("events sealed with other keys keep coming, or cannot be replaced"), failed)
		}
		if failed != nil && !pause(ctx, time.Second) {
			return nil, ctx.Err()
		}
	}
	return all, nil
}

// outOfSight returns an error that names the streams of which this node cannot
// know what they hold, or who writes there with which key.
func (n *Node) outOfSight() error {
	regions := n.unopened()
	for _, s := range n.streams() {
		if s.fenced() != nil {
			regions = append(regions, s.region)
		}
	}
	if len(regions) == 0 {
		return nil
	}
	return fmt.Errorf("out of reach: %s", strings.Join(regions, ", "))
}

func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}

var errKeyChanged = errors.New("another cluster key seals by now; begin again")

// settleKey returns once nothing can arrive any more that a live member sealed with
// another key.
func (n *Node) settleKey(ctx context.Context, key string) error {
	for {
		if n.conf.Keys.Sealing() != key {
			return errKeyChanged
		}
		until, others := n.settledAt(key)
		if len(others) == 0 && n.conf.Clock.Boot() >= until {
			return nil
		}
		if !pause(ctx, n.conf.Beat) {
			return ctx.Err()
		}
	}
}

// settledAt returns when (Clock.Boot) the last message that was sealed otherwise
// has arrived, and who still seals otherwise.
func (n *Node) settledAt(key string) (until time.Duration, others []string) {
	n.reseal.mu.Lock()
	since := n.reseal.since
	n.reseal.mu.Unlock()
	if since != 0 {
		until = since + settleTime
	}
	for _, m := range n.listing() {
		switch {
		case m.sealed == key:
			until = max(until, m.since+settleTime)
		case n.conf.Clock.Boot()-m.heard < n.maxWait():
			others = append(others, m.node)
		}
	}
	slices.Sort(others)
	return until, slices.Compact(others)
}

// resealer goes through one stream once.
type resealer struct {
	s     *stream
	key   string
	found bool // something was to be replaced

	mu   sync.Mutex // guards left, and found while events are replaced
	left map[string]*api.ClusterKeyLeft
}

func (r *resealer) run(ctx context.Context) error {
	for from := uint64(1); from != 0; {
		subjects, next, err := r.scan(ctx, from)
		if err != nil {
			return fmt.Errorf("read stream %s: %w", r.s.region, err)
		}
		from = next
		var g errgroup.Group
		g.SetLimit(resealers)
		for _, subject := range subjects {
			if !pause(ctx, resealPace) {
				break
			}
			g.Go(func() error { return r.replace(ctx, subject) })
		}
		if err := g.Wait(); err != nil {
			return fmt.Errorf("seal stream %s anew: %w", r.s.region, err)
		}
	}
	return nil
}

// errEnough ends a scan that found a batch.
var errEnough = errors.New("a batch was found")

// scan returns, from the sequence from on, the subjects of a batch of lasting
// entries that name another key that is held, and where the next scan goes on, 0
// at the end.
func (r *resealer) scan(ctx context.Context, from uint64) (subjects []string, next uint64, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	keys := r.s.node.conf.Keys
	err = r.s.log.Follow(ctx, events.Follow{
		From:     from,
		CaughtUp: cancel,
		Apply: func(e events.Entry) error {
			r.s.node.reseal.scanned.Add(1)
			id := e.SealKey()
			if id == r.key || !keys.Holds(id) {
				return nil // right, or an overwrite, which is repaired
			}
			at, err := events.ParseSubject(e.Subject)
			if err != nil || ephemeral(at.Kind) {
				return nil
			}
			if at.Kind == events.KindExpire {
				r.leave(&e) // appended again, it would tell subscribers twice
				return nil
			}
			if subjects = append(subjects, e.Subject); len(subjects) < resealBatch {
				return nil
			}
			next = e.Seq + 1
			cancel()
			return errEnough
		},
	})
	if errors.Is(err, errEnough) {
		err = nil
	}
	return subjects, next, err
}

// replace appends what stands on the subject again, unless the key has sealed it
// by now.
func (r *resealer) replace(ctx context.Context, subject string) error {
	ctx, cancel := context.WithTimeout(ctx, appendTimeout)
	defer cancel()
	for range attempts {
		e, err := r.s.log.Last(ctx, subject)
		if errors.Is(err, events.ErrNotFound) {
			return nil
		} else if err != nil {
			return err
		}
		if e.SealKey() == r.key {
			return nil
		}
		if err := r.s.wait(ctx, e.Seq); err != nil {
			return err
		}
		if !r.s.whole() {
			// What the log lost is appended first: until then an "all" that is
			// sealed anew could be taken for one that covers it.
			return errors.New("the stream is still being repaired")
		}
		m, ok, err := r.s.resealed(e)
		if err != nil {
			return err
		}
		if !ok {
			r.leave(&e)
			return nil
		}
		if m.SealKey() != r.key {
			return errKeyChanged
		}
		r.mu.Lock()
		r.found = true
		r.mu.Unlock()
		_, err = r.s.log.Append(ctx, m, events.Expect(e.Seq))
		switch {
		case err == nil:
			r.s.node.reseal.resealed.Add(1)
			r.s.node.metrics.resealed.WithLabelValues(r.s.region).Inc()
			return nil
		case !errors.Is(err, events.ErrConflict):
			return err
		}
	}
	return events.ErrConflict
}

// leave counts an entry that nothing is held for, such as an expired session: it
// leaves by itself.
func (r *resealer) leave(e *events.Entry) {
	r.mu.Lock()
	defer r.mu.Unlock()
	l := r.left[e.SealKey()]
	if l == nil {
		l = &api.ClusterKeyLeft{Stream: r.s.region, KeyID: e.SealKey()}
		r.left[l.KeyID] = l
	}
	l.Count++
	if e.TTL > 0 {
		if until := e.Time.Add(e.TTL).UTC(); l.Until == nil || until.After(*l.Until) {
			l.Until = &until
		}
	}
}

func (r *resealer) report() []api.ClusterKeyLeft {
	var all []api.ClusterKeyLeft
	for _, id := range slices.Sorted(maps.Keys(r.left)) {
		all = append(all, *r.left[id])
	}
	return all
}

// resealed returns the entry, which readers see, as a message that says the same,
// for as long as is left of its life, sealed with the key that seals now. It is
// false when nothing is held for the entry, or it is not what is held.
//
// It is made as a repair is, so that a fold that reads it and one that has read
// the original hold the same: a state keeps the sequence of its creation, an
// "all" what it covers, a touch buys no time.
func (s *stream) resealed(e events.Entry) (m events.Message, ok bool, err error) {
	keys := s.node.conf.Keys
	r := keys.Decode(s.number, e)
	if r.Event == nil {
		return m, false, nil
	}
	now := s.logged()
	life := e.TTL
	if life > 0 {
		if life = e.Time.Add(e.TTL).Sub(now); life <= 0 {
			return m, false, nil
		}
	}
	again, sealed := r.Event, r.Sealed
	if r.Subject.Kind != events.KindRevoke {
		fix, ok := s.fold.Repair(r.Subject, e.Seq, now.UnixMilli())
		if !ok {
			return m, false, nil
		}
		if again = fix.Event; !fix.Sealed.SameMessage(r.Sealed) {
			sealed = fix.Sealed
		}
	}
	if st, ok := again.(*events.State); ok {
		if sealed.Empty() {
			return m, false, nil // it stands over a state of which this node holds no more than the head
		}
		st.Reason = events.ReasonResealed
	}
	private, err := keys.OpenVerified(sealed)
	if err != nil {
		return m, false, err
	}
	m, err = keys.Encode(s.region, again, private, life)
	return m, err == nil, err
}

// logged returns the newest time of the log that this node is sure of: so what is
// left of a life is never taken for less than it is.
func (s *stream) logged() time.Time {
	if at := s.node.agreed.Load(); at != 0 {
		return time.UnixMilli(at)
	}
	return s.node.conf.Clock.Wall()
}
