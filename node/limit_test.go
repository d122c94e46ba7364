package node_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/revocast/revocast/events"
)

// limitTo sets how many sessions a user of the first app may have.
func (h *harness) limitTo(limit int, policy string) {
	h.t.Helper()
	h.do(h.key, "PATCH", "/v1/apps/"+h.app, m{"max_sessions_per_user": limit, "session_limit_policy": policy}).want(200)
}

// good returns the ids of the user's good sessions, newest first.
func (h *harness) good(user string) (ids []string) {
	h.t.Helper()
	l := h.do(h.key, "GET", "/v1/sessions?limit=500&user_id="+user, nil).want(200)
	for _, s := range l.JSON["sessions"].([]any) {
		ids = append(ids, s.(m)["session_id"].(string))
	}
	return ids
}

func TestSessionLimitEvicts(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		h.limitTo(2, "evict_oldest")
		first := h.login("ada")
		h.login("eve")
		second := h.do(h.key, "POST", "/v1/sessions", m{"user_id": "ada"}, "Idempotency-Key", "k").want(201)
		third := h.login("ada")
		h.verify(first.str("session_token")).wantRefused("revoked")
		h.verify(second.str("session_token")).want(204)
		h.verify(third.str("session_token")).want(204)
		s := h.do(h.key, "GET", "/v1/sessions/"+first.str("session.session_id"), nil).want(200)
		if s.str("session.revoke_reason") != "session_limit" || !strings.HasPrefix(s.str("session.revoked_by"), "key_") {
			t.Errorf("evicted: %s", s.Raw)
		}
		if len(h.good("eve")) != 1 {
			t.Error("a session of another user was evicted")
		}

		// A repeat makes no session, so it evicts none.
		before := h.stored()
		h.do(h.key, "POST", "/v1/sessions", m{"user_id": "ada"}, "Idempotency-Key", "k").want(201)
		if h.stored() != before || len(h.good("ada")) != 2 {
			t.Error("a repeat by Idempotency-Key evicted")
		}
		h.verify(third.str("session_token")).want(204)

		// Nor does a create that is refused.
		h.do(h.key, "POST", "/v1/sessions", m{"user_id": "ada", "metadata": m{"x": strings.Repeat("x", 9000)}}).wantError(413, "claims_too_large")
		if h.stored() != before {
			t.Error("a create that was refused evicted")
		}

		// A limit that was lowered counts from the next create on.
		h.limitTo(1, "evict_oldest")
		if len(h.good("ada")) != 2 {
			t.Error("a lower limit evicted by itself")
		}
		last := h.login("ada")
		if got := h.good("ada"); !slices.Equal(got, []string{last.str("session.session_id")}) {
			t.Errorf("good after a lower limit: %v", got)
		}
		h.limitTo(0, "evict_oldest")
		for range 3 {
			h.login("ada")
		}
		if got := h.good("ada"); len(got) != 4 {
			t.Errorf("%d sessions without a limit, want 4", len(got))
		}
	})
}

func TestSessionLimitRejects(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		h.limitTo(2, "reject")
		create := func() *reply {
			return h.do(h.key, "POST", "/v1/sessions", m{"user_id": "ada", "session_duration_minutes": 10})
		}
		first := create().want(201)
		time.Sleep(5 * time.Minute)
		create().want(201)
		before := h.stored()
		if r := create().wantError(409, "session_limit_reached"); r.at("error_details.max_sessions_per_user") != 2.0 {
			t.Errorf("refused: %s", r.Raw)
		}
		if h.stored() != before {
			t.Error("a refused create wrote something")
		}
		h.do(h.key, "POST", "/v1/sessions/revoke", m{"session_token": first.str("session_token")}).want(200)
		create().want(201)
		create().wantError(409, "session_limit_reached")
		time.Sleep(11 * time.Minute) // both expire
		create().want(201)
		create().want(201)
		create().wantError(409, "session_limit_reached")

		// Somebody else who acts as the user takes no place.
		staff := h.apiKey(h.app, "create", "impersonate", "read")
		as := h.do(staff, "POST", "/v1/sessions/impersonate", m{"user_id": "bob", "actor": m{"sub": "carol"}}).want(201)
		for range 2 {
			h.login("bob")
		}
		h.do(h.key, "POST", "/v1/sessions", m{"user_id": "bob"}).wantError(409, "session_limit_reached")
		h.verify(as.str("session_token")).want(204)
		h.do(staff, "POST", "/v1/sessions/impersonate", m{"user_id": "bob", "actor": m{"sub": "carol"}}).want(201)
	})
}

