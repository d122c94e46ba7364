package client_test

import (
	"errors"
	"net/http"
	"testing"
	"time"

	"github.com/revocast/revocast/node/api"
	"github.com/revocast/revocast/node/client"
	"github.com/revocast/revocast/signer"
)

// following returns a client that follows the feed of the first node, with the
// world's clock, and the policy Refuse: what it says it says without the API.
func (w *world) following(changes ...func(*client.Client)) (*client.Client, *testClock) {
	clock := w.clock()
	c := w.client(func(c *client.Client) { c.OnStale = client.Refuse })
	for _, change := range changes {
		change(c)
	}
	client.SetClock(c, clock)
	return c, clock
}

type m map[string]any

// kid returns the key id of a JWT.
func kid(t testing.TB, jwt string) string {
	t.Helper()
	id, _, _, err := signer.PeekForeign(jwt)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// revokes ends sessions through the node, as another service would.
func (w *world) revokes(p *peer, r api.Revoke) {
	w.t.Helper()
	w.must(p, w.access.APIKey, "POST", "/v1/sessions/revoke", r, nil)
}

// refuses waits until the JWT is refused for that reason, and returns how long it took.
func (w *world) refuses(name string, c *client.Client, jwt string, want error) time.Duration {
	w.t.Helper()
	began := time.Now()
	w.await(name, func() bool {
		_, err := c.Verify(w.t.Context(), jwt)
		if err != nil && !errors.Is(err, want) {
			w.t.Fatalf("%s: %v, want %v", name, err, want)
		}
		return err != nil
	})
	return time.Since(began)
}

// local fails the test unless the JWT is good by what the client itself knows.
func (w *world) local(name string, c *client.Client, jwt string) {
	w.t.Helper()
	s, err := c.Verify(w.t.Context(), jwt)
	if err != nil || s.Detail != nil || s.Stale || s.Staleness > 15*time.Second {
		w.t.Fatalf("%s: %v, %v", name, s, err)
	}
}

// TestFollow: what is revoked on another node is refused here in a moment, in each
// of the ways in which it can be, and nothing else is.
func TestFollow(t *testing.T) {
	bubble(t, 2, func(t *testing.T, w *world) {
		c, _ := w.following()
		w.ready(c)
		made := map[string]*api.SessionAnswer{}
		for _, name := range []string{"by id", "by token", "by JWT", "by user", "spared", "other", "by app"} {
			user := "ada"
			if name == "other" || name == "by app" {
				user = name
			}
			made[name] = login(t, c, user)
			w.local(name, c, made[name].SessionJWT)
		}
		check := func(name string, r api.Revoke) {
			t.Helper()
			w.revokes(w.nodes[1], r)
			if took := w.refuses(name, c, made[name].SessionJWT, client.ErrRevoked); took > 100*time.Millisecond {
				t.Errorf("%s: refused after %v", name, took)
			}
		}
		check("by id", api.Revoke{SessionID: made["by id"].Session.SessionID})
		check("by token", api.Revoke{SessionToken: made["by token"].SessionToken})
		check("by JWT", api.Revoke{SessionJWT: made["by JWT"].SessionJWT})
		time.Sleep(2 * time.Minute) // so that the JWTs are clearly older than the log-out
		check("by user", api.Revoke{UserID: "ada", ExceptSessionID: made["spared"].Session.SessionID})
		for _, name := range []string{"spared", "other", "by app"} {
			w.local(name, c, made[name].SessionJWT)
		}
		check("by app", api.Revoke{All: true})
		w.refuses("other", c, made["other"].SessionJWT, client.ErrRevoked)
	})
}

// TestLogInAgain: who logs in again right after a log-out everywhere is let in; only
// a node can tell that session from an older one, so it is asked, once.
func TestLogInAgain(t *testing.T) {
	bubble(t, 2, func(t *testing.T, w *world) {
		c, _ := w.following()
		w.ready(c)
		old := login(t, c, "ada")
		w.local("before", c, old.SessionJWT)
		w.revokes(w.nodes[1], api.Revoke{UserID: "ada"})
		again := login(t, c, "ada")
		asked := w.nodes[0].asked("/v1/sessions/authenticate")
		w.refuses("the old session", c, old.SessionJWT, client.ErrRevoked)
		if n := w.nodes[0].asked("/v1/sessions/authenticate") - asked; n != 1 {
			t.Errorf("the API was asked %d times about the old session, want once", n)
		}
		for i := range 3 {
			s, err := c.Verify(t.Context(), again.SessionJWT)
			if err != nil || (s.Detail != nil) != (i == 0) {
				t.Errorf("the new session, %d: %v %v", i, s, err)
			}
		}
		if n := w.nodes[0].asked("/v1/sessions/authenticate") - asked; n != 2 {
			t.Errorf("the API was asked %d times, want twice", n)
		}
		// Without an answer nothing is said, whatever the policy.
		w.revokes(w.nodes[1], api.Revoke{UserID: "ada"})
		third := login(t, c, "ada")
		w.nodes[0].fails("/v1/sessions/authenticate", http.StatusServiceUnavailable)
		w.refuses("without an answer", c, third.SessionJWT, client.ErrStale)
		time.Sleep(2 * time.Minute)
		later := login(t, c, "ada")
		w.local("long after", c, later.SessionJWT)
	})
}

// TestApp: an app that is suspended is refused at once, and let in again when it is
// resumed; a key that was stolen counts for nothing from the moment it is known.
func TestApp(t *testing.T) {
	bubble(t, 2, func(t *testing.T, w *world) {
		c, _ := w.following()
		w.ready(c)
		made := login(t, c, "ada")
		w.local("before", c, made.SessionJWT)
		w.must(w.nodes[1], w.admin, "POST", "/v1/apps/acme/suspend", nil, nil)
		w.refuses("suspended", c, made.SessionJWT, client.ErrSuspended)
		w.must(w.nodes[1], w.admin, "POST", "/v1/apps/acme/resume", nil, nil)
		w.await("let in again", func() bool { _, err := c.Verify(t.Context(), made.SessionJWT); return err == nil })
		w.must(w.nodes[1], w.admin, "POST", "/v1/apps/acme/keys/rotate", m{"compromised": kid(t, made.SessionJWT)}, nil)
		w.refuses("its key was stolen", c, made.SessionJWT, client.ErrInvalid)
		fresh := login(t, c, "ada")
		w.await("the next key", func() bool { _, err := c.Verify(t.Context(), fresh.SessionJWT); return err == nil })
		w.refuses("its key was stolen", c, made.SessionJWT, client.ErrInvalid)
	})
}

// TestStart: a client that starts late knows what was revoked before; and before it
// knows, it says nothing good.
func TestStart(t *testing.T) {
	bubble(t, 2, func(t *testing.T, w *world) {
		maker := w.client()
		gone, user, good := login(t, maker, "ada"), login(t, maker, "eve"), login(t, maker, "bob")
		time.Sleep(2 * time.Minute)
		w.revokes(w.nodes[1], api.Revoke{SessionID: gone.Session.SessionID})
		w.revokes(w.nodes[1], api.Revoke{UserID: "eve"})
		time.Sleep(time.Second)

		c, _ := w.following()
		s, err := c.Verify(t.Context(), good.SessionJWT)
		wantErr(t, "before it runs", s, err, client.ErrStale)
		for _, path := range []string{"/v1/revocations", "/v1/events", "/v1/events/ping"} {
			w.nodes[0].fails(path, http.StatusServiceUnavailable)
		}
		w.run(c)
		for _, path := range []string{"/v1/revocations", "/v1/events", "/v1/events/ping"} {
			time.Sleep(20 * time.Second)
			s, err := c.Verify(t.Context(), good.SessionJWT)
			wantErr(t, "while "+path+" fails", s, err, client.ErrStale)
			w.nodes[0].fails(path, -1)
		}
		<-c.Ready()
		w.local("when it is ready", c, good.SessionJWT)
		w.refuses("a session revoked before", c, gone.SessionJWT, client.ErrRevoked)
		w.refuses("a user logged out before", c, user.SessionJWT, client.ErrRevoked)
	})
}

// TestBlackHole: a feed through which nothing comes any more, and which nobody has
// closed, is noticed: no JWT is let in for longer than the lease, and it is made anew.
func TestBlackHole(t *testing.T) {
	for _, lease := range []time.Duration{client.DefaultLease, 6 * time.Second} {
		bubble(t, 2, func(t *testing.T, w *world) {
			c, _ := w.following(func(c *client.Client) { c.Lease = lease })
			w.ready(c)
			made := login(t, c, "ada")
			for range 100 { // for as long as the feed works, the lease is held
				time.Sleep(300 * time.Millisecond)
				w.local("with the feed", c, made.SessionJWT)
			}
			w.nodes[0].freeze()
			began := time.Now()
			w.revokes(w.nodes[1], api.Revoke{SessionID: made.Session.SessionID})
			took := w.refuses("the feed is silent", c, made.SessionJWT, client.ErrStale)
			if took > lease || took < lease/4 {
				t.Errorf("lease %v: refused %v after nothing came any more", lease, took)
			}
			time.Sleep(time.Minute)
			s, err := c.Verify(t.Context(), made.SessionJWT)
			wantErr(t, "a minute later", s, err, client.ErrStale)
			w.nodes[0].thaw()
			w.refuses("after the feed was made anew", c, made.SessionJWT, client.ErrStale)
			w.await("it is known what was missed", func() bool {
				_, err := c.Verify(t.Context(), made.SessionJWT)
				return errors.Is(err, client.ErrRevoked)
			})
			fresh := login(t, c, "ada")
			w.local("with a new feed", c, fresh.SessionJWT)
			t.Logf("lease %v: refused after %v, known again %v after it began", lease, took, time.Since(began))
		})
	}
}

// TestSuspend: a machine that slept wakes without a lease, however the wall clock
// and Go's own stood still meanwhile.
func TestSuspend(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world) {
		c, clock := w.following()
		w.ready(c)
		made := login(t, c, "ada")
		w.local("before", c, made.SessionJWT)
		clock.move(time.Minute, 0)
		s, err := c.Verify(t.Context(), made.SessionJWT)
		wantErr(t, "on waking", s, err, client.ErrStale)
		time.Sleep(10 * time.Second)
		w.local("awake", c, login(t, c, "ada").SessionJWT)
	})
}

