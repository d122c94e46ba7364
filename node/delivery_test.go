package node_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/events/broker"
	"github.com/revocast/revocast/node"
	"github.com/revocast/revocast/node/outbound"
)

// endpoint returns what is shown of the webhook in the first region.
func (h *harness) endpoint(id string) (status string, region map[string]any) {
	h.t.Helper()
	r := h.do(h.key, "GET", "/v1/webhooks/"+id, nil).want(http.StatusOK)
	all, _ := r.at("webhook.delivery").([]any)
	if len(all) == 0 {
		h.t.Fatalf("no region: %s", r.Raw)
	}
	return r.str("webhook.status"), all[0].(map[string]any)
}

// ended creates sessions of the user and revokes them, a second apart, and returns
// the revisions of the revocations.
func (h *harness) ended(user string, n int) (revisions []string) {
	h.t.Helper()
	for range n {
		login := h.login(user)
		revisions = append(revisions, h.revoke(login.str("session.session_id")))
		time.Sleep(time.Second)
	}
	return revisions
}

// wantTold fails unless the receiver took exactly these, in this order.
func (r *receiver) wantTold(t *testing.T, when string, want []string) {
	t.Helper()
	got := revisionsOf(r.taken())
	if !slices.Equal(got, want) {
		t.Errorf("%s: took %v, want %v", when, got, want)
	}
}

var revoked = m{"url": hook, "types": []string{"session.revoked"}}

// troubles are what receivers answer while they are in trouble, by their hosts.
var troubles = map[string]int{
	"fails.example.com": 500, "hangs.example.com": 0, "unreachable.example.com": -1, "redirects.example.com": 302, "busy.example.com": 429,
	"later.example.com": 408, "refuses.example.com": 403, "fine.example.com": 204,
}

// Receivers that are in trouble for an hour, each in another way, miss nothing and
// hear it in order, and one that is fine does not wait for them.
func TestWebhookReceiverComesBack(t *testing.T) {
	hooked(t, func(t *testing.T, h *harness, r *receiver) {
		ids, secrets := map[string]string{}, map[string]string{}
		for host := range troubles {
			ids[host], secrets[host] = h.webhook(m{"url": "https://" + host + "/in", "types": []string{"session.revoked"}})
		}
		of := func(host string) []received {
			return slices.DeleteFunc(r.all(), func(g received) bool { return g.host != host })
		}
		r.set(func() {
			r.header = http.Header{"Location": {"http://127.0.0.1/"}}
			r.answer = func(g received) int { return troubles[g.host] }
		})
		want := h.ended("ada", 5)
		time.Sleep(time.Second)
		if got := revisionsOf(of("fine.example.com")); !slices.Equal(got, want) {
			t.Errorf("an endpoint that is fine heard %v, want %v", got, want)
		}
		time.Sleep(55 * time.Minute)
		for host, id := range ids {
			if host == "fine.example.com" {
				continue
			}
			status, region := h.endpoint(id)
			failing, _ := region["failing"].(map[string]any)
			if status != "enabled" || failing["revision"] != want[0] || region["lag_seconds"].(float64) < 3300 {
				t.Errorf("%s is shown as %s %v", host, status, region)
			}
			all := of(host)
			if len(all) < 8 || len(all) > 20 {
				t.Errorf("%s: %d attempts in an hour", host, len(all))
			}
			for _, g := range all {
				if g.revision != want[0] || g.id != all[0].id {
					t.Fatalf("%s: out of order: %s", host, g.body)
				}
			}
		}
		r.set(func() { r.answer, r.got = nil, nil })
		want = append(want, h.ended("bob", 2)...)
		time.Sleep(20 * time.Minute)
		for host, id := range ids {
			all, all0 := of(host), want
			if host == "fine.example.com" {
				all0 = want[5:]
			}
			if got := revisionsOf(all); !slices.Equal(got, all0) {
				t.Errorf("%s came back and heard %v, want %v", host, got, all0)
			}
			for _, g := range all {
				if !g.signedBy(t, secrets[host]) {
					t.Errorf("%s: signature %v", host, g.signature)
				}
			}
			if status, region := h.endpoint(id); region["failing"] != nil || region["lag_seconds"] != 0.0 || status != "enabled" || region["dead_letters"] != 0.0 {
				t.Errorf("%s is shown as %s %v", host, status, region)
			}
		}
	})
}

