package node_test

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node"
	"github.com/revocast/revocast/node/api"
	"github.com/revocast/revocast/signer"
)

var update = flag.Bool("update", false, "write golden files anew")

// golden compares the bytes with testdata/name.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s: -want +got\n%s", path, diff)
	}
}

var keySets = []string{"/v1/apps/acme/jwks", "/v1/sessions/jwks/acme", "/.well-known/jwks.json"}

func TestJWKS(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		h.newApp("second", map[string]any{"jwt_alg": "RS256"})
		h.newApp("third", map[string]any{"jwt_alg": "EdDSA"})
		h.do("", "GET", "/.well-known/jwks.json", nil).wantError(404, api.NotFound)
		h.do(h.admin, "DELETE", "/v1/apps/second", nil).want(200)
		h.do(h.admin, "POST", "/v1/apps/third/suspend", nil).want(200)
		jwt := h.login("u1").str("session_jwt")
		for _, path := range append(keySets, "/v1/apps/third/jwks") {
			r := h.do("", "GET", path, nil).want(200)
			for name, want := range map[string]string{
				"Content-Type": "application/json", "Access-Control-Allow-Origin": "*",
				"Cache-Control": "public, max-age=300, stale-if-error=86400", "Access-Control-Allow-Credentials": "",
			} {
				if got := r.Header.Get(name); got != want {
					t.Errorf("%s: %s %q, want %q", path, name, got, want)
				}
			}
			for _, k := range r.JSON["keys"].([]any) {
				for member := range k.(map[string]any) {
					if !slices.Contains([]string{"kty", "kid", "use", "alg", "crv", "x", "y", "n", "e"}, member) {
						t.Errorf("%s: a key has the member %q", path, member)
					}
				}
			}
			if strings.Contains(path, "third") {
				continue
			}
			// Only what the public keys say: a JWT of the node verifies.
			var set struct{ Keys []json.RawMessage }
			if err := json.Unmarshal(r.Raw, &set); err != nil {
				t.Fatal(err)
			}
			var keys []*signer.Key
			for _, raw := range set.Keys {
				k, err := signer.ParsePublic(raw)
				if err != nil {
					t.Fatalf("%s: %v", path, err)
				}
				keys = append(keys, k)
			}
			_, err := signer.NewRing(keys...).Verify(jwt, signer.Expect{Issuer: publicURL + "/v1/apps/acme", App: "acme", Now: time.Now()})
			if err != nil {
				t.Errorf("%s: %v", path, err)
			}
		}
		stytch := h.do("", "GET", "/v1/sessions/jwks/acme", nil)
		if stytch.JSON["status_code"] != 200.0 || stytch.str("request_id") == "" {
			t.Errorf("Stytch's clients miss status_code: %s", stytch.Raw)
		}
		plain := h.do("", "GET", "/v1/apps/acme/jwks", nil)
		if len(plain.JSON) != 1 {
			t.Errorf("a JWK set with more than keys: %s", plain.Raw)
		}
		for _, path := range []string{"/v1/apps/none/jwks", "/v1/sessions/jwks/none", "/v1/apps/second/jwks"} {
			if r := h.do("", "GET", path, nil).wantError(404, api.AppNotFound); r.Header.Get("Cache-Control") != "no-store" {
				t.Errorf("%s: a 404 may be cached", path)
			}
		}
	})
}

func TestNotModified(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		for _, path := range append(keySets, "/v1/apps/acme/.well-known/openid-configuration") {
			tag := h.do("", "GET", path, nil).want(200).Header.Get("ETag")
			if tag == "" {
				t.Fatalf("%s has no ETag", path)
			}
			for _, header := range []string{tag, "W/" + strings.TrimPrefix(tag, "W/"), `"a", ` + tag, "*"} {
				r := h.do("", "GET", path, nil, "If-None-Match", header).want(304)
				if len(r.Raw) != 0 || r.Header.Get("ETag") != tag || r.Header.Get("Cache-Control") == "no-store" {
					t.Errorf("%s: 304 with %d bytes and %v", path, len(r.Raw), r.Header)
				}
			}
			h.do("", "GET", path, nil, "If-None-Match", `"other"`).want(200)
		}
		tag := h.do("", "GET", keySets[0], nil).Header.Get("ETag")
		h.do(h.key, "POST", "/v1/apps/acme/keys/rotate", nil).want(200)
		h.do("", "GET", keySets[0], nil, "If-None-Match", tag).want(200)
	})
}

