package signer

import (
	"crypto/sha256"
	"errors"
	"net/url"
	"slices"
	"strings"
	"time"
)

// Limits of a proof of possession.
const (
	// ProofWindow is how far the time of a proof may be from this clock: a proof is
	// made for one request, by a machine whose clock is its own.
	ProofWindow = 60 * time.Second
	maxProofID  = 128
	maxProof    = 4 << 10
)

// proofType is the typ of a proof (RFC 9449 section 4.2). No JWT of a session has
// it, nor a proof one of theirs.
const proofType = "dpop+jwt"

// proofAlgs are the algorithms a proof may be signed with: Ed25519 is what RFC
// 9864 calls EdDSA with that curve. There is no symmetric one, and no RSA-PSS.
var proofAlgs = map[string]Alg{string(ES256): ES256, string(EdDSA): EdDSA, "Ed25519": EdDSA, string(RS256): RS256}

// ProofAlgs returns the names of the algorithms a proof may be signed with.
func ProofAlgs() []string { return []string{string(ES256), string(EdDSA), "Ed25519", string(RS256)} }

// Proof is a DPoP proof whose signature is that of the key it brings along. It
// says nothing of a session until its Thumbprint is that of the key to which the
// session is bound, and Check has no objection.
type Proof struct {
	// Thumbprint is that of the key (RFC 7638), computed, never copied.
	Thumbprint string
	// ID is jti; Nonce is empty if there is none.
	ID, Nonce string

	method, url string // htm, htu
	tokenHash   string // ath; empty if there is none
	issuedAt    int64  // unix seconds
}

// ErrProof means that a proof is no proof, or one of something else. Like a
// [Reason] it shows nothing of what was sent.
type ErrProof string

// Error implements error.
func (e ErrProof) Error() string { return "no proof of possession: " + string(e) }

// ParseProof checks the form and the signature of a DPoP proof (RFC 9449 section
// 4.3, items 2 to 7). Its header has exactly typ, alg and jwk. The error is an
// [ErrProof].
func ParseProof(proof string) (*Proof, error) {
	if len(proof) > maxProof {
		return nil, ErrProof("it is too long")
	}
	head, claims, signature, err := split(proof)
	if err != nil {
		return nil, ErrProof("it is no JWT")
	}
	key, alg, err := proofKey(head)
	if err != nil {
		return nil, err
	}
	sig, err := b64.DecodeString(signature)
	if err != nil {
		return nil, ErrProof("the signature is not base64url")
	}
	if method(alg).Verify(head+"."+claims, sig, key.Public) != nil {
		return nil, ErrProof("the signature does not verify")
	}
	list, err := decodeObject(claims)
	if err != nil {
		return nil, ErrProof("its claims are not JSON, or ambiguous")
	}
	return readProof(list, key)
}

// proofKey reads the header: which key signed, and how.
func proofKey(segment string) (*Key, Alg, error) {
	list, err := decodeObject(segment)
	if err != nil {
		return nil, "", ErrProof("its header is not JSON, or ambiguous")
	}
	for _, m := range list {
		if !slices.Contains([]string{"typ", "alg", "jwk"}, m.name) {
			return nil, "", ErrProof("a header member other than typ, alg and jwk")
		}
	}
	if typ, _ := findText(list, "typ"); typ != proofType {
		return nil, "", ErrProof("typ is not " + proofType)
	}
	name, _ := findText(list, "alg")
	alg, ok := proofAlgs[name]
	if !ok {
		return nil, "", ErrProof("alg is none of " + strings.Join(ProofAlgs(), ", "))
	}
	raw, _ := find(list, "jwk")
	key, err := parseJWK(raw)
	switch {
	case err != nil:
		return nil, "", ErrProof("jwk is no public key that may sign a proof: " + jwkFault(err))
	case key.Alg != alg:
		return nil, "", ErrProof("alg is not that of the key")
	}
	return key, alg, nil
}

// errPrivate is what parseJWK says of a key with a private half.
var errPrivate = errors.New("has a private member")

// jwkFault says in our own words what is wrong: the library's may quote a stranger.
func jwkFault(err error) string {
	if errors.Is(err, errPrivate) {
		return errPrivate.Error()
	}
	return "EC P-256, OKP Ed25519 or RSA of 2048 to 4096 bits is wanted"
}

