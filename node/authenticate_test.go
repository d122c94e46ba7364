package node_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/revocast/revocast/events"
)

func TestExtend(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		c := h.do(h.key, "POST", "/v1/sessions", m{"user_id": "ada", "session_duration_minutes": 100, "absolute_lifetime_minutes": 250}).want(201)
		token := c.str("session_token")
		start := time.Now()
		extend := func(minutes int) (after time.Duration, written int) {
			t.Helper()
			before := h.stored()
			r := h.auth(m{"session_token": token, "session_duration_minutes": minutes}).want(200)
			end, err := time.Parse(time.RFC3339, r.str("session.expires_at"))
			if err != nil {
				t.Fatal(err)
			}
			return end.Sub(start).Round(time.Minute), h.stored() - before
		}
		check := func(what string, minutes int, want time.Duration, writes int) {
			t.Helper()
			if got, n := extend(minutes); got != want*time.Minute || n != writes {
				t.Errorf("%s: until %v with %d writes, want %v with %d", what, got, n, want*time.Minute, writes)
			}
		}
		check("at once", 100, 100, 0)
		time.Sleep(4 * time.Minute)
		check("by less than a twentieth", 100, 100, 0)
		time.Sleep(2 * time.Minute)
		check("by more than a twentieth", 100, 106, 1)
		check("shorter", 10, 106, 0)
		check("longer", 200, 206, 1)
		check("beyond the absolute expiry", 527_040, 250, 1)
		check("again", 300, 250, 0)
		time.Sleep(240 * time.Minute)
		check("at the end", 300, 250, 0)
		time.Sleep(5 * time.Minute)
		h.auth(m{"session_token": token, "session_duration_minutes": 300}).wantEnded("expired")
	})
}

func TestExtendWithoutALogStillAnswers(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		c := h.do(h.key, "POST", "/v1/sessions", m{"user_id": "ada", "session_duration_minutes": 100}).want(201)
		token := c.str("session_token")
		h.home.SetFaults(events.MemoryFaults{Send: func(_ context.Context, msg events.Message) error {
			if strings.HasSuffix(msg.Subject, ".st") {
				return events.ErrUnavailable
			}
			return nil
		}})
		a := h.auth(m{"session_token": token, "session_duration_minutes": 300}).want(200)
		if a.str("session.expires_at") != c.str("session.expires_at") {
			t.Error("an extension that was not written is shown")
		}
		h.auth(m{"session_token": token, "session_custom_claims": m{"a": 1}}).wantError(503, "log_unavailable")
		h.do(h.key, "POST", "/v1/sessions", m{"user_id": "ada"}).wantError(503, "log_unavailable")
	})
}

func TestCustomClaimsAreMerged(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		c := h.do(h.key, "POST", "/v1/sessions", m{
			"user_id": "ada", "session_custom_claims": m{"a": m{"b": 1, "c": 2}, "d": "<&>", "n": json.Number("12345678901234567890")},
		}).want(201)
		token := c.str("session_token")
		r := h.auth(m{"session_token": token, "session_custom_claims": m{"a": m{"b": nil, "e": m{"f": true}}, "n": nil}}).want(200)
		want := m{"a": m{"c": 2.0, "e": m{"f": true}}, "d": "<&>"}
		if diff := cmp.Diff(want, r.at("session.custom_claims")); diff != "" {
			t.Error(diff)
		}
		got := claims(t, r.str("session_jwt"))
		if diff := cmp.Diff(want, m{"a": got["a"], "d": got["d"]}); diff != "" || got["n"] != nil {
			t.Errorf("in the JWT: %s", diff)
		}
		before := h.stored()
		h.auth(m{"session_token": token, "session_custom_claims": m{"d": "<&>"}}).want(200)
		h.auth(m{"session_token": token, "session_custom_claims": nil}).want(200)
		h.auth(m{"session_token": token, "session_custom_claims": m{"none": nil}}).want(200)
		if n := h.stored() - before; n != 0 {
			t.Errorf("patches that change nothing wrote %d events", n)
		}
		full := strings.Repeat("x", 4000)
		h.auth(m{"session_token": token, "session_custom_claims": m{"big": full}}).want(200)
		h.auth(m{"session_token": token, "session_custom_claims": m{"more": strings.Repeat("x", 90)}}).wantError(413, "claims_too_large")
	})
}

