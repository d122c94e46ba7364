package compat

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// stored returns how many sessions and tombstones the node holds.
func (n *node) stored(t testing.TB) string {
	t.Helper()
	r := client{base: n.base}.do(t, "GET", "/readyz", nil).want(t, http.StatusOK)
	// A count here is a list elsewhere, so the reply does not have it.
	var counts struct {
		Sessions   *int `json:"sessions"`
		Tombstones *int `json:"tombstones"`
	}
	if err := json.Unmarshal(r.raw, &counts); err != nil || counts.Sessions == nil || counts.Tombstones == nil {
		t.Fatalf("readyz counts no sessions: %s", r.raw)
	}
	return fmt.Sprintf("%d sessions, %d tombstones", *counts.Sessions, *counts.Tombstones)
}

// badCase is a request that must be refused.
type badCase struct {
	name   string
	method string // POST unless given
	path   string
	body   any
	header []string
	status int
	kind   string
	client client // the app's key unless given
}

// TestBadInput sends everything under "bad input" by name. Each is refused with
// its own error type, and nothing is stored.
func TestBadInput(t *testing.T) {
	n := newNode(t) // alone, so that what is stored can be counted
	c := n.app()
	s := c.create(t, "ada")
	before := n.stored(t)
	tab := newTable(t, "case", "status", "error_type", "message")
	for _, bad := range [][]badCase{badBodies(s), badUsers(), badSettings(s), badCredentials(n, s), badRoutes(), badApps(n)} {
		for _, b := range bad {
			from, method := b.client, b.method
			if from.base == "" {
				from = c
			}
			if method == "" {
				method = "POST"
			}
			r := from.do(t, method, b.path, b.body, b.header...)
			tab.row(r.wrong(b.status, b.kind), b.name, r.status, r.ErrorType, clip(r.ErrorMessage))
		}
	}
	tab.row(unless(n.stored(t) == before, "was %s, is %s", before, n.stored(t)), "stored by all of them", "", "", "nothing")
	tab.row(c.verdict(t, s, "active"), "the session from before", "", "", "active")
}

func clip(s string) string {
	if len(s) > 80 {
		return s[:80] + "…"
	}
	return s
}

const invalid = "invalid_argument"

// form is what curl sends with -d.
var form = []string{"Content-Type", "application/x-www-form-urlencoded"}

