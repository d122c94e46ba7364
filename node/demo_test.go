package node_test

import (
	"strings"
	"testing"
	"testing/synctest"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node"
	"github.com/revocast/revocast/node/api"
)

// TestDemo: there is no way in without development mode, and in it none but for the
// demo's own page.
func TestDemo(t *testing.T) {
	const own = "http://127.0.0.1:8080"
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t)
		for _, call := range []string{"GET /demo/", "GET /demo", "GET /demo/demo.js", "POST /demo/login", "POST /demo/revoke"} {
			method, path, _ := strings.Cut(call, " ")
			h.do("", method, path, nil, "Origin", publicURL).wantError(404, api.NotFound)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t, func(c *node.Config) { c.Demo, c.PublicURL = "acme", own })
		login := m{"user_id": "ada"}
		for _, headers := range [][]string{
			nil, {"Origin", "http://127.0.0.1:8081"}, {"Origin", "http://localhost:8080"}, {"Origin", "null"}, {"Sec-Fetch-Site", "same-origin"},
		} {
			r := h.do("", "POST", "/demo/login", login, headers...).wantError(403, api.OriginNotAllowed)
			if h.do("", "POST", "/demo/revoke", nil, headers...).wantError(403, api.OriginNotAllowed); r.Header.Get("Set-Cookie") != "" {
				t.Errorf("%v: %v", headers, r.Header)
			}
		}
		h.do("", "POST", "/demo/login", m{"user_id": ""}, "Origin", own).wantError(400, api.InvalidArgument)
		h.do("", "POST", "/demo/login", m{"user_id": "ada", "app": "x"}, "Origin", own).wantError(400, api.InvalidArgument)
		r := h.do("", "POST", "/demo/login", login, "Origin", own).want(201)
		token, _, _ := strings.Cut(strings.TrimPrefix(r.Header.Get("Set-Cookie"), "__Host-session="), ";")
		if _, ok := events.Token(token).Key(); !ok || strings.Contains(string(r.Raw), token) {
			t.Fatalf("%v\n%s", r.Header, r.Raw)
		}
		second := h.login("ada").str("session_token")
		h.do("", "POST", "/demo/revoke", nil, "Origin", own).wantNoSession("missing", "")
		h.do("", "POST", "/demo/revoke", nil, "Origin", own, "Cookie", "__Host-session="+token).want(200)
		h.verify(token).want(401)
		h.verify(second).want(204)
		h.do("", "POST", "/demo/revoke", m{"everywhere": true}, "Origin", own, "Cookie", "__Host-session="+second).want(200)
		h.verify(second).want(401)
		// The page itself, under the node's own name alone.
		here := h.do("", "GET", "/demo/", nil, "Host", "")
		if here.want(303); here.Header.Get("Location") != own+"/demo/" {
			t.Errorf("%v", here.Header)
		}
	})
	for _, url := range []string{"https://127.0.0.1:8080", "http://id.example.com", "https://id.example.com"} {
		if _, err := node.New(demoConfig(t, url)); err == nil || !strings.Contains(err.Error(), "loopback") {
			t.Errorf("a demo at %s: %v", url, err)
		}
	}
}

// demoConfig is the configuration of a node with a demo at the URL.
func demoConfig(t *testing.T, url string) (conf node.Config) {
	t.Helper()
	unstarted(t, func(c *node.Config) { conf = *c })
	conf.Demo, conf.PublicURL = "acme", url
	return conf
}
