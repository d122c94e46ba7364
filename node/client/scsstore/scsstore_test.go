package scsstore_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
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
