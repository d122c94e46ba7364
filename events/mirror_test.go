package events_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"

	"github.com/revocast/revocast/events"
)

// TestMirror loses a region's server and its disk: what its mirror in the other
// region holds goes on there.
func TestMirror(t *testing.T) {
	leaf := freePort(t)
	env := func() map[string]string {
		return map[string]string{
			"NATS_LISTEN": freePort(t), "NATS_STORE": t.TempDir(), "NATS_LEAF_LISTEN": leaf,
			"NATS_LEAF_URL": "nats://backbone:" + passwords["NATS_BACKBONE_PASSWORD"] + "@" + leaf,
		}
	}
	ctx, keys := patient(t), newKeys(t)
	euEnv, usEnv := env(), env()
	lost := startFile(t, "two-regions/eu.conf", euEnv)
	startFile(t, "two-regions/us.conf", usEnv)
	eu, us := as(t, "operator", nil, euEnv["NATS_LISTEN"]), as(t, "operator", nil, usEnv["NATS_LISTEN"])
	c := events.ClusterConfig{Cluster: "c1", Region: "eu", Keys: keys, MaxBytes: 64 << 20, ConfigMaxBytes: 1 << 20}
	if err := events.CreateCluster(ctx, eu, c); err != nil {
		t.Fatal(err)
	}
	c.Region, c.Join = "us", "eu"
	if err := events.CreateCluster(ctx, us, c); err != nil {
		t.Fatal(err)
	}
	m := events.MirrorConfig{Cluster: "c1", Region: "eu", Domain: "eu", Settings: true, Keys: keys}
	for _, bad := range []struct {
		why string
		c   events.MirrorConfig
	}{
		{"another cluster", events.MirrorConfig{Cluster: "c2", Region: "eu", Domain: "eu"}},
		{"an unknown domain", events.MirrorConfig{Cluster: "c1", Region: "eu", Domain: "ap"}},
		{"a region that is there itself", events.MirrorConfig{Cluster: "c1", Region: "us", Domain: "us"}},
	} {
		if err := events.CreateMirror(ctx, us, bad.c); err == nil {
			t.Errorf("made a mirror of %s", bad.why)
		}
	}
	for range 2 { // a repeat changes nothing
		if err := events.CreateMirror(ctx, us, m); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := events.Open(ctx, us, events.StreamConfig{Region: "eu"}); !errors.Is(err, events.ErrMirror) {
		t.Errorf("a mirror can be opened: %v", err)
	}
	log, err := events.Open(ctx, us, events.StreamConfig{Region: "eu", Domain: "eu"})
	if err != nil {
		t.Fatal(err)
	}
	var last uint64
	var lag []time.Duration
	for i := range 200 {
		msg := benchMessage(t, keys, i)
		msg.Subject = fmt.Sprintf("ev.eu.app.u.s%d.st", i%50)
		if last, err = log.Append(ctx, msg, events.Expectation{}); err != nil {
			t.Fatal(err)
		}
		if i%20 == 0 {
			begun := time.Now()
			awaitMirror(t, us, m, last)
			lag = append(lag, time.Since(begun))
		}
	}
	awaitMirror(t, us, m, last)
	t.Logf("an acknowledged event was in the mirror after %v", lag)
	was := everything(t, eu, "eu")
	if err := events.Promote(ctx, us, m); !errors.Is(err, events.ErrAlive) {
		t.Errorf("promoted while the region lives: %v", err)
	}

	lost.Close()
	for range 2 {
		if err := events.Promote(ctx, us, m); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(was, everything(t, us, "eu")); diff != "" {
		t.Errorf("(-lost +promoted):\n%s", diff)
	}
	config, err := events.Open(ctx, us, events.StreamConfig{Region: events.ConfigRegion})
	if err != nil {
		t.Fatal(err)
	}
	if numbers, err := config.Regions(ctx, keys); err != nil || numbers["eu"] != 2 || numbers["us"] != 3 {
		t.Errorf("regions: %v, %v", numbers, err)
	}
	testAcross(t, ctx, us, keys, "us", "eu", "us")
	awaitHistory(t, us, "ev.eu.app.us.s49.st", last+50)
}

// awaitMirror returns once the copy of the region's stream has the sequence.
func awaitMirror(t *testing.T, nc *events.Conn, c events.MirrorConfig, seq uint64) {
	t.Helper()
	ctx := patient(t)
	for {
		all, err := events.Mirrors(ctx, nc, c)
		if err != nil {
			t.Fatal(err)
		}
		if all[0].LastSeq >= seq {
			return
		}
		if ctx.Err() != nil {
			t.Fatalf("the mirror is at %+v, want %d", all, seq)
		}
	}
}

// A region whose servers elect a leader answers nothing for seconds, or that it
// has none. It is not lost.
func TestPromoteDuringElection(t *testing.T) {
	env := map[string]string{
		"NATS_LISTEN": freePort(t), "NATS_STORE": t.TempDir(), "NATS_LEAF_LISTEN": freePort(t), "NATS_LEAF_URL": "nats://x:y@" + freePort(t),
	}
	startFile(t, "two-regions/us.conf", env)
	us, region := as(t, "operator", nil, env["NATS_LISTEN"]), as(t, "operator", nil, env["NATS_LISTEN"])
	asked := 0
	sub, err := region.Subscribe("$JS.eu.API.STREAM.INFO.EV_eu", func(m *nats.Msg) {
		if asked++; asked > 1 {
			_ = m.Respond([]byte(`{"error":{"code":503,"err_code":10008,"description":"JetStream system temporarily unavailable"}}`))
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	if err := region.Flush(); err != nil {
		t.Fatal(err)
	}
	err = events.Promote(patient(t), us, events.MirrorConfig{Cluster: "c1", Region: "eu", Domain: "eu", Keys: newKeys(t)})
	if !errors.Is(err, events.ErrAlive) {
		t.Errorf("promoted: %v", err)
	}
}
