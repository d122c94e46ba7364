package node_test

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"math/big"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/revocast/revocast/node"
	"github.com/revocast/revocast/node/api"
)

func (a vendorApp) verify(body m) *reply {
	a.h.t.Helper()
	return a.do("POST", "/v1/auth/sessions/verify", body)
}

// jwtPart returns the header (0) or the claims (1) of a JWT.
func jwtPart(t *testing.T, jwt string, part int) (out m) {
	t.Helper()
	text, err := base64.RawURLEncoding.DecodeString(strings.Split(jwt, ".")[part])
	if err == nil {
		err = json.Unmarshal(text, &out)
	}
	if err != nil {
		t.Fatalf("read JWT: %v", err)
	}
	return out
}

// rsaVerifies checks an RS256 JWT with the standard library alone, by the keys of
// a JWKS.
func rsaVerifies(t *testing.T, jwks *reply, jwt string) bool {
	t.Helper()
	cut := strings.LastIndex(jwt, ".")
	sig, err := base64.RawURLEncoding.DecodeString(jwt[cut+1:])
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256([]byte(jwt[:cut]))
	number := func(s any) *big.Int {
		b, err := base64.RawURLEncoding.DecodeString(s.(string))
		if err != nil {
			t.Fatal(err)
		}
		return new(big.Int).SetBytes(b)
	}
	for _, k := range jwks.JSON["keys"].([]any) {
		k := k.(map[string]any)
		if k["kid"] == jwtPart(t, jwt, 0)["kid"] && k["kty"] == "RSA" {
			public := &rsa.PublicKey{N: number(k["n"]), E: int(number(k["e"]).Int64())}
			return rsa.VerifyPKCS1v15(public, crypto.SHA256, digest[:], sig) == nil
		}
	}
	return false
}

const streambirdClaim = "https://streambird.io/jwt/session"

