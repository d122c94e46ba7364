package node_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node"
)

// frame is one event of a feed as its client reads it.
type frame struct {
	name, id string
	data     map[string]any
}

func (f frame) str(name string) string { s, _ := f.data[name].(string); return s }

// feedClient reads a feed. Its frames come in order; the channel is closed when the
// feed has ended.
type feedClient struct {
	t      *testing.T
	status int
	header http.Header
	body   string // of an answer that is no feed
	frames chan frame
	stop   func()
}

// pipeWriter is the answer to a request, as a client reads it.
type pipeWriter struct {
	header http.Header
	status int
	begun  chan struct{}
	once   sync.Once
	*io.PipeWriter
}

func (w *pipeWriter) Header() http.Header { return w.header }
func (w *pipeWriter) Flush()              {}
func (w *pipeWriter) WriteHeader(status int) {
	w.once.Do(func() { w.status = status; close(w.begun) })
}
func (w *pipeWriter) Write(b []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	return w.PipeWriter.Write(b)
}

// feed opens a feed with the API key.
func (h *harness) feed(key, query string, headers ...string) *feedClient {
	h.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	r := httptest.NewRequestWithContext(ctx, "GET", "/v1/events?"+query, nil)
	r.Header.Set("Authorization", "Bearer "+key)
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	return readFeed(h.t, h.handler, r, cancel)
}

// readFeed has the handler answer the request, and reads what it says.
func readFeed(t *testing.T, handler http.Handler, r *http.Request, cancel func()) *feedClient {
	t.Helper()
	in, out := io.Pipe()
	w := &pipeWriter{header: http.Header{}, begun: make(chan struct{}), PipeWriter: out}
	c := &feedClient{t: t, frames: make(chan frame, 1<<16)}
	var running sync.WaitGroup
	running.Go(func() {
		defer out.Close()
		handler.ServeHTTP(w, r)
	})
	<-w.begun
	c.status, c.header = w.status, w.header
	if c.status != http.StatusOK {
		b, _ := io.ReadAll(in)
		c.body = string(b)
	}
	running.Go(func() {
		defer close(c.frames)
		c.read(in)
	})
	c.stop = sync.OnceFunc(func() { cancel(); in.Close(); running.Wait() })
	t.Cleanup(c.stop)
	return c
}

func (c *feedClient) read(in io.Reader) {
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 1<<20)
	var f frame
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), ": ")
		switch name {
		case "id":
			f.id = value
		case "event":
			f.name = value
		case "data":
			if err := json.Unmarshal([]byte(value), &f.data); err != nil {
				c.t.Errorf("data of %s: %v", f.name, err)
			}
		case "":
			if f.name != "" {
				c.frames <- f
			}
			f = frame{}
		}
	}
}

// next returns the next frame of one of the names; others are passed over. With no
// names, any but heartbeats.
func (c *feedClient) next(names ...string) frame {
	c.t.Helper()
	timeout := time.After(30 * time.Second)
	for {
		select {
		case f, ok := <-c.frames:
			switch {
			case !ok:
				c.t.Fatalf("the feed has ended; wanted %v", names)
			case slices.Contains(names, f.name), len(names) == 0 && f.name != "heartbeat":
				return f
			}
		case <-timeout:
			c.t.Fatalf("nothing came; wanted %v", names)
		}
	}
}

// quiet fails the test if anything comes before the next heartbeat.
func (c *feedClient) quiet() {
	c.t.Helper()
	for _, f := range []frame{c.any(), c.any()} {
		if f.name != "heartbeat" {
			c.t.Errorf("came: %s %v", f.name, f.data)
		}
	}
}

func (c *feedClient) any() frame {
	c.t.Helper()
	select {
	case f := <-c.frames:
		return f
	case <-time.After(30 * time.Second):
		c.t.Fatal("nothing came")
	}
	return frame{}
}

// ended fails the test unless the feed ends.
func (c *feedClient) ended() {
	c.t.Helper()
	for range c.frames {
	}
}

