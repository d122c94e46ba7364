package compat

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
)

// userHeader is the header of /v1/verify that names the user.
const userHeader = "X-Session-User"

// decodeHeader undoes the percent-encoding of what a header cannot hold.
func decodeHeader(value string) string {
	text, err := url.PathUnescape(value)
	if err != nil {
		return "undecodable: " + value
	}
	return text
}

// sessionHeaders returns the names of all X-Session headers, and what is wrong
// with their values: each must be there once and say something, or a proxy
// would pass on what a client made up.
func sessionHeaders(h http.Header) (names []string, trouble string) {
	for name, values := range h {
		if !strings.HasPrefix(name, "X-Session-") {
			continue
		}
		names = append(names, name)
		if len(values) != 1 || values[0] == "" {
			trouble += fmt.Sprintf("%s is %q; ", name, values)
		}
	}
	slices.Sort(names)
	return names, trouble
}

func TestVerifyHeaders(t *testing.T) {
	n := shared(t)
	c := n.newApp(t, "verify", nil)
	s := c.create(t, "ada@example.com")
	gone := c.create(t, "ada@example.com")
	c.do(t, "POST", "/v1/sessions/revoke", object{"session_id": gone.Session.SessionID}).want(t, http.StatusOK)
	tab := newTable(t, "request", "status", "headers")
	var names []string
	for _, v := range []struct {
		name, method, path string
		header             []string
		body               any
		status             int
	}{
		{"token", "GET", "/v1/verify", bearer(s.SessionToken), nil, 204},
		{"JWT", "GET", "/v1/verify", bearer(s.SessionJWT), nil, 204},
		{"token, POST", "POST", "/v1/verify", bearer(s.SessionToken), nil, 204},
		{"token, HEAD", "HEAD", "/v1/verify", bearer(s.SessionToken), nil, 204},
		{"token in the body", "POST", "/v1/verify", nil, object{"session_token": s.SessionToken}, 204},
		{"JWT in the body", "POST", "/v1/verify", nil, object{"session_jwt": s.SessionJWT}, 204},
		{"a path behind it", "GET", "/v1/verify/a%2Fb/../c?x=%20", bearer(s.SessionToken), nil, 204},
		{"scheme in lower case", "GET", "/v1/verify", []string{"Authorization", "bearer " + s.SessionToken}, nil, 204},
		{"with a body", "GET", "/v1/verify?body=1", bearer(s.SessionToken), nil, 200},
		{"its app", "GET", "/v1/verify?app=verify", bearer(s.SessionToken), nil, 204},
		{"token in a cookie", "GET", "/v1/verify", []string{"Cookie", "a=b; session=" + s.SessionToken + "; c=d"}, nil, 204},
		{"JWT in a cookie", "GET", "/v1/verify", []string{"Cookie", "session=" + s.SessionJWT}, nil, 204},
		{"the cookie no other host can set wins", "GET", "/v1/verify", []string{"Cookie", "session=" + gone.SessionToken + "; __Host-session=" + s.SessionToken}, nil, 204},
		{"the header beats the cookie", "GET", "/v1/verify", append(bearer(gone.SessionToken), "Cookie", "session="+s.SessionToken), nil, 401},
		{"both in the body", "POST", "/v1/verify", nil, object{"session_jwt": s.SessionJWT, "session_token": s.SessionToken}, 401},
		{"unknown field in the body", "POST", "/v1/verify", nil, object{"session_token": s.SessionToken, "a": 1}, 401},
		{"9 KiB", "GET", "/v1/verify", bearer(strings.Repeat("a", 9<<10)), nil, 401},
		{"its app and another", "GET", "/v1/verify?app=verify&app=app", bearer(s.SessionToken), nil, 401},
		{"another app", "GET", "/v1/verify?app=app", bearer(s.SessionToken), nil, 401},
		{"nothing", "GET", "/v1/verify", nil, nil, 401},
		{"garbage", "GET", "/v1/verify", bearer("garbage"), nil, 401},
		{"a token in the URL", "GET", "/v1/verify?session_token=" + s.SessionToken, nil, nil, 401},
		{"an API key", "GET", "/v1/verify", bearer(c.key), nil, 401},
		{"a revoked token", "GET", "/v1/verify", bearer(gone.SessionToken), nil, 401},
		{"a revoked session's JWT", "GET", "/v1/verify", bearer(gone.SessionJWT), nil, 401},
		{"a revoked token, with a body", "GET", "/v1/verify?body=1", bearer(gone.SessionToken), nil, 401},
		{"made-up headers", "GET", "/v1/verify", []string{"X-Session-User", "root", "X-Session-Id", "x"}, nil, 401},
	} {
		r := client{base: n.base}.do(t, v.method, v.path, v.body, v.header...)
		got, trouble := sessionHeaders(r.header)
		if names == nil {
			names = got
			t.Logf("headers of %s: %v", v.name, r.header)
		}
		trouble += unless(r.status == v.status, "want %d; ", v.status)
		trouble += unless(slices.Equal(got, names) && len(got) > 0, "has %v, others have %v; ", got, names)
		trouble += unless(len(r.raw) == 0 || v.status == 200 || strings.Contains(v.path, "body=1"), "a body: %s; ", r.raw)
		user, id := decodeHeader(r.header.Get(userHeader)), r.header.Get("X-Session-Id")
		if r.status < 300 {
			trouble += unless(user == "ada@example.com" && id == s.Session.SessionID, "user %q, id %q; ", user, id)
		} else {
			trouble += unless(user == "-", "user %q; ", user)
		}
		trouble += unless(!strings.Contains(fmt.Sprint(r.header), s.SessionToken), "a token in a header; ")
		trouble += unless(r.header.Get("Cache-Control") == "no-store", "Cache-Control %q; ", r.header.Get("Cache-Control"))
		tab.row(trouble, v.name, r.status, fmt.Sprintf("%s=%s X-Session-Id=%s", userHeader, user, id))
	}
}