// An endpoint that says it is gone hears nothing more, and misses nothing if it
// comes back.
func TestWebhookGone(t *testing.T) {
	hooked(t, func(t *testing.T, h *harness, r *receiver) {
		id, _ := h.webhook(revoked)
		r.set(func() { r.answer = func(received) int { return 410 } })
		want := h.ended("ada", 3)
		time.Sleep(time.Minute)
		status, region := h.endpoint(id)
		if status != "disabled" || region["reason"] != "gone" || len(r.all()) != 1 {
			t.Errorf("shown: %s %v, asked %d times", status, region, len(r.all()))
		}
		h.stop()
		next, _ := h.another(func(c *node.Config) { c.Outbound = r }) // it is remembered
		next.start()
		time.Sleep(time.Minute)
		r.set(func() { r.answer = nil })
		next.do(h.key, "PATCH", "/v1/webhooks/"+id, m{"description": "moved"}).want(http.StatusOK)
		time.Sleep(10 * time.Second)
		if len(r.all()) != 1 {
			t.Error("told although it is disabled")
		}
		if s := next.do(h.key, "PATCH", "/v1/webhooks/"+id, m{"enabled": true}).want(http.StatusOK).str("webhook.status"); s != "enabled" {
			t.Errorf("status %s", s)
		}
		time.Sleep(10 * time.Second)
		r.wantTold(t, "enabled again", want)
	})
}

// After 72 hours without success an endpoint is paused, until that is undone.
func TestWebhookPaused(t *testing.T) {
	hooked(t, func(t *testing.T, h *harness, r *receiver) {
		id, _ := h.webhook(revoked)
		r.set(func() { r.answer = func(received) int { return -1 } })
		want := h.ended("ada", 2)
		h.setSkew(71 * time.Hour)
		time.Sleep(time.Minute)
		if status, region := h.endpoint(id); status != "enabled" {
			t.Errorf("after 71 hours: %s %v", status, region)
		}
		h.setSkew(73 * time.Hour)
		time.Sleep(2 * time.Minute)
		if status, region := h.endpoint(id); status != "enabled" {
			t.Errorf("after few attempts: %s %v", status, region)
		}
		time.Sleep(15 * time.Minute)
		status, region := h.endpoint(id)
		if status != "paused" || region["reason"] != "unreachable" || region["since"] == nil {
			t.Errorf("after 72 hours: %s %v", status, region)
		}
		tries := len(r.all())
		time.Sleep(5 * time.Minute)
		if len(r.all()) != tries {
			t.Error("tried although it is paused")
		}
		r.set(func() { r.answer = nil })
		h.do(h.key, "PATCH", "/v1/webhooks/"+id, m{"enabled": true}).want(http.StatusOK)
		time.Sleep(10 * time.Second)
		r.wantTold(t, "resumed", want)
	})
}