func TestConcurrentChangesAllCount(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		c := h.login("ada")
		sid := c.str("session.session_id")
		slow(&h.home.MemoryLink)
		var wg sync.WaitGroup
		var mu sync.Mutex
		done := m{}
		for i := range 6 {
			wg.Go(func() {
				name := fmt.Sprintf("k%d", i)
				r := h.do(h.key, "PATCH", "/v1/sessions/"+sid, m{"metadata": m{name: true}})
				mu.Lock()
				defer mu.Unlock()
				if r.Status == 200 {
					done[name] = true
				} else {
					r.wantError(409, "conflict")
				}
			})
		}
		wg.Wait()
		g := h.do(h.key, "GET", "/v1/sessions/"+sid, nil).want(200)
		if diff := cmp.Diff(done, g.at("session.metadata")); diff != "" || len(done) == 0 {
			t.Errorf("acknowledged changes against what is there: %s", diff)
		}
		h.wantNoOverwrites()
	})
}

// slow lets everything written over the link take so long that others compute
// from the same state meanwhile.
func slow(link *events.MemoryLink) {
	link.SetFaults(events.MemoryFaults{Send: func(ctx context.Context, _ events.Message) error {
		select {
		case <-time.After(10 * time.Millisecond):
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}})
}

// wantNoOverwrites fails the test if something was written over something else
// without having known it.
func (h *harness) wantNoOverwrites() {
	h.t.Helper()
	time.Sleep(time.Second)
	w := httptest.NewRecorder()
	h.node.Metrics().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	for line := range strings.Lines(w.Body.String()) {
		if strings.HasPrefix(line, "revocast_overwrites_total") && !strings.HasSuffix(line, " 0\n") {
			h.t.Error(line)
		}
	}
}

func TestPatch(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		c := h.do(h.key, "POST", "/v1/sessions", m{"user_id": "ada", "metadata": m{"a": 1, "b": m{"c": 2}}, "authentication_factors": []m{{"type": "password"}}}).want(201)
		path := "/v1/sessions/" + c.str("session.session_id")
		r := h.do(h.key, "PATCH", path, m{
			"metadata": m{"a": nil, "b": m{"d": 3}}, "session_custom_claims": m{"role": "admin"},
			"add_authentication_factors": []m{{"type": "totp"}}, "session_duration_minutes": 10,
		}).want(200)
		if diff := cmp.Diff(m{"b": m{"c": 2.0, "d": 3.0}}, r.at("session.metadata")); diff != "" {
			t.Error(diff)
		}
		if diff := cmp.Diff([]any{m{"type": "password"}, m{"type": "totp", "last_authenticated_at": r.str("session.authenticated_at")}}, r.at("session.authentication_factors")); diff != "" {
			t.Error(diff)
		}
		if got := claims(t, r.str("session_jwt")); got["role"] != "admin" || fmt.Sprint(got["amr"]) != "[pwd otp mfa]" {
			t.Errorf("claims %v", got)
		}
		end, err := time.Parse(time.RFC3339, r.str("session.expires_at"))
		if left := time.Until(end); err != nil || left != 10*time.Minute || r.str("session_token") != "" {
			t.Errorf("patched to end in %v: %s", left, r.Raw)
		}
		before := h.stored()
		h.do(h.key, "PATCH", path, m{"metadata": m{"b": m{"c": 2}}}).want(200)
		h.do(h.key, "PATCH", path, nil).want(200)
		if n := h.stored() - before; n != 0 {
			t.Errorf("patches that change nothing wrote %d events", n)
		}
	})
}

