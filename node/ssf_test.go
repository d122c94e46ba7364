package node_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node"
	"github.com/revocast/revocast/node/api"
)

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
