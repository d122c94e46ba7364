package compat

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// storeApp makes an app of its own and returns an API key that may do what a
// session store does.
func storeApp(t *testing.T, n *node, id string) client {
	t.Helper()
	if r := n.admin().do(t, "POST", "/v1/apps", map[string]any{"app_id": id}); r.status != 201 {
		t.Fatalf("make app %s: %s", id, r.raw)
	}
	r := n.admin().do(t, "POST", "/v1/apps/"+id+"/api-keys", map[string]any{"scopes": []string{"create", "read", "revoke"}})
	if r.status != 201 || r.APIKey == "" {
		t.Fatalf("make an API key of app %s: %s", id, r.raw)
	}
	return client{n.base, r.APIKey}
}

// TestExpressSession drives the real express-session with our store.
func TestExpressSession(t *testing.T) {
	needPackage(t, "express-session")
	app := storeApp(t, shared(t), "express")
	cmd := exec.CommandContext(t.Context(), "node", "--test", "--test-reporter=tap", "express_session.test.mjs")
	cmd.Env = append(environ(), "REVOCAST_TEST_URL="+app.base, "REVOCAST_TEST_KEY="+app.key)
	out, err := cmd.CombinedOutput()
	passed := strings.Count(string(out), "\n    ok ") + strings.Count(string(out), "\n        ok ")
	if err != nil || passed < 40 {
		t.Fatalf("%v; %d passed\n%s", err, passed, out)
	}
	t.Logf("express-session: %d tests passed", passed)
}

// needPackage installs what package.json pins unless the npm package is there.
// Without Node.js the test is skipped, loudly.
func needPackage(t *testing.T, name string) {
	t.Helper()
	for _, tool := range []string{"node", "npm"} {
		if _, err := exec.LookPath(tool); err != nil {
			fmt.Fprintf(os.Stderr, "SKIPPED: %s: NOT TESTED: %s is not installed\n", t.Name(), tool)
			t.Skipf("NOT TESTED on this machine: %s is not installed", tool)
		}
	}
	var pinned struct{ Dependencies map[string]string }
	var installed struct{ Version string }
	for file, v := range map[string]any{"package.json": &pinned, filepath.Join("node_modules", name, "package.json"): &installed} {
		if text, err := os.ReadFile(file); err == nil {
			_ = json.Unmarshal(text, v) // a broken one is installed again
		}
	}
	if pinned.Dependencies[name] == "" {
		t.Fatalf("package.json does not pin %s", name)
	}
	if installed.Version == pinned.Dependencies[name] {
		return
	}
	if out, err := exec.Command("npm", "ci").CombinedOutput(); err != nil {
		t.Fatalf("npm ci: %v\n%s", err, out)
	}
}
