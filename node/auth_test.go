package node_test

import (
	"bytes"
	"encoding/base64"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node"
	"github.com/revocast/revocast/node/api"
)

// apiKey makes an API key of the app with the scopes.
func (h *harness) apiKey(app string, scopes ...string) string {
	h.t.Helper()
	return h.do(h.admin, "POST", "/v1/apps/"+app+"/api-keys", map[string]any{"scopes": scopes}).want(201).str("api_key")
}

// concrete returns method and path of a route, with ids of the first app.
func (h *harness) concrete(pattern string) (method, path string) {
	method, path, _ = strings.Cut(pattern, " ")
	path = strings.NewReplacer("{app}", h.app, "{sid}", strings.Repeat("A", 22), "{what}", "events",
		"{key}", "key_unknown", "{name}", "unknown").Replace(path)
	return method, path
}

// wantRefusal is wantError for an answer that may be of a facade, whose vendor says
// it in other words.
func (r *reply) wantRefusal(status int, kind string) {
	r.t.Helper()
	if !bytes.Contains(r.Raw, []byte(`"errors":[`)) {
		r.wantError(status, kind)
	} else if !bytes.Contains(r.want(status).Raw, []byte(`"error_type":"`+kind+`"`)) {
		r.t.Errorf("%s: want %s: %s", r.call, kind, r.Raw)
	}
}

// TestScopes tries every route with no key, with each single scope, and with
// the cluster admin key.
func TestScopes(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		h.do(h.admin, "PATCH", "/v1/apps/"+h.app, m{"compat": []string{"streambird", "clerk"}}).want(200)
		scopes := []string{api.ScopeCreate, api.ScopeVerify, api.ScopeRead, api.ScopeRevoke, api.ScopeAdmin, api.ScopeImpersonate, api.ScopeSSF}
		keys := map[string]string{}
		for _, s := range scopes {
			keys[s] = h.apiKey(h.app, s)
		}
		for _, rt := range h.node.RouteTable() {
			need := rt.Scope
			if strings.HasSuffix(rt.Pattern, "/{what}") {
				need = api.ScopeRead
			}
			if need == "" || rt.OAuth {
				continue
			}
			method, path := h.concrete(rt.Pattern)
			h.do("", method, path, nil).wantRefusal(401, api.Unauthorized)
			h.do("sk_"+strings.Repeat("x", 43), method, path, nil).wantRefusal(401, api.Unauthorized)
			for _, s := range scopes {
				// A body that no route takes, so that nothing happens where the key will do.
				r := h.do(keys[s], method, path, `{"no such field":1}`)
				if s != need && (need != api.ScopeSSF || s != api.ScopeAdmin) { // who administers an app, its streams
					r.wantRefusal(403, api.Forbidden)
				} else if r.Status == 401 || r.Status == 403 {
					t.Errorf("%s with scope %s: status %d", rt.Pattern, s, r.Status)
				}
			}
			if r := h.do(h.admin, method, path, `{"no such field":1}`, "X-Revocast-App", h.app); r.Status == 401 || r.Status == 403 {
				t.Errorf("%s with the cluster admin key: status %d", rt.Pattern, r.Status)
			}
		}
	})
}