func TestConsistency(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		c := h.login("ada")
		auth := func(x *harness, consistency any) *reply {
			return x.auth(m{"session_token": c.str("session_token"), "consistency": consistency})
		}
		auth(h, "bounded").want(200)
		auth(h, nil).want(200)
		begin := time.Now()
		auth(h, m{"at_least": c.str("revision")}).want(200)
		if r := auth(h, "strong").want(200); r.at("staleness_ms") != 0.0 {
			t.Errorf("strong: staleness_ms %v", r.at("staleness_ms"))
		}
		if took := time.Since(begin); took != 0 {
			t.Errorf("what is there already took %v", took)
		}
		auth(h, m{"at_least": "eu:0:999999"}).wantError(503, "consistency_timeout")
		if took := time.Since(begin); took != 500*time.Millisecond {
			t.Errorf("a position far ahead was waited for %v", took)
		}
		auth(h, m{"at_least": "eu:3:1"}).wantError(503, "consistency_timeout")

		// A node whose deliveries lag hears of a revocation only when it waits.
		twin, link := h.twinLink("n2")
		var hold atomic.Pointer[chan struct{}]
		lag := func() { c := make(chan struct{}); hold.Store(&c) }
		lag()
		link.SetFaults(events.MemoryFaults{Deliver: func(ctx context.Context, e events.Entry) int {
			if strings.HasSuffix(e.Subject, ".rev") {
				select {
				case <-*hold.Load():
				case <-ctx.Done():
				}
			}
			return 1
		}})
		r := h.do(h.key, "POST", "/v1/sessions/revoke", m{"session_token": c.str("session_token")}).want(200)
		auth(twin, "bounded").want(200)
		auth(twin, m{"at_least": r.str("revision")}).wantError(503, "consistency_timeout")
		time.AfterFunc(100*time.Millisecond, func() { close(*hold.Load()) })
		auth(twin, m{"at_least": r.str("revision")}).wantEnded("revoked")

		lag()
		c = h.login("ada")
		auth(twin, m{"at_least": c.str("revision")}).want(200)
		h.do(h.key, "POST", "/v1/sessions/revoke", m{"session_token": c.str("session_token")}).want(200)
		auth(twin, "bounded").want(200)
		time.AfterFunc(100*time.Millisecond, func() { close(*hold.Load()) })
		auth(twin, "strong").wantEnded("revoked")
	})
}

func TestRotate(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		rotate := func(token string, grace int) *reply {
			return h.do(h.key, "POST", "/v1/sessions/rotate", m{"session_token": token, "grace_seconds": grace})
		}
		c := h.login("ada")
		first, jwt, sid := c.str("session_token"), c.str("session_jwt"), c.str("session.session_id")

		r := rotate(first, 10).want(200)
		second := r.str("session_token")
		if second == first || r.str("session.session_id") != sid {
			t.Fatalf("rotate: %s", r.Raw)
		}
		h.verify(first).want(204)
		h.verify(second).want(204)
		before := h.stored()
		if again := rotate(first, 10).want(200); again.str("session_token") != second || h.stored() != before {
			t.Error("the replaced token, within its grace, did not get the same successor")
		}
		time.Sleep(11 * time.Second)
		h.verify(first).wantRefused("unknown") // although the session id derives from it
		rotate(first, 10).wantEnded("unknown")
		h.auth(m{"session_token": first}).wantEnded("unknown")
		h.verify(second).want(204)
		h.verify(jwt).want(204)
		h.auth(m{"session_jwt": jwt}).want(200)

		third := rotate(second, 0).want(200).str("session_token")
		h.verify(second).wantRefused("unknown")
		rotate(second, 0).wantEnded("unknown")
		h.verify(third).want(204)
		fourth := rotate(third, 60).want(200).str("session_token")
		fifth := rotate(fourth, 60).want(200).str("session_token")
		h.verify(fourth).want(204)
		h.verify(fifth).want(204)
		byJWT := h.do(h.key, "POST", "/v1/sessions/rotate", m{"session_jwt": jwt}).want(200).str("session_token")
		h.verify(fifth).wantRefused("unknown")
		h.verify(byJWT).want(204)

		h.do(h.key, "POST", "/v1/sessions/revoke", m{"session_token": byJWT}).want(200)
		h.verify(byJWT).wantRefused("revoked")
		h.verify(jwt).wantRefused("revoked")
	})
}

