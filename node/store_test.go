package node_test

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node"
)

// storePath is where the session of a framework's token is.
func storePath(token string) string {
	sum := events.TokenHash(token)
	return "/v1/store/" + hex.EncodeToString(sum[:])
}

// storedBody is the body of a PUT.
func storedBody(token, user, data string, life time.Duration) m {
	return m{"token": token, "user_id": user, "data": base64.StdEncoding.EncodeToString([]byte(data)), "expires_at": time.Now().Add(life).UTC().Format(time.RFC3339Nano)}
}

func (h *harness) put(token, user, data string, life time.Duration) *reply {
	return h.do(h.key, "PUT", storePath(token), storedBody(token, user, data, life))
}

func (h *harness) kept(token string) *reply { return h.do(h.key, "GET", storePath(token), nil) }

// holds fails the test unless the session has the data.
func (r *reply) holds(data string) *reply {
	r.t.Helper()
	r.want(http.StatusOK)
	if got, _ := base64.StdEncoding.DecodeString(r.str("data")); string(got) != data {
		r.t.Fatalf("%s: data %q, want %q", r.call, got, data)
	}
	return r
}

func TestStore(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		h.kept("t").wantError(404, "session_not_found")
		h.do(h.key, "DELETE", storePath("t"), nil).want(200)
		for who, user := range map[string]string{"nobody": "", "ada": "ada"} {
			token := "token of " + who
			made := h.put(token, user, "one", time.Hour).want(201)
			sid := made.str("session_id")
			if made.str("revision") == "" || made.str("user_id") != user || made.at("data") != nil {
				t.Errorf("%s: made %s", who, made.Raw)
			}
			got := h.kept(token).holds("one")
			if got.str("user_id") != user || got.str("token") != token || got.str("session_id") != sid || got.str("expires_at") != made.str("expires_at") {
				t.Errorf("%s: %s", who, got.Raw)
			}
			if h.put(token, user, "two", 2*time.Hour).want(200).str("session_id") != sid {
				t.Errorf("%s: another session", who)
			}
			h.kept(token).holds("two")
			revision := h.kept(token).str("revision")
			h.do(h.key, "PUT", storePath(token), storedBody(token, user, "two", 2*time.Hour)).want(200)
			if again := h.kept(token).str("revision"); again != revision {
				t.Errorf("%s: what changes nothing was written", who)
			}

			// It lives exactly as long as the framework says, longer or shorter.
			h.do(h.key, "POST", storePath(token)+"/touch", m{"expires_at": time.Now().Add(3 * time.Hour)}).want(200)
			time.Sleep(3*time.Hour - time.Millisecond)
			h.kept(token).holds("two")
			h.do(h.key, "POST", storePath(token)+"/touch", m{"expires_at": time.Now().Add(time.Second)}).want(200)
			time.Sleep(time.Second)
			if r := h.kept(token).wantError(404, "session_not_found"); r.str("error_details.reason") != "expired" {
				t.Errorf("%s: %s", who, r.Raw)
			}
			h.put(token, user, "three", time.Hour).wantError(409, "foreign_session_ended")
			h.do(h.key, "POST", storePath(token)+"/touch", m{"expires_at": time.Now().Add(time.Hour)}).wantError(404, "session_not_found")
		}
	})
}

// What has ended stays so, whoever ended it; and it is gone from the store at once.
func TestStoreEnded(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		ends := map[string]func(token, sid string) *reply{
			"destroy":    func(token, _ string) *reply { return h.do(h.key, "DELETE", storePath(token)+"?reason=logout", nil) },
			"by id":      func(_, sid string) *reply { return h.do(h.key, "DELETE", "/v1/sessions/"+sid, nil) },
			"everywhere": func(string, string) *reply { return h.do(h.key, "POST", "/v1/sessions/revoke", m{"user_id": "ada"}) },
			"by token": func(token, _ string) *reply {
				return h.do(h.key, "POST", "/v1/sessions/revoke", m{"session_token": token})
			},
			"the app": func(string, string) *reply { return h.do(h.key, "POST", "/v1/sessions/revoke", m{"all": true}) },
			"clear":   func(string, string) *reply { return h.do(h.key, "DELETE", "/v1/store", nil) },
		}
		for name, end := range ends {
			sid := h.put(name, "ada", "x", time.Hour).want(201).str("session_id")
			h.put("of bob, "+name, "bob", "x", time.Hour).want(201)
			if r := end(name, sid).want(200); r.at("revoked") == 0.0 {
				t.Errorf("%s: %s", name, r.Raw)
			}
			if r := h.kept(name).wantError(404, "session_not_found"); r.str("error_details.reason") != "revoked" {
				t.Errorf("%s: %s", name, r.Raw)
			}
			h.put(name, "ada", "x", time.Hour).wantError(409, "foreign_session_ended")
			h.put(name, "", "x", time.Hour).wantError(409, "foreign_session_ended") // not as nobody's either
			h.kept(name).wantError(404, "session_not_found")
			if name != "the app" && name != "clear" {
				h.kept("of bob, " + name).holds("x")
			}
			if r := h.do(h.key, "DELETE", storePath(name), nil).want(200); r.at("revoked") != 0.0 {
				t.Errorf("%s: destroyed twice: %s", name, r.Raw)
			}
		}
		h.put("anonymous", "", "x", time.Hour).want(201)
		h.do(h.key, "DELETE", storePath("anonymous"), nil).want(200)
		h.put("anonymous", "ada", "x", time.Hour).wantError(409, "foreign_session_ended")
	})
}