func TestCredentials(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		other := h.newApp("other", nil)
		const path = "/v1/sessions?user_id=u"
		basic := func(user, secret string) string {
			return "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+secret))
		}
		for name, c := range map[string]struct {
			header string
			status int
			kind   string
		}{
			"bearer":              {"Bearer " + h.key, 200, ""},
			"bearer, other case":  {"bearer " + h.key, 200, ""},
			"basic":               {basic(h.app, h.key), 200, ""},
			"basic without user":  {basic("", h.key), 200, ""},
			"basic of other app":  {basic("other", h.key), 401, api.Unauthorized},
			"basic of no app":     {basic("nobody", h.key), 401, api.Unauthorized},
			"basic, wrong secret": {basic(h.app, h.key+"x"), 401, api.Unauthorized},
			"basic, no secret":    {basic(h.app, ""), 401, api.Unauthorized},
			"basic, no base64":    {"Basic ***", 401, api.Unauthorized},
			"bearer of nothing":   {"Bearer ", 401, api.Unauthorized},
			"bearer, other app":   {"Bearer " + other, 200, ""},
			"half a key":          {"Bearer " + h.key[:40], 401, api.Unauthorized},
			"other scheme":        {"Digest " + h.key, 401, api.Unauthorized},
			"no scheme":           {h.key, 401, api.Unauthorized},
			"too long":            {"Bearer " + strings.Repeat("x", 8<<10), 431, api.HeaderTooLarge},
			"admin, app as user":  {basic(h.app, h.admin), 200, ""},
			"admin without app":   {"Bearer " + h.admin, 400, api.InvalidArgument},
			"admin, unknown app":  {basic("nobody", h.admin), 404, api.AppNotFound},
		} {
			r := h.do("", "GET", path, nil, "Authorization", c.header)
			r.call = name
			if c.kind == "" {
				r.want(c.status)
			} else {
				r.wantError(c.status, c.kind)
			}
			if r.Status == 401 && r.Header.Get("WWW-Authenticate") == "" {
				t.Errorf("%s: 401 without WWW-Authenticate", name)
			}
			if strings.Contains(string(r.Raw), h.key) || strings.Contains(string(r.Raw), h.admin) {
				t.Errorf("%s: the answer shows the key", name)
			}
		}
	})
}

// TestNamingTheApp: a cluster admin key names the app in one of several places,
// which may not contradict each other.
func TestNamingTheApp(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		other := h.newApp("other", nil)
		h.login("u1")
		total := func(r *reply) any { return r.want(200).JSON["total"] }
		if got := total(h.do(h.admin, "GET", "/v1/sessions", nil, "X-Revocast-App", h.app)); got != 1.0 {
			t.Errorf("header: %v sessions, want 1", got)
		}
		if got := total(h.do(h.admin, "GET", "/v1/sessions?app=other", nil)); got != 0.0 {
			t.Errorf("query: %v sessions, want 0", got)
		}
		h.do(h.admin, "GET", "/v1/sessions?app=other", nil, "X-Revocast-App", h.app).wantError(400, api.InvalidArgument)
		h.do(h.admin, "GET", "/v1/apps/other/keys?app="+h.app, nil).wantError(400, api.InvalidArgument)
		// To an app's own key, other apps do not exist.
		h.do(h.key, "GET", "/v1/sessions", nil, "X-Revocast-App", h.app).want(200)
		mine := h.do(other, "GET", "/v1/sessions", nil, "X-Revocast-App", h.app).wantError(404, api.AppNotFound)
		none := h.do(other, "GET", "/v1/sessions", nil, "X-Revocast-App", "acm3").wantError(404, api.AppNotFound)
		if a, b := mine.str("error_message"), none.str("error_message"); strings.Replace(a, h.app, "acm3", 1) != b {
			t.Errorf("an app that exists and one that does not differ: %q, %q", a, b)
		}
	})
}

func TestTwoAuthorizations(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		r, err := http.NewRequestWithContext(t.Context(), "GET", "/v1/apps", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header["Authorization"] = []string{"Bearer " + h.admin, "Bearer " + h.admin}
		h.send(r).wantError(401, api.Unauthorized)
	})
}

