package node_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node"
)

// continents are two regions, eu and us, with nodes that follow both streams.
// CONFIG is in eu.
type continents struct {
	t     *testing.T
	net   *events.MemoryMesh
	keys  *events.ClusterKeys
	logs  map[string]*events.Memory
	us    *testClock // of all of us
	first *harness
	nodes map[string]*continental
	// adjust, if not nil, changes the configuration of the node of the name.
	adjust func(name string, conf *node.Config)
}

// continental is a node of one of them: links to both streams and to CONFIG.
type continental struct {
	*harness
	region string
	links  map[string]*events.MemoryLink
}

var otherRegion = map[string]string{"eu": "us", "us": "eu"}

// newContinents starts eu1, eu2 and us1.
func newContinents(t *testing.T) *continents { return adjustedContinents(t, nil) }

func adjustedContinents(t *testing.T, adjust func(name string, conf *node.Config)) *continents {
	t.Helper()
	c := &continents{t: t, adjust: adjust, net: new(events.MemoryMesh), logs: map[string]*events.Memory{}, nodes: map[string]*continental{}}
	c.us = &testClock{begin: time.Now()}
	c.first = newHarness(t, func(conf *node.Config) { conf.Solo = false })
	c.keys = c.first.keys
	c.logs["eu"], c.logs[events.ConfigRegion] = c.first.home, c.first.config
	c.logs["us"] = events.NewMemory("us", 3, events.MemoryConfig{Clock: c.us})
	for number, region := range map[uint8]string{2: "eu", 3: "us"} {
		msg, err := c.keys.Encode(events.ConfigRegion, &events.Region{Region: region, Number: number, At: 1}, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.first.config.Inject(msg); err != nil {
			t.Fatal(err)
		}
	}
	c.first.stop() // it only made the app
	c.start("eu1", "eu2", "us1")
	time.Sleep(time.Minute)
	return c
}

// start starts nodes, whose names begin with their region.
func (c *continents) start(names ...string) {
	c.t.Helper()
	for _, name := range names {
		n := &continental{region: name[:2], links: map[string]*events.MemoryLink{}}
		for region, log := range c.logs {
			n.links[region] = log.Link()
		}
		n.harness, _ = c.first.another(func(conf *node.Config) {
			conf.Name, conf.Mesh = name, c.net.Link(c.keys)
			if n.region == "us" {
				conf.Clock = c.us
			}
			conf.Settings, conf.Home, conf.Archive = n.links[events.ConfigRegion], n.links[n.region], c.logs[n.region]
			conf.Open = func(_ context.Context, r *events.Region) (events.Log, error) { return n.links[r.Region], nil }
			if c.adjust != nil {
				c.adjust(name, conf)
			}
		})
		n.harness.start()
		c.nodes[name] = n
	}
}

// cut lets nothing pass between the regions.
func (c *continents) cut() {
	for _, n := range c.nodes {
		n.links[otherRegion[n.region]].Cut()
		if n.region == "us" {
			n.links[events.ConfigRegion].Cut()
		}
	}
}

func (n *continental) heal() {
	n.links[otherRegion[n.region]].Heal()
	n.links[events.ConfigRegion].Heal()
}

func (c *continents) heal() {
	for _, n := range c.nodes {
		n.heal()
	}
}

// revokes returns how many revocations of the kind a region's log was given.
func (c *continents) revokes(region string, kind events.Kind) (count int) {
	c.t.Helper()
	err := c.logs[region].History(c.t.Context(), []string{"ev." + region + ".*.*.*." + string(kind)}, func(events.Archived) bool { count++; return true })
	if err != nil {
		c.t.Fatal(err)
	}
	return count
}

// wantPending fails unless the answer is a receipt that is pending for the region.
func wantPending(r *reply, region string) {
	r.t.Helper()
	r.want(http.StatusAccepted)
	if r.str("receipt.status") != "pending" || fmt.Sprint(r.at("receipt.pending")) != "["+region+"]" ||
		r.at("receipt.jwt_safe_after") != nil || r.str("receipt.receipt_url") != publicURL+"/v1/receipts/"+r.str("revision") {
		r.t.Errorf("receipt: %s\nwant pending for %s", r.Raw, region)
	}
}

// metrics returns the node's metrics as text.
func (n *continental) metrics() string {
	w := httptest.NewRecorder()
	n.node.Metrics().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	return w.Body.String()
}

func (n *continental) revoke(body m) *reply { return n.do(n.key, "POST", "/v1/sessions/revoke", body) }

// receipt asks for the receipt of an answer again.
func (n *continental) receipt(r *reply) *reply {
	return n.do(n.key, "GET", strings.TrimPrefix(r.str("receipt.receipt_url"), publicURL), nil)
}

func (c *continents) wantReceipt(r *reply, status int, word string) {
	c.t.Helper()
	if r.want(status); r.str("status") != word {
		c.t.Errorf("receipt is %s, want %s", r.Raw, word)
	}
}

// wantEverywhere fails unless each node answers so.
func (c *continents) wantEverywhere(token string, status int, reason string) {
	c.t.Helper()
	for name, n := range c.nodes {
		if r := n.verify(token); r.Status != status || reason != "" && r.Header.Get("X-Session-Reason") != reason {
			c.t.Errorf("%s answers %d %s, want %d %s", name, r.Status, r.Header.Get("X-Session-Reason"), status, reason)
		}
	}
}

func (c *continents) end(name string) {
	c.nodes[name].stop()
	delete(c.nodes, name)
}

func continentsBubble(t *testing.T, test func(t *testing.T, c *continents)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { test(t, newContinents(t)) })
}

