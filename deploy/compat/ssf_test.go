package compat

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// ssfReceiver is a receiver of Shared Signals that knows nothing but the address of
// the transmitter and its API key, and has the manners of receivers that are about:
// it sends members that no specification has, and empty ones, names the stream of a
// verification in the query, and cannot read "moreAvailable": false.
type ssfReceiver struct {
	t    *testing.T
	key  string
	meta struct {
		Issuer        string `json:"issuer"`
		JWKS          string `json:"jwks_uri"`
		Configuration string `json:"configuration_endpoint"`
		Status        string `json:"status_endpoint"`
		Verification  string `json:"verification_endpoint"`
		Spec          string `json:"spec_version"`
		Authorization []struct {
			URN string `json:"spec_urn"`
		} `json:"authorization_schemes"`
	}
	stream struct {
		ID       string   `json:"stream_id"`
		Audience string   `json:"aud"`
		Issuer   string   `json:"iss"`
		Events   []string `json:"events_delivered"`
		Delivery struct {
			Method string `json:"method"`
			URL    string `json:"endpoint_url"`
		} `json:"delivery"`
	}
	keys jose.JSONWebKeySet
}

// discover is a receiver that has read the metadata and the keys that it names.
func discover(t *testing.T, n *node, key string) *ssfReceiver {
	t.Helper()
	r := &ssfReceiver{t: t, key: key}
	r.call("GET", n.base+"/.well-known/ssf-configuration", nil, http.StatusOK, &r.meta)
	if r.meta.Issuer != n.base || r.meta.Spec != "1_0" || !slices.ContainsFunc(r.meta.Authorization, func(s struct {
		URN string `json:"spec_urn"`
	}) bool {
		return s.URN == "urn:ietf:rfc:6749"
	}) {
		t.Fatalf("metadata %+v", r.meta)
	}
	return r
}

func (r *ssfReceiver) call(method, url string, body any, status int, into any) {
	r.t.Helper()
	text := []byte{}
	if body != nil {
		text, _ = json.Marshal(body)
	}
	q, err := http.NewRequestWithContext(r.t.Context(), method, url, bytes.NewReader(text))
	if err != nil {
		r.t.Fatal(err)
	}
	q.Header.Set("Authorization", "Bearer "+r.key)
	q.Header.Set("Content-Type", "application/json")
	answer, err := http.DefaultClient.Do(q)
	if err != nil {
		r.t.Fatal(err)
	}
	defer answer.Body.Close()
	got, _ := io.ReadAll(answer.Body)
	if answer.StatusCode != status {
		r.t.Fatalf("%s %s: %d, want %d: %s", method, url, answer.StatusCode, status, got)
	}
	if into == nil {
		return
	}
	if err := json.Unmarshal(got, into); err != nil {
		r.t.Fatalf("%s %s: %s: %v", method, url, got, err)
	}
}

// create makes the stream, unless the list shows that it is there.
func (r *ssfReceiver) create(delivery object) {
	r.t.Helper()
	var list []json.RawMessage
	r.call("GET", r.meta.Configuration, nil, http.StatusOK, &list)
	if len(list) != 0 {
		r.t.Fatalf("streams before the first: %s", list)
	}
	r.call("POST", r.meta.Configuration, object{
		"delivery": delivery, "description": "", "format": "", "events_requested": []string{
			"https://schemas.openid.net/secevent/caep/event-type/session-revoked",
			"https://schemas.openid.net/secevent/caep/event-type/credential-change",
			"https://schemas.openid.net/secevent/risc/event-type/account-disabled",
		},
	}, http.StatusCreated, &r.stream)
	if r.stream.Issuer != r.meta.Issuer || len(r.stream.Events) != 2 {
		r.t.Fatalf("stream %+v", r.stream)
	}
	r.call("POST", r.meta.Configuration, object{}, http.StatusConflict, nil)
	r.call("GET", r.meta.Configuration, nil, http.StatusOK, &list)
	r.call("GET", r.meta.Status+"?stream_id="+r.stream.ID, nil, http.StatusOK, nil)
	if len(list) != 1 {
		r.t.Fatalf("streams: %s", list)
	}
}

func (r *ssfReceiver) verify(state string) {
	r.t.Helper()
	r.call("POST", r.meta.Verification+"?stream_id="+r.stream.ID, object{"state": state}, http.StatusNoContent, nil)
}

// ssfClaims are what a SET says.
type ssfClaims struct {
	Issuer   string                    `json:"iss"`
	Audience string                    `json:"aud"`
	JTI      string                    `json:"jti"`
	IssuedAt int64                     `json:"iat"`
	Subject  map[string]any            `json:"sub_id"`
	Events   map[string]map[string]any `json:"events"`
	Sub, Exp any
}

