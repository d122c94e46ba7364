package node_test

import (
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/revocast/revocast/node"
)

// A log that went backwards while no node was there to remember it, as when it is
// brought back from a backup, is shorter than what is noted of an endpoint. What comes
// to it since is told all the same.
func TestDeliveryOfAnOlderLog(t *testing.T) {
	hooked(t, func(t *testing.T, h *harness, r *receiver) {
		id, _ := h.webhook(revoked)
		h.ended("ada", 20)
		time.Sleep(2 * time.Second)
		h.stop()
		h.home.Truncate(60)
		before := map[string]string{}
		for _, g := range r.taken() {
			before[g.id] = g.body
		}
		r.forget()
		next, _ := h.another(func(c *node.Config) { c.Outbound, c.Solo = r, true })
		next.start()
		var want []string
		for range 60 {
			want = append(want, next.ended("bob", 1)...)
		}
		time.Sleep(time.Minute)
		got := revisionsOf(r.taken())
		if i := slices.Index(got, want[0]); i < 0 || !slices.Equal(got[i:], want) {
			t.Errorf("took %v, want %v", got, want)
		}
		for _, g := range r.taken() { // a receiver takes equal ids for the same event
			if body, ok := before[g.id]; ok && body != g.body {
				t.Errorf("%s is the id of %s and of %s", g.id, body, g.body)
			}
		}
		if status, region := next.endpoint(id); status != "enabled" || region["gap"] == nil {
			t.Errorf("shown: %s %v", status, region)
		}
	})
}

// A replay that is asked for before anything was delivered is done.
func TestWebhookReplayBeforeItBegan(t *testing.T) {
	hooked(t, func(t *testing.T, h *harness, r *receiver) {
		all := h.ended("ada", 3)
		time.Sleep(5 * time.Minute)
		id, _ := h.webhook(revoked)
		h.do(h.key, "POST", "/v1/webhooks/"+id+"/replay", m{"from": all[0]}).want(http.StatusOK)
		time.Sleep(5 * time.Second)
		r.wantTold(t, "asked for at once", all[1:])
	})
}

// A replay from beyond what an endpoint has been told passes over nothing.
func TestWebhookReplayPassesOverNothing(t *testing.T) {
	hooked(t, func(t *testing.T, h *harness, r *receiver) {
		id, _ := h.webhook(revoked)
		poller := h.receive(m{"events_requested": []string{caep + "session-revoked"}})
		r.set(func() { r.answer = func(received) int { return 503 } })
		all := h.ended("ada", 4)
		r.set(func() { r.answer = nil })
		h.do(h.key, "POST", "/v1/webhooks/"+id+"/replay", m{"from": all[2]}).want(http.StatusOK)
		time.Sleep(5 * time.Second)
		r.wantTold(t, "a webhook", all)
		h.do(poller.key, "POST", "/ssf/replay", m{"stream_id": poller.id, "from": all[2]}).want(http.StatusOK)
		if got := poller.all(); len(got) != len(all) {
			t.Errorf("a receiver of Shared Signals was told of %d, want %d", len(got), len(all))
		}
	})
}

// An event that was refused for good long ago is no reason to pause an endpoint at
// its next failure.
func TestWebhookNotPausedForAnOldRefusal(t *testing.T) {
	hooked(t, func(t *testing.T, h *harness, r *receiver) {
		id, _ := h.webhook(revoked)
		r.set(func() { r.answer = func(received) int { return 422 } })
		h.ended("ada", 1)
		time.Sleep(10 * time.Minute)
		h.setSkew(55 * time.Minute)
		time.Sleep(20 * time.Minute)
		if _, region := h.endpoint(id); region["dead_letters"] != 1.0 {
			t.Fatalf("shown: %v", region)
		}
		h.setSkew(100 * time.Hour)
		time.Sleep(time.Minute)
		r.set(func() { r.answer = func(received) int { return 503 } })
		want := h.ended("bob", 1)
		time.Sleep(10 * time.Second)
		r.set(func() { r.answer = nil })
		time.Sleep(5 * time.Minute)
		if status, region := h.endpoint(id); status != "enabled" || region["failing"] != nil {
			t.Errorf("shown: %s %v", status, region)
		}
		r.wantTold(t, "after a moment's failure", want)
	})
}

// Of two log-outs from everything the log holds the later one. A client that was
// told of neither is told of all sessions that they ended.
func TestLogoutTokensOfTwoLogouts(t *testing.T) {
	hooked(t, func(t *testing.T, h *harness, r *receiver) {
		h.do(h.key, "PUT", rp+"shop", m{"backchannel_logout_uri": "https://shop.example.com/logout", "backchannel_logout_session_required": true}).want(http.StatusOK)
		r.set(func() { r.answer = func(received) int { return -1 } })
		var want []string
		for range 2 {
			want = append(want, h.login("ada").str("session.session_id"))
			h.do(h.key, "POST", "/v1/sessions/revoke", m{"user_id": "ada"}).want(http.StatusOK)
			time.Sleep(2 * time.Second)
		}
		// What it has not been told is read from the log again.
		h.do(h.key, "PUT", rp+"shop", m{"backchannel_logout_uri": "https://shop.example.com/out", "backchannel_logout_session_required": true}).want(http.StatusOK)
		r.set(func() { r.answer, r.got = nil, nil })
		time.Sleep(20 * time.Minute)
		told := map[string]bool{}
		for _, g := range r.taken() {
			told[h.readLogout(g).Session] = true
		}
		for _, sid := range want {
			if !told[sid] {
				t.Errorf("not told of %s, but of %v", sid, told)
			}
		}
	})
}

