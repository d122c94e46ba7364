package compat

import (
	"bytes"
	"context"
	"encoding/gob"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/alexedwards/scs/v2"

	"github.com/revocast/revocast/node/client/scsstore"
)

// scsstore imports nothing of scs, so this is where the two meet.
var (
	_ scs.Store            = (*scsstore.Store)(nil)
	_ scs.CtxStore         = (*scsstore.Store)(nil)
	_ scs.IterableStore    = (*scsstore.Store)(nil)
	_ scs.IterableCtxStore = (*scsstore.Store)(nil)
)

func scsStore(t *testing.T, app string) (*scsstore.Store, client) {
	t.Helper()
	c := storeApp(t, shared(t), app)
	return &scsstore.Store{URL: c.base, Key: c.key, UserKey: "userID"}, c
}

// TestSCSStore is the test that each store in the repository of scs has.
func TestSCSStore(t *testing.T) {
	s, _ := scsStore(t, "scs-store")
	s.UserKey = "" // the tests commit bytes that no codec made
	find := func(t *testing.T, token string) (string, bool) {
		t.Helper()
		b, found, err := s.Find(token)
		if err != nil {
			t.Fatalf("find %s: %v", token, err)
		}
		return string(b), found
	}
	commit := func(t *testing.T, token, data string, life time.Duration) {
		t.Helper()
		if err := s.Commit(token, []byte(data), time.Now().Add(life)); err != nil {
			t.Fatalf("commit %s: %v", token, err)
		}
	}
	t.Run("FindMissing", func(t *testing.T) {
		for _, token := range []string{"missing_session_token", "", "../../x", strings.Repeat("x", 5000)} {
			if b, found := find(t, token); found || b != "" {
				t.Errorf("found %q", b)
			}
		}
	})
	t.Run("SaveNew and Find", func(t *testing.T) {
		commit(t, "new", "encoded_data", time.Minute)
		if b, found := find(t, "new"); !found || b != "encoded_data" {
			t.Errorf("found %v %q", found, b)
		}
	})
	t.Run("SaveUpdated", func(t *testing.T) {
		commit(t, "updated", "encoded_data", time.Minute)
		commit(t, "updated", "new_encoded_data", time.Minute)
		if b, found := find(t, "updated"); !found || b != "new_encoded_data" {
			t.Errorf("found %v %q", found, b)
		}
	})
	t.Run("Expiry", func(t *testing.T) {
		commit(t, "expiry", "encoded_data", 300*time.Millisecond)
		if _, found := find(t, "expiry"); !found {
			t.Error("not found before")
		}
		time.Sleep(310 * time.Millisecond)
		if _, found := find(t, "expiry"); found {
			t.Error("found after")
		}
	})
	t.Run("expired already", func(t *testing.T) {
		commit(t, "past", "encoded_data", -time.Second)
		if _, found := find(t, "past"); found {
			t.Error("found")
		}
	})
	t.Run("Delete", func(t *testing.T) {
		commit(t, "deleted", "encoded_data", time.Minute)
		for range 2 {
			if err := s.Delete("deleted"); err != nil {
				t.Fatal(err)
			}
			if _, found := find(t, "deleted"); found {
				t.Error("found")
			}
		}
		if err := s.Delete("never there"); err != nil {
			t.Error(err)
		}
	})
	t.Run("Delete is for good", func(t *testing.T) {
		var ended []string
		s.Ended = func(_ context.Context, token string) { ended = append(ended, token) }
		commit(t, "deleted", "again", time.Minute)
		if _, found := find(t, "deleted"); found || !slices.Equal(ended, []string{"deleted"}) {
			t.Errorf("found %v, ended %v", found, ended)
		}
	})
	t.Run("All", func(t *testing.T) {
		want := map[string]string{"new": "encoded_data", "updated": "new_encoded_data"}
		for i := range 130 { // more than a page
			token := fmt.Sprint("all ", i)
			commit(t, token, token, time.Minute)
			want[token] = token
		}
		all, err := s.All()
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]string{}
		for token, b := range all {
			got[token] = string(b)
		}
		if !maps.Equal(got, want) {
			t.Errorf("all: %d sessions, want %d", len(got), len(want))
		}
		empty, _ := scsStore(t, "scs-empty")
		if all, err := empty.All(); err != nil || all == nil || len(all) != 0 {
			t.Errorf("of none: %v, %v", all, err)
		}
	})
	t.Run("data of any bytes", func(t *testing.T) {
		var every []byte
		for i := range 256 {
			every = append(every, byte(i))
		}
		commit(t, "bytes", string(every), time.Minute)
		if b, found := find(t, "bytes"); !found || b != string(every) {
			t.Errorf("found %v %q", found, b)
		}
		if err := s.Commit("large", bytes.Repeat([]byte{1}, 7000), time.Now().Add(time.Minute)); err == nil || !strings.Contains(err.Error(), "claims_too_large") {
			t.Errorf("too much data: %v", err)
		}
	})
	t.Run("context", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, _, err := s.FindCtx(ctx, "new"); !errors.Is(err, context.Canceled) {
			t.Errorf("find: %v", err)
		}
		if err := s.CommitCtx(ctx, "new", []byte("x"), time.Now().Add(time.Minute)); !errors.Is(err, context.Canceled) {
			t.Errorf("commit: %v", err)
		}
	})
}

