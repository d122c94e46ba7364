package bench

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// sample is an answer that a bare handler gives to everything.
type sample struct {
	Status int         `json:"status"`
	Header [][2]string `json:"header"`
	Body   []byte      `json:"body"`
}

// ServeBare answers all requests as the sample on in says, with server: a
// handler of net/http that does nothing else, which is as fast as net/http is.
// It says on out where it listens, and ends when in ends, as it does when the
// process that wrote it is gone.
func ServeBare(ctx context.Context, in io.Reader, out io.Writer, server *http.Server) error {
	from := json.NewDecoder(in)
	var s sample
	if err := from.Decode(&s); err != nil {
		return fmt.Errorf("read the sample answer: %w", err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	server.Handler = s.handler()
	fmt.Fprintf(out, "Bare handler is ready.\n\n  address  %s\n\n", l.Addr())
	ctx, cancel := context.WithCancel(ctx)
	var ending sync.WaitGroup
	ending.Go(func() {
		<-ctx.Done()
		_ = server.Close() // nothing that it answers is wanted any more
	})
	go func() {
		_, _ = io.Copy(io.Discard, from.Buffered())
		_, _ = io.Copy(io.Discard, in) // until it ends, however it does
		cancel()
	}()
	err = server.Serve(l)
	cancel()
	ending.Wait()
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("serve: %w", err)
}

// handler sets each header as handlers do.
func (s *sample) handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		h := w.Header()
		for i := range s.Header {
			h.Set(s.Header[i][0], s.Header[i][1])
		}
		w.WriteHeader(s.Status)
		if len(s.Body) > 0 {
			_, _ = w.Write(s.Body) // who asked and left is counted on the other side
		}
	})
}

// takeSample returns what the target answers to its first request.
func takeSample(t *Target) (*sample, error) {
	w, err := t.connect()
	if err != nil {
		return nil, err
	}
	defer w.close()
	_ = w.conn.SetDeadline(time.Now().Add(wireTimeout))
	if _, err := w.conn.Write(t.Requests[0].Bytes); err != nil {
		return nil, fmt.Errorf("take a sample answer: %w", err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(w.conn), nil)
	if err != nil {
		return nil, fmt.Errorf("take a sample answer: %w", err)
	}
	defer resp.Body.Close()
	s := &sample{Status: resp.StatusCode}
	if s.Body, err = io.ReadAll(resp.Body); err != nil {
		return nil, fmt.Errorf("take a sample answer: %w", err)
	}
	for name, values := range resp.Header {
		switch name {
		case "Date", "Content-Length", "Connection", "Transfer-Encoding": // net/http writes them
		default:
			for _, v := range values {
				s.Header = append(s.Header, [2]string{name, v})
			}
		}
	}
	slices.SortFunc(s.Header, func(a, b [2]string) int { return strings.Compare(a[0], b[0]) })
	if s.Status != t.Requests[0].Want {
		return nil, fmt.Errorf("%s answers %d, want %d: %s", t.Name, s.Status, t.Requests[0].Want, bytes.TrimSpace(s.Body))
	}
	return s, nil
}

// startBare starts a process with a bare handler that answers as the target
// does, and returns it as a target for the same requests. The caller ends the
// process.
func startBare(ctx context.Context, p Program, like *Target) (*Target, *child, error) {
	s, err := takeSample(like)
	if err != nil {
		return nil, nil, err
	}
	c, err := p.start("bench-bare")
	if err != nil {
		return nil, c, err
	}
	if err := json.NewEncoder(c.stdin).Encode(s); err != nil {
		return nil, c, fmt.Errorf("hand on the sample answer: %w", err)
	}
	if err := c.await(ctx, welcomed); err != nil {
		return nil, c, err
	}
	t := &Target{Name: "bare", Network: "tcp", Addr: c.printed("address"), Server: []int{c.pid()}}
	for _, r := range like.Requests {
		t.Requests = append(t.Requests, Request{r.Bytes, s.Status})
	}
	return t, c, nil
}
