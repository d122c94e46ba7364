package node

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node/api"
	"github.com/revocast/revocast/projection"
	"github.com/revocast/revocast/signer"
)

// found is an answer and a position it reflects at least: the position is read
// before the lookup. Read after it, it would promise revocations that the
// lookup had not seen.
type found struct {
	answer
	at events.Position
	// plain is the private part if it is at hand, opened.
	plain []byte
	// shown is the JWT by which the session was found, if it was one.
	shown string
}

// find looks a session up for an app. What belongs to another app, and what no
// longer says whose it is, is unknown.
//
// The number is that of the stream in which the session lives.
func (n *Node) find(app string, number uint8, look func() (answer, error)) (found, error) {
	at := n.positionOf(number)
	a, err := look()
	if err != nil {
		return found{}, err
	}
	if a.App != app {
		a = answer{staleness: a.staleness}
	}
	return found{answer: a, at: at}, nil
}

// positionOf returns how far this node has come in the stream of the number; of
// one in which no session lives that it knows, in its region's.
func (n *Node) positionOf(number uint8) events.Position {
	if s := n.stream(number); s != nil && s != n.settings {
		return s.position()
	}
	return n.home.position()
}

// findSID looks a session up by its id. Unknown means that this node has not
// heard of it.
func (n *Node) findSID(app string, sid events.SID) (found, error) {
	return n.find(app, sid.Stream(), func() (answer, error) { return n.bySID(sid) })
}

// lookSID looks a session up by its id. Unknown means that there is none.
func (n *Node) lookSID(ctx context.Context, app string, sid events.SID, want consistency) (found, error) {
	return n.find(app, sid.Stream(), func() (answer, error) { return n.resolveSID(ctx, sid, want) })
}

// findCredential is findShown for who cannot show a proof of possession: a session
// that is bound to a key is refused, except to take it away.
func (n *Node) findCredential(ctx context.Context, app, token, jwt string, when jwtTime, want consistency) (found, error) {
	f, err := n.findShown(ctx, app, token, jwt, when, want)
	if err == nil && f.Bound && f.verdict == projection.Active && when != jwtEver {
		return found{}, unproved()
	}
	return f, err
}

// findShown looks up the session of a token or of a JWT, of which exactly one is
// not empty. If it is bound to a key, the caller demands the proof, or hands on
// that one is needed. Whoever may show an expired JWT has shown an API key, too.
// Unknown means that there is none.
//
// What has not the form of a token, or is no JWT of the app, is a session
// nobody knows. A JWT that only seems too young says nothing against its session.
func (n *Node) findShown(ctx context.Context, app, token, jwt string, when jwtTime, want consistency) (found, error) {
	if jwt == "" {
		return n.findToken(ctx, app, token, want)
	}
	v, err := n.verifyJWT(ctx, app, jwt, when)
	if errors.Is(err, signer.ErrNotYetValid) {
		return found{}, tooEarly().because(err)
	}
	if undecided(err) {
		return found{}, err
	}
	sid, bad := events.ParseSID(v.SessionID)
	if err != nil || bad != nil {
		return n.nothing()
	}
	f, err := n.lookSID(ctx, app, sid, want)
	if err == nil && f.verdict != projection.Unknown && f.User != v.Subject {
		return n.nothing()
	}
	f.Bound = f.Bound || v.Thumbprint != "" && f.verdict != projection.Unknown
	f.shown = jwt
	return f, err
}

// findToken is findCredential for a token, native or foreign.
func (n *Node) findToken(ctx context.Context, app, token string, want consistency) (found, error) {
	var at events.Position
	a, ok, err := n.resolveShown(ctx, app, token, want, &at)
	switch {
	case err != nil:
		return found{}, err
	case !ok:
		return n.nothing()
	case a.App != app:
		a = answer{staleness: a.staleness}
	}
	if a.verdict == projection.Unknown && !want.sure && !want.again {
		err = n.reusedToken(ctx, app, token)
	}
	return found{answer: a, at: at}, err
}

// nothing is the answer about a session that nobody knows. Even that is not
// said without a lease.
func (n *Node) nothing() (found, error) {
	return n.find("", n.home.number, func() (answer, error) {
		staleness, stale := n.fresh(n.home.number)
		if stale != nil {
			return answer{}, stale
		}
		return answer{staleness: staleness}, nil
	})
}