// A session of a region out of reach is denied at once where it was revoked, and
// in its own region as soon as any node reaches that, though the node that took
// the revocation is dead.
func TestPendingSession(t *testing.T) {
	continentsBubble(t, func(t *testing.T, c *continents) {
		eu1, eu2, us1 := c.nodes["eu1"], c.nodes["eu2"], c.nodes["us1"]
		login, bystander := us1.login("ada"), us1.login("eve").str("session_token")
		token := login.str("session_token")
		time.Sleep(time.Second)
		c.wantEverywhere(token, http.StatusNoContent, "")
		c.cut()

		begin := time.Now()
		r := eu1.revoke(m{"session_id": login.str("session.session_id"), "reason": "stolen"})
		wantPending(r, "us")
		if took := time.Since(begin); took > 6*time.Second || r.at("revoked") != 1.0 {
			t.Errorf("after %v: %s", took, r.Raw)
		}
		synctest.Wait()
		for _, n := range []*continental{eu1, eu2} {
			n.wantVerify(token, http.StatusUnauthorized, "revoked")
		}
		us1.verify(token).want(http.StatusNoContent)
		c.wantReceipt(eu2.receipt(r), http.StatusAccepted, "pending")

		time.Sleep(time.Minute)
		eu2.wantVerify(token, http.StatusServiceUnavailable, "silent")
		begin = time.Now()
		again := eu2.revoke(m{"session_token": token})
		if wantPending(again, "us"); time.Since(begin) > 10*time.Millisecond || again.at("revoked") != 0.0 {
			t.Errorf("again after %v: %s", time.Since(begin), again.Raw)
		}
		if text := eu2.metrics(); !strings.Contains(text, "revocast_pending_revocations 1\n") {
			t.Error("the metric does not show it")
		}
		c.end("eu1")
		time.Sleep(time.Minute)
		eu2.heal() // us1 does not hear eu
		time.Sleep(5 * time.Second)
		us1.wantVerify(token, http.StatusUnauthorized, "revoked")
		us1.verify(bystander).want(http.StatusNoContent)
		got := us1.do(us1.key, "GET", "/v1/sessions/"+login.str("session.session_id"), nil).want(http.StatusOK)
		if got.str("session.revoke_reason") != "stolen" {
			t.Errorf("its home says %s", got.Raw)
		}
		c.wantReceipt(eu2.receipt(r), http.StatusOK, "complete")

		c.heal()
		time.Sleep(time.Minute)
		for _, n := range c.nodes {
			c.wantReceipt(n.receipt(r), http.StatusOK, "complete")
			c.wantReceipt(n.receipt(again), http.StatusOK, "complete")
		}
		c.wantEverywhere(token, http.StatusUnauthorized, "revoked")
		if n := c.revokes("us", events.KindRevoke); n > 2 {
			t.Errorf("delivered %d times", n)
		}
		if text := eu2.metrics(); !strings.Contains(text, "revocast_pending_revocations 0\n") {
			t.Error("the metric goes on")
		}
	})
}

