package events

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/revocast/revocast/events/broker"
)

// internalLog is a log on a fresh server, and its keys and connection.
func internalLog(t *testing.T) (*JetStream, *ClusterKeys, *nats.Conn) {
	t.Helper()
	b, err := broker.Start(t.Context(), broker.Config{StoreDir: t.TempDir(), Lazy: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	nc, err := b.Connect("test")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	keys, err := NewClusterKeys(NewClusterKey())
	if err != nil {
		t.Fatal(err)
	}
	if err := CreateCluster(t.Context(), nc, ClusterConfig{Cluster: "c1", Region: "eu", Keys: keys, MaxBytes: 1 << 30}); err != nil {
		t.Fatal(err)
	}
	j, err := Open(t.Context(), nc, StreamConfig{Region: "eu"})
	if err != nil {
		t.Fatal(err)
	}
	return j, keys, nc
}

func internalMessage(t *testing.T, keys *ClusterKeys, n int) Message {
	t.Helper()
	m, err := keys.Encode("eu", &Touch{App: "demo", User: fmt.Sprint("u", n), SID: SID{2, byte(n), byte(n >> 8)}, At: 1}, nil, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// holdQueue makes all appends queue until release.
func holdQueue(g *group) (waitFor func(n int), release func()) {
	g.mu.Lock()
	g.batching = true
	g.mu.Unlock()
	waitFor = func(n int) {
		for {
			g.mu.Lock()
			have := len(g.waiting)
			g.mu.Unlock()
			if have == n {
				return
			}
			runtime.Gosched()
		}
	}
	release = func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.batching = false
		g.dispatch()
	}
	return waitFor, release
}

// TestBatchWithBadMember puts messages that the server refuses into a batch:
// they fail alone.
func TestBatchWithBadMember(t *testing.T) {
	for name, spoil := range map[string]func(*Message){
		"short TTL": func(m *Message) { m.TTL = 500 * time.Millisecond },
		"too large": func(m *Message) { m.Payload = make([]byte, maxMsgSize) },
	} {
		t.Run(name, func(t *testing.T) {
			j, keys, _ := internalLog(t)
			const n = 40
			waitFor, release := holdQueue(&j.group)
			var wg sync.WaitGroup
			errs := make([]error, n)
			seqs := make([]uint64, n)
			for i := range n {
				wg.Go(func() {
					m := internalMessage(t, keys, i)
					if i == 7 {
						spoil(&m)
					}
					// Without the checks of Append.
					seqs[i], errs[i] = j.commit(t.Context(), m, Expectation{})
				})
			}
			waitFor(n)
			release()
			wg.Wait()
			for i, err := range errs {
				if i == 7 {
					if err == nil || errors.Is(err, ErrUnavailable) {
						t.Errorf("the bad message: %d, %v", seqs[i], err)
					}
					continue
				}
				if err != nil {
					t.Errorf("message %d: %v", i, err)
				}
			}
			if c := j.Counters(); c.BatchesRefused != 1 {
				t.Errorf("%d batches were refused, want 1", c.BatchesRefused)
			}
			slices.Sort(seqs)
			if d := slices.Compact(slices.Clone(seqs)); len(d) != n || d[0] != 0 || d[n-1] != n-1 {
				t.Errorf("sequences %v", seqs)
			}
		})
	}
}

// TestBatchWithFailedExpectation: an expectation never gets into a batch.
func TestBatchWithFailedExpectation(t *testing.T) {
	j, keys, _ := internalLog(t)
	waitFor, release := holdQueue(&j.group)
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			if _, err := j.Append(t.Context(), internalMessage(t, keys, i), Expectation{}); err != nil {
				t.Error(err)
			}
		})
	}
	waitFor(20)
	// It does not even wait for the batch.
	if _, err := j.Append(t.Context(), internalMessage(t, keys, 99), Expect(77)); !errors.Is(err, ErrConflict) {
		t.Errorf("append: %v, want ErrConflict", err)
	}
	release()
	wg.Wait()
	if c := j.Counters(); c.Batches != 1 || c.BatchEvents != 20 || c.BatchesRefused != 0 {
		t.Errorf("counters: %+v", c)
	}
}