// What happens to sessions is told as it happens, with what a subscriber needs; and
// from the id of any event one goes on right behind it, from the log.
func TestFeed(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		other := h.newApp("other", nil)
		all, ada, revoked, elsewhere := h.feed(h.key, ""), h.feed(h.key, "user_id=ada"), h.feed(h.key, "types=session.revoked,user.revoked"), h.feed(other, "")
		hello := all.next("hello")
		if all.header.Get("Content-Type") != "text/event-stream" || hello.id == "" || hello.id != hello.str("revision") || hello.str("feed") == "" {
			t.Fatalf("hello %v, header %v", hello, all.header)
		}
		a, b := h.login("ada"), h.login("ben")
		sid := a.str("session.session_id")
		h.do(h.key, "PATCH", "/v1/sessions/"+sid, map[string]any{"session_duration_minutes": 100000}).want(http.StatusOK)
		h.do(h.key, "PATCH", "/v1/sessions/"+sid, map[string]any{"metadata": map[string]any{"a": 1}}).want(http.StatusOK)
		h.do(h.key, "POST", "/v1/sessions/revoke", map[string]any{"session_id": sid, "reason": "stolen"}).want(http.StatusOK)
		h.do(h.key, "POST", "/v1/sessions/revoke", map[string]any{"user_id": "ben"}).want(http.StatusOK)
		h.do(h.key, "POST", "/v1/sessions/revoke", map[string]any{"all": true}).want(http.StatusOK)
		want := []string{"session.created ada", "session.created ben", "session.extended ada", "session.changed ada", "session.revoked ada", "user.revoked ben", "app.revoked "}
		var frames []frame
		var got []string
		for range want {
			f := all.next()
			frames = append(frames, f)
			got = append(got, f.name+" "+f.str("user_id"))
			if f.str("type") != f.name || f.str("app_id") != h.app || f.str("region") != "eu" || f.data["stream"] != float64(2) {
				t.Errorf("event %v", f)
			}
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Fatalf("-want +got\n%s", d)
		}
		if f := frames[4]; f.str("session_id") != sid || f.str("reason") != "stolen" || f.str("revoked_at") == "" ||
			f.str("user_hash") != events.UserHash(h.app, "ada") {
			t.Errorf("revoked: %v", f.data)
		}
		if f := frames[0]; f.str("started_at") == "" || f.str("expires_at") == "" || f.str("revision") != a.str("revision") {
			t.Errorf("created: %v, revision %s", f.data, a.str("revision"))
		}
		ada.next("hello")
		for _, w := range []string{"session.created", "session.extended", "session.changed", "session.revoked", "app.revoked"} {
			if f := ada.next(); f.name != w {
				t.Errorf("feed of ada: %s, want %s", f.name, w)
			}
		}
		revoked.next("hello")
		for _, w := range []string{sid, ""} {
			if f := revoked.next(); f.str("session_id") != w {
				t.Errorf("feed of revocations: %v", f)
			}
		}
		elsewhere.next("hello")
		elsewhere.quiet()
		_ = b

		// The log holds the newest state of each session, and all revocations.
		for i, f := range frames {
			again := h.feed(h.key, "", "Last-Event-ID", f.id)
			again.next("hello")
			var rest []string
			for _, later := range frames[i+1:] {
				if newest := later.name == "session.changed" || !strings.HasPrefix(later.name, "session.") || later.name == "session.revoked" || later.str("user_id") == "ben"; newest {
					rest = append(rest, later.id)
				}
			}
			for _, id := range rest {
				if g := again.next(); g.id != id {
					t.Errorf("behind event %d: %s at %s, want %s", i, g.name, g.id, id)
				}
			}
			again.quiet()
			again.stop()
		}
	})
}

// A heartbeat tells how old the node's knowledge of each stream is, and answers pings.
func TestFeedPing(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		feed := h.feed(h.key, "")
		name := feed.next("hello").str("feed")
		if f := feed.next("heartbeat"); f.str("nonce") != "" || len(f.data["streams"].([]any)) != 2 {
			t.Errorf("heartbeat %v", f.data)
		}
		began := time.Now()
		h.do(h.key, "POST", "/v1/events/ping", map[string]any{"feed": name, "nonce": "n-1"}).want(http.StatusAccepted)
		f := feed.next("heartbeat")
		if f.str("nonce") != "n-1" || time.Since(began) > time.Second {
			t.Errorf("after %v: %v", time.Since(began), f.data)
		}
		for _, s := range f.data["streams"].([]any) {
			if s := s.(map[string]any); s["stale"] != nil || s["staleness_ms"].(float64) > 2000 {
				t.Errorf("stream %v", s)
			}
		}
		other := h.newApp("other", nil)
		for _, c := range []struct {
			key, body string
			status    int
			kind      string
		}{
			{other, fmt.Sprintf(`{"feed":%q,"nonce":"n"}`, name), 404, "feed_not_found"},
			{h.key, `{"feed":"AAAAAAAAAAAAAAAAAAAAAA.1","nonce":"n"}`, 404, "feed_not_found"},
			{h.key, `{"feed":"x","nonce":"n"}`, 400, "invalid_argument"},
			{h.key, fmt.Sprintf(`{"feed":%q,"nonce":""}`, name), 400, "invalid_argument"},
			{h.key, fmt.Sprintf(`{"feed":%q,"nonce":"a b"}`, name), 400, "invalid_argument"},
			{h.key, fmt.Sprintf(`{"feed":%q,"nonce":"n","x":1}`, name), 400, "invalid_argument"},
			{"", "{}", 401, "unauthorized_credentials"},
		} {
			h.do(c.key, "POST", "/v1/events/ping", c.body).wantError(c.status, c.kind)
		}
	})
}

