package main

import (
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

// connection returns how to connect. What the servers refuse is logged.
func (f *natsFlags) connection(name string, log *slog.Logger) events.ConnectConfig {
	c := events.ConnectConfig{URL: f.Nats, Name: name, Creds: f.NatsCreds, CA: f.NatsCA, Cert: f.NatsCert, Key: f.NatsKey}
	if log != nil {
		c.OnError = func(err error) { log.Warn("nats", "error", err) }
	}
	return c
}

// Budgets of a log on NATS servers elsewhere, whose free space nobody tells.
const (
	externalBytes = 4 << 30
	clusterCopies = 3
)

// reach connects to NATS servers elsewhere, and has the directory begin a
// cluster there (--init), or join the one that is there, if it remembers none.
func (s *store) reach(ctx context.Context, c storeConfig) (err error) {
	if s.lock, err = broker.Lock(c.dir.lockFile()); errors.Is(err, broker.ErrInUse) {
		return errInUse(c.dir)
	} else if err != nil {
		return c.dir.refuse(err)
	}
	if s.conn, err = events.Connect(c.nats.connection("revocast", c.log)); err != nil {
		return fmt.Errorf("%w; check --nats, and that a server runs there", err)
	}
	switch {
	case s.state != nil:
		return nil
	case !c.init:
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

// elsewhereCluster returns how a cluster's streams are made on NATS servers
// elsewhere. A cluster of servers must hold as many copies as survive the loss
// of one, unless it was said otherwise: a server that is only late must not
// cost the log its copies for good.
func (s *store) elsewhereCluster(c storeConfig) events.ClusterConfig {
	copies := c.replicas
	if copies == 0 && s.conn.ConnectedClusterName() != "" {
		copies = clusterCopies
	}
	size := int64(externalBytes)
	if c.maxBytes != 0 {
		size = c.maxBytes
	}
	return events.ClusterConfig{
		Cluster: s.state.Cluster, Region: s.state.Region, Keys: s.keys,
		MaxBytes: size, ConfigMaxBytes: min(size, events.DefaultConfigBytes), AuditMaxBytes: size, Replicas: copies,
	}
}

// createRefusal says what to do when streams could not be made.
func createRefusal(err error) error {
	switch {
	case errors.Is(err, events.ErrReplicas):
		return fmt.Errorf("%w; a cluster of servers holds %d copies unless it is told otherwise: start more servers, or give --replicas 1 to do without copies", err, clusterCopies)
	case errors.Is(err, events.ErrBudget):
		return fmt.Errorf("%w: give a smaller --max-bytes, which is needed twice, or raise max_file of the servers or the account", err)
	}
	return err
}

// join makes the directory that of a further node of the cluster on the
// servers. Nothing is made there.
func (s *store) join(ctx context.Context, c storeConfig) (err error) {
	if s.keys, err = c.dir.clusterKeys(c.keyFile, false); err != nil {
		return err
	}
	config, err := events.Open(ctx, s.conn, events.StreamConfig{Region: events.ConfigRegion})
	if errors.Is(err, events.ErrNoStream) {
		return fmt.Errorf("there is no cluster on %s: begin one with --init, on one node only; the others join it with its cluster key", s.elsewhere())
	} else if err != nil {
		return err
	}
	regions, err := config.Regions(ctx, s.keys)
	if errors.Is(err, events.ErrWrongKeys) {
		return fmt.Errorf("cluster key %s is not that of cluster %s on %s: give the one of the node that began it with --cluster-key-file or %s",
			strings.Join(s.keys.IDs(), ", "), config.Cluster(), s.elsewhere(), clusterKeyEnv)
	} else if err != nil {
		return err
	}
	names := slices.Sorted(maps.Keys(regions))
	region := c.region
	if region == "" && len(names) == 1 {
		region = names[0]
	}
	if !slices.Contains(names, region) {
		return fmt.Errorf("cluster %s has no region %q; it has %s: give one of these with --region", config.Cluster(), region, strings.Join(names, ", "))
	}
	s.state = newState(modeNats, region, s.keys.IDs()[0])
	s.state.Cluster, s.state.Joined = config.Cluster(), true
	return nil
}

// openRegion opens the stream of another region: it is in the JetStream domain
// of this one, or in one that is named as the region is.
func (s *store) openRegion(ctx context.Context, r *events.Region) (events.Log, error) {
	c := events.StreamConfig{Region: r.Region, Cluster: s.state.Cluster, Number: r.Number}
	l, err := events.Open(ctx, s.conn, c)
	if errors.Is(err, events.ErrNoStream) {
		c.Domain = r.Region
		l, err = events.Open(ctx, s.conn, c)
	}
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
