package node_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/revocast/revocast/node"
	"github.com/revocast/revocast/node/api"
	"github.com/revocast/revocast/node/outbound"
)

const (
	idp    = "https://idp.example.com/"
	idpURL = "https://idp.example.com/jwks.json"
	login1 = "/v1/sessions/attest"
)

// foreignKey is a signing key of an issuer that is not this system.
type foreignKey struct {
	kid  string
	priv *ecdsa.PrivateKey
}

func newForeignKey(t testing.TB, kid string) foreignKey {
	t.Helper()
	priv, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return foreignKey{kid, priv}
}

func (k foreignKey) jwk() map[string]any {
	point, _ := k.priv.PublicKey.Bytes()
	b64 := base64.RawURLEncoding.EncodeToString
	return map[string]any{"kty": "EC", "crv": "P-256", "kid": k.kid, "use": "sig", "alg": "ES256", "x": b64(point[1:33]), "y": b64(point[33:])}
}

func jwks(keys ...foreignKey) map[string]any {
	set := []any{}
	for _, k := range keys {
		set = append(set, k.jwk())
	}
	return map[string]any{"keys": set}
}

// sign makes a JWT with this header and these claims, whatever they are.
func (k foreignKey) sign(t testing.TB, header, claims map[string]any) string {
	t.Helper()
	part := func(v any) string {
		text, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return base64.RawURLEncoding.EncodeToString(text)
	}
	input := part(header) + "." + part(claims)
	digest := sha256.Sum256([]byte(input))
	r, s, err := ecdsa.Sign(rand.Reader, k.priv, digest[:])
	if err != nil {
		t.Fatal(err)
	}
	sig := make([]byte, 64)
	r.FillBytes(sig[:32])
	s.FillBytes(sig[32:])
	return input + "." + base64.RawURLEncoding.EncodeToString(sig)
}

// jwt makes a good one for the user, with the changes (nil removes a claim).
func (k foreignKey) jwt(t testing.TB, user string, changes map[string]any) string {
	t.Helper()
	now := time.Now().Unix()
	claims := map[string]any{"iss": idp, "aud": "shop", "sub": user, "iat": now, "exp": now + 600, "jti": "j-" + user}
	for name, v := range changes {
		if claims[name] = v; v == nil {
			delete(claims, name)
		}
	}
	return k.sign(t, map[string]any{"alg": "ES256", "kid": k.kid, "typ": "JWT"}, claims)
}

// keyServer answers for the keys of issuers in memory, and counts.
type keyServer struct {
	mu      sync.Mutex // guards the rest
	fetches int
	delay   time.Duration
	status  int
	header  http.Header
	body    any
	err     error
}

func (s *keyServer) Check(text string) error { return outbound.New().Check(text) }

func (s *keyServer) Do(ctx context.Context, _ *http.Request, limit int64) (*outbound.Answer, error) {
	s.mu.Lock()
	s.fetches++
	delay, status, header, err := s.delay, s.status, s.header, s.err
	body, _ := json.Marshal(s.body)
	s.mu.Unlock()
	select {
	case <-time.After(delay):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if err == nil && int64(len(body)) > limit {
		err = errors.New("too large")
	}
	return &outbound.Answer{Status: status, Header: header, Body: body}, err
}

func (s *keyServer) set(change func(*keyServer)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(s)
}

func (s *keyServer) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.fetches
}

// attesting runs the test with an app that trusts an issuer, whose keys a server
// in memory has.
func attesting(t *testing.T, test func(t *testing.T, h *harness, s *keyServer, k foreignKey)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		k := newForeignKey(t, "k1")
		s := &keyServer{status: 200, header: http.Header{}, body: jwks(k)}
		h := newHarness(t, func(c *node.Config) { c.Outbound = s })
		h.register("idp", map[string]any{"jwks_uri": idpURL})
		test(t, h, s, k)
	})
}

// register puts an issuer, with the changes to what is usual.
func (h *harness) register(id string, changes map[string]any) *reply {
	h.t.Helper()
	body := map[string]any{"issuer": idp, "audience": "shop"}
	maps.Copy(body, changes)
	return h.do(h.key, "PUT", "/v1/apps/acme/issuers/"+id, body).want(200)
}

func (h *harness) attest(token string, changes map[string]any) *reply {
	h.t.Helper()
	body := map[string]any{"profile_id": "idp", "token": token}
	maps.Copy(body, changes)
	return h.do(h.key, "POST", login1, body)
}

