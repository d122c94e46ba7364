package api

import (
	"encoding/json"
	"time"
)

// App is a tenant.
type App struct {
	AppID     string    `json:"app_id"`
	State     string    `json:"state"` // active, suspended, deleted
	CreatedAt time.Time `json:"created_at"`
	ChangedAt time.Time `json:"changed_at"`
	AppSettings
	// ImportRegion is the region in which its imported sessions live, set by the first import; absent: there are none.
	ImportRegion string `json:"import_region,omitempty"`
	// Issuer is the iss of its JWTs and the base of its discovery documents.
	Issuer string `json:"issuer"`
}

// AppSettings are what an app decides for itself. In a request, a member that
// is absent takes the default (create) or stays as it is (change).
type AppSettings struct {
	// JWTProfile is the shape of its JWTs: native (default), stytch, streambird or clerk.
	JWTProfile *string `json:"jwt_profile,omitempty"`
	// JWTAlg signs them: ES256 (default), RS256 (default of streambird and clerk) or EdDSA.
	JWTAlg *string `json:"jwt_alg,omitempty"`
	// JWTTTLSeconds is their life, 30 to 3600; default 300, in the clerk profile 60.
	JWTTTLSeconds *int64 `json:"jwt_ttl_seconds,omitempty"`
	// SessionDurationMinutes is a session's life unless asked otherwise, 1 to 527040; default 43200 (30 d).
	SessionDurationMinutes *int64 `json:"session_duration_minutes,omitempty"`
	// AbsoluteLifetimeMinutes is the longest life of a session however often it is extended; default 527040 (366 d).
	AbsoluteLifetimeMinutes *int64 `json:"absolute_lifetime_minutes,omitempty"`
	// IdleTimeoutMinutes ends a session that is not used; 0, the default: none.
	IdleTimeoutMinutes *int64 `json:"idle_timeout_minutes,omitempty"`
	// LifetimePreset, in a request only, sets the three above to what NIST SP 800-63B allows at most: aal1 (30 d, no idle
	// timeout), aal2 (24 h, 1 h idle) or aal3 (12 h, 15 min idle). Those that are given as well stand above it.
	LifetimePreset *string `json:"lifetime_preset,omitempty"`
	// MaxSessionsPerUser is how many sessions a user may have at a time, 1 to 1000; 0, the default: any number. Best effort
	// between regions, which then come to it by evicting the oldest.
	MaxSessionsPerUser *int64 `json:"max_sessions_per_user,omitempty"`
	// SessionLimitPolicy is what becomes of one more: evict_oldest (default) revokes the oldest, reject refuses it with 409.
	SessionLimitPolicy *string `json:"session_limit_policy,omitempty"`
	// TokenReuse is what becomes of a session whose replaced token is shown after its grace: refuse (default) refuses the
	// token, revoke ends the session as well. Then whoever holds an old token can log the user out.
	TokenReuse *string `json:"token_reuse,omitempty"`
	// WhenStale is what a node without a lease does: refuse (default), serve or reauth.
	WhenStale *string `json:"when_stale,omitempty"`
	// ReturnToken hands the session token back to who shows only a JWT; default: true in the stytch and streambird profiles.
	ReturnToken *bool `json:"return_token,omitempty"`
	// Origins are those whose pages may call /v1/client/*, such as https://app.example.com; at most 64. Each is compared as it is.
	Origins *[]string `json:"origins,omitempty"`
	// ClientJWTTTLSeconds is the life of the JWTs that /v1/client/refresh hands out, 30 to 3600, never longer than JWTTTLSeconds; default 60.
	ClientJWTTTLSeconds *int64 `json:"client_jwt_ttl_seconds,omitempty"`
	// ClearSiteData makes /v1/client/logout send Clear-Site-Data, so that the browser wipes what it has of the origin.
	ClearSiteData *bool `json:"clear_site_data,omitempty"`
	// IntrospectionMaxExpSeconds is how far ahead the exp of an introspection lies at most, 1 to 3600; default 60.
	// Some resource servers keep an answer until then, whatever is revoked meanwhile.
	IntrospectionMaxExpSeconds *int64 `json:"introspection_max_exp_seconds,omitempty"`
	// DPoPNonce demands a nonce of the node in proofs of bound sessions; default: false.
	DPoPNonce *bool `json:"dpop_nonce,omitempty"`
	// ExpiredEvents has the end of each session that runs out written as an event for subscribers; default: true.
	ExpiredEvents *bool `json:"expired_events,omitempty"`
	// StatusList has each JWT of a session name its place in a Token Status List, for verifiers without an SDK; default: false.
	StatusList *bool `json:"status_list,omitempty"`
	// Compat lists the vendors whose API the app answers as well: streambird, clerk; default: that of jwt_profile.
	Compat []string `json:"compat,omitzero"`
}

// CreateApp is the body of POST /v1/apps.
type CreateApp struct {
	AppID string `json:"app_id"`
	AppSettings
}

// AppAnswer answers a create (with the app's first API key, shown once), a
// read and a change.
type AppAnswer struct {
	Meta
	App      App    `json:"app"`
	APIKey   string `json:"api_key,omitempty"`
	Revision string `json:"revision,omitempty"`
}

