package events_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/events/broker"
)

// childFile names a configuration file, and makes this binary be its server.
const childFile = "REVOCAST_TEST_SERVER"

// child runs the server until its parent closes stdin, or dies.
func child(file string) int {
	s, err := broker.StartFile(broker.FileConfig{File: file})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer s.Close()
	fmt.Println("ready")
	_, _ = io.Copy(io.Discard, os.Stdin) // any end of it is the end
	return 0
}

// startChild runs the server of the deployed file in a process of its own and
// returns how to kill it with -9.
func startChild(t *testing.T, file string, env map[string]string) (kill func()) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childFile+"="+filepath.Join(deployed, file))
	for _, vars := range []map[string]string{passwords, env} {
		for k, v := range vars {
			cmd.Env = append(cmd.Env, k+"="+v)
		}
	}
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var once sync.Once
	kill = func() {
		once.Do(func() {
			_ = cmd.Process.Kill() // it may have ended already
			_ = cmd.Wait()         // "signal: killed"
			_ = stdin.Close()
		})
	}
	t.Cleanup(kill)
	if line, err := bufio.NewReader(stdout).ReadString('\n'); err != nil || line != "ready\n" {
		t.Fatalf("server %s said %q, %v", env["NATS_NAME"], line, err)
	}
	return kill
}

// witness follows the stream on one connection and remembers what it was given.
type witness struct {
	mu   sync.Mutex // guards what follows
	seqs []uint64
	at   map[uint64]string // sequence to subject
}

func (w *witness) apply(e events.Entry) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.seqs = append(w.seqs, e.Seq)
	w.at[e.Seq] = e.Subject
	return nil
}

func (w *witness) last() uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.seqs) == 0 {
		return 0
	}
	return w.seqs[len(w.seqs)-1]
}

// writers append at once until they are stopped, and remember each
// acknowledgement.
type writers struct {
	stop chan struct{}
	wg   sync.WaitGroup

	mu    sync.Mutex // guards what follows
	acked map[uint64]string
	times []time.Time
}

func (w *writers) run(t *testing.T, keys *events.ClusterKeys, logs []*events.JetStream, seed uint64, n int) {
	for i := range n {
		w.wg.Go(func() {
			r := rand.New(rand.NewPCG(seed, uint64(i)))
			for k := 0; ; k++ {
				select {
				case <-w.stop:
					return
				default:
				}
				m := benchMessage(t, keys, k)
				m.Subject, m.TTL = fmt.Sprintf("ev.eu.app.u%d.s%d.rev", i, k), 0
				ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
				seq, err := logs[r.IntN(len(logs))].Append(ctx, m, events.Expectation{})
				cancel()
				if err != nil {
					t.Errorf("seed %d: writer %d: %v", seed, i, err)
					return
				}
				w.mu.Lock()
				w.acked[seq] = m.Subject
				w.times = append(w.times, time.Now())
				w.mu.Unlock()
			}
		})
	}
}

func (w *writers) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.times)
}

func (w *writers) copy() map[uint64]string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return maps.Clone(w.acked)
}

// await returns once the condition holds.
func await(t *testing.T, what string, holds func() bool) {
	t.Helper()
	begun := time.Now()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		if time.Since(begun) > time.Minute {
			t.Fatalf("no %s within a minute", what)
		}
		<-tick.C
	}
}

