package compat

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"testing"
	"time"

	revocast "github.com/revocast/revocast/node/client"
)

// TestSDKs lets the SDKs of Go and of Node.js verify the same JWTs by themselves,
// behind one node, while their sessions are revoked on another; then behind a
// network that swallows everything.
func TestSDKs(t *testing.T) { // alone: others, such as the build of an application, take the processors
	needPackages(t, "jose")
	c := newCluster(t)
	const n = 1000
	sids, jwts := manySessions(t, c.a.app(), n)
	here := goSDK(t, c, c.b.base, revocast.DefaultLease)
	there := newAgent(t, c.options(object{"whenStale": "refuse"}, c.b.base))
	there.call("watch", object{"jwts": jwts})
	costs := seenBefore(t, sids, jwts, here, there)
	late := refusedAfter(t, c, sids, jwts, here, there)
	for _, sdk := range []string{"Go", "Node.js"} {
		slices.Sort(costs[sdk])
		slices.Sort(late[sdk])
		t.Logf("%-8s a JWT seen before: median %.1f µs, p99 %.1f µs; refused after a revoke on another node: median %.2f ms, p99 %.2f ms, most %.2f ms",
			sdk, costs[sdk][n/2], costs[sdk][n*99/100], late[sdk][n/2], late[sdk][n*99/100], late[sdk][n-1])
		if p99 := late[sdk][n*99/100]; p99 > 50 {
			t.Errorf("%s: p99 is %.2f ms, want at most 50", sdk, p99)
		}
		if median := costs[sdk][n/2]; median > 100 {
			t.Errorf("%s: a verify takes %.1f µs, want at most 100", sdk, median)
		}
	}
	testSDKsBlackHole(t, c)
}

// seenBefore lets both verify each JWT twice, and returns what the second time took, in µs.
func seenBefore(t *testing.T, sids []string, jwts map[string]string, here *revocast.Client, there *agent) map[string][]float64 {
	t.Helper()
	costs := map[string][]float64{}
	for _, sid := range sids {
		for i := range 2 {
			begun := time.Now()
			if _, err := here.Verify(t.Context(), jwts[sid]); err != nil {
				t.Fatalf("before it was revoked the Go SDK says: %v", err)
			}
			took := time.Since(begun)
			l := there.call("verify", object{"jwt": jwts[sid]})
			if l.Outcome != "good local" {
				t.Fatalf("before it was revoked the Node.js SDK says %q\n%s", l.Outcome, there.stderr)
			}
			if i == 1 {
				costs["Go"] = append(costs["Go"], float64(took.Nanoseconds())/1000)
				costs["Node.js"] = append(costs["Node.js"], l.US)
			}
		}
	}
	return costs
}

// refusedAfter revokes one session after the other, and returns how long after the
// answer each of them went on to take its JWT, in ms.
func refusedAfter(t *testing.T, c *cluster, sids []string, jwts map[string]string, here *revocast.Client, there *agent) map[string][]float64 {
	t.Helper()
	late := map[string][]float64{}
	for _, sid := range sids {
		c.a.app().do(t, "POST", "/v1/sessions/revoke", object{"session_id": sid}).want(t, http.StatusOK)
		answered := time.Now()
		for {
			_, err := here.Verify(t.Context(), jwts[sid])
			if errors.Is(err, revocast.ErrRevoked) {
				break
			}
			if err != nil || time.Since(answered) > 10*time.Second {
				t.Fatalf("%v after it was revoked the Go SDK says: %v", time.Since(answered), err)
			}
			time.Sleep(50 * time.Microsecond)
		}
		late["Go"] = append(late["Go"], float64(time.Since(answered).Microseconds())/1000)
		select {
		case e := <-there.events:
			if e.Event != sid || e.Outcome != "revoked" {
				t.Fatalf("the Node.js SDK heard of %s, and then says %q; revoked was %s", e.Event, e.Outcome, sid)
			}
			late["Node.js"] = append(late["Node.js"], max(0, float64(e.At-answered.UnixMicro())/1000))
		case <-time.After(10 * time.Second):
			t.Fatalf("the Node.js SDK did not hear of a revocation\n%s", there.stderr)
		}
	}
	return late
}

// testSDKsBlackHole: no byte comes through any more, and no connection ends. Neither
// SDK may take the JWT for longer than its lease.
func testSDKsBlackHole(t *testing.T, c *cluster) {
	const lease = 3 * time.Second
	proxy := newHole(t, c.b.addr)
	s := c.a.app().create(t, "ada")
	here := goSDK(t, c, "http://"+proxy.addr, lease)
	there := newAgent(t, c.options(object{"whenStale": "refuse", "leaseMs": lease.Milliseconds()}, "http://"+proxy.addr))
	if _, err := here.Verify(t.Context(), s.SessionJWT); err != nil {
		t.Fatal(err)
	}
	there.wants("good local", s.SessionJWT, 10*time.Second)
	proxy.stop()
	cut := time.Now()
	c.a.app().do(t, "POST", "/v1/sessions/revoke", object{"session_id": s.Session.SessionID}).want(t, http.StatusOK)
	there.wants("stale", s.SessionJWT, 30*time.Second)
	node := time.Since(cut)
	for {
		_, err := here.Verify(t.Context(), s.SessionJWT)
		if errors.Is(err, revocast.ErrStale) {
			break
		}
		if err != nil || time.Since(cut) > 30*time.Second {
			t.Fatalf("black-holed, the Go SDK says: %v", err)
		}
		time.Sleep(time.Millisecond)
	}
	t.Logf("black-holed, with a lease of %v: Node.js refuses after %v, Go after at most %v", lease, node, time.Since(cut))
	if time.Since(cut) > lease+500*time.Millisecond {
		t.Errorf("that is longer than the lease")
	}
	proxy.start()
	there.wants("revoked", s.SessionJWT, 30*time.Second)
}

// goSDK lets a client of the Go SDK follow the node at base until the test ends.
func goSDK(t *testing.T, c *cluster, base string, lease time.Duration) *revocast.Client {
	t.Helper()
	out := &revocast.Client{Base: base, OnStale: revocast.Refuse, Lease: lease, App: c.a.boot.App, APIKey: c.a.boot.APIKey}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- out.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("follow: %v", err)
		}
	})
	select {
	case <-out.Ready():
	case <-time.After(30 * time.Second):
		t.Fatal("the Go SDK does not become ready")
	}
	return out
}
