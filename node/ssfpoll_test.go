package node_test

import (
	"context"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"maps"
	"math/big"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node"
	"github.com/revocast/revocast/node/api"
)

// Everything that CAEP has a word for is told once, to who asked for it.
func TestSSFEvents(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		r := h.receive(nil)
		h.receive(m{"events_requested": []string{caep + "session-revoked"}, "subject_format": "opaque"})
		login := h.login("ada")
		sid := login.str("session.session_id")
		e := r.wantTold("session-established")[0]
		user := e.sub["user"].(map[string]any)
		if e.sub["session"].(map[string]any)["id"] != sid || user["sub"] != "ada" || user["iss"] != publicURL+"/v1/apps/acme" || e.sub["tenant"].(map[string]any)["id"] != "acme" {
			t.Errorf("subject %v", e.sub)
		}
		patch := func(body m) { h.do(h.key, "PATCH", "/v1/sessions/"+sid, body).want(200) }
		factor := func(typ string) []m { return []m{{"type": typ}} }
		patch(m{"add_authentication_factors": factor("password")})
		r.wantTold("assurance-level-change", "credential-change")
		patch(m{"add_authentication_factors": factor("password")}) // again: no other credential
		patch(m{"session_duration_minutes": 7})
		r.wantTold()
		patch(m{"add_authentication_factors": factor("totp")})
		both := r.wantTold("assurance-level-change", "credential-change")
		if both[0].txn != both[1].txn || both[0].txn == "" {
			t.Errorf("txn %q, %q", both[0].txn, both[1].txn)
		}
		for _, e := range both {
			if e.payload["namespace"] == "NIST-AAL" && (e.payload["current_level"] != "nist-aal2" || e.payload["previous_level"] != "nist-aal1") {
				t.Errorf("level %v", e.payload)
			}
		}
		patch(m{"session_custom_claims": m{"plan": "gold"}, "roles": []string{"editor"}})
		if e := r.wantTold("token-claims-change")[0]; e.payload["claims"].(map[string]any)["plan"] != "gold" {
			t.Errorf("claims %v", e.payload)
		}
		h.do(h.key, "POST", "/v1/sessions/rotate", m{"session_token": login.str("session_token")}).want(200)
		r.wantTold()
		time.Sleep(5 * time.Second)
		h.do(h.key, "POST", "/v1/sessions/revoke", m{"session_id": sid, "reason": "stolen"}).want(200)
		e = r.wantTold("session-revoked")[0]
		if at := e.payload["event_timestamp"].(float64); int64(at) != time.Now().Unix() || e.payload["initiating_entity"] != "admin" || e.payload["reason_admin"].(map[string]any)["en"] != "stolen" {
			t.Errorf("revoked: %v", e.payload)
		}
		h.do(h.key, "POST", "/v1/sessions/revoke", m{"user_id": "ada"}).want(200)
		e = r.wantTold("session-revoked")[0]
		if e.sub["session"] != nil || e.sub["user"].(map[string]any)["sub"] != "ada" {
			t.Errorf("all of a user: %v", e.sub)
		}
		h.do(h.key, "POST", "/v1/sessions/revoke", m{"all": true}).want(200)
		if e = r.wantTold("session-revoked")[0]; e.sub["session"] != nil || e.sub["user"] != nil || e.sub["tenant"] == nil {
			t.Errorf("all of the app: %v", e.sub)
		}
		// Nothing of another app.
		h.do(h.newApp("tenant", nil), "POST", "/v1/sessions", m{"user_id": "eve"}).want(201)
		r.wantTold()
	})
}

