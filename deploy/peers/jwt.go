package main

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

const (
	jwtIssuer   = "https://auth.example.com"
	jwtAudience = "api"
)

// claims are those of an access token as RFC 9068 wants it, with one object of
// the product's own.
type claims struct {
	jwt.RegisteredClaims
	SessionID string   `json:"sid"`
	AMR       []string `json:"amr"`
	Custom    struct {
		Plan  string   `json:"plan"`
		Roles []string `json:"roles"`
	} `json:"custom"`
}

// startJWT starts a server that believes any JWT that is signed, in time, and
// meant for it. It keeps nothing, and can revoke nothing.
func startJWT(alg string) func(context.Context, *stage) (service, error) {
	return func(ctx context.Context, s *stage) (service, error) {
		key, err := jwtKey(alg)
		if err != nil {
			return service{}, fmt.Errorf("make key: %w", err)
		}
		v := service{pid: os.Getpid()}
		for i := range s.sessions {
			if !s.picked(i) {
				continue // a session is nothing but its JWT
			}
			text, err := jwtMint(s, i, alg, key)
			if err != nil {
				return v, err
			}
			v.credentials = append(v.credentials, "Authorization: Bearer "+text)
			if ctx.Err() != nil {
				return v, ctx.Err()
			}
		}
		v.url, err = s.serve(bearer(jwtVerify(s, alg, key.Public())))
		return v, err
	}
}

func jwtKey(alg string) (crypto.Signer, error) {
	switch alg {
	case "RS256":
		return rsa.GenerateKey(rand.Reader, 2048)
	case "ES256":
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	default:
		_, key, err := ed25519.GenerateKey(rand.Reader)
		return key, err
	}
}

func jwtMint(s *stage, i int, alg string, key crypto.Signer) (string, error) {
	c := claims{
		RegisteredClaims: jwt.RegisteredClaims{
			Issuer: jwtIssuer, Subject: userID(i), Audience: jwt.ClaimStrings{jwtAudience},
			IssuedAt: jwt.NewNumericDate(s.now), NotBefore: jwt.NewNumericDate(s.now.Add(-10 * time.Second)),
			ExpiresAt: jwt.NewNumericDate(s.expires), ID: base64.RawURLEncoding.EncodeToString(random(16)),
		},
		SessionID: base64.RawURLEncoding.EncodeToString(random(16)),
		AMR:       []string{"pwd", "otp"},
	}
	c.Custom.Plan, c.Custom.Roles = "team", []string{"editor", "billing"}
	text, err := jwt.NewWithClaims(jwt.GetSigningMethod(alg), c).SignedString(key)
	if err != nil {
		return "", fmt.Errorf("mint JWT: %w", err)
	}
	return text, nil
}

// jwtVerify verifies with one parser and one key, without looking a key up. The
// answer is appended by hand, from the claims, and filled up to s.body bytes:
// encoding it costs nothing that could be saved.
func jwtVerify(s *stage, alg string, key crypto.PublicKey) func(context.Context, string) ([]byte, error) {
	parser := jwt.NewParser(
		jwt.WithValidMethods([]string{alg}), jwt.WithIssuer(jwtIssuer), jwt.WithAudience(jwtAudience),
		jwt.WithExpirationRequired(), jwt.WithIssuedAt(),
	)
	keyFunc := func(*jwt.Token) (any, error) { return key, nil }
	note := filler(s.body)
	return func(_ context.Context, text string) ([]byte, error) {
		var c claims
		if _, err := parser.ParseWithClaims(text, &c, keyFunc); err != nil {
			return nil, errNoSession
		}
		const open, end = `,"note":"`, `"}`
		b := make([]byte, 0, s.body+256)
		b = append(b, `{"session_id":`...)
		b = strconv.AppendQuote(b, c.SessionID)
		b = append(b, `,"user_id":`...)
		b = strconv.AppendQuote(b, c.Subject)
		b = append(b, `,"plan":`...)
		b = strconv.AppendQuote(b, c.Custom.Plan)
		b = append(b, `,"expires_at":`...)
		b = strconv.AppendInt(b, c.ExpiresAt.Unix(), 10)
		b = append(b, open...)
		b = append(b, note[:max(0, s.body-len(b)-len(end))]...)
		return append(b, end...), nil
	}
}
