package node_test

import (
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/revocast/revocast/node"
	"github.com/revocast/revocast/node/api"
)

func TestUnknownRoutes(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		for _, c := range []string{
			"GET /", "GET /v1", "GET /v1/", "POST /v2/sessions", "GET /v1/sessions/", "GET /v1/sessions/a/b",
			"GET /v1/sessions/a/events/x", "GET /v1/apps/acme/", "POST /v1/apps/acme/nothing", "GET /v1/verifyx",
			"GET //v1/apps", "GET /v1//apps", "GET /v1/./apps", "GET /v1/x/../apps", "POST /v1/sessions/../sessions", "GET /favicon.ico",
			"BREW /coffee",
		} {
			method, path, _ := strings.Cut(c, " ")
			r := h.do(h.admin, method, path, nil).wantError(404, api.NotFound)
			if r.Header.Get("Location") != "" {
				t.Errorf("%s: is sent elsewhere", c)
			}
		}
	})
}

func TestWrongMethods(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		for call, allow := range map[string]string{
			"PUT /v1/sessions":                 "GET, HEAD, POST",
			"POST /v1/apps/acme":               "DELETE, GET, HEAD, PATCH",
			"POST /v1/apps/acme/jwks":          "GET, HEAD, OPTIONS",
			"DELETE /v1/apps/acme/keys/rotate": "POST",
			"PATCH /v1/apps/acme/templates/t1": "DELETE, GET, HEAD, PUT",
			"POST /healthz":                    "GET, HEAD",
			"BREW /v1/verify":                  "GET, HEAD, POST",
			"OPTIONS /v1/apps":                 "GET, HEAD, POST",
			"GET /v1/apps/acme/suspend":        "POST",
			"POST /.well-known/jwks.json":      "GET, HEAD, OPTIONS",
			"POST /v1/sessions/jwks/acme":      "GET, HEAD, OPTIONS",
			"BREW /v1/apps":                    "GET, HEAD, POST",
		} {
			method, path, _ := strings.Cut(call, " ")
			r := h.do(h.admin, method, path, nil).wantError(405, api.MethodNotAllowed)
			if got := r.Header.Get("Allow"); got != allow {
				t.Errorf("%s: Allow %q, want %q", call, got, allow)
			}
		}
	})
}

// TestEveryAnswer: whatever the answer of a JSON route, it has the same frame.
func TestEveryAnswer(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		ids := map[string]bool{}
		for _, rt := range h.node.RouteTable() {
			if rt.Raw {
				continue
			}
			method, path := h.concrete(rt.Pattern)
			for _, key := range []string{h.admin, ""} {
				r := h.do(key, method, path, nil, "X-Revocast-App", h.app)
				id := r.Header.Get("X-Request-Id")
				if !strings.HasPrefix(id, "request-id-") || ids[id] {
					t.Errorf("%s: request id %q", rt.Pattern, id)
				}
				ids[id] = true
				if ct := r.Header.Get("Content-Type"); ct != "application/json" {
					t.Errorf("%s: Content-Type %q", rt.Pattern, ct)
				}
				if r.Header.Get("X-Content-Type-Options") != "nosniff" || r.Header.Get("Cache-Control") == "" {
					t.Errorf("%s: headers %v", rt.Pattern, r.Header)
				}
				public := strings.Contains(path, "jwks") || strings.Contains(path, "well-known") || strings.Contains(path, "/status/")
				if cors := r.Header.Get("Access-Control-Allow-Origin"); (cors == "*") != public {
					t.Errorf("%s: Access-Control-Allow-Origin %q", rt.Pattern, cors)
				}
				if strings.HasPrefix(path, "/ssf/") && r.Status < 300 {
					continue // as Shared Signals has it: an array, or nothing
				}
				if r.JSON == nil {
					t.Errorf("%s: body %q", rt.Pattern, r.Raw)
				} else if strings.HasPrefix(path, "/clerk/") {
					if r.JSON["clerk_trace_id"] != id && r.JSON["keys"] == nil {
						t.Errorf("%s: frame of %s", rt.Pattern, r.Raw)
					}
				} else if !public && !rt.OAuth && (r.JSON["request_id"] != id || r.JSON["status_code"] != float64(r.Status)) {
					t.Errorf("%s: frame of %s", rt.Pattern, r.Raw)
				}
			}
			if rt.Pattern == "DELETE /v1/apps/{app}" {
				h.app = "acme2"
				h.key = h.newApp(h.app, nil)
			}
		}
	})
}

// TestUnknownParameters: no route of the native API passes over what its query says.
func TestUnknownParameters(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		routes := []string{"POST /v1/sessions/import", "GET /v1/events", "GET /v1/sessions/{sid}/events"}
		for _, rt := range h.node.RouteTable() {
			if !rt.Open && !rt.Raw {
				routes = append(routes, rt.Pattern)
			}
		}
		if len(routes) < 60 {
			t.Fatalf("only %d routes judge their query", len(routes))
		}
		for _, pattern := range routes {
			method, path := h.concrete(pattern)
			for query, why := range map[string]string{"wiat=all": `unknown parameter "wiat"`, "dry_run": `unknown parameter "dry_run"`, "a=%zz": "cannot be read"} {
				r := h.do(h.admin, method, path+"?"+query, nil, "X-Revocast-App", h.app).wantError(400, api.InvalidArgument)
				if got := r.str("error_message"); !strings.Contains(got, why) {
					t.Errorf("%s?%s: %s", pattern, query, got)
				}
			}
		}
		h.do(h.admin, "DELETE", "/v1/admin-keys/k?wait=none&wait=all", nil).wantError(400, api.InvalidArgument)
	})
}