// active returns the failure of a session that is not good.
func (f found) active() error {
	if f.verdict != projection.Active {
		return notFound(f.verdict)
	}
	return nil
}

// notFound is how every session that is not good is answered, whyever: the
// clients of Stytch sign out on this error type and on no other.
func notFound(v projection.Verdict) *failure {
	return fail(api.SessionNotFound, "no such session, or it has ended").with("reason", v.String())
}

// tooEarly is how a JWT is answered that counts from a time still to come here.
// Nobody was logged out.
func tooEarly() *failure {
	return fail(api.JWTNotYetValid, "the JWT is not valid yet: the clocks of the node that minted it and of this one differ; ask again, or with the token")
}

// freshness is what every answer about sessions says.
func (f found) freshness() api.Freshness {
	return api.Freshness{Revision: f.at.String(), StalenessMS: f.staleness.Milliseconds()}
}

// warnStale says on the answer that it comes from a node without a lease.
func (c *call) warnStale(f found) {
	if f.stale != "" {
		c.h.Set("X-Session-Freshness", staleHeader(f.answer))
	}
}

func staleHeader(a answer) string {
	return "stale; reason=" + a.stale + "; staleness_ms=" + strconv.FormatInt(a.staleness.Milliseconds(), 10)
}

// fenced returns why the stream's lease is not held, nil while it is.
func (s *stream) fenced() *staleError {
	if s.lease.holds(s.node.conf.Clock.Boot()) {
		return nil
	}
	return &staleError{stream: s.region, reason: s.lease.why()}
}

// view returns the session as the API shows it.
func (n *Node) view(s *projection.Session, v projection.Verdict, p *events.Private) (api.Session, error) {
	out := api.Session{
		SessionID: s.SID.String(), AppID: s.App, UserID: s.User, Status: v.String(),
		StartedAt: date(s.CreatedAt), LastAccess: date(max(s.SeenAt, s.CreatedAt)),
		ExpiresAt: date(s.ExpiresAt), AbsoluteExpiresAt: date(s.AbsoluteAt),
		Attributes:   api.Attributes{IPAddress: p.Attributes.IPAddress, UserAgent: p.Attributes.UserAgent},
		Factors:      []json.RawMessage{},
		CustomClaims: object(p.CustomClaims), Metadata: object(p.Metadata),
		Roles: n.rolesOf(s.App, p.Roles), OrganizationID: p.Organization.ID, OrganizationSlug: p.Organization.Slug,
		Actor: p.Actor, AssuranceLevel: level(p), RevokedBy: s.RevokedBy, RevokeReason: s.RevokeReason,
	}
	_, out.AuthenticatedAt = factorClaims(p.Factors, date(s.CreatedAt), n.conf.Clock.Wall())
	out.AuthenticatedAt = out.AuthenticatedAt.UTC()
	if home := n.stream(s.SID.Stream()); home != nil {
		out.Region, out.Revision = home.region, home.at(s.StateSeq).String()
	}
	if len(p.Factors) > 0 {
		if err := json.Unmarshal(p.Factors, &out.Factors); err != nil {
			return out, fmt.Errorf("session %s: factors: %w", s.SID, err)
		}
	}
	if s.Idle > 0 {
		idle := date(max(s.SeenAt, s.CreatedAt) + s.Idle*1000)
		out.IdleExpiresAt = &idle
	}
	if p.Thumbprint != "" {
		out.Bind = &api.Bind{DPoPJKT: p.Thumbprint}
	}
	if v == projection.Revoked && s.RevokedAt != 0 {
		at := date(s.RevokedAt)
		out.RevokedAt = &at
	}
	return out, nil
}

func date(ms int64) time.Time { return time.UnixMilli(ms).UTC() }

// object returns a JSON object that may be missing.
func object(raw json.RawMessage) json.RawMessage {
	if len(raw) == 0 {
		return json.RawMessage("{}")
	}
	return raw
}

