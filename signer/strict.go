package signer

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"unicode/utf8"
)

// member is one name and its still encoded value.
type member struct {
	name  string
	value []byte
}

// text returns the value of a member that is a string.
func (m member) text() (string, bool) {
	if len(m.value) < 2 || m.value[0] != '"' {
		return "", false
	}
	return unquote(m.value), true
}

// find returns the value of the member with exactly that name. (encoding/json
// would match struct fields in any case: "EXP" for "exp".)
func find(list []member, name string) ([]byte, bool) {
	for _, m := range list {
		if m.name == name {
			return m.value, true
		}
	}
	return nil, false
}

// findText returns the value of a member that is a string.
func findText(list []member, name string) (string, bool) {
	v, ok := find(list, name)
	if !ok {
		return "", false
	}
	return member{value: v}.text()
}

// members returns the members of the one JSON object that data is. It refuses
// what decoders disagree about: invalid UTF-8, a name used twice in one object at
// any level, nesting beyond MaxDepth, anything after the object.
func members(data []byte) ([]member, error) {
	if !utf8.Valid(data) {
		return nil, errors.New("not valid UTF-8")
	}
	if !json.Valid(data) {
		return nil, errors.New("not valid JSON")
	}
	s := scanner{data: data}
	s.space()
	if s.data[s.pos] != '{' {
		return nil, errors.New("not a JSON object")
	}
	var list []member
	if err := s.object(1, &list); err != nil {
		return nil, err
	}
	return list, nil
}

// scanner walks JSON that json.Valid has accepted, so it need not look for the
// end of data or for misplaced characters.
type scanner struct {
	data []byte
	pos  int
}

func (s *scanner) space() {
	for s.pos < len(s.data) {
		switch s.data[s.pos] {
		case ' ', '\t', '\r', '\n':
			s.pos++
		default:
			return
		}
	}
}

// str returns the string at pos, quotes included.
func (s *scanner) str() []byte {
	start := s.pos
	for s.pos++; s.data[s.pos] != '"'; s.pos++ {
		if s.data[s.pos] == '\\' {
			s.pos++
		}
	}
	s.pos++
	return s.data[start:s.pos]
}

// value passes over one value; a container would be at the given level.
func (s *scanner) value(level int) error {
	switch s.data[s.pos] {
	case '{':
		return s.object(level, nil)
	case '[':
		return s.array(level)
	case '"':
		s.str()
		return nil
	}
	for s.pos < len(s.data) && !strings.ContainsRune(" \t\r\n,]}", rune(s.data[s.pos])) {
		s.pos++
	}
	return nil
}

// more passes over the separator after an element and says whether one follows.
func (s *scanner) more() bool {
	s.space()
	c := s.data[s.pos]
	s.pos++
	s.space()
	return c == ','
}

func (s *scanner) array(level int) error {
	if level > MaxDepth {
		return errors.New("nested too deeply")
	}
	s.pos++
	s.space()
	if s.data[s.pos] == ']' {
		s.pos++
		return nil
	}
	for {
		if err := s.value(level + 1); err != nil {
			return err
		}
		if !s.more() {
			return nil
		}
	}
}

func (s *scanner) object(level int, list *[]member) error {
	if level > MaxDepth {
		return errors.New("nested too deeply")
	}
	s.pos++
	s.space()
	if s.data[s.pos] == '}' {
		s.pos++
		return nil
	}
	var names nameSet
	for {
		name := unquote(s.str())
		if !names.add(name) {
			return errors.New("a name is used twice")
		}
		s.space()
		s.pos++ // the colon
		s.space()
		start := s.pos
		if err := s.value(level + 1); err != nil {
			return err
		}
		if list != nil {
			*list = append(*list, member{name, s.data[start:s.pos]})
		}
		if !s.more() {
			return nil
		}
	}
}

// nameSet is a slice while small and a map beyond, because a stranger may send
// an object of a thousand names.
type nameSet struct {
	few  []string
	many map[string]bool
}

// add returns false if name is there already.
func (n *nameSet) add(name string) bool {
	if n.many == nil {
		for _, have := range n.few {
			if have == name {
				return false
			}
		}
		if n.few = append(n.few, name); len(n.few) > 24 {
			n.many = make(map[string]bool, 2*len(n.few))
			for _, have := range n.few {
				n.many[have] = true
			}
		}
		return true
	}
	if n.many[name] {
		return false
	}
	n.many[name] = true
	return true
}

// unquote decodes a JSON string that json.Valid has accepted.
func unquote(raw []byte) string {
	if bytes.IndexByte(raw, '\\') < 0 {
		return string(raw[1 : len(raw)-1])
	}
	var s string
	_ = json.Unmarshal(raw, &s)
	return s
}

// numericDate reads a NumericDate that is a plain non-negative integer: no sign,
// fraction or exponent, and no more digits than a date of this era has.
func numericDate(raw []byte) (int64, bool) {
	if len(raw) == 0 || len(raw) > 12 {
		return 0, false
	}
	var n int64
	for _, c := range raw {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = 10*n + int64(c-'0')
	}
	return n, true
}

// findDate returns the value of a member that is a NumericDate.
func findDate(list []member, name string) (int64, bool) {
	v, _ := find(list, name)
	return numericDate(v)
}

// split cuts a JWT into its three segments after the checks that need no
// decoding; whatever passes consists of base64url characters and two dots.
func split(token string) (header, claims, signature string, err error) {
	if len(token) > MaxJWT {
		return "", "", "", refuse(ErrMalformed, "longer than 8 KiB")
	}
	var dots [2]int
	n := 0
	for i := range len(token) {
		switch c := token[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_':
		case c == '.' && n < 2:
			dots[n] = i
			n++
		default:
			return "", "", "", refuse(ErrMalformed, "a character that is not base64url")
		}
	}
	if n != 2 {
		return "", "", "", refuse(ErrMalformed, "not three segments")
	}
	header, claims, signature = token[:dots[0]], token[dots[0]+1:dots[1]], token[dots[1]+1:]
	if header == "" || claims == "" || signature == "" {
		return "", "", "", refuse(ErrMalformed, "an empty segment")
	}
	return header, claims, signature, nil
}

// decodeObject decodes a segment that is a JSON object.
func decodeObject(segment string) ([]member, error) {
	data, err := b64.DecodeString(segment)
	if err != nil {
		return nil, refuse(ErrMalformed, "not base64url")
	}
	list, err := members(data)
	if err != nil {
		return nil, refuse(ErrMalformed, err.Error())
	}
	return list, nil
}