// TestIsolation: with a key of app A, each object of app B is as if it did not
// exist.
func TestIsolation(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		h.newApp("other", nil)
		kid := h.do(h.admin, "GET", "/v1/apps/other/keys", nil).want(200).JSON["keys"].([]any)[0].(map[string]any)["kid"].(string)
		keyID := h.do(h.admin, "GET", "/v1/apps/other/api-keys", nil).want(200).JSON["keys"].([]any)[0].(map[string]any)["id"].(string)
		h.do(h.admin, "PUT", "/v1/apps/other/templates/t1", `{}`).want(200)
		for _, c := range []struct{ method, path, none string }{
			{"GET", "/v1/apps/other", "/v1/apps/oth3r"},
			{"PATCH", "/v1/apps/other", "/v1/apps/oth3r"},
			{"GET", "/v1/apps/other/keys", "/v1/apps/oth3r/keys"},
			{"POST", "/v1/apps/other/keys/rotate", "/v1/apps/oth3r/keys/rotate"},
			{"GET", "/v1/apps/other/api-keys", "/v1/apps/oth3r/api-keys"},
			{"POST", "/v1/apps/other/api-keys", "/v1/apps/oth3r/api-keys"},
			{"DELETE", "/v1/apps/other/api-keys/" + keyID, "/v1/apps/oth3r/api-keys/" + keyID},
			{"DELETE", "/v1/apps/acme/api-keys/" + keyID, "/v1/apps/acme/api-keys/key_none"},
			{"GET", "/v1/apps/other/templates", "/v1/apps/oth3r/templates"},
			{"GET", "/v1/apps/other/templates/t1", "/v1/apps/oth3r/templates/t1"},
			{"PUT", "/v1/apps/other/templates/t1", "/v1/apps/oth3r/templates/t1"},
			{"DELETE", "/v1/apps/other/templates/t1", "/v1/apps/oth3r/templates/t1"},
			{"GET", "/v1/apps/acme/templates/t1", "/v1/apps/acme/templates/t2"},
		} {
			there, none := h.do(h.key, c.method, c.path, nil), h.do(h.key, c.method, c.none, nil)
			if there.Status != 404 || there.Status != none.Status || there.str("error_type") != none.str("error_type") {
				t.Errorf("%s %s: %d %s; one that does not exist: %d %s", c.method, c.path,
					there.Status, there.str("error_type"), none.Status, none.str("error_type"))
			}
		}
		r := h.do(h.key, "POST", "/v1/apps/acme/keys/rotate", map[string]any{"compromised": kid})
		r.wantError(404, api.NotFound)
		if state := h.do(h.admin, "GET", "/v1/apps/other/keys", nil).JSON["keys"].([]any)[0].(map[string]any)["state"]; state != "active" {
			t.Errorf("key of the other app is %v", state)
		}
	})
}

// TestFencedKeys: without a lease on CONFIG known keys go on, and one that is
// not known is no reason to sign anybody out.
func TestFencedKeys(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		h.config.Cut()
		time.Sleep(node.DefaultLease + time.Second)
		h.do(h.key, "GET", "/v1/sessions?user_id=u", nil).want(200)
		h.do("sk_unknown", "GET", "/v1/sessions?user_id=u", nil).wantError(503, api.NodeStale)
		for _, c := range []struct{ method, path, body string }{
			{"POST", "/v1/apps", `{"app_id":"new"}`},
			{"GET", "/v1/apps", ""},
			{"GET", "/v1/apps/acme", ""},
			{"PATCH", "/v1/apps/acme", `{"jwt_ttl_seconds":60}`},
			{"DELETE", "/v1/apps/acme", ""},
			{"POST", "/v1/apps/acme/suspend", ""},
			{"POST", "/v1/apps/acme/resume", ""},
			{"GET", "/v1/apps/acme/keys", ""},
			{"POST", "/v1/apps/acme/keys/rotate", ""},
			{"POST", "/v1/apps/acme/api-keys", ""},
			{"GET", "/v1/apps/acme/api-keys", ""},
			{"DELETE", "/v1/apps/acme/api-keys/key_x", ""},
			{"POST", "/v1/admin-keys", ""},
			{"PUT", "/v1/apps/acme/templates/t", `{}`},
			{"GET", "/v1/apps/acme/templates/t", ""},
			{"GET", "/v1/apps/acme/templates", ""},
			{"DELETE", "/v1/apps/acme/templates/t", ""},
		} {
			r := h.do(h.admin, c.method, c.path, c.body).wantError(503, api.NodeStale)
			if r.Header.Get("Retry-After") == "" || r.at("error_details.reason") != "silent" {
				t.Errorf("%s %s: Retry-After %q, details %v", c.method, c.path, r.Header.Get("Retry-After"), r.at("error_details"))
			}
		}
		h.config.Heal()
		time.Sleep(2 * node.DefaultBeat)
		h.do(h.admin, "GET", "/v1/apps", nil).want(200)
	})
}

