package subscribe_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/events/broker"
	"github.com/revocast/revocast/events/eventstest"
	"github.com/revocast/revocast/events/subscribe"
)

// The files of a region's server: as operators use it for two regions, and one
// without links to others. A server that may have leafnodes goes on for 2 s to
// deliver to who pulled and is gone.
const (
	linked = "../../deploy/nats/two-regions/eu.conf"
	alone  = "testdata/server.conf"
)

const (
	region = "eu"
	app    = "app" // the one whose account accounts.conf has
)

var users = []string{"SYS", "NODE", "OPERATOR", "SUBSCRIBER", "BACKBONE", "ROUTE"}

// site is one server with the log of a cluster.
type site struct {
	file string // of the server
	addr string
	leaf string // for leafnodes
	dir  string // of the store
	srv  *broker.Server
	env  []string
	// replicas is how many copies the streams have; 0 is 1.
	replicas int
	keys     *events.ClusterKeys
	node     *nats.Conn
	log      *events.JetStream
}

// newSite starts a server in this process, with the accounts as deployed.
func newSite(t testing.TB) *site { return siteOf(t, alone) }

func siteOf(t testing.TB, file string, env ...string) *site {
	t.Helper()
	s := &site{file: file, env: env}
	s.setUp(t, "1m")
	s.serve(t)
	s.begin(t)
	return s
}

// serve starts the server in this process.
func (s *site) serve(t testing.TB) {
	t.Helper()
	var err error
	if s.srv, err = startFile(s.file, s.env); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.srv.Close)
}

// environment is held while a server reads its own from that of the process.
var environment sync.Mutex

// inEnvironment calls what has a server read its configuration.
func inEnvironment(env []string, read func() error) error {
	environment.Lock()
	defer environment.Unlock()
	for _, e := range env {
		k, v, _ := strings.Cut(e, "=")
		if err := os.Setenv(k, v); err != nil {
			return err
		}
	}
	return read()
}

// startFile starts the server of a file with the environment.
func startFile(file string, env []string) (srv *broker.Server, err error) {
	err = inEnvironment(env, func() error {
		srv, err = broker.StartFile(broker.FileConfig{File: file})
		return err
	})
	return srv, err
}

// reload has the server read its file again.
func (s *site) reload(t testing.TB) {
	t.Helper()
	if err := inEnvironment(s.env, s.srv.Reload); err != nil {
		t.Fatal(err)
	}
}

// setUp chooses the environment of the server.
func (s *site) setUp(t testing.TB, sync string) {
	t.Helper()
	var addrs [2]string
	for i := range addrs {
		var err error
		if addrs[i], err = eventstest.FreeAddr(); err != nil {
			t.Fatal(err)
		}
	}
	s.addr, s.leaf = addrs[0], addrs[1]
	set := func(k, v string) { s.env = append(s.env, k+"="+v) }
	set("NATS_LISTEN", addrs[0])
	set("NATS_LEAF_LISTEN", addrs[1])
	set("NATS_SYNC", sync)
	s.dir = t.TempDir()
	set("NATS_STORE", s.dir)
	for _, u := range users {
		set("NATS_"+u+"_PASSWORD", "pw")
	}
}

// start runs the server in a process of its own until kill, which is -9.
func (s *site) start(t *testing.T) (kill func()) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(append(os.Environ(), childFile+"="+s.file), s.env...)
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
	kill = sync.OnceFunc(func() {
		_ = cmd.Process.Kill() // it may have ended already
		_ = cmd.Wait()         // "signal: killed"
		_ = stdin.Close()
	})
	t.Cleanup(kill)
	if line, err := bufio.NewReader(stdout).ReadString('\n'); err != nil || line != "ready\n" {
		t.Fatalf("the server said %q, %v", line, err)
	}
	return kill
}

// begin makes the streams and the app's durable.
func (s *site) begin(t testing.TB) {
	t.Helper()
	var err error
	if s.keys, err = events.NewClusterKeys(events.NewClusterKey()); err != nil {
		t.Fatal(err)
	}
	operator := s.connect(t, "operator", nil)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // an election
	defer cancel()
	err = events.CreateCluster(ctx, operator, events.ClusterConfig{
		Cluster: "c1", Region: region, Keys: s.keys, MaxBytes: 256 << 20, ConfigMaxBytes: 1 << 20, Replicas: s.replicas,
	})
	if err != nil {
		t.Fatal(err)
	}
	s.durable(t, "")
	s.node = s.connect(t, "node", nil)
	if s.log, err = events.Open(t.Context(), s.node, events.StreamConfig{Region: region}); err != nil {
		t.Fatal(err)
	}
}

func (s *site) durable(t testing.TB, name string) {
	t.Helper()
	c := events.SubscriberConfig{Region: region, App: app, Name: name}
	if err := events.CreateSubscriber(t.Context(), s.connect(t, "operator", nil), c); err != nil {
		t.Fatal(err)
	}
}

