package node_test

import (
	"bytes"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/events/broker"
)

// entriesOf returns how many messages the archive has of the user, and the live
// states of the user's sessions, opened.
func (h *harness) entriesOf(log *events.Memory, region, user string) (archived int, private []string) {
	h.t.Helper()
	hash := events.UserHash(h.app, user)
	err := log.History(h.t.Context(), []string{"ev." + region + "." + h.app + "." + hash + ".>"}, func(events.Archived) bool { archived++; return true })
	if err != nil {
		h.t.Fatal(err)
	}
	for _, s := range h.do(h.key, "GET", "/v1/sessions?status=all&user_id="+user, nil).want(http.StatusOK).at("sessions").([]any) {
		sid, err := events.ParseSID(s.(map[string]any)["session_id"].(string))
		if err != nil {
			h.t.Fatal(err)
		}
		e, err := log.Last(h.t.Context(), events.SessionSubject(region, h.app, user, sid, events.KindState).String())
		if err != nil {
			h.t.Fatal(err)
		}
		plain, err := h.keys.OpenVerified(h.keys.Decode(2, e).Sealed)
		if err != nil {
			h.t.Fatal(err)
		}
		private = append(private, string(plain))
	}
	return archived, private
}

func (h *harness) erase(user string) *reply {
	return h.do(h.key, "POST", "/v1/users/erase", m{"user_id": user})
}

func TestErase(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		secret := m{"user_id": "ada", "attributes": m{"ip_address": "192.0.2.1", "user_agent": "x"}, "session_custom_claims": m{"secret": "claim"}, "metadata": m{"a": 1}}
		var tokens []string
		for range 3 {
			tokens = append(tokens, h.do(h.key, "POST", "/v1/sessions", secret).want(http.StatusCreated).str("session_token"))
		}
		over := m{"session_duration_minutes": 1}
		for k, v := range secret {
			over[k] = v
		}
		h.do(h.key, "POST", "/v1/sessions", over).want(http.StatusCreated)
		h.do(h.key, "POST", "/v1/sessions/revoke", m{"session_token": tokens[0]}).want(http.StatusOK)
		other := h.login("bob").str("session_token")
		time.Sleep(90 * time.Second) // one is over, and still in the log

		r := h.erase("ada").want(http.StatusOK)
		if r.at("revoked") != 2.0 || r.at("erased") != 4.0 || len(r.at("history").([]any)) != 1 || r.at("pending") != nil || r.str("receipt.status") != "complete" {
			t.Errorf("erased: %s", r.Raw)
		}
		if !strings.Contains(string(r.Raw), "revocation of all sessions") || !strings.Contains(string(r.Raw), "sessions of the user ran out") || !strings.Contains(string(r.Raw), `"until"`) {
			t.Errorf("what remains is not said: %s", r.Raw)
		}
		archived, private := h.entriesOf(h.home, "eu", "ada")
		if archived != 0 || len(private) != 4 {
			t.Errorf("%d events in the history, %d sessions", archived, len(private))
		}
		for _, p := range private {
			if p != "{}" {
				t.Errorf("a session still holds %s", p)
			}
		}
		for _, token := range tokens {
			h.verify(token).wantRefused("revoked")
		}
		h.verify(other).want(http.StatusNoContent)
		if archived, _ := h.entriesOf(h.home, "eu", "bob"); archived == 0 {
			t.Error("another user's history is gone")
		}
		time.Sleep(time.Minute) // it has left the log
		if r := h.erase("ada").want(http.StatusOK); r.at("erased") != 0.0 || r.at("revoked") != 0.0 {
			t.Errorf("again: %s", r.Raw)
		}
		// The user may come back, and the old tokens do not.
		fresh := h.login("ada").str("session_token")
		h.verify(fresh).want(http.StatusNoContent)
		h.verify(tokens[1]).wantRefused("revoked")

		// A node that reads the log alone knows the same.
		b := h.far()
		for _, token := range tokens {
			b.verify(token).wantRefused("revoked")
		}
		b.verify(fresh).want(http.StatusNoContent)
	})
}

