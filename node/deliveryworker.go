package node

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node/api"
)

const (
	// busySave is the least time between two writes of an endpoint's progress: what a
	// crash has delivered again. idleSave is the same while nothing is delivered, so
	// that who goes on need not read so much of the log.
	busySave = time.Second
	idleSave = 10 * time.Minute
	// unsavedPause is added to busySave after a write without an answer.
	unsavedPause = 10 * time.Second
	// pauseAfter is how long an endpoint may take nothing before it is paused. It is not
	// for an event that was hardly tried: who refused one long ago and was told of no
	// other since is not away.
	pauseAfter = 72 * time.Hour
	// An event that was refused so often, over so long, becomes a dead letter.
	deadAttempts = 10
	deadAfter    = time.Hour
	// finalAttempts are enough where a refusal is the receiver's last word.
	finalAttempts = 3
	// logClocks is how far apart the clocks of a log's servers may be.
	logClocks = time.Minute
)

// worker tells one endpoint. Its own goroutine, run, owns what has no other owner.
type worker struct {
	n    *Node
	id   endpointID
	conf atomic.Pointer[endpointConf] // replaced by employ

	life      context.Context // ends when it is dismissed
	end       context.CancelFunc
	dismissed bool          // guarded by deliveries.mu
	done      chan struct{} // closed when it has ended

	oldest atomic.Int64 // the log's time (unix ms) of the event that is to be delivered next; 0: none
	halted atomic.Bool  // paused or disabled

	p       progress
	at      events.Position // p.Position
	prev    uint64          // sequence of the noted progress
	dirty   bool            // p is not noted
	written time.Duration   // Clock.Boot when it was last
	moved   bool            // another node went further than at: what is read goes on from there
	last    *endpointConf   // with which begin was called last
}

// dismiss ends the worker. deliveries.mu is held.
func (w *worker) dismiss() {
	w.dismissed = true
	w.end()
}

func (w *worker) run() {
	defer close(w.done)
	defer w.end()
	for w.life.Err() == nil {
		conf := w.conf.Load()
		ok := conf.to != nil && w.begin(conf)
		w.halted.Store(w.p.State != "")
		w.save(w.life)
		// Also of who is told nothing now: its place must be one of this log when it is.
		gone, err := w.elsewhere(conf.current)
		switch {
		case err != nil || gone:
		case !ok:
			w.idle(conf)
			continue
		default:
			err = w.tell(conf)
		}
		switch {
		case errors.Is(err, errFeedEnded): // the node leaves
			w.save(w.life)
			<-w.life.Done()
		case err != nil && w.life.Err() == nil:
			if w.n.refusals.first("delivery "+w.id.app, w.n.conf.Clock.Boot()) {
				w.n.conf.Log.Error("events cannot be read for an endpoint; tried again", "app", w.id.app, "error", err)
			}
			pause(conf.current, w.n.conf.Beat)
		}
	}
	w.save(w.life)
}

// idle waits until the setting changes, or what could not be written yet can be
// tried again.
func (w *worker) idle(conf *endpointConf) {
	if w.dirty {
		pause(conf.current, busySave)
		return
	}
	<-conf.current.Done()
}