func TestAttest(t *testing.T) {
	attesting(t, func(t *testing.T, h *harness, s *keyServer, k foreignKey) {
		r := h.attest(k.jwt(t, "ada", nil), map[string]any{
			"session_duration_minutes": 30, "session_custom_claims": map[string]any{"plan": "pro"}, "telemetry_id": "t",
		}).want(200)
		if r.str("user_id") != "ada" || r.str("user.user_id") != "ada" || r.str("session.user_id") != "ada" || r.str("session.custom_claims.plan") != "pro" {
			t.Errorf("answer %s", r.Raw)
		}
		h.wantVerify(r.str("session_token"), 204, "-")
		h.wantVerify(r.str("session_jwt"), 204, "-")
		f := r.at("session.authentication_factors").([]any)[0].(map[string]any)
		if f["type"] != "trusted_auth_token" || f["delivery_method"] != "trusted_token_exchange" || f["trusted_auth_token_factor"].(map[string]any)["token_id"] != "j-ada" {
			t.Errorf("factor %v", f)
		}
		// Each time another session.
		again := h.attest(k.jwt(t, "ada", nil), nil).want(200)
		if again.str("session.session_id") == r.str("session.session_id") {
			t.Error("two attests made one session")
		}
		if s.count() != 1 {
			t.Errorf("%d fetches", s.count())
		}

		// The app's other secrets stay its own: another app does not know the issuer.
		other := h.newApp("other", nil)
		h.do(other, "POST", login1, map[string]any{"profile_id": "idp", "token": k.jwt(t, "ada", nil)}).wantError(404, api.NotFound)
		h.do(h.apiKey("acme", api.ScopeVerify), "POST", login1, map[string]any{"profile_id": "idp", "token": "x"}).wantError(403, api.Forbidden)

		for name, c := range map[string]struct {
			body   map[string]any
			status int
			kind   string
		}{
			"no token":    {map[string]any{"token": ""}, 400, api.InvalidArgument},
			"no profile":  {map[string]any{"profile_id": ""}, 400, api.InvalidArgument},
			"two":         {map[string]any{"session_token": "a", "session_jwt": "b"}, 400, api.TooManyArguments},
			"duration":    {map[string]any{"session_duration_minutes": 527_041}, 400, api.InvalidArgument},
			"reserved":    {map[string]any{"session_custom_claims": map[string]any{"sub": "x"}}, 400, api.InvalidArgument},
			"large":       {map[string]any{"session_custom_claims": map[string]any{"a": strings.Repeat("x", 4096)}}, 413, api.ClaimsTooLarge},
			"unknown":     {map[string]any{"roles": []string{"admin"}}, 400, api.InvalidArgument},
			"no such idp": {map[string]any{"profile_id": "other"}, 404, api.NotFound},
			"no session":  {map[string]any{"session_token": "x"}, 404, api.SessionNotFound},
		} {
			t.Log(name)
			h.attest(k.jwt(t, "eve", nil), c.body).wantError(c.status, c.kind)
		}
		if r := h.do(h.key, "GET", "/v1/sessions?user_id=eve&status=all", nil).want(200); r.at("total") != 0.0 {
			t.Errorf("refused, and stored: %s", r.Raw)
		}
	})
}