// A node without a lease promises nothing, and says so.
func TestFeedFenced(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		feed := h.feed(h.key, "")
		feed.next("hello")
		h.home.Cut()
		defer h.home.Heal()
		time.Sleep(20 * time.Second)
		for {
			f := feed.next("heartbeat")
			s := f.data["streams"].([]any)[1].(map[string]any)
			if s["stale"] == "silent" {
				break
			}
		}
		h.do(h.key, "GET", "/v1/revocations", nil).wantError(503, "node_stale")
		h.do(h.key, "GET", "/v1/events", nil).wantError(503, "node_stale")
	})
}

// A log that went backwards ends the feed: what was told of it may be undone.
func TestFeedRewound(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		feed := h.feed(h.key, "")
		feed.next("hello")
		h.login("ada")
		last := feed.next("session.created")
		h.home.Truncate(1)
		if f := feed.next("resync"); f.id != "" || f.str("reason") == "" || !strings.HasSuffix(f.str("revocations_url"), "/v1/revocations") {
			t.Errorf("resync %v", f)
		}
		feed.ended()
		for {
			r := h.do(h.key, "GET", "/v1/events?since="+last.id, nil)
			if r.Status == 503 {
				time.Sleep(time.Second)
				continue
			}
			r.wantError(410, "cursor_gone")
			if r.str("error_details.revocations_url") == "" {
				t.Errorf("no revocations_url: %s", r.Raw)
			}
			break
		}
	})
}

// A reader that does not keep up is told so, and misses nothing when it goes on.
func TestFeedSlow(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		slow := h.stuck("types=session.revoked")
		const n = node.FeedEntries + 3000 // more than one chunk more
		var want []string
		for i := range n {
			var sid events.SID
			sid[0], sid[1], sid[2], sid[3] = 2, byte(i>>16), byte(i>>8), byte(i)
			h.inject(&events.Revoke{App: h.app, User: "u", SID: sid, At: 1, AbsoluteAt: time.Now().Add(time.Hour).UnixMilli()})
			want = append(want, sid.String())
		}
		synctest.Wait()
		close(slow.let)
		var got []string
		id := ""
		for {
			f := slow.c.next("session.revoked", "resync")
			if f.name == "resync" {
				if f.str("reason") != "slow" {
					t.Errorf("resync %v", f.data)
				}
				break
			}
			got, id = append(got, f.str("session_id")), f.id
		}
		slow.c.ended()
		rest := h.feed(h.key, "types=session.revoked&since="+id)
		rest.next("hello")
		for len(got) < n {
			got = append(got, rest.next().str("session_id"))
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("revocations -want +got\n%.500s", d)
		}
		rest.quiet()
	})
}

// stuckFeed is a feed whose client takes nothing until it is let go.
type stuckFeed struct {
	c   *feedClient
	let chan struct{}
}

func (h *harness) stuck(query string) *stuckFeed {
	s := &stuckFeed{let: make(chan struct{})}
	ctx, cancel := context.WithCancel(context.Background())
	r := httptest.NewRequestWithContext(ctx, "GET", "/v1/events?"+query, nil)
	r.Header.Set("Authorization", "Bearer "+h.key)
	wait := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.handler.ServeHTTP(&slowWriter{ResponseWriter: w, let: s.let}, r)
	})
	s.c = readFeed(h.t, wait, r, cancel)
	return s
}

// slowWriter takes nothing after its first write until it is let.
type slowWriter struct {
	http.ResponseWriter
	let    chan struct{}
	writes int
}

func (w *slowWriter) Flush() {}
func (w *slowWriter) Write(b []byte) (int, error) {
	if w.writes++; w.writes > 1 {
		<-w.let
	}
	return w.ResponseWriter.Write(b)
}

