package node_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node"
)

// leapClock is the machine's clock, but that its boot clock can leap: a lease
// ends at once.
type leapClock struct {
	events.SystemClock
	leap atomic.Int64
}

// Boot implements [events.Clock].
func (c *leapClock) Boot() time.Duration {
	return c.SystemClock.Boot() + time.Duration(c.leap.Load())
}

// twins are the two listeners of one node, on real sockets.
type twins struct {
	*harness
	clock       *leapClock
	main, lean  string
	leanServer  *node.VerifyServer
	credentials *strings.Replacer
	device      *device
	bound       string           // a token of a session that is bound to its key
	answers     map[string][]got // of the main listener, by case
}

func newTwins(t *testing.T) *twins {
	w := &twins{clock: &leapClock{}, answers: map[string][]got{}}
	w.harness = newHarness(t, func(c *node.Config) { c.Clock = w.clock })
	shut := w.newApp("shut", nil)
	inShut := w.do(shut, "POST", "/v1/sessions", m{"user_id": "ada"}).want(201)
	w.do(w.admin, "POST", "/v1/apps/shut/suspend", nil).want(200)
	serves := w.do(w.newApp("served", m{"when_stale": "serve"}), "POST", "/v1/sessions", m{"user_id": "ada"}).want(201)
	again := w.do(w.newApp("again", m{"when_stale": "reauth"}), "POST", "/v1/sessions", m{"user_id": "ada"}).want(201)
	c, gone := w.login("ada löve"), w.login("ada")
	w.do(w.key, "DELETE", "/v1/sessions/"+gone.str("session.session_id"), nil).want(200)
	w.device = newDevice(t)
	bound := w.device.login(w.harness)
	w.bound = bound.str("session_token")
	nonce := w.do(w.newApp("nonce", m{"dpop_nonce": true}), "POST", "/v1/sessions", m{"user_id": "ada", "bind": m{"dpop_jkt": w.device.jkt}}).want(201)
	w.credentials = strings.NewReplacer(
		"$BOUNDJWT", bound.str("session_jwt"), "$BOUND", w.bound, "$NONCE", nonce.str("session_token"),
		"$TOKEN", c.str("session_token"), "$JWT", c.str("session_jwt"), "$KEY", w.key, "$SHUT", inShut.str("session_token"),
		"$GONE", gone.str("session_token"), "$BAD", events.NewToken(2).Reveal(), "$NOSTREAM", events.NewToken(99).Reveal(),
		"$SERVED", serves.str("session_token"), "$AGAIN", again.str("session_token"), "\r\n", "\r\n", "\n", "\r\n")

	public := httptest.NewUnstartedServer(w.handler)
	public.Config.MaxHeaderBytes = 16 << 10
	public.Start()
	t.Cleanup(public.Close)
	w.main = public.Listener.Addr().String()
	w.leanServer = w.node.VerifyServer(node.VerifyLimits{Read: time.Minute, Write: time.Minute, Idle: time.Minute, Head: 20 << 10})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- w.leanServer.Serve(l) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := w.leanServer.Shutdown(ctx); err != nil {
			t.Errorf("shut down: %v", err)
		}
		if err := <-served; !errors.Is(err, http.ErrServerClosed) {
			t.Errorf("serve: %v", err)
		}
	})
	w.lean = l.Addr().String()
	return w
}

// got is one answer, without what differs from request to request or is the
// library's own.
type got struct {
	Status int
	Header http.Header
	Body   string
}

var volatile = regexp.MustCompile(`"(request_id)":"[^"]*"|"(staleness_ms)":[0-9]+|"(revision)":"[^"]*"`)

// exchange sends what is written in pieces, and returns all answers until the
// server closes the connection.
func exchange(t *testing.T, addr string, pieces ...string) (all []got) {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	for _, p := range pieces {
		if _, err := io.WriteString(c, p); err != nil {
			break // a server may refuse what it has not read
		}
	}
	_ = c.(*net.TCPConn).CloseWrite()
	method, _, _ := strings.Cut(pieces[0], " ")
	for r := bufio.NewReader(c); ; method = "GET" {
		answer, err := http.ReadResponse(r, &http.Request{Method: method})
		if err != nil {
			return all
		}
		if answer.StatusCode == http.StatusContinue {
			continue
		}
		body, err := io.ReadAll(answer.Body)
		if err != nil {
			t.Errorf("body: %v", err)
		}
		h := answer.Header
		if answer.StatusCode >= 400 && h.Get("X-Request-Id") == "" {
			// The library's own: it could not read the request.
			all = append(all, got{Status: answer.StatusCode})
			continue
		}
		for _, name := range []string{"Date", "Connection"} {
			h.Del(name)
		}
		if id := h["X-Request-Id"]; len(id) != 1 || len(id[0]) < 20 {
			t.Errorf("X-Request-Id: %q", id)
		}
		h.Del("X-Request-Id")
		if ms := h.Get("X-Session-Staleness-Ms"); ms != "" && ms != "-" {
			h.Set("X-Session-Staleness-Ms", strings.Repeat("9", min(len(ms), 1)))
		}
		if stale, _, ok := strings.Cut(h.Get("X-Session-Freshness"), "staleness_ms="); ok {
			h.Set("X-Session-Freshness", stale)
		}
		if h.Get("Dpop-Nonce") != "" {
			h.Set("Dpop-Nonce", "some")
		}
		if h.Get("Content-Length") != "0" {
			h.Del("Content-Length") // of a body whose numbers differ; http.ReadResponse held it
		}
		all = append(all, got{answer.StatusCode, h, volatile.ReplaceAllString(string(body), "$1$2$3")})
	}
}

