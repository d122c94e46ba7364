package node_test

import (
	"encoding/base64"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node"
)

// foreignForms are texts that other systems hand out as tokens.
var foreignForms = map[string]string{
	"hex":             strings.Repeat("0123456789abcdef", 4),
	"express-session": "s:8bQ0fT1c.K7lmQ0+a/b==",
	"dots":            "a.b.c",
	// The form of a native token, of a stream that nobody has, of CONFIG, and of
	// this region.
	"native form":        events.TokenOf(200, [32]byte{1}).Reveal(),
	"native form CONFIG": events.TokenOf(1, [32]byte{1}).Reveal(),
	"native form home":   events.TokenOf(2, [32]byte{1}).Reveal(),
}

func (h *harness) verifyIn(app, token string) *reply {
	return h.do(token, "GET", "/v1/verify?app="+app, nil)
}

// foreign creates the session of a foreign token in the first app.
func (h *harness) foreign(token, user string, began int64) (sid string, created bool) {
	h.t.Helper()
	sid, created, err := h.node.CreateForeign(h.t.Context(), h.app, token, user, began, false)
	if err != nil {
		h.t.Fatalf("create the session of %q: %v", token, err)
	}
	return sid, created
}

func TestForeignTokens(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		for name, token := range foreignForms {
			h.verifyIn(h.app, token).want(http.StatusUnauthorized)
			sid, created := h.foreign(token, "ada", 0)
			if again, twice := h.foreign(token, "ada", 0); !created || twice || again != sid {
				t.Errorf("%s: created %v as %s, then %v as %s", name, created, sid, twice, again)
			}
			v := h.verifyIn(h.app, token).want(http.StatusNoContent)
			if got := v.Header.Get("X-Session-Id"); got != sid {
				t.Errorf("%s: session %s, want %s", name, got, sid)
			}
			if _, err := h.node.Verify(t.Context(), token, node.VerifyOptions{App: h.app}); err != nil {
				t.Errorf("%s: embedded: %v", name, err)
			}
			h.do("", "POST", "/v1/verify?app="+h.app, m{"session_token": token}).want(http.StatusNoContent)

			a := h.auth(m{"session_token": token}).want(http.StatusOK)
			if a.str("session.session_id") != sid || a.str("session_token") != token {
				t.Errorf("%s: authenticated as %s", name, a.Raw)
			}
			h.verify(a.str("session_jwt")).want(http.StatusNoContent) // a JWT needs no app
			h.verify(token).want(http.StatusUnauthorized)             // the token does

			r := h.do(h.key, "POST", "/v1/sessions/revoke", m{"session_token": token}).want(http.StatusOK)
			if r.at("revoked") != 1.0 {
				t.Errorf("%s: revoked %v", name, r.at("revoked"))
			}
			h.verifyIn(h.app, token).wantRefused("revoked")
			h.verify(a.str("session_jwt")).wantRefused("revoked")
			if _, _, err := h.node.CreateForeign(t.Context(), h.app, token, "ada", 0, true); err == nil {
				t.Errorf("%s: a revoked session was brought back", name)
			}
			h.verifyIn(h.app, token).wantRefused("revoked")
		}
	})
}

// A foreign token is one app's; two apps may import the same.
func TestForeignTokenOfTwoApps(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		const token = "the same in both"
		other := h.newApp("tenant", nil)
		sid, _ := h.foreign(token, "ada", 0)
		h.verifyIn("tenant", token).want(http.StatusUnauthorized)
		h.do(other, "POST", "/v1/sessions/authenticate", m{"session_token": token}).wantError(http.StatusNotFound, "session_not_found")
		second, _, err := h.node.CreateForeign(t.Context(), "tenant", token, "eve", 0, false)
		if err != nil || second == sid {
			t.Fatalf("tenant: session %s, %v", second, err)
		}
		h.do(h.key, "POST", "/v1/sessions/revoke", m{"session_token": token}).want(http.StatusOK)
		h.verifyIn(h.app, token).wantRefused("revoked")
		if v := h.verifyIn("tenant", token).want(http.StatusNoContent); v.Header.Get("X-Session-User") != "eve" {
			t.Errorf("user %s", v.Header.Get("X-Session-User"))
		}
	})
}

// Native tokens answer as ever, and are never taken for foreign ones.
func TestForeignBesideNative(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		native := h.login("ada")
		token := native.str("session_token")
		h.foreign("foreign", "ada", 0)
		h.verifyIn(h.app, token).want(http.StatusNoContent)
		// Its hash imported is another session, which the token does not lead to
		// while the native one is known in any way.
		imported, _ := h.foreign(token, "eve", 0)
		if imported == native.str("session.session_id") {
			t.Fatal("an import has the sid of a native session")
		}
		if v := h.verifyIn(h.app, token); v.Header.Get("X-Session-User") != "ada" {
			t.Errorf("user %s", v.Header.Get("X-Session-User"))
		}
		h.do(h.key, "POST", "/v1/sessions/revoke", m{"session_token": token}).want(http.StatusOK)
		h.verifyIn(h.app, token).wantRefused("revoked")

		raw, _ := base64.RawURLEncoding.DecodeString(token)
		raw[0] = 200
		h.verifyIn(h.app, base64.RawURLEncoding.EncodeToString(raw)).wantRefused("unknown")
		h.auth(m{"session_token": ""}).want(http.StatusBadRequest)
		h.auth(m{"session_token": strings.Repeat("x", events.MaxForeignToken+1)}).wantEnded("unknown")
	})
}

