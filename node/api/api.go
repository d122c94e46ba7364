// Package api holds the wire types of Revocast's HTTP API: what nodes answer,
// what clients send, and the error types. It imports nothing, so that a client
// in Go needs nothing else.
//
// Times are RFC 3339 in UTC with milliseconds. Every answer with a body carries
// request_id and status_code. openapi.yaml beside this file is the same in
// OpenAPI 3.1; a test holds it against the route table.
package api

import (
	"encoding/json"
	"time"
)

// Meta is part of every answer with a body.
type Meta struct {
	RequestID  string `json:"request_id"`
	StatusCode int    `json:"status_code"`
}

// Fill sets what every answer carries.
func (m *Meta) Fill(requestID string, status int) { m.RequestID, m.StatusCode = requestID, status }

// Freshness is part of every answer about sessions. StalenessMS is how long
// ago this node last proved that it knew everything committed; Revision is the
// position of the write, or up to which the answer was read.
type Freshness struct {
	Revision    string `json:"revision,omitempty"`
	StalenessMS int64  `json:"staleness_ms"`
	// ConfigStaleMS is how long ago the node knew all of CONFIG, while that is out of reach: settings and keys may be older.
	ConfigStaleMS int64 `json:"config_stale_ms,omitempty"`
}

// ConfigStale sets that CONFIG is out of reach.
func (f *Freshness) ConfigStale(ms int64) { f.ConfigStaleMS = ms }

// Session is a session as the API shows it. It never holds a token.
type Session struct {
	SessionID  string    `json:"session_id"`
	AppID      string    `json:"app_id"`
	UserID     string    `json:"user_id"`
	Status     string    `json:"status"` // active, idle, expired, revoked
	StartedAt  time.Time `json:"started_at"`
	LastAccess time.Time `json:"last_accessed_at"` // approximate: touches are coalesced
	ExpiresAt  time.Time `json:"expires_at"`
	// AbsoluteExpiresAt is the moment past which nothing extends the session.
	AbsoluteExpiresAt time.Time `json:"absolute_expires_at"`
	// IdleExpiresAt is when the session ends if it is not used; absent without an idle timeout.
	IdleExpiresAt *time.Time        `json:"idle_expires_at,omitempty"`
	Attributes    Attributes        `json:"attributes"`
	Factors       []json.RawMessage `json:"authentication_factors"`
	CustomClaims  json.RawMessage   `json:"custom_claims"`
	Metadata      json.RawMessage   `json:"metadata"`
	Roles         []string          `json:"roles"`
	// OrganizationID and OrganizationSlug are what the session acts for; absent: none.
	OrganizationID   string `json:"organization_id,omitempty"`
	OrganizationSlug string `json:"organization_slug,omitempty"`
	// Actor is who acts as the user; absent: the user.
	Actor json.RawMessage `json:"actor,omitempty"`
	// AssuranceLevel is aal1, aal2 or aal3, the JWT's acr; absent: nothing is known of how the user logged in.
	AssuranceLevel string `json:"assurance_level,omitempty"`
	// AuthenticatedAt is the time of the newest factor, the JWT's auth_time.
	AuthenticatedAt time.Time `json:"authenticated_at"`
	Region          string    `json:"region"`
	Revision        string    `json:"revision"` // of its newest state
	// Bind is the key to which the session is bound; absent: none.
	Bind *Bind `json:"bind,omitempty"`
	// Set once revoked.
	RevokedAt    *time.Time `json:"revoked_at,omitempty"`
	RevokedBy    string     `json:"revoked_by,omitempty"`
	RevokeReason string     `json:"revoke_reason,omitempty"`
}

// Attributes are the device information of a log-in.
type Attributes struct {
	IPAddress string `json:"ip_address"`
	UserAgent string `json:"user_agent"`
}

// Bind names the key of the client to which a session is bound: whoever shows a
// token or a JWT of it must prove that key (RFC 9449).
type Bind struct {
	// DPoPJKT is the SHA-256 thumbprint of the public key (RFC 7638), base64url.
	DPoPJKT string `json:"dpop_jkt"`
}

// DPoPProof is a proof of possession that a client has made for a request to the
// caller, and that request.
type DPoPProof struct {
	Proof  string `json:"proof"` // the header DPoP
	Method string `json:"htm"`   // as the caller received it
	URL    string `json:"htu"`   // likewise; without query and fragment
}

