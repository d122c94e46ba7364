package events

import "crypto/sha256"

// MaxForeignToken is the longest token of another system, in bytes: what a
// header that bears a token may have.
const MaxForeignToken = 8 << 10

// TokenHash returns what a foreign token is named by: SHA-256 of its characters.
func TokenHash(token string) [32]byte { return sha256.Sum256([]byte(token)) }

// ForeignKey returns the key, and so the sid, of a token that another system
// made: byte 0 is the number of the stream in which the app's imported sessions
// live, the rest is derived from the app and the hash of the token.
//
// A native key is the hash of the token itself. If this one were that too, who
// imports hashes could name any sid they have seen, of a native session or of
// another app: sids are public.
func ForeignKey(app string, stream uint8, token [32]byte) SID {
	const purpose = "revocast foreign token\x00"
	b := make([]byte, 0, 128) // on the stack: no name is that long
	b = append(b, purpose...)
	b = append(b, app...)
	b = append(b, 0)
	b = append(b, token[:]...)
	sum := sha256.Sum256(b)
	var key SID
	key[0] = stream
	copy(key[1:], sum[:15])
	return key
}
