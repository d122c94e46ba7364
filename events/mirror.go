package events

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// metaMirror is the key of a mirror's metadata for the domain it copies from.
const metaMirror = "revocast.mirror"

var (
	// ErrMirror is returned by Open for a copy of a stream that lives elsewhere.
	ErrMirror = errors.New("the stream is a mirror of one elsewhere")
	// ErrAlive is returned by Promote while the stream that it is to replace answers.
	ErrAlive = errors.New("the region's own stream still answers")
)

// MirrorConfig says which region's streams are copied to where the connection
// leads, and what becomes of the copies.
type MirrorConfig struct {
	// Cluster is the id of the cluster, Region the region that is copied.
	// Required.
	Cluster, Region string
	// Domain is the JetStream domain of the region. Required.
	Domain string
	// Settings says that CONFIG lives in that domain, and is copied too.
	Settings bool
	// Replicas is the number of copies of each stream here, 1 to 5. 0 is 1.
	Replicas int
	// AuditMaxBytes is the budget of the history that begins at a promotion, in
	// bytes. 0 is none. Only Promote reads it.
	AuditMaxBytes int64
	// ConfigDomain is the JetStream domain of CONFIG, empty for where the
	// connection leads. Only Promote reads it, unless Settings is set.
	ConfigDomain string
	// Keys seal what a promotion writes to CONFIG. Only Promote reads them.
	Keys *ClusterKeys
	// Clock dates what a promotion writes. Nil is the machine's.
	Clock Clock
}

// MirrorState is how far a copy is.
type MirrorState struct {
	Stream string `json:"stream"`
	// LastSeq is the newest sequence that is here; Lag how many the copy knows
	// itself to be behind.
	LastSeq uint64 `json:"last_seq"`
	Lag     uint64 `json:"lag"`
	// Silent is how long nothing was heard from the region; negative: never.
	Silent time.Duration `json:"silent_ns"`
}

func (c *MirrorConfig) streams() []string {
	names := []string{streamName(c.Region)}
	if c.Settings {
		names = append(names, streamName(ConfigRegion))
	}
	return names
}

func (c *MirrorConfig) check() error {
	switch {
	case !ValidName(c.Cluster):
		return fmt.Errorf("bad cluster id %q", c.Cluster)
	case !ValidName(c.Region):
		return fmt.Errorf("bad region %q", c.Region)
	case c.Domain == "":
		return errors.New("no domain")
	}
	return nil
}

// CreateMirror makes a copy of the region's stream, sequences and times kept,
// which follows it from then on: what is left of the region when its disks are
// lost. Nobody reads it. What exists already is left as it is.
func CreateMirror(ctx context.Context, nc *nats.Conn, c MirrorConfig) error {
	if err := c.check(); err != nil {
		return fmt.Errorf("create mirror: %w", err)
	}
	there, err := newAPI(nc, c.Domain)
	if err != nil {
		return fmt.Errorf("create mirror: %w", err)
	}
	here, err := newAPI(nc, "")
	if err != nil {
		return fmt.Errorf("create mirror: %w", err)
	}
	for _, name := range c.streams() {
		asking, cancel := context.WithTimeout(ctx, settled)
		origin, err := there.config(asking, name)
		cancel()
		if err != nil {
			return fmt.Errorf("mirror %s of domain %s: %w", name, c.Domain, err)
		}
		if cluster := origin.Config.Metadata[metaCluster]; cluster != c.Cluster {
			return fmt.Errorf("mirror %s of domain %s: it belongs to cluster %q, not %q", name, c.Domain, cluster, c.Cluster)
		}
		if err := createStream(ctx, here, c.mirror(origin.Config)); err != nil {
			return err
		}
		have, err := here.config(ctx, name)
		if err != nil {
			return fmt.Errorf("mirror %s: %w", name, err)
		}
		if have.Config.Mirror == nil {
			return fmt.Errorf("mirror %s: a stream of that name is here already, and is no mirror", name)
		}
	}
	return nil
}

