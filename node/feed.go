package node

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"sync"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node/api"
)

// feedEntries is how many entries are held for who reads as they come. At some
// thousand events a second that is several seconds; who is further behind reads
// the log.
const feedEntries = 1 << 14

// feedLogReads is how many readers read the log at a time: each takes a consumer of
// the server.
const feedLogReads = 8

// feed hands the entries that the streams' appliers made visible on to any number of
// readers. An applier stores an entry and goes on, whatever the readers do; it never
// waits for one. A reader that is too slow is told so, and reads the log.
//
// Readers wait by topic, so that an event wakes only those it may concern: of ten
// thousand browsers, each of which waits for one user's, next to none.
type feed struct {
	wake    chan struct{} // 1 deep: dirty is not empty
	reading chan struct{} // holds one for each reader that reads the log

	mu sync.Mutex // guards what follows
	// ring holds the entries with the numbers tail-feedEntries to tail-1, by number;
	// nil while there is no reader.
	ring    []feedEntry
	tail    uint64
	readers int
	topics  map[string]map[string]*topic // by app, then by hash of the user; "" is all
	dirty   []*topic
	ended   bool
}

// feedEntry is an entry of a stream as the ring holds it. It is shared by all readers.
type feedEntry struct {
	stream *stream
	lives  uint64 // of the stream
	record *events.Record
	at     events.Position // in the generation in which it was applied
	told   *told
}

// told is what an entry says, worked out by the first reader that wants it.
type told struct {
	once  sync.Once
	event *feedEvent
}

// feedEvent is an event as all readers share it: it never changes.
type feedEvent struct {
	*api.Event
	pos  events.Position
	json []byte
}

// topic is what readers wait for: entries of an app, of one user of it, or all.
type topic struct {
	readers int
	last    uint64 // number of the newest entry that concerns it, and 1
	dirty   bool
	changed chan struct{} // closed, and made anew, when there is one
}

func newFeed() feed {
	return feed{
		wake: make(chan struct{}, 1), reading: make(chan struct{}, feedLogReads),
		topics: map[string]map[string]*topic{},
	}
}

// toldKinds are those of which entries can become events of a feed.
var toldKinds = func() map[events.Kind]bool {
	kinds := map[events.Kind]bool{}
	for _, t := range api.EventTypes() {
		for _, k := range kindsOf(t) {
			kinds[k] = true
		}
	}
	return kinds
}()

// publish offers an entry that readers of the projection see now, before its
// sequence counts as applied. Only the applier of the stream calls it.
func (s *stream) publish(r *events.Record, overwrite bool) {
	revokes := r.Subject.Kind == events.KindRevoke || r.Subject.Kind == events.KindAll
	if revokes {
		s.recall(r, s.at(r.Seq).Gen)
	}
	if !toldKinds[r.Subject.Kind] || overwrite && !revokes {
		return
	}
	f := &s.node.feed
	f.mu.Lock()
	defer f.mu.Unlock()
	s.toldSeq = r.Seq
	if f.readers == 0 || !s.feeding {
		return
	}
	kept := *r // the applier uses its own again
	f.ring[f.tail%feedEntries] = feedEntry{stream: s, lives: s.lives, record: &kept, at: s.at(r.Seq), told: new(told)}
	f.tail++
	f.mark(f.topics[""][""])
	of := f.topics[r.Subject.App]
	if r.Subject.User == "" {
		for _, t := range of {
			f.mark(t)
		}
	} else {
		f.mark(of[""])
		f.mark(of[r.Subject.User])
	}
}

