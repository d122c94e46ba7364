package node_test

import (
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/revocast/revocast/node"
	"github.com/revocast/revocast/node/api"
	"github.com/revocast/revocast/node/outbound"
)

func TestIssuers(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		k := newForeignKey(t, "k1")
		const all = "/v1/apps/acme/issuers"
		if r := h.do(h.key, "GET", all, nil).want(200); fmt.Sprint(r.at("issuers")) != "[]" {
			t.Errorf("%s", r.Raw)
		}
		const id = "trusted-auth-token-profile-test-41920359-8bbb-4fe8-8fa3-aaa83f35f02c" // as Stytch names them
		h.register(id, map[string]any{"jwks_uri": idpURL, "claims": map[string]string{"groups": "groups"}})
		h.register("b", map[string]any{"jwks": jwks(k)})
		r := h.do(h.key, "GET", all, nil).want(200)
		if list := r.at("issuers").([]any); len(list) != 2 || list[0].(map[string]any)["profile_id"] != "b" || list[1].(map[string]any)["profile_id"] != id {
			t.Errorf("%s", r.Raw)
		}
		r = h.do(h.key, "GET", all+"/"+id, nil).want(200)
		if r.str("issuer.issuer") != idp || r.str("issuer.jwks_uri") != idpURL || r.str("issuer.claims.groups") != "groups" {
			t.Errorf("%s", r.Raw)
		}
		h.do(h.key, "DELETE", all+"/"+id, nil).want(200)
		h.do(h.key, "GET", all+"/"+id, nil).wantError(404, api.NotFound)
		h.do(h.key, "DELETE", all+"/"+id, nil).wantError(404, api.NotFound)
		h.do(h.apiKey("acme", api.ScopeCreate, api.ScopeVerify), "GET", all, nil).wantError(403, api.Forbidden)
		h.do(h.newApp("other", nil), "GET", all, nil).wantError(404, api.AppNotFound)

		private := k.jwk()
		private["d"] = "AA"
		hmacKey := map[string]any{"kty": "oct", "kid": "h", "k": "AAAA"}
		for name, c := range map[string]map[string]any{
			"no issuer": {"issuer": ""}, "no audience": {"audience": ""}, "no keys": {"jwks_uri": nil},
			"both": {"jwks": jwks(k)}, "this system": {"issuer": publicURL}, "this app": {"issuer": publicURL + "/v1/apps/acme"},
			"plain http": {"jwks_uri": "http://idp.example.com/jwks"}, "metadata": {"jwks_uri": "https://169.254.169.254/latest/meta-data"},
			"loopback": {"jwks_uri": "https://127.0.0.1/jwks"}, "loopback6": {"jwks_uri": "https://[::1]/jwks"}, "private net": {"jwks_uri": "https://10.1.2.3/jwks"},
			"mapped": {"jwks_uri": "https://[::ffff:10.0.0.1]/jwks"}, "decimal": {"jwks_uri": "https://2130706433/jwks"}, "hex": {"jwks_uri": "https://0x7f000001/jwks"},
			"octal": {"jwks_uri": "https://0177.0.0.1/jwks"}, "short": {"jwks_uri": "https://127.1/jwks"}, "user": {"jwks_uri": "https://a:b@idp.example.com/"},
			"port": {"jwks_uri": "https://idp.example.com:22/"}, "file": {"jwks_uri": "file:///etc/passwd"}, "no URL": {"jwks_uri": "idp"},
			"long": {"jwks_uri": "https://idp.example.com/" + strings.Repeat("a", 512)},
			"algs": {"algs": []string{"HS256"}}, "alg none": {"algs": []string{"none"}}, "alg twice": {"algs": []string{"ES256", "ES256"}}, "alg empty": {"algs": []string{""}},
			"age": {"max_age_seconds": -1}, "age2": {"max_age_seconds": 86_401}, "life": {"max_session_minutes": -1}, "life2": {"max_session_minutes": 527_041},
			"reserved": {"claims": map[string]string{"a": "sub"}}, "vendor's": {"claims": map[string]string{"a": "https://stytch.com/session"}},
			"twice": {"claims": map[string]string{"a": "x", "b": "x"}}, "nameless": {"claims": map[string]string{"a": ""}}, "nothing": {"claims": map[string]string{"": "x"}},
			"factor": {"factor": map[string]string{"type": "sso"}}, "factor2": {"factor": map[string]string{"delivery_method": "x"}},
			"another id": {"profile_id": "other"}, "unknown field": {"secret": "x"}, "control": {"user_id_prefix": "a\n"},
			"private key": {"jwks_uri": nil, "jwks": map[string]any{"keys": []any{private}}}, "secret key": {"jwks_uri": nil, "jwks": map[string]any{"keys": []any{k.jwk(), hmacKey}}},
			"no key": {"jwks_uri": nil, "jwks": map[string]any{"keys": []any{}}}, "no set": {"jwks_uri": nil, "jwks": k.jwk()},
			"two of one kid": {"jwks_uri": nil, "jwks": jwks(k, newForeignKey(t, "k1"))},
			"no kid":         {"jwks_uri": nil, "jwks": jwks(newForeignKey(t, ""))},
			"weak RSA": {"jwks_uri": nil, "jwks": map[string]any{"keys": []any{map[string]any{
				"kty": "RSA", "kid": "r", "e": "AQAB", "n": strings.Repeat("u", 171),
			}}}},
		} {
			t.Log(name)
			body := map[string]any{"issuer": idp, "audience": "shop", "jwks_uri": idpURL}
			for member, v := range c {
				if body[member] = v; v == nil {
					delete(body, member)
				}
			}
			h.do(h.key, "PUT", all+"/bad", body).wantError(400, api.InvalidArgument)
		}
		for _, bad := range []string{"-", "a.b", "a%20b", strings.Repeat("a", 129)} {
			h.do(h.key, "PUT", all+"/"+bad, map[string]any{"issuer": idp, "audience": "shop", "jwks_uri": idpURL}).wantError(400, api.InvalidArgument)
		}
		h.do(h.key, "PUT", all+"/bad", map[string]any{"issuer": idp, "audience": "shop", "jwks": map[string]any{"keys": []any{k.jwk()}, "pad": strings.Repeat("x", 8<<10)}}).
			wantError(413, api.BodyTooLarge)
		if r := h.do(h.key, "GET", all, nil).want(200); len(r.at("issuers").([]any)) != 1 {
			t.Errorf("refused, and stored: %s", r.Raw)
		}
		for i := range 63 {
			h.register(fmt.Sprint("n", i), map[string]any{"jwks": jwks(k)})
		}
		h.do(h.key, "PUT", all+"/one-more", map[string]any{"issuer": idp, "audience": "shop", "jwks": jwks(k)}).wantError(400, api.InvalidArgument)
		h.register("n1", map[string]any{"jwks": jwks(k)}) // a change is none more
	})
}