// A SET comes again, as it was, until it is acknowledged; by whichever node, also one
// that was not there before.
func TestSSFPoll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t, func(c *node.Config) { c.Solo = false })
		r := h.receive(m{"events_requested": []string{caep + "session-revoked"}})
		var sids []string
		for range 5 {
			sids = append(sids, h.login("ada").str("session.session_id"))
		}
		revoke := func(sid string) { h.do(h.key, "POST", "/v1/sessions/revoke", m{"session_id": sid}).want(200) }
		for _, sid := range sids[:3] {
			revoke(sid)
		}
		first := r.now()
		if len(first) != 3 {
			t.Fatalf("%d SETs", len(first))
		}
		if !maps.Equal(first, r.now()) {
			t.Error("what was not acknowledged came otherwise")
		}
		two := setsOf(r.poll(m{"maxEvents": 2, "max_events": 9, "stream_id": r.id}))
		if len(two) != 2 {
			t.Errorf("%d SETs, want 2", len(two))
		}
		if p := r.poll(m{"maxEvents": 2}); p.at("moreAvailable") != true {
			t.Errorf("%s", p.Raw)
		}
		if p := r.poll(m{"maxEvents": 0}); len(setsOf(p)) != 0 {
			t.Errorf("%s", p.Raw)
		}
		// The last but not the first: what is before it is sent on.
		order := byPosition(first)
		left := r.now(order[2], "nonsense", "AQIAAAADAAAAAAAABNIApIRaPDSq")
		if len(left) != 2 || left[order[0]] != first[order[0]] {
			t.Errorf("left %v", left)
		}
		twin := h.twin("n2")
		other := r.before(twin)
		if !maps.Equal(left, other.now()) {
			t.Error("another node sends otherwise")
		}
		if got := other.now(order[0]); len(got) != 1 || got[order[1]] != first[order[1]] {
			t.Errorf("after two of three: %v", got)
		}
		time.Sleep(time.Second) // until the first node has heard of that
		if p := r.poll(m{"returnImmediately": true, "setErrs": m{order[1]: m{"err": "invalid_key"}}}); len(setsOf(p)) != 1 {
			t.Errorf("a key that was not had loses the event: %s", p.Raw)
		}
		p := r.poll(m{"returnImmediately": true, "setErrs": m{order[1]: m{"err": "invalid_request", "description": "what?"}}})
		if string(p.Raw) != "{\"sets\":{}}\n" {
			t.Errorf("%s", p.Raw)
		}
		status := h.do(r.key, "GET", "/ssf/status?stream_id="+r.id, nil).want(200)
		if status.at("failed") != 1.0 || !strings.Contains(string(status.Raw), "what?") {
			t.Errorf("%s", status.Raw)
		}
		// Held until there is something, here from the other node.
		go func() {
			time.Sleep(7 * time.Second)
			twin.do(h.key, "POST", "/v1/sessions/revoke", m{"session_id": sids[3]})
		}()
		if took := timed(func() { r.poll(m{}) }); took < 7*time.Second || took > 8*time.Second {
			t.Errorf("held for %v", took)
		}
		r.all()
		if took := timed(func() {
			if p := r.poll(nil); len(setsOf(p)) != 0 {
				t.Errorf("%s", p.Raw)
			}
		}); took != 24*time.Second {
			t.Errorf("held for %v", took)
		}
		// CONFIG out of reach: the receiver goes on all the same.
		h.config.Cut()
		time.Sleep(time.Minute)
		revoke(sids[4])
		got := r.now()
		if len(got) != 1 {
			t.Fatalf("%d SETs", len(got))
		}
		if again := r.now(byPosition(got)...); len(again) != 0 {
			t.Errorf("what is acknowledged comes again: %v", again)
		}
		h.config.Heal()
		time.Sleep(30 * time.Second)
		if again := r.now(); len(again) != 0 {
			t.Errorf("after CONFIG is back: %v", again)
		}
		for name, body := range map[string]any{"maxEvents": m{"maxEvents": -1}, "ack": m{"ack": "x"}, "case": m{"Ack": []string{}}, "many": m{"ack": slices.Repeat([]string{"x"}, 1001)}} {
			if r := h.do(r.key, "POST", "/ssf/poll/"+r.id, body); r.Status != 400 {
				t.Errorf("%s: %d", name, r.Status)
			}
		}
	})
}

// What is noted of a polled stream goes with it.
func TestSSFPollForgotten(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		r := h.receive(m{"events_requested": []string{caep + "session-revoked"}})
		h.revoke(h.login("ada").str("session.session_id"))
		r.wantTold("session-revoked")
		noted := func() bool {
			return slices.ContainsFunc(h.works(), func(w string) bool { return strings.Contains(w, r.id) })
		}
		if !noted() {
			t.Fatal("nothing is noted")
		}
		h.do(r.key, "DELETE", "/ssf/streams?stream_id="+r.id, nil).want(204)
		time.Sleep(3 * time.Minute)
		if noted() {
			t.Errorf("left over: %v", h.works())
		}
	})
}

// slowBeats is for tests in which hours pass.
func slowBeats(c *node.Config) { c.Lease, c.Beat = 2*time.Minute, 20*time.Second }

