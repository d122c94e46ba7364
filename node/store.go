package node

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node/api"
	"github.com/revocast/revocast/projection"
)

// The sessions of web frameworks, which make their own tokens and keep data of
// their own: each is the session of a foreign token with that data in its private
// part. A session in which nobody is logged in has a key of another derivation, so
// that its token verifies nowhere.

const (
	// maxStored is how much data a framework may keep in a session, in bytes: with
	// a token of usual length that is what fits into a private part.
	maxStored = 6000
	// anonymousUser begins the user of a session in which nobody is logged in; its
	// sid follows, so that each is alone.
	anonymousUser = "anonymous/"
)

// storeKeys are the keys that the token of a framework may have in the app: of the
// session of a user, and of one in which nobody is logged in.
type storeKeys struct{ user, anonymous events.SID }

func storeKeysOf(app string, stream uint8, token [32]byte) storeKeys {
	return storeKeys{
		user: events.ForeignKey(app, stream, token),
		// No app is named so.
		anonymous: events.ForeignKey("anonymous:"+app, stream, token),
	}
}

// stored is one call about the session of a token.
type stored struct {
	app   *events.App
	token [32]byte
	query url.Values
}

// storeCall reads what every call about one session has.
func (n *Node) storeCall(c *call) (s stored, err error) {
	if s.app, err = n.appOf(c); err != nil {
		return s, err
	}
	text := c.r.PathValue("token_sha256")
	hash, err := hex.DecodeString(text)
	if err != nil || len(hash) != len(s.token) || hex.EncodeToString(hash) != text {
		return s, fail(api.InvalidArgument, "the path names a session by SHA-256 of its token, 64 characters of lower-case hex").with("field", "token_sha256")
	}
	s.token = [32]byte(hash)
	s.query = c.query
	return s, nil
}

// consistency reads the parameters of that: what POST bodies have as JSON.
func (s *stored) consistency(n *Node) (consistency, error) {
	word, revision := s.query.Get("consistency"), s.query.Get("at_least")
	var raw []byte
	var err error
	switch {
	case word != "" && revision != "":
		return consistency{}, fail(api.InvalidArgument, "consistency and at_least: want one").with("field", "consistency")
	case word != "":
		raw, err = marshal(word)
	case revision != "":
		raw, err = marshal(map[string]string{"at_least": revision})
	}
	if err != nil {
		return consistency{}, err
	}
	return n.parseConsistency(raw)
}

// findStored looks up the session of the token. Unknown means that there is none.
func (n *Node) findStored(ctx context.Context, s *stored, want consistency) (found, error) {
	if err := n.reach(ctx, want); err != nil {
		return found{}, err
	}
	number, err := n.importStream(s.app.App)
	switch {
	case err != nil:
		return found{}, err
	case number == 0: // the app never had any
		if stale := n.settings.fenced(); stale != nil { // CONFIG may have said otherwise since
			return found{}, stale
		}
		return n.nothing()
	}
	keys := storeKeysOf(s.app.App, number, s.token)
	look := func() (answer, error) {
		if a, err := n.byToken(keys.user); err != nil || a.verdict != projection.Unknown {
			return a, err
		}
		return n.byToken(keys.anonymous)
	}
	return n.find(s.app.App, number, func() (answer, error) {
		if !want.strong {
			if a, err := look(); err != nil || a.verdict != projection.Unknown || n.conf.Solo {
				return a, err
			}
		}
		return n.settle(ctx, keys.user, want, false, look)
	})
}

// getStored answers GET /v1/store/{token_sha256}.
func (n *Node) getStored(ctx context.Context, c *call) (int, any, error) {
	s, err := n.storeCall(c)
	if err != nil {
		return 0, nil, err
	}
	want, err := s.consistency(n)
	if err != nil {
		return 0, nil, err
	}
	f, err := n.findStored(ctx, &s, want)
	if err != nil {
		return 0, nil, err
	}
	if err := f.active(); err != nil {
		return 0, nil, err
	}
	p, err := n.private(ctx, &f)
	if err != nil {
		return 0, nil, err
	}
	if err := f.active(); err != nil { // reading the private part may take a while
		return 0, nil, err
	}
	if len(p.Data) == 0 { // imported, and no framework has written it yet
		return 0, nil, notFound(projection.Unknown)
	}
	c.warnStale(f)
	return http.StatusOK, &api.StoredAnswer{Freshness: f.freshness(), StoredSession: c.showStored(&f.Session, p)}, nil
}

// showStored shows the token, with which anybody is the user, only to who may make
// sessions anyway: reading them is not being them.
func (c *call) showStored(s *projection.Session, p *events.Private) api.StoredSession {
	out := writtenStored(s)
	out.Data = base64.StdEncoding.EncodeToString(p.Data)
	if !c.caller.may(api.ScopeCreate) {
		return out
	}
	// A token that was handed out since is not the framework's.
	if keys := storeKeysOf(s.App, s.SID.Stream(), events.TokenHash(p.Token.Reveal())); keys.user == s.SID || keys.anonymous == s.SID {
		out.Token = p.Token.Reveal()
	}
	return out
}

