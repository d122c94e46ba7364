package projection_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/projection"
)

func TestRepairLives(t *testing.T) {
	l := newLog(t)
	e := state(s1, "u")
	l.add(e)
	subject := e.Subject(region)
	fix, ok := l.m.Repair(subject, 7, l.now)
	want := &events.State{
		App: "app", User: "u", SID: s1, Reason: events.ReasonRepaired, CreatedAt: base, ExpiresAt: base + hour,
		AbsoluteAt: base + 24*hour, SeenAt: base, Prev: 7, CreatedSeq: 1,
	}
	if diff := cmp.Diff(projection.Repair{Event: want, Sealed: sealed(1, "private"), TTL: time.Hour + time.Minute}, fix); !ok || diff != "" {
		t.Error(ok, diff)
	}
	if _, ok := l.m.Repair(subject, 7, base+hour); ok {
		t.Error("an expired session was repaired")
	}
	// A shorter state must still take the place of a copy of a longer one.
	l.add(changed(e, 1, 1, func(e *events.State) { e.ExpiresAt = base + minute }))
	l.now = base + 30*minute
	l.must(overwrite, l.replay(1))
	l.verdict(s1, expired)
	if fix, ok := l.m.Repair(subject, 3, l.now); !ok || fix.TTL != time.Second {
		t.Errorf("%v, lives %v", ok, fix.TTL)
	}
	if n := sweep(l); n != 0 {
		t.Error("forgotten while a copy could be believed")
	}
	l.add(revoke(e))
	fix, ok = l.m.Repair(revoke(e).Subject(region), 9, l.now)
	if rev := fix.Event.(*events.Revoke); !ok || rev.AbsoluteAt != e.AbsoluteAt || rev.Reason != "logout" || fix.TTL != 23*time.Hour+31*time.Minute {
		t.Errorf("%+v, lives %v", rev, fix.TTL)
	}
}

func TestSweep(t *testing.T) {
	l := newLog(t)
	e, f := state(s1, "u"), state(s2, "v")
	l.add(e)
	l.add(f)
	l.add(revoke(f))
	l.add(all("w", 0))
	l.now = base + hour + 2*minute
	if n := sweep(l); n != 0 {
		t.Errorf("forgot %d by the wall clock alone", n)
	}
	l.add(&events.Beat{})
	if n := sweep(l); n != 2 {
		t.Errorf("forgot %d sessions", n)
	}
	l.verdict(s1, unknown)
	if s := l.verdict(s2, revoked); s.RevokeReason != "logout" || s.AbsoluteAt != f.AbsoluteAt {
		t.Errorf("tombstone %+v", s)
	}
	if s, tombs := l.m.Len(); s != 0 || tombs != 1 {
		t.Errorf("%d sessions, %d tombstones", s, tombs)
	}
	for range l.m.User("app", "u", l.now) {
		t.Error("a forgotten session is listed")
	}
	l.replay(2)
	l.verdict(s2, revoked)
	l.now = base + 24*hour + minute
	l.add(&events.Beat{})
	sweep(l)
	if s, tombs := l.m.Len(); s != 0 || tombs != 0 {
		t.Errorf("%d sessions, %d tombstones", s, tombs)
	}
	if l.m.LastAll(home, "app", "w") == 0 {
		t.Error("a watermark was forgotten within its year")
	}
	l.now = base + int64(events.UnknownLifetime/time.Millisecond) + 2*minute
	l.add(&events.Beat{})
	sweep(l)
	if l.m.LastAll(home, "app", "w") != 0 {
		t.Error("a watermark outlived its year")
	}
}

