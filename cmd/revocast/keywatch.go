package main

import (
	"cmp"
	"context"
	"io/fs"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/revocast/revocast/events"
)

// keyPoll is the time between two looks at the file with the cluster keys.
const keyPoll = 3 * time.Second

// keyWatch keeps the cluster keys of a running node as their file has them.
type keyWatch struct {
	file string // empty: they come from the environment
	keys *events.ClusterKeys
	log  *slog.Logger
	seen keyStamp // of the file when it was last read, whatever came of that
}

// keyStamp tells whether a file was changed.
type keyStamp struct {
	at   time.Time
	size int64
	mode fs.FileMode // 0: there was none
}

func stampOf(file string) (s keyStamp) {
	if info, err := os.Stat(file); err == nil {
		s = keyStamp{at: info.ModTime(), size: info.Size(), mode: info.Mode()}
	}
	return s
}

// keySource returns the file of the cluster keys, empty when they come from the
// environment.
func (d dataDir) keySource(file string) string {
	if _, ok := os.LookupEnv(clusterKeyEnv); ok {
		return ""
	}
	return cmp.Or(file, d.keyFile())
}

// watchKeys reads the cluster keys again when their file was changed and on
// SIGHUP, and once begun is closed keeps the id of the one that seals in
// cluster.json, until ctx ends.
func (s *service) watchKeys(ctx context.Context, begun <-chan struct{}) error {
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	tick := time.NewTicker(keyPoll)
	defer tick.Stop()
	w := s.store.keyWatch
	for {
		select {
		case <-hup:
			w.read()
		case <-tick.C:
			w.look()
		case <-ctx.Done():
			return nil
		}
		select {
		case <-begun:
			s.rememberKey()
		default: // the state may be written elsewhere
		}
	}
}

// rememberKey writes which key seals: the next start seals with it at once.
func (s *service) rememberKey() {
	st := s.store.state
	if id := s.store.keys.Sealing(); id != st.Key {
		was := st.Key
		st.Key = id
		if err := s.dir.writeState(st); err != nil {
			st.Key = was
			s.log.Warn("which cluster key seals was not written down; tried again", "error", err)
		}
	}
}

// look reads the file if it was changed.
func (w *keyWatch) look() {
	if w.file != "" && stampOf(w.file) != w.seen {
		w.read()
	}
}

// read takes over the keys of the file. One that cannot be used is refused as a
// whole, and the keys stay.
func (w *keyWatch) read() {
	if w.file == "" {
		w.log.Warn("cluster keys come from " + clusterKeyEnv + ": they change when the node is restarted")
		return
	}
	w.seen = stampOf(w.file)
	next, err := readKeyFile(w.file)
	if err == nil {
		err = w.keys.Replace(next)
	}
	if err != nil {
		w.log.Error("cluster keys are not changed", "file", w.file, "error", err)
		return
	}
	w.log.Info("cluster keys were read", "held", strings.Join(w.keys.IDs(), ", "), "sealing", w.keys.Sealing())
}
