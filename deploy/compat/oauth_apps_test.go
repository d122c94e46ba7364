package compat

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// oauthApp is what the scripts are told of an app: how its JWTs look, who may
// ask, and credentials that are good and that are not.
type oauthApp struct {
	Base   string `json:"base"`
	Alg    string `json:"alg"`
	Issuer string `json:"issuer"`
	JWKS   string `json:"jwks"`
	App    string `json:"app"`
	Key    string `json:"key"`
	User   string `json:"user"`
	SID    string `json:"sid"`
	Token  string `json:"token"`
	JWT    string `json:"jwt"`
	// Bad are credentials that nobody may take for good ones.
	Bad []oauthBad `json:"bad"`
	// Forged are JWTs that a local verifier refuses.
	Forged []oauthBad `json:"forged"`
	// Other is another app, if the script needs one.
	Other *oauthOther `json:"other,omitempty"`
}

type oauthOther struct {
	App string `json:"app"`
	Key string `json:"key"`
}

type oauthBad struct {
	Name  string `json:"name"`
	Token string `json:"token"`
}

// oauthApps makes an app for each of the algorithms, their names beginning with
// prefix.
func oauthApps(t *testing.T, n *node, prefix string, algs ...string) []oauthApp {
	t.Helper()
	other := n.newApp(t, prefix+"-other", nil).create(t, "eve")
	var all []oauthApp
	for _, alg := range algs {
		id := prefix + "-" + strings.ToLower(alg)
		c := n.newApp(t, id, object{"jwt_alg": alg})
		good, gone := c.create(t, "ada@example.com"), c.create(t, "ada@example.com")
		c.do(t, "DELETE", "/v1/sessions/"+gone.Session.SessionID, nil).want(t, 200)
		a := oauthApp{
			Base: n.base, Alg: alg, Issuer: n.base + "/v1/apps/" + id, JWKS: n.base + "/v1/apps/" + id + "/jwks", App: id, Key: c.key,
			User: "ada@example.com", SID: good.Session.SessionID, Token: good.SessionToken, JWT: good.SessionJWT,
			Bad: []oauthBad{
				{"revoked", gone.SessionToken}, {"a JWT of a revoked session", gone.SessionJWT}, {"another app's", other.SessionToken},
				{"another app's JWT", other.SessionJWT}, {"junk", "junk"}, {"an API key", c.key},
			},
		}
		for _, f := range forgeries(t, good.SessionJWT, other.SessionJWT) {
			a.Forged = append(a.Forged, oauthBad{f.name, f.jwt})
		}
		all = append(all, a)
	}
	return all
}

// finding is what a script says of one case.
type finding struct {
	Alg    string `json:"alg"`
	Case   string `json:"case"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail"`
}

// runOAuthScript gives the apps to a script of Node.js and lets the table show what it
// finds; it must find at least so much.
func runOAuthScript(t *testing.T, script string, apps []oauthApp, least int, packages ...string) {
	t.Helper()
	installPackages(t, append(packages, "express", "jose")...)
	in, err := json.Marshal(apps)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "node", script)
	cmd.Stdin = bytes.NewReader(in)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("node %s: %v\n%s", script, err, &stderr)
	}
	var all []finding
	if err := json.Unmarshal(out, &all); err != nil {
		t.Fatalf("%s: %v\n%s", script, err, out)
	}
	if len(all) < least {
		t.Errorf("%s found %d things, want %d at least", script, len(all), least)
	}
	tab := newTable(t, "client", "alg", "case", "result")
	for _, f := range all {
		tab.row(unless(f.OK, "%s", f.Detail), packages[0], f.Alg, f.Case, f.Detail)
	}
}

// installPackages makes sure that the versions of the packages that package.json
// pins are there. Without Node.js the test is skipped, loudly.
func installPackages(t *testing.T, names ...string) {
	t.Helper()
	for _, tool := range []string{"node", "npm"} {
		if _, err := exec.LookPath(tool); err != nil {
			fmt.Fprintf(os.Stderr, "SKIPPED: %s: %s is not installed, so %s was not run\n", t.Name(), tool, names[0])
			t.Skipf("NOT TESTED on this machine: %s is not installed", tool)
		}
	}
	var pinned, is struct {
		Version      string            `json:"version"`
		Dependencies map[string]string `json:"dependencies"`
	}
	text, err := os.ReadFile("package.json")
	if err == nil {
		err = json.Unmarshal(text, &pinned)
	}
	if err != nil {
		t.Fatal(err)
	}
	missing := false
	for _, name := range names {
		if pinned.Dependencies[name] == "" {
			t.Fatalf("package.json does not pin %s", name)
		}
		text, err := os.ReadFile(filepath.Join("node_modules", name, "package.json"))
		missing = missing || err != nil || json.Unmarshal(text, &is) != nil || is.Version != pinned.Dependencies[name]
	}
	if !missing {
		return
	}
	if out, err := exec.Command("npm", "ci").CombinedOutput(); err != nil {
		t.Fatalf("npm ci: %v\n%s", err, out)
	}
}
