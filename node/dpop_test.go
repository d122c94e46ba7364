package node_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node"
	"github.com/revocast/revocast/node/api"
)

// device is a client with a key of its own.
type device struct {
	t   *testing.T
	key *ecdsa.PrivateKey
	jwk string
	jkt string
	n   int
}

func newDevice(t *testing.T) *device {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	point, err := k.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	x, y := encode(point[1:33]), encode(point[33:])
	sum := sha256.Sum256([]byte(`{"crv":"P-256","kty":"EC","x":"` + x + `","y":"` + y + `"}`))
	return &device{t: t, key: k, jwk: `{"kty":"EC","crv":"P-256","x":"` + x + `","y":"` + y + `"}`, jkt: encode(sum[:])}
}

func encode(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// proof makes a proof with a fresh jti; token empty: without ath. Changes are
// claims to set, or with nil to leave out.
func (d *device) proof(method, url, token string, changes ...m) string {
	d.t.Helper()
	d.n++
	claims := m{"jti": fmt.Sprint(d.jkt, d.n), "htm": method, "htu": url, "iat": time.Now().Unix()}
	if token != "" {
		sum := sha256.Sum256([]byte(token))
		claims["ath"] = encode(sum[:])
	}
	for _, c := range changes {
		maps.Copy(claims, c)
	}
	maps.DeleteFunc(claims, func(_ string, v any) bool { return v == nil })
	body, err := json.Marshal(claims)
	if err != nil {
		d.t.Fatal(err)
	}
	in := encode([]byte(`{"typ":"dpop+jwt","alg":"ES256","jwk":`+d.jwk+`}`)) + "." + encode(body)
	sum := sha256.Sum256([]byte(in))
	r, s, err := ecdsa.Sign(rand.Reader, d.key, sum[:])
	if err != nil {
		d.t.Fatal(err)
	}
	return in + "." + encode(append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...))
}

// login creates a session of the first app that is bound to the device's key.
func (d *device) login(h *harness) *reply {
	d.t.Helper()
	return h.do(h.key, "POST", "/v1/sessions", m{"user_id": "ada", "bind": m{"dpop_jkt": d.jkt}}).want(201)
}

const verifyAt = publicURL + "/v1/verify"

// wantProof fails the test unless a verify was refused for want of a proof.
func (r *reply) wantProof(what, reason string) *reply {
	r.t.Helper()
	code := map[string]string{"dpop_proof": "invalid_dpop_proof", "dpop_nonce": "use_dpop_nonce"}[reason]
	if r.Status != 401 || r.Header.Get("X-Session-Reason") != reason || !strings.HasPrefix(r.Header.Get("WWW-Authenticate"), `DPoP error="`+code+`"`) ||
		len(r.Header.Values("WWW-Authenticate")) != 1 || r.Header.Get("X-Session-User") != "-" || r.Header.Get("X-Session-Jwt") != "-" {
		r.t.Errorf("%s: %d %v", what, r.Status, r.Header)
	}
	return r
}

