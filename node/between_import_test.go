package node_test

import (
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/revocast/revocast/node"
)

// Of a session from elsewhere of which nobody says when it began, nothing counts
// from its import: no log-in is recent by it, and once it was revoked it stays so,
// as long as the other system may go on saying that it is good.
func TestBeginningUnknown(t *testing.T) {
	asking(t, func(t *testing.T, h *harness, l *legacy) {
		h.do(h.key, "PATCH", "/v1/apps/acme", m{"session_duration_minutes": 60, "absolute_lifetime_minutes": 60}).want(200)
		l.set(func() {
			l.known["unsaid"] = m{"user_id": "ada", "authentication_factors": []m{{"type": "password"}}}
			l.known["said"] = m{"user_id": "ada", "authentication_factors": []m{{"type": "password"}}, "started_at": time.Now()}
		})
		h.verifyIn("acme", "said&max_age=60").want(http.StatusUnauthorized) // no token of anybody
		h.do("said", "GET", "/v1/verify?app=acme&max_age=60&amr=pwd", nil).want(http.StatusNoContent)
		h.do("unsaid", "GET", "/v1/verify?app=acme&amr=pwd", nil).want(http.StatusNoContent)
		h.do("unsaid", "GET", "/v1/verify?app=acme&max_age=31622400", nil).wantRefused("step_up")
		a := h.auth(m{"session_token": "unsaid"}).want(http.StatusOK)
		if got, want := a.str("session.expires_at"), a.str("session.absolute_expires_at"); got != want || got < time.Now().UTC().Add(59*time.Minute).Format(time.RFC3339) {
			t.Errorf("ends %s, at the latest %s", got, want)
		}
		h.do(h.key, "POST", "/v1/sessions/revoke", m{"session_token": "unsaid"}).want(http.StatusOK)
		time.Sleep(3 * time.Hour)
		h.verifyIn("acme", "unsaid").wantRefused("revoked")
		h.auth(m{"session_token": "unsaid"}).wantEnded("revoked")
		h.far().verifyIn("acme", "unsaid").wantRefused("revoked")
	})
}

// A user was logged out everywhere where the home of imported sessions was out of
// reach. One that is imported there before it hears of that, and does not say when
// it began, does not survive it.
func TestBeginningUnknownAndPending(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newContinents(t)
		eu, us := c.nodes["eu1"], c.nodes["us1"]
		eu.foreign("first", "bob", 0)
		time.Sleep(time.Second)
		c.cut()
		time.Sleep(time.Minute)
		us.do(us.key, "POST", "/v1/sessions/revoke", m{"user_id": "ada"}).want(http.StatusAccepted)
		time.Sleep(5 * time.Minute)
		eu.imports(eu.key, m{"token": "unsaid", "user_id": "ada"}, m{"token": "since", "user_id": "ada", "started_at": time.Now()}).wantCounts(2, 0, 0, 0, 0)
		c.heal()
		time.Sleep(time.Minute)
		eu.verifyIn(eu.app, "unsaid").wantRefused("revoked")
		us.verifyIn(us.app, "unsaid").wantRefused("revoked")
		eu.verifyIn(eu.app, "since").want(http.StatusNoContent)
	})
}

// A factor may have been used after the session began.
func TestImportedStepUp(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		now := time.Now()
		row := func(used time.Time) m {
			return m{"token": "t", "user_id": "ada", "started_at": now.Add(-time.Hour), "authentication_factors": []m{{"type": "otp", "last_authenticated_at": used}}}
		}
		h.imports(h.key, row(now.Add(time.Hour))).wantCounts(0, 0, 0, 0, 1)
		h.imports(h.key, row(now.Add(-10*time.Minute))).wantCounts(1, 0, 0, 0, 0)
		h.do("t", "GET", "/v1/verify?app=acme&max_age=660", nil).want(http.StatusNoContent)
		h.do("t", "GET", "/v1/verify?app=acme&max_age=540", nil).wantRefused("step_up")
	})
}

// Whoever logs in does not wait for the private parts of sessions whose home is
// out of reach.
func TestSessionLimitOutOfReach(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := adjustedContinents(t, func(_ string, conf *node.Config) { conf.Private = node.PrivateHome })
		eu, us := c.nodes["eu1"], c.nodes["us1"]
		eu.limitTo(4, "evict_oldest")
		for range 4 {
			eu.login("ada")
		}
		time.Sleep(time.Second)
		c.cut()
		time.Sleep(5 * time.Second) // inside the lease
		if took := timed(func() { us.login("ada") }); took > 8*time.Second {
			t.Errorf("the log-in took %v", took)
		}
	})
}

