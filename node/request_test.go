package node

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/revocast/revocast/node/api"
)

type body struct {
	api.AppSettings
	Name   string           `json:"name"`
	Count  int64            `json:"count,omitempty"`
	Flag   *bool            `json:"flag"`
	At     *time.Time       `json:"at"`
	Inner  *api.Attributes  `json:"inner"`
	List   []api.Attributes `json:"list"`
	Words  []string         `json:"words"`
	Raw    json.RawMessage  `json:"raw"`
	Whom   string           `json:"whom,omitempty" filled:"true"`
	hidden string           //lint:ignore U1000 must not be reachable by name
}

func TestDecodeStrictRefuses(t *testing.T) {
	deep := strings.Repeat("[", maxNesting) + strings.Repeat("]", maxNesting)
	for name, c := range map[string]struct{ in, message string }{
		"array":               {`[]`, "not a JSON object"},
		"to be filled, empty": {`{"name":"","whom":""}`, "whom: is empty; leave it out"},
		"null":                {`null`, "not a JSON object"},
		"string":              {`"x"`, "not a JSON object"},
		"nothing but space":   {` `, "not one JSON value"},
		"half":                {`{"name":`, "not one JSON value"},
		"trailing object":     {`{} {}`, "after top-level value, at byte 4"},
		"trailing text":       {`{"name":"a"}x`, "after top-level value"},
		"comment":             {`{/* */}`, "not one JSON value"},
		"trailing comma":      {`{"name":"a",}`, "not one JSON value"},
		"single quotes":       {`{'name':'a'}`, "not one JSON value"},
		"NaN":                 {`{"count":NaN}`, "not one JSON value"},
		"unknown":             {`{"nmae":"a"}`, `unknown field "nmae"`},
		"unknown nested":      {`{"inner":{"x":1}}`, `unknown field "inner.x"`},
		"unknown in list":     {`{"list":[{},{"x":1}]}`, `unknown field "list[1].x"`},
		"other case":          {`{"Name":"a"}`, `unknown field "Name"`},
		"Go name":             {`{"JWTProfile":"a"}`, `unknown field "JWTProfile"`},
		"unexported":          {`{"hidden":"a"}`, `unknown field "hidden"`},
		"empty name":          {`{"":1}`, `unknown field ""`},
		"twice":               {`{"name":"a","name":"b"}`, `field "name" appears twice`},
		"twice by escape":     {`{"name":"a","n\u0061me":"b"}`, `field "name" appears twice`},
		"twice nested":        {`{"inner":{"user_agent":"a","user_agent":"a"}}`, `field "inner.user_agent" appears twice`},
		"twice in raw":        {`{"raw":{"a":[{"b":1,"b":1}]}}`, `field "raw.a[0].b" appears twice`},
		"wrong type":          {`{"name":1}`, "name: want a string, got a number"},
		"wrong type nested":   {`{"inner":{"user_agent":true}}`, "inner.user_agent: want a string, got a bool"},
		"string for number":   {`{"count":"1"}`, "count: want an integer, got a string"},
		"fraction":            {`{"count":1.5}`, "count: want an integer, got a number"},
		"too large":           {`{"count":9223372036854775808}`, "count: want an integer, got a number"},
		"string for bool":     {`{"flag":"true"}`, "flag: want true or false, got a string"},
		"object for string":   {`{"name":{}}`, "name: want a string, got an object"},
		"string for list":     {`{"words":"a"}`, "words: want an array, got a string"},
		"no time":             {`{"at":"tomorrow"}`, "at: want a time"},
		"number for time":     {`{"at":1700000000}`, "at: want a time"},
		"object for time":     {`{"at":{}}`, "cannot be read"},
		"broken UTF-8":        {"{\"name\":\"\xff\"}", "not UTF-8"},
		"half a surrogate":    {`{"name":"\ud800"}`, "half of a surrogate pair"},
		"other half":          {`{"name":"\udc00"}`, "half of a surrogate pair"},
		"surrogates reversed": {`{"name":"\udc00\ud800"}`, "half of a surrogate pair"},
		"surrogate and text":  {`{"name":"\ud800x"}`, "half of a surrogate pair"},
		"too deep":            {`{"raw":` + deep + `}`, "nested deeper than 16 levels"},
		"very deep":           {`{"raw":` + strings.Repeat("[", 30_000) + strings.Repeat("]", 30_000) + `}`, "not one JSON value"},
	} {
		t.Run(name, func(t *testing.T) {
			err := decodeStrict([]byte(c.in), new(body))
			f, ok := errors.AsType[*failure](err)
			if !ok || f.kind != api.InvalidArgument {
				t.Fatalf("decodeStrict(%.80q) = %v, want %s", c.in, err, api.InvalidArgument)
			}
			if !strings.Contains(f.message, c.message) {
				t.Errorf("message %q, want it to say %q", f.message, c.message)
			}
		})
	}
}

