package compat

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// job is one JWT for verify.mjs to judge.
type job struct {
	Name     string `json:"name"`
	JWKS     string `json:"jwks"`
	JWT      string `json:"jwt"`
	Issuer   string `json:"issuer"`
	Audience string `json:"audience"`
	Type     string `json:"typ"`
	Alg      string `json:"alg"`
	Now      int64  `json:"now"` // Unix seconds

	good bool   // whether jose must accept it
	code string // jose's error code when it must not
	s    signed
}

// judgement is what verify.mjs says of a job.
type judgement struct {
	Name    string         `json:"name"`
	OK      bool           `json:"ok"`
	Code    string         `json:"code"`
	Message string         `json:"message"`
	Payload map[string]any `json:"payload"`
	Header  map[string]any `json:"header"`
}

func TestJose(t *testing.T) {
	installJose(t)
	n := shared(t)
	var jobs []job
	for _, profile := range []string{"native", "stytch"} {
		other := signedBy(t, n, "jose-other-"+profile, profile, "ES256")
		for _, alg := range algs {
			s := signedBy(t, n, "jose-"+profile+"-"+strings.ToLower(alg), profile, alg)
			jobs = append(jobs, joseJobs(t, n, s, other)...)
		}
	}
	tab := newTable(t, "alg", "profile", "case", "result")
	for i, j := range runJose(t, jobs) {
		want := jobs[i]
		if want.good {
			trouble := unless(j.OK, "want it accepted: %s %s", j.Code, j.Message)
			if j.OK {
				trouble = want.s.wrongClaims(j)
			}
			tab.row(trouble, want.s.alg, want.s.profile, j.Name, "accepted")
			continue
		}
		tab.row(unless(!j.OK && (want.code == "" || j.Code == want.code), "want it refused with %s, got ok %v, %s", want.code, j.OK, j.Code),
			want.s.alg, want.s.profile, j.Name, "refused: "+j.Code)
	}
}

// joseJobs are what jose must accept, and refuse, of s.
func joseJobs(t *testing.T, n *node, s, other signed) []job {
	iat, exp := seconds(t, s.jwt, "iat"), seconds(t, s.jwt, "exp")
	good := job{
		Name: "as minted", JWKS: s.jwks, JWT: s.jwt, Issuer: s.issuer, Audience: s.app, Type: s.typ, Alg: s.alg,
		Now: iat.Unix(), good: true, s: s,
	}
	jobs := []job{good}
	add := func(name string, accepted bool, code string, change func(*job)) {
		j := good
		j.Name, j.good, j.code = name, accepted, code
		change(&j)
		jobs = append(jobs, j)
	}
	add("from the app's key set", true, "", func(j *job) { j.JWKS = n.base + "/v1/apps/" + s.app + "/jwks" })
	add("from where Stytch's clients look", true, "", func(j *job) { j.JWKS = n.base + "/v1/sessions/jwks/" + s.app })
	// nbf is before iat for verifiers that forgive nothing: jose is one.
	add("by a clock 10 s slow", true, "", func(j *job) { j.Now = iat.Add(-nbfSlack).Unix() })
	add("by a clock 11 s slow", false, "ERR_JWT_CLAIM_VALIDATION_FAILED", func(j *job) { j.Now = iat.Add(-nbfSlack - time.Second).Unix() })
	add("one second before exp", true, "", func(j *job) { j.Now = exp.Add(-time.Second).Unix() })
	add("at exp", false, "ERR_JWT_EXPIRED", func(j *job) { j.Now = exp.Unix() })
	add("wrong audience", false, "ERR_JWT_CLAIM_VALIDATION_FAILED", func(j *job) { j.Audience = "somebody-else" })
	add("wrong issuer", false, "ERR_JWT_CLAIM_VALIDATION_FAILED", func(j *job) { j.Issuer += "/" })
	add("the other profile's typ", false, "ERR_JWT_CLAIM_VALIDATION_FAILED", func(j *job) {
		j.Type = map[string]string{"at+jwt": "JWT", "JWT": "at+jwt"}[s.typ]
	})
	add("the keys of another app", false, "ERR_JWKS_NO_MATCHING_KEY", func(j *job) { j.JWKS = other.jwks })
	for _, f := range forgeries(t, s.jwt, other.jwt) {
		add(f.name, false, "", func(j *job) { j.JWT = f.jwt })
	}
	return jobs
}

