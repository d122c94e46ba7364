// Package broker runs a nats-server inside the process: one standalone server
// with JetStream on one store directory, by default with no listening port at
// all, and with every append fsynced before it is acknowledged.
//
// How a dead stream shows itself (nats-server v2.15.2, held by
// TestFullDiskKillsStreamUntilRestart). After a disk-full or other write error
// the server keeps the error in memory and never writes to that stream again,
// however much room there is, until it is restarted. A publisher of a single
// message is told nothing: there is no PubAck and no error, the request runs
// into its own deadline (context.DeadlineExceeded; nats.ErrTimeout from the
// core Request), while stream info and reads go on answering. An atomic batch
// is answered 503, err_code 10176 "batch publish is incomplete" as long as the
// disk is full, because staging it fails; with room again it stages, its commit
// dies on the same stored error, and it times out as well. Do not mistake these
// for a live stream that refuses: 503/10077 "maximum bytes exceeded" (MaxBytes)
// and 503/10023 "insufficient resources" (Config.MaxStore) are answers. The
// cure for a dead stream is Check (says that it is dead, and of what), Probe
// (says that the disk takes writes again), Restart.
package broker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// Config says where and how a Broker runs.
type Config struct {
	// StoreDir is the directory of the log, created (0700) when absent. One
	// process at a time may use it. Required.
	StoreDir string

	// Name is the server's name as clients see it, without spaces. Default: a
	// random one.
	Name string

	// Domain is the JetStream domain, one per region. Empty means none.
	Domain string

	// MaxStore is what all file streams together may hold, in bytes
	// (JetStream's max_file): at it every publish is refused (err_code 10023).
	// While the sum of the streams' MaxBytes exceeds it, streams can be neither
	// created (not even again, unchanged) nor updated (10047); those that exist
	// go on. Default: what the store holds plus nine tenths of the free space,
	// measured at each start, so that what was stored once always fits.
	MaxStore int64

	// Listen is the host:port for clients outside this process; port 0 takes
	// a free one and keeps it across Restart. Clients are not authenticated,
	// so anything but a loopback address belongs behind a firewall. Empty
	// means that no port is opened and only InProcessConn reaches the server.
	Listen string

	// Log receives the server's own lines: its notices as debug, its warnings
	// and errors as such. Nil discards them.
	Log *slog.Logger

	// Lazy turns fsync-per-append off and leaves syncing to the server's
	// two-minute timer: acknowledged events are then lost in a power cut. It
	// exists for tests and benchmarks; the zero value is what is shipped.
	Lazy bool
}

// Broker is a running embedded server. Its methods may be called from any
// goroutine. The caller owns it and must Close it.
type Broker struct {
	cfg  Config // immutable after Start
	lock *os.File

	// ops serializes Restart, Close and Probe; it guards closed.
	ops    sync.Mutex
	closed bool

	// mu guards srv, which is nil while no server runs.
	mu  sync.RWMutex
	srv *server.Server
}

var (
	errNotRunning = errors.New("broker is not running")
	errClosed     = errors.New("broker is closed")
)

// readyTimeout bounds how long a started server may take to answer its first
// JetStream request. Recovery of the store is not part of it.
const readyTimeout = 30 * time.Second

