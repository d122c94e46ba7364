package node_test

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/revocast/revocast/node"
	"github.com/revocast/revocast/node/api"
)

// wantStepUp fails the test unless the reply is a 401 that asks for step-up with
// those parameters, as in RFC 9470 section 3.
func (r *reply) wantStepUp(params ...string) *reply {
	r.t.Helper()
	r.want(http.StatusUnauthorized)
	challenge := r.Header.Get("WWW-Authenticate")
	if !strings.HasPrefix(challenge, `Bearer error="insufficient_user_authentication", error_description="`) {
		r.t.Errorf("%s: WWW-Authenticate %s", r.call, challenge)
	}
	for _, p := range []string{"acr_values", "max_age"} {
		want := ""
		for _, have := range params {
			if strings.HasPrefix(have, p+"=") {
				want = have
			}
		}
		if got := strings.Contains(challenge, ", "+p+"="); got != (want != "") || got && !strings.Contains(challenge, ", "+want) {
			r.t.Errorf("%s: WWW-Authenticate %s, want %v", r.call, challenge, params)
		}
	}
	return r
}

func TestStepUp(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		c := h.do(h.key, "POST", "/v1/sessions", m{"user_id": "ada", "authentication_factors": []m{{"type": "password"}}}).want(201)
		token, sid := c.str("session_token"), c.str("session.session_id")
		if got := claims(t, c.str("session_jwt")); got["acr"] != "aal1" || got["auth_time"] != float64(time.Now().Unix()) || c.str("session.assurance_level") != "aal1" {
			t.Errorf("acr and auth_time after a password: %v", got)
		}
		demand := func(require m) *reply { return h.auth(m{"session_token": token, "require": require}) }
		verify := func(query string) *reply { return h.do(token, "GET", "/v1/verify?"+query, nil) }

		demand(m{"aal": "aal1", "max_age_seconds": 0, "amr": []string{"pwd"}}).want(200)
		verify("acr=aal1&max_age=0&amr=pwd").want(204)
		r := demand(m{"aal": "aal2"}).wantStepUp(`acr_values="aal2"`).wantError(401, api.StepUpRequired)
		if r.str("error_details.aal") != "aal2" || r.at("session") != nil || strings.Contains(string(r.Raw), token) {
			t.Errorf("step-up: %s", r.Raw)
		}
		demand(m{"amr": []string{"pwd", "otp"}}).wantStepUp()
		v := verify("acr=aal2&max_age=60").wantRefused("step_up").wantStepUp(`acr_values="aal2"`, `max_age="60"`)
		for _, name := range []string{"X-Session-Id", "X-Session-User", "X-Session-App", "X-Session-Expires", "X-Session-Jwt"} {
			if v.Header.Get(name) != "-" {
				t.Errorf("%s of a session that falls short: %q", name, v.Header.Get(name))
			}
		}
		verify("acr=aal2&body=1").wantError(401, api.StepUpRequired)
		verify("acr=aal2&jwt=1").wantRefused("step_up")
		verify("amr=otp").wantRefused("step_up").wantStepUp()
		verify("").want(204)

		time.Sleep(10 * time.Minute)
		demand(m{"max_age_seconds": 599}).wantStepUp(`max_age="599"`)
		demand(m{"max_age_seconds": 600}).want(200)
		verify("max_age=599").wantRefused("step_up").wantStepUp(`max_age="599"`)
		verify("max_age=600").want(204)
		for range 3 { // an authenticate is no log-in
			demand(m{"max_age_seconds": 599}).wantStepUp(`max_age="599"`)
		}

		// The user proves more, and all of it passes, also by the new JWT.
		old := h.auth(m{"session_token": token}).want(200).str("session_jwt")
		p := h.do(h.key, "PATCH", "/v1/sessions/"+sid, m{"add_authentication_factors": []m{{"type": "totp"}}}).want(200)
		jwt := p.str("session_jwt")
		got := claims(t, jwt)
		if jwt == old || got["acr"] != "aal2" || fmt.Sprint(got["amr"]) != "[pwd otp mfa]" || got["auth_time"] != float64(time.Now().Unix()) {
			t.Errorf("claims after a second factor: %v", got)
		}
		demand(m{"aal": "aal2", "max_age_seconds": 0, "amr": []string{"pwd", "otp", "mfa"}}).want(200)
		verify("acr=aal2&max_age=5&amr=otp,pwd").want(204)
		h.do(jwt, "GET", "/v1/verify?acr=aal2&max_age=5", nil).want(204)
		h.do(old, "GET", "/v1/verify?acr=aal2", nil).want(204) // it is the session that counts
		demand(m{"aal": "aal3"}).wantStepUp(`acr_values="aal3"`)
	})
}

