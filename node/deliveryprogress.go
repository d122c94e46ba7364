package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/projection"
)

// What is noted of each endpoint and region, as work in CONFIG: type and region make
// the type of the work.
const (
	progressWork = "progress-"
	deadWork     = "dead-"
)

// States of an endpoint in a region, beside "", in which it is told.
const (
	deliveryPaused   = "paused"   // it took nothing for pauseAfter
	deliveryDisabled = "disabled" // it said that it is gone
)

// maxDeadLetters is how many events that an endpoint refused are shown; older ones
// are only counted.
const maxDeadLetters = 100

// progress is how far an endpoint has been told of the events of a region. Times are
// unix ms by the wall clock of who noted them, but where the log's are meant.
type progress struct {
	// Born is that of the endpoint, Turn the one that was begun.
	Born string `json:"born"`
	Turn uint64 `json:"turn,omitempty"`
	// Position: the endpoint took, or does not want, everything up to there, or it is
	// a dead letter. LoggedAt is the log's time of the newest event that was.
	Position string `json:"position"`
	LoggedAt int64  `json:"logged_at,omitempty"`
	// Heard: the log is read from its beginning, because it went backwards or it was not
	// known where it stood. What it took up to then (unix ms) had been settled.
	Heard int64 `json:"heard,omitempty"`
	// SucceededAt is when it took something last.
	SucceededAt int64 `json:"succeeded_at,omitempty"`

	State   string        `json:"state,omitempty"`
	Reason  string        `json:"reason,omitempty"`
	StateAt int64         `json:"state_at,omitempty"`
	Failing *failingEvent `json:"failing,omitempty"`
	Gap     *gapped       `json:"gap,omitempty"`
}

// failingEvent is an event that the endpoint does not take.
type failingEvent struct {
	// Since is when the first attempt failed since one last succeeded, of whichever
	// event; it outlives who delivers.
	Since int64 `json:"since"`

	Revision string `json:"revision"`
	LoggedAt int64  `json:"logged_at,omitempty"` // 0: it is settled, as a dead letter
	Attempts int    `json:"attempts"`            // of this event
	NextAt   int64  `json:"next_at"`
	Status   int    `json:"status,omitempty"`
	Reason   string `json:"reason"`
	// Refused is how often this event was refused as such, RefusedAt since when.
	Refused   int   `json:"refused,omitempty"`
	RefusedAt int64 `json:"refused_at,omitempty"`
}

// gapped says that the log could not be read on from where the endpoint was, because
// it went backwards. Nothing is missing that the log still says; some may come again.
type gapped struct {
	From  string `json:"from"`
	To    string `json:"to"`
	At    int64  `json:"at"`
	Count uint64 `json:"count"` // how often that happened
}

// deadLetters are events that an endpoint refused, the newest last.
type deadLetters struct {
	Born    string       `json:"born"`
	Total   uint64       `json:"total"`
	Letters []deadLetter `json:"letters"`
}

// deadLetter is one of them. Its names are short: a hundred must fit into an event.
type deadLetter struct {
	Gen      uint32 `json:"g,omitempty"`
	Seq      uint64 `json:"q"`
	Type     string `json:"t"`
	LoggedAt int64  `json:"l"`
	At       int64  `json:"a"`
	Attempts int    `json:"n"`
	Status   int    `json:"s"`
}

// isAt reports whether it is the letter of the event at the position.
func (l *deadLetter) isAt(p events.Position) bool { return l.Gen == p.Gen && l.Seq == p.Seq }

// progressOf returns what is noted of the endpoint, and false when nothing is, or it
// is about an earlier one of the same name.
func progressOf(snap *projection.Snapshot, id endpointID, region, born string) (p progress, ok bool) {
	held, _ := snap.Work(id.app, progressWork+region, id.work())
	ok = held != nil && json.Unmarshal(held.Value, &p) == nil && p.Born == born
	if !ok {
		p = progress{}
	}
	return p, ok
}

// deadLettersOf returns the dead letters of the endpoint.
func deadLettersOf(snap *projection.Snapshot, id endpointID, region, born string) (d deadLetters) {
	held, _ := snap.Work(id.app, deadWork+region, id.work())
	if held == nil || json.Unmarshal(held.Value, &d) != nil || d.Born != born {
		d = deadLetters{Born: born}
	}
	return d
}

// changeDeadLetters writes the dead letters as change leaves them, which returns
// false when nothing is to be done. Others may change them at the same time.
func (n *Node) changeDeadLetters(ctx context.Context, id endpointID, region, born string, change func(*deadLetters) bool) error {
	for {
		snap := n.catalog.Snapshot()
		d := deadLettersOf(snap, id, region, born)
		if !change(&d) {
			return nil
		}
		value, err := json.Marshal(d)
		if err != nil {
			return fmt.Errorf("write dead letters: %w", err)
		}
		e := &events.Work{App: id.app, Type: deadWork + region, Name: id.work(), Value: value}
		seq, err := n.note(ctx, e, snap.Last(e))
		if err == nil {
			ctx, cancel := context.WithTimeout(ctx, noteTimeout)
			defer cancel()
			return n.settings.wait(ctx, seq) // who changes them next begins from these
		}
		if !errors.Is(err, events.ErrConflict) || !pause(ctx, n.conf.Beat/10) {
			return err
		}
	}
}