// A user is logged out everywhere by both regions while they do not hear each
// other. Who logs in again afterwards stays logged in.
func TestPendingUser(t *testing.T) {
	continentsBubble(t, func(t *testing.T, c *continents) {
		eu1, us1 := c.nodes["eu1"], c.nodes["us1"]
		old := []*reply{eu1.login("ada"), us1.login("ada"), us1.login("ada")}
		spared := us1.login("ada")
		time.Sleep(time.Second)
		c.cut()
		time.Sleep(time.Minute)
		meanwhile := us1.login("ada") // eu does not know of it
		r := eu1.revoke(m{"user_id": "ada", "wait": "all", "except_session_id": spared.str("session.session_id")})
		if wantPending(r, "us"); r.at("revoked") != 3.0 {
			t.Errorf("eu: %s", r.Raw)
		}
		time.Sleep(10 * time.Second)
		other := us1.revoke(m{"user_id": "ada", "except_session_id": spared.str("session.session_id")})
		if wantPending(other, "eu"); other.at("revoked") != 4.0 {
			t.Errorf("us: %s", other.Raw)
		}
		time.Sleep(2 * time.Minute)
		fresh := []string{eu1.login("ada").str("session_token"), us1.login("ada").str("session_token"), spared.str("session_token")}
		c.end("eu1")
		time.Sleep(time.Hour)
		for _, n := range c.nodes {
			c.wantReceipt(n.receipt(map[string]*reply{"eu": r, "us": other}[n.region]), http.StatusAccepted, "pending")
		}
		c.heal()
		time.Sleep(time.Minute)
		c.start("eu3", "us3") // these read what the logs say
		time.Sleep(time.Minute)
		for _, login := range append(old, meanwhile) {
			c.wantEverywhere(login.str("session_token"), http.StatusUnauthorized, "")
		}
		for _, token := range fresh {
			c.wantEverywhere(token, http.StatusNoContent, "")
		}
		for name, n := range c.nodes {
			for _, r := range []*reply{r, other} {
				if got := n.receipt(r); got.Status != http.StatusOK || got.str("status") != "complete" {
					t.Errorf("%s: %s", name, got.Raw)
				}
			}
		}
		past := us1.do(us1.key, "GET", "/v1/sessions/"+old[1].str("session.session_id")+"/events", nil).want(http.StatusOK)
		if n := strings.Count(string(past.Raw), `"user.revoked"`); n != 2 {
			t.Errorf("its history has %d of 2 revocations: %s", n, past.Raw)
		}
		if eu, us := c.revokes("eu", events.KindAll), c.revokes("us", events.KindAll); eu > 5 || us > 5 {
			t.Errorf("%d and %d revocations were written", eu, us)
		}
	})
}