// TestSessionLimitAtOnce: creates that come at once never leave more than the
// limit, and none more than needed is evicted or refused.
func TestSessionLimitAtOnce(t *testing.T) {
	for _, policy := range []string{"evict_oldest", "reject"} {
		bubble(t, func(t *testing.T, h *harness) {
			h.limitTo(3, policy)
			slow(&h.home.MemoryLink)
			codes, done, most := map[int]int{}, make(chan struct{}), 0
			var watching sync.WaitGroup
			watching.Go(func() {
				for {
					select {
					case <-time.After(time.Millisecond):
						most = max(most, len(h.good("ada")))
					case <-done:
						return
					}
				}
			})
			for _, r := range atOnce(12, func(int) *reply { return h.do(h.key, "POST", "/v1/sessions", m{"user_id": "ada"}) }) {
				codes[r.Status]++
			}
			close(done)
			watching.Wait()
			if most > 3 {
				t.Errorf("%s: %d good sessions meanwhile, limit 3", policy, most)
			}
			if got := h.good("ada"); len(got) != 3 {
				t.Errorf("%s: %d good sessions after 12 creates at once, want 3 (%v)", policy, len(got), codes)
			}
			want := map[int]int{201: 12}
			if policy == "reject" {
				want = map[int]int{201: 3, 409: 9}
			}
			if fmt.Sprint(codes) != fmt.Sprint(want) {
				t.Errorf("%s: answered %v, want %v", policy, codes, want)
			}
		})
	}
}

// TestSessionLimitTurns: a create that hangs holds up those of its user for a
// time, and nobody else's; one that waits too long says so.
func TestSessionLimitTurns(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		h.limitTo(3, "reject")
		h.home.Cut()
		var wg sync.WaitGroup
		for _, user := range []string{"ada", "ada", "eve"} {
			wg.Go(func() {
				begin := time.Now()
				h.do(h.key, "POST", "/v1/sessions", m{"user_id": user}).wantError(503, "log_unavailable")
				if took := time.Since(begin); took > 11*time.Second {
					t.Errorf("%s was held up for %v", user, took)
				}
			})
		}
		wg.Wait()
		h.home.Heal()
		time.Sleep(10 * time.Second)
		h.login("ada")
	})
}

// limitSeeds is how many schedules the tests over several nodes try.
const limitSeeds = 12

// TestSessionLimitNodes: whatever the nodes of a region do at the same time, when
// all is quiet there are exactly as many sessions as allowed, on each node the
// same; and who was told 201 last of all is logged in.
func TestSessionLimitNodes(t *testing.T) {
	for seed := range uint64(limitSeeds) {
		for _, policy := range []string{"evict_oldest", "reject"} {
			fleetBubble(t, 3, func(t *testing.T, f *fleet) {
				r := rand.New(rand.NewPCG(seed, 1))
				limit := 1 + r.IntN(3)
				f.limitTo(limit, policy)
				time.Sleep(2 * time.Second)
				for _, n := range f.nodes {
					d := time.Duration(r.IntN(20)) * time.Millisecond
					n.link.SetFaults(events.MemoryFaults{Send: func(ctx context.Context, _ events.Message) error { wait(ctx, d); return nil }})
				}
				waits := make([]time.Duration, 12)
				for i := range waits {
					waits[i] = time.Duration(r.IntN(60)) * time.Millisecond
				}
				replies := atOnce(len(waits), func(i int) *reply {
					time.Sleep(waits[i])
					return f.nodes[i%3].do(f.key, "POST", "/v1/sessions", m{"user_id": "ada"})
				})
				time.Sleep(2 * time.Second)
				want := f.good("ada")
				if len(want) > limit || len(want) == 0 || policy == "evict_oldest" && len(want) != limit {
					t.Errorf("seed %d, %s: %d good sessions, limit %d", seed, policy, len(want), limit)
				}
				for _, n := range f.nodes {
					if got := n.good("ada"); !slices.Equal(got, want) {
						t.Errorf("seed %d, %s: %s has %v, n1 %v", seed, policy, n.name, got, want)
					}
				}
				for i, r := range replies {
					if r.Status != 201 && r.Status != 409 {
						t.Errorf("seed %d, %s: answer %d: %s", seed, policy, i, r.Raw)
					}
				}
				last := f.nodes[seed%3].do(f.key, "POST", "/v1/sessions", m{"user_id": "ada"})
				if policy == "evict_oldest" {
					f.nodes[seed%3].verify(last.want(201).str("session_token")).want(204)
				}
			})
		}
	}
}