func badBodies(s *reply) []badCase {
	create, auth, revoke, rotate := "/v1/sessions", "/v1/sessions/authenticate", "/v1/sessions/revoke", "/v1/sessions/rotate"
	all := []badCase{
		{name: "unknown field", path: create, body: `{"user_id":"u","colour":"red"}`, status: 400, kind: invalid},
		{name: "unknown field, nested", path: create, body: `{"user_id":"u","attributes":{"ip":"x"}}`, status: 400, kind: invalid},
		{name: "field in other case", path: create, body: `{"User_ID":"u"}`, status: 400, kind: invalid},
		{name: "wrong type: number for text", path: create, body: `{"user_id":7}`, status: 400, kind: invalid},
		{name: "wrong type: text for number", path: create, body: `{"user_id":"u","session_duration_minutes":"5"}`, status: 400, kind: invalid},
		{name: "wrong type: fraction", path: create, body: `{"user_id":"u","session_duration_minutes":1.5}`, status: 400, kind: invalid},
		{name: "wrong type: huge number", path: create, body: `{"user_id":"u","session_duration_minutes":99999999999999999999}`, status: 400, kind: invalid},
		{name: "wrong type: array for object", path: create, body: `{"user_id":"u","metadata":[]}`, status: 400, kind: invalid},
		{name: "wrong type: text for claims", path: create, body: `{"user_id":"u","session_custom_claims":"x"}`, status: 400, kind: invalid},
		{name: "wrong type: text for factors", path: create, body: `{"user_id":"u","authentication_factors":"x"}`, status: 400, kind: invalid},
		{name: "a factor without a type", path: create, body: `{"user_id":"u","authentication_factors":[{}]}`, status: 400, kind: invalid},
		{name: "trailing data: an object", path: create, body: `{"user_id":"u"}{"user_id":"v"}`, status: 400, kind: invalid},
		{name: "trailing data: a brace", path: create, body: `{"user_id":"u"}}`, status: 400, kind: invalid},
		{name: "a field twice", path: create, body: `{"user_id":"u","user_id":"v"}`, status: 400, kind: invalid},
		{name: "a claim twice", path: create, body: `{"user_id":"u","session_custom_claims":{"a":1,"a":2}}`, status: 400, kind: invalid},
		{name: "not JSON", path: create, body: `user_id=u`, status: 400, kind: invalid},
		{name: "half a JSON", path: create, body: `{"user_id":"u"`, status: 400, kind: invalid},
		{name: "an array", path: create, body: `[]`, status: 400, kind: invalid},
		{name: "null", path: create, body: `null`, status: 400, kind: invalid},
		{name: "nothing at all", path: create, body: ``, status: 400, kind: invalid},
		{name: "nested 100 deep", path: create, body: `{"user_id":"u","metadata":` + strings.Repeat(`{"a":`, 100) + "1" + strings.Repeat("}", 101), status: 400, kind: invalid},
		{name: "body over 64 KiB", path: create, body: `{"user_id":"u","metadata":{"a":"` + strings.Repeat("x", 64<<10) + `"}}`, status: 413, kind: "body_too_large"},
		{name: "white space over 64 KiB", path: create, body: `{"user_id":"u"}` + strings.Repeat(" ", 64<<10), status: 413, kind: "body_too_large"},
		{name: "claims over 4 KiB", path: create, body: `{"user_id":"u","session_custom_claims":{"a":"` + strings.Repeat("x", 4<<10) + `"}}`, status: 413, kind: "claims_too_large"},
		{name: "metadata over 8 KiB", path: create, body: `{"user_id":"u","metadata":{"a":"` + strings.Repeat("x", 8<<10) + `"}}`, status: 413, kind: "claims_too_large"},
		{name: "another Content-Type", path: create, body: `{"user_id":"u"}`, header: []string{"Content-Type", "text/plain"}, status: 415, kind: "unsupported_media_type"},
		{name: "a form", path: create, body: `user_id=u`, header: form, status: 415, kind: "unsupported_media_type"},
		{name: "JSON text as a form", path: create, body: `"user_id=u"`, header: form, status: 415, kind: "unsupported_media_type"},
		{name: "a form that begins like JSON", path: create, body: `{"user_id":"u"}&a=b`, header: form, status: 400, kind: invalid},
		{name: "a form, to authenticate", path: auth, body: "session_token=" + s.SessionToken, header: form, status: 415, kind: "unsupported_media_type"},
		{name: "gzip", path: create, body: `{"user_id":"u"}`, header: []string{"Content-Encoding", "gzip"}, status: 415, kind: "unsupported_media_type"},
		{name: "gzip, as a form", path: revoke, body: `{"user_id":"ada"}`, header: append([]string{"Content-Encoding", "gzip"}, form...), status: 415, kind: "unsupported_media_type"},
		{name: "a number no double holds", path: create, body: `{"user_id":"u","metadata":{"a":[1,{"b":1e400}]}}`, status: 400, kind: invalid},
		{name: "a number below all doubles", path: create, body: `{"user_id":"u","session_custom_claims":{"a":-1e400}}`, status: 400, kind: invalid},
		{name: "authenticate: token and JWT", path: auth, body: object{"session_token": s.SessionToken, "session_jwt": s.SessionJWT}, status: 400, kind: "too_many_session_arguments"},
		{name: "authenticate: neither", path: auth, body: `{}`, status: 400, kind: invalid},
		{name: "authenticate: an id", path: auth, body: object{"session_id": s.Session.SessionID}, status: 400, kind: invalid},
		{name: "revoke: id and token", path: revoke, body: object{"session_id": s.Session.SessionID, "session_token": s.SessionToken}, status: 400, kind: "too_many_session_arguments"},
		{name: "revoke: id and JWT", path: revoke, body: object{"session_id": s.Session.SessionID, "session_jwt": s.SessionJWT}, status: 400, kind: "too_many_session_arguments"},
		{name: "revoke: token and JWT", path: revoke, body: object{"session_token": s.SessionToken, "session_jwt": s.SessionJWT}, status: 400, kind: "too_many_session_arguments"},
		{name: "revoke: user and all", path: revoke, body: object{"user_id": "ada", "all": true}, status: 400, kind: "too_many_session_arguments"},
		{name: "revoke: nothing", path: revoke, body: `{}`, status: 400, kind: invalid},
		{name: "revoke: all false", path: revoke, body: `{"all":false}`, status: 400, kind: invalid},
		{name: "revoke: except without user", path: revoke, body: object{"session_id": s.Session.SessionID, "except_session_id": s.Session.SessionID}, status: 400, kind: invalid},
		{name: "revoke: wait for ever", path: revoke, body: object{"user_id": "ada", "wait": "for ever"}, status: 400, kind: invalid},
		{name: "revoke: a reason of two lines", path: revoke, body: object{"user_id": "ada", "reason": "a\nb"}, status: 400, kind: invalid},
		{name: "revoke: no session id", path: revoke, body: object{"session_id": "../../etc"}, status: 400, kind: invalid},
		{name: "rotate: grace of an hour", path: rotate, body: object{"session_token": s.SessionToken, "grace_seconds": 3600}, status: 400, kind: invalid},
		{name: "rotate: grace below 0", path: rotate, body: object{"session_token": s.SessionToken, "grace_seconds": -1}, status: 400, kind: invalid},
	}
	for _, claim := range []string{"iss", "sub", "aud", "exp", "nbf", "iat", "jti", "sid", "client_id", "cnf", "https://stytch.com/session"} {
		all = append(all, badCase{name: "reserved claim " + claim, path: create,
			body: object{"user_id": "u", "session_custom_claims": object{claim: "x"}}, status: 400, kind: invalid})
	}
	for _, claim := range []string{"sub", "Sub", "ſub"} {
		all = append(all, badCase{name: "reserved claim in a patch: " + claim, method: "PATCH", path: create + "/" + s.Session.SessionID,
			body: object{"session_custom_claims": object{claim: "root"}}, status: 400, kind: invalid})
	}
	return all
}

