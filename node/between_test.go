package node_test

import (
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/revocast/revocast/node"
	"github.com/revocast/revocast/node/api"
)

// What falls between two parts: each of these needs both to be right.

// Of many who create the session of one foreign token at once, for different
// users, one does, and whoever meant another user is told so.
func TestForeignOfTwoUsersAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		h.foreign("another", "ada", 0)
		slow(&h.home.MemoryLink)
		var all sync.WaitGroup
		var mu sync.Mutex // guards what follows
		good, bad, made := map[string]int{}, map[string]int{}, 0
		for i := range 8 {
			user := []string{"ada", "bob"}[i%2]
			all.Go(func() {
				_, created, err := h.node.CreateForeign(t.Context(), h.app, "contested", user, 0, false)
				mu.Lock()
				defer mu.Unlock()
				if err != nil {
					bad[user]++
				} else {
					good[user]++
				}
				if created {
					made++
				}
			})
		}
		all.Wait()
		owner := h.verifyIn(h.app, "contested").want(http.StatusNoContent).Header.Get("X-Session-User")
		if made != 1 || good[owner] != 4 || len(good) != 1 || bad[owner] != 0 {
			t.Errorf("the session is %s's; %d made it; good answers %v, refusals %v", owner, made, good, bad)
		}
	})
}

// A browser whose session is bound gets its JWT also where private parts are left
// in the log: its proof, which counts once, is asked for once.
func TestClientBoundWithoutPrivatePart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t, func(c *node.Config) { c.Private = node.PrivateLog })
		d := newDevice(t)
		token := d.login(h).str("session_token")
		proof := d.proof("POST", publicURL+refresh, token)
		r := h.do("", "POST", refresh, nil, "Authorization", "DPoP "+token, "DPoP", proof).want(http.StatusOK)
		if cnf, _ := claims(t, r.str("session_jwt"))["cnf"].(m); cnf["jkt"] != d.jkt {
			t.Errorf("cnf %v", cnf)
		}
		h.do("", "POST", refresh, nil, "Authorization", "DPoP "+token, "DPoP", proof).wantError(401, "invalid_dpop_proof")
		h.do("", "POST", refresh, nil, "Authorization", "DPoP "+token).wantError(401, "invalid_dpop_proof")
	})
}

// No JWT names a session in which nobody is logged in: its subject would be taken
// for a user.
func TestNobodyHasNoJWT(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		path := "/v1/sessions/" + h.put("of nobody", "", "x", time.Hour).want(201).str("session_id")
		h.do(h.key, "POST", path+"/tokens", m{}).wantError(400, "invalid_argument")
		for method, body := range map[string]m{"PATCH": {"metadata": m{"a": 1}}, "POST": {"organization_id": "o"}} {
			at := path
			if method == "POST" {
				at += "/organization"
			}
			if r := h.do(h.key, method, at, body); r.str("session_jwt") != "" {
				t.Errorf("%s: %s", at, r.Raw)
			}
		}
		h.kept("of nobody").holds("x")
	})
}

// Who logs in while their former sessions are erased has a session with all that
// belongs to it: without its key it would be anybody's who has the token.
func TestEraseSparesTheNextLogIn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t, func(c *node.Config) { c.Solo = false })
		d := newDevice(t)
		old := d.login(h).str("session_token")
		h.config.Cut() // the erasure waits for it in vain, between the revocation and the rest
		var erased *reply
		var erasing sync.WaitGroup
		erasing.Go(func() { erased = h.erase("ada") })
		time.Sleep(100 * time.Millisecond)
		c := d.login(h)
		erasing.Wait()
		h.config.Heal()
		erased.want(http.StatusOK)
		h.verify(old).wantRefused("revoked")
		token := c.str("session_token")
		h.do("", "GET", "/v1/verify", nil, "Authorization", "DPoP "+token, "DPoP", d.proof("GET", verifyAt, token)).want(http.StatusNoContent)
		jwt := h.do(h.key, "POST", "/v1/sessions/"+c.str("session.session_id")+"/tokens", m{}).want(http.StatusOK).str("session_jwt")
		if cnf, _ := claims(t, jwt)["cnf"].(m); cnf["jkt"] != d.jkt {
			t.Errorf("a JWT of the bound session is a bearer token: cnf %v", cnf)
		}
	})
}

