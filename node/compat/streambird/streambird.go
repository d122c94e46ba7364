// Package streambird is the facade of Streambird's session API: /v1/auth. Times
// are unix seconds, an API key is a Bearer token, errors are native ones, whose
// members Streambird's clients know.
package streambird

import (
	"encoding/json"
	"net/http"
	"net/url"

	"github.com/revocast/revocast/node/api"
	"github.com/revocast/revocast/node/compat"
)

// Name is what an app lists in its setting compat, and the JWT profile.
const Name = "streambird"

// Facade returns the table.
func Facade() compat.Facade {
	return compat.Facade{
		Name: Name, Prefix: "/v1/auth/",
		Routes: []compat.Route{
			{Pattern: "POST /v1/auth/sessions/verify", Scope: api.ScopeVerify, Handle: verify},
			{Pattern: "DELETE /v1/auth/sessions/delete", Scope: api.ScopeRevoke, Handle: remove},
			{Pattern: "GET /v1/auth/sessions/list", Scope: api.ScopeRead, Handle: list},
			{Pattern: "GET /v1/auth/jwks/{name}", Handle: jwks},
		},
		Refuse: func(e *api.Error) any { return e },
	}
}

// Session is a session as Streambird's clients read it.
type Session struct {
	ID           string            `json:"id"`
	UserID       string            `json:"user_id"`
	StartedAt    int64             `json:"started_at"`
	ExpiresAt    int64             `json:"expires_at"`
	LastActiveAt int64             `json:"last_active_at"`
	Factors      []json.RawMessage `json:"factors"`
	Device       Device            `json:"device_fingerprint"`
	UpdatedAt    int64             `json:"updated_at"`
	CreatedAt    int64             `json:"created_at"`
}

// Device is what was known of the client at log-in.
type Device struct {
	UserAgent string `json:"user_agent"`
	IP        string `json:"ip"`
}

func view(s *api.Session) (Session, error) {
	factors, err := Factors(s.Factors, s.StartedAt)
	return Session{
		ID: s.SessionID, UserID: s.UserID, Factors: factors,
		StartedAt: s.StartedAt.Unix(), ExpiresAt: s.ExpiresAt.Unix(), LastActiveAt: s.LastAccess.Unix(),
		Device:    Device{UserAgent: s.Attributes.UserAgent, IP: s.Attributes.IPAddress},
		UpdatedAt: s.LastAccess.Unix(), CreatedAt: s.StartedAt.Unix(),
	}, err
}

// Limits of session_expires_in, minutes.
const (
	minExpiresIn = 5
	maxExpiresIn = 527_040 // 366 days
)

// verify takes exactly one of token and JWT, also a JWT that has expired.
func verify(c compat.Call) (int, any, error) {
	var in struct {
		SessionToken     string `json:"session_token"`
		SessionJWT       string `json:"session_jwt"`
		SessionExpiresIn int64  `json:"session_expires_in"`
	}
	if err := c.Decode(&in); err != nil {
		return 0, nil, err
	}
	if m := in.SessionExpiresIn; m != 0 && (m < minExpiresIn || m > maxExpiresIn) {
		return 0, nil, compat.Invalid("session_expires_in", "want %d to %d", minExpiresIn, maxExpiresIn)
	}
	answer, err := compat.Ask[api.SessionAnswer](c, "POST /v1/sessions/authenticate", compat.In{Body: &api.Authenticate{
		SessionToken: in.SessionToken, SessionJWT: in.SessionJWT, SessionDurationMinutes: in.SessionExpiresIn,
	}})
	if err != nil {
		return 0, nil, err
	}
	s, err := view(&answer.Session)
	return http.StatusOK, &struct {
		Session      Session `json:"session"`
		SessionToken string  `json:"session_token"`
		SessionJWT   string  `json:"session_jwt"`
	}{s, answer.SessionToken, answer.SessionJWT}, err
}

// remove takes exactly one of id, token and JWT.
func remove(c compat.Call) (int, any, error) {
	var in struct {
		SessionID    string `json:"session_id"`
		SessionToken string `json:"session_token"`
		SessionJWT   string `json:"session_jwt"`
	}
	if err := c.Decode(&in); err != nil {
		return 0, nil, err
	}
	if in.SessionID == "" && in.SessionToken == "" && in.SessionJWT == "" {
		return 0, nil, compat.Invalid("", "one of session_id, session_token, session_jwt is required")
	}
	status, _, err := c.Native("POST /v1/sessions/revoke", compat.In{Body: &api.Revoke{
		SessionID: in.SessionID, SessionToken: in.SessionToken, SessionJWT: in.SessionJWT,
	}})
	message := "Successfully deleted session"
	if status == http.StatusAccepted {
		message = "The session is deleted here; its region is out of reach and will be told"
	}
	return status, &struct {
		Message string `json:"message"`
	}{message}, err
}

// list has the active sessions of a user.
func list(c compat.Call) (int, any, error) {
	q, err := c.Query("user_id")
	if err != nil {
		return 0, nil, err
	}
	if q.Get("user_id") == "" {
		return 0, nil, compat.Invalid("user_id", "required")
	}
	all := []Session{}
	_, failed := compat.Sessions(c, url.Values{"user_id": q["user_id"]}, func(s *api.Session) bool {
		var v Session
		if v, err = view(s); err == nil {
			all = append(all, v)
		}
		return err == nil
	})
	if failed != nil {
		err = failed
	}
	return http.StatusOK, &struct {
		Sessions []Session `json:"sessions"`
	}{all}, err
}

// jwks answers with public keys. Streambird's client asks for those of "default"
// and shows its API key in the query, to say whose they are.
func jwks(c compat.Call) (int, any, error) {
	q, err := c.Query("api_key")
	if err != nil {
		return 0, nil, err
	}
	named := c.Path("name")
	if named == "default" {
		named = ""
	}
	app, err := c.PublicApp(named, q.Get("api_key"))
	if err != nil {
		return 0, nil, err
	}
	return c.Native("GET /v1/apps/{app}/jwks", compat.In{Path: map[string]string{"app": app}})
}
