package signer

import (
	"bytes"
	"cmp"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"
	"unicode/utf8"
)

// Claims is what a profile may say about a session. Issuer, App, Subject,
// SessionID, IssuedAt and Expires are required; the rest is left out when zero.
// Times are cut to seconds.
type Claims struct {
	// Issuer is iss: the public base URL without a slash at its end.
	Issuer string
	// App is the id of the app, whose key signs; aud unless Audience is set.
	App string
	// Audience replaces the app as aud, for a JWT meant for another system. Such
	// a JWT authenticates nothing here.
	Audience string
	// Subject is sub: the user id, verbatim.
	Subject string
	// SessionID is the public id of the session.
	SessionID string
	// JWTID is jti. Empty: 128 random bits.
	JWTID string
	// IssuedAt is iat; the key must be one that may sign then.
	IssuedAt time.Time
	// NotBefore is nbf. Zero: IssuedAt - NotBeforeMargin.
	NotBefore time.Time
	// Expires is exp. The caller sees to it that it is not beyond the session's.
	Expires time.Time

	// SessionStarted, SessionLastAccessed and SessionExpires are required by the
	// stytch and streambird profiles.
	SessionStarted, SessionLastAccessed, SessionExpires time.Time
	// AuthTime is when the user last proved who they are.
	AuthTime time.Time
	// AMR lists the methods of RFC 8176 by which they did.
	AMR []string
	// ACR is the level of assurance that was reached.
	ACR string
	// FirstFactor and SecondFactor are when the user last showed one of each; zero:
	// never. clerk only.
	FirstFactor, SecondFactor time.Time

	// ClientID is client_id. Empty: App.
	ClientID string
	// AuthorizedParty is azp: the Origin the JWT was minted for.
	AuthorizedParty string
	// Revision is rev: the position of the log that the JWT reflects.
	Revision string
	// OrgID and OrgSlug name the organization the session acts for.
	OrgID, OrgSlug string

	// Thumbprint is that of the key whose proof must come with the JWT (RFC 9449
	// section 6.1): cnf.jkt, in every profile. Empty: the JWT is a bearer token.
	Thumbprint string

	// StatusURI and StatusIndex are the place of the session in a Token Status List
	// (draft-ietf-oauth-status-list section 6.2): status, in every profile. No URI:
	// there is none.
	StatusURI   string
	StatusIndex uint64

	// Attributes are the address and device of the log-in; stytch and streambird.
	Attributes Attributes
	// Factors is a JSON array of authentication factors; stytch and streambird,
	// each in the vendor's shape.
	Factors json.RawMessage
	// Roles are the roles of the session.
	Roles []string
	// Permissions are what those roles permit in the organization; clerk only.
	Permissions []Permission
	// Actor is the JSON object act of RFC 8693 section 4.1; native and clerk.
	Actor json.RawMessage
	// Custom is a JSON object whose members become claims. Reserved names, and
	// names the profile has written itself, are left out: callers refuse them
	// with CheckCustom before they store them, and a name that is reserved later
	// must not make stored sessions unmintable.
	Custom json.RawMessage
}

// Permission permits actions on a resource.
type Permission struct {
	Resource string
	Actions  []string
}

// Attributes is what was known of the client at log-in.
type Attributes struct {
	IPAddress string
	UserAgent string
}

// Mint returns a JWT of the session in that profile, signed with k. It fails
// with [ErrNoKey] if k may not sign at c.IssuedAt, [ErrBadClaims] if the claims
// cannot be written so that [Ring.Verify] would accept them, and [ErrTooLarge].
// A JWT beyond [CookieLimit] is no error.
func Mint(k *Key, p Profile, c Claims) (string, error) {
	s, ok := shapeOf(p)
	if !ok {
		return "", fmt.Errorf("mint: unknown profile %q", p)
	}
	if c.SessionID == "" {
		return "", fmt.Errorf("mint: %w", refuse(ErrBadClaims, "no session"))
	}
	return mint(k, s, c)
}

func mint(k *Key, s shape, c Claims) (string, error) {
	if k == nil || !k.signs(c.IssuedAt) {
		return "", fmt.Errorf("mint: %w", ErrNoKey)
	}
	claims, err := payload(s, &c)
	if err != nil {
		return "", fmt.Errorf("mint: %w", err)
	}
	token, err := assemble(k, s.typ, claims, MaxJWT)
	if err != nil {
		return "", fmt.Errorf("mint: %w", err)
	}
	return token, nil
}

