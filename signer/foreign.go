package signer

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"time"
)

// Limits of what another issuer may bring.
const (
	maxForeignKeys  = 128
	maxForeignKeyID = 128 // characters of a kid; it is only looked up in a map
	// maxForeignLife is the most exp - iat of a JWT of another issuer.
	maxForeignLife = 24 * time.Hour
)

// ForeignKeys are the public keys of another issuer, by the kid it gives them.
// They never change, and verify nothing but JWTs of that issuer.
type ForeignKeys struct{ byID map[string]*Key }

// ParseForeignKeys reads a JWK Set, RFC 7517 section 5. Keys that could not
// verify a JWT here are left out: of another use, kind, curve or size, without a
// kid, or with one that several have. It fails when none is left, and when the set
// has a private or a symmetric key: whoever shows that has lost it.
func ParseForeignKeys(set []byte) (*ForeignKeys, error) {
	list, err := members(set)
	if err != nil {
		return nil, fmt.Errorf("parse key set: %w", err)
	}
	raw, _ := find(list, "keys")
	var keys []json.RawMessage
	if err := json.Unmarshal(raw, &keys); err != nil || keys == nil {
		return nil, errors.New("parse key set: no array of keys")
	}
	if len(keys) > maxForeignKeys {
		return nil, fmt.Errorf("parse key set: more than %d keys", maxForeignKeys)
	}
	f := &ForeignKeys{byID: map[string]*Key{}}
	why := errors.New("it is empty")
	for _, jwk := range keys {
		id, key, err := parseForeignKey(jwk)
		if errors.Is(err, errPrivate) {
			return nil, fmt.Errorf("parse key set: a key %w", err)
		}
		if err != nil {
			why = err
			continue
		}
		if _, taken := f.byID[id]; taken {
			key, why = nil, errors.New("two keys have one kid")
		}
		f.byID[id] = key
	}
	for id, key := range f.byID {
		if key == nil {
			delete(f.byID, id)
		}
	}
	if len(f.byID) == 0 {
		return nil, fmt.Errorf("parse key set: no key that could be used: %w", why)
	}
	return f, nil
}

func parseForeignKey(jwk []byte) (id string, k *Key, err error) {
	list, err := members(jwk)
	if err != nil {
		return "", nil, err
	}
	if k, err = parseJWK(jwk); err != nil {
		return "", nil, err
	}
	id, ok := findText(list, "kid")
	if !ok || id == "" || len(id) > maxForeignKeyID {
		return "", nil, errors.New("a key has no kid, or one that is too long")
	}
	if ops, ok := find(list, "key_ops"); ok {
		var all []string
		if json.Unmarshal(ops, &all) != nil || !slices.Contains(all, "verify") {
			return "", nil, errors.New("key_ops of a key has no verify")
		}
	}
	return id, k, nil
}

// Has reports whether there is a key of that kid.
func (f *ForeignKeys) Has(kid string) bool {
	if f == nil {
		return false
	}
	_, ok := f.byID[kid]
	return ok
}

// ForeignExpect is what is demanded of a JWT of another issuer. Issuer, Audience
// and Now are required.
type ForeignExpect struct {
	// Issuer must equal iss byte for byte, Audience must be the one aud.
	Issuer, Audience string
	// Algs are accepted. Empty: all that keys may have here.
	Algs []Alg
	// Now is the time to judge by, which may differ by Leeway, at most MaxLeeway.
	Now    time.Time
	Leeway time.Duration
	// MaxAge is how long ago iat may be. Zero: as long as exp says.
	MaxAge time.Duration
}

// Foreign is what an accepted JWT of another issuer says.
type Foreign struct {
	IssuedAt, Expires time.Time
	claims            []member
}

// Text returns a claim that is a string.
func (f Foreign) Text(name string) (string, bool) { return findText(f.claims, name) }

// Date returns a claim that is a NumericDate, as integer.
func (f Foreign) Date(name string) (time.Time, bool) {
	s, ok := findDate(f.claims, name)
	return time.Unix(s, 0).UTC(), ok
}

// Raw returns a claim as the JSON that was signed.
func (f Foreign) Raw(name string) (json.RawMessage, bool) {
	v, ok := find(f.claims, name)
	return v, ok
}

// String hides the claims.
func (f Foreign) String() string { return "[token]" }

// Format hides the claims from every verb.
func (f Foreign) Format(s fmt.State, _ rune) { _, _ = io.WriteString(s, f.String()) }

// LogValue hides the claims.
func (f Foreign) LogValue() slog.Value { return slog.StringValue(f.String()) }

// Verify checks a JWT of another issuer by rules J1 to J10 of DESIGN.md. The
// error is always a [Reason]; it is ErrUnknownKey only if no key has the kid.
func (f *ForeignKeys) Verify(token string, e ForeignExpect) (Foreign, error) {
	head, _, _, err := split(token)
	if err != nil {
		return Foreign{}, err
	}
	alg, kid, err := readForeignHeader(head)
	if err != nil {
		return Foreign{}, err
	}
	if len(e.Algs) > 0 && !slices.Contains(e.Algs, Alg(alg)) {
		return Foreign{}, refuse(ErrBadSignature, "alg is not accepted of this issuer")
	}
	if !f.Has(kid) {
		return Foreign{}, refuse(ErrUnknownKey, "no such key")
	}
	claims, err := f.byID[kid].open(token, alg)
	if err != nil {
		return Foreign{}, err
	}
	list, err := members(claims)
	if err != nil {
		return Foreign{}, refuse(ErrMalformed, err.Error())
	}
	return e.judge(list)
}

