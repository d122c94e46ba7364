package node

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node/api"
	"github.com/revocast/revocast/projection"
)

const (
	// maxPolled is how many SETs one answer has at most.
	maxPolled = 100
	// pollHold is how long a poll without SETs is held: less than the 30 s that the
	// server gives an answer.
	pollHold = 24 * time.Second
	// pollLook is the time between two looks of a poll that is held at the stream's own
	// state, for which nobody wakes it.
	pollLook = 500 * time.Millisecond
	// pollStride is how far a stream of the log may move without anything of interest
	// before that is written down: the next poll would read it again.
	pollStride = 4096
)

// pollSSFStream answers POST /ssf/poll/{stream_id} (RFC 8936). Any node does: how far
// the receiver is stands in CONFIG. The oldest SETs that are not acknowledged come
// first, each time the same.
func (n *Node) pollSSFStream(ctx context.Context, c *call) (int, any, error) {
	var in api.SSFPoll
	if err := c.readSSF(&in); err != nil {
		return 0, nil, err
	}
	limit := int64(maxPolled)
	if in.MaxEvents != nil {
		if limit = min(limit, *in.MaxEvents); limit < 0 {
			return 0, nil, badSetting("maxEvents", "want 0 or more")
		}
	}
	if len(in.Ack) > maxAcks || len(in.SetErrs) > maxAcks {
		return 0, nil, badSetting("ack", "more than %d at a time", maxAcks)
	}
	p, err := n.newPolling(c, int(limit))
	if err != nil {
		return 0, nil, err
	}
	defer p.close()
	p.acknowledge(&in)
	deadline := time.NewTimer(pollHold)
	defer deadline.Stop()
	for first := true; ; first = false {
		changed, err := p.gather(ctx)
		if err != nil {
			return 0, nil, err
		}
		if first && p.moved() {
			if err := p.save(ctx); err != nil {
				return 0, nil, err
			}
		}
		if len(p.found) > 0 || limit == 0 || in.ReturnImmediately || n.feedsEnded() {
			return p.answer()
		}
		look := time.NewTimer(pollLook)
		select {
		case <-changed:
		case <-look.C:
		case <-deadline.C:
			in.ReturnImmediately = true
		case <-ctx.Done():
			look.Stop()
			return 0, nil, ctx.Err()
		}
		look.Stop()
		if err := p.look(); err != nil {
			return 0, nil, err
		}
	}
}

// polling is a poll under way. One goroutine uses it.
type polling struct {
	n      *Node
	c      *call
	s      *ssfStream
	live   bool
	limit  int
	p      *ssfProgress
	began  events.Revision // as p was
	acked  bool            // the receiver acknowledged something
	done   events.Revision // up to here all is acknowledged, or was not to be told
	block  map[string]bool // streams of the log in which a SET is not acknowledged
	reader *feedReader     // nil: not begun
	found  []securityEvent // to be sent, one more than the limit if there are more
}

func (n *Node) newPolling(c *call, limit int) (*polling, error) {
	p := &polling{n: n, c: c, limit: limit, block: map[string]bool{}}
	if err := p.look(); err != nil {
		return nil, err
	}
	var err error
	if p.p, err = n.ssfProgress(n.catalog.Snapshot(), p.s); err != nil {
		return nil, err
	}
	p.began, err = events.ParseRevision(p.p.Revision)
	return p, err
}

// look reads what the stream is now. Whether the caller may still receive is asked
// anew, for a poll is held long enough for its key to be revoked.
func (p *polling) look() error {
	n, snap := p.n, p.n.catalog.Snapshot()
	s, err := ssfStreamIn(snap, &p.c.caller, p.c.r.PathValue("stream_id"))
	switch {
	case err != nil:
		return err
	case !s.of(&p.c.caller):
		return noSSFStream(s.ID)
	case s.Method != ssfPoll:
		return fail(api.InvalidArgument, "the events of the stream are pushed").with("stream_id", s.ID)
	case p.s != nil && p.s.Epoch != s.Epoch:
		return errBeganAnew()
	}
	p.live = n.ssfLive(snap, s)
	p.s = s
	return nil
}

