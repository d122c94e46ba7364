package node_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/revocast/revocast/node/api"
)

func text(t testing.TB, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func check(resource, action string) map[string]any {
	return map[string]any{"resource_id": resource, "action": action}
}

// TestAuthorizationCheck: a check is never passed over.
func TestAuthorizationCheck(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		ada := h.login("ada")
		ask := func(c any) *reply {
			return h.do(h.key, "POST", "/v1/sessions/authenticate", map[string]any{
				"session_token": ada.str("session_token"), "authorization_check": c,
				"session_duration_minutes": 527_000, "session_custom_claims": map[string]any{"seen": true},
			})
		}
		// Without a policy nothing is permitted, and what is refused changes nothing.
		ask(check("images", "read")).wantError(403, api.NotAuthorized)
		h.do(h.key, "PUT", "/v1/rbac/policy", policy(nil)).want(200)
		ask(check("documents", "read")).wantError(403, api.NotAuthorized)
		r := h.do(h.key, "GET", "/v1/sessions/"+ada.str("session.session_id"), nil).want(200)
		if r.str("session.expires_at") != ada.str("session.expires_at") || fmt.Sprint(r.at("session.custom_claims")) != "map[]" {
			t.Errorf("a refused check changed the session: %s", r.Raw)
		}
		r = ask(check("images", "read")).want(200)
		if got := text(t, r.at("verdict")); got != `{"authorized":true,"granting_roles":["stytch_user"]}` {
			t.Errorf("verdict %s", got)
		}
		if got := text(t, r.at("session.roles")); got != `["stytch_user"]` {
			t.Errorf("roles %s", got)
		}
		if r := h.do(h.key, "POST", "/v1/sessions/authenticate", map[string]any{"session_token": ada.str("session_token")}).want(200); r.at("verdict") != nil {
			t.Errorf("a verdict on nothing: %s", r.Raw)
		}
		for _, bad := range []any{
			map[string]any{}, check("", "read"), check("images", ""), check("images", strings.Repeat("x", 129)), check("images\n", "read"),
			"images", []any{}, true, map[string]any{"resource_id": "images", "action": "read", "organization_id": "o"},
			map[string]any{"resource_id": "images", "action": []string{"read"}},
		} {
			ask(bad).wantError(400, api.InvalidArgument)
		}
		// A session that has ended is not found, whatever it may do.
		h.do(h.key, "POST", "/v1/sessions/revoke", map[string]any{"session_token": ada.str("session_token")}).want(200)
		ask(check("images", "read")).wantError(404, api.SessionNotFound)

		// Another app has another policy.
		other := h.newApp("other", nil)
		s := h.do(other, "POST", "/v1/sessions", map[string]any{"user_id": "ada"}).want(201)
		h.do(other, "POST", "/v1/sessions/authenticate", map[string]any{"session_token": s.str("session_token"), "authorization_check": check("images", "read")}).
			wantError(403, api.NotAuthorized)
	})
}

// TestPolicyOfNow: a change of the policy is in the next JWT, however young the
// last one is.
func TestPolicyOfNow(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		key := h.newApp("st", map[string]any{"jwt_profile": "stytch"})
		s := h.do(key, "POST", "/v1/sessions", map[string]any{"user_id": "ada"}).want(201)
		roles := func() string {
			r := h.do(key, "POST", "/v1/sessions/authenticate", map[string]any{"session_token": s.str("session_token")}).want(200)
			var claims map[string]map[string]any
			_ = json.Unmarshal([]byte(claimsOf(t, r.str("session_jwt"))), &claims) // others are of other types
			return text(t, claims["https://stytch.com/session"]["roles"]) + text(t, r.at("session.roles"))
		}
		for _, c := range []struct {
			policy any
			want   string
		}{
			{nil, `[][]`}, {policy(nil), `["stytch_user"]["stytch_user"]`}, {policy(map[string]any{"roles": []any{}}), `[][]`},
			{map[string]any{"policy": policy(nil)}, `["stytch_user"]["stytch_user"]`},
		} {
			if c.policy != nil {
				h.do(key, "PUT", "/v1/rbac/policy", c.policy).want(200)
			}
			if got := roles(); got != c.want {
				t.Errorf("roles in JWT and answer %s, want %s", got, c.want)
			}
		}
	})
}