// What a receiver refuses for good is put aside, and can be delivered by hand.
func TestWebhookDeadLetters(t *testing.T) {
	hooked(t, func(t *testing.T, h *harness, r *receiver) {
		id, _ := h.webhook(revoked)
		poison := ""
		r.set(func() {
			r.answer = func(g received) int {
				if poison == "" {
					poison = g.revision
				}
				if g.revision == poison {
					return 422
				}
				return 204
			}
		})
		all := h.ended("ada", 3)
		time.Sleep(10 * time.Minute)
		r.wantTold(t, "before an hour is over", nil)
		h.setSkew(55 * time.Minute)
		time.Sleep(10 * time.Minute)
		r.wantTold(t, "after it", all[1:])
		path := "/v1/webhooks/" + id
		list := h.do(h.key, "GET", path+"/dead-letters", nil).want(http.StatusOK)
		dead, _ := list.at("dead_letters").([]any)
		if len(dead) != 1 || list.at("total") != 1.0 {
			t.Fatalf("dead letters: %s", list.Raw)
		}
		if d := dead[0].(map[string]any); d["revision"] != all[0] || d["type"] != "session.revoked" || d["status"] != 422.0 || d["attempts"].(float64) < 10 {
			t.Errorf("dead letter: %v", d)
		}
		if status, region := h.endpoint(id); status != "enabled" || region["dead_letters"] != 1.0 {
			t.Errorf("shown: %s %v", status, region)
		}
		a := h.do(h.key, "POST", path+"/replay", m{"dead_letter": all[0]}).want(http.StatusOK)
		if a.at("delivered") != false || a.at("receiver_status") != 422.0 || a.str("reason") != "status_422" {
			t.Errorf("by hand: %s", a.Raw)
		}
		r.set(func() { r.answer = nil })
		h.do(h.key, "POST", path+"/replay", m{"dead_letter": all[1]}).wantError(http.StatusNotFound, "not_found")
		if a = h.do(h.key, "POST", path+"/replay", m{"dead_letter": all[0]}).want(http.StatusOK); a.at("delivered") != true {
			t.Errorf("by hand: %s", a.Raw)
		}
		if list = h.do(h.key, "GET", path+"/dead-letters", nil); len(list.at("dead_letters").([]any)) != 0 || list.at("total") != 1.0 {
			t.Errorf("dead letters: %s", list.Raw)
		}
		r.wantTold(t, "by hand", append(all[1:], all[0]))
	})
}

func TestWebhookReplay(t *testing.T) {
	hooked(t, func(t *testing.T, h *harness, r *receiver) {
		id, _ := h.webhook(revoked)
		all := h.ended("ada", 4)
		time.Sleep(time.Second)
		ids := map[string]string{}
		for _, g := range r.taken() {
			ids[g.revision] = g.id
		}
		r.forget()
		path := "/v1/webhooks/" + id + "/replay"
		h.do(h.key, "POST", path, m{"from": all[1]}).want(http.StatusOK)
		time.Sleep(5 * time.Second)
		r.wantTold(t, "from the second", all[2:])
		for _, g := range r.all() {
			if ids[g.revision] != g.id {
				t.Errorf("another webhook-id for %s", g.revision)
			}
		}
		r.forget()
		h.do(h.key, "POST", path, m{"from": "eu:0:0"}).want(http.StatusOK)
		time.Sleep(5 * time.Second)
		r.wantTold(t, "from the beginning", all)
		for name, body := range map[string]m{
			"nothing": {}, "both": {"from": all[0], "dead_letter": all[0]}, "ahead": {"from": "eu:0:999999"}, "another generation": {"from": "eu:7:1"},
			"nowhere": {"from": "mars:0:1"}, "no revision": {"from": "yesterday"}, "CONFIG": {"from": "_config:0:1"}, "no position": {"dead_letter": "x"}, "typo": {"form": "eu:0:1"},
		} {
			if got := h.do(h.key, "POST", path, body); got.Status != http.StatusBadRequest {
				t.Errorf("%s: %d %s", name, got.Status, got.Raw)
			}
		}
	})
}

// A new secret and the one before sign together for as long as was asked for.
func TestWebhookSecretRotation(t *testing.T) {
	hooked(t, func(t *testing.T, h *harness, r *receiver) {
		id, first := h.webhook(revoked)
		path := "/v1/webhooks/" + id + "/rotate-secret"
		made := h.do(h.key, "POST", path, m{"overlap_seconds": 60}).want(http.StatusOK)
		second := made.str("secret")
		if !strings.HasPrefix(second, "whsec_") || made.str("webhook.old_secret_until") == "" {
			t.Fatalf("%s", made.Raw)
		}
		check := func(when string, secrets ...string) {
			t.Helper()
			r.forget()
			h.ended("ada", 1)
			all := r.taken()
			if len(all) != 1 || len(all[0].signature) != len(secrets) {
				t.Fatalf("%s: %v", when, all)
			}
			for _, s := range secrets {
				if !all[0].signedBy(t, s) {
					t.Errorf("%s: not signed with a secret that counts", when)
				}
			}
		}
		time.Sleep(5 * time.Second)
		check("overlapping", second, first)
		time.Sleep(time.Minute)
		check("after it", second)
		const own = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
		if again := h.do(h.key, "POST", path, m{"overlap_seconds": 0, "secret": own}).want(http.StatusOK); again.at("secret") != nil {
			t.Error("a secret that was given is shown")
		}
		time.Sleep(2 * time.Second)
		check("without an overlap", own)
		for _, body := range []m{{"overlap_seconds": -1}, {"overlap_seconds": 1 << 30}, {"secret": "short"}, {"sekret": own}} {
			h.do(h.key, "POST", path, body).wantError(http.StatusBadRequest, "invalid_argument")
		}
	})
}

