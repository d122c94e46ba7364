package bench

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"time"
)

// Request is a request of HTTP/1.1 as it goes over the wire, and the status
// that is the right answer to it.
type Request struct {
	Bytes []byte
	Want  int
}

// wire is one keep-alive connection that sends one request at a time. It looks
// at no more of an answer than it must: a client of net/http costs as much as
// the server that is measured.
type wire struct {
	conn net.Conn
	buf  []byte // holds buf[from:to], which came and was not read yet
	from int
	to   int
	// over: the server said that this connection ends with the answer.
	over bool
	set  time.Time // when the deadline was set
}

const (
	// wireTimeout bounds one answer: nothing that is measured takes so long.
	wireTimeout = 20 * time.Second
	// wireHead is the longest head of an answer.
	wireHead = 32 << 10
)

func newWire(c net.Conn) *wire { return &wire{conn: c, buf: make([]byte, wireHead)} }

func (w *wire) close() { _ = w.conn.Close() }

// patient sets how long answers may take from now on. It is set anew once a
// second only, as that costs time.
func (w *wire) patient() {
	now := time.Now()
	if now.Sub(w.set) > time.Second {
		_ = w.conn.SetDeadline(now.Add(wireTimeout)) // fails only when it is closed, as the next call does
		w.set = now
	}
}

// do sends the request and returns the status of the answer, which it reads to
// its end. After an error the connection is of no more use.
func (w *wire) do(request []byte) (status int, err error) {
	w.patient()
	if _, err := w.conn.Write(request); err != nil {
		return 0, fmt.Errorf("send request: %w", err)
	}
	a, err := w.head()
	if err != nil {
		return 0, fmt.Errorf("read answer: %w", err)
	}
	w.over = a.over
	if err := w.skipBody(&a); err != nil {
		return 0, fmt.Errorf("read body: %w", err)
	}
	return a.status, nil
}

// answer is what the head of an answer says.
type answer struct {
	status  int
	length  int // of the body; -1: it says none
	chunked bool
	over    bool
	header  []byte // as it came, for who wants more of it
}

var (
	headEnd  = []byte("\r\n\r\n")
	lineEnd  = []byte("\r\n")
	errHead  = errors.New("the head of the answer is no HTTP/1.1")
	errLong  = errors.New("the head of the answer is too long")
	errExtra = errors.New("more came than was asked for")
)

// head reads up to the end of the headers.
func (w *wire) head() (a answer, err error) {
	if w.from != w.to {
		return a, errExtra
	}
	w.from, w.to = 0, 0
	for {
		n, err := w.conn.Read(w.buf[w.to:])
		searched := max(0, w.to-len(headEnd)+1)
		w.to += n
		if i := bytes.Index(w.buf[searched:w.to], headEnd); i >= 0 {
			end := searched + i
			w.from = end + len(headEnd)
			return parseHead(w.buf[:end])
		}
		switch {
		case err == io.EOF:
			return a, io.ErrUnexpectedEOF
		case err != nil:
			return a, err
		case w.to == len(w.buf):
			return a, errLong
		}
	}
}

func parseHead(head []byte) (a answer, err error) {
	line, rest, _ := bytes.Cut(head, lineEnd)
	if len(line) < 12 || !bytes.HasPrefix(line, []byte("HTTP/1.1 ")) {
		return a, errHead
	}
	if a.status, err = strconv.Atoi(string(line[9:12])); err != nil {
		return a, errHead
	}
	a.length, a.header = -1, rest
	for len(rest) > 0 {
		line, rest, _ = bytes.Cut(rest, lineEnd)
		// Most headers are told apart by their length and first letter.
		colon := bytes.IndexByte(line, ':')
		switch {
		case colon == 14 && bytes.EqualFold(line[:14], []byte("Content-Length")):
			if a.length, err = strconv.Atoi(string(bytes.TrimSpace(line[15:]))); err != nil || a.length < 0 {
				return a, errHead
			}
		case colon == 17 && bytes.EqualFold(line[:17], []byte("Transfer-Encoding")):
			a.chunked = bytes.EqualFold(bytes.TrimSpace(line[18:]), []byte("chunked"))
		case colon == 10 && bytes.EqualFold(line[:10], []byte("Connection")):
			a.over = bytes.EqualFold(bytes.TrimSpace(line[11:]), []byte("close"))
		}
	}
	if a.status == 204 || a.status == 304 {
		a.length, a.chunked = 0, false
	}
	return a, nil
}

func (w *wire) skipBody(a *answer) error {
	switch {
	case a.chunked:
		return w.skipChunks()
	case a.length < 0:
		return errors.New("the answer says no length")
	}
	return w.skip(a.length)
}

// skip reads n bytes and drops them.
func (w *wire) skip(n int) error {
	for {
		have := min(n, w.to-w.from)
		w.from += have
		if n -= have; n == 0 {
			return nil
		}
		if err := w.fill(); err != nil {
			return err
		}
	}
}

// fill reads more, once all that came was read.
func (w *wire) fill() error {
	w.from, w.to = 0, 0
	n, err := w.conn.Read(w.buf)
	w.to = n
	if n > 0 {
		return nil
	}
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

func (w *wire) skipChunks() error {
	for {
		line, err := w.line()
		if err != nil {
			return err
		}
		size, _, _ := bytes.Cut(line, []byte{';'})
		n, err := strconv.ParseUint(string(bytes.TrimSpace(size)), 16, 31)
		if err != nil {
			return errHead
		}
		if n == 0 {
			_, err := w.line() // the end; trailers are not sent by what is measured
			return err
		}
		if err := w.skip(int(n) + len(lineEnd)); err != nil {
			return err
		}
	}
}

// line reads up to the end of a short line.
func (w *wire) line() ([]byte, error) {
	var line []byte
	for len(line) < 1024 {
		if w.from == w.to {
			if err := w.fill(); err != nil {
				return nil, err
			}
		}
		c := w.buf[w.from]
		w.from++
		if c == '\n' {
			return bytes.TrimSuffix(line, []byte{'\r'}), nil
		}
		line = append(line, c)
	}
	return nil, errHead
}