// TestAttestRefused has a JWT for each thing that must be right.
func TestAttestRefused(t *testing.T) {
	attesting(t, func(t *testing.T, h *harness, s *keyServer, k foreignKey) {
		now := time.Now().Unix()
		claims := map[string]any{"iss": idp, "aud": "shop", "sub": "eve", "iat": now, "exp": now + 600}
		head := func(changes map[string]any) string {
			header := map[string]any{"alg": "ES256", "kid": "k1", "typ": "JWT"}
			maps.Copy(header, changes)
			return k.sign(t, header, claims)
		}
		stranger := newForeignKey(t, "k1")
		good := k.jwt(t, "eve", nil)
		cases := map[string]struct{ token, reason string }{
			"another issuer":   {k.jwt(t, "eve", map[string]any{"iss": idp + "x"}), "wrong_issuer"},
			"no issuer":        {k.jwt(t, "eve", map[string]any{"iss": nil}), "bad_claims"},
			"another audience": {k.jwt(t, "eve", map[string]any{"aud": "bank"}), "wrong_audience"},
			"two audiences":    {k.jwt(t, "eve", map[string]any{"aud": []string{"shop", "bank"}}), "wrong_audience"},
			"no audience":      {k.jwt(t, "eve", map[string]any{"aud": nil}), "bad_claims"},
			"expired":          {k.jwt(t, "eve", map[string]any{"iat": now - 600, "exp": now - 6}), "expired"},
			"no exp":           {k.jwt(t, "eve", map[string]any{"exp": nil}), "bad_claims"},
			"no iat":           {k.jwt(t, "eve", map[string]any{"iat": nil}), "bad_claims"},
			"exp is text":      {k.jwt(t, "eve", map[string]any{"exp": fmt.Sprint(now + 600)}), "bad_claims"},
			"exp has parts":    {k.jwt(t, "eve", map[string]any{"exp": float64(now) + 0.5}), "bad_claims"},
			"lives too long":   {k.jwt(t, "eve", map[string]any{"exp": now + 90_000}), "bad_claims"},
			"from the future":  {k.jwt(t, "eve", map[string]any{"iat": now + 6}), "not_yet_valid"},
			"nbf ahead":        {k.jwt(t, "eve", map[string]any{"nbf": now + 6}), "not_yet_valid"},
			"nbf is text":      {k.jwt(t, "eve", map[string]any{"nbf": "now"}), "bad_claims"},
			"no user":          {k.jwt(t, "eve", map[string]any{"sub": nil}), "no_user_id"},
			"user is a number": {k.jwt(t, "eve", map[string]any{"sub": 7}), "no_user_id"},
			"user too long":    {k.jwt(t, strings.Repeat("u", 257), nil), "bad_user_id"},
			"logout token":     {k.jwt(t, "eve", map[string]any{"events": map[string]any{}}), "wrong_type"},
			"another's key":    {stranger.jwt(t, "eve", nil), "bad_signature"},
			"alg none":         {strings.Join(append(strings.Split(head(map[string]any{"alg": "none"}), ".")[:2], ""), "."), "malformed"},
			"alg HS256":        {head(map[string]any{"alg": "HS256"}), "bad_signature"},
			"alg RS256":        {head(map[string]any{"alg": "RS256"}), "bad_signature"},
			"no kid":           {head(map[string]any{"kid": ""}), "malformed"},
			"crit":             {head(map[string]any{"crit": []string{"exp"}}), "malformed"},
			"b64":              {head(map[string]any{"b64": false}), "malformed"},
			"jku":              {head(map[string]any{"jku": "https://evil.example/"}), "malformed"},
			"jwk":              {head(map[string]any{"jwk": stranger.jwk()}), "malformed"},
			"x5u":              {head(map[string]any{"x5u": "https://evil.example/"}), "malformed"},
			"x5c":              {head(map[string]any{"x5c": []string{"AA"}}), "malformed"},
			"zip":              {head(map[string]any{"zip": "DEF"}), "malformed"},
			"nested":           {head(map[string]any{"cty": "JWT"}), "malformed"},
			"logout typ":       {head(map[string]any{"typ": "logout+jwt"}), "wrong_type"},
			"event typ":        {head(map[string]any{"typ": "secevent+jwt"}), "wrong_type"},
			"not three parts":  {"a.b", "malformed"},
			"line break":       {good[:20] + "\n" + good[20:], "malformed"},
			"padding":          {good + "=", "malformed"},
			"one bit":          {flipLast(good), "malformed"},
			"too long":         {k.jwt(t, "eve", map[string]any{"pad": strings.Repeat("x", 8192)}), "malformed"},
			"a session's own":  {h.login("eve").str("session_jwt"), "unknown_key"},
		}
		for name, c := range cases {
			t.Log(name)
			r := h.attest(c.token, nil).wantError(401, api.AttestationFailed)
			if got := r.str("error_details.reason"); got != c.reason {
				t.Errorf("%s: reason %q, want %q", name, got, c.reason)
			}
			told := strings.Replace(string(r.Raw), r.str("request_id"), "", 1) // which is random
			if strings.Contains(told, "eve") || strings.Contains(told, "idp.example") {
				t.Errorf("%s: the answer tells too much: %s", name, r.Raw)
			}
		}
		if r := h.do(h.key, "GET", "/v1/sessions?user_id=eve&status=all", nil).want(200); r.at("total") != 1.0 {
			t.Errorf("refused, and stored: %s", r.Raw)
		}
		// What leaves nothing to wish for, at the edges of what is allowed.
		for name, token := range map[string]string{
			"no typ":         k.sign(t, map[string]any{"alg": "ES256", "kid": "k1"}, claims),
			"at+jwt":         head(map[string]any{"typ": "at+jwt"}),
			"x5t":            head(map[string]any{"x5t": "abc"}),
			"4 s ahead":      k.jwt(t, "eve", map[string]any{"iat": now + 4}),
			"expired lately": k.jwt(t, "eve", map[string]any{"iat": now - 600, "exp": now - 4}),
			"aud a list":     k.jwt(t, "eve", map[string]any{"aud": []string{"shop"}}),
		} {
			if r := h.attest(token, nil); r.Status != 200 {
				t.Errorf("%s: %s", name, r.Raw)
			}
		}
	})
}

