package node_test

import (
	"fmt"
	"sync"
	"testing"
	"time"
)

// atOnce sends requests at the same time and returns their answers.
func atOnce(count int, send func(i int) *reply) []*reply {
	all := make([]*reply, count)
	var sent sync.WaitGroup
	for i := range all {
		sent.Go(func() { all[i] = send(i) })
	}
	sent.Wait()
	return all
}

// Changes of one session at the same time, by two routes: exactly those that
// were answered 200 are held.
func TestConcurrentChangesAreHeldAsAnswered(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		slow(&h.home.MemoryLink)
		c := h.login("ada")
		sid := c.str("session.session_id")
		answers := atOnce(24, func(i int) *reply {
			body := m{"session_custom_claims": m{fmt.Sprint("c", i): i}}
			if i%2 == 0 {
				return h.do(h.key, "PATCH", "/v1/sessions/"+sid, body)
			}
			body["session_token"] = c.str("session_token")
			return h.auth(body)
		})
		session, good := h.do(h.key, "GET", "/v1/sessions/"+sid, nil).want(200), 0
		for i, r := range answers {
			held := session.at(fmt.Sprint("session.custom_claims.c", i)) != nil
			if held != (r.Status == 200) {
				t.Errorf("change %d: answered %d, held: %v", i, r.Status, held)
			}
			if held {
				good++
			}
		}
		if good == 0 {
			t.Error("none of them got through")
		}
	})
}

// However often one token is rotated at the same time, one successor is good,
// and the old token is not once its grace is over.
func TestConcurrentRotationsLeaveOneToken(t *testing.T) {
	for _, grace := range []int{0, 30} {
		t.Run(fmt.Sprint("grace ", grace), func(t *testing.T) {
			bubble(t, func(t *testing.T, h *harness) {
				slow(&h.home.MemoryLink)
				c := h.login("ada")
				successors := map[string]bool{}
				for _, r := range atOnce(4, func(int) *reply {
					return h.do(h.key, "POST", "/v1/sessions/rotate", m{"session_token": c.str("session_token"), "grace_seconds": grace})
				}) {
					if r.Status == 200 {
						successors[r.str("session_token")] = true
					}
				}
				if len(successors) != 1 {
					t.Fatalf("%d successors", len(successors))
				}
				time.Sleep(31 * time.Second)
				for token := range successors {
					h.verify(token).want(204)
				}
				h.verify(c.str("session_token")).wantRefused("unknown")
			})
		})
	}
}

// Log-ins that began before "log out everywhere" do not outlive it, in whatever
// order they arrive. The session that was excepted does.
func TestLoginsRacingLogoutEverywhere(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		slow(&h.home.MemoryLink)
		for round := range 20 {
			user := fmt.Sprint("user", round)
			kept := h.login(user)
			answers := atOnce(7, func(i int) *reply {
				if i == round%7 {
					return h.do(h.key, "POST", "/v1/sessions/revoke", m{"user_id": user, "except_session_id": kept.str("session.session_id")})
				}
				return h.do(h.key, "POST", "/v1/sessions", m{"user_id": user, "auth_revision": kept.str("revision")})
			})
			answers[round%7].want(200)
			for i, r := range answers {
				if r.Status == 201 {
					h.verify(r.str("session_token")).wantRefused("revoked")
				} else if i != round%7 {
					r.wantError(409, "revoked_since_authentication")
				}
			}
			h.verify(kept.str("session_token")).want(204)
		}
	})
}