// begin makes of the progress what the setting demands, and reports whether anything
// is to be delivered.
func (w *worker) begin(conf *endpointConf) bool {
	d, region := conf.delivery, w.n.home.region
	if w.last == nil {
		w.load(d.Born)
	}
	start, known := d.Start[region]
	gen := w.n.home.position().Gen
	switch {
	case w.p.Born != d.Born:
		w.p, w.dirty = progress{Born: d.Born, Turn: d.Turn, Position: start}, true
		if r, asked := d.Replay[region]; asked { // before anything was noted
			w.p.Position, known = earlier(start, r.From, gen), false
		} else if known {
			w.p.LoggedAt = d.BornAt
		}
	case w.p.Turn < d.Turn: // a higher one is of a setting that this node has not heard of yet
		if r := d.Replay[region]; w.p.Turn < r.Turn {
			w.p.Position, w.p.Heard, w.p.LoggedAt = earlier(w.p.Position, r.From, gen), 0, 0 // nothing counts as settled
		}
		w.p.Turn, w.p.State, w.p.Reason, w.p.StateAt, w.p.Failing, w.dirty = d.Turn, "", "", 0, nil, true
	case w.last != nil && w.last != conf && w.p.Failing != nil:
		w.p.Failing.NextAt = 0 // what was wrong may be right by now
	}
	w.last = conf
	at, err := events.ParsePosition(w.p.Position)
	switch {
	case err == nil:
		w.at = at
	case known: // where the stream stood then is not known, but when that was
		w.reach(w.n.home.at(0))
		w.p.Heard = max(0, d.BornAt-logClocks.Milliseconds())
	default: // a region that is younger than the endpoint, or of which a replay was asked for
		w.reach(w.n.home.at(0))
	}
	return !d.Off && w.p.State == ""
}

// earlier returns from where to deliver again, in a log of that generation: from there,
// or the place of the endpoint if it has not come so far, is of another log, or is not
// known. What comes between would never be delivered.
func earlier(place, from string, gen uint32) string {
	p, err := events.ParsePosition(place)
	f, bad := events.ParsePosition(from)
	if err != nil || p.Gen != gen || bad == nil && p.Gen == f.Gen && p.Seq < f.Seq {
		return place
	}
	return from
}

// reach notes that everything up to there is settled.
func (w *worker) reach(at events.Position) {
	w.at, w.p.Position, w.dirty = at, at.String(), true
}

// tell delivers what comes until the setting changes or the endpoint is not to be
// told any more.
func (w *worker) tell(conf *endpointConf) error {
	r, err := w.n.readFeed(conf.current, feedFilter{
		app: w.id.app, types: conf.to.types(), streams: []*stream{w.n.home}, patient: true,
	}, events.Revision{w.at})
	switch {
	case isKind(err, api.CursorGone):
		return nil // elsewhere says so, too
	case err != nil:
		return fmt.Errorf("read events: %w", err)
	}
	defer r.close()
	w.moved = false
	for conf.current.Err() == nil && w.p.State == "" && !w.moved {
		all, err := w.next(conf.current, r)
		switch {
		case errors.Is(err, errFeedRewound), isKind(err, api.CursorGone):
			return nil // read again
		case err != nil:
			return fmt.Errorf("read events: %w", err)
		}
		for _, e := range all {
			if w.settledBefore(e) {
				w.reach(e.pos)
			} else if !w.deliver(conf, e) || w.moved {
				return nil
			}
		}
		if at, ok := r.cursor().In(w.n.home.region); ok && at != w.at {
			w.passed(at)
		}
		if w.due() == 0 {
			w.save(w.life)
		}
	}
	return nil
}

// elsewhere reports whether the place of the endpoint is of another log, and goes back
// to its beginning then: one of another generation, or one that ends before the place,
// because it went backwards while nobody was there who remembers. A generation that
// nobody remembers is counted anew; that nobody does is known once all who live have
// been heard.
func (w *worker) elsewhere(ctx context.Context) (bool, error) {
	if w.at.Stream == "" {
		return false, nil // its setting could not be read yet
	}
	now := w.n.home.position()
	if now.Gen < w.at.Gen && !pause(ctx, w.n.maxWait()) {
		return true, nil
	}
	if now = w.n.home.position(); now.Gen == w.at.Gen {
		err := w.n.reachCursor(ctx, w.at)
		if !isKind(err, api.CursorGone) {
			return false, err
		}
		if now = w.n.home.position(); now.Gen == w.at.Gen {
			w.again()
		}
		return true, nil
	}
	if !w.n.home.lease.holds(w.n.conf.Clock.Boot()) {
		return true, &staleError{stream: w.n.home.region, reason: reasonStarting}
	}
	w.again()
	return true, nil
}