// TestBoundSession: a token or a JWT of a bound session, in whichever way it is
// shown, lets nobody in without a good proof that was not used before.
func TestBoundSession(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		d, thief := newDevice(t), newDevice(t)
		c := d.login(h)
		if c.str("session.bind.dpop_jkt") != d.jkt {
			t.Errorf("%s", c.Raw)
		}
		for _, shown := range []string{c.str("session_token"), c.str("session_jwt")} {
			scheme := "DPoP " + shown
			good := func(changes ...m) string { return d.proof("GET", verifyAt, shown, changes...) }
			verify := func(authorization, proof string, headers ...string) *reply {
				t.Helper()
				all := append([]string{"Authorization", authorization}, headers...)
				if proof != "" {
					all = append(all, "DPoP", proof)
				}
				return h.do("", "GET", "/v1/verify?jwt=1", nil, all...)
			}
			ok := verify(scheme, good()).want(204)
			if ok.Header.Get("X-Session-User") != "ada" || ok.Header.Get("DPoP-Nonce") != "" {
				t.Errorf("%v", ok.Header)
			}
			if jkt := claims(t, ok.Header.Get("X-Session-Jwt"))["cnf"].(map[string]any)["jkt"]; jkt != d.jkt {
				t.Errorf("the JWT names the key %v", jkt)
			}
			verify("dpop "+shown, good()).want(204)
			once := good()
			verify(scheme, once).want(204)
			verify(scheme, once).wantProof("the same proof again", "dpop_proof")
			early := good(m{"iat": time.Now().Unix() + 59})
			verify(scheme, early).want(204)
			verify(scheme, early).wantProof("the same early proof again", "dpop_proof")
			verify(scheme, good(m{"iat": time.Now().Unix() - 59})).want(204)
			for what, proof := range map[string]string{
				"none": "", "junk": "junk", "a JWT": c.str("session_jwt"), "the thief's": thief.proof("GET", verifyAt, shown),
				"of another token": d.proof("GET", verifyAt, "x"), "of no token": d.proof("GET", verifyAt, ""), "ath of nothing": good(m{"ath": ""}),
				"of a POST": d.proof("POST", verifyAt, shown), "of another URL": d.proof("GET", publicURL+"/v1/verify/x", shown),
				"of another host": d.proof("GET", "https://other.example/v1/verify", shown), "of http": d.proof("GET", strings.Replace(verifyAt, "https", "http", 1), shown),
				"too old": good(m{"iat": time.Now().Unix() - 61}), "too early": good(m{"iat": time.Now().Unix() + 61}), "without jti": good(m{"jti": nil}),
			} {
				verify(scheme, proof).wantProof(what, "dpop_proof")
				verify("Bearer "+shown, proof).wantProof("Bearer, "+what, "dpop_proof")
			}
			verify("Bearer "+shown, good()).wantProof("as Bearer with a good proof", "dpop_proof")
			r := h.do("", "GET", "/v1/verify?body=1", nil, "Authorization", scheme)
			if r.wantProof("with a body", "dpop_proof"); r.str("error_type") != api.ProofInvalid || r.at("status_code") != 401.0 {
				t.Errorf("%s", r.Raw)
			}

			// Where there is no scheme.
			for _, cookie := range []string{"session=", "__Host-session="} {
				h.do("", "GET", "/v1/verify", nil, "Cookie", cookie+shown).wantProof("cookie", "dpop_proof")
				h.do("", "GET", "/v1/verify", nil, "Cookie", cookie+shown, "DPoP", good()).want(204)
			}
			member := map[bool]string{false: "session_token", true: "session_jwt"}[strings.Contains(shown, ".")]
			h.do("", "POST", "/v1/verify", m{member: shown}).wantProof("body", "dpop_proof")
			h.do("", "POST", "/v1/verify", m{member: shown}, "DPoP", d.proof("POST", verifyAt, shown)).want(204)

			// Two proofs are none.
			req := newRequest(t, "GET", "/v1/verify", "Authorization", scheme)
			req.Header["Dpop"] = []string{good(), good()}
			h.send(req).wantProof("two proofs", "dpop_proof")
		}
		// A session that has ended is said to have, whatever the proof.
		h.do(h.key, "DELETE", "/v1/sessions/"+c.str("session.session_id"), nil).want(200)
		token := c.str("session_token")
		r := h.do("", "GET", "/v1/verify", nil, "Authorization", "DPoP "+token, "DPoP", d.proof("GET", verifyAt, token))
		if r.want(401).Header.Get("X-Session-Reason") != "revoked" || !strings.HasPrefix(r.Header.Get("WWW-Authenticate"), `DPoP error="invalid_token"`) {
			t.Errorf("revoked: %v", r.Header)
		}
		// A session that is not bound is no session of a client that proves its key.
		free := h.login("ada").str("session_token")
		h.do("", "GET", "/v1/verify", nil, "Authorization", "DPoP "+free, "DPoP", d.proof("GET", verifyAt, free)).wantProof("not bound", "dpop_proof")
		h.do("", "GET", "/v1/verify", nil, "Authorization", "Bearer "+free, "DPoP", "junk").want(204)
	})
}