// via says which node sent a request.
type via struct {
	*receiver
	name string
}

func (v via) Do(ctx context.Context, q *http.Request, limit int64) (*outbound.Answer, error) {
	q.Header.Set("X-Via", v.name)
	return v.receiver.Do(ctx, q, limit)
}

// hookedFleet runs the test with several nodes of one region.
func hookedFleet(t *testing.T, n int, test func(t *testing.T, f *fleet, r *receiver)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := new(receiver)
		f := &fleet{net: new(events.MemoryMesh)}
		first := &fleetNode{name: "n1"}
		f.harness = newHarness(t, func(c *node.Config) {
			c.Solo, c.Outbound = false, via{r, "n1"}
			first.mesh = f.net.Link(c.Keys)
			c.Mesh = first.mesh
		})
		first.harness, first.link, first.config = f.harness, &f.home.MemoryLink, &f.harness.config.MemoryLink
		f.nodes = []*fleetNode{first}
		for i := 2; i <= n; i++ {
			name := fmt.Sprint("n", i)
			f.join(name, func(c *node.Config) { c.Outbound = via{r, name} })
		}
		time.Sleep(fullWait)
		test(t, f, r)
	})
}

// senders returns which nodes sent what the receiver took.
func (r *receiver) senders() (out []string) {
	for _, g := range r.taken() {
		if v := g.header.Get("X-Via"); !slices.Contains(out, v) {
			out = append(out, v)
		}
	}
	return out
}

// While nothing goes wrong one node delivers, and each event once. When it dies
// another goes on with what is not noted yet.
func TestDeliveryHandover(t *testing.T) {
	hookedFleet(t, 3, func(t *testing.T, f *fleet, r *receiver) {
		id, _ := f.webhook(revoked)
		want := f.ended("ada", 120)
		time.Sleep(2 * time.Second)
		r.wantTold(t, "in quiet operation", want)
		if s := r.senders(); len(s) != 1 {
			t.Fatalf("delivered by %v", s)
		}
		// The node that delivers dies; the requests of this test go to another.
		dead, alive := f.nodes[0], f.nodes[1]
		for _, n := range f.nodes {
			if n.name == r.senders()[0] {
				dead = n
			} else {
				alive = n
			}
		}
		dead.link.Cut()
		dead.config.Cut()
		dead.stop()
		r.forget()
		want = alive.ended("bob", 40)
		time.Sleep(time.Minute)
		var last []string
		for _, revision := range revisionsOf(r.taken()) {
			if !slices.Contains(last, revision) {
				last = append(last, revision)
			}
		}
		if i := slices.Index(last, want[0]); i < 0 || !slices.Equal(last[i:], want) {
			t.Errorf("after a death: took %v, want %v", last, want)
		}
		if extra := len(r.taken()) - len(want); extra > 2 {
			t.Errorf("%d events were delivered again", extra)
		}
		if s := r.senders(); len(s) != 1 || s[0] == dead.name {
			t.Errorf("delivered by %v", s)
		}
		// One that stops says so, and the last one goes on at once.
		second := r.senders()[0]
		for _, n := range f.nodes {
			if n.name == second {
				n.stop()
			} else if n != dead {
				alive = n
			}
		}
		r.forget()
		want = alive.ended("eve", 3)
		time.Sleep(3 * time.Second)
		r.wantTold(t, "after a farewell", want)
		if s := r.senders(); len(s) != 1 || s[0] != alive.name {
			t.Errorf("delivered by %v", s)
		}
		if status, region := alive.endpoint(id); status != "enabled" || region["lag_seconds"] != 0.0 {
			t.Errorf("shown: %s %v", status, region)
		}
	})
}

