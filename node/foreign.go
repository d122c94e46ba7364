package node

import (
	"context"
	"errors"
	"strings"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node/api"
	"github.com/revocast/revocast/projection"
)

// Tokens that another system made. Such a token has no form by which it could be
// told from a native one (those of Stytch have the same), so whoever shows a text
// as a token of an app with imported sessions is looked up by both keys.

// importStream returns the number of the stream in which the app's imported
// sessions live, 0 when it has none.
func (n *Node) importStream(app string) (uint8, error) {
	t, ok := n.app(app)
	if !ok || t.Settings.ImportRegion == "" {
		return 0, nil
	}
	region := t.Settings.ImportRegion
	if s := n.streamOf(region); s != nil {
		return s.number, nil
	}
	if r, ok := n.catalog.Snapshot().Region(region); ok {
		return r.Number, nil
	}
	return 0, fail(api.HomeUnreachable, "the imported sessions of app %s are in region %s, which cannot be reached from here", app, region)
}

// foreignKey returns the key of the text as a foreign token of the app, and false
// when it cannot be one: the app has none, or nobody may show such a text.
func (n *Node) foreignKey(app, text string) (key events.SID, ok bool, err error) {
	if app == "" || text == "" || len(text) > events.MaxForeignToken {
		return events.SID{}, false, nil
	}
	number, err := n.importStream(app)
	if err != nil || number == 0 {
		return events.SID{}, false, err
	}
	return events.ForeignKey(app, number, events.TokenHash(text)), true, nil
}

// resolveShown looks up the session of a token that is shown to the app (empty:
// to any), as new as is wanted; Unknown means that there is none. It is not ok
// when the text cannot be a token. At, unless nil, becomes a position of before
// the look-up in the stream that answered.
//
// A session that is known by either key answers at once; only when there is none
// must both streams be certain. Of a native token nothing more is asked than
// without foreign ones, whichever app it is of: it must not get to another system.
func (n *Node) resolveShown(ctx context.Context, app, text string, want consistency, at *events.Position) (a answer, ok bool, err error) {
	key, native := events.Token(text).Key()
	if native && !want.strong {
		n.noteBefore(at, key)
		if a, err = n.byToken(key); err == nil && a.verdict != projection.Unknown {
			return a, true, nil
		}
	}
	foreign, imports, unreachable := n.foreignKey(app, text)
	switch {
	case unreachable != nil && native:
		if a, err = n.resolveToken(ctx, key, want); err == nil && a.verdict == projection.Unknown {
			err = unreachable
		}
		return a, true, err
	case unreachable != nil:
		return answer{}, true, unreachable
	case imports:
		return n.resolveEither(ctx, app, text, key, native, foreign, want, at)
	case !native:
		// That the app has no imported sessions CONFIG may have said otherwise since.
		if stale := n.settings.fenced(); app != "" && stale != nil {
			return answer{}, true, stale
		}
		return answer{}, false, nil
	}
	n.noteBefore(at, key)
	a, err = n.resolveToken(ctx, key, want)
	return a, true, err
}

// resolveEither is resolveShown for a text that may be a native token, with the
// key, and may be a foreign one.
func (n *Node) resolveEither(ctx context.Context, app, text string, key events.SID, native bool, foreign events.SID, want consistency, at *events.Position) (a answer, ok bool, err error) {
	asNative := native
	if native {
		// Which of the two it is, is seen without asking anybody.
		known, err := n.byToken(key)
		isNative := err == nil && known.verdict != projection.Unknown
		known, err = n.byToken(foreign)
		asNative = isNative || err == nil && known.verdict == projection.Unknown
		if asNative {
			n.noteBefore(at, key)
			if a, err = n.resolveToken(ctx, key, want); err != nil || isNative || a.verdict != projection.Unknown {
				return a, true, err
			}
		}
	}
	n.noteBefore(at, foreign)
	a, err = n.resolveOrAsk(ctx, app, text, foreign, want)
	return a, true, err
}

// noteBefore sets at, unless it is nil, to how far this node has come in the
// stream of the key.
func (n *Node) noteBefore(at *events.Position, key events.SID) {
	if at != nil {
		*at = n.positionOf(key.Stream())
	}
}

// isForeign reports whether a text with dots, which in a header or a cookie is
// taken for a JWT, is a token of another system: those of express-session have one
// dot, and a JWT is three parts of which the first encodes a JSON object.
func (n *Node) isForeign(text, app string) bool {
	if app == "" || strings.Count(text, ".") == 2 && strings.HasPrefix(text, "ey") {
		return false
	}
	t, ok := n.app(app)
	return ok && t.Settings.ImportRegion != ""
}

// anyForeign reports whether any app has sessions of foreign tokens. Then a text
// that was shown without saying to which app may be one of those, whatever its form.
func (n *Node) anyForeign() bool {
	for app := range n.catalog.Snapshot().Apps() {
		if app.Settings.ImportRegion != "" && app.State != events.AppDeleted {
			return true
		}
	}
	return false
}

