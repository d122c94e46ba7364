package node

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/revocast/revocast/node/api"
)

// maxNesting is how deep a request body may nest; the body itself is level 1.
const maxNesting = 16

// decodeStrict reads b into v, a pointer to a struct of package api. It is
// stricter than encoding/json wherever that would guess: members that v does
// not have, under exactly that name, are refused, so are repeated members and
// text that is not UTF-8, each of which two readers of one body may understand
// differently. A member that is null counts as absent.
//
// Members below an untyped value are the caller's to judge; only their form is
// checked.
func decodeStrict(b []byte, v any) error { return decodeBody(b, v, nil) }

// decodeBody is decodeStrict that passes over members of the body itself that v
// does not have, if tolerate says so.
func decodeBody(b []byte, v any, tolerate func(name string, known map[string]bodyMember) bool) error {
	if !utf8.Valid(b) {
		return fail(api.InvalidArgument, "the body is not UTF-8")
	}
	if loneSurrogate(b) {
		return fail(api.InvalidArgument, "the body escapes half of a surrogate pair, which is no character")
	}
	var raw json.RawMessage
	if err := json.Unmarshal(b, &raw); err != nil {
		return notJSON(err)
	}
	if raw = bytes.TrimSpace(raw); raw[0] != '{' {
		return fail(api.InvalidArgument, "the body is not a JSON object")
	}
	w := walker{dec: json.NewDecoder(bytes.NewReader(raw)), tolerate: tolerate}
	w.dec.UseNumber()
	if err := w.value(reflect.TypeOf(v).Elem(), "", 0); err != nil {
		return err
	}
	if err := json.Unmarshal(raw, v); err != nil {
		return wrongType(err)
	}
	return nil
}

func notJSON(err error) error {
	if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
		return fail(api.InvalidArgument, "the body is not one JSON value: %s, at byte %d", syntax.Error(), syntax.Offset).because(err)
	}
	return fail(api.InvalidArgument, "the body is not one JSON value").because(err)
}

// wrongType says which member has which type and which it should have.
func wrongType(err error) error {
	wrong, ok := errors.AsType[*json.UnmarshalTypeError](err)
	if !ok {
		return fail(api.InvalidArgument, "the body cannot be read").because(err)
	}
	got, _, _ := strings.Cut(wrong.Value, " ") // "number 1.5" and the like
	return fail(api.InvalidArgument, "%s: want %s, got %s", wrong.Field, typeWord(wrong.Type), article(got)).
		with("field", wrong.Field).because(err)
}

func article(word string) string {
	if word != "" && strings.ContainsRune("aeiou", rune(word[0])) {
		return "an " + word
	}
	return "a " + word
}

// typeWord returns what JSON calls the type.
func typeWord(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Pointer:
		return typeWord(t.Elem())
	case reflect.String:
		return "a string"
	case reflect.Bool:
		return "true or false"
	case reflect.Int, reflect.Int64:
		return "an integer"
	case reflect.Slice:
		return "an array"
	}
	return "an object"
}

// walker checks the members of a value that is known to be JSON.
type walker struct {
	dec      *json.Decoder
	tolerate func(name string, known map[string]bodyMember) bool // nil: nothing
	filled   bool                                                // the next value may not be an empty string
}

var (
	timeType = reflect.TypeFor[time.Time]()
	rawType  = reflect.TypeFor[json.RawMessage]()
)

// value checks the next value, which is to be read into a t (nil: anything).
func (w walker) value(t reflect.Type, path string, depth int) error {
	for t != nil && t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	token, err := w.dec.Token()
	if err != nil {
		return notJSON(err)
	}
	switch token {
	case json.Delim('{'):
		return w.object(t, path, depth+1)
	case json.Delim('['):
		return w.array(t, path, depth+1)
	case nil:
		return nil
	case "":
		if w.filled {
			return fail(api.InvalidArgument, "%s: is empty; leave it out if nothing is meant", path).with("field", path)
		}
	}
	if n, ok := token.(json.Number); ok {
		// Beyond a double, readers of one document see different numbers or none.
		if _, err := n.Float64(); err != nil {
			return fail(api.InvalidArgument, "%s: the number %s is out of range", path, n).with("field", path)
		}
	}
	if t == timeType {
		if text, ok := token.(string); !ok || !validTime(text) {
			return fail(api.InvalidArgument, "%s: want a time as in RFC 3339, such as 2026-01-31T12:00:00Z", path).with("field", path)
		}
	}
	return nil
}