// TestStepUpRefusesFirst: what falls short is neither extended nor counts as a use.
func TestStepUpRefusesFirst(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		c := h.do(h.key, "POST", "/v1/sessions", m{"user_id": "ada", "session_duration_minutes": 30, "idle_timeout_minutes": 5}).want(201)
		token := c.str("session_token")
		before := h.stored()
		time.Sleep(4 * time.Minute)
		h.auth(m{"session_token": token, "session_duration_minutes": 600, "session_custom_claims": m{"a": 1}, "require": m{"aal": "aal2"}}).wantStepUp(`acr_values="aal2"`)
		h.do(token, "GET", "/v1/verify?acr=aal2", nil).wantRefused("step_up")
		time.Sleep(3 * time.Minute)
		if got := h.stored(); got != before {
			t.Errorf("%d events were written", got-before)
		}
		h.verify(token).wantRefused("idle")
		h.do(token, "GET", "/v1/verify?acr=aal2", nil).wantRefused("idle")
		h.auth(m{"session_token": token, "require": m{"aal": "aal2"}}).wantEnded("idle")
	})
}

// TestBadDemands: what cannot be read is never taken for no demand.
func TestBadDemands(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		c := h.do(h.key, "POST", "/v1/sessions", m{"user_id": "ada", "authentication_factors": []m{{"type": "webauthn"}}, "assurance_level": "aal3"}).want(201)
		token := c.str("session_token")
		for _, require := range []any{
			m{}, []any{}, "aal2", 7, m{"acr": "aal2"}, m{"aal": "aal4"}, m{"aal": "AAL2"}, m{"aal": 2}, m{"max_age_seconds": -1},
			m{"max_age_seconds": "60"}, m{"max_age_seconds": 1.5}, m{"max_age_seconds": 31622401}, m{"amr": []string{}}, m{"amr": "pop"}, m{"amr": []string{""}},
			m{"amr": []string{"pop", "pop"}}, m{"amr": strings.Split(strings.Repeat("a,", 9), ",")}, m{"amr": []string{"a b"}}, m{"amr": []string{`a"b`}},
		} {
			h.auth(m{"session_token": token, "require": require}).wantError(400, api.InvalidArgument)
		}
		h.auth(m{"session_token": token, "require": nil}).want(200)
		for _, query := range []string{
			"acr=", "acr", "acr=aal4", "acr=AAL1", "acr=aal1&acr=aal1", "acr=aal1%20aal2", "acr=aal1&acr=", "%61cr=aal4",
			"max_age=", "max_age=-1", "max_age=%2B1", "max_age=1.5", "max_age=x", "max_age=60&max_age=60", "max_age=99999999999999999999", "max_age=31622401",
			"amr=", "amr=,", "amr=pop,", "amr=pop,pop", "amr=pop&amr=pop", "amr=" + strings.Repeat("x", 65), "amr=a,b,c,d,e,f,g,h,i", "amr=a%22b", "amr=a+b",
		} {
			r := h.do(token, "GET", "/v1/verify?"+query, nil).wantRefused("malformed")
			// Whoever set up the proxy finds out that it is not the session.
			if got := r.Header.Get("WWW-Authenticate"); !strings.HasPrefix(got, `Bearer error="invalid_request"`) {
				t.Errorf("%s: WWW-Authenticate %s", query, got)
			}
			h.do(token, "POST", "/v1/verify/deep/path?app=acme&"+query, nil).wantRefused("malformed")
		}
		h.do(token, "GET", "/v1/verify?acr=aal3&amr=pop&max_age=60&app=acme", nil).want(204)
		h.do(token, "GET", "/v1/verify?%61cr=aal3", nil).want(204)
	})
}