func TestDecodeStrictTakes(t *testing.T) {
	yes, profile := true, "native"
	at := time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)
	for name, c := range map[string]struct {
		in   string
		want body
	}{
		"nothing":         {`{}`, body{}},
		"space":           {" {\n} ", body{}},
		"null is absent":  {`{"name":null,"flag":null,"at":null,"inner":null,"count":null}`, body{}},
		"embedded":        {`{"jwt_profile":"native"}`, body{AppSettings: api.AppSettings{JWTProfile: &profile}}},
		"all":             {`{"name":"a","count":2,"flag":true,"at":"2026-01-31T12:00:00Z"}`, body{Name: "a", Count: 2, Flag: &yes, At: &at}},
		"surrogate pair":  {`{"name":"\ud83d\ude00"}`, body{Name: "😀"}},
		"escaped slash u": {`{"name":"\\ud800"}`, body{Name: `\ud800`}},
		"raw stays":       {`{"raw":{"Any":[1.50,{"a":{}}]}}`, body{Raw: json.RawMessage(`{"Any":[1.50,{"a":{}}]}`)}},
		"same name apart": {`{"list":[{"user_agent":"a"},{"user_agent":"b"}]}`, body{List: []api.Attributes{{UserAgent: "a"}, {UserAgent: "b"}}}},
	} {
		t.Run(name, func(t *testing.T) {
			var got body
			if err := decodeStrict([]byte(c.in), &got); err != nil {
				t.Fatalf("decodeStrict(%q): %v", c.in, err)
			}
			if diff := cmp.Diff(c.want, got, cmp.AllowUnexported(body{})); diff != "" {
				t.Errorf("decodeStrict(%q): -want +got\n%s", c.in, diff)
			}
		})
	}
}

// FuzzDecodeStrict: what is taken is JSON in UTF-8, and reads the same when it
// is read again from its own JSON.
func FuzzDecodeStrict(f *testing.F) {
	for _, seed := range []string{`{}`, `{"name":"a","list":[{"ip_address":"1"}]}`, `{"raw":{"a":1,"a":2}}`, `{"name":"\ud800"}`, "[1]", `{"at":"2026-01-31T12:00:00Z"}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		var once, twice body
		if decodeStrict(in, &once) != nil {
			return
		}
		if !json.Valid(in) || !utf8.Valid(in) {
			t.Fatalf("took %q", in)
		}
		out, err := json.Marshal(&once)
		if err != nil {
			t.Fatal(err)
		}
		if err := decodeStrict(out, &twice); err != nil {
			t.Fatalf("took %q, not %q: %v", in, out, err)
		}
		var a, b any = normal(t, once), normal(t, twice)
		if diff := cmp.Diff(a, b); diff != "" {
			t.Errorf("%q: -once +twice\n%s", in, diff)
		}
	})
}

func normal(t *testing.T, v body) (out map[string]any) {
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &out); err != nil {
		t.Fatal(err)
	}
	return out
}