func validTime(text string) bool {
	_, err := time.Parse(time.RFC3339, text)
	return err == nil
}

func (w walker) array(t reflect.Type, path string, depth int) error {
	if depth > maxNesting {
		return tooDeep(path)
	}
	var elem reflect.Type
	if t != nil && t.Kind() == reflect.Slice && t != rawType {
		elem = t.Elem()
	}
	for i := 0; w.dec.More(); i++ {
		if err := w.value(elem, path+"["+strconv.Itoa(i)+"]", depth); err != nil {
			return err
		}
	}
	return w.end()
}

func (w walker) object(t reflect.Type, path string, depth int) error {
	if depth > maxNesting {
		return tooDeep(path)
	}
	var known map[string]bodyMember
	if t != nil && t.Kind() == reflect.Struct && t != timeType {
		known = membersOf(t)
	}
	var seen []string
	for w.dec.More() {
		token, err := w.dec.Token()
		if err != nil {
			return notJSON(err)
		}
		name := token.(string) // the decoder gives nothing else before a colon
		at := join(path, name)
		m, ok := known[name]
		if known != nil && !ok && (depth > 1 || w.tolerate == nil || !w.tolerate(name, known)) {
			return fail(api.InvalidArgument, "unknown field %q", at).with("field", at)
		}
		if slices.Contains(seen, name) {
			return fail(api.InvalidArgument, "field %q appears twice", at).with("field", at)
		}
		if seen = append(seen, name); len(seen) > maxMembers {
			return fail(api.InvalidArgument, "more than %d members in one object", maxMembers)
		}
		w.filled = m.filled
		if err := w.value(m.typ, at, depth); err != nil {
			return err
		}
	}
	return w.end()
}

// maxMembers bounds the members of one object, which are compared with each
// other. Custom claims of the largest size allowed have fewer.
const maxMembers = 1024

func tooDeep(path string) error {
	return fail(api.InvalidArgument, "%s: nested deeper than %d levels", path, maxNesting)
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

// end takes the bracket that closes an object or an array.
func (w walker) end() error {
	if _, err := w.dec.Token(); err != nil && !errors.Is(err, io.EOF) {
		return notJSON(err)
	}
	return nil
}

// structMembers holds the result of membersOf by type.
var structMembers sync.Map

// bodyMember is what a struct has under a name.
type bodyMember struct {
	typ reflect.Type
	// filled, by a tag of that name: to say "" is not to say nothing. An empty variable
	// in who must be spared, or which key was stolen, is a mistake that does harm.
	filled bool
}

// membersOf returns the names under which encoding/json reads a struct, and
// what is behind each.
func membersOf(t reflect.Type) map[string]bodyMember {
	if m, ok := structMembers.Load(t); ok {
		return m.(map[string]bodyMember)
	}
	m := map[string]bodyMember{}
	for _, f := range reflect.VisibleFields(t) {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if f.IsExported() && name != "" && name != "-" {
			m[name] = bodyMember{f.Type, f.Tag.Get("filled") != ""}
		}
	}
	structMembers.Store(t, m)
	return m
}

// loneSurrogate reports whether JSON text escapes half of a surrogate pair.
// encoding/json would read the replacement character instead, and so another
// user id than was sent.
func loneSurrogate(b []byte) bool {
	for i := 0; i+1 < len(b); {
		if b[i] != '\\' {
			i++
			continue
		}
		u, ok := escaped(b[i:])
		switch {
		case !ok:
			i += 2
		case u < 0xD800 || u > 0xDFFF:
			i += 6
		default:
			low, ok := escaped(b[i+6:])
			if u > 0xDBFF || !ok || low < 0xDC00 || low > 0xDFFF {
				return true
			}
			i += 12
		}
	}
	return false
}

// escaped returns the code unit of an escape \uXXXX at the beginning of b.
func escaped(b []byte) (uint64, bool) {
	if len(b) < 6 || b[0] != '\\' || b[1] != 'u' {
		return 0, false
	}
	u, err := strconv.ParseUint(string(b[2:6]), 16, 16)
	return u, err == nil
}