func badUsers() []badCase {
	var all []badCase
	for name, body := range map[string]string{
		"missing":                 `{"session_duration_minutes":5}`,
		"empty":                   `{"user_id":""}`,
		"null":                    `{"user_id":null}`,
		"257 bytes":               `{"user_id":"` + strings.Repeat("a", 257) + `"}`,
		"257 bytes in characters": `{"user_id":"` + strings.Repeat("é", 128) + `a"}`,
		"NUL":                     `{"user_id":"a\u0000b"}`,
		"line feed":               `{"user_id":"a\nb"}`,
		"escape":                  `{"user_id":"\u001b[31m"}`,
		"DEL":                     `{"user_id":"a\u007f"}`,
		"C1 control":              `{"user_id":"a\u0085b"}`,
		"raw control":             "{\"user_id\":\"a\x01b\"}",
		"broken UTF-8":            "{\"user_id\":\"a\xffb\"}",
		"cut-off UTF-8":           "{\"user_id\":\"a\xe2\x82\"}",
		"overlong UTF-8":          "{\"user_id\":\"a\xc0\xafb\"}",
		"surrogate in UTF-8":      "{\"user_id\":\"a\xed\xa0\x80b\"}",
		"half a surrogate pair":   `{"user_id":"a\ud800b"}`,
	} {
		all = append(all, badCase{name: "user id: " + name, path: "/v1/sessions", body: body, status: 400, kind: invalid})
	}
	return append(all,
		badCase{name: "list: user id with a line feed", method: "GET", path: "/v1/sessions?user_id=a%0ab", status: 400, kind: invalid},
		badCase{name: "list: broken UTF-8", method: "GET", path: "/v1/sessions?user_id=a%ffb", status: 400, kind: invalid},
		badCase{name: "list: a user twice", method: "GET", path: "/v1/sessions?user_id=a&user_id=b", status: 400, kind: invalid},
		badCase{name: "list: a misspelt filter", method: "GET", path: "/v1/sessions?userid=a", status: 400, kind: invalid},
		badCase{name: "revoke: user id with a line feed", path: "/v1/sessions/revoke", body: object{"user_id": "a\nb"}, status: 400, kind: invalid})
}

