package node

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/revocast/revocast/events"
)

// beatOf appends a heartbeat of another node that holds the keys, sealed with a
// key that n holds.
func beatOf(t *testing.T, n *Node, who events.Incarnation, name string, number uint64, format int, keys ...string) {
	t.Helper()
	say(t, n, &events.Beat{Node: name, Incarnation: who, N: number, Format: format, Keys: keys})
}

func say(t *testing.T, n *Node, e events.Event) {
	t.Helper()
	m, err := n.conf.Keys.Encode("eu", e, nil, 4*n.conf.Lease)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := n.home.log.Append(t.Context(), m, events.Expectation{}); err != nil {
		t.Fatal(err)
	}
	synctest.Wait()
}

// TestListed: what may be written is what all live nodes of all streams read.
func TestListed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		raw := [][]byte{events.NewClusterKey(), events.NewClusterKey()}
		keys, err := events.NewClusterKeys(raw...)
		if err != nil {
			t.Fatal(err)
		}
		n := runNode(t, keys)
		first, second := keys.IDs()[0], keys.IDs()[1]
		want := func(format int, ids ...string) {
			t.Helper()
			got, newest, ok := n.listed()
			if diff := cmp.Diff(ids, got); diff != "" || newest != format || !ok {
				t.Errorf("format %d (%t), keys -want +got\n%s", newest, ok, diff)
			}
		}
		want(events.Version, first, second)
		// A node that only registered counts: it is about to read.
		old, new := events.NewIncarnation(), events.NewIncarnation()
		say(t, n, &events.Node{Node: "old", Incarnation: old, N: 1, Region: "eu", Format: 0, Keys: []string{first}})
		want(0, first)
		beatOf(t, n, new, "new", 1, events.Version+1, second, first, "another-")
		want(0, first)
		say(t, n, &events.Node{Node: "old", Incarnation: old, N: 2, Region: "eu", Keys: []string{first}, Left: true})
		want(events.Version, first, second)
		beatOf(t, n, old, "old", 3, 0, first) // on its way when it left
		want(events.Version, first, second)
		// Silence counts for four leases.
		beatOf(t, n, events.NewIncarnation(), "gone", 1, events.Version, second)
		want(events.Version, second)
		time.Sleep(forgetAfter*DefaultLease - time.Second)
		want(events.Version, second)
		time.Sleep(2 * time.Second)
		want(events.Version, first, second)
	})
}

// TestKeyFence: a node fences while a live one seals with a key that it lacks,
// and not because of one that is merely held somewhere.
func TestKeyFence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		keys, err := events.NewClusterKeys(events.NewClusterKey())
		if err != nil {
			t.Fatal(err)
		}
		n := runNode(t, keys)
		held, who := keys.IDs()[0], events.NewIncarnation()
		fenced := func(when string, want bool) {
			t.Helper()
			time.Sleep(2 * DefaultBeat) // its own heartbeats come back meanwhile
			st := n.home.state()
			if st.Fresh == want || want && (st.Fenced != reasonKey || st.Detail == "") {
				t.Errorf("%s: %+v", when, st)
			}
			sid, _ := events.NewToken(2).Key()
			if _, stale := n.bySID(sid); (stale != nil) != want {
				t.Errorf("%s: a lookup says %v", when, stale)
			}
		}
		fenced("alone", false)
		beatOf(t, n, who, "n2", 1, events.Version, held, "another-")
		fenced("a key is held elsewhere", false)
		beatOf(t, n, who, "n2", 2, events.Version, "another-", held)
		fenced("a key seals elsewhere", true)
		beatOf(t, n, who, "n2", 3, events.Version, held, "another-")
		fenced("it seals no more", false)
		beatOf(t, n, who, "n2", 4, events.Version, "another-", held)
		fenced("it seals again", true)
		say(t, n, &events.Node{Node: "n2", Incarnation: who, N: 5, Region: "eu", Keys: []string{"another-", held}, Left: true})
		fenced("that node has left", false)
		beatOf(t, n, events.NewIncarnation(), "n3", 1, events.Version, "another-", held)
		fenced("another seals so", true)
		time.Sleep(forgetAfter * DefaultLease)
		fenced("it is gone", false)
	})
}
