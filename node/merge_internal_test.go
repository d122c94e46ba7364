package node

import (
	"encoding/json"
	"testing"
)

// TestMergePatch holds the examples of RFC 7396 appendix A.
func TestMergePatch(t *testing.T) {
	for _, tc := range []struct{ target, patch, want string }{
		{`{"a":"b"}`, `{"a":"c"}`, `{"a":"c"}`},
		{`{"a":"b"}`, `{"b":"c"}`, `{"a":"b","b":"c"}`},
		{`{"a":"b"}`, `{"a":null}`, `{}`},
		{`{"a":"b","b":"c"}`, `{"a":null}`, `{"b":"c"}`},
		{`{"a":["b"]}`, `{"a":"c"}`, `{"a":"c"}`},
		{`{"a":"c"}`, `{"a":["b"]}`, `{"a":["b"]}`},
		{`{"a":{"b":"c"}}`, `{"a":{"b":"d","c":null}}`, `{"a":{"b":"d"}}`},
		{`{"a":[{"b":"c"}]}`, `{"a":[1]}`, `{"a":[1]}`},
		{`["a","b"]`, `["c","d"]`, `["c","d"]`},
		{`{"a":"b"}`, `["c"]`, `["c"]`},
		{`{"a":"foo"}`, `null`, `null`},
		{`{"a":"foo"}`, `"bar"`, `"bar"`},
		{`{"e":null}`, `{"a":1}`, `{"a":1,"e":null}`},
		{`[1,2]`, `{"a":"b","c":null}`, `{"a":"b"}`},
		{`{}`, `{"a":{"bb":{"ccc":null}}}`, `{"a":{"bb":{}}}`},
		{``, `{"a":{"b":null}}`, `{"a":{}}`},
		{`{}`, `{"n":12345678901234567890.10,"h":"<&>"}`, `{"h":"<&>","n":12345678901234567890.10}`},
	} {
		got, err := mergePatch(json.RawMessage(tc.target), json.RawMessage(tc.patch))
		if err != nil || string(got) != tc.want {
			t.Errorf("%s with %s: %s, %v; want %s", tc.target, tc.patch, got, err, tc.want)
		}
	}
}

// FuzzMergePatch holds what follows from RFC 7396 for any patch: applying it
// twice is applying it once, no null is left that the patch brought, and an
// empty patch changes nothing.
func FuzzMergePatch(f *testing.F) {
	f.Add(`{"a":{"b":1}}`, `{"a":{"b":null,"c":[null]}}`)
	f.Add(`[]`, `{"a":{}}`)
	f.Add(`{"a":1e400}`, `{}`)
	f.Fuzz(func(t *testing.T, target, patch string) {
		if !json.Valid([]byte(target)) || !json.Valid([]byte(patch)) || patch[0] != '{' {
			return // no input of a merge patch
		}
		once, err := mergePatch(json.RawMessage(target), json.RawMessage(patch))
		if err != nil {
			t.Fatal(err)
		}
		twice, err := mergePatch(once, json.RawMessage(patch))
		if err != nil || string(twice) != string(once) {
			t.Errorf("once %s, twice %s, %v", once, twice, err)
		}
		if same, err := mergePatch(once, json.RawMessage(`{}`)); err != nil || string(same) != string(once) {
			t.Errorf("an empty patch made %s of %s, %v", same, once, err)
		}
	})
}