// TestClockBack: a wall clock that is set back lets no JWT live on: that of the node
// counts as well, and the session is asked about as that of any JWT that has expired.
func TestClockBack(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world) {
		c, clock := w.following()
		w.ready(c)
		made := login(t, c, "ada")
		time.Sleep(4 * time.Minute)
		w.local("before it expires", c, made.SessionJWT)
		clock.move(0, -time.Hour)
		w.local("with the clock set back", c, made.SessionJWT)
		time.Sleep(time.Minute)
		s, err := c.Verify(t.Context(), made.SessionJWT)
		if err != nil || s.Detail == nil {
			t.Errorf("after it has expired, with the clock set back: %v, %v", s, err)
		}
	})
}

// TestRestart: nodes that end and begin again lose nothing of the feed, whether its
// connection is closed or the other node goes on with it.
func TestRestart(t *testing.T) {
	bubble(t, 2, func(t *testing.T, w *world) {
		c, _ := w.following(func(c *client.Client) { c.Base = "http://n1,http://n2"; c.Lease = 6 * time.Second })
		w.ready(c)
		maker := w.client(func(c *client.Client) { c.Base = "http://n2,http://n1" })
		for round := range 4 {
			down := w.nodes[round%2]
			up := w.nodes[1-round%2]
			before := login(t, maker, "ada")
			w.await("it is let in", func() bool { _, err := c.Verify(t.Context(), before.SessionJWT); return err == nil })
			down.end()
			w.revokes(up, api.Revoke{SessionID: before.Session.SessionID})
			w.await("it is refused", func() bool {
				_, err := c.Verify(t.Context(), before.SessionJWT)
				return errors.Is(err, client.ErrRevoked)
			})
			after := login(t, maker, "ada")
			w.await("the other node's feed is followed", func() bool {
				_, err := c.Verify(t.Context(), after.SessionJWT)
				if err != nil && !errors.Is(err, client.ErrStale) {
					t.Fatal(err)
				}
				return err == nil
			})
			down.start()
			time.Sleep(20 * time.Second)
		}
	})
}
