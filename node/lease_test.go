package node_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node"
)

// These tests hold the rules of the lease (DESIGN section 5), each by a fault
// that shows at once when the rule is broken.

const lease = node.DefaultLease

// hookClock is a clock of a node alone, whose log has another.
type hookClock struct {
	*testClock

	mu   sync.Mutex // guards the following
	jump time.Duration
	hook func() // called once, by the next Boot
}

func newHookClock() *hookClock { return &hookClock{testClock: &testClock{begin: time.Now()}} }

// Boot implements [events.Clock].
func (c *hookClock) Boot() time.Duration {
	c.mu.Lock()
	hook, jump := c.hook, c.jump
	c.hook = nil
	c.mu.Unlock()
	if hook != nil {
		hook()
	}
	return c.testClock.Boot() + jump
}

func (c *hookClock) onBoot(hook func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.hook = hook
}

// suspend lets time pass on Boot alone: the machine sleeps.
func (c *hookClock) suspend(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.jump += d
}

func (c *testClock) setSkew(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.skew = d
}

func isBeat(subject string) bool { return strings.HasSuffix(subject, ".hb") }

// wantVerify fails unless a verify is answered so.
func (h *harness) wantVerify(token string, status int, reason string) {
	h.t.Helper()
	r := h.do(token, "GET", "/v1/verify", nil)
	if got := r.Header.Get("X-Session-Reason"); r.Status != status || got != reason {
		h.t.Errorf("verify: %d %q, want %d %q", r.Status, got, status, reason)
	}
}

// lastBeat makes the next heartbeat of the home stream the last one and
// returns when it was sent. Deliver is the fault under which it comes back.
func (h *harness) lastBeat(deliver func(context.Context, events.Entry) int) time.Time {
	h.t.Helper()
	sent := make(chan time.Time, 1)
	h.home.SetFaults(events.MemoryFaults{
		Send: func(_ context.Context, m events.Message) error {
			if !isBeat(m.Subject) {
				return nil
			}
			select {
			case sent <- time.Now():
				return nil
			default:
				return events.ErrUnavailable
			}
		},
		Deliver: deliver,
	})
	synctest.Wait()
	time.Sleep(2 * node.DefaultBeat)
	select {
	case at := <-sent:
		sent <- at // so that no other is sent
		return at
	default:
		h.t.Fatal("no heartbeat was sent")
		return time.Time{}
	}
}

// R1: nobody is answered without a lease, and the lease ends to the moment.
// R2: it counts from when the heartbeat was sent, however long it travelled.
func TestLeaseEnds(t *testing.T) {
	for _, travel := range []time.Duration{0, 10 * time.Second, 14 * time.Second} {
		t.Run(fmt.Sprint(travel), func(t *testing.T) {
			bubble(t, func(t *testing.T, h *harness) {
				token := h.login("alice").str("session_token")
				sent := h.lastBeat(func(ctx context.Context, e events.Entry) int {
					if isBeat(e.Subject) {
						wait(ctx, travel)
					}
					return 1
				})
				time.Sleep(time.Until(sent.Add(lease - time.Nanosecond)))
				h.wantVerify(token, http.StatusNoContent, "-")
				time.Sleep(time.Nanosecond)
				h.wantVerify(token, http.StatusServiceUnavailable, "silent")
				h.do(h.key, "POST", "/v1/sessions/authenticate", map[string]any{"session_token": token}).wantError(http.StatusServiceUnavailable, "node_stale")
				time.Sleep(time.Hour)
				h.wantVerify(token, http.StatusServiceUnavailable, "silent")
				h.home.SetFaults(events.MemoryFaults{})
				time.Sleep(2 * node.DefaultBeat)
				h.wantVerify(token, http.StatusNoContent, "-")
			})
		})
	}
}

