package projection_test

import (
	"cmp"
	"slices"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/projection"
)

// kept is a record and when its message leaves the log, unix ms.
type kept struct {
	r    events.Record
	ends int64
}

// world makes a random history as nodes make it: changes expect the last
// sequence on their subject, an "all" never spares a revoked session, no expiry
// is shortened, clocks are apart by less than the bound, and every overwrite is
// repaired at once. Its live projection sees every record.
type world struct {
	t     *rapid.T
	m     *projection.Map
	log   []kept
	seq   [256]uint64
	now   int64
	nonce uint64
	born  int

	states  []*events.State           // newest state appended of each session
	delayed []*events.State           // computed, not appended yet
	at      map[events.SID]int64      // newest clock in an authentic touch
	expires map[events.SID]int64      // latest absolute expiry a revocation named
	dead    map[events.SID]bool       // was seen revoked
	last    map[events.Subject]uint64 // newest sequence on each subject
	open    []int                     // lengths of the log at which an overwrite stood last
	hostile bool                      // replays and forgeries happen
	away    bool                      // revocations are recorded in other streams
	sweeps  bool                      // the live projection forgets
	tokens  []events.SID              // keys that tokens had
	before  map[events.SID]projection.Verdict
}

func newWorld(t *rapid.T) *world {
	return &world{
		t: t, m: new(projection.Map), now: base,
		at: map[events.SID]int64{}, expires: map[events.SID]int64{}, dead: map[events.SID]bool{}, last: map[events.Subject]uint64{},
	}
}

var worldRegions = map[uint8]string{2: "r2", 3: "r3"}

func (w *world) append(stream uint8, r events.Record, ttl time.Duration) projection.Effect {
	w.seq[stream]++
	r.Stream, r.Seq, r.Time = stream, w.seq[stream], time.UnixMilli(w.now)
	w.last[r.Subject] = r.Seq
	ends := int64(1 << 62)
	if ttl > 0 {
		ends = w.now + int64(ttl/time.Millisecond)
	}
	w.log = append(w.log, kept{r, ends})
	effect := w.m.Apply(r)
	if effect == projection.Overwrite {
		if fix, ok := w.m.Repair(r.Subject, r.Seq, w.now); ok {
			w.open = append(w.open, len(w.log))
			if got := w.write(stream, fix.Event, fix.TTL); got != projection.Applied {
				w.t.Fatalf("repair of %v at %d: effect %d", r.Subject, r.Seq, got)
			}
		}
	}
	return effect
}

func (w *world) write(stream uint8, e events.Event, ttl time.Duration) projection.Effect {
	w.nonce++
	return w.append(stream, events.Record{Subject: e.Subject(worldRegions[stream]), Event: e, Sealed: sealed(w.nonce, "p")}, ttl)
}

func (w *world) until(ms int64) time.Duration {
	return max(time.Duration(ms-w.now)*time.Millisecond+events.TTLSlack, time.Second)
}

func (w *world) skew() int64 { return rapid.Int64Range(-10, 10).Draw(w.t, "skew") * second }

func (w *world) stream() uint8 { return rapid.SampledFrom([]uint8{2, 3}).Draw(w.t, "stream") }

func (w *world) someone() string { return rapid.SampledFrom([]string{"u", "v"}).Draw(w.t, "user") }

// some returns a session that was created, or nil.
func (w *world) some() *events.State {
	if len(w.states) == 0 {
		return nil
	}
	return w.states[rapid.IntRange(0, len(w.states)-1).Draw(w.t, "session")]
}

func (w *world) create() {
	stream := w.stream()
	w.born++
	life := rapid.Int64Range(1, 30).Draw(w.t, "life") * minute
	e := &events.State{
		App: "app", User: w.someone(), SID: sid(stream, w.born), Reason: events.ReasonCreated,
		CreatedAt: w.now + w.skew(), ExpiresAt: w.now + life, AbsoluteAt: w.now + 2*life,
		Idle: rapid.SampledFrom([]int64{0, 60, 600}).Draw(w.t, "idle"),
	}
	e.SeenAt = e.CreatedAt
	if w.seq[stream] > 0 && rapid.Bool().Draw(w.t, "auth") {
		e.AuthSeq = rapid.Uint64Range(max(1, w.seq[stream]-min(w.seq[stream], 6)), w.seq[stream]).Draw(w.t, "auth seq")
	}
	w.states = append(w.states, e)
	w.tokens = append(w.tokens, e.SID)
	w.write(stream, e, w.until(e.ExpiresAt))
}

