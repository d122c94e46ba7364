package node_test

import (
	"context"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node"
	"github.com/revocast/revocast/node/api"
)

func TestCreateApp(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		r := h.do(h.admin, "POST", "/v1/apps", `{"app_id":"shop"}`).want(201)
		want := map[string]any{
			"app_id": "shop", "state": "active", "created_at": r.str("app.created_at"), "changed_at": r.str("app.created_at"),
			"jwt_profile": "native", "jwt_alg": "ES256", "jwt_ttl_seconds": 300.0,
			"session_duration_minutes": 43200.0, "absolute_lifetime_minutes": 527040.0, "idle_timeout_minutes": 0.0,
			"when_stale": "refuse", "return_token": false, "compat": []any{}, "issuer": publicURL + "/v1/apps/shop",
			"max_sessions_per_user": 0.0, "session_limit_policy": "evict_oldest", "token_reuse": "refuse",
			"introspection_max_exp_seconds": 60.0, "dpop_nonce": false, "expired_events": true, "status_list": false,
			"origins": []any{}, "client_jwt_ttl_seconds": 60.0, "clear_site_data": false,
		}
		if diff := cmp.Diff(want, r.at("app")); diff != "" {
			t.Errorf("defaults: -want +got\n%s", diff)
		}
		key := r.str("api_key")
		if !strings.HasPrefix(key, "sk_") || len(key) != 46 {
			t.Errorf("api_key has %d characters", len(key))
		}
		if _, err := events.ParsePosition(r.str("revision")); err != nil {
			t.Errorf("revision: %v", err)
		}
		h.do(key, "POST", "/v1/sessions", `{"user_id":"u"}`).want(201)
		if r := h.do(key, "GET", "/v1/apps/shop", nil).want(200); r.at("api_key") != nil {
			t.Error("a read shows an API key")
		}

		all := `{"app_id":"full","jwt_profile":"stytch","jwt_alg":"EdDSA","jwt_ttl_seconds":60,"session_duration_minutes":10,` +
			`"absolute_lifetime_minutes":20,"idle_timeout_minutes":5,"when_stale":"reauth","return_token":false,"compat":["clerk"]}`
		r = h.do(h.admin, "POST", "/v1/apps", all).want(201)
		for field, want := range map[string]any{
			"jwt_profile": "stytch", "jwt_alg": "EdDSA", "jwt_ttl_seconds": 60.0, "session_duration_minutes": 10.0,
			"absolute_lifetime_minutes": 20.0, "idle_timeout_minutes": 5.0, "when_stale": "reauth", "return_token": false, "compat": []any{"clerk"},
			"issuer": publicURL,
		} {
			if got := r.at("app." + field); !reflect.DeepEqual(got, want) {
				t.Errorf("%s: %v, want %v", field, got, want)
			}
		}
		r = h.do(h.admin, "POST", "/v1/apps", `{"app_id":"st","jwt_profile":"stytch"}`).want(201)
		if r.at("app.return_token") != true {
			t.Error("the stytch profile does not return tokens by default")
		}
		h.do(h.admin, "POST", "/v1/apps", `{"app_id":"shop"}`).wantError(409, api.AlreadyExists)

		list := h.do(h.admin, "GET", "/v1/apps", nil).want(200)
		var ids []string
		for _, a := range list.JSON["apps"].([]any) {
			ids = append(ids, a.(map[string]any)["app_id"].(string))
		}
		if diff := cmp.Diff([]string{"acme", "full", "shop", "st"}, ids); diff != "" {
			t.Errorf("list: -want +got\n%s", diff)
		}
	})
}

