package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/revocast/revocast/events"
)

// regionCmd keeps copies of one region's log in another.
type regionCmd struct {
	Mirror  regionMirror  `cmd:"" help:"Keep a copy of another region's log on this region's servers, or say how far it is."`
	Promote regionPromote `cmd:"" help:"Go on with the copy, when that region's servers and their disks are lost."`
}

// regionFlags say which region is meant, and from where.
type regionFlags struct {
	natsFlags      `embed:""`
	Region         string `arg:"" help:"The region whose log is copied."`
	Data           string `placeholder:"DIR" default:"revocast-data" help:"Data directory of a node of this region; it may be running (default: ./revocast-data)."`
	ClusterKeyFile string `placeholder:"FILE" help:"File with the cluster key (default: cluster.key in the data directory, or REVOCAST_CLUSTER_KEY)."`
	Domain         string `env:"-" placeholder:"NAME" help:"JetStream domain of that region (default: named as the region)."`
	Replicas       int    `env:"-" placeholder:"N" help:"Copies on this region's servers, 1 to 5 (default: 3)."`
}

// open returns what the flags mean, and a connection that the caller closes.
func (f *regionFlags) open() (*events.Conn, events.MirrorConfig, error) {
	var c events.MirrorConfig
	switch {
	case f.Nats == "":
		return nil, c, &usageError{errors.New("where? give the NATS servers of this region with --nats")}
	case f.Replicas < 0 || f.Replicas > 5:
		return nil, c, &usageError{fmt.Errorf("--replicas %d: want 1 to 5", f.Replicas)}
	case !events.ValidName(f.Region):
		return nil, c, &usageError{fmt.Errorf("region %q: want [a-z0-9][a-z0-9_-]{0,63}", f.Region)}
	}
	if err := f.natsFlags.check(); err != nil {
		return nil, c, err
	}
	dir := dataAt(f.Data)
	st, err := dir.readState()
	switch {
	case err != nil:
		return nil, c, err
	case st == nil || st.Mode == modeEmbedded:
		return nil, c, fmt.Errorf("%s is not the data directory of a node on NATS servers: give it with --data", dir)
	case st.Region == f.Region:
		return nil, c, fmt.Errorf("data directory %s is of region %s itself: a mirror of it belongs on another region's servers", dir, f.Region)
	}
	keys, err := dir.clusterKeys(f.ClusterKeyFile, false)
	if err != nil {
		return nil, c, err
	}
	domain := cmp.Or(f.Domain, f.Region)
	c = events.MirrorConfig{
		Cluster: st.Cluster, Region: f.Region, Domain: domain, Settings: domain == st.ConfigDomain, ConfigDomain: st.ConfigDomain,
		Replicas: cmp.Or(f.Replicas, clusterCopies), Keys: keys,
	}
	nc, err := events.Connect(f.connection("revocast-region", nil, nil))
	if err != nil {
		return nil, c, fmt.Errorf("%w; check --nats, and that a server runs there", err)
	}
	return nc, c, nil
}

type regionMirror struct {
	regionFlags `embed:""`
	Status      bool `env:"-" help:"Make nothing; say how far the copy is."`
	JSON        bool `name:"json" env:"-" help:"Print JSON."`
}

// Help is shown by "region mirror --help".
func (*regionMirror) Help() string {
	return `The copy is kept by the NATS servers of this region (--nats, as a user who may make streams). Without it, a region whose disks are lost has lost its sessions: people log in again; revocations that another region has heard of are kept by its nodes.`
}

// Run implements the command.
func (r *regionMirror) Run(e *env) error {
	nc, c, err := r.open()
	if err != nil {
		return err
	}
	defer nc.Close()
	if !r.Status {
		if err := events.CreateMirror(e.ctx, nc, c); err != nil {
			return createRefusal(err)
		}
	}
	all, err := events.Mirrors(e.ctx, nc, c)
	if err != nil {
		return err
	}
	raw, err := json.Marshal(map[string]any{"mirrors": all})
	if err != nil {
		return err
	}
	out := &client{out: e.stdout, json: r.JSON}
	return out.show(raw, func(w io.Writer) {
		row(w, "STREAM", "SEQUENCE", "BEHIND", "HEARD")
		for _, m := range all {
			heard := "never"
			if m.Silent >= 0 {
				heard = m.Silent.Round(time.Millisecond).String() + " ago"
			}
			row(w, m.Stream, m.LastSeq, m.Lag, heard)
		}
	})
}

type regionPromote struct {
	regionFlags `embed:""`
}

// Help is shown by "region promote --help".
func (*regionPromote) Help() string {
	return `Only when the region's servers are lost for good: should they come back with their old disks, there would be two logs for the same sessions. Then restart the nodes of all regions, and start the region's nodes on these servers. What the copy had not yet taken is lost.`
}

// promoteTimeout bounds a promotion.
const promoteTimeout = 2 * time.Minute

// Run implements the command.
func (r *regionPromote) Run(e *env) error {
	nc, c, err := r.open()
	if err != nil {
		return err
	}
	defer nc.Close()
	ctx, cancel := context.WithTimeout(e.ctx, promoteTimeout)
	defer cancel()
	switch err := events.Promote(ctx, nc, c); {
	case errors.Is(err, events.ErrAlive):
		return fmt.Errorf("%w: region %s is not lost; stop its servers first if it is to be given up", err, r.Region)
	case errors.Is(err, events.ErrNoStream):
		return fmt.Errorf("%w: there is no copy of region %s on %s to go on with", err, r.Region, events.RedactURL(r.Nats))
	case err != nil:
		return createRefusal(err)
	}
	_, err = fmt.Fprintf(e.stdout, "Region %s lives on %s now. Restart the nodes of all regions; never start its old servers with their old disks.\n",
		r.Region, events.RedactURL(r.Nats))
	return err
}
