package node_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node"
	"github.com/revocast/revocast/node/outbound"
)

// A webhook that is deleted while it is being told ends at once, and nothing is left
// of it; one whose address changes is told there, beginning with what the old one
// did not take.
func TestWebhookChangesMeanwhile(t *testing.T) {
	hooked(t, func(t *testing.T, h *harness, r *receiver) {
		gone, _ := h.webhook(m{"url": "https://hangs.example.com", "types": []string{"session.revoked"}})
		moved, _ := h.webhook(m{"url": "https://old.example.com", "types": []string{"session.revoked"}})
		hangs := make(chan struct{})
		r.set(func() {
			r.answer = func(g received) int {
				switch g.host {
				case "old.example.com":
					return 410 // it says nothing of the new address
				case "hangs.example.com":
					close(hangs)
					return 0
				}
				return 204
			}
		})
		want := h.ended("ada", 1)
		<-hangs
		h.do(h.key, "DELETE", "/v1/webhooks/"+gone, nil).want(http.StatusOK)
		h.do(h.key, "GET", "/v1/webhooks/"+gone, nil).wantError(http.StatusNotFound, "not_found")
		time.Sleep(2 * time.Second)
		if status, _ := h.endpoint(moved); status != "disabled" {
			t.Fatalf("the old address is %s", status)
		}
		h.do(h.key, "PATCH", "/v1/webhooks/"+moved, m{"url": "https://new.example.com", "enabled": true}).want(http.StatusOK)
		want = append(want, h.ended("bob", 2)...)
		r.wantTold(t, "at the new address", want)
		for _, g := range r.taken() {
			if g.host != "new.example.com" {
				t.Errorf("told %s", g.host)
			}
		}
		if all := r.all(); slices.ContainsFunc(all[2:], func(g received) bool { return g.host == "hangs.example.com" }) {
			t.Error("a deleted webhook was told")
		}
		time.Sleep(3 * time.Minute)
		for _, w := range h.works() {
			if strings.Contains(w, gone) {
				t.Errorf("left over: %s", w)
			}
		}
		// With other types it goes on from where it is.
		r.forget()
		h.do(h.key, "PATCH", "/v1/webhooks/"+moved, m{"types": []string{"session.created"}}).want(http.StatusOK)
		time.Sleep(2 * time.Second)
		h.ended("eve", 2)
		time.Sleep(time.Second)
		for _, g := range r.all() {
			if g.typ != "session.created" {
				t.Errorf("told of %s", g.typ)
			}
		}
		if n := len(r.all()); n != 2 {
			t.Errorf("told %d times", n)
		}
	})
}

// works returns what is noted in CONFIG of what nodes do, and still stands.
func (h *harness) works() (all []string) {
	h.t.Helper()
	err := h.config.Read(h.t.Context(), events.Range{To: 1 << 40, Filters: []string{"ev._config.*.*.*.work"}}, func(e events.Entry) bool {
		if strings.Contains(string(e.Payload), `"value"`) {
			all = append(all, e.Subject+" "+string(e.Payload))
		}
		return true
	})
	if err != nil {
		h.t.Fatal(err)
	}
	return all
}

// A suspended app's endpoints wait, and a deleted app's are no more.
func TestDeliveryOfSuspendedApp(t *testing.T) {
	hooked(t, func(t *testing.T, h *harness, r *receiver) {
		h.webhook(revoked)
		sid := h.login("ada").str("session.session_id")
		time.Sleep(2 * time.Second)
		h.do(h.admin, "POST", "/v1/apps/acme/suspend", nil).want(http.StatusOK)
		time.Sleep(2 * time.Second)
		want := []string{h.revoke(sid)}
		time.Sleep(time.Minute)
		r.wantTold(t, "suspended", nil)
		h.do(h.admin, "POST", "/v1/apps/acme/resume", nil).want(http.StatusOK)
		time.Sleep(3 * time.Second)
		r.wantTold(t, "resumed", want)
		r.forget()
		h.do(h.admin, "DELETE", "/v1/apps/acme", nil).want(http.StatusOK)
		time.Sleep(3 * time.Minute)
		if len(r.all()) != 0 {
			t.Errorf("a deleted app's endpoint heard %v", r.all())
		}
		for _, w := range h.works() {
			if strings.Contains(w, ".acme.") {
				t.Errorf("left over: %s", w)
			}
		}
	})
}