func badSettings(s *reply) []badCase {
	var all []badCase
	for _, field := range []string{"session_duration_minutes", "idle_timeout_minutes", "absolute_lifetime_minutes"} {
		for _, minutes := range []int{-1, 527041} {
			all = append(all, badCase{name: fmt.Sprintf("%s %d", field, minutes), path: "/v1/sessions",
				body: object{"user_id": "u", field: minutes}, status: 400, kind: invalid})
		}
	}
	path := "/v1/sessions/" + s.Session.SessionID
	return append(all,
		badCase{name: "patch: duration -1", method: "PATCH", path: path, body: object{"session_duration_minutes": -1}, status: 400, kind: invalid},
		badCase{name: "patch: unknown field", method: "PATCH", path: path, body: object{"user_id": "mallory"}, status: 400, kind: invalid},
		badCase{name: "mint: a life over the app's", path: path + "/tokens", body: object{"ttl_seconds": 86400}, status: 400, kind: invalid},
		badCase{name: "mint: unknown template", path: path + "/tokens", body: object{"template": "none"}, status: 404, kind: "not_found"},
		badCase{name: "auth_revision of nonsense", path: "/v1/sessions", body: object{"user_id": "u", "auth_revision": "now"}, status: 400, kind: invalid},
	)
}

// badCredentials are sessions nobody knows and keys nobody has.
func badCredentials(n *node, s *reply) []badCase {
	auth, none := "/v1/sessions/authenticate", "session_not_found"
	long := strings.Repeat("A", 9<<10)
	with := func(key string) client { return client{n.base, key} }
	all := []badCase{
		{name: "no API key", path: auth, body: object{"session_token": s.SessionToken}, client: with(""), status: 401, kind: "unauthorized_credentials"},
		{name: "a wrong API key", path: auth, body: object{"session_token": s.SessionToken}, client: with("sk_wrong"), status: 401, kind: "unauthorized_credentials"},
		{name: "a session token as API key", path: auth, body: object{"session_token": s.SessionToken}, client: with(s.SessionToken), status: 401, kind: "unauthorized_credentials"},
		{name: "Basic with another app", path: auth, body: object{"session_token": s.SessionToken}, client: with(""),
			header: []string{"Authorization", basic("other", n.boot.APIKey)}, status: 401, kind: "unauthorized_credentials"},
		{name: "an Authorization over 8 KiB", path: auth, body: `{}`, client: with(""), header: []string{"Authorization", "Bearer " + long}, status: 431, kind: "header_too_large"},
		{name: "an app's key for the cluster", method: "GET", path: "/v1/apps", status: 403, kind: "forbidden"},
		{name: "an app's key for another app", method: "GET", path: "/v1/apps/other", status: 404, kind: "app_not_found"},
		{name: "the admin key without an app", path: auth, body: object{"session_token": s.SessionToken}, client: n.admin(), status: 400, kind: invalid},
		{name: "read: an id nobody has", method: "GET", path: "/v1/sessions/AAAAAAAAAAAAAAAAAAAAAA", status: 404, kind: none},
		{name: "read: its id, spelt otherwise", method: "GET", path: "/v1/sessions/" + sameBits(s.Session.SessionID), status: 404, kind: none},
		{name: "read: no id", method: "GET", path: "/v1/sessions/x", status: 404, kind: none},
		{name: "history: an id nobody has", method: "GET", path: "/v1/sessions/AAAAAAAAAAAAAAAAAAAAAA/events", status: 404, kind: none},
		{name: "DELETE: an id nobody has", method: "DELETE", path: "/v1/sessions/AAAAAAAAAAAAAAAAAAAAAA", status: 404, kind: none},
	}
	for name, token := range map[string]string{
		"garbage": "garbage", "of another's form": strings.Repeat("A", 44), "cut off": s.SessionToken[:43], "with a tail": s.SessionToken + "A",
		"in other case": strings.ToUpper(s.SessionToken), "with a space": s.SessionToken + " ", "a session id": s.Session.SessionID, "a JWT": s.SessionJWT,
	} {
		all = append(all, badCase{name: "token " + name, path: auth, body: object{"session_token": token}, status: 404, kind: none})
	}
	p := strings.Split(s.SessionJWT, ".")
	for name, jwt := range map[string]string{
		"garbage": "garbage", "a token": s.SessionToken, "without signature": p[0] + "." + p[1] + ".", "with a line feed": p[0] + "." + p[1] + "." + p[2] + "\n",
		"of another's signature": p[0] + "." + p[1] + "." + strings.Repeat("A", 86), "in four parts": s.SessionJWT + ".x", "over 8 KiB": long + "." + p[1] + "." + p[2],
	} {
		all = append(all, badCase{name: "JWT " + name, path: auth, body: object{"session_jwt": jwt}, status: 404, kind: none})
	}
	return all
}

