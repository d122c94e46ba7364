package node_test

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/events/broker"
	"github.com/revocast/revocast/signer"
)

// repairTime is within what an overwrite is repaired in the log.
const repairTime = time.Second

// stage is what a stranger attacks: a node, and sessions whose verdicts are
// known. What is on it must be answered as expected at any time.
type stage struct {
	*realNode
	good []member // the prober's: nothing may take them away
	want []verdict
}

type verdict struct {
	member
	status int
}

// expect adds a session to those whose verdict is looked at after each attack
// and after the restart.
func (s *stage) expect(status int, m member) member {
	s.want = append(s.want, verdict{m, status})
	return m
}

func (s *stage) check(t *testing.T, n *realNode) {
	t.Helper()
	for i := range s.want {
		n.wantVerdict(t, &s.want[i].member, s.want[i].status)
	}
}

// repaired waits until the newest entry on the subject is newer than seq,
// authentic, and says what it must.
func (s *stage) repaired(t *testing.T, subject string, seq uint64, says func(events.Entry, events.Event) bool) {
	t.Helper()
	var got string
	defer func() {
		if t.Failed() {
			t.Logf("%s holds %s", subject, got)
		}
	}()
	start := time.Now()
	eventually(t, repairTime, "the newest of "+subject+" says what it must", func() bool {
		e, r := s.log.last(t, subject)
		got = fmt.Sprintf("%d %v %s TTL %v", e.Seq, r.Trust, e.Payload, e.TTL)
		return e.Seq > seq && r.Trust == events.Authentic && says(e, r.Event)
	})
	t.Logf("repaired within %v", time.Since(start).Round(time.Millisecond))
}

func (s *stage) extend(m member) {
	s.t.Helper()
	s.do(s.key, "POST", "/v1/sessions/authenticate", map[string]any{
		"session_token": m.token, "session_duration_minutes": 600,
	}).want(http.StatusOK)
}

func (s *stage) revoke(body map[string]any) {
	s.t.Helper()
	s.do(s.key, "POST", "/v1/sessions/revoke", body).want(http.StatusOK)
}

// counted fails unless the overwrites that the node counted in a stream went up
// by at least n in what do did.
func (s *stage) counted(t *testing.T, stream string, n float64, do func() (last uint64)) {
	t.Helper()
	label := `stream="` + stream + `"`
	before := s.metric("revocast_overwrites_total", label)
	s.applied(stream, do())
	// The position moves before the counter does.
	eventually(t, time.Minute, fmt.Sprintf("%v overwrites are counted", n), func() bool {
		return s.metric("revocast_overwrites_total", label)-before >= n
	})
}

// TestHostileWrites lets somebody who reaches NATS, and holds no key, write
// whatever they can. It grants nothing, fences nothing, is counted, logged once
// a minute, and repaired in the log.
func TestHostileWrites(t *testing.T) {
	l := newRealLog(t, broker.Config{}, events.ClusterConfig{})
	s := &stage{realNode: l.start(t)}
	begin := time.Now()
	for i := range 3 {
		s.good = append(s.good, s.expect(http.StatusNoContent, s.enter(fmt.Sprintf("good-%d", i))))
	}
	revoked := s.expect(http.StatusUnauthorized, s.enter("revoked"))
	s.revoke(map[string]any{"session_id": revoked.sid.String()})
	good := s.probe(t, "a good session", credentials(s.good...), http.StatusNoContent)
	bad := s.probe(t, "a revoked session", credentials(revoked), http.StatusUnauthorized)

	for _, attack := range []struct {
		name string
		do   func(*testing.T, *stage)
	}{
		{"junk", junk},
		{"unsealed state", unsealedState},
		{"old state over a newer one", oldState},
		{"state on the subject of another session", movedState},
		{"state after its revocation", stateAfterRevoke},
		{"state after the user's revocation", stateAfterAll},
		{"state with a token that was rotated away", stateBeforeRotate},
		{"touches", touches},
		{"revocation with a short life", shortRevoke},
		{"unsealed revocation", unsealedRevoke},
		{"revocation of all", revokeAll},
		{"unknown kinds and versions", unknownKinds},
		{"heartbeats of the node", heartbeats},
		{"republished by hand", fakeLive},
		{"API keys", apiKeys},
		{"signing keys", signingKeys},
		{"apps", apps},
	} {
		t.Run(attack.name, func(t *testing.T) {
			attack.do(t, s)
			s.check(t, s.realNode)
			if !s.ready() {
				t.Error("the node is fenced")
			}
		})
	}
	t.Logf("verifies of good sessions %v, of revoked ones %v", good(), bad())
	for line, n := range s.lines.with("overwrite:") {
		if limit := 1 + int(time.Since(begin)/time.Minute); n > limit {
			t.Errorf("%q was logged %d times, want at most %d", line, n, limit)
		}
	}
	for line, n := range s.lines.with("") {
		t.Logf("logged %d times: %s", n, line)
	}
	if n := s.metric("revocast_rebuilds_total"); n != 0 {
		t.Errorf("%v rebuilds", n)
	}
	s.stop()
	after := l.start(t)
	s.check(t, after)
	if after.metric("revocast_repairs_total") != 0 {
		t.Log("the restarted node found more to repair")
	}
}

