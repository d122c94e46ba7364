package compat

import (
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"testing"
)

// atOnce calls f from many goroutines and returns what they got.
func atOnce(t *testing.T, f func(i int) (*reply, error)) []*reply {
	t.Helper()
	const many = 24
	replies, errs := make([]*reply, many), make([]error, many)
	var all sync.WaitGroup
	begin := make(chan struct{})
	for i := range many {
		all.Go(func() {
			<-begin
			replies[i], errs[i] = f(i)
		})
	}
	close(begin)
	all.Wait()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
	return replies
}

// count returns how often each status and each token occurs.
func count(replies []*reply) (statuses map[int]int, tokens map[string]int) {
	statuses, tokens = map[int]int{}, map[string]int{}
	for _, r := range replies {
		statuses[r.status]++
		if r.SessionToken != "" {
			tokens[r.SessionToken]++
		}
	}
	return statuses, tokens
}

// TestRaces sends requests about one thing at the same time.
func TestRaces(t *testing.T) {
	n := shared(t)
	c := n.newApp(t, "races", nil)
	tab := newTable(t, "at once", "statuses")

	made := atOnce(t, func(int) (*reply, error) {
		return c.try("POST", "/v1/sessions", object{"user_id": "ada"}, "Idempotency-Key", "k")
	})
	statuses, tokens := count(made)
	tab.row(unless(statuses[201] == len(made) && len(tokens) == 1, "%d tokens", len(tokens)), "create with one key", statuses)

	// The same key for different users: one wins, the others are told.
	made = atOnce(t, func(i int) (*reply, error) {
		return c.try("POST", "/v1/sessions", object{"user_id": fmt.Sprint("user ", i)}, "Idempotency-Key", "k2")
	})
	statuses, tokens = count(made)
	tab.row(unless(statuses[201] == 1 && statuses[422] == len(made)-1 && len(tokens) == 1, "%d tokens", len(tokens)), "create with one key and different bodies", statuses)

	s := c.create(t, "bob")
	turned := atOnce(t, func(int) (*reply, error) {
		return c.try("POST", "/v1/sessions/rotate", object{"session_token": s.SessionToken, "grace_seconds": 60})
	})
	statuses, tokens = count(turned)
	tab.row(unless(statuses[200] == len(turned) && len(tokens) == 1, "%d successors", len(tokens)), "rotate one token", statuses)

	// Changes of different members: none is lost. One that met too many others
	// is told so, and tries again.
	patched := atOnce(t, func(i int) (*reply, error) {
		for {
			r, err := c.try("PATCH", "/v1/sessions/"+s.Session.SessionID, object{"metadata": object{fmt.Sprint("m", i): i}})
			if err != nil || r.status != http.StatusConflict {
				return r, err
			}
		}
	})
	statuses, _ = count(patched)
	var metadata map[string]int
	r := c.do(t, "GET", "/v1/sessions/"+s.Session.SessionID, nil).want(t, http.StatusOK)
	err := json.Unmarshal(r.Session.Metadata, &metadata)
	tab.row(unless(err == nil && len(metadata) == len(patched), "%d members of %d: %v", len(metadata), len(patched), err), "patch different members", statuses)

	// One revoke among many changes: afterwards it is revoked, whatever came last.
	s = c.create(t, "eve")
	mixed := atOnce(t, func(i int) (*reply, error) {
		switch i % 3 {
		case 0:
			return c.try("POST", "/v1/sessions/revoke", object{"session_id": s.Session.SessionID})
		case 1:
			return c.try("PATCH", "/v1/sessions/"+s.Session.SessionID, object{"metadata": object{"i": i}})
		}
		return c.try("POST", "/v1/sessions/rotate", object{"session_token": s.SessionToken, "grace_seconds": 60})
	})
	statuses, tokens = count(mixed)
	trouble := c.verdict(t, s, "revoked")
	for token := range tokens {
		if v := c.verify(t, token); v.status != http.StatusUnauthorized {
			trouble += fmt.Sprintf("; a successor: %d", v.status)
		}
	}
	tab.row(trouble, "revoke, change, rotate", statuses)

	// "Log out everywhere" among log-ins: whoever logged in before it was
	// answered and after it was sent may be in or out, but all agree on it.
	for range 20 {
		c.create(t, "mal")
	}
	logins := atOnce(t, func(i int) (*reply, error) {
		if i%4 == 0 {
			return c.try("POST", "/v1/sessions/revoke", object{"user_id": "mal"})
		}
		return c.try("POST", "/v1/sessions", object{"user_id": "mal"})
	})
	statuses, _ = count(logins)
	trouble = ""
	good := 0
	for _, r := range logins {
		if r.SessionToken == "" {
			continue
		}
		token, jwt := c.verify(t, r.SessionToken).status, c.verify(t, r.SessionJWT).status
		if token != jwt {
			trouble += fmt.Sprintf("; %d by token, %d by JWT", token, jwt)
		}
		if token == http.StatusNoContent {
			good++
		}
	}
	total := c.do(t, "GET", "/v1/sessions?user_id=mal", nil).want(t, http.StatusOK).Total
	trouble += unless(total == good, "; the list has %d, verify says %d", total, good)
	tab.row(trouble, "log out everywhere and log in", statuses)

	apps := atOnce(t, func(int) (*reply, error) { return n.admin().try("POST", "/v1/apps", object{"app_id": "raced"}) })
	statuses, _ = count(apps)
	tab.row(unless(statuses[201] == 1 && statuses[409] == len(apps)-1, "%v", statuses), "create one app", statuses)
	for _, a := range apps {
		if a.status == http.StatusCreated {
			raced := client{n.base, a.APIKey}
			tab.row(raced.verdict(t, raced.create(t, "ada"), "active"), "a session in it", "active")
		}
	}
}
