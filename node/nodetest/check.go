package nodetest

import (
	"math"
	"slices"
	"time"

	"github.com/revocast/revocast/events"
)

// Violation is a broken promise.
type Violation struct {
	Check string // C1 to C9, or strong or change
	What  string
	Ops   []Op // what proves it
}

// String returns the violation with its proof, a line for each operation.
func (v Violation) String() string {
	s := v.Check + ": " + v.What
	for _, o := range v.Ops {
		s += "\n    " + o.String()
	}
	return s
}

// margin is what readings of the driver's clock may be apart from the moment
// that is meant.
const margin = time.Millisecond

// Check returns which promises of DESIGN section 5 a history breaks, at most a
// few of each. The lease is that of the nodes.
//
//   - C1: what was acknowledged is there at the end, on every node; a revocation
//     that was pending too.
//   - C2: on a node, a revoked session stays revoked.
//   - C3: no answer is older than L(1+ρ). A pending revocation reaches the nodes
//     of its region in that time.
//   - C4: nothing is good that is asked for after a complete receipt, whenever
//     that was asked for.
//   - C5: a write is seen by its node, and by whoever asks for its revision; a
//     pending revocation too.
//   - C6: at the end all nodes have one digest.
//   - C7: 2L after healing every node answers and takes creates, which takes no
//     longer than 15 s, and no receipt is committed or pending.
//   - C8: while the worst are elections of a stream's leader, each shorter than
//     L, no node is fenced.
//   - C9: no goroutine outlives the nodes.
//
// What the log itself lost is not held against the nodes. The time is linear
// in the operations, but for the revocations of one user, and for elections.
// [CheckLinear] checks strong reads and changes.
func Check(ops []Op, lease time.Duration) []Violation {
	c := newChecker(ops, lease)
	for i := range ops {
		o := &ops[i]
		switch o.Op {
		case OpUse:
			c.use(o)
		case OpRead:
			c.read(o)
		case OpReceipt:
			if c.healed != nil && o.Start > c.healed.End && (o.Receipt == "pending" || o.Receipt == "committed" || o.Outcome == Fenced) {
				c.fail("C7", "a receipt is not complete after everything healed", *o)
			}
		case OpProbe:
			c.probe(o)
		case OpDigest:
			if c.digest == nil {
				c.digest = o
			} else if c.digest.Note != o.Note {
				c.fail("C6", "two nodes that read one log differ", *c.digest, *o)
			}
		case OpStop:
			if o.Seq > 0 {
				c.fail("C9", "goroutines outlive the nodes", *o)
			}
		}
	}
	c.monotone(ops)
	c.available(ops)
	return c.found
}

// story is what is known of a session.
type story struct {
	create  *Op
	rotated int64 // when it may first have had another token; MaxInt64: never
	// sure are acknowledged revocations that cover it, all those that may.
	sure []*Op
	all  []*Op
}

type checker struct {
	lease  int64 // ns
	bound  int64 // ns
	losses []*Op
	jumps  []*Op // losses, and rewinds without one
	harms  map[string][]*Op
	newest map[string]uint32 // generation of a stream that anybody named
	by     map[string]*story
	digest *Op
	healed *Op
	found  []Violation
	count  map[string]int
}

// enough is how many violations of a kind are reported.
const enough = 3

func (c *checker) fail(check, what string, ops ...Op) {
	if c.count[check]++; c.count[check] <= enough {
		c.found = append(c.found, Violation{check, what, ops})
	}
}

