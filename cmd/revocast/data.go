package main

import (
	"cmp"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/revocast/revocast/events"
)

// Modes of a data directory.
const (
	modeEmbedded = "embedded" // its log is in it
	modeNats     = "nats"     // its log is on NATS servers elsewhere
	// modeFile: its log is on NATS servers, one of which runs in its process,
	// with a store of its own.
	modeFile = "nats-config"
)

// stateFormat is the version of cluster.json this code writes and reads.
const stateFormat = 1

// dataDir is the path of a node's data directory:
//
//	cluster.json    what it belongs to (state)
//	cluster.key     the cluster key, unless it comes from elsewhere
//	bootstrap.json  the first keys for the API (bootstrapFile)
//	jetstream/      the log, unless it is elsewhere
//	snapshots/      what the log came to, so that a start need not read all of it
//	.gitignore      keeps all of this out of a repository it may lie in
type dataDir string

// dataAt returns the data directory of a flag; an empty one is the default.
func dataAt(flag string) dataDir { return dataDir(cmp.Or(flag, "revocast-data")) }

func (d dataDir) path(name string) string { return filepath.Join(string(d), name) }
func (d dataDir) stateFile() string       { return d.path("cluster.json") }
func (d dataDir) keyFile() string         { return d.path("cluster.key") }
func (d dataDir) bootstrapFile() string   { return d.path("bootstrap.json") }
func (d dataDir) pendingFile() string     { return d.path(".bootstrap.json") }
func (d dataDir) logDir() string          { return d.path("jetstream") }
func (d dataDir) snapshotDir() string     { return d.path("snapshots") }
func (d dataDir) lockFile() string        { return d.path(".lock") }

// state is what a data directory remembers, in cluster.json. It is written
// before the streams are made, with Created false, so that a creation that was
// interrupted is finished and not mistaken for a lost log.
type state struct {
	Format  int    `json:"format"`
	Mode    string `json:"mode"`
	Cluster string `json:"cluster"`
	Region  string `json:"region"`
	// Key is the id of the cluster key that seals: at first the one that sealed
	// the log's first events.
	Key string `json:"key"`
	// Created says that the streams were made; from then on a missing one is
	// a loss, not a beginning.
	Created bool `json:"created"`
	// Joined says that another node began the cluster, and made its first keys.
	Joined bool `json:"joined,omitempty"`
	// ConfigDomain is the JetStream domain of CONFIG; empty: that of the servers
	// the node connects to.
	ConfigDomain string `json:"config_domain,omitempty"`
	// Bootstrapped says that the first app and its keys are in the log.
	Bootstrapped bool `json:"bootstrapped"`
	// Streams are the streams this directory knows, by region.
	Streams map[string]streamState `json:"streams,omitempty"`
}

// streamState is how a stream is known again.
type streamState struct {
	Number uint8  `json:"number"`
	Epoch  string `json:"epoch"`
}

// stream returns what is known of the region's stream.
func (s *state) stream(region string) events.StreamConfig {
	k := s.Streams[region]
	c := events.StreamConfig{Region: region, Cluster: s.Cluster, Number: k.Number, Epoch: k.Epoch}
	if region == events.ConfigRegion {
		c.Domain = s.ConfigDomain
	}
	return c
}

// newState returns the state of a new cluster.
func newState(mode, region, key string) *state {
	var id [6]byte
	rand.Read(id[:])
	return &state{
		Format: stateFormat, Mode: mode, Cluster: "c" + hex.EncodeToString(id[:]), Region: region, Key: key,
	}
}

