package node_test

import (
	"testing"
	"time"

	"github.com/revocast/revocast/node"
)

// A node that hears no more, whose clock is ahead by as much as it may be, and is then
// set ahead by as much again, mints JWTs of a session whose user is logged out until its
// lease ends. All of them are made by when the log-out says.
func TestMintedUntilIsLate(t *testing.T) {
	fleetBubble(t, 1, func(t *testing.T, f *fleet) {
		ahead := &testClock{begin: time.Now().Add(-time.Hour), skew: 29 * time.Second}
		behind := f.join("n2", func(c *node.Config) { c.Clock = ahead })
		token := f.login("ada").str("session_token")
		time.Sleep(3 * time.Second)
		behind.link.Cut()
		ahead.setSkew(58 * time.Second)
		f.revokeIn(f.key, m{"user_id": "ada"})
		var last int64
		for range 40 {
			time.Sleep(500 * time.Millisecond)
			r := behind.do(f.key, "POST", "/v1/sessions/authenticate", m{"session_token": token, "session_custom_claims": m{"n": time.Now().UnixNano()}})
			if r.Status == 503 {
				r = behind.do(f.key, "POST", "/v1/sessions/authenticate", m{"session_token": token})
			}
			if r.Status != 200 {
				continue
			}
			var says struct {
				IssuedAt int64 `json:"iat"`
			}
			partOf(t, r.str("session_jwt"), 1, &says)
			last = max(last, says.IssuedAt)
		}
		r := f.do(f.key, "GET", "/v1/revocations", nil).want(200)
		until, err := time.Parse(time.RFC3339, r.at("users").([]any)[0].(m)["minted_until"].(string))
		if err != nil || last == 0 || time.Unix(last, 0).After(until) || until.Sub(time.Unix(last, 0)) > 40*time.Second {
			t.Errorf("the last JWT is of %v, the log-out says %v (%v)", time.Unix(last, 0).UTC(), until, err)
		}
	})
}
