package events_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/revocast/revocast/events"
)

func TestCreateTwice(t *testing.T) {
	s := newSite(t, true)
	first := s.create(t, s.cluster())
	again := s.create(t, s.cluster())
	if first.Epoch() == "" || again.Epoch() != first.Epoch() || !again.Created().Equal(first.Created()) {
		t.Errorf("epoch %q of %v became %q of %v", first.Epoch(), first.Created(), again.Epoch(), again.Created())
	}
	if first.Number() != 2 || first.Cluster() != "c1" || first.Region() != "eu" {
		t.Errorf("number %d, cluster %q, region %q", first.Number(), first.Cluster(), first.Region())
	}
	config := s.open(t, events.ConfigRegion)
	if config.Number() != events.ConfigNumber || config.Epoch() == first.Epoch() {
		t.Errorf("CONFIG has number %d and epoch %q", config.Number(), config.Epoch())
	}
	// Another region of the cluster gets the next number, another cluster nothing.
	c := s.cluster()
	c.Region = "us"
	if us := s.create(t, c); us.Number() != 3 {
		t.Errorf("the second region has number %d", us.Number())
	}
	c.Cluster, c.Region = "c2", "asia"
	err := events.CreateCluster(t.Context(), s.nc, c)
	if _, ok := errors.AsType[*events.MismatchError](err); !ok || !strings.Contains(err.Error(), `revocast.cluster is "c1", want "c2"`) {
		t.Errorf("creation in another cluster: %v", err)
	}
}

// TestCreateHalf removes what creation made, from the end backwards, as if it
// had been killed there, and creates again.
func TestCreateHalf(t *testing.T) {
	s := newSite(t, true)
	js, err := jetstream.New(s.nc)
	if err != nil {
		t.Fatal(err)
	}
	s.create(t, s.cluster())
	for _, gone := range [][]string{{"AUDIT_eu"}, {"AUDIT_eu", "EV_eu"}, {"AUDIT_eu", "EV_eu", "CONFIG"}} {
		for _, name := range gone {
			if err := js.DeleteStream(t.Context(), name); err != nil {
				t.Fatal(err)
			}
		}
		log := s.create(t, s.cluster())
		if log.Number() != 2 {
			t.Errorf("without %v the region has number %d", gone, log.Number())
		}
		if _, err := events.OpenArchive(t.Context(), s.nc, events.ArchiveConfig{Region: "eu"}); err != nil {
			t.Errorf("without %v: %v", gone, err)
		}
		if info, err := s.open(t, events.ConfigRegion).Info(t.Context()); err != nil || info.LastSeq != 1 {
			t.Errorf("without %v CONFIG has %d events, want one: %v", gone, info.LastSeq, err)
		}
	}
}

