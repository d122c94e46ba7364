package node

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node/api"
)

const (
	// feedChunk is how many events a reader is given at a time.
	feedChunk = 500
	// feedScan is how many entries a reader looks at before it lets others.
	feedScan = 1024
	// maxCatchUp is how many sequences of the log a reader may be behind. Who was away
	// for longer reads what counts now instead.
	maxCatchUp = 1 << 20
	// cursorWait is how long a reader waits for this node to come as far as the cursor.
	cursorWait = 2 * time.Second
)

// feedFilter says which events a reader wants.
type feedFilter struct {
	app   string          // empty: of all apps
	types map[string]bool // nil: all
	// user is the hash of one, only with app; what is about the whole app is wanted
	// too. Empty: all.
	user string
	// sid: of other sessions nothing is wanted.
	sid *events.SID
	// streams are those read. Nil: all that the node follows.
	streams []*stream
	// patient: a reader that falls behind goes on in the log, however long that takes.
	patient bool
}

// wants reports whether the entry may become an event that is wanted.
func (f *feedFilter) wants(r *events.Record) bool {
	s := &r.Subject
	switch {
	case f.app != "" && s.App != f.app:
		return false
	case f.user != "" && s.User != "" && s.User != f.user:
		return false
	case f.sid == nil || s.Kind == events.KindAll:
		return true
	}
	return s.ID == f.sid.String()
}

func (f *feedFilter) takes(e *feedEvent) bool {
	return e != nil && (f.types == nil || f.types[e.Type])
}

// subjects returns what the log is asked for of the region.
func (f *feedFilter) subjects(region string) []string {
	var kinds []events.Kind
	for _, t := range api.EventTypes() {
		if f.types != nil && !f.types[t] {
			continue
		}
		for _, k := range kindsOf(t) {
			if !slices.Contains(kinds, k) && (k == events.KindApp || k == events.KindKey) == (region == events.ConfigRegion) {
				kinds = append(kinds, k)
			}
		}
	}
	var all []string
	for _, k := range kinds {
		s := events.Subject{Region: region, App: cmp.Or(f.app, "*"), User: "*", ID: "*", Kind: k}
		switch {
		case region == events.ConfigRegion:
			all = append(all, s.String())
			continue
		case f.sid != nil && k != events.KindAll:
			s.ID = f.sid.String()
		}
		if f.user != "" {
			s.User = f.user
		}
		all = append(all, s.String())
		if f.user != "" && (k == events.KindAll || k == events.KindRevoke) {
			s.User = "" // of the whole app; or recorded elsewhere, where the user was not known
			all = append(all, s.String())
		}
	}
	return all
}

// feedReader reads events. One goroutine uses it, and closes it.
type feedReader struct {
	n     *Node
	f     feedFilter
	topic *topic // nil once closed
	next  uint64 // number of the entry of the ring that it reads next
	at    map[*stream]*feedPlace
	// waits are, by region, the streams that the cursor names and that cannot be read
	// now: what happens elsewhere is told meanwhile.
	waits map[string]*feedWait
	// passed is the cursor behind the events that after was called with.
	passed events.Revision
}

// feedPlace is how far a reader is in a stream.
type feedPlace struct {
	lives uint64 // of the stream, when the reader joined
	gen   uint32
	seq   uint64 // everything up to here was given, or was not wanted
	until uint64 // what comes after it is in the ring; up to it the log is read
	since uint64 // where it began
}

// readFeed returns a reader of what comes after the position that from names of each
// stream, or of what comes after now where it names none. The caller closes it.
//
// A reader of all streams does without one that is out of reach, but for the home.
func (n *Node) readFeed(ctx context.Context, f feedFilter, from events.Revision) (*feedReader, error) {
	streams := f.streams
	if streams == nil {
		streams = n.streams()
	}
	r := &feedReader{n: n, f: f, at: map[*stream]*feedPlace{}, waits: map[string]*feedWait{}}
	for _, p := range from {
		if err := r.reach(ctx, p); err != nil {
			return nil, err
		}
	}
	n.feed.mu.Lock()
	defer n.feed.mu.Unlock()
	if n.feed.ended {
		return nil, errFeedEnded
	}
	for _, s := range streams {
		p, named := from.In(s.region)
		_, waits := r.waits[s.region]
		switch {
		case waits:
			continue
		case s.feeding:
		case named && r.mayWait(s.region): // it was left since
			r.wait(p)
			continue
		case named: // what comes next is not what follows the cursor
			return nil, &staleError{stream: s.region, reason: reasonStarting}
		default:
			continue // not applied up to date: its entries are no news
		}
		place := s.feedPlace()
		if named {
			if err := r.goOn(s, place, p); err != nil {
				return nil, err
			}
		}
		r.at[s] = place
	}
	r.topic, r.next = n.feed.subscribe(f.app, f.user), n.feed.tail
	return r, nil
}

