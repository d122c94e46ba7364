package client_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node/api"
	"github.com/revocast/revocast/node/client"
	"github.com/revocast/revocast/signer"
)

// script is a node that says of its feed whatever a test wants it to; its keys are
// a vault's. Its fields are guarded by the vault's mu.
type script struct {
	*vault
	know    api.Revocations  // the answer of GET /v1/revocations
	streams []api.FeedStream // of heartbeats
	mute    bool             // pings are taken and not answered
	status  map[string]int   // of answers by path; absent: 200
	kind    string           // the Content-Type of a feed
	first   string           // what a feed begins with; empty: hello
	catches int              // how often revocations were asked for
	since   []string         // of each feed
	feed    *io.PipeWriter   // the present one
	nonces  []string         // of pings, in their order
	says    *api.Session     // what it answers to any credential: that this is good; nil: 503
	refuses *api.Error       // what it answers to any credential instead; nil: says
	asked   []string         // with which consistency, each time
}

const anyFeed = "feed.1"

// RoundTrip implements http.RoundTripper.
func (s *script) RoundTrip(r *http.Request) (*http.Response, error) {
	w := newRecorder()
	s.mu.Lock()
	defer s.mu.Unlock()
	if status := s.status[r.URL.Path]; status != 0 {
		w.status = status
		_ = json.NewEncoder(w).Encode(&api.Error{StatusCode: status, ErrorType: "some"})
		return w.response(r), nil
	}
	switch r.URL.Path {
	case "/v1/revocations":
		s.catches++
		_ = json.NewEncoder(w).Encode(&s.know)
	case "/v1/events":
		return s.begin(w, r), nil
	case "/v1/events/ping":
		var p api.Ping
		if err := json.NewDecoder(r.Body).Decode(&p); err != nil || p.Feed != anyFeed {
			s.t.Errorf("a ping of %+v, %v", p, err)
		}
		s.nonces = append(s.nonces, p.Nonce)
		if !s.mute {
			s.beatLocked(p.Nonce)
		}
		w.status = http.StatusAccepted
		_, _ = w.Write([]byte("{}"))
	case "/v1/sessions/authenticate":
		var in api.Authenticate
		if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
			s.t.Errorf("authenticate: %v", err)
		}
		s.asked = append(s.asked, string(in.Consistency))
		if s.refuses != nil {
			w.status = s.refuses.StatusCode
			_ = json.NewEncoder(w).Encode(s.refuses)
			break
		}
		if s.says == nil {
			w.status = http.StatusServiceUnavailable
			break
		}
		_ = json.NewEncoder(w).Encode(&api.SessionAnswer{Meta: api.Meta{RequestID: "request-id-1"}, Session: *s.says})
	default:
		s.mu.Unlock()
		defer s.mu.Lock()
		return s.vault.RoundTrip(r)
	}
	return w.response(r), nil
}

func (s *script) begin(w *recorder, r *http.Request) *http.Response {
	s.since = append(s.since, r.URL.Query().Get("since"))
	out, in := io.Pipe()
	s.feed = in
	context.AfterFunc(r.Context(), func() { _ = in.CloseWithError(r.Context().Err()) })
	answer := w.response(r)
	answer.Header.Set("Content-Type", s.kind)
	answer.Body, answer.ContentLength = out, -1
	first := s.first
	if first == "" {
		first = event("hello", s.since[len(s.since)-1], api.FeedHello{Feed: anyFeed, JWTLifeSeconds: 300})
	}
	go func() { _, _ = io.WriteString(in, first) }() // until it is read, or the body is closed
	return answer
}

// event writes an event of a feed.
func event(kind, id string, data any) string {
	text, _ := json.Marshal(data) // of api types
	if id != "" {
		id = "id: " + id + "\n"
	}
	return fmt.Sprintf("event: %s\n%sdata: %s\n\n", kind, id, text)
}

// beatLocked answers a ping.
func (s *script) beatLocked(nonce string) {
	feed, text := s.feed, event("heartbeat", "", api.FeedHeartbeat{Streams: s.streams, Nonce: nonce})
	go func() { _, _ = io.WriteString(feed, text) }()
}

// say sends text on the present feed and returns when it was read.
func (s *script) say(text string) {
	s.mu.Lock()
	feed := s.feed
	s.mu.Unlock()
	if _, err := io.WriteString(feed, text); err != nil {
		s.t.Errorf("say %q: %v", text, err)
	}
	synctest.Wait()
}