// A receiver in one region hears of the sessions of all, once; and can have it told
// again.
func TestSSFRegions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var there atomic.Pointer[overseas]
		h := newHarness(t, func(c *node.Config) {
			c.Solo = false
			c.Open = func(ctx context.Context, r *events.Region) (events.Log, error) {
				if us := there.Load(); us != nil {
					return us.open(ctx, r)
				}
				return unreachable(ctx, r)
			}
		})
		us := h.abroad()
		there.Store(us)
		time.Sleep(time.Minute)
		r := h.receive(m{"events_requested": []string{caep + "session-revoked"}})
		time.Sleep(time.Second)
		from := h.login("before").str("revision")
		sids := map[string]bool{}
		for _, at := range []*harness{h, us.harness} {
			login := at.do(h.key, "POST", "/v1/sessions", m{"user_id": "ada"}).want(201)
			sids[login.str("session.session_id")] = true
			at.do(h.key, "POST", "/v1/sessions/revoke", m{"session_id": login.str("session.session_id")}).want(200)
		}
		time.Sleep(time.Second)
		first := r.now()
		for _, token := range first {
			delete(sids, r.read(token).sub["session"].(map[string]any)["id"].(string))
		}
		if len(first) != 2 || len(sids) != 0 {
			t.Fatalf("%d SETs, not told of %v", len(first), sids)
		}
		r.all()
		h.do(h.key, "POST", "/v1/sessions/revoke", m{"user_id": "ada"}).want(200)
		time.Sleep(time.Second)
		if both := r.wantTold("session-revoked", "session-revoked"); both[0].txn != both[1].txn || both[0].jti == both[1].jti {
			t.Errorf("of one cause in two regions: %+v", both)
		}
		// A region that this node cannot reach keeps nobody from hearing of the others.
		us.log.Cut()
		time.Sleep(time.Minute)
		h.do(h.key, "POST", "/v1/sessions/revoke", m{"session_id": h.login("eve").str("session.session_id")}).want(200)
		r.wantTold("session-revoked")
		us.log.Heal()
		time.Sleep(time.Minute)
		r.wantTold()
		h.do(r.key, "POST", "/ssf/replay", m{"stream_id": r.id, "from": "eu:0:999999"}).wantError(400, api.InvalidArgument)
		h.do(r.key, "POST", "/ssf/replay", m{"stream_id": r.id, "from": "x"}).wantError(400, api.InvalidArgument)
		h.do(r.key, "POST", "/ssf/replay", m{"stream_id": r.id, "from": from}).want(200)
		again := r.now()
		for jti, token := range first {
			sid, err := events.ParseSID(r.read(token).sub["session"].(map[string]any)["id"].(string))
			if err != nil || again[jti] != token && sid.Stream() == 2 {
				t.Error("what is told again is told otherwise")
			}
		}
		r.wantTold("session-revoked", "session-revoked", "session-revoked")
	})
}

// byPosition returns the jtis in the order of the log, which they begin with.
func byPosition(sets map[string]string) []string {
	return slices.SortedFunc(maps.Keys(sets), func(a, b string) int {
		x, _ := base64.RawURLEncoding.DecodeString(a)
		y, _ := base64.RawURLEncoding.DecodeString(b)
		return strings.Compare(string(x), string(y))
	})
}