// junk is not even of the form of an event.
func junk(t *testing.T, s *stage) {
	before := s.metric("revocast_records_applied_total", `stream="eu"`, `trust="junk"`)
	subjects := []string{
		"ev.eu.x", "ev.eu.a.b.c.d.e.f.g", "ev.eu.acme.ü.x.st", "ev.eu.acme.u.s.st!", "ev.eu.$SYS.-.-.st", "ev.eu.-.-.-.hb",
		"ev.eu.acme.-.-.all.x", "ev.eu.acme.u.s.st", "ev.eu.acme.u." + s.good[0].sid.String() + ".st",
	}
	payloads := [][]byte{nil, []byte("{"), []byte("\x00\xff\xfe"), []byte(`{"v":1}`), []byte(strings.Repeat("[", 8000))}
	headers := []nats.Header{nil, {"Revocast-Seal": {"1.aaaaaaaa.AAAA"}}, {"Revocast-Seal": {""}, "Nats-TTL": {"1"}}}
	var last uint64
	for _, subject := range subjects {
		for _, p := range payloads {
			for _, h := range headers {
				last = s.log.store(t, subject, p, h)
			}
		}
	}
	s.applied("eu", last)
	if got := s.metric("revocast_records_applied_total", `stream="eu"`, `trust="junk"`) - before; got < 50 {
		t.Errorf("%v junk records were counted", got)
	}
}

// forgedState is the payload of a state that lives long.
func forgedState(user string, sid events.SID) []byte {
	now := time.Now().UnixMilli()
	b, _ := json.Marshal(&events.State{
		V: 1, App: "acme", User: user, SID: sid, Reason: events.ReasonCreated,
		CreatedAt: now, ExpiresAt: now + 86400_000, AbsoluteAt: now + 86400_000,
	})
	return b
}

