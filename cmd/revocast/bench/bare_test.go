package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
)

// TestBareAnswersAlike checks that a bare handler gives the answer that it was
// shown, header by header.
func TestBareAnswersAlike(t *testing.T) {
	for name, like := range map[string]http.HandlerFunc{
		"headers only": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X-Session-User", "ada")
			w.Header().Set("Cache-Control", "no-store")
			w.WriteHeader(http.StatusNoContent)
		},
		"body": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, `{"session_id":"x"}`)
		},
	} {
		t.Run(name, func(t *testing.T) {
			want := http.StatusNoContent
			if name == "body" {
				want = http.StatusOK
			}
			target := served(t, like, get("/", want))
			s, err := takeSample(target)
			if err != nil {
				t.Fatal(err)
			}
			one, other := httptest.NewRecorder(), httptest.NewRecorder()
			like(one, nil)
			s.handler().ServeHTTP(other, nil)
			if one.Code != other.Code || one.Body.String() != other.Body.String() || len(one.Header()) != len(other.Header()) {
				t.Errorf("%d %v %q became %d %v %q", one.Code, one.Header(), one.Body, other.Code, other.Header(), other.Body)
			}
			for k := range one.Header() {
				if one.Header().Get(k) != other.Header().Get(k) {
					t.Errorf("%s: %q became %q", k, one.Header().Get(k), other.Header().Get(k))
				}
			}
		})
	}
	wrong := served(t, func(http.ResponseWriter, *http.Request) {}, get("/", 204))
	if _, err := takeSample(wrong); err == nil {
		t.Error("a sample of a wrong answer was taken")
	}
}

func TestServeBareEndsWithItsInput(t *testing.T) {
	in, give := io.Pipe()
	said, out := io.Pipe()
	ended := make(chan error, 1)
	go func() { ended <- ServeBare(context.Background(), in, out, new(http.Server)) }()
	go func() {
		_ = json.NewEncoder(give).Encode(&sample{Status: 204, Header: [][2]string{{"X-A", "b"}}})
	}()
	var welcome bytes.Buffer
	for buf := make([]byte, 256); !welcomed(welcome.String()); {
		n, err := said.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		welcome.Write(buf[:n])
	}
	c := &child{}
	_, _ = c.out.Write(welcome.Bytes())
	target := &Target{Network: "tcp", Addr: c.printed("address"), Requests: []Request{get("/", 204)}}
	if s, err := takeSample(target); err != nil || len(s.Header) != 1 || s.Header[0] != [2]string{"X-A", "b"} {
		t.Errorf("it answers %+v, %v", s, err)
	}
	_ = give.Close()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