func newChecker(ops []Op, lease time.Duration) *checker {
	c := &checker{
		lease: int64(lease), bound: int64(float64(lease)*(1+ClockRate)) + int64(margin),
		harms: map[string][]*Op{}, newest: map[string]uint32{}, by: map[string]*story{}, count: map[string]int{},
	}
	users, groups := map[string][]*story{}, map[string][]*Op{}
	for i := range ops {
		for _, p := range positions(ops[i].Revision) {
			c.newest[p.Stream] = max(c.newest[p.Stream], p.Gen)
		}
		switch o := &ops[i]; o.Op {
		case OpLose:
			c.losses = append(c.losses, o)
			c.jumps = append(c.jumps, o)
		case OpRewind:
			c.jumps = append(c.jumps, o)
		case OpHarm:
			c.harms[o.Node] = append(c.harms[o.Node], o)
		case OpHeal:
			c.healed = o
		case OpCreate:
			if o.SID != "" && c.by[o.SID] == nil {
				s := &story{create: o, rotated: math.MaxInt64}
				c.by[o.SID] = s
				users[o.User] = append(users[o.User], s)
			}
		case OpRevokeUser:
			groups[o.User] = append(groups[o.User], o)
		}
	}
	for i := range ops {
		o := &ops[i]
		s := c.by[o.SID]
		switch {
		case s == nil:
		case o.Op == OpRevoke:
			s.covered(o, o.Outcome == OK && !c.lost(o) && s.create.End <= o.Start)
		case o.Op == OpUse && o.Via == "rotate":
			s.rotated = min(s.rotated, o.Start)
		}
	}
	for user, all := range groups {
		for _, o := range all {
			for _, s := range users[user] {
				if s.create.SID == o.Spared && o.Outcome == OK {
					continue
				}
				s.covered(o, o.Outcome == OK && !c.lost(o) && s.create.Outcome == OK && s.create.End <= o.Start && s.create.SID != o.Spared)
			}
		}
	}
	c.receipts(ops)
	return c
}

// receipts counts a revocation whose receipt was complete when it was asked for
// again as one more that was answered then.
func (c *checker) receipts(ops []Op) {
	later := map[string]*Op{} // the first complete one, by revision
	for i := range ops {
		if o := &ops[i]; o.Op == OpReceipt && o.Receipt == "complete" && (later[o.Revision] == nil || o.End < later[o.Revision].End) {
			later[o.Revision] = o
		}
	}
	for _, s := range c.by {
		for _, o := range s.sure {
			if r := later[o.Revision]; r != nil && r.End > o.End {
				again := *o
				again.Node, again.Life, again.End, again.Receipt, again.Pending = r.Node, 0, r.End, r.Receipt, nil
				again.Note = "the receipt that was asked for later"
				s.sure = append(s.sure, &again)
			}
		}
	}
}

func (s *story) covered(o *Op, sure bool) {
	s.all = append(s.all, o)
	if sure {
		s.sure = append(s.sure, o)
	}
}

// lost reports whether the log may have lost what a write wrote.
func (c *checker) lost(o *Op) bool {
	for _, l := range c.losses {
		if o.Start <= l.End && (o.Outcome != OK || o.Revision == "" || reaches(o.Revision, l)) {
			return true
		}
	}
	return false
}

// reaches reports whether a position of the revision is among what was lost.
func reaches(revision string, l *Op) bool {
	return slices.ContainsFunc(positions(revision), func(p events.Position) bool {
		return (l.Stream == "" || p.Stream == l.Stream) && p.Seq >= l.Seq
	})
}

// bounded reports whether a use may have been answered as if it had demanded no
// revision, or at a sequence that was given away again. A node reads a revision
// of an earlier generation than its own as bounded. And until it notices that
// the log went backwards, which takes no longer than its lease, it counts what
// is gone by the same sequences as the log counts what took its place.
func (c *checker) bounded(o *Op) bool {
	for _, j := range c.jumps {
		if j.Start <= o.End && (o.Revision == "" || o.Start <= j.End+c.bound) {
			return true
		}
	}
	return slices.ContainsFunc(positions(o.AtLeast), func(p events.Position) bool {
		if generation(o.Revision, p.Stream) > p.Gen {
			return true
		}
		// The answer names the session's home only. Of another stream the node may
		// know a generation that anybody has named.
		elsewhere := !slices.ContainsFunc(positions(o.Revision), func(q events.Position) bool { return q.Stream == p.Stream })
		return elsewhere && c.newest[p.Stream] > p.Gen
	})
}

