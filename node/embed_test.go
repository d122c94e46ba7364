package node_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node"
)

// TestVerifyInProcess: the same verdicts as GET /v1/verify, and what they are.
func TestVerifyInProcess(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		shut := h.newApp("shut", nil)
		inShut := h.do(shut, "POST", "/v1/sessions", m{"user_id": "ada"}).want(201).str("session_token")
		served := h.do(h.newApp("served", m{"when_stale": "serve"}), "POST", "/v1/sessions", m{"user_id": "ada"}).want(201).str("session_token")
		again := h.do(h.newApp("again", m{"when_stale": "reauth"}), "POST", "/v1/sessions", m{"user_id": "ada"}).want(201).str("session_token")
		h.do(h.admin, "POST", "/v1/apps/shut/suspend", nil).want(200)
		brief := h.do(h.key, "POST", "/v1/sessions", m{"user_id": "ada", "session_duration_minutes": 1}).want(201).str("session_token")
		idle := h.do(h.key, "POST", "/v1/sessions", m{"user_id": "ada", "idle_timeout_minutes": 1}).want(201).str("session_token")
		gone := h.login("ada")
		h.do(h.key, "DELETE", "/v1/sessions/"+gone.str("session.session_id"), nil).want(200)
		time.Sleep(100 * time.Second)
		c := h.login("ada")
		token, jwt := c.str("session_token"), c.str("session_jwt")

		check := func(name, credential string, o node.VerifyOptions, want error) {
			t.Helper()
			v, err := h.node.Verify(t.Context(), credential, o)
			query := ""
			if o.App != "" {
				query = "?app=" + o.App
			}
			r := h.do(credential, "GET", "/v1/verify"+query, nil)
			if !errors.Is(err, want) {
				t.Errorf("%s: %v, want %v", name, err, want)
			}
			if err == nil {
				if r.Status != 204 || r.Header.Get("X-Session-Id") != v.ID.String() || r.Header.Get("X-Session-User") != v.User || r.Header.Get("X-Session-App") != v.App ||
					r.Header.Get("X-Session-Expires") != fmt.Sprint(v.ExpiresAt/1000) || (r.Header.Get("X-Session-Freshness") != "") != (v.Stale != "") {
					t.Errorf("%s: %+v, over HTTP %d %v", name, v, r.Status, r.Header)
				}
				return
			}
			refused, ok := errors.AsType[*node.VerifyError](err)
			if !ok || refused.Status != r.Status || refused.Reason != r.Header.Get("X-Session-Reason") || v != (node.Verified{}) {
				t.Errorf("%s: %+v %v, over HTTP %d %q", name, v, err, r.Status, r.Header.Get("X-Session-Reason"))
			}
		}
		none := node.VerifyOptions{}
		check("token", token, none, nil)
		check("JWT", jwt, none, nil)
		check("pinned", token, node.VerifyOptions{App: "acme"}, nil)
		check("pinned elsewhere", token, node.VerifyOptions{App: "shut"}, node.ErrNotFound)
		check("pinned elsewhere, JWT", jwt, node.VerifyOptions{App: "shut"}, node.ErrNotFound)
		check("nothing", "", none, node.ErrNotFound)
		check("junk", "junk", none, node.ErrNotFound)
		check("too long", strings.Repeat("x", 9000), none, node.ErrNotFound)
		check("unknown", events.NewToken(2).Reveal(), none, node.ErrNotFound)
		check("revoked", gone.str("session_token"), none, node.ErrRevoked)
		check("expired", brief, none, node.ErrExpired)
		check("idle", idle, none, node.ErrExpired)
		check("suspended", inShut, none, node.ErrSuspended)
		h.home.Cut()
		time.Sleep(16 * time.Second)
		check("fenced", token, none, node.ErrStale)
		check("fenced, JWT", jwt, none, node.ErrStale)
		check("fenced, unknown", events.NewToken(2).Reveal(), none, node.ErrStale)
		check("fenced, served", served, none, nil)
		check("fenced, reauth", again, none, node.ErrStale)
	})
}

// TestVerifyInProcessTouches: a verify is a use of the session, unless it is
// marked as none.
func TestVerifyInProcessTouches(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		create := func() string {
			return h.do(h.key, "POST", "/v1/sessions", m{"user_id": "ada", "idle_timeout_minutes": 1}).want(201).str("session_token")
		}
		used, left := create(), create()
		for range 20 {
			time.Sleep(10 * time.Second)
			_, _ = h.node.Verify(t.Context(), left, node.VerifyOptions{Background: true})
			if _, err := h.node.Verify(t.Context(), used, node.VerifyOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := h.node.Verify(t.Context(), left, node.VerifyOptions{}); !errors.Is(err, node.ErrExpired) {
			t.Errorf("used in the background only: %v", err)
		}
	})
}

// TestVerifyInProcessDoesNotAllocate: not for a token that the node knows.
func TestVerifyInProcessDoesNotAllocate(t *testing.T) {
	if underRace {
		t.Skip("NOT TESTED under the race detector, which allocates")
	}
	h := newHarness(t)
	token := h.login("ada").str("session_token")
	ctx := t.Context()
	for name, o := range map[string]node.VerifyOptions{"plain": {}, "pinned": {App: "acme"}, "background": {Background: true}} {
		var failed error
		allocs := testing.AllocsPerRun(1000, func() {
			if _, err := h.node.Verify(ctx, token, o); err != nil {
				failed = err
			}
		})
		if failed != nil || allocs != 0 {
			t.Errorf("%s: %v allocations, %v", name, allocs, failed)
		}
	}
}
