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
	OpUse        = "use"         // verify, authenticate, extend, rotate, mint, patch: whatever needs a good session
	OpRevoke     = "revoke"      // of one session
	OpRevokeUser = "revoke_user" // of all a user has, Spared excepted
	OpReceipt    = "receipt"     // of the revocation with that Revision, asked for again
	OpLose       = "lose"        // the stream lost Seq and all after it
	OpRewind     = "rewind"      // as lose, but of what no caller was ever answered for
	OpElect      = "elect"       // the stream had no leader
	OpHarm       = "harm"        // another fault; Note names it
	OpHeal       = "heal"        // from here on nothing is wrong any more
	OpRead       = "read"        // the final reading of a session on a node
	OpProbe      = "probe"       // a create on a node, a while after healing
	OpDigest     = "digest"      // of a node's sessions, at the end; in Note
	OpStop       = "stop"        // all nodes have ended; Seq goroutines did not
)

// Outcomes of operations.
const (
	OK      = "ok"      // done, and acknowledged
	Valid   = "valid"   // the session is good
	Invalid = "invalid" // it is not; Reason says why
	Fenced  = "fenced"  // the node did not answer the question: 503
	Unknown = "unknown" // no answer, or a failure: it may have happened
)

// Stale is the Reason of what was Fenced because the node had no lease.
const Stale = "node_stale"

// Op is one operation as its caller saw it.
type Op struct {
	Op     string `json:"op"`
	Node   string `json:"node,omitempty"`
	Region string `json:"region,omitempty"` // of the node; empty: there is one
	Life   int    `json:"life,omitempty"`   // of the node, from 1
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
	Strong   bool   `json:"strong,omitempty"`   // demanded of a use
	// Pending names the regions that had not heard of a revocation when it was
	// answered.
	Pending []string `json:"pending,omitempty"`
	// Wrote is the mark that a patch put into the session, Marks are those that
	// the session had by the answer.
	Wrote string   `json:"wrote,omitempty"`
	Marks []string `json:"marks,omitempty"`
	// Stream and Seq say what of the log was harmed; without a stream, all.
	Stream string `json:"stream,omitempty"`
	Seq    uint64 `json:"seq,omitempty"`
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

// positions returns those of a revision, and of each revocation in it that a home
// out of reach is yet to say the one under which it was recorded.
func positions(revision string) (all []events.Position) {
	for part := range strings.SplitSeq(revision, ",") {
		at, _, _ := strings.Cut(part, "@")
		if p, err := events.ParsePosition(at); err == nil {
			all = append(all, p)
		}
	}
	return all
}

// generation returns the highest generation of the stream that a revision names.
func generation(revision, stream string) (highest uint32) {
	for _, p := range positions(revision) {
		if p.Stream == stream {
			highest = max(highest, p.Gen)
		}
	}
	return highest
}
