package node_test

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/revocast/revocast/node"
	"github.com/revocast/revocast/node/outbound"
)

// With a lease shorter than an endpoint may take to answer, one that hangs counts as
// failing all the same: it is told ever more seldom.
func TestDeliveryHangsWithShortLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := new(receiver)
		h := newHarness(t, func(c *node.Config) { c.Outbound, c.Lease = r, 6*time.Second })
		id, _ := h.webhook(revoked)
		r.set(func() { r.answer = func(received) int { return 0 } })
		want := h.ended("ada", 1)
		time.Sleep(10 * time.Minute)
		_, region := h.endpoint(id)
		if failing, _ := region["failing"].(map[string]any); failing == nil || failing["reason"] != "timeout" || len(r.all()) > 15 {
			t.Errorf("asked %d times in ten minutes, shown as %v", len(r.all()), region)
		}
		r.set(func() { r.answer = nil })
		time.Sleep(15 * time.Minute)
		r.wantTold(t, "in the end", want)
	})
}

// A replay that was asked for is done, whatever the app asks for in the same moment,
// and although the log goes backwards before it has begun.
func TestWebhookReplayIsKept(t *testing.T) {
	hooked(t, func(t *testing.T, h *harness, r *receiver) {
		id, _ := h.webhook(revoked)
		all := h.ended("ada", 3)
		time.Sleep(2 * time.Second)
		r.forget()
		path := "/v1/webhooks/" + id
		h.do(h.key, "POST", path+"/replay", m{"from": all[0]}).want(http.StatusOK)
		h.do(h.key, "PATCH", path, m{"enabled": true}).want(http.StatusOK)
		time.Sleep(5 * time.Second)
		r.wantTold(t, "enabled in the same moment", all[1:])
		h.do(h.key, "PATCH", path, m{"enabled": true}).want(http.StatusOK)
		time.Sleep(5 * time.Second)
		r.wantTold(t, "enabled once more", all[1:])

		time.Sleep(10 * time.Minute)
		all = append(all, h.ended("bob", 2)...)
		time.Sleep(2 * time.Second)
		r.forget()
		r.set(func() { r.answer = func(received) int { return 503 } })
		h.do(h.key, "POST", path+"/replay", m{"from": all[0]}).want(http.StatusOK)
		time.Sleep(5 * time.Second)
		h.home.Truncate(2)
		time.Sleep(time.Minute)
		r.set(func() { r.answer = nil })
		time.Sleep(10 * time.Minute)
		users := map[string]int{}
		for _, g := range r.taken() {
			for _, user := range []string{"ada", "bob"} {
				if strings.Contains(g.body, `"user_id":"`+user+`"`) {
					users[user]++
				}
			}
		}
		if users["ada"] < 2 || users["bob"] < 2 {
			t.Errorf("after the log went backwards: told of %v", users)
		}
	})
}

// The lease is not given up while a request is on its way: who takes it next would
// tell the same at the same time.
func TestDeliveryReleasedWhenDone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := &watched{receiver: new(receiver)}
		h := newHarness(t, func(c *node.Config) { c.Outbound = out })
		out.ended = func() {
			if slices.ContainsFunc(h.works(), func(w string) bool { return strings.Contains(w, `"released":true`) }) {
				t.Error("given up with a request on its way")
			}
		}
		h.webhook(revoked)
		out.set(func() { out.answer = func(received) int { return 0 } })
		h.ended("ada", 1)
		time.Sleep(2 * time.Second)
		h.do(h.admin, "POST", "/v1/apps/acme/suspend", nil).want(http.StatusOK)
		time.Sleep(5 * time.Second)
		if n := len(out.all()); n != 1 {
			t.Errorf("asked %d times", n)
		}
		if w := h.works(); !slices.ContainsFunc(w, func(w string) bool { return strings.Contains(w, `"released":true`) }) {
			t.Errorf("not given up at all: %v", w)
		}
	})
}