// The user of a session is who it was made for: a browser that was given a session
// id before the log-in must not find it logged in.
func TestStoreUserIsFixed(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		h.put("a", "", "x", time.Hour).want(201)
		h.put("b", "ada", "x", time.Hour).want(201)
		for _, try := range [][2]string{{"a", "ada"}, {"b", "bob"}, {"b", ""}} {
			r := h.put(try[0], try[1], "y", time.Hour).wantError(409, "foreign_session_conflict")
			if r.str("error_details.field") != "user_id" {
				t.Errorf("%v: %s", try, r.Raw)
			}
		}
		h.kept("a").holds("x")
		h.kept("b").holds("x")
	})
}

// Who is logged in verifies with the framework's token, if it is shown as such; a
// session in which nobody is logged in is no log-in anywhere.
func TestStoreVerifies(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		sid := h.put("of ada", "ada", "x", time.Hour).want(201).str("session_id")
		nobody := h.put("of nobody", "", "x", time.Hour).want(201).str("session_id")
		if v := h.verifyIn(h.app, "of ada").want(204); v.Header.Get("X-Session-User") != "ada" || v.Header.Get("X-Session-Id") != sid {
			t.Errorf("%v", v.Header)
		}
		h.do(h.key, "POST", "/v1/sessions/"+sid+"/tokens", m{}).want(200)
		h.verifyIn(h.app, "of nobody").wantRefused("unknown")
		h.auth(m{"session_token": "of nobody"}).wantError(404, "session_not_found")
		h.verify("of ada").want(401)
		h.verify(nobody).want(401)
		if r := h.do(h.key, "GET", "/v1/sessions?user_id=ada", nil).want(200); r.at("total") != 1.0 || strings.Contains(string(r.Raw), "of ada") {
			t.Errorf("%s", r.Raw)
		}
		other := h.newApp("other", nil)
		h.do(other, "GET", storePath("of ada"), nil).wantError(404, "session_not_found")
		h.do(other, "PUT", storePath("of ada"), storedBody("of ada", "eve", "x", time.Hour)).want(201)
		h.kept("of ada").holds("x")
	})
}

func TestStoreList(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		if r := h.do(h.key, "GET", "/v1/store", nil).want(200); len(r.at("sessions").([]any)) != 0 {
			t.Errorf("%s", r.Raw)
		}
		h.login("native")
		h.foreign("imported", "ada", 0)
		h.kept("imported").wantError(404, "session_not_found") // without data
		h.put("imported", "ada", "now it has", time.Hour).want(200)
		want := map[string]string{"imported": "now it has"}
		for i := range 7 {
			token := fmt.Sprint("token ", i)
			h.put(token, "", token+" data", time.Hour).want(201)
			want[token] = token + " data"
		}
		h.do(h.key, "DELETE", storePath("token 3"), nil).want(200)
		delete(want, "token 3")
		got := map[string]string{}
		for cursor, pages := "", 0; ; pages++ {
			r := h.do(h.key, "GET", "/v1/store?limit=2"+cursor, nil).want(200)
			for _, s := range r.at("sessions").([]any) {
				s := s.(map[string]any)
				data, _ := base64.StdEncoding.DecodeString(s["data"].(string))
				got[s["token"].(string)] = string(data)
			}
			if r.str("next_cursor") == "" {
				break
			}
			cursor = "&cursor=" + r.str("next_cursor")
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("listed %v, want %v", got, want)
		}
		if r := h.do(h.key, "DELETE", "/v1/store", nil).want(200); r.at("revoked") != 7.0 || r.at("more") != false {
			t.Errorf("%s", r.Raw)
		}
		if r := h.do(h.key, "GET", "/v1/sessions?status=active", nil).want(200); r.at("total") != 1.0 {
			t.Errorf("a native session was cleared: %s", r.Raw)
		}
	})
}