func TestFeedBadInput(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		for _, c := range []struct {
			key, query string
			status     int
			kind       string
		}{
			{"", "", 401, "unauthorized_credentials"},
			{h.key, "types=nonsense", 400, "invalid_argument"},
			{h.key, "types=", 400, "invalid_argument"},
			{h.key, "typ=session.revoked", 400, "invalid_argument"},
			{h.key, "since=", 400, "invalid_argument"}, // as of a variable that is not set: not "from now on"
			{h.key, "since=x", 400, "invalid_argument"},
			{h.key, "since=eu:0:1,eu:0:2", 400, "invalid_argument"},
			{h.key, "since=mars:0:1", 410, "cursor_gone"},
			{h.key, "since=eu:7:1", 410, "cursor_gone"},
			{h.key, "since=eu:0:99999999", 410, "cursor_gone"},
			{h.key, "user_id=a&user_id=b", 400, "invalid_argument"},
			{h.key, "app=mars", 404, "app_not_found"},
			{h.admin, "user_id=a", 400, "invalid_argument"},
			{h.admin, "app=", 400, "invalid_argument"}, // not all apps
		} {
			h.do(c.key, "GET", "/v1/events?"+c.query, nil).wantError(c.status, c.kind)
		}
	})
}

// A cluster admin key hears of all apps, and what CONFIG says.
func TestFeedOfAllApps(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		feed := h.feed(h.admin, "")
		feed.next("hello")
		key := h.newApp("other", nil)
		h.do(key, "POST", "/v1/sessions", map[string]any{"user_id": "eve"}).want(201)
		h.login("ada")
		h.do(h.admin, "POST", "/v1/apps/other/suspend", nil).want(200)
		h.do(h.admin, "POST", "/v1/apps/other/resume", nil).want(200)
		kid := h.do(key, "GET", "/v1/apps/other/keys", nil).want(200).at("keys").([]any)[0].(map[string]any)["kid"]
		h.do(key, "POST", "/v1/apps/other/keys/rotate", map[string]any{"compromised": kid}).want(200)
		h.do(h.admin, "DELETE", "/v1/apps/other", nil).want(200)
		seen := map[string]bool{}
		for range 40 {
			f := feed.next()
			seen[f.name+" "+f.str("app_id")] = true
			if f.name == "app.deleted" {
				break
			}
		}
		for _, w := range []string{"session.created other", "session.created " + h.app, "app.suspended other", "app.resumed other", "key.compromised other", "app.deleted other"} {
			if !seen[w] {
				t.Errorf("not told: %s; told %v", w, seen)
			}
		}
	})
}

// recalled waits until the node has looked through what was revoked before it began to
// follow the log of the region, a moment after it is ready, and returns what it knows.
func (h *harness) recalled(key, region string) *reply {
	h.t.Helper()
	for range 20 {
		if r := h.do(key, "GET", "/v1/revocations", nil).want(200); strings.Contains(r.str("revision"), region+":") {
			return r
		}
		time.Sleep(time.Second)
	}
	h.t.Fatal("recent revocations were not looked through within 20 s")
	return nil
}

// What is revoked and whose JWTs may be alive is listed, also by a node that began
// from a snapshot and never read those revocations; and no longer than that.
func TestRevocations(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t, func(c *node.Config) { c.SnapshotDir = dir })
		sid := h.login("ada").str("session.session_id")
		spared := h.login("ben").str("session.session_id")
		h.do(h.key, "POST", "/v1/sessions/revoke", map[string]any{"session_id": sid}).want(200)
		h.do(h.key, "POST", "/v1/sessions/revoke", map[string]any{"user_id": "ben", "except_session_id": spared}).want(200)
		h.do(h.key, "POST", "/v1/sessions/revoke", map[string]any{"user_id": "cid"}).want(200)
		check := func(h *harness, when string) {
			t.Helper()
			r := h.recalled(h.key, "eu")
			if got := fmt.Sprint(r.at("sessions")); got != "["+sid+"]" {
				t.Errorf("%s: sessions %s, want %s", when, got, sid)
			}
			users := map[string]string{}
			for _, u := range r.at("users").([]any) {
				u := u.(map[string]any)
				users[u["user_id"].(string)] = fmt.Sprint(u["except_session_ids"])
			}
			if d := cmp.Diff(map[string]string{"ben": "[" + spared + "]", "cid": "<nil>"}, users); d != "" {
				t.Errorf("%s: -want +got\n%s", when, d)
			}
			if r.at("jwt_life_seconds") != 300.0 || r.str("app_state") != "active" || !strings.Contains(r.str("revision"), "_config:") {
				t.Errorf("%s: %s", when, r.Raw)
			}
		}
		check(h, "at once")
		h.stop()
		again, _ := h.another(func(c *node.Config) { c.Name, c.SnapshotDir = "n1", dir })
		again.start()
		check(again, "after a restart")
		time.Sleep(20 * time.Minute)
		r := again.do(h.key, "GET", "/v1/revocations", nil).want(200)
		if len(r.at("sessions").([]any))+len(r.at("users").([]any)) != 0 {
			t.Errorf("later: %s", r.Raw)
		}
	})
}
