package client

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"strings"
)

// Limits of what a feed may send; beyond them it is given up. An event has at
// most some KiB of JSON, except for the list of sessions that were spared.
const (
	maxLine  = 1 << 20 // bytes
	maxEvent = 4 << 20
)

// message is one event of a stream of server-sent events.
type message struct {
	event string // its type; "message" without one
	id    string // the newest id that the stream has named, by this event or before
	data  []byte
}

var errTooLong = errors.New("an event is too long")

// sse reads server-sent events as the HTML standard, section 9.2.6, has it, but
// that it does not reconnect and ignores retry.
type sse struct {
	in   *bufio.Reader
	id   string
	skip bool // the last line ended in CR: an LF that follows belongs to it
	old  bool // the byte order mark, if there was one, is past
}

func newSSE(r io.Reader) *sse { return &sse{in: bufio.NewReaderSize(r, 16<<10)} }

// next returns the next event. What an end of the stream cuts off is none.
func (s *sse) next() (message, error) {
	m := message{}
	seen := false // a line of data; an event without one is none
	for {
		line, err := s.line()
		if err != nil {
			return message{}, err
		}
		if len(line) == 0 {
			if !seen {
				m = message{}
				continue
			}
			if m.event == "" {
				m.event = "message"
			}
			m.id = s.id
			return m, nil
		}
		name, value, _ := bytes.Cut(line, []byte{':'})
		value = bytes.TrimPrefix(value, []byte{' '})
		switch string(name) { // empty: a comment
		case "event":
			m.event = string(value)
		case "data":
			if seen {
				m.data = append(m.data, '\n')
			}
			if m.data, seen = append(m.data, value...), true; len(m.data) > maxEvent {
				return message{}, errTooLong
			}
		case "id":
			if bytes.IndexByte(value, 0) < 0 {
				s.id = string(value)
			}
		}
	}
}

// line returns the next line without its end: CR, LF, or both. It is good until
// the next call.
func (s *sse) line() ([]byte, error) {
	var line []byte
	for {
		c, err := s.in.ReadByte()
		if err != nil {
			return nil, noEOF(err)
		}
		if s.skip {
			s.skip = false
			if c == '\n' {
				continue
			}
		}
		if c == '\r' || c == '\n' {
			s.skip = c == '\r'
			if !s.old {
				s.old = true
				line = []byte(strings.TrimPrefix(string(line), "\ufeff"))
			}
			return line, nil
		}
		if line = append(line, c); len(line) > maxLine {
			return nil, errTooLong
		}
	}
}

// noEOF returns the error, as a stream of events has no end of its own.
func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