// look returns how often revocations were asked for, and since when feeds were.
func (s *script) look() (catches int, since []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.catches, slices.Clone(s.since)
}

// act is a client that follows a script, and sessions of it.
type act struct {
	*script
	c   *client.Client
	ids []string // of sessions of stream 2
}

// play runs the test in a bubble, with a client that follows the script and holds a
// lease of 15 s, unless the changes keep it from that.
func play(t *testing.T, test func(t *testing.T, a *act), changes ...func(*script)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := &script{
			vault: newVault(t, signer.ES256), kind: "text/event-stream", status: map[string]int{},
			know:    api.Revocations{Revision: "_config:0:1,eu:0:5", JWTLifeSeconds: 300, AppState: "active"},
			streams: []api.FeedStream{{Region: "_config", Stream: 1}, {Region: "eu", Stream: 2}},
		}
		for _, change := range changes {
			change(s)
		}
		w := &world{t: t, begin: time.Now()}
		a := &act{script: s, c: s.client(func(c *client.Client) {
			c.APIKey, c.OnStale, c.HTTP = "sk_x", client.Refuse, &http.Client{Transport: s}
		})}
		client.SetClock(a.c, w.clock())
		for range 3 {
			id, _ := events.NewToken(2).Key()
			a.ids = append(a.ids, id.String())
		}
		w.run(a.c)
		time.Sleep(3 * time.Second)
		test(t, a)
	})
}

// judge returns what the client says of a JWT of the session, made now.
func (a *act) judge(id string) error {
	a.t.Helper()
	_, err := a.c.Verify(a.t.Context(), a.jwt(a.keys[0], signer.Native, func(c *signer.Claims) { c.SessionID = id }))
	return err
}

// expect fails the test unless the client says so of the session.
func (a *act) expect(name, id string, want error) {
	a.t.Helper()
	if err := a.judge(id); !errors.Is(err, want) {
		a.t.Errorf("%s: %v, want %v", name, err, want)
	}
}

func (a *act) revoked(id, at string) string {
	return event(api.EventRevoked, at, api.Event{Type: api.EventRevoked, AppID: "acme", SessionID: id, Revision: at})
}

// TestNonce: only a heartbeat with the nonce of a ping renews a lease, once, and from
// when the ping was sent.
func TestNonce(t *testing.T) {
	play(t, func(t *testing.T, a *act) {
		a.expect("with its first ping", a.ids[0], nil)
		a.set(func() { a.mute = true })
		beat := func(nonce string, streams ...api.FeedStream) {
			a.say(event("heartbeat", "", api.FeedHeartbeat{Nonce: nonce, Streams: streams}))
		}
		eu := api.FeedStream{Region: "eu", Stream: 2}
		time.Sleep(13 * time.Second)
		a.mu.Lock()
		old, last := a.nonces[0], a.nonces[len(a.nonces)-1]
		a.mu.Unlock()
		for _, nonce := range []string{"", "made-up", old} {
			beat(nonce, eu)
		}
		time.Sleep(2 * time.Second) // 15 s and more since the pings that were answered
		a.expect("without a nonce of ours", a.ids[0], client.ErrStale)
		beat(last, eu)
		a.expect("with the last", a.ids[0], nil)
		beat(last, eu)
		time.Sleep(13 * time.Second)
		a.expect("which counts from when it was sent", a.ids[0], client.ErrStale)
	})
}

// TestStreams: a lease is of one stream, is as much shorter as the node was behind,
// and is none when the node promises nothing or the stream was not caught up with.
func TestStreams(t *testing.T) {
	for name, c := range map[string]struct {
		stream api.FeedStream
		after  time.Duration // of the first ping, at most 3 s ago
		want   error
	}{
		"at once":            {api.FeedStream{Region: "eu", Stream: 2}, 0, nil},
		"another stream":     {api.FeedStream{Region: "eu", Stream: 3}, 0, client.ErrStale},
		"stale":              {api.FeedStream{Region: "eu", Stream: 2, Stale: "silent"}, 0, client.ErrStale},
		"below zero":         {api.FeedStream{Region: "eu", Stream: 2, StalenessMS: -9e6}, 0, client.ErrStale},
		"behind":             {api.FeedStream{Region: "eu", Stream: 2, StalenessMS: 10_000}, 0, nil},
		"behind, 3 s on":     {api.FeedStream{Region: "eu", Stream: 2, StalenessMS: 10_000}, 3 * time.Second, client.ErrStale},
		"too far behind":     {api.FeedStream{Region: "eu", Stream: 2, StalenessMS: 15_000}, 0, client.ErrStale},
		"not caught up":      {api.FeedStream{Region: "us", Stream: 2}, 0, client.ErrStale},
		"named by no cursor": {api.FeedStream{Region: "e", Stream: 2}, 0, client.ErrStale},
	} {
		play(t, func(t *testing.T, a *act) {
			a.set(func() { a.mute = true })
			time.Sleep(c.after)
			a.expect(name, a.ids[0], c.want)
		}, func(s *script) { s.streams = []api.FeedStream{c.stream} })
	}
}