// TestIssuerFetched fetches keys over a real connection: from where the operator
// allows that, and from nowhere else, whatever names and redirects say.
func TestIssuerFetched(t *testing.T) {
	k := newForeignKey(t, "k1")
	var asked atomic.Int64
	inner := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		if r.URL.Path == "/redirect" {
			http.Redirect(w, r, "/jwks", http.StatusFound)
			return
		}
		fmt.Fprint(w, text(t, jwks(k)))
	}))
	defer inner.Close()
	port := inner.URL[strings.LastIndexByte(inner.URL, ':'):]
	for name, c := range map[string]struct {
		allow   []string
		uri     string
		put     int
		attest  int
		fetches int64
	}{
		"allowed":                  {[]string{"127.0.0.0/8"}, inner.URL + "/jwks", 200, 200, 1},
		"a redirect":               {[]string{"127.0.0.0/8"}, inner.URL + "/redirect", 200, 503, 1},
		"not allowed":              {nil, inner.URL + "/jwks", 400, 404, 0},
		"a name, plain":            {nil, "http://localhost" + port + "/jwks", 400, 404, 0},
		"a name, another network":  {[]string{"192.0.2.0/24"}, "http://localhost" + port + "/jwks", 200, 503, 0},
		"a name, https, this host": {[]string{"192.0.2.0/24"}, "https://localhost" + port + "/jwks", 200, 503, 0},
	} {
		t.Run(name, func(t *testing.T) {
			var allow []netip.Prefix
			for _, p := range c.allow {
				allow = append(allow, netip.MustParsePrefix(p))
			}
			h := newHarness(t, func(conf *node.Config) { conf.Outbound = outbound.New(allow...) })
			before := asked.Load()
			body := map[string]any{"issuer": idp, "audience": "shop", "jwks_uri": c.uri}
			h.do(h.key, "PUT", "/v1/apps/acme/issuers/idp", body).want(c.put)
			h.attest(k.jwt(t, "ada", nil), nil).want(c.attest)
			if n := asked.Load() - before; n != c.fetches {
				t.Errorf("%d requests came through, want %d", n, c.fetches)
			}
		})
	}
}

// policy is one that has a bit of everything.
func policy(changes map[string]any) map[string]any {
	p := map[string]any{
		"resources": []any{
			map[string]any{"resource_id": "documents", "description": "texts", "actions": []string{"read", "write", "delete"}},
			map[string]any{"resource_id": "images", "description": "", "actions": []string{"read"}},
		},
		"roles": []any{
			map[string]any{"role_id": "stytch_user", "description": "everybody", "permissions": []any{
				map[string]any{"resource_id": "images", "actions": []string{"read"}},
			}},
			map[string]any{"role_id": "editor", "description": "", "permissions": []any{
				map[string]any{"resource_id": "documents", "actions": []string{"read", "write"}},
			}},
			map[string]any{"role_id": "owner", "description": "", "permissions": []any{
				map[string]any{"resource_id": "documents", "actions": []string{"*"}},
				map[string]any{"resource_id": "images", "actions": []string{"*"}},
			}},
		},
		"scopes": []any{map[string]any{"scope": "read:documents", "description": "", "permissions": []any{
			map[string]any{"resource_id": "documents", "actions": []string{"read"}},
		}}},
	}
	maps.Copy(p, changes)
	return p
}
