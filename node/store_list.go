package node

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node/api"
	"github.com/revocast/revocast/projection"
)

// One DELETE /v1/store ends so many sessions, and so many at the same time.
const (
	clearAtOnce  = 500
	clearWriters = 32
)

// eachStored calls yield with the good sessions that frameworks store in the app,
// newest first, a page after the cursor; it returns the cursor of the next page,
// "" after the last.
func (n *Node) eachStored(ctx context.Context, app string, number uint8, want *listing, yield func(*found, *events.Private)) (next string, err error) {
	want.keep = func(v projection.Verdict) bool { return v == projection.Active }
	page, _ := n.page(within(n.sessions().App(app, n.judged()), map[uint8]bool{number: true}), want)
	if len(page) > want.limit {
		page = page[:want.limit]
		next = placeOf(&page[want.limit-1].Session).String()
	}
	for i := range page {
		f := &found{answer: page[i]}
		p, err := n.private(ctx, f)
		if gone, err := n.unlisted(f, err); err != nil {
			return "", err
		} else if !gone && f.verdict == projection.Active && len(p.Data) > 0 {
			yield(f, p)
		}
	}
	return next, nil
}

// listStored answers GET /v1/store. A page may have fewer sessions than its limit,
// even none, and not be the last: sessions that no framework stores count too.
// Each page looks at all sessions of the app.
func (n *Node) listStored(ctx context.Context, c *call) (int, any, error) {
	app, err := n.appOf(c)
	if err != nil {
		return 0, nil, err
	}
	want := listing{limit: defaultLimit}
	if text := c.query.Get("limit"); text != "" {
		if want.limit, err = strconv.Atoi(text); err != nil || want.limit < 1 || want.limit > maxLimit {
			return 0, nil, fail(api.InvalidArgument, "limit: want 1 to %d", maxLimit).with("field", "limit")
		}
	}
	if text := c.query.Get("cursor"); text != "" {
		var ok bool
		if want.cursor, ok = parsePlace(text); !ok {
			return 0, nil, fail(api.InvalidArgument, "cursor: not one that a list returned").with("field", "cursor")
		}
	}
	out := &api.StoredList{Sessions: []api.StoredSession{}}
	number, at, staleness, err := n.storeStream(app.App)
	if err != nil {
		return 0, nil, err
	}
	out.Freshness = found{answer: answer{staleness: staleness}, at: at}.freshness()
	if number == 0 {
		return http.StatusOK, out, nil
	}
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	out.NextCursor, err = n.eachStored(ctx, app.App, number, &want, func(f *found, p *events.Private) {
		out.Sessions = append(out.Sessions, c.showStored(&f.Session, p))
	})
	return http.StatusOK, out, err
}

// storeStream returns the number of the stream in which the app's stored sessions
// live, 0 for none, and how far this node has come there, which it must know for
// certain: it comes before any look-up (rule R3).
func (n *Node) storeStream(app string) (number uint8, at events.Position, staleness time.Duration, err error) {
	if number, err = n.importStream(app); err != nil {
		return 0, at, 0, err
	}
	checked := number
	if number == 0 {
		if stale := n.settings.fenced(); stale != nil { // see findStored
			return 0, at, 0, stale
		}
		checked = n.home.number
	}
	if !n.follows(checked) {
		return 0, at, 0, fail(api.HomeUnreachable, "the stored sessions of app %s are in a region that cannot be reached from here", app)
	}
	at = n.positionOf(checked)
	staleness, stale := n.fresh(checked)
	if stale != nil {
		return 0, at, 0, stale
	}
	return number, at, staleness, nil
}

// clearStore answers DELETE /v1/store: it revokes stored sessions, up to a number,
// and says whether there are more.
func (n *Node) clearStore(ctx context.Context, c *call) (int, any, error) {
	r, err := n.newRevocation(c, &api.Revoke{Reason: c.query.Get("reason")})
	if err == nil {
		err = checkText("reason", r.req.Reason, maxReason)
	}
	if err != nil {
		return 0, nil, err
	}
	number, at, staleness, err := n.storeStream(r.app.App)
	if err != nil {
		return 0, nil, err
	}
	out := &api.StoreCleared{}
	if number != 0 {
		var all []found
		if all, out.More, err = n.toClear(ctx, r.app.App, number); err == nil {
			at, err = n.revokeEach(ctx, r, number, at, all)
		}
		out.Revoked = len(all)
	}
	out.Freshness = found{answer: answer{staleness: staleness}, at: at}.freshness()
	return http.StatusOK, out, err
}

// toClear returns stored sessions of the app, and whether there may be more.
func (n *Node) toClear(ctx context.Context, app string, number uint8) (all []found, more bool, err error) {
	want := listing{limit: clearAtOnce}
	for {
		next, err := n.eachStored(ctx, app, number, &want, func(f *found, _ *events.Private) { all = append(all, *f) })
		if err != nil || next == "" || len(all) > 0 {
			return all, next != "", err
		}
		want.cursor, _ = parsePlace(next)
	}
}

// revokeEach revokes the sessions and returns the newest of their positions, at
// least at.
func (n *Node) revokeEach(ctx context.Context, r *revocation, number uint8, at events.Position, all []found) (events.Position, error) {
	home, err := n.homeOf(events.SID{number})
	if err != nil {
		return at, err
	}
	placed := make([]events.Position, len(all))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(clearWriters)
	for i := range all {
		g.Go(func() (err error) {
			placed[i], err = n.revokeOneIn(ctx, r, home, all[i])
			return err
		})
	}
	err = g.Wait()
	for _, p := range placed {
		if p.Gen > at.Gen || p.Gen == at.Gen && p.Seq > at.Seq {
			at = p
		}
	}
	return at, err
}
