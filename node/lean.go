package node

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/valyala/fasthttp"
)

// VerifyServer serves /v1/verify and what is below it, and nothing else, through
// a leaner HTTP library than net/http, with the same answers as
// [Node.Handler].
//
// Only requests of the usual form go the short way. All others are read once more
// by net/http and answered by its handler: where the two libraries might
// understand a request differently, net/http decides.
type VerifyServer struct {
	node    *Node
	http    fasthttp.Server
	aside   http.Handler    // what is not of the usual form
	life    context.Context // of requests; the library's own ends with none of them
	endLife context.CancelFunc

	mu       sync.Mutex // guards the fields below
	listener *closeOnce
	conns    map[net.Conn]struct{}
	stopped  bool
}

// VerifyLimits bound the connections of a [VerifyServer]. None has a default:
// zero is no limit, except of the head.
type VerifyLimits struct {
	// Read is the time for a request, from its first byte to its last.
	Read time.Duration
	// Write is the time for an answer.
	Write time.Duration
	// Idle is the time between two requests.
	Idle time.Duration
	// Head is how many bytes the head of a request may have; each connection has
	// a buffer of that size. Zero: 4096.
	Head int
}

// longestAnswer is more bytes than an answer has: most of them are a JWT of 8 KiB.
// One that was sent in part would not count as held; see leanConn.
const longestAnswer = 16 << 10

// VerifyServer returns a server of /v1/verify alone.
func (n *Node) VerifyServer(l VerifyLimits) *VerifyServer {
	s := &VerifyServer{node: n, aside: n.handler(n.verifyRoutes()), conns: map[net.Conn]struct{}{}}
	s.life, s.endLife = context.WithCancel(context.Background())
	s.http = fasthttp.Server{
		Handler: s.serve, ErrorHandler: s.unread, ConnState: s.connState,
		Logger: printer{n.conf.Log}, SecureErrorLogMessage: true, // most of what printer drops
		ReadTimeout: l.Read, WriteTimeout: l.Write, IdleTimeout: l.Idle,
		ReadBufferSize: l.Head, WriteBufferSize: longestAnswer, MaxRequestBodySize: maxBody,
		CloseOnShutdown: true, LazyRequestTime: true, DisablePreParseMultipartForm: true,
		NoDefaultServerHeader: true, NoDefaultContentType: true,
	}
	return s
}

// Serve serves on l, which it closes, until Shutdown; then it returns
// [http.ErrServerClosed].
func (s *VerifyServer) Serve(l net.Listener) error {
	s.mu.Lock()
	if s.stopped {
		s.mu.Unlock()
		_ = l.Close()
		return http.ErrServerClosed
	}
	s.listener = &closeOnce{Listener: l}
	s.mu.Unlock()
	err := s.http.Serve(s.listener)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return http.ErrServerClosed
	}
	return err
}

// Shutdown takes no more requests and waits until those under way are answered,
// or ctx ends.
func (s *VerifyServer) Shutdown(ctx context.Context) error {
	s.stop()
	defer s.endLife()
	return s.http.ShutdownWithContext(ctx)
}

// Close cuts off what is under way.
func (s *VerifyServer) Close() error {
	s.stop()
	s.endLife()
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for c := range s.conns {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}

func (s *VerifyServer) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopped = true
	if s.listener != nil {
		_ = s.listener.Close() // the library may not have it yet
	}
}

