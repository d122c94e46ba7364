package client_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node/api"
	"github.com/revocast/revocast/node/client"
)

// login makes a session of the user.
func login(t testing.TB, c *client.Client, user string) *api.SessionAnswer {
	t.Helper()
	made, err := c.Create(t.Context(), &api.CreateSession{UserID: user, SessionDurationMinutes: 600})
	if err != nil {
		t.Fatal(err)
	}
	return made
}

// wantErr fails the test unless the session is refused for that reason.
func wantErr(t testing.TB, name string, s *client.Session, err, want error) {
	t.Helper()
	if s != nil || !errors.Is(err, want) {
		t.Errorf("%s: %v, %v; want %v", name, s, err, want)
	}
}

// TestAsked: what cannot be judged here the API is asked about: tokens, JWTs that
// have expired, and all of them while there is no feed. What it says is what counts.
func TestAsked(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world) {
		c := w.client()
		client.SetClock(c, w.clock())
		made := login(t, c, "ada")
		token, jwt := made.SessionToken, made.SessionJWT
		for name, credential := range map[string]string{"token": token, "JWT": jwt} {
			s, err := c.Verify(t.Context(), credential)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if s.ID != made.Session.SessionID || s.User != "ada" || s.App != "acme" || s.JWT == "" || s.Detail == nil || s.Stale || s.JWTExpires.IsZero() {
				t.Errorf("%s: %+v", name, *s)
			}
		}
		wantNothing := func(name, credential string, want error) {
			t.Helper()
			s, err := c.Verify(t.Context(), credential)
			wantErr(t, name, s, err, want)
		}
		wantNothing("a token of nobody", events.NewToken(2).Reveal(), client.ErrInvalid)
		wantNothing("garbage", "garbage", client.ErrInvalid)

		time.Sleep(6 * time.Minute)
		s, err := c.Verify(t.Context(), jwt)
		if err != nil {
			t.Fatalf("a JWT that has expired: %v", err)
		}
		if s.JWT == jwt || !s.JWTExpires.After(time.Now()) {
			t.Errorf("a JWT that has expired: the new one is good until %v", s.JWTExpires)
		}
		if _, err := c.Revoke(t.Context(), &api.Revoke{SessionToken: token}); err != nil {
			t.Fatal(err)
		}
		wantNothing("revoked, token", token, client.ErrRevoked)
		wantNothing("revoked, JWT that has expired", jwt, client.ErrRevoked)
		wantNothing("revoked, JWT", s.JWT, client.ErrRevoked)
		brief, err := c.Create(t.Context(), &api.CreateSession{UserID: "ada", SessionDurationMinutes: 1})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Minute)
		wantNothing("session expired, token", brief.SessionToken, client.ErrExpired)
		wantNothing("session expired, JWT", brief.SessionJWT, client.ErrExpired)
		other := login(t, c, "eve")
		w.must(w.nodes[0], w.admin, "POST", "/v1/apps/acme/suspend", nil, nil)
		wantNothing("app suspended", other.SessionToken, client.ErrSuspended)
	})
}

// TestPolicy: what happens to a JWT without a lease is what was chosen; a session
// that is known to be revoked is refused whatever was.
func TestPolicy(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world) {
		made := login(t, w.client(), "ada")
		for policy, want := range [...]struct{ up, down error }{
			client.Ask:    {nil, client.ErrStale},
			client.Refuse: {client.ErrStale, client.ErrStale},
			client.Accept: {nil, nil}, // the last, since it revokes
		} {
			policy := client.Policy(policy)
			c := w.client(func(c *client.Client) { c.OnStale = policy })
			client.SetClock(c, w.clock())
			check := func(name string, want error) {
				t.Helper()
				s, err := c.Verify(t.Context(), made.SessionJWT)
				switch {
				case !errors.Is(err, want):
					t.Errorf("policy %v, %s: %v, want %v", policy, name, err, want)
				case err == nil && s.Stale != (policy == client.Accept):
					t.Errorf("policy %v, %s: %+v", policy, name, *s)
				}
			}
			check("the node is there", want.up)
			for _, status := range []int{http.StatusServiceUnavailable, http.StatusInternalServerError, http.StatusTooManyRequests, http.StatusUnauthorized, 0} {
				w.nodes[0].fails("/v1/sessions/authenticate", status)
				check(fmt.Sprint("the node answers ", status), want.down)
			}
			w.nodes[0].fails("/v1/sessions/authenticate", -1)
			if policy == client.Accept {
				if _, err := c.Revoke(t.Context(), &api.Revoke{SessionID: made.Session.SessionID}); err != nil {
					t.Fatal(err)
				}
				check("it was revoked here", client.ErrRevoked)
			}
		}
	})
}

