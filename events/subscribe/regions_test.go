package subscribe_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/events/broker"
	"github.com/revocast/revocast/events/eventstest"
	"github.com/revocast/revocast/events/subscribe"
)

// serveAll starts the servers of a deployed file, with these environments.
func serveAll(t *testing.T, envs []map[string]string, file func(i int) string) {
	t.Helper()
	for i, vars := range envs {
		var env []string
		for _, u := range users {
			env = append(env, "NATS_"+u+"_PASSWORD=pw")
		}
		for k, v := range vars {
			env = append(env, k+"="+v)
		}
		srv, err := startFile("../../deploy/nats/"+file(i), env)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(srv.Close)
	}
}

func freeAddr(t *testing.T) string {
	t.Helper()
	addr, err := eventstest.FreeAddr()
	if err != nil {
		t.Fatal(err)
	}
	return addr
}

// threeEnvs returns the environments of the three servers of a region, and their
// addresses.
func threeEnvs(t *testing.T) (envs []map[string]string, urls []string) {
	t.Helper()
	var routes []string
	for i := range 3 {
		env := map[string]string{
			"NATS_NAME": fmt.Sprintf("n%d", i+1), "NATS_REGION": region, "NATS_STORE": t.TempDir(),
			"NATS_LISTEN": freeAddr(t), "NATS_CLUSTER_LISTEN": freeAddr(t),
		}
		routes, urls = append(routes, "nats://route:pw@"+env["NATS_CLUSTER_LISTEN"]), append(urls, env["NATS_LISTEN"])
		envs = append(envs, env)
	}
	for _, env := range envs {
		env["NATS_ROUTES"] = "[" + strings.Join(routes, ",") + "]"
	}
	return envs, urls
}

// TestThreeServers has the leaders of the stream and of the durable change while
// revocations go on.
func TestThreeServers(t *testing.T) {
	if testing.Short() {
		t.Skip("NOT TESTED with -short: three servers")
	}
	t.Parallel()
	envs, urls := threeEnvs(t)
	serveAll(t, envs, func(int) string { return "region3/server.conf" })
	s := &site{addr: urls[0], replicas: 3}
	s.begin(t)
	w := newTold()
	s.addr = urls[1]
	run(t, s.subscriber(t), w.handle)
	operator := s.connect(t, "operator", nil)
	const n, rounds = 300, 1
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { s.revoke(t, 0, n) })
	for round := range rounds {
		w.await(t, (round+1)*n/(rounds+1))
		for _, subject := range []string{"$JS.API.CONSUMER.LEADER.STEPDOWN.EV_eu.rev_app", "$JS.API.STREAM.LEADER.STEPDOWN.EV_eu"} {
			// Who steps down may do so without an answer.
			if err := operator.Publish(subject, nil); err != nil {
				t.Fatal(err)
			}
		}
	}
	wg.Wait()
	// An append whose leader stepped down before it answered may be stored twice.
	info, err := s.log.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	seen := map[events.SID]bool{}
	var all []subscribe.Revocation
	for k := n; len(seen) < n; k++ {
		all = w.await(t, k)
		for _, r := range all {
			seen[r.SID] = true
		}
	}
	t.Logf("%d told of %d in the log, %d late", len(all), info.LastSeq, wantSound(t, all))
}

// TestBehind has the durable led by a server that has just been started again and
// holds nothing yet of what was told last: the log did not go backwards.
func TestBehind(t *testing.T) {
	if testing.Short() {
		t.Skip("NOT TESTED with -short: three servers")
	}
	envs, urls := threeEnvs(t)
	file := unsynced(t)
	servers := make([]*broker.Server, len(envs))
	serve := func(i int) {
		var env []string
		for _, u := range users {
			env = append(env, "NATS_"+u+"_PASSWORD=pw")
		}
		for k, v := range envs[i] {
			env = append(env, k+"="+v)
		}
		var err error
		if servers[i], err = startFile(file, env); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(servers[i].Close)
	}
	for i := range envs {
		serve(i)
	}
	s := &site{addr: urls[0], replicas: 3}
	s.begin(t)
	sub, w := s.subscriber(t), newTold()
	sub.Rewound = func(context.Context) error { t.Error("rewound"); return nil }
	run(t, sub, w.handle)
	s.revoke(t, 0, 50)
	w.await(t, 50)

	servers[2].Close()
	var wg sync.WaitGroup
	for k := range 16 { // takes it a second or two to catch up with
		wg.Go(func() {
			for i := range 40 {
				m := s.message(t, "other", 1000*k+i)
				m.Payload = []byte(`{"x":"` + strings.Repeat("x", 12<<10) + `"}`)
				s.append(t, m)
			}
		})
	}
	wg.Wait()
	s.revoke(t, 50, 40)
	w.await(t, 90)
	serve(2)
	operator := s.connect(t, "operator", nil)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for led, tries := false, 0; !led; <-tick.C {
		if tries++; tries > 500 {
			t.Skip("NOT TESTED: the server that was started again does not come to lead")
		}
		// Each is answered later or not at all while there is an election.
		if err := operator.Publish("$JS.API.CONSUMER.LEADER.STEPDOWN.EV_eu.rev_app", []byte(`{"placement":{"preferred":"n3"}}`)); err != nil {
			t.Fatal(err)
		}
		m, err := operator.Request("$JS.API.CONSUMER.INFO.EV_eu.rev_app", nil, time.Second)
		led = err == nil && strings.Contains(string(m.Data), `"leader":"n3"`)
	}
	s.revoke(t, 90, 10)
	seen := map[events.SID]bool{} // what a leader that stepped down stored is stored twice
	for n := 100; len(seen) < 100; n++ {
		for _, r := range w.await(t, n) {
			seen[r.SID] = true
		}
	}
	wantSound(t, w.copied())
}

