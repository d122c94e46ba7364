package node

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node/api"
	"github.com/revocast/revocast/projection"
	"github.com/revocast/revocast/signer"
)

// Reasons of a verify beside those of a verdict and of a fenced lease.
const (
	reasonNone      = "-"
	reasonMissing   = "missing"
	reasonMalformed = "malformed"
	reasonUnknown   = "unknown"
	reasonExpired   = "expired"
	// reasonEarly: the JWT counts from a time that is still to come on this node.
	reasonEarly = "not_yet_valid"
	// reasonBehind: this node knows nothing of the session, and could not make
	// sure in time that there is nothing to be known.
	reasonBehind = "behind"
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

// verify answers GET and POST /v1/verify and everything below: 204, 401, 403 or
// 503 with the headers X-Session-*, always all of them.
//
// It is the hot path, and so does without what serve does for other routes: it
// sets headers by their canonical names, asks for random bytes once per process,
// and counts verdicts instead of measuring time.
func (n *Node) verify(w http.ResponseWriter, r *http.Request) {
	q := verifyQuery{}
	cr, bad := presented(w, r) // reads the body, so it comes before any clock
	if r.URL.RawQuery != "" {
		if bad = q.parse(r.URL.RawQuery) || bad; bad {
			cr = shown{}
		}
	}
	var o outcome
	switch {
	case bad:
		o = outcome{status: http.StatusUnauthorized, reason: reasonMalformed}
	case cr.text == "":
		o = outcome{status: http.StatusUnauthorized, reason: reasonMissing}
	default:
		o = n.check(r.Context(), cr, &q)
	}
	if o.status == http.StatusNoContent && !q.background && len(r.Header[backgroundHeader]) == 0 {
		n.touch(&o.Session, n.wall())
	}
	n.metrics.verified(o.reason)
	n.respond(w, r, &o, &q)
}

// shown is a credential as it was presented.
type shown struct {
	text  string
	isJWT bool // only in a body is it said which it is; elsewhere a JWT has dots
}

// outcome is what a verify comes to.
type outcome struct {
	answer
	at     events.Position // read before the lookup; zero unless it is shown
	status int
	reason string // "-" when good
	err    error  // of a 403 or a 503
}

// check judges the credential, which must be of the app if the query names one.
func (n *Node) check(ctx context.Context, cr shown, q *verifyQuery) outcome {
	pin := q.app
	var a answer
	var at events.Position
	var err error
	if cr.isJWT {
		v, refused := n.verifyAnyJWT(ctx, cr.text, pin)
		if refused != nil {
			return refusedJWT(refused)
		}
		sid, bad := events.ParseSID(v.SessionID)
		if bad != nil {
			return refusedJWT(signer.ErrBadClaims)
		}
		if q.jwt || q.body {
			at = n.positionOf(sid.Stream())
		}
		if a, err = n.resolveSID(ctx, sid, consistency{}); err == nil && (a.App != v.App || a.User != v.Subject) {
			a = answer{staleness: a.staleness}
		}
	} else {
		key, ok := events.Token(cr.text).Key()
		if !ok {
			return outcome{status: http.StatusUnauthorized, reason: reasonMalformed}
		}
		if q.jwt || q.body {
			at = n.positionOf(key.Stream())
		}
		a, err = n.resolveToken(ctx, key, consistency{})
	}
	if err != nil {
		return unanswered(err)
	}
	if pin != "" && a.App != pin {
		a = answer{staleness: a.staleness}
	}
	if a.verdict != projection.Active {
		return outcome{answer: a, at: at, status: http.StatusUnauthorized, reason: a.verdict.String()}
	}
	o := n.admit(ctx, a)
	o.at = at
	return o
}

// admit lets a good session in unless its app is shut.
func (n *Node) admit(ctx context.Context, a answer) outcome {
	app, ok := n.app(a.App)
	if !ok {
		// The session is known and its app is not: CONFIG may be behind.
		var err error
		if app, ok, err = n.awaitApp(ctx, a.App); err != nil {
			return unanswered(err)
		}
	}
	switch {
	case ok && app.State == events.AppActive:
		return outcome{answer: a, status: http.StatusNoContent, reason: reasonNone}
	case ok && app.State == events.AppSuspended:
		return outcome{
			answer: answer{staleness: a.staleness}, status: http.StatusForbidden, reason: api.AppSuspended,
			err: fail(api.AppSuspended, "app %s is suspended", a.App),
		}
	}
	return outcome{answer: answer{staleness: a.staleness}, status: http.StatusUnauthorized, reason: reasonUnknown}
}

// unanswered is the outcome when this node may not answer.
func unanswered(err error) outcome {
	o := outcome{status: http.StatusServiceUnavailable, reason: api.NodeStale, err: err}
	if f, ok := errors.AsType[*failure](err); ok {
		if o.reason = f.kind; f.kind == api.ConsistencyTimeout {
			o.reason = reasonBehind
		}
	} else if stale, ok := errors.AsType[*staleError](err); ok {
		o.reason = stale.reason
		if stale.reauth {
			o.status, o.reason = http.StatusUnauthorized, api.HomeReauth
		}
	}
	return o
}

func refusedJWT(err error) outcome {
	o := outcome{status: http.StatusUnauthorized, reason: reasonUnknown}
	reason, ok := errors.AsType[signer.Reason](err)
	switch {
	case !ok:
		return unanswered(err)
	case reason == signer.ErrMalformed:
		o.reason = reasonMalformed
	case reason == signer.ErrExpired:
		o.reason = reasonExpired
	case reason == signer.ErrNotYetValid:
		o.reason = reasonEarly
	}
	return o
}

// verifyAnyJWT checks a live JWT of whichever app it says it is of.
func (n *Node) verifyAnyJWT(ctx context.Context, jwt, pin string) (signer.Verified, error) {
	var app string
	v, err := n.verified.VerifyFor(jwt, func(audience string) (*signer.Ring, signer.Expect) {
		app = audience
		t, ok := n.catalog.Snapshot().App(audience)
		if !ok || pin != "" && pin != audience {
			return nil, signer.Expect{}
		}
		return n.ring(audience), signer.Expect{
			Issuer: n.issuerOf(audience, signer.Profile(t.Settings.JWTProfile)), App: audience, Now: time.UnixMilli(n.judged()),
		}
	})
	switch {
	case app != "" && pin != "" && app != pin:
		return signer.Verified{}, signer.ErrWrongAudience
	case err == nil && v.Issuer == n.issuerOf(v.App, v.Profile):
		return v, nil
	case err == nil, errors.Is(err, signer.ErrUnknownKey), errors.Is(err, signer.ErrWrongIssuer):
		return n.verifyJWT(ctx, app, jwt, jwtLive)
	}
	return signer.Verified{}, err
}

// presented returns the credential of the request: Authorization: Bearer, a
// cookie, or a JSON body; bad when it is ambiguous or cannot be read. An API
// key is not a credential of a session and is passed over.
//
// The body is read to its end even when it is not needed: net/http would read
// it before it answers, and a slow sender would age the answer.
func presented(w http.ResponseWriter, r *http.Request) (cr shown, bad bool) {
	var body []byte
	if r.Body != nil && r.Body != http.NoBody {
		var err error
		if body, err = io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody)); err != nil {
			return shown{}, true
		}
	}
	if all := r.Header["Authorization"]; len(all) > 1 {
		return shown{}, true
	} else if len(all) == 1 {
		if text, ok := bearer(all[0]); ok {
			return textual(text)
		}
	}
	for _, name := range [...]string{hostCookie, plainCookie} {
		if text, ok := cookie(r.Header["Cookie"], name); ok {
			return textual(text)
		}
	}
	if len(body) == 0 || r.Method != http.MethodPost || !mediaJSON(r.Header.Get("Content-Type"), body) {
		return shown{}, false
	}
	var in struct {
		SessionToken string `json:"session_token"`
		SessionJWT   string `json:"session_jwt"`
	}
	if decodeStrict(body, &in) != nil || in.SessionToken != "" && in.SessionJWT != "" {
		return shown{}, true
	}
	if in.SessionJWT != "" {
		return shown{in.SessionJWT, true}, len(in.SessionJWT) > maxCredentials
	}
	return shown{text: in.SessionToken}, false
}

