package node_test

import (
	"fmt"
	"strings"
	"testing"
)

// What a script fills in may be empty: a variable that is not set. Where "" would do
// another thing than was meant, such as sparing no session, or leaving a stolen key in
// force, it is refused and nothing is done.
func TestEmptyIsNotNothing(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		login := h.login("ada")
		hook := h.do(h.key, "POST", "/v1/webhooks", m{"url": "https://example.com/hook"}).want(201).str("webhook.webhook_id")
		shown := func() string {
			hooks := h.do(h.key, "GET", "/v1/webhooks", nil).want(200).at("webhooks").([]any)
			return fmt.Sprint(h.do(h.key, "GET", "/v1/apps/acme/keys", nil).want(200).at("keys"), len(hooks), hooks[0].(map[string]any)["old_secret_until"])
		}
		before, settings := h.stored(), shown()
		for _, c := range []struct {
			key, path, field string
			body             m
		}{
			{h.key, "/v1/sessions/revoke", "except_session_id", m{"user_id": "ada", "except_session_id": ""}},
			{h.key, "/v1/sessions", "auth_revision", m{"user_id": "ada", "auth_revision": ""}},
			{h.key, "/v1/sessions/" + login.str("session.session_id") + "/tokens", "template", m{"template": ""}},
			{h.key, "/v1/apps/acme/keys/rotate", "compromised", m{"compromised": ""}},
			{h.admin, "/v1/ssf/keys/rotate", "compromised", m{"compromised": ""}},
			{h.key, "/v1/webhooks", "secret", m{"url": "https://example.com/", "secret": ""}},
			{h.key, "/v1/webhooks/" + hook + "/rotate-secret", "secret", m{"secret": ""}},
		} {
			r := h.do(c.key, "POST", c.path, c.body).wantError(400, "invalid_argument")
			if !strings.HasPrefix(r.str("error_message"), c.field+": ") || r.str("error_details.field") != c.field {
				t.Errorf("%s: %s", c.path, r.Raw)
			}
		}
		if h.stored() != before || shown() != settings {
			t.Error("something was done")
		}
		h.verify(login.str("session_token")).want(204)
	})
}