// unsynced returns the file of a region's server, which does not sync here.
func unsynced(t *testing.T) string {
	t.Helper()
	text := map[string]string{}
	for _, name := range []string{"region3/server.conf", "accounts.conf"} {
		raw, err := os.ReadFile(filepath.Join("../../deploy/nats", name))
		if err != nil {
			t.Fatal(err)
		}
		text[name] = string(raw)
	}
	file := filepath.Join(t.TempDir(), "server.conf")
	whole := strings.NewReplacer("sync_interval: always", `sync_interval: "1m"`, "include ../accounts.conf", text["accounts.conf"]).Replace(text["region3/server.conf"])
	if err := os.WriteFile(file, []byte(whole), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// TestTwoRegions has a tenant hear of both regions from one of them.
func TestTwoRegions(t *testing.T) {
	t.Parallel()
	leaf := freeAddr(t)
	var envs []map[string]string
	regions := []string{"eu", "us"}
	for range regions {
		envs = append(envs, map[string]string{
			"NATS_LISTEN": freeAddr(t), "NATS_STORE": t.TempDir(), "NATS_LEAF_LISTEN": leaf, "NATS_LEAF_URL": "nats://backbone:pw@" + leaf,
		})
	}
	serveAll(t, envs, func(i int) string { return "two-regions/" + regions[i] + ".conf" })
	keys, err := events.NewClusterKeys(events.NewClusterKey())
	if err != nil {
		t.Fatal(err)
	}
	logs, told := map[string]*events.JetStream{}, map[string]*told{}
	var conns []*nats.Conn
	for i, name := range regions {
		s := &site{addr: envs[i]["NATS_LISTEN"]}
		operator := s.connect(t, "operator", nil)
		c := events.ClusterConfig{Cluster: "c1", Region: name, Keys: keys, MaxBytes: 64 << 20, ConfigMaxBytes: 1 << 20}
		if name == "us" {
			c.Join = "eu"
		}
		if err := events.CreateCluster(t.Context(), operator, c); err != nil {
			t.Fatal(err)
		}
		if err := events.CreateSubscriber(t.Context(), operator, events.SubscriberConfig{Region: name, App: app}); err != nil {
			t.Fatal(err)
		}
		conns = append(conns, s.connect(t, "subscriber", nil))
		if logs[name], err = events.Open(t.Context(), s.connect(t, "node", nil), events.StreamConfig{Region: name}); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range regions {
		told[name] = newTold()
		run(t, &subscribe.Subscriber{Conn: conns[0], Region: name, Domain: name, App: app, Keys: keys, OnError: func(err error) { t.Log(name, err) }}, told[name].handle)
	}
	for i, name := range regions {
		for k := range 20 {
			e := &events.Revoke{App: app, User: "ada", SID: sid(k), At: 1}
			e.SID[0] = byte(2 + i)
			m, err := keys.Encode(name, e, nil, time.Hour)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := logs[name].Append(t.Context(), m, events.Expectation{}); err != nil {
				t.Fatal(err)
			}
		}
		all := told[name].await(t, 20)
		if r := all[19]; r.Position.Stream != name || r.Stream != byte(2+i) || !r.Verified || r.Cursor.Seq != r.Position.Seq {
			t.Errorf("told of %s: %+v", name, r)
		}
		wantSound(t, all)
	}
}