func TestEraseRefused(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		for name, body := range map[string]any{
			"empty": m{}, "long": m{"user_id": strings.Repeat("u", 257)}, "control": m{"user_id": "a\nb"}, "typo": m{"user": "ada"},
			"number": m{"user_id": 1}, "array": []int{}, "reason": m{"user_id": "ada", "reason": strings.Repeat("r", 300)},
		} {
			before := h.stored()
			if r := h.do(h.key, "POST", "/v1/users/erase", body); r.Status != http.StatusBadRequest || h.stored() != before {
				t.Errorf("%s: %d %s", name, r.Status, r.Raw)
			}
		}
		narrow := h.do(h.key, "POST", "/v1/apps/"+h.app+"/api-keys", m{"scopes": []string{"create", "verify", "read", "revoke"}}).want(http.StatusCreated).str("api_key")
		h.do(narrow, "POST", "/v1/users/erase", m{"user_id": "ada"}).wantError(http.StatusForbidden, "forbidden")
		// A user nobody knows is erased as well: a session may be on its way.
		h.erase("nobody").want(http.StatusOK)
	})
}

// A copy of a session that somebody kept and appends again brings nobody back.
func TestErasedSessionIsNotReplayed(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		login := h.login("ada")
		e, err := h.home.Last(t.Context(), events.SessionSubject("eu", h.app, "ada", sidOf(t, login), events.KindState).String())
		if err != nil {
			t.Fatal(err)
		}
		h.erase("ada").want(http.StatusOK)
		if _, err := h.home.Inject(e.Message); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		h.verify(login.str("session_token")).wantRefused("revoked")
		b := h.far()
		b.verify(login.str("session_token")).wantRefused("revoked")
		_, private := h.entriesOf(h.home, "eu", "ada")
		for _, p := range private {
			if p != "{}" {
				t.Errorf("the copy stands: %s", p)
			}
		}
	})
}

// Sessions and history of every region; one that is out of reach is named, and a
// repeat finishes it.
func TestEraseInRegions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newContinents(t)
		eu, us := c.nodes["eu1"], c.nodes["us1"]
		here, there := eu.login("ada").str("session_token"), us.login("ada").str("session_token")
		time.Sleep(time.Second)
		c.cut()
		time.Sleep(time.Minute)
		r := eu.erase("ada").want(http.StatusAccepted)
		if !strings.Contains(string(r.Raw), `"region":"us","what":"sessions"`) ||
			strings.Contains(string(r.Raw), `"region":"eu"`) {
			t.Errorf("while us is cut off: %s", r.Raw)
		}
		eu.verify(here).wantRefused("revoked")
		c.heal()
		time.Sleep(time.Minute)
		us.verify(there).wantRefused("revoked")
		r = eu.erase("ada").want(http.StatusOK)
		if r.at("pending") != nil || len(r.at("history").([]any)) != 2 || r.at("erased") != 1.0 {
			t.Errorf("after healing: %s", r.Raw)
		}
		for _, region := range []string{"eu", "us"} {
			count := 0
			err := c.logs[region].History(t.Context(), []string{"ev." + region + ".acme." + events.UserHash("acme", "ada") + ".>"}, func(events.Archived) bool { count++; return true })
			if err != nil || count != 0 {
				t.Errorf("%s: %d events in the history, %v", region, count, err)
			}
		}
	})
}

// On a real log: the private part is in no live message, nor in the history.
func TestEraseOnDisk(t *testing.T) {
	l := newRealLog(t, broker.Config{Lazy: true}, events.ClusterConfig{})
	n := l.start(t)
	a, b := n.enter("ada"), n.enter("bob")
	r := n.do(n.key, "POST", "/v1/users/erase", m{"user_id": "ada"}).want(http.StatusOK)
	if r.at("erased") != 1.0 || len(r.at("history").([]any)) != 1 {
		t.Errorf("erased: %s", r.Raw)
	}
	if status, reason := n.verify(a.token); status != http.StatusUnauthorized || reason != "revoked" {
		t.Errorf("verify: %d %s", status, reason)
	}
	if status, _ := n.verify(b.token); status != http.StatusNoContent {
		t.Errorf("another user: %d", status)
	}
	e, err := l.home.Last(t.Context(), a.subject(events.KindState))
	if err != nil {
		t.Fatal(err)
	}
	if plain, err := l.keys.OpenVerified(l.keys.Decode(2, e).Sealed); err != nil || !bytes.Equal(plain, []byte("{}")) {
		t.Errorf("the session holds %s, %v", plain, err)
	}
	archive, err := events.OpenArchive(t.Context(), l.nc, events.ArchiveConfig{Region: "eu"})
	if err != nil {
		t.Fatal(err)
	}
	of := map[string]int{}
	err = archive.History(t.Context(), []string{"ev.eu.acme.>"}, func(e events.Archived) bool {
		of[strings.Split(e.Subject, ".")[3]]++
		return true
	})
	if err != nil || of[events.UserHash("acme", "ada")] != 0 || of[events.UserHash("acme", "bob")] == 0 {
		t.Errorf("history %v, %v", of, err)
	}
}
