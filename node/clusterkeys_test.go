package node_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node"
)

// keyed is a fleet whose nodes hold cluster keys of their own.
type keyed struct {
	*harness
	t        *testing.T
	nodes    []*harness
	old, new []byte
}

func holding(t *testing.T, raw ...[]byte) *events.ClusterKeys {
	t.Helper()
	keys, err := events.NewClusterKeys(raw...)
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

// keyedFleet starts n nodes that hold the old key.
func keyedFleet(t *testing.T, n int) *keyed {
	t.Helper()
	k := &keyed{t: t, old: events.NewClusterKey(), new: events.NewClusterKey()}
	own := holding(t, k.old)
	k.harness = newHarness(t, func(c *node.Config) { c.Solo, c.Keys = false, own })
	k.harness.keys = own
	k.nodes = []*harness{k.harness}
	for i := 2; i <= n; i++ {
		k.join(fmt.Sprint("n", i), k.old)
	}
	time.Sleep(fullWait)
	return k
}

func (k *keyed) joining(name string, raw ...[]byte) *harness {
	k.t.Helper()
	own := holding(k.t, raw...)
	n, _ := k.another(func(c *node.Config) { c.Name, c.Keys = name, own })
	n.keys = own
	k.nodes = append(k.nodes, n)
	return n
}

func (k *keyed) join(name string, raw ...[]byte) *harness {
	k.t.Helper()
	n := k.joining(name, raw...)
	n.start()
	return n
}

// give has the node hold the keys.
func (h *harness) give(raw ...[]byte) {
	h.t.Helper()
	if err := h.keys.Replace(holding(h.t, raw...)); err != nil {
		h.t.Fatal(err)
	}
}

// wantSealing fails unless all the nodes seal with the key.
func (k *keyed) wantSealing(key []byte) {
	k.t.Helper()
	for i, n := range k.nodes {
		if got := n.keys.Sealing(); got != events.ClusterKeyID(key) {
			k.t.Errorf("node %d seals with %s, want %s", i+1, got, events.ClusterKeyID(key))
		}
	}
}

// rotate has the node rotate and returns the answer at its end.
func (h *harness) rotate() *reply {
	h.t.Helper()
	r := h.do(h.admin, "POST", "/v1/cluster-keys/rotate", nil).want(http.StatusAccepted)
	for range 600 {
		if r.str("rotation.state") != "running" {
			break
		}
		time.Sleep(time.Second)
		r = h.do(h.admin, "GET", "/v1/cluster-keys", nil).want(http.StatusOK)
	}
	if r.str("rotation.state") != "complete" {
		h.t.Fatalf("rotation: %s", r.Raw)
	}
	return r
}

// mayGo returns what the answer says of the key.
func mayGo(r *reply, key []byte) bool {
	for _, k := range r.at("keys").([]any) {
		if k := k.(map[string]any); k["key_id"] == events.ClusterKeyID(key) {
			return k["may_go"].(bool)
		}
	}
	return false
}

// sealedWith counts the lasting entries of the log that the key sealed.
func sealedWith(t *testing.T, log *events.Memory, key []byte) (count int) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	if err := log.Follow(ctx, events.Follow{CaughtUp: cancel, Apply: func(e events.Entry) error {
		s, err := events.ParseSubject(e.Subject)
		node := s.Kind == events.KindNode || s.Kind == events.KindBeat || s.Kind == events.KindMarker
		if err == nil && !node && e.SealKey() == events.ClusterKeyID(key) {
			count++
		}
		return nil
	}}); err != nil {
		t.Fatal(err)
	}
	return count
}

// keyedLoad creates, verifies, extends and revokes sessions on the nodes until it
// is stopped, and knows what must be true of each.
type keyedLoad struct {
	k    *keyed
	stop chan struct{}
	all  sync.WaitGroup

	mu    sync.Mutex // guards what follows
	good  map[string]bool
	calls int
}

