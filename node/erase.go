package node

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node/api"
	"github.com/revocast/revocast/projection"
)

const (
	// eraseTopic is the query by which a node asks those of other regions to erase
	// their history of a user.
	eraseTopic = "erase"
	// eraseWait is how long they have, and how long the history has to take what was
	// just written: what it takes afterwards would be in it again.
	eraseWait = 5 * time.Second
	// erasers is how many sessions are written at a time.
	erasers = 16
	// emptyPrivate is the private part of a session of which nothing is left.
	emptyPrivate = "{}"
)

// erasure is one user's on its way.
type erasure struct {
	n    *Node
	c    *call
	app  *events.App
	user string

	mu     sync.Mutex // guards the fields below
	out    api.EraseAnswer
	upTo   map[uint8]uint64 // stream to the last sequence written there
	expire int64            // when the last of the sessions does
}

// eraseUser answers POST /v1/users/erase: it revokes all sessions of the user,
// takes out of the log what they held, and erases their history. Revocations stay:
// without them an older copy of a session could count again.
func (n *Node) eraseUser(ctx context.Context, c *call) (int, any, error) {
	var req api.EraseUser
	if err := c.decode(&req); err != nil {
		return 0, nil, err
	}
	revoke := &api.Revoke{UserID: req.UserID, Reason: cmp.Or(req.Reason, events.ReasonErased)}
	if err := errors.Join(checkUser(req.UserID), checkRevoke(revoke)); err != nil {
		return 0, nil, err
	}
	r, err := n.newRevocation(c, revoke)
	if err != nil {
		return 0, nil, err
	}
	status, answered, err := n.revokeGroup(ctx, r, req.UserID)
	if err != nil {
		return 0, nil, err
	}
	revoked := answered.(*api.RevokeAnswer)
	e := &erasure{n: n, c: c, app: r.app, user: req.UserID, upTo: map[uint8]uint64{}}
	e.out = api.EraseAnswer{
		Freshness: revoked.Freshness, Revoked: revoked.Revoked, Receipt: revoked.Receipt, History: []string{}, Remains: []api.Remains{},
	}
	if positions, err := parseRevision(revoked.Revision); err == nil {
		for _, p := range positions {
			if s := n.streamOf(p.Stream); s != nil {
				e.upTo[s.number] = p.Seq
			}
		}
	}
	e.sessions(ctx)
	e.histories(ctx)
	e.remains()
	if len(e.out.Pending) > 0 {
		status = http.StatusAccepted
	}
	return status, &e.out, nil
}

// pending notes what could not be erased.
func (e *erasure) pending(region, what string, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	why := classify(err)
	text := why.message
	if errors.Is(err, events.ErrDenied) {
		text = "the node's NATS user may not purge the history; allow it, or let an operator do it"
	}
	p := api.PendingErasure{Region: region, What: what, Why: text}
	if !slices.Contains(e.out.Pending, p) {
		e.out.Pending = append(e.out.Pending, p)
	}
	e.n.conf.Log.Warn("not all of a user is erased", "app", e.app.App, "region", region, "what", what, "error", err)
}

// sessions takes out of the log what the user's sessions hold.
func (e *erasure) sessions(ctx context.Context) {
	var g errgroup.Group
	g.SetLimit(erasers)
	for _, number := range e.n.homes() {
		if _, stale := e.n.freshAt(number, e.n.wall()); stale != nil || e.n.stream(number) == nil {
			e.pending(e.n.regionOf(number), "sessions", fail(api.HomeUnreachable, "the region is out of reach"))
		}
	}
	for s := range e.n.sessions().User(e.app.App, e.user, e.n.judged()) {
		g.Go(func() error {
			if err := e.session(ctx, s.SID); err != nil {
				e.pending(e.n.regionOf(s.SID.Stream()), "sessions", err)
			}
			return nil
		})
	}
	_ = g.Wait() // each says for itself what went wrong
}

// session writes a state of the session that holds nothing. The session is revoked,
// and no state changes that. One that is good began after the revocation, and is
// left alone: without its roles, its actor or its key it would be another's.
func (e *erasure) session(ctx context.Context, sid events.SID) error {
	for range attempts {
		s, v := e.n.sessions().Lookup(sid, e.n.judged())
		if v = e.n.held(&s, v); v == projection.Unknown || v == projection.Active || s.StateSeq == 0 || s.App != e.app.App || s.User != e.user {
			return nil
		}
		e.note(func() { e.expire = max(e.expire, s.ExpiresAt) })
		if e.n.holdsNothing(&s) {
			return nil
		}
		d := &draft{state: stateOf(&s)}
		d.state.Reason, d.state.By = events.ReasonErased, e.c.caller.keyID
		pos, err := e.n.writeState(ctx, d, events.Expect(s.StateSeq))
		if errors.Is(err, events.ErrConflict) {
			home := e.n.stream(sid.Stream())
			if _, gone := home.log.Last(ctx, d.state.Subject(home.region).String()); errors.Is(gone, events.ErrNotFound) {
				return nil // it has left the log with its session
			}
			if err := home.catchUp(ctx, &d.state); err != nil {
				return err
			}
			continue
		} else if err != nil {
			return err
		}
		e.note(func() {
			e.out.Erased++
			e.upTo[sid.Stream()] = max(e.upTo[sid.Stream()], pos.Seq)
		})
		return nil
	}
	return events.ErrConflict
}

// holdsNothing reports whether the session is known to have a private part in which
// there is nothing. Where private parts are not kept it is not known.
func (n *Node) holdsNothing(s *projection.Session) bool {
	if s.Sealed.Empty() {
		return false
	}
	plain, err := n.conf.Keys.OpenVerified(s.Sealed)
	return err == nil && bytes.Equal(plain, []byte(emptyPrivate))
}