// read verifies a SET with go-jose.
func (r *ssfReceiver) read(set string) (ssfClaims, error) {
	var c ssfClaims
	parsed, err := jose.ParseSigned(set, []jose.SignatureAlgorithm{jose.RS256})
	if err != nil {
		return c, err
	}
	h := parsed.Signatures[0].Protected
	if h.ExtraHeaders[jose.HeaderType] != "secevent+jwt" {
		return c, fmt.Errorf("typ %v", h.ExtraHeaders[jose.HeaderType])
	}
	if len(r.keys.Key(h.KeyID)) == 0 { // not known yet
		r.keys = jose.JSONWebKeySet{}
		r.call("GET", r.meta.JWKS, nil, http.StatusOK, &r.keys)
	}
	found := r.keys.Key(h.KeyID)
	if len(found) != 1 || found[0].Algorithm != "RS256" || found[0].Use != "sig" || !found[0].IsPublic() {
		return c, fmt.Errorf("keys of kid %s: %v", h.KeyID, found)
	}
	payload, err := parsed.Verify(found[0])
	if err != nil {
		return c, err
	}
	if err := json.Unmarshal(payload, &c); err != nil {
		return c, err
	}
	if c.Issuer != r.meta.Issuer || c.Audience != r.stream.Audience || c.JTI == "" || len(c.Events) != 1 || c.Sub != nil || c.Exp != nil {
		return c, fmt.Errorf("claims %s", payload)
	}
	return c, nil
}

// checkSETs has every SET verified by both libraries, and one that was changed refused.
func (r *ssfReceiver) checkSETs(sets []string) (all []ssfClaims) {
	r.t.Helper()
	for _, set := range sets {
		c, err := r.read(set)
		if err != nil {
			r.t.Fatalf("go-jose: %v", err)
		}
		all = append(all, c)
	}
	r.checkWithJose(sets)
	return all
}

func (r *ssfReceiver) checkWithJose(sets []string) {
	r.t.Helper()
	needPackages(r.t, "jose")
	var jobs []object
	add := func(name, set string) {
		jobs = append(jobs, object{"name": name, "jwks": r.meta.JWKS, "set": set, "issuer": r.meta.Issuer, "audience": r.stream.Audience})
	}
	for i, set := range sets {
		add(fmt.Sprint("as sent ", i), set)
	}
	part := strings.Split(sets[0], ".")
	add("changed", part[0]+"."+strings.Split(sets[len(sets)-1], ".")[1]+"."+part[2]+"AA")
	var judged []judgement
	runScript(r.t, "sets.mjs", jobs, &judged)
	for i, j := range judged {
		if j.OK != (i < len(sets)) {
			r.t.Errorf("jose: %s: accepted %v: %s %s", j.Name, j.OK, j.Code, j.Message)
		}
		if !j.OK {
			continue
		}
		if j.Payload["sub"] != nil || j.Payload["exp"] != nil || j.Header["kid"] == nil || len(j.Header) != 3 {
			r.t.Errorf("jose read %v, %v", j.Header, j.Payload)
		}
	}
}

// ssfKey makes an API key for a receiver.
func ssfKey(t *testing.T, n *node) string {
	t.Helper()
	return n.app().do(t, "POST", "/v1/apps/"+n.boot.App+"/api-keys", object{"name": "receiver", "scopes": []string{"ssf"}}).want(t, http.StatusCreated).APIKey
}

// signals has things happen that receivers are told of: a factor is added to a
// session, the session is revoked, and its user is logged out everywhere.
func signals(t *testing.T, n *node, user string) (sid string) {
	t.Helper()
	c := n.app()
	sid = c.do(t, "POST", "/v1/sessions", object{"user_id": user}).want(t, http.StatusCreated).Session.SessionID
	c.do(t, "PATCH", "/v1/sessions/"+sid, object{"add_authentication_factors": []object{{"type": "totp"}}}).want(t, http.StatusOK)
	c.do(t, "POST", "/v1/sessions/revoke", object{"session_id": sid, "reason": "stolen"}).want(t, http.StatusOK)
	c.do(t, "POST", "/v1/sessions/revoke", object{"user_id": user}).want(t, http.StatusOK)
	return sid
}

// wantSignals fails unless the SETs say what signals did, and nothing else of the
// user.
func wantSignals(t *testing.T, all []ssfClaims, user, sid string) {
	t.Helper()
	var got []string
	for _, c := range all {
		if u, _ := c.Subject["user"].(map[string]any); u["sub"] != user {
			continue
		}
		what := "everything"
		if s, ok := c.Subject["session"].(map[string]any); ok && s["id"] == sid {
			what = "session"
		}
		for uri, payload := range c.Events {
			if at, _ := payload["event_timestamp"].(float64); time.Since(time.Unix(int64(at), 0)).Abs() > time.Minute {
				t.Errorf("event_timestamp %v", payload["event_timestamp"])
			}
			if reason, _ := payload["reason_admin"].(map[string]any); reason["en"] == nil || reason["en"] == "" {
				t.Errorf("reason_admin %v", payload["reason_admin"])
			}
			got = append(got, uri[strings.LastIndexByte(uri, '/')+1:]+" of "+what)
		}
	}
	slices.Sort(got)
	if want := []string{"credential-change of session", "session-revoked of everything", "session-revoked of session"}; !slices.Equal(got, want) {
		t.Errorf("told %v, want %v", got, want)
	}
}