// wait waits for d, or until ctx ends.
func wait(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// A heartbeat that travels for longer than a lease renews nothing; and one
// without an acknowledgement renews it when it comes back.
func TestLeaseFromLateBeats(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		token := h.login("alice").str("session_token")
		sent := h.lastBeat(func(ctx context.Context, e events.Entry) int {
			if isBeat(e.Subject) {
				wait(ctx, lease)
			}
			return 1
		})
		time.Sleep(time.Until(sent.Add(lease + time.Millisecond)))
		synctest.Wait()
		h.wantVerify(token, http.StatusServiceUnavailable, "silent")
		h.home.SetFaults(events.MemoryFaults{Ack: func(ctx context.Context, m events.Message, _ uint64) error {
			if !isBeat(m.Subject) {
				return nil
			}
			<-ctx.Done()
			return events.ErrUnavailable
		}})
		time.Sleep(lease)
		for range 20 {
			time.Sleep(time.Second)
			h.wantVerify(token, http.StatusNoContent, "-")
		}
	})
}

// R3: clock, lease, lookup, in this order. What is applied after the clock was
// read is seen.
func TestLookupIsLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		clock := newHookClock()
		h := newHarness(t, func(c *node.Config) { c.Clock = clock })
		for _, by := range []string{"session_token", "session_jwt"} {
			for name, request := range map[string]func(credential string) bool{
				"verify": func(credential string) bool {
					return h.do(credential, "GET", "/v1/verify", nil).Status == http.StatusNoContent
				},
				"authenticate": func(credential string) bool {
					return h.do(h.key, "POST", "/v1/sessions/authenticate", map[string]any{by: credential}).Status == http.StatusOK
				},
			} {
				r := h.login("alice")
				if !request(r.str(by)) {
					t.Fatalf("%s by %s of a good session was refused", name, by)
				}
				revoked := false
				clock.onBoot(func() {
					revoked = true
					h.inject(&events.Revoke{App: "acme", User: "alice", SID: sidOf(t, r), At: time.Now().UnixMilli()})
					synctest.Wait()
				})
				if request(r.str(by)) || !revoked {
					t.Errorf("%s by %s missed what was applied after it had read the clock (revoked %t)", name, by, revoked)
				}
			}
		}
	})
}

// inject stores an authentic event that no request of this node wrote.
func (h *harness) inject(e events.Event) uint64 {
	h.t.Helper()
	m, err := h.keys.Encode("eu", e, nil, time.Hour)
	if err != nil {
		h.t.Fatal(err)
	}
	seq, err := h.home.Inject(m)
	if err != nil {
		h.t.Fatal(err)
	}
	return seq
}

func sidOf(t *testing.T, r *reply) events.SID {
	t.Helper()
	sid, err := events.ParseSID(r.str("session.session_id"))
	if err != nil {
		t.Fatal(err)
	}
	return sid
}

// another returns a second node on the logs of h, which does not run yet.
func (h *harness) another(changes ...func(*node.Config)) (*harness, *events.MemoryLink) {
	h.t.Helper()
	link := h.home.Link()
	n := &harness{t: h.t, clock: h.clock, home: h.home, config: h.config, keys: h.keys, app: h.app, key: h.key, admin: h.admin}
	conf := node.Config{
		Name: "n2", Version: "test", PublicURL: publicURL,
		Settings: h.config.Link(), Home: link, Archive: h.home, Keys: h.keys, Clock: h.clock,
	}
	for _, change := range changes {
		change(&conf)
	}
	var err error
	if n.node, err = node.New(conf); err != nil {
		h.t.Fatal(err)
	}
	n.handler = n.node.Handler()
	return n, link
}