// Nobody who acts as a user passes for that user's log-in: what counts is what
// they proved themselves, if anything.
func TestStepUpOfAnActor(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		staff := h.apiKey(h.app, api.ScopeCreate, api.ScopeVerify, api.ScopeImpersonate)
		order := m{"user_id": "ada", "impersonator_id": "support-7", "impersonator_email_address": "sue@example.com"}
		grant := h.do(staff, "POST", "/v1/impersonation/tokens", order).want(201).str("impersonation_token")
		for name, c := range map[string]*reply{
			"impersonate": h.do(staff, "POST", "/v1/sessions/impersonate", m{"user_id": "ada", "actor": m{"sub": "sue"}}).want(201),
			"create":      h.do(staff, "POST", "/v1/sessions", m{"user_id": "ada", "actor": m{"sub": "sue"}}).want(201),
			"token":       h.do(staff, "POST", "/v1/impersonation/authenticate", m{"impersonation_token": grant}).want(200),
		} {
			token := c.str("session_token")
			for query, require := range map[string]m{"max_age=3600": {"max_age_seconds": 3600}, "acr=aal1": {"aal": "aal1"}, "amr=pwd": {"amr": []string{"pwd"}}} {
				if r := h.auth(m{"session_token": token, "require": require}); r.Status != 401 || r.str("error_type") != api.StepUpRequired {
					t.Errorf("%s: %v: %d", name, require, r.Status)
				}
				if r := h.do(token, "GET", "/v1/verify?"+query, nil); r.Header.Get("X-Session-Reason") != "step_up" {
					t.Errorf("%s: %s: %d", name, query, r.Status)
				}
			}
			got := claims(t, c.str("session_jwt"))
			for _, claim := range []string{"acr", "amr", "auth_time"} {
				if got[claim] != nil {
					t.Errorf("%s: %s %v", name, claim, got[claim])
				}
			}
			in := h.do(h.key, "POST", "/oauth2/introspect", "token="+token, "Content-Type", "application/x-www-form-urlencoded").want(200)
			if in.at("active") != true || in.at("auth_time") != nil || in.at("acr") != nil {
				t.Errorf("%s: introspection %s", name, in.Raw)
			}
			h.verify(token).want(204)
			h.do(h.key, "PATCH", "/v1/sessions/"+c.str("session.session_id"), m{"add_authentication_factors": []m{{"type": "webauthn"}}}).want(200)
			h.do(token, "GET", "/v1/verify?max_age=60&acr=aal1&amr=pop", nil).want(204)
		}
	})
}

// A token that was rotated away while a demand waited for the private part of the
// newer state is no token any more.
func TestDemandRotatedMeanwhile(t *testing.T) {
	ask := map[string]func(h *harness, token string) *reply{
		"authenticate": func(h *harness, token string) *reply {
			return h.auth(m{"session_token": token, "require": m{"amr": []string{"otp"}}})
		},
		"verify": func(h *harness, token string) *reply { return h.do(token, "GET", "/v1/verify?amr=otp", nil) },
		"embedded": func(h *harness, token string) *reply {
			_, err := h.node.Verify(h.t.Context(), token, node.VerifyOptions{Require: &api.Require{AMR: []string{"otp"}}})
			if err == nil {
				return &reply{Status: http.StatusNoContent}
			}
			return &reply{Status: http.StatusUnauthorized}
		},
	}
	for name, shown := range ask {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				late, r := rotatedMeanwhile(t, 200*time.Millisecond)
				old := r.str("session_token")
				if got := shown(late, old); got.Status != 401 && got.Status != 404 {
					t.Errorf("%s: %d %s", name, got.Status, got.Raw)
				}
			})
		})
	}
}

// A replaced token that ends its session is not active, and no fault of the
// resource server that asks.
func TestIntrospectionOfAReusedToken(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		h.do(h.key, "PATCH", "/v1/apps/acme", m{"token_reuse": "revoke"}).want(200)
		first := h.login("ada").str("session_token")
		now := h.rotateToken(first, 0).want(200).str("session_token")
		r := h.do(h.key, "POST", "/oauth2/introspect", "token="+first, "Content-Type", "application/x-www-form-urlencoded").want(200)
		if r.at("active") != false {
			t.Errorf("%s", r.Raw)
		}
		h.verify(now).wantRefused("revoked")
	})
}
