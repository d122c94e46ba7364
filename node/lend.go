package node

import (
	"context"
	"encoding/json"
	"io"
	"os"
	"sync"
	"time"

	"github.com/revocast/revocast/events"
)

// A node lends its newest snapshot to nodes of its region that join. What they
// ask and what they are told goes over the mesh, under one topic:
//
//	offer  to everybody: who has a snapshot of these streams?
//	open   keeps the newest one for the asker until it is done, and says how
//	       long it is; 0: it is being written, ask again
//	read   a piece of it
//	done   ends the loan
//
// Each may be repeated; loans are named by who asks.

// snapshotTopic is the topic of all that nodes ask about snapshots.
const snapshotTopic = "snapshot"

const (
	opOffer = "offer"
	opOpen  = "open"
	opRead  = "read"
	opDone  = "done"
)

const (
	// pieceSize is the length of a piece in bytes, but for the last.
	pieceSize = 512 << 10
	// maxLoans is how many nodes read from this one at a time; others are told
	// to ask elsewhere or later.
	maxLoans = 4
	// loanIdle is the time without a question after which a loan ends.
	loanIdle = 30 * time.Second
	// failedFor is how long no other node waits for a snapshot after one could
	// not be written.
	failedFor = 5 * time.Second
)

// snapshotQuery is what is asked: JSON.
type snapshotQuery struct {
	Op string `json:"op"`
	// Cluster, Region and Epoch say which stream the asker's home is.
	Cluster string `json:"cluster"`
	Region  string `json:"region"`
	Epoch   string `json:"epoch"`
	// Loan names the loan, Offset the piece.
	Loan   events.Incarnation `json:"loan"`
	Offset int64              `json:"offset,omitempty"`
}

// snapshotReply is what is answered: JSON, a line feed, and for a piece its bytes.
type snapshotReply struct {
	// Refused says why not; Busy that it is only for now.
	Refused string `json:"refused,omitempty"`
	Busy    bool   `json:"busy,omitempty"`

	Node string `json:"node"`
	// Loans is how many nodes read from this one.
	Loans int `json:"loans"`
	// Created is when the snapshot was written, unix ms, and Size its length in
	// bytes; 0: there is none yet.
	Created int64 `json:"created,omitempty"`
	Size    int64 `json:"size,omitempty"`
}

// written is a snapshot that this life wrote.
type written struct {
	path    string
	at      time.Duration // Clock.Boot when it was begun
	created int64         // unix ms
	gens    map[uint8]uint32
}

// loans are the snapshots that are lent. The zero value is ready.
type loans struct {
	mu     sync.Mutex    // guards what follows, and each loan
	newest *written      // nil: none of this life
	failed time.Duration // Clock.Boot when one could last not be written; 0: never
	open   map[events.Incarnation]*loan
}

// loan is a snapshot held open for one node, so that its removal from the
// directory does not end it.
type loan struct {
	*written
	f    *os.File
	size int64
	last time.Duration // Clock.Boot of the last question
}

// offer makes w the one that is lent from now on.
func (l *loans) offer(w *written) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.newest = w
}

// fail notes that none can be written at now.
func (l *loans) fail(now time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.failed = now
}

// failing reports whether it is of no use to ask for one at now.
func (l *loans) failing(now time.Duration) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.failed != 0 && now-l.failed < failedFor
}

// state returns the snapshot that is lent, and how many read one.
func (l *loans) state() (*written, int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.newest, len(l.open)
}

// begin returns the loan of the id, which it makes of w if need be, and nil
// when there are too many.
func (l *loans) begin(id events.Incarnation, w *written, now time.Duration) (*loan, error) {
	l.tidy(now)
	l.mu.Lock()
	defer l.mu.Unlock()
	if held := l.open[id]; held != nil {
		held.last = now
		return held, nil
	}
	if len(l.open) >= maxLoans {
		return nil, nil
	}
	f, err := os.Open(w.path)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		_ = f.Close() // it was only read
		return nil, err
	}
	if l.open == nil {
		l.open = map[events.Incarnation]*loan{}
	}
	l.open[id] = &loan{written: w, f: f, size: info.Size(), last: now}
	return l.open[id], nil
}

// find returns the loan, nil if there is none.
func (l *loans) find(id events.Incarnation, now time.Duration) *loan {
	l.mu.Lock()
	defer l.mu.Unlock()
	held := l.open[id]
	if held != nil {
		held.last = now
	}
	return held
}

// close ends the loan, and reports whether there was one.
func (l *loans) close(id events.Incarnation) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	held := l.open[id]
	if held == nil {
		return false
	}
	delete(l.open, id)
	_ = held.f.Close() // it was only read
	return true
}