// TestBatchLeaderLeaves ends the leader's context while the batch is on its
// way: another member takes over the waiting.
func TestBatchLeaderLeaves(t *testing.T) {
	j, _, nc := internalLog(t)
	inbox := nc.NewInbox()
	sub, err := nc.SubscribeSync(inbox)
	if err != nil {
		t.Fatal(err)
	}
	first, gone, second := &pending{turn: make(chan turn, 1)}, &pending{turn: make(chan turn, 1), gone: true}, &pending{turn: make(chan turn, 1)}
	b := &batch{members: []*pending{first, gone, second}, sub: sub, deadline: time.Now().Add(time.Minute)}
	j.group.batching = true
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if seq, err := j.lead(ctx, first, b); seq != 0 || !errors.Is(err, ErrUnavailable) {
		t.Fatalf("the leader whose context ended: %d, %v", seq, err)
	}
	if tn := <-second.turn; tn.batch != b {
		t.Fatalf("the other member was told %+v", tn)
	}
	if err := nc.Publish(inbox, []byte(`{"stream":"EV_eu","seq":12,"batch":"x","count":3}`)); err != nil {
		t.Fatal(err)
	}
	if seq, err := j.lead(t.Context(), second, b); seq != 12 || err != nil {
		t.Errorf("the new leader: %d, %v; want 12", seq, err)
	}
	if j.group.batching || len(first.turn) != 0 || len(gone.turn) != 0 {
		t.Error("the batch did not end as it should")
	}
}

// collect follows until done returns true for an entry.
func collect(t *testing.T, j *JetStream, f Follow, done func(Entry) bool) []Entry {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var got []Entry
	reached := false
	f.Apply = func(e Entry) error {
		got = append(got, e)
		if done(e) {
			reached = true
			cancel()
		}
		return nil
	}
	if err := j.Follow(ctx, f); err != nil {
		t.Fatal(err)
	}
	if !reached {
		t.Fatalf("following did not get there; %d entries", len(got))
	}
	return got
}