// TestSSFPoll: a receiver finds the transmitter, makes a stream and polls it, over a
// restart of the transmitter.
func TestSSFPoll(t *testing.T) {
	n := newNode(t)
	r := discover(t, n, ssfKey(t, n))
	r.create(object{"method": "urn:ietf:rfc:8936", "endpoint_url": ""})
	poll := func(acks ...string) map[string]string {
		var out struct {
			SETs map[string]string `json:"sets"`
			More *bool             `json:"moreAvailable"`
		}
		r.call("POST", r.stream.Delivery.URL, object{"max_events": 10, "maxEvents": 100, "stream_id": r.stream.ID, "returnImmediately": true, "ack": acks}, http.StatusOK, &out)
		if out.SETs == nil || out.More != nil && !*out.More {
			t.Fatalf("poll: %+v", out)
		}
		return out.SETs
	}
	r.verify("state of mine")
	sid := signals(t, n, "ada")
	sets := poll()
	if code := n.stop(t); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	n.start(t)
	again := poll()
	if len(again) != 4 || !maps.Equal(sets, again) {
		t.Fatalf("after a restart %d SETs, before %d", len(again), len(sets))
	}
	all := r.checkSETs(slices.Collect(maps.Values(sets)))
	wantSignals(t, all, "ada", sid)
	if !slices.ContainsFunc(all, func(c ssfClaims) bool {
		return c.Events["https://schemas.openid.net/secevent/ssf/event-type/verification"]["state"] == "state of mine"
	}) {
		t.Error("no verification")
	}
	if left := poll(slices.Collect(maps.Keys(sets))...); len(left) != 0 {
		t.Errorf("after they were acknowledged: %d SETs", len(left))
	}
	r.call("DELETE", r.meta.Configuration+"?stream_id="+r.stream.ID, nil, http.StatusNoContent, nil)
	r.call("POST", r.stream.Delivery.URL, nil, http.StatusNotFound, nil)
}

// TestSSFPollHeld: a poll without anything to tell is held, and then answered.
func TestSSFPollHeld(t *testing.T) {
	if testing.Short() {
		t.Skip("NOT TESTED with -short: takes half a minute")
	}
	t.Parallel()
	n := newNode(t)
	r := discover(t, n, ssfKey(t, n))
	r.create(object{})
	var out json.RawMessage
	start := time.Now()
	r.call("POST", r.stream.Delivery.URL, object{}, http.StatusOK, &out)
	if took := time.Since(start); took < 20*time.Second || strings.TrimSpace(string(out)) != `{"sets":{}}` {
		t.Errorf("after %v: %s", took, out)
	}
}

// TestSSFPush: the same, pushed to a receiver that is in trouble at first.
func TestSSFPush(t *testing.T) {
	n := newNode(t, "--outbound-allow", "127.0.0.1/32")
	var mu sync.Mutex // guards got and troubles
	var got []string
	troubles := 2
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		body, _ := io.ReadAll(q.Body)
		mu.Lock()
		defer mu.Unlock()
		switch {
		case q.Header.Get("Authorization") != "Bearer of receiver" || q.Header.Get("Content-Type") != "application/secevent+jwt" || q.Header.Get("Accept") != "application/json":
			w.WriteHeader(http.StatusUnauthorized)
		case troubles > 0:
			troubles--
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusBadRequest)
			_, _ = io.WriteString(w, `{"err":"invalid_key","description":"keys could not be fetched"}`)
		default:
			got = append(got, string(body))
			w.WriteHeader(http.StatusAccepted)
		}
	}))
	defer server.Close()
	r := discover(t, n, ssfKey(t, n))
	r.create(object{"method": "urn:ietf:rfc:8935", "endpoint_url": server.URL + "/events", "authorization_header": "Bearer of receiver"})
	r.verify("state of mine")
	sid := signals(t, n, "ada")
	var sets []string
	for end := time.Now().Add(30 * time.Second); len(sets) < 4 && time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		mu.Lock()
		sets = slices.Clone(got)
		mu.Unlock()
	}
	if len(sets) != 4 {
		t.Fatalf("%d SETs; the program printed:\n%s", len(sets), n.out)
	}
	all := r.checkSETs(sets)
	wantSignals(t, all, "ada", sid)
	seen := map[string]bool{}
	for _, c := range all {
		if seen[c.JTI] {
			t.Errorf("jti %s twice", c.JTI)
		}
		seen[c.JTI] = true
	}
}