// TestPublicWithoutLease: what is public does not go stale, but a node that
// knows nothing yet does not say "not found".
func TestPublicWithoutLease(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		h.config.Cut()
		h.home.Cut()
		time.Sleep(node.DefaultLease + time.Second)
		h.do("", "GET", "/readyz", nil).want(503)
		for _, path := range append(keySets, "/v1/apps/acme/.well-known/openid-configuration") {
			h.do("", "GET", path, nil).want(200)
		}
		h.do("", "GET", "/v1/apps/none/jwks", nil).wantError(503, api.NodeStale)
		h.config.Heal()
		h.home.Heal()
	})
	t.Run("starting", func(t *testing.T) {
		h := unstarted(t)
		for _, path := range keySets[:2] {
			if r := h.do("", "GET", path, nil).wantError(503, api.NodeStale); r.at("error_details.reason") != "starting" {
				t.Errorf("%s", r.Raw)
			}
		}
	})
}

func TestDiscovery(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		h.do("", "GET", "/.well-known/openid-configuration", nil).wantError(404, api.NotFound)
		same := ""
		for _, path := range []string{
			"/v1/apps/acme/.well-known/openid-configuration",
			"/.well-known/openid-configuration/v1/apps/acme",
			"/.well-known/oauth-authorization-server/v1/apps/acme",
		} {
			r := h.do("", "GET", path, nil).want(200)
			if r.Header.Get("Access-Control-Allow-Origin") != "*" || r.Header.Get("Content-Type") != "application/json" {
				t.Errorf("%s: %v", path, r.Header)
			}
			if same != "" && same != string(r.Raw) {
				t.Errorf("%s differs: %s", path, r.Raw)
			}
			same = string(r.Raw)
		}
		golden(t, "discovery_native.json", []byte(same))
		// The issuer is where the document was found, and the iss of JWTs.
		iss := claims(t, h.login("u").str("session_jwt"))["iss"].(string)
		if path, ok := strings.CutPrefix(iss, publicURL); !ok || h.do("", "GET", path+"/.well-known/openid-configuration", nil).want(200).str("issuer") != iss {
			t.Errorf("iss %q does not lead to its own metadata", iss)
		}

		h.do(h.key, "PATCH", "/v1/apps/acme", `{"jwt_profile":"stytch"}`).want(200)
		r := h.do("", "GET", "/.well-known/openid-configuration", nil).want(200)
		golden(t, "discovery_stytch.json", r.Raw)
		if inserted := h.do("", "GET", "/.well-known/oauth-authorization-server", nil).want(200); string(inserted.Raw) != string(r.Raw) {
			t.Errorf("the two forms differ: %s", inserted.Raw)
		}
		h.newApp("second", nil)
		h.do("", "GET", "/.well-known/openid-configuration", nil).wantError(404, api.NotFound)
		h.do("", "GET", "/v1/apps/none/.well-known/openid-configuration", nil).wantError(404, api.AppNotFound)
	})
}

// TestAppsOfTheLogOnly: an app that somebody wrote into the log without the
// cluster key does not exist.
func TestAppsOfTheLogOnly(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		strangers, err := events.NewClusterKeys(events.NewClusterKey())
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range []events.Event{
			&events.App{App: "evil", State: events.AppActive},
			&events.App{App: "acme", State: events.AppDeleted, Prev: 1 << 40},
			&events.APIKey{ID: "key_evil", App: "acme", Hash: "x", Scopes: []string{api.ScopeAdmin}},
		} {
			m, err := strangers.Encode(events.ConfigRegion, e, nil, 0)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := h.config.Inject(m); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(2 * time.Second)
		h.do("", "GET", "/v1/apps/evil/jwks", nil).wantError(404, api.AppNotFound)
		h.do("", "GET", "/v1/apps/acme/jwks", nil).want(200)
		if n := len(h.do(h.key, "GET", "/v1/apps/acme/api-keys", nil).want(200).JSON["keys"].([]any)); n != 1 {
			t.Errorf("%d API keys, want 1", n)
		}
		h.do(h.key, "PATCH", "/v1/apps/acme", `{"jwt_ttl_seconds":61}`).want(200)
	})
}