// flipLast changes the bits of the last character that stand for nothing.
func flipLast(token string) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	last := strings.IndexByte(alphabet, token[len(token)-1])
	return token[:len(token)-1] + string(alphabet[last^1])
}

func TestAttestSettings(t *testing.T) {
	attesting(t, func(t *testing.T, h *harness, s *keyServer, k foreignKey) {
		h.register("idp", map[string]any{
			"jwks": jwks(k), "user_id_claim": "email", "user_id_prefix": "idp|", "algs": []string{"ES256"}, "max_age_seconds": 60, "max_session_minutes": 10,
			"claims": map[string]string{"https://idp/groups": "groups", "absent": "none"},
			"factor": map[string]string{"type": "sso", "delivery_method": "sso_oidc"},
		})
		mail := map[string]any{"email": "ada@example.com", "email_verified": true, "https://idp/groups": []string{"a", "b"}, "auth_time": time.Now().Unix() - 300}
		r := h.attest(k.jwt(t, "x", mail), map[string]any{"session_duration_minutes": 600}).want(200)
		if r.str("user_id") != "idp|ada@example.com" || fmt.Sprint(r.at("session.custom_claims")) != "map[groups:[a b]]" {
			t.Errorf("%s", r.Raw)
		}
		f := r.at("session.authentication_factors").([]any)[0].(map[string]any)
		if at, _ := time.Parse(time.RFC3339, f["last_authenticated_at"].(string)); f["type"] != "sso" || time.Since(at) != 300*time.Second {
			t.Errorf("factor %v", f)
		}
		// It never outlives what the issuer may give.
		token := r.str("session_token")
		end, _ := time.Parse(time.RFC3339, r.str("session.absolute_expires_at"))
		if time.Until(end) != 10*time.Minute {
			t.Errorf("ends in %v", time.Until(end))
		}
		h.do(h.key, "POST", "/v1/sessions/authenticate", map[string]any{"session_token": token, "session_duration_minutes": 600}).want(200)
		time.Sleep(10*time.Minute + time.Second)
		h.wantVerify(token, 401, "expired")

		mail["email_verified"] = "true"
		r = h.attest(k.jwt(t, "x", mail), nil).wantError(401, api.AttestationFailed)
		if r.str("error_details.reason") != "email_not_verified" {
			t.Errorf("%s", r.Raw)
		}
		mail["email_verified"], mail["iat"] = true, time.Now().Unix()-70
		h.attest(k.jwt(t, "x", mail), nil).wantError(401, api.AttestationFailed)
		h.register("idp", map[string]any{"jwks": jwks(k), "algs": []string{"RS256"}})
		h.attest(k.jwt(t, "x", nil), nil).wantError(401, api.AttestationFailed)
		h.do(h.key, "DELETE", "/v1/apps/acme/issuers/idp", nil).want(200)
		h.attest(k.jwt(t, "x", nil), nil).wantError(404, api.NotFound)
		if s.count() != 0 {
			t.Errorf("%d fetches, with the keys in hand", s.count())
		}
	})
}

