package node_test

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node"
)

func TestIdempotencyKey(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		create := func(key, user string, more ...string) *reply {
			return h.do(h.key, "POST", "/v1/sessions", m{"user_id": user}, append([]string{"Idempotency-Key", key}, more...)...)
		}
		first := create("k1", "ada").want(201)
		before := h.stored()
		again := create("k1", "ada").want(201)
		for _, field := range []string{"session.session_id", "session_token", "session_jwt", "session.started_at"} {
			if first.str(field) == "" || first.str(field) != again.str(field) {
				t.Errorf("%s: %q, then %q", field, first.str(field), again.str(field))
			}
		}
		h.do(h.key, "POST", "/v1/sessions", ` {  "user_id" : "ada" } `, "Idempotency-Key", "k1").want(201)
		create("k1", "eve").wantError(422, "idempotency_key_reused")
		h.do(h.key, "POST", "/v1/sessions", m{"user_id": "ada", "metadata": m{"a": 1}}, "Idempotency-Key", "k1").
			wantError(422, "idempotency_key_reused")
		if got := h.stored(); got != before {
			t.Errorf("%d events were written by repeats", got-before)
		}
		if other := create("k2", "ada").want(201); other.str("session_token") == first.str("session_token") {
			t.Error("two keys, one session")
		}
		tenant := h.newApp("tenant", nil)
		foreign := h.do(tenant, "POST", "/v1/sessions", m{"user_id": "ada"}, "Idempotency-Key", "k1").want(201)
		if foreign.str("session_token") == first.str("session_token") {
			t.Error("two apps, one token")
		}

		// A change of the session does not make the repeat another request.
		sid := first.str("session.session_id")
		h.do(h.key, "PATCH", "/v1/sessions/"+sid, m{"metadata": m{"a": 1}}).want(200)
		rotated := h.do(h.key, "POST", "/v1/sessions/rotate", m{"session_token": first.str("session_token")}).want(200)
		if again := create("k1", "ada").want(201); again.str("session_token") != rotated.str("session_token") {
			t.Error("a repeat returned a token that was rotated away")
		}
		h.do(h.key, "DELETE", "/v1/sessions/"+sid, nil).want(200)
		r := create("k1", "ada").wantError(409, "idempotency_session_ended")
		if r.str("error_details.reason") != "revoked" {
			t.Errorf("ended: %s", r.Raw)
		}
	})
}

func TestConcurrentRepeatsAreOneSession(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		before := h.stored()
		slow(&h.home.MemoryLink)
		var wg sync.WaitGroup
		replies := make([]*reply, 24)
		for i := range replies {
			wg.Go(func() {
				replies[i] = h.do(h.key, "POST", "/v1/sessions", m{"user_id": fmt.Sprintf("user%d", i%2)}, "Idempotency-Key", "same")
			})
		}
		wg.Wait()
		var winner *reply
		good := 0
		for _, r := range replies {
			switch r.Status {
			case 201:
				good++
				if winner == nil {
					winner = r
				}
				if r.str("session_token") != winner.str("session_token") || r.str("user.user_id") != winner.str("user.user_id") {
					t.Errorf("two sessions: %s and %s", winner.Raw, r.Raw)
				}
			default:
				r.wantError(422, "idempotency_key_reused")
			}
		}
		if good != len(replies)/2 {
			t.Errorf("%d of %d repeats were answered with the session, want half", good, len(replies))
		}
		if got := h.stored() - before; got != 1 {
			t.Errorf("%d events were written, want 1", got)
		}
		h.verify(winner.str("session_token")).want(204)
	})
}

