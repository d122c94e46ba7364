package node_test

import (
	"context"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node"
)

// The log loses its tail while a node is in the middle of an entry. A revoke
// that is stored at a sequence which that node had applied before is not
// applied: its receipt may not say so.
func TestReceiptOnRewoundLog(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		c := h.login("ada")
		for range 3 {
			h.login("bob")
			time.Sleep(time.Second)
		}
		gate := make(chan struct{})
		h.home.SetFaults(events.MemoryFaults{Deliver: func(ctx context.Context, _ events.Entry) int {
			select {
			case <-gate:
			case <-ctx.Done():
			}
			return 1
		}})
		time.Sleep(1500 * time.Millisecond) // a heartbeat is at the gate
		h.home.Truncate(4)
		r := h.do(h.key, "POST", "/v1/sessions/revoke", m{"session_id": c.str("session.session_id"), "wait": "all"})
		if v := h.verify(c.str("session_token")); r.str("receipt.status") == "complete" && v.Status == 204 {
			t.Errorf("the session verifies after %s", r.Raw)
		}
		close(gate)
		time.Sleep(10 * time.Second)
		if v := h.verify(c.str("session_token")); r.Status == 200 && v.Status == 204 {
			t.Errorf("and still does, 10 s later")
		}
	})
}

// wantUser fails unless the node takes the session's token for the user's.
func (h *harness) wantUser(c *reply, user string) {
	h.t.Helper()
	if got := h.verify(c.str("session_token")).want(204).Header.Get("X-Session-User"); got != user {
		h.t.Errorf("%s's token is %s's", user, got)
	}
}

// A token is derived from app and Idempotency-Key, so two log-ins that know
// nothing of each other may make one session of two users. The first counts,
// for nodes that heard of both, and for one that reads the log later, in which
// changes of the session have replaced its beginning.
func TestOneIdempotencyKeyOfTwoUsers(t *testing.T) {
	create := func(h *harness, user string) *reply {
		return h.do(h.key, "POST", "/v1/sessions", m{"user_id": user}, "Idempotency-Key", "login")
	}
	change := func(h *harness, c *reply) {
		h.do(h.key, "PATCH", "/v1/sessions/"+c.str("session.session_id"), m{"metadata": m{"a": 1}}).want(200)
	}
	t.Run("on two nodes", func(t *testing.T) {
		bubble(t, func(t *testing.T, h *harness) {
			b, link := h.twinLink("n2")
			link.SetFaults(held("", 2*time.Second))
			time.Sleep(4 * time.Second)
			ada := create(h, "ada").want(201)
			create(b, "bob") // does not know of ada yet
			change(h, ada)
			h.wantUser(ada, "ada")
			time.Sleep(time.Minute)
			h.twin("n3").wantUser(ada, "ada")
		})
	})
	t.Run("on one node that did not hear its own", func(t *testing.T) {
		bubble(t, func(t *testing.T, h *harness) {
			var once sync.Once
			h.home.SetFaults(events.MemoryFaults{Deliver: func(ctx context.Context, e events.Entry) int {
				if strings.HasSuffix(e.Subject, ".st") {
					once.Do(func() { wait(ctx, 7*time.Second) })
				}
				return 1
			}})
			create(h, "ada") // may be 503: it is not applied in time
			create(h, "bob")
			ada := create(h, "ada").want(201)
			change(h, ada)
			h.wantUser(ada, "ada")
			next, _, _ := h.successor()
			next.start()
			next.wantUser(ada, "ada")
		})
	})
}

// jwt_safe_after is the end of every JWT that may be around: of one minted
// before the app's settings were changed too.
func TestSafeAfterCountsEarlierSettings(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		key := h.newApp("long", m{"jwt_ttl_seconds": 3600})
		c := h.do(key, "POST", "/v1/sessions", m{"user_id": "ada"}).want(201)
		exp := time.Unix(int64(claims(t, c.str("session_jwt"))["exp"].(float64)), 0)
		safeAfter := func(c *reply) time.Time {
			r := h.do(key, "POST", "/v1/sessions/revoke", m{"session_id": c.str("session.session_id"), "wait": "all"}).want(200)
			at, err := time.Parse(time.RFC3339, r.str("receipt.jwt_safe_after"))
			if err != nil {
				t.Fatalf("%v: %s", err, r.Raw)
			}
			return at
		}
		h.do(h.admin, "PATCH", "/v1/apps/long", m{"jwt_ttl_seconds": 60}).want(200)
		if at := safeAfter(c); at.Before(exp) {
			t.Errorf("jwt_safe_after is %v before the exp of a JWT minted before", exp.Sub(at))
		}
		time.Sleep(time.Hour + time.Minute)
		late := h.do(key, "POST", "/v1/sessions", m{"user_id": "ada"}).want(201)
		if left := time.Until(safeAfter(late)); left > 2*time.Minute {
			t.Errorf("jwt_safe_after is %v away, and all JWTs of the earlier settings have ended", left)
		}
	})
}