// answered is the answer about one session: create, authenticate, rotate, patch.
func (n *Node) answered(ctx context.Context, c *call, f found, token events.Token) (*api.SessionAnswer, error) {
	p, err := n.private(ctx, &f)
	if err != nil {
		return nil, err
	}
	s, err := n.view(&f.Session, f.verdict, p)
	if err != nil {
		return nil, err
	}
	out := &api.SessionAnswer{
		Freshness: f.freshness(), Session: s, SessionToken: token.Reveal(), User: &api.User{UserID: f.User},
	}
	c.warnStale(f)
	if f.stale != "" {
		return out, nil // a fenced node mints nothing
	}
	jwt, _, err := n.mint(ctx, f, p, jwtOrder{})
	switch {
	case errors.Is(err, signer.ErrTooLarge):
		// The session is good and its token works; only its JWT does not exist.
		c.h.Set(warningHeader, "jwt_too_large")
	case err != nil:
		return nil, err
	default:
		out.SessionJWT = jwt
		c.warnLong(jwt)
	}
	return out, nil
}

const warningHeader = "X-Session-Warning"

// warnLong reports a JWT that does not fit into a cookie.
func (c *call) warnLong(jwt string) {
	if len(jwt) > signer.CookieLimit {
		c.h.Set(warningHeader, "jwt_over_4096_bytes")
	}
}

// draft is a state about to be written.
type draft struct {
	state   events.State
	private events.Private
	plain   []byte // the private part as it was written
	limit   limit  // of a new session
}

// attempts is how often a change is computed anew when others change the same.
const attempts = 8

// conflictPause is the time between two attempts while what is in the way is
// neither stored nor lost.
const conflictPause = 100 * time.Millisecond

// change writes a new state of a session: edit turns a copy of the newest into
// it and says what kind of change it is, or "" for none. Each attempt begins
// with find, so that a session that ended meanwhile is never brought back. It
// returns the session as it is afterwards.
func (n *Node) change(ctx context.Context, c *call, find func() (found, error), edit func(f found, d *draft) (reason string, err error)) (found, error) {
	for range attempts {
		f, err := find()
		if err != nil {
			return found{}, err
		}
		if err := f.active(); err != nil {
			return found{}, err
		}
		newest := f.StateSeq
		p, err := n.private(ctx, &f)
		if err != nil {
			return found{}, err
		}
		if f.StateSeq != newest {
			continue // the token shown may not be of the newer state
		}
		d := &draft{state: stateOf(&f.Session), private: *p}
		d.state.By = c.caller.keyID
		if d.state.Reason, err = edit(f, d); err != nil || d.state.Reason == "" {
			return f, err
		}
		d.state.Changes = changesBetween(p, &d.private)
		if f.stale != "" {
			return found{}, &staleError{stream: n.stream(f.SID.Stream()).region, reason: f.stale}
		}
		expect := events.Expect(f.StateSeq)
		if n.faults.blindChange {
			expect = events.Expectation{}
		}
		pos, err := n.writeState(ctx, d, expect)
		if errors.Is(err, events.ErrConflict) {
			if err := n.stream(d.state.SID.Stream()).catchUp(ctx, &d.state); err != nil {
				return found{}, err
			}
			continue
		} else if err != nil {
			return found{}, err
		}
		if f, err = n.written(d, pos); err != nil {
			return found{}, err
		}
		return f, f.active()
	}
	return found{}, events.ErrConflict
}

// written returns the draft's session after it was written at pos, good or not.
func (n *Node) written(d *draft, pos events.Position) (found, error) {
	f, err := n.findSID(d.state.App, d.state.SID)
	if err != nil {
		return found{}, err
	}
	if f.verdict == projection.Unknown {
		// Committed, and not to be seen. On "not found" clients would forget
		// what they were given.
		return found{}, fmt.Errorf("%w: nothing is known of what was written at %s", events.ErrUnavailable, pos)
	}
	f.at = pos
	if s := n.stream(f.SID.Stream()); s != nil && s.at(f.StateSeq) == pos {
		f.plain = d.plain
	}
	return f, nil
}

// stateOf returns the newest state of the session, for the next to be made of. A
// replaced token stays in it when its grace is over, to be known for one.
func stateOf(s *projection.Session) events.State {
	e := events.State{
		App: s.App, User: s.User, SID: s.SID,
		CreatedAt: s.CreatedAt, ExpiresAt: s.ExpiresAt, AbsoluteAt: s.AbsoluteAt,
		Idle: s.Idle, SeenAt: s.SeenAt, Prev: s.StateSeq, CreatedSeq: s.CreatedSeq, AuthSeq: s.AuthSeq,
		OriginalUntil: s.OriginalUntil, Bound: s.Bound,
	}
	for _, a := range s.Aliases {
		if !a.Key.IsZero() {
			e.Aliases = append(e.Aliases, a)
		}
	}
	return e
}

