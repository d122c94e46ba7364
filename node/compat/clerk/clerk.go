// Package clerk is the facade of the session calls of Clerk's Backend API, below
// /clerk/v1: the native API has other bodies at the same paths. Times are unix
// milliseconds, an API key is a Bearer token.
package clerk

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strings"

	"github.com/revocast/revocast/node/api"
	"github.com/revocast/revocast/node/compat"
)

// Name is what an app lists in its setting compat, and the JWT profile.
const Name = "clerk"

// Facade returns the table.
func Facade() compat.Facade {
	return compat.Facade{
		Name: Name, Prefix: "/clerk/",
		Routes: []compat.Route{
			{Pattern: "GET /clerk/v1/sessions", Scope: api.ScopeRead, Handle: list},
			{Pattern: "POST /clerk/v1/sessions", Scope: api.ScopeCreate, Handle: create},
			{Pattern: "GET /clerk/v1/sessions/{sid}", Scope: api.ScopeRead, Handle: get},
			{Pattern: "POST /clerk/v1/sessions/{sid}/revoke", Scope: api.ScopeRevoke, Handle: revoke},
			{Pattern: "POST /clerk/v1/sessions/{sid}/verify", Scope: api.ScopeVerify, Handle: verify},
			{Pattern: "POST /clerk/v1/sessions/{sid}/refresh", Scope: api.ScopeVerify, Handle: refresh},
			{Pattern: "POST /clerk/v1/sessions/{sid}/tokens", Scope: api.ScopeCreate, Handle: tokens},
			{Pattern: "POST /clerk/v1/sessions/{sid}/tokens/{template}", Scope: api.ScopeCreate, Handle: tokens},
			{Pattern: "GET /clerk/v1/jwks", Handle: jwks},
		},
		Refuse: refuse,
	}
}

func sid(c compat.Call) map[string]string { return map[string]string{"sid": c.Path("sid")} }

func get(c compat.Call) (int, any, error) {
	answer, err := compat.Ask[api.SessionInfo](c, "GET /v1/sessions/{sid}", compat.In{Path: sid(c)})
	if err != nil {
		return 0, nil, err
	}
	return http.StatusOK, view(&answer.Session), nil
}

func create(c compat.Call) (int, any, error) {
	var in struct {
		UserID       string `json:"user_id"`
		Organization string `json:"active_organization_id"`
	}
	if err := c.Decode(&in); err != nil {
		return 0, nil, err
	}
	answer, err := compat.Ask[api.SessionAnswer](c, "POST /v1/sessions", compat.In{Body: &api.CreateSession{
		UserID: in.UserID, OrganizationID: in.Organization,
	}})
	if err != nil {
		return 0, nil, err
	}
	return http.StatusOK, view(&answer.Session), nil
}

// revoke answers with the session as it is afterwards. That it is revoked is
// certain also when it cannot be read now, as when its region is out of reach.
func revoke(c compat.Call) (int, any, error) {
	if err := c.Decode(&struct{}{}); err != nil {
		return 0, nil, err
	}
	if _, err := compat.Ask[api.RevokeAnswer](c, "DELETE /v1/sessions/{sid}", compat.In{Path: sid(c)}); err != nil {
		return 0, nil, err
	}
	s := api.Session{SessionID: c.Path("sid")}
	if answer, err := compat.Ask[api.SessionInfo](c, "GET /v1/sessions/{sid}", compat.In{Path: sid(c)}); err == nil {
		s = answer.Session
	}
	s.Status = "revoked"
	return http.StatusOK, view(&s), nil
}

// tokens mints a JWT: the app's own, or one of a template.
func tokens(c compat.Call) (int, any, error) {
	var in struct {
		ExpiresIn *int64 `json:"expires_in_seconds"`
	}
	if err := c.Decode(&in); err != nil {
		return 0, nil, err
	}
	order := &api.MintToken{Template: c.Path("template")}
	if in.ExpiresIn != nil {
		if *in.ExpiresIn < 1 {
			return 0, nil, compat.Invalid("expires_in_seconds", "want 1 or more")
		}
		order.TTLSeconds = *in.ExpiresIn
	}
	answer, err := compat.Ask[api.MintAnswer](c, "POST /v1/sessions/{sid}/tokens", compat.In{Path: sid(c), Body: order})
	if err != nil {
		return 0, nil, err
	}
	return http.StatusOK, &token{"token", answer.SessionJWT}, nil
}