// CreateSession is the body of POST /v1/sessions.
type CreateSession struct {
	UserID string `json:"user_id"`
	// SessionDurationMinutes is the life until extended, 1 to 527040 (366 d);
	// 0: the app's. IdleTimeoutMinutes and AbsoluteLifetimeMinutes likewise.
	SessionDurationMinutes  int64 `json:"session_duration_minutes,omitempty"`
	IdleTimeoutMinutes      int64 `json:"idle_timeout_minutes,omitempty"`
	AbsoluteLifetimeMinutes int64 `json:"absolute_lifetime_minutes,omitempty"`
	// LifetimePreset sets the three as the app setting of that name does: aal1, aal2 or aal3.
	LifetimePreset string            `json:"lifetime_preset,omitempty"`
	Factors        []json.RawMessage `json:"authentication_factors,omitempty"`
	Attributes     *Attributes       `json:"attributes,omitempty"`
	CustomClaims   json.RawMessage   `json:"session_custom_claims,omitempty"`
	Metadata       json.RawMessage   `json:"metadata,omitempty"`
	// AssuranceLevel is what the backend vouches for: aal1, aal2 or aal3, no more than the factors allow where some are
	// given. Absent: one factor is aal1, two of different kinds are aal2.
	AssuranceLevel string `json:"assurance_level,omitempty"`
	// Roles, at most 64, go into JWTs, and so does the organization.
	Roles            []string `json:"roles,omitempty"`
	OrganizationID   string   `json:"organization_id,omitempty"`
	OrganizationSlug string   `json:"organization_slug,omitempty"`
	// Actor, an object with "sub", is who acts as the user: act in JWTs (RFC 8693), without its member "reason". It needs
	// the scope impersonate and never changes.
	Actor json.RawMessage `json:"actor,omitempty"`
	// AuthRevision is a revision read when the log-in began: if the user was
	// logged out everywhere since, the session is refused with 409.
	AuthRevision string `json:"auth_revision,omitempty" filled:"true"`
	// SetCookie asks for set_cookie in the answer.
	SetCookie bool `json:"set_cookie,omitempty"`
	// Bind binds the session to a key of the client, for good. The header DPoP with a proof made for this call does
	// the same.
	Bind *Bind `json:"bind,omitempty"`
}

// SessionAnswer answers create, authenticate, rotate and patch.
type SessionAnswer struct {
	Meta
	Freshness
	Session      Session `json:"session"`
	SessionToken string  `json:"session_token"`
	SessionJWT   string  `json:"session_jwt"`
	User         *User   `json:"user,omitempty"`
	// Verdict is there if an authorization_check was asked for, and granted.
	Verdict *Verdict `json:"verdict,omitempty"`
	// SetCookie is, when a create or a rotate asked for it, the value of a header Set-Cookie with the token, for
	// the caller to put on its own answer to the browser.
	SetCookie string `json:"set_cookie,omitempty"`
}

// SessionInfo answers GET /v1/sessions/{sid}, also for a session that has
// ended and is still known.
type SessionInfo struct {
	Meta
	Freshness
	Session Session `json:"session"`
}

// User is the user of a session, in the shape Stytch clients read.
type User struct {
	UserID string `json:"user_id"`
}

// Authenticate is the body of POST /v1/sessions/authenticate. Exactly one of
// SessionToken and SessionJWT is set.
type Authenticate struct {
	SessionToken string `json:"session_token,omitempty"`
	SessionJWT   string `json:"session_jwt,omitempty"`
	// SessionDurationMinutes, if not 0, extends the session to that long from now.
	SessionDurationMinutes int64 `json:"session_duration_minutes,omitempty"`
	// CustomClaims is a JSON merge patch (RFC 7396) of the custom claims.
	CustomClaims json.RawMessage `json:"session_custom_claims,omitempty"`
	// Consistency is "bounded" (default), "strong", or {"at_least": revision}.
	Consistency json.RawMessage `json:"consistency,omitempty"`
	// Touch false does not count as activity.
	Touch *bool `json:"touch,omitempty"`
	// DPoP is needed for a session that is bound to a key.
	DPoP *DPoPProof `json:"dpop,omitempty"`
	// Require demands more than a good session; what it falls short of is 401 step_up_required.
	Require *Require `json:"require,omitempty"`
	// AuthorizationCheck refuses the session with 403, changing nothing, unless a role of it permits the action by the app's policy.
	AuthorizationCheck *AuthorizationCheck `json:"authorization_check,omitempty"`
	// TelemetryID is accepted, as Stytch's clients may send it, and means nothing here.
	TelemetryID string `json:"telemetry_id,omitempty"`
}

