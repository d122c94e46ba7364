package fleet

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"
)

// Wire is one HTTP connection to a node that only verifies. It costs a
// measurement far less than net/http, which would share the cores with what is
// measured. It is not safe for concurrent use.
type Wire struct {
	conn net.Conn
	r    *bufio.Reader
	out  bytes.Buffer
}

// Dial opens a connection to the node. The caller closes it.
func (n *Node) Dial() (*Wire, error) {
	c, err := net.DialTimeout("tcp", n.addr, 5*time.Second)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", n.Name, err)
	}
	return &Wire{conn: c, r: bufio.NewReaderSize(c, 1<<10)}, nil
}

// Close ends the connection.
func (w *Wire) Close() { _ = w.conn.Close() }

// Verify returns the status of GET /v1/verify for the credential.
func (w *Wire) Verify(credential string) (status int, err error) {
	w.out.Reset()
	w.out.WriteString("GET /v1/verify HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ")
	w.out.WriteString(credential)
	w.out.WriteString("\r\n\r\n")
	if _, err := w.conn.Write(w.out.Bytes()); err != nil {
		return 0, fmt.Errorf("send verify: %w", err)
	}
	return w.answer()
}

func (w *Wire) answer() (status int, err error) {
	length := 0
	for first := true; ; first = false {
		raw, err := w.r.ReadSlice('\n')
		if err != nil {
			return 0, fmt.Errorf("read answer: %w", err)
		}
		line := strings.TrimRight(string(raw), "\r\n")
		switch {
		case first:
			parts := strings.SplitN(line, " ", 3)
			if len(parts) < 2 {
				return 0, fmt.Errorf("read answer: %q is no status", line)
			}
			if status, err = strconv.Atoi(parts[1]); err != nil {
				return 0, fmt.Errorf("read answer: %w", err)
			}
		case line == "":
			_, err := io.CopyN(io.Discard, w.r, int64(length))
			return status, err
		case len(line) > 15 && strings.EqualFold(line[:15], "Content-Length:"):
			if length, err = strconv.Atoi(strings.TrimSpace(line[15:])); err != nil {
				return 0, fmt.Errorf("read answer: %w", err)
			}
		}
	}
}