func (p *polling) close() {
	if p.reader != nil {
		p.reader.close()
	}
}

// acknowledge takes what the receiver says of earlier SETs. One whose signature it
// could not check is not gone by that: the key may be there the next time.
func (p *polling) acknowledge(in *api.SSFPoll) {
	for _, jti := range in.Ack {
		p.ack(jti)
	}
	for jti, e := range in.SetErrs {
		if e.Err == "invalid_key" || e.Err == "authentication_failed" || !p.ack(jti) {
			continue
		}
		p.p.fail(api.SSFSETFault{JTI: jti, Err: shortened(e.Err), Description: shortened(e.Description), At: date(p.n.wall())})
	}
}

// shortened returns as much of what a receiver says as is kept.
func shortened(text string) string {
	return strings.ToValidUTF8(text[:min(len(text), maxReason)], "")
}

// ack reports whether the SET was one that waited for it.
func (p *polling) ack(jti string) bool {
	id, ok := parseSetID(p.s, jti)
	if !ok || p.p.has(jti) || id.stream == 0 && id.seq <= p.p.Control {
		return false
	}
	if at, known := p.began.In(p.n.regionOf(id.stream)); id.stream != 0 && known && (id.gen < at.Gen || id.gen == at.Gen && id.seq <= at.Seq) {
		return false
	}
	p.p.Acked = append(p.p.Acked, jti)
	p.acked = true
	return true
}

// gather reads on until there are enough SETs, or no more for now: then changed is
// closed when there may be.
func (p *polling) gather(ctx context.Context) (changed <-chan struct{}, err error) {
	ctx, cancel := context.WithTimeout(ctx, appendTimeout)
	defer cancel()
	p.controls()
	if p.reader == nil {
		if err := p.open(ctx); err != nil {
			return nil, err
		}
	}
	for len(p.found) <= p.limit {
		var all []*feedEvent
		if all, changed, err = p.reader.poll(ctx); err != nil {
			return nil, pollFailure(err)
		}
		p.take(ctx, all)
		if len(all) == 0 {
			p.pass(p.reader.cursor())
			break
		}
	}
	if !p.live {
		p.found = nil
	}
	return changed, nil
}

// controls takes what is to be told of the stream itself. It waits for nothing that
// was there before (SSF 1.0 section 8.1.4.2).
func (p *polling) controls() {
	done, blocked := p.p.Control, false
	for _, c := range p.s.Controls {
		if c.N <= p.p.Control {
			continue
		}
		e := p.n.controlSET(p.s, &c)
		if p.p.has(e.jti) {
			if !blocked {
				done = c.N
			}
			continue
		}
		blocked = true
		p.find(e)
	}
	p.p.Control = done
}

func (p *polling) find(e securityEvent) {
	if !slices.ContainsFunc(p.found, func(f securityEvent) bool { return f.jti == e.jti }) {
		p.found = append(p.found, e)
	}
}

// open begins to read where the receiver is. A stream of the log that this node does
// not know up to date is left out, and stays where it is.
func (p *polling) open(ctx context.Context) error {
	n := p.n
	f := n.ssfFilter(p.s)
	var from events.Revision
	p.done = slices.Clone(p.began)
	for _, s := range n.streams() {
		if s == n.settings {
			continue
		}
		at, ok := p.began.In(s.region)
		if !ok {
			at = n.sinceRegion(s, p.s.Epoch)
			p.done = append(p.done, at)
		}
		if !s.lease.holds(n.conf.Clock.Boot()) {
			continue // what its log has may be out of reach, and the others must not wait for that
		}
		err := n.reachCursor(ctx, at)
		if failed, is := errors.AsType[*failure](err); is && failed.kind == api.CursorGone {
			// The log went backwards: all that it holds now is told again.
			was := at
			if at = (events.Position{Stream: s.region, Gen: s.position().Gen}); at.Gen <= was.Gen {
				return p.anew(ctx, at)
			}
			p.done = further(p.done, events.Revision{at})
			err = n.reachCursor(ctx, at)
		}
		if err != nil {
			continue
		}
		from, f.streams = append(from, at), append(f.streams, s)
	}
	if len(f.streams) == 0 {
		return &staleError{stream: n.home.region, reason: n.home.lease.why()}
	}
	var err error
	p.reader, err = n.readFeed(ctx, f, from)
	return pollFailure(err)
}