func TestAssurance(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		for _, c := range []struct {
			factors string // types
			stated  string
			want    string // empty: none; refused: 400
		}{
			{"", "", ""}, {"password", "", "aal1"}, {"otp", "", "aal1"}, {"oauth", "", "aal1"}, {"webauthn", "", "aal1"}, {"made_up", "", "aal1"},
			{"password totp", "", "aal2"}, {"webauthn password", "", "aal2"}, {"oauth totp", "", "aal2"},
			{"otp email_otp", "", "aal1"}, {"magic_link totp", "", "aal1"}, {"password oauth", "", "aal1"}, {"password password", "", "aal1"}, {"password made_up", "", "aal1"},
			{"", "aal2", "aal2"}, {"", "aal3", "aal3"}, {"password", "aal1", "aal1"}, {"password totp", "aal1", "aal1"}, {"webauthn", "aal2", "aal2"},
			{"webauthn", "aal3", "aal3"}, {"password webauthn", "aal3", "aal3"}, {"sso", "aal2", "aal2"},
			{"password", "aal2", "refused"}, {"password totp", "aal3", "refused"}, {"otp magic_link", "aal2", "refused"},
			{"password", "aal4", "refused"}, {"password", "AAL1", "refused"}, {"password", "1", "refused"},
		} {
			body := m{"user_id": "ada"}
			var factors []m
			for _, typ := range strings.Fields(c.factors) {
				factors = append(factors, m{"type": typ})
			}
			if factors != nil {
				body["authentication_factors"] = factors
			}
			if c.stated != "" {
				body["assurance_level"] = c.stated
			}
			r := h.do(h.key, "POST", "/v1/sessions", body)
			if c.want == "refused" {
				r.wantError(400, api.InvalidArgument)
				continue
			}
			jwt := claims(t, r.want(201).str("session_jwt"))
			if acr, _ := jwt["acr"].(string); acr != c.want || r.str("session.assurance_level") != c.want {
				t.Errorf("%q, stated %q: acr %q, shown %q, want %q", c.factors, c.stated, acr, r.str("session.assurance_level"), c.want)
			}
			for i, level := range []string{"aal1", "aal2", "aal3"} {
				want := 401
				if len(c.want) > 0 && int(c.want[3]-'1') >= i {
					want = 204
				}
				if got := h.do(r.str("session_token"), "GET", "/v1/verify?acr="+level, nil).Status; got != want {
					t.Errorf("%q, stated %q: verify with %s is %d, want %d", c.factors, c.stated, level, got, want)
				}
			}
		}
	})
}

// TestAssuranceRises: only together with a factor (NIST SP 800-63B section 5).
func TestAssuranceRises(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		c := h.do(h.key, "POST", "/v1/sessions", m{"user_id": "ada", "authentication_factors": []m{{"type": "password"}, {"type": "webauthn"}}}).want(201)
		path := "/v1/sessions/" + c.str("session.session_id")
		patch := func(body m) *reply { return h.do(h.key, "PATCH", path, body) }
		level := func(want string) {
			t.Helper()
			if got := h.do(h.key, "GET", path, nil).want(200).str("session.assurance_level"); got != want {
				t.Errorf("level %s, want %s", got, want)
			}
		}
		level("aal2")
		patch(m{"assurance_level": "aal3"}).wantError(400, api.InvalidArgument)
		patch(m{"assurance_level": "x"}).wantError(400, api.InvalidArgument)
		level("aal2")
		patch(m{"assurance_level": "aal1"}).want(200)
		level("aal1")
		patch(m{"assurance_level": "aal2"}).wantError(400, api.InvalidArgument)
		patch(m{"metadata": m{"a": 1}}).want(200)
		level("aal1")
		patch(m{"assurance_level": "aal3", "add_authentication_factors": []m{{"type": "webauthn"}}}).want(200)
		level("aal3")
		patch(m{"add_authentication_factors": []m{{"type": "otp"}}}).want(200)
		level("aal3")
		patch(m{"assurance_level": "aal1"}).want(200)
		patch(m{"add_authentication_factors": []m{{"type": "otp"}}}).want(200) // a log-in by all of them
		level("aal2")
	})
}

