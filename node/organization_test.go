package node_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/revocast/revocast/node/api"
)

func TestOrganizations(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		c := h.do(h.key, "POST", "/v1/sessions", m{
			"user_id": "ada", "organization_id": "org_1", "organization_slug": "acme-inc", "roles": []string{"admin", "billing"}, "metadata": m{"secret": 1},
		}).want(201)
		path := "/v1/sessions/" + c.str("session.session_id")
		if c.str("session.organization_id") != "org_1" || c.str("session.organization_slug") != "acme-inc" || fmt.Sprint(c.at("session.roles")) != "[admin billing]" {
			t.Errorf("create: %s", c.Raw)
		}
		jwt := claims(t, c.str("session_jwt"))
		if jwt["org_id"] != "org_1" || fmt.Sprint(jwt["roles"]) != "[admin billing]" || strings.Contains(fmt.Sprint(jwt), "secret") {
			t.Errorf("claims: %v", jwt)
		}

		// Roles of one organization say nothing in another.
		s := h.do(h.key, "POST", path+"/organization", m{"organization_id": "org_2"}).want(200)
		jwt = claims(t, s.str("session_jwt"))
		if jwt["org_id"] != "org_2" || jwt["roles"] != nil || fmt.Sprint(s.at("session.roles")) != "[]" || s.at("session.organization_slug") != nil {
			t.Errorf("after a switch: %v\n%s", jwt, s.Raw)
		}
		if s.str("session_token") != "" || s.str("session.session_id") != c.str("session.session_id") {
			t.Errorf("a switch: %s", s.Raw)
		}
		before := h.stored()
		h.do(h.key, "POST", path+"/organization", m{"organization_id": "org_2"}).want(200)
		if h.stored() != before {
			t.Error("a switch to where it is was written")
		}
		s = h.do(h.key, "POST", path+"/organization", m{"organization_id": "org_2", "slug": "two", "roles": []string{"viewer"}}).want(200)
		if jwt = claims(t, s.str("session_jwt")); fmt.Sprint(jwt["roles"]) != "[viewer]" {
			t.Errorf("roles: %v", jwt)
		}
		s = h.do(h.key, "PATCH", path, m{"roles": []string{"editor"}}).want(200)
		if jwt = claims(t, s.str("session_jwt")); fmt.Sprint(jwt["roles"]) != "[editor]" || jwt["org_id"] != "org_2" {
			t.Errorf("patched roles: %v", jwt)
		}
		if s = h.do(h.key, "PATCH", path, m{"roles": []string{}}).want(200); claims(t, s.str("session_jwt"))["roles"] != nil {
			t.Errorf("roles were not taken away: %s", s.Raw)
		}
		h.do(h.key, "PATCH", path, m{"roles": []string{"x"}}).want(200)
		for _, leave := range []func() *reply{
			func() *reply { return h.do(h.key, "DELETE", path+"/organization", nil) },
			func() *reply { return h.do(h.key, "POST", path+"/organization", `{"organization_id":null}`) },
		} {
			h.do(h.key, "POST", path+"/organization", m{"organization_id": "org_3", "roles": []string{"owner"}}).want(200)
			s := leave().want(200)
			jwt := claims(t, s.str("session_jwt"))
			if jwt["org_id"] != nil || jwt["roles"] != nil || s.at("session.organization_id") != nil || fmt.Sprint(s.at("session.roles")) != "[]" {
				t.Errorf("after leaving: %v\n%s", jwt, s.Raw)
			}
		}

		stytch := h.newApp("vendor", m{"jwt_profile": "stytch"})
		v := h.do(stytch, "POST", "/v1/sessions", m{"user_id": "ada", "organization_id": "o", "organization_slug": "s", "roles": []string{"r"}}).want(201)
		jwt = claims(t, v.str("session_jwt"))
		if fmt.Sprint(jwt["https://stytch.com/organization"]) != "map[organization_id:o slug:s]" || fmt.Sprint(jwt["https://stytch.com/session"].(m)["roles"]) != "[r]" {
			t.Errorf("stytch: %v", jwt)
		}
	})
}