// TestAttestAdds adds a JWT of an issuer to a session that is there.
func TestAttestAdds(t *testing.T) {
	attesting(t, func(t *testing.T, h *harness, _ *keyServer, k foreignKey) {
		h.do(h.key, "PATCH", "/v1/apps/acme", map[string]any{"return_token": true}).want(200)
		ada := h.do(h.key, "POST", "/v1/sessions", map[string]any{
			"user_id": "ada", "session_duration_minutes": 60, "session_custom_claims": map[string]any{"a": 1, "b": 2},
		}).want(201)
		for range 2 { // the second replaces the first
			time.Sleep(time.Minute)
			r := h.attest(k.jwt(t, "ada", nil), map[string]any{
				"session_jwt": ada.str("session_jwt"), "session_duration_minutes": 600, "session_custom_claims": map[string]any{"b": nil, "c": 3},
			}).want(200)
			if r.str("session.session_id") != ada.str("session.session_id") || r.str("session_token") != ada.str("session_token") ||
				len(r.at("session.authentication_factors").([]any)) != 1 || fmt.Sprint(r.at("session.custom_claims")) != "map[a:1 c:3]" {
				t.Errorf("%s", r.Raw)
			}
			if end, _ := time.Parse(time.RFC3339, r.str("session.expires_at")); time.Until(end) != 10*time.Hour {
				t.Errorf("ends in %v", time.Until(end))
			}
		}
		r := h.attest(k.jwt(t, "eve", nil), map[string]any{"session_token": ada.str("session_token")}).wantError(401, api.AttestationFailed)
		if r.str("error_details.reason") != "user_mismatch" {
			t.Errorf("%s", r.Raw)
		}
		h.do(h.key, "POST", "/v1/sessions/revoke", map[string]any{"session_token": ada.str("session_token")}).want(200)
		h.attest(k.jwt(t, "ada", nil), map[string]any{"session_token": ada.str("session_token")}).wantError(404, api.SessionNotFound)
	})
}

func TestExchangeAccessToken(t *testing.T) {
	attesting(t, func(t *testing.T, h *harness, _ *keyServer, k foreignKey) {
		const path = "/v1/sessions/exchange_access_token"
		h.register("a-decoy", map[string]any{"jwks": jwks(newForeignKey(t, "k1"))})
		h.register("elsewhere", map[string]any{"issuer": "https://elsewhere.example", "jwks": jwks(k)})
		r := h.do(h.key, "POST", path, map[string]any{"access_token": k.jwt(t, "ada", nil), "session_duration_minutes": 5, "telemetry_id": "x"}).want(200)
		if r.str("user_id") != "ada" || r.str("session_token") == "" || r.str("session_jwt") == "" {
			t.Errorf("%s", r.Raw)
		}
		for _, token := range []string{k.jwt(t, "ada", map[string]any{"iss": "https://nobody.example"}), k.jwt(t, "ada", map[string]any{"aud": "bank"}), "x.y.z", newForeignKey(t, "k1").jwt(t, "ada", nil)} {
			h.do(h.key, "POST", path, map[string]any{"access_token": token}).wantError(401, api.AttestationFailed)
		}
		h.do(h.key, "POST", path, map[string]any{}).wantError(400, api.InvalidArgument)
	})
}

func TestMigrate(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		s := h.login("ada")
		r := h.do(h.key, "POST", "/v1/sessions/migrate", map[string]any{"session_token": s.str("session_token"), "session_duration_minutes": 60, "telemetry_id": "x"}).want(200)
		if r.str("user_id") != "ada" || r.str("session.session_id") != s.str("session.session_id") {
			t.Errorf("%s", r.Raw)
		}
		h.do(h.key, "POST", "/v1/sessions/migrate", map[string]any{"session_token": "s:foreign.token"}).wantError(404, api.SessionNotFound)
		h.imports(h.key, m{"token": "s:foreign.token", "user_id": "bob"}).wantCounts(1, 0, 0, 0, 0)
		r = h.do(h.key, "POST", "/v1/sessions/migrate", map[string]any{"session_token": "s:foreign.token", "session_custom_claims": map[string]any{"a": 1}}).want(200)
		if r.str("user_id") != "bob" || r.str("session_token") == "" || r.str("session_jwt") == "" || r.at("session.custom_claims.a") != 1.0 {
			t.Errorf("%s", r.Raw)
		}
		h.do(h.key, "POST", "/v1/sessions/migrate", map[string]any{}).wantError(400, api.InvalidArgument)
	})
}

