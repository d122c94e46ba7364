package compat

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
)

// TestCurlLines pastes the lines that the first start prints into a shell.
func TestCurlLines(t *testing.T) {
	for _, tool := range []string{"bash", "curl"} {
		if _, err := exec.LookPath(tool); err != nil {
			fmt.Fprintf(os.Stderr, "SKIPPED: %s: %s is not installed, so the printed lines were not pasted\n", t.Name(), tool)
			t.Skipf("NOT TESTED on this machine: %s is not installed", tool)
		}
	}
	n := newNode(t)
	var lines []string
	for line := range strings.Lines(n.out.String()) {
		if strings.Contains(line, "curl ") {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	if len(lines) != 3 {
		t.Fatalf("the program printed %d lines with curl, want 3:\n%s", len(lines), n.out)
	}
	out, err := exec.CommandContext(t.Context(), "bash", "-euc", strings.Join(append(lines, lines[1]), "\n")).CombinedOutput()
	if err != nil {
		t.Fatalf("paste: %v\n%s", err, out)
	}
	text := string(out)
	trouble := unless(strings.Count(text, "HTTP/1.1 200") == 1 && strings.Count(text, "HTTP/1.1 401") == 1 && strings.Contains(text, `"revoked":1`),
		"want one 200, revoked 1, then one 401:\n%s", text)
	tab := newTable(t, "lines", "create, verify, revoke, verify")
	tab.row(trouble, "pasted", "200, then 401")
}

// TestOperations looks at what operators use, and at whether the public can.
func TestOperations(t *testing.T) {
	n := newNode(t)
	c := n.app()
	s := c.create(t, "ada@example.com")
	c.verify(t, s.SessionToken)
	c.verify(t, s.SessionToken+"x")
	tab := newTable(t, "what", "status")
	public := client{base: n.base}
	for _, path := range []string{"/metrics", "/debug/pprof/", "/debug/vars"} {
		r := public.do(t, "GET", path, nil)
		tab.row(r.wrong(http.StatusNotFound, "not_found"), "public "+path, r.status)
	}
	for path, typ := range map[string]string{"/healthz": "application/json", "/readyz": "application/json", "/openapi.yaml": "application/yaml", "/docs/errors": "text/html; charset=utf-8"} {
		r := public.do(t, "GET", path, nil)
		tab.row(unless(r.status == http.StatusOK && r.header.Get("Content-Type") == typ && len(r.raw) > 0, "%v", r.header), "public "+path, r.status)
	}
	r := public.do(t, "GET", "/readyz", nil)
	tab.row(unless(strings.Contains(string(r.raw), `"durability":"fsync"`), "%s", r.raw), "durability", "fsync")
	// Every error says where it is explained.
	bad := c.do(t, "POST", "/v1/sessions", `{}`)
	page, anchor, _ := strings.Cut(strings.TrimPrefix(bad.ErrorURL, n.base), "#")
	r = public.do(t, "GET", page, nil)
	tab.row(unless(r.status == http.StatusOK && strings.Contains(string(r.raw), `id="`+anchor+`"`), "%s", bad.ErrorURL), "error_url", r.status)

	address := regexp.MustCompile(`metrics +(http://\S+)`).FindStringSubmatch(n.out.String())
	if address == nil {
		t.Fatalf("the program printed no address of its metrics:\n%s", n.out)
	}
	answer, err := http.Get(address[1])
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	secret := ""
	for _, word := range []string{s.SessionToken, s.SessionJWT, n.boot.APIKey, "ada@example.com", s.Session.SessionID} {
		if strings.Contains(string(text), word) {
			secret += "it holds " + word[:8] + "…; "
		}
	}
	tab.row(secret+unless(answer.StatusCode == http.StatusOK && strings.Contains(string(text), "\nrevocast_"), "no metrics"), "metrics", answer.StatusCode)
}
