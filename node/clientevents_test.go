package node_test

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/revocast/revocast/node/api"
)

// pageFeed is what a page was told by its event stream, as it comes.
type pageFeed struct {
	t      *testing.T
	end    context.CancelFunc
	served sync.WaitGroup

	mu     sync.Mutex // guards what follows
	status int
	header http.Header
	text   strings.Builder
	at     []time.Time // of each event
	over   bool
}

// Header implements [http.ResponseWriter]; so do Write and WriteHeader.
func (s *pageFeed) Header() http.Header    { return s.header }
func (s *pageFeed) WriteHeader(status int) { s.status = status }
func (s *pageFeed) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.text.Write(b)
	return len(b), nil
}

// Flush implements [http.Flusher].
func (s *pageFeed) Flush() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for n := strings.Count(s.text.String(), "\nevent: "); len(s.at) < n; {
		s.at = append(s.at, time.Now())
	}
}

// listenAsPage opens the event stream of the token as a page of the origin does.
func (h *harness) listenAsPage(token string, headers ...string) *pageFeed {
	h.t.Helper()
	ctx, cancel := context.WithCancel(h.t.Context())
	s := &pageFeed{t: h.t, end: cancel, header: http.Header{}}
	r := httptest.NewRequestWithContext(ctx, "GET", "/v1/client/events", nil)
	r.Header.Set("Cookie", "__Host-session="+token)
	r.Header.Set("Sec-Fetch-Site", "same-origin")
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	s.served.Go(func() {
		h.handler.ServeHTTP(s, r)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.over = true
	})
	h.t.Cleanup(func() { cancel(); s.served.Wait() })
	synctest.Wait()
	return s
}

// pageEvent is one event of a stream.
type pageEvent struct {
	kind string
	at   time.Time
	data string
	api.Event
}

// events returns what was told so far, without heartbeats, and whether it is over.
func (s *pageFeed) events() (all []pageEvent, over bool) {
	s.t.Helper()
	synctest.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for part := range strings.SplitSeq(s.text.String(), "\n\n") {
		_, data, _ := strings.Cut(part, "data: ")
		_, kind, ok := strings.Cut(part, "event: ")
		if !ok {
			continue
		}
		kind, _, _ = strings.Cut(kind, "\n")
		e := pageEvent{kind: kind, at: s.at[n], data: data}
		if n++; kind == "heartbeat" {
			continue
		}
		if err := json.Unmarshal([]byte(data), &e.Event); err != nil {
			s.t.Fatalf("%s: %v", part, err)
		}
		all = append(all, e)
	}
	return all, s.over
}

// want fails unless these kinds of events came after hello, and says whether the stream
// is to be over. It returns the last.
func (s *pageFeed) want(over bool, kinds ...string) (last pageEvent) {
	s.t.Helper()
	all, isOver := s.events()
	var got []string
	for _, e := range all {
		got = append(got, e.kind)
		last = e
	}
	if want := append([]string{"hello"}, kinds...); strings.Join(got, " ") != strings.Join(want, " ") || isOver != over {
		s.t.Fatalf("told %v, over %v; want %v, %v\n%s", got, isOver, want, over, s.text.String())
	}
	return last
}

func (s *pageFeed) heartbeats() (all []api.FeedHeartbeat) {
	s.t.Helper()
	synctest.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	for part := range strings.SplitSeq(s.text.String(), "\n\n") {
		if _, data, ok := strings.Cut(part, "event: heartbeat\ndata: "); ok {
			var b api.FeedHeartbeat
			if err := json.Unmarshal([]byte(data), &b); err != nil {
				s.t.Fatal(err)
			}
			all = append(all, b)
		}
	}
	return all
}

