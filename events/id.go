package events

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
)

// b64 is the one base64 of this system: URL alphabet, no padding, no spare bits.
var b64 = base64.RawURLEncoding.Strict()

// SID names a session: byte 0 is the number of its home stream, the rest the
// first 15 bytes of SHA-256 of its token as presented. It is public. The key of
// an alias has the same form. As text it is 22 characters of base64url.
type SID [16]byte

// Stream returns the number of the session's home stream.
func (s SID) Stream() uint8 { return s[0] }

// IsZero reports whether s names nothing.
func (s SID) IsZero() bool { return s == SID{} }

// String returns the 22 characters by which the session is named.
func (s SID) String() string { return b64.EncodeToString(s[:]) }

// MarshalText implements [encoding.TextMarshaler].
func (s SID) MarshalText() ([]byte, error) { return b64.AppendEncode(nil, s[:]), nil }

// UnmarshalText implements [encoding.TextUnmarshaler].
func (s *SID) UnmarshalText(text []byte) (err error) {
	*s, err = ParseSID(string(text))
	return err
}

// ErrBadSID is returned for text that names no session.
var ErrBadSID = errors.New("not a session id: 22 base64url characters wanted")

// ParseSID reads the text form.
func ParseSID(text string) (SID, error) {
	var s SID
	if len(text) != 22 {
		return SID{}, ErrBadSID
	}
	// The count, because a decoder of base64 skips line breaks.
	if n, err := b64.Decode(s[:], []byte(text)); err != nil || n != len(s) {
		return SID{}, ErrBadSID
	}
	return s, nil
}

// TokenLen is the length of a token in characters.
const TokenLen = 44

// Token is what a person's browser holds: 33 bytes, the number of the home
// stream and 32 random ones, as 44 characters of base64url. It is secret: it
// prints as "[token]", and is stored only in a sealed private part.
type Token string

// NewToken returns a fresh random token of the stream.
func NewToken(stream uint8) Token {
	var secret [32]byte
	rand.Read(secret[:])
	return TokenOf(stream, secret)
}

// TokenOf returns the token of the stream with the given secret bytes.
func TokenOf(stream uint8, secret [32]byte) Token {
	var raw [33]byte
	raw[0] = stream
	copy(raw[1:], secret[:])
	return Token(b64.EncodeToString(raw[:]))
}

// Key returns the key under which the token is looked up, and false when the
// text does not have the form of a token. It does not allocate.
func (t Token) Key() (SID, bool) {
	if len(t) != TokenLen {
		return SID{}, false
	}
	var text [TokenLen]byte
	copy(text[:], t)
	var raw [33]byte
	if n, err := b64.Decode(raw[:], text[:]); err != nil || n != len(raw) {
		return SID{}, false
	}
	sum := sha256.Sum256(text[:])
	var key SID
	key[0] = raw[0]
	copy(key[1:], sum[:15])
	return key, true
}

// Reveal returns the token's characters. It is named so that each place that
// hands a token out can be found.
func (t Token) Reveal() string { return string(t) }

// String implements [fmt.Stringer] and hides the token.
func (t Token) String() string { return "[token]" }

// Format implements [fmt.Formatter] and hides the token from every verb.
func (t Token) Format(s fmt.State, _ rune) { _, _ = s.Write([]byte("[token]")) }

// LogValue implements [slog.LogValuer] and hides the token.
func (t Token) LogValue() slog.Value { return slog.StringValue("[token]") }

// Incarnation is one process life of one node.
type Incarnation [16]byte

// NewIncarnation returns a fresh random incarnation.
func NewIncarnation() (i Incarnation) {
	rand.Read(i[:])
	return i
}

// String returns 22 characters of base64url.
func (i Incarnation) String() string { return b64.EncodeToString(i[:]) }

// MarshalText implements [encoding.TextMarshaler].
func (i Incarnation) MarshalText() ([]byte, error) { return b64.AppendEncode(nil, i[:]), nil }

// UnmarshalText implements [encoding.TextUnmarshaler].
func (i *Incarnation) UnmarshalText(text []byte) error {
	s, err := ParseSID(string(text))
	if err != nil {
		return fmt.Errorf("not an incarnation: %q", text)
	}
	*i = Incarnation(s)
	return nil
}
