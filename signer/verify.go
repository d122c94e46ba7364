package signer

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"time"
)

// maxKeyID is the longest kid that is looked up; ours have 43 characters.
const maxKeyID = 64

// Expect is what the caller demands of a JWT. Issuer, App and Now are required:
// without them every JWT is refused.
type Expect struct {
	// Issuer must equal iss byte for byte.
	Issuer string
	// App must be the one audience.
	App string
	// Now is the time to judge by.
	Now time.Time
	// Leeway is how far clocks may disagree at exp and nbf. Zero: not at all;
	// more than MaxLeeway counts as MaxLeeway.
	Leeway time.Duration
	// AllowExpired accepts a JWT after its exp, and one whose key is no longer
	// listed, as long as the key is known; all else is checked as ever. Only for
	// callers who have authenticated themselves by other means.
	AllowExpired bool
	// AllowEarly accepts a JWT before its nbf; all else is checked as ever. Only
	// for what takes a session away: that the clocks of two nodes differ must keep
	// nobody from it.
	AllowEarly bool
	// MaxLife is the most exp may lie after iat. Zero: DefaultMaxLife.
	MaxLife time.Duration
	// Types narrows the header's typ to these. Empty: that of any profile.
	Types []string
}

// Verified is what an accepted JWT says.
type Verified struct {
	KeyID     string
	Profile   Profile
	SessionID string
	Subject   string
	App       string
	Issuer    string
	// Thumbprint is that of the key whose proof must come with the JWT; empty: the
	// JWT names none.
	Thumbprint string
	// JWTID is empty for profiles without jti.
	JWTID                        string
	IssuedAt, NotBefore, Expires time.Time
	// Expired is set when exp has passed and Expect.AllowExpired let it in.
	Expired bool

	token string
}

// Claims returns all claims as the JSON that was signed.
func (v Verified) Claims() json.RawMessage {
	_, claims, _, err := split(v.token)
	if err != nil {
		return nil // the zero Verified
	}
	data, _ := b64.DecodeString(claims)
	return data
}

// Custom returns the claims that are not reserved, as a JSON object: the custom
// claims, and the session's roles in profiles that write them beside those.
func (v Verified) Custom() json.RawMessage {
	o := object{buf: []byte{'{'}}
	list, _ := members(v.Claims())
	for _, m := range list {
		if !IsReservedClaim(m.name) {
			o.name(m.name)
			o.buf = append(o.buf, m.value...)
		}
	}
	return append(o.buf, '}')
}

// String hides the JWT.
func (v Verified) String() string { return "[token]" }

// Format hides the JWT from every verb.
func (v Verified) Format(s fmt.State, _ rune) { _, _ = io.WriteString(s, v.String()) }

// LogValue hides the JWT.
func (v Verified) LogValue() slog.Value { return slog.StringValue(v.String()) }

// Verify checks a JWT against the keys of the ring and against e, by rules J1 to
// J11 of DESIGN.md. The error is always a [Reason]. No header can make it load a
// key from anywhere.
func (r *Ring) Verify(token string, e Expect) (Verified, error) {
	c, k, err := r.authenticate(token)
	if err != nil {
		return Verified{}, err
	}
	return c.judge(token, k, e)
}

// PeekAudience returns the audience of a JWT without checking its signature, so
// that the caller can pick the app's ring; it proves nothing. It is as strict
// about size, characters and JSON as Verify.
func PeekAudience(token string) (string, error) {
	_, claims, _, err := split(token)
	if err != nil {
		return "", err
	}
	list, err := decodeObject(claims)
	if err != nil {
		return "", err
	}
	return audience(list)
}

// content is what a JWT with a valid signature says: all that judge needs, and
// nothing that depends on when or where it is asked.
type content struct {
	keyID, typ       string
	profile          Profile
	issuer, audience string
	subject          string
	sessionID, jwtID string
	thumbprint       string // cnf.jkt
	iat, nbf, exp    int64  // unix seconds
}