// TestCalls: create, get, list and revoke, and what their errors are.
func TestCalls(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world) {
		c := w.client()
		client.SetClock(c, w.clock())
		// An answer that is lost, or a node that cannot now, makes no second session.
		for _, status := range []int{0, http.StatusServiceUnavailable} {
			w.nodes[0].fails("/v1/sessions", status)
			if _, err := c.Create(t.Context(), &api.CreateSession{UserID: "ada"}); err == nil {
				t.Errorf("a create that failed with %d has no error", status)
			}
			if n := w.nodes[0].asked("/v1/sessions"); n%3 != 0 {
				t.Errorf("asked %d times", n)
			}
		}
		w.nodes[0].fails("/v1/sessions", -1)
		one, err := c.CreateOnce(t.Context(), "key", &api.CreateSession{UserID: "ada"})
		if err != nil {
			t.Fatal(err)
		}
		again, err := c.CreateOnce(t.Context(), "key", &api.CreateSession{UserID: "ada"})
		if err != nil || again.Session.SessionID != one.Session.SessionID {
			t.Errorf("again: %v, %v", again, err)
		}
		two := login(t, c, "ada")
		got, err := c.Get(t.Context(), two.Session.SessionID)
		if err != nil || got.UserID != "ada" {
			t.Errorf("get: %+v, %v", got, err)
		}
		page, err := c.List(t.Context(), "ada", client.ListOptions{Limit: 1})
		if err != nil || page.Total != 2 || len(page.Sessions) != 1 || page.NextCursor == "" {
			t.Fatalf("list: %+v, %v", page, err)
		}
		page, err = c.List(t.Context(), "ada", client.ListOptions{Cursor: page.NextCursor})
		if err != nil || len(page.Sessions) != 1 {
			t.Fatalf("the next page: %+v, %v", page, err)
		}
		gone, err := c.Revoke(t.Context(), &api.Revoke{UserID: "ada", ExceptSessionID: two.Session.SessionID, Wait: "all"})
		if err != nil || gone.Revoked != 1 || gone.Receipt == nil || gone.Receipt.Status != "complete" {
			t.Errorf("revoke: %+v, %v", gone, err)
		}
		if page, err := c.List(t.Context(), "ada", client.ListOptions{Status: "revoked"}); err != nil || page.Total != 1 {
			t.Errorf("list of those revoked: %+v, %v", page, err)
		}
		for name, call := range map[string]func() error{
			"get":    func() error { _, err := c.Get(t.Context(), "Arc7vRFKASUkPSUVNV2IsA"); return err },
			"create": func() error { _, err := c.Create(t.Context(), &api.CreateSession{}); return err },
			"list":   func() error { _, err := c.List(t.Context(), "ada", client.ListOptions{Status: "x"}); return err },
			"revoke": func() error { _, err := c.Revoke(t.Context(), &api.Revoke{}); return err },
		} {
			refused, ok := errors.AsType[*api.Error](call())
			if !ok || refused.RequestID == "" || refused.StatusCode < 400 || refused.StatusCode > 499 {
				t.Errorf("%s: %+v", name, refused)
			}
		}
		wrong := w.client(func(c *client.Client) { c.APIKey = "sk_wrong" })
		if _, err := wrong.Get(t.Context(), two.Session.SessionID); err == nil || strings.Contains(err.Error(), "sk_wrong") {
			t.Errorf("a wrong API key: %v", err)
		}
		s, err := wrong.Verify(t.Context(), two.SessionToken)
		wantErr(t, "a wrong API key logs nobody out", s, err, client.ErrStale)
	})
}

