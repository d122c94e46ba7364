package node_test

import (
	"net/http"
	"testing"
	"time"
)

// The clocks of the other region run an hour ahead, so this one holds no lease
// there. A user is logged out there by what is recorded here, and that goes by
// the home's clocks: no session that began before is left.
func TestPendingWithClocksApart(t *testing.T) {
	continentsBubble(t, func(t *testing.T, c *continents) {
		eu1, us1 := c.nodes["eu1"], c.nodes["us1"]
		c.us.setSkew(time.Hour)
		time.Sleep(time.Minute)
		login := us1.login("ada")
		time.Sleep(time.Second)
		r := eu1.revoke(m{"user_id": "ada"})
		wantPending(r, "us")
		time.Sleep(time.Minute)
		us1.wantVerify(login.str("session_token"), http.StatusUnauthorized, "revoked")
		// Its settings cannot be renewed, so it does not know who may serve old answers.
		c.wantReceipt(us1.receipt(r), http.StatusOK, "partial")
	})
}

// What is dated by the wall clock is refused at once when that was set, not only
// when the next heartbeat shows it: a session, and a log-out in a region out of
// reach. Dated an hour off, the one would escape the other.
func TestDatedByAClockThatWasSet(t *testing.T) {
	for _, d := range []time.Duration{time.Hour, -time.Hour} {
		t.Run(d.String(), func(t *testing.T) {
			continentsBubble(t, func(t *testing.T, c *continents) {
				us1 := c.nodes["us1"]
				c.cut()
				time.Sleep(time.Minute)
				wantPending(us1.revoke(m{"user_id": "eve"}), "eu")
				us1.login("eve")
				c.us.setSkew(d)
				us1.do(us1.key, "POST", "/v1/sessions", m{"user_id": "ada"}).wantError(http.StatusServiceUnavailable, "node_stale")
				us1.revoke(m{"user_id": "ada"}).wantError(http.StatusServiceUnavailable, "node_stale")
			})
		})
	}
}