// add adds the letter unless it is there: who delivers may have died before it noted
// that the event is settled.
func (d *deadLetters) add(l deadLetter) bool {
	if slices.ContainsFunc(d.Letters, func(m deadLetter) bool { return m.Gen == l.Gen && m.Seq == l.Seq }) {
		return false
	}
	d.Total++
	d.Letters = append(d.Letters, l)
	d.Letters = d.Letters[max(0, len(d.Letters)-maxDeadLetters):]
	return true
}

// remove removes the letter of the event at the position.
func (d *deadLetters) remove(p events.Position) bool {
	before := len(d.Letters)
	d.Letters = slices.DeleteFunc(d.Letters, func(m deadLetter) bool { return m.isAt(p) })
	return len(d.Letters) != before
}

// orphanRounds is how many rounds pass between two looks for what is noted of
// endpoints that are no more.
const orphanRounds = 60

// orphans returns what is noted for endpoints that were deleted, also with their app:
// of this region, and of polled streams, which have one note for all regions.
func (n *Node) orphans(snap *projection.Snapshot) (all []*events.Work) {
	kinds := endpointKinds()
	for w := range snap.Works() {
		of := func(k endpointKind, s *events.Setting) bool {
			return endpointID{w.App, k.typ, s.Name}.work() == w.Name
		}
		switch w.Type {
		case progressWork + n.home.region, deadWork + n.home.region:
		case ssfPollType:
			of = func(k endpointKind, s *events.Setting) bool { return k.typ == ssfStreamType && s.Name == w.Name }
		default:
			continue
		}
		app, known := snap.App(w.App)
		held := known && app.State != events.AppDeleted && slices.ContainsFunc(kinds, func(k endpointKind) bool {
			return slices.ContainsFunc(snap.SettingsOf(w.App, k.typ), func(s *events.Setting) bool { return of(k, s) })
		})
		if !held {
			all = append(all, w)
		}
	}
	return all
}

// forget removes what is noted. If its worker writes once more, on its way out, it is
// removed the next time.
func (n *Node) forget(ctx context.Context, snap *projection.Snapshot, orphans []*events.Work) {
	for _, w := range orphans {
		if _, err := n.note(ctx, &events.Work{App: w.App, Type: w.Type, Name: w.Name}, snap.Last(w)); errors.Is(err, events.ErrUnavailable) {
			return
		}
	}
}

// load begins with what is noted.
func (w *worker) load(born string) {
	snap := w.n.catalog.Snapshot()
	w.prev = snap.Last(w.record(nil))
	w.p, _ = progressOf(snap, w.id, w.n.home.region, born)
	w.written = w.n.conf.Clock.Boot()
}

func (w *worker) record(value json.RawMessage) *events.Work {
	return &events.Work{App: w.id.app, Type: progressWork + w.n.home.region, Name: w.id.work(), Value: value}
}

// save writes the progress if it changed. If another node wrote it meanwhile, what
// goes further counts.
func (w *worker) save(ctx context.Context) {
	if !w.dirty {
		if w.due() == 0 { // it is as it was
			w.written = w.n.conf.Clock.Boot()
		}
		return
	}
	value, err := json.Marshal(w.p)
	if err != nil {
		return
	}
	w.written = w.n.conf.Clock.Boot()
	seq, err := w.n.note(ctx, w.record(value), w.prev)
	switch {
	case err == nil:
		w.prev, w.dirty = seq, false
	case errors.Is(err, events.ErrConflict):
		w.merge()
	default:
		w.written += unsavedPause // each attempt to write holds up what is to be delivered
		if !w.n.refusals.first("delivery progress", w.n.conf.Clock.Boot()) {
			return
		}
		w.n.conf.Log.Warn("progress of deliveries cannot be written; tried again, and after a crash events are delivered again", "app", w.id.app, "error", err)
	}
}

// merge takes over what another wrote, where that goes further. An append of its own
// that seemed to fail comes here too.
func (w *worker) merge() {
	snap := w.n.catalog.Snapshot()
	w.prev = snap.Last(w.record(nil))
	theirs, ok := progressOf(snap, w.id, w.n.home.region, w.p.Born)
	if !ok || theirs.Turn < w.p.Turn {
		return
	}
	their, err := events.ParsePosition(theirs.Position)
	mine := w.at
	if err == nil && (theirs.Turn > w.p.Turn || their.Gen == mine.Gen && their.Seq > mine.Seq) {
		w.p, w.at, w.moved = theirs, their, true
	}
}

// due is how long until the progress is to be written: soon when something was
// delivered, seldom when there was nothing to deliver.
func (w *worker) due() time.Duration {
	every := idleSave
	if w.dirty {
		every = w.n.deliveries.savePause()
	}
	return max(0, w.written+every-w.n.conf.Clock.Boot())
}