// use checks C3, C4 and C5 on one use of a session.
func (c *checker) use(o *Op) {
	s := c.by[o.SID]
	if s == nil {
		return
	}
	if o.Outcome == Invalid && o.Reason == "unknown" {
		c.unseen(s, o)
	}
	if o.Outcome != Valid {
		return
	}
	for _, r := range s.sure {
		switch {
		case o.Start > r.End && r.Receipt == "complete":
			c.fail("C4", "good after a complete receipt", *s.create, *r, *o)
		case o.Start > r.End && r.Node == o.Node && r.Life == o.Life:
			c.fail("C5", "good on the node that had acknowledged its revocation", *s.create, *r, *o)
		case o.AtLeast != "" && o.AtLeast == r.Revision && !c.bounded(o):
			c.fail("C5", "good although its revocation was asked for", *s.create, *r, *o)
		case o.Start > r.End+c.bound && c.heard(s, r, o):
			c.fail("C3", "good longer than a lease after its revocation", *s.create, *r, *o)
		}
	}
}

// heard reports whether the node must have heard of the revocation by the time
// of the use. That is so by its lease on the session's home, unless the home was
// out of reach. What is recorded elsewhere then, the nodes of that region hear by
// another stream than the one of the lease, so nothing may have been wrong around
// the node.
func (c *checker) heard(s *story, r, o *Op) bool {
	if !slices.Contains(r.Pending, homeOf(s.create)) {
		return true
	}
	during := func(x *Op) bool { return x.Start <= o.End && x.End >= r.Start-c.lease }
	return o.Region == r.Region && !slices.ContainsFunc(c.jumps, during) &&
		!slices.ContainsFunc(c.harms[o.Node], func(h *Op) bool { return h.Note != "sever" && during(h) })
}

// unseen checks an answer that there is no such session.
func (c *checker) unseen(s *story, o *Op) {
	w := s.create
	if w.Outcome != OK || w.End > o.Start || len(s.all) > 0 || c.lost(w) || o.Via != "jwt" && o.End > s.rotated {
		return
	}
	switch {
	case w.Node == o.Node && w.Life == o.Life:
		c.fail("C5", "unknown to the node that created it", *w, *o)
	case o.AtLeast != "" && o.AtLeast == w.Revision && !c.bounded(o):
		c.fail("C5", "unknown although its creation was asked for", *w, *o)
	}
}

// read checks C1 on the final reading of a session.
func (c *checker) read(o *Op) {
	s := c.by[o.SID]
	if s == nil {
		return
	}
	switch {
	case o.Outcome == Valid && len(s.sure) > 0:
		c.fail("C1", "an acknowledged revocation is gone at the end", *s.create, *s.sure[0], *o)
	case o.Outcome == Invalid && len(s.all) == 0 && s.create.Outcome == OK && !c.lost(s.create):
		c.fail("C1", "an acknowledged session is gone at the end", *s.create, *o)
	case o.Outcome != Valid && o.Outcome != Invalid:
		c.fail("C7", "a node does not answer at the end", *o)
	}
}

// monotone checks C2. What a log lost, a node that starts after it need not know.
func (c *checker) monotone(ops []Op) {
	type place struct {
		node, sid string
		life      int
	}
	first := map[place]*Op{}
	of := func(o *Op) place {
		p := place{node: o.Node, sid: o.SID}
		if len(c.losses) > 0 {
			p.life = o.Life
		}
		return p
	}
	for i := range ops {
		o := &ops[i]
		if (o.Op == OpUse || o.Op == OpRead) && o.Outcome == Invalid && o.Reason == "revoked" {
			if f := first[of(o)]; f == nil || o.End < f.End {
				first[of(o)] = o
			}
		}
	}
	for i := range ops {
		o := &ops[i]
		if f := first[of(o)]; (o.Op == OpUse || o.Op == OpRead) && o.Outcome == Valid && f != nil && o.Start > f.End {
			c.fail("C2", "good again on a node that had called it revoked", *f, *o)
		}
	}
}