func badRoutes() []badCase {
	var all []badCase
	for _, path := range []string{"/", "/v1", "/v2/sessions", "/v1/session", "/v1//sessions", "/v1/../v1/sessions", "/v1/sessions/", "/v1/sessions/a/b/c", "/v1/verifyx"} {
		all = append(all, badCase{name: "no route " + path, method: "GET", path: path, status: 404, kind: "not_found"})
	}
	for path, method := range map[string]string{
		"/v1/sessions": "DELETE", "/v1/sessions/revoke": "PUT", "/v1/sessions/authenticate": "DELETE", "/healthz": "POST", "/v1/verify": "TRACE",
	} {
		status, kind := 405, "method_not_allowed"
		if path == "/v1/sessions/authenticate" {
			// As GET and DELETE go it is a session's id, which nobody has.
			status, kind = 404, "session_not_found"
		}
		all = append(all, badCase{name: method + " " + path, method: method, path: path, status: status, kind: kind})
	}
	return all
}

func badApps(n *node) []badCase {
	var all []badCase
	for _, id := range []string{"", "-a", "_a", "A", "a.b", "a b", "a*", "a>", "a/b", "é", "a\n", strings.Repeat("a", 65)} {
		all = append(all, badCase{name: fmt.Sprintf("app id %.20q", id), path: "/v1/apps", body: object{"app_id": id}, client: n.admin(), status: 400, kind: invalid})
	}
	for _, setting := range []object{
		{"jwt_alg": "HS256"}, {"jwt_alg": "none"}, {"jwt_profile": "x"}, {"jwt_ttl_seconds": 29}, {"jwt_ttl_seconds": 3601}, {"when_stale": "guess"},
		{"session_duration_minutes": 0}, {"session_duration_minutes": 10, "absolute_lifetime_minutes": 5}, {"idle_timeout_minutes": -1}, {"colour": "red"},
	} {
		body := object{"app_id": "bad-settings"}
		for k, v := range setting {
			body[k] = v
		}
		all = append(all, badCase{name: fmt.Sprint("app with ", setting), path: "/v1/apps", body: body, client: n.admin(), status: 400, kind: invalid})
	}
	return append(all,
		badCase{name: "an app that exists", path: "/v1/apps", body: object{"app_id": n.boot.App}, client: n.admin(), status: 409, kind: "already_exists"},
		badCase{name: "an app by an app's key", path: "/v1/apps", body: object{"app_id": "mine"}, status: 403, kind: "forbidden"},
		badCase{name: "an unknown app", method: "GET", path: "/v1/apps/nobody", client: n.admin(), status: 404, kind: "app_not_found"},
		badCase{name: "keys of an unknown app", method: "GET", path: "/v1/apps/nobody/jwks", status: 404, kind: "app_not_found"},
		badCase{name: "a key with an unknown scope", path: "/v1/apps/" + n.boot.App + "/api-keys", body: object{"scopes": []string{"root"}}, status: 400, kind: invalid},
		badCase{name: "a key that has expired", path: "/v1/apps/" + n.boot.App + "/api-keys", body: object{"expires_at": "2020-01-01T00:00:00Z"}, status: 400, kind: invalid},
		badCase{name: "rotate an unknown key", path: "/v1/apps/" + n.boot.App + "/keys/rotate", body: object{"compromised": "x"}, status: 404, kind: "not_found"},
	)
}