func writtenStored(s *projection.Session) api.StoredSession {
	out := api.StoredSession{
		SessionID: s.SID.String(), UserID: s.User,
		StartedAt: date(s.CreatedAt), ExpiresAt: date(s.ExpiresAt), AbsoluteExpiresAt: date(s.AbsoluteAt),
	}
	if nobody(s) {
		out.UserID = ""
	}
	return out
}

// nobody reports whether nobody is logged in by the session.
func nobody(s *projection.Session) bool {
	sid, ok := strings.CutPrefix(s.User, anonymousUser)
	return ok && sid == s.SID.String()
}

// putStored answers PUT /v1/store/{token_sha256}: it creates the session, or replaces its
// data and expiry. A session that has ended stays ended.
func (n *Node) putStored(ctx context.Context, c *call) (int, any, error) {
	s, err := n.storeCall(c)
	if err != nil {
		return 0, nil, err
	}
	d, err := n.storedDraft(c, &s)
	if err != nil {
		return 0, nil, err
	}
	number, err := n.importTo(ctx, s.app.App, c.caller.keyID)
	if err != nil {
		return 0, nil, err
	}
	keys := storeKeysOf(s.app.App, number, s.token)
	d.state.SID = keys.user
	other := keys.anonymous
	if d.state.User == "" {
		d.state.SID, other = keys.anonymous, keys.user
		d.state.User = anonymousUser + keys.anonymous.String()
	}
	if err := n.sameWho(other); err != nil {
		return 0, nil, err
	}
	want := *d // creating it fills in more
	f, created, err := n.createForeign(ctx, s.app, d)
	status := http.StatusCreated
	if err == nil && !created {
		status = http.StatusOK
		f, err = n.changeStored(ctx, c, &s, want.state.SID, func(d *draft) bool {
			same := bytes.Equal(d.private.Data, want.private.Data)
			d.private.Data = want.private.Data
			d.private.Token = eitherToken(d.private.Token, want.private.Token)
			return same
		}, want.state.ExpiresAt)
	}
	if err != nil {
		return 0, nil, storedEnded(err)
	}
	return status, &api.StoredAnswer{Freshness: f.freshness(), StoredSession: writtenStored(&f.Session)}, nil
}

// eitherToken returns the token that is said now, else the one that is known.
func eitherToken(known, said events.Token) events.Token {
	if said != "" {
		return said
	}
	return known
}

// storedDraft reads the body of a PUT.
func (n *Node) storedDraft(c *call, s *stored) (*foreignDraft, error) {
	var req api.PutStored
	if err := c.decode(&req); err != nil {
		return nil, err
	}
	if req.UserID != "" {
		if err := checkUser(req.UserID); err != nil {
			return nil, err
		}
	}
	if req.Token != "" && events.TokenHash(req.Token) != s.token {
		return nil, fail(api.InvalidArgument, "token: the path has the hash of another").with("field", "token")
	}
	data, err := base64.StdEncoding.Strict().DecodeString(req.Data)
	switch {
	case err != nil:
		return nil, fail(api.InvalidArgument, "data: want base64 with padding").with("field", "data")
	case len(data) == 0:
		return nil, fail(api.InvalidArgument, "data: required").with("field", "data")
	case len(data) > maxStored:
		return nil, fail(api.ClaimsTooLarge, "data: %d bytes, over %d; keep in the session what names a thing, and the thing elsewhere", len(data), maxStored).
			with("field", "data").with("limit", maxStored)
	}
	now := n.wall()
	d := &foreignDraft{fresh: true}
	d.state = events.State{
		User: req.UserID, Reason: events.ReasonCreated, By: c.caller.keyID,
		CreatedAt: now, SeenAt: now, AbsoluteAt: now + s.app.Settings.AbsoluteMax*1000,
	}
	if d.state.ExpiresAt, err = n.storedUntil(req.ExpiresAt); err != nil {
		return nil, err
	}
	d.state.ExpiresAt = min(d.state.ExpiresAt, d.state.AbsoluteAt)
	d.private = events.Private{Token: events.Token(req.Token), Data: data}
	if req.UserID != "" {
		d.limit = limitOf(&s.app.Settings, &d.private)
	}
	return d, nil
}

// storedUntil checks when a session is to end, and returns it in unix ms.
func (n *Node) storedUntil(at time.Time) (int64, error) {
	switch {
	case at.IsZero():
		return 0, fail(api.InvalidArgument, "expires_at: required").with("field", "expires_at")
	case at.UnixMilli() <= n.wall():
		return 0, fail(api.InvalidArgument, "expires_at: has passed; a DELETE ends a session").with("field", "expires_at")
	}
	return at.UnixMilli(), nil
}

