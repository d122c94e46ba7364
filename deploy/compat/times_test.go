package compat

import (
	"net/http"
	"testing"
	"time"
)

// lease is L: an idle timeout is judged at last use + idle + idle/10 + L.
const lease = 15 * time.Second

// TestTimes lets sessions expire, which takes a minute and a half: a minute is
// the shortest life there is. With -short it is skipped.
func TestTimes(t *testing.T) {
	if testing.Short() {
		t.Skip("NOT TESTED with -short: takes a minute and a half")
	}
	t.Parallel()
	n := newNode(t)
	c := n.app()
	tab := newTable(t, "session", "step", "after")
	begin := func(body object) (*reply, time.Time) {
		body["user_id"] = "ada"
		return c.do(t, "POST", "/v1/sessions", body).want(t, http.StatusCreated), time.Now()
	}
	brief, briefMade := begin(object{"session_duration_minutes": 1})
	idle, idleMade := begin(object{"idle_timeout_minutes": 1})
	used, usedMade := begin(object{"idle_timeout_minutes": 1})
	exp := seconds(t, brief.SessionJWT, "exp")
	tab.row(unless(!exp.After(brief.Session.ExpiresAt), "exp %v, session %v", exp, brief.Session.ExpiresAt), "of a minute", "its JWT ends with it", "")

	status := func(s *reply) string {
		return c.do(t, "GET", "/v1/sessions/"+s.Session.SessionID, nil).want(t, http.StatusOK).Session.Status
	}
	const idleFor = time.Minute
	latest := idleFor + idleFor/10 + lease + 3*time.Second
	expired, gone := time.Duration(0), time.Duration(0)
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	lastUse := time.Time{}
	for range tick.C {
		if time.Since(lastUse) > 5*time.Second {
			lastUse = time.Now()
			if r := c.verify(t, used.SessionToken); r.status != http.StatusNoContent {
				tab.row("status "+http.StatusText(r.status), "idle of a minute, used", "good", time.Since(usedMade).Round(time.Second))
				break
			}
		}
		if expired == 0 && status(brief) == "expired" {
			expired = time.Since(briefMade)
		}
		// Neither reading nor a background verify is a use.
		if gone == 0 && status(idle) == "idle" {
			gone = time.Since(idleMade)
		}
		background := client{n.base, idle.SessionToken}.do(t, "GET", "/v1/verify?background=1", nil)
		if want := map[bool]int{true: 204, false: 401}[gone == 0]; background.status != want && time.Since(idleMade) < idleFor {
			t.Errorf("a background verify after %v: %d", time.Since(idleMade), background.status)
		}
		if time.Since(usedMade) > latest {
			break
		}
	}
	tab.row(unless(expired >= time.Minute-time.Second && expired < time.Minute+2*time.Second, "after %v", expired), "of a minute", "expired", expired.Round(100*time.Millisecond))
	tab.row(c.verdict(t, brief, "expired"), "of a minute", "expired, every way", "")
	tab.row(unless(gone >= idleFor && gone < latest, "after %v, want %v to %v", gone, idleFor, latest), "idle of a minute", "idle", gone.Round(100*time.Millisecond))
	r := c.verify(t, idle.SessionToken)
	tab.row(unless(r.status == http.StatusUnauthorized, "status %d", r.status), "idle of a minute", "refused", r.status)
	r = c.do(t, "POST", "/v1/sessions/authenticate", object{"session_token": idle.SessionToken})
	tab.row(unless(r.wrong(404, "session_not_found") == "" && r.ErrorDetails["reason"] == "idle", "%s", r.raw), "idle of a minute", "the reason", r.ErrorDetails["reason"])
	tab.row(c.verdict(t, used, "active"), "idle of a minute, used", "active", time.Since(usedMade).Round(time.Second))
}
