package events

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
)

// Conn is a connection to NATS servers, for those who only hand it on.
type Conn = nats.Conn

// ConnectConfig says which NATS servers Connect connects to, and as whom.
type ConnectConfig struct {
	// URL is one address or several joined by commas; a user and a password
	// may stand in it. Required without InProcess.
	URL string
	// InProcess is a server of this process to connect to, instead of a URL.
	// Nil: there is none.
	InProcess interface {
		InProcessConn() (net.Conn, error)
	}
	// Login returns the user and the password to show, at each connect. Nil:
	// those of URL, or none.
	Login func() (user, password string)
	// Name is shown by the servers' monitoring.
	Name string
	// Creds is a credentials file (JWT and nkey). Empty: none.
	Creds string
	// CA is a file with the certificates that the servers' must be signed by.
	// Empty: the system's.
	CA string
	// Cert and Key are the files of the certificate this client shows, both or
	// neither.
	Cert, Key string
	// OnError is told what the servers refuse without an answer, above all a
	// subject that the user may not publish or subscribe to (ErrDenied), and
	// each loss of the connection. It is called from the client's goroutine
	// and must not block. Nil: nobody is told.
	OnError func(error)
}

// ErrDenied means that the NATS user lacks a permission. Its text names the
// subject. Without it a denied request looks like a time-out, because the
// server answers nothing.
var ErrDenied = errors.New("the NATS user has no permission")

// Connect opens a connection to NATS servers elsewhere. It fails when none
// answers now; once connected it reconnects for ever, also when its user is
// refused for some time, and buffers nothing meanwhile: a publish while no
// server is there fails instead of arriving later. Errors never hold the
// password of the URL. The caller closes the connection.
func Connect(c ConnectConfig) (*Conn, error) {
	shown := RedactURL(c.URL)
	if c.InProcess != nil {
		shown = "the server in this process"
	}
	if (c.Cert == "") != (c.Key == "") {
		return nil, fmt.Errorf("connect to NATS at %s: a client certificate needs its key, and the key its certificate", shown)
	}
	tell := func(err error) {
		if c.OnError != nil && err != nil {
			c.OnError(err)
		}
	}
	opts := []nats.Option{
		nats.Name(c.Name),
		nats.MaxReconnects(-1), nats.ReconnectWait(100 * time.Millisecond),
		nats.ReconnectJitter(100*time.Millisecond, 200*time.Millisecond), nats.ReconnectBufSize(-1),
		// Else the client closes for good when a server refuses its user
		// twice, as happens while credentials are being changed.
		nats.IgnoreAuthErrorAbort(),
		nats.PingInterval(5 * time.Second), nats.MaxPingsOutstanding(2),
		nats.ErrorHandler(func(nc *nats.Conn, sub *nats.Subscription, err error) {
			if d := deniedBy(err); d != nil {
				err = d
			} else if sub != nil {
				err = fmt.Errorf("subscription %s: %w", sub.Subject, err)
			}
			tell(err)
		}),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil {
				tell(fmt.Errorf("connection to NATS is lost: %w", err))
			}
		}),
	}
	if c.InProcess != nil {
		// It is this server that the client belongs to, also when others of
		// its cluster are announced.
		opts = append(opts, nats.InProcessServer(c.InProcess), nats.IgnoreDiscoveredServers())
	}
	if c.Login != nil {
		opts = append(opts, nats.UserInfoHandler(c.Login))
	}
	if c.Creds != "" {
		opts = append(opts, nats.UserCredentials(c.Creds))
	}
	if c.CA != "" {
		opts = append(opts, nats.RootCAs(c.CA))
	}
	if c.Cert != "" {
		opts = append(opts, nats.ClientCert(c.Cert, c.Key))
	}
	nc, err := nats.Connect(c.URL, opts...)
	if err != nil {
		if _, ok := errors.AsType[*url.Error](err); ok {
			// It quotes the address, password included.
			err = errors.New("not an address such as nats://user:password@host:4222")
		}
		return nil, fmt.Errorf("connect to NATS at %s: %w", shown, err)
	}
	return nc, nil
}

// RedactURL returns the addresses, joined by commas, with everything hidden
// that stands before an "@": a password, or a token.
func RedactURL(text string) string {
	parts := strings.Split(text, ",")
	for i, p := range parts {
		p = strings.TrimSpace(p)
		scheme, rest, ok := strings.Cut(p, "://")
		if !ok {
			scheme, rest = "nats", p
		}
		if at := strings.LastIndexByte(rest, '@'); at >= 0 {
			rest = "[secret]" + rest[at:]
		}
		parts[i] = scheme + "://" + rest
	}
	return strings.Join(parts, ",")
}

// violation is how a server says that a permission is missing.
var violation = regexp.MustCompile(`(?i)permissions violation for (publish|subscription) to "([^"]+)"`)

// deniedBy returns what the server denied, nil when err says nothing of it.
func deniedBy(err error) error {
	verb, subject := denied(err)
	if verb == "" {
		return nil
	}
	return &DeniedError{Verb: verb, Subject: subject}
}

func denied(err error) (verb, subject string) {
	if !errors.Is(err, nats.ErrPermissionViolation) {
		return "", ""
	}
	m := violation.FindStringSubmatch(err.Error())
	switch {
	case m == nil:
		return "", ""
	case strings.EqualFold(m[1], "publish"):
		return "publish to", m[2]
	}
	return "subscribe to", m[2]
}

// explain returns the error of a request to the subject that was not answered:
// if the server denied it, or the subscription for its answer, that. The client
// keeps only the newest denial, so another one may hide it.
func explain(nc *nats.Conn, subject string, err error) error {
	if err == nil {
		return nil
	}
	last := nc.LastError()
	verb, what := denied(last)
	// A server names its own domain's API without the domain.
	if _, rest, ok := strings.Cut(subject, ".API."); ok && strings.HasPrefix(what, "$JS.API.") {
		subject = "$JS.API." + rest
	}
	switch {
	case verb == "publish to" && (what == subject || strings.HasPrefix(what, subject+".")),
		verb == "subscribe to" && strings.HasPrefix(what, nats.InboxPrefix):
		return fmt.Errorf("%w (%w)", deniedBy(last), err)
	}
	return err
}
