package events_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/events/broker"
)

func meshKeys(t *testing.T) *events.ClusterKeys {
	t.Helper()
	keys, err := events.NewClusterKeys(events.NewClusterKey())
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

// answerer runs a mesh whose node of the name says yes to what lies at or below
// the sequence. It ends with the test.
func answerer(t *testing.T, m events.Mesh, name string, upTo uint64) events.Confirmation {
	t.Helper()
	me := events.Confirmation{Node: name, Incarnation: events.NewIncarnation()}
	runMesh(t, m, func(_ context.Context, q events.Question) (events.Confirmation, bool) {
		return me, q.Stream == "eu" && q.Seq <= upTo
	})
	return me
}

func runMesh(t *testing.T, m events.Mesh, answer func(context.Context, events.Question) (events.Confirmation, bool)) {
	t.Helper()
	runAnswers(t, m, events.Answers{Me: events.NewIncarnation(), Confirm: answer})
}

func runAnswers(t *testing.T, m events.Mesh, a events.Answers) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := m.Run(ctx, a); err != nil {
			t.Errorf("run mesh: %v", err)
		}
	})
	t.Cleanup(func() { cancel(); running.Wait() })
}

// ask returns the nodes that confirm, with how often, until there are n or the
// time is over.
func ask(t *testing.T, m events.Mesh, q events.Question, n int, within time.Duration) map[events.Confirmation]bool {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	got := map[events.Confirmation]bool{}
	m.Ask(ctx, q, func(c events.Confirmation) {
		got[c] = true
		if len(got) == n {
			cancel()
		}
	})
	return got
}

// meshCase is a network of meshes; each call returns the next one.
type meshCase struct {
	next   func(*events.ClusterKeys) events.Mesh
	inject func(events.Message)
	// overhear calls fn with all that passes from now on.
	overhear func(fn func(events.Message))
}

func memoryMesh(*testing.T) meshCase {
	net := new(events.MemoryMesh)
	return meshCase{
		next:   func(k *events.ClusterKeys) events.Mesh { return net.Link(k) },
		inject: net.Inject,
	}
}