// readState returns what the directory remembers, nil when it is not a data
// directory yet.
func (d dataDir) readState() (*state, error) {
	b, err := os.ReadFile(d.stateFile())
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, d.refuse(err)
	}
	s := new(state)
	if err := json.Unmarshal(b, s); err != nil {
		return nil, fmt.Errorf("%s cannot be read: %w; restore it from a backup", d.stateFile(), err)
	}
	switch {
	case s.Format > stateFormat:
		return nil, fmt.Errorf("data directory %s has format %d, this program reads %d: run a newer revocast on it", d, s.Format, stateFormat)
	case s.Format < 1 || s.Cluster == "" || !events.ValidName(s.Region):
		return nil, fmt.Errorf("%s is not complete: restore it from a backup", d.stateFile())
	}
	return s, nil
}

// logOf says where the log of each mode is, and the flag that says so.
var logOf = map[string]struct{ where, flag string }{
	modeEmbedded: {"its log is in it", ""},
	modeNats:     {"its log is on NATS servers elsewhere", "--nats"},
	modeFile:     {"its log is on NATS servers, one of them its own", "--nats-config"},
}

// sameMode refuses to use a directory in another mode than it was made in: a
// server that is started as something else destroys the log, and a log that is
// elsewhere is not in the directory.
func (d dataDir) sameMode(made, wanted string) error {
	if made == wanted {
		return nil
	}
	is, ok := logOf[made]
	switch {
	case !ok:
		return fmt.Errorf("data directory %s was made in mode %q and cannot be started in mode %q, which could destroy its log: use another --data", d, made, wanted)
	case is.flag == "":
		return fmt.Errorf("data directory %s was made in mode %q: %s; start it without %s, or use another --data", d, made, is.where, logOf[wanted].flag)
	}
	return fmt.Errorf("data directory %s was made in mode %q: %s; start it with %s, or use another --data", d, made, is.where, is.flag)
}

func (d dataDir) writeState(s *state) error {
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return fmt.Errorf("encode %s: %w", d.stateFile(), err)
	}
	return writeFile(d.stateFile(), append(b, '\n'))
}

// prepare makes the directory if there is none and checks that it can be
// written.
func (d dataDir) prepare() error {
	if err := os.MkdirAll(string(d), 0o700); err != nil {
		return d.refuse(err)
	}
	f, err := os.CreateTemp(string(d), ".writable-*")
	if err != nil {
		return d.refuse(err)
	}
	if err := errors.Join(f.Close(), os.Remove(f.Name())); err != nil {
		return d.refuse(err)
	}
	return nil
}

// refuse says in one line what is wrong with the directory.
func (d dataDir) refuse(err error) error {
	cause := err
	if p, ok := errors.AsType[*fs.PathError](err); ok {
		cause = p.Err
	}
	return fmt.Errorf("data directory %s cannot be used (%w): make it a directory that this user can write, or give another one with --data", d, cause)
}

// beginnable checks that a cluster may begin here: nothing may be lost by it.
// An explicit init accepts what others left in the directory, but never a log.
func (d dataDir) beginnable(init bool) error {
	entries, err := os.ReadDir(string(d))
	if err != nil {
		return d.refuse(err)
	}
	// The log first: that it is there is what matters most.
	if err := d.beginnableLog(); err != nil {
		return err
	}
	for _, e := range entries {
		switch name := e.Name(); {
		case name == filepath.Base(d.logDir()), name == filepath.Base(d.keyFile()), name == "lost+found", strings.HasPrefix(name, "."), init:
		default:
			return fmt.Errorf("data directory %s is not empty (%s) and holds no node's data: give another one with --data, or add --init to begin a new cluster in it", d, name)
		}
	}
	return nil
}