// TestSessionLimitRegions: regions that were cut off from one another have too
// many together, and when they meet again the oldest go, and no more than those.
func TestSessionLimitRegions(t *testing.T) {
	for seed := range uint64(limitSeeds) {
		synctest.Test(t, func(t *testing.T) {
			c := newContinents(t)
			r := rand.New(rand.NewPCG(seed, 2))
			limit := 1 + r.IntN(3)
			c.nodes["eu1"].limitTo(limit, "evict_oldest")
			time.Sleep(2 * time.Second)
			names := []string{"eu1", "eu2", "us1"}
			apart := seed%3 != 0
			if apart {
				c.cut()
				time.Sleep(time.Duration(r.IntN(40)) * time.Second)
			}
			waits := make([]time.Duration, 9)
			for i := range waits {
				waits[i] = time.Duration(r.IntN(3000)) * time.Millisecond
			}
			replies := atOnce(len(waits), func(i int) *reply {
				time.Sleep(waits[i])
				n := c.nodes[names[i%3]]
				return n.do(n.key, "POST", "/v1/sessions", m{"user_id": "ada"})
			})
			for i, r := range replies {
				if r.Status != 201 && r.Status != 409 {
					t.Fatalf("seed %d: answer %d: %s", seed, i, r.Raw)
				}
			}
			if apart {
				time.Sleep(time.Duration(r.IntN(60)) * time.Second)
				c.heal()
			}
			time.Sleep(2 * time.Minute)
			want := c.nodes["eu1"].good("ada")
			if len(want) != limit {
				t.Errorf("seed %d: %d good sessions, want %d", seed, len(want), limit)
			}
			for _, name := range names {
				if got := c.nodes[name].good("ada"); !slices.Equal(got, want) {
					t.Errorf("seed %d: %s has %v, eu1 %v", seed, name, got, want)
				}
			}
		})
	}
}

// TestSessionLimitSkewedClocks: who logged in first goes first, although the clock
// of the node there is ahead.
func TestSessionLimitSkewedClocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newContinents(t)
		eu, us := c.nodes["eu1"], c.nodes["us1"]
		eu.limitTo(2, "evict_oldest")
		c.us.mu.Lock()
		c.us.skew = 5 * time.Second
		c.us.mu.Unlock()
		time.Sleep(2 * time.Second)
		first := us.login("ada")
		time.Sleep(time.Second)
		second := eu.login("ada")
		time.Sleep(time.Second)
		third := eu.login("ada")
		time.Sleep(time.Second)
		eu.verify(first.str("session_token")).wantRefused("revoked")
		us.verify(second.str("session_token")).want(204)
		us.verify(third.str("session_token")).want(204)
	})
}

// TestSessionLimitSameKey: a create that waits for its turn, while another node
// makes its session under the same Idempotency-Key, does not evict that.
func TestSessionLimitSameKey(t *testing.T) {
	fleetBubble(t, 2, func(t *testing.T, f *fleet) {
		f.limitTo(1, "evict_oldest")
		time.Sleep(2 * time.Second)
		f.nodes[1].link.SetFaults(events.MemoryFaults{Send: func(ctx context.Context, _ events.Message) error { wait(ctx, 50*time.Millisecond); return nil }})
		replies := atOnce(3, func(i int) *reply {
			if i == 0 {
				return f.nodes[1].do(f.key, "POST", "/v1/sessions", m{"user_id": "ada"})
			}
			time.Sleep(10 * time.Millisecond)
			return f.nodes[i-1].do(f.key, "POST", "/v1/sessions", m{"user_id": "ada"}, "Idempotency-Key", "k")
		})
		token := replies[1].want(201).str("session_token")
		if again := replies[2].want(201).str("session_token"); again != token {
			t.Error("one key, two sessions")
		}
		time.Sleep(time.Second)
		f.nodes[1].verify(token).want(204)
		if got := f.good("ada"); len(got) != 1 {
			t.Errorf("%d good sessions, limit 1", len(got))
		}
	})
}
