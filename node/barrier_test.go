package node_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node"
)

// Strong reads share heartbeats: one under way serves all who asked before it
// was sent, and no read is served by one sent before it asked.
func TestStrongReadsShareHeartbeats(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		// No heartbeat of the clock comes between.
		b := h.far(func(c *node.Config) { c.Lease, c.Beat = 10*time.Minute, 2*time.Minute })
		const lag = 40 * time.Millisecond
		b.behind(lag)
		token := h.login("ada").str("session_token")
		strong := func() (took time.Duration) {
			r, took := b.authenticate(token, "strong")
			r.want(http.StatusOK)
			return took
		}
		time.Sleep(time.Second)
		before := b.homeSeen.sends.Load()
		if took := strong(); took != lag {
			t.Errorf("one alone took %v, want a round trip of %v", took, lag)
		}
		var all sync.WaitGroup
		for range 100 {
			all.Go(func() {
				if took := strong(); took > 50*time.Millisecond+lag { // the pace of who is urgent
					t.Errorf("one of many took %v", took)
				}
			})
			time.Sleep(lag / 40)
		}
		all.Wait()
		// The hundred came within 100 ms, that is two and a half round trips.
		if sent := b.homeSeen.sends.Load() - before; sent < 3 || sent > 6 {
			t.Errorf("%d heartbeats for 101 strong reads", sent)
		}

		// What was committed before the read is seen by it.
		for range 5 {
			token = h.login("eve").str("session_token")
			b.authenticate(token, "strong")
			h.do(h.key, "POST", "/v1/sessions/revoke", m{"session_token": token}).want(http.StatusOK)
			r, _ := b.authenticate(token, "strong")
			r.wantEnded("revoked")
		}
		// Those that were sent before their turn put off no other.
		b.verify(garbage()).wantRefused("unknown")
	})
}

// A strong read is not served by a heartbeat that was stored before it asked,
// even when the acknowledgement of that one is still out.
func TestStrongReadJoinsNothingSent(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		b := h.far()
		token := h.login("ada").str("session_token")
		b.verify(token).want(http.StatusNoContent)
		b.home.SetFaults(events.MemoryFaults{
			Ack: func(ctx context.Context, m events.Message, _ uint64) error {
				if strings.HasSuffix(m.Subject, ".hb") {
					wait(ctx, 100*time.Millisecond)
				}
				return nil
			},
			Deliver: held(".rev", 300*time.Millisecond).Deliver,
		})
		var first sync.WaitGroup
		first.Go(func() {
			r, _ := b.authenticate(token, "strong")
			r.want(http.StatusOK)
		})
		time.Sleep(10 * time.Millisecond)
		h.do(h.key, "POST", "/v1/sessions/revoke", m{"session_token": token}).want(http.StatusOK)
		r, _ := b.authenticate(token, "strong")
		r.wantEnded("revoked")
		first.Wait()
	})
}

// A leader whose client goes away leads on: who joined it gets an answer.
func TestLeaderGoesAway(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		b := h.far(func(c *node.Config) { c.Lease, c.Beat = 10*time.Minute, 2*time.Minute })
		b.behind(50 * time.Millisecond)
		b.verify(garbage()).wantRefused("unknown") // so that the next heartbeat has to wait for its turn
		before := b.homeSeen.sends.Load()
		ctx, leave := context.WithCancel(t.Context())
		var both sync.WaitGroup
		both.Go(func() {
			r := httptest.NewRequestWithContext(ctx, "GET", "/v1/verify", nil)
			r.Header.Set("Authorization", "Bearer "+garbage())
			b.send(r)
		})
		synctest.Wait()
		both.Go(func() { b.verify(garbage()).wantRefused("unknown") })
		time.Sleep(100 * time.Millisecond) // both wait for the heartbeat now
		if b.homeSeen.sends.Load() != before {
			t.Fatal("the heartbeat was sent before its turn")
		}
		leave()
		both.Wait()
		if sent := b.homeSeen.sends.Load() - before; sent != 1 {
			t.Errorf("%d heartbeats for two who waited together", sent)
		}
	})
}

// A heartbeat that the log does not take fails nobody who may wait for the next
// one, and is not tried without a pause.
func TestBarrierTriesAgain(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		b := h.far()
		token := h.login("ada").str("session_token")
		b.verify(token).want(http.StatusNoContent)
		var sent atomic.Int64
		b.home.SetFaults(events.MemoryFaults{Send: func(_ context.Context, m events.Message) error {
			if strings.HasSuffix(m.Subject, ".hb") && sent.Add(1) < 6 {
				return events.ErrUnavailable
			}
			return nil
		}})
		r, took := b.authenticate(token, "strong")
		r.want(http.StatusOK)
		if took < 500*time.Millisecond || took > 1500*time.Millisecond {
			t.Errorf("answered after %v and %d heartbeats", took, sent.Load())
		}
		b.home.SetFaults(events.MemoryFaults{Send: func(context.Context, events.Message) error { return events.ErrFull }})
		if took := timed(func() { b.wantVerify(garbage(), http.StatusServiceUnavailable, "behind") }); took > 250*time.Millisecond {
			t.Errorf("a full log was waited for %v", took)
		}
	})
}

// After its farewell no heartbeat of a node is heard, whoever waits for one.
func TestNoSharedHeartbeatAfterFarewell(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		b := h.far()
		b.verify(garbage()).wantRefused("unknown")
		var left, after atomic.Int64
		b.home.SetFaults(events.MemoryFaults{Send: func(_ context.Context, m events.Message) error {
			switch {
			case strings.HasSuffix(m.Subject, ".reg"):
				left.Add(1)
			case left.Load() > 0:
				after.Add(1)
			}
			return nil
		}})
		var asking sync.WaitGroup
		asking.Go(func() { b.wantVerify(garbage(), http.StatusServiceUnavailable, "leaving") })
		time.Sleep(100 * time.Millisecond) // it waits for the turn of the next heartbeat
		if err := b.node.Leave(t.Context()); err != nil {
			t.Fatal(err)
		}
		asking.Wait()
		time.Sleep(5 * time.Second)
		if left.Load() != 1 || after.Load() != 0 {
			t.Errorf("%d farewells, %d messages after it", left.Load(), after.Load())
		}
	})
}

// However fast strong reads follow each other, the log is asked at a pace: each
// heartbeat stays in it for four leases. One that comes alone does not wait.
func TestStrongReadsAreBounded(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		b := h.far()
		const lag = time.Millisecond
		b.behind(lag)
		token := h.login("ada").str("session_token")
		time.Sleep(300 * time.Millisecond)
		before, start, reads := b.homeSeen.sends.Load(), time.Now(), 0
		for ; time.Since(start) < 2*time.Second; reads++ {
			r, took := b.authenticate(token, "strong")
			r.want(http.StatusOK)
			if most := 51 * time.Millisecond; took > most || reads == 0 && took != lag {
				t.Errorf("read %d took %v", reads, took)
			}
		}
		if sent := b.homeSeen.sends.Load() - before; sent > 2*20+4 {
			t.Errorf("%d heartbeats in 2 s for %d reads", sent, reads)
		}
	})
}