// TestClientEventsRefused: who may not refresh a session hears nothing of it.
func TestClientEventsRefused(t *testing.T) {
	browserBubble(t, func(t *testing.T, h *harness) {
		const events = "/v1/client/events"
		c := h.login("ada")
		token := c.str("session_token")
		h.do("", "GET", events, nil, "Origin", page).wantNoSession("missing", "")
		h.do(c.str("session_jwt"), "GET", events, nil).wantNoSession("token_needed", "")
		h.do("junk", "GET", events, nil).wantNoSession("malformed", "")
		h.do("", "GET", events, nil, "Cookie", "__Host-session="+token).wantError(403, api.OriginNotAllowed)
		for _, evil := range [][]string{{"Origin", "https://evil.example"}, {"Origin", "null"}, {"Sec-Fetch-Site", "cross-site"}, {"Sec-Fetch-Site", "same-site"}} {
			r := h.do("", "GET", events, nil, append(evil, "Cookie", "__Host-session="+token)...).wantError(403, api.OriginNotAllowed)
			r.wantReadableBy("")
		}
		h.do(token, "GET", events+"?app=other", nil).wantNoSession("unknown", "")
		h.do("", "OPTIONS", events, nil, "Origin", page).want(204)
		h.do(token, "HEAD", events, nil).want(200) // and does not wait for anything
		h.do("", "OPTIONS", events, nil, "Origin", "https://evil.example").wantError(403, api.OriginNotAllowed)
		h.do(h.key, "POST", "/v1/apps/acme/suspend", nil)
		h.do(h.admin, "POST", "/v1/apps/acme/suspend", nil).want(200)
		h.do(token, "GET", events, nil).wantError(403, api.AppSuspended)
		h.do(h.admin, "POST", "/v1/apps/acme/resume", nil).want(200)
		h.do(h.key, "POST", "/v1/sessions/revoke", m{"session_token": token}).want(200)
		h.do("", "GET", events, nil, "Cookie", "__Host-session="+token, "Origin", page).wantNoSession("revoked", "")
	})
}

// TestClientEventsRevoked: whatever takes the session away is told at once, without
// saying why, and what spares it is not.
func TestClientEventsRevoked(t *testing.T) {
	browserBubble(t, func(t *testing.T, h *harness) {
		for name, body := range map[string]func(c *reply) m{
			"session":   func(c *reply) m { return m{"session_id": c.str("session.session_id"), "reason": "fraud team: case 7"} },
			"user":      func(*reply) m { return m{"user_id": "ada", "reason": "fraud team: case 7"} },
			"all":       func(*reply) m { return m{"all": true} },
			"by a page": nil,
		} {
			c, bystander := h.login("ada"), h.login("eve")
			s := h.listenAsPage(c.str("session_token"), "Origin", page)
			if hello := s.want(false); hello.SessionID != c.str("session.session_id") || s.status != 200 ||
				s.header.Get("Content-Type") != "text/event-stream" || s.header.Get("Access-Control-Allow-Origin") != page {
				t.Errorf("%s: %v %v", name, hello, s.header)
			}
			other := h.listenAsPage(bystander.str("session_token"))
			time.Sleep(7 * time.Second)
			// Of others, or of this user but not of this session.
			h.do(h.key, "POST", "/v1/sessions/revoke", m{"user_id": "ada", "except_session_id": c.str("session.session_id")}).want(200)
			h.do(h.key, "POST", "/v1/sessions/revoke", m{"session_token": h.login("ada").str("session_token")}).want(200)
			s.want(false)
			begun := time.Now()
			if body == nil {
				h.browse(logout, page, c.str("session_token")).want(200)
			} else {
				h.do(h.key, "POST", "/v1/sessions/revoke", body(c)).want(200)
			}
			got := s.want(true, api.EventRevoked)
			if got.at.Sub(begun) > 100*time.Millisecond || got.SessionID != c.str("session.session_id") || got.RevokedAt == nil || got.AppID != "acme" {
				t.Errorf("%s: after %v: %s", name, got.at.Sub(begun), got.data)
			}
			for _, secret := range []string{"fraud", "by", "user_id", "eve", c.str("session_token")} {
				if strings.Contains(got.data, secret) {
					t.Errorf("%s: a page is told %q: %s", name, secret, got.data)
				}
			}
			if name == "all" {
				other.want(true, api.EventRevoked)
			} else {
				other.want(false)
			}
			other.end()
		}
	})
}

