package events

import "unicode/utf8"

// scanner reads the JSON that Encode writes: one object, its known fields in
// the order of the struct, each at most once, no white space, no escapes. Of
// all else it makes nothing: it fails, and encoding/json decides. So whatever
// it accepts, encoding/json accepts with the same result (FuzzDecode).
type scanner struct {
	b      []byte
	i      int
	failed bool // the rest is not looked at
}

// next consumes text if it is what comes next.
func (s *scanner) next(text string) bool {
	end := s.i + len(text)
	if s.failed || end > len(s.b) || string(s.b[s.i:end]) != text {
		return false
	}
	s.i = end
	return true
}

// want consumes text, which must come next.
func (s *scanner) want(text string) {
	if !s.next(text) {
		s.failed = true
	}
}

// done consumes the end of the object, which must be the end of all.
func (s *scanner) done() bool {
	s.want("}")
	return !s.failed && s.i == len(s.b)
}

// maxDigits keeps numbers below the limits of int64 and of uint64.
const maxDigits = 18

// number reads an integer that is not negative.
func (s *scanner) number() (n uint64) {
	start := s.i
	for s.i < len(s.b) && s.b[s.i] >= '0' && s.b[s.i] <= '9' {
		n = n*10 + uint64(s.b[s.i]-'0')
		s.i++
	}
	digits := s.i - start
	if digits == 0 || digits > maxDigits || (digits > 1 && s.b[start] == '0') {
		s.failed = true
		return 0
	}
	return n
}

// raw reads a string that stands for itself, and returns the bytes in place.
func (s *scanner) raw() []byte {
	if !s.next(`"`) {
		s.failed = true
		return nil
	}
	start, ascii := s.i, true
	for ; s.i < len(s.b); s.i++ {
		switch c := s.b[s.i]; {
		case c == '"':
			text := s.b[start:s.i]
			s.i++
			if !ascii && !utf8.Valid(text) {
				s.failed = true
			}
			return text
		case c < ' ' || c == '\\':
			s.failed = true
			return nil
		case c >= utf8.RuneSelf:
			ascii = false
		}
	}
	s.failed = true
	return nil
}

// id reads a SID or an Incarnation.
func (s *scanner) id() (id [16]byte) {
	text := s.raw()
	if len(text) != 22 {
		s.failed = true
		return id
	}
	// raw lets no line break through, which a decoder of base64 would skip.
	if _, err := b64.Decode(id[:], text); err != nil {
		s.failed = true
	}
	return id
}

// The fields: name is the member's name with what stands around it, ahead of
// the value. A member that is absent leaves its field zero.

func (s *scanner) text(name string, to *string) {
	if s.next(name) {
		*to = string(s.raw())
	}
}

// known is text that most likely is one of the words, which then is not
// allocated again.
func (s *scanner) known(name string, to *string, words ...string) {
	if !s.next(name) {
		return
	}
	text := s.raw()
	for _, w := range words {
		if string(text) == w {
			*to = w
			return
		}
	}
	*to = string(text)
}

func (s *scanner) integer(name string, to *int64) {
	if s.next(name) {
		*to = int64(s.number())
	}
}

func (s *scanner) seq(name string, to *uint64) {
	if s.next(name) {
		*to = s.number()
	}
}

func (s *scanner) small(name string, to *uint8) {
	if s.next(name) {
		n := s.number()
		if n > 255 {
			s.failed = true
		}
		*to = uint8(n)
	}
}

func (s *scanner) sid(name string, to *SID) {
	if s.next(name) {
		*to = s.id()
	}
}

// list reads an array of at least one element.
func (s *scanner) list(name string, element func()) {
	if !s.next(name) {
		return
	}
	s.want("[")
	for !s.failed {
		element()
		if s.next("]") {
			return
		}
		s.want(",")
	}
}

// dict reads an object of strings with at least one member.
func (s *scanner) dict(name string, to *map[string]string) {
	if !s.next(name) {
		return
	}
	s.want("{")
	m := map[string]string{}
	for !s.failed {
		k := string(s.raw())
		s.want(":")
		m[k] = string(s.raw())
		if s.next("}") {
			*to = m
			return
		}
		s.want(",")
	}
}