func TestBadOrganizations(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		sid := h.login("ada").str("session.session_id")
		path := "/v1/sessions/" + sid
		before := h.stored()
		many := `["` + strings.Join(strings.Fields(strings.Repeat("x ", 65)), `","`) + `"]`
		for call, bodies := range map[string][]string{
			"POST " + path + "/organization": {
				``, `{}`, `{"organization_id":""}`, `{"organization_id":7}`, `{"organization_id":{}}`, `{"organization_id":"a\u0000"}`,
				`{"organization_id":"` + strings.Repeat("x", 257) + `"}`, `{"organization_id":null,"slug":"s"}`, `{"organization_id":"o","slug":"` + strings.Repeat("x", 129) + `"}`,
				`{"organization_id":"o","roles":"admin"}`, `{"organization_id":"o","roles":[""]}`, `{"organization_id":"o","roles":["a","a"]}`, `{"organization_id":"o","org":1}`,
			},
			"DELETE " + path + "/organization": {`{"organization_id":"o"}`},
			"PATCH " + path: {
				`{"roles":[1]}`, `{"roles":["a\n"]}`, `{"roles":` + many + `}`, `{"roles":[null]}`, `{"organization_id":"o"}`, `{"actor":{"sub":"x"}}`,
			},
			"POST /v1/sessions": {
				`{"user_id":"u","organization_slug":"s"}`, `{"user_id":"u","organization_id":"a\u0007"}`, `{"user_id":"u","roles":{"a":1}}`,
				`{"user_id":"u","roles":["` + strings.Repeat("x", 129) + `"]}`, `{"user_id":"u","session_custom_claims":{"org_id":"o"}}`,
			},
		} {
			method, at, _ := strings.Cut(call, " ")
			for _, body := range bodies {
				h.do(h.key, method, at, body).wantError(400, api.InvalidArgument)
			}
		}
		if got := h.stored(); got != before {
			t.Errorf("%d events were written", got-before)
		}
		other := h.newApp("other", nil)
		h.do(other, "POST", path+"/organization", m{"organization_id": "o"}).wantEnded("unknown")
		h.do(other, "DELETE", path+"/organization", nil).wantEnded("unknown")
		h.do(h.apiKey(h.app, "read", "verify"), "POST", path+"/organization", m{"organization_id": "o"}).wantError(403, api.Forbidden)
		h.do(h.key, "GET", "/v1/sessions?organization_id=o", nil).wantError(400, api.InvalidArgument) // sealed: to look would mean to open all
		h.do(h.key, "DELETE", path, nil).want(200)
		h.do(h.key, "POST", path+"/organization", m{"organization_id": "o"}).wantEnded("revoked")
	})
}

func TestImpersonation(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		staff := h.apiKey(h.app, api.ScopeCreate, api.ScopeVerify, api.ScopeImpersonate)
		actor := m{"sub": "carol", "iss": "https://staff.example.com", "reason": "ticket 7", "act": m{"sub": "bot"}}
		c := h.do(staff, "POST", "/v1/sessions/impersonate", m{"user_id": "ada", "actor": actor}).want(201)
		token, path := c.str("session_token"), "/v1/sessions/"+c.str("session.session_id")
		if c.str("session.user_id") != "ada" || c.str("session.actor.sub") != "carol" || c.str("session.actor.reason") != "ticket 7" {
			t.Errorf("impersonate: %s", c.Raw)
		}
		for _, field := range []string{"session.expires_at", "session.absolute_expires_at"} {
			if got := c.str(field); got != time.Now().Add(time.Hour).UTC().Format(time.RFC3339) {
				t.Errorf("%s: %s", field, got)
			}
		}
		act := `map[act:map[sub:bot] iss:https://staff.example.com sub:carol]`
		if got := claims(t, c.str("session_jwt")); fmt.Sprint(got["act"]) != act || got["sub"] != "ada" {
			t.Errorf("act: %v", got["act"])
		}

		// Nothing changes who acts, nor how long.
		p := h.do(h.key, "PATCH", path, m{"session_duration_minutes": 600, "metadata": m{"a": 1}}).want(200)
		if got := p.str("session.expires_at"); got != c.str("session.absolute_expires_at") {
			t.Errorf("extended to %s", got)
		}
		h.do(h.key, "PATCH", path, m{"session_custom_claims": m{"act": m{"sub": "eve"}}}).wantError(400, api.InvalidArgument)
		h.do(h.key, "PUT", "/v1/apps/acme/templates/t", m{"claims": m{"act": m{"sub": "eve"}}}).wantError(400, api.InvalidArgument)
		h.do(h.key, "PUT", "/v1/apps/acme/templates/t", m{"audience": "elsewhere", "claims": m{"plan": "pro"}}).want(200)
		org := h.do(h.key, "POST", path+"/organization", m{"organization_id": "o"}).want(200)
		rotated := h.rotateToken(token, 0).want(200)
		minted := h.do(h.key, "POST", path+"/tokens", m{"template": "t"}).want(200)
		for name, jwt := range map[string]string{"patch": p.str("session_jwt"), "switch": org.str("session_jwt"), "rotate": rotated.str("session_jwt"), "template": minted.str("session_jwt")} {
			if got := claims(t, jwt); fmt.Sprint(got["act"]) != act {
				t.Errorf("act after %s: %v", name, got["act"])
			}
		}
		if l := h.do(h.key, "GET", "/v1/sessions?user_id=ada", nil).want(200); !strings.Contains(string(l.Raw), `"sub":"carol"`) {
			t.Errorf("list: %s", l.Raw)
		}
		if got := claims(t, h.login("ada").str("session_jwt")); got["act"] != nil {
			t.Errorf("a session of the user's own has act %v", got["act"])
		}
		h.do(h.key, "POST", "/v1/sessions/revoke", m{"user_id": "ada"}).want(200)
		h.verify(rotated.str("session_token")).wantRefused("revoked")

		long := h.do(staff, "POST", "/v1/sessions", m{"user_id": "ada", "actor": m{"sub": "agent"}, "session_duration_minutes": 600}).want(201)
		if got := claims(t, long.str("session_jwt")); fmt.Sprint(got["act"]) != "map[sub:agent]" {
			t.Errorf("act of a create: %v", got["act"])
		}
		short := h.do(staff, "POST", "/v1/sessions/impersonate", m{"user_id": "ada", "actor": m{"sub": "c"}, "session_duration_minutes": 5}, "Idempotency-Key", "i").want(201)
		again := h.do(staff, "POST", "/v1/sessions/impersonate", m{"user_id": "ada", "actor": m{"sub": "c"}, "session_duration_minutes": 5}, "Idempotency-Key", "i").want(201)
		if short.str("session_token") != again.str("session_token") {
			t.Error("a repeat impersonated twice")
		}
		h.do(staff, "POST", "/v1/sessions/impersonate", m{"user_id": "ada", "actor": m{"sub": "d"}, "session_duration_minutes": 5}, "Idempotency-Key", "i").wantError(422, api.IdempotencyReused)
	})
}

