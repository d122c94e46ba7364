package node_test

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/revocast/revocast/node"
)

// A receiver that never acknowledges one SET is told what comes behind it, whatever
// it acknowledges of that.
func TestSSFPollBehindOneSET(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		r := h.receive(m{"events_requested": []string{caep + "session-revoked"}})
		const all = 700
		for i := range all {
			h.revoke(h.login(fmt.Sprint("u", i)).str("session.session_id"))
		}
		stuck := slices.Collect(maps.Keys(setsOf(r.poll(m{"returnImmediately": true, "maxEvents": 1}))))[0]
		told := map[string]bool{stuck: true}
		var acks []string
		for range 20 {
			got := r.do(r.key, "POST", "/ssf/poll/"+r.id, m{"returnImmediately": true, "ack": acks})
			if got.Status != http.StatusOK {
				t.Fatalf("after %d: %d %s", len(told), got.Status, got.Raw)
			}
			acks = nil
			for jti := range setsOf(got) {
				if jti != stuck {
					acks = append(acks, jti)
				}
				told[jti] = true
			}
		}
		got := r.now(append(acks, stuck)...)
		for len(got) > 0 {
			acks = slices.Collect(maps.Keys(got))
			for _, jti := range acks {
				told[jti] = true
			}
			got = r.now(acks...)
		}
		if len(told) != all {
			t.Errorf("told %d of %d", len(told), all)
		}
	})
}

// Each error of a receiver counts once, and the newest are shown, whatever is in them.
func TestSSFPollErrorsCount(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		r := h.receive(m{"events_requested": []string{caep + "session-revoked"}})
		var last string
		for i := range 14 {
			h.revoke(h.login(fmt.Sprint("u", i)).str("session.session_id"))
			last = slices.Collect(maps.Keys(r.now()))[0]
			got := r.do(r.key, "POST", "/ssf/poll/"+r.id, m{"returnImmediately": true, "setErrs": m{
				last: m{"err": strings.Repeat("\x01", 300), "description": strings.Repeat("<", 255) + "é"},
			}})
			if got.Status != http.StatusOK {
				t.Fatalf("error %d: %d %s", i+1, got.Status, got.Raw)
			}
		}
		status := r.do(r.key, "GET", "/ssf/status?stream_id="+r.id, nil).want(200)
		all, _ := status.at("set_errors").([]any)
		if status.at("failed_sets") != 14.0 && status.at("failed") != 14.0 || len(all) == 0 || all[len(all)-1].(map[string]any)["jti"] != last {
			t.Errorf("shown: %s", status.Raw)
		}
		if len(r.now()) != 0 {
			t.Error("told again")
		}
	})
}

// A poll that is held while the app is suspended is told nothing.
func TestSSFPollOfSuspendedApp(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		r := h.receive(m{"events_requested": []string{caep + "session-revoked"}})
		c := h.login("ada")
		got := make(chan *reply)
		go func() { got <- r.do(r.key, "POST", "/ssf/poll/"+r.id, m{}) }()
		time.Sleep(2 * time.Second)
		h.do(h.admin, "POST", "/v1/apps/acme/suspend", nil).want(http.StatusOK)
		time.Sleep(2 * time.Second)
		h.revoke(c.str("session.session_id"))
		if p := <-got; p.Status == http.StatusOK && len(setsOf(p)) != 0 {
			t.Errorf("told %s", p.Raw)
		}
		h.do(h.admin, "POST", "/v1/apps/acme/resume", nil).want(http.StatusOK)
		time.Sleep(time.Second)
		r.wantTold("session-revoked")
	})
}

// What does not fit into a stream's setting is refused by name.
func TestSSFStreamTooLarge(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		var uris []string
		for i := range 100 {
			uris = append(uris, fmt.Sprintf("https://example.com/%d/%s", i, strings.Repeat("x", 300)))
		}
		key := h.apiKey(h.app, "ssf")
		got := h.do(key, "POST", "/ssf/streams", m{"events_requested": uris})
		if got.Status != http.StatusBadRequest || !strings.Contains(got.str("error_message"), "events_requested") {
			t.Errorf("%d %s", got.Status, got.Raw)
		}
		r := h.receive(nil)
		h.do(r.key, "POST", "/ssf/status", m{"stream_id": r.id, "status": "paused"}).want(200)
		for range 9 {
			got := h.do(r.key, "POST", "/ssf/verify", m{"stream_id": r.id, "state": strings.Repeat("<", 1024)})
			if got.Status != http.StatusNoContent {
				t.Fatalf("%d %s", got.Status, got.Raw)
			}
			time.Sleep(11 * time.Second)
		}
	})
}

// A stream that is made anew by a node whose clock is behind begins anew all the same.
func TestSSFStreamMadeAnew(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		h.setSkew(20 * time.Second)
		r := h.receive(m{"events_requested": []string{caep + "session-revoked"}})
		h.revoke(h.login("ada").str("session.session_id"))
		r.wantTold("session-revoked")
		h.setSkew(0)
		h.do(r.key, "DELETE", "/ssf/streams?stream_id="+r.id, nil).want(204)
		h.do(r.key, "POST", "/ssf/streams", m{"events_requested": []string{caep + "session-revoked"}}).want(201)
		h.revoke(h.login("bob").str("session.session_id"))
		if got := r.now(); len(got) != 1 {
			t.Fatalf("told %d", len(got))
		} else if again := r.now(slices.Collect(maps.Keys(got))...); len(again) != 0 {
			t.Errorf("told again: %v", again)
		}
		if again := r.now(); len(again) != 0 {
			t.Errorf("told again: %v", again)
		}
	})
}

// Of a log that was brought back from a backup, while no node was there to remember,
// all is told, and nothing of it under the jti of another event.
func TestSSFPollOfAnOlderLog(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		r := h.receive(m{"events_requested": []string{caep + "session-revoked"}})
		txn := map[string]string{}
		for range 10 {
			h.revoke(h.login("ada").str("session.session_id"))
			time.Sleep(time.Second)
		}
		for _, e := range r.all() {
			txn[e.jti] = e.txn
		}
		h.stop()
		h.home.Truncate(35)
		next, _ := h.another(func(c *node.Config) { c.Solo = true })
		next.start()
		r = r.before(next)
		if first := next.do(r.key, "POST", "/ssf/poll/"+r.id, m{"returnImmediately": true}); first.Status != http.StatusOK {
			first.wantError(http.StatusConflict, "conflict")
		}
		users := map[any]bool{}
		for i := range 10 {
			next.revoke(next.login(fmt.Sprint("u", i)).str("session.session_id"))
			time.Sleep(time.Second)
			for _, e := range r.all() {
				users[e.sub["user"].(map[string]any)["sub"]] = true
				if was, ok := txn[e.jti]; ok && was != e.txn {
					t.Errorf("%s is the jti of %s and of %s", e.jti, was, e.txn)
				}
			}
		}
		for i := range 10 {
			if !users[fmt.Sprint("u", i)] {
				t.Errorf("not told of u%d", i)
			}
		}
	})
}
