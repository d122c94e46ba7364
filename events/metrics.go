package events

import (
	"errors"
	"sync"
	"sync/atomic"
)

// Counters are what one JetStream log has done since it was opened.
type Counters struct {
	// Appends by outcome: stored, conflict, full, too_large, unavailable, refused.
	Appends map[string]uint64
	// Retries are publishes sent again because no answer came.
	Retries uint64
	// Batches are committed groups, BatchEvents the events in them, and
	// BatchesRefused the groups that were sent again event by event.
	Batches, BatchEvents, BatchesRefused uint64
	// Gaps are holes in the live tail that were filled from the stream.
	Gaps uint64
	// Resumes are the times following began again at its anchor, by cause:
	// reconnected, quiet, live_differs, replica_lags, unavailable.
	Resumes map[string]uint64
	// Rewinds are the times the log was found to have gone backwards.
	Rewinds uint64
}

// logMetrics count what one JetStream log does. The zero value is ready.
type logMetrics struct {
	appends, resumes                     tally
	retries                              atomic.Uint64
	batches, batchEvents, batchesRefused atomic.Uint64
	gaps, rewinds                        atomic.Uint64
}

// tally counts by word.
type tally struct {
	mu sync.Mutex
	by map[string]uint64 // guarded by mu
}

func (t *tally) inc(word string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.by == nil {
		t.by = make(map[string]uint64)
	}
	t.by[word]++
}

func (t *tally) copy() map[string]uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	by := make(map[string]uint64, len(t.by))
	for word, n := range t.by {
		by[word] = n
	}
	return by
}

// Counters returns what the log has done so far.
func (j *JetStream) Counters() Counters {
	m := &j.metrics
	return Counters{
		Appends: m.appends.copy(), Retries: m.retries.Load(),
		Batches: m.batches.Load(), BatchEvents: m.batchEvents.Load(), BatchesRefused: m.batchesRefused.Load(),
		Gaps: m.gaps.Load(), Resumes: m.resumes.copy(), Rewinds: m.rewinds.Load(),
	}
}

// outcome returns the word for the result of an append.
func outcome(err error) string {
	switch {
	case err == nil:
		return "stored"
	case errors.Is(err, ErrConflict):
		return "conflict"
	case errors.Is(err, ErrFull):
		return "full"
	case errors.Is(err, ErrTooLarge):
		return "too_large"
	case errors.Is(err, ErrUnavailable):
		return "unavailable"
	}
	return "refused"
}