// beginnableLog accepts a store that was opened and holds no stream yet: a
// start that was interrupted before it wrote anything of its own.
func (d dataDir) beginnableLog() error {
	entries, err := os.ReadDir(filepath.Join(d.logDir(), "jetstream", "$G", "streams"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return d.refuse(err)
	}
	if len(entries) > 0 {
		return fmt.Errorf("data directory %s holds a log but not %s: restore that file from a backup, or give another directory with --data", d, d.stateFile())
	}
	return nil
}

// clusterKeyEnv holds the text of a cluster key file. It is no flag, because
// everybody on the machine can read a command line.
const clusterKeyEnv = "REVOCAST_CLUSTER_KEY"

// clusterKeys reads the cluster keys: from the environment, else from file, else
// from the data directory. With create a missing file is made, with a new key.
func (d dataDir) clusterKeys(file string, create bool) (*events.ClusterKeys, error) {
	text, ok := os.LookupEnv(clusterKeyEnv)
	switch {
	case ok && file != "":
		return nil, fmt.Errorf("both %s and --cluster-key-file are given: keep one", clusterKeyEnv)
	case ok:
		keys, err := events.ParseClusterKeys(text)
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", clusterKeyEnv, err)
		}
		return keys, nil
	case file == "":
		file = d.keyFile()
	}
	keys, err := readKeyFile(file)
	if !errors.Is(err, fs.ErrNotExist) {
		return keys, err
	}
	if !create {
		return nil, fmt.Errorf("cluster key %s is missing and the log in %s cannot be read without it: restore it, or give it with --cluster-key-file or %s", file, d, clusterKeyEnv)
	}
	line := events.FormatClusterKey(events.NewClusterKey()) + "\n"
	if err := writeFile(file, []byte(line)); err != nil {
		return nil, fmt.Errorf("make cluster key: %w", err)
	}
	return readKeyFile(file)
}

func readKeyFile(file string) (*events.ClusterKeys, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("read cluster key: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("read cluster key: %w", err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("cluster key %s is not a file", file)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("cluster key %s can be read by others (mode %04o): run chmod 600 %[1]s, and if somebody may have read it, begin a new cluster", file, info.Mode().Perm())
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read cluster key: %w", err)
	}
	keys, err := events.ParseClusterKeys(string(text))
	if err != nil {
		return nil, fmt.Errorf("read cluster key %s: %w", file, err)
	}
	return keys, nil
}

// bootstrap is what a local client needs to begin, in bootstrap.json.
type bootstrap struct {
	URL      string `json:"url"`
	App      string `json:"app"`
	APIKey   string `json:"api_key"`
	AdminKey string `json:"admin_key"`
}

// readBootstrap returns nil without an error when there is no such file.
func (d dataDir) readBootstrap() (*bootstrap, error) { return readKeys(d.bootstrapFile()) }

// readPending is readBootstrap for secrets that may not be in the log yet.
func (d dataDir) readPending() (*bootstrap, error) { return readKeys(d.pendingFile()) }

func readKeys(file string) (*bootstrap, error) {
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, fmt.Errorf("read first keys: %w", err)
	}
	b := new(bootstrap)
	if err := json.Unmarshal(text, b); err != nil {
		return nil, fmt.Errorf("read first keys from %s: %w", file, err)
	}
	return b, nil
}

func (d dataDir) writeBootstrap(b *bootstrap) error { return writeKeys(d.bootstrapFile(), b) }

func (d dataDir) writePending(b *bootstrap) error { return writeKeys(d.pendingFile(), b) }

// publishBootstrap makes the pending secrets the bootstrap file.
func (d dataDir) publishBootstrap() error {
	if err := os.Rename(d.pendingFile(), d.bootstrapFile()); err != nil {
		return fmt.Errorf("publish first keys: %w", err)
	}
	return nil
}

func writeKeys(file string, b *bootstrap) error {
	text, err := json.MarshalIndent(b, "", "  ")
	if err != nil {
		return fmt.Errorf("encode %s: %w", file, err)
	}
	return writeFile(file, append(text, '\n'))
}

// writeFile replaces the file (0600) so that after a crash at any moment it is
// the old one or the new one, whole.
func writeFile(path string, data []byte) (err error) {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+"-*")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name()) // what is left over is only a spare name
			err = fmt.Errorf("write %s: %w", path, err)
		}
	}()
	_, werr := f.Write(data)
	if err := errors.Join(werr, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
