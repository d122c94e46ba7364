package events_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/events/broker"
	"github.com/revocast/revocast/events/eventstest"
)

// deployed is where the configuration files are that operators use.
const deployed = "../deploy/nats"

// passwords are those of the users in accounts.conf.
var passwords = map[string]string{
	"NATS_SYS_PASSWORD": "sys-pw", "NATS_NODE_PASSWORD": "node-pw", "NATS_OPERATOR_PASSWORD": "operator-pw",
	"NATS_SUBSCRIBER_PASSWORD": "subscriber-pw", "NATS_BACKBONE_PASSWORD": "backbone-pw", "NATS_ROUTE_PASSWORD": "route-pw",
}

// freePort returns a loopback address on which nothing listens.
func freePort(t testing.TB) string {
	t.Helper()
	addr, err := eventstest.FreeAddr()
	if err != nil {
		t.Fatal(err)
	}
	return addr
}

// region3 is the environment of each of the three servers of region eu.
func region3(t testing.TB) []map[string]string {
	t.Helper()
	var envs []map[string]string
	var routes []string
	for i := range 3 {
		env := map[string]string{
			"NATS_NAME": fmt.Sprintf("n%d", i+1), "NATS_REGION": "eu", "NATS_STORE": t.TempDir(),
			"NATS_LISTEN": freePort(t), "NATS_CLUSTER_LISTEN": freePort(t),
		}
		routes = append(routes, "nats://route:"+passwords["NATS_ROUTE_PASSWORD"]+"@"+env["NATS_CLUSTER_LISTEN"])
		envs = append(envs, env)
	}
	for _, env := range envs {
		env["NATS_ROUTES"] = "[" + strings.Join(routes, ",") + "]"
	}
	return envs
}

