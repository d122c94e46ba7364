package client

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"time"

	"github.com/revocast/revocast/node/api"
	"github.com/revocast/revocast/signer"
)

var (
	errNoJWT  = errors.New("the session has no JWT that can be read")
	errNoKey  = errors.New("there is no APIKey to ask the API with")
	errNobody = errors.New("the API cannot be asked about it")
	errTooBig = errors.New("longer than 8 KiB")
)

// Options are what a caller of [Client.VerifyWith] demands beyond a good session.
// Each makes the API judge it.
type Options struct {
	// Proof is the DPoP proof that came with the credential, and the request that it
	// came with. A session that is bound to a key is good only with one.
	Proof *api.DPoPProof
	// Require is how recently and how well the user must have logged in.
	Require *api.Require
}

// Verify says whose session the token or JWT is. A JWT is judged here: signature,
// iss, aud, typ; then the clocks are read, nbf, exp and the lease of the session's
// home are checked and its revocation is looked up, all at one moment. The API is asked about a
// token, about a JWT that has expired (its session may be good: the Session then
// holds a fresh one), that this client has no key or no lease for, or that was made
// about when its user was logged out everywhere.
//
// The error is one of the reasons of this package, by errors.Is. ErrStale means
// that nothing can be said; nobody may be logged out for it.
func (c *Client) Verify(ctx context.Context, credential string) (*Session, error) {
	return c.VerifyWith(ctx, credential, Options{})
}

// VerifyWith is Verify with demands.
func (c *Client) VerifyWith(ctx context.Context, credential string, o Options) (*Session, error) {
	if err := c.prepare(); err != nil {
		return nil, err
	}
	switch {
	case credential == "":
		return nil, refuse(ErrMissing, nil)
	case len(credential) > signer.MaxJWT:
		return nil, refuse(ErrInvalid, errTooBig)
	case !c.isJWT(credential):
		return c.ask(ctx, question{credential: credential, Options: o})
	}
	v, set, err := c.check(ctx, credential)
	q := question{credential: credential, jwt: true, Options: o}
	switch {
	case errors.Is(err, signer.ErrUnknownKey) && c.stolen(credential):
		return nil, refuse(ErrInvalid, err)
	case errors.Is(err, signer.ErrUnknownKey):
		// Of a key that nobody lists any more, or that is not known here yet.
		q.because = err
		return c.ask(ctx, q)
	case set == nil:
		return c.without(ctx, q, err)
	case err != nil:
		return nil, refuse(ErrInvalid, err)
	}
	id, ok := parseSID(v.SessionID)
	if !ok {
		return nil, refuse(ErrInvalid, nil)
	}
	q.subject = subject{
		id: id, user: v.Subject, kid: v.KeyID, iat: v.IssuedAt.UnixMilli(), nbf: v.NotBefore, exp: v.Expires,
	}
	if o.Proof == nil && v.Thumbprint != "" {
		return nil, refuse(ErrProof, nil)
	}
	return c.decide(ctx, &v, q)
}

// isJWT reports whether the credential is one: three parts, of which the first encodes
// a JSON object. A token that an app brought along from another system may have dots
// too. Without an APIKey nothing can be said of tokens, so what has dots is a JWT.
func (c *Client) isJWT(credential string) bool {
	dots := strings.Count(credential, ".")
	return dots == 2 && strings.HasPrefix(credential, "ey") || dots > 0 && c.APIKey == ""
}

// stolen reports whether the JWT names a key that is known to be stolen. Once no list
// has the key any more the API would be asked, and a node that is behind takes it.
func (c *Client) stolen(jwt string) bool {
	kid, _, _, err := signer.PeekForeign(jwt)
	return err == nil && c.book.stolen(kid)
}

// decide judges a JWT whose signature and claims are in order.
func (c *Client) decide(ctx context.Context, v *signer.Verified, q question) (*Session, error) {
	j := c.book.judge(&q.subject, c.setup.lease)
	switch j.verdict {
	case isRevoked:
		return nil, refuse(ErrRevoked, nil)
	case isShut:
		return nil, refuse(ErrSuspended, nil)
	case isUntrue:
		return nil, refuse(ErrInvalid, nil)
	case isExpired:
		q.because = signer.ErrExpired
		if c.APIKey == "" || c.setup.audience != c.App {
			return nil, refuse(ErrExpired, signer.ErrExpired)
		}
		return c.ask(ctx, q)
	case isEarly: // the clocks of this machine and the node differ
		q.because = signer.ErrNotYetValid
		return c.ask(ctx, q)
	case isDoubtful:
		q.known = j.revisions
		return c.ask(ctx, q)
	}
	if q.Proof != nil || q.Require != nil {
		return c.ask(ctx, q)
	}
	s := &Session{
		ID: v.SessionID, App: c.App, User: v.Subject, JWT: q.credential, JWTExpires: v.Expires, IssuedAt: v.IssuedAt,
		Staleness: j.staleness,
	}
	if j.verdict == isStale {
		if c.OnStale == Accept {
			s.Stale = true
			return s, nil
		}
		return c.without(ctx, q, nil)
	}
	return s, nil
}

// without treats a JWT that cannot be judged here.
func (c *Client) without(ctx context.Context, q question, why error) (*Session, error) {
	if c.OnStale == Refuse {
		return nil, refuse(ErrStale, why)
	}
	q.because = why
	return c.ask(ctx, q)
}