// tidy ends the loans of nodes that are no longer heard of.
func (l *loans) tidy(now time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for id, held := range l.open {
		if now-held.last > loanIdle {
			delete(l.open, id)
			_ = held.f.Close() // it was only read
		}
	}
}

// end ends all loans.
func (l *loans) end() { l.tidy(time.Duration(1<<63 - 1)) }

// sound reports whether nothing went backwards since w was written. A node that
// joins would find out by itself, but only after it has loaded all of it.
func (n *Node) sound(w *written) bool {
	for number, gen := range w.gens {
		if s := n.stream(number); s != nil {
			if now, _ := s.fold.Position(); now != gen {
				return false
			}
		}
	}
	return true
}

// lendable reports whether the newest snapshot is worth lending: sound, and
// not older than the next one should be.
func (n *Node) lendable() bool {
	w, _ := n.snapshots.loans.state()
	return w != nil && n.sound(w) && n.conf.Clock.Boot()-w.at <= n.snapshots.every+snapshotRetry
}

// cannotLend says why this node lends nothing, empty if it does.
func (n *Node) cannotLend() string {
	switch home := n.home; {
	case !home.lease.holds(n.conf.Clock.Boot()):
		return "it is fenced itself: " + home.lease.why()
	case !home.whole():
		return "what it holds is not whole"
	case !home.tape.anchored() && !n.lendable():
		return "it has no anchor in the log yet"
	}
	return ""
}

// lend answers what a node that joins asks. It says nothing to one of another
// region or cluster, nor when it keeps no snapshots.
func (n *Node) lend(_ context.Context, body []byte) ([]byte, bool) {
	var q snapshotQuery
	cluster, epoch := identity(n.conf.Home)
	if n.snapshots == nil || json.Unmarshal(body, &q) != nil ||
		q.Cluster != cluster || q.Epoch != epoch || q.Region != n.home.region {
		return nil, false
	}
	r, piece := n.lendAnswer(&q)
	r.Node = n.conf.Name
	out, err := json.Marshal(r)
	if err != nil {
		return nil, false
	}
	return append(append(out, '\n'), piece...), true
}

func (n *Node) lendAnswer(q *snapshotQuery) (snapshotReply, []byte) {
	l := &n.snapshots.loans
	if q.Op == opDone {
		if l.close(q.Loan) {
			n.metrics.transfers.WithLabelValues(transferLent).Inc()
		}
		return snapshotReply{}, nil
	}
	if why := n.cannotLend(); why != "" {
		return snapshotReply{Refused: why}, nil
	}
	switch q.Op {
	case opOffer:
		w, reading := l.state()
		r := snapshotReply{Loans: reading}
		if w != nil {
			r.Created = w.created
		}
		return r, nil
	case opOpen:
		return n.openLoan(q.Loan), nil
	case opRead:
		return n.readLoan(q)
	}
	return snapshotReply{Refused: "it does not know what is asked"}, nil
}

func (n *Node) openLoan(id events.Incarnation) snapshotReply {
	l, now := &n.snapshots.loans, n.conf.Clock.Boot()
	if !n.lendable() && l.find(id, now) == nil {
		if l.failing(now) {
			return snapshotReply{Refused: "it cannot write a snapshot now"}
		}
		select {
		case n.snapshots.wanted <- struct{}{}:
		default:
		}
		return snapshotReply{}
	}
	w, reading := l.state()
	held, err := l.begin(id, w, now)
	switch {
	case err != nil:
		n.conf.Log.Error("snapshot cannot be lent", "error", err)
		return snapshotReply{Refused: "it cannot read its snapshot"}
	case held == nil:
		return snapshotReply{Refused: "it lends to others", Busy: true, Loans: reading}
	}
	return snapshotReply{Created: held.created, Size: held.size}
}

func (n *Node) readLoan(q *snapshotQuery) (snapshotReply, []byte) {
	held := n.snapshots.loans.find(q.Loan, n.conf.Clock.Boot())
	switch {
	case held == nil:
		return snapshotReply{Refused: "the loan has ended"}, nil
	case !n.sound(held.written):
		return snapshotReply{Refused: "the log went backwards meanwhile"}, nil
	case q.Offset < 0 || q.Offset >= held.size:
		return snapshotReply{Refused: "there is no such piece"}, nil
	}
	piece := make([]byte, min(pieceSize, held.size-q.Offset))
	if _, err := held.f.ReadAt(piece, q.Offset); err != nil && err != io.EOF {
		return snapshotReply{Refused: "it cannot read its snapshot"}, nil
	}
	return snapshotReply{}, piece
}
