package wycheproof

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// attacks are the known attacks on JWTs and where each is tried on the parser:
// the test, and words of the very lines in it. TestAttacks runs those tests.
var attacks = []struct{ attack, test, words string }{
	{"alg none", "TestAlgConfusion", `"none"`},
	{"alg None, NONE, nOnE", "TestAlgConfusion", `"None", "NONE", "nOnE"`},
	{"alg empty", "TestAlgConfusion", `"nOnE", ""`},
	{"alg null", "TestHeaderTricks", `"alg":null`},
	{"no alg", "TestHeaderTricks", `"no alg"`},
	{"alg not a string", "TestHeaderTricks", `"alg":["ES256"]`},
	{"no signature, an empty one", "TestAlgConfusion", `[]string{"", "AA"`},
	{"signature of zeros", "TestAlgConfusion", `make([]byte, 64)`},
	{"HS256 with the public key as secret: PEM", "TestAlgConfusion", `"PEM": text`},
	{"the same: PEM without its last line break", "TestAlgConfusion", `"trimmed PEM"`},
	{"the same: DER", "TestAlgConfusion", `"DER": der`},
	{"the same: JWK, JWKS, kid, nothing", "TestAlgConfusion", `"JWK": jwk, "JWKS": jwks, "kid": []byte(k.ID), "nothing": nil`},
	{"HMAC under the alg of the key", "TestAlgConfusion", `[]string{"HS256", string(a)}`},
	{"RS256 signature under ES256 and every other pair", "TestAlgConfusion", `signed with %s as %s`},
	{"kid of a key of another alg", "TestAlgConfusion", `kid of %s with %s`},
	{"PS256 for RS256, Ed25519 for EdDSA, lower case", "TestAlgConfusion", `"PS256", "ES384", "ES521", "RS384", "Ed25519", strings.ToLower`},
	{"jwk embedded, under our kid and under the thief's", "TestHeaderTricks", `"jwk, thief's kid"`},
	{"jku (nobody connects)", "TestHeaderTricks", `"jku":`},
	{"x5u (nobody connects)", "TestHeaderTricks", `"x5u":`},
	{"x5c, x5t", "TestHeaderTricks", `"x5c":["MIIB"]`},
	{"crit with a known and an unknown name, empty", "TestHeaderTricks", `"crit":[]`},
	{"b64 false and true", "TestHeaderTricks", `"b64":true`},
	{"zip", "TestHeaderTricks", `"zip":"DEF"`},
	{"nested JWT (cty), JWE (enc)", "TestHeaderTricks", `"enc":"A128GCM"`},
	{"kid: path traversal", "TestHeaderTricks", `../../../../dev/null`},
	{"kid: SQL", "TestHeaderTricks", `' OR 1=1 --`},
	{"kid: command", "TestHeaderTricks", `$(id)`},
	{"kid: URL (nobody connects)", "TestHeaderTricks", `"url":`},
	{"kid: zero byte, prefix, other case", "TestHeaderTricks", `"\x00"`},
	{"kid: 5,000 characters, 1 MB", "TestHeaderTricks", `1<<20`},
	{"header members twice: alg, kid, by escapes, in other case", "TestHeaderTricks", `"escaped name"`},
	{"claims twice: exp, by escapes, deeper down, the 60th", "TestClaimRules", `"exp twice, escaped"`},
	{"line breaks in base64", "TestOtherSpellings", `"CR LF in the claims"`},
	{"padding", "TestOtherSpellings", `"padding"`},
	{"base64 of the other alphabet", "TestOtherSpellings", `"standard base64"`},
	{"trailing bits", "TestOtherSpellings", `"unused bits set"`},
	{"a fourth segment, an empty one, two", "TestOtherSpellings", `"an empty fourth"`},
	{"JSON serialization", "TestOtherSpellings", `"the JSON serialization"`},
	{"white space around, a prefix", "TestOtherSpellings", `"space in front"`},
	{"megabytes", "TestOtherSpellings", `10<<20`},
	{"any one character changed, cut anywhere", "TestAnyChange", `range len(token)`},
	{"psychic signature: r = s = 0", "TestBadSignatures", `"r = s = 0"`},
	{"r or s = n, r or s = 0, swapped", "TestBadSignatures", `"s = n"`},
	{"signature longer, shorter, ASN.1", "TestBadSignatures", `bad["ASN.1"]`},
	{"claims changed: user, session, app, custom", "TestTamperedClaims", `"admin@example.com"`},
	{"exp changed", "TestTamperedClaims", `"1795349101"`},
	{"exp as text, float, 1e300, negative, 2^63, milliseconds", "TestClaimRules", `"9223372036854775808"`},
	{"no exp, iat, nbf, iss, aud, sub, sid, jti", "TestClaimRules", `"iss", "sub", "aud", "iat", "nbf", "exp", "sid", "jti"`},
	{"a life of a day", "TestClaimRules", `"life of a day"`},
	{"sub: empty, a number", "TestClaimRules", `"subject as a number"`},
	{"aud: two, another, an object, none", "TestClaimRules", `"two audiences"`},
	{"of another app, of another issuer", "TestExpectations", `"other issuer"`},
	{"claims of ours among custom claims (sub, aud, exp injected)", "TestReservedClaims", `"stolen"`},
	{"typ of another kind of token of the same issuer", "TestOtherKindsOfToken", `"secevent+jwt", "logout+jwt"`},
	{"claims of one profile under the typ of another", "TestOtherKindsOfToken", `native claims with typ JWT`},
	{"a key that is retired, compromised, forgotten", "TestKeyLife", `"compromised"`},
	{"a forged JWT before and after the right one was cached", "TestRefusedIsNotHeld", `forged`},
}

// TestAttacks runs the tests that the table names and prints the table.
func TestAttacks(t *testing.T) {
	body := map[string]string{} // source of each test
	files, err := filepath.Glob("../../signer/*_test.go")
	if err != nil || len(files) == 0 {
		t.Fatal("no tests of the parser: ", err)
	}
	for _, name := range files {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range strings.Split(string(data), "\nfunc ")[1:] {
			body[f[:strings.IndexByte(f+"(", '(')]] = f
		}
	}
	var names []string
	for _, a := range attacks {
		if !strings.Contains(body[a.test], a.words) {
			t.Errorf("%s: %s has no %s", a.attack, a.test, a.words)
		}
		if !slices.Contains(names, a.test) {
			names = append(names, a.test)
		}
	}
	cmd := exec.CommandContext(t.Context(), "go", "test", "-count=1", "-v", "-run", "^("+strings.Join(names, "|")+")$", "./signer")
	cmd.Dir = "../.."
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%v:\n%s", err, out)
	}
	passed := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^--- PASS: (\w+) `).FindAllStringSubmatch(string(out), -1) {
		passed[m[1]] = true
	}
	for _, a := range attacks {
		verdict := "refused"
		if !passed[a.test] {
			verdict = "FAILED"
			t.Errorf("%s: %s did not pass", a.attack, a.test)
		}
		t.Logf("%-60s %s (%s)", a.attack, verdict, a.test)
	}
}
