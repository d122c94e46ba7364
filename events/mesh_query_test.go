package events_test

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/revocast/revocast/events"
)

// queries runs a mesh that answers the topic "twice" with its name and the body
// two times, and returns its incarnation.
func queries(t *testing.T, m events.Mesh, name string) events.Incarnation {
	t.Helper()
	me := events.NewIncarnation()
	runAnswers(t, m, events.Answers{
		Me: me,
		Confirm: func(context.Context, events.Question) (events.Confirmation, bool) {
			return events.Confirmation{}, false
		},
		Queries: map[string]func(context.Context, []byte) ([]byte, bool){
			"twice": func(_ context.Context, body []byte) ([]byte, bool) {
				return append([]byte(name), bytes.Repeat(body, 2)...), len(body) > 0
			},
			"large": func(context.Context, []byte) ([]byte, bool) { return make([]byte, events.MaxQuery), true },
			"over":  func(context.Context, []byte) ([]byte, bool) { return make([]byte, events.MaxQuery+1), true },
		},
	})
	return me
}

// query returns what is answered until n have, or the time is over.
func query(t *testing.T, m events.Mesh, topic string, to events.Incarnation, body string, n int, within time.Duration) map[events.Incarnation]string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	got := map[events.Incarnation]string{}
	m.Query(ctx, topic, to, []byte(body), func(from events.Incarnation, body []byte) {
		got[from] = string(body)
		if len(got) == n {
			cancel()
		}
	})
	return got
}

// TestMeshQuery: everybody answers, or only who was asked, and nobody who holds
// another cluster key.
func TestMeshQuery(t *testing.T) {
	for name, make := range map[string]func(*testing.T) meshCase{"memory": memoryMesh, "nats": natsMesh} {
		t.Run(name, func(t *testing.T) {
			net, keys := make(t), meshKeys(t)
			asker := net.next(keys)
			queries(t, asker, "asker") // is not asked itself
			one, two := queries(t, net.next(keys), "one"), queries(t, net.next(keys), "two")
			stranger := queries(t, net.next(meshKeys(t)), "stranger")
			want := map[events.Incarnation]string{one: "oneaa", two: "twoaa"}
			if diff := cmp.Diff(want, query(t, asker, "twice", events.Incarnation{}, "a", 2, 10*time.Second)); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
			want = map[events.Incarnation]string{two: "twobb"}
			if diff := cmp.Diff(want, query(t, asker, "twice", two, "b", 1, 10*time.Second)); diff != "" {
				t.Errorf("of one: -want +got\n%s", diff)
			}
			if got := query(t, asker, "large", one, "", 1, 10*time.Second)[one]; len(got) != events.MaxQuery {
				t.Errorf("an answer of %d bytes came as %d", events.MaxQuery, len(got))
			}
			for what, got := range map[string]map[events.Incarnation]string{
				"a stranger":       query(t, asker, "twice", stranger, "a", 1, 50*time.Millisecond),
				"nobody":           query(t, asker, "twice", events.NewIncarnation(), "a", 1, 50*time.Millisecond),
				"an unknown topic": query(t, asker, "other", events.Incarnation{}, "a", 1, 50*time.Millisecond),
				"a refusal":        query(t, asker, "twice", events.Incarnation{}, "", 1, 50*time.Millisecond),
				"what is too long": query(t, asker, "over", events.Incarnation{}, "", 1, 50*time.Millisecond),
			} {
				if len(got) != 0 {
					t.Errorf("%s was heard: %q", what, got)
				}
			}
		})
	}
}

// TestMeshQueryForgery: neither a seal of somebody else nor an answer given
// before, moved to the subject that is awaited, is believed.
func TestMeshQueryForgery(t *testing.T) {
	net, keys := natsMesh(t), meshKeys(t)
	asker, honest := net.next(keys), net.next(keys)
	queries(t, asker, "asker")
	me := queries(t, honest, "honest")
	var mu sync.Mutex
	var heard []events.Message
	net.overhear(func(m events.Message) {
		mu.Lock()
		defer mu.Unlock()
		heard = append(heard, m)
	})
	if got := query(t, asker, "twice", me, "a", 1, 10*time.Second); len(got) != 1 {
		t.Fatalf("honest answer: %q", got)
	}
	mu.Lock()
	before := heard
	mu.Unlock()
	stranger := meshKeys(t)
	var forged atomic.Int64 // the subjects are overheard side by side
	net.overhear(func(q events.Message) {
		for _, old := range before {
			net.inject(old)
			for _, subject := range events.ReplySubjects(q) {
				forged.Add(1)
				old.Subject = subject
				net.inject(old)
				net.inject(events.ForgeReply(stranger, q, me, ""))
				net.inject(events.ForgeReply(stranger, q, me, old.Seal))
			}
		}
	})
	// The honest one refuses an empty body, so any answer is a forgery.
	if got := query(t, asker, "twice", me, "", 1, 300*time.Millisecond); len(got) != 0 {
		t.Errorf("a forged answer was believed: %q", got)
	}
	if forged.Load() == 0 {
		t.Error("the forger said nothing")
	}
}

// TestMeshQueryLoss: what is lost is asked again, and a flood of queries holds
// a bounded number of goroutines.
func TestMeshQueryLoss(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net, keys := new(events.MemoryMesh), meshKeys(t)
		asker, other := net.Link(keys), net.Link(keys)
		queries(t, asker, "asker")
		var mu sync.Mutex
		now, most := 0, 0
		me := events.NewIncarnation()
		runAnswers(t, other, events.Answers{Me: me, Queries: map[string]func(context.Context, []byte) ([]byte, bool){
			"quick": func(context.Context, []byte) ([]byte, bool) { return []byte("yes"), true },
			"slow": func(ctx context.Context, _ []byte) ([]byte, bool) {
				mu.Lock()
				now++
				most = max(most, now)
				mu.Unlock()
				<-ctx.Done()
				return nil, true
			},
		}})
		synctest.Wait()
		lost := 0
		other.SetDeliver(func(context.Context, events.Message) int {
			if lost++; lost <= 2 {
				return 0
			}
			return 2
		})
		begin := time.Now()
		got := query(t, asker, "quick", me, "", 1, time.Minute)
		if took := time.Since(begin); got[me] != "yes" || took != 2*time.Second {
			t.Errorf("after %v: %q", took, got)
		}
		other.SetDeliver(nil)
		ctx, cancel := context.WithCancel(t.Context())
		var asking sync.WaitGroup
		for i := range 500 {
			asking.Go(func() { asker.Query(ctx, "slow", me, fmt.Append(nil, i), func(events.Incarnation, []byte) {}) })
		}
		time.Sleep(3 * time.Second) // each is repeated, and counts once
		mu.Lock()
		if most != 32 {
			t.Errorf("%d queries were dealt with at a time", most)
		}
		mu.Unlock()
		cancel()
		asking.Wait()
	})
}