// TestSCSTrouble: whatever is not a definite answer is an error, never "not found".
func TestSCSTrouble(t *testing.T) {
	s, c := scsStore(t, "scs-trouble")
	s.UserKey = ""
	if err := s.Commit("t", []byte("x"), time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	stale := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusServiceUnavailable)
		_, _ = io.WriteString(w, `{"status_code":503,"error_type":"node_stale","error_message":"x"}`)
	}))
	defer stale.Close()
	page := httptest.NewServer(http.NotFoundHandler())
	defer page.Close()
	for name, bad := range map[string]*scsstore.Store{
		"no node":           {URL: "http://127.0.0.1:1", Key: c.key},
		"a stale node":      {URL: stale.URL, Key: c.key},
		"a page":            {URL: page.URL, Key: c.key},
		"a wrong key":       {URL: c.base, Key: "sk_wrong"},
		"two, of which one": {URL: page.URL + "," + c.base, Key: c.key}, // 404 of a stranger is final, and an error
	} {
		if b, found, err := bad.Find("t"); err == nil || found || b != nil {
			t.Errorf("%s: found %v, %v", name, found, err)
		}
		if err := bad.Delete("t"); err == nil {
			t.Errorf("%s: deleted", name)
		}
	}
	next := &scsstore.Store{URL: "http://127.0.0.1:1, " + stale.URL + ", " + c.base + "/", Key: c.key}
	if b, found, err := next.Find("t"); err != nil || !found || string(b) != "x" {
		t.Errorf("the next node: %q, %v, %v", b, found, err)
	}
}

// scsApp is an application as the documentation of scs has it.
func scsApp(t *testing.T, s *scsstore.Store, change func(*scs.SessionManager)) (manager *scs.SessionManager, base string) {
	t.Helper()
	manager = scs.New()
	manager.Store = s
	manager.Lifetime = time.Minute
	manager.ErrorFunc = func(w http.ResponseWriter, _ *http.Request, err error) { http.Error(w, err.Error(), 500) }
	if change != nil {
		change(manager)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/put", func(_ http.ResponseWriter, r *http.Request) { manager.Put(r.Context(), "color", r.FormValue("v")) })
	mux.HandleFunc("/get", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s %s", manager.GetString(r.Context(), "color"), manager.GetString(r.Context(), "userID"))
	})
	mux.HandleFunc("/login", func(w http.ResponseWriter, r *http.Request) {
		if err := manager.RenewToken(r.Context()); err != nil {
			http.Error(w, err.Error(), 500)
		}
		manager.Put(r.Context(), "userID", r.FormValue("v"))
	})
	mux.HandleFunc("/bad-login", func(_ http.ResponseWriter, r *http.Request) { manager.Put(r.Context(), "userID", "ada") })
	mux.HandleFunc("/logout", func(w http.ResponseWriter, r *http.Request) {
		if err := manager.Destroy(r.Context()); err != nil {
			http.Error(w, err.Error(), 500)
		}
	})
	mux.HandleFunc("/slow", func(_ http.ResponseWriter, r *http.Request) {
		time.Sleep(300 * time.Millisecond)
		manager.Put(r.Context(), "color", "slow")
	})
	server := httptest.NewServer(manager.LoadAndSave(mux))
	t.Cleanup(server.Close)
	return manager, server.URL
}

