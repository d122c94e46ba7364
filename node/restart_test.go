package node_test

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/events/broker"
)

// TestRestartedNodeKnowsTheSame lives through what sessions live through, and
// compares a node that saw it happen with one that reads what the log kept.
func TestRestartedNodeKnowsTheSame(t *testing.T) {
	l := newRealLog(t, broker.Config{Lazy: true}, events.ClusterConfig{})
	n := l.start(t)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	all := n.enterMany(t, 300)
	want := make([]int, len(all))
	for i := range all {
		m := &all[i]
		want[i] = http.StatusNoContent
		for range random.IntN(4) {
			switch random.IntN(6) {
			case 0:
				n.do(n.key, "POST", "/v1/sessions/revoke", map[string]any{"session_token": m.token}).want(http.StatusOK)
				want[i] = http.StatusUnauthorized
			case 1:
				n.do(n.key, "POST", "/v1/sessions/revoke", map[string]any{"user_id": m.user}).want(http.StatusOK)
				want[i] = http.StatusUnauthorized
			case 2:
				n.do(n.key, "POST", "/v1/sessions/revoke", map[string]any{"user_id": m.user, "except_session_id": m.sid.String()}).want(http.StatusOK)
			default:
				if want[i] == http.StatusNoContent {
					n.alter(random, m)
				}
			}
		}
	}
	check := func(n *realNode) {
		t.Helper()
		for i := range all {
			n.wantVerdict(t, &all[i], want[i])
		}
	}
	check(n)
	now := time.Now().UnixMilli()
	before := n.node.SessionDigest(now)
	sessions := n.metric("revocast_sessions")
	for range 2 {
		n.stop()
		n = l.start(t)
		check(n)
		if after := n.node.SessionDigest(now); after != before {
			t.Errorf("digest %s became %s", before, after)
		}
		if got := n.metric("revocast_sessions"); got != sessions {
			t.Errorf("%v sessions became %v", sessions, got)
		}
	}
}

// alter changes a session that is good in one of the ways there are.
func (n *realNode) alter(random *rand.Rand, m *member) {
	n.t.Helper()
	switch random.IntN(3) {
	case 0:
		n.do(n.key, "POST", "/v1/sessions/authenticate", map[string]any{
			"session_token": m.token, "session_duration_minutes": 90 + random.IntN(1000),
		}).want(http.StatusOK)
	case 1:
		m.token = n.do(n.key, "POST", "/v1/sessions/rotate", map[string]any{"session_token": m.token}).want(http.StatusOK).str("session_token")
	case 2:
		n.do(n.key, "PATCH", "/v1/sessions/"+m.sid.String(), map[string]any{
			"session_custom_claims": map[string]any{"step": random.IntN(100)},
		}).want(http.StatusOK)
	}
}

// traffic creates and revokes sessions until it is stopped, and remembers what
// was acknowledged.
type traffic struct {
	n       *realNode
	stop    chan struct{}
	running sync.WaitGroup
	// since, once set, makes it remember only what was begun after that.
	since atomic.Bool

	mu               sync.Mutex // guards the following
	created, revoked []member
	refused          int // 503
}

func (n *realNode) traffic(t *testing.T, clients int) *traffic {
	tr := &traffic{n: n, stop: make(chan struct{})}
	for c := range clients {
		tr.running.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-tr.stop:
					return
				default:
				}
				if !tr.once(t, fmt.Sprintf("traffic-%d-%d", c, i), i%3 == 0) {
					select { // a client that is refused asks again a little later
					case <-tr.stop:
					case <-time.After(5 * time.Millisecond):
					}
				}
			}
		})
	}
	t.Cleanup(tr.end)
	return tr
}

func (tr *traffic) end() {
	select {
	case <-tr.stop:
	default:
		close(tr.stop)
	}
	tr.running.Wait()
}

