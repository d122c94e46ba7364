package node

import (
	"cmp"
	"context"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node/api"
)

// What a revoke may wait for.
const (
	waitNone = "none" // committed, and applied on this node
	waitAll  = "all"  // applied on every node, or the node has fenced itself
)

// Statuses of a receipt.
const (
	receiptCommitted = "committed"
	receiptComplete  = "complete"
	// receiptPartial: a node that is cut off may serve its old answer, as the app
	// wants, or go on with the API keys and signing keys it has.
	receiptPartial = "partial"
	// receiptPending: the home is out of reach, and its own nodes may not have
	// heard of it.
	receiptPending = "pending"
)

// rankOfStatus orders them by how much is still to come.
var rankOfStatus = map[string]int{receiptComplete: 0, receiptPartial: 1, receiptCommitted: 2, receiptPending: 3}

// Methods by which a receipt became complete.
const (
	methodSole      = "sole"      // no other process reaches the log
	methodConfirmed = "confirmed" // every member said so, or has left
	methodWaited    = "waited"    // some were silent for so long that they have no lease
)

const (
	// maxReceiptWait bounds how long a request waits for a receipt: below what
	// clients and proxies usually wait for an answer.
	maxReceiptWait = 20 * time.Second
	// maxRevoke bounds a whole request for a receipt: below what the program
	// gives a connection to answer.
	maxRevoke = 28 * time.Second
	// answerTime is left of a caller's deadline to answer in.
	answerTime = 100 * time.Millisecond
)

// receipt says how far a revocation has come that was begun at start (of
// Clock.Wall), stands at pos, and is applied on this node.
//
// Where no other process reaches the log, that is everywhere. With wait "all"
// it waits for the other nodes (see inquiry), but not beyond maxReceiptWait or
// the end of ctx: it is then "committed" and can be asked for again.
//
// jwtLife is the longest life of a JWT that a node may have minted before it
// applied the revocation.
func (n *Node) receipt(ctx context.Context, s *stream, pos events.Position, start time.Time, wait string, jwtLife time.Duration) *api.Receipt {
	clock := n.conf.Clock
	// W counts from the acknowledgement (rule R9). A later moment only makes
	// it wait longer.
	acknowledged := clock.Boot()
	if at, ok := s.members.since(pos.Seq); ok {
		acknowledged = min(acknowledged, at) // a position that is old already
	}
	if n.faults.fromRequest {
		acknowledged -= clock.Wall().Sub(start)
	}
	r := &api.Receipt{
		Revision: pos.String(), Status: receiptCommitted,
		Applied: []api.ReceiptApplied{{Node: n.conf.Name, MS: clock.Wall().Sub(start).Milliseconds()}},
	}
	safe := acknowledged + n.maxWait()
	switch {
	case n.conf.Solo:
		r.Status, r.Method, safe = receiptComplete, methodSole, clock.Boot()
	case wait == waitAll || clock.Boot() >= safe:
		q := &inquiry{n: n, s: s, pos: pos, start: start, bound: safe, answers: map[events.Incarnation]bool{}, reached: map[events.Incarnation]bool{}, news: make(chan struct{}, 1)}
		if q.run(ctx) {
			r.Status, safe = receiptComplete, min(safe, clock.Boot())
			if s == n.settings && !q.everywhere(ctx) {
				r.Status = receiptPartial
			}
		}
		q.report(r)
	}
	if r.Status == receiptCommitted {
		r.ReceiptURL = n.issuer + "/v1/receipts/" + r.Revision
	}
	r.TookMS = clock.Wall().Sub(start).Milliseconds()
	r.JWTSafeAfter = n.lastMinted(s).Add(safe - clock.Boot() + jwtLife).UTC().Truncate(time.Millisecond)
	return r
}

// receiptStatus returns the status of an answer with the receipt: 202 when it was
// to be waited for and is still to come, or the home has yet to take it.
func receiptStatus(r *api.Receipt, wait string) int {
	if wait == waitAll && r.Status == receiptCommitted || r.Status == receiptPending {
		return http.StatusAccepted
	}
	return http.StatusOK
}

