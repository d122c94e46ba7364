package node_test

import (
	"context"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"maps"
	"math/big"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node"
	"github.com/revocast/revocast/node/api"
	"github.com/revocast/revocast/signer"
)

const (
	caep     = "https://schemas.openid.net/secevent/caep/event-type/"
	ssfEvent = "https://schemas.openid.net/secevent/ssf/event-type/"
	pushing  = "urn:ietf:rfc:8935"
	polling  = "urn:ietf:rfc:8936"
)

// ssfReceiver is a receiver of Shared Signals: an API key and its stream.
type ssfReceiver struct {
	*harness
	key string
	id  string
}

// receive makes a stream for a new API key. Without a body all is polled.
func (h *harness) receive(body m) *ssfReceiver {
	h.t.Helper()
	r := &ssfReceiver{harness: h, key: h.apiKey(h.app, api.ScopeSSF)}
	r.id = h.do(r.key, "POST", "/ssf/streams", body).want(http.StatusCreated).str("stream_id")
	return r
}

// at is the same receiver before another node.
func (r *ssfReceiver) before(h *harness) *ssfReceiver {
	return &ssfReceiver{harness: h, key: r.key, id: r.id}
}

func (r *ssfReceiver) poll(body m) *reply {
	r.t.Helper()
	return r.do(r.key, "POST", "/ssf/poll/"+r.id, body).want(http.StatusOK)
}

// now polls without waiting and returns the SETs by jti.
func (r *ssfReceiver) now(acks ...string) map[string]string {
	r.t.Helper()
	return setsOf(r.poll(m{"returnImmediately": true, "ack": acks}))
}

func setsOf(p *reply) map[string]string {
	p.t.Helper()
	out := map[string]string{}
	all, ok := p.at("sets").(map[string]any)
	if !ok {
		p.t.Fatalf("no sets: %s", p.Raw)
	}
	for jti, token := range all {
		out[jti] = token.(string)
	}
	return out
}

// heardSET is what a SET says.
type heardSET struct {
	jti, txn, event string
	payload, sub    map[string]any
	claims          map[string]any
}

// read checks a SET as RFC 8417 and SSF 1.0 say, with a key of the JWKS, and returns
// what it says.
func (r *ssfReceiver) read(token string) heardSET {
	r.t.Helper()
	part := strings.Split(token, ".")
	var header struct{ Typ, Alg, Kid string }
	var claims map[string]any
	for i, into := range []any{&header, &claims} {
		text, err := base64.RawURLEncoding.DecodeString(part[i])
		if err != nil || json.Unmarshal(text, into) != nil {
			r.t.Fatalf("SET %s", token)
		}
	}
	key := r.jwks()[header.Kid]
	sig, _ := base64.RawURLEncoding.DecodeString(part[2])
	if key == nil || header.Typ != "secevent+jwt" || header.Alg != "RS256" || key.CheckSignature(part[0]+"."+part[1], sig) != nil {
		r.t.Fatalf("header %+v, or its signature", header)
	}
	all := claims["events"].(map[string]any)
	if claims["iss"] != publicURL || claims["aud"] != publicURL+"/ssf/streams/"+r.id || len(all) != 1 || claims["sub"] != nil || claims["exp"] != nil {
		r.t.Errorf("claims %v", claims)
	}
	out := heardSET{claims: claims, jti: claims["jti"].(string), sub: claims["sub_id"].(map[string]any)}
	out.txn, _ = claims["txn"].(string)
	for uri, payload := range all {
		out.event, out.payload = uri, payload.(map[string]any)
	}
	return out
}

func (h *harness) jwks() map[string]*signer.Key {
	h.t.Helper()
	keys := map[string]*signer.Key{}
	for _, raw := range h.do("", "GET", "/ssf/jwks.json", nil).want(http.StatusOK).at("keys").([]any) {
		text, _ := json.Marshal(raw)
		k, err := signer.ParsePublic(text)
		if err != nil {
			h.t.Fatal(err)
		}
		keys[k.ID] = k
	}
	return keys
}

// events reads all SETs that wait and acknowledges them, by event, in no order.
func (r *ssfReceiver) all() (all []heardSET) {
	r.t.Helper()
	var acks []string
	for {
		got := r.now(acks...)
		if len(got) == 0 {
			return all
		}
		acks = slices.Collect(maps.Keys(got))
		for jti, token := range got {
			e := r.read(token)
			if e.jti != jti {
				r.t.Errorf("jti %s is under %s", e.jti, jti)
			}
			all = append(all, e)
		}
	}
}

func names(all []heardSET) (out []string) {
	for _, e := range all {
		out = append(out, e.event[strings.LastIndexByte(e.event, '/')+1:])
	}
	slices.Sort(out)
	return out
}

