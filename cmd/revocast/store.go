package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/events/broker"
)

// storeConfig says which data directory is opened, and how.
type storeConfig struct {
	dir dataDir
	// region must be the directory's; empty: the one it has, "local" for a new one.
	region string
	// keyFile holds the cluster keys; empty: see dataDir.clusterKeys.
	keyFile string
	// create allows a new cluster where there is none; init also where
	// something else lies in the directory.
	create, init bool
	// nats says where the log is, if not in the directory.
	nats natsFlags
	// file is the configuration of a NATS server in this process that holds the
	// log, alone or with others; user is the user of it that the node is.
	file, user string
	// join is the region that began the cluster, if it is not the directory's.
	join string
	// replicas is the number of copies of a new log elsewhere; 0: see
	// createElsewhere.
	replicas int
	// maxBytes is the budget of a new log; 0: see budgets.
	maxBytes int64
	// listen is the address on which NATS clients are taken; empty: none.
	listen string
	log    *slog.Logger
}

// store is an opened data directory, and the streams in it or on NATS servers
// elsewhere.
type store struct {
	dir   dataDir
	conf  storeConfig
	state *state
	keys  *events.ClusterKeys
	// keyWatch is about their file; unproven says that they lack the key that
	// the directory remembers.
	keyWatch *keyWatch
	unproven bool
	broker   *broker.Broker // nil: the log is elsewhere
	server   *broker.Server // nil: no server of a file runs here
	lock     io.Closer      // of the directory, where no broker holds it
	// joining says that the streams are there, and the directory is new.
	joining bool
	conn    *events.Conn
	denials events.Denials // what its servers deny

	settings, home *events.JetStream
	archive        *events.JetStreamArchive
}

// archiveWait is how long a start waits for the archive, which is a second at
// most with a healthy log. A history with a gap is better than no start.
const archiveWait = 5 * time.Second

// openStore opens the data directory, or makes it. It starts no goroutine of
// its own; the broker's and the connection's end with Close.
func openStore(ctx context.Context, c storeConfig) (_ *store, err error) {
	s := &store{dir: c.dir, conf: c}
	// Before the keys are read: a change in between is seen afterwards.
	s.keyWatch = &keyWatch{file: c.dir.keySource(c.keyFile), log: c.log}
	s.keyWatch.seen = stampOf(s.keyWatch.file)
	if s.state, err = s.known(c); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			s.Close()
		}
	}()
	switch c.mode() {
	case modeNats:
		if err = s.reach(c); err == nil {
			err = s.open(ctx, c)
		}
	case modeFile:
		err = s.member(ctx, c)
	default:
		if err = s.embed(ctx, c); err == nil {
			err = s.open(ctx, c)
		}
	}
	if err != nil {
		return nil, err
	}
	s.keyWatch.keys = s.keys
	if s.keyWatch.seen.mode == 0 {
		s.keyWatch.seen = stampOf(s.keyWatch.file) // made by this start
	}
	await, cancel := context.WithTimeout(ctx, archiveWait)
	defer cancel()
	if err := s.archive.Await(await); err != nil {
		c.log.Warn("the history of sessions may begin with a gap", "error", err)
	}
	if s.state.Created {
		return s, nil
	}
	s.state.Created = true
	s.state.Streams = map[string]streamState{}
	for _, l := range []*events.JetStream{s.settings, s.home} {
		s.state.Streams[l.Region()] = streamState{Number: l.Number(), Epoch: l.Epoch()}
	}
	return s, s.dir.writeState(s.state)
}

// open finds the streams, or makes them, or joins a cluster, as the directory
// remembers and the flags say. It may be called again after an error.
func (s *store) open(ctx context.Context, c storeConfig) error {
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	if s.broker == nil {
		if err := s.belong(ctx, c); err != nil {
			return err
		}
	}
	if !s.state.Created && !s.joining {
		if err := s.create(ctx, c); err != nil {
			return err
		}
	}
	if err := s.openStreams(ctx); err != nil {
		return s.streamRefusal(err)
	}
	if s.unproven {
		return s.proveKeys(ctx)
	}
	return nil
}

