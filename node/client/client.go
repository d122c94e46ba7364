// Package client verifies sessions of Revocast in a Go service, and makes and
// ends them.
//
// A [Client] checks a JWT by itself, with the app's public keys, in about a
// microsecond, and yet refuses it the moment its session is revoked: [Client.Run]
// follows the revocations, and proves to itself again and again that it is not
// behind. When it cannot, for longer than the lease, the node is asked about each
// JWT instead, or it is refused: see [Policy].
//
//	c := &client.Client{Base: "http://127.0.0.1:8080", App: "app", APIKey: key}
//	go c.Run(ctx)
//	http.ListenAndServe(addr, c.Require(handler))
//
// Only JWTs are judged here; a token is asked about at the API each time. So give
// clients the JWT of [Client.Create], also in a cookie, and a fresh one whenever the
// API had to be asked, as the example of Require does. A JWT that has expired is as
// good as its session: it stands for it until that ends, or its key is stolen.
//
// It imports nothing of a node but the wire types and the strict parser of JWTs.
// DESIGN.md beside this file says why it is as it is.
package client

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/revocast/revocast/events/bootclock"
	"github.com/revocast/revocast/node/api"
	"github.com/revocast/revocast/signer"
)

// Defaults of a Client.
const (
	DefaultLease   = 15 * time.Second
	DefaultKeyAge  = 5 * time.Minute
	DefaultTimeout = 5 * time.Second
)

const (
	leastLease   = time.Second
	leastKeyAge  = time.Second
	leastTimeout = time.Millisecond
	// idleConns is how many connections to a node are kept for the next requests,
	// unless the Transport says: net/http's own 2 are too few for a busy service,
	// which would make a new one for most requests.
	idleConns = 100
)

// Client is one app's view of Revocast. Base and App are required, APIKey nearly
// always; the zero value of every other field is what most want. It is safe for
// concurrent use. It must not be copied, nor its fields changed, once it is used.
type Client struct {
	// Base is the address of the nodes, such as https://id.example.com. More may
	// follow, separated by commas: the next is asked when one does not answer, or
	// answers that it cannot. A JWT is believed because of the keys that are found
	// there, so over a network that others can write to it must be https.
	Base string
	// App is the id of the app.
	App string
	// APIKey is a key of the app: scope read for Run, verify for what cannot be
	// judged here, create, revoke and read for the calls of those names. Empty: a
	// JWT can be verified, with OnStale Accept, and nothing else works.
	APIKey string
	// Audience is the aud that JWTs must have. Empty: App. JWTs of a template have
	// another. The API does not take those, and is not asked about them: when they
	// cannot be judged here it is ErrStale, and one that has expired is ErrExpired.
	Audience string
	// Issuer is the iss of the app's JWTs. Empty: what the node at Base says it is,
	// in its discovery document.
	Issuer string

	// Lease is how old what is known of revocations may be, for a JWT to be judged
	// here. Zero: DefaultLease. It is the longest that a revoked JWT can be let in,
	// and only when the feed stands still without being closed: else a revocation
	// takes milliseconds. Shorter costs a ping each third of it; below some 6 s the
	// usual leader election of the log, during which nodes can promise nothing, has
	// the API asked about every JWT. A second at least.
	Lease time.Duration
	// OnStale is what happens to a JWT while no lease is held. Zero: Ask.
	OnStale Policy
	// KeyAge is for how long public keys are used without asking for them again.
	// Zero: DefaultKeyAge. A key that is not known is asked for at once, and one that
	// was stolen is told by the feed; so this bounds only for how long a key that was
	// taken off the list counts while nobody follows the feed. While they cannot be
	// fetched, the last ones go on to be used.
	KeyAge time.Duration
	// Entries is how many JWTs are remembered, so that a signature is checked once.
	// Zero: signer.DefaultEntries, which takes about 10 MB. Only good ones are held.
	Entries int

	// HTTP says how requests are made: by a copy of its Transport, with connections of
	// this client's own, of which it keeps up to 100 a node unless MaxIdleConnsPerHost
	// says otherwise. Nil: as http.DefaultClient does. Its Timeout does not count,
	// since the feed has no end, and redirects are not followed: they would take
	// tokens elsewhere. A Transport that is no *http.Transport is used as it is; it
	// must give up a connection that is dead without being closed.
	HTTP *http.Client
	// Timeout is the longest that a request may take at one node, to the end of the
	// answer. Zero: DefaultTimeout. A revoke that waits for all nodes has half a
	// minute more. A request is tried three times at most, and no node is asked again
	// that did not answer in time.
	Timeout time.Duration

	// Cookies are the names of cookies that Require looks into, in this order, when
	// there is no header Authorization. Empty: __Host-session, session. Who writes
	// because of a cookie must see to it that no other site can make a browser send
	// the request: http.CrossOriginProtection does.
	Cookies []string
	// JWTHeader is the header of the response in which Require hands out a fresh JWT
	// whenever it had to ask the API for one. Empty: it does not. Who shows a JWT
	// and never takes a fresh one is good all the same, but once it has expired each
	// of its requests costs one to the API.
	JWTHeader string
	// Origin is the public URL of this service, scheme and host, as clients see it:
	// what a DPoP proof must be about. Empty: https, or http without TLS, and the
	// request's Host. Behind a proxy that ends TLS it must be set.
	Origin string
	// Refused, if set, answers instead of Require to who is not let in, after status
	// and headers are chosen; it must write the status.
	Refused func(w http.ResponseWriter, r *http.Request, status int, err error)

	// Log is told when the feed is lost and found again. Nil: nobody is.
	Log *slog.Logger

	once  sync.Once // guards the making of what follows
	setup settings
	err   error // why the fields are no good

	verified signer.VerifyCache
	keys     keys
	book     book
	running  atomic.Bool
	base     atomic.Uint32 // which of the bases answered last
	state    followState
	clock    clock // nil: the machine's; set by tests, before use
}

