package node

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node/api"
)

// maxFeeds is how many feeds a node serves at a time: each is a connection and a
// goroutine.
const maxFeeds = 50_000

// feeds are those that this node serves under a name, to be pinged.
type feeds struct {
	mu   sync.Mutex // guards what follows
	last uint64
	all  map[uint64]*servedFeed
}

// servedFeed is a feed under way.
type servedFeed struct {
	app   string // empty: all apps
	pings chan string
}

// events answers GET /v1/events: the feed of an app, or with a cluster admin key that
// names none, of all.
func (n *Node) events(w http.ResponseWriter, r *http.Request) {
	c := n.newCall(w, r)
	rt := route{pattern: "GET /v1/events"}
	f, reader, err := n.openEvents(c)
	if err != nil {
		status, body := n.failed(c, rt, err)
		respond(w, c, status, body)
		return
	}
	defer reader.close()
	feed := &servedFeed{app: f.app, pings: make(chan string, 8)}
	id := n.feeds.add(feed)
	defer n.feeds.remove(id)
	hello := &api.FeedHello{Feed: n.incarnation.String() + "." + strconv.FormatUint(id, 10), Node: n.conf.Name}
	if app, ok := n.app(f.app); ok {
		hello.JWTLifeSeconds = int64(n.jwtLife(app).Seconds())
	}
	out := newSSEWriter(w)
	if r.Method == http.MethodHead { // which Go's mux takes for a GET
		return
	}
	n.metrics.feeds.Inc()
	defer n.metrics.feeds.Dec()
	still := func() bool {
		_, err := n.eventsCaller(r)
		return err == nil
	}
	reason := n.serveFeed(r.Context(), out, reader, hello, feed.pings, still)
	n.metrics.feedEnds.WithLabelValues(reason).Inc()
}

// openEvents reads what is wanted and returns a reader of it.
func (n *Node) openEvents(c *call) (f feedFilter, reader *feedReader, err error) {
	who, err := n.eventsCaller(c.r)
	if err != nil {
		return f, nil, err
	}
	f, from, err := parseEvents(c.r, who.app)
	if err != nil {
		return f, nil, err
	}
	if _, stale := n.fresh(n.home.number); stale != nil {
		return f, nil, stale
	}
	if err := n.feedRoom(); err != nil {
		return f, nil, err
	}
	reader, err = n.readFeed(c.r.Context(), f, from)
	return f, reader, feedFailure(err)
}

// feedRoom says why there can be no further feed.
func (n *Node) feedRoom() error {
	n.feed.mu.Lock()
	defer n.feed.mu.Unlock()
	if n.feed.readers >= maxFeeds {
		return fail(api.MemoryFull, "this node serves as many feeds as it can; ask another")
	}
	return nil
}

// feedFailure gives an error of a reader the type it is answered with.
func feedFailure(err error) error {
	if errors.Is(err, errFeedEnded) {
		return fail(api.NodeStale, "this node is stopping; ask another").with("reason", reasonLeaving).because(err)
	}
	return err
}

// eventsCaller returns who asks for a feed; with an empty app, for one of all apps.
func (n *Node) eventsCaller(r *http.Request) (caller, error) {
	named, err := namedApp(r)
	if user, _, _ := r.BasicAuth(); err == nil && named == "" && user == "" {
		if who, err := n.authorize(r, api.ScopeCluster); err == nil {
			return who, nil
		}
	}
	return n.authorize(r, api.ScopeRead)
}

// parseEvents reads the query and the header Last-Event-ID.
func parseEvents(r *http.Request, app string) (f feedFilter, from events.Revision, err error) {
	q, err := readQuery(r.URL.RawQuery, "since", "types", "user_id")
	if err != nil {
		return f, nil, err
	}
	f.app = app
	since := ""
	for name, values := range q {
		switch value := values[0]; name {
		case "since":
			if since = value; value == "" { // not "now", which would pass over what was meant
				err = fail(api.InvalidArgument, "since: want the id of an event of a feed, or a revision").with("field", "since")
			}
		case "types":
			f.types, err = parseTypes(value)
		case "user_id":
			if app == "" {
				return f, nil, fail(api.InvalidArgument, "user_id: name the app, too").with("field", "user_id")
			}
			f.user, err = events.UserHash(app, value), checkUser(value)
		}
		if err != nil {
			return f, nil, err
		}
	}
	if last := r.Header.Get("Last-Event-ID"); last != "" {
		since = last
	}
	if since != "" {
		if from, err = parseRevision(since); err != nil {
			return f, nil, fail(api.InvalidArgument, "since, or Last-Event-ID: not the id of an event of a feed, nor a revision").
				with("field", "since").because(err)
		}
	}
	return f, from, nil
}