// leanCases are requests with the status of their answer; 0: a refusal, which the
// libraries word differently. What follows on the connection must be answered as
// well, unless the library closes it.
var leanCases = []struct {
	name, request string
	status        int
	closes        bool
}{
	{"bearer", "GET /v1/verify HTTP/1.1\nHost: x\nAuthorization: Bearer $TOKEN\n\n", 204, false},
	{"bearer, JWT", "GET /v1/verify HTTP/1.1\nHost: x\nAuthorization: Bearer $JWT\n\n", 204, false},
	{"spelled otherwise", "GET /v1/verify HTTP/1.1\nhOST: x\nauthorIZATION: \t bEARER   $TOKEN \t \n\n", 204, false},
	{"head", "HEAD /v1/verify HTTP/1.1\nHost: x\nAuthorization: Bearer $TOKEN\n\n", 204, false},
	{"head, refused", "HEAD /v1/verify HTTP/1.1\nHost: x\nAuthorization: Bearer $GONE\n\n", 401, false},
	{"head, body", "HEAD /v1/verify?body=1 HTTP/1.1\nHost: x\nAuthorization: Bearer $TOKEN\n\n", 200, false},
	{"cookie", "GET /v1/verify HTTP/1.1\nHost: x\nCookie: a=b; session=$TOKEN\n\n", 204, false},
	{"cookies", "GET /v1/verify HTTP/1.1\nHost: x\nCookie: a=b\ncookie: session=$BAD\nCookie: __Host-session=\"$TOKEN\"\n\n", 204, false},
	{"another cookie", "GET /v1/verify HTTP/1.1\nHost: x\nCookie: xsession=$TOKEN\n\n", 401, false},
	{"bearer before cookie", "GET /v1/verify HTTP/1.1\nHost: x\nCookie: session=$TOKEN\nAuthorization: Bearer $BAD\n\n", 401, false},
	{"two bearers", "GET /v1/verify HTTP/1.1\nHost: x\nAuthorization: Bearer $TOKEN\nAuthorization: Bearer $TOKEN\n\n", 401, false},
	{"two bearers, spelled otherwise", "GET /v1/verify HTTP/1.1\nHost: x\nAuthorization: Bearer $TOKEN\nauthorization:\n\n", 401, false},
	{"no scheme", "GET /v1/verify HTTP/1.1\nHost: x\nAuthorization: $TOKEN\n\n", 401, false},
	{"empty bearer", "GET /v1/verify HTTP/1.1\nHost: x\nAuthorization: Bearer \n\n", 401, false},
	{"API key", "GET /v1/verify HTTP/1.1\nHost: x\nAuthorization: Bearer $KEY\n\n", 401, false},
	{"API key and cookie", "GET /v1/verify HTTP/1.1\nHost: x\nAuthorization: Bearer $KEY\nCookie: session=$TOKEN\n\n", 204, false},
	{"nothing", "GET /v1/verify HTTP/1.1\nHost: x\n\n", 401, false},
	{"junk", "GET /v1/verify HTTP/1.1\nHost: x\nAuthorization: Bearer junk\n\n", 401, false},
	{"junk JWT", "GET /v1/verify HTTP/1.1\nHost: x\nAuthorization: Bearer a.b.c\n\n", 401, false},
	{"unknown", "GET /v1/verify HTTP/1.1\nHost: x\nAuthorization: Bearer $BAD\n\n", 401, false},
	{"no such stream", "GET /v1/verify HTTP/1.1\nHost: x\nAuthorization: Bearer $NOSTREAM\n\n", 401, false},
	{"revoked", "GET /v1/verify HTTP/1.1\nHost: x\nAuthorization: Bearer $GONE\n\n", 401, false},
	{"suspended", "GET /v1/verify HTTP/1.1\nHost: x\nAuthorization: Bearer $SHUT\n\n", 403, false},
	{"suspended, body", "GET /v1/verify?body=1 HTTP/1.1\nHost: x\nAuthorization: Bearer $SHUT\n\n", 403, false},
	{"served when stale", "GET /v1/verify HTTP/1.1\nHost: x\nAuthorization: Bearer $SERVED\n\n", 204, false},
	{"reauth when stale", "GET /v1/verify HTTP/1.1\nHost: x\nAuthorization: Bearer $AGAIN\n\n", 204, false},
	{"bound, as Bearer", "GET /v1/verify HTTP/1.1\nHost: x\nAuthorization: Bearer $BOUND\n\n", 401, false},
	{"bound JWT, as Bearer", "GET /v1/verify HTTP/1.1\nHost: x\nAuthorization: Bearer $BOUNDJWT\n\n", 401, false},
	{"bound, no proof", "GET /v1/verify HTTP/1.1\nHost: x\nAuthorization: DPoP $BOUND\n\n", 401, false},
	{"bound, no proof, body", "GET /v1/verify?body=1 HTTP/1.1\nHost: x\nAuthorization: DPoP $BOUND\n\n", 401, false},
	{"bound, junk", "GET /v1/verify HTTP/1.1\nHost: x\nAuthorization: DPoP $BOUND\nDPoP: junk\n\n", 401, false},
	{"bound, proved", "GET /v1/verify HTTP/1.1\nHost: x\nAuthorization: DPoP $BOUND\nDPoP: $PROOF\n\n", 204, false},
	{"bound, proved, spelled otherwise", "GET /v1/verify HTTP/1.1\nHost: x\nauthorization: dpop  $BOUND\ndpop: $PROOF\n\n", 204, false},
	{"bound, proved and minted", "GET /v1/verify?jwt=1 HTTP/1.1\nHost: x\nAuthorization: DPoP $BOUND\nDPoP: $PROOF\n\n", 204, false},
	{"bound, proved, as Bearer", "GET /v1/verify HTTP/1.1\nHost: x\nAuthorization: Bearer $BOUND\nDPoP: $PROOF\n\n", 401, false},
	{"bound, two proofs", "GET /v1/verify HTTP/1.1\nHost: x\nAuthorization: DPoP $BOUND\nDPoP: $PROOF\nDPoP: $PROOF\n\n", 401, false},
	{"bound, cookie", "GET /v1/verify HTTP/1.1\nHost: x\nCookie: session=$BOUND\n\n", 401, false},
	{"bound, cookie, proved", "GET /v1/verify HTTP/1.1\nHost: x\nCookie: session=$BOUND\nDPoP: $PROOF\n\n", 204, false},
	{"bound, body", "POST /v1/verify HTTP/1.1\nHost: x\nContent-Type: application/json\nContent-Length: $LEN\n\n{\"session_token\":\"$BOUND\"}", 401, false},
	{"bound, forwarded", "GET /v1/verify HTTP/1.1\nHost: x\nAuthorization: DPoP $BOUND\nDPoP: $FORWARDED\nX-Forwarded-Method: PUT\nX-Forwarded-Proto: https\nX-Forwarded-Host: shop.example\nX-Forwarded-Uri: /cart?a\n\n", 204, false},
	{"bound, half forwarded", "GET /v1/verify HTTP/1.1\nHost: x\nAuthorization: DPoP $BOUND\nDPoP: $FORWARDED\nX-Forwarded-Method: PUT\nX-Forwarded-Uri: /cart?a\n\n", 401, false},
	{"bound, forwarded, not proved", "GET /v1/verify HTTP/1.1\nHost: x\nAuthorization: DPoP $BOUND\nX-Forwarded-Method: PUT\nX-Forwarded-Proto: https\nX-Forwarded-Host: shop.example\nX-Forwarded-Uri: /cart?a\n\n", 401, false},
	{"bound, no nonce", "GET /v1/verify HTTP/1.1\nHost: x\nAuthorization: DPoP $NONCE\nDPoP: $PROOF\n\n", 401, false},
	{"not bound, as DPoP", "GET /v1/verify HTTP/1.1\nHost: x\nAuthorization: DPoP $TOKEN\nDPoP: $PROOF\n\n", 401, false},
	{"not bound, as DPoP, no proof", "GET /v1/verify HTTP/1.1\nHost: x\nAuthorization: DPoP $TOKEN\n\n", 401, false},
	{"not bound, as Bearer, with a proof", "GET /v1/verify HTTP/1.1\nHost: x\nAuthorization: Bearer $TOKEN\nDPoP: junk\n\n", 204, false},
	{"revoked, as DPoP", "GET /v1/verify HTTP/1.1\nHost: x\nAuthorization: DPoP $GONE\n\n", 401, false},
	{"pinned", "GET /v1/verify?app=acme HTTP/1.1\nHost: x\nAuthorization: Bearer $TOKEN\n\n", 204, false},
	{"pinned elsewhere", "GET /v1/verify?app=shut HTTP/1.1\nHost: x\nAuthorization: Bearer $TOKEN\n\n", 401, false},
	{"pinned elsewhere, JWT", "GET /v1/verify?app=shut HTTP/1.1\nHost: x\nAuthorization: Bearer $JWT\n\n", 401, false},
	{"two pins", "GET /v1/verify?app=acme&app=shut HTTP/1.1\nHost: x\nAuthorization: Bearer $TOKEN\n\n", 401, false},
	{"escaped pin", "GET /v1/verify?%61pp=shut HTTP/1.1\nHost: x\nAuthorization: Bearer $TOKEN\n\n", 401, false},
	{"unreadable query", "GET /v1/verify?a;b HTTP/1.1\nHost: x\nAuthorization: Bearer $TOKEN\n\n", 401, false},
	{"unreadable query, body", "GET /v1/verify?body=1&a=%zz HTTP/1.1\nHost: x\nAuthorization: Bearer $TOKEN\n\n", 401, false},
	{"fragment", "GET /v1/verify?app=acme#&app=shut HTTP/1.1\nHost: x\nAuthorization: Bearer $TOKEN\n\n", 401, false},
	{"minted", "GET /v1/verify?jwt=1 HTTP/1.1\nHost: x\nAuthorization: Bearer $TOKEN\n\n", 204, false},
	{"minted, body", "POST /v1/verify?jwt=1&body=true HTTP/1.1\nHost: x\nAuthorization: Bearer $TOKEN\nContent-Length: 0\n\n", 200, false},
	{"body", "GET /v1/verify?body=1 HTTP/1.1\nHost: x\nAuthorization: Bearer $TOKEN\n\n", 200, false},
	{"body, revoked", "GET /v1/verify?body=1 HTTP/1.1\nHost: x\nAuthorization: Bearer $GONE\n\n", 401, false},
	{"demand met", "GET /v1/verify?max_age=31622400 HTTP/1.1\nHost: x\nAuthorization: Bearer $TOKEN\n\n", 204, false},
	{"demand not met", "GET /v1/verify?acr=aal3&max_age=31622400&amr=pop HTTP/1.1\nHost: x\nAuthorization: Bearer $TOKEN\n\n", 401, false},
	{"demand not met, body", "POST /v1/verify?acr=aal3&body=1 HTTP/1.1\nHost: x\nAuthorization: Bearer $TOKEN\nContent-Length: 0\n\n", 401, false},
	{"demand unreadable", "GET /v1/verify?acr=aal9 HTTP/1.1\nHost: x\nAuthorization: Bearer $TOKEN\n\n", 401, false},
	{"background", "GET /v1/verify?background=1 HTTP/1.1\nHost: x\nAuthorization: Bearer $TOKEN\n\n", 204, false},
	{"background, header", "GET /v1/verify HTTP/1.1\nHost: x\nX-Session-Background: 0\nAuthorization: Bearer $TOKEN\n\n", 204, false},
	{"JSON", "POST /v1/verify HTTP/1.1\nHost: x\nContent-Type: application/json\nContent-Length: $LEN\n\n{\"session_token\":\"$TOKEN\"}", 204, false},
	{"JSON, spaced", "POST /v1/verify HTTP/1.1\nHost: x\nContent-Type: application/json; charset=utf-8\nContent-Length: $LEN\n\n{\"session_token\" : \"$TOKEN\"} ", 204, false},
	{"JSON, unusual", "POST /v1/verify HTTP/1.1\nHost: x\nContent-Type: application/json\nContent-Length: $LEN\n\n{\"session\\u005ftoken\":\"$TOKEN\"}", 204, false},
	{"JSON, unknown member", "POST /v1/verify HTTP/1.1\nHost: x\nContent-Type: application/json\nContent-Length: $LEN\n\n{\"session_token\":\"$TOKEN\",\"x\":1}", 401, false},
	{"two types", "POST /v1/verify HTTP/1.1\nHost: x\nContent-Type: application/json\nContent-Type: text/plain\nContent-Length: $LEN\n\n{\"session_token\":\"$TOKEN\"}", 204, false},
	{"two types, the other way", "POST /v1/verify HTTP/1.1\nHost: x\nContent-Type: text/plain\nContent-Type: application/json\nContent-Length: $LEN\n\n{\"session_token\":\"$TOKEN\"}", 401, false},
	{"no type", "POST /v1/verify HTTP/1.1\nHost: x\nContent-Length: $LEN\n\n{\"session_token\":\"$TOKEN\"}", 401, false},
	{"form", "POST /v1/verify HTTP/1.1\nHost: x\nContent-Type: multipart/form-data; boundary=b\nContent-Length: $LEN\n\n{\"session_token\":\"$TOKEN\"}", 401, false},
	{"chunked", "POST /v1/verify HTTP/1.1\nHost: x\nContent-Type: application/json\nTransfer-Encoding: chunked\n\n40\n{\"session_token\":\"$TOKEN\"}\n0\n\n", 204, false},
	{"chunked, trailer", "POST /v1/verify HTTP/1.1\nHost: x\nContent-Type: application/json\nTransfer-Encoding: chunked\nTrailer: Authorization\n\n2\n{}\n0\nAuthorization: Bearer $TOKEN\n\n", 0, true},
	{"chunked, trailer not announced", "GET /v1/verify HTTP/1.1\nHost: x\nTransfer-Encoding: chunked\n\n2\n{}\n0\nCookie: session=$TOKEN\n\n", 0, true},
	{"chunks that are none", "POST /v1/verify HTTP/1.1\nHost: x\nAuthorization: Bearer $TOKEN\nTransfer-Encoding: chunked\n\nzz\n", 0, true},
	{"body of a GET", "GET /v1/verify HTTP/1.1\nHost: x\nContent-Type: application/json\nContent-Length: $LEN\n\n{\"session_token\":\"$TOKEN\"}", 401, false},
	{"a request as the body", "GET /v1/verify HTTP/1.1\nHost: x\nContent-Length: $LEN\n\nGET /v1/verify HTTP/1.1\nHost: x\nA: b\n\n\n", 401, false},
	{"a length with a blank", "GET /v1/verify HTTP/1.1\nHost: x\nContent-Length : 2\nAuthorization: Bearer $TOKEN\n\n{}", 400, true},
	{"two lengths", "GET /v1/verify HTTP/1.1\nHost: x\nContent-Length: 2\nContent-Length: 3\nAuthorization: Bearer $TOKEN\n\n{}", 400, true},
	{"length and chunks", "POST /v1/verify HTTP/1.1\nHost: x\nAuthorization: Bearer $TOKEN\nContent-Length: 5\nTransfer-Encoding: chunked\n\n0\n\n", 204, true},
	{"encoding identity", "POST /v1/verify HTTP/1.1\nHost: x\nAuthorization: Bearer $TOKEN\nTransfer-Encoding: identity\n\n", 0, true},
	{"body too long", "POST /v1/verify HTTP/1.1\nHost: x\nAuthorization: Bearer $TOKEN\nContent-Length: 65537\n\n" + strings.Repeat(" ", 65537), 401, true},
	{"body of the greatest length", "POST /v1/verify HTTP/1.1\nHost: x\nAuthorization: Bearer $TOKEN\nContent-Length: 65536\n\n" + strings.Repeat(" ", 65536), 204, false},
	{"chunks too long", "POST /v1/verify HTTP/1.1\nHost: x\nAuthorization: Bearer $TOKEN\nTransfer-Encoding: chunked\n\n10001\n" + strings.Repeat(" ", 65537) + "\n0\n\n", 401, true},
	{"body that breaks off", "POST /v1/verify HTTP/1.1\nHost: x\nAuthorization: Bearer $TOKEN\nContent-Length: 60000\n\n{", 401, true},
	{"expects 100", "POST /v1/verify HTTP/1.1\nHost: x\nContent-Type: application/json\nExpect: 100-continue\nContent-Length: $LEN\n\n{\"session_token\":\"$TOKEN\"}", 204, false},
	{"expects more", "GET /v1/verify HTTP/1.1\nHost: x\nAuthorization: Bearer $TOKEN\nExpect: 200-ok\n\n", 417, true},
	{"below", "GET /v1/verify/a/../b/./c//d HTTP/1.1\nHost: x\nAuthorization: Bearer $TOKEN\n\n", 204, false},
	{"below, escaped", "GET /v1/verify/a%2f%2e%2e%00?app=acme HTTP/1.1\nHost: x\nAuthorization: Bearer $TOKEN\n\n", 204, false},
	{"escaped itself", "GET /v1/%76erify HTTP/1.1\nHost: x\nAuthorization: Bearer $TOKEN\n\n", 204, false},
	{"escaped slash", "GET /v1/verify%2fx HTTP/1.1\nHost: x\nAuthorization: Bearer $TOKEN\n\n", 204, false},
	{"escape that is none", "GET /v1/verify/%zz HTTP/1.1\nHost: x\nAuthorization: Bearer $TOKEN\n\n", 400, true},
	{"absolute", "GET http://y/v1/verify?app=acme HTTP/1.1\nHost: x\nAuthorization: Bearer $TOKEN\n\n", 204, false},
	{"uncleaned", "GET /x/../v1/verify HTTP/1.1\nHost: x\nAuthorization: Bearer $TOKEN\n\n", 404, false},
	{"two slashes", "GET //v1/verify HTTP/1.1\nHost: x\nAuthorization: Bearer $TOKEN\n\n", 404, false},
	{"beside", "GET /v1/verifying HTTP/1.1\nHost: x\nAuthorization: Bearer $TOKEN\n\n", 404, false},
	{"another path", "GET /nowhere HTTP/1.1\nHost: x\n\n", 404, false},
	{"another path, long header", "GET /nowhere HTTP/1.1\nHost: x\nCookie: " + strings.Repeat("x", 9000) + "\n\n", 431, false},
	{"of the original", "DELETE /v1/verify/ HTTP/1.1\nHost: x\nAuthorization: Bearer $TOKEN\n\n", 204, false},
	{"of the original, without its path", "DELETE /v1/verify HTTP/1.1\nHost: x\nAuthorization: Bearer $TOKEN\n\n", 405, false},
	{"of the original, revoked", "PATCH /v1/verify/orig?page=2 HTTP/1.1\nHost: x\nAuthorization: Bearer $GONE\n\n", 401, false},
	{"of the original, options", "OPTIONS /v1/verify/orig HTTP/1.1\nHost: x\nOrigin: https://evil.example\nAccess-Control-Request-Method: PUT\n\n", 401, false},
	{"of the original, body", "PUT /v1/verify/x HTTP/1.1\nHost: x\nAuthorization: Bearer $TOKEN\nContent-Length: 2\n\n{}", 204, false},
	{"of the original, body bears nothing", "PUT /v1/verify/x HTTP/1.1\nHost: x\nContent-Type: application/json\nContent-Length: $LEN\n\n{\"session_token\":\"$TOKEN\"}", 401, false},
	{"of the original, body too long", "PUT /v1/verify/ HTTP/1.1\nHost: x\nAuthorization: Bearer $TOKEN\nContent-Length: 65537\n\n" + strings.Repeat(" ", 65537), 401, true},
	{"of the original, uncleaned", "DELETE /v1/verify/../x HTTP/1.1\nHost: x\nAuthorization: Bearer $TOKEN\n\n", 204, false},
	{"of the original, long cookie", "PUT /v1/verify/ HTTP/1.1\nHost: x\nCookie: a=" + strings.Repeat("x", 9000) + "; session=$TOKEN\n\n", 204, false},
	{"for Envoy", "PUT /v1/ext_authz/acme/orig?app=shut&body=1 HTTP/1.1\nHost: x\nAuthorization: Bearer $TOKEN\n\n", 200, false},
	{"for Envoy, any app", "GET /v1/ext_authz/-/../x HTTP/1.1\nHost: x\nCookie: __Host-session=$TOKEN\n\n", 200, false},
	{"for Envoy, another app", "GET /v1/ext_authz/shut/ HTTP/1.1\nHost: x\nAuthorization: Bearer $TOKEN\n\n", 401, false},
	{"for Envoy, no app", "GET /v1/ext_authz// HTTP/1.1\nHost: x\nAuthorization: Bearer $TOKEN\n\n", 401, false},
	{"for Envoy, suspended", "DELETE /v1/ext_authz/shut/x HTTP/1.1\nHost: x\nAuthorization: Bearer $SHUT\n\n", 403, false},
	{"another method", "BREW /v1/verify HTTP/1.1\nHost: x\nAuthorization: Bearer $TOKEN\n\n", 405, false},
	{"another method, body", "PROPFIND /v1/verify/x HTTP/1.1\nHost: x\nContent-Length: 2\n\n{}", 405, false},
	{"another method, uncleaned", "BREW /v1/verify/../x HTTP/1.1\nHost: x\n\n", 404, false},
	{"authorization", "GET /v1/verify?header=authorization HTTP/1.1\nHost: x\nAuthorization: Bearer $TOKEN\n\n", 204, false},
	{"authorization, body", "GET /v1/verify?header=authorization&body=1 HTTP/1.1\nHost: x\nAuthorization: Bearer $TOKEN\n\n", 200, false},
	{"authorization, escaped", "GET /v1/verify?he%61der=authorization HTTP/1.1\nHost: x\nAuthorization: Bearer $TOKEN\n\n", 204, false},
	{"authorization, refused", "GET /v1/verify?header=authorization HTTP/1.1\nHost: x\nAuthorization: Bearer $GONE\n\n", 401, false},
	{"authorization, missing", "GET /v1/verify?header=authorization HTTP/1.1\nHost: x\n\n", 401, false},
	{"authorization, suspended", "GET /v1/verify?header=authorization HTTP/1.1\nHost: x\nAuthorization: Bearer $SHUT\n\n", 403, false},
	{"authorization, served when stale", "GET /v1/verify?header=authorization&jwt=1 HTTP/1.1\nHost: x\nAuthorization: Bearer $SERVED\n\n", 204, false},
	{"another header", "GET /v1/verify?header=cookie&header=authorization HTTP/1.1\nHost: x\nAuthorization: Bearer $TOKEN\n\n", 204, false},
	{"long bearer", "GET /v1/verify HTTP/1.1\nHost: x\nAuthorization: Bearer " + strings.Repeat("x", 9000) + "\n\n", 401, false},
	{"long cookie beside", "GET /v1/verify HTTP/1.1\nHost: x\nCookie: a=" + strings.Repeat("x", 9000) + "; session=$TOKEN\n\n", 204, false},
	{"head too long", "GET /v1/verify HTTP/1.1\nHost: x\nCookie: a=" + strings.Repeat("x", 30<<10) + "\n\n", 431, true},
	{"continued line", "GET /v1/verify HTTP/1.1\nHost: x\nX: y\n Authorization: Bearer $BAD\nAuthorization: Bearer $TOKEN\n\n", 204, false},
	{"continued credential", "GET /v1/verify HTTP/1.1\nHost: x\nAuthorization: Bearer\n $TOKEN\n\n", 204, false},
	{"no host", "GET /v1/verify HTTP/1.1\nAuthorization: Bearer $TOKEN\n\n", 400, true},
	{"two hosts", "GET /v1/verify HTTP/1.1\nHost: x\nHost: y\nAuthorization: Bearer $TOKEN\n\n", 400, true},
	{"a name with a blank", "GET /v1/verify HTTP/1.1\nHost: x\nA b: c\nAuthorization: Bearer $TOKEN\n\n", 400, true},
	{"a line without a colon", "GET /v1/verify HTTP/1.1\nHost: x\nAuthorization\n\n", 400, true},
	{"a value with NUL", "GET /v1/verify HTTP/1.1\nHost: x\nA: \x00\nAuthorization: Bearer $TOKEN\n\n", 400, true},
	{"HTTP/1.0", "GET /v1/verify HTTP/1.0\nAuthorization: Bearer $TOKEN\n\n", 204, true},
	{"HTTP/3.0", "GET /v1/verify HTTP/3.0\nHost: x\nAuthorization: Bearer $TOKEN\n\n", 0, true},
	{"no HTTP", "hello\n\n", 400, true},
	{"a host that is none", "GET /v1/verify HTTP/1.1\nHost: x y\nAuthorization: Bearer $TOKEN\n\n", 400, true},
	{"a host with an at sign", "GET /v1/verify HTTP/1.1\nHost: x@y/z\nAuthorization: Bearer $TOKEN\n\n", 400, true},
	{"a host of other letters", "GET /v1/verify HTTP/1.1\nHost: \xc3\xb6\nAuthorization: Bearer $TOKEN\n\n", 400, true},
	{"connect", "CONNECT /v1/verify HTTP/1.1\nHost: x\nAuthorization: Bearer $TOKEN\n\n", 405, false},
	{"connect, authority", "CONNECT x:80 HTTP/1.1\nHost: x:80\nAuthorization: Bearer $TOKEN\n\n", 404, false},
	{"bytes beyond ASCII", "GET /v1/verify HTTP/1.1\nHost: x\nCookie: a=\xff\xc3\xb6; session=$TOKEN\n\n", 204, false},
	{"a credential beyond ASCII", "GET /v1/verify HTTP/1.1\nHost: x\nAuthorization: Bearer \xff\xc3\xb6\n\n", 401, false},
	{"cookie twice", "GET /v1/verify HTTP/1.1\nHost: x\nCookie: session=$BAD; session=$TOKEN\n\n", 401, false},
	{"cookie with a quote", "GET /v1/verify HTTP/1.1\nHost: x\nCookie: session=\"$TOKEN\n\n", 401, false},
	{"cookie of another case", "GET /v1/verify HTTP/1.1\nHost: x\nCookie: Session=$TOKEN\n\n", 401, false},
	{"cookie after commas", "GET /v1/verify HTTP/1.1\nHost: x\nCookie: a=b, session=$TOKEN\n\n", 401, false},
	{"underscores", "GET /v1/verify HTTP/1.1\nHost: x\nX_Session_Background: 1\nAuthorization: Bearer $TOKEN\n\n", 204, false},
	{"upgrade", "GET /v1/verify HTTP/1.1\nHost: x\nConnection: Upgrade\nUpgrade: h2c\nAuthorization: Bearer $TOKEN\n\n", 204, false},
	{"many fields", "GET /v1/verify HTTP/1.1\nHost: x\n" + strings.Repeat("A: b\n", 1500) + "Authorization: Bearer $TOKEN\n\n", 204, false},
	{"a length with a sign", "POST /v1/verify HTTP/1.1\nHost: x\nContent-Length: +2\nAuthorization: Bearer $TOKEN\n\n{}", 400, true},
	{"a length with a comma", "POST /v1/verify HTTP/1.1\nHost: x\nContent-Length: 2, 2\nAuthorization: Bearer $TOKEN\n\n{}", 400, true},
	{"no length", "POST /v1/verify HTTP/1.1\nHost: x\nContent-Length:\nAuthorization: Bearer $TOKEN\n\n", 400, true},
	{"a length beyond numbers", "POST /v1/verify HTTP/1.1\nHost: x\nContent-Length: 18446744073709551618\nAuthorization: Bearer $TOKEN\n\n{}", 400, true},
	{"a length in the fold", "POST /v1/verify HTTP/1.1\nHost: x\nContent-Length:\n 2\nAuthorization: Bearer $TOKEN\n\n{}", 204, false},
	{"two encodings", "POST /v1/verify HTTP/1.1\nHost: x\nTransfer-Encoding: chunked\nTransfer-Encoding: identity\nAuthorization: Bearer $TOKEN\n\n0\n\n", 0, true},
	{"an encoding before chunks", "POST /v1/verify HTTP/1.1\nHost: x\nTransfer-Encoding: gzip, chunked\nAuthorization: Bearer $TOKEN\n\n0\n\n", 0, true},
	{"an encoding with a byte too many", "POST /v1/verify HTTP/1.1\nHost: x\nTransfer-Encoding: \x0bchunked\nAuthorization: Bearer $TOKEN\n\n0\n\n", 0, true},
	{"an encoding by another name", "POST /v1/verify HTTP/1.1\nHost: x\nTransfer_Encoding: chunked\nAuthorization: Bearer $TOKEN\n\n", 204, false},
	{"chunks in HTTP/1.0", "POST /v1/verify HTTP/1.0\nTransfer-Encoding: chunked\nAuthorization: Bearer $TOKEN\n\n0\n\n", 0, true},
	{"extended chunks", "POST /v1/verify HTTP/1.1\nHost: x\nTransfer-Encoding: chunked\nAuthorization: Bearer $TOKEN\n\n2;a=b\n{}\n0\n\n", 204, false},
	{"a tab in the first line", "GET\t/v1/verify HTTP/1.1\nHost: x\nAuthorization: Bearer $TOKEN\n\n", 400, true},
	{"two blanks in the first line", "GET  /v1/verify HTTP/1.1\nHost: x\nAuthorization: Bearer $TOKEN\n\n", 400, true},
	{"a blank at the end of the first line", "GET /v1/verify HTTP/1.1 \nHost: x\nAuthorization: Bearer $TOKEN\n\n", 400, true},
	{"a lower-case method", "get /v1/verify HTTP/1.1\nHost: x\nAuthorization: Bearer $TOKEN\n\n", 405, false},
	{"pipelined", "GET /v1/verify HTTP/1.1\nHost: x\nAuthorization: Bearer $TOKEN\n\nGET /v1/verify HTTP/1.1\nHost: x\nAuthorization: Bearer $GONE\n\n", 204, false},
}