// What the log lost is told again once nodes have appended it again; what had been
// told before that is not.
func TestDeliveryAfterRewind(t *testing.T) {
	hooked(t, func(t *testing.T, h *harness, r *receiver) {
		id, _ := h.webhook(revoked)
		early := h.ended("ada", 2)
		time.Sleep(5 * time.Minute)
		late := h.ended("bob", 2)
		time.Sleep(time.Second)
		r.wantTold(t, "before", append(early, late...))
		r.forget()
		h.home.Truncate(int(seqOf(t, late[1])-seqOf(t, late[0])) + 4)
		time.Sleep(30 * time.Second)
		after := h.ended("eve", 1)
		time.Sleep(5 * time.Second)
		var users []string
		for _, g := range r.taken() {
			for _, user := range []string{"ada", "bob", "eve"} {
				if strings.Contains(g.body, `"user_id":"`+user+`"`) {
					users = append(users, user)
				}
			}
		}
		told := revisionsOf(r.taken())
		if len(told) == 0 || told[len(told)-1] != after[0] || slices.Contains(users, "ada") || !slices.Contains(users, "bob") {
			t.Errorf("told of %v: %v", users, told)
		}
		status, region := h.endpoint(id)
		if gap, _ := region["gap"].(map[string]any); status != "enabled" || gap["count"] != 1.0 {
			t.Errorf("shown: %s %v", status, region)
		}
	})
}

// When the log was put back to a backup and nobody remembers how far it was but what
// is noted of the endpoint, it is told what happens then, at once.
func TestDeliveryAfterRestore(t *testing.T) {
	hooked(t, func(t *testing.T, h *harness, r *receiver) {
		id, _ := h.webhook(revoked)
		h.ended("ada", 2)
		time.Sleep(10 * time.Minute) // of heartbeats
		h.ended("bob", 2)
		time.Sleep(time.Second)
		h.stop()
		r.forget()
		h.home.Truncate(400)
		next, _ := h.another(func(c *node.Config) { c.Name, c.Solo, c.Outbound = "n1", true, r })
		next.start()
		after := next.ended("eve", 3)
		time.Sleep(time.Minute)
		r.wantTold(t, "after the restore", after)
		status, region := next.endpoint(id)
		if gap, _ := region["gap"].(map[string]any); status != "enabled" || gap["count"] != 1.0 {
			t.Errorf("shown: %s %v", status, region)
		}
	})
}

func seqOf(t *testing.T, revision string) uint64 {
	t.Helper()
	p, err := events.ParsePosition(revision)
	if err != nil {
		t.Fatal(err)
	}
	return p.Seq
}

// A node that CONFIG is out of reach of delivers until its lease ends, and goes on
// when it is back.
func TestDeliveryWithoutConfig(t *testing.T) {
	hookedFleet(t, 2, func(t *testing.T, f *fleet, r *receiver) {
		f.webhook(revoked)
		want := f.ended("ada", 2)
		time.Sleep(time.Second)
		for _, n := range f.nodes {
			n.config.Cut()
		}
		for range 30 {
			want = append(want, f.ended("bob", 1)...)
		}
		n := len(r.taken())
		if n < 8 || n >= len(want) {
			t.Errorf("%d of %d events were delivered in 30 s without CONFIG", n, len(want))
		}
		for _, n := range f.nodes {
			n.config.Heal()
		}
		time.Sleep(2 * fullWait)
		var once []string
		for _, revision := range revisionsOf(r.taken()) {
			if !slices.Contains(once, revision) {
				once = append(once, revision)
			}
		}
		if !slices.Equal(once, want) {
			t.Errorf("took %v, want %v", once, want)
		}
	})
}