// parseTypes reads types of events, joined by commas.
func parseTypes(text string) (map[string]bool, error) {
	types := map[string]bool{}
	for t := range strings.SplitSeq(text, ",") {
		if !slices.Contains(api.EventTypes(), t) {
			return nil, fail(api.InvalidArgument, "types: no event type %q; want some of %s", t, strings.Join(api.EventTypes(), ", ")).
				with("field", "types")
		}
		types[t] = true
	}
	return types, nil
}

// serveFeed writes what the reader gives, and heartbeats, until the client is gone,
// the reader ends, or who asked may not ask any more. It returns why.
func (n *Node) serveFeed(ctx context.Context, out *sseWriter, reader *feedReader, hello *api.FeedHello, pings <-chan string, still func() bool) string {
	tick := time.NewTicker(feedBeat)
	defer tick.Stop()
	hello.HeartbeatSeconds = int64(feedBeat.Seconds())
	hello.Revision, hello.Streams = reader.level().String(), n.feedStreams(reader)
	if err := out.value(sseHello, hello.Revision, hello); err != nil {
		return feedFailed
	}
	due, nonce := false, ""
	beat := func() bool { due = true; return still() }
	for {
		// Before the events: what the heartbeat says of each stream was so when
		// nothing that it covers could still be missing.
		streams := n.feedStreams(reader)
		all, changed, err := reader.poll(ctx)
		if err != nil {
			return n.endFeed(ctx, out, err)
		}
		reader.disown(streams)
		for _, e := range all {
			out.event(e.Type, reader.after(e).String(), e.json)
		}
		n.metrics.feedEvents.Add(float64(len(all)))
		if changed != nil && due {
			more, err := reader.join()
			if err != nil {
				return n.endFeed(ctx, out, err)
			}
			if more {
				changed = nil
			}
			at := reader.level().String()
			if err := out.value(sseHeartbeat, at, &api.FeedHeartbeat{Revision: at, Streams: streams, Nonce: nonce}); err != nil {
				return feedFailed
			}
			due, nonce = false, ""
		}
		if err := out.flush(); err != nil {
			return feedGone
		}
		if changed == nil {
			select {
			case <-tick.C: // who may not read any more is not to read on to the end
				if !beat() {
					return feedRefused
				}
			default:
			}
			continue
		}
		select {
		case <-changed:
		case nonce = <-pings:
			due = true
		case <-tick.C:
			if !beat() {
				return feedRefused
			}
		case <-ctx.Done():
			return feedGone
		}
	}
}

// Why a feed ended, as the metric says it.
const (
	feedGone    = "gone"    // the client went away, or takes nothing
	feedRefused = "refused" // who asked may not ask any more
	feedLeft    = "leaving" // the node stops
	feedFailed  = "failed"
)

// endFeed tells the client how to go on after the reader ended, and returns why it did.
func (n *Node) endFeed(ctx context.Context, out *sseWriter, err error) string {
	reason := resyncGone
	failed, ok := errors.AsType[*failure](err)
	switch {
	case ctx.Err() != nil:
		return feedGone
	case errors.Is(err, errFeedEnded):
		_ = out.flush() // the client connects again, to another node
		return feedLeft
	case errors.Is(err, errFeedSlow):
		reason = resyncSlow
	case errors.Is(err, errFeedRewound):
		reason = resyncRewound
	case ok && failed.kind == api.CursorGone:
	default:
		n.conf.Log.Warn("a feed could not go on", "error", err)
		_ = out.flush()
		return feedFailed
	}
	if out.value(sseResync, "", &api.FeedResync{Reason: reason, RevocationsURL: n.revocationsURL()}) == nil {
		_ = out.flush()
	}
	return reason
}

