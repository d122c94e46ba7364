package node_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node"
)

type m = map[string]any

// stored counts what was ever written about sessions.
func (h *harness) stored() (count int) {
	h.t.Helper()
	err := h.home.History(h.t.Context(), []string{"ev.eu.>"}, func(events.Archived) bool { count++; return true })
	if err != nil {
		h.t.Fatalf("read archive: %v", err)
	}
	return count
}

// verify asks the hot path about a credential.
func (h *harness) verify(credential string) *reply { return h.do(credential, "GET", "/v1/verify", nil) }

// auth authenticates with the body.
func (h *harness) auth(body m) *reply { return h.do(h.key, "POST", "/v1/sessions/authenticate", body) }

// wantEnded fails the test unless the reply is session_not_found for that
// reason.
func (r *reply) wantEnded(reason string) *reply {
	r.t.Helper()
	r.wantError(http.StatusNotFound, "session_not_found")
	if got := r.str("error_details.reason"); got != reason {
		r.t.Fatalf("%s: reason %q, want %q", r.call, got, reason)
	}
	return r
}

// wantRefused fails the test unless a verify is refused for that reason.
func (r *reply) wantRefused(reason string) *reply {
	r.t.Helper()
	r.want(http.StatusUnauthorized)
	if got := r.Header.Get("X-Session-Reason"); got != reason {
		r.t.Fatalf("%s: reason %q, want %q", r.call, got, reason)
	}
	return r
}

// claims returns the claims of a JWT, unverified.
func claims(t *testing.T, jwt string) m {
	t.Helper()
	parts := strings.Split(jwt, ".")
	if len(parts) != 3 {
		t.Fatalf("not a JWT of three parts but %d", len(parts))
	}
	raw, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		t.Fatal(err)
	}
	var c m
	if err := json.Unmarshal(raw, &c); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestLifeOfASession(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		c := h.do(h.key, "POST", "/v1/sessions", m{
			"user_id": "ada", "attributes": m{"ip_address": "192.0.2.1", "user_agent": "<curl>"},
			"authentication_factors": []m{{"type": "password"}, {"type": "totp"}},
			"session_custom_claims":  m{"plan": "pro"}, "metadata": m{"cart": 7},
		}).want(201)
		token, jwt, sid := c.str("session_token"), c.str("session_jwt"), c.str("session.session_id")
		if len(token) != events.TokenLen || len(sid) != 22 || c.str("revision") == "" || c.str("user.user_id") != "ada" {
			t.Fatalf("create: %s", c.Raw)
		}
		if got := claims(t, jwt); got["sid"] != sid || got["sub"] != "ada" || got["plan"] != "pro" || got["cart"] != nil ||
			fmt.Sprint(got["amr"]) != "[pwd otp mfa]" {
			t.Errorf("claims: %v", got)
		}
		for name, body := range map[string]m{"token": {"session_token": token}, "jwt": {"session_jwt": jwt}} {
			a := h.auth(body).want(200)
			if a.str("session.session_id") != sid || a.str("session.attributes.user_agent") != "<curl>" || a.at("session.metadata.cart") != 7.0 {
				t.Errorf("authenticate by %s: %s", name, a.Raw)
			}
			if a.str("session_jwt") != jwt {
				t.Errorf("authenticate by %s: a JWT with more than half of its life left was not reused", name)
			}
			if want := body["session_token"]; want != nil && a.str("session_token") != want {
				t.Errorf("authenticate by token: another token came back")
			} else if want == nil && a.str("session_token") != "" {
				t.Error("authenticate by JWT: the token was handed out though the app does not return it")
			}
		}
		h.verify(token).want(204)
		h.verify(jwt).want(204)
		g := h.do(h.key, "GET", "/v1/sessions/"+sid, nil).want(200)
		if g.str("session.status") != "active" || strings.Contains(string(g.Raw), token) {
			t.Errorf("get: %s", g.Raw)
		}

		r := h.do(h.key, "POST", "/v1/sessions/revoke", m{"session_id": sid, "reason": "stolen"}).want(200)
		if r.at("revoked") != 1.0 || r.str("receipt.status") != "complete" || r.str("revision") != r.str("receipt.revision") {
			t.Errorf("revoke: %s", r.Raw)
		}
		h.verify(token).wantRefused("revoked")
		h.verify(jwt).wantRefused("revoked")
		h.auth(m{"session_token": token}).wantEnded("revoked")
		h.auth(m{"session_jwt": jwt}).wantEnded("revoked")
		h.do(h.key, "POST", "/v1/sessions/"+sid+"/tokens", m{}).wantEnded("revoked")
		h.do(h.key, "PATCH", "/v1/sessions/"+sid, m{"metadata": m{"a": 1}}).wantEnded("revoked")
		h.do(h.key, "POST", "/v1/sessions/rotate", m{"session_token": token}).wantEnded("revoked")
		g = h.do(h.key, "GET", "/v1/sessions/"+sid, nil).want(200)
		if g.str("session.status") != "revoked" || g.str("session.revoke_reason") != "stolen" ||
			!strings.HasPrefix(g.str("session.revoked_by"), "key_") || g.str("session.revoked_at") == "" {
			t.Errorf("get after revoke: %s", g.Raw)
		}
		before := h.stored()
		again := h.do(h.key, "POST", "/v1/sessions/revoke", m{"session_token": token}).want(200)
		if again.at("revoked") != 0.0 || h.stored() != before {
			t.Errorf("second revoke: %s, and %d events were written", again.Raw, h.stored()-before)
		}
	})
}

