package node_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/events/broker"
	"github.com/revocast/revocast/node"
)

// realLog is a log on disk: an embedded broker with the streams of one region.
// It outlives the nodes that are started on it.
type realLog struct {
	t    testing.TB
	conf broker.Config
	// current is the broker of the moment; connections find a new one by it.
	current atomic.Pointer[broker.Broker]
	nc      *nats.Conn // of the nodes
	raw     *nats.Conn // of somebody who reaches NATS and holds no key
	keys    *events.ClusterKeys
	boot    node.Bootstrap

	// As tests read them; each node opens its own.
	settings, home *events.JetStream
}

// newRealLog makes a cluster. Zero budgets are large ones.
func newRealLog(t testing.TB, c broker.Config, budgets events.ClusterConfig) *realLog {
	t.Helper()
	if c.StoreDir == "" {
		c.StoreDir = t.TempDir()
	}
	l := &realLog{t: t, conf: c, boot: node.NewBootstrap("acme")}
	var err error
	if l.keys, err = events.NewClusterKeys(events.NewClusterKey()); err != nil {
		t.Fatal(err)
	}
	l.open()
	t.Cleanup(func() { l.broker().Close() })
	l.nc, l.raw = l.connect("nodes"), l.connect("stranger")
	budgets.Cluster, budgets.Region, budgets.Keys = "c1", "eu", l.keys
	if budgets.MaxBytes == 0 {
		budgets.MaxBytes = 1 << 30
	}
	if err := events.CreateCluster(t.Context(), l.nc, budgets); err != nil {
		t.Fatal(err)
	}
	l.settings, l.home = l.stream(events.ConfigRegion), l.stream("eu")
	return l
}

// open starts the broker, again after its Close.
func (l *realLog) open() {
	l.t.Helper()
	b, err := broker.Start(context.Background(), l.conf)
	if err != nil {
		l.t.Fatal(err)
	}
	l.current.Store(b)
}

func (l *realLog) broker() *broker.Broker { return l.current.Load() }

// InProcessConn implements [nats.InProcessConnProvider].
func (l *realLog) InProcessConn() (net.Conn, error) { return l.broker().InProcessConn() }

func (l *realLog) connect(name string) *nats.Conn {
	l.t.Helper()
	nc, err := l.broker().Connect(name, nats.InProcessServer(l))
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(nc.Close)
	return nc
}

func (l *realLog) stream(region string) *events.JetStream {
	l.t.Helper()
	s, err := events.Open(l.t.Context(), l.nc, events.StreamConfig{Region: region, Cluster: "c1"})
	if err != nil {
		l.t.Fatal(err)
	}
	return s
}

// diskOf is the store of the broker of the moment.
type diskOf struct{ l *realLog }

func (d diskOf) Check() error                      { return d.l.broker().Check() }
func (d diskOf) Probe(n int64) error               { return d.l.broker().Probe(n) }
func (d diskOf) Restart(ctx context.Context) error { return d.l.broker().Restart(ctx) }

// realNode is a node on a realLog. Its requests are those of harness.
type realNode struct {
	*harness
	log   *realLog
	lines *logLines
}

// newNode returns a node that does not run yet.
func (l *realLog) newNode(changes ...func(*node.Config)) (*node.Node, *logLines) {
	l.t.Helper()
	archive, err := events.OpenArchive(l.t.Context(), l.nc, events.ArchiveConfig{Region: "eu", Cluster: "c1"})
	if err != nil {
		l.t.Fatal(err)
	}
	lines := new(logLines)
	conf := node.Config{
		Name: "n1", Version: "test", PublicURL: publicURL,
		Settings: l.stream(events.ConfigRegion), Home: l.stream("eu"), Archive: archive, Keys: l.keys,
		Solo: true, Log: slog.New(lines), Disk: diskOf{l},
		Durability: func() string { return "fsync" },
	}
	for _, change := range changes {
		change(&conf)
	}
	n, err := node.New(conf)
	if err != nil {
		l.t.Fatal(err)
	}
	return n, lines
}

