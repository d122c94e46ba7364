package main

import (
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node/api"
)

// members are the nodes of a world of three regions, each with a NATS server of
// its own in its process.
type members struct {
	bin, dir string
	env      []string // passwords and the cluster key
	peers    map[string][]map[string]string
}

// newMembers starts a backbone server in each region, and chooses the addresses
// of so many servers.
func newMembers(t *testing.T, bin string, servers map[string]int) (m *members, backbone map[string]*process) {
	t.Helper()
	m = &members{bin: bin, dir: t.TempDir(), peers: map[string][]map[string]string{}}
	m.env = append(os.Environ(), clusterKeyEnv+"="+events.FormatClusterKey(events.NewClusterKey()))
	for _, user := range []string{"SYS", "NODE", "OPERATOR", "SUBSCRIBER", "BACKBONE", "ROUTE"} {
		m.env = append(m.env, "NATS_"+user+"_PASSWORD=pw-"+strings.ToLower(user))
	}
	spine, gateways := map[string][]string{}, []string{}
	for region, n := range servers {
		leaf, gateway, cluster := free(t), free(t), free(t)
		gateways = append(gateways, "{ name: backbone-"+region+", urls: [nats://route:pw-route@"+gateway+"] }")
		spine[region] = []string{"NATS_NAME=b-" + region, "NATS_BACKBONE=backbone-" + region, "NATS_LEAF_LISTEN=" + leaf, "NATS_GATEWAY_LISTEN=" + gateway,
			"NATS_CLUSTER_LISTEN=" + cluster, "NATS_ROUTES=[nats://route:pw-route@" + cluster + "]"}
		var routes []string
		for i := range n {
			name := region + string(rune('1'+i))
			peer := map[string]string{"NATS_NAME": name, "NATS_REGION": region, "NATS_STORE": filepath.Join(m.dir, name, "nats"),
				"NATS_LISTEN": free(t), "NATS_CLUSTER_LISTEN": free(t), "NATS_LEAF_URLS": "[nats://backbone:pw-backbone@" + leaf + "]"}
			routes = append(routes, "nats://route:pw-route@"+peer["NATS_CLUSTER_LISTEN"])
			m.peers[region] = append(m.peers[region], peer)
		}
		for _, peer := range m.peers[region] {
			peer["NATS_ROUTES"] = "[" + strings.Join(routes, ",") + "]"
		}
	}
	backbone = map[string]*process{}
	for region, env := range spine {
		env = append(env, "NATS_GATEWAYS=["+strings.Join(gateways, ",")+"]")
		backbone[region] = natsFile(t, bin, "three-regions/backbone.conf", append(env, m.env...)...)
	}
	return m, backbone
}

// command is the node, or with "broker" the server alone, of the peer.
func (m *members) command(region string, i int, args ...string) *exec.Cmd {
	peer := m.peers[region][i]
	args = append(args, "--nats-config", filepath.Join("..", "..", "deploy", "nats", "three-regions", "server.conf"))
	if args[0] == "serve" {
		args = append(args, "--data", filepath.Join(m.dir, peer["NATS_NAME"]), "--node", peer["NATS_NAME"],
			"--listen", "127.0.0.1:0", "--metrics-listen", "", "--public-url", "https://sessions.example", "--max-bytes", "64MiB")
	}
	cmd := exec.Command(m.bin, args...)
	cmd.Env = slices.Clone(m.env)
	for k, v := range peer {
		cmd.Env = append(cmd.Env, k+"="+v)
	}
	return cmd
}

// start starts the commands at once, and returns them when all are ready.
func start(t *testing.T, cmds map[string]*exec.Cmd) map[string]*serving {
	t.Helper()
	var mu sync.Mutex // guards started
	var wg sync.WaitGroup
	started := map[string]*serving{}
	for name, cmd := range cmds {
		wg.Go(func() {
			p, err := startProcess(cmd)
			if err != nil {
				t.Errorf("%s: %v\n%s%s", name, err, p.out, p.stderr)
				return
			}
			t.Cleanup(p.kill)
			mu.Lock()
			defer mu.Unlock()
			started[name] = &serving{process: p, url: field(p.out.String(), "address")}
		})
	}
	if wg.Wait(); t.Failed() {
		t.FailNow()
	}
	return started
}

// Three regions of nodes with a server each, which are started at once: only one
// of them begins the cluster, the others wait for it. A user who is logged out
// is so in all regions, with one receipt, and a region that is cut off takes
// nothing from the others.
func testThreeRegions(t *testing.T, bin string) {
	m, backbone := newMembers(t, bin, map[string]int{"eu": 3, "us": 2, "ap": 2})
	nodes := start(t, map[string]*exec.Cmd{
		"eu1": m.command("eu", 0, "serve", "--init", "--nats-user", "operator"),
		"eu2": m.command("eu", 1, "serve"), "eu3": m.command("eu", 2, "serve"),
	})
	maps.Copy(nodes, start(t, map[string]*exec.Cmd{
		"us1": m.command("us", 0, "serve", "--init", "--join", "eu", "--replicas", "1", "--nats-user", "operator"),
		"us2": m.command("us", 1, "broker"),
		"ap1": m.command("ap", 0, "serve", "--init", "--join", "eu", "--replicas", "1", "--nats-user", "operator"),
		"ap2": m.command("ap", 1, "broker"),
	}))
	first, err := dataDir(filepath.Join(m.dir, "eu1")).readBootstrap()
	if err != nil || first == nil {
		t.Fatalf("bootstrap.json: %v, %v", first, err)
	}
	for _, s := range nodes {
		s.apiKey, s.app = first.APIKey, first.App
	}
	eu, us, ap := nodes["eu1"], nodes["us1"], nodes["ap1"]
	exchange(t, nodes["eu2"], us)
	exchange(t, us, ap)
	exchange(t, ap, nodes["eu3"])

	var tokens []string
	for _, s := range []*serving{eu, us, ap} {
		var made api.SessionAnswer
		if status := s.post(t.Context(), http.DefaultClient, "/v1/sessions", s.apiKey, api.CreateSession{UserID: "eve"}, &made); status != http.StatusCreated {
			t.Fatalf("create answers %d\n%s", status, s.stderr)
		}
		tokens = append(tokens, made.SessionToken)
	}
	var out api.RevokeAnswer
	status := ap.post(t.Context(), http.DefaultClient, "/v1/sessions/revoke", ap.apiKey, api.Revoke{UserID: "eve", Wait: "all"}, &out)
	if status != http.StatusOK || out.Receipt == nil || out.Receipt.Status != "complete" || strings.Count(out.Revision, ",") != 2 {
		t.Errorf("revoke everywhere answers %d, %+v", status, out)
	}
	for name, s := range nodes {
		for _, token := range tokens {
			if s.url == "" || strings.HasPrefix(s.url, "nats://") {
				continue // a server without a node
			}
			if got := s.verify(t, http.DefaultClient, token); got != http.StatusUnauthorized {
				t.Errorf("after the receipt %s answers %d", name, got)
			}
		}
	}

	backbone["us"].kill()
	exchange(t, eu, ap)
	exchange(t, ap, nodes["eu2"])
	exchange(t, us, us)
	// One member leaves in order; the others go on at once.
	if err := nodes["eu3"].signal(syscall.SIGTERM); err != nil {
		t.Errorf("ended with %v\n%s", err, nodes["eu3"].stderr)
	}
	exchange(t, eu, nodes["eu2"])
}
