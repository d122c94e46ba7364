package node

import (
	"slices"
	"sync"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/projection"
)

// tapeLimit bounds what a stream remembers between two of its markers, at 24
// bytes each. Beyond it there is no snapshot until the next marker.
const tapeLimit = 1 << 20

// tape remembers what was handed to the fold since the newest marker of this
// node. A nil tape remembers nothing.
type tape struct {
	mu     sync.Mutex // guards the fields below
	passed []projection.Passed
	held   bool // a snapshot is being written: nothing may be forgotten
	newest int  // index of the newest marker
	resets int
}

// note remembers the entry, which has not been handed to the fold yet.
func (t *tape) note(e *events.Entry, marker bool) {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case !marker && len(t.passed) == 0, len(t.passed) > 0 && e.Seq <= t.passed[len(t.passed)-1].Seq:
		return
	case len(t.passed) >= tapeLimit:
		t.passed, t.newest = nil, 0
		return
	}
	if marker {
		t.newest = len(t.passed)
		defer t.trim()
	}
	t.passed = append(t.passed, projection.Passed{Seq: e.Seq, Sum: projection.SumEntry(e)})
}

// trim forgets what is before the newest marker. The caller holds mu.
func (t *tape) trim() {
	if !t.held {
		t.passed, t.newest = append(t.passed[:0], t.passed[t.newest:]...), 0
	}
}

// reset forgets all, because the stream begins anew.
func (t *tape) reset() {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.passed, t.newest = nil, 0
	t.resets++
}

// hold keeps what there is until release, and returns the anchor, zero if there
// is none, and how often the tape was reset.
func (t *tape) hold() (anchor projection.Passed, resets int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.held = true
	if len(t.passed) > 0 {
		anchor = t.passed[0]
	}
	return anchor, t.resets
}

// anchored reports whether there is an anchor to write a snapshot from.
func (t *tape) anchored() bool {
	if t == nil {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.passed) > 0
}

func (t *tape) release() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.held = false
	t.trim()
}

// all returns what was passed, and how often the tape was reset.
func (t *tape) all() ([]projection.Passed, int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.passed), t.resets
}