// anew has the stream begin anew, in the region of the position with that. Of the same
// generation, or of a lower one, as one that nobody remembers is counted anew, what is
// noted says that all of it is acknowledged.
func (p *polling) anew(ctx context.Context, at events.Position) error {
	_, err := p.n.editSSFStreamIn(ctx, &p.c.caller, p.s.ID, func(snap *projection.Snapshot, s *ssfStream, header []byte) ([]byte, error) {
		if s.Epoch != p.s.Epoch {
			return nil, errUnchanged
		}
		from := slices.Clone(p.began)
		for i := range from {
			if from[i].Stream == at.Stream {
				from[i] = at
			}
		}
		s.beginAt(p.n, snap, from, 0)
		return header, nil
	})
	if err != nil {
		return err
	}
	return errBeganAnew()
}

func errBeganAnew() *failure {
	return fail(api.Conflict, "the stream began anew meanwhile; poll again")
}

// sinceRegion returns where a stream begins in a region of which its progress says
// nothing: with all of it, if the region is younger than the stream, or else now.
func (n *Node) sinceRegion(s *stream, epoch int64) events.Position {
	at := s.position()
	if r, ok := n.catalog.Snapshot().Region(s.region); ok && r.At > epoch {
		at.Seq = 0
	}
	return at
}

// take makes SETs of the events, and notes how far all is acknowledged.
func (p *polling) take(ctx context.Context, all []*feedEvent) {
	for _, ev := range all {
		if len(p.found) > p.limit {
			p.block[ev.pos.Stream] = true // not looked at
			continue
		}
		for _, e := range p.n.securityEvents(ctx, p.s, ev) {
			if !p.p.has(e.jti) {
				p.block[ev.pos.Stream] = true
				p.find(e)
			}
		}
		p.pass(events.Revision{ev.pos})
	}
}

// pass notes that up to there nothing is left in those streams of the log in which
// nothing waits to be acknowledged.
func (p *polling) pass(to events.Revision) {
	for _, at := range to {
		if !p.block[at.Stream] {
			p.done = further(p.done, events.Revision{at})
		}
	}
}

// moved reports whether how far the receiver is should be written down.
func (p *polling) moved() bool {
	if p.acked || len(p.done) != len(p.began) {
		return true
	}
	for _, at := range p.done {
		if was, ok := p.began.In(at.Stream); !ok || at.Gen != was.Gen || at.Seq > was.Seq+pollStride {
			return true
		}
	}
	return false
}

func (p *polling) save(ctx context.Context) error {
	p.p.Revision = p.done.String()
	p.p.forget(p.n, p.s, p.done)
	return p.n.saveSSFProgress(ctx, p.s, p.p)
}

func (p *polling) answer() (int, any, error) {
	out := &api.SSFPollAnswer{SETs: map[string]string{}}
	for i := range p.found[:min(len(p.found), p.limit)] {
		text, err := p.n.signSET(&p.found[i])
		if err != nil {
			return 0, nil, err
		}
		out.SETs[p.found[i].jti] = text
	}
	out.MoreAvailable = len(p.found) > p.limit
	return http.StatusOK, out, nil
}

// pollFailure returns how a reader's error is answered.
func pollFailure(err error) error {
	switch {
	case errors.Is(err, errFeedRewound), errors.Is(err, errFeedEnded), errors.Is(err, errFeedSlow):
		return fail(api.LogUnavailable, "the node cannot read on just now; poll again").because(err)
	}
	return err
}

func (n *Node) feedsEnded() bool {
	n.feed.mu.Lock()
	defer n.feed.mu.Unlock()
	return n.feed.ended
}
