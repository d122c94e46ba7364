package node_test

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node"
	"github.com/revocast/revocast/node/outbound"
)

// legacy is another system that knows tokens. In a bubble it is reached without a
// network.
type legacy struct {
	asked atomic.Int64

	mu      sync.Mutex // guards the fields below
	secret  []byte
	known   map[string]any // by token: the row, or a status
	takes   time.Duration
	refused []string // why questions were no good
}

func (l *legacy) set(change func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	change()
}

func (l *legacy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	l.asked.Add(1)
	body, _ := io.ReadAll(r.Body)
	l.mu.Lock()
	defer l.mu.Unlock()
	mac := hmac.New(sha256.New, l.secret)
	mac.Write([]byte(r.Header.Get("Webhook-Id") + "." + r.Header.Get("Webhook-Timestamp") + "." + string(body)))
	if got, want := r.Header.Get("Webhook-Signature"), "v1,"+base64.StdEncoding.EncodeToString(mac.Sum(nil)); got != want {
		l.refused = append(l.refused, fmt.Sprintf("signature %q, want %q", got, want))
	}
	var in struct {
		Token string `json:"token"`
		AppID string `json:"app_id"`
	}
	if err := json.Unmarshal(body, &in); err != nil || in.AppID != "acme" || r.Method != "POST" {
		l.refused = append(l.refused, fmt.Sprintf("%s %s: %v", r.Method, body, err))
	}
	if l.takes > 0 {
		time.Sleep(l.takes)
	}
	switch answer := l.known[in.Token].(type) {
	case nil:
		w.WriteHeader(http.StatusNotFound)
	case int:
		w.WriteHeader(answer)
	case string:
		_, _ = io.WriteString(w, answer)
	default:
		_ = json.NewEncoder(w).Encode(answer)
	}
}

// Check and Do make a legacy an Outbound of its own.
func (l *legacy) Check(text string) error {
	if !strings.HasPrefix(text, "https://") {
		return errors.New("want https")
	}
	return nil
}

func (l *legacy) Do(ctx context.Context, r *http.Request, limit int64) (*outbound.Answer, error) {
	done := make(chan *httptest.ResponseRecorder, 1)
	go func() {
		w := httptest.NewRecorder()
		l.ServeHTTP(w, r)
		done <- w
	}()
	select {
	case w := <-done:
		if int64(w.Body.Len()) > limit {
			return nil, errors.New("too long")
		}
		return &outbound.Answer{Status: w.Code, Header: w.Header(), Body: w.Body.Bytes()}, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

const legacySecret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

func (l *legacy) row(user string) m {
	return m{"user_id": user, "started_at": time.Now().Add(-time.Hour), "expires_at": time.Now().Add(24 * time.Hour)}
}

// asking runs the test with a node that asks a legacy.
func asking(t *testing.T, test func(t *testing.T, h *harness, l *legacy)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		l := &legacy{known: map[string]any{}}
		l.secret, _ = base64.StdEncoding.DecodeString(strings.TrimPrefix(legacySecret, "whsec_"))
		h := newHarness(t, func(c *node.Config) { c.Outbound = l })
		h.do(h.key, "PUT", "/v1/apps/acme/lazy-import", m{"url": "https://old.example.com/ask", "secret": legacySecret, "timeout_ms": 1000}).want(http.StatusOK)
		test(t, h, l)
		l.set(func() {
			for _, why := range l.refused {
				t.Error(why)
			}
		})
	})
}