// once reports whether the node took part.
func (tr *traffic) once(t *testing.T, user string, revoke bool) bool {
	counts := tr.since.Load()
	r := tr.n.do(tr.n.key, "POST", "/v1/sessions", map[string]any{"user_id": user, "session_duration_minutes": 60})
	if !tr.answered(t, r, http.StatusCreated) {
		return false
	}
	sid, err := events.ParseSID(r.str("session.session_id"))
	if err != nil {
		t.Errorf("create: %v\n%s", err, r.Raw)
		return false
	}
	m := member{user, r.str("session_token"), r.str("session_jwt"), sid, r.str("revision")}
	if revoke {
		counts = tr.since.Load()
		if !tr.answered(t, tr.n.do(tr.n.key, "POST", "/v1/sessions/revoke", map[string]any{"session_token": m.token}), http.StatusOK) {
			return false
		}
		// From its answer on nobody is let in any more.
		if status, _ := tr.n.verify(m.token); status == http.StatusNoContent {
			t.Errorf("the session of %s is good after its revocation was answered", user)
		}
	}
	tr.mu.Lock()
	defer tr.mu.Unlock()
	switch {
	case !counts:
	case revoke:
		tr.revoked = append(tr.revoked, m)
	default:
		tr.created = append(tr.created, m)
	}
	return true
}

// answered reports whether the reply has the status; otherwise it must be 503,
// or about a session that is gone with the log.
func (tr *traffic) answered(t *testing.T, r *reply, status int) bool {
	switch {
	case r.Status == status:
		return true
	case r.Status != http.StatusServiceUnavailable:
		t.Errorf("%s: %d\n%s", r.call, r.Status, r.Raw)
	}
	tr.mu.Lock()
	defer tr.mu.Unlock()
	tr.refused++
	return false
}

// TestBrokerRestartUnderTraffic restarts the server under a node that is in
// use. Nobody gets a wrong answer, and nothing is read again, unless the server went
// while the node lacked what replaced an absent event (gap.go).
func TestBrokerRestartUnderTraffic(t *testing.T) {
	l := newRealLog(t, broker.Config{}, events.ClusterConfig{})
	n := l.start(t)
	good, gone := n.enter("good"), n.enter("gone")
	n.do(n.key, "POST", "/v1/sessions/revoke", map[string]any{"session_token": gone.token}).want(http.StatusOK)
	stopGood := n.probe(t, "a good session", credentials(good), http.StatusNoContent, http.StatusServiceUnavailable)
	stopGone := n.probe(t, "a revoked session", credentials(gone), http.StatusUnauthorized, http.StatusServiceUnavailable)
	tr := n.traffic(t, 16)
	tr.since.Store(true)
	for range 3 {
		at := n.position("eu").Seq
		eventually(t, 30*time.Second, "traffic flows", func() bool { return n.position("eu").Seq > at+100 })
		if err := l.broker().Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	at := n.position("eu").Seq
	eventually(t, 30*time.Second, "traffic flows again", func() bool { return n.position("eu").Seq > at+100 && n.ready() })
	tr.end()
	verdicts := []map[int]int{stopGood(), stopGone()}
	t.Logf("%d created, %d revoked, %d refused; verifies %v", len(tr.created), len(tr.revoked), tr.refused, verdicts)
	check := func(n *realNode) {
		t.Helper()
		for i := range tr.created {
			n.wantVerdict(t, &tr.created[i], http.StatusNoContent)
		}
		for i := range tr.revoked {
			n.wantVerdict(t, &tr.revoked[i], http.StatusUnauthorized)
		}
	}
	check(n)
	reasons := n.lines.rebuilds()
	for _, why := range reasons {
		if !strings.Contains(why, "before what replaced an absent event was read") {
			t.Errorf("read again: %s", why)
		}
	}
	if rebuilds := n.metric("revocast_rebuilds_total"); rebuilds != float64(len(reasons)) {
		t.Errorf("%v rebuilds, want %d", rebuilds, len(reasons))
	}
	if fenced := verdicts[0][http.StatusServiceUnavailable] + verdicts[1][http.StatusServiceUnavailable]; fenced > 0 && len(reasons) == 0 {
		t.Errorf("%d verifies were answered 503", fenced)
	}
	n.stop()
	check(l.start(t))
}

// backup copies the store while no broker runs on it.
func (l *realLog) backup(t *testing.T) (dir string) {
	t.Helper()
	l.broker().Close()
	dir = t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(l.conf.StoreDir)); err != nil {
		t.Fatal(err)
	}
	l.open()
	return dir
}

