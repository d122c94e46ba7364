package api

import (
	"encoding/json"
	"maps"
)

// Introspection answers POST /oauth2/introspect (RFC 7662 section 2.2). One that
// is not active says nothing else. Times are unix seconds.
type Introspection struct {
	Active bool `json:"active"`
	// TokenType is "Bearer", or "DPoP" when who shows the token must prove the key in cnf.
	TokenType string `json:"token_type,omitempty"`
	Issuer    string `json:"iss,omitempty"`
	Subject   string `json:"sub,omitempty"`
	Audience  string `json:"aud,omitempty"`
	ClientID  string `json:"client_id,omitempty"` // the app
	SessionID string `json:"sid,omitempty"`
	JWTID     string `json:"jti,omitempty"` // of a JWT that has one
	IssuedAt  int64  `json:"iat,omitempty"`
	NotBefore int64  `json:"nbf,omitempty"` // of a JWT
	// Expires is until when the answer may be kept: no later than the app's introspection_max_exp_seconds from now.
	Expires int64 `json:"exp,omitempty"`
	// SessionExpires is when the session ends unless it is extended.
	SessionExpires int64    `json:"sxp,omitempty"`
	AuthTime       int64    `json:"auth_time,omitempty"`
	ACR            string   `json:"acr,omitempty"`
	AMR            []string `json:"amr,omitempty"`
	// Actor is who acts in the session as its user (RFC 8693 section 4.1).
	Actor json.RawMessage `json:"act,omitempty"`
	// Confirmation names the key to which the session is bound; who asks must check the proof (RFC 9449 section 6.2).
	Confirmation *Confirmation `json:"cnf,omitempty"`

	// Custom are the custom claims of the session, members of the answer beside these.
	Custom map[string]json.RawMessage `json:"-"`
}

// Confirmation names a key by its thumbprint.
type Confirmation struct {
	JKT string `json:"jkt"`
}

// MarshalJSON implements [json.Marshaler].
func (i *Introspection) MarshalJSON() ([]byte, error) {
	type plain Introspection
	if !i.Active {
		return []byte(`{"active":false}`), nil
	}
	own, err := json.Marshal((*plain)(i))
	if err != nil || len(i.Custom) == 0 {
		return own, err
	}
	all := maps.Clone(i.Custom)
	if err := json.Unmarshal(own, &all); err != nil {
		return nil, err
	}
	return json.Marshal(all)
}

// UnmarshalJSON implements [json.Unmarshaler].
func (i *Introspection) UnmarshalJSON(b []byte) error {
	type plain Introspection
	var p plain
	if err := json.Unmarshal(b, &p); err != nil {
		return err
	}
	var all, own map[string]json.RawMessage
	if err := json.Unmarshal(b, &all); err != nil {
		return err
	}
	known, err := json.Marshal(p)
	if err == nil {
		err = json.Unmarshal(known, &own)
	}
	if err != nil {
		return err
	}
	for name := range own {
		delete(all, name)
	}
	if len(all) > 0 {
		p.Custom = all
	}
	*i = Introspection(p)
	return nil
}
