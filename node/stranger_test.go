package node_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node"
	"github.com/revocast/revocast/node/api"
	"github.com/revocast/revocast/node/outbound"
)

// keyWith makes an API key of the first app with the scopes.
func (h *harness) keyWith(scopes ...string) string {
	h.t.Helper()
	return h.do(h.key, "POST", "/v1/apps/acme/api-keys", m{"name": "k", "scopes": scopes}).want(201).str("api_key")
}

// TestTwoApps: a gateway that adds the app to what its clients send must not be
// overruled by them, nor they by it: a request is about one app.
func TestTwoApps(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		h.newApp("other", nil)
		ask := func(query, authorization string, apps ...string) *reply {
			r, _ := http.NewRequestWithContext(t.Context(), "GET", "/v1/rbac/policy?"+strings.TrimPrefix(query, "&"), nil)
			r.Header.Set("Authorization", authorization)
			r.Header["X-Revocast-App"] = apps
			return h.send(r)
		}
		bearer, named := "Bearer "+h.admin, "Basic "+base64.StdEncoding.EncodeToString([]byte("acme:"+h.admin))
		ask("&app=acme&app=acme", bearer, "acme", "acme").want(200)
		ask("&app=acme", named, "acme").want(200)
		ask("&app=acme&app=other", bearer).wantError(400, api.InvalidArgument)
		ask("&app=other&app=acme", bearer).wantError(400, api.InvalidArgument)
		ask("", bearer, "acme", "other").wantError(400, api.InvalidArgument)
		ask("", named, "other").wantError(400, api.InvalidArgument)
		ask("&app=other", named).wantError(400, api.InvalidArgument)
		ask("&app=acme&app=other", "Bearer "+h.key).wantError(400, api.InvalidArgument)
	})
}

// TestStoredTokenIsNotRead: who may only read sessions must not become their users.
func TestStoredTokenIsNotRead(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		reader := h.keyWith(api.ScopeRead)
		h.put("secret-token", "ada", "bag", time.Hour).want(201)
		for _, path := range []string{storePath("secret-token"), "/v1/store"} {
			r := h.do(reader, "GET", path, nil).want(200)
			if strings.Contains(string(r.Raw), "secret-token") || !strings.Contains(string(r.Raw), base64.StdEncoding.EncodeToString([]byte("bag"))) {
				t.Errorf("%s with the scope read: %s", path, r.Raw)
			}
			if r := h.do(h.key, "GET", path, nil).want(200); !strings.Contains(string(r.Raw), "secret-token") {
				t.Errorf("%s with the scope create: %s", path, r.Raw)
			}
		}
	})
}

// TestClientForeignWithoutPin: a token of another system may have the form of ours.
// As long as it is not said to which app it is shown, nobody knows that its session
// has ended.
func TestClientForeignWithoutPin(t *testing.T) {
	browserBubble(t, func(t *testing.T, h *harness) {
		token := events.NewToken(2).Reveal()
		if r := h.browse(logout, page, token).want(200); r.Header.Get("Set-Cookie") != cleared {
			t.Errorf("without any foreign tokens: %v", r.Header)
		}
		h.imports(h.key, m{"token": token, "user_id": "ada"}).wantCounts(1, 0, 0, 0, 0)
		h.browse(refresh, page, token).wantNoSession("unknown", noneOrOwn)
		h.browse(logout, page, token).wantNoSession("unknown", noneOrOwn)
		h.verifyIn("acme", token).want(204)
		h.browse(refresh+"?app=acme", page, token).want(200)
		if r := h.browse(logout+"?app=acme", page, token).want(200); r.Header.Get("Set-Cookie") != cleared {
			t.Errorf("%v", r.Header)
		}
		h.verifyIn("acme", token).wantRefused("revoked")
	})
}