// start runs a new node until the test ends or stop is called, and waits until
// it is ready and has its first app.
func (l *realLog) start(t *testing.T, changes ...func(*node.Config)) *realNode {
	t.Helper()
	n, lines := l.newNode(changes...)
	h := &harness{
		t: t, node: n, handler: n.Handler(), keys: l.keys,
		app: l.boot.App, key: l.boot.APIKey, admin: l.boot.Admin,
	}
	h.stop = l.run(t, n)
	return &realNode{harness: h, log: l, lines: lines}
}

func (l *realLog) run(t testing.TB, n *node.Node) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := n.Run(ctx); err != nil {
			t.Errorf("run node: %v", err)
		}
	})
	stop = func() { cancel(); running.Wait() }
	t.Cleanup(stop)
	select {
	case <-n.Ready():
	case <-time.After(time.Minute):
		t.Fatal("node is not ready after a minute")
	}
	if err := n.Bootstrap(t.Context(), l.boot); err != nil {
		t.Fatalf("bootstrap: %v", err)
	}
	return stop
}

// fast makes leases short, for tests in which one has to run out.
func fast(c *node.Config) { c.Lease, c.Beat = 4*time.Second, 250*time.Millisecond }

// eventually waits until the condition holds.
func eventually(t testing.TB, within time.Duration, what string, holds func() bool) {
	t.Helper()
	poll := time.NewTicker(5 * time.Millisecond)
	defer poll.Stop()
	over := time.After(within)
	for !holds() {
		select {
		case <-poll.C:
		case <-over:
			t.Fatalf("not after %v: %s", within, what)
		}
	}
}

// member is a session with what its user holds.
type member struct {
	user, token, jwt string
	sid              events.SID
	revision         string
}

// enter creates a session of an hour.
func (n *realNode) enter(user string) member {
	n.t.Helper()
	r := n.do(n.key, "POST", "/v1/sessions", map[string]any{"user_id": user, "session_duration_minutes": 60}).want(http.StatusCreated)
	sid, err := events.ParseSID(r.str("session.session_id"))
	if err != nil {
		n.t.Fatal(err)
	}
	return member{user, r.str("session_token"), r.str("session_jwt"), sid, r.str("revision")}
}

// each calls do for each member from several goroutines.
func each(ms []member, workers int, do func(member)) {
	work := make(chan member)
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for m := range work {
				do(m)
			}
		})
	}
	for _, m := range ms {
		work <- m
	}
	close(work)
	wg.Wait()
}

// enterMany creates sessions of different users, 64 at a time.
func (n *realNode) enterMany(t *testing.T, count int) []member {
	t.Helper()
	made := make([]member, count)
	users := make([]member, count)
	for i := range users {
		users[i].user = fmt.Sprintf("user-%d", i)
	}
	each(users, 64, func(m member) {
		r := n.do(n.key, "POST", "/v1/sessions", map[string]any{"user_id": m.user, "session_duration_minutes": 60})
		i, _ := strconv.Atoi(strings.TrimPrefix(m.user, "user-"))
		sid, err := events.ParseSID(r.str("session.session_id"))
		if r.Status != http.StatusCreated || err != nil {
			t.Errorf("create: %d %v\n%s", r.Status, err, r.Raw)
			return
		}
		made[i] = member{m.user, r.str("session_token"), r.str("session_jwt"), sid, r.str("revision")}
	})
	if t.Failed() {
		t.FailNow()
	}
	return made
}

// subject returns the subject of the kind of event about the session.
func (m *member) subject(k events.Kind) string {
	return events.SessionSubject("eu", "acme", m.user, m.sid, k).String()
}

// verify returns the status of a verify and, with a 401 or 503, its reason.
func (n *realNode) verify(credential string) (status int, reason string) {
	r := httptest.NewRequest("GET", "/v1/verify", nil)
	r.Header.Set("Authorization", "Bearer "+credential)
	w := httptest.NewRecorder()
	n.handler.ServeHTTP(w, r)
	return w.Code, w.Header().Get("X-Session-Reason")
}