// The stream in which it was recorded goes backwards before it is delivered, and
// then every node that knew of it ends.
func TestPendingInLogThatGoesBackwards(t *testing.T) {
	continentsBubble(t, func(t *testing.T, c *continents) {
		eu1, us1 := c.nodes["eu1"], c.nodes["us1"]
		one, ofUser := us1.login("ada"), us1.login("eve").str("session_token")
		time.Sleep(time.Second)
		c.cut()
		time.Sleep(time.Minute)
		before, err := c.logs["eu"].Info(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		wantPending(eu1.revoke(m{"session_id": one.str("session.session_id")}), "us")
		wantPending(eu1.revoke(m{"user_id": "eve"}), "us")
		after, err := c.logs["eu"].Info(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		c.logs["eu"].Truncate(int(after.LastSeq - before.LastSeq))
		time.Sleep(time.Minute)
		c.end("eu1")
		c.end("eu2")
		c.start("eu3")
		n := c.nodes["eu3"]
		n.links["us"].Cut()
		time.Sleep(time.Minute)
		us1.verify(one.str("session_token")).want(http.StatusNoContent)
		us1.verify(ofUser).want(http.StatusNoContent)
		n.heal()
		time.Sleep(10 * time.Second)
		us1.wantVerify(one.str("session_token"), http.StatusUnauthorized, "revoked")
		us1.wantVerify(ofUser, http.StatusUnauthorized, "revoked")
	})
}

// Of a session that began during the cut nobody elsewhere knows. Whoever shows
// its token or its JWT can revoke it all the same; its id alone is no proof.
func TestPendingUnknown(t *testing.T) {
	continentsBubble(t, func(t *testing.T, c *continents) {
		eu1, us1 := c.nodes["eu1"], c.nodes["us1"]
		c.cut()
		time.Sleep(time.Minute)
		byToken, byJWT, rotated, byID := us1.login("ada"), us1.login("eve"), us1.login("bob"), us1.login("kim")
		second := us1.do(us1.key, "POST", "/v1/sessions/rotate", m{"session_token": rotated.str("session_token")}).want(http.StatusOK).str("session_token")
		id := byID.str("session.session_id")
		eu1.revoke(m{"session_id": id}).wantError(http.StatusServiceUnavailable, "node_stale")
		eu1.do(eu1.key, "DELETE", "/v1/sessions/"+id, nil).wantError(http.StatusServiceUnavailable, "node_stale")
		for _, body := range []m{
			{"session_token": byToken.str("session_token")}, {"session_jwt": byJWT.str("session_jwt")},
			{"session_token": second}, {"session_token": events.NewToken(3).Reveal()},
		} {
			r := eu1.revoke(body)
			if wantPending(r, "us"); r.at("revoked") != 0.0 {
				t.Errorf("%v: %s", body, r.Raw)
			}
		}
		eu1.revoke(m{"session_token": events.NewToken(9).Reveal()}).want(http.StatusOK)
		time.Sleep(time.Minute)
		c.heal()
		time.Sleep(20 * time.Second)
		for _, token := range []string{byToken.str("session_token"), byJWT.str("session_token"), second} {
			c.wantEverywhere(token, http.StatusUnauthorized, "revoked")
		}
		c.wantEverywhere(byID.str("session_token"), http.StatusNoContent, "")
		us1.verify(rotated.str("session_jwt")).want(http.StatusUnauthorized)
		if text := eu1.metrics(); !strings.Contains(text, "revocast_pending_revocations 0\n") {
			t.Error("some are pending still")
		}
	})
}

// An app that wants old answers served is told of what was revoked here; another
// app's session is not revoked; and a revision that is pending is a revision.
func TestPendingRules(t *testing.T) {
	continentsBubble(t, func(t *testing.T, c *continents) {
		eu1, us1 := c.nodes["eu1"], c.nodes["us1"]
		key := eu1.newApp("serves", m{"when_stale": "serve"})
		time.Sleep(time.Second)
		login := func(user string) *reply {
			return us1.do(key, "POST", "/v1/sessions", m{"user_id": user}).want(http.StatusCreated)
		}
		gone, stays := login("ada"), login("eve")
		time.Sleep(time.Second)
		c.cut()
		time.Sleep(time.Minute)
		eu1.verify(gone.str("session_token")).want(http.StatusNoContent)
		r := eu1.do(key, "DELETE", "/v1/sessions/"+gone.str("session.session_id")+"?wait=all", nil)
		wantPending(r, "us")
		eu1.wantVerify(gone.str("session_token"), http.StatusUnauthorized, "revoked")
		eu1.verify(stays.str("session_token")).want(http.StatusNoContent)

		if r := eu1.revoke(m{"session_id": stays.str("session.session_id")}).want(http.StatusOK); r.at("revoked") != 0.0 {
			t.Errorf("another app: %s", r.Raw)
		}
		eu1.verify(stays.str("session_token")).want(http.StatusNoContent)

		eu1.do(key, "POST", "/v1/sessions", m{"user_id": "bob", "auth_revision": r.str("revision")}).want(http.StatusCreated)
		for _, bad := range []string{"eu:0:1@", "eu:0:1@us", "eu:0:1@us.x", "eu:0:1@us.acme.x.y", "eu:0:1@us.ACME.-", "eu:0:1@us.acme.abc", "@us.acme.-"} {
			eu1.do(key, "GET", "/v1/receipts/"+bad, nil).wantError(http.StatusBadRequest, "invalid_argument")
		}
		eu1.do(key, "GET", "/v1/receipts/eu:0:1@mars.acme.-", nil).wantError(http.StatusNotFound, "not_found")
		// Nothing is recorded where this region itself is out of reach.
		eu1.links["eu"].Cut()
		time.Sleep(time.Minute)
		eu1.do(key, "POST", "/v1/sessions/revoke", m{"session_id": stays.str("session.session_id")}).wantError(http.StatusServiceUnavailable, "node_stale")
		eu1.do(key, "POST", "/v1/sessions/revoke", m{"user_id": "eve"}).wantError(http.StatusServiceUnavailable, "node_stale")
	})
}

// A new token names the session's home, not that of the node that made it: its
// lease is what whoever is shown the token goes by.
func TestRotateElsewhere(t *testing.T) {
	continentsBubble(t, func(t *testing.T, c *continents) {
		eu1, us1 := c.nodes["eu1"], c.nodes["us1"]
		login := eu1.login("ada")
		time.Sleep(time.Second)
		second := us1.do(us1.key, "POST", "/v1/sessions/rotate", m{"session_token": login.str("session_token")}).want(http.StatusOK).str("session_token")
		us1.verify(second).want(http.StatusNoContent)
		us1.links["eu"].Cut()
		eu1.revoke(m{"session_id": login.str("session.session_id"), "wait": "all"}).want(http.StatusOK)
		us1.wantVerify(second, http.StatusServiceUnavailable, "silent")
	})
}
