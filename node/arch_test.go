package node_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"go/parser"
	"go/token"
	"io"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/revocast/revocast"

// ours says which of our packages each may import, directly or not. It is the
// architecture: a package that is not here has no place in it.
var ours = map[string][]string{
	"events/bootclock":       {},
	"events":                 {"events/bootclock"},
	"events/broker":          {"events", "events/bootclock"},
	"events/subscribe":       {"events", "events/bootclock"},
	"events/eventstest":      {"events", "events/bootclock"},
	"projection":             {"events", "events/bootclock"},
	"signer":                 {},
	"node/api":               {},
	"node/outbound":          {},
	"node/client":            {"node/api", "signer", "events/bootclock"},
	"node/client/scsstore":   {"node/api"},
	"node/compat":            {"node/api"},
	"node/compat/streambird": {"node/compat", "node/api"},
	"node/compat/clerk":      {"node/compat", "node/api"},
	"node":                   belowNode,
	"node/nodetest":          overNode(),
	"deploy/fleet":           overNode("events/eventstest", "node/nodetest"),
	"cmd/revocast/bench":     overNode(),
	"cmd/revocast":           overNode("events/broker", "cmd/revocast/bench"),
}

// belowNode is what a node is made of.
var belowNode = []string{
	"events/bootclock", "events", "projection", "signer", "node/api", "node/outbound", "node/compat", "node/compat/streambird", "node/compat/clerk",
}

// overNode is what a package that uses nodes may import.
func overNode(more ...string) []string { return slices.Concat(belowNode, []string{"node"}, more) }

// theirs says where each module of others may be imported.
var theirs = map[string]func(pkg, file string) bool{
	"github.com/nats-io/nats-server/": in("events/broker"),
	"github.com/nats-io/":             in("events", "events/broker", "events/subscribe"),
	"github.com/golang-jwt/":          in("signer", "node/client"),
	"github.com/prometheus/":          func(_, file string) bool { return file == "metrics.go" },
	"github.com/valyala/fasthttp":     func(pkg, file string) bool { return pkg == "node" && file == "lean.go" },
	"github.com/alecthomas/kong":      in("cmd/revocast"),
	"github.com/anishathalye/":        in("node/nodetest"), // no part of the program
}

func in(pkgs ...string) func(pkg, file string) bool {
	return func(pkg, _ string) bool { return slices.Contains(pkgs, pkg) }
}

// goPackage is what go list says of a package.
type goPackage struct {
	ImportPath, Dir string
	GoFiles         []string
	Deps            []string
}

// TestArchitecture holds the table of imports.
func TestArchitecture(t *testing.T) {
	cmd := exec.Command("go", "list", "-deps", "-json=ImportPath,Dir,GoFiles,Deps", "./...")
	cmd.Dir = ".."
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.Bytes())
	}
	seen := 0
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p goPackage
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("read go list: %v", err)
		}
		if pkg, ok := strings.CutPrefix(p.ImportPath, module+"/"); ok {
			seen++
			checkOurs(t, pkg, &p)
			checkTheirs(t, pkg, &p)
		}
	}
	if seen < 5 {
		t.Errorf("go list knows only %d of our packages", seen)
	}
}

func checkOurs(t *testing.T, pkg string, p *goPackage) {
	allowed, ok := ours[pkg]
	if !ok {
		t.Errorf("package %s has no line in the table of imports", pkg)
		return
	}
	for _, dep := range p.Deps {
		if dep, ok := strings.CutPrefix(dep, module+"/"); ok && !slices.Contains(allowed, dep) {
			t.Errorf("%s depends on %s; allowed: %v", pkg, dep, allowed)
		}
	}
}

func checkTheirs(t *testing.T, pkg string, p *goPackage) {
	for _, file := range p.GoFiles {
		parsed, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, file), nil, parser.ImportsOnly)
		if err != nil {
			t.Fatalf("parse %s/%s: %v", pkg, file, err)
		}
		for _, imp := range parsed.Imports {
			path, _ := strconv.Unquote(imp.Path.Value)
			if rule := longest(path); rule != "" && !theirs[rule](pkg, file) {
				t.Errorf("%s/%s may not import %s", pkg, file, path)
			}
		}
	}
}

// longest returns the longest rule that covers the path.
func longest(path string) (rule string) {
	for prefix := range theirs {
		if strings.HasPrefix(path, prefix) && len(prefix) > len(rule) {
			rule = prefix
		}
	}
	return rule
}