func TestBadImpersonation(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		staff := h.apiKey(h.app, api.ScopeCreate, api.ScopeImpersonate)
		before := h.stored()
		as := func(actor string) string { return `{"user_id":"ada","actor":` + actor + `}` }
		for _, body := range []string{
			``, `{}`, `{"user_id":"ada"}`, `{"actor":{"sub":"c"}}`, as(`null`), as(`"c"`), as(`[]`), as(`{}`), as(`{"sub":""}`), as(`{"sub":7}`), as(`{"sub":"a\u0000"}`),
			as(`{"sub":"` + strings.Repeat("x", 257) + `"}`), as(`{"sub":"c","exp":1}`), as(`{"sub":"c","aud":"x"}`), as(`{"sub":"c","act":` + deep(12) + `}`),
			`{"user_id":"ada","actor":{"sub":"c"},"session_duration_minutes":61}`, `{"user_id":"ada","actor":{"sub":"c"},"session_duration_minutes":-1}`,
			`{"user_id":"ada","actor":{"sub":"c"},"absolute_lifetime_minutes":600}`,
		} {
			h.do(staff, "POST", "/v1/sessions/impersonate", body).wantError(400, api.InvalidArgument)
		}
		h.do(staff, "POST", "/v1/sessions/impersonate", as(`{"sub":"c","reason":"`+strings.Repeat("x", 1024)+`"}`)).wantError(413, api.ClaimsTooLarge)

		// Only who was given the scope by name.
		body := m{"user_id": "ada", "actor": m{"sub": "c"}}
		fresh := h.do(h.admin, "POST", "/v1/apps/acme/api-keys", m{}).want(201).str("api_key")
		for _, key := range []string{h.key, fresh, h.newApp("other", nil)} {
			h.do(key, "POST", "/v1/sessions/impersonate", body).wantError(403, api.Forbidden)
			h.do(key, "POST", "/v1/sessions", body).wantError(403, api.Forbidden)
		}
		only := h.apiKey(h.app, api.ScopeImpersonate)
		h.do(only, "POST", "/v1/sessions", body).wantError(403, api.Forbidden)
		if got := h.stored(); got != before {
			t.Errorf("%d events were written", got-before)
		}
		h.do(only, "POST", "/v1/sessions/impersonate", body).want(201)
		h.do(h.admin, "POST", "/v1/sessions/impersonate", body, "X-Revocast-App", h.app).want(201)
	})
}