// startFile starts the server of a deployed file with the environment.
func startFile(t *testing.T, file string, env map[string]string) *broker.Server {
	t.Helper()
	for _, vars := range []map[string]string{passwords, env} {
		for k, v := range vars {
			t.Setenv(k, v)
		}
	}
	s, err := broker.StartFile(broker.FileConfig{File: filepath.Join(deployed, file)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// startRegion3 starts the three servers and returns their addresses.
func startRegion3(t *testing.T) []string {
	t.Helper()
	var addrs []string
	for _, env := range region3(t) {
		startFile(t, "region3/server.conf", env)
		addrs = append(addrs, env["NATS_LISTEN"])
	}
	return addrs
}

// as connects to one of the addresses as the user; denied hears what is refused.
func as(t *testing.T, user string, denied chan<- error, addrs ...string) *nats.Conn {
	t.Helper()
	var urls []string
	for _, a := range addrs {
		urls = append(urls, "nats://"+user+":"+user+"-pw@"+a)
	}
	nc, err := events.Connect(events.ConnectConfig{URL: strings.Join(urls, ","), Name: t.Name(), OnError: func(err error) {
		if denied != nil && errors.Is(err, events.ErrDenied) {
			select {
			case denied <- err:
			default: // nobody listens any more
			}
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

// patient is a context that outlasts the elections of a cluster that starts.
func patient(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func newKeys(t testing.TB) *events.ClusterKeys {
	t.Helper()
	keys, err := events.NewClusterKeys(events.NewClusterKey())
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

// TestRegion3 has the log of three servers, as deployed, do all that a log must.
func TestRegion3(t *testing.T) {
	if testing.Short() {
		t.Skip("NOT TESTED with -short: three servers")
	}
	addrs := startRegion3(t)
	operator := as(t, "operator", nil, addrs...)
	awaitMeta(t, operator)
	js, err := jetstream.New(operator)
	if err != nil {
		t.Fatal(err)
	}
	eventstest.Test(t, func(t *testing.T, o eventstest.Options) eventstest.Env {
		ctx := patient(t)
		for _, name := range []string{"AUDIT_eu", "EV_eu", "CONFIG"} {
			if err := js.DeleteStream(ctx, name); err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
				t.Fatalf("delete %s: %v", name, err)
			}
		}
		c := events.ClusterConfig{
			Cluster: "c1", Region: "eu", Keys: newKeys(t), MaxBytes: 64 << 20, ConfigMaxBytes: 1 << 20, Replicas: 3,
		}
		if o.MaxBytes != 0 {
			c.MaxBytes = int64(o.MaxBytes)
		}
		if err := events.CreateCluster(ctx, operator, c); err != nil {
			t.Fatal(err)
		}
		nc := as(t, "node", nil, addrs...)
		log, err := events.Open(ctx, nc, events.StreamConfig{Region: "eu", Cluster: "c1", Replicas: 3})
		if err != nil {
			t.Fatal(err)
		}
		archive, err := events.OpenArchive(ctx, nc, events.ArchiveConfig{Region: "eu", Cluster: "c1"})
		if err != nil {
			t.Fatal(err)
		}
		if err := archive.Await(ctx); err != nil {
			t.Fatal(err)
		}
		return eventstest.Env{
			Log: log, Archive: archive,
			Break: func() {
				if err := nc.ForceReconnect(); err != nil {
					t.Error(err)
				}
			},
			Inject: func(m events.Message) error { return inject(nc, m) },
		}
	})
}

// TestRoles holds what each user of accounts.conf may do, and that an error says
// which permission is missing.
func TestRoles(t *testing.T) {
	addrs := startRegion3(t)
	ctx := patient(t)
	keys := newKeys(t)
	c := events.ClusterConfig{Cluster: "c1", Region: "eu", Keys: keys, MaxBytes: 64 << 20, ConfigMaxBytes: 1 << 20, Replicas: 3}
	nodeDenied := make(chan error, 16)
	node := as(t, "node", nodeDenied, addrs...)

	// Making a stream is the operator's.
	operator := as(t, "operator", nil, addrs...)
	awaitMeta(t, operator)
	begun := time.Now()
	err := events.CreateCluster(ctx, node, c)
	wantDenied(t, err, "publish to $JS.API.STREAM.CREATE.CONFIG")
	if took := time.Since(begun); took > 20*time.Second {
		t.Errorf("a denied creation took %v", took)
	}
	if err := events.CreateCluster(ctx, operator, c); err != nil {
		t.Fatal(err)
	}
	log, err := events.Open(ctx, node, events.StreamConfig{Region: "eu"})
	if err != nil {
		t.Fatal(err)
	}

	// A node may neither remove anything nor imitate the server.
	drain(nodeDenied)
	for _, subject := range []string{
		"live.eu.app.u.s.rev", "$JS.API.STREAM.DELETE.EV_eu", "$JS.API.STREAM.PURGE.EV_eu", "$JS.API.STREAM.UPDATE.EV_eu",
		"$JS.API.STREAM.MSG.DELETE.EV_eu", "$JS.eu.API.STREAM.DELETE.EV_eu", "$JS.us.API.STREAM.PURGE.EV_us",
		"$JS.API.STREAM.LEADER.STEPDOWN.EV_eu", "$JS.API.CONSUMER.LEADER.STEPDOWN.EV_eu.x",
		"$JS.us.API.STREAM.MSG.DELETE.EV_us", "$JS.us.API.STREAM.UPDATE.EV_us", "$JS.us.API.STREAM.CREATE.EV_us",
	} {
		if err := node.Publish(subject, []byte("{}")); err != nil {
			t.Fatal(err)
		}
		// The server names its own domain's API without the domain.
		wantDenied(t, next(t, nodeDenied), "publish to "+strings.Replace(subject, "$JS.eu.", "$JS.", 1))
	}
	// What is not denied: every kind of event, to every region's stream.
	for _, subject := range []string{"ev.eu.-.-.n1.hb", "ev.us.-.-.n1.snap", "ev.ap.app.u.s.rev", "ev._config.app.-.k.apikey"} {
		if err := node.Publish(subject, nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := node.FlushWithContext(ctx); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-nodeDenied:
		t.Errorf("a node needs it: %v", err)
	default:
	}
	// The link between regions removes nothing from another region's stream.
	linkDenied := make(chan error, 1)
	link := as(t, "backbone", linkDenied, addrs...)
	for _, act := range []string{"DELETE", "PURGE", "MSG.DELETE"} {
		if err := link.Publish("$JS.us.API.STREAM."+act+".EV_us", []byte("{}")); err != nil {
			t.Fatal(err)
		}
		wantDenied(t, next(t, linkDenied), "publish to $JS.us.API.STREAM."+act+".EV_us")
	}
	operatorDenied := make(chan error, 1)
	if err := as(t, "operator", operatorDenied, addrs...).Publish("live.eu.app.u.s.rev", nil); err != nil {
		t.Fatal(err)
	}
	wantDenied(t, next(t, operatorDenied), "publish to live.eu.app.u.s.rev")

	// A subscriber hears the revocations of its app, and nothing else.
	denied := make(chan error, 16)
	subscriber := as(t, "subscriber", denied, addrs...)
	for _, subject := range []string{"live.>", "live.eu.other.*.*.rev", "live.eu.app.*.*.st", "ev.>", "confirm.>", "query.>"} {
		if _, err := subscriber.SubscribeSync(subject); err != nil {
			t.Fatal(err)
		}
		wantDenied(t, next(t, denied), "subscribe to "+subject)
	}
	if err := subscriber.Publish("ev.eu.app.u.s.rev", nil); err != nil {
		t.Fatal(err)
	}
	wantDenied(t, next(t, denied), "publish to ev.eu.app.u.s.rev")
	sub, err := subscriber.SubscribeSync("live.*.app.*.*.rev")
	if err != nil {
		t.Fatal(err)
	}
	if err := subscriber.FlushWithContext(ctx); err != nil {
		t.Fatal(err)
	}
	for _, app := range []string{"other", "app"} {
		m := benchMessage(t, keys, 1)
		m.Subject = "ev.eu." + app + ".u.s.rev"
		if _, err := log.Append(ctx, m, events.Expectation{}); err != nil {
			t.Fatal(err)
		}
	}
	m, err := sub.NextMsgWithContext(ctx)
	if err != nil || m.Subject != "live.eu.app.u.s.rev" {
		t.Errorf("the subscriber hears %v, %v", m, err)
	}

	// A request that is denied says so.
	_, err = events.Open(ctx, subscriber, events.StreamConfig{Region: "eu"})
	if !errors.Is(err, events.ErrDenied) {
		t.Errorf("open without permissions: %v", err)
	}
}

// awaitMeta returns when the cluster has a leader for its streams.
func awaitMeta(t *testing.T, nc *nats.Conn) {
	t.Helper()
	ctx := patient(t)
	for {
		_, err := events.Open(ctx, nc, events.StreamConfig{Region: "eu"})
		if errors.Is(err, events.ErrNoStream) {
			return
		}
		if ctx.Err() != nil {
			t.Fatalf("no cluster: %v", err)
		}
	}
}

func drain(ch <-chan error) {
	for {
		select {
		case <-ch:
		default:
			return
		}
	}
}

// next returns what is denied next.
func next(t *testing.T, denied <-chan error) error {
	t.Helper()
	select {
	case err := <-denied:
		return err
	case <-time.After(10 * time.Second):
		t.Fatal("nothing is denied")
		return nil
	}
}

func wantDenied(t *testing.T, err error, what string) {
	t.Helper()
	if !errors.Is(err, events.ErrDenied) || !strings.Contains(err.Error(), what) || strings.Contains(err.Error(), "\n") {
		t.Errorf("%v, want it to be denied to %s", err, what)
	}
}

// TestTwoRegions joins a region to a cluster over the deployed link: each side
// writes to the other's stream and follows it.
func TestTwoRegions(t *testing.T) {
	leaf := freePort(t)
	env := func() map[string]string {
		return map[string]string{
			"NATS_LISTEN": freePort(t), "NATS_STORE": t.TempDir(), "NATS_LEAF_LISTEN": leaf,
			"NATS_LEAF_URL": "nats://backbone:" + passwords["NATS_BACKBONE_PASSWORD"] + "@" + leaf,
		}
	}
	envs := map[string]map[string]string{"eu": env(), "us": env()}
	ctx, keys := patient(t), newKeys(t)
	conns := map[string]*nats.Conn{}
	for _, region := range []string{"eu", "us"} {
		startFile(t, "two-regions/"+region+".conf", envs[region])
		conns[region] = as(t, "node", nil, envs[region]["NATS_LISTEN"])
		c := events.ClusterConfig{Cluster: "c1", Region: region, Keys: keys, MaxBytes: 64 << 20, ConfigMaxBytes: 1 << 20}
		if region == "us" {
			c.Join = "eu"
		}
		if err := events.CreateCluster(ctx, as(t, "operator", nil, envs[region]["NATS_LISTEN"]), c); err != nil {
			t.Fatal(err)
		}
	}
	for at, nc := range conns {
		config, err := events.Open(ctx, nc, events.StreamConfig{Region: events.ConfigRegion, Domain: "eu"})
		if err != nil {
			t.Fatalf("CONFIG from %s: %v", at, err)
		}
		numbers, err := config.Regions(ctx, keys)
		if err != nil || numbers["eu"] != 2 || numbers["us"] != 3 {
			t.Errorf("regions from %s: %v, %v", at, numbers, err)
		}
		for region := range conns {
			testAcross(t, ctx, nc, keys, at, region, region)
		}
	}
	archive, err := events.OpenArchive(ctx, conns["us"], events.ArchiveConfig{Region: "us", Cluster: "c1"})
	if err != nil {
		t.Fatal(err)
	}
	if err := archive.Await(ctx); err != nil {
		t.Fatal(err)
	}
	// The archive of the second region has the administration of the first.
	for seen := false; !seen; {
		err := archive.History(ctx, []string{"ev._config.>"}, func(events.Archived) bool { seen = true; return false })
		if err != nil {
			t.Fatal(err)
		}
	}
}

// testAcross writes to the region's stream from another place and follows it there.
func testAcross(t *testing.T, ctx context.Context, nc *nats.Conn, keys *events.ClusterKeys, at, region, domain string) {
	t.Helper()
	log, err := events.Open(ctx, nc, events.StreamConfig{Region: region, Cluster: "c1", Domain: domain})
	if err != nil {
		t.Fatalf("%s from %s: %v", region, at, err)
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	caught, applied := make(chan struct{}), make(chan uint64, 1024)
	wg.Go(func() {
		err := log.Follow(ctx, events.Follow{CaughtUp: func() { close(caught) }, Apply: func(e events.Entry) error {
			applied <- e.Seq
			return nil
		}})
		if err != nil {
			t.Errorf("follow %s from %s: %v", region, at, err)
		}
	})
	select {
	case <-caught:
	case <-ctx.Done():
		t.Fatalf("%s is not followed from %s", region, at)
	}
	var last uint64
	for i := range 50 {
		m := benchMessage(t, keys, i)
		m.Subject = fmt.Sprintf("ev.%s.app.%s.s%d.st", region, at, i)
		if last, err = log.Append(ctx, m, events.Expectation{}); err != nil {
			t.Fatalf("append to %s from %s: %v", region, at, err)
		}
	}
	for before := uint64(0); before < last; {
		select {
		case seq := <-applied:
			if seq <= before {
				t.Errorf("%s at %s: %d after %d", region, at, seq, before)
			}
			before = seq
		case <-ctx.Done():
			t.Fatalf("%s at %s: followed to %d, acknowledged %d", region, at, before, last)
		}
	}
}
