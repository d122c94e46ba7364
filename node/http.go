package node

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"mime"
	"net/http"
	"net/url"
	"runtime/debug"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/revocast/revocast/node/api"
)

// Limits of a request (DESIGN section 7).
const (
	maxBody        = 64 << 10
	maxCredentials = 8 << 10 // a header that bears a token
)

// call is one request on its way through a handler.
type call struct {
	n  *Node
	r  *http.Request
	h  http.Header // of the answer
	id string      // of the request

	// The body, read before anything is judged, and why it could not be read.
	body    []byte
	bodyErr error

	// Set by authorize for routes that need an API key.
	caller caller
	// query holds what the route's query names, each once.
	query url.Values
}

// handler answers a call with a status and a body, or an error. The body is a
// pointer to a type of package api.
type handler func(ctx context.Context, c *call) (status int, body any, err error)

// rawBody is a body that is no JSON. Its handler sets Content-Type.
type rawBody []byte

// filler is what api.Meta gives a body.
type filler interface {
	Fill(requestID string, status int)
}

// serve wraps the handler of a route: request id, API key and scope, panics,
// errors, metrics.
func (n *Node) serve(rt route) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		c := n.newCall(w, r)
		status, body, err := n.invoke(c, rt)
		if err != nil {
			status, body = n.failed(c, rt, err)
		}
		respond(w, c, status, body)
		n.metrics.requests.WithLabelValues(rt.pattern, strconv.Itoa(status)).Observe(time.Since(start).Seconds())
	})
}

// newCall sets what every answer carries.
func (n *Node) newCall(w http.ResponseWriter, r *http.Request) *call {
	c := &call{n: n, r: r, h: w.Header(), id: newRequestID()}
	c.h.Set("X-Request-Id", c.id)
	c.h.Set("X-Content-Type-Options", "nosniff")
	c.h.Set("Cache-Control", "no-store")
	return c
}

func (n *Node) invoke(c *call, rt route) (status int, body any, err error) {
	defer func() {
		if p := recover(); p != nil && p != http.ErrAbortHandler {
			n.conf.Log.Error("panic in a handler", "route", rt.pattern, "request_id", c.id, "panic", p, "stack", string(debug.Stack()))
			status, body, err = 0, nil, errors.New("panic")
		}
	}()
	// To its end, before any clock is read or lookup made: a slow sender must
	// not outlive a revocation, be it of its session, its API key or its app.
	if c.r.Body != nil {
		c.body, c.bodyErr = readBody(nil, c.r, make([]byte, min(max(c.r.ContentLength, 0), maxBody)+1))
	}
	if rt.scope != "" && !rt.oauth {
		if c.caller, err = n.authorize(c.r, rt.scope); err != nil {
			return 0, nil, err
		}
	}
	if !rt.open {
		if c.query, err = readQuery(c.r.URL.RawQuery, rt.query...); err != nil {
			return 0, nil, err
		}
	}
	return rt.handle(c.r.Context(), c)
}

func (n *Node) failed(c *call, rt route, err error) (status int, body any) {
	f := classify(err)
	status = statusOf[f.kind]
	if status >= http.StatusInternalServerError && status != http.StatusNotImplemented && (status != http.StatusServiceUnavailable || n.refusals.first(f.kind, n.conf.Clock.Boot())) {
		n.conf.Log.Error("request failed", "request_id", c.id, "route", c.r.Pattern, "error_type", f.kind, "error", err)
	}
	if rt.oauth {
		return oauthFailed(c, f)
	}
	f.headers(c.h)
	return status, refusedAs(c.r.URL.Path, f.body(n.issuer, c.id))
}

// refusals lets one line a minute of each error type through: a fenced node
// under load would otherwise say the same thousands of times a second.
type refusals struct {
	mu   sync.Mutex // guards last
	last map[string]time.Duration
}

func (r *refusals) first(kind string, now time.Duration) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if at, ok := r.last[kind]; ok && now-at < warnEvery {
		return false
	}
	if r.last == nil {
		r.last = map[string]time.Duration{}
	}
	r.last[kind] = now
	return true
}