// TestReauthentication: who logs in anew each minute does not fill the
// session, and what lies in the future proves nothing.
func TestReauthentication(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		began := time.Now()
		totp := m{"type": "totp", "totp_factor": m{"totp_id": "t1"}}
		c := h.do(h.key, "POST", "/v1/sessions", m{"user_id": "ada", "authentication_factors": []m{{"type": "password"}, totp}}).want(201)
		path := "/v1/sessions/" + c.str("session.session_id")
		for range 90 {
			time.Sleep(time.Minute)
			h.do(h.key, "PATCH", path, m{"add_authentication_factors": []m{totp}}).want(200)
		}
		s := h.do(h.key, "GET", path, nil).want(200)
		if n := len(s.at("session.authentication_factors").([]any)); n != 2 {
			t.Errorf("%d factors after 90 log-ins by the same", n)
		}
		if got := s.str("session.authenticated_at"); got != time.Now().UTC().Format(time.RFC3339) {
			t.Errorf("authenticated_at %s", got)
		}
		h.do(h.key, "PATCH", path, m{"add_authentication_factors": []m{{"type": "totp", "totp_factor": m{"totp_id": "t2"}}}}).want(200)
		if n := len(h.do(h.key, "GET", path, nil).at("session.authentication_factors").([]any)); n != 3 {
			t.Errorf("another authenticator took the place of the first: %d factors", n)
		}
		future := []m{{"type": "otp", "last_authenticated_at": time.Now().Add(time.Hour)}}
		h.do(h.key, "PATCH", path, m{"add_authentication_factors": future}).wantError(400, api.InvalidArgument)
		h.do(h.key, "POST", "/v1/sessions", m{"user_id": "ada", "authentication_factors": future}).wantError(400, api.InvalidArgument)
		for _, when := range []any{"yesterday", "", began.Unix(), "2026-01-01 12:00:00", false} { // none of them is now
			unread := []m{{"type": "otp"}, {"type": "otp", "last_authenticated_at": when}}
			h.do(h.key, "PATCH", path, m{"add_authentication_factors": unread}).wantError(400, api.InvalidArgument)
			h.do(h.key, "POST", "/v1/sessions", m{"user_id": "ada", "authentication_factors": unread}).wantError(400, api.InvalidArgument)
		}

		// A log-in of before the session counts from then.
		late := h.do(h.key, "POST", "/v1/sessions", m{"user_id": "ada", "authentication_factors": []m{{"type": "sso", "last_authenticated_at": began}}}).want(201)
		if got := claims(t, late.str("session_jwt"))["auth_time"]; got != float64(began.Unix()) {
			t.Errorf("auth_time %v, want %d", got, began.Unix())
		}
		h.do(late.str("session_token"), "GET", "/v1/verify?max_age=3600", nil).wantRefused("step_up")
	})
}

func TestEmbeddedStepUp(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		token := h.do(h.key, "POST", "/v1/sessions", m{"user_id": "ada", "authentication_factors": []m{{"type": "password"}}}).want(201).str("session_token")
		ask := func(r *api.Require) error {
			_, err := h.node.Verify(t.Context(), token, node.VerifyOptions{Require: r})
			return err
		}
		if err := ask(&api.Require{AAL: "aal1"}); err != nil {
			t.Error(err)
		}
		if err := ask(&api.Require{AAL: "aal2"}); !errors.Is(err, node.ErrStepUp) {
			t.Errorf("aal2: %v", err)
		}
		if err := ask(&api.Require{}); err == nil {
			t.Error("a demand that demands nothing was met")
		}
		if err := ask(&api.Require{AAL: "aal9"}); err == nil || errors.Is(err, node.ErrStepUp) {
			t.Errorf("aal9: %v", err)
		}
	})
}
