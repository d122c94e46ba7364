package main

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"time"
)

// maxCredentials is how many credentials are handed out of many sessions,
// evenly spread over them.
const maxCredentials = 2000

// session is what a stateful peer keeps and answers with: what a log-in leaves
// behind in most products.
type session struct {
	SessionID      string            `json:"session_id"`
	UserID         string            `json:"user_id"`
	ExpiresAt      time.Time         `json:"expires_at"`
	CreatedAt      *time.Time        `json:"created_at,omitempty"`
	LastAccessedAt *time.Time        `json:"last_accessed_at,omitempty"`
	Factors        []factor          `json:"authentication_factors,omitempty"`
	Device         *device           `json:"device,omitempty"`
	Attributes     map[string]string `json:"attributes,omitempty"`
}

type factor struct {
	Type string    `json:"type"`
	Used time.Time `json:"last_authenticated_at"`
}

type device struct {
	IP        string `json:"ip_address"`
	UserAgent string `json:"user_agent"`
}

// template is the JSON of a session, of which each one has its own ids.
type template struct {
	text     []byte
	id, user int // where they begin
}

// newTemplate returns a template of size bytes; when that is too few to hold
// everything, with only what a session cannot do without.
func newTemplate(now, expires time.Time, size int) (template, error) {
	v := session{
		SessionID: base64.RawURLEncoding.EncodeToString(make([]byte, 16)),
		UserID:    userID(0),
		ExpiresAt: expires,
		CreatedAt: &now, LastAccessedAt: &now,
		Factors:    []factor{{"password", now}, {"totp", now}},
		Device:     &device{"203.0.113.7", "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"},
		Attributes: map[string]string{"plan": "team", "note": ""},
	}
	text, err := json.Marshal(v)
	if err == nil && len(text) > size {
		v = session{SessionID: v.SessionID, UserID: v.UserID, ExpiresAt: v.ExpiresAt, Attributes: v.Attributes}
		text, err = json.Marshal(v)
	}
	if err == nil && len(text) < size {
		v.Attributes["note"] = filler(size - len(text))
		text, err = json.Marshal(v)
	}
	if err != nil {
		return template{}, fmt.Errorf("encode session: %w", err)
	}
	return template{text, bytes.Index(text, []byte(v.SessionID)), bytes.Index(text, []byte(v.UserID))}, nil
}

// session returns the user and the JSON of the i-th session.
func (t *template) session(i int) (user string, text []byte) {
	user, text = userID(i), bytes.Clone(t.text)
	base64.RawURLEncoding.Encode(text[t.id:], random(16))
	copy(text[t.user:], user)
	return user, text
}

// userID is of the same length for each of a hundred million.
func userID(i int) string { return fmt.Sprintf("user-%08d@example.com", i%1e8) }

// filler is n bytes of text.
func filler(n int) string {
	const words = "the quick brown fox jumps over the lazy dog "
	return string(bytes.Repeat([]byte(words), n/len(words)+1)[:max(n, 0)])
}

// picked says whether the i-th session is one of those whose credential is
// handed out.
func (s *stage) picked(i int) bool {
	k := min(s.sessions, maxCredentials)
	return (i+1)*k/s.sessions > i*k/s.sessions
}

// newToken returns an opaque token of 44 characters.
func newToken() string { return base64.RawURLEncoding.EncodeToString(random(33)) }

func random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return b
}

// hashed is what a careful server keeps of a token.
func hashed(token string) []byte {
	sum := sha256.Sum256([]byte(token))
	return sum[:]
}