// check checks all of a JWT that does not change with time. Without a keySet there
// are no keys that could tell: the JWT may be of a key, or of an issuer, that is newer
// than what could be fetched.
func (c *Client) check(ctx context.Context, jwt string) (signer.Verified, *keySet, error) {
	set, err := c.keys.get(ctx, c)
	if err != nil {
		return signer.Verified{}, nil, err
	}
	v, err := c.checkWith(set, jwt)
	if !errors.Is(err, signer.ErrUnknownKey) && (!errors.Is(err, signer.ErrWrongIssuer) || c.Issuer != "") {
		return v, set, err
	}
	switch late := c.keys.fetch(ctx, c, unknownKeyPause, true); late {
	case nil:
		set = c.keys.current.Load()
		v, err = c.checkWith(set, jwt)
	case errPause: // what is there was fetched a moment ago
	default:
		return signer.Verified{}, nil, late
	}
	return v, set, err
}

func (c *Client) checkWith(set *keySet, jwt string) (v signer.Verified, err error) {
	// nbf and exp are judged later, together with the lease.
	e := signer.Expect{App: c.setup.audience, Now: c.setup.clock.Wall(), AllowExpired: true, AllowEarly: true}
	for _, e.Issuer = range set.issuers {
		if v, err = c.verified.Verify(set.ring, jwt, e); !errors.Is(err, signer.ErrWrongIssuer) {
			break
		}
	}
	if err == nil && v.Issuer != set.issuer(v.Profile, c.App) {
		return signer.Verified{}, signer.ErrWrongIssuer
	}
	return v, err
}

// question is a credential about which the API is asked.
type question struct {
	Options
	credential string
	jwt        bool
	subject    subject  // of a JWT that was checked; the zero one otherwise
	known      []string // what the node must know to answer
	because    error    // why it is asked; nil: it must be
}

// ask asks the API. What it says counts unless a revocation has come that it may
// not have known of: then it is asked once more, for an answer that does.
func (c *Client) ask(ctx context.Context, q question) (*Session, error) {
	if c.APIKey == "" || q.jwt && c.setup.audience != c.App {
		if errors.Is(q.because, signer.ErrUnknownKey) {
			return nil, refuse(ErrInvalid, q.because) // no list that is to be had has it
		}
		return nil, refuse(ErrStale, errors.Join(errNobody, q.because))
	}
	if q.Proof != nil {
		// It counts once, so the one answer has to know of all that was heard.
		q.known = c.book.newest(q.home())
	}
	for range 3 {
		boot := c.setup.clock.Boot()
		answer, err := c.Authenticate(ctx, q.request())
		if err != nil {
			err = refusalOf(errors.Join(err, q.because))
			if errors.Is(err, ErrRevoked) && q.subject.id != (sid{}) {
				c.book.revoke(q.subject.id)
			}
			return nil, err
		}
		id, ok := parseSID(answer.Session.SessionID)
		if !ok || answer.Session.AppID != c.App {
			return nil, refuse(ErrStale, errors.New("the API answered with a session that is none of the app"))
		}
		s := subject{id: id, user: answer.Session.UserID, iat: answer.Session.StartedAt.UnixMilli()}
		if len(q.known) > 0 {
			c.book.asked(&s, q.known)
		}
		// A node that is some milliseconds behind the feed must not let a session in.
		j := c.book.against(&s, q.known)
		switch j.verdict {
		case isRevoked:
			return nil, refuse(ErrRevoked, nil)
		case isShut:
			return nil, refuse(ErrSuspended, nil)
		}
		if len(j.revisions) == 0 {
			return c.answered(answer, c.setup.clock.Boot()-boot), nil
		}
		if q.Proof != nil {
			return nil, refuse(ErrStale, errors.New("its user was logged out meanwhile, and the proof is used up"))
		}
		q.known = append(q.known, j.revisions...)
	}
	return nil, refuse(ErrStale, errors.New("its user is logged out again and again"))
}

// home returns the home stream of the session, if the credential says it: a native
// token does, in byte 0, and no session of a foreign one is bound to a key.
func (q *question) home() (stream byte, ok bool) {
	if q.subject.id != (sid{}) {
		return q.subject.id[0], true
	}
	if q.jwt || len(q.credential) != 44 {
		return 0, false
	}
	var first [3]byte
	_, err := b64.Decode(first[:], []byte(q.credential[:4]))
	return first[0], err == nil
}

func (q *question) request() *api.Authenticate {
	r := &api.Authenticate{DPoP: q.Proof, Require: q.Require}
	if q.jwt {
		r.SessionJWT = q.credential
	} else {
		r.SessionToken = q.credential
	}
	if len(q.known) > 0 {
		r.Consistency, _ = json.Marshal(map[string]string{"at_least": together(q.known)}) // a map of strings
	}
	return r
}

func (c *Client) answered(a *api.SessionAnswer, took time.Duration) *Session {
	s := &Session{
		ID: a.Session.SessionID, App: a.Session.AppID, User: a.Session.UserID, Detail: &a.Session,
		Staleness: time.Duration(a.StalenessMS)*time.Millisecond + took,
	}
	if c.setup.audience != c.App { // the JWT is for another audience, and would be refused here
		return s
	}
	s.JWT = a.SessionJWT
	var times struct {
		Issued  int64 `json:"iat"`
		Expires int64 `json:"exp"`
	}
	if readClaims(a.SessionJWT, &times) == nil {
		s.IssuedAt, s.JWTExpires = time.Unix(times.Issued, 0).UTC(), time.Unix(times.Expires, 0).UTC()
	}
	return s
}