func TestExpiredJWT(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		c := h.login("ada")
		jwt := c.str("session_jwt")
		time.Sleep(301 * time.Second)
		h.verify(jwt).wantRefused("expired")
		a := h.auth(m{"session_jwt": jwt}).want(200)
		fresh := a.str("session_jwt")
		if fresh == jwt || fresh == "" {
			t.Fatal("no new JWT for an expired one")
		}
		h.verify(fresh).want(204)
		h.do(h.key, "POST", "/v1/sessions/revoke", m{"session_jwt": jwt}).want(200)
		h.verify(fresh).wantRefused("revoked")
		h.auth(m{"session_jwt": jwt}).wantEnded("revoked")
	})
}

func TestJWTNeverOutlivesItsSession(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		time.Sleep(700 * time.Millisecond) // so that it ends within a second, not between two
		c := h.do(h.key, "POST", "/v1/sessions", m{"user_id": "ada", "session_duration_minutes": 2}).want(201)
		end, err := time.Parse(time.RFC3339, c.str("session.expires_at"))
		if err != nil {
			t.Fatal(err)
		}
		if exp := claims(t, c.str("session_jwt"))["exp"].(float64); exp > float64(end.Unix()) {
			t.Errorf("JWT until %v, session until %v", exp, end.Unix())
		}
		token := c.str("session_token")
		time.Sleep(2*time.Minute - 500*time.Millisecond)
		if a := h.auth(m{"session_token": token}).want(200); a.str("session_jwt") != "" {
			t.Errorf("a session that ends within the second has a JWT: %s", a.Raw)
		}
		time.Sleep(time.Second)
		h.auth(m{"session_token": token}).wantEnded("expired")
		h.verify(token).wantRefused("expired")
	})
}

func TestUserIDsComeBackVerbatim(t *testing.T) {
	ids := []string{
		"ada@example.com", "a.b.c", "*", ">", "$SYS", "$SYS.>", "../../etc/passwd", "a b", " lead", "trail ",
		"😀", "ünïcödé", "%41", "100%", `"quoted"`, `back\slash`, "<script>", "a/b?c=d&e#f", "-", "_config", "null",
		strings.Repeat("x", 256), strings.Repeat("é", 128), "\u202e", "a,b;c", "=", "\u200bzero-width",
	}
	bubble(t, func(t *testing.T, h *harness) {
		for _, id := range ids {
			c := h.login(id)
			sid := c.str("session.session_id")
			if c.str("session.user_id") != id || c.str("user.user_id") != id {
				t.Errorf("create: %q came back as %q", id, c.str("session.user_id"))
			}
			if got := claims(t, c.str("session_jwt"))["sub"]; got != id {
				t.Errorf("JWT: %q came back as %q", id, got)
			}
			if got := h.do(h.key, "GET", "/v1/sessions/"+sid, nil).want(200).str("session.user_id"); got != id {
				t.Errorf("get: %q came back as %q", id, got)
			}
			l := h.do(h.key, "GET", "/v1/sessions?user_id="+url.QueryEscape(id), nil).want(200)
			if l.at("total") != 1.0 {
				t.Errorf("list: %q has %v sessions", id, l.at("total"))
			}
			for _, cred := range []string{c.str("session_token"), c.str("session_jwt")} {
				v := h.verify(cred).want(204)
				if got, err := url.PathUnescape(v.Header.Get("X-Session-User")); err != nil || got != id {
					t.Errorf("verify: %q came back as %q (%v)", id, got, err)
				}
			}
			r := h.do(h.key, "POST", "/v1/sessions/revoke", m{"user_id": id}).want(200)
			if r.at("revoked") != 1.0 {
				t.Errorf("revoke %q: %s", id, r.Raw)
			}
			h.verify(c.str("session_token")).wantRefused("revoked")
		}
	})
}