// TestRepeatOnAnotherNode has two nodes create under one key at the same time.
func TestRepeatOnAnotherNode(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		twin, link := h.twinLink("n2")
		slow(link)
		slow(&h.home.MemoryLink)
		var wg sync.WaitGroup
		replies := make([]*reply, 2)
		for i, x := range []*harness{h, twin} {
			wg.Go(func() {
				replies[i] = x.do(h.key, "POST", "/v1/sessions", m{"user_id": "ada"}, "Idempotency-Key", "same")
			})
		}
		wg.Wait()
		a, b := replies[0].want(201), replies[1].want(201)
		if a.str("session_token") != b.str("session_token") {
			t.Errorf("two sessions: %s and %s", a.Raw, b.Raw)
		}
		h.wantNoOverwrites()
	})
}

// TestRevisionsOfALogThatIsGone: after the log went backwards its sequences are
// used again, so that an old revision says nothing.
func TestRevisionsOfALogThatIsGone(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		old := h.login("ada")
		time.Sleep(30 * time.Second)
		h.home.Truncate(20)
		time.Sleep(30 * time.Second)
		c := h.login("ada")
		if !strings.HasPrefix(c.str("revision"), "eu:1:") {
			t.Fatalf("the node has not noticed: %s", c.str("revision"))
		}
		h.do(h.key, "POST", "/v1/sessions", m{"user_id": "ada", "auth_revision": old.str("revision")}).
			wantError(409, "revoked_since_authentication")
		h.auth(m{"session_token": c.str("session_token"), "consistency": m{"at_least": "eu:0:999999"}}).want(200)
	})
}

// twin starts another node over the same streams.
func (h *harness) twin(name string) *harness {
	x, _ := h.twinLink(name)
	return x
}

// twinLink also returns the other node's connection to the home stream.
func (h *harness) twinLink(name string) (*harness, *events.MemoryLink) {
	h.t.Helper()
	x, link := h.twinUnstarted(name)
	x.start()
	return x, link
}

// twinUnstarted is twinLink for a node that does not run yet.
func (h *harness) twinUnstarted(name string) (*harness, *events.MemoryLink) {
	link := h.home.Link()
	x := unstarted(h.t, func(c *node.Config) {
		c.Name, c.Keys, c.Settings, c.Home, c.Archive, c.Solo = name, h.keys, h.config.Link(), link, link, false
	})
	x.app, x.key, x.admin, x.keys, x.home, x.config = h.app, h.key, h.admin, h.keys, h.home, h.config
	return x, link
}

func TestAuthRevision(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		began := h.login("ada").str("revision")
		with := func(user, revision string) *reply {
			return h.do(h.key, "POST", "/v1/sessions", m{"user_id": user, "auth_revision": revision})
		}
		with("ada", began).want(201)
		with("ada", began+",_config:0:1").want(201)
		h.do(h.key, "POST", "/v1/sessions/revoke", m{"user_id": "ada"}).want(200)
		with("ada", began).wantError(409, "revoked_since_authentication")
		with("eve", began).want(201)
		now := h.login("ada").str("revision")
		with("ada", now).want(201)
		h.do(h.key, "POST", "/v1/sessions/revoke", m{"all": true}).want(200)
		with("ada", now).wantError(409, "revoked_since_authentication")
		with("ada", "eu:7:1").wantError(503, "consistency_timeout")
		if l := h.do(h.key, "GET", "/v1/sessions", nil).want(200); l.at("total") != 0.0 {
			t.Errorf("sessions are left: %s", l.Raw)
		}
	})
}