// TestNewStream: a region that the node came to know later is caught up with before
// anything is said of its sessions.
func TestNewStream(t *testing.T) {
	play(t, func(t *testing.T, a *act) {
		id, _ := events.NewToken(3).Key()
		a.set(func() {
			a.streams = append(a.streams, api.FeedStream{Region: "us", Stream: 3})
			a.know.Revision += ",us:0:9"
			a.know.Sessions = []string{id.String()}
		})
		time.Sleep(20 * time.Second)
		a.expect("revoked before", id.String(), client.ErrRevoked)
		other, _ := events.NewToken(3).Key()
		a.expect("another of the region", other.String(), nil)
		a.expect("one of the old region", a.ids[0], nil)
		if catches, since := a.look(); catches != 2 || len(since) != 2 || since[1] != "_config:0:1,eu:0:5,us:0:9" {
			t.Errorf("caught up %d times, followed since %v", catches, since)
		}
	})
}

// TestStreamUnread: what was revoked in a region of which the node cannot say yet what
// was revoked there is not known here either, and stays so over any number of
// connections, although the cursors of the feed name it.
func TestStreamUnread(t *testing.T) {
	play(t, func(t *testing.T, a *act) {
		id, _ := events.NewToken(3).Key() // revoked before us:0:9
		cursor := "_config:0:1,eu:0:5,us:0:9"
		a.set(func() {
			a.streams = append(a.streams, api.FeedStream{Region: "us", Stream: 3})
			a.first = event("hello", cursor, api.FeedHello{Feed: anyFeed, JWTLifeSeconds: 300})
		})
		for range 20 {
			time.Sleep(4 * time.Second)
			a.say(event("heartbeat", cursor, api.FeedHeartbeat{Revision: cursor, Streams: a.streams}))
			a.expect("in the region that was not read", id.String(), client.ErrStale)
			a.expect("in the old region", a.ids[0], nil)
			a.set(func() { _ = a.feed.Close() })
		}
		a.set(func() { a.know.Revision, a.know.Sessions = cursor, []string{id.String()} })
		time.Sleep(20 * time.Second)
		a.expect("once it was", id.String(), client.ErrRevoked)
		other, _ := events.NewToken(3).Key()
		a.expect("another of the region", other.String(), nil)
	})
}

// TestResync: a feed that ends is followed from where it was, one from which something
// may be missing only after a catch-up; and nothing that was revoked comes back.
func TestResync(t *testing.T) {
	bad := func(kind, data string) string { return "event: " + kind + "\nid: eu:0:9\ndata: " + data + "\n\n" }
	for name, c := range map[string]struct {
		say   string
		again bool // it is caught up
	}{
		"slow":            {event("resync", "", api.FeedResync{Reason: "slow"}), false},
		"rewound":         {event("resync", "", api.FeedResync{Reason: "rewound"}), true},
		"gone":            {event("resync", "", api.FeedResync{Reason: "gone"}), true},
		"a new reason":    {event("resync", "", api.FeedResync{Reason: "new"}), true},
		"bad resync":      {bad("resync", "{"), true},
		"bad JSON":        {bad(api.EventRevoked, `{"app_id":"acme","session_id":`), true},
		"no session":      {bad(api.EventRevoked, `{"app_id":"acme"}`), true},
		"a bad session":   {bad(api.EventRevoked, `{"app_id":"acme","session_id":"x"}`), true},
		"a number":        {bad(api.EventUserRevoked, `{"app_id":"acme","user_hash":7}`), true},
		"no user":         {bad(api.EventUserRevoked, `{"app_id":"acme","revision":"eu:0:9"}`), true},
		"no data":         {"event: " + api.EventRevoked + "\ndata\n\n", true},
		"a bad heartbeat": {bad("heartbeat", "[]"), false},
		"a bad hello":     {bad("hello", "{}"), true},
	} {
		play(t, func(t *testing.T, a *act) {
			a.say(a.revoked(a.ids[0], "_config:0:1,eu:0:7"))
			a.expect(name+", revoked", a.ids[0], client.ErrRevoked)
			a.set(func() { a.mute = true })
			a.say(c.say)
			time.Sleep(time.Second)
			catches, since := a.look()
			want := "_config:0:1,eu:0:7"
			if c.again {
				want = "_config:0:1,eu:0:5" // what the catch-up says
			}
			if (catches == 2) != c.again || len(since) != 2 || since[1] != want {
				t.Errorf("%s: caught up %d times, followed since %v, want again %s", name, catches, since, want)
			}
			a.expect(name+", still revoked", a.ids[0], client.ErrRevoked)
			a.set(func() { a.mute = false })
			time.Sleep(15 * time.Second)
			a.expect(name+", another", a.ids[1], nil)
			a.expect(name+", revoked for good", a.ids[0], client.ErrRevoked)
		})
	}
}