// restore puts the copy in the place of the store, under the node's feet.
func (l *realLog) restore(t *testing.T, dir string) {
	t.Helper()
	l.broker().Close()
	if err := os.RemoveAll(l.conf.StoreDir); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(l.conf.StoreDir, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	l.open()
}

// TestLogGoesBackwards restores an older copy of the store under a running
// node. Sessions of the lost tail are lost; revocations are not.
func TestLogGoesBackwards(t *testing.T) {
	l := newRealLog(t, broker.Config{}, events.ClusterConfig{})
	n := l.start(t)
	old := n.enterMany(t, 200)
	revoke := func(body map[string]any) {
		t.Helper()
		n.do(n.key, "POST", "/v1/sessions/revoke", body).want(http.StatusOK)
	}
	kept, revoked, byUser := old[0:50], old[50:150], old[150:200]
	for _, m := range revoked[:20] {
		revoke(map[string]any{"session_token": m.token})
	}
	made := n.do(n.key, "POST", "/v1/apps/acme/api-keys", map[string]any{"name": "stolen"}).want(http.StatusCreated)
	stolen, keyID := made.str("api_key"), made.str("key.id")
	copied := l.backup(t)
	eventually(t, 10*time.Second, "the node goes on", n.ready)

	// What the copy lacks.
	eventually(t, 20*time.Second, "the API key is deleted", func() bool { // the node may not have found the log again yet
		return n.do(n.key, "DELETE", "/v1/apps/acme/api-keys/"+keyID, nil).Status == http.StatusOK
	})
	for _, m := range revoked[20:] {
		revoke(map[string]any{"session_token": m.token, "reason": "stolen"})
	}
	for _, m := range byUser {
		revoke(map[string]any{"user_id": m.user})
	}
	var lost []member
	for i := range 20 {
		lost = append(lost, n.enter(fmt.Sprintf("lost-%d", i)))
	}
	stopBad := n.probe(t, "a revoked session", credentials(append(revoked, byUser...)...), http.StatusUnauthorized, http.StatusServiceUnavailable)
	stopGood := n.probe(t, "a good session", credentials(kept...), http.StatusNoContent, http.StatusServiceUnavailable)
	tr := n.traffic(t, 8)
	at := n.position("eu").Seq
	eventually(t, 10*time.Second, "traffic flows", func() bool { return n.position("eu").Seq > at+100 })

	l.restore(t, copied)
	tr.since.Store(true)
	eventually(t, 30*time.Second, "the node noticed and is fresh again", func() bool {
		return n.position("eu").Gen == 1 && n.position(events.ConfigRegion).Gen == 1 && n.ready()
	})
	at = n.position("eu").Seq
	eventually(t, 10*time.Second, "traffic flows again", func() bool { return n.position("eu").Seq > at+100 })
	tr.end()
	t.Logf("since then %d created, %d revoked, %d refused", len(tr.created), len(tr.revoked), tr.refused)
	t.Logf("verifies of revoked sessions %v, of good ones %v", stopBad(), stopGood())
	for _, m := range append(revoked[20:], byUser...) {
		subject := m.subject(events.KindRevoke)
		if m.sid == byUser[0].sid || containsMember(byUser, m) {
			subject = events.Subject{Region: "eu", App: "acme", User: events.UserHash("acme", m.user), Kind: events.KindAll}.String()
		}
		eventually(t, 10*time.Second, "the log revokes the session of "+m.user+" again", func() bool {
			e, err := l.home.Last(t.Context(), subject)
			return err == nil && l.keys.Decode(2, e).Trust == events.Authentic
		})
	}
	eventually(t, 10*time.Second, "CONFIG revokes the API key again", func() bool {
		_, r := l.last(t, (&events.APIKey{App: "acme", ID: keyID}).Subject(events.ConfigRegion).String())
		k, ok := r.Event.(*events.APIKey)
		return ok && k.RevokedAt != 0
	})
	check := func(n *realNode) {
		t.Helper()
		n.do(stolen, "GET", "/v1/sessions?user_id=user-0", nil).want(http.StatusUnauthorized)
		for want, ms := range map[int][][]member{
			http.StatusNoContent:    {kept, tr.created},
			http.StatusUnauthorized: {revoked, byUser, lost, tr.revoked},
		} {
			for _, m := range ms {
				for i := range m {
					n.wantVerdict(t, &m[i], want)
				}
			}
		}
	}
	check(n)
	if p, err := parsePosition(n.enter("afterwards").revision); err != nil || p.Gen != 1 {
		t.Errorf("a new session has revision %v, %v; want generation 1", p, err)
	}
	n.stop()
	check(l.start(t))
}

func containsMember(ms []member, m member) bool {
	for i := range ms {
		if ms[i].sid == m.sid {
			return true
		}
	}
	return false
}