// mirror returns the settings of a copy. It has no subjects and republishes
// nothing: it must not answer for its origin.
func (c *MirrorConfig) mirror(origin jetstream.StreamConfig) jetstream.StreamConfig {
	m := jetstream.StreamConfig{
		Name: origin.Name, Storage: jetstream.FileStorage, Replicas: max(c.Replicas, 1),
		MaxMsgsPerSubject: 1, AllowMsgTTL: true, DenyDelete: true, DenyPurge: true,
		Discard: jetstream.DiscardNew, MaxBytes: origin.MaxBytes, MaxMsgSize: origin.MaxMsgSize,
		Mirror:   &jetstream.StreamSource{Name: origin.Name, External: &jetstream.ExternalStream{APIPrefix: "$JS." + c.Domain + ".API"}},
		Metadata: map[string]string{metaMirror: c.Domain},
	}
	for _, k := range []string{metaFormat, metaCluster, metaEpoch, metaNumber} {
		m.Metadata[k] = origin.Metadata[k]
	}
	return m
}

// Mirrors returns how far the copies of the region's streams are.
func Mirrors(ctx context.Context, nc *nats.Conn, c MirrorConfig) ([]MirrorState, error) {
	here, err := newAPI(nc, "")
	if err != nil {
		return nil, fmt.Errorf("read mirrors: %w", err)
	}
	var all []MirrorState
	for _, name := range c.streams() {
		s, err := here.config(ctx, name)
		switch {
		case apiCode(err) == codeNoStream:
			return all, fmt.Errorf("read mirror %s: %w", name, ErrNoStream)
		case err != nil:
			return all, fmt.Errorf("read mirror %s: %w", name, err)
		case s.Mirror == nil:
			return all, fmt.Errorf("stream %s is no mirror", name)
		}
		all = append(all, MirrorState{Stream: name, LastSeq: s.State.LastSeq, Lag: s.Mirror.Lag, Silent: s.Mirror.Active})
	}
	return all, nil
}

// Promote makes the copies the region's streams, and writes into CONFIG where
// they are now. It is for a region whose disks are lost: while that still
// answers, it is ErrAlive. What its streams took that the copies lack is lost,
// but for the revocations that some node has applied: nodes append those again.
//
// The lost region's servers MUST NOT come back with their old streams: there
// would be two logs for the same subjects. Repeating an interrupted call
// finishes it.
func Promote(ctx context.Context, nc *nats.Conn, c MirrorConfig) error {
	if err := c.check(); err != nil {
		return fmt.Errorf("promote: %w", err)
	}
	if c.Clock == nil {
		c.Clock = SystemClock{}
	}
	if err := c.dead(ctx, nc); err != nil {
		return fmt.Errorf("promote: %w", err)
	}
	here, err := newAPI(nc, "")
	if err != nil {
		return fmt.Errorf("promote: %w", err)
	}
	for _, name := range c.streams() {
		if err := c.promote(ctx, here, name); err != nil {
			return fmt.Errorf("promote %s: %w", name, err)
		}
	}
	number, err := c.moved(ctx, here)
	if err != nil {
		return fmt.Errorf("promote: write into CONFIG where the region is: %w", err)
	}
	return createStream(ctx, here, auditStream(ClusterConfig{
		Cluster: c.Cluster, Region: c.Region, Replicas: max(c.Replicas, 1), Retention: DefaultRetention,
		AuditMaxBytes: c.AuditMaxBytes, Join: c.configDomain(),
	}, number))
}

// configDomain is where CONFIG is once the promotion is done.
func (c *MirrorConfig) configDomain() string {
	if c.Settings {
		return ""
	}
	return c.ConfigDomain
}

// How long a region must be silent until it is taken for lost: a leader is
// elected in 4 to 9 s, and a link that was cut is tried again each second. Where
// nobody listens at all, no election is under way.
const (
	silentFor = 15 * time.Second
	nobodyFor = 2 * time.Second
)