// importTo returns the number of the stream in which imported sessions of the app
// live. An app that never had any gets this node's region, by compare-and-set, and
// then every node must have heard of it before the first of its sessions may exist:
// one that has not would say that there is no such session.
func (n *Node) importTo(ctx context.Context, app, by string) (uint8, error) {
	for range attempts {
		number, err := n.importStream(app)
		if err != nil || number != 0 {
			return number, err
		}
		start := n.conf.Clock.Wall()
		_, pos, err := n.changeApp(ctx, app, by, func(e *events.App) error {
			if e.Settings.ImportRegion == "" {
				e.Settings.ImportRegion = n.home.region
			}
			return nil
		})
		if errors.Is(err, events.ErrConflict) {
			held, _ := n.app(app)
			if err = n.settings.catchUp(ctx, held); err != nil {
				return 0, err
			}
			continue
		}
		if err != nil {
			return 0, err
		}
		n.receipt(ctx, n.settings, pos, start, waitAll, 0)
	}
	return 0, events.ErrConflict
}

// foreignDraft is a session of a foreign token that is about to be created.
type foreignDraft struct {
	draft
	// start is when the log-in was, as far as the other system says (unix ms); 0:
	// not known.
	start int64
	// fresh: the log-in is this very request, so that the order of events tells
	// whether a log-out everywhere came before it.
	fresh bool
}

// createForeign creates the session of a foreign token, whose key is the draft's
// sid, or returns the one that is there: created tells which. A session that has
// ended is never brought back: that is 409.
func (n *Node) createForeign(ctx context.Context, app *events.App, d *foreignDraft) (f found, created bool, err error) {
	d.state.App = app.App
	s, err := n.homeOf(d.state.SID)
	if err != nil {
		return found{}, false, err
	}
	// One after the other, each for itself: what holds for one caller, who may say
	// another user or another beginning, is no answer for the next.
	done, err := n.creating.take(ctx, d.state.SID)
	if err != nil {
		return found{}, false, err
	}
	defer done()
	for range attempts {
		f, created, err = n.createForeignFirst(ctx, s, d, events.Expect(0))
		if !errors.Is(err, events.ErrConflict) {
			return f, created, err
		}
		if err := s.catchUp(ctx, &d.state); err != nil {
			return found{}, false, err
		}
	}
	return found{}, false, events.ErrConflict
}

// createForeignFirst creates the session unless it is there.
func (n *Node) createForeignFirst(ctx context.Context, s *stream, d *foreignDraft, ex events.Expectation) (f found, created bool, err error) {
	// What is known of the stream comes before the look at who was logged out: of
	// what is committed after it, the fold makes sure.
	d.state.AuthSeq = max(s.position().Seq, 1)
	// Its times are of the wall clock, so that has to be right as well.
	if _, stale := n.freshAt(s.number, n.wall()); stale != nil {
		return found{}, false, stale
	}
	if f, err = n.findSID(d.state.App, d.state.SID); err != nil {
		return found{}, false, err
	}
	switch f.verdict {
	case projection.Unknown:
	case projection.Active:
		return f, false, d.sameUser(&f)
	default:
		return found{}, false, foreignEnded(f.verdict)
	}
	if err := n.loggedOutSince(s.number, d); err != nil {
		return found{}, false, err
	}
	if f, err = n.create(ctx, &d.draft, ex); err != nil {
		return found{}, false, err
	}
	return f, true, d.sameUser(&f)
}

// sameUser refuses a token that is a session of somebody else.
func (d *foreignDraft) sameUser(f *found) error {
	if f.User != d.state.User {
		return fail(api.ForeignConflict, "the token is the session of another user").with("field", "user_id")
	}
	return nil
}

func foreignEnded(v projection.Verdict) *failure {
	return fail(api.ForeignEnded, "the session of this token is here and has ended; it is not brought back").with("reason", v.String())
}

// loggedOutSince refuses a session that began before its user, or all of the app,
// was logged out everywhere. The other system may not have heard of that.
func (n *Node) loggedOutSince(stream uint8, d *foreignDraft) error {
	at := n.sessions().GroupRevokedAt(stream, d.state.App, d.state.User)
	if d.fresh || at == 0 || !projection.CoveredAway(d.start, at) {
		return nil
	}
	if d.start == 0 {
		return fail(api.ForeignEnded, "the user was logged out everywhere at %s, and when this session began is not said (started_at)",
			rfc3339(at)).with("reason", projection.Revoked.String()).with("field", "started_at")
	}
	return fail(api.ForeignEnded, "the user was logged out everywhere at %s, after this session began",
		rfc3339(at)).with("reason", projection.Revoked.String())
}
