package client_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/revocast/revocast/node/client"
	"github.com/revocast/revocast/signer"
)

// TestLocalProfiles: a JWT of every profile and algorithm is taken, and says whose
// session it is; that it is of one is all that the rest needs.
func TestLocalProfiles(t *testing.T) {
	for _, alg := range []signer.Alg{signer.ES256, signer.RS256, signer.EdDSA} {
		v := newVault(t, alg)
		for _, p := range signer.Profiles() {
			c := v.client()
			jwt := v.jwt(v.keys[0], p, func(c *signer.Claims) { c.Custom = json.RawMessage(`{"plan":"pro"}`) })
			for range 2 { // the second time from memory
				s, err := c.Verify(t.Context(), jwt)
				if err != nil {
					t.Fatalf("%s %s: %v", alg, p, err)
				}
				var claims struct{ Plan string }
				if err := s.Claims(&claims); err != nil || claims.Plan != "pro" {
					t.Errorf("%s %s: claims %+v %v", alg, p, claims, err)
				}
				if s.ID != "Arc7vRFKASUkPSUVNV2IsA" || s.User != "ada" || s.App != "acme" || s.JWT != jwt || !s.Stale || s.Detail != nil {
					t.Errorf("%s %s: %+v", alg, p, *s)
				}
			}
			// The issuer may be configured, in either form.
			for _, is := range []string{issuer, publicURL, publicURL + "/"} {
				if _, err := v.client(func(c *client.Client) { c.Issuer = is }).Verify(t.Context(), jwt); err != nil {
					t.Errorf("%s %s, issuer %s: %v", alg, p, is, err)
				}
			}
		}
	}
}

// raw signs any header and claims.
func raw(t *testing.T, k *signer.Key, header, claims string) string {
	t.Helper()
	enc := base64.RawURLEncoding.EncodeToString
	input := enc([]byte(header)) + "." + enc([]byte(claims))
	return input + "." + enc(sign(t, k, input))
}

