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
	// Store says that the server is to hold a log: a file without jetstream is
	// then refused.
	Store bool
	// Log receives the server's lines, and what is wrong with the file. Nil
	// discards them.
	Log *slog.Logger
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
	opts, err := readFile(c)
	if err != nil {
		return nil, err
	}
	for _, text := range dubious(opts) {
		c.Log.Warn(text, "file", c.File)
	}
	s := &Server{conf: c, opts: opts, log: &fileLog{logBridge: logBridge{log: c.Log}, died: make(chan struct{})}}
	if opts.JetStream {
		if s.lock, err = claimStore(opts); err != nil {
			return nil, fmt.Errorf("start nats-server of %s: %w", c.File, err)
		}
	}
	if err := s.run(); err != nil {
		s.Close()
		return nil, fmt.Errorf("start nats-server of %s: %w", c.File, err)
	}
	return s, nil
}

// readFile returns what the file says, and refuses what cannot hold a log.
func readFile(c FileConfig) (*server.Options, error) {
	o, err := server.ProcessConfigFile(c.File)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", c.File, err)
	}
	o.NoSigs = true
	if o.LameDuckDuration == 0 {
		o.LameDuckDuration, o.LameDuckGracePeriod = retireDuration, retireGrace
	}
	leaf := len(o.LeafNode.Remotes) > 0 || o.LeafNode.Port != 0
	switch {
	case c.Store && !o.JetStream:
		return nil, fmt.Errorf("read %s: it has no jetstream block, and the server of a node holds the log", c.File)
	case o.JetStream && leaf && o.JetStreamDomain == "":
		return nil, fmt.Errorf("read %s: jetstream has no domain, and leafnodes would make one JetStream of all regions: give it the name of the region", c.File)
	}
	return o, nil
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
