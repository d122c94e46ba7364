package client_test

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/revocast/revocast/node/api"
	"github.com/revocast/revocast/node/client"
)

// who is a handler that says whose session it was called with.
var who = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	if s, ok := client.FromContext(r.Context()); ok {
		_, _ = w.Write([]byte(s.User))
	} else {
		_, _ = w.Write([]byte("nobody"))
	}
})

// get asks the handler, with headers in pairs.
func get(h http.Handler, headers ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodGet, "http://shop.example/cart?x=1", nil)
	for i := 0; i < len(headers); i += 2 {
		r.Header.Add(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// TestRequire: who is let in and how the others are answered, by where the
// credential is and what there is to say of it.
func TestRequire(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world) {
		c := w.client(func(c *client.Client) { c.JWTHeader = "X-Session-Jwt" })
		client.SetClock(c, w.clock())
		made, eve := login(t, c, "ada"), login(t, c, "eve")
		token, jwt := made.SessionToken, made.SessionJWT
		gone := login(t, c, "ada")
		w.revokes(w.nodes[0], api.Revoke{SessionToken: gone.SessionToken})
		bound, err := c.Create(t.Context(), &api.CreateSession{UserID: "ada", Bind: &api.Bind{DPoPJKT: strings.Repeat("A", 43)}})
		if err != nil {
			t.Fatal(err)
		}
		const invalid = `Bearer error="invalid_token"`
		for _, one := range []struct {
			name      string
			headers   []string
			status    int
			body      string
			challenge string
			optional  string // the body of Optional; empty: as of Require
		}{
			{"nothing", nil, 401, "no_credential", "Bearer", "nobody"},
			{"token", []string{"Authorization", "Bearer " + token}, 200, "ada", "", ""},
			{"JWT", []string{"Authorization", "bearer  " + jwt}, 200, "ada", "", ""},
			{"cookie", []string{"Cookie", "session=" + token}, 200, "ada", "", ""},
			{"the better cookie", []string{"Cookie", "session=" + eve.SessionToken + "; __Host-session=" + jwt}, 200, "ada", "", ""},
			{"header before cookie", []string{"Authorization", "Bearer " + eve.SessionJWT, "Cookie", "session=" + token}, 200, "eve", "", ""},
			{"another scheme, and a cookie", []string{"Authorization", "Basic eDp5", "Cookie", "session=" + token}, 200, "ada", "", ""},
			{"another scheme", []string{"Authorization", "Basic eDp5"}, 401, "no_credential", "Bearer", "nobody"},
			{"a bad header, and a good cookie", []string{"Authorization", "Bearer x", "Cookie", "session=" + token}, 401, "session_not_found", invalid, "nobody"},
			{"two headers", []string{"Authorization", "Bearer " + token, "Authorization", "Bearer " + token}, 401, "session_not_found", invalid, "nobody"},
			{"two cookies of the name", []string{"Cookie", "session=" + token + "; session=" + eve.SessionToken}, 401, "session_not_found", invalid, "nobody"},
			{"an empty header", []string{"Authorization", "Bearer"}, 401, "no_credential", "Bearer", "nobody"},
			{"in the query", []string{"X-Session-Token", token}, 401, "no_credential", "Bearer", "nobody"},
			{"garbage", []string{"Authorization", "Bearer a.b.c"}, 401, "session_not_found", invalid, "nobody"},
			{"revoked", []string{"Authorization", "Bearer " + gone.SessionJWT}, 401, "session_revoked", invalid, "nobody"},
			{"bound, as bearer", []string{"Authorization", "Bearer " + bound.SessionJWT}, 401, "invalid_dpop_proof", `DPoP error="invalid_dpop_proof", algs="`, "nobody"},
			{"bound, without a proof", []string{"Authorization", "DPoP " + bound.SessionJWT}, 401, "invalid_dpop_proof", `DPoP error="invalid_dpop_proof", algs="`, "nobody"},
			{"bound, a bad proof", []string{"Authorization", "DPoP " + bound.SessionJWT, "DPoP", "x.y.z"}, 401, "invalid_dpop_proof", `DPoP error="invalid_dpop_proof", algs="`, "nobody"},
		} {
			r := get(c.Require(who), one.headers...)
			if r.Code != one.status || !strings.Contains(r.Body.String(), one.body) || !strings.HasPrefix(r.Header().Get("WWW-Authenticate"), one.challenge) || one.challenge == "" && r.Header().Get("WWW-Authenticate") != "" {
				t.Errorf("%s: %d %s, %q", one.name, r.Code, r.Body, r.Header().Get("WWW-Authenticate"))
			}
			if r.Code != 200 && r.Header().Get("Cache-Control") != "no-store" {
				t.Errorf("%s: it may be stored", one.name)
			}
			o := get(c.Optional(who), one.headers...)
			want := one.optional
			if want == "" {
				want = one.body
			}
			if o.Code != 200 || o.Body.String() != want {
				t.Errorf("%s, optional: %d %s, want %s", one.name, o.Code, o.Body, want)
			}
		}

		// Whoever shows a JWT that has expired is handed a fresh one.
		time.Sleep(6 * time.Minute)
		r := get(c.Require(who), "Authorization", "Bearer "+jwt)
		fresh := r.Header().Get("X-Session-Jwt")
		if r.Code != 200 || fresh == "" || fresh == jwt || r.Header().Get("Cache-Control") != "no-store" {
			t.Errorf("a JWT that has expired: %d, %v", r.Code, r.Header())
		}
		// While nothing can be said nobody is logged out, nor taken for a stranger.
		w.nodes[0].end()
		for name, h := range map[string]http.Handler{"required": c.Require(who), "optional": c.Optional(who)} {
			r := get(h, "Authorization", "Bearer "+fresh)
			if r.Code != 503 || r.Header().Get("Retry-After") != "1" || r.Header().Get("WWW-Authenticate") != "" || !strings.Contains(r.Body.String(), "temporarily_unavailable") {
				t.Errorf("without a node, %s: %d %v %s", name, r.Code, r.Header(), r.Body)
			}
		}
	})
}

