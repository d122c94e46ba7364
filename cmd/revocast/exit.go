package main

import (
	"errors"
	"net/http"
	"strings"

	"github.com/revocast/revocast/node/api"
)

// The exit codes, for scripts.
const (
	exitDone        = 0
	exitFailed      = 1
	exitUsage       = 2
	exitNotFound    = 3 // not found, or the session is not good
	exitUnavailable = 4 // no answer now; the same may succeed later
)

// usageError says that the command line, the environment or the configuration
// file is wrong.
type usageError struct{ error }

func (e *usageError) Unwrap() error { return e.error }

// notGoodError says that a session was verified and is not good.
type notGoodError struct{ reason string }

// missingError says that what a command is about is not there.
type missingError struct{ error }

func (e *missingError) Unwrap() error { return e.error }

func (e *notGoodError) Error() string { return "the session is not good: " + e.reason }

var (
	// errNotReady is returned for a node that answers and is not ready.
	errNotReady = errors.New("the node is not ready")
	// errUnreachable is returned when no answer came from a node.
	errUnreachable = errors.New("no answer from the node")
)

// notGood tells a session that is not good from a question that failed.
func notGood(err error) error {
	a, ok := errors.AsType[*api.Error](err)
	if !ok || a.StatusCode != http.StatusUnauthorized && a.StatusCode != http.StatusForbidden && a.StatusCode != http.StatusNotFound ||
		a.ErrorType == api.HomeReauth || a.ErrorType == api.JWTNotYetValid {
		return err
	}
	return &notGoodError{reason: a.ErrorMessage}
}

func exitCode(err error) int {
	if err == nil {
		return exitDone
	}
	if _, ok := errors.AsType[*usageError](err); ok {
		return exitUsage
	}
	if _, ok := errors.AsType[*notGoodError](err); ok {
		return exitNotFound
	}
	if _, ok := errors.AsType[*missingError](err); ok {
		return exitNotFound
	}
	if a, ok := errors.AsType[*api.Error](err); ok {
		switch {
		case a.StatusCode == http.StatusNotFound:
			return exitNotFound
		case a.StatusCode == http.StatusServiceUnavailable, a.StatusCode == http.StatusBadGateway,
			a.StatusCode == http.StatusGatewayTimeout, a.ErrorType == api.HomeReauth:
			return exitUnavailable
		}
		return exitFailed
	}
	if errors.Is(err, errUnreachable) || errors.Is(err, errNotReady) {
		return exitUnavailable
	}
	return exitFailed
}

// oneLine returns the error as one line: joined errors and what servers say
// may have several.
func oneLine(err error) string {
	fields := strings.FieldsFunc(err.Error(), func(r rune) bool { return r == '\n' || r == '\r' })
	return strings.Join(fields, "; ")
}
