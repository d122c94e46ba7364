package node_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node/api"
)

// states returns the states of the app's keys by kid, and the kids, newest first.
func (h *harness) states(app string) (map[string]string, []string) {
	h.t.Helper()
	states, kids := map[string]string{}, []string(nil)
	for _, k := range h.do(h.admin, "GET", "/v1/apps/"+app+"/keys", nil).want(200).JSON["keys"].([]any) {
		k := k.(map[string]any)
		kid := k["kid"].(string)
		states[kid] = k["state"].(string)
		kids = append(kids, kid)
	}
	return states, kids
}

// listed returns the kids in the JWKS of the app.
func (h *harness) listed(app string) (kids []string) {
	h.t.Helper()
	for _, k := range h.do("", "GET", "/v1/apps/"+app+"/jwks", nil).want(200).JSON["keys"].([]any) {
		kids = append(kids, k.(map[string]any)["kid"].(string))
	}
	return kids
}

// jose returns a member of the header of a JWT.
func jose(t testing.TB, jwt, member string) string {
	t.Helper()
	head, _, _ := strings.Cut(jwt, ".")
	raw, err := base64.RawURLEncoding.DecodeString(head)
	if err != nil {
		t.Fatal(err)
	}
	var h map[string]string
	if err := json.Unmarshal(raw, &h); err != nil {
		t.Fatal(err)
	}
	return h[member]
}

// mintedBy returns the kid that signs JWTs of a new session now.
func (h *harness) mintedBy(user string) string {
	return jose(h.t, h.login(user).str("session_jwt"), "kid")
}

func TestRotateKeys(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		_, kids := h.states(h.app)
		first := kids[0]
		login := h.login("u1")
		jwt := login.str("session_jwt")
		r := h.do(h.key, "POST", "/v1/apps/acme/keys/rotate", nil).want(200)
		if r.str("revision") == "" || r.at("receipt") != nil || len(r.JSON["keys"].([]any)) != 2 {
			t.Errorf("rotate: %s", r.Raw)
		}
		states, kids := h.states(h.app)
		next := kids[0]
		if next == first || states[first] != "active" || states[next] != "next" {
			t.Fatalf("states %v", states)
		}
		if got := h.listed(h.app); len(got) != 2 {
			t.Errorf("JWKS lists %v: the next key is to be published before it signs", got)
		}
		time.Sleep(time.Hour - time.Minute)
		if kid := h.mintedBy("u2"); kid != first {
			t.Errorf("signed with %s before its time", kid)
		}
		time.Sleep(time.Minute)
		if kid := h.mintedBy("u3"); kid != next {
			t.Errorf("signed with %s after an hour", kid)
		}
		if states, _ := h.states(h.app); states[first] != "retired" || states[next] != "active" {
			t.Errorf("states after an hour %v", states)
		}
		if got := h.listed(h.app); len(got) != 2 {
			t.Errorf("JWKS lists %v while JWTs of the old key may be about", got)
		}
		time.Sleep(time.Hour + 10*time.Minute)
		if got := h.listed(h.app); len(got) != 1 || got[0] != next {
			t.Errorf("JWKS lists %v", got)
		}
		// Long expired, of a key that is listed no more: with an API key it
		// still says which session it was.
		again := h.do(h.key, "POST", "/v1/sessions/authenticate", map[string]any{"session_jwt": jwt}).want(200)
		if again.str("session.session_id") != login.str("session.session_id") || jose(t, again.str("session_jwt"), "kid") != next {
			t.Errorf("authenticate: %s", again.Raw)
		}
	})
}

func TestCompromisedKey(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		s := h.login("u1")
		token, jwt := s.str("session_token"), s.str("session_jwt")
		bad := jose(t, jwt, "kid")
		h.do(jwt, "GET", "/v1/verify", nil).want(204)
		time.Sleep(time.Minute)
		r := h.do(h.key, "POST", "/v1/apps/acme/keys/rotate?wait=all", map[string]any{"compromised": bad}).want(200)
		if r.str("receipt.status") != "complete" || r.str("receipt.revision") != r.str("revision") {
			t.Errorf("receipt: %s", r.Raw)
		}
		safe, err := time.Parse(time.RFC3339, r.str("receipt.jwt_safe_after"))
		if left := time.Until(safe); err != nil || left < time.Hour-time.Second || left > time.Hour+time.Minute {
			t.Errorf("jwt_safe_after is %v away: verifiers elsewhere may cache the JWKS for an hour", left)
		}
		states, kids := h.states(h.app)
		if states[bad] != "compromised" || states[kids[0]] != "active" || len(kids) != 2 {
			t.Errorf("states %v", states)
		}
		if got := h.listed(h.app); len(got) != 1 || got[0] == bad {
			t.Errorf("JWKS lists %v", got)
		}
		h.do(jwt, "GET", "/v1/verify", nil).want(401)
		h.do(h.key, "POST", "/v1/sessions/authenticate", map[string]any{"session_jwt": jwt}).wantError(404, api.SessionNotFound)
		// The session is good, and gets a JWT of the new key: not the one that
		// was minted before.
		again := h.do(h.key, "POST", "/v1/sessions/authenticate", map[string]any{"session_token": token}).want(200)
		if kid := jose(t, again.str("session_jwt"), "kid"); kid != kids[0] {
			t.Errorf("minted with %s", kid)
		}
		before := h.configured()
		repeat := h.do(h.key, "POST", "/v1/apps/acme/keys/rotate", map[string]any{"compromised": bad}).want(200)
		if h.configured() != before || repeat.str("receipt.status") != "complete" {
			t.Errorf("repeat: %s", repeat.Raw)
		}
	})
}

