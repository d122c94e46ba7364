package node

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"iter"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node/api"
	"github.com/revocast/revocast/projection"
)

// Sessions on a page.
const (
	defaultLimit = 100
	maxLimit     = 500
)

// Private parts that are not kept here are read for a page so many at a time, and
// within that time.
const (
	listFetchers = 32
	listTimeout  = 10 * time.Second
)

// listing is what GET /v1/sessions was asked for.
type listing struct {
	user   string // empty: of the whole app
	keep   func(projection.Verdict) bool
	limit  int
	cursor *place // nil: from the beginning
}

// place is where a session stands in a list: newest first, those of one
// millisecond by their ids. It never changes, so pages neither repeat nor skip
// a session that was there all the time, whatever happens between them.
type place struct {
	createdAt int64
	sid       events.SID
}

func (p place) compare(q place) int {
	return cmp.Or(cmp.Compare(q.createdAt, p.createdAt), bytes.Compare(q.sid[:], p.sid[:]))
}

func placeOf(s *projection.Session) place { return place{s.CreatedAt, s.SID} }

func (p place) String() string {
	b := binary.BigEndian.AppendUint64(nil, uint64(p.createdAt))
	return base64.RawURLEncoding.EncodeToString(append(b, p.sid[:]...))
}

func parsePlace(text string) (*place, bool) {
	b, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || len(b) != 8+len(events.SID{}) {
		return nil, false
	}
	return &place{int64(binary.BigEndian.Uint64(b)), events.SID(b[8:])}, true
}

// listSessions answers GET /v1/sessions: those of a user, or without user_id of
// the whole app, newest first. Listing an app looks at all its sessions for
// each page; it holds up nobody, but it is not for every request.
func (n *Node) listSessions(ctx context.Context, c *call) (int, any, error) {
	want, err := parseListing(c.query)
	if err != nil {
		return 0, nil, err
	}
	app, err := n.appOf(c)
	if err != nil {
		return 0, nil, err
	}
	at := n.home.position()
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	for apart := map[uint8]bool{}; ; {
		began := n.conf.Clock.Boot()
		known, missing, staleness, err := n.listable(apart)
		if err != nil {
			return 0, nil, err
		}
		page, total := n.page(within(n.all(app.App, want.user), known), &want)
		out := &api.SessionList{Total: total, Incomplete: missing}
		if len(page) > want.limit {
			page = page[:want.limit]
			out.NextCursor = placeOf(&page[want.limit-1].Session).String()
		}
		out.Sessions, err = n.views(ctx, page)
		if failed, ok := errors.AsType[*apartError](err); ok && failed.number != n.home.number {
			apart[failed.number] = true // what cannot be shown is not listed at all
			continue
		}
		staleness += n.conf.Clock.Boot() - began
		out.Freshness = found{answer: answer{staleness: staleness}, at: at}.freshness()
		return http.StatusOK, out, err
	}
}

// all yields the sessions of the user, or without one those of the app.
func (n *Node) all(app, user string) iter.Seq2[projection.Session, projection.Verdict] {
	if user != "" {
		return n.sessions().User(app, user, n.judged())
	}
	return n.sessions().App(app, n.judged())
}

// apartError says that nothing can be said of the sessions of a region, and why.
type apartError struct {
	number uint8
	region string
	cause  error
}

func (e *apartError) Error() string { return "region " + e.region + ": " + e.cause.Error() }
func (e *apartError) Unwrap() error { return e.cause }