// TestCreateAtOnce has regions claim their numbers at the same time.
func TestCreateAtOnce(t *testing.T) {
	s := newSite(t, true)
	s.create(t, s.cluster())
	const regions = 6
	var wg sync.WaitGroup
	for i := range 2 * regions {
		wg.Go(func() {
			c := s.cluster()
			c.Region, c.MaxBytes = fmt.Sprintf("r%d", i%regions), 1<<20
			if err := events.CreateCluster(t.Context(), s.nc, c); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	owner := map[uint8]string{2: "eu"}
	for i := range regions {
		log := s.open(t, fmt.Sprintf("r%d", i))
		if was, ok := owner[log.Number()]; ok {
			t.Errorf("%s and %s have number %d", was, log.Region(), log.Number())
		}
		owner[log.Number()] = log.Region()
	}
}

func TestOpenMissing(t *testing.T) {
	s := newSite(t, true)
	if _, err := events.Open(t.Context(), s.nc, events.StreamConfig{Region: "eu"}); !errors.Is(err, events.ErrNoStream) {
		t.Errorf("open of a missing stream: %v", err)
	}
	if _, err := events.OpenArchive(t.Context(), s.nc, events.ArchiveConfig{Region: "eu"}); !errors.Is(err, events.ErrNoStream) {
		t.Errorf("open of a missing archive: %v", err)
	}
}

func TestOpenIdentity(t *testing.T) {
	s := newSite(t, true)
	log := s.create(t, s.cluster())
	good := events.StreamConfig{Region: "eu", Cluster: "c1", Epoch: log.Epoch(), Number: 2, Replicas: 1}
	if _, err := events.Open(t.Context(), s.nc, good); err != nil {
		t.Fatal(err)
	}
	for setting, change := range map[string]func(*events.StreamConfig){
		"revocast.cluster": func(c *events.StreamConfig) { c.Cluster = "c2" },
		"revocast.epoch":   func(c *events.StreamConfig) { c.Epoch = "other" },
		"revocast.number":  func(c *events.StreamConfig) { c.Number = 3 },
		"num_replicas":     func(c *events.StreamConfig) { c.Replicas = 3 },
	} {
		c := good
		change(&c)
		_, err := events.Open(t.Context(), s.nc, c)
		wantMismatch(t, err, setting)
	}
}

// wantMismatch fails unless err names exactly the setting, in one line.
func wantMismatch(t *testing.T, err error, setting string) {
	t.Helper()
	m, ok := errors.AsType[*events.MismatchError](err)
	switch {
	case !ok:
		t.Errorf("%s: %v, want a MismatchError", setting, err)
	case len(m.Differences) != 1 || m.Differences[0].Setting != setting:
		t.Errorf("%s: %v", setting, err)
	case m.Differences[0].Remedy == "" || strings.Contains(err.Error(), "\n"):
		t.Errorf("%s: not one line with a remedy: %q", setting, err)
	}
}

// TestOpenSettings makes the stream with one setting changed at a time.
func TestOpenSettings(t *testing.T) {
	s := newSite(t, true)
	s.create(t, s.cluster())
	js, err := jetstream.New(s.nc)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.Stream(t.Context(), "EV_eu")
	if err != nil {
		t.Fatal(err)
	}
	good := stream.CachedInfo().Config
	type config = jetstream.StreamConfig
	for setting, change := range map[string]func(*config){
		"subjects":                  func(c *config) { c.Subjects = []string{"ev.eu.*.*.*.st"} },
		"storage":                   func(c *config) { c.Storage = jetstream.MemoryStorage },
		"retention":                 func(c *config) { c.Retention = jetstream.InterestPolicy },
		"max_msgs_per_subject":      func(c *config) { c.MaxMsgsPerSubject = 2 },
		"allow_msg_ttl":             func(c *config) { c.AllowMsgTTL = false },
		"allow_direct":              func(c *config) { c.AllowDirect = false },
		"allow_atomic":              func(c *config) { c.AllowAtomicPublish = false },
		"deny_delete":               func(c *config) { c.DenyDelete = false },
		"deny_purge":                func(c *config) { c.DenyPurge = false },
		"discard":                   func(c *config) { c.Discard = jetstream.DiscardOld },
		"max_bytes":                 func(c *config) { c.MaxBytes = -1 },
		"max_msg_size":              func(c *config) { c.MaxMsgSize = 16 << 10 },
		"republish":                 func(c *config) { c.RePublish.Destination = "other.>" },
		"republish.headers_only":    func(c *config) { c.RePublish.HeadersOnly = true },
		"persist_mode":              func(c *config) { c.PersistMode = jetstream.AsyncPersistMode; c.AllowAtomicPublish = false },
		"max_age":                   func(c *config) { c.MaxAge = time.Hour },
		"max_msgs":                  func(c *config) { c.MaxMsgs = 1000 },
		"discard_new_per_subject":   func(c *config) { c.DiscardNewPerSubject = true },
		"subject_delete_marker_ttl": func(c *config) { c.SubjectDeleteMarkerTTL = time.Minute; c.DenyPurge = false; c.AllowRollup = true },
		"allow_rollup_hdrs":         func(c *config) { c.DenyPurge = false; c.AllowRollup = true },
		"allow_msg_schedules": func(c *config) {
			c.AllowMsgSchedules = true
			c.DenyPurge = false
			c.AllowRollup = true
			c.Discard = jetstream.DiscardOld
		},
		"no_ack":  func(c *config) { c.NoAck = true },
		"sources": func(c *config) { c.Sources = []*jetstream.StreamSource{{Name: "CONFIG"}} },
		"subject_transform": func(c *config) {
			c.SubjectTransform = &jetstream.SubjectTransformConfig{Source: "ev.eu.>", Destination: "ev.eu.>"}
		},
		"revocast.format": func(c *config) { c.Metadata["revocast.format"] = "2" },
		"revocast.epoch":  func(c *config) { delete(c.Metadata, "revocast.epoch") },
		"revocast.number": func(c *config) { c.Metadata["revocast.number"] = "1" },
	} {
		t.Run(setting, func(t *testing.T) {
			c := good
			republish := *good.RePublish
			c.RePublish = &republish
			c.Metadata = map[string]string{}
			for k, v := range good.Metadata {
				if strings.HasPrefix(k, "revocast.") {
					c.Metadata[k] = v
				}
			}
			change(&c)
			if err := js.DeleteStream(t.Context(), "EV_eu"); err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
				t.Fatal(err)
			}
			if _, err := js.CreateStream(t.Context(), c); err != nil {
				t.Fatal(err)
			}
			_, err := events.Open(t.Context(), s.nc, events.StreamConfig{Region: "eu"})
			m, ok := errors.AsType[*events.MismatchError](err)
			if !ok || !strings.Contains(err.Error(), setting+" is ") || strings.Contains(err.Error(), "\n") {
				t.Fatalf("opened with another %s: %v", setting, err)
			}
			// Some settings only come together with others.
			if want := strings.Contains("persist_mode subject_delete_marker_ttl allow_rollup_hdrs allow_msg_schedules", setting); len(m.Differences) != 1 && !want {
				t.Errorf("more is said to differ than does: %v", err)
			}
		})
	}
}

// TestAppendMany has many clients append at once: each gets the sequence its
// message really has.
func TestAppendMany(t *testing.T) {
	s := newSite(t, false)
	log := s.create(t, s.cluster())
	const clients, each = 256, 4
	var mu sync.Mutex
	seqs := map[uint64]events.Message{}
	var wg sync.WaitGroup
	for c := range clients {
		wg.Go(func() {
			for i := range each {
				m := benchMessage(t, s.keys, c*each+i)
				seq, err := log.Append(t.Context(), m, events.Expectation{})
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				if _, ok := seqs[seq]; ok {
					t.Errorf("sequence %d twice", seq)
				}
				seqs[seq] = m
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if len(seqs) != clients*each {
		t.Fatalf("%d sequences, want %d", len(seqs), clients*each)
	}
	for seq, m := range seqs {
		e, err := log.Last(t.Context(), m.Subject)
		if err != nil || e.Seq != seq || e.Seal != m.Seal || e.TTL != m.TTL {
			t.Fatalf("acknowledged as %d, stored as %d: %v", seq, e.Seq, err)
		}
	}
	if n := log.Counters(); n.Batches == 0 || n.BatchesRefused != 0 || n.Appends["stored"] != clients*each {
		t.Errorf("counters: %+v", n)
	}
}

func TestAppendRefusesBadMessages(t *testing.T) {
	s := newSite(t, true)
	log := s.create(t, s.cluster())
	good := benchMessage(t, s.keys, 1)
	for name, change := range map[string]func(*events.Message){
		"another region":  func(m *events.Message) { m.Subject = "ev.us.demo.u.s.st" },
		"part of seconds": func(m *events.Message) { m.TTL = 1500 * time.Millisecond },
		"no whole second": func(m *events.Message) { m.TTL = time.Millisecond },
		"negative TTL":    func(m *events.Message) { m.TTL = -time.Second },
		"line in seal":    func(m *events.Message) { m.Seal = "1.x\r\nNats-TTL: 1" },
	} {
		m := good
		change(&m)
		if seq, err := log.Append(t.Context(), m, events.Expectation{}); err == nil || errors.Is(err, events.ErrUnavailable) {
			t.Errorf("%s: %d, %v", name, seq, err)
		}
	}
	if _, err := log.Last(t.Context(), "ev.eu.>"); err == nil || errors.Is(err, events.ErrNotFound) {
		t.Errorf("last on a wildcard: %v", err)
	}
}

// TestAppendWithoutServer must end by the caller's context and by itself.
func TestAppendWithoutServer(t *testing.T) {
	s := newSite(t, true)
	log := s.create(t, s.cluster())
	s.b.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	var wg sync.WaitGroup
	for i := range 40 {
		wg.Go(func() {
			if _, err := log.Append(ctx, benchMessage(t, s.keys, i), events.Expectation{}); !errors.Is(err, events.ErrUnavailable) {
				t.Errorf("append without a server: %v", err)
			}
		})
	}
	begin := time.Now()
	wg.Wait()
	if d := time.Since(begin); d > 3*time.Second {
		t.Errorf("gave up after %v, the context after 300 ms", d)
	}
}

// TestAppendCancelled ends random callers' contexts under load: nobody else
// fails, and the queue goes on.
func TestAppendCancelled(t *testing.T) {
	s := newSite(t, false)
	log := s.create(t, s.cluster())
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	var wg sync.WaitGroup
	for c := range 128 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(seed, uint64(c)))
			for i := range 8 {
				ctx, cancel := context.WithCancel(t.Context())
				if c%2 == 0 {
					ctx, cancel = context.WithTimeout(t.Context(), time.Duration(r.IntN(8000))*time.Microsecond)
				}
				_, err := log.Append(ctx, benchMessage(t, s.keys, c*8+i), events.Expectation{})
				if c%2 == 1 && err != nil || err != nil && !errors.Is(err, events.ErrUnavailable) {
					t.Errorf("seed %d, client %d: %v", seed, c, err)
				}
				cancel()
			}
		})
	}
	wg.Wait()
	if _, err := log.Append(t.Context(), benchMessage(t, s.keys, 0), events.Expectation{}); err != nil {
		t.Errorf("the queue is stuck: %v", err)
	}
}

func TestArchiveHoldsAdministration(t *testing.T) {
	s := newSite(t, true)
	s.create(t, s.cluster())
	config := s.open(t, events.ConfigRegion)
	app := &events.App{App: "demo", State: events.AppActive}
	m, err := s.keys.Encode(events.ConfigRegion, app, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	seq, err := config.Append(t.Context(), m, events.Expect(0))
	if err != nil {
		t.Fatal(err)
	}
	archive, err := events.OpenArchive(t.Context(), s.nc, events.ArchiveConfig{Region: "eu", Cluster: "c1"})
	if err != nil {
		t.Fatal(err)
	}
	again := time.NewTicker(10 * time.Millisecond)
	defer again.Stop()
	for {
		var got []events.Archived
		err := archive.History(t.Context(), []string{"ev._config.>"}, func(a events.Archived) bool {
			got = append(got, a)
			return true
		})
		if err != nil {
			t.Fatal(err)
		}
		if len(got) == 2 { // the region, and the app
			if got[1].Subject != m.Subject || got[1].Origin != seq || got[1].Seal != m.Seal {
				t.Errorf("archived as %+v, want %+v from %d", got[1], m, seq)
			}
			return
		}
		<-again.C
	}
}