// connect connects as a user; denied hears what is refused.
func (s *site) connect(t testing.TB, user string, denied chan<- error) *nats.Conn {
	t.Helper()
	nc, err := events.Connect(events.ConnectConfig{URL: "nats://" + user + ":pw@" + s.addr, Name: t.Name(), OnError: func(err error) {
		if denied != nil && errors.Is(err, events.ErrDenied) {
			select {
			case denied <- err:
			default: // nobody listens any more
			}
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

// subscriber returns one with the permissions that are deployed.
func (s *site) subscriber(t testing.TB) *subscribe.Subscriber {
	return &subscribe.Subscriber{
		Conn: s.connect(t, "subscriber", nil), Region: region, App: app,
		OnError: func(err error) { t.Logf("overcome: %v", err) },
	}
}

// sid is a session of the region's stream.
func sid(i int) (s events.SID) {
	s[0] = 2
	copy(s[1:], fmt.Sprintf("%015d", i))
	return s
}

// message is the revocation of session i.
func (s *site) message(t testing.TB, of string, i int) events.Message {
	t.Helper()
	m, err := s.keys.Encode(region, &events.Revoke{
		App: of, User: "ada", SID: sid(i), Reason: fmt.Sprint(i), By: "admin", At: time.Now().UnixMilli(),
	}, nil, time.Hour)
	if err != nil {
		t.Error(err)
	}
	return m
}

// revoke revokes the n sessions from the given one on, by several writers at once,
// with revocations of another app between them. It returns the sequences that were
// acknowledged.
func (s *site) revoke(t testing.TB, from, n int) (seqs []uint64) {
	t.Helper()
	const writers = 64
	var mu sync.Mutex // guards seqs
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := from + w; i < from+n; i += writers {
				if i%3 == 0 {
					s.append(t, s.message(t, "other", i))
				}
				seq := s.append(t, s.message(t, app, i))
				mu.Lock()
				seqs = append(seqs, seq)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return seqs
}

func (s *site) append(t testing.TB, m events.Message) uint64 {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	seq, err := s.log.Append(ctx, m, events.Expectation{})
	if err != nil {
		t.Error(err)
	}
	return seq
}

// told is what a subscriber was told.
type told struct {
	mu   sync.Mutex // guards what follows
	all  []subscribe.Revocation
	when []time.Time
	news chan struct{}
}

func newTold() *told { return &told{news: make(chan struct{}, 1)} }

func (w *told) handle(_ context.Context, r subscribe.Revocation) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.all, w.when = append(w.all, r), append(w.when, time.Now())
	select {
	case w.news <- struct{}{}:
	default:
	}
	return nil
}

func (w *told) copied() []subscribe.Revocation {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.all)
}

// await returns once n were told.
func (w *told) await(t testing.TB, n int) []subscribe.Revocation {
	t.Helper()
	limit := time.NewTimer(time.Minute)
	defer limit.Stop()
	for {
		if all := w.copied(); len(all) >= n {
			return all
		}
		select {
		case <-w.news:
		case <-limit.C:
			t.Fatalf("%d were told, want %d", len(w.copied()), n)
		}
	}
}

// run runs the subscriber until stop, which returns its error.
func run(t testing.TB, s *subscribe.Subscriber, handle func(context.Context, subscribe.Revocation) error) (stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	var wg sync.WaitGroup
	wg.Go(func() { ended <- s.Run(ctx, handle) })
	stop = sync.OnceValue(func() error { cancel(); wg.Wait(); return <-ended })
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Errorf("run: %v", err)
		}
	})
	return stop
}

// wantOnce checks that sessions 0 to n-1 were told once each, soundly, and returns
// how many were late.
func wantOnce(t *testing.T, all []subscribe.Revocation, n int) (late int) {
	t.Helper()
	seen := map[events.SID]int{}
	for _, r := range all {
		seen[r.SID]++
	}
	for i := range n {
		if seen[sid(i)] != 1 {
			t.Errorf("session %d of %d was told %d times", i, n, seen[sid(i)])
		}
	}
	if len(all) != n {
		t.Errorf("%d were told, want %d", len(all), n)
	}
	return wantSound(t, all)
}

// wantSound checks what one run told: nothing twice, all in order but for those
// that say that they are late, with cursors that pass nothing untold.
func wantSound(t *testing.T, all []subscribe.Revocation) (late int) {
	t.Helper()
	var top, cursor uint64
	ahead := map[uint64]bool{} // told, and no cursor has passed them
	untold := make([]uint64, 0, len(all))
	for _, r := range all {
		untold = append(untold, r.Position.Seq)
	}
	slices.Sort(untold)
	for i, r := range all {
		if ahead[r.Position.Seq] || r.Position.Seq <= cursor {
			t.Fatalf("told as %d: %s a second time, or after the cursor passed it", i, r.Position)
		}
		ahead[r.Position.Seq] = true
		if r.Late != (r.Position.Seq < top) {
			t.Fatalf("told as %d: %s after %d, late %v", i, r.Position, top, r.Late)
		}
		if r.Late {
			late++
		}
		top = max(top, r.Position.Seq)
		if r.Cursor.Seq == 0 && cursor == 0 {
			continue // nothing before it was told by this Run
		}
		if r.Cursor.Seq < cursor {
			t.Fatalf("the cursor went from %d to %d", cursor, r.Cursor.Seq)
		}
		cursor = r.Cursor.Seq
		for len(untold) > 0 && untold[0] <= cursor {
			if !ahead[untold[0]] {
				t.Fatalf("cursor %s passes %d, which is not told yet", r.Cursor, untold[0])
			}
			delete(ahead, untold[0])
			untold = untold[1:]
		}
	}
	return late
}