// embed starts the server in this process.
func (s *store) embed(ctx context.Context, c storeConfig) (err error) {
	s.broker, err = broker.Start(ctx, broker.Config{StoreDir: c.dir.logDir(), Name: "revocast", Listen: c.listen, Log: c.log})
	if err != nil {
		return brokerRefusal(c, err)
	}
	if s.conn, err = s.broker.Connect("revocast"); err != nil {
		return err
	}
	if s.state == nil {
		return s.begin(c)
	}
	return nil
}

// create makes the streams.
func (s *store) create(ctx context.Context, c storeConfig) error {
	if s.broker == nil {
		return s.createElsewhere(ctx, c)
	}
	conf, err := s.newCluster(c)
	if err != nil {
		return err
	}
	return events.CreateCluster(ctx, s.conn, conf)
}

func (s *store) openStreams(ctx context.Context) (err error) {
	st := s.state
	// CONFIG is here once the copy here was promoted, whatever the directory knows.
	if s.settings, err = openNear(ctx, s.conn, st.stream(events.ConfigRegion), st.ConfigDomain); err != nil {
		return err
	}
	if s.home, err = events.Open(ctx, s.conn, st.stream(st.Region)); err != nil {
		return err
	}
	return s.openArchive(ctx)
}

// openArchive opens the history of the region. One that is gone is made again:
// the log is whole without it.
func (s *store) openArchive(ctx context.Context) (err error) {
	c := events.ArchiveConfig{Region: s.state.Region, Cluster: s.state.Cluster}
	if s.archive, err = events.OpenArchive(ctx, s.conn, c); err == nil {
		s.resumeArchive(ctx)
	}
	if !errors.Is(err, events.ErrNoStream) {
		return err
	}
	budget := int64(0)
	if s.broker != nil {
		info, err := s.home.Info(ctx)
		if err != nil {
			return err
		}
		free, err := s.broker.FreeBytes()
		if err != nil {
			return err
		}
		budget = int64(min(free/4, info.MaxBytes, maxDefaultBytes))
	}
	switch err = s.home.RemakeArchive(ctx, s.state.ConfigDomain, budget); {
	case errors.Is(err, events.ErrDenied):
		return fmt.Errorf("the history of region %s is lost (%w): start one node once as a NATS user who may make streams, and it is made again", s.state.Region, err)
	case err != nil:
		return err
	}
	s.conf.log.Warn("the history of sessions was lost, as a power cut may do; it begins anew with what the log holds", "region", s.state.Region)
	s.archive, err = events.OpenArchive(ctx, s.conn, c)
	return err
}

// resumeArchive makes the history go on when the log went backwards while nobody
// looked. Without it the node serves as well.
func (s *store) resumeArchive(ctx context.Context) {
	resumed, err := s.archive.Resume(ctx, s.home)
	log := s.conf.log.With("region", s.state.Region)
	switch {
	case errors.Is(err, events.ErrDenied):
		log.Warn("the log went backwards, and the history of sessions takes nothing until it has come as far again: start one node once as a NATS user who may make streams", "error", oneLine(err))
	case err != nil:
		log.Warn("it is not known whether the history of sessions is whole", "error", oneLine(err))
	case resumed:
		log.Warn("the log went backwards; the history of sessions goes on with what it takes from now on")
	}
}