// TestProofBehindAProxy: the client signs the request that it makes to the proxy.
func TestProofBehindAProxy(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		d := newDevice(t)
		token := d.login(h).str("session_token")
		forwarded := func(proof string, headers ...string) *reply {
			t.Helper()
			return h.do("", "GET", "/v1/verify/ignored", nil, append([]string{"Authorization", "DPoP " + token, "DPoP", proof}, headers...)...)
		}
		all := []string{"X-Forwarded-Method", "PUT", "X-Forwarded-Proto", "https", "X-Forwarded-Host", "shop.example", "X-Forwarded-Uri", "/cart/1?a=b#c"}
		good := func() string { return d.proof("PUT", "https://shop.example/cart/1", token) }
		forwarded(good(), all...).want(204)
		forwarded(d.proof("GET", publicURL+"/v1/verify/ignored", token), all...).wantProof("a proof of the verify itself", "dpop_proof")
		forwarded(d.proof("GET", publicURL+"/v1/verify/ignored", token)).want(204)
		// A terminator of TLS in front of the node tells of this very request.
		forwarded(d.proof("GET", publicURL+"/v1/verify/ignored", token), "X-Forwarded-Proto", "https", "X-Forwarded-Host", "id.example.com").want(204)
		for i := 0; i < len(all); i += 2 {
			for _, value := range []string{"", "x", "https,http", "a.example, shop.example", "/other", "evil@shop.example", "shop.example/cart"} {
				changed := append([]string{}, all...)
				if changed[i+1] = value; value == "" {
					changed = append(changed[:i:i], changed[i+2:]...)
				}
				forwarded(good(), changed...).wantProof(all[i]+" "+value, "dpop_proof")
			}
		}
		for i := 0; i < len(all); i += 2 {
			r := newRequest(t, "GET", "/v1/verify", append([]string{"Authorization", "DPoP " + token, "DPoP", good()}, all...)...)
			r.Header.Add(all[i], all[i+1])
			h.send(r).wantProof("two of "+all[i], "dpop_proof")
		}
	})
}

// TestBinding: how a session is bound, and what is refused.
func TestBinding(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		d, other := newDevice(t), newDevice(t)
		const create = publicURL + "/v1/sessions"
		body := m{"user_id": "ada"}
		c := h.do(h.key, "POST", "/v1/sessions", body, "DPoP", d.proof("POST", create, "")).want(201)
		if c.str("session.bind.dpop_jkt") != d.jkt {
			t.Errorf("bound by the header: %s", c.Raw)
		}
		if s := h.do(h.key, "GET", "/v1/sessions/"+c.str("session.session_id"), nil).want(200); s.str("session.bind.dpop_jkt") != d.jkt {
			t.Errorf("%s", s.Raw)
		}
		if s := h.login("bob"); s.at("session.bind") != nil || claims(t, s.str("session_jwt"))["cnf"] != nil {
			t.Errorf("bound to nothing: %s", s.Raw)
		}
		both := m{"user_id": "ada", "bind": m{"dpop_jkt": d.jkt}}
		h.do(h.key, "POST", "/v1/sessions", both, "DPoP", d.proof("POST", create, "")).want(201)
		used := d.proof("POST", create, "")
		h.do(h.key, "POST", "/v1/sessions", body, "DPoP", used).want(201)
		total := func() float64 {
			return h.do(h.key, "GET", "/v1/sessions?user_id=ada", nil).want(200).at("total").(float64)
		}
		before := total()
		for what, proof := range map[string]string{
			"used": used, "another key's": other.proof("POST", create, ""), "junk": "junk", "of a GET": d.proof("GET", create, ""), "of a verify": d.proof("POST", verifyAt, ""),
			"too old": d.proof("POST", create, "", m{"iat": time.Now().Unix() - 61}), "empty": " ",
		} {
			r := h.do(h.key, "POST", "/v1/sessions", both, "DPoP", proof).wantError(401, api.ProofInvalid)
			if !strings.HasPrefix(r.Header.Get("WWW-Authenticate"), `DPoP error="invalid_dpop_proof"`) {
				t.Errorf("%s: %v", what, r.Header)
			}
		}
		for _, bad := range []any{m{}, m{"dpop_jkt": ""}, m{"dpop_jkt": "x"}, m{"dpop_jkt": d.jkt + "="}, m{"dpop_jkt": d.jkt[:42]}, m{"dpop_jkt": 1}, m{"dpop_jkt": d.jkt, "x": 1}, "x", []any{d.jkt}, m{"jkt": d.jkt}} {
			h.do(h.key, "POST", "/v1/sessions", m{"user_id": "ada", "bind": bad}).wantError(400, api.InvalidArgument)
		}
		if after := total(); after != before {
			t.Errorf("%v sessions, want %v: what was refused was stored", after, before)
		}

		// The key is part of the request: a repeat names the same, however.
		again := []string{"Idempotency-Key", "k1"}
		first := h.do(h.key, "POST", "/v1/sessions", both, again...).want(201).str("session.session_id")
		byHeader := h.do(h.key, "POST", "/v1/sessions", body, append(again, "DPoP", d.proof("POST", create, ""))...).want(201)
		if byHeader.str("session.session_id") != first {
			t.Errorf("another session: %s", byHeader.Raw)
		}
		h.do(h.key, "POST", "/v1/sessions", body, again...).wantError(422, api.IdempotencyReused)
		h.do(h.key, "POST", "/v1/sessions", body, append(again, "DPoP", other.proof("POST", create, ""))...).wantError(422, api.IdempotencyReused)
	})
}

