package broker

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// startServer returns a started server, or the reason why the server gave up.
// nats-server reports such reasons only through its logger, before it expects
// to be killed, hence the bridge's memory of the first fatal line.
func startServer(c Config) (*server.Server, error) {
	opts, err := options(c)
	if err != nil {
		return nil, err
	}
	s, err := server.NewServer(opts)
	if err != nil {
		return nil, fmt.Errorf("configure nats-server: %w", err)
	}
	bridge := &logBridge{log: c.Log}
	s.SetLogger(bridge, false, false)
	s.Start()
	if text := bridge.fatal(); text != "" {
		stopServer(s)
		return nil, fmt.Errorf("start nats-server: %s", text)
	}
	return s, nil
}

// stopServer is idempotent and returns when every goroutine of s has ended.
func stopServer(s *server.Server) {
	s.Shutdown()
	s.WaitForShutdown()
}

func options(c Config) (*server.Options, error) {
	maxStore := c.MaxStore
	if maxStore <= 0 {
		var err error
		if maxStore, err = defaultMaxStore(c.StoreDir); err != nil {
			return nil, fmt.Errorf("size store: %w", err)
		}
	}
	opts := &server.Options{
		ServerName:             c.Name,
		JetStream:              true,
		JetStreamDomain:        c.Domain,
		JetStreamMaxStore:      maxStore,
		StoreDir:               c.StoreDir,
		SyncAlways:             !c.Lazy,
		DontListen:             c.Listen == "",
		NoSigs:                 true,
		DisableJetStreamBanner: true,
		Users:                  []*server.User{anyone()},
		NoAuthUser:             anyoneName,
	}
	if c.Listen == "" {
		return opts, nil
	}
	host, port, err := net.SplitHostPort(c.Listen)
	if err != nil {
		return nil, fmt.Errorf("parse listen address %q: %w", c.Listen, err)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return nil, fmt.Errorf("parse listen port %q: %w", port, err)
	}
	opts.Host, opts.Port = host, int(n)
	if n == 0 {
		opts.Port = server.RANDOM_PORT
	}
	return opts, nil
}

// anyoneName is the user that every client is.
const anyoneName = "anyone"

// anyone may do everything but publish what only the server may: copies of what
// it stored. A follower takes such a copy for the entry of its sequence, and
// would miss the real one.
func anyone() *server.User {
	return &server.User{Username: anyoneName, Permissions: &server.Permissions{
		Publish: &server.SubjectPermission{Deny: []string{"live.>"}},
	}}
}

// inProcess adapts one server, before the Broker shows it to its clients.
type inProcess struct{ s *server.Server }

func (p inProcess) InProcessConn() (net.Conn, error) { return p.s.InProcessConn() }

// awaitJetStream returns when s has answered a JetStream request.
func awaitJetStream(ctx context.Context, s *server.Server) error {
	ctx, cancel := context.WithTimeoutCause(ctx, readyTimeout, errors.New("no answer within "+readyTimeout.String()))
	defer cancel()
	nc, err := nats.Connect("", nats.Name("broker"), nats.InProcessServer(inProcess{s}), nats.NoReconnect())
	if err != nil {
		return err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	if _, err := js.AccountInfo(ctx); err != nil {
		if cause := context.Cause(ctx); cause != nil {
			return cause
		}
		return err
	}
	return nil
}
