package subscribe

import (
	"cmp"
	"encoding/binary"
	"hash/maphash"
	"slices"
	"time"

	"github.com/revocast/revocast/events"
)

const (
	// knownMost is how many of the last entries are remembered; more than live
	// messages wait, so that a live one that was delivered meanwhile is known.
	knownMost = 2 * liveBuffer
	// anchors is how many of them a reading begins with. Some may have left the
	// log: another took their place, or their time was over.
	anchors = 16
	// aheadMost bounds what is remembered of the live subjects. What does not fit
	// is delivered by the consumer.
	aheadMost = 64 << 10
	// patienceMost is how long one waits at most while the consumer delivers what
	// stands before it.
	patienceMost = time.Second
	// stuckTries is how often a reading begins again for one live message. Then
	// it is given up: somebody published it, and the log does not hold it.
	stuckTries = 3
)

// known is an entry that was told: by its sequence and its time, to the
// nanosecond, and what it is. The sum of one from a Cursor is 0, unknown.
type known struct {
	seq uint64
	at  int64
	sum uint64
}

// history holds the last entries that the consumer delivered, ascending.
type history struct {
	seed maphash.Seed
	last []known
}

func newHistory() history { return history{seed: maphash.MakeSeed()} }

// sum tells what the entry is from anything else; it is never 0.
func (h *history) sum(e *events.Entry) uint64 {
	var m maphash.Hash
	m.SetSeed(h.seed)
	m.Write(binary.BigEndian.AppendUint64(nil, uint64(e.Time.UnixNano())))
	for _, s := range []string{e.Subject, e.Seal} {
		m.WriteString(s)
		m.WriteByte(0)
	}
	m.Write(e.Payload)
	return max(m.Sum64(), 1)
}

func (h *history) add(k known) {
	if len(h.last) == 2*knownMost {
		h.last = append(h.last[:0], h.last[knownMost:]...)
	}
	h.last = append(h.last, k)
}

// has reports whether just this entry was told.
func (h *history) has(e *events.Entry) bool {
	i, ok := slices.BinarySearchFunc(h.last, e.Seq, func(k known, seq uint64) int { return cmp.Compare(k.seq, seq) })
	if !ok {
		return false
	}
	k := h.last[i]
	return k.at == e.Time.UnixNano() && (k.sum == 0 || k.sum == h.sum(e))
}

// anchor returns the sequence from which the log is to be read again, false if
// nothing was told.
func (h *history) anchor() (uint64, bool) {
	if len(h.last) == 0 {
		return 0, false
	}
	return h.last[max(len(h.last)-anchors, 0)].seq, true
}

// heard is what was heard live and not delivered yet.
type heard struct {
	entry events.Entry
	sum   uint64
	at    time.Time
	told  bool
	tries int
}

// ahead holds them, in the order in which they were heard.
type ahead struct {
	patience time.Duration
	bySeq    map[uint64]*heard
	untold   []*heard // that wait to be told
	all      []*heard // that wait to be delivered
	due      *time.Timer
}

func newAhead(patience time.Duration) ahead {
	a := ahead{patience: max(cmp.Or(patience, DefaultPatience), 0), bySeq: map[uint64]*heard{}, due: time.NewTimer(time.Hour)}
	a.due.Stop()
	return a
}

func (a *ahead) add(e events.Entry, sum uint64) {
	if a.bySeq[e.Seq] != nil || len(a.bySeq) >= aheadMost {
		return
	}
	h := &heard{entry: e, sum: sum, at: time.Now()}
	a.bySeq[e.Seq] = h
	a.all = append(a.all, h)
	if a.untold = append(a.untold, h); len(a.untold) == 1 {
		a.due.Reset(a.patience)
	}
}

// remove takes out what was delivered; nil if it was not heard.
func (a *ahead) remove(seq uint64) *heard {
	h := a.bySeq[seq]
	delete(a.bySeq, seq)
	return h
}

// holds reports whether h still waits for its delivery.
func (a *ahead) holds(h *heard) bool { return a.bySeq[h.entry.Seq] == h }

// overdue returns the next one whose patience is over, nil if there is none, and
// has the timer go off for the one after. Patience begins anew with each delivery,
// since which is the last one, and is not over while a delivery waits to be told:
// it is no stalled consumer, but a slow handle or much to catch up with. Where that
// is read fast, it ends all the same after patienceMost.
func (a *ahead) overdue(since time.Time, busy bool) *heard {
	for len(a.untold) > 0 {
		h := a.untold[0]
		if a.holds(h) && a.patience > 0 {
			if since.Before(h.at) {
				since = h.at
			}
			left := min(a.patience-time.Since(since), patienceMost-time.Since(h.at))
			if busy || left > 0 {
				a.due.Reset(max(left, a.patience/4))
				return nil
			}
		}
		a.untold[0], a.untold = nil, a.untold[1:]
		if a.holds(h) {
			return h
		}
	}
	return nil
}

// waits reports whether one has waited for its delivery for so long. One that has
// waited often is forgotten.
func (a *ahead) waits(since time.Duration) bool {
	for len(a.all) > 0 {
		h := a.all[0]
		switch {
		case a.holds(h) && h.tries >= stuckTries:
			delete(a.bySeq, h.entry.Seq)
		case a.holds(h) && time.Since(h.at) < since*time.Duration(h.tries+1):
			return false
		case a.holds(h):
			h.tries++
			return true
		}
		a.all[0], a.all = nil, a.all[1:]
	}
	return false
}
