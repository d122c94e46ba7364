package node

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node/api"
	"github.com/revocast/revocast/projection"
)

// maxClientFeeds is how many event streams a session has at a time: one for each
// browser that has its token, and some that have not noticed their end.
const maxClientFeeds = 16

// clientTypes are the events of which a stream for a browser takes notice.
var clientTypes = map[string]bool{
	api.EventExtended: true, api.EventChanged: true, api.EventRevoked: true, api.EventUserRevoked: true, api.EventAppRevoked: true,
	api.EventAppSuspended: true, api.EventAppDeleted: true,
}

// clientFeeds counts event streams for browsers by session.
type clientFeeds struct {
	mu sync.Mutex // guards of
	of map[events.SID]int
}

func (c *clientFeeds) add(sid events.SID) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.of == nil {
		c.of = map[events.SID]int{}
	}
	if c.of[sid] >= maxClientFeeds {
		return false
	}
	c.of[sid]++
	return true
}

func (c *clientFeeds) remove(sid events.SID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.of[sid]--; c.of[sid] == 0 {
		delete(c.of, sid)
	}
}

// clientFeed is the event stream of one session for one browser.
//
// What ends the session is for the projection to say, as for every verify: an event
// that may concern it only has it asked again. So whatever takes a session away (its
// own revocation, one of its user or app, in this stream or recorded in another) is
// told, and what only looks like it is not.
type clientFeed struct {
	n      *Node
	from   *client    // who listens
	key    events.SID // of the token that was shown
	sid    events.SID
	app    string
	reader *feedReader
	out    *sseWriter
	beat   time.Time // of the last heartbeat, or hello
	stale  string    // as it said
}

// clientEvents answers GET /v1/client/events: what happens to the session whose token
// is shown, to who may refresh it. The verdict comes first, so who connects again has
// missed nothing.
func (n *Node) clientEvents(w http.ResponseWriter, r *http.Request) {
	c := n.newCall(w, r)
	s, err := n.openClientEvents(c)
	if err != nil {
		status, body := n.failed(c, route{}, err)
		respond(w, c, status, body)
		return
	}
	defer s.close()
	n.metrics.feeds.Inc()
	defer n.metrics.feeds.Dec()
	s.out = newSSEWriter(w)
	if r.Method != http.MethodHead { // which Go's mux takes for a GET
		s.serve(r.Context())
	}
}

// openClientEvents returns the stream of the session that is shown.
func (n *Node) openClientEvents(c *call) (*clientFeed, error) {
	ctx := c.r.Context()
	cl, err := n.newClient(c)
	if err != nil {
		return nil, err
	}
	f, err := n.tokenSession(ctx, cl)
	if err != nil {
		return nil, cl.ended(err, true)
	}
	if err := n.feedRoom(); err != nil {
		return nil, err
	}
	if !n.clientFeeds.add(f.SID) {
		return nil, fail(api.TooManyFeeds, "the session has %d event streams", maxClientFeeds)
	}
	// The projection's own texts would keep more than themselves.
	s := &clientFeed{n: n, from: cl, key: n.shownKey(cl, &f), sid: f.SID, app: strings.Clone(f.App)}
	s.reader, err = n.readFeed(ctx, feedFilter{app: s.app, user: events.UserHash(f.App, f.User), sid: &s.sid, types: clientTypes}, nil)
	if err != nil {
		n.clientFeeds.remove(s.sid)
		return nil, feedFailure(err)
	}
	return s, nil
}

// shownKey returns the key of the token by which the session was found.
func (n *Node) shownKey(cl *client, f *found) events.SID {
	key, native := events.Token(cl.text).Key()
	if native {
		if s, _, _ := n.sessions().LookupToken(key, n.judged()); s.SID == f.SID {
			return key
		}
	}
	key, _, _ = n.foreignKey(f.App, cl.text)
	return key
}

// mayListen reports whether who listens would be let in again: its token has not been
// replaced, and its app is not shut and lists its origin.
func (s *clientFeed) mayListen() bool {
	if _, v := s.n.sessions().Replaced(s.key, s.n.judged()); v != projection.Unknown {
		return false // and must not be shown again by this node: that would be a reuse
	}
	app, ok := s.n.app(s.app)
	return ok && app.State == events.AppActive &&
		s.from.from.refused(s.from.cookie, func(origin string) bool { return s.n.mayCall(app, origin) }) == nil
}

