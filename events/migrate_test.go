package events_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/events/broker"
)

// oldLog is an embedded log with some events in it.
func oldLog(t *testing.T, keys *events.ClusterKeys) *nats.Conn {
	t.Helper()
	b, err := broker.Start(t.Context(), broker.Config{StoreDir: t.TempDir(), Lazy: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	nc, err := b.Connect(t.Name())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	c := events.ClusterConfig{Cluster: "c1", Region: "eu", Keys: keys, MaxBytes: 64 << 20, ConfigMaxBytes: 1 << 20}
	if err := events.CreateCluster(t.Context(), nc, c); err != nil {
		t.Fatal(err)
	}
	archive, err := events.OpenArchive(t.Context(), nc, events.ArchiveConfig{Region: "eu"})
	if err != nil {
		t.Fatal(err)
	}
	if err := archive.Await(t.Context()); err != nil {
		t.Fatal(err)
	}
	log, err := events.Open(t.Context(), nc, events.StreamConfig{Region: "eu"})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 300 {
		m := benchMessage(t, keys, i%200) // a third of them is replaced
		m.Subject = fmt.Sprintf("ev.eu.app.u.s%d.st", i%200)
		if i%50 == 7 {
			m.TTL = time.Second // gone while it is carried
		}
		if _, err := log.Append(t.Context(), m, events.Expectation{}); err != nil {
			t.Fatal(err)
		}
	}
	return nc
}

// everything returns what the stream holds, but for its heartbeats.
func everything(t *testing.T, nc *nats.Conn, region string) (all []events.Entry) {
	t.Helper()
	log, err := events.Open(t.Context(), nc, events.StreamConfig{Region: region})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	err = log.Follow(ctx, events.Follow{
		Apply:    func(e events.Entry) error { all = append(all, e); return nil },
		CaughtUp: cancel,
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// migrateTo carries to the target, compares both logs as followers see them, and
// shows what else Migrate refuses and repeats.
func migrateTo(t *testing.T, keys *events.ClusterKeys, to *nats.Conn, replicas int) {
	from := oldLog(t, keys)
	c := events.MigrateConfig{Cluster: "c1", Region: "eu", Replicas: replicas, MaxBytes: 32 << 20}
	done, err := events.Migrate(patient(t), from, to, c)
	if err != nil {
		t.Fatal(err)
	}
	if len(done) != 3 || done[0].Messages == 0 || done[0].Found {
		t.Errorf("carried %+v", done)
	}
	for _, region := range []string{"eu", events.ConfigRegion} {
		was, is := everything(t, from, region), everything(t, to, region)
		short := func(e events.Entry) bool { return e.TTL == time.Second }
		if diff := cmp.Diff(without(was, short), without(is, short)); diff != "" {
			t.Errorf("%s (-old +new):\n%s", region, diff)
		}
	}
	// What was carried goes on: the next event has the next sequence, and the
	// history is one.
	log, err := events.Open(t.Context(), to, events.StreamConfig{Region: "eu", Cluster: "c1", Replicas: replicas})
	if err != nil {
		t.Fatal(err)
	}
	m := benchMessage(t, keys, 1)
	m.Subject = "ev.eu.app.u.s1.rev"

	again, err := events.Migrate(patient(t), from, to, c)
	if err != nil || !again[0].Found || !again[1].Found || !again[2].Found {
		t.Errorf("again: %+v, %v", again, err)
	}
	seq, err := log.Append(patient(t), m, events.Expectation{})
	if err != nil || seq != 301 {
		t.Errorf("the first new event has sequence %d, %v", seq, err)
	}
	awaitHistory(t, to, "ev.eu.app.u.s1.rev", 301)
	// The new log lives, so it is no longer what the old one holds.
	if _, err := events.Migrate(patient(t), from, to, c); !errors.Is(err, events.ErrDiffers) {
		t.Errorf("over a log that lives: %v", err)
	}
	if other := oldLog(t, keys); true {
		if _, err := events.Migrate(patient(t), other, to, c); !errors.Is(err, events.ErrDiffers) {
			t.Errorf("over another cluster of the same name: %v", err)
		}
	}
}

func without(all []events.Entry, drop func(events.Entry) bool) (kept []events.Entry) {
	for _, e := range all {
		if !drop(e) {
			kept = append(kept, e)
		}
	}
	return kept
}

// awaitHistory returns once the archive has the event of that sequence.
func awaitHistory(t *testing.T, nc *nats.Conn, subject string, seq uint64) {
	t.Helper()
	ctx := patient(t)
	archive, err := events.OpenArchive(ctx, nc, events.ArchiveConfig{Region: "eu"})
	if err != nil {
		t.Fatal(err)
	}
	for found := false; !found; {
		err := archive.History(ctx, []string{subject}, func(a events.Archived) bool {
			found = found || a.Origin == seq
			return true
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestMigrate(t *testing.T) {
	keys := newKeys(t)
	b, err := broker.Start(t.Context(), broker.Config{StoreDir: t.TempDir(), Lazy: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	to, err := b.Connect(t.Name())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(to.Close)
	from := oldLog(t, keys)
	if _, err := events.Migrate(t.Context(), from, to, events.MigrateConfig{Cluster: "c2", Region: "eu"}); err == nil {
		t.Error("carried the log of another cluster")
	}
	if _, err := events.Migrate(t.Context(), from, to, events.MigrateConfig{Cluster: "c1", Region: "eu", Replicas: 3}); !errors.Is(err, events.ErrStandalone) {
		t.Errorf("three copies on a server that is alone: %v", err)
	}
	if _, err := events.Open(t.Context(), to, events.StreamConfig{Region: "eu"}); !errors.Is(err, events.ErrNoStream) {
		t.Errorf("a refused migration left a stream: %v", err)
	}
	migrateTo(t, keys, to, 1)
}

// TestMigrateToCluster carries an embedded log to the three servers of a region.
func TestMigrateToCluster(t *testing.T) {
	if testing.Short() {
		t.Skip("NOT TESTED with -short: three servers")
	}
	addrs := startRegion3(t)
	operator := as(t, "operator", nil, addrs...)
	awaitMeta(t, operator)
	migrateTo(t, newKeys(t), operator, 3)
	js, err := jetstream.New(operator)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"EV_eu", "CONFIG", "AUDIT_eu"} {
		s, err := js.Stream(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		if c := s.CachedInfo().Config; c.Replicas != 3 || c.PersistMode != jetstream.DefaultPersistMode {
			t.Errorf("%s has %d copies, persist mode %v", name, c.Replicas, c.PersistMode)
		}
	}
}