// AppList answers GET /v1/apps.
type AppList struct {
	Meta
	Apps []App `json:"apps"`
}

// Scopes of API keys. A cluster admin key has ScopeCluster and may do
// everything in every app.
const (
	ScopeCreate = "create"
	ScopeVerify = "verify"
	ScopeRead   = "read"
	ScopeRevoke = "revoke"
	ScopeAdmin  = "admin" // of its own app: keys, API keys, templates, settings
	// ScopeImpersonate: to make sessions with an actor. No key has it unless it was asked for by name.
	ScopeImpersonate = "impersonate"
	// ScopeSSF: the Shared Signals stream of this very key, and to receive what it tells: which sessions of the app
	// begin, change and end, of which users, and claims. Only keys that were given it by name have it; ScopeAdmin
	// includes it, for the streams of all keys of the app.
	ScopeSSF     = "ssf"
	ScopeCluster = "cluster"
)

// APIKey is a key for the API, without its secret.
type APIKey struct {
	ID        string     `json:"id"`
	AppID     string     `json:"app_id,omitempty"` // absent: cluster admin key
	Name      string     `json:"name,omitempty"`
	Scopes    []string   `json:"scopes"`
	CreatedAt time.Time  `json:"created_at"`
	ExpiresAt *time.Time `json:"expires_at,omitempty"`
	RevokedAt *time.Time `json:"revoked_at,omitempty"`
}

// CreateAPIKey is the body of POST /v1/apps/{app}/api-keys and /v1/admin-keys.
type CreateAPIKey struct {
	Name string `json:"name,omitempty"`
	// Scopes defaults to all of an app's but impersonate and ssf, or to cluster for an admin key.
	Scopes    []string   `json:"scopes,omitempty"`
	ExpiresAt *time.Time `json:"expires_at,omitempty"`
}

// APIKeyAnswer answers it; Secret is shown once.
type APIKeyAnswer struct {
	Meta
	APIKey   APIKey   `json:"key"`
	Secret   string   `json:"api_key,omitempty"`
	Revision string   `json:"revision,omitempty"`
	Receipt  *Receipt `json:"receipt,omitempty"`
}

// APIKeyList answers a list of them.
type APIKeyList struct {
	Meta
	APIKeys []APIKey `json:"keys"`
}

// SigningKey is a signing key of an app, public half only.
type SigningKey struct {
	KID         string     `json:"kid"`
	Alg         string     `json:"alg"`
	State       string     `json:"state"` // next, active, retired, compromised
	CreatedAt   time.Time  `json:"created_at"`
	ActiveAt    time.Time  `json:"active_at"`
	RetiredAt   *time.Time `json:"retired_at,omitempty"`
	ListedUntil *time.Time `json:"listed_until,omitempty"`
}

// SigningKeyList answers GET /v1/apps/{app}/keys and POST …/keys/rotate.
type SigningKeyList struct {
	Meta
	Keys     []SigningKey `json:"keys"`
	Revision string       `json:"revision,omitempty"`
	Receipt  *Receipt     `json:"receipt,omitempty"`
}

// RotateKeys is the body of POST /v1/apps/{app}/keys/rotate.
type RotateKeys struct {
	// Alg of the new key; default the app's.
	Alg string `json:"alg,omitempty"`
	// Compromised removes this key at once: JWTs signed with it are refused.
	Compromised string `json:"compromised,omitempty" filled:"true"`
}

// Template is a named shape of JWT.
type Template struct {
	Name       string          `json:"name"`
	JWTProfile string          `json:"jwt_profile,omitempty"`
	TTLSeconds int64           `json:"ttl_seconds,omitempty"`
	Audience   string          `json:"audience,omitempty"`
	Claims     json.RawMessage `json:"claims,omitempty"` // an object, added to the session's custom claims
}

// TemplateAnswer answers a read or a put of one.
type TemplateAnswer struct {
	Meta
	Template Template `json:"template"`
	Revision string   `json:"revision,omitempty"`
}

// TemplateList answers GET /v1/apps/{app}/templates.
type TemplateList struct {
	Meta
	Templates []Template `json:"templates"`
}

// StreamState is how a node stands to one stream.
type StreamState struct {
	Stream      string `json:"stream"`
	Position    string `json:"position"`
	Fresh       bool   `json:"fresh"`
	LeaseMS     int64  `json:"lease_ms"` // left
	StalenessMS int64  `json:"staleness_ms"`
	Fenced      string `json:"fenced,omitempty"` // why it is not fresh
	Detail      string `json:"detail,omitempty"` // what that means and what to do
	Bytes       uint64 `json:"bytes"`
	MaxBytes    uint64 `json:"max_bytes"`
	Overwrites  uint64 `json:"overwrites"`
	Digest      string `json:"digest"` // whether other nodes made the same of it: agrees, differs, unknown
	// Pending is how many revocations recorded elsewhere wait until the stream is reached.
	Pending int `json:"pending,omitempty"`
}

// Values of StreamState.Digest.
const (
	DigestAgrees  = "agrees"
	DigestDiffers = "differs"
	DigestUnknown = "unknown"
)