// dead returns ErrAlive when the region's own stream answers, or servers do that
// do not say that it is gone. That it may not be asked proves nothing.
func (c *MirrorConfig) dead(ctx context.Context, nc *nats.Conn) error {
	there, err := newAPI(nc, c.Domain)
	if err != nil {
		return err
	}
	begun, pause := time.Now(), backoff{}
	for {
		err := there.once(ctx, "STREAM.INFO."+streamName(c.Region), struct{}{}, new(streamState))
		limit := silentFor
		switch _, refused := errors.AsType[*apiError](err); {
		case errors.Is(err, ErrDenied):
			return err
		case apiCode(err) == codeNoStream:
			return nil // its servers are there, and its disks are not
		case err == nil, refused:
			return fmt.Errorf("%w in domain %s", ErrAlive, c.Domain)
		case errors.Is(err, nats.ErrNoResponders):
			limit = nobodyFor
		}
		if time.Since(begun) >= limit {
			return nil
		}
		if !pause.wait(ctx) {
			return ctx.Err()
		}
	}
}

func (c *MirrorConfig) promote(ctx context.Context, here jsAPI, name string) error {
	have, err := here.config(ctx, name)
	if apiCode(err) == codeNoStream {
		return ErrNoStream
	} else if err != nil {
		return err
	}
	if cluster := have.Config.Metadata[metaCluster]; cluster != c.Cluster {
		return fmt.Errorf("it belongs to cluster %q, not %q", cluster, c.Cluster)
	}
	if have.Config.Mirror == nil {
		return nil // by an earlier call
	}
	if have.State.LastSeq == 0 {
		return errors.New("the copy is empty: it never reached its region")
	}
	region := c.Region
	if name == streamName(ConfigRegion) {
		region = ConfigRegion
	}
	want := eventStream(ClusterConfig{Cluster: c.Cluster, Replicas: have.Config.Replicas}, region, 0, have.Config.MaxBytes)
	want.MaxMsgSize = have.Config.MaxMsgSize
	for _, k := range []string{metaFormat, metaCluster, metaEpoch, metaNumber} {
		want.Metadata[k] = have.Config.Metadata[k]
	}
	if err := here.within(ctx, migrateStep, "STREAM.UPDATE."+name, want, new(json.RawMessage)); err != nil {
		return err
	}
	_, err = Open(ctx, here.nc, StreamConfig{Region: region, Cluster: c.Cluster})
	return err
}

// moved writes into CONFIG that the region's stream is here.
func (c *MirrorConfig) moved(ctx context.Context, here jsAPI) (uint8, error) {
	account, err := here.js.AccountInfo(ctx)
	if err != nil {
		return 0, fmt.Errorf("ask for the JetStream domain: %w", explain(here.nc, here.prefix+"INFO", err))
	}
	if account.Domain == "" {
		return 0, errors.New("the servers have no JetStream domain, so other regions cannot find the stream there")
	}
	config, err := Open(ctx, here.nc, StreamConfig{Region: ConfigRegion, Cluster: c.Cluster, Number: ConfigNumber, Domain: c.configDomain()})
	if err != nil {
		return 0, err
	}
	claims, _, err := config.claims(ctx, c.Keys)
	if err != nil {
		return 0, err
	}
	for _, held := range claims {
		if held.region != c.Region {
			continue
		}
		if held.domain == account.Domain {
			return held.number, nil
		}
		e := &Region{Region: c.Region, Number: held.number, Domain: account.Domain, At: c.Clock.Wall().UnixMilli()}
		m, err := c.Keys.Encode(ConfigRegion, e, nil, 0)
		if err != nil {
			return 0, err
		}
		_, err = config.Append(ctx, m, Expect(held.seq))
		return held.number, err
	}
	return 0, fmt.Errorf("it has no region %q", c.Region)
}
