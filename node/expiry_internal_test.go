package node

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node/api"
	"github.com/revocast/revocast/projection"
)

// TestExpiredIsToldInFeeds: an Expire becomes an event of a feed that asks for that
// type, and one that nobody can vouch for does not.
func TestExpiredIsToldInFeeds(t *testing.T) {
	keys, err := events.NewClusterKeys(events.NewClusterKey())
	if err != nil {
		t.Fatal(err)
	}
	n := memoryNode(t, keys)
	sid := events.SID{n.home.number, 7}
	e := &events.Expire{App: "acme", User: "ada", SID: sid, At: 1_800_000_000_000, Reason: events.ReasonIdle}
	msg, err := keys.Encode(n.home.region, e, nil, events.ExpiredEventTTL)
	if err != nil {
		t.Fatal(err)
	}
	at, logged := time.UnixMilli(e.At).UTC(), time.UnixMilli(e.At+31_000).UTC()
	r := keys.Decode(n.home.number, events.Entry{Seq: 12, Time: logged, Message: msg})
	want := &api.Event{
		Type: "session.expired", Revision: "eu:0:12", At: logged, AppID: "acme", Region: "eu", Stream: n.home.number,
		SessionID: sid.String(), UserID: "ada", UserHash: events.UserHash("acme", "ada"), Reason: "idle", ExpiredAt: &at,
	}
	if diff := cmp.Diff(want, n.home.changeOf(&r, n.home.at(r.Seq), 11)); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	f := feedFilter{app: "acme", types: map[string]bool{api.EventExpired: true}}
	if diff := cmp.Diff([]string{"ev.eu.acme.*.*.exp"}, f.subjects("eu")); diff != "" || !toldKinds[events.KindExpire] {
		t.Errorf("read from the log: -want +got\n%s", diff)
	}
	msg.Payload = append([]byte(nil), msg.Payload...)
	msg.Payload[len(msg.Payload)-2] = 'f'
	r = keys.Decode(n.home.number, events.Entry{Seq: 13, Time: logged, Message: msg})
	if got := n.home.changeOf(&r, n.home.at(r.Seq), 12); r.Trust != events.Forged || got != nil {
		t.Errorf("%v, told as %+v", r.Trust, got)
	}
}

// TestTellEndedTwice: where another node's event stands that was not heard, nothing is
// written, and one of an earlier session of the same token does not count.
func TestTellEndedTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		keys, err := events.NewClusterKeys(events.NewClusterKey())
		if err != nil {
			t.Fatal(err)
		}
		n := memoryNode(t, keys)
		live(t, n, func() {})
		<-n.Ready()
		d := projection.Ended{SID: events.SID{n.home.number, 7}, App: "acme", User: "ada", CreatedAt: 2000, At: 3000}
		subject := events.SessionSubject(n.home.region, d.App, d.User, d.SID, events.KindExpire).String()
		for _, c := range []struct {
			stands int64
			writes bool
		}{{1000, true}, {3000, false}} {
			_, err := n.home.write(t.Context(), &events.Expire{App: d.App, User: d.User, SID: d.SID, At: c.stands, Reason: events.ReasonExpired}, nil, time.Hour, events.Expectation{})
			if err != nil {
				t.Fatal(err)
			}
			before, err := n.home.log.Last(t.Context(), subject)
			if err != nil {
				t.Fatal(err)
			}
			if err := n.tellEnded(t.Context(), d); err != nil {
				t.Fatal(err)
			}
			after, err := n.home.log.Last(t.Context(), subject)
			if err != nil || (after.Seq != before.Seq) != c.writes {
				t.Errorf("over one of %d: at %d, then %d, %v", c.stands, before.Seq, after.Seq, err)
			}
		}
	})
}

// TestRanks: every node knows the same order of the nodes for a session, each is
// first for its share, and who is gone leaves the order of the rest as it was.
func TestRanks(t *testing.T) {
	nodes := make([]events.Incarnation, 5)
	for i := range nodes {
		nodes[i] = events.NewIncarnation()
	}
	others := func(i int) []events.Incarnation {
		return append(append([]events.Incarnation{}, nodes[:i]...), nodes[i+1:]...)
	}
	first := make([]int, len(nodes))
	const sessions = 5000
	for range sessions {
		sid := events.SID(events.NewIncarnation())
		order := make([]int, len(nodes))
		seen := 0
		for i := range nodes {
			rank := rankOf(sid, nodes[i], others(i))
			order[rank] = i
			seen |= 1 << rank
		}
		if seen != 1<<len(nodes)-1 {
			t.Fatalf("ranks of %s: %b", sid, seen)
		}
		first[order[0]]++
		// Without the first all the others come one earlier.
		for place, i := range order[1:] {
			var rest []events.Incarnation
			for j, n := range nodes {
				if j != i && j != order[0] {
					rest = append(rest, n)
				}
			}
			if rank := rankOf(sid, nodes[i], rest); rank != place {
				t.Fatalf("rank %d without the first, want %d", rank, place)
			}
		}
	}
	for i, n := range first {
		if n < sessions/10 || n > sessions/3 {
			t.Errorf("node %d is first for %d of %d", i, n, sessions)
		}
	}
}