// compute makes a change from what is known now; commit appends it, maybe
// later, if nothing came between.
func (w *world) compute() {
	e := w.some()
	if e == nil {
		return
	}
	s, v := w.m.Lookup(e.SID, w.now)
	if v != active {
		return
	}
	next := &events.State{
		App: s.App, User: s.User, SID: s.SID, Reason: events.ReasonChanged, CreatedAt: s.CreatedAt,
		ExpiresAt: s.ExpiresAt, AbsoluteAt: s.AbsoluteAt, Idle: s.Idle, SeenAt: s.SeenAt,
		Prev: s.StateSeq, CreatedSeq: s.CreatedSeq, AuthSeq: s.AuthSeq, OriginalUntil: s.OriginalUntil,
	}
	for _, a := range s.Aliases {
		if !a.Key.IsZero() {
			next.Aliases = append(next.Aliases, a)
		}
	}
	if rapid.Bool().Draw(w.t, "rotate") {
		w.born++
		key := sid(s.SID.Stream(), 1_000_000+w.born)
		w.tokens = append(w.tokens, key)
		if n := len(next.Aliases); n > 0 {
			next.Aliases = append(next.Aliases[n-1:n:n], events.Alias{Key: key})
			next.Aliases[0].Until = w.now + 30*second
		} else {
			next.OriginalUntil = w.now + 30*second
			next.Aliases = []events.Alias{{Key: key}}
		}
	} else {
		next.ExpiresAt = min(s.AbsoluteAt, s.ExpiresAt+rapid.Int64Range(0, 10).Draw(w.t, "extend")*minute)
		next.SeenAt = max(s.SeenAt, min(w.now, w.now+w.skew()))
	}
	w.delayed = append(w.delayed, next)
}

func (w *world) commit() {
	if len(w.delayed) == 0 {
		return
	}
	next := w.delayed[0]
	w.delayed = w.delayed[1:]
	stream := next.SID.Stream()
	if w.last[next.Subject(worldRegions[stream])] != next.Prev {
		return
	}
	w.states = append(w.states, next)
	w.write(stream, next, w.until(next.ExpiresAt))
}

func (w *world) touch() {
	if e := w.some(); e != nil {
		at := w.now + w.skew()
		w.at[e.SID] = max(w.at[e.SID], at)
		w.write(e.SID.Stream(), touch(e, at), w.until(e.AbsoluteAt))
	}
}

func (w *world) revoke() {
	e := w.some()
	if e == nil {
		return
	}
	r := revoke(e)
	r.At, r.Reason = w.now, rapid.StringN(1, 3, 3).Draw(w.t, "reason")
	stream := e.SID.Stream()
	if w.away && rapid.Bool().Draw(w.t, "away") {
		stream = 5 - stream
		r.Home = e.SID.Stream()
	}
	w.write(stream, r, w.until(e.AbsoluteAt))
}

func (w *world) revokeAll() {
	stream, user := w.stream(), ""
	if rapid.IntRange(0, 3).Draw(w.t, "app or user") > 0 {
		user = w.someone()
	}
	e := all(user, 0)
	e.At, e.Reason = w.now, rapid.StringN(1, 3, 3).Draw(w.t, "reason")
	about := stream
	if w.away && rapid.Bool().Draw(w.t, "away") {
		about = 5 - stream
		e.Home = about
		_, at := w.m.LastAway(stream, about, "app", user)
		e.At = max(e.At, at)
	}
	e.Prev = w.last[e.Subject(worldRegions[stream])]
	for _, s := range w.states {
		if _, v := w.m.Lookup(s.SID, w.now); v == active && s.SID.Stream() == about && !e.Spares(s.SID) && rapid.IntRange(0, 4).Draw(w.t, "spare") == 0 {
			e.Except = append(e.Except, s.SID)
		}
	}
	w.write(stream, e, events.UnknownLifetime+events.TTLSlack)
}