// TestBadAdministration: what is refused names the field and stores nothing.
func TestBadAdministration(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		h.do(h.admin, "PATCH", "/v1/apps/acme", `{"session_duration_minutes":100,"absolute_lifetime_minutes":200}`).want(200)
		before := h.configured()
		apps, app := "POST /v1/apps", "PATCH /v1/apps/acme"
		keys, templates := "POST /v1/apps/acme/api-keys", "PUT /v1/apps/acme/templates/t1"
		rotate := "POST /v1/apps/acme/keys/rotate"
		bad := func(kind string, status int, call, body, message string) {
			t.Helper()
			method, path, _ := strings.Cut(call, " ")
			r := h.do(h.admin, method, path, body).wantError(status, kind)
			if !strings.Contains(r.str("error_message"), message) {
				t.Errorf("%s %.60s: %q, want it to say %q", call, body, r.str("error_message"), message)
			}
		}
		invalid := func(call, body, message string) { t.Helper(); bad(api.InvalidArgument, 400, call, body, message) }

		for _, id := range []string{"", "-a", "_a", "A", "a b", "a.b", "a/b", "*", ">", "ä", strings.Repeat("a", 65), `a\u0000`, "a\n"} {
			invalid(apps, `{"app_id":"`+strings.ReplaceAll(id, "\n", `\n`)+`"}`, "app_id")
		}
		invalid(apps, ``, "app_id")
		invalid(apps, `{"app_id":1}`, "app_id: want a string")
		invalid(apps, `{"app_id":"x","name":"y"}`, `unknown field "name"`)
		invalid(apps, `{"app_id":"x"}{}`, "after top-level value")
		invalid(apps, `{"app_id":"x","app_id":"y"}`, "twice")
		invalid(apps, `{"app_id":"x","AppID":"y"}`, "unknown field")
		bad(api.BodyTooLarge, 413, apps, `{"app_id":"`+strings.Repeat("x", 64<<10)+`"}`, "65536")
		for _, call := range []string{apps, app} {
			with := func(member string) string {
				if call == apps {
					return `{"app_id":"x",` + member + `}`
				}
				return `{` + member + `}`
			}
			invalid(call, with(`"jwt_profile":"clerk2"`), "jwt_profile")
			invalid(call, with(`"jwt_profile":""`), "jwt_profile")
			invalid(call, with(`"jwt_alg":"HS256"`), "jwt_alg")
			invalid(call, with(`"jwt_alg":"none"`), "jwt_alg")
			invalid(call, with(`"jwt_ttl_seconds":29`), "30 to 3600")
			invalid(call, with(`"jwt_ttl_seconds":3601`), "30 to 3600")
			invalid(call, with(`"jwt_ttl_seconds":"60"`), "want an integer")
			invalid(call, with(`"session_duration_minutes":0`), "1 to 527040")
			invalid(call, with(`"session_duration_minutes":527041`), "1 to 527040")
			invalid(call, with(`"session_duration_minutes":-9223372036854775808`), "1 to 527040")
			invalid(call, with(`"absolute_lifetime_minutes":0`), "1 to 527040")
			invalid(call, with(`"idle_timeout_minutes":-1`), "0 to 527040")
			invalid(call, with(`"session_duration_minutes":300,"absolute_lifetime_minutes":299`), "absolute_lifetime_minutes")
			invalid(call, with(`"when_stale":"ignore"`), "when_stale")
			invalid(call, with(`"return_token":1`), "return_token")
		}
		invalid(app, `{"absolute_lifetime_minutes":99}`, "below session_duration_minutes")
		invalid(app, `{"app_id":"acme"}`, "unknown field")
		invalid(app, `{"state":"deleted"}`, "unknown field")
		invalid("POST /v1/apps/acme/suspend", `{"reason":"x"}`, "unknown field")

		invalid(keys, `{"scopes":[]}`, "scopes")
		invalid(keys, `{"scopes":["root"]}`, `"root"`)
		invalid(keys, `{"scopes":["cluster"]}`, `"cluster"`)
		invalid(keys, `{"scopes":["read","read"]}`, "twice")
		invalid(keys, `{"scopes":"read"}`, "want an array")
		invalid(keys, `{"expires_at":"2000-01-01T00:00:00Z"}`, "past")
		invalid(keys, `{"expires_at":"soon"}`, "expires_at: want a time")
		invalid(keys, `{"name":"a\nb"}`, "control characters")
		invalid(keys, `{"name":"`+strings.Repeat("n", 129)+`"}`, "128 bytes")
		invalid("POST /v1/admin-keys", `{"scopes":["read"]}`, `"read"`)
		invalid("DELETE /v1/apps/acme/api-keys/key_x?wait=forever", ``, "wait")
		bad(api.NotFound, 404, "DELETE /v1/apps/acme/api-keys/key_x", ``, "key_x")
		bad(api.NotFound, 404, "DELETE /v1/admin-keys/key_x", ``, "key_x")

		invalid(templates, `{"name":"t2"}`, "name")
		invalid("PUT /v1/apps/acme/templates/T", `{}`, "name")
		invalid("PUT /v1/apps/acme/templates/a.b", `{}`, "name")
		invalid(templates, `{"jwt_profile":"x"}`, "jwt_profile")
		invalid(templates, `{"ttl_seconds":29}`, "ttl_seconds")
		invalid(templates, `{"ttl_seconds":3601}`, "ttl_seconds")
		invalid(templates, `{"ttl_seconds":-1}`, "ttl_seconds")
		invalid(templates, `{"audience":"a\u0000"}`, "control characters")
		invalid(templates, `{"claims":[]}`, "claims")
		invalid(templates, `{"claims":"x"}`, "claims")
		invalid(templates, `{"claims":{"a":1,"a":2}}`, "twice")
		for _, claim := range []string{"iss", "sub", "exp", "sid", "cnf", "https://stytch.com/session"} {
			invalid(templates, `{"claims":{"`+claim+`":1}}`, "reserved")
		}
		bad(api.ClaimsTooLarge, 413, templates, `{"claims":{"a":"`+strings.Repeat("x", 4<<10)+`"}}`, "4096")
		bad(api.NotFound, 404, "GET /v1/apps/acme/templates/t1", ``, "t1")
		bad(api.NotFound, 404, "DELETE /v1/apps/acme/templates/t1", ``, "t1")

		invalid(rotate, `{"alg":"HS256"}`, "alg")
		invalid(rotate, `{"alg":"RS256"}`, "jwt_alg")
		invalid(rotate, `{"alg":"ES256","compromised":"x"}`, "alg")
		invalid(rotate+"?wait=1", ``, "wait")
		bad(api.NotFound, 404, rotate, `{"compromised":"x"}`, "x")

		bad(api.AppNotFound, 404, "GET /v1/apps/nobody", ``, "nobody")
		bad(api.AppNotFound, 404, "DELETE /v1/apps/nobody", ``, "nobody")
		bad(api.AppNotFound, 404, "POST /v1/apps/nobody/suspend", ``, "nobody")
		h.do(h.admin, "POST", "/v1/apps", `{"app_id":"x"}`, "Content-Type", "text/plain").wantError(415, api.MediaType)
		h.do(h.admin, "POST", "/v1/apps", "{\"app_id\":\"\xff\"}").wantError(400, api.InvalidArgument)

		if after := h.configured(); after != before {
			t.Errorf("%d events were stored", after-before)
		}
	})
}

