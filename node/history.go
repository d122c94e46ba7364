package node

import (
	"cmp"
	"context"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node/api"
	"github.com/revocast/revocast/projection"
)

// typeOf gives the reasons of a state their type in a history.
var typeOf = map[string]string{
	events.ReasonCreated:  "session.created",
	events.ReasonExtended: "session.extended",
	events.ReasonChanged:  "session.changed",
	events.ReasonRotated:  "session.rotated",
	events.ReasonRepaired: "session.repaired",
	events.ReasonErased:   "session.erased",
}

// unverified is the reason shown of a revocation that is not authentic: it took
// away all the same, and nothing in it can be believed.
const unverified = "unverified"

// sessionEvents answers GET /v1/sessions/{sid}/events from the archive, also
// for a session that no longer is in memory. That the session is the caller's
// follows from the subjects asked for.
func (n *Node) sessionEvents(ctx context.Context, c *call) (int, any, error) {
	app, err := n.appOf(c)
	if err != nil {
		return 0, nil, err
	}
	sid, err := c.pathSID()
	if err != nil {
		return 0, nil, err
	}
	f, err := n.lookSID(ctx, app.App, sid, consistency{})
	if err != nil {
		return 0, nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, appendTimeout)
	defer cancel()
	h := history{n: n, app: app.App, sid: sid, nonces: map[string]bool{}, said: map[said]bool{}}
	if err := h.read(ctx); err != nil {
		return 0, nil, err
	}
	if len(h.records) == 0 && f.verdict == projection.Unknown {
		return 0, nil, notFound(f.verdict)
	}
	return http.StatusOK, &api.SessionEvents{Freshness: f.freshness(), Events: h.ended(h.events(), &f)}, nil
}

// history collects what the archive holds about one session.
type history struct {
	n   *Node
	app string
	sid events.SID

	records []events.Record
	nonces  map[string]bool // of records taken: a copy of a message is no second event
	said    map[said]bool   // revocations taken: one that is appended again is no second one

	user     string         // hash; empty while unknown
	birth    uint64         // sequence at which the session counts as created; 0 unknown
	absolute int64          // unix ms; 0 unknown
	last     *events.Record // the newest state, for what the session's own projection no longer knows
	created  int64          // unix ms
}

// read takes the session's own events first: they say whose it is, and so which
// revocations of a user or the app may concern it.
func (h *history) read(ctx context.Context) error {
	region := h.n.home.region
	own := func(k events.Kind) string {
		return "ev." + region + "." + h.app + ".*." + h.sid.String() + "." + string(k)
	}
	err := h.n.conf.Archive.History(ctx, []string{own(events.KindState), own(events.KindRevoke)}, func(a events.Archived) bool {
		h.takeOwn(h.decode(a))
		return true
	})
	if err != nil || h.birth == 0 {
		return err
	}
	var all []string
	for _, user := range []string{"", h.user} {
		s := events.Subject{Region: region, App: h.app, User: user, Kind: events.KindAll}
		delivered := s
		delivered.ID = strconv.Itoa(int(h.n.home.number)) // recorded elsewhere first
		all = append(all, s.String(), delivered.String())
	}
	return h.n.conf.Archive.History(ctx, all, func(a events.Archived) bool {
		h.takeAll(h.decode(a))
		return true
	})
}

// decode returns the record as the stream of origin has it; the archive counts
// its own sequences.
func (h *history) decode(a events.Archived) events.Record {
	e := a.Entry
	e.Seq = a.Origin
	return h.n.conf.Keys.Decode(h.n.home.number, e)
}

// fresh reports whether the record is no copy of one that was taken.
func (h *history) fresh(r events.Record) bool {
	nonce := string(r.Sealed.Nonce())
	if nonce == "" {
		return true
	}
	seen := h.nonces[nonce]
	h.nonces[nonce] = true
	return !seen
}

// said is what a revocation says.
type said struct {
	user       string
	all        bool
	at         int64
	by, reason string
}

// heard reports whether the same was taken before: a repair, or a new seal.
func (h *history) heard(what said) bool {
	before := h.said[what]
	h.said[what] = true
	return before
}