// TestBoundElsewhere: each other call that takes a credential demands the proof,
// hands the key on to who checks it, or takes the session away.
func TestBoundElsewhere(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		d, thief := newDevice(t), newDevice(t)
		const shop = "https://shop.example/cart"
		for _, path := range []string{"/v1/sessions/authenticate", "/v1/sessions/rotate"} {
			c := d.login(h)
			for member, shown := range map[string]string{"session_token": c.str("session_token"), "session_jwt": c.str("session_jwt")} {
				passed := func(by *device, method, url, token string) m {
					return m{"proof": by.proof("PUT", shop, token), "htm": method, "htu": url}
				}
				for what, dpop := range map[string]any{
					"none": nil, "thief": passed(thief, "PUT", shop, shown), "another method": passed(d, "GET", shop, shown), "another URL": passed(d, "PUT", shop+"/", shown),
					"another token": passed(d, "PUT", shop, "x"), "no URL": passed(d, "PUT", "", shown), "junk": m{"proof": "junk", "htm": "PUT", "htu": shop}, "empty": m{},
				} {
					body := m{member: shown}
					if dpop != nil {
						body["dpop"] = dpop
					}
					// The header is about this call, whose client is the backend.
					r := h.do(h.key, "POST", path, body, "DPoP", d.proof("POST", publicURL+path, shown)).wantError(401, api.ProofInvalid)
					if !strings.HasPrefix(r.Header.Get("WWW-Authenticate"), `DPoP error="invalid_dpop_proof"`) {
						t.Errorf("%s %s: %v", path, what, r.Header)
					}
				}
				h.do(h.key, "POST", path, m{member: shown, "dpop": m{"proof": "x", "htm": "PUT", "htu": shop, "x": 1}}).wantError(400, api.InvalidArgument)
			}
			jwt := c.str("session_jwt")
			time.Sleep(6 * time.Minute) // it has expired, and is as good for that
			body := func() m {
				return m{"session_jwt": jwt, "dpop": m{"proof": d.proof("PUT", shop, jwt), "htm": "PUT", "htu": shop}}
			}
			ok := h.do(h.key, "POST", path, body()).want(200)
			if ok.str("session.bind.dpop_jkt") != d.jkt || claims(t, ok.str("session_jwt"))["cnf"].(map[string]any)["jkt"] != d.jkt {
				t.Errorf("%s: %s", path, ok.Raw)
			}
			same := body()
			h.do(h.key, "POST", path, same).want(200)
			h.do(h.key, "POST", path, same).wantError(401, api.ProofInvalid)
		}

		// What was made of it is bound as well: a later state, a rotated token, a JWT of a template.
		c := d.login(h)
		sid, token := c.str("session.session_id"), c.str("session_token")
		h.do(h.key, "PATCH", "/v1/sessions/"+sid, m{"metadata": m{"a": 1}, "session_duration_minutes": 50}).want(200)
		rotated := h.do(h.key, "POST", "/v1/sessions/rotate", m{"session_token": token, "dpop": m{"proof": d.proof("PUT", shop, token), "htm": "PUT", "htu": shop}}).want(200).str("session_token")
		h.do(rotated, "GET", "/v1/verify", nil).wantProof("rotated, as Bearer", "dpop_proof")
		h.do("", "GET", "/v1/verify", nil, "Authorization", "DPoP "+rotated, "DPoP", d.proof("GET", verifyAt, rotated)).want(204)
		h.do(h.key, "PUT", "/v1/apps/acme/templates/st", m{"jwt_profile": "stytch"}).want(200)
		for name, template := range map[string]m{"none": {}, "st": {"template": "st"}} {
			jwt := h.do(h.key, "POST", "/v1/sessions/"+sid+"/tokens", template).want(200).str("session_jwt")
			if cnf, _ := claims(t, jwt)["cnf"].(map[string]any); cnf["jkt"] != d.jkt {
				t.Errorf("template %s: %v", name, claims(t, jwt))
			}
			h.do(jwt, "GET", "/v1/verify", nil).wantProof("template "+name, "dpop_proof")
			h.do("", "GET", "/v1/verify", nil, "Authorization", "DPoP "+jwt, "DPoP", d.proof("GET", verifyAt, jwt)).want(204)
		}

		// Introspection tells who asks; it is theirs to check.
		for _, shown := range []string{rotated, c.str("session_jwt")} {
			r := h.introspect(shown)
			if r.at("active") != true || r.str("token_type") != "DPoP" || r.str("cnf.jkt") != d.jkt {
				t.Errorf("%s", r.Raw)
			}
		}
		if r := h.introspect(h.login("ada").str("session_token")); r.str("token_type") != "Bearer" || r.at("cnf") != nil {
			t.Errorf("%s", r.Raw)
		}
		// To take it away needs no proof.
		h.form("/oauth2/revoke", basic("acme", h.key), "token="+rotated).want(200)
		h.introspect(rotated).wantInactive("revoked")
		byNative := d.login(h)
		if r := h.do(h.key, "POST", "/v1/sessions/revoke", m{"session_jwt": byNative.str("session_jwt")}).want(200); r.at("revoked") != 1.0 {
			t.Errorf("%s", r.Raw)
		}
		// A proof for a session that is not bound asks for what cannot be checked.
		free := h.login("ada").str("session_token")
		h.do(h.key, "POST", "/v1/sessions/authenticate", m{"session_token": free, "dpop": m{"proof": d.proof("PUT", shop, free), "htm": "PUT", "htu": shop}}).wantError(401, api.ProofInvalid)
		h.do(h.key, "POST", "/v1/sessions/authenticate", m{"session_token": free}).want(200)
	})
}