// TestIssuerKeys counts what is asked of an issuer.
func TestIssuerKeys(t *testing.T) {
	attesting(t, func(t *testing.T, h *harness, s *keyServer, k foreignKey) {
		step := func(name string, want int) {
			t.Helper()
			if got := s.count(); got != want {
				t.Fatalf("%s: %d fetches, want %d", name, got, want)
			}
		}
		// Many at once wait for one answer.
		s.set(func(s *keyServer) { s.delay = time.Second })
		var all sync.WaitGroup
		for range 20 {
			all.Go(func() { h.attest(k.jwt(t, "ada", nil), nil).want(200) })
		}
		all.Wait()
		step("twenty at once", 1)

		// A flood of unknown kids has the effect of one fetch in ten seconds.
		s.set(func(s *keyServer) { s.delay = 0 })
		begin := time.Now()
		for i := range 300 {
			h.attest(newForeignKey(t, fmt.Sprint("x", i)).jwt(t, "eve", nil), nil).wantError(401, api.AttestationFailed)
			time.Sleep(100 * time.Millisecond)
		}
		if n, most := s.count()-1, int(time.Since(begin)/(10*time.Second))+1; n > most || n < most-2 {
			t.Fatalf("a flood of %v: %d fetches, want about %d", time.Since(begin), n, most)
		}

		// A new key is found.
		next, was := newForeignKey(t, "k2"), s.count()
		s.set(func(s *keyServer) { s.body = jwks(k, next) })
		time.Sleep(10 * time.Second)
		h.attest(next.jwt(t, "ada", nil), nil).want(200)
		step("a new key", was+1)

		// Kept for as long as the answer says, within a minute and an hour.
		before := time.Minute
		for _, c := range []struct {
			control string
			life    time.Duration
		}{
			{"", time.Minute}, {"max-age=5", time.Minute}, {"public, max-age=600", 10 * time.Minute},
			{"max-age=86400", time.Hour}, {"max-age=600, no-cache", time.Minute}, {"max-age=x", time.Minute},
		} {
			s.set(func(s *keyServer) { s.header = http.Header{"Cache-Control": {c.control}} })
			time.Sleep(before + time.Second)
			before = c.life
			was := s.count()
			h.attest(k.jwt(t, "ada", nil), nil).want(200)
			time.Sleep(c.life - time.Second)
			h.attest(k.jwt(t, "ada", nil), nil).want(200)
			step(c.control+", before its end", was+1)
			time.Sleep(2 * time.Second)
			h.attest(k.jwt(t, "ada", nil), nil).want(200)
			step(c.control+", after its end", was+2)
		}
	})
}

// TestIssuerOutage: what was known goes on for an hour; what is not known is not
// guessed.
func TestIssuerOutage(t *testing.T) {
	attesting(t, func(t *testing.T, h *harness, s *keyServer, k foreignKey) {
		h.attest(k.jwt(t, "ada", nil), nil).want(200)
		for name, trouble := range map[string]func(*keyServer){
			"unreachable": func(s *keyServer) { s.err = errors.New("refused") },
			"500":         func(s *keyServer) { s.status = 500 },
			"a redirect":  func(s *keyServer) { s.status, s.header = 302, http.Header{"Location": {"https://evil.example/"}} },
			"slow":        func(s *keyServer) { s.delay = 4 * time.Second },
			"no keys":     func(s *keyServer) { s.body = map[string]any{"keys": []any{}} },
			"not JSON":    func(s *keyServer) { s.body = "x" },
			"too large":   func(s *keyServer) { s.body = strings.Repeat("x", 64<<10) },
			"private": func(s *keyServer) {
				s.body = map[string]any{"keys": []any{k.jwk(), map[string]any{"kty": "oct", "k": "AA"}}}
			},
		} {
			t.Log(name)
			time.Sleep(10 * time.Second) // the last attempt is over
			h.attest(k.jwt(t, "ada", nil), nil).want(200)
			s.set(trouble)
			time.Sleep(time.Minute)
			begin := time.Now()
			h.attest(k.jwt(t, "ada", nil), nil).want(200)
			if waited := time.Since(begin); waited > 3*time.Second+time.Millisecond {
				t.Errorf("%s: waited %v", name, waited)
			}
			// Whether there is a new key nobody can say.
			h.attest(newForeignKey(t, "k9").jwt(t, "ada", nil), nil).wantError(503, api.IssuerUnreachable)
			if name == "unreachable" {
				time.Sleep(58 * time.Minute)
				h.attest(k.jwt(t, "ada", nil), nil).want(200)
				time.Sleep(2 * time.Minute)
				h.attest(k.jwt(t, "ada", nil), nil).wantError(503, api.IssuerUnreachable)
			}
			s.set(func(s *keyServer) { s.delay, s.status, s.header, s.body, s.err = 0, 200, http.Header{}, jwks(k), nil })
		}
	})
}