// Require is how recently and how well the user must have logged in.
type Require struct {
	// MaxAgeSeconds is how long ago the newest factor may be, 0 to 31622400 (366 d).
	MaxAgeSeconds *int64 `json:"max_age_seconds,omitempty"`
	// AMR are methods of RFC 8176, at most 8, of which the session must have all, as in the JWT's amr.
	AMR []string `json:"amr,omitempty"`
	// AAL is the least level: aal1, aal2 or aal3.
	AAL string `json:"aal,omitempty"`
}

// PatchSession is the body of PATCH /v1/sessions/{sid}. Claims and metadata are
// merge patches (RFC 7396); factors are added, in place of one that differs in
// nothing but its times. A factor without last_authenticated_at was used now.
type PatchSession struct {
	CustomClaims json.RawMessage   `json:"session_custom_claims,omitempty"`
	Metadata     json.RawMessage   `json:"metadata,omitempty"`
	AddFactors   []json.RawMessage `json:"add_authentication_factors,omitempty"`
	// AssuranceLevel states the level anew. It may rise only together with factors that are added; absent, it rises to
	// what those say.
	AssuranceLevel string `json:"assurance_level,omitempty"`
	// Roles replaces them; absent: as they are.
	Roles *[]string `json:"roles,omitempty"`
	// SessionDurationMinutes, if not 0, sets the expiry to that long from now.
	SessionDurationMinutes int64 `json:"session_duration_minutes,omitempty"`
}

// SwitchOrganization is the body of POST /v1/sessions/{sid}/organization.
type SwitchOrganization struct {
	// OrganizationID is what the session acts for from now on; null: nothing.
	OrganizationID json.RawMessage `json:"organization_id"`
	Slug           string          `json:"slug,omitempty"`
	// Roles are those of the session there; absent: none, because roles of another organization say nothing here.
	Roles []string `json:"roles,omitempty"`
}

// Impersonate is the body of POST /v1/sessions/impersonate.
type Impersonate struct {
	UserID string `json:"user_id"`
	// Actor, an object with "sub", is who acts as the user; "reason" in it stays out of JWTs.
	Actor json.RawMessage `json:"actor"`
	// SessionDurationMinutes is the life of the session, 1 to 60; default 60. It cannot be extended.
	SessionDurationMinutes int64 `json:"session_duration_minutes,omitempty"`
}

// Rotate is the body of POST /v1/sessions/rotate.
type Rotate struct {
	SessionToken string `json:"session_token,omitempty"`
	SessionJWT   string `json:"session_jwt,omitempty"`
	// GraceSeconds is how long the old token stays good, 0 to 60; rotating
	// with it again within that time returns the same new token. With 0 an
	// answer that is lost cannot be asked for again.
	GraceSeconds int64 `json:"grace_seconds,omitempty"`
	// SetCookie asks for set_cookie in the answer.
	SetCookie bool `json:"set_cookie,omitempty"`
	// DPoP is needed for a session that is bound to a key.
	DPoP *DPoPProof `json:"dpop,omitempty"`
}

// Revoke is the body of POST /v1/sessions/revoke. Exactly one of SessionID,
// SessionToken, SessionJWT, UserID and All is set.
type Revoke struct {
	SessionID    string `json:"session_id,omitempty"`
	SessionToken string `json:"session_token,omitempty"`
	SessionJWT   string `json:"session_jwt,omitempty"`
	UserID       string `json:"user_id,omitempty"`
	// ExceptSessionID spares one session; only with UserID.
	ExceptSessionID string `json:"except_session_id,omitempty" filled:"true"`
	// All revokes every session of the app.
	All    bool   `json:"all,omitempty"`
	Reason string `json:"reason,omitempty"`
	// Wait is "none" (default: committed) or "all" (every node applied it or fenced itself).
	Wait string `json:"wait,omitempty"`
}

// RevokeAnswer answers a revoke. Revoked counts the sessions that were good on
// this node when the revocation was applied.
type RevokeAnswer struct {
	Meta
	Freshness
	Revoked int      `json:"revoked"`
	Receipt *Receipt `json:"receipt,omitempty"`
}