// probe is what follows each case on its connection.
const probe = "GET /v1/verify HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer $BAD\r\nConnection: close\r\n\r\n"

// TestLeanListener drives both listeners with every case, while the node is
// fresh and once it is fenced, and compares all that they answer and count.
func TestLeanListener(t *testing.T) {
	w := newTwins(t)
	for _, fenced := range []bool{false, true} {
		if fenced {
			w.home.Cut()
			w.clock.leap.Store(int64(time.Hour))
		}
		var counted [2]map[string]float64
		for i, addr := range []string{w.main, w.lean} {
			before := w.verifyCounters()
			for _, refusals := range []bool{false, true} {
				for _, tc := range leanCases {
					if refusals == (tc.status == 0) {
						w.compare(tc.name, tc.request, tc.status, tc.closes, fenced, addr == w.lean)
					}
				}
				if !refusals {
					counted[i] = w.verifyCounters()
				}
			}
			for k, v := range before {
				if counted[i][k] -= v; counted[i][k] == 0 {
					delete(counted[i], k)
				}
			}
		}
		if diff := cmp.Diff(counted[0], counted[1]); diff != "" || len(counted[0]) < 3 {
			t.Errorf("fenced %v: they count differently (-main +lean):\n%s", fenced, diff)
		}
	}
}

