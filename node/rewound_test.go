package node_test

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/revocast/revocast/events"
)

// hold returns a fault that keeps entries of the kind back until it is let go.
func hold(kind events.Kind) (deliver func(context.Context, events.Entry) int, letGo func()) {
	gate := make(chan struct{})
	return func(ctx context.Context, e events.Entry) int {
		if strings.HasSuffix(e.Subject, "."+string(kind)) {
			select {
			case <-gate:
			case <-ctx.Done():
			}
		}
		return 1
	}, sync.OnceFunc(func() { close(gate) })
}

// A revocation is acknowledged, and the log then loses it and gives its sequence
// to another event. The node that comes as far has not applied the revocation.
func TestWriteWhoseSequenceIsGivenAway(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		c, other := h.login("ada"), h.login("bob")
		time.Sleep(time.Minute + 300*time.Millisecond) // no heartbeat comes in between
		deliver, letGo := hold(events.KindRevoke)
		h.home.SetFaults(events.MemoryFaults{Deliver: deliver, Ack: func(_ context.Context, m events.Message, seq uint64) error {
			if strings.HasSuffix(m.Subject, ".rev") {
				h.home.Truncate(1)
				touch := &events.Touch{App: "acme", User: "bob", SID: sidOf(t, other), At: time.Now().UnixMilli()}
				if got := h.inject(touch); got != seq {
					t.Errorf("the other event stands at %d, the revocation stood at %d", got, seq)
				}
			}
			return nil
		}})
		revoke := m{"session_id": c.str("session.session_id"), "wait": "all"}
		h.do(h.key, "POST", "/v1/sessions/revoke", revoke).wantError(http.StatusServiceUnavailable, "log_unavailable")
		letGo()
		h.home.SetFaults(events.MemoryFaults{})
		time.Sleep(10*time.Second + 300*time.Millisecond)
		h.verify(c.str("session_token")).want(http.StatusNoContent) // nobody was told otherwise
		h.do(h.key, "POST", "/v1/sessions/revoke", revoke).want(http.StatusOK)
		h.verify(c.str("session_token")).wantRefused("revoked")
	})
}

// A node that applied another event at the position does not confirm it.
func TestConfirmAnotherEvent(t *testing.T) {
	fleetBubble(t, 2, func(t *testing.T, f *fleet) {
		asker := f.net.Link(f.keys)
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { _ = asker.Run(ctx, events.Answers{Me: events.NewIncarnation()}) })
		defer running.Wait()
		defer cancel()
		c := f.login("ada")
		time.Sleep(time.Second)
		e, err := f.home.Last(t.Context(), events.SessionSubject("eu", "acme", "ada", sidOf(t, c), events.KindState).String())
		if err != nil {
			t.Fatal(err)
		}
		for event, want := range map[uint64][]string{e.Fingerprint(): {"n1", "n2"}, e.Fingerprint() + 1: nil, 0: {"n1", "n2"}} {
			var got []string
			within, cancel := context.WithTimeout(t.Context(), 3*time.Second)
			asker.Ask(within, events.Question{Stream: "eu", Seq: e.Seq, Event: event}, func(c events.Confirmation) { got = append(got, c.Node) })
			cancel()
			slices.Sort(got)
			if got = slices.Compact(got); !slices.Equal(got, want) {
				t.Errorf("asked for event %x: confirmed by %v, want %v", event, got, want)
			}
		}
	})
}

// One node reads the log again, another was behind and lost nothing: it adopts
// the generation, as does one that starts later, and a receipt that it waits for
// is not broken by that.
func TestGenerationIsAdopted(t *testing.T) {
	fleetBubble(t, 2, func(t *testing.T, f *fleet) {
		c := f.login("ada")
		time.Sleep(time.Second)
		behind := f.nodes[1]
		deliver, letGo := hold(events.KindState)
		behind.link.SetFaults(events.MemoryFaults{Deliver: deliver})
		for range 3 {
			f.login("bob")
		}
		f.home.Truncate(3)
		letGo()
		r := behind.do(f.key, "POST", "/v1/sessions/revoke", m{"session_id": c.str("session.session_id"), "wait": "all"}).want(http.StatusOK)
		if got := r.str("receipt.revision"); !strings.HasPrefix(got, "eu:0:") || r.str("receipt.status") != "complete" {
			t.Errorf("a receipt across the adoption: %s", r.Raw)
		}
		behind.verify(c.str("session_token")).wantRefused("revoked")
		for _, n := range []*fleetNode{f.nodes[0], behind, f.join("n3")} {
			if got := n.login("eve").str("revision"); !strings.HasPrefix(got, "eu:1:") {
				t.Errorf("%s names a position %s, want generation 1", n.name, got)
			}
		}
	})
}

