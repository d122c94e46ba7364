package node_test

import (
	"maps"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/revocast/revocast/node"
	"github.com/revocast/revocast/node/api"
)

// vendorApp is an app with a vendor's API, and an API key of it.
type vendorApp struct {
	h       *harness
	id, key string
}

// newVendorApp makes an app in the profile. Where nothing depends on RSA, ES256
// saves making such a key.
func (h *harness) newVendorApp(profile string, settings m) vendorApp {
	h.t.Helper()
	all := m{"jwt_profile": profile}
	maps.Copy(all, settings)
	id := profile
	if h.do(h.admin, "GET", "/v1/apps/"+id, nil).Status == 200 {
		id += "-2"
	}
	return vendorApp{h, id, h.newApp(id, all)}
}

func (a vendorApp) do(method, path string, body any, headers ...string) *reply {
	a.h.t.Helper()
	return a.h.do(a.key, method, path, body, headers...)
}

func (a vendorApp) login(more m) *reply {
	a.h.t.Helper()
	body := m{"user_id": "ada"}
	maps.Copy(body, more)
	return a.do("POST", "/v1/sessions", body).want(201)
}

// TestFacadeSettings: which apps have which facade, and what a vendor's profile
// brings along.
func TestFacadeSettings(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		r := h.do(h.key, "GET", "/clerk/v1/sessions?user_id=u", nil).wantClerk(403, api.FacadeOff)
		if !strings.Contains(string(r.Raw), "PATCH /v1/apps/acme") {
			t.Errorf("does not say how: %s", r.Raw)
		}
		r = h.do(h.key, "GET", "/v1/auth/sessions/list?user_id=u", nil).wantError(403, api.FacadeOff)
		if !strings.Contains(r.str("error_message"), "PATCH /v1/apps/acme") {
			t.Errorf("does not say how: %s", r.Raw)
		}
		h.do(h.admin, "GET", "/v1/auth/sessions/list?user_id=u&app=acme", nil).wantError(403, api.FacadeOff)
		h.do("", "GET", "/clerk/v1/jwks", nil).wantClerk(403, api.FacadeOff)
		both := []string{"streambird", "clerk"}
		r = h.do(h.key, "PATCH", "/v1/apps/acme", m{"compat": both}).want(200)
		if diff := cmp.Diff([]any{"streambird", "clerk"}, r.at("app.compat")); diff != "" {
			t.Error(diff)
		}
		h.do(h.key, "GET", "/clerk/v1/sessions?user_id=u", nil).want(200)
		h.do(h.key, "GET", "/v1/auth/sessions/list?user_id=u", nil).want(200)
		h.do(h.admin, "GET", "/v1/auth/sessions/list?user_id=u&app=acme", nil).want(200)
		h.do(h.admin, "GET", "/clerk/v1/sessions?user_id=u", nil, "X-Revocast-App", "acme").want(200)
		h.do(h.key, "PATCH", "/v1/apps/acme", m{"compat": both}).want(200) // changes nothing
		h.do(h.key, "PATCH", "/v1/apps/acme", m{"compat": []string{}}).want(200)
		h.do(h.key, "GET", "/clerk/v1/sessions?user_id=u", nil).wantClerk(403, api.FacadeOff)
		for _, bad := range []any{[]string{"stytch"}, []string{"clerk", "clerk"}, "clerk", []string{""}, []int{1}} {
			h.do(h.key, "PATCH", "/v1/apps/acme", m{"compat": bad}).wantError(400, api.InvalidArgument)
		}

		for profile, want := range map[string]m{
			"streambird": {"jwt_alg": "RS256", "jwt_ttl_seconds": 300.0, "return_token": true, "compat": []any{"streambird"}, "issuer": publicURL},
			"clerk":      {"jwt_alg": "RS256", "jwt_ttl_seconds": 60.0, "return_token": false, "compat": []any{"clerk"}, "issuer": publicURL},
		} {
			r := h.do(h.admin, "POST", "/v1/apps", m{"app_id": profile, "jwt_profile": profile}).want(201)
			for field, want := range want {
				if diff := cmp.Diff(want, r.at("app."+field)); diff != "" {
					t.Errorf("%s: %s: %s", profile, field, diff)
				}
			}
			// With the facade of its own profile turned off it stays off.
			key := r.str("api_key")
			h.do(key, "PATCH", "/v1/apps/"+profile, m{"compat": []string{}}).want(200)
			h.do(key, "GET", "/clerk/v1/sessions?user_id=u", nil).wantClerk(403, api.FacadeOff)
			h.do(key, "GET", "/v1/auth/sessions/list?user_id=u", nil).wantError(403, api.FacadeOff)
		}
		h.do(h.admin, "POST", "/v1/apps", m{"app_id": "a", "jwt_profile": "streambird", "jwt_alg": "EdDSA"}).want(201)
		for _, alg := range []string{"ES256", "EdDSA"} {
			r := h.do(h.admin, "POST", "/v1/apps", m{"app_id": "b", "jwt_profile": "clerk", "jwt_alg": alg}).wantError(400, api.InvalidArgument)
			if r.str("error_details.field") != "jwt_alg" {
				t.Errorf("%s", r.Raw)
			}
		}
		h.do(h.admin, "PATCH", "/v1/apps/clerk", m{"jwt_alg": "ES256"}).wantError(400, api.InvalidArgument)
	})
}

