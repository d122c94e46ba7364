package events

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"
)

// ErrDiffers is returned by Migrate when a stream on the new servers is not what
// the old one holds.
var ErrDiffers = errors.New("the stream on the new servers is another one")

// MigrateConfig says what Migrate carries, and how it is kept where it goes.
type MigrateConfig struct {
	// Cluster is the id of the cluster, Region the region whose streams are
	// carried: its own, its archive, and CONFIG. Required.
	Cluster, Region string
	// Replicas is the number of copies there, 1 to 5. 0 is 1.
	Replicas int
	// MaxBytes is the budget there of the region's stream and of its archive, in
	// bytes. 0 keeps the present ones.
	MaxBytes int64
	// Carried, if not nil, is called with what was sent of a stream so far, in
	// bytes, from the goroutine of Migrate.
	Carried func(stream string, bytes int64)
}

// Migrated is a stream that is on the new servers, and what was found equal.
type Migrated struct {
	Stream   string `json:"stream"`
	FirstSeq uint64 `json:"first_seq"`
	LastSeq  uint64 `json:"last_seq"`
	Messages uint64 `json:"messages"`
	// Digest is a hash of every message with its sequence, time and headers.
	Digest string `json:"digest"`
	// Found says that an earlier call had carried it.
	Found bool `json:"found"`
}

const (
	// migrateStep bounds how long the servers may take for one step: to find
	// room for a stream, to take a chunk of it, to bring its copies up.
	migrateStep = time.Minute
	// settled is how long the copies of a stream that was there may be behind.
	settled = 10 * time.Second
	// migrateWindow is how many bytes of a stream are on their way at a time,
	// migrateChunk how many are in a message.
	migrateWindow = 8 << 20
	migrateChunk  = 128 << 10
	// expirySlack is how much longer than its TTL a server may keep a message.
	expirySlack = 5 * time.Second
)

// Migrate carries the streams of a cluster of one region from one place to
// another as they are: sequences, times, TTLs, epochs. It returns once all of
// it was read on both sides and found equal.
//
// Nothing may write to the old streams meanwhile or afterwards: from then on
// there would be two logs of one cluster. What an earlier, interrupted call
// carried whole is kept; whatever else is found there is ErrDiffers, and left
// alone.
func Migrate(ctx context.Context, from, to *nats.Conn, c MigrateConfig) ([]Migrated, error) {
	m := &migration{c: c}
	var err error
	if m.from, err = newAPI(from, ""); err == nil {
		m.to, err = newAPI(to, "")
	}
	if err != nil {
		return nil, fmt.Errorf("migrate: %w", err)
	}
	var all []Migrated
	// The archive last: it takes from the other two.
	for _, name := range []string{streamName(c.Region), streamName(ConfigRegion), archiveName(c.Region)} {
		done, err := m.stream(ctx, name)
		if err != nil {
			return all, fmt.Errorf("migrate %s: %w", name, err)
		}
		all = append(all, done)
	}
	return all, nil
}

// migration is one call of Migrate.
type migration struct {
	c        MigrateConfig
	from, to jsAPI
}