func TestSuspendedApp(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		s := h.login("u1")
		token, jwt, sid := s.str("session_token"), s.str("session_jwt"), s.str("session.session_id")
		h.do(token, "GET", "/v1/verify", nil).want(204)
		all := h.apiKey(h.app, api.ScopeCreate, api.ScopeVerify, api.ScopeAdmin, api.ScopeImpersonate)
		suspended := h.do(h.admin, "POST", "/v1/apps/acme/suspend", nil).want(200)
		if got := suspended.str("app.state"); got != events.AppSuspended {
			t.Errorf("state %q", got)
		}
		h.do(h.admin, "POST", "/v1/apps/acme/suspend", `{}`).want(200)
		for _, rt := range h.node.RouteTable() {
			if rt.Scope == "" || rt.Scope == api.ScopeCluster || rt.OAuth {
				continue
			}
			method, path := h.concrete(rt.Pattern)
			if rt.Scope == api.ScopeRead || rt.Scope == api.ScopeRevoke {
				continue // one can still look and log people out
			}
			h.do(all, method, path, nil).wantRefusal(403, api.AppSuspended)
		}
		h.do(h.key, "GET", "/v1/sessions/"+sid, nil).want(200)
		h.do(h.key, "POST", "/v1/sessions/revoke", `{"user_id":"somebody else"}`).want(200)
		as := []string{"X-Revocast-App", h.app}
		h.do(token, "GET", "/v1/verify", nil).want(403)
		h.do(jwt, "GET", "/v1/verify", nil).want(403)
		h.do(h.admin, "POST", "/v1/sessions", `{"user_id":"u"}`, as...).wantError(403, api.AppSuspended)
		h.do(h.admin, "POST", "/v1/sessions/authenticate", map[string]any{"session_token": token}, as...).wantError(403, api.AppSuspended)
		h.do(h.admin, "POST", "/v1/sessions/"+sid+"/tokens", nil, as...).wantError(403, api.AppSuspended)
		// Security staff can still look and act.
		h.do(h.admin, "GET", "/v1/sessions/"+sid, nil, as...).want(200)
		h.do("", "GET", "/v1/apps/acme/jwks", nil).want(200)
		h.do(h.admin, "POST", "/v1/apps/acme/resume", nil).want(200)
		h.do(token, "GET", "/v1/verify", nil).want(204)
		h.do(h.key, "GET", "/v1/sessions/"+sid, nil).want(200)
	})
}

func TestDeletedApp(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		key := h.newApp("gone", nil)
		s := h.do(key, "POST", "/v1/sessions", `{"user_id":"u1"}`).want(201)
		token, jwt := s.str("session_token"), s.str("session_jwt")
		kept := h.login("u1").str("session_token")
		r := h.do(h.admin, "DELETE", "/v1/apps/gone", nil).want(200)
		if r.str("app.state") != events.AppDeleted || !strings.Contains(r.str("revision"), ",eu:") {
			t.Errorf("answer %s", r.Raw)
		}
		for _, credential := range []string{token, jwt} {
			if r := h.do(credential, "GET", "/v1/verify", nil); r.Status != 401 && r.Status != 403 {
				t.Errorf("verify: %d", r.Status)
			}
		}
		h.do(kept, "GET", "/v1/verify", nil).want(204)
		h.do(key, "GET", "/v1/sessions", nil).wantError(401, api.Unauthorized)
		for _, path := range []string{"/v1/apps/gone/jwks", "/v1/sessions/jwks/gone", "/v1/apps/gone/.well-known/openid-configuration"} {
			h.do("", "GET", path, nil).wantError(404, api.AppNotFound)
		}
		h.do(h.admin, "GET", "/v1/apps/gone", nil).wantError(404, api.AppNotFound)
		h.do(h.admin, "PATCH", "/v1/apps/gone", `{"jwt_ttl_seconds":60}`).wantError(404, api.AppNotFound)
		h.do(h.admin, "POST", "/v1/apps/gone/resume", nil).wantError(404, api.AppNotFound)
		h.do(h.admin, "DELETE", "/v1/apps/gone", nil).wantError(404, api.AppNotFound)
		h.do(h.admin, "GET", "/v1/sessions", nil, "X-Revocast-App", "gone").wantError(404, api.AppNotFound)
		h.do(h.admin, "POST", "/v1/apps", `{"app_id":"gone"}`).wantError(409, api.AlreadyExists)

		// Who follows only the home stream hears of it.
		found := false
		err := h.home.History(t.Context(), []string{"ev.eu.gone.-.-.all"}, func(a events.Archived) bool {
			e, ok := h.keys.Decode(2, a.Entry).Event.(*events.RevokeAll)
			found = ok && e.App == "gone" && e.User == "" && e.Reason == "app_deleted"
			return true
		})
		if err != nil || !found {
			t.Errorf("no event that revokes the app's sessions: %v", err)
		}
	})
}
