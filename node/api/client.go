package api

import "time"

// ClientRefresh is the body of POST /v1/client/refresh; it may be left out.
type ClientRefresh struct {
	// Background: the user did not make the request, so it is no use of the session. The header X-Session-Background does the same.
	Background bool `json:"background,omitempty"`
	// SetCookie sets the cookie __Host-session anew, to last as long as the session does now.
	SetCookie bool `json:"set_cookie,omitempty"`
}

// ClientRefreshAnswer answers it. It never holds a token.
type ClientRefreshAnswer struct {
	Meta
	Freshness
	SessionJWT   string        `json:"session_jwt"`
	ExpiresAt    time.Time     `json:"expires_at"`
	ExpiresIn    int64         `json:"expires_in"`    // seconds
	RefreshAfter int64         `json:"refresh_after"` // seconds; a third of the JWT's life is left then
	Session      ClientSession `json:"session"`
}

// ClientSession is a session as a browser is shown it: what a backend alone
// needs to know of it is left out.
type ClientSession struct {
	SessionID         string     `json:"session_id"`
	AppID             string     `json:"app_id"`
	UserID            string     `json:"user_id"`
	StartedAt         time.Time  `json:"started_at"`
	LastAccess        time.Time  `json:"last_accessed_at"` // approximate: touches are coalesced
	ExpiresAt         time.Time  `json:"expires_at"`
	AbsoluteExpiresAt time.Time  `json:"absolute_expires_at"`
	IdleExpiresAt     *time.Time `json:"idle_expires_at,omitempty"`
}

// ClientLogoutAnswer answers POST /v1/client/logout. Revision is the position of
// the revocation, absent when the session had ended already; Pending names the
// region out of reach that is still to hear of it (202).
type ClientLogoutAnswer struct {
	Meta
	Revision string   `json:"revision,omitempty"`
	Pending  []string `json:"pending,omitempty"`
}

// ClientHello begins the event stream of GET /v1/client/events, which is about the
// one session.
type ClientHello struct {
	SessionID        string       `json:"session_id"`
	Revision         string       `json:"revision"`
	HeartbeatSeconds int64        `json:"heartbeat_seconds"`
	Streams          []FeedStream `json:"streams"` // that of the session
}