// getReceipt answers GET /v1/receipts/{revision} on any node: it finds out again
// how far each position of the revision has come. By default it waits as a
// revoke with wait "all" does; with ?wait=none it says what is known by itself.
func (n *Node) getReceipt(ctx context.Context, c *call) (int, any, error) {
	caller, err := n.authorize(c.r, api.ScopeRevoke)
	if err != nil {
		if caller, err = n.authorize(c.r, api.ScopeRead); err != nil {
			return 0, nil, err
		}
	}
	wait := cmp.Or(c.query.Get("wait"), waitAll)
	if wait != waitAll && wait != waitNone {
		return 0, nil, fail(api.InvalidArgument, "wait %q: want none or all", wait).with("field", "wait")
	}
	revision, err := parseSpots(c.r.PathValue("revision"))
	if err != nil {
		return 0, nil, fail(api.InvalidArgument, "%q is not a revision", c.r.PathValue("revision")).with("field", "revision").because(err)
	}
	for _, p := range revision {
		if err := n.findPosition(ctx, p.at); err != nil {
			return 0, nil, err
		}
		if err := n.findHome(p.away); err != nil {
			return 0, nil, err
		}
	}
	out := &api.ReceiptAnswer{Status: receiptComplete, Receipts: make([]api.Receipt, len(revision))}
	var all sync.WaitGroup
	for i, p := range revision {
		all.Go(func() { out.Receipts[i] = *n.receiptAgain(ctx, &caller, p, wait) })
	}
	all.Wait()
	status := http.StatusOK
	for _, r := range out.Receipts {
		if rankOfStatus[r.Status] > rankOfStatus[out.Status] {
			out.Status = r.Status
		}
	}
	if out.Status == receiptCommitted || out.Status == receiptPending {
		status = http.StatusAccepted
	}
	return status, out, nil
}

// findPosition returns nil once this node has come as far as the position, and
// an error when it cannot say anything about it.
func (n *Node) findPosition(ctx context.Context, p events.Position) error {
	s := n.streamOf(p.Stream)
	if s == nil {
		return fail(api.NotFound, "no stream %q", p.Stream)
	}
	switch gen := s.position().Gen; {
	case p.Gen > gen:
		return fail(api.ConsistencyTimeout, "this node has not heard of generation %d of stream %s", p.Gen, p.Stream)
	case p.Gen < gen:
		return fail(api.NotFound, "stream %s went backwards since %s; what it lost of revocations was written again: revoke again for a new receipt", p.Stream, p)
	}
	ctx, cancel := context.WithTimeout(ctx, consistencyWait)
	defer cancel()
	if err := s.wait(ctx, p.Seq); err != nil {
		return fail(api.ConsistencyTimeout, "this node has not come as far as %s; ask again", p).because(err)
	}
	return nil
}

// findHome returns an error when there is no such region.
func (n *Node) findHome(a away) error {
	if _, ok := n.catalog.Snapshot().Region(a.region); !ok && !a.none() {
		return fail(api.NotFound, "no region %q", a.region)
	}
	return nil
}

// receiptAgain returns the receipt of a spot that this node has applied. What
// was recorded for a home out of reach is pending until the home's stream says
// it; from then on the receipt is of a position there.
func (n *Node) receiptAgain(ctx context.Context, c *caller, p spot, wait string) *api.Receipt {
	if p.away.none() {
		return n.receiptAt(ctx, c, p.at, wait)
	}
	if at, ok := n.delivered(p.away); ok {
		return n.receiptAt(ctx, c, at, wait)
	}
	r := n.receiptAt(ctx, c, p.at, waitNone)
	n.pending(r, p.away)
	return r
}

// receiptAt returns the receipt of a position that this node has applied. What
// stands there is not asked, so the longest life of a JWT is assumed that it may
// be about.
func (n *Node) receiptAt(ctx context.Context, c *caller, p events.Position, wait string) *api.Receipt {
	s, life := n.streamOf(p.Stream), maxJWTTTL*time.Second
	app, ok := n.app(c.app)
	if ok && s != n.settings {
		life = n.jwtLife(app)
	}
	r := n.receipt(ctx, s, p, n.conf.Clock.Wall(), wait, life)
	if r.Status == receiptComplete && s != n.settings && n.mayServe(c.app) {
		r.Status = receiptPartial
	}
	return r
}

// inquiry finds out whether every node has applied a position, or can no longer
// answer without it.
//
// An incarnation that may hold a lease is waited for until it confirms, or its
// farewell is applied, or W has passed since its newest heartbeat was applied
// here. At the bound, W after the acknowledgement, nobody is waited for any
// more: who has not applied the position by then has had no lease since.
type inquiry struct {
	n     *Node
	s     *stream
	pos   events.Position
	start time.Time     // of the request, by Clock.Wall
	bound time.Duration // of Clock.Boot

	// Owned by the goroutine of run.
	waited []member // pending at some look
	silent []member // given up

	mu      sync.Mutex // guards what follows
	answers map[events.Incarnation]bool
	reached map[events.Incarnation]bool // those that said that they have applied it
	applied []api.ReceiptApplied
	fenced  []string
	news    chan struct{} // 1 deep: somebody confirmed
}

