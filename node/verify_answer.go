package node

import (
	"context"
	"encoding/base64"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/revocast/revocast/node/api"
)

// Values of headers that are shared by all answers. Nobody writes to them.
var (
	dash      = []string{"-"}
	zero      = []string{"0"}
	noStore   = []string{"no-store"}
	retry     = []string{"1"}
	challenge = []string{`Bearer error="invalid_token"`}
	ask       = []string{"Bearer"} // RFC 6750 section 3.1: no error code when nothing was shown
)

// maxFields is the most header fields that an answer can have.
const maxFields = 12

// head is the head of an answer, for whichever library writes it: each field
// once, under its canonical name. Heads are pooled; what a listener keeps of one
// is a copy.
type head struct {
	n      int
	fields [maxFields]headField
	text   []byte // the values that are this answer's own, one after the other
}

// headField is a field whose value is shared by many answers, or else
// text[from:to].
type headField struct {
	name     string
	shared   []string
	from, to int
}

var heads = sync.Pool{New: func() any { return &head{text: make([]byte, 0, 512)} }}

// share adds a field whose value other answers have too.
func (h *head) share(name string, value []string) {
	h.fields[h.n] = headField{name: name, shared: value}
	h.n++
}

// own adds a field whose value is what was appended to text from there on.
func (h *head) own(name string, from int) {
	h.fields[h.n] = headField{name: name, from: from, to: len(h.text)}
	h.n++
}

func (h *head) put(name, value string) {
	from := len(h.text)
	h.text = append(h.text, value...)
	h.own(name, from)
}

func (h *head) number(name string, value int64) {
	from := len(h.text)
	h.text = strconv.AppendInt(h.text, value, 10)
	h.own(name, from)
}

// fill makes the head of the answer.
func (h *head) fill(o *outcome) {
	h.n, h.text = 0, appendRequestID(h.text[:0])
	h.own("X-Request-Id", 0)
	h.share("Cache-Control", noStore)
	if o.reason == reasonNone {
		h.share("X-Session-Reason", dash)
	} else {
		h.put("X-Session-Reason", o.reason)
	}
	if o.err != nil && o.status != http.StatusForbidden {
		h.share("X-Session-Staleness-Ms", dash)
	} else {
		h.number("X-Session-Staleness-Ms", o.staleness.Milliseconds())
	}
	if o.status == http.StatusNoContent {
		h.fillGood(o)
	} else {
		for _, name := range [...]string{"X-Session-Id", "X-Session-User", "X-Session-App", "X-Session-Expires", "X-Session-Jwt"} {
			h.share(name, dash)
		}
	}
	switch {
	case o.status == http.StatusServiceUnavailable:
		h.share("Retry-After", retry)
	case o.status == http.StatusUnauthorized && o.reason == reasonMissing:
		h.share("Www-Authenticate", ask)
	case o.stepUp != nil:
		h.put("Www-Authenticate", o.stepUp.challenge)
	case o.status == http.StatusUnauthorized:
		h.share("Www-Authenticate", challenge)
	}
}

// fillGood says whose session it is, and what is seldom asked for or seldom true.
func (h *head) fillGood(o *outcome) {
	from := len(h.text)
	h.text = base64.RawURLEncoding.AppendEncode(h.text, o.SID[:])
	h.own("X-Session-Id", from)
	h.put("X-Session-User", headerText(o.User))
	h.put("X-Session-App", o.App)
	h.number("X-Session-Expires", o.ExpiresAt/1000)
	if o.stale != "" {
		h.put("X-Session-Freshness", staleHeader(o.answer))
	}
	if o.jwt == "" {
		h.share("X-Session-Jwt", dash)
	} else {
		h.put("X-Session-Jwt", o.jwt)
	}
}

// verifiedJWT returns a JWT of the session, empty when there is none.
func (n *Node) verifiedJWT(ctx context.Context, o *outcome) string {
	// A verify does not wait for a private part as long as other answers do.
	ctx, cancel := context.WithTimeout(ctx, jwtPatience)
	defer cancel()
	jwt, _, err := n.mint(ctx, found{answer: o.answer, at: o.at}, nil, jwtOrder{})
	if err == nil {
		return jwt
	}
	if kind := classify(err).kind; kind != api.SessionNotFound && n.refusals.first(kind, n.conf.Clock.Boot()) {
		n.conf.Log.Error("no JWT for a verified session", "app", o.App, "error", err)
	}
	return ""
}

// into sets the fields on an answer of net/http: their values are parts of one
// text, in one block of memory.
func (h *head) into(to http.Header) {
	text, values := string(h.text), make([]string, h.n)
	for i := range h.fields[:h.n] {
		f := &h.fields[i]
		if f.shared != nil {
			to[f.name] = f.shared
			continue
		}
		values[i] = text[f.from:f.to]
		to[f.name] = values[i : i+1 : i+1]
	}
}

// respond writes the answer.
func (n *Node) respond(w http.ResponseWriter, r *http.Request, o *outcome, q *verifyQuery) {
	h, to := heads.Get().(*head), w.Header()
	h.fill(o)
	h.into(to)
	heads.Put(h)
	if q.body {
		n.respondBody(w, &call{n: n, r: r, h: to, id: to["X-Request-Id"][0]}, o)
		return
	}
	if o.status != http.StatusNoContent {
		to["Content-Length"] = zero
	}
	w.WriteHeader(o.status)
}

// respondBody answers with a body, for who asks for one.
func (n *Node) respondBody(w http.ResponseWriter, c *call, o *outcome) {
	c.h.Set("X-Content-Type-Options", "nosniff")
	if o.status == http.StatusNoContent {
		respond(w, c, http.StatusOK, &api.VerifyAnswer{
			Freshness: found{answer: o.answer, at: o.at}.freshness(),
			SessionID: o.SID.String(), AppID: o.App, UserID: o.User, ExpiresAt: date(o.ExpiresAt),
		})
		return
	}
	f := classify(o.err)
	switch {
	case o.err != nil:
	case o.stepUp != nil:
		f = o.stepUp
	case o.reason == reasonEarly:
		f = tooEarly()
	default:
		f = fail(api.SessionNotFound, "no such session, or it has ended").with("reason", o.reason)
	}
	body := f.body(n.issuer, c.id)
	body.StatusCode = o.status
	respond(w, c, o.status, body)
}

// headerText returns s for a header: as it is when it is visible ASCII without
// a percent sign, else percent-encoded, so that decoding percent signs gives s
// back in any case. A lone dash, which in these headers means nobody, is
// encoded as well.
func headerText(s string) string {
	if s == "-" {
		return "%2D"
	}
	for i := range len(s) {
		if !headerSafe(s[i]) {
			return escapeHeader(s)
		}
	}
	return s
}

func headerSafe(c byte) bool { return c > ' ' && c < 0x7f && c != '%' }

func escapeHeader(s string) string {
	const hex = "0123456789ABCDEF"
	b := make([]byte, 0, 3*len(s))
	for i := range len(s) {
		if c := s[i]; headerSafe(c) {
			b = append(b, c)
		} else {
			b = append(b, '%', hex[c>>4], hex[c&15])
		}
	}
	return string(b)
}

// Request ids of the hot path: random once per process, then counted.
var (
	requestPrefix = newRequestID() + "-"
	requestCount  atomic.Uint64
)

func appendRequestID(b []byte) []byte {
	return strconv.AppendUint(append(b, requestPrefix...), requestCount.Add(1), 36)
}