func (s *VerifyServer) connState(c net.Conn, state fasthttp.ConnState) {
	if state != fasthttp.StateNew && state != fasthttp.StateClosed {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if state == fasthttp.StateNew {
		s.conns[c] = struct{}{}
	} else {
		delete(s.conns, c)
	}
}

// serve answers a request, which the library has read to its end.
func (s *VerifyServer) serve(c *fasthttp.RequestCtx) {
	defer s.recover(c)
	c.Conn().(*leanConn).held = true
	var v verifyRequest
	if !readLean(&v, c) || v.verifyQuery.body {
		s.roundabout(c, bytes.NewReader(c.Request.Body()))
		return
	}
	s.answer(c, &v)
}

// answer judges what was asked and writes the answer.
func (s *VerifyServer) answer(c *fasthttp.RequestCtx, v *verifyRequest) {
	o := s.node.decide(s.life, v)
	h := heads.Get().(*head)
	h.fill(&o)
	to := &c.Response.Header
	for i := range h.fields[:h.n] {
		if f := &h.fields[i]; f.shared != nil {
			to.Add(f.name, f.shared[0])
		} else {
			to.AddBytesV(f.name, h.text[f.from:f.to])
		}
	}
	heads.Put(h)
	c.SetStatusCode(o.status)
	if o.status != http.StatusNoContent {
		to.SetContentLength(0) // of an answer to HEAD as well
	}
}

// recover answers a panic of a handler; the library would let it end the process.
func (s *VerifyServer) recover(c *fasthttp.RequestCtx) {
	if p := recover(); p != nil {
		s.node.conf.Log.Error("panic in a handler", "route", "verify listener", "panic", p, "stack", string(debug.Stack()))
		plain(c, http.StatusInternalServerError, "500 Internal Server Error")
	}
}

// plain answers what is no request, in the words of net/http.
func plain(c *fasthttp.RequestCtx, status int, text string) {
	c.Response.Reset()
	c.SetStatusCode(status)
	c.SetContentType("text/plain; charset=utf-8")
	c.SetBodyString(text)
	c.SetConnectionClose()
}

// unread answers what the library could not read to its end. If it is the body
// that is missing, too long or no chunks, that is a credential that cannot be
// read, as on the main listener.
func (s *VerifyServer) unread(c *fasthttp.RequestCtx, err error) {
	defer s.recover(c)
	var timeout net.Error
	switch {
	case c.Conn().(*leanConn).refused:
		plain(c, http.StatusServiceUnavailable, "503 Service Unavailable")
	case errors.As(err, new(*fasthttp.ErrSmallBuffer)):
		plain(c, http.StatusRequestHeaderFieldsTooLarge, "431 Request Header Fields Too Large")
	case len(c.Request.Header.RawHeaders()) > 0:
		s.roundabout(c, errorReader{err})
	case err == io.ErrUnexpectedEOF, errors.Is(err, fasthttp.ErrBodyTooLarge), errors.As(err, new(fasthttp.ErrBrokenChunk)):
		s.answer(c, &verifyRequest{bad: true}) // the library has forgotten the head
	case errors.As(err, &timeout) && timeout.Timeout():
		plain(c, http.StatusRequestTimeout, "408 Request Timeout")
	default:
		plain(c, http.StatusBadRequest, "400 Bad Request")
	}
	c.SetConnectionClose()
}

// errorReader is a body that could not be read.
type errorReader struct{ err error }

// Read implements [io.Reader].
func (r errorReader) Read([]byte) (int, error) { return 0, r.err }

// readLean reads a request of the usual form; !usual says nothing of the request
// but that net/http must judge it. What it keeps is a copy: the library reuses
// its buffers.
func readLean(v *verifyRequest, c *fasthttp.RequestCtx) (usual bool) {
	h := &c.Request.Header
	post := h.IsPost()
	if !post && !h.IsGet() && !h.IsHead() || !h.IsHTTP11() {
		return false
	}
	query, usual := leanTarget(h.RequestURI())
	if !usual {
		return false
	}
	var in leanHead
	if !in.scan(h.RawHeaders()) || !in.hostOnce {
		return false
	}
	v.background = in.background
	v.ask(string(query))
	if v.bad {
		return true
	}
	p := presentation{authorization: in.authorization, cookies: in.cookies, post: post, body: c.Request.Body()}
	if post && len(p.body) > 0 {
		p.contentType = string(in.contentType)
	}
	v.shown, v.bad = presented(&p)
	return true
}

// leanTarget returns the query of a request target that is /v1/verify, or below
// it, and in which each byte of the path stands for itself.
func leanTarget(target []byte) (query []byte, usual bool) {
	path, query, _ := bytes.Cut(target, []byte("?"))
	rest, ok := bytes.CutPrefix(path, []byte("/v1/verify"))
	if !ok || len(rest) > 0 && rest[0] != '/' {
		return nil, false
	}
	for _, b := range rest {
		if b <= ' ' || b > '~' || b == '%' || b == '#' || b == '\\' {
			return nil, false
		}
	}
	for _, b := range query {
		if b <= ' ' || b > '~' || b == '#' {
			return nil, false
		}
	}
	return query, true
}

// leanHead is what a verify needs of the head of a request.
type leanHead struct {
	authorization, cookies []string
	contentType            []byte
	background, hostOnce   bool
}

// scan reads the head, whose form the library has checked. !usual: there are
// fields that another part of the library may have understood differently than
// net/http would.
func (in *leanHead) scan(raw []byte) (usual bool) {
	for len(raw) > 0 {
		line, rest, _ := bytes.Cut(raw, []byte("\n"))
		raw = rest
		line = bytes.TrimSuffix(line, []byte("\r"))
		if len(line) == 0 {
			return len(raw) == 0
		}
		colon := bytes.IndexByte(line, ':')
		if colon <= 0 || !isToken(line[:colon]) { // so also a continued line
			return false
		}
		if !in.field(line[:colon], line[colon+1:]) {
			return false
		}
	}
	return false // the empty line is missing
}

func (in *leanHead) field(name, value []byte) (usual bool) {
	switch len(name) {
	case len("Authorization"):
		if is(name, "Authorization") {
			in.authorization = append(in.authorization, string(bytes.Trim(value, " \t")))
		}
	case len("Cookie"):
		if is(name, "Cookie") {
			in.cookies = append(in.cookies, string(bytes.Trim(value, " \t")))
		}
		return !is(name, "Expect")
	case len("Content-Type"):
		if is(name, "Content-Type") && in.contentType == nil {
			in.contentType = bytes.Trim(value, " \t")
		}
	case len(backgroundHeader):
		in.background = in.background || is(name, backgroundHeader)
	case len("Transfer-Encoding"):
		return !is(name, "Transfer-Encoding")
	case len("Trailer"):
		return !is(name, "Trailer") && !is(name, "Upgrade")
	case len("Host"):
		if is(name, "Host") {
			if value = bytes.Trim(value, " \t"); in.hostOnce || !plainHost(value) {
				return false
			}
			in.hostOnce = true
		}
		return !is(name, dpopHeader) // a proof is seldom, and costs more to check than the way around
	}
	return true
}

func is(name []byte, want string) bool { return strings.EqualFold(string(name), want) }

// isToken reports whether b can be the name of a field (RFC 9110 section 5.6.2).
func isToken(b []byte) bool {
	for _, c := range b {
		if !tokenBytes[c] {
			return false
		}
	}
	return true
}

var tokenBytes = func() (t [256]bool) {
	for c := range t {
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		t[c] = letter || c < 0x80 && c > ' ' && strings.IndexByte("!#$%&'*+-.^_`|~", byte(c)) >= 0
	}
	return t
}()

// plainHost reports whether b is a host without anything that needs thought.
func plainHost(b []byte) bool {
	for _, c := range b {
		if c != ':' && c != '[' && c != ']' && !tokenBytes[c] || c == '%' {
			return false
		}
	}
	return len(b) > 0
}

// roundabout lets net/http read the head and its handler answer.
func (s *VerifyServer) roundabout(c *fasthttp.RequestCtx, body io.Reader) {
	h := &c.Request.Header
	var raw bytes.Buffer
	raw.Grow(len(h.RequestURI()) + len(h.RawHeaders()) + 64)
	fmt.Fprintf(&raw, "%s %s %s\r\n", h.Method(), h.RequestURI(), h.Protocol())
	raw.Write(h.RawHeaders())
	r, err := http.ReadRequest(bufio.NewReader(&raw))
	switch {
	case err != nil, r.ProtoAtLeast(1, 1) && !hasHost(h.RawHeaders()), !validHost(h.Host()), !hasTokens(r.Header):
		plain(c, http.StatusBadRequest, "400 Bad Request")
		return
	case r.ProtoMajor != 1:
		plain(c, http.StatusHTTPVersionNotSupported, "505 HTTP Version Not Supported")
		return
	}
	if expect := r.Header.Get("Expect"); expect != "" && !strings.EqualFold(expect, "100-continue") {
		c.Response.Reset()
		c.SetStatusCode(http.StatusExpectationFailed)
		c.SetConnectionClose()
		return
	}
	r.Body, r.RemoteAddr = io.NopCloser(body), c.RemoteAddr().String()
	if r.ContentLength == 0 {
		r.Body = http.NoBody
	}
	w := recorded{header: http.Header{}, status: http.StatusOK}
	s.aside.ServeHTTP(&w, r.WithContext(s.life))
	for name, values := range w.header {
		for _, v := range values {
			c.Response.Header.Add(name, v)
		}
	}
	c.SetStatusCode(w.status)
	if w.status != http.StatusNoContent {
		c.SetBody(w.body.Bytes())
	}
}

// hasHost, validHost and hasTokens are what the server of net/http demands beyond
// http.ReadRequest.
func hasHost(raw []byte) bool {
	return bytes.Contains(bytes.ToLower(append([]byte("\n"), raw...)), []byte("\nhost:"))
}

func validHost(host []byte) bool {
	for _, c := range host {
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		if !letter && strings.IndexByte("!$%&'()*+,-.:;=[]_~", c) < 0 {
			return false
		}
	}
	return true
}

func hasTokens(h http.Header) bool {
	for name := range h {
		if !isToken([]byte(name)) {
			return false
		}
	}
	return true
}

// recorded is an answer of a handler of net/http.
type recorded struct {
	header http.Header
	status int
	wrote  bool
	body   bytes.Buffer
}

// Header implements [http.ResponseWriter].
func (w *recorded) Header() http.Header { return w.header }

// WriteHeader implements [http.ResponseWriter].
func (w *recorded) WriteHeader(status int) {
	if !w.wrote {
		w.status, w.wrote = status, true
	}
}

// Write implements [http.ResponseWriter].
func (w *recorded) Write(b []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	return w.body.Write(b)
}