// compare sends a case to one of the listeners; the main one comes first.
func (w *twins) compare(name, request string, status int, closes, fenced, lean bool) {
	w.t.Helper()
	text := w.credentials.Replace(request)
	// A fresh one each time: none counts twice.
	text = strings.ReplaceAll(text, "$PROOF", w.device.proof("GET", verifyAt, w.bound))
	text = strings.ReplaceAll(text, "$FORWARDED", w.device.proof("PUT", "https://shop.example/cart", w.bound))
	_, body, _ := strings.Cut(text, "\r\n\r\n")
	text = strings.Replace(text, "$LEN", strconv.Itoa(len(body)), 1)
	if !closes {
		text += w.credentials.Replace(probe)
	}
	key := fmt.Sprint(name, fenced)
	if !lean {
		all := exchange(w.t, w.main, text)
		w.answers[key] = all
		if len(all) == 0 || !fenced && status != 0 && all[0].Status != status || !closes && len(all) < 2 {
			w.t.Errorf("%s: main listener: %+v, want %d", name, all, status)
		}
		return
	}
	want, all := w.answers[key], exchange(w.t, w.lean, text)
	if status == 0 && len(all) > 0 && all[0].Status < 400 {
		w.t.Errorf("%s: %+v, want a refusal", name, all)
	} else if status == 0 {
		return
	}
	if diff := cmp.Diff(want, all); diff != "" {
		w.t.Errorf("%s, fenced %v: the listeners differ (-main +lean):\n%s", name, fenced, diff)
	}
}