func readProof(list []member, key *Key) (*Proof, error) {
	p := &Proof{Thumbprint: key.ID}
	var ok [4]bool
	p.method, ok[0] = findText(list, "htm")
	p.url, ok[1] = findText(list, "htu")
	p.ID, ok[2] = findText(list, "jti")
	p.issuedAt, ok[3] = findDate(list, "iat")
	if ok != [4]bool{true, true, true, true} {
		return nil, ErrProof("htm, htu, jti or iat is missing or of the wrong type")
	}
	if p.ID == "" || len(p.ID) > maxProofID {
		return nil, ErrProof("jti is empty or over 128 bytes")
	}
	for name, to := range map[string]*string{"ath": &p.tokenHash, "nonce": &p.Nonce} {
		raw, there := find(list, name)
		if !there {
			continue
		}
		if *to, there = (member{value: raw}).text(); !there {
			return nil, ErrProof(name + " is not a string")
		}
	}
	return p, nil
}

// Check holds the proof against the request it came with: its method, its URL,
// and the token or JWT that was shown (RFC 9449 section 4.3, items 8, 9, 11 and
// 12); an empty token if none was. The error is an [ErrProof].
func (p *Proof) Check(requestMethod, requestURL, token string, now time.Time) error {
	want, ok := proofURL(requestURL)
	if !ok {
		return ErrProof("the request has no URL that a proof can be about")
	}
	got, ok := proofURL(p.url)
	switch {
	case !ok:
		return ErrProof("htu is no http(s) URL without query and fragment")
	case got != want:
		return ErrProof("htu is not the URL of the request, " + want)
	case p.method != requestMethod:
		return ErrProof("htm is not the method of the request")
	case now.Sub(time.Unix(p.issuedAt, 0)).Abs() > ProofWindow:
		return ErrProof("iat is more than 60 s from this node's clock")
	}
	if token == "" {
		return nil
	}
	if sum := sha256.Sum256([]byte(token)); p.tokenHash != b64.EncodeToString(sum[:]) {
		return ErrProof("ath is not the hash of what was shown")
	}
	return nil
}

// proofURL returns a URL in the one form in which two are compared (RFC 3986
// section 6.2.2 and 6.2.3): scheme and host in lower case, no default port, "/"
// for no path, escapes only where one is needed.
func proofURL(text string) (string, bool) {
	u, err := url.Parse(text)
	if err != nil || u.Opaque != "" || u.User != nil || u.Host == "" || u.RawQuery != "" || u.ForceQuery || strings.Contains(text, "#") {
		return "", false
	}
	scheme, host := strings.ToLower(u.Scheme), strings.ToLower(u.Host)
	switch scheme {
	case "http":
		host = strings.TrimSuffix(host, ":80")
	case "https":
		host = strings.TrimSuffix(host, ":443")
	default:
		return "", false
	}
	path := u.EscapedPath()
	if path == "" {
		path = "/"
	}
	return scheme + "://" + strings.TrimSuffix(host, ":") + plainEscapes(path), true
}

// plainEscapes writes the escapes of a path in capitals, and what needs none
// without.
func plainEscapes(path string) string {
	if strings.IndexByte(path, '%') < 0 {
		return path
	}
	var b strings.Builder
	for i := 0; i < len(path); i++ {
		if path[i] != '%' || i+2 >= len(path) {
			b.WriteByte(path[i])
			continue
		}
		c := unhex(path[i+1])<<4 | unhex(path[i+2])
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', strings.IndexByte("-._~", c) >= 0:
			b.WriteByte(c)
		default:
			b.WriteString(strings.ToUpper(path[i : i+3]))
		}
		i += 2
	}
	return b.String()
}

// unhex returns the value of a digit; url.Parse has checked that it is one.
func unhex(c byte) byte {
	switch {
	case c >= 'a':
		return c - 'a' + 10
	case c >= 'A':
		return c - 'A' + 10
	}
	return c - '0'
}

// ValidThumbprint reports whether the text is the SHA-256 thumbprint of some key
// as RFC 7638 writes it: 32 bytes in base64url.
func ValidThumbprint(text string) bool {
	sum, err := b64.DecodeString(text)
	return err == nil && len(sum) == sha256.Size && len(text) == b64.EncodedLen(sha256.Size)
}