// TestClerkLater: an app that signs with another algorithm takes the clerk profile
// only once its RS256 key signs, so Clerk's libraries never see a JWT that they
// would refuse.
func TestClerkLater(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		const app, template = "/v1/apps/acme", "/v1/apps/acme/templates/t"
		for range 2 {
			h.do(h.key, "PATCH", app, m{"jwt_profile": "clerk"}).wantError(400, api.InvalidArgument)
			h.do(h.key, "PUT", template, m{"jwt_profile": "clerk"}).wantError(400, api.InvalidArgument)
			h.do(h.key, "PATCH", app, m{"jwt_alg": "RS256"}).want(200)
		}
		r := h.do(h.key, "PATCH", app, m{"jwt_profile": "clerk"}).wantError(400, api.InvalidArgument)
		if when := time.Now().Add(time.Hour).UTC().Format("2006-01-02T15:04"); !strings.Contains(r.str("error_message"), when) {
			t.Errorf("does not say when: %s", r.Raw)
		}
		time.Sleep(time.Hour + time.Minute)
		h.do(h.key, "PUT", template, m{"jwt_profile": "clerk"}).want(200)
		r = h.do(h.key, "PATCH", app, m{"jwt_alg": "ES256"}).wantError(400, api.InvalidArgument)
		if !strings.Contains(r.str("error_message"), "template t") {
			t.Errorf("does not say why: %s", r.Raw)
		}
		h.do(h.key, "PATCH", app, m{"jwt_profile": "clerk"}).want(200)
		s := h.login("u")
		if head := jwtPart(t, s.str("session_jwt"), 0); head["alg"] != "RS256" || jwtPart(t, s.str("session_jwt"), 1)["v"] != 2.0 {
			t.Errorf("header %v", head)
		}
		// JWTs of any profile go on authenticating.
		h.do(h.key, "PATCH", app, m{"jwt_profile": "streambird"}).want(200)
		h.do(h.key, "POST", "/v1/sessions/authenticate", m{"session_jwt": s.str("session_jwt")}).want(200)
		h.do(s.str("session_jwt"), "GET", "/v1/verify", nil).want(204)
	})
}

// TestFacadeStale: a node that is merely behind says 503, never "not found", in
// each vendor's shape.
func TestFacadeStale(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		a := h.newVendorApp("streambird", m{"jwt_alg": "ES256", "compat": []string{"streambird", "clerk"}})
		s := a.login(nil)
		h.home.Cut()
		time.Sleep(node.DefaultLease + time.Second)
		sid := s.str("session.session_id")
		for call, body := range map[string]any{
			"POST /v1/auth/sessions/verify":                  m{"session_token": s.str("session_token")},
			"DELETE /v1/auth/sessions/delete":                m{"session_token": s.str("session_token")},
			"GET /v1/auth/sessions/list?user_id=ada":         nil,
			"GET /clerk/v1/sessions/" + sid:                  nil,
			"GET /clerk/v1/sessions/nonsense":                nil,
			"GET /clerk/v1/sessions?user_id=ada":             nil,
			"GET /clerk/v1/sessions?client_id=client_" + sid: nil,
			"POST /clerk/v1/sessions":                        m{"user_id": "ada"},
			"POST /clerk/v1/sessions/" + sid + "/tokens":     nil,
			"POST /clerk/v1/sessions/" + sid + "/verify":     m{"token": s.str("session_jwt")},
			"POST /clerk/v1/sessions/" + sid + "/refresh":    m{"expired_token": s.str("session_jwt"), "refresh_token": s.str("session_token")},
		} {
			method, path, _ := strings.Cut(call, " ")
			r := a.do(method, path, body).want(http.StatusServiceUnavailable)
			kind := r.str("error_type")
			if strings.HasPrefix(path, "/clerk/") {
				kind = r.JSON["errors"].([]any)[0].(map[string]any)["code"].(string)
			}
			if kind != api.NodeStale && kind != api.ConsistencyTimeout || r.Header.Get("Retry-After") == "" {
				t.Errorf("%s: %s %v", call, r.Raw, r.Header)
			}
		}
		a.do("GET", "/clerk/v1/jwks", nil).want(200)
		h.home.Heal()
	})
}

// TestFacadeCosts: a call to a facade starts nothing and has one request id,
// whatever it asks natively.
func TestFacadeCosts(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		a := h.newVendorApp("clerk", m{"compat": []string{"clerk", "streambird"}})
		path, _ := a.clerkSession("ada")
		token := a.login(nil).str("session_token")
		synctest.Wait()
		before, ids := runtime.NumGoroutine(), map[string]bool{}
		for range 50 {
			for _, r := range []*reply{
				a.do("GET", path, nil), a.do("POST", path+"/tokens", nil), a.do("POST", path+"/revoke", nil),
				a.do("GET", "/clerk/v1/sessions?user_id=ada&paginated=true", nil), a.verify(m{"session_token": token}), a.verify(m{}),
			} {
				id := r.Header.Get("X-Request-Id")
				if len(r.Header.Values("X-Request-Id")) != 1 || ids[id] || !strings.HasPrefix(id, "request-id-") {
					t.Fatalf("%s: request ids %v", r.call, r.Header.Values("X-Request-Id"))
				}
				ids[id] = true
			}
		}
		synctest.Wait()
		if after := runtime.NumGoroutine(); after > before {
			t.Errorf("%d goroutines, then %d", before, after)
		}
		var fenced *reply
		h.home.Cut()
		time.Sleep(node.DefaultLease + time.Second)
		if fenced = a.do("GET", path, nil); fenced.str("clerk_trace_id") != fenced.Header.Get("X-Request-Id") {
			t.Errorf("%s", fenced.Raw)
		}
		h.home.Heal()
	})
}

// TestFacadePanics: a panic below a vendor's prefix is answered in its shape.
func TestFacadePanics(t *testing.T) {
	h := unstarted(t)
	h.handler = h.node.PanicHandler()
	h.do("", "GET", "/clerk/v1/sessions", nil).wantClerk(500, "internal_clerk_error")
	h.do("", "GET", "/v1/auth/sessions/list", nil).wantError(500, api.Internal)
}