// payload returns the claims as JSON that members accepts.
func payload(s shape, c *Claims) ([]byte, error) {
	if c.Issuer == "" || c.App == "" || c.Subject == "" {
		return nil, refuse(ErrBadClaims, "issuer, app and subject are required")
	}
	nbf := c.NotBefore
	if nbf.IsZero() {
		nbf = c.IssuedAt.Add(-NotBeforeMargin)
	}
	switch {
	case c.IssuedAt.Unix() <= 0 || nbf.Unix() <= 0:
		return nil, refuse(ErrBadClaims, "no time of issue")
	case c.Expires.Unix() <= c.IssuedAt.Unix() || c.Expires.Unix() <= nbf.Unix():
		return nil, refuse(ErrBadClaims, "would never be valid")
	case c.Expires.Year() > 9999:
		return nil, refuse(ErrBadClaims, "expires too late to be written")
	}
	o := object{buf: append(make([]byte, 0, 1024), '{')}
	o.text("iss", c.Issuer)
	o.text("sub", c.Subject)
	o.list("aud", []string{cmp.Or(c.Audience, c.App)})
	o.date("iat", c.IssuedAt)
	o.date("nbf", nbf)
	o.date("exp", c.Expires)
	if err := s.write(&o, c); err != nil {
		return nil, err
	}
	if c.Thumbprint != "" {
		if !ValidThumbprint(c.Thumbprint) {
			return nil, refuse(ErrBadClaims, "the thumbprint is that of no key")
		}
		cnf := object{buf: []byte{'{'}}
		cnf.text("jkt", c.Thumbprint)
		o.nested("cnf", &cnf)
	}
	if c.StatusURI != "" {
		list, status := object{buf: []byte{'{'}}, object{buf: []byte{'{'}}
		list.number("idx", strconv.FormatUint(c.StatusIndex, 10))
		list.text("uri", c.StatusURI)
		status.nested("status_list", &list)
		o.nested("status", &status)
	}
	if err := o.custom(c.Custom); err != nil {
		return nil, err
	}
	claims := append(o.buf, '}')
	if err := o.check(claims); err != nil {
		return nil, refuse(ErrBadClaims, err.Error())
	}
	return claims, nil
}

// check reports why members would not accept the whole object. What was written
// here alone is JSON whatever the texts are, unless one is not UTF-8; only what
// callers bring as JSON has to be read again.
func (o *object) check(whole []byte) error {
	if !o.brought {
		if !utf8.Valid(whole) {
			return errors.New("not valid UTF-8")
		}
		return nil
	}
	_, err := members(whole)
	return err
}

// newJWTID returns 128 random bits in base64url.
func newJWTID() string {
	var id [16]byte
	_, _ = rand.Read(id[:]) // never fails: it ends the process instead
	return b64.EncodeToString(id[:])
}

// object appends the members of one JSON object; its buf begins with the brace
// and the caller closes it. Strings are written as they are, so that invalid
// UTF-8 is still there to be refused when the object is complete.
type object struct {
	buf   []byte
	names nameSet
	// brought: something in it was JSON already.
	brought bool
}

func (o *object) name(name string) {
	o.names.add(name)
	if len(o.buf) > 1 {
		o.buf = append(o.buf, ',')
	}
	o.buf = append(appendText(o.buf, name), ':')
}

func (o *object) text(name, s string) {
	o.name(name)
	o.buf = appendText(o.buf, s)
}

func (o *object) optional(name, s string) {
	if s != "" {
		o.text(name, s)
	}
}

// list writes an array, also when it is empty.
func (o *object) list(name string, all []string) {
	o.name(name)
	o.buf = append(o.buf, '[')
	for i, s := range all {
		if i > 0 {
			o.buf = append(o.buf, ',')
		}
		o.buf = appendText(o.buf, s)
	}
	o.buf = append(o.buf, ']')
}

func (o *object) texts(name string, all []string) {
	if len(all) > 0 {
		o.list(name, all)
	}
}

// number writes a value that is JSON as it stands, without texts.
func (o *object) number(name, value string) {
	o.name(name)
	o.buf = append(o.buf, value...)
}

// date writes a NumericDate.
func (o *object) date(name string, t time.Time) {
	if !t.IsZero() {
		o.name(name)
		o.buf = strconv.AppendInt(o.buf, t.Unix(), 10)
	}
}

// time writes RFC 3339 in UTC.
func (o *object) time(name string, t time.Time) {
	o.text(name, t.UTC().Format(time.RFC3339))
}

func (o *object) nested(name string, inner *object) {
	o.name(name)
	o.buf = append(append(o.buf, inner.buf...), '}')
	o.brought = o.brought || inner.brought
}

// raw writes a value that is already JSON and begins with the given character.
func (o *object) raw(name string, value json.RawMessage, first byte) error {
	if len(value) == 0 {
		return nil
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, value); err != nil || compact.Bytes()[0] != first {
		return refuse(ErrBadClaims, name+" is not JSON of the right kind")
	}
	o.name(name)
	o.buf = append(o.buf, compact.Bytes()...)
	o.brought = true
	return nil
}

// custom adds the members of the custom claims.
func (o *object) custom(value json.RawMessage) error {
	if len(value) == 0 {
		return nil
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, value); err != nil {
		return refuse(ErrBadClaims, "custom claims are not JSON")
	}
	list, err := members(compact.Bytes())
	if err != nil {
		return refuse(ErrBadClaims, "custom claims: "+err.Error())
	}
	for _, m := range list {
		if IsReservedClaim(m.name) || !o.names.add(m.name) {
			continue
		}
		o.name(m.name)
		o.buf = append(o.buf, m.value...)
		o.brought = true
	}
	return nil
}

// appendText appends s as a JSON string.
func appendText(buf []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < 0x20 || c == '"' || c == '\\' {
			return appendEscaped(buf, s)
		}
	}
	buf = append(buf, '"')
	buf = append(buf, s...)
	return append(buf, '"')
}

// appendEscaped escapes only what RFC 8259 section 7 demands: escaping more would
// make the JWT longer, and json.Marshal would also repair invalid UTF-8, so that
// a JWT named another user than was asked for.
func appendEscaped(buf []byte, s string) []byte {
	const hex = "0123456789abcdef"
	buf = append(buf, '"')
	for i := range len(s) {
		switch c := s[i]; {
		case c == '"' || c == '\\':
			buf = append(buf, '\\', c)
		case c < 0x20:
			buf = append(buf, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		default:
			buf = append(buf, c)
		}
	}
	return append(buf, '"')
}