func TestConcurrentRotationsAreOne(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		token := h.login("ada").str("session_token")
		var wg sync.WaitGroup
		replies := make([]*reply, 8)
		for i := range replies {
			wg.Go(func() {
				replies[i] = h.do(h.key, "POST", "/v1/sessions/rotate", m{"session_token": token, "grace_seconds": 30})
			})
		}
		wg.Wait()
		for _, r := range replies {
			if r.want(200).str("session_token") != replies[0].str("session_token") {
				t.Errorf("two successors of one token")
			}
		}
	})
}

func TestReturnToken(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		key := h.newApp("vendor", m{"jwt_profile": "stytch", "return_token": true})
		c := h.do(key, "POST", "/v1/sessions", m{"user_id": "ada"}).want(201)
		a := h.do(key, "POST", "/v1/sessions/authenticate", m{"session_jwt": c.str("session_jwt")}).want(200)
		if a.str("session_token") != c.str("session_token") {
			t.Error("the token was not handed back for a JWT")
		}
		if s, ok := claims(t, c.str("session_jwt"))["https://stytch.com/session"].(m); !ok || s["id"] != c.str("session.session_id") {
			t.Errorf("stytch claims: %v", claims(t, c.str("session_jwt")))
		}
		h.verify(c.str("session_jwt")).want(204)
		// JWTs of the profile the app had before go on.
		h.do(h.admin, "PATCH", "/v1/apps/vendor", m{"jwt_profile": "native"}).want(200)
		h.verify(c.str("session_jwt")).want(204)
		h.do(key, "POST", "/v1/sessions/authenticate", m{"session_jwt": c.str("session_jwt")}).want(200)
		time.Sleep(301 * time.Second)
		h.verify(c.str("session_jwt")).wantRefused("expired")
	})
}

func TestMintFromTemplate(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		h.do(h.key, "PUT", "/v1/apps/acme/templates/hasura", m{"ttl_seconds": 900, "audience": "graph", "claims": m{"role": "template"}}).want(200)
		h.do(h.key, "PUT", "/v1/apps/acme/templates/short", m{"ttl_seconds": 60, "jwt_profile": "stytch"}).want(200)
		c := h.do(h.key, "POST", "/v1/sessions", m{"user_id": "ada", "session_custom_claims": m{"role": "session", "x": 1}}).want(201)
		path := "/v1/sessions/" + c.str("session.session_id") + "/tokens"
		r := h.do(h.key, "POST", path, m{"template": "hasura"}).want(200)
		got := claims(t, r.str("session_jwt"))
		if fmt.Sprint(got["aud"]) != "[graph]" || got["role"] != "template" || got["x"] != 1.0 || r.at("expires_in") != 900.0 {
			t.Errorf("template: %v %s", got, r.Raw)
		}
		h.verify(r.str("session_jwt")).wantRefused("unknown") // it is meant for another system
		h.auth(m{"session_jwt": r.str("session_jwt")}).wantEnded("unknown")
		if again := h.do(h.key, "POST", path, m{"template": "hasura"}).want(200); again.str("session_jwt") != r.str("session_jwt") {
			t.Error("a JWT was signed again though nothing changed")
		}
		if brief := h.do(h.key, "POST", path, m{"template": "hasura", "ttl_seconds": 30}).want(200); brief.at("expires_in") != 30.0 {
			t.Errorf("ttl_seconds: %s", brief.Raw)
		}
		h.do(h.key, "POST", path, m{"template": "hasura", "ttl_seconds": 901}).wantError(400, "invalid_argument")
		s := h.do(h.key, "POST", path, m{"template": "short"}).want(200)
		h.verify(s.str("session_jwt")).want(204)
		own := h.do(h.key, "POST", path, nil).want(200)
		if own.str("session_jwt") != c.str("session_jwt") || own.str("revision") == "" {
			t.Errorf("default: %s", own.Raw)
		}
		// A receipt must wait for the longest JWT there is.
		rv := h.do(h.key, "POST", "/v1/sessions/revoke", m{"user_id": "ada"}).want(200)
		safe, err := time.Parse(time.RFC3339, rv.str("receipt.jwt_safe_after"))
		if left := time.Until(safe); err != nil || left < 900*time.Second {
			t.Errorf("jwt_safe_after in %v", left)
		}
	})
}
