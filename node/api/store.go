package api

import "time"

// PutStored is the body of PUT /v1/store/{token_sha256}: a session as a web
// framework keeps it.
type PutStored struct {
	// Token is what the hash in the path is of; it comes back in lists. Optional.
	Token string `json:"token,omitempty"`
	// UserID is who is logged in; empty: nobody yet. It can never change: log-in and log-out need a new token.
	UserID string `json:"user_id,omitempty"`
	// Data is what the framework keeps in the session, base64.
	Data string `json:"data"`
	// ExpiresAt is when the session ends; not after the app's longest life of a session.
	ExpiresAt time.Time `json:"expires_at"`
}

// TouchStored is the body of POST /v1/store/{token_sha256}/touch.
type TouchStored struct {
	ExpiresAt time.Time `json:"expires_at"`
}

// StoredSession is a session of a web framework. Its SessionID can be used
// wherever one is: to revoke it, or, once somebody is logged in, to mint a JWT.
type StoredSession struct {
	SessionID string `json:"session_id"`
	// UserID is empty while nobody is logged in.
	UserID string `json:"user_id"`
	// Token and Data are absent in answers to what set them.
	Token             string    `json:"token,omitempty"`
	Data              string    `json:"data,omitempty"`
	StartedAt         time.Time `json:"started_at"`
	ExpiresAt         time.Time `json:"expires_at"`
	AbsoluteExpiresAt time.Time `json:"absolute_expires_at"`
}

// StoredAnswer answers all calls about one stored session, but its end.
type StoredAnswer struct {
	Meta
	Freshness
	StoredSession
}

// StoredList answers GET /v1/store.
type StoredList struct {
	Meta
	Freshness
	Sessions   []StoredSession `json:"sessions"`
	NextCursor string          `json:"next_cursor,omitempty"`
}

// StoreCleared answers DELETE /v1/store. With More there are sessions left: call again.
type StoreCleared struct {
	Meta
	Freshness
	Revoked int  `json:"revoked"`
	More    bool `json:"more"`
}
