package events

import (
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/chacha20"
	"golang.org/x/crypto/chacha20poly1305"
)

// ClusterKeyLen is the length of a cluster key in bytes.
const ClusterKeyLen = 32

// keyIDLen is the length of a cluster key's id in characters.
const keyIDLen = 8

// ErrUnauthentic is returned for a seal that no held cluster key made for
// exactly this subject, payload and TTL.
var ErrUnauthentic = errors.New("seal does not authenticate the event")

// ClusterKeys are the keys that make events authentic. Any number may be held;
// the first seals. They are immutable and safe for concurrent use.
type ClusterKeys struct {
	keys []clusterKey
}

type clusterKey struct {
	id   string
	raw  []byte // the cluster key itself, for Derive
	key  []byte // of the seal
	aead cipher.AEAD
}

// NewClusterKey returns a fresh random cluster key.
func NewClusterKey() []byte {
	k := make([]byte, ClusterKeyLen)
	rand.Read(k)
	return k
}

// NewClusterKeys returns the keys, of ClusterKeyLen bytes each; the first seals.
func NewClusterKeys(raw ...[]byte) (*ClusterKeys, error) {
	if len(raw) == 0 {
		return nil, errors.New("no cluster key")
	}
	ks := new(ClusterKeys)
	for _, r := range raw {
		if len(r) != ClusterKeyLen {
			return nil, fmt.Errorf("cluster key has %d bytes, want %d", len(r), ClusterKeyLen)
		}
		k := clusterKey{raw: r, key: derive(r, "revocast seal 1", chacha20poly1305.KeySize)}
		k.id = b64.EncodeToString(derive(r, "revocast key id", 6))
		var err error
		if k.aead, err = chacha20poly1305.NewX(k.key); err != nil {
			return nil, fmt.Errorf("make seal: %w", err)
		}
		ks.keys = append(ks.keys, k)
	}
	return ks, nil
}

func derive(key []byte, info string, n int) []byte {
	out, err := hkdf.Key(sha256.New, key, nil, info, n)
	if err != nil {
		panic(err) // n is a small constant
	}
	return out
}

// ParseClusterKeys reads the text of a key file: one key a line, base64url;
// blank lines and lines that begin with # are skipped.
func ParseClusterKeys(text string) (*ClusterKeys, error) {
	var raw [][]byte
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		k, err := b64.DecodeString(line)
		if err != nil || len(k) != ClusterKeyLen {
			return nil, fmt.Errorf("cluster key %d: want %d bytes as base64url", len(raw)+1, ClusterKeyLen)
		}
		raw = append(raw, k)
	}
	return NewClusterKeys(raw...)
}

// FormatClusterKey returns the line of a key file for the key.
func FormatClusterKey(key []byte) string { return b64.EncodeToString(key) }

// IDs returns the ids of the keys held, the sealing one first.
func (ks *ClusterKeys) IDs() []string {
	ids := make([]string, len(ks.keys))
	for i, k := range ks.keys {
		ids[i] = k.id
	}
	return ids
}

// Derive returns n bytes for another purpose from the sealing key. Each purpose
// has its own info text.
func (ks *ClusterKeys) Derive(info string, n int) []byte { return derive(ks.keys[0].raw, info, n) }

// LogValue implements [slog.LogValuer] and hides the keys.
func (ks *ClusterKeys) LogValue() slog.Value { return slog.StringValue("[cluster keys]") }

// String implements [fmt.Stringer] and hides the keys.
func (ks *ClusterKeys) String() string { return "[cluster keys]" }

func (ks *ClusterKeys) byID(id string) (clusterKey, bool) {
	for _, k := range ks.keys {
		if k.id == id {
			return k, true
		}
	}
	return clusterKey{}, false
}

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

// Empty reports whether the private part holds nothing.
func (s Sealed) Empty() bool { return len(s) <= sealedMin }

const sealVersion = "1."

// seal returns the header for the message, whose Subject, Payload and TTL are set.
func (ks *ClusterKeys) seal(m *Message, private []byte) string {
	k := ks.keys[0]
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
	rest, ok := strings.CutPrefix(m.Seal, sealVersion)
	if !ok || len(rest) < keyIDLen+1 || rest[keyIDLen] != '.' {
		return nil, ErrUnauthentic
	}
	k, ok := ks.byID(rest[:keyIDLen])
	if !ok {
		return nil, ErrUnauthentic
	}
	sc := scratches.Get().(*scratch)
	defer scratches.Put(sc)
	sc.text = append(sc.text[:0], rest[keyIDLen+1:]...)
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
	k, ok := ks.byID(string(s[:keyIDLen]))
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
