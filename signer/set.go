package signer

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// TypeSET is the typ of a security event token, RFC 8417 section 2.3.
const TypeSET = "secevent+jwt"

// SET is a security event token (RFC 8417) that tells of one event, as Shared
// Signals (SSF 1.0 section 4.1) demands: it has neither sub, which would make it
// pass for the token of a user, nor exp, as what happened does not expire.
type SET struct {
	// Issuer is iss, Audience aud; ID is jti, the same for each copy of this token.
	Issuer, Audience, ID string
	// Cause is txn: equal for all tokens of one cause. Empty: left out.
	Cause string
	// IssuedAt is iat, in whole seconds.
	IssuedAt time.Time
	// Subject is sub_id.
	Subject SubjectID
	// Event is the URI of what happened, Payload a value that is written as a JSON
	// object: what there is to say of it.
	Event   string
	Payload any
}

// SubjectID says whom or what an event is about: a subject identifier of RFC 9493
// section 3.2, or the complex subject of SSF 1.0 section 3.3, in which a member
// that is left out means "any".
type SubjectID struct {
	Format  string     `json:"format"` // opaque, iss_sub, email, complex
	ID      string     `json:"id,omitempty"`
	Issuer  string     `json:"iss,omitempty"`
	Subject string     `json:"sub,omitempty"`
	Email   string     `json:"email,omitempty"`
	Session *SubjectID `json:"session,omitempty"`
	User    *SubjectID `json:"user,omitempty"`
	Tenant  *SubjectID `json:"tenant,omitempty"`
}

// Sign returns the token, signed with k, which must be one that may sign at now.
// With an RS256 key equal tokens are equal bytes. It fails as [SignTyped] does.
func (s *SET) Sign(k *Key, now time.Time) (string, error) {
	if s.Issuer == "" || s.Audience == "" || s.ID == "" || s.Subject.Format == "" || s.Event == "" || s.IssuedAt.Unix() <= 0 {
		return "", errors.New("sign set: iss, aud, jti, iat, sub_id and an event are required")
	}
	var body bytes.Buffer
	enc := json.NewEncoder(&body)
	enc.SetEscapeHTML(false)
	err := enc.Encode(struct {
		Issuer   string         `json:"iss"`
		ID       string         `json:"jti"`
		IssuedAt int64          `json:"iat"`
		Audience string         `json:"aud"`
		Cause    string         `json:"txn,omitempty"`
		Subject  SubjectID      `json:"sub_id"`
		Events   map[string]any `json:"events"`
	}{s.Issuer, s.ID, s.IssuedAt.Unix(), s.Audience, s.Cause, s.Subject, map[string]any{s.Event: s.Payload}})
	if err != nil {
		return "", fmt.Errorf("sign set: %w", err)
	}
	return SignTyped(k, TypeSET, body.Bytes(), now)
}
