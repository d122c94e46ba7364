package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
)

// closeOnce is a listener that may be closed again.
type closeOnce struct {
	net.Listener
	once sync.Once
	err  error
}

// Accept implements [net.Listener].
func (l *closeOnce) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &leanConn{Conn: c}, nil
}

// Close implements [net.Listener].
func (l *closeOnce) Close() error {
	l.once.Do(func() { l.err = l.Listener.Close() })
	return l.err
}

// leanConn is a connection. The library holds an answer back while it has read of
// the next request; it may not read on before that answer is on its way, or who
// sends slowly would have it after a revocation.
type leanConn struct {
	net.Conn
	held, refused bool // owned by the goroutine that serves the connection
}

// Read implements [net.Conn].
func (c *leanConn) Read(b []byte) (int, error) {
	if c.held {
		c.refused = true
		return 0, errHeld
	}
	return c.Conn.Read(b)
}

// Write implements [net.Conn].
func (c *leanConn) Write(b []byte) (int, error) {
	c.held = false
	return c.Conn.Write(b)
}

var errHeld = errors.New("an answer waits for the body of the next request")

// printer is where the library writes.
type printer struct{ log *slog.Logger }

// Printf implements fasthttp.Logger. The library's errors quote what it could not
// read, which may bear a token.
func (p printer) Printf(format string, args ...any) {
	if !p.log.Enabled(context.Background(), slog.LevelDebug) {
		return
	}
	for i, arg := range args {
		if err, ok := arg.(error); ok {
			args[i] = errors.New("no request that can be read")
			if op, ok := errors.AsType[*net.OpError](err); ok {
				args[i] = op
			}
		}
	}
	p.log.Debug(fmt.Sprintf(format, args...))
}