// Receipt says how far a revocation has come.
type Receipt struct {
	Revision string `json:"revision"`
	// Status is "committed", "complete" (no node anywhere answers "valid" any more),
	// "partial" (but for nodes that are cut off and serve old answers because the app wants that, or go on with the keys they have) or
	// "pending" (recorded here and heard from here on; the nodes of the regions in Pending may not know yet).
	Status string `json:"status"`
	// Method is how it became complete: "sole" (no other node can exist), "confirmed" (each node said so or has left),
	// "waited" (the leases of silent ones have ended).
	Method  string           `json:"method,omitempty"`
	Applied []ReceiptApplied `json:"applied,omitempty"`
	// Fenced names nodes that answer nothing until they have applied it.
	Fenced []string `json:"fenced,omitempty"`
	// WaitedOut names nodes that were silent for so long that they can answer nothing.
	WaitedOut []string `json:"waited_out,omitempty"`
	// Left names nodes that said farewell meanwhile.
	Left   []string `json:"left,omitempty"`
	TookMS int64    `json:"took_ms"`
	// Pending names the regions out of reach to which it is delivered as soon as they are reached.
	Pending []string `json:"pending,omitempty"`
	// JWTSafeAfter is when the last JWT minted before the revocation expires; not known while it is pending.
	JWTSafeAfter time.Time `json:"jwt_safe_after,omitzero"`
	// ReceiptURL is where to ask again, as long as it is only committed or pending.
	ReceiptURL string `json:"receipt_url,omitempty"`
}

// ReceiptAnswer answers GET /v1/receipts/{revision}: a receipt of each position,
// and the least that can be said of all of them.
type ReceiptAnswer struct {
	Meta
	Status   string    `json:"status"`
	Receipts []Receipt `json:"receipts"`
}

// ReceiptApplied is a node that applied the revocation.
type ReceiptApplied struct {
	Node string `json:"node"`
	MS   int64  `json:"ms"`
}

// SessionList answers GET /v1/sessions. Total counts what matches. Incomplete
// names the regions whose sessions are left out of both, because the node cannot
// vouch for them now; absent: there is none.
type SessionList struct {
	Meta
	Freshness
	Sessions   []Session `json:"sessions"`
	NextCursor string    `json:"next_cursor,omitempty"`
	Total      int       `json:"total"`
	Incomplete []string  `json:"incomplete,omitempty"`
}

// SessionEvents answers GET /v1/sessions/{sid}/events, oldest first.
type SessionEvents struct {
	Meta
	Freshness
	Events []SessionEvent `json:"events"`
}

// SessionEvent is one event of a session's history. A gap says that states
// between Missing and this one were overwritten before they were archived.
// Nobody writes that a session expired: session.expired is worked out, and its
// revision is that of the state that ran out.
type SessionEvent struct {
	Type     string    `json:"type"` // session.created, .extended, .changed, .rotated, .repaired, .erased, .revoked, .expired, user.revoked, app.revoked
	At       time.Time `json:"at"`
	Revision string    `json:"revision"`
	By       string    `json:"by,omitempty"`
	Reason   string    `json:"reason,omitempty"`
	// ExpiresAt is the session's expiry as of this event.
	ExpiresAt *time.Time `json:"expires_at,omitempty"`
	// GapAfter is the revision of the state this one replaced, when the archive lacks it.
	GapAfter string `json:"gap_after,omitempty"`
}

// MintToken is the body of POST /v1/sessions/{sid}/tokens.
type MintToken struct {
	Template   string `json:"template,omitempty" filled:"true"`
	TTLSeconds int64  `json:"ttl_seconds,omitempty"`
}

// MintAnswer answers it.
type MintAnswer struct {
	Meta
	Freshness
	SessionJWT string    `json:"session_jwt"`
	ExpiresAt  time.Time `json:"expires_at"`
	ExpiresIn  int64     `json:"expires_in"` // seconds
}

// VerifyAnswer is the body of /v1/verify?body=1.
type VerifyAnswer struct {
	Meta
	Freshness
	SessionID string    `json:"session_id"`
	AppID     string    `json:"app_id"`
	UserID    string    `json:"user_id"`
	ExpiresAt time.Time `json:"expires_at"`
}
