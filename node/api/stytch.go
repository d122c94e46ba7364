package api

import "encoding/json"

// AuthorizationCheck asks whether a role of the session permits the action on
// the resource.
type AuthorizationCheck struct {
	ResourceID string `json:"resource_id"`
	Action     string `json:"action"`
}

// Verdict says that it does, and which roles do.
type Verdict struct {
	Authorized    bool     `json:"authorized"` // always true: otherwise the answer is 403
	GrantingRoles []string `json:"granting_roles"`
}

// Policy is what the roles of an app's sessions, and scopes, permit.
type Policy struct {
	Roles     []PolicyRole     `json:"roles"`
	Resources []PolicyResource `json:"resources"`
	Scopes    []PolicyScope    `json:"scopes"`
}

// PolicyRole is a role. Every session has the role "stytch_user" if the policy defines it.
type PolicyRole struct {
	RoleID      string       `json:"role_id"`
	Description string       `json:"description"`
	Permissions []Permission `json:"permissions"`
}

// PolicyResource is something that can be acted upon, and how.
type PolicyResource struct {
	ResourceID  string   `json:"resource_id"`
	Description string   `json:"description"`
	Actions     []string `json:"actions"`
}

// PolicyScope is a scope of access tokens; it is kept for verifiers and decides nothing about sessions.
type PolicyScope struct {
	Scope       string       `json:"scope"`
	Description string       `json:"description"`
	Permissions []Permission `json:"permissions"`
}

// Permission permits actions on a resource; the action "*" is all of them.
type Permission struct {
	ResourceID string   `json:"resource_id"`
	Actions    []string `json:"actions"`
}

// PutPolicy is the body of PUT /v1/rbac/policy, which replaces the whole policy: the document itself, or what GET has in
// "policy", as policy.
type PutPolicy struct {
	Policy    *Policy          `json:"policy,omitempty"`
	Roles     []PolicyRole     `json:"roles,omitempty"`
	Resources []PolicyResource `json:"resources,omitempty"`
	Scopes    []PolicyScope    `json:"scopes,omitempty"`
}

// PolicyAnswer answers GET and PUT /v1/rbac/policy; an app without a policy has an empty one, which permits nothing.
type PolicyAnswer struct {
	Meta
	Policy   Policy `json:"policy"`
	Revision string `json:"revision,omitempty"`
}

// LoginAnswer answers attest, exchange_access_token, migrate and the
// authentication of an impersonation token.
type LoginAnswer struct {
	SessionAnswer
	UserID string `json:"user_id"`
}

// ImpersonationOrder is the body of POST /v1/impersonation/tokens.
type ImpersonationOrder struct {
	// UserID is who is to be impersonated.
	UserID string `json:"user_id"`
	// ImpersonatorID and ImpersonatorEmail say who does that.
	ImpersonatorID    string `json:"impersonator_id"`
	ImpersonatorEmail string `json:"impersonator_email_address"`
	// Reason is kept with the session, up to 256 bytes.
	Reason string `json:"reason,omitempty"`
}

// ImpersonationToken answers it.
type ImpersonationToken struct {
	Meta
	Token string `json:"impersonation_token"`
	// ExpiresIn is how long the token can be authenticated, in seconds; each time it names the same session.
	ExpiresIn int64 `json:"expires_in"`
}

// AuthenticateImpersonation is the body of POST /v1/impersonation/authenticate.
type AuthenticateImpersonation struct {
	Token string `json:"impersonation_token"`
}

// Attest is the body of POST /v1/sessions/attest.
type Attest struct {
	// ProfileID names the registered issuer, Token is a JWT of it.
	ProfileID string `json:"profile_id"`
	Token     string `json:"token"`
	// SessionDurationMinutes is the life of the session that is made, or extends the one given; 0: the app's, or not.
	SessionDurationMinutes int64           `json:"session_duration_minutes,omitempty"`
	CustomClaims           json.RawMessage `json:"session_custom_claims,omitempty"`
	// SessionToken or SessionJWT, of the same user, has the token added to that session as a factor.
	SessionToken string `json:"session_token,omitempty"`
	SessionJWT   string `json:"session_jwt,omitempty"`
	// TelemetryID is accepted, as Stytch's clients may send it, and means nothing here.
	TelemetryID string `json:"telemetry_id,omitempty"`
}

// ExchangeAccessToken is the body of POST /v1/sessions/exchange_access_token: an attest with the registered issuer whose
// iss and aud the token has.
type ExchangeAccessToken struct {
	AccessToken            string          `json:"access_token"`
	SessionDurationMinutes int64           `json:"session_duration_minutes,omitempty"`
	CustomClaims           json.RawMessage `json:"session_custom_claims,omitempty"`
	// TelemetryID is accepted, as Stytch's clients may send it, and means nothing here.
	TelemetryID string `json:"telemetry_id,omitempty"`
}

// Migrate is the body of POST /v1/sessions/migrate: the session of a token that another system made and that was imported.
type Migrate struct {
	SessionToken           string          `json:"session_token"`
	SessionDurationMinutes int64           `json:"session_duration_minutes,omitempty"`
	CustomClaims           json.RawMessage `json:"session_custom_claims,omitempty"`
	// TelemetryID is accepted, as Stytch's clients may send it, and means nothing here.
	TelemetryID string `json:"telemetry_id,omitempty"`
}

// Issuer is an issuer of JWTs whose word the app takes for who its users are.
type Issuer struct {
	ProfileID string `json:"profile_id"`
	// Issuer must equal iss of its JWTs, Audience their only aud.
	Issuer   string `json:"issuer"`
	Audience string `json:"audience"`
	// JWKSURI is where its public keys are, JWKS holds them; one of both is given.
	JWKSURI string          `json:"jwks_uri,omitempty"`
	JWKS    json.RawMessage `json:"jwks,omitempty"`
	// Algs are accepted of it, some of ES256, RS256 and EdDSA; none: all.
	Algs []string `json:"algs,omitempty"`
	// UserIDClaim has the user id; default sub. If it is email, email_verified must be true as well.
	UserIDClaim string `json:"user_id_claim,omitempty"`
	// UserIDPrefix is put before it, so that users of two issuers stay apart.
	UserIDPrefix string `json:"user_id_prefix,omitempty"`
	// Claims are copied: from the name in the JWT to that of a custom claim of the session.
	Claims map[string]string `json:"claims,omitempty"`
	// MaxAgeSeconds is how old a JWT may be, by its iat; 0: until its exp.
	MaxAgeSeconds int64 `json:"max_age_seconds,omitempty"`
	// MaxSessionMinutes is the longest life of a session from it, however often it is extended; 0: the app's.
	MaxSessionMinutes int64 `json:"max_session_minutes,omitempty"`
	// Factor is what is recorded of the log-in; default trusted_auth_token by trusted_token_exchange.
	Factor *IssuerFactor `json:"factor,omitempty"`
}

// IssuerFactor names an authentication factor.
type IssuerFactor struct {
	Type           string `json:"type"`
	DeliveryMethod string `json:"delivery_method"`
}

// IssuerAnswer answers a read, a put or a delete of one.
type IssuerAnswer struct {
	Meta
	Issuer   Issuer `json:"issuer"`
	Revision string `json:"revision,omitempty"`
}

// IssuerList answers GET /v1/apps/{app}/issuers.
type IssuerList struct {
	Meta
	Issuers []Issuer `json:"issuers"`
}
