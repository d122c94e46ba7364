package streambird

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// method is the means by which a factor was proved.
type method struct {
	ID           string `json:"method_id"`
	Type         string `json:"method_type"`
	LastVerified int64  `json:"last_verified_at"`

	PhoneNumberID string `json:"phone_number_id,omitempty"`
	PhoneNumber   string `json:"phone_number,omitempty"`
	EmailID       string `json:"email_id,omitempty"`
	Email         string `json:"email,omitempty"`
	WalletID      string `json:"wallet_id,omitempty"`
	WalletType    string `json:"wallet_type,omitempty"`
	WalletAddress string `json:"wallet_public_address,omitempty"`
	TOTPID        string `json:"totp_id,omitempty"`
	Subject       string `json:"provider_subject,omitempty"`
}

// detail is the union of the native <kind>_factor objects.
type detail struct {
	ID             string `json:"id"`
	EmailID        string `json:"email_id"`
	Email          string `json:"email_address"`
	PhoneID        string `json:"phone_id"`
	Phone          string `json:"phone_number"`
	WalletID       string `json:"crypto_wallet_id"`
	WalletAddress  string `json:"crypto_wallet_address"`
	WalletType     string `json:"crypto_wallet_type"`
	TOTPID         string `json:"totp_id"`
	RecoveryCodeID string `json:"totp_recovery_code_id"`
	WebAuthnID     string `json:"webauthn_registration_id"`
	Subject        string `json:"provider_subject"`
}

// kind is one row of the table of details: what a native <kind>_factor object
// becomes. channel is where nothing says by which channel it was proved.
type kind struct {
	suffix, methodType, channel string
	fill                        func(*method, *detail)
}

// kinds are looked through in order; the last of each is the most general.
var kinds = []kind{
	{"phone_number_factor", "phone_number", "sms", func(m *method, d *detail) {
		m.ID, m.PhoneNumberID, m.PhoneNumber = d.PhoneID, d.PhoneID, d.Phone
	}},
	{"crypto_wallet_factor", "wallet", "eth_wallet", func(m *method, d *detail) {
		m.ID, m.WalletID, m.WalletAddress, m.WalletType = d.WalletID, d.WalletID, d.WalletAddress, d.WalletType
	}},
	{"authenticator_app_factor", "totp", "totp_authenticator", func(m *method, d *detail) { m.ID, m.TOTPID = d.TOTPID, d.TOTPID }},
	{"recovery_code_factor", "totp", "totp_recovery_code", func(m *method, d *detail) { m.ID = d.RecoveryCodeID }},
	{"webauthn_factor", "webauthn", "webauthn_credential", func(m *method, d *detail) { m.ID = d.WebAuthnID }},
	{"oauth_factor", "email", "", func(m *method, d *detail) {
		m.ID, m.EmailID, m.Email, m.Subject = d.ID, d.EmailID, d.Email, d.Subject
	}},
	{"email_factor", "email", "email", func(m *method, d *detail) { m.ID, m.EmailID, m.Email = d.EmailID, d.EmailID, d.Email }},
}

// typeOf gives native types of factors Streambird's name; others keep theirs.
var typeOf = map[string]string{"crypto": "wallet", "email_otp": "otp", "recovery_codes": "totp"}

// channelOf gives native delivery methods Streambird's name; others keep theirs,
// but for oauth_<provider>, which is <provider>_oauth.
var channelOf = map[string]string{
	"authenticator_app": "totp_authenticator", "recovery_code": "totp_recovery_code",
	"webauthn_registration": "webauthn_credential", "crypto_wallet": "",
}

// Factors returns authentication factors in Streambird's shape. Those that have
// it already stay as they are; where none says when it was proved, it was when
// the session began.
func Factors(native []json.RawMessage, began time.Time) ([]json.RawMessage, error) {
	out := make([]json.RawMessage, 0, len(native))
	for _, raw := range native {
		f, err := factor(raw, began)
		if err != nil {
			return nil, fmt.Errorf("factor in streambird's shape: %w", err)
		}
		out = append(out, f)
	}
	return out, nil
}

func factor(raw json.RawMessage, began time.Time) (json.RawMessage, error) {
	var all map[string]json.RawMessage
	if err := json.Unmarshal(raw, &all); err != nil {
		return nil, err
	}
	if all["method"] != nil || all["delivery_channel"] != nil {
		return raw, nil
	}
	typ := text(all["type"])
	m := method{Type: typ, LastVerified: began.Unix()}
	if at, err := time.Parse(time.RFC3339, text(all["last_authenticated_at"])); err == nil {
		m.LastVerified = at.Unix()
	}
	channel := text(all["delivery_method"])
	if provider, ok := strings.CutPrefix(channel, "oauth_"); ok {
		channel = provider + "_oauth"
	} else if mapped, ok := channelOf[channel]; ok {
		channel = mapped
	}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if k := kindOf(name); k != nil {
			var d detail
			_ = json.Unmarshal(all[name], &d) // its form is the caller's: what can be read is
			m.Type = k.methodType
			k.fill(&m, &d)
			channel = cmp.Or(channel, d.channel(k, name))
		}
	}
	return compact(struct {
		Channel string `json:"delivery_channel"`
		Type    string `json:"type"`
		Method  method `json:"method"`
	}{cmp.Or(channel, typ), cmp.Or(typeOf[typ], typ), m})
}

func kindOf(name string) *kind {
	for i := range kinds {
		if name == kinds[i].suffix || strings.HasSuffix(name, "_"+kinds[i].suffix) {
			return &kinds[i]
		}
	}
	return nil
}

// channel returns the channel that follows from the detail of a factor.
func (d *detail) channel(k *kind, name string) string {
	switch {
	case strings.HasPrefix(strings.ToLower(d.WalletType), "sol"):
		return "sol_wallet"
	case k.channel == "":
		return strings.TrimSuffix(name, "_factor")
	}
	return k.channel
}

// text returns a JSON string, "" for anything else.
func text(raw json.RawMessage) (s string) {
	_ = json.Unmarshal(raw, &s)
	return s
}

// compact is json.Marshal that leaves <, > and & as they are.
func compact(v any) (json.RawMessage, error) {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	err := enc.Encode(v)
	return bytes.TrimSpace(buf.Bytes()), err
}
