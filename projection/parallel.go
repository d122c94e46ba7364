package projection

import "github.com/revocast/revocast/events"

// runWords is about how much is written between two looks at whether memory is to
// be given back: enough for a goroutine to be worth its waking. runLeast is how
// many records are worth more than one.
const (
	runWords = 4 * tidyWords
	runLeast = 4
)

// ApplyAll folds records of one stream, as Apply does one after the other, and
// says in effects what each did. Records of different sessions are folded at the
// same time: share calls do with 0 to parts-1, from as many goroutines as it
// likes, and returns when all have returned.
//
// What is about more than one session is a barrier: it is folded when all before
// it is, and alone. And the position moves only when all of a run is visible
// (rule R12): until then a reader may see a later record and not an earlier one
// of another session, which is what any reader sees who looks at two sessions
// one after the other.
func (m *Map) ApplyAll(rs []events.Record, effects []Effect, parts int, share func(parts int, do func(part int))) {
	for len(rs) > 0 {
		n, words := m.runOf(rs)
		if n < runLeast || parts < 2 {
			n = max(n, 1)
			for i := range rs[:n] {
				effects[i] = m.Apply(rs[i])
			}
		} else {
			m.tidyIfDue(words)
			m.applyRun(rs[:n], effects, parts, share)
		}
		rs, effects = rs[n:], effects[n:]
	}
}

// runOf returns how many of the records, from the first on, are each about one
// session and new, and how many words they are about.
func (m *Map) runOf(rs []events.Record) (n, words int) {
	_, last := m.streams[rs[0].Stream].position()
	for n < len(rs) && words < runWords {
		r := &rs[n]
		if _, alone := one(r); !alone || r.Seq <= last {
			break
		}
		last = r.Seq
		words += len(r.Sealed)/8 + stateWords
		n++
	}
	return n, words
}

// one returns the only session that the record changes anything of, and false
// when there may be another. A state with aliases is about them too: two
// sessions may list one, and the later record has it.
func one(r *events.Record) (events.SID, bool) {
	if r.Trust != events.Authentic {
		return events.SID{}, false
	}
	switch e := r.Event.(type) {
	case *events.State:
		return e.SID, len(e.Aliases) == 0
	case *events.Touch:
		return e.SID, true
	case *events.Revoke:
		return e.SID, true
	case *events.Expire:
		return e.SID, true
	}
	return events.SID{}, false
}

// applyRun folds records that are each about one session. Those of one session
// are in one part, so they keep their order.
func (m *Map) applyRun(rs []events.Record, effects []Effect, parts int, share func(int, func(int))) {
	last := &rs[len(rs)-1]
	st := &m.streams[last.Stream]
	st.begun.Store(max(st.begun.Load(), last.Seq))
	share(parts, func(part int) {
		for i := range rs {
			sid, _ := one(&rs[i])
			if int(keyOf(sid).place().shard)%parts == part {
				effects[i] = m.apply(&rs[i])
			}
		}
	})
	for i := range rs {
		st.logTime.Store(max(st.logTime.Load(), rs[i].Time.UnixMilli()))
	}
	st.advance(last)
}