// passed notes that there is nothing for the endpoint up to there. That alone is not
// worth writing at once.
func (w *worker) passed(at events.Position) {
	w.at, w.p.Position = at, at.String()
	if w.n.conf.Clock.Boot()-w.written >= idleSave {
		w.dirty = true
	}
}

// next waits for events, or until progress is to be written.
func (w *worker) next(ctx context.Context, r *feedReader) ([]*feedEvent, error) {
	ctx, cancel := context.WithTimeout(ctx, max(w.due(), time.Millisecond))
	defer cancel()
	all, err := r.read(ctx)
	if err != nil && ctx.Err() != nil {
		return nil, nil
	}
	return all, err
}

// deliver tells the endpoint of the event until that is settled, and reports whether
// it is.
func (w *worker) deliver(conf *endpointConf, e *feedEvent) (settled bool) {
	w.oldest.Store(e.At.UnixMilli())
	defer w.oldest.Store(0)
	for {
		if !w.await(conf.current, e.pos.String()) {
			return false
		}
		out := w.attempt(conf, e)
		switch {
		case out.verdict == unsaid: // it is not known, or not for this node to say
			return false
		case out.verdict == taken:
			w.took(e, out)
			return true
		case w.conf.Load() != conf: // it says nothing of the endpoint as it is by now
			return false
		case w.failed(e, out):
			return true
		}
		w.save(w.life)
		if w.p.State != "" || w.moved {
			return false
		}
	}
}

// await returns when the next attempt may be made, or false if that is not to be.
func (w *worker) await(ctx context.Context, revision string) bool {
	f := w.p.Failing
	if f == nil || f.Revision != revision {
		return ctx.Err() == nil
	}
	// The time was noted by the clock of who delivered before.
	wait := time.Duration(f.NextAt-w.n.wall()) * time.Millisecond
	for wait = min(wait, maxRetryAfter); wait > 0; {
		step := min(wait, max(w.due(), busySave))
		if !pause(ctx, step) {
			return false
		}
		w.save(w.life)
		wait -= step
	}
	return ctx.Err() == nil
}

// took notes that the endpoint took the event, or that it is not for it.
func (w *worker) took(e *feedEvent, out attempted) {
	w.reach(e.pos)
	w.p.LoggedAt = e.At.UnixMilli()
	if out.sent > 0 {
		w.p.SucceededAt, w.p.Failing = w.n.wall(), nil
		w.n.metrics.deliveries.WithLabelValues(w.id.typ, deliveryTaken).Inc()
	}
	if w.due() == 0 {
		w.save(w.life)
	}
}

// failed notes a failed attempt, and reports whether the event is settled all the
// same: as a dead letter.
func (w *worker) failed(e *feedEvent, out attempted) (settled bool) {
	now, revision := w.n.wall(), e.pos.String()
	f := failingEvent{Since: now}
	if w.p.Failing != nil {
		f = *w.p.Failing
	}
	if f.Revision != revision {
		f = failingEvent{Since: f.Since, Revision: revision, LoggedAt: e.At.UnixMilli()}
	}
	f.Attempts++
	f.Status, f.Reason, f.NextAt = out.status, out.reason, now+out.pause(f.Attempts).Milliseconds()
	result := deliveryFailed
	if out.verdict == refused {
		result = deliveryRefused
		if f.Refused++; f.Refused == 1 {
			f.RefusedAt = now
		}
	}
	w.p.Failing, w.dirty = &f, true
	w.n.metrics.deliveries.WithLabelValues(w.id.typ, result).Inc()
	since := func(ms int64) time.Duration { return time.Duration(now-ms) * time.Millisecond }
	switch {
	case out.verdict == goneForGood:
		w.halt(deliveryDisabled, out.reason)
	case since(f.Since) >= pauseAfter && (f.Attempts >= deadAttempts || out.final && f.Refused >= finalAttempts):
		w.halt(deliveryPaused, out.reason)
	case f.Refused >= deadAttempts && since(f.RefusedAt) >= deadAfter, out.final && f.Refused >= finalAttempts:
		return w.bury(e, &f)
	}
	return false
}