func TestPolicy(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		const path = "/v1/rbac/policy"
		if got := text(t, h.do(h.key, "GET", path, nil).want(200).at("policy")); got != `{"resources":[],"roles":[],"scopes":[]}` {
			t.Errorf("no policy is %s", got)
		}
		h.do(h.key, "PUT", path, policy(nil)).want(200)
		r := h.do("", "GET", path, nil, "Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte("acme:"+h.key))).want(200)
		if diff := cmp.Diff(text(t, policy(nil)), text(t, r.at("policy"))); diff != "" {
			t.Errorf("-put +got\n%s", diff)
		}
		reader := h.apiKey("acme", api.ScopeVerify)
		h.do(reader, "GET", path, nil).want(200)
		h.do(reader, "PUT", path, policy(nil)).wantError(403, api.Forbidden)
		h.do("", "GET", path, nil).wantError(401, api.Unauthorized)

		role := func(id string, permissions ...any) map[string]any {
			return map[string]any{"roles": []any{map[string]any{"role_id": id, "permissions": permissions}}}
		}
		permission := func(resource string, actions ...string) any {
			return map[string]any{"resource_id": resource, "actions": actions}
		}
		resource := func(r ...any) map[string]any {
			return map[string]any{"roles": []any{}, "scopes": []any{}, "resources": r}
		}
		for name, changes := range map[string]map[string]any{
			"unknown resource":        role("r", permission("videos", "read")),
			"unknown action":          role("r", permission("documents", "read", "print")),
			"another's action":        role("r", permission("images", "write")),
			"no action":               role("r", permission("images")),
			"an action twice":         role("r", permission("images", "read", "read")),
			"nameless":                role("", permission("images", "read")),
			"long":                    role(strings.Repeat("r", 129)),
			"control":                 role("a\u0000b"),
			"role twice":              {"roles": []any{map[string]any{"role_id": "r"}, map[string]any{"role_id": "r"}}},
			"scope twice":             {"scopes": []any{map[string]any{"scope": "r"}, map[string]any{"scope": "r"}}},
			"scope without resource":  {"scopes": []any{map[string]any{"scope": "r", "permissions": []any{permission("videos", "read")}}}},
			"resource twice":          resource(map[string]any{"resource_id": "a"}, map[string]any{"resource_id": "a"}),
			"nameless resource":       resource(map[string]any{"actions": []string{"a"}}),
			"resource's action twice": resource(map[string]any{"resource_id": "a", "actions": []string{"a", "a"}}),
			"star as an action":       resource(map[string]any{"resource_id": "a", "actions": []string{"*"}}),
			"empty action":            resource(map[string]any{"resource_id": "a", "actions": []string{""}}),
			"unknown field":           {"groups": []any{}},
			"both forms":              {"policy": policy(nil)},
		} {
			t.Log(name)
			h.do(h.key, "PUT", path, policy(changes)).wantError(400, api.InvalidArgument)
		}
		h.do(h.key, "PUT", path, map[string]any{}).wantError(400, api.InvalidArgument)
		many := []any{}
		for i := range 200 {
			many = append(many, map[string]any{"resource_id": fmt.Sprint(i), "description": strings.Repeat("x", 100)})
		}
		h.do(h.key, "PUT", path, resource(many...)).wantError(413, api.BodyTooLarge)
		if got := h.do(h.key, "GET", path, nil).want(200); text(t, got.at("policy")) != text(t, policy(nil)) {
			t.Errorf("refused, and stored: %s", got.Raw)
		}
	})
}