// wantVerdict fails unless token and JWT are both answered with the status.
func (n *realNode) wantVerdict(t *testing.T, m *member, status int) {
	t.Helper()
	for what, credential := range map[string]string{"token": m.token, "jwt": m.jwt} {
		if credential == "" {
			continue
		}
		if got, reason := n.verify(credential); got != status {
			t.Errorf("session of %s by %s: %d (%s), want %d", m.user, what, got, reason, status)
		}
	}
}

// probe verifies the credentials one after the other until stop is called,
// which returns how often each status came. Any status but the allowed ones
// fails the test.
func (n *realNode) probe(t *testing.T, what string, credentials []string, allowed ...int) (stop func() map[int]int) {
	t.Helper()
	done := make(chan struct{})
	var running sync.WaitGroup
	seen := map[int]int{}
	running.Go(func() {
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for i := 0; ; i++ {
			select {
			case <-tick.C:
			case <-done:
				return
			}
			status, reason := n.verify(credentials[i%len(credentials)])
			if seen[status]++; seen[status] == 1 && !oneOfStatus(status, allowed) {
				t.Errorf("%s: a verify was answered %d (%s), allowed are %v", what, status, reason, allowed)
			}
		}
	})
	var once sync.Once
	stop = func() map[int]int {
		once.Do(func() { close(done) })
		running.Wait()
		return seen
	}
	t.Cleanup(func() { stop() })
	return stop
}

func oneOfStatus(status int, allowed []int) bool {
	for _, a := range allowed {
		if a == status {
			return true
		}
	}
	return false
}

// credentials returns tokens and JWTs of the sessions.
func credentials(ms ...member) (all []string) {
	for _, m := range ms {
		all = append(all, m.token, m.jwt)
	}
	return all
}

// metric returns the sum of the series of a metric that have all the labels,
// each given as name="value".
func (n *realNode) metric(name string, labels ...string) (sum float64) {
	n.t.Helper()
	w := httptest.NewRecorder()
	n.node.Metrics().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	found := false
	for lines := bufio.NewScanner(w.Body); lines.Scan(); {
		series, value, _ := strings.Cut(lines.Text(), " ")
		got, rest, _ := strings.Cut(series, "{")
		if got != name {
			continue
		}
		if found = true; !hasAll(rest, labels) {
			continue
		}
		v, err := strconv.ParseFloat(value, 64)
		if err != nil {
			n.t.Fatalf("metric %s: %v", series, err)
		}
		sum += v
	}
	if !found {
		n.t.Fatalf("no metric %s", name)
	}
	return sum
}

func hasAll(text string, parts []string) bool {
	for _, p := range parts {
		if !strings.Contains(text, p) {
			return false
		}
	}
	return true
}

// position returns generation and sequence up to which the node has applied
// the stream.
func (n *realNode) position(stream string) (p events.Position) {
	n.t.Helper()
	r := n.do("", "GET", "/readyz", nil)
	streams, _ := r.JSON["streams"].([]any)
	for _, s := range streams {
		s := s.(map[string]any)
		if s["stream"] != stream {
			continue
		}
		p, err := parsePosition(s["position"].(string))
		if err != nil {
			n.t.Fatal(err)
		}
		return p
	}
	n.t.Fatalf("readyz says nothing of stream %s\n%s", stream, r.Raw)
	return p
}

func parsePosition(text string) (events.Position, error) {
	r, err := events.ParseRevision(text)
	if err != nil || len(r) != 1 {
		return events.Position{}, fmt.Errorf("%q is no position: %w", text, err)
	}
	return r[0], nil
}

// applied waits until the node has applied the sequence of the stream.
func (n *realNode) applied(stream string, seq uint64) {
	n.t.Helper()
	eventually(n.t, 10*time.Second, fmt.Sprintf("%s has applied %d", stream, seq), func() bool { return n.position(stream).Seq >= seq })
}