// deliver writes to a home what was recorded elsewhere, some of it or all.
func (w *world) deliver() {
	stream := w.stream()
	whole := rapid.Bool().Draw(w.t, "whole")
	for fix := range w.m.Pending(stream, w.now) {
		if got := w.write(stream, fix.Event, fix.TTL); got != projection.Applied {
			w.t.Fatalf("delivery of %+v: effect %d", fix.Event, got)
		}
		if !whole {
			return
		}
	}
}

// attack appends a copy of an earlier message, or one that is not authentic.
func (w *world) attack() {
	if len(w.log) == 0 {
		return
	}
	r := w.log[rapid.IntRange(0, len(w.log)-1).Draw(w.t, "victim")]
	w.remember()
	was := r.r
	switch rapid.SampledFrom([]string{"replay", "replay", "replay", "forge", "junk", "foreign"}).Draw(w.t, "attack") {
	case "replay":
		w.append(was.Stream, was, time.Duration(r.ends-was.Time.UnixMilli())*time.Millisecond)
	case "forge":
		w.append(was.Stream, events.Record{Subject: was.Subject, Trust: events.Forged}, 0)
	case "junk":
		w.append(was.Stream, events.Record{Trust: events.Junk}, 0)
	case "foreign":
		w.append(was.Stream, events.Record{Subject: events.Subject{Region: was.Subject.Region, Kind: "new"}, Trust: events.Foreign}, 0)
	}
	w.harmless()
}

func (w *world) remember() {
	w.before = map[events.SID]projection.Verdict{}
	for _, key := range w.tokens {
		_, v, _ := w.m.LookupToken(key, w.now)
		w.before[key] = v
	}
}

// harmless fails if the attack granted anything. A copy of a touch may count,
// up to Skew after it was written, and no longer.
func (w *world) harmless() {
	for _, key := range w.tokens {
		s, v, _ := w.m.LookupToken(key, w.now)
		if _, r := w.m.Replaced(key, w.now); v == active && r != unknown {
			w.t.Fatalf("%v is a token and a replaced one", key)
		}
		if v != active || w.before[key] == active {
			continue
		}
		if w.before[key] == idle && s.SeenAt <= w.at[s.SID]+30*second {
			continue
		}
		w.t.Fatalf("attack at %v: %v was %v, is %v", w.log[len(w.log)-1].r.Seq, key, w.before[key], v)
	}
}

// absorbing fails if a session that was once revoked is good.
func (w *world) absorbing() {
	for _, e := range w.states {
		_, v := w.m.Lookup(e.SID, w.now)
		switch {
		case v == revoked:
			w.dead[e.SID] = true
		case w.dead[e.SID] && (v == active || w.now < e.AbsoluteAt):
			w.t.Fatalf("%v was revoked and is %v", e.SID, v)
		}
	}
}

// run makes a history.
func (w *world) run() {
	ops := []func(){
		w.create, w.create, w.compute, w.compute, w.commit, w.commit, w.touch, w.touch, w.revoke, w.revokeAll,
		func() { w.now += rapid.Int64Range(0, 20).Draw(w.t, "pass") * second },
		func() { w.now += rapid.Int64Range(0, 10).Draw(w.t, "pass") * minute },
		func() { w.write(w.stream(), &events.Beat{N: w.nonce}, time.Minute) },
	}
	if w.away {
		ops = append(ops, w.deliver, w.deliver)
	}
	if w.hostile {
		ops = append(ops, w.attack, w.attack, w.attack)
	}
	if w.sweeps {
		ops = append(ops, func() {
			for i := range 256 {
				w.m.Sweep(uint8(i), w.now)
			}
		})
	}
	for range rapid.IntRange(1, 60).Draw(w.t, "length") {
		ops[rapid.IntRange(0, len(ops)-1).Draw(w.t, "op")]()
		w.absorbing()
	}
}

// compacted returns what the log holds of log[:cut] when it stands at cut.
func compacted(log []kept, cut int) []events.Record {
	if cut == 0 {
		return nil
	}
	now := log[cut-1].r.Time.UnixMilli()
	last := map[events.Subject]int{}
	for i, k := range log[:cut] {
		last[k.r.Subject] = i
	}
	var out []events.Record
	for i, k := range log[:cut] {
		if last[k.r.Subject] == i && k.ends > now {
			out = append(out, k.r)
		}
	}
	return out
}

