package bench

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/revocast/revocast/events"
)

// The region of a system that bench makes, its JetStream domain, and the region
// that is added to it.
const (
	region = "bench"
	domain = "bench"
	other  = "other"
)

// system is what is measured: a NATS server that holds the log, as deployed (each
// acknowledgement is on disk), and a node, as processes of their own.
type system struct {
	program  Program
	dir      string
	sessions int
	broker   *child
	node     *child
	keys     *events.ClusterKeys
	conn     *events.Conn
	log      *events.JetStream
	access   access
	// listen is where the node answers, nats where the server does, the same in
	// all their lives.
	listen, nats string
	loadedIn     time.Duration // by the log
	readIn       time.Duration // from the log, by the node
	fed          atomic.Int64  // sessions that were added while something was measured
	empty        int64         // memory of the node before it held sessions; 0: not known
}

// access is what bootstrap.json says.
type access struct {
	App    string `json:"app"`
	APIKey string `json:"api_key"`
	Admin  string `json:"admin_key"`
}

// brokerConfig is the configuration of the NATS server.
const brokerConfig = `server_name: bench
listen: %q
jetstream {
  store_dir: %q
  max_file: 1T
  sync_interval: %s
  domain: bench
}
ping_max: 2
`

// startTimeout bounds how long a process may take until it answers.
const startTimeout = 5 * time.Minute

// startSystem makes a server and a node below dir, and loads the sessions. The
// caller closes what is returned, also with an error.
//
// Sessions are written while no node follows and the server does not sync: that
// takes a tenth of the time. Before anything is measured the server begins
// another life, in which it syncs before each acknowledgement as deployed ones
// do, and the node reads what was written.
func startSystem(ctx context.Context, program Program, dir string, sessions int) (*system, error) {
	s := &system{program: program, dir: dir, sessions: sessions}
	err := s.make(ctx)
	if err == nil {
		begun := time.Now()
		err = s.load(ctx)
		s.loadedIn = time.Since(begun)
	}
	if err == nil {
		err = s.begin(ctx)
	}
	return s, err
}

// make makes the streams and the first keys.
func (s *system) make(ctx context.Context) (err error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if s.listen, err = freeAddr(); err != nil {
		return err
	}
	if s.nats, err = freeAddr(); err != nil {
		return err
	}
	if s.broker, err = startBroker(ctx, s.program, s.dir, s.nats, "1h"); err != nil {
		return err
	}
	size := strconv.FormatInt(s.budget(), 10)
	if err := s.startNode(ctx, "--init", "--replicas", "1", "--max-bytes", size); err != nil {
		return err
	}
	if s.empty, err = residentOf(s.node.pid()); err != nil && !errors.Is(err, errNoProc) {
		return err
	}
	if err := s.open(ctx); err != nil {
		return err
	}
	return s.node.end()
}

// budget is how many bytes a stream may take: far more than it will.
func (s *system) budget() int64 { return int64(s.sessions)*4096 + 512<<20 }

// addRegion makes the stream of another region and writes n sessions to it, and
// returns its number.
func (s *system) addRegion(ctx context.Context, n int) (uint8, error) {
	err := events.CreateCluster(ctx, s.conn, events.ClusterConfig{
		Cluster: s.log.Cluster(), Region: other, Keys: s.keys, MaxBytes: s.budget(), Join: domain,
	})
	if err != nil {
		return 0, err
	}
	log, err := events.Open(ctx, s.conn, events.StreamConfig{Region: other})
	if err != nil {
		return 0, err
	}
	return log.Number(), s.appendAll(ctx, other, n, func(i int) (events.Event, []byte) {
		return newSession(log.Number(), s.access.App, "other-"+strconv.Itoa(i*2/3), i, time.Now().UnixMilli())
	})
}

// begin begins the life of server and node in which they are measured.
func (s *system) begin(ctx context.Context) (err error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if err := s.broker.end(); err != nil {
		return err
	}
	if s.broker, err = startBroker(ctx, s.program, s.dir, s.nats, "always"); err != nil {
		return err
	}
	begun := time.Now()
	if err := s.startNode(ctx); err != nil {
		return err
	}
	if err := s.awaitSessions(ctx, s.listen); err != nil {
		return err
	}
	s.readIn = time.Since(begun)
	return nil
}

func startBroker(ctx context.Context, program Program, dir, listen, sync string) (*child, error) {
	file := filepath.Join(dir, "nats.conf")
	conf := fmt.Sprintf(brokerConfig, listen, filepath.Join(dir, "nats"), sync)
	if err := os.WriteFile(file, []byte(conf), 0o600); err != nil {
		return nil, fmt.Errorf("configure NATS server: %w", err)
	}
	b, err := program.start("broker", "--nats-config", file)
	if err != nil {
		return b, err
	}
	return b, b.await(ctx, welcomed)
}