// feedPlace returns where the stream is now: what is published from here on is higher.
// The lock of the feed is held.
func (s *stream) feedPlace() *feedPlace {
	gen, _ := s.fold.Position()
	seq := max(s.toldSeq, s.applied.Load())
	return &feedPlace{lives: s.lives, gen: gen, seq: seq, until: seq, since: seq}
}

// reachCursor returns once this node has come as far as the position.
//
// Whoever gave the cursor out had applied what stands there. So a heartbeat that was
// sent later stands behind it, unless the log is another one: brought back from a
// backup, say. Then nobody will ever come as far, or what stands there is other than
// what was told.
func (n *Node) reachCursor(ctx context.Context, p events.Position) error {
	s := n.streamOf(p.Stream)
	if s == nil {
		for region := range n.catalog.Snapshot().Regions() {
			if region.Region == p.Stream {
				return &staleError{stream: p.Stream, reason: reasonStarting}
			}
		}
		return n.cursorGone("there is no stream %s", p.Stream)
	}
	asked := n.conf.Clock.Boot()
	if p.Gen > s.position().Gen { // it may be about to hear of it
		pause(ctx, cursorWait)
	}
	another := n.cursorGone("the log of stream %s is another one than that of the cursor", s.region)
	if p.Gen != s.position().Gen {
		return another
	}
	ctx, cancel := context.WithTimeout(ctx, cursorWait)
	defer cancel()
	if err := s.wait(ctx, p.Seq); err != nil {
		if s.lease.provenSince(asked) && s.begun.Load() < p.Seq { // in this order
			return another
		}
		return fail(api.ConsistencyTimeout, "this node has not come as far as %s; ask again", p).because(err)
	}
	n.feed.mu.Lock()
	defer n.feed.mu.Unlock()
	if !s.feeding {
		return &staleError{stream: s.region, reason: reasonStarting}
	}
	return nil
}

func (n *Node) cursorGone(format string, args ...any) *failure {
	return fail(api.CursorGone, "%s; read what counts now and go on from there", fmt.Sprintf(format, args...)).
		with("revocations_url", n.revocationsURL())
}

func (n *Node) revocationsURL() string { return n.issuer + "/v1/revocations" }

// close ends the reader. It may be called twice.
func (r *feedReader) close() {
	f := &r.n.feed
	f.mu.Lock()
	defer f.mu.Unlock()
	if r.topic != nil {
		f.unsubscribe(r.f.app, r.f.user, r.topic)
		r.topic = nil
	}
}

// cursor returns how far the reader is: everything up to there was given.
func (r *feedReader) cursor() events.Revision {
	var all events.Revision
	for s, p := range r.at {
		all = append(all, events.Position{Stream: s.region, Gen: p.gen, Seq: p.seq})
	}
	for _, w := range r.waits {
		all = append(all, w.at)
	}
	slices.SortFunc(all, func(a, b events.Position) int { return cmp.Compare(a.Stream, b.Stream) })
	return all
}

// level returns cursor, once all that was given is dealt with.
func (r *feedReader) level() events.Revision {
	r.passed = r.cursor()
	return r.passed
}

// after returns from where one goes on behind the event, which is called for each in
// turn: cursor may be ahead of it.
func (r *feedReader) after(e *feedEvent) events.Revision {
	for i := range r.passed {
		if r.passed[i].Stream == e.pos.Stream {
			r.passed[i] = e.pos
			return r.passed
		}
	}
	r.passed = append(r.passed, e.pos)
	slices.SortFunc(r.passed, func(a, b events.Position) int { return cmp.Compare(a.Stream, b.Stream) })
	return r.passed
}

