package client

import (
	"errors"
	"io"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"
)

// read returns all events of a stream, and how it ended.
func read(r io.Reader) (all []message, err error) {
	in := newSSE(r)
	for {
		m, err := in.next()
		if err != nil {
			return all, err
		}
		all = append(all, m)
	}
}

func TestSSE(t *testing.T) {
	event := func(event, id, data string) message { return message{event, id, append([]byte(nil), data...)} }
	for _, c := range []struct {
		name, in string
		want     []message
	}{
		{"usual", "event: hello\nid: a:0:1\ndata: {}\n\n", []message{event("hello", "a:0:1", "{}")}},
		{"without a type", "data: x\n\n", []message{event("message", "", "x")}},
		{"without space", "event:e\ndata:x\n\n", []message{event("e", "", "x")}},
		{"one space is taken", "data:  x\n\n", []message{event("message", "", " x")}},
		{"lines of data", "data: a\ndata: b\ndata:\n\n", []message{event("message", "", "a\nb\n")}},
		{"empty data", "data\n\n", []message{event("message", "", "")}},
		{"the id stays", "id: 1\ndata: x\n\ndata: y\n\n", []message{event("message", "1", "x"), event("message", "1", "y")}},
		{"an id of its own", "id: 2\n\ndata: y\n\n", []message{event("message", "2", "y")}},
		{"the id is taken back", "id: 1\ndata: x\n\nid\ndata: y\n\n", []message{event("message", "1", "x"), event("message", "", "y")}},
		{"an id with NUL", "id: 1\x00\ndata: x\n\n", []message{event("message", "", "x")}},
		{"comments", ": hi\n:\ndata: x\n: ho\n\n:\n\n", []message{event("message", "", "x")}},
		{"no data, no event", "event: e\n\ndata: x\n\n", []message{event("message", "", "x")}},
		{"other fields", "retry: 1000\nwhat: ever\ndata: x\n\n", []message{event("message", "", "x")}},
		{"CRLF", "event: e\r\ndata: x\r\n\r\ndata: y\r\n\r\n", []message{event("e", "", "x"), event("message", "", "y")}},
		{"CR", "event: e\rdata: x\r\rdata: y\r\r", []message{event("e", "", "x"), event("message", "", "y")}},
		{"byte order mark", "\ufeffdata: x\n\n\ufeffdata: y\n\n", []message{event("message", "", "x")}},
		{"cut off", "data: x\n\ndata: y\n", []message{event("message", "", "x")}},
		{"colon in data", "data: a:b: c\n\n", []message{event("message", "", "a:b: c")}},
		{"empty", "", nil},
	} {
		for how, r := range map[string]io.Reader{"whole": strings.NewReader(c.in), "in bytes": iotest.OneByteReader(strings.NewReader(c.in))} {
			got, err := read(r)
			if !reflect.DeepEqual(got, c.want) || !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("%s, %s: %q %v, want %q", c.name, how, got, err, c.want)
			}
		}
	}
	for name, in := range map[string]string{
		"a line without end":   "data: " + strings.Repeat("x", maxLine+1),
		"an event without end": strings.Repeat("data: "+strings.Repeat("x", maxLine/2)+"\n", 9),
	} {
		if got, err := read(strings.NewReader(in)); !errors.Is(err, errTooLong) || got != nil {
			t.Errorf("%s: %d events, %v", name, len(got), err)
		}
	}
}

// FuzzSSE: however the bytes come in, the events are the same; and what is written
// as an event is read as that event.
func FuzzSSE(f *testing.F) {
	for _, s := range []string{"event: e\nid: 1\ndata: x\n\n", "data: a\r\ndata: b\r\r\n\n", "\ufeff: c\nid:\x00\ndata\n\n"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		whole, errWhole := read(strings.NewReader(s))
		bytes, errBytes := read(iotest.OneByteReader(strings.NewReader(s)))
		if !reflect.DeepEqual(whole, bytes) || !errors.Is(errBytes, errWhole) {
			t.Fatalf("whole: %q %v; in bytes: %q %v", whole, errWhole, bytes, errBytes)
		}
		data := strings.FieldsFunc(s, func(r rune) bool { return r == '\r' || r == '\n' })
		written := "event: e\ndata: " + strings.Join(data, "\ndata: ") + "\n\n"
		got, _ := read(strings.NewReader(written))
		if want := strings.Join(data, "\n"); len(got) != 1 || string(got[0].data) != want || got[0].event != "e" {
			t.Fatalf("%q was read as %q", written, got)
		}
	})
}
