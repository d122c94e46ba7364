// Package compat holds what the facades have in common. A facade answers the
// calls of another vendor's API by what the native one answers: a table of
// routes, each a pure mapping of request, answer and error. It keeps no state,
// starts nothing and knows the node only by the interface [Call], so whatever a
// native route guarantees or refuses, the facade does too.
package compat

import (
	"fmt"
	"net/url"
	"slices"
	"time"

	"github.com/revocast/revocast/node/api"
)

// Facade is one vendor's API.
type Facade struct {
	// Name is what an app lists in its setting compat.
	Name string
	// Prefix begins all its paths. Below it every error has its shape.
	Prefix string
	Routes []Route
	// Refuse returns an error as the vendor's clients read it.
	Refuse func(*api.Error) any
}

// Route is one line of the vendor's API.
type Route struct {
	// Pattern is one of http.ServeMux, with its method.
	Pattern string
	// Scope is what the API key must have; empty: the route is public.
	Scope string
	// Handle returns the answer. An error that is an [*api.Error] of one of the
	// known types is answered as such; those of Native are passed on.
	Handle func(Call) (status int, body any, err error)
}

// Call is one request to a facade.
type Call interface {
	// Path returns what the pattern names so.
	Path(name string) string
	// Query returns the parameters, each of which MUST be one of names and
	// appear once: a filter that is misspelled must not list everything.
	Query(names ...string) (url.Values, error)
	// Decode reads the body into v, a pointer to a struct. Members that v lacks
	// are passed over unless their names ask for something that v cannot promise.
	Decode(v any) error
	// Now is the time that sessions are judged by.
	Now() time.Time
	// Native asks a route of the native API, by its pattern, for the same caller.
	Native(route string, in In) (status int, body any, err error)
	// NotFound reports whether the error of Native says that there is none.
	NotFound(err error) bool
	// PublicApp returns the app that a request to a public route is about: the
	// one named, else that of the API key (given, or in the header), else the only
	// one there is. An app that has not this facade is refused.
	PublicApp(named, key string) (string, error)
	// Header adds a header to the answer.
	Header(name, value string)
}

// In is a request to a native route.
type In struct {
	Path  map[string]string
	Query url.Values
	Body  any // of package api; nil: none
}

// Ask is [Call.Native] for a route whose answer is a T.
func Ask[T any](c Call, route string, in In) (*T, error) {
	_, body, err := c.Native(route, in)
	if err != nil {
		return nil, err
	}
	answer, ok := body.(*T)
	if !ok {
		return nil, fmt.Errorf("%s answered a %T", route, body)
	}
	return answer, nil
}

// Invalid is an error of the request; field says where, if anywhere.
func Invalid(field, format string, args ...any) error {
	e := &api.Error{ErrorType: api.InvalidArgument, ErrorMessage: fmt.Sprintf(format, args...)}
	if field != "" {
		e.ErrorMessage = field + ": " + e.ErrorMessage
		e.ErrorDetails = map[string]any{"field": field}
	}
	return e
}

// pages bounds how many pages of sessions one request may walk over: an app of a
// million sessions is not listed by a facade that has no cursor.
const (
	pages    = 20
	pageSize = "500"
)

// Sessions yields the sessions that a native list with the query has, newest
// first, until yield returns false, and returns how many there are at all.
// Regions that could not be asked are named in a header.
func Sessions(c Call, query url.Values, yield func(*api.Session) bool) (total int, err error) {
	query.Set("limit", pageSize)
	var missing []string
	for range pages {
		list, err := Ask[api.SessionList](c, "GET /v1/sessions", In{Query: query})
		if err != nil {
			return 0, err
		}
		for _, region := range list.Incomplete {
			if !slices.Contains(missing, region) {
				missing = append(missing, region)
				c.Header("X-Session-Incomplete", region)
			}
		}
		for i := range list.Sessions {
			if !yield(&list.Sessions[i]) {
				return list.Total, nil
			}
		}
		if list.NextCursor == "" {
			return list.Total, nil
		}
		query.Set("cursor", list.NextCursor)
	}
	return 0, Invalid("", "there are more sessions than this request may walk over; use GET /v1/sessions, which has a cursor")
}
