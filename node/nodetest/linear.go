package nodetest

import (
	"maps"
	"math"
	"slices"
	"time"

	"github.com/anishathalye/porcupine"
)

// Limits of CheckLinear, as its time may grow exponentially with what happened to
// a session at one time.
const (
	linearOps  = 30
	linearTime = 10 * time.Second
)

// CheckLinear returns what in a history is not linearizable, session by session:
//
//   - strong: strong reads, against the creation and the revocations.
//   - change: patches, and strong reads of what they wrote. None is lost.
//
// Other reads may be old, and are for [Check]. A write that was not acknowledged
// may have happened at any time since its request, or not at all. What cannot be
// decided within limits is a violation, "too long". A log that lost what it
// acknowledged is not judged, nor are strong reads of a session that may have been
// revoked while its home was out of reach: they ask the home.
func CheckLinear(ops []Op) []Violation {
	if slices.ContainsFunc(ops, func(o Op) bool { return o.Op == OpLose }) {
		return nil
	}
	lives := livesOf(ops)
	var found []Violation
	for _, sid := range slices.Sorted(maps.Keys(lives)) {
		l := lives[sid]
		if !l.away {
			found = append(found, linear("strong", "a strong read did not say what was true", strongModel, l.strong())...)
		}
		found = append(found, l.ownMarks()...)
		found = append(found, linear("change", "a change was lost", changeModel, l.changed())...)
	}
	return found
}

// sessionLife is what counts of what happened to a session.
type sessionLife struct {
	create  *Op
	away    bool // it may have been revoked while its home was out of reach
	revokes []*Op
	rotated int64 // when it may first have had another token; endless: never
	reads   []*Op // strong ones
	patches []*Op
}

func livesOf(ops []Op) map[string]*sessionLife {
	lives, users := map[string]*sessionLife{}, map[string][]*sessionLife{}
	for i := range ops {
		if o := &ops[i]; o.Op == OpCreate && o.Outcome == OK {
			l := &sessionLife{create: o, rotated: endless}
			lives[o.SID], users[o.User] = l, append(users[o.User], l)
		}
	}
	for i := range ops {
		o := &ops[i]
		l := lives[o.SID]
		switch {
		case o.Op == OpRevokeUser:
			for _, l := range users[o.User] {
				if o.Outcome != OK || o.Spared != l.create.SID {
					l.revoked(o)
				}
			}
		case l == nil:
		case o.Op == OpRevoke:
			l.revoked(o)
		case o.Op == OpUse && o.Via == "patch":
			l.patches = append(l.patches, o)
		case o.Op == OpUse && o.Via == "rotate":
			l.rotated = min(l.rotated, o.Start)
		case o.Op == OpUse && o.Strong && (o.Outcome == Valid || o.Outcome == Invalid):
			l.reads = append(l.reads, o)
		}
	}
	return lives
}

func (l *sessionLife) revoked(o *Op) {
	home := homeOf(l.create)
	l.away = l.away || slices.Contains(o.Pending, home) || o.Outcome != OK && o.Region != "" && o.Region != home
	l.revokes = append(l.revokes, o)
}

// homeOf returns the stream in which a session was created.
func homeOf(create *Op) string {
	if p := positions(create.Revision); len(p) > 0 {
		return p[0].Stream
	}
	return ""
}

// endless is when what was not acknowledged may have happened at the latest.
const endless = math.MaxInt64

// linear checks one session.
func linear(check, what string, model porcupine.Model, ops []porcupine.Operation) []Violation {
	if len(ops) > linearOps {
		return []Violation{{check, "too long: more operations on a session than can be checked", proof(ops)}}
	}
	switch porcupine.CheckOperationsTimeout(model, ops, linearTime) {
	case porcupine.Illegal:
		return []Violation{{check, what, proof(ops)}}
	case porcupine.Unknown:
		return []Violation{{check, "too long: not decided in time", proof(ops)}}
	}
	return nil
}

// proof returns the operations of the history in the order of their start.
func proof(ops []porcupine.Operation) (out []Op) {
	slices.SortStableFunc(ops, func(a, b porcupine.Operation) int { return int(min(max(a.Call-b.Call, -1), 1)) })
	for i, o := range ops {
		if i == 0 || o.Metadata != ops[i-1].Metadata {
			out = append(out, *o.Metadata.(*Op))
		}
	}
	return out
}