// A receipt says "complete" only if no node calls the session good any more. A
// node that is cut off may, as long as its lease lasts, and for an app that
// asks for old answers beyond that.
func TestReceiptWhileANodeIsCutOff(t *testing.T) {
	for _, tc := range []struct {
		name, whenStale string
		before          bool // it was revoked before, without waiting
		status          string
		verify          int // on the node that is cut off, afterwards
	}{
		{"an app that refuses stale answers", "refuse", false, "complete", 503},
		{"a repeat waits as the first would have", "refuse", true, "complete", 503},
		{"an app that serves stale answers", "serve", false, "partial", 204},
		{"a repeat of it", "serve", true, "partial", 204},
	} {
		t.Run(tc.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, h *harness) {
				a := h.twin("n2")
				b, link := h.twinLink("n3")
				key := h.newApp("shop", m{"when_stale": tc.whenStale})
				time.Sleep(time.Second)
				c := a.do(key, "POST", "/v1/sessions", m{"user_id": "ada"}).want(201)
				time.Sleep(time.Second)
				b.verify(c.str("session_token")).want(204)
				link.Cut()
				revoke := m{"session_id": c.str("session.session_id")}
				if tc.before {
					if r := a.do(key, "POST", "/v1/sessions/revoke", revoke).want(200); r.str("receipt.status") != "committed" {
						t.Errorf("receipt without waiting: %s", r.Raw)
					}
				}
				revoke["wait"] = "all"
				r := a.do(key, "POST", "/v1/sessions/revoke", revoke).want(200)
				if r.str("receipt.status") != tc.status {
					t.Errorf("receipt: %s, want %s", r.Raw, tc.status)
				}
				a.verify(c.str("session_token")).wantRefused("revoked")
				b.verify(c.str("session_token")).want(tc.verify)
			})
		})
	}
}

// The clock of a node that is alone is also that of its log. When it is set
// back, nothing that had expired is good again, neither at once nor later.
func TestClockSetBackRevivesNothing(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		c := h.do(h.key, "POST", "/v1/sessions", m{"user_id": "ada", "session_duration_minutes": 2}).want(201)
		exp := time.Now().Add(2 * time.Minute).UTC().Format(time.RFC3339)
		key := h.do(h.admin, "POST", "/v1/apps/acme/api-keys", m{"name": "x", "expires_at": exp}).want(201).str("api_key")
		h.do(key, "GET", "/v1/sessions", nil).want(200)
		time.Sleep(125 * time.Second)
		wantNone := func(when string, statuses ...int) {
			t.Helper()
			for _, credential := range []string{c.str("session_token"), c.str("session_jwt")} {
				if v := h.verify(credential); v.Status != 401 && v.Status != 503 {
					t.Errorf("%s an expired session verifies: %d", when, v.Status)
				}
			}
			if r := h.do(key, "GET", "/v1/sessions", nil); r.Status != 401 && r.Status != 503 {
				t.Errorf("%s an expired API key works: %d", when, r.Status)
			}
		}
		h.verify(c.str("session_token")).wantRefused("expired")
		h.verify(c.str("session_jwt")).wantRefused("expired")
		h.do(key, "GET", "/v1/sessions", nil).want(401)
		h.setSkew(-10 * time.Minute)
		wantNone("at once")
		time.Sleep(time.Second)
		wantNone("after a heartbeat")
		time.Sleep(20 * time.Second)
		wantNone("after a lease")
		h.setSkew(0)
		time.Sleep(5 * time.Second)
		h.verify(c.str("session_token")).wantRefused("expired")
		h.login("ada") // the node is back
	})
}

// After a change of leader the log's clock may be behind the stamps it has set
// before. One use of a session is one event all the same, and is not repaired
// for ever.
func TestOneTouchInALogSetBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		clock := &testClock{begin: time.Now()}
		home := events.NewMemory("eu", 2, events.MemoryConfig{Clock: clock})
		var mu sync.Mutex // guards touches
		touches := 0
		count := func() int { mu.Lock(); defer mu.Unlock(); return touches }
		home.SetFaults(events.MemoryFaults{Send: func(ctx context.Context, msg events.Message) error {
			if strings.HasSuffix(msg.Subject, ".tch") {
				mu.Lock()
				touches++
				mu.Unlock()
				wait(ctx, time.Millisecond)
			}
			return nil
		}})
		h := newHarness(t, func(c *node.Config) { c.Home, c.Archive = home, home })
		c := h.do(h.key, "POST", "/v1/sessions", m{"user_id": "ada", "idle_timeout_minutes": 2}).want(201)
		time.Sleep(20 * time.Second)
		h.verify(c.str("session_token")).want(204)
		time.Sleep(3 * time.Second)
		if count() != 1 {
			t.Fatalf("%d touches after one use", count())
		}
		clock.mu.Lock()
		clock.skew = -25 * time.Second
		clock.mu.Unlock()
		time.Sleep(7 * time.Second)
		h.verify(c.str("session_token")).want(204)
		time.Sleep(40 * time.Second)
		if n := count() - 1; n < 1 || n > 3 {
			t.Errorf("%d touches of one use", n)
		}
	})
}

// A node's farewell is the last that the log hears of it: what came later would
// say that it still answers.
func TestNothingAfterTheFarewell(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		if err := h.node.Leave(t.Context()); err != nil {
			t.Fatal(err)
		}
		last := func() uint64 {
			info, err := h.home.Info(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			return info.LastSeq
		}
		farewell := last()
		time.Sleep(10 * time.Second)
		if n := last() - farewell; n != 0 {
			t.Errorf("%d events after the farewell", n)
		}
	})
}
