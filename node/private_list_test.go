package node_test

import (
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/revocast/revocast/node"
)

// listMeanwhile asks us1 for a list that has a session of the own region, and one
// of the other, whose private part is out of reach from now on.
func listMeanwhile(t *testing.T, c *continents, during func(kept string)) (r *reply, kept, apart string) {
	t.Helper()
	us := c.nodes["us1"]
	apart = c.nodes["eu1"].login("ada").str("session.session_id")
	kept = us.login("ada").str("session.session_id")
	time.Sleep(2 * time.Second)
	during(kept)
	us.links["eu"].Cut()
	return us.do(us.key, "GET", "/v1/sessions?user_id=ada", nil), kept, apart
}

func homeContinents(t *testing.T) *continents {
	t.Helper()
	c := adjustedContinents(t, func(_ string, conf *node.Config) { conf.Private = node.PrivateHome })
	c.start("us2")
	time.Sleep(20 * time.Second)
	return c
}

// shows reports whether the list in the answer has the session.
func (r *reply) shows(sid string) bool {
	all, _ := r.JSON["sessions"].([]any)
	for _, s := range all {
		if s.(map[string]any)["session_id"] == sid {
			return true
		}
	}
	return false
}

// A session that is revoked while a list waits for the private part of another is
// not listed as good, and the list says how old it is.
func TestPrivateListRevokedMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := homeContinents(t)
		us := c.nodes["us1"]
		r, kept, apart := listMeanwhile(t, c, func(kept string) {
			go func() {
				time.Sleep(time.Second)
				us.revoke(m{"session_id": kept, "wait": "all"}).want(http.StatusOK)
				time.Sleep(2 * time.Second)
				us.links["eu"].Heal()
			}()
		})
		if r.want(http.StatusOK); r.shows(kept) || !r.shows(apart) {
			t.Errorf("want %s and not %s, which was revoked: %s", apart, kept, r.Raw)
		}
		if ms, _ := r.at("staleness_ms").(float64); ms < 3000 {
			t.Errorf("the list waited for 3 seconds, and says that it is %v ms old", ms)
		}
	})
}

// A list that waited for a private part looks at the lease before it looks at the
// sessions again.
func TestPrivateListAfterTheLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := homeContinents(t)
		us1, us2 := c.nodes["us1"], c.nodes["us2"]
		r, kept, _ := listMeanwhile(t, c, func(kept string) {
			us1.links["us"].Cut()
			time.Sleep(node.DefaultLease - 2*time.Second)
			go func() { us2.revoke(m{"session_id": kept, "wait": "all"}).want(http.StatusOK) }()
		})
		if r.wantError(http.StatusServiceUnavailable, "node_stale"); r.shows(kept) {
			t.Errorf("%s is listed by a node without a lease: %s", kept, r.Raw)
		}
	})
}
