package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/events/broker"
)

// natsFlags say how NATS servers elsewhere are reached.
type natsFlags struct {
	Nats      string `name:"nats" placeholder:"URL[,URL…]" help:"NATS servers that hold the log, such as nats://user:password@n1:4222,nats://n2:4222 (default: none; the log is in the data directory). Passwords are better in REVOCAST_NATS or a file, as command lines can be seen by others."`
	NatsCreds string `name:"nats-creds" placeholder:"FILE" help:"Credentials file for NATS: a JWT and its nkey (default: none)."`
	NatsCA    string `name:"nats-ca" placeholder:"FILE" help:"Certificates that those of the NATS servers must be signed by (default: the system's)."`
	NatsCert  string `name:"nats-cert" placeholder:"FILE" help:"Certificate to show to the NATS servers; with --nats-key (default: none)."`
	NatsKey   string `name:"nats-key" placeholder:"FILE" help:"Key of --nats-cert."`
}

// check refuses flags that only mean something with --nats.
func (f *natsFlags) check() error {
	switch {
	case f.Nats == "" && f.NatsCreds+f.NatsCA+f.NatsCert+f.NatsKey != "":
		return &usageError{errors.New("--nats-creds, --nats-ca, --nats-cert and --nats-key need --nats")}
	case (f.NatsCert == "") != (f.NatsKey == ""):
		return &usageError{errors.New("--nats-cert and --nats-key: give both or neither")}
	}
	return nil
}

// connection returns how to connect. What the servers refuse is logged, and
// noted in denials (nil: nowhere).
func (f *natsFlags) connection(name string, log *slog.Logger, denials *events.Denials) events.ConnectConfig {
	c := events.ConnectConfig{URL: f.Nats, Name: name, Creds: f.NatsCreds, CA: f.NatsCA, Cert: f.NatsCert, Key: f.NatsKey}
	if log != nil {
		c.OnError = func(err error) {
			log.Warn("nats", "error", err)
			if denials != nil {
				denials.Note(err)
			}
		}
	}
	return c
}

// Budgets of a log on NATS servers elsewhere, whose free space nobody tells.
const (
	externalBytes = 4 << 30
	clusterCopies = 3
)

// reach connects to NATS servers elsewhere.
func (s *store) reach(c storeConfig) (err error) {
	if err := s.lockDir(c); err != nil {
		return err
	}
	if s.conn, err = events.Connect(c.nats.connection("revocast", c.log, &s.denials)); err != nil {
		return fmt.Errorf("%w; check --nats, and that a server runs there", err)
	}
	return nil
}

// lockDir keeps the directory for this process, where no broker does.
func (s *store) lockDir(c storeConfig) (err error) {
	if s.lock, err = broker.Lock(c.dir.lockFile()); errors.Is(err, broker.ErrInUse) {
		return errInUse(c.dir)
	} else if err != nil {
		return c.dir.refuse(err)
	}
	return nil
}

// belong has the directory begin a cluster on NATS servers (--init), or join the
// one that is there, if it remembers none.
func (s *store) belong(ctx context.Context, c storeConfig) error {
	switch {
	case s.state != nil:
		return nil
	case c.join != "" || !c.init:
		return s.join(ctx, c)
	}
	if err := s.vacant(ctx); err != nil {
		return err
	}
	return s.begin(c)
}

// vacant checks that no cluster is on the servers yet.
func (s *store) vacant(ctx context.Context) error {
	_, err := events.Open(ctx, s.conn, events.StreamConfig{Region: events.ConfigRegion})
	_, mismatch := errors.AsType[*events.MismatchError](err)
	switch {
	case errors.Is(err, events.ErrNoStream):
		return nil
	case err == nil:
		return fmt.Errorf("there is a cluster on %s already: join it, without --init and with its cluster key in --cluster-key-file or %s",
			s.elsewhere(), clusterKeyEnv)
	case mismatch:
		return fmt.Errorf("no cluster can begin on %s: %w", s.elsewhere(), err)
	}
	return fmt.Errorf("ask %s whether there is a cluster: %w", s.elsewhere(), err)
}

// createElsewhere makes the streams on NATS servers elsewhere. A cluster of
// servers must hold as many copies as survive the loss of one, unless it was
// said otherwise: a server that is only late must not cost the log its copies
// for good. Only one that says that it is alone holds one.
func (s *store) createElsewhere(ctx context.Context, c storeConfig) error {
	conf := s.elsewhereCluster(c)
	err := events.CreateCluster(ctx, s.conn, conf)
	// An earlier start that was interrupted may have found it to be alone.
	m, ok := errors.AsType[*events.MismatchError](err)
	single := ok && len(m.Differences) == 1 && m.Differences[0].Setting == "num_replicas"
	if c.replicas == 0 && (single || errors.Is(err, events.ErrStandalone)) {
		conf.Replicas = 1
		err = events.CreateCluster(ctx, s.conn, conf)
	}
	return createRefusal(err)
}

// elsewhereCluster returns how the streams are made there.
func (s *store) elsewhereCluster(c storeConfig) events.ClusterConfig {
	copies := cmp.Or(c.replicas, clusterCopies)
	size := int64(externalBytes)
	if c.maxBytes != 0 {
		size = c.maxBytes
	}
	return events.ClusterConfig{
		Cluster: s.state.Cluster, Region: s.state.Region, Keys: s.keys,
		Join: s.state.ConfigDomain, MaxBytes: size, ConfigMaxBytes: min(size, events.DefaultConfigBytes), AuditMaxBytes: size, Replicas: copies,
	}
}

