package compat

import (
	"bufio"
	"net/http"
	"strings"
	"testing"
	"time"
)

var clerkRows = []capability{
	{id: "C1", text: "a session has id, user, creation, expiry and status", check: func(t *testing.T, w *world) {
		s := w.login(t, w.clerk, nil)
		r := w.clerk.do(t, "GET", "/v1/sessions/"+s.Session.SessionID, nil).want(t, 200)
		got := r.Session
		if got.SessionID == "" || got.UserID != "ada" || got.StartedAt.IsZero() || !got.ExpiresAt.After(got.StartedAt) || got.Status != "active" {
			t.Errorf("%s", r.raw)
		}
		theirs := w.clerk.do(t, "GET", "/clerk/v1/sessions/"+s.Session.SessionID, nil).want(t, 200)
		for _, name := range []string{"id", "user_id", "created_at", "expire_at", "status"} {
			if theirs.at(name) == nil {
				t.Errorf("no %s in %s", name, theirs.raw)
			}
		}
	}},
	{id: "C2", text: "sessions are in durable storage: kill -9 and start again", at: after, check: func(t *testing.T, w *world) {
		w.clerk.verify(t, w.lasting.SessionToken).want(t, http.StatusNoContent)
	}},
	{id: "C3", text: "the cookie is sent by itself and looked up", check: func(t *testing.T, w *world) {
		cookie, _, _ := strings.Cut(w.cookie(t), ";")
		w.anonymous(t, "GET", "/v1/verify", "Cookie", cookie).want(t, http.StatusNoContent)
	}},
	{id: "C4", text: "easily invalidated; later requests are denied", check: func(t *testing.T, w *world) {
		s := w.login(t, w.clerk, nil)
		w.clerk.do(t, "POST", "/clerk/v1/sessions/"+s.Session.SessionID+"/revoke", nil).want(t, 200)
		for _, credential := range []string{s.SessionToken, s.SessionJWT} {
			w.clerk.verify(t, credential).want(t, http.StatusUnauthorized)
		}
	}},
	{id: "C5", text: "near, in every region: verified with the home region cut off", shown: "deploy/fleet TestRegionsCutOff; latency: deploy/PERFORMANCE.md"},
	{id: "C6", text: "a JWT's tampering is detected", check: func(t *testing.T, w *world) {
		jwt := w.login(t, w.clerk, nil).SessionJWT
		w.clerk.verify(t, jwt).want(t, http.StatusNoContent)
		for i := range jwt {
			changed := []byte(jwt)
			if changed[i] ^= 1; changed[i] == jwt[i] {
				continue
			}
			if changed[i] <= ' ' || changed[i] > '~' {
				continue // no header carries it
			}
			if r := w.clerk.verify(t, string(changed)); r.status != http.StatusUnauthorized {
				t.Fatalf("byte %d of %d changed: %d", i, len(jwt), r.status)
			}
		}
	}},
	{id: "C7", text: "JWTs of 60 s", check: func(t *testing.T, w *world) {
		jwt := w.login(t, w.clerk, nil).SessionJWT
		if life := seconds(t, jwt, "exp").Sub(seconds(t, jwt, "iat")); life != time.Minute {
			t.Errorf("%v", life)
		}
	}},
	{id: "C8", text: "JWTs are minted by session id", check: func(t *testing.T, w *world) {
		s := w.login(t, w.clerk, nil)
		r := w.clerk.do(t, "POST", "/clerk/v1/sessions/"+s.Session.SessionID+"/tokens", object{}).want(t, 200)
		jwt, _ := r.at("jwt").(string)
		claims, err := verifies(w.keys["clerk"], jwt)
		if err != nil || claims["sid"] != s.Session.SessionID || claims["sub"] != "ada" {
			t.Errorf("%v, %v", claims, err)
		}
	}},
	{id: "C9", text: "a session that was revoked or has expired mints nothing", at: inAMinute, check: func(t *testing.T, w *world) {
		s := w.login(t, w.clerk, nil)
		w.clerk.do(t, "DELETE", "/v1/sessions/"+s.Session.SessionID, nil).want(t, 200)
		for name, sid := range map[string]string{"revoked": s.Session.SessionID, "expired": w.clerkMinute.Session.SessionID} {
			for _, prefix := range []string{"", "/clerk"} {
				if r := w.clerk.do(t, "POST", prefix+"/v1/sessions/"+sid+"/tokens", object{}); r.status < 400 || r.status > 499 {
					t.Errorf("%s, %s: %d %s", name, prefix, r.status, r.raw)
				}
			}
		}
	}},
	{id: "C10", text: "session identifier and JWT at sign-in", check: func(t *testing.T, w *world) {
		if s := w.login(t, w.clerk, nil); s.SessionToken == "" || s.Session.SessionID == "" || s.SessionJWT == "" {
			t.Errorf("%s", s.raw)
		}
	}},
	{id: "C11", text: "the JWT authenticates each request locally", at: withNobody, shown: "TestClerkNode, TestClerkGo (their SDKs)", check: func(t *testing.T, w *world) {
		if _, err := verifies(w.keys["clerk"], w.jwts["clerk"]); err != nil {
			t.Error(err)
		}
	}},
	{id: "C12", text: "renewal in the background, without the user", shown: "TestBrowserModule (in Chromium)", check: func(t *testing.T, w *world) {
		cookie, _, _ := strings.Cut(w.cookie(t), ";")
		r := w.anonymous(t, "POST", "/v1/client/refresh", "Cookie", cookie, "Sec-Fetch-Site", "same-origin", "X-Session-Background", "1").want(t, 200)
		after, _ := r.at("refresh_after").(float64)
		life, _ := r.at("expires_in").(float64)
		if _, err := verifies(w.keys["plain"], r.SessionJWT); err != nil || after <= 0 || after >= life {
			t.Errorf("%v: %s", err, r.raw)
		}
	}},
	{id: "C13", text: "a revoked session signs the page out", shown: "TestBrowserModule (in Chromium)", check: func(t *testing.T, w *world) {
		s := w.login(t, w.plain, nil)
		page := w.listen(t, s.SessionToken)
		page.await(t, "hello", time.Second)
		w.plain.do(t, "DELETE", "/v1/sessions/"+s.Session.SessionID, nil).want(t, 200)
		page.await(t, "session.revoked", time.Second)
		r := w.anonymous(t, "POST", "/v1/client/refresh", "Authorization", "Bearer "+s.SessionToken).want(t, http.StatusUnauthorized)
		if r.ErrorDetails["reason"] != "revoked" {
			t.Errorf("%s", r.raw)
		}
	}},
	{id: "C14", text: "no JWT lives long: a life above an hour is refused", check: func(t *testing.T, w *world) {
		w.n.admin().do(t, "POST", "/v1/apps", object{"app_id": "long-lived", "jwt_ttl_seconds": 3601}).want(t, 400)
		s := w.login(t, w.clerk, nil)
		if r := w.clerk.do(t, "POST", "/v1/sessions/"+s.Session.SessionID+"/tokens", object{"ttl_seconds": 3601}); r.status != 400 {
			t.Errorf("minted: %d", r.status)
		}
	}},
	{id: "C15", text: "the session's life and the JWT's are two settings", check: func(t *testing.T, w *world) {
		s := w.login(t, w.clerk, object{"session_duration_minutes": 7 * 24 * 60})
		life := seconds(t, s.SessionJWT, "exp").Sub(seconds(t, s.SessionJWT, "iat"))
		if life != time.Minute || s.Session.ExpiresAt.Sub(s.Session.StartedAt) != 7*24*time.Hour {
			t.Errorf("JWT %v, session %v", life, s.Session.ExpiresAt.Sub(s.Session.StartedAt))
		}
	}},
}

