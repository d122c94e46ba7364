package client

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/revocast/revocast/node/api"
)

// Why a session was not found good; test with errors.Is. An answer of the API that
// led there is in the error as an *api.Error. No error holds a token.
const (
	// ErrMissing: nothing was shown.
	ErrMissing = refusal("no credential")
	// ErrInvalid: no such session, or what was shown is no credential of this app.
	ErrInvalid = refusal("no such session")
	// ErrExpired: the session is over, or was idle for too long.
	ErrExpired = refusal("session expired")
	// ErrRevoked: the session was revoked.
	ErrRevoked = refusal("session revoked")
	// ErrSuspended: the app is suspended or deleted.
	ErrSuspended = refusal("app suspended")
	// ErrProof: the session is bound to a key, and there is no good proof of it.
	ErrProof = refusal("no proof of possession")
	// ErrStepUp: the session is good, and falls short of Options.Require.
	ErrStepUp = refusal("step-up required")
	// ErrStale: nothing can be said of the session now. Nobody may be logged out
	// for it.
	ErrStale = refusal("cannot be judged now")
)

// refusal is one of the reasons above.
type refusal string

// Error implements error.
func (r refusal) Error() string { return string(r) }

// refuse returns the reason, and because of what.
func refuse(r refusal, why error) error {
	if why == nil {
		return fmt.Errorf("verify session: %w", r)
	}
	return fmt.Errorf("verify session: %w: %w", r, why)
}

// refusalOf says what an error of the authenticate call means for the session.
// Whatever does not say that it is not good is ErrStale: a wrong API key of ours, a
// demand that there is not, or a node that does not know, must log nobody out.
func refusalOf(err error) error {
	e, ok := errors.AsType[*api.Error](err)
	if !ok {
		return refuse(ErrStale, err)
	}
	switch e.ErrorType {
	case api.SessionNotFound:
		switch e.ErrorDetails["reason"] {
		case "revoked":
			return refuse(ErrRevoked, err)
		case "expired", "idle":
			return refuse(ErrExpired, err)
		}
		return refuse(ErrInvalid, err)
	case api.TokenReuse:
		return refuse(ErrRevoked, err)
	case api.AppSuspended:
		return refuse(ErrSuspended, err)
	case api.ProofInvalid, api.ProofNonce:
		return refuse(ErrProof, err)
	case api.StepUpRequired:
		return refuse(ErrStepUp, err)
	}
	return refuse(ErrStale, err)
}

// statusOf returns the status with which a request is refused.
func statusOf(err error) int {
	e, _ := errors.AsType[*api.Error](err)
	switch {
	case errors.Is(err, ErrSuspended):
		return http.StatusForbidden
	case e != nil && e.ErrorType == api.HomeReauth:
		return http.StatusUnauthorized // the app would rather have people log in again
	case errors.Is(err, ErrMissing), errors.Is(err, ErrInvalid), errors.Is(err, ErrExpired),
		errors.Is(err, ErrRevoked), errors.Is(err, ErrProof), errors.Is(err, ErrStepUp):
		return http.StatusUnauthorized
	}
	return http.StatusServiceUnavailable
}