// respond writes the body, whose Content-Type must be exactly application/json:
// some clients parse nothing else.
func respond(w http.ResponseWriter, c *call, status int, body any) {
	if body == nil {
		w.WriteHeader(status)
		return
	}
	if b, ok := body.(rawBody); ok {
		c.h.Set("Content-Length", strconv.Itoa(len(b)))
		w.WriteHeader(status)
		_, _ = w.Write(b) // a client that went away reads nothing
		return
	}
	if f, ok := body.(filler); ok {
		f.Fill(c.id, status)
	}
	if f, ok := body.(interface{ ConfigStale(ms int64) }); ok {
		now := c.n.conf.Clock.Boot()
		if age, known := c.n.settings.lease.staleness(now); known && !c.n.settings.lease.holds(now) {
			f.ConfigStale(age.Milliseconds())
		}
	}
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(body); err != nil {
		c.n.conf.Log.Error("encode answer", "request_id", c.id, "error", err)
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	if c.h.Get("Content-Type") == "" {
		c.h.Set("Content-Type", "application/json")
	}
	c.h.Set("Content-Length", strconv.Itoa(buf.Len()))
	w.WriteHeader(status)
	_, _ = w.Write(buf.Bytes()) // a client that went away reads nothing
}

// readQuery reads the parameters, of which there may be only these, each once, and app,
// which namedApp and pinOf judge.
func readQuery(raw string, known ...string) (url.Values, error) {
	if raw == "" {
		return nil, nil
	}
	q, err := url.ParseQuery(raw)
	if err != nil {
		return nil, fail(api.InvalidArgument, "the query cannot be read") // not why: it may hold an API key
	}
	for name, values := range q {
		switch {
		case name == "app":
		case !slices.Contains(known, name):
			return nil, fail(api.InvalidArgument, "unknown parameter %q", name).with("field", name)
		case len(values) > 1:
			return nil, fail(api.InvalidArgument, "%s: appears twice", name).with("field", name)
		}
	}
	return q, nil
}

// bodyOf returns the whole body, whatever it is.
func (c *call) bodyOf() ([]byte, error) {
	b, err := c.body, c.bodyErr
	if tooLarge := new(http.MaxBytesError); errors.As(err, &tooLarge) {
		return nil, fail(api.BodyTooLarge, "the body is over %d bytes", maxBody)
	} else if err != nil {
		return nil, fail(api.InvalidArgument, "the body could not be read").because(err)
	}
	if enc := c.r.Header.Get("Content-Encoding"); enc != "" && enc != "identity" {
		return nil, fail(api.MediaType, "Content-Encoding %q: want none", enc)
	}
	return b, nil
}

// read returns the whole body if it may be JSON.
func (c *call) read() ([]byte, error) {
	b, err := c.bodyOf()
	if err != nil {
		return nil, err
	}
	if ct := c.r.Header.Get("Content-Type"); ct != "" && !mediaJSON(ct, b) {
		return nil, fail(api.MediaType, "Content-Type %q: want application/json", ct)
	}
	return b, nil
}

// mediaJSON reports whether a body sent as contentType is taken for JSON. What
// curl -d sends by itself is, when it begins as an object: the routes that read
// bodies demand an API key, which no form in a browser can send.
func mediaJSON(contentType string, body []byte) bool {
	if contentType == "application/json" {
		return true
	}
	media, _, err := mime.ParseMediaType(contentType)
	switch {
	case err != nil:
		return false
	case media == "application/x-www-form-urlencoded":
		return bytes.HasPrefix(bytes.TrimLeft(body, " \t\r\n"), []byte("{"))
	}
	return media == "application/json"
}

// decode reads the body into v: one JSON value, no unknown or repeated
// members, nothing after it. An empty body leaves v as it is.
func (c *call) decode(v any) error {
	b, err := c.read()
	if err != nil || len(b) == 0 {
		return err
	}
	return decodeStrict(b, v)
}

// newRequestID returns a fresh random id in Stytch's form.
func newRequestID() string {
	var b [15]byte
	rand.Read(b[:])
	return "request-id-" + base64.RawURLEncoding.EncodeToString(b[:])
}
