package api

import (
	"encoding/json"
	"time"
)

// ImportSession is one line of the body of POST /v1/sessions/import: a session
// that another system began. Exactly one of TokenSHA256 and Token is set.
type ImportSession struct {
	// TokenSHA256 is SHA-256 of the characters of the token that the other system handed out: 64 hex digits, or base64url.
	TokenSHA256 string `json:"token_sha256,omitempty"`
	// Token is that token, if it is known: only then can it be handed back to who shows a JWT.
	Token  string `json:"token,omitempty"`
	UserID string `json:"user_id"`
	// StartedAt is when the user logged in; absent: not known, which is shown as 1970: any log-out everywhere of the user refuses the session, no max_age is met by it, and lifetimes count from the import.
	StartedAt *time.Time `json:"started_at,omitempty"`
	// LastAccessedAt is the last use, for idle timeouts; absent: now.
	LastAccessedAt *time.Time `json:"last_accessed_at,omitempty"`
	// ExpiresAt is when the session ends unless extended; or SessionDurationMinutes says it, from StartedAt. Absent: the app's duration.
	ExpiresAt              *time.Time `json:"expires_at,omitempty"`
	SessionDurationMinutes int64      `json:"session_duration_minutes,omitempty"`
	// AbsoluteExpiresAt is the moment past which nothing extends it; or AbsoluteLifetimeMinutes says it, from StartedAt. Never later than the app allows.
	AbsoluteExpiresAt       *time.Time        `json:"absolute_expires_at,omitempty"`
	AbsoluteLifetimeMinutes int64             `json:"absolute_lifetime_minutes,omitempty"`
	IdleTimeoutMinutes      int64             `json:"idle_timeout_minutes,omitempty"`
	Factors                 []json.RawMessage `json:"authentication_factors,omitempty"`
	Attributes              *Attributes       `json:"attributes,omitempty"`
	CustomClaims            json.RawMessage   `json:"session_custom_claims,omitempty"`
	Metadata                json.RawMessage   `json:"metadata,omitempty"`
}

// Values of Type in the lines that answer an import.
const (
	ImportLineError    = "error"
	ImportLineProgress = "progress"
	ImportLineSummary  = "summary"
)

// ImportError is a line of the answer to POST /v1/sessions/import, which is NDJSON: a line of the body that was not imported, and why.
type ImportError struct {
	Type         string         `json:"type"` // error
	Line         int64          `json:"line"` // from 1
	ErrorType    string         `json:"error_type"`
	ErrorMessage string         `json:"error_message"`
	ErrorDetails map[string]any `json:"error_details,omitempty"`
}

// ImportProgress is a line of it: what became of all lines up to LastLine.
type ImportProgress struct {
	Type     string `json:"type"` // progress
	LastLine int64  `json:"last_line"`
	ImportCounts
}

// ImportSummary is the last line of it.
type ImportSummary struct {
	Type string `json:"type"` // summary
	// Complete: the whole body was read and settled. Otherwise the error says why not: send it again from the line after LastLine on, or whole.
	Complete bool  `json:"complete"`
	LastLine int64 `json:"last_line"`
	ImportCounts
	Revision     string         `json:"revision,omitempty"`
	ErrorType    string         `json:"error_type,omitempty"`
	ErrorMessage string         `json:"error_message,omitempty"`
	ErrorDetails map[string]any `json:"error_details,omitempty"`
	RequestID    string         `json:"request_id"`
}

// ImportCounts says what became of the lines so far.
type ImportCounts struct {
	Imported int64 `json:"imported"`
	Exists   int64 `json:"exists"`  // imported before, and as good as then
	Expired  int64 `json:"expired"` // over before they came
	Ended    int64 `json:"ended"`   // imported before and ended since, or their user was logged out everywhere
	Bad      int64 `json:"bad"`
}
