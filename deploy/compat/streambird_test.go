package compat

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"strings"
	"testing"
)

// vendor sends a request and returns the answer as it is, whatever its members
// mean in the native API.
func (c client) vendor(t *testing.T, method, path string, body any) (status int, answer object) {
	t.Helper()
	text, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	r, err := http.NewRequestWithContext(t.Context(), method, c.base+path, bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+c.key)
	r.Header.Set("Content-Type", "application/json")
	w, err := noRedirects.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Body.Close()
	if err := json.NewDecoder(w.Body).Decode(&answer); err != nil {
		t.Fatalf("%s %s: read the answer: %v", method, path, err)
	}
	return w.StatusCode, answer
}

// TestStreambird speaks to a node as Streambird's libraries do: rows S1 to S24 of
// what its documentation says, as far as one node shows them from outside.
func TestStreambird(t *testing.T) {
	n := shared(t)
	c := n.newApp(t, "streambird", object{"jwt_profile": "streambird"})
	tab := newTable(t, "row", "what")
	s := c.do(t, "POST", "/v1/sessions", object{
		"user_id": "ada", "session_duration_minutes": 7 * 24 * 60,
		"attributes": object{"ip_address": "192.0.2.7", "user_agent": "curl/8"},
		"authentication_factors": []object{
			{"type": "otp", "delivery_method": "sms", "phone_number_factor": object{"phone_id": "p1", "phone_number": "+1415"}},
			{"type": "magic_link", "delivery_method": "email", "email_factor": object{"email_id": "e1", "email_address": "a@b.c"}},
		},
	}).want(t, http.StatusCreated)

	status, by := c.vendor(t, "POST", "/v1/auth/sessions/verify", object{"session_token": s.SessionToken})
	session, _ := by["session"].(map[string]any)
	tab.row(unless(status == 200 && by["session_token"] == s.SessionToken && strings.Count(fmt.Sprint(by["session_jwt"]), ".") == 2, "%d %v", status, by), "S2, S7", "verify by token")
	tab.row(unless(session["user_id"] == "ada" && session["id"] == s.Session.SessionID, "%v", session), "S3", "the user")
	status, by = c.vendor(t, "POST", "/v1/auth/sessions/verify", object{"session_jwt": s.SessionJWT, "session_expires_in": nil})
	tab.row(unless(status == 200 && by["session_token"] == s.SessionToken, "%d %v", status, by), "S2", "verify by JWT")
	factors, _ := json.Marshal(session["factors"])
	tab.row(unless(strings.Contains(string(factors), `"delivery_channel":"sms"`) && strings.Contains(string(factors), `"phone_number":"+1415"`) &&
		strings.Contains(string(factors), `"type":"magic_link"`) && strings.Count(string(factors), `"last_verified_at":`) == 2, "%s", factors), "S4, S24", "factors")
	tab.row(unless(reflect.DeepEqual(session["device_fingerprint"], map[string]any{"ip": "192.0.2.7", "user_agent": "curl/8"}), "%v", session), "S5", "device")
	started, _ := session["started_at"].(float64)
	expires, _ := session["expires_at"].(float64)
	tab.row(unless(expires-started == 604800, "lives %v s", expires-started), "S17", "seven days")
	head, claims := part(t, s.SessionJWT, 0), part(t, s.SessionJWT, 1)
	tab.row(unless(head["alg"] == "RS256" && head["typ"] == "JWT", "%v", head), "S13", "RS256")
	exp, _ := claims["exp"].(float64)
	iat, _ := claims["iat"].(float64)
	tab.row(unless(exp-iat == 300, "%v", claims), "S14", "300 s")

	status, list := c.vendor(t, "GET", "/v1/auth/sessions/list?user_id=ada", nil)
	all, _ := list["sessions"].([]any)
	tab.row(unless(status == 200 && len(all) == 1 && reflect.DeepEqual(all[0], any(session)), "%d %v", status, list), "", "list")

	t.Run("jose", func(t *testing.T) { streambirdLocally(t, n, c, s, session) })

	status, deleted := c.vendor(t, "DELETE", "/v1/auth/sessions/delete", object{"session_jwt": s.SessionJWT})
	tab.row(unless(status == 200 && deleted["message"] == "Successfully deleted session", "%d %v", status, deleted), "S8, S9", "delete by JWT")
	for name, credential := range map[string]string{"session_token": s.SessionToken, "session_jwt": s.SessionJWT} {
		status, gone := c.vendor(t, "POST", "/v1/auth/sessions/verify", object{name: credential})
		tab.row(unless(status == 404 && gone["error_type"] == "session_not_found" && gone["status_code"] == 404.0 && gone["error_message"] != "", "%d %v", status, gone), "S10, S16", "verify afterwards by "+name)
	}
	status, refused := c.vendor(t, "DELETE", "/v1/auth/sessions/delete", object{"session_token": "a", "session_id": "b"})
	tab.row(unless(status == 400 && refused["error_type"] == "too_many_session_arguments", "%d %v", status, refused), "S9", "two at once")
	r := c.verify(t, s.SessionJWT)
	tab.row(unless(r.status == http.StatusUnauthorized, "%d", r.status), "S11", "/v1/verify refuses its JWT at once")
}

// streambirdLocally verifies JWTs as Streambird's library does: rows S18 to S23.
func streambirdLocally(t *testing.T, n *node, c client, s *reply, session map[string]any) {
	needPackages(t, "jose")
	tab := newTable(t, "row", "what")
	other := n.newApp(t, "streambird-other", object{"jwt_profile": "streambird"}).create(t, "eve")
	for _, jwks := range []string{"/v1/auth/jwks/default?api_key=" + c.key, "/v1/auth/jwks/streambird"} {
		var out struct {
			Fetches int
			Session map[string]any
			Refused map[string]string
		}
		runScript(t, "streambird.mjs", object{"jwks": n.base + jwks, "jwt": s.SessionJWT, "other": other.SessionJWT, "times": 1000}, &out)
		what := strings.Split(jwks, "?")[0]
		// The keys are fetched once; those of the other app's JWT are not asked for again so soon.
		tab.row(unless(out.Fetches == 1, "the keys were fetched %d times", out.Fetches), "S22", what+": 1000 verifications")
		tab.row(unless(reflect.DeepEqual(out.Session, session), "%v, want %v", out.Session, session), "S20, S21, S23", what+": the session in the JWT")
		tab.row(unless(out.Refused["other"] == "ERR_JWKS_NO_MATCHING_KEY" && out.Refused["changed"] == "ERR_JWS_SIGNATURE_VERIFICATION_FAILED", "%v", out.Refused), "S19", what+": another app's JWT, a forged one")
	}
	if printed := n.out.String(); strings.Contains(printed, c.key) {
		t.Error("the program printed the API key")
	}
}