func unsealedState(t *testing.T, s *stage) {
	victim := s.expect(http.StatusNoContent, s.enter("victim"))
	stranger, err := events.NewClusterKeys(events.NewClusterKey())
	if err != nil {
		t.Fatal(err)
	}
	token := events.NewToken(2)
	sid, _ := token.Key()
	made := s.expect(http.StatusUnauthorized, member{user: "intruder", token: token.Reveal(), sid: sid})
	var over uint64
	s.counted(t, "eu", 4, func() uint64 {
		// A session of their own, without a seal and under a key of their own.
		s.log.store(t, made.subject(events.KindState), forgedState(made.user, sid), nil)
		now := time.Now().UnixMilli()
		m, err := stranger.Encode("eu", &events.State{
			App: "acme", User: made.user, SID: sid, Reason: events.ReasonCreated, CreatedAt: now, ExpiresAt: now + 1e6, AbsoluteAt: now + 1e6,
		}, nil, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		s.log.replay(t, m)
		// Over sessions that there are: a revoked one, and a good one.
		revoked := s.want[3].member
		s.log.store(t, revoked.subject(events.KindState), forgedState(revoked.user, revoked.sid), nil)
		over = s.log.store(t, victim.subject(events.KindState), forgedState("somebody else", victim.sid), nil)
		return over
	})
	s.repaired(t, victim.subject(events.KindState), over, func(_ events.Entry, e events.Event) bool {
		st, ok := e.(*events.State)
		return ok && st.User == victim.user && st.SID == victim.sid && st.Prev == over
	})
}

func oldState(t *testing.T, s *stage) {
	m := s.expect(http.StatusNoContent, s.enter("extended"))
	old, _ := s.log.last(t, m.subject(events.KindState))
	s.extend(m)
	_, r := s.log.last(t, m.subject(events.KindState))
	until := r.Event.(*events.State).ExpiresAt
	var seq uint64
	s.counted(t, "eu", 1, func() uint64 { seq = s.log.replay(t, old.Message); return seq })
	s.repaired(t, m.subject(events.KindState), seq, func(_ events.Entry, e events.Event) bool {
		st, ok := e.(*events.State)
		return ok && st.ExpiresAt == until
	})
	// And the session can be changed as before.
	s.extend(m)
}

func movedState(t *testing.T, s *stage) {
	from, to := s.expect(http.StatusNoContent, s.enter("mover")), s.expect(http.StatusUnauthorized, s.enter("moved"))
	s.revoke(map[string]any{"session_token": to.token})
	e, _ := s.log.last(t, from.subject(events.KindState))
	var seq uint64
	s.counted(t, "eu", 1, func() uint64 {
		seq = s.log.store(t, to.subject(events.KindState), e.Payload, headerOf(e.Message))
		return seq
	})
	s.repaired(t, to.subject(events.KindState), seq, func(_ events.Entry, e events.Event) bool {
		st, ok := e.(*events.State)
		return ok && st.SID == to.sid && st.User == to.user
	})
}

func stateAfterRevoke(t *testing.T, s *stage) {
	m := s.expect(http.StatusUnauthorized, s.enter("gone"))
	created, _ := s.log.last(t, m.subject(events.KindState))
	s.extend(m)
	extended, _ := s.log.last(t, m.subject(events.KindState))
	s.revoke(map[string]any{"session_id": m.sid.String()})
	var seq uint64
	s.counted(t, "eu", 1, func() uint64 {
		s.log.replay(t, extended.Message)
		seq = s.log.replay(t, created.Message)
		return seq
	})
	s.repaired(t, m.subject(events.KindState), seq, func(_ events.Entry, e events.Event) bool {
		st, ok := e.(*events.State)
		return ok && st.SID == m.sid && st.CreatedSeq == created.Seq
	})
}

// stateAfterAll copies a state to a place after the revocation of its user, by
// which a node that read only the copy would find the session younger.
func stateAfterAll(t *testing.T, s *stage) {
	m := s.expect(http.StatusUnauthorized, s.enter("logged-out"))
	created, _ := s.log.last(t, m.subject(events.KindState))
	s.revoke(map[string]any{"user_id": m.user})
	var seq uint64
	s.counted(t, "eu", 1, func() uint64 { seq = s.log.replay(t, created.Message); return seq })
	s.repaired(t, m.subject(events.KindState), seq, func(_ events.Entry, e events.Event) bool {
		st, ok := e.(*events.State)
		return ok && st.CreatedSeq == created.Seq
	})
	s.expect(http.StatusNoContent, s.enter("logged-out"))
}

func stateBeforeRotate(t *testing.T, s *stage) {
	m := s.enter("rotated")
	old, _ := s.log.last(t, m.subject(events.KindState))
	r := s.do(s.key, "POST", "/v1/sessions/rotate", map[string]any{"session_token": m.token}).want(http.StatusOK)
	next := s.expect(http.StatusNoContent, member{m.user, r.str("session_token"), m.jwt, m.sid, ""})
	s.expect(http.StatusUnauthorized, member{user: m.user, token: m.token, sid: m.sid})
	var seq uint64
	s.counted(t, "eu", 1, func() uint64 { seq = s.log.replay(t, old.Message); return seq })
	key, _ := events.Token(next.token).Key()
	s.repaired(t, m.subject(events.KindState), seq, func(_ events.Entry, e events.Event) bool {
		st, ok := e.(*events.State)
		return ok && len(st.Aliases) == 1 && st.Aliases[0].Key == key && st.OriginalUntil != 0
	})
}

func touches(t *testing.T, s *stage) {
	m := s.expect(http.StatusNoContent, s.enter("touched"))
	far, _ := json.Marshal(&events.Touch{V: 1, App: "acme", User: m.user, SID: m.sid, At: time.Now().Add(time.Hour).UnixMilli()})
	var seq uint64
	s.counted(t, "eu", 1, func() uint64 { seq = s.log.store(t, m.subject(events.KindTouch), far, nil); return seq })
	s.repaired(t, m.subject(events.KindTouch), seq, func(_ events.Entry, e events.Event) bool {
		tch, ok := e.(*events.Touch)
		return ok && tch.SID == m.sid && tch.At <= time.Now().UnixMilli()
	})
}

// covers reports whether the entry stays in the log until then (unix ms).
func covers(e events.Entry, until int64) bool {
	return e.TTL == 0 || e.Time.Add(e.TTL).UnixMilli() >= until
}

// shortRevoke replaces revocations by copies that leave the log within a
// second: after a restart nobody would know of the revocation.
func shortRevoke(t *testing.T, s *stage) {
	for name, header := range map[string]func(events.Message) nats.Header{
		"sealed":      func(m events.Message) nats.Header { return nats.Header{"Revocast-Seal": {m.Seal}, "Nats-TTL": {"1"}} },
		"unsealed":    func(events.Message) nats.Header { return nats.Header{"Nats-TTL": {"1"}} },
		"for ever":    func(m events.Message) nats.Header { return nats.Header{"Revocast-Seal": {m.Seal}} },
		"as duration": func(m events.Message) nats.Header { return nats.Header{"Revocast-Seal": {m.Seal}, "Nats-TTL": {"1s"}} },
	} {
		m := s.expect(http.StatusUnauthorized, s.enter("short "+name))
		s.revoke(map[string]any{"session_id": m.sid.String(), "reason": "stolen"})
		rev, r := s.log.last(t, m.subject(events.KindRevoke))
		until := r.Event.(*events.Revoke).AbsoluteAt
		if !covers(rev, until) {
			t.Fatalf("the revocation leaves the log before the session ends")
		}
		var seq uint64
		s.counted(t, "eu", 1, func() uint64 {
			seq = s.log.store(t, rev.Subject, rev.Payload, header(rev.Message))
			return seq
		})
		s.repaired(t, rev.Subject, seq, func(entry events.Entry, e events.Event) bool {
			rev, ok := e.(*events.Revoke)
			return ok && rev.SID == m.sid && rev.Reason == "stolen" && covers(entry, until)
		})
	}
}

// unsealedRevoke is believed where it takes away: it may stand where a
// revocation stood.
func unsealedRevoke(t *testing.T, s *stage) {
	m := s.expect(http.StatusUnauthorized, s.enter("taken"))
	var seq uint64
	s.counted(t, "eu", 1, func() uint64 {
		seq = s.log.store(t, m.subject(events.KindRevoke), []byte(`{"v":1}`), nil)
		return seq
	})
	s.repaired(t, m.subject(events.KindRevoke), seq, func(e events.Entry, ev events.Event) bool {
		rev, ok := ev.(*events.Revoke)
		return ok && rev.SID == m.sid && covers(e, rev.AbsoluteAt)
	})
}

func revokeAll(t *testing.T, s *stage) {
	spared, other := s.enter("everywhere"), s.expect(http.StatusUnauthorized, s.enter("everywhere"))
	s.expect(http.StatusNoContent, spared)
	subject := events.Subject{Region: "eu", App: "acme", User: events.UserHash("acme", other.user), Kind: events.KindAll}.String()
	s.revoke(map[string]any{"user_id": other.user, "except_session_id": other.sid.String()})
	older, _ := s.log.last(t, subject)
	spared = s.expect(http.StatusNoContent, s.enter("everywhere"))
	s.want = slices.DeleteFunc(s.want, func(v verdict) bool { return v.user == other.user && v.sid != other.sid && v.sid != spared.sid })
	s.revoke(map[string]any{"user_id": other.user, "except_session_id": spared.sid.String(), "reason": "newer"})
	newer, _ := s.log.last(t, subject)
	says := func(e events.Entry, ev events.Event) bool {
		all, ok := ev.(*events.RevokeAll)
		return ok && all.User == other.user && !all.Spares(other.sid) && (all.Before == 0 || all.Before >= newer.Seq) && e.TTL >= 365*24*time.Hour
	}
	var seq uint64
	// The older one spares a session that the newer one revokes: it does not come
	// back. And it revokes what it does not spare, as any entry there does.
	s.want = slices.DeleteFunc(s.want, func(v verdict) bool { return v.sid == spared.sid })
	s.expect(http.StatusUnauthorized, spared)
	s.counted(t, "eu", 1, func() uint64 { seq = s.log.replay(t, older.Message); return seq })
	s.repaired(t, subject, seq, says)
	// A short life breaks the seal.
	s.counted(t, "eu", 1, func() uint64 {
		seq = s.log.store(t, subject, newer.Payload, nats.Header{"Revocast-Seal": {newer.Seal}, "Nats-TTL": {"1"}})
		return seq
	})
	s.repaired(t, subject, seq, says)
	// The user can log in again.
	s.expect(http.StatusNoContent, s.enter("everywhere"))
}

// later is an event of a version of this program that does not exist yet.
type later struct {
	*events.Marker
	at      events.Subject
	payload string
}

func (e *later) Subject(string) events.Subject { return e.at }
func (e *later) MarshalJSON() ([]byte, error)  { return []byte(e.payload), nil }

// unknownKinds are what a later version of this cluster writes and says may be
// skipped; nobody else can write such an event.
func unknownKinds(t *testing.T, s *stage) {
	before := s.metric("revocast_records_applied_total", `trust="foreign"`)
	m := s.good[0]
	at := events.SessionSubject("eu", "acme", m.user, m.sid, "shiny")
	newer := s.expect(http.StatusUnauthorized, member{user: "newer", token: events.NewToken(2).Reveal()})
	newer.sid, _ = events.Token(newer.token).Key()
	state := events.SessionSubject("eu", "acme", newer.user, newer.sid, events.KindState)
	var last uint64
	for _, e := range []*later{
		{new(events.Marker), at, `{"v":1,"ignorable":true}`},
		{new(events.Marker), at, `{"v":7,"ignorable":true}`},
		{new(events.Marker), state, strings.Replace(string(forgedState(newer.user, newer.sid)), `"v":1`, `"v":3,"ignorable":true`, 1)},
	} {
		msg, err := s.keys.Encode("eu", e, nil, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		last = s.log.replay(t, msg)
	}
	s.applied("eu", last)
	if got := s.metric("revocast_records_applied_total", `trust="foreign"`) - before; got != 3 {
		t.Errorf("%v foreign records were counted, want 3", got)
	}
	s.counted(t, "eu", 1, func() uint64 { return s.log.store(t, at.String(), []byte(`{"v":1}`), nil) })
}

// heartbeats forges what a lease lives from.
func heartbeats(t *testing.T, s *stage) {
	var own events.Entry
	pos := s.position("eu").Seq
	eventually(t, 5*time.Second, "a heartbeat came", func() bool {
		for _, e := range s.entries(t, pos) {
			if strings.HasSuffix(e.Subject, ".hb") {
				own = e
			}
		}
		return own.Seq != 0
	})
	sub, err := events.ParseSubject(own.Subject)
	if err != nil {
		t.Fatal(err)
	}
	cut := strings.LastIndexByte(sub.ID, '-') // an incarnation may have dashes of its own
	incarnation, number := sub.ID[:cut], sub.ID[cut+1:]
	var n int
	if _, err := fmt.Sscan(number, &n); err != nil {
		t.Fatalf("heartbeat %q: %v", sub.ID, err)
	}
	var last uint64
	s.counted(t, "eu", 12, func() uint64 {
		for i := range 12 {
			sub.ID = fmt.Sprintf("%s-%d", incarnation, n+i)
			last = s.log.store(t, sub.String(), own.Payload, nats.Header{"Revocast-Seal": {own.Seal + "x"}})
		}
		return last
	})
	last = s.log.replay(t, own.Message)
	s.applied("eu", last)
	// Its next ones stand on subjects that the stranger wrote to.
	eventually(t, 10*time.Second, "heartbeats go on", func() bool { return s.position("eu").Seq > last+3 && s.ready() })
}

// entries reads what the stream holds after seq.
func (s *stage) entries(t *testing.T, seq uint64) (all []events.Entry) {
	t.Helper()
	info, err := s.log.home.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if info.LastSeq <= seq {
		return nil
	}
	done := fmt.Errorf("read to %d", info.LastSeq)
	err = s.log.home.Follow(t.Context(), events.Follow{From: seq + 1, Apply: func(e events.Entry) error {
		all = append(all, e)
		if e.Seq >= info.LastSeq {
			return done
		}
		return nil
	}})
	if err != nil && !strings.Contains(err.Error(), done.Error()) {
		t.Fatal(err)
	}
	return all
}

// fakeLive publishes what only the server should: copies of stored messages
// that were never stored.
func fakeLive(t *testing.T, s *stage) {
	rebuilds := s.metric("revocast_rebuilds_total")
	m := s.enter("live")
	state, _ := s.log.last(t, m.subject(events.KindState))
	fake := func(seq uint64, subject string, payload []byte, h nats.Header) {
		header := nats.Header{
			"Nats-Stream": {"EV_eu"}, "Nats-Subject": {subject}, "Nats-Sequence": {fmt.Sprint(seq)},
			"Nats-Time-Stamp": {time.Now().UTC().Format(time.RFC3339Nano)}, "Nats-Last-Sequence": {"0"},
		}
		for k, v := range h {
			header[k] = v
		}
		err := s.log.raw.PublishMsg(&nats.Msg{Subject: "live." + strings.TrimPrefix(subject, "ev."), Header: header, Data: payload})
		if err != nil {
			t.Fatal(err)
		}
	}
	token := events.NewToken(2)
	sid, _ := token.Key()
	intruder := s.expect(http.StatusUnauthorized, member{user: "live intruder", token: token.Reveal(), sid: sid})
	for round := range 10 {
		next := s.position("eu").Seq + 1
		for _, seq := range []uint64{next, next + 1, next + 2, next + 900, next - 1, 1, 1 << 62} {
			fake(seq, intruder.subject(events.KindState), forgedState(intruder.user, sid), nil)
			fake(seq, m.subject(events.KindState), state.Payload, headerOf(state.Message))
		}
		if err := s.log.raw.Flush(); err != nil {
			t.Fatal(err)
		}
		// A revocation right after it must not be lost behind a fake.
		victim := s.expect(http.StatusUnauthorized, s.enter(fmt.Sprintf("behind a fake %d", round)))
		s.revoke(map[string]any{"session_id": victim.sid.String()})
		s.wantVerdict(t, &victim, http.StatusUnauthorized)
	}
	if n := s.metric("revocast_rebuilds_total") - rebuilds; n != 0 {
		t.Errorf("the stream was read again %v times", n)
	}
}

func apiKeys(t *testing.T, s *stage) {
	secret := "sk_" + base64.RawURLEncoding.EncodeToString([]byte("a key of thirty-two bytes, mine!"))
	sum := sha256.Sum256([]byte(secret))
	forged := events.APIKey{
		V: 1, ID: "key_mine", App: "acme", Hash: base64.RawURLEncoding.EncodeToString(sum[:]),
		Scopes: []string{"create", "read", "admin", "cluster"}, CreatedAt: time.Now().UnixMilli(),
	}
	refused := func(key string) {
		t.Helper()
		s.do(key, "GET", "/v1/sessions?user_id=good-0", nil).wantError(http.StatusUnauthorized, "unauthorized_credentials")
		s.do(key, "GET", "/v1/apps", nil).wantError(http.StatusUnauthorized, "unauthorized_credentials")
	}
	s.counted(t, events.ConfigRegion, 2, func() uint64 {
		payload, _ := json.Marshal(&forged)
		s.log.store(t, forged.Subject(events.ConfigRegion).String(), payload, nil)
		forged.App = ""
		payload, _ = json.Marshal(&forged)
		return s.log.store(t, forged.Subject(events.ConfigRegion).String(), payload, nil)
	})
	refused(secret)

	// A key that was revoked stays so, whatever is written over it.
	r := s.do(s.key, "POST", "/v1/apps/acme/api-keys", map[string]any{"name": "old"}).want(http.StatusCreated)
	old, id := r.str("api_key"), r.str("key.id")
	subject := (&events.APIKey{App: "acme", ID: id}).Subject(events.ConfigRegion).String()
	active, _ := s.log.last(t, subject)
	s.do(old, "GET", "/v1/sessions?user_id=good-0", nil).want(http.StatusOK)
	s.do(s.key, "DELETE", "/v1/apps/acme/api-keys/"+id, nil).want(http.StatusOK)
	refused(old)
	var seq uint64
	s.counted(t, events.ConfigRegion, 1, func() uint64 { seq = s.log.replay(t, active.Message); return seq })
	refused(old)
	s.repaired(t, subject, seq, func(_ events.Entry, e events.Event) bool {
		k, ok := e.(*events.APIKey)
		return ok && k.RevokedAt != 0
	})
	// The key in use, overwritten, goes on.
	sum = sha256.Sum256([]byte(s.key))
	for _, e := range s.settings(t) {
		if k, ok := e.(*events.APIKey); ok && k.Hash == base64.RawURLEncoding.EncodeToString(sum[:]) {
			subject = k.Subject(events.ConfigRegion).String()
		}
	}
	s.counted(t, events.ConfigRegion, 1, func() uint64 {
		seq = s.log.store(t, subject, []byte(`{"v":1,"revoked_at":1}`), nil)
		return seq
	})
	s.repaired(t, subject, seq, func(_ events.Entry, e events.Event) bool {
		k, ok := e.(*events.APIKey)
		return ok && k.RevokedAt == 0 && slices.Contains(k.Scopes, "create")
	})
	s.enter("still let in")
}

// settings returns the authentic events of CONFIG.
func (s *stage) settings(t *testing.T) (all []events.Event) {
	t.Helper()
	info, err := s.log.settings.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	done := fmt.Errorf("read to %d", info.LastSeq)
	err = s.log.settings.Follow(t.Context(), events.Follow{Apply: func(e events.Entry) error {
		if r := s.keys.Decode(1, e); r.Event != nil {
			all = append(all, r.Event)
		}
		if e.Seq >= info.LastSeq {
			return done
		}
		return nil
	}})
	if err != nil && !strings.Contains(err.Error(), done.Error()) {
		t.Fatal(err)
	}
	return all
}

func signingKeys(t *testing.T, s *stage) {
	mine, err := signer.GenerateKey(signer.ES256)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	public, err := mine.MarshalPublic()
	if err != nil {
		t.Fatal(err)
	}
	mine.ActiveAt = now.Add(-time.Hour)
	jwt, err := signer.Mint(mine, "native", signer.Claims{
		Issuer: publicURL + "/v1/apps/acme", App: "acme", Subject: s.good[0].user, SessionID: s.good[0].sid.String(),
		IssuedAt: now, Expires: now.Add(time.Hour),
	})
	if err != nil {
		t.Fatal(err)
	}
	s.expect(http.StatusUnauthorized, member{user: s.good[0].user, token: jwt, sid: s.good[0].sid})
	event := func(kid string) (string, []byte) {
		e := &events.SigningKey{V: 1, App: "acme", KID: kid, Alg: "ES256", Public: public, CreatedAt: 1, ActiveAt: 1}
		payload, _ := json.Marshal(e)
		return e.Subject(events.ConfigRegion).String(), payload
	}
	var held *events.SigningKey
	for _, e := range s.settings(t) {
		if k, ok := e.(*events.SigningKey); ok {
			held = k
		}
	}
	var seq uint64
	s.counted(t, events.ConfigRegion, 3, func() uint64 {
		subject, payload := event(mine.ID)
		s.log.store(t, subject, payload, nil)
		// With the seal of a key that is real.
		subject, _ = event(held.KID)
		real, _ := s.log.last(t, subject)
		subject, payload = event(mine.ID)
		s.log.store(t, subject, payload, headerOf(real.Message))
		// In place of the real one.
		subject, payload = event(held.KID)
		seq = s.log.store(t, subject, payload, nil)
		return seq
	})
	s.repaired(t, held.Subject(events.ConfigRegion).String(), seq, func(_ events.Entry, e events.Event) bool {
		k, ok := e.(*events.SigningKey)
		return ok && k.KID == held.KID && string(k.Public) == string(held.Public)
	})
	if r := s.do("", "GET", "/v1/apps/acme/jwks", nil).want(http.StatusOK); strings.Contains(string(r.Raw), mine.ID) {
		t.Errorf("the stranger's key is published: %s", r.Raw)
	}
	s.expect(http.StatusNoContent, s.enter("minted afterwards"))
}

func apps(t *testing.T, s *stage) {
	subject := (&events.App{App: "acme"}).Subject(events.ConfigRegion).String()
	real, _ := s.log.last(t, subject)
	s.do(s.admin, "PATCH", "/v1/apps/acme", map[string]any{"jwt_ttl_seconds": 120}).want(http.StatusOK)
	newer, _ := s.log.last(t, subject)
	if newer.Seq == real.Seq {
		t.Fatal("the app was not changed")
	}
	says := func(_ events.Entry, e events.Event) bool {
		a, ok := e.(*events.App)
		return ok && a.State == events.AppActive && a.Settings.JWTTTL == 120
	}
	var seq uint64
	for _, do := range []func() uint64{
		func() uint64 { return s.log.replay(t, real.Message) },
		func() uint64 {
			return s.log.store(t, subject, []byte(strings.Replace(string(newer.Payload), "active", "deleted", 1)), headerOf(newer.Message))
		},
		func() uint64 { return s.log.store(t, subject, nil, nats.Header{"Nats-TTL": {"1"}}) },
	} {
		s.counted(t, events.ConfigRegion, 1, func() uint64 { seq = do(); return seq })
		s.repaired(t, subject, seq, says)
	}
	s.counted(t, events.ConfigRegion, 1, func() uint64 {
		return s.log.store(t, (&events.App{App: "mine"}).Subject(events.ConfigRegion).String(), newer.Payload, headerOf(newer.Message))
	})
	s.do(s.admin, "GET", "/v1/apps/mine", nil).wantError(http.StatusNotFound, "app_not_found")
	s.expect(http.StatusNoContent, s.enter("app goes on"))
}

// TestHostileFlood overwrites so much at once that repairs queue for longer
// than the copies of some revocations live. Those are gone from the log before
// their turn comes, and must be in it again.
func TestHostileFlood(t *testing.T) {
	l := newRealLog(t, broker.Config{}, events.ClusterConfig{})
	s := &stage{realNode: l.start(t)}
	members := s.enterMany(t, 1000)
	revoked := members[:20]
	for _, m := range revoked {
		s.revoke(map[string]any{"session_id": m.sid.String()})
	}
	good := s.probe(t, "a good session", credentials(members[20]), http.StatusNoContent)
	bad := s.probe(t, "a revoked session", credentials(revoked...), http.StatusUnauthorized)
	var last uint64
	each(members[20:], 64, func(m member) {
		for _, k := range []events.Kind{events.KindState, events.KindTouch} {
			if err := l.raw.Publish(m.subject(k), []byte("{}")); err != nil {
				t.Error(err)
			}
		}
	})
	for _, m := range revoked {
		e, _ := l.last(t, m.subject(events.KindRevoke))
		last = l.store(t, e.Subject, e.Payload, nats.Header{"Revocast-Seal": {e.Seal}, "Nats-TTL": {"1"}})
	}
	s.applied("eu", last)
	held := func(m member) bool {
		e, err := l.home.Last(t.Context(), m.subject(events.KindRevoke))
		return err == nil && l.keys.Decode(2, e).Trust == events.Authentic
	}
	gone := 0
	for _, m := range revoked {
		eventually(t, time.Minute, "the copy made way for a revocation, or left the log", func() bool {
			e, err := l.home.Last(t.Context(), m.subject(events.KindRevoke))
			if errors.Is(err, events.ErrNotFound) {
				gone++
				return true
			}
			return err == nil && l.keys.Decode(2, e).Trust == events.Authentic
		})
	}
	t.Logf("%d copies left the log before they were repaired", gone)
	for _, m := range revoked {
		eventually(t, time.Minute, "the log holds the revocation of "+m.user, func() bool { return held(m) })
	}
	for _, m := range members[20:] {
		eventually(t, time.Minute, "the log holds the state of "+m.user, func() bool {
			_, r := l.last(t, m.subject(events.KindState))
			return r.Trust == events.Authentic
		})
	}
	t.Logf("verifies of a good session %v, of revoked ones %v", good(), bad())
	s.stop()
	after := l.start(t)
	for i := range members {
		after.wantVerdict(t, &members[i], map[bool]int{true: http.StatusUnauthorized, false: http.StatusNoContent}[i < 20])
	}
}