// TestRequireSuspended: the session of an app that is suspended is no reason to log
// in again.
func TestRequireSuspended(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world) {
		c := w.client()
		client.SetClock(c, w.clock())
		made := login(t, c, "ada")
		w.must(w.nodes[0], w.admin, "POST", "/v1/apps/acme/suspend", nil, nil)
		if r := get(c.Require(who), "Authorization", "Bearer "+made.SessionToken); r.Code != 403 || !strings.Contains(r.Body.String(), "app_suspended") {
			t.Errorf("%d %s", r.Code, r.Body)
		}
	})
}

// TestRequireLogin: a good session is not enough where its user must have logged in
// recently, or well; the challenge says what is wanted.
func TestRequireLogin(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world) {
		c := w.client()
		client.SetClock(c, w.clock())
		made := login(t, c, "ada")
		minute := int64(60)
		recent := c.RequireLogin(api.Require{MaxAgeSeconds: &minute}, who)
		strong := c.RequireLogin(api.Require{AAL: "aal2"}, who)
		if r := get(recent, "Authorization", "Bearer "+made.SessionJWT); r.Code != 200 || r.Body.String() != "ada" {
			t.Errorf("recent: %d %s", r.Code, r.Body)
		}
		time.Sleep(2 * time.Minute)
		for want, h := range map[string]http.Handler{
			`Bearer error="insufficient_user_authentication", max_age=60`:        recent,
			`Bearer error="insufficient_user_authentication", acr_values="aal2"`: strong,
		} {
			r := get(h, "Authorization", "Bearer "+made.SessionJWT)
			if r.Code != 401 || r.Header().Get("WWW-Authenticate") != want || !strings.Contains(r.Body.String(), "insufficient_user_authentication") {
				t.Errorf("want %s: %d %v %s", want, r.Code, r.Header(), r.Body)
			}
		}
	})
}

