package events_test

import (
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/events/broker"
	"github.com/revocast/revocast/events/eventstest"
)

// site is a broker with a cluster on it.
type site struct {
	t    *testing.T
	b    *broker.Broker
	nc   *nats.Conn
	keys *events.ClusterKeys
	dir  string
}

// newSite starts a broker on a fresh directory; lazy ones do not sync.
func newSite(t testing.TB, lazy bool) *site {
	t.Helper()
	s := &site{dir: t.TempDir()}
	if tt, ok := t.(*testing.T); ok {
		s.t = tt
	}
	var err error
	s.b, err = broker.Start(t.Context(), broker.Config{StoreDir: s.dir, Lazy: lazy})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.b.Close() })
	s.nc = s.connect(t)
	if s.keys, err = events.NewClusterKeys(events.NewClusterKey()); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *site) connect(t testing.TB) *nats.Conn {
	t.Helper()
	nc, err := s.b.Connect("test")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

// cluster is what the tests create.
func (s *site) cluster() events.ClusterConfig {
	return events.ClusterConfig{Cluster: "c1", Region: "eu", Keys: s.keys, MaxBytes: 1 << 30}
}

func (s *site) create(t testing.TB, c events.ClusterConfig) *events.JetStream {
	t.Helper()
	if err := events.CreateCluster(t.Context(), s.nc, c); err != nil {
		t.Fatal(err)
	}
	return s.open(t, c.Region)
}

func (s *site) open(t testing.TB, region string) *events.JetStream {
	t.Helper()
	j, err := events.Open(t.Context(), s.nc, events.StreamConfig{Region: region})
	if err != nil {
		t.Fatal(err)
	}
	return j
}

// inject stores a message as a raw client would.
func inject(nc *nats.Conn, m events.Message) error {
	msg := &nats.Msg{Subject: m.Subject, Data: m.Payload, Header: nats.Header{}}
	if m.Seal != "" {
		msg.Header["Revocast-Seal"] = []string{m.Seal}
	}
	if m.TTL != 0 {
		msg.Header["Nats-TTL"] = []string{strconv.Itoa(int(m.TTL / time.Second))}
	}
	resp, err := nc.RequestMsg(msg, 5*time.Second)
	if err != nil {
		return fmt.Errorf("inject: %w", err)
	}
	if len(resp.Data) == 0 || resp.Data[0] != '{' {
		return fmt.Errorf("inject: %q", resp.Data)
	}
	return nil
}

func TestJetStream(t *testing.T) {
	eventstest.Test(t, func(t *testing.T, o eventstest.Options) eventstest.Env {
		s := newSite(t, false)
		c := s.cluster()
		if o.MaxBytes != 0 {
			c.MaxBytes = int64(o.MaxBytes)
		}
		log := s.create(t, c)
		archive, err := events.OpenArchive(t.Context(), s.nc, events.ArchiveConfig{Region: "eu", Cluster: "c1"})
		if err != nil {
			t.Fatal(err)
		}
		return eventstest.Env{
			Log: log, Archive: archive,
			Break: func() {
				if err := s.b.Restart(t.Context()); err != nil {
					t.Error(err)
				}
			},
			Inject: func(m events.Message) error { return inject(s.nc, m) },
		}
	})
}
