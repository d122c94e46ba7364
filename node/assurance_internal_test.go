package node

import (
	"encoding/json"
	"slices"
	"testing"
	"time"
)

// TestFactorClaims: when and how a user logged in, as far as the factors say.
func TestFactorClaims(t *testing.T) {
	began := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	now := began.Add(time.Hour)
	for _, c := range []struct {
		factors string
		methods []string
		at      time.Time
	}{
		{"", nil, began},
		{"[]", nil, began},
		{"not JSON", nil, began},
		{`[{"type":"password"}]`, []string{"pwd"}, began},
		{`[{"type":"password","last_authenticated_at":"2026-01-01T12:30:00Z"}]`, []string{"pwd"}, began.Add(30 * time.Minute)},
		{`[{"type":"password","last_authenticated_at":"2026-01-01T09:00:00Z"}]`, []string{"pwd"}, began.Add(-3 * time.Hour)},
		{`[{"type":"totp"},{"type":"password","last_authenticated_at":"2026-01-01T09:00:00Z"}]`, []string{"otp", "pwd", "mfa"}, began},
		{`[{"type":"password","last_authenticated_at":"yesterday"}]`, []string{"pwd"}, began},
		// Still to come, so it proves no log-in yet.
		{`[{"type":"password","last_authenticated_at":"2026-01-01T13:00:31Z"}]`, []string{"pwd"}, began},
		{`[{"type":"password","last_authenticated_at":"2036-01-01T00:00:00Z"}]`, []string{"pwd"}, began},
		{`[{"type":"made_up"}]`, nil, began},
	} {
		methods, at := factorClaims(json.RawMessage(c.factors), began, now)
		if !slices.Equal(methods, c.methods) || !at.Equal(c.at) {
			t.Errorf("%s: %v at %v, want %v at %v", c.factors, methods, at, c.methods, c.at)
		}
	}
}