// R4: a lease dies with its process. A new one of the same name that has read
// everything, heartbeats of its predecessor included, but has sent none of its
// own that came back, does not answer.
func TestLeaseDiesWithProcess(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		token := h.login("alice").str("session_token")
		next, link := h.another(func(c *node.Config) { c.Name = "n1" })
		next.wantVerify(token, http.StatusServiceUnavailable, "starting")
		var deaf sync.Mutex
		silent := true
		link.SetFaults(events.MemoryFaults{Send: func(context.Context, events.Message) error {
			deaf.Lock()
			defer deaf.Unlock()
			if silent {
				return events.ErrUnavailable
			}
			return nil
		}})
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		defer running.Wait()
		defer cancel()
		running.Go(func() {
			if err := next.node.Run(ctx); err != nil {
				t.Errorf("run: %v", err)
			}
		})
		for range 60 {
			time.Sleep(time.Second)
			next.wantVerify(token, http.StatusServiceUnavailable, "starting")
			h.wantVerify(token, http.StatusNoContent, "-")
		}
		deaf.Lock()
		silent = false
		deaf.Unlock()
		<-next.node.Ready()
		next.wantVerify(token, http.StatusNoContent, "-")
	})
}

// R7: the lease runs out while the machine sleeps.
func TestLeaseEndsInSuspend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		clock := newHookClock()
		h := newHarness(t, func(c *node.Config) { c.Clock = clock })
		token := h.login("alice").str("session_token")
		for range 3 {
			time.Sleep(5500 * time.Millisecond)
			h.wantVerify(token, http.StatusNoContent, "-")
			clock.suspend(time.Hour)
			h.wantVerify(token, http.StatusServiceUnavailable, "silent")
			time.Sleep(2 * node.DefaultBeat)
			h.wantVerify(token, http.StatusNoContent, "-")
		}
	})
}

// A node whose wall clock is far from the log's would expire sessions at its
// own time: it does not answer, and says why.
func TestLeaseWithSkewedClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		clock := newHookClock()
		h := newHarness(t, func(c *node.Config) { c.Clock = clock })
		token := h.login("alice").str("session_token")
		for _, skew := range []time.Duration{29 * time.Second, -29 * time.Second} {
			clock.setSkew(skew)
			time.Sleep(2 * lease)
			h.wantVerify(token, http.StatusNoContent, "-")
		}
		for _, skew := range []time.Duration{31 * time.Second, -31 * time.Second, 366 * 24 * time.Hour} {
			clock.setSkew(skew)
			time.Sleep(lease + node.DefaultBeat)
			h.wantVerify(token, http.StatusServiceUnavailable, "clock")
			clock.setSkew(0)
			time.Sleep(2 * node.DefaultBeat)
			h.wantVerify(token, http.StatusNoContent, "-")
		}
	})
}

// authenticate asks with a consistency and returns how long it took.
func (h *harness) authenticate(token string, consistency any) (*reply, time.Duration) {
	start := time.Now()
	r := h.do(h.key, "POST", "/v1/sessions/authenticate", map[string]any{"session_token": token, "consistency": consistency})
	return r, time.Since(start)
}

// delayed makes entries come so late.
func delayed(d time.Duration) events.MemoryFaults {
	return events.MemoryFaults{Deliver: func(ctx context.Context, e events.Entry) int {
		wait(ctx, time.Until(e.Time.Add(d)))
		return 1
	}}
}

func atLeast(r *reply) any { return map[string]string{"at_least": r.str("revision")} }

