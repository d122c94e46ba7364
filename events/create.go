package events

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Defaults of a ClusterConfig.
const (
	// DefaultRetention is how long AUDIT keeps an event.
	DefaultRetention = 400 * 24 * time.Hour
	// DefaultConfigBytes is the budget of CONFIG.
	DefaultConfigBytes = 64 << 20
)

// duplicates is the window in which the server remembers message ids. None are
// sent, so it is as short as a server takes.
const duplicates = 100 * time.Millisecond

// Why NATS servers refuse to make a stream.
var (
	// ErrReplicas: there are fewer servers than copies asked for.
	ErrReplicas = errors.New("the NATS servers cannot hold so many copies")
	// ErrStandalone: more than one copy was asked of a server that is no member
	// of a cluster.
	ErrStandalone = errors.New("the NATS server is alone and cannot hold copies")
	// ErrBudget: the budget is more than the servers, or the account, may
	// still set aside.
	ErrBudget = errors.New("the NATS servers cannot set so much space aside")
	// ErrWrongKeys: none of the cluster keys opens what the stream holds.
	ErrWrongKeys = errors.New("the cluster key is not the one that sealed this log")
)

// peersWait is how long a refusal for lack of servers may be that of a cluster
// whose servers are still finding each other.
const peersWait = 10 * time.Second

// ClusterConfig says what CreateCluster makes.
type ClusterConfig struct {
	// Cluster is the id of the cluster, a name. Required.
	Cluster string
	// Region is the region whose streams are made. Required.
	Region string
	// Keys seal the event that assigns the region its number. Required.
	Keys *ClusterKeys
	// MaxBytes is the budget of the region's stream in bytes. The server sets
	// it aside at once, so all budgets together must fit into its max_file.
	// Required.
	MaxBytes int64
	// ConfigMaxBytes is the budget of CONFIG in bytes. 0 is DefaultConfigBytes.
	ConfigMaxBytes int64
	// AuditMaxBytes is the budget of AUDIT in bytes; beyond it the oldest
	// history goes. 0 is none: then only the age bounds it.
	AuditMaxBytes int64
	// Retention is how long AUDIT keeps an event. 0 is DefaultRetention.
	Retention time.Duration
	// Replicas is the number of copies of each stream, 1 or 3. 0 is 1.
	Replicas int
	// Domain is the JetStream domain of the region. Empty is the connection's own.
	Domain string
	// Join is the JetStream domain of the region that began the cluster: then
	// the region is added to that cluster, and CONFIG stays where it is. Empty
	// is for the region that begins it.
	Join string
	// Clock dates the region's event. Nil is the machine's.
	Clock Clock
}

// CreateCluster makes what a cluster needs to begin: the stream CONFIG (unless
// the region joins one), the number of the region, assigned in CONFIG, the
// region's stream EV_<region> and its archive AUDIT_<region>. What exists already and belongs to the cluster is
// left as it is, so that a creation that was interrupted is completed by the
// same call, and another region is added by a call with its name.
//
// Only an operator's --init may call it: a cluster that lost its log must not
// begin an empty one by itself.
func CreateCluster(ctx context.Context, nc *nats.Conn, c ClusterConfig) error {
	if err := c.complete(); err != nil {
		return fmt.Errorf("create cluster: %w", err)
	}
	api, err := newAPI(nc, c.Domain)
	if err != nil {
		return fmt.Errorf("create cluster: %w", err)
	}
	if c.Join == "" {
		if err := createStream(ctx, api, eventStream(c, ConfigRegion, ConfigNumber, c.ConfigMaxBytes)); err != nil {
			return err
		}
	}
	number, err := assignNumber(ctx, nc, c)
	if err != nil {
		return fmt.Errorf("assign number to region %s: %w", c.Region, err)
	}
	if err := createStream(ctx, api, eventStream(c, c.Region, number, c.MaxBytes)); err != nil {
		return err
	}
	_, err = Open(ctx, nc, StreamConfig{Region: c.Region, Cluster: c.Cluster, Number: number, Replicas: c.Replicas, Domain: c.Domain})
	if err != nil {
		return err
	}
	return createStream(ctx, api, auditStream(c, number))
}

// complete checks what is required and fills in the defaults.
func (c *ClusterConfig) complete() error {
	switch {
	case !ValidName(c.Cluster):
		return fmt.Errorf("bad cluster id %q", c.Cluster)
	case !ValidName(c.Region):
		return fmt.Errorf("bad region %q", c.Region)
	case c.Keys == nil:
		return errors.New("no cluster key")
	case c.MaxBytes <= 0 || c.ConfigMaxBytes < 0 || c.AuditMaxBytes < 0 || c.Retention < 0 || c.Replicas < 0:
		return errors.New("a size is missing or negative")
	}
	if c.ConfigMaxBytes == 0 {
		c.ConfigMaxBytes = DefaultConfigBytes
	}
	if c.Retention == 0 {
		c.Retention = DefaultRetention
	}
	if c.Replicas == 0 {
		c.Replicas = 1
	}
	if c.Clock == nil {
		c.Clock = SystemClock{}
	}
	return nil
}