// deep returns a JSON object nested n levels.
func deep(n int) string { return strings.Repeat(`{"a":`, n) + "1" + strings.Repeat("}", n) }

func TestBadInput(t *testing.T) {
	const (
		create = "POST /v1/sessions"
		auth   = "POST /v1/sessions/authenticate"
		revoke = "POST /v1/sessions/revoke"
		rotate = "POST /v1/sessions/rotate"
		patch  = "PATCH /v1/sessions/{sid}"
		mint   = "POST /v1/sessions/{sid}/tokens"
	)
	big := strings.Repeat("x", 70<<10)
	cases := []struct {
		route, body string
		status      int
		kind        string
	}{
		{create, ``, 400, "invalid_argument"},
		{create, `{}`, 400, "invalid_argument"},
		{create, `{"user_id":""}`, 400, "invalid_argument"},
		{create, `{"user_id":7}`, 400, "invalid_argument"},
		{create, `{"user_id":"a","sid":"x"}`, 400, "invalid_argument"},
		{create, `{"user_id":"a","session_token":"x"}`, 400, "invalid_argument"},
		{create, `{"user_id":"a"} {}`, 400, "invalid_argument"},
		{create, `{"user_id":"a"}x`, 400, "invalid_argument"},
		{create, `{"user_id":"a","user_id":"b"}`, 400, "invalid_argument"},
		{create, `["a"]`, 400, "invalid_argument"},
		{create, `{"user_id":"` + strings.Repeat("x", 257) + `"}`, 400, "invalid_argument"},
		{create, `{"user_id":"` + strings.Repeat("é", 129) + `"}`, 400, "invalid_argument"},
		{create, `{"user_id":"a\u0000b"}`, 400, "invalid_argument"},
		{create, `{"user_id":"a\nb"}`, 400, "invalid_argument"},
		{create, `{"user_id":"a\u007f"}`, 400, "invalid_argument"},
		{create, `{"user_id":"a\u0085"}`, 400, "invalid_argument"},
		{create, "{\"user_id\":\"a\xffb\"}", 400, "invalid_argument"},
		{create, `{"user_id":"a\ud800"}`, 400, "invalid_argument"},
		{create, `{"user_id":"a","session_duration_minutes":-1}`, 400, "invalid_argument"},
		{create, `{"user_id":"a","session_duration_minutes":527041}`, 400, "invalid_argument"},
		{create, `{"user_id":"a","session_duration_minutes":1.5}`, 400, "invalid_argument"},
		{create, `{"user_id":"a","idle_timeout_minutes":-1}`, 400, "invalid_argument"},
		{create, `{"user_id":"a","absolute_lifetime_minutes":527041}`, 400, "invalid_argument"},
		{create, `{"user_id":"a","authentication_factors":{}}`, 400, "invalid_argument"},
		{create, `{"user_id":"a","authentication_factors":[1]}`, 400, "invalid_argument"},
		{create, `{"user_id":"a","authentication_factors":[{}]}`, 400, "invalid_argument"},
		{create, `{"user_id":"a","authentication_factors":[{"type":7}]}`, 400, "invalid_argument"},
		{create, `{"user_id":"a","authentication_factors":[{"type":"x","f":` + deep(6) + `}]}`, 400, "invalid_argument"},
		{create, `{"user_id":"a","attributes":{"ip_address":7}}`, 400, "invalid_argument"},
		{create, `{"user_id":"a","attributes":{"user_agent":"a\u0000"}}`, 400, "invalid_argument"},
		{create, `{"user_id":"a","attributes":{"other":"x"}}`, 400, "invalid_argument"},
		{create, `{"user_id":"a","session_custom_claims":[]}`, 400, "invalid_argument"},
		{create, `{"user_id":"a","session_custom_claims":{"sub":"x"}}`, 400, "invalid_argument"},
		{create, `{"user_id":"a","session_custom_claims":{"exp":1}}`, 400, "invalid_argument"},
		{create, `{"user_id":"a","session_custom_claims":{"https://stytch.com/session":{}}}`, 400, "invalid_argument"},
		{create, `{"user_id":"a","session_custom_claims":` + deep(9) + `}`, 400, "invalid_argument"},
		{create, `{"user_id":"a","session_custom_claims":{"x":"` + strings.Repeat("y", 4097) + `"}}`, 413, "claims_too_large"},
		{create, `{"user_id":"a","metadata":"x"}`, 400, "invalid_argument"},
		{create, `{"user_id":"a","metadata":{"x":"` + strings.Repeat("y", 8192) + `"}}`, 413, "claims_too_large"},
		{create, `{"user_id":"a","auth_revision":"yesterday"}`, 400, "invalid_argument"},
		{create, `{"user_id":"a","auth_revision":"us:0:1"}`, 400, "invalid_argument"},
		{create, `{"user_id":"` + big + `"}`, 413, "body_too_large"},

		{auth, `{}`, 400, "invalid_argument"},
		{auth, `{"session_token":""}`, 400, "invalid_argument"},
		{auth, `{"session_token":"a","session_jwt":"b"}`, 400, "too_many_session_arguments"},
		{auth, `{"session_id":"{sid}"}`, 400, "invalid_argument"},
		{auth, `{"session_token":7}`, 400, "invalid_argument"},
		{auth, `{"session_token":"{token}","authorization_check":{}}`, 400, "invalid_argument"},
		{auth, `{"session_token":"{token}","session_duration_minutes":-5}`, 400, "invalid_argument"},
		{auth, `{"session_token":"{token}","session_custom_claims":{"iss":"x"}}`, 400, "invalid_argument"},
		{auth, `{"session_token":"{token}","session_custom_claims":"x"}`, 400, "invalid_argument"},
		{auth, `{"session_token":"{token}","session_custom_claims":{"x":"` + strings.Repeat("y", 4097) + `"}}`, 413, "claims_too_large"},
		{auth, `{"session_token":"{token}","consistency":"eventual"}`, 400, "invalid_argument"},
		{auth, `{"session_token":"{token}","consistency":7}`, 400, "invalid_argument"},
		{auth, `{"session_token":"{token}","consistency":{}}`, 400, "invalid_argument"},
		{auth, `{"session_token":"{token}","consistency":{"at_least":"x"}}`, 400, "invalid_argument"},
		{auth, `{"session_token":"{token}","consistency":{"at_least":"mars:0:1"}}`, 400, "invalid_argument"},
		{auth, `{"session_token":"{token}","consistency":{"at_least":"eu:0:1","or":1}}`, 400, "invalid_argument"},

		{revoke, `{}`, 400, "invalid_argument"},
		{revoke, `{"all":false}`, 400, "invalid_argument"},
		{revoke, `{"session_id":"{sid}","session_token":"{token}"}`, 400, "too_many_session_arguments"},
		{revoke, `{"session_id":"{sid}","user_id":"ada"}`, 400, "too_many_session_arguments"},
		{revoke, `{"all":true,"user_id":"ada"}`, 400, "too_many_session_arguments"},
		{revoke, `{"session_id":"{sid}","except_session_id":"{sid}"}`, 400, "invalid_argument"},
		{revoke, `{"session_id":"short"}`, 400, "invalid_argument"},
		{revoke, `{"user_id":"ada","except_session_id":"short"}`, 400, "invalid_argument"},
		{revoke, `{"user_id":"a\u0000"}`, 400, "invalid_argument"},
		{revoke, `{"session_id":"{sid}","wait":"some"}`, 400, "invalid_argument"},
		{revoke, `{"session_id":"{sid}","reason":"a\u0007"}`, 400, "invalid_argument"},
		{revoke, `{"session_id":"{sid}","reason":"` + strings.Repeat("x", 257) + `"}`, 400, "invalid_argument"},
		{revoke, `{"session_id":"{sid}","at":1}`, 400, "invalid_argument"},

		{rotate, `{}`, 400, "invalid_argument"},
		{rotate, `{"session_token":"{token}","session_jwt":"x"}`, 400, "too_many_session_arguments"},
		{rotate, `{"session_token":"{token}","grace_seconds":61}`, 400, "invalid_argument"},
		{rotate, `{"session_token":"{token}","grace_seconds":-1}`, 400, "invalid_argument"},

		{patch, `{"session_custom_claims":{"jti":"x"}}`, 400, "invalid_argument"},
		{patch, `{"session_custom_claims":{"jti":null}}`, 400, "invalid_argument"},
		{patch, `{"metadata":[]}`, 400, "invalid_argument"},
		{patch, `{"metadata":{"x":"` + strings.Repeat("y", 8192) + `"}}`, 413, "claims_too_large"},
		{patch, `{"add_authentication_factors":[{"kind":"x"}]}`, 400, "invalid_argument"},
		{patch, `{"session_duration_minutes":-1}`, 400, "invalid_argument"},
		{patch, `{"user_id":"eve"}`, 400, "invalid_argument"},
		{patch, `{"expires_at":1}`, 400, "invalid_argument"},

		{mint, `{"template":"none"}`, 404, "not_found"},
		{mint, `{"ttl_seconds":-1}`, 400, "invalid_argument"},
		{mint, `{"ttl_seconds":301}`, 400, "invalid_argument"},
		{mint, `{"audience":"x"}`, 400, "invalid_argument"},
	}
	bubble(t, func(t *testing.T, h *harness) {
		c := h.login("ada")
		fill := strings.NewReplacer("{sid}", c.str("session.session_id"), "{token}", c.str("session_token"))
		before := h.stored()
		for _, tc := range cases {
			method, path, _ := strings.Cut(fill.Replace(tc.route), " ")
			r := h.do(h.key, method, path, fill.Replace(tc.body))
			if r.Status != tc.status || r.str("error_type") != tc.kind {
				t.Errorf("%s %.80s: %d %s, want %d %s", tc.route, tc.body, r.Status, r.Raw, tc.status, tc.kind)
			}
		}
		for _, path := range []string{
			"?user_id=", "?user_id=a%00", "?limit=0", "?limit=501", "?limit=x", "?cursor=x", "?status=dead", "?user=ada", "?limit=1&limit=2", "?%zz",
		} {
			r := h.do(h.key, "GET", "/v1/sessions"+path, nil)
			if r.Status != 400 || r.str("error_type") != "invalid_argument" {
				t.Errorf("GET /v1/sessions%s: %d %s", path, r.Status, r.Raw)
			}
		}
		for _, key := range []string{"", strings.Repeat("k", 257), "tab\tkey", "schlüssel"} {
			r := h.do(h.key, "POST", "/v1/sessions", m{"user_id": "a"}, "Idempotency-Key", key)
			if r.Status != 400 {
				t.Errorf("Idempotency-Key %q: %d %s", key, r.Status, r.Raw)
			}
		}
		if got := h.stored(); got != before {
			t.Errorf("%d events were written", got-before)
		}
		h.verify(c.str("session_token")).want(204)
	})
}