// TestLeaderKilled kills the leader of a stream with -9 under load, again and
// again: nothing that was acknowledged is lost, and each follower, one on each
// server, is given all of it in order and once.
func TestLeaderKilled(t *testing.T) {
	if testing.Short() {
		t.Skip("NOT TESTED with -short: three server processes, and elections of several seconds")
	}
	const rounds, load, each = 2, 8, 400
	envs := region3(t)
	kill := map[string]func(){}
	var addrs []string
	for _, env := range envs {
		kill[env["NATS_NAME"]] = startChild(t, "region3/server.conf", env)
		addrs = append(addrs, env["NATS_LISTEN"])
	}
	operator, keys := as(t, "operator", nil, addrs...), newKeys(t)
	awaitMeta(t, operator)
	err := events.CreateCluster(patient(t), operator, events.ClusterConfig{
		Cluster: "c1", Region: "eu", Keys: keys, MaxBytes: 256 << 20, ConfigMaxBytes: 1 << 20, Replicas: 3,
	})
	if err != nil {
		t.Fatal(err)
	}

	ctx, cancel := context.WithCancel(t.Context())
	var followers sync.WaitGroup
	defer followers.Wait()
	defer cancel()
	var logs []*events.JetStream
	var witnesses []*witness
	for _, addr := range addrs {
		log, err := events.Open(patient(t), as(t, "node", nil, addr), events.StreamConfig{Region: "eu"})
		if err != nil {
			t.Fatal(err)
		}
		w := &witness{at: map[uint64]string{}}
		logs, witnesses = append(logs, log), append(witnesses, w)
		followers.Go(func() {
			if err := log.Follow(ctx, events.Follow{Apply: w.apply}); err != nil {
				t.Errorf("follow on %s: %v", addr, err)
			}
		})
	}

	seed := rand.Uint64()
	w := &writers{stop: make(chan struct{}), acked: map[uint64]string{}}
	w.run(t, keys, logs, seed, load)
	stop := sync.OnceFunc(func() { close(w.stop); w.wg.Wait() })
	defer stop()
	for round := range rounds {
		before := w.count()
		await(t, "load", func() bool { return w.count() > before+each })
		leader := steady(t, operator)
		i := slices.IndexFunc(envs, func(e map[string]string) bool { return e["NATS_NAME"] == leader })
		killed := time.Now()
		kill[leader]()
		readAll(t, keys, slices.Delete(slices.Clone(logs), i, i+1), w.copy())
		await(t, "acknowledgement from after the election", func() bool {
			w.mu.Lock()
			defer w.mu.Unlock()
			return len(w.times) > each && w.times[len(w.times)-each].After(killed.Add(time.Second))
		})
		kill[leader] = startChild(t, "region3/server.conf", envs[i])
		t.Logf("round %d: leader %s killed, %d acknowledged so far, %v without acknowledgements", round+1, leader, w.count(), w.pause())
	}
	stop()

	for i, f := range witnesses {
		last := slices.Max(slices.Collect(maps.Keys(w.acked)))
		await(t, fmt.Sprintf("acknowledged end on server %d", i+1), func() bool { return f.last() >= last })
		f.mu.Lock()
		if !slices.IsSorted(f.seqs) || len(slices.Compact(slices.Clone(f.seqs))) != len(f.seqs) {
			t.Errorf("seed %d: the follower on server %d was given events out of order or twice", seed, i+1)
		}
		lost := 0
		for seq, subject := range w.acked {
			if f.at[seq] != subject {
				lost++
			}
		}
		if lost > 0 {
			t.Errorf("seed %d: of %d acknowledged events the follower on server %d was given %d otherwise or never", seed, len(w.acked), i+1, lost)
		}
		f.mu.Unlock()
	}
	t.Logf("%d acknowledged, in %d events", len(w.times), len(w.acked))
	readAll(t, keys, logs, w.acked)
}

// readAll reads what was acknowledged once more, from each server, of which some are
// behind the others and none may lead: nobody is told less.
func readAll(t *testing.T, keys *events.ClusterKeys, logs []*events.JetStream, acked map[uint64]string) {
	t.Helper()
	last := slices.Max(slices.Collect(maps.Keys(acked)))
	m, err := keys.Encode("eu", &events.Beat{Node: "n1", Incarnation: events.NewIncarnation(), N: 1, Keys: keys.IDs()}, nil, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := logs[0].Append(patient(t), m, events.Expectation{}); err != nil {
		t.Fatal(err)
	}
	for i, log := range logs {
		got := map[uint64]string{}
		err := log.Read(patient(t), events.Range{To: last, Filters: []string{"ev.eu.app.*.*.rev", "ev.eu.other.*.*.rev"}}, func(e events.Entry) bool {
			got[e.Seq] = e.Subject
			return true
		})
		if err != nil {
			t.Fatalf("read of log %d: %v", i+1, err)
		}
		for seq, subject := range acked {
			if got[seq] != subject {
				t.Fatalf("read of log %d: of %d acknowledged events %d were read, and not %d", i+1, len(acked), len(got), seq)
			}
		}
	}
}

// pause returns the longest time between two acknowledgements.
func (w *writers) pause() (longest time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := 1; i < len(w.times); i++ {
		longest = max(longest, w.times[i].Sub(w.times[i-1]))
	}
	return longest.Round(time.Millisecond)
}

// steady returns the leader of EV_eu once all its copies are up to date: with
// one of three still catching up, a kill would leave no quorum.
func steady(t *testing.T, nc *nats.Conn) (leader string) {
	t.Helper()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	await(t, "stream with all copies", func() bool {
		s, err := js.Stream(t.Context(), "EV_eu")
		if err != nil {
			return false
		}
		c := s.CachedInfo().Cluster
		if c == nil || c.Leader == "" || len(c.Replicas) != 2 {
			return false
		}
		leader = c.Leader
		return !slices.ContainsFunc(c.Replicas, func(p *jetstream.PeerInfo) bool { return !p.Current || p.Offline })
	})
	return leader
}