// TestCurlsContentType sends JSON objects as "curl -d" does, without naming
// them JSON: they are taken for what they are.
func TestCurlsContentType(t *testing.T) {
	c := shared(t).newApp(t, "curl", nil)
	tab := newTable(t, "request", "status")
	s := c.create(t, "ada")
	sid := "/v1/sessions/" + s.Session.SessionID
	for _, r := range []struct {
		method, path, body string
		status             int
	}{
		{"POST", "/v1/sessions", `{"user_id":"bob"}`, http.StatusCreated},
		{"POST", "/v1/sessions", "\r\n {\"user_id\":\"bob\"}\n", http.StatusCreated},
		{"POST", "/v1/sessions/authenticate", `{"session_token":"` + s.SessionToken + `"}`, http.StatusOK},
		{"POST", sid + "/tokens", `{}`, http.StatusOK},
		{"PATCH", sid, `{"metadata":{"a":1}}`, http.StatusOK},
		{"POST", "/v1/verify", `{"session_token":"` + s.SessionToken + `"}`, http.StatusNoContent},
		{"POST", "/v1/verify", `{"session_jwt":"` + s.SessionJWT + `"}`, http.StatusNoContent},
		{"POST", "/v1/verify", "session_token=" + s.SessionToken, http.StatusUnauthorized},
		{"PUT", "/v1/apps/curl/templates/t", `{"audience":"x"}`, http.StatusOK},
		{"POST", "/v1/sessions/revoke", `{"session_id":"` + s.Session.SessionID + `"}`, http.StatusOK},
	} {
		from := c
		if r.path == "/v1/verify" {
			from = client{base: c.base}
		}
		a := from.do(t, r.method, r.path, r.body, form...)
		tab.row(unless(a.status == r.status, "want %d: %s", r.status, a.raw), r.method+" "+strings.ReplaceAll(r.path, s.Session.SessionID, "{sid}"), a.status)
	}
	tab.row(c.verdict(t, s, "revoked"), "the session", "revoked")
}

// TestAnotherApp shows the credentials of one app with the key of another: the
// answer is that about sessions that do not exist.
func TestAnotherApp(t *testing.T) {
	n := shared(t)
	mine, theirs := n.newApp(t, "tenant-a", nil), n.newApp(t, "tenant-b", nil)
	s := mine.create(t, "ada")
	// Of the same form, and of nobody.
	unknown := mine.create(t, "nobody")
	n.admin().do(t, "POST", "/v1/sessions/revoke", object{"session_id": unknown.Session.SessionID}, "X-Revocast-App", "tenant-a").want(t, 200)
	random := s.SessionToken[:2] + strings.Repeat("x", 41) + s.SessionToken[43:]
	tab := newTable(t, "request", "another's", "nobody's")
	same := func(name string, a, b *reply) {
		ok := a.status == b.status && a.ErrorType == b.ErrorType && a.ErrorMessage == b.ErrorMessage && fmt.Sprint(a.ErrorDetails) == fmt.Sprint(b.ErrorDetails) &&
			(a.Revoked == nil) == (b.Revoked == nil) && (a.Revoked == nil || *a.Revoked == *b.Revoked)
		tab.row(unless(ok, "%s and %s", a.raw, b.raw), name, fmt.Sprint(a.status, " ", a.ErrorType), fmt.Sprint(b.status, " ", b.ErrorType))
	}
	nobodys := "AQAAAAAAAAAAAAAAAAAAAA"
	post := func(path string, body object) *reply { return theirs.do(t, "POST", path, body) }
	same("authenticate by token", post("/v1/sessions/authenticate", object{"session_token": s.SessionToken}), post("/v1/sessions/authenticate", object{"session_token": random}))
	same("authenticate by JWT", post("/v1/sessions/authenticate", object{"session_jwt": s.SessionJWT}), post("/v1/sessions/authenticate", object{"session_jwt": "x"}))
	same("rotate", post("/v1/sessions/rotate", object{"session_token": s.SessionToken}), post("/v1/sessions/rotate", object{"session_token": random}))
	same("mint", post("/v1/sessions/"+s.Session.SessionID+"/tokens", object{}), post("/v1/sessions/"+nobodys+"/tokens", object{}))
	same("revoke by id", post("/v1/sessions/revoke", object{"session_id": s.Session.SessionID}), post("/v1/sessions/revoke", object{"session_id": nobodys}))
	same("revoke by token", post("/v1/sessions/revoke", object{"session_token": s.SessionToken}), post("/v1/sessions/revoke", object{"session_token": random}))
	same("revoke by JWT", post("/v1/sessions/revoke", object{"session_jwt": s.SessionJWT}), post("/v1/sessions/revoke", object{"session_jwt": "x"}))
	for _, method := range []string{"GET", "DELETE", "PATCH"} {
		var body any
		if method == "PATCH" {
			body = object{"metadata": object{"a": 1}}
		}
		same(method, theirs.do(t, method, "/v1/sessions/"+s.Session.SessionID, body), theirs.do(t, method, "/v1/sessions/"+nobodys, body))
	}
	same("history", theirs.do(t, "GET", "/v1/sessions/"+s.Session.SessionID+"/events", nil), theirs.do(t, "GET", "/v1/sessions/"+nobodys+"/events", nil))
	r := theirs.do(t, "GET", "/v1/sessions?user_id=ada", nil).want(t, http.StatusOK)
	tab.row(unless(r.Total == 0, "%d", r.Total), "list", r.Total, 0)
	post("/v1/sessions/revoke", object{"user_id": "ada"}).want(t, http.StatusOK)
	post("/v1/sessions/revoke", object{"all": true}).want(t, http.StatusOK)
	same("/v1/verify?app= by token", client{n.base, s.SessionToken}.do(t, "GET", "/v1/verify?app=tenant-b", nil), client{n.base, random}.do(t, "GET", "/v1/verify?app=tenant-b", nil))
	same("/v1/verify?app= by JWT", client{n.base, s.SessionJWT}.do(t, "GET", "/v1/verify?app=tenant-b", nil), client{n.base, random}.do(t, "GET", "/v1/verify?app=tenant-b", nil))
	tab.row(mine.verdict(t, s, "active"), "the session after all that", "active", "")
}