// Without an endpoint nothing is written of deliveries, and nothing of them is in
// the archive.
func TestDeliveryNotes(t *testing.T) {
	hooked(t, func(t *testing.T, h *harness, _ *receiver) {
		time.Sleep(time.Minute)
		if w := h.works(); len(w) != 0 {
			t.Errorf("without an endpoint: %v", w)
		}
		before := h.configured()
		_, secret := h.webhook(revoked)
		h.ended("ada", 30)
		time.Sleep(time.Second)
		if w := h.works(); len(w) != 2 {
			t.Errorf("noted: %v", w)
		}
		if now := h.configured(); now != before+1+60 {
			t.Errorf("the archive has %d more entries, want those of the sessions and the webhook", now-before)
		}
		seen := func(a events.Archived) bool {
			if strings.Contains(string(a.Payload), strings.TrimPrefix(secret, "whsec_")[:16]) {
				t.Errorf("the secret stands in %s", a.Payload)
			}
			return true
		}
		if err := h.config.History(t.Context(), []string{"ev._config.>"}, seen); err != nil {
			t.Fatal(err)
		}
		text := httptest.NewRecorder()
		h.node.Metrics().ServeHTTP(text, httptest.NewRequest("GET", "/metrics", nil))
		for _, line := range []string{
			`revocast_deliveries_total{endpoint="webhook",result="delivered"} 30`, `revocast_deliveries_total{endpoint="webhook",result="failed"} 0`,
			"revocast_delivery_endpoints 1", "revocast_delivery_endpoints_halted 0", "revocast_delivery_lag_seconds 0", "revocast_delivery_gaps_total 0",
		} {
			if !strings.Contains(text.Body.String(), "\n"+line+"\n") {
				t.Errorf("metrics lack %s", line)
			}
		}
	})
}

func TestWebhookBadInput(t *testing.T) {
	hooked(t, func(t *testing.T, h *harness, r *receiver) {
		for name, body := range map[string]any{
			"no URL": m{}, "http": m{"url": "http://x.example.com"}, "no URL at all": m{"url": "x"}, "types of nothing": m{"url": hook, "types": []string{}},
			"an unknown type": m{"url": hook, "types": []string{"session.exploded"}}, "a type of the cluster": m{"url": hook, "types": []string{"key.compromised"}},
			"a type twice": m{"url": hook, "types": []string{"session.revoked", "session.revoked"}}, "a type of a number": m{"url": hook, "types": []int{1}},
			"a short secret": m{"url": hook, "secret": "whsec_YWJj"}, "a bare secret": m{"url": hook, "secret": "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"},
			"a long description": m{"url": hook, "description": strings.Repeat("x", 600)}, "control characters": m{"url": hook, "description": "a\nb"},
			"typo": m{"url": hook, "type": "session.revoked"}, "enabled is text": m{"url": hook, "enabled": "yes"}, "no JSON": "{", "an array": "[]",
		} {
			got := h.do(h.key, "POST", "/v1/webhooks", body)
			if got.Status != http.StatusBadRequest || got.str("error_message") == "" {
				t.Errorf("%s: %d %s", name, got.Status, got.Raw)
			}
		}
		if list := h.do(h.key, "GET", "/v1/webhooks", nil).want(http.StatusOK); len(list.at("webhooks").([]any)) != 0 {
			t.Fatalf("stored: %s", list.Raw)
		}
		id, _ := h.webhook(revoked)
		for name, body := range map[string]m{
			"http": {"url": "http://x.example.com"}, "no types": {"types": []string{}}, "unknown type": {"types": []string{"x"}}, "a secret": {"secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"},
		} {
			if got := h.do(h.key, "PATCH", "/v1/webhooks/"+id, body); got.Status != http.StatusBadRequest {
				t.Errorf("PATCH with %s: %d %s", name, got.Status, got.Raw)
			}
		}
		if got := h.do(h.key, "GET", "/v1/webhooks/"+id, nil).want(http.StatusOK); got.str("webhook.url") != hook {
			t.Errorf("changed to %s", got.Raw)
		}
		// Another app has nothing of it, and neither has a key without the scope.
		other := h.newApp("tenant", nil)
		for _, at := range []string{"", "/dead-letters", "/replay", "/test", "/rotate-secret"} {
			method := "POST"
			if at == "" || at == "/dead-letters" {
				method = "GET"
			}
			h.do(other, method, "/v1/webhooks/"+id+at, nil).wantError(http.StatusNotFound, "not_found")
			h.do(h.apiKey("acme", "read", "verify"), method, "/v1/webhooks/"+id+at, nil).wantError(http.StatusForbidden, "forbidden")
		}
		h.do(other, "POST", "/v1/webhooks", m{"url": "https://tenant.example.com"}).want(http.StatusCreated)
		h.ended("ada", 1)
		time.Sleep(time.Second)
		if slices.ContainsFunc(r.all(), func(g received) bool { return g.host == "tenant.example.com" }) {
			t.Error("another app's webhook was told")
		}
		for range 15 {
			h.webhook(revoked)
		}
		h.do(h.key, "POST", "/v1/webhooks", revoked).wantError(http.StatusBadRequest, "invalid_argument")
	})
}

