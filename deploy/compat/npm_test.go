package compat

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// needPackages installs what package.json pins, unless the packages are there in
// the pinned versions. What cannot be installed is said loudly, and skipped.
func needPackages(t *testing.T, names ...string) {
	t.Helper()
	needPackagesIn(t, ".", names...)
}

// needPackagesIn is needPackages for the package.json in dir.
func needPackagesIn(t *testing.T, dir string, names ...string) {
	t.Helper()
	skip := func(why string) {
		fmt.Fprintf(os.Stderr, "NOT TESTED: %s: %s\n", t.Name(), why)
		t.Skip("NOT TESTED: " + why)
	}
	for _, tool := range []string{"node", "npm"} {
		if _, err := exec.LookPath(tool); err != nil {
			skip(tool + " is not installed")
		}
	}
	if packagesThere(t, dir, names) {
		return
	}
	ci := exec.Command("npm", "ci", "--no-audit", "--no-fund")
	ci.Dir = dir
	if out, err := ci.CombinedOutput(); err != nil {
		skip(fmt.Sprintf("npm ci: %v\n%s", err, out))
	}
	if !packagesThere(t, dir, names) {
		t.Fatalf("npm ci did not install %v as package.json pins them", names)
	}
}

// packagesThere reports whether the packages are installed in dir as pinned.
func packagesThere(t *testing.T, dir string, names []string) bool {
	t.Helper()
	var pinned struct {
		Dependencies map[string]string `json:"dependencies"`
	}
	text, err := os.ReadFile(filepath.Join(dir, "package.json"))
	if err == nil {
		err = json.Unmarshal(text, &pinned)
	}
	if err != nil {
		t.Fatalf("read package.json: %v", err)
	}
	for _, name := range names {
		var installed struct {
			Version string `json:"version"`
		}
		text, err := os.ReadFile(filepath.Join(dir, "node_modules", name, "package.json"))
		if err != nil || json.Unmarshal(text, &installed) != nil || installed.Version != pinned.Dependencies[name] {
			return false
		}
	}
	return true
}

// runScript runs a script of Node.js with in on its standard input, and reads
// what it prints into out.
func runScript(t *testing.T, script string, in, out any) {
	t.Helper()
	text, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "node", script)
	cmd.Stdin = bytes.NewReader(text)
	cmd.Env = append(environ(), "CLERK_TELEMETRY_DISABLED=1")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	printed, err := cmd.Output()
	if err != nil {
		t.Fatalf("node %s: %v\n%s", script, err, &stderr)
	}
	if err := json.Unmarshal(printed, out); err != nil {
		t.Fatalf("node %s printed %s: %v", script, printed, err)
	}
}
