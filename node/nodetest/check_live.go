package nodetest

import (
	"slices"
	"time"
)

// patience is how long a write may take after healing (C7).
const patience = 15 * time.Second

// probe checks C7 on a session that a node was asked to take after healing.
func (c *checker) probe(o *Op) {
	switch {
	case o.Outcome != OK:
		c.fail("C7", "a node takes no session after everything healed", *o)
	case o.End > o.Start+int64(patience):
		c.fail("C7", "a write took too long after everything healed", *o)
	}
}

// fencedFor reports whether the node said that it has no lease.
func (o *Op) fencedFor() bool {
	return (o.Op == OpUse || o.Op == OpRead) && o.Outcome == Fenced && o.Reason == Stale
}

// available checks C8, and of C7 that no node is fenced 2L after healing.
//
// An election counts unless something else was wrong shortly before, during or
// shortly after it, or it lasted for longer than elections do.
func (c *checker) available(ops []Op) {
	var elections []*Op
	for i := range ops {
		if o := &ops[i]; o.Op == OpElect && o.End-o.Start < c.lease && o.End-o.Start <= int64(longestElection+margin) && c.alone(o) {
			elections = append(elections, o)
		}
	}
	for i := range ops {
		o := &ops[i]
		if !o.fencedFor() {
			continue
		}
		if c.healed != nil && o.Start > c.healed.End+2*c.lease {
			c.fail("C7", "a node is fenced 2L after everything healed", *c.healed, *o)
		}
		for _, e := range elections {
			if o.Start >= e.Start && o.Start <= e.End+c.lease {
				c.fail("C8", "a node is fenced by the election of a leader", *e, *o)
				break
			}
		}
	}
}

// alone reports whether nothing but the election was wrong.
func (c *checker) alone(e *Op) bool {
	near := func(o *Op) bool { return o.Start <= e.End+2*c.lease && o.End >= e.Start-2*c.lease }
	if slices.ContainsFunc(c.jumps, near) {
		return false
	}
	for _, harms := range c.harms {
		if slices.ContainsFunc(harms, near) {
			return false
		}
	}
	return true
}