func TestErrorURL(t *testing.T) {
	h := unstarted(t)
	r := h.do("", "GET", "/nothing", nil).wantError(404, api.NotFound)
	if got, want := r.str("error_url"), publicURL+"/docs/errors#not_found"; got != want {
		t.Errorf("error_url %q, want %q", got, want)
	}
	r = h.do("", "GET", "/v1/apps", nil).wantError(401, api.Unauthorized)
	if _, ok := r.JSON["error_details"]; ok {
		t.Errorf("empty details: %s", r.Raw)
	}
}

func TestLongHeaders(t *testing.T) {
	h := unstarted(t)
	long := strings.Repeat("x", 8<<10+1)
	h.do("", "GET", "/healthz", nil, "Cookie", long).wantError(431, api.HeaderTooLarge)
	h.do("", "GET", "/nothing", nil, "Authorization", long).wantError(431, api.HeaderTooLarge)
}

func TestHEAD(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		h.do("", "HEAD", "/healthz", nil).want(200)
		h.do("", "HEAD", "/v1/apps/acme/jwks", nil).want(200)
		h.do(h.login("u").str("session_token"), "HEAD", "/v1/verify", nil).want(204)
	})
}

// TestOriginalPath: a proxy may put any path behind /v1/verify/.
func TestOriginalPath(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		token := h.login("u").str("session_token")
		for _, path := range []string{"/", "/a/../b", "//x", "/a//b/./c", "/%2e%2e/", "/v1/apps"} {
			h.do(token, "GET", "/v1/verify"+path, nil).want(204)
			h.do("", "GET", "/v1/verify"+path, nil).want(401)
		}
	})
}

func TestHealth(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		if r := h.do("", "GET", "/healthz", nil).want(200); r.str("status") != "ok" {
			t.Errorf("%s", r.Raw)
		}
		h.login("u")
		r := h.do("", "GET", "/readyz", nil).want(200)
		for field, want := range map[string]any{
			"ready": true, "node": "n1", "region": "eu", "version": "test", "durability": "fsync", "sessions": 1.0, "tombstones": 0.0,
		} {
			if got := r.at(field); got != want {
				t.Errorf("%s: %v, want %v", field, got, want)
			}
		}
		for i, want := range []string{"_config", "eu"} {
			s := r.JSON["streams"].([]any)[i].(map[string]any)
			if s["stream"] != want || s["fresh"] != true || s["lease_ms"].(float64) <= 0 || s["fenced"] != nil || s["position"] == "" {
				t.Errorf("stream %d: %v", i, s)
			}
		}
		h.home.Cut()
		time.Sleep(node.DefaultLease + time.Second)
		r = h.do("", "GET", "/readyz", nil).want(503)
		s := r.JSON["streams"].([]any)[1].(map[string]any)
		if r.at("ready") != false || s["fresh"] != false || s["fenced"] != "silent" || s["staleness_ms"].(float64) < 15_000 || r.Header.Get("Retry-After") == "" {
			t.Errorf("%s", r.Raw)
		}
		h.do("", "GET", "/healthz", nil).want(200)
		h.home.Heal()
		time.Sleep(2 * node.DefaultBeat)
		h.do("", "GET", "/readyz", nil).want(200)
	})
}

func TestNotReadyBeforeRun(t *testing.T) {
	h := unstarted(t)
	r := h.do("", "GET", "/readyz", nil).want(503)
	for _, s := range r.JSON["streams"].([]any) {
		s := s.(map[string]any)
		if s["fenced"] != "starting" || s["staleness_ms"] != -1.0 {
			t.Errorf("%v", s)
		}
	}
	h.do("sk_x", "GET", "/v1/apps", nil).wantError(503, api.NodeStale)
}

// FuzzRoutes: no path and method makes the node panic or redirect.
func FuzzRoutes(f *testing.F) {
	for _, call := range []string{"GET /v1/apps/a/jwks", "POST /v1/sessions", "GET /v1/sessions/a/events", "PUT /v1/apps/a/templates/b", "GET /v1/verify/x/../y"} {
		method, path, _ := strings.Cut(call, " ")
		f.Add(method, path)
	}
	var h *harness
	f.Fuzz(func(t *testing.T, method, path string) {
		if h == nil {
			h = unstarted(t)
		}
		r := httptest.NewRequest("GET", "/", nil)
		r.Method, r.URL.Path = method, "/"+strings.TrimPrefix(path, "/")
		w := httptest.NewRecorder()
		h.handler.ServeHTTP(w, r)
		if w.Code >= 300 && w.Code < 400 || w.Code == 500 {
			t.Errorf("%s %q: %d", method, path, w.Code)
		}
	})
}
