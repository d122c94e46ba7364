package api

import "fmt"

// Error is the one error body of the API.
type Error struct {
	StatusCode   int            `json:"status_code"`
	RequestID    string         `json:"request_id"`
	ErrorType    string         `json:"error_type"`
	ErrorMessage string         `json:"error_message"`
	ErrorURL     string         `json:"error_url"`
	ErrorDetails map[string]any `json:"error_details,omitempty"`
}

// Error implements the error interface.
func (e *Error) Error() string {
	return fmt.Sprintf("%s (%d): %s", e.ErrorType, e.StatusCode, e.ErrorMessage)
}

// The error types. They are stable; messages are not.
const (
	InvalidArgument    = "invalid_argument"             // 400
	TooManyArguments   = "too_many_session_arguments"   // 400: two of sid, token, JWT
	Unauthorized       = "unauthorized_credentials"     // 401: the API key
	NoSession          = "no_session"                   // 401: of the routes for browsers; error_details.reason: missing, malformed, token_needed, unknown, expired, idle, revoked
	ProofInvalid       = "invalid_dpop_proof"           // 401: the session is bound to a key, and there is no good proof of it
	ProofNonce         = "use_dpop_nonce"               // 401: the proof needs the nonce of the header DPoP-Nonce
	AttestationFailed  = "attestation_failed"           // 401: a JWT of an issuer; error_details.reason
	ImpersonationEnded = "impersonation_failed"         // 401: an impersonation token; error_details.reason
	JWTNotYetValid     = "jwt_not_yet_valid"            // 401: its nbf lies ahead of this node's clock
	JWTExpired         = "jwt_expired"                  // 401: where only one counts that has not
	StepUpRequired     = "step_up_required"             // 401: the session is good, and not as fresh or as strong as the request demands
	SessionNotFound    = "session_not_found"            // 404; error_details.reason: unknown, expired, idle, revoked
	NotAuthorized      = "session_authorization_error"  // 403: no role of the session permits it
	Forbidden          = "forbidden"                    // 403: the API key's scope
	AppSuspended       = "app_suspended"                // 403
	FacadeOff          = "facade_not_enabled"           // 403: the app does not list that vendor in compat
	OriginNotAllowed   = "origin_not_allowed"           // 403: not one of the app's origins
	NotFound           = "not_found"                    // 404: a route, an app, a key, a template
	AppNotFound        = "app_not_found"                // 404
	MethodNotAllowed   = "method_not_allowed"           // 405
	NotAcceptable      = "not_acceptable"               // 406: a document of another form than there is
	Conflict           = "conflict"                     // 409: changed meanwhile
	AlreadyExists      = "already_exists"               // 409
	RevokedMeanwhile   = "revoked_since_authentication" // 409: auth_revision
	IdempotencyEnded   = "idempotency_session_ended"    // 409: the session this key made has ended
	SessionLimit       = "session_limit_reached"        // 409: max_sessions_per_user
	TokenReuse         = "token_reuse_detected"         // 409: a replaced token was shown after its grace; the session is revoked
	CursorGone         = "cursor_gone"                  // 410: a feed cannot go on from there
	FeedNotFound       = "feed_not_found"               // 404: no node serves the feed
	TooManyRequests    = "too_many_requests"            // 429
	BodyTooLarge       = "body_too_large"               // 413
	ClaimsTooLarge     = "claims_too_large"             // 413
	MediaType          = "unsupported_media_type"       // 415
	IdempotencyReused  = "idempotency_key_reused"       // 422: another body
	HeaderTooLarge     = "header_too_large"             // 431
	Internal           = "internal_server_error"        // 500
	NotImplemented     = "not_implemented"              // 501: a status list of the past
	NodeStale          = "node_stale"                   // 503: no lease
	LogUnavailable     = "log_unavailable"              // 503: could not be made durable
	LogFull            = "log_full"                     // 503
	MemoryFull         = "memory_full"                  // 503: the node has no memory for another session
	ClusterOutdated    = "cluster_outdated"             // 503: some node runs a version that does not know what is asked for
	IssuerUnreachable  = "issuer_unreachable"           // 503: the keys of an issuer could not be fetched
	HomeUnreachable    = "home_unreachable"             // 503
	HomeReauth         = "session_home_unreachable"     // 401: the app wants a new log-in instead
	ConsistencyTimeout = "consistency_timeout"          // 503: not as far as demanded in time, or as "not found" needs
	ForeignEnded       = "foreign_session_ended"        // 409: the session of this foreign token is here and has ended
	ImportExpired      = "imported_session_expired"     // 409: the session was over before it was imported
	ForeignConflict    = "foreign_session_conflict"     // 409: the foreign token is the session of another user
	// ImportSourceUnavailable, 503: the system that sessions are imported from on demand cannot be asked.
	ImportSourceUnavailable = "import_source_unavailable"
)
