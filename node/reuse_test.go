package node_test

import (
	"testing"
	"time"

	"github.com/revocast/revocast/node/api"
)

func (h *harness) rotateToken(token string, grace int) *reply {
	return h.do(h.key, "POST", "/v1/sessions/rotate", m{"session_token": token, "grace_seconds": grace})
}

// TestTokenReuse: by whichever way a replaced token is shown after its grace, its
// session ends, and nothing else does.
func TestTokenReuse(t *testing.T) {
	show := map[string]func(h *harness, token string) *reply{
		"verify": func(h *harness, token string) *reply { return h.verify(token).wantRefused("token_reuse") },
		"verify, body": func(h *harness, token string) *reply {
			return h.do(token, "GET", "/v1/verify?body=1", nil).wantError(401, api.TokenReuse)
		},
		"verify, app": func(h *harness, token string) *reply {
			return h.do(token, "GET", "/v1/verify?app=acme", nil).wantRefused("token_reuse")
		},
		"authenticate": func(h *harness, token string) *reply {
			return h.auth(m{"session_token": token}).wantError(409, api.TokenReuse)
		},
		"rotate": func(h *harness, token string) *reply { return h.rotateToken(token, 10).wantError(409, api.TokenReuse) },
	}
	for name, shown := range show {
		for _, rounds := range []int{1, 3} { // the original, and the one before the newest
			bubble(t, func(t *testing.T, h *harness) {
				h.do(h.key, "PATCH", "/v1/apps/acme", m{"token_reuse": "revoke"}).want(200)
				bystander := h.login("ada").str("session_token")
				c := h.login("ada")
				old, now, sid := "", c.str("session_token"), c.str("session.session_id")
				original := now
				for range rounds {
					old, now = now, h.rotateToken(now, 10).want(200).str("session_token")
				}
				h.verify(old).want(204)
				if again := h.rotateToken(old, 10).want(200).str("session_token"); again != now {
					t.Errorf("%s: within its grace a repeat got another successor", name)
				}
				time.Sleep(11 * time.Second)
				h.do(h.key, "PATCH", "/v1/sessions/"+sid, m{"metadata": m{"a": 1}}).want(200) // a newer state still knows
				h.verify(now).want(204)
				if rounds > 1 {
					defer func() { h.verify(original).wantRefused("unknown") }() // of an ended session
				}
				shown(h, old)
				h.verify(now).wantRefused("revoked")
				h.verify(bystander).want(204)
				s := h.do(h.key, "GET", "/v1/sessions/"+sid, nil).want(200)
				if s.str("session.revoke_reason") != "token_reuse" || s.at("session.revoked_by") != nil {
					t.Errorf("%s: %s", name, s.Raw)
				}
				before := h.stored()
				h.verify(old).wantRefused("unknown")
				if h.stored() != before {
					t.Errorf("%s: a second time was written", name)
				}
			})
		}
	}
}

// TestTokenReuseOriginal: the first token is known for as long as the session
// lives, however often it was rotated.
func TestTokenReuseOriginal(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		h.do(h.key, "PATCH", "/v1/apps/acme", m{"token_reuse": "revoke"}).want(200)
		first := h.login("ada").str("session_token")
		now, third := first, ""
		for i := range 5 {
			now = h.rotateToken(now, 0).want(200).str("session_token")
			if i == 1 {
				third = now
			}
		}
		h.verify(third).wantRefused("unknown") // two are known, and it is none of them
		h.verify(now).want(204)
		h.do(h.key, "POST", "/v1/sessions/revoke", m{"session_token": first}).want(200) // to revoke is no reuse
		h.verify(now).want(204)
		h.do(first, "GET", "/v1/verify?app=other", nil).wantRefused("unknown")
		h.verify(now).want(204)
		h.verify(first).wantRefused("token_reuse")
		h.verify(now).wantRefused("revoked")
	})
}

// TestTokenReuseRefuses: without the setting nothing ends, and a repeat that lost
// a race is no reuse with it.
func TestTokenReuseRefuses(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		first := h.login("ada").str("session_token")
		now := h.rotateToken(first, 0).want(200).str("session_token")
		h.verify(first).wantRefused("unknown")
		h.auth(m{"session_token": first}).wantEnded("unknown")
		h.rotateToken(first, 0).wantEnded("unknown")
		h.verify(now).want(204)

		h.do(h.key, "PATCH", "/v1/apps/acme", m{"token_reuse": "revoke"}).want(200)
		token := h.login("eve").str("session_token")
		slow(&h.home.MemoryLink)
		good := ""
		for _, r := range atOnce(6, func(int) *reply { return h.rotateToken(token, 0) }) {
			if r.Status == 200 {
				good = r.str("session_token")
			} else {
				r.wantEnded("unknown")
			}
		}
		h.verify(good).want(204)
		h.do(h.admin, "POST", "/v1/apps", m{"app_id": "x", "token_reuse": "ignore"}).wantError(400, api.InvalidArgument)
	})
}

// TestTokenReuseEverywhere: it is known on every node, after a restart too, and
// what one node saw holds on all.
func TestTokenReuseEverywhere(t *testing.T) {
	fleetBubble(t, 2, func(t *testing.T, f *fleet) {
		f.do(f.key, "PATCH", "/v1/apps/acme", m{"token_reuse": "revoke"}).want(200)
		first := f.login("ada").str("session_token")
		now := f.rotateToken(first, 5).want(200).str("session_token")
		time.Sleep(6 * time.Second)
		late := f.join("n3") // it reads all of the log
		time.Sleep(2 * time.Second)
		late.verify(now).want(204)
		late.verify(first).wantRefused("token_reuse")
		time.Sleep(time.Second)
		for _, n := range f.nodes {
			n.verify(now).wantRefused("revoked")
		}
	})
}

// TestTokenReuseFlood: however often it is shown at once, one revocation is
// written; and while none can be, the token is refused and nobody is signed out.
func TestTokenReuseFlood(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		h.do(h.key, "PATCH", "/v1/apps/acme", m{"token_reuse": "revoke"}).want(200)
		first := h.login("ada").str("session_token")
		now := h.rotateToken(first, 0).want(200).str("session_token")
		h.home.Cut()
		h.verify(first).want(503)
		h.verify(now).want(204)
		h.home.Heal()
		time.Sleep(10 * time.Second)

		other := h.login("eve").str("session_token")
		h.rotateToken(other, 0).want(200)
		slow(&h.home.MemoryLink)
		count := h.stored()
		for _, r := range atOnce(20, func(int) *reply { return h.verify(other) }) {
			r.want(401)
		}
		if got := h.stored() - count; got != 1 {
			t.Errorf("%d events were written, want 1", got)
		}
	})
}
