package events

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/chacha20"
	"golang.org/x/crypto/chacha20poly1305"
)

// ErrUnauthentic is returned for a seal that no held cluster key made for
// exactly this subject, payload and TTL.
var ErrUnauthentic = errors.New("seal does not authenticate the event")

// Sealed is a private part whose seal was verified, as a projection keeps it:
// key id, nonce and ciphertext, without the tag. It is immutable.
type Sealed []byte

const sealedMin = keyIDLen + chacha20poly1305.NonceSizeX

// Nonce returns what makes the sealed message unique, or nil for no Sealed.
// Two authentic entries with one nonce are copies of one message.
func (s Sealed) Nonce() []byte {
	if len(s) < sealedMin {
		return nil
	}
	return s[keyIDLen:sealedMin]
}

// Fingerprint is that of the message with this private part.
func (s Sealed) Fingerprint() uint64 {
	if len(s) < sealedMin {
		return 0
	}
	return binary.BigEndian.Uint64(s[keyIDLen:])
}

// Fingerprint tells the message from any other, as far as its seal is
// authentic: it is the beginning of the seal's random nonce, so copies of one
// message share it. It is 0 without a seal.
func (m *Message) Fingerprint() uint64 {
	const head = len(sealVersion) + keyIDLen + 1
	const digits = 12 // of base64url, for 9 bytes
	if len(m.Seal) < head+digits {
		return 0
	}
	var b [9]byte
	if _, err := b64.Decode(b[:], []byte(m.Seal[head:head+digits])); err != nil {
		return 0
	}
	return binary.BigEndian.Uint64(b[:])
}

// Key returns the id of the cluster key that sealed it, empty for no Sealed.
func (s Sealed) Key() string {
	if len(s) < sealedMin {
		return ""
	}
	return string(s[:keyIDLen])
}

// Empty reports whether the private part holds nothing. That of a session holds
// at least "{}", so an empty one is a Head.
func (s Sealed) Empty() bool { return len(s) <= sealedMin }

// Head returns the Sealed without what it holds. It still tells the message from
// any other, and names the key. It shares the memory of s.
func (s Sealed) Head() Sealed {
	if s.Empty() {
		return s
	}
	return s[:sealedMin:sealedMin]
}

// SameMessage reports whether both are of copies of one message.
func (s Sealed) SameMessage(o Sealed) bool {
	return s.Nonce() != nil && bytes.Equal(s.Nonce(), o.Nonce())
}

const sealVersion = "1."

// SealKey returns the id of the cluster key that the seal names, empty when it
// names none. Nothing is verified.
func (m *Message) SealKey() string {
	rest, ok := strings.CutPrefix(m.Seal, sealVersion)
	if !ok || len(rest) < keyIDLen+1 || rest[keyIDLen] != '.' {
		return ""
	}
	return rest[:keyIDLen]
}

// seal returns the header for the message, whose Subject, Payload and TTL are set.
func (ks *ClusterKeys) seal(m *Message, private []byte) string {
	k := ks.held.Load().sealing()
	box := make([]byte, chacha20poly1305.NonceSizeX, chacha20poly1305.NonceSizeX+len(private)+chacha20poly1305.Overhead)
	rand.Read(box)
	box = k.aead.Seal(box, box, private, appendAdditional(make([]byte, 0, 28+len(m.Subject)+len(m.Payload)), m))
	head := make([]byte, 0, len(sealVersion)+keyIDLen+1+b64.EncodedLen(len(box)))
	head = append(head, sealVersion...)
	head = append(head, k.id...)
	head = append(head, '.')
	return string(b64.AppendEncode(head, box))
}

// open verifies the seal of the message and returns the private part sealed.
func (ks *ClusterKeys) open(m *Message) (Sealed, error) {
	k, ok := ks.held.Load().byID(m.SealKey())
	if !ok {
		return nil, ErrUnauthentic
	}
	text := m.Seal[len(sealVersion)+keyIDLen+1:]
	sc := scratches.Get().(*scratch)
	defer scratches.Put(sc)
	sc.text = append(sc.text[:0], text...)
	s := make([]byte, keyIDLen+b64.DecodedLen(len(sc.text)))
	copy(s, k.id)
	n, err := b64.Decode(s[keyIDLen:], sc.text)
	// The count, because a decoder of base64 skips line breaks.
	if err != nil || keyIDLen+n != len(s) || len(s) < sealedMin+chacha20poly1305.Overhead {
		return nil, ErrUnauthentic
	}
	sc.more = appendAdditional(sc.more[:0], m)
	plain, err := k.aead.Open(sc.plain[:0], s[keyIDLen:sealedMin], s[sealedMin:], sc.more)
	if err != nil {
		return nil, ErrUnauthentic
	}
	clear(plain)
	sc.plain = plain
	end := len(s) - chacha20poly1305.Overhead
	return s[:end:end], nil
}

// scratch is the memory that opening a seal needs for a moment. It holds no
// plaintext between uses.
type scratch struct{ text, more, plain []byte }

var scratches = sync.Pool{New: func() any { return new(scratch) }}

// OpenVerified decrypts a private part whose seal was verified when its entry
// was decoded. It checks nothing: XChaCha20 from block 1, which is what the
// AEAD did (RFC 8439 section 2.8). So a Sealed must come from a Record.
func (ks *ClusterKeys) OpenVerified(s Sealed) ([]byte, error) {
	if len(s) < sealedMin {
		return nil, nil
	}
	k, ok := ks.held.Load().byID(string(s[:keyIDLen]))
	if !ok {
		return nil, fmt.Errorf("open private part: cluster key %q is not held", s[:keyIDLen])
	}
	c, err := chacha20.NewUnauthenticatedCipher(k.key, s[keyIDLen:sealedMin])
	if err != nil {
		return nil, fmt.Errorf("open private part: %w", err)
	}
	c.SetCounter(1)
	plain := make([]byte, len(s)-sealedMin)
	c.XORKeyStream(plain, s[sealedMin:])
	return plain, nil
}

// appendAdditional appends the additional data of the seal: lengths make it
// impossible to move bytes between subject and payload.
func appendAdditional(b []byte, m *Message) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(m.Subject)))
	b = append(b, m.Subject...)
	b = binary.BigEndian.AppendUint32(b, uint32(len(m.Payload)))
	b = append(b, m.Payload...)
	return strconv.AppendInt(b, int64(m.TTL/time.Second), 10)
}