func TestWebhookTest(t *testing.T) {
	hooked(t, func(t *testing.T, h *harness, r *receiver) {
		id, secret := h.webhook(m{"url": hook, "enabled": false})
		path := "/v1/webhooks/" + id + "/test"
		a := h.do(h.key, "POST", path, nil).want(http.StatusOK)
		got := r.all()[0]
		if a.at("delivered") != true || a.at("receiver_status") != 204.0 || got.typ != "webhook.test" || !got.signedBy(t, secret) || !strings.Contains(got.body, id) {
			t.Errorf("%s: %s", a.Raw, got.body)
		}
		r.set(func() { r.answer = func(received) int { return 0 } })
		if took := timed(func() { a = h.do(h.key, "POST", path, nil).want(http.StatusOK) }); took != 10*time.Second {
			t.Errorf("waited %v for a receiver that hangs", took)
		}
		if a.at("delivered") != false || a.str("reason") != "timeout" {
			t.Errorf("%s", a.Raw)
		}
		h.ended("ada", 1)
		time.Sleep(5 * time.Second)
		if status, _ := h.endpoint(id); status != "disabled" || len(r.all()) != 2 {
			t.Errorf("%s, told %d times", status, len(r.all()))
		}
	})
}

// Over real connections: a redirect is not followed, an answer without end counts by
// its status, and what is not public is not reached.
func TestWebhookOverHTTP(t *testing.T) {
	var inside atomic.Int64
	forbidden := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { inside.Add(1) }))
	defer forbidden.Close()
	r := new(receiver)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		switch q.URL.Path {
		case "/redirect":
			http.Redirect(w, q, forbidden.URL, http.StatusTemporaryRedirect)
		case "/endless":
			for i := 0; q.Context().Err() == nil && i < 1<<10; i++ {
				_, _ = fmt.Fprint(w, strings.Repeat("x", 1<<10))
			}
		default:
			r.ServeHTTP(w, q)
		}
	}))
	server.Start()
	defer server.Close()
	// 127.0.0.1 stands for the receiver's network, ::1 and the rest for the node's own.
	h := newHarness(t, func(c *node.Config) {
		c.Outbound = outbound.New(netip.MustParsePrefix("127.0.0.1/32"))
		c.Beat, c.Lease = 20*time.Millisecond, 5*time.Second
	})
	_, secret := h.webhook(m{"url": server.URL + "/in", "types": []string{"session.revoked"}})
	for path, want := range map[string]m{"/redirect": {"delivered": false, "reason": "redirect", "receiver_status": 307.0}, "/endless": {"delivered": true, "receiver_status": 200.0}} {
		other, _ := h.webhook(m{"url": server.URL + path, "types": []string{"session.expired"}})
		a := h.do(h.key, "POST", "/v1/webhooks/"+other+"/test", nil).want(http.StatusOK)
		for name, value := range want {
			if a.at(name) != value {
				t.Errorf("%s: %s", path, a.Raw)
			}
		}
	}
	sid := h.login("ada").str("session.session_id")
	want := h.revoke(sid)
	for begin := time.Now(); len(r.taken()) == 0 && time.Since(begin) < 10*time.Second; {
		time.Sleep(5 * time.Millisecond) // a real server's doing can be waited for only so
	}
	r.wantTold(t, "over HTTP", []string{want})
	if all := r.all(); len(all) > 0 && !all[0].signedBy(t, secret) {
		t.Errorf("signature %v", all[0].signature)
	}
	if inside.Load() != 0 {
		t.Error("a redirect was followed")
	}
	strict := newHarness(t)
	for _, url := range []string{server.URL, "https://127.0.0.1/", "https://169.254.169.254/latest", "https://[::1]/", "https://10.0.0.1", "https://localhost:22/", "ftp://example.com/", "https://user:pass@example.com/"} {
		strict.do(strict.key, "POST", "/v1/webhooks", m{"url": url}).wantError(http.StatusBadRequest, "invalid_argument")
		strict.do(strict.key, "PUT", "/v1/apps/acme/logout-clients/rp", m{"backchannel_logout_uri": url}).wantError(http.StatusBadRequest, "invalid_argument")
	}
	// A name that may be anything is looked at when it is dialled.
	named, _ := strict.webhook(m{"url": "https://localhost/"})
	if a := strict.do(strict.key, "POST", "/v1/webhooks/"+named+"/test", nil).want(http.StatusOK); a.str("reason") != "address_forbidden" {
		t.Errorf("to localhost: %s", a.Raw)
	}
}