// Whoever shows a JWT alone is handed the token only by apps that want that, also
// where something was attested anew.
func TestAttestReturnsNoToken(t *testing.T) {
	attesting(t, func(t *testing.T, h *harness, _ *keyServer, k foreignKey) {
		for _, returns := range []bool{false, true} {
			h.do(h.key, "PATCH", "/v1/apps/acme", m{"return_token": returns}).want(200)
			c := h.login("ada")
			token := c.str("session_token")
			want := map[bool]string{true: token}[returns]
			if got := h.attest(k.jwt(t, "ada", nil), m{"session_jwt": c.str("session_jwt")}).want(200).str("session_token"); got != want {
				t.Errorf("return_token %v: by JWT %q, want %q", returns, got, want)
			}
			if got := h.attest(k.jwt(t, "ada", nil), m{"session_token": token}).want(200).str("session_token"); got != token {
				t.Errorf("return_token %v: by token %q", returns, got)
			}
		}
	})
}

// A user has as many sessions as may be, some of them where this node is not told
// what became of them: that is no reason to say that there are too many.
func TestSessionLimitNotKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newContinents(t)
		eu, us := c.nodes["eu1"], c.nodes["us1"]
		eu.limitTo(2, "reject")
		time.Sleep(time.Second)
		gone := eu.login("ada").str("session_token")
		us.login("ada")
		time.Sleep(time.Second)
		us.do(us.key, "POST", "/v1/sessions", m{"user_id": "ada"}).wantError(http.StatusConflict, "session_limit_reached")
		c.cut()
		time.Sleep(time.Minute)
		eu.do(eu.key, "POST", "/v1/sessions/revoke", m{"session_token": gone}).want(http.StatusOK)
		us.do(us.key, "POST", "/v1/sessions", m{"user_id": "ada"}).wantError(http.StatusServiceUnavailable, "node_stale")
		c.heal()
		time.Sleep(time.Minute)
		us.login("ada")
	})
}

// A foreign token that was rotated away is recognised as one that is used again,
// by whichever way it came here, and the other system is not asked to bring it back.
func TestReuseOfForeignTokens(t *testing.T) {
	asking(t, func(t *testing.T, h *harness, l *legacy) {
		h.do(h.key, "PATCH", "/v1/apps/acme", m{"token_reuse": "revoke"}).want(200)
		l.set(func() { l.known["lazy"] = l.row("ada") })
		h.verifyIn("acme", "lazy").want(204)
		h.put("stored", "ada", "x", time.Hour).want(201)
		h.foreign("imported", "ada", time.Now().UnixMilli())
		asked := l.asked.Load()
		for _, token := range []string{"lazy", "stored", "imported"} {
			now := h.rotateToken(token, 5).want(200).str("session_token")
			next := h.rotateToken(now, 5).want(200).str("session_token")
			h.verifyIn("acme", token).want(204)
			time.Sleep(6 * time.Second)
			h.verify(token).wantRefused("malformed") // without the app it is nothing
			h.verifyIn("acme", token).wantRefused("token_reuse")
			h.verify(next).wantRefused("revoked")
			h.verifyIn("acme", token).want(401)
		}
		if l.asked.Load() != asked {
			t.Error("the other system was asked about a token that was replaced here")
		}
	})
}

