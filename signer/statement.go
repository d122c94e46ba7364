package signer

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
)

// SignTyped returns a JWT of the typ that says exactly what the claims, a JSON
// object, say, signed with k: what the app tells another system, such as a logout
// token or a security event token. Who reads it tells it from other tokens by its
// typ, so a JWT of a session cannot be made here.
//
// It fails with [ErrNoKey] if k may not sign at now, with [ErrBadClaims] if the
// claims are not JSON that all readers understand alike, and with [ErrTooLarge].
// It adds no claim: iss, aud, iat, exp and jti are the caller's to write.
func SignTyped(k *Key, typ string, claims json.RawMessage, now time.Time) (string, error) {
	token, err := signStatement(k, typ, claims, now, MaxJWT)
	if err != nil {
		return "", fmt.Errorf("sign statement: %w", err)
	}
	return token, nil
}

// signStatement is SignTyped for a JWT of so many bytes at most.
func signStatement(k *Key, typ string, claims json.RawMessage, now time.Time, most int) (string, error) {
	if !plainType(typ) || isSessionType(typ) {
		return "", errors.New("a typ of its own is required")
	}
	if k == nil || !k.signs(now) {
		return "", ErrNoKey
	}
	var body bytes.Buffer
	if err := json.Compact(&body, claims); err != nil {
		return "", refuse(ErrBadClaims, "not JSON")
	}
	if _, err := members(body.Bytes()); err != nil {
		return "", refuse(ErrBadClaims, err.Error())
	}
	return assemble(k, typ, body.Bytes(), most)
}

// plainType reports whether typ is one that says what the JWT is for, in the
// letters that a header takes as they are. Media types are compared without regard
// to case (RFC 7515 section 4.1.9), so "jwt" would be the JWT of a session.
func plainType(typ string) bool {
	kind, ok := strings.CutSuffix(typ, "+jwt")
	for _, c := range []byte(kind) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '.' {
			return false
		}
	}
	return ok && kind != ""
}

// assemble returns the JWT of the header of k and typ and the claims, of so many
// bytes at most.
func assemble(k *Key, typ string, claims []byte, most int) (string, error) {
	header := `{"alg":"` + string(k.Alg) + `","kid":"` + k.ID + `","typ":"` + typ + `"}`
	token := make([]byte, 0, 512+2*len(claims))
	token = b64.AppendEncode(token, []byte(header))
	token = append(token, '.')
	token = b64.AppendEncode(token, claims)
	sig, err := sign(k, string(token))
	if err != nil {
		return "", err
	}
	token = append(token, '.')
	token = b64.AppendEncode(token, sig)
	if len(token) > most {
		return "", fmt.Errorf("%w: %d bytes", ErrTooLarge, len(token))
	}
	return string(token), nil
}