// watched calls ended at the end of each request.
type watched struct {
	*receiver
	ended func()
}

func (w *watched) Do(ctx context.Context, q *http.Request, limit int64) (*outbound.Answer, error) {
	defer w.ended()
	return w.receiver.Do(ctx, q, limit)
}

// Whose log-out from everything is told late is not logged out of what they began
// since.
func TestLogoutTokenSparesNewSessions(t *testing.T) {
	hooked(t, func(t *testing.T, h *harness, r *receiver) {
		h.do(h.key, "PUT", rp+"shop", m{"backchannel_logout_uri": "https://shop.example.com/logout"}).want(http.StatusOK)
		old := h.login("ada").str("session.session_id")
		r.set(func() { r.answer = func(received) int { return -1 } })
		h.do(h.key, "POST", "/v1/sessions/revoke", m{"user_id": "ada"}).want(http.StatusOK)
		time.Sleep(time.Minute)
		r.set(func() { r.answer, r.got = nil, nil })
		h.login("ada")
		time.Sleep(5 * time.Minute)
		var sids []string
		for _, g := range r.taken() {
			sids = append(sids, h.readLogout(g).Session)
		}
		if !slices.Equal(sids, []string{old}) {
			t.Errorf("logged out of %q, want %q", sids, old)
		}
	})
}

// A client that refuses to end one session is told of the others.
func TestLogoutOfOtherSessions(t *testing.T) {
	hooked(t, func(t *testing.T, h *harness, r *receiver) {
		h.do(h.key, "PUT", rp+"shop", m{"backchannel_logout_uri": "https://shop.example.com/logout", "backchannel_logout_session_required": true}).want(http.StatusOK)
		var want []string
		for range 4 {
			want = append(want, h.login("ada").str("session.session_id"))
		}
		unknown := ""
		r.set(func() {
			r.answer = func(g received) int {
				form, _ := url.ParseQuery(g.body)
				token := form.Get("logout_token")
				if unknown == "" {
					unknown = token
				}
				if sessionIn(t, token) == sessionIn(t, unknown) {
					return 400
				}
				return 204
			}
		})
		h.do(h.key, "POST", "/v1/sessions/revoke", m{"user_id": "ada"}).want(http.StatusOK)
		time.Sleep(time.Minute)
		told := map[string]bool{}
		for _, g := range r.taken() {
			told[h.readLogout(g).Session] = true
		}
		for _, sid := range want {
			if sid != sessionIn(t, unknown) && !told[sid] {
				t.Errorf("not told of %s, as one was refused", sid)
			}
		}
		// What comes later does not wait for an hour either.
		later := h.login("ben").str("session.session_id")
		h.do(h.key, "POST", "/v1/sessions/revoke", m{"session_id": later}).want(http.StatusOK)
		time.Sleep(time.Minute)
		for _, g := range r.taken() {
			told[h.readLogout(g).Session] = true
		}
		if !told[later] {
			t.Error("what came after a token that was refused was not told")
		}
	})
}

func sessionIn(t *testing.T, jwt string) string {
	t.Helper()
	var says struct{ SID string }
	partOf(t, jwt, 1, &says)
	return says.SID
}

// Requests for webhooks at the same time do not make more than an app may have.
func TestWebhookLimitAtOnce(t *testing.T) {
	hookedFleet(t, 2, func(t *testing.T, f *fleet, _ *receiver) {
		for range 14 {
			f.webhook(revoked)
		}
		time.Sleep(time.Second)
		var all sync.WaitGroup
		for i := range 8 {
			all.Go(func() { f.nodes[i%2].do(f.key, "POST", "/v1/webhooks", revoked) })
		}
		all.Wait()
		time.Sleep(5 * time.Second)
		list := f.do(f.key, "GET", "/v1/webhooks", nil).want(http.StatusOK)
		if n := len(list.at("webhooks").([]any)); n > 16 {
			t.Errorf("%d webhooks", n)
		}
	})
}

