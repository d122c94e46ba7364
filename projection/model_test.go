package projection_test

import (
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/projection"
)

// plain is the fold in a few lines: no compaction, no clock, nothing forgotten. It
// reads the whole log and says who was revoked.
type plain struct {
	birth  map[events.SID]uint64        // the sequence that counts against an "all"
	newest map[events.SID]*events.State // of each session
	revs   map[events.SID]bool
	alls   []plainAll
}

type plainAll struct {
	*events.RevokeAll
	stream uint8 // of the sessions that it is about
	seq    uint64
}

func plainOf(log []kept) *plain {
	p := &plain{birth: map[events.SID]uint64{}, newest: map[events.SID]*events.State{}, revs: map[events.SID]bool{}}
	for _, k := range log {
		switch e := k.r.Event.(type) {
		case *events.State:
			if p.newest[e.SID] == nil {
				p.birth[e.SID] = k.r.Seq
				if e.AuthSeq != 0 {
					p.birth[e.SID] = min(k.r.Seq, e.AuthSeq)
				}
			}
			p.newest[e.SID] = e
		case *events.Revoke:
			p.revs[e.SID] = true
		case *events.RevokeAll:
			a := plainAll{e, k.r.Stream, k.r.Seq}
			if e.Home != 0 {
				a.stream = e.Home
			}
			p.alls = append(p.alls, a)
		}
	}
	return p
}

// revoked reports whether anything in the log revokes the session.
func (p *plain) revoked(s *events.State) bool {
	return p.revs[s.SID] || slices.ContainsFunc(p.alls, func(a plainAll) bool {
		switch {
		case a.stream != s.SID.Stream() || a.App != s.App || a.User != "" && a.User != s.User || slices.Contains(a.Except, s.SID):
			return false
		case a.Home != 0:
			return s.CreatedAt <= a.At+60*second
		}
		return p.birth[s.SID] < a.seq
	})
}

// compare fails unless the projection says of each session what the model says.
func (w *world) compare(p *plain) {
	for sid, s := range p.newest {
		_, v := w.m.Lookup(sid, w.now)
		gone := p.revoked(s)
		switch {
		case gone && (v == active || v == idle), gone && v != revoked && w.now < s.ExpiresAt:
			w.t.Fatalf("%v is revoked, and %v here", sid, v)
		case !gone && v == revoked:
			w.t.Fatalf("%v was revoked by nothing", sid)
		case !gone && w.now < s.ExpiresAt && v != active && (v != idle || s.Idle == 0):
			w.t.Fatalf("%v is good, and %v here", sid, v)
		case w.now >= s.ExpiresAt && v == active:
			w.t.Fatalf("%v has expired, and is good here", sid)
		}
	}
}

// Whatever a node goes through on its way, a restart from a snapshot, a rebuild
// from the compacted log, forgetting, it says what the plain model says that reads
// every event ever written.
func TestPlainModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t)
		w.away = rapid.Bool().Draw(t, "away")
		restart := func() {
			m, _ := w.throughSnapshot()
			for _, k := range w.log { // what it holds already is dropped
				m.Apply(k.r)
			}
			w.m = m
		}
		rebuild := func() {
			m := new(projection.Map)
			for _, r := range compacted(w.log, len(w.log)) {
				m.Apply(r)
			}
			w.m = m
			clear(w.dead) // the log dropped what has expired: unknown, then
		}
		sweep := func() {
			for stream := range worldRegions {
				w.m.Sweep(stream, w.now)
			}
		}
		for range rapid.IntRange(1, 5).Draw(t, "lives") {
			w.run()
			w.compare(plainOf(w.log))
			rapid.SampledFrom([]func(){restart, rebuild, sweep}).Draw(t, "then")()
			w.compare(plainOf(w.log))
		}
	})
}