// feedStreams says how well this node knows each stream, or what the reader has of it.
func (n *Node) feedStreams(r *feedReader) []api.FeedStream {
	now := n.conf.Clock.Boot()
	var all []api.FeedStream
	for _, s := range n.streams() {
		is := api.FeedStream{Region: s.region, Stream: s.number}
		age, known := s.lease.staleness(now)
		switch {
		case !s.lease.holds(now):
			is.Stale = s.lease.why()
		case !known, r != nil && r.at[s] == nil:
			is.Stale = reasonStarting
		default:
			is.StalenessMS = age.Milliseconds() + 1 // rounded up: it is a bound
		}
		all = append(all, is)
	}
	return all
}

func (f *feeds) add(s *servedFeed) uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.all == nil {
		f.all = map[uint64]*servedFeed{}
	}
	f.last++
	f.all[f.last] = s
	return f.last
}

func (f *feeds) remove(id uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.all, id)
}

// ping has the feed of the app answer, and reports whether there is one. A feed that
// has more pings to answer than it can is as good as one that answers late.
func (f *feeds) ping(id uint64, app, nonce string) bool {
	f.mu.Lock()
	s := f.all[id]
	f.mu.Unlock()
	if s == nil || s.app != app {
		return false
	}
	select {
	case s.pings <- nonce:
	default:
	}
	return true
}

const (
	pingTopic = "feedping"
	// pingTimeout is how long a ping looks for the node that serves the feed.
	pingTimeout = 2 * time.Second
)

// feedPing is what nodes ask one another for a ping of a feed.
type feedPing struct {
	Feed  uint64 `json:"feed"`
	App   string `json:"app"`
	Nonce string `json:"nonce"`
}

// ping answers POST /v1/events/ping: the feed of that name, wherever it is served,
// writes a heartbeat with the nonce. So who sends it learns that everything committed
// before has come, without any two clocks being compared.
func (n *Node) ping(ctx context.Context, c *call) (int, any, error) {
	who, err := n.eventsCaller(c.r)
	if err != nil {
		return 0, nil, err
	}
	var in api.Ping
	if err := c.decode(&in); err != nil {
		return 0, nil, err
	}
	if !nonces.MatchString(in.Nonce) {
		return 0, nil, fail(api.InvalidArgument, "nonce: want 1 to 64 characters [A-Za-z0-9_-]").with("field", "nonce")
	}
	var at events.Incarnation
	inc, number, _ := strings.Cut(in.Feed, ".")
	id, err := strconv.ParseUint(number, 10, 64)
	if err != nil || at.UnmarshalText([]byte(inc)) != nil {
		return 0, nil, fail(api.InvalidArgument, "feed: not the name of one").with("field", "feed")
	}
	if !n.pingAt(ctx, at, feedPing{Feed: id, App: who.app, Nonce: in.Nonce}) {
		return 0, nil, fail(api.FeedNotFound, "no node serves the feed %s", in.Feed)
	}
	return http.StatusAccepted, &api.Accepted{}, nil
}

var nonces = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

// pingAt pings the feed at the node of the incarnation.
func (n *Node) pingAt(ctx context.Context, at events.Incarnation, p feedPing) bool {
	if at == n.incarnation {
		return n.feeds.ping(p.Feed, p.App, p.Nonce)
	}
	if n.conf.Mesh == nil {
		return false
	}
	body, err := json.Marshal(p)
	if err != nil {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	var found bool
	n.conf.Mesh.Query(ctx, pingTopic, at, body, func(_ events.Incarnation, answer []byte) {
		found = string(answer) == "true"
		cancel()
	})
	return found
}

// pinged answers the ping of another node.
func (n *Node) pinged(_ context.Context, body []byte) ([]byte, bool) {
	var p feedPing
	if json.Unmarshal(body, &p) != nil {
		return nil, false
	}
	return strconv.AppendBool(nil, n.feeds.ping(p.Feed, p.App, p.Nonce)), true
}