func (r *ssfReceiver) wantTold(want ...string) []heardSET {
	r.t.Helper()
	all := r.all()
	if got := names(all); !slices.Equal(got, want) {
		r.t.Fatalf("told %v, want %v", got, want)
	}
	return all
}

func TestSSFMetadata(t *testing.T) {
	h := unstarted(t)
	r := h.do("", "GET", "/.well-known/ssf-configuration", nil).want(http.StatusOK)
	for field, want := range map[string]any{
		"spec_version": "1_0", "issuer": publicURL, "jwks_uri": publicURL + "/ssf/jwks.json", "configuration_endpoint": publicURL + "/ssf/streams",
		"status_endpoint": publicURL + "/ssf/status", "verification_endpoint": publicURL + "/ssf/verify", "default_subjects": "ALL",
	} {
		if r.at(field) != want {
			t.Errorf("%s: %v, want %v", field, r.at(field), want)
		}
	}
	if !strings.Contains(string(r.Raw), `{"spec_urn":"urn:ietf:rfc:6749"}`) || !strings.Contains(string(r.Raw), `["urn:ietf:rfc:8935","urn:ietf:rfc:8936"]`) {
		t.Errorf("%s", r.Raw)
	}
	h.do("", "GET", "/.well-known/ssf-configuration/elsewhere", nil).wantError(404, api.NotFound)
	if keys := h.do("", "GET", "/ssf/jwks.json", nil).want(200); string(keys.Raw) != "{\"keys\":[]}\n" || keys.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("without a key: %s, %v", keys.Raw, keys.Header)
	}
	below := unstarted(t, func(c *node.Config) { c.PublicURL = publicURL + "/t/1" })
	for _, path := range []string{"", "/t/1"} {
		if r := below.do("", "GET", "/.well-known/ssf-configuration"+path, nil).want(200); r.str("issuer") != publicURL+"/t/1" {
			t.Errorf("%s", r.Raw)
		}
	}
	below.do("", "GET", "/.well-known/ssf-configuration/t", nil).want(404)
}

