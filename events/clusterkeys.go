package events

import (
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/crypto/chacha20poly1305"
)

// ClusterKeyLen is the length of a cluster key in bytes.
const ClusterKeyLen = 32

// keyIDLen is the length of a cluster key's id in characters.
const keyIDLen = 8

// ErrSealingKey is returned when the keys to be held lack the one that seals.
var ErrSealingKey = errors.New("the cluster key that seals is missing")

// ClusterKeys are the keys that make events authentic. Any number may be held,
// one seals. They can be replaced while they are in use, and are safe for
// concurrent use. They must not be copied.
type ClusterKeys struct {
	held   atomic.Pointer[keySet]
	change sync.Mutex // serializes Replace and SealWith
}

// keySet is what is held at one moment. It is immutable.
type keySet struct {
	keys  []clusterKey // in the order given
	seals int          // index of the one that seals
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

// NewClusterKeys returns the keys, of ClusterKeyLen bytes each; the first seals
// until SealWith says otherwise. A key given twice is held once.
func NewClusterKeys(raw ...[]byte) (*ClusterKeys, error) {
	if len(raw) == 0 {
		return nil, errors.New("no cluster key")
	}
	set := new(keySet)
	for _, r := range raw {
		if len(r) != ClusterKeyLen {
			return nil, fmt.Errorf("cluster key has %d bytes, want %d", len(r), ClusterKeyLen)
		}
		k := clusterKey{raw: r, id: ClusterKeyID(r), key: derive(r, "revocast seal 1", chacha20poly1305.KeySize)}
		if _, twice := set.byID(k.id); twice {
			continue
		}
		var err error
		if k.aead, err = chacha20poly1305.NewX(k.key); err != nil {
			return nil, fmt.Errorf("make seal: %w", err)
		}
		set.keys = append(set.keys, k)
	}
	ks := new(ClusterKeys)
	ks.held.Store(set)
	return ks, nil
}

// ClusterKeyID returns the id of a cluster key, which is no secret.
func ClusterKeyID(key []byte) string { return b64.EncodeToString(derive(key, "revocast key id", 6)) }

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
		k, err := ParseClusterKey(line)
		if err != nil {
			return nil, fmt.Errorf("cluster key %d: %w", len(raw)+1, err)
		}
		raw = append(raw, k)
	}
	return NewClusterKeys(raw...)
}

// ParseClusterKey reads what FormatClusterKey wrote.
func ParseClusterKey(line string) ([]byte, error) {
	k, err := b64.DecodeString(line)
	if err != nil || len(k) != ClusterKeyLen {
		return nil, fmt.Errorf("want %d bytes as base64url", ClusterKeyLen)
	}
	return k, nil
}

// FormatClusterKey returns the line of a key file for the key.
func FormatClusterKey(key []byte) string { return b64.EncodeToString(key) }

// IDs returns the ids of the keys held, in the order in which they were given:
// that in which they are preferred for sealing.
func (ks *ClusterKeys) IDs() []string {
	set := ks.held.Load()
	ids := make([]string, len(set.keys))
	for i, k := range set.keys {
		ids[i] = k.id
	}
	return ids
}

// Sealing returns the id of the key that seals.
func (ks *ClusterKeys) Sealing() string { return ks.held.Load().sealing().id }

// Holds reports whether the key of the id is held.
func (ks *ClusterKeys) Holds(id string) bool {
	_, ok := ks.held.Load().byID(id)
	return ok
}

// SealWith makes the key of the id the one that seals, and reports whether it is
// held. What is being sealed meanwhile is sealed with the one or the other.
func (ks *ClusterKeys) SealWith(id string) bool {
	ks.change.Lock()
	defer ks.change.Unlock()
	set := ks.held.Load()
	for i, k := range set.keys {
		if k.id == id {
			ks.held.Store(&keySet{keys: set.keys, seals: i})
			return true
		}
	}
	return false
}

// Replace holds the keys of next, in their order, instead of those held. The one
// that seals goes on sealing: who else can read another one is not known here.
// So next must hold it; without it nothing changes, and the error is
// ErrSealingKey.
func (ks *ClusterKeys) Replace(next *ClusterKeys) error {
	ks.change.Lock()
	defer ks.change.Unlock()
	sealing, set := ks.held.Load().sealing().id, next.held.Load()
	for i, k := range set.keys {
		if k.id == sealing {
			ks.held.Store(&keySet{keys: set.keys, seals: i})
			return nil
		}
	}
	return fmt.Errorf("%w: %s", ErrSealingKey, sealing)
}

// Derive returns n bytes for another purpose from the sealing key. Each purpose
// has its own info text.
func (ks *ClusterKeys) Derive(info string, n int) []byte {
	return derive(ks.held.Load().sealing().raw, info, n)
}

// DeriveFrom is Derive from the key of the id, and false when it is not held.
func (ks *ClusterKeys) DeriveFrom(id, info string, n int) ([]byte, bool) {
	k, ok := ks.held.Load().byID(id)
	if !ok {
		return nil, false
	}
	return derive(k.raw, info, n), true
}

// LogValue implements [slog.LogValuer] and hides the keys.
func (ks *ClusterKeys) LogValue() slog.Value { return slog.StringValue("[cluster keys]") }

// String implements [fmt.Stringer] and hides the keys.
func (ks *ClusterKeys) String() string { return "[cluster keys]" }

func (s *keySet) sealing() *clusterKey { return &s.keys[s.seals] }

func (s *keySet) byID(id string) (clusterKey, bool) {
	for _, k := range s.keys {
		if k.id == id {
			return k, true
		}
	}
	return clusterKey{}, false
}
