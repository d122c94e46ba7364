package node_test

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/revocast/revocast/node"
)

// A process that stands still between looking a session up and minting mints no
// JWT that outlives what the receipt of a revocation meanwhile says.
func TestMintAfterPause(t *testing.T) {
	fleetBubble(t, 2, func(t *testing.T, f *fleet) {
		c := f.login("ada")
		synctest.Wait()
		var safe time.Time
		jwt, err := f.nodes[1].node.MintAfter(c.str("session_token"), func() {
			r, _ := f.revoke(c)
			var err error
			if safe, err = time.Parse(time.RFC3339, r.str("receipt.jwt_safe_after")); err != nil {
				t.Fatal(err)
			}
			time.Sleep(10 * time.Minute)
		})
		if err != nil {
			t.Fatal(err)
		}
		payload, err := base64.RawURLEncoding.DecodeString(strings.Split(jwt+"..", ".")[1])
		if err != nil {
			t.Fatal(err)
		}
		var claims struct {
			Exp int64 `json:"exp"`
		}
		if err := json.Unmarshal(payload, &claims); err != nil {
			t.Fatal(err)
		}
		if end := time.Unix(claims.Exp, 0); end.After(safe) {
			t.Errorf("a JWT ends at %v, %v after jwt_safe_after", end, end.Sub(safe))
		}
	})
}

// A wall clock that is set within a lease expires nobody, and mints nothing for
// the time that it shows.
func TestClockSetWithinLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		clock := newHookClock()
		h := newHarness(t, func(c *node.Config) { c.Clock = clock })
		token := h.do(h.key, "POST", "/v1/sessions", m{"user_id": "ada", "session_duration_minutes": 30}).want(http.StatusCreated).str("session_token")
		for _, step := range []time.Duration{time.Hour, -time.Hour, 366 * 24 * time.Hour} {
			clock.setSkew(step)
			h.wantVerify(token, http.StatusServiceUnavailable, "clock")
			clock.setSkew(0)
			h.wantVerify(token, http.StatusNoContent, "-")
		}
		clock.setSkew(20 * time.Second)
		h.wantVerify(token, http.StatusNoContent, "-")
	})
}