// TestStreambird: the rows of what Streambird's documentation says.
func TestStreambird(t *testing.T) {
	es256 := m{"jwt_alg": "ES256"}
	rows := map[string]struct {
		settings m
		check    func(t *testing.T, h *harness, a vendorApp)
	}{
		"S1": {es256, func(t *testing.T, h *harness, a vendorApp) {
			token := a.login(nil).str("session_token")
			if !regexp.MustCompile(`^[A-Za-z0-9_-]+$`).MatchString(token) {
				t.Errorf("token %q", token)
			}
			h.do("", "GET", "/v1/verify", nil, "Cookie", "session="+token).want(204)
			h.do(token, "GET", "/v1/verify", nil).want(204)
			a.verify(m{"session_token": token}).want(200)
		}},
		"S2": {es256, func(t *testing.T, _ *harness, a vendorApp) {
			s := a.login(nil)
			for _, r := range []*reply{s, a.verify(m{"session_token": s.str("session_token")}).want(200), a.verify(m{"session_jwt": s.str("session_jwt")}).want(200)} {
				if r.str("session_token") != s.str("session_token") || strings.Count(r.str("session_jwt"), ".") != 2 {
					t.Errorf("%s: %s", r.call, r.Raw)
				}
			}
		}},
		"S3": {es256, func(t *testing.T, _ *harness, a vendorApp) {
			if r := a.verify(m{"session_token": a.login(nil).str("session_token")}); r.str("session.user_id") != "ada" {
				t.Errorf("%s", r.Raw)
			}
		}},
		"S4": {es256, testStreambirdFactors},
		"S5": {es256, func(t *testing.T, _ *harness, a vendorApp) {
			s := a.login(m{"attributes": m{"ip_address": "192.0.2.7", "user_agent": "curl/8 <x>"}})
			r := a.verify(m{"session_token": s.str("session_token")}).want(200)
			want := map[string]any{"ip": "192.0.2.7", "user_agent": "curl/8 <x>"}
			if diff := cmp.Diff(want, r.at("session.device_fingerprint")); diff != "" {
				t.Error(diff)
			}
		}},
		"S6+S12": {es256, func(t *testing.T, _ *harness, a vendorApp) {
			tokens := map[string]bool{}
			for range 1000 {
				s := a.login(nil)
				token := s.str("session_token")
				plain, err := base64.RawURLEncoding.DecodeString(token)
				if tokens[token] || err != nil || strings.Contains(token, s.str("session.session_id")) || strings.Contains(string(plain), "ada") {
					t.Fatalf("token %q of session %s", token, s.str("session.session_id"))
				}
				tokens[token] = true
			}
		}},
		"S7": {es256, func(t *testing.T, _ *harness, a vendorApp) {
			a.verify(m{"session_token": a.login(nil).str("session_token")}).want(200)
			a.verify(m{"session_token": "mZAYn5aLEqKUlZ_Ad9U_fWr38GaAQ1oFAhT8ds245v7Q"}).wantError(404, api.SessionNotFound)
			a.verify(m{"session_token": "NGTCMAk51ItYAan83C6BLYXm7iJsKY0kCpsVj5WdJGg10eslpceC6MSS2RSqbUzT"}).wantError(404, api.SessionNotFound)
		}},
		"S8+S10": {es256, func(t *testing.T, _ *harness, a vendorApp) {
			token := a.login(nil).str("session_token")
			if r := a.do("DELETE", "/v1/auth/sessions/delete", m{"session_token": token}).want(200); r.str("message") != "Successfully deleted session" {
				t.Errorf("%s", r.Raw)
			}
			for range 100 {
				a.verify(m{"session_token": token}).wantError(404, api.SessionNotFound)
			}
		}},
		"S9":  {es256, testStreambirdDelete},
		"S11": {nil, testStreambirdLocally},
		"S13": {nil, func(t *testing.T, h *harness, a vendorApp) {
			jwt := a.login(nil).str("session_jwt")
			if head := jwtPart(t, jwt, 0); head["alg"] != "RS256" || head["typ"] != "JWT" {
				t.Errorf("header %v", head)
			}
			if !rsaVerifies(t, h.do("", "GET", "/v1/auth/jwks/"+a.id, nil).want(200), jwt) {
				t.Error("does not verify")
			}
		}},
		"S14": {es256, func(t *testing.T, _ *harness, a vendorApp) {
			for range 20 {
				time.Sleep(37 * time.Millisecond) // at any part of a second
				c := jwtPart(t, a.login(nil).str("session_jwt"), 1)
				if c["exp"].(float64)-c["iat"].(float64) != 300 {
					t.Errorf("exp %v, iat %v", c["exp"], c["iat"])
				}
			}
		}},
		"S15": {m{"jwt_alg": "ES256", "jwt_ttl_seconds": 30}, func(t *testing.T, h *harness, a vendorApp) {
			jwt := a.login(nil).str("session_jwt")
			time.Sleep(31 * time.Second)
			h.do(jwt, "GET", "/v1/verify", nil).want(401)
			fresh := a.verify(m{"session_jwt": jwt}).want(200).str("session_jwt")
			if fresh == jwt || jwtPart(t, fresh, 1)["exp"].(float64) <= jwtPart(t, jwt, 1)["exp"].(float64) {
				t.Errorf("%s after %s", fresh, jwt)
			}
		}},
		"S16": {es256, func(t *testing.T, _ *harness, a vendorApp) {
			s := a.login(nil)
			a.do("DELETE", "/v1/auth/sessions/delete", m{"session_id": s.str("session.session_id")}).want(200)
			if r := a.verify(m{"session_jwt": s.str("session_jwt")}).wantError(404, api.SessionNotFound); r.str("error_details.reason") != "revoked" {
				t.Errorf("%s", r.Raw)
			}
			short := a.login(m{"session_duration_minutes": 1})
			time.Sleep(61 * time.Second)
			a.verify(m{"session_jwt": short.str("session_jwt")}).wantError(404, api.SessionNotFound)
		}},
		"S17": {es256, func(t *testing.T, _ *harness, a vendorApp) {
			s := a.login(m{"session_duration_minutes": 7 * 24 * 60})
			r := a.verify(m{"session_token": s.str("session_token")}).want(200)
			if got := r.at("session.expires_at").(float64) - r.at("session.started_at").(float64); got != 604800 {
				t.Errorf("lives %v s", got)
			}
			// session_expires_in is minutes from now.
			r = a.verify(m{"session_token": s.str("session_token"), "session_expires_in": 20160}).want(200)
			if got := r.at("session.expires_at").(float64) - float64(time.Now().Unix()); got != 20160*60 {
				t.Errorf("extended to %v s from now", got)
			}
		}},
		"S18+S21": {nil, func(t *testing.T, h *harness, a vendorApp) {
			r := h.do("", "GET", "/v1/auth/jwks/"+a.id, nil).want(200)
			k := r.JSON["keys"].([]any)[0].(map[string]any)
			if got := strings.Join(slices.Sorted(maps.Keys(k)), " "); got != "alg e kid kty n use" {
				t.Errorf("members %s", got)
			}
			if r.Header.Get("ETag") == "" || r.Header.Get("Cache-Control") == "no-store" {
				t.Errorf("headers %v", r.Header)
			}
			h.do("", "GET", "/v1/auth/jwks/"+a.id, nil, "If-None-Match", r.Header.Get("ETag")).want(304)
		}},
		"S19": {nil, func(t *testing.T, h *harness, a vendorApp) {
			other := h.newVendorApp("streambird", nil)
			jwt := a.login(nil).str("session_jwt")
			if rsaVerifies(t, h.do("", "GET", "/v1/auth/jwks/"+other.id, nil).want(200), jwt) {
				t.Error("verifies with the keys of another app")
			}
			other.verify(m{"session_jwt": jwt}).wantError(404, api.SessionNotFound)
			other.verify(m{"session_token": a.login(nil).str("session_token")}).wantError(404, api.SessionNotFound)
		}},
		"S20": {es256, func(t *testing.T, _ *harness, a vendorApp) {
			s := a.login(m{"authentication_factors": []m{{"type": "otp", "delivery_method": "email", "email_factor": m{"email_id": "e1", "email_address": "a@b.c"}}}})
			c := jwtPart(t, s.str("session_jwt"), 1)
			verified := a.verify(m{"session_token": s.str("session_token")}).want(200)
			if diff := cmp.Diff(verified.at("session"), c[streambirdClaim]); diff != "" || c["sub"] != "ada" || c["iss"] != publicURL {
				t.Errorf("claims %v\n%s", c, diff)
			}
		}},
		"S24": {es256, func(t *testing.T, _ *harness, a vendorApp) {
			for native, want := range map[string]string{
				"otp": "otp", "magic_link": "magic_link", "totp": "totp", "oauth": "oauth", "webauthn": "webauthn", "wallet": "wallet",
				"password": "password", "crypto": "wallet", "email_otp": "otp", "recovery_codes": "totp", "ask-grandma": "ask-grandma",
			} {
				s := a.login(m{"authentication_factors": []m{{"type": native}}})
				f := a.verify(m{"session_token": s.str("session_token")}).want(200).at("session.factors").([]any)
				if len(f) != 1 || f[0].(map[string]any)["type"] != want {
					t.Errorf("%s: %v", native, f)
				}
			}
			a.do("POST", "/v1/sessions", m{"user_id": "ada", "authentication_factors": []m{{"type": ""}}}).wantError(400, api.InvalidArgument)
		}},
	}
	for _, name := range slices.Sorted(maps.Keys(rows)) {
		for row := range strings.SplitSeq(name, "+") { // each row by its name
			t.Run(row, func(t *testing.T) {
				bubble(t, func(t *testing.T, h *harness) {
					rows[name].check(t, h, h.newVendorApp("streambird", rows[name].settings))
				})
			})
		}
	}
}

