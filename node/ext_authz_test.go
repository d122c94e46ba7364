package node_test

import (
	"strings"
	"testing"

	"github.com/revocast/revocast/events"
)

// TestExtAuthz: what Envoy asks, with path and query of the original request
// behind the prefix, and its method.
func TestExtAuthz(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		shut := h.newApp("shut", nil)
		inShut := h.do(shut, "POST", "/v1/sessions", m{"user_id": "ada"}).want(201).str("session_token")
		h.do(h.admin, "POST", "/v1/apps/shut/suspend", nil).want(200)
		c, gone := h.login("ada"), h.login("ada").str("session_token")
		h.do(h.key, "POST", "/v1/sessions/revoke", m{"session_token": gone}).want(200)
		token := c.str("session_token")
		ask := func(method, path, credential string, status int, reason string) {
			t.Helper()
			r := h.do(credential, method, path, nil)
			if r.Status != status || r.Header.Get("X-Session-Reason") != reason || len(r.Raw) != 0 || r.Header.Get("Content-Length") != "0" {
				t.Errorf("%s %s: %d %v %s, want %d %s", method, path, r.Status, r.Header, r.Raw, status, reason)
			}
			for _, k := range verifyHeaders {
				if len(r.Header[k]) != 1 || r.Header[k][0] == "" {
					t.Errorf("%s %s: header %s is %q", method, path, k, r.Header[k])
				}
			}
			if status == 200 && r.Header.Get("X-Session-Id") != c.str("session.session_id") {
				t.Errorf("%s %s: %v", method, path, r.Header)
			}
		}
		for _, method := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"} {
			ask(method, "/v1/ext_authz/acme/orig/path", token, 200, "-")
			ask(method, "/v1/ext_authz/acme/orig/path", gone, 401, "revoked")
		}
		// Nothing that the client wrote into path or query means anything.
		for _, original := range []string{
			"/", "/?", "/page?app=shut&app=none&jwt=1&body=1&background=1&header=authorization", "/a;b=c?d;e", "/?%zz", "/../shut/x", "/..%2fshut%2fx", "//x", "/%00",
		} {
			ask("GET", "/v1/ext_authz/acme"+original, token, 200, "-")
			ask("GET", "/v1/ext_authz/-"+original, token, 200, "-")
			ask("GET", "/v1/ext_authz/shut"+original, token, 401, "unknown")
			ask("GET", "/v1/ext_authz/none"+original, token, 401, "unknown")
			ask("GET", "/v1/ext_authz/"+original, token, 401, "malformed") // no app is not any app
		}
		ask("GET", "/v1/ext_authz/acme/?session_token="+token, "", 401, "missing")
		ask("GET", "/v1/ext_authz/acme/", events.NewToken(2).Reveal(), 401, "unknown")
		ask("GET", "/v1/ext_authz/-/", inShut, 403, "app_suspended")
		ask("GET", "/v1/ext_authz/acme/", c.str("session_jwt"), 200, "-")
		for _, path := range []string{"/v1/ext_authz", "/v1/ext_authz/", "/v1/ext_authz/acme"} {
			if r := h.do(token, "GET", path, nil); r.Status != 404 && r.Status != 401 {
				t.Errorf("%s: %d", path, r.Status)
			}
		}
		if r := h.do(token, "BREW", "/v1/ext_authz/acme/x", nil).want(405); !strings.Contains(r.Header.Get("Allow"), "OPTIONS") {
			t.Errorf("%v", r.Header)
		}
	})
}