// verifyCounters returns the counts of verdicts.
func (w *twins) verifyCounters() map[string]float64 {
	w.t.Helper()
	rec := httptest.NewRecorder()
	w.node.Metrics().ServeHTTP(rec, httptest.NewRequest("GET", "/metrics", nil))
	all := map[string]float64{}
	for line := range strings.Lines(rec.Body.String()) {
		var v float64
		if name, value, ok := strings.Cut(strings.TrimSpace(line), " "); ok && strings.HasPrefix(name, "revocast_verify_total{") {
			_, _ = fmt.Sscan(value, &v)
			all[name] = v
		}
	}
	return all
}

// TestLeanReadsTheBodyFirst revokes a session while its bearer is still sending.
func TestLeanReadsTheBodyFirst(t *testing.T) {
	w := newTwins(t)
	c := w.login("ada")
	token := c.str("session_token")
	conn, err := net.Dial("tcp", w.lean)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "POST /v1/verify HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Length: 2\r\n\r\n{", token)
	w.verify(token).want(204)
	w.do(w.key, "DELETE", "/v1/sessions/"+c.str("session.session_id"), nil).want(200)
	fmt.Fprint(conn, "}")
	answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil || answer.StatusCode != 401 || answer.Header.Get("X-Session-Reason") != "revoked" {
		t.Errorf("revoked while the body was sent, and answered %+v, %v", answer, err)
	}
}

