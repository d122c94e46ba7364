package projection_test

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"testing"
	"time"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/projection"
)

// base is the wall clock at which tests begin, unix ms.
const base = int64(1_800_000_000_000)

const (
	second = int64(1000)
	minute = 60 * second
	hour   = 60 * minute
	home   = uint8(2)
	region = "eu"
)

// sid returns a session id of the stream.
func sid(stream uint8, n int) events.SID {
	sum := sha256.Sum256(fmt.Appendf(nil, "%d/%d", stream, n))
	var s events.SID
	copy(s[:], sum[:])
	s[0] = stream
	return s
}

// sealed returns a private part with the nonce n.
func sealed(n uint64, text string) events.Sealed {
	b := make([]byte, 32, 32+len(text))
	copy(b, "testkey0")
	binary.BigEndian.PutUint64(b[24:], n)
	return append(b, text...)
}

// log appends records of one stream to a projection.
type log struct {
	t     testing.TB
	m     *projection.Map
	num   uint8
	seq   uint64
	now   int64
	nonce uint64
	recs  []events.Record
}

func newLog(t testing.TB) *log {
	return &log{t: t, m: new(projection.Map), num: home, now: base}
}

func (l *log) region() string {
	if l.num == home {
		return region
	}
	return fmt.Sprintf("r%d", l.num)
}

// put applies the record at the next sequence and returns what that did.
func (l *log) put(r events.Record) projection.Effect {
	l.seq++
	r.Stream, r.Seq, r.Time = l.num, l.seq, time.UnixMilli(l.now)
	l.recs = append(l.recs, r)
	return l.m.Apply(r)
}

func (l *log) record(e events.Event) events.Record {
	l.nonce++
	return events.Record{Subject: e.Subject(l.region()), Event: e, Sealed: sealed(l.nonce, "private")}
}

func (l *log) add(e events.Event) projection.Effect { return l.put(l.record(e)) }

// forge applies an entry on the subject of e that is not authentic.
func (l *log) forge(e events.Event) projection.Effect {
	return l.put(events.Record{Subject: e.Subject(l.region()), Trust: events.Forged})
}

// replay applies a copy of the record at seq.
func (l *log) replay(seq uint64) projection.Effect { return l.put(l.recs[seq-1]) }

// must fails unless the effect is wanted.
func (l *log) must(want, got projection.Effect) {
	l.t.Helper()
	if got != want {
		l.t.Fatalf("at seq %d: effect %d, want %d", l.seq, got, want)
	}
}

// verdict fails unless the verdict on s is wanted.
func (l *log) verdict(s events.SID, want projection.Verdict) projection.Session {
	l.t.Helper()
	got, v := l.m.Lookup(s, l.now)
	if v != want {
		l.t.Fatalf("at seq %d: verdict on %v is %v, want %v", l.seq, s, v, want)
	}
	return got
}

// rebuilt returns a projection that reads the stream as it is compacted now.
func (l *log) rebuilt() *projection.Map {
	last := map[events.Subject]uint64{}
	for _, r := range l.recs {
		last[r.Subject] = r.Seq
	}
	m := &projection.Map{Lease: l.m.Lease}
	for _, r := range l.recs {
		if last[r.Subject] == r.Seq {
			m.Apply(r)
		}
	}
	return m
}

// repair appends what the projection repairs on the subject, and fails if
// nothing.
func (l *log) repair(s events.Subject) events.Event {
	l.t.Helper()
	fix, ok := l.m.Repair(s, l.seq, l.now)
	if !ok {
		l.t.Fatalf("at seq %d: nothing to repair on %v", l.seq, s)
	}
	if fix.TTL < time.Second {
		l.t.Fatalf("repair lives %v", fix.TTL)
	}
	l.must(projection.Applied, l.add(fix.Event))
	return fix.Event
}

// state returns a state of a session that lives an hour.
func state(s events.SID, user string) *events.State {
	return &events.State{
		App: "app", User: user, SID: s, Reason: events.ReasonCreated,
		CreatedAt: base, ExpiresAt: base + hour, AbsoluteAt: base + 24*hour, SeenAt: base,
	}
}

// changed returns a change to the state, computed from the sequence prev of a
// session created at created.
func changed(e *events.State, prev, created uint64, change func(*events.State)) *events.State {
	next := *e
	next.Reason, next.Prev, next.CreatedSeq = events.ReasonChanged, prev, created
	if change != nil {
		change(&next)
	}
	return &next
}

func revoke(e *events.State) *events.Revoke {
	return &events.Revoke{App: e.App, User: e.User, SID: e.SID, Reason: "logout", By: "admin", At: base, AbsoluteAt: e.AbsoluteAt}
}

func touch(e *events.State, at int64) *events.Touch {
	return &events.Touch{App: e.App, User: e.User, SID: e.SID, At: at}
}

func all(user string, prev uint64, except ...events.SID) *events.RevokeAll {
	return &events.RevokeAll{App: "app", User: user, Prev: prev, Except: except, Reason: "everywhere", By: "admin", At: base}
}