// TestRawHTTP sends what no HTTP library would: a proxy and this server must
// never see different requests in the same bytes.
func TestRawHTTP(t *testing.T) {
	n := shared(t)
	tab := newTable(t, "request", "first line of the answer")
	post := "POST /v1/sessions/authenticate HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nAuthorization: Bearer " + n.boot.APIKey + "\r\n"
	for name, raw := range map[string]string{
		"two lengths":                 post + "Content-Length: 2\r\nContent-Length: 3\r\n\r\n{} ",
		"length and chunks, bad ones": post + "Transfer-Encoding: chunked, identity\r\nContent-Length: 2\r\n\r\n{}",
		"a chunk size of nonsense":    post + "Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
		"a space before the colon":    post + "Content-Length : 2\r\n\r\n{}",
		"a folded header":             "GET /healthz HTTP/1.1\r\nHost: x\r\nA: b\r\n c\r\nB c\r\n\r\n",
		"no host":                     "GET /healthz HTTP/1.1\r\n\r\n",
		"two hosts":                   "GET /healthz HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
		"a NUL in a header":           "GET /healthz HTTP/1.1\r\nHost: x\r\nA: b\x00c\r\n\r\n",
		"headers of 32 KiB":           "GET /healthz HTTP/1.1\r\nHost: x\r\nA: " + strings.Repeat("a", 32<<10) + "\r\n\r\n",
	} {
		line := exchange(t, n.addr, raw)
		ok := strings.HasPrefix(line, "HTTP/1.1 400") || strings.HasPrefix(line, "HTTP/1.1 431") || strings.HasPrefix(line, "HTTP/1.1 501")
		tab.row(unless(ok, "want 400, 431 or 501, got %q", line), name, line)
	}
}

// exchange sends raw bytes and returns the first line of the answer.
func exchange(t *testing.T, addr, raw string) string {
	t.Helper()
	conn, err := net.DialTimeout("tcp", addr, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := conn.Write([]byte(raw)); err != nil {
		return "write: " + err.Error()
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		return "read: " + err.Error()
	}
	return strings.TrimSpace(line)
}
