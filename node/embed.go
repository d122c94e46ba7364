package node

import (
	"context"
	"net/http"
	"time"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node/api"
)

// VerifyOptions are what a caller of [Node.Verify] may ask for. The zero value is
// what most want.
type VerifyOptions struct {
	// App pins the app: a session of another is not known. Empty: any app.
	App string
	// Background marks a request that the session's user did not make: it is no
	// use of the session, and keeps no idle session alive.
	Background bool
	// Require demands more than a good session: that its user logged in recently,
	// or well. Nil: nothing.
	Require *api.Require
}

// Verified is a session that is good.
type Verified struct {
	ID events.SID
	// App and User are the node's own texts. Who keeps one for long should clone
	// it (strings.Clone): it keeps more memory than itself.
	App, User string
	// ExpiresAt is when the session ends unless it is extended, in unix ms.
	ExpiresAt int64
	// Staleness is how long ago the node knew for certain all that was committed
	// in the session's home stream; less than the lease, unless Stale is set.
	Staleness time.Duration
	// Stale is why the node holds no lease, when the session's app wants it
	// served all the same (when_stale: serve); empty: it holds one.
	Stale string
}

// VerifyError says why a credential is not good, or that this node may not say.
type VerifyError struct {
	// Reason is what the header X-Session-Reason of /v1/verify would be.
	Reason string
	// Status is what /v1/verify would answer: 401 for no good session, 403 for a
	// suspended app, 503 when nothing can be said. On 503 nobody may be signed out.
	Status int

	kind error
	err  error
}

// What a [VerifyError] is, for errors.Is.
const (
	// ErrNotFound: no such session, or what was shown is no credential.
	ErrNotFound = verifyKind("no such session")
	// ErrExpired: the session, or the JWT, is over, or was idle for too long.
	ErrExpired = verifyKind("session expired")
	// ErrRevoked: the session was revoked.
	ErrRevoked = verifyKind("session revoked")
	// ErrStepUp: the session is good, and falls short of VerifyOptions.Require.
	ErrStepUp = verifyKind("step-up required")
	// ErrSuspended: the session's app is suspended.
	ErrSuspended = verifyKind("app suspended")
	// ErrStale: this node may be behind and says nothing of the session.
	ErrStale = verifyKind("node is stale")
)

type verifyKind string

// Error implements error.
func (k verifyKind) Error() string { return string(k) }

// Error implements error.
func (e *VerifyError) Error() string { return "verify session: " + e.kind.Error() + ": " + e.Reason }

// Unwrap implements what errors.Is and errors.As look for.
func (e *VerifyError) Unwrap() []error {
	if e.err == nil {
		return []error{e.kind}
	}
	return []error{e.kind, e.err}
}

// Verify judges a token or a JWT in this process, as GET /v1/verify does with the
// same as Bearer: clock, lease, lookup, in this order, and the same verdicts,
// counted alike. What this node knows costs no allocation (of a token), no lock
// and no wait; for what it does not know, a node that is not alone asks the log
// before it says so, for a second at most or until ctx ends.
//
// The error is a [*VerifyError].
func (n *Node) Verify(ctx context.Context, credential string, o VerifyOptions) (Verified, error) {
	v := verifyRequest{verifyQuery: verifyQuery{app: o.App, background: o.Background}}
	if credential != "" {
		v.shown, v.bad = textual(credential)
	}
	if o.Require != nil {
		var err error
		if v.need, err = newDemand(o.Require); err != nil {
			return Verified{}, notVerified(&outcome{status: http.StatusUnauthorized, reason: reasonMalformed, err: err})
		}
	}
	out := n.decide(ctx, &v)
	if out.status != http.StatusNoContent {
		return Verified{}, notVerified(&out)
	}
	return Verified{
		ID: out.SID, App: out.App, User: out.User, ExpiresAt: out.ExpiresAt, Staleness: out.staleness, Stale: out.stale,
	}, nil
}

func notVerified(o *outcome) *VerifyError {
	e := &VerifyError{Reason: o.reason, Status: o.status, kind: ErrNotFound, err: o.err}
	switch {
	case o.status == http.StatusServiceUnavailable, o.reason == api.HomeReauth:
		e.kind = ErrStale
	case o.status == http.StatusForbidden:
		e.kind = ErrSuspended
	case o.stepUp != nil:
		e.kind, e.err = ErrStepUp, o.stepUp
	case o.reason == "revoked", o.reason == reasonReuse:
		e.kind = ErrRevoked
	case o.reason == reasonExpired, o.reason == "idle":
		e.kind = ErrExpired
	}
	return e
}
