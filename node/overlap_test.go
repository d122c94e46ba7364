package node_test

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/revocast/revocast/events"
)

// injectFor is inject with a life, and whoever's seal.
func (h *harness) injectFor(e events.Event, life time.Duration, keys *events.ClusterKeys) uint64 {
	h.t.Helper()
	msg, err := keys.Encode("eu", e, nil, life)
	if err != nil {
		h.t.Fatal(err)
	}
	seq, err := h.home.Inject(msg)
	if err != nil {
		h.t.Fatal(err)
	}
	return seq
}

// wantGeneration logs in and looks at the generation of the revision.
func (h *harness) wantGeneration(want string) {
	h.t.Helper()
	if got := h.login("joe").str("revision"); !strings.HasPrefix(got, "eu:"+want+":") {
		h.t.Errorf("revision %s, want generation %s", got, want)
	}
}

// TestSnapshotOfLostTail: while a node is down its log loses the end, and what is
// written there instead has left the log when the node is back. Nothing that is
// delivered again differs then, but sessions are missing.
func TestSnapshotOfLostTail(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		h := snapshotHarness(t, dir)
		before := h.login("ann").str("session_token")
		time.Sleep(7 * time.Minute)
		info, err := h.home.Info(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		kept := info.LastSeq
		gone := h.login("ivy").str("session_token")
		time.Sleep(10 * time.Second)
		h.stop()
		if info, err = h.home.Info(t.Context()); err != nil {
			t.Fatal(err)
		}
		h.home.Truncate(int(info.LastSeq - kept))
		for range info.LastSeq - kept + 10 {
			h.injectFor(&events.Touch{App: "acme", User: "x", SID: events.SID{2, 1}}, 30*time.Second, h.keys)
		}
		time.Sleep(time.Minute)
		n, _ := h.again(dir)
		n.start()
		time.Sleep(5 * time.Second)
		n.verify(before).want(http.StatusNoContent)
		n.verify(gone).want(http.StatusUnauthorized)
		n.wantGeneration("1")
	})
}

// TestSnapshotOfWhatWasReplaced: that a session's state of the snapshot is not in
// the log any more has many reasons, and none but a loss has it read anew.
func TestSnapshotOfWhatWasReplaced(t *testing.T) {
	stranger, err := events.NewClusterKeys(events.NewClusterKey())
	if err != nil {
		t.Fatal(err)
	}
	extend := m{"session_duration_minutes": 900}
	for name, happens := range map[string]func(h *harness, s *reply){
		"nothing": func(*harness, *reply) {},
		"extended": func(h *harness, s *reply) {
			extend["session_token"] = s.str("session_token")
			h.do(h.key, "POST", "/v1/sessions/authenticate", extend).want(http.StatusOK)
		},
		"revoked": func(h *harness, s *reply) {
			h.do(h.key, "POST", "/v1/sessions/revoke", m{"session_id": s.str("session.session_id")}).want(http.StatusOK)
		},
		"expired": func(*harness, *reply) { time.Sleep(2 * time.Hour) },
		"overwritten": func(h *harness, s *reply) {
			forged := &events.State{App: "acme", User: "ivy", SID: sidOf(h.t, s), ExpiresAt: time.Now().Add(time.Hour).UnixMilli()}
			h.injectFor(forged, time.Hour, stranger)
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			synctest.Test(t, func(t *testing.T) {
				h := snapshotHarness(t, dir)
				time.Sleep(7 * time.Minute)
				body := m{"user_id": "ivy", "session_duration_minutes": 60}
				s := h.do(h.key, "POST", "/v1/sessions", body).want(http.StatusCreated)
				h.stop()
				other, _ := h.another()
				if name != "overwritten" { // which it would repair
					other.start()
				}
				happens(other, s)
				n, _ := h.again(dir)
				n.start()
				want := http.StatusNoContent
				if name == "revoked" || name == "expired" {
					want = http.StatusUnauthorized
				}
				time.Sleep(5 * time.Second)
				n.verify(s.str("session_token")).want(want)
				n.wantGeneration("0")
			})
		})
	}
}

// TestSnapshotReadWhileStatesAreReplaced: a state is replaced after its stream was
// begun to be read and before the reading has come as far.
func TestSnapshotReadWhileStatesAreReplaced(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		h := snapshotHarness(t, dir)
		other, _ := h.another()
		other.start()
		time.Sleep(7 * time.Minute)
		s := h.login("ivy")
		h.stop()
		n, read := h.again(dir)
		deliver, letGo := hold(events.KindMarker)
		link := h.home.Link()
		link.SetFaults(events.MemoryFaults{Deliver: func(ctx context.Context, e events.Entry) int { return deliver(ctx, e) }})
		read.Log = link
		n.begin()
		synctest.Wait()
		body := m{"session_token": s.str("session_token"), "session_duration_minutes": 900}
		other.do(h.key, "POST", "/v1/sessions/authenticate", body).want(http.StatusOK)
		letGo()
		<-n.node.Ready()
		time.Sleep(5 * time.Second)
		n.verify(s.str("session_token")).want(http.StatusNoContent)
		n.wantGeneration("0")
	})
}