func TestDigest(t *testing.T) {
	a, b := newLog(t), newLog(t)
	e, f := state(s1, "u"), state(s2, "v")
	a.add(e)
	a.add(f)
	b.seq = 1
	b.add(f)
	b.seq = 0
	b.m.Rewind(home)
	b.add(e)
	b.add(f)
	if x, y := a.m.Digest(home, base), b.m.Digest(home, base); x != y || !strings.HasPrefix(x, "f1-") {
		t.Errorf("%s, %s", x, y)
	}
	before := a.m.Digest(home, base)
	a.add(revoke(e))
	if a.m.Digest(home, base) == before {
		t.Error("a revocation changes nothing")
	}
	if a.m.Digest(home, base+2*hour) != new(projection.Map).Digest(home, base) {
		t.Error("expired sessions count")
	}
	if a.m.Digest(3, base) != new(projection.Map).Digest(home, base) {
		t.Error("another stream's sessions count")
	}
}

func TestRewind(t *testing.T) {
	l := newLog(t)
	e, f, g := state(s1, "u"), state(s2, "v"), state(sid(home, 3), "w")
	l.add(e)
	l.add(f)
	l.add(g)
	l.add(revoke(e))
	l.add(all("v", 0))
	l.m.Rewind(home)
	if gen, seq := l.m.Position(home); gen != 1 || seq != 0 {
		t.Errorf("position %d:%d", gen, seq)
	}
	l.verdict(s1, revoked)
	l.verdict(g.SID, unknown)
	// The log kept only the creations.
	recs := l.recs[:3]
	l.recs, l.seq = nil, 0
	for _, r := range recs {
		l.put(r)
	}
	l.verdict(s1, revoked)
	l.verdict(s2, revoked)
	l.verdict(g.SID, active)
	var lost []events.Event
	for fix := range l.m.Lost(home, l.now) {
		lost = append(lost, fix.Event)
		if fix.TTL <= 0 {
			t.Errorf("lives %v", fix.TTL)
		}
	}
	if len(lost) != 3 { // s1's rev; s2's, whose state was read again; the all
		t.Errorf("lost: %+v", lost)
	}
	for _, e := range lost {
		l.must(applied, l.add(e))
	}
	for range l.m.Lost(home, l.now) {
		t.Error("lost although appended again")
	}
	m := l.rebuilt()
	for s, want := range map[events.SID]projection.Verdict{s1: revoked, s2: revoked, g.SID: active} {
		if _, v := m.Lookup(s, l.now); v != want {
			t.Errorf("after a rebuild %v is %v, want %v", s, v, want)
		}
	}
	// A new log-in of the user is not held back by the old watermark.
	h := state(sid(home, 4), "v")
	l.add(h)
	l.verdict(h.SID, active)
}

// What an older "all", read again, says does not stand for the lost newer one.
func TestRewindToAnOlderAll(t *testing.T) {
	l := newLog(t)
	l.add(all("u", 0))
	newer := all("u", 1)
	newer.Reason = "stolen"
	l.add(newer)
	first := l.recs[0]
	l.m.Rewind(home)
	l.recs, l.seq = nil, 0
	l.must(applied, l.put(first))
	var lost []*events.RevokeAll
	for fix := range l.m.Lost(home, l.now) {
		lost = append(lost, fix.Event.(*events.RevokeAll))
	}
	if len(lost) != 1 || lost[0].Reason != "stolen" || lost[0].Prev != 1 || lost[0].Before != 2 {
		t.Fatalf("lost: %+v", lost)
	}
	l.must(applied, l.add(lost[0]))
	for range l.m.Lost(home, l.now) {
		t.Error("lost although appended again")
	}
}

// However often the log goes backwards, one lost "all" is one event to append.
func TestRewindAgainAndAgain(t *testing.T) {
	l := newLog(t)
	l.add(state(s1, "u"))
	l.add(all("u", 0))
	for range 5 {
		l.m.Rewind(home)
	}
	l.recs, l.seq = nil, 0
	l.add(state(s1, "u"))
	l.verdict(s1, revoked)
	var lost []*events.RevokeAll
	for fix := range l.m.Lost(home, l.now) {
		if e, ok := fix.Event.(*events.RevokeAll); ok {
			lost = append(lost, e)
		}
	}
	if len(lost) != 1 || lost[0].Reason != all("u", 0).Reason {
		t.Errorf("lost: %+v", lost)
	}
}
