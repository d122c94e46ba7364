package compat

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
)

// users are ids that must work and come back verbatim, each a user of its own:
// what NATS, paths, URLs, HTML, JSON, Unicode or a shell could take for
// something else.
var users = []string{
	"ada@example.com", "ada+tag@example.com", "ADA@EXAMPLE.COM", "a.b.c", ".", "..", "../", "../../etc/passwd", "/", "a/b", `a\b`,
	"*", ">", "a.*", "a.>", "ev.local.app.>", "$SYS", "$SYS.>", "$JS.API.STREAM.DELETE.EV_local", "_INBOX.x", "-",
	" ", " a", "a ", "a  b", "%", "%2e%2e", "%00", "a%0Ab", "+", "a&user_id=b", "a?b", "a#b", "a;b", "a=b", "a,b", "a:b",
	`"`, `'`, `a"b`, "`id`", "$(id)", "${HOME}", "{}", "[]", "null", "true", "0", "-1", "1e9", "jwks", "authenticate", "revoke",
	"<script>alert(1)</script>", "&lt;", "' OR 1=1 --", "\u00e9", "e\u0301", "ﬁ", "ＡＤＡ", "straße", "STRASSE", "İstanbul", "ı",
	"👩‍👩‍👧", "🏴󠁧󠁢󠁥󠁮󠁧󠁿", "日本語", "שלום", "\u202egnp.exe", "a\u200bb", "a\u2028b", "\ufeffa", "\ufffd", "a\u00a0b", "\U0010ffff",
	strings.Repeat("a", 256), strings.Repeat("é", 128), strings.Repeat("a", 255),
}

func TestUserIDs(t *testing.T) {
	n := shared(t)
	c := n.newApp(t, "users", nil)
	tab := newTable(t, "user id", "bytes", "result")
	made := map[string]*reply{}
	for _, u := range users {
		if made[u] != nil {
			t.Fatalf("the corpus has %q twice", u)
		}
		made[u] = c.create(t, u)
	}
	for i, u := range users {
		trouble := c.verbatim(t, u, made[u])
		// One user leaves: nobody else does.
		r := c.do(t, "POST", "/v1/sessions/revoke", object{"user_id": u}).want(t, http.StatusOK)
		if r.Revoked == nil || *r.Revoked != 1 {
			trouble += fmt.Sprintf("; revoking it: %s", r.raw)
		}
		if left := c.do(t, "GET", "/v1/sessions", nil).want(t, http.StatusOK).Total; left != len(users)-i-1 {
			trouble += fmt.Sprintf("; %d users are left, want %d", left, len(users)-i-1)
		}
		if r := c.verify(t, made[u].SessionToken); r.status != http.StatusUnauthorized {
			trouble += fmt.Sprintf("; verify after the revoke: %d", r.status)
		}
		tab.row(trouble, fmt.Sprintf("%.40q", u), len(u), "verbatim, revoked alone")
	}
}

// verbatim says where the user id comes back differently, "" if nowhere.
func (c client) verbatim(t *testing.T, user string, s *reply) string {
	t.Helper()
	var bad []string
	check := func(where, got string) {
		if got != user {
			bad = append(bad, fmt.Sprintf("%s has %q", where, got))
		}
	}
	check("create", s.Session.UserID)
	check("the JWT", fmt.Sprint(part(t, s.SessionJWT, 1)["sub"]))
	check("read", c.do(t, "GET", "/v1/sessions/"+s.Session.SessionID, nil).want(t, http.StatusOK).Session.UserID)
	check("authenticate", c.do(t, "POST", "/v1/sessions/authenticate", object{"session_jwt": s.SessionJWT}).want(t, http.StatusOK).Session.UserID)
	list := c.do(t, "GET", "/v1/sessions?user_id="+url.QueryEscape(user), nil).want(t, http.StatusOK)
	if list.Total != 1 || len(list.Sessions) != 1 {
		return fmt.Sprintf("the list of its sessions has %d", list.Total)
	}
	check("list", list.Sessions[0].UserID)
	v := client{c.base, s.SessionToken}.do(t, "GET", "/v1/verify?body=1", nil).want(t, http.StatusOK)
	check("verify", v.UserID)
	check("the header "+userHeader, decodeHeader(v.header.Get(userHeader)))
	return strings.Join(bad, "; ")
}
