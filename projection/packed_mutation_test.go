package projection_test

import (
	"encoding/json"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

var mutate = flag.Bool("mutate", false, "prove that TestMutations' mutations are noticed (minutes)")

// mutation replaces one place of a file. It must not pass the tests.
type mutation struct{ name, file, is, becomes string }

const secondLook = "if t.s[i].Load() != e || x.table.Load() != t {\n\t\t\tgoto again\n\t\t}"

var mutations = []mutation{
	{"slot not read again", "packed_index.go", secondLook, "if x.table.Load() != t {\n\t\t\tgoto again\n\t\t}"},
	{"table not looked at again", "packed_index.go", secondLook, "if t.s[i].Load() != e {\n\t\t\tgoto again\n\t\t}"},
	{"page not looked at again", "packed_index.go", "if place.Load() != first {", "if false {"},
	{
		"what changed is a miss", "packed_index.go", secondLook,
		"if x.table.Load() != t {\n\t\t\tgoto again\n\t\t}\n\t\tif t.s[i].Load() != e {\n\t\t\treturn block{}, false\n\t\t}",
	},
	{"key not compared", "packed_index.go", "b.key() == k {", "b.key() == k || true {"},
	{
		"another key ends the search", "packed_index.go", "\t\t\treturn b, true\n\t\t}\n",
		"\t\t\treturn b, true\n\t\t}\n\t\treturn block{}, false\n",
	},
	{"deleted is a ref", "packed_index.go", "if e>>refBits != h.tag || e == deleted {", "if e>>refBits != h.tag && e != deleted {"},
	{"deleted ends the search", "packed_index.go", "if e == 0 {\n\t\t\treturn block{}", "if e == 0 || e == deleted {\n\t\t\treturn block{}"},
	{
		"released before the slot changes", "packed.go", "\tvar next ref\n\tif is != nil {",
		"\tvar next ref\n\tif slot != nil {\n\t\tp.arena.release(old, p.arena.block(old).size())\n\t}\n\tif is != nil {",
	},
	{"links not moved", "packed_tidy.go", "p.moveState(r, next, words)", "copy(words, b.words())"},
	{"aliases not moved", "packed_tidy.go", "if b.flags()&isAlias != 0 {", "if b.flags()&isAlias != 0 {\n\t\treturn false\n\t}\n\tif false {"},
	{"a move releases nothing", "packed_tidy.go", "\tp.arena.release(r, n)\n\treturn true", "\treturn true"},
	{"list not mended", "packed_user.go", "p.arena.block(after).setBefore(next)", "_ = after"},
	{"tables not shrunk", "packed_tidy.go", "sh.records.shrink()", "_ = sh"},
	{"a sid may be loaded twice", "packed_load.go", "if p.held(&sh.records, h, k) != nil {", "if false {"},
	{"what is loaded is not counted", "packed_load.go", "a.live += int(f.fill)", ""},
	{"a loader fills on another's page", "packed_load.go", "f.page = a.add(size)", "if f.page = a.open; f.page == 0 {\n\t\tf.page = a.add(size)\n\t\ta.open = f.page\n\t}"},
	{"the last to be loaded has the alias", "snapload.go", "|| s.StateSeq < r.StateSeq", "|| s.StateSeq > 0"},
	{"loaded records are not counted against the footer", "snapload.go", "l.records.Add(n)", "_ = n"},
}

// TestMutations: each mutation of the reader, and of those who change what it
// reads, is noticed by the tests that DESIGN.md names.
func TestMutations(t *testing.T) {
	if !*mutate {
		t.Skip("NOT TESTED without -mutate: takes minutes")
	}
	for _, m := range mutations {
		t.Run(m.name, func(t *testing.T) {
			source, err := filepath.Abs(m.file)
			if err != nil {
				t.Fatal(err)
			}
			text, err := os.ReadFile(source)
			if err != nil {
				t.Fatal(err)
			}
			if strings.Count(string(text), m.is) != 1 {
				t.Fatalf("%s holds %q not once", m.file, m.is)
			}
			mutant := filepath.Join(t.TempDir(), m.file)
			if err := os.WriteFile(mutant, []byte(strings.Replace(string(text), m.is, m.becomes, 1)), 0o600); err != nil {
				t.Fatal(err)
			}
			overlay, err := json.Marshal(map[string]map[string]string{"Replace": {source: mutant}})
			if err != nil {
				t.Fatal(err)
			}
			list := filepath.Join(t.TempDir(), "overlay.json")
			if err := os.WriteFile(list, overlay, 0o600); err != nil {
				t.Fatal(err)
			}
			run := exec.Command("go", "test", "-overlay", list, "-timeout", "60s", "-run", "Windows|ReusedTwice|OneBehind|BesideMoves|GivenBack|PagesAreMaps|SnapshotLoads|SnapshotOfOne", ".")
			out, err := run.CombinedOutput()
			switch {
			case err == nil:
				t.Error("not noticed")
			case strings.Contains(string(out), "[build failed]"):
				t.Errorf("does not compile: %s", out)
			}
		})
	}
}
