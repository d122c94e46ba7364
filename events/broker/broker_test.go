package broker_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"github.com/revocast/revocast/events/broker"
)

// childDir names the store directory of the process that TestKillReleasesStore
// starts, and makes this binary be that process.
const childDir = "REVOCAST_TEST_BROKER_CHILD"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		if err := child(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

// start runs a broker that is closed when the test ends, after its clients.
func start(t *testing.T, c broker.Config) *broker.Broker {
	t.Helper()
	if c.StoreDir == "" {
		c.StoreDir = t.TempDir()
	}
	b, err := broker.Start(t.Context(), c)
	if err != nil {
		t.Fatalf("Start: %v", err)
	}
	t.Cleanup(b.Close)
	return b
}

// connect opens a client that is closed when the test ends.
func connect(t *testing.T, b *broker.Broker, opts ...nats.Option) (*nats.Conn, jetstream.JetStream) {
	t.Helper()
	nc, err := b.Connect(t.Name(), opts...)
	if err != nil {
		t.Fatalf("Connect: %v", err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatalf("jetstream.New: %v", err)
	}
	return nc, js
}

func createStream(t *testing.T, js jetstream.JetStream) {
	t.Helper()
	_, err := js.CreateStream(t.Context(), jetstream.StreamConfig{
		Name: "EV", Subjects: []string{"ev.>"}, Storage: jetstream.FileStorage,
		AllowDirect: true, AllowAtomicPublish: true,
	})
	if err != nil {
		t.Fatalf("CreateStream: %v", err)
	}
}

func publish(t *testing.T, js jetstream.JetStream, subject, data string) uint64 {
	t.Helper()
	ack, err := js.Publish(t.Context(), subject, []byte(data))
	if err != nil {
		t.Fatalf("Publish %s: %v", subject, err)
	}
	return ack.Sequence
}

func wantMsg(t *testing.T, js jetstream.JetStream, seq uint64, data string) {
	t.Helper()
	s, err := js.Stream(t.Context(), "EV")
	if err != nil {
		t.Fatalf("Stream: %v", err)
	}
	m, err := s.GetMsg(t.Context(), seq)
	if err != nil {
		t.Fatalf("GetMsg %d: %v", seq, err)
	}
	if string(m.Data) != data {
		t.Fatalf("GetMsg %d = %q, want %q", seq, m.Data, data)
	}
}

// await fails the test when ch stays silent.
func await(t *testing.T, ch <-chan struct{}, what string) {
	t.Helper()
	select {
	case <-ch:
	case <-time.After(20 * time.Second):
		t.Fatalf("no %s within 20s", what)
	}
}

// signal is a handler and the channel it closes at its first call.
func signal() (func(), <-chan struct{}) {
	ch := make(chan struct{})
	var once sync.Once
	return func() { once.Do(func() { close(ch) }) }, ch
}

func TestRestartKeepsMessagesAndClients(t *testing.T) {
	b := start(t, broker.Config{Name: "embedded", Domain: "eu"})
	fire, reconnected := signal()
	nc, js := connect(t, b, nats.ReconnectHandler(func(*nats.Conn) { fire() }))
	createStream(t, js)
	seq := publish(t, js, "ev.a", "before")
	if got := nc.ConnectedServerName(); got != "embedded" {
		t.Errorf("server name = %q, want embedded", got)
	}
	info, err := js.AccountInfo(t.Context())
	if err != nil || info.Domain != "eu" {
		t.Errorf("AccountInfo = %+v, %v; want domain eu", info, err)
	}
	server := nc.ConnectedServerId()

	if err := b.Restart(t.Context()); err != nil {
		t.Fatalf("Restart: %v", err)
	}
	await(t, reconnected, "reconnect")
	if nc.ConnectedServerId() == server {
		t.Error("the client is on the server that was shut down")
	}
	wantMsg(t, js, seq, "before")
	if next := publish(t, js, "ev.b", "after"); next != seq+1 {
		t.Errorf("sequence after restart = %d, want %d", next, seq+1)
	}
	wantMsg(t, js, seq+1, "after")
}

func TestReopenAfterClose(t *testing.T) {
	dir := t.TempDir()
	b := start(t, broker.Config{StoreDir: dir})
	nc, js := connect(t, b)
	createStream(t, js)
	seq := publish(t, js, "ev.a", "kept")
	nc.Close()
	b.Close()
	b.Close() // idempotent

	if err := b.Restart(t.Context()); err == nil {
		t.Error("Restart after Close succeeded")
	}
	if err := b.Check(); err == nil {
		t.Error("Check after Close succeeded")
	}
	if err := b.Probe(1); err == nil {
		t.Error("Probe after Close succeeded")
	}
	if _, err := b.InProcessConn(); err == nil {
		t.Error("InProcessConn after Close succeeded")
	}
	if b.SyncAlways() {
		t.Error("SyncAlways after Close is true")
	}

	b = start(t, broker.Config{StoreDir: dir})
	_, js = connect(t, b)
	wantMsg(t, js, seq, "kept")
}

// A publish that nobody can take must fail at once: the caller is told that
// the event is not committed, and it must not be committed later.
func TestPublishWithoutServerFails(t *testing.T) {
	b := start(t, broker.Config{})
	fire, gone := signal()
	nc, _ := connect(t, b, nats.DisconnectErrHandler(func(*nats.Conn, error) { fire() }))
	b.Close()
	await(t, gone, "disconnect")
	if err := nc.Publish("ev.a", []byte("x")); !errors.Is(err, nats.ErrReconnectBufExceeded) {
		t.Errorf("Publish = %v, want %v", err, nats.ErrReconnectBufExceeded)
	}
}

func TestFailedRestartCanBeRepeated(t *testing.T) {
	dir := t.TempDir()
	b := start(t, broker.Config{StoreDir: dir})
	_, js := connect(t, b)
	createStream(t, js)
	seq := publish(t, js, "ev.a", "kept")

	done, cancel := context.WithCancel(t.Context())
	cancel()
	if err := b.Restart(done); !errors.Is(err, context.Canceled) {
		t.Fatalf("Restart with a done context = %v", err)
	}
	if err := b.Check(); err != nil {
		t.Fatalf("Check after a restart that never began: %v", err)
	}

	store, aside := filepath.Join(dir, "jetstream"), filepath.Join(dir, "aside")
	if err := os.Rename(store, aside); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(store, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := b.Restart(t.Context()); err == nil || !strings.Contains(err.Error(), "not a directory") {
		t.Fatalf("Restart on a file = %v", err)
	}
	if err := b.Check(); err == nil {
		t.Error("Check succeeds without a server")
	}
	if _, err := broker.Start(t.Context(), broker.Config{StoreDir: dir}); err == nil {
		t.Error("the store was unlocked by a failed Restart")
	}
	if err := errors.Join(os.Remove(store), os.Rename(aside, store)); err != nil {
		t.Fatal(err)
	}
	if err := b.Restart(t.Context()); err != nil {
		t.Fatalf("Restart: %v", err)
	}
	_, js = connect(t, b)
	wantMsg(t, js, seq, "kept")
}

func TestListen(t *testing.T) {
	b := start(t, broker.Config{Listen: "127.0.0.1:0"})
	url := b.ClientURL()
	fire, reconnected := signal()
	nc, err := nats.Connect(url, nats.MaxReconnects(-1), nats.ReconnectWait(10*time.Millisecond),
		nats.ReconnectHandler(func(*nats.Conn) { fire() }))
	if err != nil {
		t.Fatalf("Connect %s: %v", url, err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	createStream(t, js)
	publish(t, js, "ev.a", "x")

	if err := b.Restart(t.Context()); err != nil {
		t.Fatalf("Restart: %v", err)
	}
	if b.ClientURL() != url {
		t.Errorf("ClientURL after Restart = %s, want %s", b.ClientURL(), url)
	}
	await(t, reconnected, "reconnect over TCP")
	publish(t, js, "ev.a", "y")
}

func TestStartRefuses(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	used := start(t, broker.Config{}).StoreDir()
	done, cancel := context.WithCancel(t.Context())
	cancel()

	for _, tc := range []struct {
		name string
		ctx  context.Context
		c    broker.Config
		want []string
	}{
		{"no directory", nil, broker.Config{}, []string{"StoreDir"}},
		{"directory in use", nil, broker.Config{StoreDir: used}, []string{used, "in use"}},
		{"file in its place", nil, broker.Config{StoreDir: file}, []string{file, "not a directory"}},
		{"below a file", nil, broker.Config{StoreDir: filepath.Join(file, "x")}, []string{file, "not a directory"}},
		{"port taken", nil, broker.Config{StoreDir: t.TempDir(), Listen: taken.Addr().String()},
			[]string{taken.Addr().String(), "address already in use"}},
		{"no port", nil, broker.Config{StoreDir: t.TempDir(), Listen: "localhost"}, []string{"localhost", "missing port"}},
		{"port out of range", nil, broker.Config{StoreDir: t.TempDir(), Listen: "localhost:70000"}, []string{"70000"}},
		{"name with a space", nil, broker.Config{StoreDir: t.TempDir(), Name: "a b"}, []string{"name"}},
		{"context done", done, broker.Config{StoreDir: t.TempDir()}, []string{context.Canceled.Error()}},
		{"cluster member's store", nil, broker.Config{StoreDir: clusterStore(t)}, []string{"cluster"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			ctx := tc.ctx
			if ctx == nil {
				ctx = t.Context()
			}
			b, err := broker.Start(ctx, tc.c)
			if err == nil {
				b.Close()
				t.Fatal("Start succeeded")
			}
			for _, w := range tc.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("error %q does not mention %q", err, w)
				}
			}
			// A refusal must not leave the store locked.
			if tc.name == "port taken" {
				start(t, broker.Config{StoreDir: tc.c.StoreDir})
			}
		})
	}
}

// clusterStore is a directory on which a cluster member has run.
func clusterStore(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	s, err := server.NewServer(&server.Options{
		ServerName: "member", JetStream: true, StoreDir: dir, Host: "127.0.0.1", Port: -1, NoSigs: true, NoLog: true,
		Cluster: server.ClusterOpts{Name: "c", Host: "127.0.0.1", Port: -1},
		Routes:  server.RoutesFromStr("nats://127.0.0.1:1"),
	})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	s.Shutdown()
	s.WaitForShutdown()
	return dir
}

func TestSyncAlways(t *testing.T) {
	b := start(t, broker.Config{})
	if !b.SyncAlways() {
		t.Error("SyncAlways = false by default")
	}
	if err := b.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !b.SyncAlways() {
		t.Error("SyncAlways = false after Restart")
	}
	if start(t, broker.Config{Lazy: true}).SyncAlways() {
		t.Error("SyncAlways = true although Lazy")
	}
}

// lockedBuffer is a bytes.Buffer for several writers.
type lockedBuffer struct {
	mu sync.Mutex // guards b
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func TestLogBridge(t *testing.T) {
	var out lockedBuffer
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	log := slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug}))
	if _, err := broker.Start(t.Context(), broker.Config{StoreDir: t.TempDir(), Listen: taken.Addr().String(), Log: log}); err == nil {
		t.Fatal("Start on a taken port succeeded")
	}
	for _, want := range []string{"level=DEBUG msg=nats-server text=\"Starting nats-server\"", "level=ERROR msg=nats-server text=\"Error listening on port"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("log lacks %s:\n%s", want, out.String())
		}
	}
}