// Requests that an app asks for by hand, to an endpoint that hangs, hold up nobody
// else's deliveries, not those that are tried again either.
func TestWebhookTestsHoldUpNobody(t *testing.T) {
	hooked(t, func(t *testing.T, h *harness, r *receiver) {
		h.webhook(m{"url": "https://fails.example.com", "types": []string{"session.revoked"}})
		other := h.newApp("tenant", nil)
		id := h.do(other, "POST", "/v1/webhooks", m{"url": "https://hangs.example.com"}).want(http.StatusCreated).str("webhook.webhook_id")
		r.set(func() {
			r.answer = func(g received) int {
				if g.host == "hangs.example.com" {
					return 0
				}
				return 503
			}
		})
		h.ended("ada", 1)
		var all sync.WaitGroup
		for range 600 {
			all.Go(func() { h.do(other, "POST", "/v1/webhooks/"+id+"/test", nil) })
		}
		time.Sleep(8 * time.Second)
		tries := 0
		for _, g := range r.all() {
			if g.host == "fails.example.com" {
				tries++
			}
		}
		if tries < 3 {
			t.Errorf("tried %d times in nine seconds", tries)
		}
		all.Wait()
	})
}

// What an app signs beside JWTs of sessions is no credential anywhere.
func TestStatementsAreNoCredentials(t *testing.T) {
	hooked(t, func(t *testing.T, h *harness, r *receiver) {
		h.do(h.key, "PATCH", "/v1/apps/acme", m{"status_list": true}).want(200)
		// With the app's own audience a logout token looks most like a JWT of the app.
		h.do(h.key, "PUT", rp+"acme", m{"backchannel_logout_uri": "https://shop.example.com/logout"}).want(http.StatusOK)
		signals := h.receive(nil)
		one := h.login("ada")
		two := h.login("ada")
		h.revoke(two.str("session.session_id"))
		time.Sleep(2 * time.Second)
		form, err := url.ParseQuery(r.taken()[0].body)
		if err != nil {
			t.Fatal(err)
		}
		texts := map[string]string{"logout token": form.Get("logout_token"), "status list": h.listOf(refOf(t, one.str("session_jwt")).URI).text}
		for _, token := range signals.now() {
			texts["security event token"] = token
		}
		if len(texts) != 3 {
			t.Fatalf("only %v", texts)
		}
		for what, text := range texts {
			// Not for what the session is by now: it is not even looked up.
			h.auth(m{"session_jwt": text}).wantEnded("unknown")
			h.verify(text).wantRefused("unknown")
			for _, path := range []string{"/v1/client/refresh", "/v1/client/session"} {
				if got := h.do("", "POST", path, nil, "Authorization", "Bearer "+text); got.Status < 400 {
					t.Errorf("%s to %s: %d %s", what, path, got.Status, got.Raw)
				}
			}
		}
	})
}

// A webhook that is made while a region is out of reach hears of what happened there
// since.
func TestWebhookOfRegionOutOfReach(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := new(receiver)
		c := adjustedContinents(t, func(_ string, conf *node.Config) { conf.Outbound = r })
		eu1, us1 := c.nodes["eu1"], c.nodes["us1"]
		early := us1.login("early").str("session.session_id")
		late := us1.login("late").str("session.session_id")
		us1.harness.revoke(early)
		time.Sleep(5 * time.Minute)
		c.cut()
		time.Sleep(time.Minute)
		eu1.do(eu1.key, "POST", "/v1/webhooks", revoked).want(http.StatusCreated)
		time.Sleep(time.Minute)
		want := us1.harness.revoke(late)
		time.Sleep(time.Minute)
		c.heal()
		time.Sleep(2 * time.Minute)
		r.wantTold(t, "when the region is back", []string{want})
	})
}