// eventStream is the configuration of a stream of events; DESIGN.md ("Stream")
// says why.
func eventStream(c ClusterConfig, region string, number uint8, maxBytes int64) jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name: streamName(region), Subjects: []string{"ev." + region + ".>"},
		Storage: jetstream.FileStorage, Replicas: c.Replicas,
		MaxMsgsPerSubject: 1, AllowMsgTTL: true, AllowDirect: true, AllowAtomicPublish: true,
		DenyDelete: true, DenyPurge: true,
		Discard: jetstream.DiscardNew, MaxBytes: maxBytes, MaxMsgSize: maxMsgSize, Duplicates: duplicates,
		RePublish: &jetstream.RePublish{Source: "ev.>", Destination: "live.>"},
		Metadata:  metadata(c, number),
	}
}

func metadata(c ClusterConfig, number uint8) map[string]string {
	return map[string]string{
		metaFormat: streamFormat, metaCluster: c.Cluster, metaEpoch: rand.Text(), metaNumber: strconv.Itoa(int(number)),
	}
}

// auditStream is the configuration of the archive. Exact kinds, because a
// heartbeat a second and node would bury them; one filter each, because every
// filter stands in a header of every stored message.
func auditStream(c ClusterConfig, number uint8) jetstream.StreamConfig {
	config := source(ConfigRegion, KindApp, KindKey, KindAPIKey, KindSetting, KindRegion)
	if c.Join != "" {
		config.External = &jetstream.ExternalStream{APIPrefix: "$JS." + c.Join + ".API"}
	}
	s := jetstream.StreamConfig{
		Name: archiveName(c.Region), Storage: jetstream.FileStorage, Replicas: c.Replicas,
		MaxAge: c.Retention, MaxBytes: -1, Discard: jetstream.DiscardOld, AllowDirect: true,
		Sources: []*jetstream.StreamSource{
			source(c.Region, sessionKinds...),
			config,
		},
		Metadata: metadata(c, number),
	}
	if c.AuditMaxBytes > 0 {
		s.MaxBytes = c.AuditMaxBytes
	}
	if c.Replicas == 1 {
		// It can be sourced again, and an fsync each would keep it behind its
		// origin's group commit.
		s.PersistMode = jetstream.AsyncPersistMode
	}
	return s
}

// sessionKinds are what the archive takes from the stream of its region.
var sessionKinds = []Kind{KindState, KindRevoke, KindAll}

// source takes the kinds from the region's stream. A transform without a
// destination is a filter.
func source(region string, kinds ...Kind) *jetstream.StreamSource {
	s := &jetstream.StreamSource{Name: streamName(region)}
	for _, k := range kinds {
		s.SubjectTransforms = append(s.SubjectTransforms, jetstream.SubjectTransformConfig{
			Source: "ev." + region + ".*.*.*." + string(k),
		})
	}
	return s
}

// createStream makes the stream unless it exists; then it must belong to the
// same cluster.
func createStream(ctx context.Context, api jsAPI, want jetstream.StreamConfig) error {
	ctx, cancel := bounded(ctx)
	defer cancel()
	pause, begun := backoff{}, time.Now()
	for {
		var have jetstream.StreamInfo
		err := api.once(ctx, "STREAM.INFO."+want.Name, struct{}{}, &have)
		if err == nil {
			return sameStream(have.Config, want)
		}
		if apiCode(err) == codeNoStream {
			err = api.once(ctx, "STREAM.CREATE."+want.Name, want, new(json.RawMessage))
			if err == nil {
				return nil
			}
		}
		again := transient(err)
		err = refusal(err)
		switch {
		case errors.Is(err, ErrBudget), errors.Is(err, ErrStandalone):
			again = false
		case errors.Is(err, ErrReplicas):
			again = time.Since(begun) < peersWait
		case apiCode(err) == codeNameInUse:
			again = true // another init may have made it between the two requests
		}
		if !again || !pause.wait(ctx) {
			return fmt.Errorf("create stream %s: %w", want.Name, err)
		}
	}
}

// refusal says in our words why servers take no stream; any other error it
// returns as it is.
func refusal(err error) error {
	switch code := apiCode(err); {
	case code == codeNoSpace, code == codeAccountLimit, code == codeNoPeers && strings.Contains(err.Error(), "storage"):
		return fmt.Errorf("%w: %w", ErrBudget, err)
	case code == codeStandalone, code == codeRestoreFailed && strings.Contains(err.Error(), fmt.Sprint(codeStandalone)):
		return fmt.Errorf("%w: %w", ErrStandalone, err)
	case code == codeNoPeers:
		return fmt.Errorf("%w: %w", ErrReplicas, err)
	}
	return err
}