// testStreambirdFactors: factors of a log-in come back in Streambird's shape,
// those that had it as they were.
func testStreambirdFactors(t *testing.T, _ *harness, a vendorApp) {
	at := time.Now().Add(-time.Minute).UTC().Truncate(time.Second)
	theirs := m{"type": "otp", "delivery_channel": "sms", "method": m{"method_id": "pn_1", "method_type": "phone_number", "last_verified_at": 7.0}}
	when := at.Format(time.RFC3339)
	s := a.login(m{"authentication_factors": []m{
		{"type": "otp", "delivery_method": "sms", "last_authenticated_at": when, "phone_number_factor": m{"phone_id": "p1", "phone_number": "+1415"}},
		{"type": "magic_link", "delivery_method": "email", "last_authenticated_at": when, "email_factor": m{"email_id": "e1", "email_address": "a&b@c.d"}},
		{"type": "oauth", "delivery_method": "oauth_google", "google_oauth_factor": m{"id": "o1", "email_id": "e2", "provider_subject": "42"}},
		{"type": "totp", "authenticator_app_factor": m{"totp_id": "t1"}},
		{"type": "crypto", "delivery_method": "crypto_wallet", "crypto_wallet_factor": m{"crypto_wallet_id": "w1", "crypto_wallet_type": "solana", "crypto_wallet_address": "9x"}},
		theirs,
	}})
	unix, began := float64(at.Unix()), float64(time.Now().Unix())
	method := func(id, typ string, at float64, more m) map[string]any {
		all := map[string]any{"method_id": id, "method_type": typ, "last_verified_at": at}
		maps.Copy(all, more)
		return all
	}
	factor := func(typ, channel string, method map[string]any) map[string]any {
		return map[string]any{"type": typ, "delivery_channel": channel, "method": method}
	}
	want := []any{
		factor("otp", "sms", method("p1", "phone_number", unix, m{"phone_number_id": "p1", "phone_number": "+1415"})),
		factor("magic_link", "email", method("e1", "email", unix, m{"email_id": "e1", "email": "a&b@c.d"})),
		factor("oauth", "google_oauth", method("o1", "email", began, m{"email_id": "e2", "provider_subject": "42"})),
		factor("totp", "totp_authenticator", method("t1", "totp", began, m{"totp_id": "t1"})),
		factor("wallet", "sol_wallet", method("w1", "wallet", began, m{"wallet_id": "w1", "wallet_type": "solana", "wallet_public_address": "9x"})),
		factor("otp", "sms", method("pn_1", "phone_number", 7, nil)),
	}
	r := a.verify(m{"session_token": s.str("session_token")}).want(200)
	if diff := cmp.Diff(want, r.at("session.factors")); diff != "" {
		t.Errorf("verify: %s", diff)
	}
	list := a.do("GET", "/v1/auth/sessions/list?user_id=ada", nil).want(200).JSON["sessions"].([]any)
	if diff := cmp.Diff(r.at("session"), list[0]); diff != "" || len(list) != 1 {
		t.Errorf("list: %s", diff)
	}
}