// A holder that stood still, and wakes when another delivers, tells nothing that it
// has not asked about first.
func TestDeliveryHolderWakes(t *testing.T) {
	hookedFleet(t, 2, func(t *testing.T, f *fleet, r *receiver) {
		f.webhook(revoked)
		want := f.ended("ada", 2)
		time.Sleep(2 * time.Second)
		holder := r.senders()[0]
		var stands, alive *fleetNode
		for _, n := range f.nodes {
			if n.name == holder {
				stands = n
			} else {
				alive = n
			}
		}
		asleep := true
		r.set(func() {
			r.answer = func(g received) int {
				if g.header.Get("X-Via") == holder && asleep {
					return 0
				}
				return 204
			}
		})
		want = append(want, alive.ended("bob", 1)...)
		stands.link.Cut()
		stands.config.Cut()
		want = append(want, alive.ended("eve", 30)...)
		r.set(func() { asleep = false })
		stands.link.Heal()
		stands.config.Heal()
		want = append(want, alive.ended("fay", 10)...)
		time.Sleep(time.Minute)
		r.wantTold(t, "with a holder that woke", want)
	})
}

// A replay from the log as it is, asked for while an endpoint's place is of the log as
// it was, passes over nothing.
func TestWebhookReplayAfterRewindPassesOverNothing(t *testing.T) {
	hooked(t, func(t *testing.T, h *harness, r *receiver) {
		id, _ := h.webhook(revoked)
		poller := h.receive(m{"events_requested": []string{caep + "session-revoked"}})
		r.set(func() { r.answer = func(received) int { return 503 } })
		all := h.ended("ada", 4)
		h.home.Truncate(2)
		time.Sleep(time.Minute)
		now := h.ended("bob", 1)
		r.set(func() { r.answer = nil })
		h.do(h.key, "POST", "/v1/webhooks/"+id+"/replay", m{"from": now[0]}).want(http.StatusOK)
		time.Sleep(20 * time.Minute)
		if got := revisionsOf(r.taken()); len(got) < len(all)+len(now) {
			t.Errorf("told of %v; before %v, now %v", got, all, now)
		}
		h.do(poller.key, "POST", "/ssf/replay", m{"stream_id": poller.id, "from": now[0]}).want(http.StatusOK)
		if got := poller.all(); len(got) < len(all)+len(now) {
			t.Errorf("a receiver of Shared Signals was told of %d", len(got))
		}
	})
}

// A receiver that polled, and has SETs pushed from now on, is told what the log held
// that it had not been told, also if that went backwards meanwhile.
func TestSSFPushAfterRewind(t *testing.T) {
	hooked(t, func(t *testing.T, h *harness, r *receiver) {
		poller := h.receive(m{"events_requested": []string{caep + "session-revoked"}})
		all := h.ended("ada", 4)
		time.Sleep(10 * time.Minute)
		h.home.Truncate(2)
		time.Sleep(time.Minute)
		h.do(poller.key, "PATCH", "/ssf/streams", m{"stream_id": poller.id, "delivery": m{
			"method": "urn:ietf:rfc:8935", "endpoint_url": "https://rx.example.com/ssf",
		}}).want(http.StatusOK)
		time.Sleep(20 * time.Minute)
		if got := r.all(); len(got) < len(all) {
			t.Errorf("told of %d of %d", len(got), len(all))
		}
	})
}

// A generation of the log that nobody remembers is counted anew: a receiver that polls
// goes on in that all the same.
func TestSSFPollOfAGenerationCountedAnew(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		r := h.receive(m{"events_requested": []string{caep + "session-revoked"}})
		h.ended("ada", 2)
		h.home.Truncate(2)
		time.Sleep(time.Minute)
		h.ended("bob", 1)
		r.all()
		h.wantGeneration("1")
		h.stop()
		time.Sleep(time.Hour)
		next, _ := h.another(func(c *node.Config) { c.Name, c.Solo = "n1", true })
		next.start()
		next.ended("eve", 3)
		other := r.before(next)
		next.do(r.key, "POST", "/ssf/poll/"+r.id, m{"returnImmediately": true})
		got := other.now()
		if len(got) < 3 {
			t.Fatalf("told of %d", len(got))
		}
		if again := other.now(byPosition(got)...); len(again) != 0 {
			t.Errorf("%d come again that were acknowledged", len(again))
		}
	})
}
