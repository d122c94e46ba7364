package node_test

import (
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node"
)

// future is an event that a newer version might write.
type future struct {
	*events.Touch
	kind    events.Kind
	payload string
}

// Subject implements [events.Event].
func (f future) Subject(region string) events.Subject {
	s := f.Touch.Subject(region)
	s.Kind = f.kind
	return s
}

// MarshalJSON returns the payload.
func (f future) MarshalJSON() ([]byte, error) { return []byte(f.payload), nil }

// fromFuture appends an event of the kind about the session.
func (h *harness) fromFuture(login *reply, kind events.Kind, payload string, ttl time.Duration) {
	h.t.Helper()
	sid, err := events.ParseSID(login.str("session.session_id"))
	if err != nil {
		h.t.Fatal(err)
	}
	h.write(&future{&events.Touch{App: h.app, User: login.str("session.user_id"), SID: sid}, kind, payload}, ttl)
}

func (h *harness) write(e events.Event, ttl time.Duration) {
	h.t.Helper()
	m, err := h.keys.Encode("eu", e, nil, ttl)
	if err != nil {
		h.t.Fatal(err)
	}
	if _, err := h.home.Append(h.t.Context(), m, events.Expectation{}); err != nil {
		h.t.Fatal(err)
	}
	synctest.Wait()
}

// TestNewerEvents: an authentic event that this version cannot read may be a
// revocation, so while it stands nothing is answered; unless it says that it
// may be skipped.
func TestNewerEvents(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		c := h.login("ada")
		token := c.str("session_token")
		h.fromFuture(c, "new", `{"v":1,"ignorable":true}`, time.Hour)
		h.fromFuture(c, events.KindTouch, `{"v":2,"ignorable":true}`, time.Hour)
		time.Sleep(2 * time.Second)
		h.wantVerify(token, http.StatusNoContent, "-")

		// It is fenced at once, and its own heartbeats do not end that.
		fenced := func(when string) {
			t.Helper()
			for range 3 {
				h.wantVerify(token, http.StatusServiceUnavailable, "format")
				time.Sleep(2 * time.Second)
			}
			if detail, _ := h.homeState(t)["detail"].(string); !strings.Contains(detail, "newer version") {
				t.Errorf("%s: detail %q", when, detail)
			}
			h.do(h.key, "POST", "/v1/sessions/authenticate", m{"session_token": token}).wantError(http.StatusServiceUnavailable, "node_stale")
		}
		h.fromFuture(c, events.KindTouch, `{"v":2}`, time.Hour)
		fenced("a newer version")
		// What it can read stands there again.
		sid, _ := events.ParseSID(c.str("session.session_id"))
		h.write(&events.Touch{App: h.app, User: "ada", SID: sid, At: h.clock.Wall().UnixMilli()}, time.Hour)
		time.Sleep(2 * time.Second)
		h.wantVerify(token, http.StatusNoContent, "-")

		h.fromFuture(c, "new", `{"v":1}`, 10*time.Minute)
		fenced("an unknown kind")
		time.Sleep(10*time.Minute + events.TTLSlack)
		h.wantVerify(token, http.StatusNoContent, "-") // it has left the log

		// Nor is it served as an old answer: it may lack a revocation for good.
		h.do(h.admin, "PATCH", "/v1/apps/"+h.app, m{"when_stale": "serve"}).want(http.StatusOK)

		// Whoever starts now finds it too.
		h.fromFuture(c, "newer", `{"v":1}`, 0)
		fenced("although the app serves old answers")
		next, _ := h.another(func(c *node.Config) { c.Name = "n2" })
		next.begin()
		time.Sleep(10 * time.Second)
		next.wantVerify(token, http.StatusServiceUnavailable, "format")
	})
}

// TestForgedNewerEvents: whoever holds no cluster key cannot fence a stream with
// what nobody can read.
func TestForgedNewerEvents(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		c := h.login("ada")
		stranger, err := events.NewClusterKeys(events.NewClusterKey())
		if err != nil {
			t.Fatal(err)
		}
		mine := h.keys
		h.keys = stranger
		h.fromFuture(c, "new", `{"v":1}`, 0)
		h.fromFuture(c, events.KindTouch, `{"v":2}`, 0)
		h.keys = mine
		time.Sleep(2 * time.Second)
		h.wantVerify(c.str("session_token"), http.StatusNoContent, "-")
	})
}