func testStreambirdDelete(t *testing.T, _ *harness, a vendorApp) {
	const path = "/v1/auth/sessions/delete"
	for _, by := range []string{"session_id", "session_token", "session_jwt"} {
		s := a.login(nil)
		value := s.str(by)
		if by == "session_id" {
			value = s.str("session.session_id")
		}
		a.do("DELETE", path, m{by: value}).want(200)
		a.do("DELETE", path, m{by: value}).want(200) // once more
		a.verify(m{"session_token": s.str("session_token")}).wantError(404, api.SessionNotFound)
	}
	s := a.login(nil)
	a.do("DELETE", path, m{"session_token": s.str("session_token"), "session_jwt": s.str("session_jwt")}).wantError(400, api.TooManyArguments)
	a.do("DELETE", path, m{"session_token": s.str("session_token"), "session_id": s.str("session.session_id")}).wantError(400, api.TooManyArguments)
	a.do("DELETE", path, m{}).wantError(400, api.InvalidArgument)
	a.do("DELETE", path, nil).wantError(400, api.InvalidArgument)
	// More than is known here was to be deleted: never less than was asked for.
	a.do("DELETE", path, m{"session_token": s.str("session_token"), "user_id": "ada"}).wantError(400, api.InvalidArgument)
	a.do("DELETE", path, m{"session_id": "no session"}).wantError(400, api.InvalidArgument)
	a.verify(m{"session_token": s.str("session_token")}).want(200)
}

