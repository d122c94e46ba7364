package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"time"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/projection"
)

// migrateCmd carries an embedded log to NATS servers.
type migrateCmd struct {
	natsFlags      `embed:""`
	Data           string   `placeholder:"DIR" default:"revocast-data" help:"Data directory of the stopped node (default: ./revocast-data)."`
	ClusterKeyFile string   `placeholder:"FILE" help:"File with the cluster key (default: cluster.key in the data directory, or REVOCAST_CLUSTER_KEY)."`
	Replicas       int      `placeholder:"N" help:"Copies of the log there, 1 to 5 (default: 3)."`
	MaxBytes       byteSize `placeholder:"SIZE" help:"Budget of the log there, and of its history, such as 10GiB (default: as they are)."`
	JSON           bool     `name:"json" env:"-" help:"Print JSON."`
	logFlags       `embed:""`
}

// Help is shown by "migrate --help".
func (*migrateCmd) Help() string {
	return `Stop the node first. Its log is carried to the servers of --nats as it is, with every sequence, time and life; everything is read back and compared before the data directory is told that its log is elsewhere. Start the node with --nats from then on. What was in the data directory stays in jetstream.migrated until you remove it.

Interrupted, it is finished by the same command. It needs a NATS user who may make streams (operator, in deploy/nats).`
}

// migration is what the command prints.
type migration struct {
	Cluster  string            `json:"cluster"`
	Region   string            `json:"region"`
	Streams  []events.Migrated `json:"streams"`
	Sessions int               `json:"sessions"`
	Digest   string            `json:"digest"`
}

// Run implements the command.
func (c *migrateCmd) Run(e *env) error {
	if err := c.natsFlags.check(); err != nil {
		return err
	}
	switch {
	case c.Nats == "":
		return &usageError{errors.New("where to? give the NATS servers with --nats")}
	case c.Replicas < 0 || c.Replicas > 5:
		return &usageError{fmt.Errorf("--replicas %d: want 1 to 5", c.Replicas)}
	}
	dir := dataAt(c.Data)
	s, err := openStore(e.ctx, storeConfig{dir: dir, keyFile: c.ClusterKeyFile, log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	defer s.Close()
	log := c.logger(e)
	to, err := events.Connect(c.connection("revocast-migrate", log, nil))
	if err != nil {
		return fmt.Errorf("%w; check --nats, and that a server runs there", err)
	}
	defer to.Close()
	out, err := c.carry(e.ctx, s, to, log)
	if err != nil {
		return err
	}
	if err := c.move(s); err != nil {
		return err
	}
	return c.show(e, out)
}

// carry brings the streams over and checks that they come to the same there.
func (c *migrateCmd) carry(ctx context.Context, s *store, to *events.Conn, log *slog.Logger) (*migration, error) {
	out := &migration{Cluster: s.state.Cluster, Region: s.state.Region}
	copies := c.Replicas
	if copies == 0 {
		copies = clusterCopies
	}
	said := time.Now()
	var err error
	out.Streams, err = events.Migrate(ctx, s.conn, to, events.MigrateConfig{
		Cluster: s.state.Cluster, Region: s.state.Region, Replicas: copies, MaxBytes: int64(c.MaxBytes),
		Carried: func(stream string, bytes int64) {
			if time.Since(said) >= time.Second {
				said = time.Now()
				log.Info("carrying", "stream", stream, "sent", byteSize(bytes))
			}
		},
	})
	switch {
	case errors.Is(err, events.ErrDiffers):
		return nil, fmt.Errorf("%w; nothing was changed in %s: if no node has run on %s since an earlier migration, remove its streams there and begin again; else it is that log that lives",
			err, s.dir, events.RedactURL(c.Nats))
	case err != nil:
		return nil, createRefusal(err)
	}
	here, there := s.home, (*events.JetStream)(nil)
	if there, err = events.Open(ctx, to, s.state.stream(s.state.Region)); err != nil {
		return nil, err
	}
	now := time.Now().UnixMilli()
	was, err := folded(ctx, s.keys, here)
	if err != nil {
		return nil, err
	}
	is, err := folded(ctx, s.keys, there)
	if err != nil {
		return nil, err
	}
	out.Digest = is.Digest(there.Number(), now)
	if digest := was.Digest(here.Number(), now); digest != out.Digest {
		return nil, fmt.Errorf("the sessions there have digest %s, want %s: nothing was changed in %s", out.Digest, digest, s.dir)
	}
	out.Sessions, _ = is.Len()
	return out, nil
}

// folded returns what the log comes to.
func folded(ctx context.Context, keys *events.ClusterKeys, log *events.JetStream) (*projection.Map, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	m, whole := new(projection.Map), false
	err := log.Follow(ctx, events.Follow{
		Apply:    func(e events.Entry) error { m.Apply(keys.Decode(log.Number(), e)); return nil },
		CaughtUp: func() { whole = true; cancel() },
	})
	if err == nil && !whole {
		err = context.Cause(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", log.Region(), err)
	}
	return m, nil
}

// migratedDir is where the old log stays.
const migratedDir = "jetstream.migrated"

// move tells the data directory that its log is elsewhere. The directory first:
// an interruption after it leaves a log that nothing would start any more.
func (c *migrateCmd) move(s *store) error {
	s.state.Mode = modeNats
	if err := s.dir.writeState(s.state); err != nil {
		return fmt.Errorf("the log was carried, but %w; repeat the command", err)
	}
	s.conn.Close()
	s.broker.Close()
	old := s.dir.path(migratedDir)
	if _, err := os.Stat(old); !errors.Is(err, fs.ErrNotExist) {
		return nil // of an earlier time; this one stays where it is
	}
	if err := os.Rename(s.dir.logDir(), old); err != nil {
		return fmt.Errorf("the log was carried; the old one could not be set aside: %w", err)
	}
	return nil
}

func (c *migrateCmd) show(e *env, m *migration) error {
	raw, err := json.Marshal(m)
	if err != nil {
		return err
	}
	out := &client{out: e.stdout, json: c.JSON}
	return out.show(raw, func(w io.Writer) {
		row(w, "STREAM", "MESSAGES", "FIRST", "LAST", "DIGEST", "")
		for _, st := range m.Streams {
			note := "carried, compared"
			if st.Found {
				note = "was there, compared"
			}
			row(w, st.Stream, st.Messages, st.FirstSeq, st.LastSeq, st.Digest, note)
		}
		fmt.Fprintf(w, "\n%d sessions, digest %s on both sides.\nThe log is on %s now: start the node with --nats.\n",
			m.Sessions, m.Digest, events.RedactURL(c.Nats))
	})
}
