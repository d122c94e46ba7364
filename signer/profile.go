package signer

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"unicode"
)

// Profile is a shape of JWT: which claims it has, how they are named, and the
// typ of its header. Each vendor's client library wants its own.
type Profile string

const (
	// Native is an OAuth access token, RFC 9068, with the session in sid.
	Native Profile = "native"
	// Stytch is what the client libraries of Stytch verify locally.
	Stytch Profile = "stytch"
	// Streambird is what the client library of Streambird verifies locally.
	Streambird Profile = "streambird"
	// Clerk is version 2 of the session tokens that the client libraries of
	// Clerk verify. They take RS256 and nothing else.
	Clerk Profile = "clerk"
)

// The names that vendors' client libraries look for.
const (
	stytchPrefix       = "https://stytch.com/"
	stytchSession      = stytchPrefix + "session"
	stytchOrganization = stytchPrefix + "organization"
	streambirdPrefix   = "https://streambird.io/"
	streambirdSession  = streambirdPrefix + "jwt/session"
)

// shape is one row of the table of profiles.
type shape struct {
	profile Profile
	typ     string
	// write adds the claims beyond iss, sub, aud, iat, nbf and exp.
	write func(*object, *Claims) error
	// read fills in what those claims say; false if they are not of this shape.
	// Of two shapes with one typ, at most one may accept the same claims: their
	// session claims have different names and all of them are reserved.
	read func([]member, *content) bool
}

var shapes = []shape{
	{Native, "at+jwt", writeNative, readNative},
	{Stytch, "JWT", writeStytch, readStytch},
	{Streambird, "JWT", writeStreambird, readStreambird},
	{Clerk, "JWT", writeClerk, readClerk},
}

func shapeOf(p Profile) (shape, bool) {
	for _, s := range shapes {
		if s.profile == p {
			return s, true
		}
	}
	return shape{}, false
}

// Profiles returns the names of all profiles.
func Profiles() []Profile {
	var all []Profile
	for _, s := range shapes {
		all = append(all, s.profile)
	}
	return all
}

// ParseProfile returns the profile of that exact name; "" is [Native].
func ParseProfile(s string) (Profile, error) {
	if s == "" {
		return Native, nil
	}
	if _, ok := shapeOf(Profile(s)); !ok {
		return "", fmt.Errorf("parse profile %q: want one of %v", s, Profiles())
	}
	return Profile(s), nil
}

// writeNative adds the claims of RFC 9068 section 2.2 and ours. No address, no
// device, no factor: a JWT travels to places that need none of them.
func writeNative(o *object, c *Claims) error {
	o.text("client_id", cmp.Or(c.ClientID, c.App))
	id := c.JWTID
	if id == "" {
		id = newJWTID()
	}
	o.text("jti", id)
	o.text("sid", c.SessionID)
	o.date("auth_time", c.AuthTime)
	o.texts("amr", c.AMR)
	o.optional("acr", c.ACR)
	o.date("sxp", c.SessionExpires)
	o.optional("azp", c.AuthorizedParty)
	o.optional("org_id", c.OrgID)
	o.optional("rev", c.Revision)
	o.texts("roles", c.Roles)
	return o.raw("act", c.Actor, '{')
}

func readNative(list []member, p *content) bool {
	sid, okSID := findText(list, "sid")
	jti, okJTI := findText(list, "jti")
	client, okClient := findText(list, "client_id")
	p.sessionID, p.jwtID = sid, jti
	return okSID && okJTI && okClient && sid != "" && jti != "" && client != ""
}