// TestProofCountsOnce: of many who show the same proof at once, one is let in.
func TestProofCountsOnce(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		d := newDevice(t)
		token := d.login(h).str("session_token")
		proof := d.proof("GET", verifyAt, token)
		var all sync.WaitGroup
		var good atomic.Int32
		for range 32 {
			all.Go(func() {
				if h.do("", "GET", "/v1/verify", nil, "Authorization", "DPoP "+token, "DPoP", proof).Status == http.StatusNoContent {
					good.Add(1)
				}
			})
		}
		if all.Wait(); good.Load() != 1 {
			t.Errorf("%d were let in", good.Load())
		}
	})
}

// TestBoundByDefault: a handler that does not know of proofs lets nobody in by a
// bound session; to take it away, it needs none.
func TestBoundByDefault(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		bound, free := newDevice(t).login(h), h.login("ada")
		for _, c := range []*reply{bound, free} {
			for _, ever := range []bool{false, true} {
				for _, err := range []error{
					h.node.FindCredential(t.Context(), "acme", c.str("session_token"), "", ever),
					h.node.FindCredential(t.Context(), "acme", "", c.str("session_jwt"), ever),
				} {
					if want := c == bound && !ever; (err != nil) != want {
						t.Errorf("bound %v, to take it away %v: %v", c == bound, ever, err)
					}
				}
			}
		}
	})
}