// testStreambirdLocally: a JWT of a deleted session verifies locally until it
// expires, as Streambird says of its own; here /v1/verify refuses it at once.
func testStreambirdLocally(t *testing.T, h *harness, a vendorApp) {
	s := a.login(nil)
	jwt := s.str("session_jwt")
	h.do(jwt, "GET", "/v1/verify", nil).want(204)
	a.do("DELETE", "/v1/auth/sessions/delete", m{"session_jwt": jwt}).want(200)
	if !rsaVerifies(t, h.do("", "GET", "/v1/auth/jwks/"+a.id, nil).want(200), jwt) {
		t.Error("does not verify locally")
	}
	h.do(jwt, "GET", "/v1/verify", nil).want(401)
}

// TestStreambirdDefaultKeys: "default" is the app of the API key, in the query or
// the header, else the only one there is. The key comes back nowhere.
func TestStreambirdDefaultKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		h := newHarness(t, func(c *node.Config) {
			c.Log = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
		})
		a := h.newVendorApp("streambird", m{"jwt_alg": "ES256"})
		kid := h.do("", "GET", "/v1/apps/"+a.id+"/jwks", nil).want(200).JSON["keys"]
		for _, r := range []*reply{
			h.do("", "GET", "/v1/auth/jwks/default?api_key="+a.key, nil),
			a.do("GET", "/v1/auth/jwks/default", nil),
			h.do(h.admin, "GET", "/v1/auth/jwks/default?app="+a.id, nil),
			h.do("", "GET", "/v1/auth/jwks/default?app="+a.id, nil),
			a.do("GET", "/v1/auth/jwks/default?app="+a.id, nil),
			h.do("", "GET", "/v1/auth/jwks/"+a.id, nil),
		} {
			if diff := cmp.Diff(kid, r.want(200).JSON["keys"]); diff != "" {
				t.Errorf("%s: %s", r.call, diff)
			}
			if r.Header.Get("Access-Control-Allow-Origin") != "*" {
				t.Errorf("headers %v", r.Header)
			}
		}
		secret := "sk_0123456789abcdefghijklmnopqrstuvwxyzABCDEFG"
		for path, status := range map[string]int{
			"default?api_key=" + secret:                 401,
			"default?api_key=" + secret + "&api_key=x":  400,
			"default?api_key=" + secret + "%zz":         400,
			"default?api_key=" + secret + "&nonsense=1": 400,
			"default?app=nobody&api_key=" + a.key:       404,
			a.id + "?app=acme":                          404,
			"nobody?api_key=" + secret:                  404,
			"default":                                   404, // there are two apps
			h.app + "?api_key=" + secret:                403,
		} {
			r := h.do("", "GET", "/v1/auth/jwks/"+path, nil).want(status)
			if strings.Contains(string(r.Raw)+fmt.Sprint(r.Header), secret) {
				t.Errorf("%s: the API key comes back: %s", path, r.Raw)
			}
		}
		h.do("", "DELETE", "/v1/auth/jwks/default?api_key="+secret, nil).wantError(405, api.MethodNotAllowed)
		// Something that is logged, with the key in the query.
		h.config.Cut()
		time.Sleep(node.DefaultLease + time.Second)
		h.do("", "GET", "/v1/auth/jwks/default?api_key="+secret, nil).wantError(503, api.NodeStale)
		h.do("", "GET", "/v1/auth/jwks/default?api_key="+a.key, nil).want(200) // public keys do not go stale
		if text := log.String(); strings.Contains(text, secret) || strings.Contains(text, a.key) || !strings.Contains(text, "/v1/auth/jwks/{name}") {
			t.Errorf("the log says:\n%s", text)
		}
		h.config.Heal()
	})
}

// TestStreambirdSoleApp: without a key "default" is the only app there is.
func TestStreambirdSoleApp(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		h.do("", "GET", "/v1/auth/jwks/default", nil).wantError(403, api.FacadeOff)
		h.do(h.key, "PATCH", "/v1/apps/acme", m{"compat": []string{"streambird"}}).want(200)
		h.do("", "GET", "/v1/auth/jwks/default", nil).want(200)
	})
}

