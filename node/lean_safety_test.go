package node_test

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/revocast/revocast/node"
)

// TestLeanAnswersBeforeItReadsOn: who sends the next request slowly does not hold
// back the answer to the one before, which would be given after a revocation.
func TestLeanAnswersBeforeItReadsOn(t *testing.T) {
	w := newTwins(t)
	// A long answer, which the library may send in parts.
	long := w.do(w.key, "POST", "/v1/sessions", m{
		"user_id": strings.Repeat("\u00f6", 120), "session_custom_claims": m{"x": strings.Repeat("x", 2300)},
	}).want(201)
	if n := len(long.str("session_jwt")); n < 3800 {
		t.Fatalf("the JWT has only %d bytes", n)
	}
	token := long.str("session_token")
	for name, next := range map[string]string{
		"head":   "POST /v1/verify HTTP/1.1\r\nHo",
		"body":   "POST /v1/verify HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{",
		"chunks": "POST /v1/verify HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{",
	} {
		for _, addr := range []string{w.main, w.lean} {
			conn, err := net.Dial("tcp", addr)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
			fmt.Fprintf(conn, "GET /v1/verify?jwt=1 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n\r\n%s", token, next)
			answers := bufio.NewReader(conn)
			answer, err := http.ReadResponse(answers, nil)
			if err != nil || answer.StatusCode != 204 {
				t.Errorf("%s, main %v: %+v, %v", name, addr == w.main, answer, err)
			}
			if addr == w.main || name == "head" {
				continue
			}
			// The lean listener must not say of the next that there is no session.
			if answer, err := http.ReadResponse(answers, nil); err != nil || answer.StatusCode != 503 {
				t.Errorf("%s, the next: %+v, %v", name, answer, err)
			}
		}
	}
}

// TestLeanLogsNoCredential: what cannot be read as a request may bear a token,
// which no log may have, however much is logged.
func TestLeanLogsNoCredential(t *testing.T) {
	var log lines
	h := newHarness(t, func(c *node.Config) {
		c.Log = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	})
	token := h.login("ada").str("session_token")
	s := h.node.VerifyServer(node.VerifyLimits{Read: time.Minute})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	for _, request := range []string{
		"GET /v1/verify\nHost: x\nAuthorization: Bearer $TOKEN\n\n",
		"GET /v1/verify HTTP/9\nHost: x\nAuthorization: Bearer $TOKEN\n\n",
		"$TOKEN /v1/verify HTTP/1.1\nHost: x\n\n",
		"GET $TOKEN HTTP/1.1\nHost: x\n\n",
		"GET /v1/verify $TOKEN\nHost: x\n\n",
		"GET /v1/verify HTTP/1.1\nHost: x\nAuthorization Bearer $TOKEN\n\n",
		"GET /v1/verify HTTP/1.1\nHost: x\nAuthorization\\: Bearer $TOKEN\n\n",
		"GET /v1/verify HTTP/1.1\nHost: x\nAuthorization: Bearer $TOKEN\x00\n\n",
		"GET /v1/verify HTTP/1.1\nHost: x\n$TOKEN : x\n\n",
		"GET /v1/verify HTTP/1.1\nHost: x\nTransfer-Encoding: $TOKEN\n\n",
		"GET /v1/verify HTTP/1.1\nHost: x\nTrailer: $TOKEN, Content-Length\n\n",
		"POST /v1/verify HTTP/1.1\nHost: x\nTransfer-Encoding: chunked\n\n$TOKEN\n",
	} {
		exchange(t, l.Addr().String(), strings.NewReplacer("$TOKEN", token, "\n", "\r\n").Replace(request))
	}
	if err := s.Shutdown(context.Background()); err != nil {
		t.Error(err)
	}
	<-served
	if n := log.count(token); n != 0 {
		t.Errorf("the log has the token %d times", n)
	}
	if log.count("level=DEBUG") == 0 {
		t.Error("nothing was logged, so the test proves nothing")
	}
}