func TestGarbageCredentialsAreUnknown(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		c := h.login("ada")
		jwt := c.str("session_jwt")
		head, rest, _ := strings.Cut(jwt, ".")
		for _, g := range []string{
			"x", ".", "..", "a.b.c", "sk_x", strings.Repeat("A", 44), strings.Repeat("=", 44), strings.Repeat("x", 9000),
			c.str("session_token")[:43], c.str("session_token") + "A", " " + c.str("session_token"), "😀", "\u0000",
			head + "." + rest[:len(rest)-4] + "AAAA", head + ".e30." + rest[strings.LastIndex(rest, ".")+1:], "eyJhbGciOiJub25lIn0." + rest,
		} {
			for _, member := range []string{"session_token", "session_jwt"} {
				h.auth(m{member: g}).wantEnded("unknown")
				h.do(h.key, "POST", "/v1/sessions/rotate", m{member: g}).wantEnded("unknown")
				if r := h.do(h.key, "POST", "/v1/sessions/revoke", m{member: g}).want(200); r.at("revoked") != 0.0 {
					t.Errorf("revoke %q: %s", g, r.Raw)
				}
			}
		}
		h.auth(m{"session_token": jwt}).wantEnded("unknown")
		h.auth(m{"session_jwt": c.str("session_token")}).wantEnded("unknown")
		for _, sid := range []string{"x", strings.Repeat("A", 22), strings.Repeat("A", 23), "%00", "😀"} {
			h.do(h.key, "GET", "/v1/sessions/"+url.PathEscape(sid), nil).wantEnded("unknown")
			h.do(h.key, "DELETE", "/v1/sessions/"+url.PathEscape(sid), nil).wantEnded("unknown")
			h.do(h.key, "PATCH", "/v1/sessions/"+url.PathEscape(sid), m{}).wantEnded("unknown")
			h.do(h.key, "POST", "/v1/sessions/"+url.PathEscape(sid)+"/tokens", m{}).wantEnded("unknown")
			h.do(h.key, "GET", "/v1/sessions/"+url.PathEscape(sid)+"/events", nil).wantEnded("unknown")
		}
	})
}