// mark has the readers of the topic, which may be nil, woken for the newest entry.
// f.mu is held.
func (f *feed) mark(t *topic) {
	if t == nil {
		return
	}
	t.last = f.tail
	if t.dirty {
		return
	}
	t.dirty = true
	f.dirty = append(f.dirty, t)
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// leaveFeed says that what the stream has delivered so far is no longer continued:
// it is read again from its beginning. Readers notice by its life.
func (s *stream) leaveFeed() {
	f := &s.node.feed
	f.mu.Lock()
	defer f.mu.Unlock()
	s.feeding, s.toldSeq = false, 0
	s.lives++
	f.wakeAll()
}

// joinFeed lets entries of the stream be heard, now that it is applied up to date.
func (s *stream) joinFeed() {
	s.node.feed.mu.Lock()
	defer s.node.feed.mu.Unlock()
	s.feeding = true
	select {
	case s.fed <- struct{}{}:
	default:
	}
}

// isFed reports whether entries of the stream are heard.
func (s *stream) isFed() bool {
	s.node.feed.mu.Lock()
	defer s.node.feed.mu.Unlock()
	return s.feeding
}

// EndFeeds ends all feeds, those under way and those to come, so that a server
// that serves them can be shut down.
func (n *Node) EndFeeds() {
	n.feed.mu.Lock()
	defer n.feed.mu.Unlock()
	n.feed.ended = true
	n.feed.wakeAll()
}

// wakeAll wakes every reader. f.mu is held.
func (f *feed) wakeAll() {
	for _, of := range f.topics {
		for _, t := range of {
			f.mark(t)
		}
	}
}

// spread wakes readers until ctx ends. To wake thousands takes longer than an
// applier may be held up.
func (n *Node) spread(ctx context.Context) error {
	for {
		select {
		case <-n.feed.wake:
			n.feed.spread()
		case <-ctx.Done():
			n.EndFeeds()
			n.feed.spread()
			return nil
		}
	}
}

func (f *feed) spread() {
	f.mu.Lock()
	dirty := f.dirty
	f.dirty = nil
	waking := make([]chan struct{}, len(dirty))
	for i, t := range dirty {
		waking[i], t.changed, t.dirty = t.changed, make(chan struct{}), false
	}
	f.mu.Unlock()
	for _, ch := range waking {
		close(ch)
	}
}

// subscribe adds a reader to the topic. f.mu is held.
func (f *feed) subscribe(app, user string) *topic {
	if f.readers++; f.ring == nil {
		f.ring = make([]feedEntry, feedEntries)
	}
	of := f.topics[app]
	if of == nil {
		of = map[string]*topic{}
		f.topics[app] = of
	}
	t := of[user]
	if t == nil {
		t = &topic{changed: make(chan struct{}), last: f.tail}
		of[user] = t
	}
	t.readers++
	return t
}

// unsubscribe takes a reader from the topic. f.mu is held.
func (f *feed) unsubscribe(app, user string, t *topic) {
	if f.readers--; f.readers == 0 {
		f.ring = nil
	}
	if t.readers--; t.readers > 0 {
		return
	}
	if delete(f.topics[app], user); len(f.topics[app]) == 0 {
		delete(f.topics, app)
	}
}

// Why a reader cannot go on.
var (
	// errFeedSlow: entries were dropped that it had not read. They are in the log.
	errFeedSlow = errors.New("the reader fell behind what is held for it")
	// errFeedRewound: the log went backwards, so that what it read may be undone.
	errFeedRewound = errors.New("the log that was read went backwards")
	// errFeedEnded: the node is leaving.
	errFeedEnded = errors.New("the node ends its feeds")
)

// event returns what the entry says, nil if nothing.
func (e *feedEntry) event() *feedEvent {
	e.told.once.Do(func() { e.told.event = e.stream.feedEvent(e.record, e.at, e.record.Seq-1) })
	return e.told.event
}

// feedEvent is changeOf, encoded.
func (s *stream) feedEvent(r *events.Record, at events.Position, since uint64) *feedEvent {
	e := s.changeOf(r, at, since)
	if e == nil {
		return nil
	}
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(e); err != nil {
		panic(err) // its types always encode
	}
	return &feedEvent{Event: e, pos: at, json: bytes.TrimSuffix(buf.Bytes(), []byte("\n"))}
}