// TestFollowLosesLive loses live messages, the last among them.
func TestFollowLosesLive(t *testing.T) {
	j, keys, _ := internalLog(t)
	const n = 300
	j.dropLive = func(seq uint64) bool { return seq%3 == 0 || seq > 200 && seq < 260 || seq == n }
	var wg sync.WaitGroup
	got := collect(t, j, Follow{CaughtUp: func() {
		wg.Go(func() {
			for i := range n {
				if _, err := j.Append(t.Context(), internalMessage(t, keys, i), Expectation{}); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}}, func(e Entry) bool { return e.Seq == n })
	wg.Wait()
	for i, e := range got {
		if e.Seq != uint64(i+1) {
			t.Fatalf("entry %d has sequence %d", i, e.Seq)
		}
	}
	if c := j.Counters(); c.Gaps == 0 || c.Resumes["quiet"] == 0 {
		t.Errorf("counters: %+v", c)
	}
}

// TestReadTo reads the same stretch in each of the three ways.
func TestReadTo(t *testing.T) {
	j, keys, _ := internalLog(t)
	const n = 50
	for i := range n {
		if _, err := j.Append(t.Context(), internalMessage(t, keys, i%45), Expectation{}); err != nil {
			t.Fatal(err)
		}
	}
	for name, read := range map[string]func(*follower) (uint64, error){
		"bulk":   func(fl *follower) (uint64, error) { return fl.bulk(t.Context(), 1, n, 0) },
		"direct": func(fl *follower) (uint64, error) { return fl.direct(t.Context(), 1, n, 0) },
		"leader": func(fl *follower) (uint64, error) { return fl.leader(t.Context(), 1, n, 0) },
	} {
		var got []Entry
		fl := &follower{j: j, ring: newRing(), f: Follow{Apply: func(e Entry) error { got = append(got, e); return nil }}}
		reached, err := read(fl)
		if err != nil || reached != n || len(got) != 45 || got[0].Seq != 6 {
			t.Errorf("%s: reached %d, %d entries, %v", name, reached, len(got), err)
		}
		// Again: equal. With one changed: the log is another.
		if _, err := read(fl); err != nil || len(got) != 45 {
			t.Errorf("%s again: %d entries, %v", name, len(got), err)
		}
		fl.ring.items[len(fl.ring.items)-3].sum++
		if _, err := read(fl); !errors.Is(err, ErrRewound) {
			t.Errorf("%s of another log: %v, want ErrRewound", name, err)
		}
	}
}

func TestRing(t *testing.T) {
	r := newRing()
	if _, ok := r.first(); ok {
		t.Fatal("an empty ring has a first")
	}
	for seq := uint64(1); seq <= 5000; seq++ {
		var at *anchor
		if seq == 3000 {
			at = &anchor{seq: 2 * seq}
		}
		r.add(2*seq, seq, at)
	}
	if first, ok := r.first(); !ok || first != 6000 {
		t.Errorf("first is %d, want the anchor 6000", first)
	}
	for seq, want := range map[uint64]bool{5998: false, 6000: true, 6001: false, 10000: true, 10002: false} {
		if sum, ok := r.find(seq); ok != want || ok && sum != seq/2 {
			t.Errorf("find(%d) is %d, %v", seq, sum, ok)
		}
	}
	if bare := newRing(); true {
		for seq := uint64(1); seq <= 5000; seq++ {
			bare.add(seq, seq, nil)
		}
		if first, _ := bare.first(); first != 5000-ringBare+1 || len(bare.items) > 4*1024 {
			t.Errorf("first without anchor is %d of %d kept", first, len(bare.items))
		}
	}
}

func TestParseDelivery(t *testing.T) {
	want := delivery{seq: 42, consumerSeq: 7, pending: 3, time: time.Unix(0, 1700000000000000001).UTC()}
	for reply, ok := range map[string]bool{
		"$JS.ACK.EV_eu.c.1.42.7.1700000000000000001.3":             true,
		"$JS.ACK.rA.HASH.EV_eu.c.1.42.7.1700000000000000001.3":     true,
		"$JS.ACK.rA.HASH.EV_eu.c.1.42.7.1700000000000000001.3.tok": true,
		"$JS.ACK.EV_eu.c.1.42.7.1700000000000000001":               false,
		"$JS.ACK.EV_eu.c.1.42.x.1700000000000000001.3":             false,
		"_INBOX.a": false, "": false,
	} {
		if d, is := parseDelivery(reply); is != ok || ok && d != want {
			t.Errorf("%q: %+v, %v", reply, d, is)
		}
	}
}

func TestParseTTL(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"61": time.Minute + time.Second, "1m1s": time.Minute + time.Second, "1500ms": time.Second,
		"never": 0, "-1": 0, "": 0, "0": 0, "99999999999999999999": 0, "9999999999999": 0,
	} {
		if got := parseTTL(text); got != want {
			t.Errorf("%q: %v, want %v", text, got, want)
		}
	}
}

func TestParseHeader(t *testing.T) {
	h, ok := parseHeader([]byte("NATS/1.0\r\nA: 1\r\nB: 2\r\nA: 3\r\n\r\n"))
	if !ok || len(h) != 2 || !slices.Equal(h["A"], []string{"1", "3"}) {
		t.Errorf("header %v, %v", h, ok)
	}
	for _, bad := range []string{
		"", "NATS/1.0\r\n", "NATS/1.0\r\nA: 1\r\n", "NATS/1.0\r\nA:1\r\n\r\n", "NATS/1.0\r\nA: 1\nB: 2\r\n\r\n",
		"NATS/1.0\r\nA: 1\r\n\r\nB: 2\r\n\r\n", "NATS/1.0 404\r\n\r\n", "NATS/1.0\r\n: 1\r\n\r\n",
	} {
		if h, ok := parseHeader([]byte(bad)); ok {
			t.Errorf("%q was read as %v", bad, h)
		}
	}
}

func TestDisjoint(t *testing.T) {
	for _, c := range []struct{ in, want []string }{
		{[]string{"a.b"}, []string{"a.b"}},
		{[]string{"a.b", "a.b"}, []string{"a.b"}},
		{[]string{"a.*", "a.b", "c.d"}, []string{"a.*", "c.d"}},
		{[]string{"a.*.x", "a.b.>"}, []string{"a.*.>"}},
		{[]string{"a.*.x", "a.b.*"}, []string{"a.*.*"}},
		{[]string{">", "a.b"}, []string{">"}},
		{[]string{"ev.eu.a.U.S.st", "ev.eu.a.U.S.rev", "ev.eu.a.U.-.all", "ev.eu.a.-.-.all"},
			[]string{"ev.eu.a.-.-.all", "ev.eu.a.U.-.all", "ev.eu.a.U.S.rev", "ev.eu.a.U.S.st"}},
	} {
		got := disjoint(c.in)
		slices.Sort(got)
		if !slices.Equal(got, c.want) {
			t.Errorf("%v: %v, want %v", c.in, got, c.want)
		}
		for i := range got {
			for k := range i {
				if overlap(got[i], got[k]) {
					t.Errorf("%v: %v overlap", c.in, got)
				}
			}
		}
		for _, f := range c.in {
			if !slices.ContainsFunc(got, func(o string) bool { return within(f, o) }) {
				t.Errorf("%v: %s is in none of %v", c.in, f, got)
			}
		}
	}
}