// TestCrashInCompromise: when only the first of the two events was written, the
// app can still mint, and a repeat finishes.
func TestCrashInCompromise(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		bad := h.mintedBy("u1")
		time.Sleep(time.Minute)
		writes := 0
		h.config.SetFaults(events.MemoryFaults{Send: func(_ context.Context, m events.Message) error {
			if strings.HasSuffix(m.Subject, ".key") {
				if writes++; writes == 2 {
					return events.ErrUnavailable
				}
			}
			return nil
		}})
		body := map[string]any{"compromised": bad}
		h.do(h.key, "POST", "/v1/apps/acme/keys/rotate", body).wantError(503, api.LogUnavailable)
		h.config.SetFaults(events.MemoryFaults{})
		h.login("u2")
		h.do(h.key, "POST", "/v1/apps/acme/keys/rotate", body).want(200)
		states, _ := h.states(h.app)
		if kid := h.mintedBy("u3"); states[bad] != "compromised" || states[kid] != "active" || len(states) != 2 {
			t.Errorf("minted with %s of %v", kid, states)
		}
	})
}

// TestCompromisedNextKey: the next key of a rotation is lost while the old one
// still signs.
func TestCompromisedNextKey(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		first := h.mintedBy("u1")
		h.do(h.key, "POST", "/v1/apps/acme/keys/rotate", nil).want(200)
		_, kids := h.states(h.app)
		h.do(h.key, "POST", "/v1/apps/acme/keys/rotate", map[string]any{"compromised": kids[0]}).want(200)
		if kid := h.mintedBy("u2"); kid != first {
			t.Errorf("minted with %s", kid)
		}
		time.Sleep(2 * time.Hour)
		if kid := h.mintedBy("u3"); kid == first || kid == kids[0] {
			t.Errorf("minted with %s", kid)
		}
	})
}

func TestChangeOfAlgorithm(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		alg := func(user string) string { return jose(t, h.login(user).str("session_jwt"), "alg") }
		h.do(h.key, "PATCH", "/v1/apps/acme", `{"jwt_alg":"EdDSA"}`).want(200)
		if got := len(h.listed(h.app)); got != 2 {
			t.Errorf("JWKS lists %d keys, want the old and the next", got)
		}
		if got := alg("u1"); got != "ES256" {
			t.Errorf("signed with %s at once", got)
		}
		time.Sleep(time.Hour)
		if got := alg("u2"); got != "EdDSA" {
			t.Errorf("signed with %s after an hour", got)
		}
		d := h.do("", "GET", "/v1/apps/acme/.well-known/openid-configuration", nil).want(200)
		if got := len(d.JSON["id_token_signing_alg_values_supported"].([]any)); got != 2 {
			t.Errorf("discovery lists %d algorithms while both may be met", got)
		}
		time.Sleep(2 * time.Hour)
		if got := len(h.listed(h.app)); got != 1 {
			t.Errorf("JWKS lists %d keys in the end", got)
		}
		// Back and forth again, within the hour.
		h.do(h.key, "PATCH", "/v1/apps/acme", `{"jwt_alg":"ES256"}`).want(200)
		h.do(h.key, "PATCH", "/v1/apps/acme", `{"jwt_alg":"EdDSA"}`).want(200)
		for range 3 {
			alg("u3")
			time.Sleep(time.Hour)
		}
		if got := alg("u4"); got != "EdDSA" {
			t.Errorf("signed with %s", got)
		}
	})
}

func TestRSA(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		key := h.newApp("rsa", map[string]any{"jwt_alg": "RS256", "jwt_profile": "stytch"})
		s := h.do(key, "POST", "/v1/sessions", `{"user_id":"u"}`).want(201)
		if got := jose(t, s.str("session_jwt"), "alg"); got != "RS256" {
			t.Errorf("alg %s", got)
		}
		if got := claims(t, s.str("session_jwt"))["iss"]; got != publicURL {
			t.Errorf("iss %v", got)
		}
		h.do(s.str("session_jwt"), "GET", "/v1/verify", nil).want(204)
	})
}