func (k *keyed) traffic(seed uint64) *keyedLoad {
	w := &keyedLoad{k: k, stop: make(chan struct{}), good: map[string]bool{}}
	for i, n := range k.nodes {
		r := rand.New(rand.NewPCG(seed, uint64(i)))
		w.all.Go(func() { w.run(n, r, fmt.Sprint("u", i)) })
	}
	return w
}

func (w *keyedLoad) run(n *harness, r *rand.Rand, user string) {
	var mine []string
	for {
		select {
		case <-w.stop:
			return
		case <-time.After(time.Duration(20+r.IntN(60)) * time.Millisecond):
		}
		switch op := r.IntN(10); {
		case op < 3 || len(mine) == 0:
			made := n.do(n.key, "POST", "/v1/sessions", m{"user_id": user, "metadata": m{"n": len(mine)}})
			if made.Status != http.StatusCreated {
				w.k.t.Errorf("create: %s", made.Raw)
				continue
			}
			mine = append(mine, made.str("session_token"))
			w.note(made.str("session_token"), true)
		case op < 4:
			i := r.IntN(len(mine))
			if got := n.do(n.key, "POST", "/v1/sessions/revoke", m{"session_token": mine[i]}); got.Status != http.StatusOK {
				w.k.t.Errorf("revoke: %s", got.Raw)
			}
			w.note(mine[i], false)
			mine = slices.Delete(mine, i, i+1)
		case op < 6:
			if got := n.do(n.key, "POST", "/v1/sessions/authenticate", m{"session_token": mine[r.IntN(len(mine))], "session_duration_minutes": 60 + r.IntN(9000)}); got.Status != http.StatusOK {
				w.k.t.Errorf("extend: %s", got.Raw)
			}
		default:
			if got := n.verify(mine[r.IntN(len(mine))]); got.Status != http.StatusNoContent {
				w.k.t.Errorf("verify: %d %s", got.Status, got.Raw)
			}
		}
		w.mu.Lock()
		w.calls++
		w.mu.Unlock()
	}
}

func (w *keyedLoad) note(token string, good bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.good[token] = good
}

func (w *keyedLoad) end() {
	close(w.stop)
	w.all.Wait()
}

// wantAll fails unless the nodes say of each session what is true, and can read
// its private part.
func (w *keyedLoad) wantAll(nodes ...*harness) {
	w.k.t.Helper()
	synctest.Wait()
	for _, n := range nodes {
		for token, good := range w.good {
			if got := n.verify(token).Status; (got == http.StatusNoContent) != good {
				w.k.t.Errorf("a session that is good (%t): %d", good, got)
			}
			if good {
				if p := n.do(n.key, "POST", "/v1/sessions/authenticate", m{"session_token": token}).want(200); p.at("session.metadata.n") == nil {
					w.k.t.Errorf("private part: %s", p.Raw)
				}
			}
		}
	}
}

// once creates under an Idempotency-Key and returns the session's id.
func (h *harness) once(key string) string {
	h.t.Helper()
	return h.do(h.key, "POST", "/v1/sessions", m{"user_id": "repeated"}, "Idempotency-Key", key).want(http.StatusCreated).str("session.session_id")
}