type token struct {
	Object string `json:"object"`
	JWT    string `json:"jwt"`
}

// verify answers whether a JWT, or a token, is one of the session, which Clerk
// has deprecated. Without the token nothing is verified: Clerk's client for Go
// sends none, and is refused.
func verify(c compat.Call) (int, any, error) {
	var in struct {
		Token string `json:"token"`
	}
	if err := c.Decode(&in); err != nil {
		return 0, nil, err
	}
	if in.Token == "" {
		return 0, nil, compat.Invalid("token", "required")
	}
	claims, isJWT := claimsOf(in.Token)
	answer, err := authenticate(c, in.Token, isJWT, true)
	if err != nil {
		return 0, nil, err
	}
	// The native route takes expired JWTs, to hand out fresh ones.
	if isJWT && c.Now().Unix() >= claims.Expires {
		return 0, nil, &api.Error{ErrorType: api.JWTExpired, ErrorMessage: "the JWT has expired"}
	}
	return http.StatusOK, view(&answer.Session), nil
}

// authenticate authenticates a JWT or a token, which must be one of the session
// in the path. Every session of which it is not one is answered as one that
// nobody knows.
func authenticate(c compat.Call, credential string, isJWT, use bool) (*api.SessionAnswer, error) {
	in := &api.Authenticate{Touch: &use}
	if isJWT {
		in.SessionJWT = credential
	} else {
		in.SessionToken = credential
	}
	answer, err := compat.Ask[api.SessionAnswer](c, "POST /v1/sessions/authenticate", compat.In{Body: in})
	if err == nil && answer.Session.SessionID != c.Path("sid") {
		return nil, &api.Error{ErrorType: api.SessionNotFound, ErrorMessage: "the token is not one of this session"}
	}
	return answer, err
}

// refresh hands out a JWT for one that may have expired and the session's token,
// which stands in for Clerk's refresh token. An Origin that the old JWT was
// minted for must be the one that asks. The rest of what Clerk's clients tell of
// the request decides nothing.
func refresh(c compat.Call) (int, any, error) {
	var in struct {
		Expired string          `json:"expired_token"`
		Refresh string          `json:"refresh_token"`
		Origin  string          `json:"request_origin"`
		Address string          `json:"request_originating_ip"`
		Headers json.RawMessage `json:"request_headers"`
		Format  string          `json:"format"`
	}
	q, err := c.Query("suffixed_cookies")
	if err == nil {
		err = c.Decode(&in)
	}
	claims, isJWT := claimsOf(in.Expired)
	switch {
	case err != nil:
		return 0, nil, err
	case !isJWT:
		return 0, nil, compat.Invalid("expired_token", "want a JWT of the session")
	case in.Refresh == "":
		return 0, nil, compat.Invalid("refresh_token", "want the token of the session")
	case in.Format != "" && in.Format != "token" && in.Format != "cookie":
		return 0, nil, compat.Invalid("format", "want token or cookie")
	case in.Format == "cookie" && q.Get("suffixed_cookies") == "true":
		return 0, nil, compat.Invalid("suffixed_cookies", "not offered: the suffix is made of a publishable key, of which nothing is known here")
	}
	if _, err := authenticate(c, in.Expired, true, false); err != nil {
		return 0, nil, err
	}
	if claims.Party != "" && claims.Party != in.Origin {
		return 0, nil, compat.Invalid("request_origin", "is not the one that expired_token was minted for")
	}
	answer, err := authenticate(c, in.Refresh, false, true)
	if err != nil {
		return 0, nil, err
	}
	if answer.SessionJWT == "" {
		return 0, nil, &api.Error{ErrorType: api.NodeStale, ErrorMessage: "no JWT can be minted here now"}
	}
	if in.Format == "cookie" {
		return http.StatusOK, &struct {
			Object  string   `json:"object"`
			Cookies []string `json:"cookies"`
		}{"cookies", []string{"__session=" + answer.SessionJWT + "; Path=/; Secure; SameSite=Lax"}}, nil
	}
	return http.StatusOK, &token{"token", answer.SessionJWT}, nil
}