// same fails unless both answer alike. Of a session that is over, the log may
// have dropped what one of them still holds; that it is not good is alike.
func (w *world) same(what string, other *projection.Map) {
	w.t.Helper()
	for _, key := range w.tokens {
		a, va, ra := w.m.LookupToken(key, w.now)
		b, vb, rb := other.LookupToken(key, w.now)
		if va != active && vb != active && (va == unknown || vb == unknown || va == expired || vb == expired || w.now >= a.ExpiresAt) {
			continue
		}
		if va != vb || ra != rb {
			w.t.Fatalf("%s: %v is %v live, %v there", what, key, va, vb)
		}
		if w.hostile && a.CreatedSeq != b.CreatedSeq {
			// Who reads only the copy of a creation takes its sequence for
			// the creation's. That matters to no verdict: with an "all"
			// between the two the copy is an overwrite, and is repaired.
			a.CreatedSeq, b.CreatedSeq = 0, 0
		}
		if diff := gocmp.Diff(a, b); diff != "" {
			w.t.Fatalf("%s: %v: live, there: %s", what, key, diff)
		}
		if pa, pb := w.m.PendingSession(key), other.PendingSession(key); pa != pb {
			w.t.Fatalf("%s: %v is pending: %v live, %v there", what, key, pa, pb)
		}
	}
	for stream := range worldRegions {
		if a, b := w.m.Digest(stream, w.now), other.Digest(stream, w.now); a != b {
			w.t.Fatalf("%s: digest of %d is %s live, %s there", what, stream, a, b)
		}
		for _, user := range []string{"", "u", "v"} {
			if a, b := w.m.LastAll(stream, "app", user), other.LastAll(stream, "app", user); a != b {
				w.t.Fatalf("%s: last all of %q is %d live, %d there", what, user, a, b)
			}
			a, at := w.m.LastAway(5-stream, stream, "app", user)
			if b, bt := other.LastAway(5-stream, stream, "app", user); a != b || at != bt {
				w.t.Fatalf("%s: last all of %q for %d is %d of %d live, %d of %d there", what, user, stream, a, at, b, bt)
			}
			hash := events.UserHash("app", user)
			if a, b := w.m.PendingAll(stream, "app", hash), other.PendingAll(stream, "app", hash); a != b {
				w.t.Fatalf("%s: all of %q is pending for %d: %v live, %v there", what, user, stream, a, b)
			}
		}
	}
}

// compactAnywhere: a projection that read up to one place, then the log as it
// is compacted at a later one, then the rest, holds what one holds that saw it
// all.
func compactAnywhere(t *rapid.T) {
	w := newWorld(t)
	w.hostile, w.away = rapid.Bool().Draw(t, "hostile"), rapid.Bool().Draw(t, "away")
	w.run()
	from := rapid.IntRange(0, len(w.log)).Draw(t, "from")
	cut := rapid.IntRange(from, len(w.log)).Draw(t, "cut")
	if slices.Contains(w.open, cut) {
		cut++ // until an overwrite is repaired, who reads only the log knows no better
	}
	m := new(projection.Map)
	for _, k := range w.log[:from] {
		m.Apply(k.r)
	}
	for _, r := range compacted(w.log, cut) {
		m.Apply(r) // what is at or below from is dropped
	}
	for _, k := range w.log[cut:] {
		m.Apply(k.r)
	}
	w.same("compacted", m)
}

func TestCompactAnywhere(t *testing.T) { rapid.Check(t, compactAnywhere) }

func FuzzCompactAnywhere(f *testing.F) { f.Fuzz(rapid.MakeFuzz(compactAnywhere)) }

func hostileGrantsNothing(t *rapid.T) {
	w := newWorld(t)
	w.hostile, w.away, w.sweeps = true, true, true
	w.run()
}

func TestHostileGrantsNothing(t *testing.T) { rapid.Check(t, hostileGrantsNothing) }

func FuzzHostileGrantsNothing(f *testing.F) { f.Fuzz(rapid.MakeFuzz(hostileGrantsNothing)) }