// A session from elsewhere counts as begun when it says, and without that as
// older than any log-out everywhere.
func TestForeignAfterLogOutEverywhere(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		create := func(token, user string, began int64, fresh bool) error {
			_, _, err := h.node.CreateForeign(t.Context(), h.app, token, user, began, fresh)
			return err
		}
		before := time.Now().UnixMilli()
		time.Sleep(time.Hour)
		h.do(h.key, "POST", "/v1/sessions/revoke", m{"user_id": "ada"}).want(http.StatusOK)
		for token, began := range map[string]int64{"unsaid": 0, "before": before, "just": time.Now().UnixMilli()} {
			if create(token, "ada", began, false) == nil {
				t.Errorf("%s: a session that a log-out everywhere covers was imported", token)
			}
			h.verifyIn(h.app, token).wantRefused("unknown")
		}
		if err := create("other", "bob", 0, false); err != nil {
			t.Errorf("another user: %v", err)
		}
		if err := create("fresh", "ada", 0, true); err != nil {
			t.Errorf("a log-in at this moment: %v", err)
		}
		time.Sleep(2 * time.Minute)
		if err := create("later", "ada", time.Now().UnixMilli(), false); err != nil {
			t.Errorf("a later log-in: %v", err)
		}
		h.do(h.key, "POST", "/v1/sessions/revoke", m{"all": true}).want(http.StatusOK)
		if create("all", "cid", before, false) == nil {
			t.Error("imported in spite of a revocation of all of the app")
		}
	})
}

// Rotated, a foreign session has a native token; the foreign one is over.
func TestForeignRotation(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		sid, _ := h.foreign("old", "ada", 0)
		r := h.do(h.key, "POST", "/v1/sessions/rotate", m{"session_token": "old", "grace_seconds": 10}).want(http.StatusOK)
		token := r.str("session_token")
		if key, ok := events.Token(token).Key(); !ok || key.Stream() != 2 || r.str("session.session_id") != sid {
			t.Fatalf("rotated to %s", r.Raw)
		}
		h.verifyIn(h.app, "old").want(http.StatusNoContent)
		h.verify(token).want(http.StatusNoContent)
		time.Sleep(11 * time.Second)
		h.verifyIn(h.app, "old").wantRefused("unknown")
		h.verify(token).want(http.StatusNoContent)
		if again, created := h.foreign("old", "ada", 0); created || again != sid {
			t.Errorf("imported again as %s", again)
		}
		h.verifyIn(h.app, "old").wantRefused("unknown")
	})
}

// What was imported on another node a moment ago is found, however often it was
// asked for before: nothing remembers that a foreign token is unknown.
func TestForeignElsewhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t, func(c *node.Config) { c.Solo = false })
		b := h.far()
		h.foreign("first", "ada", 0) // b has heard of import_region when this returns
		const lag = 100 * time.Millisecond
		b.behind(lag)
		for name, token := range foreignForms {
			b.verifyIn(h.app, token).want(http.StatusUnauthorized)
			h.foreign(token, "ada", 0)
			if took := timed(func() { b.verifyIn(h.app, token).want(http.StatusNoContent) }); took > 2*lag {
				t.Errorf("%s: verified after %v", name, took)
			}
		}
		if took := timed(func() { b.verifyIn(h.app, foreignForms["native form"]).want(http.StatusNoContent) }); took != 0 {
			t.Errorf("what is known took %v", took)
		}
	})
}

// A node that may be behind the stream of the imported sessions says neither yes
// nor no.
func TestForeignWithoutLease(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		b := h.far()
		h.foreign("known", "ada", 0)
		b.home.Cut()
		time.Sleep(time.Minute)
		for _, token := range []string{"known", "unknown", events.TokenOf(200, [32]byte{1}).Reveal()} {
			b.verifyIn(h.app, token).want(http.StatusServiceUnavailable)
			b.auth(m{"session_token": token}).wantError(http.StatusServiceUnavailable, "node_stale")
		}
	})
}

// All imported sessions of an app live in one region, wherever they are created
// and shown; out of its reach nobody is told that there is no such session.
func TestForeignInRegions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newContinents(t)
		eu, us := c.nodes["eu1"], c.nodes["us1"]
		here, _ := eu.foreign("made in eu", "ada", 0)
		there, _ := us.foreign("made in us", "ada", 0)
		for _, text := range []string{here, there} {
			if sid, err := events.ParseSID(text); err != nil || sid.Stream() != 2 {
				t.Errorf("session %s lives in stream %d", text, sid.Stream())
			}
		}
		eu.verifyIn(eu.app, "made in us").want(http.StatusNoContent)
		us.verifyIn(us.app, "made in eu").want(http.StatusNoContent)
		c.cut()
		time.Sleep(time.Minute)
		for _, token := range []string{"made in eu", "never made"} {
			us.verifyIn(us.app, token).want(http.StatusServiceUnavailable)
		}
		if _, _, err := us.node.CreateForeign(t.Context(), us.app, "cut off", "ada", 0, false); err == nil {
			t.Error("created while its home was out of reach")
		}
		// Its holder may be logged out all the same, known here or not.
		for _, token := range []string{"made in eu", "in eu alone"} {
			us.do(us.key, "POST", "/v1/sessions/revoke", m{"session_token": token}).want(http.StatusAccepted)
		}
		eu.foreign("in eu alone", "ada", 0)
		eu.verifyIn(eu.app, "in eu alone").want(http.StatusNoContent)
		c.heal()
		time.Sleep(time.Minute)
		for _, token := range []string{"made in eu", "in eu alone"} {
			eu.verifyIn(eu.app, token).wantRefused("revoked")
		}
	})
}