// run returns true once the receipt is complete, false when it cannot be told in
// time.
func (q *inquiry) run(ctx context.Context) bool {
	spent := q.n.conf.Clock.Wall().Sub(q.start) // waiting to be written
	ctx, cancel := context.WithTimeout(ctx, min(maxReceiptWait, maxRevoke-spent))
	defer cancel()
	if end, ok := ctx.Deadline(); ok {
		var early context.CancelFunc
		ctx, early = context.WithDeadline(ctx, end.Add(-answerTime))
		defer early()
	}
	// Membership is what the log says before the position (rule R11).
	if q.s.wait(ctx, q.pos.Seq) != nil {
		return false
	}
	asking, stop := context.WithCancel(ctx)
	var asked sync.WaitGroup
	defer asked.Wait()
	defer stop()
	asks := false
	for {
		now := q.n.conf.Clock.Boot()
		gone := q.s.members.farewells()
		switch {
		case q.s.rebuilt.Load() > q.pos.Gen:
			return false // the log went backwards: nothing counted so far holds
		case now >= q.bound:
			q.silent = q.pending(now, 0)
			return true
		}
		// Confirmations count only while the own subscription has been unbroken
		// for W (rule R13): a log that lost its end may have lost the heartbeat
		// that made somebody a member. Another node may vouch for that.
		next := min(now+q.n.maxWait()-q.s.unbrokenFor(now), now+q.n.conf.Beat/16)
		if next <= now || q.n.faults.fastAfterBreak {
			if !asks && q.n.conf.Mesh != nil {
				asks = true
				asked.Go(func() {
					// Unknown of what is old: then the position alone is asked for.
					event, _ := q.s.trail.at(q.pos.Seq)
					q.n.conf.Mesh.Ask(asking, events.Question{Stream: q.pos.Stream, Seq: q.pos.Seq, Event: event}, q.confirmed)
				})
			}
			left := q.pending(now, q.n.maxWait())
			if len(left) == 0 {
				// Members that were forgotten for a rebuild are not those of before.
				return q.s.rebuilt.Load() <= q.pos.Gen
			}
			next = q.bound
			for _, m := range left {
				next = min(next, m.heard+q.n.maxWait())
			}
		}
		if !q.sleep(ctx, min(next, q.bound), gone) {
			return false
		}
	}
}

// pending returns the members that are to be waited for at now; after quiet
// without a heartbeat none is. Quiet 0 is for all.
func (q *inquiry) pending(now, quiet time.Duration) []member {
	seq := q.pos.Seq
	if q.n.faults.membersAtRequest {
		seq -= min(seq, 8)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.silent = nil
	var left []member
	for _, m := range q.s.members.before(seq) {
		switch {
		case m.incarnation == q.n.incarnation || q.answers[m.incarnation] || m.left != 0:
		case quiet != 0 && now-m.heard >= quiet:
			if q.wasWaitedFor(m) {
				q.silent = append(q.silent, m)
			}
		case q.n.faults.silentIsDead && now-m.heard > 2*q.n.conf.Beat:
		default:
			left = append(left, m)
			if !q.wasWaitedFor(m) {
				q.waited = append(q.waited, m)
			}
		}
	}
	return left
}

func (q *inquiry) wasWaitedFor(m member) bool {
	return slices.ContainsFunc(q.waited, func(w member) bool { return w.incarnation == m.incarnation })
}

// confirmed notes an answer.
func (q *inquiry) confirmed(c events.Confirmation) {
	q.mu.Lock()
	defer q.mu.Unlock()
	first, better := !q.answers[c.Incarnation], !c.Fenced && !q.reached[c.Incarnation]
	if !first && !better {
		return
	}
	q.answers[c.Incarnation] = true
	q.reached[c.Incarnation] = q.reached[c.Incarnation] || better
	switch {
	case !first: // it was fenced when it was asked first
	case c.Fenced:
		q.fenced = append(q.fenced, c.Node)
	default:
		q.applied = append(q.applied, api.ReceiptApplied{Node: c.Node, MS: q.n.conf.Clock.Wall().Sub(q.start).Milliseconds()})
	}
	select {
	case q.news <- struct{}{}:
	default:
	}
}

// sleep returns true when there is something to look at: the time of Clock.Boot
// has come, somebody confirmed or left. It returns false when ctx ended. Timers
// do not run while the machine is suspended and Clock.Boot does, so it may be
// late: the caller asks the clock.
func (q *inquiry) sleep(ctx context.Context, until time.Duration, gone <-chan struct{}) bool {
	timer := time.NewTimer(max(0, until-q.n.conf.Clock.Boot()))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-q.news:
	case <-gone:
	case <-ctx.Done():
		return false
	}
	return true
}

// report writes into the receipt who did what.
func (q *inquiry) report(r *api.Receipt) {
	q.mu.Lock()
	defer q.mu.Unlock()
	r.Applied = append(r.Applied, q.applied...)
	r.Fenced = names(q.fenced)
	for _, m := range q.s.members.before(q.pos.Seq) {
		if m.left > q.pos.Seq && !q.answers[m.incarnation] {
			r.Left = append(r.Left, m.node)
		}
	}
	r.Left = names(r.Left)
	for _, m := range q.silent {
		r.WaitedOut = append(r.WaitedOut, m.node)
	}
	r.WaitedOut = names(r.WaitedOut)
	if r.Status == receiptCommitted {
		return
	}
	r.Method = methodConfirmed
	if len(q.silent) > 0 || q.n.conf.Clock.Boot() >= q.bound {
		r.Method = methodWaited
	}
}

// names sorts and removes repetitions.
func names(all []string) []string {
	slices.Sort(all)
	return slices.Compact(all)
}