// configured counts what callers ever wrote, to CONFIG too.
func (h *harness) configured() (count int) {
	h.t.Helper()
	for _, log := range []*events.Memory{h.config, h.home} {
		if err := log.History(h.t.Context(), []string{"ev.>"}, func(events.Archived) bool { count++; return true }); err != nil {
			h.t.Fatalf("read archive: %v", err)
		}
	}
	return count
}

func TestChangeApp(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		before := h.configured()
		same := h.do(h.key, "PATCH", "/v1/apps/acme", `{"jwt_ttl_seconds":300}`).want(200)
		if same.str("revision") == "" || h.configured() != before {
			t.Error("a change of nothing was written")
		}
		time.Sleep(time.Minute)
		r := h.do(h.key, "PATCH", "/v1/apps/acme", `{"jwt_ttl_seconds":60,"idle_timeout_minutes":15}`).want(200)
		if r.at("app.jwt_ttl_seconds") != 60.0 || r.at("app.idle_timeout_minutes") != 15.0 || r.at("app.session_duration_minutes") != 43200.0 {
			t.Errorf("changed: %s", r.Raw)
		}
		if r.str("app.created_at") == r.str("app.changed_at") {
			t.Error("changed_at is still created_at")
		}
		if r.str("revision") == same.str("revision") {
			t.Error("the change has no revision of its own")
		}
		read := h.do(h.key, "GET", "/v1/apps/acme", nil).want(200)
		if diff := cmp.Diff(r.at("app"), read.at("app")); diff != "" {
			t.Errorf("-changed +read\n%s", diff)
		}
		r = h.do(h.key, "PATCH", "/v1/apps/acme", `{"idle_timeout_minutes":0}`).want(200)
		if r.at("app.idle_timeout_minutes") != 0.0 {
			t.Error("the idle timeout stayed")
		}
	})
}

