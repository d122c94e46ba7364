package nodetest

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	"github.com/revocast/revocast/events"
)

// Kinds of operations in a history.
const (
	OpCreate     = "create"
	OpUse        = "use"         // verify, authenticate, extend, rotate, mint: whatever needs a good session
	OpRevoke     = "revoke"      // of one session
	OpRevokeUser = "revoke_user" // of all a user has, Spared excepted
	OpLose       = "lose"        // the home stream lost Seq and all after it
	OpRewind     = "rewind"      // as lose, but of what no caller was ever answered for
	OpHeal       = "heal"        // from here on nothing is wrong any more
	OpRead       = "read"        // the final reading of a session on a node
	OpProbe      = "probe"       // a create on a node, a while after healing
	OpDigest     = "digest"      // of a node's sessions, at the end; in Note
)

// Outcomes of operations.
const (
	OK      = "ok"      // done, and acknowledged
	Valid   = "valid"   // the session is good
	Invalid = "invalid" // it is not; Reason says why
	Fenced  = "fenced"  // the node did not answer the question: 503
	Unknown = "unknown" // no answer, or a failure: it may have happened
)

// Op is one operation as its caller saw it.
type Op struct {
	Op   string `json:"op"`
	Node string `json:"node,omitempty"`
	Life int    `json:"life,omitempty"` // of the node, from 1
	// Start and End are nanoseconds of the one clock of the driver: when the
	// request was made, and when its answer was there.
	Start int64 `json:"start"`
	End   int64 `json:"end"`

	SID    string `json:"sid,omitempty"`
	User   string `json:"user,omitempty"`
	Spared string `json:"spared,omitempty"` // sid
	Via    string `json:"via,omitempty"`    // how a use was made

	Outcome  string `json:"outcome,omitempty"`
	Reason   string `json:"reason,omitempty"`
	Receipt  string `json:"receipt,omitempty"`  // status
	Revision string `json:"revision,omitempty"` // of a write
	AtLeast  string `json:"at_least,omitempty"` // demanded of a use
	Seq      uint64 `json:"seq,omitempty"`
	// Already: there was nothing left to revoke, as far as the node knew.
	Already bool   `json:"already,omitempty"`
	Note    string `json:"note,omitempty"`
}

// String returns the operation as one line of JSON.
func (o Op) String() string {
	b, err := json.Marshal(o)
	if err != nil {
		return fmt.Sprintf("%+v", struct{ Op any }{o.Op})
	}
	return string(b)
}

// History is what happened in one run. Its methods are safe for concurrent use.
type History struct {
	mu  sync.Mutex // guards ops
	ops []Op
}

// Add appends an operation that has ended.
func (h *History) Add(o Op) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ops = append(h.ops, o)
}

// Ops returns a copy of the operations, in the order of their end.
func (h *History) Ops() []Op {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.ops)
}

// WriteTo writes the history, a line of JSON for each operation.
func (h *History) WriteTo(w io.Writer) (n int64, err error) {
	for _, o := range h.Ops() {
		k, err := io.WriteString(w, o.String()+"\n")
		if n += int64(k); err != nil {
			return n, fmt.Errorf("write history: %w", err)
		}
	}
	return n, nil
}

// generation returns the highest generation that a revision names.
func generation(revision string) (highest uint32) {
	r, err := events.ParseRevision(revision)
	if err != nil {
		return 0
	}
	for _, p := range r {
		highest = max(highest, p.Gen)
	}
	return highest
}

// sequence returns the sequence of a revision of one position, 0 when there is none.
func sequence(revision string) uint64 {
	if revision == "" || strings.Contains(revision, ",") {
		return 0
	}
	r, err := events.ParseRevision(revision)
	if err != nil || len(r) != 1 {
		return 0
	}
	return r[0].Seq
}