func (e *erasure) note(change func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	change()
}

// eraseQuery is what a node asks of those of other regions: JSON. UpTo is the
// sequence that the history must have taken before.
type eraseQuery struct {
	App    string `json:"app"`
	Hash   string `json:"hash"` // of the user
	Region string `json:"region"`
	UpTo   uint64 `json:"up_to"`
}

// eraseReply is what it is answered: JSON.
type eraseReply struct {
	Failed string `json:"failed,omitempty"`
}

// histories erases the user's history in each region.
func (e *erasure) histories(ctx context.Context) {
	var all sync.WaitGroup
	for _, number := range e.n.homes() {
		q := eraseQuery{App: e.app.App, Hash: events.UserHash(e.app.App, e.user), Region: e.n.regionOf(number), UpTo: e.upTo[number]}
		all.Go(func() {
			var err error
			if number == e.n.home.number {
				err = e.n.eraseHistory(ctx, &q)
			} else {
				err = e.n.askToErase(ctx, &q)
			}
			if err != nil {
				e.pending(q.Region, "history", err)
				return
			}
			e.note(func() { e.out.History = append(e.out.History, q.Region) })
		})
	}
	all.Wait()
	slices.Sort(e.out.History)
}

// eraseHistory erases what this region's history has of the user, once that has
// taken what was written until now.
func (n *Node) eraseHistory(ctx context.Context, q *eraseQuery) error {
	archive, ok := n.conf.Archive.(events.Eraser)
	if !ok {
		return fail(api.LogUnavailable, "nothing can be erased from this history")
	}
	ctx, cancel := context.WithTimeout(ctx, eraseWait)
	defer cancel()
	filter := fmt.Sprintf("ev.%s.%s.%s.>", q.Region, q.App, q.Hash)
	for q.UpTo > 0 {
		var newest uint64
		err := n.conf.Archive.History(ctx, []string{filter}, func(a events.Archived) bool {
			newest = max(newest, a.Origin)
			return true
		})
		if err != nil {
			return err
		}
		if newest >= q.UpTo {
			break
		}
		if !pause(ctx, fetchPause) {
			return fail(api.LogUnavailable, "the history has not taken what was just written; ask again")
		}
	}
	_, err := archive.Erase(ctx, filter)
	return err
}

// askToErase asks the nodes of another region to erase its history of the user.
func (n *Node) askToErase(ctx context.Context, q *eraseQuery) error {
	nobody := fail(api.HomeUnreachable, "no node of the region answers")
	if n.conf.Mesh == nil {
		return nobody
	}
	body, err := json.Marshal(q)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, eraseWait+surveyWait)
	defer cancel()
	var mu sync.Mutex // guards heard
	var heard []string
	n.conf.Mesh.Query(ctx, eraseTopic, events.Incarnation{}, body, func(_ events.Incarnation, body []byte) {
		var r eraseReply
		if json.Unmarshal(body, &r) != nil {
			return
		}
		mu.Lock()
		defer mu.Unlock()
		if heard = append(heard, r.Failed); r.Failed == "" {
			cancel()
		}
	})
	mu.Lock()
	defer mu.Unlock()
	switch {
	case slices.Contains(heard, ""):
		return nil
	case len(heard) > 0:
		return fail(api.LogUnavailable, "%s", heard[0])
	}
	return nobody
}

// eraseFor answers the query of a node of another region. Whoever asks holds the
// cluster key: it has revoked the user's sessions before.
func (n *Node) eraseFor(ctx context.Context, body []byte) ([]byte, bool) {
	var q eraseQuery
	if json.Unmarshal(body, &q) != nil || q.Region != n.home.region || !events.ValidName(q.App) || len(q.Hash) != 22 || strings.ContainsAny(q.Hash, ".*> ") {
		return nil, false
	}
	var r eraseReply
	if err := n.eraseHistory(ctx, &q); err != nil {
		r.Failed = classify(err).message
		n.conf.Log.Warn("history of a user was not erased", "app", q.App, "error", err)
	}
	b, err := json.Marshal(&r)
	return b, err == nil
}

// remains says what is left, and until when.
func (e *erasure) remains() {
	now := e.n.wall()
	at := func(ms int64) *time.Time { return new(date(ms)) }
	add := func(what, where string, until *time.Time) {
		e.out.Remains = append(e.out.Remains, api.Remains{What: what, Where: where, Until: until})
	}
	add("user_id", "the revocation of all sessions of the user, in the log: it keeps older copies of them from counting again",
		at(now+(events.UnknownLifetime+events.TTLSlack).Milliseconds()))
	if e.expire > now {
		add("user_id, times, session ids", "states and last uses of the user's sessions, without what they held, in the log and in nodes' memory",
			at(e.expire+events.TTLSlack.Milliseconds()))
	}
	// An end of a moment ago may be told yet.
	add("user_id, session ids", "that sessions of the user ran out, in the log", at(now+(events.ExpiredEventTTL+time.Hour).Milliseconds()))
	if e.n.snapshots != nil {
		add("what the sessions held, sealed with the cluster key", "the two newest snapshots on the disk of each running node; of one that is stopped, until it has run as long",
			at(now+2*e.n.snapshots.every.Milliseconds()))
	}
	add("what the sessions held, sealed with the cluster key", "space on the disks of the log that is free and not yet written over", nil)
	add("all of it", "copies of the log that operators made: backups, mirrors of regions", nil)
}