// authenticate finds the key, checks the signature and reads the claims.
func (r *Ring) authenticate(token string) (*content, *Key, error) {
	c, k, list, err := r.signed(token, isSessionType)
	if err != nil {
		return nil, nil, err
	}
	if err := readSession(list, c); err != nil {
		return nil, nil, err
	}
	return c, k, nil
}

// signed finds the key of a JWT of an accepted typ, checks the signature and
// reads the claims that every JWT of ours has.
func (r *Ring) signed(token string, accepts func(typ string) bool) (*content, *Key, []member, error) {
	head, _, _, err := split(token)
	if err != nil {
		return nil, nil, nil, err
	}
	c := &content{}
	alg, err := readHeader(head, c, accepts)
	if err != nil {
		return nil, nil, nil, err
	}
	k, ok := r.Find(c.keyID)
	if !ok {
		return nil, nil, nil, refuse(ErrUnknownKey, "no such key")
	}
	claims, err := k.open(token, alg)
	if err != nil {
		return nil, nil, nil, err
	}
	list, err := readClaims(claims, c)
	return c, k, list, err
}

// open checks that the key signed the JWT, whose header names alg, and returns
// its claims.
func (k *Key) open(token, alg string) (json.RawMessage, error) {
	if alg != string(k.Alg) {
		return nil, refuse(ErrBadSignature, "alg is not that of the key")
	}
	head, body, signature, err := split(token)
	if err != nil {
		return nil, err
	}
	claims, errClaims := b64.DecodeString(body)
	sig, errSig := b64.DecodeString(signature)
	if errClaims != nil || errSig != nil {
		return nil, refuse(ErrMalformed, "not base64url")
	}
	if k.CheckSignature(token[:len(head)+1+len(body)], sig) != nil {
		return nil, refuse(ErrBadSignature, "does not verify")
	}
	return claims, nil
}

func isSessionType(typ string) bool {
	return slices.ContainsFunc(shapes, func(s shape) bool { return s.typ == typ })
}

// readHeader demands exactly alg, kid and typ. So crit, b64 and zip, which would
// change the meaning of the rest, and jku, jwk, x5u and x5c, which would bring a
// key along, are refused without a list of them.
func readHeader(segment string, c *content, accepts func(typ string) bool) (alg string, err error) {
	list, err := decodeObject(segment)
	if err != nil {
		return "", err
	}
	for _, m := range list {
		s, ok := m.text()
		if !ok {
			return "", refuse(ErrMalformed, "a header member that is not a string")
		}
		switch m.name {
		case "alg":
			alg = s
		case "kid":
			c.keyID = s
		case "typ":
			c.typ = s
		default:
			return "", refuse(ErrMalformed, "a header member other than alg, kid and typ")
		}
	}
	if alg == "" {
		return "", refuse(ErrMalformed, "no alg")
	}
	if c.keyID == "" || len(c.keyID) > maxKeyID {
		return "", refuse(ErrUnknownKey, "no kid, or one that is too long")
	}
	if !accepts(c.typ) {
		return "", refuse(ErrWrongType, "typ is not the one wanted")
	}
	return alg, nil
}

// readClaims reads the claims every JWT of ours has, and returns all.
func readClaims(data []byte, c *content) ([]member, error) {
	list, err := members(data)
	if err != nil {
		return nil, refuse(ErrMalformed, err.Error())
	}
	c.issuer, _ = findText(list, "iss")
	c.subject, _ = findText(list, "sub")
	if c.issuer == "" || c.subject == "" {
		return nil, refuse(ErrBadClaims, "iss or sub is missing or not a string")
	}
	if c.audience, err = audience(list); err != nil {
		return nil, err
	}
	var ok [3]bool
	c.iat, ok[0] = findDate(list, "iat")
	c.nbf, ok[1] = findDate(list, "nbf")
	c.exp, ok[2] = findDate(list, "exp")
	if ok != [3]bool{true, true, true} {
		return nil, refuse(ErrBadClaims, "iat, nbf or exp is missing or not an integer of seconds")
	}
	if c.thumbprint, err = confirmation(list); err != nil {
		return nil, err
	}
	return list, nil
}