// pageEvents is the event stream of a page.
type pageEvents struct {
	lines chan string
}

// listen opens the event stream of the session.
func (w *world) listen(t *testing.T, token string) *pageEvents {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), "GET", w.n.base+"/v1/client/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+token)
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = answer.Body.Close() })
	p := &pageEvents{lines: make(chan string, 64)}
	go func() {
		defer close(p.lines)
		for s := bufio.NewScanner(answer.Body); s.Scan(); {
			p.lines <- s.Text()
		}
	}()
	return p
}

// await waits for an event.
func (p *pageEvents) await(t *testing.T, event string, within time.Duration) {
	t.Helper()
	late := time.After(within)
	for {
		select {
		case line, ok := <-p.lines:
			if line == "event: "+event {
				return
			}
			if !ok {
				t.Fatalf("the stream ended before %s", event)
			}
		case <-late:
			t.Fatalf("no %s within %v", event, within)
		}
	}
}

// cookie is what a backend is given to set in the browser at log-in.
func (w *world) cookie(t *testing.T) string {
	t.Helper()
	s := w.login(t, w.plain, object{"set_cookie": true})
	cookie, _ := s.at("set_cookie").(string)
	if !strings.Contains(cookie, s.SessionToken) {
		t.Fatalf("no cookie in %s", s.raw)
	}
	return cookie
}