// known checks all that can be checked before the log is touched, and returns
// what the directory remembers, nil for a new one.
func (s *store) known(c storeConfig) (*state, error) {
	if c.region != "" && !events.ValidName(c.region) {
		return nil, fmt.Errorf("region %q: want [a-z0-9][a-z0-9_-]{0,63}", c.region)
	}
	if c.create {
		if err := c.dir.prepare(); err != nil {
			return nil, err
		}
	}
	st, err := c.dir.readState()
	if err != nil {
		return nil, err
	}
	if st == nil {
		if !c.create {
			return nil, fmt.Errorf("%s is not the data directory of a node: give it with --data", c.dir)
		}
		if c.mode() != modeEmbedded && (!c.init || c.join != "") {
			if err := c.dir.mustHaveKey(c.keyFile); err != nil {
				return nil, err
			}
		}
		// Nothing begins on a server of a file without an explicit --init, and
		// its store may lie in the directory.
		return nil, c.dir.beginnable(c.init || c.mode() == modeFile)
	}
	if err := c.dir.sameMode(st.Mode, c.mode()); err != nil {
		return nil, err
	}
	if c.join != "" && c.join != st.ConfigDomain {
		return nil, fmt.Errorf("data directory %s belongs to a cluster that was begun by %s, not by region %q: start it without --join", c.dir, cmp.Or(st.ConfigDomain, "its own region"), c.join)
	}
	if c.region != "" && c.region != st.Region {
		return nil, fmt.Errorf("data directory %s belongs to region %q, not %q: start it with --region %[2]s, or give another --data for region %[3]s", c.dir, st.Region, c.region)
	}
	if s.keys, err = c.dir.clusterKeys(c.keyFile, false); err != nil {
		return nil, err
	}
	if s.unproven = !s.sealAsBefore(st.Key); s.unproven && !st.Created {
		return nil, s.checkKeys(st)
	}
	return st, nil
}

// sealAsBefore makes the key seal that sealed when the node last ran, and reports
// whether it is held. Else it is the last of them, which is the oldest: the node
// chooses as soon as it hears the others.
func (s *store) sealAsBefore(id string) bool {
	if s.keys.SealWith(id) {
		return true
	}
	ids := s.keys.IDs()
	s.keys.SealWith(ids[len(ids)-1])
	return false
}

// proveKeys refuses keys that do not open the log. The one that the directory
// remembers may have been retired while the node was stopped.
func (s *store) proveKeys(ctx context.Context) error {
	_, err := s.settings.Regions(ctx, s.keys)
	if errors.Is(err, events.ErrWrongKeys) {
		return s.checkKeys(s.state)
	}
	return err
}

// checkKeys refuses keys that do not open the log of the state.
func (s *store) checkKeys(st *state) error {
	for _, id := range s.keys.IDs() {
		if id == st.Key {
			return nil
		}
	}
	return fmt.Errorf("cluster key %s is not the one that data directory %s was made with (%s): restore that key, or give it with --cluster-key-file or %s",
		strings.Join(s.keys.IDs(), ", "), s.dir, st.Key, clusterKeyEnv)
}

// begin makes the key and the memory of a new cluster. The directory is locked,
// by the broker or by reach, so that no second process does the same.
func (s *store) begin(c storeConfig) (err error) {
	if s.state, err = c.dir.readState(); err != nil {
		return err
	}
	if s.keys, err = c.dir.clusterKeys(c.keyFile, true); err != nil {
		return err
	}
	if s.state != nil {
		return s.checkKeys(s.state) // another process made it a moment ago
	}
	region := c.region
	if region == "" {
		region = "local"
	}
	// So that nobody commits the keys by accident where the directory lies in
	// a repository.
	if err := writeFile(c.dir.path(".gitignore"), []byte("*\n")); err != nil {
		return err
	}
	s.state = newState(c.mode(), region, s.keys.Sealing())
	return c.dir.writeState(s.state)
}

// Limits of the budgets that are chosen for a new log.
const (
	// maxDefaultBytes is the largest budget chosen by default: more than a
	// hundred million sessions.
	maxDefaultBytes = 64 << 30
	// minBytes is the smallest budget a log can live with.
	minBytes = 1 << 20
)