// createRefusal says what to do when streams could not be made.
func createRefusal(err error) error {
	switch {
	case errors.Is(err, events.ErrStandalone):
		return fmt.Errorf("%w: give --replicas 1, or none", err)
	case errors.Is(err, events.ErrReplicas):
		return fmt.Errorf("%w; a cluster of servers holds %d copies unless it is told otherwise: start more servers, or give --replicas 1 to do without copies", err, clusterCopies)
	case errors.Is(err, events.ErrBudget):
		return fmt.Errorf("%w: give a smaller --max-bytes, which is needed twice, or raise max_file of the servers or the account", err)
	case errors.Is(err, events.ErrDenied):
		return fmt.Errorf("%w: begin as a NATS user who may make streams; from then on one who may not is enough", err)
	}
	return err
}

// join makes the directory that of a further node of a cluster, or, with --init,
// that of the first node of a further region, whose streams are then to be made.
func (s *store) join(ctx context.Context, c storeConfig) (err error) {
	if s.keys, err = c.dir.clusterKeys(c.keyFile, false); err != nil {
		return err
	}
	s.sealAsBefore("")
	config, err := events.Open(ctx, s.conn, events.StreamConfig{Region: events.ConfigRegion, Domain: c.join})
	switch {
	case errors.Is(err, events.ErrNoStream) && c.join != "":
		return fmt.Errorf("no cluster was begun in region %s, as seen from %s (%w)", c.join, s.elsewhere(), events.ErrNoStream)
	case errors.Is(err, events.ErrNoStream):
		return fmt.Errorf("there is no cluster on %s: begin one with --init, on one node only, or name the region that did with --join; other nodes need its cluster key (%w)", s.elsewhere(), events.ErrNoStream)
	case err != nil:
		return err
	}
	regions, err := config.Regions(ctx, s.keys)
	if errors.Is(err, events.ErrWrongKeys) {
		return fmt.Errorf("cluster key %s is not that of cluster %s on %s: give the one of the node that began it with --cluster-key-file or %s",
			strings.Join(s.keys.IDs(), ", "), config.Cluster(), s.elsewhere(), clusterKeyEnv)
	} else if err != nil {
		return err
	}
	region := c.region
	if c.init {
		err = s.vacantRegion(ctx, region)
	} else {
		region, err = chosen(region, regions, config.Cluster())
	}
	if err != nil {
		return err
	}
	s.state = newState(c.mode(), region, s.keys.Sealing())
	s.state.Cluster, s.state.Joined, s.state.ConfigDomain = config.Cluster(), true, c.join
	if c.init {
		return c.dir.writeState(s.state)
	}
	s.joining = true
	return nil
}

// chosen returns the region of a node that joins: the one it was told, or the
// only one there is.
func chosen(region string, regions map[string]uint8, cluster string) (string, error) {
	names := slices.Sorted(maps.Keys(regions))
	if region == "" && len(names) == 1 {
		region = names[0]
	}
	if !slices.Contains(names, region) {
		return "", &noRegionError{cluster: cluster, region: region, has: names}
	}
	return region, nil
}

// noRegionError says that a cluster lacks the region of a node that joins it.
type noRegionError struct {
	cluster, region string
	has             []string
}

// Error implements error.
func (e *noRegionError) Error() string {
	return fmt.Sprintf("cluster %s has no region %q; it has %s: give one of these with --region", e.cluster, e.region, strings.Join(e.has, ", "))
}

// vacantRegion checks that the servers hold no stream of the region yet.
func (s *store) vacantRegion(ctx context.Context, region string) error {
	_, err := events.Open(ctx, s.conn, events.StreamConfig{Region: region})
	switch {
	case errors.Is(err, events.ErrNoStream):
		return nil
	case err == nil:
		return fmt.Errorf("region %s is on %s already: join it, without --init", region, s.elsewhere())
	}
	return err
}

// openRegion opens the stream of another region: it is in the JetStream domain
// of this one, or in the one that CONFIG names, else in one that is named as the
// region is. A mirror of it is not it.
func (s *store) openRegion(ctx context.Context, r *events.Region) (events.Log, error) {
	c := events.StreamConfig{Region: r.Region, Cluster: s.state.Cluster, Number: r.Number}
	l, err := openNear(ctx, s.conn, c, cmp.Or(r.Domain, r.Region))
	if err != nil {
		return nil, err
	}
	return l, nil
}

// mustHaveKey refuses to join without a key, before anything is asked of the
// servers or made on disk.
func (d dataDir) mustHaveKey(file string) error {
	if _, ok := os.LookupEnv(clusterKeyEnv); ok || file != "" {
		return nil
	}
	if _, err := os.Stat(d.keyFile()); err == nil {
		return nil
	}
	return fmt.Errorf("a node that joins a cluster needs its key: give the cluster.key of the node that began it with --cluster-key-file or %s; to begin a new cluster, add --init",
		clusterKeyEnv)
}

// openNear opens the stream where the connection leads, and if it is not there,
// in the domain.
func openNear(ctx context.Context, nc *events.Conn, c events.StreamConfig, domain string) (*events.JetStream, error) {
	c.Domain = ""
	l, err := events.Open(ctx, nc, c)
	if domain != "" && (errors.Is(err, events.ErrNoStream) || errors.Is(err, events.ErrMirror)) {
		c.Domain = domain
		l, err = events.Open(ctx, nc, c)
	}
	return l, err
}