func TestTenantsCannotSeeEachOther(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		c := h.login("ada")
		token, jwt, sid := c.str("session_token"), c.str("session_jwt"), c.str("session.session_id")
		other := h.newApp("other", nil)
		before := h.stored()
		for _, body := range []m{{"session_token": token}, {"session_jwt": jwt}} {
			h.do(other, "POST", "/v1/sessions/authenticate", body).wantEnded("unknown")
			h.do(other, "POST", "/v1/sessions/rotate", body).wantEnded("unknown")
			if r := h.do(other, "POST", "/v1/sessions/revoke", body).want(200); r.at("revoked") != 0.0 {
				t.Errorf("revoke: %s", r.Raw)
			}
		}
		if r := h.do(other, "POST", "/v1/sessions/revoke", m{"session_id": sid}).want(200); r.at("revoked") != 0.0 {
			t.Errorf("revoke by id: %s", r.Raw)
		}
		h.do(other, "GET", "/v1/sessions/"+sid, nil).wantEnded("unknown")
		h.do(other, "DELETE", "/v1/sessions/"+sid, nil).wantEnded("unknown")
		h.do(other, "PATCH", "/v1/sessions/"+sid, m{"metadata": m{"a": 1}}).wantEnded("unknown")
		h.do(other, "POST", "/v1/sessions/"+sid+"/tokens", m{}).wantEnded("unknown")
		h.do(other, "GET", "/v1/sessions/"+sid+"/events", nil).wantEnded("unknown")
		for _, q := range []string{"", "?user_id=ada", "?status=all"} {
			if l := h.do(other, "GET", "/v1/sessions"+q, nil).want(200); l.at("total") != 0.0 {
				t.Errorf("list%s: %s", q, l.Raw)
			}
		}
		if got := h.stored(); got != before {
			t.Errorf("%d events were written", got-before)
		}
		// What concerns all of a tenant stays within it.
		for _, body := range []m{{"all": true}, {"user_id": "ada"}} {
			if r := h.do(other, "POST", "/v1/sessions/revoke", body).want(200); r.at("revoked") != 0.0 {
				t.Errorf("revoke %v: %s", body, r.Raw)
			}
		}
		h.verify(token).want(204)
		h.do(token, "GET", "/v1/verify?app=acme", nil).want(204)
		h.do(token, "GET", "/v1/verify?app=other", nil).wantRefused("unknown")
		h.do(jwt, "GET", "/v1/verify?app=other", nil).wantRefused("unknown")
		h.do(jwt, "GET", "/v1/verify?app=acme", nil).want(204)
	})
}

