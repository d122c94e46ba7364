package events

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

// DeniedError is that the NATS user lacks a permission. It is an ErrDenied.
type DeniedError struct {
	Verb    string // "publish to" or "subscribe to"
	Subject string
}

// Error implements error.
func (e *DeniedError) Error() string { return fmt.Sprintf("%v to %s %s", ErrDenied, e.Verb, e.Subject) }

// Unwrap returns ErrDenied.
func (e *DeniedError) Unwrap() error { return ErrDenied }

// Permission returns the permission that is missing, as a server's
// configuration would name it: "publish ev.eu.>".
func (e *DeniedError) Permission() string {
	verb, _, _ := strings.Cut(e.Verb, " ")
	return verb + " " + subjectFamily(e.Subject)
}

// subjectFamily returns what names the subject among all that are used: each
// message has a subject of its own, and one permission covers many.
func subjectFamily(subject string) string {
	tokens, keep := strings.Split(subject, "."), 1
	switch tokens[0] {
	case "ev", "live":
		keep = 2
	case "$JS":
		keep = 3 + max(1, slices.Index(tokens, "API"))
	}
	if len(tokens) <= keep {
		return subject
	}
	return strings.Join(tokens[:keep], ".") + ".>"
}

// maxDenials bounds how many permissions are remembered.
const maxDenials = 64

// Denials remembers which permissions NATS servers found missing. The zero
// value is ready. Its methods are safe for concurrent use.
type Denials struct {
	mu   sync.Mutex // guards last
	last map[string]time.Time
}

// Note notes an error given to ConnectConfig.OnError if it is a denial.
func (d *Denials) Note(err error) {
	denied, ok := errors.AsType[*DeniedError](err)
	if !ok {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.last == nil {
		d.last = map[string]time.Time{}
	}
	p := denied.Permission()
	if _, held := d.last[p]; held || len(d.last) < maxDenials {
		d.last[p] = time.Now()
	}
}

// Within returns the permissions that were found missing within the time,
// sorted.
func (d *Denials) Within(age time.Duration) (permissions []string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for p, at := range d.last {
		if time.Since(at) > age {
			delete(d.last, p)
			continue
		}
		permissions = append(permissions, p)
	}
	slices.Sort(permissions)
	return permissions
}
