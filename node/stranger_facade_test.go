package node_test

import (
	"strings"
	"testing"

	"github.com/revocast/revocast/node/api"
)

// TestFacadeBodies: what two readers of a body could understand differently, and what
// no reader can, is refused by facades as it is natively; nothing is a 5xx.
func TestFacadeBodies(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		a := h.newVendorApp("streambird", m{"compat": []string{"streambird", "clerk"}})
		s := a.login(nil)
		token, sid := s.str("session_token"), s.str("session.session_id")
		paths := map[string]string{
			"POST /v1/auth/sessions/verify": "session_token", "DELETE /v1/auth/sessions/delete": "session_token",
			"POST /clerk/v1/sessions": "user_id", "POST /clerk/v1/sessions/" + sid + "/revoke": "token", "POST /clerk/v1/sessions/" + sid + "/tokens": "expires_in_seconds",
			"POST /clerk/v1/sessions/" + sid + "/verify": "token", "POST /clerk/v1/sessions/" + sid + "/refresh": "expired_token",
		}
		for call, name := range paths {
			method, path, _ := strings.Cut(call, " ")
			for _, body := range []string{
				`{"N":"` + token + `","N":"x"}`, `{"N":1e400}`, `{"N":{}}`, `{"N":[1]}`, `[]`, `"x"`, `{`, `{}x`, `{"N":"` + "\xff" + `"}`,
				`{"N":"\ud800"}`, `{"\u0041lso_required":true}`, `{"require":{"aal":"aal3"}}`, `{"authorization_check":{}}`, `{"x":` + strings.Repeat("[", 40) + strings.Repeat("]", 40) + `}`,
				`{"` + strings.ToUpper(name) + `":"` + token + `"}`, `{"x":{"y":1,"y":2}}`, `{"expires_in_seconds":9223372036854775808,"session_expires_in":9223372036854775808}`,
			} {
				body = strings.ReplaceAll(body, `"N"`, `"`+name+`"`)
				if r := a.do(method, path, body); r.Status < 400 || r.Status >= 500 {
					t.Errorf("%s %s: %d %s", call, body, r.Status, r.Raw)
				}
			}
		}
		h.do(a.key, "POST", "/v1/sessions/authenticate", m{"session_token": token}).want(200)
	})
}

// TestFacadeNeedsBothScopes: a key does through a facade what it may natively.
func TestFacadeNeedsBothScopes(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		a := h.newVendorApp("streambird", m{"compat": []string{"streambird", "clerk"}})
		s := a.login(nil)
		other := h.login("eve") // of another app
		verify := h.apiKey(a.id, api.ScopeVerify)
		sid := s.str("session.session_id")
		for _, call := range []string{
			"POST /clerk/v1/sessions", "POST /clerk/v1/sessions/" + sid + "/revoke", "POST /clerk/v1/sessions/" + sid + "/tokens", "POST /clerk/v1/sessions/" + sid + "/tokens/t",
			"GET /clerk/v1/sessions/" + sid, "GET /clerk/v1/sessions", "GET /v1/auth/sessions/list?user_id=ada", "DELETE /v1/auth/sessions/delete",
		} {
			method, path, _ := strings.Cut(call, " ")
			h.do(verify, method, path, nil).wantRefusal(403, api.Forbidden)
		}
		// Sessions of another app are nobody's here, whoever names them how.
		for _, r := range []*reply{
			a.do("POST", "/v1/auth/sessions/verify", m{"session_token": other.str("session_token")}),
			a.do("POST", "/v1/auth/sessions/verify", m{"session_jwt": other.str("session_jwt")}),
			a.do("GET", "/clerk/v1/sessions/"+other.str("session.session_id"), nil),
			a.do("POST", "/clerk/v1/sessions/"+other.str("session.session_id")+"/verify", m{"token": other.str("session_token")}),
			a.do("POST", "/clerk/v1/sessions/"+other.str("session.session_id")+"/revoke", nil),
			a.do("POST", "/clerk/v1/sessions/"+other.str("session.session_id")+"/tokens", nil),
			a.do("POST", "/clerk/v1/sessions/"+sid+"/verify", m{"token": other.str("session_token")}),
			a.do("GET", "/clerk/v1/sessions", nil, "X-Revocast-App", h.app),
			a.do("GET", "/clerk/v1/sessions?app="+h.app, nil),
		} {
			if r.Status != 404 {
				t.Errorf("%s: %d %s", r.call, r.Status, r.Raw)
			}
		}
		a.do("DELETE", "/v1/auth/sessions/delete", m{"session_token": other.str("session_token")})
		h.verify(other.str("session_token")).want(204)
	})
}