func TestStoreBadInput(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		good := func() m { return storedBody("t", "ada", "x", time.Hour) }
		with := func(name string, v any) m { b := good(); b[name] = v; return b }
		for name, body := range map[string]m{
			"data": with("data", ""), "data not base64": with("data", "a-b"), "data without padding": with("data", "YQ"),
			"token of another": with("token", "u"), "past": with("expires_at", time.Now()), "no expiry": with("expires_at", nil),
			"expiry a number": with("expires_at", 1), "unknown field": with("ttl", 5), "user a number": with("user_id", 5),
			"user too long": with("user_id", strings.Repeat("u", 257)),
		} {
			h.do(h.key, "PUT", storePath("t"), body).wantError(400, "invalid_argument")
			h.kept("t").wantError(404, "session_not_found")
			_ = name
		}
		big := func(n int) m { return with("data", base64.StdEncoding.EncodeToString(make([]byte, n))) }
		if r := h.do(h.key, "PUT", storePath("t"), big(6001)).wantError(413, "claims_too_large"); r.at("error_details.limit") != 6000.0 {
			t.Errorf("%s", r.Raw)
		}
		h.do(h.key, "PUT", storePath("t"), big(6000)).want(201)
		long := strings.Repeat("l", 2000)
		b := storedBody(long, "ada", strings.Repeat("x", 6000), time.Hour)
		h.do(h.key, "PUT", storePath(long), b).wantError(413, "claims_too_large")
		for _, path := range []string{"/v1/store/short", "/v1/store/" + strings.ToUpper(storePath("t")[10:]), storePath("t") + "?x=1", storePath("t") + "?at_least=junk",
			storePath("t") + "?consistency=maybe", storePath("t") + "?consistency=strong&at_least=eu:1:1", "/v1/store?limit=0", "/v1/store?cursor=x", "/v1/store?limit=1&limit=2"} {
			h.do(h.key, "GET", path, nil).wantError(400, "invalid_argument")
		}
		h.do(h.key, "DELETE", storePath("t")+"?wait=maybe", nil).wantError(400, "invalid_argument")
		h.do(h.key, "POST", storePath("t")+"/touch", m{}).wantError(400, "invalid_argument")
		h.do("", "GET", storePath("t"), nil).wantError(401, "unauthorized_credentials")
		h.do("", "DELETE", "/v1/store", nil).wantError(401, "unauthorized_credentials")
		// No life is longer than the app's longest, whatever the framework says.
		r := h.put("t2", "ada", "x", 10*366*24*time.Hour).want(201)
		if r.str("expires_at") != r.str("absolute_expires_at") {
			t.Errorf("%s", r.Raw)
		}
	})
}

// A session that was given a new token is that one's; the framework's is over.
func TestStoreRotated(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		h.put("t", "ada", "x", time.Hour).want(201)
		h.do(h.key, "POST", "/v1/sessions/rotate", m{"session_token": "t"}).want(200)
		h.kept("t").wantError(404, "session_not_found")
		h.put("t", "ada", "y", time.Hour).wantError(409, "foreign_session_ended")
		if r := h.do(h.key, "GET", "/v1/store", nil).want(200); strings.Contains(string(r.Raw), `"token"`) {
			t.Errorf("the new token is listed: %s", r.Raw)
		}
	})
}

// A user's sessions are limited wherever they are kept.
func TestStoreLimit(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		evict := h.newApp("evict", m{"max_sessions_per_user": 2})
		reject := h.newApp("reject", m{"max_sessions_per_user": 1, "session_limit_policy": "reject"})
		put := func(key, token, user string) *reply {
			time.Sleep(time.Second)
			return h.do(key, "PUT", storePath(token), storedBody(token, user, "x", time.Hour))
		}
		for i := range 3 {
			put(evict, fmt.Sprint("t", i), "ada").want(201)
			put(evict, fmt.Sprint("nobody's ", i), "").want(201)
		}
		h.do(evict, "GET", storePath("t0"), nil).wantError(404, "session_not_found")
		h.do(evict, "GET", storePath("t1"), nil).holds("x")
		put(evict, "t1", "ada").want(200) // no new one
		h.do(evict, "GET", storePath("t2"), nil).holds("x")
		put(reject, "a", "ada").want(201)
		put(reject, "b", "ada").wantError(409, "session_limit_reached")
		h.do(reject, "GET", storePath("b"), nil).wantError(404, "session_not_found")
		put(reject, "a", "ada").want(200)
	})
}