// TestClientProofOfAnotherRequest: a proof that was made for a resource server is
// none here, whatever its bearer says that he forwards.
func TestClientProofOfAnotherRequest(t *testing.T) {
	browserBubble(t, func(t *testing.T, h *harness) {
		d := newDevice(t)
		token := d.login(h).str("session_token")
		proof := func() string { return d.proof("GET", "https://api.example.com/orders", token) }
		forwarded := []string{"Authorization", "DPoP " + token, "X-Forwarded-Method", "GET", "X-Forwarded-Uri", "/orders", "X-Forwarded-Proto", "https", "X-Forwarded-Host", "api.example.com"}
		h.do("", "GET", "/v1/verify", nil, append(forwarded, "DPoP", proof())...).want(204)
		h.do("", "POST", refresh, nil, append(forwarded, "DPoP", proof())...).wantError(401, "invalid_dpop_proof")
		h.do("", "POST", refresh, nil, append(forwarded, "DPoP", d.proof("POST", publicURL+refresh, token))...).want(200)
	})
}

// TestExchangeUnreachable: while one of two issuers cannot be asked, nobody knows
// that the token is no good.
func TestExchangeUnreachable(t *testing.T) {
	attesting(t, func(t *testing.T, h *harness, s *keyServer, k foreignKey) {
		s.set(func(s *keyServer) { s.err = errors.New("unreachable") })
		for _, id := range []string{"a-first", "z-last"} {
			h.register(id, m{"jwks": jwks(newForeignKey(t, "other"))})
		}
		exchange := m{"access_token": k.jwt(t, "ada", nil)}
		h.do(h.key, "POST", "/v1/sessions/exchange_access_token", exchange).wantError(503, api.IssuerUnreachable)
		s.set(func(s *keyServer) { s.err = nil })
		time.Sleep(10 * time.Second)
		h.do(h.key, "POST", "/v1/sessions/exchange_access_token", exchange).want(200)
	})
}

// TestIssuersStayApart: users with a prefix come from the issuer with that prefix.
func TestIssuersStayApart(t *testing.T) {
	attesting(t, func(t *testing.T, h *harness, _ *keyServer, k foreignKey) {
		own := newForeignKey(t, "k2")
		second := m{"issuer": "https://second.example", "jwks": jwks(own), "user_id_prefix": "second|"}
		h.register("second", second)
		if r := h.attest(own.jwt(t, "ada", m{"iss": "https://second.example"}), m{"profile_id": "second"}).want(200); r.str("user_id") != "second|ada" {
			t.Errorf("%s", r.Raw)
		}
		h.attest(k.jwt(t, "ada", nil), nil).want(200)
		forged := k.jwt(t, "second|ada", nil)
		if r := h.attest(forged, nil).wantError(401, api.AttestationFailed); r.str("error_details.reason") != "bad_user_id" {
			t.Errorf("%s", r.Raw)
		}
		h.do(h.key, "POST", "/v1/sessions/exchange_access_token", m{"access_token": forged}).wantError(401, api.AttestationFailed)
	})
}

// TestAttestAfterLogOutEverywhere: what proved a log-in before it brings nobody back.
func TestAttestAfterLogOutEverywhere(t *testing.T) {
	attesting(t, func(t *testing.T, h *harness, _ *keyServer, k foreignKey) {
		for _, group := range []m{{"user_id": "ada"}, {"all": true}} {
			stolen, others := k.jwt(t, "ada", nil), k.jwt(t, "bob", nil)
			h.attest(stolen, nil).want(200)
			time.Sleep(time.Minute)
			h.do(h.key, "POST", "/v1/sessions/revoke", group).want(200)
			if r := h.attest(stolen, nil).wantError(401, api.AttestationFailed); r.str("error_details.reason") != "logged_out" {
				t.Errorf("%v: %s", group, r.Raw)
			}
			h.do(h.key, "POST", "/v1/sessions/exchange_access_token", m{"access_token": stolen}).wantError(401, api.AttestationFailed)
			if group["all"] == nil {
				h.attest(others, nil).want(200)
			}
			// Logging in again at once must work.
			again := h.attest(k.jwt(t, "ada", nil), nil).want(200)
			h.verify(again.str("session_token")).want(204)
			time.Sleep(time.Minute)
		}
	})
}