// TestConflicts: each change is refused when another came between what it was
// computed from and its write.
func TestConflicts(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		keyID := h.do(h.admin, "GET", "/v1/apps/acme/api-keys", nil).JSON["keys"].([]any)[0].(map[string]any)["id"].(string)
		h.do(h.admin, "PUT", "/v1/apps/acme/templates/t1", `{}`).want(200)
		for _, c := range []struct{ method, path, body, kind string }{
			{"PATCH", "/v1/apps/acme", `{"jwt_ttl_seconds":61}`, "app"},
			{"POST", "/v1/apps/acme/suspend", ``, "app"},
			{"DELETE", "/v1/apps/acme", ``, "app"},
			{"POST", "/v1/apps", `{"app_id":"late"}`, "app"},
			{"PUT", "/v1/apps/acme/templates/t1", `{"ttl_seconds":60}`, "cfg"},
			{"PUT", "/v1/apps/acme/templates/t2", `{}`, "cfg"},
			{"DELETE", "/v1/apps/acme/templates/t1", ``, "cfg"},
			{"POST", "/v1/apps/acme/api-keys", ``, "apikey"},
			{"DELETE", "/v1/apps/acme/api-keys/" + keyID, ``, "apikey"},
			{"POST", "/v1/apps/acme/keys/rotate", ``, "key"},
		} {
			// Just before the write of that kind, somebody else writes to its
			// subject. What they write does not matter.
			h.config.SetFaults(events.MemoryFaults{Send: func(_ context.Context, m events.Message) error {
				if strings.HasSuffix(m.Subject, "."+c.kind) {
					m.Seal = "other"
					_, err := h.config.Inject(m)
					return err
				}
				return nil
			}})
			h.do(h.admin, c.method, c.path, c.body).wantError(409, api.Conflict)
			h.config.SetFaults(events.MemoryFaults{})
			time.Sleep(2 * time.Second) // until what the other wrote is repaired
		}
		h.do(h.admin, "PATCH", "/v1/apps/acme", `{"jwt_ttl_seconds":61}`).want(200)
		if r := h.do(h.admin, "GET", "/v1/apps/acme", nil).want(200); r.str("app.state") != "active" {
			t.Errorf("after refused changes: %s", r.Raw)
		}
	})
}

// TestUnanswered: a change to which the log gave no answer says so, and a
// repeat goes through.
func TestUnanswered(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		h.config.SetFaults(events.MemoryFaults{Ack: func(_ context.Context, m events.Message, _ uint64) error {
			if strings.HasSuffix(m.Subject, ".app") {
				return events.ErrUnavailable
			}
			return nil
		}})
		h.do(h.admin, "PATCH", "/v1/apps/acme", `{"jwt_ttl_seconds":61}`).wantError(503, api.LogUnavailable)
		h.config.SetFaults(events.MemoryFaults{})
		time.Sleep(time.Second)
		r := h.do(h.admin, "PATCH", "/v1/apps/acme", `{"jwt_ttl_seconds":61}`).want(200)
		if r.at("app.jwt_ttl_seconds") != 61.0 {
			t.Errorf("%s", r.Raw)
		}
	})
}

// TestCrashInCreate: when only the key of a new app was written, the app does
// not exist, and a repeat makes it with that key.
func TestCrashInCreate(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		h.config.SetFaults(events.MemoryFaults{Send: func(_ context.Context, m events.Message) error {
			if strings.HasSuffix(m.Subject, ".app") {
				return events.ErrUnavailable
			}
			return nil
		}})
		h.do(h.admin, "POST", "/v1/apps", `{"app_id":"half"}`).wantError(503, api.LogUnavailable)
		h.do("", "GET", "/v1/apps/half/jwks", nil).wantError(404, api.AppNotFound)
		h.config.SetFaults(events.MemoryFaults{})
		key := h.newApp("half", nil)
		if n := len(h.do("", "GET", "/v1/apps/half/jwks", nil).want(200).JSON["keys"].([]any)); n != 1 {
			t.Errorf("%d keys, want 1", n)
		}
		h.do(key, "POST", "/v1/sessions", `{"user_id":"u"}`).want(201)
	})
}