// views returns the sessions as the API shows them. Those that left the log with
// their private part since they were looked up, or ended, are left out.
func (n *Node) views(ctx context.Context, page []answer) ([]api.Session, error) {
	all, gone, waited := make([]found, len(page)), make([]bool, len(page)), false
	g, reading := errgroup.WithContext(ctx)
	g.SetLimit(listFetchers)
	for i := range page {
		all[i].answer = page[i]
		if page[i].Sealed.Empty() {
			waited = true
			g.Go(func() (err error) {
				_, err = n.private(reading, &all[i])
				gone[i], err = n.unlisted(&all[i], err)
				return err
			})
		}
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	out := make([]api.Session, 0, len(page))
	for i := range all {
		if gone[i] {
			continue
		}
		s, gone, err := n.show(ctx, &all[i], waited)
		if err != nil {
			return nil, err
		}
		if !gone {
			out = append(out, s)
		}
	}
	return out, nil
}

// show returns one session of a list. While others were waited for it may have
// ended, and so may the lease.
func (n *Node) show(ctx context.Context, f *found, waited bool) (s api.Session, gone bool, err error) {
	if waited {
		now := f.answer
		if err = n.again(&now); err == nil && now.stale != "" {
			err = &staleError{stream: n.regionOf(f.SID.Stream()), reason: now.stale}
		}
		if err == nil && f.plain == nil {
			f.answer = now
		}
	}
	var p *events.Private
	if err == nil {
		p, err = n.private(ctx, f)
	}
	if err == nil {
		s, err = n.view(&f.Session, f.verdict, p)
	}
	gone, err = n.unlisted(f, err)
	return s, gone, err
}

// unlisted tells from the error about a session in a list whether it is left out,
// or all of its region.
func (n *Node) unlisted(f *found, err error) (gone bool, _ error) {
	failed, ok := errors.AsType[*failure](err)
	_, stale := errors.AsType[*staleError](err)
	switch {
	case ok && failed.kind == api.SessionNotFound:
		return true, nil
	case stale, ok && failed.kind == api.HomeUnreachable:
		return false, &apartError{f.SID.Stream(), n.regionOf(f.SID.Stream()), err}
	}
	return false, err
}

// regionOf returns the region whose stream has the number.
func (n *Node) regionOf(number uint8) string {
	if s := n.stream(number); s != nil {
		return s.region
	}
	return strconv.Itoa(int(number))
}

// listable returns the numbers of the streams on which this node holds a lease,
// how far it may be behind any of them, and the regions of all others there are:
// of their sessions it can say nothing, least of all that they are active, nor does
// it of those apart. Without its own region's there is no list. It comes before any
// look-up (rule R3).
func (n *Node) listable(apart map[uint8]bool) (known map[uint8]bool, missing []string, staleness time.Duration, err error) {
	if _, stale := n.fresh(n.home.number); stale != nil {
		return nil, nil, 0, stale
	}
	known = map[uint8]bool{}
	for _, s := range n.streams() {
		if s == n.settings {
			continue
		}
		age, stale := n.fresh(s.number)
		if stale != nil || apart[s.number] {
			missing = append(missing, s.region)
			continue
		}
		known[s.number], staleness = true, max(staleness, age)
	}
	for r := range n.catalog.Snapshot().Regions() {
		if !known[r.Number] && !slices.Contains(missing, r.Region) {
			missing = append(missing, r.Region)
		}
	}
	slices.Sort(missing)
	return known, missing, staleness, nil
}

// within yields those of the sessions that live in the streams.
func within(all iter.Seq2[projection.Session, projection.Verdict], streams map[uint8]bool) iter.Seq2[projection.Session, projection.Verdict] {
	return func(yield func(projection.Session, projection.Verdict) bool) {
		for s, v := range all {
			if streams[s.SID.Stream()] && !yield(s, v) {
				return
			}
		}
	}
}

// page returns the sessions that come next, one more than the limit if there
// are more, and how many match at all. It holds no more than a few pages,
// however many sessions an app has.
func (n *Node) page(all iter.Seq2[projection.Session, projection.Verdict], want *listing) (page []answer, total int) {
	sortPage := func() {
		slices.SortFunc(page, func(a, b answer) int { return placeOf(&a.Session).compare(placeOf(&b.Session)) })
		page = page[:min(len(page), want.limit+1)]
	}
	for s, v := range all {
		v = n.held(&s, v)
		if !want.keep(v) {
			continue
		}
		total++
		if want.cursor != nil && placeOf(&s).compare(*want.cursor) <= 0 {
			continue
		}
		if page = append(page, answer{Session: s, verdict: v}); len(page) >= 4*(want.limit+1) {
			sortPage()
		}
	}
	sortPage()
	return page, total
}

// parseListing reads the query.
func parseListing(q url.Values) (want listing, err error) {
	want = listing{limit: defaultLimit, keep: func(v projection.Verdict) bool { return v == projection.Active }}
	for name, values := range q {
		switch value := values[0]; name {
		case "user_id":
			want.user, err = value, checkUser(value)
		case "status":
			want.keep, err = parseStatus(value)
		case "limit":
			if want.limit, err = strconv.Atoi(value); err != nil || want.limit < 1 || want.limit > maxLimit {
				err = fail(api.InvalidArgument, "limit: want 1 to %d", maxLimit).with("field", "limit")
			}
		case "cursor":
			var ok bool
			if want.cursor, ok = parsePlace(value); !ok {
				err = fail(api.InvalidArgument, "cursor: not one that a list returned").with("field", "cursor")
			}
		}
		if err != nil {
			return want, err
		}
	}
	return want, nil
}

func parseStatus(text string) (keep func(projection.Verdict) bool, err error) {
	if text == "all" {
		return func(projection.Verdict) bool { return true }, nil
	}
	for _, v := range []projection.Verdict{projection.Active, projection.IdleExpired, projection.Expired, projection.Revoked} {
		if v.String() == text {
			return func(w projection.Verdict) bool { return w == v }, nil
		}
	}
	return nil, fail(api.InvalidArgument, "status: want active, idle, expired, revoked or all").with("field", "status")
}