// What happens to the sessions of a region is told by a node of that region, and of
// a region that is younger than the webhook all of it is.
func TestDeliveryOfRegions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := new(receiver)
		h := newHarness(t, func(c *node.Config) { c.Solo, c.Outbound = false, via{r, "eu"} })
		h.injectRegion("eu", 2)
		id, _ := h.webhook(revoked)
		us := events.NewMemory("us", 3, events.MemoryConfig{Clock: h.clock})
		h.injectRegion("us", 3)
		n, _ := h.another(func(c *node.Config) { c.Name, c.Home, c.Archive, c.Outbound = "us1", us.Link(), us, via{r, "us"} })
		n.start()
		there := n.ended("ada", 2)
		here := h.ended("bob", 2)
		time.Sleep(2 * fullWait)
		told := map[string][]string{}
		for _, g := range r.taken() {
			told[g.header.Get("X-Via")] = append(told[g.header.Get("X-Via")], g.revision)
		}
		if !slices.Equal(told["us"], there) || !slices.Equal(told["eu"], here) || len(told) != 2 {
			t.Errorf("told %v, want of eu %v, of us %v", told, here, there)
		}
		shown := h.do(h.key, "GET", "/v1/webhooks/"+id, nil).want(http.StatusOK)
		if all, _ := shown.at("webhook.delivery").([]any); len(all) != 2 {
			t.Errorf("shown: %s", shown.Raw)
		}
		// A webhook that is made while there is a region hears of it from then on, or, where
		// it is not known how far the region is, from a minute before.
		time.Sleep(2 * time.Minute)
		r.forget()
		late, _ := n.webhook(m{"url": "https://late.example.com", "types": []string{"session.revoked"}})
		time.Sleep(3 * time.Second)
		there = n.ended("eve", 1)
		time.Sleep(time.Second)
		n.do(n.key, "DELETE", "/v1/webhooks/"+id, nil).want(http.StatusOK)
		var heard []string
		for _, g := range r.taken() {
			if g.host == "late.example.com" {
				heard = append(heard, g.revision)
			}
		}
		if !slices.Equal(heard, there) {
			t.Errorf("%s heard %v, want %v", late, heard, there)
		}
	})
}

// On a real log, with a node that stops and another that goes on.
func TestDeliveryOnJetStream(t *testing.T) {
	r := new(receiver)
	server := httptest.NewServer(r)
	defer server.Close()
	l := newRealLog(t, broker.Config{}, events.ClusterConfig{})
	out := func(c *node.Config) { c.Outbound = outbound.New(netip.MustParsePrefix("127.0.0.1/32")) }
	n := l.start(t, fast, out)
	id, secret := n.webhook(m{"url": server.URL, "types": []string{"session.revoked"}})
	var want []string
	for range 20 {
		want = append(want, n.revoke(n.login("ada").str("session.session_id")))
	}
	told := func(what string) {
		t.Helper()
		eventually(t, 20*time.Second, what, func() bool { return len(r.taken()) >= len(want) })
		r.wantTold(t, what, want)
	}
	told("delivered")
	last, err := parsePosition(want[len(want)-1])
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, 20*time.Second, "its answer is noted", func() bool { // or it would be told again
		_, region := n.endpoint(id)
		at, err := parsePosition(fmt.Sprint(region["revision"]))
		return err == nil && at.Seq >= last.Seq
	})
	n.stop()
	n = l.start(t, fast, out)
	want = append(want, n.revoke(n.login("bob").str("session.session_id")))
	told("after a restart")
	if all := r.all(); !all[0].signedBy(t, secret) {
		t.Errorf("signature %v", all[0].signature)
	}
	n.do(n.key, "POST", "/v1/webhooks/"+id+"/replay", m{"from": want[17]}).want(http.StatusOK)
	want = append(want, want[18:]...)
	told("replayed")
}