func textual(text string) (cr shown, bad bool) {
	return shown{text, strings.IndexByte(text, '.') >= 0}, len(text) > maxCredentials || text == ""
}

// bearer returns what follows the scheme Bearer.
func bearer(v string) (string, bool) {
	const scheme = "Bearer"
	if len(v) <= len(scheme) || v[len(scheme)] != ' ' || !strings.EqualFold(v[:len(scheme)], scheme) {
		return "", false
	}
	v = strings.Trim(v[len(scheme):], " ")
	if len(v) != events.TokenLen && strings.HasPrefix(v, secretPrefix) {
		return "", false
	}
	return v, true
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
}

// parse reads the query and reports whether it is bad: one that cannot be read,
// or that names two apps, might be meant to lift the pin.
func (q *verifyQuery) parse(raw string) (bad bool) {
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
	on := func(name string) bool { v := all.Get(name); return v == "1" || v == "true" }
	q.jwt, q.body, q.background = on("jwt"), on("body"), on("background")
	return false
}

// Values of headers that are shared by all answers. Nobody writes to them.
var (
	dash      = []string{"-"}
	noStore   = []string{"no-store"}
	retry     = []string{"1"}
	challenge = []string{`Bearer error="invalid_token"`}
	ask       = []string{"Bearer"} // RFC 6750 section 3.1: no error code when nothing was shown
)

