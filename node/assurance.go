package node

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node/api"
)

// The levels of authentication assurance of NIST SP 800-63B, lowest first.
const (
	aal1 = "aal1"
	aal2 = "aal2"
	aal3 = "aal3"
)

// levels are all of them, in order; the empty one is that of a session of whose
// log-in nothing is known.
var levels = []string{"", aal1, aal2, aal3}

// rankOfLevel returns 0 for no level, and -1 for what is none.
func rankOfLevel(level string) int { return slices.Index(levels, level) }

func checkLevel(field, level string) error {
	if rankOfLevel(level) < 1 {
		return fail(api.InvalidArgument, "%s: want aal1, aal2 or aal3", field).with("field", field)
	}
	return nil
}

// Kinds of authentication factors. Two of different kinds are two factors.
const (
	knowledge  = "knowledge"  // something you know
	possession = "possession" // something you have
)

// factorKind is what a type of factor proves. A type that is not here is one
// factor, and as much more as the backend states.
var factorKind = map[string]string{
	"password": knowledge, "pin": knowledge,
	"otp": possession, "email_otp": possession, "magic_link": possession, "totp": possession, "recovery_codes": possession,
	"webauthn": possession, "crypto": possession, "signature_challenge": possession,
}

// federated are the types of which another system did the proving: at least what
// a password there proves, and as much more as the backend states.
var federated = map[string]bool{"oauth": true, "sso": true, "imported": true, "trusted_auth_token": true}

// hardware are the types whose key may be one that cannot leave its device, and
// that may ask for a PIN or a finger before they use it: so one alone may reach
// aal3. Whether it does, only who verified it can tell.
var hardware = map[string]bool{"webauthn": true, "crypto": true, "signature_challenge": true}

// factor is what is read of an authentication factor, whose form beyond "type"
// is the caller's.
type factor struct {
	Type string    `json:"type"`
	Last looseTime `json:"last_authenticated_at"`
}

// readFactors returns the factors by which somebody has proved who they are.
func readFactors(raw json.RawMessage) (factors []factor) {
	if len(raw) == 0 || json.Unmarshal(raw, &factors) != nil {
		return nil
	}
	return slices.DeleteFunc(factors, func(f factor) bool { return f.Type == impersonatedFactor })
}

// assured returns the level that the factors reach by themselves, and the most
// that a backend may state of them. Without any it may state whatever it knows.
func assured(factors []factor) (reached, most string) {
	if len(factors) == 0 {
		return "", aal3
	}
	kinds, strong := map[string]bool{}, false
	for _, f := range factors {
		kind, known := factorKind[f.Type]
		strong = strong || !known || hardware[f.Type]
		switch {
		case known:
			kinds[kind] = true
		case federated[f.Type]:
			kinds[knowledge] = true
		}
	}
	reached = aal1
	if len(kinds) > 1 {
		reached = aal2
	}
	if strong {
		return reached, aal3
	}
	return reached, reached
}

// level returns the session's level of assurance: what the backend stated, or
// else what the factors reach.
func level(p *events.Private) string {
	if p.Assurance != "" {
		return p.Assurance
	}
	reached, _ := assured(readFactors(p.Factors))
	return reached
}

const assuranceField = "assurance_level"

// stateLevel sets the level that the backend states of the factors in p.
func stateLevel(p *events.Private, stated string) error {
	if err := checkLevel(assuranceField, stated); err != nil {
		return err
	}
	if _, most := assured(readFactors(p.Factors)); rankOfLevel(stated) > rankOfLevel(most) {
		return fail(api.InvalidArgument, "%s: the factors allow no more than %s", assuranceField, most).with("field", assuranceField)
	}
	p.Assurance = stated
	return nil
}

// restateLevel sets the level after a change: was is the one before. It rises only
// together with a factor that was added (NIST SP 800-63B section 5), and then at
// least to what the factors say.
func restateLevel(p *events.Private, stated, was string, added bool) error {
	if stated != "" {
		if err := stateLevel(p, stated); err != nil {
			return err
		}
		if !added && rankOfLevel(stated) > rankOfLevel(was) {
			return fail(api.InvalidArgument, "%s: rises only together with add_authentication_factors", assuranceField).with("field", assuranceField)
		}
		return nil
	}
	if reached, _ := assured(readFactors(p.Factors)); added && rankOfLevel(reached) > rankOfLevel(was) {
		p.Assurance = ""
	}
	return nil
}

// methodOf gives the types of authentication factors their name in RFC 8176
// section 2. Types without one are left out.
var methodOf = map[string]string{
	"password": "pwd", "pin": "pin", "otp": "otp", "email_otp": "otp", "totp": "otp", "recovery_codes": "otp",
	"webauthn": "pop", "crypto": "pop", "signature_challenge": "pop",
}