// halt stops delivering to the endpoint until it is told to begin again. The place is
// kept.
func (w *worker) halt(state, reason string) {
	w.p.State, w.p.Reason, w.p.StateAt, w.dirty = state, reason, w.n.wall(), true
	w.halted.Store(true)
	w.n.conf.Log.Warn("an endpoint is told nothing any more until that is asked for", "app", w.id.app, "type", w.id.typ, "endpoint", w.id.name, "state", state, "reason", reason)
}

// bury makes the event a dead letter. It is one only once that is noted.
func (w *worker) bury(e *feedEvent, f *failingEvent) bool {
	letter := deadLetter{
		Gen: e.pos.Gen, Seq: e.pos.Seq, Type: e.Type, LoggedAt: f.LoggedAt, At: w.n.wall(), Attempts: f.Attempts, Status: f.Status,
	}
	err := w.n.changeDeadLetters(w.life, w.id, w.n.home.region, w.p.Born, func(d *deadLetters) bool { return d.add(letter) })
	if err != nil {
		return false // tried again with the next attempt
	}
	w.reach(e.pos)
	w.p.LoggedAt = e.At.UnixMilli()
	w.p.Failing = &failingEvent{Since: f.Since, Revision: f.Revision, Attempts: f.Attempts, Status: f.Status, Reason: f.Reason}
	w.n.metrics.deliveries.WithLabelValues(w.id.typ, deliveryDead).Inc()
	return true
}

// again reads the log, which went backwards, from its beginning. What it lost and
// nodes appended again, and what came since, has a later time than all that was
// settled before.
func (w *worker) again() {
	from := w.at
	w.reach(w.n.home.at(0))
	gap := &gapped{From: from.String(), To: w.p.Position, At: w.n.wall(), Count: 1}
	if w.p.Gap != nil {
		gap.Count += w.p.Gap.Count
	}
	w.p.Gap = gap
	if w.p.Heard == 0 {
		w.p.Heard = max(0, w.p.LoggedAt-logClocks.Milliseconds())
	}
	w.n.metrics.deliveryGaps.Inc()
	w.save(w.life)
}

// settledBefore reports whether the event was settled before the log went backwards.
func (w *worker) settledBefore(e *feedEvent) bool {
	at := e.At.UnixMilli()
	if at > w.p.Heard+2*logClocks.Milliseconds() {
		w.p.Heard = 0 // all that comes is later
	}
	return at <= w.p.Heard
}

// inForce reports whether CONFIG, as this node knows it, says the setting still: an
// endpoint that was deleted a moment ago is told nothing more.
func (w *worker) inForce(conf *endpointConf) bool {
	snap := w.n.catalog.Snapshot()
	held, _ := snap.Setting(w.id.app, w.id.typ, w.id.name)
	app, ok := snap.App(w.id.app)
	return held == conf.held && ok && app.State == events.AppActive
}

// attempt tells the endpoint of the event once.
func (w *worker) attempt(conf *endpointConf, e *feedEvent) (out attempted) {
	defer func() {
		if p := recover(); p != nil { // it would end the process
			w.n.conf.Log.Error("panic in a delivery", "panic", p, "stack", string(debug.Stack()))
			out = attempted{verdict: failedToSend, reason: "internal"}
		}
	}()
	slots := w.n.deliveries.fresh
	if w.p.Failing != nil {
		slots = w.n.deliveries.retrying
	}
	select {
	case slots <- struct{}{}:
		defer func() { <-slots }()
	case <-conf.current.Done():
		return attempted{}
	}
	if !w.inForce(conf) || w.n.deliveries.left(w.n.conf.Clock.Boot()) <= 0 {
		// The next round says what is so instead: another setting, or a lease that was
		// renewed, or neither, and the worker is dismissed.
		pause(conf.current, w.n.conf.Beat)
		return attempted{}
	}
	return w.n.send(w.life, conf.to, e, w.n.deliveries.left)
}
