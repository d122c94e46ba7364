package compat

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

// counter is a proxy before a node that counts what is asked for.
type counter struct {
	mu    sync.Mutex // guards asked
	asked map[string]int
	next  http.Handler
}

func (c *counter) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if r.URL.Path == "/-/count" {
		_ = json.NewEncoder(w).Encode(c.asked) // the script fails if it gets nothing
		return
	}
	c.asked[r.Method+" "+r.URL.Path]++
	c.next.ServeHTTP(w, r)
}

// countedNode starts a node whose public address is a proxy that counts.
func countedNode(t *testing.T) (n *node, public string) {
	t.Helper()
	c := &counter{asked: map[string]int{}}
	proxy := httptest.NewServer(c)
	t.Cleanup(proxy.Close)
	n = newNode(t, "--public-url", proxy.URL)
	c.next = httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: n.addr})
	return n, proxy.URL
}

// TestStytch runs every session call of the npm package "stytch", which knows
// nothing of Revocast but its address.
func TestStytch(t *testing.T) {
	installNPM(t, "stytch")
	for _, alg := range []string{"ES256", "RS256"} {
		t.Run(alg, func(t *testing.T) {
			t.Parallel() // each waits for a JWT to expire
			n, public := countedNode(t)
			app := func(id string, ttl int) string {
				return n.newApp(t, id, object{"jwt_profile": "stytch", "jwt_alg": alg, "jwt_ttl_seconds": ttl}).key
			}
			in, err := json.Marshal(object{
				"env": public + "/", "direct": n.base, "alg": alg, "short": testing.Short(),
				"project": "project-test-1", "secret": app("project-test-1", 300), "ttl": 300,
				"other": "other", "otherSecret": app("other", 300),
				"quick": "quick", "quickSecret": app("quick", 30), "quickTTL": 30,
			})
			if err != nil {
				t.Fatal(err)
			}
			cmd := exec.CommandContext(t.Context(), "node", "stytch.mjs")
			cmd.Stdin = bytes.NewReader(in)
			var stderr bytes.Buffer
			cmd.Stderr = &stderr
			out, err := cmd.Output()
			if err != nil {
				t.Fatalf("node stytch.mjs: %v\n%s", err, &stderr)
			}
			var results []struct {
				Row, Name, Detail string
				OK                bool
			}
			if err := json.Unmarshal(out, &results); err != nil {
				t.Fatalf("read what stytch.mjs found: %v\n%s", err, out)
			}
			tab := newTable(t, "row", "check")
			rows := map[string]bool{}
			for _, r := range results {
				rows[r.Row] = true
				tab.row(unless(r.OK, "%s", r.Detail), r.Row, r.Name)
			}
			for i := 1; i <= 17; i++ {
				row := fmt.Sprint("Y", i)
				// Y16, an audience of a template, needs no client of Stytch.
				if waits := row == "Y14" || row == "Y17"; row != "Y16" && !rows[row] && !(waits && testing.Short()) {
					t.Errorf("nothing was checked for %s", row)
				}
			}
		})
	}
}

// installNPM installs what package-lock.json pins, unless the package is there in
// that version. Without Node.js the test is skipped, loudly.
func installNPM(t *testing.T, name string) {
	t.Helper()
	for _, tool := range []string{"node", "npm"} {
		if _, err := exec.LookPath(tool); err != nil {
			fmt.Fprintf(os.Stderr, "NOT TESTED: %s: %s is not installed, so nothing was tried with npm's %s\n", t.Name(), tool, name)
			t.Skipf("NOT TESTED on this machine: %s is not installed", tool)
		}
	}
	if want := pinned(t, name); want == "" {
		t.Fatalf("package.json pins no %s", name)
	} else if want == present(name) {
		return
	}
	if out, err := exec.Command("npm", "ci").CombinedOutput(); err != nil {
		t.Fatalf("npm ci: %v\n%s", err, out)
	}
}

func pinned(t *testing.T, name string) string {
	t.Helper()
	var p struct {
		Dependencies map[string]string `json:"dependencies"`
	}
	text, err := os.ReadFile("package.json")
	if err == nil {
		err = json.Unmarshal(text, &p)
	}
	if err != nil {
		t.Fatalf("read package.json: %v", err)
	}
	return p.Dependencies[name]
}

// present returns the version that is installed, "" if none is.
func present(name string) string {
	var p struct {
		Version string `json:"version"`
	}
	text, err := os.ReadFile(filepath.Join("node_modules", name, "package.json"))
	if err != nil || json.Unmarshal(text, &p) != nil {
		return ""
	}
	return p.Version
}