func (h *history) takeOwn(r events.Record) {
	switch e := r.Event.(type) {
	case *events.State:
		if !h.fresh(r) {
			return
		}
		h.user, h.absolute, h.created = r.Subject.User, e.AbsoluteAt, e.CreatedAt
		for _, seq := range []uint64{r.Seq, e.CreatedSeq, next(e.AuthSeq)} {
			if seq != 0 && (h.birth == 0 || seq < h.birth) {
				h.birth = seq
			}
		}
		if h.last == nil || r.Seq > h.last.Seq {
			h.last = &r
		}
	case *events.Revoke:
		if !h.fresh(r) || h.heard(said{at: e.At, by: e.By, reason: e.Reason}) {
			return
		}
	default:
		// Not authentic, or of a version to come. Only a revocation counts.
		if r.Subject.Kind != events.KindRevoke || r.Trust != events.Forged {
			return
		}
	}
	h.records = append(h.records, r)
}

func next(seq uint64) uint64 {
	if seq == 0 {
		return 0
	}
	return seq + 1
}

// takeAll takes a revocation of the user or the app if the session was there to
// be revoked.
func (h *history) takeAll(r events.Record) {
	if r.Seq <= h.birth || r.Time.UnixMilli() > h.absolute {
		return
	}
	switch e := r.Event.(type) {
	case *events.RevokeAll:
		if e.Spares(h.sid) || e.Before != 0 && e.Before <= h.birth || !h.fresh(r) ||
			h.heard(said{user: r.Subject.User, all: true, at: e.At, by: e.By, reason: e.Reason}) {
			return
		}
		if e.Home != 0 && !projection.CoveredAway(h.created, e.At) {
			return
		}
	default:
		if r.Trust != events.Forged {
			return
		}
	}
	h.records = append(h.records, r)
}

func (h *history) events() []api.SessionEvent {
	slices.SortStableFunc(h.records, func(a, b events.Record) int { return cmp.Compare(a.Seq, b.Seq) })
	held := map[uint64]bool{}
	for _, r := range h.records {
		// What was only sealed anew is no event; a gap before it is one before
		// the next.
		st, ok := r.Event.(*events.State)
		held[r.Seq] = !ok || st.Reason != events.ReasonResealed || held[st.Prev]
	}
	out := make([]api.SessionEvent, 0, len(h.records))
	for _, r := range h.records {
		e := api.SessionEvent{At: r.Time.UTC(), Revision: h.n.home.at(r.Seq).String()}
		switch ev := r.Event.(type) {
		case *events.State:
			if ev.Reason == events.ReasonResealed {
				continue
			}
			e.Type, e.By = typeOf[ev.Reason], ev.By
			expires := date(ev.ExpiresAt)
			e.ExpiresAt = &expires
			if ev.Prev != 0 && !held[ev.Prev] {
				e.GapAfter = h.n.home.at(ev.Prev).String()
			}
		case *events.Revoke:
			e.Type, e.By, e.Reason = "session.revoked", ev.By, ev.Reason
		case *events.RevokeAll:
			e.Type, e.By, e.Reason = groupType(r.Subject), ev.By, ev.Reason
		default:
			e.Type, e.Reason = "session.revoked", unverified
			if r.Subject.Kind == events.KindAll {
				e.Type = groupType(r.Subject)
			}
		}
		out = append(out, e)
	}
	return out
}

// ended adds to the history when the session ran out, if it did before anybody
// revoked it. Nobody writes that: it is what the times say, by the rules of the
// verdict. When the session is no longer in memory, nobody knows its last use, and
// it has ended by its expiry at the latest.
func (h *history) ended(out []api.SessionEvent, f *found) []api.SessionEvent {
	s := f.Session
	if f.StateSeq == 0 {
		if h.last == nil {
			return out
		}
		e := h.last.Event.(*events.State)
		s = projection.Session{ExpiresAt: e.ExpiresAt, StateSeq: h.last.Seq, SID: e.SID}
	}
	end, reason := s.ExpiresAt, projection.Expired
	if idle := s.IdleEnd(h.n.conf.Lease); idle < end && h.n.held(&s, projection.IdleExpired) != projection.Active {
		end, reason = idle, projection.IdleExpired
	}
	if end > h.n.judged() || f.RevokedAt != 0 && f.RevokedAt <= end {
		return out
	}
	i := 0
	for ; i < len(out) && out[i].At.UnixMilli() <= end; i++ {
		if strings.HasSuffix(out[i].Type, ".revoked") {
			return out
		}
	}
	expired := api.SessionEvent{
		Type: "session.expired", At: date(end), Reason: reason.String(), Revision: h.n.home.at(s.StateSeq).String(),
	}
	return slices.Insert(out, i, expired)
}

func groupType(s events.Subject) string {
	if s.User == "" {
		return "app.revoked"
	}
	return "user.revoked"
}