// sameWho refuses a token that is the session of a user where nobody was logged in,
// or the other way round.
func (n *Node) sameWho(other events.SID) error {
	a, err := n.bySID(other)
	switch {
	case err != nil:
		return err
	case a.verdict == projection.Active:
		return fail(api.ForeignConflict, "the user of a session cannot change: the framework must make a new session id at log-in and at log-out").with("field", "user_id")
	case a.verdict != projection.Unknown:
		return foreignEnded(a.verdict)
	}
	return nil
}

// changeStored changes a stored session: edit says whether its data stays the same,
// and it ends at until or with the longest life it may have. Nothing is written
// when nothing changes.
func (n *Node) changeStored(ctx context.Context, c *call, s *stored, sid events.SID, edit func(*draft) bool, until int64) (found, error) {
	home, err := n.homeOf(sid)
	if err != nil {
		return found{}, err
	}
	done, err := n.storing.take(ctx, sid)
	if err != nil {
		return found{}, err
	}
	defer done()
	// By its token: it may have been given another since, and then that one counts.
	look := func() (found, error) {
		return n.find(s.app.App, sid.Stream(), func() (answer, error) { return n.byToken(sid) })
	}
	return n.change(ctx, c, look, func(_ found, d *draft) (string, error) {
		same, was := edit(d), d.state.ExpiresAt
		d.state.ExpiresAt = min(until, d.state.AbsoluteAt)
		switch {
		case same && d.state.ExpiresAt == was:
			return "", nil
		case home.above(touchBudget):
			return "", tooFull()
		case same:
			return events.ReasonExtended, nil
		}
		return events.ReasonChanged, nil
	})
}

// storedEnded is the error of a write that came to find its session ended.
func storedEnded(err error) error {
	failed, ok := errors.AsType[*failure](err)
	if !ok || failed.kind != api.SessionNotFound {
		return err
	}
	return fail(api.ForeignEnded, "the session of this token is here and has ended; it is not brought back").with("reason", failed.details["reason"])
}

// touchStored answers POST /v1/store/{token_sha256}/touch: it sets the expiry and nothing
// else.
func (n *Node) touchStored(ctx context.Context, c *call) (int, any, error) {
	s, err := n.storeCall(c)
	if err != nil {
		return 0, nil, err
	}
	var req api.TouchStored
	if err := c.decode(&req); err != nil {
		return 0, nil, err
	}
	until, err := n.storedUntil(req.ExpiresAt)
	if err != nil {
		return 0, nil, err
	}
	f, err := n.findStored(ctx, &s, consistency{})
	if err == nil {
		err = f.active()
	}
	if err != nil {
		return 0, nil, err
	}
	if f, err = n.changeStored(ctx, c, &s, f.SID, func(*draft) bool { return true }, until); err != nil {
		return 0, nil, err
	}
	return http.StatusOK, &api.StoredAnswer{Freshness: f.freshness(), StoredSession: writtenStored(&f.Session)}, nil
}

// deleteStored answers DELETE /v1/store/{token_sha256}: it revokes the session, for good.
// One that is not known is 200 with revoked 0.
func (n *Node) deleteStored(ctx context.Context, c *call) (int, any, error) {
	s, err := n.storeCall(c)
	if err != nil {
		return 0, nil, err
	}
	req := &api.Revoke{Reason: s.query.Get("reason"), Wait: s.query.Get("wait")}
	number, err := n.importStream(s.app.App)
	if err != nil {
		return 0, nil, err
	}
	keys := storeKeysOf(s.app.App, number, s.token)
	// What a revoke is recorded for while the home is out of reach.
	req.SessionID = keys.user.String()
	if _, v := n.sessions().Lookup(keys.anonymous, n.judged()); v != projection.Unknown {
		req.SessionID = keys.anonymous.String()
	}
	if err := checkRevoke(req); err != nil {
		return 0, nil, err
	}
	r, err := n.newRevocation(c, req)
	if err != nil {
		return 0, nil, err
	}
	return n.revokeOne(ctx, r, func(ctx context.Context) (found, error) {
		return n.findStored(ctx, &s, consistency{sure: true})
	})
}

// turns lets one at a time change a session. A browser loads a page with twenty
// requests, and a framework writes the session in each; against each other, some
// would run out of attempts.
type turns struct {
	mu   sync.Mutex // guards held
	held map[events.SID]chan struct{}
}

// take waits for the turn, which ends when done is called.
func (t *turns) take(ctx context.Context, sid events.SID) (done func(), err error) {
	mine := make(chan struct{})
	for {
		t.mu.Lock()
		theirs, busy := t.held[sid]
		if !busy {
			if t.held == nil {
				t.held = map[events.SID]chan struct{}{}
			}
			t.held[sid] = mine
		}
		t.mu.Unlock()
		if !busy {
			return func() {
				t.mu.Lock()
				delete(t.held, sid)
				t.mu.Unlock()
				close(mine)
			}, nil
		}
		select {
		case <-theirs:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}
