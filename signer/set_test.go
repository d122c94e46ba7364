package signer_test

import (
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/revocast/revocast/signer"
)

func testSET() signer.SET {
	return signer.SET{
		Issuer: "https://s.example", Audience: "https://s.example/ssf/streams/x", ID: "jti", Cause: "c", IssuedAt: time.Unix(1_795_325_356, 999),
		Subject: signer.SubjectID{Format: "complex", User: &signer.SubjectID{Format: "iss_sub", Issuer: "https://s.example", Subject: "ada <&> eve"}},
		Event:   "https://schemas.openid.net/secevent/caep/event-type/session-revoked", Payload: map[string]any{"event_timestamp": 1},
	}
}

// TestSET: what RFC 8417 and SSF 1.0 say about it, and that equal ones are equal bytes.
func TestSET(t *testing.T) {
	k, err := signer.GenerateKey(signer.RS256)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	set := testSET()
	token, err := set.Sign(k, now)
	if err != nil {
		t.Fatal(err)
	}
	if again, _ := set.Sign(k, now.Add(time.Hour)); again != token {
		t.Error("the same token has other bytes")
	}
	part := strings.Split(token, ".")
	var header, claims map[string]any
	for i, into := range []*map[string]any{&header, &claims} {
		text, err := base64.RawURLEncoding.DecodeString(part[i])
		if err != nil || json.Unmarshal(text, into) != nil {
			t.Fatalf("part %d: %s", i, text)
		}
	}
	if header["typ"] != "secevent+jwt" || header["alg"] != "RS256" || header["kid"] != k.ID || len(header) != 3 {
		t.Errorf("header %v", header)
	}
	for _, forbidden := range []string{"sub", "exp", "nbf"} {
		if _, there := claims[forbidden]; there {
			t.Errorf("has %s", forbidden)
		}
	}
	if claims["iat"] != 1795325356.0 || claims["txn"] != "c" || claims["jti"] != "jti" || len(claims["events"].(map[string]any)) != 1 {
		t.Errorf("claims %v", claims)
	}
	sig, _ := base64.RawURLEncoding.DecodeString(part[2])
	if err := k.CheckSignature(part[0]+"."+part[1], sig); err != nil {
		t.Error(err)
	}
	// It must never pass for the JWT of a session.
	if _, err := signer.NewRing(k).Verify(token, signer.Expect{Issuer: set.Issuer, App: set.Audience, Now: now}); err == nil {
		t.Error("is taken for the JWT of a session")
	}
	for name, broken := range map[string]func(*signer.SET){
		"iss": func(s *signer.SET) { s.Issuer = "" }, "aud": func(s *signer.SET) { s.Audience = "" }, "jti": func(s *signer.SET) { s.ID = "" },
		"iat": func(s *signer.SET) { s.IssuedAt = time.Time{} }, "sub_id": func(s *signer.SET) { s.Subject = signer.SubjectID{} },
		"event": func(s *signer.SET) { s.Event = "" }, "payload": func(s *signer.SET) { s.Payload = func() {} },
	} {
		set := testSET()
		if broken(&set); func() bool { _, err := set.Sign(k, now); return err == nil }() {
			t.Errorf("signed without %s", name)
		}
	}
}