// startNode starts a life of the node and returns once it is ready.
func (s *system) startNode(ctx context.Context, flags ...string) (err error) {
	if s.node, err = s.newNode("n1", s.listen, flags...); err != nil {
		return err
	}
	return s.node.await(ctx, welcomed)
}

// newNode starts the node of the name, which is not ready yet.
func (s *system) newNode(name, listen string, flags ...string) (*child, error) {
	args := append([]string{
		"serve", "--nats", s.broker.printed("address"), "--data", filepath.Join(s.dir, name), "--listen", listen,
		"--metrics-listen", "127.0.0.1:0", "--node", name, "--region", region,
		"--public-url", "https://sessions.example", "--log-level", "warn",
	}, flags...)
	if name != "n1" {
		args = append(args, "--cluster-key-file", filepath.Join(s.dir, "n1", "cluster.key"))
	}
	return s.program.start(args...)
}

// restart ends the node, which writes a snapshot, and begins its next life with
// the flags.
func (s *system) restart(ctx context.Context, flags ...string) error {
	if err := s.node.end(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	return s.startNode(ctx, flags...)
}

// open opens the log as a node does.
func (s *system) open(ctx context.Context) error {
	raw, err := os.ReadFile(filepath.Join(s.dir, "n1", "bootstrap.json"))
	if err == nil {
		err = json.Unmarshal(raw, &s.access)
	}
	if err != nil {
		return fmt.Errorf("read the first keys: %w", err)
	}
	if raw, err = os.ReadFile(filepath.Join(s.dir, "n1", "cluster.key")); err != nil {
		return fmt.Errorf("read cluster key: %w", err)
	}
	if s.keys, err = events.ParseClusterKeys(string(raw)); err != nil {
		return err
	}
	if s.conn, err = events.Connect(events.ConnectConfig{URL: s.broker.printed("address"), Name: "revocast bench"}); err != nil {
		return err
	}
	s.log, err = events.Open(ctx, s.conn, events.StreamConfig{Region: region})
	return err
}

// close ends all processes at once: nothing of them is wanted any more.
func (s *system) close() {
	if s.conn != nil {
		s.conn.Close()
	}
	s.node.kill()
	s.broker.kill()
}

// loaders is how many events are on their way at once in each of lanes while
// sessions are loaded. A lane commits them in batches of 500, one at a time.
const (
	loaders = 512
	lanes   = 2
)

// load writes the sessions to the log.
func (s *system) load(ctx context.Context) error {
	if err := s.appendAll(ctx, region, s.sessions, s.session); err != nil {
		return fmt.Errorf("load sessions: %w", err)
	}
	return nil
}

// session is the creation of session i. Three sessions have two users, but for
// those of the crowd.
func (s *system) session(i int) (events.Event, []byte) {
	user := "user-" + strconv.Itoa(i*2/3)
	if i >= s.revoked() && i < s.revoked()+s.crowded() {
		user = crowd
	}
	return newSession(s.log.Number(), s.access.App, user, i, time.Now().UnixMilli())
}

// revoked and crowded return how many sessions are for those scenarios.
func (s *system) revoked() int { return min(revokedMost, s.sessions/4) }
func (s *system) crowded() int { return min(crowdMost, s.sessions/4) }

// anySession draws one that stays good.
func (s *system) anySession() int {
	kept := s.revoked() + s.crowded()
	return kept + rand.IntN(s.sessions-kept)
}

// appendAll appends n events, many at a time.
func (s *system) appendAll(ctx context.Context, region string, n int, event func(i int) (events.Event, []byte)) error {
	logs := make([]*events.JetStream, min(lanes, n))
	for i := range logs {
		var err error
		if logs[i], err = events.Open(ctx, s.conn, events.StreamConfig{Region: region}); err != nil {
			return err
		}
	}
	g, ctx := errgroup.WithContext(ctx)
	var next atomic.Int64
	for i := range min(lanes*loaders, n) {
		g.Go(func() error {
			for {
				k := int(next.Add(1)) - 1
				if k >= n || ctx.Err() != nil {
					return nil
				}
				e, private := event(k)
				if err := s.append(ctx, logs[i%len(logs)], e, private); err != nil {
					return err
				}
			}
		})
	}
	return g.Wait()
}

func (s *system) append(ctx context.Context, log events.Log, e events.Event, private []byte) error {
	m, err := s.keys.Encode(log.Region(), e, private, sessionLife)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	_, err = log.Append(ctx, m, events.Expectation{})
	return err
}

const (
	// sessionLife is longer than any measurement.
	sessionLife = 48 * time.Hour
	// privateBytes is the size of the private part of each session.
	privateBytes = 225
	// revokedMost is how many of the first sessions the scenario "revoke" takes;
	// the next crowdMost are of one user, whom the scenario "tail" logs out
	// everywhere. Neither takes more than a quarter of all.
	revokedMost = 400
	crowdMost   = 100_000
	crowd       = "crowd"
)

// token returns the token of session i, the same each time.
func token(stream uint8, i int) events.Token {
	var seed [8]byte
	binary.BigEndian.PutUint64(seed[:], uint64(i))
	return events.TokenOf(stream, sha256.Sum256(append([]byte("revocast bench "), seed[:]...)))
}

// inOrder returns n tokens that draw returns, one behind the other in memory in
// the order in which they are used. A verify should miss the caches for its
// session, which is drawn at random, and not for the text of the token: that of a
// real request was just read from its connection.
func inOrder(n int, draw func() events.Token) []string {
	var b strings.Builder
	ends := make([]int, n)
	for i := range ends {
		b.WriteString(draw().Reveal())
		ends[i] = b.Len()
	}
	all, from := make([]string, n), 0
	for i, end := range ends {
		all[i], from = b.String()[from:end], end
	}
	return all
}

// newSession returns the creation of session i of the user, and its private part
// of 225 bytes.
func newSession(stream uint8, app, user string, i int, now int64) (*events.State, []byte) {
	t := token(stream, i)
	sid, _ := t.Key() // a token made here has the form of one
	p := events.Private{Token: t, Attributes: events.Attributes{IPAddress: "192.0.2.17", UserAgent: "Mozilla/5.0 (X11; Linux x86_64) Firefox/145.0"}}
	private, _ := json.Marshal(&p) // it holds nothing that cannot be written
	p.Attributes.UserAgent += strings.Repeat("x", max(0, privateBytes-len(private)))
	private, _ = json.Marshal(&p)
	return &events.State{
		App: app, User: user, SID: sid, Reason: events.ReasonCreated, CreatedAt: now, SeenAt: now,
		ExpiresAt: now + (sessionLife / 2).Milliseconds(), AbsoluteAt: now + sessionLife.Milliseconds(),
		Idle: 6 * 3600, AuthSeq: 1, By: "key_0123456789",
	}, private
}

// host is what requests say.
const host = "sessions.example"

func (s *system) verifyRequest(i int) []byte {
	return getVerify("/v1/verify", token(s.log.Number(), i).Reveal())
}

// getVerify is a verify of a token or a JWT by GET.
func getVerify(path, credential string) []byte {
	return fmt.Appendf(nil, "GET %s HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\n\r\n", path, host, credential)
}

// postJSON is a request with a body; an empty key is none.
func postJSON(path, key string, body any) []byte {
	text, _ := json.Marshal(body) // callers give what can be written
	var b bytes.Buffer
	fmt.Fprintf(&b, "POST %s HTTP/1.1\r\nHost: %s\r\n", path, host)
	if key != "" {
		fmt.Fprintf(&b, "Authorization: Bearer %s\r\n", key)
	}
	fmt.Fprintf(&b, "Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(text), text)
	return b.Bytes()
}

// call asks the node's API and reads the answer into out.
func (s *system) call(ctx context.Context, method, path, key string, body, out any) error {
	return callAt(ctx, s.listen, method, path, key, body, out)
}

func callAt(ctx context.Context, addr, method, path, key string, body, out any) error {
	text, err := json.Marshal(body)
	if err != nil {
		return err
	}
	r, err := http.NewRequestWithContext(ctx, method, "http://"+addr+path, bytes.NewReader(text))
	if err != nil {
		return err
	}
	r.Header.Set("Authorization", "Bearer "+key)
	r.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("%s %s: status %d: %s", method, path, resp.StatusCode, raw)
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(raw, out)
}

// errNotYet is what a probe returns that was answered, but not with 204.
var errNotYet = errors.New("not yet")

// probe sends one request and wants 204.
func probe(ctx context.Context, network, addr string, request []byte) error {
	d := net.Dialer{Timeout: time.Second}
	c, err := d.DialContext(ctx, network, addr)
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	status, err := newWire(c).do(request)
	if err == nil && status != http.StatusNoContent {
		return fmt.Errorf("%w: status %d", errNotYet, status)
	}
	return err
}

// until repeats what may fail for some time.
func until(ctx context.Context, limit time.Duration, try func() error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		err := try()
		if err == nil {
			return nil
		}
		if sleep(ctx, time.Millisecond) != nil {
			return err
		}
	}
}

// freeAddr returns an address on loopback that nobody listens on now. Its port is below
// those that systems give to outgoing connections (from 32768 on in Linux): one of these
// could be taken before the process that is told of it has started.
func freeAddr() (string, error) {
	for range 1000 {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", 12000+rand.IntN(20000)))
		if err == nil {
			return l.Addr().String(), l.Close()
		}
	}
	return "", errors.New("find a free port: tried 1000")
}