// TestCrashInDelete: when the app is deleted and the home stream could not be
// told, all of it is refused already, and a repeat tells it.
func TestCrashInDelete(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		token := h.login("u1").str("session_token")
		h.home.SetFaults(events.MemoryFaults{Send: func(_ context.Context, m events.Message) error {
			if strings.HasSuffix(m.Subject, ".all") {
				return events.ErrUnavailable
			}
			return nil
		}})
		h.do(h.admin, "DELETE", "/v1/apps/acme", nil).wantError(503, api.LogUnavailable)
		if r := h.do(token, "GET", "/v1/verify", nil); r.Status != 401 && r.Status != 403 {
			t.Errorf("verify: %d", r.Status)
		}
		h.home.SetFaults(events.MemoryFaults{})
		h.do(h.admin, "DELETE", "/v1/apps/acme", nil).want(200)
		told := 0
		if err := h.home.History(t.Context(), []string{"ev.eu.acme.-.-.all"}, func(events.Archived) bool { told++; return true }); err != nil || told != 1 {
			t.Errorf("%d events that revoke the app's sessions, want 1: %v", told, err)
		}
		h.do(h.admin, "DELETE", "/v1/apps/acme", nil).wantError(404, api.AppNotFound)
	})
}

// TestBootstrapAgain: a repeat, as after a crash, changes nothing.
func TestBootstrapAgain(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		before := h.configured()
		for range 2 {
			if err := h.node.Bootstrap(t.Context(), node.Bootstrap{App: h.app, APIKey: h.key, Admin: h.admin}); err != nil {
				t.Fatal(err)
			}
		}
		if after := h.configured(); after != before {
			t.Errorf("%d events were written", after-before)
		}
		h.do(h.key, "GET", "/v1/apps/acme", nil).want(200)
	})
}

func TestAPIKeys(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		expires := time.Now().Add(time.Hour).UTC()
		made := h.do(h.key, "POST", "/v1/apps/acme/api-keys", map[string]any{
			"name": "reader", "scopes": []string{"read"}, "expires_at": expires,
		}).want(201)
		secret := made.str("api_key")
		if made.str("key.name") != "reader" || made.str("key.app_id") != "acme" || made.at("key.revoked_at") != nil {
			t.Errorf("made: %s", made.Raw)
		}
		h.do(secret, "GET", "/v1/sessions", nil).want(200)
		list := h.do(h.key, "GET", "/v1/apps/acme/api-keys", nil).want(200)
		if len(list.JSON["keys"].([]any)) != 2 || strings.Contains(string(list.Raw), "sk_") || strings.Contains(string(list.Raw), "hash") {
			t.Errorf("list: %s", list.Raw)
		}

		time.Sleep(time.Hour - time.Second)
		h.do(secret, "GET", "/v1/sessions", nil).want(200)
		time.Sleep(time.Second)
		h.do(secret, "GET", "/v1/sessions", nil).wantError(401, api.Unauthorized)

		other := h.do(h.key, "POST", "/v1/apps/acme/api-keys", nil).want(201)
		secret = other.str("api_key")
		id := other.str("key.id")
		h.do(secret, "GET", "/v1/apps/acme", nil).want(200)
		gone := h.do(h.key, "DELETE", "/v1/apps/acme/api-keys/"+id+"?wait=all", nil).want(200)
		h.do(secret, "GET", "/v1/apps/acme", nil).wantError(401, api.Unauthorized)
		if gone.str("key.revoked_at") == "" || gone.str("receipt.status") != "complete" || gone.str("receipt.revision") != gone.str("revision") || gone.at("api_key") != nil {
			t.Errorf("revoked: %s", gone.Raw)
		}
		before := h.configured()
		again := h.do(h.key, "DELETE", "/v1/apps/acme/api-keys/"+id, nil).want(200)
		if again.str("revision") != gone.str("revision") || again.str("key.revoked_at") != gone.str("key.revoked_at") || h.configured() != before {
			t.Errorf("revoked again: %s", again.Raw)
		}
	})
}