func TestSSFManagement(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		key, other, plain := h.apiKey("acme", api.ScopeSSF), h.apiKey("acme", api.ScopeSSF), h.apiKey("acme", api.ScopeRead)
		h.do(plain, "POST", "/ssf/streams", nil).wantError(403, api.Forbidden)
		h.do("", "POST", "/ssf/streams", nil).wantError(401, api.Unauthorized)
		if r := h.do(key, "GET", "/ssf/streams", nil).want(200); string(r.Raw) != "[]\n" {
			t.Errorf("no streams: %s", r.Raw)
		}
		before := h.configured()
		for name, body := range map[string]any{
			"method": m{"delivery": m{"method": "urn:x"}}, "no url": m{"delivery": m{"method": pushing}},
			"private": m{"delivery": m{"method": pushing, "endpoint_url": "https://10.0.0.1/"}},
			"plain":   m{"delivery": m{"method": pushing, "endpoint_url": "http://rcv.example.com/"}},
			"header":  m{"delivery": m{"method": pushing, "endpoint_url": "https://rcv.example.com/", "authorization_header": "a\r\nb: c"}},
			"polled":  m{"delivery": m{"method": polling, "endpoint_url": "https://rcv.example.com/"}},
			"secret":  m{"delivery": m{"method": polling, "authorization_header": "Bearer x"}},
			"format":  m{"subject_format": "phone"}, "events": m{"events_requested": "all"}, "long": m{"description": strings.Repeat("x", 1025)},
			"iss": m{"iss": "https://evil.example.com"}, "id": m{"stream_id": "mine"}, "aud": m{"aud": "me"}, "misspelt": m{"Delivery": m{}},
			"type": m{"description": 1}, "array": "[]", "no JSON": "{", "interval": m{"min_verification_interval": 1},
		} {
			if r := h.do(key, "POST", "/ssf/streams", body); r.Status != 400 {
				t.Errorf("%s: %d %s", name, r.Status, r.Raw)
			}
		}
		if h.configured() != before {
			t.Error("something was written")
		}
		made := h.do(key, "POST", "/ssf/streams", m{
			"delivery":         m{"method": pushing, "endpoint_url": "https://rcv.example.com/in", "authorization_header": "Bearer s3cret", "x": m{"y": 1}},
			"events_requested": []string{caep + "session-revoked", "urn:unknown"}, "description": "", "format": "x", "unknown": []int{1},
		}).want(201)
		id := made.str("stream_id")
		if made.Header.Get("Cache-Control") != "no-store" || made.at("aud") != publicURL+"/ssf/streams/"+id || made.at("iss") != publicURL ||
			len(made.at("events_delivered").([]any)) != 1 || len(made.at("events_requested").([]any)) != 2 || made.at("subject_format") != "complex" {
			t.Errorf("%s", made.Raw)
		}
		h.do(key, "POST", "/ssf/streams", nil).wantError(409, api.AlreadyExists)
		// Whatever is answered, the secret is not in it, nor in the log's payloads.
		all := made.Raw
		patch := func(body m) *reply { body["stream_id"] = id; return h.do(key, "PATCH", "/ssf/streams", body) }
		for _, r := range []*reply{
			h.do(key, "GET", "/ssf/streams?stream_id="+id, nil).want(200), h.do(key, "GET", "/ssf/streams", nil).want(200),
			patch(m{"description": "mine", "events_delivered": made.at("events_delivered"), "delivery": made.at("delivery")}).want(200),
		} {
			all = append(all, r.Raw...)
		}
		for entry := range h.payloads() {
			all = append(all, entry...)
		}
		if strings.Contains(string(all), "s3cret") {
			t.Error("the authorization header is shown")
		}
		for name, body := range map[string]m{
			"iss": {"iss": "x"}, "aud": {"aud": "x"}, "supported": {"events_supported": []string{}}, "delivered": {"events_delivered": []string{"x"}},
		} {
			if r := patch(body); r.Status != 400 {
				t.Errorf("%s: %d", name, r.Status)
			}
		}
		h.do(key, "PATCH", "/ssf/streams", m{}).wantError(400, api.InvalidArgument)
		// Of others nothing is to be seen or changed; but by who administers the app.
		for _, c := range []string{"GET /ssf/streams?stream_id=" + id, "DELETE /ssf/streams?stream_id=" + id, "GET /ssf/status?stream_id=" + id, "POST /ssf/verify?stream_id=" + id, "POST /ssf/poll/" + id} {
			method, path, _ := strings.Cut(c, " ")
			h.do(other, method, path, nil).wantError(404, api.NotFound)
			h.do(h.newAppOnce("tenant"), method, path, nil).wantError(404, api.NotFound)
		}
		h.do(other, "GET", "/ssf/streams?all=true", nil).wantError(403, api.Forbidden)
		if r := h.do(h.key, "GET", "/ssf/streams?all=true", nil).want(200); !strings.Contains(string(r.Raw), id) {
			t.Errorf("%s", r.Raw)
		}
		h.do(h.key, "POST", "/ssf/poll/"+id, nil).wantError(404, api.NotFound)
		h.do(key, "POST", "/ssf/poll/"+id, nil).wantError(400, api.InvalidArgument) // it is pushed

		put := h.do(key, "PUT", "/ssf/streams", m{"stream_id": id, "subject_format": "opaque"}).want(200)
		if put.at("description") != nil || put.at("events_requested") != nil || put.at("delivery.endpoint_url") != publicURL+"/ssf/poll/"+id || len(put.at("events_delivered").([]any)) != 5 {
			t.Errorf("%s", put.Raw)
		}
		for name, body := range map[string]m{"unknown": {"stream_id": id, "status": "off"}, "none": {"stream_id": id}, "nobody": {"status": "paused"}} {
			if r := h.do(key, "POST", "/ssf/status", body); r.Status != 400 {
				t.Errorf("status %s: %d", name, r.Status)
			}
		}
		h.do(key, "POST", "/ssf/status", m{"stream_id": id, "status": "paused", "reason": "lunch"}).want(200)
		if r := h.do(key, "GET", "/ssf/status?stream_id="+id, nil).want(200); r.str("status") != "paused" || r.str("reason") != "lunch" {
			t.Errorf("%s", r.Raw)
		}
		if r := h.do(key, "DELETE", "/ssf/streams?stream_id="+id, nil).want(204); len(r.Raw) != 0 {
			t.Errorf("%s", r.Raw)
		}
		h.do(key, "GET", "/ssf/streams?stream_id="+id, nil).wantError(404, api.NotFound)
		h.do(key, "DELETE", "/ssf/streams?stream_id="+id, nil).wantError(404, api.NotFound)
		h.do(key, "POST", "/ssf/streams", m{"delivery": m{"method": "", "endpoint_url": ""}}).want(201)
	})
}

// payloads yields all that stands readable in CONFIG.
func (h *harness) payloads() func(func([]byte) bool) {
	return func(yield func([]byte) bool) {
		err := h.config.History(h.t.Context(), []string{"ev._config.>"}, func(a events.Archived) bool { return yield(a.Payload) })
		if err != nil {
			h.t.Fatal(err)
		}
	}
}

// newAppOnce returns an API key of the app, which is made at the first call.
func (h *harness) newAppOnce(id string) string {
	if h.do(h.admin, "GET", "/v1/apps/"+id, nil).Status == 404 {
		h.newApp(id, nil)
	}
	return h.apiKey(id, api.ScopeSSF)
}

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
		}); took != 30*time.Second {
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