func TestLazyImport(t *testing.T) {
	asking(t, func(t *testing.T, h *harness, l *legacy) {
		tokens := map[string]string{}
		for name, token := range foreignForms {
			l.set(func() { l.known[token] = l.row("user of " + name) })
			tokens[name] = token
		}
		for name, token := range tokens {
			before := l.asked.Load()
			a := h.auth(m{"session_token": token}).want(http.StatusOK)
			if a.str("session.user_id") != "user of "+name || a.str("session_token") != token {
				t.Errorf("%s: %s", name, a.Raw)
			}
			h.verifyIn("acme", token).want(http.StatusNoContent)
			h.verify(a.str("session_jwt")).want(http.StatusNoContent)
			if got := l.asked.Load() - before; got != 1 {
				t.Errorf("%s: asked %d times", name, got)
			}
		}
		// By a verify alone, and revoked by who was never seen here.
		l.set(func() { l.known["by verify"], l.known["logged out"] = l.row("ada"), l.row("ada") })
		h.verifyIn("acme", "by verify").want(http.StatusNoContent)
		if r := h.do(h.key, "POST", "/v1/sessions/revoke", m{"session_token": "logged out"}).want(http.StatusOK); r.at("revoked") != 1.0 {
			t.Errorf("revoked %v", r.at("revoked"))
		}
		before := l.asked.Load()
		for range 3 {
			h.verifyIn("acme", "logged out").wantRefused("revoked")
		}
		time.Sleep(time.Minute)
		h.auth(m{"session_token": "logged out"}).wantEnded("revoked")
		if l.asked.Load() != before {
			t.Error("asked about a token whose session was revoked here")
		}
	})
}

// What the other system does not know is not known, and it is not asked again at
// once. Native tokens and JWTs it is never asked about.
func TestLazyImportOfNothing(t *testing.T) {
	asking(t, func(t *testing.T, h *harness, l *legacy) {
		l.set(func() {
			l.known["gone"], l.known["over"] = 204, m{"user_id": "ada", "expires_at": "1999-01-01T00:00:00Z"}
		})
		for _, token := range []string{"unheard of", "gone", "over"} {
			for range 3 {
				h.auth(m{"session_token": token}).wantEnded("unknown")
				h.verifyIn("acme", token).wantRefused("unknown")
			}
		}
		if got := l.asked.Load(); got != 3 {
			t.Errorf("asked %d times, want 3", got)
		}
		l.set(func() { l.known["unheard of"] = l.row("ada") })
		h.verifyIn("acme", "unheard of").wantRefused("unknown")
		time.Sleep(11 * time.Second)
		h.verifyIn("acme", "unheard of").want(http.StatusNoContent)

		before := l.asked.Load()
		login := h.login("ada")
		jwt := login.str("session_jwt")
		h.verifyIn("acme", jwt).want(http.StatusNoContent)
		h.verifyIn("acme", jwt[:len(jwt)-4]+"AAAA").want(http.StatusUnauthorized)
		h.auth(m{"session_jwt": "no jwt"}).wantEnded("unknown")
		h.verify("without an app").want(http.StatusUnauthorized)
		h.verifyIn("acme", "not\xffutf8").want(http.StatusUnauthorized)
		h.newApp("tenant", nil)
		h.verifyIn("tenant", "of another app").want(http.StatusUnauthorized)
		h.verifyIn("tenant", login.str("session_token")).wantRefused("unknown")
		// A token that is another app's here must not get to the system of this one.
		other := h.do(h.newApp("third", nil), "POST", "/v1/sessions", m{"user_id": "eve"}).want(http.StatusCreated).str("session_token")
		h.verifyIn("acme", other).wantRefused("unknown")
		if l.asked.Load() != before {
			t.Errorf("asked %d times", l.asked.Load()-before)
		}
	})
}

// A system that does not answer, or not as it should, logs nobody out.
func TestLazyImportFails(t *testing.T) {
	for name, answer := range map[string]any{
		"500": 500, "403": 403, "redirect": 302, "201": 201, "empty": 200, "no JSON": "hello", "no user": m{"expires_at": "2100-01-01T00:00:00Z"},
		"unknown field": m{"user_id": "ada", "usr": 1}, "another token": m{"user_id": "ada", "token": "other"}, "array": "[]",
		"reserved claim": m{"user_id": "ada", "session_custom_claims": m{"exp": 1}}, "long": strings.Repeat(" ", 20<<10),
	} {
		t.Run(name, func(t *testing.T) {
			asking(t, func(t *testing.T, h *harness, l *legacy) {
				l.set(func() { l.known["t"] = answer })
				before := h.stored()
				h.auth(m{"session_token": "t"}).wantError(http.StatusServiceUnavailable, "import_source_unavailable")
				v := h.verifyIn("acme", "t").want(http.StatusServiceUnavailable)
				if got := v.Header.Get("X-Session-Reason"); got != "import_source_unavailable" {
					t.Errorf("reason %q", got)
				}
				if h.stored() != before {
					t.Error("something was written")
				}
				l.set(func() { l.known["t"] = l.row("ada") })
				h.verifyIn("acme", "t").want(http.StatusNoContent)
			})
		})
	}
	t.Run("slow", func(t *testing.T) {
		asking(t, func(t *testing.T, h *harness, l *legacy) {
			l.set(func() { l.known["t"], l.takes = l.row("ada"), 3*time.Second })
			if took := timed(func() { h.verifyIn("acme", "t").want(http.StatusServiceUnavailable) }); took != time.Second {
				t.Errorf("answered after %v, want the time-out", took)
			}
			time.Sleep(5 * time.Second)
		})
	})
}