func TestMaxStore(t *testing.T) {
	for _, tc := range []struct {
		name  string
		max   int64
		bytes int64
		ok    bool
	}{
		{"given, fits", 1 << 20, 1 << 20, true},
		{"given, too much", 1 << 20, 1<<20 + 1, false},
		{"default, half of the free space fits", 0, -2, true},
		{"default, all of the free space does not", 0, -1, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := start(t, broker.Config{MaxStore: tc.max})
			free, err := b.FreeBytes()
			if err != nil || free == 0 {
				t.Fatalf("FreeBytes = %d, %v", free, err)
			}
			bytes := tc.bytes
			if bytes < 0 {
				bytes = int64(free) / -bytes
			}
			_, js := connect(t, b)
			_, err = js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"s"}, MaxBytes: bytes})
			if (err == nil) != tc.ok {
				t.Errorf("stream with MaxBytes %d of %d free: %v", bytes, free, err)
			}
		})
	}
}

// A disk that others have filled lowers the default limit at the next start.
// Streams that reserved more than it must still be there and take writes.
func TestStreamsOutliveSmallerMaxStore(t *testing.T) {
	dir := t.TempDir()
	b := start(t, broker.Config{StoreDir: dir, MaxStore: 20 << 20})
	_, js := connect(t, b)
	cfg := jetstream.StreamConfig{Name: "EV", Subjects: []string{"ev.>"}, MaxBytes: 10 << 20}
	if _, err := js.CreateStream(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	seq := publish(t, js, "ev.a", "kept")
	b.Close()

	b = start(t, broker.Config{StoreDir: dir, MaxStore: 5 << 20})
	_, js = connect(t, b)
	if err := b.Check(); err != nil {
		t.Errorf("Check: %v", err)
	}
	wantMsg(t, js, seq, "kept")
	publish(t, js, "ev.b", "new")
	// Creating and updating are refused, even where nothing more is reserved:
	// callers look an existing stream up instead of creating it again.
	_, created := js.CreateStream(t.Context(), cfg)
	_, updated := js.UpdateStream(t.Context(), cfg)
	for what, err := range map[string]error{"CreateStream": created, "UpdateStream": updated} {
		if api, ok := errors.AsType[*jetstream.APIError](err); !ok || api.ErrorCode != 10047 {
			t.Errorf("%s, unchanged = %v, want err_code 10047", what, err)
		}
	}
}

func TestProbe(t *testing.T) {
	b := start(t, broker.Config{})
	for _, n := range []int64{1, 64 << 10, 200_001} {
		if err := b.Probe(n); err != nil {
			t.Errorf("Probe(%d): %v", n, err)
		}
	}
	for _, n := range []int64{0, -1} {
		if err := b.Probe(n); err == nil {
			t.Errorf("Probe(%d) succeeded", n)
		}
	}
	left, err := os.ReadDir(b.StoreDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range left {
		if e.Name() != "jetstream" && e.Name() != "LOCK" {
			t.Errorf("%s is left in the store directory", e.Name())
		}
	}
}

func TestConcurrentUse(t *testing.T) {
	b := start(t, broker.Config{Lazy: true})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 20 {
				if c, err := b.InProcessConn(); err == nil {
					_ = c.Close()
				}
				_, _ = b.SyncAlways(), b.Check()
				if err := b.Probe(10); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for range 3 {
		if err := b.Restart(t.Context()); err != nil {
			t.Error(err)
		}
	}
	wg.Wait()
	for range 3 {
		wg.Go(b.Close)
	}
	wg.Wait()
}

const childMsgs = 10

// child publishes childMsgs messages, says so and waits to be killed.
func child(dir string) error {
	ctx := context.Background()
	b, err := broker.Start(ctx, broker.Config{StoreDir: dir})
	if err != nil {
		return err
	}
	defer b.Close()
	nc, err := b.Connect("child")
	if err != nil {
		return err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	if _, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: "EV", Subjects: []string{"ev.>"}}); err != nil {
		return err
	}
	for i := range childMsgs {
		if _, err := js.Publish(ctx, "ev.a", fmt.Append(nil, i)); err != nil {
			return err
		}
	}
	fmt.Println("ready")
	// Ends, too, when the parent dies without killing it.
	_, err = bufio.NewReader(os.Stdin).ReadByte()
	return err
}

func TestKillReleasesStore(t *testing.T) {
	dir := t.TempDir()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childDir+"="+dir)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, readErr := bufio.NewReader(stdout).ReadString('\n')
	_, startErr := broker.Start(t.Context(), broker.Config{StoreDir: dir})
	if err := cmd.Process.Kill(); err != nil {
		t.Error(err)
	}
	if err := cmd.Wait(); err == nil {
		t.Error("the child ended by itself")
	}
	if line != "ready\n" {
		t.Fatalf("child said %q, %v", line, readErr)
	}
	if startErr == nil || !strings.Contains(startErr.Error(), dir) {
		t.Fatalf("Start beside a living process = %v, want an error that names %s", startErr, dir)
	}

	_, js := connect(t, start(t, broker.Config{StoreDir: dir}))
	for i := range childMsgs {
		wantMsg(t, js, uint64(i+1), fmt.Sprint(i))
	}
}

// Only the server publishes to live.: a follower believes what comes there.
func TestNobodyPublishesLive(t *testing.T) {
	b := start(t, broker.Config{Listen: "127.0.0.1:0"})
	local, js := connect(t, b)
	_, err := js.CreateStream(t.Context(), jetstream.StreamConfig{
		Name: "EV", Subjects: []string{"ev.>"}, RePublish: &jetstream.RePublish{Source: "ev.>", Destination: "live.>"},
	})
	if err != nil {
		t.Fatal(err)
	}
	live, err := local.SubscribeSync("live.>")
	if err != nil {
		t.Fatal(err)
	}
	refused := make(chan error, 8)
	note := nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { refused <- err })
	remote, err := nats.Connect(b.ClientURL(), note)
	if err != nil {
		t.Fatal(err)
	}
	defer remote.Close()
	inside, _ := connect(t, b, note)
	for name, nc := range map[string]*nats.Conn{"in process": inside, "by its port": remote} {
		if err := nc.Publish("live.a", []byte("forged")); err != nil {
			t.Fatal(err)
		}
		if err := nc.Flush(); err != nil {
			t.Fatal(err)
		}
		if err := <-refused; !errors.Is(err, nats.ErrPermissionViolation) {
			t.Errorf("%s: publish to live. = %v, want a permissions violation", name, err)
		}
	}
	publish(t, js, "ev.a", "stored")
	m, err := live.NextMsgWithContext(t.Context())
	if err != nil || string(m.Data) != "stored" {
		t.Errorf("live. carries %v, %v; want what was stored", m, err)
	}
}
