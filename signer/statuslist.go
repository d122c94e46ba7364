package signer

import (
	"bytes"
	"compress/zlib"
	"encoding/json"
	"fmt"
	"time"
)

// StatusListType is the typ of a Token Status List (draft-ietf-oauth-status-list
// section 5.1).
const StatusListType = "statuslist+jwt"

// MaxStatusList is the longest Token Status List in bytes that is signed: that of
// 2^20 tokens, however their bits are mixed, and half as long again.
const MaxStatusList = 384 << 10

// The statuses of a token in a list (section 7.1).
const (
	StatusValid     = 0
	StatusInvalid   = 1
	StatusSuspended = 2
)

// StatusList is the statuses of the tokens with the indexes from 0 on, Bits for
// each, of which the lowest of a byte come first (section 4.1).
type StatusList struct {
	Bits  int // 1, 2, 4 or 8
	bytes []byte
}

// NewStatusList returns the list of n tokens, all of them of the status, which fits
// into the bits.
func NewStatusList(n, bits int, status byte) *StatusList {
	fill := byte(0)
	for at := 0; at < 8; at += bits {
		fill |= status << at
	}
	return &StatusList{Bits: bits, bytes: bytes.Repeat([]byte{fill}, (n*bits+7)/8)}
}

// Set gives the token of the index the status.
func (l *StatusList) Set(index int, status byte) {
	at := index * l.Bits
	mask := byte(1<<l.Bits-1) << (at % 8)
	l.bytes[at/8] = l.bytes[at/8]&^mask | status<<(at%8)&mask
}

// SetBelow gives all tokens of lower indexes the status.
func (l *StatusList) SetBelow(index int, status byte) {
	whole := index * l.Bits / 8
	copy(l.bytes, NewStatusList(whole*8/l.Bits, l.Bits, status).bytes)
	for i := whole * 8 / l.Bits; i < index; i++ {
		l.Set(i, status)
	}
}

// MarshalJSON writes the claim status_list.
func (l *StatusList) MarshalJSON() ([]byte, error) {
	var packed bytes.Buffer
	// The best level takes ten times as long for scattered bits, and gains a tenth.
	w := zlib.NewWriter(&packed)
	_, _ = w.Write(l.bytes)
	_ = w.Close()
	return json.Marshal(struct {
		Bits int    `json:"bits"`
		List string `json:"lst"`
	}{l.Bits, b64.EncodeToString(packed.Bytes())})
}

// SignStatusList is [SignTyped] for a Token Status List, which may be as long as
// [MaxStatusList].
func SignStatusList(k *Key, claims json.RawMessage, now time.Time) (string, error) {
	token, err := signStatement(k, StatusListType, claims, now, MaxStatusList)
	if err != nil {
		return "", fmt.Errorf("sign status list: %w", err)
	}
	return token, nil
}