// The log loses an "all" that spares a session, and before it is appended again
// another node, which never heard of it, revokes all. That one is the truth.
func TestLostAllMeetsANewerOne(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		spared := h.login("ada")
		h.login("ada")
		time.Sleep(10*time.Second + 300*time.Millisecond)
		h.do(h.key, "POST", "/v1/sessions/revoke", m{
			"user_id": "ada", "except_session_id": spared.str("session.session_id"),
		}).want(http.StatusOK)
		newer := &events.RevokeAll{App: "acme", User: "ada", Reason: "newer", At: time.Now().UnixMilli()}
		subject := newer.Subject("eu").String()
		injected := false
		h.home.SetFaults(events.MemoryFaults{Send: func(_ context.Context, msg events.Message) error {
			if msg.Subject == subject && !injected {
				injected = true
				h.inject(newer)
			}
			return nil
		}})
		h.home.Truncate(1)
		time.Sleep(10*time.Second + 300*time.Millisecond)
		e, err := h.home.Last(t.Context(), subject)
		if err != nil || !injected || !strings.Contains(string(e.Payload), `"newer"`) {
			t.Errorf("%v: %s stands there, want the newer one", err, e.Payload)
		}
		h.verify(spared.str("session_token")).wantRefused("revoked")
	})
}

// A node remembers a revocation that the log lost. Revoked again, the session is
// not said to be revoked everywhere before the log says so.
func TestRevokeWhatTheLogLost(t *testing.T) {
	fleetBubble(t, 2, func(t *testing.T, f *fleet) {
		c := f.login("ada")
		time.Sleep(10*time.Second + 300*time.Millisecond)
		deliver, letGo := hold(events.KindRevoke)
		f.nodes[1].link.SetFaults(events.MemoryFaults{Deliver: deliver})
		body := m{"session_id": c.str("session.session_id"), "reason": "stolen"}
		f.do(f.key, "POST", "/v1/sessions/revoke", body).want(http.StatusOK)
		refuse := func(_ context.Context, msg events.Message) error {
			if strings.HasSuffix(msg.Subject, ".rev") {
				return events.ErrUnavailable
			}
			return nil
		}
		f.nodes[0].link.SetFaults(events.MemoryFaults{Send: refuse})
		f.home.Truncate(1)
		letGo()
		time.Sleep(20 * time.Second) // so long that confirmations count again
		f.verify(c.str("session_token")).wantRefused("revoked")
		f.nodes[1].verify(c.str("session_token")).want(http.StatusNoContent)
		body["wait"], body["reason"] = "all", "again"
		f.do(f.key, "POST", "/v1/sessions/revoke", body).wantError(http.StatusServiceUnavailable, "log_unavailable")
		f.nodes[0].link.SetFaults(events.MemoryFaults{})
		r := f.do(f.key, "POST", "/v1/sessions/revoke", body).want(http.StatusOK)
		if r.str("receipt.status") != "complete" || r.at("revoked") != float64(0) {
			t.Errorf("revoked again: %s", r.Raw)
		}
		f.nodes[1].verify(c.str("session_token")).wantRefused("revoked")
		e, err := f.home.Last(t.Context(), events.SessionSubject("eu", "acme", "ada", sidOf(t, c), events.KindRevoke).String())
		if err != nil || !strings.Contains(string(e.Payload), `"stolen"`) {
			t.Errorf("%v: the log says %s", err, e.Payload)
		}
	})
}