// TestLeanServerStops: a request under way is answered, others are not taken.
func TestLeanServerStops(t *testing.T) {
	w := newTwins(t)
	s := w.node.VerifyServer(node.VerifyLimits{Read: time.Minute})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	busy, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	token := w.login("ada").str("session_token")
	answers := bufio.NewReader(busy)
	// The first makes sure that the server has taken the connection.
	fmt.Fprintf(busy, "GET /v1/verify HTTP/1.1\r\nHost: x\r\n\r\n")
	if answer, err := http.ReadResponse(answers, nil); err != nil || answer.StatusCode != 401 {
		t.Fatalf("%+v, %v", answer, err)
	}
	fmt.Fprintf(busy, "GET /v1/verify HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Length: 1\r\nExpect: 100-continue\r\n\r\n", token)
	if answer, err := http.ReadResponse(answers, nil); err != nil || answer.StatusCode != 100 {
		t.Fatalf("%+v, %v", answer, err)
	}
	stopped := make(chan error, 1)
	go func() { stopped <- s.Shutdown(context.Background()) }()
	if err := <-served; !errors.Is(err, http.ErrServerClosed) {
		t.Errorf("serve: %v", err)
	}
	fmt.Fprint(busy, "x")
	if answer, err := http.ReadResponse(answers, nil); err != nil || answer.StatusCode != 204 {
		t.Errorf("under way: %+v, %v", answer, err)
	}
	if err := <-stopped; err != nil {
		t.Errorf("shut down: %v", err)
	}
	if l, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		t.Errorf("serve after the end: %v", err)
	}
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the listener is open: %v", err)
	}
}