func (s *clientFeed) close() {
	s.reader.close()
	s.n.clientFeeds.remove(s.sid)
}

// serve writes until the session has ended, or the client is gone. It ends without a
// word when the node stops, cannot go on, or would have to guess: the client asks
// again, and is given a verdict first.
func (s *clientFeed) serve(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		// Before the look: what is in here, the look sees.
		news, changed, err := s.reader.poll(ctx)
		if err != nil {
			return
		}
		a, err := s.n.bySID(s.sid)
		stale, fenced := errors.AsType[*staleError](err)
		if err != nil && !fenced || !fenced && !s.tell(&a, news) {
			_ = s.out.flush() // the last word, if there is one
			return
		}
		if s.tick(&a, stale) != nil || s.out.flush() != nil {
			return
		}
		if changed == nil {
			continue
		}
		timer.Reset(s.until(&a))
		select {
		case <-changed:
		case <-timer.C:
		case <-ctx.Done():
			return
		}
	}
}

// tell adds what happened to the session, and reports whether it goes on.
func (s *clientFeed) tell(a *answer, news []*feedEvent) bool {
	e := api.Event{
		AppID: s.app, SessionID: s.sid.String(), At: s.n.conf.Clock.Wall().UTC().Truncate(time.Millisecond),
		Revision: s.n.positionOf(s.sid.Stream()).String(),
	}
	switch a.verdict {
	case projection.Active:
	case projection.Revoked: // for what reason, and by whom, is not for a page
		e.Type, e.RevokedAt = api.EventRevoked, moment(a.RevokedAt)
		_ = s.out.value(e.Type, "", &e) // its types always encode
		return false
	case projection.Expired, projection.IdleExpired:
		e.Type, e.Reason = api.EventExpired, a.verdict.String()
		_ = s.out.value(e.Type, "", &e)
		return false
	default: // erased, or not yet known again: what that means takes longer to find out
		return false
	}
	if !s.mayListen() {
		return false
	}
	for _, told := range news {
		if told.Type == api.EventChanged || told.Type == api.EventExtended {
			e.Type, e.Revision, e.At, e.ExpiresAt = told.Type, told.Revision, told.At, told.ExpiresAt
			_ = s.out.value(e.Type, "", &e)
		}
	}
	return true
}

// tick adds the heartbeat, or at the beginning hello, when it is due, or when this
// node begins or ceases to be sure of what it says.
func (s *clientFeed) tick(a *answer, stale *staleError) error {
	now, first := time.Now(), s.beat.IsZero()
	home := api.FeedStream{Stream: s.sid.Stream(), Region: s.n.regionOf(s.sid.Stream()), StalenessMS: a.staleness.Milliseconds() + 1, Stale: a.stale}
	if stale != nil {
		home.StalenessMS, home.Stale = 0, stale.reason
	}
	if !first && now.Sub(s.beat) < feedBeat && home.Stale == s.stale {
		return nil
	}
	s.beat, s.stale = now, home.Stale
	at := s.reader.cursor().String()
	if first {
		return s.out.value(sseHello, at, &api.ClientHello{
			SessionID: s.sid.String(), Revision: at, HeartbeatSeconds: int64(feedBeat.Seconds()), Streams: []api.FeedStream{home},
		})
	}
	return s.out.value(sseHeartbeat, at, &api.FeedHeartbeat{Revision: at, Streams: []api.FeedStream{home}})
}

// until is when to look again: for the next heartbeat, or when the session ends, if it
// is not put off meanwhile.
func (s *clientFeed) until(a *answer) time.Duration {
	wait := time.Until(s.beat.Add(feedBeat))
	if a.verdict != projection.Active {
		return wait
	}
	end := a.ExpiresAt
	if a.Idle > 0 {
		end = min(end, a.IdleEnd(s.n.conf.Lease))
	}
	if left := time.Duration(end-s.n.wall()) * time.Millisecond; left > 0 {
		wait = min(wait, left)
	}
	return wait
}
