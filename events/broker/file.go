package broker

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// FileConfig says which server StartFile starts.
type FileConfig struct {
	// File is a configuration file of nats-server. Required. What it says of
	// log files and levels is without effect: lines go to Log.
	File string
	// Log receives the server's lines, and what is wrong with the file. Nil
	// discards them.
	Log *slog.Logger
}

// Server is a running nats-server with a configuration of its own: alone, or a
// member of a cluster. The caller owns it and must Close it.
type Server struct {
	srv  *server.Server
	log  *fileLog
	lock io.Closer // of the store; nil without JetStream
}

// startTimeout bounds how long a server may take until it takes clients; the
// recovery of its store is part of it.
const startTimeout = 5 * time.Minute

// StartFile starts the server that the file describes and returns once it takes
// clients. It refuses a store that another process uses, and one whose streams
// the server would delete. A file under which an acknowledged event can be lost
// in a power cut is accepted with a warning.
func StartFile(c FileConfig) (*Server, error) {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	opts, err := server.ProcessConfigFile(c.File)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", c.File, err)
	}
	opts.NoSigs = true
	for _, text := range dubious(opts) {
		c.Log.Warn(text, "file", c.File)
	}
	s := &Server{log: &fileLog{logBridge: logBridge{log: c.Log}, died: make(chan struct{})}}
	if opts.JetStream {
		if s.lock, err = claimStore(opts); err != nil {
			return nil, fmt.Errorf("start nats-server of %s: %w", c.File, err)
		}
	}
	if err := s.start(opts); err != nil {
		s.Close()
		return nil, fmt.Errorf("start nats-server of %s: %w", c.File, err)
	}
	return s, nil
}

func (s *Server) start(opts *server.Options) (err error) {
	if s.srv, err = server.NewServer(opts); err != nil {
		return err
	}
	s.srv.SetLogger(s.log, false, false)
	s.srv.Start()
	ready := s.srv.ReadyForConnections(startTimeout)
	if text := s.log.fatal(); text != "" {
		return errors.New(text)
	}
	if !ready {
		return fmt.Errorf("it takes no clients after %v", startTimeout)
	}
	return nil
}

// dubious says what in the file is not as a log of sessions needs it.
func dubious(o *server.Options) []string {
	var found []string
	if o.JetStream && !o.SyncAlways {
		found = append(found, "jetstream has no sync_interval: always: events that were acknowledged can be lost in a power cut")
	}
	if o.LogFile != "" || o.Debug || o.Trace || o.Syslog {
		found = append(found, "log settings in the file are without effect: lines go where those of revocast go")
	}
	return found
}

// claimStore locks the store of the server and checks that it may have it.
func claimStore(o *server.Options) (io.Closer, error) {
	if o.StoreDir == "" {
		return nil, errors.New("jetstream has no store_dir: the default is a temporary directory, which is no place for a log")
	}
	if err := os.MkdirAll(o.StoreDir, 0o700); err != nil {
		return nil, fmt.Errorf("create store directory: %w", err)
	}
	lock, err := Lock(filepath.Join(o.StoreDir, lockName))
	if errors.Is(err, ErrInUse) {
		return nil, fmt.Errorf("store directory %s: %w", o.StoreDir, err)
	} else if err != nil {
		return nil, err
	}
	if err := inspectMember(o); err != nil {
		_ = lock.Close() // nothing was written through it
		return nil, err
	}
	return lock, nil
}

// inspectMember refuses a store that was a standalone server's to a member of a
// cluster, which deletes streams of which its cluster knows nothing, and the
// store of a member to a standalone server, which takes the streams for its own.
func inspectMember(o *server.Options) error {
	was, err := memberStore(o.StoreDir)
	if err != nil {
		return err
	}
	is := o.Cluster.Port != 0
	streams, err := filepath.Glob(filepath.Join(o.StoreDir, server.JetStreamStoreDir, "*", "streams", "*"))
	switch {
	case err != nil:
		return fmt.Errorf("inspect store directory: %w", err)
	case is && !was && len(streams) > 0:
		return fmt.Errorf("store directory %s holds streams of a standalone server, which a member of a cluster deletes: give another store_dir", o.StoreDir)
	case was && !is:
		return fmt.Errorf("store directory %s belongs to a member of a NATS cluster: give another store_dir, or the cluster block back", o.StoreDir)
	}
	return nil
}

// Name returns the server's name.
func (s *Server) Name() string { return s.srv.Name() }

// ClientURL returns the address on which it takes clients.
func (s *Server) ClientURL() string { return s.srv.ClientURL() }

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
	if err := s.srv.Reload(); err != nil {
		return fmt.Errorf("reload configuration: %w", err)
	}
	return nil
}

// Close shuts the server down, so that other members take over what it led, and
// waits until it has ended.
func (s *Server) Close() {
	if s.srv != nil {
		stopServer(s.srv)
	}
	if s.lock != nil {
		_ = s.lock.Close() // what releases it; nothing was written through it
	}
}

// fileLog is the bridge of a server with its own configuration: it warns of
// plain passwords too, and tells when the server gives up.
type fileLog struct {
	logBridge
	once sync.Once
	died chan struct{}
}

// Warnf shadows the bridge's.
func (l *fileLog) Warnf(format string, v ...any) {
	l.log.Warn("nats-server", "text", fmt.Sprintf(format, v...))
}

// Fatalf shadows the bridge's.
func (l *fileLog) Fatalf(format string, v ...any) {
	l.logBridge.Fatalf(format, v...)
	l.once.Do(func() { close(l.died) })
}