func TestLifetimes(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		key := h.newApp("brief", m{"session_duration_minutes": 60, "absolute_lifetime_minutes": 120, "idle_timeout_minutes": 30})
		life := func(body m) (session, absolute, idle time.Duration) {
			t.Helper()
			body["user_id"] = "ada"
			r := h.do(key, "POST", "/v1/sessions", body).want(201)
			at := func(field string) time.Duration {
				if r.str("session."+field) == "" {
					return 0
				}
				end, err := time.Parse(time.RFC3339, r.str("session."+field))
				if err != nil {
					t.Fatal(err)
				}
				return time.Until(end).Round(time.Minute)
			}
			return at("expires_at"), at("absolute_expires_at"), at("idle_expires_at")
		}
		for _, tc := range []struct {
			body                    m
			session, absolute, idle int
		}{
			{m{}, 60, 120, 30},
			{m{"session_duration_minutes": 90}, 90, 120, 30},
			{m{"session_duration_minutes": 500}, 120, 120, 30},
			{m{"absolute_lifetime_minutes": 45}, 45, 45, 30},
			{m{"absolute_lifetime_minutes": 5000, "session_duration_minutes": 5000}, 120, 120, 30},
			{m{"idle_timeout_minutes": 5}, 60, 120, 5},
		} {
			s, a, i := life(tc.body)
			if want := [3]time.Duration{time.Duration(tc.session), time.Duration(tc.absolute), time.Duration(tc.idle)}; [3]time.Duration{s, a, i} !=
				[3]time.Duration{want[0] * time.Minute, want[1] * time.Minute, want[2] * time.Minute} {
				t.Errorf("%v: %v, %v, %v", tc.body, s, a, i)
			}
		}
	})
}

func TestIdleTimeout(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		create := func() string {
			return h.do(h.key, "POST", "/v1/sessions", m{"user_id": "ada", "idle_timeout_minutes": 10}).want(201).str("session_token")
		}
		used, left, background := create(), create(), create()
		for range 6 {
			time.Sleep(4 * time.Minute)
			h.verify(used).want(204)
			h.do(background, "GET", "/v1/verify", nil, "X-Session-Background", "1")
		}
		h.verify(left).wantRefused("idle")
		h.auth(m{"session_token": left}).wantEnded("idle")
		h.verify(background).wantRefused("idle")
		h.verify(used).want(204)
		time.Sleep(10 * time.Minute)
		h.verify(used).want(204) // judged late, never early
		time.Sleep(13 * time.Minute)
		h.verify(used).wantRefused("idle")
		if l := h.do(h.key, "GET", "/v1/sessions?status=idle", nil).want(200); l.at("total") != 3.0 {
			t.Errorf("idle sessions: %s", l.Raw)
		}
	})
}

func TestAuthenticateWithoutTouch(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		c := h.do(h.key, "POST", "/v1/sessions", m{"user_id": "ada", "idle_timeout_minutes": 10}).want(201)
		for range 4 {
			time.Sleep(4 * time.Minute)
			h.auth(m{"session_token": c.str("session_token"), "touch": false})
		}
		h.verify(c.str("session_token")).wantRefused("idle")
	})
}

func TestReceiptsOfSeveralNodes(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		twin := h.twin("n2")
		c := h.login("ada")
		sid := c.str("session.session_id")
		begin := time.Now()
		r := twin.do(h.key, "POST", "/v1/sessions/revoke", m{"session_id": sid, "wait": "all"}).want(http.StatusOK)
		if took := time.Since(begin); r.str("receipt.status") != "complete" || took < 15*time.Second || took > 17*time.Second {
			t.Errorf("after %v: %s", took, r.Raw)
		}
		safe, err := time.Parse(time.RFC3339, r.str("receipt.jwt_safe_after"))
		if left := time.Until(safe); err != nil || left < 359*time.Second || left > 361*time.Second {
			t.Errorf("jwt_safe_after in %v: %v", left, err)
		}
		h.verify(c.str("session_token")).wantRefused("revoked")

		r = twin.do(h.key, "POST", "/v1/sessions/revoke", m{"session_id": h.login("eve").str("session.session_id")}).want(200)
		if r.str("receipt.status") != "committed" {
			t.Errorf("wait none: %s", r.Raw)
		}
		safe, _ = time.Parse(time.RFC3339, r.str("receipt.jwt_safe_after"))
		if left := time.Until(safe); left < 314*time.Second {
			t.Errorf("wait none: jwt_safe_after in %v is before other nodes must have stopped minting", left)
		}
		if strings.Contains(string(r.Raw), c.str("session_token")) {
			t.Error("a receipt holds a token")
		}
	})
}