// A JWT of a node whose clock is ahead says nothing against its session: it is
// told apart from one of a session that has ended, and revokes.
func TestJWTFromTheFuture(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		clock := &testClock{begin: time.Now()} // the node's; the log has another
		h := newHarness(t, func(c *node.Config) { c.Clock = clock })
		clock.setSkew(25 * time.Second)
		c := h.login("ada")
		token, jwt := c.str("session_token"), c.str("session_jwt")
		clock.setSkew(0)
		h.verify(token).want(http.StatusNoContent)
		h.verify(jwt).wantRefused("not_yet_valid")
		h.do(jwt, "GET", "/v1/verify?body=1", nil).wantError(http.StatusUnauthorized, "jwt_not_yet_valid")
		h.auth(m{"session_jwt": jwt}).wantError(http.StatusUnauthorized, "jwt_not_yet_valid")
		h.do(h.key, "POST", "/v1/sessions/rotate", m{"session_jwt": jwt}).wantError(http.StatusUnauthorized, "jwt_not_yet_valid")
		forged := jwt[:len(jwt)-6] + "AAAAAA"
		if r := h.do(h.key, "POST", "/v1/sessions/revoke", m{"session_jwt": forged}).want(http.StatusOK); r.at("revoked") != 0.0 {
			t.Errorf("a forged JWT revokes: %s", r.Raw)
		}
		h.verify(token).want(http.StatusNoContent)
		r := h.do(h.key, "POST", "/v1/sessions/revoke", m{"session_jwt": jwt, "wait": "all"}).want(http.StatusOK)
		if r.at("revoked") != 1.0 || r.str("receipt.status") != "complete" {
			t.Errorf("revoked: %s", r.Raw)
		}
		h.verify(token).wantRefused("revoked")
		h.verify(jwt).wantRefused("not_yet_valid")
	})
}
