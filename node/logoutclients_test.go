package node_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"math/big"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"
)

// logoutToken is what a client reads of one.
type logoutToken struct {
	Issuer   string                     `json:"iss"`
	Audience any                        `json:"aud"`
	Subject  string                     `json:"sub"`
	Session  string                     `json:"sid"`
	IssuedAt int64                      `json:"iat"`
	Expires  int64                      `json:"exp"`
	ID       string                     `json:"jti"`
	Events   map[string]json.RawMessage `json:"events"`
	Nonce    *string                    `json:"nonce"`
}

// readLogout checks a request by the text of OpenID Connect Back-Channel Logout 1.0
// section 2.6, and returns its token.
func (h *harness) readLogout(g received) (t logoutToken) {
	h.t.Helper()
	form, err := url.ParseQuery(g.body)
	if err != nil || g.header.Get("Content-Type") != "application/x-www-form-urlencoded" || len(form) != 1 {
		h.t.Fatalf("request %v %q: %v", g.header, g.body, err)
	}
	parts := strings.Split(form.Get("logout_token"), ".")
	if len(parts) != 3 {
		h.t.Fatalf("token %q", form.Get("logout_token"))
	}
	part := func(i int) []byte {
		b, err := base64.RawURLEncoding.DecodeString(parts[i])
		if err != nil {
			h.t.Fatal(err)
		}
		return b
	}
	var head struct{ Alg, Typ, Kid string }
	if err := json.Unmarshal(part(0), &head); err != nil || head.Typ != "logout+jwt" || head.Alg != "ES256" {
		h.t.Fatalf("header %s: %v", part(0), err)
	}
	if err := json.Unmarshal(part(1), &t); err != nil {
		h.t.Fatal(err)
	}
	set := h.do("", "GET", "/v1/apps/acme/jwks", nil).want(http.StatusOK)
	good := false
	for _, k := range set.JSON["keys"].([]any) {
		k := k.(map[string]any)
		point := []byte{4}
		for _, name := range []string{"x", "y"} {
			b, _ := base64.RawURLEncoding.DecodeString(k[name].(string))
			point = append(point, b...)
		}
		key, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), point)
		if err != nil {
			h.t.Fatal(err)
		}
		digest, sig := sha256.Sum256([]byte(parts[0]+"."+parts[1])), part(2)
		good = good || k["kid"] == head.Kid && len(sig) == 64 && ecdsa.Verify(key, digest[:], new(big.Int).SetBytes(sig[:32]), new(big.Int).SetBytes(sig[32:]))
	}
	event := t.Events["http://schemas.openid.net/event/backchannel-logout"]
	if !good || t.Nonce != nil || t.ID == "" || len(t.Events) != 1 || string(event) != "{}" || t.Expires-t.IssuedAt > 120 || t.IssuedAt != g.at.Unix() {
		h.t.Errorf("token %s, signature good: %v", part(1), good)
	}
	issuer := h.do("", "GET", "/v1/apps/acme/.well-known/openid-configuration", nil).want(http.StatusOK)
	if t.Issuer != issuer.str("issuer") || issuer.at("backchannel_logout_supported") != true || issuer.at("backchannel_logout_session_supported") != true {
		h.t.Errorf("iss %q, metadata %s", t.Issuer, issuer.Raw)
	}
	return t
}

const rp = "/v1/apps/acme/logout-clients/"

func TestBackchannelLogout(t *testing.T) {
	hooked(t, func(t *testing.T, h *harness, r *receiver) {
		h.do(h.key, "PUT", rp+"shop.example.com", m{"backchannel_logout_uri": "https://shop.example.com/logout"}).want(http.StatusOK)
		h.do(h.key, "PUT", rp+"strict", m{"backchannel_logout_uri": "https://strict.example.com/logout", "backchannel_logout_session_required": true}).want(http.StatusOK)
		tokens := func(host string) (out []logoutToken) {
			for _, g := range r.all() {
				if g.host == host {
					out = append(out, h.readLogout(g))
				}
			}
			return out
		}
		one, two, three := h.login("ada"), h.login("ada"), h.login("ada")
		sid := func(login *reply) string { return login.str("session.session_id") }
		h.revoke(sid(one))
		time.Sleep(3 * time.Second)
		for host, client := range map[string]string{"shop.example.com": "shop.example.com", "strict.example.com": "strict"} {
			all := tokens(host)
			if len(all) != 1 || all[0].Subject != "ada" || all[0].Session != sid(one) || all[0].Audience != client {
				t.Errorf("%s, a session: %+v", host, all)
			}
		}
		// All but one: a token without sid would log that one out too.
		r.forget()
		h.do(h.key, "POST", "/v1/sessions/revoke", m{"user_id": "ada", "except_session_id": sid(three)}).want(http.StatusOK)
		time.Sleep(3 * time.Second)
		for _, host := range []string{"shop.example.com", "strict.example.com"} {
			var sids []string
			for _, token := range tokens(host) {
				sids = append(sids, token.Session)
			}
			if !slices.Contains(sids, sid(two)) || slices.Contains(sids, sid(three)) || slices.Contains(sids, "") {
				t.Errorf("%s, all but one: %v", host, sids)
			}
		}
		r.forget()
		h.do(h.key, "POST", "/v1/sessions/revoke", m{"user_id": "ada"}).want(http.StatusOK)
		time.Sleep(3 * time.Second)
		if all := tokens("shop.example.com"); len(all) != 1 || all[0].Subject != "ada" || all[0].Session != "" {
			t.Errorf("all: %+v", all)
		}
		if all := tokens("strict.example.com"); !slices.ContainsFunc(all, func(l logoutToken) bool { return l.Session == sid(three) }) {
			t.Errorf("all, one by one: %+v", all)
		}
		// What is about nobody is not told.
		r.forget()
		h.login("bob")
		h.do(h.key, "POST", "/v1/sessions/revoke", m{"all": true}).want(http.StatusOK)
		time.Sleep(3 * time.Second)
		if len(r.all()) != 0 {
			t.Errorf("told %v", r.all())
		}
	})
}