// sameStream checks that an existing stream is the one wanted.
func sameStream(have, want jetstream.StreamConfig) error {
	var k checker
	k.is(metaFormat, have.Metadata[metaFormat], want.Metadata[metaFormat], remedyMade)
	k.is(metaCluster, have.Metadata[metaCluster], want.Metadata[metaCluster], remedyOther)
	k.is(metaNumber, have.Metadata[metaNumber], want.Metadata[metaNumber], remedyMade)
	k.is("subjects", have.Subjects, want.Subjects, remedyMade)
	if len(k.found) > 0 {
		return &MismatchError{Stream: want.Name, Differences: k.found}
	}
	return nil
}

// assignNumber returns the number of the region, which it claims in CONFIG if
// the region has none. The claim expects that the region has none, so two
// callers for one region cannot give it two numbers. Two regions may claim one
// number at once: each looks again after its claim was stored, and the later
// one of the two claims again.
func assignNumber(ctx context.Context, nc *nats.Conn, c ClusterConfig) (uint8, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	config := StreamConfig{Region: ConfigRegion, Cluster: c.Cluster, Number: ConfigNumber, Replicas: c.Replicas, Domain: c.Domain}
	if c.Join != "" {
		config.Replicas, config.Domain = 0, c.Join // it is as the other region made it
	}
	log, err := Open(ctx, nc, config)
	if err != nil {
		return 0, err
	}
	for {
		claims, _, err := log.claims(ctx, c.Keys)
		if err != nil {
			return 0, err
		}
		own := slices.IndexFunc(claims, func(cl claim) bool { return cl.region == c.Region })
		if own >= 0 && claims[own].first(claims) {
			return claims[own].number, nil
		}
		var expect uint64
		if own >= 0 {
			expect = claims[own].seq
		}
		number, ok := freeNumber(claims)
		if !ok {
			return 0, errors.New("all 254 numbers are taken")
		}
		ev := &Region{Region: c.Region, Number: number, At: c.Clock.Wall().UnixMilli()}
		m, err := c.Keys.Encode(ConfigRegion, ev, nil, 0)
		if err != nil {
			return 0, err
		}
		if _, err := log.Append(ctx, m, Expect(expect)); err != nil && !errors.Is(err, ErrConflict) {
			return 0, err
		}
	}
}

// claim is a region's number in CONFIG.
type claim struct {
	region string
	number uint8
	domain string // empty: named as the region is
	seq    uint64
}

// first reports whether no earlier claim is for the same number.
func (c claim) first(all []claim) bool {
	return !slices.ContainsFunc(all, func(o claim) bool { return o.number == c.number && o.seq < c.seq })
}

// freeNumber returns the lowest number above all that are claimed, so that the
// number of a region that is gone is not given to another while any is left.
func freeNumber(claims []claim) (uint8, bool) {
	taken := [math.MaxUint8 + 1]bool{}
	highest := int(ConfigNumber)
	for _, c := range claims {
		taken[c.number] = true
		highest = max(highest, int(c.number))
	}
	if highest < math.MaxUint8 {
		return uint8(highest + 1), true
	}
	for n := int(ConfigNumber) + 1; n < len(taken); n++ {
		if !taken[n] {
			return uint8(n), true
		}
	}
	return 0, false
}

// Regions returns the numbers of the cluster's regions; the stream must be
// CONFIG. It returns ErrWrongKeys when there are regions and the keys open none.
func (j *JetStream) Regions(ctx context.Context, keys *ClusterKeys) (map[string]uint8, error) {
	claims, read, err := j.claims(ctx, keys)
	switch {
	case err != nil:
		return nil, fmt.Errorf("read regions: %w", err)
	case read > 0 && len(claims) == 0:
		return nil, fmt.Errorf("read regions: %w", ErrWrongKeys)
	}
	regions := map[string]uint8{}
	for _, c := range claims {
		if c.first(claims) {
			regions[c.region] = c.number
		}
	}
	return regions, nil
}

// claims reads the authentic region events of CONFIG; read counts all of them.
func (j *JetStream) claims(ctx context.Context, keys *ClusterKeys) (found []claim, read int, err error) {
	filter := Subject{Region: ConfigRegion, ID: "*", Kind: KindRegion}.String()
	err = j.api.read(ctx, j.name, readConfig{from: 1, filters: []string{filter}}, func(d delivery, m *nats.Msg) (bool, error) {
		read++
		r := keys.Decode(j.number, deliveredEntry(m, d))
		if ev, ok := r.Event.(*Region); ok {
			found = append(found, claim{region: ev.Region, number: ev.Number, domain: ev.Domain, seq: r.Seq})
		}
		return true, nil
	})
	return found, read, err
}