// TestBoundBehindAnyDoor: with the token or the JWT alone no door lets anybody into
// a bound session, wherever private parts are.
func TestBoundBehindAnyDoor(t *testing.T) {
	for _, mode := range []string{node.PrivateMemory, node.PrivateLog} {
		synctest.Test(t, func(t *testing.T) {
			h := newHarness(t, func(c *node.Config) { c.Private = mode })
			h.do(h.key, "PATCH", "/v1/apps/acme", m{"return_token": true, "compat": []string{"streambird"}}).want(200)
			h.foreign("makes the app one with imports", "bob", 0)
			c := newDevice(t).login(h)
			token, jwt, sid := c.str("session_token"), c.str("session_jwt"), c.str("session.session_id")
			for what, r := range map[string]*reply{
				"verify":               h.verify(token),
				"verify app":           h.verifyIn("acme", token),
				"verify jwt":           h.verifyIn("acme", jwt),
				"verify below":         h.do(token, "GET", "/v1/verify/x?jwt=1", nil),
				"verify body":          h.do("", "POST", "/v1/verify", m{"session_jwt": jwt}),
				"verify cookie":        h.do("", "GET", "/v1/verify", nil, "Cookie", "session="+token),
				"ext_authz":            h.do(token, "GET", "/v1/ext_authz/acme/x", nil),
				"ext_authz jwt":        h.do(jwt, "GET", "/v1/ext_authz/-/x", nil),
				"authenticate":         h.auth(m{"session_token": token}),
				"authenticate jwt":     h.auth(m{"session_jwt": jwt}),
				"rotate":               h.rotateToken(token, 0),
				"rotate jwt":           h.do(h.key, "POST", "/v1/sessions/rotate", m{"session_jwt": jwt}),
				"migrate":              h.do(h.key, "POST", "/v1/sessions/migrate", m{"session_token": token}),
				"refresh":              h.do(token, "POST", refresh, nil),
				"streambird":           h.do(h.key, "POST", "/v1/auth/sessions/verify", m{"session_token": token}),
				"streambird jwt":       h.do(h.key, "POST", "/v1/auth/sessions/verify", m{"session_jwt": jwt}),
				"authenticate, demand": h.auth(m{"session_token": token, "require": m{"max_age_seconds": 60}}),
			} {
				if r.Status != http.StatusUnauthorized {
					t.Errorf("%s, %s: %d %s", mode, what, r.Status, r.Raw)
				}
			}
			if _, err := h.node.Verify(t.Context(), token, node.VerifyOptions{App: "acme"}); err == nil {
				t.Errorf("%s: embedded", mode)
			}
			h.kept(token).want(http.StatusNotFound)
			p := h.do(h.key, "PATCH", "/v1/sessions/"+sid, m{"metadata": m{"a": 1}}).want(200)
			for _, r := range []*reply{p, h.do(h.key, "POST", "/v1/sessions/"+sid+"/tokens", m{}).want(200), h.do(h.key, "POST", "/v1/sessions/"+sid+"/organization", m{"organization_id": "o"}).want(200)} {
				if cnf, _ := claims(t, r.str("session_jwt"))["cnf"].(m); cnf["jkt"] == nil || r.str("session_token") != "" {
					t.Errorf("%s: %s gives away a bearer token: %s", mode, r.call, r.Raw)
				}
				h.verify(r.str("session_jwt")).want(http.StatusUnauthorized)
			}
		})
	}
}

// A node that CONFIG is out of reach of has not heard that an app has imported
// sessions. It does not say that their tokens are none.
func TestForeignWithoutConfig(t *testing.T) {
	fleetBubble(t, 2, func(t *testing.T, f *fleet) {
		n := f.nodes[1]
		native := f.login("bob").str("session_token")
		time.Sleep(time.Second)
		n.config.Cut()
		time.Sleep(time.Minute)
		f.foreign("imported", "ada", 0)
		time.Sleep(time.Second)
		f.verifyIn(f.app, "imported").want(http.StatusNoContent)
		n.verifyIn(f.app, "imported").want(http.StatusServiceUnavailable)
		n.auth(m{"session_token": "imported"}).wantError(http.StatusServiceUnavailable, "node_stale")
		f.put("stored", "ada", "x", time.Hour).want(201)
		n.kept("stored").wantError(http.StatusServiceUnavailable, "node_stale")
		n.do(n.key, "DELETE", storePath("stored"), nil).want(http.StatusServiceUnavailable)
		n.do(n.key, "DELETE", "/v1/store", nil).want(http.StatusServiceUnavailable)
		n.do(n.key, "POST", "/v1/sessions/revoke", m{"session_token": "imported"}).want(http.StatusServiceUnavailable)
		n.verify("imported").wantRefused("malformed") // without the app it is nothing anywhere
		n.verifyIn(f.app, native).want(http.StatusNoContent)
		n.config.Heal()
		time.Sleep(10 * time.Second)
		n.verifyIn(f.app, "imported").want(http.StatusNoContent)
		n.kept("stored").holds("x")
	})
}
