package broker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// Server is a running nats-server with a configuration of its own: alone, or a
// member of a cluster. Its methods may be called from any goroutine. The caller
// owns it and must Close it.
type Server struct {
	conf FileConfig // immutable
	log  *fileLog
	lock io.Closer // of the store; nil without JetStream

	// ops serializes Restart, Reload, Probe and Close; it guards closed.
	ops    sync.Mutex
	closed bool

	// mu guards what follows. srv is nil while no server runs.
	mu   sync.RWMutex
	srv  *server.Server
	opts *server.Options // what the file says; never given to a server, which changes it
}

// How long Retire waits for clients, unless the file says it itself: they find
// another server within milliseconds.
const (
	retireDuration = 2 * time.Second
	retireGrace    = 100 * time.Millisecond
)

// run starts a server and publishes it once it takes clients.
func (s *Server) run() error {
	srv, err := server.NewServer(s.options().Clone())
	if err != nil {
		return err
	}
	srv.SetLogger(s.log, false, false)
	srv.Start()
	// One that gave up does not say so by its return.
	ready, begun := false, time.Now()
	for !ready && s.log.fatal() == "" && time.Since(begun) < startTimeout {
		ready = srv.ReadyForConnections(100 * time.Millisecond)
	}
	switch text := s.log.fatal(); {
	case text != "":
		err = errors.New(text)
	case !ready:
		err = fmt.Errorf("it takes no clients after %v", startTimeout)
	}
	if err != nil {
		stopServer(srv)
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.srv = srv
	return nil
}

func (s *Server) current() *server.Server {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.srv
}

func (s *Server) options() *server.Options {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.opts
}

// take removes the running server from s, so that reconnecting clients are
// refused at once instead of meeting a server that is going down.
func (s *Server) take() *server.Server {
	s.mu.Lock()
	defer s.mu.Unlock()
	srv := s.srv
	s.srv = nil
	return srv
}

// Name returns the server's name.
func (s *Server) Name() string {
	if srv := s.current(); srv != nil {
		return srv.Name()
	}
	return s.options().ServerName
}

// ClientURL returns the address on which it takes clients, "" while none runs.
func (s *Server) ClientURL() string {
	if srv := s.current(); srv != nil {
		return srv.ClientURL()
	}
	return ""
}

// Domain returns the JetStream domain of the file, "" when it has none.
func (s *Server) Domain() string { return s.options().JetStreamDomain }

// SyncAlways reports whether the server fsyncs each append before it
// acknowledges it, as its file says. Other members have files of their own.
func (s *Server) SyncAlways() bool { return s.options().SyncAlways }

// InProcessConn opens a connection to the server that runs now, without a port
// and without TLS. It fails while none runs; a reconnecting client tries again.
func (s *Server) InProcessConn() (net.Conn, error) {
	srv := s.current()
	if srv == nil {
		return nil, errNotRunning
	}
	return srv.InProcessConn()
}

// DefaultUser is the user of the file that Login takes when it is told none.
const DefaultUser = "node"

// Login returns the user of the file that a client in this process is to be,
// and its password. An empty name is DefaultUser if the file has one, else
// nobody where the file lets nobody in. It refuses a user whose password the
// file does not hold in plain, and one whose account has no JetStream.
func (s *Server) Login(name string) (user, password string, err error) {
	o := s.options()
	users := slices.Clone(o.Users)
	if o.Username != "" {
		users = append(users, &server.User{Username: o.Username, Password: o.Password})
	}
	var names []string
	for _, u := range users {
		names = append(names, u.Username)
	}
	find := func(name string) int {
		return slices.IndexFunc(users, func(u *server.User) bool { return u.Username == name })
	}
	at := find(name)
	switch open := len(users)+len(o.Nkeys)+len(o.TrustedOperators) == 0 && o.Authorization == ""; {
	case at >= 0:
	case name != "":
		return "", "", fmt.Errorf("%s has no user %q with a password; it has %s", s.conf.File, name, listed(names))
	case find(DefaultUser) >= 0:
		at = find(DefaultUser)
	case open:
		return "", "", nil
	case o.NoAuthUser != "" && find(o.NoAuthUser) >= 0:
		at = find(o.NoAuthUser)
	default:
		return "", "", fmt.Errorf("%s has no user %q; it has %s: say which the node is", s.conf.File, DefaultUser, listed(names))
	}
	u := users[at]
	if strings.HasPrefix(u.Password, "$2") {
		return "", "", fmt.Errorf("%s holds only a hash of the password of user %q, and the node needs the password", s.conf.File, u.Username)
	}
	return u.Username, u.Password, s.hasJetStream(u)
}

func listed(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}

// hasJetStream refuses a user under whose account no stream can be. Asked for
// one, such an account answers as a cluster does that is not ready yet.
func (s *Server) hasJetStream(u *server.User) error {
	srv := s.current()
	if srv == nil {
		return errNotRunning
	}
	account := srv.GlobalAccount()
	if u.Account != nil {
		var err error
		if account, err = srv.LookupAccount(u.Account.Name); err != nil {
			return fmt.Errorf("look up account of user %s: %w", u.Username, err)
		}
	}
	if account.JetStreamEnabled() {
		return nil
	}
	return fmt.Errorf("user %q of %s is in account %s, which has no jetstream: enabled", u.Username, s.conf.File, account.Name)
}

// AwaitQuorum returns once the server's cluster has a leader for its streams,
// at once when it is alone. Every pause it gives waiting what is missing; ctx
// bounds it.
func (s *Server) AwaitQuorum(ctx context.Context, pause time.Duration, waiting func(missing string)) error {
	if s.options().Cluster.Port == 0 {
		return nil
	}
	poll := time.NewTicker(50 * time.Millisecond)
	defer poll.Stop()
	next := time.Now().Add(pause)
	for {
		missing := s.missing()
		if missing == "" {
			return nil
		}
		if time.Now().After(next) {
			waiting(missing)
			next = next.Add(pause)
		}
		select {
		case <-poll.C:
		case <-s.Died():
			return s.Err()
		case <-ctx.Done():
			return fmt.Errorf("await a quorum of the NATS servers: %s: %w", missing, context.Cause(ctx))
		}
	}
}

// missing says what the cluster lacks for a leader, "" when it has one.
func (s *Server) missing() string {
	srv := s.current()
	if srv == nil {
		return errNotRunning.Error()
	}
	js, err := srv.Jsz(nil)
	if err != nil {
		return err.Error()
	}
	if js.Meta != nil && js.Meta.Leader != "" {
		return ""
	}
	seen := map[string]bool{}
	if routes, err := srv.Routez(nil); err == nil {
		for _, r := range routes.Routes {
			seen[r.RemoteName] = true
		}
	}
	delete(seen, srv.Name())
	expected := len(s.options().Routes)
	if js.Meta != nil {
		expected = max(expected, js.Meta.Size)
	}
	return fmt.Sprintf("cluster %s has no leader: server %s sees %d others, %d servers are expected, and more than half must see each other",
		s.options().Cluster.Name, srv.Name(), len(seen), expected)
}

// Check reports why the server cannot store anything any more: none runs,
// JetStream was shut down after a write error, or a stream or the cluster's own
// log met one. A cluster without a leader, or a member that is behind, is none
// of these: a restart would not help it. It is cheap enough to be asked once a
// second.
func (s *Server) Check() error {
	srv := s.current()
	if srv == nil {
		return errNotRunning
	}
	if !s.options().JetStream {
		return nil
	}
	if !srv.JetStreamEnabled() {
		return errors.New("check server: JetStream was shut down, as after a write error")
	}
	for _, e := range srv.Healthz(&server.HealthzOptions{Details: true}).Errors {
		if strings.Contains(e.Error, "write error") || strings.Contains(e.Error, "could not be recovered") {
			return fmt.Errorf("check server: %s", e.Error)
		}
	}
	return nil
}

// Probe reports whether the store's disk takes n bytes (n > 0); see
// [Broker.Probe].
func (s *Server) Probe(n int64) error {
	s.ops.Lock()
	defer s.ops.Unlock()
	switch {
	case n <= 0:
		return fmt.Errorf("probe store: size %d is not positive", n)
	case s.closed:
		return fmt.Errorf("probe store: %w", errClosed)
	}
	if err := probe(filepath.Join(s.options().StoreDir, probeName), n); err != nil {
		return fmt.Errorf("probe store: %w", err)
	}
	return nil
}

// Restart shuts the server down and starts a new one from what the file said
// when it was last read. The lock on the store is kept, and clients reconnect by
// themselves. After an error no server runs.
func (s *Server) Restart(ctx context.Context) error {
	s.ops.Lock()
	defer s.ops.Unlock()
	if s.closed {
		return fmt.Errorf("restart server: %w", errClosed)
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("restart server: %w", err)
	}
	if srv := s.take(); srv != nil {
		stopServer(srv)
	}
	if err := s.run(); err != nil {
		return fmt.Errorf("restart server: %w", err)
	}
	return nil
}

// Died is closed when the server has given up by itself; Err then says why.
func (s *Server) Died() <-chan struct{} { return s.log.died }

// Err returns why the server has given up, nil while it has not.
func (s *Server) Err() error {
	if text := s.log.fatal(); text != "" {
		return errors.New(text)
	}
	return nil
}

// Reload reads the file again: users, permissions, certificates and routes
// change without a restart. What cannot change so is an error, and nothing does.
func (s *Server) Reload() error {
	s.ops.Lock()
	defer s.ops.Unlock()
	srv := s.current()
	if srv == nil {
		return fmt.Errorf("reload configuration: %w", errNotRunning)
	}
	opts, err := readFile(s.conf)
	if err != nil {
		return fmt.Errorf("reload configuration: %w", err)
	}
	if err := srv.ReloadOptions(opts.Clone()); err != nil {
		return fmt.Errorf("reload configuration: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.opts = opts
	return nil
}

// Retire is Close for a server that others can stand in for: it hands over what
// it leads and sends its clients away first. That takes a second or two.
func (s *Server) Retire() {
	if srv := s.current(); srv != nil && s.options().Cluster.Port != 0 {
		srv.LameDuckShutdown()
	}
	s.Close()
}

// Close shuts the server down and waits until it has ended. Further calls do
// nothing.
func (s *Server) Close() {
	s.ops.Lock()
	defer s.ops.Unlock()
	if s.closed {
		return
	}
	s.closed = true
	if srv := s.take(); srv != nil {
		stopServer(srv)
	}
	if s.lock != nil {
		_ = s.lock.Close() // what releases it; nothing was written through it
	}
}
