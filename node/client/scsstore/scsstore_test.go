package scsstore_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/revocast/revocast/node/api"
	"github.com/revocast/revocast/node/client/scsstore"
)

// Writes that go on at once are answered in any order. What is read afterwards has
// to know the newest of them, whichever answer came last.
func TestNewestRevision(t *testing.T) {
	var answer, asked string
	node := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = r.URL.Query().Get("at_least")
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(&api.StoredAnswer{Freshness: api.Freshness{Revision: answer}})
	}))
	defer node.Close()
	s := &scsstore.Store{URL: node.URL, Key: "sk_test"}
	for _, step := range []struct{ answer, want string }{
		{"eu:0:9", "eu:0:9"}, {"eu:0:10", "eu:0:10"}, {"eu:0:9", "eu:0:10"}, // late
		{"eu:1:3", "eu:1:3"}, {"us:0:1", "us:0:1"}, {"us:0:57@eu.x", "us:0:57@eu.x"}, {"us:0:2", "us:0:2"},
	} {
		answer = step.answer
		if err := s.Commit("token", []byte("x"), time.Now().Add(time.Hour)); err != nil {
			t.Fatal(err)
		}
		if _, _, err := s.Find("token"); err != nil {
			t.Fatal(err)
		}
		if asked != step.want {
			t.Errorf("after a write at %s a read asks for %s, want %s", step.answer, asked, step.want)
		}
	}
}

// TestRedirect: neither a token nor the API key follows a redirect.
func TestRedirect(t *testing.T) {
	elsewhere := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		t.Errorf("%s %s was sent there, Authorization %q", r.Method, r.URL.Path, r.Header.Get("Authorization"))
	}))
	defer elsewhere.Close()
	here := httptest.NewServer(http.RedirectHandler(elsewhere.URL+"/", http.StatusTemporaryRedirect))
	defer here.Close()
	for name, h := range map[string]*http.Client{"its own": nil, "the caller's": {Timeout: time.Second}} {
		s := &scsstore.Store{URL: here.URL, Key: "sk_test", HTTP: h}
		if data, ok, err := s.Find("token"); err == nil || ok {
			t.Errorf("%s, find: %q, %v, %v", name, data, ok, err)
		}
		if err := s.Commit("token", []byte("x"), time.Now().Add(time.Hour)); err == nil {
			t.Errorf("%s, commit: no error", name)
		}
		if err := s.Delete("token"); err == nil {
			t.Errorf("%s, delete: no error", name)
		}
		if h != nil && h.CheckRedirect != nil {
			t.Errorf("%s was changed", name)
		}
	}
}

// TestConnections: connections to a node are used again, however many requests are
// under way at a time.
func TestConnections(t *testing.T) {
	const atOnce, rounds = 32, 10
	var arrived sync.WaitGroup
	var mu sync.Mutex
	from := map[string]bool{}
	node := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		from[r.RemoteAddr] = true
		mu.Unlock()
		arrived.Done()
		arrived.Wait() // until all are here
		w.WriteHeader(http.StatusNotFound)
		_ = json.NewEncoder(w).Encode(&api.Error{ErrorType: api.SessionNotFound})
	}))
	defer node.Close()
	s := &scsstore.Store{URL: node.URL, Key: "sk_test"}
	for range rounds {
		arrived.Add(atOnce)
		var all sync.WaitGroup
		for range atOnce {
			all.Go(func() {
				if _, ok, err := s.Find("token"); ok || err != nil {
					t.Errorf("%v, %v", ok, err)
				}
			})
		}
		all.Wait()
	}
	if n := len(from); n > 2*atOnce {
		t.Errorf("%d connections for %d requests at a time", n, atOnce)
	}
}

// TestSecrets: a store shows no API key, however it is printed.
func TestSecrets(t *testing.T) {
	s := &scsstore.Store{URL: "http://127.0.0.1:1", Key: "sk_secret"}
	var logged bytes.Buffer
	slog.New(slog.NewTextHandler(&logged, nil)).Info("text", "store", s)
	slog.New(slog.NewJSONHandler(&logged, nil)).Info("JSON", "store", s)
	_, _, err := s.Find("sometoken")
	shown := fmt.Sprintf("%v %+v %#v %v %s", s, s, s, err, logged.String())
	if strings.Contains(shown, "sk_secret") || strings.Contains(shown, "sometoken") {
		t.Errorf("%s shows a secret", shown)
	}
}