// States of a session for strong reads.
type standing int

const (
	absent standing = iota
	live
	revoked
)

// strongModel: the input is the standing that a write makes, absent of a read;
// the output is the standing that a read saw.
var strongModel = porcupine.Model{
	Init: func() any { return absent },
	Step: func(state, input, output any) (bool, any) {
		now := state.(standing)
		switch input.(standing) {
		case live:
			return now == absent, live
		case revoked:
			if now == live {
				now = revoked
			}
			return true, now
		}
		return output.(standing) == now, now
	},
}

// strong returns the operations of strongModel, without what changes nothing: a
// revocation that ended before the session began, or began after another had ended.
// Of those that nobody acknowledged the earliest stands for all: what any of them
// did, it may have done.
func (l *sessionLife) strong() []porcupine.Operation {
	if len(l.reads) == 0 {
		return nil
	}
	all := []porcupine.Operation{{Input: live, Call: l.create.Start, Return: l.create.End, Metadata: l.create}}
	var perhaps *Op
	over := int64(endless)
	for _, o := range l.revokes {
		if o.Outcome == OK && o.Start > l.create.End {
			over = min(over, o.End)
		}
	}
	for _, o := range l.revokes {
		if o.Start > over || o.Outcome == OK && o.End < l.create.Start {
			continue
		}
		if o.Outcome == OK {
			all = append(all, porcupine.Operation{Input: revoked, Call: o.Start, Return: o.End, Metadata: o})
		} else if perhaps == nil || o.Start < perhaps.Start {
			perhaps = o
		}
	}
	if perhaps != nil {
		all = append(all, porcupine.Operation{Input: revoked, Call: perhaps.Start, Return: endless, Metadata: perhaps})
	}
	for _, o := range l.reads {
		saw := revoked
		switch {
		case o.Outcome == Valid:
			saw = live
		case o.Reason == "unknown" && o.End > l.rotated:
			continue // it may have been asked for with a token of before
		case o.Reason == "unknown":
			saw = absent
		}
		all = append(all, porcupine.Operation{Input: absent, Output: saw, Call: o.Start, Return: o.End, Metadata: o})
	}
	return all
}

// changeModel: the state is the set of marks that a session has. The input is the
// mark that a write adds, 0 of a read; the output is the set that a read saw.
var changeModel = porcupine.Model{
	Init: func() any { return uint64(0) },
	Step: func(state, input, output any) (bool, any) {
		if input.(uint64) == 0 {
			return state == output, state
		}
		return true, state.(uint64) | input.(uint64)
	},
}

// changed returns the operations of changeModel. A patch is a write and, if it
// was answered, a read: the answer may show what others wrote right after it. A
// write that nobody acknowledged, and of which nobody saw anything, is left out:
// it may have been the last.
func (l *sessionLife) changed() (all []porcupine.Operation) {
	seen := map[string]bool{}
	for _, o := range slices.Concat(l.reads, l.patches) {
		for _, mark := range o.Marks {
			seen[mark] = true
		}
	}
	bits := map[string]uint64{}
	for _, o := range l.patches {
		switch {
		case o.Outcome == Valid:
			bits[o.Wrote] = 1 << len(bits)
			all = append(all, porcupine.Operation{Input: bits[o.Wrote], Call: o.Start, Return: o.End, Metadata: o})
		case seen[o.Wrote]:
			bits[o.Wrote] = 1 << len(bits)
			all = append(all, porcupine.Operation{Input: bits[o.Wrote], Call: o.Start, Return: endless, Metadata: o})
		}
	}
	for _, o := range slices.Concat(l.reads, l.patches) {
		if o.Outcome != Valid {
			continue
		}
		set := uint64(0)
		for _, mark := range o.Marks {
			if bits[mark] == 0 {
				bits[mark] = 1 << len(bits) // nobody wrote it: no state has it
			}
			set |= bits[mark]
		}
		all = append(all, porcupine.Operation{Input: uint64(0), Output: set, Call: o.Start, Return: o.End, Metadata: o})
	}
	return all
}

// ownMarks checks that each patch shows what it wrote.
func (l *sessionLife) ownMarks() (found []Violation) {
	for _, o := range l.patches {
		if o.Outcome == Valid && !slices.Contains(o.Marks, o.Wrote) {
			found = append(found, Violation{"change", "a change is not in its own answer", []Op{*l.create, *o}})
		}
	}
	return found
}
