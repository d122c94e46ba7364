package node_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node"
)

// overseas is a second region, us, beside a harness's, with a node of its own.
type overseas struct {
	*harness
	log  *events.Memory
	open func(context.Context, *events.Region) (events.Log, error)
}

// abroad makes the region known in CONFIG and starts its node.
func (h *harness) abroad() *overseas {
	h.t.Helper()
	us := events.NewMemory("us", 3, events.MemoryConfig{Clock: h.clock})
	h.injectRegion("us", 3)
	n, _ := h.another(func(c *node.Config) { c.Name, c.Home, c.Archive = "us1", us.Link(), us })
	n.start()
	return &overseas{harness: n, log: us, open: func(_ context.Context, r *events.Region) (events.Log, error) {
		if r.Region == "us" {
			return us.Link(), nil
		}
		return nil, errors.New("no such region")
	}}
}

// injectRegion makes a region known in CONFIG.
func (h *harness) injectRegion(region string, number uint8) {
	h.t.Helper()
	msg, err := h.keys.Encode(events.ConfigRegion, &events.Region{Region: region, Number: number, At: 1}, nil, 0)
	if err != nil {
		h.t.Fatal(err)
	}
	if _, err := h.config.Inject(msg); err != nil {
		h.t.Fatal(err)
	}
}

func unreachable(context.Context, *events.Region) (events.Log, error) {
	return nil, errors.New("no route")
}

// A snapshot holds sessions of regions that a restarted node may be unable to
// reach. Of such a region it has no lease, and so no answer.
func TestSnapshotOfUnreachableRegion(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t, func(c *node.Config) { c.Solo = false })
		us := h.abroad()
		b, _ := h.another(func(c *node.Config) { c.SnapshotDir, c.Open = dir, us.open })
		b.start()
		login := us.login("ada")
		token := login.str("session_token")
		time.Sleep(6 * time.Minute)
		b.verify(token).want(http.StatusNoContent)
		b.stop()
		us.do(us.key, "POST", "/v1/sessions/revoke", m{"session_token": token}).want(http.StatusOK)
		time.Sleep(time.Minute)

		again, _ := h.another(func(c *node.Config) { c.SnapshotDir, c.Open = dir, unreachable })
		again.start()
		time.Sleep(time.Minute)
		again.wantVerify(token, http.StatusServiceUnavailable, "home_unreachable")
		again.do(again.key, "GET", "/v1/sessions/"+sidOf(t, login).String(), nil).wantError(http.StatusServiceUnavailable, "home_unreachable")
		again.do(again.key, "POST", "/v1/sessions/authenticate", m{"session_token": token}).wantError(http.StatusServiceUnavailable, "home_unreachable")
	})
}

// A log-out everywhere is not complete while the node does not follow one of
// the regions that there are.
func TestRevokeEverywhereWithRegionOutOfReach(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t, func(c *node.Config) { c.Solo = false })
		us := h.abroad()
		b, _ := h.another(func(c *node.Config) { c.Open = unreachable })
		b.start()
		time.Sleep(fullWait)
		token, here := us.login("ada").str("session_token"), h.login("ada").str("session_token")
		r := b.do(b.key, "POST", "/v1/sessions/revoke", m{"user_id": "ada", "wait": "all"})
		if v := us.verify(token); r.Status == http.StatusOK && v.Status == http.StatusNoContent {
			t.Errorf("answered %s, and the user is logged in at us", r.Raw)
		}
		r.want(http.StatusAccepted)
		if r.str("receipt.status") != "pending" {
			t.Errorf("answered %s, and us is out of reach", r.Raw)
		}
		synctest.Wait()
		h.verify(here).want(http.StatusUnauthorized)
	})
}

// A region whose stream takes for ever to open holds up no other.
func TestSlowRegionHoldsUpNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t, func(c *node.Config) { c.Solo = false })
		us := h.abroad()
		token := us.login("ada").str("session_token")
		for number := uint8(4); number < 8; number++ {
			h.injectRegion(string('a'+rune(number)), number)
		}
		b, _ := h.another(func(c *node.Config) {
			c.Open = func(ctx context.Context, r *events.Region) (events.Log, error) {
				if r.Region == "us" {
					return us.log.Link(), nil
				}
				<-ctx.Done()
				return nil, ctx.Err()
			}
		})
		b.start()
		time.Sleep(3 * time.Second)
		b.verify(token).want(http.StatusNoContent)
	})
}

// A region that is opened while the node leaves is not followed: the node would
// answer after its farewell, or without one.
func TestRegionOpenedWhileLeaving(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t, func(c *node.Config) { c.Solo = false })
		us := h.abroad()
		token := us.login("ada").str("session_token")
		opened := make(chan struct{})
		b, home := h.another(func(c *node.Config) {
			c.Open = func(ctx context.Context, r *events.Region) (events.Log, error) {
				select {
				case <-opened:
				case <-ctx.Done():
				}
				return us.open(ctx, r)
			}
		})
		b.start()
		// The farewell to the first stream takes a while.
		open := sync.OnceFunc(func() { close(opened) })
		home.SetFaults(events.MemoryFaults{Send: func(ctx context.Context, msg events.Message) error {
			if strings.HasSuffix(msg.Subject, ".reg") {
				open()
				wait(ctx, 2*time.Second)
			}
			return nil
		}})
		if err := b.node.Leave(t.Context()); err != nil {
			t.Error(err)
		}
		time.Sleep(5 * time.Second)
		if r := b.verify(token); r.Status != http.StatusServiceUnavailable {
			t.Errorf("after its farewell the node answers %d of a region's session", r.Status)
		}
	})
}