func (n *Node) writeState(ctx context.Context, d *draft, ex events.Expectation) (events.Position, error) {
	private, err := sealable(&d.private)
	if err != nil {
		return events.Position{}, err
	}
	s, err := n.homeOf(d.state.SID)
	if err != nil {
		return events.Position{}, err
	}
	pos, err := s.write(ctx, &d.state, private, n.life(d.state.ExpiresAt), ex)
	d.plain = private
	return pos, err
}

// homeOf returns the stream in which the session lives, and to which every
// change of it goes.
func (n *Node) homeOf(sid events.SID) (*stream, error) {
	if s := n.stream(sid.Stream()); s != nil && s != n.settings {
		return s, nil
	}
	return nil, fail(api.HomeUnreachable, "the home of the session, stream %d, cannot be reached from here", sid.Stream())
}

// life returns how long an event about a session stays in the log.
func (n *Node) life(until int64) time.Duration {
	return max(0, time.Duration(until-n.wall())*time.Millisecond) + events.TTLSlack
}

// catchUp returns once readers see what stands on the event's subject, which
// somebody wrote before us. If that is what the event was computed from, the
// other one is still on its way, and catchUp pauses.
func (s *stream) catchUp(ctx context.Context, e events.Event) error {
	ctx, cancel := context.WithTimeout(ctx, s.patience(e))
	defer cancel()
	var prev uint64
	switch e := e.(type) {
	case *events.State:
		prev = e.Prev
	case *events.RevokeAll:
		prev = e.Prev
	case *events.Setting:
		prev = e.Prev
	case *events.Work:
		prev = e.Prev
	}
	last, err := s.log.Last(ctx, e.Subject(s.region).String())
	if err != nil && !errors.Is(err, events.ErrNotFound) {
		return err
	}
	if last.Seq != prev {
		return s.wait(ctx, last.Seq)
	}
	timer := time.NewTimer(conflictPause)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done(): // the caller's next attempt says so
	}
	return nil
}

// marshal is json.Marshal that leaves <, > and & as they are: what a client
// sent comes back as it was, and counts as long as it is.
func marshal(v any) ([]byte, error) {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, fmt.Errorf("encode: %w", err)
	}
	return bytes.TrimSuffix(buf.Bytes(), []byte("\n")), nil
}

// checkText refuses text that is too long, has control characters or is not
// UTF-8.
func checkText(field, s string, limit int) error {
	switch {
	case len(s) > limit:
		return fail(api.InvalidArgument, "%s: over %d bytes", field, limit).with("field", field)
	case !utf8.ValidString(s):
		return fail(api.InvalidArgument, "%s: not UTF-8", field).with("field", field)
	}
	for _, r := range s {
		if unicode.IsControl(r) {
			return fail(api.InvalidArgument, "%s: has control characters", field).with("field", field)
		}
	}
	return nil
}

// checkUser refuses what cannot be a user id. Anything else is one, and comes
// back verbatim.
func checkUser(id string) error {
	if id == "" {
		return fail(api.InvalidArgument, "user_id: required").with("field", "user_id")
	}
	return checkText("user_id", id, events.MaxUser)
}

// maxMinutes is the longest life of a session, 366 days.
const maxMinutes = 527_040

// checkMinutes refuses a duration out of range; 0 means that none was given.
func checkMinutes(field string, minutes int64) error {
	if minutes < 0 || minutes > maxMinutes {
		return fail(api.InvalidArgument, "%s: want 1 to %d", field, maxMinutes).with("field", field)
	}
	return nil
}

// appOf returns the app on whose behalf the call is made.
func (n *Node) appOf(c *call) (*events.App, error) {
	if c.caller.app == "" {
		return nil, fail(api.InvalidArgument, "a cluster admin key must say which app it acts for")
	}
	t, ok := n.catalog.Snapshot().App(c.caller.app)
	if !ok {
		return nil, fail(api.AppNotFound, "no app %s", c.caller.app)
	}
	return t, nil
}

// pathSID returns the session id in the path. Text that names no session is a
// session nobody knows.
func (c *call) pathSID() (events.SID, error) {
	sid, err := events.ParseSID(c.r.PathValue("sid"))
	if err != nil {
		_, stale := c.n.nothing()
		if stale != nil {
			return sid, stale
		}
		return sid, notFound(projection.Unknown)
	}
	return sid, nil
}