func TestConsistencyBehind(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		far, link := h.another()
		far.start()
		link.SetFaults(delayed(300 * time.Millisecond))

		// At least: waits for what is on its way, up to half a second.
		r := h.login("alice")
		if got, took := far.authenticate(r.str("session_token"), atLeast(r)); got.Status != http.StatusOK || took != 300*time.Millisecond {
			t.Errorf("at_least, 300 ms behind: %d after %v\n%s", got.Status, took, got.Raw)
		}
		link.SetFaults(delayed(3 * time.Second))
		r = h.login("bob")
		token := r.str("session_token")
		got, took := far.authenticate(token, atLeast(r))
		got.wantError(http.StatusServiceUnavailable, "consistency_timeout")
		if took != 500*time.Millisecond {
			t.Errorf("at_least, 3 s behind: gave up after %v", took)
		}
		time.Sleep(3 * time.Second)
		if got, took := far.authenticate(token, atLeast(r)); got.Status != http.StatusOK || took != 0 {
			t.Errorf("at_least, caught up: %d after %v", got.Status, took)
		}

		// Bounded may be behind by a lease, strong is not.
		revoked := h.do(h.key, "POST", "/v1/sessions/revoke", map[string]any{"session_token": token}).want(http.StatusOK)
		if got, took := far.authenticate(token, "bounded"); got.Status != http.StatusOK || took != 0 {
			t.Errorf("bounded: %d after %v", got.Status, took)
		}
		got, _ = far.authenticate(token, atLeast(revoked))
		got.wantError(http.StatusServiceUnavailable, "consistency_timeout")
		got, took = far.authenticate(token, "strong")
		got.wantError(http.StatusNotFound, "session_not_found")
		if took < 2*time.Second || took > 4*time.Second {
			t.Errorf("strong, 3 s behind: answered after %v", took)
		}

		// Neither guesses when the log is out of reach.
		link.Cut()
		for _, demand := range []any{"strong", map[string]string{"at_least": "eu:0:999999"}} {
			got, _ := far.authenticate(token, demand)
			got.wantError(http.StatusServiceUnavailable, "consistency_timeout")
		}
		link.Heal()
	})
}

// A revision of a log that is gone reads as bounded, one of a log that this node
// has not heard of is not reached.
func TestConsistencyAcrossGenerations(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		r := h.login("alice")
		time.Sleep(time.Minute)
		for range 50 {
			h.login("bob")
		}
		h.home.Truncate(20)
		time.Sleep(10 * time.Second)
		if got := h.login("carol").str("revision"); !strings.HasPrefix(got, "eu:1:") {
			t.Fatalf("revision %s, want generation 1", got)
		}
		token := r.str("session_token")
		if got, took := h.authenticate(token, map[string]string{"at_least": "eu:0:999999"}); got.Status != http.StatusOK || took != 0 {
			t.Errorf("of the older generation: %d after %v\n%s", got.Status, took, got.Raw)
		}
		got, _ := h.authenticate(token, map[string]string{"at_least": "eu:2:1"})
		got.wantError(http.StatusServiceUnavailable, "consistency_timeout")
	})
}

// A copy of a revocation that lives for a second is gone before its repair
// comes. The revocation must be in the log again all the same.
func TestRepairOfWhatLeftTheLog(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		r := h.login("alice")
		sid := sidOf(t, r)
		h.do(h.key, "POST", "/v1/sessions/revoke", map[string]any{"session_id": sid.String()}).want(http.StatusOK)
		subject := events.SessionSubject("eu", "acme", "alice", sid, events.KindRevoke).String()
		e, err := h.home.Last(t.Context(), subject)
		if err != nil {
			t.Fatal(err)
		}
		h.home.SetFaults(events.MemoryFaults{Send: func(ctx context.Context, m events.Message) error {
			if m.Subject == subject {
				wait(ctx, 3*time.Second)
			}
			return nil
		}})
		short := e.Message
		short.TTL = time.Second
		if _, err := h.home.Inject(short); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Second)
		if _, err := h.home.Last(t.Context(), subject); err == nil {
			t.Fatal("the copy did not leave the log")
		}
		h.wantVerify(r.str("session_token"), http.StatusUnauthorized, "revoked")
		time.Sleep(10 * time.Second)
		again, err := h.home.Last(t.Context(), subject)
		if err != nil {
			t.Fatalf("the log does not hold the revocation: %v", err)
		}
		rec := h.keys.Decode(2, again)
		if rev, ok := rec.Event.(*events.Revoke); !ok || rev.SID != sid || !covers(again, rev.AbsoluteAt) {
			t.Errorf("the log holds %s, %v", again.Payload, rec.Trust)
		}
	})
}