// sign signs as ES256 does.
func sign(t *testing.T, k *signer.Key, input string) []byte {
	t.Helper()
	sum := sha256.Sum256([]byte(input))
	der, err := k.Signer.Sign(rand.Reader, sum[:], crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	var sig [64]byte
	r, s := splitDER(t, der)
	copy(sig[32-len(r):32], r)
	copy(sig[64-len(s):], s)
	return sig[:]
}

// splitDER returns both numbers of an ECDSA signature, without leading zeros.
func splitDER(t *testing.T, der []byte) (r, s []byte) {
	t.Helper()
	if len(der) < 8 || der[0] != 0x30 {
		t.Fatalf("not a signature: %x", der)
	}
	n := int(der[3])
	r, rest := der[4:4+n], der[4+n:]
	s = rest[2 : 2+int(rest[1])]
	for len(r) > 0 && r[0] == 0 {
		r = r[1:]
	}
	for len(s) > 0 && s[0] == 0 {
		s = s[1:]
	}
	return r, s
}

// TestLocalRefuses: what no key of the app has signed in this form, for this app and
// this time, is refused; each case differs in one thing from a JWT that is taken.
func TestLocalRefuses(t *testing.T) {
	v := newVault(t, signer.ES256)
	k, stranger := v.keys[0], mustKey(t)
	now := time.Now().Unix()
	header := fmt.Sprintf(`{"alg":"ES256","kid":%q,"typ":"at+jwt"}`, k.ID)
	claims := func(changes ...string) string {
		text := fmt.Sprintf(`{"iss":%q,"sub":"ada","aud":["acme"],"iat":%d,"nbf":%d,"exp":%d,`+
			`"client_id":"acme","jti":"x","sid":"Arc7vRFKASUkPSUVNV2IsA"}`, issuer, now, now-10, now+300)
		for i := 0; i < len(changes); i += 2 {
			if !strings.Contains(text, changes[i]) {
				t.Fatalf("%s has no %s", text, changes[i])
			}
			text = strings.Replace(text, changes[i], changes[i+1], 1)
		}
		return text
	}
	swap := func(from, to string) string { return strings.Replace(header, from, to, 1) }
	good := raw(t, k, header, claims())
	c := v.client()
	if _, err := c.Verify(t.Context(), good); err != nil {
		t.Fatalf("the JWT from which all differ: %v", err)
	}
	public, err := x509.MarshalPKIXPublicKey(k.Public)
	if err != nil {
		t.Fatal(err)
	}
	enc := base64.RawURLEncoding.EncodeToString
	unsigned := func(header, claims string, sig []byte) string {
		return enc([]byte(header)) + "." + enc([]byte(claims)) + "." + enc(sig)
	}
	mac := func(key []byte) string {
		input := enc([]byte(swap("ES256", "HS256"))) + "." + enc([]byte(claims()))
		h := hmac.New(sha256.New, key)
		h.Write([]byte(input))
		return input + "." + enc(h.Sum(nil))
	}
	jwk, _ := json.Marshal(stranger.JWK())
	parts := strings.Split(good, ".")
	flipped := []byte(good)
	flipped[len(parts[0])+5] ^= 1
	num := func(name string, value int64) string { return fmt.Sprintf(`"%s":%d`, name, value) }
	for name, one := range map[string]struct {
		jwt  string
		want error
	}{
		"alg none":               {unsigned(swap("ES256", "none"), claims(), nil), client.ErrInvalid},
		"alg none, signature":    {unsigned(swap("ES256", "none"), claims(), []byte{1}), client.ErrInvalid},
		"alg nOnE":               {unsigned(swap("ES256", "nOnE"), claims(), []byte{1}), client.ErrInvalid},
		"no alg":                 {raw(t, k, swap(`"alg":"ES256",`, ""), claims()), client.ErrInvalid},
		"HS256 by public key":    {mac(public), client.ErrInvalid},
		"HS256 by kid":           {mac([]byte(k.ID)), client.ErrInvalid},
		"RS256 by an EC key":     {raw(t, k, swap("ES256", "RS256"), claims()), client.ErrInvalid},
		"a stranger's key":       {raw(t, stranger, header, claims()), client.ErrInvalid},
		"a stranger's kid":       {raw(t, stranger, swap(k.ID, stranger.ID), claims()), client.ErrInvalid},
		"no kid":                 {raw(t, k, `{"alg":"ES256","typ":"at+jwt"}`, claims()), client.ErrInvalid},
		"jwk in the header":      {raw(t, stranger, swap(`"typ"`, `"jwk":`+string(jwk)+`,"typ"`), claims()), client.ErrInvalid},
		"jku in the header":      {raw(t, stranger, swap(`"typ"`, `"jku":"https://evil.example/jwks","typ"`), claims()), client.ErrInvalid},
		"crit":                   {raw(t, k, swap(`"typ"`, `"crit":["exp"],"typ"`), claims()), client.ErrInvalid},
		"b64":                    {raw(t, k, swap(`"typ"`, `"b64":false,"typ"`), claims()), client.ErrInvalid},
		"alg twice":              {raw(t, k, swap(`"alg"`, `"alg":"none","alg"`), claims()), client.ErrInvalid},
		"exp twice":              {raw(t, k, header, claims(`"exp"`, num("exp", now+1000)+`,"exp"`)), client.ErrInvalid},
		"typ of another kind":    {raw(t, k, swap("at+jwt", "logout+jwt"), claims()), client.ErrInvalid},
		"no typ":                 {raw(t, k, swap(`,"typ":"at+jwt"`, ""), claims()), client.ErrInvalid},
		"another app":            {raw(t, k, header, claims(`"acme"]`, `"shop"]`)), client.ErrInvalid},
		"two audiences":          {raw(t, k, header, claims(`"acme"]`, `"acme","shop"]`)), client.ErrInvalid},
		"no audience":            {raw(t, k, header, claims(`"aud":["acme"],`, ``)), client.ErrInvalid},
		"another issuer":         {raw(t, k, header, claims(issuer, "https://evil.example/v1/apps/acme")), client.ErrInvalid},
		"issuer of vendors":      {raw(t, k, header, claims(issuer, publicURL)), client.ErrInvalid},
		"expired":                {raw(t, k, header, claims(num("exp", now+300), num("exp", now-1), num("iat", now), num("iat", now-300))), client.ErrExpired},
		"of the future":          {raw(t, k, header, claims(num("nbf", now-10), num("nbf", now+20))), client.ErrStale},
		"no exp":                 {raw(t, k, header, claims(`,`+num("exp", now+300), "")), client.ErrInvalid},
		"exp as text":            {raw(t, k, header, claims(num("exp", now+300), fmt.Sprintf(`"exp":"%d"`, now+300))), client.ErrInvalid},
		"exp 1e300":              {raw(t, k, header, claims(num("exp", now+300), `"exp":1e300`)), client.ErrInvalid},
		"a life of a day":        {raw(t, k, header, claims(num("exp", now+300), num("exp", now+86400))), client.ErrInvalid},
		"no sid":                 {raw(t, k, header, claims(`,"sid":"Arc7vRFKASUkPSUVNV2IsA"`, "")), client.ErrInvalid},
		"a sid that is none":     {raw(t, k, header, claims("Arc7vRFKASUkPSUVNV2IsA", "x")), client.ErrInvalid},
		"a sid written twice":    {raw(t, k, header, claims("Arc7vRFKASUkPSUVNV2IsA", "Arc7vRFKASUkPSUVNV2IsB")), client.ErrInvalid},
		"no subject":             {raw(t, k, header, claims(`"sub":"ada",`, "")), client.ErrInvalid},
		"cnf, shown as bearer":   {raw(t, k, header, claims(`"sid"`, `"cnf":{"jkt":"`+stranger.ID+`"},"sid"`)), client.ErrProof},
		"cnf of another kind":    {raw(t, k, header, claims(`"sid"`, `"cnf":{"x5t#S256":"`+stranger.ID+`"},"sid"`)), client.ErrInvalid},
		"a bit of the claims":    {string(flipped), client.ErrInvalid},
		"signature cut":          {good[:len(good)-4], client.ErrInvalid},
		"no signature":           {parts[0] + "." + parts[1] + ".", client.ErrInvalid},
		"line break":             {good[:20] + "\n" + good[20:], client.ErrInvalid},
		"padding":                {parts[0] + "." + parts[1] + "." + parts[2] + "==", client.ErrInvalid},
		"a space":                {good + " ", client.ErrInvalid},
		"four parts":             {good + ".x", client.ErrInvalid},
		"longer than 8 KiB":      {good + strings.Repeat("A", 8192), client.ErrInvalid},
		"nothing":                {"", client.ErrMissing},
		"a dot":                  {".", client.ErrInvalid},
		"an API key in between":  {"sk_a.b.c", client.ErrInvalid},
		"claims that are a list": {raw(t, k, header, `[]`), client.ErrInvalid},
	} {
		for range 2 {
			s, err := c.Verify(t.Context(), one.jwt)
			if s != nil || !errors.Is(err, one.want) {
				t.Errorf("%s: %v, %v, want %v", name, s, err, one.want)
			}
			if err != nil && len(one.jwt) > 40 && strings.Contains(err.Error(), one.jwt[20:40]) {
				t.Errorf("%s: the error quotes what was shown: %v", name, err)
			}
		}
	}
	if n := v.fetches(); n > 4 {
		t.Errorf("the keys were fetched %d times for keys that do not exist", n)
	}
}

func mustKey(t *testing.T) *signer.Key {
	t.Helper()
	k, err := signer.GenerateKey(signer.ES256)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// TestSignatureOfTest: the signatures of raw are those of ES256, so that what is
// refused is refused for what the test says.
func TestSignatureOfTest(t *testing.T) {
	k := mustKey(t)
	sig := sign(t, k, "a.b")
	if err := k.CheckSignature("a.b", sig); err != nil {
		t.Fatal(err)
	}
	if _, ok := k.Public.(*ecdsa.PublicKey); !ok || k.Public.(*ecdsa.PublicKey).Curve != elliptic.P256() {
		t.Fatal("not a key of ES256")
	}
}

// TestBadConfiguration: each call says what is wrong with the fields.
func TestBadConfiguration(t *testing.T) {
	for want, c := range map[string]*client.Client{
		"Base":         {App: "acme"},
		"Base must":    {Base: "ftp://x", App: "acme"},
		"Base must be": {Base: "https://u:p@x", App: "acme"},
		"App":          {Base: "https://x"},
		"App must":     {Base: "https://x", App: "a/b"},
		"Lease":        {Base: "https://x", App: "acme", Lease: -1},
		"OnStale":      {Base: "https://x", App: "acme", OnStale: 7},
		// A number without a unit is nanoseconds.
		"Lease must be":   {Base: "https://x", App: "acme", Lease: 15},
		"KeyAge must be":  {Base: "https://x", App: "acme", KeyAge: 300},
		"Timeout must be": {Base: "https://x", App: "acme", Timeout: 5},
	} {
		if _, err := c.Verify(t.Context(), "x"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: Verify: %v", want, err)
		}
		if err := c.Run(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: Run: %v", want, err)
		}
	}
	none := &client.Client{Base: "https://x", App: "acme"}
	if err := none.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "APIKey") {
		t.Errorf("Run without a key: %v", err)
	}
	if _, err := none.Get(t.Context(), "Arc7vRFKASUkPSUVNV2IsA"); err == nil || !strings.Contains(err.Error(), "APIKey") {
		t.Errorf("Get without a key: %v", err)
	}
}