// TestClientEventsEnd: a session that ends by time ends its stream at that moment, unless
// it was put off.
func TestClientEventsEnd(t *testing.T) {
	browserBubble(t, func(t *testing.T, h *harness) {
		create := func(body m) string {
			return h.do(h.key, "POST", "/v1/sessions", body).want(201).str("session_token")
		}
		begun := time.Now()
		plain := h.listenAsPage(create(m{"user_id": "ada", "session_duration_minutes": 1}))
		longer := create(m{"user_id": "ada", "session_duration_minutes": 1})
		extended := h.listenAsPage(longer)
		idle := h.listenAsPage(create(m{"user_id": "ada", "idle_timeout_minutes": 1}))
		used := create(m{"user_id": "ada", "idle_timeout_minutes": 1})
		touched := h.listenAsPage(used)
		time.Sleep(30 * time.Second)
		h.do(h.key, "POST", "/v1/sessions/authenticate", m{"session_token": longer, "session_duration_minutes": 3}).want(200)
		h.browse(refresh, page, used).want(200)
		time.Sleep(29 * time.Second)
		plain.want(false)
		time.Sleep(2 * time.Second)
		ends := func(s *pageFeed, reason string, after time.Duration, before ...string) {
			t.Helper()
			e := s.want(true, append(before, api.EventExpired)...)
			if took := e.at.Sub(begun); took < after || took > after+50*time.Millisecond || e.Reason != reason {
				t.Errorf("%s after %v, want %s after %v", e.Reason, took, reason, after)
			}
		}
		ends(plain, "expired", time.Minute)
		time.Sleep(4 * time.Minute)
		ends(extended, "expired", 3*time.Minute+30*time.Second, api.EventExtended)
		// A tenth of it, and the lease, are added to the idle timeout.
		ends(idle, "idle", 81*time.Second)
		if e := touched.want(true, api.EventExpired); e.at.Sub(begun) < 111*time.Second {
			t.Errorf("a session that was used ended after %v", e.at.Sub(begun))
		}
	})
}

// TestClientEventsChanges: a page is told that its session changed, and not how.
func TestClientEventsChanges(t *testing.T) {
	browserBubble(t, func(t *testing.T, h *harness) {
		c := h.login("ada")
		s := h.listenAsPage(c.str("session_token"))
		h.do(h.key, "PATCH", "/v1/sessions/"+c.str("session.session_id"), m{"metadata": m{"internal": "yes"}}).want(200)
		if e := s.want(false, api.EventChanged); strings.Contains(e.data, "internal") {
			t.Error(e.data)
		}
		h.do(h.key, "POST", "/v1/sessions/rotate", m{"session_token": c.str("session_token"), "grace_seconds": 30}).want(200)
		s.want(false, api.EventChanged, api.EventChanged)
	})
}

// TestClientEventsUninvited: who would not be let in again hears no more, and nobody is
// signed out by that.
func TestClientEventsUninvited(t *testing.T) {
	browserBubble(t, func(t *testing.T, h *harness) {
		token := h.login("ada").str("session_token")
		old := h.listenAsPage(token, "Origin", page)
		next := h.do(h.key, "POST", "/v1/sessions/rotate", m{"session_token": token, "grace_seconds": 20}).want(200).str("session_token")
		now := h.listenAsPage(next, "Origin", page)
		time.Sleep(15 * time.Second)
		old.want(false, api.EventChanged)
		time.Sleep(11 * time.Second)
		old.want(true, api.EventChanged)
		now.want(false)
		h.verify(next).want(204) // it was not taken for a stolen one

		own := h.listenAsPage(next, "Origin", publicURL)
		h.do(h.key, "PATCH", "/v1/apps/acme", m{"origins": []string{}}).want(200)
		time.Sleep(6 * time.Second)
		now.want(true)
		own.want(false)
		h.do(h.admin, "POST", "/v1/apps/acme/suspend", nil).want(200)
		own.want(true)
		h.do(h.admin, "POST", "/v1/apps/acme/resume", nil).want(200)
		h.verify(next).want(204)
	})
}

