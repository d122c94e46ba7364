package node_test

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/revocast/revocast/events"
)

// homeState returns what the node says of its home stream.
func (h *harness) homeState(t *testing.T) map[string]any {
	t.Helper()
	for _, s := range h.do("", "GET", "/readyz", nil).JSON["streams"].([]any) {
		if st := s.(map[string]any); st["stream"] == "eu" {
			return st
		}
	}
	t.Fatal("no home stream")
	return nil
}

// forgetful joins a node that loses revocations until it has read the stream
// again so often, and then revokes a session, which it still believes in.
func (f *fleet) forgetful(t *testing.T, rebuilds int) (wrong *fleetNode, token string) {
	t.Helper()
	wrong = f.joining("wrong")
	wrong.node.Misfold(func(n int, r events.Record) bool {
		_, ok := r.Event.(*events.Revoke)
		return ok && n < rebuilds
	})
	wrong.start()
	time.Sleep(fullWait)
	c := f.login("ada")
	f.do(f.key, "POST", "/v1/sessions/revoke", m{"session_id": c.str("session.session_id")}).want(200)
	synctest.Wait()
	wrong.wantVerify(c.str("session_token"), 204, "-")
	return wrong, c.str("session_token")
}

// TestDigestsAgree: nodes that made the same of a stream say so within a
// minute, while sessions come, go and expire.
func TestDigestsAgree(t *testing.T) {
	fleetBubble(t, 3, func(t *testing.T, f *fleet) {
		if got := f.homeState(t)["digest"]; got != "unknown" {
			t.Errorf("before any was taken: %v", got)
		}
		for i := range 30 {
			c := f.do(f.key, "POST", "/v1/sessions", m{"user_id": fmt.Sprint("u", i), "session_duration_minutes": 1 + i%5}).want(201)
			if i%3 == 0 {
				f.do(f.key, "POST", "/v1/sessions/revoke", m{"session_id": c.str("session.session_id")}).want(200)
			}
			time.Sleep(11 * time.Second)
			for _, n := range f.nodes {
				if st := n.homeState(t); st["digest"] == "differs" || i > 6 && st["digest"] != "agrees" {
					t.Fatalf("after %d sessions %s says %v", i, n.name, st)
				}
			}
		}
	})
}

// TestDigestMajority: a node that made something else of the stream than most
// others fences and reads it again; the others only say so, and go on. Of two
// nobody knows which is wrong.
func TestDigestMajority(t *testing.T) {
	for _, size := range []int{2, 3} {
		t.Run(fmt.Sprint(size, " nodes"), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFleet(t, size-1)
				wrong, token := f.forgetful(t, 1)
				fenced, differed := false, false
				for range 1300 {
					time.Sleep(100 * time.Millisecond)
					fenced = fenced || wrong.homeState(t)["fenced"] == "digest"
					differed = differed || f.homeState(t)["digest"] == "differs"
					for _, n := range f.nodes[:size-1] {
						if st := n.homeState(t); st["fresh"] != true {
							t.Fatalf("%s: %v", n.name, st)
						}
					}
				}
				if fenced != (size > 2) || !differed {
					t.Errorf("fenced %t, and the others noticed %t", fenced, differed)
				}
				if fenced {
					wrong.wantVerify(token, 401, "revoked")
					if st := wrong.homeState(t); st["digest"] != "agrees" || st["fresh"] != true {
						t.Errorf("after it read the stream again: %v", st)
					}
				}
			})
		})
	}
}

// TestDigestHourly: what reading the stream again does not heal is tried once
// an hour, and no node is out of service for longer.
func TestDigestHourly(t *testing.T) {
	fleetBubble(t, 2, func(t *testing.T, f *fleet) {
		wrong, _ := f.forgetful(t, 100)
		fenced := 0
		for minute := range 130 {
			was := wrong.homeState(t)["position"]
			time.Sleep(time.Minute)
			if st := wrong.homeState(t); !strings.HasPrefix(st["position"].(string), was.(string)[:5]) {
				fenced++
			} else if minute > 3 && st["digest"] != "differs" {
				t.Errorf("in minute %d: %v", minute, st)
			}
		}
		if fenced != 3 {
			t.Errorf("the stream was read again %d times in 130 minutes", fenced)
		}
	})
}