// readSession reads the claims of the profile that the JWT is of.
func readSession(list []member, c *content) error {
	for _, s := range shapes {
		if s.typ == c.typ && s.read(list, c) {
			c.profile = s.profile
			return nil
		}
	}
	return refuse(ErrBadClaims, "no claim names the session")
}

// confirmation returns the thumbprint in cnf, empty without cnf. A cnf that says
// anything else demands what nobody here could check.
func confirmation(list []member) (string, error) {
	raw, ok := find(list, "cnf")
	if !ok {
		return "", nil
	}
	cnf, err := members(raw)
	if err != nil || len(cnf) != 1 || cnf[0].name != "jkt" {
		return "", refuse(ErrBadClaims, "cnf is not the thumbprint of a key")
	}
	jkt, _ := cnf[0].text()
	if !ValidThumbprint(jkt) {
		return "", refuse(ErrBadClaims, "cnf is not the thumbprint of a key")
	}
	return jkt, nil
}

// audience returns the one audience: a string, or an array of one string.
func audience(list []member) (string, error) {
	v, ok := find(list, "aud")
	if !ok {
		return "", refuse(ErrBadClaims, "no aud")
	}
	if s, ok := (member{value: v}).text(); ok && s != "" {
		return s, nil
	}
	var all []any
	if json.Unmarshal(v, &all) != nil || len(all) == 0 {
		return "", refuse(ErrBadClaims, "aud is not a string or an array")
	}
	if len(all) > 1 {
		return "", refuse(ErrWrongAudience, "more than one audience")
	}
	s, ok := all[0].(string)
	if !ok || s == "" {
		return "", refuse(ErrBadClaims, "aud is not a string")
	}
	return s, nil
}

// judge holds authentic content against what is expected here and now. It is all
// that a cached JWT goes through again, so nothing that can change with time, key
// or caller may be checked before it.
func (c *content) judge(token string, k *Key, e Expect) (Verified, error) {
	maxLife := e.MaxLife
	if maxLife <= 0 {
		maxLife = DefaultMaxLife
	}
	switch {
	case !k.known(e.Now) || !e.AllowExpired && !k.listed(e.Now):
		return Verified{}, refuse(ErrUnknownKey, "the key no longer counts")
	case len(e.Types) > 0 && !slices.Contains(e.Types, c.typ):
		return Verified{}, refuse(ErrWrongType, "typ is not accepted here")
	case c.issuer != e.Issuer:
		return Verified{}, refuse(ErrWrongIssuer, "iss is another")
	case c.audience != e.App:
		return Verified{}, refuse(ErrWrongAudience, "aud is another")
	case c.exp <= c.iat || c.exp-c.iat > int64(maxLife/time.Second):
		return Verified{}, refuse(ErrBadClaims, "exp is not within the allowed life")
	}
	leeway := min(max(e.Leeway, 0), MaxLeeway)
	exp, nbf := time.Unix(c.exp, 0), time.Unix(c.nbf, 0)
	if !e.AllowEarly && e.Now.Add(leeway).Before(nbf) {
		return Verified{}, refuse(ErrNotYetValid, "nbf lies ahead")
	}
	expired := !e.Now.Before(exp.Add(leeway))
	if expired && !e.AllowExpired {
		return Verified{}, refuse(ErrExpired, "exp has passed")
	}
	return Verified{
		KeyID: c.keyID, Profile: c.profile, SessionID: c.sessionID, Subject: c.subject,
		App: c.audience, Issuer: c.issuer, Thumbprint: c.thumbprint, JWTID: c.jwtID,
		IssuedAt: time.Unix(c.iat, 0).UTC(), NotBefore: nbf.UTC(), Expires: exp.UTC(),
		Expired: expired, token: token,
	}, nil
}