// scsBrowser keeps cookies.
type scsBrowser struct {
	t    *testing.T
	base string
	http *http.Client
}

func newBrowser(t *testing.T, base string) *scsBrowser {
	jar, _ := cookiejar.New(nil) // has no error to give
	return &scsBrowser{t, base, &http.Client{Jar: jar}}
}

func (b *scsBrowser) get(path string) (int, string) {
	answer, err := b.http.Get(b.base + path)
	if err != nil {
		b.t.Error(err)
		return 0, ""
	}
	defer answer.Body.Close()
	text, _ := io.ReadAll(answer.Body)
	return answer.StatusCode, strings.TrimSpace(string(text))
}

func (b *scsBrowser) want(path, text string) {
	b.t.Helper()
	if status, got := b.get(path); status != 200 || got != text {
		b.t.Errorf("%s: %d %q, want %q", path, status, got, text)
	}
}

func (b *scsBrowser) token() string {
	r, _ := http.NewRequest("GET", b.base, nil) // the address is right
	for _, c := range b.http.Jar.Cookies(r.URL) {
		if c.Name == "session" {
			return c.Value
		}
	}
	return ""
}

func mustURL(t *testing.T, text string) *url.URL {
	u, err := url.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// TestSCS runs the real scs.SessionManager on the store.
func TestSCS(t *testing.T) {
	s, c := scsStore(t, "scs")
	manager, base := scsApp(t, s, nil)
	t.Run("put and get", func(t *testing.T) {
		a, b := newBrowser(t, base), newBrowser(t, base)
		a.want("/put?v=red", "")
		a.want("/get", "red")
		b.want("/get", "")
		a.want("/put?v=blue", "")
		a.want("/get", "blue")
	})
	t.Run("log-in renews the token", func(t *testing.T) {
		b, thief := newBrowser(t, base), newBrowser(t, base)
		b.want("/put?v=red", "")
		thief.http.Jar.SetCookies(mustURL(t, base), []*http.Cookie{{Name: "session", Value: b.token()}})
		b.want("/login?v=ada", "")
		b.want("/get", "red ada")
		thief.want("/get", "")
		if r := (client{c.base, b.token()}).do(t, "GET", "/v1/verify?app=scs&body=1", nil); r.status != 200 || r.UserID != "ada" {
			t.Errorf("verify by the framework's token: %s", r.raw)
		}
	})
	t.Run("log-in without RenewToken is refused", func(t *testing.T) {
		b := newBrowser(t, base)
		b.want("/put?v=red", "")
		if status, text := b.get("/bad-login"); status != 500 || !strings.Contains(text, "foreign_session_conflict") {
			t.Errorf("%d %s", status, text)
		}
		b.want("/get", "red")
	})
	t.Run("destroy", func(t *testing.T) {
		b := newBrowser(t, base)
		b.want("/login?v=ada", "")
		token := b.token()
		b.want("/logout", "")
		b.http.Jar.SetCookies(mustURL(t, base), []*http.Cookie{{Name: "session", Value: token}})
		b.want("/get", "")
	})
	t.Run("a request that runs during the log-out brings nothing back", func(t *testing.T) {
		b := newBrowser(t, base)
		b.want("/login?v=ada", "")
		token := b.token()
		var running sync.WaitGroup
		running.Go(func() { b.want("/slow", "") })
		time.Sleep(100 * time.Millisecond)
		other := newBrowser(t, base)
		other.http.Jar.SetCookies(mustURL(t, base), []*http.Cookie{{Name: "session", Value: token}})
		other.want("/logout", "")
		running.Wait()
		other.http.Jar.SetCookies(mustURL(t, base), []*http.Cookie{{Name: "session", Value: token}})
		other.want("/get", "")
	})
	t.Run("logged out everywhere", func(t *testing.T) {
		phone, laptop, bob := newBrowser(t, base), newBrowser(t, base), newBrowser(t, base)
		phone.want("/login?v=eve", "")
		laptop.want("/login?v=eve", "")
		bob.want("/login?v=bob", "")
		if r := c.do(t, "POST", "/v1/sessions/revoke", map[string]any{"user_id": "eve"}); r.status != 200 || r.Revoked == nil || *r.Revoked != 2 {
			t.Fatalf("revoke: %s", r.raw)
		}
		phone.want("/get", "")
		laptop.want("/get", "")
		bob.want("/get", "bob")
	})
	t.Run("concurrent requests", func(t *testing.T) {
		b := newBrowser(t, base)
		b.want("/put?v=0", "")
		var all sync.WaitGroup
		for i := range 16 {
			all.Go(func() { b.want(fmt.Sprint("/put?v=", i), "") })
		}
		all.Wait()
		if status, _ := b.get("/get"); status != 200 {
			t.Error(status)
		}
	})
	t.Run("Iterate", func(t *testing.T) {
		users := 0
		err := manager.Iterate(t.Context(), func(ctx context.Context) error {
			if manager.GetString(ctx, "userID") == "bob" {
				users++
				return manager.Destroy(ctx)
			}
			return nil
		})
		if err != nil || users != 1 {
			t.Errorf("%d sessions of bob, %v", users, err)
		}
	})
	t.Run("IdleTimeout", func(t *testing.T) {
		_, base := scsApp(t, s, func(m *scs.SessionManager) { m.IdleTimeout = 700 * time.Millisecond })
		used, idle := newBrowser(t, base), newBrowser(t, base)
		used.want("/put?v=used", "")
		idle.want("/put?v=idle", "")
		for range 4 {
			time.Sleep(250 * time.Millisecond)
			used.want("/get", "used")
		}
		idle.want("/get", "")
	})
	t.Run("HashTokenInStore", func(t *testing.T) {
		_, base := scsApp(t, s, func(m *scs.SessionManager) { m.HashTokenInStore = true })
		b := newBrowser(t, base)
		b.want("/login?v=ada", "")
		b.want("/get", "ada")
		b.want("/logout", "")
		b.want("/get", "")
	})
	t.Run("another codec", func(t *testing.T) {
		own := &scsstore.Store{URL: c.base, Key: c.key, UserKey: "userID"}
		if err := own.Commit("t", []byte(`{"json":1}`), time.Now().Add(time.Minute)); err == nil || !strings.Contains(err.Error(), "GobCodec") {
			t.Errorf("UserKey with another codec: %v", err)
		}
		own.User = func(context.Context, []byte) (string, error) { return "codec", nil }
		if err := own.Commit("t", []byte(`{"json":1}`), time.Now().Add(time.Minute)); err != nil {
			t.Error(err)
		}
		if r := c.do(t, "POST", "/v1/sessions/revoke", map[string]any{"user_id": "codec"}); r.Revoked == nil || *r.Revoked != 1 {
			t.Errorf("revoke: %s", r.raw)
		}
	})
	t.Run("a user that is no id", func(t *testing.T) {
		for v, good := range map[any]bool{int64(7): true, uint8(7): true, "ada": true, 1.5: false, true: false} {
			var b bytes.Buffer
			session := &struct {
				Deadline time.Time
				Values   map[string]any
			}{time.Now(), map[string]any{"userID": v}}
			if err := gob.NewEncoder(&b).Encode(session); err != nil {
				t.Fatal(err)
			}
			if err := s.Commit(fmt.Sprintf("user %T", v), b.Bytes(), time.Now().Add(time.Minute)); (err == nil) != good {
				t.Errorf("%T: %v", v, err)
			}
		}
	})
}