// TestClusterKeyRotation goes through a rotation under load: nobody is signed
// out, nothing revoked comes back, and the old key can go.
func TestClusterKeyRotation(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	synctest.Test(t, func(t *testing.T) {
		k := keyedFleet(t, 3)
		n2, n3 := k.nodes[1], k.nodes[2]
		before := k.once("before")
		out := k.login("bob").str("session_token")
		k.do(k.key, "POST", "/v1/sessions/revoke", m{"user_id": "bob"}).want(200)
		in := k.login("bob")
		load := k.traffic(seed)
		time.Sleep(10 * time.Second)

		// One node after the other is given the key; nobody seals with it before
		// all have it, and asking for more is refused.
		k.give(k.new, k.old)
		time.Sleep(10 * time.Second)
		k.wantSealing(k.old)
		if r := k.do(k.admin, "POST", "/v1/cluster-keys/rotate", nil).wantError(409, "conflict"); !strings.Contains(string(r.Raw), "n2, n3") {
			t.Errorf("who lacks it: %s", r.Raw)
		}
		if n2.once("before") != before || k.once("meanwhile") != n3.once("meanwhile") {
			t.Error("a repeat made another session before the rotation")
		}
		n2.give(k.new, k.old)
		n3.give(k.new, k.old)
		meanwhile := map[string]string{}
		for i := range 40 { // while the nodes change, at different moments
			key := fmt.Sprint("change", i)
			meanwhile[key] = k.nodes[i%3].once(key)
			if again := k.nodes[(i+1)%3].once(key); again != meanwhile[key] {
				t.Errorf("%s made %s and %s", key, meanwhile[key], again)
			}
			time.Sleep(100 * time.Millisecond)
		}
		time.Sleep(5 * time.Second)
		k.wantSealing(k.new)

		r := k.rotate()
		if !mayGo(r, k.old) || r.at("rotation.resealed").(float64) == 0 {
			t.Errorf("after the rotation: %s", r.Raw)
		}
		load.end()
		if c, h := sealedWith(t, k.config, k.old), sealedWith(t, k.home, k.old); c+h != 0 {
			t.Errorf("%d events of CONFIG and %d sessions' are sealed with the old key", c, h)
		}
		for _, n := range k.nodes {
			n.give(k.new)
		}
		fresh := k.join("n4", k.new)
		load.wantAll(k.nodes...)
		meanwhile["before"] = before
		for key, sid := range meanwhile {
			if got := fresh.once(key); got != sid {
				t.Errorf("%s repeated after the rotation made another session", key)
			}
		}
		for _, n := range k.nodes {
			n.wantVerify(out, http.StatusUnauthorized, "revoked")
			n.verify(in.str("session_token")).want(http.StatusNoContent)
		}
		k.wantSame()
		k.wantHistory(in)
		t.Logf("%d calls, %d sessions, %v events sealed anew", load.calls, len(load.good), r.at("rotation.resealed"))
	})
}

// wantSame fails unless all nodes hold the same, and say so by their digests.
func (k *keyed) wantSame() {
	k.t.Helper()
	synctest.Wait()
	list := func(n *harness) (all []any) {
		for _, user := range []string{"bob", "u0", "u1", "u2", "repeated"} {
			r := n.do(n.key, "GET", "/v1/sessions?user_id="+user, nil).want(200)
			all = append(all, r.at("sessions"))
		}
		return all
	}
	want := list(k.nodes[0])
	for _, n := range k.nodes[1:] {
		if diff := cmp.Diff(want, list(n)); diff != "" {
			k.t.Errorf("-n1 +another\n%s", diff)
		}
	}
	digests := map[string]bool{}
	for _, n := range k.nodes {
		digests[n.node.HomeDigest()] = true
	}
	if len(digests) != 1 {
		k.t.Errorf("digests %v", digests)
	}
}

// wantHistory fails if the rotation shows in the history of a session.
func (k *keyed) wantHistory(login *reply) {
	k.t.Helper()
	r := k.do(k.key, "GET", "/v1/sessions/"+login.str("session.session_id")+"/events", nil).want(200)
	list := r.at("events").([]any)
	for _, e := range list {
		if typ := e.(map[string]any)["type"]; typ != "session.created" {
			k.t.Errorf("history: %s", r.Raw)
		}
	}
}