// TestOtherNode: when one node does not answer, the next is asked, and goes on to be.
func TestOtherNode(t *testing.T) {
	bubble(t, 2, func(t *testing.T, w *world) {
		c := w.client(func(c *client.Client) { c.Base = " http://n1/ , http://n2" })
		client.SetClock(c, w.clock())
		made := login(t, c, "ada")
		w.nodes[0].end()
		for range 3 {
			if _, err := c.Verify(t.Context(), made.SessionToken); err != nil {
				t.Errorf("with one node down: %v", err)
			}
		}
		w.nodes[0].start()
		w.nodes[1].end()
		if _, err := c.Verify(t.Context(), made.SessionToken); err != nil {
			t.Errorf("with the other down: %v", err)
		}
	})
}

// TestProof: a session that is bound to a key is not let in by its JWT alone.
func TestProof(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world) {
		c := w.client()
		client.SetClock(c, w.clock())
		made, err := c.Create(t.Context(), &api.CreateSession{UserID: "ada", Bind: &api.Bind{DPoPJKT: strings.Repeat("A", 43)}})
		if err != nil {
			t.Fatal(err)
		}
		for name, credential := range map[string]string{"token": made.SessionToken, "JWT": made.SessionJWT} {
			s, err := c.Verify(t.Context(), credential)
			wantErr(t, name, s, err, client.ErrProof)
			s, err = c.VerifyWith(t.Context(), credential, client.Options{Proof: &api.DPoPProof{Proof: "x.y.z", Method: "GET", URL: "https://shop.example/"}})
			wantErr(t, name+", a proof that is none", s, err, client.ErrProof)
		}
	})
}

// TestSecrets: neither an error nor a session shows a token, a JWT or the API key,
// however it is printed.
func TestSecrets(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world) {
		c := w.client()
		client.SetClock(c, w.clock())
		made := login(t, c, "ada")
		s, err := c.Verify(t.Context(), made.SessionToken)
		if err != nil {
			t.Fatal(err)
		}
		w.nodes[0].end()
		_, errDown := c.Verify(t.Context(), made.SessionToken)
		_, errList := c.List(t.Context(), "ada@example.com", client.ListOptions{})
		if errDown == nil || errList == nil {
			t.Fatal("a node that is down answers")
		}
		var logged bytes.Buffer
		slog.New(slog.NewTextHandler(&logged, nil)).Info("text", "client", c, "session", s)
		slog.New(slog.NewJSONHandler(&logged, nil)).Info("JSON", "client", c, "session", s)
		shown := fmt.Sprintf("%v %+v %#v %s %v %v", s, s, s, s, errDown, errList) +
			fmt.Sprintf("%v %+v %#v", c, c, c) + logged.String()
		for _, secret := range []string{made.SessionToken, s.JWT, w.access.APIKey, "ada@example.com"} {
			if strings.Contains(shown, secret) {
				t.Errorf("%q shows a secret", shown)
			}
		}
	})
}