// TestNonces: an app can demand a nonce of a node in proofs.
func TestNonces(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		d := newDevice(t)
		token := d.login(h).str("session_token")
		other := h.newApp("other", m{"dpop_nonce": true})
		theirs := h.do(other, "POST", "/v1/sessions", m{"user_id": "ada", "bind": m{"dpop_jkt": d.jkt}}).want(201).str("session_token")
		if r := h.do(h.key, "PATCH", "/v1/apps/acme", m{"dpop_nonce": true}).want(200); r.at("app.dpop_nonce") != true {
			t.Errorf("%s", r.Raw)
		}
		h.do(h.key, "PATCH", "/v1/apps/acme", m{"dpop_nonce": "yes"}).wantError(400, api.InvalidArgument)
		verify := func(token string, changes ...m) *reply {
			t.Helper()
			return h.do("", "GET", "/v1/verify", nil, "Authorization", "DPoP "+token, "DPoP", d.proof("GET", verifyAt, token, changes...))
		}
		first := verify(token).wantProof("no nonce", "dpop_nonce").Header.Get("DPoP-Nonce")
		if first == "" {
			t.Fatal("no nonce is handed out")
		}
		if got := h.do("", "GET", "/v1/verify", nil, "Authorization", "DPoP "+token).wantProof("no proof", "dpop_proof").Header.Get("DPoP-Nonce"); got != first {
			t.Errorf("with no proof the nonce is %q, want %q", got, first)
		}
		if ok := verify(token, m{"nonce": first}).want(204); ok.Header.Get("DPoP-Nonce") != "" {
			t.Errorf("a fresh nonce is replaced: %v", ok.Header)
		}
		for _, bad := range []string{"", "x", first + "x", first[1:]} {
			if got := verify(token, m{"nonce": bad}).wantProof("nonce "+bad, "dpop_nonce").Header.Get("DPoP-Nonce"); got != first {
				t.Errorf("nonce %q", got)
			}
		}
		foreign := verify(theirs).wantProof("no nonce", "dpop_nonce").Header.Get("DPoP-Nonce")
		verify(token, m{"nonce": foreign}).wantProof("of another app", "dpop_nonce")
		time.Sleep(time.Minute)
		second := verify(token, m{"nonce": first}).want(204).Header.Get("DPoP-Nonce")
		if second == "" || second == first {
			t.Errorf("an older nonce is answered with %q", second)
		}
		time.Sleep(time.Minute)
		verify(token, m{"nonce": first}).wantProof("too old", "dpop_nonce")
		verify(token, m{"nonce": second}).want(204)
		time.Sleep(time.Minute)

		// Elsewhere.
		const shop = "https://shop.example/"
		body := func(changes ...m) m {
			return m{"session_token": token, "dpop": m{"proof": d.proof("GET", shop, token, changes...), "htm": "GET", "htu": shop}}
		}
		r := h.do(h.key, "POST", "/v1/sessions/authenticate", body()).wantError(401, api.ProofNonce)
		third := r.Header.Get("DPoP-Nonce")
		if !strings.HasPrefix(r.Header.Get("WWW-Authenticate"), `DPoP error="use_dpop_nonce"`) || third == "" {
			t.Errorf("%v", r.Header)
		}
		h.do(h.key, "POST", "/v1/sessions/authenticate", body(m{"nonce": third})).want(200)
		h.do(h.key, "POST", "/v1/sessions", m{"user_id": "ada"}, "DPoP", d.proof("POST", publicURL+"/v1/sessions", "")).wantError(401, api.ProofNonce)
		h.do(h.key, "POST", "/v1/sessions", m{"user_id": "ada"}, "DPoP", d.proof("POST", publicURL+"/v1/sessions", "", m{"nonce": third})).want(201)
	})
}