func TestSSFStatus(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		r := h.receive(m{"events_requested": []string{caep + "session-revoked"}})
		revoke := func() { h.do(h.key, "POST", "/v1/sessions/revoke", m{"user_id": "ada"}).want(200) }
		set := func(status string) {
			h.do(r.key, "POST", "/ssf/status", m{"stream_id": r.id, "status": status}).want(200)
		}
		verify := func(query string, body m) *reply { return h.do(r.key, "POST", "/ssf/verify"+query, body) }
		set("paused")
		revoke()
		r.wantTold()
		set("enabled")
		r.wantTold("session-revoked") // it was kept
		revoke()
		set("disabled")
		revoke()
		verify("", m{"stream_id": r.id}).wantError(400, api.InvalidArgument)
		set("enabled")
		r.wantTold() // it was dropped
		revoke()
		r.wantTold("session-revoked")

		verify("", m{"stream_id": r.id, "state": "s t/a&te"}).want(204)
		if w := verify("?stream_id="+r.id, nil).wantError(429, api.TooManyRequests); w.Header.Get("Retry-After") != "10" {
			t.Errorf("Retry-After %q", w.Header.Get("Retry-After"))
		}
		e := r.wantTold("verification")[0]
		if e.payload["state"] != "s t/a&te" || e.sub["format"] != "opaque" || e.sub["id"] != r.id || e.event != ssfEvent+"verification" {
			t.Errorf("%v", e.claims)
		}
		time.Sleep(11 * time.Second)
		verify("?stream_id="+r.id, nil).want(204)
		if e := r.wantTold("verification")[0]; e.payload["state"] != nil {
			t.Errorf("%v", e.claims)
		}
		verify("?stream_id=other", m{"stream_id": r.id}).wantError(400, api.InvalidArgument)
		verify("", m{}).wantError(400, api.InvalidArgument)
		verify("", m{"stream_id": "other"}).wantError(404, api.NotFound)
		verify("", m{"stream_id": r.id, "state": strings.Repeat("x", 1025)}).wantError(400, api.InvalidArgument)
		// A poll that is held hears of it.
		time.Sleep(11 * time.Second)
		go func() { time.Sleep(3 * time.Second); verify("", m{"stream_id": r.id}) }()
		if took := timed(func() { r.poll(nil) }); took < 3*time.Second || took > 4*time.Second {
			t.Errorf("held for %v", took)
		}
		r.all()
		// A key that was revoked hears no more, from the middle of a poll on; nor does the
		// node that it asked hold the stream for live.
		id := h.do(h.key, "GET", "/v1/apps/acme/api-keys", nil).want(200)
		go func() {
			time.Sleep(2 * time.Second)
			for _, k := range id.at("keys").([]any) {
				if k := k.(map[string]any); slices.Equal(k["scopes"].([]any), []any{"ssf"}) {
					h.do(h.key, "DELETE", "/v1/apps/acme/api-keys/"+k["id"].(string), nil).want(200)
				}
			}
			revoke()
		}()
		if p := h.do(r.key, "POST", "/ssf/poll/"+r.id, nil); p.Status == 200 && len(setsOf(p)) > 0 {
			t.Errorf("told after its key was revoked: %s", p.Raw)
		}
		h.do(r.key, "POST", "/ssf/poll/"+r.id, nil).wantError(401, api.Unauthorized)
	})
}

func TestSSFKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t, slowBeats)
		r := h.receive(nil)
		h.login("ada")
		kid := func() string {
			t.Helper()
			for _, token := range r.now() {
				r.read(token)
				text, _ := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[0])
				var header struct{ Kid string }
				_ = json.Unmarshal(text, &header)
				return header.Kid
			}
			t.Fatal("no SET")
			return ""
		}
		first := kid()
		for id, k := range h.jwks() {
			if pub := k.Public.(*rsa.PublicKey); pub.N.BitLen() < 2048 || pub.N.Cmp(big.NewInt(0)) == 0 || id != first {
				t.Errorf("key %s of %d bits", id, pub.N.BitLen())
			}
		}
		rotate := func(body m) *reply { return h.do(h.admin, "POST", "/v1/ssf/keys/rotate", body) }
		h.do(h.key, "POST", "/v1/ssf/keys/rotate", nil).wantError(403, api.Forbidden)
		rotate(m{"alg": "ES256"}).wantError(400, api.InvalidArgument)
		rotate(m{"compromised": "x"}).wantError(404, api.NotFound)
		if out := rotate(m{}).want(200); strings.Contains(string(out.Raw), `"d"`) || len(out.at("keys").([]any)) != 2 {
			t.Errorf("%s", out.Raw)
		}
		rotate(m{}).wantError(409, api.Conflict)
		if len(h.jwks()) != 2 || kid() != first {
			t.Errorf("keys %v", h.jwks())
		}
		time.Sleep(time.Hour + time.Minute)
		second := kid()
		if second == first || len(h.jwks()) != 2 {
			t.Errorf("still signed with %s", second)
		}
		rotate(m{"compromised": second}).want(200)
		if third := kid(); third == first || third == second || h.jwks()[second] != nil {
			t.Errorf("signed with %s", third)
		}
		// Without a lease they are shown all the same; and a retired one no longer than
		// for a week.
		h.config.Cut()
		h.home.Cut()
		time.Sleep(3 * time.Minute)
		if len(h.jwks()) != 2 {
			t.Errorf("keys %v", h.jwks())
		}
		h.setSkew(8 * 24 * time.Hour)
		if len(h.jwks()) != 1 {
			t.Errorf("keys %v", h.jwks())
		}
	})
}
