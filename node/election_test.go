package node_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node/api"
)

// A log that elects a leader takes nothing for some seconds. A revocation that
// is asked for meanwhile is acknowledged when it ends; a create is not waited
// for so long.
func TestRevokeDuringElection(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		token := h.login("ada").str("session_token")
		until := time.Now().Add(9 * time.Second)
		h.home.SetFaults(events.MemoryFaults{Send: func(ctx context.Context, _ events.Message) error {
			select {
			case <-time.After(time.Until(until)):
				return nil
			case <-ctx.Done():
				return events.ErrUnavailable
			}
		}})
		begun := time.Now()
		h.do(h.key, "POST", "/v1/sessions", map[string]any{"user_id": "bob"}).wantError(503, api.LogUnavailable)
		if took := time.Since(begun); took != 5*time.Second {
			t.Errorf("a create waited for %v", took)
		}
		h.do(h.key, "POST", "/v1/sessions/revoke", map[string]any{"session_token": token}).want(200)
		if took := time.Since(begun); took < 9*time.Second || took > 10*time.Second {
			t.Errorf("the revocation was acknowledged after %v", took)
		}
		h.do(token, "GET", "/v1/verify", nil).want(401)
	})
}

// Every kind of revocation outlasts an election, also one that another is in the
// way of which is neither stored nor lost: servers then refuse whatever expects
// what stood there before.
func TestEveryRevokeDuringElection(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		for _, kind := range []string{"session_id", "session_token", "session_jwt", "user_id", "except", "delete", "all"} {
			made, other := h.login("ada"), h.login("ada")
			until := time.Now().Add(9 * time.Second)
			h.home.SetFaults(events.MemoryFaults{Send: func(ctx context.Context, m events.Message) error {
				left := time.Until(until)
				switch {
				case left <= 0:
					return nil
				case strings.HasSuffix(m.Subject, "."+string(events.KindAll)) && left > 3*time.Second:
					return events.ErrConflict
				}
				select {
				case <-time.After(left):
					return nil
				case <-ctx.Done():
					return events.ErrUnavailable
				}
			}})
			method, path, body := "POST", "/v1/sessions/revoke", map[string]any{}
			switch kind {
			case "session_id":
				body[kind] = made.str("session.session_id")
			case "session_token", "session_jwt":
				body[kind] = made.str(kind)
			case "user_id":
				body[kind] = "ada"
			case "except":
				body["user_id"], body["except_session_id"] = "ada", other.str("session.session_id")
			case "delete":
				method, path, body = "DELETE", "/v1/sessions/"+made.str("session.session_id"), nil
			case "all":
				body["all"] = true
			}
			begun := time.Now()
			h.do(h.key, method, path, body).want(200)
			if took := time.Since(begun); took < 9*time.Second || took > 10*time.Second {
				t.Errorf("%s: acknowledged after %v", kind, took)
			}
			h.do(made.str("session_token"), "GET", "/v1/verify", nil).want(401)
			if kind == "except" {
				h.do(other.str("session_token"), "GET", "/v1/verify", nil).want(204)
			}
		}
	})
}

// While a node hears nothing, as when the server dies that its stream comes
// from, several revoke one session. Each replaces the one before it, so that the
// node never reads that; all of them are acknowledged.
func TestRevokesReplaceOneAnother(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		made := h.login("ada")
		sid, heard := made.str("session.session_id"), make(chan struct{})
		h.home.SetFaults(events.MemoryFaults{Deliver: func(context.Context, events.Entry) int { <-heard; return 1 }})
		var all sync.WaitGroup
		answers := make([]*reply, 4)
		all.Go(func() { h.login("bob") }) // what the node reads first
		synctest.Wait()
		for i := range answers {
			body := map[string]any{"session_id": sid, "reason": fmt.Sprint("reason ", i)}
			if i%2 == 1 {
				body = map[string]any{"user_id": "ada", "reason": fmt.Sprint("reason ", i)}
			}
			all.Go(func() { answers[i] = h.do(h.key, "POST", "/v1/sessions/revoke", body) })
			synctest.Wait()
		}
		close(heard)
		all.Wait()
		for _, r := range answers {
			r.want(200)
		}
		h.do(made.str("session_token"), "GET", "/v1/verify", nil).want(401)
	})
}

// An acknowledgement is lost, and the append repeated: the copy replaces the
// first before the node reads it, and what was asked for is acknowledged.
func TestCopyReplacesItsOriginal(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		heard := make(chan struct{})
		h.home.SetFaults(events.MemoryFaults{
			Deliver: func(context.Context, events.Entry) int { <-heard; return 1 },
			Ack: func(_ context.Context, m events.Message, _ uint64) error {
				if strings.HasSuffix(m.Subject, "."+string(events.KindState)) {
					h.home.Inject(m)
				}
				return nil
			},
		})
		var all sync.WaitGroup
		var made *reply
		all.Go(func() { h.do(h.key, "POST", "/v1/sessions", map[string]any{"user_id": "bob"}) })
		synctest.Wait()
		all.Go(func() { made = h.do(h.key, "POST", "/v1/sessions", map[string]any{"user_id": "ada"}) })
		synctest.Wait()
		close(heard)
		all.Wait()
		made.want(201)
		h.do(made.str("session_token"), "GET", "/v1/verify", nil).want(204)
	})
}