// Many who show one token at once are one question.
func TestLazyImportIsAskedOnce(t *testing.T) {
	asking(t, func(t *testing.T, h *harness, l *legacy) {
		l.set(func() { l.known["t"], l.takes = l.row("ada"), 500*time.Millisecond })
		var all sync.WaitGroup
		for range 50 {
			all.Go(func() { h.verifyIn("acme", "t").want(http.StatusNoContent) })
		}
		all.Wait()
		if got := l.asked.Load(); got != 1 {
			t.Errorf("asked %d times", got)
		}
	})
}

// Tokens that somebody makes up are asked about only so often; good sessions do
// not wait for that, and a system that fails is left alone for some seconds.
func TestLazyImportFlood(t *testing.T) {
	asking(t, func(t *testing.T, h *harness, l *legacy) {
		good := h.login("ada").str("session_token")
		l.set(func() { l.known["good"] = l.row("bob") })
		h.verifyIn("acme", "good").want(http.StatusNoContent)
		counts := map[int]int{}
		for i := range 1000 {
			counts[h.verifyIn("acme", fmt.Sprint("garbage ", i)).Status]++
		}
		if asked := l.asked.Load(); asked > 250 || counts[http.StatusServiceUnavailable] != 1001-int(asked) || counts[http.StatusUnauthorized] != int(asked)-1 {
			t.Errorf("asked %d times, answered %v", asked, counts)
		}
		for _, token := range []string{good, "good"} {
			if took := timed(func() { h.verifyIn("acme", token).want(http.StatusNoContent) }); took != 0 {
				t.Errorf("a good session took %v", took)
			}
		}
		time.Sleep(time.Minute)

		for i := range 20 {
			l.set(func() { l.known[fmt.Sprint("fails ", i)] = 500 })
		}
		before := l.asked.Load()
		for i := range 20 {
			h.verifyIn("acme", fmt.Sprint("fails ", i)).want(http.StatusServiceUnavailable)
		}
		if got := l.asked.Load() - before; got != 5 {
			t.Errorf("asked %d times while it failed, want 5", got)
		}
		time.Sleep(6 * time.Second)
		h.verifyIn("acme", "fails 1").want(http.StatusServiceUnavailable) // one to try
		h.verifyIn("acme", "fails 2").want(http.StatusServiceUnavailable)
		if got := l.asked.Load() - before; got != 6 {
			t.Errorf("asked %d times, want 6", got)
		}
		time.Sleep(6 * time.Second)
		l.set(func() { l.known["back"] = l.row("ada") })
		h.verifyIn("acme", "back").want(http.StatusNoContent)
		h.verifyIn("acme", "unheard of").wantRefused("unknown")
	})
}

// Who was logged out everywhere here stays so, whatever the other system says.
func TestLazyImportAfterLogOut(t *testing.T) {
	asking(t, func(t *testing.T, h *harness, l *legacy) {
		l.set(func() { l.known["old"], l.known["unsaid"] = l.row("ada"), m{"user_id": "ada"} })
		h.do(h.key, "POST", "/v1/sessions/revoke", m{"user_id": "ada"}).want(http.StatusOK)
		h.auth(m{"session_token": "old"}).wantEnded("revoked")
		h.verifyIn("acme", "unsaid").wantRefused("revoked")
		time.Sleep(2 * time.Minute)
		l.set(func() { l.known["new"] = m{"user_id": "ada", "started_at": time.Now()} })
		h.verifyIn("acme", "new").want(http.StatusNoContent)
	})
}

