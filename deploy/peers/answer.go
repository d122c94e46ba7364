package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"
)

// errNoSession is a credential that no session, or no good one, belongs to.
var errNoSession = errors.New("no such session")

var (
	jsonType     = []string{"application/json"}
	unauthorized = []byte(`{"error_type":"session_not_found"}`)
)

// bearer serves GET /verify: verify gets the Bearer credential and returns the
// answer's body.
func bearer(verify func(ctx context.Context, token string) ([]byte, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !atVerify(w, r) {
			return
		}
		token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		if !ok {
			refuse(w)
			return
		}
		body, err := verify(r.Context(), token)
		switch {
		case errors.Is(err, errNoSession):
			refuse(w)
		case err != nil:
			http.Error(w, err.Error(), http.StatusInternalServerError)
		default:
			answer(w, body)
		}
	})
}

// atVerify answers anything but GET /verify. A mux would cost each request a
// little more.
func atVerify(w http.ResponseWriter, r *http.Request) bool {
	if r.URL.Path != "/verify" || r.Method != http.MethodGet {
		http.NotFound(w, r)
		return false
	}
	return true
}

func answer(w http.ResponseWriter, body []byte) {
	w.Header()["Content-Type"] = jsonType
	_, _ = w.Write(body) // the client may be gone
}

func refuse(w http.ResponseWriter) {
	w.Header()["Content-Type"] = jsonType
	w.WriteHeader(http.StatusUnauthorized)
	_, _ = w.Write(unauthorized) // the client may be gone
}

// checked decodes a stored session, as an application must that wants to know
// whose it is, and says whether it is good at the moment.
func checked(text []byte) error {
	var v session
	if err := json.Unmarshal(text, &v); err != nil {
		return fmt.Errorf("decode session: %w", err)
	}
	if v.UserID == "" || !time.Now().Before(v.ExpiresAt) {
		return errNoSession
	}
	return nil
}

// startBare starts a handler that does nothing but compare one header with one
// string: what net/http itself costs.
func startBare(_ context.Context, s *stage) (service, error) {
	_, body := s.session(0)
	credential := "Bearer " + newToken()
	url, err := s.serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !atVerify(w, r) {
			return
		}
		if r.Header.Get("Authorization") != credential {
			refuse(w)
			return
		}
		answer(w, body)
	}))
	v := service{url: url, pid: os.Getpid()}
	for range min(s.sessions, maxCredentials) {
		v.credentials = append(v.credentials, "Authorization: "+credential)
	}
	return v, err
}