// stream carries one stream, unless it is there.
func (m *migration) stream(ctx context.Context, name string) (Migrated, error) {
	have, err := m.from.config(ctx, name)
	if err != nil {
		return Migrated{}, fmt.Errorf("read its settings: %w", err)
	}
	if cluster := have.Config.Metadata[metaCluster]; cluster != m.c.Cluster {
		return Migrated{}, fmt.Errorf("it belongs to cluster %q, not %q", cluster, m.c.Cluster)
	}
	done := Migrated{Stream: name}
	there, err := m.look(ctx, name)
	switch {
	case err == nil:
		done.Found = true
		if there.Config.Metadata[metaEpoch] != have.Config.Metadata[metaEpoch] {
			return done, fmt.Errorf("%w: its epoch is %q, want %q", ErrDiffers, there.Config.Metadata[metaEpoch], have.Config.Metadata[metaEpoch])
		}
	case apiCode(err) != codeNoStream:
		return done, fmt.Errorf("look for it on the new servers: %w", err)
	default:
		if err := m.carry(ctx, name, m.settings(have.Config)); err != nil {
			return done, refusal(err)
		}
	}
	if err := m.awaitCopies(ctx, name); err != nil {
		return done, err
	}
	// What is read there comes from any copy, and one that has just been made may
	// be behind although it says that it is not.
	limit := migrateStep
	if done.Found {
		limit = settled
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	pause := backoff{}
	for {
		found, err := m.compare(ctx, done)
		if !errors.Is(err, errLacks) || !pause.wait(ctx) {
			return found, err
		}
	}
}

// look asks for the stream on the new servers, which may have begun a moment ago
// and have no leader yet.
func (m *migration) look(ctx context.Context, name string) (jetstream.StreamInfo, error) {
	ctx, cancel := context.WithTimeout(ctx, migrateStep)
	defer cancel()
	return m.to.config(ctx, name)
}

// settings returns how the stream is kept on the new servers.
func (m *migration) settings(s jetstream.StreamConfig) jetstream.StreamConfig {
	s.Replicas = max(m.c.Replicas, 1)
	if m.c.MaxBytes != 0 && s.Name != streamName(ConfigRegion) {
		s.MaxBytes = m.c.MaxBytes
	}
	if s.Replicas > 1 {
		s.PersistMode = jetstream.DefaultPersistMode
	}
	kept := map[string]string{}
	for k, v := range s.Metadata {
		if !strings.HasPrefix(k, "_nats.") { // the server's own
			kept[k] = v
		}
	}
	s.Metadata = kept
	return s
}

// carry has the old server write the stream out and the new ones read it in,
// chunk by chunk: a chunk is asked for when one was taken.
func (m *migration) carry(ctx context.Context, name string, settings jetstream.StreamConfig) error {
	inbox := m.from.nc.NewInbox()
	in := make(chan *nats.Msg, migrateWindow/migrateChunk+16)
	sub, err := m.from.nc.ChanSubscribe(inbox, in)
	if err != nil {
		return fmt.Errorf("subscribe to it: %w", err)
	}
	// An error means that the connection is closed, and the subscription with it.
	defer func() { _ = sub.Unsubscribe() }()
	var written struct {
		State json.RawMessage `json:"state"`
	}
	err = m.from.within(ctx, migrateStep, "STREAM.SNAPSHOT."+name, map[string]any{
		"deliver_subject": inbox, "no_consumers": true, "jsck": true, "chunk_size": migrateChunk, "window_size": migrateWindow,
	}, &written)
	if err != nil {
		return fmt.Errorf("have it written out: %w", err)
	}
	target, err := m.begin(ctx, name, settings, written.State)
	if err != nil {
		return err
	}
	var sent int64
	for {
		select {
		case chunk := <-in:
			if len(chunk.Data) == 0 {
				if status := chunk.Header.Get(hdrStatus); status != "" && status != "204" {
					return fmt.Errorf("the old server stopped: %s %s", status, chunk.Header.Get("Description"))
				}
				return m.send(ctx, target, nil)
			}
			if err := m.send(ctx, target, chunk.Data); err != nil {
				return err
			}
			if sent += int64(len(chunk.Data)); m.c.Carried != nil {
				m.c.Carried(name, sent)
			}
			if chunk.Reply == "" {
				continue // the last one
			}
			if err := m.from.nc.Publish(chunk.Reply, nil); err != nil {
				return fmt.Errorf("ask for more: %w", err)
			}
		case <-time.After(migrateStep):
			return fmt.Errorf("the old server fell silent: %w", ErrUnavailable)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// begin asks the new servers to take the stream, and returns where its chunks
// are to be sent. It asks once: a second request would find the stream begun.
func (m *migration) begin(ctx context.Context, name string, settings jetstream.StreamConfig, state json.RawMessage) (string, error) {
	var accepted struct {
		Deliver string `json:"deliver_subject"`
	}
	err := m.to.within(ctx, migrateStep, "STREAM.RESTORE."+name, map[string]any{"config": settings, "state": state}, &accepted)
	switch {
	case err != nil:
		return "", fmt.Errorf("have it taken: %w", err)
	case accepted.Deliver == "":
		return "", errors.New("have it taken: the servers did not say where to send it")
	}
	return accepted.Deliver, nil
}

// send sends a chunk, or nil for the end of the stream, and waits until it is
// taken.
func (m *migration) send(ctx context.Context, target string, chunk []byte) error {
	ctx, cancel := context.WithTimeout(ctx, migrateStep)
	defer cancel()
	answer, err := m.to.nc.RequestWithContext(ctx, target, chunk)
	if err != nil {
		return fmt.Errorf("send it: %w", explain(m.to.nc, target, err))
	}
	if len(answer.Data) == 0 {
		return nil
	}
	var result struct {
		Error *apiError `json:"error"`
	}
	switch err := json.Unmarshal(answer.Data, &result); {
	case err != nil:
		return fmt.Errorf("decode answer: %w", err)
	case result.Error != nil:
		return fmt.Errorf("have it taken: %w", result.Error)
	}
	return nil
}

// awaitCopies returns once the stream has a leader and every copy is up to date.
func (m *migration) awaitCopies(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, migrateStep)
	defer cancel()
	pause := backoff{}
	for {
		s, err := m.to.config(ctx, name)
		if err == nil {
			behind := func(p *jetstream.PeerInfo) bool { return !p.Current || p.Offline }
			c := s.Cluster
			if s.Config.Replicas == 1 || c != nil && c.Leader != "" && len(c.Replicas) == s.Config.Replicas-1 && !slices.ContainsFunc(c.Replicas, behind) {
				return nil
			}
		}
		if !pause.wait(ctx) {
			return fmt.Errorf("await its copies: %w", cmp.Or(err, ErrUnavailable))
		}
	}
}

// errLacks is that a copy does not hold what the old stream does.
var errLacks = errors.New("it lacks an event")

// print is what a stored message is compared by.
type print struct {
	seq     uint64
	sum     [sha256.Size]byte
	expires time.Time // zero: never
}

func printOf(d delivery, m *nats.Msg) print {
	e := deliveredEntry(m, d)
	h := sha256.New()
	var n [8]byte
	part := func(b []byte) {
		h.Write(binary.BigEndian.AppendUint64(n[:0], uint64(len(b))))
		h.Write(b)
	}
	h.Write(binary.BigEndian.AppendUint64(n[:0], d.seq))
	h.Write(binary.BigEndian.AppendUint64(n[:0], uint64(d.time.UnixNano())))
	part([]byte(m.Subject))
	part(m.Data)
	keys := make([]string, 0, len(m.Header))
	for k := range m.Header {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	for _, k := range keys {
		for _, v := range m.Header[k] {
			part([]byte(k))
			part([]byte(v))
		}
	}
	p := print{seq: d.seq}
	h.Sum(p.sum[:0])
	if e.TTL != 0 {
		p.expires = e.Time.Add(e.TTL)
	}
	return p
}

// gone reports whether the message may be missing because its life is over.
func (p print) gone() bool {
	return !p.expires.IsZero() && time.Now().Add(expirySlack).After(p.expires)
}

// compare reads the stream on both sides, message by message. One may be absent
// only because its life ended meanwhile; the archive may have taken more since.
func (m *migration) compare(ctx context.Context, done Migrated) (Migrated, error) {
	g, ctx := errgroup.WithContext(ctx)
	there := make(chan print, 1024)
	g.Go(func() error {
		defer close(there)
		return m.to.read(ctx, done.Stream, readConfig{from: 1}, func(d delivery, msg *nats.Msg) (bool, error) {
			select {
			case there <- printOf(d, msg):
				return true, nil
			case <-ctx.Done():
				return false, ctx.Err()
			}
		})
	})
	g.Go(func() error {
		digest := sha256.New()
		next, more := <-there
		extra := func(below uint64) error {
			for ; more && next.seq < below; next, more = <-there {
				if !next.gone() {
					return fmt.Errorf("%w: it holds sequence %d, which the old one does not", ErrDiffers, next.seq)
				}
			}
			return nil
		}
		err := m.from.read(ctx, done.Stream, readConfig{from: 1}, func(d delivery, msg *nats.Msg) (bool, error) {
			p := printOf(d, msg)
			if err := extra(p.seq); err != nil {
				return false, err
			}
			switch {
			case more && next.seq == p.seq && next.sum != p.sum:
				return false, fmt.Errorf("%w: sequence %d is not the same", ErrDiffers, p.seq)
			case more && next.seq == p.seq:
				done.FirstSeq, done.LastSeq = cmp.Or(done.FirstSeq, p.seq), p.seq
				done.Messages++
				digest.Write(p.sum[:])
				next, more = <-there
			case !p.gone():
				return false, fmt.Errorf("%w: %w: sequence %d", ErrDiffers, errLacks, p.seq)
			}
			return true, nil
		})
		if err != nil {
			return fmt.Errorf("read the old one: %w", err)
		}
		done.Digest = base64.RawURLEncoding.EncodeToString(digest.Sum(nil)[:12])
		if done.Stream == archiveName(m.c.Region) {
			for range there { // what it has taken since
			}
			return nil
		}
		return extra(1<<64 - 1)
	})
	if err := g.Wait(); err != nil {
		return done, fmt.Errorf("compare both: %w", err)
	}
	return done, nil
}