// TestVerifyBoundInProcess: Node.Verify demands what /v1/verify demands.
func TestVerifyBoundInProcess(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		d := newDevice(t)
		c := d.login(h)
		const shop = "https://shop.example/"
		for _, shown := range []string{c.str("session_token"), c.str("session_jwt")} {
			_, err := h.node.Verify(t.Context(), shown, node.VerifyOptions{})
			bad, ok := errors.AsType[*node.VerifyError](err)
			if !ok || !errors.Is(err, node.ErrProof) || bad.Status != 401 || bad.Reason != "dpop_proof" {
				t.Errorf("without a proof: %v", err)
			}
			proof := &api.DPoPProof{Proof: d.proof("GET", shop, shown), Method: "GET", URL: shop}
			if v, err := h.node.Verify(t.Context(), shown, node.VerifyOptions{Proof: proof}); err != nil || v.User != "ada" {
				t.Errorf("with a proof: %+v, %v", v, err)
			}
			if _, err := h.node.Verify(t.Context(), shown, node.VerifyOptions{Proof: proof}); !errors.Is(err, node.ErrProof) {
				t.Errorf("with the proof again: %v", err)
			}
		}
		free := h.login("ada").str("session_token")
		if _, err := h.node.Verify(t.Context(), free, node.VerifyOptions{Proof: &api.DPoPProof{Proof: d.proof("GET", shop, free), Method: "GET", URL: shop}}); !errors.Is(err, node.ErrProof) {
			t.Errorf("not bound, with a proof: %v", err)
		}
		h.do(h.key, "PATCH", "/v1/apps/acme", m{"dpop_nonce": true}).want(200)
		shown := c.str("session_token")
		_, err := h.node.Verify(t.Context(), shown, node.VerifyOptions{Proof: &api.DPoPProof{Proof: d.proof("GET", shop, shown), Method: "GET", URL: shop}})
		bad, ok := errors.AsType[*node.VerifyError](err)
		if !ok || bad.Reason != "dpop_nonce" || bad.Nonce == "" {
			t.Fatalf("without a nonce: %v", err)
		}
		proof := &api.DPoPProof{Proof: d.proof("GET", shop, shown, m{"nonce": bad.Nonce}), Method: "GET", URL: shop}
		if _, err := h.node.Verify(t.Context(), shown, node.VerifyOptions{Proof: proof}); err != nil {
			t.Errorf("with the nonce: %v", err)
		}
	})
}

// TestBoundWithoutPrivatePart: where private parts are left in the log, the key
// is read from there; out of reach, nobody is let in, and nobody is turned away.
func TestBoundWithoutPrivatePart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t, func(c *node.Config) { c.Private = node.PrivateLog })
		d := newDevice(t)
		c := d.login(h)
		token, jwt := c.str("session_token"), c.str("session_jwt")
		verify := func(shown string) *reply {
			return h.do("", "GET", "/v1/verify", nil, "Authorization", "DPoP "+shown, "DPoP", d.proof("GET", verifyAt, shown))
		}
		verify(token).want(204)
		verify(jwt).want(204)
		h.do(token, "GET", "/v1/verify", nil).wantProof("Bearer", "dpop_proof")
		h.home.Cut()
		time.Sleep(time.Second)
		if r := verify(token).want(503); r.Header.Get("X-Session-User") != "-" || r.Header.Get("Retry-After") == "" {
			t.Errorf("%v", r.Header)
		}
		verify(jwt).want(204) // it says the key itself
		h.do(jwt, "GET", "/v1/verify", nil).wantProof("Bearer", "dpop_proof")
		h.home.Heal()
	})
}

// TestBoundNeedsAll: no session is bound while some node would not know.
func TestBoundNeedsAll(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		d := newDevice(t)
		h.write(&events.Beat{Node: "old", Incarnation: events.NewIncarnation(), N: 1, Format: events.BoundVersion - 1, Keys: h.keys.IDs()}, time.Minute)
		h.do(h.key, "POST", "/v1/sessions", m{"user_id": "ada", "bind": m{"dpop_jkt": d.jkt}}).wantError(503, api.ClusterOutdated)
		h.login("ada")
		time.Sleep(5 * node.DefaultLease)
		d.login(h)
	})
}

// TestNonceOfAnotherNode: every node takes the nonces of the others, and what one
// binds is bound on all.
func TestNonceOfAnotherNode(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		d, other := newDevice(t), h.twin("n2")
		h.do(h.key, "PATCH", "/v1/apps/acme", m{"dpop_nonce": true}).want(200)
		token := d.login(h).str("session_token")
		time.Sleep(time.Second)
		verify := func(on *harness, nonce any) *reply {
			return on.do("", "GET", "/v1/verify", nil, "Authorization", "DPoP "+token, "DPoP", d.proof("GET", verifyAt, token, m{"nonce": nonce}))
		}
		nonce := verify(other, nil).wantProof("no nonce", "dpop_nonce").Header.Get("DPoP-Nonce")
		verify(h, nonce).want(204)
		verify(other, nonce).want(204)
		other.do(token, "GET", "/v1/verify", nil).wantProof("as Bearer", "dpop_proof")
	})
}

// newRequest is a request of which a field may stand twice.
func newRequest(t *testing.T, method, path string, headers ...string) *http.Request {
	r := httptest.NewRequestWithContext(t.Context(), method, path, nil)
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	return r
}