// Policy is what happens to a JWT while the client cannot know whether it was
// revoked, because the feed does not run or is silent.
type Policy int

const (
	// Ask asks the API about it; ErrStale when that does not answer either.
	Ask Policy = iota
	// Refuse is ErrStale at once, so that nothing waits for an API that may be as
	// far away as the feed is.
	Refuse
	// Accept takes it until it expires, unless its session is known to be revoked.
	// That gives instant revocation up: whoever can keep the feed from this process
	// can use a revoked JWT to the end of its life. Session.Stale says so.
	Accept
)

// settings are the fields with their defaults.
type settings struct {
	bases         []string
	audience      string
	lease         time.Duration
	timeout       time.Duration
	keyAge        time.Duration
	api, feed     *http.Client
	cookies       []string
	authorization string
	log           *slog.Logger
	clock         clock
}

// clock is the seam through which time enters.
type clock interface {
	Boot() time.Duration
	Wall() time.Time
}

type systemClock struct{}

func (systemClock) Boot() time.Duration { return bootclock.Now() }
func (systemClock) Wall() time.Time     { return time.Now() }

// prepare fills in the defaults, once; its error is that of every call.
func (c *Client) prepare() error {
	c.once.Do(func() { c.err = c.prepared() })
	return c.err
}

func (c *Client) prepared() error {
	s := &c.setup
	for base := range strings.SplitSeq(c.Base, ",") {
		base = strings.TrimRight(strings.TrimSpace(base), "/")
		u, err := url.Parse(base)
		if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
			return errors.New("client: Base must be http or https URLs without user and query, separated by commas")
		}
		s.bases = append(s.bases, base)
	}
	switch {
	case c.App == "" || url.PathEscape(c.App) != c.App:
		return errors.New("client: App must be the id of an app")
	case c.Entries < 0:
		return errors.New("client: Entries may not be negative")
	// A number without a unit is nanoseconds: the node would be pinged without a pause.
	case c.Lease != 0 && c.Lease < leastLease:
		return fmt.Errorf("client: Lease must be %v at least, and is %v", leastLease, c.Lease)
	case c.KeyAge != 0 && c.KeyAge < leastKeyAge:
		return fmt.Errorf("client: KeyAge must be %v at least, and is %v", leastKeyAge, c.KeyAge)
	case c.Timeout != 0 && c.Timeout < leastTimeout:
		return fmt.Errorf("client: Timeout must be %v at least, and is %v", leastTimeout, c.Timeout)
	case c.OnStale < Ask || c.OnStale > Accept:
		return errors.New("client: OnStale must be Ask, Refuse or Accept")
	}
	s.audience = cmp.Or(c.Audience, c.App)
	s.lease = cmp.Or(c.Lease, DefaultLease)
	s.timeout = cmp.Or(c.Timeout, DefaultTimeout)
	s.keyAge = cmp.Or(c.KeyAge, DefaultKeyAge)
	s.cookies = c.Cookies
	if len(s.cookies) == 0 {
		s.cookies = []string{"__Host-session", "session"}
	}
	if c.APIKey != "" {
		s.authorization = "Bearer " + c.APIKey
	}
	s.log = c.Log
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.clock = c.clock
	if s.clock == nil {
		s.clock = systemClock{}
	}
	c.connect()
	c.verified.Entries = c.Entries
	c.book.clock, c.book.app = s.clock, c.App
	c.keys.fixed = c.Issuer
	return nil
}

