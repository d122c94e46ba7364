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
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/revocast/revocast/events"
)

// region is the region of a system that bench makes.
const region = "bench"

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
	listen   string // of the node, the same in all its lives
	loadedIn time.Duration
	empty    int64 // memory of the node before it held sessions; 0: not known
}

// access is what bootstrap.json says.
type access struct {
	App    string `json:"app"`
	APIKey string `json:"api_key"`
	Admin  string `json:"admin_key"`
}

// brokerConfig is the configuration of the NATS server.
const brokerConfig = `server_name: bench
listen: "127.0.0.1:-1"
jetstream {
  store_dir: %q
  max_file: 1T
  sync_interval: %s
}
ping_max: 2
`

// startTimeout bounds how long a process may take until it answers.
const startTimeout = 5 * time.Minute

// startSystem starts server and node below dir. The caller closes what is
// returned, also with an error.
func startSystem(ctx context.Context, program Program, dir string, sessions int) (*system, error) {
	s := &system{program: program, dir: dir, sessions: sessions}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	var err error
	if s.broker, err = startBroker(ctx, program, dir, "always"); err != nil {
		return s, err
	}
	if s.listen, err = freeAddr(); err != nil {
		return s, err
	}
	size := strconv.Itoa(4*sessions/1000+512) + "MiB"
	if err := s.startNode(ctx, "--init", "--replicas", "1", "--max-bytes", size); err != nil {
		return s, err
	}
	return s, s.open(ctx)
}

func startBroker(ctx context.Context, program Program, dir, sync string) (*child, error) {
	file := filepath.Join(dir, "nats-"+sync+".conf")
	conf := fmt.Sprintf(brokerConfig, filepath.Join(dir, "nats-"+sync), sync)
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

// loaders is how many events are on their way at once while sessions are loaded:
// the log commits them in batches of 500.
const loaders = 1024

// load writes the sessions to the log, and returns once the node has them.
func (s *system) load(ctx context.Context) error {
	s.empty, _ = residentOf(s.node.pid()) // 0: it is not known
	begun := time.Now()
	if err := s.appendAll(ctx, s.sessions, func(i int) (events.Event, []byte) {
		return s.session(i)
	}); err != nil {
		return fmt.Errorf("load sessions: %w", err)
	}
	if s.sessions > 0 {
		last := s.verifyRequest(s.sessions - 1)
		if err := until(ctx, startTimeout, func() error { return probe(ctx, "tcp", s.listen, last) }); err != nil {
			return fmt.Errorf("wait for the node to have them: %w", err)
		}
	}
	s.loadedIn = time.Since(begun)
	return nil
}

// appendAll appends n events, many at a time.
func (s *system) appendAll(ctx context.Context, n int, event func(i int) (events.Event, []byte)) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	next := make(chan int)
	var working sync.WaitGroup
	for range min(loaders, n) {
		working.Go(func() {
			for i := range next {
				e, private := event(i)
				if err := s.append(ctx, e, private); err != nil {
					cancel(err)
				}
			}
		})
	}
	for i := range n {
		if ctx.Err() != nil {
			break
		}
		next <- i
	}
	close(next)
	working.Wait()
	return context.Cause(ctx)
}

func (s *system) append(ctx context.Context, e events.Event, private []byte) error {
	m, err := s.keys.Encode(region, e, private, sessionLife)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	_, err = s.log.Append(ctx, m, events.Expectation{})
	return err
}

const (
	// sessionLife is longer than any measurement.
	sessionLife = 48 * time.Hour
	// privateBytes is the size of the private part of each session.
	privateBytes = 225
	// crowd is the user who has many sessions, all logged out at once by the
	// scenario "tail"; crowdMost is how many at most.
	crowd     = "crowd"
	crowdMost = 100_000
)

// token returns the token of session i, the same each time.
func token(stream uint8, i int) events.Token {
	var seed [8]byte
	binary.BigEndian.PutUint64(seed[:], uint64(i))
	return events.TokenOf(stream, sha256.Sum256(append([]byte("revocast bench "), seed[:]...)))
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

// userOf returns the user of session i: three sessions have two users.
func userOf(i int) string { return "user-" + strconv.Itoa(i*2/3) }

func (s *system) session(i int) (events.Event, []byte) {
	return newSession(s.log.Number(), s.access.App, userOf(i), i, time.Now().UnixMilli())
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

// freeAddr returns an address on loopback that nobody listens on now.
func freeAddr() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("find a free port: %w", err)
	}
	defer l.Close()
	return l.Addr().String(), nil
}