// TestVerifyUserDash: a dash in a header means nobody, so the user of that name
// is spelt otherwise.
func TestVerifyUserDash(t *testing.T) {
	c := shared(t).newApp(t, "verify-dash", nil)
	tab := newTable(t, "user", userHeader)
	for user, want := range map[string]string{"-": "%2D", "--": "--", "-a": "-a", "%2D": "%252D"} {
		got := c.verify(t, c.create(t, user).SessionToken).want(t, http.StatusNoContent).header.Get(userHeader)
		tab.row(unless(got == want, "want %s", want), user, got)
	}
}

// TestVerifyJWTHeader asks verify for a JWT to hand to the service behind a
// proxy.
func TestVerifyJWTHeader(t *testing.T) {
	n := shared(t)
	c := n.newApp(t, "verify-jwt", nil)
	s := c.create(t, "ada")
	tab := newTable(t, "request", "status", "X-Session-Jwt")
	r := client{n.base, s.SessionToken}.do(t, "GET", "/v1/verify?jwt=1", nil)
	jwt := r.header.Get("X-Session-Jwt")
	again := c.verify(t, jwt)
	tab.row(unless(r.status == 204 && again.status == 204, "%d, and the JWT %d", r.status, again.status), "?jwt=1", r.status, clip(jwt))
	r = client{n.base, "garbage"}.do(t, "GET", "/v1/verify?jwt=1", nil)
	jwt = r.header.Get("X-Session-Jwt")
	tab.row(unless(r.status == 401 && jwt == "-", "%d", r.status), "?jwt=1 without a session", r.status, jwt)
}

func bearer(credential string) []string { return []string{"Authorization", "Bearer " + credential} }

// TestAppStates suspends, resumes and deletes an app.
func TestAppStates(t *testing.T) {
	n := shared(t)
	c, admin := n.newApp(t, "states", nil), n.admin()
	s, gone := c.create(t, "ada"), c.create(t, "ada")
	tab := newTable(t, "step", "status", "error_type")
	refused := func(name string, r *reply, status int, kind string) {
		tab.row(r.wrong(status, kind), name, r.status, r.ErrorType)
	}
	admin.do(t, "POST", "/v1/apps/states/suspend", nil).want(t, http.StatusOK)
	refused("suspended: create", c.do(t, "POST", "/v1/sessions", object{"user_id": "bob"}), 403, "app_suspended")
	refused("suspended: authenticate", c.do(t, "POST", "/v1/sessions/authenticate", object{"session_token": s.SessionToken}), 403, "app_suspended")
	for name, credential := range map[string]string{"token": s.SessionToken, "JWT": s.SessionJWT} {
		r := c.verify(t, credential)
		tab.row(unless(r.status == 403, "status %d", r.status), "suspended: verify by "+name, r.status, "")
	}
	refused("suspended: mint", c.do(t, "POST", "/v1/sessions/"+s.Session.SessionID+"/tokens", object{}), 403, "app_suspended")
	refused("suspended: administration", c.do(t, "GET", "/v1/apps/states", nil), 403, "app_suspended")
	// With the app's own key one can still look, and sign people out.
	r := c.do(t, "GET", "/v1/sessions/"+s.Session.SessionID, nil)
	tab.row(unless(r.status == 200 && r.Session.Status == "active", "%s", r.raw), "suspended: read", r.status, "")
	r = c.do(t, "GET", "/v1/sessions?user_id=ada", nil)
	tab.row(unless(r.status == 200 && r.Total == 2, "%s", r.raw), "suspended: list", r.status, "")
	r = c.do(t, "POST", "/v1/sessions/revoke", object{"session_id": gone.Session.SessionID})
	tab.row(unless(r.status == 200 && r.Revoked != nil && *r.Revoked == 1, "%s", r.raw), "suspended: revoke", r.status, "")
	admin.do(t, "POST", "/v1/apps/states/resume", nil).want(t, http.StatusOK)
	tab.row(c.verdict(t, s, "active"), "resumed", "", "")
	tab.row(c.verdict(t, gone, "revoked"), "resumed: what was revoked meanwhile", "", "")
	admin.do(t, "DELETE", "/v1/apps/states", nil).want(t, http.StatusOK)
	refused("deleted: create", c.do(t, "POST", "/v1/sessions", object{"user_id": "bob"}), 401, "unauthorized_credentials")
	for name, credential := range map[string]string{"token": s.SessionToken, "JWT": s.SessionJWT} {
		r := c.verify(t, credential)
		tab.row(unless(r.status == 401, "status %d", r.status), "deleted: verify by "+name, r.status, "")
	}
	refused("deleted: its keys", client{base: n.base}.do(t, "GET", "/v1/apps/states/jwks", nil), 404, "app_not_found")
	refused("deleted: made again", admin.do(t, "POST", "/v1/apps", object{"app_id": "states"}), 409, "already_exists")
}