func natsMesh(t *testing.T) meshCase {
	b, err := broker.Start(t.Context(), broker.Config{StoreDir: t.TempDir(), Lazy: true, Listen: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	connect := func() *nats.Conn {
		nc, err := nats.Connect(b.ClientURL())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(nc.Close)
		return nc
	}
	spy := connect()
	return meshCase{
		next: func(k *events.ClusterKeys) events.Mesh { return events.NewMesh(connect(), k) },
		inject: func(m events.Message) {
			_ = spy.PublishMsg(&nats.Msg{Subject: m.Subject, Data: m.Payload, Header: nats.Header{"Revocast-Seal": {m.Seal}}})
		},
		overhear: func(fn func(events.Message)) {
			for _, subject := range []string{"confirm.>", "query.>"} {
				_, err := spy.Subscribe(subject, func(m *nats.Msg) {
					fn(events.Message{Subject: m.Subject, Payload: m.Data, Seal: m.Header.Get("Revocast-Seal")})
				})
				if err != nil {
					t.Fatal(err)
				}
			}
			if err := spy.Flush(); err != nil {
				t.Fatal(err)
			}
		},
	}
}

// TestMesh: everybody who has come so far confirms, and who has not does not.
// A question that is asked before others run is repeated, so they are heard.
func TestMesh(t *testing.T) {
	for name, make := range map[string]func(*testing.T) meshCase{"memory": memoryMesh, "nats": natsMesh} {
		t.Run(name, func(t *testing.T) {
			net, keys := make(t), meshKeys(t)
			asker := net.next(keys)
			answerer(t, asker, "asker", 100) // is not asked itself
			want := map[events.Confirmation]bool{}
			for i := range 3 {
				want[answerer(t, net.next(keys), fmt.Sprint("n", i), 50)] = true
			}
			answerer(t, net.next(keys), "behind", 10)
			answerer(t, net.next(meshKeys(t)), "stranger", 100)
			got := ask(t, asker, events.Question{Stream: "eu", Seq: 20}, len(want), 10*time.Second)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
			if got := ask(t, asker, events.Question{Stream: "us", Seq: 1}, 1, 50*time.Millisecond); len(got) != 0 {
				t.Errorf("another stream was confirmed: %v", got)
			}
		})
	}
}

// TestMeshForgery: whoever reaches NATS but holds no cluster key confirms
// nothing: neither with a seal of their own, nor by repeating or moving what
// was said before.
func TestMeshForgery(t *testing.T) {
	net, keys := natsMesh(t), meshKeys(t)
	asker, honest := net.next(keys), net.next(keys)
	answerer(t, asker, "asker", 0)
	me := answerer(t, honest, "honest", 20)
	var mu sync.Mutex
	var heard []events.Message
	net.overhear(func(m events.Message) {
		mu.Lock()
		defer mu.Unlock()
		heard = append(heard, m)
	})
	want := map[events.Confirmation]bool{me: true}
	if diff := cmp.Diff(want, ask(t, asker, events.Question{Stream: "eu", Seq: 20}, 1, 10*time.Second)); diff != "" {
		t.Fatalf("-want +got\n%s", diff)
	}
	mu.Lock()
	before := heard
	mu.Unlock()
	// Each question that passes from now on is answered by all that was heard:
	// as it was, and under the subject of the answer that is awaited, and with
	// the answer's text changed to fit, whose seal then does not.
	stranger := meshKeys(t)
	net.overhear(func(q events.Message) {
		for _, old := range before {
			net.inject(old)
			moved := old
			moved.Subject = q.Subject
			net.inject(moved)
			for _, subject := range events.AnswerSubjects(q) {
				moved.Subject = subject
				net.inject(moved)
				net.inject(events.ForgeAnswer(stranger, q, "behind", ""))
				net.inject(events.ForgeAnswer(stranger, q, "behind", old.Seal))
			}
		}
	})
	said := func() int {
		mu.Lock()
		defer mu.Unlock()
		return len(heard)
	}
	for tries := 0; said() < 10; tries++ {
		if tries == 100 {
			t.Fatalf("the forger only said %d messages", said())
		}
		if got := ask(t, asker, events.Question{Stream: "eu", Seq: 21}, 1, 300*time.Millisecond); len(got) != 0 {
			t.Fatalf("a forged confirmation was believed: %v", got)
		}
	}
}

// TestMeshLoss: what is lost is asked again, and what is cut off says nothing.
func TestMeshLoss(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net, keys := new(events.MemoryMesh), meshKeys(t)
		asker, other := net.Link(keys), net.Link(keys)
		answerer(t, asker, "asker", 0)
		me := answerer(t, other, "other", 20)
		synctest.Wait()
		lost := 0
		other.SetDeliver(func(context.Context, events.Message) int {
			if lost++; lost <= 3 {
				return 0
			}
			return 2
		})
		begin := time.Now()
		got := ask(t, asker, events.Question{Stream: "eu", Seq: 1}, 1, time.Minute)
		if took := time.Since(begin); !got[me] || took != 3*time.Second {
			t.Errorf("after %v: %v", took, got)
		}
		other.Cut()
		if got := ask(t, asker, events.Question{Stream: "eu", Seq: 1}, 1, time.Minute); len(got) != 0 {
			t.Errorf("a node that is cut off confirmed: %v", got)
		}
		other.Heal()
		if got := ask(t, asker, events.Question{Stream: "eu", Seq: 1}, 1, time.Minute); !got[me] {
			t.Errorf("a healed node did not confirm")
		}
	})
}

// TestMeshBounds: a flood of questions holds a bounded number of goroutines,
// and Run ends although they are waiting.
func TestMeshBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net, keys := new(events.MemoryMesh), meshKeys(t)
		asker, other := net.Link(keys), net.Link(keys)
		answerer(t, asker, "asker", 0)
		var mu sync.Mutex
		now, most := 0, 0
		runMesh(t, other, func(ctx context.Context, _ events.Question) (events.Confirmation, bool) {
			mu.Lock()
			now++
			most = max(most, now)
			mu.Unlock()
			<-ctx.Done()
			return events.Confirmation{}, false
		})
		synctest.Wait()
		ctx, cancel := context.WithCancel(t.Context())
		var asking sync.WaitGroup
		for i := range 3000 {
			asking.Go(func() { asker.Ask(ctx, events.Question{Stream: "eu", Seq: uint64(i)}, func(events.Confirmation) {}) })
		}
		time.Sleep(3 * time.Second) // each is repeated, and counts once
		mu.Lock()
		if most != 1024 {
			t.Errorf("%d questions were dealt with at a time", most)
		}
		mu.Unlock()
		cancel()
		asking.Wait()
	})
}