// TestRefused: a service may answer those who are not let in by itself.
func TestRefused(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world) {
		c := w.client(func(c *client.Client) {
			c.Cookies = []string{"sid"}
			c.Refused = func(w http.ResponseWriter, _ *http.Request, status int, err error) {
				if status != 401 || !errors.Is(err, client.ErrMissing) {
					t.Errorf("%d, %v", status, err)
				}
				w.Header().Set("Location", "/login")
				w.WriteHeader(http.StatusSeeOther)
			}
		})
		client.SetClock(c, w.clock())
		made := login(t, c, "ada")
		if r := get(c.Require(who), "Cookie", "session="+made.SessionToken); r.Code != http.StatusSeeOther || r.Header().Get("Location") != "/login" {
			t.Errorf("%d %v", r.Code, r.Header())
		}
		if r := get(c.Require(who), "Cookie", "sid="+made.SessionToken); r.Code != 200 {
			t.Errorf("with its own cookie: %d", r.Code)
		}
	})
}

// TestDPoP: a session that is bound to a key is let in with a proof of it that was
// made for this request, and for no other.
func TestDPoP(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world) {
		c, _ := w.following()
		w.ready(c)
		k := mustKey(t)
		made, err := c.Create(t.Context(), &api.CreateSession{UserID: "ada", Bind: &api.Bind{DPoPJKT: k.ID}})
		if err != nil {
			t.Fatal(err)
		}
		jwk := k.JWK()
		header := fmt.Sprintf(`{"typ":"dpop+jwt","alg":"ES256","jwk":{"kty":"EC","crv":"P-256","x":%q,"y":%q}}`, jwk.X, jwk.Y)
		proof := func(url, credential string) string {
			sum := sha256.Sum256([]byte(credential))
			return raw(t, k, header, fmt.Sprintf(`{"jti":%q,"htm":"GET","htu":%q,"iat":%d,"ath":%q}`,
				rand.Text(), url, time.Now().Unix(), base64.RawURLEncoding.EncodeToString(sum[:])))
		}
		for name, credential := range map[string]string{"token": made.SessionToken, "JWT": made.SessionJWT} {
			good := proof("http://shop.example/cart", credential)
			if r := get(c.Require(who), "Authorization", "DPoP "+credential, "DPoP", good); r.Code != 200 || r.Body.String() != "ada" {
				t.Errorf("%s: %d %s", name, r.Code, r.Body)
			}
			for why, r := range map[string]*httptest.ResponseRecorder{
				"again":               get(c.Require(who), "Authorization", "DPoP "+credential, "DPoP", good),
				"of another request":  get(c.Require(who), "Authorization", "DPoP "+credential, "DPoP", proof("http://shop.example/else", credential)),
				"as bearer":           get(c.Require(who), "Authorization", "Bearer "+credential, "DPoP", proof("http://shop.example/cart", credential)),
				"two proofs":          get(c.Require(who), "Authorization", "DPoP "+credential, "DPoP", proof("http://shop.example/cart", credential), "DPoP", "x"),
				"of another":          get(c.Require(who), "Authorization", "DPoP "+credential, "DPoP", proof("http://shop.example/cart", "another")),
				"at another's origin": get(w.elsewhere(c).Require(who), "Authorization", "DPoP "+credential, "DPoP", proof("http://shop.example/cart", credential)),
			} {
				if r.Code != 401 || !strings.HasPrefix(r.Header().Get("WWW-Authenticate"), "DPoP error=") {
					t.Errorf("%s, %s: %d %v", name, why, r.Code, r.Header())
				}
			}
		}
		w.revokes(w.nodes[0], api.Revoke{SessionToken: made.SessionToken})
		w.await("it is refused, proof or not", func() bool {
			r := get(c.Require(who), "Authorization", "DPoP "+made.SessionJWT, "DPoP", proof("http://shop.example/cart", made.SessionJWT))
			return r.Code == 401 && strings.Contains(r.Body.String(), "session_revoked")
		})
	})
}

// elsewhere returns a client like it whose service has another public URL.
func (w *world) elsewhere(of *client.Client) *client.Client {
	c := w.client(func(c *client.Client) { c.Origin, c.OnStale = "https://else.example/", of.OnStale })
	client.SetClock(c, w.clock())
	return c
}