// Concurrent writes of one session: each is answered, one is the last, and none
// makes a second session.
func TestStoreConcurrent(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		h.put("first of the app", "", "x", time.Hour).want(201)
		var all sync.WaitGroup
		for i := range 40 {
			all.Go(func() {
				if r := h.put("t", "ada", fmt.Sprint("data ", i), time.Hour); r.Status != 200 && r.Status != 201 {
					t.Errorf("%d: %s", r.Status, r.Raw)
				}
			})
		}
		all.Wait()
		if data, _ := base64.StdEncoding.DecodeString(h.kept("t").want(200).str("data")); !strings.HasPrefix(string(data), "data ") {
			t.Errorf("%q", data)
		}
		if r := h.do(h.key, "GET", "/v1/sessions?user_id=ada", nil).want(200); r.at("total") != 1.0 {
			t.Errorf("%s", r.Raw)
		}
	})
}

// On other nodes: what was written is found with its revision at once, what was
// ended is gone, and a node that may be behind says neither.
func TestStoreElsewhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t, func(c *node.Config) { c.Solo = false })
		b := h.far()
		h.put("first", "ada", "x", time.Hour).want(201)
		b.behind(100 * time.Millisecond)
		h.put("t", "ada", "one", time.Hour).want(201)
		b.kept("t").holds("one") // unknown there, so it makes sure
		revision := h.put("t", "ada", "two", time.Hour).want(200).str("revision")
		b.do(b.key, "GET", storePath("t")+"?at_least="+revision, nil).holds("two")
		h.put("t", "ada", "three", time.Hour).want(200)
		b.do(b.key, "GET", storePath("t")+"?consistency=strong", nil).holds("three")
		b.kept("never").wantError(404, "session_not_found")

		if r := h.do(h.key, "POST", "/v1/sessions/revoke", m{"user_id": "ada", "wait": "all"}).want(200); r.str("receipt.status") != "complete" {
			t.Errorf("%s", r.Raw)
		}
		b.kept("t").wantError(404, "session_not_found")
		b.put("t", "ada", "four", time.Hour).wantError(409, "foreign_session_ended")

		h.put("u", "ada", "x", 24*time.Hour).want(201)
		b.kept("u").holds("x")
		b.home.Cut()
		time.Sleep(time.Minute)
		for _, token := range []string{"u", "never", "t"} {
			b.kept(token).wantError(503, "node_stale")
		}
		b.put("u", "ada", "y", time.Hour).wantError(503, "node_stale")
		b.do(b.key, "GET", "/v1/store", nil).wantError(503, "node_stale")
		b.do(b.key, "DELETE", "/v1/store", nil).wantError(503, "node_stale")
	})
}

// All stored sessions of an app live in one region. Out of its reach none is "not
// found", nothing is stored, and a log-out is recorded and delivered.
func TestStoreInRegions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newContinents(t)
		eu, us := c.nodes["eu1"], c.nodes["us1"]
		eu.put("of ada", "ada", "x", 24*time.Hour).want(201)
		us.put("of nobody", "", "y", 24*time.Hour).want(201)
		us.kept("of ada").holds("x")
		eu.kept("of nobody").holds("y")
		us.put("of ada", "ada", "z", 24*time.Hour).want(200)
		c.cut()
		time.Sleep(time.Minute)
		for _, token := range []string{"of ada", "of nobody", "never"} {
			us.kept(token).want(503)
			us.put(token, "", "w", time.Hour).want(503)
		}
		us.do(us.key, "GET", "/v1/store", nil).want(503)
		eu.kept("of ada").holds("z")
		for _, token := range []string{"of ada", "of nobody"} {
			us.do(us.key, "DELETE", storePath(token), nil).want(202)
		}
		c.heal()
		time.Sleep(time.Minute)
		for _, token := range []string{"of ada", "of nobody"} {
			if r := eu.kept(token).wantError(404, "session_not_found"); r.str("error_details.reason") != "revoked" {
				t.Errorf("%s: %s", token, r.Raw)
			}
		}
	})
}

// Private parts that are left in the log are read for each answer.
func TestStorePrivateInLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t, func(c *node.Config) { c.Private = node.PrivateLog })
		h.put("t", "ada", "one", time.Hour).want(201)
		h.kept("t").holds("one")
		h.put("t", "ada", "two", time.Hour).want(200)
		h.kept("t").holds("two")
		if r := h.do(h.key, "GET", "/v1/store", nil).want(200); len(r.at("sessions").([]any)) != 1 {
			t.Errorf("%s", r.Raw)
		}
	})
}