// writeStytch adds the one claim that Stytch's libraries read. Nothing else goes
// to the top level, because they report every other member there as a custom
// claim. They insist on the times.
func writeStytch(o *object, c *Claims) error {
	if c.SessionStarted.IsZero() || c.SessionLastAccessed.IsZero() || c.SessionExpires.IsZero() {
		return refuse(ErrBadClaims, "a stytch JWT needs the times of its session")
	}
	s := object{buf: []byte{'{'}}
	s.text("id", c.SessionID)
	s.time("started_at", c.SessionStarted)
	s.time("last_accessed_at", c.SessionLastAccessed)
	s.time("expires_at", c.SessionExpires)
	attributes := object{buf: []byte{'{'}}
	attributes.text("ip_address", c.Attributes.IPAddress)
	attributes.text("user_agent", c.Attributes.UserAgent)
	s.nested("attributes", &attributes)
	factors := c.Factors
	if len(factors) == 0 {
		factors = json.RawMessage("[]")
	}
	if err := s.raw("authentication_factors", factors, '['); err != nil {
		return err
	}
	s.list("roles", c.Roles)
	o.nested(stytchSession, &s)
	if c.OrgID != "" {
		org := object{buf: []byte{'{'}}
		org.text("organization_id", c.OrgID)
		org.optional("slug", c.OrgSlug)
		o.nested(stytchOrganization, &org)
	}
	return nil
}

func readStytch(list []member, p *content) bool { return readNested(list, stytchSession, p) }

// readNested reads the session's id from the claim that is a session object.
func readNested(list []member, claim string, p *content) bool {
	raw, ok := find(list, claim)
	if !ok {
		return false
	}
	session, err := members(raw)
	if err != nil {
		return false
	}
	p.sessionID, ok = findText(session, "id")
	return ok && p.sessionID != ""
}

// reserved holds the names that mean something to us or to verifiers. events and
// sub_id are among them so that a verifier that ignores typ can take no JWT of a
// session for a logout token or a SET.
var reserved = map[string]bool{
	"iss": true, "sub": true, "aud": true, "exp": true, "nbf": true, "iat": true, "jti": true,
	"sid": true, "client_id": true, "auth_time": true, "amr": true, "acr": true, "azp": true,
	"act": true, "may_act": true, "cnf": true, "status": true, "org_id": true,
	"sxp": true, "rev": true, "events": true, "sub_id": true,
	// Of Clerk's session tokens: from these its libraries read who may do what.
	"v": true, "sts": true, "fva": true, "o": true, "fea": true, "pla": true,
}

// reservedPrefixes belong to vendors' client libraries.
var reservedPrefixes = []string{stytchPrefix, streambirdPrefix}

// IsReservedClaim says whether custom claims may not use the name, whatever the
// profile: a session may be minted in several. "roles" is not reserved: a custom
// claim of that name is written where the session itself has no roles.
// Nor may they use it in other letters that fold to the same: a verifier that
// decodes into a struct, as encoding/json does, would take "Sub" for "sub".
func IsReservedClaim(name string) bool {
	if reserved[fold(name)] {
		return true
	}
	for _, p := range reservedPrefixes {
		if strings.HasPrefix(fold(name), p) {
			return true
		}
	}
	return false
}

// fold returns the same text for all that strings.EqualFold takes for equal:
// each letter as the smallest of those it folds to.
func fold(name string) string {
	return strings.Map(func(r rune) rune {
		least := r
		for f := unicode.SimpleFold(r); f != r; f = unicode.SimpleFold(f) {
			least = min(least, f)
		}
		return unicode.ToLower(least)
	}, name)
}

// ReservedClaimError names the custom claim that was refused.
type ReservedClaimError struct{ Name string }

// Error names the claim.
func (e *ReservedClaimError) Error() string { return fmt.Sprintf("claim %q is reserved", e.Name) }

// CheckCustom says whether custom claims, a JSON object, can be minted: valid,
// no name twice, not nested deeper than a JWT may be, and no reserved name
// ([*ReservedClaimError]). Callers check before they store them. It sets no limit
// of size.
func CheckCustom(custom json.RawMessage) error {
	list, err := members(custom)
	if err != nil {
		return fmt.Errorf("check custom claims: %w", err)
	}
	for _, m := range list {
		if m.name == "" {
			return errors.New("check custom claims: a claim has no name")
		}
		if IsReservedClaim(m.name) {
			return fmt.Errorf("check custom claims: %w", &ReservedClaimError{m.name})
		}
	}
	return nil
}