// TestTemplate: a JWT for another audience, which the API does not take, is judged
// here like any other; whoever holds it is not logged out when it cannot be.
func TestTemplate(t *testing.T) {
	bubble(t, 2, func(t *testing.T, w *world) {
		c, clock := w.following(func(c *client.Client) { c.Audience, c.OnStale = "https://partner.example", client.Ask })
		stop := w.ready(c)
		made := login(t, c, "ada")
		w.must(w.nodes[0], w.admin, "PUT", "/v1/apps/acme/templates/partner", m{"audience": "https://partner.example", "jwt_profile": "stytch"}, nil)
		var minted api.MintAnswer
		w.must(w.nodes[0], w.access.APIKey, "POST", "/v1/sessions/"+made.Session.SessionID+"/tokens", m{"template": "partner"}, &minted)
		w.local("with a lease", c, minted.SessionJWT)
		s, err := c.Verify(t.Context(), made.SessionJWT)
		wantErr(t, "a JWT of the app's own", s, err, client.ErrInvalid)
		// So none is handed out: who took it would be logged out by it.
		c.JWTHeader = "X-Session-Jwt"
		if s, err := c.Verify(t.Context(), made.SessionToken); err != nil || s.JWT != "" || s.User != "ada" {
			t.Errorf("a token: %v, %v", s, err)
		}
		if r := get(c.Require(who), "Authorization", "Bearer "+made.SessionToken); r.Code != 200 || len(r.Header()["X-Session-Jwt"]) > 0 {
			t.Errorf("a token: %d %v", r.Code, r.Header())
		}
		asked := w.nodes[0].asked("/v1/sessions/authenticate")
		stop()
		clock.move(time.Minute, 0)
		s, err = c.Verify(t.Context(), minted.SessionJWT)
		wantErr(t, "without a lease", s, err, client.ErrStale)
		time.Sleep(6 * time.Minute)
		s, err = c.Verify(t.Context(), minted.SessionJWT)
		wantErr(t, "expired", s, err, client.ErrExpired)
		if n := w.nodes[0].asked("/v1/sessions/authenticate") - asked; n != 0 {
			t.Errorf("the API was asked %d times", n)
		}
		w.ready(c)
		w.must(w.nodes[0], w.access.APIKey, "POST", "/v1/sessions/"+made.Session.SessionID+"/tokens", m{"template": "partner"}, &minted)
		w.await("again with a lease", func() bool { _, err := c.Verify(t.Context(), minted.SessionJWT); return err == nil })
		w.revokes(w.nodes[1], api.Revoke{SessionID: made.Session.SessionID})
		w.refuses("revoked", c, minted.SessionJWT, client.ErrRevoked)
	})
}

// TestKeyOfAnotherApp: with the key of another app nothing is followed. The feed would
// tell of that app's revocations, and JWTs that are revoked would be let in.
func TestKeyOfAnotherApp(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world) {
		var key struct {
			Secret string `json:"api_key"`
		}
		w.must(w.nodes[0], w.admin, "POST", "/v1/apps", m{"app_id": "shop"}, nil)
		w.must(w.nodes[0], w.admin, "POST", "/v1/apps/shop/api-keys", m{}, &key)
		shop := w.client(func(c *client.Client) { c.App, c.APIKey = "shop", key.Secret })
		made := login(t, shop, "ada")
		mixed := w.client(func(c *client.Client) { c.App = "shop" })
		stop := w.run(mixed)
		defer stop()
		w.await("the feed is refused", func() bool { return mixed.Status().Err != nil })
		if _, err := shop.Revoke(t.Context(), &api.Revoke{SessionID: made.Session.SessionID}); err != nil {
			t.Fatal(err)
		}
		s, err := mixed.Verify(t.Context(), made.SessionJWT)
		wantErr(t, "a JWT that is revoked", s, err, client.ErrStale)
		if s := mixed.Status(); s.Node != "" || len(s.Leases) != 0 {
			t.Errorf("it follows: %+v", s)
		}
	})
}

// TestStatus: it says whose feed is followed, for how long JWTs are judged here, and
// why it was lost; and the log is told as much, without a secret.
func TestStatus(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world) {
		var told bytes.Buffer
		c, _ := w.following(func(c *client.Client) { c.Log = slog.New(slog.NewTextHandler(&told, nil)) })
		if s := c.Status(); s.Node != "" || len(s.Leases) != 0 || s.Err != nil {
			t.Errorf("before it runs: %+v", s)
		}
		stop := w.ready(c)
		if s := c.Status(); s.Node != "n1" || s.Leases[2] <= 10*time.Second || s.Leases[2] > 15*time.Second || s.Err != nil {
			t.Errorf("while it follows: %+v", s)
		}
		w.nodes[0].cut()
		w.await("it was lost", func() bool { return c.Status().Err != nil })
		w.await("it is found", func() bool { return c.Status().Node == "n1" })
		stop()
		if text := told.String(); !strings.Contains(text, "lost the feed") || !strings.Contains(text, "follows the feed") || strings.Contains(text, "sk_") {
			t.Errorf("the log: %s", text)
		}
		if s := c.Status(); s.Node != "" {
			t.Errorf("after it ran: %+v", s)
		}
	})
}
