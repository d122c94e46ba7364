package node

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node/api"
)

// Cookies that may bear a token or a JWT. The first cannot be set by another
// host, so it counts before the second.
const (
	hostCookie  = "__Host-session"
	plainCookie = "session"
)

// backgroundHeader marks a request that its user did not make: it is no use of
// the session.
const backgroundHeader = "X-Session-Background"

// verifyRequest is a verify as it was asked for, by whichever listener it came.
type verifyRequest struct {
	shown
	verifyQuery
	bad bool // ambiguous, or it cannot be read: nothing of it is believed
	// badQuery: it is bad because of its query, which whoever set up the proxy wrote.
	badQuery bool

	// Where a proof of possession is looked for once one is needed: the request, or
	// what a caller in this process passes on. Both nil: there is none.
	request *http.Request
	proof   *api.DPoPProof
}

// shown is a credential as it was presented.
type shown struct {
	text   string
	isJWT  bool // only in a body is it said which it is; elsewhere a JWT has dots
	scheme scheme
}

// read reads the request to its end.
//
// The body is read even when it is not needed: net/http would read it before it
// answers, and a slow sender would age the answer.
func (v *verifyRequest) read(w http.ResponseWriter, r *http.Request, query string) {
	var body []byte
	if r.Body != nil && r.Body != http.NoBody {
		buf := bodies.Get().(*[pooledBody]byte)
		defer bodies.Put(buf) // what is kept of the body is a copy
		var err error
		if body, err = readBody(w, r, buf[:]); err != nil {
			v.bad = true
		}
	}
	v.request = r
	v.background = len(r.Header[backgroundHeader]) > 0
	v.ask(query)
	if v.bad {
		return
	}
	v.shown, v.bad = presented(&presentation{
		authorization: r.Header["Authorization"], cookies: r.Header["Cookie"],
		post: r.Method == http.MethodPost, contentType: r.Header.Get("Content-Type"), body: body,
	})
}

// ask takes what the query asks for.
func (v *verifyRequest) ask(query string) {
	background := v.background
	if query != "" && v.verifyQuery.parse(query) {
		v.bad, v.badQuery = true, true
	}
	v.background = v.background || background
}

// pooledBody is the size of the buffers for bodies: more than a JWT's usual size.
const pooledBody = 4 << 10

var bodies = sync.Pool{New: func() any { return new([pooledBody]byte) }}

// readBody returns the body of the request, which may have maxBody bytes: in buf
// when its length is known and fits, which saves what io.ReadAll and the limit
// would allocate.
func readBody(w http.ResponseWriter, r *http.Request, buf []byte) ([]byte, error) {
	if r.ContentLength <= 0 || r.ContentLength >= int64(len(buf)) {
		return io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	}
	have := 0
	for have < len(buf) {
		n, err := r.Body.Read(buf[have:])
		have += n
		switch {
		case err == io.EOF:
			return buf[:have], nil
		case err != nil:
			return nil, err
		}
	}
	return nil, errLongBody
}

// errLongBody: the body has more bytes than the head of the request says.
var errLongBody = errors.New("body is longer than its Content-Length")

// presentation is where a request may bear a credential.
type presentation struct {
	authorization []string // the values of the header
	cookies       []string // likewise
	post          bool     // only then does the body count
	contentType   string
	body          []byte
}

// presented returns the credential of the request: Authorization: Bearer, a
// cookie, or a JSON body; bad when it is ambiguous or cannot be read. An API
// key is not a credential of a session and is passed over. Nothing of p.body is
// kept.
func presented(p *presentation) (cr shown, bad bool) {
	if len(p.authorization) > 1 {
		return shown{}, true
	} else if len(p.authorization) == 1 {
		if text, by := authorization(p.authorization[0]); by != schemeNone {
			cr, bad = textual(text)
			cr.scheme = by
			return cr, bad
		}
	}
	for _, name := range [...]string{hostCookie, plainCookie} {
		if text, ok := cookie(p.cookies, name); ok {
			return textual(text)
		}
	}
	if len(p.body) == 0 || !p.post || !mediaJSON(p.contentType, p.body) {
		return shown{}, false
	}
	if cr, ok := scanCredential(p.body); ok {
		return cr, cr.isJWT && len(cr.text) > maxCredentials
	}
	var in credentialBody
	if decodeStrict(p.body, &in) != nil || in.SessionToken != "" && in.SessionJWT != "" {
		return shown{}, true
	}
	if in.SessionJWT != "" {
		return shown{text: in.SessionJWT, isJWT: true}, len(in.SessionJWT) > maxCredentials
	}
	return shown{text: in.SessionToken}, false
}

// credentialBody is the body of a verify.
type credentialBody struct {
	SessionToken string `json:"session_token"`
	SessionJWT   string `json:"session_jwt"`
}

// scanCredential reads a body of the usual form, an object with one member that
// is a plain text, as decodeStrict would read it, but without reflection; !ok
// says nothing of the body but that decodeStrict must judge it. The text is a
// copy.
func scanCredential(b []byte) (cr shown, ok bool) {
	b = bytes.Trim(b, jsonSpace)
	if len(b) < 2 || b[0] != '{' || b[len(b)-1] != '}' {
		return shown{}, false
	}
	name, b, ok := scanText(bytes.Trim(b[1:len(b)-1], jsonSpace))
	if !ok {
		return shown{}, false
	}
	if b = bytes.TrimLeft(b, jsonSpace); len(b) == 0 || b[0] != ':' {
		return shown{}, false
	}
	value, b, ok := scanText(bytes.TrimLeft(b[1:], jsonSpace))
	if !ok || len(b) != 0 {
		return shown{}, false
	}
	switch string(name) {
	case "session_token":
		return shown{text: string(value)}, true
	case "session_jwt":
		return shown{text: string(value), isJWT: len(value) > 0}, true
	}
	return shown{}, false
}