// factorClaims returns the methods by which the user proved who they are, and
// when they last did: the time of the newest factor, of which one without a time
// counts as used when the session began. A time that is still to come at now is
// no proof of anything.
func factorClaims(raw json.RawMessage, began, now time.Time) (methods []string, at time.Time) {
	seen := map[string]bool{}
	for _, f := range readFactors(raw) {
		if t := f.used(began, now); t.After(at) {
			at = t
		}
		if m := methodOf[f.Type]; m != "" && !seen[m] {
			methods = append(methods, m)
			seen[m] = true
		}
	}
	if len(seen) > 1 {
		methods = append(methods, "mfa")
	}
	if at.IsZero() {
		at = began
	}
	return methods, at
}

// used is when the factor was last used, see factorClaims.
func (f *factor) used(began, now time.Time) time.Time {
	if t := time.Time(f.Last); !t.IsZero() && !t.After(now.Add(maxClockSkew)) {
		return t
	}
	return began
}

// factorUses returns when the user last showed a first and a second factor, zero:
// no second one. What the user has is the second to what they know, whichever
// came first: to know the password anew must not pass for having the device.
func factorUses(raw json.RawMessage, began, now time.Time) (first, second time.Time) {
	for _, f := range readFactors(raw) {
		at := &first
		switch kind := factorKind[f.Type]; {
		case kind == possession:
			at = &second
		case kind != knowledge && !federated[f.Type]:
			continue
		}
		if t := f.used(began, now); t.After(*at) {
			*at = t
		}
	}
	if first.IsZero() || second.IsZero() {
		_, newest := factorClaims(raw, began, now)
		return newest, time.Time{}
	}
	return first, second
}

// looseTime is a time if the text is one. It never fails, because factors that
// are held already may be older than the demand of checkFactorTimes.
type looseTime time.Time

// UnmarshalJSON never fails.
func (t *looseTime) UnmarshalJSON(b []byte) error {
	_ = (*time.Time)(t).UnmarshalJSON(b)
	return nil
}

// Members of a factor that say when, and not which factor it is.
const factorUsed = "last_authenticated_at"

var factorTimes = []string{factorUsed, "created_at", "updated_at"}

// addFactors returns the factors with others added, each in place of one that is
// the same but for its times: who logs in anew each hour must not fill the
// session. One without a time was used at now.
func addFactors(held []json.RawMessage, added []json.RawMessage, now time.Time) ([]json.RawMessage, error) {
	for _, raw := range added {
		var members map[string]json.RawMessage
		if err := json.Unmarshal(raw, &members); err != nil || members == nil {
			held = append(held, raw) // checkFactors says what is wrong with it
			continue
		}
		if !given(members[factorUsed]) {
			stamp, err := marshal(now.UTC())
			if err != nil {
				return nil, err
			}
			members[factorUsed] = stamp
			if raw, err = marshal(members); err != nil {
				return nil, err
			}
		}
		id := factorIdentity(raw)
		held = slices.DeleteFunc(held, func(old json.RawMessage) bool { return bytes.Equal(factorIdentity(old), id) })
		held = append(held, raw)
	}
	return held, nil
}

// checkFactorTimes refuses a factor that is used only in the future, which would
// pass, once that is there, for a log-in that nobody made; and one whose time
// cannot be read, which would pass for one of now.
func checkFactorTimes(field string, factors []json.RawMessage, now time.Time) error {
	for i, raw := range factors {
		var f struct {
			Last json.RawMessage `json:"last_authenticated_at"`
		}
		if json.Unmarshal(raw, &f) != nil || !given(f.Last) {
			continue
		}
		at := fmt.Sprintf("%s[%d].%s", field, i, factorUsed)
		var last time.Time
		if json.Unmarshal(f.Last, &last) != nil {
			return fail(api.InvalidArgument, "%s: want a time as in RFC 3339, such as 2026-01-31T12:00:00Z", at).with("field", at)
		}
		if last.After(now.Add(maxClockSkew)) {
			return fail(api.InvalidArgument, "%s: lies in the future", at).with("field", at)
		}
	}
	return nil
}

// factorIdentity returns what names the factor: all but its times, in one order.
func factorIdentity(raw json.RawMessage) []byte {
	v, err := untyped(raw)
	members, ok := v.(map[string]any)
	if err != nil || !ok {
		return raw
	}
	for _, name := range factorTimes {
		delete(members, name)
	}
	b, err := marshal(members)
	if err != nil {
		return raw
	}
	return b
}