// TestStreambirdBadInput: what Streambird's clients send beyond what is known is
// passed over, what asks for a check never.
func TestStreambirdBadInput(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		a := h.newVendorApp("streambird", m{"jwt_alg": "ES256"})
		token := a.login(nil).str("session_token")
		a.verify(m{"session_token": token, "telemetry": m{"x": 1}, "locale": "en", "session_jwt": nil}).want(200)
		for _, name := range []string{
			"authorization_check", "Authorization", "require", "max_age_seconds", "min_aal", "permissions", "roles", "mfa_required",
			"Session_Token", "SESSION_EXPIRES_IN", "consistency", "device_token", "allowed_ips", "dpop", "organization_id", "session_custom_claims",
		} {
			r := a.verify(m{"session_token": token, name: "x"}).wantError(400, api.InvalidArgument)
			if r.str("error_details.field") != name {
				t.Errorf("%s: %s", name, r.Raw)
			}
		}
		a.verify(m{"session_token": token, "telemetry": m{"x": m{"x": m{}}}}).want(200)
		for _, body := range []string{
			`{}`, ``, `[]`, `{"session_token":7}`, `{"session_token":"` + token + `","session_token":"x"}`, `{"session_token":"` + token + `"}x`,
			`{"session_token":"` + token + `","session_expires_in":4}`, `{"session_token":"` + token + `","session_expires_in":527041}`,
			`{"session_token":"` + token + `","session_expires_in":-5}`, `{"session_token":"` + token + `","session_expires_in":5.5}`,
			`{"session_token":"` + token + `","x":{"a":1,"a":2}}`, "{\"session_token\":\"\xff\"}",
		} {
			a.do("POST", "/v1/auth/sessions/verify", body).wantError(400, api.InvalidArgument)
		}
		a.verify(m{"session_token": token, "session_jwt": "a.b.c"}).wantError(400, api.TooManyArguments)
		a.do("POST", "/v1/auth/sessions/verify", `{"session_token":"`+token+`"}`, "Content-Type", "text/plain").wantError(415, api.MediaType)
		a.verify(m{"session_token": strings.Repeat("x", 70<<10)}).wantError(413, api.BodyTooLarge)
		a.do("GET", "/v1/auth/sessions/list", nil).wantError(400, api.InvalidArgument)
		a.do("GET", "/v1/auth/sessions/list?user=ada", nil).wantError(400, api.InvalidArgument)
		a.do("GET", "/v1/auth/sessions/list?user_id=ada&user_id=bob", nil).wantError(400, api.InvalidArgument)
		a.do("GET", "/v1/auth/users/ada", nil).wantError(404, api.NotFound)
		h.do("", "POST", "/v1/auth/sessions/verify", m{"session_token": token}).wantError(401, api.Unauthorized)
		h.do("sk_wrong", "POST", "/v1/auth/sessions/verify", m{"session_token": token}).wantError(401, api.Unauthorized)
	})
}

// TestStreambirdLongList: a list has all sessions of the user, page by page.
func TestStreambirdLongList(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		a := h.newVendorApp("streambird", m{"jwt_alg": "ES256"})
		const many = 501
		for range many {
			a.login(nil)
		}
		gone := a.login(nil)
		a.do("DELETE", "/v1/auth/sessions/delete", m{"session_token": gone.str("session_token")}).want(200)
		seen := map[any]bool{}
		for _, s := range a.do("GET", "/v1/auth/sessions/list?user_id=ada", nil).want(200).JSON["sessions"].([]any) {
			s := s.(map[string]any)
			seen[s["id"]] = true
			if _, ok := s["session_token"]; ok {
				t.Fatalf("a list holds tokens: %v", s)
			}
		}
		if len(seen) != many || seen[gone.str("session.session_id")] {
			t.Errorf("%d sessions, want %d", len(seen), many)
		}
	})
}