// jsonSpace is what JSON takes for white space.
const jsonSpace = " \t\r\n"

// scanText takes a JSON string off the front of b that stands for itself: of
// visible ASCII, without escapes.
func scanText(b []byte) (text, rest []byte, ok bool) {
	if len(b) == 0 || b[0] != '"' {
		return nil, nil, false
	}
	for i, c := range b[1:] {
		switch {
		case c == '"':
			return b[1 : i+1], b[i+2:], true
		case c < ' ' || c > '~' || c == '\\':
			return nil, nil, false
		}
	}
	return nil, nil, false
}

func textual(text string) (cr shown, bad bool) {
	return shown{text: text, isJWT: strings.IndexByte(text, '.') >= 0}, len(text) > maxCredentials || text == ""
}

// authorization returns what follows the scheme Bearer or DPoP.
func authorization(v string) (string, scheme) {
	rest, by := after(v, "Bearer"), schemeBearer
	if rest == "" {
		rest, by = after(v, "DPoP"), schemeDPoP
	}
	if rest == "" {
		return "", schemeNone
	}
	rest = strings.Trim(rest, " ")
	if len(rest) != events.TokenLen && strings.HasPrefix(rest, secretPrefix) {
		return "", schemeNone
	}
	return rest, by
}

// after returns what follows the name of a scheme, with the blank between them.
func after(v, scheme string) string {
	if len(v) <= len(scheme) || v[len(scheme)] != ' ' || !strings.EqualFold(v[:len(scheme)], scheme) {
		return ""
	}
	return v[len(scheme):]
}

// cookie returns the first cookie of the name (RFC 6265 section 5.4), without
// quotes.
func cookie(lines []string, name string) (string, bool) {
	for _, line := range lines {
		for line != "" {
			var pair string
			pair, line, _ = strings.Cut(line, ";")
			pair = strings.Trim(pair, " \t")
			if len(pair) > len(name) && pair[len(name)] == '=' && pair[:len(name)] == name {
				value := pair[len(name)+1:]
				if len(value) > 1 && value[0] == '"' && value[len(value)-1] == '"' {
					value = value[1 : len(value)-1]
				}
				return value, true
			}
		}
	}
	return "", false
}

// verifyQuery is what the query of a verify asks for. Parameters it does not
// know may be those of the original request, and are passed over.
type verifyQuery struct {
	app                   string
	jwt, body, background bool
	need                  *demand // nil: a good session is enough
	// authorization: the JWT is wanted as a header Authorization of the answer, for
	// proxies that can copy a header but not write one.
	authorization bool
	// empty200: a good session is 200 without a body.
	empty200 bool
}

// parse reads the query and reports whether it is bad: one that cannot be read,
// or that names two apps, might be meant to lift the pin, or a demand.
func (q *verifyQuery) parse(raw string) (bad bool) {
	if plainQuery(raw) {
		return q.scan(raw)
	}
	all, err := url.ParseQuery(raw)
	if err != nil {
		return true
	}
	for i, app := range all["app"] {
		if app == "" || i > 0 && app != q.app {
			return true
		}
		q.app = app
	}
	for _, name := range [...]string{"max_age", "amr", "acr"} {
		for _, value := range all[name] {
			if q.demand(name, value) {
				return true
			}
		}
	}
	q.jwt, q.body, q.background = isOn(all.Get("jwt")), isOn(all.Get("body")), isOn(all.Get("background"))
	q.authorization = all.Get("header") == headerAuthorization
	return false
}

// demand takes a parameter that demands something of the session, and reports
// whether it is bad: such a request must not be answered as if it were not there.
func (q *verifyQuery) demand(name, value string) (bad bool) {
	if q.need == nil {
		q.need = new(demand)
	}
	return value == "" || q.need.ask(name, value)
}

// headerAuthorization is the one value of the parameter header.
const headerAuthorization = "authorization"

func isOn(value string) bool { return value == "1" || value == "true" }

// plainQuery reports whether each byte of the query stands for itself, and there
// are few.
func plainQuery(raw string) bool { return len(raw) <= 512 && !strings.ContainsAny(raw, "%+;") }

// scan is parse of a plain query, without a map.
func (q *verifyQuery) scan(raw string) (bad bool) {
	var was, is verifyQuery // which were there before, and what the first of each said
	headed := false
	for named := false; raw != ""; {
		var pair string
		pair, raw, _ = strings.Cut(raw, "&")
		name, value, _ := strings.Cut(pair, "=")
		switch name {
		case "app":
			if value == "" || named && value != q.app {
				return true
			}
			q.app, named = value, true
		case "jwt":
			first(&was.jwt, &is.jwt, value)
		case "body":
			first(&was.body, &is.body, value)
		case "background":
			first(&was.background, &is.background, value)
		case "max_age", "amr", "acr":
			if q.demand(name, value) {
				return true
			}
		case "header":
			is.authorization, headed = is.authorization || !headed && value == headerAuthorization, true
		}
	}
	q.jwt, q.body, q.background, q.authorization = is.jwt, is.body, is.background, is.authorization
	return false
}

// first notes whether the first value of a parameter turns it on.
func first(was, is *bool, value string) {
	if !*was {
		*was, *is = true, isOn(value)
	}
}
