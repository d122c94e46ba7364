package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node/api"
)

// statusOf is the one place that gives an error type its HTTP status.
var statusOf = map[string]int{
	api.InvalidArgument:         http.StatusBadRequest,
	api.TooManyArguments:        http.StatusBadRequest,
	api.Unauthorized:            http.StatusUnauthorized,
	api.AttestationFailed:       http.StatusUnauthorized,
	api.ImpersonationEnded:      http.StatusUnauthorized,
	api.HomeReauth:              http.StatusUnauthorized,
	api.JWTNotYetValid:          http.StatusUnauthorized,
	api.StepUpRequired:          http.StatusUnauthorized,
	api.SessionNotFound:         http.StatusNotFound,
	api.NotAuthorized:           http.StatusForbidden,
	api.Forbidden:               http.StatusForbidden,
	api.AppSuspended:            http.StatusForbidden,
	api.NotFound:                http.StatusNotFound,
	api.AppNotFound:             http.StatusNotFound,
	api.MethodNotAllowed:        http.StatusMethodNotAllowed,
	api.NotAcceptable:           http.StatusNotAcceptable,
	api.Conflict:                http.StatusConflict,
	api.AlreadyExists:           http.StatusConflict,
	api.RevokedMeanwhile:        http.StatusConflict,
	api.IdempotencyEnded:        http.StatusConflict,
	api.SessionLimit:            http.StatusConflict,
	api.TokenReuse:              http.StatusConflict,
	api.TooManyRequests:         http.StatusTooManyRequests,
	api.BodyTooLarge:            http.StatusRequestEntityTooLarge,
	api.ClaimsTooLarge:          http.StatusRequestEntityTooLarge,
	api.MediaType:               http.StatusUnsupportedMediaType,
	api.IdempotencyReused:       http.StatusUnprocessableEntity,
	api.HeaderTooLarge:          http.StatusRequestHeaderFieldsTooLarge,
	api.Internal:                http.StatusInternalServerError,
	api.NotImplemented:          http.StatusNotImplemented,
	api.NodeStale:               http.StatusServiceUnavailable,
	api.IssuerUnreachable:       http.StatusServiceUnavailable,
	api.HomeUnreachable:         http.StatusServiceUnavailable,
	api.LogUnavailable:          http.StatusServiceUnavailable,
	api.LogFull:                 http.StatusServiceUnavailable,
	api.MemoryFull:              http.StatusServiceUnavailable,
	api.ConsistencyTimeout:      http.StatusServiceUnavailable,
	api.ForeignEnded:            http.StatusConflict,
	api.ImportExpired:           http.StatusConflict,
	api.ForeignConflict:         http.StatusConflict,
	api.ImportSourceUnavailable: http.StatusServiceUnavailable,
	api.JWTExpired:              http.StatusUnauthorized,
	api.FacadeOff:               http.StatusForbidden,
	api.ProofInvalid:            http.StatusUnauthorized,
	api.ProofNonce:              http.StatusUnauthorized,
	api.ClusterOutdated:         http.StatusServiceUnavailable,
	api.NoSession:               http.StatusUnauthorized,
	api.OriginNotAllowed:        http.StatusForbidden,
	api.TooManyFeeds:            http.StatusTooManyRequests,
	api.CursorGone:              http.StatusGone,
	api.FeedNotFound:            http.StatusNotFound,
}

// failure is an error with the error type it is answered with. Its message is
// shown to the caller, its cause is not.
type failure struct {
	kind    string // of package api
	message string
	details map[string]any
	nonce   string // what the next proof of possession must hold, if there is one
	cause   error
	// challenge is the WWW-Authenticate of a 401; empty: the usual one.
	challenge string
}

// fail returns a failure of the kind; the message is for the caller.
func fail(kind, format string, args ...any) *failure {
	return &failure{kind: kind, message: fmt.Sprintf(format, args...)}
}

// with adds a detail for the caller.
func (f *failure) with(name string, value any) *failure {
	if f.details == nil {
		f.details = map[string]any{}
	}
	f.details[name] = value
	return f
}

// because keeps what the caller does not see.
func (f *failure) because(cause error) *failure {
	f.cause = cause
	return f
}

func (f *failure) Error() string {
	if f.cause != nil {
		return f.message + ": " + f.cause.Error()
	}
	return f.message
}

func (f *failure) Unwrap() error { return f.cause }

// classify returns err as a failure. What nobody foresaw is "internal" and
// shows nothing.
func classify(err error) *failure {
	var stale *staleError
	var vendor *api.Error
	f, ok := errors.AsType[*failure](err)
	switch {
	case ok:
		return f
	case errors.As(err, &vendor) && statusOf[vendor.ErrorType] != 0: // of a facade
		return &failure{kind: vendor.ErrorType, message: vendor.ErrorMessage, details: vendor.ErrorDetails}
	case errors.As(err, &stale) && stale.reauth:
		return fail(api.HomeReauth, "this node cannot check the session now; log in again").because(err)
	case errors.As(err, &stale) && stale.stream == events.ConfigRegion:
		return fail(api.NodeStale, "this node may be behind CONFIG, which holds apps, keys and settings: sessions go on with what it knows, and administration waits; ask again or ask another node").
			with("reason", stale.reason).with("stream", stale.stream).because(err)
	case errors.As(err, &stale):
		return fail(api.NodeStale, "this node may be behind the log and does not answer; ask again or ask another node").
			with("reason", stale.reason).with("stream", stale.stream).because(err)
	case errors.Is(err, events.ErrConflict):
		return fail(api.Conflict, "it was changed meanwhile; read it and try again").because(err)
	case errors.Is(err, events.ErrFull):
		return fail(api.LogFull, "the log is at its budget; raise it or wait for old events to leave").because(err)
	case errors.Is(err, events.ErrTooLarge):
		return fail(api.ClaimsTooLarge, "what is to be stored is larger than an event may be").because(err)
	case errors.Is(err, events.ErrUnavailable), errors.Is(err, events.ErrRewound):
		return fail(api.LogUnavailable, "the log gave no answer; the change may or may not have been made; repeat it").because(err)
	case errors.Is(err, errTooManyWaiters), errors.Is(err, context.DeadlineExceeded):
		return fail(api.ConsistencyTimeout, "this node has not come as far as the request demands; ask again").because(err)
	}
	return fail(api.Internal, "internal error").because(err)
}

// body returns the failure as it is answered.
func (f *failure) body(base, requestID string) *api.Error {
	return &api.Error{
		StatusCode: statusOf[f.kind], RequestID: requestID, ErrorType: f.kind, ErrorMessage: f.message,
		ErrorURL: base + "/docs/errors#" + f.kind, ErrorDetails: f.details,
	}
}

// headers sets what a failure says beside its body.
func (f *failure) headers(h http.Header) {
	switch statusOf[f.kind] {
	case http.StatusServiceUnavailable:
		h.Set("Retry-After", strconv.Itoa(1))
	case http.StatusTooManyRequests:
		h.Set("Retry-After", strconv.Itoa(10))
	case http.StatusUnauthorized:
		h.Set("WWW-Authenticate", cmp.Or(f.challenge, `Bearer error="invalid_token"`))
	}
	if f.nonce != "" {
		h.Set(nonceHeader, f.nonce)
	}
}