// PeekForeign returns kid, iss and aud of a JWT without checking its signature,
// so that the caller can pick keys; it proves nothing. It is as strict about their
// form as Verify.
func PeekForeign(token string) (kid, issuer, aud string, err error) {
	head, claims, _, err := split(token)
	if err != nil {
		return "", "", "", err
	}
	if _, kid, err = readForeignHeader(head); err != nil {
		return "", "", "", err
	}
	list, err := decodeObject(claims)
	if err != nil {
		return "", "", "", err
	}
	if issuer, _ = findText(list, "iss"); issuer == "" {
		return "", "", "", refuse(ErrBadClaims, "iss is missing or not a string")
	}
	aud, err = audience(list)
	return kid, issuer, aud, err
}

// foreignTypes are the typ that tokens about a user have; without typ is one of
// them (RFC 7519 section 5.1). Logout tokens, security events and the like have
// others, and say nothing of somebody being logged in.
var foreignTypes = []string{"", "jwt", "at+jwt", "application/at+jwt"}

// readForeignHeader reads the header of a JWT that somebody else minted. Members
// that bring a key along or change the meaning of the rest are refused. Of the
// others, such as x5t, RFC 7515 section 4 says to ignore what is not understood.
func readForeignHeader(segment string) (alg, kid string, err error) {
	list, err := decodeObject(segment)
	if err != nil {
		return "", "", err
	}
	typ := ""
	for _, m := range list {
		s, isText := m.text()
		switch m.name {
		case "crit", "b64", "zip", "enc", "cty", "jku", "jwk", "x5u", "x5c":
			return "", "", refuse(ErrMalformed, "a header member that is never accepted")
		case "alg":
			alg = s
		case "kid":
			kid = s
		case "typ":
			if typ = strings.ToLower(s); !isText || typ == "" {
				return "", "", refuse(ErrWrongType, "typ is not a media type")
			}
		}
	}
	switch {
	case alg == "":
		return "", "", refuse(ErrMalformed, "no alg")
	case !slices.Contains([]Alg{ES256, RS256, EdDSA}, Alg(alg)):
		return "", "", refuse(ErrBadSignature, "alg is none of ES256, RS256 and EdDSA")
	case kid == "" || len(kid) > maxForeignKeyID:
		return "", "", refuse(ErrMalformed, "no kid, or one that is too long")
	case !slices.Contains(foreignTypes, typ):
		return "", "", refuse(ErrWrongType, "typ is that of another kind of token")
	}
	return alg, kid, nil
}

// judge holds the claims against what is expected.
func (e ForeignExpect) judge(list []member) (Foreign, error) {
	issuer, _ := findText(list, "iss")
	if issuer == "" || issuer != e.Issuer {
		return Foreign{}, refuse(ErrWrongIssuer, "iss is another")
	}
	if aud, err := audience(list); err != nil {
		return Foreign{}, err
	} else if aud != e.Audience {
		return Foreign{}, refuse(ErrWrongAudience, "aud is another")
	}
	if _, ok := find(list, "events"); ok {
		// RFC 8417, and logout tokens of OpenID Connect.
		return Foreign{}, refuse(ErrWrongType, "has events")
	}
	exp, okExp := findDate(list, "exp")
	iat, okIat := findDate(list, "iat")
	nbf := iat
	if _, ok := find(list, "nbf"); ok {
		if nbf, ok = findDate(list, "nbf"); !ok {
			return Foreign{}, refuse(ErrBadClaims, "nbf is not an integer of seconds")
		}
	}
	if !okExp || !okIat {
		return Foreign{}, refuse(ErrBadClaims, "exp or iat is missing or not an integer of seconds")
	}
	if exp <= iat || exp-iat > int64(maxForeignLife/time.Second) {
		return Foreign{}, refuse(ErrBadClaims, "exp is not within the allowed life")
	}
	leeway := min(max(e.Leeway, 0), MaxLeeway)
	f := Foreign{IssuedAt: time.Unix(iat, 0).UTC(), Expires: time.Unix(exp, 0).UTC(), claims: list}
	switch {
	case e.Now.Add(leeway).Before(time.Unix(max(iat, nbf), 0)):
		return Foreign{}, refuse(ErrNotYetValid, "iat or nbf lies ahead")
	case !e.Now.Before(f.Expires.Add(leeway)):
		return Foreign{}, refuse(ErrExpired, "exp has passed")
	case e.MaxAge > 0 && e.Now.Sub(f.IssuedAt) > e.MaxAge+leeway:
		return Foreign{}, refuse(ErrExpired, "was issued too long ago")
	}
	return f, nil
}
