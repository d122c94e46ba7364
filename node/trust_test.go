package node_test

import (
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node"
)

// sedate makes a node send as few heartbeats as it may, so that days pass quickly.
func sedate(c *node.Config) { c.Lease, c.Beat = 20*time.Minute, 5*time.Minute }

// An app no longer wants old answers. A node that is cut off does not hear of
// that, so a receipt is not complete before such a node has stopped by itself.
func TestServeIsTakenBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t, sedate, func(c *node.Config) { c.Solo = false })
		key := h.newApp("shop", m{"when_stale": "serve"})
		never := h.newApp("strict", nil)
		config := h.config.Link()
		b, home := h.another(sedate, func(c *node.Config) { c.Settings = config })
		b.start()
		login := func(key string) *reply { return h.do(key, "POST", "/v1/sessions", m{"user_id": "ada"}).want(201) }
		one, two, other := login(key), login(key), login(never)
		time.Sleep(time.Hour)
		b.verify(one.str("session_token")).want(http.StatusNoContent)
		home.Cut()
		config.Cut()
		time.Sleep(time.Hour)
		h.do(h.admin, "PATCH", "/v1/apps/shop", m{"when_stale": "refuse"}).want(200)
		h.do(h.admin, "PATCH", "/v1/apps/strict", m{"jwt_ttl_seconds": 60}).want(200)
		receipt := func(c *reply, status string, cutOff int) {
			t.Helper()
			at := func() *reply {
				r := h.do(key, "POST", "/v1/sessions/revoke", m{"session_id": c.str("session.session_id")}).want(200)
				time.Sleep(30 * time.Minute) // longer than W
				return h.do(key, "GET", "/v1/receipts/"+r.str("revision"), nil).want(200)
			}
			r := at()
			if r.str("status") != status {
				t.Errorf("receipt %s, want %s", r.Raw, status)
			}
			if v := b.verify(c.str("session_token")); v.Status != cutOff {
				t.Errorf("the node that is cut off answers %d, want %d; receipt %s", v.Status, cutOff, r.Raw)
			}
		}
		receipt(one, "partial", http.StatusNoContent)
		key, never = never, key
		receipt(other, "complete", http.StatusServiceUnavailable)
		key = never
		time.Sleep(25 * time.Hour)
		receipt(two, "complete", http.StatusServiceUnavailable)
	})
}

// The clock of a node that mints may be ahead of that of the one which writes the
// receipt.
func TestSafeAfterByAnotherClock(t *testing.T) {
	fleetBubble(t, 1, func(t *testing.T, f *fleet) {
		b := f.join("n2", func(c *node.Config) {
			c.Clock = &testClock{begin: f.clock.begin, skew: 29 * time.Second}
		})
		time.Sleep(fullWait)
		exp := time.Unix(int64(claims(t, b.login("ada").str("session_jwt"))["exp"].(float64)), 0)
		r, _ := f.revoke(f.login("eve"))
		safe, err := time.Parse(time.RFC3339, r.want(200).str("receipt.jwt_safe_after"))
		if err != nil || safe.Before(exp) {
			t.Errorf("jwt_safe_after is %v before the exp of a JWT minted elsewhere: %v", exp.Sub(safe), err)
		}
	})
}

// A node that CONFIG is out of reach of mints by the settings it has, for a day.
func TestSafeAfterOnOtherNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t, sedate, func(c *node.Config) { c.Solo = false })
		key := h.newApp("long", m{"jwt_ttl_seconds": 3600})
		config := h.config.Link()
		b, _ := h.another(sedate, func(c *node.Config) { c.Settings = config })
		b.start()
		time.Sleep(time.Hour)
		check := func(most time.Duration) {
			t.Helper()
			c := h.do(key, "POST", "/v1/sessions", m{"user_id": "ada"}).want(201)
			time.Sleep(10 * time.Minute)
			jwt := b.do(key, "POST", "/v1/sessions/authenticate", m{"session_token": c.str("session_token")}).want(200).str("session_jwt")
			exp := time.Unix(int64(claims(t, jwt)["exp"].(float64)), 0)
			r := h.do(key, "POST", "/v1/sessions/revoke", m{"session_id": c.str("session.session_id")}).want(200)
			safe, err := time.Parse(time.RFC3339, r.str("receipt.jwt_safe_after"))
			if err != nil || safe.Before(exp) {
				t.Errorf("jwt_safe_after is %v before the exp of a JWT minted elsewhere: %v", exp.Sub(safe), err)
			}
			if left := time.Until(safe); left > most {
				t.Errorf("jwt_safe_after is %v away", left)
			}
		}
		check(90 * time.Minute)
		config.Cut()
		time.Sleep(time.Minute)
		h.do(h.admin, "PATCH", "/v1/apps/long", m{"jwt_ttl_seconds": 60}).want(200)
		time.Sleep(3 * time.Hour)
		check(90 * time.Minute)
		time.Sleep(26 * time.Hour)
		check(30 * time.Minute)
	})
}

// A user is logged out everywhere, and a region was added of which the node that
// is asked has not heard yet, or cannot hear.
func TestRevokeEverywhereWithRegionUnheard(t *testing.T) {
	for name, unheard := range map[string]func(*events.MemoryLink){
		"late":    func(l *events.MemoryLink) { l.SetFaults(delayed(200 * time.Millisecond)) },
		"cut off": func(l *events.MemoryLink) { l.Cut() },
		"fenced":  func(l *events.MemoryLink) { l.Cut(); time.Sleep(20 * time.Second) },
	} {
		t.Run(name, func(t *testing.T) {
			fleetBubble(t, 1, func(t *testing.T, f *fleet) {
				config := f.harness.config.Link()
				var us *overseas
				b := f.join("n2", func(c *node.Config) { c.Settings = config })
				time.Sleep(fullWait)
				unheard(config)
				us = f.abroad()
				token := us.login("ada").str("session_token")
				r := b.do(b.key, "POST", "/v1/sessions/revoke", m{"user_id": "ada", "wait": "all"})
				if v := us.verify(token); v.Status == http.StatusNoContent && r.str("receipt.status") == "complete" {
					t.Errorf("receipt %s, and the user is logged in at us", r.Raw)
				}
				want := "partial"
				if name == "late" {
					want = "pending" // n2 does not open other regions
				}
				if r.str("receipt.status") != want {
					t.Errorf("receipt %s, want %s", r.Raw, want)
				}
			})
		})
	}
}