func TestImpersonationToken(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		const path = "/v1/impersonation/authenticate"
		order := map[string]any{"user_id": "ada", "impersonator_id": "support-7", "impersonator_email_address": "sue@example.com", "reason": "ticket 12"}
		h.do(h.key, "POST", "/v1/impersonation/tokens", order).wantError(403, api.Forbidden)
		able := h.apiKey("acme", api.ScopeImpersonate)
		r := h.do(able, "POST", "/v1/impersonation/tokens", order).want(201)
		token := r.str("impersonation_token")
		if r.at("expires_in") != 300.0 {
			t.Errorf("%s", r.Raw)
		}
		first := h.do(h.key, "POST", path, map[string]any{"impersonation_token": token}).want(200)
		if first.str("user_id") != "ada" || first.str("session.user_id") != "ada" ||
			text(t, first.at("session.actor")) != `{"email":"sue@example.com","reason":"ticket 12","sub":"support-7"}` ||
			!strings.Contains(claimsOf(t, first.str("session_jwt")), `"act":{"email":"sue@example.com","sub":"support-7"}`) {
			t.Errorf("%s", first.Raw)
		}
		f := first.at("session.authentication_factors").([]any)[0].(map[string]any)
		if f["type"] != "impersonated" || f["delivery_method"] != "impersonation" ||
			text(t, f["impersonated_factor"]) != `{"impersonator_email_address":"sue@example.com","impersonator_id":"support-7"}` {
			t.Errorf("factor %v", f)
		}
		h.wantVerify(first.str("session_token"), 204, "-")
		// The same token names the same session, from any key and any node.
		again := h.do(h.apiKey("acme", api.ScopeCreate), "POST", path, map[string]any{"impersonation_token": token}).want(200)
		if again.str("session_token") != first.str("session_token") || again.str("session.session_id") != first.str("session.session_id") {
			t.Errorf("%s", again.Raw)
		}
		if n := h.do(h.key, "GET", "/v1/sessions?user_id=ada", nil).want(200).at("total"); n != 1.0 {
			t.Errorf("%v sessions", n)
		}
		// An hour, and no more.
		h.do(h.key, "POST", "/v1/sessions/authenticate", map[string]any{"session_token": first.str("session_token"), "session_duration_minutes": 600}).want(200)
		time.Sleep(4*time.Minute + 59*time.Second)
		h.do(h.key, "POST", path, map[string]any{"impersonation_token": token}).want(200)
		time.Sleep(time.Second)
		h.do(h.key, "POST", path, map[string]any{"impersonation_token": token}).wantError(401, api.ImpersonationEnded)
		h.wantVerify(first.str("session_token"), 204, "-")
		time.Sleep(55 * time.Minute)
		h.wantVerify(first.str("session_token"), 401, "expired")

		for field, bad := range map[string]any{
			"user_id": "", "impersonator_id": "", "impersonator_email_address": "", "reason": strings.Repeat("x", 257), "minutes": 600,
		} {
			body := map[string]any{"user_id": "ada", "impersonator_id": "s", "impersonator_email_address": "s@example.com", field: bad}
			h.do(able, "POST", "/v1/impersonation/tokens", body).wantError(400, api.InvalidArgument)
		}
	})
}

// TestImpersonationTokenRefused: one token is one session, of one app, and nothing
// else is such a token.
func TestImpersonationTokenRefused(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		const path = "/v1/impersonation/authenticate"
		able := h.apiKey("acme", api.ScopeImpersonate)
		issue := func() string {
			body := map[string]any{"user_id": "ada", "impersonator_id": "s", "impersonator_email_address": "s@example.com"}
			return h.do(able, "POST", "/v1/impersonation/tokens", body).want(201).str("impersonation_token")
		}
		try := func(key, token string) *reply {
			return h.do(key, "POST", path, map[string]any{"impersonation_token": token})
		}
		token, login := issue(), h.login("ada")
		other := h.newApp("other", nil)
		stytch := h.newApp("st", map[string]any{"jwt_profile": "stytch"})
		sjwt := h.do(stytch, "POST", "/v1/sessions", map[string]any{"user_id": "ada"}).want(201).str("session_jwt")
		for _, c := range []struct{ key, token string }{
			{other, token}, {h.key, login.str("session_jwt")}, {h.key, login.str("session_token")}, {stytch, sjwt}, {h.key, token[:len(token)-4]}, {h.key, "x"},
		} {
			try(c.key, c.token).wantError(401, api.ImpersonationEnded)
		}
		h.do(h.key, "POST", path, map[string]any{}).wantError(400, api.InvalidArgument)
		// It is no JWT of a session.
		h.wantVerify(token, 401, "unknown")
		h.do(h.key, "POST", "/v1/sessions/authenticate", map[string]any{"session_jwt": token}).wantError(404, api.SessionNotFound)

		// Revoked, it does not come back.
		s := try(h.key, token).want(200)
		h.do(h.key, "POST", "/v1/sessions/revoke", map[string]any{"session_token": s.str("session_token")}).want(200)
		if r := try(h.key, token).wantError(401, api.ImpersonationEnded); r.str("error_details.reason") != "session_ended" {
			t.Errorf("%s", r.Raw)
		}
		// A log-out everywhere takes what was not used yet as well.
		token = issue()
		h.do(h.key, "POST", "/v1/sessions/revoke", map[string]any{"user_id": "ada"}).want(200)
		try(h.key, token).wantError(409, api.RevokedMeanwhile)
		try(h.key, issue()).want(200)
	})
}