func TestAdminKeys(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		made := h.do(h.admin, "POST", "/v1/admin-keys", `{"name":"second"}`).want(201)
		second := made.str("api_key")
		if made.at("key.app_id") != nil {
			t.Errorf("made: %s", made.Raw)
		}
		if n := len(h.do(second, "GET", "/v1/admin-keys", nil).want(200).JSON["keys"].([]any)); n != 2 {
			t.Errorf("%d admin keys, want 2", n)
		}
		// The keys of apps are not among them, nor the other way round.
		id := made.str("key.id")
		h.do(h.admin, "DELETE", "/v1/apps/acme/api-keys/"+id, nil).wantError(404, api.NotFound)
		h.do(h.admin, "DELETE", "/v1/admin-keys/"+id, nil).want(200)
		h.do(second, "GET", "/v1/admin-keys", nil).wantError(401, api.Unauthorized)
		h.do(second, "GET", "/v1/sessions", nil, "X-Revocast-App", "acme").wantError(401, api.Unauthorized)
	})
}

// TestNoSecretsStored: CONFIG holds no API key, only its hash.
func TestNoSecretsStored(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		secret := h.apiKey(h.app, api.ScopeRead)
		err := h.config.History(t.Context(), []string{"ev.>"}, func(a events.Archived) bool {
			for _, s := range []string{secret, h.key, h.admin} {
				if strings.Contains(string(a.Payload), s) || strings.Contains(string(a.Payload), strings.TrimPrefix(s, "sk_")) {
					t.Errorf("an API key stands in %s", a.Subject)
				}
			}
			return true
		})
		if err != nil {
			t.Fatal(err)
		}
	})
}

func TestTemplates(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		put := h.do(h.key, "PUT", "/v1/apps/acme/templates/billing",
			`{"name":"billing","jwt_profile":"stytch","ttl_seconds":60,"audience":"billing.example","claims":{ "plan" : {"a":[1.50]} }}`).want(200)
		want := map[string]any{
			"name": "billing", "jwt_profile": "stytch", "ttl_seconds": 60.0, "audience": "billing.example",
			"claims": map[string]any{"plan": map[string]any{"a": []any{1.5}}},
		}
		got := h.do(h.key, "GET", "/v1/apps/acme/templates/billing", nil).want(200)
		for name, r := range map[string]*reply{"put": put, "get": got} {
			if diff := cmp.Diff(want, r.at("template")); diff != "" {
				t.Errorf("%s: -want +got\n%s", name, diff)
			}
		}
		if !strings.Contains(string(got.Raw), "1.50") {
			t.Error("a number was written differently")
		}
		h.do(h.key, "PUT", "/v1/apps/acme/templates/api", `{}`).want(200)
		h.do(h.key, "PUT", "/v1/apps/acme/templates/api", `{"claims":null,"ttl_seconds":3600}`).want(200)
		list := h.do(h.key, "GET", "/v1/apps/acme/templates", nil).want(200)
		all := []any{map[string]any{"name": "api", "ttl_seconds": 3600.0}, want}
		if diff := cmp.Diff(all, list.JSON["templates"]); diff != "" {
			t.Errorf("list: -want +got\n%s", diff)
		}

		sid := h.login("u1").str("session.session_id")
		jwt := h.do(h.key, "POST", "/v1/sessions/"+sid+"/tokens", `{"template":"billing"}`).want(200).str("session_jwt")
		c := claims(t, jwt)
		if diff := cmp.Diff([]any{"billing.example"}, c["aud"]); diff != "" || c["plan"] == nil || c["https://stytch.com/session"] == nil {
			t.Errorf("claims of the template: %v", c)
		}

		h.do(h.key, "DELETE", "/v1/apps/acme/templates/billing", nil).want(200)
		h.do(h.key, "GET", "/v1/apps/acme/templates/billing", nil).wantError(404, api.NotFound)
		h.do(h.key, "DELETE", "/v1/apps/acme/templates/billing", nil).wantError(404, api.NotFound)
		h.do(h.key, "POST", "/v1/sessions/"+sid+"/tokens", `{"template":"billing"}`).wantError(404, api.NotFound)
		h.do(h.key, "PUT", "/v1/apps/acme/templates/billing", `{}`).want(200)
	})
}
