package node

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node/api"
)

// Nodes compare what they made of a stream. The first heartbeat of each minute
// of the log's time, whoever sent it, names the sequence at which all of them
// compute a digest, so that the positions are the same; their next heartbeats
// carry it. It is a detector: no rule depends on it.

const (
	// digestEvery is a minute: a digest walks over all sessions.
	digestEvery = int64(time.Minute / time.Millisecond)
	// digestsKept is how many named sequences are remembered.
	digestsKept = 4
	// digestRebuilds is the least time between two rebuilds because of a digest.
	digestRebuilds = time.Hour
)

// errDigest means that most other nodes made something else of the stream.
var errDigest = errors.New("most nodes made something else of this stream than this one")

// digests are what nodes made of a stream at the newest named sequences. The
// zero value is ready.
type digests struct {
	slot int64 // newest minute of the log's time that a heartbeat was seen of; the follow goroutine's

	mu      sync.Mutex // guards what follows
	taken   map[uint64]map[events.Incarnation]vote
	alerted uint64        // newest sequence of which a mismatch was reported
	rebuilt time.Duration // Clock.Boot when the stream was last read again because of one; 0 never
}

// vote is one node's digest.
type vote struct{ node, digest string }

// tag is the part of a digest that names the version of the fold.
func (v vote) tag() string {
	tag, _, _ := strings.Cut(v.digest, "-")
	return tag
}

// names reports whether a heartbeat with the log's stamp names its sequence.
func (d *digests) names(logged time.Time) bool {
	slot := logged.UnixMilli() / digestEvery
	first := d.slot != 0 && slot > d.slot
	d.slot = max(d.slot, slot)
	return first
}

// note notes a node's digest and reports whether it was new.
func (d *digests) note(seq uint64, who events.Incarnation, v vote) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, ok := d.taken[seq][who]; ok {
		return false
	}
	if d.taken == nil {
		d.taken = map[uint64]map[events.Incarnation]vote{}
	}
	if d.taken[seq] == nil {
		d.taken[seq] = map[events.Incarnation]vote{}
	}
	d.taken[seq][who] = v
	for len(d.taken) > digestsKept {
		delete(d.taken, slices.Min(slices.Collect(maps.Keys(d.taken))))
	}
	return true
}

// reset forgets what was noted, because the stream is read again. When that was
// last done because of a digest stays known.
func (d *digests) reset() {
	d.slot = 0
	d.mu.Lock()
	defer d.mu.Unlock()
	d.taken, d.alerted = nil, 0
}

// comparison is what is known of one named sequence.
type comparison struct {
	seq     uint64
	votes   int      // with the tag of one's own
	differ  []string // nodes whose digest is another one
	against int      // how many share the digest most frequent among those
}

// compare compares the others' digests at the sequence with one's own, and
// reports false when there is no own one.
func (d *digests) compare(seq uint64, me events.Incarnation) (c comparison, ok bool) {
	mine, ok := d.taken[seq][me]
	c.seq = seq
	same := map[string]int{}
	for _, v := range d.taken[seq] {
		if v.tag() != mine.tag() {
			continue
		}
		c.votes++
		if v.digest != mine.digest {
			c.differ = append(c.differ, v.node)
			same[v.digest]++
			c.against = max(c.against, same[v.digest])
		}
	}
	slices.Sort(c.differ)
	return c, ok
}

// newest compares at the newest sequence at which there is something to compare.
func (d *digests) newest(me events.Incarnation) (c comparison, ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, seq := range slices.SortedFunc(maps.Keys(d.taken), func(a, b uint64) int { return cmp.Compare(b, a) }) {
		if c, ok := d.compare(seq, me); ok && c.votes > 1 {
			return c, true
		}
	}
	return c, false
}

// digested takes the digest at the sequence of a heartbeat that was just
// applied, if that names one, and notes what the heartbeat says of others. It
// returns errDigest when the stream is to be read again.
func (s *stream) digested(beat *events.Beat, e *events.Entry) error {
	if s.digests.names(e.Time) && !s.gaps.open && s.lease.holds(s.node.conf.Clock.Boot()) {
		// Expiry is judged by the log's time, so that every node computes the
		// same. A node without a lease may have read less than the others: the
		// log does not hold any more what is between two states.
		if d := s.fold.Digest(e.Time.UnixMilli()); d != "" {
			s.digest.Store(&map[string]string{s.at(e.Seq).String(): d})
			s.digests.note(e.Seq, s.node.incarnation, vote{s.node.conf.Name, d})
		}
	}
	if beat.Incarnation == s.node.incarnation {
		return nil
	}
	for at, d := range beat.Digests {
		p, err := events.ParsePosition(at)
		if err == nil && p.Stream == s.region && p.Seq < e.Seq && s.digests.note(p.Seq, beat.Incarnation, vote{beat.Node, d}) {
			if err := s.judge(p.Seq); err != nil {
				return err
			}
		}
	}
	return nil
}

// judge decides on a mismatch at the sequence: it is reported once; and if three
// nodes or more live and most of them agree on something else, this one is to
// read the stream again, at most once an hour.
func (s *stream) judge(seq uint64) error {
	now, live := s.node.conf.Clock.Boot(), len(s.others())+1
	d := &s.digests
	d.mu.Lock()
	defer d.mu.Unlock()
	c, ok := d.compare(seq, s.node.incarnation)
	if !ok || len(c.differ) == 0 {
		return nil
	}
	if d.alerted < seq {
		d.alerted = seq
		s.node.metrics.digestMismatches.WithLabelValues(s.region).Inc()
		s.node.conf.Log.Error("digest differs: nodes made different things of the same events",
			"stream", s.region, "seq", seq, "differ", c.differ)
	}
	if most := max(c.votes, live); most < 3 || 2*c.against <= most || d.rebuilt != 0 && now-d.rebuilt < digestRebuilds {
		return nil
	}
	d.rebuilt = now
	return fmt.Errorf("%w: at sequence %d it differs from %s", errDigest, seq, strings.Join(c.differ, ", "))
}

// digestState returns whether other nodes made the same of the stream.
func (s *stream) digestState() string {
	c, ok := s.digests.newest(s.node.incarnation)
	switch {
	case !ok:
		return api.DigestUnknown
	case len(c.differ) > 0:
		return api.DigestDiffers
	}
	return api.DigestAgrees
}
