package compat

import (
	"fmt"
	"net/http"
	"testing"
)

// TestRevoke revokes by everything that can name sessions, and looks at those
// that must go and those that must stay.
func TestRevoke(t *testing.T) {
	n := shared(t)
	c, other := n.newApp(t, "revoke", nil), n.newApp(t, "revoke-other", nil)
	tab := newTable(t, "by", "revoked", "gone", "stays")
	for _, by := range []struct {
		name    string
		request func(mine []*reply) object
		path    func(mine []*reply) string // instead of a request: DELETE
		gone    []int                      // of three sessions of one user
	}{
		{name: "id", request: func(s []*reply) object { return object{"session_id": s[0].Session.SessionID} }, gone: []int{0}},
		{name: "token", request: func(s []*reply) object { return object{"session_token": s[1].SessionToken} }, gone: []int{1}},
		{name: "JWT", request: func(s []*reply) object { return object{"session_jwt": s[2].SessionJWT} }, gone: []int{2}},
		{name: "DELETE", path: func(s []*reply) string { return "/v1/sessions/" + s[0].Session.SessionID }, gone: []int{0}},
		{name: "user", request: func(s []*reply) object { return object{"user_id": s[0].Session.UserID} }, gone: []int{0, 1, 2}},
		{name: "user except one", request: func(s []*reply) object {
			return object{"user_id": s[0].Session.UserID, "except_session_id": s[1].Session.SessionID}
		}, gone: []int{0, 2}},
	} {
		var mine []*reply
		for range 3 {
			mine = append(mine, c.create(t, "user of "+by.name))
		}
		bystanders := []*reply{c.create(t, "bystander of "+by.name), other.create(t, "user of "+by.name)}
		var r *reply
		if by.path != nil {
			r = c.do(t, "DELETE", by.path(mine), nil).want(t, http.StatusOK)
		} else {
			r = c.do(t, "POST", "/v1/sessions/revoke", by.request(mine)).want(t, http.StatusOK)
		}
		trouble := unless(r.Revoked != nil && *r.Revoked == len(by.gone), "%s", r.raw)
		gone := map[int]bool{}
		for _, i := range by.gone {
			gone[i] = true
		}
		for i, s := range mine {
			want := map[bool]string{true: "revoked", false: "active"}[gone[i]]
			if wrong := c.verdict(t, s, want); wrong != "" {
				trouble += fmt.Sprintf("; session %d: %s", i, wrong)
			}
		}
		if wrong := c.verdict(t, bystanders[0], "active") + other.verdict(t, bystanders[1], "active"); wrong != "" {
			trouble += "; bystander: " + wrong
		}
		// After "log out everywhere", logging in again works.
		if wrong := c.verdict(t, c.create(t, "user of "+by.name), "active"); wrong != "" {
			trouble += "; a later session: " + wrong
		}
		tab.row(trouble, by.name, len(by.gone), by.gone, 3-len(by.gone))
	}
}

func TestRevokeApp(t *testing.T) {
	n := shared(t)
	c, other := n.newApp(t, "revoke-all", nil), n.newApp(t, "revoke-none", nil)
	tab := newTable(t, "step", "answer")
	var mine []*reply
	for i := range 5 {
		mine = append(mine, c.create(t, fmt.Sprint("user ", i)))
	}
	bystander := other.create(t, "user 0")
	r := c.do(t, "POST", "/v1/sessions/revoke", object{"all": true, "reason": "incident"}).want(t, http.StatusOK)
	tab.row(unless(r.Revoked != nil && *r.Revoked == 5, "%s", r.raw), "revoked", 5)
	for _, s := range mine {
		tab.row(c.verdict(t, s, "revoked"), s.Session.UserID, "revoked")
	}
	tab.row(other.verdict(t, bystander, "active"), "another app", "active")
	tab.row(c.verdict(t, c.create(t, "user 0"), "active"), "a later session", "active")
}