// TestClientEventsStale: a node that is cut off says so and signs nobody out, whatever
// it knows; and tells what it missed.
func TestClientEventsStale(t *testing.T) {
	browserBubble(t, func(t *testing.T, h *harness) {
		short := h.do(h.key, "POST", "/v1/sessions", m{"user_id": "ada", "session_duration_minutes": 1}).want(201)
		s := h.listenAsPage(short.str("session_token"))
		time.Sleep(12 * time.Second)
		beats := s.heartbeats()
		if len(beats) != 2 || len(beats[1].Streams) != 1 || beats[1].Streams[0].Region != "eu" || beats[1].Streams[0].Stale != "" || beats[1].Streams[0].StalenessMS > 2000 || beats[1].Revision == "" {
			t.Errorf("heartbeats %+v", beats)
		}
		h.home.Cut()
		time.Sleep(70 * time.Second) // it expires meanwhile
		s.want(false)
		beats = s.heartbeats()
		if last := beats[len(beats)-1].Streams[0]; last.Stale != "silent" {
			t.Errorf("a node that is cut off says %+v", last)
		}
		h.do(short.str("session_token"), "GET", "/v1/client/events", nil).wantError(503, api.NodeStale)
		h.home.Heal()
		time.Sleep(6 * time.Second)
		s.want(true, api.EventExpired)
	})
}

// TestClientEventsBounds: a session has so many streams and no more, and what ends
// leaves nothing behind.
func TestClientEventsBounds(t *testing.T) {
	browserBubble(t, func(t *testing.T, h *harness) {
		token := h.login("ada").str("session_token")
		var all []*pageFeed
		for range 16 {
			s := h.listenAsPage(token)
			s.want(false)
			all = append(all, s)
		}
		if r := h.do(token, "GET", "/v1/client/events", nil).wantError(429, api.TooManyFeeds); r.Header.Get("Retry-After") == "" {
			t.Errorf("%v", r.Header)
		}
		h.listenAsPage(h.login("ada").str("session_token")).want(false)
		all[3].end()
		all[3].served.Wait()
		h.listenAsPage(token).want(false)
		if got := h.node.FeedReaders(); got != 17 {
			t.Errorf("%d readers, want 17", got)
		}
		h.node.EndFeeds()
		for _, s := range all {
			s.want(true)
		}
		synctest.Wait()
		if got := h.node.FeedReaders(); got != 0 {
			t.Errorf("%d readers after the end", got)
		}
		h.do(token, "GET", "/v1/client/events", nil).wantError(503, api.NodeStale)
	})
}

// TestModule: the module is served as a browser will run it, and not more of it.
func TestModule(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		for file, want := range map[string]string{
			"revocast.js": "text/javascript; charset=utf-8", "wire.js": "text/javascript; charset=utf-8", "time.js": "text/javascript; charset=utf-8",
			"revocast.d.ts": "text/plain; charset=utf-8",
		} {
			r := h.do("", "GET", "/browser/"+file, nil).want(200)
			for name, value := range map[string]string{
				"Content-Type": want, "Access-Control-Allow-Origin": "*", "Cache-Control": "public, max-age=300", "X-Content-Type-Options": "nosniff",
			} {
				if got := r.Header.Get(name); got != value {
					t.Errorf("%s: %s %q, want %q", file, name, got, value)
				}
			}
			again := h.do("", "GET", "/browser/"+file, nil, "If-None-Match", r.Header.Get("ETag")).want(304)
			if len(r.Raw) == 0 || len(again.Raw) != 0 || r.Header.Get("ETag") == "" {
				t.Errorf("%s: ETag %q", file, r.Header.Get("ETag"))
			}
		}
		for _, path := range []string{"/browser/", "/browser/README.md", "/browser/browser.go", "/browser/demo", "/browser/demo/demo.js", "/browser/..", "/browser/x.js"} {
			h.do("", "GET", path, nil).wantError(404, api.NotFound)
		}
	})
}