// respond writes the answer: each header once, under its canonical name, in
// one block of memory.
func (n *Node) respond(w http.ResponseWriter, r *http.Request, o *outcome, q *verifyQuery) {
	h := w.Header()
	values := make([]string, 7)
	set := func(i int, name, value string) {
		values[i] = value
		h[name] = values[i : i+1 : i+1]
	}
	id := nextRequestID()
	set(0, "X-Request-Id", id)
	h["Cache-Control"] = noStore
	h["X-Session-Jwt"] = dash
	if o.reason == reasonNone {
		h["X-Session-Reason"] = dash
	} else {
		set(1, "X-Session-Reason", o.reason)
	}
	if o.err != nil && o.status != http.StatusForbidden {
		h["X-Session-Staleness-Ms"] = dash
	} else {
		set(2, "X-Session-Staleness-Ms", strconv.FormatInt(o.staleness.Milliseconds(), 10))
	}
	if o.status == http.StatusNoContent {
		set(3, "X-Session-Id", o.SID.String())
		set(4, "X-Session-User", headerText(o.User))
		set(5, "X-Session-App", o.App)
		set(6, "X-Session-Expires", strconv.FormatInt(o.ExpiresAt/1000, 10))
		n.decorate(r.Context(), h, o, q)
	} else {
		h["X-Session-Id"], h["X-Session-User"], h["X-Session-App"], h["X-Session-Expires"] = dash, dash, dash, dash
	}
	switch {
	case o.status == http.StatusServiceUnavailable:
		h["Retry-After"] = retry
	case o.status == http.StatusUnauthorized && o.reason == reasonMissing:
		h["Www-Authenticate"] = ask
	case o.status == http.StatusUnauthorized:
		h["Www-Authenticate"] = challenge
	}
	if q.body {
		n.respondBody(w, &call{n: n, r: r, h: h, id: id}, o)
		return
	}
	if o.status != http.StatusNoContent {
		h["Content-Length"] = []string{"0"}
	}
	w.WriteHeader(o.status)
}

// decorate adds to a good answer what is seldom asked for or seldom true.
func (n *Node) decorate(ctx context.Context, h http.Header, o *outcome, q *verifyQuery) {
	if o.stale != "" {
		h["X-Session-Freshness"] = []string{staleHeader(o.answer)}
	}
	if !q.jwt || o.stale != "" {
		return
	}
	// A verify does not wait for a private part as long as other answers do.
	ctx, cancel := context.WithTimeout(ctx, jwtPatience)
	defer cancel()
	jwt, _, err := n.mint(ctx, found{answer: o.answer, at: o.at}, nil, jwtOrder{})
	if err != nil && n.refusals.first(classify(err).kind, n.conf.Clock.Boot()) {
		n.conf.Log.Error("no JWT for a verified session", "app", o.App, "error", err)
	}
	if jwt != "" {
		h["X-Session-Jwt"] = []string{jwt}
	}
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

func nextRequestID() string {
	var buf [64]byte
	b := append(buf[:0], requestPrefix...)
	return string(strconv.AppendUint(b, requestCount.Add(1), 36))
}