// wrongClaims says what is wrong with what jose read, "" if nothing is.
func (s signed) wrongClaims(j judgement) string {
	p := j.Payload
	var bad []string
	check := func(name string, got, want any) {
		if fmt.Sprint(got) != fmt.Sprint(want) {
			bad = append(bad, fmt.Sprintf("%s is %v, want %v", name, got, want))
		}
	}
	check("alg", j.Header["alg"], s.alg)
	check("typ", j.Header["typ"], s.typ)
	check("sub", p["sub"], s.user)
	check("aud", strings.Trim(fmt.Sprint(p["aud"]), "[]"), s.app)
	if s.profile == "native" {
		check("sid", p["sid"], s.sid)
		check("client_id", p["client_id"], s.app)
		for _, name := range []string{"jti", "auth_time", "sxp"} {
			if p[name] == nil {
				bad = append(bad, "no "+name)
			}
		}
		return strings.Join(bad, "; ")
	}
	claim, _ := p["https://stytch.com/session"].(map[string]any)
	check("session id", claim["id"], s.sid)
	for _, name := range []string{"started_at", "last_accessed_at", "expires_at"} {
		text, _ := claim[name].(string)
		if _, err := time.Parse(time.RFC3339, text); err != nil || !strings.HasSuffix(text, "Z") {
			bad = append(bad, fmt.Sprintf("%s is %q, want RFC 3339 in UTC", name, text))
		}
	}
	for _, name := range []string{"attributes", "authentication_factors", "roles"} {
		if _, ok := claim[name]; !ok {
			bad = append(bad, "no "+name)
		}
	}
	// Stytch's clients show every other member as a custom claim.
	for name := range p {
		if !strings.Contains(" iss sub aud iat nbf exp https://stytch.com/session ", " "+name+" ") {
			bad = append(bad, "has "+name)
		}
	}
	return strings.Join(bad, "; ")
}

// installJose installs what package.json pins, unless it is there. Without
// Node.js the test is skipped, loudly.
func installJose(t *testing.T) {
	t.Helper()
	for _, tool := range []string{"node", "npm"} {
		if _, err := exec.LookPath(tool); err != nil {
			fmt.Fprintf(os.Stderr, "SKIPPED: %s: %s is not installed, so no JWT was verified with npm's jose\n", t.Name(), tool)
			t.Skipf("NOT TESTED on this machine: %s is not installed", tool)
		}
	}
	if pinned := version(t, "package.json", true); pinned == version(t, "node_modules/jose/package.json", false) {
		return
	}
	if out, err := exec.Command("npm", "ci").CombinedOutput(); err != nil {
		t.Fatalf("npm ci: %v\n%s", err, out)
	}
}

// version returns jose's version from a package.json: the pinned one, or that
// of the package itself; "" when there is no such file.
func version(t *testing.T, file string, pinned bool) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil && !pinned && os.IsNotExist(err) {
		return ""
	}
	var p struct {
		Version      string            `json:"version"`
		Dependencies map[string]string `json:"dependencies"`
	}
	if err == nil {
		err = json.Unmarshal(text, &p)
	}
	if err != nil {
		t.Fatalf("read %s: %v", file, err)
	}
	if pinned {
		return p.Dependencies["jose"]
	}
	return p.Version
}

func runJose(t *testing.T, jobs []job) []judgement {
	t.Helper()
	in, err := json.Marshal(jobs)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "node", "verify.mjs")
	cmd.Stdin = bytes.NewReader(in)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("node verify.mjs: %v\n%s", err, &stderr)
	}
	var all []judgement
	if err := json.Unmarshal(out, &all); err != nil || len(all) != len(jobs) {
		t.Fatalf("verify.mjs answered %d of %d jobs (%v)", len(all), len(jobs), err)
	}
	return all
}