func TestLazyImportSetting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &legacy{known: map[string]any{}}
		h := newHarness(t, func(c *node.Config) { c.Outbound = l })
		const path = "/v1/apps/acme/lazy-import"
		h.do(h.key, "GET", path, nil).wantError(http.StatusNotFound, "not_found")
		h.do(h.key, "DELETE", path, nil).wantError(http.StatusNotFound, "not_found")
		for name, body := range map[string]m{
			"no URL": {}, "http": {"url": "http://x.example.com"}, "no URL at all": {"url": "nonsense"},
			"short secret": {"url": "https://x.example.com", "secret": "whsec_YWJj"}, "bare secret": {"url": "https://x.example.com", "secret": "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"},
			"fast": {"url": "https://x.example.com", "timeout_ms": 1}, "slow": {"url": "https://x.example.com", "timeout_ms": 60_000},
			"negative": {"url": "https://x.example.com", "timeout_ms": -5}, "typo": {"url": "https://x.example.com", "secrets": "x"},
		} {
			if h.do(h.key, "PUT", path, body).Status != http.StatusBadRequest {
				t.Errorf("%s was taken", name)
			}
		}
		h.do(h.key, "GET", path, nil).want(http.StatusNotFound)
		made := h.do(h.key, "PUT", path, m{"url": "https://x.example.com/a"}).want(http.StatusOK)
		secret := made.str("lazy_import.secret")
		if !strings.HasPrefix(secret, "whsec_") {
			t.Fatalf("made %s", made.Raw)
		}
		l.secret, _ = base64.StdEncoding.DecodeString(strings.TrimPrefix(secret, "whsec_"))
		again := h.do(h.key, "PUT", path, m{"url": "https://x.example.com/b", "timeout_ms": 500}).want(http.StatusOK)
		got := h.do(h.key, "GET", path, nil).want(http.StatusOK)
		if again.at("lazy_import.secret") != nil || got.at("lazy_import.secret") != nil || got.str("lazy_import.url") != "https://x.example.com/b" || got.at("lazy_import.timeout_ms") != 500.0 {
			t.Errorf("read %s", got.Raw)
		}
		h.verifyIn("acme", "t").wantRefused("unknown") // signed with the secret that it kept
		// Nothing of the secret is in a payload.
		err := h.config.History(t.Context(), []string{"ev._config.>"}, func(a events.Archived) bool {
			if strings.Contains(string(a.Payload), strings.TrimPrefix(secret, "whsec_")[:16]) {
				t.Errorf("the secret stands in %s", a.Payload)
			}
			return true
		})
		if err != nil {
			t.Fatal(err)
		}
		if got := h.do(h.key, "GET", "/v1/apps/acme", nil).str("app.import_region"); got != "eu" {
			t.Errorf("import_region %q", got)
		}
		asked := l.asked.Load()
		h.do(h.key, "DELETE", path, nil).want(http.StatusOK)
		h.verifyIn("acme", "another").wantRefused("unknown")
		if l.asked.Load() != asked || len(l.refused) > 0 {
			t.Errorf("asked %d times, %v", l.asked.Load()-asked, l.refused)
		}
	})
}

// Over a real connection, to where the operator allows and nowhere else.
func TestLazyImportOverHTTP(t *testing.T) {
	l := &legacy{known: map[string]any{}}
	l.secret, _ = base64.StdEncoding.DecodeString(strings.TrimPrefix(legacySecret, "whsec_"))
	server := httptest.NewServer(l)
	defer server.Close()
	h := newHarness(t, func(c *node.Config) { c.Outbound = outbound.New(netip.MustParsePrefix("127.0.0.1/32")) })
	h.do(h.key, "PUT", "/v1/apps/acme/lazy-import", m{"url": server.URL + "/ask", "secret": legacySecret}).want(http.StatusOK)
	l.set(func() { l.known["t"] = l.row("ada") })
	h.verifyIn("acme", "t").want(http.StatusNoContent)
	h.verifyIn("acme", "unheard of").wantRefused("unknown")
	for _, why := range l.refused {
		t.Error(why)
	}
	strict := newHarness(t)
	for _, url := range []string{server.URL, "https://127.0.0.1/", "https://169.254.169.254/latest", "https://[::1]/", "ftp://example.com/"} {
		strict.do(strict.key, "PUT", "/v1/apps/acme/lazy-import", m{"url": url}).wantError(http.StatusBadRequest, "invalid_argument")
	}
}
