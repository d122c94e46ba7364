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

// What an issuer attested before a log-out everywhere brings nobody back.
func TestAttestAfterLogOutEverywhere(t *testing.T) {
	attesting(t, func(t *testing.T, h *harness, _ *keyServer, k foreignKey) {
		attest := func(jwt string) *reply { return h.do(h.key, "POST", login1, m{"profile_id": "idp", "token": jwt}) }
		kept, others := k.jwt(t, "ada", nil), k.jwt(t, "bob", nil)
		attest(kept).want(http.StatusOK)
		time.Sleep(5 * time.Second)
		h.do(h.key, "POST", "/v1/sessions/revoke", m{"user_id": "ada"}).want(http.StatusOK)
		if r := attest(kept).wantError(http.StatusUnauthorized, "attestation_failed"); r.str("error_details.reason") != "logged_out" {
			t.Errorf("%s", r.Raw)
		}
		h.do(h.key, "POST", "/v1/sessions/exchange_access_token", m{"access_token": kept}).wantError(http.StatusUnauthorized, "attestation_failed")
		attest(others).want(http.StatusOK)
		attest(k.jwt(t, "ada", map[string]any{"auth_time": time.Now().Add(-time.Hour).Unix()})).want(http.StatusOK) // at the issuer they are still logged in
		h.do(h.key, "POST", "/v1/sessions/revoke", m{"all": true}).want(http.StatusOK)
		time.Sleep(time.Second)
		attest(others).wantError(http.StatusUnauthorized, "attestation_failed")
	})
}