// connect makes the two clients. The feed has connections of its own, a new one
// each time: one that stands still without being closed is given up, and must not
// be found again in a pool. HTTP/2, which has one connection for all requests and
// keeps it while there is any, is made to look whether it is alive.
func (c *Client) connect() {
	s := &c.setup
	one := http.Client{}
	if c.HTTP != nil {
		one = *c.HTTP
	}
	one.Timeout = 0
	one.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	if one.Transport == nil {
		one.Transport = http.DefaultTransport
	}
	two := one
	if t, ok := one.Transport.(*http.Transport); ok {
		kept := t.Clone()
		if kept.MaxIdleConnsPerHost == 0 {
			kept.MaxIdleConnsPerHost = idleConns
		}
		if kept.HTTP2 == nil {
			kept.HTTP2 = &http.HTTP2Config{SendPingTimeout: s.lease / 6, PingTimeout: s.lease / 6}
		}
		own := kept.Clone()
		own.DisableKeepAlives = true
		one.Transport, two.Transport = kept, own
	}
	s.api, s.feed = &one, &two
}

// String hides the API key.
func (c *Client) String() string { return fmt.Sprintf("client of %s at %s", c.App, c.Base) }

// Format hides the API key from every verb.
func (c *Client) Format(f fmt.State, _ rune) { _, _ = fmt.Fprint(f, c.String()) }

// LogValue hides the API key.
func (c *Client) LogValue() slog.Value { return slog.StringValue(c.String()) }

// CloseIdleConnections closes connections that are not in use. A client that is no
// longer used has no others.
func (c *Client) CloseIdleConnections() {
	if c.prepare() == nil {
		c.setup.api.CloseIdleConnections()
		c.setup.feed.CloseIdleConnections()
	}
}

// Session is a session that was found good.
type Session struct {
	// ID, App and User name it.
	ID, App, User string
	// JWT is what was shown, or a fresh one where the API was asked; empty when the
	// session has none, as in the second in which it ends, or none for Audience.
	JWT string
	// JWTExpires is until when JWT is good; zero without one.
	JWTExpires time.Time
	// IssuedAt is when JWT was made; zero without one.
	IssuedAt time.Time
	// Detail is the session as the API shows it; nil when it was judged here.
	Detail *api.Session
	// Staleness is how old what was known of revocations can have been.
	Staleness time.Duration
	// Stale is set when nothing was known of them: see Accept.
	Stale bool
}

// String hides the JWT.
func (s *Session) String() string { return fmt.Sprintf("session %s of %s", s.ID, s.App) }

// Format hides the JWT from every verb.
func (s *Session) Format(f fmt.State, _ rune) { _, _ = fmt.Fprint(f, s.String()) }

// LogValue hides the JWT and the user.
func (s *Session) LogValue() slog.Value { return slog.StringValue(s.String()) }

// Claims reads the claims of the JWT into v, as encoding/json does.
func (s *Session) Claims(v any) error { return readClaims(s.JWT, v) }

// Ready returns a channel that is closed once Run knows all revocations and holds
// a lease. Before that a JWT is treated as OnStale says. Whoever waits for it should
// not wait for ever: with a wrong APIKey, say, it stays open, and [Client.Status]
// says why.
func (c *Client) Ready() <-chan struct{} { return c.state.ready() }

// Run follows the revocations until ctx ends, and returns nil then. Whatever
// fails meanwhile is tried again, with growing pauses of up to 5 s. It needs an
// APIKey. Only one Run may go on at a time.
func (c *Client) Run(ctx context.Context) error {
	if err := c.prepare(); err != nil {
		return err
	}
	if c.APIKey == "" {
		return errors.New("client: Run needs an APIKey with the scope read")
	}
	if !c.running.CompareAndSwap(false, true) {
		return errors.New("client: it runs already")
	}
	defer c.running.Store(false)
	var all sync.WaitGroup
	all.Go(func() { c.keys.keep(ctx, c) })
	f := &follower{c: c}
	f.follow(ctx)
	all.Wait()
	return nil
}