func jwks(c compat.Call) (int, any, error) {
	if _, err := c.Query(); err != nil {
		return 0, nil, err
	}
	app, err := c.PublicApp("", "")
	if err != nil {
		return 0, nil, err
	}
	return c.Native("GET /v1/apps/{app}/jwks", compat.In{Path: map[string]string{"app": app}})
}

// Limits of a list.
const (
	defaultLimit = 10
	maxLimit     = 500
	maxOffset    = 10_000
)

// list has the sessions of a user, of a client (each session is one of its own)
// or of the app, newest first: as {data, total_count} if paginated is asked for,
// else as an array.
func list(c compat.Call) (int, any, error) {
	q, err := c.Query("user_id", "client_id", "status", "paginated", "limit", "offset")
	if err != nil {
		return 0, nil, err
	}
	limit, err := number(q, "limit", defaultLimit, 1, maxLimit)
	if err != nil {
		return 0, nil, err
	}
	offset, err := number(q, "offset", 0, 0, maxOffset)
	if err != nil {
		return 0, nil, err
	}
	w := &window{skip: offset, limit: limit, data: []*Session{}}
	switch state, ok := states[q.Get("status")]; {
	case !ok:
		return 0, nil, compat.Invalid("status", "want active, pending, abandoned, ended, expired, removed, replaced or revoked")
	case state.native == "": // nothing is ever in it
	case q.Has("client_id"):
		err = w.client(c, q)
	default:
		err = w.fill(c, q, state)
	}
	if err != nil {
		return 0, nil, err
	}
	if q.Get("paginated") != "true" {
		return http.StatusOK, w.data, nil
	}
	return http.StatusOK, &struct {
		Data  []*Session `json:"data"`
		Total int        `json:"total_count"`
	}{w.data, w.total}, nil
}

// window takes the sessions of a list that were asked for, and counts all.
type window struct {
	skip, limit int
	data        []*Session
	total       int
}

func (w *window) take(s *Session) {
	if w.total >= w.skip && len(w.data) < w.limit {
		w.data = append(w.data, s)
	}
	w.total++
}

func (w *window) full() bool { return len(w.data) == w.limit }

// fill takes what a native list has in the state. What has no native state of its
// own is sorted out here, and can only be counted by looking at all.
func (w *window) fill(c compat.Call, q url.Values, want state) error {
	query := url.Values{"status": {want.native}}
	if q.Has("user_id") {
		query.Set("user_id", q.Get("user_id"))
	}
	counted, err := compat.Sessions(c, query, func(s *api.Session) bool {
		if v := view(s); want.status == "" || v.Status == want.status {
			w.take(v)
		}
		return !want.exact || !w.full()
	})
	if want.exact {
		w.total = counted
	}
	return err
}

// client takes the one session of the client, if it is as asked for.
func (w *window) client(c compat.Call, q url.Values) error {
	id, ok := strings.CutPrefix(q.Get("client_id"), clientPrefix)
	if !ok {
		return compat.Invalid("client_id", "want one of a session")
	}
	answer, err := compat.Ask[api.SessionInfo](c, "GET /v1/sessions/{sid}", compat.In{Path: map[string]string{"sid": id}})
	if c.NotFound(err) {
		return nil
	} else if err != nil {
		return err
	}
	v := view(&answer.Session)
	if (q.Get("status") == "" || v.Status == q.Get("status")) && (!q.Has("user_id") || v.UserID == q.Get("user_id")) {
		w.take(v)
	}
	return nil
}
