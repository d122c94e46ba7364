package node

import (
	"context"
	"errors"
	"net/http"
	"strings"
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

// verify answers GET and POST /v1/verify and everything below: 204, 401, 403 or
// 503 with the headers X-Session-*, always all of them.
//
// It is the hot path, and so does without what serve does for other routes: it
// sets headers by their canonical names, asks for random bytes once per process,
// and counts verdicts instead of measuring time.
func (n *Node) verify(w http.ResponseWriter, r *http.Request) {
	var v verifyRequest
	v.read(w, r, r.URL.RawQuery) // reads the body, so it comes before any clock
	o := n.decide(r.Context(), &v)
	n.respond(w, r, &o, &v.verifyQuery)
}

// extAuthz answers /v1/ext_authz/{app}/ and everything below: verify for Envoy's
// HTTP service of ext_authz, which takes nothing but 200 for a yes, and puts path
// and query of the original request behind a prefix. So the app stands in the
// prefix ("-": any), and what the client wrote into its query means nothing here.
func (n *Node) extAuthz(w http.ResponseWriter, r *http.Request) {
	var v verifyRequest
	v.read(w, r, "")
	v.empty200 = true
	// Not PathValue: the mux is not asked, see handler.
	pin, _, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, extAuthzPrefix), "/")
	if v.bad = v.bad || pin == ""; pin != "-" {
		v.app = pin
	}
	o := n.decide(r.Context(), &v)
	n.respond(w, r, &o, &v.verifyQuery)
}

// queryChallenge says that it is not the credential: RFC 6750 section 3.1.
var queryChallenge = []string{`Bearer error="invalid_request", error_description="app, max_age, amr or acr in the query of the verify cannot be read"`}

const extAuthzPrefix = "/v1/ext_authz/"

// decide is the verify itself, the same for every listener. The request must have
// been read to its end.
func (n *Node) decide(ctx context.Context, v *verifyRequest) (o outcome) {
	switch {
	case v.bad:
		o = outcome{status: http.StatusUnauthorized, reason: reasonMalformed}
		if v.badQuery {
			o.challenge = queryChallenge
		}
	case v.text == "":
		o = outcome{status: http.StatusUnauthorized, reason: reasonMissing}
	default:
		o = n.check(ctx, v.shown, &v.verifyQuery)
	}
	if o.needsProof(v) {
		o = n.proved(ctx, v, o)
	}
	if v.scheme == schemeDPoP && o.status == http.StatusUnauthorized && o.challenge == nil {
		o.challenge = dpopChallenge
	}
	if v.need != nil && o.status == http.StatusNoContent {
		o = n.demanded(ctx, v, o)
	}
	if (v.jwt || v.authorization) && o.status == http.StatusNoContent && o.stale == "" {
		o = n.withJWT(ctx, v, o)
	}
	o.authorization = v.authorization
	if o.status == http.StatusNoContent && !v.background {
		n.touch(&o.Session, o.asked)
	}
	n.metrics.verified(o.reason)
	return o
}

// withJWT returns the outcome, which is good, with a JWT of the session if there is
// one. A private part that is not held here may have been waited for: then the
// outcome is that of a look after it.
func (n *Node) withJWT(ctx context.Context, v *verifyRequest, o outcome) outcome {
	jwt := n.verifiedJWT(ctx, &o)
	if o.Sealed.Empty() {
		nonce := o.nonce
		o = n.check(ctx, v.shown, &v.verifyQuery)
		o.nonce = nonce
	}
	if o.status == http.StatusNoContent && o.stale == "" {
		o.jwt = jwt
	}
	return o
}

// outcome is what a verify comes to.
type outcome struct {
	answer
	jwt    string          // if it was asked for and there is one
	at     events.Position // read before the lookup; zero unless it is shown
	status int
	reason string // "-" when good
	err    error  // of a 403 or a 503
	// authorization: the answer has a header Authorization.
	authorization bool
	// Of a session that is bound to a key, see dpop_verify.go.
	thumbprint string   // of the key, if a JWT says it
	nonce      string   // what the next proof should hold
	challenge  []string // instead of the usual one
	// stepUp says what a good session falls short of.
	stepUp *failure
}

// check judges the credential, which must be of the app if the query names one.
func (n *Node) check(ctx context.Context, cr shown, q *verifyQuery) outcome {
	pin := q.app
	var a answer
	var at events.Position
	var err error
	var thumbprint string
	if cr.isJWT && !n.isForeign(cr.text, pin) {
		v, refused := n.verifyAnyJWT(ctx, cr.text, pin)
		if refused != nil {
			return refusedJWT(refused)
		}
		sid, bad := events.ParseSID(v.SessionID)
		if bad != nil {
			return refusedJWT(signer.ErrBadClaims)
		}
		thumbprint = v.Thumbprint
		if q.jwt || q.authorization || q.body {
			at = n.positionOf(sid.Stream())
		}
		if a, err = n.resolveSID(ctx, sid, consistency{}); err == nil && (a.App != v.App || a.User != v.Subject) {
			a = answer{staleness: a.staleness}
		}
	} else {
		var before *events.Position
		if q.jwt || q.authorization || q.body {
			before = &at
		}
		var ok bool
		if a, ok, err = n.resolveShown(ctx, pin, cr.text, consistency{}, before); !ok {
			return outcome{status: http.StatusUnauthorized, reason: reasonMalformed}
		}
		if err == nil && a.verdict == projection.Unknown {
			err = n.reusedToken(ctx, pin, cr.text)
		}
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
	o.at, o.thumbprint = at, thumbprint
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
		switch o.reason = f.kind; f.kind {
		case api.ConsistencyTimeout:
			o.reason = reasonBehind
		case api.TokenReuse:
			o.status, o.reason = http.StatusUnauthorized, reasonReuse
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