// TestLongerLife: a JWT that lives longer than was said when revocations were caught
// up with may be of a session whose revocation is forgotten, here or at the node. So
// the API is asked about it, and what JWTs of that life need is caught up with.
func TestLongerLife(t *testing.T) {
	play(t, func(t *testing.T, a *act) {
		a.say(a.revoked(a.ids[0], "_config:0:1,eu:0:7"))
		judge := func(name, id string, want error) {
			t.Helper()
			jwt := a.jwt(a.keys[0], signer.Native, func(c *signer.Claims) { c.SessionID, c.Expires = id, c.IssuedAt.Add(time.Hour) })
			if _, err := a.c.Verify(t.Context(), jwt); !errors.Is(err, want) {
				t.Errorf("%s: %v, want %v", name, err, want)
			}
		}
		time.Sleep(11 * time.Minute) // longer than it is remembered
		if a.expect("another", a.ids[1], nil); a.c.Status().Revoked != 0 {
			t.Error("it is not forgotten")
		}
		// Before the question: while that waits for an answer a ping may come back.
		a.set(func() { a.know.JWTLifeSeconds, a.know.Sessions = 3600, []string{a.ids[0]} })
		judge("revoked and forgotten", a.ids[0], client.ErrStale)
		time.Sleep(10 * time.Second)
		judge("another, caught up", a.ids[1], nil)
		judge("revoked, caught up", a.ids[0], client.ErrRevoked)
		time.Sleep(time.Hour)
		judge("revoked, to the end", a.ids[0], client.ErrRevoked)
		if catches, _ := a.look(); catches != 2 {
			t.Errorf("caught up %d times", catches)
		}
	})
}

// TestPassedOver: what is not about the app, or of a type that is not known, changes
// nothing but the cursor; what comes twice is as good as once.
func TestPassedOver(t *testing.T) {
	play(t, func(t *testing.T, a *act) {
		a.say(event(api.EventRevoked, "eu:0:6", api.Event{AppID: "shop", SessionID: a.ids[0]}))
		a.say("event: session.invented\nid: eu:0:7\ndata: not even JSON\n\n: a comment\n\n")
		a.expect("a session of our app", a.ids[0], nil)
		for range 2 {
			a.say(a.revoked(a.ids[1], "_config:0:1,eu:0:8"))
		}
		a.expect("revoked", a.ids[1], client.ErrRevoked)
		a.set(func() { _ = a.feed.Close() })
		time.Sleep(time.Second)
		if catches, since := a.look(); catches != 1 || since[len(since)-1] != "_config:0:1,eu:0:8" {
			t.Errorf("caught up %d times, followed since %v", catches, since)
		}
	})
}

// TestCutOff: what was cut off in the middle is no event, and comes again.
func TestCutOff(t *testing.T) {
	play(t, func(t *testing.T, a *act) {
		whole := a.revoked(a.ids[0], "_config:0:1,eu:0:8")
		a.say(whole[:len(whole)-1])
		a.set(func() { _ = a.feed.Close() })
		time.Sleep(time.Second)
		if _, since := a.look(); len(since) != 2 || since[1] != "_config:0:1,eu:0:5" {
			t.Errorf("followed since %v", since)
		}
		a.expect("not heard yet", a.ids[0], nil)
	})
}

