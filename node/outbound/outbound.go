// Package outbound makes requests to addresses that tenants chose: the keys of
// issuers, the system sessions are imported from, receivers of events. Whoever
// may choose an address would else make a node ask for what only the node can
// reach: its own ports, the network behind it, a cloud's metadata.
//
// So an address is judged when it is dialled, after the name was resolved, and
// that very address is dialled: a name that means another thing the next time
// gains nothing. No redirect is followed, no proxy is used.
package outbound

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unicode"
)

// Timeout is the longest that a request may take, its answer included, unless
// its context ends before.
const Timeout = 10 * time.Second

// maxURL is the most bytes a URL may have.
const maxURL = 2048

// ports are those that may be dialled at a public address: others are seldom
// HTTP, and a node is no port scanner.
var ports = []string{"443", "8443"}

// ErrForbidden is returned for an address that may not be reached.
var ErrForbidden = errors.New("the address may not be reached from here")

// Answer is an answer, read whole.
type Answer struct {
	Status int
	Header http.Header
	Body   []byte
}

// Client makes requests. It is safe for concurrent use.
type Client struct {
	allow         []netip.Prefix
	secure, plain *http.Client
}

// New returns a client. Networks of allow may be reached, on any port and
// without TLS, though they are not public: a receiver within the operator's own
// network. Of the public networks only https at the ports 443 and 8443 may be.
func New(allow ...netip.Prefix) *Client {
	c := &Client{allow: slices.Clone(allow)}
	c.secure = newHTTP(func(a netip.AddrPort) bool {
		return c.allowed(a.Addr()) || public(a.Addr()) && slices.Contains(ports, strconv.Itoa(int(a.Port())))
	})
	c.plain = newHTTP(func(a netip.AddrPort) bool { return c.allowed(a.Addr()) })
	return c
}

// newHTTP returns a client that dials only what may says.
func newHTTP(may func(netip.AddrPort) bool) *http.Client {
	d := &net.Dialer{Timeout: Timeout, Control: func(_, address string, _ syscall.RawConn) error {
		a, err := netip.ParseAddrPort(address)
		if err != nil || !may(netip.AddrPortFrom(a.Addr().Unmap().WithZone(""), a.Port())) {
			return ErrForbidden
		}
		return nil
	}}
	return &http.Client{
		Timeout: Timeout,
		Transport: &http.Transport{
			DialContext: d.DialContext, TLSHandshakeTimeout: Timeout, ForceAttemptHTTP2: true,
			// A small answer must not grow in memory.
			DisableCompression: true,
			MaxIdleConns:       64, MaxIdleConnsPerHost: 8, IdleConnTimeout: 30 * time.Second, MaxResponseHeaderBytes: 64 << 10,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

func (c *Client) allowed(a netip.Addr) bool {
	return slices.ContainsFunc(c.allow, func(p netip.Prefix) bool { return p.Contains(a) })
}

// Check says whether the text may be the URL of a request, as far as that can be
// seen without asking anybody what its name means.
func (c *Client) Check(text string) error {
	u, err := url.Parse(text)
	switch {
	case err != nil || len(text) > maxURL || u.Opaque != "" || u.Hostname() == "":
		return fmt.Errorf("not a URL of the form https://host[:port]/path, of at most %d bytes", maxURL)
	case u.Scheme != "https" && u.Scheme != "http":
		return fmt.Errorf("scheme %q: want https", u.Scheme)
	case u.User != nil:
		return errors.New("a URL with a user and a password is not taken")
	case strings.Contains(text, "#"):
		return errors.New("a URL with a fragment is not taken")
	case strings.ContainsFunc(text, unicode.IsSpace): // url.Parse takes it in a path, and escapes it
		return errors.New("a URL with white space is not taken")
	}
	port := u.Port()
	if port == "" && strings.HasSuffix(u.Host, ":") {
		return errors.New("the port is empty")
	}
	if port != "" {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return fmt.Errorf("port %q: want 1 to 65535", port)
		}
	}
	a, literal, err := address(u.Hostname())
	switch {
	case err != nil:
		return err
	case literal && c.allowed(a):
		return nil
	case u.Scheme == "http" && (literal || len(c.allow) == 0):
		return errors.New("want https: without it, only the networks that the node's operator allows are reached")
	case literal && !public(a):
		return fmt.Errorf("%s: %w", a, ErrForbidden)
	case u.Scheme == "https" && port != "" && !slices.Contains(ports, port) && (literal || len(c.allow) == 0):
		return fmt.Errorf("port %s: want one of %s", port, strings.Join(ports, ", "))
	}
	return nil
}

// address returns the address that a host is, if it is one. Forms that only some
// programs take for an address, such as 0x7f.1 and 2130706433, are refused: a
// resolver may be one of those. So is a zone.
func address(host string) (a netip.Addr, literal bool, err error) {
	if a, err = netip.ParseAddr(host); err == nil {
		if a.Zone() != "" {
			return a, true, errors.New("an address with a zone is not taken")
		}
		return a.Unmap(), true, nil
	}
	labels := strings.Split(strings.TrimSuffix(host, "."), ".")
	last := labels[len(labels)-1]
	if last == "" || last[0] >= '0' && last[0] <= '9' {
		return a, false, fmt.Errorf("host %q is neither a name nor an address in its usual form", host)
	}
	return a, false, nil
}

// Do sends the request and reads the answer, of which the body may have limit
// bytes. A redirect is an answer as any other, for the caller to refuse. With the
// error about one that is too long, or does not end in time, comes the answer without
// its body.
func (c *Client) Do(ctx context.Context, r *http.Request, limit int64) (*Answer, error) {
	if err := c.Check(r.URL.String()); err != nil {
		return nil, fmt.Errorf("request %s: %w", r.URL.Hostname(), err)
	}
	h := c.secure
	if r.URL.Scheme == "http" {
		h = c.plain
	}
	a, err := h.Do(r.WithContext(ctx))
	if err != nil {
		// The URL of the error may hold what its owner keeps secret.
		if wrapped, ok := errors.AsType[*url.Error](err); ok {
			err = wrapped.Err
		}
		return nil, fmt.Errorf("request %s: %w", r.URL.Hostname(), err)
	}
	defer a.Body.Close()
	out := &Answer{Status: a.StatusCode, Header: a.Header}
	body, err := io.ReadAll(io.LimitReader(a.Body, limit+1))
	if err != nil {
		return out, fmt.Errorf("read answer of %s: %w", r.URL.Hostname(), err)
	}
	if int64(len(body)) > limit {
		return out, fmt.Errorf("answer of %s: over %d bytes", r.URL.Hostname(), limit)
	}
	out.Body = body
	return out, nil
}