// TestIntrospectionSaysWhoActs: a resource server that introspects must see who
// acts, as one that reads JWTs does.
func TestIntrospectionSaysWhoActs(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		able := h.keyWith(api.ScopeImpersonate, api.ScopeCreate, api.ScopeVerify)
		s := h.do(able, "POST", "/v1/sessions/impersonate", m{"user_id": "ada", "actor": m{"sub": "support", "reason": "ticket 7"}}).want(201)
		for _, credential := range []string{"session_token", "session_jwt"} {
			r := h.introspect(s.str(credential)).want(200)
			if r.at("active") != true || fmt.Sprint(r.at("act")) != "map[sub:support]" {
				t.Errorf("%s: %s", credential, r.Raw)
			}
		}
		if r := h.introspect(h.login("ada").str("session_token")).want(200); r.at("act") != nil {
			t.Errorf("%s", r.Raw)
		}
	})
}

// panicky is a legacy that can be asked what ends in a panic.
type panicky struct {
	*legacy
	now atomic.Bool
}

func (p *panicky) Do(ctx context.Context, r *http.Request, limit int64) (*outbound.Answer, error) {
	if p.now.Load() {
		panic("asked")
	}
	return p.legacy.Do(ctx, r, limit)
}

// elsewhere is the systems of two apps: one never answers, the other knows no token.
type elsewhere struct{ legacy }

func (*elsewhere) Do(ctx context.Context, r *http.Request, _ int64) (*outbound.Answer, error) {
	if r.URL.Host == "slow.example.com" {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return &outbound.Answer{Status: http.StatusNotFound}, nil
}

// TestLazyImportOfTwoApps: however many wait for the system of one app, the other's
// is asked.
func TestLazyImportOfTwoApps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t, func(c *node.Config) { c.Outbound = new(elsewhere) })
		h.newApp("other", nil)
		for app, host := range map[string]string{"acme": "slow", "other": "quick"} {
			h.do(h.admin, "PUT", "/v1/apps/"+app+"/lazy-import", m{"url": "https://" + host + ".example.com/", "timeout_ms": 5000}).want(200)
		}
		var all sync.WaitGroup
		for range 2500 {
			all.Go(func() { h.verifyIn("acme", "t").want(503) })
		}
		synctest.Wait()
		h.verifyIn("other", "t").wantRefused("unknown")
		all.Wait()
	})
}

// TestLazyImportAfterPanic: the one question by which it is seen whether the other
// system answers again must not be the last.
func TestLazyImportAfterPanic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &panicky{legacy: &legacy{known: map[string]any{}}}
		p.secret, _ = base64.StdEncoding.DecodeString(strings.TrimPrefix(legacySecret, "whsec_"))
		h := newHarness(t, func(c *node.Config) { c.Outbound = p })
		h.do(h.key, "PUT", "/v1/apps/acme/lazy-import", m{"url": "https://old.example.com/ask", "secret": legacySecret}).want(200)
		p.set(func() { p.known["bad"], p.known["good"] = 500, p.row("ada") })
		for range 5 {
			h.verifyIn("acme", "bad").want(503)
		}
		time.Sleep(6 * time.Second)
		p.now.Store(true)
		if r := h.verifyIn("acme", "good"); r.Status < 500 {
			t.Fatalf("%d", r.Status)
		}
		p.now.Store(false)
		time.Sleep(6 * time.Second)
		h.verifyIn("acme", "good").want(204)
	})
}

// TestImpersonationTokenOfLongNames: what is handed out can be used.
func TestImpersonationTokenOfLongNames(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		able := h.keyWith(api.ScopeImpersonate, api.ScopeCreate)
		long := strings.Repeat(`"`, events.MaxUser)
		r := h.do(able, "POST", "/v1/impersonation/tokens", m{
			"user_id": "ada", "impersonator_id": long, "impersonator_email_address": long, "reason": strings.Repeat(`"`, 256),
		})
		if r.Status == http.StatusCreated {
			h.do(able, "POST", "/v1/impersonation/authenticate", m{"impersonation_token": r.str("impersonation_token")}).want(200)
		} else {
			r.wantError(413, api.ClaimsTooLarge)
		}
	})
}