func TestTwiceIsOnce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t)
		w.hostile, w.away = true, true
		w.run()
		m := new(projection.Map)
		for i, k := range w.log {
			m.Apply(k.r)
			m.Apply(k.r)
			m.Apply(w.log[rapid.IntRange(0, i).Draw(t, "again")].r)
		}
		w.same("applied twice", m)
	})
}

func TestStreamsInAnyOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t)
		w.hostile, w.away = true, true
		w.run()
		m := new(projection.Map)
		rest := map[uint8][]kept{}
		for _, k := range w.log {
			rest[k.r.Stream] = append(rest[k.r.Stream], k)
		}
		for len(rest[2])+len(rest[3]) > 0 {
			s := w.stream()
			if len(rest[s]) == 0 {
				s = 5 - s
			}
			m.Apply(rest[s][0].r)
			rest[s] = rest[s][1:]
		}
		w.same("interleaved", m)
	})
}

// A log that loses its tail, and is read again, revives nobody; and when what
// was lost is appended again, whoever reads only the log knows it as well.
func TestRewindRevivesNobody(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t)
		w.away, w.sweeps = rapid.Bool().Draw(t, "away"), rapid.Bool().Draw(t, "sweeps")
		w.run()
		const stream = uint8(2)
		var mine, others []kept
		for _, k := range w.log {
			if k.r.Stream == stream {
				mine = append(mine, k)
			} else {
				others = append(others, k)
			}
		}
		var dead []events.SID
		for _, e := range w.states {
			if _, v := w.m.Lookup(e.SID, w.now); v == revoked && (w.away || e.SID.Stream() == stream) {
				dead = append(dead, e.SID)
			}
		}
		cut := rapid.IntRange(0, len(mine)).Draw(t, "cut")
		w.log, w.seq[stream] = others, uint64(cut)
		w.m.Rewind(stream)
		for _, r := range compacted(mine, cut) {
			w.m.Apply(r)
			w.log = append(w.log, kept{r: r, ends: 1 << 62})
		}
		w.now += second
		for fix := range w.m.Lost(stream, w.now) {
			w.write(stream, fix.Event, fix.TTL)
		}
		alone := new(projection.Map)
		for _, r := range compacted(w.log, len(w.log)) {
			alone.Apply(r)
		}
		for _, s := range dead {
			if _, v := w.m.Lookup(s, w.now); v == active {
				t.Fatalf("%v revived", s)
			}
			if _, v := alone.Lookup(s, w.now); v == active {
				t.Fatalf("%v revived by a rebuild", s)
			}
		}
		for fix := range w.m.Lost(stream, w.now) {
			t.Fatalf("lost although appended again: %+v", fix.Event)
		}
	})
}

// What was recorded away from home and delivered is known to who reads the home's
// stream alone, and then nothing is pending.
func TestDelivered(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t)
		w.hostile, w.away = rapid.Bool().Draw(t, "hostile"), true
		w.run()
		for _, stream := range []uint8{2, 3} {
			for range 3 { // a token of a session with others takes two rounds
				for fix := range w.m.Pending(stream, w.now) {
					w.write(stream, fix.Event, fix.TTL)
				}
			}
			for fix := range w.m.Pending(stream, w.now) {
				t.Fatalf("pending after all was delivered: %+v", fix.Event)
			}
			alone := new(projection.Map)
			for _, r := range compacted(w.log, len(w.log)) {
				if r.Stream == stream {
					alone.Apply(r)
				}
			}
			for _, e := range w.states {
				if _, v := w.m.Lookup(e.SID, w.now); v != revoked || e.SID.Stream() != stream {
					continue
				}
				if s, v := alone.Lookup(e.SID, w.now); v == active {
					t.Fatalf("%v is revoked, and good for its home alone: %+v", e.SID, s)
				}
			}
		}
	})
}

// The order in which a user's sessions are listed.
func TestUserIsSorted(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t)
		w.run()
		var at []int64
		for s := range w.m.User("app", "u", w.now) {
			at = append(at, s.CreatedAt)
		}
		if !slices.IsSortedFunc(at, cmp.Compare[int64]) {
			t.Fatal(at)
		}
	})
}