// TestNoFeed: an answer that is no feed is none, and is asked for again.
func TestNoFeed(t *testing.T) {
	for name, change := range map[string]func(*script){
		"a page":       func(s *script) { s.kind = "text/html" },
		"404":          func(s *script) { s.status["/v1/events"] = http.StatusNotFound },
		"401":          func(s *script) { s.status["/v1/events"] = http.StatusUnauthorized },
		"503":          func(s *script) { s.status["/v1/events"] = http.StatusServiceUnavailable },
		"410":          func(s *script) { s.status["/v1/events"] = http.StatusGone },
		"no hello":     func(s *script) { s.first = ": nothing\n\n" },
		"no ping":      func(s *script) { s.status["/v1/events/ping"] = http.StatusNotFound },
		"no catch-up":  func(s *script) { s.status["/v1/revocations"] = http.StatusServiceUnavailable },
		"a bad one":    func(s *script) { s.know.Sessions = []string{"x"} },
		"one of never": func(s *script) { s.know.Revision = "" },
		"silence":      func(s *script) { s.mute = true },
	} {
		play(t, func(t *testing.T, a *act) {
			time.Sleep(time.Minute)
			a.expect(name, a.ids[0], client.ErrStale)
			catches, since := a.look()
			a.set(func() {
				clear(a.status)
				a.kind, a.first, a.know.Sessions, a.know.Revision, a.mute = "text/event-stream", "", nil, "_config:0:1,eu:0:5", false
			})
			time.Sleep(20 * time.Second)
			a.expect(name+", and then all is well", a.ids[0], nil)
			if more, feeds := a.look(); more == catches && len(feeds) == len(since) && name != "silence" {
				t.Errorf("%s: nothing was asked for again", name)
			}
		}, change)
	}
}

// TestNodeBehind: what a node says that is behind the feed does not count against it;
// it is asked for an answer that knows, and that one counts.
func TestNodeBehind(t *testing.T) {
	play(t, func(t *testing.T, a *act) {
		began := time.Now()
		is := func(id string) {
			a.set(func() {
				a.says, a.asked = &api.Session{SessionID: id, AppID: "acme", UserID: "ada", StartedAt: began}, nil
			})
		}
		verify := func(name, credential string, want error, asked ...string) {
			t.Helper()
			s, err := a.c.Verify(t.Context(), credential)
			if !errors.Is(err, want) || (s != nil) != (err == nil) {
				t.Errorf("%s: %v, %v, want %v", name, s, err, want)
			}
			a.set(func() {
				if !slices.Equal(a.asked, asked) {
					t.Errorf("%s: asked with %q, want %q", name, a.asked, asked)
				}
				a.asked = nil
			})
		}
		is(a.ids[0])
		verify("a good session", "token", nil, "")
		a.say(a.revoked(a.ids[0], "_config:0:1,eu:0:6"))
		verify("revoked", "token", client.ErrRevoked, "")

		is(a.ids[1])
		at := time.Now()
		out := func(revision string) {
			e := api.Event{AppID: "acme", Region: "eu", Stream: 2, Revision: revision, At: at, RevokedAt: &at, UserHash: events.UserHash("acme", "ada")}
			a.say(event(api.EventUserRevoked, "_config:0:1,"+revision, e))
		}
		out("eu:0:7")
		verify("its user was logged out", "token", nil, "", `{"at_least":"eu:0:7"}`)
		verify("which is remembered", "token", nil, "")
		jwt := a.jwt(a.keys[0], signer.Native, func(c *signer.Claims) { c.SessionID = a.ids[1] })
		verify("of its JWT too", jwt, nil)
		at = at.Add(time.Second)
		out("eu:0:8")
		verify("logged out again, its JWT", jwt, nil, `{"at_least":"eu:0:8"}`)
		at = at.Add(time.Second)
		out("eu:0:9")
		a.set(func() { a.says = nil })
		verify("and again, but no node answers", jwt, client.ErrStale, `{"at_least":"eu:0:9"}`, `{"at_least":"eu:0:9"}`, `{"at_least":"eu:0:9"}`)

		is(a.ids[2])
		a.set(func() { a.says.AppID = "shop" })
		verify("a session of another app", "token", client.ErrStale, "")
		is("x")
		verify("no session", "token", client.ErrStale, "")
		is(a.ids[2])
		a.say(event(api.EventAppSuspended, "_config:0:2,eu:0:9", api.Event{AppID: "acme", Revision: "_config:0:2"}))
		verify("the app is suspended", "token", client.ErrSuspended, "")
	})
}
