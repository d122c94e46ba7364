package node

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/revocast/revocast/events"
)

// memberLog feeds a members as a log would.
type memberLog struct {
	members
	seq uint64
	now time.Duration
}

func (l *memberLog) add(e events.Event) uint64 {
	l.seq++
	l.apply(events.Record{Seq: l.seq, Event: e}, l.now)
	return l.seq
}

func (l *memberLog) beat(name string, i events.Incarnation) uint64 {
	return l.add(&events.Beat{Node: name, Incarnation: i})
}

func (l *memberLog) leave(name string, i events.Incarnation) uint64 {
	return l.add(&events.Node{Node: name, Incarnation: i, Left: true})
}

// names returns the members before the sequence as "node", or "node left".
func (l *memberLog) names(seq uint64) (all []string) {
	for _, m := range l.before(seq) {
		name := m.node
		if m.left != 0 {
			name += " left"
		}
		all = append(all, name)
	}
	return all
}

func (l *memberLog) want(t *testing.T, seq uint64, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, l.names(seq)); diff != "" {
		t.Errorf("members before %d at %v: -want +got\n%s", seq, l.now, diff)
	}
}

func TestMembers(t *testing.T) {
	const lease = 15 * time.Second
	l := &memberLog{members: members{lease: lease}}
	one, two, again := events.NewIncarnation(), events.NewIncarnation(), events.NewIncarnation()

	l.add(&events.Node{Node: "n1", Incarnation: one})
	l.want(t, l.seq+1) // registered, and no heartbeat: it can hold no lease
	first := l.beat("n1", one)
	l.want(t, first)
	l.want(t, first+1, "n1")
	revoke := l.add(&events.Revoke{})
	l.beat("n2", two) // joined after the revocation: its heartbeat proves it has it
	l.want(t, revoke, "n1")
	l.want(t, l.seq+1, "n1", "n2")

	// A farewell counts for its incarnation only, and a heartbeat that comes
	// after it does not undo it.
	wake := l.farewells()
	l.now += time.Second
	l.leave("n2", two)
	select {
	case <-wake:
	default:
		t.Error("a farewell wakes nobody")
	}
	l.beat("n2", two)
	l.beat("n2", again)
	l.want(t, l.seq+1, "n1", "n2 left", "n2")
	for _, m := range l.before(l.seq + 1) {
		if m.incarnation == two && m.heard != 0 {
			t.Error("a heartbeat after the farewell was heard")
		}
		if m.incarnation == again && (m.left != 0 || m.heard != l.now) {
			t.Errorf("the next incarnation: %+v", m)
		}
	}

	// Silence is remembered for four leases, and nothing else ends it.
	for range 59 {
		l.now += time.Second
		l.beat("n2", again)
		l.want(t, l.seq, "n1", "n2 left", "n2")
	}
	l.now += lease + 2*time.Second
	l.beat("n2", again)
	l.want(t, l.seq, "n2")

	// A farewell that comes without a heartbeat is kept for one that is late.
	late := events.NewIncarnation()
	l.leave("n3", late)
	l.beat("n3", late)
	l.want(t, l.seq+1, "n2")

	l.reset()
	l.want(t, l.seq+1)
	if _, ok := l.since(1); ok {
		t.Error("a sample outlived a reset")
	}
}

// TestMembersAgainstLog compares with the definition, over random logs: a
// member has a heartbeat below the sequence, and was heard within four leases.
func TestMembersAgainstLog(t *testing.T) {
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 1))
	const lease = time.Second
	incs := make([]events.Incarnation, 6)
	for i := range incs {
		incs[i] = events.NewIncarnation()
	}
	for range 200 {
		l := &memberLog{members: members{lease: lease}}
		type line struct {
			who  int
			left bool
			at   time.Duration
		}
		var log []line
		gone := map[int]time.Duration{}
		for range 60 {
			l.now += time.Duration(r.IntN(400)) * time.Millisecond
			who := r.IntN(len(incs))
			at, over := gone[who]
			if over && l.now-at > lease {
				continue // whoever has left is heard for a moment at most
			}
			if left := !over && r.IntN(20) == 0; left {
				gone[who] = l.now
				l.leave(fmt.Sprint("n", who), incs[who])
				log = append(log, line{who, true, l.now})
			} else {
				l.beat(fmt.Sprint("n", who), incs[who])
				log = append(log, line{who, false, l.now})
			}
			seq := uint64(r.IntN(len(log)+1)) + 1
			got := map[string]bool{}
			for _, m := range l.before(seq) {
				got[m.node] = m.left != 0
			}
			for who := range incs {
				var member, left, gap bool
				var heard time.Duration
				for i, e := range log {
					switch {
					case e.who != who:
					case e.left:
						left = true
					case !left:
						// Forgotten and heard again, it counts as new.
						gap = gap || heard != 0 && e.at-heard > forgetAfter*lease
						member, heard = member || uint64(i+1) < seq, e.at
					}
				}
				name := fmt.Sprint("n", who)
				gone, ok := got[name]
				switch {
				case member && !gap && l.now-heard < forgetAfter*lease && (!ok || gone != left):
					t.Fatalf("seed %d: %s is a member (left %t) and was given as %t (left %t)", seed, name, left, ok, gone)
				case !member && ok:
					t.Fatalf("seed %d: %s is no member before %d", seed, name, seq)
				}
			}
		}
	}
}

// TestMembersSince: a sample is never earlier than the commit of what it is
// asked for, and however old a position is, some sample covers it.
func TestMembersSince(t *testing.T) {
	const lease = 15 * time.Second
	l := &memberLog{members: members{lease: lease}}
	who := events.NewIncarnation()
	committed := map[uint64]time.Duration{}
	for range 800 {
		l.now += 100 * time.Millisecond
		committed[l.beat("n1", who)] = l.now
		at := l.add(&events.Revoke{})
		if _, ok := l.since(at); ok {
			t.Fatalf("%d is covered before anything came after it", at)
		}
		committed[at] = l.now
		for seq := range l.seq {
			at, ok := l.since(seq)
			if ok && at < committed[seq] || !ok && l.now-committed[seq] > lease/32+100*time.Millisecond {
				t.Fatalf("%d of %d: since %v (%t), committed at %v", seq, l.seq, at, ok, committed[seq])
			}
		}
	}
	if len(l.sampled) > forgetAfter*32+40 {
		t.Errorf("%d samples are kept", len(l.sampled))
	}
}