// TestAuthRevision logs a user out everywhere while a log-in is under way: the
// session that the log-in makes must not outlive it.
func TestAuthRevision(t *testing.T) {
	n := shared(t)
	c := n.newApp(t, "auth-revision", nil)
	tab := newTable(t, "step", "answer")
	before := c.create(t, "ada").Revision
	r := c.do(t, "POST", "/v1/sessions", object{"user_id": "ada", "auth_revision": before})
	tab.row(unless(r.status == http.StatusCreated, "%s", r.raw), "nothing happened since", r.status)
	c.do(t, "POST", "/v1/sessions/revoke", object{"user_id": "ada"}).want(t, http.StatusOK)
	r = c.do(t, "POST", "/v1/sessions", object{"user_id": "ada", "auth_revision": before})
	tab.row(r.wrong(http.StatusConflict, "revoked_since_authentication"), "logged out everywhere since", r.status)
	r = c.do(t, "POST", "/v1/sessions", object{"user_id": "bob", "auth_revision": before})
	tab.row(unless(r.status == http.StatusCreated, "%s", r.raw), "another user", r.status)
	after := c.do(t, "GET", "/v1/sessions?user_id=ada&status=all", nil).want(t, http.StatusOK)
	tab.row(unless(after.Total == 3, "%d", after.Total), "sessions there were", after.Total)
	for _, s := range after.Sessions {
		tab.row(unless(s.Status != "active", "%s is active", s.SessionID), "left of the user", s.Status)
	}
	r = c.do(t, "POST", "/v1/sessions", object{"user_id": "ada", "auth_revision": after.Revision})
	tab.row(unless(r.status == http.StatusCreated, "%s", r.raw), "a log-in that began later", r.status)
}

// TestConsistency asks for answers as new as a write, and for ones nobody can
// give.
func TestConsistency(t *testing.T) {
	n := shared(t)
	c := n.newApp(t, "consistency", nil)
	tab := newTable(t, "consistency", "answer")
	s := c.create(t, "ada")
	ask := func(want any) *reply {
		return c.do(t, "POST", "/v1/sessions/authenticate", object{"session_token": s.SessionToken, "consistency": want})
	}
	for _, want := range []any{"bounded", "strong", object{"at_least": s.Revision}} {
		r := ask(want)
		tab.row(unless(r.status == http.StatusOK, "%s", r.raw), want, r.status)
	}
	for _, want := range []any{"weak", 7, object{}, object{"at_least": "x"}, object{"at_least": "mars:0:1"}, object{"at_least": s.Revision, "b": 1}} {
		r := ask(want)
		tab.row(r.wrong(http.StatusBadRequest, "invalid_argument"), want, r.status)
	}
	r := ask(object{"at_least": "local:0:99999999"})
	tab.row(r.wrong(http.StatusServiceUnavailable, "consistency_timeout"), "a position nobody has reached", r.status)
}

// TestPages lists many sessions of one user in pages.
func TestPages(t *testing.T) {
	n := shared(t)
	c := n.newApp(t, "pages", nil)
	want := map[string]bool{}
	for range 25 {
		want[c.create(t, "ada").Session.SessionID] = true
	}
	c.create(t, "bob")
	tab := newTable(t, "page", "sessions", "total")
	got, cursor := map[string]bool{}, ""
	for page := range 10 {
		path := "/v1/sessions?user_id=ada&limit=10"
		if cursor != "" {
			path += "&cursor=" + cursor
		}
		r := c.do(t, "GET", path, nil).want(t, http.StatusOK)
		trouble := unless(r.Total == 25 && len(r.Sessions) <= 10, "%d of %d", len(r.Sessions), r.Total)
		for _, s := range r.Sessions {
			if got[s.SessionID] || !want[s.SessionID] {
				trouble += " a session twice, or somebody else's: " + s.SessionID
			}
			got[s.SessionID] = true
		}
		tab.row(trouble, page, len(r.Sessions), r.Total)
		if cursor = r.NextCursor; cursor == "" {
			break
		}
	}
	if len(got) != len(want) {
		t.Errorf("the pages have %d sessions of %d", len(got), len(want))
	}
	for _, query := range []string{"limit=0", "limit=-1", "limit=x", "limit=100000", "cursor=%21%21", "status=nope"} {
		r := c.do(t, "GET", "/v1/sessions?user_id=ada&"+query, nil)
		tab.row(r.wrong(http.StatusBadRequest, "invalid_argument"), query, r.status, "")
	}
}