// A client whose answer is lost is told again, by another token.
func TestBackchannelLogoutAgain(t *testing.T) {
	hooked(t, func(t *testing.T, h *harness, r *receiver) {
		h.do(h.key, "PUT", rp+"shop", m{"backchannel_logout_uri": "https://shop.example.com/logout"}).want(http.StatusOK)
		r.set(func() { r.answer = func(received) int { return 503 } })
		h.revoke(h.login("eve").str("session.session_id"))
		time.Sleep(5 * time.Second)
		if len(r.all()) < 2 {
			t.Fatalf("told %d times", len(r.all()))
		}
		one, two := h.readLogout(r.all()[0]), h.readLogout(r.all()[1])
		if one.ID == two.ID || one.Session != two.Session {
			t.Errorf("again: %+v, %+v", one, two)
		}
		r.set(func() { r.answer = nil })
		time.Sleep(10 * time.Second)
		if got := h.do(h.key, "GET", rp+"shop", nil).want(http.StatusOK); got.str("status") != "enabled" || len(r.taken()) != 1 {
			t.Errorf("%s, taken %d times", got.Raw, len(r.taken()))
		}
	})
}

func TestLogoutClients(t *testing.T) {
	hooked(t, func(t *testing.T, h *harness, r *receiver) {
		h.do(h.key, "GET", rp+"x", nil).wantError(http.StatusNotFound, "not_found")
		h.do(h.key, "DELETE", rp+"x", nil).wantError(http.StatusNotFound, "not_found")
		good := m{"backchannel_logout_uri": "https://x.example.com"}
		for name, bad := range map[string]struct {
			id   string
			body m
		}{
			"no URI": {"x", m{}}, "http": {"x", m{"backchannel_logout_uri": "http://x.example.com"}}, "another id": {"x", m{"client_id": "y", "backchannel_logout_uri": "https://x.example.com"}},
			"a blank": {"a%20b", good}, "a slash": {"a%2Fb", good}, "long": {strings.Repeat("x", 129), good}, "typo": {"x", m{"backchannel_logout_uri": "https://x.example.com", "session_required": true}},
		} {
			if got := h.do(h.key, "PUT", rp+bad.id, bad.body); got.Status != http.StatusBadRequest || got.str("error_type") != "invalid_argument" {
				t.Errorf("%s: %d %s", name, got.Status, got.Raw)
			}
		}
		made := h.do(h.key, "PUT", rp+"x.example.com:8443~1", good).want(http.StatusOK)
		if made.str("client_id") != "x.example.com:8443~1" || made.str("status") != "enabled" {
			t.Errorf("made %s", made.Raw)
		}
		h.do(h.key, "PUT", rp+"y", m{"backchannel_logout_uri": "https://y.example.com", "enabled": false}).want(http.StatusOK)
		list := h.do(h.key, "GET", "/v1/apps/acme/logout-clients", nil).want(http.StatusOK)
		if all := list.at("logout_clients").([]any); len(all) != 2 {
			t.Errorf("list %s", list.Raw)
		}
		h.ended("ada", 2)
		time.Sleep(2 * time.Second)
		h.do(h.key, "DELETE", rp+"x.example.com:8443~1", nil).want(http.StatusOK)
		h.ended("bob", 2)
		// Who comes back hears what comes from then on.
		h.do(h.key, "PUT", rp+"x.example.com:8443~1", good).want(http.StatusOK)
		h.ended("eve", 1)
		time.Sleep(3 * time.Second)
		var users []string
		for _, g := range r.all() {
			users = append(users, h.readLogout(g).Subject+"@"+g.host)
		}
		if want := []string{"ada@x.example.com", "ada@x.example.com", "eve@x.example.com"}; !slices.Equal(users, want) {
			t.Errorf("told of %v, want %v", users, want)
		}
	})
}