// Start opens the store, starts the server on it and returns once JetStream
// answers. It fails when the store directory cannot be written, is in use by
// another broker or belongs to a cluster member, and when the port is taken.
// ctx bounds the wait for JetStream's answer, not the recovery of the store
// before it, which cannot be interrupted.
func Start(ctx context.Context, c Config) (*Broker, error) {
	if c.StoreDir == "" {
		return nil, errors.New("start broker: StoreDir is required")
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	dir, err := filepath.Abs(c.StoreDir)
	if err != nil {
		return nil, fmt.Errorf("start broker: resolve store directory: %w", err)
	}
	c.StoreDir = dir
	lock, err := openStore(dir)
	if err != nil {
		return nil, fmt.Errorf("start broker: %w", err)
	}
	b := &Broker{cfg: c, lock: lock}
	if err := b.run(ctx); err != nil {
		// Closing the file is what releases the lock; there is nothing to do
		// about an error in it.
		_ = lock.Close()
		return nil, fmt.Errorf("start broker: %w", err)
	}
	if c.Listen != "" {
		// No one else holds b yet.
		b.cfg.Listen = b.srv.Addr().String()
	}
	return b, nil
}

// run starts a server and publishes it in b.srv once JetStream answers.
func (b *Broker) run(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s, err := startServer(b.cfg)
	if err != nil {
		return err
	}
	if err := awaitJetStream(ctx, s); err != nil {
		stopServer(s)
		return fmt.Errorf("await jetstream: %w", err)
	}
	b.mu.Lock()
	b.srv = s
	b.mu.Unlock()
	return nil
}

// current is the running server, or nil.
func (b *Broker) current() *server.Server {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return b.srv
}

// take removes the running server from b, so that reconnecting clients are
// refused at once instead of meeting a server that is going down.
func (b *Broker) take() *server.Server {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.srv
	b.srv = nil
	return s
}

// InProcessConn opens a connection to the server that runs now, so that a
// client given the Broker itself (nats.InProcessServer) finds the new server
// after Restart. It fails while none runs; a reconnecting client tries again.
func (b *Broker) InProcessConn() (net.Conn, error) {
	s := b.current()
	if s == nil {
		return nil, errNotRunning
	}
	return s.InProcessConn()
}

// Connect opens an in-process client that survives Restart: it reconnects for
// ever, and at its first connect too. Nothing is buffered meanwhile: a publish
// while the server is away fails (nats.ErrReconnectBufExceeded) instead of
// arriving later. opts come last and win. The caller closes the connection,
// before it closes the broker.
func (b *Broker) Connect(name string, opts ...nats.Option) (*nats.Conn, error) {
	all := append([]nats.Option{
		nats.Name(name),
		nats.InProcessServer(b),
		nats.IgnoreDiscoveredServers(),
		nats.MaxReconnects(-1),
		nats.RetryOnFailedConnect(true),
		nats.ReconnectWait(50 * time.Millisecond),
		nats.ReconnectJitter(10*time.Millisecond, 10*time.Millisecond),
		nats.ReconnectBufSize(-1),
		nats.PingInterval(5 * time.Second),
		nats.MaxPingsOutstanding(2),
		nats.ErrorHandler(b.clientError),
	}, opts...)
	nc, err := nats.Connect("", all...)
	if err != nil {
		return nil, fmt.Errorf("connect in process: %w", err)
	}
	return nc, nil
}

// clientError keeps the client library from printing its asynchronous errors
// (slow consumers above all) to standard error.
func (b *Broker) clientError(nc *nats.Conn, sub *nats.Subscription, err error) {
	subject := ""
	if sub != nil {
		subject = sub.Subject
	}
	b.cfg.Log.Warn("nats client", "client", nc.Opts.Name, "subject", subject, "error", err)
}

// ClientURL is the URL of the listening port, or "" when there is none. It
// stays the same across Restart.
func (b *Broker) ClientURL() string {
	if b.cfg.Listen == "" {
		return ""
	}
	return "nats://" + b.cfg.Listen
}

// StoreDir is the absolute path of the store directory.
func (b *Broker) StoreDir() string { return b.cfg.StoreDir }

// SyncAlways reports whether the running server fsyncs each append before it
// acknowledges it, as read back from its JetStream configuration; false when
// no server runs. A stream with PersistMode async is an exception the server
// does not show here.
func (b *Broker) SyncAlways() bool {
	s := b.current()
	if s == nil {
		return false
	}
	js := s.JetStreamConfig()
	return js != nil && js.SyncAlways
}

// Check reports why the server cannot take writes: none runs, JetStream was
// shut down (it does so itself when a write is not permitted), a stream on disk
// could not be recovered, or a stream is dead after a write error (see the
// package comment). Nil means none of these. It learns of a write error from
// the failed write, not before. It reads two directories and is cheap enough
// to be asked once a second.
func (b *Broker) Check() error {
	s := b.current()
	if s == nil {
		return errNotRunning
	}
	if h := s.Healthz(&server.HealthzOptions{}); h.Error != "" {
		return fmt.Errorf("check broker: %s", h.Error)
	}
	return nil
}

// Restart shuts the server down and starts a new one on the same store, which
// is what revives a dead stream. The lock on the store is kept, clients made
// by Connect reconnect by themselves. After an error no server runs (unless
// ctx was already done) and Restart may be called again.
func (b *Broker) Restart(ctx context.Context) error {
	b.ops.Lock()
	defer b.ops.Unlock()
	if b.closed {
		return fmt.Errorf("restart broker: %w", errClosed)
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("restart broker: %w", err)
	}
	if s := b.take(); s != nil {
		stopServer(s)
	}
	if err := b.run(ctx); err != nil {
		return fmt.Errorf("restart broker: %w", err)
	}
	return nil
}

// Close shuts the server down, waits until all its goroutines have ended and
// releases the store. Further calls do nothing. Connections made by Connect
// are the caller's: one left open goes on trying to reconnect.
func (b *Broker) Close() {
	b.ops.Lock()
	defer b.ops.Unlock()
	if b.closed {
		return
	}
	b.closed = true
	if s := b.take(); s != nil {
		stopServer(s)
	}
	// Closing the file releases the lock; nothing was written through it.
	_ = b.lock.Close()
}