// newCluster returns how the cluster's streams are made. The server sets all
// budgets aside at once, out of nine tenths of the free space.
func (s *store) newCluster(c storeConfig) (events.ClusterConfig, error) {
	free, err := s.broker.FreeBytes()
	if err != nil {
		return events.ClusterConfig{}, err
	}
	space := int64(min(free, 1<<62))
	conf := events.ClusterConfig{
		Cluster: s.state.Cluster, Region: s.state.Region, Keys: s.keys,
		MaxBytes:       min(space/2, maxDefaultBytes),
		ConfigMaxBytes: min(space/20, events.DefaultConfigBytes),
		AuditMaxBytes:  min(space/4, maxDefaultBytes),
	}
	if c.maxBytes != 0 {
		conf.MaxBytes = c.maxBytes
		conf.AuditMaxBytes = min(conf.AuditMaxBytes, c.maxBytes)
	}
	switch total := conf.MaxBytes + conf.ConfigMaxBytes + conf.AuditMaxBytes; {
	case conf.MaxBytes < minBytes || conf.ConfigMaxBytes < minBytes:
		return conf, fmt.Errorf("a budget of %s for the log is too small (%s free in %s): make space or give a larger --max-bytes",
			byteSize(conf.MaxBytes), byteSize(space), c.dir)
	case total > space/10*9:
		return conf, fmt.Errorf("a budget of %s for the log and %s for its history does not fit into the %s free in %s: give a smaller --max-bytes",
			byteSize(conf.MaxBytes), byteSize(conf.AuditMaxBytes), byteSize(space), c.dir)
	}
	return conf, nil
}

// streamRefusal says what to do about a stream that is gone.
func (s *store) streamRefusal(err error) error {
	switch {
	case errors.Is(err, events.ErrNoStream) && s.broker == nil:
		return fmt.Errorf("%s lacks a stream of cluster %s (%w): check that %s names its servers and its account; if they lost it, restore it from a backup; a new cluster needs --init and another --data",
			s.elsewhere(), s.state.Cluster, err, logOf[s.conf.mode()].flag)
	case errors.Is(err, events.ErrNoStream):
		return fmt.Errorf("the log in %s has lost a stream that it had (%w): restore the directory from a backup; to begin anew, give another --data",
			s.dir, err)
	}
	return err
}

// brokerRefusal says what to do about a log that cannot be opened.
func brokerRefusal(c storeConfig, err error) error {
	if strings.Contains(err.Error(), "in use by another broker") {
		return errInUse(c.dir)
	}
	return fmt.Errorf("open the log in %s: %w", c.dir, err)
}

func errInUse(dir dataDir) error {
	return fmt.Errorf("another process runs on data directory %s: stop it first, or give another --data", dir)
}

// mode returns where the log is.
func (c *storeConfig) mode() string {
	switch {
	case c.file != "":
		return modeFile
	case c.nats.Nats != "":
		return modeNats
	}
	return modeEmbedded
}

// natsURL returns under which address NATS clients reach the log, for people;
// empty: they do not.
func (s *store) natsURL() string {
	switch {
	case s.broker != nil:
		return s.broker.ClientURL()
	case s.server != nil:
		return s.server.ClientURL()
	}
	return s.elsewhere()
}

// elsewhere returns the addresses of the NATS servers, for people.
func (s *store) elsewhere() string {
	if s.conf.file != "" {
		return "the NATS servers of " + s.conf.file
	}
	return events.RedactURL(s.conf.nats.Nats)
}

// durability says what an acknowledgement of the log is worth now: of a cluster
// of servers, as far as the one in this process goes.
func (s *store) durability() string {
	switch {
	case s.broker != nil && s.broker.SyncAlways(), s.server != nil && s.server.SyncAlways():
		return "fsync"
	case s.server != nil:
		return "interval"
	}
	return "unverified"
}

// openTimeout bounds how long the streams may take to answer when the store is
// opened. Recovery of a large log is not part of it.
const openTimeout = time.Minute

// Close ends the connection, then the server: a client that is still connected
// would go on asking for a server that is gone.
func (s *store) Close() {
	if s.conn != nil {
		s.conn.Close()
	}
	if s.broker != nil {
		s.broker.Close()
	}
	if s.server != nil {
		s.server.Retire()
	}
	if s.lock != nil {
		_ = s.lock.Close() // what releases it; nothing was written through it
	}
}