// read waits for events and returns them, at least one, or an error: that of ctx,
// errFeedSlow, errFeedRewound, errFeedEnded, or one of the log, after which it may be
// called again.
func (r *feedReader) read(ctx context.Context) ([]*feedEvent, error) {
	for {
		all, changed, err := r.poll(ctx)
		if err != nil || len(all) > 0 {
			return all, err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// poll returns events that are there, or none and a channel that is closed when
// there may be some. With none, everything that readers of the projection saw when
// it was called was given.
func (r *feedReader) poll(ctx context.Context) ([]*feedEvent, <-chan struct{}, error) {
	for {
		all, changed, err := r.step(ctx)
		if err == errFeedSlow && r.f.patient {
			err = r.rejoin(ctx)
		}
		if err != nil || len(all) > 0 || changed != nil {
			return all, changed, err
		}
	}
}

// rejoin goes on behind the cursor, in the log.
func (r *feedReader) rejoin(ctx context.Context) error {
	next, err := r.n.readFeed(ctx, r.f, r.cursor())
	if err != nil {
		return err
	}
	r.close()
	*r = *next
	return nil
}

// step returns events, or what to wait for; or neither, and is to be called again.
func (r *feedReader) step(ctx context.Context) ([]*feedEvent, <-chan struct{}, error) {
	for s, p := range r.at {
		if p.seq < p.until {
			all, err := r.readLog(ctx, s, p)
			if unreadable(err) && r.mayWait(s.region) && ctx.Err() == nil {
				r.n.conf.Log.Warn("a feed does without a stream for now", "stream", s.region, "error", err)
				delete(r.at, s)
				r.wait(events.Position{Stream: s.region, Gen: p.gen, Seq: p.seq})
				err = nil
			}
			return all, nil, err
		}
	}
	return r.readRing()
}

// readLog reads the next events of the stream from the log.
func (r *feedReader) readLog(ctx context.Context, s *stream, p *feedPlace) ([]*feedEvent, error) {
	if err := r.check(s, p); err != nil {
		return nil, err
	}
	filters := r.f.subjects(s.region)
	if len(filters) == 0 {
		p.seq = p.until
		return nil, nil
	}
	select {
	case r.n.feed.reading <- struct{}{}:
		defer func() { <-r.n.feed.reading }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	var all []*feedEvent
	reached := p.until
	err := s.log.Read(ctx, events.Range{From: p.seq + 1, To: p.until, Filters: filters}, func(e events.Entry) bool {
		rec := r.n.conf.Keys.Decode(s.number, e)
		if r.f.wants(&rec) {
			if ev := s.feedEvent(&rec, s.at(rec.Seq), p.since); r.f.takes(ev) {
				all = append(all, ev)
			}
		}
		if len(all) == feedChunk {
			reached = e.Seq
			return false
		}
		return true
	})
	if err != nil {
		return nil, fmt.Errorf("read what was missed of stream %s: %w", s.region, err)
	}
	// What was read may be of a log that has since gone backwards.
	if err := r.check(s, p); err != nil {
		return nil, err
	}
	p.seq = reached
	return all, nil
}

// check reports whether the stream still continues what the reader has of it.
func (r *feedReader) check(s *stream, p *feedPlace) error {
	r.n.feed.mu.Lock()
	defer r.n.feed.mu.Unlock()
	return r.checkLocked(s, p)
}

func (r *feedReader) checkLocked(s *stream, p *feedPlace) error {
	gen, _ := s.fold.Position()
	switch {
	case r.n.feed.ended:
		return errFeedEnded
	case gen != p.gen:
		// Also if it was another node that met this: the cursor that the reader began
		// with may be from there, of what the log has lost.
		return errFeedRewound
	case s.lives == p.lives:
		return nil
	}
	return errFeedSlow // read again for a key that came since: nothing is undone
}

// readRing reads the next events from memory.
func (r *feedReader) readRing() ([]*feedEvent, <-chan struct{}, error) {
	// Before the ring: what was applied by now is in it, or was never wanted.
	applied := make(map[*stream]uint64, len(r.at))
	for s := range r.at {
		applied[s] = s.applied.Load()
	}
	entries, changed, err := r.scan()
	if err != nil {
		return nil, nil, err
	}
	var all []*feedEvent
	for i := range entries {
		e := &entries[i]
		if ev := e.event(); r.f.takes(ev) {
			all = append(all, ev)
		}
		if p := r.at[e.stream]; p != nil {
			p.seq, p.until = e.record.Seq, e.record.Seq
		} else {
			r.at[e.stream] = &feedPlace{lives: e.lives, gen: e.at.Gen, seq: e.at.Seq, until: e.at.Seq, since: e.at.Seq}
		}
	}
	if changed != nil {
		for s, seq := range applied {
			p := r.at[s]
			p.seq = max(p.seq, seq)
			p.until = p.seq
		}
	}
	return all, changed, nil
}

// scan returns the next entries that may be wanted; changed is not nil when these
// are all there are.
func (r *feedReader) scan() (entries []feedEntry, changed <-chan struct{}, err error) {
	f := &r.n.feed
	f.mu.Lock()
	defer f.mu.Unlock()
	for s, p := range r.at {
		if err := r.checkLocked(s, p); err != nil {
			return nil, nil, err
		}
	}
	switch {
	case f.ended:
		return nil, nil, errFeedEnded
	case r.topic.last <= r.next: // nothing since that concerns it
		r.next = f.tail
		return nil, r.topic.changed, nil
	case r.next+feedEntries < f.tail:
		return nil, nil, errFeedSlow
	}
	end := min(f.tail, r.next+feedScan)
	for ; r.next < end && len(entries) < feedChunk; r.next++ {
		e := &f.ring[r.next%feedEntries]
		if r.carries(e.stream) && r.f.wants(e.record) {
			entries = append(entries, *e)
		}
	}
	if r.next == f.tail {
		changed = r.topic.changed
	}
	return entries, changed, nil
}

// carries reports whether the reader reads the stream.
func (r *feedReader) carries(s *stream) bool {
	if r.f.streams == nil {
		return r.waits[s.region] == nil
	}
	return slices.Contains(r.f.streams, s)
}