// ready reports whether the node holds all its leases.
func (n *realNode) ready() bool { return n.do("", "GET", "/readyz", nil).Status == http.StatusOK }

// logLines is a slog.Handler that counts what is logged at warning and above.
type logLines struct {
	mu      sync.Mutex // guards what follows
	count   map[string]int
	rebuilt []string // why a stream was read again
}

// Enabled implements [slog.Handler].
func (l *logLines) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelWarn }

// rebuilds returns why streams were read again, each time.
func (l *logLines) rebuilds() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.rebuilt)
}

// Handle implements [slog.Handler].
func (l *logLines) Handle(_ context.Context, r slog.Record) error {
	line, why := r.Message, ""
	r.Attrs(func(a slog.Attr) bool {
		switch a.Key {
		case "stream":
			line += " " + a.String()
		case "error":
			why = a.Value.String()
		}
		return true
	})
	l.mu.Lock()
	defer l.mu.Unlock()
	if r.Message == "stream is read again from its beginning" {
		l.rebuilt = append(l.rebuilt, why)
	}
	if l.count == nil {
		l.count = map[string]int{}
	}
	l.count[line]++
	if os.Getenv("REVOCAST_TEST_LOG") != "" {
		r.Attrs(func(a slog.Attr) bool { line += " " + a.String(); return true })
		fmt.Fprintln(os.Stderr, r.Time.Format("15:04:05.000"), r.Level, line)
	}
	return nil
}

// WithAttrs implements [slog.Handler].
func (l *logLines) WithAttrs([]slog.Attr) slog.Handler { return l }

// WithGroup implements [slog.Handler].
func (l *logLines) WithGroup(string) slog.Handler { return l }

// with returns how many lines begin with the text, by line.
func (l *logLines) with(prefix string) map[string]int {
	l.mu.Lock()
	defer l.mu.Unlock()
	found := map[string]int{}
	for line, n := range l.count {
		if strings.HasPrefix(line, prefix) {
			found[line] = n
		}
	}
	return found
}

// store writes straight into a stream, as anybody can who reaches NATS, and
// returns the sequence. It fails the test unless the stream takes it.
func (l *realLog) store(t testing.TB, subject string, payload []byte, header nats.Header) uint64 {
	t.Helper()
	seq, err := l.tryStore(subject, payload, header)
	if err != nil {
		t.Fatalf("store on %s: %v", subject, err)
	}
	return seq
}

func (l *realLog) tryStore(subject string, payload []byte, header nats.Header) (uint64, error) {
	resp, err := l.raw.RequestMsg(&nats.Msg{Subject: subject, Header: header, Data: payload}, 10*time.Second)
	if err != nil {
		return 0, err
	}
	var ack struct {
		Seq   uint64          `json:"seq"`
		Error json.RawMessage `json:"error"`
	}
	if err := json.Unmarshal(resp.Data, &ack); err != nil {
		return 0, err
	}
	if ack.Error != nil {
		return 0, fmt.Errorf("refused: %s", ack.Error)
	}
	return ack.Seq, nil
}

// replay stores an entry again, as it was.
func (l *realLog) replay(t testing.TB, m events.Message) uint64 {
	t.Helper()
	return l.store(t, m.Subject, m.Payload, headerOf(m))
}

func headerOf(m events.Message) nats.Header {
	h := nats.Header{"Revocast-Seal": {m.Seal}}
	if m.TTL != 0 {
		h["Nats-TTL"] = []string{strconv.FormatInt(int64(m.TTL/time.Second), 10)}
	}
	return h
}

// last returns what stands on the subject.
func (l *realLog) last(t testing.TB, subject string) (events.Entry, events.Record) {
	t.Helper()
	s := l.streamOf(subject)
	e, err := s.Last(t.Context(), subject)
	if err != nil {
		t.Fatal(err)
	}
	return e, l.keys.Decode(s.Number(), e)
}

func (l *realLog) streamOf(subject string) *events.JetStream {
	if strings.HasPrefix(subject, "ev."+events.ConfigRegion+".") {
		return l.settings
	}
	return l.home
}