// TestClusterKeyRotationBrokenOff: another node finishes what one began.
func TestClusterKeyRotationBrokenOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := keyedFleet(t, 2)
		var tokens []string
		for i := range 300 {
			tokens = append(tokens, k.login(fmt.Sprint("u", i)).str("session_token"))
		}
		for _, n := range k.nodes {
			n.give(k.new, k.old)
		}
		time.Sleep(20 * time.Second)
		k.wantSealing(k.new)
		k.do(k.admin, "POST", "/v1/cluster-keys/rotate", nil).want(http.StatusAccepted)
		for sealedWith(t, k.home, k.new) < 50 {
			time.Sleep(10 * time.Millisecond)
		}
		k.harness.stop()
		if left := sealedWith(t, k.home, k.old); left < 100 {
			t.Fatalf("%d left: it was not broken off", left)
		}
		n2 := k.nodes[1]
		if r := n2.do(n2.admin, "GET", "/v1/cluster-keys", nil).want(200); mayGo(r, k.old) || r.str("rotation.state") != "none" {
			t.Errorf("before it is finished: %s", r.Raw)
		}
		if r := n2.rotate(); !mayGo(r, k.old) {
			t.Errorf("after it was finished: %s", r.Raw)
		}
		if left := sealedWith(t, k.home, k.old); left != 0 {
			t.Errorf("%d left", left)
		}
		n2.give(k.new)
		fresh := k.join("n3", k.new)
		for _, token := range tokens {
			fresh.verify(token).want(http.StatusNoContent)
		}
	})
}

// TestClusterKeyLacking: a node that joins with the old key only, while the log
// holds events of the new one, answers nothing until it has both; the others go
// back to a key that it can read.
func TestClusterKeyLacking(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := keyedFleet(t, 2)
		for _, n := range k.nodes {
			n.give(k.new, k.old)
		}
		time.Sleep(20 * time.Second)
		k.wantSealing(k.new)
		token := k.login("ada").str("session_token")
		gone := k.login("eve").str("session_token")
		k.do(k.key, "POST", "/v1/sessions/revoke", m{"user_id": "eve"}).want(200)
		kept := k.login("eve").str("session_token")
		late := k.joining("n3", k.old)
		late.begin()
		for range 300 {
			if v := late.do(token, "GET", "/v1/verify", nil); v.Status != http.StatusServiceUnavailable {
				t.Fatalf("it answers %d: %s", v.Status, v.Raw)
			}
			time.Sleep(100 * time.Millisecond)
		}
		late.wantVerify(token, http.StatusServiceUnavailable, "key")
		k.wantSealing(k.old)
		k.verify(token).want(http.StatusNoContent)
		late.give(k.new, k.old)
		time.Sleep(20 * time.Second)
		k.wantSealing(k.new)
		for _, n := range k.nodes {
			n.verify(token).want(http.StatusNoContent)
			if v := n.verify(kept); v.Status != 204 {
				t.Errorf("%s %v", v.Header.Get("X-Session-Reason"), v.Header)
			}
			n.wantVerify(gone, http.StatusUnauthorized, "revoked")
		}
	})
}

// TestClusterKeyOrder: a key that does not come first seals nothing, and the one
// that seals cannot be taken away.
func TestClusterKeyOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := keyedFleet(t, 2)
		for _, n := range k.nodes {
			n.give(k.old, k.new)
		}
		time.Sleep(20 * time.Second)
		k.wantSealing(k.old)
		if err := k.keys.Replace(holding(t, k.new)); !errors.Is(err, events.ErrSealingKey) {
			t.Errorf("without the key that seals: %v", err)
		}
		if r := k.rotate(); !mayGo(r, k.new) || mayGo(r, k.old) || r.at("rotation.resealed").(float64) != 0 {
			t.Errorf("a key that never sealed: %s", r.Raw)
		}
		k.do(k.key, "POST", "/v1/cluster-keys/rotate", nil).wantError(403, "forbidden")
		k.do(k.key, "GET", "/v1/cluster-keys", nil).wantError(403, "forbidden")
		k.do(k.admin, "POST", "/v1/cluster-keys/rotate", m{"key": "x"}).want(400)
		var out map[string]any
		r := k.do(k.admin, "GET", "/v1/cluster-keys", nil)
		if err := json.Unmarshal(r.Raw, &out); err != nil || strings.Contains(string(r.Raw), events.FormatClusterKey(k.old)) {
			t.Errorf("%v: %s", err, r.Raw)
		}
	})
}
