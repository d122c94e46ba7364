package node_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node"
	"github.com/revocast/revocast/node/api"
)

// TestJWTShown: what Stytch's clients are told of a JWT that they cannot verify
// themselves. On session_not_found they sign the user out, so nothing else may be
// answered with it.
func TestJWTShown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t, func(c *node.Config) { c.Solo = false })
		moved, _ := h.another(func(c *node.Config) { c.PublicURL = "https://elsewhere.example.com" })
		moved.start()
		key := h.newApp("st", map[string]any{"jwt_profile": "stytch"})
		other := h.newApp("other", map[string]any{"jwt_profile": "stytch"})
		login := func(h *harness, key string) *reply {
			return h.do(key, "POST", "/v1/sessions", map[string]any{"user_id": "ada"}).want(201)
		}
		show := func(jwt string) *reply {
			return h.do(key, "POST", "/v1/sessions/authenticate", map[string]any{"session_jwt": jwt})
		}
		time.Sleep(time.Minute) // the keys of the apps are older than clocks are apart
		s := login(h, key)
		jwt := s.str("session_jwt")
		show(jwt).want(200)
		show(login(h, other).str("session_jwt")).wantError(404, api.SessionNotFound)
		show(login(moved, key).str("session_jwt")).wantError(404, api.SessionNotFound)
		show(flipLast(jwt)).wantError(404, api.SessionNotFound)
		show(jwt[:100]).wantError(404, api.SessionNotFound)

		// Clocks that are a little apart are no matter, others are nobody's log-out.
		h.setSkew(-9 * time.Second)
		show(jwt).want(200)
		h.setSkew(15 * time.Second)
		ahead := login(h, key).str("session_jwt")
		h.setSkew(0)
		show(ahead).wantError(401, api.JWTNotYetValid)

		time.Sleep(10 * time.Minute)
		late := show(jwt).want(200)
		if late.str("session_jwt") == jwt || late.str("session_token") != s.str("session_token") {
			t.Errorf("an expired JWT is not answered with another and the token: %s", late.Raw)
		}
		h.do(key, "POST", "/v1/sessions/revoke", map[string]any{"session_jwt": jwt}).want(200)
		r := show(late.str("session_jwt")).wantError(404, api.SessionNotFound)
		if r.str("error_details.reason") != "revoked" {
			t.Errorf("%s", r.Raw)
		}
	})
}

// TestJWTNoLongerYoung: whoever shows the very JWT that would be handed out again
// gets another once a tenth of its life is over, and everybody else too.
func TestJWTNoLongerYoung(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		s := h.login("ada")
		jwt := s.str("session_jwt")
		by := func(member, credential string) string {
			return h.do(h.key, "POST", "/v1/sessions/authenticate", map[string]any{member: credential}).want(200).str("session_jwt")
		}
		time.Sleep(29 * time.Second)
		if by("session_jwt", jwt) != jwt {
			t.Error("another JWT for one that is young")
		}
		time.Sleep(2 * time.Second)
		if by("session_token", s.str("session_token")) != jwt {
			t.Error("another JWT for who shows none")
		}
		next := by("session_jwt", jwt)
		if next == jwt {
			t.Error("the same JWT, though that one was no longer wanted")
		}
		if by("session_token", s.str("session_token")) != next || by("session_jwt", jwt) != next {
			t.Error("not the newest is handed out again")
		}
	})
}

// TestImpersonationTokenAbroad: the session of an impersonation token is the same
// wherever it is authenticated.
func TestImpersonationTokenAbroad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var h *harness
		var us *events.Memory
		open := func(_ context.Context, r *events.Region) (events.Log, error) {
			switch {
			case r.Region == "us" && us != nil:
				return us.Link(), nil
			case r.Region == "eu" && h != nil:
				return h.home.Link(), nil
			}
			return nil, errors.New("no such region")
		}
		h = newHarness(t, func(c *node.Config) { c.Solo, c.Open = false, open })
		us = events.NewMemory("us", 3, events.MemoryConfig{Clock: h.clock})
		h.injectRegion("us", 3)
		h.injectRegion("eu", 2)
		abroad, _ := h.another(func(c *node.Config) { c.Name, c.Home, c.Archive, c.Open = "us1", us.Link(), us, open })
		abroad.start()
		time.Sleep(10 * time.Second)
		order := map[string]any{"user_id": "ada", "impersonator_id": "s", "impersonator_email_address": "s@example.com"}
		token := h.do(h.apiKey("acme", api.ScopeImpersonate), "POST", "/v1/impersonation/tokens", order).want(201).str("impersonation_token")
		body := map[string]any{"impersonation_token": token}
		there := abroad.do(h.key, "POST", "/v1/impersonation/authenticate", body).want(200)
		here := h.do(h.key, "POST", "/v1/impersonation/authenticate", body).want(200)
		if there.str("session_token") != here.str("session_token") || here.str("session.region") != "eu" {
			t.Errorf("there %s\nhere %s", there.Raw, here.Raw)
		}
		h.wantVerify(here.str("session_token"), 204, "-")
		abroad.wantVerify(here.str("session_token"), 204, "-")
	})
}

// TestOldPolicies: a node that CONFIG is out of reach of goes on with the policy
// and the issuers that it has, for a day; of those that it has not it says nothing.
func TestOldPolicies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newForeignKey(t, "k1")
		h := newHarness(t, sedate, func(c *node.Config) { c.Solo = false })
		bare := h.newApp("bare", nil)
		config := h.config.Link()
		b, _ := h.another(sedate, func(c *node.Config) { c.Settings = config })
		b.start()
		h.do(h.key, "PUT", "/v1/rbac/policy", policy(nil)).want(200)
		h.register("idp", map[string]any{"jwks": jwks(k)})
		s := h.login("ada").str("session_token")
		other := h.do(bare, "POST", "/v1/sessions", map[string]any{"user_id": "ada"}).want(201).str("session_token")
		time.Sleep(time.Hour)
		config.Cut()
		time.Sleep(time.Hour)
		ask := func(key, token, action string) *reply {
			return b.do(key, "POST", "/v1/sessions/authenticate", map[string]any{"session_token": token, "authorization_check": check("images", action)})
		}
		ask(h.key, s, "read").want(200)
		ask(h.key, s, "write").wantError(403, api.NotAuthorized)
		ask(bare, other, "read").wantError(503, api.NodeStale)
		b.do(h.key, "GET", "/v1/rbac/policy", nil).want(200)
		b.do(bare, "GET", "/v1/rbac/policy", nil).wantError(503, api.NodeStale)
		b.attest(k.jwt(t, "ada", nil), nil).want(200)
		b.attest(k.jwt(t, "ada", nil), map[string]any{"profile_id": "new"}).wantError(503, api.NodeStale)
		b.do(h.key, "PUT", "/v1/rbac/policy", policy(nil)).wantError(503, api.NodeStale)

		time.Sleep(24 * time.Hour)
		ask(h.key, s, "read").wantError(503, api.NodeStale)
		b.do(h.key, "GET", "/v1/rbac/policy", nil).wantError(503, api.NodeStale)
		b.attest(k.jwt(t, "ada", nil), nil).wantError(503, api.NodeStale)
		b.do(h.key, "POST", "/v1/sessions/authenticate", map[string]any{"session_token": s}).want(200)
	})
}