// TestScopes gives each key one scope and tries what the others are for.
func TestScopes(t *testing.T) {
	n := shared(t)
	c := n.newApp(t, "scopes", nil)
	s := c.create(t, "ada")
	tab := newTable(t, "key's scope", "request's scope", "status")
	requests := map[string]func(client) *reply{
		"create": func(k client) *reply { return k.do(t, "POST", "/v1/sessions", object{"user_id": "bob"}) },
		"verify": func(k client) *reply {
			return k.do(t, "POST", "/v1/sessions/authenticate", object{"session_token": s.SessionToken})
		},
		"read":   func(k client) *reply { return k.do(t, "GET", "/v1/sessions/"+s.Session.SessionID, nil) },
		"revoke": func(k client) *reply { return k.do(t, "POST", "/v1/sessions/revoke", object{"user_id": "nobody"}) },
		"admin":  func(k client) *reply { return k.do(t, "GET", "/v1/apps/scopes", nil) },
	}
	for scope := range requests {
		r := c.do(t, "POST", "/v1/apps/scopes/api-keys", object{"name": scope, "scopes": []string{scope}}).want(t, http.StatusCreated)
		only := client{n.base, r.APIKey}
		for want, request := range requests {
			a := request(only)
			if want == scope {
				tab.row(unless(a.status < 300, "%s", a.raw), scope, want, a.status)
			} else {
				tab.row(a.wrong(http.StatusForbidden, "forbidden"), scope, want, a.status)
			}
		}
	}
	made := c.do(t, "POST", "/v1/apps/scopes/api-keys", object{"name": "to go"}).want(t, http.StatusCreated)
	keys := c.do(t, "GET", "/v1/apps/scopes/api-keys", nil).want(t, http.StatusOK).Keys
	gone := client{n.base, made.APIKey}
	c.do(t, "DELETE", "/v1/apps/scopes/api-keys/"+keys[len(keys)-1].ID, nil).want(t, http.StatusOK)
	a := requests["read"](gone)
	tab.row(a.wrong(http.StatusUnauthorized, "unauthorized_credentials"), "revoked", "read", a.status)
}

// TestLogFull fills a log of the smallest size. Creates stop, everything else
// goes on.
func TestLogFull(t *testing.T) {
	n := newNode(t, "--max-bytes", "4MiB")
	c := n.app()
	tab := newTable(t, "step", "status")
	first, padding := c.create(t, "ada"), strings.Repeat("x", 7<<10)
	var r *reply
	made := 0
	for range 4000 {
		if r = c.do(t, "POST", "/v1/sessions", object{"user_id": "bob", "metadata": object{"padding": padding}}); r.status != http.StatusCreated {
			break
		}
		made++
	}
	tab.row(r.wrong(http.StatusServiceUnavailable, "log_full"), fmt.Sprintf("create after %d others", made), r.status)
	tab.row(unless(r.header.Get("Retry-After") != "", "none"), "Retry-After", r.header.Get("Retry-After"))
	tab.row(c.verdict(t, first, "active"), "a session from before", "active")
	r = c.do(t, "POST", "/v1/sessions/revoke", object{"session_id": first.Session.SessionID})
	tab.row(unless(r.status == http.StatusOK && *r.Revoked == 1, "%s", r.raw), "revoke", r.status)
	tab.row(c.verdict(t, first, "revoked"), "it is revoked", "revoked")
	r = c.do(t, "POST", "/v1/sessions/revoke", object{"user_id": "bob"})
	tab.row(unless(r.status == http.StatusOK && *r.Revoked == made, "%s", r.raw), "revoke the user", r.status)
	r = n.admin().do(t, "POST", "/v1/apps", object{"app_id": "more"})
	tab.row(unless(r.status == http.StatusCreated, "%s", r.raw), "administration", r.status)
	r = client{base: n.base}.do(t, "GET", "/readyz", nil)
	tab.row(unless(r.status == http.StatusOK, "%s", r.raw), "readyz", r.status)
}
